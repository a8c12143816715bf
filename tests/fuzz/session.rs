//! Target `session`: whole shards on the simulation's network, and a handful of clients that say
//! anything in any order: CONNECT with any options, packets in sequence and out of it, damaged and
//! cut short, answers to nothing, silence, time, torn connections. No panic; what the broker sends
//! is legal ([`Witness`]); its books agree ([`ringmq::shard::Audit`]); queues keep to their bounds;
//! and when everybody has gone nothing is left.

use crate::input::Input;
use crate::net::{ConnId, End, Faults};
use crate::settings::roomy;
use crate::speech;
use crate::witness::{Ledger, Owed, Witness};
use crate::world::{Plan, World, listener_state};
use ringmq::config::{OnFull, SharedStrategy};
use ringmq::packet::{self, Ack, AckKind, MAX_PACKET_SIZE, PacketId, ReasonCode, Version};
use ringmq::session::pending::PendingBounds;
use ringmq::shard::Settings;

/// Connections open at a time.
const CONNECTIONS: usize = 6;
/// Bytes of the largest message, about.
const LONGEST: usize = 65_536;
/// Steps of one input.
const STEPS: usize = 250;
/// Bytes that clients say in one input: a flood is cheap to ask for.
const SPEECH: usize = 128 * 1024;

/// What a run saw.
#[derive(Default, Debug)]
pub struct Seen {
    /// Packets from the broker.
    pub packets: usize,
    /// Those were to so many connections.
    pub connections: usize,
}

struct Client {
    conn: ConnId,
    witness: Witness,
    reading: bool,
}

struct Session {
    world: World,
    settings: Settings,
    ledger: Ledger,
    mountpoints: [&'static str; 2],
    clients: Vec<Client>,
    said: usize,
    seen: Seen,
}

pub fn run(data: &[u8]) {
    play(data);
}

/// One run.
pub fn play(data: &[u8]) -> Seen {
    let mut input = Input::new(data);
    let mut session = Session::new(&mut input);
    for _ in 0..STEPS {
        if input.is_empty() || session.said > SPEECH {
            break;
        }
        session.step(&mut input);
    }
    session.check();
    session.end();
    session.seen
}

/// The most and the least that settings allow. From bits of the first two bytes that mean nothing
/// else, so that they meet every other choice.
fn extremes(settings: &mut Settings, shape: u8, faulty: u8) {
    if shape & 16 != 0 {
        settings.max_inflight = u16::MAX;
        settings.receive_maximum = u16::MAX;
        settings.max_topic_alias = u16::MAX;
        settings.topic_alias_outbound = u16::MAX;
        settings.max_packet_size = MAX_PACKET_SIZE;
        settings.max_topic_levels = 1024;
    }
    if shape & 32 != 0 {
        settings.pending.messages = usize::from(shape & 64 != 0);
        settings.pending.bytes = [0, 600][usize::from(shape & 64 != 0)];
        settings.max_inflight = 1;
        settings.max_topic_alias = 0;
        settings.retained_max_bytes = 100;
    }
    if shape & 64 != 0 {
        settings.response_information = "response/\u{fc}/".into();
        settings.max_client_id_length = 65_535;
    }
    if shape & 128 != 0 {
        settings.message_expiry_max = Some(u32::from(faulty & 64 != 0));
        settings.retained_max_payload = 1;
        settings.session_expiry_default = 0;
        settings.session_expiry_max = 0;
    }
    if faulty & 128 != 0 {
        settings.max_client_id_length = 1;
        settings.empty_client_id = false;
        settings.max_topic_levels = 1;
    }
}

/// The listeners' mountpoints.
fn mountpoints(shape: u8, faulty: u8) -> [&'static str; 2] {
    let all = ["dev/", "\u{fc}/${client_id}/", "${username}/", "a/"];
    if shape & 8 == 0 { ["", ""] } else { ["", all[usize::from(faulty >> 5 & 3)]] }
}

fn settings(input: &mut Input<'_>) -> Settings {
    let (queues, protocol, features) = (input.byte(), input.byte(), input.byte());
    let on_full = [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect];
    let strategies = [
        SharedStrategy::RoundRobin,
        SharedStrategy::Random,
        SharedStrategy::Sticky,
        SharedStrategy::HashTopic,
        SharedStrategy::HashClient,
    ];
    let few = queues & 8 != 0;
    Settings {
        pending: PendingBounds {
            messages: if few { 3 } else { 200 },
            bytes: if few { 600 } else { 1 << 16 },
            on_full: on_full[usize::from(queues & 7) % 3],
        },
        queue_qos0: queues & 16 != 0,
        outgoing_max_bytes: if queues & 32 != 0 { 1 << 20 } else { 2048 },
        max_inflight: if queues & 64 != 0 { 2 } else { 20 },
        receive_maximum: if queues & 128 != 0 { 1 } else { 10 },
        shared_strategy: strategies[usize::from(protocol & 7) % 5],
        retry_interval: if protocol & 8 != 0 { 5000 } else { 0 },
        max_packet_size: if protocol & 16 != 0 { 120 } else { 1 << 16 },
        topic_alias_outbound: if protocol & 32 != 0 { 2 } else { 0 },
        max_qos: [2, 2, 1, 0][usize::from(protocol >> 6)],
        retain: features & 1 == 0,
        wildcard_subscriptions: features & 2 == 0,
        shared_subscriptions: features & 4 == 0,
        subscription_identifiers: features & 8 == 0,
        retained_expiry: if features & 16 != 0 { 20 } else { 0 },
        retained_max_messages: if features & 32 != 0 { 2 } else { u64::MAX },
        max_subscriptions: if features & 64 != 0 { 2 } else { 1000 },
        keep_alive_max: if features & 128 != 0 { 20 } else { u16::MAX },
        session_expiry_default: 30,
        session_expiry_max: 60,
        max_topic_levels: 8,
        ..roomy()
    }
}

impl Session {
    fn new(input: &mut Input<'_>) -> Self {
        let (shape, faulty) = (input.byte(), input.byte());
        let mut settings = settings(input);
        extremes(&mut settings, shape, faulty);
        let mountpoints = mountpoints(shape, faulty);
        let small = shape & 4 != 0;
        let plan = Plan {
            seed: u64::from(shape),
            shards: [1, 2, 2, 3][usize::from(shape & 3)],
            data: if small { 4 } else { 32 },
            control: if small { 1 } else { 32 },
            settings: settings.clone(),
            faults: Faults {
                hand_over_fails: if faulty & 1 != 0 { 100 } else { 0 },
                late: if faulty & 2 != 0 { 400 } else { 0 },
                split: if faulty & 4 != 0 { 500 } else { 0 },
                receive: [65_536, 1, 7, 100][usize::from(faulty >> 3 & 3)],
                torn: if faulty & 32 != 0 { 300 } else { 0 },
                eager: if faulty & 64 != 0 { 300 } else { 0 },
            },
            listener_states: mountpoints.map(listener_state).into(),
        };
        Session {
            world: World::new(plan),
            settings,
            ledger: Ledger::default(),
            mountpoints,
            clients: Vec::new(),
            said: 0,
            seen: Seen::default(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.byte();
        match choice % 32 {
            0..=3 => self.connect(input),
            4..=8 => {
                let at = self.client(input);
                let (count, publish) = (input.byte(), |version: Version, input: &mut Input<'_>| {
                    speech::publish(version, input)
                });
                let Some(at) = at else { return };
                let bytes = publish(self.clients[at].witness.version, input);
                // Mostly one; a flood now and then.
                let count = if count >= 240 { usize::from(count) - 220 } else { 1 };
                let count = count.min(1 + SPEECH / 2 / bytes.len().max(1));
                (0..count).for_each(|_| self.say(at, &bytes));
            }
            9..=12 => self.speak(input, speech::subscribe),
            13 => self.speak(input, speech::unsubscribe),
            14..=15 => self.speak(input, speech::ack),
            16..=18 => self.answer(input),
            19 => self.speak(input, speech::other),
            20 => self.speak(input, |_, input| {
                let length = input.below(40);
                input.bytes(length).to_vec()
            }),
            21 => self.speak(input, |version, input| {
                let mut bytes = match input.below(4) {
                    0 => speech::connect(input),
                    1 => speech::publish(version, input),
                    2 => speech::subscribe(version, input),
                    _ => speech::ack(version, input),
                };
                let at = input.below(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = input.byte();
                }
                bytes
            }),
            22..=23 => {
                let at = self.client(input);
                let how = input.pick(&[End::Reset, End::Fin]);
                if let Some(at) = at {
                    self.leave(at, how);
                }
            }
            24 => {
                if let Some(at) = self.client(input) {
                    self.clients[at].reading = !self.clients[at].reading;
                }
            }
            25..=27 => {
                let millis = [1, 20, 500, 2000, 6000, 20_000, 61_000, 4_000_000];
                self.world.advance(input.pick(&millis));
            }
            _ => {
                let at = input.below(self.world.nodes.len());
                self.world.step(at);
                return;
            }
        }
        // Sometimes the next thing happens while the shards are still at work.
        if choice < 192 {
            self.world.settle();
            self.read();
        }
    }

    fn client(&self, input: &mut Input<'_>) -> Option<usize> {
        let pick = usize::from(input.byte());
        (!self.clients.is_empty()).then(|| pick % self.clients.len())
    }

    fn connect(&mut self, input: &mut Input<'_>) {
        if self.clients.len() >= CONNECTIONS {
            self.leave(0, End::Reset);
        }
        let shard = input.below(self.world.nodes.len());
        let byte = input.byte();
        let room = [1 << 20, 1 << 20, 60, 1000][usize::from(byte % 4)];
        let listener = byte >> 2 & 1;
        let conn = self.world.connect_to(u16::from(listener), shard, 1 << 20, room);
        let mountpoint = self.mountpoints[usize::from(listener)];
        let witness = Witness::new(format!("#{conn}"), mountpoint);
        self.clients.push(Client { conn, witness, reading: true });
        let at = self.clients.len() - 1;
        if !input.flag() || input.flag() {
            self.say(at, &speech::connect(input));
        }
    }

    fn speak(
        &mut self,
        input: &mut Input<'_>,
        words: impl FnOnce(Version, &mut Input<'_>) -> Vec<u8>,
    ) {
        let Some(at) = self.client(input) else { return };
        let bytes = words(self.clients[at].witness.version, input);
        self.say(at, &bytes);
    }

    fn say(&mut self, at: usize, bytes: &[u8]) {
        self.hear(at);
        let Session { world, ledger, settings, clients, .. } = self;
        let conn = &mut world.conns[clients[at].conn];
        if conn.client != End::Open {
            return;
        }
        conn.up.extend(bytes);
        clients[at].witness.say(ledger, settings, bytes);
        self.said += bytes.len();
    }

    /// What a well-behaved client owes, one step of it for each message.
    fn answer(&mut self, input: &mut Input<'_>) {
        let Some(at) = self.client(input) else { return };
        self.hear(at);
        let refused = input.below(8) == 7;
        let witness = &self.clients[at].witness;
        let version = witness.version;
        let owed: Vec<(u16, Owed)> = witness.owed.iter().map(|(&id, &owed)| (id, owed)).collect();
        for (id, owed) in owed {
            let (kind, refusable) = match owed {
                Owed::PubAck => (AckKind::PubAck, true),
                Owed::PubRec => (AckKind::PubRec, true),
                Owed::PubComp => (AckKind::PubComp, false),
            };
            let refused = refused && refusable && version.is_v5();
            let reason = if refused { ReasonCode::QuotaExceeded } else { ReasonCode::Success };
            let id = PacketId::new(id).expect("decoded");
            let mut bytes = Vec::new();
            packet::encode_ack(&mut bytes, version, kind, &Ack::new(id, reason)).unwrap();
            self.say(at, &bytes);
        }
    }

    fn leave(&mut self, at: usize, how: End) {
        self.hear(at);
        let client = self.clients.swap_remove(at);
        self.world.conns[client.conn].client = how;
        self.seen.packets += client.witness.packets;
        self.seen.connections += usize::from(client.witness.packets > 0);
    }

    /// Everybody who reads, reads until there is nothing more.
    fn read(&mut self) {
        for _ in 0..100_000 {
            let more: usize = (0..self.clients.len())
                .filter(|&at| self.clients[at].reading)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|at| self.hear(at))
                .sum();
            if more == 0 {
                return;
            }
            self.world.settle();
        }
        panic!("the broker never stops talking");
    }

    fn hear(&mut self, at: usize) -> usize {
        let Session { world, ledger, settings, clients, .. } = self;
        let client = &mut clients[at];
        if !client.reading {
            return 0;
        }
        let bytes: Vec<u8> = world.conns[client.conn].down.drain(..).collect();
        client.witness.hear(ledger, settings, &bytes);
        bytes.len()
    }

    /// Books and bounds.
    fn check(&mut self) {
        self.world.settle();
        assert_eq!(self.world.problems(), Vec::<String>::new());
        let bounds = self.settings.pending;
        // Besides what is shed: a window of the largest messages, and one more step's answers.
        let unsent = self.settings.outgoing_max_bytes + (1 << 20);
        for node in &self.world.nodes {
            let (audit, counters) = (node.shard.audit(), &node.shard.counters);
            let queues = audit.sessions;
            // Where a queue holds next to nothing, a replay still goes on one by one.
            let (messages, bytes) = (bounds.messages.max(1), bounds.bytes.max(2 * LONGEST));
            assert!(counters.pending_messages as usize <= queues * messages);
            assert!(counters.pending_bytes as usize <= queues * bytes);
            assert!(counters.inflight as usize <= queues * usize::from(self.settings.max_inflight));
            assert!(audit.most_unsent <= unsent, "{} bytes unsent", audit.most_unsent);
            assert!(audit.retained as u64 <= self.settings.retained_max_messages);
        }
    }

    /// Everybody leaves, and time passes until nothing can be left.
    fn end(&mut self) {
        for node in &mut self.world.nodes {
            node.driver.faults = Faults { receive: 65_536, ..Faults::default() };
        }
        for client in &mut self.clients {
            client.reading = true;
        }
        self.read();
        self.check();
        while !self.clients.is_empty() {
            self.leave(0, End::Reset);
        }
        for _ in 0..40 {
            self.world.settle();
            self.world.advance(5000);
        }
        self.world.settle();
        assert_eq!(self.world.problems(), Vec::<String>::new());
        assert_eq!(self.world.leftovers(), Vec::<String>::new());
    }
}
