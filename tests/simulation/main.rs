//! Whole brokers in memory: shards, mailboxes and sockets without a kernel, on a virtual clock,
//! from one seed. A failure prints its seed; `scripts/simulate --seed N` replays it.
#![cfg(test)]
#![allow(missing_docs, clippy::unwrap_used)]

mod assault;
mod baton;
mod bystander;
mod cases;
mod checks;
mod client;
mod connecting;
mod echo_cases;
mod ending;
mod epilogue;
mod extreme_cases;
mod hostile;
mod model;
mod more_cases;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod pace_cases;
mod peer;
mod plan;
mod protocol;
mod random;
mod rng;
mod runner;
mod settings;
mod share_cases;
mod world;
