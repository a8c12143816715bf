//! Buffers that are kept for reuse, so that the steady path allocates none.

use super::spare::{KEPT, halve};

/// Buffers in which a message or a name is put together before it is copied to its destination.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    name: String,
}

impl Scratch {
    /// The buffer for a message or a packet. It is not empty: the user clears it.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Takes the buffer out, empty, for callers that need the shard meanwhile;
    /// [`Scratch::keep_bytes`] gives it back.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes
    }

    pub(super) fn keep_bytes(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Takes the buffer for a topic name out, empty; [`Scratch::keep_name`] gives it back.
    #[inline]
    pub(super) fn take_name(&mut self) -> String {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        name
    }

    #[inline]
    pub(super) fn keep_name(&mut self, name: String) {
        self.name = name;
    }

    /// Gives half of the unused capacity back.
    pub(super) fn shrink(&mut self) {
        self.bytes.clear();
        halve(&mut self.bytes);
        self.name.clear();
        self.name.shrink_to((self.name.capacity() / 2).max(KEPT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_empty_and_keeps_its_room() {
        let mut scratch = Scratch::default();
        scratch.bytes().extend_from_slice(&[7; 1000]);
        let bytes = scratch.take_bytes();
        assert!(bytes.is_empty() && bytes.capacity() >= 1000);
        scratch.keep_bytes(bytes);
        let mut name = scratch.take_name();
        name.push_str("a/b");
        scratch.keep_name(name);
        assert!(scratch.take_name().is_empty());
    }

    #[test]
    fn room_that_is_not_needed_any_more_goes_by_and_by() {
        let mut scratch = Scratch::default();
        scratch.bytes().extend_from_slice(&vec![7; 16 * KEPT]);
        scratch.keep_name("x".repeat(16 * KEPT));
        for _ in 0..10 {
            scratch.shrink();
        }
        assert!(scratch.bytes.capacity() <= 2 * KEPT);
        assert!(scratch.name.capacity() <= 2 * KEPT);
    }
}
