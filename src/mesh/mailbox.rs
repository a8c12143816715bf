//! Mailboxes carry mail from one shard to another. For each ordered pair of shards there are two
//! bounded single-producer single-consumer rings: one for data (messages being routed), one for
//! control (takeover, subscriptions; rare).
//!
//! All mailboxes are created together as an N x N matrix and then divided, so that each shard owns
//! its ends and no end is shared. A full mailbox is handled by the sender: it gets the item back,
//! and stops reading from the client that caused it. Waking the receiver is not done here; see the
//! ring's doorbell. Checked by `tests/loom`.
use crate::ids::ShardId;
use crate::mutant::Mutant;
use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// The two rings from this shard to one other shard.
pub type RingsTo<D, C> = (Producer<D>, Producer<C>);
/// The two rings from one other shard to this one.
pub type RingsFrom<D, C> = (Consumer<D>, Consumer<C>);

/// One shard's ends of all its mailboxes. The entry for the shard itself is `None`.
pub struct MailEnds<D, C> {
    /// The outgoing rings, by the number of the receiving shard.
    pub to: Vec<Option<RingsTo<D, C>>>,
    /// The incoming rings, by the number of the sending shard.
    pub from: Vec<Option<RingsFrom<D, C>>>,
}

/// Creates all mailboxes of `shards` shards and returns each shard's ends, in order of number.
///
/// `data` and `control` are the capacities, in items, per ordered pair.
pub fn mailboxes<D: Send, C: Send>(
    shards: usize,
    data: usize,
    control: usize,
) -> Vec<MailEnds<D, C>> {
    let mut ends: Vec<MailEnds<D, C>> = (0..shards)
        .map(|_| MailEnds {
            to: (0..shards).map(|_| None).collect(),
            from: (0..shards).map(|_| None).collect(),
        })
        .collect();
    for source in 0..shards {
        for target in (0..shards).filter(|target| *target != source) {
            let (data_in, data_out) = RingBuffer::new(data);
            let (control_in, control_out) = RingBuffer::new(control);
            ends[source].to[target] = Some((data_in, control_in));
            ends[target].from[source] = Some((data_out, control_out));
        }
    }
    ends
}

impl<D, C> MailEnds<D, C> {
    /// How many data items `target`'s mailbox accepts now; 0 for the shard itself.
    pub fn data_room(&self, target: ShardId) -> usize {
        self.to[target.0 as usize].as_ref().map_or(0, |(data, _)| data.slots())
    }

    /// How many control items `target`'s mailbox accepts now; 0 for the shard itself.
    pub fn control_room(&self, target: ShardId) -> usize {
        self.to[target.0 as usize].as_ref().map_or(0, |(_, control)| control.slots())
    }

    /// The oldest data item from `source`, without taking it out. Whatever was pushed before
    /// anything that this thread has seen is visible here.
    pub fn peek_data(&self, source: ShardId) -> Option<&D> {
        self.from[source.0 as usize].as_ref().and_then(|(data, _)| data.peek().ok())
    }

    /// How many data items from `source` are waiting.
    pub fn data_waiting(&self, source: ShardId) -> usize {
        self.from[source.0 as usize].as_ref().map_or(0, |(data, _)| data.slots())
    }

    /// How many control items from `source` are waiting.
    pub fn control_waiting(&self, source: ShardId) -> usize {
        self.from[source.0 as usize].as_ref().map_or(0, |(_, control)| control.slots())
    }

    /// Pushes one data item into `target`'s mailbox. Returns it when there is no room.
    pub fn push_data(&mut self, target: ShardId, item: D) -> Result<(), D> {
        match &mut self.to[target.0 as usize] {
            Some((data, _)) => data.push(item).map_err(|PushError::Full(item)| item),
            None => Err(item),
        }
    }

    /// Pushes one control item into `target`'s mailbox. Returns it when there is no room.
    pub fn push_control(&mut self, target: ShardId, item: C) -> Result<(), C> {
        match &mut self.to[target.0 as usize] {
            Some((_, control)) if Mutant::ControlLostOnFull.is_on() => {
                let _ = control.push(item);
                Ok(())
            }
            Some((_, control)) => control.push(item).map_err(|PushError::Full(item)| item),
            None => Err(item),
        }
    }

    /// Takes the oldest data item from `source`.
    pub fn pop_data(&mut self, source: ShardId) -> Option<D> {
        self.from[source.0 as usize].as_mut().and_then(|(data, _)| data.pop().ok())
    }

    /// Takes the oldest control item from `source`.
    pub fn pop_control(&mut self, source: ShardId) -> Option<C> {
        self.from[source.0 as usize].as_mut().and_then(|(_, control)| control.pop().ok())
    }

    /// True when any mailbox of this shard holds something. Checked once more before the core
    /// sleeps.
    pub fn has_mail(&self) -> bool {
        self.from.iter().flatten().any(|(data, control)| !data.is_empty() || !control.is_empty())
    }

    /// The number of shards, this one included.
    pub fn shards(&self) -> usize {
        self.to.len()
    }
}
