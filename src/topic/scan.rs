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
    for (one, two) in one.chunks(8).zip(two.chunks(8)) {
        let differ = word(one) ^ word(two);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    common
}

/// True when two texts are equal.
#[inline]
pub(super) fn same(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len()
        && one.chunks(8).zip(two.chunks(8)).all(|(one, two)| word(one) == word(two))
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
    let half = |at: usize| bytes.get(at..at + 4).and_then(|half| half.try_into().ok());
    let half = |at: usize| half(at).map_or(0, u32::from_le_bytes).into();
    match bytes.len() {
        0 => 0,
        // The first, the middle and the last byte are all there are.
        length @ 1..4 => {
            let byte = |at: usize| u64::from(bytes[at]) << (8 * at);
            byte(0) | byte(length / 2) | byte(length - 1)
        }
        // Two halves that overlap, where they agree.
        length => {
            let (low, high): (u64, u64) = (half(0), half(length.min(8) - 4));
            low | high << (8 * (length.min(8) - 4))
        }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
