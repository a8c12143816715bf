//! The subscriptions of this shard's sessions: the index, how many subscriptions of each session
//! only the index's trie finds, SUBACKs that wait, and the share groups whose home is this shard.

use super::groups::Groups;
use super::link::Links;
use super::returns::Returns;
use super::subscribe::Joining;
use super::whole::Rejoining;
use crate::topic::{FilterId, Index, Seeds};
use hashbrown::HashMap;

/// A shard's subscriptions, shared ones included.
pub(super) struct ShardSubscriptions {
    pub(super) index: Index,
    /// For each session, how many of its subscriptions only the trie finds.
    unhashed: HashMap<u32, u32, foldhash::fast::FixedState>,
    pub(super) groups: Groups,
    pub(super) links: Links,
    pub(super) returns: Returns,
    pub(super) rejoining: Rejoining,
    /// By session: the SUBACK that waits for share groups of other shards, or for other nodes.
    pub(super) joining: HashMap<u32, Joining>,
}

impl ShardSubscriptions {
    pub(super) fn new(seeds: &Seeds) -> Self {
        ShardSubscriptions {
            index: Index::new(seeds),
            unhashed: HashMap::default(),
            groups: Groups::default(),
            links: Links::new(seeds),
            returns: Returns::default(),
            rejoining: Rejoining::default(),
            joining: HashMap::new(),
        }
    }

    /// Where a share group's entry stands in the index.
    pub(super) fn place(&self, target: u32) -> Option<(FilterId, u32)> {
        self.groups.place(target)
    }

    /// Notes that a share group's entry has moved.
    pub(super) fn moved(&mut self, target: u32, position: u32) {
        self.groups.moved(target, position);
    }

    /// How many subscriptions of the session only the trie finds.
    pub(super) fn unhashed(&self, session: u32) -> usize {
        self.unhashed.get(&session).map_or(0, |&count| count as usize)
    }

    /// Counts one subscription more of the session that only the trie finds.
    pub(super) fn add_unhashed(&mut self, session: u32) {
        *self.unhashed.entry(session).or_default() += 1;
    }

    /// Counts one subscription less of the session that only the trie finds.
    pub(super) fn remove_unhashed(&mut self, session: u32) {
        let Some(count) = self.unhashed.get_mut(&session) else { return };
        *count -= 1;
        if *count == 0 {
            self.unhashed.remove(&session);
        }
    }

    /// Removes the count of a session that has ended.
    pub(super) fn forget_unhashed(&mut self, session: u32) {
        self.unhashed.remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_that_only_the_trie_finds_are_counted_by_session() {
        let mut subscriptions = ShardSubscriptions::new(&Seeds::fixed(1));
        subscriptions.add_unhashed(7);
        subscriptions.add_unhashed(7);
        subscriptions.add_unhashed(8);
        subscriptions.remove_unhashed(7);
        assert_eq!([7, 8, 9].map(|session| subscriptions.unhashed(session)), [1, 1, 0]);
        subscriptions.remove_unhashed(7);
        subscriptions.forget_unhashed(8);
        assert!(subscriptions.unhashed.is_empty());
    }
}
