//! Byte scans that matching, hashing and ordering share. Eight bytes at a time: the searches of the
//! standard library are made for longer texts than a level, and cost several times as much here.

const ONES: u64 = u64::MAX / 255;
const LOW7: u64 = ONES * 0x7f;

/// How many leading bytes two texts have in common.
#[inline]
pub(super) fn common_prefix(one: &[u8], two: &[u8]) -> usize {
    let common = one.len().min(two.len());
    let (one, two) = (&one[..common], &two[..common]);
    let mut at = 0;
    for (one, two) in one.chunks_exact(8).zip(two.chunks_exact(8)) {
        let differ = word(one) ^ word(two);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let tail = one[at..].iter().zip(&two[at..]).take_while(|(one, two)| one == two);
    at + tail.count()
}

/// How many bytes precede the first `/`; all of them without one.
#[inline]
pub(super) fn level_length(text: &[u8]) -> usize {
    Slashes::new(text).next().unwrap_or(text.len())
}

/// The positions of the slashes of a text, in order.
pub(super) struct Slashes<'a> {
    rest: std::slice::Chunks<'a, u8>,
    base: usize,
    /// The top bit of each byte of the current eight that is a slash.
    found: u64,
}

impl<'a> Slashes<'a> {
    #[inline]
    pub fn new(text: &'a [u8]) -> Self {
        Slashes { rest: text.chunks(8), base: 0usize.wrapping_sub(8), found: 0 }
    }
}

impl Iterator for Slashes<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.found == 0 {
            let differ = word(self.rest.next()?) ^ (ONES * u64::from(b'/'));
            // A byte's top bit is set when the byte is zero: no carry crosses bytes.
            self.found = !(((differ & LOW7) + LOW7) | differ | LOW7);
            self.base = self.base.wrapping_add(8);
        }
        let at = self.found.trailing_zeros() as usize / 8;
        self.found &= self.found - 1;
        Some(self.base + at)
    }
}

/// Up to eight bytes, the first one lowest, filled up with zeros.
#[inline]
fn word(bytes: &[u8]) -> u64 {
    if let Ok(bytes) = bytes.try_into() {
        return u64::from_le_bytes(bytes);
    }
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
