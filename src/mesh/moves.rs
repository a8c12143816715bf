//! What the shards of a node and its cluster tell each other: control mail. About ClientIds and
//! sessions the protocol is in `cluster::claims`, a shard's part in `shard::claims`; about retained
//! messages in `cluster::node::retelling` and `shard::stamps`; on filters in `cluster::announced`;
//! on wills in `cluster::wills`.

use super::adopting::{OfStream, Orphan, ToStream};
use super::mail::Passed;
use crate::ids::{SessionRef, ShardId};
use crate::message::Message;
use crate::telemetry::trace_context::{SpanId, TraceId};
use crate::time::Instant;

/// A session on its way to another node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Move {
    /// The number of that node, here.
    pub node: u8,
    /// The number of that node's claim, there.
    pub claim: u64,
}

/// The number of a claim: of the shard that makes it, with a ticket of its own.
pub fn claim_number(shard: ShardId, ticket: u64) -> u64 {
    ticket << 8 | u64::from(shard.0)
}

/// What the holder of a ClientId is to do with its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionDemand {
    /// The client goes on with it: the session moves.
    Moved,
    /// The client begins anew: the session ends.
    Ended,
    /// The claiming node takes no session: it stays, without its connection.
    Left,
    /// The same, and the claiming node has a session of its own.
    Here,
}

/// How a claim ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClaimOutcome {
    /// The ClientId is this node's, and what there was of a session has come.
    Ours,
    /// Another node's claim is newer. What is on its way here still comes.
    Lost,
    /// The session was on its way and does not come any more.
    SessionLost,
    /// Nobody waits for the claim any more: a later client of this node has the ClientId, or the
    /// client has been told [`ClaimOutcome::Lost`].
    Over,
}

/// Where to go on with what a shard keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whence {
    /// With the retained message after that of this topic, or the first.
    Kept(Option<Box<str>>),
    /// With the topic that was cleared after this one, or the first.
    Cleared(Option<Box<str>>),
}

/// A node is told of all retained messages: some more are wanted.
#[derive(Debug)]
pub struct Retell {
    /// Its number.
    pub node: u8,
    /// Tells the times apart that it is told of all; the answer repeats it.
    pub ticket: u32,
    /// Where to go on.
    pub whence: Whence,
}

/// The answer to [`Retell`].
#[derive(Debug)]
pub struct Retold {
    /// As in [`Retell`].
    pub node: u8,
    /// As in [`Retell`].
    pub ticket: u32,
    /// Retained messages and their stamps; without a payload: the topic was cleared.
    pub messages: Vec<(u64, Message)>,
    /// Where to go on; `None` when that was all.
    pub next: Option<Whence>,
}

/// When a will is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WillDue {
    /// So many seconds after the client's connection has ended.
    After(u32),
    /// Then: the connection has ended.
    At(Instant),
}

/// The will of a client, for whoever publishes it when the client's node is gone.
#[derive(Clone, Debug)]
pub struct FarWill {
    /// The message.
    pub message: Message,
    /// When it is due.
    pub due: WillDue,
    /// Its Message Expiry Interval in seconds, which starts when it is published.
    pub message_expiry: Option<u32>,
    /// Whether the client's node has stored it, and would send it when it is back.
    pub stored: bool,
}

/// A sampled message has come from another node: for its trace.
#[derive(Debug)]
pub struct SampledArrival {
    /// The node's name.
    pub node: Box<str>,
    /// The trace.
    pub trace: TraceId,
    /// The span of its routing there.
    pub routing: SpanId,
    /// When it was taken in, microseconds on the clock of the shards.
    pub began: u64,
    /// Its topic.
    pub topic: Box<str>,
    /// Its QoS.
    pub qos: u8,
    /// Bytes of its payload.
    pub payload: usize,
    /// Others of which nobody was told since the last one.
    pub untold: u64,
}

/// What goes of a session to another node besides its subscriptions, as bytes.
#[derive(Default, Debug)]
pub struct PackedParts {
    /// Filters whose retained messages the client is still owed, in parts.
    pub owed: Vec<Vec<u8>>,
    /// Windows and queue, in parts; none when the session does not go.
    pub parts: Vec<Vec<u8>>,
}

/// What a shard tells the cluster.
#[derive(Debug)]
pub enum ToCluster {
    /// A client of that ClientId wants to come in.
    Claim(u64, Box<str>, SessionDemand),
    /// The answer to [`ToShard::Surrender`]: the session's subscriptions, if it is to move.
    Surrendered(Move, Option<Vec<u8>>),
    /// The subscriptions that came with that claim are in place.
    Placed(u64),
    /// All data mail that was written before [`ToShard::Fence`] came is in the mailboxes.
    Fenced,
    /// The answer to [`ToShard::Pack`].
    Packed(Move, PackedParts),
    /// The session that came with that claim is complete here, or is not taken.
    Settled(u64),
    /// Retained messages.
    Retold(Box<Retold>),
    /// The SUBSCRIBE with that ticket is done here: say when the other nodes know its filters.
    Ask(SessionRef, u64),
    /// The will of the client of that ClientId from now on; `None`: it has none.
    Will(Box<str>, Option<FarWill>),
    /// What the journal of the shard's log wants of the stream.
    Journal(ToStream),
    /// So many more bytes of adopted sessions are safe here.
    Adopted(u64),
}

/// What the cluster tells a shard.
#[derive(Debug)]
pub enum ToShard {
    /// A claim is over.
    Claimed(u64, ClaimOutcome),
    /// Another node claims the ClientId.
    Surrender(Move, Box<str>, SessionDemand),
    /// Subscriptions of the session that was claimed.
    Adopt(u64, Vec<u8>),
    /// Some filters whose retained messages the client is still owed.
    Owed(u64, Vec<u8>),
    /// A part of its windows and queue; true: the last.
    Continue(u64, Vec<u8>, bool),
    /// Say when all data mail is in the mailboxes.
    Fence,
    /// What was published before every node knew of the new place has come: the rest of the session
    /// is to go.
    Pack(Move),
    /// The other node has the session: it ends here.
    Done(Move),
    /// The other node is gone: the session stays.
    Keep(Move),
    /// Some retained messages are wanted, behind all that came before this.
    Retell(Retell),
    /// The answer to [`ToCluster::Ask`].
    Known(SessionRef, u64),
    /// The node with that number has members of the share group from now on (true), or none any
    /// more.
    Group(u8, Box<str>, bool),
    /// A message of a share group has not reached its node, and is to go elsewhere.
    Unpassed(Box<Passed>),
    /// The will of a client whose node is gone is to be published.
    Will(FarWill),
    /// The will of that ClientId, which was stored when this node ended, is no more to be sent:
    /// another node has sent it, or has the client.
    WillSettled(Box<str>),
    /// A sampled message has come.
    Arrived(SampledArrival),
    /// An answer to [`ToCluster::Journal`].
    Journal(OfStream),
    /// A session of a lost node is to be adopted.
    Orphan(Box<Orphan>),
}
