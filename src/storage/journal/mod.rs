//! The journal of a shard's log: its batches, in order, in a stream outside this host, from which
//! another node restores the sessions when this node is lost. It is a pure state machine: it reads
//! batches back from the log's files ([`Copy`]) and says what is to be done to the stream
//! ([`ToStream`]).
//!
//! A [`JournalEntry`] is a part of a batch. A batch is sent only when it is durable here, so the
//! log always has what the stream has. One entry is under way at a time, and each names the
//! sequence number of the entry that it must follow. So a retried entry is not stored twice, and
//! nothing can be stored behind a [`JournalFence`] by a sender that has not read the fence.
//!
//! # Epochs
//! When the stream does not have what precedes the next batch (because it is empty, was lost, or
//! the log dropped segments before they were sent), the journal begins a new epoch: it sends the
//! log again from its first batch. An epoch counts once it has reached the batch that was the last
//! one when it began ([`JournalPart::until`]); nothing is acknowledged by an epoch before. Until
//! then the epoch before it counts.
//!
//! # Trimming
//! Each batch says which batch is the oldest that recovery needs when it is durable. Entries before
//! that one are removed from the stream, which therefore holds about as much as the log.
//!
//! # Fences
//! A node that adopts the sessions of this one puts a fence into the stream. The journal is then
//! [`Journal::is_fenced`]: the sessions that the log has are another node's. When all shards of the
//! node have ended theirs ([`OfStream::Look`]), the journal goes on behind the fence
//! ([`OfStream::GoOn`]), by sending the log again.
//!
//! [`Copy`]: super::StorageCommand::Copy

mod entry;
mod reader;

pub use entry::{JournalEntry, JournalFence, JournalPart};
pub use reader::{JournalReader, Unadoptable};

use super::frame;
use super::log::Log;
use crate::mesh::adopting::{OfStream, ToStream};
use crate::mutant::Mutant;
use std::collections::VecDeque;

/// Most bytes of a batch in one entry: with what belongs to it, the entry fits into a message of 64
/// KiB, which is what `tuning/nats-server.conf` allows.
pub const ENTRY: usize = 60 << 10;
/// Microseconds after which the stream is asked again when it has not answered or has failed.
const RETRY: u64 = 500_000;
/// Microseconds that a durable batch waits for the stream before the stream counts as out.
const OUT: u64 = 2_000_000;
/// The most entries whose sequence numbers are kept, of those that begin a segment.
const MARKS: usize = 4096;

/// What a node promises while the stream does not take batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WithoutStream {
    /// What is durable here is acknowledged.
    Local,
    /// Nothing is acknowledged.
    Wait,
}

/// What the journal is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JournalStage {
    /// The stream is to be asked at that time, in microseconds.
    Ask(u64),
    /// The stream is asked.
    Asked,
    /// The next entry can be sent.
    Ready,
    /// A batch is being read from the log's files.
    Copying(u64),
    /// An entry with so many bytes is under way.
    Sent(usize),
    /// Another node has the sessions.
    Fenced(u64),
}

/// A batch that is being sent.
struct JournalBatch {
    needed: u64,
    payload: Vec<u8>,
}

/// LogFigures of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct JournalFigures {
    /// Batches that the stream has stored.
    pub batches: u64,
    /// How often the stream has failed.
    pub failures: u64,
    /// Epochs that were begun.
    pub epochs: u64,
    /// Batches that were acknowledged without the stream when the journal was found fenced: what
    /// they held of sessions is lost.
    pub lost: u64,
}

/// The sending side of a journal.
pub struct Journal {
    policy: WithoutStream,
    stage: JournalStage,
    epoch: u64,
    until: u64,
    /// The next batch, and how many of its bytes the stream has.
    next: u64,
    at: usize,
    /// The last batch that the stream has whole.
    stored: u64,
    /// The sequence number of the last entry; 0 for none.
    last: u64,
    body: Option<JournalBatch>,
    /// First batches of segments, with the sequence numbers of their first entries.
    marks: VecDeque<(u64, u64)>,
    /// The sequence number before which the stream was told to remove everything.
    trimmed: u64,
    /// The oldest batch that is needed according to what is stored.
    needed: u64,
    /// Whether it was found out where the stream stands, so that what is stored here is known to be
    /// this node's.
    known: bool,
    /// Since when something waits for the stream, in microseconds.
    waits: Option<u64>,
    out: bool,
    figures: JournalFigures,
}

impl Journal {
    /// A journal that does not know yet where the stream stands.
    pub fn new(policy: WithoutStream) -> Journal {
        Journal {
            policy,
            stage: JournalStage::Ask(0),
            epoch: 0,
            until: 0,
            next: 0,
            at: 0,
            stored: 0,
            last: 0,
            body: None,
            marks: VecDeque::new(),
            trimmed: 0,
            needed: 0,
            known: false,
            waits: None,
            out: false,
            figures: JournalFigures::default(),
        }
    }

    /// The last batch whose records may be acknowledged as far as the stream is concerned.
    pub fn acknowledges(&self) -> u64 {
        if matches!(self.stage, JournalStage::Fenced(_)) {
            return 0;
        }
        if Mutant::ClusterDurableEarly.is_on() {
            return u64::MAX;
        }
        match self.policy {
            WithoutStream::Local if self.out => u64::MAX,
            _ if self.known && self.stored >= self.until => self.stored,
            _ if !self.known && Mutant::ClusterUpgradeDurableEarly.is_on() => u64::MAX,
            _ => 0,
        }
    }

    /// Whether the sessions that are stored here are known to be this node's.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Whether another node has adopted the sessions that are stored here.
    pub fn is_fenced(&self) -> bool {
        matches!(self.stage, JournalStage::Fenced(_))
    }

    /// Whether the stream has not taken what waits for it for some time.
    pub fn is_out(&self) -> bool {
        self.out
    }

    /// Whether the stream has everything that is durable.
    pub fn is_level(&self, log: &Log) -> bool {
        self.known && self.stored >= log.durable().max(self.until)
    }

    /// Whether another process may go on where this one stops: the stream has everything that is
    /// durable, and nothing is under way to it or awaited of it. The other one asks where the
    /// stream stands before it sends anything.
    pub fn rests(&self, log: &Log) -> bool {
        self.stage == JournalStage::Ready && self.is_level(log)
    }

    /// LogFigures since the start.
    pub fn figures(&self) -> JournalFigures {
        self.figures
    }

    /// How many durable batches the stream does not have.
    pub fn behind(&self, log: &Log) -> u64 {
        log.durable().saturating_sub(self.stored)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.payload.capacity()) + self.marks.len() * 16
    }

    /// When the journal has to have its turn, in microseconds.
    pub fn due(&self) -> Option<u64> {
        let retry = match self.stage {
            JournalStage::Ask(at) => Some(at),
            _ => None,
        };
        let out = self.waits.filter(|_| !self.out).map(|since| since + OUT);
        [retry, out].into_iter().flatten().min()
    }

    /// Does what can be done at `now`, in microseconds; `wall` is the time in microseconds since
    /// 1970. Returns what is wanted of the stream.
    pub fn turn(&mut self, log: &mut Log, now: u64, wall: u64) -> Option<ToStream> {
        self.judge(log, now);
        match self.stage {
            JournalStage::Ask(at) if at <= now => {
                self.stage = JournalStage::Asked;
                return Some(ToStream::Last);
            }
            JournalStage::Ready => return self.go_on(log, wall),
            _ => {}
        }
        None
    }

    /// Finds out whether the stream is out.
    fn judge(&mut self, log: &Log, now: u64) {
        let level = self.is_level(log);
        match self.waits {
            Some(_) if level => (self.waits, self.out) = (None, false),
            Some(since) if since + OUT <= now && !self.out => {
                self.out = true;
                tracing::warn!("cluster: the stream does not take what is stored here");
            }
            None if !level => self.waits = Some(now),
            _ => {}
        }
    }

    fn go_on(&mut self, log: &mut Log, wall: u64) -> Option<ToStream> {
        if let Some(before) = self.trim() {
            return Some(ToStream::Trim(before));
        }
        if self.next < log.first_batch() {
            self.begin_epoch(log, wall);
        }
        if self.body.is_none() {
            self.fetch(log);
        }
        let body = self.body.as_ref()?;
        let end = body.payload.len().min(self.at + ENTRY);
        let bytes = body.payload.get(self.at..end).unwrap_or(&[]);
        let part = JournalPart {
            log: log.id(),
            epoch: self.epoch,
            until: self.until,
            needed: body.needed,
            batch: self.next,
            offset: self.at as u32,
            total: body.payload.len() as u32,
            bytes,
        };
        let entry = JournalEntry::Part(part).write();
        self.stage = JournalStage::Sent(bytes.len());
        Some(ToStream::Store(self.last, entry))
    }

    /// Gets the next batch, from memory if it has just become durable, otherwise from the files.
    fn fetch(&mut self, log: &mut Log) {
        if let Some((needed, payload)) = log.take_tapped(self.next) {
            self.body = Some(JournalBatch { needed, payload });
            return;
        }
        if log.durable() >= self.next && log.copy(self.next) {
            self.stage = JournalStage::Copying(self.next);
        }
    }

    /// Takes in the bytes of the batch that was read from the files; `None` when they could not be
    /// read.
    pub fn copied(&mut self, log: &Log, bytes: Option<&[u8]>, now: u64) {
        let JournalStage::Copying(batch) = self.stage else { return };
        let mut payload = Vec::new();
        let read = bytes.and_then(|bytes| frame::read_batch(bytes, &mut payload).ok());
        match read.filter(|(header, _)| (header.log, header.batch) == (log.id(), batch)) {
            Some((header, _)) => {
                self.body = Some(JournalBatch { needed: header.needed, payload });
                self.stage = JournalStage::Ready;
            }
            // Its segment may be gone by now. If not, it is read again.
            None => self.fails(now),
        }
    }

    /// Begins to send the whole log.
    fn begin_epoch(&mut self, log: &Log, wall: u64) {
        self.figures.epochs += 1;
        self.epoch = wall.max(self.epoch + 1);
        self.until = log.last_begun();
        self.next = log.first_batch();
        (self.at, self.body) = (0, None);
        self.stored = self.next - 1;
        self.marks.clear();
    }

    /// The sequence number before which nothing is needed any more, if that has become later.
    fn trim(&mut self) -> Option<u64> {
        if self.stored < self.until {
            return None; // the epoch before this one still counts
        }
        let needed = match Mutant::ClusterDurableTrimmed.is_on() {
            true => self.stored,
            false => self.needed,
        };
        let later = self.marks.partition_point(|mark| mark.0 <= needed);
        let mark = self.marks.get(later.checked_sub(1)?).copied()?;
        self.marks.drain(..later - 1);
        (std::mem::replace(&mut self.trimmed, mark.1) < mark.1).then_some(mark.1)
    }

    fn fails(&mut self, now: u64) {
        self.figures.failures += 1;
        self.body = None;
        self.stage = JournalStage::Ask(now + RETRY);
    }

    /// Takes in an answer of the stream.
    pub fn heard(&mut self, log: &Log, answer: OfStream, now: u64, wall: u64) {
        match (self.stage, answer) {
            (JournalStage::Asked, OfStream::Last(last)) => self.stands(log, last, wall),
            (JournalStage::Sent(length), OfStream::Stored(sequence)) => {
                self.has_stored(log, length, sequence);
            }
            (JournalStage::Asked, OfStream::Failed) => self.fails(now),
            (JournalStage::Fenced(sequence), OfStream::GoOn) => {
                self.last = sequence;
                self.begin_epoch(log, wall);
                (self.known, self.stage) = (true, JournalStage::Ready);
            }
            (JournalStage::Sent(_), OfStream::Failed) => {
                self.fails(now);
                // Perhaps the stream goes on behind another entry, and it can be told which.
                self.stage = JournalStage::Ask(now + RETRY / 50);
            }
            _ => {}
        }
    }

    /// Goes on from the last entry of the stream.
    fn stands(&mut self, log: &Log, last: Option<(u64, Vec<u8>)>, wall: u64) {
        self.body = None;
        let (sequence, bytes) = last.unwrap_or_default();
        self.last = sequence;
        match JournalEntry::read(&bytes) {
            Some(JournalEntry::Fence(fence)) if !Mutant::ClusterDurableFenceIgnored.is_on() => {
                let by = fence.by;
                tracing::warn!(by, "cluster: another node has adopted the sessions stored here");
                if self.known {
                    self.figures.lost += log.durable().saturating_sub(self.stored);
                }
                self.stage = JournalStage::Fenced(sequence);
            }
            Some(JournalEntry::Part(part)) if self.goes_on_behind(log, &part) => {
                (self.epoch, self.until) = (part.epoch, part.until);
                self.stored = part.batch - u64::from(!part.is_last());
                (self.next, self.at) = (self.stored + 1, 0);
                self.needed = self.needed.max(part.needed);
                (self.known, self.stage) = (true, JournalStage::Ready);
            }
            _ => {
                self.begin_epoch(log, wall);
                (self.known, self.stage) = (true, JournalStage::Ready);
            }
        }
    }

    /// Whether the log has what follows that part.
    fn goes_on_behind(&self, log: &Log, part: &JournalPart<'_>) -> bool {
        let next = part.batch + u64::from(part.is_last());
        part.log == log.id() && part.batch <= log.durable() && next >= log.first_batch()
    }

    fn has_stored(&mut self, log: &Log, length: usize, sequence: u64) {
        self.stage = JournalStage::Ready;
        self.last = sequence;
        let Some(body) = &self.body else { return };
        if self.at == 0 && log.begins_segment(self.next) {
            self.marks.push_back((self.next, sequence));
            if self.marks.len() > MARKS {
                self.marks.remove(1);
            }
        }
        self.at += length;
        if self.at >= body.payload.len() {
            self.figures.batches += 1;
            self.needed = self.needed.max(body.needed);
            self.stored = self.next;
            (self.next, self.at, self.body) = (self.next + 1, 0, None);
        }
    }

    /// Has the stream asked for its last entry, as soon as nothing is under way.
    pub fn look(&mut self) {
        match self.stage {
            // What is under way fails if there is a fence, and is followed by a question.
            JournalStage::Sent(_) | JournalStage::Asked | JournalStage::Fenced(_) => {}
            _ => {
                self.body = None;
                self.stage = JournalStage::Ask(0);
            }
        }
    }

    /// Whether it is known that there is no fence: the last entry was looked at since
    /// [`Journal::look`], and the journal goes on behind it.
    pub fn goes_on(&self) -> bool {
        matches!(self.stage, JournalStage::Ready | JournalStage::Copying(_))
    }
}

#[cfg(test)]
mod tests;
