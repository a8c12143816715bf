//! The map against a plain one, and under writers and readers at once.

use super::map::{LEAST, Map, SEGMENTS};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Spread like hashes.
fn key(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn slots(map: &Map) -> usize {
    let guard = map.enter();
    map.segments.iter().map(|segment| segment.table(&guard).slots.len()).sum()
}

proptest! {
    #[test]
    fn it_holds_what_a_plain_map_would(
        steps in proptest::collection::vec((0u64..40, 0u32..128, any::<bool>()), 1..2000),
        spread in any::<bool>(),
    ) {
        // Few keys that collide in every bit that places them, or spread ones, and key 0.
        let key = |number: u64| if spread { key(number) } else { number << 18 };
        let map: Map = Map::new();
        let mut plain: HashMap<u64, u128> = HashMap::new();
        for (number, shard, add) in steps {
            let (key, bit) = (key(number), 1u128 << shard);
            let set = plain.entry(key).or_insert(0);
            prop_assert_eq!(if add { map.set(key, bit) } else { map.clear(key, bit) },
                (*set & bit == 0) == add);
            *set = if add { *set | bit } else { *set & !bit };
        }
        let guard = map.enter();
        for (&key, &set) in &plain {
            prop_assert_eq!(map.get(key, &guard), set);
        }
        prop_assert_eq!(map.len(), plain.values().filter(|set| **set != 0).count());
    }
}

#[test]
fn keys_that_all_want_the_last_slot_find_room() {
    let map: Map = Map::new();
    let key = |number: u64| u64::MAX - (number << 17);
    for number in 0..1000 {
        assert!(map.set(key(number), 1));
    }
    let guard = map.enter();
    assert!((0..1000).all(|number| map.get(key(number), &guard) == 1));
    assert_eq!(map.len(), 1000);
    (0..1000).for_each(|number| assert!(map.clear(key(number), 1)));
    assert_eq!(map.len(), 0);
}

#[test]
fn a_crowds_room_is_given_back_and_what_is_left_of_it_stays() {
    let map: Map = Map::new();
    let empty = slots(&map);
    for round in 0..3 {
        (0..100_000).for_each(|number| assert!(map.set(key(number), 1)));
        assert!(slots(&map) < 100_000 * 2, "{} slots in round {round}", slots(&map));
        (100..100_000).for_each(|number| assert!(map.clear(key(number), 1)));
        assert_eq!(map.len(), 100);
        assert!(slots(&map) < empty + 1000, "{} slots are left", slots(&map));
        let guard = map.enter();
        assert!((0..100).all(|number| map.get(key(number), &guard) == 1));
        (0..100).for_each(|number| assert!(map.clear(key(number), 1)));
    }
}

#[test]
fn keys_that_come_and_go_do_not_fill_the_table() {
    let map: Map = Map::new();
    for number in 0..200_000 {
        map.set(key(number), 2);
        map.clear(key(number), 2);
    }
    assert!(slots(&map) <= SEGMENTS * LEAST * 2, "{} slots", slots(&map));
}

#[test]
fn readers_find_what_stays_while_tables_are_replaced() {
    let map: Map = Map::new();
    let done = AtomicBool::new(false);
    (0..1000).for_each(|number| assert!(map.set(key(number), 4)));
    std::thread::scope(|scope| {
        let writer = |from: u64, bit: u128| {
            let map = &map;
            move || {
                for _ in 0..10 {
                    (from..from + 20_000).for_each(|number| assert!(map.set(key(number), bit)));
                    (from..from + 20_000).for_each(|number| assert!(map.clear(key(number), bit)));
                }
            }
        };
        // Both write the same keys, each its own shard.
        let writers = [scope.spawn(writer(5_000, 1)), scope.spawn(writer(5_000, 1 << 100))];
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let guard = map.enter();
                assert!((0..1000).all(|number| map.get(key(number), &guard) == 4));
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(map.len(), 1000);
}
