//! Bytes ⇄ packets for MQTT 3.1, 3.1.1 and 5.0; one file per packet family. The code is pure and
//! runs on any shard.
//!
//! Decoding borrows from the received bytes and allocates nothing. It checks every rule that a
//! single packet can break: flags, reserved bits, lengths, UTF-8, properties, zero identifiers,
//! wildcards in topic names. Encoding appends either one whole packet to the caller's buffer, or
//! nothing together with the reason: a length on the wire is bounded, and the texts of peers and of
//! the configuration may add up to more than that.
//!
//! Some rules need more than one packet, and are deliberately left to the caller: which side may
//! send what (a CONNACK from a client, a Subscription Identifier in a client's PUBLISH, a Session
//! Expiry Interval in a server's DISCONNECT), the syntax of topic filters (version 5 answers each
//! filter by itself), ClientId rules, topic alias limits, and packet identifiers in use.

mod ack;
mod connect;
mod cursor;
mod disconnect;
mod encode;
mod framing;
mod properties;
mod publish;
mod reason;
mod subscribe;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;

pub use ack::{Ack, AckKind, encode_ack, encode_bare_ack};
pub use connect::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, Will, connect_version, decode_connect,
    encode_connack, encode_connect,
};
pub use disconnect::{Auth, Disconnect, encode_auth, encode_disconnect};
pub use encode::{Encoded, NotEncodable, encode_pingreq, encode_pingresp};
pub use framing::{Framing, MAX_PACKET_SIZE, frame};
pub use properties::{
    PublishProperties, UserProperties, UserPropertiesIter, VarInts, VarIntsIter,
    append_user_property,
};
pub use publish::{OutPublish, Publish, encode_publish, encode_publish_head, publish_size};
pub use reason::ReasonCode;
pub use subscribe::{
    RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeFiltersIter,
    SubscribeOptions, UnsubAck, Unsubscribe, UnsubscribeFilters, UnsubscribeFiltersIter,
    answer_size, encode_suback, encode_subscribe, encode_unsuback, encode_unsubscribe,
};

/// The protocol version a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    /// True for 5.0, whose packets carry properties and reason codes.
    #[inline]
    pub const fn is_v5(self) -> bool {
        matches!(self, Version::V5)
    }
}

/// Quality of service of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Qos {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl Qos {
    /// The QoS for its number on the wire; `None` above 2.
    #[inline]
    pub const fn from_u8(value: u8) -> Option<Qos> {
        match value {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier: 1 to 65,535 [MQTT-2.2.1-3].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// Returns `None` for 0.
    #[inline]
    pub const fn new(value: u16) -> Option<PacketId> {
        match NonZeroU16::new(value) {
            Some(value) => Some(PacketId(value)),
            None => None,
        }
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// A rule of the protocol that the peer has broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The reason code for a version 5 DISCONNECT or CONNACK.
    pub reason: ReasonCode,
    /// One sentence, for the Reason String and for the log.
    pub what: &'static str,
}

impl Violation {
    /// Reason 0x81: the bytes cannot be parsed.
    pub(crate) const fn malformed(what: &'static str) -> Violation {
        Violation { reason: ReasonCode::MalformedPacket, what }
    }

    /// Reason 0x82: the bytes can be parsed, but they say something that is not allowed.
    pub(crate) const fn protocol(what: &'static str) -> Violation {
        Violation { reason: ReasonCode::ProtocolError, what }
    }
}

/// A CONNECT that cannot be accepted, and what the caller needs to choose the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectViolation {
    /// The rule that is broken. An unknown protocol level gives `UnsupportedProtocolVersion`.
    pub violation: Violation,
    /// The version whose form of CONNACK the client understands. For protocol name `MQTT` with a
    /// level above 5 this is `Some(V5)`, or `Some(V311)` if the rest reads as a CONNECT of 3.1.1
    /// only; for other unknown levels it is `Some(V31)` or `Some(V311)`. `None` when the protocol
    /// name is not MQTT's or was not reached: the peer may not be an MQTT client at all.
    pub version: Option<Version>,
    /// The Maximum Packet Size of the client, if the property was read before the broken rule was
    /// found; otherwise `u32::MAX`, which stands for any size.
    pub maximum_packet_size: u32,
}

/// One whole packet, which borrows from the received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// A packet lives on the stack while it is dispatched. Boxing CONNECT would add an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Packet<'a> {
    /// CONNECT, type 1.
    Connect(Connect<'a>),
    /// CONNACK, type 2.
    ConnAck(ConnAck<'a>),
    /// PUBLISH, type 3.
    Publish(Publish<'a>),
    /// PUBACK, type 4.
    PubAck(Ack<'a>),
    /// PUBREC, type 5.
    PubRec(Ack<'a>),
    /// PUBREL, type 6.
    PubRel(Ack<'a>),
    /// PUBCOMP, type 7.
    PubComp(Ack<'a>),
    /// SUBSCRIBE, type 8.
    Subscribe(Subscribe<'a>),
    /// SUBACK, type 9.
    SubAck(SubAck<'a>),
    /// UNSUBSCRIBE, type 10.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK, type 11.
    UnsubAck(UnsubAck<'a>),
    /// PINGREQ, type 12.
    PingReq,
    /// PINGRESP, type 13.
    PingResp,
    /// DISCONNECT, type 14.
    Disconnect(Disconnect<'a>),
    /// AUTH, type 15; version 5 only.
    Auth(Auth<'a>),
}

/// Decodes one whole packet, as [`frame`] delimits it, of a connection that speaks `version`.
///
/// A CONNECT is decoded by its own protocol name and level. A second CONNECT on a connection is a
/// protocol error [MQTT-3.1.0-2], which the caller has to detect.
///
/// # Errors
/// The rule that the packet breaks. The caller closes the connection [MQTT-4.13.1-1].
#[inline]
pub fn decode<'a>(version: Version, packet: &'a [u8]) -> Result<Packet<'a>, Violation> {
    let (first, body) = framing::split(version, packet)?;
    // Nearly all packets are a PUBLISH or an acknowledgement with nothing but its identifier. The
    // others are decoded out of line.
    if first >> 4 == 3 {
        return publish::decode(version, first & 0x0F, body);
    }
    if let [high, low] = *body
        && let Some(id) = PacketId::new(u16::from_be_bytes([high, low]))
    {
        let ack = Ack::new(id, ReasonCode::Success);
        match first {
            0x40 => return Ok(Packet::PubAck(ack)),
            0x50 => return Ok(Packet::PubRec(ack)),
            0x62 => return Ok(Packet::PubRel(ack)),
            0x70 => return Ok(Packet::PubComp(ack)),
            _ => {}
        }
    }
    decode_other(version, first, packet, body)
}

/// Checks a packet of which only the beginning has arrived, so that a connection is not kept
/// waiting for the rest of a packet that will be refused. `beginning` is what [`frame`] found
/// incomplete; an empty one is accepted.
///
/// # Errors
/// A reserved type (section 2.1.2), flags that do not belong to the type [MQTT-2.1.3-1], a
/// Remaining Length with more bytes than it needs, where version 5 forbids this [MQTT-1.5.5-1], or
/// a Remaining Length that the type cannot have.
pub fn check_beginning(version: Version, beginning: &[u8]) -> Result<(), Violation> {
    let [first, rest @ ..] = beginning else { return Ok(()) };
    let (kind, flags) = (first >> 4, first & 0x0F);
    match kind {
        0 => return Err(RESERVED_TYPE),
        15 if !version.is_v5() => return Err(RESERVED_TYPE),
        3 => publish::check_flags(flags).map(|_| ())?,
        _ => check_flags(version, kind, flags)?,
    }
    let cursor::Varint::Value { value, length } = cursor::varint(rest) else { return Ok(()) };
    if version.is_v5() && !cursor::is_minimal(value, length) {
        return Err(cursor::NOT_MINIMAL);
    }
    match kind {
        12 | 13 if value > 0 => Err(NOTHING_IN),
        14 if value > 0 && !version.is_v5() => Err(NOTHING_IN),
        4..=7 | 11 if value > 2 && !version.is_v5() => Err(TOO_LONG),
        _ => Ok(()),
    }
}

/// Decodes every packet but PUBLISH, and those acknowledgements that have more than an identifier
/// or break a rule.
#[inline(never)]
fn decode_other<'a>(
    version: Version,
    first: u8,
    packet: &'a [u8],
    body: &'a [u8],
) -> Result<Packet<'a>, Violation> {
    let kind = first >> 4;
    check_flags(version, kind, first & 0x0F)?;
    match kind {
        1 => decode_connect(packet).map(Packet::Connect).map_err(|refused| refused.violation),
        2 => connect::decode_connack(version, body).map(Packet::ConnAck),
        4 => ack::decode(version, AckKind::PubAck, body).map(Packet::PubAck),
        5 => ack::decode(version, AckKind::PubRec, body).map(Packet::PubRec),
        6 => ack::decode(version, AckKind::PubRel, body).map(Packet::PubRel),
        7 => ack::decode(version, AckKind::PubComp, body).map(Packet::PubComp),
        8 => subscribe::decode_subscribe(version, body).map(Packet::Subscribe),
        9 => subscribe::decode_suback(version, body).map(Packet::SubAck),
        10 => subscribe::decode_unsubscribe(version, body).map(Packet::Unsubscribe),
        11 => subscribe::decode_unsuback(version, body).map(Packet::UnsubAck),
        12 => nothing_in(body).map(|()| Packet::PingReq),
        13 => nothing_in(body).map(|()| Packet::PingResp),
        14 => disconnect::decode_disconnect(version, body).map(Packet::Disconnect),
        15 if version.is_v5() => disconnect::decode_auth(body).map(Packet::Auth),
        _ => Err(RESERVED_TYPE),
    }
}

const RESERVED_TYPE: Violation =
    Violation::malformed("The packet type is reserved in this protocol version");
const NOTHING_IN: Violation =
    Violation::malformed("The packet type has neither variable header nor payload");
const TOO_LONG: Violation =
    Violation::malformed("The packet type has a packet identifier and nothing else");

/// The flags in the fixed header of every packet but PUBLISH are fixed [MQTT-2.1.3-1]. In 3.1 the
/// same bits were DUP, QoS and RETAIN, which were "not used", or set at will by clients that sent a
/// packet again. They are ignored there.
#[inline]
fn check_flags(version: Version, kind: u8, flags: u8) -> Result<(), Violation> {
    let expected = if matches!(kind, 6 | 8 | 10) { 0b0010 } else { 0 };
    if flags == expected || version == Version::V31 {
        return Ok(());
    }
    Err(Violation::malformed("The flags in the fixed header are not those of the packet type"))
}

fn nothing_in(body: &[u8]) -> Result<(), Violation> {
    if body.is_empty() {
        return Ok(());
    }
    Err(NOTHING_IN)
}
