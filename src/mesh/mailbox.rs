//! Mailboxes carry mail from one shard to another. For each ordered pair of shards there are two
//! bounded single-producer single-consumer rings: one for data (messages being routed), one for
//! control (takeover, subscriptions; rare).
//!
//! All mailboxes are created together as an N x N matrix and then divided, so that each shard owns
//! its ends and no end is shared. A full mailbox is handled by the sender: it gets the item back,
//! and stops reading from the client that caused it. Waking the receiver is not done here; see the
//! ring's doorbell. Checked by `tests/loom`.
#![allow(clippy::disallowed_types, reason = "what the receiver has done, read by the sender")]
use crate::atomic::{AtomicU64, Ordering};
use crate::ids::ShardId;
use crate::mutant::Mutant;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::sync::Arc;

/// The two rings from this shard to one other shard.
pub type RingsTo<D, C> = (Producer<D>, Producer<C>);
/// The two rings from one other shard to this one.
pub type RingsFrom<D, C> = (Consumer<D>, Consumer<C>);

/// What a shard has done with the messages that another one sent it, since the start. Written by
/// the receiver alone, read by the sender.
#[derive(Default)]
struct Served {
    messages: AtomicU64,
    work: AtomicU64,
}

/// How far a shard has got with the messages that another one sent it, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MailProgress {
    /// Messages taken in for which nothing was reserved ([`crate::message::Reserve`]).
    pub messages: u64,
    /// What that cost, in the units of [`crate::limits::cost`].
    pub work: u64,
}

/// One shard's ends of all its mailboxes. The entry for the shard itself is `None`.
pub struct MailEnds<D, C> {
    /// The outgoing rings, by the number of the receiving shard.
    pub to: Vec<Option<RingsTo<D, C>>>,
    /// The incoming rings, by the number of the sending shard.
    pub from: Vec<Option<RingsFrom<D, C>>>,
    /// How far each shard has got with what it was sent from here.
    served_by: Vec<Arc<Served>>,
    /// How far this shard has got with what each one sent.
    served: Vec<Arc<Served>>,
    data_capacity: usize,
}

/// Creates all mailboxes of `shards` shards and returns each shard's ends, in order of number.
///
/// `data` and `control` are the capacities, in items, per ordered pair.
pub fn mailboxes<D: Send, C: Send>(
    shards: usize,
    data: usize,
    control: usize,
) -> Vec<MailEnds<D, C>> {
    connect(shards, data, |_, _| Some((data, control)))
}

/// The cluster's ends of the mailboxes of a node.
pub struct NodeEnds<D, C> {
    /// Those of the cluster itself, whose number is the number of shards.
    pub cluster: MailEnds<D, C>,
    /// Those of the places for other nodes, which have the numbers after that.
    pub nodes: Vec<MailEnds<D, C>>,
}

/// The same for a node of a cluster, with `nodes` places for others. The shards and the cluster
/// send each other mail of both kinds; a place for a node only receives data mail of the shards.
pub fn clustered<D: Send, C: Send>(
    shards: usize,
    nodes: usize,
    data: usize,
    control: usize,
) -> (Vec<MailEnds<D, C>>, NodeEnds<D, C>) {
    let capacities = |source: usize, target: usize| match (source, target) {
        _ if source > shards || target > shards && source == shards => None,
        _ if target > shards => Some((data, 1)),
        _ => Some((data, control)),
    };
    let mut ends = connect(shards + 1 + nodes, data, capacities);
    let nodes = ends.split_off(shards + 1);
    let cluster = ends.pop().expect("the one after the shards");
    (ends, NodeEnds { cluster, nodes })
}

/// Connects so many. `capacities` gives those of a pair, by sender and receiver, or nothing when
/// the one has nothing to say to the other.
fn connect<D: Send, C: Send>(
    shards: usize,
    data: usize,
    capacities: impl Fn(usize, usize) -> Option<(usize, usize)>,
) -> Vec<MailEnds<D, C>> {
    let mut ends: Vec<MailEnds<D, C>> = (0..shards)
        .map(|_| MailEnds {
            to: (0..shards).map(|_| None).collect(),
            from: (0..shards).map(|_| None).collect(),
            served_by: (0..shards).map(|_| Arc::default()).collect(),
            served: Vec::new(),
            data_capacity: data,
        })
        .collect();
    let served = |receiver| ends.iter().filter_map(move |end| end.served_by.get(receiver).cloned());
    let served: Vec<Vec<_>> = (0..shards).map(|receiver| served(receiver).collect()).collect();
    ends.iter_mut().zip(served).for_each(|(end, served)| end.served = served);
    for source in 0..shards {
        for target in (0..shards).filter(|target| *target != source) {
            let Some((data, control)) = capacities(source, target) else { continue };
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

    /// How many data items a mailbox holds at most.
    pub fn data_capacity(&self) -> usize {
        self.data_capacity
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

    /// How far `target` has got with the messages that it was sent from here. The two figures may
    /// be from different moments.
    pub fn progress_of(&self, target: ShardId) -> MailProgress {
        let Some(served) = self.served_by.get(usize::from(target.0)) else {
            return MailProgress::default();
        };
        let messages = served.messages.load(Ordering::Relaxed);
        MailProgress { messages, work: served.work.load(Ordering::Relaxed) }
    }

    /// Says that this shard has got further with what `source` sent, by so much.
    pub fn tell_progress(&self, source: ShardId, further: MailProgress) {
        let Some(served) = self.served.get(usize::from(source.0)) else { return };
        let add = |figure: &AtomicU64, more: u64| {
            figure.store(figure.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&served.work, further.work);
        add(&served.messages, further.messages);
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
