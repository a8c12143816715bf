//! The table of scenarios with their numbers, and the settings that change them.

pub mod crossshard;
pub mod crowd;
pub mod echo;
pub mod fleet;
pub mod idle;
pub mod million;
mod publish;
pub mod queue;
pub mod retained;
mod run;
pub mod storm;
pub mod traffic;

pub use run::Snapshot;

use crate::clients::join::Names;
use crate::clients::tls;
use crate::exporter::Exporter;
use crate::mqtt::Version;
use crate::plot::grouped;
use crate::probe;
use serde_json::Value;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

/// How publishers and subscribers are paired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Publisher n has subscriber n, by an exact filter.
    Pairs,
    /// Publishers are divided among the subscribers, each of which has a wildcard filter.
    FanIn,
    /// All subscribers are in one share group with a wildcard filter: each message goes to any one
    /// of them, so the order of a publisher's messages is not defined.
    Shared,
    /// Every subscriber receives from every publisher, by a wildcard filter.
    FanOut,
}

/// Numbers of a traffic scenario.
#[derive(Clone, Copy, Debug)]
pub struct TrafficPlan {
    /// Which publishers each subscriber receives from.
    pub shape: Shape,
    /// Publishing clients.
    pub publishers: u32,
    /// Subscribing clients; with pairs, as many as publishers.
    pub subscribers: u32,
    /// QoS of publications and subscriptions.
    pub qos: u8,
    /// Unacknowledged messages per publisher, with QoS 1 and 2 and without a rate.
    pub window: u16,
    /// Messages published per second, all publishers together; 0 publishes as fast as possible.
    pub rate: u32,
    /// Messages that are due at the same moment when there is a rate, each from a different
    /// publisher.
    pub burst: u32,
}

/// What a scenario does.
#[derive(Clone, Copy, Debug)]
pub enum ScenarioKind {
    /// Publishers and subscribers.
    Traffic(TrafficPlan),
    /// Clients with one subscription each that then are silent.
    Idle {
        /// The number of clients.
        clients: u32,
    },
    /// Pairs with a common home shard, compared with pairs without.
    CrossShard {
        /// The pairs without a rate.
        full: TrafficPlan,
        /// The pairs with a rate.
        paced: TrafficPlan,
    },
    /// Clients that connect, ping, and leave.
    Million {
        /// The number of clients.
        clients: u32,
        /// Connections per second; 0 connects as fast as possible.
        rate: u32,
        /// Whether each client has one subscription.
        subscribe: bool,
    },
    /// Clients whose connections all end at once, and that return.
    Storm {
        /// The number of clients.
        clients: u32,
    },
    /// Devices with heartbeats and statuses, and backends.
    Fleet {
        /// The number of devices.
        clients: u32,
    },
    /// Sessions that receive messages while their clients are disconnected.
    Queue {
        /// The number of clients.
        clients: u32,
    },
    /// Subscribers to which many retained messages are sent.
    Retained {
        /// The number of subscribers.
        subscribers: u32,
    },
    /// Clients that publish to their own topic and wait for the message, QoS 0, 20-byte packets.
    Echo {
        /// The number of clients.
        clients: u32,
        /// Messages under way per client.
        depth: u32,
    },
}

impl ScenarioKind {
    /// Whether the broker needs a large in-flight window and long queues, so that it is measured
    /// and not the bounds of its configuration.
    pub fn fills_queues(&self) -> bool {
        match self {
            ScenarioKind::Traffic(plan) => plan.qos > 0,
            ScenarioKind::CrossShard { full, paced } => full.qos > 0 || paced.qos > 0,
            ScenarioKind::Fleet { .. }
            | ScenarioKind::Queue { .. }
            | ScenarioKind::Retained { .. } => true,
            ScenarioKind::Idle { .. }
            | ScenarioKind::Million { .. }
            | ScenarioKind::Storm { .. }
            | ScenarioKind::Echo { .. } => false,
        }
    }

    /// Whether its report has a series over time, which can be drawn.
    pub fn has_course(&self) -> bool {
        !matches!(
            self,
            ScenarioKind::Idle { .. } | ScenarioKind::CrossShard { .. } | ScenarioKind::Echo { .. }
        )
    }
}

/// A named scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The name given to `--scenario`.
    pub name: &'static str,
    /// One sentence for the list of scenarios.
    pub about: &'static str,
    /// What the scenario does.
    pub kind: ScenarioKind,
    /// Whether `compare` runs it when no scenario is named.
    pub compared: bool,
}

const fn traffic(name: &'static str, about: &'static str, plan: TrafficPlan) -> Scenario {
    Scenario { name, about, kind: ScenarioKind::Traffic(plan), compared: true }
}

const fn pairs(count: u32, qos: u8, rate: u32) -> TrafficPlan {
    let (shape, window) = (Shape::Pairs, 100);
    TrafficPlan { shape, publishers: count, subscribers: count, qos, window, rate, burst: 1 }
}

const FAN_IN: TrafficPlan = TrafficPlan {
    shape: Shape::FanIn,
    publishers: 1000,
    subscribers: 5,
    qos: 1,
    window: 100,
    rate: 20_000,
    burst: 1,
};
const FAN_OUT: TrafficPlan = TrafficPlan {
    shape: Shape::FanOut,
    publishers: 5,
    subscribers: 1000,
    qos: 0,
    window: 100,
    rate: 50,
    burst: 1,
};

/// All scenarios, in the order of the report.
pub const ALL: &[Scenario] = &[
    traffic("pairs-max-qos0", "100 pairs, QoS 0, as fast as they go", pairs(100, 0, 0)),
    traffic("pairs-max-qos1", "100 pairs, QoS 1, window 100", pairs(100, 1, 0)),
    traffic("pairs-max-qos2", "100 pairs, QoS 2, window 100", pairs(100, 2, 0)),
    traffic("paced-1000-qos0", "1,000 pairs, QoS 0, 10,000 messages/s", pairs(1000, 0, 10_000)),
    traffic("paced-1000-qos1", "1,000 pairs, QoS 1, 10,000 messages/s", pairs(1000, 1, 10_000)),
    traffic("fanin", "1,000 publishers to 5 subscribers, QoS 1, 20,000 messages/s", FAN_IN),
    traffic("fanout", "5 publishers to 1,000 subscribers, QoS 0, 50,000 deliveries/s", FAN_OUT),
    Scenario {
        name: "idle",
        about: "15,000 silent clients with one subscription: memory, and CPU to come in",
        kind: ScenarioKind::Idle { clients: 15_000 },
        compared: true,
    },
    Scenario {
        name: "echo",
        about: "200 clients publish to their own topic, QoS 0, one message outstanding",
        kind: ScenarioKind::Echo { clients: 200, depth: 1 },
        compared: false,
    },
    Scenario {
        name: "million",
        about: "a million clients with one subscription each that come in, ping and leave",
        kind: ScenarioKind::Million { clients: 1_000_000, rate: 0, subscribe: true },
        compared: false,
    },
    Scenario {
        name: "storm",
        about: "100,000 clients drop at once and return; steady pairs stay (--drop reset|close)",
        kind: ScenarioKind::Storm { clients: 100_000 },
        compared: false,
    },
    Scenario {
        name: "fleet",
        about: "100,000 devices: heartbeat every 15 s, answered status every 60 s, 4 backends",
        kind: ScenarioKind::Fleet { clients: 100_000 },
        compared: false,
    },
    Scenario {
        name: "queue",
        about: "10,000 sessions get 10 messages each while away (--messages), then return at once",
        kind: ScenarioKind::Queue { clients: 10_000 },
        compared: false,
    },
    Scenario {
        name: "retained",
        about: "100,000 retained messages (--messages), told to 20 wildcard subscribers at once",
        kind: ScenarioKind::Retained { subscribers: 20 },
        compared: false,
    },
    Scenario {
        name: "conn-tcp-1M-5K",
        about: "1,000,000 connections, 5,000 per second",
        kind: ScenarioKind::Million { clients: 1_000_000, rate: 5000, subscribe: false },
        compared: false,
    },
    Scenario {
        compared: false,
        ..traffic(
            "p2p-50K-50K-50K-50K",
            "50,000 pairs with a topic each, QoS 1, 50,000 messages/s",
            pairs(50_000, 1, 50_000),
        )
    },
    Scenario {
        compared: false,
        ..traffic(
            "fanout-5-1000-5-250K",
            "5 publishers and topics to 1,000 subscribers, QoS 1, 250,000 deliveries/s",
            TrafficPlan { qos: 1, rate: 250, ..FAN_OUT },
        )
    },
    Scenario {
        compared: false,
        ..traffic(
            "sharedsub-50K-500-50K-50K",
            "50,000 publishers to 500 subscribers that share, QoS 1, 50,000 messages/s",
            TrafficPlan {
                shape: Shape::Shared,
                publishers: 50_000,
                subscribers: 500,
                rate: 50_000,
                ..FAN_IN
            },
        )
    },
    Scenario {
        name: "crossshard",
        about: "100 pairs, QoS 0, on one shard against on two, at full speed and paced",
        kind: ScenarioKind::CrossShard { full: pairs(100, 0, 0), paced: pairs(100, 0, 1000) },
        compared: false,
    },
];

/// The scenario called `name`.
pub fn find(name: &str) -> Result<&'static Scenario, String> {
    ALL.iter().find(|s| s.name == name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|s| s.name).collect();
        format!("there is no scenario {name}; there are: {}", names.join(", "))
    })
}

/// What a run needs besides the scenario.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The broker's address.
    pub target: SocketAddrV4,
    /// The broker's first process; without it, CPU time and memory are not in the report.
    pub pid: Option<i32>,
    /// Measured seconds.
    pub seconds: f64,
    /// Seconds of traffic before the measured ones.
    pub warmup: f64,
    /// The protocol version of all clients.
    pub version: Version,
    /// Application message size in bytes, at least [`traffic::HEADER`].
    pub payload: usize,
    /// The prefix of ClientIds and topics.
    pub salt: String,
    /// The broker's admin server, which tells on which shard a client lives.
    pub admin: Option<SocketAddr>,
    /// The most connections under way at once.
    pub joining: u32,
    /// Replaces the scenario's number of clients; with traffic, of publishers and, for pairs, of
    /// subscribers, too.
    pub clients: Option<u32>,
    /// Replaces the scenario's rate.
    pub rate: Option<u32>,
    /// Replaces the scenario's burst.
    pub burst: Option<u32>,
    /// Replaces the window of traffic or the depth of echo.
    pub window: Option<u16>,
    /// Shards of the broker, which `crossshard` needs.
    pub shards: u8,
    /// Seconds between pings of one client, instead of the scenario's; 0 for neither pings nor Keep
    /// Alive.
    pub ping: Option<u32>,
    /// Multiplies the scenario's clients and rates.
    pub scale: f64,
    /// Divides the intervals of a fleet's messages, which then resemble those of more devices.
    pub speed: f64,
    /// Whether connections are dropped by a reset; otherwise by an orderly close.
    pub reset: bool,
    /// Seconds that connected clients stay.
    pub hold: f64,
    /// Messages per client (`queue`) or in all (`retained`), instead of the scenario's.
    pub messages: Option<u32>,
    /// TLS below MQTT, if any.
    pub tls: Option<Arc<tls::TlsSettings>>,
    /// The path of WebSockets that carry MQTT, if any.
    pub web: Option<Arc<str>>,
    /// A listener of the same broker without TLS and WebSockets, which probes use.
    pub plain: Option<SocketAddrV4>,
    /// Probes beside the scenarios `million`, `conn-tcp-1M-5K` and `storm`.
    pub probes: probe::ProbePlan,
    /// Rounds of a scenario that compares by itself (`crossshard`).
    pub repeat: Option<u32>,
    /// Whether the echo scenario sends bare bytes to an echo server instead of MQTT.
    pub raw: bool,
    /// Serves the figures while the run goes on.
    pub exporter: Option<Exporter>,
}

impl RunSettings {
    /// The broker's address in the form that [`crate::clients::Net`] takes.
    pub fn targets(&self) -> [SocketAddr; 1] {
        [self.target.into()]
    }
}

/// `number` times `scale`, at least 1; 0 stays 0.
fn times(number: u32, scale: f64) -> u32 {
    if number == 0 { 0 } else { ((f64::from(number) * scale).round() as u32).max(1) }
}

/// A smaller or larger plan of the same shape, in which the work of one client stays the same.
fn scaled(plan: TrafficPlan, scale: f64) -> TrafficPlan {
    let subscribers = times(plan.subscribers, scale);
    match plan.shape {
        Shape::FanOut => TrafficPlan { subscribers, ..plan },
        Shape::Pairs | Shape::FanIn | Shape::Shared => {
            let publishers = times(plan.publishers, scale);
            TrafficPlan { publishers, subscribers, rate: times(plan.rate, scale), ..plan }
        }
    }
}

/// The tables of a scenario whose report has a form of its own; `None` for other scenarios.
pub fn table(scenario: &Scenario, report: &Value) -> Option<String> {
    match scenario.kind {
        ScenarioKind::CrossShard { .. } => Some(crossshard::table(report)),
        ScenarioKind::Storm { .. } => Some(storm::table(report)),
        ScenarioKind::Fleet { .. } => Some(fleet::table(report)),
        ScenarioKind::Million { .. } => Some(million::table(scenario.name, report)),
        ScenarioKind::Queue { .. } => Some(queue::table(report)),
        ScenarioKind::Retained { .. } => Some(retained::table(report)),
        ScenarioKind::Traffic(_) | ScenarioKind::Idle { .. } | ScenarioKind::Echo { .. } => None,
    }
}

/// The scenario's kind with the numbers that these settings replace.
fn effective(kind: ScenarioKind, settings: &RunSettings) -> ScenarioKind {
    let clients = |number| settings.clients.unwrap_or(times(number, settings.scale));
    match kind {
        ScenarioKind::Traffic(plan) => {
            let mut plan = scaled(plan, settings.scale);
            if let Some(clients) = settings.clients {
                plan.publishers = clients;
                if plan.shape == Shape::Pairs {
                    plan.subscribers = clients;
                }
            }
            plan.rate = settings.rate.unwrap_or(plan.rate);
            plan.burst = settings.burst.unwrap_or(plan.burst);
            plan.window = settings.window.unwrap_or(plan.window);
            ScenarioKind::Traffic(plan)
        }
        ScenarioKind::Million { clients: number, rate, subscribe } => {
            let rate = settings.rate.unwrap_or(times(rate, settings.scale));
            ScenarioKind::Million { clients: clients(number), rate, subscribe }
        }
        ScenarioKind::Storm { clients: number } => ScenarioKind::Storm { clients: clients(number) },
        ScenarioKind::Fleet { clients: number } => ScenarioKind::Fleet { clients: clients(number) },
        ScenarioKind::Queue { clients: number } => ScenarioKind::Queue { clients: clients(number) },
        ScenarioKind::Retained { subscribers } => {
            ScenarioKind::Retained { subscribers: clients(subscribers) }
        }
        ScenarioKind::CrossShard { full, paced } => {
            let rate = settings.rate.unwrap_or(paced.rate);
            ScenarioKind::CrossShard { full, paced: TrafficPlan { rate, ..paced } }
        }
        ScenarioKind::Idle { clients } => {
            ScenarioKind::Idle { clients: settings.clients.unwrap_or(clients) }
        }
        ScenarioKind::Echo { clients, depth } => ScenarioKind::Echo {
            clients: settings.clients.unwrap_or(clients),
            depth: settings.window.map_or(depth, u32::from),
        },
    }
}

/// The scenario in one line, with the numbers that are used.
pub fn headline(scenario: &Scenario, settings: &RunSettings) -> String {
    let number = |number: u32| grouped(f64::from(number));
    let text = match effective(scenario.kind, settings) {
        ScenarioKind::Traffic(plan) => traffic_headline(&plan, settings.payload),
        ScenarioKind::Idle { clients } => {
            format!("{} silent clients with one subscription each", number(clients))
        }
        ScenarioKind::Echo { clients, depth } => {
            let bytes = echo::MESSAGE;
            format!("{} clients, {bytes}-byte messages, {depth} outstanding each", number(clients))
        }
        ScenarioKind::Million { clients, rate: 0, .. } => {
            format!("{} connections", number(clients))
        }
        ScenarioKind::Million { clients, rate, .. } => {
            format!("{} connections, {} per second", number(clients), number(rate))
        }
        ScenarioKind::Storm { clients } => format!("{} clients drop at once", number(clients)),
        ScenarioKind::Fleet { clients } => format!("{} devices", number(clients)),
        ScenarioKind::Queue { clients } => {
            format!("{} sessions whose clients return", number(clients))
        }
        ScenarioKind::Retained { subscribers } => {
            format!("{} subscribers at once", number(subscribers))
        }
        ScenarioKind::CrossShard { full, .. } => {
            format!("{} pairs on one shard against on two", number(full.publishers))
        }
    };
    let protocol = if settings.version == Version::V5 { ", MQTT 5" } else { "" };
    format!("{}: {text}{protocol}", scenario.name)
}

fn traffic_headline(plan: &TrafficPlan, payload: usize) -> String {
    let number = |number: u32| grouped(f64::from(number));
    let (publishers, subscribers) = (number(plan.publishers), number(plan.subscribers));
    let mut text = match plan.shape {
        Shape::Pairs => format!("{publishers} pairs"),
        Shape::FanIn | Shape::FanOut => {
            format!("{publishers} publishers to {subscribers} subscribers")
        }
        Shape::Shared => format!("{publishers} publishers to {subscribers} subscribers that share"),
    };
    text.push_str(&format!(", QoS {}", plan.qos));
    if plan.rate == 0 && plan.qos > 0 {
        text.push_str(&format!(", window {}", plan.window));
    }
    text.push_str(&match plan.rate {
        0 => ", as fast as they go".to_string(),
        rate => format!(", {} messages/s", number(rate)),
    });
    if plan.rate > 0 && plan.shape == Shape::FanOut {
        let deliveries = f64::from(plan.rate) * f64::from(plan.subscribers);
        text.push_str(&format!(" ({} deliveries/s)", grouped(deliveries)));
    }
    if plan.rate > 0 && plan.burst > 1 {
        text.push_str(&format!(", {} at a time", number(plan.burst)));
    }
    format!("{text}, {payload} bytes")
}

/// Runs `scenario` and returns its report.
pub fn run(scenario: &Scenario, settings: &RunSettings) -> Result<Value, String> {
    let mut report = match effective(scenario.kind, settings) {
        ScenarioKind::Traffic(plan) => {
            traffic::run(plan, Names::Numbered(settings.salt.clone()), settings)?
        }
        ScenarioKind::Million { clients, rate, subscribe } => {
            million::run(clients, rate, subscribe, settings)?
        }
        ScenarioKind::Storm { clients } => storm::run(clients, settings)?,
        ScenarioKind::Fleet { clients } => fleet::run(clients, settings)?,
        ScenarioKind::Queue { clients } => queue::run(clients, settings)?,
        ScenarioKind::Retained { subscribers } => retained::run(subscribers, settings)?,
        ScenarioKind::CrossShard { full, paced } => crossshard::run(full, paced, settings)?,
        ScenarioKind::Idle { clients } => idle::run(clients, settings)?,
        ScenarioKind::Echo { clients, depth } => echo::run(clients, depth, settings)?,
    };
    report["scenario"] = scenario.name.into();
    report["headline"] = headline(scenario, settings).into();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Job, parse_from};

    #[test]
    fn a_broker_gets_long_queues_for_the_scenarios_that_fill_them() {
        let with = |scenario: &&Scenario| scenario.kind.fills_queues();
        let names: Vec<&str> = ALL.iter().filter(with).map(|scenario| scenario.name).collect();
        for name in ["pairs-max-qos1", "pairs-max-qos2", "fanin", "fleet", "queue", "retained"] {
            assert!(names.contains(&name), "{name}");
        }
        for name in ["pairs-max-qos0", "fanout", "idle", "echo", "million", "storm", "crossshard"] {
            assert!(find(name).is_ok() && !names.contains(&name), "{name}");
        }
    }

    fn headline_of(words: &str) -> String {
        let words = format!("ringmq-bench run --target 127.0.0.1:1 --scenario {words}");
        let Ok(Job::Run { scenario, settings, .. }) = parse_from(words.split(' ')) else {
            panic!("a run: {words}")
        };
        headline(scenario, &settings)
    }

    #[test]
    fn a_headline_has_the_numbers_that_are_used() {
        for (words, want) in [
            (
                "fanin",
                "fanin: 1,000 publishers to 5 subscribers, QoS 1, 20,000 messages/s, 64 bytes",
            ),
            (
                "fanin --clients 7 --rate 0 --window 3 --payload 100 --protocol 5",
                "fanin: 7 publishers to 5 subscribers, QoS 1, window 3, as fast as they go, 100 \
                 bytes, MQTT 5",
            ),
            (
                "fanout --rate 20",
                "fanout: 5 publishers to 1,000 subscribers, QoS 0, 20 messages/s (20,000 \
                 deliveries/s), 64 bytes",
            ),
            (
                "paced-1000-qos0 --scale 0.5 --burst 10",
                "paced-1000-qos0: 500 pairs, QoS 0, 5,000 messages/s, 10 at a time, 64 bytes",
            ),
            ("idle --clients 12", "idle: 12 silent clients with one subscription each"),
            ("echo --window 16", "echo: 200 clients, 20-byte messages, 16 outstanding each"),
            ("conn-tcp-1M-5K --scale 0.01", "conn-tcp-1M-5K: 10,000 connections, 50 per second"),
        ] {
            assert_eq!(headline_of(words), want);
        }
    }

    #[test]
    fn a_table_without_figures_has_dashes() {
        let empty = serde_json::json!({"memory": {}, "host": {}, "latency_ms": {"count": 1},
            "probes": {"phases": {"joining": {}}}});
        for scenario in ALL {
            let text = table(scenario, &empty).unwrap_or_default();
            let text = text + &crate::summary::table(&empty);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{}: {text}", scenario.name);
        }
    }
}
