//! The pending queue: messages that were accepted for a client and have not been sent, because the
//! client is offline or its window is full. Bounded in messages and bytes (`mqtt.pending`).
//!
//! With a store, only the head of a long queue is in memory; the tail is [`Away`]. What comes to a
//! queue with a tail goes to its end, but for what is not stored (QoS 0) and what a share group
//! sent: order is owed between messages of one QoS and of subscriptions that are not shared
//! [MQTT-4.6.0-6].

use super::Queued;
use super::away::{Away, AwayMessage};
use crate::config::OnFull;
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The fixed cost in bytes that is charged for each queued message, so that empty payloads are not
/// free.
const OVERHEAD: usize = 64;
/// The number of gaps, and of listed messages that are gone, that even a short queue may have.
const SPARE: usize = 32;

/// The bounds of the queue and the policy that applies when one is reached.
#[derive(Clone, Copy, Debug)]
pub struct PendingBounds {
    /// The largest number of messages.
    pub messages: usize,
    /// The largest number of bytes. Each message counts with its topic, its properties, its payload
    /// and 64 bytes of overhead.
    pub bytes: usize,
    /// The policy when full.
    pub on_full: OnFull,
}

/// What happened to a pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It is in the queue.
    Queued,
    /// It is in the queue, and this many older messages were dropped for it, not counting those of
    /// share groups.
    DroppedOldest(u32),
    /// It was dropped.
    DroppedNew,
    /// It was dropped, and the client has to be disconnected.
    Disconnect,
}

/// The queue.
#[derive(Default)]
pub struct Pending {
    /// Messages that go before all others: those that came back to a share group from another
    /// member. `None` while there has been none.
    first: Option<Box<MessageQueue>>,
    rest: MessageQueue,
    /// How many of the oldest messages in `rest` still have to be looked at by [`Self::sift`].
    unsifted: usize,
    /// What was dropped since the last question; `None` while that is nothing.
    dropped: Option<Box<Dropped>>,
    /// What comes after all others and is only in the store; `None` while that is nothing.
    away: Option<Box<Away>>,
}

/// Messages that were dropped from a queue, until the shard has dealt with them.
#[derive(Default)]
struct Dropped {
    /// Messages of share groups that were dropped as the oldest ones. Their groups may take them
    /// back.
    evicted: Vec<Queued>,
    /// Stored messages.
    gone: Vec<Gone>,
}

/// A stored message that was dropped from a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    /// Its number in the store within the session.
    pub slot: u32,
    /// The number of the message, if it was away; 0 otherwise.
    pub number: u64,
}

/// Where a message is inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueEnd {
    /// At the end.
    End,
    /// At the front, before messages that were published later, for a message that came back to a
    /// share group.
    Front,
}

impl Pending {
    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.here() + self.away().0
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.here() == 0 && self.away.is_none()
    }

    /// The sum of something over both queues in memory.
    #[inline]
    fn both(&self, figure: impl Fn(&MessageQueue) -> usize) -> usize {
        self.first.as_ref().map_or(0, |first| figure(first)) + figure(&self.rest)
    }

    /// Messages waiting in memory.
    pub fn here(&self) -> usize {
        self.both(MessageQueue::len)
    }

    /// Messages waiting in the store only, and the bytes charged for them.
    pub fn away(&self) -> (usize, usize) {
        self.away.as_ref().map_or((0, 0), |away| (away.len(), away.bytes()))
    }

    /// True when a message of QoS 0 waits: the next one of QoS 0 must not overtake it.
    pub fn has_qos0(&self) -> bool {
        self.both(|queue| queue.qos0) > 0
    }

    /// True when a message that a share group sent here waits.
    pub fn has_shares(&self) -> bool {
        self.both(|queue| queue.shares) > 0
    }

    /// Makes messages of share groups the session's own.
    pub fn forget_shares(&mut self) {
        for lane in self.first.as_deref_mut().into_iter().chain([&mut self.rest]) {
            lane.queue.iter_mut().flatten().for_each(|queued| queued.share = None);
            lane.shares = 0;
        }
    }

    /// The number of bytes charged.
    pub fn bytes(&self) -> usize {
        self.both(|queue| queue.bytes) + self.away().1
    }

    /// True when a message of `size` bytes fits without another being dropped for it.
    pub fn has_room(&self, size: usize, bounds: &PendingBounds) -> bool {
        self.fits(size + OVERHEAD, bounds)
    }

    fn fits(&self, cost: usize, bounds: &PendingBounds) -> bool {
        let more = usize::from(Mutant::PendingOverBound.is_on());
        self.len() < bounds.messages.saturating_add(more) && self.bytes() + cost <= bounds.bytes
    }

    /// Drops expired messages until `queued` fits within `bounds` or no expired message is left,
    /// starting with those that expired first. Returns how many were dropped. To be called before
    /// [`Self::push`], whose policy is meant for messages that are still valid. Each message costs
    /// the logarithm of the number of messages that expire.
    pub fn expire_for(&mut self, queued: &Queued, bounds: &PendingBounds, now: Instant) -> u32 {
        let mut dropped = 0;
        if Mutant::ExpiredHoldPlaces.is_on() {
            return dropped;
        }
        while !self.fits(cost_of(queued), bounds) && self.expire_one(now) {
            dropped += 1;
        }
        dropped
    }

    /// Drops at most `most` messages that have expired at `now`, and returns how many.
    pub fn expire(&mut self, now: Instant, most: u32) -> u32 {
        let mut dropped = 0;
        while dropped < most && self.expire_one(now) {
            dropped += 1;
        }
        dropped
    }

    fn expire_one(&mut self, now: Instant) -> bool {
        let first = self.first.as_mut().and_then(|first| first.expire_one(now));
        if let Some(stored) = first.or_else(|| self.rest.expire_one(now)) {
            self.note_gone(stored);
            return true;
        }
        let Some((slot, number)) = self.away.as_mut().and_then(|away| away.expire_one(now)) else {
            return false;
        };
        self.note(Gone { slot, number });
        self.forget_empty_away();
        true
    }

    fn note(&mut self, gone: Gone) {
        self.dropped.get_or_insert_default().gone.push(gone);
    }

    fn note_gone(&mut self, slot: u32) {
        if slot != 0 {
            self.note(Gone { slot, number: 0 });
        }
    }

    /// The stored messages that were dropped since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        let gone = self.dropped.as_mut().map(|dropped| std::mem::take(&mut dropped.gone));
        self.dropped.take_if(|dropped| dropped.evicted.is_empty());
        gone.unwrap_or_default()
    }

    /// Calls `look` with every message that waits in memory.
    pub fn each(&self, look: impl FnMut(&Queued)) {
        let first = self.first.iter().flat_map(|first| &first.queue);
        first.chain(&self.rest.queue).flatten().for_each(look);
    }

    /// Gives every message another number in the store: what `number` says of those of share
    /// groups, and 0, which is none, to the others.
    pub fn renumber(&mut self, number: &mut dyn FnMut(&Queued) -> u32) {
        let first = self.first.iter_mut().flat_map(|first| &mut first.queue);
        for queued in first.chain(&mut self.rest.queue).flatten() {
            queued.stored = if queued.share.is_some() { number(queued) } else { 0 };
        }
    }

    /// No message expires before this time; `None` when none expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        let away = self.away.as_ref().and_then(|away| away.next_expiry());
        let first = self.first.as_ref().and_then(|first| first.next_expiry());
        [first, self.rest.next_expiry(), away].into_iter().flatten().min()
    }

    /// Whether a message of these kinds is to wait in the store only, when so many messages and
    /// bytes may wait in memory. `stored` is its number in the store.
    pub fn goes_away(
        &self,
        (qos, shared, stored): (Qos, bool, u32),
        size: usize,
        (messages, bytes): (usize, usize),
    ) -> bool {
        let may = stored != 0 && !shared && qos != Qos::AtMostOnce;
        let behind = self.away.is_some() && !Mutant::StorageAwayOvertaken.is_on();
        let here = self.both(|queue| queue.bytes) + size + OVERHEAD;
        may && (behind || self.here() >= messages || here > bytes)
    }

    /// Adds a message that is in the store only, within `bounds`.
    pub fn push_away(
        &mut self,
        message: AwayMessage,
        expires: Option<Instant>,
        bounds: &PendingBounds,
    ) -> Pushed {
        let pushed = self.make_room(cost(message.size as usize), bounds);
        if matches!(pushed, Pushed::Queued | Pushed::DroppedOldest(_)) {
            self.away.get_or_insert_default().push(message, expires);
        } else {
            self.note(Gone { slot: message.slot, number: message.number });
        }
        pushed
    }

    /// The messages that are in the store only, in order, and when each expires.
    pub fn each_away(&self, mut look: impl FnMut(AwayMessage, Option<Instant>)) {
        let away = self.away.iter().flat_map(|away| away.expiring());
        away.for_each(|(message, expires)| look(message, expires));
    }

    /// The tail.
    pub fn tail(&mut self) -> Option<&mut Away> {
        self.away.as_deref_mut()
    }

    /// Takes the tail out.
    pub fn take_tail(&mut self) -> Option<Box<Away>> {
        self.away.take()
    }

    /// A message has come back from the store: true when it is the first that is away, and is in
    /// memory now.
    pub fn come_back(&mut self, queued: Queued) -> bool {
        let Some(away) = &mut self.away else { return false };
        if away.front().is_none_or(|front| front.slot != queued.stored) {
            return false;
        }
        away.pop();
        self.forget_empty_away();
        self.rest.push(queued);
        true
    }

    /// Drops the first message that is away, which cannot be read.
    pub fn drop_away(&mut self) {
        self.pop_away();
    }

    fn pop_away(&mut self) -> bool {
        let Some(gone) = self.away.as_mut().and_then(|away| away.pop()) else { return false };
        self.note(Gone { slot: gone.slot, number: gone.number });
        self.forget_empty_away();
        true
    }

    fn forget_empty_away(&mut self) {
        self.away.take_if(|away| away.is_empty());
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &PendingBounds) -> Pushed {
        self.push_to(QueueEnd::End, queued, bounds)
    }

    /// Adds a message at the given end, within `bounds`.
    pub fn push_to(&mut self, line: QueueEnd, queued: Queued, bounds: &PendingBounds) -> Pushed {
        let pushed = self.make_room(cost_of(&queued), bounds);
        if !matches!(pushed, Pushed::Queued | Pushed::DroppedOldest(_)) {
            self.note_gone(queued.stored);
            return pushed;
        }
        match line {
            QueueEnd::End => self.rest.push(queued),
            QueueEnd::Front => self.first.get_or_insert_default().push(queued),
        }
        pushed
    }

    /// Makes room for a message of that cost by the policy, and says what becomes of it.
    fn make_room(&mut self, cost: usize, bounds: &PendingBounds) -> Pushed {
        let mut dropped = 0;
        while !self.fits(cost, bounds) {
            match bounds.on_full {
                // Dropping other messages makes no room for a message that is larger than the whole
                // queue.
                OnFull::DropOldest if cost <= bounds.bytes && !self.is_empty() => {
                    let old = self.pop();
                    let away = old.is_none() && self.pop_away();
                    self.note_gone(old.as_ref().map_or(0, |old| old.stored));
                    match old {
                        Some(old) if old.share.is_some() => {
                            self.dropped.get_or_insert_default().evicted.push(old);
                        }
                        None if !away => return Pushed::DroppedNew,
                        _ => dropped += u32::from(!Mutant::PendingDropUncounted.is_on()),
                    }
                }
                OnFull::DropOldest | OnFull::DropNew => return Pushed::DroppedNew,
                OnFull::Disconnect => return Pushed::Disconnect,
            }
        }
        if dropped == 0 && self.dropped.as_ref().is_none_or(|dropped| dropped.evicted.is_empty()) {
            Pushed::Queued
        } else {
            Pushed::DroppedOldest(dropped)
        }
    }

    /// The messages of share groups that the last [`Self::push`] removed to make room.
    pub fn take_evicted(&mut self) -> Vec<Queued> {
        let evicted = self.dropped.as_mut().map(|dropped| std::mem::take(&mut dropped.evicted));
        self.dropped.take_if(|dropped| dropped.gone.is_empty());
        evicted.unwrap_or_default()
    }

    /// The next message in memory.
    pub fn front(&self) -> Option<&Queued> {
        let first = self.first.as_ref().and_then(|first| first.front());
        first.or_else(|| self.rest.front())
    }

    /// Removes and returns the next message in memory.
    pub fn pop(&mut self) -> Option<Queued> {
        if let Some(first) = &mut self.first {
            match first.pop() {
                Some(queued) => return Some(queued),
                None => self.first = None,
            }
        }
        let queued = self.rest.pop()?;
        self.unsifted = self.unsifted.saturating_sub(1);
        Some(queued)
    }

    /// Starts a pass over all messages that wait in memory now, as all of share groups do;
    /// [`Self::sift`] performs it. Moves each message if some have come back to a share group, and
    /// otherwise costs nothing.
    pub fn begin_sift(&mut self) {
        if let Some(mut first) = self.first.take().filter(|first| !first.is_empty()) {
            while let Some(queued) = self.rest.pop() {
                first.push(queued);
            }
            self.rest = *first;
        }
        self.unsifted = self.rest.len();
    }

    /// Looks at up to `most` further messages, oldest first, and removes those for which `leaves`
    /// returns true. True when all have been looked at. The remaining messages keep their order.
    pub fn sift(
        &mut self,
        most: usize,
        leaves: impl Fn(&Queued) -> bool,
        taken: &mut Vec<Queued>,
    ) -> bool {
        for _ in 0..most.min(self.unsifted) {
            let Some(queued) = self.rest.pop() else { break };
            self.unsifted -= 1;
            if leaves(&queued) {
                self.note_gone(queued.stored);
                taken.push(queued);
            } else {
                self.first.get_or_insert_default().push(queued);
            }
        }
        if self.rest.is_empty() {
            self.unsifted = 0;
        }
        self.unsifted == 0
    }
}

/// A queue of messages. Expired messages can be anywhere in it, and removing them leaves gaps.
#[derive(Default)]
struct MessageQueue {
    /// Never starts with a gap, and has at most about as many gaps as messages.
    queue: VecDeque<Option<Queued>>,
    /// The number of the first place. Places are numbered consecutively as messages arrive.
    first: u64,
    gaps: usize,
    bytes: usize,
    qos0: usize,
    shares: usize,
    /// The messages that expire, each with the number of its place, earliest first. Also contains
    /// some that have been sent since. `None` when there has been none.
    expiring: Option<Box<ExpiryHeap>>,
}

/// The messages of a queue that expire, each with the number of its place, earliest first.
pub(super) type ExpiryHeap = BinaryHeap<Reverse<(Instant, u64)>>;

// A gap takes no more memory than a message, and distinguishing the two takes none.
const _: () = assert!(size_of::<Option<Queued>>() == size_of::<Queued>());

impl MessageQueue {
    /// Messages waiting.
    fn len(&self) -> usize {
        self.queue.len() - self.gaps
    }

    /// True when none waits.
    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// No message expires before this time; `None` when none expires.
    fn next_expiry(&self) -> Option<Instant> {
        self.expiring.as_ref()?.peek().map(|&Reverse((at, _))| at)
    }

    /// Adds a message at the end.
    fn push(&mut self, queued: Queued) {
        self.bytes += cost_of(&queued);
        self.shares += usize::from(queued.share.is_some());
        self.qos0 += usize::from(queued.qos == Qos::AtMostOnce);
        if let Some(at) = queued.message.expires() {
            let number = self.first + self.queue.len() as u64;
            self.expiring.get_or_insert_default().push(Reverse((at, number)));
        }
        self.queue.push_back(Some(queued));
        if self.expiring.as_ref().is_some_and(|expiring| expiring.len() > 2 * self.len() + SPARE) {
            self.list_expiring();
        }
    }

    /// The oldest message.
    fn front(&self) -> Option<&Queued> {
        self.queue.front()?.as_ref()
    }

    /// Removes and returns the oldest message.
    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()??;
        self.first += 1;
        self.took(&queued);
        Some(queued)
    }

    /// Drops the message that has been expired for longest, if there is one, and returns its number
    /// in the store.
    fn expire_one(&mut self, now: Instant) -> Option<u32> {
        while let Some(expiring) = &mut self.expiring {
            let Some(&Reverse((at, number))) = expiring.peek() else {
                self.expiring = None;
                break;
            };
            if at > now {
                break;
            }
            expiring.pop();
            // A message that was sent has a number below the first, or one that belongs to another
            // message.
            let place = number.checked_sub(self.first);
            let place = place.and_then(|at| self.queue.get_mut(at as usize));
            let Some(queued) = place.and_then(Option::take) else { continue };
            self.gaps += 1;
            self.took(&queued);
            return Some(queued.stored);
        }
        None
    }

    /// Updates the counts after a message has been removed from its place.
    fn took(&mut self, queued: &Queued) {
        self.bytes -= cost_of(queued);
        self.qos0 -= usize::from(queued.qos == Qos::AtMostOnce);
        self.shares -= usize::from(queued.share.is_some());
        while self.queue.front().is_some_and(Option::is_none) {
            self.queue.pop_front();
            self.first += 1;
            self.gaps -= 1;
        }
        if self.gaps > self.len() + SPARE {
            self.queue.retain(Option::is_some);
            self.gaps = 0;
            self.list_expiring();
        }
        if self.queue.len() < 8 && self.queue.capacity() > 64 {
            self.queue.shrink_to(16);
        }
        if self.queue.is_empty() {
            self.expiring = None;
        }
    }

    /// Rebuilds the list of messages that expire. Done after as many changes as there are messages.
    fn list_expiring(&mut self) {
        let numbered = (self.first..).zip(&self.queue);
        let expires = numbered.filter_map(|(number, queued)| {
            Some(Reverse((queued.as_ref()?.message.expires()?, number)))
        });
        let expiring: ExpiryHeap = expires.collect();
        self.expiring = (!expiring.is_empty()).then(|| Box::new(expiring));
    }
}

fn cost_of(queued: &Queued) -> usize {
    cost(queued.message.size())
}

/// What is charged for a message of `size` bytes.
pub(super) fn cost(size: usize) -> usize {
    size + OVERHEAD
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
