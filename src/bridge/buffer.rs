//! The buffer of messages that wait for the other end of a bridge: in memory ([`Queue`]), on disk
//! ([`Spool`]), or first in memory and then on disk. It belongs to the bridge's own thread.
//!
//! One rule holds with a disk: once a message waits on disk, all older messages are on disk too,
//! and all further ones go behind it. So the order is kept, and the messages in memory are only a
//! part that has been read ahead.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::queue::Queue;
use super::spool::Spool;
use crate::config::Bridge;
use crate::link_record::{LinkBatch, LinkRecord, Waiter};
use crate::shard::WhenFull;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "unread.rs"]
mod unread;

use unread::UnreadDirectory;
pub use unread::may_pass;

/// The most bytes that are read ahead of a disk.
const AHEAD: usize = 4 << 20;
/// The most bytes in memory before messages go to disk.
const MEMORY: u64 = 32 << 20;
/// The interval at which the position of the other end is written down.
const SAVED: Duration = Duration::from_millis(200);
/// The least interval between two log lines about a failing disk.
const COMPLAINT: Duration = Duration::from_secs(10);
/// The pause before a batch that cannot be read is tried again.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// A batch that cannot be read for this long, while the disk can be written, counts as broken.
const UNREADABLE: Duration = Duration::from_secs(60);

/// Where messages wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BufferPlace<'a> {
    /// In memory.
    Memory,
    /// On disk, in segments of this many bytes.
    Disk(&'a Path, u64),
    /// In memory while the messages are few, then on disk, in segments of this many bytes.
    Both(&'a Path, u64),
}

impl BufferPlace<'_> {
    fn is_disk(self) -> bool {
        matches!(self, BufferPlace::Disk(..))
    }

    /// The most bytes in memory when at most `most` bytes may wait.
    fn in_memory(self, most: u64) -> usize {
        match self {
            BufferPlace::Memory => usize::try_from(most).unwrap_or(usize::MAX),
            BufferPlace::Disk(..) => AHEAD,
            BufferPlace::Both(..) => usize::try_from(most.min(MEMORY)).unwrap_or(AHEAD),
        }
    }

    /// The policy of the queue in memory. In front of a disk the queue is never full, so its policy
    /// has no effect.
    fn when_queue_full(self, when_full: WhenFull) -> WhenFull {
        if self == BufferPlace::Memory { when_full } else { WhenFull::DropNew }
    }
}

/// The directory of the bridge's messages on disk; `storage` is `storage.path`.
pub fn directory(bridge: &Bridge, storage: &Path) -> PathBuf {
    bridge.directory(storage)
}

/// The buffer's part on disk.
struct DiskBuffer {
    spool: Spool,
    /// Whether every message goes to disk, however few wait.
    always: bool,
    saved: Instant,
    complained: Option<Instant>,
    /// The next batch, if it cannot be read now.
    unreadable: Option<Unreadable>,
    /// The pause before an unreadable batch is tried again, and how long it is tried.
    trying: (Duration, Duration),
    /// Counts of reads and writes that failed.
    failures: Failures,
}

/// A batch that cannot be read.
#[derive(Clone, Copy)]
struct Unreadable {
    batch: Option<u64>,
    since: Instant,
    again: Instant,
}

/// Counts of failed operations on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures {
    /// Reads of batches.
    pub reads: u64,
    /// Writes of batches, or of the other end's position.
    pub writes: u64,
}

impl DiskBuffer {
    fn open(directory: &Path, segment: u64, always: bool) -> io::Result<DiskBuffer> {
        Ok(DiskBuffer {
            spool: Spool::open(directory, segment)?,
            always,
            saved: Instant::now(),
            complained: None,
            unreadable: None,
            trying: (READ_AGAIN, UNREADABLE),
            failures: Failures::default(),
        })
    }

    /// The next batch, if there is one and if it can be read now.
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

    /// Notes that the next batch cannot be read. Returns true when the batch is left out because of
    /// that.
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
    disk: Option<DiskBuffer>,
    /// The directory that is to become the disk.
    later: Option<UnreadDirectory>,
    most: u64,
    when_full: WhenFull,
    dropped: u64,
    /// Whether the last attempt to write failed.
    failing: bool,
    /// Publishers that wait for dropped messages.
    lost: Vec<Waiter>,
}

impl Buffer {
    /// A buffer of at most `most` bytes, with the messages that are on disk already.
    ///
    /// # Errors
    /// Fails when the directory cannot be used.
    pub fn open(most: u64, when_full: WhenFull, place: BufferPlace<'_>) -> io::Result<Buffer> {
        let disk = match place {
            BufferPlace::Memory => None,
            BufferPlace::Disk(path, segment) | BufferPlace::Both(path, segment) => {
                Some(DiskBuffer::open(path, segment, place.is_disk())?)
            }
        };
        let queue = Queue::new(place.in_memory(most), place.when_queue_full(when_full));
        let (dropped, failing, lost, later) = (0, false, Vec::new(), None);
        let mut buffer = Buffer { queue, disk, later, most, when_full, dropped, failing, lost };
        buffer.read_ahead();
        Ok(buffer)
    }

    /// Changes the bound, the policy and the place. Waiting messages stay, in order. The directory
    /// of a disk remains the same, and what was on disk stays there. No message may be under way.
    ///
    /// # Errors
    /// Fails when the directory cannot be used; then nothing has changed.
    pub fn change(
        &mut self,
        most: u64,
        when_full: WhenFull,
        place: BufferPlace<'_>,
    ) -> io::Result<()> {
        self.queue.rewind();
        match (&mut self.disk, place) {
            (None, BufferPlace::Disk(..) | BufferPlace::Both(..)) => {
                let opened = Buffer::open(most, when_full, place)?;
                (self.most, self.when_full) = (most, when_full);
                if let Err(error) = self.move_to(opened) {
                    self.wait_for(place, &error);
                }
                return Ok(());
            }
            (Some(disk), BufferPlace::Disk(_, segment) | BufferPlace::Both(_, segment)) => {
                disk.spool.set_segment_size(segment);
                disk.always = place.is_disk();
            }
            (_, BufferPlace::Memory) => {}
        }
        let queue = if self.disk.is_some() { WhenFull::DropNew } else { when_full };
        self.queue.rebind(place.in_memory(most), queue);
        (self.most, self.when_full) = (most, when_full);
        Ok(())
    }

    /// The publishers that wait for messages in the buffer.
    pub fn waiters(&self) -> Vec<Waiter> {
        let mut waiters = self.queue.waiters();
        waiters.extend(self.disk.iter().flat_map(|disk| disk.spool.waiters()));
        waiters
    }

    /// A buffer in memory.
    pub fn in_memory(most: usize, when_full: WhenFull) -> Buffer {
        let queue = Queue::new(most, when_full);
        let (disk, later, most) = (None, None, most as u64);
        let (dropped, failing, lost) = (0, false, Vec::new());
        Buffer { queue, disk, later, most, when_full, dropped, failing, lost }
    }

    /// Lifts the bound at the end of the broker: with a policy that drops nothing, the messages
    /// that the cores still had are taken whatever room there is.
    pub fn unbind(&mut self) {
        if self.when_full == WhenFull::Pause {
            self.most = u64::MAX;
            if self.disk.is_none() {
                self.queue.unbind();
            }
        }
    }

    /// Whether a batch of `size` bytes finds room, or the policy makes room or drops.
    fn takes(&self, size: usize) -> bool {
        if self.when_full != WhenFull::Pause {
            return true;
        }
        let in_memory = self.queue.has_room(size);
        let Some(disk) = &self.disk else { return in_memory };
        let room = disk.spool.bytes().saturating_add(size as u64) <= self.most;
        disk.spool.is_empty() || room
    }

    /// Whether messages wait because the disk cannot be written.
    pub fn is_failing(&self) -> bool {
        self.failing && self.when_full == WhenFull::Pause
    }

    /// Whether the directory, or the next batch on disk, cannot be read now.
    pub fn is_unreadable(&self) -> bool {
        let unreadable = |disk: &DiskBuffer| disk.unreadable.is_some();
        self.later.is_some() || self.disk.as_ref().is_some_and(unreadable)
    }

    /// Counts of failed reads and writes.
    pub fn failures(&self) -> Failures {
        let later = self.later.as_ref().map(|later| Failures { reads: later.failures, writes: 0 });
        later.or(self.disk.as_ref().map(|disk| disk.failures)).unwrap_or_default()
    }

    /// Takes a batch in, or drops by the policy. With a policy that drops nothing, a batch that
    /// finds no room or cannot be written is returned.
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

    /// Writes a batch to disk behind all older batches, and keeps it in memory when it is the next
    /// one.
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
        if self.later.is_some() {
            return None;
        }
        if !self.queue.has_unread() {
            self.read_ahead();
        }
        self.queue.read()
    }

    /// Tells the numbers of this buffer's messages from those of every other buffer. It changes
    /// when the numbers begin again, as they do when a buffer in memory gets a disk.
    pub fn identity(&self) -> u128 {
        self.queue.identity()
    }

    /// Whether [`Buffer::read`] would find a message, or there is a message that cannot be read
    /// now.
    pub fn has_unread(&self) -> bool {
        let waits = |disk: &DiskBuffer| !disk.spool.is_all_read();
        self.later.is_some() || self.queue.has_unread() || self.disk.as_ref().is_some_and(waits)
    }

    /// Notes that the message with this number, which was read, is done. Returns the publisher that
    /// waits for it.
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

    /// Like [`Buffer::done`], for a caller that keeps the message elsewhere: the position is not
    /// written down, so the files keep the message.
    pub fn pass(&mut self, number: u64) {
        self.queue.done(number);
        if let Some(disk) = &mut self.disk {
            disk.spool.keep_released(self.queue.take_stored());
        }
    }

    /// Makes all messages in the buffer durable.
    ///
    /// # Errors
    /// Fails when the disk cannot be written or synced.
    pub fn put_away(&mut self) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        self.queue.store_all(|batch| disk.spool.append_kept(batch))?;
        disk.spool.sync()
    }

    /// Takes the publishers that wait for messages which were dropped since the last call.
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

    /// Messages that were read and are not done are read again, in order.
    pub fn rewind(&mut self) {
        self.queue.rewind();
    }

    /// The number of messages that are not done.
    pub fn len(&self) -> usize {
        let unread = self.disk.as_ref().map_or(0, |disk| disk.spool.unread());
        self.queue.len() + unread as usize
    }

    /// True when nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        let unread = self.disk.as_ref().is_some_and(|disk| !disk.spool.is_empty());
        self.later.is_none() && self.queue.is_empty() && !unread
    }

    /// Bytes of waiting messages, in memory or on disk.
    pub fn bytes(&self) -> usize {
        let disk = self.disk.as_ref().map_or(0, |disk| disk.spool.bytes());
        self.queue.bytes().max(usize::try_from(disk).unwrap_or(usize::MAX))
    }

    /// The number of messages that were dropped for lack of room.
    pub fn dropped(&self) -> u64 {
        self.dropped + self.queue.dropped()
    }

    /// The number of broken batches on disk.
    pub fn damaged(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.spool.damaged())
    }

    /// Whether waiting messages are still there after a restart.
    pub fn survives(&self) -> bool {
        self.disk.is_some()
    }

    /// Ends the buffer: messages in memory go to disk, if there is one.
    pub fn close(&mut self) {
        if let Some(later) = &mut self.later {
            later.again = Instant::now();
            self.open_again();
        }
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
