//! The identifiers that the planes exchange. They are plain values, whose only behaviour is
//! packing. Any thread may hold them.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;

/// A shard's number: `0..shards`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u8);

/// A socket of one shard's driver: a dense index that is used again after the socket is closed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SocketId(pub u32);

/// A listener's position in the set of running listeners. Never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerId(pub u16);

/// The place of a session on its home shard, with the generation that tells a reused place apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionRef {
    /// The home shard.
    pub shard: ShardId,
    /// Index in the home shard's slab.
    pub index: u32,
    /// Generation of that index.
    pub generation: u32,
}

/// A ClientId in eight bytes: its keyed hash. All sessions of a client have the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientKey(pub NonZeroU64);

impl ClientKey {
    /// Makes a key from the hash of a ClientId. A hash of 0 becomes 1.
    pub fn new(hash: u64) -> Self {
        ClientKey(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
    }
}

/// Who published a message. It names the client, not a session: a retained or will message outlives
/// the session that published it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publisher {
    /// The client.
    pub client: ClientKey,
    /// Its home shard.
    pub shard: ShardId,
}

/// A set of shards, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShardSet(pub u128);

impl ShardSet {
    /// No shard.
    pub const EMPTY: ShardSet = ShardSet(0);

    /// Only this shard.
    pub fn only(shard: ShardId) -> Self {
        ShardSet(1 << shard.0)
    }

    /// The shards whose numbers are below `end`, which must be below 128.
    pub fn below(end: u8) -> Self {
        ShardSet((1 << end) - 1)
    }

    /// True when no shard is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True when `shard` is in it.
    pub fn contains(self, shard: ShardId) -> bool {
        self.0 & (1 << shard.0) != 0
    }

    /// Adds a shard.
    pub fn insert(&mut self, shard: ShardId) {
        self.0 |= 1 << shard.0;
    }

    /// Removes a shard.
    pub fn remove(&mut self, shard: ShardId) {
        self.0 &= !(1 << shard.0);
    }

    /// The shards in it, beginning with the lowest whose number is `first` or more; then those
    /// below, lowest first.
    pub fn iter_from(self, first: u8) -> impl Iterator<Item = ShardId> {
        let below = ShardSet(self.0 & ShardSet::below(first).0);
        ShardSet(self.0 & !below.0).iter().chain(below.iter())
    }

    /// The shards in it, lowest first.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let lowest = rest.trailing_zeros() as u8;
            rest &= rest - 1;
            Some(ShardId(lowest))
        })
    }
}

/// The address of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A TCP peer.
    Tcp(IpAddr, u16),
    /// The peer of a unix socket.
    Unix,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Peer::Tcp(address.ip().to_canonical(), address.port())
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(ip, port) => SocketAddr::new(*ip, *port).fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}
