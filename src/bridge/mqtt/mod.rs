//! Bridges to other MQTT brokers: [`topics`] (which messages cross, under which names), [`session`]
//! (the protocol, pure), [`refusals`] (what happens to a refused message, pure), [`liveness`] (when
//! PINGREQ is due, and who counts as silent, pure), `serve` (the connections, on the bridge's
//! thread).

mod exchange;
pub mod liveness;
pub mod refusals;
#[cfg(feature = "runtime")]
pub mod serve;
pub mod session;
pub mod topics;
