use super::*;
use crate::bridge::testing::{Scratch, batch, numbers, waited};
use proptest::prelude::*;

const SEGMENT: u64 = 64 * 1024;

fn filled(directory: &Path, batches: u64) {
    let mut spool = Spool::open(directory, SEGMENT).unwrap();
    for at in 0..batches {
        spool.append(&batch(at * 10..at * 10 + 10)).unwrap();
    }
}

fn all(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| spool.read().unwrap()).flat_map(|(batch, _)| numbers(&batch)).collect()
}

fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

#[test]
fn batches_survive_and_segments_go_when_they_are_done() {
    let scratch = Scratch::new();
    filled(&scratch.0, 40);
    assert!(segments(&scratch.0).len() > 1, "several segments");
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!(all(&mut spool), (0..400).collect::<Vec<u64>>());
    spool.append(&batch(400..410)).unwrap();
    spool.release(30);
    spool.save_position(0).unwrap();
    drop(spool);
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!(all(&mut spool), (300..410).collect::<Vec<u64>>());
    spool.release(11);
    assert!(spool.is_empty() && spool.bytes() == 0);
    spool.save_position(0).unwrap();
    drop(spool);
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!((all(&mut spool), spool.damaged()), (Vec::new(), 0));
}

#[test]
fn a_position_within_a_batch_is_kept() {
    let scratch = Scratch::new();
    filled(&scratch.0, 2);
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    all(&mut spool);
    spool.release(1);
    spool.save_position(4).unwrap();
    drop(spool);
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    let (batch, done) = spool.read().unwrap().unwrap();
    assert_eq!((numbers(&batch)[0], done), (10, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever happens to the bytes, what is read is what was written, in order, and missing
    /// batches between two batches of a segment are counted.
    #[test]
    fn damage_loses_batches_and_nothing_else(
        flips in prop::collection::vec((0usize..4, 0usize..70_000, 0u8..8), 0..4),
        cut in prop::option::of(0u64..70_000),
    ) {
        let scratch = Scratch::new();
        filled(&scratch.0, 30);
        let files = segments(&scratch.0);
        for (file, at, bit) in &flips {
            let path = &files[file % files.len()];
            let mut bytes = std::fs::read(path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            std::fs::write(path, bytes).unwrap();
        }
        if let Some(cut) = cut {
            let last = OpenOptions::new().write(true).open(files.last().unwrap()).unwrap();
            last.set_len(cut % SEGMENT).unwrap();
        }
        let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
        let found = all(&mut spool);
        prop_assert!(found.is_sorted_by(|one, other| one < other));
        prop_assert!(found.chunks(10).all(|ten| ten.len() == 10 && ten[0] % 10 == 0));
        if cut.is_none() {
            prop_assert!(found.len() >= 300 - 10 * flips.len(), "{}", found.len());
        }
        spool.append(&batch(1000..1010)).unwrap();
        prop_assert_eq!(all(&mut spool).len(), 10);
    }
}

#[test]
fn who_waits_for_a_batch_that_is_broken_on_disk_is_known() {
    let scratch = Scratch::new();
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    (0..3).for_each(|at| spool.append(&waited(at * 10..at * 10 + 10)).unwrap());
    let offset = spool.entries[1].offset;
    let file = OpenOptions::new().write(true).open(&segments(&scratch.0)[0]).unwrap();
    file.write_all_at(&[0xff; 64], offset).unwrap();
    let read = all(&mut spool);
    assert!(read.iter().copied().eq((0..10).chain(20..30)), "{read:?}");
    let lost: Vec<u64> = spool.take_lost().iter().map(|waiter| waiter.number).collect();
    assert!(lost.iter().copied().eq(10..20), "{lost:?}");
    assert_eq!(spool.damaged(), 1);
}

/// Turns over a bit in the payload of the batch at this index.
fn break_batch(directory: &Path, entry: &SpooledBatch) {
    let path = &segments(directory)[entry.segment as usize - 1];
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let at = entry.offset + frame::HEADER as u64 + 8;
    file.write_all_at(&[0xff; 8], at).unwrap();
}

/// A batch that is broken and has an intact header is a torn tail if no batch was written after it,
/// and damage otherwise, also if the later batch is in another segment.
#[test]
fn a_torn_tail_is_told_apart_from_damage() {
    let scratch = Scratch::new();
    filled(&scratch.0, 2);
    let mut spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    break_batch(&scratch.0, &spool.entries[1]);
    spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!((spool.entries.len(), spool.damaged()), (1, 0), "a torn tail");
    // The next batch has the number of the torn one, which stays where it is.
    spool.append(&batch(100..110)).unwrap();
    spool.append(&batch(110..120)).unwrap();
    spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!((spool.entries.len(), spool.damaged()), (3, 0), "it was a torn tail");
    let expected: Vec<u64> = (0..10).chain(100..120).collect();
    assert_eq!(all(&mut spool), expected);
    // A whole batch that is broken later, and is the last one of its segment but not of all.
    spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    spool.append(&batch(120..130)).unwrap();
    break_batch(&scratch.0, &spool.entries[2]);
    spool = Spool::open(&scratch.0, SEGMENT).unwrap();
    assert_eq!((spool.entries.len(), spool.damaged()), (3, 1), "damage");
}
