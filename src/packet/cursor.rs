//! Reading the data types of MQTT (5.0 section 1.5) from the front of a slice.

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

/// What [`varint`] found.
pub(super) enum Varint {
    /// A value, minimal or not, and how many bytes it took (1 to 4).
    Value { value: u32, length: usize },
    /// The last byte there says that one more follows.
    Incomplete,
    /// The fourth byte says that one more follows.
    TooLong,
}

/// A variable byte integer at the front of `bytes`.
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

/// What is left of a packet.
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

    /// Everything not yet read.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error unless everything was read.
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

    /// A variable byte integer, minimal as 5.0 demands (only 5.0 has them past the fixed header).
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

    /// A UTF-8 string without U+0000 [MQTT-1.5.4-1] [MQTT-1.5.4-2].
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

    /// A topic name: no wildcards [MQTT-3.3.2-2], at least one character [MQTT-4.7.3-1].
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

// Topic names are short and nearly always valid: eight bytes at a time, no early exit. The compiler
// makes 4-byte vectors of the plain loop, which costs a third of decoding a small PUBLISH.
#[inline]
fn has_nul(bytes: &[u8]) -> bool {
    scan(bytes, |word| zero_byte(word) != 0)
}

#[inline]
fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    // '#' is 0x23 and '+' is 0x2B: they differ in bit 3 alone.
    let wildcard = |word: u64| zero_byte((word & !every(0x08)) ^ every(b'#'));
    scan(bytes, |word| zero_byte(word) | wildcard(word) != 0)
}

/// True when `found` is, for any eight bytes in a row of `bytes`; fewer are filled up with spaces.
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
    // The last eight overlap with those before, which saves a loop over the odd bytes.
    let last = found(u64::from_ne_bytes(*last));
    words.iter().fold(last, |any, word| any | found(u64::from_ne_bytes(*word)))
}

/// Eight times the same byte.
const fn every(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Not 0 exactly when one of the eight bytes is 0.
#[inline]
const fn zero_byte(word: u64) -> u64 {
    word.wrapping_sub(every(0x01)) & !word & every(0x80)
}
