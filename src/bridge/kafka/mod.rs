//! Bridges to Kafka clusters: [`record`] (records from messages, pure), [`properties`] (what the
//! client library is told, pure), `client` (that library: librdkafka, and a thread that takes its
//! reports), `serve` (what waits goes to it, on the bridge's thread); for records that become
//! messages here [`inbound`] (pure), `consumer` (the library again, on another thread) and `bring`.
//!
//! The library is given so many bytes of records at a time, and keeps trying for ever: so the order
//! within a partition is its own to keep, and what waits beyond that is in the buffer of the
//! bridge. When it gives up on a record all the same, the library is ended, what has not arrived is
//! read again in order, and another one is started after a pause.

#[cfg(feature = "kafka")]
pub mod bring;
#[cfg(feature = "kafka")]
pub mod client;
#[cfg(feature = "kafka")]
pub mod consumer;
pub mod inbound;
pub mod properties;
pub mod record;
#[cfg(feature = "kafka")]
pub mod serve;
