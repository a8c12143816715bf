//! Where a configuration comes from, and how the layers are laid: built-in default, file,
//! environment, arguments; each wins over those before it. Owns the names of environment variables.

use std::ffi::OsString;
use std::path::PathBuf;

use super::check;
use super::problem::{Origin, Problem, Problems, Wrong};
use super::section::{Section, elsewhere};
use super::table::Config;
use super::tree::{self, Node, Value};

/// What every environment variable of ours begins with.
const PREFIX: &str = "RINGMQ_";

/// Problems that are told one by one.
pub(super) const TOLD: usize = 500;

/// Everything a configuration is read from. Kept, so that a reload reads the same sources again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sources {
    /// The file; `None` means built-in defaults.
    pub file: Option<PathBuf>,
    /// Environment variables that begin with `RINGMQ_`: name and value.
    pub environment: Vec<(String, String)>,
    /// The `KEY=VALUE` of each `--set`, in order.
    pub set: Vec<String>,
}

impl Sources {
    /// The sources of this process: its environment, and what the command line named.
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Sources {
        Sources { file, environment: ours(std::env::vars_os()), set }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Every problem there is, those of the file first and in its order; of more than 500 the rest
    /// as a number.
    pub fn load(&self) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let root = self.read_file().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        match root {
            Some((name, bytes)) => self.finish(parse(&name, bytes, &mut problems), problems),
            None => self.finish(nothing(), problems),
        }
    }

    /// The same, with `bytes` in place of the file's content and `name` in place of its path.
    ///
    /// # Errors
    /// As [`Sources::load`].
    pub fn load_from(&self, name: &str, bytes: &[u8]) -> Result<Config, Problems> {
        let mut problems = Vec::new();
        let root = parse(name, bytes.to_vec(), &mut problems);
        self.finish(root, problems)
    }

    /// Variables that begin like ours and are nobody's: sentences for the log and for
    /// `--test-config`. Images and shells set such (`RINGMQ_VERSION`).
    pub fn remarks(&self) -> Vec<String> {
        let foreign = self.environment.iter().filter(|(name, _)| is_foreign(name));
        let remark = |(name, _): &(String, String)| {
            let hint = match elsewhere(&key_of(name)) {
                Some(hint) => hint,
                None => "`ringmq config reference` lists the keys".to_owned(),
            };
            format!("{name}: this environment variable names no key and is not used; {hint}")
        };
        foreign.map(remark).collect()
    }

    /// Lays the other layers over the file's tree, and checks what comes of it.
    fn finish(&self, mut root: Node, mut problems: Vec<Problem>) -> Result<Config, Problems> {
        for (name, value) in self.environment.iter().filter(|(name, _)| !is_foreign(name)) {
            let path = key_of(name);
            lay(&mut root, &path, value, Origin::named(name), &mut problems);
        }
        for argument in &self.set {
            let origin = Origin::named(&format!("--set {argument}"));
            match argument.split_once('=') {
                Some((path, value)) => lay(&mut root, path.trim(), value, origin, &mut problems),
                None => {
                    let fix = "write --set KEY=VALUE, such as --set mqtt.max_qos=1";
                    problems.push(Wrong::new("there is no =", fix).at(&origin, ""));
                }
            }
        }
        let mut config = Config::read_section(&root, "", &mut problems);
        check::finish(&mut config, &root, &mut problems);
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|problem| problem.origin.line_number().unwrap_or(usize::MAX));
        if problems.len() > TOLD {
            let more = format!("{} more problems are not listed", problems.len() - TOLD);
            let first = problems[TOLD].origin.clone();
            problems.truncate(TOLD);
            problems.push(Wrong::new(more, "correct these first").at(&first, ""));
        }
        Err(Problems(problems))
    }

    /// The file's name and content; `None` without a file.
    fn read_file(&self) -> Result<Option<(String, Vec<u8>)>, Problem> {
        let Some(path) = &self.file else { return Ok(None) };
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some((name, bytes))),
            Err(error) => {
                let what = format!("the configuration file cannot be read ({error})");
                let fix = "check the path given with --config and its permissions";
                Err(Wrong::new(what, fix).at(&Origin::named(&name), ""))
            }
        }
    }
}

fn nothing() -> Node {
    Node { origin: Origin::built_in(), value: Value::Nothing }
}

/// A file's content as a tree; empty when there is no sense in it.
fn parse(name: &str, bytes: Vec<u8>, problems: &mut Vec<Problem>) -> Node {
    let read = match String::from_utf8(bytes) {
        Ok(text) => tree::read_file(name, &text, problems),
        Err(_) => {
            let wrong = Wrong::new("the file is not UTF-8 text", "save it as UTF-8");
            Err(wrong.at(&Origin::named(name), ""))
        }
    };
    read.unwrap_or_else(|problem| {
        problems.push(problem);
        nothing()
    })
}

/// Lays one value of the environment or an argument on the tree.
fn lay(root: &mut Node, path: &str, value: &str, origin: Origin, problems: &mut Vec<Problem>) {
    let steps: Vec<&str> = path.split('.').collect();
    if steps.iter().any(|step| step.is_empty()) {
        let wrong = Wrong::new(
            "the key has an empty part",
            "write keys as mqtt.max_qos (in the environment: RINGMQ_MQTT__MAX_QOS)",
        );
        return problems.push(wrong.at(&origin, path));
    }
    // What is not YAML is taken as it stands, so that an IPv6 address needs no quotes inside the
    // shell's.
    let node = tree::read(value, &|_| origin.clone(), problems).unwrap_or_else(|_| Node {
        origin: origin.clone(),
        value: Value::Scalar { text: value.to_owned(), quoted: false },
    });
    if let Err(wrong) = tree::place(root, &steps, node) {
        problems.push(wrong.at(&origin, path));
    }
}

/// The variables that are meant for us. A name or value that is not UTF-8 is kept with replacement
/// characters, so that it is reported as what it is and not skipped.
fn ours(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let mut ours: Vec<(String, String)> = variables
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_variable(name))
        .collect();
    ours.sort();
    ours
}

/// The dotted key that a variable names.
fn key_of(name: &str) -> String {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    path.to_ascii_lowercase().replace("__", ".")
}

/// True for a variable that is not meant for us: without `__` to lead into a section, it begins
/// with a word with which no key begins.
fn is_foreign(name: &str) -> bool {
    let key = key_of(name);
    let word = key.split(['.', '_', '-']).next().unwrap_or_default();
    !key.contains('.') && !word.is_empty() && !Config::NAMES.iter().any(|key| key.starts_with(word))
}

/// Kubernetes gives every container variables for every Service: a Service called `ringmq`, or
/// `ringmq-anything`, makes `RINGMQ_SERVICE_HOST`, `RINGMQ_PORT_1883_TCP_ADDR` and so on. They are
/// not ours, and must not keep us from starting.
fn is_service_variable(name: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let ends = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];
    let inside = ["_SERVICE_PORT_", "_PORT_"];
    ends.iter().any(|end| name.ends_with(end)) || inside.iter().any(|part| name.contains(part))
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
