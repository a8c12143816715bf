//! The command line: turns words into one [`Arguments`]. It does nothing else.

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use ringmq::config::Sources;

use crate::access_test::Tested;
use crate::admin_user::UserCommand;
use crate::cluster_leave::LeaveWanted;
use crate::cluster_status::StatusWanted;
use crate::explain::Explained;
use crate::passwd::Passwd;
use crate::trace::TraceCommand;
use crate::upgrade_command::Upgraded;

/// The text at the end of `ringmq --help`.
const NOTES: &str = "\
Precedence: built-in default, then FILE, then the environment (RINGMQ_MQTT__MAX_INFLIGHT=64), then
--set. `ringmq config reference` lists the keys.

Exit codes: 0 stopped as asked, 1 failed while running, 2 wrong arguments or configuration.
doctor: 0 ready (for N clients), 1 not. ping: 0 the broker answers, 1 it does not. access test: 0
allowed, 1 not.

SIGTERM or SIGINT stops (twice: at once), SIGHUP reads the configuration again, SIGUSR1 writes a
summary of the state to the log, SIGUSR2 hands the clients over to a new process (ringmq upgrade).";

/// RingMQ: a thread-per-core MQTT broker on io_uring.
///
/// Without a command it runs the broker; without a file on 127.0.0.1:1883.
#[derive(Parser, Debug, PartialEq, Eq)]
#[command(name = "ringmq", version, after_help = NOTES, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(flatten)]
    pub given: Given,
    /// Check the configuration, print every problem, and run nothing.
    #[arg(long)]
    pub test_config: bool,
    /// Said by a broker that is upgraded: its clients come by standard input.
    #[arg(long, hide = true)]
    pub take_over: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the command line says about the configuration.
#[derive(Args, Clone, Default, Debug, PartialEq, Eq)]
pub struct Given {
    /// The configuration file, instead of RINGMQ_CONFIG_FILE; `ringmq config default` prints one.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key, such as mqtt.max_inflight=64 or listeners.0.bind=0.0.0.0:1883.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Port of the first listener.
    #[arg(short, value_name = "PORT")]
    pub port: Option<u16>,
    /// Log at level debug.
    #[arg(short, action = ArgAction::SetTrue)]
    pub verbose: bool,
}

impl Given {
    /// Where the configuration is read from, with the environment of this process.
    pub fn sources(self) -> Sources {
        let Given { config: file, set, port, verbose } = self;
        Sources { file, set, port, verbose, ..Sources::default() }.with_environment()
    }
}

/// What else the program does.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print configuration: the defaults, the keys, or the values that apply.
    #[command(subcommand)]
    Config(Print),
    /// Say what this host will hold, each limit, and the exact fix.
    Doctor {
        #[command(flatten)]
        given: Given,
        /// Clients that the host shall hold, such as 100000 or 1_000_000.
        #[arg(long, value_name = "N", value_parser = clients)]
        connections: Option<u64>,
        /// Answer with one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Ask whether a broker answers.
    Ping {
        #[command(flatten)]
        given: Given,
        /// The broker, over plain TCP; by default a listener of the configuration, as it speaks.
        #[arg(value_name = "HOST:PORT")]
        target: Option<String>,
    },
    /// Look at a store (storage.path) while no broker uses it. Nothing is changed.
    #[command(subcommand)]
    Storage(Look),
    /// Add, change or delete a user of a password file.
    Passwd(Passwd),
    /// Try the rules of access.authorization.
    #[command(subcommand)]
    Access(Accesses),
    /// Manage who may use the admin server.
    #[command(subcommand)]
    Admin(Admins),
    /// Hand the clients of a running broker over to a new process.
    Upgrade(Upgraded),
    /// Say where a message would go if it were published now, and why not elsewhere. Asks the admin
    /// server of a running broker; nothing is published.
    Explain(Explained),
    /// Print every packet and decision of a client, user, address or topic, as JSON lines, while
    /// they happen. Asks the admin server of a running broker.
    Trace(TraceCommand),
    /// Look at the cluster that a running broker is a node of, or leave it.
    #[command(subcommand)]
    Cluster(Clusters),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, of a command if one is named (`ringmq man doctor | man -l -`).
    Man {
        /// The command.
        command: Vec<String>,
    },
}

/// What is done with the cluster.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Clusters {
    /// Say how the broker sees the other nodes. Asks its admin server.
    Status(StatusWanted),
    /// Have the broker leave its cluster, and stop: clients are sent to other nodes, and their
    /// sessions follow them. Asks its admin server.
    Leave(LeaveWanted),
}

/// What is managed of the admin server.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Admins {
    /// Users of the dashboard and the management API.
    #[command(subcommand)]
    User(UserCommand),
}

/// What is done with the rules.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Accesses {
    /// Say whether a client may publish or subscribe, and which rule says so.
    Test(Tested),
}

/// What of the configuration is printed.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Print {
    /// A commented file with every default.
    Default,
    /// Every key: type, unit, default, bounds, meaning.
    Reference,
    /// The JSON Schema of the file, for editors and deployment tools.
    Schema,
    /// The values that apply, each with where it comes from, as a file.
    Show(Given),
    /// Print our configuration for a mosquitto.conf or flashmq.conf.
    Convert {
        /// The other broker's file.
        file: PathBuf,
    },
}

/// What of a store is looked at.
#[derive(Subcommand, Debug, PartialEq, Eq)]
pub enum Look {
    /// Read all of it and say whether it is whole; exit 0 or 1. Of a damaged one it names file,
    /// place and sessions.
    Check {
        #[command(flatten)]
        given: Given,
        /// Write a damaged store anew of what is whole, and keep the damaged logs beside it.
        #[arg(long)]
        repair: bool,
        /// The store, instead of storage.path.
        path: Option<PathBuf>,
    },
    /// Print each session and retained message, one JSON object a line, payloads left out.
    Show {
        #[command(flatten)]
        given: Given,
        /// The store, instead of storage.path.
        path: Option<PathBuf>,
    },
    /// Write it anew without what is dead, while no broker uses it.
    Compact {
        #[command(flatten)]
        given: Given,
        /// The store, instead of storage.path.
        path: Option<PathBuf>,
    },
    /// Print everything that is in it as one file, for `import`, while no broker uses it.
    Export {
        #[command(flatten)]
        given: Given,
        /// The store, instead of storage.path.
        path: Option<PathBuf>,
    },
    /// Make a store of an export on standard input.
    Import {
        /// A directory that is no store yet.
        path: PathBuf,
    },
    /// Copy it to a new directory; a broker may use it meanwhile.
    Backup {
        /// The store.
        path: PathBuf,
        /// The copy.
        to: PathBuf,
    },
}

fn clients(text: &str) -> Result<u64, String> {
    match text.replace('_', "").parse() {
        Ok(0) | Err(_) => Err("write a number of at least 1, such as 100000".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// The completions for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ringmq", &mut out);
    out
}

/// The manual page of the program, or of the command that the words name; `None` when there is no
/// such command.
pub fn manual(words: &[String]) -> Option<Vec<u8>> {
    let mut command = Arguments::command();
    command.build();
    let command = words.iter().try_fold(&command, |command, word| command.find_subcommand(word))?;
    let mut out = Vec::new();
    let page = clap_mangen::Man::new(command.clone());
    page.render(&mut out).expect("a vector takes whatever is written");
    Some(out)
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
