//! The tail of a pending queue whose messages are only in the store. What is kept of each is where
//! it belongs and how it is delivered; its body is read back before it comes to the head of the
//! queue.

use super::SubscriptionIds;
use super::pending::{ExpiryHeap, cost};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::time::Instant;
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Messages of a chunk.
const CHUNK: usize = 256;
/// Room for messages that the first chunk has at the beginning.
const FIRST: usize = 4;
/// The number of gaps, and of listed messages that are gone, that even a short tail may have.
const SPARE: usize = 64;

/// A message that is only in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AwayMessage {
    /// Its number in the store, unique within the session; not 0.
    pub slot: u32,
    /// The number of the message in the store.
    pub number: u64,
    /// Bytes of topic, properties and payload.
    pub size: u32,
    /// CRC32C of the message's record.
    pub checksum: u32,
    /// QoS of this delivery.
    pub qos: Qos,
    /// RETAIN flag of this delivery.
    pub retain: bool,
    /// Subscription Identifiers of the matching subscriptions.
    pub subscription_ids: SubscriptionIds,
}

/// The same in less space; a gap has slot 0.
#[derive(Clone, Copy)]
struct AwayEntry {
    slot: u32,
    number: [u32; 2],
    size: u32,
    checksum: u32,
    /// The only Subscription Identifier, or 0.
    id: u32,
    flags: u8,
}

/// Bytes of memory of a message that is away.
pub const AWAY: usize = size_of::<AwayEntry>();
const _: () = assert!(AWAY <= 28);
// What every client costs for whom messages wait in the store only.
const _: () = assert!(size_of::<Away>() <= 112);

const RETAIN: u8 = 4;
/// It has several Subscription Identifiers, which are listed.
const SEVERAL: u8 = 8;

type IdsBySlot = HashMap<u32, SubscriptionIds, foldhash::fast::FixedState>;

/// The tail.
#[derive(Default)]
pub struct Away {
    /// In order; all but the last have [`CHUNK`] places. The first never begins with a gap.
    chunks: VecDeque<Vec<AwayEntry>>,
    /// Places of the first chunk that are gone.
    skipped: usize,
    /// The number of the first place that is not. Places are numbered as messages come.
    first: u64,
    /// Places, gaps included.
    places: usize,
    gaps: usize,
    bytes: usize,
    /// The messages that expire, with the numbers of their places, earliest first. Some have gone.
    expiring: ExpiryHeap,
    /// The Subscription Identifiers of those that have several; `None` while there has been none.
    several: Option<Box<IdsBySlot>>,
    /// It is in the shard's line of those that want messages back.
    pub listed: bool,
    /// How often its first message was not what had been stored.
    pub failures: u8,
}

impl Away {
    /// How many messages it has.
    pub fn len(&self) -> usize {
        self.places - self.gaps
    }

    /// True when it has none.
    pub fn is_empty(&self) -> bool {
        self.places == 0
    }

    /// Bytes charged for them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message at the end.
    pub fn push(&mut self, message: AwayMessage, expires: Option<Instant>) {
        debug_assert!(message.slot != 0);
        self.bytes += cost(message.size as usize);
        if let Some(at) = expires {
            self.expiring.push(Reverse((at, self.first + self.places as u64)));
            if self.expiring.len() > 2 * self.len() + SPARE {
                self.list_expiring();
            }
        }
        let AwayMessage { slot, number, size, checksum, qos, retain, subscription_ids } = message;
        let mut flags = qos as u8 | if retain { RETAIN } else { 0 };
        let id = match subscription_ids {
            SubscriptionIds::None => 0,
            SubscriptionIds::One(id) => id,
            several @ SubscriptionIds::Many(_) => {
                flags |= SEVERAL;
                self.several.get_or_insert_default().insert(slot, several);
                0
            }
        };
        let number = [number as u32, (number >> 32) as u32];
        if self.chunks.back().is_none_or(|last| last.len() == CHUNK) {
            if self.places == 0 {
                // Most queues are short.
                self.chunks = VecDeque::with_capacity(1);
            }
            self.chunks.push_back(Vec::with_capacity(if self.places == 0 { FIRST } else { CHUNK }));
        }
        if let Some(last) = self.chunks.back_mut() {
            last.push(AwayEntry { slot, number, size, checksum, id, flags });
            self.places += 1;
        }
    }

    fn entry(&self, place: u64) -> Option<&AwayEntry> {
        let at = usize::try_from(place.checked_sub(self.first)?).ok()? + self.skipped;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    fn message(&self, entry: &AwayEntry) -> AwayMessage {
        let [low, high] = entry.number;
        let subscription_ids = match entry.flags & SEVERAL {
            0 => SubscriptionIds::from_slice(&[entry.id]),
            _ => {
                let several = self.several.as_ref().and_then(|several| several.get(&entry.slot));
                several.cloned().unwrap_or_default()
            }
        };
        AwayMessage {
            slot: entry.slot,
            number: u64::from(low) | u64::from(high) << 32,
            size: entry.size,
            checksum: entry.checksum,
            qos: Qos::from_u8(entry.flags & 3).unwrap_or_default(),
            retain: entry.flags & RETAIN != 0,
            subscription_ids,
        }
    }

    /// The messages, in order.
    pub fn iter(&self) -> impl Iterator<Item = AwayMessage> {
        let places = (self.first..self.first + self.places as u64).filter_map(|at| self.entry(at));
        places.filter(|entry| entry.slot != 0).map(|entry| self.message(entry))
    }

    /// The messages, in order, and when each expires.
    pub fn expiring(&self) -> impl Iterator<Item = (AwayMessage, Option<Instant>)> {
        let known: HashMap<u64, Instant, foldhash::fast::FixedState> =
            self.expiring.iter().map(|&Reverse((at, place))| (place, at)).collect();
        let places = self.first..self.first + self.places as u64;
        let entries = places.filter_map(|at| Some((at, self.entry(at)?)));
        entries
            .filter(|(_, entry)| entry.slot != 0)
            .map(move |(at, entry)| (self.message(entry), known.get(&at).copied()))
    }

    /// The first message.
    pub fn front(&self) -> Option<AwayMessage> {
        self.entry(self.first).map(|entry| self.message(entry))
    }

    /// Takes the first message out.
    pub fn pop(&mut self) -> Option<AwayMessage> {
        let message = self.front()?;
        self.forget_ids(message.slot);
        self.bytes -= cost(message.size as usize);
        self.skip();
        self.failures = 0;
        self.skip_gaps();
        Some(message)
    }

    fn forget_ids(&mut self, slot: u32) {
        if let Some(several) = &mut self.several {
            several.remove(&slot);
            self.several.take_if(|several| several.is_empty());
        }
    }

    fn skip_gaps(&mut self) {
        while self.entry(self.first).is_some_and(|entry| entry.slot == 0) {
            self.skip();
            self.gaps -= 1;
        }
        if self.places == 0 {
            self.expiring = ExpiryHeap::new();
        }
    }

    /// The first place goes.
    fn skip(&mut self) {
        self.skipped += 1;
        self.first += 1;
        self.places -= 1;
        if self.places == 0 {
            self.chunks = VecDeque::new();
            self.skipped = 0;
        } else if self.skipped == CHUNK {
            self.chunks.pop_front();
            self.skipped = 0;
        }
    }

    /// No message expires before this time; `None` when none expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiring.peek().map(|&Reverse((at, _))| at)
    }

    /// Drops the message that has been expired for longest, if there is one; returns its slot and
    /// the number of the message.
    pub fn expire_one(&mut self, now: Instant) -> Option<(u32, u64)> {
        while let Some(&Reverse((at, place))) = self.expiring.peek() {
            if at > now || Mutant::ExpiredNotSwept.is_on() {
                return None;
            }
            self.expiring.pop();
            let Some(message) = self.entry(place).filter(|entry| entry.slot != 0) else { continue };
            let message = self.message(message);
            self.forget_ids(message.slot);
            self.bytes -= cost(message.size as usize);
            self.gaps += 1;
            let at = (place - self.first) as usize + self.skipped;
            let entry = self.chunks.get_mut(at / CHUNK).and_then(|chunk| chunk.get_mut(at % CHUNK));
            if let Some(entry) = entry {
                entry.slot = 0;
            }
            self.skip_gaps();
            if self.gaps > self.len() + SPARE {
                self.close_gaps();
            }
            return Some((message.slot, message.number));
        }
        None
    }

    /// Leaves out of the list of those that expire what has gone. Done after as many changes as
    /// there are messages.
    fn list_expiring(&mut self) {
        let mut expiring = std::mem::take(&mut self.expiring).into_vec();
        let there = |place| self.entry(place).is_some_and(|entry| entry.slot != 0);
        expiring.retain(|&Reverse((_, place))| there(place));
        self.expiring = expiring.into();
    }

    /// Leaves out the gaps. Done after as many changes as there are messages.
    fn close_gaps(&mut self) {
        let mut expiring = std::mem::take(&mut self.expiring).into_vec();
        expiring.sort_unstable_by_key(|&Reverse((_, place))| Reverse(place));
        let mut closed = Away {
            first: self.first,
            listed: self.listed,
            failures: self.failures,
            ..Away::default()
        };
        for place in self.first..self.first + self.places as u64 {
            let Some(entry) = self.entry(place).filter(|entry| entry.slot != 0) else { continue };
            while expiring.pop_if(|Reverse((_, other))| *other < place).is_some() {}
            let expires = expiring.pop_if(|Reverse((_, other))| *other == place);
            closed.push(self.message(entry), expires.map(|Reverse((at, _))| at));
        }
        *self = closed;
    }

    /// Bytes of memory besides the entries of messages.
    pub fn memory(&self) -> usize {
        self.expiring.capacity() * size_of::<Reverse<(Instant, u64)>>()
    }
}

#[cfg(test)]
#[path = "away_tests.rs"]
mod tests;
