//! PUBLISH (MQTT 5.0 section 3.3), in both directions. This is the hot path of the codec.

use super::cursor::Cursor;
use super::encode::{
    Encoded, NotEncodable, length_of, put_u16, put_u32, put_varint, varint, varint_size,
};
use super::properties::{
    self, MESSAGE_EXPIRY, PublishProperties, SUBSCRIPTION_ID, TOPIC_ALIAS, put_varint_property,
};
use super::{Packet, PacketId, Qos, Version, Violation};
use crate::limits::{MAX_REMAINING_LENGTH, MAX_TOPIC_LENGTH};

/// A PUBLISH that was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// True when the packet may be a re-delivery. Never true with QoS 0.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// From a client: the message is to be retained. From a server: it was retained.
    pub retain: bool,
    /// The topic name, without wildcards. Empty only in version 5, together with a topic alias.
    pub topic: &'a str,
    /// Present exactly when the QoS is above 0 [MQTT-2.2.1-2].
    pub id: Option<PacketId>,
    /// The properties. Empty for version 3.
    pub properties: PublishProperties<'a>,
    /// The payload of the Application Message. It may be empty.
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// False when the Payload Format Indicator says that the payload is UTF-8 and it is not. Such a
    /// packet is well-formed, so it can be answered with reason code 0x99 (section 3.3.2.3.2).
    #[inline]
    pub fn has_promised_format(&self) -> bool {
        self.properties.check_payload(self.payload).is_ok()
    }
}

/// A PUBLISH to send. The fields from `message_expiry` to `forwarded` are used in version 5 only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutPublish<'a> {
    /// True for a re-delivery.
    pub dup: bool,
    /// Quality of service.
    pub qos: Qos,
    /// The RETAIN flag that the subscriber is to see.
    pub retain: bool,
    /// The topic name, of at most 65,535 bytes. Empty when only the topic alias is sent.
    pub topic: &'a str,
    /// Present exactly when the QoS is above 0 [MQTT-2.2.1-2].
    pub id: Option<PacketId>,
    /// The remaining lifetime of the message in seconds.
    pub message_expiry: Option<u32>,
    /// The topic alias, 1 to 65,535.
    pub topic_alias: Option<u16>,
    /// The Subscription Identifiers, each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
    /// Encoded properties, as [`PublishProperties::write_forwardable`] writes them.
    pub forwarded: &'a [u8],
    /// The payload of the Application Message.
    pub payload: &'a [u8],
}

/// Decodes a PUBLISH. It returns a [`Packet`] rather than a [`Publish`] and builds it in one place,
/// because copying half-written structures from one into the other costs more than reading the
/// bytes.
#[inline]
pub(super) fn decode<'a>(
    version: Version,
    flags: u8,
    body: &'a [u8],
) -> Result<Packet<'a>, Violation> {
    let (qos, dup) = check_flags(flags)?;
    let mut cursor = Cursor::new(body);
    let topic = cursor.topic_name_or_empty()?;
    let id = if qos == Qos::AtMostOnce { None } else { Some(cursor.packet_id()?) };
    let retain = flags & 1 != 0;
    // Most publishers send no properties.
    let payload = match cursor.rest() {
        rest if !version.is_v5() => rest,
        [0, payload @ ..] => payload,
        _ => {
            let properties = PublishProperties::default();
            let publish = Publish { dup, qos, retain, topic, id, properties, payload: &[] };
            return decode_properties(publish, cursor);
        }
    };
    if topic.is_empty() {
        return Err(if version.is_v5() { NO_TOPIC } else { EMPTY_TOPIC });
    }
    let properties = PublishProperties::default();
    Ok(Packet::Publish(Publish { dup, qos, retain, topic, id, properties, payload }))
}

/// Reads QoS and DUP from the flags.
#[inline]
pub(super) fn check_flags(flags: u8) -> Result<(Qos, bool), Violation> {
    let Some(qos) = Qos::from_u8(flags >> 1 & 3) else { return Err(QOS_3) };
    let dup = flags & 8 != 0;
    if dup && qos == Qos::AtMostOnce {
        return Err(DUP_QOS_0);
    }
    Ok((qos, dup))
}

/// Decodes the rest of a PUBLISH that has properties.
#[inline(never)]
fn decode_properties<'a>(
    mut publish: Publish<'a>,
    mut cursor: Cursor<'a>,
) -> Result<Packet<'a>, Violation> {
    publish.properties = PublishProperties::parse(properties::block(&mut cursor)?)?;
    publish.payload = cursor.rest();
    if publish.topic.is_empty() && publish.properties.topic_alias.is_none() {
        return Err(NO_TOPIC);
    }
    Ok(Packet::Publish(publish))
}

// [MQTT-3.3.1-4]
const QOS_3: Violation = Violation::malformed("The QoS of a PUBLISH is 3");
// [MQTT-3.3.1-2]
const DUP_QOS_0: Violation = Violation::malformed("A PUBLISH of QoS 0 has DUP set");
const NO_TOPIC: Violation =
    Violation::protocol("A PUBLISH has an empty topic name and no topic alias");
// [MQTT-4.7.3-1]
const EMPTY_TOPIC: Violation = Violation::malformed("The topic name is empty");

/// The lengths that the encoded header states.
struct Sizes {
    /// Bytes of the property block.
    properties: usize,
    /// The Remaining Length.
    remaining: usize,
}

#[inline]
fn sizes(version: Version, p: &OutPublish) -> Result<Sizes, NotEncodable> {
    if p.id.is_some() != (p.qos != Qos::AtMostOnce) {
        return Err(NotEncodable::Identifier);
    }
    if p.topic.len() > MAX_TOPIC_LENGTH {
        return Err(NotEncodable::TextTooLong);
    }
    let mut properties = 0;
    let mut remaining = 2 + p.topic.len() + p.payload.len();
    remaining += if p.id.is_some() { 2 } else { 0 };
    if version.is_v5() {
        properties = p.forwarded.len();
        properties += if p.message_expiry.is_some() { 5 } else { 0 };
        properties += if p.topic_alias.is_some() { 3 } else { 0 };
        for id in p.subscription_ids {
            if *id > MAX_REMAINING_LENGTH {
                return Err(NotEncodable::Identifier);
            }
            properties += 1 + varint_size(*id as usize);
        }
        remaining += varint_size(properties) + properties;
    }
    if remaining > MAX_REMAINING_LENGTH as usize {
        return Err(NotEncodable::PacketTooLong);
    }
    Ok(Sizes { properties, remaining })
}

/// The size of the whole packet in bytes, which the caller compares with the receiver's Maximum
/// Packet Size [MQTT-3.1.2-24] before it encodes the packet.
///
/// # Errors
/// The packet has no encoding. This can happen to a message that was accepted: close to the limit
/// it grows beyond the limit by the Subscription Identifiers that are added for a subscriber, or by
/// properties when it came from a version 3 client.
#[inline]
pub fn publish_size(version: Version, p: &OutPublish) -> Result<usize, NotEncodable> {
    let remaining = sizes(version, p)?.remaining;
    Ok(1 + varint_size(remaining) + remaining)
}

/// Appends a whole PUBLISH.
///
/// # Errors
/// `p.id` does not fit `p.qos`, the topic is longer than 65,535 bytes, or the packet would be
/// larger than [`MAX_PACKET_SIZE`](super::MAX_PACKET_SIZE).
#[inline]
pub fn encode_publish(out: &mut Vec<u8>, version: Version, p: &OutPublish) -> Encoded {
    put_head(out, version, p, p.payload.len())?;
    out.extend_from_slice(p.payload);
    Ok(())
}

/// Appends a PUBLISH without its payload, which the caller sends as a segment of its own. The
/// lengths in the header include `p.payload`.
///
/// # Errors
/// As [`encode_publish`].
#[inline]
pub fn encode_publish_head(out: &mut Vec<u8>, version: Version, p: &OutPublish) -> Encoded {
    put_head(out, version, p, 0)
}

/// Appends the header, and reserves room for `payload` more bytes: one reservation per packet.
#[inline]
fn put_head(out: &mut Vec<u8>, version: Version, p: &OutPublish, payload: usize) -> Encoded {
    // All checks that can refuse the packet come before the first byte is written.
    let sizes = sizes(version, p)?;
    let (length, used) = varint(sizes.remaining)?;
    let topic = length_of(p.topic.as_bytes())?.to_be_bytes();
    out.reserve(1 + used + sizes.remaining - p.payload.len() + payload);

    let first = 0x30 | u8::from(p.dup) << 3 | (p.qos as u8) << 1 | u8::from(p.retain);
    if used == 1 {
        out.extend_from_slice(&[first, length[0], topic[0], topic[1]]);
    } else {
        out.push(first);
        out.extend_from_slice(&length[..used]);
        out.extend_from_slice(&topic);
    }
    out.extend_from_slice(p.topic.as_bytes());
    if let Some(id) = p.id {
        put_u16(out, id.get());
    }
    if version.is_v5() {
        return put_properties(out, p, sizes.properties);
    }
    Ok(())
}

#[inline]
fn put_properties(out: &mut Vec<u8>, p: &OutPublish, size: usize) -> Encoded {
    if size == 0 {
        out.push(0);
        return Ok(());
    }
    put_varint(out, size)?;
    if let Some(seconds) = p.message_expiry {
        out.push(MESSAGE_EXPIRY);
        put_u32(out, seconds);
    }
    if let Some(alias) = p.topic_alias {
        out.push(TOPIC_ALIAS);
        put_u16(out, alias);
    }
    for id in p.subscription_ids {
        put_varint_property(out, SUBSCRIPTION_ID, *id)?;
    }
    out.extend_from_slice(p.forwarded);
    Ok(())
}
