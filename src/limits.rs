//! Every bound of the broker in one place, with the assertions that relate them. Owns nothing.

/// The largest number of shards of one broker: the width of a [`crate::ids::ShardSet`].
pub const MAX_SHARDS: usize = 128;
/// The largest number of other nodes that a node of a cluster knows. Each of them takes a bit of a
/// [`crate::ids::ShardSet`], and the cluster itself takes one more.
pub const CLUSTER_PEERS: usize = 15;
/// The largest number of times that a message of a share group goes from one node to another. It is
/// enough to ask every other node and to get a refusal from each.
pub const CLUSTER_HOPS: u8 = 2 * CLUSTER_PEERS as u8 + 2;
/// The largest number of shards of a node of a cluster.
pub const MAX_CLUSTERED_SHARDS: usize = MAX_SHARDS - CLUSTER_PEERS - 1;
/// The largest number of filters that a node tells the others one by one. Beyond it, the others
/// send it every message.
pub const CLUSTER_FILTERS: usize = 1 << 22;
/// The largest Remaining Length that a packet can declare, in bytes (MQTT 5.0 section 2.1.4).
pub const MAX_REMAINING_LENGTH: u32 = 268_435_455;
/// The largest number of distinct wildcard shapes that are searched by hash. Filters of further
/// shapes go to the trie.
pub const MAX_SHAPES: usize = 48;
/// The largest number of levels of a wildcard filter that a hashed shape can describe.
pub const MAX_SHAPE_LEVELS: usize = 32;
/// The largest number of levels that `mqtt.max_topic_levels` may allow in a topic name or filter.
pub const MAX_TOPIC_LEVELS: usize = 1024;
/// The largest number of nodes in one shard's trie. Beyond it, filters whose shape is not among the
/// hashed ones are refused, so that no topic name can make a match visit more nodes than these.
pub const TRIE_NODES: usize = 16_384;
/// The longest topic name or filter in bytes; its length has two bytes on the wire.
pub const MAX_TOPIC_LENGTH: usize = 65_535;
/// The largest number of listeners of one broker.
pub const MAX_LISTENERS: usize = 256;

/// The largest number of entries of `limits.users`. Each of them is compared when a client
/// connects.
pub const MAX_USER_LIMITS: usize = 256;
/// The largest number of entries of `trusted_proxies`. All of them are compared for each connection
/// through a proxy.
pub const MAX_TRUSTED_PROXIES: usize = 256;
/// The largest number of origins that one listener allows.
pub const MAX_ORIGINS: usize = 256;

/// The oldest kernel whose io_uring has everything the broker uses (DEFER_TASKRUN with SEND_FD).
pub const MINIMUM_KERNEL: (u32, u32) = (6, 1);
/// The oldest kernel on which a core can let events gather before it wakes (`runtime.coalesce`).
pub const GATHERING_KERNEL: (u32, u32) = (6, 12);
/// The oldest kernel that lets sockets move to another process, as an upgrade in place needs.
pub const UPGRADE_KERNEL: (u32, u32) = (6, 8);

const _: () = assert!(MAX_LISTENERS <= u16::MAX as usize);
/// Data mails per ordered pair of shards. A message waits behind all mails that are in the mailbox
/// when it arrives. A large mailbox would therefore let clients that send much to the other shard
/// delay a client that sends little.
pub const DATA_MAILBOX: usize = 32;
/// Control mails per ordered pair of shards: at most `CONTROL_MAILBOX`, and fewer where there are
/// many shards. All mailboxes of one receiver together then have room for about
/// `CONTROL_MAILBOXES`, so this part of a shard's memory does not grow with the number of shards.
/// Mail for which there is no room stays with the sender.
pub const fn control_mailbox(shards: usize) -> usize {
    let senders = if shards > 1 { shards - 1 } else { 1 };
    let share = CONTROL_MAILBOXES / senders;
    if share < LEAST_CONTROL_MAILBOX {
        LEAST_CONTROL_MAILBOX
    } else if share > CONTROL_MAILBOX {
        CONTROL_MAILBOX
    } else {
        share
    }
}
const CONTROL_MAILBOX: usize = 1024;
const CONTROL_MAILBOXES: usize = 8 * CONTROL_MAILBOX;
const LEAST_CONTROL_MAILBOX: usize = 64;

/// What one step may cost, in units of about 100 ns (see [`cost`]). Once it is used up, clients
/// wait for the next step. A step therefore takes about 2 ms, whatever was requested: work that
/// costs more than a small part of it continues in later steps.
pub const STEP_WORK: u32 = 20_000;

/// A step that has taken this many microseconds ends early, whatever its work was estimated to
/// cost.
pub const STEP_MICROS: u64 = 3000;

/// Every kind of work that has its own share of the step gets at least this many microseconds.
pub const SHARE_MICROS: u64 = 300;

/// The amount of work between two readings of the clock: 50 µs as estimated, a few hundred when
/// nothing is in a cache.
pub const LOOK: u32 = 500;

/// How a shard divides its steps. All brokers use the same budget. The simulation makes the parts
/// small, so that a few filters and subscribers already count as many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// What one step may cost, in units of about 100 ns.
    pub step: u32,
    /// What the packets of one client may cost, and likewise one request that continues over
    /// several steps, before the next one has its turn.
    pub turn: u32,
    /// A message with at most this many subscribers on a shard is delivered to all of them at once.
    pub subscribers_at_once: usize,
    /// This many filters of one packet, or subscriptions of a session that ends, are handled at
    /// once.
    pub filters_at_once: usize,
    /// What the mail on its way to one shard, from all others together, may cost there
    /// (`shard/ahead.rs`).
    pub ahead: u32,
}

impl Budget {
    /// The budget of every broker.
    pub const BROKER: Budget = Budget {
        step: STEP_WORK,
        turn: STEP_WORK / 10,
        subscribers_at_once: 128,
        filters_at_once: 64,
        ahead: STEP_WORK,
    };

    /// What each kind of work that continues over several steps may cost in a step whose budget is
    /// used up by other work.
    pub const fn share(&self) -> u32 {
        self.step / 4
    }
}

/// What taking data mail in may cost in a step; the same holds for control mail. Both are in
/// addition to the budget for clients, so that neither can starve the others. It equals the budget
/// for clients, because the work of clients on other shards should count as much as that of clients
/// on this one.
pub const MAIL_WORK: u32 = STEP_WORK;

/// Data mail and control mail get at least this many microseconds of a step each.
pub const MAIL_MICROS: u64 = 2500;

/// What operations cost, in the units of [`STEP_WORK`]. Measured roughly and rounded up: what
/// matters is that nothing a client can request is free.
pub mod cost {
    /// Framing, decoding and handling a packet, without the work that it causes.
    pub const PACKET: u32 = 2;
    /// Giving a message to one session, whether it is then sent, queued or dropped.
    pub const DELIVERY: u32 = 3;
    /// Handing a send to the kernel.
    pub const SEND: u32 = 40;
    /// Looking at a node of a trie, an entry of a list, or a stored message.
    pub const VISIT: u32 = 1;
    /// Adding a filter to the subscriptions, or removing one.
    pub const FILTER: u32 = 10;
    /// A record of a TLS handshake that needs a key exchange, or a signature made or verified.
    pub const HANDSHAKE: u32 = 1200;
    /// Sealing a TLS record, including the derivation of its key.
    pub const RECORD: u32 = 8;
    /// Forgetting a value that is stored.
    pub const STORED: u32 = 4;
    /// Sending a mail to another shard.
    pub const MAIL: u32 = 3;
    /// Starting or ending a connection or session.
    pub const SESSION: u32 = 50;
    /// The number of bytes that can be copied or checked for one unit.
    pub const BYTES_PER_UNIT: usize = 1024;

    /// What the kernel needs for sending so many bytes: it copies them, and on a loopback it
    /// receives them as well.
    pub const fn sent(count: usize) -> u32 {
        4 * bytes(count)
    }

    /// What hashing `count` bytes for a key of the store costs.
    pub const fn hashed(count: usize) -> u32 {
        (count / 64) as u32
    }

    /// What copying or checking `count` bytes costs.
    pub const fn bytes(count: usize) -> u32 {
        (count / BYTES_PER_UNIT) as u32
    }
}

/// Bytes that are read from a client while its PUBLISHes are held back, in order to find the
/// acknowledgements behind them. A client is read in this way only if much output is waiting for
/// it, in which case it holds as much memory already, or if as many of its publications wait for a
/// bridge as may.
pub const HELD_INPUT: usize = 1 << 20;

/// Bytes of memory that clients on their way from one shard to their home shards may hold. Beyond
/// it, further ones are refused as "server busy".
pub const HAND_OVER_BYTES: usize = 16 << 20;
/// The length of one shard's queues of those clients.
pub const HAND_OVER_QUEUE: usize = 1 << 17;
/// The number of clients of one shard whose password or token is being checked at the same time.
/// Further ones are told that the server is busy. At some milliseconds each, about this many are
/// finished within the time that clients wait.
pub const ADMISSIONS: usize = 1024;
/// The number of requests of one shard to services about what its clients may do that are open at
/// the same time. A client that finds no room waits until one of them is answered.
pub const PERMISSIONS: usize = 1024;
/// Filters of one SUBSCRIBE about which a service is asked. Further ones are refused.
pub const FILTERS_ASKED: usize = 256;
/// Filters of one SUBSCRIBE about which a service is asked at the same time.
pub const FILTERS_ASKED_AT_ONCE: usize = 16;
/// The number of connections of one shard that exceeded a limit and whose CONNECT is awaited in
/// order to be answered. Further ones are closed at once.
pub const REFUSED_WAITING: usize = 1024;
/// Milliseconds that such a connection has to send its CONNECT.
pub const REFUSED_MILLIS: u64 = 2000;
/// The number of bytes of its CONNECT that are awaited. For a longer one, the protocol version
/// alone decides the answer.
pub const REFUSED_INPUT: usize = 4096;

/// The total bytes of topic names behind the topic aliases that a client sets on one connection.
/// Beyond it the client is disconnected with 0x97. It is sixteen of the longest topic names, the
/// number that `mqtt.max_topic_alias` allows unless it is raised. The same bound holds for the
/// aliases that the broker sets; it then simply sets no more.
pub const ALIAS_BYTES: usize = 1 << 20;

/// The largest size of a PROXY header in bytes, including its TLS fields.
pub const PROXY_HEAD: usize = 4 << 10;
/// The largest size in bytes of an HTTP request for a WebSocket, up to its empty line. A longer one
/// is refused with 431.
pub const UPGRADE_HEAD: usize = 8 << 10;
/// The largest number of headers of such a request.
pub const UPGRADE_HEADERS: usize = 64;
/// The number of connections of a shard whose first header (PROXY or HTTP) has arrived in part.
/// Beyond this number, or beyond [`UNFINISHED_HEADER_BYTES`], the oldest of them is closed.
pub const UNFINISHED_HEADERS: usize = 4096;
/// The bytes of these headers that a shard holds, for all of these connections together.
pub const UNFINISHED_HEADER_BYTES: usize = 4 << 20;
const _: () = assert!(UNFINISHED_HEADER_BYTES > UPGRADE_HEAD + PROXY_HEAD);
/// Bytes of the payload of a WebSocket frame: a packet of any size fits.
pub const LARGEST_FRAME: u32 = MAX_REMAINING_LENGTH + 5;
/// When this many bytes of pongs and other control frames are unsent, further pings of the client
/// are not answered.
pub const LATE_PONGS: usize = 4 << 10;

/// The largest part of an incomplete packet that is kept while memory is very short. A client that
/// sends more of one packet is disconnected then.
pub const UNFINISHED_INPUT: usize = 64 << 10;

/// Bytes that are read from a client while something temporary holds it back, such as its share of
/// the step or one of its own requests that continues in slices.
pub const BRIEF_INPUT: usize = 16 << 10;

/// Sessions, filters or messages that one question of an operator looks at within a step: about 50
/// microseconds.
pub const INQUIRY_VISITS: usize = 512;

/// Lines of traces that wait on one shard until the admin thread takes them.
pub const TRACE_LINES: usize = 4096;
/// Bytes of these.
pub const TRACE_BYTES: usize = 1 << 20;
/// Spans that wait on one shard until they are fetched: about 2 MiB.
pub const SPANS: usize = 8192;
/// Clients of a shard for which drops are counted one by one: about 1 MiB.
pub const DROPS_FOLLOWED: usize = 16_384;
/// Ends of connections that a shard remembers, with the reason of each: 48 KiB.
pub const DEPARTURES: usize = 1024;
/// Events that wait to be published; more are dropped and counted.
pub const EVENTS: usize = 1024;

const _: () = assert!(MAX_SHARDS == u128::BITS as usize);
const _: () = assert!(MAX_SHAPE_LEVELS <= u32::BITS as usize);

/// Clients that are handed over to another process at a time. The kernel passes at most 253
/// descriptors in one message.
pub const MOVE_BATCH: usize = 128;
const _: () = assert!(MOVE_BATCH <= 253);
