//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 sections 3.4 to 3.7): one shape, four types.

use super::cursor::Cursor;
use super::encode::{Encoded, put_packet, put_sized, put_u16};
use super::properties::{self, Reasons, UserProperties};
use super::{PacketId, ReasonCode, Version, Violation};

/// Which of the four.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AckKind {
    /// Answers a QoS 1 PUBLISH.
    PubAck,
    /// Answers a QoS 2 PUBLISH.
    PubRec,
    /// Answers a PUBREC.
    PubRel,
    /// Answers a PUBREL.
    PubComp,
}

impl AckKind {
    /// Packet type and flags.
    #[inline]
    const fn first(self) -> u8 {
        match self {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            AckKind::PubRel => 0x62, // [MQTT-3.6.1-1]
            AckKind::PubComp => 0x70,
        }
    }

    /// The codes of 5.0 sections 3.4.2.1, 3.5.2.1, 3.6.2.1 and 3.7.2.1.
    const fn allows(self, reason: ReasonCode) -> bool {
        use ReasonCode as R;
        match self {
            AckKind::PubAck | AckKind::PubRec => matches!(
                reason,
                R::Success
                    | R::NoMatchingSubscribers
                    | R::UnspecifiedError
                    | R::ImplementationSpecificError
                    | R::NotAuthorized
                    | R::TopicNameInvalid
                    | R::PacketIdentifierInUse
                    | R::QuotaExceeded
                    | R::PayloadFormatInvalid
            ),
            AckKind::PubRel | AckKind::PubComp => {
                matches!(reason, R::Success | R::PacketIdentifierNotFound)
            }
        }
    }
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// The packet identifier of the PUBLISH.
    pub id: PacketId,
    /// `Success` in version 3, which has no codes.
    pub reason: ReasonCode,
    /// For people, not for programs.
    pub reason_string: Option<&'a str>,
    /// In the order received.
    pub user: UserProperties<'a>,
}

impl Ack<'_> {
    /// Without Reason String and User Properties.
    #[inline]
    pub fn new(id: PacketId, reason: ReasonCode) -> Self {
        Ack { id, reason, reason_string: None, user: UserProperties::default() }
    }
}

pub(super) fn decode<'a>(
    version: Version,
    kind: AckKind,
    body: &'a [u8],
) -> Result<Ack<'a>, Violation> {
    let mut cursor = Cursor::new(body);
    let id = cursor.packet_id()?;
    if cursor.is_empty() {
        return Ok(Ack::new(id, ReasonCode::Success));
    }
    if !version.is_v5() {
        cursor.end()?;
    }
    decode_reason(kind, id, cursor)
}

fn decode_reason(
    kind: AckKind,
    id: PacketId,
    mut cursor: Cursor<'_>,
) -> Result<Ack<'_>, Violation> {
    let reason = ReasonCode::from_u8(cursor.u8()?)
        .filter(|reason| kind.allows(*reason))
        .ok_or(Violation::protocol("The reason code is not one of the packet type"))?;
    let mut reasons = Reasons::default();
    // Less than four bytes: no property length, no properties (section 3.4.2.2.1).
    if !cursor.is_empty() {
        reasons = Reasons::parse(properties::block(&mut cursor)?)?;
        cursor.end()?;
    }
    Ok(Ack { id, reason, reason_string: reasons.reason_string, user: reasons.user })
}

/// Appends an acknowledgement without properties, in the shortest form there is. Version 3 has only
/// the identifier. It always fits.
#[inline]
pub fn encode_bare_ack(
    out: &mut Vec<u8>,
    version: Version,
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
) {
    let [high, low] = id.get().to_be_bytes();
    if !version.is_v5() || reason == ReasonCode::Success {
        out.extend_from_slice(&[kind.first(), 2, high, low]);
    } else {
        out.extend_from_slice(&[kind.first(), 3, high, low, reason as u8]);
    }
}

/// Appends an acknowledgement, in the shortest form there is.
///
/// # Errors
/// The Reason String or the User Properties are too long.
#[inline]
pub fn encode_ack(out: &mut Vec<u8>, version: Version, kind: AckKind, ack: &Ack) -> Encoded {
    let bare = ack.reason_string.is_none() && ack.user.is_empty();
    if bare || !version.is_v5() {
        encode_bare_ack(out, version, kind, ack.id, ack.reason);
        return Ok(());
    }
    encode_with_properties(out, kind, ack)
}

fn encode_with_properties(out: &mut Vec<u8>, kind: AckKind, ack: &Ack) -> Encoded {
    put_packet(out, kind.first(), |out| {
        put_u16(out, ack.id.get());
        out.push(ack.reason as u8);
        let reasons = Reasons { reason_string: ack.reason_string, user: ack.user };
        put_sized(out, |out| reasons.put(out))
    })
}
