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
