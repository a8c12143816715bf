//! The socket ring: the io_uring driver of one shard, hosted inside the shard's glommio executor.
//!
//! It owns the rings of one core, their direct descriptor tables, the receive buffers, the records
//! of sends in flight, and the way in which the core waits when there is nothing to do. It lives on
//! the shard's thread and is `!Send`. Only [`RingPort`] (the target of hand-overs) and [`Doorbell`]
//! cross threads.
//!
//! It does not know MQTT, does not count bytes per client, does not decide when to read or what to
//! send, and allocates nothing for an idle socket beyond one slot of 16 bytes.
//!
//! `unsafe` is allowed in this module and in none above it, because the kernel keeps pointers to
//! memory that this module owns until the matching completion has been seen.
mod buffers;
mod driver;
mod event;
mod failure;
mod flag;
mod gathering;
mod glommio_wait;
mod hand_over;
mod idle;
mod listen;
mod lost;
mod moving;
mod port;
mod send;
mod slots;
mod socket;
mod tag;
mod upkeep;
mod uring;

pub use driver::Driver;
pub use event::{
    Event, MAX_COOKIE, Outgoing, Receive, RemoteAddress, RingCounts, Segment, SocketRingConfig,
};
pub use failure::{RingFailure, can_export, operations};
pub use flag::SleepFlag;
pub use gathering::Coalesce;
pub use idle::Doorbell;
pub use port::RingPort;

#[cfg(test)]
mod tests;
