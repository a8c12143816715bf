//! RingMQ: a thread-per-core, shared-nothing MQTT broker for Linux on io_uring.
#[cfg(feature = "runtime")]
pub mod broker;
pub mod config;
pub mod doctor;
pub mod ids;
pub mod limits;
pub mod mesh;
pub mod message;
pub mod packet;
#[cfg(feature = "runtime")]
pub mod ring;
pub mod session;
pub mod shard;
pub mod slab;
pub mod telemetry;
pub mod time;
pub mod topic;
