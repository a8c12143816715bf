//! Bridges with several connections (`connections: N`). Each connection is a *lane*, with links, a
//! buffer and a thread of its own. All messages of one topic are in the same lane, which keeps
//! their order. Messages on disk are laid out for a certain number of lanes; with another number
//! they are moved at the start, before further messages come.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "lanes of one bridge share its state; on the control thread and those of bridges"
)]

use super::buffer::{Buffer, BufferPlace};
use crate::link_record::LinkBatch;
use crate::shard::{LinkPart, WhenFull};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A lane of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BridgeLane {
    /// The lane's number, from 0.
    pub number: u16,
    /// The number of lanes of the bridge.
    pub of: u16,
}

impl BridgeLane {
    /// All lanes of a bridge that has `of` lanes.
    pub fn all(of: u16) -> impl Iterator<Item = BridgeLane> {
        (0..of).map(move |number| BridgeLane { number, of })
    }

    /// Whether this is the first lane, which does everything that cannot be shared.
    pub fn is_first(self) -> bool {
        self.number == 0
    }

    /// The suffix of the lane's ClientId.
    pub fn suffix(self) -> String {
        if self.is_first() { String::new() } else { format!("-{}", self.number + 1) }
    }

    /// The directory of the lane's messages, below that of the bridge.
    pub fn directory(self, of_bridge: &Path) -> PathBuf {
        match self.of {
            1 => of_bridge.to_owned(),
            of => of_bridge.join(format!("{}-of-{of}", self.number + 1)),
        }
    }

    /// The lane for which a directory of the bridge is, by its name.
    fn of_directory(name: &str) -> Option<BridgeLane> {
        let (number, of) = name.split_once("-of-")?;
        let (number, of): (u16, u16) = (number.parse().ok()?, of.parse().ok()?);
        (number >= 1 && number <= of && of > 1).then(|| BridgeLane { number: number - 1, of })
    }
}

/// The state of a bridge, to which each lane contributes: the bridge is up while all lanes are.
#[derive(Clone)]
pub struct LaneStates(Arc<Mutex<Parts>>);

struct Parts {
    up: Vec<bool>,
    /// The state that was published last.
    told: Option<bool>,
}

impl LaneStates {
    /// The state of a bridge with `lanes` lanes, none of which is up.
    pub fn new(lanes: u16) -> LaneStates {
        LaneStates(Arc::new(Mutex::new(Parts { up: vec![false; usize::from(lanes)], told: None })))
    }

    /// Notes whether a lane is up.
    pub fn set(&self, lane: u16, up: bool) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.up.get_mut(usize::from(lane)) {
            *part = up;
        }
    }

    /// Calls `tell` with the bridge's state, unless that was told last. The lock is held meanwhile,
    /// so that lanes tell one after the other. Returns whether `tell` was called.
    pub fn tell(&self, tell: impl FnOnce(bool)) -> bool {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let up = parts.up.iter().all(|&up| up);
        let new = parts.told != Some(up);
        if new {
            parts.told = Some(up);
            tell(up);
        }
        new
    }

    /// Notes that what was told has not arrived.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).told = None;
    }
}

/// Moves messages on disk that are laid out for another number of lanes to the present ones.
/// `segment` is the size of a segment in bytes. Returns the number of moved messages.
///
/// # Errors
/// Fails when the disk cannot be read or written. Everything that was there before is still there
/// then, and some of it twice.
pub fn gather(directory: &Path, of: u16, segment: u64) -> io::Result<usize> {
    let mut old = Vec::new();
    if of > 1 && has_segments(directory)? {
        old.push((BridgeLane { number: 0, of: 1 }, directory.to_owned()));
    }
    if directory.is_dir() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let lane = entry.file_name().to_str().and_then(BridgeLane::of_directory);
            if let Some(lane) = lane.filter(|lane| lane.of != of)
                && has_segments(&entry.path())?
            {
                old.push((lane, entry.path()));
            }
        }
    }
    if old.is_empty() {
        return Ok(0);
    }
    old.sort_by_key(|(lane, _)| (lane.of, lane.number));
    let places: Vec<PathBuf> = BridgeLane::all(of).map(|lane| lane.directory(directory)).collect();
    let open = |place: &PathBuf| {
        Buffer::open(u64::MAX, WhenFull::Pause, BufferPlace::Disk(place, segment))
    };
    let mut lanes = places.iter().map(open).collect::<io::Result<Vec<Buffer>>>()?;
    let mut moved = 0;
    for (_, place) in &old {
        moved += spread(&mut open(place)?, &mut lanes)?;
    }
    for lane in &mut lanes {
        lane.put_away()?;
    }
    // The old files are removed last: messages that are there twice are sent twice, but messages
    // that are nowhere are lost.
    for (lane, place) in &old {
        if lane.of == 1 { remove_segments(place)? } else { std::fs::remove_dir_all(place)? }
    }
    Ok(moved)
}

/// Moves all messages of a buffer into those of the lanes. Returns their number.
fn spread(old: &mut Buffer, lanes: &mut [Buffer]) -> io::Result<usize> {
    let mut batches: Vec<LinkBatch> = lanes.iter().map(|_| LinkBatch::default()).collect();
    let mut moved = 0;
    let full = || io::Error::other("what waits cannot be moved: the disk cannot be written");
    while let Some((number, record)) = old.read() {
        let at = usize::from(LinkPart::of_topic(record.topic, lanes.len() as u16));
        if let (Some(batch), Some(lane)) = (batches.get_mut(at), lanes.get_mut(at)) {
            if !batch.has_room(record.size()) {
                lane.push(std::mem::take(batch)).map_or(Ok(()), |_| Err(full()))?;
            }
            batch.push(&record);
            moved += 1;
        }
        old.pass(number);
    }
    if old.has_unread() {
        return Err(io::Error::other("what waits cannot be moved: the disk cannot be read"));
    }
    for (batch, lane) in batches.into_iter().zip(lanes) {
        if batch.count() > 0 {
            lane.push(batch).map_or(Ok(()), |_| Err(full()))?;
        }
    }
    Ok(moved)
}

fn segments(directory: &Path) -> io::Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            segments.push(path);
        }
    }
    Ok(segments)
}

fn has_segments(directory: &Path) -> io::Result<bool> {
    Ok(!segments(directory)?.is_empty())
}

fn remove_segments(directory: &Path) -> io::Result<()> {
    segments(directory)?.iter().try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::testing::Scratch;
    use crate::link_record::LinkRecord;
    use crate::storage::faults::{self, Fault};
    use std::collections::BTreeMap;

    fn topic(number: u64) -> String {
        format!("dev/{}", number % 7)
    }

    fn push(buffer: &mut Buffer, numbers: impl Iterator<Item = u64>) {
        let mut batch = LinkBatch::default();
        for number in numbers {
            let topic = topic(number);
            let payload = number.to_le_bytes();
            batch.push(&LinkRecord { topic: &topic, payload: &payload, ..LinkRecord::default() });
        }
        assert!(buffer.push(batch).is_none());
    }

    fn open(path: &Path) -> Buffer {
        Buffer::open(u64::MAX, WhenFull::Pause, BufferPlace::Disk(path, 256 << 10)).unwrap()
    }

    /// The messages in each lane, by topic.
    fn waiting(directory: &Path, of: u16) -> BTreeMap<String, Vec<u64>> {
        let mut all = BTreeMap::new();
        for lane in BridgeLane::all(of) {
            let mut buffer = open(&lane.directory(directory));
            let mut here: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            while let Some((_, record)) = buffer.read() {
                let number = u64::from_le_bytes(record.payload.try_into().unwrap());
                assert_eq!(LinkPart::of_topic(record.topic, of), lane.number);
                here.entry(record.topic.to_owned()).or_default().push(number);
            }
            for (topic, numbers) in here {
                assert!(all.insert(topic, numbers).is_none(), "a topic is in one lane");
            }
        }
        all
    }

    #[test]
    fn what_waits_is_in_order_whatever_the_number_of_lanes_was() {
        let scratch = Scratch::new();
        let directory = &*scratch.0;
        assert_eq!(gather(&directory.join("none"), 3, 1 << 20).unwrap(), 0);
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut buffer = open(directory);
        push(&mut buffer, 0..100);
        buffer.close();
        drop(buffer);
        (0..100).for_each(|number| expected.entry(topic(number)).or_default().push(number));
        for of in [4, 3, 1, 2] {
            assert_eq!(gather(directory, of, 256 << 10).unwrap(), 100, "{of}");
            assert_eq!(waiting(directory, of), expected, "{of}");
            assert_eq!(gather(directory, of, 256 << 10).unwrap(), 0, "{of}");
        }
    }

    /// Any read of the disk fails: the messages are moved another time, and none is lost.
    #[test]
    fn what_cannot_be_read_stays_where_it_is() {
        let mut failed = 0;
        for first in 0..12 {
            let scratch = Scratch::new();
            let mut buffer = open(&scratch.0);
            for at in 0..20 {
                push(&mut buffer, at * 5..at * 5 + 5);
            }
            drop(buffer);
            let error = nix::errno::Errno::EIO as i32;
            faults::plan_reads(Some(Fault { first, count: 1, error, ..Fault::default() }));
            failed += u32::from(gather(&scratch.0, 3, 256 << 10).is_err());
            faults::plan_reads(None);
            gather(&scratch.0, 3, 256 << 10).unwrap();
            for (topic, mut numbers) in waiting(&scratch.0, 3) {
                let mut seen = std::collections::HashSet::new();
                numbers.retain(|&number| seen.insert(number));
                let expected = (0..100).filter(|&number| self::topic(number) == topic);
                assert!(numbers.iter().copied().eq(expected), "{first}, {topic}: {numbers:?}");
            }
        }
        assert!(failed > 1, "{failed}");
    }

    #[test]
    fn a_bridge_is_up_while_all_its_lanes_are() {
        let state = LaneStates::new(2);
        let mut told = Vec::new();
        for (lane, up) in [(0, false), (1, true), (0, true), (0, true), (1, false), (1, true)] {
            state.set(lane, up);
            state.tell(|up| told.push(up));
        }
        assert_eq!(told, [false, true, false, true]);
        state.forget();
        assert!(state.tell(|up| told.push(up)));
    }
}
