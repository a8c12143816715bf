//! Frames between the two processes: four bytes with the body's length, one byte with the kind, and
//! the body. Descriptors travel beside [`Frame::Files`], [`Frame::Listener`] and [`Frame::Store`],
//! and the receiver takes them in the order of the frames.

use super::client::{Client, Early, Remainder};
use super::code::{Body, Code, Secret, make_room, record};
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
        /// Old's store, if it has one.
        pub store: Option<StoreIs>,
    }
}

record! {
    /// A listener.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Listener {
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
    pub struct Totals {
        /// Sessions.
        pub sessions: u64,
        /// Connections.
        pub connections: u64,
        /// Retained messages.
        pub retained: u64,
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
pub enum Frame {
    /// Old: its greeting.
    Hello(Hello),
    /// Either: the sender gives the upgrade up, for this reason.
    Refused(Box<str>),
    /// New: it has started with this number of shards.
    Ready(u8),
    /// Old: a listener.
    Listener(Listener),
    /// Old: the keys of a listener's TLS tickets.
    Tickets(ListenerId, Secret),
    /// Old: everything in its store is durable. The descriptor of the store's lock travels beside
    /// this frame.
    Store,
    /// Old: this number of sockets travels beside this frame, for the clients that follow.
    Files(u16),
    /// Old: a client.
    Client(Box<Client>),
    /// Old: the copied part of a client that old still serves.
    Early(Box<Early>),
    /// Old: the socket of the next client was copied by this shard, under this number.
    Known(ShardId, u32),
    /// Old: the rest of a client that was copied.
    Rest(Box<Remainder>),
    /// Old: retained messages, each with the accounts that it counts for.
    Retained(Vec<(u64, Message)>),
    /// Old: its bans.
    Bans(Vec<Ban>),
    /// New: this many more clients have been taken in.
    Taken(u32),
    /// Old: everything was sent.
    All(Totals),
    /// New: it has everything and can serve.
    Prepared(Totals),
    /// Old: new may serve.
    Commit,
    /// New: it serves from now on.
    Committed,
}

/// The bytes are not a frame of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrame;

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Refused(_) => 2,
            Frame::Ready(_) => 3,
            Frame::Listener(_) => 4,
            Frame::Files(_) => 5,
            Frame::Client(_) => 6,
            Frame::Retained(_) => 7,
            Frame::Taken(_) => 8,
            Frame::All(_) => 9,
            Frame::Prepared(_) => 10,
            Frame::Commit => 11,
            Frame::Committed => 12,
            Frame::Bans(_) => 13,
            Frame::Store => 14,
            Frame::Early(_) => 15,
            Frame::Known(..) => 16,
            Frame::Rest(_) => 17,
            Frame::Tickets(..) => 18,
        }
    }

    /// Bytes of the frame's body.
    fn length(&self) -> usize {
        match self {
            Frame::Hello(hello) => hello.length(),
            Frame::Refused(why) => why.length(),
            Frame::Ready(shards) => shards.length(),
            Frame::Listener(listener) => listener.length(),
            Frame::Files(count) => count.length(),
            Frame::Client(client) => client.length(),
            Frame::Early(early) => early.length(),
            Frame::Known(from, number) => from.length() + number.length(),
            Frame::Rest(rest) => rest.length(),
            Frame::Tickets(listener, keys) => listener.length() + keys.length(),
            Frame::Retained(messages) => messages.length(),
            Frame::Bans(bans) => bans.length(),
            Frame::Taken(count) => count.length(),
            Frame::All(totals) | Frame::Prepared(totals) => totals.length(),
            Frame::Commit | Frame::Committed | Frame::Store => 0,
        }
    }

    /// Appends the frame. If `out` has to move to larger memory, its former memory is wiped.
    ///
    /// # Errors
    /// Fails when the body is longer than [`LONGEST`]; then nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), NoFrame> {
        let length = self.length();
        if length > LONGEST {
            return Err(NoFrame);
        }
        make_room(out, HEAD + length);
        let [a, b, c, d] = (length as u32).to_le_bytes();
        out.extend_from_slice(&[a, b, c, d, self.kind()]);
        match self {
            Frame::Hello(hello) => hello.put(out),
            Frame::Refused(why) => why.put(out),
            Frame::Ready(shards) => shards.put(out),
            Frame::Listener(listener) => listener.put(out),
            Frame::Files(count) => count.put(out),
            Frame::Client(client) => client.put(out),
            Frame::Early(early) => early.put(out),
            Frame::Known(from, number) => {
                from.put(out);
                number.put(out);
            }
            Frame::Rest(rest) => rest.put(out),
            Frame::Tickets(listener, keys) => {
                listener.put(out);
                keys.put(out);
            }
            Frame::Retained(messages) => messages.put(out),
            Frame::Bans(bans) => bans.put(out),
            Frame::Taken(count) => count.put(out),
            Frame::All(totals) | Frame::Prepared(totals) => totals.put(out),
            Frame::Commit | Frame::Committed | Frame::Store => {}
        }
        Ok(())
    }

    fn decode(kind: u8, bytes: &[u8]) -> Option<Frame> {
        match kind {
            6 => return Client::decode(bytes).map(|client| Frame::Client(Box::new(client))),
            15 => return Early::decode(bytes).map(|early| Frame::Early(Box::new(early))),
            17 => return Remainder::decode(bytes).map(|rest| Frame::Rest(Box::new(rest))),
            _ => {}
        }
        let mut body = Body::new(bytes);
        let from = &mut body;
        let frame = match kind {
            1 => Frame::Hello(Hello::get(from)?),
            2 => Frame::Refused(Code::get(from)?),
            3 => Frame::Ready(u8::get(from).filter(|&shards| shards > 0)?),
            4 => Frame::Listener(Listener::get(from)?),
            5 => Frame::Files(u16::get(from)?),
            7 => Frame::Retained(Vec::get(from)?),
            8 => Frame::Taken(u32::get(from)?),
            9 => Frame::All(Totals::get(from)?),
            10 => Frame::Prepared(Totals::get(from)?),
            11 => Frame::Commit,
            12 => Frame::Committed,
            13 => Frame::Bans(Vec::get(from)?),
            14 => Frame::Store,
            18 => Frame::Tickets(ListenerId::get(from)?, Secret::get(from)?),
            16 => Frame::Known(ShardId::get(from)?, u32::get(from)?),
            _ => return None,
        };
        Some(frame).filter(|_| body.is_empty())
    }

    /// The frame at the start of `bytes` and its length in bytes; `None` while it is incomplete.
    ///
    /// # Errors
    /// Fails when no frame of this version begins like that.
    pub fn read(bytes: &[u8]) -> Result<Option<(Frame, usize)>, NoFrame> {
        let Some((&[a, b, c, d, kind], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > LONGEST {
            return Err(NoFrame);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::decode(kind, body).ok_or(NoFrame)?;
        Ok(Some((frame, HEAD + length)))
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
