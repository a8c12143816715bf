//! Writing the data types of MQTT, and the two packets that are nothing but a header.

use crate::limits::MAX_REMAINING_LENGTH;

/// Appends a PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// Bytes that a variable byte integer takes.
#[inline]
pub(super) const fn varint_size(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// A variable byte integer in a fixed array, and how many of its bytes count.
#[inline]
pub(super) fn varint(value: usize) -> ([u8; 4], usize) {
    assert!(value <= MAX_REMAINING_LENGTH as usize, "callers keep within the largest packet");
    let size = varint_size(value);
    let mut bytes = [0; 4];
    for (index, byte) in bytes.iter_mut().enumerate().take(size) {
        let more = if index + 1 < size { 0x80 } else { 0 };
        *byte = (value >> (7 * index)) as u8 & 0x7F | more;
    }
    (bytes, size)
}

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: usize) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let (bytes, size) = varint(value);
    out.extend_from_slice(&bytes[..size]);
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
pub(super) fn length_of(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).expect("strings come from decoded packets or are ours and short")
}

/// Binary data, or the bytes of a string.
#[inline]
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u16(out, length_of(bytes));
    out.extend_from_slice(bytes);
}

/// One packet: its first byte, its length, and what `body` appends.
#[inline]
pub(super) fn put_packet(out: &mut Vec<u8>, first: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first);
    put_sized(out, body);
}

/// What `body` appends, with its size as a variable byte integer in front: a packet without its
/// first byte, or a property block. The common size of less than 128 is written in place; only a
/// longer one moves the bytes.
#[inline]
pub(super) fn put_sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    body(out);
    let size = out.len() - at - 1;
    if size < 0x80 {
        out[at] = size as u8;
        return;
    }
    let (bytes, used) = varint(size);
    out.splice(at..=at, bytes[..used].iter().copied());
}
