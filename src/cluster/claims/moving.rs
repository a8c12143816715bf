//! Claims go to the process that takes this one's place in an upgrade: those of other nodes that
//! wait for their turn. The shards come to rest when this node's own claims are over and no session
//! is on its way.

use super::{NodeClaims, NodeSet};
use crate::cluster::record::WANTED;
use crate::mesh::moves::Move;
use crate::mutant::Mutant;
use crate::upgrade::cluster::{MovedClaim, MovedNode};
use crate::upgrade::code::ByteString;

impl NodeClaims {
    /// Whether claims or sessions are under way, or shards were asked for something.
    pub fn is_busy(&self) -> bool {
        let sessions = !self.open.is_empty() || !self.leaving.is_empty() || self.asked > 0;
        sessions || !self.to_pack.is_empty() || self.packing > 0 || self.fences.is_asking()
    }

    /// Whether nothing waits here for its way out.
    pub fn is_quiet(&self) -> bool {
        let records = self.records.is_empty() && self.behind_messages.is_empty();
        let told = self.known.is_empty() && self.retellings.is_empty() && self.mail.is_empty();
        let noted = self.claimed.is_empty() && self.adopted.is_empty();
        !self.is_busy() && records && told && noted
    }

    /// Claims of other nodes wait from now on, or not any longer.
    pub fn rest(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// Puts down what waits and what is remembered.
    pub fn pack(&self, into: &mut MovedNode) {
        into.claim_stamp = self.stamp;
        let known = self.unanswered.iter();
        into.unanswered = known.map(|(name, stamp)| (name.clone(), *stamp)).collect();
        let waiting = self.waiting.iter().map(|(Move { node, claim }, name, wanted)| MovedClaim {
            node: *node,
            claim: *claim,
            name: name.clone(),
            wanted: *wanted as u8,
        });
        into.waiting = waiting.collect();
        let behind = self.behind_filters.iter();
        into.behind_filters =
            behind.map(|(node, record)| (*node, ByteString(record.clone()))).collect();
    }

    /// Nodes, by their numbers, that are down and whose sessions no node has adopted.
    pub fn lost(&self) -> NodeSet {
        if Mutant::ClusterUpgradeLostForgotten.is_on() { 0 } else { self.adoptions.all() }
    }

    /// The adoption of these nodes is awaited.
    pub fn has_lost(&mut self, lost: NodeSet) {
        self.adoptions.await_too(lost);
    }

    /// Takes in what was put down. The nodes have joined.
    ///
    /// # Errors
    /// What cannot be.
    pub fn unpack(&mut self, from: &mut MovedNode) -> Result<(), String> {
        self.stamp = self.stamp.max(from.claim_stamp);
        self.unanswered = std::mem::take(&mut from.unanswered).into_iter().collect();
        for MovedClaim { node, claim, name, wanted } in std::mem::take(&mut from.waiting) {
            let wanted = WANTED.get(usize::from(wanted)).copied();
            let wanted = wanted.ok_or("a claim that wants what no claim wants")?;
            self.waiting.push_back((Move { node, claim }, name, wanted));
        }
        let behind = std::mem::take(&mut from.behind_filters).into_iter();
        self.behind_filters = behind.map(|(node, record)| (node, record.0)).collect();
        Ok(())
    }
}
