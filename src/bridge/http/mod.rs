//! Bridges to HTTP services: [`request`] (what is asked, from a message, pure), `serve` (lanes of
//! requests, on the bridge's thread).

pub mod request;
#[cfg(feature = "runtime")]
pub mod serve;
