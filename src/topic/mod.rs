//! Topic names and topic filters: syntax, matching, hashing, and the two structures built on them.
//!
//! - `name`: what is a valid topic name, topic filter and shared subscription, and [`matches`], the
//!   rules of MQTT 5.0 section 4.7 to the letter.
//! - `hash`: [`TopicHash`], computed once per PUBLISH, and [`FilterKey`], the key of a filter in
//!   all tables. Seeded per process, so that nobody outside can choose names that collide.
//! - `index`: [`Index`], the subscriptions of one shard. `trie` is its fallback for filters that no
//!   hashed shape describes.
//! - `scan`: a building block of these.
//! - `retained`: [`Retained`], the retained messages of one shard, in topic order.
//!
//! Everything here is pure and owned by one shard; what shards share is `crate::mesh::interest`.
//! Not here: what a subscriber is (a session, a share group), quality of service, access control.

mod hash;
mod index;
mod name;
mod retained;
mod scan;
mod trie;

#[cfg(test)]
pub(crate) mod testing;

pub(crate) use hash::COARSE_LEVELS;
pub use hash::{FilterKey, Seeds, Shape, TopicHash, spread};
pub use index::{FilterId, Index, Removed, Subscriber};
pub use name::{
    SharedFilter, is_servers_own, levels, matches, parse_share, valid_filter, valid_name,
};
pub use retained::{Pass, Retained};
