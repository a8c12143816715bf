//! The map under the interest table: whoever looks finds what is there, while writers insert,
//! remove, and replace the table beneath him, whose memory stays as long as he looks.
//!
//! In one segment whose smallest table has two slots, so that few steps lead through everything:
//! the second key makes it grow.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::memory::{Fault, with_fault};
use crate::{explore, must_fail};

type Map = crate::map::Map<1, 2>;

/// Keys that want the same slot of every table.
const KEPT: u64 = key(1);
const OTHER: u64 = key(2);
const THIRD: u64 = key(3);
/// One that wants the last slot.
const FAR: u64 = u64::MAX;

/// A key that differs from others in the bits that slots have.
const fn key(number: u64) -> u64 {
    number << 17
}

/// A shard in a slot's own word, one in the last of its further words, and the one that stays.
const LOW: u128 = 1;
const HIGH: u128 = 1 << 100;
const STAYS: u128 = 4;

fn map() -> Arc<Map> {
    let map = Map::new();
    assert!(map.set(KEPT, STAYS));
    Arc::new(map)
}

fn look(map: &Map, key: u64) -> u128 {
    map.get(key, &map.enter())
}

/// A reader of the key that stays, while another key makes the table grow and goes again.
fn grown() {
    let map = map();
    let writer = map.clone();
    let thread = thread::spawn(move || {
        assert!(writer.set(OTHER, LOW));
        assert!(writer.clear(OTHER, LOW));
    });
    assert_eq!(look(&map, KEPT), STAYS);
    assert_eq!(look(&map, KEPT), STAYS);
    thread.join().unwrap();
    assert_eq!((look(&map, KEPT), look(&map, OTHER), map.len()), (STAYS, 0, 1));
}

#[test]
fn what_stays_is_found_while_the_table_grows() {
    explore(3, grown);
}

#[test]
fn what_stays_is_found_while_the_table_shrinks() {
    explore(3, || {
        let map = map();
        // Fourteen own slots and three behind them, all but two entries gone.
        (2..8).map(key).for_each(|key| assert!(map.set(key, LOW)));
        (3..8).map(key).for_each(|key| assert!(map.clear(key, LOW)));
        let writer = map.clone();
        let thread = thread::spawn(move || assert!(writer.clear(OTHER, LOW)));
        let guard = map.enter();
        assert_eq!(map.get(KEPT, &guard), STAYS);
        let slots = map.segments[0].table(&guard).slots.len();
        assert!(slots == 17 || slots == 3, "{slots} slots");
        drop(guard);
        thread.join().unwrap();
        assert_eq!(map.segments[0].table(&map.enter()).slots.len(), 3);
        assert_eq!((look(&map, KEPT), map.len()), (STAYS, 1));
    });
}

#[test]
fn after_the_suback_everybody_finds_the_shard() {
    explore(2, || {
        let map = map();
        let granted = Arc::new(AtomicBool::new(false));
        let (own, told) = (map.clone(), granted.clone());
        let subscriber = thread::spawn(move || {
            assert!(own.set(OTHER, LOW));
            told.store(true, Ordering::Release);
        });
        let own = map.clone();
        let another = thread::spawn(move || assert!(own.set(FAR, HIGH)));
        if granted.load(Ordering::Acquire) {
            assert_eq!(look(&map, OTHER), LOW);
        }
        subscriber.join().unwrap();
        another.join().unwrap();
        assert_eq!([KEPT, OTHER, FAR].map(|key| look(&map, key)), [STAYS, LOW, HIGH]);
        assert_eq!(map.len(), 3);
    });
}

#[test]
fn writers_of_one_key_leave_each_other_and_readers_what_is_theirs() {
    explore(2, || {
        let map = map();
        assert!(map.set(KEPT, LOW));
        let own = map.clone();
        let leaves = thread::spawn(move || assert!(own.clear(KEPT, LOW)));
        let own = map.clone();
        // The first shard of a further word: the table is replaced by a wider one.
        let comes = thread::spawn(move || assert!(own.set(KEPT, HIGH)));
        let seen = look(&map, KEPT);
        assert!(seen & STAYS != 0 && seen & !(LOW | HIGH) == STAYS, "{seen:x}");
        leaves.join().unwrap();
        comes.join().unwrap();
        assert_eq!((look(&map, KEPT), map.len()), (STAYS | HIGH, 1));
    });
}

/// A reader who looks twice under one guard, while a key goes and the table is replaced.
fn looked_at_twice() {
    let map = map();
    let writer = map.clone();
    let thread = thread::spawn(move || {
        assert!(writer.clear(KEPT, STAYS));
        assert!(writer.set(OTHER, LOW));
        assert!(writer.set(FAR, HIGH));
    });
    let guard = map.enter();
    let seen = [map.get(KEPT, &guard), map.get(KEPT, &guard)];
    // The slot may have the other key by the time its set is read: a shard too many.
    let expected = [[0, 0], [STAYS, 0], [STAYS, STAYS], [LOW, 0], [STAYS, LOW], [0, LOW]];
    assert!(expected.contains(&seen), "{seen:?}");
    drop(guard);
    thread.join().unwrap();
    assert_eq!((look(&map, OTHER), look(&map, FAR), map.len()), (LOW, HIGH, 2));
}

#[test]
fn what_has_gone_does_not_come_back_to_a_reader_and_his_table_stays() {
    explore(3, looked_at_twice);
}

#[test]
fn what_is_behind_another_entry_is_found_while_that_one_goes_and_others_come() {
    explore(3, || {
        let map = map();
        assert!(map.set(OTHER, STAYS));
        let writer = map.clone();
        let thread = thread::spawn(move || {
            assert!(writer.clear(KEPT, STAYS));
            assert!(writer.set(THIRD, LOW));
        });
        assert_eq!(look(&map, OTHER), STAYS);
        assert_eq!(look(&map, OTHER), STAYS);
        thread.join().unwrap();
        assert_eq!([KEPT, OTHER, THIRD].map(|key| look(&map, key)), [0, STAYS, LOW]);
    });
}

#[test]
fn who_comes_back_to_another_slot_is_found() {
    explore(3, || {
        let map = map();
        assert!(map.set(OTHER, LOW));
        let granted = Arc::new(AtomicBool::new(false));
        let (own, told) = (map.clone(), granted.clone());
        let thread = thread::spawn(move || {
            assert!(own.clear(OTHER, LOW));
            assert!(own.set(THIRD, HIGH));
            assert!(own.set(OTHER, LOW));
            told.store(true, Ordering::Release);
        });
        if granted.load(Ordering::Acquire) {
            assert_eq!(look(&map, OTHER), LOW);
        }
        thread.join().unwrap();
        assert_eq!([KEPT, OTHER, THIRD].map(|key| look(&map, key)), [STAYS, LOW, HIGH]);
    });
}

/// The same models with one part taken away: loom must find the reader who is harmed.
#[test]
fn without_its_parts_the_reader_of_a_replaced_table_is_harmed() {
    for (fault, how) in [
        // A table is seen before what was written into it.
        (Fault::RelaxedSwap, "Causality violation"),
        (Fault::RelaxedLoad, "Causality violation"),
        // The reader comes in and looks at the old pointer; the writer does not see him yet.
        (Fault::NoFenceEntering, "a table that was given back"),
        (Fault::NoFenceRetiring, "a table that was given back"),
        (Fault::GivenBackAtOnce, "given back under a reader"),
    ] {
        must_fail(how, 3, move || with_fault(fault, grown));
    }
    must_fail("given back under a reader", 3, || {
        with_fault(Fault::GivenBackAtOnce, looked_at_twice);
    });
}
