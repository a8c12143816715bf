//! Bridges to HTTP services: [`request`] makes requests from messages (pure); `serve` sends them,
//! in lanes, on the bridge's thread.

pub mod request;
#[cfg(feature = "runtime")]
pub mod serve;
