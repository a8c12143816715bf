//! A scenario file with several parts. Each part is a generator process of its own, so that the
//! parts use several cores and do not disturb each other's timing; their results are merged.
//!
//! The parts start in the file's order, each when all clients of the previous one are connected.
//! When the last part has ended, the others are told to end.

use crate::arguments;
use crate::arguments::file::{ScenarioRun, Script};
use crate::broker;
use crate::clock::{self, SECOND};
use crate::merge;
use crate::outcome::{self, Verdict};
use crate::stop;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Nanoseconds that the other parts have for messages under way after the last part has ended.
const GRACE: u64 = 2 * SECOND;
/// Nanoseconds that a part has for ending after it was told to.
const ENDING: u64 = 40 * SECOND;
const LOOK: Duration = Duration::from_millis(20);
/// Exit code of a part for which a condition of `--fail-if` holds.
const CONDITION: i32 = 3;

struct Running {
    name: String,
    child: Child,
    result: PathBuf,
}

/// Runs what the file describes.
pub fn run(script: Script) -> Result<Verdict, String> {
    if !script.merged {
        let words = script.parts.into_iter().next().map(|part| part.words).unwrap_or_default();
        let job = arguments::parse_from(words);
        let job = job.map_err(|error| format!("{}: {error}", script.path.display()))?;
        return crate::perform(job);
    }
    let scratch = std::env::temp_dir().join(format!("ringmq-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).map_err(|e| format!("{}: {e}", scratch.display()))?;
    let done = together(&script, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    done
}

fn together(script: &Script, scratch: &Path) -> Result<Verdict, String> {
    let mut running: Vec<Running> = Vec::new();
    for (index, part) in script.parts.iter().enumerate() {
        match begin(part, index, scratch) {
            Ok(part) => running.push(part),
            Err(why) => {
                for part in &mut running {
                    let pid = part.child.id() as i32;
                    broker::end(&mut part.child, &[pid]);
                }
                return Err(why);
            }
        }
    }
    if let Some((last, others)) = running.split_last_mut() {
        while !stop::requested() && !ended(&mut last.child) {
            std::thread::sleep(LOOK);
        }
        let limit = clock::now() + GRACE;
        while !stop::requested()
            && clock::now() < limit
            && !others.iter_mut().all(|part| ended(&mut part.child))
        {
            std::thread::sleep(LOOK);
        }
    }
    let pids: Vec<i32> = running.iter().map(|part| part.child.id() as i32).collect();
    for (part, pid) in running.iter_mut().zip(pids) {
        if !ended(&mut part.child) {
            broker::signal(&[pid], libc::SIGTERM);
        }
    }
    finish(script, running)
}

/// Starts a part and waits until its clients are connected.
fn begin(part: &ScenarioRun, index: usize, scratch: &Path) -> Result<Running, String> {
    let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let ready = scratch.join(format!("{index}.ready"));
    let result = part.json.clone().unwrap_or_else(|| scratch.join(format!("{index}.json")));
    let mut command = Command::new(own);
    command.args(&part.words[1..]).arg("--json").arg(&result).arg("--ready-file").arg(&ready);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let name = format!("part {} ({})", index + 1, part.command);
    let child = broker::spawn(&mut command).map_err(|e| format!("{name}: {e}"))?;
    let mut running = Running { name, child, result };
    while !stop::requested() && !ready.exists() && !ended(&mut running.child) {
        std::thread::sleep(LOOK);
    }
    Ok(running)
}

fn ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

/// Waits for a part that was told to end, and kills it when it does not end.
fn end(child: &mut Child) {
    let pid = child.id() as i32;
    let limit = clock::now() + ENDING;
    while !ended(child) && clock::now() < limit {
        std::thread::sleep(LOOK);
    }
    broker::end(child, &[pid]);
}

fn finish(script: &Script, running: Vec<Running>) -> Result<Verdict, String> {
    let (mut verdict, mut failures, mut parts) = (Verdict::Done, Vec::new(), Vec::new());
    for Running { name, mut child, result } in running {
        end(&mut child);
        match child.wait().ok().and_then(|status| status.code()) {
            Some(0) => {}
            Some(CONDITION) => verdict = Verdict::Failed,
            Some(code) => failures.push(format!("{name} ended with exit code {code}")),
            None => failures.push(format!("{name} was killed")),
        }
        if let Ok(file) = outcome::read(&result) {
            parts.push(merge::ResultFile { name, file });
        }
    }
    if !parts.is_empty() {
        let mut merged = merge::merge(&parts)?;
        verdict = script.outcome.judge(&mut merged).and(verdict);
        merge::tell(&merged, &script.outcome)?;
    }
    if failures.is_empty() { Ok(verdict) } else { Err(failures.join("; ")) }
}
