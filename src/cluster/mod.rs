//! Clusters: several nodes that act as one broker. This module is what the nodes tell each other,
//! over an engine that carries frames.
//!
//! Nodes tell each other the filters of their clients ([`filters`]), so that a publication goes
//! only to the nodes that want it. Nodes address each other by name: no filter becomes a subject of
//! the engine, and the engine's work does not grow with the number of clients. To the shards,
//! another node is one more mailbox and one more bit in the interest table ([`junction`]). Messages
//! from another node go into the shards' mailboxes as mail between shards does, and are not passed
//! on to a further node.
//!
//! SUBACK waits until the other nodes know the filters ([`announced`]).
//!
//! A ClientId is at one node only: CONNECT claims it from all others, and its session moves to the
//! node of the connection ([`claims`]).
//!
//! A node tells the others the will messages of its clients; one of the others publishes them when
//! the node dies ([`wills`]).
//!
//! With `durable`, what a node stores is outside it as well ([`keeping`]), and when it is lost
//! another node takes its sessions over ([`adoption`]).
//!
//! In an upgrade another process takes the node's place; the others do not notice
//! ([`crate::upgrade::cluster`]).
//!
//! [`lane`] repairs what the engine loses, duplicates or reorders. [`node`] knows which nodes are
//! there. These modules are pure: frames, mail and the time come in as arguments. Only `nats`,
//! `serve` and `start` use sockets and threads, in the cluster's own thread.

pub mod adoption;
pub mod announced;
pub mod claims;
pub mod clock;
mod counted;
pub mod filters;
pub mod frame;
mod handing_on;
#[cfg(feature = "runtime")]
mod jetstream;
pub mod junction;
pub mod keeping;
pub mod lane;
#[cfg(feature = "runtime")]
pub mod nats;
pub mod node;
pub mod peer;
pub mod pending_asks;
pub mod record;
mod segment;
#[cfg(feature = "runtime")]
pub mod serve;
pub mod settled;
#[cfg(feature = "runtime")]
pub mod start;
pub mod wills;
