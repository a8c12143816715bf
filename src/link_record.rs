//! Messages as a link hands them to its bridge: copied out of the shard, one after the other, into
//! a buffer that no shard looks at any more. The same bytes wait in a bridge's memory and on its
//! disk.
//!
//! A record is a header of [`HEADER`] bytes, little-endian, then the topic name, the MQTT 5
//! properties to forward, the payload, and who published it: ClientId, user name, common name of
//! its certificate, as far as the link asked for them; then what its publisher waits by, if it
//! does. Times are milliseconds since 1970, because
//! records outlive the process.

use crate::ids::ShardId;
use crate::packet::Qos;

/// The user property that names the brokers that a message has come over. In CONNECT it names the
/// broker whose bridge connects, and asks for the other's name in CONNACK.
pub const PATH: &str = "bridge-path";
/// A broker's name on paths.
pub fn path_name(instance: u64) -> String {
    format!("{instance:016x}")
}

/// Bytes of a record before its texts.
pub const HEADER: usize = 44;
/// A batch that has so many bytes gets no further record.
pub const BATCH: usize = 64 * 1024;
/// In the place of a time: never.
const NEVER: u64 = u64::MAX;

/// Bytes of a waiter's number.
const NUMBER: usize = 8;

/// A publisher that waits until the other end has its message, as its shard knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// The shard that took the message.
    pub shard: ShardId,
    /// Its number there. No other process of this broker gives the same.
    pub number: u64,
}

/// What has become of a message that a publisher waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkOutcome {
    /// The other end has it, or had it before.
    Delivered,
    /// It found no room, or its bridge has ended.
    Dropped,
    /// The other end does not take it, or its time was over.
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
    /// Its user name; the same.
    pub username: &'a str,
    /// The common name of its certificate; the same.
    pub certificate: &'a str,
    /// Which of the link's filters matches, counted from 0.
    pub filter: u16,
    /// When it was accepted, in milliseconds since 1970.
    pub accepted: u64,
    /// When it expires; the same.
    pub expires: Option<u64>,
    /// The quality of service it was published with.
    pub qos: Qos,
    /// The RETAIN flag of the publication.
    pub retain: bool,
    /// Who waits for it.
    pub waiter: Option<Waiter>,
}

impl<'a> LinkRecord<'a> {
    /// Its length in a batch, in bytes.
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

    /// Appends it. A name that is longer than any MQTT text is left out.
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

    /// The record at the beginning of `bytes`, and what follows it. `None` when there is none, or
    /// the bytes are no record.
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
    /// From bytes that were a batch's; `None` when they are not records all along.
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

    /// Whether a record of that size belongs in here rather than into the next batch.
    pub fn has_room(&self, size: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + size <= BATCH
    }

    /// The publishers that wait for its messages.
    pub fn waiters(&self) -> Vec<Waiter> {
        let (mut waiters, mut at) = (Vec::new(), 0);
        while let Some((record, next)) = self.read(at) {
            waiters.extend(record.waiter);
            at = next;
        }
        waiters
    }

    /// Records in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its records, encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record at byte `at`, and where the next one begins; the first is at 0. `None` at the
    /// end.
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
