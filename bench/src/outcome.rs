//! What happens to a result: its conditions are judged and its file is written.

use crate::arguments::Outcome;
use crate::threshold;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// How a job ended that ran to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No condition of `--fail-if` holds.
    Done,
    /// A condition of `--fail-if` holds.
    Failed,
}

impl Verdict {
    /// Judges `report` by `conditions` and writes the verdicts into `report`.
    pub fn of(conditions: &[threshold::Threshold], report: &mut Value) -> Verdict {
        if threshold::judge(conditions, report) { Verdict::Failed } else { Verdict::Done }
    }

    /// The worse of two verdicts.
    pub fn and(self, other: Verdict) -> Verdict {
        if self == Verdict::Failed { self } else { other }
    }
}

impl Outcome {
    /// Judges `report` by the conditions of `--fail-if`.
    pub fn judge(&self, report: &mut Value) -> Verdict {
        Verdict::of(&self.fail_if, report)
    }

    /// Whether the result goes to standard output.
    pub fn to_output(&self) -> bool {
        self.json.as_deref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// Writes a result to `path`, whose directory is created; `-` stands for standard output.
pub fn write(path: &Path, result: &Value) -> Result<(), String> {
    let text = serde_json::to_string_pretty(result).map_err(|e| e.to_string())? + "\n";
    if path.as_os_str() == "-" {
        print!("{text}");
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads a result file.
pub fn read(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string());
    let parsed = text.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
    parsed.map_err(|why| format!("{}: {why}", path.display()))
}
