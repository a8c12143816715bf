//! Bridges to other MQTT brokers: [`topics`] (which messages, under which names), [`session`] (what
//! is said, pure), [`refusals`] (what becomes of a message that is not taken), `serve`
//! (connections, on the bridge's thread).

mod exchange;
pub mod refusals;
#[cfg(feature = "runtime")]
pub mod serve;
pub mod session;
pub mod topics;
