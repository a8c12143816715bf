//! Several nodes that are one broker: what they tell each other, over an engine that carries
//! frames.
//!
//! Nodes tell each other the filters of their clients ([`filters`]), so that a publication goes
//! only to the nodes that want it, and address each other by name: no filter becomes a subject of
//! the engine, and the engine's work does not grow with clients. To the shards another node is one
//! more mailbox and one more bit in the interest table ([`junction`]); what comes from it is put
//! into the shards' mailboxes as their own mail is, and goes to no further node.
//!
//! SUBACK waits until the others know the filters ([`announced`]).
//!
//! A ClientId is at one node: CONNECT claims it from all others, and its session comes along
//! ([`claims`]).
//!
//! The wills of a node's clients are told to the others, one of which publishes them when the node
//! dies ([`wills`]).
//!
//! What the engine loses, doubles or reorders is put right by [`lane`]. [`node`] knows who is
//! there. All of this is pure: frames, mail and the time come in as arguments.

pub mod announced;
pub mod claims;
pub mod clock;
pub mod filters;
pub mod frame;
pub mod junction;
pub mod lane;
#[cfg(feature = "runtime")]
pub mod nats;
pub mod node;
pub mod peer;
pub mod pending_asks;
pub mod record;
#[cfg(feature = "runtime")]
pub mod serve;
#[cfg(feature = "runtime")]
pub mod start;
pub mod wills;
