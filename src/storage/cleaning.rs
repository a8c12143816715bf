//! Makes room on the disk: the live records of a log's oldest segment are copied behind the newest
//! batch, and the segment is dropped when the copies are durable.

use super::StorageCommand;
use super::failing::Health;
use super::frame;
use super::index::RecordPosition;
use super::log::{ENOUGH, Log, LogSegment};
use super::record::{self, Effect, Record};
use crate::mutant::Mutant;

/// Cleaning pauses while this many bytes wait for the next commit.
const CLEANING_FILL: usize = 1 << 20;

/// The oldest segment, while its live records are copied.
pub(super) struct Cleaning {
    segment: LogSegment,
    offset: u64,
    length: usize,
    reading: bool,
}

impl Cleaning {
    /// True while cleaning waits for bytes that it has asked for.
    pub(super) fn is_reading(&self) -> bool {
        self.reading
    }
}

impl Log {
    pub(super) fn clean(&mut self) {
        let idle = self.retiring.is_none() && self.dropping.is_none() && !self.stuck;
        if self.cleaning.is_none() && idle && self.health == Health::Up && self.is_worth_it() {
            let Some(&segment) = self.segments.front() else { return };
            let length = self.bounds.slice;
            self.cleaning = Some(Cleaning { segment, offset: 0, length, reading: false });
        }
        let Some(cleaning) = self.cleaning.as_mut().filter(|cleaning| !cleaning.reading) else {
            return;
        };
        if self.health != Health::Up || self.filling.len() >= CLEANING_FILL {
            return;
        }
        let (segment, offset) = (cleaning.segment.number, cleaning.offset);
        let left = cleaning.segment.end - offset;
        let length = cleaning.length.min(usize::try_from(left).unwrap_or(usize::MAX));
        cleaning.reading = true;
        self.commands.push(StorageCommand::Clean { segment, offset, length });
    }

    /// Whether the oldest segment is to be cleaned.
    fn is_worth_it(&self) -> bool {
        let unsynced = self.unsynced.first_segment();
        let synced = |first: &LogSegment| unsynced.is_none_or(|unsynced| first.number < unsynced);
        if self.segments.len() < 2 || !self.segments.front().is_some_and(synced) {
            return false;
        }
        let (live, _) = self.sizes();
        // Room that a sealed segment does not use counts as dead.
        let taken = |segment: &LogSegment| segment.end.max(self.bounds.segment);
        let used: u64 = self.segments.iter().map(taken).sum();
        let dead = used.saturating_sub(live);
        let much = used > 2 * live + 2 * self.bounds.segment;
        much || self.is_full() && dead > self.bounds.segment
    }

    /// Takes a part of the oldest segment, and appends copies of the live records in it.
    pub(super) fn cleaned(&mut self, segment: u32, offset: u64, bytes: &[u8], now: u64) {
        let Some(mut cleaning) = self.cleaning.take_if(|cleaning| {
            cleaning.reading && (cleaning.segment.number, cleaning.offset) == (segment, offset)
        }) else {
            return;
        };
        cleaning.reading = false;
        let mut payload = std::mem::take(&mut self.spare);
        let (mut at, mut damaged) = (0, false);
        while at < bytes.len() {
            match frame::read_batch(&bytes[at..], &mut payload) {
                Ok((header, size)) if header.log == self.id && header.segment == segment => {
                    damaged |= !self.copy_live(header.batch, &payload, now);
                    at += size;
                }
                // A batch may be longer than a usual read; then the next read gets the whole batch.
                Err(_) if at == 0 && Mutant::StorageCleanerWedged.is_on() => break,
                Err((_, frame::NoFrame::Short | frame::NoFrame::Header)) if at == 0 => {
                    let whole = batch_size(bytes).filter(|&whole| whole > bytes.len());
                    let left = cleaning.segment.end - offset;
                    damaged = whole.is_none_or(|whole| whole as u64 > left);
                    cleaning.length = whole.unwrap_or(self.bounds.slice);
                    break;
                }
                Err(_) if at > 0 => break,
                _ => {
                    damaged = true;
                    break;
                }
            }
        }
        payload.clear();
        payload.shrink_to(ENOUGH);
        self.spare = payload;
        if damaged {
            self.stuck = true;
            self.trouble(format!("segment {segment} is damaged near byte {}", offset + at as u64));
            return;
        }
        cleaning.offset += at as u64;
        if at > 0 {
            cleaning.length = self.bounds.slice;
        }
        if cleaning.offset < cleaning.segment.end {
            self.cleaning = Some(cleaning);
            return;
        }
        // The segment may be dropped once the copies are durable, and with them a batch that
        // records that the segment is not needed. Such a batch needs some content.
        if self.filling.is_empty() {
            self.append(&Record::Nothing, now);
        }
        self.retiring = Some(self.next_batch);
    }

    /// Appends copies of the live records of a batch; false when it contains something that is not
    /// a record.
    fn copy_live(&mut self, batch: u64, payload: &[u8], now: u64) -> bool {
        let mut at = 0;
        while at < payload.len() {
            let Ok((record, length)) = record::decode(&payload[at..]) else { return false };
            let position = RecordPosition::new(batch, at);
            if let Effect::Put(key) = record.effect(self.secret)
                && self.index.get(key).is_some_and(|value| value.position == position)
                && !Mutant::StorageLiveNotCopied.is_on()
            {
                self.append(&record, now);
                self.figures.copied += length as u64;
            } else if Mutant::StorageDeadCopied.is_on() {
                self.append(&record, now);
            }
            at += length;
        }
        true
    }

    pub(super) fn drop_oldest(&mut self) {
        if self.dropping.is_some() {
            return;
        }
        let early = Mutant::StorageDropsEarly.is_on();
        if !self.stuck && self.retiring.is_some_and(|batch| self.durable >= batch || early) {
            self.retiring = None;
            let Some(first) = self.segments.front() else { return };
            self.dropping = Some(first.number);
        } else if let Some(&junk) = self.junk.first() {
            self.dropping = Some(junk);
        }
        if let Some(segment) = self.dropping {
            let reuse = !self.failed.contains(&segment) || Mutant::StorageBadReused.is_on();
            self.failed.retain(|&failed| failed != segment);
            self.commands.push(StorageCommand::Drop { segment, reuse });
        }
    }
}

/// Bytes of the batch whose first header is at the start of `bytes`.
fn batch_size(bytes: &[u8]) -> Option<usize> {
    let header = frame::LogFrameHeader::read(bytes).ok()?;
    Some(frame::disk_size(header.total as usize))
}
