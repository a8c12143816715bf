//! Faults of the machine and of peers against a real broker: what is promised must hold, nobody
//! else may notice much, and everything must be as before when the fault is over.
//!
//! The suite takes about a minute. `RINGMQ_KERNEL_LONG=1` (or `scripts/faults`) makes the faults
//! last as long as they do in the field: a full mailbox for three minutes, not for eight seconds.
//! With `--nocapture` each test prints its figures, in lines that begin with `figure:`.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod disk;
mod exhausted;
mod half_open;
mod handshakes;
mod late;
mod ledger;
mod line;
mod log;
mod long_queue;
mod mailbox;
mod panicking;
mod probe;
mod reset;
mod service_manager;
mod starved;
mod stopped;
mod storage;
mod storage_faults;
mod store_tools;
mod unread;
mod upgrade;
mod upgrade_kills;

use std::time::Duration;

/// How long a fault lasts: in every run, and in the long one.
fn lasting(short: u64, long: u64) -> Duration {
    let chosen = if std::env::var_os("RINGMQ_KERNEL_LONG").is_some() { long } else { short };
    Duration::from_secs(chosen)
}
