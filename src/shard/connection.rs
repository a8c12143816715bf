//! One network stream as its shard sees it: its purpose, the packet that is received in part, and
//! its output.

use super::output::Output;
use super::refuse::Denial;
use crate::ids::{ListenerId, Peer};
use crate::limits::ALIAS_BYTES;
use crate::mutant::Mutant;
use crate::overload::sources::SourceMark;
use crate::time::Instant;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Accepted here; its CONNECT is awaited.
    Entry,
    /// It met a limit; its CONNECT is awaited, so that the client can be told in its own version.
    Refused(Denial),
    /// Its CONNECT is complete, and it is on its way to its home shard.
    HandingOver,
    /// Its home is here, and the broker finds out whether its client may be admitted.
    Proving,
    /// It carries the session at this index.
    Open(u32),
    /// Nothing more is read; it ends when its output is out.
    Closing,
    /// The driver was told to close it and has not yet. Nothing more may be asked of the driver for
    /// this socket: by the time that is carried out, the socket may be another connection's.
    Closed,
}

/// Why nothing is being processed from a connection. Several reasons may hold at once.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Holds(u16);

impl Holds {
    /// A subscriber of its messages is crowded.
    pub const CROWDED: Holds = Holds(1);
    /// A share group's home shard has not confirmed yet; the SUBACK waits.
    pub const JOINING: Holds = Holds(2);
    /// A mailbox that the next packet needs is full.
    pub const MAIL: Holds = Holds(4);
    /// It has had its share of the step.
    pub const WORK: Holds = Holds(8);
    /// The client does not read what it has been sent; its packets would only add answers to that.
    pub const UNREAD: Holds = Holds(16);
    /// Mail that was there before the next packet has to be taken in first. The connections that
    /// wait for that are of two generations, an older and a later one, which use these two reasons
    /// in turn.
    pub const BEHIND: [Holds; 2] = [Holds(128), Holds(256)];
    /// A message of the client is still being delivered to many subscribers.
    pub const FANOUT: Holds = Holds(32);
    /// A request of the client goes on in slices.
    pub const TASK: Holds = Holds(64);
    /// Memory is full; the client's messages wait for a while before they are lost.
    pub const MEMORY: Holds = Holds(512);
    /// A service is asked whether the client may do what its next packet says.
    pub const ACCESS: Holds = Holds(1024);
    /// The client has sent more than its rate allows.
    pub const RATE: Holds = Holds(2048);
    /// The next packet has to be stored and cannot be now.
    pub const STORAGE: Holds = Holds(4096);
    /// A bridge has no room for the client's next message.
    pub const LINK: Holds = Holds(8192);
    /// So many of the client's publications wait for the other end of a bridge that no more are
    /// taken.
    pub const ANSWERS: Holds = Holds(16384);
    /// Reasons that hold only for some steps, whatever other clients do: the connection is still
    /// read meanwhile, up to a bound.
    const BRIEF: u16 = Holds::WORK.0 | Holds::FANOUT.0 | Holds::TASK.0;

    /// True when some reason holds, and only reasons that pass soon.
    pub fn is_brief(self) -> bool {
        self.0 != 0 && self.0 & !Holds::BRIEF == 0
    }

    /// True when nothing holds.
    pub fn is_free(self) -> bool {
        self.0 == 0
    }

    /// True when `hold` holds.
    pub fn has(self, hold: Holds) -> bool {
        self.0 & hold.0 != 0
    }

    /// Adds a reason.
    pub fn set(&mut self, hold: Holds) {
        self.0 |= hold.0;
    }

    /// Takes a reason away.
    pub fn clear(&mut self, hold: Holds) {
        self.0 &= !hold.0;
    }
}

// Each reason has a bit of its own.
const _: () = {
    let [one, other] = Holds::BEHIND;
    let all = [
        Holds::CROWDED,
        Holds::JOINING,
        Holds::MAIL,
        Holds::WORK,
        Holds::UNREAD,
        Holds::FANOUT,
        Holds::TASK,
        Holds::MEMORY,
        Holds::ACCESS,
        Holds::RATE,
        Holds::STORAGE,
        Holds::LINK,
        Holds::ANSWERS,
        one,
        other,
    ];
    let (mut at, mut seen) = (0, 0u16);
    while at < all.len() {
        assert!(all[at].0.count_ones() == 1 && seen & all[at].0 == 0);
        seen |= all[at].0;
        at += 1;
    }
};

/// A connection.
pub struct Connection {
    /// What it is doing.
    pub stage: Stage,
    /// Its unsent output; `None` while there is none.
    pub output: Option<Box<Output>>,
    /// Bytes received and not yet processed; `None` while there are none.
    pub input: Option<Box<Input>>,
    /// Topic aliases, both directions; they end with the connection [MQTT-3.3.2-7].
    pub aliases: Option<Box<TopicAliases>>,
    /// When the client was last heard: it sent a whole packet, or a further part of a large one
    /// ([`PROGRESS`]).
    pub last_seen: Instant,
    /// When the earliest entry for it on the timing wheel is due; 0 for none.
    pub armed: Instant,
    /// Milliseconds of silence that its Keep Alive allows; 0 for any.
    pub patience: u32,
    /// The listener that it came in by.
    pub listener: ListenerId,
    /// Why it is not being processed.
    pub holds: Holds,
    /// Its end is queued, or waits for what was held back.
    pub parting: Parting,
    /// There are protocol layers between the socket and MQTT: see `layered`.
    pub layered: bool,
    /// How many reloads there had been when its client connected, and was told the limits of that
    /// time. Wraps.
    pub reloads: u8,
    /// Twice the number of its [`SourceMark`], plus 1 when the driver was told to stop reading it.
    marks: u8,
    /// The peer at the other end of the socket.
    pub peer: Peer,
}

// Bounds the memory of a connection: there may be a million of them.
const _: () = assert!(size_of::<Option<Connection>>() <= 80);

impl Connection {
    /// A connection just accepted.
    pub fn new(listener: ListenerId, peer: Peer, now: Instant, reloads: u8) -> Self {
        Connection {
            stage: Stage::Entry,
            output: None,
            input: None,
            aliases: None,
            last_seen: now,
            armed: Instant(0),
            patience: 0,
            listener,
            holds: Holds::default(),
            parting: Parting::No,
            layered: false,
            reloads,
            marks: 0,
            peer,
        }
    }

    /// True when the driver was told to stop reading it.
    pub fn is_paused(&self) -> bool {
        self.marks & 1 != 0
    }

    /// Notes whether the driver was told to stop reading it.
    pub fn set_paused(&mut self, paused: bool) {
        self.marks = self.marks & !1 | u8::from(paused);
    }

    /// Whether the connection is counted for its peer's network.
    pub fn source(&self) -> SourceMark {
        SourceMark::numbered(self.marks >> 1)
    }

    /// Notes whether the connection is counted for its peer's network.
    pub fn set_source(&mut self, source: SourceMark) {
        self.marks = source.number() << 1 | self.marks & 1;
    }

    /// True when something holds it, and its client has sent something that waits here.
    pub fn waits(&self) -> bool {
        self.input.is_some() && !self.holds.is_free()
    }
}

/// Whether more will come from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// More may come, as far as is known.
    No,
    /// The peer has closed its side.
    Ended,
    /// The connection broke.
    Broken,
}

/// An input buffer with a larger capacity is not kept when it is empty, bytes.
pub const INPUT_MAX: usize = 8 * 1024;

/// Keep Alive counts whole packets [MQTT-3.1.2-22]. So that a client that sends a large packet over
/// a slow link is not cut off, so many bytes of an unfinished packet count like a whole one. A
/// client that sends less than that in one and a half times its Keep Alive is silent, however often
/// it sends single bytes.
pub const PROGRESS: usize = 1024;

/// Bytes that were received and not yet processed, in order.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
    /// How many of `bytes` are processed, and not moved out yet.
    used: usize,
    /// Up to this position, no acknowledgements are left to be taken out; see `held`.
    heard: usize,
    /// Bytes of the unfinished packet that have been counted as progress.
    counted: usize,
}

impl Input {
    /// A buffer with these bytes and no room for more.
    pub fn of(bytes: &[u8]) -> Box<Self> {
        Box::new(Input { bytes: bytes.to_vec(), ..Input::default() })
    }

    /// The bytes that are not processed yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Adds bytes that were received.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// So many bytes were processed.
    pub fn consume(&mut self, count: usize) {
        self.used += count;
        self.heard = self.heard.max(self.used);
        // Bytes are moved only now and then: each one is moved once on average, however small the
        // portions.
        if self.used > self.bytes.len() / 2 {
            self.bytes.drain(..self.used);
            self.heard -= self.used;
            self.used = 0;
            self.trim();
        }
    }

    /// Gives back memory. One large packet must not leave a large buffer to every connection that
    /// sent one.
    fn trim(&mut self) {
        if self.bytes.capacity() > INPUT_MAX && self.bytes.len() < self.bytes.capacity() / 4 {
            self.bytes.shrink_to(2 * self.bytes.len());
        }
    }

    /// Whether the unprocessed input, which is an unfinished packet, has grown by [`PROGRESS`]
    /// bytes since the last call that returned true. `fresh`: it is another packet than before.
    pub fn progresses(&mut self, fresh: bool) -> bool {
        let have = self.rest().len();
        if fresh || have < self.counted {
            self.counted = have;
        }
        let more = have - self.counted >= PROGRESS && !Mutant::ProgressNotCounted.is_on()
            || have > self.counted && Mutant::BytesKeepAlive.is_on();
        if more {
            self.counted = have;
        }
        more
    }

    /// Looks through the input, from where the last scan ended. `take` is shown the rest and says
    /// how many bytes from its start stay, or were taken out, until it says that the scan ends.
    pub fn scan(&mut self, mut take: impl FnMut(&[u8]) -> Scanned) {
        let (mut from, mut to) = (self.heard, self.heard);
        loop {
            match take(&self.bytes[from..]) {
                Scanned::Taken(count) => from += count,
                Scanned::Left(count) => {
                    if to < from {
                        self.bytes.copy_within(from..from + count, to);
                    }
                    (from, to) = (from + count, to + count);
                }
                Scanned::End => break,
            }
        }
        self.bytes.drain(to..from);
        self.heard = to;
        self.trim();
    }

    /// The bytes that are not processed yet, without the buffer.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.drain(..self.used);
        self.bytes
    }

    /// Bytes of memory.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties the buffer; its memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        (self.used, self.heard, self.counted) = (0, 0, 0);
    }
}

/// What a scan does with the first packet of the input that it is shown.
pub enum Scanned {
    /// So many bytes stay in the input.
    Left(usize),
    /// So many bytes were acted on and leave the input.
    Taken(usize),
    /// The packet, and what follows it, is looked at another time.
    End,
}

/// Topic aliases of one connection.
#[derive(Default)]
pub struct TopicAliases {
    /// Topic names by alias minus one, as the client set them.
    pub inbound: Vec<Option<Box<str>>>,
    /// Aliases that the broker set, by topic name.
    pub outbound: hashbrown::HashMap<Box<str>, u16, foldhash::fast::RandomState>,
    /// How many aliases the broker may set.
    pub outbound_limit: u16,
    /// Bytes of the names that the client set.
    named: usize,
    /// Bytes of the names that the broker set.
    outbound_named: usize,
}

/// Bytes of memory that are counted for an alias of the broker, besides its name.
const ALIAS: usize = 32;

impl TopicAliases {
    /// No aliases yet; the broker may set so many.
    pub fn within(outbound_limit: u16) -> Self {
        TopicAliases { outbound_limit, ..TopicAliases::default() }
    }

    /// What [`Self::bytes`] should be, added up anew. For checks.
    pub fn count_bytes(&self) -> usize {
        let names = self.inbound.iter().flatten().chain(self.outbound.keys());
        let places = self.inbound.len() * size_of::<Option<Box<str>>>();
        names.map(|name| name.len()).sum::<usize>() + places + self.outbound.len() * ALIAS
    }

    /// Bytes counted for all of them.
    pub fn bytes(&self) -> usize {
        self.named
            + self.inbound.len() * size_of::<Option<Box<str>>>()
            + self.outbound_named
            + self.outbound.len() * ALIAS
    }

    /// The client sets an alias. `at` is its number minus one, and within the maximum that the
    /// client was told. False, and nothing is done, when the client's names would take more than
    /// [`ALIAS_BYTES`]. `held` is the shard's tally.
    pub fn set_inbound(&mut self, at: usize, topic: &str, held: &mut usize) -> bool {
        let old = self.inbound.get(at).and_then(|name| name.as_ref()).map_or(0, |name| name.len());
        let named = self.named - old + topic.len();
        if named > ALIAS_BYTES && !Mutant::AliasesUnbounded.is_on() {
            return false;
        }
        let before = self.bytes();
        self.named = named;
        if at >= self.inbound.len() {
            self.inbound.resize_with(at + 1, || None);
        }
        if let Some(name) = self.inbound.get_mut(at) {
            *name = Some(topic.into());
        }
        *held = *held + self.bytes() - before;
        true
    }

    /// Counts an alias that the broker is about to set, for a name of `topic` bytes; false when the
    /// broker's names would take more than [`ALIAS_BYTES`].
    pub fn grow_outbound(&mut self, topic: usize, held: &mut usize) -> bool {
        if self.outbound_named + topic > ALIAS_BYTES {
            return false;
        }
        self.outbound_named += topic;
        *held += topic + ALIAS;
        true
    }
}
