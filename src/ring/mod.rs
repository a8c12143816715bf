//! The socket ring: one shard's own io_uring driver, hosted inside its glommio executor.
//!
//! Owns: the rings of one core, their direct descriptor tables, the receive buffers, the records of
//! sends in flight, and how the core waits when there is nothing to do. Lives on one shard's thread
//! and is `!Send`; only [`RingPort`] (where hand-overs go) and [`Doorbell`] cross threads.
//!
//! Does not: know MQTT, count bytes per client, decide when to read or what to send, or allocate
//! anything per idle socket beyond one 16-byte slot.
//!
//! `unsafe` is allowed here and nowhere above: the kernel keeps pointers to memory that this module
//! owns until the matching completion has been seen.
mod buffers;
mod driver;
mod event;
mod failure;
mod flag;
mod glommio_wait;
mod hand_over;
mod idle;
mod listen;
mod lost;
mod port;
mod send;
mod slots;
mod socket;
mod tag;
mod upkeep;
mod uring;

pub use driver::Driver;
pub use event::{
    Event, MAX_COOKIE, Outgoing, Peer, Receive, RingCounts, Segment, SocketRingConfig,
};
pub use failure::{RingFailure, operations};
pub use flag::SleepFlag;
pub use idle::Doorbell;
pub use port::RingPort;

#[cfg(test)]
mod tests;
