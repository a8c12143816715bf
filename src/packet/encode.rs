//! Writes the data types of MQTT, and the two packets that consist of a header only.
//!
//! Not everything that a caller passes can be encoded: a string has at most 65,535 bytes, and a
//! packet has at most 268,435,455 bytes after its length. Therefore every function whose input may
//! be as long as a peer makes it can fail, and a packet that is refused leaves nothing in the
//! buffer.

use crate::limits::{MAX_REMAINING_LENGTH, MAX_TOPIC_LENGTH};

/// Why a packet has no encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotEncodable {
    /// A string or a binary field has more than 65,535 bytes.
    TextTooLong,
    /// The packet, or its property block, has more than 268,435,455 bytes.
    PacketTooLong,
    /// A packet identifier is missing or superfluous, or a Subscription Identifier is out of range.
    Identifier,
}

/// The result of the encoders of whole packets. After an error the buffer is as it was before.
pub type Encoded = Result<(), NotEncodable>;

/// Appends a PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// The number of bytes that a variable byte integer takes.
#[inline]
pub(super) const fn varint_size(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// A variable byte integer in a fixed array, and how many bytes of it are used (1 to 4).
#[inline]
pub(super) fn varint(value: usize) -> Result<([u8; 4], usize), NotEncodable> {
    if value > MAX_REMAINING_LENGTH as usize {
        return Err(NotEncodable::PacketTooLong);
    }
    let size = varint_size(value);
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate().take(size) {
        let more = if index + 1 < size { 0x80 } else { 0 };
        *byte = (value >> (7 * index)) as u8 & 0x7F | more;
    }
    Ok((bytes, size))
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: usize) -> Encoded {
    if value < 0x80 {
        out.push(value as u8);
        return Ok(());
    }
    let (bytes, size) = varint(value)?;
    out.extend_from_slice(&bytes[..size]);
    Ok(())
}

#[inline]
pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[inline]
pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// The two-byte length of a string or of binary data.
#[inline]
pub(super) fn length_of(bytes: &[u8]) -> Result<u16, NotEncodable> {
    u16::try_from(bytes.len()).map_err(|_| NotEncodable::TextTooLong)
}

const _: () = assert!(MAX_TOPIC_LENGTH == u16::MAX as usize);

/// Appends binary data, or the bytes of a string.
#[inline]
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) -> Encoded {
    put_u16(out, length_of(bytes)?);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends one packet: its first byte, its length, and what `body` appends.
#[inline]
pub(super) fn put_packet(
    out: &mut Vec<u8>,
    first: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Encoded,
) -> Encoded {
    whole(out, |out| {
        out.push(first);
        put_sized(out, body)
    })
}

/// Appends everything that `body` appends, or nothing when `body` fails.
#[inline]
pub(super) fn whole(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Encoded) -> Encoded {
    let before = out.len();
    let encoded = body(out);
    if encoded.is_err() {
        out.truncate(before);
    }
    encoded
}

/// Appends what `body` appends, preceded by its size as a variable byte integer: a packet without
/// its first byte, or a property block. The usual size of less than 128 is written in place; only a
/// longer one moves the bytes.
#[inline]
pub(super) fn put_sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Encoded) -> Encoded {
    let at = out.len();
    out.push(0);
    body(out)?;
    let size = out.len() - at - 1;
    if size < 0x80 {
        out[at] = size as u8;
        return Ok(());
    }
    let (bytes, used) = varint(size)?;
    out.splice(at..=at, bytes[..used].iter().copied());
    Ok(())
}
