//! A disk in memory that does to a log what disks do: writes lie in a cache until they are synced
//! and reach the platter in any order before; a power cut keeps any of them, cut into sectors; an
//! operation may fail, and what a failed sync should have written is then partly lost for good;
//! room runs out.

use crate::rng::Rng;
use ringmq::storage::{Extent, StorageAnswer, StorageCommand, frame};
use std::collections::{BTreeMap, BTreeSet};

const SECTOR: usize = 512;

/// A sync that is under way: its batch, and sectors by segment and number.
type Syncing = (u64, Vec<(u32, usize, Vec<u8>)>);

/// One segment's file.
#[derive(Clone, Default)]
struct File {
    /// What survives a power cut.
    platter: Vec<u8>,
    /// Sectors in the cache, by number.
    cache: BTreeMap<usize, Vec<u8>>,
    /// A commit to it failed: it may take no other.
    failed: bool,
    /// It was written and not synced.
    unsynced: bool,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR));
        for (at, sector) in bytes.chunks(SECTOR).enumerate() {
            self.cache.insert(offset / SECTOR + at, sector.to_vec());
        }
    }

    fn settle(&mut self, sector: usize, bytes: &[u8]) {
        let end = (sector + 1) * SECTOR;
        if self.platter.len() < end {
            self.platter.resize(end, 0);
        }
        self.platter[end - SECTOR..end].copy_from_slice(bytes);
    }

    /// All of the cache reaches the platter, or about `share` of a thousand parts.
    fn sync(&mut self, share: usize, rng: &mut Rng) {
        for (sector, bytes) in std::mem::take(&mut self.cache) {
            if rng.chance(share) {
                self.settle(sector, &bytes);
            }
        }
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut file = self.clone();
        for (&sector, bytes) in &self.cache {
            file.settle(sector, bytes);
        }
        let end = (offset + length).min(file.platter.len());
        file.platter.get(offset..end).unwrap_or(&[]).to_vec()
    }
}

/// The disk.
pub struct Disk {
    files: BTreeMap<u32, File>,
    /// Files kept for reuse.
    spare: Vec<File>,
    /// Most files it has room for.
    pub room: usize,
    /// The operation that fails, counted down; and how many more after it.
    pub fails_at: Option<(usize, usize)>,
    /// Operations so far.
    pub operations: usize,
    /// A sync that goes on beside other operations: its batch, and what it is to bring out.
    syncing: Option<Syncing>,
    /// The last read for a client was not what was stored.
    misread: bool,
    rng: Rng,
}

impl Disk {
    pub fn new(seed: u64) -> Disk {
        let rng = Rng::new(seed ^ 0xd15c);
        let files = BTreeMap::new();
        Disk {
            files,
            spare: Vec::new(),
            room: usize::MAX,
            fails_at: None,
            operations: 0,
            syncing: None,
            misread: false,
            rng,
        }
    }

    /// Whether this operation is one that fails.
    fn fails(&mut self) -> bool {
        self.operations += 1;
        match &mut self.fails_at {
            Some((0, 0)) => {
                self.fails_at = None;
                true
            }
            Some((0, more)) => {
                *more -= 1;
                true
            }
            Some((before, _)) => {
                *before -= 1;
                false
            }
            None => false,
        }
    }

    /// Whether a sync of that segment is under way. It may fail, and the segment must not be synced
    /// once more then.
    fn is_syncing(&self, segment: u32) -> bool {
        let syncing = self.syncing.iter().flat_map(|(_, sectors)| sectors);
        syncing.into_iter().any(|&(covered, ..)| covered == segment)
    }

    /// Carries a command out. A sync is only begun.
    pub fn obey(&mut self, command: StorageCommand) -> Option<StorageAnswer> {
        if let StorageCommand::Sync { batch } = command {
            assert!(self.syncing.is_none(), "two syncs at a time");
            let mut sectors = Vec::new();
            for (&segment, file) in self.files.iter().filter(|(_, file)| file.unsynced) {
                assert!(!file.failed, "segment {segment} is synced after an error");
                let cached = file.cache.iter();
                sectors.extend(cached.map(|(&sector, bytes)| (segment, sector, bytes.clone())));
            }
            self.syncing = Some((batch, sectors));
            return None;
        }
        Some(self.obey_at_once(command))
    }

    /// The sync that was begun is over, if there is one.
    pub fn finish_sync(&mut self) -> Option<StorageAnswer> {
        let (batch, sectors) = self.syncing.take()?;
        let fails = self.fails();
        let share = if fails { self.rng.below(1001) } else { 1000 };
        for (segment, sector, bytes) in sectors {
            let Some(file) = self.files.get_mut(&segment) else { continue };
            if file.cache.remove(&sector).is_some() && self.rng.chance(share) {
                file.settle(sector, &bytes);
            }
        }
        if fails {
            for file in self.files.values_mut().filter(|file| file.unsynced) {
                (file.failed, file.unsynced) = (true, false);
            }
            return Some(StorageAnswer::Unsynced { batch, why: "an error".into() });
        }
        self.files.values_mut().for_each(|file| file.unsynced &= !file.cache.is_empty());
        Some(StorageAnswer::Synced { batch })
    }

    fn obey_at_once(&mut self, command: StorageCommand) -> StorageAnswer {
        let fails = self.fails();
        match command {
            StorageCommand::Sync { .. } => unreachable!("begun above"),
            StorageCommand::Create { segment, .. } => {
                if fails || self.files.len() >= self.room {
                    return StorageAnswer::NoSegment { segment, why: "no room".into() };
                }
                let mut file = self.spare.pop().unwrap_or_default();
                file.cache.clear();
                assert!(self.files.insert(segment, file).is_none(), "segment {segment} is there");
                StorageAnswer::SegmentReady { segment }
            }
            StorageCommand::Commit { stamp, offset, payload, sync } => {
                let beside = sync != Extent::Nothing && self.is_syncing(stamp.segment);
                assert!(!beside, "segment {} is synced beside another sync", stamp.segment);
                let mut frames = Vec::new();
                frame::write(stamp, &payload, &mut frames);
                for (older, file) in self.files.range_mut(..stamp.segment) {
                    // Older ones are not written any more: this is the last chance to sync them.
                    if std::mem::take(&mut file.unsynced) && sync == Extent::Everything {
                        assert!(!file.failed, "segment {older} is synced after an error");
                        file.sync(1000, &mut self.rng);
                    }
                }
                let file = self.files.get_mut(&stamp.segment).expect("it was made");
                // A write that was on its way when a sync failed is of no use and does no harm; it
                // leaves the file unsynced, and whatever syncs it then is found.
                assert!(
                    !file.failed || sync == Extent::Nothing,
                    "segment {} is synced after an error",
                    stamp.segment
                );
                file.write(offset as usize, &frames);
                let batch = stamp.batch;
                if fails {
                    (file.failed, file.unsynced) = (true, false);
                    let share = self.rng.below(1001);
                    file.sync(share, &mut self.rng);
                    return StorageAnswer::Failed { batch, payload, why: "an error".into() };
                }
                if sync == Extent::Nothing {
                    file.unsynced = true;
                    return StorageAnswer::Written { batch, payload };
                }
                file.sync(1000, &mut self.rng);
                file.unsynced = false;
                StorageAnswer::Durable { batch, payload }
            }
            StorageCommand::Clean { segment, offset, length } => {
                if fails && self.rng.chance(300) {
                    return StorageAnswer::Unread { segment, why: "an error".into() };
                }
                let bytes = self.files[&segment].read(offset as usize, length);
                StorageAnswer::Slice { segment, offset, bytes }
            }
            StorageCommand::Copy { segment, offset, length } => {
                let bytes = self.files[&segment].read(offset as usize, length);
                let bytes = if fails { Err("an error".to_owned()) } else { Ok(bytes) };
                StorageAnswer::Copied { bytes }
            }
            StorageCommand::Read { spans } => {
                let broken = !self.misread && self.rng.chance(40);
                self.misread = broken;
                let mut read: Vec<_> = spans
                    .iter()
                    .map(|span| {
                        let bytes =
                            self.files[&span.segment].read(span.offset as usize, span.length);
                        if fails { Err("an error".to_owned()) } else { Ok(bytes) }
                    })
                    .collect();
                if broken && let Some(Ok(bytes)) = read.first_mut() {
                    let at = self.rng.below(bytes.len());
                    bytes[at] ^= 4;
                }
                StorageAnswer::Bytes { spans: read }
            }
            StorageCommand::Drop { segment, reuse } => {
                let mut file = self.files.remove(&segment).expect("it was made");
                assert!(!reuse || !file.failed, "segment {segment} failed and is used again");
                if reuse {
                    file.unsynced = false;
                    self.spare.push(file);
                }
                StorageAnswer::Dropped { segment, outcome: Ok(()) }
            }
        }
    }

    /// The power fails while `half_done` is under way.
    pub fn cut(&mut self, half_done: Option<StorageCommand>) {
        match half_done {
            Some(StorageCommand::Commit { stamp, offset, payload, .. }) => {
                let mut frames = Vec::new();
                frame::write(stamp, &payload, &mut frames);
                let file = self.files.get_mut(&stamp.segment).expect("it was made");
                file.write(offset as usize, &frames);
            }
            Some(command @ (StorageCommand::Create { .. } | StorageCommand::Drop { .. })) => {
                if self.rng.chance(500) {
                    self.obey(command);
                }
            }
            Some(
                StorageCommand::Clean { .. }
                | StorageCommand::Copy { .. }
                | StorageCommand::Read { .. }
                | StorageCommand::Sync { .. },
            )
            | None => {}
        }
        let share = self.rng.below(1001);
        for file in self.files.values_mut() {
            file.sync(share, &mut self.rng);
            (file.failed, file.unsynced) = (false, false);
        }
        (self.fails_at, self.syncing) = (None, None);
    }

    /// The process is killed, maybe after `half_done`, and the next one begins: what was written
    /// is there, and is synced first.
    pub fn kill(&mut self, half_done: Option<StorageCommand>) {
        (self.fails_at, self.syncing) = (None, None);
        half_done.map(|command| self.obey(command));
        self.syncing = None;
        for file in self.files.values_mut() {
            file.sync(1000, &mut self.rng);
            (file.failed, file.unsynced) = (false, false);
        }
    }

    /// Numbers and lengths of the segments.
    pub fn segments(&self) -> Vec<(u32, u64)> {
        let length = |file: &File| file.read(0, usize::MAX / 2).len() as u64;
        self.files.iter().map(|(&number, file)| (number, length(file))).collect()
    }

    pub fn read(&self, segment: u32, offset: u64, length: usize) -> Vec<u8> {
        self.files[&segment].read(offset as usize, length)
    }

    /// Reads for recovery.
    pub fn reader(&self) -> impl FnMut(u32, u64, usize, &mut Vec<u8>) -> Result<(), String> {
        move |segment, offset, length, bytes| {
            *bytes = self.read(segment, offset, length);
            Ok(())
        }
    }

    /// Removes what recovery found to be of no use.
    pub fn keep_only(&mut self, wanted: &BTreeSet<u32>) {
        self.files.retain(|number, _| wanted.contains(number));
    }

    /// Takes a whole segment away, as somebody who deletes a file does.
    pub fn lose(&mut self, segment: u32) {
        self.files.remove(&segment);
    }

    /// Flips a bit.
    pub fn flip(&mut self, segment: u32, bit: usize) {
        let file = self.files.get_mut(&segment).expect("it is there");
        file.sync(1000, &mut self.rng);
        file.platter[bit / 8] ^= 1 << (bit % 8);
    }
}
