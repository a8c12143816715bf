//! Stored messages that return to their share groups: the session that had such a message has ended
//! or has left the group, and the next member's shard has not stored the message yet.
//!
//! Until then, the message stays stored on the shard that gives it back, under a number of its own.
//! The group's home shard gives the message a receipt ([`super::receipts`]), and reports when that
//! is closed ([`Control::GivenOn`]). If the broker restarts before, the message goes to its group
//! again. A power cut between the two commits may give such a message to two members, but never to
//! none.
//!
//! [`Control::GivenOn`]: crate::mesh::mail::Control::GivenOn

use super::Shard;
use super::storing::Storing;
use crate::ids::{SessionRef, ShardId};
use crate::mesh::mail::{Control, GivenBack, NotTaken, Trip};
use crate::mutant::Mutant;
use crate::session::{Queued, ShareName};
use crate::storage::image::{Image, QueuedImage, RETURNING};
use crate::storage::newest::Newest;
use crate::storage::record::Record;
use std::collections::BTreeMap;

/// The returning messages of one shard: those that it gives back, and those of other shards for
/// which it is the group's home shard.
#[derive(Default)]
pub(super) struct Returning {
    last: u32,
    /// For each number that this shard has assigned, the number of the stored message.
    messages: BTreeMap<u32, u64>,
    /// Receipts that this shard gave messages of others, each with the shard and its number there.
    receipts: BTreeMap<u64, (ShardId, u32)>,
    /// Messages of other shards that are stored elsewhere by now, to be reported to these shards.
    given_on: Vec<(ShardId, u32)>,
}

impl Returning {
    /// How many messages are on their way back.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.receipts.len()
    }
}

impl Storing {
    /// Keeps a message stored that goes from a session back to its group. Returns the number of the
    /// message on its way, or 0 if the message is not stored.
    pub(super) fn keep_returning(&mut self, index: u32, queued: &Queued) -> u32 {
        let Some(message) = self.bodies.of_slot(index, queued.stored) else { return 0 };
        let Some(share) = queued.share.as_ref().map(ShareName::as_str) else { return 0 };
        if Mutant::StorageReturnForgotten.is_on() {
            return 0;
        }
        let known = &self.returning.messages;
        let mut slot = self.returning.last.checked_add(1).unwrap_or(1);
        while known.contains_key(&slot) {
            slot = slot.checked_add(1).unwrap_or(1);
        }
        let flags = queued.qos as u8 | u8::from(queued.retain) << 2;
        self.append(&Record::Fan { session: RETURNING, slot, message, flags, ids: &[], share });
        self.bodies.hold_again(message);
        self.returning.last = slot;
        self.returning.messages.insert(slot, message);
        slot
    }

    /// Takes over a message that was on its way back when the broker ended.
    fn adopt_returning(&mut self, slot: u32, number: u64) {
        self.returning.last = self.returning.last.max(slot);
        self.returning.messages.insert(slot, number);
    }

    /// Removes a message that is stored elsewhere by now, or that no member is to have.
    pub(super) fn given_on(&mut self, slot: u32) {
        let Some(message) = self.returning.messages.remove(&slot) else { return };
        self.append(&Record::Ack { session: RETURNING, slot });
        self.let_go(message);
    }

    /// Begins a receipt for a message that comes back from another shard, or from this one.
    pub(super) fn receipt_for_returning(&mut self, from: ShardId, slot: u32) -> u64 {
        let receipt = self.receipts.begin();
        self.returning.receipts.insert(receipt, (from, slot));
        receipt
    }

    /// Notes that this receipt is closed.
    pub(super) fn note_given_on(&mut self, receipt: u64) {
        let known = self.returning.receipts.remove(&receipt);
        self.returning.given_on.extend(known);
    }

    /// Takes out what other shards are to be told about the messages that they gave back.
    pub(super) fn take_given_on(&mut self) -> Vec<(ShardId, u32)> {
        let mut taken = std::mem::take(&mut self.returning.given_on);
        taken.retain(|&(shard, slot)| {
            if shard == self.own {
                self.given_on(slot);
            }
            shard != self.own
        });
        taken
    }
}

impl Shard {
    /// For a session that ends or is stored no longer: its messages of share groups are on their
    /// way back from now on, as far as another member may have them.
    pub(super) fn store_returns(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        flow.window.renumber(&mut |queued| storing.keep_returning(index, queued));
        flow.pending.renumber(&mut |queued| storing.keep_returning(index, queued));
    }

    /// The same for messages of groups that the session has left, or that had to make room in its
    /// queue.
    pub(super) fn store_taken(&mut self, index: u32, taken: &mut [Queued]) {
        let Some(storing) = &mut self.storing else { return };
        for queued in taken {
            queued.stored = storing.keep_returning(index, queued);
        }
    }

    /// Takes over the messages that were on their way back when the broker ended. Their groups get
    /// them when the members have had time to join.
    pub(super) fn restore_returning(&mut self, waiting: Newest<u32, QueuedImage>, image: &Image) {
        let member = SessionRef { shard: self.topology.id, index: u32::MAX, generation: u32::MAX };
        for (slot, QueuedImage { message: number, share, .. }) in waiting {
            let Some(message) = self.restore_handle(number, image) else { continue };
            let Some(storing) = &mut self.storing else { return };
            storing.adopt_returning(slot, number);
            let (name, why) = (ShareName::new(&share), NotTaken::Ended);
            let (tries, trip, receipt, stored) = (0, Trip::default(), 0, slot);
            let given = GivenBack { name, member, why, tries, trip, receipt, stored, message };
            self.subscriptions.returns.restored.push(given);
        }
    }

    /// Gives the messages that a restart has found to their groups, when these have their members.
    pub(super) fn return_restored(&mut self) {
        if self.waits_for_whole() {
            return;
        }
        let restored = std::mem::take(&mut self.subscriptions.returns.restored);
        self.subscriptions.returns.back.extend(restored);
    }

    /// The receipt of a message that comes back: the one that it has, or a new one if the message
    /// is stored where it comes from.
    pub(super) fn receipt_of_returning(&mut self, given: &GivenBack) -> u64 {
        match &mut self.storing {
            Some(storing) if given.receipt == 0 && given.stored != 0 => {
                storing.receipt_for_returning(given.member.shard, given.stored)
            }
            _ => given.receipt,
        }
    }

    /// Reports to the shards that gave messages back which of these are stored elsewhere by now.
    pub(super) fn tell_given_on(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        for (shard, slot) in storing.take_given_on() {
            self.mail.outbox.tell(shard, Control::GivenOn(slot));
        }
    }
}
