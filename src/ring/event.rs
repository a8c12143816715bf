//! The commands that the driver takes and the events that it reports. Plain values without
//! behaviour.
use super::gathering::Coalesce;
use crate::ids::{ListenerId, SocketId};
pub use crate::outgoing::{Outgoing, Segment};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The largest cookie of a hand-over. The top byte of a completion's tag names the kind of
/// operation, which leaves 56 bits.
pub const MAX_COOKIE: u64 = (1 << 56) - 1;

/// The resources that the driver of one core may use.
#[derive(Clone, Debug)]
pub struct SocketRingConfig {
    /// The number of sockets per ring, which is the size of its direct descriptor table. The kernel
    /// limits it to `RLIMIT_NOFILE`.
    pub sockets_per_ring: u32,
    /// The number of rings that this core may open, 1..=1024. Once all of them are full, accepts
    /// wait and hand-overs are refused.
    pub max_rings: u32,
    /// The number of receive buffers of this core, 1..=32768. All its rings share them.
    pub buffer_count: u32,
    /// Bytes per receive buffer.
    pub buffer_size: u32,
    /// The number of buffers that a ring starts with. It is doubled each time the kernel runs out
    /// of buffers, and halved after times with little traffic.
    pub buffers_posted: u32,
    /// How long `idle` spins before it sleeps. Zero means that it sleeps at once.
    pub spin: Duration,
    /// How long one doze lasts on a core that sees few events. A core dozes three times before it
    /// parks in glommio, so this also bounds how late glommio's own timers may run.
    pub long_doze: Duration,
    /// Whether a dozing core lets events gather before it wakes up. On a kernel older than Linux
    /// 6.12, [`Coalesce::Auto`] never does, and [`Coalesce::For`] is an error.
    pub coalesce: Coalesce,
    /// The number of accept operations that are kept in flight for each listener.
    pub accepts_in_flight: u32,
    /// Submission queue entries per ring (a power of two).
    pub submissions: u32,
    /// Completion queue entries per ring (a power of two, at least `submissions`).
    pub completions: u32,
    /// How long an orderly close waits for the peer's end of stream before the socket is closed.
    pub linger: Duration,
}

impl Default for SocketRingConfig {
    fn default() -> Self {
        SocketRingConfig {
            sockets_per_ring: 16_384,
            max_rings: 1024,
            buffer_count: 4096,
            buffer_size: 2048,
            buffers_posted: 256,
            spin: Duration::from_micros(20),
            long_doze: Duration::from_millis(20),
            coalesce: Coalesce::Off,
            accepts_in_flight: 64,
            submissions: 1024,
            completions: 4096,
            linger: Duration::from_secs(2),
        }
    }
}

/// How a socket is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receive {
    /// One buffer's worth of bytes, and then nothing until the next `receive`. The entry shard
    /// reads CONNECT in this way.
    Once,
    /// All bytes until `pause`, `close` or the end of the stream.
    Stream,
}

/// The remote end of an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteAddress {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix domain socket, whose peers have no address.
    Unix,
}

/// What has happened. `Closed` is the last event of a socket: all others come before it.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new connection. Nothing is read until `receive`.
    Accepted {
        /// The new socket.
        socket: SocketId,
        /// Where it came in.
        listener: ListenerId,
        /// Who is at the other end.
        peer: RemoteAddress,
    },
    /// An accept failed. The driver continues by itself, after a pause if the machine lacks
    /// resources.
    AcceptFailed {
        /// Which listener.
        listener: ListenerId,
        /// The kernel's error number.
        errno: i32,
    },
    /// Bytes arrived; they are only valid during the call.
    Received {
        /// From which socket.
        socket: SocketId,
        /// At least one byte, at most `buffer_size`.
        bytes: &'a [u8],
    },
    /// The peer will send nothing more. The socket can still send; close it afterwards.
    EndOfStream {
        /// Which socket.
        socket: SocketId,
    },
    /// A send ended; another may start now.
    Sent {
        /// Which socket.
        socket: SocketId,
        /// What was sent, for reuse.
        outgoing: Outgoing,
        /// `Ok` when the kernel has taken all bytes. `Err` carries the error number, and the socket
        /// must be closed.
        result: Result<(), i32>,
    },
    /// Receiving failed, for example because the peer reset the connection. Close the socket.
    Failed {
        /// Which socket.
        socket: SocketId,
        /// The kernel's error number.
        errno: i32,
    },
    /// A send was withdrawn: the bytes in `rest` were not sent.
    Withdrawn {
        /// Which socket.
        socket: SocketId,
        /// What was to be sent, for reuse.
        outgoing: Outgoing,
        /// The end of it, which was not sent.
        rest: Vec<u8>,
    },
    /// The socket has an ordinary descriptor, besides the direct one.
    Exported {
        /// Which socket.
        socket: SocketId,
        /// The descriptor, or the error number.
        file: Result<OwnedFd, i32>,
    },
    /// A socket of another process is in the table. Nothing is read until `receive`.
    TakenOver {
        /// The socket's id here, or the error number.
        socket: Result<SocketId, i32>,
        /// Which of those that were passed to `take_over`.
        cookie: u64,
    },
    /// The socket is closed, and its id may be used for a new one. This is the last event with this
    /// id.
    Closed {
        /// Which socket.
        socket: SocketId,
    },
    /// A socket arrived from a ring of another shard. Nothing is read until `receive`.
    Arrived {
        /// The socket's id here.
        socket: SocketId,
        /// What the sending shard passed to `hand_over`.
        cookie: u64,
    },
    /// The outcome of a `hand_over`. After `Ok` only `Closed` follows; after `Err` the socket is as
    /// it was before.
    HandedOver {
        /// The socket's id here.
        socket: SocketId,
        /// What was passed to `hand_over`.
        cookie: u64,
        /// `Err` carries the error number: ENFILE when the target has no room, EBUSY when a send or
        /// another hand-over of this socket was in flight.
        result: Result<(), i32>,
    },
    /// The core's eventfd was written while the core slept, either because another thread rang the
    /// doorbell or because one of the core's own rings had completions. It is only a hint to look
    /// at the mailboxes.
    Doorbell,
}

/// A copy of the driver's counters and gauges.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RingCounts {
    /// Sockets open here, including those being closed.
    pub sockets_open: u32,
    /// Slots allocated and not in use.
    pub slots_free: u32,
    /// Rings open.
    pub rings: u32,
    /// Descriptor table entries still free over all open rings.
    pub table_free: u32,
    /// Receive buffers in no ring.
    pub buffers_free: u32,
    /// Receive buffers posted to the kernel.
    pub buffers_posted: u32,
    /// Sends the kernel has not finished.
    pub sends_in_flight: u32,
    /// Accepts waiting in the kernel.
    pub accepts_in_flight: u32,
    /// Hand-overs under way from here.
    pub hand_overs_in_flight: u32,
    /// Sockets draining before close.
    pub lingering: u32,
    /// Connections accepted, ever.
    pub accepted: u64,
    /// Accepts that failed, ever.
    pub accept_errors: u64,
    /// Sockets that arrived from other shards, ever.
    pub arrived: u64,
    /// How often the kernel had no receive buffer. Nothing is lost then: the receive is armed
    /// again.
    pub enobufs: u64,
    /// How often a completion queue overflowed. Nothing is lost then: the kernel keeps the
    /// completions and they are flushed.
    pub overflows: u64,
    /// How often the kernel lost completions for lack of memory. All connections of that ring were
    /// closed.
    pub losses: u64,
    /// Sends that the kernel completed only in part and the driver finished.
    pub partial_sends: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completions visited.
    pub completions: u64,
    /// How often the core dozed: a wait in the kernel that is bounded to milliseconds.
    pub dozes: u64,
    /// How often the core parked: a wait through glommio.
    pub parks: u64,
    /// Dozes that let events gather.
    pub gathered: u64,
    /// How long events gather in the doze under way or the next one.
    pub gathering: Duration,
    /// Tries of the other mode, gathering or not, and how often that was the better one.
    pub gathering_probes: u64,
    /// See `gathering_probes`.
    pub gathering_switches: u64,
    /// Time spent looking for work before sleeping.
    pub spun: Duration,
}
