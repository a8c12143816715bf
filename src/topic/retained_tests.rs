use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::topic::testing;

fn put(retained: &mut Retained<u32>, name: &str, at: u32) {
    assert_eq!(retained.set(name, at), None);
}

fn replay_all(
    retained: &Retained<u32>,
    filter: &str,
    limit: usize,
    visits: usize,
) -> Vec<(String, u32)> {
    let mut all: Vec<(String, u32)> = Vec::new();
    let mut cursor: Option<Box<str>> = None;
    loop {
        let before = all.len();
        let outcome =
            retained.replay(filter, cursor.as_deref(), limit, &mut { visits }, &mut |name, at| {
                all.push((name.into(), *at));
            });
        assert!(all.len() - before <= limit.max(1));
        match outcome {
            Pass::Done => return all,
            Pass::More(next) => {
                assert!(cursor.is_none_or(|cursor| order(&cursor, &next).is_lt()));
                cursor = Some(next);
            }
        }
    }
}

#[test]
fn a_topic_is_followed_by_what_is_below_it() {
    let mut names =
        ["a!", "a/b", "b", "a", "a/b/c", "a//", "a/", "/", "a b", "$x", "A", "a/b!", "//"];
    names.sort_by(|one, two| order(one, two));
    assert_eq!(
        names,
        ["/", "//", "$x", "A", "a", "a/", "a//", "a/b", "a/b/c", "a/b!", "a b", "a!", "b"]
    );
    assert!(order("12345678", "12345678").is_eq());
    assert!(order("12345678/", "12345678!").is_lt());
    assert!(order("12345678a", "12345678/").is_gt());
    assert!(
        order("a/\0", "a/x").is_lt()
            && order("a\0", "a/x").is_gt()
            && order("a\0", "a\u{1}").is_lt()
    );
}

#[test]
fn messages_are_set_replaced_and_removed() {
    let mut retained = Retained::new();
    assert_eq!(retained.set("a/b", 1), None);
    assert_eq!(retained.set("a/b", 2), Some(1));
    assert_eq!((retained.get("a/b"), retained.get("a")), (Some(&2), None));
    assert_eq!(retained.len(), 1);
    assert_eq!((retained.remove("a"), retained.remove("a/b")), (None, Some(2)));
    assert!(retained.is_empty());
}

#[test]
fn many_messages_at_once_are_what_they_are_one_after_the_other() {
    let names = |from: u32| (from..from + 2000).map(|at| (format!("{}/{at}", at * 7 % 13), at));
    let (mut at_once, mut model) = (Retained::new(), Retained::new());
    for from in [0, 5000, 1500] {
        at_once.set_all(names(from).map(|(name, at)| (name.into(), at + from)));
        names(from).for_each(|(name, at)| _ = model.set(&name, at + from));
    }
    for filter in ["#", "7/+", "+/1600", "nothing"] {
        let found = replay_all(&at_once, filter, 100, 64);
        assert_eq!(found, replay_all(&model, filter, 100, 64));
        assert_eq!(found.is_empty(), filter == "nothing");
    }
    assert_eq!(at_once.len(), 5500);
    for (name, at) in names(1500) {
        assert_eq!(at_once.set(&format!("{name}/below"), at), None);
        assert_eq!(at_once.remove(&name), Some(at + 1500));
    }
    assert_eq!(at_once.len(), 5500);
}

#[test]
fn a_replay_visits_about_what_it_delivers() {
    let mut retained = Retained::new();
    for device in 0..1000 {
        for leaf in 0..100 {
            retained.set(&format!("fleet/{device:04}/sensor{leaf:02}/value"), leaf);
        }
    }
    (0..5000).for_each(|at| put(&mut retained, &format!("$SYS/{at}"), at));
    (0..5000).for_each(|at| put(&mut retained, &format!("other/{at}"), at));
    let visits = |filter: &str| {
        // One visit per call: the slices count them. Seeks need more than NEAR visits to happen.
        let (mut calls, mut cursor, mut matched) = (0, None::<Box<str>>, 0);
        loop {
            calls += 1;
            let found = &mut |_: &str, _: &u32| matched += 1;
            match retained.replay(filter, cursor.as_deref(), usize::MAX, &mut 64, found) {
                Pass::Done => return (matched, calls * 64),
                Pass::More(next) => cursor = Some(next),
            }
        }
    };
    assert_eq!(visits("fleet/0500/sensor07/value"), (1, 64));
    assert_eq!(visits("fleet/0500/#").0, 100);
    assert!(visits("fleet/0500/#").1 <= 192);
    let (matched, looked) = visits("fleet/+/sensor07/value");
    assert_eq!(matched, 1000);
    assert!(looked < 20 * matched, "{looked}");
    assert_eq!(visits("#").0, 105_000);
    assert!(visits("+/1").1 <= 256, "{}", visits("+/1").1);
    assert_eq!(visits("+/1").0, 1);
    assert_eq!(visits("nothing/#"), (0, 64));
}

#[test]
fn a_sweep_removes_what_is_refused_slice_by_slice() {
    let mut retained = Retained::new();
    (0..1000u32).for_each(|at| put(&mut retained, &format!("t/{at}"), at));
    let (mut cursor, mut seen, mut slices) = (None::<Box<str>>, 0, 0);
    loop {
        slices += 1;
        let outcome = retained.retain(cursor.as_deref(), 30, |_, at| {
            seen += 1;
            at % 3 == 0
        });
        match outcome {
            Pass::Done => break,
            Pass::More(next) => cursor = Some(next),
        }
    }
    assert_eq!((seen, slices, retained.len()), (1000, 34, 334));
    assert_eq!(retained.retain(None, usize::MAX, |_, _| false), Pass::Done);
    assert!(retained.is_empty());
    assert_eq!(retained.retain(None, 1, |_, _| true), Pass::Done);
}

#[test]
fn a_hash_over_a_million_is_streamed_completely() {
    let mut retained = Retained::new();
    (0..1_000_000u32).for_each(|at| put(&mut retained, &format!("d/{}/{at}", at % 1000), at));
    let mut seen = HashSet::new();
    let mut cursor: Option<Box<str>> = None;
    while let Pass::More(next) =
        retained.replay("#", cursor.as_deref(), 1000, &mut 1000, &mut |_, at| {
            assert!(seen.insert(*at));
        })
    {
        cursor = Some(next);
    }
    assert_eq!(seen.len(), 1_000_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn a_replay_in_slices_finds_what_a_list_of_names_finds(
        names in prop::collection::vec(testing::name(), 0..200),
        filters in prop::collection::vec(testing::filter(), 1..20),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        limit in 0..9usize,
        visits in 0..40usize,
    ) {
        let mut retained = Retained::new();
        let mut model = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            prop_assert_eq!(retained.set(name, at as u32), model.insert(name.clone(), at as u32));
        }
        for at in removed.iter().filter(|_| !names.is_empty()) {
            let name = at.get::<String>(&names);
            prop_assert_eq!(retained.remove(name), model.remove(name));
        }
        prop_assert_eq!(retained.len(), model.len());
        for filter in filters.iter().chain(&names) {
            let mut expected: Vec<(String, u32)> = model
                .iter()
                .filter(|(name, _)| testing::naive_matches(filter, name))
                .map(|(name, at)| (name.clone(), *at))
                .collect();
            expected.sort_by(|one, two| order(&one.0, &two.0));
            prop_assert_eq!(replay_all(&retained, filter, limit, visits), expected.clone());
            prop_assert_eq!(replay_all(&retained, filter, usize::MAX, usize::MAX), expected);
        }
    }

    #[test]
    fn what_stays_throughout_is_replayed_once_whatever_else_changes(
        steady in prop::collection::btree_set(testing::name(), 1..60),
        changing in prop::collection::vec((any::<bool>(), testing::name()), 0..300),
        filter in testing::filter(),
        limit in 1..4usize,
        visits in 1..20usize,
    ) {
        let mut retained = Retained::new();
        steady.iter().for_each(|name| put(&mut retained, name, 0));
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        let mut cursor: Option<Box<str>> = None;
        let mut changes = changing.iter();
        loop {
            let outcome =
                retained.replay(&filter, cursor.as_deref(), limit, &mut { visits }, &mut |name, _| {
                    *found.entry(name.into()).or_default() += 1;
                });
            match outcome {
                Pass::Done => break,
                Pass::More(next) => {
                    // The cursor itself may go, too.
                    if !steady.contains(&*next) {
                        retained.remove(&next);
                    }
                    cursor = Some(next);
                }
            }
            for (set, name) in changes.by_ref().take(7).filter(|(_, name)| !steady.contains(name)) {
                if *set {
                    retained.set(name, 1);
                } else {
                    retained.remove(name);
                }
            }
        }
        prop_assert!(found.values().all(|times| *times == 1));
        prop_assert!(found.keys().all(|name| testing::naive_matches(&filter, name)));
        for name in steady.iter().filter(|name| testing::naive_matches(&filter, name)) {
            prop_assert!(found.contains_key(name), "{} {}", filter, name);
        }
    }
}
