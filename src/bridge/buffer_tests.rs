use super::*;
use crate::bridge::testing::{Scratch, batch, number, waited};
use proptest::prelude::*;

const SEGMENT: u64 = 64 * 1024;

fn read_all(buffer: &mut Buffer) -> Vec<u64> {
    let mut all = Vec::new();
    while let Some((at, record)) = buffer.read() {
        all.push(number(&record));
        buffer.done(at);
    }
    all
}

#[test]
fn what_does_not_fit_into_memory_goes_to_disk_and_comes_back_in_order() {
    let scratch = Scratch::new();
    let place = Place::Both(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::DropNew, place).unwrap();
    buffer.queue = Queue::new(2000, WhenFull::DropNew);
    for at in 0..60 {
        buffer.push(batch(at * 10..at * 10 + 10));
    }
    assert!(buffer.bytes() > 100_000, "on disk");
    assert_eq!(buffer.len(), 600);
    assert_eq!(read_all(&mut buffer), (0..600).collect::<Vec<u64>>());
    assert!(buffer.is_empty());
    buffer.push(batch(600..601));
    assert!(buffer.disk.as_ref().unwrap().spool.is_empty(), "in memory again");
    buffer.close();
    drop(buffer);
    let mut buffer = Buffer::open(1 << 20, WhenFull::DropNew, place).unwrap();
    assert_eq!(read_all(&mut buffer), [600]);
    assert_eq!(buffer.dropped() + buffer.damaged(), 0);
}

/// Whoever waits for a message is told of it once: when it is done, or when it is dropped.
#[test]
fn everybody_who_waits_is_known_once() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNew] {
        let scratch = Scratch::new();
        let place = Place::Both(&scratch.0, SEGMENT);
        let on_disk = || {
            let mut buffer = Buffer::open(1 << 16, when_full, place).unwrap();
            buffer.queue = Queue::new(2000, WhenFull::DropNew);
            buffer
        };
        for mut buffer in [Buffer::in_memory(2000, when_full), on_disk()] {
            let mut known = Vec::new();
            for at in 0..40 {
                assert!(buffer.push(waited(at * 10..at * 10 + 10)).is_none());
                if at == 5 {
                    let (first, record) = buffer.read().unwrap();
                    assert!(record.waiter.is_some());
                    known.extend(buffer.done(first));
                    assert_eq!(buffer.done(first), None, "it is done");
                }
            }
            let lost = buffer.take_lost();
            assert_eq!(lost.len() as u64, buffer.dropped());
            assert!(!lost.is_empty() && buffer.take_lost().is_empty());
            known.extend(lost);
            while let Some((at, _)) = buffer.read() {
                known.extend(buffer.done(at));
            }
            let mut numbers: Vec<u64> = known.iter().map(|waiter| waiter.number).collect();
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(0..400), "{when_full:?}: {numbers:?}");
        }
    }
}

#[test]
fn a_disk_that_cannot_be_written_loses_messages_and_counts_them() {
    let scratch = Scratch::new();
    let place = Place::Disk(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::DropNew, place).unwrap();
    std::fs::remove_dir_all(&scratch.0).unwrap();
    for at in 0..5 {
        buffer.push(batch(at * 10..at * 10 + 10));
    }
    assert_eq!(buffer.dropped(), 50);
    std::fs::create_dir_all(&scratch.0).unwrap();
    buffer.push(batch(50..60));
    assert_eq!(read_all(&mut buffer), (50..60).collect::<Vec<u64>>());
}

#[test]
fn a_full_disk_buffer_drops_by_its_policy() {
    for (when_full, first) in [(WhenFull::DropOldest, 100), (WhenFull::DropNew, 0)] {
        let scratch = Scratch::new();
        let place = Place::Disk(&scratch.0, SEGMENT);
        let mut buffer = Buffer::open(10 * 4096, when_full, place).unwrap();
        // Nothing is read ahead of the disk.
        buffer.queue = Queue::new(0, WhenFull::DropNew);
        buffer.push(batch(0..1));
        for at in 0..20 {
            buffer.push(batch(at * 10..at * 10 + 10));
        }
        assert!(buffer.bytes() <= 10 * 4096);
        let read = read_all(&mut buffer);
        assert_eq!(buffer.dropped() + read.len() as u64, 201);
        let has = |number: u64| read.contains(&number);
        assert!(has(if first == 0 { 5 } else { 195 }) && !has(if first == 0 { 195 } else { 5 }));
    }
}

#[test]
fn what_finds_no_room_comes_back_where_publishers_wait() {
    for on_disk in [false, true] {
        let scratch = Scratch::new();
        let place = if on_disk { Place::Disk(&scratch.0, SEGMENT) } else { Place::Memory };
        let bound = if on_disk { 10 * 4096 } else { 10 * batch(0..10).bytes().len() as u64 };
        let mut buffer = Buffer::open(bound, WhenFull::Pause, place).unwrap();
        let (mut next, mut read) = (0, Vec::new());
        let mut push = |buffer: &mut Buffer| {
            let back = buffer.push(batch(next..next + 10));
            next += if back.is_none() { 10 } else { 0 };
            back.is_some()
        };
        let mut refused = 0;
        for _ in 0..5 {
            refused += (0..20).filter(|_| push(&mut buffer)).count();
            assert!(buffer.bytes() as u64 <= bound);
            for _ in 0..37 {
                let Some((at, record)) = buffer.read() else { break };
                read.push(number(&record));
                buffer.done(at);
            }
        }
        assert!(refused > 50 && !buffer.is_failing(), "{refused} came back");
        // The end of the broker: what the cores still have is taken.
        buffer.unbind();
        assert!((0..20).all(|_| !push(&mut buffer)));
        read.extend(read_all(&mut buffer));
        assert_eq!(read, (0..next).collect::<Vec<u64>>());
        assert_eq!(buffer.dropped(), 0);
    }
}

#[test]
fn a_disk_that_cannot_be_written_loses_nothing_where_publishers_wait() {
    let scratch = Scratch::new();
    let place = Place::Disk(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    std::fs::remove_dir_all(&scratch.0).unwrap();
    assert!(buffer.push(batch(0..10)).is_some() && buffer.is_failing());
    std::fs::create_dir_all(&scratch.0).unwrap();
    assert!(buffer.push(batch(0..10)).is_none() && !buffer.is_failing());
    assert_eq!((read_all(&mut buffer), buffer.dropped()), ((0..10).collect(), 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Killed at any moment, each message that was taken in comes at least once, in order.
    #[test]
    fn as_a_list_that_survives(steps in prop::collection::vec(0u8..8, 1..150)) {
        let scratch = Scratch::new();
        let place = Place::Disk(&scratch.0, SEGMENT);
        let open = || Buffer::open(1 << 24, WhenFull::DropNew, place).unwrap();
        let mut buffer = open();
        let (mut next, mut under_way, mut got) = (0, Vec::new(), Vec::new());
        for step in steps {
            match step {
                0..3 => {
                    buffer.push(batch(next..next + 3));
                    next += 3;
                }
                3..5 => {
                    if let Some((at, record)) = buffer.read() {
                        let number = number(&record);
                        under_way.push((at, number));
                    }
                }
                5 => {
                    if !under_way.is_empty() {
                        let (at, number) = under_way.remove(0);
                        buffer.done(at);
                        got.push(number);
                    }
                }
                6 => {
                    buffer.rewind();
                    under_way.clear();
                }
                _ => {
                    // As kill -9: nothing is said.
                    drop(buffer);
                    buffer = open();
                    under_way.clear();
                }
            }
        }
        buffer.rewind();
        got.extend(read_all(&mut buffer));
        prop_assert_eq!(buffer.dropped() + buffer.damaged(), 0);
        let mut seen = std::collections::BTreeSet::new();
        // The first time that each comes is in order.
        let firsts: Vec<u64> = got.iter().copied().filter(|number| seen.insert(*number)).collect();
        prop_assert_eq!(firsts, (0..next).collect::<Vec<u64>>());
    }
}
