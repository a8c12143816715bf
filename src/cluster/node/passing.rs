//! Messages of share groups on their way to the node that is to choose a member.

use super::status::Unsent;
use super::{CUT_OFF, Node, WhenCutOff};
use crate::cluster::peer::{LocalBroker, PeerNode, Presence};
use crate::cluster::record::{NodeRecord, PassedRef};
use crate::mesh::mail::{Passed, PassedFor};
use crate::packet::Qos;
use crate::time::Instant;

/// Messages of share groups that are handed back at a time.
const UNPASSED: usize = 256;

/// The result of [`Node::pass`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassedTo {
    /// The message goes to the node, or has expired.
    Node,
    /// The message has to wait.
    Waits,
    /// The node is not there; the message is to go to another member.
    Nobody,
}

impl Node {
    /// Sends a message of a share group to its node.
    pub fn pass(&mut self, passed: &Passed, now: Instant) -> PassedTo {
        let peer = self.peers.get_mut(usize::from(passed.node)).and_then(Option::as_mut);
        let Some(peer) = peer.filter(|peer| peer.presence == Presence::Up) else {
            return PassedTo::Nobody;
        };
        let message = passed.message.view();
        if message.expires.is_some_and(|at| at <= now) {
            self.unsent(Unsent::Expired);
            return PassedTo::Node;
        }
        if peer.window() < self.plan.window || self.resting {
            peer.pass(passed);
            return PassedTo::Node;
        }
        let slow = self.cut_off.is_none() && now.millis_since(peer.heard) < CUT_OFF;
        let drops = message.qos == Qos::AtMostOnce || self.plan.when_cut_off == WhenCutOff::Drop;
        if slow || !drops { PassedTo::Waits } else { PassedTo::Nobody }
    }

    /// Hands back messages of share groups that were sent to a node and lost, some at a time.
    /// Returns true when there are more.
    pub(super) fn return_unpassed(&mut self, broker: &mut impl LocalBroker) -> bool {
        for _ in 0..UNPASSED {
            let Some((node, bytes)) = self.unpassed.front() else { return false };
            if let Ok(NodeRecord::Passed(passed)) = NodeRecord::read(bytes)
                && !broker.pass(*node, &PassedRef { asks: PassedFor::Back, ..passed })
            {
                return false;
            }
            self.unpassed.pop_front();
            self.counts.unpassed += 1;
        }
        !self.unpassed.is_empty()
    }

    /// Collects the messages of share groups that were sent to nodes and lost.
    pub(super) fn collect_unpassed(&mut self) {
        for (number, peer) in self.peers.iter_mut().enumerate() {
            let unpassed = peer.as_mut().map(PeerNode::take_unpassed).unwrap_or_default();
            self.unpassed.extend(unpassed.into_iter().map(|record| (number as u8, record)));
        }
    }
}
