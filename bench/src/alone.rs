//! One scenario against one broker, which is started for the scenario unless a target is given:
//! tables on standard output for a person, and a result file.

use crate::arguments::Outcome;
use crate::broker::{self, Below, Broker, BrokerKind, Candidate};
use crate::certificates::TestCertificates;
use crate::clients::tls;
use crate::clock;
use crate::machine;
use crate::outcome::{self, Verdict};
use crate::report::{self, Row};
use crate::scenario::{self, RunSettings, Scenario};
use crate::{compare, plot, stop, summary};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// One scenario and the broker that it runs against.
pub struct Alone {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The scenario's settings; the target and the process are filled in when a broker is started.
    pub settings: Box<RunSettings>,
    /// The broker to start; `None` when the broker at `settings.target` runs already.
    pub broker: Option<Candidate>,
    /// The certificates that the started broker uses; `None` without TLS.
    pub made: Option<TestCertificates>,
    /// Where to draw the course of the run, for scenarios that have one.
    pub plot: Option<plot::Target>,
    /// Where the result goes, `bench/out/` unless told otherwise, and which conditions make the run
    /// fail.
    pub outcome: Outcome,
}

impl Alone {
    /// Runs the scenario, prints the tables and writes the result file.
    pub fn run(mut self) -> Result<Verdict, String> {
        let machine = machine::describe();
        let scratch = scratch();
        let queues = self.scenario.kind.fills_queues();
        self.open_admin()?;
        let broker = match &self.broker {
            Some(candidate) => Some(candidate.start(queues, &scratch, self.below())?),
            None => None,
        };
        if let Some(broker) = &broker {
            self.settings.target = broker.layered.unwrap_or(broker.target);
            self.settings.plain = Some(broker.target);
            self.settings.pid = Some(broker.pid);
            eprintln!("{}", broker.started_as);
        }
        let bare = match (&self.made, &self.settings.tls) {
            (Some(made), Some(tls)) => Some(tls::bare::handshake(made, tls)?),
            _ => None,
        };
        let started = clock::now();
        let result = scenario::run(self.scenario, &self.settings);
        let words = broker.as_ref().map(Broker::last_words).unwrap_or_default();
        let command = broker.as_ref().map(|b| b.started_as.clone());
        drop(broker);
        let _ = fs::remove_dir_all(&scratch);
        let mut report = result.map_err(|e| format!("{e}{words}"))?;
        if let Some(bare) = bare {
            report["bare_handshake_us"] = bare.into();
        }
        let verdict = self.outcome.judge(&mut report);
        let file = json!({
            "machine": machine, "broker": command, "broker_log": words,
            "took_s": (clock::now() - started) as f64 / 1e9, "result": report,
        });
        // The files come first: the reader of the tables may close the pipe, and printing then
        // fails.
        let written = [self.draw(&report)?, self.write(&machine, &file)?];
        if !self.outcome.to_output() {
            println!("{}{}", self.table(&report), summary::table(&report));
            if let Some(bare) = bare {
                println!("  bare rustls    {bare:.1} µs per handshake, the server's half");
            }
        }
        if words.contains("ERROR") || words.contains("panicked") {
            println!("the broker{words}");
        }
        written.iter().flatten().for_each(|line| println!("{line}"));
        if stop::requested() { Err("interrupted".into()) } else { Ok(verdict) }
    }

    /// The layers between TCP and MQTT; `None` when MQTT runs directly on TCP.
    fn below(&self) -> Option<Below<'_>> {
        let below = Below { made: self.made.as_ref(), web: self.settings.web.is_some() };
        (below.made.is_some() || below.web).then_some(below)
    }

    /// Gives the broker that is started an admin server, which tells on which shard each client
    /// lives.
    fn open_admin(&mut self) -> Result<(), String> {
        if let scenario::ScenarioKind::CrossShard { .. } = self.scenario.kind
            && let Some(Candidate { kind: BrokerKind::RingMq { settings, .. }, .. }) =
                &mut self.broker
        {
            let port = broker::free_port().map_err(|e| format!("no free port: {e}"))?;
            settings.push(format!("admin.bind=127.0.0.1:{port}"));
            self.settings.admin = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        Ok(())
    }

    fn table(&self, report: &Value) -> String {
        if let Some(text) = scenario::table(self.scenario, report) {
            return text;
        }
        let name = self.broker.as_ref().map_or("broker", |b| &b.name).to_string();
        let title = scenario::headline(self.scenario, &self.settings);
        report::table(&title, &[Row { name, result: Ok(report.clone()) }], "")
    }

    fn draw(&self, report: &Value) -> Result<Option<String>, String> {
        let Some(target) = &self.plot else { return Ok(None) };
        let name = self.broker.as_ref().map_or("a running broker", |b| &b.name);
        redraw(target, report, Some(name))?;
        Ok(Some(format!("drawn to {}", target.path().display())))
    }

    fn write(&self, machine: &Value, file: &Value) -> Result<Option<String>, String> {
        let path = self.outcome.json.clone().unwrap_or_else(|| {
            let date = machine["date"].as_str().unwrap_or("undated").replace(':', "");
            compare::root().join("bench/out").join(format!("{}-{date}.json", self.scenario.name))
        });
        outcome::write(&path, file)?;
        Ok((!self.outcome.to_output()).then(|| format!("written to {}", path.display())))
    }
}

/// The directory for the temporary files of this process's run.
pub fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("ringmq-bench-{}", std::process::id()))
}

/// Draws the course in `report`, a scenario's result.
pub fn redraw(target: &plot::Target, report: &Value, broker: Option<&str>) -> Result<(), String> {
    let name = report["scenario"].as_str().unwrap_or("run");
    let series = report.get("series").ok_or_else(|| format!("{name} has no course to be drawn"))?;
    let clients = report["clients"].as_u64().map(|n| plot::grouped(n as f64));
    let clients = clients.map(|number| format!(": {number} clients"));
    let broker = broker.map(|name| format!(", {name}")).unwrap_or_default();
    target.draw(&format!("{name}{}{broker}", clients.unwrap_or_default()), series)
}

/// RingMQ on the first `shards` CPUs, from `program` or `$RINGMQ`.
pub fn ringmq(
    program: Option<PathBuf>,
    shards: u8,
    settings: Vec<String>,
) -> Result<Candidate, String> {
    let program = program.or_else(|| std::env::var_os("RINGMQ").map(PathBuf::from));
    let program = program.filter(|path| path.exists());
    let program = program.ok_or("--ringmq: there is no ringmq program (a path, or $RINGMQ)")?;
    let cpus = machine::cpus();
    let cores = cpus.get(..usize::from(shards)).ok_or_else(|| {
        format!("--shards: {shards} shards need as many CPUs, here are {}", cpus.len())
    })?;
    let kind = BrokerKind::RingMq { program, cores: cores.to_vec(), settings };
    Ok(Candidate { name: format!("ringmq-{shards}"), kind })
}
