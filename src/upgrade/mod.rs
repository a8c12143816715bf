//! An upgrade: a broker hands its clients over to a new process without dropping a connection.
//!
//! # The way
//! 1. The running broker (*old*) starts the new binary with one end of a socket pair and sends
//!    [`UpgradeFrame::Hello`]: the version of this protocol, old's clock and old's placement
//!    secret. The new process (*new*) starts its cores with that clock and that secret, opens no
//!    listener, and answers [`UpgradeFrame::Ready`]. New may answer [`UpgradeFrame::Refused`] with
//!    a reason instead; then nothing has moved.
//! 2. Old sends its listening sockets and copies its clients while it serves them
//!    ([`client::Early`]): a second descriptor of each socket, and all that belongs to the client;
//!    sessions without a connection and retained messages as well. New puts everything in its
//!    place, where it does nothing. Clients that do something after that are copied again, in
//!    rounds, while they become fewer: as [`client::Remainder`] if only messages in flight and the
//!    connection have changed, as a whole [`client::MovedClient`] otherwise. Copies whose
//!    connection or session has ended are named ([`UpgradeFrame::Gone`]). With a store, new finds
//!    out where each value is in its files ([`UpgradeFrame::Store`]) before the clients are copied
//!    and once more afterwards, so that only the end of each log is left to be read in step 4; new
//!    changes nothing there. The store's lock travels like a socket, so that both processes hold
//!    it. Old goes on as if nothing had been copied, with two exceptions: old shuts a copied socket
//!    down before closing it, as new's descriptor would otherwise keep the connection open; and
//!    neither process reads a copied socket before the kernel tells that there is something to read
//!    (`ring::moving`). Both can wait for that, as it takes nothing out of the socket.
//! 3. Old suspends its shards: no socket is read any more (where one is being read, the receive is
//!    cancelled and its last bytes are processed), no connection is accepted, and no timer fires.
//!    Mail, fan-outs and requests that are under way are finished. If that takes too long, old goes
//!    on serving. With a store, everything is made durable, and nothing on the disk changes any
//!    more ([`UpgradeFrame::Durable`]).
//! 4. Old takes back the sends that its clients do not read. Each of its shards names the copies
//!    that are not right ([`UpgradeFrame::Stale`]) and sends what has changed of them, and clients
//!    that were not copied, with their sockets. Sockets travel by SCM_RIGHTS. New puts them into
//!    its rings and the clients into its shards, each at its new home. A stored session keeps its
//!    number ([`client::StoredAs`]), and every session of the store has to arrive.
//! 5. When new has everything, and the totals of both sides agree, new sends
//!    [`UpgradeFrame::Prepared`], old sends [`UpgradeFrame::Commit`], and new sends
//!    [`UpgradeFrame::Committed`] and serves. Old ends when it has read that.
//!
//! So the pause, steps 3 to 5, depends on how many clients did something in the last milliseconds,
//! and hardly on how many there are.
//!
//! Old's state stays complete until then, so in every other case old goes on serving with it;
//! [`sides`] decides which process serves when. New serves only after it has sent
//! [`UpgradeFrame::Committed`], and old goes on only after new is dead without having sent that.
//! The two processes therefore never serve at the same time. If old is killed in the middle, new
//! serves the clients of which it knows everything: those whose copies were not named as stale, and
//! those that have come since. The other sockets are closed with old. With a store, new serves only
//! if every session and as many retained messages as are in the store have arrived; otherwise new
//! ends, and the next start restores them from the store. Without one, new logs how many retained
//! messages it lacks of those that old's shards had, and how many shards had not said so much.
//!
//! New starts the bridges when old has ended: old's bridges send what they have, as at any end of
//! the broker, and leave the rest on the disk. Messages for the bridges wait in new's links
//! meanwhile. With `puback: delivered`, a PUBLISH is acknowledged when the other end of a bridge
//! has it: old's shards come to rest when no publisher waits for that any more, and if the other
//! end takes too long, old goes on.
//!
//! A node of a cluster stays the node that it was ([`cluster`]): old's cluster thread rests with
//! its shards and hands over what it has of every other node ([`UpgradeFrame::Node`]), before any
//! client, so that a process that serves clients of a node is that node. Until then the new process
//! only listens to its own shards. The other nodes see frames that are sent again.
//!
//! With `durable`, the shards come to rest when the cluster's stream has everything that is durable
//! and nothing is under way to it, and when no session is being adopted. New asks where the stream
//! stands before it acknowledges anything: whatever has become of old's last entry, the journal
//! goes on behind it. While old packs and new takes in, old says that the node is there, so no
//! other node adopts its sessions; and if one does all the same, because nobody heard of it for too
//! long, new finds the fence in its journals as old would have, and ends the sessions.
//!
//! Counters go on: what each shard has counted that only grows is handed over, and so are bans and
//! what was counted that may lead to one.
//!
//! # Why not both serve
//! The other way would be that both processes serve, and clients move in batches: publications
//! between clients of the two would cross as between nodes of a cluster, and takeover, share
//! groups, retained messages, wills and `$SYS` would need an owner in one of two processes at each
//! moment. Each client would wait for its batch only, some 20 ms. But the clients of one shard are
//! bound to each other by the order of their messages, so each batch would have to come to rest
//! with all others, and every mistake in that would be one of order or loss. Copying in advance
//! needs none of it, and leaves less than a batch to move.
//!
//! # What this version does not do yet
//! With a store, only the socket is copied in advance of a session whose messages wait there: such
//! sessions are packed and taken in while nobody serves, some microseconds for each. Clients that
//! cannot move are refused by name before anything moves: those whose delivery of retained messages
//! takes longer than the pause lasts. Counts that neither a shard nor the cluster's thread keeps
//! begin at zero in the new process: of bridges and of the admin server, and the histogram of the
//! shards' steps.
//!
//! This module is pure: it uses no socket and no process. `broker::upgrade` carries the upgrade
//! out.

pub mod client;
pub mod cluster;
pub mod code;
pub mod frame;
pub mod homes;
pub mod sides;

pub use frame::UpgradeFrame;

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 8;
/// The oldest version from which this build can take clients over.
pub const OLDEST: u16 = 8;
