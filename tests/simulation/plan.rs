//! What a seed decides before a run: settings, faults, who the clients are, how it ends.

use crate::client::Client;
use crate::net::Faults;
use crate::rng::Rng;
use crate::settings::roomy;
use crate::world::{Plan, layered_entrance, listener_state, web};
use ringmq::config::{OnFull, SharedStrategy};
use ringmq::limits::{Budget, MAIL_WORK};
use ringmq::mesh::ListenerState;
use ringmq::packet::{MAX_PACKET_SIZE, Version};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;
use ringmq::transport::Stack;
use ringmq::transport::network::{Network, Networks};
use ringmq::transport::proxy::Versions;

/// The first clients only watch: they never fail and never leave before the end.
pub const WATCHERS: usize = 3;
pub const CALM: Faults =
    Faults { hand_over_fails: 0, late: 0, split: 0, receive: 65_536, torn: 0, eager: 0 };

/// How time passes, besides walking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Jumps {
    None,
    /// Seconds: a machine that stalls.
    Short,
    /// Hours: one that was asleep.
    Long,
}

/// What a seed switches on.
#[derive(Clone, Debug)]
pub struct Features {
    /// Per mille of a client's turns that end its connection somehow.
    pub unrest: usize,
    pub jumps: Jumps,
    pub clients: usize,
    pub ticks: usize,
    /// Messages have a Message Expiry Interval now and then.
    pub expiring: bool,
    /// Clients have a keep-alive.
    pub keep_alive: bool,
    /// The configuration is reloaded now and then.
    pub reloads: bool,
    /// Peers that keep to no rule.
    pub hostile: bool,
    /// Attacks by what is allowed, each by some peers.
    pub assaults: usize,
    /// A client on each shard pings.
    pub bystanders: bool,
    /// Retained messages are limited.
    pub retained_limit: bool,
    /// The broker is stopped in the end, and its clients did not leave before.
    pub drain: bool,
    /// This shard is seldom scheduled.
    pub lazy: Option<usize>,
    /// Completions per step.
    pub limit: usize,
    /// A step's share of work for data mail.
    pub mail: u32,
    /// Clients publish to themselves and to each other in bursts, often with short queues.
    pub echoes: bool,
    /// Topics of all clients begin with it.
    pub mountpoint: &'static str,
    /// Some settings are at their extremes.
    pub extreme: bool,
    /// Clients may leave their ClientId to the broker.
    pub nameless: bool,
    /// Memory is short now and then.
    pub memory: bool,
    /// Per mille of the clients' connections that have layers below MQTT, at the last listener.
    pub layered: usize,
}

const STRATEGIES: [SharedStrategy; 5] = [
    SharedStrategy::RoundRobin,
    SharedStrategy::Random,
    SharedStrategy::Sticky,
    SharedStrategy::HashTopic,
    SharedStrategy::HashClient,
];

pub fn features(rng: &mut Rng, shards: usize) -> Features {
    let hostile = rng.chance(250);
    let assaults = if hostile { rng.below(4) } else { 0 };
    let clients = match rng.below(20) {
        _ if assaults > 0 => rng.range(4, 30),
        0 => rng.range(200, 400),
        1..=3 => rng.range(80, 200),
        _ => rng.range(4, 60),
    };
    Features {
        unrest: [0, 2, 10, 40][rng.below(4)],
        jumps: match rng.below(10) {
            0 => Jumps::Long,
            1..=3 => Jumps::Short,
            _ => Jumps::None,
        },
        clients,
        ticks: rng.range(3000, 20_000),
        expiring: rng.chance(250),
        keep_alive: rng.chance(300),
        reloads: rng.chance(200),
        hostile,
        assaults,
        bystanders: hostile || rng.chance(300),
        retained_limit: rng.chance(150),
        drain: rng.chance(250),
        lazy: rng.chance(200).then(|| rng.below(shards)),
        limit: [1, 3, 64, 512][rng.below(4)],
        mail: [1, 12, 60, MAIL_WORK][rng.below(4)],
        echoes: rng.chance(300),
        mountpoint: if rng.chance(100) { "tenant/" } else { "" },
        extreme: false,
        nameless: true,
        memory: false,
        layered: 0,
    }
}

/// Settings at their extremes, some at a time, within which the clients keep the rules all the
/// same. `rng` is one of its own: the seeds' other choices stay what they are.
fn extremes(settings: &mut Settings, features: &mut Features, rng: &mut Rng) {
    if features.mountpoint.is_empty() && rng.chance(100) || rng.chance(500) {
        features.mountpoint =
            ["tenant/", "\u{fc}/\u{30c6}\u{30ca}\u{30f3}\u{30c8}/", "/"][rng.below(3)];
    }
    for _ in 0..rng.range(1, 4) {
        match rng.below(9) {
            0 => settings.max_inflight = [1, u16::MAX][rng.below(2)],
            1 => settings.receive_maximum = [1, u16::MAX][rng.below(2)],
            2 => {
                settings.max_topic_alias = [0, u16::MAX][rng.below(2)];
                settings.topic_alias_outbound = [0, u16::MAX][rng.below(2)];
            }
            3 => {
                settings.pending.messages = rng.below(2);
                settings.pending.bytes = [0, 600][rng.below(2)];
            }
            4 => (settings.session_expiry_default, settings.session_expiry_max) = (0, 0),
            5 => settings.max_qos = rng.below(2) as u8,
            6 => {
                settings.response_information = "response/\u{fc}/".into();
                settings.max_client_id_length = 65_535;
                settings.max_topic_levels = 1024;
            }
            7 => settings.max_packet_size = [24_000, MAX_PACKET_SIZE][rng.below(2)],
            _ => {
                (settings.max_client_id_length, settings.max_topic_levels) = (16, 4);
                (settings.empty_client_id, features.nameless) = (false, false);
            }
        }
    }
}

/// The first listener is for everybody, the others for peers that keep to nothing.
fn listener_states(rng: &mut Rng, mountpoint: &str) -> Vec<ListenerState> {
    let mut first = listener_state(mountpoint);
    if rng.chance(100) {
        first.max_connect_rate = Some(rng.range(20, 200) as u32);
    }
    vec![first, listener_state("hostile/${client_id}/"), listener_state("")]
}

/// Settings within which the clients keep the rules whatever is reloaded.
pub fn vary(settings: &mut Settings, rng: &mut Rng) {
    settings.max_inflight = rng.range(1, 40) as u16;
    settings.outgoing_max_bytes = [4096, 65_536, 1 << 20][rng.below(3)];
    settings.queue_qos0 = rng.chance(300);
    settings.topic_alias_outbound = [0, 3, 100][rng.below(3)];
    settings.shared_strategy = STRATEGIES[rng.below(5)];
    settings.reason_strings = rng.chance(500);
    tell_events(settings);
}

/// Whether events are told, which takes no draw. Where a full queue disconnects, a client
/// that watches events would be disconnected by those about itself, for ever.
fn tell_events(settings: &mut Settings) {
    let told = settings.queue_qos0 && settings.pending.on_full != OnFull::Disconnect;
    settings.events = if told { u8::MAX } else { 0 };
}

pub fn settings(rng: &mut Rng, features: &Features) -> Settings {
    let mut settings = roomy();
    vary(&mut settings, rng);
    if rng.chance(if features.echoes { 700 } else { 300 }) {
        let on_full = [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect][rng.below(3)];
        let (messages, bytes) = (rng.range(4, 200), rng.range(1000, 100_000));
        settings.pending = PendingBounds { messages, bytes, on_full };
        tell_events(&mut settings);
    }
    settings.receive_maximum = 16;
    settings.retry_interval = if rng.chance(200) { 1000 } else { 0 };
    settings.sys_interval = if rng.chance(250) { [500, 3000][rng.below(2)] } else { 0 };
    if features.keep_alive && rng.chance(300) {
        settings.keep_alive_max = 5;
    }
    if features.retained_limit {
        settings.retained_max_messages = rng.range(1, 30) as u64;
        settings.retained_max_payload = [16, 1000][rng.below(2)];
        settings.retained_max_bytes = rng.range(100, 3000) as u64;
    }
    if rng.chance(700) {
        settings.budget = small_budget(rng);
    }
    if rng.chance(100) {
        settings.max_connections = (WATCHERS + features.clients / 2) as u64;
    }
    settings
}

/// Steps so small that a few packets, filters and subscribers go on in the next one.
fn small_budget(rng: &mut Rng) -> Budget {
    let step = [100, 500, 3000][rng.below(3)];
    Budget {
        step,
        turn: step / [3, 10][rng.below(2)],
        subscribers_at_once: [0, 1, 3, 128][rng.below(4)],
        filters_at_once: [0, 1, 64][rng.below(3)],
        ahead: step,
    }
}

/// WebSockets, TLS, a proxy, or some of them.
fn stack(rng: &mut Rng) -> Stack {
    let tls = rng.chance(500);
    let proxy = match rng.below(5) {
        0 => Some(Versions::V1),
        1 => Some(Versions::V2),
        _ => None,
    };
    let web = (proxy.is_none() && !tls || rng.chance(400)).then(web);
    Stack { proxy, tls, web, ..Stack::default() }
}

pub fn plan(seed: u64, rng: &mut Rng) -> (Plan, Features, Faults) {
    let shards = match rng.below(20) {
        0 => 16,
        1..=3 => rng.range(6, 15),
        _ => rng.range(1, 5),
    };
    let mut features = features(rng, shards);
    let mut settings = settings(rng, &features);
    let mut own = Rng::new(seed ^ 0x5eed_e874_e3e5);
    features.extreme = own.chance(300);
    if features.extreme {
        extremes(&mut settings, &mut features, &mut own);
    }
    let mut own = Rng::new(seed ^ 0x3e30_7212_11ab);
    features.memory = own.chance(250) && features.assaults == 0;
    if features.memory {
        // Enough for the clients, not for what they may have waiting.
        let clients = 2000 * (WATCHERS + features.clients) as u64;
        settings.memory = 60_000 + clients + own.below(400_000) as u64;
    }
    let mut own = Rng::new(seed ^ 0x0b0d_9e70_11ab);
    if settings.budget == Budget::BROKER && !features.memory && own.chance(700) {
        settings.budget = small_budget(&mut own);
    }
    // In most runs mailboxes are as full as their rings let them be.
    if Rng::new(seed ^ 0xa4ea_d000_11ab).chance(600) {
        settings.budget.ahead = u32::MAX;
    }
    let faults = Faults {
        hand_over_fails: [0, 0, 0, 50, 50, 50, 50, 50, 600, 990][rng.below(10)],
        late: [0, 200, 600][rng.below(3)],
        split: [0, 300, 700][rng.below(3)],
        receive: [7, 64, 1000, 65_536][rng.below(4)],
        torn: [0, 100, 400][rng.below(3)],
        eager: [0, 300][rng.below(2)],
    };
    let (data, control) = (rng.range(4, 40), rng.range(1, 40));
    let mut listener_states = listener_states(rng, features.mountpoint);
    let mut own = Rng::new(seed ^ 0x3eb_50c_4e7);
    // The rate of one listener would be that of two.
    if own.chance(500) && listener_states[0].max_connect_rate.is_none() {
        features.layered = [100, 500, 1000][own.below(3)];
        let stack = stack(&mut Rng::new(seed ^ 0x0715_0915));
        if stack.proxy.is_some() {
            settings.trusted_proxies = Networks(vec![Network::around("127.0.0.1").unwrap()]);
        }
        listener_states.push(layered_entrance(features.mountpoint, stack));
    }
    // They come in before anybody else, and stay.
    features.bystanders &=
        listener_states.iter().all(|listener_state| listener_state.max_connect_rate.is_none());
    features.bystanders &= settings.max_connections == u64::MAX;
    let plan = Plan { seed, shards, data, control, settings, faults: CALM, listener_states };
    (plan, features, faults)
}

pub fn new_client(at: usize, rng: &mut Rng, features: &Features) -> Client {
    if at < WATCHERS {
        // Version 3: the broker cannot impose a keep-alive on it.
        return Client::new(at, format!("watcher-{at}"), Version::V311);
    }
    let version = [Version::V31, Version::V311, Version::V5, Version::V5][rng.below(4)];
    let mut client = Client::new(at, format!("client-{at}"), version);
    client.always_clean = version == Version::V31 || rng.chance(200);
    client.slow = rng.chance(150);
    if features.keep_alive {
        client.keep_alive = [0, 2, 5][rng.below(3)];
    }
    if version != Version::V31 && rng.chance(50) && features.nameless {
        client.client_id.clear();
        client.nameless = true;
        // [MQTT-3.1.3-7] of 3.1.1
        client.always_clean |= version == Version::V311;
    }
    if version.is_v5() {
        client.expiry = [0, 5, 60, 100, 500][rng.below(5)];
        client.receive_maximum = [1, 3, 20, u16::MAX][rng.below(4)];
        client.alias_maximum = [0, 2, 50][rng.below(3)];
        client.packet_maximum = if rng.chance(100) { 80 } else { u32::MAX };
        client.aliasing = rng.chance(400);
    }
    client
}
