//! What the broker counts and how it publishes that: plain `u64` figures per shard ([`Counters`],
//! [`Histogram`]), which are copied out on request, and the `$SYS` topics and the Prometheus page
//! that are made of them. One table of names, units and sentences is the source of every form.
//! Pure; owns no clock and no socket.

pub mod alarms;
mod bridges;
mod cluster;
mod counters;
mod descriptor;
mod histogram;
pub mod prometheus;
pub mod sys;
pub mod trace_context;

pub use bridges::{AccountRow, BridgeRow, ListenerRow, SpanRow, TopRow};
pub use cluster::{ClusterRow, DurableRow, NodeRow, WillsRow};
pub use counters::Counters;
pub use descriptor::{Descriptor, MetricKind};
pub use histogram::{Exemplar, Exemplars, Histogram};
