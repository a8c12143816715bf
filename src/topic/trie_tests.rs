use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::topic::testing;

fn matching(trie: &Trie, seeds: &Seeds, name: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    trie.matching(seeds, name, &mut |id| ids.push(id));
    ids.sort_unstable();
    ids
}

#[test]
fn every_branch_is_tried_once() {
    let seeds = Seeds::fixed(1);
    let mut trie = Trie::new();
    let filters =
        ["#", "+", "+/#", "a/#", "a/+", "a/+/c", "+/b/c", "a/b/c", "a/b/c/#", "/+", "a//"];
    for (id, filter) in filters.iter().enumerate() {
        trie.insert(&seeds, filter, id as u32);
    }
    assert_eq!(matching(&trie, &seeds, "a/b/c"), [0, 2, 3, 5, 6, 7, 8]);
    assert_eq!(matching(&trie, &seeds, "a"), [0, 1, 2, 3]);
    assert_eq!(matching(&trie, &seeds, "/"), [0, 2, 9]);
    assert_eq!(matching(&trie, &seeds, "a//"), [0, 2, 3, 10]);
    assert_eq!(matching(&trie, &seeds, "$a/b/c"), [] as [u32; 0]);
}

#[test]
fn a_filter_and_a_name_of_the_most_levels_need_no_deep_stack() {
    let seeds = Seeds::fixed(2);
    let mut trie = Trie::new();
    trie.insert(&seeds, &("+/".repeat(32_766) + "+"), 1);
    trie.insert(&seeds, &("+/".repeat(32_000) + "#"), 2);
    assert_eq!(matching(&trie, &seeds, &"/".repeat(32_766)), [1, 2]);
    trie.remove(&seeds, &("+/".repeat(32_766) + "+"));
    assert_eq!(trie.nodes.len(), 32_001);
    trie.remove(&seeds, &("+/".repeat(32_000) + "#"));
    assert_eq!((trie.nodes.len(), trie.edges.capacity()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_trie_finds_what_a_list_of_filters_finds(
        filters in prop::collection::vec(testing::filter(), 1..80),
        names in prop::collection::vec(testing::name(), 30),
        removals in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let seeds = Seeds::fixed(3);
        let mut trie = Trie::new();
        let mut model = BTreeMap::new();
        for (id, filter) in filters.iter().enumerate() {
            if trie.find(&seeds, filter).is_none() {
                trie.insert(&seeds, filter, id as u32);
                model.insert(filter.as_str(), id as u32);
            }
            prop_assert_eq!(trie.find(&seeds, filter), model.get(filter.as_str()).copied());
        }
        for index in removals {
            let filter = index.get(&filters).as_str();
            prop_assert_eq!(trie.find(&seeds, filter), model.get(filter).copied());
            if model.remove(filter).is_some() {
                trie.remove(&seeds, filter);
            }
        }
        for name in &names {
            let expected: BTreeSet<u32> = model
                .iter()
                .filter(|(filter, _)| testing::naive_matches(filter, name))
                .map(|(_, id)| *id)
                .collect();
            let found = matching(&trie, &seeds, name);
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
        }
        // Each node leads to a filter.
        let prefixes: BTreeSet<&str> = model
            .keys()
            .filter_map(|filter| split_open(filter).0)
            .flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]))
            .collect();
        prop_assert_eq!(trie.nodes.len(), prefixes.len() + usize::from(!model.is_empty()));
    }
}
