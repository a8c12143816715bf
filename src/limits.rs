//! Every bound in the broker, in one place, with the assertions between them. Owns nothing.

/// Most shards one broker runs: the width of a [`crate::ids::ShardSet`].
pub const MAX_SHARDS: usize = 128;
/// Largest Remaining Length a packet can declare, in bytes (MQTT 5.0 section 2.1.4).
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;
/// Most distinct wildcard shapes searched by hash; filters of further shapes go to the trie.
pub const MAX_SHAPES: usize = 48;
/// Most levels of a wildcard filter that a hashed shape can describe.
pub const MAX_SHAPE_LEVELS: usize = 32;
/// Most levels that `mqtt.max_topic_levels` may allow in a topic name or filter.
pub const MAX_TOPIC_LEVELS: usize = 1024;
/// Most levels of filters in one shard's trie: filters whose shape is not among the hashed ones are
/// refused past it, so that no topic name can make a match visit more nodes than these.
pub const TRIE_NODES: usize = 16_384;
/// Longest topic name or filter in bytes (a two-byte length on the wire).
pub const MAX_TOPIC_LENGTH: usize = 65_535;
/// Most listeners of one broker.
pub const MAX_LISTENERS: usize = 256;

/// Most entries of `trusted_proxies`: each is looked at for a connection through one.
pub const MAX_TRUSTED_PROXIES: usize = 256;
/// Most origins that one listener allows.
pub const MAX_ORIGINS: usize = 256;

/// The oldest kernel whose io_uring has everything the broker uses (DEFER_TASKRUN with SEND_FD).
pub const MINIMUM_KERNEL: (u32, u32) = (6, 1);

const _: () = assert!(MAX_LISTENERS <= u16::MAX as usize);
/// Data mails per ordered pair of shards. A message waits behind all that are there when it comes:
/// with more of them, a crowd that sends to the other shard is felt by who sends little.
pub const DATA_MAILBOX: usize = 32;
/// Control mails per ordered pair of shards.
pub const CONTROL_MAILBOX: usize = 1024;

/// What one step may cost, in units of about 100 ns (see [`cost`]): clients wait for the next step
/// past it. So a step takes about 2 ms, whatever was asked for; what costs more than a small part
/// of it goes on in later steps.
pub const STEP_WORK: u32 = 20_000;

/// A step that has taken so many microseconds ends early, whatever its work was thought to cost.
pub const STEP_MICROS: u64 = 3000;

/// A kind of work that has a share of the step of its own has so many microseconds in any case.
pub const SHARE_MICROS: u64 = 300;

/// Work between looks at the clock: 50 µs as counted, a few hundred when nothing is in a cache.
pub const LOOK: u32 = 500;

/// How a shard divides its steps. One for every broker; the simulation makes the parts small, so
/// that a few filters and subscribers are many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// What one step may cost, in units of about 100 ns.
    pub step: u32,
    /// What one client's packets, and one request that goes on over several steps, may cost before
    /// the next one's turn comes.
    pub turn: u32,
    /// A message with at most so many subscribers on a shard is delivered to all in one go.
    pub subscribers_at_once: usize,
    /// So many filters of one packet, or subscriptions of a session that ends, are done in one go.
    pub filters_at_once: usize,
}

impl Budget {
    /// That of every broker.
    pub const BROKER: Budget = Budget {
        step: STEP_WORK,
        turn: STEP_WORK / 10,
        subscribers_at_once: 128,
        filters_at_once: 64,
    };

    /// What each kind of work that goes on over several steps may cost in a step that everything
    /// else has used up.
    pub const fn share(&self) -> u32 {
        self.step / 4
    }
}

/// What the data mail that is taken in may cost of a step, and as much again the control mail;
/// besides what clients may cost. Neither can starve the others. As much as clients may: what comes
/// from clients elsewhere is what comes from clients here.
pub const MAIL_WORK: u32 = STEP_WORK;

/// Data mail, and control mail, have so many microseconds of a step each.
pub const MAIL_MICROS: u64 = 2500;

/// What things cost, in the units of [`STEP_WORK`]. Measured roughly and rounded up: the point is
/// that nothing that a client can ask for is free.
pub mod cost {
    /// A packet framed, decoded and handled, besides what it causes.
    pub const PACKET: u32 = 2;
    /// A message given to one session: sent, queued or dropped.
    pub const DELIVERY: u32 = 3;
    /// A send handed to the kernel.
    pub const SEND: u32 = 40;
    /// A node of a trie, an entry of a list, or a stored message looked at.
    pub const VISIT: u32 = 1;
    /// A filter added to, or taken out of, the subscriptions.
    pub const FILTER: u32 = 10;
    /// A record of a TLS handshake that needs keys to be exchanged, signatures made or checked.
    pub const HANDSHAKE: u32 = 1200;
    /// A TLS record sealed, its key made included.
    pub const RECORD: u32 = 8;
    /// A mail to another shard.
    pub const MAIL: u32 = 3;
    /// A connection or session that begins or ends.
    pub const SESSION: u32 = 50;
    /// So many bytes copied or checked cost one unit.
    pub const BYTES_PER_UNIT: usize = 1024;

    /// What copying or checking so many bytes costs.
    pub const fn bytes(count: usize) -> u32 {
        (count / BYTES_PER_UNIT) as u32
    }
}

/// Bytes that are read from a client while its PUBLISHes wait, to find the acknowledgements behind
/// them. Only of clients that are crowded themselves, and so hold as much already.
pub const HELD_INPUT: usize = 1 << 20;

/// Bytes of memory that the clients on their way from one shard to their homes hold; one more is
/// refused as busy.
pub const HAND_OVER_BYTES: usize = 16 << 20;
/// Places in the lines of those clients, of one shard.
pub const HAND_OVER_QUEUE: usize = 1 << 17;
/// Clients of one shard whose password or token is being looked at; one more is told that the
/// server is busy. With some milliseconds each, about as many as are done within the time that
/// clients wait.
pub const ADMISSIONS: usize = 1024;
/// Deeds of clients of one shard that services are asked about at a time; who finds no room waits
/// until one is answered.
pub const PERMISSIONS: usize = 1024;
/// Filters of one SUBSCRIBE that a service is asked about; further ones are refused.
pub const FILTERS_ASKED: usize = 256;
/// Filters of one SUBSCRIBE that it is asked about at a time.
pub const FILTERS_ASKED_AT_ONCE: usize = 16;
/// Connections of one shard that met a limit and whose CONNECT is awaited, to be answered; further
/// ones are closed at once.
pub const REFUSED_WAITING: usize = 1024;
/// Milliseconds that such a connection has to send its CONNECT.
pub const REFUSED_MILLIS: u64 = 2000;
/// Bytes of its CONNECT that are waited for; beyond, its version alone decides the answer.
pub const REFUSED_INPUT: usize = 4096;

/// Bytes of the names of one connection's topic aliases, those that the client sets; past it the
/// client is ended with 0x97. Sixteen of the longest topic names, as many as `mqtt.max_topic_alias`
/// allows unless it is raised. As many again for those that we set, which then are no more.
pub const ALIAS_BYTES: usize = 1 << 20;

/// Bytes of a PROXY header, with what it says of TLS.
pub const PROXY_HEAD: usize = 4 << 10;
/// Bytes of an HTTP request that asks for a WebSocket, up to its empty line; a longer one is
/// refused with 431.
pub const UPGRADE_HEAD: usize = 8 << 10;
/// Headers of such a request.
pub const UPGRADE_HEADERS: usize = 64;
/// Bytes of a WebSocket frame's payload: a whole packet of any size fits.
pub const LARGEST_FRAME: u32 = MAX_REMAINING_LENGTH + 5;
/// Unsent bytes of pongs and the like past which a client's further pings are not answered.
pub const LATE_PONGS: usize = 4 << 10;

/// Bytes of a packet that has come in part: a client that sends more of one is ended while memory
/// is very short.
pub const UNFINISHED_INPUT: usize = 64 << 10;

/// Bytes that are read from a client while something passing holds it: its share of a step, a
/// request of its own that goes on in slices.
pub const BRIEF_INPUT: usize = 16 << 10;

const _: () = assert!(MAX_SHARDS == u128::BITS as usize);
const _: () = assert!(MAX_SHAPE_LEVELS <= u32::BITS as usize);
