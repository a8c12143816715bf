//! Mailboxes carry mail from one shard to another. For each ordered pair of shards there are two
//! bounded single-producer single-consumer rings: one for data (messages being routed), one for
//! control (takeover, subscriptions; rare).
//!
//! The sender makes the two rings of a pair when it has its first mail for that receiver, so a pair
//! of shards that never talk has no rings. The receiver finds the new rings, and learns which of
//! its mailboxes hold something, in its *inbox*: one word with a bit for each sender (two words in
//! all), which the sender sets after each push. So the receiver looks at two words however many
//! shards there are, and then only at the mailboxes that were written.
//!
//! Each shard owns its ends, and no end is shared. A full mailbox is handled by the sender: it gets
//! the item back, and stops reading from the client that caused it. Waking the receiver is not done
//! here; see the ring's doorbell. Checked by `tests/loom`.
#![allow(
    clippy::disallowed_types,
    reason = "the inbox; what the receiver has done, for the sender"
)]
use crate::atomic::{AtomicU64, Mutex, Ordering, OwnLine};
use crate::ids::{ShardId, ShardSet};
use crate::mutant::Mutant;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::ops::Deref;
use std::sync::{Arc, PoisonError};

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

/// The two rings from this shard to one other shard.
struct RingsTo<D, C> {
    data: Producer<D>,
    control: Producer<C>,
    /// How far that shard has got with what it was sent from here.
    served: Arc<OwnLine<Served>>,
}

/// The two rings from one other shard to this one.
struct RingsFrom<D, C> {
    data: Consumer<D>,
    control: Consumer<C>,
    /// How far this shard has got with what the other one sent.
    served: Arc<OwnLine<Served>>,
}

impl<D, C> RingsFrom<D, C> {
    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.control.is_empty()
    }
}

/// Where a shard finds what has been put into its mailboxes. Written by all senders.
struct Inbox<D, C> {
    /// The senders that have put something into their mailbox since the receiver last looked, one
    /// bit each: numbers 0 to 63.
    low: AtomicU64,
    /// Those from 64 on.
    high: AtomicU64,
    /// The receiving ends of mailboxes that were made since then, with their senders.
    made: Mutex<Vec<(ShardId, RingsFrom<D, C>)>>,
}

impl<D, C> Inbox<D, C> {
    fn new() -> Self {
        let (low, high) = (AtomicU64::new(0), AtomicU64::new(0));
        Inbox { low, high, made: Mutex::new(Vec::new()) }
    }

    /// Says that `sender` has put something into its mailbox. This is always written, even if the
    /// bit may be set already: the receiver takes the bit before it looks into the mailbox, and
    /// may have looked just before the push.
    #[inline]
    fn mark(&self, sender: ShardId) {
        let word = if sender.0 < 64 { &self.low } else { &self.high };
        word.fetch_or(1 << (sender.0 % 64), Ordering::Release);
    }

    fn is_marked(&self) -> bool {
        self.low.load(Ordering::Relaxed) | self.high.load(Ordering::Relaxed) != 0
    }

    /// Takes the bits.
    #[inline]
    fn take_marks(&self) -> ShardSet {
        let take = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
            0 => 0,
            _ => u128::from(word.swap(0, Ordering::Acquire)),
        };
        ShardSet(take(&self.low) | take(&self.high) << 64)
    }
}

/// Which mailboxes a shard may write to, and how large they are, in items.
#[derive(Clone, Copy)]
struct MailboxPlan {
    receivers: ShardSet,
    data: usize,
    control: usize,
    /// Receivers from this number on only get data mail.
    data_only: usize,
}

impl MailboxPlan {
    fn control_of(&self, receiver: ShardId) -> usize {
        if usize::from(receiver.0) < self.data_only { self.control } else { 1 }
    }
}

/// One shard's ends of all its mailboxes.
pub struct MailEnds<D, C> {
    me: ShardId,
    plan: MailboxPlan,
    /// The outgoing rings, by the number of the receiving shard; `None` for those that have been
    /// sent nothing yet.
    to: Vec<Option<Box<RingsTo<D, C>>>>,
    /// The incoming rings, by the number of the sending shard, as far as they are known here.
    from: Vec<Option<Box<RingsFrom<D, C>>>>,
    /// The senders whose rings are in `from`.
    known: ShardSet,
    /// The senders whose mailboxes may hold something: all that do, as of the last look.
    pending: ShardSet,
    /// The inboxes of all shards, by their number.
    inboxes: Arc<[OwnLine<Inbox<D, C>>]>,
}

/// Creates the ends of all mailboxes of `shards` shards, in order of number.
///
/// `data` and `control` are the capacities, in items, per ordered pair.
pub fn mailboxes<D: Send, C: Send>(
    shards: usize,
    data: usize,
    control: usize,
) -> Vec<MailEnds<D, C>> {
    connect(shards, |source| MailboxPlan {
        receivers: others(source, shards),
        data,
        control,
        data_only: shards,
    })
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
    let all = shards + 1 + nodes;
    let receivers = |source: usize| match source {
        _ if source < shards => others(source, all),
        _ if source == shards => others(source, shards),
        _ => ShardSet::EMPTY,
    };
    let mut ends = connect(all, |source| MailboxPlan {
        receivers: receivers(source),
        data,
        control,
        data_only: shards + 1,
    });
    let nodes = ends.split_off(shards + 1);
    let cluster = ends.pop().expect("the one after the shards");
    (ends, NodeEnds { cluster, nodes })
}

/// All shards below `end` but that one.
fn others(shard: usize, end: usize) -> ShardSet {
    let mut set = ShardSet::EMPTY;
    (0..end).filter(|&other| other != shard).for_each(|other| set.insert(ShardId(other as u8)));
    set
}

/// The ends of so many, which may write to what `plan` gives for each.
fn connect<D: Send, C: Send>(
    shards: usize,
    plan: impl Fn(usize) -> MailboxPlan,
) -> Vec<MailEnds<D, C>> {
    let inboxes: Arc<[_]> = (0..shards).map(|_| OwnLine(Inbox::new())).collect();
    let end = |shard: usize| MailEnds {
        me: ShardId(shard as u8),
        plan: plan(shard),
        to: (0..shards).map(|_| None).collect(),
        from: (0..shards).map(|_| None).collect(),
        known: ShardSet::EMPTY,
        pending: ShardSet::EMPTY,
        inboxes: Arc::clone(&inboxes),
    };
    (0..shards).map(end).collect()
}

impl<D, C> MailEnds<D, C> {
    /// How many data items `target`'s mailbox accepts now; 0 for the shard itself.
    pub fn data_room(&self, target: ShardId) -> usize {
        let most = if self.plan.receivers.contains(target) { self.plan.data } else { 0 };
        self.to(target).map_or(most, |rings| rings.data.slots())
    }

    /// How many data items a mailbox holds at most.
    pub fn data_capacity(&self) -> usize {
        self.plan.data
    }

    /// The oldest data item from `source`, without taking it out.
    pub fn peek_data(&self, source: ShardId) -> Option<&D> {
        self.from(source).and_then(|rings| rings.data.peek().ok())
    }

    /// How many data items from `source` are waiting.
    pub fn data_waiting(&self, source: ShardId) -> usize {
        self.from(source).map_or(0, |rings| rings.data.slots())
    }

    /// How many control items from `source` are waiting.
    pub fn control_waiting(&self, source: ShardId) -> usize {
        self.from(source).map_or(0, |rings| rings.control.slots())
    }

    /// Pushes one data item into `target`'s mailbox. Returns it when there is no room.
    pub fn push_data(&mut self, target: ShardId, item: D) -> Result<(), D> {
        let Some(rings) = self.rings_to(target) else { return Err(item) };
        rings.data.push(item).map_err(|PushError::Full(item)| item)?;
        self.mark(target);
        Ok(())
    }

    /// Pushes one control item into `target`'s mailbox. Returns it when there is no room.
    pub fn push_control(&mut self, target: ShardId, item: C) -> Result<(), C> {
        let Some(rings) = self.rings_to(target) else { return Err(item) };
        match rings.control.push(item) {
            Err(PushError::Full(_)) if Mutant::ControlLostOnFull.is_on() => {}
            Err(PushError::Full(item)) => return Err(item),
            Ok(()) => self.mark(target),
        }
        Ok(())
    }

    /// Tells `target` that there is something in its mailbox.
    #[inline]
    fn mark(&self, target: ShardId) {
        if let Some(inbox) = self.inboxes.get(usize::from(target.0)) {
            inbox.mark(self.me);
        }
    }

    /// Takes the oldest data item from `source`.
    pub fn pop_data(&mut self, source: ShardId) -> Option<D> {
        let rings = self.from.get_mut(usize::from(source.0))?.as_deref_mut()?;
        rings.data.pop().ok()
    }

    /// Takes the oldest control item from `source`.
    pub fn pop_control(&mut self, source: ShardId) -> Option<C> {
        let rings = self.from.get_mut(usize::from(source.0))?.as_deref_mut()?;
        rings.control.pop().ok()
    }

    /// How far `target` has got with the messages that it was sent from here. The two figures may
    /// be from different moments.
    pub fn progress_of(&self, target: ShardId) -> MailProgress {
        let Some(rings) = self.to(target) else { return MailProgress::default() };
        let messages = rings.served.messages.load(Ordering::Relaxed);
        MailProgress { messages, work: rings.served.work.load(Ordering::Relaxed) }
    }

    /// Says that this shard has got further with what `source` sent, by so much.
    pub fn tell_progress(&self, source: ShardId, further: MailProgress) {
        let Some(rings) = self.from(source) else { return };
        let add = |figure: &AtomicU64, more: u64| {
            figure.store(figure.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&rings.served.work, further.work);
        add(&rings.served.messages, further.messages);
    }

    /// True when a mailbox of this shard holds something, or has got something since the last look.
    /// Checked once more before the core sleeps.
    pub fn has_mail(&self) -> bool {
        let is_empty = |source| self.from(source).is_none_or(RingsFrom::is_empty);
        self.inbox().is_some_and(Inbox::is_marked)
            || self.pending.iter().any(|source| !is_empty(source))
    }

    /// Looks which mailboxes of this shard hold something; true when some do. To be done before
    /// anything is taken out: mailboxes that have got something since are not looked at.
    #[inline]
    pub fn look(&mut self) -> bool {
        for source in self.pending.iter() {
            let is_empty = self.from(source).is_none_or(RingsFrom::is_empty);
            if is_empty || Mutant::MailboxForgotten.is_on() {
                self.pending.remove(source);
            }
        }
        self.look_again();
        !self.pending.is_empty()
    }

    /// Notes which mailboxes have got something since the last look. Whatever was pushed before
    /// anything that this thread has seen is in a mailbox of [`MailEnds::pending`] afterwards.
    #[inline]
    pub fn look_again(&mut self) {
        let marked = self.inbox().map_or(ShardSet::EMPTY, Inbox::take_marks);
        if marked.is_empty() {
            return;
        }
        if marked.0 & !self.known.0 != 0 {
            self.receive_rings();
        }
        self.pending.0 |= marked.0;
    }

    /// The senders whose mailboxes may hold something: all that did at the last look.
    #[inline]
    pub fn pending(&self) -> ShardSet {
        self.pending
    }

    /// The number of shards, this one included.
    pub fn shards(&self) -> usize {
        self.to.len()
    }

    #[inline]
    fn to(&self, target: ShardId) -> Option<&RingsTo<D, C>> {
        self.to.get(usize::from(target.0))?.as_deref()
    }

    #[inline]
    fn from(&self, source: ShardId) -> Option<&RingsFrom<D, C>> {
        self.from.get(usize::from(source.0))?.as_deref()
    }

    #[inline]
    fn inbox(&self) -> Option<&Inbox<D, C>> {
        self.inboxes.get(usize::from(self.me.0)).map(Deref::deref)
    }

    /// The rings to `target`, which are made with the first mail; `None` when there is no mailbox.
    #[inline]
    fn rings_to(&mut self, target: ShardId) -> Option<&mut RingsTo<D, C>> {
        if self.to(target).is_none() {
            self.make_rings(target)?;
        }
        self.to.get_mut(usize::from(target.0))?.as_deref_mut()
    }

    /// Makes the rings to `target`, and gives it their other ends.
    #[cold]
    fn make_rings(&mut self, target: ShardId) -> Option<()> {
        if !self.plan.receivers.contains(target) {
            return None;
        }
        let inbox = self.inboxes.get(usize::from(target.0))?;
        let (data_in, data_out) = RingBuffer::new(self.plan.data);
        let (control_in, control_out) = RingBuffer::new(self.plan.control_of(target));
        let served: Arc<OwnLine<Served>> = Arc::default();
        let from = RingsFrom { data: data_out, control: control_out, served: Arc::clone(&served) };
        inbox.made.lock().unwrap_or_else(PoisonError::into_inner).push((self.me, from));
        let to = RingsTo { data: data_in, control: control_in, served };
        *self.to.get_mut(usize::from(target.0))? = Some(Box::new(to));
        Some(())
    }

    /// Takes the rings that other shards have made to this one.
    #[cold]
    fn receive_rings(&mut self) {
        let Some(inbox) = self.inboxes.get(usize::from(self.me.0)) else { return };
        let made = std::mem::take(&mut *inbox.made.lock().unwrap_or_else(PoisonError::into_inner));
        let most = if Mutant::MailboxNotReceived.is_on() { 1 } else { made.len() };
        for (source, rings) in made.into_iter().take(most) {
            if let Some(from) = self.from.get_mut(usize::from(source.0)) {
                *from = Some(Box::new(rings));
                self.known.insert(source);
            }
        }
    }
}
