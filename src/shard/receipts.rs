//! Receipts: how the home shard of a share group learns that a message is durable which is on its
//! way to a member on another shard. The message's publisher waits for that.
//!
//! The home shard gives each such message a number, its receipt, which travels with the message.
//! The shard whose member keeps the message reports when the message is durable
//! ([`Control::Kept`]). A member that gives the message back gives the receipt back, too, and the
//! next member gets both. So a receipt is open until some shard has the message durably, or until
//! no member is to have it.
//!
//! [`Control::Kept`]: crate::mesh::mail::Control::Kept

use crate::ids::ShardId;
use std::collections::{BTreeSet, VecDeque};

/// The receipts of one shard: those that it has given out, and those of other shards' messages that
/// it stores.
#[derive(Default)]
pub(super) struct Receipts {
    last: u64,
    /// Receipts that this shard has given out and that are not closed.
    open: BTreeSet<u64>,
    /// The batch, home shard and receipt of each message that is stored here and not durable yet,
    /// in the order of batches.
    stored: VecDeque<(u64, ShardId, u64)>,
    /// Receipts that can be closed at once, because nothing of their messages had to be stored.
    done: Vec<(ShardId, u64)>,
}

impl Receipts {
    /// Gives out a receipt for one more message.
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }

    /// The last receipt that was given out.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// All receipts up to this one are closed.
    pub(super) fn closed(&self) -> u64 {
        self.open.first().map_or(self.last, |first| first - 1)
    }

    /// How many receipts are open: given out by this shard, or stored here for their home shards.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.stored.len()
    }

    /// Closes a receipt: the message is durable, or no member is to have it.
    pub(super) fn close(&mut self, receipt: u64) {
        self.open.remove(&receipt);
    }

    /// Notes that `batch` stores the message with that receipt of `home`; `None` if nothing of the
    /// message had to be stored.
    pub(super) fn keep(&mut self, home: ShardId, receipt: u64, batch: Option<u64>) {
        match batch {
            Some(batch) => self.stored.push_back((batch, home, receipt)),
            None => self.done.push((home, receipt)),
        }
    }

    /// Takes out the receipts, of this shard and of others, whose messages are durable here by now.
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
