//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 sections 3.4 to 3.7), four types with one layout.

use super::cursor::Cursor;
use super::encode::{Encoded, put_packet, put_sized, put_u16};
use super::properties::{self, Reasons, UserProperties};
use super::{PacketId, ReasonCode, Version, Violation};

/// Which of the four acknowledgements.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AckKind {
    /// PUBACK, which answers a QoS 1 PUBLISH.
    PubAck,
    /// PUBREC, which answers a QoS 2 PUBLISH.
    PubRec,
    /// PUBREL, which answers a PUBREC.
    PubRel,
    /// PUBCOMP, which answers a PUBREL.
    PubComp,
}

impl AckKind {
    /// The first byte of the fixed header: packet type and flags.
    #[inline]
    const fn first(self) -> u8 {
        match self {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            AckKind::PubRel => 0x62, // [MQTT-3.6.1-1]
            AckKind::PubComp => 0x70,
        }
    }

    /// Whether the type may carry this code, by the tables of 5.0 sections 3.4.2.1, 3.5.2.1,
    /// 3.6.2.1 and 3.7.2.1.
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
    /// The reason code. Always `Success` in version 3, which has no codes.
    pub reason: ReasonCode,
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without Reason String and User Properties.
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
    // With a Remaining Length below 4 there is no property length, and so there are no properties
    // (section 3.4.2.2.1).
    if !cursor.is_empty() {
        reasons = Reasons::parse(properties::block(&mut cursor)?)?;
        cursor.end()?;
    }
    Ok(Ack { id, reason, reason_string: reasons.reason_string, user: reasons.user })
}

/// Appends an acknowledgement without properties in its shortest form. In version 3 this is the
/// packet identifier alone. It always fits.
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

/// Appends an acknowledgement in its shortest form.
///
/// # Errors
/// The Reason String is too long, or the User Properties together are.
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
