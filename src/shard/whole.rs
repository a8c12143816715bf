//! When a broker is whole again after a restart.
//!
//! Shards put back what was stored at different times: one has little of it, another much. What one
//! took in before would miss the subscribers of the others: it would be acknowledged, and lost. So
//! nobody listens before all shards are whole ([`Whole`]), and what goes out by itself waits for
//! the listeners as well: wills, and messages that return to share groups.
//!
//! A shard is whole when it has put back all that it has, and the share groups that are at home on
//! other shards have its members again.

use super::Shard;
use crate::ids::{ShardId, ShardSet};
use crate::mutant::Mutant;

/// Which shards are not whole yet.
pub struct Whole {
    missing: ShardSet,
    shards: u8,
}

impl Whole {
    /// So many shards, of which none is whole.
    pub fn new(shards: u8) -> Whole {
        Whole { missing: ShardSet::below(shards), shards }
    }

    /// That shard says that it is ([`Shard::is_whole`]).
    pub fn told(&mut self, shard: ShardId) {
        self.missing.remove(shard);
    }

    /// Whether listeners may open, and bridges start.
    pub fn may_listen(&self) -> bool {
        let early =
            Mutant::StorageListensEarly.is_on() && self.missing.iter().count() < self.shards.into();
        self.missing.is_empty() || early
    }
}

/// Members of share groups on other shards that were put back.
#[derive(Default)]
pub(super) struct Rejoining {
    /// The ticket of the last one.
    last: u64,
    /// Those that have not been confirmed yet.
    left: usize,
}

impl Rejoining {
    /// A group on another shard is to confirm that one.
    pub(super) fn asked(&mut self, ticket: u64) {
        self.last = ticket;
        self.left += 1;
    }

    /// The one with that ticket is confirmed. Those that clients ask for later have higher tickets.
    pub(super) fn confirmed(&mut self, ticket: u64) {
        if ticket <= self.last {
            self.left = self.left.saturating_sub(1);
        }
    }
}

impl Shard {
    /// Whether the groups on other shards know of all members that were put back here.
    pub(super) fn has_rejoined(&self) -> bool {
        self.subscriptions.rejoining.left == 0 || Mutant::StorageRejoiningUnawaited.is_on()
    }

    /// Whether what goes out by itself has to wait: other shards may not be whole.
    pub(super) fn waits_for_whole(&self) -> bool {
        self.entrance.is_shut() && !Mutant::StorageSentEarly.is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_before_the_last_shard_is_whole() {
        let mut whole = Whole::new(3);
        for shard in [2, 0, 0, 2] {
            assert!(!whole.may_listen());
            whole.told(ShardId(shard));
        }
        assert!(!whole.may_listen());
        whole.told(ShardId(1));
        assert!(whole.may_listen());
    }

    #[test]
    fn only_members_that_were_put_back_are_counted() {
        let mut rejoining = Rejoining::default();
        rejoining.confirmed(1);
        rejoining.asked(3);
        rejoining.asked(5);
        rejoining.confirmed(3);
        rejoining.confirmed(6);
        assert_eq!(rejoining.left, 1);
        rejoining.confirmed(5);
        assert_eq!(rejoining.left, 0);
    }
}
