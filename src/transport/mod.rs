//! TEMP
pub mod tls;
