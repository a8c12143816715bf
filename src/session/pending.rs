//! The pending queue: messages that were accepted for a client and have not been sent, because the
//! client is offline or its window is full. Bounded in messages and bytes (`mqtt.pending`).

use super::Queued;
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
pub struct Bounds {
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
    /// member.
    first: Queue,
    rest: Queue,
    /// How many of the oldest messages in `rest` still have to be looked at by [`Self::sift`].
    unsifted: usize,
    /// Messages of share groups that were dropped as the oldest ones. Their groups may take them
    /// back.
    evicted: Vec<Queued>,
    /// The numbers of stored messages that were dropped.
    gone: Vec<u32>,
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
        self.first.len() + self.rest.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }

    /// True when a message of QoS 0 waits: the next one of QoS 0 must not overtake it.
    pub fn has_qos0(&self) -> bool {
        self.first.qos0 + self.rest.qos0 > 0
    }

    /// True when a message that a share group sent here waits.
    pub fn has_shares(&self) -> bool {
        self.first.shares + self.rest.shares > 0
    }

    /// The number of bytes charged.
    pub fn bytes(&self) -> usize {
        self.first.bytes + self.rest.bytes
    }

    /// True when a message of `size` bytes fits without another being dropped for it.
    pub fn has_room(&self, size: usize, bounds: &Bounds) -> bool {
        self.fits(size + OVERHEAD, bounds)
    }

    fn fits(&self, cost: usize, bounds: &Bounds) -> bool {
        let more = usize::from(Mutant::PendingOverBound.is_on());
        self.len() < bounds.messages.saturating_add(more) && self.bytes() + cost <= bounds.bytes
    }

    /// Drops expired messages until `queued` fits within `bounds` or no expired message is left,
    /// starting with those that expired first. Returns how many were dropped. To be called before
    /// [`Self::push`], whose policy is meant for messages that are still valid. Each message costs
    /// the logarithm of the number of messages that expire.
    pub fn expire_for(&mut self, queued: &Queued, bounds: &Bounds, now: Instant) -> u32 {
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
        let Some(stored) = self.first.expire_one(now).or_else(|| self.rest.expire_one(now)) else {
            return false;
        };
        self.note_gone(stored);
        true
    }

    fn note_gone(&mut self, stored: u32) {
        if stored != 0 {
            self.gone.push(stored);
        }
    }

    /// The numbers of stored messages that were dropped since the last call.
    pub fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Calls `look` with every waiting message.
    pub fn each(&self, look: impl FnMut(&Queued)) {
        let all = self.first.queue.iter().chain(&self.rest.queue);
        all.flatten().for_each(look);
    }

    /// Gives every message another number in the store: what `number` says of those of share
    /// groups, and 0, which is none, to the others.
    pub fn renumber(&mut self, number: &mut dyn FnMut(&Queued) -> u32) {
        let all = self.first.queue.iter_mut().chain(&mut self.rest.queue);
        for queued in all.flatten() {
            queued.stored = if queued.share.is_some() { number(queued) } else { 0 };
        }
    }

    /// No message expires before this time; `None` when none expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        [self.first.next_expiry(), self.rest.next_expiry()].into_iter().flatten().min()
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &Bounds) -> Pushed {
        self.push_to(QueueEnd::End, queued, bounds)
    }

    /// Adds a message at the given end, within `bounds`.
    pub fn push_to(&mut self, line: QueueEnd, queued: Queued, bounds: &Bounds) -> Pushed {
        let cost = cost_of(&queued);
        let mut dropped = 0;
        while !self.fits(cost, bounds) {
            match bounds.on_full {
                // Dropping other messages makes no room for a message that is larger than the whole
                // queue.
                OnFull::DropOldest if cost <= bounds.bytes && !self.is_empty() => {
                    let old = self.pop();
                    self.note_gone(old.as_ref().map_or(0, |old| old.stored));
                    match old {
                        Some(old) if old.share.is_some() => self.evicted.push(old),
                        _ => dropped += u32::from(!Mutant::PendingDropUncounted.is_on()),
                    }
                }
                OnFull::DropOldest | OnFull::DropNew => {
                    self.note_gone(queued.stored);
                    return Pushed::DroppedNew;
                }
                OnFull::Disconnect => {
                    self.note_gone(queued.stored);
                    return Pushed::Disconnect;
                }
            }
        }
        match line {
            QueueEnd::End => self.rest.push(queued),
            QueueEnd::Front => self.first.push(queued),
        }
        if dropped == 0 && self.evicted.is_empty() {
            Pushed::Queued
        } else {
            Pushed::DroppedOldest(dropped)
        }
    }

    /// The messages of share groups that the last [`Self::push`] removed to make room.
    pub fn take_evicted(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.evicted)
    }

    /// The next message.
    pub fn front(&self) -> Option<&Queued> {
        self.first.front().or_else(|| self.rest.front())
    }

    /// Removes and returns the next message.
    pub fn pop(&mut self) -> Option<Queued> {
        if let Some(queued) = self.first.pop() {
            return Some(queued);
        }
        let queued = self.rest.pop()?;
        self.unsifted = self.unsifted.saturating_sub(1);
        Some(queued)
    }

    /// Starts a pass over all messages that wait now; [`Self::sift`] performs it. Moves each
    /// message if some have come back to a share group, and otherwise costs nothing.
    pub fn begin_sift(&mut self) {
        if !self.first.is_empty() {
            while let Some(queued) = self.rest.pop() {
                self.first.push(queued);
            }
            std::mem::swap(&mut self.first, &mut self.rest);
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
                self.first.push(queued);
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
struct Queue {
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
    expiring: Option<Box<Expiring>>,
}

type Expiring = BinaryHeap<Reverse<(Instant, u64)>>;

// A gap takes no more memory than a message, and distinguishing the two takes none.
const _: () = assert!(size_of::<Option<Queued>>() == size_of::<Queued>());

impl Queue {
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
        let expiring: Expiring = expires.collect();
        self.expiring = (!expiring.is_empty()).then(|| Box::new(expiring));
    }
}

fn cost_of(queued: &Queued) -> usize {
    queued.message.size() + OVERHEAD
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
