use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::topic::{levels, testing};

fn subscriber(target: u32) -> Subscriber {
    Subscriber { target, subscription_id: target % 5, options: target as u8 }
}

/// The index and what it should hold: by filter, the subscribers in their positions.
struct Model {
    index: Index,
    filters: BTreeMap<String, Vec<Subscriber>>,
    next: u32,
}

impl Model {
    fn new() -> Self {
        Model { index: Index::new(&Seeds::fixed(9)), filters: BTreeMap::new(), next: 0 }
    }

    fn add(&mut self, filter: &str) {
        self.next += 1;
        let id = self.index.intern(filter).expect("there is room");
        let position = self.index.add(id, subscriber(self.next));
        let list = self.filters.entry(filter.into()).or_default();
        assert_eq!(position as usize, list.len());
        list.push(subscriber(self.next));
    }

    fn remove(&mut self, filter: &str, pick: usize) {
        let Some(list) = self.filters.get_mut(filter) else {
            assert_eq!(self.index.find(filter), None);
            return;
        };
        let id = self.index.find(filter).unwrap();
        let position = pick % list.len();
        list.swap_remove(position);
        let removed = self.index.remove(id, position as u32);
        assert_eq!(removed.moved, list.get(position).copied());
        assert_eq!(removed.emptied, list.is_empty());
        if list.is_empty() {
            self.filters.remove(filter);
            assert_eq!(self.index.find(filter), None);
        }
    }

    fn check(&self, name: &str) {
        let topic = TopicHash::new(&self.index.seeds, name);
        let mut found = BTreeMap::new();
        self.index.matching(&topic, &mut |id, subscribers| {
            let filter = self.index.filter(id);
            assert!(found.insert(filter, subscribers.to_vec()).is_none(), "{filter} twice");
        });
        let expected: BTreeMap<&str, Vec<Subscriber>> = self
            .filters
            .iter()
            .filter(|(filter, _)| testing::naive_matches(filter, name))
            .map(|(filter, list)| (filter.as_str(), list.clone()))
            .collect();
        assert_eq!(found, expected, "{name}");
    }

    fn check_all(&self, names: &[String]) {
        names.iter().for_each(|name| self.check(name));
        assert_eq!(self.index.filters(), self.filters.len());
        assert_eq!(self.index.subscriptions(), self.filters.values().map(Vec::len).sum::<usize>());
        for (filter, list) in &self.filters {
            let id = self.index.find(filter).unwrap();
            assert_eq!(self.index.subscribers(id), list);
            assert_eq!(self.index.key(id), FilterKey::new(&self.index.seeds, filter));
        }
        let shapes: HashSet<Shape> = self.index.shapes.iter().map(|used| used.shape).collect();
        assert_eq!(shapes.len(), self.index.shapes.len());
        assert!(shapes.len() <= MAX_SHAPES);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(prop::sample::Index),
    Remove(prop::sample::Index, usize),
}

fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<prop::sample::Index>().prop_map(Step::Add),
        2 => (any::<prop::sample::Index>(), 0..100usize)
            .prop_map(|(at, pick)| Step::Remove(at, pick)),
    ];
    prop::collection::vec(step, 0..length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_index_finds_what_a_list_of_filters_finds(
        filters in prop::collection::vec(testing::filter(), 1..120),
        names in prop::collection::vec(testing::name(), 20),
        steps in steps(400),
    ) {
        let mut model = Model::new();
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Add(filter) => model.add(filter.get::<String>(&filters)),
                Step::Remove(filter, pick) => model.remove(filter.get::<String>(&filters), *pick),
            }
            if at % 100 == 99 {
                model.check_all(&names);
            }
        }
        model.check_all(&names);
        for (filter, list) in model.filters.clone() {
            list.iter().for_each(|_| model.remove(&filter, 1));
        }
        model.check_all(&names);
        prop_assert!(model.index.trie.is_empty() && model.index.shapes.is_empty());
    }
}

/// All filters of eight levels whose levels are `+` where `mask` has a bit.
fn masked(mask: u32) -> String {
    let level = |at: u32| if mask >> at & 1 == 1 { "+" } else { "x" };
    (0..8).map(level).collect::<Vec<_>>().join("/")
}

#[test]
fn past_the_most_shapes_filters_go_to_the_trie_and_are_found_the_same() {
    let mut model = Model::new();
    let names = ["x/x/x/x/x/x/x/x", "x/y/x/x/x/y/x/x", "y/y/y/y/y/y/y/y", "x/x"];
    let names = names.map(String::from);
    (0..256).for_each(|mask| model.add(&masked(mask)));
    assert_eq!(model.index.shapes.len(), MAX_SHAPES);
    assert!(!model.index.trie.is_empty());
    model.check_all(&names);
    // Filters that gave up their shapes leave room for others; those in the trie stay there.
    (0..40).for_each(|mask| model.remove(&masked(mask), 0));
    assert!(model.index.shapes.len() < MAX_SHAPES);
    model.check_all(&names);
    (0..256).for_each(|mask| model.add(&masked(mask)));
    assert_eq!(model.index.shapes.len(), MAX_SHAPES);
    model.check_all(&names);
    for mask in 0..256 {
        model.remove(&masked(mask), 0);
        model.remove(&masked(mask), 0);
    }
    model.check_all(&names);
    assert_eq!((model.index.filters(), model.index.shapes.len()), (0, 0));
    assert!(model.index.trie.is_empty());
}

#[test]
fn a_hash_hit_is_compared_with_the_text() {
    let mut index = Index::new(&Seeds::fixed(1));
    let id = index.intern_always("a/+");
    index.add(id, subscriber(1));
    // As if "a/+" had the key of "b/+".
    let seeds = index.seeds.clone();
    let wrong = FilterKey::new(&seeds, "b/+").key;
    index.shapes[0].table.insert(wrong, id.0, |_| unreachable!("nothing to move"));
    assert_eq!(index.find("b/+"), None);
    index.matching(&TopicHash::new(&seeds, "b/x"), &mut |_, _| panic!("matched by hash alone"));
}

#[test]
fn a_table_of_many_segments_finds_what_one_of_one_found() {
    let mut index = Index::new(&Seeds::fixed(1));
    let filter = |at: usize| format!("d/{at}/+");
    let count = 10_000;
    for at in 0..count {
        let id = index.intern_always(&filter(at));
        index.add(id, subscriber(at as u32));
        if at % 1000 == 999 || (1022..1026).contains(&at) {
            assert!((0..=at).all(|at| index.find(&filter(at)).is_some()));
        }
    }
    for at in 0..count {
        let name = format!("d/{at}/x");
        let mut found = 0;
        index.matching(&TopicHash::new(&index.seeds, &name), &mut |_, list| found += list.len());
        assert_eq!(found, 1);
        let id = index.find(&filter(at)).unwrap();
        assert!(index.remove(id, 0).emptied);
    }
    assert!(index.shapes.is_empty());
}

#[test]
fn a_filter_interned_without_subscribers_is_silent_and_can_be_discarded() {
    let mut index = Index::new(&Seeds::fixed(1));
    let id = index.intern_always("a/+");
    let topic = TopicHash::new(&index.seeds, "a/b");
    index.matching(&topic, &mut |_, _| panic!("nobody subscribes"));
    index.discard(id);
    assert_eq!((index.filters(), index.find("a/+")), (0, None));
    let id = index.intern_always("a/+");
    index.add(id, subscriber(1));
    index.discard(id);
    index.get_mut(id, 0).options = 9;
    assert_eq!(index.subscribers(id)[0].options, 9);
}

#[test]
fn a_list_of_a_million_loses_any_of_them_at_once_and_gives_memory_back() {
    const COUNT: u32 = 1_000_000;
    let mut index = Index::new(&Seeds::fixed(1));
    let id = index.intern_always("all");
    (0..COUNT).for_each(|target| assert_eq!(index.add(id, subscriber(target)), target));
    let spare = |index: &Index| match &index.nodes.get(id.0).subscribers {
        Subscribers::Many(many) => many.capacity() - many.len(),
        _ => 0,
    };
    assert!(spare(&index) <= COUNT as usize / 4);
    let started = std::time::Instant::now();
    for left in (1..COUNT).rev() {
        let removed = index.remove(id, left / 2);
        assert_eq!((removed.moved.is_some(), removed.emptied), (left / 2 < left, false));
        assert!(spare(&index) <= left as usize + 2);
    }
    assert!(started.elapsed().as_secs() < 20, "a removal walks the list");
    assert!(matches!(index.nodes.get(id.0).subscribers, Subscribers::One(_)));
    assert!(index.remove(id, 0).emptied);
}

#[test]
fn names_and_filters_from_the_generators_do_meet() {
    // Otherwise the comparison with the model above says little.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut draw = |strategy: &dyn Fn() -> BoxedStrategy<String>| -> Vec<String> {
        (0..200).map(|_| strategy().new_tree(&mut runner).unwrap().current()).collect()
    };
    let filters = draw(&|| testing::filter().boxed());
    let names = draw(&|| testing::name().boxed());
    let met: BTreeSet<&String> = filters
        .iter()
        .filter(|filter| names.iter().any(|name| testing::naive_matches(filter, name)))
        .collect();
    assert!(met.len() > 30, "{}", met.len());
    assert!(filters.iter().any(|filter| levels(filter) > 33));
    let seeds = Seeds::fixed(0);
    let shapes: HashSet<_> = filters.iter().map(|f| FilterKey::new(&seeds, f).shape).collect();
    assert!(shapes.len() > MAX_SHAPES, "{}", shapes.len());
}

#[test]
fn a_full_trie_takes_no_new_filter_and_a_match_never_visits_more_than_its_nodes() {
    let mut index = Index::new(&Seeds::fixed(7));
    let (mut taken, mut refused) = (Vec::new(), 0);
    for number in 0..1u32 << 15 {
        let level = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "+" };
        let filter = (0..15).map(level).collect::<Vec<_>>().join("/");
        match index.intern(&filter) {
            Some(id) => {
                index.add(id, Subscriber { target: number, subscription_id: 0, options: 0 });
                taken.push((id, filter));
            }
            None => refused += 1,
        }
    }
    assert!(refused > 0 && index.trie.nodes() <= TRIE_NODES, "{}", index.trie.nodes());
    assert_eq!(index.intern(&taken[9_000 % taken.len()].1), Some(taken[9_000 % taken.len()].0));
    let name = ["a"; 15].join("/");
    let mut found = 0;
    let seeds = Seeds::fixed(7);
    let visits = index.matching(&TopicHash::new(&seeds, &name), &mut |_, _| found += 1);
    assert_eq!(found, taken.len());
    assert!(visits <= TRIE_NODES);
    // There is room again when a filter goes.
    let (in_trie, hashed): (Vec<_>, Vec<_>) =
        taken.into_iter().partition(|(id, _)| index.is_in_trie(*id));
    assert_eq!(hashed.len(), MAX_SHAPES + 1);
    for (id, filter) in in_trie {
        assert!(index.is_unhashed(&filter));
        index.remove(id, 0);
    }
    assert_eq!((index.trie.nodes(), index.is_unhashed("a/+/b")), (0, true));
}
