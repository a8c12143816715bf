//! `ringmq-bench`: a load generator for MQTT brokers, light enough to share two cores with one.
//!
//! `run` drives one scenario against a broker that runs already; a scenario's name starts one
//! for it; `compare` starts brokers afresh
//! and compares them; `floor` compares a broker with a bare io_uring echo server. Modules:
//! `clients` (sockets), `mqtt` (bytes), `scenario` (who says what), `stats` and `process`
//! (what is measured), `broker`, `compare`, `report` (several brokers in one run).

mod alone;
mod arguments;
mod broker;
mod clients;
mod clock;
mod compare;
mod echo_server;
mod host;
mod machine;
mod monitor;
mod mqtt;
mod placement;
mod plot;
mod probe;
mod process;
mod report;
mod scenario;
mod stats;
mod stop;
mod summary;

use arguments::{Comparing, Job};
use broker::{Candidate, Kind};
use compare::{Case, Comparison};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let job = match arguments::parse() {
        Ok(job) => job,
        Err(why) => {
            eprintln!("ringmq-bench: {why}; see ringmq-bench --help");
            return ExitCode::from(2);
        }
    };
    stop::install();
    machine::nofile();
    match perform(job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ringmq-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn perform(job: Job) -> Result<(), String> {
    match job {
        Job::Help => {
            print!("{}", arguments::help());
            Ok(())
        }
        Job::EchoServer { port } => echo_server::run(port),
        Job::Run { scenario, settings, json } => {
            wake_precisely();
            let report = scenario::run(scenario, &settings)?;
            let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
            match json {
                Some(path) if path.as_os_str() != "-" => {
                    std::fs::write(&path, text + "\n")
                        .map_err(|e| format!("{}: {e}", path.display()))?;
                    let tables = scenario::table(scenario, &report).unwrap_or_default();
                    println!("{tables}{}", summary::table(&report));
                }
                _ => println!("{text}"),
            }
            Ok(())
        }
        Job::Alone(alone) => {
            wake_precisely();
            alone.run()
        }
        Job::Draw { result, target } => {
            let text = std::fs::read_to_string(&result).map_err(|e| e.to_string());
            let parsed = text.and_then(|t| serde_json::from_str(&t).map_err(|e| e.to_string()));
            let file: serde_json::Value =
                parsed.map_err(|why| format!("{}: {why}", result.display()))?;
            // `run` writes the result alone, a scenario by name wraps it.
            let broker = file["broker"].as_str().and_then(|command| command.split(' ').next());
            alone::redraw(&target, file.get("result").unwrap_or(&file), broker)
        }
        Job::Compare(asked) => compare(asked)?.run(),
        Job::Floor(asked) => floor(asked)?.run(),
    }
}

/// Without this a paced publisher wakes up to 50 µs late.
fn wake_precisely() {
    // SAFETY: changes this thread's timer slack only.
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
    }
}

fn compare(asked: Comparing) -> Result<Comparison, String> {
    let mut absent = Vec::new();
    let mut candidates = Vec::new();
    let cpus = machine::cpus();
    for shards in [1, 2] {
        ringmq(&asked, &cpus, shards, &mut candidates, &mut absent);
    }
    mosquitto(&asked, &mut candidates, &mut absent);
    candidates.extend(asked.others);
    if candidates.is_empty() {
        return Err("there is no broker to measure".into());
    }
    let named = |s: &scenario::Scenario| {
        if asked.scenarios.is_empty() { s.compared } else { asked.scenarios.contains(&s.name) }
    };
    let case = |scenario: &'static scenario::Scenario| {
        let mut arguments = asked.passed_on.clone();
        if asked.quick && matches!(scenario.kind, scenario::Kind::Idle { .. }) {
            arguments.extend(["--clients".to_string(), "3000".to_string()]);
        }
        let title = format!("{}: {}", scenario.name, scenario.about);
        Case { name: scenario.name.to_string(), title, scenario, arguments }
    };
    Ok(Comparison {
        candidates,
        reference: asked.reference.unwrap_or_else(|| "mosquitto".into()),
        cases: scenario::ALL.iter().filter(|s| named(s)).map(case).collect(),
        repeat: asked.repeat,
        seconds: asked.seconds,
        warmup: asked.warmup,
        json: asked.json,
        absent,
    })
}

fn floor(asked: Comparing) -> Result<Comparison, String> {
    let mut absent = Vec::new();
    let mut candidates = vec![Candidate { name: "floor".into(), kind: Kind::EchoFloor }];
    ringmq(&asked, &machine::cpus(), 1, &mut candidates, &mut absent);
    mosquitto(&asked, &mut candidates, &mut absent);
    candidates.extend(asked.others);
    let scenario = scenario::find("echo")?;
    let case = |depth: u32| {
        let mut arguments = asked.passed_on.clone();
        arguments.extend(["--window".to_string(), depth.to_string()]);
        let title = format!("echo, 200 connections, 20-byte messages, {depth} outstanding each");
        Case { name: format!("echo-{depth}"), title, scenario, arguments }
    };
    Ok(Comparison {
        candidates,
        reference: asked.reference.unwrap_or_else(|| "floor".into()),
        cases: vec![case(1), case(16)],
        repeat: asked.repeat,
        seconds: asked.seconds,
        warmup: asked.warmup,
        json: asked.json,
        absent,
    })
}

fn ringmq(
    asked: &Comparing,
    cpus: &[usize],
    shards: usize,
    candidates: &mut Vec<Candidate>,
    absent: &mut Vec<(String, String)>,
) {
    let name = format!("ringmq-{shards}");
    if asked.skip.iter().any(|s| s == "ringmq") {
        return;
    }
    let program = asked.ringmq.clone().or_else(|| std::env::var_os("RINGMQ").map(PathBuf::from));
    let Some(program) = program.filter(|path| path.exists()) else {
        absent.push((name, "no ringmq program (--ringmq PATH)".into()));
        return;
    };
    match cpus.get(..shards) {
        Some(cores) => {
            let kind = Kind::RingMq { program, cores: cores.to_vec(), settings: Vec::new() };
            candidates.push(Candidate { name, kind });
        }
        None => absent.push((name, format!("needs {shards} CPUs"))),
    }
}

fn mosquitto(
    asked: &Comparing,
    candidates: &mut Vec<Candidate>,
    absent: &mut Vec<(String, String)>,
) {
    if asked.skip.iter().any(|s| s == "mosquitto") {
        return;
    }
    match broker::mosquitto() {
        Ok(program) => candidates
            .push(Candidate { name: "mosquitto".into(), kind: Kind::Mosquitto { program } }),
        Err(why) => absent.push(("mosquitto".into(), why)),
    }
}
