//! The `ringmq` program: arguments, configuration, broker, exit code; nothing else.

use std::io::{self, Write};
use std::process::ExitCode;

use ringmq::broker;
use ringmq::config::arguments::{self, Command, Examination, Given};
use ringmq::config::{self, Config, Sources};
use ringmq::doctor::{self, Pong};

// Without it where a sanitizer is to see the heap (scripts/sanitize).
#[cfg(not(system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A failure while running.
const FAILED: u8 = 1;
/// Wrong arguments or configuration.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(given)) => run(given),
        Ok(Command::TestConfig(given)) => test_config(given),
        Ok(Command::ConfigDefault) => print(&config::default_file()),
        Ok(Command::ConfigReference) => print(&config::reference()),
        Ok(Command::Doctor(given, examination)) => examine(given, examination),
        Ok(Command::Ping(given, target)) => ping(given, target),
        Ok(Command::Version) => print(concat!("ringmq ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Help) => print(arguments::HELP),
        Err(misuse) => {
            complain(&misuse);
            ExitCode::from(MISUSED)
        }
    }
}

fn run(given: Given) -> ExitCode {
    let (sources, config) = match load(given) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match broker::run(config, sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_logged() {
                complain(&failure);
            }
            ExitCode::from(FAILED)
        }
    }
}

fn test_config(given: Given) -> ExitCode {
    match load(given) {
        Ok((sources, config)) => {
            for remark in config.remarks().into_iter().chain(sources.remarks()) {
                complain(&remark);
            }
            print("the configuration is valid\n")
        }
        Err(code) => code,
    }
}

fn examine(given: Given, examination: Examination) -> ExitCode {
    let config = match load(given) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    let report = doctor::examine(&config, examination.connections);
    let text = if examination.json { report.json() } else { report.table() };
    let printed = print(&text);
    if report.ready() { printed } else { ExitCode::from(FAILED) }
}

fn ping(given: Given, target: Option<String>) -> ExitCode {
    let target = match target {
        Some(target) => target,
        None => match load(given) {
            Err(code) => return code,
            Ok((_, config)) => match doctor::target(&config) {
                Some(target) => target,
                None => {
                    complain(&"no listener has a TCP address; write `ringmq ping HOST:PORT`");
                    return ExitCode::from(MISUSED);
                }
            },
        },
    };
    match doctor::ping(&target) {
        Ok(Pong::Answered) => print(&format!("{target} answers\n")),
        Ok(Pong::Refused(code)) => {
            print(&format!("{target} answers, but refuses this client (code {code})\n"))
        }
        Err(failure) => {
            complain(&format!("{target}: {failure}"));
            ExitCode::from(FAILED)
        }
    }
}

fn load(given: Given) -> Result<(Sources, Config), ExitCode> {
    let sources = Sources::of_process(given.file, given.set);
    match sources.load() {
        Ok(config) => Ok((sources, config)),
        Err(problems) => {
            // Each problem begins with its file and line, so editors and scripts can read it.
            let _ = writeln!(io::stderr(), "{problems}");
            Err(ExitCode::from(MISUSED))
        }
    }
}

/// Prints to standard output. A reader that went away (`| head`) is no failure; a full disk is.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn complain(what: &dyn std::fmt::Display) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "ringmq: {what}");
}
