//! Target `filters`: the subscription index (hashed shapes and trie), the interest table that the
//! shards share and the retained messages, under any sequence of changes, against a matcher of a
//! few lines and plain lists.

use crate::input::Input;
use ringmq::ids::ShardId;
use ringmq::limits::MAX_SHAPES;
use ringmq::mesh::interest::Interest;
use ringmq::topic::{
    self, FilterKey, Index, Pass, Retained, Seeds, Subscriber, TopicHash, valid_filter, valid_name,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

const LEVELS: [&str; 12] = ["a", "b", "+", "#", "", "c", "$", "$SYS", "aa", "B", "a!", "é"];
const SHARDS: usize = 3;

/// Section 4.7 by recursion over levels.
pub fn naive_matches(filter: &str, name: &str) -> bool {
    fn go(filter: &[&str], name: &[&str]) -> bool {
        match (filter, name) {
            (["#"], _) | ([], []) => true,
            (["+", filter @ ..], [_, name @ ..]) => go(filter, name),
            ([level, filter @ ..], [same, name @ ..]) if level == same => go(filter, name),
            _ => false,
        }
    }
    let filter: Vec<&str> = filter.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    let hidden = name[0].starts_with('$') && matches!(filter[0], "+" | "#");
    !hidden && go(&filter, &name)
}

fn naive_valid(text: &str, wildcards: bool) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let last = levels.len() - 1;
    let fits = |(at, level): (usize, &&str)| match *level {
        "+" => wildcards,
        "#" => wildcards && at == last,
        other => !other.contains(['+', '#', '\0']),
    };
    (1..=65_535).contains(&text.len()) && levels.iter().enumerate().all(fits)
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new(u64::from(input.byte()));
    let mut names = vec!["a/b".to_owned(), "$SYS/a".to_owned()];
    for _ in 0..400 {
        if input.is_empty() {
            break;
        }
        match input.below(12) {
            0..=2 => {
                let (shard, filter) = (input.below(SHARDS), text(&mut input));
                model.subscribe(shard, &filter);
            }
            3 | 4 => {
                let (shard, pick) = (input.below(SHARDS), input.byte());
                model.unsubscribe(shard, pick);
            }
            5 | 6 => {
                let name = text(&mut input);
                if model.check_name(&name) {
                    names.push(name);
                    let excess = names.len().saturating_sub(16);
                    names.drain(..excess);
                }
            }
            7 => {
                let (name, value) = (text(&mut input), input.byte());
                model.retain(&name, Some(value));
            }
            8 => {
                let pick = input.byte();
                let known = model.kept.keys().nth(usize::from(pick) % model.kept.len().max(1));
                let name = known.cloned().unwrap_or_default();
                model.retain(&name, None);
            }
            9 => {
                let (filter, limits) = (text(&mut input), [input.byte(), input.byte()]);
                model.replay(&filter, limits);
            }
            10 => model.crowd(input.below(SHARDS), input.byte()),
            _ => model.empty(input.below(SHARDS)),
        }
    }
    names.iter().for_each(|name| assert!(model.check_name(name)));
    model.check_lists();
    model.replay("#", [255, 255]);
    (0..SHARDS).for_each(|shard| model.empty(shard));
    names.iter().for_each(|name| assert!(model.check_name(name)));
    assert!(model.interest.is_empty() && model.interest.is_empty(), "interest keys are left");
}

/// A topic name or filter, valid or not.
fn text(input: &mut Input<'_>) -> String {
    let kind = input.byte();
    if kind % 16 == 15 {
        let length = input.below(24);
        return String::from_utf8_lossy(input.bytes(length)).into_owned();
    }
    let count = match kind % 16 {
        14 => 28 + input.below(12),
        other => 1 + usize::from(other % 6),
    };
    let levels: Vec<&str> = (0..count).map(|_| input.pick(&LEVELS)).collect();
    levels.join("/")
}

/// One shard: its index and what it should hold, by filter, in their positions.
struct Node {
    index: Index,
    lists: BTreeMap<String, Vec<Subscriber>>,
}

struct Model {
    seeds: Seeds,
    nodes: Vec<Node>,
    interest: Arc<Interest>,
    /// True while no filter may stand in the interest table under a wider one.
    exact: bool,
    retained: Retained<u8>,
    kept: BTreeMap<String, u8>,
    next: u32,
}

impl Model {
    fn new(seed: u64) -> Self {
        let seeds = Seeds::fixed(seed);
        let node = || Node { index: Index::new(&seeds), lists: BTreeMap::new() };
        Model {
            nodes: (0..SHARDS).map(|_| node()).collect(),
            interest: Interest::new(&seeds),
            exact: true,
            retained: Retained::new(),
            kept: BTreeMap::new(),
            next: 0,
            seeds,
        }
    }

    fn subscribe(&mut self, shard: usize, filter: &str) {
        assert_eq!(valid_filter(filter), naive_valid(filter, true), "{filter:?}");
        if !valid_filter(filter) {
            return;
        }
        self.next += 1;
        let target = self.next;
        let subscriber = Subscriber { target, subscription_id: target % 5, options: target as u8 };
        let node = &mut self.nodes[shard];
        let id = node.index.intern_always(filter);
        let key = node.index.key(id);
        assert_eq!(key, FilterKey::new(&self.seeds, filter));
        let list = node.lists.entry(filter.into()).or_default();
        if list.is_empty() {
            self.interest.add(ShardId(shard as u8), key, filter);
        }
        assert_eq!(node.index.add(id, subscriber) as usize, list.len());
        list.push(subscriber);
        let shapes: HashSet<_> = self
            .nodes
            .iter()
            .flat_map(|node| node.lists.keys())
            .filter_map(|filter| FilterKey::new(&self.seeds, filter).shape)
            .collect();
        self.exact &= !key.coarse && shapes.len() <= MAX_SHAPES;
    }

    fn unsubscribe(&mut self, shard: usize, pick: u8) {
        let node = &mut self.nodes[shard];
        if node.lists.is_empty() {
            return;
        }
        let pick = usize::from(pick);
        let filter = node.lists.keys().nth(pick % node.lists.len()).expect("within").clone();
        let list = node.lists.get_mut(&filter).expect("just found");
        let id = node.index.find(&filter).expect("somebody subscribes to it");
        let key = node.index.key(id);
        let position = pick % list.len();
        list.swap_remove(position);
        let removed = node.index.remove(id, position as u32);
        assert_eq!(removed.moved, list.get(position).copied());
        assert_eq!(removed.emptied, list.is_empty());
        if list.is_empty() {
            node.lists.remove(&filter);
            assert_eq!(node.index.find(&filter), None);
            self.interest.remove(ShardId(shard as u8), key, &filter);
        }
    }

    /// Filters of more shapes than are hashed.
    fn crowd(&mut self, shard: usize, from: u8) {
        for mask in u32::from(from)..u32::from(from) + 24 {
            let level = |at: u32| if mask >> at & 1 == 1 { "+" } else { "a" };
            let levels: Vec<&str> = (0..6).map(level).collect();
            self.subscribe(shard, &levels.join("/"));
        }
    }

    fn empty(&mut self, shard: usize) {
        while !self.nodes[shard].lists.is_empty() {
            self.unsubscribe(shard, 0);
        }
        let index = &self.nodes[shard].index;
        assert_eq!((index.filters(), index.subscriptions()), (0, 0));
    }

    fn retain(&mut self, name: &str, value: Option<u8>) {
        if !valid_name(name) {
            return;
        }
        match value {
            Some(value) => {
                assert_eq!(self.retained.set(name, value), self.kept.insert(name.to_owned(), value))
            }
            None => assert_eq!(self.retained.remove(name), self.kept.remove(name)),
        }
        assert_eq!(self.retained.get(name), self.kept.get(name));
        assert_eq!(self.retained.len(), self.kept.len());
    }

    /// Who is found for a name; false when it is none.
    fn check_name(&self, name: &str) -> bool {
        assert_eq!(valid_name(name), naive_valid(name, false), "{name:?}");
        if !valid_name(name) {
            return false;
        }
        let hash = TopicHash::new(&self.seeds, name);
        let interested = self.interest.shards(&hash);
        for (shard, node) in self.nodes.iter().enumerate() {
            let mut found = BTreeMap::new();
            node.index.matching(&hash, &mut |id, list| {
                let filter = node.index.filter(id);
                assert!(found.insert(filter, list.to_vec()).is_none(), "{filter} twice");
            });
            let expected: BTreeMap<&str, Vec<Subscriber>> = node
                .lists
                .iter()
                .filter(|(filter, _)| {
                    let naive = naive_matches(filter, name);
                    assert_eq!(topic::matches(filter, name), naive, "{filter:?} {name:?}");
                    naive
                })
                .map(|(filter, list)| (filter.as_str(), list.clone()))
                .collect();
            assert_eq!(found, expected, "{name:?} on shard {shard}");
            let told = interested.contains(ShardId(shard as u8));
            assert!(told || expected.is_empty(), "shard {shard} is not told of {name:?}");
            assert!(!told || !self.exact || !expected.is_empty(), "shard {shard}, {name:?}");
        }
        true
    }

    fn check_lists(&self) {
        for node in &self.nodes {
            assert_eq!(node.index.filters(), node.lists.len());
            let all: usize = node.lists.values().map(Vec::len).sum();
            assert_eq!(node.index.subscriptions(), all);
            for (filter, list) in &node.lists {
                let id = node.index.find(filter).expect("somebody subscribes to it");
                assert_eq!(
                    (node.index.subscribers(id), node.index.filter(id)),
                    (&**list, &**filter)
                );
            }
        }
    }

    /// Replays in slices, which must find each message once.
    fn replay(&self, filter: &str, [limit, visits]: [u8; 2]) {
        if !valid_filter(filter) {
            return;
        }
        let (mut found, mut cursor) = (BTreeSet::new(), None::<Box<str>>);
        for _ in 0..100_000 {
            let outcome = self.retained.replay(
                filter,
                cursor.as_deref(),
                usize::from(limit),
                &mut usize::from(visits),
                &mut |name, &value| {
                    assert_eq!(self.kept.get(name), Some(&value));
                    assert!(found.insert(name.to_owned()), "{name:?} twice");
                },
            );
            match outcome {
                Pass::Done => {
                    let matching = |name: &&String| naive_matches(filter, name);
                    assert!(found.iter().eq(self.kept.keys().filter(matching)), "{filter:?}");
                    return;
                }
                Pass::More(next) => cursor = Some(next),
            }
        }
        panic!("the replay of {filter:?} does not end");
    }
}
