//! Records: what the lanes between two nodes carry.
//!
//! A filter is told with its number at the node that has it, so that it can be taken back by the
//! number alone; what is said of a number replaces what was said of it before, so that telling
//! everything again makes no gap. Times are those of the sender's clock ([`super::clock`]).

use super::lane::Malformed;
use crate::limits::{CLUSTER_FILTERS, MAX_TOPIC_LEVELS};
use crate::message::MessageRef;
use crate::packet::{PublishProperties, Qos};
use crate::time::Instant;
use crate::topic;

const MESSAGE: u8 = 1;
const FILTER: u8 = 2;
const NO_FILTER: u8 = 3;
const ALL_FILTERS: u8 = 4;

const RETAIN: u8 = 4;
const EXPIRES: u8 = 8;
const UNKNOWN: u8 = !(3 | RETAIN | EXPIRES);

/// What one node tells another.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A publication, for the subscribers at the receiver. Its expiry is by the sender's clock.
    Message(MessageRef<'a>),
    /// Some client of the sender wants this; the number is the filter's.
    Filter(u32, &'a str),
    /// Nobody wants what was told with that number.
    NoFilter(u32),
    /// All filters below that number have been told, and there are none from it on: the end of that
    /// snapshot.
    AllFilters(u32, u32),
}

impl<'a> Record<'a> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match *self {
            Record::Message(message) => write_message(&message, out),
            Record::Filter(number, filter) => {
                out.push(FILTER);
                out.extend_from_slice(&number.to_le_bytes());
                out.extend_from_slice(filter.as_bytes());
            }
            Record::NoFilter(number) => {
                out.push(NO_FILTER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Record::AllFilters(end, snapshot) => {
                out.push(ALL_FILTERS);
                out.extend_from_slice(&end.to_le_bytes());
                out.extend_from_slice(&snapshot.to_le_bytes());
            }
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or says what no node may say.
    pub fn read(bytes: &'a [u8]) -> Result<Record<'a>, Malformed> {
        let (&kind, body) = bytes.split_first().ok_or(Malformed)?;
        match kind {
            MESSAGE => Ok(Record::Message(read_message(body)?)),
            FILTER => {
                let (number, text) = number(body)?;
                let text = str::from_utf8(text).map_err(|_| Malformed)?;
                let shared = topic::parse_share(text).is_some();
                let ours = topic::valid_filter(text) && !shared && !text.starts_with("$SYS/");
                if !ours || topic::levels(text) > MAX_TOPIC_LEVELS {
                    return Err(Malformed);
                }
                Ok(Record::Filter(below(number)?, text))
            }
            NO_FILTER => match number(body)? {
                (number, []) => Ok(Record::NoFilter(below(number)?)),
                _ => Err(Malformed),
            },
            ALL_FILTERS => {
                let (end, rest) = number(body)?;
                match number(rest)? {
                    (snapshot, []) if end as usize <= CLUSTER_FILTERS => {
                        Ok(Record::AllFilters(end, snapshot))
                    }
                    _ => Err(Malformed),
                }
            }
            _ => Err(Malformed),
        }
    }
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*number), rest))
}

fn below(number: u32) -> Result<u32, Malformed> {
    if (number as usize) < CLUSTER_FILTERS { Ok(number) } else { Err(Malformed) }
}

fn write_message(message: &MessageRef<'_>, out: &mut Vec<u8>) {
    let flags = message.qos as u8
        | if message.retain { RETAIN } else { 0 }
        | if message.expires.is_some() { EXPIRES } else { 0 };
    out.extend_from_slice(&[MESSAGE, flags]);
    if let Some(at) = message.expires {
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    out.extend_from_slice(&(message.topic.len() as u16).to_le_bytes());
    out.extend_from_slice(&(message.properties.len() as u32).to_le_bytes());
    out.extend_from_slice(message.topic.as_bytes());
    out.extend_from_slice(message.properties);
    out.extend_from_slice(message.payload);
}

fn read_message(body: &[u8]) -> Result<MessageRef<'_>, Malformed> {
    let (&flags, body) = body.split_first().ok_or(Malformed)?;
    if flags & UNKNOWN != 0 {
        return Err(Malformed);
    }
    let (expires, body) = match flags & EXPIRES {
        0 => (None, body),
        _ => {
            let (at, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
            (Some(Instant(u64::from_le_bytes(*at))), body)
        }
    };
    let (length, body) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let (properties, body) = number(body)?;
    let topic = usize::from(u16::from_le_bytes(*length));
    let (topic, body) = body.split_at_checked(topic).ok_or(Malformed)?;
    let (properties, payload) = body.split_at_checked(properties as usize).ok_or(Malformed)?;
    let topic = str::from_utf8(topic).map_err(|_| Malformed)?;
    if !topic::valid_name(topic)
        || topic.starts_with("$SYS/")
        || topic::levels(topic) > MAX_TOPIC_LEVELS
        || !is_forwardable(properties)
    {
        return Err(Malformed);
    }
    Ok(MessageRef {
        topic,
        properties,
        payload,
        qos: Qos::from_u8(flags & 3).ok_or(Malformed)?,
        retain: flags & RETAIN != 0,
        expires,
        publisher: None,
    })
}

/// Whether these are properties that go to subscribers as they are.
fn is_forwardable(properties: &[u8]) -> bool {
    properties.is_empty()
        || PublishProperties::parse(properties).is_ok_and(|parsed| parsed.is_forwardable_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message() -> MessageRef<'static> {
        MessageRef {
            topic: "a/b",
            properties: &[1, 1],
            payload: b"hello",
            qos: Qos::ExactlyOnce,
            retain: true,
            expires: Some(Instant(7000)),
            publisher: None,
        }
    }

    fn written(record: Record<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.write(&mut bytes);
        bytes
    }

    #[test]
    fn records_come_back_as_they_were_written() {
        for record in [
            Record::Message(message()),
            Record::Message(MessageRef { expires: None, payload: b"", ..message() }),
            Record::Filter(7, "a/+/#"),
            Record::NoFilter(0),
            Record::AllFilters(CLUSTER_FILTERS as u32, 3),
        ] {
            let bytes = written(record);
            let read = Record::read(&bytes).unwrap();
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
        }
    }

    #[test]
    fn what_no_node_may_say_is_malformed() {
        let deep = "a/".repeat(MAX_TOPIC_LEVELS);
        for record in [
            Record::Message(MessageRef { topic: "", ..message() }),
            Record::Message(MessageRef { topic: "a/#", ..message() }),
            Record::Message(MessageRef { topic: "$SYS/broker/uptime", ..message() }),
            Record::Message(MessageRef { topic: &deep, ..message() }),
            // A Topic Alias is between a client and its broker; the second is cut short.
            Record::Message(MessageRef { properties: &[35, 0, 1], ..message() }),
            Record::Message(MessageRef { properties: &[1], ..message() }),
            Record::Filter(1, "a/#/b"),
            Record::Filter(1, "$SYS/#"),
            Record::Filter(1, "$share/g/a"),
            Record::Filter(1, &deep),
            Record::Filter(CLUSTER_FILTERS as u32, "a"),
            Record::NoFilter(u32::MAX),
            Record::AllFilters(CLUSTER_FILTERS as u32 + 1, 0),
        ] {
            assert!(Record::read(&written(record)).is_err(), "{record:?}");
        }
        let mut flags = written(Record::Message(message()));
        flags[1] = 3;
        assert!(Record::read(&flags).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            kind in 0..6u8,
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [&[kind], &bytes[..]].concat();
            if let Ok(record) = Record::read(&bytes) {
                prop_assert_eq!(written(record), bytes);
            }
        }
    }
}
