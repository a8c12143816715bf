//! Frames between the two processes: four bytes with the body's length, one byte with the kind, and
//! the body. Descriptors travel beside [`UpgradeFrame::Files`], [`UpgradeFrame::Listener`] and
//! [`UpgradeFrame::Store`], and the receiver takes them in the order of the frames.

use super::client::{Early, MovedClient, Remainder};
use super::cluster::MovedNode;
use super::code::{BodyReader, Code, SecretBytes, make_room, record};
use crate::ids::{ListenerId, ShardId};
use crate::message::Message;
use crate::overload::sources::Banned;
use crate::time::Instant;

/// Bytes of a frame before its body.
pub const HEAD: usize = 5;
/// Bytes of the longest body. A client whose record is longer cannot move.
pub const LONGEST: usize = 256 << 20;

record! {
    /// The store that old has.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct StoreIs {
        /// The path of its directory.
        pub path: Box<str>,
        /// The number of its shards.
        pub shards: u8,
    }
}

record! {
    /// Old's first frame.
    #[derive(Clone)]
    pub struct Hello {
        /// The version of the protocol that old speaks.
        pub version: u16,
        /// The oldest version that old can speak.
        pub oldest: u16,
        /// The version of old's build.
        pub build: Box<str>,
        /// CLOCK_MONOTONIC in nanoseconds at the zero of old's clock.
        pub zero: u64,
        /// The placement secret, which keeps ClientIds that share a home together.
        pub secret: (u64, u64),
        /// The number of old's shards.
        pub shards: u8,
        /// Old's store, if it has one.
        pub store: Option<StoreIs>,
        /// The names of old's cluster and node, if it is in a cluster.
        pub node: Option<(Box<str>, Box<str>)>,
        /// Whether the sessions of old's cluster survive the loss of their node.
        pub durable: bool,
    }
}

record! {
    /// A listener.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct MovedListener {
        /// Old's number of the listener.
        pub id: ListenerId,
        /// Its name in the configuration.
        pub name: Box<str>,
        /// The address that it is bound to.
        pub bind: Box<str>,
        /// The number of its listening sockets, whose descriptors travel beside this frame.
        pub sockets: u16,
    }
}

record! {
    /// The totals of an upgrade.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct UpgradeTotals {
        /// Sessions.
        pub sessions: u64,
        /// Connections.
        pub connections: u64,
        /// Retained messages.
        pub retained: u64,
    }
}

impl std::fmt::Display for UpgradeTotals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let UpgradeTotals { sessions, connections, retained } = self;
        write!(f, "{sessions} sessions, {connections} connections and {retained} retained messages")
    }
}

impl UpgradeTotals {
    /// Adds these.
    pub fn add(&mut self, more: &UpgradeTotals) {
        self.sessions += more.sessions;
        self.connections += more.connections;
        self.retained += more.retained;
    }
}

record! {
    /// A client, user or address that may not connect for a while.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Ban {
        /// The banned client, user or address.
        pub who: Banned,
        /// When the ban ends.
        pub until: Instant,
    }
}

/// A frame, with the process that sends it.
pub enum UpgradeFrame {
    /// Old: its greeting.
    Hello(Hello),
    /// Either: the sender gives the upgrade up, for this reason.
    Refused(Box<str>),
    /// New: it has started with this number of shards.
    Ready(u8),
    /// Old: a listener.
    Listener(MovedListener),
    /// Old: the keys of a listener's TLS tickets.
    Tickets(ListenerId, SecretBytes),
    /// Old: new is to read the store, to which old writes meanwhile, as far as it goes now. The
    /// descriptor of the store's lock travels beside the first of these frames, and new answers
    /// each with [`UpgradeFrame::Taken`].
    Store,
    /// Old: everything in its store is durable, and nothing is written any more.
    Durable,
    /// Old: this number of sockets travels beside this frame, for the clients that follow.
    Files(u16),
    /// Old: a client.
    Client(Box<MovedClient>),
    /// Old: the copy of a client that old still serves.
    Early(Box<Early>),
    /// Old: the socket of the next client was copied by this shard, under this number.
    Known(ShardId, u32),
    /// Old: what has changed of a client that was copied.
    Rest(Box<Remainder>),
    /// Old: the copies of this shard with these numbers are of connections that have ended.
    Gone(ShardId, Vec<u32>),
    /// Old: this shard serves no more. Of its copies only those with these numbers are not what
    /// they should be: what has changed of them follows. It has so many retained messages.
    Stale(ShardId, Vec<u32>, u64),
    /// Old: retained messages, each with the accounts that it counts for, and its stamp on a node
    /// of a cluster. There, one without a payload says that its topic was cleared.
    Retained(Vec<((u64, u64), Message)>),
    /// Old: what was sent of the retained messages of these topics holds no more.
    Unretained(Vec<Box<str>>),
    /// Old: what this shard has counted that only grows, by the names of the counters.
    Counters(ShardId, Vec<(Box<str>, u64)>),
    /// Old: what it has counted that may lead to bans: of ClientIds, by their keys, and of
    /// networks.
    Offences(Vec<(u64, (Instant, u32))>, Vec<(Banned, (Instant, u32))>),
    /// Old: its bans.
    Bans(Vec<Ban>),
    /// Old: everything that it knows as a node of a cluster.
    Node(Box<MovedNode>),
    /// New: this many more clients have been taken in.
    Taken(u32),
    /// Old: everything was sent.
    All(UpgradeTotals),
    /// New: it has everything and can serve.
    Prepared(UpgradeTotals),
    /// Old: new may serve.
    Commit,
    /// New: it serves from now on.
    Committed,
}

/// The bytes are not a frame of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MalformedFrame;

impl UpgradeFrame {
    fn kind(&self) -> u8 {
        match self {
            UpgradeFrame::Hello(_) => 1,
            UpgradeFrame::Refused(_) => 2,
            UpgradeFrame::Ready(_) => 3,
            UpgradeFrame::Listener(_) => 4,
            UpgradeFrame::Files(_) => 5,
            UpgradeFrame::Client(_) => 6,
            UpgradeFrame::Retained(_) => 7,
            UpgradeFrame::Taken(_) => 8,
            UpgradeFrame::All(_) => 9,
            UpgradeFrame::Prepared(_) => 10,
            UpgradeFrame::Commit => 11,
            UpgradeFrame::Committed => 12,
            UpgradeFrame::Bans(_) => 13,
            UpgradeFrame::Store => 14,
            UpgradeFrame::Durable => 25,
            UpgradeFrame::Early(_) => 15,
            UpgradeFrame::Known(..) => 16,
            UpgradeFrame::Rest(_) => 17,
            UpgradeFrame::Tickets(..) => 18,
            UpgradeFrame::Gone(..) => 19,
            UpgradeFrame::Stale(..) => 20,
            UpgradeFrame::Counters(..) => 21,
            UpgradeFrame::Unretained(_) => 22,
            UpgradeFrame::Offences(..) => 23,
            UpgradeFrame::Node(_) => 24,
        }
    }

    /// Bytes of the frame's body.
    fn length(&self) -> usize {
        match self {
            UpgradeFrame::Hello(hello) => hello.length(),
            UpgradeFrame::Refused(why) => why.length(),
            UpgradeFrame::Ready(shards) => shards.length(),
            UpgradeFrame::Listener(listener) => listener.length(),
            UpgradeFrame::Files(count) => count.length(),
            UpgradeFrame::Client(client) => client.length(),
            UpgradeFrame::Early(early) => early.length(),
            UpgradeFrame::Known(from, number) => from.length() + number.length(),
            UpgradeFrame::Rest(rest) => rest.length(),
            UpgradeFrame::Gone(from, numbers) => from.length() + numbers.length(),
            UpgradeFrame::Stale(from, numbers, retained) => {
                from.length() + numbers.length() + retained.length()
            }
            UpgradeFrame::Tickets(listener, keys) => listener.length() + keys.length(),
            UpgradeFrame::Retained(messages) => messages.length(),
            UpgradeFrame::Counters(from, counted) => from.length() + counted.length(),
            UpgradeFrame::Unretained(topics) => topics.length(),
            UpgradeFrame::Offences(clients, networks) => clients.length() + networks.length(),
            UpgradeFrame::Bans(bans) => bans.length(),
            UpgradeFrame::Node(node) => node.length(),
            UpgradeFrame::Taken(count) => count.length(),
            UpgradeFrame::All(totals) | UpgradeFrame::Prepared(totals) => totals.length(),
            UpgradeFrame::Commit
            | UpgradeFrame::Committed
            | UpgradeFrame::Store
            | UpgradeFrame::Durable => 0,
        }
    }

    /// Appends the frame. If `out` has to move to larger memory, its former memory is wiped.
    ///
    /// # Errors
    /// Fails when the body is longer than [`LONGEST`]; then nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), MalformedFrame> {
        let length = self.length();
        if length > LONGEST {
            return Err(MalformedFrame);
        }
        make_room(out, HEAD + length);
        let [a, b, c, d] = (length as u32).to_le_bytes();
        out.extend_from_slice(&[a, b, c, d, self.kind()]);
        match self {
            UpgradeFrame::Hello(hello) => hello.put(out),
            UpgradeFrame::Refused(why) => why.put(out),
            UpgradeFrame::Ready(shards) => shards.put(out),
            UpgradeFrame::Listener(listener) => listener.put(out),
            UpgradeFrame::Files(count) => count.put(out),
            UpgradeFrame::Client(client) => client.put(out),
            UpgradeFrame::Early(early) => early.put(out),
            UpgradeFrame::Known(from, number) => {
                from.put(out);
                number.put(out);
            }
            UpgradeFrame::Rest(rest) => rest.put(out),
            UpgradeFrame::Gone(from, numbers) => {
                from.put(out);
                numbers.put(out);
            }
            UpgradeFrame::Stale(from, numbers, retained) => {
                from.put(out);
                numbers.put(out);
                retained.put(out);
            }
            UpgradeFrame::Tickets(listener, keys) => {
                listener.put(out);
                keys.put(out);
            }
            UpgradeFrame::Retained(messages) => messages.put(out),
            UpgradeFrame::Counters(from, counted) => {
                from.put(out);
                counted.put(out);
            }
            UpgradeFrame::Unretained(topics) => topics.put(out),
            UpgradeFrame::Offences(clients, networks) => {
                clients.put(out);
                networks.put(out);
            }
            UpgradeFrame::Bans(bans) => bans.put(out),
            UpgradeFrame::Node(node) => node.put(out),
            UpgradeFrame::Taken(count) => count.put(out),
            UpgradeFrame::All(totals) | UpgradeFrame::Prepared(totals) => totals.put(out),
            UpgradeFrame::Commit
            | UpgradeFrame::Committed
            | UpgradeFrame::Store
            | UpgradeFrame::Durable => {}
        }
        Ok(())
    }

    fn decode(kind: u8, bytes: &[u8]) -> Option<UpgradeFrame> {
        match kind {
            6 => {
                return MovedClient::decode(bytes)
                    .map(|client| UpgradeFrame::Client(Box::new(client)));
            }
            15 => return Early::decode(bytes).map(|early| UpgradeFrame::Early(Box::new(early))),
            17 => return Remainder::decode(bytes).map(|rest| UpgradeFrame::Rest(Box::new(rest))),
            _ => {}
        }
        let mut body = BodyReader::new(bytes);
        let from = &mut body;
        let frame = match kind {
            1 => UpgradeFrame::Hello(Hello::get(from)?),
            2 => UpgradeFrame::Refused(Code::get(from)?),
            3 => UpgradeFrame::Ready(u8::get(from).filter(|&shards| shards > 0)?),
            4 => UpgradeFrame::Listener(MovedListener::get(from)?),
            5 => UpgradeFrame::Files(u16::get(from)?),
            7 => UpgradeFrame::Retained(Vec::get(from)?),
            8 => UpgradeFrame::Taken(u32::get(from)?),
            9 => UpgradeFrame::All(UpgradeTotals::get(from)?),
            10 => UpgradeFrame::Prepared(UpgradeTotals::get(from)?),
            11 => UpgradeFrame::Commit,
            12 => UpgradeFrame::Committed,
            13 => UpgradeFrame::Bans(Vec::get(from)?),
            14 => UpgradeFrame::Store,
            25 => UpgradeFrame::Durable,
            18 => UpgradeFrame::Tickets(ListenerId::get(from)?, SecretBytes::get(from)?),
            16 => UpgradeFrame::Known(ShardId::get(from)?, u32::get(from)?),
            19 => UpgradeFrame::Gone(ShardId::get(from)?, Vec::get(from)?),
            20 => UpgradeFrame::Stale(ShardId::get(from)?, Vec::get(from)?, u64::get(from)?),
            23 => UpgradeFrame::Offences(Vec::get(from)?, Vec::get(from)?),
            22 => UpgradeFrame::Unretained(Vec::get(from)?),
            24 => UpgradeFrame::Node(Box::new(MovedNode::get(from)?)),
            21 => UpgradeFrame::Counters(ShardId::get(from)?, Vec::get(from)?),
            _ => return None,
        };
        Some(frame).filter(|_| body.is_empty())
    }

    /// The frame at the start of `bytes` and its length in bytes; `None` while it is incomplete.
    ///
    /// # Errors
    /// Fails when no frame of this version begins like that.
    pub fn read(bytes: &[u8]) -> Result<Option<(UpgradeFrame, usize)>, MalformedFrame> {
        let Some((&[a, b, c, d, kind], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > LONGEST {
            return Err(MalformedFrame);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = UpgradeFrame::decode(kind, body).ok_or(MalformedFrame)?;
        Ok(Some((frame, HEAD + length)))
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
