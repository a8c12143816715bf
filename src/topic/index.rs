//! The subscriptions of one shard: from a topic name to the local subscribers whose filters match.
//!
//! Owned by one shard. A filter without wildcards is found by the hash of its text; a wildcard
//! filter by its shape and the hash of its literal levels (see `hash`), so a match costs one table
//! lookup plus one per shape in use, however many filters there are. A hit is compared with the
//! filter's text before it counts. Filters past [`MAX_SHAPES`] distinct shapes, or with more levels
//! than a shape describes, are in a trie.
//!
//! Memory, per distinct filter with one subscriber: a node of 32 bytes (16 for the text, in which
//! up to 14 bytes of it fit, and the subscriber) and 6 to 12 bytes in the hash table; keys are
//! hashed again when needed. The second subscriber moves both to a list: 24 bytes, and 12 for each
//! with up to as much again spare while short, a quarter when long. Nodes are kept in chunks and
//! the table in segments, so growth never moves more than a 256th of either. All of it shrinks when
//! filters and subscribers go.
//!
//! Not here: what a subscriber is, share groups' picking, who else is interested (see `mesh`).

use super::hash::{FilterKey, Seeds, Shape, TopicHash};
use super::name::levels as topic_levels;
use super::trie::Trie;
use crate::arena::{self, NodeArena};
use crate::limits::{MAX_SHAPES, TRIE_NODES};
use crate::mutant::Mutant;
use crate::split::SplitTable;
use crate::text::CompactText;

/// A filter's number in one [`Index`]; used again after the filter is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FilterId(pub u32);

/// One entry in a filter's list. What the fields mean is the shard's affair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscriber {
    /// Who: a session, a share group.
    pub target: u32,
    /// The subscription identifier, 0 for none.
    pub subscription_id: u32,
    /// Quality of service and the other subscription options.
    pub options: u8,
}

/// What [`Index::remove`] changed besides the entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The subscriber that took over the position of the one removed.
    pub moved: Option<Subscriber>,
    /// The list is empty: the filter is gone and its number invalid.
    pub emptied: bool,
}

/// A filter's subscribers. One is the common case and needs no memory of its own.
enum Subscribers {
    None,
    One(Subscriber),
    #[expect(clippy::box_collection, reason = "8 bytes instead of 24 in every node")]
    Many(Box<Vec<Subscriber>>),
}

struct FilterNode {
    text: CompactText,
    subscribers: Subscribers,
}

// Multiplied by a million filters; the module's promise is 80 bytes together with the table.
const _: () = assert!(size_of::<Subscriber>() == 12);
const _: () = assert!(size_of::<Subscribers>() == 16);
const _: () = assert!(arena::slot_size::<FilterNode>() == 32);

/// The hashed filters of one shape. They have a table of their own, so that the few entries of a
/// rare shape stay in the cache. In it, at most one filter matches a given name.
struct UsedShape {
    shape: Shape,
    table: KeyTable,
}

/// The subscriptions of one shard.
pub struct Index {
    seeds: Seeds,
    nodes: NodeArena<FilterNode>,
    /// Filters without wildcards.
    exact: KeyTable,
    shapes: Vec<UsedShape>,
    trie: Trie,
    subscriptions: usize,
    /// Bytes of the filters' texts.
    text: usize,
}

impl Index {
    /// An empty index. All shards of a process use the same seeds.
    pub fn new(seeds: &Seeds) -> Self {
        Index {
            seeds: seeds.clone(),
            nodes: NodeArena::new(),
            exact: KeyTable::default(),
            shapes: Vec::new(),
            trie: Trie::new(),
            subscriptions: 0,
            text: 0,
        }
    }

    /// The number of a valid filter, which is created without subscribers when it is new. `None`
    /// when it is new, only the trie could find it, and the trie has no room: [`TRIE_NODES`].
    pub fn intern(&mut self, filter: &str) -> Option<FilterId> {
        let key = FilterKey::new(&self.seeds, filter);
        if let Some(found) = self.find_keyed(&key, filter) {
            return Some(found);
        }
        if self.needs_trie(&key) && self.trie.nodes() + topic_levels(filter) > TRIE_NODES {
            return None;
        }
        Some(self.add_filter(&key, filter))
    }

    /// The same without that bound, for a filter that another shard has let in.
    pub fn intern_always(&mut self, filter: &str) -> FilterId {
        let key = FilterKey::new(&self.seeds, filter);
        self.find_keyed(&key, filter).unwrap_or_else(|| self.add_filter(&key, filter))
    }

    fn add_filter(&mut self, key: &FilterKey, filter: &str) -> FilterId {
        self.text += filter.len();
        let node = FilterNode { text: filter.into(), subscribers: Subscribers::None };
        let id = self.nodes.insert(node);
        let table = match key.shape {
            _ if key.coarse => None,
            None => Some(&mut self.exact),
            Some(shape) => Self::table_for(&mut self.shapes, shape),
        };
        match table {
            Some(table) => table.insert(key.key, id, |&id| rehash(&self.seeds, &self.nodes, id)),
            None => self.trie.insert(&self.seeds, filter, id),
        }
        FilterId(id)
    }

    /// True when a filter that was interned is in the trie.
    pub fn is_in_trie(&self, id: FilterId) -> bool {
        !self.trie.is_empty() && self.trie.find(&self.seeds, self.filter(id)) == Some(id.0)
    }

    /// True when the filter is, or as a new one would be, in the trie.
    pub fn is_unhashed(&self, filter: &str) -> bool {
        let key = FilterKey::new(&self.seeds, filter);
        self.needs_trie(&key) || self.trie.find(&self.seeds, filter).is_some()
    }

    fn needs_trie(&self, key: &FilterKey) -> bool {
        key.shape.is_some()
            && (key.coarse || self.shapes.len() >= MAX_SHAPES && self.used(key).is_none())
    }

    /// The number of a filter, when it has been interned.
    pub fn find(&self, filter: &str) -> Option<FilterId> {
        self.find_keyed(&FilterKey::new(&self.seeds, filter), filter)
    }

    /// The filter's text.
    pub fn filter(&self, id: FilterId) -> &str {
        &self.nodes.get(id.0).text
    }

    /// Adds a subscriber and returns its position in the filter's list.
    pub fn add(&mut self, id: FilterId, subscriber: Subscriber) -> u32 {
        self.subscriptions += 1;
        self.nodes.get_mut(id.0).subscribers.push(subscriber)
    }

    /// The subscriber at a position. Panics when there is none: our own mistake.
    pub fn get_mut(&mut self, id: FilterId, position: u32) -> &mut Subscriber {
        &mut self.nodes.get_mut(id.0).subscribers.as_mut_slice()[position as usize]
    }

    /// Two subscribers of a filter change positions. Panics when there are none: our own mistake.
    pub fn swap(&mut self, id: FilterId, one: u32, other: u32) {
        let list = self.nodes.get_mut(id.0).subscribers.as_mut_slice();
        list.swap(one as usize, other as usize);
    }

    /// Removes the subscriber at a position, in constant time: the last one of the list takes its
    /// place. Panics when there is none: our own mistake.
    pub fn remove(&mut self, id: FilterId, position: u32) -> Removed {
        let subscribers = &mut self.nodes.get_mut(id.0).subscribers;
        let moved = subscribers.swap_remove(position as usize);
        let emptied = subscribers.as_slice().is_empty();
        self.subscriptions -= 1;
        if emptied {
            self.forget(id);
        }
        Removed { moved, emptied }
    }

    /// Removes a filter that was interned and has no subscribers. Does nothing when it has some.
    pub fn discard(&mut self, id: FilterId) {
        if self.subscribers(id).is_empty() {
            self.forget(id);
        }
    }

    /// The subscribers of a filter, by position.
    pub fn subscribers(&self, id: FilterId) -> &[Subscriber] {
        self.nodes.get(id.0).subscribers.as_slice()
    }

    /// What the filter is filed under in the interest table.
    pub fn key(&self, id: FilterId) -> FilterKey {
        FilterKey::new(&self.seeds, self.filter(id))
    }

    /// Calls `found` with every filter that matches the topic name and has subscribers, in no
    /// particular order. Allocates nothing. Returns how many nodes of the trie were visited.
    pub fn matching<'s>(
        &'s self,
        topic: &TopicHash<'_>,
        found: &mut impl FnMut(FilterId, &'s [Subscriber]),
    ) -> usize {
        let mut report = |id: u32, node: &'s FilterNode| {
            let subscribers = node.subscribers.as_slice();
            if !subscribers.is_empty() {
                found(FilterId(id), subscribers);
            }
        };
        let name = topic.name();
        let is_it = |&id: &u32| self.nodes.get(id).text.as_bytes() == name.as_bytes();
        if let Some(&id) = self.exact.find(topic.exact(), is_it) {
            report(id, self.nodes.get(id));
        }
        for used in &self.shapes {
            let Some(key) = topic.shape_key(used.shape) else { continue };
            if let Some(&id) = used
                .table
                .find(key, |&id| topic.confirms(used.shape, self.nodes.get(id).text.as_bytes()))
            {
                report(id, self.nodes.get(id));
            }
        }
        self.trie.matching(&self.seeds, name, &mut |id| report(id, self.nodes.get(id)))
    }

    /// The first filter from number `from` on, and how many places were looked at, about `most` at
    /// most. The number is of no filter when the search ended early; `None` at the end.
    pub fn next_filter(&self, from: u32, most: usize) -> Option<(FilterId, usize)> {
        self.nodes.next_used(from, most).map(|(id, looked)| (FilterId(id), looked))
    }

    /// A filter and how many subscribers it has, if there is one of that number.
    pub fn listed(&self, id: FilterId) -> Option<(&str, usize)> {
        let node = self.nodes.find(id.0)?;
        Some((&node.text, node.subscribers.as_slice().len()))
    }

    /// How many distinct filters there are.
    pub fn filters(&self) -> usize {
        self.nodes.len()
    }

    /// Bytes of the texts of all filters.
    pub fn text(&self) -> usize {
        self.text
    }

    /// The same, computed from scratch. For checks.
    pub fn count_text(&self) -> usize {
        self.nodes.iter().map(|node| node.text.len()).sum()
    }

    /// How many subscribers there are in all lists together.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    fn find_keyed(&self, key: &FilterKey, filter: &str) -> Option<FilterId> {
        let table = match key.shape {
            None => Some(&self.exact),
            Some(_) => self.used(key).map(|at| &self.shapes[at].table),
        };
        let is_it = |&id: &u32| self.nodes.get(id).text.as_bytes() == filter.as_bytes();
        let hashed = table.and_then(|table| table.find(key.key, is_it)).copied();
        hashed.or_else(|| self.trie.find(&self.seeds, filter)).map(FilterId)
    }

    fn forget(&mut self, id: FilterId) {
        let key = self.key(id);
        let used = self.used(&key);
        let table = match (key.shape, used) {
            (None, _) => Some(&mut self.exact),
            (Some(_), used) => used.map(|at| &mut self.shapes[at].table),
        };
        let rehash = |&id: &u32| rehash(&self.seeds, &self.nodes, id);
        let is_it = |&other: &u32| other == id.0;
        if table.and_then(|table| table.remove(key.key, is_it, rehash)).is_none() {
            self.trie.remove(&self.seeds, &self.nodes.get(id.0).text);
        } else if let Some(at) = used.filter(|&at| {
            self.shapes[at].table.len() <= usize::from(Mutant::ShapeDroppedEarly.is_on())
        }) {
            self.shapes.swap_remove(at);
        }
        self.text -= self.nodes.remove(id.0).text.len();
    }

    /// The position of the key's shape among those in use. The shapes of coarse keys are never
    /// among them.
    fn used(&self, key: &FilterKey) -> Option<usize> {
        self.shapes.iter().position(|used| key.shape == Some(used.shape))
    }

    /// The table of a shape, created if it is new. `None` when there is no room for a new shape.
    fn table_for(shapes: &mut Vec<UsedShape>, shape: Shape) -> Option<&mut KeyTable> {
        let at = shapes.iter().position(|used| used.shape == shape).unwrap_or(shapes.len());
        if at == MAX_SHAPES {
            return None;
        }
        if at == shapes.len() {
            shapes.push(UsedShape { shape, table: KeyTable::default() });
        }
        Some(&mut shapes[at].table)
    }
}

impl Subscribers {
    /// Lists this long grow by a quarter instead of doubling.
    const LONG: usize = 256;

    #[inline]
    fn as_slice(&self) -> &[Subscriber] {
        match self {
            Subscribers::None => &[],
            Subscribers::One(one) => std::slice::from_ref(one),
            Subscribers::Many(many) => many,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Subscriber] {
        match self {
            Subscribers::None => &mut [],
            Subscribers::One(one) => std::slice::from_mut(one),
            Subscribers::Many(many) => many,
        }
    }

    fn push(&mut self, subscriber: Subscriber) -> u32 {
        match self {
            Subscribers::None => {
                *self = Subscribers::One(subscriber);
                0
            }
            Subscribers::One(first) => {
                *self = Subscribers::Many(Box::new(vec![*first, subscriber]));
                1
            }
            Subscribers::Many(many) => {
                if many.len() == many.capacity() && many.len() >= Self::LONG {
                    many.reserve_exact(many.len() / 4);
                }
                many.push(subscriber);
                u32::try_from(many.len() - 1).expect("fewer subscribers than ids")
            }
        }
    }

    fn swap_remove(&mut self, position: usize) -> Option<Subscriber> {
        match self {
            Subscribers::Many(many) => {
                many.swap_remove(position);
                let moved = many.get(position).copied();
                if let [last] = many[..] {
                    *self = Subscribers::One(last);
                } else if many.len() <= many.capacity() / 2 {
                    many.shrink_to(many.len() + many.len() / 4);
                }
                moved
            }
            Subscribers::One(_) if position == 0 => {
                *self = Subscribers::None;
                None
            }
            _ => panic!("removed a subscriber twice"),
        }
    }
}

/// From keys to node numbers.
type KeyTable = SplitTable<u32>;

fn rehash(seeds: &Seeds, nodes: &NodeArena<FilterNode>, id: u32) -> u64 {
    FilterKey::new(seeds, &nodes.get(id).text).key
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
