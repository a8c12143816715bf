use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::topic::{matches, testing};

fn seeds() -> Seeds {
    Seeds::fixed(11)
}

fn add(interest: &Interest, shard: u8, filter: &str) {
    interest.add(ShardId(shard), FilterKey::new(&interest.seeds, filter), filter);
}

fn remove(interest: &Interest, shard: u8, filter: &str) {
    interest.remove(ShardId(shard), FilterKey::new(&interest.seeds, filter), filter);
}

fn shards(interest: &Interest, name: &str) -> Vec<u8> {
    let set = interest.shards(&TopicHash::new(&interest.seeds, name));
    set.iter().map(|shard| shard.0).collect()
}

/// The filter that `filter` counts as: itself, or its literal prefix and `#`.
fn registered_as(interest: &Interest, shard: u8, filter: &str) -> String {
    let key = FilterKey::new(&interest.seeds, filter);
    let ledger = interest.ledger(ShardId(shard));
    let place = key.shape.filter(|_| !key.coarse).map(|shape| ledger.place(shape));
    if !key.coarse && !matches!(place, Some(Registration::Coarse)) {
        return filter.into();
    }
    let literal = filter.split('/').take_while(|level| !["+", "#"].contains(level));
    let levels: Vec<&str> = literal.take(COARSE_LEVELS).chain(["#"]).collect();
    levels.join("/")
}

fn assert_clean(interest: &Interest) {
    assert!(interest.is_empty());
    assert_eq!(interest.shapes.iter().count(), 0);
    assert_eq!(interest.coarse.load(Ordering::SeqCst), 0);
    for ledger in &interest.ledgers {
        let ledger = ledger.lock().unwrap();
        assert!(ledger.shapes.is_empty() && ledger.repeats.is_empty());
        assert_eq!(ledger.coarse, [0; COARSE_LEVELS + 1]);
    }
}

/// Filters of eight levels, `+` where `mask` has a bit: 256 shapes.
fn masked(mask: u32) -> String {
    let level = |at: u32| if mask >> at & 1 == 1 { "+" } else { "x" };
    (0..8).map(level).collect::<Vec<_>>().join("/")
}

#[test]
fn a_shard_is_named_from_its_first_filter_to_its_last() {
    let interest = Interest::new(&seeds());
    add(&interest, 0, "a/+");
    add(&interest, 127, "a/+");
    add(&interest, 3, "a/b");
    add(&interest, 4, "#");
    add(&interest, 5, "+/#");
    assert_eq!(shards(&interest, "a/b"), [0, 3, 4, 5, 127]);
    assert_eq!(shards(&interest, "$a/b"), [0u8; 0]);
    assert_eq!(interest.len(), 4);
    remove(&interest, 0, "a/+");
    assert_eq!(shards(&interest, "a/x"), [4, 5, 127]);
    remove(&interest, 127, "a/+");
    remove(&interest, 3, "a/b");
    remove(&interest, 4, "#");
    assert_eq!(shards(&interest, "a/b"), [5]);
    remove(&interest, 5, "+/#");
    assert_clean(&interest);
}

#[test]
fn topics_that_match_the_same_filters_of_a_shard_are_told_by_one_number() {
    let interest = Interest::new(&seeds());
    let matched = |topic: &str, shard| {
        interest.matched(&TopicHash::new(&interest.seeds, topic), ShardId(shard))
    };
    add(&interest, 1, "a/+/t");
    add(&interest, 1, "#");
    add(&interest, 1, "a/3/t");
    add(&interest, 2, "a/2/t");
    let one = matched("a/1/t", 1);
    assert!(one.is_some() && one == matched("a/2/t", 1), "what another shard has is not looked at");
    assert_ne!(one, matched("a/3/t", 1));
    assert_ne!(one, matched("b", 1));
    assert_eq!(matched("b", 1), matched("c/d", 1));
    // A coarse filter stands for any number of others.
    let deep = "a".to_owned() + &"/+".repeat(40);
    add(&interest, 1, &deep);
    assert_eq!((matched("a/1/t", 1), matched("b", 1).is_some()), (None, true));
    assert!(matched("a/2/t", 2).is_some());
    remove(&interest, 1, &deep);
    assert_eq!(matched("a/1/t", 1), one);
}

#[test]
fn filters_that_share_a_key_by_chance_keep_each_others_bit() {
    let interest = Interest::new(&seeds());
    for filter in ["a/b", "a/+"] {
        let key = FilterKey::new(&interest.seeds, filter);
        interest.add(ShardId(1), key, filter);
        interest.add(ShardId(1), key, "some other");
        interest.add(ShardId(2), key, filter);
        interest.remove(ShardId(1), key, filter);
        assert_eq!(shards(&interest, "a/b"), [1, 2]);
        interest.remove(ShardId(1), key, "some other");
        assert_eq!(shards(&interest, "a/b"), [2]);
        interest.remove(ShardId(2), key, filter);
    }
    assert_clean(&interest);
}

#[test]
fn deep_filters_are_coarse_and_hit_only_below_their_literal_prefix() {
    let interest = Interest::new(&seeds());
    let deep = |prefix: &str| prefix.to_owned() + &"/+".repeat(40);
    add(&interest, 1, &deep("a/b"));
    add(&interest, 1, &(deep("a/b") + "/#"));
    add(&interest, 2, &deep("a/b/c/d/e/f/g/h/i"));
    add(&interest, 3, &deep("+"));
    add(&interest, 4, "a/b/#");
    assert_eq!(interest.len(), 4);
    assert_eq!(shards(&interest, &("a/b".to_owned() + &"/x".repeat(40))), [1, 3, 4]);
    assert_eq!(shards(&interest, "a/c"), [3]);
    assert_eq!(shards(&interest, "$a/c"), [0u8; 0]);
    assert_eq!(shards(&interest, "a/b/c/d/e/f/g"), [1, 2, 3, 4]);
    remove(&interest, 1, &deep("a/b"));
    assert_eq!(shards(&interest, "a/b"), [1, 3, 4]);
    remove(&interest, 1, &(deep("a/b") + "/#"));
    assert_eq!(shards(&interest, "a/b"), [3, 4]);
    remove(&interest, 2, &deep("a/b/c/d/e/f/g/h/i"));
    remove(&interest, 3, &deep("+"));
    remove(&interest, 4, "a/b/#");
    assert_clean(&interest);
}

#[test]
fn past_the_most_shapes_no_shard_is_missed_and_slots_are_used_again() {
    let interest = Interest::new(&seeds());
    for mask in 1..256 {
        add(&interest, (mask % 3) as u8, &masked(mask));
    }
    assert_eq!(interest.shapes.iter().count(), MAX_SHAPES);
    let mut name = "x/x/x/x/x/x/x/x".to_owned();
    assert_eq!(shards(&interest, &name), [0, 1, 2]);
    name.replace_range(14..15, "y");
    assert_eq!(shards(&interest, &name), [0, 1, 2]);
    // A shape whose slot others have taken meanwhile stays where the shard put it first.
    let late = masked(255);
    let place =
        || interest.ledger(ShardId(0)).place(FilterKey::new(&seeds(), &late).shape.unwrap());
    assert!(matches!(place(), Registration::Coarse));
    for mask in 1..=MAX_SHAPES as u32 {
        remove(&interest, (mask % 3) as u8, &masked(mask));
    }
    add(&interest, 1, &late);
    assert!(matches!(place(), Registration::Coarse));
    assert_eq!(shards(&interest, "a/a/a/a/a/a/a/a"), [0, 1, 2]);
    remove(&interest, 1, &late);
    for mask in MAX_SHAPES as u32 + 1..256 {
        remove(&interest, (mask % 3) as u8, &masked(mask));
    }
    assert_clean(&interest);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn the_table_is_the_union_of_the_shards(
        filters in prop::collection::vec(testing::filter(), 1..150),
        names in prop::collection::vec(testing::name(), 20),
        steps in prop::collection::vec((0..4u8, any::<prop::sample::Index>()), 0..600),
    ) {
        let interest = Interest::new(&seeds());
        let mut model = BTreeSet::new();
        for (at, (shard, filter)) in steps.iter().enumerate() {
            let filter = filter.get::<String>(&filters).as_str();
            if model.remove(&(*shard, filter)) {
                remove(&interest, *shard, filter);
            } else {
                add(&interest, *shard, filter);
                model.insert((*shard, filter));
            }
            if at % 150 != 149 && at + 1 != steps.len() {
                continue;
            }
            for name in &names {
                let expected: BTreeSet<u8> = model
                    .iter()
                    .filter(|(shard, filter)| {
                        let wider = registered_as(&interest, *shard, filter);
                        assert!(!matches(filter, name) || matches(&wider, name));
                        matches(&wider, name)
                    })
                    .map(|(shard, _)| *shard)
                    .collect();
                prop_assert_eq!(shards(&interest, name), expected.into_iter().collect::<Vec<_>>());
            }
        }
        model.iter().for_each(|(shard, filter)| remove(&interest, *shard, filter));
        assert_clean(&interest);
    }
}

/// A small generator; the threads must not wait for each other.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn racing_shards_never_lose_each_others_interest() {
    const SHARDS: u8 = 4;
    const ROUNDS: usize = 20_000;
    let interest = Interest::new(&seeds());
    // All shards fight over the same keys, with more shapes than there are slots.
    let filters: Vec<String> = (0..80).map(masked).chain(["x/#".into(), "#".into()]).collect();
    let (name, steady) = ("x/x/x/x/x/x/x/x", "steady/+");
    let running = AtomicBool::new(true);
    // The round in which a shard's probe filter was added; the next shard looks for it.
    let probes: Vec<AtomicU64> = (0..SHARDS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let (interest, filters, probes) = (&interest, &filters, &probes);
                scope.spawn(move || {
                    let mut state = u64::from(shard) + 1;
                    let mut held = BTreeSet::new();
                    add(interest, shard, steady);
                    for round in 1..=ROUNDS {
                        let filter = &filters[next(&mut state) as usize % filters.len()];
                        if held.remove(filter) {
                            remove(interest, shard, filter);
                        } else {
                            add(interest, shard, filter);
                            held.insert(filter);
                        }
                        let seen = shards(interest, name);
                        assert!(held.is_empty() || seen.contains(&shard), "own interest is lost");
                        // Added, then told: whoever is told must see it. Removed once seen.
                        if round % 16 == 0 {
                            let (own, peer) = (shard as usize, (shard + 1) % SHARDS);
                            add(interest, shard, &format!("probe/{shard}/{round}/+"));
                            probes[own].store(round as u64, Ordering::Release);
                            let told = probes[peer as usize].load(Ordering::Acquire);
                            if told > 0 {
                                let name = format!("probe/{peer}/{told}/x");
                                assert!(shards(interest, &name).contains(&peer), "not visible");
                            }
                        }
                    }
                    held.iter().for_each(|filter| remove(interest, shard, filter));
                })
            })
            .collect();
        scope.spawn(|| {
            let mut most = 0;
            while running.load(Ordering::Relaxed) {
                let seen = shards(&interest, "steady/x").len();
                assert!(seen >= most, "a steady interest is lost");
                most = seen;
            }
        });
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        running.store(false, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
    });
    assert_eq!(shards(&interest, "steady/x"), [0, 1, 2, 3]);
    assert_eq!(shards(&interest, "elsewhere"), [0u8; 0]);
    for shard in 0..SHARDS {
        remove(&interest, shard, steady);
        for round in (16..=ROUNDS).step_by(16) {
            remove(&interest, shard, &format!("probe/{shard}/{round}/+"));
        }
    }
    assert_clean(&interest);
}
