//! The identifiers of QoS 2 messages that were accepted and whose PUBREL has not arrived. This is
//! the receiver's half of exactly-once delivery [MQTT-4.3.3-10].

use crate::mutant::Mutant;
use crate::packet::PacketId;

/// The identifiers. There are at most twice as many as the Receive Maximum that the broker
/// announced; in MQTT 3, which has no such value, at most all 65,535.
#[derive(Default)]
pub struct Inbound {
    /// Identifiers from the current connection.
    current: Ids,
    /// Identifiers from earlier connections.
    earlier: Ids,
}

/// Larger sets than this are stored as bits.
const FEW: usize = 32;

/// A set of packet identifiers. An operation costs the same whatever its size.
enum Ids {
    /// A small set as a list.
    Few(Vec<PacketId>),
    /// A large set.
    Many(Box<ManyIds>),
}

/// The size of a large set, and its bits in groups of 64 identifiers: up to 22 KiB for all 65,535.
#[derive(Default)]
struct ManyIds {
    count: usize,
    bits: hashbrown::HashMap<u16, u64, foldhash::fast::FixedState>,
}

impl Default for Ids {
    fn default() -> Self {
        Ids::Few(Vec::new())
    }
}

/// The group and the bit of an identifier.
fn bit(id: PacketId) -> (u16, u64) {
    (id.get() / 64, 1 << (id.get() % 64))
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::Few(few) => few.len(),
            Ids::Many(many) => many.count,
        }
    }

    fn contains(&self, id: PacketId) -> bool {
        match self {
            Ids::Few(few) => few.contains(&id),
            Ids::Many(many) => {
                let (at, bit) = bit(id);
                many.bits.get(&at).is_some_and(|bits| bits & bit != 0)
            }
        }
    }

    fn all(&self) -> Vec<PacketId> {
        match self {
            Ids::Few(few) => few.clone(),
            Ids::Many(many) => {
                let ids = |(&at, &word): (&u16, &u64)| {
                    let bits = (0..64).filter(move |bit| word & 1 << bit != 0);
                    bits.filter_map(move |bit| PacketId::new(at * 64 + bit))
                };
                many.bits.iter().flat_map(ids).collect()
            }
        }
    }

    /// Adds an identifier that is not in the set.
    fn insert(&mut self, id: PacketId) {
        match self {
            Ids::Few(few) if few.len() < FEW => few.push(id),
            Ids::Few(few) => {
                let few = std::mem::take(few);
                *self = Ids::Many(Box::default());
                few.into_iter().chain([id]).for_each(|id| self.insert(id));
            }
            Ids::Many(many) => {
                let ManyIds { count, bits } = &mut **many;
                let (at, bit) = bit(id);
                *bits.entry(at).or_insert(0) |= bit;
                *count += 1;
            }
        }
    }

    /// Removes an identifier. False when it is not in the set.
    fn remove(&mut self, id: PacketId) -> bool {
        match self {
            Ids::Few(few) => match few.iter().position(|&known| known == id) {
                Some(at) => {
                    few.swap_remove(at);
                    true
                }
                None => false,
            },
            Ids::Many(many) => {
                let ManyIds { count, bits } = &mut **many;
                let (at, bit) = bit(id);
                let Some(word) = bits.get_mut(&at).filter(|word| **word & bit != 0) else {
                    return false;
                };
                *word &= !bit;
                if *word == 0 {
                    bits.remove(&at);
                }
                *count -= 1;
                if *count == 0 {
                    *self = Ids::default();
                }
                true
            }
        }
    }

    /// Adds all identifiers of `other`, none of which is in this set.
    fn append(&mut self, other: Ids) {
        match other {
            Ids::Few(few) => few.into_iter().for_each(|id| self.insert(id)),
            other if self.len() == 0 => *self = other,
            Ids::Many(many) => {
                for (at, word) in many.bits {
                    let ids = (0..64).filter(|bit| word & 1 << bit != 0).map(|bit| at * 64 + bit);
                    ids.filter_map(PacketId::new).for_each(|id| self.insert(id));
                }
            }
        }
    }
}

/// What the identifier of a QoS 2 PUBLISH means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Not seen: route the message.
    New,
    /// Seen: acknowledge again, do not route again [MQTT-4.3.3-10].
    Duplicate,
    /// The client has more unacknowledged messages than the broker allowed [MQTT-3.3.4-7].
    OverLimit,
}

impl Inbound {
    /// Starts a new connection: the client may use its whole quota again, whatever earlier
    /// connections left open (section 4.9).
    pub fn begin_connection(&mut self) {
        self.earlier.append(std::mem::take(&mut self.current));
    }

    /// What a PUBLISH with `id` means when at most `limit` identifiers may be open on one
    /// connection, and as many again from earlier ones. Changes nothing.
    pub fn arrival(&self, id: PacketId, limit: u16) -> Arrival {
        let limit = usize::from(limit);
        let known = self.current.contains(id) || self.earlier.contains(id);
        if known && !Mutant::InboundTwice.is_on() {
            Arrival::Duplicate
        } else if self.current.len() >= limit || self.len() >= 2 * limit {
            Arrival::OverLimit
        } else {
            Arrival::New
        }
    }

    /// Remembers an accepted message.
    pub fn insert(&mut self, id: PacketId) {
        if !self.current.contains(id) && !self.earlier.contains(id) {
            self.current.insert(id);
        }
    }

    /// Handles a PUBREL. False when the identifier is unknown.
    pub fn release(&mut self, id: PacketId) -> bool {
        if Mutant::InboundKept.is_on() {
            return self.current.contains(id) || self.earlier.contains(id);
        }
        self.current.remove(id) || self.earlier.remove(id)
    }

    /// All open identifiers.
    pub fn all(&self) -> Vec<PacketId> {
        let mut all = self.earlier.all();
        all.extend(self.current.all());
        all
    }

    /// The open identifiers of the current connection, and those of earlier ones.
    pub fn by_connection(&self) -> [Vec<PacketId>; 2] {
        [self.current.all(), self.earlier.all()]
    }

    /// True when no identifier is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of open identifiers.
    pub fn len(&self) -> usize {
        self.current.len() + self.earlier.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).expect("not zero")
    }

    #[test]
    fn a_new_connection_has_its_whole_quota_whatever_the_last_one_left_open() {
        let mut inbound = Inbound::default();
        (1..=4).for_each(|number| inbound.insert(id(number)));
        assert_eq!(inbound.arrival(id(5), 4), Arrival::OverLimit);
        inbound.begin_connection();
        (5..=7).for_each(|number| {
            assert_eq!(inbound.arrival(id(number), 4), Arrival::New);
            inbound.insert(id(number));
        });
        assert_eq!(inbound.arrival(id(2), 4), Arrival::Duplicate);
        // What is left from before does not count, and releasing it earns nothing.
        assert!(inbound.release(id(2)) && inbound.release(id(4)) && !inbound.release(id(2)));
        assert_eq!(inbound.arrival(id(8), 4), Arrival::New);
        inbound.insert(id(8));
        assert_eq!(inbound.arrival(id(9), 4), Arrival::OverLimit);
        assert!(inbound.release(id(6)));
        assert_eq!(inbound.arrival(id(9), 4), Arrival::New);
        assert!([1, 3, 5, 7, 8].iter().all(|&number| inbound.release(id(number))));
        assert!(inbound.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn few_and_many_behave_like_a_set_in_two_parts(
            steps in proptest::collection::vec((0u8..8, 1u16..200), 0..800)
        ) {
            use std::collections::BTreeSet;
            let (mut inbound, mut current, mut earlier) =
                (Inbound::default(), BTreeSet::new(), BTreeSet::new());
            for (step, number) in steps {
                let known = current.contains(&number) || earlier.contains(&number);
                match step {
                    0 => {
                        inbound.begin_connection();
                        earlier.append(&mut current);
                    }
                    1 | 2 => {
                        let was = current.remove(&number) || earlier.remove(&number);
                        proptest::prop_assert_eq!(inbound.release(id(number)), was);
                    }
                    _ => {
                        let over = current.len() >= 50 || current.len() + earlier.len() >= 100;
                        let arrival = match (known, over) {
                            (true, _) => Arrival::Duplicate,
                            (false, true) => Arrival::OverLimit,
                            _ => Arrival::New,
                        };
                        proptest::prop_assert_eq!(inbound.arrival(id(number), 50), arrival);
                        if arrival == Arrival::New {
                            inbound.insert(id(number));
                            current.insert(number);
                        }
                    }
                }
                proptest::prop_assert_eq!(inbound.len(), current.len() + earlier.len());
            }
        }
    }
}
