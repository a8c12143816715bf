//! The fixed header, which says where one packet ends and the next begins.

use super::cursor::{self, Varint};
use super::{ReasonCode, Version, Violation};
use crate::limits::MAX_REMAINING_LENGTH;

/// Largest whole packet in bytes: the largest Remaining Length and its five bytes of fixed header.
pub const MAX_PACKET_SIZE: u32 = MAX_REMAINING_LENGTH + 5;

/// What the start of a buffer contains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// The packet is not complete yet.
    Incomplete {
        /// The length of the whole packet in bytes. While that is unknown, the number of bytes that
        /// the buffer must hold before more can be said. Always more than the buffer has.
        needed: usize,
    },
    /// A whole packet.
    Complete {
        /// The first byte, which has packet type and flags.
        first: u8,
        /// The length of the fixed header in bytes, 2 to 5.
        header: usize,
        /// The length of the whole packet in bytes, fixed header included.
        total: usize,
    },
}

/// Looks for one packet at the start of `buf`. `max` is the size in bytes of the largest whole
/// packet that is accepted.
///
/// # Errors
/// `PacketTooLarge`, as soon as the length is known [MQTT-3.1.2-24]; `MalformedPacket` when the
/// length has more than four bytes.
#[inline]
pub fn frame(buf: &[u8], max: u32) -> Result<Framing, Violation> {
    match buf {
        [first, length, ..] if *length < 0x80 => {
            sized(*first, 2, 2 + usize::from(*length), buf.len(), max)
        }
        _ => frame_long(buf, max),
    }
}

/// Handles a length that takes several bytes, or has not arrived yet.
fn frame_long(buf: &[u8], max: u32) -> Result<Framing, Violation> {
    let [first, rest @ ..] = buf else {
        return Ok(Framing::Incomplete { needed: 2 });
    };
    match cursor::varint(rest) {
        Varint::Value { value, length } => {
            let header = 1 + length;
            sized(*first, header, header + value as usize, buf.len(), max)
        }
        Varint::Incomplete => Ok(Framing::Incomplete { needed: buf.len() + 1 }),
        Varint::TooLong => Err(LENGTH_TOO_LONG),
    }
}

#[inline]
fn sized(
    first: u8,
    header: usize,
    total: usize,
    have: usize,
    max: u32,
) -> Result<Framing, Violation> {
    if total > max as usize {
        return Err(TOO_LARGE);
    }
    if have < total {
        return Ok(Framing::Incomplete { needed: total });
    }
    Ok(Framing::Complete { first, header, total })
}

const LENGTH_TOO_LONG: Violation =
    Violation::malformed("The Remaining Length has more than four bytes");
const TOO_LARGE: Violation = Violation {
    reason: ReasonCode::PacketTooLarge,
    what: "The packet is larger than the maximum packet size",
};
const WRONG_LENGTH: Violation =
    Violation::malformed("The Remaining Length is not the number of bytes that follow");

/// The first byte, and what follows the fixed header, of exactly one whole packet.
#[inline]
pub(super) fn split(version: Version, packet: &[u8]) -> Result<(u8, &[u8]), Violation> {
    match packet {
        [first, length, body @ ..] if *length < 0x80 => {
            if body.len() != usize::from(*length) {
                return Err(WRONG_LENGTH);
            }
            Ok((*first, body))
        }
        _ => split_long(version, packet),
    }
}

fn split_long(version: Version, packet: &[u8]) -> Result<(u8, &[u8]), Violation> {
    let [first, rest @ ..] = packet else { return Err(WRONG_LENGTH) };
    match cursor::varint(rest) {
        Varint::Value { value, length } => {
            let body = &rest[length..];
            if body.len() != value as usize {
                return Err(WRONG_LENGTH);
            }
            // Version 3 does not forbid a length with more bytes than it needs, and small clients
            // send such lengths. 5.0 forbids them.
            if version.is_v5() && !cursor::is_minimal(value, length) {
                return Err(cursor::NOT_MINIMAL);
            }
            Ok((*first, body))
        }
        Varint::Incomplete => Err(WRONG_LENGTH),
        Varint::TooLong => Err(LENGTH_TOO_LONG),
    }
}
