//! An upgrade: a broker hands its clients over to a new process without dropping a connection.
//!
//! # The way
//! 1. The running broker (*old*) starts the new binary with one end of a socket pair and says
//!    [`Frame::Hello`]: the version of this protocol, its clock and its secret of placement. The
//!    new process (*new*) starts its cores with that clock and secret, opens nothing, and says
//!    [`Frame::Ready`]; or it says why it refuses, and nothing has moved.
//! 2. Old suspends its shards: no socket is read any more (each receive is cancelled and its last
//!    bytes are processed), nobody is accepted, no timer fires. Mail, fan-outs and requests that
//!    are under way are finished. If that takes too long, old goes on serving.
//! 3. Old takes back the sends that its clients do not read, and sends its listening sockets, its
//!    clients and its retained messages. A client's socket travels by SCM_RIGHTS, and
//!    [`client::Client`] says what belongs to it: its session, what was received and not processed,
//!    what was not sent. New puts the sockets into its rings and the clients into its shards, each
//!    at its new home, and asks nothing of the sockets yet.
//! 4. When new has everything, and the numbers agree, it says [`Frame::Prepared`]; old says
//!    [`Frame::Commit`]; new says [`Frame::Committed`] and serves. Old ends when it has read that.
//!
//! Nothing of old is changed before that, so in every other case it goes on serving with what it
//! has: [`sides`] is the whole of who serves when. New serves only after it has said
//! [`Frame::Committed`], and old goes on only after new is dead and has not said it. So nothing is
//! ever served by both, and nothing by nobody unless both processes are killed.
//!
//! # What this version does not do yet
//! Both sides do not serve at the same time: clients are silent from step 2 to 4, about as long as
//! their number takes to move. What cannot move is refused by name before anything does: a broker
//! with a store or bridges, and clients that are being sent retained messages for longer than the
//! pause lasts. Counters begin at zero in the new process.
//!
//! This module is pure: it knows no socket and no process. `broker::upgrade` carries it out.

pub mod client;
pub mod code;
pub mod frame;
pub mod sides;

pub use frame::Frame;

/// The version of the protocol that this build speaks.
pub const VERSION: u16 = 1;
/// The oldest version that it can take clients over from.
pub const OLDEST: u16 = 1;
