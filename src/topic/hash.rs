//! Hashes of topic names and the keys that topic filters are filed under.
//!
//! Filters are put into classes by *shape*: how many levels, which of them are `+`, whether `#`
//! follows. Within a shape a filter is its literal levels, so one hash of those finds it, and a
//! topic name finds its filter of that shape by hashing its own levels in the same places:
//! tuple-space search.
//!
//! Each level is hashed once per topic. A level's *term* depends on its text and its position; a
//! key is the mixed sum of the literal levels' terms and the shape. With the sums of all prefixes
//! at hand the key of one more shape costs one multiplication and a subtraction per `+`. Seeds are
//! random per process and never leave it: a peer can neither compute nor observe a collision. Keys
//! can still collide by chance, so they find candidates and never decide a match.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use super::scan::{Slashes, same};
use crate::limits::MAX_SHAPE_LEVELS;

/// Spreads small numbers (positions, shapes) over the word; the golden ratio's digits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Most literal levels a coarse key keeps: counters of 0..=7 levels share one word in the
/// interest table.
pub(crate) const COARSE_LEVELS: usize = 7;

/// What the terms of levels are computed with.
#[derive(Clone, Debug)]
struct TermSeeds {
    shared: SharedSeed,
    level: u64,
    position: u64,
}

impl TermSeeds {
    #[inline]
    fn hash(&self, seed: u64, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(seed, &self.shared);
        hasher.write(bytes);
        hasher.finish()
    }

    #[inline]
    fn term(&self, position: usize, level: &[u8]) -> u64 {
        let hash = self.hash(self.level, level);
        let place = (position as u64 + 1).wrapping_mul(SPREAD);
        fold(hash.wrapping_add(place), self.position)
    }
}

/// The secret numbers behind all topic hashes of one process. Every shard gets the same.
#[derive(Clone, Debug)]
pub struct Seeds {
    terms: TermSeeds,
    whole: u64,
    finish: [u64; 2],
    secret: [u64; 2],
}

impl Seeds {
    /// New seeds from the operating system's randomness.
    pub fn random() -> Self {
        Self::stored(Self::random_secret())
    }

    /// A new secret for [`Self::stored`].
    pub fn random_secret() -> [u64; 2] {
        let source = std::hash::RandomState::new();
        [source.hash_one(1), source.hash_one(2)]
    }

    /// Seeds from a secret that is stored: the same after a restart.
    #[allow(deprecated)] // The successor has no keys of the caller's choice.
    pub fn stored(secret: [u64; 2]) -> Self {
        Self::from_source(|number| {
            let mut hasher = std::hash::SipHasher::new_with_keys(secret[0], secret[1]);
            hasher.write(&number.to_le_bytes());
            hasher.finish()
        })
    }

    /// Always the same seeds, for tests and simulation.
    pub fn fixed(seed: u64) -> Self {
        Self::from_source(|number| fold(seed ^ SPREAD, number.wrapping_mul(SPREAD) | 1))
    }

    fn from_source(number: impl Fn(u64) -> u64) -> Self {
        Seeds {
            terms: TermSeeds {
                shared: SharedSeed::from_u64(number(1)),
                level: number(2),
                position: number(3) | 1,
            },
            whole: number(4),
            finish: [number(5), number(6)],
            secret: [number(7), number(8)],
        }
    }

    /// A hash whose results peers may see or work out, bit by bit, without learning from them what
    /// others will be: SipHash. For what is not done per message.
    #[allow(deprecated)] // The successor has no keys of the caller's choice.
    pub fn secret(&self, bytes: &[u8]) -> u64 {
        let mut hasher = std::hash::SipHasher::new_with_keys(self.secret[0], self.secret[1]);
        hasher.write(bytes);
        hasher.finish()
    }

    /// Hash of any bytes, for finding them again: equal on all shards of a process, unrelated to
    /// [`TopicHash::exact`].
    pub fn place(&self, bytes: &[u8]) -> u64 {
        let hash = self.terms.hash(self.terms.level ^ self.whole, bytes);
        fold(hash ^ self.finish[1], self.finish[0] | 1)
    }

    /// Hash of a level below a node of the trie.
    #[inline]
    pub(super) fn edge(&self, parent: u32, level: &str) -> u64 {
        self.terms.term(parent as usize, level.as_bytes())
    }

    #[inline]
    fn exact(&self, topic: &str) -> u64 {
        fold(self.terms.hash(self.whole, topic.as_bytes()) ^ self.finish[0], self.finish[1] | 1)
    }
}

/// Multiplies to 128 bits and folds the halves: foldhash's own step.
#[inline]
fn fold(x: u64, y: u64) -> u64 {
    let full = u128::from(x).wrapping_mul(u128::from(y));
    full as u64 ^ (full >> 64) as u64
}

#[inline]
fn finish(seeds: [u64; 2], sum: u64, shape: Shape) -> u64 {
    fold(sum ^ seeds[0], shape.0.wrapping_mul(SPREAD) ^ seeds[1])
}

/// The shape of a wildcard filter: its levels, which of them are `+`, and whether `#` follows.
///
/// Never zero, and only the low 40 bits are used; the interest table keeps a count in the rest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape(pub(crate) u64);

impl Shape {
    const LEVELS_AT: u32 = 32;
    const OPEN: u64 = 1 << 38;
    const COARSE: u64 = 1 << 39;
    /// The bits that a shape may use.
    pub(crate) const MASK: u64 = (1 << 40) - 1;

    fn new(plus: u32, levels: usize, open: bool) -> Self {
        let open = if open { Self::OPEN } else { 0 };
        Shape(u64::from(plus) | (levels as u64) << Self::LEVELS_AT | open)
    }

    /// The shape of coarse keys with `levels` literal levels and `#`; apart from ordinary shapes.
    pub(crate) fn coarse(levels: usize) -> Self {
        Shape(Self::new(0, levels, true).0 | Self::COARSE)
    }

    /// How many levels precede the `#`, or how many there are without one.
    #[inline]
    pub fn levels(self) -> usize {
        (self.0 >> Self::LEVELS_AT) as usize & 0x3f
    }

    /// Which levels are `+`: bit 0 is the first level.
    #[inline]
    pub fn plus(self) -> u32 {
        self.0 as u32
    }

    /// True when the filter ends in `#`.
    #[inline]
    pub fn open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    #[inline]
    fn leads_with_wildcard(self) -> bool {
        self.plus() & 1 != 0 || self.levels() == 0
    }
}

const _: () = assert!(MAX_SHAPE_LEVELS <= 32 && COARSE_LEVELS <= MAX_SHAPE_LEVELS);

/// The hashes of one topic name, computed once per PUBLISH. Lives on the stack, allocates nothing.
/// The levels are hashed when the first shape asks for them: where no filter has wildcards but `#`
/// alone, nobody does.
///
/// Levels past [`MAX_SHAPE_LEVELS`] are counted and not hashed: no shape reaches them.
pub struct TopicHash<'a> {
    name: &'a str,
    exact: u64,
    finish: [u64; 2],
    terms: TermSeeds,
    split: Split,
}

/// The levels of a topic name. Filled in where it is: it is large, and would be copied otherwise.
struct Split {
    /// How many there are; none while they have not been looked at.
    levels: Cell<usize>,
    /// `sums[n]`: the terms of the first `n` levels, added up.
    sums: [Cell<u64>; MAX_SHAPE_LEVELS + 1],
    /// Where each level ends in the name.
    ends: [Cell<u16>; MAX_SHAPE_LEVELS],
}

impl Split {
    #[inline]
    fn not_yet() -> Split {
        Split {
            levels: Cell::new(0),
            sums: [const { Cell::new(0) }; MAX_SHAPE_LEVELS + 1],
            ends: [const { Cell::new(0) }; MAX_SHAPE_LEVELS],
        }
    }

    fn fill(&self, terms: &TermSeeds, bytes: &[u8]) {
        let (mut levels, mut start, mut sum) = (0, 0, 0u64);
        for end in Slashes::new(bytes).chain([bytes.len()]) {
            if levels < MAX_SHAPE_LEVELS {
                sum = sum.wrapping_add(terms.term(levels, &bytes[start..end]));
                self.sums[levels + 1].set(sum);
                self.ends[levels].set(end as u16);
            }
            (levels, start) = (levels + 1, end + 1);
        }
        self.levels.set(levels);
    }

    /// The terms of the first levels, added up.
    #[inline]
    fn sum(&self, levels: usize) -> u64 {
        self.sums[levels].get()
    }

    /// Where the level begins in the name.
    #[inline]
    fn begin(&self, level: usize) -> usize {
        if level == 0 { 0 } else { self.end(level - 1) + 1 }
    }

    /// Where it ends.
    #[inline]
    fn end(&self, level: usize) -> usize {
        usize::from(self.ends[level].get())
    }
}

impl<'a> TopicHash<'a> {
    /// Hashes a valid topic name.
    #[inline]
    pub fn new(seeds: &Seeds, name: &'a str) -> Self {
        let (exact, finish) = (seeds.exact(name), seeds.finish);
        TopicHash { name, exact, finish, terms: seeds.terms.clone(), split: Split::not_yet() }
    }

    /// The topic name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// How many levels the topic name has.
    pub fn levels(&self) -> usize {
        self.split().levels.get()
    }

    #[inline]
    fn split(&self) -> &Split {
        if self.split.levels.get() == 0 {
            self.split.fill(&self.terms, self.name.as_bytes());
        }
        &self.split
    }

    /// The key of the filter without wildcards that equals this name.
    #[inline]
    pub fn exact(&self) -> u64 {
        self.exact
    }

    /// The key of the one filter of `shape` that matches this name. `None`: no filter of that shape
    /// can, for its number of levels or for a leading `$` [MQTT-4.7.2-1].
    #[inline]
    pub fn shape_key(&self, shape: Shape) -> Option<u64> {
        if shape.leads_with_wildcard() && self.name.starts_with('$') {
            return None;
        }
        let levels = shape.levels();
        if levels == 0 {
            return Some(finish(self.finish, 0, shape)); // `#`
        }
        let split = self.split();
        let ours = split.levels.get();
        let fits = if shape.open() { levels <= ours } else { levels == ours };
        if !fits {
            return None;
        }
        let mut sum = split.sum(levels);
        let mut plus = shape.plus();
        while plus != 0 {
            let at = plus.trailing_zeros() as usize;
            plus &= plus - 1;
            sum = sum.wrapping_sub(split.sum(at + 1).wrapping_sub(split.sum(at)));
        }
        Some(finish(self.finish, sum, shape))
    }
}

impl TopicHash<'_> {
    /// True when `filter`, which has this shape, matches the name; the shape must fit it. Settles a
    /// hit by [`TopicHash::shape_key`].
    #[inline]
    pub(super) fn confirms(&self, shape: Shape, filter: &[u8]) -> bool {
        let name = self.name.as_bytes();
        let (mut at, mut ours) = (0, 0);
        let mut plus = shape.plus();
        while plus != 0 {
            let level = plus.trailing_zeros() as usize;
            plus &= plus - 1;
            let begin = self.split().begin(level);
            let literal = begin - at;
            let run = filter.get(ours..ours + literal);
            // Between two `+` there is but the slash.
            let equal = |run: &[u8]| match run {
                [only] => *only == b'/',
                run => same(run, &name[at..begin]),
            };
            if !run.is_some_and(equal) || filter.get(ours + literal) != Some(&b'+') {
                return false;
            }
            (at, ours) = (self.split().end(level), ours + literal + 1);
        }
        let last = shape.levels().checked_sub(1);
        let end = last.map_or(0, |last| self.split().end(last));
        let (rest, literal) = (&filter[ours..], end - at);
        let tail_fits = match (shape.open(), shape.levels()) {
            (false, _) => rest.len() == literal,
            (true, 0) => rest.len() == 1,
            (true, _) => rest.len() == literal + 2 && rest[literal] == b'/',
        };
        tail_fits && same(&rest[..literal], &name[at..end])
    }
}

/// What a filter is filed under, in the index of its shard and in the interest table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterKey {
    /// Hash of the literal levels and the shape.
    pub key: u64,
    /// The shape; `None` for a filter without wildcards.
    pub shape: Option<Shape>,
    /// The filter has more than [`MAX_SHAPE_LEVELS`] levels, so `key` and `shape` stand for a
    /// wider filter: its literal prefix (at most seven levels) and `#`.
    pub coarse: bool,
}

impl FilterKey {
    /// The key of a valid filter.
    pub fn new(seeds: &Seeds, filter: &str) -> Self {
        if !filter.contains(['+', '#']) {
            return FilterKey { key: seeds.exact(filter), shape: None, coarse: false };
        }
        let (mut plus, mut sum, mut levels, mut open) = (0u32, 0u64, 0, false);
        for level in filter.split('/') {
            if level == "#" {
                open = true;
                break;
            }
            if levels == MAX_SHAPE_LEVELS {
                return Self::coarse(seeds, filter);
            }
            if level == "+" {
                plus |= 1 << levels;
            } else {
                sum = sum.wrapping_add(seeds.terms.term(levels, level.as_bytes()));
            }
            levels += 1;
        }
        let shape = Shape::new(plus, levels, open);
        FilterKey { key: finish(seeds.finish, sum, shape), shape: Some(shape), coarse: false }
    }

    /// The key of the widest filter that stands in for `filter`: its literal levels up to the first
    /// wildcard, at most [`COARSE_LEVELS`] of them, and `#`.
    pub(crate) fn coarse(seeds: &Seeds, filter: &str) -> Self {
        let literal = filter.split('/').take_while(|level| !matches!(*level, "+" | "#"));
        let (mut sum, mut levels) = (0u64, 0);
        for level in literal.take(COARSE_LEVELS) {
            sum = sum.wrapping_add(seeds.terms.term(levels, level.as_bytes()));
            levels += 1;
        }
        let shape = Shape::coarse(levels);
        FilterKey { key: finish(seeds.finish, sum, shape), shape: Some(shape), coarse: true }
    }
}

/// Numbers that are near each other, far from each other: the finalizer of splitmix64, the same on
/// every broker.
pub fn spread(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[path = "hash_tests.rs"]
mod tests;
