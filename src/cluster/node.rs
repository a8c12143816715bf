//! This node among the others: which nodes are there, which messages go to which node, and what
//! happens to messages for a node that cannot be reached.
//!
//! Every node sends [`FrameContent::Hello`] to all nodes twice a second, and receives its own as
//! well: a node that does not receive its own hello is *cut off* from the engine. Another node that
//! has not been heard for [`SILENT`] milliseconds is down: its filters are swept, and the contents
//! of its window wait until the node returns or is given up. While this node is cut off, no other
//! node counts as down. Windows then fill; a message without room is dropped, or its publisher
//! waits, by the policy, until this node gives all others up and is a broker on its own.

mod counted;
mod durable;
mod greeting;
mod moving;
mod passing;
mod retelling;
mod status;
mod times;
mod wills;

use super::adoption::{Adoption, DurableMember};
use super::announced::PendingSubacks;
use super::claims::{ClaimCounts, ClaimMail, NodeClaims, NodeSet};
use super::filters::LocalFilters;
use super::frame::{Abilities, FrameContent, FrameRefusal, FrameSender, NodeFrame};
use super::keeping::{KeepAsker, KeepRequest, KeptAt};
use super::lane::Lane;
use super::peer::{LocalBroker, PeerCounts, PeerNode, Presence};
use super::record::NodeRecord;
use crate::ids::ShardId;
use crate::limits::CLUSTER_PEERS;
use crate::mesh::moves::ToCluster;
use crate::message::{MailPurpose, MessageRef};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;
use crate::topic;
use bytes::Bytes;
use greeting::StrangeNodes;
pub use passing::PassedTo;
use retelling::{Retelling, UnchangedSince};
use status::add;
pub use status::{NodeCounts, PeerStatus, Unsent};
use std::collections::VecDeque;
use wills::NodeWills;

/// A node that has not received its own hello for this many milliseconds is cut off.
const CUT_OFF: u64 = 1500;
/// A node that has not been heard for this many milliseconds is down.
const SILENT: u64 = 2500;
/// Milliseconds after this node was cut off itself during which no other node counts as silent.
const GRACE: u64 = 10_000;
/// Bytes of records about filters that are on their way to one node at most.
const TELLING: usize = 1 << 20;

/// The addressee of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To<'a> {
    /// Every node, this one included.
    All,
    /// The node with this name.
    Node(&'a str),
}

/// The engine, which carries frames between nodes. It may lose, duplicate and reorder them.
pub trait Engine {
    /// Sends a frame.
    fn send(&mut self, to: To<'_>, frame: Bytes);
    /// Asks for something that the engine keeps. [`Node::kept`] takes the answer.
    fn ask(&mut self, _asker: KeepAsker, _place: KeptAt, _request: KeepRequest) {
        // Only nodes with `durable` ask.
    }
}

/// What happens to messages of QoS 1 and 2 for a node that cannot be reached, once its window is
/// full. Messages of QoS 0 are dropped then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenCutOff {
    /// Their publishers wait.
    Park,
    /// The messages are dropped.
    Drop,
}

/// The parameters of a node.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Distinguishes the node's runs; larger than that of any earlier run. The start in
    /// microseconds since 1970, by a clock that agrees roughly with that of other nodes.
    pub incarnation: u64,
    /// The number of the node's shards.
    pub shards: u8,
    /// Bytes of unacknowledged messages for one other node at most.
    pub window: usize,
    /// Milliseconds after which a node that cannot be reached is given up.
    pub give_up: u64,
    /// What happens to messages without room meanwhile.
    pub when_cut_off: WhenCutOff,
    /// Bytes of will messages of other nodes' clients that are kept at most.
    pub wills: usize,
    /// Whether the sessions of a node survive its loss.
    pub durable: bool,
    /// What it can do: [`Abilities::OWN`], or less to be like a node of an earlier release.
    pub abilities: Abilities,
}

/// This node, with what it knows of the others.
pub struct Node {
    plan: NodePlan,
    /// The other nodes, by number.
    peers: Vec<Option<PeerNode>>,
    filters: LocalFilters,
    /// How far each other node has been told the retained messages.
    retellings: Vec<Retelling>,
    /// The digest of this node's retained messages, and since when it has that value.
    retained: UnchangedSince,
    announced: PendingSubacks,
    claims: NodeClaims,
    wills: NodeWills,
    adoption: Option<Box<Adoption>>,
    /// Requests of the shards to the engine.
    requests: Vec<(KeepAsker, KeptAt, KeepRequest)>,
    /// The number of shards that are looking for fences.
    looking: u8,
    /// Since when requests of the shards have failed.
    failing: Option<Instant>,
    /// Messages of share groups that the node with that number had not acknowledged when the stream
    /// to it ended.
    unpassed: VecDeque<(u8, Vec<u8>)>,
    /// The number of the last stream that this node began.
    streams: u32,
    next_hello: Instant,
    /// When this node last received its own hello.
    echoed: Instant,
    /// Since when this node is cut off.
    cut_off: Option<Instant>,
    /// Until then, other nodes that were not heard do not count as gone.
    heard_by: Instant,
    counts: NodeCounts,
    strangers: StrangeNodes,
    warned: bool,
    /// This process is about to be replaced: nothing new begins.
    resting: bool,
}

impl Node {
    /// A node that knows no other node.
    pub fn new(plan: NodePlan, now: Instant) -> Node {
        let mut claims = NodeClaims::new(&plan.name, plan.shards, plan.incarnation, now);
        claims.awaits_adoption(plan.durable);
        let member = || DurableMember {
            name: plan.name.as_str().into(),
            incarnation: plan.incarnation,
            shards: plan.shards,
            level: plan.abilities.level,
        };
        let adopts = || Box::new(Adoption::new(member(), now));
        Node {
            adoption: plan.durable.then(adopts),
            requests: Vec::new(),
            looking: 0,
            failing: None,
            wills: NodeWills::new(&plan.name, plan.wills),
            plan,
            claims,
            peers: (0..CLUSTER_PEERS).map(|_| None).collect(),
            filters: LocalFilters::default(),
            retellings: (0..CLUSTER_PEERS).map(|_| Retelling::default()).collect(),
            retained: UnchangedSince::default(),
            announced: PendingSubacks::default(),
            unpassed: VecDeque::new(),
            streams: 0,
            next_hello: now,
            echoed: now,
            cut_off: None,
            heard_by: now,
            counts: NodeCounts::default(),
            strangers: StrangeNodes::default(),
            warned: false,
            resting: false,
        }
    }

    /// A shard of this node has its first subscriber of the filter (true), or has none any more
    /// (false).
    pub fn want(&mut self, filter: &str, wanted: bool) {
        let topics = topic::parse_share(filter).and_then(Result::ok).map(|share| share.filter);
        if topics.unwrap_or(filter).starts_with("$SYS/") {
            return; // a broker's own statistics
        }
        let number = if wanted { self.filters.add(filter) } else { self.filters.remove(filter) };
        let Some(number) = number else { return };
        self.peers.iter_mut().flatten().for_each(|peer| peer.changed(number));
    }

    /// Takes in what a shard says about ClientIds, sessions, retained messages or will messages.
    pub fn told(&mut self, shard: ShardId, told: ToCluster, now: Instant) {
        match told {
            ToCluster::Retold(told) => {
                if let Some(retelling) = self.retellings.get_mut(usize::from(told.node)) {
                    retelling.retold(shard, self.plan.shards, *told);
                }
            }
            ToCluster::Ask(session, ticket) => self.announced.ask(shard, session, ticket),
            ToCluster::Will(client, will) => self.set_will(&client, will, now),
            ToCluster::Journal(said) => self.journal_said(shard, said, now),
            ToCluster::Adopted(bytes) => self.has_adopted(bytes),
            told => {
                if let ToCluster::Claim(_, client, _) = &told {
                    self.wills.far.claimed(None, client, u64::MAX, now);
                }
                self.claims.told(shard, told, self.cut_off.is_none(), now);
            }
        }
    }

    /// Notes the present digest of this node's retained messages.
    pub fn see_retained(&mut self, digest: u64, now: Instant) {
        self.retained.see(digest, now);
    }

    /// The other nodes that are there, as bits by their numbers.
    pub fn present(&self) -> NodeSet {
        let up = |(at, peer): (usize, &Option<PeerNode>)| match peer {
            Some(peer) if peer.presence == Presence::Up => 1 << at,
            _ => 0,
        };
        self.peers.iter().enumerate().map(up).sum()
    }

    /// Records for other nodes, by number, that go behind the messages that the shards have written
    /// down by now.
    pub fn behind_messages(&mut self) -> Vec<(u8, Vec<u8>)> {
        std::mem::take(&mut self.claims.behind_messages)
    }

    /// Sends a record of [`Node::behind_messages`].
    pub fn send_behind(&mut self, number: u8, record: &[u8]) {
        if let Some(peer) = self.peers.get_mut(usize::from(number)).and_then(Option::as_mut) {
            peer.push(Lane::Messages, record);
        }
    }

    /// Counts about claims, and the number of sessions that are arriving or leaving.
    pub fn claims(&self) -> (ClaimCounts, usize) {
        (self.claims.counts, self.claims.moving())
    }

    /// Whether this node is cut off from the engine.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.is_some()
    }

    /// Whether all nodes that are there have acknowledged everything that was sent to them,
    /// including what was said of will messages: those of clients that disconnect here are sent by
    /// this node, and the others must not send them again.
    pub fn is_empty(&self) -> bool {
        let up = |peer: &&PeerNode| peer.presence == Presence::Up;
        let mut there = self.peers.iter().flatten().filter(up);
        there.all(|peer| peer.window() == 0 && peer.knows_wills())
    }

    /// The number of this node's filters.
    pub fn filters(&self) -> usize {
        self.filters.len()
    }

    fn knows(&self, name: &str) -> bool {
        self.peers.iter().flatten().any(|peer| *peer.name == *name)
    }

    /// Whether messages of another node wait for this broker.
    pub fn has_waiting(&self) -> bool {
        !self.unpassed.is_empty() || self.peers.iter().flatten().any(|peer| !peer.is_drained())
    }

    /// Sends a message to the node with that number; its expiry is on this node's clock. Returns
    /// false when the message has to wait; otherwise it is sent, or dropped and counted.
    pub fn send(
        &mut self,
        number: u8,
        message: &MessageRef<'_>,
        purpose: MailPurpose,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(number)).and_then(Option::as_mut) else {
            return self.unsent(Unsent::Down);
        };
        if message.expires.is_some_and(|at| at <= now) {
            return self.unsent(Unsent::Expired);
        }
        let is_up = peer.presence == Presence::Up;
        let has_room = peer.window() < self.plan.window || self.resting;
        if is_up && (has_room || Mutant::ClusterWindowUnbounded.is_on()) {
            peer.send(message, purpose.retain);
            return true;
        }
        let kept = purpose.retain.is_kept();
        if !is_up {
            peer.lacks_retained |= kept;
            return self.unsent(Unsent::Down);
        }
        if self.cut_off.is_none() && now.millis_since(peer.heard) < CUT_OFF {
            return false; // the node is slow
        }
        match (message.qos, self.plan.when_cut_off) {
            (Qos::AtMostOnce, _) | (_, WhenCutOff::Drop) => {
                peer.lacks_retained |= kept;
                self.unsent(Unsent::Full)
            }
            (_, WhenCutOff::Park) => false,
        }
    }

    fn unsent(&mut self, why: Unsent) -> bool {
        if let Some(count) = self.counts.unsent.get_mut(why as usize) {
            *count += 1;
        }
        true
    }

    /// Takes in a frame.
    pub fn received(&mut self, bytes: &[u8], now: Instant) {
        self.counts.frames_received += 1;
        let frame = match NodeFrame::read(bytes) {
            Ok(frame) if frame.format <= self.plan.abilities.newest => frame,
            Ok(_) => return self.refused(FrameRefusal::Format, bytes, now),
            Err(why) => return self.refused(why, bytes, now),
        };
        if frame.sender.name == self.plan.name {
            return self.hear_itself(&frame, now);
        }
        if frame.said == FrameContent::Goodbye && !self.knows(frame.sender.name) {
            return;
        }
        let mut frame = frame;
        if let FrameContent::State(state) | FrameContent::Data(state, ..) = frame.said
            && state.to != self.plan.incarnation
        {
            // The frame is for an earlier run of this node, so it only shows that the sender is
            // there.
            self.counts.stale += 1;
            frame.said = FrameContent::Hello(Abilities::LEAST);
        }
        let Some(at) = self.number_of(&frame.sender, now) else { return };
        let streams = &mut self.streams;
        let mut next_stream = || {
            *streams += 1;
            *streams
        };
        let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else { return };
        let streams_before = peer.streams();
        let incarnation = frame.sender.incarnation;
        if incarnation != peer.incarnation {
            let older = incarnation < peer.incarnation && peer.presence == Presence::Up;
            if older || !peer.is_drained() {
                self.counts.stale += u64::from(older);
                return;
            }
            tracing::info!(node = &*peer.name, incarnation, "cluster: a node has started anew");
            peer.restarted(incarnation, next_stream());
            self.wills.far.restarted(at as u8, incarnation, now);
        }
        if frame.said == FrameContent::Goodbye {
            if peer.presence == Presence::Up {
                tracing::info!(node = &*peer.name, "cluster: a node has ended");
                peer.silent(now);
                peer.has_ended = true;
                self.wills.far.silent(at as u8, now);
            }
            return;
        }
        let back = matches!(peer.presence, Presence::Down(_));
        peer.take(&frame, now, &mut next_stream);
        peer.apart.see(frame.sender.time, self.claims.time(now), now);
        if peer.streams() != streams_before && streams_before.1 != 0 {
            self.claims.forget(at as u8, now);
        }
        if back {
            tracing::info!(node = &*peer.name, "cluster: a node is back");
            peer.begin_again(now);
            peer.lacks_retained = true;
            self.wills.far.back(at as u8);
        }
    }

    /// The number of a node; a new node gets a free one. `None` when there is none left.
    fn number_of(&mut self, sender: &FrameSender<'_>, now: Instant) -> Option<usize> {
        let known =
            |peer: &Option<PeerNode>| peer.as_ref().is_some_and(|p| *p.name == *sender.name);
        if let Some(at) = self.peers.iter().position(known) {
            return Some(at);
        }
        let free = self.peers.iter_mut().enumerate().find(|(_, place)| place.is_none());
        let Some((at, place)) = free else {
            self.counts.beyond += 1;
            if !std::mem::replace(&mut self.warned, true) {
                let most = CLUSTER_PEERS + 1;
                tracing::error!(node = sender.name, most, "cluster: there are too many nodes");
            }
            return None;
        };
        self.streams += 1;
        tracing::info!(node = sender.name, "cluster: a node has joined");
        self.strangers.joined(sender.name);
        *place = Some(PeerNode::new(sender, self.streams, self.plan.abilities, now));
        self.claims.joined(at as u8, sender.name);
        self.wills.far.joined(at as u8, sender.name, sender.incarnation);
        Some(at)
    }

    /// Does what is due: sends hellos, tells and takes in filters, takes in messages, sends frames.
    /// Returns true when there is more to do at once.
    pub fn run(
        &mut self,
        now: Instant,
        broker: &mut impl LocalBroker,
        engine: &mut impl Engine,
    ) -> bool {
        self.look_for_silence(now);
        let mut more = self.act(now, broker, engine);
        let forgets_wills = !self.judges_others(now);
        let greets = self.greet(now, engine);
        let NodePlan { name, incarnation, .. } = &self.plan;
        let time = self.claims.time(now);
        let own = FrameSender { name, incarnation: *incarnation, clock: now.0, time };
        let places = self.peers.iter_mut().zip(&mut self.retellings).enumerate();
        for (number, (place, retelling)) in places {
            let Some(peer) = place else { continue };
            if let Presence::Down(since) = peer.presence {
                if self.resting {
                    continue;
                }
                let swept = peer.sweep(number as u8, broker) && peer.is_drained();
                more |= !swept;
                if swept && now.millis_since(since) >= self.plan.give_up {
                    let lost = peer.give_up();
                    tracing::warn!(node = &*peer.name, lost, "cluster: a node is given up");
                    let counts = PeerCounts { resends: peer.resends(), ..peer.counts };
                    add(&mut self.counts.peers, &counts);
                    let unpassed = peer.take_unpassed().into_iter();
                    self.unpassed.extend(unpassed.map(|record| (number as u8, record)));
                    self.claims.forget(number as u8, now);
                    self.wills.far.given_up(number as u8, forgets_wills, now);
                    *place = None;
                    retelling.forget();
                }
                continue;
            }
            if !self.resting {
                self.counts.retold += retelling.run(number as u8, peer, &mut self.claims, broker);
            }
            if greets && retelling.compare(self.retained, peer.retained, now) {
                self.counts.retained_differ += 1;
            }
            peer.retained_here = self.retained.value();
            more |= peer.tell(&self.filters, TELLING);
            peer.note_told(retelling.is_done());
            more |= peer.tell_wills(&self.wills.local, retelling::WINDOW);
            if peer.knows_filters() {
                self.claims.take_behind_filters(number as u8, |r| peer.push(Lane::Control, r));
            }
            if self.cut_off.is_some() {
                continue;
            }
            let send = &mut |to: &str, frame: Bytes| {
                self.counts.frames_sent += 1;
                engine.send(To::Node(to), frame);
            };
            peer.emit(&own, &self.filters, now, send);
            if greets {
                peer.emit_state(&own, &self.filters, now, send);
            }
        }
        more || !self.claims.mail.is_empty()
    }

    /// Takes in what has come, and does what follows from it and from the time; nothing is sent to
    /// other nodes yet. Returns true when there is more to do at once.
    fn act(
        &mut self,
        now: Instant,
        broker: &mut impl LocalBroker,
        engine: &mut impl Engine,
    ) -> bool {
        let mut more = !self.is_still() && self.take_in(now, broker);
        self.collect_unpassed();
        more |= !self.resting && self.return_unpassed(broker);
        self.run_claims(now, broker);
        self.run_adoption(now, broker, engine);
        self.settle_own(broker);
        if !self.resting {
            self.tell_settled();
            more |= self.run_wills(now, broker);
        }
        more
    }

    fn look_for_silence(&mut self, now: Instant) {
        if self.cut_off.is_none() && now.millis_since(self.echoed) >= CUT_OFF {
            tracing::warn!("cluster: the engine does not carry frames");
            self.cut_off = Some(now);
        }
        let mut missing = false;
        let gives_up = self.cut_off.is_none_or(|s| now.millis_since(s) >= self.plan.give_up);
        for (number, place) in self.peers.iter_mut().enumerate() {
            let Some(peer) = place else { continue };
            let silent = now.millis_since(peer.heard) >= SILENT;
            if peer.presence == Presence::Up && silent && gives_up {
                tracing::warn!(node = &*peer.name, "cluster: a node is down");
                peer.silent(now);
                self.wills.far.silent(number as u8, now);
                missing = true;
            }
        }
        if missing {
            self.look_at_members(now);
        }
    }

    /// Takes in what other nodes have sent, a bounded number of records of each.
    fn take_in(&mut self, now: Instant, broker: &mut impl LocalBroker) -> bool {
        let mut more = false;
        for (number, place) in self.peers.iter_mut().enumerate() {
            let Some(peer) = place else { continue };
            let known = (&mut self.claims, &mut self.wills.far);
            if let Ok(goes_on) = peer.take_in(number as u8, broker, known, now) {
                more |= goes_on;
            } else {
                self.streams += 1;
                peer.refuse(self.streams);
                self.claims.forget(number as u8, now);
                tracing::error!(node = &*peer.name, "cluster: a node said what none may say");
            }
        }
        more
    }

    /// Continues claims, and hands out their records and mail.
    fn run_claims(&mut self, now: Instant, broker: &mut impl LocalBroker) {
        let up = self.present();
        self.claims.see(up, now);
        self.run_announced(up, now);
        let peers = &mut self.peers;
        let window = |node: u8| {
            let peer = peers.get(usize::from(node)).and_then(Option::as_ref);
            peer.map_or(0, PeerNode::bulk)
        };
        self.claims.run(now, window);
        for (node, lane, record) in self.claims.records.drain(..) {
            if let Some(peer) = peers.get_mut(usize::from(node)).and_then(Option::as_mut) {
                peer.push(lane, &record);
            }
        }
        for mail in self.claims.mail.drain(..) {
            match mail {
                ClaimMail::One(whom, what) => broker.tell(whom, what),
                ClaimMail::Fences => broker.ask_for_fences(),
            }
        }
        for node in self.claims.retellings.drain(..) {
            if let Some(retelling) = self.retellings.get_mut(usize::from(node)) {
                retelling.fenced();
            }
        }
    }

    /// Asks the other nodes whether they know filters, and hands out their answers.
    fn run_announced(&mut self, up: NodeSet, now: Instant) {
        if let Some(number) = self.announced.begin(up, self.cut_off.is_none(), now) {
            for node in (0..CLUSTER_PEERS as u8).filter(|node| up & 1 << node != 0) {
                self.claims.say_behind_filters(node, &NodeRecord::Ask(number));
            }
        }
        for (node, number) in self.claims.known.drain(..) {
            self.announced.known(node, number);
        }
        self.announced.run(up, now, &mut self.claims.mail);
    }

    /// When the node has something to do even if nothing arrives.
    pub fn deadline(&self, now: Instant) -> Instant {
        let up = |peer: &&PeerNode| peer.presence == Presence::Up && self.cut_off.is_none();
        let peers = self.peers.iter().flatten().filter(up).filter_map(PeerNode::deadline);
        // Looking after a node that is down is no more urgent than the next hello.
        peers
            .chain([self.next_hello])
            .chain(self.claims.deadline())
            .chain(self.announced.deadline())
            .chain(self.adoption.iter().map(|adoption| adoption.deadline()))
            .min()
            .unwrap_or(now)
    }
}
