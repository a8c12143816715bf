//! Messages of share groups that are on their way to a member of another shard: the group's home
//! shard has to know when such a message is durable there, because the message's publisher waits
//! for it.
//!
//! The home gives each such message a number, its receipt, which goes with it. The shard whose
//! member keeps the message says when that is durable ([`Control::Kept`]); a member that gives the
//! message back gives the receipt back, and the next member gets it. So a receipt is open until
//! some shard has the message durably, or nobody is to have it.
//!
//! [`Control::Kept`]: crate::mesh::mail::Control::Kept

use crate::ids::ShardId;
use std::collections::{BTreeSet, VecDeque};

/// Receipts of one shard, on either side.
#[derive(Default)]
pub(super) struct Receipts {
    last: u64,
    /// Given out by this shard and not closed.
    open: BTreeSet<u64>,
    /// Whose messages are stored here by that batch, which is not durable yet. In its order.
    stored: VecDeque<(u64, ShardId, u64)>,
    /// To be closed at once: nothing of the message had to be stored.
    done: Vec<(ShardId, u64)>,
}

impl Receipts {
    /// A receipt for one more message.
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }

    /// The last one that was given out.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// All up to this one are closed.
    pub(super) fn closed(&self) -> u64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }

    /// How many are open, here and towards other shards.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.stored.len()
    }

    /// The message is where it is to be, durably.
    pub(super) fn close(&mut self, receipt: u64) {
        self.open.remove(&receipt);
    }

    /// The message with that receipt of `home` is stored here by `batch`; `None` if nothing of it
    /// had to be.
    pub(super) fn keep(&mut self, home: ShardId, receipt: u64, batch: Option<u64>) {
        match batch {
            Some(batch) => self.stored.push_back((batch, home, receipt)),
            None => self.done.push((home, receipt)),
        }
    }

    /// Receipts of other shards, and of this one, whose messages are durable here by now.
    pub(super) fn take_durable(&mut self, durable: u64) -> Vec<(ShardId, u64)> {
        let mut taken = std::mem::take(&mut self.done);
        while let Some((_, home, receipt)) = self.stored.pop_front_if(|next| next.0 <= durable) {
            taken.push((home, receipt));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_closed_in_any_order_and_count_in_theirs() {
        let mut receipts = Receipts::default();
        assert_eq!(receipts.closed(), 0);
        let [one, two, three] = [(); 3].map(|()| receipts.begin());
        assert_eq!(receipts.closed(), 0);
        receipts.close(two);
        assert_eq!(receipts.closed(), 0);
        receipts.close(one);
        assert_eq!(receipts.closed(), two);
        receipts.close(three);
        assert_eq!((receipts.closed(), receipts.len()), (three, 0));
    }

    #[test]
    fn what_is_stored_is_told_when_its_batch_is_durable_and_the_rest_at_once() {
        let (mut receipts, home) = (Receipts::default(), ShardId(2));
        receipts.keep(home, 7, Some(4));
        receipts.keep(home, 8, None);
        receipts.keep(home, 9, Some(5));
        assert_eq!(receipts.take_durable(3), [(home, 8)]);
        assert_eq!(receipts.take_durable(4), [(home, 7)]);
        assert_eq!(receipts.take_durable(9), [(home, 9)]);
        assert!(receipts.take_durable(9).is_empty());
    }
}
