//! Shards without a kernel: this module takes the place of driver, mailboxes and clock.

use crate::files::{self, Files};
use crate::packets::{hello, identifier, subscribe};
use ringmq::access;
use ringmq::config::{Config, Or, Sources};
use ringmq::ids::{ListenerId, Peer, ShardId, SocketId};
use ringmq::limits::MAIL_WORK;
use ringmq::mesh::mail::{Control, Stamped};
use ringmq::mesh::mailbox::{MailEnds, mailboxes};
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{ListenerState, Shared};
use ringmq::outgoing::Outgoing;
use ringmq::packet::Qos;
use ringmq::shard::step::{Step, StepBounds, Surroundings};
use ringmq::shard::{Action, Settings, Shard};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use std::sync::Arc;

/// Added to a socket's number when the socket moves to another shard.
pub const MOVED: u32 = 100_000;
const LISTENER: ListenerId = ListenerId(0);

/// A shard, and what its driver knows.
pub struct Node {
    pub shard: Shard,
    ends: MailEnds<Stamped, Control>,
    /// Completions since the last step.
    done: Done,
    /// Packet identifiers of the QoS 1 and 2 messages among the sent bytes.
    pub ids: Vec<u16>,
    /// The bytes sent before the last [`World::stored_step`].
    pub sent: Vec<u8>,
    /// The files of the shard's log, if it has a store.
    files: Option<Files>,
    written: usize,
    /// Sockets of clients whose home is another shard, with that shard and the cookie of the move.
    pub strangers: Vec<(SocketId, ShardId, u64)>,
}

/// Completions that a driver reports to its shard.
#[derive(Default)]
struct Done {
    sent: Vec<(SocketId, Outgoing)>,
    closed: Vec<SocketId>,
    handed_over: Vec<(SocketId, u64)>,
    arrived: Vec<(SocketId, u64)>,
}

pub struct World {
    pub nodes: Vec<Node>,
    stamp: u64,
    /// The time in milliseconds.
    now: u64,
}

/// What surrounds a shard in one step: the completions of its driver, and the requests of the
/// shard.
struct Around<'a> {
    input: &'a [(SocketId, &'a [u8])],
    visited: bool,
    done: &'a mut Done,
    ids: &'a mut Vec<u16>,
    written: &'a mut usize,
    strangers: &'a mut Vec<(SocketId, ShardId, u64)>,
    stamp: &'a mut u64,
}

impl Surroundings for Around<'_> {
    fn submit(&mut self, _shard: &mut Shard) -> bool {
        false
    }

    fn harvest(&mut self) {}

    fn visit(&mut self, shard: &mut Shard, _limit: usize) -> usize {
        if std::mem::replace(&mut self.visited, true) {
            return 0;
        }
        let Done { sent, closed, handed_over, arrived } = &mut *self.done;
        let mut visited = sent.len() + closed.len() + self.input.len();
        visited += handed_over.len() + arrived.len();
        for (socket, outgoing) in sent.drain(..) {
            shard.sent(socket, outgoing, true);
        }
        for (socket, cookie) in handed_over.drain(..) {
            shard.handed_over(socket, cookie, true);
            shard.closed(socket);
        }
        for socket in closed.drain(..) {
            shard.closed(socket);
        }
        for (socket, cookie) in arrived.drain(..) {
            shard.arrived(socket, cookie);
        }
        for &(socket, bytes) in self.input {
            shard.received(socket, bytes);
        }
        visited
    }

    fn has_more(&mut self) -> bool {
        false
    }

    fn has_heard_everyone(&mut self) -> bool {
        true
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(socket, outgoing) => {
                if let Outgoing::One(bytes) = &outgoing {
                    *self.written += bytes.len();
                    self.ids.extend(identifier(bytes));
                }
                self.done.sent.push((socket, outgoing));
            }
            Action::Close(socket) | Action::Finish(socket) => self.done.closed.push(socket),
            Action::HandOver(socket, home, cookie) => self.strangers.push((socket, home, cookie)),
            _ => {}
        }
    }

    fn hasten(&mut self) {}

    fn stamp(&mut self) -> u64 {
        *self.stamp += 1;
        *self.stamp
    }

    fn ring(&mut self, _shard: ShardId) {}
}

impl World {
    /// `shards` shards with the built-in settings, but without `$SYS`, which publishes by itself.
    pub fn new(shards: u8) -> World {
        World::configured(shards, "", "")
    }

    /// Shards with the configuration `yaml`; every file that it names contains the text `file`.
    pub fn configured(shards: u8, yaml: &str, file: &str) -> World {
        let sources = Sources::default();
        let mut config: Config = sources.load_from("count", yaml.as_bytes()).expect("it is valid");
        config.sys.interval = Or::NONE;
        let rules = access::load::load(&config, &|_| Ok(file.to_owned())).expect("it is valid");
        let settings = Arc::new(Settings::new(&config).with_access(Arc::new(rules)));
        let shared = Shared::new(Seeds::fixed(1));
        let listener_state = Arc::new(ListenerState {
            name: "count".into(),
            allow_anonymous: true,
            mountpoint: String::new(),
            max_connections: u64::MAX,
            max_connect_rate: None,
            stack: Default::default(),
            connections: Quota::default(),
            rate: Rate::default(),
            accepted: Default::default(),
            refused: Default::default(),
        });
        let nodes = mailboxes(usize::from(shards), 256, 1024).into_iter().enumerate();
        let nodes = nodes.map(|(id, ends)| {
            let id = ShardId(id as u8);
            let (settings, shared) = (Arc::clone(&settings), Arc::clone(&shared));
            let mut shard = Shard::new(id, shards, settings, shared, Instant(1));
            shard.open_listener(LISTENER, Arc::clone(&listener_state));
            Node {
                shard,
                ends,
                done: Done::default(),
                ids: Vec::new(),
                sent: Vec::new(),
                files: None,
                written: 0,
                strangers: Vec::new(),
            }
        });
        World { nodes: nodes.collect(), stamp: 0, now: 1 }
    }

    /// One step of the shard `at`, with the received bytes `input`.
    pub fn step(&mut self, at: usize, input: &[(SocketId, &[u8])]) {
        let Node { shard, ends, done, ids, written, strangers, .. } = &mut self.nodes[at];
        shard.begin(Instant(self.now), self.now * 1000);
        let (visited, stamp) = (false, &mut self.stamp);
        let mut around = Around { input, visited, done, ids, written, strangers, stamp };
        Step::new(StepBounds { completions: 512, mail: MAIL_WORK }).run(shard, ends, &mut around);
    }

    /// The same for a shard that may have a store: what it was answered comes before the step.
    pub fn stored_step(&mut self, at: usize, input: &[(SocketId, &[u8])]) {
        let Node { shard, files, done, sent, .. } = &mut self.nodes[at];
        sent.clear();
        for (_, outgoing) in &done.sent {
            if let Outgoing::One(bytes) = outgoing {
                sent.extend_from_slice(bytes);
            }
        }
        if let Some(files) = files {
            files.answers.drain(..).for_each(|answer| shard.storage_answered(answer));
        }
        self.step(at, input);
        let Node { shard, files, .. } = &mut self.nodes[at];
        if let Some(files) = files {
            shard.storage_commands().for_each(|command| files.obey(command));
        }
    }

    /// Stores what the only shard has, from now on.
    pub fn store(&mut self) {
        let node = &mut self.nodes[0];
        node.shard.store_with(files::storing(ShardId(0), 1));
        node.files = Some(Files::default());
    }

    /// Lets time go on until everything is durable that was stored.
    pub fn rest(&mut self, at: usize) {
        (0..8).for_each(|_| {
            self.pass_millis(1);
            self.stored_step(at, &[]);
        });
    }

    /// Moves the clock forward. It stands still otherwise: work that a shard does once a second is
    /// no part of most operations.
    pub fn pass_millis(&mut self, millis: u64) {
        self.now += millis;
    }

    /// Runs all shards until each has processed the messages of the others.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            (0..self.nodes.len()).for_each(|at| self.step(at, &[]));
        }
    }

    /// Bytes sent so far.
    pub fn written(&self) -> usize {
        self.nodes.iter().map(|node| node.written).sum()
    }

    /// Whether the last step of the shard `at` closed connections.
    pub fn has_closed(&self, at: usize) -> bool {
        !self.nodes[at].done.closed.is_empty()
    }

    /// Accepts a connection whose first bytes are `connect`.
    pub fn enter(&mut self, at: usize, socket: SocketId, connect: &[u8]) {
        self.nodes[at].shard.accepted(socket, LISTENER, Peer::Unix);
        self.step(at, &[(socket, connect)]);
    }

    /// Moves the sockets of clients that connected to the wrong shard, as the drivers do; at the
    /// home shard a socket has a number that is higher by [`MOVED`].
    pub fn hand_over(&mut self, at: usize) {
        for (socket, home, cookie) in std::mem::take(&mut self.nodes[at].strangers) {
            self.nodes[at].done.handed_over.push((socket, cookie));
            let moved = SocketId(socket.0 + MOVED);
            self.nodes[usize::from(home.0)].done.arrived.push((moved, cookie));
        }
    }

    /// A CONNECT of a client whose home is the shard `home` of two or more, tried at the shard 0.
    pub fn named(&mut self, home: usize, name: &str) -> Vec<u8> {
        let probe = SocketId(3 * MOVED);
        for attempt in 0..1000 {
            let connect = hello(&format!("{name}-{attempt}"), 0);
            self.enter(0, probe, &connect);
            let at = self.nodes[0].strangers.pop().map_or(0, |(_, home, _)| usize::from(home.0));
            self.nodes[0].shard.closed(probe);
            self.step(0, &[]);
            self.step(0, &[]);
            if at == home {
                return connect;
            }
        }
        panic!("no name for a client of shard {home}");
    }

    /// Connects a client that is at home at that shard.
    pub fn client(&mut self, at: usize, socket: SocketId, name: &str) {
        let connect = match self.nodes.len() {
            1 => hello(name, 0),
            _ => self.named(at, name),
        };
        self.enter(at, socket, &connect);
        self.step(at, &[]);
        assert!(self.nodes[at].strangers.is_empty(), "it is at home elsewhere");
    }

    /// Connects one that subscribes.
    pub fn subscriber(&mut self, at: usize, socket: SocketId, filter: &str, qos: Qos) {
        self.client(at, socket, &format!("subscriber-{}", socket.0));
        self.step(at, &[(socket, &subscribe(1, filter, qos))]);
        self.settle();
    }
}
