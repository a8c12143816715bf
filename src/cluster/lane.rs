//! Lanes: streams of records from one node to another, in order and without loss, over an engine
//! that loses, duplicates and reorders frames.
//!
//! There are three lanes from each node to each other node: [`Lane::Control`] for what nodes tell
//! each other, [`Lane::Messages`] for publications, and [`Lane::Bulk`] for moving sessions and for
//! retained messages that a node lacks. With separate lanes, control records never wait behind the
//! others. The sender ([`LaneSender`]) cuts a lane's records into segments of at most [`SEGMENT`]
//! bytes, numbered from 1, and keeps each segment until the receiver has acknowledged it. The
//! receiver ([`LaneReceiver`]) takes segments only in the order of their numbers: after a gap, the
//! sender starts again with the first missing one. A record may be longer than a segment.

use super::segment::{KeptSegment, OpenSegment};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::upgrade::cluster::{MovedLane, MovedSegment};
use crate::upgrade::code::ByteString;
use bytes::Bytes;
use std::collections::VecDeque;

/// The most bytes of a segment: large enough for about a hundred messages to share the engine's
/// cost of a frame.
pub const SEGMENT: usize = 16 * 1024;
/// The bytes at which a segment is full. Two frames of such segments, with everything that NATS
/// puts around them, fit into 32 KiB. The client library reads into buffers of that size and copies
/// what is left of a frame at the end of one to the next: with frames that are a little larger,
/// that would be nearly a whole frame each time.
pub const FULL: usize = SEGMENT - 384;
/// Bytes of records waiting at the receiver, above which the receiver asks for no more.
pub const RECEIVED: usize = 4 << 20;
/// The most bytes of a record: a message of the largest packet, with its topic name.
pub const LARGEST_RECORD: usize = crate::limits::MAX_REMAINING_LENGTH as usize + (128 << 10);
/// Bytes by which records usually go beyond a segment at most.
const BEYOND: usize = 1024;
/// Bytes that are kept for what arrives next, when everything that has arrived is taken.
const SPARE: usize = 8 * SEGMENT;
/// Bytes of the length that precedes each record.
pub const LENGTH: usize = 4;
/// Milliseconds without an acknowledgement after which segments are sent again. The time doubles
/// each further time, up to the longest.
const RESEND: u64 = 250;
const LONGEST_RESEND: u64 = 2000;
/// While publications come one after the other, this many segments of them are acknowledged at
/// once, unless the acknowledgement before was sent [`ACKNOWLEDGED`] milliseconds ago. A window
/// holds at least twice as many.
const SEGMENTS: u64 = 8;
const ACKNOWLEDGED: u64 = 2;
/// The least milliseconds between two restarts because of gaps: acknowledgements that were under
/// way report the same gap again.
const AFTER_GAP: u64 = 50;

/// The lanes by their purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Lane {
    /// What nodes tell each other.
    Control,
    /// Publications.
    Messages,
    /// Moving sessions, and retained messages that a node lacks.
    Bulk,
}

impl Lane {
    /// All lanes, by number.
    pub const ALL: [Lane; 3] = [Lane::Control, Lane::Messages, Lane::Bulk];
}

/// How far the receiver of a lane has got.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Acknowledgement {
    /// The number of the next segment that the receiver lacks.
    pub next: u64,
    /// The receiver takes segments with numbers below this.
    pub until: u64,
    /// Whether the receiver has got later segments.
    pub gap: bool,
}

/// The sending end of a lane.
pub struct LaneSender {
    /// Bytes that are not a segment yet.
    open: OpenSegment,
    kept: VecDeque<KeptSegment>,
    /// The number of the first segment in `kept`.
    first: u64,
    /// How many segments of `kept` have been sent.
    sent: usize,
    bytes: usize,
    /// The receiver takes segments with numbers below this.
    until: u64,
    resend_at: Option<Instant>,
    patience: u64,
    began_again: Instant,
    /// How often segments were sent again.
    resends: u64,
}

impl Default for LaneSender {
    fn default() -> Self {
        LaneSender {
            open: OpenSegment::default(),
            kept: VecDeque::new(),
            first: 1,
            sent: 0,
            bytes: 0,
            until: 1 + (RECEIVED / SEGMENT) as u64,
            resend_at: None,
            patience: RESEND,
            began_again: Instant(0),
            resends: 0,
        }
    }
}

impl LaneSender {
    /// Bytes that have not been acknowledged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether everything has been acknowledged.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether the receiver has acknowledged all segments with numbers below this.
    pub fn is_past(&self, number: u64) -> bool {
        self.first >= number
    }

    /// Whether the receiver has acknowledged no segment: a new receiver can start with the first.
    pub fn is_whole(&self) -> bool {
        self.first == 1
    }

    /// Records that have not been acknowledged.
    pub fn records(&self) -> u64 {
        self.all().map(|(_, records, _)| u64::from(records)).sum()
    }

    /// All segments, with their bytes, the records that end in them and the bytes at their front
    /// that belong to an earlier record.
    fn all(&self) -> impl Iterator<Item = (&[u8], u32, usize)> {
        let kept = self.kept.iter().map(|kept| (kept.bytes(), kept.records, kept.rest));
        kept.chain([(self.open.bytes(), self.open.records, self.open.rest)])
    }

    /// Hands out, in order, the records of which no part has been acknowledged.
    pub fn unacknowledged(&self, take: &mut dyn FnMut(&[u8])) {
        let mut bytes = Vec::with_capacity(self.bytes);
        for (segment, _, rest) in self.all() {
            let begin = if bytes.is_empty() { rest.min(segment.len()) } else { 0 };
            bytes.extend(segment.get(begin..).unwrap_or_default());
        }
        let mut rest = &bytes[..];
        while let Some((length, tail)) = rest.split_first_chunk::<LENGTH>()
            && let Some((record, tail)) =
                tail.split_at_checked(u32::from_le_bytes(*length) as usize)
        {
            take(record);
            rest = tail;
        }
    }

    /// How often segments were sent again.
    pub fn resends(&self) -> u64 {
        self.resends
    }

    /// Appends a record; `write` appends its bytes.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let end = self.open.end();
        let begin = end.len();
        end.extend_from_slice(&[0; LENGTH]);
        write(end);
        let length = end.len() - begin - LENGTH;
        debug_assert!(length <= LARGEST_RECORD, "a record of {length} bytes");
        if let Some(place) = end.get_mut(begin..begin + LENGTH) {
            place.copy_from_slice(&(length as u32).to_le_bytes());
        }
        self.bytes += LENGTH + length;
        self.open.records += 1;
        if self.open.len() >= FULL {
            self.cut();
        }
    }

    /// Makes segments of the open bytes; less than a full segment stays open.
    fn cut(&mut self) {
        let rest = self.open.len() % FULL;
        let full = self.open.len() - rest;
        // With room for what is written before the next cut, unless that is a long record.
        let tail = self.open.bytes().get(full..).unwrap_or_default();
        let mut tail = OpenSegment::new(tail, FULL + BEYOND);
        // All records but the last one end in the first segment, because `cut` is called as soon as
        // there is a full segment. The last one ends in the tail if there is one, and otherwise
        // exactly at the end of the last full segment.
        (tail.records, tail.rest) = (u32::from(rest > 0), rest);
        let in_last = 1 - tail.records;
        let mut cut = std::mem::replace(&mut self.open, tail);
        cut.truncate(full);
        cut.records -= 1;
        if full == FULL {
            self.kept.push_back(cut.closed());
        } else {
            let (mut records, mut rest) = (cut.records, cut.rest);
            for bytes in cut.bytes().chunks(FULL) {
                let mut segment = OpenSegment::new(bytes, 0);
                (segment.records, segment.rest) = (std::mem::take(&mut records), rest);
                self.kept.push_back(segment.closed());
                // Only the last record extends beyond the first segment.
                rest = FULL;
            }
        }
        if let Some(last) = self.kept.back_mut() {
            last.records += in_last;
        }
    }

    /// Closes the open segment. Returns the number of the segment that comes next.
    pub fn close(&mut self) -> u64 {
        if self.open.len() > 0 {
            let empty = OpenSegment::new(&[], FULL + BEYOND);
            self.kept.push_back(std::mem::replace(&mut self.open, empty).closed());
        }
        self.first + self.kept.len() as u64
    }

    /// The next segment to send with its number, if the receiver takes one.
    pub fn next(&mut self, now: Instant) -> Option<(u64, &[u8])> {
        if self.sent == self.kept.len() {
            self.close();
        }
        let number = self.first + self.sent as u64;
        let segment = self.kept.get(self.sent)?;
        if number >= self.until {
            return None;
        }
        self.sent += 1;
        self.resend_at.get_or_insert(now.plus_millis(self.patience));
        Some((number, segment.bytes()))
    }

    /// A frame with the segment that [`LaneSender::next`] returned last. `head` gives what the
    /// frame begins with, for the number of the segment.
    pub fn frame(&mut self, head: impl FnOnce(u64) -> Vec<u8>) -> Option<Bytes> {
        let at = self.sent.checked_sub(1)?;
        let number = self.first + at as u64;
        self.kept.get_mut(at).map(|segment| segment.frame(&head(number)))
    }

    /// Takes in an acknowledgement.
    pub fn acknowledged(&mut self, by: Acknowledgement, now: Instant) {
        let end = self.first + self.kept.len() as u64;
        if by.next < self.first || by.next > end {
            return; // older than what is known, or about what was never sent
        }
        let done = (by.next - self.first) as usize;
        for segment in self.kept.drain(..done) {
            self.bytes -= segment.bytes().len();
        }
        self.first = by.next;
        self.sent = self.sent.saturating_sub(done);
        // A bound on `until` keeps hostile values away from the end of the number range.
        self.until = self.until.max(by.until.min(by.next + (LARGEST_RECORD / SEGMENT) as u64 * 2));
        if done > 0 {
            self.patience = RESEND;
            self.resend_at = (self.sent > 0).then(|| now.plus_millis(RESEND));
        }
        if by.gap && self.sent > 0 && now.millis_since(self.began_again) >= AFTER_GAP {
            self.begin_again(now);
        }
    }

    /// Starts again with the first unacknowledged segment if its acknowledgement is overdue.
    pub fn tick(&mut self, now: Instant) {
        if self.resend_at.is_some_and(|at| at <= now) {
            self.patience = (self.patience * 2).min(LONGEST_RESEND);
            self.begin_again(now);
        }
    }

    /// Sends everything unacknowledged again, as it may be lost.
    pub fn begin_again(&mut self, now: Instant) {
        self.resend_at = None;
        self.began_again = now;
        if self.sent > 0 && !Mutant::ClusterResendSkipped.is_on() {
            self.sent = 0;
            self.resends += 1;
        }
    }

    /// When segments are sent again unless an acknowledgement arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.resend_at
    }
}

/// Both ends of a lane, for the process that takes this one's place.
pub fn pack(sender: &LaneSender, receiver: &LaneReceiver) -> MovedLane {
    let segments = sender.all().map(|(bytes, records, rest)| MovedSegment {
        bytes: ByteString(bytes.to_vec()),
        records,
        rest: rest as u32,
    });
    let lost = Mutant::ClusterUpgradeWindowLost.is_on();
    let first = if lost { sender.first + sender.kept.len() as u64 } else { sender.first };
    MovedLane {
        first,
        until: sender.until,
        segments: segments.filter(|_| !lost).collect(),
        next: receiver.next,
        arrived: ByteString(receiver.bytes.get(receiver.at..).unwrap_or_default().to_vec()),
    }
}

/// Both ends of a lane, as they were packed. What is not acknowledged is sent again, and what the
/// other node has sent meanwhile is asked for.
pub fn unpack(lane: MovedLane) -> (LaneSender, LaneReceiver) {
    let MovedLane { first, until, segments, next, arrived } = lane;
    let bytes = segments.iter().map(|segment| segment.bytes.0.len()).sum();
    let mut segments: Vec<OpenSegment> = segments
        .into_iter()
        .map(|MovedSegment { bytes, records, rest }| {
            let mut segment = OpenSegment::new(&bytes.0, 0);
            (segment.records, segment.rest) = (records, rest as usize);
            segment
        })
        .collect();
    let mut sender = LaneSender { first, until, bytes, ..LaneSender::default() };
    // A process whose segments were longer may have left more open than is full here.
    if let Some(open) = segments.pop_if(|open| open.len() < FULL) {
        sender.open = open;
    }
    sender.kept = segments.into_iter().map(OpenSegment::closed).collect();
    let (bytes, gap, due) = (arrived.0, true, true);
    (sender, LaneReceiver { next, bytes, gap, due, ..LaneReceiver::default() })
}

/// A record or a stream is not what a node of this version sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The receiving end of a lane.
pub struct LaneReceiver {
    /// The number of the next segment.
    next: u64,
    bytes: Vec<u8>,
    /// Bytes before this have been taken.
    at: usize,
    gap: bool,
    /// Whether the sender still has to be told how far this lane has got.
    due: bool,
    /// The values of `until` and `next` that the sender was told last, and when.
    told: u64,
    told_next: u64,
    told_at: Instant,
}

impl Default for LaneReceiver {
    fn default() -> Self {
        LaneReceiver {
            next: 1,
            bytes: Vec::new(),
            at: 0,
            gap: false,
            due: false,
            told: 0,
            told_next: 1,
            told_at: Instant(0),
        }
    }
}

impl LaneReceiver {
    /// Takes in a segment.
    pub fn take(&mut self, number: u64, segment: &[u8]) {
        self.due = true;
        let early = Mutant::ClusterGapTaken.is_on() && number > self.next;
        if number != self.next && !early {
            let doubled = Mutant::ClusterDoubleTaken.is_on() && number + 1 == self.next;
            self.gap |= number > self.next;
            if doubled {
                self.bytes.extend_from_slice(segment);
            }
            return;
        }
        if self.bytes.len() - self.at >= self.bound() {
            return; // the sender was told to wait, and will send it again
        }
        if self.at > self.bytes.len() / 2 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(segment);
        self.next = number + 1;
        self.gap = false;
    }

    /// The most bytes that may wait here.
    fn bound(&self) -> usize {
        RECEIVED + self.length().unwrap_or(0).min(LARGEST_RECORD)
    }

    /// Bytes that wait here.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The length of the record at the front, if it is there.
    fn length(&self) -> Option<usize> {
        let head = self.bytes.get(self.at..)?.first_chunk::<LENGTH>()?;
        Some(u32::from_le_bytes(*head) as usize)
    }

    /// The record at the front, if it is complete.
    ///
    /// # Errors
    /// Fails when the record is longer than any record may be.
    pub fn record(&self) -> Result<Option<&[u8]>, Malformed> {
        let Some(length) = self.length() else { return Ok(None) };
        if length > LARGEST_RECORD {
            return Err(Malformed);
        }
        let begin = self.at + LENGTH;
        Ok(self.bytes.get(begin..begin + length))
    }

    /// Removes the record at the front.
    pub fn taken(&mut self) {
        let Some(length) = self.length() else { return };
        self.at = (self.at + LENGTH + length).min(self.bytes.len());
        if self.at == self.bytes.len() {
            self.bytes.clear();
            // Shrunk to less, the buffer would grow again, and be copied, with each of several
            // segments that arrive at once.
            self.bytes.shrink_to(SPARE);
            self.at = 0;
        }
    }

    /// The number of the next segment, if all records before it have been taken.
    pub fn all_taken(&self) -> Option<u64> {
        (self.at == self.bytes.len()).then_some(self.next)
    }

    fn until(&self) -> u64 {
        let room = self.bound().saturating_sub(self.waiting());
        self.next + (room / SEGMENT) as u64
    }

    /// Whether the sender should be told now how far the lane has got.
    pub fn is_due(&self, lane: Lane, now: Instant) -> bool {
        self.until() >= self.told + (RECEIVED / SEGMENT / 4) as u64
            || self.due
                && (lane != Lane::Messages
                    || self.gap
                    || self.next >= self.told_next + SEGMENTS
                    || self.due_at() <= now)
    }

    /// When the sender should be told, if nothing else arrives.
    pub fn deadline(&self) -> Option<Instant> {
        self.due.then(|| self.due_at())
    }

    fn due_at(&self) -> Instant {
        self.told_at.plus_millis(ACKNOWLEDGED)
    }

    /// The acknowledgement that the sender is told now.
    pub fn acknowledgement(&mut self, now: Instant) -> Acknowledgement {
        self.due = false;
        self.told = self.until();
        (self.told_next, self.told_at) = (self.next, now);
        let early = u64::from(Mutant::ClusterAcknowledgedEarly.is_on() && self.gap);
        Acknowledgement { next: self.next + early, until: self.told, gap: self.gap }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
