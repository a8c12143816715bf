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
    /// It waits; this many older ones were dropped for it.
    DroppedOldest(u32),
    /// It was dropped.
    DroppedNew,
    /// It was dropped and the client is to be disconnected.
    Disconnect,
}

/// The queue. What has expired can be anywhere in it; taking that out leaves gaps.
#[derive(Default)]
pub struct Pending {
    /// Never begins with a gap, and has at most about as many gaps as messages.
    queue: VecDeque<Option<Queued>>,
    /// The number of the first place: places are numbered on as messages come.
    first: u64,
    gaps: usize,
    bytes: usize,
    qos0: usize,
    /// The messages that expire, each with the number of its place, earliest first; also some that
    /// have been sent since. `None` when none was there.
    expiring: Option<Box<Expiring>>,
}

type Expiring = BinaryHeap<Reverse<(Instant, u64)>>;

// A gap costs no more than what was there, and what tells gaps from messages nothing.
const _: () = assert!(size_of::<Option<Queued>>() == size_of::<Queued>());

impl Pending {
    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.queue.len() - self.gaps
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// True when a message of QoS 0 waits: the next one of QoS 0 must not overtake it.
    pub fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops expired messages until `queued` fits within `bounds` or none is left, those first that
    /// expired first; returns how many. To be called before [`Self::push`], whose policy is for
    /// messages that are alive. Each costs the logarithm of how many expire.
    pub fn expire_for(&mut self, queued: &Queued, bounds: &Bounds, now: Instant) -> u32 {
        let mut dropped = 0;
        if Mutant::ExpiredHoldPlaces.is_on() {
            return dropped;
        }
        while !self.has_room(cost_of(queued), bounds) && self.expire_one(now) {
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

    /// No message expires before this time; `None` when none expires.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiring.as_ref()?.peek().map(|&Reverse((at, _))| at)
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &Bounds) -> Pushed {
        let cost = cost_of(&queued);
        let mut dropped = 0;
        while !self.has_room(cost, bounds) {
            match bounds.on_full {
                // A message larger than the whole queue cannot be helped by dropping others.
                OnFull::DropOldest if cost <= bounds.bytes && self.pop().is_some() => {
                    dropped += u32::from(!Mutant::PendingDropUncounted.is_on());
                }
                OnFull::DropOldest | OnFull::DropNew => return Pushed::DroppedNew,
                OnFull::Disconnect => return Pushed::Disconnect,
            }
        }
        self.bytes += cost;
        self.qos0 += usize::from(queued.qos == Qos::AtMostOnce);
        if let Some(at) = queued.message.expires() {
            let number = self.first + self.queue.len() as u64;
            self.expiring.get_or_insert_default().push(Reverse((at, number)));
        }
        self.queue.push_back(Some(queued));
        if self.expiring.as_ref().is_some_and(|expiring| expiring.len() > 2 * self.len() + SPARE) {
            self.list_expiring();
        }
        if dropped == 0 { Pushed::Queued } else { Pushed::DroppedOldest(dropped) }
    }

    /// The oldest message.
    pub fn front(&self) -> Option<&Queued> {
        self.queue.front()?.as_ref()
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()??;
        self.first += 1;
        self.took(&queued);
        Some(queued)
    }

    fn has_room(&self, cost: usize, bounds: &Bounds) -> bool {
        let more = usize::from(Mutant::PendingOverBound.is_on());
        self.len() < bounds.messages.saturating_add(more) && self.bytes + cost <= bounds.bytes
    }

    /// Drops the message that has been expired for longest; false when there is none.
    fn expire_one(&mut self, now: Instant) -> bool {
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
            return true;
        }
        false
    }

    /// After a message has been taken out of its place.
    fn took(&mut self, queued: &Queued) {
        self.bytes -= cost_of(queued);
        self.qos0 -= usize::from(queued.qos == Qos::AtMostOnce);
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
mod tests {
    use super::*;
    use crate::message::{Message, MessageRef};
    use crate::session::SubscriptionIds;

    fn queued(payload: &[u8]) -> Queued {
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        Queued {
            message: Message::new(&message, &mut Vec::new()),
            subscription_ids: SubscriptionIds::None,
            qos: Qos::AtLeastOnce,
            retain: false,
        }
    }

    fn expiring(payload: &[u8], expires: Option<u64>, qos: Qos) -> Queued {
        let Queued { message, .. } = queued(payload);
        let view = MessageRef { expires: expires.map(Instant), ..message.view() };
        let message = Message::new(&view, &mut Vec::new());
        Queued { message, qos, ..queued(payload) }
    }

    fn bounds(messages: usize, bytes: usize, on_full: OnFull) -> Bounds {
        Bounds { messages, bytes, on_full }
    }

    #[test]
    fn each_policy_keeps_the_bounds() {
        let mut pending = Pending::default();
        let oldest = bounds(2, 1000, OnFull::DropOldest);
        assert_eq!(pending.push(queued(b"1"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"2"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"3"), &oldest), Pushed::DroppedOldest(1));
        assert_eq!(pending.front().unwrap().message.view().payload, b"2");
        assert_eq!(pending.push(queued(&[0; 2000]), &oldest), Pushed::DroppedNew);
        assert_eq!(pending.len(), 2);
        assert_eq!(
            pending.push(queued(b"4"), &bounds(2, 1000, OnFull::DropNew)),
            Pushed::DroppedNew
        );
        let harsh = bounds(2, 1000, OnFull::Disconnect);
        assert_eq!(pending.push(queued(b"4"), &harsh), Pushed::Disconnect);
        assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
        assert_eq!(pending.pop().unwrap().message.view().payload, b"3");
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }

    #[test]
    fn expired_messages_make_room_before_the_policy_looks() {
        for on_full in [OnFull::DropNew, OnFull::DropOldest, OnFull::Disconnect] {
            let bounds = bounds(10, 10_000, on_full);
            let mut pending = Pending::default();
            for number in 0..10 {
                let expires = (number >= 3).then_some(1000);
                pending.push(expiring(&[number], expires, Qos::AtLeastOnce), &bounds);
            }
            let mut dropped = 0;
            for number in 10..15 {
                let queued = queued(&[number]);
                dropped += pending.expire_for(&queued, &bounds, Instant(1000));
                assert_eq!(pending.push(queued, &bounds), Pushed::Queued, "{on_full:?}");
            }
            assert_eq!((dropped, pending.len()), (5, 10));
            assert_eq!(pending.next_expiry(), Some(Instant(1000)));
            assert_eq!(pending.expire(Instant(1000), 1), 1);
            assert_eq!(pending.expire(Instant(1000), 10), 1);
            assert_eq!((pending.len(), pending.next_expiry()), (8, None));
            let left: Vec<u8> = std::iter::from_fn(|| pending.pop())
                .map(|queued| queued.message.view().payload[0])
                .collect();
            assert_eq!(left, [0, 1, 2, 10, 11, 12, 13, 14]);
        }
    }

    #[test]
    fn gaps_and_the_list_of_what_expires_stay_in_proportion() {
        let bounds = bounds(1 << 20, usize::MAX, OnFull::DropNew);
        let mut pending = Pending::default();
        // The front never expires: what comes and goes behind it leaves gaps.
        pending.push(queued(b"first"), &bounds);
        for now in 0..100_000 {
            pending.push(expiring(b"x", Some(now + 10), Qos::AtLeastOnce), &bounds);
            pending.expire(Instant(now), u32::MAX);
            assert!(pending.queue.len() <= 2 * pending.len() + SPARE + 1);
        }
        // What is sent before it expires leaves its entry in the list.
        for now in 0..100_000 {
            pending.push(expiring(b"x", Some(1 << 40), Qos::AtLeastOnce), &bounds);
            let listed = pending.expiring.as_ref().map_or(0, |expiring| expiring.len());
            assert!(listed <= 2 * pending.len() + SPARE, "{listed} at {now}");
            pending.pop();
        }
    }

    /// What a message is to the naive queue: its mark, cost, time and QoS.
    type Naive = (u8, usize, Option<u64>, Qos);

    proptest::proptest! {
        #[test]
        fn the_queue_behaves_like_a_list_that_is_searched_for_expired_messages(
            most in 0usize..8, bytes in 0usize..1000, policy in 0usize..3,
            steps in proptest::collection::vec((0u8..6, 0u64..40, 0usize..100), 0..300)
        ) {
            let on_full = [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect][policy];
            let bounds = bounds(most, bytes, on_full);
            let mut pending = Pending::default();
            let mut naive: Vec<Naive> = Vec::new();
            let total = |naive: &[Naive]| naive.iter().map(|n| n.1).sum::<usize>();
            // The place of the message that expired first, if one has.
            let dead = |naive: &[Naive], now: u64| {
                let places = (0..naive.len()).filter(|&at| naive[at].2.is_some_and(|at| at <= now));
                places.min_by_key(|&at| (naive[at].2, at))
            };
            let mut now = 0;
            for (mark, (step, number, size)) in steps.into_iter().enumerate() {
                let mark = mark as u8;
                match step {
                    0 => now += number,
                    1 => {
                        let popped = pending.pop().map(|queued| queued.message.view().payload[0]);
                        let expected = (!naive.is_empty()).then(|| naive.remove(0).0);
                        proptest::prop_assert_eq!(popped, expected);
                    }
                    2 => {
                        let limit = number as u32 % 4;
                        let mut expected = 0;
                        while expected < limit && let Some(at) = dead(&naive, now) {
                            naive.remove(at);
                            expected += 1;
                        }
                        proptest::prop_assert_eq!(pending.expire(Instant(now), limit), expected);
                    }
                    _ => {
                        let qos = if step == 3 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
                        let expires = (step != 4).then_some(now + number);
                        let mut payload = vec![0; 1 + size];
                        payload[0] = mark;
                        let queued = expiring(&payload, expires, qos);
                        let cost = cost_of(&queued);
                        let fits = |n: &[Naive]| n.len() < most && total(n) + cost <= bytes;
                        let mut expired = 0;
                        while !fits(&naive) && let Some(at) = dead(&naive, now) {
                            naive.remove(at);
                            expired += 1;
                        }
                        let dropped = pending.expire_for(&queued, &bounds, Instant(now));
                        proptest::prop_assert_eq!(dropped, expired);
                        let mut oldest = 0;
                        while on_full == OnFull::DropOldest
                            && cost <= bytes && !fits(&naive) && !naive.is_empty()
                        {
                            naive.remove(0);
                            oldest += 1;
                        }
                        let expected = match (fits(&naive), on_full) {
                            (true, _) if oldest > 0 => Pushed::DroppedOldest(oldest),
                            (true, _) => Pushed::Queued,
                            (false, OnFull::Disconnect) => Pushed::Disconnect,
                            (false, _) => Pushed::DroppedNew,
                        };
                        if fits(&naive) {
                            naive.push((mark, cost, expires, qos));
                        }
                        proptest::prop_assert_eq!(pending.push(queued, &bounds), expected);
                    }
                }
                proptest::prop_assert_eq!(pending.len(), naive.len());
                proptest::prop_assert_eq!(pending.is_empty(), naive.is_empty());
                proptest::prop_assert_eq!(pending.bytes(), total(&naive));
                let qos0 = naive.iter().any(|n| n.3 == Qos::AtMostOnce);
                proptest::prop_assert_eq!(pending.has_qos0(), qos0);
                let front = pending.front().map(|queued| queued.message.view().payload[0]);
                proptest::prop_assert_eq!(front, naive.first().map(|n| n.0));
                let earliest = naive.iter().filter_map(|n| n.2).min();
                let told = pending.next_expiry().map(|at| at.0);
                proptest::prop_assert!(told <= earliest || earliest.is_none(), "late");
                proptest::prop_assert!(told.is_some() || earliest.is_none(), "forgotten");
            }
        }
    }
}
