//! The store at the start: opened, and read back by all shards at once.

use super::Failure;
use super::core::{Clock, Stored, time_of_day};
use crate::config::{Config, Get};
use crate::storage::log::Bounds;
use crate::storage::store::{Store, Unusable};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::path::Path;
use std::time::Instant;

/// Fewest bytes that a shard's log can do with: its segments in reserve and some to clean.
const LEAST: u64 = 640 << 20;

/// The store that the configuration names, if it names one.
pub(super) fn open(config: &Config, shards: u8) -> Result<Option<Store>, Failure> {
    let path = &*config.storage.path;
    if path.is_empty() {
        if config.mqtt.session_expiry.max.get().is_none_or(|most| !most.is_zero()) {
            tracing::info!(
                "storage.path is empty: sessions and retained messages do not survive a restart"
            );
        }
        return Ok(None);
    }
    if let Some(most) = config.storage.max_bytes.get()
        && most / u64::from(shards) < LEAST
    {
        return Err(Failure::new(format!(
            "storage.max_bytes: {shards} shards need at least {} MiB",
            u64::from(shards) * (LEAST >> 20)
        )));
    }
    let random = std::hash::RandomState::new();
    let fresh = [random.hash_one(1), random.hash_one(2)];
    Store::open(Path::new(path), shards, fresh).map(Some).map_err(Failure::new)
}

/// What the store has for each shard.
pub(super) fn read(
    store: Option<&Store>,
    config: &Config,
    shards: u8,
    clock: Clock,
) -> Result<VecDeque<Stored>, Failure> {
    let Some(store) = store else { return Ok(VecDeque::new()) };
    let bounds = Bounds {
        disk: config.storage.max_bytes.get().map_or(u64::MAX, |most| most / u64::from(shards)),
        gather: config.storage.gather.get().as_micros() as u64,
        ..Bounds::BROKER
    };
    let began = Instant::now();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..shards).map(|shard| scope.spawn(move || store.resume(shard, bounds))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let wall = time_of_day().as_millis() as u64 - clock.nanos() / 1_000_000;
    let mut stored = VecDeque::new();
    let (mut sessions, mut messages, mut retained) = (0, 0, 0);
    for (shard, part) in parts.into_iter().enumerate() {
        let part = part
            .unwrap_or_else(|_| Err(Unusable::new("reading it panicked")))
            .map_err(Failure::new)?;
        if let Some((segment, byte)) = part.torn {
            tracing::warn!(
                shard,
                segment,
                byte,
                "storage: the last batch was torn by a crash and is dropped; nobody was told of it"
            );
        }
        sessions += part.image.sessions.len();
        messages += part.image.messages.len();
        retained += part.image.retained.len();
        stored.push_back(Stored { part, secret: store.secret(), wall });
    }
    let millis = began.elapsed().as_millis() as u64;
    tracing::info!(sessions, messages, retained, millis, "storage read");
    Ok(stored)
}
