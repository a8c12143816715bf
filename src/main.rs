//! The `ringmq` program: arguments, configuration, broker, exit code; nothing else.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use ringmq::access;
use ringmq::broker;
use ringmq::config::{self, Config, Problems, Sources};
use ringmq::doctor::{self, PingTarget, Pong};

use arguments::{Accesses, Admins, Arguments, Clusters, Command, Given, Print};

mod access_test;
mod admin_user;
mod api_client;
mod arguments;
mod cluster_leave;
mod cluster_status;
mod explain;
mod passwd;
mod stores;
mod trace;
mod upgrade_command;

// The build for a sanitizer (scripts/sanitize) leaves mimalloc out, so that the sanitizer sees the
// heap.
#[cfg(not(system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code after a failure while running.
const FAILED: u8 = 1;
/// The exit code for wrong arguments or a wrong configuration.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    make_mistake();
    // For wrong arguments, --help and --version the process ends here, with exit code 2 or 0.
    let Arguments { given, test_config, take_over, command } = Arguments::parse();
    match command {
        None if test_config => check(given),
        None => run(given, take_over),
        Some(Command::Config(Print::Default)) => print(config::default_file()),
        Some(Command::Config(Print::Reference)) => print(config::reference()),
        Some(Command::Config(Print::Schema)) => print(config::json_schema()),
        Some(Command::Config(Print::Show(given))) => show(given),
        Some(Command::Config(Print::Convert { file })) => convert(&file),
        Some(Command::Doctor { given, connections, json }) => examine(given, connections, json),
        Some(Command::Ping { given, target }) => ping(given, target),
        Some(Command::Storage(work)) => stores::run(work),
        Some(Command::Passwd(wanted)) => match passwd::run(&wanted) {
            Ok(done) => print(done),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Admin(Admins::User(command))) => change_users(&command),
        Some(Command::Explain(wanted)) => match explain::run(&wanted) {
            Ok(text) => print(text),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Cluster(Clusters::Status(wanted))) => match cluster_status::run(&wanted) {
            Ok(text) => print(text),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Cluster(Clusters::Leave(wanted))) => match cluster_leave::run(&wanted) {
            Ok(text) => print(text),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Upgrade(wanted)) => match upgrade_command::run(&wanted) {
            Ok(text) => print(text),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Trace(wanted)) => match trace::run(&wanted) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                complain(&failure);
                ExitCode::from(FAILED)
            }
        },
        Some(Command::Access(Accesses::Test(tested))) => test_access(tested),
        Some(Command::Completions { shell }) => print(arguments::completions(shell)),
        Some(Command::Man { command }) => manual(&command),
    }
}

fn change_users(command: &admin_user::UserCommand) -> ExitCode {
    let config = match load(command.given().given.clone()) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    match admin_user::run(command, &config) {
        Ok(done) => print(done),
        Err(failure) => {
            complain(&failure);
            ExitCode::from(FAILED)
        }
    }
}

fn manual(command: &[String]) -> ExitCode {
    match arguments::manual(command) {
        Some(page) => print(page),
        None => {
            let what = format!("there is no command `{}`; see `ringmq --help`", command.join(" "));
            Arguments::command().error(ErrorKind::InvalidSubcommand, what).exit()
        }
    }
}

fn run(given: Given, take_over: bool) -> ExitCode {
    let way = match take_over {
        false => broker::StartMode::Open,
        true => match broker::StartMode::from_input() {
            Ok(way) => way,
            Err(failure) => {
                complain(&failure);
                return ExitCode::from(MISUSED);
            }
        },
    };
    let (sources, config) = match load(given) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Some(code) = refuse_files(&config) {
        return code;
    }
    match broker::run(config, sources, way) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_logged() {
                complain(&failure);
            }
            ExitCode::from(FAILED)
        }
    }
}

/// Complains about the certificates and keys that the configuration names. Returns the exit code if
/// any of them cannot be used.
fn refuse_files(config: &Config) -> Option<ExitCode> {
    let problems = broker::secure::problems(config);
    problems.iter().for_each(|problem| complain(problem));
    (!problems.is_empty()).then(|| ExitCode::from(MISUSED))
}

fn check(given: Given) -> ExitCode {
    match load(given) {
        Ok((sources, config)) => {
            if let Err(problems) = access::load::load(&config, &access::load::read_file) {
                problems.iter().for_each(|problem| complain(problem));
                return ExitCode::from(MISUSED);
            }
            if let Some(problem) = broker::ban_file_problem(&config) {
                complain(&problem);
                return ExitCode::from(MISUSED);
            }
            for remark in config.remarks().into_iter().chain(sources.remarks()) {
                complain(&remark);
            }
            refuse_files(&config).unwrap_or_else(|| print("the configuration is valid\n"))
        }
        Err(code) => code,
    }
}

fn show(given: Given) -> ExitCode {
    match given.sources().effective() {
        Ok(text) => print(text),
        Err(problems) => refuse(&problems),
    }
}

/// Prints our configuration for that of another broker, and says how many lines were not carried
/// over.
fn convert(file: &Path) -> ExitCode {
    let name = file.display().to_string();
    let read = access::load::read_file(&name).map_err(|error| error.to_string());
    let converted = read.and_then(|text| {
        config::convert::convert(&name, &text).map_err(|what| format!("{name}: {what}"))
    });
    match converted {
        Ok(converted) => {
            if converted.left > 0 {
                let left = converted.left;
                complain(&format!("{left} lines were not carried over: see the comments"));
            }
            print(converted.yaml)
        }
        Err(what) => {
            complain(&what);
            ExitCode::from(MISUSED)
        }
    }
}

fn examine(given: Given, connections: Option<u64>, json: bool) -> ExitCode {
    let config = match load(given) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    let report = doctor::examine(&config, connections);
    let text = if json { report.json() } else { report.table() };
    let printed = print(text);
    if report.ready() { printed } else { ExitCode::from(FAILED) }
}

fn ping(given: Given, target: Option<String>) -> ExitCode {
    let target = match target {
        Some(address) => PingTarget::plain(&address),
        None => match load(given) {
            Err(code) => return code,
            Ok((_, config)) => match doctor::target(&config) {
                Some(target) => target,
                None => {
                    complain(
                        &"no listener can be pinged, because this host is none of \
                               trusted_proxies, and there is no admin server; write `ringmq ping \
                               HOST:PORT`",
                    );
                    return ExitCode::from(MISUSED);
                }
            },
        },
    };
    match doctor::ping(&target) {
        Ok(Pong::Answered) => print(format!("{target} answers and serves\n")),
        Ok(Pong::Refused(code)) => print(format!(
            "{target} answers, but refuses clients without an account (code {code})\n"
        )),
        Ok(Pong::WantsCertificate) => {
            print(format!("{target} answers, but asks for a certificate of the client\n"))
        }
        Ok(Pong::Healthy) => print(format!("{target} answers\n")),
        Err(failure) => {
            complain(&format!("{target}: {failure}"));
            ExitCode::from(FAILED)
        }
    }
}

fn test_access(mut tested: access_test::Tested) -> ExitCode {
    let config = match load(std::mem::take(&mut tested.given)) {
        Ok((_, config)) => config,
        Err(code) => return code,
    };
    match access_test::run(&tested, &config) {
        Ok((allowed, text)) => {
            let printed = print(text);
            if allowed { printed } else { ExitCode::from(FAILED) }
        }
        Err(problems) => {
            problems.iter().for_each(|problem| complain(problem));
            ExitCode::from(MISUSED)
        }
    }
}

fn load(given: Given) -> Result<(Sources, Config), ExitCode> {
    let sources = given.sources();
    match sources.load() {
        Ok(config) => Ok((sources, config)),
        Err(problems) => Err(refuse(&problems)),
    }
}

/// Writes all problems to standard error. Each begins with its file and line, so that editors and
/// scripts can read them.
fn refuse(problems: &Problems) -> ExitCode {
    let _ = writeln!(io::stderr(), "{problems}");
    ExitCode::from(MISUSED)
}

/// Prints to standard output. A reader that has gone away (`| head`) is no failure; a full disk is
/// one.
fn print(text: impl AsRef<[u8]>) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Makes the mistake that the variable `MISTAKE` names, for `scripts/mutants`.
#[cfg(feature = "mutants")]
fn make_mistake() {
    use ringmq::mutant::Mutant;
    let Ok(name) = std::env::var("MISTAKE") else { return };
    match Mutant::ALL.iter().find(|row| row.1 == name) {
        Some(row) => Mutant::activate(Some(row.0)),
        None => complain(&format!("MISTAKE={name}: there is none of that name")),
    }
}

fn complain(what: &dyn std::fmt::Display) {
    // When standard error is closed there is nowhere left to report this.
    let _ = writeln!(io::stderr(), "ringmq: {what}");
}
