use super::*;
use crate::bridge::testing::{Scratch, batch, number, waited};
use crate::storage::faults::{self, Fault};
use nix::errno::Errno;
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
    let place = BufferPlace::Both(&scratch.0, SEGMENT);
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

/// A publisher that waits for a message is told of it once: when the message is done, or when it is
/// dropped.
#[test]
fn everybody_who_waits_is_known_once() {
    for when_full in [WhenFull::DropOldest, WhenFull::DropNew] {
        let scratch = Scratch::new();
        let place = BufferPlace::Both(&scratch.0, SEGMENT);
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
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
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
        let place = BufferPlace::Disk(&scratch.0, SEGMENT);
        let mut buffer = Buffer::open(10 * 4096, when_full, place).unwrap();
        // Nothing is read ahead from the disk.
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
        let place =
            if on_disk { BufferPlace::Disk(&scratch.0, SEGMENT) } else { BufferPlace::Memory };
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
        // At the end of the broker, the messages that the cores still have are taken.
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
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    std::fs::remove_dir_all(&scratch.0).unwrap();
    assert!(buffer.push(batch(0..10)).is_some() && buffer.is_failing());
    std::fs::create_dir_all(&scratch.0).unwrap();
    assert!(buffer.push(batch(0..10)).is_none() && !buffer.is_failing());
    assert_eq!((read_all(&mut buffer), buffer.dropped()), ((0..10).collect(), 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// If the process is killed at any moment, each message that was taken in comes at least once,
    /// in order.
    #[test]
    fn as_a_list_that_survives(steps in prop::collection::vec(0u8..8, 1..150)) {
        let scratch = Scratch::new();
        let place = BufferPlace::Disk(&scratch.0, SEGMENT);
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
                    // As with kill -9: nothing is closed.
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
        // The first deliveries of all messages are in order.
        let firsts: Vec<u64> = got.iter().copied().filter(|number| seen.insert(*number)).collect();
        prop_assert_eq!(firsts, (0..next).collect::<Vec<u64>>());
    }
}

/// The messages of a run: how many were pushed, which were taken in, and which came out.
struct Outcome {
    pushed: u64,
    got: Vec<u64>,
    dropped: u64,
    operations: u32,
}

/// Fills and empties a buffer in turn while the disk has the given fault. With `killed`, the
/// process ends in between as by kill -9.
fn run(place: BufferPlace<'_>, when_full: WhenFull, fault: Option<Fault>, killed: bool) -> Outcome {
    let open = || {
        let mut buffer = Buffer::open(1 << 20, when_full, place).expect("a disk that can be read");
        if matches!(place, BufferPlace::Both(..)) && buffer.queue.is_empty() {
            buffer.queue = Queue::new(600, WhenFull::DropNew);
        }
        buffer
    };
    let mut buffer = open();
    faults::plan(fault);
    let (mut next, mut got, mut dropped, mut held) = (0, Vec::new(), 0, None);
    for round in 0..6 {
        for _ in 0..4 {
            // A batch that was returned is pushed again before others.
            let batch = held.take().unwrap_or_else(|| {
                next += 10;
                batch(next - 10..next)
            });
            held = buffer.push(batch);
        }
        for _ in 0..25 {
            let Some((at, record)) = buffer.read() else { break };
            got.push(number(&record));
            buffer.done(at);
        }
        buffer.save();
        if killed && round == 4 {
            dropped += buffer.dropped();
            drop(buffer);
            buffer = open();
        }
    }
    let operations = faults::plan(None);
    if let Some(batch) = held {
        assert!(buffer.push(batch).is_none(), "the disk is well again");
    }
    got.extend(read_all(&mut buffer));
    buffer.close();
    assert!(buffer.is_empty());
    Outcome { pushed: next, got, dropped: dropped + buffer.dropped(), operations }
}

/// A disk that is full or fails at any of its operations, once or for a while, with nothing or half
/// of a write stored: no message that was taken in is lost, and all are in order.
#[test]
fn a_disk_that_fails_at_any_operation_loses_nothing_that_was_taken_in() {
    let run_at = |kind: usize, when_full, fault, killed| {
        let scratch = Scratch::new();
        let place =
            [BufferPlace::Disk(&scratch.0, SEGMENT), BufferPlace::Both(&scratch.0, SEGMENT)][kind];
        run(place, when_full, fault, killed)
    };
    let mut faulty = 0;
    for (kind, when_full, killed) in [
        (0, WhenFull::Pause, false),
        (0, WhenFull::Pause, true),
        (0, WhenFull::DropNew, false),
        (0, WhenFull::DropNew, true),
        (1, WhenFull::Pause, false),
        (1, WhenFull::DropOldest, false),
    ] {
        let operations = run_at(kind, when_full, None, killed).operations;
        assert!(operations > 20, "{operations}");
        for first in 0..operations {
            let (count, error) =
                if first % 2 == 0 { (1, Errno::EIO as i32) } else { (7, Errno::ENOSPC as i32) };
            let written = [0, 100, 5000][first as usize % 3];
            let fault = Fault { first, count, written, error };
            let outcome = run_at(kind, when_full, Some(fault), killed);
            let what = format!("{kind} {when_full:?} {killed} at {first}");
            let mut seen = std::collections::BTreeSet::new();
            let firsts: Vec<u64> =
                outcome.got.iter().copied().filter(|number| seen.insert(*number)).collect();
            assert!(firsts.is_sorted(), "{what}: {firsts:?}");
            if when_full == WhenFull::Pause {
                assert!(firsts.iter().copied().eq(0..outcome.pushed), "{what}: {firsts:?}");
            }
            let known = firsts.len() as u64 + outcome.dropped;
            // A dropped message may have been written all the same, and be there after a restart.
            assert!(known == outcome.pushed || killed && known > outcome.pushed, "{what}");
            let again = (outcome.got.len() - firsts.len()) as u64;
            assert!(again <= if killed { 150 } else { 0 }, "{what}: {again} came twice");
            faulty += u32::from(outcome.dropped > 0);
        }
    }
    assert!(faulty > 0, "nothing was ever dropped");
}

/// A buffer most of which is read from disk; a read that fails is repeated at once.
fn read_from_disk(place: BufferPlace<'_>) -> Buffer {
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    buffer.queue = Queue::new(600, WhenFull::DropNew);
    buffer.disk.as_mut().unwrap().trying.0 = Duration::ZERO;
    buffer
}

/// Any read of the disk fails, once or for a while: no message is left out, and all are in order.
#[test]
fn a_disk_that_cannot_be_read_for_a_while_loses_nothing() {
    let run = |kind: usize, fault: Option<Fault>| {
        let scratch = Scratch::new();
        let place =
            [BufferPlace::Disk(&scratch.0, SEGMENT), BufferPlace::Both(&scratch.0, SEGMENT)][kind];
        let mut buffer = read_from_disk(place);
        faults::plan_reads(fault);
        let (mut next, mut got) = (0, Vec::new());
        for _ in 0..6 {
            for _ in 0..4 {
                assert!(buffer.push(batch(next..next + 10)).is_none());
                next += 10;
            }
            for _ in 0..25 {
                let Some((at, record)) = buffer.read() else { break };
                got.push(number(&record));
                buffer.done(at);
            }
        }
        for _ in 0..100 {
            got.extend(read_all(&mut buffer));
        }
        let reads = faults::plan_reads(None);
        assert!(got.iter().copied().eq(0..next), "{kind} {fault:?}: {got:?}");
        assert!(buffer.is_empty() && !buffer.has_unread() && !buffer.is_unreadable());
        assert_eq!(buffer.dropped() + buffer.damaged(), 0);
        (reads, buffer.failures().reads)
    };
    for kind in [0, 1] {
        let (reads, failed) = run(kind, None);
        assert!(reads > 10 && failed == 0, "{reads} reads");
        for first in 0..reads {
            let count = [1, 7, 40][first as usize % 3];
            let fault = Fault { first, count, error: Errno::EIO as i32, ..Fault::default() };
            let (_, failed) = run(kind, Some(fault));
            assert!(failed > 0 && failed <= u64::from(count), "{failed} of {count} at {first}");
        }
    }
}

/// A batch that cannot be read for long is left out and counted, and its waiting publishers are
/// known. This does not happen while the disk cannot be written either: such a disk may recover.
#[test]
fn what_cannot_be_read_is_given_up_when_the_disk_is_known_to_work() {
    let scratch = Scratch::new();
    let mut buffer = read_from_disk(BufferPlace::Disk(&scratch.0, SEGMENT));
    buffer.disk.as_mut().unwrap().trying.1 = Duration::ZERO;
    for at in 0..3 {
        assert!(buffer.push(waited(at * 10..at * 10 + 10)).is_none());
    }
    let error = Errno::EIO as i32;
    faults::plan_reads(Some(Fault { count: 2, error, ..Fault::default() }));
    faults::plan(Some(Fault { count: u32::MAX, error, ..Fault::default() }));
    assert!(read_all(&mut buffer).iter().copied().eq(0..10), "what is in memory");
    assert!(buffer.is_unreadable() && buffer.has_unread());
    assert_eq!((buffer.damaged(), buffer.take_lost()), (0, Vec::new()));
    faults::plan(None);
    assert!(read_all(&mut buffer).iter().copied().eq(20..30), "what comes behind it");
    assert_eq!((buffer.damaged(), buffer.failures().reads), (1, 2));
    let lost = buffer.take_lost();
    assert!(lost.iter().map(|waiter| waiter.number).eq(10..20), "{lost:?}");
    faults::plan_reads(None);
    assert!(buffer.is_empty() && !buffer.is_unreadable());
}

/// A start that cannot read the disk fails and leaves everything where it is.
#[test]
fn a_buffer_that_cannot_be_read_at_the_start_is_not_opened() {
    let scratch = Scratch::new();
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    let open = || Buffer::open(1 << 20, WhenFull::Pause, place);
    let mut buffer = open().unwrap();
    for at in 0..30 {
        assert!(buffer.push(batch(at * 10..at * 10 + 10)).is_none());
    }
    drop(buffer);
    let fault = |first| Fault { first, count: 1, error: Errno::EIO as i32, ..Fault::default() };
    let mut failed = 0;
    for first in 0..5 {
        faults::plan_reads(Some(fault(first)));
        failed += u32::from(open().is_err());
    }
    faults::plan_reads(None);
    assert!(failed > 1, "{failed}");
    assert!(read_all(&mut open().unwrap()).iter().copied().eq(0..300));
}

/// Files are cut at any byte, or any bit of them is inverted: what is read is what was written, in
/// whole batches and in order, and missing batches between them are counted.
#[test]
fn files_with_any_byte_cut_or_turned_over_are_read_as_far_as_they_go() {
    let scratch = Scratch::new();
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    for at in 0..4 {
        assert!(buffer.push(batch(at * 3..at * 3 + 3)).is_none());
    }
    let (at, _) = buffer.read().unwrap();
    buffer.done(at);
    buffer.save();
    drop(buffer);
    let segment = scratch.0.join("0000000001.seg");
    let position = scratch.0.join("position");
    let (whole, told) = (std::fs::read(&segment).unwrap(), std::fs::read(&position).unwrap());
    let length = batch(0..3).bytes().len() + 64;
    let look = |what: &str| {
        let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
        let mut found = Vec::new();
        while let Some((_, record)) = buffer.read() {
            found.push(number(&record));
        }
        assert!(found.is_sorted_by(|one, other| one < other), "{what}: {found:?}");
        assert!(found.iter().all(|number| *number < 12), "{what}: {found:?}");
        let restored = [(&segment, &whole), (&position, &told)];
        drop(buffer);
        restored.into_iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        found
    };
    let written = (0..4).flat_map(|at| at * 4096..at * 4096 + length);
    for at in written.clone() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&segment, &bytes).unwrap();
        let found = look(&format!("bit {} of byte {at}", at % 8));
        let lost = at as u64 / 4096 * 3;
        let expected = (1..12).filter(|number| !(lost..lost + 3).contains(number));
        assert!(found.iter().copied().eq(expected), "byte {at}: {found:?}");
    }
    for at in written {
        std::fs::write(&segment, &whole[..at]).unwrap();
        let found = look(&format!("cut at {at}"));
        let whole = at as u64 / 4096 * 3;
        assert!(found.iter().copied().eq(1..whole.max(1)), "cut at {at}: {found:?}");
    }
    for at in 0..told.len() {
        let mut bytes = told.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&position, &bytes).unwrap();
        assert_eq!(look("position").len(), 12, "all are sent again");
        std::fs::write(&position, &told[..at]).unwrap();
        assert_eq!(look("position cut").len(), 12, "all are sent again");
    }
}

/// A number and the identity name one message: where the numbers begin again, the identity changes.
#[test]
fn numbers_begin_again_only_under_another_identity() {
    let scratch = Scratch::new();
    let mut buffer = Buffer::in_memory(1 << 20, WhenFull::DropNew);
    buffer.push(batch(0..3));
    let memory = buffer.identity();
    assert_eq!(buffer.read().unwrap().0, 0);
    buffer.done(0);
    buffer.rewind();
    assert_eq!(buffer.read().unwrap().0, 1, "the numbers go on");
    buffer.change(1 << 20, WhenFull::DropNew, BufferPlace::Memory).unwrap();
    assert_eq!((buffer.read().unwrap().0, buffer.identity()), (1, memory));
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    buffer.change(1 << 20, WhenFull::DropNew, place).unwrap();
    assert_eq!(buffer.read().unwrap().0, 0, "the numbers begin again");
    let disk = buffer.identity();
    assert_ne!(disk, memory);
    drop(buffer);
    let buffer = Buffer::open(1 << 20, WhenFull::DropNew, place).unwrap();
    assert_ne!(buffer.identity(), disk);
}

/// A broker starts all the same: what comes waits in memory within the bound, behind what is on
/// disk, and none of it is read before that.
#[test]
fn a_buffer_that_cannot_be_read_at_the_start_is_opened_later() {
    for (both, when_full) in
        [(false, WhenFull::Pause), (true, WhenFull::Pause), (false, WhenFull::DropOldest)]
    {
        let scratch = Scratch::new();
        let place = || match both {
            true => BufferPlace::Both(&scratch.0, SEGMENT),
            false => BufferPlace::Disk(&scratch.0, SEGMENT),
        };
        let open = |most| Buffer::open_or_wait(most, when_full, place());
        let mut buffer = open(1 << 20).unwrap();
        (0..30).for_each(|at| assert!(buffer.push(batch(at * 10..at * 10 + 10)).is_none()));
        buffer.close();
        drop(buffer);
        let error = Errno::EIO as i32;
        faults::plan_reads(Some(Fault { count: u32::MAX, error, ..Fault::default() }));
        let mut buffer = open(1 << 20).unwrap();
        assert!(buffer.is_unreadable() && buffer.has_unread() && !buffer.is_empty());
        assert_eq!(buffer.failures(), Failures { reads: 1, writes: 0 });
        (30..40).for_each(|at| assert!(buffer.push(batch(at * 10..at * 10 + 10)).is_none()));
        assert!(buffer.read().is_none(), "what is on disk comes first");
        assert_eq!(buffer.len(), 100);
        let again = |buffer: &mut Buffer| {
            buffer.later.as_mut().unwrap().again = Instant::now();
            buffer.open_again();
        };
        again(&mut buffer);
        assert!(buffer.is_unreadable());
        assert_eq!(buffer.failures().reads, 2);
        faults::plan_reads(None);
        again(&mut buffer);
        assert!(!buffer.is_unreadable());
        assert_eq!((buffer.failures().reads, buffer.dropped()), (2, 0));
        assert!(read_all(&mut buffer).iter().copied().eq(0..400), "{both} {when_full:?}");
    }
}

#[test]
fn a_buffer_that_is_opened_later_is_bounded_meanwhile_and_opens_at_its_end() {
    let scratch = Scratch::new();
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    assert!(buffer.push(batch(0..10)).is_none());
    buffer.close();
    drop(buffer);
    let error = Errno::EIO as i32;
    faults::plan_reads(Some(Fault { count: 1, error, ..Fault::default() }));
    let size = batch(0..10).bytes().len() as u64;
    let mut buffer = Buffer::open_or_wait(2 * size, WhenFull::Pause, place).unwrap();
    assert!(buffer.push(batch(10..20)).is_none() && buffer.push(batch(20..30)).is_none());
    assert!(buffer.push(batch(30..40)).is_some(), "publishers wait");
    faults::plan_reads(None);
    buffer.close();
    drop(buffer);
    let mut buffer = Buffer::open(1 << 20, WhenFull::Pause, place).unwrap();
    assert!(read_all(&mut buffer).iter().copied().eq(0..30));
    // What does not pass by itself is told at the start.
    let file = scratch.0.join("file");
    std::fs::write(&file, "").unwrap();
    assert!(
        Buffer::open_or_wait(1 << 20, WhenFull::Pause, BufferPlace::Disk(&file, SEGMENT)).is_err()
    );
}

/// A disk that cannot be written when what waited in memory is to go there: nothing is lost, and
/// the order holds.
#[test]
fn what_waits_for_a_directory_goes_there_when_it_can_be_written() {
    let scratch = Scratch::new();
    let place = BufferPlace::Disk(&scratch.0, SEGMENT);
    let error = Errno::EIO as i32;
    for first in 0..12 {
        let _ = std::fs::remove_dir_all(&scratch.0);
        let mut buffer = Buffer::in_memory(1 << 20, WhenFull::Pause);
        (0..20).for_each(|at| assert!(buffer.push(batch(at * 10..at * 10 + 10)).is_none()));
        faults::plan(Some(Fault { first, count: u32::MAX, error, ..Fault::default() }));
        if buffer.change(1 << 20, WhenFull::Pause, place).is_err() {
            faults::plan(None);
            assert_eq!((read_all(&mut buffer).len(), buffer.dropped()), (200, 0), "as it was");
            continue;
        }
        faults::plan(None);
        assert!(buffer.push(batch(200..210)).is_none());
        if let Some(later) = &mut buffer.later {
            later.again = Instant::now();
            buffer.open_again();
        }
        assert!(read_all(&mut buffer).iter().copied().eq(0..210), "{first}");
        assert_eq!(buffer.dropped(), 0);
    }
}
