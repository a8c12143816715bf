//! The directory of one log, with its segments as files. Reads, writes and syncs block, so this is
//! only for threads that no other work waits for.
//!
//! A segment is a file `<number>.seg`. It is allocated when it is made, so that a commit changes no
//! metadata except what the file system changes for the first write to a block. A dropped segment's
//! file is kept for reuse as `<number>.free`, a few of them at most. After each change of names the
//! directory is synced.

use super::places::SegmentRange;
use super::{Extent, StorageAnswer, StorageCommand};
use super::{faults, frame};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files kept for reuse.
const SPARE: usize = 3;
/// Bytes of the buffer for frames that is kept from commit to commit.
const KEPT: usize = 1 << 20;
/// Bytes that stay free on the file system whatever is configured.
const FREE: u64 = 64 << 20;

/// A gap of at most this many bytes between two spans is read with them, instead of by another
/// call.
const GAP: usize = 16 << 10;
/// Most bytes that are read by one call, unless a single span is longer.
const READ: usize = 1 << 20;

/// The files of one log.
pub struct LogFiles {
    directory: PathBuf,
    open: BTreeMap<u32, File>,
    /// Segments to which a commit failed.
    failed: BTreeSet<u32>,
    /// Segments with batches that are not synced.
    dirty: BTreeSet<u32>,
    spare: Vec<PathBuf>,
    frames: Vec<u8>,
}

impl LogFiles {
    /// Opens the files of the log in this directory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(directory: &Path) -> io::Result<LogFiles> {
        let mut spare = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "free") {
                spare.push(path);
            }
        }
        let directory = directory.to_owned();
        let (open, failed, dirty) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Ok(LogFiles { directory, open, failed, dirty, spare, frames: Vec::new() })
    }

    /// The file of a segment.
    pub fn path(&self, segment: u32) -> PathBuf {
        self.directory.join(format!("{segment:010}.seg"))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    /// The numbers of the segments in ascending order, with the bytes of each that have to be read:
    /// allocated space behind them that was never written is left out.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn segments(&self) -> io::Result<Vec<(u32, u64)>> {
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse().ok());
            if let Some(number) = number {
                segments.push((number, written_end(&File::open(entry.path())?)?));
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn file(&mut self, segment: u32) -> io::Result<&File> {
        if !self.open.contains_key(&segment) {
            let file = OpenOptions::new().read(true).write(true).open(self.path(segment))?;
            self.open.insert(segment, file);
        }
        self.open.get(&segment).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Reads `length` bytes from an offset; fewer where the file ends.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&mut self, segment: u32, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        read(&File::open(self.path(segment))?, offset, length, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads for recovery, into one buffer again and again.
    pub fn reader(&self) -> impl FnMut(u32, u64, usize, &mut Vec<u8>) -> Result<(), String> {
        move |segment, offset, length, bytes| {
            let file = File::open(self.path(segment));
            let done = file.and_then(|file| read(&file, offset, length, bytes));
            done.map_err(|error| error.to_string())
        }
    }

    /// Reads spans, in the order of their places; those that lie close together are read by one
    /// call. The bytes are in the order of `spans`.
    fn read_spans(&mut self, spans: &[SegmentRange]) -> Vec<Result<Vec<u8>, String>> {
        let mut sorted: Vec<(SegmentRange, usize)> = spans.iter().copied().zip(0..).collect();
        sorted.sort_unstable_by_key(|(span, at)| (span.segment, span.offset, *at));
        let mut found = vec![Ok(Vec::new()); spans.len()];
        let mut opened: Option<(u32, io::Result<File>)> = None;
        let (mut left, mut bytes) = (&*sorted, Vec::new());
        while let Some((first, _)) = left.first() {
            let (count, length) = together(left);
            let (group, rest) = left.split_at(count);
            left = rest;
            let file = match opened.take() {
                Some((segment, file)) if segment == first.segment => file,
                _ => File::open(self.path(first.segment)),
            };
            let done = match &file {
                Ok(file) => {
                    read(file, first.offset, length, &mut bytes).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            opened = Some((first.segment, file));
            for &(span, at) in group {
                let part = done.as_ref().map_err(String::clone).and_then(|()| {
                    let from = (span.offset - first.offset) as usize;
                    let part = bytes.get(from..from + span.length);
                    part.map(<[u8]>::to_vec).ok_or_else(|| "the file is too short".to_owned())
                });
                if let Some(place) = found.get_mut(at) {
                    *place = part;
                }
            }
        }
        found
    }

    /// Syncs a segment.
    ///
    /// # Errors
    /// When it cannot be opened or synced.
    pub fn sync(&mut self, segment: u32) -> io::Result<()> {
        File::open(self.path(segment))?.sync_all()
    }

    /// Makes a segment ready to be written.
    ///
    /// # Errors
    /// When there is no room, or the file system reports an error.
    pub fn create(&mut self, segment: u32, size: u64) -> io::Result<()> {
        faults::operation()?;
        let path = self.path(segment);
        let reused = self.spare.pop();
        let made = self.make(&path, reused.as_deref(), size);
        if made.is_err() {
            // A segment that is only partly made is of no use and takes scarce room.
            let _ = std::fs::remove_file(&path);
        }
        self.open.insert(segment, made?);
        Ok(())
    }

    fn make(&self, path: &Path, reused: Option<&Path>, size: u64) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match reused {
            Some(old) => {
                std::fs::rename(old, path)?;
                options.open(path)?
            }
            None => {
                self.leave_room(size)?;
                options.create_new(true).open(path)?
            }
        };
        let length = file.metadata()?.len();
        if length > size {
            file.set_len(size)?;
        } else if length < size {
            let wanted = i64::try_from(size).unwrap_or(i64::MAX);
            match fallocate(file.as_raw_fd(), FallocateFlags::empty(), 0, wanted) {
                // On a file system that cannot allocate ahead, a full disk shows only at a commit.
                Err(nix::Error::EOPNOTSUPP) => file.set_len(size)?,
                outcome => outcome?,
            }
        }
        file.sync_all()?;
        self.sync_directory()?;
        Ok(file)
    }

    /// Checks that the file system has `size` bytes free, and [`FREE`] besides.
    fn leave_room(&self, size: u64) -> io::Result<()> {
        let stat = nix::sys::statvfs::statvfs(&self.directory)?;
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        if free < size.saturating_add(FREE) {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Writes a batch, and syncs as `sync` says.
    ///
    /// # Errors
    /// When the write or a sync fails. The segment then takes no other batch.
    pub fn commit(
        &mut self,
        stamp: frame::BatchStamp,
        offset: u64,
        payload: &[u8],
        sync: Extent,
    ) -> io::Result<()> {
        let segment = stamp.segment;
        if sync == Extent::Everything {
            self.sync_older(segment)?;
        }
        // Older segments are neither written nor synced any more: each of their batches is synced,
        // or is written again from this segment on.
        self.open.retain(|&number, _| number >= segment);
        self.dirty.retain(|&number| number >= segment);
        if self.failed.contains(&segment) {
            return Err(io::Error::other("an earlier commit to it failed"));
        }
        let mut frames = std::mem::take(&mut self.frames);
        frames.clear();
        frame::write(stamp, payload, &mut frames);
        let written = self.file(segment).and_then(|file| {
            if let Err((some, error)) = faults::write(frames.len()) {
                file.write_all_at(frames.get(..some).unwrap_or_default(), offset)?;
                return Err(error);
            }
            file.write_all_at(&frames, offset)?;
            if sync == Extent::Nothing { Ok(()) } else { file.sync_data() }
        });
        frames.clear();
        frames.shrink_to(KEPT);
        self.frames = frames;
        if written.is_err() {
            self.fail(segment);
        } else if sync == Extent::Nothing {
            self.dirty.insert(segment);
        } else {
            self.dirty.remove(&segment);
        }
        written
    }

    fn fail(&mut self, segment: u32) {
        self.failed.insert(segment);
        self.dirty.remove(&segment);
        self.open.remove(&segment);
    }

    /// Syncs the batches in segments before this one.
    fn sync_older(&mut self, segment: u32) -> io::Result<()> {
        while let Some(older) = self.dirty.first().copied().filter(|&older| older < segment) {
            let synced = self.file(older).and_then(|file| file.sync_data());
            if synced.is_err() {
                self.fail(older);
            }
            synced?;
            self.dirty.remove(&older);
        }
        Ok(())
    }

    /// The files that have to be synced so that every written batch is durable, in order. Each is
    /// opened anew: the kernel reports a write error once to each open file description.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn unsynced(&mut self) -> io::Result<Vec<File>> {
        let opened = self.dirty.iter().map(|&segment| File::open(self.path(segment))).collect();
        self.dirty.clear();
        opened
    }

    /// Removes a segment, or keeps its file for reuse; durably.
    ///
    /// # Errors
    /// When the segment may still exist.
    pub fn drop_segment(&mut self, segment: u32, reuse: bool) -> io::Result<()> {
        faults::operation()?;
        let path = self.path(segment);
        self.open.remove(&segment);
        self.dirty.remove(&segment);
        if self.failed.remove(&segment) || !reuse || self.spare.len() >= SPARE {
            std::fs::remove_file(&path)?;
        } else {
            let free = path.with_extension("free");
            std::fs::rename(&path, &free)?;
            self.spare.push(free);
        }
        self.sync_directory()
    }

    /// Carries a command out.
    pub fn obey(&mut self, command: StorageCommand) -> StorageAnswer {
        match command {
            StorageCommand::Create { segment, size } => match self.create(segment, size) {
                Ok(()) => StorageAnswer::SegmentReady { segment },
                Err(error) => StorageAnswer::NoSegment { segment, why: error.to_string() },
            },
            StorageCommand::Commit { stamp, offset, payload, sync } => {
                let batch = stamp.batch;
                match self.commit(stamp, offset, &payload, sync) {
                    Ok(()) if sync == Extent::Nothing => StorageAnswer::Written { batch, payload },
                    Ok(()) => StorageAnswer::Durable { batch, payload },
                    Err(error) => StorageAnswer::Failed { batch, payload, why: error.to_string() },
                }
            }
            StorageCommand::Clean { segment, offset, length } => {
                match self.read(segment, offset, length) {
                    Ok(bytes) => StorageAnswer::Slice { segment, offset, bytes },
                    Err(error) => StorageAnswer::Unread { segment, why: error.to_string() },
                }
            }
            StorageCommand::Copy { segment, offset, length } => {
                let bytes = self.read(segment, offset, length);
                StorageAnswer::Copied { bytes: bytes.map_err(|error| error.to_string()) }
            }
            StorageCommand::Read { spans } => {
                StorageAnswer::Bytes { spans: self.read_spans(&spans) }
            }
            StorageCommand::Sync { batch } => sync(batch, self.unsynced()),
            StorageCommand::Drop { segment, reuse } => {
                let outcome = self.drop_segment(segment, reuse).map_err(|error| error.to_string());
                StorageAnswer::Dropped { segment, outcome }
            }
        }
    }
}

/// The end of the last written part of a file. A file system that does not track holes reports all
/// of a file as written.
fn written_end(file: &File) -> io::Result<u64> {
    let mut end = 0;
    loop {
        let begin = match lseek(file.as_raw_fd(), end, Whence::SeekData) {
            Ok(begin) => begin,
            Err(nix::Error::ENXIO) => return Ok(end.unsigned_abs()),
            Err(_) => return Ok(file.metadata()?.len()),
        };
        end = lseek(file.as_raw_fd(), begin, Whence::SeekHole)?;
        if end <= begin {
            return Ok(file.metadata()?.len());
        }
    }
}

/// Reads `length` bytes from an offset into `bytes`; fewer where the file ends.
fn read(file: &File, offset: u64, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    faults::read()?;
    let left = file.metadata()?.len().saturating_sub(offset);
    let length = length.min(usize::try_from(left).unwrap_or(usize::MAX));
    if bytes.capacity() < length {
        // Fresh memory is zero already.
        *bytes = vec![0; length];
    }
    bytes.resize(length, 0);
    file.read_exact_at(bytes, offset)
}

/// How many of the first spans are read by one call, and the bytes from the first to the last of
/// them.
fn together(spans: &[(SegmentRange, usize)]) -> (usize, usize) {
    let Some((first, _)) = spans.first() else { return (0, 0) };
    let (mut count, mut length) = (1, first.length);
    for (span, _) in spans.iter().skip(1) {
        let Some(from) = span.offset.checked_sub(first.offset) else { break };
        let end = (from as usize).saturating_add(span.length);
        let near = from as usize <= length + GAP && end <= READ;
        if span.segment != first.segment || !near {
            break;
        }
        (count, length) = (count + 1, length.max(end));
    }
    (count, length)
}

/// Syncs these files; returns the answer to [`StorageCommand::Sync`].
pub(super) fn sync(batch: u64, files: io::Result<Vec<File>>) -> StorageAnswer {
    let synced = files.and_then(|files| files.iter().try_for_each(File::sync_data));
    match synced {
        Ok(()) => StorageAnswer::Synced { batch },
        Err(error) => StorageAnswer::Unsynced { batch, why: error.to_string() },
    }
}
