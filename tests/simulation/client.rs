//! A simulated client with all of the protocol's client-side state, and checks of whatever the
//! broker sends it that need no more than that state.

use crate::net::{ConnId, End};
use crate::rng::Rng;
use crate::world::World;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, Disconnect, Framing, OutPublish, Packet,
    PacketId, Publish, Qos, ReasonCode, RetainHandling, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters, UserProperties, Version,
    Will,
};
use ringmq::topic;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A message that some client published, or a will.
#[derive(Clone, Debug)]
pub struct Message {
    pub publisher: usize,
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub empty: bool,
    /// Times its PUBLISH was written.
    pub sends: u32,
    /// PUBACK, PUBREC.
    pub acked: bool,
    /// When it was first written, in ticks.
    pub sent_at: u64,
    /// When it was last written, in ticks.
    pub last_at: u64,
}

/// A subscription as the client knows it.
#[derive(Clone, Debug)]
pub struct Sub {
    pub qos: u8,
    pub no_local: bool,
    pub as_published: bool,
    pub id: u32,
    /// The tick of its SUBACK.
    pub since: u64,
}

#[derive(Clone, Debug)]
enum Asked {
    Sub(String, Sub),
    Unsub(String),
}

/// What came of one message.
#[derive(Clone, Copy, Default, Debug)]
pub struct Count {
    /// Copies without DUP.
    pub fresh: u32,
    /// Copies handed to the application: every QoS 0 and 1, QoS 2 after de-duplication.
    pub app: u32,
}

/// A will of one connection, and what has become of the connection.
#[derive(Clone, Debug)]
pub struct WillRecord {
    pub message: usize,
    /// Seconds, as far as the session lasts.
    pub delay: u64,
    pub fate: Fate,
}

/// What the will must do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The connection lives.
    Pending,
    /// Never to be seen.
    Never,
    /// To be seen once.
    Once,
    /// The delay runs since this time; whoever connects first decides.
    Delayed(u64),
    /// Once or never: the client cannot know.
    Either,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Offline,
    Connecting,
    Up,
    /// DISCONNECT is written.
    Leaving,
}

#[derive(Clone)]
struct Out {
    id: u16,
    message: usize,
    released: bool,
}

pub struct Client {
    pub at: usize,
    pub name: String,
    pub version: Version,
    pub always_clean: bool,
    pub expiry: u32,
    pub receive_maximum: u16,
    pub packet_maximum: u32,
    pub alias_maximum: u16,
    /// Reads and answers only now and then.
    pub slow: bool,
    pub stage: Stage,
    pub conn: Option<ConnId>,
    /// Earlier connections, left open and unread.
    pub ghosts: Vec<ConnId>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    answers: VecDeque<(u64, Vec<u8>, Option<u16>)>,
    next_id: u16,
    out: Vec<Out>,
    quota: usize,
    held: BTreeSet<u16>,
    unacked: BTreeSet<u16>,
    aliases: BTreeMap<u16, String>,
    pub subs: BTreeMap<String, Sub>,
    /// Filters that it may have: asked for, or being taken back.
    maybe: BTreeMap<String, Vec<Sub>>,
    asked: BTreeMap<u16, Asked>,
    pub got: BTreeMap<usize, Count>,
    last: BTreeMap<(usize, String, u8), usize>,
    pub wills: Vec<WillRecord>,
    /// The last CONNECT that asked for a clean start has not been answered.
    must_clean: bool,
    clean: bool,
    /// The last CONNECT had a will: the last of `wills`.
    has_will: bool,
    /// Some CONNECT since the last CONNACK was not answered.
    unanswered: bool,
    /// It has had a subscription with No Local in this session.
    pub no_local: bool,
    /// When DISCONNECT was written.
    left_at: u64,
    /// Session Expiry Interval of the last connection, seconds.
    granted: u32,
    /// What is known of the session on the broker: since when it has no connection.
    known: Known,
    pub wait_until: u64,
    pub last_error: Option<ReasonCode>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// There is none, or whether there is one is not known.
    Unclear,
    /// The client is or was connected to it.
    Live,
    /// The client ended the connection at this time.
    Left(u64),
}

/// What the whole run shares.
pub struct Run {
    pub tick: u64,
    pub messages: Vec<Message>,
    pub rng: Rng,
    /// Deliveries of shared subscriptions by group filter and message, over all members.
    pub shared: BTreeMap<(String, usize), u32>,
    pub calm: bool,
    pub session_expiry_v3: u32,
    /// Slow clients are disconnected, of which version 3 is not told.
    pub harsh: bool,
    pub verbose: bool,
}

impl Run {
    fn new_message(&mut self, message: Message) -> usize {
        self.messages.push(message);
        self.messages.len() - 1
    }
}

/// The payload that names a message.
pub fn payload(message: usize, length: usize) -> Vec<u8> {
    let mut bytes = (message as u64).to_le_bytes().to_vec();
    bytes.resize(length.max(8), b'.');
    bytes
}

fn named(payload: &[u8]) -> usize {
    u64::from_le_bytes(payload[..8].try_into().unwrap()) as usize
}

impl Client {
    pub fn new(at: usize, name: String, version: Version) -> Self {
        Client {
            at,
            name,
            version,
            always_clean: false,
            expiry: 60,
            receive_maximum: u16::MAX,
            packet_maximum: u32::MAX,
            alias_maximum: 0,
            slow: false,
            stage: Stage::Offline,
            conn: None,
            ghosts: Vec::new(),
            input: Vec::new(),
            output: VecDeque::new(),
            answers: VecDeque::new(),
            next_id: 1,
            out: Vec::new(),
            quota: 16,
            held: BTreeSet::new(),
            unacked: BTreeSet::new(),
            aliases: BTreeMap::new(),
            subs: BTreeMap::new(),
            maybe: BTreeMap::new(),
            asked: BTreeMap::new(),
            got: BTreeMap::new(),
            last: BTreeMap::new(),
            wills: Vec::new(),
            must_clean: false,
            clean: false,
            has_will: false,
            unanswered: false,
            no_local: false,
            left_at: 0,
            granted: 0,
            known: Known::Unclear,
            wait_until: 0,
            last_error: None,
        }
    }

    fn is_v5(&self) -> bool {
        self.version.is_v5()
    }

    /// Messages that this client has written and that are not complete.
    pub fn unfinished(&self) -> usize {
        self.out.len() + self.asked.len() + self.answers.len() + self.output.len()
    }

    fn forget_session(&mut self) {
        self.out.clear();
        self.held.clear();
        self.subs.clear();
        self.maybe.clear();
        self.got.clear();
        self.last.clear();
    }

    /// Opens a connection and writes CONNECT. `will`: its delay in seconds.
    pub fn connect(
        &mut self,
        world: &mut World,
        run: &mut Run,
        clean: bool,
        will: Option<u32>,
        buffer: usize,
    ) {
        assert!(self.conn.is_none());
        let clean = clean || self.always_clean || self.must_clean;
        let shard = run.rng.below(world.nodes.len());
        self.conn = Some(world.connect(shard, 64 * 1024, buffer));
        self.stage = Stage::Connecting;
        self.clean = clean;
        self.input.clear();
        self.output.clear();
        self.answers.clear();
        self.unacked.clear();
        self.aliases.clear();
        for (_, asked) in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Sub(filter, sub) => {
                    if let Some(known) = self.subs.remove(&filter) {
                        self.maybe.entry(filter.clone()).or_default().push(known);
                    }
                    self.maybe.entry(filter).or_default().push(sub);
                }
                Asked::Unsub(filter) => {
                    if let Some(known) = self.subs.remove(&filter) {
                        self.maybe.entry(filter).or_default().push(known);
                    }
                }
            }
        }
        if clean {
            self.must_clean = true;
            self.forget_session();
        }
        self.has_will = will.is_some();
        let length = run.rng.range(8, 40);
        let delay = will.filter(|_| self.is_v5()).unwrap_or(0);
        let topic = format!("w/{}", self.at);
        let message = will.map(|_| {
            run.new_message(Message {
                publisher: self.at,
                topic: topic.clone(),
                qos: 2,
                retain: false,
                empty: false,
                sends: 1,
                acked: true,
                sent_at: run.tick,
                last_at: run.tick,
            })
        });
        let bytes = message.map(|message| payload(message, length));
        if let Some(message) = message {
            let delay = u64::from(delay.min(self.expiry));
            self.wills.push(WillRecord { message, delay, fate: Fate::Either });
        }
        let v5 = self.is_v5();
        let properties = ConnectProperties {
            session_expiry: Some(self.expiry).filter(|_| v5),
            receive_maximum: Some(self.receive_maximum).filter(|&m| v5 && m < u16::MAX),
            maximum_packet_size: Some(self.packet_maximum).filter(|&m| v5 && m < u32::MAX),
            topic_alias_maximum: Some(self.alias_maximum).filter(|&m| v5 && m > 0),
            ..Default::default()
        };
        let connect = Connect {
            version: self.version,
            clean_start: clean,
            keep_alive: 0,
            client_id: &self.name,
            username: None,
            password: None,
            will: bytes.as_deref().map(|payload| Will {
                topic: &topic,
                payload,
                qos: Qos::ExactlyOnce,
                retain: false,
                delay,
                properties: Default::default(),
            }),
            bridge: false,
            properties,
        };
        let mut out = Vec::new();
        packet::encode_connect(&mut out, &connect);
        self.output.extend(out);
        self.tell(run, &format!("connect clean={clean} will={message:?} shard={shard}"));
    }

    fn tell(&self, run: &Run, text: &str) {
        if run.verbose {
            eprintln!("[{}] {} {text}", run.tick, self.name);
        }
    }

    /// The connection is gone; `orderly`: by DISCONNECT, and the broker closed.
    fn lost(&mut self, world: &World, run: &Run, orderly: bool, by_client: bool) {
        self.tell(run, &format!("lost orderly={orderly} by_client={by_client}"));
        let connected = matches!(self.stage, Stage::Up | Stage::Leaving);
        let leaving = self.stage == Stage::Leaving;
        if let Some(will) = self.wills.last_mut()
            && self.has_will
            && connected
            && will.fate == Fate::Pending
        {
            will.fate = if orderly && (self.version.is_v5() || !run.harsh) {
                Fate::Never
            } else if leaving || !by_client {
                Fate::Either
            } else if will.delay > 0 {
                Fate::Delayed(world.now)
            } else {
                Fate::Once
            };
        }
        // The broker may have closed before, and the client had not read that far.
        let closed = self.conn.is_some_and(|conn| world.conns[conn].server != End::Open);
        self.known = match (connected, (by_client && !closed) || orderly) {
            (true, true) if leaving => Known::Left(self.left_at),
            (true, true) => Known::Left(world.now),
            (true, false) => Known::Unclear,
            (false, _) => self.known,
        };
        if !connected {
            self.unanswered = true;
            // Whether it got as far as the session, nobody knows.
            for will in &mut self.wills {
                if let Fate::Delayed(_) = will.fate {
                    will.fate = Fate::Either;
                }
            }
        }
        self.stage = Stage::Offline;
        self.conn = None;
    }

    /// Ends the connection in some way; the bytes that are still to be written are torn off.
    pub fn abandon(&mut self, world: &mut World, run: &mut Run, how: End) {
        let Some(conn) = self.conn else { return };
        world.conns[conn].client = how;
        if how == End::Reset {
            world.conns[conn].up.clear();
        }
        self.lost(world, run, false, true);
        self.wait_until = world.now + run.rng.below(3000) as u64;
    }

    /// Leaves the connection open and forgets it: the next CONNECT takes the session over.
    pub fn haunt(&mut self, world: &World, run: &Run) {
        let Some(conn) = self.conn else { return };
        self.ghosts.push(conn);
        self.lost(world, run, false, true);
        self.wait_until = 0;
    }

    pub fn disconnect(&mut self, run: &Run, now: u64) {
        if self.stage == Stage::Up {
            self.left_at = now;
            self.stage = Stage::Leaving;
            self.write(|out, version| {
                packet::encode_disconnect(out, version, &Disconnect::new(ReasonCode::Success));
            });
            self.tell(run, "disconnect");
        }
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut out = Vec::new();
        encode(&mut out, self.version);
        self.output.extend(out);
    }

    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            if !self.asked.contains_key(&id) && self.out.iter().all(|out| out.id != id) {
                return id;
            }
        }
    }

    /// Publishes something new, when the broker's Receive Maximum allows.
    pub fn publish(&mut self, run: &mut Run, topic: String, qos: u8, retain: bool, length: usize) {
        if self.stage != Stage::Up || qos > 0 && self.out.len() >= self.quota {
            return;
        }
        let message = run.new_message(Message {
            publisher: self.at,
            topic,
            qos,
            retain,
            empty: retain && length == 0,
            sends: 0,
            acked: false,
            sent_at: run.tick,
            last_at: run.tick,
        });
        let id = if qos > 0 { self.free_id() } else { 0 };
        if qos > 0 {
            self.out.push(Out { id, message, released: false });
        }
        self.write_publish(run, message, id, length, false);
    }

    fn write_publish(&mut self, run: &mut Run, message: usize, id: u16, length: usize, dup: bool) {
        let what = &mut run.messages[message];
        what.sends += 1;
        what.last_at = run.tick;
        let what = run.messages[message].clone();
        self.tell(
            run,
            &format!("publish {message} {} qos{} id={id} dup={dup}", what.topic, what.qos),
        );
        let bytes = if what.empty { Vec::new() } else { payload(message, length) };
        self.write(|out, version| {
            let publish = OutPublish {
                dup,
                qos: Qos::from_u8(what.qos).unwrap(),
                retain: what.retain,
                topic: &what.topic,
                id: PacketId::new(id).filter(|_| what.qos > 0),
                message_expiry: None,
                topic_alias: None,
                subscription_ids: &[],
                forwarded: &[],
                payload: &bytes,
            };
            packet::encode_publish(out, version, &publish);
        });
    }

    pub fn subscribe(
        &mut self,
        run: &mut Run,
        filter: &str,
        mut sub: Sub,
        handling: RetainHandling,
    ) {
        if self.stage != Stage::Up || self.asked.len() > 4 {
            return;
        }
        // One change of a filter at a time, or what is in force in between is anybody's guess.
        let busy = |asked: &Asked| match asked {
            Asked::Sub(other, _) | Asked::Unsub(other) => other == filter,
        };
        if self.asked.values().any(busy) {
            return;
        }
        if !self.is_v5() {
            (sub.no_local, sub.as_published, sub.id) = (false, false, 0);
        }
        self.no_local |= sub.no_local;
        let id = self.free_id();
        let options = SubscribeOptions {
            qos: Qos::from_u8(sub.qos).unwrap(),
            no_local: sub.no_local,
            retain_as_published: sub.as_published,
            retain_handling: handling,
        };
        let subscription_id = Some(sub.id).filter(|&id| id > 0);
        self.tell(run, &format!("subscribe {filter} qos{} id={id}", sub.qos));
        self.asked.insert(id, Asked::Sub(filter.into(), sub));
        self.write(|out, version| {
            let mut raw = Vec::new();
            SubscribeFilter { filter, options }.write(version, &mut raw);
            let filters = SubscribeFilters::parse(version, &raw).unwrap();
            let (id, user) = (PacketId::new(id).unwrap(), UserProperties::default());
            let subscribe = Subscribe { id, subscription_id, user, filters };
            packet::encode_subscribe(out, version, &subscribe);
        });
    }

    pub fn unsubscribe(&mut self, run: &mut Run) {
        if self.stage != Stage::Up || self.subs.is_empty() || !self.asked.is_empty() {
            return;
        }
        let at = run.rng.below(self.subs.len());
        let filter = self.subs.keys().nth(at).unwrap().clone();
        let id = self.free_id();
        self.tell(run, &format!("unsubscribe {filter} id={id}"));
        self.write(|out, version| {
            let mut raw = Vec::new();
            UnsubscribeFilters::write(&filter, &mut raw);
            let filters = UnsubscribeFilters::parse(&raw).unwrap();
            let (id, user) = (PacketId::new(id).unwrap(), UserProperties::default());
            packet::encode_unsubscribe(out, version, &Unsubscribe { id, user, filters });
        });
        self.asked.insert(id, Asked::Unsub(filter));
    }

    /// One turn: answers that are due, bytes out, bytes in. True when something moved.
    pub fn turn(&mut self, world: &mut World, run: &mut Run) -> bool {
        let Some(conn) = self.conn else { return false };
        let mut moved = false;
        while let Some((due, ..)) = self.answers.front() {
            if *due > run.tick && !run.calm {
                break;
            }
            let Some((_, bytes, done)) = self.answers.pop_front() else { break };
            if let Some(id) = done {
                self.unacked.remove(&id);
            }
            self.output.extend(bytes);
        }
        let wire = &mut world.conns[conn];
        if wire.client == End::Open && !self.output.is_empty() {
            let room = wire.up_limit.saturating_sub(wire.up.len()).min(self.output.len());
            let part = if run.calm || run.rng.chance(700) { room } else { run.rng.range(0, room) };
            if wire.server == End::Open {
                wire.up.extend(self.output.drain(..part));
            } else {
                self.output.clear();
            }
            moved |= part > 0;
        }
        let most = wire.down.len();
        let part = match (run.calm, self.slow) {
            (true, _) => most,
            (_, true) if run.rng.chance(900) => 0,
            _ if run.rng.chance(700) => most,
            _ => run.rng.range(0, most),
        };
        if part > 0 {
            moved = true;
            self.input.extend(wire.down.drain(..part));
            self.read(world, run);
        }
        let Some(conn) = self.conn else { return true };
        let wire = &world.conns[conn];
        if wire.server != End::Open && wire.down.is_empty() {
            let orderly = self.stage == Stage::Leaving
                && wire.server == End::Fin
                && self.output.is_empty()
                && self.last_error.is_none();
            world.conns[conn].client = End::Fin;
            self.lost(world, run, orderly, false);
            self.wait_until = world.now + run.rng.below(2000) as u64;
            self.last_error = None;
            return true;
        }
        moved
    }

    fn read(&mut self, world: &mut World, run: &mut Run) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Ok(Framing::Complete { total, .. }) = packet::frame(rest, u32::MAX) {
            let (bytes, tail) = rest.split_at(total);
            let packet = packet::decode(self.version, bytes)
                .unwrap_or_else(|violation| panic!("{}: {violation:?}: {bytes:?}", self.name));
            // [MQTT-3.1.2-24]
            assert!(bytes.len() <= self.packet_maximum as usize, "{}: too large", self.name);
            self.take(world, run, packet);
            if self.conn.is_none() {
                return;
            }
            rest = tail;
        }
        self.input = rest.to_vec();
    }

    fn take(&mut self, world: &mut World, run: &mut Run, packet: Packet<'_>) {
        if let Packet::ConnAck(ack) = packet {
            assert_eq!(self.stage, Stage::Connecting, "{}: a second CONNACK", self.name);
            assert_eq!(ack.reason, ReasonCode::Success, "{}", self.name);
            if !self.connected(world, run, ack.session_present) {
                self.forget_session();
                self.must_clean = true;
                self.abandon(world, run, End::Reset);
                return;
            }
            let quota = ack.properties.receive_maximum.unwrap_or(u16::MAX);
            self.quota = usize::from(quota.min(16));
            return;
        }
        assert_ne!(self.stage, Stage::Connecting, "{}: {packet:?} before CONNACK", self.name);
        match packet {
            Packet::Publish(publish) => self.arrived(run, &publish),
            Packet::PubAck(ack) => {
                let at = self.find_out(run, ack.id, 1, false);
                run.messages[self.out[at].message].acked |= (ack.reason as u8) < 0x80;
                self.out.remove(at);
            }
            Packet::PubRec(ack) => {
                let at = self.find_out(run, ack.id, 2, true);
                assert!((ack.reason as u8) < 0x80);
                run.messages[self.out[at].message].acked = true;
                self.out[at].released = true;
                let id = ack.id;
                self.write_ack(AckKind::PubRel, id);
            }
            Packet::PubComp(ack) => {
                let at = self.find_out(run, ack.id, 2, false);
                assert!(self.out[at].released, "{}: PUBCOMP before PUBREL", self.name);
                self.out.remove(at);
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.id.get());
                self.answer(run, AckKind::PubComp, ack.id, Some(ack.id.get()));
            }
            Packet::SubAck(ack) => {
                let Some(Asked::Sub(filter, mut sub)) = self.asked.remove(&ack.id.get()) else {
                    panic!("{}: SUBACK {} unasked", self.name, ack.id.get());
                };
                assert_eq!(ack.codes, [sub.qos], "{}: {filter}", self.name);
                sub.since = match self.subs.get(&filter) {
                    Some(known) if known.qos > 0 && sub.qos > 0 => known.since,
                    _ => run.tick,
                };
                if let Some(known) = self.subs.remove(&filter) {
                    self.maybe.entry(filter.clone()).or_default().push(known);
                }
                self.tell(run, &format!("suback {filter}"));
                self.subs.insert(filter, sub);
            }
            Packet::UnsubAck(ack) => {
                let Some(Asked::Unsub(filter)) = self.asked.remove(&ack.id.get()) else {
                    panic!("{}: UNSUBACK {} unasked", self.name, ack.id.get());
                };
                if let Some(known) = self.subs.remove(&filter) {
                    self.maybe.entry(filter).or_default().push(known);
                }
            }
            Packet::Disconnect(disconnect) => {
                assert!(self.is_v5(), "{}: version 3 has no DISCONNECT from a server", self.name);
                self.tell(run, &format!("is told {:?}", disconnect.reason));
                self.last_error = Some(disconnect.reason);
                let expected = [ReasonCode::QuotaExceeded, ReasonCode::SessionTakenOver];
                assert!(expected.contains(&disconnect.reason), "{}: {disconnect:?}", self.name);
            }
            other => panic!("{}: {other:?}", self.name),
        }
    }

    fn find_out(&self, run: &Run, id: PacketId, qos: u8, or_again: bool) -> usize {
        let at = self.out.iter().position(|out| out.id == id.get());
        let at = at.unwrap_or_else(|| panic!("{}: acknowledgement of {id:?}", self.name));
        assert_eq!(run.messages[self.out[at].message].qos, qos, "{}: wrong kind", self.name);
        assert!(or_again || qos == 1 || self.out[at].released);
        at
    }

    fn write_ack(&mut self, kind: AckKind, id: PacketId) {
        self.write(|out, version| {
            packet::encode_ack(out, version, kind, &Ack::new(id, ReasonCode::Success));
        });
    }

    fn answer(&mut self, run: &mut Run, kind: AckKind, id: PacketId, done: Option<u16>) {
        let mut bytes = Vec::new();
        let ack = Ack::new(id, ReasonCode::Success);
        packet::encode_ack(&mut bytes, self.version, kind, &ack);
        let delay = if self.slow { run.rng.below(2000) } else { run.rng.below(20) };
        let after = self.answers.back().map_or(0, |answer| answer.0);
        self.answers.push_back((after.max(run.tick + delay as u64), bytes, done));
    }

    fn connected(&mut self, world: &World, run: &mut Run, present: bool) -> bool {
        self.tell(run, &format!("connected present={present} known={:?}", self.known));
        self.stage = Stage::Up;
        let (expiry, known) = (self.granted, self.known);
        self.granted = match self.is_v5() {
            true => self.expiry,
            false if self.clean => 0,
            false => run.session_expiry_v3,
        };
        if self.clean {
            assert!(!present, "{}: Session Present after a clean start", self.name);
        } else if self.version != Version::V31 {
            match self.known {
                Known::Left(at) if world.now - at < u64::from(expiry) * 1000 => {
                    assert!(present, "{}: the session has gone early", self.name);
                }
                Known::Left(_) if expiry == 0 => {
                    assert!(!present, "{}: a session of 0 s", self.name)
                }
                _ => {}
            }
        }
        let number = self.wills.len();
        let own = self.has_will;
        for (at, will) in self.wills.iter_mut().enumerate() {
            if at + 1 == number && own {
                will.fate = Fate::Pending;
            } else if let Fate::Delayed(since) = will.fate {
                will.fate = if self.clean || !present {
                    Fate::Once
                } else if self.known == Known::Left(since) && world.now < since + will.delay * 1000
                {
                    Fate::Never
                } else {
                    Fate::Either
                };
            }
        }
        let lasted = match known {
            Known::Left(at) => world.now - at < u64::from(expiry) * 1000,
            Known::Unclear | Known::Live => false,
        };
        // A CONNECT without an answer may have begun another session after this one's end.
        let doubtful = std::mem::take(&mut self.unanswered) && !lasted && !self.clean;
        self.known = Known::Live;
        self.must_clean = false;
        if !present {
            self.forget_session();
            return true;
        }
        if doubtful {
            return false;
        }
        // [MQTT-4.4.0-1]
        for out in self.out.clone() {
            if out.released {
                self.write_ack(AckKind::PubRel, PacketId::new(out.id).unwrap());
            } else {
                let length = run.rng.range(8, 100);
                self.write_publish(run, out.message, out.id, length, true);
            }
        }
        true
    }

    fn arrived(&mut self, run: &mut Run, publish: &Publish<'_>) {
        let mut name = publish.topic.to_owned();
        if let Some(alias) = publish.properties.topic_alias {
            assert!(alias <= self.alias_maximum, "{}: alias {alias}", self.name);
            if name.is_empty() {
                name = self.aliases[&alias].clone();
            } else {
                self.aliases.insert(alias, name.clone());
            }
        }
        let qos = publish.qos as u8;
        if let Some(id) = publish.id {
            let number = id.get();
            if !self.unacked.insert(number) {
                assert!(publish.dup, "{}: identifier {number} in use", self.name);
            }
            assert!(
                self.unacked.len() <= usize::from(self.receive_maximum),
                "{}: more than the Receive Maximum",
                self.name
            );
            if qos == 1 {
                self.answer(run, AckKind::PubAck, id, Some(number));
            } else {
                let again = !self.held.insert(number);
                self.answer(run, AckKind::PubRec, id, None);
                if again {
                    assert!(publish.dup, "{}: identifier {number} not released", self.name);
                    return;
                }
            }
        } else {
            assert!(!publish.dup);
        }
        if publish.payload.is_empty() {
            return; // clears a retained message
        }
        let message = named(publish.payload);
        let what = run.messages[message].clone();
        self.tell(run, &format!("got {message} {name} qos{qos} dup={}", publish.dup));
        assert_eq!(what.topic, name, "{}: message {message}", self.name);
        self.check_matches(run, &what, publish, &name);
        if name.starts_with("s/") {
            self.count_shared(run, message, publish, &name);
        }
        let count = self.got.entry(message).or_default();
        let first = count.app == 0;
        count.app += 1;
        count.fresh += u32::from(!publish.dup);
        if name.starts_with("r/") || name.starts_with("s/") {
            return;
        }
        assert!(count.fresh <= what.sends, "{}: {message} came twice", self.name);
        if qos == 2 {
            assert_eq!(count.app, 1, "{}: {message} not exactly once", self.name);
        }
        // What its publisher sent again may come late for a subscriber that missed the first time.
        // The connections of one client may reach its home in another order.
        if first && what.sends == 1 && !name.starts_with("w/") {
            // [MQTT-4.6.0-5, 4.6.0-6]
            let last = self.last.entry((what.publisher, name, qos)).or_insert(message);
            assert!(*last <= message, "{}: {message} after {last}", self.name);
            *last = message;
        }
    }

    /// Some subscription that it has, or may have, explains QoS, RETAIN and identifiers.
    fn check_matches(&self, run: &Run, what: &Message, publish: &Publish<'_>, name: &str) {
        let plain = |filter: &str| match topic::parse_share(filter) {
            Some(share) => share.unwrap().filter.to_owned(),
            None => filter.to_owned(),
        };
        let asked = self.asked.values().filter_map(|asked| match asked {
            Asked::Sub(filter, sub) => Some((filter, sub)),
            Asked::Unsub(_) => None,
        });
        let maybe = self.maybe.iter().flat_map(|(f, subs)| subs.iter().map(move |s| (f, s)));
        let all: Vec<(&String, &Sub)> = self
            .subs
            .iter()
            .chain(asked)
            .chain(maybe)
            .filter(|(filter, _)| topic::matches(&plain(filter), name))
            .collect();
        assert!(!all.is_empty(), "{}: {name} without a subscription", self.name);
        let qos = all.iter().map(|(_, sub)| sub.qos).max().unwrap_or(0).min(what.qos);
        assert!(publish.qos as u8 <= qos, "{}: QoS above the granted one", self.name);
        // Retained messages of an earlier session of its own are not told apart.
        if what.publisher == self.at && name.starts_with("t/") {
            let local = all.iter().any(|(_, sub)| !sub.no_local);
            assert!(local, "{}: No Local", self.name);
        }
        let ids: BTreeSet<u32> = all.iter().map(|(_, sub)| sub.id).collect();
        for id in publish.properties.subscription_ids.iter() {
            assert!(ids.contains(&id), "{}: Subscription Identifier {id}", self.name);
        }
        if publish.retain && !name.starts_with("r/") {
            panic!("{}: RETAIN on {name}", self.name);
        }
        let _ = run;
    }

    fn count_shared(&self, run: &mut Run, message: usize, publish: &Publish<'_>, name: &str) {
        // Groups have topics of their own, so the filter tells the group.
        let filters = self.subs.keys().chain(self.maybe.keys()).chain(
            self.asked.values().map(|(Asked::Sub(filter, _) | Asked::Unsub(filter))| filter),
        );
        let group = filters
            .filter(|filter| filter.starts_with("$share/"))
            .find(|filter| {
                topic::parse_share(filter).unwrap().is_ok_and(|s| topic::matches(s.filter, name))
            })
            .cloned();
        let Some(group) = group else { panic!("{}: {name} without a group", self.name) };
        let count = run.shared.entry((group, message)).or_default();
        if !publish.dup {
            *count += 1;
        }
        assert!(*count <= run.messages[message].sends, "{}: {message} to two members", self.name);
    }
}
