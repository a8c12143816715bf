//! What the integration tests share: a broker started as a process, and an MQTT client of our own.
//!
//! The client has its own encoder and decoder on purpose: a mistake in the broker's codec must not
//! be repeated by the test that should find it. The decoder checks every rule that binds a server,
//! so each test also checks the form of whatever the broker sends.
#![allow(dead_code, unused_imports, missing_docs)]

pub mod broker;
pub mod client;
pub mod http;
pub mod incoming;
pub mod nodes;
pub mod packet;
pub mod tunnel;
pub mod web;
pub mod wire;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use broker::Broker;
pub use client::{Client, Connect, Next};
pub use incoming::Incoming;
pub use packet::{Ack, AckKind, ConnAck, Packet, Property, Publish, Subscribe, reason, user};
pub use wire::{Version, Version::V5, Version::V31, Version::V311, Writer};

/// How long a test waits for something that must come: 10 s, or `RINGMQ_TEST_PATIENCE` seconds.
pub fn patience() -> Duration {
    static PATIENCE: OnceLock<Duration> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let seconds = std::env::var("RINGMQ_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(10))
    })
}

/// A file or a directory of a test among the temporary ones; it is gone with the value.
pub struct Temporary(PathBuf);

impl Temporary {
    /// A name that no other test uses, where nothing is yet.
    pub fn named(name: &str) -> Temporary {
        Temporary(std::env::temp_dir().join(unique(name)))
    }

    pub fn file(name: &str, text: &str) -> Temporary {
        let file = Temporary::named(name);
        std::fs::write(&file.0, text).expect("a temporary file");
        file
    }

    /// A program for `sh`. Another process writes it: one that a test starts at this moment would
    /// have a file open that this process writes, which then is no program yet (`ETXTBSY`).
    pub fn program(name: &str, script: &str) -> Temporary {
        let file = Temporary::named(name);
        let made = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&file.0)
            .arg(script)
            .status();
        assert!(made.expect("sh runs").success());
        file
    }
}

impl Deref for Temporary {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = if self.is_dir() {
            std::fs::remove_dir_all(&self.0)
        } else {
            std::fs::remove_file(&self.0)
        };
    }
}

/// How long a test listens for something that must not come, where no barrier can say so.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A name no other test uses: client ids and topics, so that tests can share a broker.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{n}", std::process::id())
}

/// 3.1.1 and 5.0, naming the one under test in the captured output of a failing test.
pub fn both() -> impl Iterator<Item = Version> {
    named(&[V311, V5])
}

/// 3.1, 3.1.1 and 5.0.
pub fn all() -> impl Iterator<Item = Version> {
    named(&[V31, V311, V5])
}

/// Runs every case of a table, and fails with the list of all that failed.
#[track_caller]
pub fn each<T>(cases: impl IntoIterator<Item = (String, T)>, run: impl Fn(T)) {
    let mut failed = Vec::new();
    for (name, case) in cases {
        let run = std::panic::AssertUnwindSafe(|| run(case));
        if std::panic::catch_unwind(run).is_err() {
            println!("failed: {name}");
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{} cases failed: {failed:#?}", failed.len());
}

fn named(versions: &'static [Version]) -> impl Iterator<Item = Version> {
    versions.iter().copied().inspect(|version| println!("version: {version:?}"))
}

/// Waits until what was acknowledged has reached the other shards: a message is acknowledged when
/// their mailboxes have it, and no packet tells when they have taken it out. Only needed before a
/// test does something that would change how the message is treated there.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(400));
}

/// Held by tests that load the machine and by tests that measure time, so that they do not meet.
pub fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed with it has left nothing behind.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls until `ready`, and panics with `what` when that takes longer than `PATIENCE`.
#[track_caller]
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < patience(), "did not happen in {:?}: {what}", patience());
        std::thread::sleep(Duration::from_millis(20));
    }
}
