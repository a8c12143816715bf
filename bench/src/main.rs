//! `ringmq-bench`: a load generator for MQTT brokers, light enough to share two cores with one.
//!
//! `conn`, `pub` and `sub` run clients as their options describe them. `run` drives one scenario
//! against a broker that runs already, or performs what a scenario file says. A scenario's name as
//! the command starts a broker for that scenario. `compare` starts each broker afresh and compares
//! them. `floor` compares a broker with a bare io_uring echo server. `merge` adds up what several
//! machines measured.
//!
//! Modules: `arguments` reads the command line; `clients` owns the sockets; `mqtt` encodes and
//! decodes packets; `scenario` and `general` decide which client sends what; `stats`, `process` and
//! `monitor` measure; `threshold`, `outcome` and `exporter` judge and write the results; `broker`,
//! `compare` and `report` handle several brokers in one run.

mod alone;
mod arguments;
mod broker;
mod certificates;
mod clients;
mod clock;
mod compare;
mod echo_server;
mod exporter;
mod general;
mod host;
mod machine;
mod merge;
mod monitor;
mod mqtt;
mod outcome;
mod pattern;
mod placement;
mod plot;
mod probe;
mod process;
mod report;
mod scenario;
mod script;
mod stats;
mod stop;
mod summary;
mod threshold;

use arguments::{Comparing, Draw, Job};
use broker::{BrokerKind, Candidate};
use compare::{Case, Comparison};
use outcome::Verdict;
use scenario::Scenario;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit code when a condition of `--fail-if` holds.
const CONDITION: u8 = 3;

fn main() -> ExitCode {
    machine::nofile();
    let job = match arguments::parse() {
        Ok(job) => job,
        Err(error) => {
            // Printing fails when standard error is closed; then the message has no reader anyway.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    stop::install();
    match perform(job) {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(CONDITION),
        Err(why) => {
            eprintln!("ringmq-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn perform(job: Job) -> Result<Verdict, String> {
    match job {
        Job::Print(text) => {
            print!("{text}");
            Ok(Verdict::Done)
        }
        Job::Manual(directory) => manual(directory.as_deref()),
        Job::EchoServer { port } => echo_server::run(port).map(|()| Verdict::Done),
        Job::Run { scenario, settings, outcome } => {
            wake_precisely();
            let mut report = scenario::run(scenario, &settings)?;
            let verdict = outcome.judge(&mut report);
            match &outcome.json {
                Some(path) if !outcome.to_output() => {
                    outcome::write(path, &report)?;
                    let tables = scenario::table(scenario, &report).unwrap_or_default();
                    println!("{tables}{}", summary::table(&report));
                }
                _ => outcome::write(Path::new("-"), &report)?,
            }
            Ok(verdict)
        }
        Job::Alone(alone) => {
            wake_precisely();
            alone.run()
        }
        Job::General(plan) => {
            wake_precisely();
            general::run(*plan)
        }
        Job::File(script) => script::run(script),
        Job::Merge(asked) => merge::run(&asked.files, &asked.outcome),
        Job::Draw(draw) => plot_file(&draw),
        Job::Compare(asked) => compare(asked)?.run(),
        Job::Floor(asked) => floor(asked)?.run(),
    }
}

fn plot_file(draw: &Draw) -> Result<Verdict, String> {
    let file = outcome::read(&draw.result)?;
    if file.get("results").is_some() {
        return draw.target.compare(&file).map(|()| Verdict::Done);
    }
    // `run` writes the scenario's result alone; a scenario by name puts the result under `result`.
    let broker = file["broker"].as_str().and_then(|command| command.split(' ').next());
    alone::redraw(&draw.target, file.get("result").unwrap_or(&file), broker)?;
    Ok(Verdict::Done)
}

fn manual(directory: Option<&Path>) -> Result<Verdict, String> {
    let command = arguments::command();
    let done = match directory {
        None => clap_mangen::Man::new(command).render(&mut std::io::stdout()),
        Some(directory) => std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(command, directory)),
    };
    done.map(|()| Verdict::Done).map_err(|error| format!("man: {error}"))
}

/// Sets the timer slack to 1 ns; with the default slack a paced publisher wakes up to 50 µs late.
fn wake_precisely() {
    // SAFETY: prctl changes this thread's timer slack only and takes no pointer.
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
    candidates.extend(asked.others.iter().cloned());
    if candidates.is_empty() {
        return Err("there is no broker to measure".into());
    }
    let named = |s: &&Scenario| {
        let given = &asked.scenarios;
        if given.is_empty() { s.compared } else { given.iter().any(|g| g.name == s.name) }
    };
    let case =
        |scenario: &'static Scenario| case_of(scenario.name, scenario, asked.arguments(scenario));
    let cases = scenario::ALL.iter().filter(named).map(case).collect::<Result<Vec<_>, _>>()?;
    Ok(comparison(asked, candidates, cases, absent, "mosquitto"))
}

/// A case whose title is the headline that a generator with these arguments gives itself.
fn case_of(
    name: &str,
    scenario: &'static Scenario,
    arguments: Vec<String>,
) -> Result<Case, String> {
    let words = ["ringmq-bench", "run", "--target=127.0.0.1:1", "--scenario", scenario.name];
    let words = words.into_iter().chain(arguments.iter().map(String::as_str));
    match arguments::parse_from(words).map_err(|error| error.to_string())? {
        Job::Run { settings, .. } => {
            let title = scenario::headline(scenario, &settings);
            Ok(Case { name: name.to_string(), title, scenario, arguments })
        }
        _ => Err(format!("{name} is not run")),
    }
}

fn comparison(
    asked: Comparing,
    candidates: Vec<Candidate>,
    cases: Vec<Case>,
    absent: Vec<(String, String)>,
    reference: &str,
) -> Comparison {
    Comparison {
        candidates,
        reference: asked.reference.unwrap_or_else(|| reference.into()),
        cases,
        repeat: asked.repeat,
        seconds: asked.seconds,
        warmup: asked.warmup,
        json: asked.json,
        plot: asked.plot,
        fail_if: asked.fail_if,
        absent,
    }
}

fn floor(asked: Comparing) -> Result<Comparison, String> {
    let mut absent = Vec::new();
    let mut candidates = vec![Candidate { name: "floor".into(), kind: BrokerKind::EchoFloor }];
    ringmq(&asked, &machine::cpus(), 1, &mut candidates, &mut absent);
    mosquitto(&asked, &mut candidates, &mut absent);
    candidates.extend(asked.others.iter().cloned());
    let scenario = scenario::find("echo")?;
    let case = |depth: u32| {
        let mut arguments = asked.arguments(scenario);
        arguments.push(format!("--window={depth}"));
        case_of(&format!("echo-{depth}"), scenario, arguments)
    };
    let idle = scenario::find("idle")?;
    let cases = vec![case(1)?, case(16)?, case_of("connect", idle, asked.arguments(idle))?];
    Ok(comparison(asked, candidates, cases, absent, "floor"))
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
            let kind = BrokerKind::RingMq { program, cores: cores.to_vec(), settings: Vec::new() };
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
            .push(Candidate { name: "mosquitto".into(), kind: BrokerKind::Mosquitto { program } }),
        Err(why) => absent.push(("mosquitto".into(), why)),
    }
}
