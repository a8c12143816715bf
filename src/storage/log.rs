//! A shard's log. It takes records and issues commands to the owner of the files. Owns which batch
//! a record is in, which batches are durable, and which values are alive. It is a pure state
//! machine: time is an argument, and it does no I/O.

pub use super::bounds::LogBounds;

use super::cleaning::Cleaning;
use super::failing::Health;
use super::frame::{self, BatchStamp};
use super::index::{IndexValue, LogIndex, RecordPosition};
use super::places::Places;
use super::record::{Effect, Record, RecordKey, StoreSecret};
use super::tap::JournalTap;
use super::unsynced::Unsynced;
use super::{Extent, StorageAnswer, StorageCommand};
use crate::mutant::Mutant;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Segments that are kept ready besides the next one, for records that take values out and for
/// copies.
pub const RESERVE: usize = 2;
/// A batch of this many bytes is committed without further gathering.
pub(super) const ENOUGH: usize = 256 << 10;
/// A batch of this many bytes, or of a quarter of a segment if that is less, takes no more records.
const LARGE: usize = 16 << 20;
/// Microseconds between tries while storage is down or the disk is full.
const RETRY: u64 = 1_000_000;

/// A segment with batches in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSegment {
    /// Its number: later ones are larger.
    pub number: u32,
    /// Its first batch.
    pub first: u64,
    /// The end of its last good batch, in bytes.
    pub end: u64,
}

/// The state of a log that recovery found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveredLog {
    /// Segments with batches, oldest first.
    pub segments: Vec<LogSegment>,
    /// The last batch; 0 when there is none.
    pub last_batch: u64,
    /// The largest segment number that any file has or had.
    pub last_segment: u32,
    /// The offset of each batch in its segment, in multiples of [`frame::ALIGNMENT`].
    pub blocks: Vec<u32>,
}

/// The batch that is being written, or is the next to be.
pub(super) struct Flight {
    pub(super) stamp: BatchStamp,
    /// The records, while the owner of the files does not have them.
    pub(super) payload: Option<Vec<u8>>,
    pub(super) since: u64,
    pub(super) bytes: usize,
    pub(super) sync: bool,
    /// Its segment has failed meanwhile, so the batch has to be written again.
    pub(super) doomed: bool,
}

/// A complete batch that waits to be written.
pub(super) struct WaitingBatch {
    pub(super) batch: u64,
    pub(super) payload: Vec<u8>,
    pub(super) since: u64,
}

/// Figures of a log.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LogFigures {
    /// Batches that became durable.
    pub commits: u64,
    /// Bytes written to segments, frames and copies included.
    pub written: u64,
    /// Bytes of records that were copied by cleaning.
    pub copied: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Segments that could not be made, read or dropped, syncs that failed, and messages that could
    /// not be read back.
    pub troubles: u64,
}

/// The log.
pub struct Log {
    pub(super) id: u64,
    pub(super) secret: StoreSecret,
    pub(super) bounds: LogBounds,
    pub(super) index: LogIndex,
    /// Oldest first; the last one is written to, unless it is sealed.
    pub(super) segments: VecDeque<LogSegment>,
    /// True when the last segment takes no further batch.
    pub(super) sealed: bool,
    ready: VecDeque<u32>,
    pub(super) creating: bool,
    create_after: u64,
    /// True when the last try to make a segment has failed.
    short: bool,
    last_segment: u32,
    pub(super) places: Places,
    pub(super) filling: Vec<u8>,
    /// The offset in `filling` at which the last record begins.
    pub(super) last: usize,
    pub(super) filling_since: u64,
    pub(super) spare: Vec<u8>,
    pub(super) in_flight: Option<Flight>,
    /// Complete batches that come before the one that is being filled, in order. Each is synced.
    pub(super) waiting: VecDeque<WaitingBatch>,
    pub(super) unsynced: Unsynced,
    /// Number of the batch that is being filled.
    pub(super) next_batch: u64,
    pub(super) written: u64,
    pub(super) durable: u64,
    pub(super) health: Health,
    pub(super) degraded: bool,
    pub(super) cleaning: Option<Cleaning>,
    /// The oldest segment is not needed any more once this batch is durable.
    pub(super) retiring: Option<u64>,
    /// Segments without a good batch, to be dropped.
    pub(super) junk: Vec<u32>,
    /// Segments to which a commit failed.
    pub(super) failed: Vec<u32>,
    /// Microseconds until the next try while storage is down.
    pub(super) patience: u64,
    pub(super) dropping: Option<u32>,
    /// Cleaning met something unreadable, or a segment may not be gone: no segment with batches is
    /// dropped any more.
    pub(super) stuck: bool,
    /// See [`Log::hold`].
    pub(super) held: bool,
    pub(super) tap: JournalTap,
    pub(super) trouble: Option<String>,
    pub(super) figures: LogFigures,
    /// Commands for the owner of the files, in order. The caller takes them out.
    pub commands: Vec<StorageCommand>,
}

impl Log {
    /// A log with this secret number, which goes on from what was found. [`Log::adopt`] adds the
    /// values that are alive.
    pub fn new(id: u64, secret: StoreSecret, bounds: LogBounds, found: RecoveredLog) -> Log {
        let first = found.segments.first().map_or(1, |segment| segment.first);
        Log {
            id,
            secret,
            bounds,
            index: LogIndex::default(),
            segments: found.segments.into(),
            // The content of a file behind its last good batch is unknown.
            sealed: true,
            ready: VecDeque::new(),
            creating: false,
            create_after: 0,
            short: false,
            last_segment: found.last_segment,
            places: Places::new(first, found.blocks),
            filling: Vec::new(),
            last: 0,
            filling_since: 0,
            spare: Vec::new(),
            in_flight: None,
            waiting: VecDeque::new(),
            unsynced: Unsynced::after(found.last_batch),
            next_batch: found.last_batch + 1,
            written: found.last_batch,
            durable: found.last_batch,
            health: Health::Up,
            degraded: false,
            cleaning: None,
            retiring: None,
            junk: Vec::new(),
            failed: Vec::new(),
            patience: RETRY,
            dropping: None,
            stuck: false,
            held: false,
            tap: JournalTap::default(),
            trouble: None,
            figures: LogFigures::default(),
            commands: Vec::new(),
        }
    }

    /// Takes over the values that recovery found alive.
    pub fn adopt(&mut self, alive: LogIndex) {
        self.index = alive;
    }

    /// Appends a record at `now`, in microseconds; returns the number of its batch. The record
    /// survives a power cut once [`Log::durable`] has reached that number.
    pub fn append(&mut self, record: &Record<'_>, now: u64) -> u64 {
        if self.filling.len() >= LARGE.min(self.bounds.segment as usize / 4) {
            self.put_aside(now);
        }
        if self.filling.is_empty() {
            self.filling_since = now;
        }
        self.last = self.filling.len();
        let position = RecordPosition::new(self.next_batch, self.last);
        let length = record.encode(&mut self.filling) as u32;
        match record.effect(self.secret) {
            Effect::Put(key) => self.index.put(key, IndexValue { position, length }),
            Effect::Take(key) => self.forget(key),
            Effect::TakeSlot(session, slot) => self.forget_slot(session, slot),
            Effect::None => {}
        }
        if self.degraded && Mutant::StorageDegradedLost.is_on() {
            self.filling.truncate(self.filling.len() - length as usize);
        }
        self.next_batch
    }

    /// Removes a value that is not alive any more, as another appended record implies.
    pub fn forget(&mut self, key: RecordKey) {
        self.index.take(key);
    }

    /// The same for both values of a message that waits for a session.
    pub fn forget_slot(&mut self, session: u64, slot: u32) {
        self.index.take_slot(session, slot);
    }

    /// Whether a value is stored under this key.
    pub fn has(&self, key: RecordKey) -> bool {
        self.index.get(key).is_some()
    }

    /// The last batch that survives a power cut.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The last batch whose records may be acknowledged to clients.
    pub fn kept(&self) -> u64 {
        match self.bounds.interval {
            _ if self.degraded => self.next_batch,
            Some(_) if Mutant::StorageWrittenEarly.is_on() => self.next_batch,
            // While written batches are written again, nothing beyond them is acknowledged.
            Some(_) => {
                let flying = self.in_flight.as_ref().map(|flight| flight.stamp.batch);
                let waiting = self.waiting.front().map(|waiting| waiting.batch);
                let again = flying.into_iter().chain(waiting).min();
                self.written.min(again.map_or(u64::MAX, |batch| batch - 1))
            }
            None => self.durable,
        }
    }

    /// The batch that a record appended now would be in.
    pub fn filling(&self) -> u64 {
        self.next_batch
    }

    /// Whether everything that was appended is durable.
    pub fn is_settled(&self) -> bool {
        let on_its_way = self.in_flight.is_some() || !self.waiting.is_empty();
        let written = self.filling.is_empty() && !on_its_way;
        written && self.unsynced.is_at_rest() && !self.wants_mark()
    }

    /// True while there is no room for new values.
    pub fn is_full(&self) -> bool {
        match self.ready.len().cmp(&RESERVE) {
            Ordering::Less => true,
            Ordering::Equal => {
                let room = self.segments.back().filter(|_| !self.sealed);
                let room = room.map_or(0, |last| self.bounds.segment.saturating_sub(last.end));
                // The bytes that wait already, and those that come in one step, must fit as well.
                room < self.bounds.segment / 4 + self.backlog() as u64
            }
            Ordering::Greater => false,
        }
    }

    /// True while the last try to make room for new values has failed, or may not be made.
    pub fn has_no_room(&self, now: u64) -> bool {
        let tried = now < self.create_after || !self.may_grow();
        self.is_full() && !self.creating && tried
    }

    /// Whether the log may take one more segment of the disk.
    fn may_grow(&self) -> bool {
        let count = (self.segments.len() + self.ready.len() + self.junk.len()) as u64;
        (count + 1).saturating_mul(self.bounds.segment) <= self.bounds.disk
    }

    /// Whether new values are taken. Records that take values out always are.
    pub fn accepts(&self, now: u64) -> bool {
        self.degraded || !self.is_down() && !self.is_full() && !self.is_behind(now)
    }

    /// Whether even records that take values out cannot be written, for more than a short delay.
    pub fn takes_nothing(&self, now: u64) -> bool {
        let next = frame::disk_size(self.backlog() + frame::ALIGNMENT) as u64;
        let fits = |last: &LogSegment| last.end + next <= self.bounds.segment;
        let writable = !self.sealed && self.segments.back().is_some_and(fits);
        self.refuses(now) && (self.is_down() || self.ready.is_empty() && !writable)
    }

    /// Bytes of records that are alive, and bytes in all segments.
    pub fn sizes(&self) -> (u64, u64) {
        (self.index.live(), self.segments.iter().map(|segment| segment.end).sum())
    }

    /// How many values are alive, and how many segments there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.index.len(), self.segments.len() + self.ready.len())
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.index.memory()
            + self.places.memory()
            + self.filling.capacity()
            + self.spare.capacity()
            + self.tap.memory()
            + self.backlog()
    }

    /// Figures since the start.
    pub fn figures(&self) -> LogFigures {
        self.figures
    }

    /// The last trouble; each is returned once.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// Does the work that is due at `now`; its commands are in [`Log::commands`]. Returns the time
    /// of the next call, in microseconds, if no answer comes before.
    pub fn turn(&mut self, now: u64) -> Option<u64> {
        self.keep_house(now);
        self.judge(now);
        let gathered = (self.in_flight.is_none() && !self.filling.is_empty())
            .then(|| self.filling_since + self.bounds.gather);
        let retry = match self.health {
            Health::Down(at) => Some(at),
            Health::Up | Health::Failed => None,
        };
        let create = (self.wants_segment() && !self.held).then_some(self.create_after);
        // This is later than now: work that is due and was not done waits for an answer.
        let late = (self.bounds.degraded > 0 && !self.is_settled())
            .then(|| now + self.bounds.age.saturating_sub(self.age(now)));
        [gathered, retry, create, self.sync_due(), late]
            .into_iter()
            .flatten()
            .filter(|&at| at > now)
            .min()
    }

    fn wants_segment(&self) -> bool {
        self.ready.len() <= RESERVE && !self.creating
    }

    pub(super) fn make_ready(&mut self, now: u64) {
        if self.wants_segment() && now >= self.create_after && self.may_grow() {
            self.last_segment += 1;
            self.creating = true;
            let (segment, size) = (self.last_segment, self.bounds.segment);
            self.commands.push(StorageCommand::Create { segment, size });
        }
    }

    pub(super) fn commit(&mut self, now: u64) {
        if let Health::Down(at) = self.health
            && now < at
        {
            return;
        }
        if self.in_flight.is_none()
            && let Some(WaitingBatch { batch, payload, since }) = self.waiting.pop_front()
        {
            self.take_off(batch, payload, since, true);
        } else if self.in_flight.is_none() {
            let mut gathered = now.saturating_sub(self.filling_since) >= self.bounds.gather;
            if self.wants_mark() {
                self.begin_mark(now);
                gathered = true;
            }
            if self.filling.is_empty() || !gathered && self.filling.len() < ENOUGH {
                return;
            }
            let batch = self.next_batch;
            let payload = std::mem::replace(&mut self.filling, std::mem::take(&mut self.spare));
            self.take_off(batch, payload, self.filling_since, self.bounds.interval.is_none());
            self.next_batch += 1;
            self.filling_since = now;
        }
        self.launch();
    }

    fn take_off(&mut self, batch: u64, payload: Vec<u8>, since: u64, sync: bool) {
        let needed = self.needed(batch);
        let stamp = BatchStamp { log: self.id, segment: 0, batch, needed, unsynced: 0 };
        let (bytes, payload) = (payload.len(), Some(payload));
        self.in_flight = Some(Flight { stamp, payload, since, bytes, sync, doomed: false });
    }

    /// Closes the batch that is being filled, and puts it among those that wait.
    fn put_aside(&mut self, now: u64) {
        let (batch, since) = (self.next_batch, self.filling_since);
        let payload = std::mem::take(&mut self.filling);
        self.waiting.push_back(WaitingBatch { batch, payload, since });
        self.next_batch += 1;
        self.filling_since = now;
    }

    /// The oldest batch that recovery needs when `batch` is durable.
    fn needed(&self, batch: u64) -> u64 {
        let leaves = self.retiring.is_some()
            || self.dropping.is_some()
                && self.dropping == self.segments.front().map(|first| first.number)
                && !Mutant::StorageNeedsDropped.is_on();
        let skip = usize::from(leaves);
        let oldest = self.segments.get(skip).map_or(batch, |segment| segment.first);
        if Mutant::StorageNeedsTooMuch.is_on() { batch } else { oldest }
    }

    /// Issues the command to write the batch in flight, if there is a segment with room for it.
    pub(super) fn launch(&mut self) {
        let Some(flight) = &mut self.in_flight else { return };
        if flight.payload.is_none() {
            return;
        }
        let size = frame::disk_size(flight.bytes) as u64;
        let fits = |last: &LogSegment| last.end + size <= self.bounds.segment;
        let fresh = self.sealed || !self.segments.back().is_some_and(fits);
        if (fresh || flight.sync) && self.unsynced.is_syncing() {
            // The sync may fail. Then unsynced batches are written before this one, and the segment
            // must not be synced again.
            return;
        }
        if fresh {
            let Some(number) = self.ready.pop_front() else { return };
            let first = flight.stamp.batch;
            self.segments.push_back(LogSegment { number, first, end: 0 });
            self.sealed = false;
            // Synced, so that everything that a power cut can tear is in one segment.
            flight.sync = true;
        }
        let Some(last) = self.segments.back_mut() else { return };
        let Some(payload) = flight.payload.take() else { return };
        flight.stamp.segment = last.number;
        let before = flight.stamp.batch - 1;
        if !Mutant::StorageUnsyncedUntold.is_on() {
            flight.stamp.unsynced = before.saturating_sub(self.durable) as u32;
        }
        let sync = match (flight.sync, self.unsynced.is_empty()) {
            (false, _) => Extent::Nothing,
            (true, true) => Extent::Segment,
            (true, false) => Extent::Everything,
        };
        let (stamp, offset) = (flight.stamp, last.end);
        self.commands.push(StorageCommand::Commit { stamp, offset, payload, sync });
    }

    /// Takes the answer to a command.
    pub fn answered(&mut self, answer: StorageAnswer, now: u64) {
        self.take_answer(answer, now);
        if !Mutant::StorageDegradedLate.is_on() {
            self.judge(now);
        }
    }

    fn take_answer(&mut self, answer: StorageAnswer, now: u64) {
        match answer {
            StorageAnswer::SegmentReady { segment } => {
                (self.creating, self.short) = (false, false);
                self.ready.push_back(segment);
            }
            StorageAnswer::NoSegment { segment, why } => {
                self.creating = false;
                self.create_after = now + RETRY;
                self.figures.troubles += 1;
                // Making a segment is tried every second; the trouble is reported once.
                if !std::mem::replace(&mut self.short, true) {
                    self.trouble = Some(format!(
                        "segment {segment} cannot be made, and is tried again every second: {why}"
                    ));
                }
            }
            StorageAnswer::Durable { batch, payload } => self.is_durable(batch, payload, now),
            StorageAnswer::Written { batch, payload } => self.is_written(batch, payload, now),
            StorageAnswer::Synced { batch } => self.is_synced(batch),
            StorageAnswer::Unsynced { batch, why } => self.is_unsynced(batch, &why, now),
            StorageAnswer::Failed { batch, payload, why } => self.failed(batch, payload, &why, now),
            StorageAnswer::Slice { segment, offset, bytes } => {
                self.cleaned(segment, offset, &bytes, now)
            }
            StorageAnswer::Unread { segment, why } => {
                self.cleaning = None;
                self.stuck = true;
                self.trouble(format!("segment {segment} cannot be read: {why}"));
            }
            // The shard takes these bytes itself.
            StorageAnswer::Bytes { .. } | StorageAnswer::Copied { .. } => {}
            StorageAnswer::Dropped { segment, outcome } => {
                self.dropping = None;
                if self.segments.front().is_some_and(|first| first.number == segment) {
                    self.segments.pop_front();
                    let first = self.segments.front().map_or(self.next_batch, |first| first.first);
                    self.places.drop_before(first);
                }
                let junk = self.junk.iter().position(|&junk| junk == segment);
                junk.map(|at| self.junk.remove(at));
                if let Err(why) = outcome {
                    // Whether the segment still exists is unknown. Dropping a later one could bring
                    // values back which that later one takes out. A segment without a good batch
                    // cannot do that.
                    self.stuck |= junk.is_none();
                    self.trouble(format!("segment {segment} cannot be removed: {why}"));
                }
            }
        }
    }

    /// Notes that messages for clients cannot be read back.
    pub fn cannot_read(&mut self, why: &str) {
        self.trouble(format!("messages cannot be read back: {why}"));
    }

    /// How many messages and bytes of a session's queue are kept in memory.
    pub fn head(&self) -> (usize, usize) {
        self.bounds.head
    }

    /// The same for the queue of a client that is not connected, while all queues have `held` bytes
    /// in memory.
    pub fn head_offline(&self, held: u64) -> (usize, usize) {
        let full = held >= self.bounds.heads && !Mutant::StorageHeadsUnbounded.is_on();
        if full { (0, 0) } else { self.bounds.head }
    }

    pub(super) fn trouble(&mut self, what: String) {
        self.figures.troubles += 1;
        self.trouble = Some(what);
    }

    fn is_durable(&mut self, batch: u64, mut payload: Vec<u8>, now: u64) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.stamp.batch == batch) else {
            return;
        };
        self.count_written(&flight);
        self.tap.see(&flight.stamp, &payload);
        self.unsynced.clear();
        (self.durable, self.written) = (batch, self.written.max(batch));
        if self.health != Health::Up {
            // There may be room again for a segment that could not be made meanwhile.
            self.create_after = now;
        }
        (self.health, self.patience) = (Health::Up, RETRY);
        payload.clear();
        payload.shrink_to(ENOUGH);
        self.spare = payload;
    }

    /// Counts a batch that is now in the last segment; returns its offset there.
    pub(super) fn count_written(&mut self, flight: &Flight) -> u64 {
        let size = frame::disk_size(flight.bytes) as u64;
        self.figures.commits += 1;
        self.figures.written += size;
        self.unsynced.tell((flight.stamp.batch - 1).saturating_sub(flight.stamp.unsynced.into()));
        let Some(last) = self.segments.back_mut() else { return 0 };
        last.end += size;
        let offset = last.end - size;
        self.places.add(flight.stamp.batch, offset);
        offset
    }
}
