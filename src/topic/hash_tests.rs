use proptest::prelude::*;

use super::*;
use crate::topic::{levels, matches, testing};

fn found(seeds: &Seeds, filter: &str, name: &str) -> bool {
    let topic = TopicHash::new(seeds, name);
    let key = FilterKey::new(seeds, filter);
    let wanted = key.shape.map_or(Some(topic.exact()), |shape| topic.shape_key(shape));
    wanted == Some(key.key)
}

#[test]
fn a_shape_is_the_levels_the_pluses_and_the_hash() {
    let seeds = Seeds::fixed(1);
    for (filter, levels, plus, open) in [
        ("#", 0, 0, true),
        ("+", 1, 1, false),
        ("a/+/b/+", 4, 0b1010, false),
        ("/+/#", 2, 0b10, true),
        ("a/b/#", 2, 0, true),
    ] {
        let key = FilterKey::new(&seeds, filter);
        let shape = key.shape.unwrap();
        assert_eq!((shape.levels(), shape.plus(), shape.open()), (levels, plus, open), "{filter}");
        assert!(!key.coarse && shape.0 != 0 && shape.0 & !Shape::MASK == 0);
    }
    assert_eq!(FilterKey::new(&seeds, "a/b").shape, None);
}

#[test]
fn the_order_and_the_place_of_levels_count() {
    let seeds = Seeds::fixed(2);
    let filters = [
        "a/b/+", "b/a/+", "a/+/b", "+/a/b", "a/b/#", "a/b/+/#", "a/a/+", "ab/+", "a/b/+/",
        "/a/b/+", "a//+", "/a/+", "+/+/+", "+/+/#", "a", "b", "a/b", "a/b/", "/a/b", "ab",
    ];
    let keys: std::collections::HashSet<u64> =
        filters.iter().map(|filter| FilterKey::new(&seeds, filter).key).collect();
    assert_eq!(keys.len(), filters.len());
}

#[test]
fn filters_with_too_many_levels_for_a_shape_are_coarse() {
    let seeds = Seeds::fixed(3);
    let deepest = "a/".repeat(31) + "+";
    assert!(!FilterKey::new(&seeds, &deepest).coarse);
    assert!(!FilterKey::new(&seeds, &(deepest.clone() + "/#")).coarse);
    let deep = "a/".repeat(32) + "+";
    let key = FilterKey::new(&seeds, &deep);
    assert!(key.coarse);
    assert_eq!(key.shape, Some(Shape::coarse(COARSE_LEVELS)));
    assert!(found(&seeds, &deep, &"a/".repeat(40)));
    assert!(!found(&seeds, &deep, &"b/".repeat(40)));
    // Without wildcards any depth is exact.
    assert_eq!(FilterKey::new(&seeds, &"a/".repeat(900)).shape, None);
}

#[test]
fn random_seeds_differ_and_fixed_ones_do_not() {
    let exact = |seeds: &Seeds| TopicHash::new(seeds, "a/b").exact();
    assert_ne!(exact(&Seeds::random()), exact(&Seeds::random()));
    assert_eq!(exact(&Seeds::fixed(7)), exact(&Seeds::fixed(7)));
    assert_ne!(exact(&Seeds::fixed(7)), exact(&Seeds::fixed(8)));
    assert_eq!(Seeds::fixed(7).place(b"x"), Seeds::fixed(7).place(b"x"));
    assert_ne!(Seeds::fixed(7).place(b"x"), Seeds::fixed(7).place(b"y"));
}

#[test]
fn keys_spread_over_all_bits() {
    let seeds = Seeds::fixed(4);
    let mut ones = [0u32; 64];
    for number in 0..4096 {
        let key = FilterKey::new(&seeds, &format!("d/{number}/+")).key;
        ones.iter_mut().enumerate().for_each(|(bit, ones)| *ones += (key >> bit) as u32 & 1);
    }
    for (bit, ones) in ones.iter().enumerate() {
        assert!((1800..2300).contains(ones), "bit {bit}: {ones} of 4096");
    }
}

proptest! {
    #[test]
    fn a_name_finds_exactly_the_filters_that_match(
        filter in testing::filter(), name in testing::name(),
    ) {
        let seeds = Seeds::fixed(5);
        let found = found(&seeds, &filter, &name);
        if FilterKey::new(&seeds, &filter).coarse {
            prop_assert!(found || !matches(&filter, &name));
        } else {
            prop_assert_eq!(found, matches(&filter, &name));
            let key = FilterKey::new(&seeds, &filter);
            let topic = TopicHash::new(&seeds, &name);
            if let Some(shape) = key.shape.filter(|&shape| topic.shape_key(shape).is_some()) {
                prop_assert_eq!(topic.confirms(shape, filter.as_bytes()), found);
            }
        }
        prop_assert_eq!(TopicHash::new(&seeds, &name).levels(), levels(&name));
    }
}
