//! An upgrade: a broker hands its clients over to a new process without dropping a connection.
//!
//! # The way
//! 1. The running broker (*old*) starts the new binary with one end of a socket pair and says
//!    [`Frame::Hello`]: the version of this protocol, its clock and its secret of placement. The
//!    new process (*new*) starts its cores with that clock and secret, opens nothing, and says
//!    [`Frame::Ready`]; or it says why it refuses, and nothing has moved.
//! 2. Old sends its listening sockets, and copies its clients while it serves them
//!    ([`client::Early`]): a second descriptor of each socket, and of its session what seldom
//!    changes. New puts both in place, where they do nothing. Old goes on as if nothing had been
//!    copied; only, a socket that has a copy is shut down before it is closed.
//! 3. Old suspends its shards: no socket is read any more (each receive is cancelled and its last
//!    bytes are processed), nobody is accepted, no timer fires. Mail, fan-outs and requests that
//!    are under way are finished. If that takes too long, old goes on serving. With a store,
//!    everything is made durable, and nothing is changed on the disk any more.
//! 4. Old takes back the sends that its clients do not read, and sends its clients and its retained
//!    messages. Of a client that was copied and whose session is still the same, that is a
//!    [`client::Remainder`]: what flows, what was received and not processed, what was not sent. Of
//!    any other it is a [`client::Client`], all that belongs to it, with its socket if that was not
//!    copied. Sockets travel by SCM_RIGHTS. New puts them into its rings and the clients into its
//!    shards, each at its new home, and asks nothing of the sockets yet. Copies that nobody has
//!    claimed by then go: their clients have gone since. The store's lock travels like a socket:
//!    both processes have it. New reads where in the files each value is, and changes nothing
//!    there; a stored session goes on under its number ([`client::StoredAs`]), and every session of
//!    the store has to come.
//! 5. When new has everything, and the numbers agree, it says [`Frame::Prepared`]; old says
//!    [`Frame::Commit`]; new says [`Frame::Committed`] and serves. Old ends when it has read that.
//!
//! Nothing of old is changed before that, so in every other case it goes on serving with what it
//! has: [`sides`] is the whole of who serves when. New serves only after it has said
//! [`Frame::Committed`], and old goes on only after new is dead and has not said it. So nothing is
//! ever served by both. When old is killed in the middle, new serves what it has; the sockets that
//! it has not are closed with old. With a store it serves only if it has every session of it, or it
//! ends, and a start restores them.
//!
//! Bridges are started by new when old has ended: old's send what they have, as at any end of the
//! broker, and leave the rest on the disk. What comes for them meanwhile waits in new's links.
//!
//! # What this version does not do yet
//! Both sides do not serve at the same time: clients are silent from step 3 to 5, about as long as
//! it takes to stop and begin reading that many sockets, and to move what was not copied. Sessions
//! without a connection, and stored ones, are not copied before. What cannot move is refused by
//! name before anything does: a node of a cluster, bridges with `puback: delivered`, and clients
//! that are being sent retained messages for longer than the pause lasts. Counters begin at zero in
//! the new process, and so does the count of what leads to a ban; bans themselves go over.
//!
//! This module is pure: it knows no socket and no process. `broker::upgrade` carries it out.

pub mod client;
pub mod code;
pub mod frame;
pub mod sides;

pub use frame::Frame;

use crate::config::{Bridge, BridgePuback, Config};

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 4;
/// The oldest version that it can take clients over from.
pub const OLDEST: u16 = 4;

/// The key of what cannot be handed over, or be begun with by the new broker, yet. Two nodes of one
/// name would be in a cluster at the same time; and a PUBLISH whose acknowledgement waits for a
/// bridge's other end could not be acknowledged by a process that does not have it.
pub fn unmovable(config: &Config) -> Option<&'static str> {
    let waits = |bridge: &Bridge| bridge.puback == BridgePuback::Delivered;
    let keys = [
        ("bridges.puback: delivered", config.bridges.iter().any(waits)),
        ("cluster.name", !config.cluster.name.is_empty()),
    ];
    keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
}
