//! The other nodes of a cluster that have members of a group: which nodes these are, and which one
//! is asked next. Who their members are is known only to these nodes.

use super::Groups;
use crate::limits::CLUSTER_PEERS;
use crate::time::Instant;
use crate::topic::FilterId;

/// Milliseconds for which a node that gave a message back is asked last.
const BUSY: u64 = 1000;

/// Nodes, as bits by their numbers.
#[derive(Clone, Copy, Default)]
pub(super) struct GroupNodes {
    all: u16,
    /// Nodes that gave a message back lately, and when the first of them did.
    busy: u16,
    busy_since: Instant,
    turn: u8,
}

const _: () = assert!(CLUSTER_PEERS < u16::BITS as usize);

impl GroupNodes {
    pub(super) fn is_empty(&self) -> bool {
        self.all == 0
    }
}

impl Groups {
    /// Another node has members of the group, or (`wanted` is false) none any more. When the group
    /// has no members left anywhere, it is gone, and its place in the index is returned.
    pub fn set_node(&mut self, group: u32, node: u8, wanted: bool) -> Option<(FilterId, u32)> {
        let nodes = &mut self.groups.get_mut(group)?.nodes;
        nodes.busy &= !(1 << node);
        nodes.all &= !(1 << node);
        nodes.all |= u16::from(wanted) << node;
        self.remove_unused(group)
    }

    /// The other nodes that have members of the group, and of these the ones that have not given a
    /// message back lately.
    pub fn nodes(&mut self, group: u32, now: Instant) -> (u16, u16) {
        let Some(of) = self.groups.get_mut(group) else { return (0, 0) };
        if now.millis_since(of.nodes.busy_since) >= BUSY {
            of.nodes.busy = 0;
        }
        (of.nodes.all, of.nodes.all & !of.nodes.busy)
    }

    /// That node gave a message back, because none of its members could take it.
    pub fn set_node_busy(&mut self, group: u32, node: u8, now: Instant) {
        let Some(of) = self.groups.get_mut(group) else { return };
        if of.nodes.busy == 0 {
            of.nodes.busy_since = now;
        }
        of.nodes.busy |= 1 << node;
    }

    /// The next in turn of the nodes in `among`, of which there is one at least.
    pub fn next_node(&mut self, group: u32, among: u16) -> u8 {
        let Some(of) = self.groups.get_mut(group) else { return 0 };
        let later = u32::from(among) & !((2 << of.nodes.turn) - 1);
        let next = if later != 0 { later } else { u32::from(among) };
        of.nodes.turn = next.trailing_zeros().min(15) as u8;
        of.nodes.turn
    }
}
