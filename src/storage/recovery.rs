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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
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
    let mut reading = LogReading::new(log);
    reading.read_on(LogActivity::Rests, segments, read, take)?;
    Ok(reading.end())
}

/// Whether something is written to a log while it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogActivity {
    /// What is behind the last whole batch may become one.
    Written,
    /// What is behind the last whole batch is what a crash has left.
    Rests,
}

/// How far the reading of a log has come that may still be written to meanwhile. What was read of
/// it once is not read again.
pub struct LogReading {
    log: u64,
    recovered: Recovered,
    /// The next batch; `None` while no batch was found.
    expected: Option<u64>,
    /// The oldest batch that the log needs, by the last batch.
    needed: u64,
    payload: Vec<u8>,
    /// One buffer for all segments: to take pages for each of them anew costs as much as to read
    /// it.
    bytes: Vec<u8>,
}

impl LogReading {
    /// Of the log with this secret number, nothing so far.
    pub fn new(log: u64) -> LogReading {
        let recovered = Recovered::default();
        let (payload, bytes) = (Vec::new(), Vec::new());
        LogReading { log, recovered, expected: None, needed: 0, payload, bytes }
    }

    /// Whether what was read is still the beginning of the log with these segments. It is not, if a
    /// batch that was read was written again elsewhere, as happens after a failed write.
    ///
    /// # Errors
    /// When a segment cannot be read, or is of a later version.
    pub fn is_valid(
        &self,
        segments: &[(u32, u64)],
        read: &mut Read<'_>,
    ) -> Result<bool, RecoveryTrouble> {
        let found = &self.recovered.found;
        let (Some(last), Some(expected)) = (found.segments.last(), self.expected) else {
            return Ok(true);
        };
        let later = segments.iter().filter(|(number, _)| *number > last.number);
        let later: Vec<(u32, u64)> = later.copied().collect();
        let again = |head: &SegmentHead| head.first.is_some_and(|first| first < expected);
        let again = heads(self.log, &later, read)?.iter().any(again);
        let there = segments.iter().any(|(number, _)| *number == last.number);
        Ok(there && (!again || Mutant::StorageReadAgainUnseen.is_on()))
    }

    /// Reads on where the last call has stopped. Segments that were dropped since are forgotten:
    /// copies of what was alive in them come later in the log.
    ///
    /// # Errors
    /// As [`recover`]; this reading is of no use then.
    pub fn read_on(
        &mut self,
        activity: LogActivity,
        segments: &[(u32, u64)],
        read: &mut Read<'_>,
        take: &mut dyn FnMut(&Record<'_>, IndexValue),
    ) -> Result<(), RecoveryTrouble> {
        self.begin_again(segments);
        let heads = heads(self.log, segments, read)?;
        self.expected = self.expected.or_else(|| heads.iter().find_map(|head| head.first));
        for (at, head) in heads.iter().enumerate() {
            let length = segments.get(at).map_or(0, |&(_, length)| length);
            if !self.is_read(head.number) {
                let behind = self.read_segment(&heads, at, length, read, take)?;
                if activity == LogActivity::Rests {
                    self.judge(&heads, at, &behind)?;
                }
                self.bytes = behind.bytes;
            }
        }
        let Some(expected) = self.expected else { return Ok(()) };
        let Recovered { found, .. } = &mut self.recovered;
        found.last_batch = expected - 1;
        let begin = found.segments.first().map_or(expected, |segment| segment.first);
        let end = found.segments.last().map_or((0, 0), |segment| (segment.number, segment.end));
        let damaged =
            |(segment, offset), what| Err(RecoveryTrouble::Damaged { segment, offset, what });
        if self.needed != 0 && self.needed < begin {
            let first = found.segments.first().map_or(end.0, |segment| segment.number);
            return damaged((first, 0), Damage::Missing(self.needed));
        }
        if expected >= BATCHES {
            return damaged(end, Damage::Batch(expected));
        }
        Ok(())
    }

    /// What was found.
    pub fn end(self) -> Recovered {
        self.recovered
    }

    /// Forgets what is to be found anew, and segments that are not there any more.
    fn begin_again(&mut self, segments: &[(u32, u64)]) {
        let Recovered { found, torn, unused } = &mut self.recovered;
        found.last_segment = segments.last().map_or(0, |&(number, _)| number);
        *torn = None;
        unused.clear();
        let is_there = |number| segments.binary_search_by_key(&number, |&(other, _)| other).is_ok();
        let before = found.segments.first().map(|segment| segment.first);
        let stays = Mutant::StorageReadDroppedStay.is_on();
        found.segments.retain(|segment| stays || is_there(segment.number));
        let first = found.segments.first().map(|segment| segment.first);
        match (before, first) {
            (Some(before), Some(first)) => {
                let gone = (first - before) as usize;
                found.blocks.drain(..gone.min(found.blocks.len()));
            }
            _ => {
                found.blocks.clear();
                self.expected = None;
            }
        }
    }

    /// Whether a segment was read whole before: it is not the last one that has batches.
    fn is_read(&self, number: u32) -> bool {
        let mut known = self.recovered.found.segments.iter();
        let last = self.recovered.found.segments.last();
        known.any(|segment| segment.number == number)
            && last.is_some_and(|last| last.number != number)
    }

    /// Reads the batches of a segment; returns the bytes behind them.
    fn read_segment(
        &mut self,
        heads: &[SegmentHead],
        at: usize,
        length: u64,
        read: &mut Read<'_>,
        take: &mut dyn FnMut(&Record<'_>, IndexValue),
    ) -> Result<BehindBatches, RecoveryTrouble> {
        let (log, number) = (self.log, heads.get(at).map_or(0, |head| head.number));
        let limit = limit(heads, at);
        let known = self.recovered.found.segments.pop_if(|known| known.number == number);
        let begun = known.map_or(0, |known| known.end);
        let mut bytes = std::mem::take(&mut self.bytes);
        whole(number, begun, length, read, &mut bytes)?;
        let mut offset = 0;
        let start = known.map(|known| known.first).or(self.expected);
        while let Some(next) = self.expected.filter(|&next| limit.is_none_or(|limit| next < limit))
        {
            let rest = bytes.get(offset..).unwrap_or(&[]);
            let Ok((header, size)) = frame::read_batch(rest, &mut self.payload) else { break };
            if (header.log, header.segment, header.batch) != (log, number, next) {
                break;
            }
            let place = begun + offset as u64;
            show(&header, &self.payload, take).map_err(|why| RecoveryTrouble::Damaged {
                segment: number,
                offset: place,
                what: Damage::Record(why),
            })?;
            self.needed = header.needed;
            self.recovered.found.blocks.push((place / frame::ALIGNMENT as u64) as u32);
            offset += size;
            self.expected = Some(next + 1);
        }
        let place = begun + offset as u64;
        self.recovered.add(number, start.unwrap_or(1), place);
        Ok(BehindBatches { number, place, bytes, from: offset })
    }

    /// Whether what is behind the batches of a segment is what a crash may leave.
    fn judge(
        &mut self,
        heads: &[SegmentHead],
        at: usize,
        behind_it: &BehindBatches,
    ) -> Result<(), RecoveryTrouble> {
        let &BehindBatches { number, place, ref bytes, from } = behind_it;
        let bytes = bytes.get(from..).unwrap_or_default();
        let damaged = |batch| {
            let what = Damage::Batch(batch);
            Err(RecoveryTrouble::Damaged { segment: number, offset: place, what })
        };
        let limit = limit(heads, at);
        let goes_on = limit.is_some() && self.expected == limit;
        if !goes_on && let (Some(limit), Some(next)) = (limit, self.expected) {
            // Segments before the first one that begins with a batch are handled below.
            if next < limit && at >= first_of(heads) {
                return damaged(next);
            }
        }
        if limit.is_none() || at < first_of(heads) {
            let next = self.expected.filter(|_| at >= first_of(heads)).unwrap_or(0);
            match behind(self.log, number, next, bytes) {
                Behind::Later if Mutant::StorageDamageTolerated.is_on() => {}
                Behind::Later => return damaged(next),
                Behind::Torn => self.recovered.note_torn(number, place),
                Behind::Nothing => {}
            }
        }
        Ok(())
    }
}

/// The bytes of a segment behind its last whole batch, and where they begin.
struct BehindBatches {
    number: u32,
    place: u64,
    bytes: Vec<u8>,
    /// Where they begin among the bytes.
    from: usize,
}

/// The first batch of the segments behind this one.
fn limit(heads: &[SegmentHead], at: usize) -> Option<u64> {
    heads.get(at + 1..).unwrap_or(&[]).iter().filter_map(|head| head.first).min()
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
    /// Adds a segment whose whole batches end at that byte, and begin with batch `first` if there
    /// are any.
    fn add(&mut self, number: u32, first: u64, end: u64) {
        match end {
            0 => self.unused.push(number),
            _ => self.found.segments.push(LogSegment { number, first, end }),
        }
    }

    /// Notes where a batch was torn; the first place counts.
    fn note_torn(&mut self, segment: u32, offset: u64) {
        self.torn = self.torn.or(Some((segment, offset)));
    }
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

/// The bytes of a segment from an offset on.
fn whole(
    segment: u32,
    from: u64,
    length: u64,
    read: &mut Read<'_>,
    bytes: &mut Vec<u8>,
) -> Result<(), RecoveryTrouble> {
    let length = usize::try_from(length.saturating_sub(from)).unwrap_or(usize::MAX);
    read(segment, from, length, bytes).map_err(|why| RecoveryTrouble::Unreadable { segment, why })
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
