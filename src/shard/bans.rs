//! Who may not connect, and how many connections one address has. This module owns the counts of
//! ClientIds of this shard that connect too often. All bans, and what is counted of addresses, are
//! common to all shards ([`crate::overload::sources`]).

use super::Shard;
use super::refuse::Denial;
use crate::ids::{ClientKey, Peer, ShardId, SocketId};
use crate::mutant::Mutant;
use crate::overload::bans::{Counted, WatchedKeys};
use crate::overload::limits::AddressLimits;
use crate::overload::sources::{Banned, SourceMark, SourceNetwork, TooMany};
use crate::time::Instant;
use crate::upgrade::frame::Ban;

/// How often the ClientId with that key has connected, since when.
pub type ClientOffence = (u64, (Instant, u32));
/// How often a network has shown wrong credentials, since when.
pub type NetworkOffence = (Banned, (Instant, u32));

/// Milliseconds between two log lines about new bans.
const TOLD: u64 = 1000;

/// The ClientIds of this shard whose connects are counted.
#[derive(Default)]
pub(super) struct Offenders {
    connects: WatchedKeys<ClientKey>,
    /// When a ban was last logged, and how many bans were left out since.
    logged: Instant,
    left_out: u64,
}

impl Shard {
    /// The network that limits and bans of addresses count a peer to; `None` for peers to which
    /// neither applies: trusted proxies and unix sockets.
    fn source_of(&self, peer: Peer) -> Option<SourceNetwork> {
        let Peer::Tcp(address, _) = peer else { return None };
        let trusted = self.settings.trusted_proxies.contains(address);
        (!trusted).then(|| SourceNetwork::of(address, &self.settings.policy.limits.address))
    }

    /// Counts one more connection of a peer's network, or says why there may not be one more.
    pub(super) fn take_source(&mut self, peer: Peer) -> Result<SourceMark, Denial> {
        let policy = &self.settings.policy;
        let limited = policy.limits.address.any();
        if !limited && policy.banned.is_empty() && self.topology.shared.sources.bans() == 0 {
            return Ok(SourceMark::default());
        }
        let Some(source) = self.source_of(peer) else { return Ok(SourceMark::default()) };
        let Peer::Tcp(address, _) = peer else { return Ok(SourceMark::default()) };
        let banned = policy.banned.has_address(address);
        if banned || self.topology.shared.sources.is_banned(&Banned::Address(source), self.now.0) {
            return Err(Denial::Banned);
        }
        if !limited {
            return Ok(SourceMark::default());
        }
        let within = policy.limits.address;
        self.count_source(source, &within).map_err(|why| match why {
            TooMany::Connections => Denial::AddressLimit,
            TooMany::Rate => Denial::AddressRate,
        })
    }

    fn count_source(
        &mut self,
        source: SourceNetwork,
        within: &AddressLimits,
    ) -> Result<SourceMark, TooMany> {
        let now = self.meter.begun() * 1000;
        let mark = self.topology.shared.sources.enter(source, now, within)?;
        self.counters.addresses_uncounted += u64::from(mark == SourceMark::default());
        Ok(mark)
    }

    /// Counts a connection that another process has admitted, whatever the limits and bans are now:
    /// the connection stays.
    pub(super) fn adopt_source(&mut self, peer: Peer) -> SourceMark {
        if !self.settings.policy.limits.address.any() {
            return SourceMark::default();
        }
        let Some(source) = self.source_of(peer) else { return SourceMark::default() };
        self.count_source(source, &AddressLimits::default()).unwrap_or_default()
    }

    /// A connection from an address, which `mark` says was counted or not, is gone.
    pub(super) fn leave_source(&self, peer: Peer, mark: SourceMark) {
        // The proxies that are trusted may be others than when the connection was counted.
        if mark != SourceMark::default()
            && let Peer::Tcp(address, _) = peer
        {
            let source = SourceNetwork::of(address, &self.settings.policy.limits.address);
            self.topology.shared.sources.leave(source, mark, self.meter.begun() * 1000);
        }
    }

    /// Whether a client is banned by its ClientId or its user name.
    pub(super) fn is_banned(&self, client_id: &str, username: Option<&str>) -> bool {
        let banned = &self.settings.policy.banned;
        if !banned.is_empty()
            && (banned.has_client(client_id) || username.is_some_and(|name| banned.has_user(name)))
        {
            return true;
        }
        let sources = &self.topology.shared.sources;
        let is_banned = |who: &Banned| sources.is_banned(who, self.now.0);
        sources.bans() > 0
            && (is_banned(&Banned::Client(client_id.into()))
                || username.is_some_and(|name| is_banned(&Banned::User(name.into()))))
    }

    /// A client has connected. If it does so more often than `bans.flapping` allows, it is banned.
    pub(super) fn note_connect(&mut self, client_id: &str) {
        let trigger = self.settings.policy.bans.flapping;
        if trigger.count == 0 {
            return;
        }
        let key = self.topology.client_key(client_id);
        let counted = self.entrance.offenders.connects.count(key, self.now.0, &trigger);
        self.follow_count(counted, Banned::Client(client_id.into()), client_id, "flapping");
    }

    /// A client has shown wrong credentials. If that comes from its network more often than
    /// `bans.bad_credentials` allows, the network is banned.
    pub(super) fn note_bad_credentials(&mut self, socket: SocketId) {
        let trigger = self.settings.policy.bans.bad_credentials;
        let Some(connection) = self.connections.get(socket.0) else { return };
        let peer = connection.peer;
        if trigger.count == 0 {
            return;
        }
        let Some(source) = self.source_of(peer) else { return };
        let counted = self.topology.shared.sources.wrong(source, self.now.0, &trigger);
        let name = peer.to_string();
        self.follow_count(counted, Banned::Address(source), &name, "bad credentials");
    }

    /// The bans in one part of the table that all shards share; `None` past the last part.
    pub(super) fn packed_bans(&self, part: usize) -> Option<Vec<Ban>> {
        let listed = self.topology.shared.sources.listed(part, self.now.0)?;
        let ban = |(who, until)| Ban { who, until: Instant(until) };
        Some(listed.into_iter().map(ban).collect())
    }

    /// Takes over the bans of another process. Addresses are banned by the networks that are
    /// configured now.
    pub fn adopt_bans(&mut self, bans: Vec<Ban>) {
        for Ban { who, until } in bans {
            let who = match who {
                Banned::Address(source) => {
                    let limits = &self.settings.policy.limits.address;
                    Banned::Address(SourceNetwork::of(source.address(), limits))
                }
                named @ (Banned::Client(_) | Banned::User(_)) => named,
            };
            let room = self.topology.shared.sources.ban(who, self.now.0, until.0);
            self.counters.bans_unwatched += u64::from(!room);
        }
    }

    /// What was counted that may lead to bans: connects of ClientIds of this shard, and, on the
    /// first shard, what is counted of networks for all of them.
    pub(super) fn packed_offences(&self) -> (Vec<ClientOffence>, Vec<NetworkOffence>) {
        let counted = self.entrance.offenders.connects.listed();
        let clients =
            counted.map(|(client, (since, count))| (client.0.get(), (Instant(since), count)));
        let parts = (0..).take_while(|_| self.topology.id == ShardId(0));
        let parts = parts.map_while(|part| self.topology.shared.sources.offences(part));
        let networks = parts
            .flatten()
            .map(|(network, (since, count))| (Banned::Address(network), (Instant(since), count)));
        (clients.collect(), networks.collect())
    }

    /// Goes on with what another process has counted. Of clients, each shard gets the counts of
    /// all, and needs those of its own.
    pub fn adopt_offences(&mut self, clients: Vec<ClientOffence>, networks: Vec<NetworkOffence>) {
        if Mutant::UpgradeOffencesLost.is_on() {
            return;
        }
        for (client, (since, count)) in clients {
            let connects = &mut self.entrance.offenders.connects;
            connects.adopt(ClientKey::new(client), (since.0, count));
        }
        let limits = &self.settings.policy.limits.address;
        for (who, (since, count)) in networks {
            let Banned::Address(network) = who else { continue };
            let network = SourceNetwork::of(network.address(), limits);
            self.topology.shared.sources.adopt_offence(network, (since.0, count));
        }
    }

    fn follow_count(&mut self, counted: Counted, who: Banned, name: &str, why: &'static str) {
        let until = match counted {
            Counted::Fine => return,
            Counted::Unwatched => {
                self.counters.bans_unwatched += 1;
                return;
            }
            Counted::Ban(until) => until,
        };
        let kind = who.kind();
        match who {
            Banned::Address(_) => self.counters.bans_address += 1,
            // The broker itself bans no user names: anyone can show a wrong password for another's
            // name.
            Banned::Client(_) | Banned::User(_) => self.counters.bans_client += 1,
        }
        if !self.topology.shared.sources.ban(who, self.now.0, until) {
            self.counters.bans_unwatched += 1;
            return;
        }
        let offenders = &mut self.entrance.offenders;
        if offenders.logged.plus_millis(TOLD) > self.now && offenders.logged != Instant(0) {
            offenders.left_out += 1;
            return;
        }
        offenders.logged = self.now;
        let others = std::mem::take(&mut offenders.left_out);
        let seconds = until.saturating_sub(self.now.0) / 1000;
        tracing::warn!(kind, name, why, seconds, others, "banned (bans)");
    }
}
