//! Which clients cause the most load: bytes and messages in each direction, dropped messages, and
//! the time that their sends took. The counts are space-saving sketches (Metwally, Agrawal, El
//! Abbadi, 2005) of fixed size: a sketch contains every client with more than 1/128 of the whole,
//! with an upper bound of the error.
//!
//! Traffic is sampled: about every 64th message and every 64 KiB are looked at and weighed
//! accordingly, at random distances so that no regular pattern of clients escapes. Of each window's
//! first 1,024 messages in each direction every one is weighed by itself, with its bytes, so that
//! few messages are counted exactly. Every slow send is counted. So is every drop among the first
//! 4,096 of a window, and then about every 16th. The results cover the last one to two minutes.

use crate::time::Instant;

/// How many clients one sketch follows.
const PLACES: usize = 128;
/// Messages between two samples, on average.
const MESSAGES: i64 = 64;
/// Bytes between two samples, on average.
const BYTES: i64 = 64 * 1024;
/// How many messages in a window are each weighed, in each direction.
const FEW: u32 = 1024;
/// How many drops in a window are each counted.
const FEW_DROPS: u64 = 4096;
/// Drops between two samples after these, on average.
const DROPS: i64 = 16;
/// Milliseconds after which new sketches begin. The last ones are kept beside them.
const WINDOW: u64 = 60_000;
/// A send that takes fewer milliseconds than this is not slow.
const SLOW: u64 = 10;

/// The measure by which clients are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Bytes of packets from a client.
    BytesReceived,
    /// Bytes of PUBLISH packets to a client.
    BytesSent,
    /// PUBLISH packets from a client.
    MessagesReceived,
    /// PUBLISH packets to a client.
    MessagesSent,
    /// Messages for a client that were dropped.
    Drops,
    /// Milliseconds that the client's host took to accept what was sent, counting sends that took
    /// 10 or more.
    SlowSends,
}

impl Measure {
    /// All measures.
    pub const ALL: [Measure; 6] = [
        Measure::BytesReceived,
        Measure::BytesSent,
        Measure::MessagesReceived,
        Measure::MessagesSent,
        Measure::Drops,
        Measure::SlowSends,
    ];

    /// Its name, as operators write it.
    pub fn word(self) -> &'static str {
        match self {
            Measure::BytesReceived => "bytes_received",
            Measure::BytesSent => "bytes_sent",
            Measure::MessagesReceived => "messages_received",
            Measure::MessagesSent => "messages_sent",
            Measure::Drops => "drops",
            Measure::SlowSends => "slow_sends",
        }
    }
}

/// One client in a sketch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) struct Weighed {
    /// Index and generation of the session.
    pub session: (u32, u32),
    pub weight: u64,
    /// At most this much of the weight belongs to other clients.
    pub error: u64,
}

struct Sketch(Vec<Weighed>);

impl Default for Sketch {
    /// Allocates all the memory of the sketch, so that traffic allocates none.
    fn default() -> Self {
        Sketch(Vec::with_capacity(PLACES))
    }
}

impl Sketch {
    /// Adds weight to a session. Looks at each place once.
    fn add(&mut self, session: (u32, u32), weight: u64) {
        if let Some(known) = self.0.iter_mut().find(|one| one.session == session) {
            known.weight += weight;
        } else if self.0.len() < PLACES {
            self.0.push(Weighed { session, weight, error: 0 });
        } else if let Some(least) = self.0.iter_mut().min_by_key(|one| one.weight) {
            let error = least.weight;
            *least = Weighed { session, weight: error + weight, error };
        }
    }
}

/// Counts down the distance to the next sample.
struct Countdown {
    /// Negative when a sample is due.
    left: i64,
    each: i64,
    /// How many are still to be weighed by themselves.
    few: u32,
    /// Whether the next one is.
    exact: bool,
}

impl Countdown {
    /// The first `few` are weighed by themselves, and then one of about `each`.
    const fn new(each: i64, few: u32) -> Self {
        let exact = few > 0;
        Countdown { left: if exact { 0 } else { each }, each, few, exact }
    }

    /// Counts `amount`; true when a sample is due.
    #[inline]
    fn passes(&mut self, amount: usize) -> bool {
        self.left -= amount as i64;
        self.left < 0
    }

    /// The weight of the samples that are due: several, if one amount is larger than the distance.
    /// The next distance is between half and one and a half of the average.
    fn take(&mut self, random: u64) -> u64 {
        if self.left >= 0 {
            return 0;
        }
        let weight = match self.exact {
            true => -self.left,
            false => (1 - self.left / self.each) * self.each,
        };
        self.exact = self.few > 1;
        self.few = self.few.saturating_sub(1);
        self.left = if self.exact { 0 } else { self.each / 2 + random as i64 % self.each };
        weight as u64
    }
}

/// The weights of messages and bytes that are due in one direction. `last` is the bytes of the
/// packet at which a sample is due.
fn weights(countdowns: &mut [Countdown; 2], last: usize, random: u64) -> [u64; 2] {
    let [messages, bytes] = countdowns;
    if messages.exact && messages.left < 0 {
        // They are weighed by themselves, and are no part of a sample.
        bytes.left += last as i64;
        return [messages.take(random), last as u64];
    }
    [messages.take(random), bytes.take(random)]
}

/// The sketches of one shard.
pub(in crate::shard) struct HeavyHitters {
    now: [Sketch; Measure::ALL.len()],
    before: [Sketch; Measure::ALL.len()],
    begun: Instant,
    /// How many milliseconds `before` covers.
    length: u64,
    received: [Countdown; 2],
    sent: [Countdown; 2],
    /// The bytes of the last packet from a client.
    last_in: usize,
    /// The bytes of the last PUBLISH to a client.
    last_out: usize,
    dropped: Countdown,
    /// Drops since this window began.
    drops: u64,
    random: u64,
}

impl Default for HeavyHitters {
    fn default() -> Self {
        let countdowns = || [Countdown::new(MESSAGES, FEW), Countdown::new(BYTES, 0)];
        HeavyHitters {
            now: Default::default(),
            before: Default::default(),
            begun: Instant(0),
            length: 0,
            received: countdowns(),
            sent: countdowns(),
            last_in: 0,
            last_out: 0,
            dropped: Countdown::new(DROPS, 0),
            drops: 0,
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }
}

impl HeavyHitters {
    /// Counts a packet of this many bytes from a client, whose first byte is `first`. True when the
    /// client is to be weighed ([`HeavyHitters::weigh`]).
    #[inline]
    pub(in crate::shard) fn received(&mut self, first: u8, bytes: usize) -> bool {
        self.last_in = bytes;
        let [messages, all] = &mut self.received;
        messages.passes(usize::from(first >> 4 == 3)) | all.passes(bytes)
    }

    /// Counts a PUBLISH of this many bytes to a client. True when the client is to be weighed.
    #[inline]
    pub(super) fn sent(&mut self, bytes: usize) -> bool {
        self.last_out = bytes;
        let [messages, all] = &mut self.sent;
        messages.passes(1) | all.passes(bytes)
    }

    /// Counts dropped messages for a client. Returns the weight to add for them with
    /// [`HeavyHitters::add`], if there is one.
    #[inline]
    pub(super) fn dropped(&mut self, count: u64) -> Option<u64> {
        self.drops += count;
        if self.drops <= FEW_DROPS {
            return Some(count);
        }
        if !self.dropped.passes(count as usize) {
            return None;
        }
        let random = self.random();
        Some(self.dropped.take(random))
    }

    /// Weighs the client at whose packet a sample is due.
    #[cold]
    pub(super) fn weigh(&mut self, session: (u32, u32), now: Instant) {
        let random = self.random();
        let [received, bytes_received] = weights(&mut self.received, self.last_in, random);
        let [sent, bytes_sent] = weights(&mut self.sent, self.last_out, random);
        let weights = [
            (Measure::MessagesReceived, received),
            (Measure::BytesReceived, bytes_received),
            (Measure::MessagesSent, sent),
            (Measure::BytesSent, bytes_sent),
        ];
        for (measure, weight) in weights.into_iter().filter(|(_, weight)| *weight > 0) {
            self.add(measure, session, weight, now);
        }
    }

    /// Xorshift. The sequence is the same in every process, which is enough against patterns that
    /// are no attack.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 1
    }

    /// True when a send that took this many milliseconds is slow.
    #[inline]
    pub(in crate::shard) fn is_slow(millis: u64) -> bool {
        millis >= SLOW
    }

    pub(super) fn add(&mut self, measure: Measure, session: (u32, u32), weight: u64, now: Instant) {
        self.turn(now);
        self.now[measure as usize].add(session, weight);
    }

    /// Begins new sketches when the window is over.
    fn turn(&mut self, now: Instant) {
        let passed = now.millis_since(self.begun);
        if passed < WINDOW {
            return;
        }
        std::mem::swap(&mut self.before, &mut self.now);
        self.now.iter_mut().for_each(|sketch| sketch.0.clear());
        self.length = passed;
        if passed >= 2 * WINDOW {
            // Nothing was weighed for a whole window.
            self.before.iter_mut().for_each(|sketch| sketch.0.clear());
            self.length = WINDOW;
        }
        (self.begun, self.drops) = (now, 0);
        for [messages, _] in [&mut self.received, &mut self.sent] {
            *messages = Countdown::new(MESSAGES, FEW);
        }
    }

    /// The heaviest clients by a measure, and how many milliseconds the weights cover.
    pub(in crate::shard) fn heaviest(
        &mut self,
        measure: Measure,
        now: Instant,
    ) -> (Vec<Weighed>, u64) {
        self.turn(now);
        let mut all = Sketch(self.before[measure as usize].0.clone());
        for one in &self.now[measure as usize].0 {
            match all.0.iter_mut().find(|known| known.session == one.session) {
                Some(known) => {
                    known.weight += one.weight;
                    known.error += one.error;
                }
                None => all.0.push(*one),
            }
        }
        all.0.sort_unstable_by_key(|one| (std::cmp::Reverse(one.weight), one.session));
        (all.0, self.length + now.millis_since(self.begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_than_its_share_is_found_among_many() {
        let mut heavy = HeavyHitters::default();
        // 10,000 other clients; every 20th message is of client 7.
        for round in 0..200_000_u32 {
            let session = if round % 20 == 0 { (7, 1) } else { (1000 + round % 10_000, 1) };
            if heavy.received(0x30, 1) {
                heavy.weigh(session, Instant(5));
            }
        }
        let (rows, _) = heavy.heaviest(Measure::MessagesReceived, Instant(5));
        assert_eq!(rows[0].session, (7, 1));
        let (weight, error) = (rows[0].weight, rows[0].error);
        assert!((8_000..13_000).contains(&(weight - error)), "{weight} {error}");
        assert_eq!(rows.len(), PLACES);
    }

    #[test]
    fn few_messages_are_counted_exactly_in_every_window() {
        let mut heavy = HeavyHitters::default();
        let mut packet = |client, first, bytes, at| {
            if heavy.received(first, bytes) {
                heavy.weigh((client, 0), Instant(at));
            }
        };
        for round in 0..300 {
            packet(1, 0x30, 50, 5);
            packet(2, 0x30, 7, 5);
            // A PINGREQ is no message.
            packet(2, 0xC0, 2, 5 + round);
        }
        let of = |heavy: &mut HeavyHitters, measure, at| {
            let (rows, _) = heavy.heaviest(measure, Instant(at));
            rows.iter().map(|one| (one.session.0, one.weight)).collect::<Vec<_>>()
        };
        assert_eq!(of(&mut heavy, Measure::MessagesReceived, 400), [(1, 300), (2, 300)]);
        assert_eq!(of(&mut heavy, Measure::BytesReceived, 400), [(1, 15_000), (2, 2100)]);
        for _ in 0..100_000 {
            if heavy.received(0x30, 1) {
                heavy.weigh((3, 0), Instant(500));
            }
        }
        let all: Vec<_> = of(&mut heavy, Measure::MessagesReceived, 500);
        assert!((90_000..110_000).contains(&all[0].1), "{all:?}");
        // The next window begins with a sample of the one before it.
        let next = 2 * WINDOW + 1000;
        (0..100).for_each(|_| _ = heavy.received(0x30, 1));
        heavy.weigh((3, 0), Instant(next));
        (0..50).for_each(|_| {
            assert!(heavy.received(0x30, 1));
            heavy.weigh((4, 0), Instant(next));
        });
        let all = of(&mut heavy, Measure::MessagesReceived, next);
        assert!(all.contains(&(4, 50)), "{all:?}");
    }

    #[test]
    fn a_regular_pattern_does_not_hide_anybody() {
        let mut heavy = HeavyHitters::default();
        // 64 clients in turn: samples of exactly each 64th message would all be of one client.
        for round in 0..640_000_u32 {
            if heavy.received(0x30, 1) {
                heavy.weigh((round % 64, 0), Instant(5));
            }
        }
        let (rows, _) = heavy.heaviest(Measure::MessagesReceived, Instant(5));
        assert_eq!(rows.len(), 64);
        assert!(rows.iter().all(|row| (5_000..16_000).contains(&row.weight)), "{rows:?}");
    }

    #[test]
    fn bytes_are_weighed_by_bytes_and_not_by_messages() {
        let mut heavy = HeavyHitters::default();
        for round in 0..400_000_u32 {
            let (session, bytes) = if round % 100 == 0 { (1, 90_000) } else { (2, 100) };
            if heavy.sent(bytes) {
                heavy.weigh((session, 0), Instant(5));
            }
        }
        let (rows, _) = heavy.heaviest(Measure::BytesSent, Instant(5));
        assert_eq!(rows[0].session, (1, 0));
        let (rows, _) = heavy.heaviest(Measure::MessagesSent, Instant(5));
        assert_eq!(rows[0].session, (2, 0));
    }

    #[test]
    fn few_drops_are_exact_and_many_are_sampled() {
        let mut heavy = HeavyHitters::default();
        let mut weighed = 0;
        for _ in 0..FEW_DROPS {
            assert_eq!(heavy.dropped(1), Some(1));
        }
        let samples = (0..160_000).filter_map(|_| heavy.dropped(1)).inspect(|one| weighed += one);
        let samples = samples.count();
        assert!((8_000..12_000).contains(&samples), "{samples}");
        assert!((128_000..192_000).contains(&weighed), "{weighed}");
    }

    #[test]
    fn an_error_is_an_upper_bound_and_what_is_old_goes() {
        let mut heavy = HeavyHitters::default();
        for client in 0..PLACES as u32 {
            heavy.add(Measure::Drops, (client, 0), 10, Instant(0));
        }
        heavy.add(Measure::Drops, (9999, 0), 1, Instant(0));
        let (rows, millis) = heavy.heaviest(Measure::Drops, Instant(1000));
        assert_eq!((rows.len(), millis), (PLACES, 1000));
        assert_eq!((rows[0].session, rows[0].weight, rows[0].error), ((9999, 0), 11, 10));
        let (rows, millis) = heavy.heaviest(Measure::Drops, Instant(WINDOW + 1));
        assert_eq!((rows.len(), millis), (PLACES, WINDOW + 1), "kept for another minute");
        let (rows, _) = heavy.heaviest(Measure::Drops, Instant(2 * WINDOW + 2));
        assert!(rows.is_empty());
    }
}
