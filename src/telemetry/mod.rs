//! What the broker counts and how it is told: plain `u64` figures per shard ([`Counters`],
//! [`Histogram`]), copied out when someone asks, and the `$SYS` topics and the Prometheus page made
//! from them. One table of names, units and sentences feeds every form. Pure; owns no clock and no
//! socket.

pub mod alarms;
mod bridges;
mod cluster;
mod counters;
mod histogram;
pub mod prometheus;
pub mod sys;
pub mod trace_context;

pub use bridges::{AccountRow, BridgeRow, ListenerRow, SpanRow};
pub use cluster::{ClusterRow, NodeRow, WillsRow};
pub use counters::{Counters, Descriptor, Kind};
pub use histogram::{Exemplar, Exemplars, Histogram};
