//! Tests of what two nodes know of each other's filters: against sets of texts.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Applies what is told to `remote`; `wanted` has the wanted filters and how often each is wanted.
fn apply(
    telling: &mut FilterTelling,
    local: &LocalFilters,
    remote: &mut RemoteFilters,
    wanted: &mut BTreeMap<String, i32>,
    most: usize,
) -> bool {
    let change = &mut |filter: &str, on: bool| {
        let count = wanted.entry(filter.to_owned()).or_default();
        *count += if on { 1 } else { -1 };
        if *count == 0 {
            wanted.remove(filter);
        }
    };
    for _ in 0..most {
        match telling.next(local) {
            Some(NodeRecord::Filter(number, filter)) => remote.set(number, Some(filter), change),
            Some(NodeRecord::NoFilter(number)) => remote.set(number, None, change),
            Some(NodeRecord::AllFilters(end, _)) => while !remote.sweep(end, 3, change) {},
            Some(_) => unreachable!(),
            None => return true,
        }
    }
    false
}

#[test]
fn a_filter_is_there_from_its_first_shard_to_its_last() {
    let mut local = LocalFilters::default();
    assert_eq!(local.add("a"), Some(0));
    assert_eq!(local.add("a"), None);
    assert_eq!(local.add("b"), Some(1));
    assert_eq!((local.remove("a"), local.remove("a")), (None, Some(0)));
    assert_eq!((local.text(0), local.text(1), local.len()), (None, Some("b"), 1));
    assert_eq!(local.add("c"), Some(0));
    assert_eq!(local.remove("never added"), None);
    assert_eq!((local.remove("b"), local.remove("c")), (Some(1), Some(0)));
    assert!(local.is_empty() && local.digest == 0 && local.end() == 0);
}

#[test]
fn beyond_the_most_one_filter_stands_for_all_others() {
    let mut local = LocalFilters::with_most(3);
    let all = ["a", "b", "c", "d"];
    let numbers: Vec<_> = all.iter().map(|filter| local.add(filter)).collect();
    assert_eq!(numbers, [Some(0), Some(1), Some(2), None]);
    assert_eq!((local.text(2), local.len()), (Some("#"), 3));
    assert_eq!(local.remove("c"), None);
    assert_eq!(local.remove("d"), Some(2));
    assert_eq!(local.len(), 2);
}

#[test]
fn a_share_group_beyond_the_most_is_not_told_and_nothing_stands_for_it() {
    let mut local = LocalFilters::with_most(3);
    let all = ["a", "$share/g/a", "$share/g/b", "$share/h/b"];
    let numbers: Vec<_> = all.iter().map(|filter| local.add(filter)).collect();
    assert_eq!(numbers, [Some(0), Some(1), None, None]);
    assert_eq!((local.len(), local.groups_beyond()), (2, 2));
    assert_eq!(local.remove("$share/g/a"), Some(1));
    assert_eq!((local.remove("$share/g/b"), local.remove("$share/h/b")), (None, None));
    assert_eq!((local.len(), local.groups_beyond()), (1, 0));
}

#[test]
fn a_node_with_too_many_changes_is_told_everything_again() {
    let (mut local, mut telling) = (LocalFilters::default(), FilterTelling::default());
    let (mut remote, mut wanted) = (RemoteFilters::default(), BTreeMap::new());
    assert!(apply(&mut telling, &local, &mut remote, &mut wanted, 10));
    for _ in 0..CHANGES {
        telling.changed(local.add("a").unwrap());
        telling.changed(local.remove("a").unwrap());
    }
    telling.changed(local.add("b").unwrap());
    assert!(telling.changes.len() <= CHANGES && !telling.is_done());
    assert!(apply(&mut telling, &local, &mut remote, &mut wanted, 10));
    assert_eq!(wanted.into_iter().collect::<Vec<_>>(), [("b".to_owned(), 1)]);
    assert!(remote.agrees(&telling.told(&local, 0).unwrap()));
}

proptest! {
    /// Filters come and go at any place of a snapshot, and snapshots begin anew at any time.
    #[test]
    fn what_is_told_is_what_is_there(
        steps in prop::collection::vec((0..14usize, 0..5usize), 1..200),
    ) {
        let (mut local, mut telling) = (LocalFilters::with_most(9), FilterTelling::default());
        let (mut remote, mut wanted) = (RemoteFilters::default(), BTreeMap::new());
        let mut counts = [0u32; 12];
        for (choice, told) in steps {
            let filter = format!("t/{choice}");
            match (choice, told % 2) {
                (12, _) => telling.begin(telling.snapshot() + 1),
                (13, _) => {
                    let change = &mut |filter: &str, _: bool| {
                        wanted.remove(filter);
                    };
                    while !remote.sweep(0, 2, change) {}
                    telling.begin(telling.snapshot() + 1);
                }
                (_, 0) => {
                    counts[choice] += 1;
                    local.add(&filter).into_iter().for_each(|number| telling.changed(number));
                }
                _ if counts[choice] > 0 => {
                    counts[choice] -= 1;
                    local.remove(&filter).into_iter().for_each(|number| telling.changed(number));
                }
                _ => {}
            }
            apply(&mut telling, &local, &mut remote, &mut wanted, told);
        }
        prop_assert!(apply(&mut telling, &local, &mut remote, &mut wanted, 1000));
        let told = telling.told(&local, 7).unwrap();
        prop_assert!(remote.agrees(&told));
        prop_assert!(wanted.values().all(|&count| count == 1));
        for (choice, &count) in counts.iter().enumerate() {
            let known = wanted.contains_key(&format!("t/{choice}"));
            prop_assert!(known == (count > 0) || wanted.contains_key("#"), "{choice}");
        }
    }
}

/// Another process has found the filters in another order, and others: the other node, which knows
/// the numbers of before, is told what is different and misses no filter meanwhile.
#[test]
fn filters_keep_their_numbers_in_another_process() {
    let mut before = LocalFilters::default();
    for filter in ["a", "b", "c", "d", "$share/g/e"] {
        before.add(filter);
    }
    before.remove("b");
    let (mut remote, mut wanted) = (RemoteFilters::default(), BTreeMap::new());
    let mut telling = FilterTelling::default();
    assert!(apply(&mut telling, &before, &mut remote, &mut wanted, 100));
    for others in [&["a", "c", "d", "$share/g/e"][..], &["x", "d", "y", "a", "z"], &[]] {
        let mut after = LocalFilters::default();
        for filter in others.iter().rev() {
            after.add(filter);
        }
        let changed = after.renumber(&before.texts());
        telling = FilterTelling::unpack(telling.pack());
        changed.iter().for_each(|&number| telling.changed(number));
        let mut stays: Vec<String> =
            wanted.keys().filter(|filter| others.contains(&&***filter)).cloned().collect();
        while !apply(&mut telling, &after, &mut remote, &mut wanted, 1) {
            stays.retain(|filter| others.contains(&&**filter));
            assert!(stays.iter().all(|filter| wanted.contains_key(filter)), "{stays:?}");
        }
        let mut known: Vec<&str> = wanted.keys().map(|filter| &**filter).collect();
        let mut all = others.to_vec();
        known.sort();
        all.sort();
        assert_eq!(known, all);
        let told = telling.told(&after, 1).expect("all is told");
        assert!(remote.agrees(&told), "the digests agree");
        before = after;
    }
    assert!(before.is_empty());
}
