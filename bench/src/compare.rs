//! `compare` and `floor`: several brokers and the same scenarios in one run.
//!
//! Each measurement has a fresh broker and a fresh generator process, so no state is carried over.
//! Repeats go round through all brokers, so that a minute of noise on the machine disturbs all of
//! them.

use crate::arguments;
use crate::broker::{self, Broker, Candidate};
use crate::clock::{self, SECOND};
use crate::machine;
use crate::outcome::{self, Verdict};
use crate::plot;
use crate::report::{self, Row};
use crate::scenario::Scenario;
use crate::stop;
use crate::threshold::Threshold;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Nanoseconds beyond the measurement's length after which a generator process is ended.
const OVERTIME: u64 = 240 * SECOND;

/// Which brokers are compared, how, and what becomes of the results.
pub struct Comparison {
    /// Brokers, in the order of the report.
    pub candidates: Vec<Candidate>,
    /// The row that ratios refer to.
    pub reference: String,
    /// What to measure: a scenario, its title and further arguments for the generator.
    pub cases: Vec<Case>,
    /// Rounds of measurement.
    pub repeat: u32,
    /// Measured seconds of each run.
    pub seconds: f64,
    /// Warm-up seconds of each run.
    pub warmup: f64,
    /// Where the result file goes; `None` for `bench/out/`.
    pub json: Option<PathBuf>,
    /// Where a drawing goes; `None` draws nothing.
    pub plot: Option<plot::Target>,
    /// Conditions that make the comparison fail.
    pub fail_if: Vec<Threshold>,
    /// Candidates that were left out, and why.
    pub absent: Vec<(String, String)>,
}

/// One row group of the report.
pub struct Case {
    /// Key in the result file.
    pub name: String,
    /// Heading in the table.
    pub title: String,
    /// The scenario that is run.
    pub scenario: &'static Scenario,
    /// Appended to the generator's arguments.
    pub arguments: Vec<String>,
}

impl Comparison {
    /// Runs everything, prints the tables and writes the result file.
    pub fn run(&self) -> Result<Verdict, String> {
        let machine = machine::describe();
        println!("{}", self.heading(&machine));
        let scratch = std::env::temp_dir().join(format!("ringmq-bench-{}", std::process::id()));
        let mut results = Map::new();
        let mut commands = Map::new();
        let outcome = self.cases.iter().try_for_each(|case| {
            let rows = self.case(case, &scratch, &mut commands)?;
            println!("{}", report::table(&case.title, &rows, &self.reference));
            let mut entry = Map::new();
            for row in rows {
                let value = row.result.unwrap_or_else(|why| json!({ "error": why }));
                entry.insert(row.name, value);
            }
            results.insert(case.name.clone(), Value::Object(entry));
            Ok(())
        });
        let _ = fs::remove_dir_all(&scratch);
        let mut verdict = Verdict::Done;
        if !results.is_empty() {
            let mut results = Value::Object(results);
            if outcome.is_ok() {
                verdict = Verdict::of(&self.fail_if, &mut results);
            }
            self.write(&machine, &commands, results)?;
        }
        outcome.map(|()| verdict)
    }

    fn heading(&self, machine: &Value) -> String {
        let text = |key: &str| machine[key].to_string().replace('"', "");
        let mut heading = format!(
            "{} · {} CPUs ({}) · {} · Linux {} · load average {}\n\
             {} s measured, {} s warm-up, {} round(s), nothing pinned by the generator. The \
             machine may be shared:\nread the ratios (×, against {}), not the figures.\n",
            text("date"),
            text("cpus"),
            text("cpu"),
            text("memory"),
            text("kernel"),
            text("load_average"),
            self.seconds,
            self.warmup,
            self.repeat,
            self.reference,
        );
        for (name, why) in &self.absent {
            heading.push_str(&format!("{name} is left out: {why}\n"));
        }
        heading
    }

    fn case(
        &self,
        case: &Case,
        scratch: &Path,
        commands: &mut Map<String, Value>,
    ) -> Result<Vec<Row>, String> {
        let mut runs: Vec<Vec<Value>> = vec![Vec::new(); self.candidates.len()];
        let mut failures: Vec<Option<String>> = vec![None; self.candidates.len()];
        for _ in 0..self.repeat {
            for (index, candidate) in self.candidates.iter().enumerate() {
                if stop::requested() {
                    return Err("interrupted".into());
                }
                match self.measure(case, candidate, scratch, commands) {
                    Ok(report) => runs[index].push(report),
                    Err(_) if stop::requested() => return Err("interrupted".into()),
                    Err(why) => failures[index] = Some(why),
                }
            }
        }
        let rows = self.candidates.iter().zip(runs).zip(failures);
        let rows = rows.map(|((candidate, runs), failure)| {
            let result = match failure {
                Some(why) => Err(why),
                None => Ok(report::median(&runs)),
            };
            Row { name: candidate.name.clone(), result }
        });
        Ok(rows.collect())
    }

    fn measure(
        &self,
        case: &Case,
        candidate: &Candidate,
        scratch: &Path,
        commands: &mut Map<String, Value>,
    ) -> Result<Value, String> {
        let queues = case.scenario.kind.fills_queues();
        let broker = candidate.start(queues, scratch, None)?;
        let key = if queues {
            format!("{} (window 100)", candidate.name)
        } else {
            candidate.name.clone()
        };
        commands.entry(key).or_insert_with(|| broker.started_as.clone().into());
        let echo = matches!(case.scenario.kind, crate::scenario::ScenarioKind::Echo { .. });
        let raw = echo && matches!(candidate.kind, broker::BrokerKind::EchoFloor);
        self.generate(case, &broker, raw, scratch)
            .map_err(|e| format!("{e}{}", broker.last_words()))
    }

    /// Runs the generator as a child, in bounded time, and reads its report.
    fn generate(
        &self,
        case: &Case,
        broker: &Broker,
        raw: bool,
        scratch: &Path,
    ) -> Result<Value, String> {
        let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
        let mut command = Command::new(own);
        // The child writes to files: a pipe that this process does not read would block it when
        // full.
        let (written, said) = (scratch.join("report.json"), scratch.join("generator.log"));
        let log = fs::File::create(&said).map_err(|e| format!("{}: {e}", said.display()))?;
        command.args(["run", "--scenario", case.scenario.name, "--json"]).arg(&written);
        command.args(["--target", &broker.target.to_string(), "--pid", &broker.pid.to_string()]);
        for (option, value) in [("seconds", self.seconds), ("warmup", self.warmup)] {
            if arguments::scenario::uses(&case.scenario.kind, option) {
                command.arg(format!("--{option}={value}"));
            }
        }
        command.args(&case.arguments);
        if raw {
            command.arg("--raw");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = broker::spawn(&mut command).map_err(|e| format!("generator: {e}"))?;
        let limit = clock::now() + clock::nanos(self.seconds + self.warmup) + OVERTIME;
        while matches!(child.try_wait(), Ok(None)) {
            if stop::requested() || clock::now() > limit {
                let pid = child.id() as i32;
                broker::end(&mut child, &[pid]);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = child.wait().map_err(|e| format!("generator: {e}"))?;
        if !status.success() {
            let text = fs::read_to_string(&said).unwrap_or_default();
            let told =
                |line: &&str| line.starts_with("ringmq-bench: ") || line.starts_with("error: ");
            let last = text.lines().rfind(told).or(text.lines().last()).unwrap_or_default();
            return Err(last.trim().trim_start_matches("ringmq-bench: ").to_string());
        }
        let text = fs::read_to_string(&written).map_err(|e| format!("generator's report: {e}"))?;
        let mut report: Value =
            serde_json::from_str(&text).map_err(|e| format!("generator's report: {e}"))?;
        // A series over time belongs to one run; the medians of several runs have none.
        if let Some(report) = report.as_object_mut() {
            report.remove("series");
        }
        without_histograms(&mut report);
        Ok(report)
    }

    fn write(
        &self,
        machine: &Value,
        commands: &Map<String, Value>,
        mut results: Value,
    ) -> Result<(), String> {
        let path = self.json.clone().unwrap_or_else(|| {
            let date = machine["date"].as_str().unwrap_or("undated").replace(':', "");
            root().join("bench/out").join(format!("{date}.json"))
        });
        let conditions = results.as_object_mut().and_then(|all| all.remove("conditions"));
        let absent: Map<String, Value> =
            self.absent.iter().map(|(n, w)| (n.clone(), w.clone().into())).collect();
        let versions: Map<String, Value> = self
            .candidates
            .iter()
            .filter_map(|c| Some((c.name.clone(), version(c)?.into())))
            .collect();
        let file = json!({
            "machine": machine, "versions": versions, "commands": commands, "absent": absent,
            "reference": self.reference, "seconds": self.seconds, "warmup": self.warmup,
            "repeat": self.repeat, "results": results, "conditions": conditions,
        });
        outcome::write(&path, &file)?;
        println!("written to {}", path.display());
        if let Some(target) = &self.plot {
            target.compare(&file)?;
            println!("drawn to {}", target.path().display());
        }
        Ok(())
    }
}

/// Removes histograms, which belong to one run; the medians of several runs have none.
fn without_histograms(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("histogram");
            fields.values_mut().for_each(without_histograms);
        }
        Value::Array(items) => items.iter_mut().for_each(without_histograms),
        _ => {}
    }
}

fn version(candidate: &Candidate) -> Option<String> {
    match &candidate.kind {
        broker::BrokerKind::RingMq { program, .. } => {
            Some(machine::command(&program.to_string_lossy(), &["--version"]))
        }
        broker::BrokerKind::Mosquitto { program } => {
            Some(machine::command(&program.to_string_lossy(), &["-h"]))
        }
        broker::BrokerKind::Shell { .. } | broker::BrokerKind::EchoFloor => None,
    }
}

/// The root of the source tree: `$BENCH_ROOT` from `scripts/bench`, else the current directory.
pub fn root() -> PathBuf {
    std::env::var_os("BENCH_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from)
}
