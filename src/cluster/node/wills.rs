//! Will messages of a node: those of its own clients are told to the other nodes, and those of a
//! dead node's clients are published when this node's turn has come.

use super::{Node, retelling};
use crate::cluster::claims::Whom;
use crate::cluster::peer::{LocalBroker, PeerNode, Presence};
use crate::cluster::record::NodeRecord;
use crate::cluster::wills::{DueWill, FarWills, LocalWills, Survivors};
use crate::mesh::moves::{FarWill, ToShard};
use crate::mutant::Mutant;
use crate::time::Instant;

/// Will messages that are published at a time.
const PUBLISHED: usize = 64;

/// The will messages that a node knows.
pub(super) struct NodeWills {
    /// Those of its own clients.
    pub(super) local: LocalWills,
    /// Those of other nodes' clients.
    pub(super) far: FarWills,
}

impl NodeWills {
    /// No will messages yet of the node `own`; at most `most` bytes of other nodes' are kept.
    pub(super) fn new(own: &str, most: usize) -> NodeWills {
        NodeWills { local: LocalWills::default(), far: FarWills::new(own, most) }
    }
}

impl Node {
    /// Sets or removes the will message of a client of this node.
    pub(super) fn set_will(&mut self, client: &str, will: Option<FarWill>, now: Instant) {
        // With `durable`, a stored session goes to an adopter with its will message.
        let will = will.filter(|will| !(will.stored && self.plan.durable));
        let stamp = self.claims.next_stamp(now);
        if self.wills.local.set(client, stamp, will) {
            self.peers.iter_mut().flatten().for_each(|peer| peer.will_changed(client));
        }
    }

    /// Bytes that are held for will messages and for an adoption.
    pub fn held(&self) -> usize {
        let adoption = self.adoption.as_ref().map_or(0, |adoption| adoption.held());
        self.wills.local.bytes() + self.wills.far.bytes() + adoption
    }

    /// Whether nodes that are not heard count as gone. This requires that the engine has carried
    /// this node's own hellos for a while, and that at least half of the known nodes that have not
    /// ended are here.
    pub(super) fn judges_others(&self, now: Instant) -> bool {
        if self.cut_off.is_some() || now < self.heard_by {
            return false;
        }
        let (mut there, mut known) = (1, 1);
        for peer in self.peers.iter().flatten() {
            there += usize::from(peer.presence == Presence::Up);
            known += usize::from(!peer.has_ended);
        }
        there * 2 >= known || Mutant::ClusterWillMinority.is_on()
    }

    /// Tells nodes that are back which of their stored will messages are no more theirs to publish.
    pub(super) fn tell_settled(&mut self) {
        if Mutant::ClusterWillSettledUntold.is_on() {
            return;
        }
        for peer in self.peers.iter_mut().flatten() {
            while peer.presence == Presence::Up
                && peer.bulk() < retelling::WINDOW
                && let Some((run, client)) =
                    self.wills.far.next_settled(&peer.name, peer.incarnation)
            {
                peer.push_record(&NodeRecord::WillSent(run, &peer.name.clone(), &client));
            }
        }
    }

    /// Hands on which stored will messages of this node other nodes have settled.
    pub(super) fn settle_own(&mut self, broker: &mut impl LocalBroker) {
        for client in self.wills.far.own_settled.drain(..) {
            broker.tell(Whom::Home(client.clone()), ToShard::WillSettled(client));
        }
    }

    /// Publishes will messages of clients whose node is gone, some at a time. Returns true when
    /// there are more.
    pub(super) fn run_wills(&mut self, now: Instant, broker: &mut impl LocalBroker) -> bool {
        if !self.wills.far.has_work() {
            return false;
        }
        let up = |peer: &&PeerNode| peer.presence == Presence::Up;
        // A node has to be told of each published will message before its own turn comes, so
        // nothing is published while a window is full.
        let slow = |peer: &PeerNode| peer.bulk() >= retelling::WINDOW;
        let waits = broker.is_congested() || self.peers.iter().flatten().filter(up).any(slow);
        let survivors = Survivors {
            name: &self.plan.name,
            others: self.peers.iter().flatten().filter(up).map(|peer| &*peer.name).collect(),
            may_publish: self.judges_others(now),
            room: if waits { 0 } else { PUBLISHED },
        };
        let mut due = Vec::new();
        let more = self.wills.far.run(now, &survivors, &mut |one| due.push(one));
        for DueWill { node, incarnation, client, will } in due {
            let sent = NodeRecord::WillSent(incarnation, &node, &client);
            for peer in self.peers.iter_mut().flatten() {
                if peer.presence == Presence::Up && !Mutant::ClusterWillTwice.is_on() {
                    peer.push_record(&sent);
                }
            }
            broker.tell(Whom::Home(client), ToShard::Will(will));
        }
        more
    }
}
