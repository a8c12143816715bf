//! What the broker counts and how it is told: plain `u64` figures per shard ([`Counters`]), copied
//! out when someone asks, and the `$SYS` topics made from them. One table of names, units and
//! sentences feeds every form. Pure; owns no clock and no socket.

mod counters;
pub mod sys;

pub use counters::{Counters, Descriptor, Kind};
