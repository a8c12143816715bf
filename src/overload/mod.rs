//! How much clients may use, and what is not done any more when the broker cannot keep up.
//!
//! - [`level`]: what is measured on one shard becomes a level, with hysteresis.
//! - [`pace`]: how many new connections per second the shard bears, found out by its lag.
//! - [`bucket`]: a token bucket.
//! - [`limits`]: which limits one client has, by its listener, its user name and its ClientId.
//! - [`accounts`]: how much is retained for the clients of a listener, or of an entry of
//!   `limits.users`.
//! - [`bans`]: who may not connect for a while, and what leads to that.
//! - [`sources`]: what all shards know of addresses: connections, rates, bans.
//!
//! Pure: the time is an argument. What a level or a limit means for a packet is in `shard`
//! (`shard/overload.rs`, `shard/limits.rs`, `shard/bans.rs`).

pub mod accounts;
pub mod bans;
pub mod bucket;
pub mod level;
pub mod limits;
pub mod pace;
pub mod sources;

pub use bans::{BanFile, BanRules};
pub use level::{OverloadLevel, Readings, Signal, Thresholds};
pub use limits::LimitRules;
pub use sources::SourceTable;

use std::sync::Arc;

/// What `limits:`, `overload:` and `bans:` say, as the shards want it.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Limits of clients and addresses.
    pub limits: LimitRules,
    /// When the broker counts as overloaded.
    pub overload: Thresholds,
    /// Where clients are sent that are refused because of overload; empty for nowhere.
    pub server_reference: Box<str>,
    /// What leads to a ban.
    pub bans: BanRules,
    /// Who is banned by the operator.
    pub banned: Arc<BanFile>,
}
