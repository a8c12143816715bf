//! The map under the interest table: whoever publishes after a SUBACK finds the subscriber's shard,
//! and nobody misses another one's, whatever is written and whichever table is being replaced.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::collector::CARELESS;
use crate::map::Map;
use crate::{explore, must_fail};

/// Keys of one segment, each with a place of its own at first.
fn key(number: u64) -> u64 {
    number << 60 | 1
}

fn get(map: &Map, number: u64) -> u128 {
    map.get(key(number), &map.enter())
}

/// A map with so many keys in one segment, each wanted by shard 0.
fn map_of(keys: u64) -> Arc<Map> {
    let map = Map::new();
    (0..keys).for_each(|number| assert!(map.set(key(number), 1)));
    Arc::new(map)
}

/// Another shard sets `number`, then says so; whoever has heard it finds it.
fn granted(map: Arc<Map>, number: u64, bit: u128) {
    let granted = Arc::new(AtomicBool::new(false));
    let (writes, says) = (map.clone(), granted.clone());
    let writer = thread::spawn(move || {
        assert!(writes.set(key(number), bit));
        says.store(true, Ordering::Release);
    });
    let heard = granted.load(Ordering::Acquire);
    let set = get(&map, number);
    assert!(set & !1 & !bit == 0, "nobody else was named");
    assert!(!heard || set & bit != 0, "granted and not found");
    writer.join().unwrap();
}

#[test]
fn what_was_granted_is_found() {
    explore(2, || granted(map_of(0), 3, 2));
    // Of a shard beyond the first word: the table is replaced by a wider one.
    explore(2, || granted(map_of(1), 0, 1 << 100));
}

#[test]
fn what_was_granted_is_found_when_the_table_grows_for_it() {
    explore(2, || granted(map_of(6), 7, 2));
}

#[test]
fn a_set_is_there_as_soon_as_its_key_is() {
    explore(2, || {
        let map = map_of(6);
        let writes = map.clone();
        let writer = thread::spawn(move || assert!(writes.set(key(7), 1)));
        // The others stay where they are found, in whichever table.
        assert_eq!(get(&map, 2), 1);
        assert!(get(&map, 7) <= 1);
        assert_eq!(get(&map, 5), 1);
        writer.join().unwrap();
        assert_eq!((get(&map, 7), map.len()), (1, 7));
    });
}

#[test]
fn what_stays_is_found_while_the_table_shrinks() {
    explore(2, || {
        let map = map_of(7);
        (2..7).for_each(|number| assert!(map.clear(key(number), 1)));
        let writes = map.clone();
        let writer = thread::spawn(move || assert!(writes.clear(key(1), 1)));
        assert_eq!(get(&map, 0), 1);
        assert!(get(&map, 1) <= 1);
        writer.join().unwrap();
        assert_eq!((get(&map, 1), map.len()), (0, 1));
    });
}

#[test]
fn two_shards_of_one_key_do_not_take_it_from_each_other() {
    explore(2, || {
        let map = map_of(6);
        let other = map.clone();
        let writer = thread::spawn(move || assert!(other.set(key(7), 2)));
        assert!(map.set(key(7), 4));
        assert!(map.clear(key(0), 1));
        writer.join().unwrap();
        assert_eq!((get(&map, 7), get(&map, 0), map.len()), (6, 0, 6));
    });
}

#[test]
fn a_pointer_read_without_order_finds_a_table_that_is_not_filled() {
    must_fail("left == right", 2, || {
        CARELESS.set(true);
        let map = map_of(6);
        let writes = map.clone();
        let writer = thread::spawn(move || assert!(writes.set(key(7), 1)));
        let found = get(&map, 2);
        CARELESS.set(false);
        assert_eq!(found, 1);
        writer.join().unwrap();
    });
}

#[test]
fn zz_experiment() {
    crate::explore(2, || {
        let map = Arc::new(Map::new());
        let writes = map.clone();
        let writer = thread::spawn(move || assert!(writes.set(key(7), 1)));
        eprintln!("ITER {}", get(&map, 7));
        writer.join().unwrap();
    });
}

#[test]
fn zz_experiment_2() {
    crate::explore(2, || {
        let flag = Arc::new(loom::sync::atomic::AtomicU64::new(0));
        let many: Vec<_> = (0..1200).map(loom::sync::atomic::AtomicU64::new).collect();
        let writes = flag.clone();
        let writer = thread::spawn(move || writes.store(1, Ordering::Release));
        eprintln!("ITER2 {}", flag.load(Ordering::Acquire));
        writer.join().unwrap();
        drop(many);
    });
}
