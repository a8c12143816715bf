//! What waits for the other end of a bridge: in memory ([`Queue`]), on disk ([`Spool`]), or first
//! the one and then the other. Of the bridge's own thread.
//!
//! With a disk there is one rule: once something waits on disk, everything that is older is there
//! too, and everything that comes goes behind it. So the order holds, and what is in memory is only
//! a part of it that has been read ahead.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::queue::Queue;
use super::spool::Spool;
use crate::config::Bridge;
use crate::link_record::{LinkBatch, LinkRecord, Waiter};
use crate::shard::WhenFull;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Most bytes that are read ahead of a disk.
const AHEAD: usize = 4 << 20;
/// Most bytes in memory before what waits goes to disk.
const MEMORY: u64 = 32 << 20;
/// How often it is written down how far the other end has got.
const SAVED: Duration = Duration::from_millis(200);
/// How often a disk that fails is complained of.
const COMPLAINT: Duration = Duration::from_secs(10);
/// A batch that cannot be read is tried again after this.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// A batch that cannot be read for so long, while the disk can be written, is broken.
const UNREADABLE: Duration = Duration::from_secs(60);

/// Where messages wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// In memory.
    Memory,
    /// On disk, in segments of so many bytes.
    Disk(&'a Path, u64),
    /// In memory while they are few, then on disk.
    Both(&'a Path, u64),
}

impl Place<'_> {
    fn is_disk(self) -> bool {
        matches!(self, Place::Disk(..))
    }

    /// Bytes that are in memory, of at most so many that wait.
    fn in_memory(self, most: u64) -> usize {
        match self {
            Place::Memory => usize::try_from(most).unwrap_or(usize::MAX),
            Place::Disk(..) => AHEAD,
            Place::Both(..) => usize::try_from(most.min(MEMORY)).unwrap_or(AHEAD),
        }
    }

    /// What the queue in memory does: before a disk it is never full.
    fn when_queue_full(self, when_full: WhenFull) -> WhenFull {
        if self == Place::Memory { when_full } else { WhenFull::DropNew }
    }
}

/// Where what waits for that bridge is on disk; `storage`: `storage.path`.
pub fn directory(bridge: &Bridge, storage: &Path) -> PathBuf {
    match &*bridge.buffer.path {
        "" => storage.join("bridges").join(&*bridge.name),
        path => Path::new(path).to_owned(),
    }
}

/// The disk, if there is one.
struct Disk {
    spool: Spool,
    /// Everything goes there, however little waits.
    always: bool,
    saved: Instant,
    complained: Option<Instant>,
    /// The next batch, while it cannot be read.
    unreadable: Option<Unreadable>,
    /// Pause before it is tried again, and how long it is tried.
    trying: (Duration, Duration),
    /// Reads and writes that failed.
    failures: Failures,
}

/// A batch that cannot be read.
#[derive(Clone, Copy)]
struct Unreadable {
    batch: Option<u64>,
    since: Instant,
    again: Instant,
}

/// Operations on a disk that failed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures {
    /// Batches were not read.
    pub reads: u64,
    /// Batches, or how far the other end has got, were not written.
    pub writes: u64,
}

impl Disk {
    fn open(directory: &Path, segment: u64, always: bool) -> io::Result<Disk> {
        Ok(Disk {
            spool: Spool::open(directory, segment)?,
            always,
            saved: Instant::now(),
            complained: None,
            unreadable: None,
            trying: (READ_AGAIN, UNREADABLE),
            failures: Failures::default(),
        })
    }

    /// The next batch, if there is one and it can be read now.
    fn read(&mut self) -> Option<(LinkBatch, u32)> {
        loop {
            if self.unreadable.is_some_and(|unreadable| unreadable.again > Instant::now()) {
                return None;
            }
            match self.spool.read() {
                Ok(read) => {
                    self.unreadable = None;
                    return read;
                }
                Err(error) if self.failed_to_read(&error) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next batch cannot be read; true when it is left out because of that.
    fn failed_to_read(&mut self, error: &io::Error) -> bool {
        let (now, batch) = (Instant::now(), self.spool.next());
        let (pause, patience) = self.trying;
        self.failures.reads += 1;
        if self.may_complain() {
            tracing::error!(%error, "a bridge's buffer cannot be read: what is there waits");
        }
        let known = self.unreadable.filter(|unreadable| unreadable.batch == batch);
        let since = known.map_or(now, |unreadable| unreadable.since);
        self.unreadable = Some(Unreadable { batch, since, again: now + pause });
        let given_up = now - since >= patience && self.spool.give_up_next(error);
        if given_up {
            self.unreadable = None;
        }
        given_up
    }

    fn may_complain(&mut self) -> bool {
        let due = self.complained.is_none_or(|then| then.elapsed() > COMPLAINT);
        if due {
            self.complained = Some(Instant::now());
        }
        due
    }
}

/// A bridge's buffer.
pub struct Buffer {
    queue: Queue,
    disk: Option<Disk>,
    most: u64,
    when_full: WhenFull,
    dropped: u64,
    /// The last attempt to write failed.
    failing: bool,
    /// Publishers that wait for what was dropped.
    lost: Vec<Waiter>,
}

impl Buffer {
    /// A buffer of at most so many bytes, with what is on disk.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(most: u64, when_full: WhenFull, place: Place<'_>) -> io::Result<Buffer> {
        let disk = match place {
            Place::Memory => None,
            Place::Disk(path, segment) | Place::Both(path, segment) => {
                Some(Disk::open(path, segment, place.is_disk())?)
            }
        };
        let queue = Queue::new(place.in_memory(most), place.when_queue_full(when_full));
        let (dropped, failing, lost) = (0, false, Vec::new());
        let mut buffer = Buffer { queue, disk, most, when_full, dropped, failing, lost };
        buffer.read_ahead();
        Ok(buffer)
    }

    /// Another bound, policy and place from now on. What waits stays, in order. The directory of a
    /// disk remains the same, and what was on disk stays there. Nothing may be under way.
    ///
    /// # Errors
    /// When the directory cannot be used: nothing has changed.
    pub fn change(&mut self, most: u64, when_full: WhenFull, place: Place<'_>) -> io::Result<()> {
        self.queue.rewind();
        match (&mut self.disk, place) {
            (None, Place::Disk(..) | Place::Both(..)) => {
                let mut changed = Buffer::open(most, when_full, place)?;
                // Nothing of it is dropped: the bound is for what comes.
                (changed.most, changed.when_full) = (u64::MAX, WhenFull::Pause);
                for batch in self.queue.take_all() {
                    if let Some(batch) = changed.push(batch) {
                        // The disk cannot be written.
                        changed.dropped += u64::from(batch.count());
                        changed.lost.extend(batch.waiters());
                    }
                }
                (changed.most, changed.when_full) = (most, when_full);
                changed.dropped += self.dropped();
                changed.lost.append(&mut self.take_lost());
                *self = changed;
                return Ok(());
            }
            (Some(disk), Place::Disk(_, segment) | Place::Both(_, segment)) => {
                disk.spool.set_segment_size(segment);
                disk.always = place.is_disk();
            }
            (_, Place::Memory) => {}
        }
        let queue = if self.disk.is_some() { WhenFull::DropNew } else { when_full };
        self.queue.rebind(place.in_memory(most), queue);
        (self.most, self.when_full) = (most, when_full);
        Ok(())
    }

    /// The publishers that wait for something in it.
    pub fn waiters(&self) -> Vec<Waiter> {
        let mut waiters = self.queue.waiters();
        waiters.extend(self.disk.iter().flat_map(|disk| disk.spool.waiters()));
        waiters
    }

    /// A buffer in memory.
    pub fn in_memory(most: usize, when_full: WhenFull) -> Buffer {
        let queue = Queue::new(most, when_full);
        let (dropped, failing, lost) = (0, false, Vec::new());
        Buffer { queue, disk: None, most: most as u64, when_full, dropped, failing, lost }
    }

    /// The end of the broker: where nothing is dropped, what comes now is taken whatever room there
    /// is. It is what the cores still had.
    pub fn unbind(&mut self) {
        if self.when_full == WhenFull::Pause {
            self.most = u64::MAX;
            if self.disk.is_none() {
                self.queue.unbind();
            }
        }
    }

    /// Whether a batch of so many bytes finds room, or something is dropped for it.
    fn takes(&self, size: usize) -> bool {
        if self.when_full != WhenFull::Pause {
            return true;
        }
        let in_memory = self.queue.has_room(size);
        let Some(disk) = &self.disk else { return in_memory };
        let room = disk.spool.bytes().saturating_add(size as u64) <= self.most;
        disk.spool.is_empty() || room
    }

    /// Whether what comes waits because the disk cannot be written.
    pub fn is_failing(&self) -> bool {
        self.failing && self.when_full == WhenFull::Pause
    }

    /// Whether the next batch on disk cannot be read now.
    pub fn is_unreadable(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.unreadable.is_some())
    }

    /// What could not be read or written.
    pub fn failures(&self) -> Failures {
        self.disk.as_ref().map(|disk| disk.failures).unwrap_or_default()
    }

    /// Takes a batch in, or drops by the policy. Where that is to drop nothing, a batch that finds
    /// no room, or cannot be written, comes back.
    pub fn push(&mut self, batch: LinkBatch) -> Option<LinkBatch> {
        let size = batch.bytes().len();
        if !self.takes(size) {
            return Some(batch);
        }
        let Some(disk) = &mut self.disk else {
            self.queue.push(batch);
            return None;
        };
        if disk.spool.is_empty() && !disk.always && self.queue.has_room(size) {
            self.queue.push(batch);
            return None;
        }
        while disk.spool.bytes() + size as u64 > self.most && !disk.spool.is_empty() {
            let oldest = match self.when_full {
                WhenFull::DropOldest => disk.spool.drop_oldest(),
                WhenFull::DropNew | WhenFull::Pause => None,
            };
            let Some(count) = oldest else {
                self.dropped += u64::from(batch.count());
                self.lost.extend(batch.waiters());
                return None;
            };
            self.dropped += u64::from(count);
        }
        let written = self.write(&batch);
        self.failing = written.is_err();
        if let Err(error) = written {
            self.complain(&error);
            if self.when_full == WhenFull::Pause {
                return Some(batch);
            }
            self.dropped += u64::from(batch.count());
            self.lost.extend(batch.waiters());
        }
        None
    }

    /// Writes a batch to disk, what is older first, and keeps it when it comes next.
    fn write(&mut self, batch: &LinkBatch) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        self.queue.store_all(|older| disk.spool.append_kept(older))?;
        let next = disk.spool.is_all_read();
        disk.spool.append(batch)?;
        if next && self.queue.has_room(batch.bytes().len()) {
            disk.spool.keep_last();
            self.queue.push_stored(batch.clone(), 0);
        }
        Ok(())
    }

    fn complain(&mut self, error: &io::Error) {
        let Some(disk) = &mut self.disk else { return };
        disk.failures.writes += 1;
        if disk.may_complain() {
            let what = match self.when_full {
                WhenFull::Pause => "publishers wait",
                WhenFull::DropOldest | WhenFull::DropNew => "messages are dropped",
            };
            tracing::error!(%error, "a bridge's buffer cannot be written: {what}");
        }
    }

    fn read_ahead(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        while self.queue.bytes() < AHEAD / 2 && !disk.spool.is_all_read() {
            let Some((batch, done)) = disk.read() else { break };
            self.queue.push_stored(batch, done);
        }
    }

    /// The next message that is not done, and its number.
    pub fn read(&mut self) -> Option<(u64, LinkRecord<'_>)> {
        if !self.queue.has_unread() {
            self.read_ahead();
        }
        self.queue.read()
    }

    /// Whether [`Buffer::read`] would find a message, or there is one that cannot be read now.
    pub fn has_unread(&self) -> bool {
        let waits = |disk: &Disk| !disk.spool.is_all_read();
        self.queue.has_unread() || self.disk.as_ref().is_some_and(waits)
    }

    /// The message of that number, which was read, is done; who waits for it.
    pub fn done(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.queue.done(number);
        if let Some(disk) = &mut self.disk {
            disk.spool.release(self.queue.take_stored());
            if disk.saved.elapsed() >= SAVED {
                self.save();
            }
        }
        waiter
    }

    /// The same, for who has it elsewhere: how far it was read is not written down.
    pub fn pass(&mut self, number: u64) {
        self.queue.done(number);
        if let Some(disk) = &mut self.disk {
            disk.spool.keep_released(self.queue.take_stored());
        }
    }

    /// Makes everything in it durable.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn put_away(&mut self) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        self.queue.store_all(|batch| disk.spool.append_kept(batch))?;
        disk.spool.sync()
    }

    /// Publishers that wait for what was dropped since this was last asked.
    pub fn take_lost(&mut self) -> Vec<Waiter> {
        let mut lost = std::mem::take(&mut self.lost);
        lost.append(&mut self.queue.take_lost());
        if let Some(disk) = &mut self.disk {
            lost.append(&mut disk.spool.take_lost());
        }
        lost
    }

    fn save(&mut self) {
        let done = self.queue.done_of_first();
        let Some(disk) = &mut self.disk else { return };
        disk.saved = Instant::now();
        if let Err(error) = disk.spool.save_position(done) {
            self.complain(&error);
        }
    }

    /// What was read and is not done is read again, in order.
    pub fn rewind(&mut self) {
        self.queue.rewind();
    }

    /// Messages that are not done.
    pub fn len(&self) -> usize {
        let unread = self.disk.as_ref().map_or(0, |disk| disk.spool.unread());
        self.queue.len() + unread as usize
    }

    /// True when nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.disk.as_ref().is_none_or(|disk| disk.spool.is_empty())
    }

    /// Bytes that wait, in memory or on disk.
    pub fn bytes(&self) -> usize {
        let disk = self.disk.as_ref().map_or(0, |disk| disk.spool.bytes());
        self.queue.bytes().max(usize::try_from(disk).unwrap_or(usize::MAX))
    }

    /// Messages that were dropped because there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped + self.queue.dropped()
    }

    /// Batches on disk that were broken.
    pub fn damaged(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.spool.damaged())
    }

    /// Whether what waits is there after a restart.
    pub fn survives(&self) -> bool {
        self.disk.is_some()
    }

    /// The bridge ends: what is in memory goes to disk, if there is one.
    pub fn close(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let stored = self.queue.store_all(|batch| disk.spool.append_kept(batch));
        self.save();
        let Some(disk) = &mut self.disk else { return };
        if let Err(error) = stored.and_then(|()| disk.spool.sync()) {
            tracing::error!(%error, "a bridge's buffer cannot be written at the end");
        }
    }
}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
