//! Bridges to other MQTT brokers: [`topics`] (which messages, under which names), [`session`] (what
//! is said, pure), `serve` (connections, on the bridge's thread).

mod exchange;
#[cfg(feature = "runtime")]
pub mod serve;
pub mod session;
pub mod topics;
