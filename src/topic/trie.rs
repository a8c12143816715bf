//! The index's fallback: topic filters that no hashed shape describes, in a trie by level.
//!
//! Owned by one `Index`. A hostile subscriber can fill the hashed shapes; what comes after lands
//! here, where a match walks only the branches that agree with the topic name. Edges are one hash
//! table keyed by parent and level; the walk needs neither a stack nor memory, it climbs back by
//! parent links. It visits at most 2^levels nodes, and none whose path disagrees with the name.

use hashbrown::HashTable;

use super::hash::Seeds;
use crate::arena::NodeArena;

/// No node, no filter.
const NONE: u32 = u32::MAX;

struct TrieNode {
    level: Box<str>,
    parent: u32,
    /// The child of level `+`, also in the edge table.
    plus: u32,
    /// How many children there are.
    children: u32,
    /// The filter that ends at this level.
    filter: u32,
    /// The filter that ends in `#` below this level.
    open: u32,
}

impl TrieNode {
    fn new(parent: u32, level: &str) -> Self {
        TrieNode { level: level.into(), parent, plus: NONE, children: 0, filter: NONE, open: NONE }
    }
}

/// Filters by their levels. Each has the number that the index gave it.
pub(super) struct Trie {
    nodes: NodeArena<TrieNode>,
    edges: HashTable<u32>,
    filters: usize,
}

/// The first node made; made with the first filter.
const ROOT: u32 = 0;

impl Trie {
    /// Without filters and without memory.
    pub fn new() -> Self {
        Trie { nodes: NodeArena::new(), edges: HashTable::new(), filters: 0 }
    }

    /// True when no filter is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.filters == 0
    }

    /// The number of nodes: the levels of all filters, where common prefixes count once.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a filter that is not in the trie.
    pub fn insert(&mut self, seeds: &Seeds, filter: &str, id: u32) {
        if self.nodes.len() == 0 {
            let root = self.nodes.insert(TrieNode::new(NONE, ""));
            assert_eq!(root, ROOT, "an empty slab begins at zero");
        }
        let (path, open) = split_open(filter);
        let mut at = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            at = match self.child(seeds, at, level) {
                Some(child) => child,
                None => self.grow(seeds, at, level),
            };
        }
        let node = self.nodes.get_mut(at);
        let place = if open { &mut node.open } else { &mut node.filter };
        assert_eq!(*place, NONE, "a filter is interned once");
        *place = id;
        self.filters += 1;
    }

    /// The number of a filter, when it is here.
    pub fn find(&self, seeds: &Seeds, filter: &str) -> Option<u32> {
        let (at, open) = self.walk(seeds, filter)?;
        let node = self.nodes.get(at);
        Some(if open { node.open } else { node.filter }).filter(|&id| id != NONE)
    }

    /// Removes a filter that is in the trie, and the branches that led only to it.
    pub fn remove(&mut self, seeds: &Seeds, filter: &str) {
        let (mut at, open) = self.walk(seeds, filter).expect("a filter's path stays with it");
        let node = self.nodes.get_mut(at);
        let place = if open { &mut node.open } else { &mut node.filter };
        assert_ne!(*place, NONE, "a filter is removed once");
        *place = NONE;
        self.filters -= 1;
        if self.filters == 0 {
            *self = Trie::new();
            return;
        }
        loop {
            let node = self.nodes.get(at);
            if at == ROOT || node.children > 0 || node.filter != NONE || node.open != NONE {
                return;
            }
            at = self.prune(seeds, at);
        }
    }

    /// Every filter here that matches the topic name, `$` rule applied [MQTT-4.7.2-1].
    ///
    /// Depth first; `at` is where the next unmatched level begins, past the end (`len + 1`) when
    /// the name is used up.
    /// Returns how many nodes were visited.
    pub fn matching(&self, seeds: &Seeds, name: &str, found: &mut impl FnMut(u32)) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut visits = 0;
        let plus_at_root = !name.starts_with('$');
        let plus_below =
            |node: u32, plus: u32| (plus != NONE && (node != ROOT || plus_at_root)).then_some(plus);
        let (mut here, mut at) = (ROOT, 0);
        loop {
            visits += 1;
            let node = self.nodes.get(here);
            if node.open != NONE && (here != ROOT || plus_at_root) {
                found(node.open);
            }
            let next = if at > name.len() {
                if node.filter != NONE {
                    found(node.filter);
                }
                None
            } else {
                let literal = self.child(seeds, here, level_at(name, at));
                literal.or_else(|| plus_below(here, node.plus))
            };
            if let Some(child) = next {
                here = child;
                at += level_at(name, at).len() + 1;
                continue;
            }
            // Climb until a literal branch is left whose sibling `+` has not been tried.
            loop {
                if here == ROOT {
                    return visits;
                }
                let node = self.nodes.get(here);
                at = name[..at - 1].rfind('/').map_or(0, |slash| slash + 1);
                let parent = self.nodes.get(node.parent);
                match plus_below(node.parent, parent.plus) {
                    Some(plus) if plus != here => {
                        here = plus;
                        at += level_at(name, at).len() + 1;
                        break;
                    }
                    _ => here = node.parent,
                }
            }
        }
    }

    fn walk(&self, seeds: &Seeds, filter: &str) -> Option<(u32, bool)> {
        if self.is_empty() {
            return None;
        }
        let (path, open) = split_open(filter);
        let mut at = ROOT;
        for level in path.into_iter().flat_map(|path| path.split('/')) {
            at = self.child(seeds, at, level)?;
        }
        Some((at, open))
    }

    fn child(&self, seeds: &Seeds, parent: u32, level: &str) -> Option<u32> {
        let is_it = |&child: &u32| {
            let node = self.nodes.get(child);
            node.parent == parent && *node.level == *level
        };
        self.edges.find(seeds.edge(parent, level), is_it).copied()
    }

    fn grow(&mut self, seeds: &Seeds, parent: u32, level: &str) -> u32 {
        let child = self.nodes.insert(TrieNode::new(parent, level));
        let nodes = &self.nodes;
        let rehash = |&id: &u32| edge_of(seeds, nodes.get(id));
        self.edges.insert_unique(seeds.edge(parent, level), child, rehash);
        let node = self.nodes.get_mut(parent);
        node.children += 1;
        if level == "+" {
            node.plus = child;
        }
        child
    }

    /// Removes a node without children and returns its parent.
    fn prune(&mut self, seeds: &Seeds, at: u32) -> u32 {
        let node = self.nodes.remove(at);
        let hash = edge_of(seeds, &node);
        let edge = self.edges.find_entry(hash, |&id| id == at);
        edge.unwrap_or_else(|_| unreachable!("every node but the root has an edge")).remove();
        if self.edges.len() < self.edges.capacity() / 4 {
            let nodes = &self.nodes;
            self.edges.shrink_to(self.edges.len() * 2, |&id| edge_of(seeds, nodes.get(id)));
        }
        let parent = self.nodes.get_mut(node.parent);
        parent.children -= 1;
        if parent.plus == at {
            parent.plus = NONE;
        }
        node.parent
    }
}

fn edge_of(seeds: &Seeds, node: &TrieNode) -> u64 {
    seeds.edge(node.parent, &node.level)
}

/// The levels before a final `#` (none for `#` alone), and whether there is one.
fn split_open(filter: &str) -> (Option<&str>, bool) {
    match filter.strip_suffix('#') {
        Some("") => (None, true),
        Some(path) => (path.strip_suffix('/'), true),
        None => (Some(filter), false),
    }
}

/// The level that begins at `at`.
fn level_at(name: &str, at: usize) -> &str {
    let rest = &name[at..];
    rest.find('/').map_or(rest, |slash| &rest[..slash])
}

#[cfg(test)]
#[path = "trie_tests.rs"]
mod tests;
