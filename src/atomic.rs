//! The atomics and locks of everything that shards share, under one name. `tests/loom` compiles the
//! files that use them against loom's versions instead, and tries every interleaving that weak
//! memory allows. Owns nothing.
#![allow(
    clippy::disallowed_types,
    reason = "what shards share takes its atomics and locks from here"
)]

pub use std::sync::atomic::{
    AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use std::sync::{Mutex, MutexGuard};

use std::ops::Deref;

/// Something in cache lines of its own. What one core writes often would otherwise take away from
/// the other cores what lies beside it, as often as it is written. 128 bytes, since processors
/// fetch lines in pairs.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct OwnLine<T>(pub T);

impl<T> Deref for OwnLine<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
