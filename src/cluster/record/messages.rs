//! Publications in records.

use super::{PassedRef, check_filter, number};
use crate::cluster::lane::Malformed;
use crate::limits::{CLUSTER_HOPS, MAX_TOPIC_LEVELS};
use crate::mesh::mail::PassedFor;
use crate::message::{MessageRef, Retain};
use crate::packet::{PublishProperties, Qos};
use crate::time::Instant;
use crate::topic;

const RETAIN: u8 = 4;
const EXPIRES: u8 = 8;
const UNKNOWN: u8 = !(3 | RETAIN | EXPIRES);

#[inline]
pub(super) fn write_message(message: &MessageRef<'_>, out: &mut Vec<u8>) {
    let flags = message.qos as u8
        | if message.retain { RETAIN } else { 0 }
        | if message.expires.is_some() { EXPIRES } else { 0 };
    // Once for all that follows.
    out.reserve(16 + message.topic.len() + message.properties.len() + message.payload.len());
    out.push(flags);
    if let Some(at) = message.expires {
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    out.extend_from_slice(&(message.topic.len() as u16).to_le_bytes());
    out.extend_from_slice(&(message.properties.len() as u32).to_le_bytes());
    out.extend_from_slice(message.topic.as_bytes());
    out.extend_from_slice(message.properties);
    out.extend_from_slice(message.payload);
}

pub(super) fn read_stamped(body: &[u8]) -> Result<(u64, MessageRef<'_>), Malformed> {
    let (stamp, body) = body.split_first_chunk::<8>().ok_or(Malformed)?;
    let (stamp, message) = (u64::from_le_bytes(*stamp), read_message(body)?);
    let sound = (Retain::OLDEST..=Retain::NEWEST).contains(&stamp) && message.retain;
    if sound { Ok((stamp, message)) } else { Err(Malformed) }
}

#[inline]
pub(super) fn read_message(body: &[u8]) -> Result<MessageRef<'_>, Malformed> {
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

/// Whether `properties` may be forwarded to subscribers unchanged.
fn is_forwardable(properties: &[u8]) -> bool {
    properties.is_empty()
        || PublishProperties::parse(properties).is_ok_and(|parsed| parsed.is_forwardable_raw())
}

pub(super) fn read_passed(body: &[u8]) -> Result<PassedRef<'_>, Malformed> {
    let (&[asks, hops], body) = body.split_first_chunk::<2>().ok_or(Malformed)?;
    let asks = *PassedFor::ALL.get(usize::from(asks)).ok_or(Malformed)?;
    let (length, body) = number(body)?;
    let (name, body) = body.split_at_checked(length as usize).ok_or(Malformed)?;
    let name = str::from_utf8(name).map_err(|_| Malformed)?;
    let share = topic::parse_share(name).ok_or(Malformed)?.map_err(|()| Malformed)?;
    check_filter(share.filter)?;
    if hops > CLUSTER_HOPS + 1 {
        return Err(Malformed);
    }
    Ok(PassedRef { asks, hops, name, message: read_message(body)? })
}
