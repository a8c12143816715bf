//! A shard's log: records in, commands to the owner of the files out. A pure state machine.

use super::frame::{self, Stamp};
use super::index::{Index, Position, Value};
use super::record::{self, Effect, Key, Record, Secret};
use super::{Answer, Command};
use crate::mutant::Mutant;
use std::collections::VecDeque;

/// Segments that are kept ready besides the next one, for what takes values out and for copying.
pub const RESERVE: usize = 2;
/// Cleaning waits while so many bytes wait for the next commit.
const CLEANING_FILL: usize = 1 << 20;
/// A batch of so many bytes is committed without further gathering.
const ENOUGH: usize = 256 << 10;
/// Microseconds between tries while storage is down or the disk is full.
const RETRY: u64 = 1_000_000;
/// The most of them: each try takes a fresh segment.
const LONGEST_RETRY: u64 = 30_000_000;

/// How a log behaves.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a segment.
    pub segment: u64,
    /// Bytes that all segments may take together.
    pub disk: u64,
    /// Microseconds that a batch gathers at most before it is committed.
    pub gather: u64,
    /// Bytes that may wait to be durable before no new values are taken.
    pub backlog: usize,
    /// Microseconds that they may.
    pub age: u64,
    /// Bytes read at a time while cleaning; a batch that is longer is read whole.
    pub slice: usize,
}

impl Bounds {
    /// Those of the broker, apart from what is configured.
    pub const BROKER: Bounds = Bounds {
        segment: 64 << 20,
        disk: u64::MAX,
        gather: 5000,
        backlog: 16 << 20,
        age: 1_000_000,
        slice: 1 << 20,
    };
}

/// A segment with batches in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its number: later ones are larger.
    pub number: u32,
    /// Its first batch.
    pub first: u64,
    /// Where its last good batch ends, in bytes.
    pub end: u64,
}

/// What recovery found, to go on from.
#[derive(Debug, Default)]
pub struct Found {
    /// Segments with batches, oldest first.
    pub segments: Vec<Segment>,
    /// The last batch; 0 when there is none.
    pub last_batch: u64,
    /// The largest segment number that any file has or had.
    pub last_segment: u32,
}

/// A batch on its way.
struct Flight {
    stamp: Stamp,
    /// The records while they are here: to be written again.
    payload: Option<Vec<u8>>,
    since: u64,
    bytes: usize,
}

/// Whether batches become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    Up,
    /// The last try failed, and the next has its own fresh segment.
    Failed,
    /// Two tries failed one after the other; the next one comes then.
    Down(u64),
}

/// The oldest segment while what is alive of it is copied.
struct Cleaning {
    segment: Segment,
    offset: u64,
    length: usize,
    reading: bool,
}

/// Figures of a log.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Batches that became durable.
    pub commits: u64,
    /// Bytes written to segments, frames and copies included.
    pub written: u64,
    /// Bytes of records that were copied by cleaning.
    pub copied: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Segments that could not be made, read or dropped.
    pub troubles: u64,
}

/// The log.
pub struct Log {
    id: u64,
    secret: Secret,
    bounds: Bounds,
    index: Index,
    /// Oldest first; the last one is written to, unless it is sealed.
    segments: VecDeque<Segment>,
    /// The last segment takes no further batch.
    sealed: bool,
    ready: VecDeque<u32>,
    creating: bool,
    create_after: u64,
    last_segment: u32,
    filling: Vec<u8>,
    filling_since: u64,
    spare: Vec<u8>,
    in_flight: Option<Flight>,
    /// Number of the batch that is being filled.
    next_batch: u64,
    durable: u64,
    health: Health,
    cleaning: Option<Cleaning>,
    /// The oldest segment needs no more, once this batch is durable.
    retiring: Option<u64>,
    /// Segments that hold nothing good, to be dropped.
    junk: Vec<u32>,
    /// Microseconds until the next try while storage is down.
    patience: u64,
    dropping: Option<u32>,
    /// Cleaning met something that cannot be read: nothing is dropped any more.
    stuck: bool,
    trouble: Option<String>,
    figures: Figures,
    /// What is to be done, in order.
    pub commands: Vec<Command>,
}

impl Log {
    /// A log with that secret number, that goes on from what was found. Values found alive are told
    /// by [`Log::adopt`].
    pub fn new(id: u64, secret: Secret, bounds: Bounds, found: Found) -> Log {
        Log {
            id,
            secret,
            bounds,
            index: Index::default(),
            segments: found.segments.into(),
            // What a file may have behind its last good batch is not known.
            sealed: true,
            ready: VecDeque::new(),
            creating: false,
            create_after: 0,
            last_segment: found.last_segment,
            filling: Vec::new(),
            filling_since: 0,
            spare: Vec::new(),
            in_flight: None,
            next_batch: found.last_batch + 1,
            durable: found.last_batch,
            health: Health::Up,
            cleaning: None,
            retiring: None,
            junk: Vec::new(),
            patience: RETRY,
            dropping: None,
            stuck: false,
            trouble: None,
            figures: Figures::default(),
            commands: Vec::new(),
        }
    }

    /// A value that recovery found alive.
    pub fn adopt(&mut self, key: Key, value: Value) {
        self.index.put(key, value);
    }

    /// Appends a record at `now`, in microseconds; returns the batch it is in. It survives a power
    /// cut once [`Log::durable`] has come to that.
    pub fn append(&mut self, record: &Record<'_>, now: u64) -> u64 {
        if self.filling.is_empty() {
            self.filling_since = now;
        }
        let position = Position::new(self.next_batch, self.filling.len());
        let length = record.encode(&mut self.filling) as u32;
        match record.effect(self.secret) {
            Effect::Put(key) => self.index.put(key, Value { position, length }),
            Effect::Take(key) => self.forget(key),
            Effect::TakeBoth(keys) => keys.into_iter().for_each(|key| self.forget(key)),
            Effect::None => {}
        }
        self.next_batch
    }

    /// A value is not alive any more, by what another record says that was appended.
    pub fn forget(&mut self, key: Key) {
        self.index.take(key);
    }

    /// Whether a value is stored under that key.
    pub fn has(&self, key: Key) -> bool {
        self.index.get(key).is_some()
    }

    /// The last batch that survives a power cut.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The batch that what is appended now is in.
    pub fn filling(&self) -> u64 {
        self.next_batch
    }

    /// Whether everything that was appended is durable.
    pub fn is_settled(&self) -> bool {
        self.filling.is_empty() && self.in_flight.is_none()
    }

    /// True while batches do not become durable.
    pub fn is_down(&self) -> bool {
        matches!(self.health, Health::Down(_))
    }

    /// True while no room is left for new values.
    pub fn is_full(&self) -> bool {
        let room = self.segments.back().filter(|_| !self.sealed);
        let room = room.map_or(0, |last| self.bounds.segment.saturating_sub(last.end));
        // What waits already and what comes in one step must fit besides.
        let enough = self.bounds.segment / 4 + self.backlog() as u64;
        self.ready.len() < RESERVE || self.ready.len() == RESERVE && room < enough
    }

    /// Whether new values are taken. What takes values out always is.
    pub fn accepts(&self, now: u64) -> bool {
        !self.is_down() && !self.is_full() && !self.is_behind(now)
    }

    /// True when as much as may waits to be durable, or for as long.
    pub fn is_behind(&self, now: u64) -> bool {
        self.backlog() >= self.bounds.backlog || self.age(now) >= self.bounds.age
    }

    /// Bytes that wait to be durable.
    pub fn backlog(&self) -> usize {
        self.filling.len() + self.in_flight.as_ref().map_or(0, |flight| flight.bytes)
    }

    /// Microseconds that the oldest of them has waited.
    pub fn age(&self, now: u64) -> u64 {
        let waiting = (!self.filling.is_empty()).then_some(self.filling_since);
        let since = self.in_flight.as_ref().map(|flight| flight.since).or(waiting);
        since.map_or(0, |since| now.saturating_sub(since))
    }

    /// Bytes of records that are alive, and bytes that segments hold.
    pub fn sizes(&self) -> (u64, u64) {
        (self.index.live(), self.segments.iter().map(|segment| segment.end).sum())
    }

    /// How many values are alive, and how many segments there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.index.len(), self.segments.len() + self.ready.len())
    }

    /// Figures since the start.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// What went wrong last, once.
    pub fn take_trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// Does what is due at `now`; what it wants is in [`Log::commands`]. Returns when to call it
    /// again at the latest, if it has not been told an answer by then.
    pub fn turn(&mut self, now: u64) -> Option<u64> {
        self.make_ready(now);
        self.commit(now);
        self.clean();
        self.drop_oldest();
        let gathered = (self.in_flight.is_none() && !self.filling.is_empty())
            .then(|| self.filling_since + self.bounds.gather);
        let retry = match self.health {
            Health::Down(at) => Some(at),
            Health::Up | Health::Failed => None,
        };
        let create = self.wants_segment().then_some(self.create_after);
        // Later than now: what is due and was not done waits for an answer.
        [gathered, retry, create].into_iter().flatten().filter(|&at| at > now).min()
    }

    fn wants_segment(&self) -> bool {
        self.ready.len() <= RESERVE && !self.creating
    }

    fn make_ready(&mut self, now: u64) {
        let count = (self.segments.len() + self.ready.len() + self.junk.len()) as u64;
        let fits = (count + 1).saturating_mul(self.bounds.segment) <= self.bounds.disk;
        if self.wants_segment() && now >= self.create_after && fits {
            self.last_segment += 1;
            self.creating = true;
            let (segment, size) = (self.last_segment, self.bounds.segment);
            self.commands.push(Command::Create { segment, size });
        }
    }

    fn commit(&mut self, now: u64) {
        if let Health::Down(at) = self.health
            && now < at
        {
            return;
        }
        if self.in_flight.is_none() {
            let gathered = now.saturating_sub(self.filling_since) >= self.bounds.gather;
            if self.filling.is_empty() || !gathered && self.filling.len() < ENOUGH {
                return;
            }
            let batch = self.next_batch;
            let payload = std::mem::replace(&mut self.filling, std::mem::take(&mut self.spare));
            let needed = self.needed(batch);
            let stamp = Stamp { log: self.id, segment: 0, batch, needed };
            let (since, bytes) = (self.filling_since, payload.len());
            self.in_flight = Some(Flight { stamp, payload: Some(payload), since, bytes });
            self.next_batch += 1;
            self.filling_since = now;
        }
        self.launch();
    }

    /// The oldest batch that recovery cannot do without.
    fn needed(&self, batch: u64) -> u64 {
        let leaves = self.retiring.is_some()
            || self.dropping.is_some()
                && self.dropping == self.segments.front().map(|first| first.number)
                && !Mutant::StorageNeedsDropped.is_on();
        let skip = usize::from(leaves);
        let oldest = self.segments.get(skip).map_or(batch, |segment| segment.first);
        if Mutant::StorageNeedsTooMuch.is_on() { batch } else { oldest }
    }

    /// Sends the batch that is to go to where there is room for it.
    fn launch(&mut self) {
        let Some(flight) = &mut self.in_flight else { return };
        if flight.payload.is_none() {
            return;
        }
        let size = frame::disk_size(flight.bytes) as u64;
        let fits = |last: &Segment| last.end + size <= self.bounds.segment;
        if self.sealed || !self.segments.back().is_some_and(fits) {
            let Some(number) = self.ready.pop_front() else { return };
            let first = flight.stamp.batch;
            self.segments.push_back(Segment { number, first, end: 0 });
            self.sealed = false;
        }
        let Some(last) = self.segments.back_mut() else { return };
        let Some(payload) = flight.payload.take() else { return };
        flight.stamp.segment = last.number;
        let (stamp, offset) = (flight.stamp, last.end);
        self.commands.push(Command::Commit { stamp, offset, payload });
    }

    /// What became of a command.
    pub fn answered(&mut self, answer: Answer, now: u64) {
        match answer {
            Answer::SegmentReady { segment } => {
                self.creating = false;
                self.ready.push_back(segment);
            }
            Answer::NoSegment { segment, why } => {
                self.creating = false;
                self.create_after = now + RETRY;
                self.trouble(format!("segment {segment} cannot be made: {why}"));
            }
            Answer::Durable { batch, payload } => self.is_durable(batch, payload),
            Answer::Failed { batch, payload, why } => self.failed(batch, payload, &why, now),
            Answer::Slice { segment, offset, bytes } => self.cleaned(segment, offset, &bytes, now),
            Answer::Unread { segment, why } => {
                self.cleaning = None;
                self.stuck = true;
                self.trouble(format!("segment {segment} cannot be read: {why}"));
            }
            Answer::Dropped { segment, outcome } => {
                self.dropping = None;
                if self.segments.front().is_some_and(|first| first.number == segment) {
                    self.segments.pop_front();
                }
                let junk = self.junk.iter().position(|&junk| junk == segment);
                junk.map(|at| self.junk.remove(at));
                if let Err(why) = outcome {
                    // Whether it is still there is unknown: dropping a later one could bring back
                    // what that one says is gone. But not with one that holds nothing good.
                    self.stuck |= junk.is_none();
                    self.trouble(format!("segment {segment} cannot be removed: {why}"));
                }
            }
        }
    }

    fn trouble(&mut self, what: String) {
        self.figures.troubles += 1;
        self.trouble = Some(what);
    }

    fn is_durable(&mut self, batch: u64, mut payload: Vec<u8>) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.stamp.batch == batch) else {
            return;
        };
        let size = frame::disk_size(flight.bytes) as u64;
        if let Some(last) = self.segments.back_mut() {
            last.end += size;
        }
        self.figures.commits += 1;
        self.figures.written += size;
        self.durable = batch;
        (self.health, self.patience) = (Health::Up, RETRY);
        payload.clear();
        payload.shrink_to(ENOUGH);
        self.spare = payload;
    }

    fn failed(&mut self, batch: u64, payload: Vec<u8>, why: &str, now: u64) {
        let Some(flight) = self.in_flight.as_mut().filter(|f| f.stamp.batch == batch) else {
            return;
        };
        flight.payload = Some(payload);
        let segment = flight.stamp.segment;
        self.figures.failures += 1;
        if Mutant::StorageSyncsAgain.is_on() {
            self.launch();
            return;
        }
        self.sealed = true;
        // A fresh segment that took nothing is of no use any more.
        if let Some(last) = self.segments.pop_back_if(|last| last.first == batch) {
            self.junk.push(last.number);
        }
        self.trouble = Some(format!("a commit to segment {segment} failed: {why}"));
        if self.health == Health::Up {
            self.health = Health::Failed;
            self.launch();
        } else {
            self.health = Health::Down(now + self.patience);
            self.patience = (self.patience * 2).min(LONGEST_RETRY);
        }
    }

    fn clean(&mut self) {
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
        self.commands.push(Command::Clean { segment, offset, length });
    }

    /// Whether the oldest segment is to be cleaned.
    fn is_worth_it(&self) -> bool {
        if self.segments.len() < 2 {
            return false;
        }
        let (live, _) = self.sizes();
        // Room that a sealed segment does not use is as good as dead.
        let taken = |segment: &Segment| segment.end.max(self.bounds.segment);
        let used: u64 = self.segments.iter().map(taken).sum();
        let dead = used.saturating_sub(live);
        let much = used > 2 * live + 2 * self.bounds.segment;
        much || self.is_full() && dead > self.bounds.segment
    }

    /// A part of the oldest segment: what is alive in it goes behind the newest.
    fn cleaned(&mut self, segment: u32, offset: u64, bytes: &[u8], now: u64) {
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
                // More has to be read at once: a batch may be longer than what is read otherwise.
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
        // The batch that says so must be durable first; there has to be one.
        if self.filling.is_empty() {
            self.append(&Record::Nothing, now);
        }
        self.retiring = Some(self.next_batch);
    }

    /// Copies what is alive of a batch; false when it has something that is no record.
    fn copy_live(&mut self, batch: u64, payload: &[u8], now: u64) -> bool {
        let mut at = 0;
        while at < payload.len() {
            let Ok((record, length)) = record::decode(&payload[at..]) else { return false };
            let position = Position::new(batch, at);
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

    fn drop_oldest(&mut self) {
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
            self.commands.push(Command::Drop { segment });
        }
    }
}

/// Bytes that the batch takes whose first header is at the start of `bytes`.
fn batch_size(bytes: &[u8]) -> Option<usize> {
    let header = frame::Header::read(bytes).ok()?;
    Some(frame::disk_size(header.total as usize))
}
