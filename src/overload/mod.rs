//! Limits of what clients may use, and the work that is left out when the broker cannot keep up.
//!
//! - [`level`]: turns what is measured on one shard into a level of overload, with hysteresis.
//! - [`pace`]: how many new connections per second the shard can accept, found from its lag.
//! - [`bucket`]: a token bucket.
//! - [`limits`]: the limits of one client, by its listener, its user name and its ClientId.
//! - [`accounts`]: how much the retained messages of a listener's clients take, or of the clients
//!   of an entry of `limits.users`.
//! - [`bans`]: who may not connect, for good or for a while, and what leads to a ban.
//! - [`sources`]: what all shards share about addresses: connections, rates, bans.
//!
//! Time is an argument, and there is no I/O. The effect of a level or a limit on a packet is in
//! `shard` (`shard/overload.rs`, `shard/limits.rs`, `shard/bans.rs`).

pub mod accounts;
pub mod bans;
pub mod bucket;
pub mod level;
pub mod limits;
pub mod pace;
pub mod sources;

pub use bans::{BanFile, BanRules};
pub use level::{OverloadLevel, OverloadSignal, SignalReadings, Thresholds};
pub use limits::LimitRules;
pub use sources::SourceTable;

use std::sync::Arc;

/// The sections `limits:`, `overload:` and `bans:` in the form that shards use.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Limits of clients and addresses.
    pub limits: LimitRules,
    /// The thresholds of overload.
    pub overload: Thresholds,
    /// The Server Reference for clients that are refused because of overload; empty for none.
    pub server_reference: Box<str>,
    /// What leads to a ban.
    pub bans: BanRules,
    /// The operator's bans.
    pub banned: Arc<BanFile>,
}
