//! Frames between the two processes: four bytes of length, one that says the kind, and a body.
//! Descriptors travel beside [`Frame::Files`], [`Frame::Listener`] and [`Frame::Store`] and are
//! taken in their order.

use super::client::{Client, Early, Remainder};
use super::code::{Body, Code, Secret, make_room, record};
use crate::ids::{ListenerId, ShardId};
use crate::message::Message;
use crate::overload::sources::Banned;
use crate::time::Instant;

/// Bytes before the body.
pub const HEAD: usize = 5;
/// Longest body, bytes. A client with more than that cannot move.
pub const LONGEST: usize = 256 << 20;

record! {
    /// The store that is handed over.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct StoreIs {
        /// Where it is.
        pub path: Box<str>,
        /// How many shards it has.
        pub shards: u8,
    }
}

record! {
    /// What old says first.
    #[derive(Clone)]
    pub struct Hello {
        /// The version of the protocol that it speaks.
        pub version: u16,
        /// The oldest one that it can speak.
        pub oldest: u16,
        /// The version of its build.
        pub build: Box<str>,
        /// Nanoseconds of CLOCK_MONOTONIC at the zero of its clock.
        pub zero: u64,
        /// The secret of placement: the same names are at home together.
        pub secret: (u64, u64),
        /// Its store, if it has one.
        pub store: Option<StoreIs>,
    }
}

record! {
    /// A listener.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Listener {
        /// How old numbers it.
        pub id: ListenerId,
        /// Its name in the configuration.
        pub name: Box<str>,
        /// Where it listens.
        pub bind: Box<str>,
        /// Its listening sockets, which come with this.
        pub sockets: u16,
    }
}

record! {
    /// How much was handed over.
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
    /// Somebody who may not connect for a while.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Ban {
        /// Who.
        pub who: Banned,
        /// When it is over.
        pub until: Instant,
    }
}

/// What the two processes say.
pub enum Frame {
    /// Old: who it is.
    Hello(Hello),
    /// Either: it will not go on, for this reason.
    Refused(Box<str>),
    /// New: it has started, with so many shards.
    Ready(u8),
    /// Old: a listener.
    Listener(Listener),
    /// Old: the keys of a listener's tickets of TLS.
    Tickets(ListenerId, Secret),
    /// Old: all that is in its store is durable; the store's lock comes with this.
    Store,
    /// Old: so many sockets come with this, for the clients that follow.
    Files(u16),
    /// Old: a client.
    Client(Box<Client>),
    /// Old: what is copied of a client that it still serves.
    Early(Box<Early>),
    /// Old: the socket of the next client was copied by that shard, under that number.
    Known(ShardId, u32),
    /// Old: what was not copied of a client before.
    Rest(Box<Remainder>),
    /// Old: retained messages, each with the accounts that it is on.
    Retained(Vec<(u64, Message)>),
    /// Old: who is banned.
    Bans(Vec<Ban>),
    /// New: it has so many more clients.
    Taken(u32),
    /// Old: that was all.
    All(Totals),
    /// New: it has all of it.
    Prepared(Totals),
    /// Old: new may serve.
    Commit,
    /// New: it serves.
    Committed,
}

/// Bytes that are no frame of this version.
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

    /// Bytes of its body.
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

    /// Appends the frame. What `out` has held is wiped if it has to be moved.
    ///
    /// # Errors
    /// When its body is longer than [`LONGEST`]; nothing is appended then.
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

    /// The frame at the start of `bytes`, and how many bytes it has; `None` while it is not whole.
    ///
    /// # Errors
    /// When no frame of this version begins like that.
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
