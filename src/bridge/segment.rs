//! Where the batches are in the bytes of a segment of a bridge's disk, whatever has become of them.
//! Pure.

use crate::link_record::LinkBatch;
use crate::storage::frame;

/// A batch that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its number.
    pub batch: u64,
    /// Where it is.
    pub offset: usize,
    /// Bytes that it takes there. Of the last ones, which say nothing, some may be missing when it
    /// is at the end of a segment.
    pub size: usize,
    /// Its messages.
    pub messages: LinkBatch,
}

/// What a segment is looked through for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Search {
    /// The log that it belongs to.
    pub log: u64,
    /// The number of the segment.
    pub segment: u32,
    /// The first batch that may be in it.
    pub from: u64,
}

/// Finds the whole batches of a segment, which have ascending numbers; gives the number after the
/// last one, and how many places there are where one is broken or missing.
pub fn scan(bytes: &[u8], search: Search, mut found: impl FnMut(Found)) -> (u64, u64) {
    let (mut offset, mut payload, mut broken) = (0, Vec::new(), false);
    let (mut next, mut last, mut damaged) = (search.from, None::<u64>, 0);
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let own = |header: &frame::Header| {
            header.log == search.log
                && header.segment == search.segment
                && header.batch >= next
                && header.batch < u64::MAX
        };
        let read = frame::read_batch(rest, &mut payload).ok();
        let Some((header, size)) = read.filter(|(header, _)| own(header)) else {
            // What is left of an earlier use of the file is no damage, nor is what was never
            // written: only what stands before a good batch.
            broken |= frame::Header::read(rest).is_ok_and(|header| own(&header));
            offset += frame::ALIGNMENT;
            continue;
        };
        // Those of one segment have consecutive numbers.
        let gap = last.is_some_and(|last| header.batch > last + 1);
        damaged += u64::from(broken || gap);
        (broken, last) = (false, Some(header.batch));
        next = header.batch + 1;
        match LinkBatch::from_bytes(std::mem::take(&mut payload)) {
            Some(messages) => found(Found { batch: header.batch, offset, size, messages }),
            None => damaged += 1,
        }
        offset += size;
    }
    (next, damaged + u64::from(broken))
}
