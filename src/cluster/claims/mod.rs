//! Who has which ClientId: one node, and its session is there.
//!
//! # The way of a session
//! 1. A client connects to a node: that *claims* its ClientId from all nodes that are there, with a
//!    stamp ([`Record::Claim`]). Nobody asks who has it, so nothing has to be kept about it.
//! 2. A node that has a connection with that ClientId ends it. If there is a session that the
//!    client goes on with, this node is its *holder*: it keeps the session, which goes on
//!    collecting messages, and sends its subscriptions ([`Record::Session`]).
//! 3. The claimant puts them in place, so that messages for the session come to both, and asks all
//!    nodes for a *fence* ([`Record::Fence`]) behind the filters that these have been told. Each
//!    node that sees it knows the new place. It waits until its shards have written down what they
//!    routed before, and says so to the holder, behind those messages ([`Record::Fenced`]).
//! 4. When the holder has that of every node, nothing more can come to it alone. It sends windows
//!    and queue ([`Record::Part`]). The claimant puts them before what came to it meanwhile, lets
//!    the client in, and says that it is done ([`Record::Settled`]): now the holder forgets all.
//!
//! So nothing is lost and the order is kept; what was published between 3 and 4 may come twice.
//!
//! # What is decided when not all is well
//! - CONNACK waits for the answer of every node that is there, for at most [`PATIENCE`]. A node
//!   that does not answer in time gets the claim later, as far as its window is kept: the newer
//!   claim wins then, and a session that arrives too late ends.
//! - Of two claims at once the one with the newer stamp wins; with equal ones, that of the node
//!   whose name is greater. The loser's client is refused. A session on its way to it goes on.
//! - A holder that gets no fence of a node sends the rest after [`FENCES`].
//! - When claimant or holder is given up, or was started anew, the holder keeps the session, and
//!   the claimant lets its client in without.

mod fences;
mod holder;

use super::lane::Lane;
use super::record::{Record, Verdict};
use crate::ids::ShardId;
use crate::mesh::moves::{Move, Outcome, ToCluster, ToShard, Wanted};
use crate::mutant::Mutant;
use crate::time::Instant;
use fences::Fences;
pub use fences::Job;
use std::collections::{BTreeMap, VecDeque};

/// Milliseconds that CONNACK waits for the answers of other nodes.
pub const PATIENCE: u64 = 150;
/// Milliseconds that a holder waits for fences.
const FENCES: u64 = 2000;
/// Milliseconds that a claimant waits for a session that was promised.
const PROMISED: u64 = 8000;
/// Sessions that leave at once, and ClientIds that shards are asked for at once. Further claims
/// wait.
const LEAVING: usize = 1024;
/// Sessions that shards are asked to pack at once.
const PACKING: usize = 16;
/// Bytes of sessions in the window to a node, past which no more are packed for it.
const WINDOW: usize = 1 << 20;
/// ClientIds that were let in without the answer of every node, whose stamps are kept.
const UNANSWERED: usize = 1 << 16;
/// This node, among the nodes that a fence is awaited of.
const SELF: u32 = 1 << 31;

/// Which other nodes, by their numbers.
pub type Nodes = u32;

/// For whom a [`ToShard`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whom {
    /// That shard.
    Shard(ShardId),
    /// The home of that ClientId.
    Home(Box<str>),
    /// All shards.
    Everyone,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClaimCounts {
    /// ClientIds that clients of this node claimed.
    pub claims: u64,
    /// Claims that some node did not answer in time.
    pub unanswered: u64,
    /// Clients that were refused, as another node's claim was newer.
    pub lost: u64,
    /// Sessions that came from another node.
    pub came: u64,
    /// Sessions that went to another node.
    pub went: u64,
    /// Sessions that were promised and did not come, or came too late.
    pub failed: u64,
}

/// A claim of this node.
struct Open {
    shard: ShardId,
    name: Box<str>,
    stamp: u64,
    /// Who has not answered.
    awaited: Nodes,
    /// Who has a session that comes.
    holders: Nodes,
    /// Whose session is being taken over.
    from: Option<u8>,
    lost: bool,
    /// Who claims the ClientId after this, and what of the session is wanted.
    next: Option<(Move, u64, Wanted)>,
}

/// A session that leaves.
struct Leaving {
    shard: ShardId,
    /// Whose fences have not come.
    fences: Nodes,
    asked: bool,
}

/// The claims of this node and on it. What is to be sent is collected, for the node to take out.
pub struct Claims {
    name: Box<str>,
    /// Number and name of each other node that is known.
    nodes: Vec<(u8, Box<str>)>,
    up: Nodes,
    /// The stamp at the time 0 of the clock, in microseconds, and the last one.
    origin: u64,
    stamp: u64,
    open: BTreeMap<u64, Open>,
    names: BTreeMap<Box<str>, u64>,
    unanswered: BTreeMap<Box<str>, u64>,
    leaving: BTreeMap<Move, Leaving>,
    /// Claims of others that wait for their turn, and how many shards are asked about.
    waiting: VecDeque<(Move, Box<str>, Wanted)>,
    asked: usize,
    to_pack: VecDeque<Move>,
    packing: usize,
    fences: Fences,
    /// Nodes of whose share groups the shards may not know yet.
    groups_unknown: Nodes,
    answers_due: VecDeque<(Instant, u64)>,
    fences_due: VecDeque<(Instant, Move)>,
    promises_due: VecDeque<(Instant, u64)>,
    /// Records for other nodes.
    pub records: Vec<(u8, Lane, Vec<u8>)>,
    /// Records for other nodes that go behind the filters that these are to be told.
    behind_filters: Vec<(u8, Vec<u8>)>,
    /// Records for other nodes that go behind the messages that the shards have written down.
    pub behind_messages: Vec<(u8, Vec<u8>)>,
    /// Nodes that know the filters they had been told before they were asked with that number.
    pub known: Vec<(u8, u64)>,
    /// Nodes that may be told of retained messages: what the shards had written down before is in
    /// the mailboxes.
    pub retellings: Vec<u8>,
    /// Mail for the shards.
    pub mail: Vec<(Whom, ToShard)>,
    /// What is counted.
    pub counts: ClaimCounts,
}

fn written(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    bytes
}

fn bit(node: u8) -> Nodes {
    1 << node
}

impl Claims {
    /// Of the node of that name. `started`: when, in microseconds, by a clock that other nodes have
    /// too, more or less; its own clock was at `now` then.
    pub fn new(name: &str, shards: u8, started: u64, now: Instant) -> Claims {
        Claims {
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
            groups_unknown: 0,
            answers_due: VecDeque::new(),
            fences_due: VecDeque::new(),
            promises_due: VecDeque::new(),
            records: Vec::new(),
            behind_filters: Vec::new(),
            behind_messages: Vec::new(),
            known: Vec::new(),
            retellings: Vec::new(),
            mail: Vec::new(),
            counts: ClaimCounts::default(),
        }
    }

    /// Sessions that are coming or leaving.
    pub fn moving(&self) -> usize {
        self.leaving.len() + self.open.values().filter(|open| open.from.is_some()).count()
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        let claims = [&self.answers_due, &self.promises_due];
        let claims = claims.into_iter().filter_map(|due| due.front().map(|entry| entry.0));
        claims.chain(self.fences_due.front().map(|entry| entry.0)).min()
    }

    /// It is `micros` since 1970 at `now`.
    pub fn see_time(&mut self, micros: u64, now: Instant) {
        self.origin = micros.wrapping_sub(now.0.wrapping_mul(1000));
    }

    /// The time at `now` in milliseconds since 1970.
    pub fn time(&self, now: Instant) -> u64 {
        self.origin.wrapping_add(now.0.wrapping_mul(1000)) / 1000
    }

    fn say(&mut self, node: u8, record: &Record<'_>) {
        self.records.push((node, record.lane(), written(record)));
    }

    fn name_of(&self, node: u8) -> &str {
        let known = self.nodes.iter().find(|(number, _)| *number == node);
        known.map_or("", |(_, name)| name)
    }

    /// A node has joined under that number.
    pub fn joined(&mut self, node: u8, name: &str) {
        self.nodes.retain(|(number, _)| *number != node);
        self.nodes.push((node, name.into()));
    }

    /// Which nodes are there by now. Who is not any more is not waited for.
    pub fn see(&mut self, up: Nodes, now: Instant) {
        let gone = self.up & !up;
        self.up = up;
        if gone == 0 {
            return;
        }
        let waiting: Vec<u64> = self.open.keys().copied().collect();
        for claim in waiting {
            let Some(open) = self.open.get_mut(&claim) else { continue };
            if open.awaited & gone != 0 {
                open.awaited &= !gone;
                self.advance(claim, now);
            }
        }
        let leaving: Vec<Move> = self.leaving.keys().copied().collect();
        leaving.into_iter().for_each(|to| self.fenced(to, gone));
    }

    /// What that node and this one had said to each other is lost.
    pub fn forget(&mut self, node: u8, now: Instant) {
        self.waiting.retain(|(to, ..)| to.node != node);
        self.behind_filters.retain(|(to, _)| *to != node);
        let leaving: Vec<Move> =
            self.leaving.keys().filter(|to| to.node == node).copied().collect();
        for to in leaving {
            if let Some(leaving) = self.leaving.remove(&to) {
                self.mail.push((Whom::Shard(leaving.shard), ToShard::Keep(to)));
            }
        }
        let claims: Vec<u64> = self.open.keys().copied().collect();
        for claim in claims {
            let Some(open) = self.open.get_mut(&claim) else { continue };
            open.next = open.next.take().filter(|(to, ..)| to.node != node);
            open.awaited &= !bit(node);
            open.holders &= !bit(node);
            if open.from == Some(node) {
                self.give_up(claim);
            } else {
                self.advance(claim, now);
            }
        }
    }

    /// The time in microseconds, by a clock that other nodes have too, more or less, when the clock
    /// of the shards was at 0.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// A stamp of another node's clock: what is told here after that is newer.
    pub fn see_stamp(&mut self, stamp: u64) {
        self.stamp = self.stamp.max(stamp);
    }

    /// The stamp of what is told now: newer than that of any claim that this node has heard of.
    pub fn next_stamp(&mut self, now: Instant) -> u64 {
        let clock = self.origin.wrapping_add(now.0.wrapping_mul(1000));
        self.stamp = clock.max(self.stamp.saturating_add(1));
        self.stamp
    }

    /// What a shard says. `reaches`: the engine carries frames.
    pub fn told(&mut self, shard: ShardId, told: ToCluster, reaches: bool, now: Instant) {
        match told {
            ToCluster::Claim(claim, name, wanted) => {
                self.claim(shard, claim, name, wanted, reaches, now);
            }
            ToCluster::Surrendered(to, session) => self.surrendered(shard, to, session, now),
            ToCluster::Placed(claim) => self.placed(claim),
            ToCluster::Fenced => self.shard_fenced(),
            ToCluster::Packed(to, parts) => self.packed(to, parts),
            ToCluster::Settled(claim) => self.settled_here(claim),
            ToCluster::Retold(_) | ToCluster::Ask(..) | ToCluster::Will(..) => {}
        }
    }

    fn claim(
        &mut self,
        shard: ShardId,
        claim: u64,
        name: Box<str>,
        wanted: Wanted,
        reaches: bool,
        now: Instant,
    ) {
        self.counts.claims += 1;
        let stamp = self.next_stamp(now);
        self.unanswered.remove(&name);
        let mut awaited = self.up;
        if Mutant::ClusterClaimUntold.is_on() {
            awaited = 0;
        }
        for node in (0..31).filter(|&node| awaited & bit(node) != 0) {
            self.say(node, &Record::Claim(claim, stamp, wanted, &name));
        }
        let unreached = awaited != 0 && !reaches;
        if awaited == 0 || unreached {
            if unreached {
                self.note_unanswered(name, stamp);
            }
            self.mail.push((Whom::Shard(shard), ToShard::Claimed(claim, Outcome::Ours)));
            return;
        }
        self.names.insert(name.clone(), claim);
        let open =
            Open { shard, name, stamp, awaited, holders: 0, from: None, lost: false, next: None };
        self.open.insert(claim, open);
        self.answers_due.push_back((now.plus_millis(PATIENCE), claim));
    }

    fn note_unanswered(&mut self, name: Box<str>, stamp: u64) {
        self.counts.unanswered += 1;
        if self.unanswered.len() < UNANSWERED {
            self.unanswered.insert(name, stamp);
        }
    }

    /// Goes on with a claim once everybody has answered.
    fn advance(&mut self, claim: u64, now: Instant) {
        let Some(open) = self.open.get(&claim) else { return };
        if open.awaited != 0 || open.from.is_some() {
            return;
        }
        if open.holders == 0 {
            self.finish(claim, Outcome::Ours);
        } else {
            self.promises_due.push_back((now.plus_millis(PROMISED), claim));
        }
    }

    /// A claim is over. Who comes next gets the session that is here by then.
    fn finish(&mut self, claim: u64, outcome: Outcome) {
        let Some(open) = self.open.remove(&claim) else { return };
        if self.names.get(&open.name) == Some(&claim) {
            self.names.remove(&open.name);
        }
        self.mail.push((Whom::Shard(open.shard), ToShard::Claimed(claim, outcome)));
        if let Some((to, _, wanted)) = open.next {
            self.waiting.push_back((to, open.name, wanted));
        }
    }

    /// The session that was coming does not come.
    fn give_up(&mut self, claim: u64) {
        self.counts.failed += 1;
        self.finish(claim, Outcome::SessionLost);
    }

    fn answered(&mut self, node: u8, claim: u64, verdict: Verdict, now: Instant) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        open.awaited &= !bit(node);
        match verdict {
            Verdict::Nothing if open.from == Some(node) => return self.give_up(claim),
            Verdict::Nothing => open.holders &= !bit(node),
            Verdict::Holds if open.from != Some(node) => open.holders |= bit(node),
            Verdict::Holds => {}
            Verdict::Newer => self.lose(claim),
        }
        self.advance(claim, now);
    }

    /// Another node's claim is newer.
    fn lose(&mut self, claim: u64) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        if !std::mem::replace(&mut open.lost, true) {
            self.counts.lost += 1;
            let lost = ToShard::Claimed(claim, Outcome::Lost);
            self.mail.push((Whom::Shard(open.shard), lost));
        }
    }

    /// The subscriptions of a session have come.
    fn session(&mut self, node: u8, claim: u64, bytes: &[u8], now: Instant) {
        let taken = match self.open.get_mut(&claim) {
            Some(open) if open.from.is_none() => {
                open.awaited &= !bit(node);
                open.holders &= !bit(node);
                open.from = Some(node);
                let adopt = ToShard::Adopt(claim, bytes.to_vec());
                self.mail.push((Whom::Shard(open.shard), adopt));
                self.promises_due.push_back((now.plus_millis(PROMISED), claim));
                true
            }
            Some(open) => {
                open.holders &= !bit(node);
                false
            }
            None => false,
        };
        if !taken {
            self.counts.failed += 1;
            self.say(node, &Record::Settled(claim));
        }
    }

    /// The subscriptions are in place: everybody is to say when they are known.
    fn placed(&mut self, claim: u64) {
        let Some(open) = self.open.get(&claim) else { return };
        let Some(holder) = open.from else { return };
        let fence = written(&Record::Fence(claim, self.name_of(holder)));
        for node in (0..31).filter(|&node| self.up & bit(node) != 0) {
            self.behind_filters.push((node, fence.clone()));
        }
        self.fence(Job::Session { claimant: None, claim, holder: Some(holder) });
    }

    fn part(&mut self, node: u8, claim: u64, bytes: &[u8], last: bool) {
        match self.open.get(&claim).filter(|open| open.from == Some(node)) {
            Some(open) => {
                let part = ToShard::Continue(claim, bytes.to_vec(), last);
                self.mail.push((Whom::Shard(open.shard), part));
            }
            None if last => self.say(node, &Record::Settled(claim)),
            None => {}
        }
    }

    fn settled_here(&mut self, claim: u64) {
        let Some(open) = self.open.get(&claim) else { return };
        if let Some(node) = open.from {
            self.counts.came += 1;
            self.say(node, &Record::Settled(claim));
        }
        self.finish(claim, Outcome::Ours);
    }

    fn number_of(&self, name: &str) -> Option<u8> {
        self.nodes.iter().find(|(_, known)| &**known == name).map(|(number, _)| *number)
    }

    /// What another node says about ClientIds and sessions.
    pub fn heard(&mut self, node: u8, record: &Record<'_>, now: Instant) {
        match *record {
            Record::Claim(claim, stamp, wanted, name) => {
                self.claimed(Move { node, claim }, stamp, wanted, name);
            }
            Record::Answer(claim, verdict) => self.answered(node, claim, verdict, now),
            Record::Session(claim, bytes) => self.session(node, claim, bytes, now),
            Record::Part(claim, last, bytes) => self.part(node, claim, bytes, last),
            Record::Settled(claim) => self.settled_there(Move { node, claim }),
            Record::Known(number) => self.known.push((node, number)),
            Record::Fence(claim, holder) => {
                let here = *holder == *self.name;
                let number = self.number_of(holder);
                if here || number.is_some() {
                    let holder = number.filter(|_| !here);
                    self.fence(Job::Session { claimant: Some(node), claim, holder });
                }
            }
            Record::Fenced(claim, claimant) => {
                if let Some(to) = self.number_of(claimant) {
                    self.fenced(Move { node: to, claim }, bit(node));
                }
            }
            _ => {}
        }
    }

    /// A record for a node, behind the filters that it is to be told.
    pub fn say_behind_filters(&mut self, node: u8, record: &Record<'_>) {
        self.behind_filters.push((node, written(record)));
    }

    /// Hands out what goes behind the filters that a node has been told.
    pub fn take_behind_filters(&mut self, node: u8, mut push: impl FnMut(&[u8])) {
        if self.behind_filters.is_empty() {
            return;
        }
        for (_, record) in self.behind_filters.extract_if(.., |(to, _)| *to == node) {
            push(&record);
        }
    }

    /// Does what is due. `window`: bytes of sessions on their way to a node.
    pub fn run(&mut self, now: Instant, window: impl Fn(u8) -> usize) {
        while let Some(&(at, claim)) = self.answers_due.front()
            && (at <= now || !self.open.contains_key(&claim))
        {
            self.answers_due.pop_front();
            let Some(open) = self.open.get_mut(&claim).filter(|open| open.awaited != 0) else {
                continue;
            };
            open.awaited = 0;
            let (name, stamp) = (open.name.clone(), open.stamp);
            self.note_unanswered(name, stamp);
            self.advance(claim, now);
        }
        while let Some(&(at, claim)) = self.promises_due.front()
            && (at <= now || !self.open.contains_key(&claim))
        {
            self.promises_due.pop_front();
            if self.open.contains_key(&claim) {
                self.give_up(claim);
            }
        }
        while let Some(&(at, to)) = self.fences_due.front()
            && (at <= now || !self.leaving.contains_key(&to))
        {
            self.fences_due.pop_front();
            self.fenced(to, Nodes::MAX);
        }
        while self.leaving.len() + self.asked < LEAVING
            && let Some((to, name, wanted)) = self.waiting.pop_front()
        {
            self.asked += 1;
            let ask = ToShard::Surrender(to, name.clone(), wanted);
            self.mail.push((Whom::Home(name), ask));
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
            self.mail.push((Whom::Shard(leaving.shard), ToShard::Pack(to)));
        }
    }
}

#[cfg(test)]
mod tests;
