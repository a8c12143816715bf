//! Subscriptions that are still stored of sessions whose end is stored.
//!
//! A restart finds nothing of such a session, whatever is left of it in the log. Until a value is
//! forgotten it only takes room: cleaning would copy it. Finding a subscription's value costs two
//! hashes of its filter, and a session may have 100,000, so each is forgotten when the session
//! itself lets the subscription go, which goes on over several steps ([`super::task`]).
//!
//! A session that is stored no more because it ends with its connection keeps its subscriptions
//! until then. What it takes out before is forgotten as well.

use super::Shard;
use super::storing::Storing;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::storage::record::subscription_key;
use crate::topic::FilterId;
use hashbrown::HashMap;

/// The sessions that have any, by their places.
#[derive(Default)]
pub(super) struct StoredLeftovers {
    /// Their numbers in the store.
    numbers: HashMap<u32, u64, foldhash::fast::FixedState>,
}

impl StoredLeftovers {
    /// The end of the session at that place is stored, and it has subscriptions.
    pub(super) fn insert(&mut self, index: u32, number: u64) {
        self.numbers.insert(index, number);
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.numbers.capacity() * (size_of::<(u32, u64)>() + 1)
    }
}

impl Storing {
    /// A session has let that subscription go. If its end is stored, the subscription is forgotten.
    /// Returns what that costs.
    pub(super) fn forget_left(&mut self, index: u32, filter: &str) -> u32 {
        if self.left.numbers.is_empty() || Mutant::StorageLeftKept.is_on() {
            return 0;
        }
        let Some(&number) = self.left.numbers.get(&index) else { return 0 };
        self.log.forget(subscription_key(number, filter, self.secret));
        cost::STORED + cost::hashed(2 * filter.len())
    }
}

impl Shard {
    /// A session that ends lets go of a subscription, which is not shared.
    pub(super) fn leave_stored(&mut self, index: u32, filter: FilterId) {
        let Some(storing) = &mut self.storing else { return };
        let filter = self.subscriptions.index.filter(filter);
        self.meter.charge(storing.forget_left(index, filter));
    }

    /// A session that ended has let all of them go.
    pub(super) fn has_left_stored(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        storing.left.numbers.remove(&index);
        if storing.left.numbers.is_empty() {
            storing.left.numbers.shrink_to(0);
        }
    }
}
