//! Reads the segments of a log: yields its records, and the state that the log goes on from.
//!
//! Batches have consecutive numbers. Those of a segment are read until one is missing or broken, or
//! until the number that a later segment begins with. A batch that could not be written, or was
//! torn by a crash, is written again at the beginning of the next segment, and the part of it in
//! the older segment is void. Where the sequence ends and no later segment continues it, the end is
//! a torn tail, unless a frame follows that was written when the missing batch was durable; each
//! batch records that about those before it. If such a frame follows, something durable is missing,
//! and recovery stops.

use super::frame::{self, LogFrameHeader, NoFrame};
use super::image::Image;
use super::index::{IndexValue, RecordPosition};
use super::log::{Log, LogSegment, RecoveredLog};
use super::places::{RecordPlace, SegmentRange};
use super::record::{self, NoRecord, Record, message_key};
use crate::mutant::Mutant;
use std::fmt;

/// The number of batches that positions can name.
const BATCHES: u64 = 1 << 36;
/// Bodies with no more bytes than this between them are read together, and about how many bytes so.
const GAP: u64 = 16 << 10;
const TOGETHER: u64 = 1 << 20;

/// Reads bytes of a segment from an offset into a buffer, whose content they replace: the segment,
/// the offset, the length, the buffer. Reads fewer where the file ends.
pub type Read<'a> = dyn FnMut(u32, u64, usize, &mut Vec<u8>) -> Result<(), String> + 'a;

/// Why a log cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecoveryTrouble {
    /// A file cannot be read.
    Unreadable {
        /// The segment.
        segment: u32,
        /// Why.
        why: String,
    },
    /// A segment was written in a later version of the format.
    Newer {
        /// The segment.
        segment: u32,
        /// The version.
        version: u8,
    },
    /// Something that was stored durably is broken or missing.
    Damaged {
        /// The segment.
        segment: u32,
        /// The place in the segment, in bytes.
        offset: u64,
        /// The damage.
        what: Damage,
    },
}

/// What is wrong with a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// This batch should be at this place.
    Batch(u64),
    /// Segments that hold batches from this one on are missing.
    Missing(u64),
    /// A batch contains something that is not a record.
    Record(NoRecord),
}

impl fmt::Display for RecoveryTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryTrouble::Unreadable { segment, why } => {
                write!(f, "segment {segment} cannot be read: {why}")
            }
            RecoveryTrouble::Newer { segment, version } => write!(
                f,
                "segment {segment} has version {version} of the format, which a later RingMQ wrote"
            ),
            RecoveryTrouble::Damaged { segment, offset, what } => {
                write!(f, "segment {segment} is damaged at byte {offset}: ")?;
                match what {
                    Damage::Batch(batch) => {
                        write!(f, "batch {batch} is broken, later ones are not")
                    }
                    Damage::Missing(batch) => {
                        write!(f, "segments from batch {batch} on are missing before it")
                    }
                    Damage::Record(why) => write!(f, "it holds {why}"),
                }
            }
        }
    }
}

/// The result of recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The state that the log goes on from.
    pub found: RecoveredLog,
    /// The segment and the byte where the last batch was torn by a crash, if one was.
    pub torn: Option<(u32, u64)>,
    /// Segments that hold no batch of the log.
    pub unused: Vec<u32>,
}

struct SegmentHead {
    number: u32,
    /// The batch that the segment begins with, according to its first frame.
    first: Option<u64>,
}

/// Reads the log with this secret number. `segments` has the numbers of its segments in ascending
/// order, with their lengths in bytes. Each record is passed to `take`, in order. At most one
/// segment is in memory at a time.
///
/// # Errors
/// When something cannot be read or is damaged; the records that were passed until then are not
/// all.
pub fn recover(
    log: u64,
    segments: &[(u32, u64)],
    read: &mut Read<'_>,
    take: &mut dyn FnMut(&Record<'_>, IndexValue),
) -> Result<Recovered, RecoveryTrouble> {
    let heads = heads(log, segments, read)?;
    let mut recovered = Recovered::default();
    recovered.found.last_segment = segments.last().map_or(0, |&(number, _)| number);
    let mut expected = heads.iter().find_map(|head| head.first);
    let (begin, mut needed) = (expected.unwrap_or(1), 0);
    let mut end = (0, 0);
    // One buffer for all segments: to take pages for each of them anew costs as much as to read it.
    let (mut bytes, mut payload) = (Vec::new(), Vec::new());
    for (at, head) in heads.iter().enumerate() {
        let later = heads.get(at + 1..).unwrap_or(&[]);
        let limit = later.iter().filter_map(|head| head.first).min();
        let length = segments.get(at).map_or(0, |&(_, length)| length);
        whole(head.number, length, read, &mut bytes)?;
        let mut offset = 0;
        let start = expected;
        while let Some(next) = expected.filter(|&next| limit.is_none_or(|limit| next < limit)) {
            let rest = bytes.get(offset..).unwrap_or(&[]);
            let Ok((header, size)) = frame::read_batch(rest, &mut payload) else { break };
            if (header.log, header.segment, header.batch) != (log, head.number, next) {
                break;
            }
            show(&header, &payload, take).map_err(|why| RecoveryTrouble::Damaged {
                segment: head.number,
                offset: offset as u64,
                what: Damage::Record(why),
            })?;
            needed = header.needed;
            recovered.found.blocks.push((offset / frame::ALIGNMENT) as u32);
            offset += size;
            expected = Some(next + 1);
        }
        if recovered.add(head.number, start.unwrap_or(begin), offset) {
            end = (head.number, offset as u64);
        }
        let damaged = |offset: usize, batch| {
            let what = Damage::Batch(batch);
            Err(RecoveryTrouble::Damaged { segment: head.number, offset: offset as u64, what })
        };
        let goes_on = limit.is_some() && expected == limit;
        if !goes_on && let (Some(limit), Some(next)) = (limit, expected) {
            // Segments before the first one that begins with a batch are handled below.
            if next < limit && at >= first_of(&heads) {
                return damaged(offset, next);
            }
        }
        if limit.is_none() || at < first_of(&heads) {
            let next = expected.filter(|_| at >= first_of(&heads)).unwrap_or(0);
            match behind(log, head.number, next, bytes.get(offset..).unwrap_or(&[])) {
                Behind::Later if Mutant::StorageDamageTolerated.is_on() => {}
                Behind::Later => return damaged(offset, next),
                Behind::Torn => recovered.note_torn(head.number, offset),
                Behind::Nothing => {}
            }
        }
    }
    let Some(expected) = expected else { return Ok(recovered) };
    recovered.found.last_batch = expected - 1;
    if needed != 0 && needed < begin {
        return Err(missing(&recovered, end.0, needed));
    }
    if expected >= BATCHES {
        let what = Damage::Batch(expected);
        return Err(RecoveryTrouble::Damaged { segment: end.0, offset: end.1, what });
    }
    Ok(recovered)
}

/// Reads the bodies of messages that are needed at once and are not in `image` yet. Those that lie
/// close together are read by one call.
///
/// # Errors
/// When a body cannot be read.
pub fn fill(log: &Log, image: &mut Image, read: &mut Read<'_>) -> Result<(), RecoveryTrouble> {
    let place = |number| match log.locate(message_key(number)) {
        RecordPlace::There(span, offset) => Some((span, offset, number)),
        _ => None,
    };
    let mut wanted: Vec<_> = image.wanted().into_iter().filter_map(place).collect();
    wanted.sort_unstable_by_key(|(span, _, number)| (span.segment, span.offset, *number));
    let (mut left, mut bytes) = (&*wanted, Vec::new());
    while let Some(&(SegmentRange { segment, offset: from, length }, ..)) = left.first() {
        let mut end = from + length as u64;
        let near = left.iter().take_while(|(span, ..)| {
            let near = span.segment == segment && span.offset <= end + GAP && end - from < TOGETHER;
            end = if near { end.max(span.offset + span.length as u64) } else { end };
            near
        });
        let (together, rest) = left.split_at(near.count().max(1));
        left = rest;
        read(segment, from, (end - from) as usize, &mut bytes)
            .map_err(|why| RecoveryTrouble::Unreadable { segment, why })?;
        for &(span, offset, number) in together {
            let at = (span.offset - from) as usize;
            let Some(part) = bytes.get(at..at + span.length) else { continue };
            let mut own = part.to_vec();
            frame::unframe(offset, &mut own);
            if let Ok((Record::Put { message, body }, _)) = record::decode(&own)
                && message == number
            {
                image.fill(number, &body);
            }
        }
    }
    Ok(())
}

impl Recovered {
    /// Adds a segment of which the first `bytes` bytes are whole batches, beginning with batch
    /// `first`; false when there are none.
    fn add(&mut self, number: u32, first: u64, bytes: usize) -> bool {
        if bytes == 0 {
            self.unused.push(number);
        } else {
            self.found.segments.push(LogSegment { number, first, end: bytes as u64 });
        }
        bytes > 0
    }

    /// Notes where a batch was torn; the first place counts.
    fn note_torn(&mut self, segment: u32, offset: usize) {
        self.torn = self.torn.or(Some((segment, offset as u64)));
    }
}

/// The trouble when batches from `needed` on are needed and not all of them exist.
fn missing(recovered: &Recovered, last: u32, needed: u64) -> RecoveryTrouble {
    let segment = recovered.found.segments.first().map_or(last, |segment| segment.number);
    RecoveryTrouble::Damaged { segment, offset: 0, what: Damage::Missing(needed) }
}

/// The index of the first segment that begins with a batch.
fn first_of(heads: &[SegmentHead]) -> usize {
    heads.iter().position(|head| head.first.is_some()).unwrap_or(heads.len())
}

fn heads(
    log: u64,
    segments: &[(u32, u64)],
    read: &mut Read<'_>,
) -> Result<Vec<SegmentHead>, RecoveryTrouble> {
    let (mut heads, mut bytes) = (Vec::with_capacity(segments.len()), Vec::new());
    for &(number, _) in segments {
        read(number, 0, frame::ALIGNMENT, &mut bytes)
            .map_err(|why| RecoveryTrouble::Unreadable { segment: number, why })?;
        let first = match LogFrameHeader::read(&bytes) {
            Err(NoFrame::Version(version)) => {
                return Err(RecoveryTrouble::Newer { segment: number, version });
            }
            Ok(header) if is_of(&header, log, number) && header.frame == 0 => Some(header.batch),
            _ => None,
        };
        heads.push(SegmentHead { number, first });
    }
    Ok(heads)
}

pub(super) fn is_of(header: &LogFrameHeader, log: u64, segment: u32) -> bool {
    header.log == log && header.segment == segment && header.batch < BATCHES && header.batch > 0
}

fn whole(
    segment: u32,
    length: u64,
    read: &mut Read<'_>,
    bytes: &mut Vec<u8>,
) -> Result<(), RecoveryTrouble> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    read(segment, 0, length, bytes).map_err(|why| RecoveryTrouble::Unreadable { segment, why })
}

fn show(
    header: &LogFrameHeader,
    payload: &[u8],
    take: &mut dyn FnMut(&Record<'_>, IndexValue),
) -> Result<(), NoRecord> {
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let (record, length) = record::decode(rest)?;
        let position = RecordPosition::new(header.batch, at);
        take(&record, IndexValue { position, length: length as u32 });
        at += length;
    }
    Ok(())
}

/// What is behind the last good batch of a segment.
enum Behind {
    Nothing,
    /// Frames of batches that were not durable when the crash came.
    Torn,
    /// A frame that was written when the missing batch was durable.
    Later,
}

fn behind(log: u64, segment: u32, expected: u64, bytes: &[u8]) -> Behind {
    let mut found = Behind::Nothing;
    for block in bytes.chunks(frame::ALIGNMENT) {
        match LogFrameHeader::read(block) {
            Ok(header) if !is_of(&header, log, segment) => {}
            Ok(header) if header.batch > expected && header.durable() >= expected => {
                return Behind::Later;
            }
            Ok(header) if header.batch >= expected => found = Behind::Torn,
            Ok(_) | Err(_) => {}
        }
    }
    found
}
