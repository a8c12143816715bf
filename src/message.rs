//! The Application Message, which is what the broker routes. A packet, in contrast, is what one hop
//! carries.
//!
//! Owns [`MessageRef`], the borrowed form that the routing path uses directly on a receive buffer;
//! [`Message`], the stored form (one allocation with an 8-byte handle, shared by all queues and
//! shards that hold the message); and [`Batch`], many messages in one buffer, which is the mail
//! between shards. It does not know the packets of a protocol version, sessions or subscriptions.

use crate::ids::{ClientKey, Publisher, ShardId};
use crate::packet::Qos;
use crate::time::Instant;
use std::num::NonZeroU64;
use std::ops::Range;
use triomphe::ThinArc;

/// A message that is being routed. It borrows its bytes from wherever they are.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    /// Topic name, mountpoint included.
    pub topic: &'a str,
    /// MQTT 5 properties to forward unaltered, encoded, without their length [MQTT-3.3.2-17].
    pub properties: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
    /// The quality of service it was published with.
    pub qos: Qos,
    /// The RETAIN flag of the publication.
    pub retain: bool,
    /// When the message expires; `None` for never.
    pub expires: Option<Instant>,
    /// The client that published it. Needed for No Local [MQTT-3.8.3-3], and to apply backpressure
    /// to a fast publisher.
    pub publisher: Option<Publisher>,
}

impl MessageRef<'_> {
    /// The remaining lifetime at `now` in seconds, rounded, at least 1. `Err` when the message has
    /// expired, `Ok(None)` when it never does. This is the received value minus the time that the
    /// message has waited [MQTT-3.3.2-6]. It is not rounded up: the time is counted from the step
    /// of the publisher's shard, and on a shard whose step began a little earlier the result could
    /// exceed the received value.
    pub fn seconds_left(&self, now: Instant) -> Result<Option<u32>, Expired> {
        match self.expires {
            None => Ok(None),
            Some(deadline) if deadline <= now => Err(Expired),
            Some(deadline) => {
                let seconds = (deadline.millis_since(now) + 500 - 1) / 1000;
                Ok(Some(seconds.clamp(1, u64::from(u32::MAX)) as u32))
            }
        }
    }

    /// The number of bytes that the message takes when it is stored or queued.
    pub fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }

    fn head(&self) -> MessageHead {
        MessageHead {
            expires: self.expires.map_or(u64::MAX, |at| at.0),
            client: self.publisher.map(|publisher| publisher.client),
            topic: self.topic.len() as u32,
            properties: self.properties.len() as u32,
            payload: self.payload.len() as u32,
            shard: self.publisher.map_or(ShardId(0), |publisher| publisher.shard),
            qos: self.qos,
            retain: self.retain,
        }
    }
}

/// When a message expires that is received at `now` with a Message Expiry Interval of `seconds`. An
/// interval of 0 means that it has expired already, also on shards whose step began earlier.
pub fn expiry(now: Instant, seconds: u32) -> Instant {
    if seconds == 0 { Instant(0) } else { now.plus_seconds(seconds) }
}

/// The lifetime of the message is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired;

#[derive(Clone, Copy, Debug)]
struct MessageHead {
    expires: u64,
    client: Option<ClientKey>,
    topic: u32,
    properties: u32,
    payload: u32,
    /// The publisher's home shard. Meaningless without a client.
    shard: ShardId,
    qos: Qos,
    retain: bool,
}

// The overhead of every stored message.
const _: () = assert!(size_of::<MessageHead>() <= 32);

impl MessageHead {
    fn len(&self) -> usize {
        self.topic as usize + self.properties as usize + self.payload as usize
    }

    fn view<'a>(&self, bytes: &'a [u8]) -> MessageRef<'a> {
        let (topic, rest) = bytes.split_at(self.topic as usize);
        let (properties, payload) = rest.split_at(self.properties as usize);
        MessageRef {
            topic: std::str::from_utf8(topic).expect("written from a str"),
            properties,
            payload,
            qos: self.qos,
            retain: self.retain,
            expires: (self.expires != u64::MAX).then_some(Instant(self.expires)),
            publisher: self.client.map(|client| Publisher { client, shard: self.shard }),
        }
    }
}

/// A stored message: immutable, reference-counted across shards.
#[derive(Clone, Debug)]
pub struct Message(ThinArc<MessageHead, u8>);

const _: () = assert!(size_of::<Option<Message>>() == 8);

impl Message {
    /// Stores a copy of `message`. `scratch` is working memory that the caller reuses.
    pub fn new(message: &MessageRef<'_>, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        scratch.reserve(message.size());
        scratch.extend_from_slice(message.topic.as_bytes());
        scratch.extend_from_slice(message.properties);
        scratch.extend_from_slice(message.payload);
        let stored = Message(ThinArc::from_header_and_slice(message.head(), scratch));
        // A single huge message must not leave a huge scratch buffer behind.
        scratch.clear();
        scratch.shrink_to(64 * 1024);
        stored
    }

    /// The message, borrowed.
    pub fn view(&self) -> MessageRef<'_> {
        self.0.header.header.view(&self.0.slice)
    }

    /// Topic, properties and payload in bytes.
    pub fn size(&self) -> usize {
        self.0.slice.len()
    }

    /// The address of the stored message. All handles of one message have the same address, and no
    /// other message has it while one of them exists.
    pub fn address(&self) -> usize {
        std::ptr::from_ref(&self.0.header.header).addr()
    }

    /// The number of handles of the stored message. Only checks use it.
    pub fn handles(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }

    /// When the message expires; `None` for never.
    pub fn expires(&self) -> Option<Instant> {
        let at = self.0.header.header.expires;
        (at != u64::MAX).then_some(Instant(at))
    }

    /// The bytes that [`Message::payload_range`] points into.
    pub fn bytes(&self) -> &[u8] {
        &self.0.slice
    }

    /// Where in [`Message::bytes`] the payload is.
    pub fn payload_range(&self) -> Range<usize> {
        let head = &self.0.header.header;
        head.topic as usize + head.properties as usize..self.0.slice.len()
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// What a shard has to do with a message that another shard has sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MailPurpose {
    /// Deliver it to the subscriptions of that shard.
    pub deliver: bool,
    /// Store (or clear) it as the retained message of its topic, whose home is that shard.
    pub retain: Retain,
    /// The work that the sender has reserved for the message. The receiver reports its cost, so
    /// that the reserve can be released.
    pub reserve: Reserve,
}

/// The accounts for which a retained message counts ([`crate::overload::accounts`]), by number:
/// that of its publisher's listener, and that of the publisher's entry in `limits.users`. 0 stands
/// for no account.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Accounts([u32; 2]);

impl Accounts {
    /// No account.
    pub const NONE: Accounts = Accounts([0; 2]);

    /// The account of the listener, and that of the entry in `limits.users`.
    pub fn new(numbers: [u32; 2]) -> Self {
        Accounts(numbers)
    }

    /// Both accounts in one number; 0 for none.
    pub fn packed(self) -> u64 {
        let [listener, entry] = self.0;
        u64::from(listener) | u64::from(entry) << 32
    }

    /// The accounts of a number that [`Accounts::packed`] has returned.
    pub fn unpacked(packed: u64) -> Self {
        Accounts([packed as u32, (packed >> 32) as u32])
    }

    /// True when there is no account.
    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == [0; 2]
    }

    /// The numbers of the accounts, without those that are 0.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        self.0.into_iter().filter(|&number| number != 0)
    }

    /// Only the accounts whose number is `wanted`.
    pub fn only(self, wanted: impl Fn(u32) -> bool) -> Self {
        Accounts(self.0.map(|number| if wanted(number) { number } else { 0 }))
    }
}

/// Whether a message is kept as the retained message of its topic. On a node of a cluster it also
/// has a stamp: of two messages of a topic, the one with the newer stamp is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Retain {
    stamp: u64,
    /// The accounts for which the message counts.
    pub accounts: Accounts,
}

impl Retain {
    /// The message is not retained.
    pub const NONE: Retain = Retain { stamp: 0, accounts: Accounts::NONE };
    /// The message is retained, and replaces what was retained before.
    pub const PLAIN: Retain = Retain { stamp: 1, accounts: Accounts::NONE };
    /// The oldest stamp.
    pub const OLDEST: u64 = 2;
    /// The newest stamp. In microseconds since 1970 it is in the year 4253.
    pub const NEWEST: u64 = 1 << 56;

    /// The message is retained, unless the retained message of its topic has a newer stamp.
    pub fn stamped(stamp: u64) -> Self {
        Retain { stamp: stamp.clamp(Retain::OLDEST, Retain::NEWEST), ..Retain::NONE }
    }

    /// The same decision, for these accounts.
    #[inline]
    pub fn on(self, accounts: Accounts) -> Self {
        Retain { accounts, ..self }
    }

    /// The stamp, if there is one.
    pub fn stamp(self) -> Option<u64> {
        (self.stamp >= Retain::OLDEST).then_some(self.stamp)
    }

    /// Whether the message is retained.
    #[inline]
    pub fn is_kept(self) -> bool {
        self.stamp != 0
    }
}

/// Work that is reserved for a message, in the units of [`crate::limits::cost`]: a power of two, or
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reserve(u8);

impl Reserve {
    /// Nothing.
    pub const NONE: Reserve = Reserve(0);

    /// At least `units`, but at most 2^31.
    pub fn of(units: u32) -> Self {
        Reserve(units.clamp(1, 1 << 31).next_power_of_two().ilog2() as u8 + 1)
    }

    /// The reserved work.
    pub fn units(self) -> u64 {
        1 << self.0 >> 1
    }
}

/// Messages copied one after the other into one buffer, so that a message that crosses between
/// cores costs neither an allocation nor a reference count of its own.
#[derive(Default, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

/// The encoded length of a batch record's header in bytes.
const RECORD: usize = 32;

impl Batch {
    /// An empty batch that reuses the allocation of `bytes`.
    pub fn reuse(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Batch { bytes, count: 0 }
    }

    /// Makes room for so many bytes.
    pub fn make_room(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Returns the allocation for reuse.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// True when it holds no message.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of messages in the batch.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The number of bytes in the batch.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a copy of `message`.
    pub fn push(&mut self, message: &MessageRef<'_>, purpose: MailPurpose) {
        let head = message.head();
        let client = head.client.map_or(0, |client| client.0.get());
        let mut record = [0u8; RECORD];
        record[0..8].copy_from_slice(&head.expires.to_le_bytes());
        record[8..16].copy_from_slice(&client.to_le_bytes());
        record[16..20].copy_from_slice(&head.properties.to_le_bytes());
        record[20..24].copy_from_slice(&head.payload.to_le_bytes());
        record[24..28].copy_from_slice(&head.topic.to_le_bytes());
        record[28] = head.shard.0;
        record[29] = head.qos as u8;
        let stamp = purpose.retain.stamp();
        record[30] = u8::from(head.retain)
            | u8::from(purpose.deliver) << 1
            | u8::from(purpose.retain.is_kept()) << 2
            | u8::from(stamp.is_some()) << 3
            | u8::from(!purpose.retain.accounts.is_none()) << 4;
        record[31] = purpose.reserve.0;
        self.bytes.reserve(RECORD + head.len());
        self.bytes.extend_from_slice(&record);
        self.bytes.extend_from_slice(message.topic.as_bytes());
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(message.payload);
        if let Some(stamp) = stamp {
            self.bytes.extend_from_slice(&stamp.to_le_bytes());
        }
        if !purpose.retain.accounts.is_none() {
            self.bytes.extend_from_slice(&purpose.retain.accounts.packed().to_le_bytes());
        }
        self.count += 1;
    }

    /// The message at byte `at`, and the position of the next one. The first message is at 0, each
    /// further one at the position that the previous call returned. `None` at the end.
    pub fn read(&self, at: usize) -> Option<(MessageRef<'_>, MailPurpose, usize)> {
        let (record, tail) = self.bytes.get(at..)?.split_first_chunk::<RECORD>()?;
        let (head, mut purpose) = parse_record(record);
        let body = tail.get(..head.len())?;
        let mut next = at + RECORD + body.len();
        let mut long = || {
            let bytes = self.bytes.get(next..)?.first_chunk::<8>()?;
            next += 8;
            Some(u64::from_le_bytes(*bytes))
        };
        if record[30] & 8 != 0 {
            purpose.retain = Retain::stamped(long()?);
        }
        if record[30] & 16 != 0 {
            purpose.retain = purpose.retain.on(Accounts::unpacked(long()?));
        }
        Some((head.view(body), purpose, next))
    }
}

fn parse_record(record: &[u8; RECORD]) -> (MessageHead, MailPurpose) {
    let word = |at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let head = MessageHead {
        expires: long(0),
        client: NonZeroU64::new(long(8)).map(ClientKey),
        topic: word(24),
        properties: word(16),
        payload: word(20),
        shard: ShardId(record[28]),
        qos: match record[29] {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        },
        retain: record[30] & 1 != 0,
    };
    let retain = if record[30] & 4 != 0 { Retain::PLAIN } else { Retain::NONE };
    let purpose =
        MailPurpose { deliver: record[30] & 2 != 0, retain, reserve: Reserve(record[31]) };
    (head, purpose)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>() -> MessageRef<'a> {
        MessageRef {
            topic: "a/b",
            properties: &[1, 1],
            payload: b"hello",
            qos: Qos::ExactlyOnce,
            retain: true,
            expires: Some(Instant(7000)),
            publisher: Some(Publisher { client: ClientKey::new(1 << 60 | 9), shard: ShardId(3) }),
        }
    }

    #[test]
    fn a_reserve_is_at_least_what_was_asked_for_and_less_than_twice_that() {
        assert_eq!((Reserve::NONE.units(), Reserve::of(0).units()), (0, 1));
        for units in [1, 2, 3, 700, 1 << 20, (1 << 31) - 1, 1 << 31, u32::MAX] {
            let reserved = Reserve::of(units).units();
            let asked = u64::from(units).min(1 << 31);
            assert!(reserved >= asked && reserved < 2 * asked, "{units}: {reserved}");
        }
    }

    #[test]
    fn a_stored_message_and_a_batched_one_come_back_as_they_were() {
        let stored = Message::new(&sample(), &mut Vec::new());
        assert_eq!(format!("{:?}", stored.view()), format!("{:?}", sample()));
        assert_eq!(&stored.bytes()[stored.payload_range()], b"hello");
        let mut batch = Batch::default();
        let purpose =
            MailPurpose { deliver: true, retain: Retain::NONE, reserve: Reserve::of(700) };
        batch.push(&sample(), purpose);
        let plain = MessageRef { publisher: None, expires: None, payload: b"", ..sample() };
        let kept = |retain| MailPurpose { deliver: false, retain, reserve: Reserve::NONE };
        batch.push(&plain, kept(Retain::stamped(1 << 50)));
        batch.push(&plain, kept(Retain::PLAIN));
        let accounts = Accounts::new([7, u32::MAX]);
        batch.push(&plain, kept(Retain::stamped(1 << 50).on(accounts)));
        batch.push(&plain, kept(Retain::PLAIN.on(accounts)));
        let (first, to_first, next) = batch.read(0).unwrap();
        assert_eq!(format!("{:?}", (first, to_first)), format!("{:?}", (sample(), purpose)));
        let (second, to_second, next) = batch.read(next).unwrap();
        assert_eq!(format!("{second:?}"), format!("{plain:?}"));
        assert_eq!(to_second, kept(Retain::stamped(1 << 50)));
        let (third, to_third, mut end) = batch.read(next).unwrap();
        assert_eq!(format!("{third:?}"), format!("{plain:?}"));
        assert_eq!(to_third, kept(Retain::PLAIN));
        for retain in [Retain::stamped(1 << 50).on(accounts), Retain::PLAIN.on(accounts)] {
            let (message, to, next) = batch.read(end).unwrap();
            assert_eq!(format!("{message:?}"), format!("{plain:?}"));
            assert_eq!(to, kept(retain));
            end = next;
        }
        assert_eq!(end, batch.len());
        assert!(batch.read(end).is_none());
    }

    #[test]
    fn seconds_left_count_down_and_end() {
        let message = sample();
        assert_eq!(message.seconds_left(Instant(0)), Ok(Some(7)));
        assert_eq!(message.seconds_left(Instant(499)), Ok(Some(7)));
        assert_eq!(message.seconds_left(Instant(501)), Ok(Some(6)));
        assert_eq!(message.seconds_left(Instant(6001)), Ok(Some(1)));
        assert_eq!(message.seconds_left(Instant(6999)), Ok(Some(1)));
        assert_eq!(message.seconds_left(Instant(7000)), Err(Expired));
    }

    /// [MQTT-3.3.2-6] on a shard whose step is older than the step that received the message.
    #[test]
    fn no_shard_says_more_seconds_than_were_received() {
        for seconds in [0, 1, 2, 3600, u32::MAX] {
            for skew in [0, 1, 64, 499] {
                let received = Instant(10_000);
                let expires = Some(expiry(received, seconds));
                let message = MessageRef { expires, ..sample() };
                let left = message.seconds_left(Instant(10_000 - skew));
                let expected = if seconds == 0 { Err(Expired) } else { Ok(Some(seconds)) };
                assert_eq!(left, expected, "{seconds} s, {skew} ms");
            }
        }
    }
}
