//! Every interleaving of what threads share, weak memory included: where lost wake-ups hide.
//!
//! The files under test are the broker's own, compiled here once more with loom's atomics in the
//! place of `crate::atomic`: no `cfg` in them, no second build of everything else. Three stand-ins:
//! `spsc` for rtrb and `memory` for seize, whose atomics cannot be exchanged, and `sleeper` for
//! what the kernel does (eventfd, ring 0's poll of it) and for the order of calls in `ring::idle`
//! and `broker::core`.
//!
//! A test that cannot fail proves nothing: `weakened` takes one part after another away and loom
//! must find the sleeper that is never woken, the mail that is lost, or the memory that is gone.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

extern crate self as rtrb;
extern crate self as seize;

mod atomic {
    pub use crate::memory::AtomicPtr;
    pub use crate::touched::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
    pub use loom::sync::atomic::{Ordering, fence};
    pub use loom::sync::{Mutex, MutexGuard};
    pub use ringmq::atomic::OwnLine;
}

mod ids {
    pub use ringmq::ids::{ShardId, ShardSet};
}

mod topic {
    #[derive(Clone, Copy, PartialEq, Debug)]
    pub struct Shape(pub u64);

    impl Shape {
        pub const MASK: u64 = (1 << 40) - 1;
    }
}

#[path = "../../src/ring/flag.rs"]
mod flag;
#[path = "../../src/mesh/mailbox.rs"]
#[allow(dead_code)]
mod mailbox;
#[path = "../../src/mesh/map.rs"]
#[allow(dead_code)]
mod map;
#[path = "../../src/mutant/mod.rs"]
#[allow(dead_code)]
mod mutant;
#[path = "../../src/ring/port.rs"]
#[allow(dead_code)]
mod port;
#[path = "../../src/mesh/reading.rs"]
#[allow(dead_code)]
mod reading;
#[path = "../../src/mesh/shapes.rs"]
mod shapes;

mod mail_order;
mod memory;
mod ports;
mod shape_words;
mod sleeper;
mod spsc;
mod tables;
mod touched;
mod wakes;
mod weakened;

pub use memory::{Collector, Guard, LocalGuard, reclaim};
pub use spsc::{Consumer, Producer, PushError, RingBuffer};

/// Tries every order of the model's threads with at most `switches` of them forced upon a thread
/// that could have gone on; what blocks or yields costs nothing. Two find nearly all that ever goes
/// wrong; more only where the model is small.
#[track_caller]
fn explore(switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 20_000;
    let tried = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tried);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    assert!(tried.load(Ordering::Relaxed) > 1, "one order only: nothing in common to race for");
}

/// The same for a model that must go wrong in some order, and in this way.
#[track_caller]
fn must_fail(how: &str, switches: usize, model: impl Fn() + Sync + Send + 'static) {
    let run = std::panic::AssertUnwindSafe(|| explore(switches, model));
    let panic = std::panic::catch_unwind(run).expect_err("loom did not find it");
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
    let text = text.unwrap_or_default();
    assert!(text.contains(how), "instead of {how}: {text}");
}
