//! Temporary bans: those that the broker made, and those of the operator. The bans of the ban file
//! are not among them.

use crate::limits::cost;
use crate::overload::sources::{Banned, SourceNetwork};
use crate::shard::Shard;
use crate::time::Instant;
use std::net::IpAddr;

/// Whom a ban is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BanTarget {
    /// An address, or the network that counts as one (`limits.address`).
    Address(IpAddr),
    /// A ClientId.
    Client(Box<str>),
    /// A user name.
    User(Box<str>),
}

impl Shard {
    fn banned(&self, who: &BanTarget) -> Banned {
        match who {
            BanTarget::Address(address) => {
                let limits = &self.settings.policy.limits.address;
                Banned::Address(SourceNetwork::of(address.to_canonical(), limits))
            }
            BanTarget::Client(name) => Banned::Client(name.clone()),
            BanTarget::User(name) => Banned::User(name.clone()),
        }
    }

    /// Bans an address, ClientId or user name for this many seconds, on all shards. A client that
    /// is connected stays connected. False when there are too many bans.
    pub fn ban(&mut self, who: &BanTarget, seconds: u32) -> bool {
        self.meter.charge(cost::FILTER);
        let until = self.now.plus_seconds(seconds).0;
        self.topology.shared.sources.ban(self.banned(who), self.now.0, until)
    }

    /// Ends a ban; false when there is none.
    pub fn lift_ban(&mut self, who: &BanTarget) -> bool {
        self.meter.charge(cost::FILTER);
        self.topology.shared.sources.lift(&self.banned(who), self.now.0)
    }

    /// The bans that are not over, each with its end, in one of `0..PARTS` parts; `None` past the
    /// last part.
    pub fn bans(&mut self, part: usize) -> Option<Vec<(BanTarget, Instant)>> {
        let listed = self.topology.shared.sources.listed(part, self.now.0)?;
        self.meter.charge(cost::VISIT * listed.len() as u32);
        let shown = |(who, until)| {
            let who = match who {
                Banned::Address(source) => BanTarget::Address(source.address()),
                Banned::Client(name) => BanTarget::Client(name),
                Banned::User(name) => BanTarget::User(name),
            };
            (who, Instant(until))
        };
        Some(listed.into_iter().map(shown).collect())
    }
}
