//! What crosses between shards.
pub mod interest;
