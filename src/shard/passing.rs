//! Messages of share groups between the nodes of a cluster. A message that is published at a node
//! goes to one member of the group in the whole cluster. The group's home shard at that node picks
//! a ready member of its own node. If there is none, it picks another node, whose home shard of the
//! group picks the member.
//!
//! Each node tells the others which groups have members there, as it tells them about filters. A
//! group therefore has a home shard at every node that has members or knows of a node with members.
//! A message that a node sends to another one for its sessions does not go to groups there (only
//! [`Passed`] messages do), so each group gets the message once.
//!
//! A node whose members cannot take a message gives it back to the node that it came from, and is
//! asked last by that node for a second. When all nodes have given the message back, the members
//! that are not ready decide, those at this node first. When the group has no member here, the next
//! node is asked for any member. No message goes from one node to another more than
//! [`CLUSTER_HOPS`] times.
//!
//! A message for a node whose mailbox is full waits here, and its publisher waits with it. Messages
//! of QoS 1 that a node was sent and has not acknowledged when that node is given up come back as
//! well (`cluster::node`).

use super::Shard;
use super::ahead::TopicSubject;
use super::drops::DropReason;
use super::outbox::Turn;
use crate::ids::ShardSet;
use crate::limits::{CLUSTER_HOPS, CLUSTER_PEERS};
use crate::mesh::mail::{Passed, PassedFor, Trip};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::session::ShareName;
use std::collections::VecDeque;

/// Used to ask whether there is room without a topic, so that nothing is reserved for the cost.
const NOBODY: (Option<TopicSubject<'static>>, Turn) = (None, Turn::OfNobody);
/// Most messages that wait for full mailboxes, and most bytes of them.
const MOST: usize = 4096;
const MOST_BYTES: usize = 8 << 20;

/// Messages that wait for the mailboxes of other nodes.
#[derive(Default)]
pub(super) struct Passing {
    /// By the number of the node.
    queues: Vec<VecDeque<Passed>>,
    count: usize,
    bytes: usize,
}

impl Passing {
    /// How many messages wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of the waiting messages.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_waiting(&self, node: u8) -> bool {
        self.queues.get(usize::from(node)).is_some_and(|queue| !queue.is_empty())
    }

    fn push(&mut self, passed: Passed) {
        let at = usize::from(passed.node);
        if at >= self.queues.len() {
            self.queues.resize_with(at + 1, VecDeque::new);
        }
        self.count += 1;
        self.bytes += passed.message.size();
        if let Some(queue) = self.queues.get_mut(at) {
            queue.push_back(passed);
        }
    }

    fn pop(&mut self, node: u8) -> Option<Passed> {
        let passed = self.queues.get_mut(usize::from(node))?.pop_front()?;
        self.count -= 1;
        self.bytes -= passed.message.size();
        if self.count == 0 {
            self.queues = Vec::new();
        }
        Some(passed)
    }
}

impl Shard {
    /// Gives a message of the group to another node, if one is to have it: no member here is ready.
    /// Of the last argument, `trip` is the message's way to this node, and `here` says whether some
    /// member here could take the message although it is not ready.
    #[inline(never)]
    pub(super) fn passes_on(
        &mut self,
        group: u32,
        name: &ShareName,
        message: &MessageRef<'_>,
        (trip, here): (Trip, bool),
    ) -> bool {
        if self.topology.cluster().is_none() {
            return false;
        }
        if trip.from.is_some_and(|(_, any)| any) && self.subscriptions.groups.len(group) > 0 {
            return false;
        }
        if self.gives_back_to_node(name, message, trip) {
            return true;
        }
        let present = self.present_nodes();
        let (all, open) = self.subscriptions.groups.nodes(group, self.now);
        let (all, open) = (all & present, open & present);
        if all == 0 || open == 0 && here || trip.hops >= CLUSTER_HOPS {
            return false;
        }
        let among = if open == 0 { all } else { open };
        let roomy = self.nodes_with_room(among);
        let among = if roomy == 0 { among } else { roomy };
        let node = self.subscriptions.groups.next_node(group, among);
        let sole = !here && all.count_ones() == 1;
        let asks = if open == 0 || sole { PassedFor::Any } else { PassedFor::Ready };
        self.counters.share_passed += 1;
        self.pass(node, name, asks, trip.hops, message);
        true
    }

    /// Gives a message back to the node that it came from, if that node is still there.
    pub(super) fn gives_back_to_node(
        &mut self,
        name: &ShareName,
        message: &MessageRef<'_>,
        trip: Trip,
    ) -> bool {
        let Some((node, _)) = trip.from else { return false };
        if self.present_nodes() & 1 << node == 0 {
            return false;
        }
        self.counters.share_passed_back += 1;
        if !Mutant::ClusterGroupBackLost.is_on() {
            self.pass(node, name, PassedFor::Back, trip.hops, message);
        }
        true
    }

    /// The next message that waits for a node and can go on, because that node has room (true) or
    /// is gone (false).
    pub(super) fn next_passing(&mut self) -> Option<(Passed, bool)> {
        if self.subscriptions.returns.passing.len() == 0 {
            return None;
        }
        let present = self.present_nodes();
        let goes_on = |&node: &u8| {
            let place = ShardSet::only(self.topology.place_of(node));
            self.subscriptions.returns.passing.is_waiting(node)
                && (present & 1 << node == 0
                    || self.mail.outbox.first_full(place, ShardSet::EMPTY, NOBODY).is_none())
        };
        let node = (0..CLUSTER_PEERS as u8).find(goes_on)?;
        let passed = self.subscriptions.returns.passing.pop(node)?;
        self.memory.tally.returning -= passed.message.size();
        Some((passed, present & 1 << node != 0))
    }

    /// Counts messages that no member of the group can take.
    pub(super) fn count_untaken(&mut self, group: u32, count: u64) {
        if self.subscriptions.groups.len(group) > 0 {
            // They are of QoS 0, and no member is connected.
            self.count_drops(DropReason::OfflineQos0, count);
        } else {
            self.counters.dropped_share_unreachable += count;
        }
    }

    fn present_nodes(&self) -> u16 {
        self.topology.shared.nodes.used() as u16
    }

    fn nodes_with_room(&self, among: u16) -> u16 {
        let nodes = (0..CLUSTER_PEERS as u8).filter(|&node| among & 1 << node != 0);
        nodes.filter(|&node| self.has_room_for(node)).map(|node| 1 << node).sum()
    }

    fn has_room_for(&self, node: u8) -> bool {
        let place = ShardSet::only(self.topology.place_of(node));
        !self.subscriptions.returns.passing.is_waiting(node)
            && self.mail.outbox.first_full(place, ShardSet::EMPTY, NOBODY).is_none()
    }

    fn pass(
        &mut self,
        node: u8,
        name: &ShareName,
        asks: PassedFor,
        hops: u8,
        message: &MessageRef<'_>,
    ) {
        let stored = self.delivery.store(message);
        let (name, hops) = (name.clone(), hops.saturating_add(1));
        let passed = Passed { name, node, asks, hops, message: stored };
        if self.has_room_for(node) {
            self.mail.outbox.pass(self.topology.place_of(node), passed);
            return;
        }
        let passing = &self.subscriptions.returns.passing;
        if passing.len() >= MOST || passing.bytes() + message.size() > MOST_BYTES {
            self.counters.dropped_share_unreachable += 1;
            return;
        }
        if let Some(publisher) = message.publisher {
            self.make_publisher_wait(publisher);
        }
        self.memory.tally.returning += message.size();
        self.subscriptions.returns.passing.push(passed);
    }
}
