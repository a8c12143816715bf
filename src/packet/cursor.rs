//! Reads the data types of MQTT (5.0 section 1.5) from the front of a slice. Pure; it decides
//! nothing about packets.

use super::{PacketId, ReasonCode, Violation};

/// A field would run past the end of the packet or of its property block.
pub(super) const TRUNCATED: Violation =
    Violation::malformed("A field runs past the end of the packet");
/// [MQTT-1.5.5-1]
pub(super) const NOT_MINIMAL: Violation =
    Violation::malformed("A variable byte integer uses more bytes than it needs");
const NOT_UTF8: Violation = Violation::malformed("A string is not well-formed UTF-8");
const HAS_NUL: Violation = Violation::malformed("A string contains U+0000");
const ZERO_ID: Violation = Violation::protocol("The packet identifier is 0");
const EMPTY_TOPIC: Violation = Violation::malformed("A topic name or filter is empty");
const WILDCARD: Violation = Violation {
    reason: ReasonCode::TopicNameInvalid,
    what: "A topic name contains a wildcard character",
};

/// The result of [`varint`].
pub(super) enum Varint {
    /// A value, and the number of bytes it took (1 to 4), which may be more than it needs.
    Value { value: u32, length: usize },
    /// The last byte that is there says that another one follows.
    Incomplete,
    /// The fourth byte says that another one follows.
    TooLong,
}

/// Reads a variable byte integer from the front of `bytes`.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Varint::Value { value, length: index + 1 };
        }
    }
    if bytes.len() < 4 { Varint::Incomplete } else { Varint::TooLong }
}

/// True when `value` cannot be written in fewer than `length` bytes.
pub(super) fn is_minimal(value: u32, length: usize) -> bool {
    length == 1 || value >> (7 * (length - 1)) != 0
}

/// The part of a packet that has not been read yet.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Cursor { rest }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that has not been read yet.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Fails unless everything has been read.
    #[inline]
    pub(super) fn end(&self) -> Result<(), Violation> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Violation::malformed("Bytes follow the last field of the packet"))
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer, which must not use more bytes than it needs: only 5.0 has such
    /// integers beyond the fixed header, and 5.0 forbids it [MQTT-1.5.5-1].
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u32, Violation> {
        match varint(self.rest) {
            Varint::Value { value, length } => {
                if !is_minimal(value, length) {
                    return Err(NOT_MINIMAL);
                }
                self.rest = &self.rest[length..];
                Ok(value)
            }
            Varint::Incomplete => Err(TRUNCATED),
            Varint::TooLong => {
                Err(Violation::malformed("A variable byte integer has more than four bytes"))
            }
        }
    }

    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        PacketId::new(self.u16()?).ok_or(ZERO_ID)
    }

    /// Binary data: a two-byte length and that many bytes.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A string of valid UTF-8 without U+0000 [MQTT-1.5.4-1] [MQTT-1.5.4-2].
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, Violation> {
        let text = str::from_utf8(self.binary()?).map_err(|_| NOT_UTF8)?;
        if has_nul(text.as_bytes()) {
            return Err(HAS_NUL);
        }
        Ok(text)
    }

    /// A string of at least one character, for topic filters [MQTT-4.7.3-1].
    #[inline]
    pub(super) fn topic_filter(&mut self) -> Result<&'a str, Violation> {
        let text = self.text()?;
        if text.is_empty() { Err(EMPTY_TOPIC) } else { Ok(text) }
    }

    /// A topic name: without wildcards [MQTT-3.3.2-2], of at least one character [MQTT-4.7.3-1].
    pub(super) fn topic_name(&mut self) -> Result<&'a str, Violation> {
        let topic = self.topic_name_or_empty()?;
        if topic.is_empty() { Err(EMPTY_TOPIC) } else { Ok(topic) }
    }

    /// A topic name, or the empty string that stands for a topic alias.
    #[inline]
    pub(super) fn topic_name_or_empty(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let topic = str::from_utf8(bytes).map_err(|_| NOT_UTF8)?;
        if has_nul_or_wildcard(bytes) {
            return Err(if has_nul(bytes) { HAS_NUL } else { WILDCARD });
        }
        Ok(topic)
    }
}

// Topic names are short and nearly always valid. Therefore the scan takes eight bytes at a time and
// does not stop at the first hit. From a plain loop the compiler makes 4-byte vectors, and that
// loop costs a third of decoding a small PUBLISH.
#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    scan(bytes, |word| zero_byte(word) != 0)
}

#[inline]
fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    // '#' is 0x23 and '+' is 0x2B, so they differ in bit 3 only.
    let wildcard = |word: u64| zero_byte((word & !every(0x08)) ^ every(b'#'));
    scan(bytes, |word| zero_byte(word) | wildcard(word) != 0)
}

/// True when `found` is true for some eight consecutive bytes of `bytes`. Fewer than eight are
/// filled up with spaces.
#[inline]
fn scan(bytes: &[u8], found: impl Fn(u64) -> bool) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    let Some(last) = bytes.last_chunk::<8>() else {
        let mut word = [b' '; 8];
        for (place, byte) in word.iter_mut().zip(bytes) {
            *place = *byte;
        }
        return found(u64::from_ne_bytes(word));
    };
    // The last eight bytes overlap with those before, so that no second loop is needed for the odd
    // bytes.
    let last = found(u64::from_ne_bytes(*last));
    words.iter().fold(last, |any, word| any | found(u64::from_ne_bytes(*word)))
}

/// A word of eight times the same byte.
const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Not 0 exactly when one of the eight bytes is 0.
#[inline]
const fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(every(0x01)) & !word & every(0x80)
}
