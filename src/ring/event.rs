//! What the driver is told and what it reports. Plain values; no behaviour.
use crate::ids::{ListenerId, SocketId};
pub use crate::outgoing::{Outgoing, Segment};
use std::net::SocketAddr;
use std::time::Duration;

/// Largest cookie a hand-over can carry: the top byte of a completion's tag names its kind.
pub const MAX_COOKIE: u64 = (1 << 56) - 1;

/// What one core's driver may use.
#[derive(Clone, Debug)]
pub struct SocketRingConfig {
    /// Sockets per ring: its direct descriptor table. The kernel caps it at `RLIMIT_NOFILE`.
    pub sockets_per_ring: u32,
    /// Rings this core may open; past it, accepts wait and hand-overs are refused. 1..=1024.
    pub max_rings: u32,
    /// Receive buffers of this core, shared by its rings. 1..=32768.
    pub buffer_count: u32,
    /// Bytes per receive buffer.
    pub buffer_size: u32,
    /// Buffers a ring starts with; doubled whenever the kernel runs out, halved after quiet times.
    pub buffers_posted: u32,
    /// How long `idle` looks for work before it sleeps. Zero: sleep at once.
    pub spin: Duration,
    /// How long a core with rare events dozes at a time, three times before it parks. Bounds how
    /// late glommio's own timers may run.
    pub long_doze: Duration,
    /// How long a dozing core lets events gather before it wakes. Zero: it wakes for each. Needs
    /// Linux 6.12.
    pub coalesce: Duration,
    /// Accepts kept waiting in the kernel per listener.
    pub accepts_in_flight: u32,
    /// Submission queue entries per ring (a power of two).
    pub submissions: u32,
    /// Completion queue entries per ring (a power of two, at least `submissions`).
    pub completions: u32,
    /// How long an orderly close waits for the peer's end of stream.
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
            coalesce: Duration::ZERO,
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
    /// One buffer's worth, then nothing until the next `receive`: the entry shard, before CONNECT.
    Once,
    /// Everything, until `pause`, `close` or the end of the stream.
    Stream,
}

/// The far end of an accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix socket; its peers are anonymous.
    Unix,
}

/// What happened. Every event of a socket comes before its `Closed`, and none after.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new connection. Nothing is read until `receive`.
    Accepted {
        /// The new socket.
        socket: SocketId,
        /// Where it came in.
        listener: ListenerId,
        /// Who is at the other end.
        peer: Peer,
    },
    /// An accept failed; the driver goes on by itself, after a pause where resources are short.
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
    /// The peer will send no more. Sending still works. Close it.
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
        /// Ok: all of it is in the kernel's hands. Err: the error number; close the socket.
        result: Result<(), i32>,
    },
    /// Receiving failed (a reset, say). Close it.
    Failed {
        /// Which socket.
        socket: SocketId,
        /// The kernel's error number.
        errno: i32,
    },
    /// The socket is gone and its id may be given out again. The last event of this id.
    Closed {
        /// Which socket.
        socket: SocketId,
    },
    /// A socket came from another shard's ring. Nothing is read until `receive`.
    Arrived {
        /// The socket's id here.
        socket: SocketId,
        /// What the sending shard passed to `hand_over`.
        cookie: u64,
    },
    /// The outcome of a `hand_over`. After Ok only `Closed` follows; after Err nothing changed.
    HandedOver {
        /// The socket's id here.
        socket: SocketId,
        /// What was passed to `hand_over`.
        cookie: u64,
        /// Err: ENFILE = the target has no room, EBUSY = a send or another hand-over was in flight
        /// here.
        result: Result<(), i32>,
    },
    /// The core's eventfd was written while it slept: another thread rang the doorbell, or a ring
    /// of its own had completions. A hint: look at the mail.
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
    /// Times the kernel had no receive buffer; nothing is lost, reading is re-armed.
    pub enobufs: u64,
    /// Times a completion queue overflowed; nothing is lost, it is flushed.
    pub overflows: u64,
    /// Times the kernel lost completions, for want of memory; the ring's connections were closed.
    pub losses: u64,
    /// Sends the kernel cut short and the driver finished.
    pub partial_sends: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Completions visited.
    pub completions: u64,
    /// Bounded waits in the kernel.
    pub dozes: u64,
    /// Waits through glommio.
    pub parks: u64,
    /// Time spent looking for work before sleeping.
    pub spun: Duration,
}
