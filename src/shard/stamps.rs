//! Retained messages on a node of a cluster: which of two messages of a topic is the newer one,
//! with the same result on all nodes. The messages themselves are in [`super::retain`]. How a node
//! that lacks some messages gets them is in `cluster::node::retelling`.
//!
//! A message that is to be retained gets a *stamp* where it is published, before it is
//! acknowledged: the time, or one more than the newest stamp that this node has seen, if that is
//! later. The stamp goes to every node with the message, and the home shard of the topic there
//! keeps the message unless it has had a newer one. All nodes therefore end with the same message,
//! in whatever order they get several. If a client was told that a message is accepted and
//! publishes another one after that, the later message wins, provided that both were published at
//! the same node, or that the second node has seen the first message, or that its clock is not
//! behind.
//!
//! That a topic was cleared is remembered with its stamp, so that a node that comes back with an
//! older message can be told. A shard remembers this for [`FORGET`], and for at most [`CLEARED`]
//! bytes of topics; the oldest go first.

use super::route::Route;
use super::topology::Topology;
use super::{Shard, Turn};
use crate::ids::ShardSet;
use crate::limits::cost;
use crate::mesh::moves::{Retell, Retold, ToCluster, Whence};
use crate::message::{MailPurpose, Message, MessageRef, Reserve, Retain};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;
use crate::topic::{self, TopicHash};
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Most bytes for what is remembered of cleared topics.
const CLEARED: usize = 8 << 20;
/// Bytes of the stamp of a retained message, with its place.
const KEPT: usize = 2 * size_of::<u64>() + 1;
/// Bytes of a cleared topic besides its name, which is stored twice.
const PLACE: usize = 128;
/// Milliseconds for which a cleared topic is remembered.
const FORGET: u64 = 24 * 3600 * 1000;
/// Messages in one slice for a node that is told about all.
const SLICE: usize = 64;

/// The stamps of retained messages, and of topics that were cleared.
#[derive(Default)]
pub(super) struct Stamps {
    /// By the hash of the topic. A message that was stored while the broker was no node of a
    /// cluster has no stamp, and counts as the oldest.
    kept: HashMap<u64, u64>,
    cleared: BTreeMap<Box<str>, u64>,
    /// The entries of `cleared` in the order of time, and some that are no longer in `cleared`.
    order: VecDeque<(Instant, u64, Box<str>)>,
    bytes: usize,
}

impl Stamps {
    /// Bytes of all stamps and cleared topics.
    pub(super) fn held(&self) -> usize {
        self.kept.capacity() * KEPT + self.bytes
    }

    /// Forgets the stamp of a message that is no longer retained. Returns the stamp, on a node of a
    /// cluster.
    pub(super) fn forget_kept(&mut self, topology: &Topology, old: &Message) -> Option<u64> {
        let view = old.view();
        if !crosses(topology, view.topic) {
            return None;
        }
        let hash = topology.shared.seeds.place(view.topic.as_bytes());
        let stamp = self.kept.remove(&hash).unwrap_or(Retain::OLDEST);
        if view.expires.is_none() {
            topology.shared.retained_digest.shift(share(view.topic, stamp), 0);
        }
        Some(stamp)
    }

    /// Notes that a topic was cleared, so that no older message of another node takes effect later.
    pub(super) fn note_cleared(&mut self, topic: &str, stamp: u64, now: Instant) {
        if Mutant::ClusterClearForgotten.is_on() {
            return;
        }
        self.cleared.insert(topic.into(), stamp);
        self.order.push_back((now, stamp, topic.into()));
        self.bytes += 2 * topic.len() + PLACE;
        while self.bytes > CLEARED && self.forget_oldest() {}
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, stamp, topic)) = self.order.pop_front() else { return false };
        self.bytes -= 2 * topic.len() + PLACE;
        if self.cleared.get(&topic) == Some(&stamp) {
            self.cleared.remove(&topic);
        }
        true
    }

    /// Forgets some topics that were cleared long ago.
    pub(super) fn sweep(&mut self, now: Instant) {
        let is_old = |(at, ..): &(Instant, u64, Box<str>)| now.millis_since(*at) >= FORGET;
        for _ in 0..SLICE {
            if !self.order.front().is_some_and(is_old) {
                return;
            }
            self.forget_oldest();
        }
    }
}

/// What one message adds to the digest of all retained messages. Nodes with the same messages have
/// the same sum, however many shards they have.
fn share(topic: &str, stamp: u64) -> u64 {
    let sum = u64::from(crc32c::crc32c(topic.as_bytes()));
    topic::spread(sum << 32 ^ stamp)
}

/// Decides between two messages with the same stamp, which is rare, in the same way on all nodes.
fn tie(message: &MessageRef<'_>) -> u64 {
    if message.payload.is_empty() {
        return 0;
    }
    let sum = crc32c::crc32c_append(crc32c::crc32c(message.properties), message.payload);
    1 + u64::from(sum)
}

/// Whether a topic's retained message is the same on all nodes. What a broker publishes about
/// itself is not.
fn crosses(topology: &Topology, topic: &str) -> bool {
    topology.cluster().is_some() && !topic.starts_with("$SYS/")
}

impl Shard {
    fn next_stamp(&self) -> Retain {
        let shared = &self.topology.shared;
        let time = shared.stamp_origin.used().wrapping_add(self.now.0.wrapping_mul(1000));
        Retain::stamped(shared.stamps.above(time))
    }

    /// Adds all nodes to the shards that get a message, because it is to be retained there, too.
    #[inline(never)]
    pub(super) fn add_nodes(&self, interested: &mut ShardSet, topic: &str) {
        if crosses(&self.topology, topic) && !Mutant::ClusterRetainedUntold.is_on() {
            interested.0 |= self.topology.nodes().0;
        }
    }

    /// The rest of [`Shard::follow`] for a message that all nodes retain; `None` when the message
    /// is only for this node.
    #[inline(never)]
    pub(super) fn follow_stamped(
        &mut self,
        route: &Route,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
    ) -> Option<bool> {
        if !crosses(&self.topology, message.topic) {
            return None;
        }
        let stamp = self.next_stamp();
        let accounts = route.accounts();
        let (all, home) = (route.all(), route.retain_at());
        let mut nodes = self.topology.nodes();
        if Mutant::ClusterRetainedUntold.is_on() {
            nodes = ShardSet::EMPTY;
        }
        let wanted = self.topology.shared.interest.shards(hash);
        let mut matched = false;
        for shard in ShardSet(all.0 | nodes.0).iter() {
            let kept = home == Some(shard) || nodes.contains(shard);
            let purpose = MailPurpose {
                deliver: route.interested().contains(shard),
                retain: match kept {
                    // Another node has no bounds for the clients of this one.
                    true if home == Some(shard) => stamp.on(accounts),
                    true => stamp,
                    false => Retain::NONE,
                },
                reserve: Reserve::NONE,
            };
            let accepted = self.hand_to(shard, purpose, hash, message);
            matched |= accepted && wanted.contains(shard);
        }
        Some(matched)
    }

    /// Retains a message, or clears its topic, unless this shard has had a newer message.
    pub(super) fn keep_stamped(&mut self, message: &MessageRef<'_>, retain: Retain) {
        let Some(stamp) = retain.stamp() else {
            return self.keep_retained(message, retain);
        };
        let hash = self.topology.shared.seeds.place(message.topic.as_bytes());
        if !self.is_newest(hash, message, stamp) && !Mutant::ClusterStampIgnored.is_on() {
            self.counters.retained_superseded += 1;
            return;
        }
        self.keep_retained(message, retain);
        self.retained.stamps.cleared.remove(message.topic);
        match self.retained.messages.get(message.topic) {
            Some(kept) => {
                let lasts = kept.expires().is_none();
                self.retained.stamps.kept.insert(hash, stamp);
                self.tell_digest(0, if lasts { share(message.topic, stamp) } else { 0 });
            }
            None => self.retained.stamps.note_cleared(message.topic, stamp, self.now),
        }
    }

    fn is_newest(&self, hash: u64, message: &MessageRef<'_>, stamp: u64) -> bool {
        let stamps = &self.retained.stamps;
        let (known, other) = match self.retained.messages.get(message.topic) {
            Some(kept) => {
                let known = stamps.kept.get(&hash).copied().unwrap_or(Retain::OLDEST);
                (known, if known == stamp { tie(&kept.view()) } else { 0 })
            }
            None => match stamps.cleared.get(message.topic) {
                Some(&known) => (known, 0),
                None => return true,
            },
        };
        (stamp, if known == stamp { tie(message) } else { 0 }) > (known, other)
    }

    fn tell_digest(&self, before: u64, after: u64) {
        self.topology.shared.retained_digest.shift(before, after);
    }

    /// The stamp of the message that is retained for the topic; 0 where there is none.
    pub(super) fn stamp_of_kept(&self, topic: &str) -> u64 {
        if !crosses(&self.topology, topic) || Mutant::ClusterUpgradeStampsLost.is_on() {
            return 0;
        }
        let hash = self.topology.shared.seeds.place(topic.as_bytes());
        self.retained.stamps.kept.get(&hash).copied().unwrap_or(Retain::OLDEST)
    }

    /// The next topics that were cleared, after that one, for an upgrade.
    pub(super) fn pack_cleared(&self, after: Option<&str>) -> Vec<((u64, u64), Message)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let some = self.retained.stamps.cleared.range::<str, _>((from, Bound::Unbounded));
        let message = |topic: &str| Message::new(&nothing(topic), &mut Vec::new());
        some.take(SLICE).map(|(topic, &stamp)| ((0, stamp), message(topic))).collect()
    }

    /// Notes the stamp of a message that was retained before this process began. A message without
    /// a stamp, from a broker that was no node of a cluster, counts as the oldest.
    pub(super) fn note_restored(&mut self, message: &Message, stamp: u64) {
        let view = message.view();
        if !crosses(&self.topology, view.topic) {
            return;
        }
        let is_one = (Retain::OLDEST..=Retain::NEWEST).contains(&stamp);
        let stamp = if is_one { stamp } else { Retain::OLDEST };
        if stamp > Retain::OLDEST {
            let hash = self.topology.shared.seeds.place(view.topic.as_bytes());
            self.retained.stamps.kept.insert(hash, stamp);
            self.topology.shared.stamps.raise(stamp);
        }
        if view.expires.is_none() {
            self.tell_digest(0, share(view.topic, stamp));
        }
    }

    /// Clears a topic whose message is retained here, on all nodes, for an operator. False when the
    /// mailbox for some node is full; nothing was done then.
    pub(super) fn clear_at_nodes(&mut self, message: &MessageRef<'_>) -> bool {
        if !crosses(&self.topology, message.topic) {
            self.keep_retained(message, Retain::PLAIN);
            return true;
        }
        let (nodes, turn) = (self.topology.nodes(), (None, Turn::OfNobody));
        if self.mail.outbox.first_full(nodes, ShardSet::EMPTY, turn).is_some() {
            return false;
        }
        let retain = self.next_stamp();
        self.keep_stamped(message, retain);
        for node in self.topology.nodes().iter() {
            let purpose = MailPurpose { deliver: false, retain, reserve: Reserve::NONE };
            let scratch = self.delivery.scratch.bytes();
            self.mail.outbox.publish(node, message, None, purpose, &mut None, scratch);
        }
        true
    }

    /// Returns the next retained messages, or cleared topics, to a node that is told about all of
    /// them.
    pub(super) fn retell(&mut self, asked: Retell) {
        let Retell { node, ticket, whence } = asked;
        let mut retold = Retold { node, ticket, messages: Vec::new(), next: None };
        match whence {
            Whence::Kept(after) => self.retell_kept(after.as_deref(), &mut retold),
            Whence::Cleared(after) => self.retell_cleared(after.as_deref(), &mut retold),
        }
        self.meter.charge(retold.messages.len() as u32 * cost::MAIL);
        self.answer_cluster(ToCluster::Retold(Box::new(retold)));
    }

    fn retell_kept(&mut self, after: Option<&str>, retold: &mut Retold) {
        let (stamps, seeds) = (&self.retained.stamps.kept, &self.topology.shared.seeds);
        let messages = &mut retold.messages;
        let pass = self.retained.messages.retain(after, SLICE, |topic, message| {
            if !topic.starts_with("$SYS/") {
                let stamp = stamps.get(&seeds.place(topic.as_bytes())).copied();
                messages.push((stamp.unwrap_or(Retain::OLDEST), message.clone()));
            }
            true
        });
        retold.next = Some(match pass {
            topic::Pass::More(after) => Whence::Kept(Some(after)),
            topic::Pass::Done => Whence::Cleared(None),
        });
    }

    fn retell_cleared(&mut self, after: Option<&str>, retold: &mut Retold) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let scratch = self.delivery.scratch.bytes();
        let some = self.retained.stamps.cleared.range::<str, _>((from, Bound::Unbounded));
        for (topic, &stamp) in some.take(SLICE) {
            retold.messages.push((stamp, Message::new(&nothing(topic), scratch)));
        }
        if retold.messages.len() == SLICE {
            let last = retold.messages.last();
            retold.next = last.map(|(_, last)| Whence::Cleared(Some(last.view().topic.into())));
        }
    }
}

/// The message that clears a topic [MQTT-3.3.1-6].
pub(super) fn nothing(topic: &str) -> MessageRef<'_> {
    MessageRef {
        topic,
        properties: &[],
        payload: &[],
        qos: Qos::AtMostOnce,
        retain: true,
        expires: None,
        publisher: None,
    }
}
