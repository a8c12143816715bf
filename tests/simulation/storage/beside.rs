//! A log that is read while it is written to, and read on later: when it rests, what was found is
//! what one reading of the whole finds. A log that cannot be read on says so.

use super::disk::Disk;
use super::{LOG, State, recover, take};
use crate::rng::Rng;
use ringmq::storage::index::IndexValue;
use ringmq::storage::record::{Record, RecordKey};
use ringmq::storage::recovery::{LogActivity, LogReading};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often a log was read on to its end, and how often it could not be.
pub fn counts() -> [usize; 2] {
    [0, 1].map(|which: usize| READ_ON[which].load(Ordering::Relaxed))
}

static READ_ON: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Who reads a log of which another is the writer.
pub struct Reader {
    rng: Rng,
    read: Option<Parts>,
}

struct Parts {
    reading: LogReading,
    state: State,
    values: BTreeMap<RecordKey, IndexValue>,
}

impl Reader {
    pub fn new(seed: u64) -> Reader {
        Reader { rng: Rng::new(seed ^ 0xbe51de), read: None }
    }

    /// Reads what there is, now and then.
    pub fn maybe_read(&mut self, disk: &Disk) {
        if !self.rng.chance(5) {
            return;
        }
        let known = self.read.take().filter(|_| self.rng.chance(800));
        self.read = read_on(known.unwrap_or_else(nothing), disk, LogActivity::Written);
    }

    /// The log rests. What was read of it, and the rest, is what it has.
    pub fn check(&mut self, disk: &Disk) {
        let Some(known) = self.read.take() else { return };
        let Some(Parts { reading, state, values }) = read_on(known, disk, LogActivity::Rests)
        else {
            READ_ON[1].fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (recovered, whole, all) = recover(disk).expect("it is whole");
        assert_eq!(reading.end(), recovered, "what was read on is the log");
        assert!(state == whole && values == all, "what was read on is what it has");
        READ_ON[0].fetch_add(1, Ordering::Relaxed);
    }
}

fn nothing() -> Parts {
    let (reading, state, values) = (LogReading::new(LOG), State::new(), BTreeMap::new());
    Parts { reading, state, values }
}

/// `None` when the log cannot be read on.
fn read_on(mut known: Parts, disk: &Disk, activity: LogActivity) -> Option<Parts> {
    let segments = disk.segments();
    let mut read = disk.reader();
    if !known.reading.is_valid(&segments, &mut read).ok()? {
        return None;
    }
    let Parts { reading, state, values } = &mut known;
    let mut take = |record: &Record<'_>, value| take(record, value, state, values);
    reading.read_on(activity, &segments, &mut read, &mut take).ok()?;
    Some(known)
}
