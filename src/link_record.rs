//! The messages that a link hands to its bridge. They are copied out of the shard, one after the
//! other, into a buffer that no shard uses any more. The same bytes wait in a bridge's memory and
//! on its disk. Pure: owns the format only.
//!
//! A record is a header of [`HEADER`] bytes, little-endian, followed by the topic name, the MQTT 5
//! properties to forward, the payload, and who published the message: ClientId, user name and
//! common name of the certificate, as far as the link asked for them. If the publisher waits until
//! the other end has the message, the number of its [`Waiter`] comes last. Times are milliseconds
//! since 1970, because records outlive the process.

use crate::ids::ShardId;
use crate::packet::Qos;

/// The user property that names the brokers over which a message has come. In CONNECT it names the
/// broker whose bridge connects, and asks for the name of the other broker in CONNACK.
pub const PATH: &str = "bridge-path";
/// The name by which `instance` appears in such a property.
pub fn path_name(instance: u64) -> String {
    format!("{instance:016x}")
}

/// The length in bytes of a record's header, which comes before its texts.
pub const HEADER: usize = 44;
/// A batch with this many bytes gets no further record.
pub const BATCH: usize = 64 * 1024;
/// This value in the place of a time means "never".
const NEVER: u64 = u64::MAX;

/// The length in bytes of a waiter's number.
const NUMBER: usize = 8;

/// A publisher that waits until the other end of a bridge has its message, as its shard knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// The shard that took the message.
    pub shard: ShardId,
    /// The number that this shard has given the waiter. No other process of this broker gives the
    /// same number.
    pub number: u64,
}

/// What has become of a message that a publisher waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkOutcome {
    /// The other end has the message, or had it before.
    Delivered,
    /// There was no room for the message, or its bridge has ended.
    Dropped,
    /// The other end does not accept the message, or the message has expired.
    Refused,
}

/// A message of a link, borrowed from its batch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkRecord<'a> {
    /// Topic name, mountpoint included.
    pub topic: &'a str,
    /// MQTT 5 properties to forward unaltered, encoded, without their length.
    pub properties: &'a [u8],
    /// Application payload.
    pub payload: &'a [u8],
    /// The ClientId of the publisher; empty when there is none or the link did not ask.
    pub client_id: &'a str,
    /// The publisher's user name; empty when there is none or the link did not ask.
    pub username: &'a str,
    /// The common name of the publisher's certificate; empty when there is none or the link did not
    /// ask.
    pub certificate: &'a str,
    /// The link's filter that matches, counted from 0.
    pub filter: u16,
    /// When the message was accepted, in milliseconds since 1970.
    pub accepted: u64,
    /// When the message expires, in milliseconds since 1970; `None` for never.
    pub expires: Option<u64>,
    /// The quality of service it was published with.
    pub qos: Qos,
    /// The RETAIN flag of the publication.
    pub retain: bool,
    /// The publisher that waits until the other end has the message, if it does.
    pub waiter: Option<Waiter>,
}

impl<'a> LinkRecord<'a> {
    /// The length of the record in a batch, in bytes.
    pub fn size(&self) -> usize {
        HEADER
            + self.topic.len()
            + self.properties.len()
            + self.payload.len()
            + self.client_id.len()
            + self.username.len()
            + self.certificate.len()
            + if self.waiter.is_some() { NUMBER } else { 0 }
    }

    /// Appends the record. A name that is longer than any MQTT text is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        let short = |text: &'a str| if text.len() > usize::from(u16::MAX) { "" } else { text };
        let [client_id, username, certificate] =
            [self.client_id, self.username, self.certificate].map(short);
        let record = LinkRecord { client_id, username, certificate, ..*self };
        out.reserve(record.size());
        for long in [record.size(), self.topic.len(), self.properties.len(), self.payload.len()] {
            out.extend_from_slice(&(long as u32).to_le_bytes());
        }
        for text in [client_id, username, certificate] {
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
        }
        out.extend_from_slice(&self.filter.to_le_bytes());
        out.extend_from_slice(&self.accepted.to_le_bytes());
        out.extend_from_slice(&self.expires.unwrap_or(NEVER).to_le_bytes());
        let shard = self.waiter.map_or(0, |waiter| waiter.shard.0);
        out.extend_from_slice(&[self.qos as u8, u8::from(self.retain), shard, 0]);
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.properties);
        out.extend_from_slice(self.payload);
        for text in [client_id, username, certificate] {
            out.extend_from_slice(text.as_bytes());
        }
        if let Some(waiter) = self.waiter {
            out.extend_from_slice(&waiter.number.to_le_bytes());
        }
    }

    /// The record at the beginning of `bytes`, and the bytes after it. `None` when the bytes do not
    /// begin with a whole record.
    pub fn read(bytes: &'a [u8]) -> Option<(LinkRecord<'a>, &'a [u8])> {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let two = |at: usize| head.get(at..)?.first_chunk::<2>();
        let short = |at: usize| two(at).map_or(0, |two| usize::from(u16::from_le_bytes(*two)));
        let word = |at: usize| u32::from(short(at) as u16) | u32::from(short(at + 2) as u16) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let [.., qos, retain, shard, _] = *head;
        let body = bytes.get(HEADER..word(0) as usize)?;
        let rest = bytes.get(word(0) as usize..)?;
        let (topic, body) = body.split_at_checked(word(4) as usize)?;
        let (properties, body) = body.split_at_checked(word(8) as usize)?;
        let (payload, body) = body.split_at_checked(word(12) as usize)?;
        let (client_id, body) = body.split_at_checked(short(16))?;
        let (username, body) = body.split_at_checked(short(18))?;
        let (certificate, body) = body.split_at_checked(short(20))?;
        let waiter = match body.split_first_chunk::<NUMBER>() {
            None if body.is_empty() => None,
            Some((number, [])) => {
                Some(Waiter { shard: ShardId(shard), number: u64::from_le_bytes(*number) })
            }
            _ => return None,
        };
        let record = LinkRecord {
            topic: str::from_utf8(topic).ok()?,
            properties,
            payload,
            client_id: str::from_utf8(client_id).ok()?,
            username: str::from_utf8(username).ok()?,
            certificate: str::from_utf8(certificate).ok()?,
            filter: short(22) as u16,
            accepted: long(24),
            expires: Some(long(32)).filter(|&at| at != NEVER),
            qos: Qos::from_u8(qos)?,
            retain: retain != 0,
            waiter,
        };
        Some((record, rest))
    }
}

/// Records one after the other.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LinkBatch {
    bytes: Vec<u8>,
    count: u32,
}

impl LinkBatch {
    /// A batch from the bytes of one. `None` when the bytes are not a sequence of whole records.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<LinkBatch> {
        let (mut rest, mut count) = (&bytes[..], 0);
        while !rest.is_empty() {
            (_, rest) = LinkRecord::read(rest)?;
            count += 1;
        }
        Some(LinkBatch { bytes, count })
    }

    /// Appends a record.
    pub fn push(&mut self, record: &LinkRecord<'_>) {
        record.write(&mut self.bytes);
        self.count += 1;
    }

    /// Whether a record of `size` bytes belongs in this batch rather than in the next one.
    pub fn has_room(&self, size: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + size <= BATCH
    }

    /// The publishers that wait for messages of this batch.
    pub fn waiters(&self) -> Vec<Waiter> {
        let (mut waiters, mut at) = (Vec::new(), 0);
        while let Some((record, next)) = self.read(at) {
            waiters.extend(record.waiter);
            at = next;
        }
        waiters
    }

    /// The number of records in the batch.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The records, encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record at byte `at`, and the position of the next one. The first record is at 0. `None`
    /// at the end.
    pub fn read(&self, at: usize) -> Option<(LinkRecord<'_>, usize)> {
        let (record, rest) = LinkRecord::read(self.bytes.get(at..)?)?;
        Some((record, self.bytes.len() - rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> LinkRecord<'static> {
        LinkRecord {
            topic: "a/b",
            properties: &[1, 1],
            payload: b"hello",
            client_id: "device-7",
            username: "fleet",
            certificate: "",
            filter: 3,
            accepted: 1_700_000_000_123,
            expires: Some(1_700_000_060_000),
            qos: Qos::AtLeastOnce,
            retain: true,
            waiter: None,
        }
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        let plain = LinkRecord { client_id: "", username: "", expires: None, ..sample() };
        let mut batch = LinkBatch::default();
        let waiter = Waiter { shard: ShardId(3), number: 1 << 57 };
        let plain = LinkRecord { waiter: Some(waiter), ..plain };
        batch.push(&sample());
        batch.push(&plain);
        assert_eq!(batch.waiters(), [waiter]);
        let (first, next) = batch.read(0).unwrap();
        let (second, end) = batch.read(next).unwrap();
        assert_eq!((first, second, next), (sample(), plain, sample().size()));
        assert!(batch.read(end).is_none());
        assert_eq!(LinkBatch::from_bytes(batch.bytes().to_vec()), Some(batch));
    }

    #[test]
    fn bytes_that_end_early_are_no_batch() {
        let mut batch = LinkBatch::default();
        batch.push(&sample());
        for cut in 1..batch.bytes().len() {
            assert!(LinkBatch::from_bytes(batch.bytes()[..cut].to_vec()).is_none(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(batch) = LinkBatch::from_bytes(bytes.clone()) {
                prop_assert_eq!(batch.bytes(), &bytes[..]);
            }
        }
    }
}
