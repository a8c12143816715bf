//! Finds the batches in the bytes of a segment of a bridge's disk, however damaged the bytes are.
//! Pure.

use crate::link_record::LinkBatch;
use crate::storage::frame;

/// A whole batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundBatch {
    /// The batch's number.
    pub batch: u64,
    /// The offset in the segment.
    pub offset: usize,
    /// Bytes that the batch takes in the segment. At the end of a segment, some of the last ones
    /// may be missing; these are padding.
    pub size: usize,
    /// The batch's messages.
    pub messages: LinkBatch,
}

/// What a segment is searched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Search {
    /// The log that it belongs to.
    pub log: u64,
    /// The number of the segment.
    pub segment: u32,
    /// The least number that a batch in it may have.
    pub from: u64,
}

/// What a segment has besides its whole batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentScan {
    /// The number after the last whole batch.
    pub next: u64,
    /// The number of places before the last whole batch where a batch is broken or missing.
    pub damaged: u64,
    /// The number of a broken batch behind the last whole one. A crash while the last batch is
    /// written leaves such a batch; it is damage if a later segment has a batch that was written
    /// after it.
    pub torn: Option<u64>,
}

/// Finds the whole batches of a segment, which have ascending numbers.
pub fn scan(bytes: &[u8], search: Search, mut found: impl FnMut(FoundBatch)) -> SegmentScan {
    let (mut offset, mut payload, mut torn) = (0, Vec::new(), None);
    let (mut next, mut last, mut damaged) = (search.from, None::<u64>, 0);
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let own = |header: &frame::LogFrameHeader| {
            header.log == search.log
                && header.segment == search.segment
                && header.batch >= next
                && header.batch < u64::MAX
        };
        let read = frame::read_batch(rest, &mut payload).ok();
        let Some((header, size)) = read.filter(|(header, _)| own(header)) else {
            // Remains of an earlier use of the file are no damage, and neither are bytes that were
            // never written. A batch of this segment is broken when its header is intact and the
            // rest of it is not.
            let broken = frame::LogFrameHeader::read(rest).ok().filter(own);
            torn = torn.max(broken.map(|header| header.batch));
            offset += frame::ALIGNMENT;
            continue;
        };
        // The batches of one segment have consecutive numbers.
        let gap = last.is_some_and(|last| header.batch > last + 1);
        damaged += u64::from(torn.is_some() || gap);
        (torn, last) = (None, Some(header.batch));
        next = header.batch + 1;
        match LinkBatch::from_bytes(std::mem::take(&mut payload)) {
            Some(messages) => found(FoundBatch { batch: header.batch, offset, size, messages }),
            None => damaged += 1,
        }
        offset += size;
    }
    SegmentScan { next, damaged, torn }
}
