//! Bridges: connections of the broker to other services, to which messages go and from which they
//! come.
//!
//! A bridge has a link on every shard ([`crate::shard::LinkPlan`]), which copies the messages that
//! match the bridge's filters into batches. After each step a core puts these batches into a
//! bounded ring ([`feed`]). The bridge's own thread takes the batches out into its buffer
//! ([`buffer`]: in memory, [`queue`], and on disk, [`spool`]), where they wait while the other end
//! is slow or gone. A shard never waits for a bridge: a message without room is dropped by the
//! bridge's policy, and counted ([`figures`]).
//!
//! Messages that a bridge brings are published by the shard that the hash of the topic name
//! selects, a few at a time, each time after the last ones have been accepted ([`inward`]).

#[cfg(feature = "runtime")]
pub mod buffer;
#[cfg(feature = "runtime")]
pub mod feed;
pub mod figures;
pub mod http;
#[cfg(feature = "runtime")]
pub mod intake;
#[cfg(feature = "runtime")]
pub mod inward;
pub mod kafka;
#[cfg(feature = "runtime")]
pub mod lanes;
pub mod mqtt;
pub mod numbers;
#[cfg(feature = "runtime")]
pub mod orders;
pub mod queue;
pub mod segment;
#[cfg(feature = "runtime")]
pub mod set;
#[cfg(feature = "runtime")]
pub mod spool;
#[cfg(feature = "runtime")]
pub mod start;
pub mod template;
#[cfg(test)]
#[cfg_attr(
    not(feature = "runtime"),
    expect(dead_code, reason = "without it there are no buffers on disk, and no tests of them")
)]
mod testing;
#[cfg(feature = "runtime")]
pub mod thread;
