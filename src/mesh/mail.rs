//! What shards tell each other. Two classes with a ring of their own per ordered pair: [`Data`] may
//! make the receiver write mail itself, [`Control`] never makes it write data. So control mail can
//! always be taken in, and a chain of full mailboxes cannot close into a circle.

use crate::ids::{ClientKey, ListenerId, Peer, SessionRef, ShardId};
use crate::message::{Batch, Errand, Message};
use crate::telemetry::Counters;
use crate::topic::FilterId;

/// Publications for the subscriptions, share groups and retained store of the receiving shard.
#[derive(Debug)]
pub enum Data {
    /// Small messages, copied.
    Batch(Batch),
    /// A large message, shared.
    One(Message, Errand),
}

/// Everything else.
pub enum Control {
    /// A client of the receiving shard came in at the sender; its socket is on the ring.
    Connect(Box<Arriving>),
    /// A session joins (or updates its options in) the share group of that filter.
    Join(Box<Join>),
    /// The group's home shard routes for the member from now on.
    Joined(SessionRef, u64),
    /// A session leaves the share group.
    Leave(Box<str>, SessionRef),
    /// A member of the share group connected (true) or disconnected.
    Presence(Box<str>, SessionRef, bool),
    /// The share group's home picked this member.
    Deliver(Box<Picked>),
    /// The picked member is gone; pick another.
    Undelivered(Box<Picked>),
    /// A new subscription wants a slice of matching retained messages.
    Replay(Box<ReplayRequest>),
    /// The slice.
    Replayed(Box<ReplaySlice>),
    /// The only receiver of this publisher's messages on that shard is crowded.
    Park(ClientKey, ShardId),
    /// The publisher need not wait for it any more.
    Unpark(ClientKey, ShardId, Over),
    /// This publisher waits until a fan-out of its message on the sending shard is done.
    HoldPublisher(ClientKey),
    /// The fan-out is done.
    ReleasePublisher(ClientKey),
    /// The sender's counters, for `$SYS`.
    Counters(Box<Counters>),
}

/// Why a publisher need not wait for a subscriber any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The subscriber has caught up or is gone, or has been crowded for too long.
    CaughtUp,
    /// The subscriber has read nothing all the time.
    InVain,
}

/// A client on its way to its home shard.
pub struct Arriving {
    /// Pairs this mail with the socket that arrives on the ring.
    pub cookie: u64,
    /// Where it came in.
    pub listener: ListenerId,
    /// Who it is.
    pub peer: Peer,
    /// The ClientId that the entry shard assigned, when the client sent none.
    pub assigned: Option<Box<str>>,
    /// The CONNECT packet and whatever followed it.
    pub bytes: Vec<u8>,
}

/// A session becoming a member of a share group.
pub struct Join {
    /// `$share/group/filter`.
    pub filter: Box<str>,
    /// The member.
    pub member: SessionRef,
    /// Names the SUBSCRIBE that waits for the confirmation.
    pub ticket: u64,
    /// Subscription options, packed.
    pub options: u8,
    /// Subscription Identifier; 0 for none.
    pub subscription_id: u32,
}

/// A message for one member of a share group.
pub struct Picked {
    /// The group.
    pub filter: Box<str>,
    /// The member.
    pub member: SessionRef,
    /// Its subscription options, packed.
    pub options: u8,
    /// Its Subscription Identifier; 0 for none.
    pub subscription_id: u32,
    /// The message.
    pub message: Message,
}

/// A request for retained messages.
pub struct ReplayRequest {
    /// Who asks.
    pub session: SessionRef,
    /// The subscription; only echoed.
    pub filter: FilterId,
    /// Names the replay; only echoed.
    pub ticket: u64,
    /// The filter's text.
    pub text: Box<str>,
    /// Where to go on.
    pub cursor: Option<Box<str>>,
    /// Most messages.
    pub limit: u32,
}

/// Retained messages.
pub struct ReplaySlice {
    /// Who asked.
    pub session: SessionRef,
    /// The subscription.
    pub filter: FilterId,
    /// The replay that asked for it.
    pub ticket: u64,
    /// The messages, in topic order.
    pub messages: Vec<Message>,
    /// Where to go on; `None` when this shard has no more.
    pub cursor: Option<Box<str>>,
}
