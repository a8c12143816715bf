//! Whole brokers in memory: shards, mailboxes and sockets without a kernel, on a virtual clock,
//! from one seed. A failure prints its seed; `scripts/simulate --seed N` replays it.
#![cfg(test)]
#![allow(missing_docs, clippy::unwrap_used)]

mod cases;
mod client;
mod epilogue;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod peer;
mod protocol;
mod random;
mod rng;
mod settings;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `SIM_SEED` replays one seed with its trace; `SIM_SEEDS` and `SIM_MINUTES` say how many else.
#[test]
fn random_runs_lose_nothing_and_leave_nothing() {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = random::simulate(seed, number("SIM_QUIET").is_none());
        println!("seed {seed}: {outcome:?}");
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let seeds = number("SIM_SEEDS");
    let minutes = number("SIM_MINUTES");
    let limit = match (seeds, minutes) {
        (None, None) => Duration::from_secs(12),
        (Some(_), None) => Duration::MAX,
        (_, Some(minutes)) => Duration::from_secs(60 * minutes),
    };
    let began = Instant::now();
    let mut failed = Vec::new();
    let mut seed = first;
    while began.elapsed() < limit && seed - first < seeds.unwrap_or(u64::MAX) {
        match catch_unwind(AssertUnwindSafe(|| random::simulate(seed, false))) {
            Ok(outcome) if number("SIM_TELL").is_some() => println!("seed {seed}: {outcome:?}"),
            Ok(_) => {}
            Err(_) => {
                println!("seed {seed} FAILED: scripts/simulate --seed {seed}");
                failed.push(seed);
            }
        }
        seed += 1;
    }
    println!("{} seeds", seed - first);
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

#[test]
fn a_seed_is_one_run() {
    assert_eq!(random::simulate(7, false), random::simulate(7, false));
}
