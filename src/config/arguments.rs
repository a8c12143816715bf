//! The command line: words in, one [`Command`] out. Does nothing itself.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::problem::nearest;

/// The answer to `--help`.
pub const HELP: &str = "\
RingMQ: a thread-per-core MQTT broker on io_uring.

ringmq [--config FILE] [--set KEY=VALUE]...   run the broker (without a file: 127.0.0.1:1883)
ringmq --test-config [--config FILE]          check the configuration and print every problem
ringmq config default                         print a commented file with every default
ringmq config reference                       print every key: type, unit, default, bounds, meaning
ringmq doctor [--connections N] [--config FILE] [--json]
                                              what this host will hold, each limit, the exact fix
ringmq ping [HOST:PORT] [--config FILE]       whether a broker answers (default: first TCP listener)
ringmq --version | --help

--set KEY=VALUE   sets one key (mqtt.max_inflight=64, listeners.0.bind=0.0.0.0:1883); it wins over
                  the environment (RINGMQ_MQTT__MAX_INFLIGHT=64), which wins over the file
Exit codes: 0 stopped as asked, 1 failed while running, 2 wrong arguments or configuration.
doctor: 0 ready (for N clients), 1 not. ping: 0 the broker answers, 1 it does not.
SIGTERM or SIGINT stops (twice: at once), SIGHUP reads the configuration again, SIGUSR1 writes a
summary of the state to the log.
";

/// What the user asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Run the broker.
    Run(Given),
    /// Check the configuration.
    TestConfig(Given),
    /// Print the default file.
    ConfigDefault,
    /// Print the reference.
    ConfigReference,
    /// Examine this host for the configuration.
    Doctor(Given, Examination),
    /// Ping the broker at `HOST:PORT`, or where the configuration listens.
    Ping(Given, Option<String>),
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// What the command line says about the configuration.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Given {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Each `--set`, in order.
    pub set: Vec<String>,
}

/// What the doctor is asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Examination {
    /// `--connections`: clients to hold.
    pub connections: Option<u64>,
    /// `--json`.
    pub json: bool,
}

/// The words make no command; says which and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misuse(String);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

const OPTIONS: [&str; 7] =
    ["--config", "--set", "--test-config", "--version", "--help", "--connections", "--json"];
const COMMANDS: [&str; 4] = ["config", "doctor", "ping", "passwd"];

/// Reads the words behind the program's name.
///
/// # Errors
/// When they make no command, or one that is not in this build.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, Misuse> {
    let mut words = words.into_iter();
    let mut given = Given::default();
    let mut wanted = Wanted::Run;
    let mut first = true;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (option, attached) = match text.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => (text.as_str(), None),
        };
        match (option, attached) {
            ("--help" | "-h", None) => return Ok(Command::Help),
            ("--version" | "-V", None) => return Ok(Command::Version),
            ("--test-config", None) if matches!(wanted, Wanted::Run | Wanted::Test) => {
                wanted = Wanted::Test;
            }
            ("--config", _) if given.file.is_some() => {
                return Err(Misuse("--config is given twice; name one file".to_owned()));
            }
            // The word itself, not its text: a file name need not be UTF-8.
            ("--config", None) => given.file = Some(value(option, words.next())?.into()),
            ("--config", Some("")) => return Err(no_value(option)),
            ("--config", Some(file)) => given.file = Some(file.into()),
            ("--set", None) => {
                let value = value(option, words.next())?;
                given.set.push(value.to_string_lossy().into_owned());
            }
            ("--set", Some(value)) => given.set.push(value.to_owned()),
            ("config", None) if first => return config(words),
            ("doctor", None) if first => wanted = Wanted::Doctor(Examination::default()),
            ("ping", None) if first => wanted = Wanted::Ping(None),
            ("passwd", None) if first => {
                return Err(Misuse(format!("`ringmq {option}` is not in this build yet")));
            }
            _ => match wanted.take(option, attached, &mut words)? {
                Taken::Yes => {}
                Taken::No => return Err(unknown(option, attached.is_some(), first)),
            },
        }
        first = false;
    }
    Ok(match wanted {
        Wanted::Run => Command::Run(given),
        Wanted::Test => Command::TestConfig(given),
        Wanted::Doctor(examination) => Command::Doctor(given, examination),
        Wanted::Ping(target) => Command::Ping(given, target),
    })
}

/// What the words so far ask for.
enum Wanted {
    Run,
    Test,
    Doctor(Examination),
    Ping(Option<String>),
}

/// Whether a word belonged to the command.
enum Taken {
    Yes,
    No,
}

impl Wanted {
    /// Takes a word that only this command knows.
    fn take(
        &mut self,
        option: &str,
        attached: Option<&str>,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<Taken, Misuse> {
        match (self, option, attached) {
            (Wanted::Doctor(examination), "--json", None) => examination.json = true,
            (Wanted::Doctor(examination), "--connections", _) => {
                let number = match attached {
                    Some(number) => number.to_owned(),
                    None => value(option, words.next())?.to_string_lossy().into_owned(),
                };
                let number = number.replace('_', "").parse().ok().filter(|number| *number > 0);
                examination.connections = Some(number.ok_or_else(|| no_value(option))?);
            }
            (Wanted::Ping(target @ None), target_word, None) if !target_word.starts_with('-') => {
                *target = Some(target_word.to_owned());
            }
            (_, "--json" | "--connections", _) => {
                let fix = format!("write `ringmq doctor {option}`");
                return Err(Misuse(format!("{option} belongs to `doctor`; {fix}")));
            }
            _ => return Ok(Taken::No),
        }
        Ok(Taken::Yes)
    }
}

fn config(mut words: impl Iterator<Item = OsString>) -> Result<Command, Misuse> {
    let what = words.next().map(|word| word.to_string_lossy().into_owned());
    let command = match what.as_deref() {
        Some("default") => Command::ConfigDefault,
        Some("reference") => Command::ConfigReference,
        _ => {
            let fix = "write `ringmq config default` or `ringmq config reference`";
            return Err(Misuse(format!("`ringmq config` needs to know what to print; {fix}")));
        }
    };
    match words.next() {
        None => Ok(command),
        Some(extra) => {
            Err(Misuse(format!("`{}` is one word too many; remove it", extra.to_string_lossy())))
        }
    }
}

fn value(option: &str, word: Option<OsString>) -> Result<OsString, Misuse> {
    match word {
        Some(word) if !word.is_empty() && !OPTIONS.iter().any(|known| word == *known) => Ok(word),
        _ => Err(no_value(option)),
    }
}

fn no_value(option: &str) -> Misuse {
    let example = match option {
        "--set" => "mqtt.max_qos=1",
        "--connections" => "100000",
        _ => "/etc/ringmq/ringmq.yaml",
    };
    Misuse(format!("{option} needs a value; write {option} {example}"))
}

fn unknown(option: &str, attached: bool, first: bool) -> Misuse {
    if attached && OPTIONS.contains(&option) {
        return Misuse(format!("{option} takes no value; remove the = and what follows"));
    }
    if option == "--test-config" {
        return Misuse(format!("`{option}` cannot be combined with this command; remove one"));
    }
    let known: &[&str] = if option.starts_with('-') { &OPTIONS } else { &COMMANDS };
    if !first && known.contains(&option) {
        return Misuse(format!("`{option}` must be the first word; see `ringmq --help`"));
    }
    let bare = option.trim_start_matches('-');
    let near = nearest(bare, known.iter().map(|name| name.trim_start_matches('-')));
    let near = near.and_then(|near| known.iter().find(|name| name.ends_with(near)));
    match near {
        Some(near) => Misuse(format!("unknown argument `{option}`; did you mean `{near}`?")),
        None => Misuse(format!("unknown argument `{option}`; see `ringmq --help`")),
    }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
