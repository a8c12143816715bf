//! Whole brokers in memory: shards, mailboxes and sockets without a kernel, on a virtual clock,
//! from one seed. A failure prints its seed; `scripts/simulate --seed N` replays it.
#![cfg(test)]
#![allow(missing_docs, clippy::unwrap_used)]

mod accounting;
mod answers;
mod assault;
mod backpressure;
mod baton;
mod bystander;
mod checks;
mod client;
mod closing;
mod cluster;
mod connecting;
mod delivery;
mod ending;
mod epilogue;
mod hostile;
mod keep_alive;
mod links;
mod longest_names;
mod model;
mod mountpoints;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod peer;
mod plan;
mod protocol;
mod publish_to_self;
mod publisher_waits;
mod random;
mod reload;
mod replays;
mod retained_accounts;
mod rng;
mod runner;
mod scripted;
mod secure;
#[path = "secure/dialogues.rs"]
mod secure_dialogues;
mod settings;
mod share_groups;
mod storage;
mod upgrade;
mod upgrade_copies;
mod upgrade_kinds;
mod upgrade_rounds;
mod web;
mod wills;
mod world;
