//! An upgrade: a broker hands its clients over to a new process without dropping a connection.
//!
//! # The way
//! 1. The running broker (*old*) starts the new binary with one end of a socket pair and sends
//!    [`UpgradeFrame::Hello`]: the version of this protocol, old's clock and old's placement
//!    secret. The new process (*new*) starts its cores with that clock and that secret, opens no
//!    listener, and answers [`UpgradeFrame::Ready`]. New may answer [`UpgradeFrame::Refused`] with
//!    a reason instead; then nothing has moved.
//! 2. Old sends its listening sockets and copies its clients while it serves them
//!    ([`client::Early`]): a second descriptor of each socket, and the parts of each session that
//!    seldom change. New puts both in place, where they do nothing. Old goes on as if nothing had
//!    been copied, with one exception: old shuts a copied socket down before closing it, as new's
//!    descriptor would otherwise keep the connection open.
//! 3. Old suspends its shards: no socket is read any more (each receive is cancelled and its last
//!    bytes are processed), no connection is accepted, and no timer fires. Mail, fan-outs and
//!    requests that are under way are finished. If that takes too long, old goes on serving. With a
//!    store, everything is made durable, and nothing on the disk changes any more.
//! 4. Old takes back the sends that its clients do not read, and sends its clients and its retained
//!    messages. A client that was copied and whose session is unchanged since is sent as a
//!    [`client::Remainder`]: its messages in flight, the bytes that were received but not
//!    processed, and the bytes that were not sent. Any other client is sent as a whole
//!    [`client::MovedClient`], with its socket if that was not copied. Sockets travel by
//!    SCM_RIGHTS. New puts the sockets into its rings and the clients into its shards, each at its
//!    new home, and submits no operation on the sockets yet. Copies that no `Remainder` has claimed
//!    by then are dropped: their clients have disconnected since. The store's lock travels like a
//!    socket, so that both processes hold it. New finds out where each value is in the store's
//!    files and changes nothing there. A stored session keeps its number ([`client::StoredAs`]),
//!    and every session of the store has to arrive.
//! 5. When new has everything, and the totals of both sides agree, new sends
//!    [`UpgradeFrame::Prepared`], old sends [`UpgradeFrame::Commit`], and new sends
//!    [`UpgradeFrame::Committed`] and serves. Old ends when it has read that.
//!
//! Old's state stays complete until then, so in every other case old goes on serving with it;
//! [`sides`] decides which process serves when. New serves only after it has sent
//! [`UpgradeFrame::Committed`], and old goes on only after new is dead without having sent that.
//! The two processes therefore never serve at the same time. If old is killed in the middle, new
//! serves the clients that have arrived; the sockets that have not arrived are closed with old.
//! With a store, new serves only if every session of the store has arrived; otherwise new ends, and
//! the next start restores the sessions from the store.
//!
//! New starts the bridges when old has ended: old's bridges send what they have, as at any end of
//! the broker, and leave the rest on the disk. Messages for the bridges wait in new's links
//! meanwhile.
//!
//! # What this version does not do yet
//! Both sides do not serve at the same time: clients get no answer from step 3 to step 5, for about
//! as long as it takes to stop and restart reading on all sockets and to move what was not copied.
//! Sessions without a connection, and stored sessions, are not copied in advance. Configurations
//! and clients that cannot move are refused by name before anything moves: a node of a cluster,
//! bridges with `puback: delivered`, and clients whose delivery of retained messages takes longer
//! than the pause lasts. Counters begin at zero in the new process, and so do the counts that lead
//! to a ban; bans themselves are handed over.
//!
//! This module is pure: it uses no socket and no process. `broker::upgrade` carries the upgrade
//! out.

pub mod client;
pub mod code;
pub mod frame;
pub mod sides;

pub use frame::UpgradeFrame;

use crate::config::{Bridge, BridgePuback, Config};

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 4;
/// The oldest version from which this build can take clients over.
pub const OLDEST: u16 = 4;

/// The configuration key that rules an upgrade out, in the old or the new configuration, if there
/// is one. With `cluster.name`, two nodes of the same name would be in the cluster at the same
/// time. With `puback: delivered`, the acknowledgement of a PUBLISH waits for the other end of a
/// bridge, and the new process does not have that bridge's state.
pub fn unmovable(config: &Config) -> Option<&'static str> {
    let waits = |bridge: &Bridge| bridge.puback == BridgePuback::Delivered;
    let keys = [
        ("bridges.puback: delivered", config.bridges.iter().any(waits)),
        ("cluster.name", !config.cluster.name.is_empty()),
    ];
    keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
}
