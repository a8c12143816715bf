//! Messages on disk that wait for the other end of a bridge: batches in segments, in the form of
//! the store's log ([`frame`]), written and read by the bridge's own thread. A segment is removed
//! when no message in it waits any more.
//!
//! Written batches survive the end of the process; a power cut may take those that the system had
//! not written yet. The position of the other end is written to a separate file a few times a
//! second: after a crash, messages that were delivered since then are sent again. A broken batch is
//! counted, logged and left out, and later ones are read. A batch that cannot be read now stays,
//! and so do later ones.

use super::segment::{FoundBatch, Search, SegmentScan, scan};
use crate::link_record::{LinkBatch, Waiter};
use crate::storage::Extent;
use crate::storage::faults;
use crate::storage::files::LogFiles;
use crate::storage::frame::{self, BatchStamp};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The file with the position of the other end.
const POSITION: &str = "position";

/// The place of a batch on disk.
#[derive(PartialEq, Eq, Debug)]
struct SpooledBatch {
    batch: u64,
    segment: u32,
    offset: u64,
    size: usize,
    count: u32,
    /// Publishers that wait for its messages, until the batch is read.
    waiters: Vec<Waiter>,
}

/// The batches on disk, oldest first.
pub struct Spool {
    files: LogFiles,
    position: File,
    /// The position in the position file: the batch, and the messages of it that are done.
    saved: (u64, u32),
    log: u64,
    segment_size: u64,
    entries: VecDeque<SpooledBatch>,
    /// The number of entries, from the front, that have been read and are not done.
    loaded: usize,
    /// The number of messages in the other entries.
    unread: u64,
    bytes: u64,
    /// The number of entries in each segment.
    segments: BTreeMap<u32, usize>,
    current: Option<(u32, u64)>,
    last_segment: u32,
    next_batch: u64,
    /// The number of messages of the first batch that were done when the process ended.
    skip: u32,
    damaged: u64,
    /// Publishers that wait for messages in dropped or broken batches.
    lost: Vec<Waiter>,
}

impl Spool {
    /// Opens `directory`, which is created if it does not exist, and finds the batches in it.
    ///
    /// # Errors
    /// Fails when the directory cannot be read or created.
    pub fn open(directory: &Path, segment_size: u64) -> io::Result<Spool> {
        std::fs::create_dir_all(directory)?;
        let mut files = LogFiles::open(directory)?;
        let mut options = OpenOptions::new();
        let path = directory.join(POSITION);
        let position = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let saved = read_position(&position);
        let name = directory.file_name().unwrap_or_default();
        let log = u64::from(crc32c::crc32c(name.as_encoded_bytes())) | 1 << 40;
        let segments = files.segments()?;
        let mut spool = Spool {
            files: LogFiles::open(directory)?,
            position,
            saved,
            log,
            segment_size,
            entries: VecDeque::new(),
            loaded: 0,
            unread: 0,
            bytes: 0,
            segments: BTreeMap::new(),
            current: None,
            last_segment: segments.last().map_or(0, |&(number, _)| number),
            next_batch: saved.0.max(1),
            skip: 0,
            damaged: 0,
            lost: Vec::new(),
        };
        let mut tails = Vec::new();
        for (number, length) in segments {
            let bytes = files.read(number, 0, usize::try_from(length).unwrap_or(usize::MAX))?;
            spool.recover(number, &bytes, &mut tails);
            if !spool.segments.contains_key(&number) {
                // A file that cannot be removed now is removed at the next start.
                let _ = spool.files.drop_segment(number, false);
            }
        }
        for (number, batch) in tails {
            let file = spool.files.path(number);
            let what = "the last batch that waited was torn by a crash and is dropped";
            tracing::warn!(file = %file.display(), batch, "{what}");
        }
        if spool.entries.front().is_some_and(|front| front.batch == saved.0) {
            spool.skip = saved.1;
        }
        Ok(spool)
    }

    /// Finds the batches of a segment. `tails` has the broken batches, with their segments, behind
    /// which no whole batch has been found yet.
    fn recover(&mut self, number: u32, bytes: &[u8], tails: &mut Vec<(u32, u64)>) {
        let search = Search { log: self.log, segment: number, from: self.next_batch };
        let mut found = Vec::new();
        let scanned = scan(bytes, search, |FoundBatch { batch, offset, size, messages }| {
            // The waiting publishers were clients of an earlier process.
            let (waiters, count) = (Vec::new(), messages.count());
            found.push(SpooledBatch {
                batch,
                segment: number,
                offset: offset as u64,
                size,
                count,
                waiters,
            });
        });
        let SegmentScan { next, damaged, torn } = scanned;
        self.next_batch = next;
        self.note_damage(number, damaged);
        if let Some(first) = found.first() {
            // The number of a torn batch is given again, so a batch with that number, or a lower
            // one, was written after an earlier recovery, which found the torn one last.
            for (segment, _) in tails.drain(..).filter(|(_, torn)| *torn < first.batch) {
                self.note_damage(segment, 1);
            }
        }
        tails.extend(torn.map(|batch| (number, batch)));
        found.into_iter().for_each(|entry| self.add(entry));
    }

    fn note_damage(&mut self, segment: u32, places: u64) {
        self.damaged += places;
        if places > 0 {
            let file = self.files.path(segment);
            tracing::error!(file = %file.display(), places, "what waits is damaged");
        }
    }

    fn add(&mut self, entry: SpooledBatch) {
        self.bytes += entry.size as u64;
        self.unread += u64::from(entry.count);
        *self.segments.entry(entry.segment).or_default() += 1;
        self.entries.push_back(entry);
    }

    /// Whether no batch on disk waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of waiting batches on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of messages on disk that have not been read.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// Whether everything on disk has been read.
    pub fn is_all_read(&self) -> bool {
        self.loaded == self.entries.len()
    }

    /// The number of broken batches.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Writes a batch behind all others.
    ///
    /// # Errors
    /// Fails when the batch cannot be written; then it is not in the spool.
    pub fn append(&mut self, batch: &LinkBatch) -> io::Result<()> {
        let size = frame::disk_size(batch.bytes().len());
        let fits = |&(_, offset): &(u32, u64)| offset + size as u64 <= self.segment_size;
        let (segment, offset) = match self.current.filter(fits) {
            Some(current) => current,
            None => {
                let segment = self.last_segment.wrapping_add(1);
                self.files.create(segment, self.segment_size.max(size as u64))?;
                self.last_segment = segment;
                let older = self.current.replace((segment, 0));
                if let Some((older, _)) = older {
                    // A file that cannot be removed now is removed at the next start.
                    let _ = self.free(older);
                }
                (segment, 0)
            }
        };
        let (log, number) = (self.log, self.next_batch);
        let needed = self.entries.front().map_or(number, |front| front.batch);
        let stamp = BatchStamp { log, segment, batch: number, needed, unsynced: 0 };
        if let Err(error) = self.files.commit(stamp, offset, batch.bytes(), Extent::Nothing) {
            // The whole batch may be on disk nevertheless, so no other batch may have its number.
            // The next batch goes to another segment. This segment is removed when no message in it
            // waits, as each attempt would leave another one behind.
            (self.current, self.next_batch) = (None, number + 1);
            let _ = self.free(segment);
            return Err(error);
        }
        self.current = Some((segment, offset + size as u64));
        self.next_batch += 1;
        let (count, waiters) = (batch.count(), batch.waiters());
        self.add(SpooledBatch { batch: number, segment, offset, size, count, waiters });
        Ok(())
    }

    /// Like [`Spool::append`], for a batch that its caller keeps in memory: it counts as read.
    ///
    /// # Errors
    /// Fails when the batch cannot be written.
    pub fn append_kept(&mut self, batch: &LinkBatch) -> io::Result<()> {
        self.append(batch)?;
        self.keep_last();
        Ok(())
    }

    /// The batch that was appended last counts as read, as its caller keeps it in memory.
    pub fn keep_last(&mut self) {
        let last = self.entries.len();
        for entry in self.entries.iter_mut().skip(std::mem::replace(&mut self.loaded, last)) {
            self.unread -= u64::from(entry.count);
            entry.waiters = Vec::new();
        }
    }

    /// Reads the next batch. Also returns how many of its first messages were done in an earlier
    /// run. `None` at the end. Broken batches are left out.
    ///
    /// # Errors
    /// Fails when the next batch cannot be read now; it remains the next one.
    pub fn read(&mut self) -> io::Result<Option<(LinkBatch, u32)>> {
        while let Some(entry) = self.entries.get_mut(self.loaded) {
            let bytes = self.files.read(entry.segment, entry.offset, entry.size)?;
            let mut payload = Vec::new();
            let batch = frame::read_batch(&bytes, &mut payload)
                .ok()
                .filter(|(header, _)| header.batch == entry.batch && header.log == self.log)
                .and_then(|_| LinkBatch::from_bytes(payload));
            if let Some(batch) = batch {
                let first = self.loaded == 0;
                self.loaded += 1;
                self.unread -= u64::from(entry.count);
                entry.waiters = Vec::new();
                let skip = if first { std::mem::take(&mut self.skip) } else { 0 };
                return Ok(Some((batch, skip.min(entry.count))));
            }
            self.leave_out("it is broken");
        }
        Ok(None)
    }

    /// The number of the next batch to read.
    pub fn next(&self) -> Option<u64> {
        self.entries.get(self.loaded).map(|entry| entry.batch)
    }

    /// The next batch could not be read for a long time. If the disk can be written, the batch
    /// counts as broken and is left out; otherwise returns false.
    pub fn give_up_next(&mut self, why: &io::Error) -> bool {
        let works = self.test_disk().is_ok();
        if works {
            self.leave_out(&why.to_string());
        }
        works
    }

    /// Whether the disk accepts a write of the present position.
    fn test_disk(&mut self) -> io::Result<()> {
        faults::operation()?;
        self.position.write_all_at(&written_position(self.saved), 0)?;
        self.position.sync_data()
    }

    /// Leaves the next batch out.
    fn leave_out(&mut self, why: &str) {
        if let Some(entry) = self.entries.get(self.loaded) {
            let (file, offset) = (self.files.path(entry.segment), entry.offset);
            let (file, messages) = (file.display(), entry.count);
            tracing::error!(%file, offset, messages, why, "a batch that waited is lost");
        }
        self.damaged += 1;
        self.remove(self.loaded);
    }

    /// Drops the oldest batch that has not been read. Returns the number of its messages.
    pub fn drop_oldest(&mut self) -> Option<u32> {
        let entry = self.remove(self.loaded)?;
        Some(entry.count)
    }

    /// The oldest `batches` batches, which have been read, are done.
    pub fn release(&mut self, batches: usize) {
        for _ in 0..batches.min(self.loaded) {
            self.remove(0);
            self.loaded -= 1;
        }
    }

    /// Sets the size of further segments in bytes.
    pub fn set_segment_size(&mut self, bytes: u64) {
        self.segment_size = bytes;
    }

    /// The publishers that wait for messages that have not been read.
    pub fn waiters(&self) -> Vec<Waiter> {
        self.entries.iter().flat_map(|entry| &entry.waiters).copied().collect()
    }

    /// Like [`Spool::release`], but the files stay.
    pub fn keep_released(&mut self, batches: usize) {
        for _ in 0..batches.min(self.loaded) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.size as u64;
                self.loaded -= 1;
            }
        }
    }

    /// Takes the publishers that wait for messages in batches dropped or found broken since the
    /// last call.
    pub fn take_lost(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.lost)
    }

    fn remove(&mut self, at: usize) -> Option<SpooledBatch> {
        let mut entry = self.entries.remove(at)?;
        self.lost.append(&mut entry.waiters);
        self.bytes -= entry.size as u64;
        self.unread -= if at < self.loaded { 0 } else { u64::from(entry.count) };
        if let Some(left) = self.segments.get_mut(&entry.segment) {
            *left -= 1;
        }
        // A file that cannot be removed now is removed at the next start.
        let _ = self.free(entry.segment);
        Some(entry)
    }

    /// Removes a segment if no batch in it waits and none will be added.
    fn free(&mut self, segment: u32) -> io::Result<()> {
        let used = self.segments.get(&segment).is_some_and(|&left| left > 0);
        if used || self.current.is_some_and(|(current, _)| current == segment) {
            return Ok(());
        }
        self.segments.remove(&segment);
        self.files.drop_segment(segment, true)
    }

    /// Writes the position of the other end: `done` messages of the oldest batch are done. An
    /// unchanged position is not written again.
    ///
    /// # Errors
    /// Fails when the position cannot be written.
    pub fn save_position(&mut self, done: u32) -> io::Result<()> {
        let front = self.entries.front().map_or(self.next_batch, |front| front.batch);
        let position = (front, if self.entries.is_empty() { 0 } else { done });
        if position == self.saved {
            return Ok(());
        }
        faults::operation()?;
        self.position.write_all_at(&written_position(position), 0)?;
        self.saved = position;
        Ok(())
    }

    /// Makes all written batches and the position durable.
    ///
    /// # Errors
    /// Fails when the system cannot do that.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in self.files.unsynced()? {
            file.sync_data()?;
        }
        self.position.sync_data()
    }
}

/// The bytes of a position, with a checksum.
fn written_position((batch, done): (u64, u32)) -> Vec<u8> {
    let mut bytes = batch.to_le_bytes().to_vec();
    bytes.extend_from_slice(&done.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The batch of a position, and the number of its messages that are done; the very beginning when
/// the file has no valid position.
fn read_position(file: &File) -> (u64, u32) {
    let mut bytes = [0; 16];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        return (0, 0);
    }
    let [b0, b1, b2, b3, b4, b5, b6, b7, d0, d1, d2, d3, checksum @ ..] = bytes;
    let batch = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    let done = u32::from_le_bytes([d0, d1, d2, d3]);
    let position = written_position((batch, done));
    if position.last_chunk::<4>() != Some(&checksum) { (0, 0) } else { (batch, done) }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
