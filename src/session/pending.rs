//! The pending queue: messages accepted for a client and not yet sent, because it is offline or
//! its window is full. Bounded in messages and bytes (`mqtt.pending`).

use super::Queued;
use crate::config::OnFull;
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// Fixed cost charged per queued message, in bytes, so that empty payloads are not free.
const OVERHEAD: usize = 64;
/// Gaps, and listed messages that are not there any more, that even a short queue may have.
const SPARE: usize = 32;

/// Bounds and what happens at them.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most messages.
    pub messages: usize,
    /// Most bytes, each message with its topic, properties and 64 bytes of overhead.
    pub bytes: usize,
    /// The policy when full.
    pub on_full: OnFull,
}

/// What became of a pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits; this many older ones were dropped for it, besides those of share groups.
    DroppedOldest(u32),
    /// It was dropped.
    DroppedNew,
    /// It was dropped and the client is to be disconnected.
    Disconnect,
}

/// The queue.
#[derive(Default)]
pub struct Pending {
    /// What goes before the rest: messages that came back to a share group from another member.
    first: Queue,
    rest: Queue,
    /// So many of the oldest in `rest` are still to be looked at, see [`Self::sift`].
    unsifted: usize,
    /// Messages of share groups that were dropped as the oldest: their groups may have them back.
    evicted: Vec<Queued>,
    /// Stored messages that were dropped, by number.
    gone: Vec<u32>,
}

/// Where a message goes in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueEnd {
    /// At the end.
    End,
    /// Before what was published later: it comes back to a share group.
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

    /// Bytes charged.
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

    /// Drops expired messages until `queued` fits within `bounds` or none is left, those first that
    /// expired first; returns how many. To be called before [`Self::push`], whose policy is for
    /// messages that are alive. Each costs the logarithm of how many expire.
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

    /// Drops messages that have expired at `now`, at most `most`; returns how many.
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

    /// Numbers of stored messages that were dropped since the last call.
    pub fn take_gone(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.gone)
    }

    /// Shows every message that waits.
    pub fn each(&self, look: impl FnMut(&Queued)) {
        let all = self.first.queue.iter().chain(&self.rest.queue);
        all.flatten().for_each(look);
    }

    /// No message expires before this time; `None` when none expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        [self.first.next_expiry(), self.rest.next_expiry()].into_iter().flatten().min()
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &Bounds) -> Pushed {
        self.push_to(QueueEnd::End, queued, bounds)
    }

    /// Adds a message at that place, within `bounds`.
    pub fn push_to(&mut self, line: QueueEnd, queued: Queued, bounds: &Bounds) -> Pushed {
        let cost = cost_of(&queued);
        let mut dropped = 0;
        while !self.fits(cost, bounds) {
            match bounds.on_full {
                // A message larger than the whole queue cannot be helped by dropping others.
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

    /// Messages of share groups that the last [`Self::push`] took out to make room.
    pub fn take_evicted(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.evicted)
    }

    /// The next message.
    pub fn front(&self) -> Option<&Queued> {
        self.first.front().or_else(|| self.rest.front())
    }

    /// Takes the next message.
    pub fn pop(&mut self) -> Option<Queued> {
        if let Some(queued) = self.first.pop() {
            return Some(queued);
        }
        let queued = self.rest.pop()?;
        self.unsifted = self.unsifted.saturating_sub(1);
        Some(queued)
    }

    /// Begins to look at every message that waits now, by [`Self::sift`]. Costs a move of each when
    /// some have come back to a share group, and else nothing.
    pub fn begin_sift(&mut self) {
        if !self.first.is_empty() {
            while let Some(queued) = self.rest.pop() {
                self.first.push(queued);
            }
            std::mem::swap(&mut self.first, &mut self.rest);
        }
        self.unsifted = self.rest.len();
    }

    /// Looks at `most` further messages, oldest first, and takes out those that `leaves` says; true
    /// when all have been looked at. The others keep their order.
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

/// One line of messages. What has expired can be anywhere in it; taking that out leaves gaps.
#[derive(Default)]
struct Queue {
    /// Never begins with a gap, and has at most about as many gaps as messages.
    queue: VecDeque<Option<Queued>>,
    /// The number of the first place: places are numbered on as messages come.
    first: u64,
    gaps: usize,
    bytes: usize,
    qos0: usize,
    shares: usize,
    /// The messages that expire, each with the number of its place, earliest first; also some that
    /// have been sent since. `None` when none was there.
    expiring: Option<Box<Expiring>>,
}

type Expiring = BinaryHeap<Reverse<(Instant, u64)>>;

// A gap costs no more than what was there, and what tells gaps from messages nothing.
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

    /// Takes the oldest message.
    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()??;
        self.first += 1;
        self.took(&queued);
        Some(queued)
    }

    /// Drops the message that has been expired for longest, if there is one; its number in the
    /// store.
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
            // One that was sent has a number before the first, or one of another message.
            let place = number.checked_sub(self.first);
            let place = place.and_then(|at| self.queue.get_mut(at as usize));
            let Some(queued) = place.and_then(Option::take) else { continue };
            self.gaps += 1;
            self.took(&queued);
            return Some(queued.stored);
        }
        None
    }

    /// After a message has been taken out of its place.
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

    /// Makes the list of what expires anew. Done after as many changes as there are messages.
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
