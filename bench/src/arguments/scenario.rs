//! The options of a scenario, and which kinds of scenario use which option. An option that the
//! chosen scenario would ignore is refused.

use super::values;
use crate::certificates;
use crate::clients::tls::{self, Identity, Trust};
use crate::exporter::Exporter;
use crate::mqtt::Version;
use crate::plot;
use crate::probe::ProbePlan;
use crate::scenario::{RunSettings, Scenario, ScenarioKind};
use crate::threshold::Threshold;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a scenario is run.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Where the broker listens, as HOST:PORT
    #[arg(long, value_parser = values::address)]
    pub target: Option<SocketAddrV4>,
    /// Its first process: adds its CPU time and memory (with --target)
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Measured seconds [default: 5; floor 3]
    #[arg(long, value_parser = values::seconds, value_name = "N")]
    pub seconds: Option<f64>,
    /// Seconds of traffic before them [default: 1]
    #[arg(long, value_parser = values::seconds, value_name = "N")]
    pub warmup: Option<f64>,
    /// MQTT 3.1.1 or 5
    #[arg(long, value_parser = values::version, default_value = "3.1.1", value_name = "VERSION")]
    protocol: Version,
    /// Bytes of a message, at least 24
    #[arg(long, value_parser = values::payload, default_value = "64", value_name = "BYTES")]
    payload: usize,
    /// ClientIds and topics begin with this
    #[arg(long, default_value = "b", value_name = "TEXT")]
    salt: String,
    /// The broker's admin server, which tells where clients live (with --target)
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Connections under way at once
    #[arg(long, value_parser = values::positive, default_value = "64", value_name = "N")]
    joining: u32,
    /// Clients instead of the scenario's
    #[arg(long, value_parser = values::positive, value_name = "N")]
    clients: Option<u32>,
    /// Messages per second, 0 as fast as they go; of crowds connections per second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Messages that are due at the same moment, when there is a rate
    #[arg(long, value_parser = values::positive, value_name = "N")]
    burst: Option<u32>,
    /// Messages in flight per publisher
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    window: Option<u16>,
    /// Seconds that connected clients stay
    #[arg(long, value_parser = values::seconds, default_value = "60", value_name = "N")]
    hold: f64,
    /// Seconds between pings of one client, 0 for none [default: 240; fleet 120]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=52_428), value_name = "N")]
    ping: Option<u32>,
    /// Times the scenario's clients and rates
    #[arg(long, value_parser = values::scale, default_value = "1", value_name = "FACTOR")]
    scale: f64,
    /// A fleet's messages come so much more often
    #[arg(long, value_parser = values::speed, default_value = "1", value_name = "FACTOR")]
    speed: f64,
    /// How connections are dropped: reset or close
    #[arg(long = "drop", value_parser = values::reset, default_value = "reset", value_name = "HOW",
        action = clap::ArgAction::Set)]
    reset: bool,
    /// Shards of the broker
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64), default_value = "2",
        value_name = "N")]
    pub shards: u8,
    /// Messages per client (queue) or in all (retained) [default: 10; 100000]
    #[arg(long, value_parser = values::positive, value_name = "N")]
    messages: Option<u32>,
    /// Steady pairs beside the crowd, 0 for none
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=500), default_value = "20",
        value_name = "N")]
    probes: u32,
    /// Messages per second of each pair
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=1000), default_value = "5",
        value_name = "N")]
    probe_rate: u32,
    /// QoS of the pairs: 0 or 1
    #[arg(long, value_parser = clap::value_parser!(u8).range(..=1), default_value = "0",
        value_name = "N")]
    probe_qos: u8,
    /// Rounds
    #[arg(long, value_parser = values::positive, value_name = "N")]
    repeat: Option<u32>,
    /// Bare bytes to an echo server instead of MQTT
    #[arg(long)]
    raw: bool,
    /// Trust these certificates and speak TLS (with --target)
    #[arg(long, visible_alias = "cacertfile", value_name = "CA.pem")]
    pub tls: Option<PathBuf>,
    /// What the server's certificate is for
    #[arg(long, default_value = "localhost", value_name = "NAME", requires = "tls")]
    tls_name: String,
    /// Certificate of the clients (PEM); of several, by commas or repeated, each client has the
    /// next
    #[arg(
        long,
        visible_alias = "certfile",
        value_name = "FILE",
        value_delimiter = ',',
        requires = "tls",
        requires = "key"
    )]
    cert: Vec<PathBuf>,
    /// Its private key, or their keys in the same order
    #[arg(
        long,
        visible_alias = "keyfile",
        value_name = "FILE",
        value_delimiter = ',',
        requires = "cert"
    )]
    key: Vec<PathBuf>,
    /// Carry MQTT in WebSockets, with TLS below where there is some
    #[arg(long)]
    pub ws: bool,
    /// At this path
    #[arg(long, value_name = "PATH", default_value = "/mqtt", requires = "ws")]
    ws_path: String,
    /// Start the broker with TLS and certificates made for the run, of so many clients, which it
    /// requires; 0: the clients have none
    #[arg(long, value_name = "CLIENTS", conflicts_with = "target",
        value_parser = clap::value_parser!(u32).range(..=1000))]
    pub made_tls: Option<u32>,
    /// Certificates of each such client, up to the authority's
    #[arg(long, value_name = "N", default_value = "1", requires = "made_tls",
        value_parser = clap::value_parser!(u8).range(1..=8))]
    chain: u8,
    /// Version of TLS: 1.2 or 1.3 [default: both]
    #[arg(
        long,
        visible_alias = "ssl-version",
        value_name = "VERSION",
        hide_possible_values = true
    )]
    tls_version: Option<tls::Versions>,
    /// Clients go on from earlier sessions (tickets) instead of making full handshakes
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    pub outcome: Outcome,
    /// Serve the figures of the run to Prometheus at /metrics
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen)]
    prometheus: Option<SocketAddr>,
}

/// What becomes of the result.
#[derive(Args, Clone, Debug, Default)]
pub struct Outcome {
    /// Write the result to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// End with exit code 3 when this holds, such as 'p99>20ms' or 'lost>0' (repeat or separate by
    /// commas)
    #[arg(long, value_name = "CONDITION", value_delimiter = ',')]
    pub fail_if: Vec<Threshold>,
}

/// Options of a scenario that is given by its name.
#[derive(Args, Clone, Debug)]
pub struct AloneArguments {
    #[command(flatten)]
    pub scenario: RunOptions,
    /// Draw the course of the run as FILE.svg or FILE.png
    #[arg(long, value_name = "FILE", value_parser = values::target)]
    pub plot: Option<plot::Target>,
    /// The ringmq program [default: $RINGMQ]
    #[arg(long, value_name = "PATH")]
    pub ringmq: Option<PathBuf>,
    /// RingMQ's configuration (repeat)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Use what is built already (read by scripts/bench)
    #[arg(long)]
    pub no_build: bool,
    /// Start this broker instead of RingMQ: `mosquitto`, or NAME=COMMAND with {port} in it
    #[arg(value_name = "BROKER", conflicts_with = "target")]
    pub broker: Option<String>,
}

/// The kinds of scenario that use an option; `None` when all kinds do.
fn users(option: &str) -> Option<fn(&ScenarioKind) -> bool> {
    use ScenarioKind::{CrossShard, Echo, Fleet, Idle, Million, Queue, Retained, Storm, Traffic};
    Some(match option {
        "seconds" => |k| matches!(k, Traffic(_) | Idle { .. } | Echo { .. } | CrossShard { .. }),
        "warmup" => |k| matches!(k, Traffic(_) | Echo { .. } | Fleet { .. } | CrossShard { .. }),
        "payload" => {
            |k| matches!(k, Traffic(_) | CrossShard { .. } | Queue { .. } | Retained { .. })
        }
        "admin" | "repeat" => |k| matches!(k, CrossShard { .. }),
        "clients" => |k| !matches!(k, CrossShard { .. }),
        "rate" => |k| !matches!(k, Idle { .. } | Echo { .. }),
        "burst" => |k| matches!(k, Traffic(_)),
        "window" => |k| matches!(k, Traffic(_) | Echo { .. }),
        "hold" => |k| matches!(k, Million { .. } | Storm { .. } | Fleet { .. }),
        "ping" => |k| matches!(k, Million { .. } | Storm { .. } | Fleet { .. }),
        "scale" => |k| !matches!(k, Idle { .. } | Echo { .. } | CrossShard { .. }),
        "speed" => |k| matches!(k, Fleet { .. }),
        "reset" => |k| matches!(k, Storm { .. } | Queue { .. }),
        "messages" => |k| matches!(k, Queue { .. } | Retained { .. }),
        "probes" | "probe_rate" | "probe_qos" => |k| matches!(k, Million { .. } | Storm { .. }),
        "raw" => |k| matches!(k, Echo { .. }),
        "plot" => ScenarioKind::has_course,
        "prometheus" => |k| !matches!(k, Idle { .. } | Echo { .. }),
        _ => return None,
    })
}

/// Whether a scenario of this kind uses `option`, given by its clap identifier.
pub fn uses(kind: &ScenarioKind, option: &str) -> bool {
    users(option).is_none_or(|uses| uses(kind))
}

/// The first option of `matches` that was given and that `scenario` does not use.
pub fn unused<'a>(
    command: &'a clap::Command,
    matches: &ArgMatches,
    scenario: &Scenario,
) -> Option<&'a clap::Arg> {
    let given = |arg: &&clap::Arg| {
        let id = arg.get_id().as_str();
        matches.try_contains_id(id).is_ok()
            && matches.value_source(id) == Some(ValueSource::CommandLine)
    };
    command.get_arguments().filter(given).find(|arg| !uses(&scenario.kind, arg.get_id().as_str()))
}

impl RunOptions {
    /// Makes certificates for a broker that is started with TLS, in files below `scratch`; `None`
    /// without `--made-tls`.
    pub fn make_certificates(
        &self,
        scratch: &Path,
    ) -> Result<Option<certificates::TestCertificates>, String> {
        let Some(clients) = self.made_tls else { return Ok(None) };
        certificates::make(&scratch.join("tls"), clients, self.chain).map(Some)
    }

    fn tls(
        &self,
        made: Option<&certificates::TestCertificates>,
    ) -> Result<Option<tls::TlsSettings>, String> {
        let (authority, identities) = match (&self.tls, made) {
            (Some(authority), _) => (authority, Identity::pairs(&self.cert, &self.key)?),
            (None, Some(made)) => (&made.authority, made.clients.clone()),
            (None, None) if self.resume || self.tls_version.is_some() => {
                return Err("it needs --tls or --made-tls".into());
            }
            (None, None) => return Ok(None),
        };
        let trust = Trust::Authorities(authority.clone());
        let versions = self.tls_version.unwrap_or_default();
        let asked = tls::Asked { trust, identities, versions, resume: self.resume };
        tls::TlsSettings::new(&asked, &[&self.tls_name]).map(Some)
    }

    /// The settings of a run against the broker at `target`, or against one that is started with
    /// the certificates `made`.
    pub fn settings(
        &self,
        made: Option<&certificates::TestCertificates>,
    ) -> Result<RunSettings, String> {
        let tls = self.tls(made).map_err(|why| format!("--tls: {why}"))?.map(Arc::new);
        let exporter = match self.prometheus {
            Some(address) => Some(Exporter::start(address)?),
            None => None,
        };
        Ok(RunSettings {
            target: self.target.unwrap_or(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1883)),
            pid: self.pid,
            seconds: self.seconds.unwrap_or(5.0),
            warmup: self.warmup.unwrap_or(1.0),
            version: self.protocol,
            payload: self.payload,
            salt: self.salt.clone(),
            admin: self.admin,
            joining: self.joining,
            clients: self.clients,
            rate: self.rate,
            burst: self.burst,
            window: self.window,
            shards: self.shards,
            ping: self.ping,
            scale: self.scale,
            speed: self.speed,
            reset: self.reset,
            hold: self.hold,
            messages: self.messages,
            tls,
            web: self.ws.then(|| self.ws_path.as_str().into()),
            plain: None,
            probes: ProbePlan { pairs: self.probes, rate: self.probe_rate, qos: self.probe_qos },
            repeat: self.repeat,
            raw: self.raw,
            exporter,
        })
    }
}
