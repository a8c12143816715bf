//! Whole brokers in memory: shards, mailboxes and sockets without a kernel, on a virtual clock, from
//! one seed. A failure prints its seed; `scripts/simulate --seed N` replays it.
#![cfg(test)]
#![allow(missing_docs, clippy::unwrap_used)]

mod cases;
mod net;
mod peer;
mod rng;
mod settings;
mod world;
