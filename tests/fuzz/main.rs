//! The fuzz targets: functions from any bytes to nothing, that panic when something is wrong. Owns
//! what they judge; libFuzzer finds inputs (`scripts/fuzz`, crate `tests/fuzz`, of which this file
//! is the library). As a test of `ringmq` it replays the corpus, what once crashed among it, and a
//! bounded number of seeded mutations of it, so that every `cargo test` on any compiler does.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::enum_variant_names)]

pub mod access;
pub mod bridges;
pub mod cluster;
pub mod config;
pub mod decode;
pub mod filters;
pub mod frames;
mod input;
pub mod layers;
pub mod queues;
pub mod session;
mod speech;
pub mod storage;
pub mod tls;
mod witness;

// The simulation's broker in memory.
#[path = "../simulation/net.rs"]
mod net;
#[path = "../simulation/rng.rs"]
mod rng;
#[path = "../simulation/secure/mod.rs"]
mod secure;
#[path = "../simulation/settings.rs"]
mod settings;
#[path = "../simulation/web.rs"]
mod web;
#[path = "../simulation/world.rs"]
mod world;

#[cfg(test)]
mod replay;
