//! The wildcard shapes that any shard uses: an array of words that all shards read while routing
//! and change while subscribing. Checked by `tests/loom`.
#![allow(clippy::disallowed_types, reason = "read by all shards, written by those that subscribe")]
use crate::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::topic::Shape;

/// One user of a shape. The bits above the shape count the shards that use it.
const ONE_USER: u64 = Shape::MASK + 1;

/// At most `N` shapes. One word holds a shape and the number of shards that use it; 0 is a free
/// word.
pub(super) struct Shapes<const N: usize> {
    words: [AtomicU64; N],
    /// No word from this index on has ever been used.
    used: AtomicUsize,
}

impl<const N: usize> Shapes<N> {
    pub(super) fn new() -> Self {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        Shapes { words, used: AtomicUsize::new(0) }
    }

    /// The shapes in use. A reader that is ordered after an [`Shapes::acquire`] sees that shape
    /// until the [`Shapes::release`].
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Shape> {
        let used = self.used.load(Ordering::Acquire);
        self.words[..used]
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .filter(|&word| word != 0)
            .map(|word| Shape(word & Shape::MASK))
    }

    /// Finds the word of a shape, or takes a free one, and adds one shard to its count. Two shards
    /// that race for a new shape may put it into two words; the result of look-ups is the same, at
    /// the cost of one more. `None` when all words are taken.
    pub(super) fn acquire(&self, shape: Shape) -> Option<usize> {
        loop {
            let words = || self.words.iter().map(|word| word.load(Ordering::SeqCst)).enumerate();
            let own = |&(_, word): &(usize, u64)| word != 0 && word & Shape::MASK == shape.0;
            let free = |&(_, word): &(usize, u64)| word == 0;
            let (at, word) = words().find(own).or_else(|| words().find(free))?;
            let next = if word == 0 { shape.0 | ONE_USER } else { word + ONE_USER };
            let swapped =
                self.words[at].compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst);
            if swapped.is_ok() {
                self.used.fetch_max(at + 1, Ordering::SeqCst);
                return Some(at);
            }
        }
    }

    /// Subtracts one shard from the word that [`Shapes::acquire`] returned.
    pub(super) fn release(&self, at: usize, shape: Shape) {
        let last = shape.0 | ONE_USER;
        let less = |word: u64| Some(if word == last { 0 } else { word - ONE_USER });
        // The result is always `Ok`, because `less` always returns a value.
        let _ = self.words[at].fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }
}
