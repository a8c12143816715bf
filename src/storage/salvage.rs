//! Reads what is left of a damaged log: every batch with correct checksums, in order, whatever is
//! missing between them. The records of missing batches are lost: messages that were acknowledged
//! may be sent again, and sessions may lack what was stored there.

use super::frame;
use super::index::{IndexValue, RecordPosition};
use super::record::{self, Record};
use super::recovery::{self, Read};
use std::collections::BTreeMap;
use std::fmt;

/// A part of a log that is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LostPart {
    /// These bytes of a segment are not a batch.
    Bytes {
        /// The segment.
        segment: u32,
        /// The first byte.
        from: u64,
        /// The byte behind the last.
        to: u64,
    },
    /// A batch contains something that is not a record; the records before it are used.
    Record {
        /// The segment.
        segment: u32,
        /// The batch.
        batch: u64,
    },
    /// Batches that no segment has.
    Batches {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A segment cannot be read to its end.
    Segment {
        /// Which.
        segment: u32,
        /// Why.
        why: String,
    },
}

impl fmt::Display for LostPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostPart::Bytes { segment, from, to } => {
                write!(f, "segment {segment}: bytes {from} to {to} are no batch")
            }
            LostPart::Record { segment, batch } => {
                write!(f, "segment {segment}: batch {batch} holds something that is no record")
            }
            LostPart::Batches { from, to } => write!(f, "batches {from} to {to} are missing"),
            LostPart::Segment { segment, why } => {
                write!(f, "segment {segment} cannot be read: {why}")
            }
        }
    }
}

/// The place of a batch.
struct BatchPlace {
    segment: u32,
    offset: u64,
    size: usize,
}

/// Passes each whole record of the log with this secret number to `take`, in order. `segments` has
/// the numbers of the segments in ascending order, with their lengths in bytes. Returns what is
/// lost. At most one segment is in memory at a time.
pub fn salvage(
    log: u64,
    segments: &[(u32, u64)],
    read: &mut Read<'_>,
    take: &mut dyn FnMut(&Record<'_>, IndexValue),
) -> Vec<LostPart> {
    let (mut lost, mut found) = (Vec::new(), BTreeMap::new());
    // In an older segment, the first batch of a later segment and all batches behind it are void,
    // because they were written again.
    let mut limit = u64::MAX;
    let mut bytes = Vec::new();
    for &(segment, length) in segments.iter().rev() {
        match read(segment, 0, usize::try_from(length).unwrap_or(usize::MAX), &mut bytes) {
            Ok(()) => limit = scan(log, segment, &bytes, limit, &mut found, &mut lost),
            Err(why) => lost.push(LostPart::Segment { segment, why }),
        }
    }
    let mut payload = Vec::new();
    let mut expected = None;
    for (&batch, place) in &found {
        if let Some(from) = expected.filter(|&from| from < batch) {
            lost.push(LostPart::Batches { from, to: batch - 1 });
        }
        expected = Some(batch + 1);
        let come = read(place.segment, place.offset, place.size, &mut bytes).is_ok();
        let whole = come && frame::read_batch(&bytes, &mut payload).is_ok();
        if !whole || !show(batch, &payload, take) {
            lost.push(LostPart::Record { segment: place.segment, batch });
        }
    }
    lost
}

/// Finds the batches of a segment that come before `limit`; returns the limit for older ones.
fn scan(
    log: u64,
    segment: u32,
    bytes: &[u8],
    limit: u64,
    found: &mut BTreeMap<u64, BatchPlace>,
    lost: &mut Vec<LostPart>,
) -> u64 {
    let (mut at, mut payload) = (0, Vec::new());
    // The offset where bytes that are not a batch began, and whether any of them is not zero.
    let mut gap: Option<(usize, bool)> = None;
    while at < bytes.len() {
        let rest = bytes.get(at..).unwrap_or(&[]);
        match frame::read_batch(rest, &mut payload) {
            Ok((header, size)) if recovery::is_of(&header, log, segment) => {
                if header.batch < limit {
                    let place = BatchPlace { segment, offset: at as u64, size };
                    found.entry(header.batch).or_insert(place);
                }
                note(segment, gap.take(), at, lost);
                at += size;
            }
            _ => {
                let block = rest.get(..frame::ALIGNMENT).unwrap_or(rest);
                let (from, any) = gap.unwrap_or((at, false));
                gap = Some((from, any || block.iter().any(|&byte| byte != 0)));
                at += frame::ALIGNMENT;
            }
        }
    }
    let head = frame::LogFrameHeader::read(bytes).ok();
    let head = head.filter(|head| recovery::is_of(head, log, segment) && head.frame == 0);
    head.map_or(limit, |head| limit.min(head.batch))
}

fn note(segment: u32, gap: Option<(usize, bool)>, to: usize, lost: &mut Vec<LostPart>) {
    // Bytes behind the last batch of a segment are not lost data: they are a torn batch, or from an
    // earlier use of the file.
    if let Some((from, true)) = gap {
        lost.push(LostPart::Bytes { segment, from: from as u64, to: to as u64 });
    }
}

fn show(batch: u64, payload: &[u8], take: &mut dyn FnMut(&Record<'_>, IndexValue)) -> bool {
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let Ok((record, length)) = record::decode(rest) else { return false };
        take(
            &record,
            IndexValue { position: RecordPosition::new(batch, at), length: length as u32 },
        );
        at += length;
    }
    true
}
