//! The store at the start: opened, and read back by all shards at once.

use super::Failure;
use super::core::{Clock, time_of_day};
use crate::config::{Config, Durability, Get, StorageFailure, WithoutStreamPolicy};
use crate::ring::Doorbell;
use crate::shard::{Shard, Storing, home_of, retained_home};
use crate::storage::journal::WithoutStream;
use crate::storage::log::LogBounds;
use crate::storage::record::StoreSecret;
use crate::storage::rewrite::{Placed, rewrite};
use crate::storage::store::{EarlyPart, Store, StorePart, UnusableStore};
use crate::storage::writer::{Wake, Writer};
use crate::topic::{Seeds, TopicHash};
use crate::upgrade::frame::Hello;
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

/// Fewest bytes that a shard's log can do with: its segments in reserve and some to clean.
const LEAST: u64 = 640 << 20;
/// Bytes per shard that gather in memory while the disk fails, with `on_failure: degrade`.
const DEGRADED: usize = 256 << 20;

/// Who else has the files of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beside {
    /// Nobody.
    Nobody,
    /// The process that hands its clients over, and may yet go on with them.
    Predecessor,
}

/// What a shard with a store continues from.
pub(super) struct StoredShard {
    pub part: StorePart,
    pub secret: StoreSecret,
    /// Milliseconds since 1970 at the zero of the clock.
    pub wall: u64,
    /// Syncs come apart from writes.
    pub asynchronous: bool,
    /// Whether sessions are restored from it or handed over besides.
    pub beside: Beside,
    /// Whether what is stored goes to a stream of the cluster, too, and what happens without it.
    pub journal: Option<WithoutStream>,
}

/// The store at the start, and what it has for each shard. Nothing of a store that is handed over:
/// that comes later ([`take_over`]).
pub(super) fn begin(
    config: &Config,
    shards: u8,
    clock: Clock,
    continued: Option<&Hello>,
) -> Result<(Option<Store>, VecDeque<StoredShard>), Failure> {
    if continued.is_some() {
        return Ok((None, VecDeque::new()));
    }
    let store = open(config, shards)?;
    let stored = read(store.as_ref(), config, shards, clock, Beside::Nobody, Vec::new())?;
    Ok((store, stored))
}

/// The store that the configuration names, if it names one.
fn open(config: &Config, shards: u8) -> Result<Option<Store>, Failure> {
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
    let mut store = Store::open(Path::new(path), shards, fresh).map_err(Failure::new)?;
    if store.shards != shards {
        let from = store.shards;
        tracing::info!(from, to = shards, "storage is written anew for another number of shards");
        re_home(&mut store, shards).map_err(Failure::new)?;
    }
    Ok(Some(store))
}

/// Gives everything in the store to the shard that it is at home on among so many.
fn re_home(store: &mut Store, shards: u8) -> Result<(), UnusableStore> {
    let seeds = Seeds::stored(store.placement());
    let place = |placed: Placed<'_>, _| match placed {
        Placed::Session(client_id) => home_of(&seeds, client_id, shards).0,
        Placed::Topic(topic) => retained_home(&TopicHash::new(&seeds, topic), shards).0,
    };
    let images = store.images()?;
    rewrite(store, &images, shards, &place, false)
}

/// The store of the process that hands it over, if it is the one that the configuration names, with
/// as many shards.
///
/// # Errors
/// Why it cannot be taken over.
pub(super) fn take_over(config: &Config, shards: u8, lock: OwnedFd) -> Result<Store, String> {
    let path = Path::new(&*config.storage.path);
    let store = Store::handed_over(path, lock.into()).map_err(|unusable| unusable.to_string())?;
    if store.shards != shards {
        let known = store.shards;
        return Err(format!(
            "the store has {known} shards: with storage.path an upgrade keeps the number of cores, \
             here {shards}"
        ));
    }
    Ok(store)
}

/// Reads what the store has for each shard behind what was `read` before, while another process
/// writes to it. Those that could not be read as they are have nothing.
pub(super) fn read_early(
    store: &Store,
    shards: u8,
    read: Vec<Option<EarlyPart>>,
) -> Vec<Option<EarlyPart>> {
    let mut read = read.into_iter();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shards)
            .map(|shard| {
                let known = read.next().flatten();
                scope.spawn(move || store.read_early(shard, known))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    })
}

/// What the store has for each shard. `early`: what was read of it before, by shard.
pub(super) fn read(
    store: Option<&Store>,
    config: &Config,
    shards: u8,
    clock: Clock,
    beside: Beside,
    early: Vec<Option<EarlyPart>>,
) -> Result<VecDeque<StoredShard>, Failure> {
    let Some(store) = store else { return Ok(VecDeque::new()) };
    let bounds = bounds_of(config, shards);
    let began = Instant::now();
    let resume = |shard, known| match beside {
        Beside::Nobody => store.resume(shard, bounds),
        Beside::Predecessor => store.resume_beside(shard, bounds, known),
    };
    let mut early = early.into_iter();
    let parts: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shards)
            .map(|shard| {
                let known = early.next().flatten();
                scope.spawn(move || resume(shard, known))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let wall = time_of_day().as_millis() as u64 - clock.nanos() / 1_000_000;
    let mut stored = VecDeque::new();
    let (mut sessions, mut messages, mut retained) = (0, 0, 0);
    for (shard, part) in parts.into_iter().enumerate() {
        let part = part
            .unwrap_or_else(|_| Err(UnusableStore::new("reading it panicked")))
            .map_err(Failure::new)?;
        if let Some((segment, byte)) = part.torn {
            tracing::warn!(
                shard,
                segment,
                byte,
                "storage: the last batch was torn by a crash and is dropped; nobody was told of it"
            );
        }
        sessions += part.image.count();
        messages += part.image.messages.len();
        retained += part.image.retained.len();
        stored.push_back(StoredShard {
            part,
            secret: store.secret(),
            wall,
            asynchronous: bounds.interval.is_some(),
            beside,
            journal: journal_of(config),
        });
    }
    let millis = began.elapsed().as_millis() as u64;
    tracing::info!(sessions, messages, retained, millis, "storage read");
    Ok(stored)
}

/// How the logs of so many shards behave.
fn bounds_of(config: &Config, shards: u8) -> LogBounds {
    let bounds = LogBounds {
        disk: config.storage.max_bytes.get().map_or(u64::MAX, |most| most / u64::from(shards)),
        gather: config.storage.gather.get().as_micros() as u64,
        ..LogBounds::BROKER
    };
    let bounds = match config.storage.durability {
        Durability::Sync => bounds,
        Durability::Async => {
            let interval = Some(config.storage.interval.get().as_micros() as u64);
            LogBounds { gather: 0, interval, ..bounds }
        }
    };
    match config.storage.on_failure {
        StorageFailure::Refuse => bounds,
        StorageFailure::Degrade => LogBounds { degraded: DEGRADED, ..bounds },
    }
}

/// Whether what is stored goes to a stream of the cluster, and what happens without it.
fn journal_of(config: &Config) -> Option<WithoutStream> {
    let cluster = &config.cluster;
    (cluster.durable && !cluster.name.is_empty()).then_some(match cluster.without_stream {
        WithoutStreamPolicy::Local => WithoutStream::Local,
        WithoutStreamPolicy::Wait => WithoutStream::Wait,
    })
}

/// Gives the shard what was stored, and its log's files to a thread.
pub(super) fn go_on_with(
    stored: StoredShard,
    shard: &mut Shard,
    shards: u8,
    doorbell: Doorbell,
) -> Result<Writer, String> {
    let StoredShard { part, secret, wall, asynchronous, beside, journal } = stored;
    let StorePart { log, files, image, .. } = part;
    let mut storing = Storing::new(log, secret, (shard.id(), shards), wall, image.last);
    if let Some(policy) = journal {
        storing = storing.with_journal(policy);
    }
    match beside {
        Beside::Nobody => {
            shard.store_with(storing);
            shard.restore(image);
        }
        Beside::Predecessor => shard.store_with(storing.expecting(&image)),
    }
    let bell = doorbell.clone();
    let syncing = asynchronous.then(|| Box::new(move || bell.ring()) as Wake);
    Writer::start(shard.id().0, files, Box::new(move || doorbell.ring()), syncing)
        .map_err(|error| format!("cannot start a thread for storage: {error}"))
}
