//! The command line: its commands, and the way from its words to a [`Job`].
//!
//! clap has the grammar, the help and the suggestions. Scenarios are commands of their own, made
//! from the table in [`crate::scenario`], so that each has its own help and refuses options that it
//! does not use.

mod compare;
pub mod file;
pub mod scenario;
pub mod values;

pub use compare::Comparing;
pub use scenario::Outcome;

use crate::alone::{self, Alone};
use crate::broker::{self, BrokerKind, Candidate};
use crate::general::{options as general, plan::Plan};
use crate::plot;
use crate::scenario::{ALL, RunSettings, Scenario, find};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, Error, FromArgMatches, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// What the command line asks for.
pub enum Job {
    /// Print this text.
    Print(String),
    /// Write manual pages to standard output or into a directory.
    Manual(Option<PathBuf>),
    /// Run one scenario against a running broker.
    Run {
        /// The scenario.
        scenario: &'static Scenario,
        /// Its settings.
        settings: Box<RunSettings>,
        /// Where the report goes and which conditions make the run fail.
        outcome: Outcome,
    },
    /// Run one scenario and start a broker for it, unless a target is given.
    Alone(Alone),
    /// Run clients as the options describe them.
    General(Box<Plan>),
    /// Run what a scenario file describes.
    File(file::Script),
    /// Merge the results of several generators.
    Merge(Merge),
    /// Draw the series or the comparison in a result file.
    Draw(Draw),
    /// Compare several brokers.
    Compare(Comparing),
    /// Compare brokers with the echo server.
    Floor(Comparing),
    /// Run the echo server.
    EchoServer {
        /// The port on 127.0.0.1.
        port: u16,
    },
}

/// A load generator for MQTT brokers: general clients, scenarios with a broker of their own, and
/// comparisons of brokers.
#[derive(Parser)]
#[command(name = "ringmq-bench", version, args_override_self = true)]
#[command(after_help = "Exit codes: 0 done, 1 a failure while running, 2 bad arguments, 3 a \
    condition of --fail-if holds.\nThe first SIGINT or SIGTERM ends a run in good order, the \
    second at once.")]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(clap::Subcommand)]
enum Commands {
    /// Connect clients that then only ping
    #[command(disable_help_flag = true, display_order = 1)]
    Conn(general::Conn),
    /// Connect clients that publish
    #[command(disable_help_flag = true, display_order = 2)]
    Pub(general::Pub),
    /// Connect clients that subscribe, and judge what they receive
    #[command(disable_help_flag = true, display_order = 3)]
    Sub(general::Sub),
    /// Run a scenario file, or a scenario against a running broker
    #[command(display_order = 4)]
    Run(Run),
    /// Compare RingMQ on one and two cores, Mosquitto and others, each started afresh
    #[command(display_order = 5)]
    Compare(compare::CompareOptions),
    /// Compare a bare io_uring echo server with brokers that do the same
    #[command(display_order = 6)]
    Floor(compare::CompareOptions),
    /// Add up the results of several generators
    #[command(display_order = 7)]
    Merge(Merge),
    /// Draw the course of a run or a comparison from its result file
    #[command(display_order = 8)]
    Plot(Draw),
    /// List the scenarios
    #[command(display_order = 9)]
    List,
    /// Print a completion script
    #[command(display_order = 10)]
    Completions {
        /// For this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    #[command(display_order = 11)]
    Man {
        /// Into this directory
        directory: Option<PathBuf>,
    },
    /// Be the echo server that `floor` starts
    #[command(display_order = 12)]
    EchoServer {
        /// Of 127.0.0.1
        #[arg(long)]
        port: u16,
    },
}

/// Options of `run`.
#[derive(Args)]
struct Run {
    /// A scenario file
    #[arg(value_name = "FILE.yaml", conflicts_with_all = ["scenario", "target"])]
    file: Option<PathBuf>,
    /// Replace a value of the file (repeat)
    #[arg(long, value_name = "KEY=VALUE", requires = "file")]
    set: Vec<String>,
    /// This scenario; it needs --target
    #[arg(long, value_name = "NAME", value_parser = find, requires = "target")]
    scenario: Option<&'static Scenario>,
    #[command(flatten)]
    options: scenario::RunOptions,
}

/// Options of `merge`.
#[derive(Args)]
pub struct Merge {
    /// Result files of runs at the same time
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub outcome: Outcome,
}

/// Options of `plot`.
#[derive(Args)]
pub struct Draw {
    /// A result file of a run or of `compare`
    #[arg(value_name = "RESULT.json")]
    pub result: PathBuf,
    /// FILE.svg or FILE.png
    #[arg(value_name = "FILE", value_parser = values::target)]
    pub target: plot::Target,
}

/// The grammar of the whole command line.
pub fn command() -> Command {
    let mut command = Cli::command();
    for (index, scenario) in ALL.iter().enumerate() {
        let mut one = Command::new(scenario.name)
            .about(format!("Scenario: {}", scenario.about))
            .args_override_self(true)
            .display_order(100 + index);
        one = scenario::AloneArguments::augment_args(one);
        let hidden: Vec<clap::Id> = one
            .get_arguments()
            .map(|arg| arg.get_id().clone())
            .filter(|id| !scenario::uses(&scenario.kind, id.as_str()))
            .collect();
        for id in hidden {
            one = one.mut_arg(id, |arg| arg.hide(true));
        }
        command = command.subcommand(one);
    }
    command
}

/// Reads the process's arguments.
pub fn parse() -> Result<Job, Error> {
    parse_from(std::env::args_os())
}

/// Reads `words`, the first of which is the program's name.
pub fn parse_from<W>(words: impl IntoIterator<Item = W>) -> Result<Job, Error>
where
    W: Into<OsString> + Clone,
{
    let mut command = command();
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    if words.len() < 2 {
        return Ok(Job::Print(command.render_help().to_string()));
    }
    let matches = command.try_get_matches_from_mut(words)?;
    let (name, below) = matches.subcommand().ok_or_else(|| {
        command.error(ErrorKind::MissingSubcommand, "a command or a scenario is missing")
    })?;
    let grammar = command.find_subcommand(name).cloned().unwrap_or_default();
    let job = if let Ok(scenario) = find(name) {
        alone(&grammar, below, scenario)
    } else {
        of_command(&command, &grammar, &matches, below)
    };
    let mut grammar = grammar.bin_name(format!("ringmq-bench {name}"));
    job.map_err(|wrong| wrong.told_by(&mut grammar))
}

/// Why words that clap accepts make no [`Job`].
enum Wrong {
    Clap(Error),
    Says(String),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Wrong::Clap(error)
    }
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Wrong::Says(why)
    }
}

impl From<&str> for Wrong {
    fn from(why: &str) -> Self {
        Wrong::Says(why.to_string())
    }
}

impl Wrong {
    fn told_by(self, grammar: &mut Command) -> Error {
        match self {
            Wrong::Clap(error) => error.format(grammar),
            Wrong::Says(why) => grammar.error(ErrorKind::ValueValidation, why),
        }
    }
}

fn of_command(
    all: &Command,
    grammar: &Command,
    matches: &ArgMatches,
    below: &ArgMatches,
) -> Result<Job, Wrong> {
    Ok(match Cli::from_arg_matches(matches)?.command {
        Commands::Conn(options) => Job::General(Box::new(options.plan()?)),
        Commands::Pub(options) => Job::General(Box::new(options.plan()?)),
        Commands::Sub(options) => Job::General(Box::new(options.plan()?)),
        Commands::Run(options) => run(grammar, below, options)?,
        Commands::Compare(options) => Job::Compare(options.comparing(below, 5.0)?),
        Commands::Floor(options) => Job::Floor(options.comparing(below, 3.0)?),
        Commands::Merge(merge) => Job::Merge(merge),
        Commands::Plot(draw) => Job::Draw(draw),
        Commands::List => Job::Print(list()),
        Commands::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut all.clone(), "ringmq-bench", &mut script);
            Job::Print(String::from_utf8_lossy(&script).into_owned())
        }
        Commands::Man { directory } => Job::Manual(directory),
        Commands::EchoServer { port } => Job::EchoServer { port },
    })
}

fn list() -> String {
    ALL.iter().map(|s| format!("{:<25} {}\n", s.name, s.about)).collect()
}

fn run(grammar: &Command, below: &ArgMatches, asked: Run) -> Result<Job, Wrong> {
    if let Some(file) = asked.file {
        let beside = |arg: &&clap::Arg| {
            let id = arg.get_id().as_str();
            !matches!(id, "file" | "set" | "json" | "fail_if")
                && below.value_source(id) == Some(ValueSource::CommandLine)
        };
        if let Some(option) = grammar.get_arguments().find(beside) {
            let name = option.get_long().unwrap_or("this argument");
            let instead = "--set KEY=VALUE replaces one of its values";
            return Err(format!("--{name} does nothing with a scenario file: {instead}").into());
        }
        let outcome = asked.options.outcome;
        return Ok(Job::File(file::Script::read(&file, &asked.set, outcome)?));
    }
    let scenario =
        asked.scenario.ok_or("a scenario file, or --scenario NAME with --target, is missing")?;
    used_by(grammar, below, scenario)?;
    let settings = Box::new(asked.options.settings(None)?);
    Ok(Job::Run { scenario, settings, outcome: asked.options.outcome })
}

fn alone(grammar: &Command, below: &ArgMatches, scenario: &'static Scenario) -> Result<Job, Wrong> {
    let asked = scenario::AloneArguments::from_arg_matches(below)?;
    used_by(grammar, below, scenario)?;
    let options = asked.scenario;
    let broker = match asked.broker.as_deref() {
        _ if options.target.is_some() => None,
        _ if options.tls.is_some() => {
            let instead = "for a broker that is started here there is --made-tls";
            return Err(format!("--tls needs --target; {instead}").into());
        }
        Some("mosquitto") => {
            let kind = BrokerKind::Mosquitto { program: broker::mosquitto()? };
            Some(Candidate { name: "mosquitto".into(), kind })
        }
        Some(other) => Some(values::candidate(other)?),
        None => Some(alone::ringmq(asked.ringmq, options.shards, asked.set)?),
    };
    let made = options.make_certificates(&alone::scratch())?;
    if (made.is_some() || options.ws)
        && matches!(&broker, Some(Candidate { kind: BrokerKind::Shell { .. }, .. }))
    {
        return Err("--made-tls and --ws: only RingMQ and mosquitto are started with them".into());
    }
    let settings = Box::new(options.settings(made.as_ref())?);
    Ok(Job::Alone(Alone {
        scenario,
        settings,
        broker,
        made,
        plot: asked.plot,
        outcome: options.outcome,
    }))
}

fn used_by(grammar: &Command, below: &ArgMatches, scenario: &Scenario) -> Result<(), Wrong> {
    match scenario::unused(grammar, below, scenario) {
        Some(option) => {
            let name = option.get_long().unwrap_or("this argument");
            Err(format!("--{name} does nothing in the scenario {}", scenario.name).into())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Job, Error> {
        parse_from(std::iter::once("ringmq-bench").chain(words.iter().copied()))
    }

    fn error(words: &[&str]) -> String {
        asked(words).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_grammar_has_no_contradictions() {
        command().debug_assert();
    }

    #[test]
    fn a_run_needs_a_scenario_and_a_target() {
        assert!(error(&["run"]).contains("a scenario file, or --scenario NAME"));
        assert!(error(&["run", "--scenario", "fanin"]).contains("--target"));
        let none = error(&["run", "--scenario", "none", "--target", "127.0.0.1:1"]);
        assert!(
            none.contains("--scenario") && none.contains("there is no scenario none"),
            "{none}"
        );
        let job = asked(&["run", "--scenario", "fanin", "--target", "127.0.0.1:1"]);
        assert!(matches!(job, Ok(Job::Run { .. })));
        let job = asked(&["run", "nowhere.yaml"]);
        assert!(job.is_err());
        assert!(error(&["run", "nowhere.yaml", "--clients", "3"]).contains("--clients"));
    }

    #[test]
    fn other_brokers_are_named_commands_with_a_port() {
        let job = asked(&["compare", "--quick", "x=run me -p {port}"]);
        let Ok(Job::Compare(asked_for)) = job else { panic!("not a comparison") };
        assert_eq!(asked_for.others[0].name, "x");
        for bad in ["x", "x=no port", "=a {port}"] {
            assert!(asked(&["compare", bad]).is_err());
        }
    }

    #[test]
    fn a_comparison_passes_on_what_a_scenario_uses() {
        let job = asked(&["compare", "--quick", "--rate", "5", "--payload", "99"]);
        let Ok(Job::Compare(asked_for)) = job else { panic!("not a comparison") };
        let arguments = |name| asked_for.arguments(find(name).unwrap());
        assert_eq!(arguments("fanin"), ["--payload=99", "--rate=5"]);
        assert_eq!(arguments("idle"), ["--clients=3000"]);
        let job = asked(&["floor", "--protocol", "5"]);
        assert!(matches!(job, Ok(Job::Floor(floor)) if floor.seconds == 3.0));
    }

    #[test]
    fn tls_needs_a_running_broker_and_certificates_that_are_there() {
        assert!(error(&["idle", "--tls", "/nowhere.pem", "x=a {port}"]).contains("--target"));
        let words = ["idle", "--tls", "/nowhere.pem", "--target", "127.0.0.1:1"];
        assert!(error(&words).contains("--tls: /nowhere.pem"), "{}", error(&words));
    }

    #[test]
    fn a_drawing_of_another_format_is_misuse() {
        for words in [&["million", "--plot", "a.jpg"][..], &["plot", "result.json", "a.jpg"]] {
            assert!(error(words).contains("FILE.svg or FILE.png, not a.jpg"), "{}", error(words));
        }
        assert!(matches!(asked(&["plot", "result.json", "a.png"]), Ok(Job::Draw { .. })));
        assert!(asked(&["plot", "result.json"]).is_err());
        assert!(asked(&["plot", "result.json", "a.png", "b.png"]).is_err());
    }

    #[test]
    fn every_scenario_is_listed_and_has_its_help() {
        let Ok(Job::Print(text)) = asked(&["list"]) else { panic!("a list") };
        assert!(ALL.iter().all(|s| text.contains(s.name)));
        let Ok(Job::Print(text)) = asked(&[]) else { panic!("help") };
        assert!(ALL.iter().all(|s| text.contains(s.name)));
        let help = error(&["fanin", "--help"]);
        assert!(help.contains("--burst") && !help.contains("--drop"), "{help}");
        let help = error(&["storm", "-h"]);
        assert!(help.contains("--drop") && !help.contains("--burst"), "{help}");
    }

    #[test]
    fn what_a_scenario_would_ignore_is_refused() {
        let target = ["--target", "127.0.0.1:1"];
        for (scenario, option) in [
            ("fanin", &["--drop", "close"][..]),
            ("million", &["--seconds", "9"]),
            ("idle", &["--rate", "9"]),
            ("echo", &["--prometheus", "9"]),
            ("idle", &["--plot", "a.svg"]),
        ] {
            let words = [&[scenario], &target[..], option].concat();
            let error = error(&words);
            let want = format!("{} does nothing in the scenario {scenario}", option[0]);
            assert!(error.contains(&want), "{error}");
        }
        let words = ["run", "--scenario", "fanin", "--target", "127.0.0.1:1", "--speed", "2"];
        assert!(error(&words).contains("--speed does nothing in the scenario fanin"));
    }

    #[test]
    fn mistakes_are_named_and_the_nearest_word_is_suggested() {
        for (words, want) in [
            (&["fannin"][..], "fanin"),
            (&["fanin", "--clinets", "3"], "--clients"),
            (&["pub", "-t", "a", "-c", "0"], "--count"),
            (&["pub", "-t", "a", "-q", "3"], "--qos"),
            (&["pub", "-t", "a/+"], "no wildcard"),
            (&["pub", "-t", "%x"], "%x is no variable here"),
            (&["pub"], "--topic"),
            (&["pub", "-t", "a/%u"], "--username is needed"),
            (&["pub", "-t", "a", "-V", "6"], "--version"),
            (&["pub", "-t", "a", "-x", "5", "-V", "4"], "--session-expiry needs --version 5"),
            (&["pub", "-t", "a", "-m", "file:///nowhere"], "--message /nowhere"),
            (&["pub", "--topics-payload", "/nowhere"], "--topics-payload /nowhere"),
            (&["pub", "-t", "a", "--min-random-wait", "5"], "--min-random-wait"),
            (&["pub", "-t", "a", "--payload-hdrs", "x"], "--payload-hdrs"),
            (&["sub", "-t", "a", "-L", "x"], "--limit"),
            (&["sub", "-t", "a", "--client-id", "one"], "--client-id needs %i"),
            (&["conn", "--ifaddr", "192.0.2.1"], "--ifaddr 192.0.2.1"),
            (&["conn", "--ifaddr", "eth0"], "--ifaddr"),
            (&["conn", "-h", "127.0.0.1:x"], "--host 127.0.0.1:x"),
            (&["conn", "-P", "x"], "--username"),
            (&["conn", "--certfile", "a", "--keyfile", "b"], "--certfile needs --ssl"),
            (&["conn", "-S", "--cacertfile", "/nowhere"], "--ssl: /nowhere"),
            (&["conn", "--fail-if", "p99"], "--fail-if"),
            (&["conn", "-c", "9999999", "-h", "192.0.2.1"], "--ifaddr"),
            (&["merge", "one.json"], "FILE"),
            (&["completions", "cmd"], "bash"),
        ] {
            let error = error(words);
            assert!(error.contains(want), "{words:?}: {error}");
        }
    }

    #[test]
    fn what_emqtt_benchs_users_type_is_understood() {
        for words in [
            "conn -c 50000 -i 10",
            "sub -c 50000 -i 10 -t bench/%i -q 2",
            "pub -c 100 -I 10 -t bench/%i -s 256",
            "pub -c 100 -I 10 -t bench/%i -s 256 --ssl",
            "sub -h 127.0.0.1,127.0.0.2 -p 8883 -V 4 -R 500 -n 1000 -u u%i -P -x- -k 60 -C false \
             -t a",
            "pub -t a -r true -L 10 -F 0 -w true --max-random-wait 20 --min-random-wait 5 -m hello",
            "pub -t %c/%u/%i/%s/%rand_10 -u me --prefix x --shortids --payload-hdrs cnt64,ts",
            "sub -t a -t b --ifaddr 127.0.0.1,127.0.0.2-127.0.0.9 -x 60 --reconnect 3 \
             --num-retry-connect 2 --restapi 0",
        ] {
            let words: Vec<_> = words.split_whitespace().collect();
            assert!(matches!(asked(&words), Ok(Job::General(_))), "{words:?}: {}", error(&words));
        }
        assert!(error(&["pub", "--help"]).contains("--topics-payload"));
    }

    #[test]
    fn completions_and_manual_pages_are_made() {
        for shell in ["bash", "zsh", "fish"] {
            let Ok(Job::Print(text)) = asked(&["completions", shell]) else { panic!("{shell}") };
            assert!(text.contains("fanin") && text.contains("topics-payload"));
        }
        assert!(matches!(asked(&["man"]), Ok(Job::Manual(None))));
    }
}
