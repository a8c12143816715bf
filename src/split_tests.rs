use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn hash(number: &u32) -> u64 {
    u64::from(*number).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn values_are_found_until_they_are_removed_and_the_room_is_given_back() {
    let mut table = SplitTable::default();
    (0..100_000).for_each(|number| table.insert(hash(&number), number, hash));
    assert_eq!((table.len(), table.segments.len()), (100_000, SEGMENTS));
    assert_eq!(table.find(hash(&77_777), |&number| number == 77_777), Some(&77_777));
    assert_eq!(table.find(hash(&77_777), |_| false), None);
    for number in 1..100_000 {
        assert_eq!(table.remove(hash(&number), |&known| known == number, hash), Some(number));
    }
    assert_eq!(table.remove(hash(&77_777), |_| true, hash), None);
    assert_eq!(table.iter().collect::<Vec<_>>(), [&0]);
    assert!(table.allocated() < 1024, "{} bytes are left", table.allocated());
}

#[test]
fn a_value_is_found_or_its_place_is_filled() {
    let mut table = SplitTable::default();
    for round in 0..2 {
        for number in 0..5000 {
            match table.look_up(hash(&number), |&known| known == number, hash) {
                Ok(known) => assert_eq!((*known, round), (number, 1)),
                Err(place) => {
                    assert_eq!(round, 0, "{number} was there");
                    place.fill(number);
                }
            }
        }
        assert_eq!((table.len(), table.iter().count()), (5000, 5000));
    }
}

#[test]
fn no_insertion_and_no_removal_moves_more_than_a_small_part() {
    let mut table = SplitTable::default();
    let moved = std::cell::Cell::new(0);
    let counted = |number: &u32| {
        moved.set(moved.get() + 1);
        hash(number)
    };
    let mut most = 0;
    for number in 0..500_000 {
        moved.set(0);
        table.insert(hash(&number), number, counted);
        most = most.max(moved.get());
    }
    for number in 0..500_000 {
        moved.set(0);
        table.remove(hash(&number), |&known| known == number, counted);
        most = most.max(moved.get());
    }
    assert!(most <= 4096, "{most} values moved at once");
}

proptest! {
    #[test]
    fn a_map_is_a_map(steps in prop::collection::vec((0..3u8, 0..2000u16), 0..6000)) {
        let (mut map, mut model) = (SplitMap::default(), HashMap::new());
        for (step, (what, key)) in steps.into_iter().enumerate() {
            match what {
                0 => prop_assert_eq!(map.insert(key, step), model.insert(key, step)),
                1 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                _ => {
                    *map.or_insert_with(key, || 0) += 1;
                    *model.entry(key).or_default() += 1;
                }
            }
            prop_assert_eq!(map.get(&key), model.get(&key));
            prop_assert_eq!(map.len(), model.len());
        }
        let mut all: Vec<(u16, usize)> = map.iter().map(|(key, value)| (*key, *value)).collect();
        let mut wanted: Vec<(u16, usize)> = model.into_iter().collect();
        all.sort_unstable();
        wanted.sort_unstable();
        prop_assert_eq!(all, wanted);
    }
}
