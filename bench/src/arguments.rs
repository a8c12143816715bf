//! The command line.

use crate::alone::{self, Alone};
use crate::broker::{self, Candidate, Kind};
use crate::clients::tls::Tls;
use crate::mqtt::Version;
use crate::plot;
use crate::probe::Plan;
use crate::scenario::{self, Scenario, Settings, traffic};
use lexopt::{Arg, Parser, ValueExt};
use std::net::{SocketAddrV4, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

/// What was asked for.
pub enum Job {
    /// Explain.
    Help,
    /// One scenario against a running broker.
    Run {
        /// Which.
        scenario: &'static Scenario,
        /// How.
        settings: Box<Settings>,
        /// Where the report goes; `-` or nothing: standard output.
        json: Option<PathBuf>,
    },
    /// One scenario, a broker started for it.
    Alone(Alone),
    /// The course in a result file.
    Draw {
        /// The file.
        result: PathBuf,
        /// Where the drawing goes.
        target: plot::Target,
    },
    /// Several brokers.
    Compare(Comparing),
    /// Brokers against the echo floor.
    Floor(Comparing),
    /// Be the echo floor.
    EchoServer {
        /// On 127.0.0.1.
        port: u16,
    },
}

/// Arguments of `compare` and `floor`.
pub struct Comparing {
    /// Scenarios by name; empty: all.
    pub scenarios: Vec<&'static str>,
    /// Short intervals and fewer idle clients.
    pub quick: bool,
    /// Rounds.
    pub repeat: u32,
    /// Measured seconds.
    pub seconds: f64,
    /// Warm-up seconds.
    pub warmup: f64,
    /// Result file.
    pub json: Option<PathBuf>,
    /// The broker under test.
    pub ringmq: Option<PathBuf>,
    /// `ringmq`, `mosquitto`: not measured.
    pub skip: Vec<String>,
    /// NAME=COMMAND.
    pub others: Vec<Candidate>,
    /// Row that ratios refer to.
    pub reference: Option<String>,
    /// Options handed to each generator.
    pub passed_on: Vec<String>,
}

/// Reads the process's arguments.
pub fn parse() -> Result<Job, String> {
    parse_from(Parser::from_env()).map_err(|e| e.to_string())
}

fn parse_from(mut parser: Parser) -> Result<Job, lexopt::Error> {
    let word = match parser.next()? {
        Some(Arg::Value(word)) => word.string()?,
        None | Some(Arg::Long("help") | Arg::Short('h')) => return Ok(Job::Help),
        Some(other) => return Err(other.unexpected()),
    };
    match word.as_str() {
        "help" | "list" => Ok(Job::Help),
        "run" => run(parser),
        "compare" => comparing(parser, 5.0).map(|c| c.map_or(Job::Help, Job::Compare)),
        "floor" => comparing(parser, 3.0).map(|c| c.map_or(Job::Help, Job::Floor)),
        name if scenario::find(name).is_ok() => alone(parser, scenario::find(name)?),
        "plot" => draw(parser),
        "echo-server" => match parser.next()? {
            Some(Arg::Long("port")) => Ok(Job::EchoServer { port: parser.value()?.parse()? }),
            _ => Err("echo-server needs --port PORT".into()),
        },
        other => Err(format!("there is no command {other}").into()),
    }
}

fn defaults() -> Settings {
    Settings {
        target: SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1883),
        pid: None,
        seconds: 5.0,
        warmup: 1.0,
        version: Version::V311,
        payload: 64,
        salt: "b".into(),
        admin: None,
        joining: 64,
        clients: None,
        rate: None,
        burst: None,
        window: None,
        ping: None,
        scale: 1.0,
        speed: 1.0,
        reset: true,
        hold: 60.0,
        shards: 2,
        messages: None,
        tls_authorities: None,
        tls_name: "localhost".into(),
        tls: None,
        probes: Plan { pairs: 20, rate: 5 },
        repeat: None,
        raw: false,
    }
}

/// An option that says how a scenario is run; `false`: it is none of these.
fn setting(
    settings: &mut Settings,
    name: &str,
    parser: &mut Parser,
) -> Result<bool, lexopt::Error> {
    match name {
        "pid" => settings.pid = Some(parser.value()?.parse()?),
        "seconds" => settings.seconds = seconds(parser)?,
        "warmup" => settings.warmup = seconds(parser)?,
        "protocol" => settings.version = version(&parser.value()?.string()?)?,
        "payload" => settings.payload = payload(parser)?,
        "salt" => settings.salt = parser.value()?.string()?,
        "admin" => settings.admin = Some(parser.value()?.parse()?),
        "joining" => settings.joining = positive(parser)?,
        "clients" => settings.clients = Some(positive(parser)?),
        "rate" => settings.rate = Some(parser.value()?.parse()?),
        "burst" => settings.burst = Some(positive(parser)?),
        "window" => settings.window = Some(parser.value()?.parse()?),
        "hold" => settings.hold = seconds(parser)?,
        "ping" => settings.ping = Some(parser.value()?.parse()?),
        "scale" => settings.scale = scale(parser)?,
        "speed" => settings.speed = speed(parser)?,
        "drop" => settings.reset = reset(&parser.value()?.string()?)?,
        "shards" => settings.shards = parser.value()?.parse()?,
        "tls" => settings.tls_authorities = Some(PathBuf::from(parser.value()?)),
        "tls-name" => settings.tls_name = parser.value()?.string()?,
        "messages" => settings.messages = Some(positive(parser)?),
        "probes" => settings.probes.pairs = at_most(parser, 500)?,
        "probe-rate" => settings.probes.rate = at_most(parser, 1000)?,
        "repeat" => settings.repeat = Some(positive(parser)?),
        "raw" => settings.raw = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn run(mut parser: Parser) -> Result<Job, lexopt::Error> {
    let mut scenario = None;
    let mut target = None;
    let mut json = None;
    let mut settings = defaults();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("scenario") => {
                scenario = Some(scenario::find(&parser.value()?.string()?)?);
            }
            Arg::Long("target") => target = Some(address(&parser.value()?.string()?)?),
            Arg::Long("json") => json = Some(PathBuf::from(parser.value()?)),
            Arg::Long("help") | Arg::Short('h') => return Ok(Job::Help),
            Arg::Long(name) => {
                let name = name.to_string();
                if !setting(&mut settings, &name, &mut parser)? {
                    return Err(Arg::Long(&name).unexpected());
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    let scenario = scenario.ok_or("run needs --scenario NAME")?;
    settings.target = target.ok_or("run needs --target HOST:PORT")?;
    prepare_tls(&mut settings)?;
    Ok(Job::Run { scenario, settings: Box::new(settings), json })
}

fn alone(mut parser: Parser, scenario: &'static Scenario) -> Result<Job, lexopt::Error> {
    let mut settings = defaults();
    let (mut ringmq, mut json, mut plot, mut broker, mut target) = (None, None, None, None, None);
    let mut broker_settings = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("target") => target = Some(address(&parser.value()?.string()?)?),
            Arg::Long("json") => json = Some(PathBuf::from(parser.value()?)),
            Arg::Long("plot") => plot = Some(target_of(&mut parser)?),
            Arg::Long("ringmq") => ringmq = Some(PathBuf::from(parser.value()?)),
            Arg::Long("set") => broker_settings.push(parser.value()?.string()?),
            // Read by scripts/bench.
            Arg::Long("no-build") => {}
            Arg::Long("help") | Arg::Short('h') => return Ok(Job::Help),
            Arg::Long(name) => {
                let name = name.to_string();
                if !setting(&mut settings, &name, &mut parser)? {
                    return Err(Arg::Long(&name).unexpected());
                }
            }
            Arg::Value(word) if word == "mosquitto" => {
                let kind = Kind::Mosquitto { program: broker::mosquitto()? };
                broker = Some(Candidate { name: "mosquitto".into(), kind });
            }
            Arg::Value(word) => broker = Some(candidate(&word.string()?)?),
            other => return Err(other.unexpected()),
        }
    }
    let broker = match (target, broker) {
        (Some(target), _) => {
            settings.target = target;
            prepare_tls(&mut settings)?;
            None
        }
        (None, _) if settings.tls_authorities.is_some() => {
            return Err("--tls needs --target: brokers are started here without it".into());
        }
        (None, Some(broker)) => Some(broker),
        (None, None) => Some(alone::ringmq(ringmq, settings.shards, broker_settings)?),
    };
    Ok(Job::Alone(Alone { scenario, settings: Box::new(settings), broker, plot, json }))
}

fn target_of(parser: &mut Parser) -> Result<plot::Target, lexopt::Error> {
    Ok(plot::Target::new(PathBuf::from(parser.value()?))?)
}

fn draw(mut parser: Parser) -> Result<Job, lexopt::Error> {
    let result = PathBuf::from(parser.value()?);
    let target = target_of(&mut parser)?;
    parser.next()?.map_or(Ok(()), |more| Err(more.unexpected()))?;
    Ok(Job::Draw { result, target })
}

fn prepare_tls(settings: &mut Settings) -> Result<(), String> {
    if let Some(authorities) = &settings.tls_authorities {
        settings.tls = Some(Arc::new(Tls::new(authorities, &settings.tls_name)?));
    }
    Ok(())
}

fn comparing(mut parser: Parser, interval: f64) -> Result<Option<Comparing>, lexopt::Error> {
    let mut asked = Comparing {
        scenarios: Vec::new(),
        quick: false,
        repeat: 1,
        seconds: interval,
        warmup: 1.0,
        json: None,
        ringmq: None,
        skip: Vec::new(),
        others: Vec::new(),
        reference: None,
        passed_on: Vec::new(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("quick") => {
                asked.quick = true;
                (asked.seconds, asked.warmup) = (2.0, 0.5);
            }
            Arg::Long("scenario") => {
                asked.scenarios.push(scenario::find(&parser.value()?.string()?)?.name);
            }
            Arg::Long("seconds") => asked.seconds = seconds(&mut parser)?,
            Arg::Long("warmup") => asked.warmup = seconds(&mut parser)?,
            Arg::Long("repeat") => asked.repeat = positive(&mut parser)?,
            Arg::Long("json") => asked.json = Some(PathBuf::from(parser.value()?)),
            Arg::Long("ringmq") => asked.ringmq = Some(PathBuf::from(parser.value()?)),
            Arg::Long("skip") => asked.skip.push(parser.value()?.string()?),
            Arg::Long("reference") => asked.reference = Some(parser.value()?.string()?),
            // Read by scripts/bench.
            Arg::Long("no-build") => {}
            Arg::Long(
                name @ ("protocol" | "payload" | "salt" | "joining" | "clients" | "rate" | "burst"),
            ) => {
                asked.passed_on.push(format!("--{name}"));
                asked.passed_on.push(parser.value()?.string()?);
            }
            Arg::Value(other) => asked.others.push(candidate(&other.string()?)?),
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(asked))
}

fn candidate(text: &str) -> Result<Candidate, lexopt::Error> {
    let pair = text.split_once('=').filter(|(name, command)| {
        !name.is_empty() && !name.contains(char::is_whitespace) && command.contains("{port}")
    });
    let (name, command) = pair.ok_or("a broker is NAME=COMMAND with {port} in the command")?;
    Ok(Candidate { name: name.into(), kind: Kind::Shell { command: command.into() } })
}

fn address(text: &str) -> Result<SocketAddrV4, String> {
    let all = text.to_socket_addrs().map_err(|e| format!("target {text}: {e}"))?;
    let v4 = all.filter_map(|a| match a {
        std::net::SocketAddr::V4(v4) => Some(v4),
        std::net::SocketAddr::V6(_) => None,
    });
    v4.into_iter().next().ok_or_else(|| format!("target {text} has no IPv4 address"))
}

fn seconds(parser: &mut Parser) -> Result<f64, lexopt::Error> {
    let seconds: f64 = parser.value()?.parse()?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 3600 seconds".into()) }
}

fn positive(parser: &mut Parser) -> Result<u32, lexopt::Error> {
    let number: u32 = parser.value()?.parse()?;
    if number > 0 { Ok(number) } else { Err("the number must be at least 1".into()) }
}

fn at_most(parser: &mut Parser, most: u32) -> Result<u32, lexopt::Error> {
    let number: u32 = parser.value()?.parse()?;
    if number <= most { Ok(number) } else { Err(format!("the number is at most {most}").into()) }
}

fn payload(parser: &mut Parser) -> Result<usize, lexopt::Error> {
    let bytes: usize = parser.value()?.parse()?;
    let header = traffic::HEADER;
    if (header..=1 << 20).contains(&bytes) {
        Ok(bytes)
    } else {
        Err(format!("a payload has {header} to 1048576 bytes").into())
    }
}

fn scale(parser: &mut Parser) -> Result<f64, lexopt::Error> {
    let scale: f64 = parser.value()?.parse()?;
    if (0.0001..=20.0).contains(&scale) { Ok(scale) } else { Err("0.0001 to 20".into()) }
}

fn speed(parser: &mut Parser) -> Result<f64, lexopt::Error> {
    let speed: f64 = parser.value()?.parse()?;
    if (0.01..=100.0).contains(&speed) { Ok(speed) } else { Err("0.01 to 100".into()) }
}

fn reset(text: &str) -> Result<bool, String> {
    match text {
        "reset" | "rst" => Ok(true),
        "close" => Ok(false),
        other => Err(format!("connections drop by reset or close, not {other}")),
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "3.1.1" | "4" => Ok(Version::V311),
        "5" | "5.0" => Ok(Version::V5),
        other => Err(format!("protocol {other} is not 3.1.1 or 5")),
    }
}

/// Usage and the list of scenarios.
pub fn help() -> String {
    let mut text = String::from(HELP);
    for scenario in scenario::ALL {
        text.push_str(&format!("  {:<25} {}\n", scenario.name, scenario.about));
    }
    text
}

const HELP: &str = "\
ringmq-bench run --scenario NAME --target HOST:PORT [--pid PID] [options]
    one scenario against a running broker; --pid adds its CPU time and memory
ringmq-bench NAME [--shards N] [options] [mosquitto | NAME=COMMAND]
    one scenario against a broker started for it, RingMQ on two cores if none is named, or against
    --target HOST:PORT [--pid PID]
ringmq-bench compare [--quick] [--repeat K] [--scenario NAME]... [options] [NAME=COMMAND]...
    RingMQ on one and two cores, Mosquitto, and every COMMAND ({port} is replaced), each started
    afresh for every scenario
ringmq-bench floor [--repeat K] [options] [NAME=COMMAND]...
    a bare io_uring echo server against brokers that do the same
ringmq-bench plot RESULT.json FILE.svg|FILE.png
    draws the course of a run from its result file
ringmq-bench echo-server --port PORT
    the echo server alone

  --seconds N       measured interval (5; floor 3)      --warmup N     before it (1)
  --protocol V      3.1.1 or 5 (3.1.1)                  --payload N    bytes, at least 24 (64)
  --salt TEXT       ClientIds and topics begin with it (b)
  --admin ADDRESS   the broker's admin server, which tells where clients live (crossshard, --target)
  --joining N       connections under way at once (64)  --clients N    instead of the scenario's
  --rate N          messages/s, 0 as fast as they go; of crowds: connections/s
  --window N        in flight (run only)                --messages N   of queue and retained
  --burst N         messages due at the same moment, when there is a rate (1)
  --json FILE       result file (compare, floor: bench/out/DATE.json; run: standard output)
  --hold N          seconds that connected clients stay (60)
  --ping N          seconds between pings of one client, 0 for none (240; fleet 120)
  --tls CA.pem      trust these certificates and speak TLS (--target only; without probes)
  --tls-name NAME   what the server's certificate is for (localhost)
  --scale F         times the scenario's clients and rates (1)
  --speed F         a fleet's messages come so much more often (1)
  --probes N        steady pairs beside million, conn-tcp and storm, 0 for none (20)
  --probe-rate N    messages/s of each pair (5)
  --drop HOW        of a storm: reset or close (reset)
  --shards N        of the broker (2; NAME only)        --repeat N     rounds
  --plot FILE       the course of the run, drawn as FILE.svg or FILE.png (NAME only)
  --set KEY=VALUE   RingMQ's configuration (NAME only)
  --ringmq PATH     the broker program                  --no-build     use what is built already
  --skip NAME       ringmq or mosquitto                 --reference N  row that ratios refer to

CPU is the broker's (all its processes), in microseconds per delivered message; latency of paced
scenarios counts from when a message was due. Losses, reorderings and duplicates are counted for
messages published after the warm-up; with --repeat figures are medians and faults the worst run.

Scenarios:
";

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Job, lexopt::Error> {
        parse_from(Parser::from_args(words))
    }

    #[test]
    fn a_run_needs_a_scenario_and_a_target() {
        assert!(asked(&["run"]).is_err());
        assert!(asked(&["run", "--scenario", "fanin"]).is_err());
        assert!(asked(&["run", "--scenario", "none", "--target", "127.0.0.1:1"]).is_err());
        let job = asked(&["run", "--scenario", "fanin", "--target", "127.0.0.1:1"]);
        assert!(matches!(job, Ok(Job::Run { .. })));
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
    fn tls_needs_a_running_broker_and_certificates_that_are_there() {
        let error = |words: &[&str]| asked(words).err().map(|e| e.to_string()).unwrap_or_default();
        let words = ["idle", "--tls", "/nowhere.pem", "x=a {port}"];
        assert!(error(&words).contains("--target"));
        let words = ["idle", "--tls", "/nowhere.pem", "--target", "127.0.0.1:1"];
        assert!(error(&words).contains("/nowhere.pem"), "{}", error(&words));
    }

    #[test]
    fn a_drawing_of_another_format_is_misuse() {
        let error = |words: &[&str]| asked(words).err().map(|e| e.to_string()).unwrap_or_default();
        for words in [&["million", "--plot", "a.jpg"][..], &["plot", "result.json", "a.jpg"]] {
            assert!(error(words).contains("FILE.svg or FILE.png, not a.jpg"), "{}", error(words));
        }
        assert!(matches!(asked(&["plot", "result.json", "a.png"]), Ok(Job::Draw { .. })));
        assert!(asked(&["plot", "result.json"]).is_err());
        assert!(asked(&["plot", "result.json", "a.png", "b.png"]).is_err());
    }

    #[test]
    fn help_lists_every_scenario() {
        let text = help();
        assert!(scenario::ALL.iter().all(|s| text.contains(s.name)));
    }
}
