//! What all shards share about addresses: how many connections come from each network and how fast,
//! which networks show wrong credentials, and who is banned. The table is shared because the
//! connections of one address are on all shards.
//!
//! The table has 16 parts, each behind a mutex that is held for a few look-ups. A mutex is taken
//! when a connection comes or goes, and only if addresses have limits or someone is banned; never
//! for a message.
#![allow(clippy::disallowed_types, reason = "an address's connections are on all shards")]

use super::bans::{Counted, Trigger, WatchedKeys};
use super::bucket::Bucket;
use super::limits::AddressLimits;
use crate::mutant::Mutant;
use hashbrown::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Parts of the table.
const PARTS: usize = 16;
/// Networks that one part holds. When it is full, connections from further networks are accepted
/// without being counted.
pub const NETWORKS: usize = 65_536;
/// Bans that one part holds. When it is full, further bans have no effect.
pub const BANS: usize = 8192;

/// A network of addresses that are counted together, by its first address as IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SourceNetwork(u128);

impl SourceNetwork {
    /// The network of an address.
    pub fn of(address: IpAddr, limits: &AddressLimits) -> SourceNetwork {
        let kept = |bits: u128, width: u32, prefix: u8| {
            let off = width.saturating_sub(u32::from(prefix));
            bits.checked_shr(off).and_then(|bits| bits.checked_shl(off)).unwrap_or(0)
        };
        SourceNetwork(match address {
            IpAddr::V4(v4) => {
                // The address is mapped to IPv6, so that the two families cannot be mistaken for
                // each other.
                kept(v4.to_bits().into(), 32, limits.prefix_v4) | 0xffff << 32
            }
            IpAddr::V6(v6) => kept(v6.to_bits(), 128, limits.prefix_v6),
        })
    }
}

impl SourceNetwork {
    /// The network of this address alone.
    pub fn whole(address: IpAddr) -> SourceNetwork {
        let limits = AddressLimits { prefix_v4: 32, prefix_v6: 128, ..AddressLimits::default() };
        SourceNetwork::of(address, &limits)
    }

    /// The first address of the network.
    pub fn address(self) -> IpAddr {
        std::net::Ipv6Addr::from_bits(self.0).to_canonical()
    }
}

/// The subject of a ban.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Banned {
    /// A network.
    Address(SourceNetwork),
    /// A ClientId.
    Client(Box<str>),
    /// A user name.
    User(Box<str>),
}

impl Banned {
    /// The kind, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Banned::Address(_) => "address",
            Banned::Client(_) => "client_id",
            Banned::User(_) => "username",
        }
    }
}

/// Why one more connection from an address is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TooMany {
    /// The network has as many connections as it may have.
    Connections,
    /// Connections from the network come too fast.
    Rate,
}

#[derive(Default)]
struct SourceUse {
    connections: u32,
    rate: Bucket,
}

#[derive(Default)]
struct SourcePart {
    networks: HashMap<SourceNetwork, SourceUse, foldhash::fast::FixedState>,
    wrong: WatchedKeys<SourceNetwork>,
    bans: HashMap<Banned, u64, foldhash::fast::FixedState>,
    /// The time of the next search for unused networks, in nanoseconds.
    swept: u64,
    /// How often the networks were forgotten, less a multiple of [`SourceMark::MOST`].
    forgotten: u8,
}

impl SourceMark {
    /// The largest number of a mark.
    const MOST: u8 = 127;

    /// The mark as a number below 128.
    pub fn number(self) -> u8 {
        self.0.map_or(0, NonZeroU8::get)
    }

    /// The mark with that number.
    pub fn numbered(number: u8) -> SourceMark {
        SourceMark(NonZeroU8::new(number))
    }
}

impl SourcePart {
    /// The mark of a connection that is counted now.
    fn mark(&self) -> SourceMark {
        SourceMark(Some(NonZeroU8::MIN.saturating_add(self.forgotten)))
    }
}

/// Whether a connection is counted for its network, so that its end takes away what its beginning
/// has added and nothing else. It says how often the networks had been forgotten by then; `None`
/// for a connection that is not counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SourceMark(Option<NonZeroU8>);

/// The table of networks and bans.
#[derive(Default)]
pub struct SourceTable {
    parts: [Mutex<SourcePart>; PARTS],
    known: AtomicU64,
    bans: AtomicU64,
}

impl SourceTable {
    fn part(&self, source: SourceNetwork) -> &Mutex<SourcePart> {
        let folded = source.0 ^ source.0 >> 64;
        let mixed = (folded as u64 ^ folded as u64 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.parts[(mixed >> 60) as usize % PARTS]
    }

    fn with<T>(&self, part: &Mutex<SourcePart>, look: impl FnOnce(&mut SourcePart) -> T) -> T {
        // No code panics with the lock held; if one did, the tables would still be usable.
        let mut part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (known, bans) = (part.networks.len() as u64, part.bans.len() as u64);
        let outcome = look(&mut part);
        let shift = |sum: &AtomicU64, before: u64, after: usize| {
            sum.fetch_add((after as u64).wrapping_sub(before), Relaxed);
        };
        shift(&self.known, known, part.networks.len());
        shift(&self.bans, bans, part.bans.len());
        outcome
    }

    /// How many networks the table has.
    pub fn known(&self) -> u64 {
        self.known.load(Relaxed)
    }

    /// How many bans the table has, including those that are over and were not looked up since.
    pub fn bans(&self) -> u64 {
        self.bans.load(Relaxed)
    }

    /// Counts one more connection from a network, at `now` nanoseconds. The default mark says that
    /// the connection is accepted without being counted, because the table is full.
    ///
    /// # Errors
    /// [`TooMany`], when the connection exceeds a limit.
    pub fn enter(
        &self,
        source: SourceNetwork,
        now: u64,
        by: &AddressLimits,
    ) -> Result<SourceMark, TooMany> {
        self.with(self.part(source), |part| {
            let mark = part.mark();
            if part.networks.len() >= NETWORKS && !part.networks.contains_key(&source) {
                if part.swept <= now {
                    part.networks
                        .retain(|_, known| known.connections > 0 || !known.rate.is_full(now));
                    part.swept = now + 1_000_000_000;
                }
                if part.networks.len() >= NETWORKS {
                    return Ok(SourceMark::default());
                }
            }
            let known = part.networks.entry(source).or_default();
            if by.connections.is_some_and(|most| known.connections >= most) {
                return Err(TooMany::Connections);
            }
            if let Some(rate) = by.connects_per_second {
                known.rate.take(now, 1, rate.into()).map_err(|_| TooMany::Rate)?;
            }
            known.connections += 1;
            Ok(mark)
        })
    }

    /// Counts one connection from a network less, at `now` nanoseconds, if `mark` says that it was
    /// counted and the networks have not been forgotten since.
    pub fn leave(&self, source: SourceNetwork, mark: SourceMark, now: u64) {
        if mark == SourceMark::default() || Mutant::AddressNotLeft.is_on() {
            return;
        }
        self.with(self.part(source), |part| {
            if mark != part.mark() {
                return;
            }
            let Some(known) = part.networks.get_mut(&source) else { return };
            known.connections = known.connections.saturating_sub(1);
            if known.connections == 0 && known.rate.is_full(now) {
                part.networks.remove(&source);
            }
        });
    }

    /// Forgets all networks, because their prefix lengths change. Existing connections are no
    /// longer counted. Bans of addresses hold on, for the networks that `limits` says.
    pub fn forget_networks(&self, limits: &AddressLimits) {
        let mut bans = Vec::new();
        for part in &self.parts {
            self.with(part, |part| {
                part.networks.clear();
                part.forgotten = (part.forgotten + 1) % SourceMark::MOST;
                bans.extend(part.bans.extract_if(|who, _| matches!(who, Banned::Address(_))));
            });
        }
        for (who, until) in bans {
            let Banned::Address(source) = who else { continue };
            let who = Banned::Address(SourceNetwork::of(source.address(), limits));
            self.with(self.part_of(&who), |part| {
                // There was room for all of them, though perhaps in another part.
                let known = part.bans.entry(who).or_insert(until);
                *known = until.max(*known);
            });
        }
    }

    /// The number of connections from a network. For checks.
    pub fn connections(&self, source: SourceNetwork) -> u32 {
        self.with(self.part(source), |part| part.networks.get(&source).map_or(0, |k| k.connections))
    }

    /// Counts wrong credentials from a network, at `now` milliseconds.
    pub fn wrong(&self, source: SourceNetwork, now: u64, trigger: &Trigger) -> Counted {
        self.with(self.part(source), |part| part.wrong.count(source, now, trigger))
    }

    /// What one part of the table has counted that may lead to bans: for each network when its
    /// window began, in milliseconds, and how often it was counted since. `None` when there is no
    /// such part.
    pub fn offences(&self, part: usize) -> Option<Vec<(SourceNetwork, (u64, u32))>> {
        let part = self.parts.get(part)?;
        let counted = |part: &mut SourcePart| {
            part.wrong.listed().map(|(&who, counted)| (who, counted)).collect()
        };
        Some(self.with(part, counted))
    }

    /// Goes on with what another process has counted.
    pub fn adopt_offence(&self, source: SourceNetwork, counted: (u64, u32)) {
        self.with(self.part(source), |part| part.wrong.adopt(source, counted));
    }

    /// Adds a ban from `now` to `until`, in milliseconds; false when there is no room for it.
    pub fn ban(&self, who: Banned, now: u64, until: u64) -> bool {
        self.with(self.part_of(&who), |part| {
            if part.bans.len() >= BANS {
                part.bans.retain(|_, until| *until > now);
            }
            let room = part.bans.len() < BANS || part.bans.contains_key(&who);
            if room {
                part.bans.insert(who, until);
            }
            room
        })
    }

    /// Whether `who` is banned at `now` milliseconds. A ban that is over is removed.
    pub fn is_banned(&self, who: &Banned, now: u64) -> bool {
        if self.bans() == 0 || Mutant::BanIgnored.is_on() {
            return false;
        }
        self.with(self.part_of(who), |part| {
            let Some(&until) = part.bans.get(who) else { return false };
            let over = until <= now && !Mutant::BanForever.is_on();
            if over {
                part.bans.remove(who);
            }
            !over
        })
    }

    /// Ends a ban; false when there is none at `now` milliseconds.
    pub fn lift(&self, who: &Banned, now: u64) -> bool {
        let part = self.part_of(who);
        self.bans() > 0 && self.with(part, |part| part.bans.remove(who).is_some_and(|at| at > now))
    }

    /// The bans of one part of the table that are in force at `now` milliseconds, with the end of
    /// each in milliseconds; `None` when there is no such part.
    pub fn listed(&self, part: usize, now: u64) -> Option<Vec<(Banned, u64)>> {
        let part = self.parts.get(part)?;
        let live = |(who, &until): (&Banned, &u64)| (until > now).then(|| (who.clone(), until));
        Some(self.with(part, |part| part.bans.iter().filter_map(live).collect()))
    }

    fn part_of(&self, who: &Banned) -> &Mutex<SourcePart> {
        match who {
            Banned::Address(source) => self.part(*source),
            Banned::Client(name) | Banned::User(name) => {
                let sum = |sum: u128, byte| (sum ^ u128::from(byte)).wrapping_mul(0x100_0000_01b3);
                self.part(SourceNetwork(name.bytes().fold(0xcbf2_9ce4_8422_2325, sum)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceNetwork {
        SourceNetwork::of(text.parse().expect("an address"), &AddressLimits::default())
    }

    const COUNTED: SourceMark = SourceMark(Some(NonZeroU8::MIN));

    const TWO: AddressLimits = AddressLimits {
        connections: Some(2),
        connects_per_second: Some(3),
        prefix_v4: 32,
        prefix_v6: 64,
    };

    #[test]
    fn addresses_of_a_network_are_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        let wide = AddressLimits { prefix_v4: 24, prefix_v6: 0, ..TWO };
        let of = |text: &str| SourceNetwork::of(text.parse().expect("an address"), &wide);
        assert_eq!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("::2"));
        assert_ne!(of("0.0.0.0"), of("::"));
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more_per_second() {
        let sources = SourceTable::default();
        let (here, there) = (source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(sources.enter(here, 0, &TWO), Ok(COUNTED));
        assert_eq!(sources.enter(here, 0, &TWO), Ok(COUNTED));
        assert_eq!(sources.enter(here, 0, &TWO), Err(TooMany::Connections));
        assert_eq!(sources.enter(there, 0, &TWO), Ok(COUNTED));
        sources.leave(here, COUNTED, 0);
        assert_eq!(sources.enter(here, 0, &TWO), Ok(COUNTED));
        sources.leave(here, COUNTED, 0);
        assert_eq!(sources.enter(here, 0, &TWO), Err(TooMany::Rate));
        for source in [here, there, there] {
            sources.leave(source, COUNTED, 9_000_000_000);
        }
        assert_eq!(sources.known(), 0, "nothing is kept of who is gone");
        sources.leave(here, COUNTED, 0);
    }

    #[test]
    fn only_a_connection_that_is_counted_is_counted_off() {
        let sources = SourceTable::default();
        let here = source("192.0.2.1");
        assert_eq!(sources.enter(here, 0, &TWO), Ok(COUNTED));
        sources.leave(here, SourceMark::default(), 0);
        assert_eq!(sources.connections(here), 1, "an uncounted one leaves the count as it is");
        sources.forget_networks(&TWO);
        let mark = sources.enter(here, 0, &TWO).expect("nobody is known");
        sources.leave(here, COUNTED, 0);
        assert_eq!(sources.connections(here), 1, "and so does one that was forgotten");
        sources.leave(here, mark, 9_000_000_000);
        assert_eq!(sources.known(), 0);
    }

    #[test]
    fn bans_of_addresses_hold_on_when_networks_become_others() {
        let sources = SourceTable::default();
        let wide = AddressLimits { prefix_v4: 24, ..TWO };
        assert!(sources.ban(Banned::Address(source("192.0.2.7")), 0, 1000));
        assert!(sources.ban(Banned::Address(source("192.0.2.8")), 0, 2000));
        assert!(sources.ban(Banned::Client("c".into()), 0, 1000));
        sources.forget_networks(&wide);
        let of = |text: &str| SourceNetwork::of(text.parse().expect("an address"), &wide);
        assert!(sources.is_banned(&Banned::Address(of("192.0.2.200")), 1999));
        assert!(!sources.is_banned(&Banned::Address(of("192.0.3.7")), 0));
        assert_eq!(sources.bans(), 2);
    }

    #[test]
    fn a_ban_ends_with_its_time() {
        let sources = SourceTable::default();
        let who = Banned::Client("c".into());
        assert!(sources.ban(who.clone(), 0, 1000));
        assert!(sources.is_banned(&who, 999));
        assert!(!sources.is_banned(&Banned::Client("d".into()), 999));
        assert!(!sources.is_banned(&who, 1000));
        assert_eq!(sources.bans(), 0);
    }

    #[test]
    fn the_tables_are_bounded() {
        let sources = SourceTable::default();
        let one = |number: u32| SourceNetwork(u128::from(number));
        let mut counted = 0;
        for number in 0..(PARTS * NETWORKS + 100_000) as u32 {
            counted += usize::from(sources.enter(one(number), 0, &TWO) == Ok(COUNTED));
        }
        assert!(counted <= PARTS * NETWORKS);
        let room = (0..(PARTS * BANS + 10_000) as u32)
            .filter(|&n| sources.ban(Banned::Address(one(n)), 0, 10));
        assert!(room.count() <= PARTS * BANS);
        assert!(sources.ban(Banned::Address(one(u32::MAX)), 10, 20), "old ones make room");
    }
}
