//! Segments: the pieces that a lane sends ([`super::lane`]). Before its bytes a segment has room
//! for what a frame puts there, so the frame that first carries it is the segment's own memory. The
//! engine may keep that as long as it likes, for it is not written any more: a later frame with the
//! same segment is a copy.

use bytes::Bytes;

/// The most bytes that a frame has before its segment.
pub const HEAD: usize = 256;

/// A segment that more records may be appended to.
#[derive(Default)]
pub(super) struct OpenSegment {
    /// Behind [`HEAD`] bytes of room, unless there are none.
    bytes: Vec<u8>,
    /// The number of records that end in it.
    pub records: u32,
    /// The number of bytes at its front that belong to a record of earlier segments.
    pub rest: usize,
}

impl OpenSegment {
    /// A segment with these bytes, and memory for as many as `capacity`.
    pub fn new(bytes: &[u8], capacity: usize) -> OpenSegment {
        let mut all = Vec::with_capacity(HEAD + capacity.max(bytes.len()));
        all.resize(HEAD, 0);
        all.extend_from_slice(bytes);
        OpenSegment { bytes: all, records: 0, rest: 0 }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(HEAD..).unwrap_or_default()
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_sub(HEAD)
    }

    /// The vector that bytes may be appended to, and that are not to be changed otherwise.
    pub fn end(&mut self) -> &mut Vec<u8> {
        if self.bytes.is_empty() {
            self.bytes.resize(HEAD, 0);
        }
        &mut self.bytes
    }

    /// Forgets the bytes from this one on.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(HEAD + length);
    }

    /// The segment, to which nothing is appended any more.
    pub fn closed(self) -> KeptSegment {
        let OpenSegment { bytes, records, rest } = self;
        KeptSegment { bytes: SegmentBytes::Unsent(bytes), records, rest }
    }
}

/// A segment that has not been acknowledged.
pub(super) struct KeptSegment {
    bytes: SegmentBytes,
    /// The number of records that end in it.
    pub records: u32,
    /// The number of bytes at its front that belong to a record of earlier segments.
    pub rest: usize,
}

enum SegmentBytes {
    /// Behind [`HEAD`] bytes of room, unless there are none.
    Unsent(Vec<u8>),
    /// A frame has carried them, and shares the memory.
    Sent(Bytes),
}

impl KeptSegment {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            SegmentBytes::Unsent(bytes) => bytes.get(HEAD..).unwrap_or_default(),
            SegmentBytes::Sent(bytes) => bytes,
        }
    }

    /// A frame that begins with `head` and ends with this segment.
    pub fn frame(&mut self, head: &[u8]) -> Bytes {
        debug_assert!(head.len() <= HEAD, "{} bytes before a segment", head.len());
        if let SegmentBytes::Unsent(bytes) = &mut self.bytes
            && let Some(begin) = HEAD.checked_sub(head.len())
            && let Some(place) = bytes.get_mut(begin..HEAD)
        {
            place.copy_from_slice(head);
            let whole = Bytes::from(std::mem::take(bytes));
            self.bytes = SegmentBytes::Sent(whole.slice(HEAD..));
            return whole.slice(begin..);
        }
        Bytes::from([head, self.bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_a_segment_has_its_bytes_and_stays_as_it_was_sent() {
        let mut open = OpenSegment::new(b"first ", 100);
        open.end().extend_from_slice(b"second third");
        open.truncate(12);
        (open.records, open.rest) = (2, 1);
        assert_eq!((open.bytes(), open.len()), (&b"first second"[..], 12));
        let mut kept = open.closed();
        assert_eq!((kept.bytes(), kept.records, kept.rest), (&b"first second"[..], 2, 1));
        let frames = [b"one ".to_vec(), Vec::new(), vec![7; HEAD]].map(|head| kept.frame(&head));
        assert_eq!(frames[0], b"one first second"[..]);
        assert_eq!(frames[1], b"first second"[..]);
        assert_eq!(frames[2][..HEAD], [7; HEAD]);
        assert_eq!(frames[2][HEAD..], b"first second"[..]);
        assert_eq!(kept.bytes(), b"first second");
        let mut empty = OpenSegment::default();
        assert_eq!(empty.len(), 0);
        empty.end().push(1);
        assert_eq!(empty.closed().frame(b"a"), b"a\x01"[..]);
    }
}
