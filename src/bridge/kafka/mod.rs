//! Bridges to Kafka clusters. For sending: [`record`] makes records from messages (pure),
//! [`properties`] has the client library's properties (pure), `client` is that library, librdkafka,
//! with a thread that receives its reports, and `serve` gives waiting messages to the client, on
//! the bridge's thread; `token` gets what proves who the client is, where that is a token. For
//! records that become messages here: [`inbound`] (pure), `consumer` (the library again, on another
//! thread) and `bring`.
//!
//! The library is given a bounded number of bytes of records at a time, and keeps trying without
//! end. So the library keeps the order within a partition, and further messages wait in the
//! bridge's buffer. When the library gives up on a record all the same, the client is ended, the
//! messages that have not arrived are read again in order, and another client is started after a
//! pause.

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
#[cfg(feature = "kafka")]
pub mod token;
