//! Claims: a ClientId is at one node, and its session is there.
//!
//! # How a session moves
//! 1. A client connects to a node, which *claims* its ClientId from all nodes that are there, with
//!    a stamp ([`NodeRecord::Claim`]). As all nodes are asked, none has to keep track of which node
//!    has which ClientId.
//! 2. A node with a connection of that ClientId closes the connection. If this node has a session
//!    that the client resumes, this node is the *holder*. The holder keeps the session, which goes
//!    on collecting messages, and sends its subscriptions ([`NodeRecord::Session`]).
//! 3. The claimant puts the subscriptions in place, so that messages for the session now reach both
//!    nodes. The claimant then asks all nodes for a *fence* ([`NodeRecord::Fence`]), behind the
//!    filters that these nodes have been told: a node that reads the question knows the session's
//!    new place. That node waits until its shards have written down what they routed before, and
//!    then tells the holder, behind those messages ([`NodeRecord::Fenced`]).
//! 4. When the holder has the fences of all nodes, no further message can reach the holder alone.
//!    The holder sends the in-flight window and the queue ([`NodeRecord::Part`]). The claimant puts
//!    them before the messages that have reached it meanwhile, accepts the client, and confirms
//!    ([`NodeRecord::Settled`]); the holder then forgets the session.
//!
//! So no message is lost and the order is kept; messages published between steps 3 and 4 may be
//! delivered twice.
//!
//! # Decisions when something goes wrong
//! - CONNACK waits for the answers of all nodes that are there, for at most [`PATIENCE`]. A node
//!   that does not answer in time gets the claim later, as long as the window to it is kept. The
//!   newer claim wins then, and a session that arrives too late ends.
//! - Of two concurrent claims the one with the newer stamp wins; with equal stamps, that of the
//!   node with the greater name. The loser's client is refused. A session that is on its way to the
//!   loser still arrives there.
//! - A later client of the same node takes the place of the one that waits, and its stamp counts
//!   from then on. Its own claim is made when the open one is over, and finds the session here.
//! - A holder that lacks a node's fence sends the rest after [`FENCES`].
//! - With `durable`, a client that wants its session waits longer for a node that does not answer
//!   or is down ([`NodeClaims::awaits_adoption`]): until another node has adopted the sessions of
//!   that one and has been asked, for at most [`adopted::ADOPTION`].
//! - When claimant or holder is given up, or has restarted, the holder keeps the session, and the
//!   claimant accepts its client without that session.

mod adopted;
mod claimant;
mod fences;
mod holder;
mod moving;

use super::lane::Lane;
use super::record::NodeRecord;
use crate::ids::ShardId;
use crate::mesh::moves::{Move, SessionDemand, ToCluster, ToShard};
use crate::time::Instant;
use claimant::Later;
pub use fences::FencePurpose;
use fences::Fences;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Milliseconds that CONNACK waits for the answers of other nodes.
pub const PATIENCE: u64 = 150;
/// Milliseconds that a holder waits for fences before it sends the rest.
const FENCES: u64 = 2000;
/// Milliseconds that a claimant waits for a promised session.
const PROMISED: u64 = 8000;
/// The most sessions that leave at the same time, including ClientIds that shards are being asked
/// for. Further claims wait.
const LEAVING: usize = 1024;
/// The most sessions that shards are asked to pack at the same time.
const PACKING: usize = 16;
/// Bytes of sessions in the window to a node, above which no further session is packed for it.
const WINDOW: usize = 1 << 20;
/// The most ClientIds that were accepted without every node's answer and whose stamps are kept.
const UNANSWERED: usize = 1 << 16;
/// The bit of this node among the nodes whose fences are awaited.
const SELF: u32 = 1 << 31;

/// A set of other nodes: bit n is the node with number n.
pub type NodeSet = u32;

/// The recipient of a [`ToShard`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whom {
    /// This shard.
    Shard(ShardId),
    /// The home shard of this ClientId.
    Home(Box<str>),
}

/// Mail for the shards, in the order in which they get it.
#[derive(Debug)]
pub enum ClaimMail {
    /// What one shard is told.
    One(Whom, ToShard),
    /// Each shard is asked for a fence.
    Fences,
}

/// Counts about claims.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClaimCounts {
    /// ClientIds that were claimed for clients of this node.
    pub claims: u64,
    /// Claims that some node did not answer in time.
    pub unanswered: u64,
    /// Clients that were refused because another node's claim was newer.
    pub lost: u64,
    /// Sessions that arrived from another node.
    pub came: u64,
    /// Sessions that left for another node.
    pub went: u64,
    /// Sessions that were promised and did not arrive, or arrived too late.
    pub failed: u64,
}

/// A claim of this node that is not over.
struct OpenClaim {
    shard: ShardId,
    name: Box<str>,
    stamp: u64,
    /// Nodes that have not answered.
    awaited: NodeSet,
    /// Nodes that have a session and have promised it.
    holders: NodeSet,
    /// The node whose session is being taken over.
    from: Option<u8>,
    /// Until when a promised session, or more of the session that arrives, is waited for.
    promised: Option<Instant>,
    lost: bool,
    wanted: SessionDemand,
    /// Nodes that are down or do not answer, and whose sessions some node is to adopt.
    adopting: NodeSet,
    /// The next claimant of the ClientId with the claim's stamp, and what it wants of the session.
    /// There is none while there is a later client here, because that one is newer.
    next: Option<(Move, u64, SessionDemand)>,
    later: Option<Later>,
}

/// A session that leaves this node.
struct DepartingSession {
    shard: ShardId,
    /// Nodes whose fences have not arrived.
    fences: NodeSet,
    asked: bool,
}

/// The claims by this node and those that concern it. Records and mail are collected here until the
/// node takes them out.
pub struct NodeClaims {
    name: Box<str>,
    /// The number and the name of each known other node.
    nodes: Vec<(u8, Box<str>)>,
    up: NodeSet,
    /// The time in microseconds since 1970 at the zero of the shards' clock, and the last stamp
    /// that was given or seen.
    origin: u64,
    stamp: u64,
    open: BTreeMap<u64, OpenClaim>,
    names: BTreeMap<Box<str>, u64>,
    unanswered: BTreeMap<Box<str>, u64>,
    leaving: BTreeMap<Move, DepartingSession>,
    /// Claims of other nodes that wait for their turn, and the number of ClientIds that shards are
    /// being asked for.
    waiting: VecDeque<(Move, Box<str>, SessionDemand)>,
    asked: usize,
    to_pack: VecDeque<Move>,
    packing: usize,
    fences: Fences,
    /// Claims of other nodes wait: this process is about to be replaced.
    resting: bool,
    /// Nodes with share groups that this node's shards may not know yet.
    groups_unknown: NodeSet,
    answers_due: VecDeque<(Instant, u64)>,
    adoptions: adopted::AwaitedAdoptions,
    fences_due: VecDeque<(Instant, Move)>,
    /// The claims with a promise, by when they are given up.
    promises_due: BTreeSet<(Instant, u64)>,
    /// Records for other nodes.
    pub records: Vec<(u8, Lane, Vec<u8>)>,
    /// Records for other nodes that go behind the filters that those nodes are still to be told.
    behind_filters: Vec<(u8, Vec<u8>)>,
    /// Records for other nodes that go behind the messages that the shards have written down.
    pub behind_messages: Vec<(u8, Vec<u8>)>,
    /// Nodes that know the filters that they had been told before the question with this number.
    pub known: Vec<(u8, u64)>,
    /// Nodes that may be told retained messages now: everything that the shards had written down
    /// before is in the mailboxes.
    pub retellings: Vec<u8>,
    /// With `durable`: ClientIds that were claimed, each with the claiming node, and whether the
    /// client begins anew.
    pub claimed: Vec<(Box<str>, Box<str>, bool)>,
    /// With `durable`: lost nodes, each with the node that has adopted its sessions.
    pub adopted: Vec<(Box<str>, Box<str>)>,
    /// Mail for the shards.
    pub mail: Vec<ClaimMail>,
    /// Counts about claims.
    pub counts: ClaimCounts,
}

fn written(record: &NodeRecord<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

fn bit(node: u8) -> NodeSet {
    1 << node
}

impl NodeClaims {
    /// The claims of the node `name`. `started` is the time in microseconds since 1970, by a clock
    /// that agrees roughly with that of other nodes, at the moment `now` of this node's own clock.
    pub fn new(name: &str, shards: u8, started: u64, now: Instant) -> NodeClaims {
        NodeClaims {
            name: name.into(),
            nodes: Vec::new(),
            up: 0,
            origin: started.wrapping_sub(now.0.wrapping_mul(1000)),
            stamp: 0,
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            leaving: BTreeMap::new(),
            waiting: VecDeque::new(),
            asked: 0,
            to_pack: VecDeque::new(),
            packing: 0,
            fences: Fences::new(shards),
            resting: false,
            groups_unknown: 0,
            answers_due: VecDeque::new(),
            adoptions: adopted::AwaitedAdoptions::default(),
            fences_due: VecDeque::new(),
            promises_due: BTreeSet::new(),
            records: Vec::new(),
            behind_filters: Vec::new(),
            behind_messages: Vec::new(),
            known: Vec::new(),
            retellings: Vec::new(),
            claimed: Vec::new(),
            adopted: Vec::new(),
            mail: Vec::new(),
            counts: ClaimCounts::default(),
        }
    }

    /// Sessions that are arriving or leaving.
    pub fn moving(&self) -> usize {
        self.leaving.len() + self.open.values().filter(|open| open.from.is_some()).count()
    }

    /// When [`NodeClaims::run`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let answers = self.answers_due.front().map(|entry| entry.0);
        let promises = self.promises_due.first().map(|entry| entry.0);
        let fences = self.fences_due.front().map(|entry| entry.0);
        let adoptions = self.adoptions.deadline();
        [answers, promises, fences, adoptions].into_iter().flatten().min()
    }

    /// Notes that it is `micros` microseconds since 1970 at `now`.
    pub fn see_time(&mut self, micros: u64, now: Instant) {
        self.origin = micros.wrapping_sub(now.0.wrapping_mul(1000));
    }

    /// The time at `now`, in milliseconds since 1970.
    pub fn time(&self, now: Instant) -> u64 {
        self.origin.wrapping_add(now.0.wrapping_mul(1000)) / 1000
    }

    fn say(&mut self, node: u8, record: &NodeRecord<'_>) {
        self.records.push((node, record.lane(), written(record)));
    }

    fn name_of(&self, node: u8) -> &str {
        let known = self.nodes.iter().find(|(number, _)| *number == node);
        known.map_or("", |(_, name)| name)
    }

    /// The node `name` has joined under the number `node`.
    pub fn joined(&mut self, node: u8, name: &str) {
        self.nodes.retain(|(number, _)| *number != node);
        self.nodes.push((node, name.into()));
    }

    /// Notes which nodes are there. Nothing is awaited any more of nodes that are not.
    pub fn see(&mut self, up: NodeSet, now: Instant) {
        let gone = self.up & !up;
        self.adoptions.see(up, gone);
        self.up = up;
        if gone == 0 {
            return;
        }
        let waiting: Vec<u64> = self.open.keys().copied().collect();
        for claim in waiting {
            let Some(open) = self.open.get_mut(&claim) else { continue };
            if open.awaited & gone != 0 {
                if self.adoptions.awaits(open.wanted) {
                    open.adopting |= open.awaited & gone;
                }
                open.awaited &= !gone;
                self.advance(claim, now);
            }
        }
        let leaving: Vec<Move> = self.leaving.keys().copied().collect();
        leaving.into_iter().for_each(|to| self.fenced(to, gone));
    }

    /// Everything that this node and `node` had told each other is lost.
    pub fn forget(&mut self, node: u8, now: Instant) {
        self.waiting.retain(|(to, ..)| to.node != node);
        self.adoptions.over(bit(node));
        self.behind_filters.retain(|(to, _)| *to != node);
        let leaving: Vec<Move> =
            self.leaving.keys().filter(|to| to.node == node).copied().collect();
        for to in leaving {
            if let Some(leaving) = self.leaving.remove(&to) {
                self.mail.push(ClaimMail::One(Whom::Shard(leaving.shard), ToShard::Keep(to)));
            }
        }
        let claims: Vec<u64> = self.open.keys().copied().collect();
        for claim in claims {
            let Some(open) = self.open.get_mut(&claim) else { continue };
            open.next = open.next.take().filter(|(to, ..)| to.node != node);
            open.awaited &= !bit(node);
            open.adopting &= !bit(node);
            open.holders &= !bit(node);
            if open.from == Some(node) {
                self.give_up(claim, now);
            } else {
                self.advance(claim, now);
            }
        }
    }

    /// The time in microseconds since 1970 at the zero of the shards' clock.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// Notes another node's stamp: stamps that are given after this are newer.
    pub fn see_stamp(&mut self, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
    }

    /// A new stamp: newer than that of any claim that this node has seen.
    pub fn next_stamp(&mut self, now: Instant) -> u64 {
        let clock = self.origin.wrapping_add(now.0.wrapping_mul(1000));
        self.stamp = clock.max(self.stamp.saturating_add(1));
        self.stamp
    }

    /// Takes in what a shard says. `reaches` tells whether the engine carries frames.
    pub fn told(&mut self, shard: ShardId, told: ToCluster, reaches: bool, now: Instant) {
        match told {
            ToCluster::Claim(claim, name, wanted) => {
                self.claim(shard, claim, name, wanted, reaches, now);
            }
            ToCluster::Surrendered(to, session) => self.surrendered(shard, to, session, now),
            ToCluster::Placed(claim) => self.placed(claim),
            ToCluster::Fenced => self.shard_fenced(),
            ToCluster::Packed(to, parts) => self.packed(to, parts),
            ToCluster::Settled(claim) => self.settled_here(claim, now),
            ToCluster::Retold(_)
            | ToCluster::Ask(..)
            | ToCluster::Will(..)
            | ToCluster::Journal(_)
            | ToCluster::Adopted(_) => {}
        }
    }

    fn number_of(&self, name: &str) -> Option<u8> {
        self.nodes.iter().find(|(_, known)| &**known == name).map(|(number, _)| *number)
    }

    /// Takes in what another node says about ClientIds and sessions.
    pub fn heard(&mut self, node: u8, record: &NodeRecord<'_>, now: Instant) {
        match *record {
            NodeRecord::Adopted(name) => {
                let by = self.name_of(node).to_owned();
                self.adopted(name, Some(&by), now);
                if self.adoptions.durable {
                    self.adopted.push((name.into(), by.into()));
                }
            }
            NodeRecord::Claim(claim, stamp, wanted, name) => {
                self.note_claimed(name, Some(node), wanted);
                self.claimed(Move { node, claim }, stamp, wanted, name);
            }
            NodeRecord::Answer(claim, verdict) => self.answered(node, claim, verdict, now),
            NodeRecord::Session(claim, bytes) => self.session(node, claim, bytes, now),
            NodeRecord::Owed(claim, bytes) => self.owed(node, claim, bytes, now),
            NodeRecord::Part(claim, last, bytes) => self.part(node, claim, last, bytes, now),
            NodeRecord::Settled(claim) => self.settled_there(Move { node, claim }),
            NodeRecord::Known(number) => self.known.push((node, number)),
            NodeRecord::Fence(claim, holder) => {
                let here = *holder == *self.name;
                let number = self.number_of(holder);
                if here || number.is_some() {
                    let holder = number.filter(|_| !here);
                    self.fence(FencePurpose::Session { claimant: Some(node), claim, holder });
                }
            }
            NodeRecord::Fenced(claim, claimant) => {
                if let Some(to) = self.number_of(claimant) {
                    self.fenced(Move { node: to, claim }, bit(node));
                }
            }
            _ => {}
        }
    }

    /// Adds a record for a node, which goes behind the filters that this node is still to be told.
    pub fn say_behind_filters(&mut self, node: u8, record: &NodeRecord<'_>) {
        self.behind_filters.push((node, written(record)));
    }

    /// Hands out the records that go behind the filters, when the node has been told these.
    pub fn take_behind_filters(&mut self, node: u8, mut push: impl FnMut(&[u8])) {
        if self.behind_filters.is_empty() {
            return;
        }
        for (_, record) in self.behind_filters.extract_if(.., |(to, _)| *to == node) {
            push(&record);
        }
    }

    /// Does what is due; `window` gives the bytes of sessions that are on their way to a node.
    pub fn run(&mut self, now: Instant, window: impl Fn(u8) -> usize) {
        while let Some(&(at, claim)) = self.answers_due.front()
            && (at <= now || !self.open.contains_key(&claim))
        {
            self.answers_due.pop_front();
            let Some(open) = self.open.get_mut(&claim).filter(|open| open.awaited != 0) else {
                continue;
            };
            if self.adoptions.awaits(open.wanted) {
                open.adopting |= std::mem::take(&mut open.awaited);
                self.advance(claim, now);
                continue;
            }
            open.awaited = 0;
            let (name, stamp) = (open.name.clone(), open.stamp);
            self.note_unanswered(name, stamp);
            self.advance(claim, now);
        }
        self.run_adoptions(now);
        while let Some(&(at, claim)) = self.promises_due.first()
            && at <= now
        {
            self.promises_due.pop_first();
            self.give_up(claim, now);
        }
        while let Some(&(at, to)) = self.fences_due.front()
            && (at <= now || !self.leaving.contains_key(&to))
        {
            self.fences_due.pop_front();
            self.fenced(to, NodeSet::MAX);
        }
        while !self.resting
            && self.leaving.len() + self.asked < LEAVING
            && let Some((to, name, wanted)) = self.waiting.pop_front()
        {
            self.asked += 1;
            let ask = ToShard::Surrender(to, name.clone(), wanted);
            self.mail.push(ClaimMail::One(Whom::Home(name), ask));
        }
        for _ in 0..self.to_pack.len() {
            if self.packing >= PACKING {
                break;
            }
            let Some(to) = self.to_pack.pop_front() else { break };
            let Some(leaving) = self.leaving.get(&to) else { continue };
            if window(to.node) >= WINDOW {
                self.to_pack.push_back(to);
                continue;
            }
            self.packing += 1;
            self.mail.push(ClaimMail::One(Whom::Shard(leaving.shard), ToShard::Pack(to)));
        }
    }
}

#[cfg(test)]
mod tests;
