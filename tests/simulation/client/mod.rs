//! A simulated client with all of the protocol's client-side state, and checks of whatever the
//! broker sends it that need no more than that state. It knows what it was told and what it may
//! conclude from it; where it cannot know, it allows both.

mod hear;
mod judge;
mod link;
mod say;

pub use judge::HOSTILE;

use crate::net::{ConnId, End};
use crate::rng::Rng;
use crate::world::World;
use ringmq::packet::{ReasonCode, RetainHandling, Version};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A message that some client published, or a will.
#[derive(Clone, Debug)]
pub struct Message {
    pub publisher: usize,
    /// Only messages of one line come in order: a client without a ClientId of its own is another
    /// one to the broker with each connection, and the earlier one may be read later.
    pub line: u64,
    pub topic: String,
    pub qos: u8,
    pub retain: bool,
    pub empty: bool,
    /// Message Expiry Interval, seconds.
    pub expiry: Option<u32>,
    /// Times its PUBLISH was written.
    pub sends: u32,
    /// When the broker is known to have accepted it, in milliseconds: PUBACK, PUBREC, or for QoS 0
    /// the answer to something written later.
    pub accepted: Option<u64>,
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
    pub handling: RetainHandling,
    pub id: u32,
    /// The tick of its SUBACK.
    pub since: u64,
}

/// A plain subscription of that QoS.
pub fn plain_sub(qos: u8) -> Sub {
    let handling = RetainHandling::Send;
    Sub { qos, no_local: false, as_published: false, handling, id: 0, since: 0 }
}

#[derive(Clone, Debug)]
enum Asked {
    Sub(String, Sub),
    Unsub(String),
}

impl Asked {
    fn filter(&self) -> &String {
        match self {
            Asked::Sub(filter, _) | Asked::Unsub(filter) => filter,
        }
    }
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

/// What the last DISCONNECT said, and when.
#[derive(Clone, Copy, Default)]
struct Parting {
    at: u64,
    /// The broker had the client connected then.
    online: bool,
    /// No other connection spoke, or might come to speak, for the client then.
    alone: bool,
    /// Reason code 0x04.
    with_will: bool,
    expiry: Option<u32>,
}

pub struct Client {
    pub at: usize,
    /// For people; the ClientId too, unless the broker assigns one.
    pub name: String,
    /// The ClientId; empty until the broker has assigned one.
    pub client_id: String,
    /// The broker gives it its ClientId.
    pub nameless: bool,
    pub version: Version,
    pub always_clean: bool,
    pub expiry: u32,
    pub receive_maximum: u16,
    pub packet_maximum: u32,
    pub alias_maximum: u16,
    /// Seconds.
    pub keep_alive: u16,
    /// Publishes with topic aliases.
    pub aliasing: bool,
    /// Reads and answers only now and then.
    pub slow: bool,
    pub stage: Stage,
    pub conn: Option<ConnId>,
    /// Earlier connections, left open and unread.
    pub ghosts: Vec<ConnId>,
    /// Connections whose CONNECT may still be acted on, and whether it asks for a clean start.
    loose: Vec<(ConnId, bool)>,
    /// The broker ended the last connection: an earlier CONNECT may have taken over, with an expiry
    /// that a clean start has not.
    ended: bool,
    /// The last connection that was up.
    last_conn: Option<ConnId>,
    /// When CONNECT was written, in milliseconds.
    began_at: u64,
    /// When CONNACK came, in ticks.
    pub up_since: u64,
    /// When something was last written.
    wrote_at: u64,
    input: Vec<u8>,
    /// Bytes of the last CONNECT.
    hello: usize,
    output: VecDeque<u8>,
    answers: VecDeque<(u64, Vec<u8>, Option<u16>)>,
    next_id: u16,
    out: Vec<Out>,
    quota: usize,
    held: BTreeSet<u16>,
    unacked: BTreeSet<u16>,
    aliases: BTreeMap<u16, String>,
    /// Topics by alias, towards the broker.
    aliased: Vec<String>,
    alias_limit: usize,
    /// Messages of QoS 0 on this connection that the broker may not have seen yet.
    zeros: Vec<usize>,
    /// Per PINGREQ: messages with smaller numbers were written before it.
    pings: VecDeque<usize>,
    pub subs: BTreeMap<String, Sub>,
    /// Subscriptions whose messages may still be on their way, or that it may have.
    maybe: BTreeMap<String, Vec<Sub>>,
    /// Filters of requests that were never answered.
    pub unsure: BTreeSet<String>,
    asked: BTreeMap<u16, Asked>,
    pub got: BTreeMap<usize, Count>,
    last: BTreeMap<(usize, u64, String, u8), usize>,
    pub wills: Vec<WillRecord>,
    /// Some CONNECT that asked for a clean start has not been answered.
    must_clean: bool,
    clean: bool,
    /// The last CONNECT had a will: the last of `wills`.
    has_will: bool,
    /// Some CONNECT since the last CONNACK was not answered.
    unanswered: bool,
    /// It has had a subscription with No Local in this session.
    pub no_local: bool,
    parting: Parting,
    /// Session Expiry Interval of the last connection, seconds: at least, at most.
    granted: (u32, u32),
    known: Known,
    pub wait_until: u64,
    pub last_error: Option<ReasonCode>,
    /// Connections that were up and ended before the broker's own end.
    pub losses: usize,
    /// Distinct `$SYS` topics, and the last value of each.
    pub sys: BTreeMap<String, String>,
}

/// What is known of the session on the broker: since when it has no connection.
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
    /// Deliveries of shared subscriptions by group filter and message, over all members: the
    /// connection and the QoS of each that was not marked as a repetition.
    pub shared: BTreeMap<(String, usize), Vec<(ConnId, u8)>>,
    /// Wills that have just arrived at the watcher.
    pub wills: Vec<usize>,
    pub calm: bool,
    /// The broker stops: everybody is told so.
    pub draining: bool,
    pub session_expiry_v3: u32,
    pub session_expiry_max: u32,
    pub keep_alive_max: u16,
    /// Most QoS 1 and 2 messages in flight to one client.
    pub max_inflight: u16,
    /// What clients may publish and are granted at most.
    pub max_qos: u8,
    /// Connections are limited in number, in pace.
    pub limited: (bool, bool),
    /// Sockets may not get to their home shard for long.
    pub stuck: bool,
    /// Messages are repeated on a connection, towards version 3.
    pub repeating: bool,
    /// Slow clients are disconnected, of which version 3 is not told.
    pub harsh: bool,
    /// No queue is short: what was accepted arrives, in order.
    pub lossless: bool,
    /// Some messages expire.
    pub expiring: bool,
    /// Memory is short now and then: requests are refused for it.
    pub memory: bool,
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
            client_id: name.clone(),
            name,
            nameless: false,
            version,
            always_clean: false,
            expiry: 60,
            receive_maximum: u16::MAX,
            packet_maximum: u32::MAX,
            alias_maximum: 0,
            keep_alive: 0,
            aliasing: false,
            slow: false,
            stage: Stage::Offline,
            conn: None,
            ghosts: Vec::new(),
            loose: Vec::new(),
            ended: false,
            last_conn: None,
            began_at: 0,
            up_since: 0,
            wrote_at: 0,
            input: Vec::new(),
            hello: 0,
            output: VecDeque::new(),
            answers: VecDeque::new(),
            next_id: 1,
            out: Vec::new(),
            quota: 16,
            held: BTreeSet::new(),
            unacked: BTreeSet::new(),
            aliases: BTreeMap::new(),
            aliased: Vec::new(),
            alias_limit: 0,
            zeros: Vec::new(),
            pings: VecDeque::new(),
            subs: BTreeMap::new(),
            maybe: BTreeMap::new(),
            unsure: BTreeSet::new(),
            asked: BTreeMap::new(),
            got: BTreeMap::new(),
            last: BTreeMap::new(),
            wills: Vec::new(),
            must_clean: false,
            clean: false,
            has_will: false,
            unanswered: false,
            no_local: false,
            parting: Parting::default(),
            granted: (0, 0),
            known: Known::Unclear,
            wait_until: 0,
            last_error: None,
            losses: 0,
            sys: BTreeMap::new(),
        }
    }

    fn is_v5(&self) -> bool {
        self.version.is_v5()
    }

    /// What this client has written or must write and that is not complete.
    pub fn unfinished(&self) -> usize {
        self.out.len()
            + self.asked.len()
            + self.answers.len()
            + self.output.len()
            + self.zeros.len()
            + self.pings.len()
    }

    /// No other connection speaks or may come to speak for this client.
    pub fn is_alone(&self, world: &World) -> bool {
        let gone = |&ghost: &ConnId| world.conns[ghost].server != End::Open;
        self.loose.is_empty() && self.ghosts.iter().all(gone) && !self.unanswered
    }

    /// The broker is about to stop: a will without a delay is sent, one with a delay is not.
    pub fn expect_drain(&mut self) {
        if let Some(will) = self.wills.last_mut()
            && self.has_will
            && will.fate == Fate::Pending
        {
            will.fate = if will.delay == 0 { Fate::Once } else { Fate::Never };
        }
    }

    fn forget_session(&mut self) {
        self.out.clear();
        self.held.clear();
        self.subs.clear();
        self.maybe.clear();
        self.unsure.clear();
        self.got.clear();
        self.last.clear();
    }

    fn tell(&self, run: &Run, text: &str) {
        if run.verbose {
            eprintln!("[{}] {} {text}", run.tick, self.name);
        }
    }
}
