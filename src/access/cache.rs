//! Decisions about topics that one shard remembers, in a table of a fixed size. A new decision
//! replaces the one that has the same place. A decision that is found is exactly the one asked for,
//! as far as two topic names have different keyed hashes of 64 bits (`topic::TopicHash`).

use super::Deed;

/// One decision.
#[derive(Clone, Copy, Default)]
struct CachedDecision {
    /// The serial number of the grant, which a shard never gives twice; 0 for an empty entry.
    grant: u64,
    /// The hash of the topic.
    topic: u64,
    /// The second from which on the decision does not hold any more.
    until: u32,
    /// The number of the deed ([`code`]); the highest bit is set when the deed is allowed.
    deed: u8,
}

/// The end of a decision that holds until the rules change.
pub const NO_END: u32 = u32::MAX;

const ALLOWED: u8 = 0x80;

const _: () = assert!(size_of::<CachedDecision>() <= 24);

/// Decisions of one shard.
#[derive(Default)]
pub struct Cache {
    entries: Box<[CachedDecision]>,
}

impl Cache {
    /// Room for `entries` decisions, rounded up to a power of two; 0 for none.
    pub fn new(entries: usize) -> Cache {
        let entries = if entries == 0 { 0 } else { entries.next_power_of_two() };
        Cache { entries: vec![CachedDecision::default(); entries].into() }
    }

    /// The number of decisions that the table has room for.
    pub fn room(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        size_of_val(&*self.entries)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(CachedDecision::default());
    }

    /// The decision, if it is remembered and still holds at the second `now`.
    #[inline]
    pub fn find(&self, grant: u64, topic: u64, deed: Deed, now: u32) -> Option<bool> {
        let entry = self.entries.get(place(grant, topic, deed, self.entries.len()))?;
        let same = entry.grant == grant && entry.topic == topic && entry.until > now;
        (same && entry.deed & !ALLOWED == code(deed)).then_some(entry.deed & ALLOWED != 0)
    }

    /// Remembers a decision until the second `until`.
    pub fn put(&mut self, grant: u64, topic: u64, deed: Deed, allowed: bool, until: u32) {
        let at = place(grant, topic, deed, self.entries.len());
        if let Some(entry) = self.entries.get_mut(at) {
            let deed = code(deed) | if allowed { ALLOWED } else { 0 };
            *entry = CachedDecision { grant, topic, until, deed };
        }
    }
}

/// A number for each deed, below [`ALLOWED`].
#[inline]
fn code(deed: Deed) -> u8 {
    match deed {
        Deed::Publish { qos, retain } => 1 + qos * 2 + u8::from(retain),
        Deed::Subscribe { qos } => 8 + qos,
    }
}

#[inline]
fn place(grant: u64, topic: u64, deed: Deed, entries: usize) -> usize {
    let mixed =
        (topic ^ grant.rotate_left(32) ^ u64::from(code(deed))).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize & entries.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn what_is_found_was_put() {
        let mut cache = Cache::new(64);
        let mut model = HashMap::new();
        let mut found = 0;
        for round in 0..20_000u64 {
            let (grant, topic) = (1 + round % 7, round * round % 41);
            let deed = match round % 5 {
                0 => Deed::Subscribe { qos: (round % 3) as u8 },
                n => Deed::Publish { qos: (round % 3) as u8, retain: n == 1 },
            };
            if let Some(allowed) = cache.find(grant, topic, deed, 0) {
                assert_eq!(model.get(&(grant, topic, code(deed))), Some(&allowed));
                found += 1;
            }
            let allowed = round % 11 < 6;
            cache.put(grant, topic, deed, allowed, NO_END);
            model.insert((grant, topic, code(deed)), allowed);
            assert_eq!(cache.find(grant, topic, deed, 0), Some(allowed));
        }
        assert!(found > 100, "{found}");
        let deed = Deed::Subscribe { qos: 0 };
        cache.put(9, 9, deed, true, 5);
        assert_eq!([4, 5].map(|now| cache.find(9, 9, deed, now)), [Some(true), None]);
        cache.clear();
        assert_eq!(cache.find(1, 1, Deed::Subscribe { qos: 0 }, 0), None);
    }
}
