//! What shards tell each other. Two classes with a ring of their own per ordered pair: [`Data`] may
//! make the receiver write mail itself, [`Control`] never makes it write data. So control mail can
//! always be taken in, and a chain of full mailboxes cannot close into a circle.

use crate::ids::{ClientKey, ListenerId, Peer, SessionRef, ShardId};
use crate::message::{Batch, MailPurpose, Message, Reserve};
use crate::session::ShareName;
use crate::telemetry::Counters;
use crate::topic::FilterId;
use crate::transport::Layers;

/// Data mail in a mailbox.
#[derive(Debug)]
pub struct Stamped {
    /// When it was put there: nanoseconds of one clock that all shards read. What is put into some
    /// mailbox because of it, however indirectly, has a later one.
    pub at: u64,
    /// The mail.
    pub data: Data,
}

/// Publications for the subscriptions, share groups and retained store of the receiving shard.
#[derive(Debug)]
pub enum Data {
    /// Small messages, copied.
    Batch(Batch),
    /// A large message, shared.
    One(Message, MailPurpose),
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
    Leave(ShareName, SessionRef),
    /// A member of some share groups of the receiving shard is connected and has room (true), or
    /// has disconnected.
    Presence(SessionRef, bool),
    /// The share group's home picked this member.
    Deliver(Box<Picked>),
    /// The member could not take it, or ended before it was done: pick another.
    GiveBack(Box<GivenBack>),
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
    /// A message of the topic with this hash has cost the sender so much, in the units of
    /// [`crate::limits::cost`]; so much was reserved for it.
    Cost(u64, u32, Reserve),
    /// So many of the receiving shard's messages are durable at the sender, as far as they have to.
    Safe(u64),
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
    /// What carries MQTT, if it is not the bare stream.
    pub layers: Option<Layers>,
    /// What its layers have for the client and was not sent.
    pub wire: Vec<u8>,
}

/// A session becoming a member of a share group.
pub struct Join {
    /// The group.
    pub name: ShareName,
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
    pub name: ShareName,
    /// The member.
    pub member: SessionRef,
    /// Its subscription options, packed.
    pub options: u8,
    /// Its Subscription Identifier; 0 for none.
    pub subscription_id: u32,
    /// How it is to be taken.
    pub terms: PickTerms,
    /// The message.
    pub message: Message,
}

/// How a member is to take a message of its share group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PickTerms {
    /// No other member can take more: its publisher waits while this one is behind.
    pub only: bool,
    /// The member is known not to be connected: the message waits for it.
    pub waits: bool,
    /// Nobody has room: it is taken by this member's policy, which may drop it.
    pub last_resort: bool,
    /// How many members have had or refused it before.
    pub tries: u32,
}

/// A message that comes back to its share group.
pub struct GivenBack {
    /// The group.
    pub name: ShareName,
    /// Who gives it back.
    pub member: SessionRef,
    /// Why.
    pub why: NotTaken,
    /// How many members have had or refused it, this one included.
    pub tries: u32,
    /// The message.
    pub message: Message,
}

/// Why a member has not taken a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// It is no member any more.
    Gone,
    /// It is not connected any more, and others may be.
    Away,
    /// Its window and its queue are full, or too much to it is unsent.
    Full,
    /// The message is above its Maximum Packet Size, or its topic is none below its mountpoint.
    TooLarge,
    /// It had it, but its session or membership ended before it was done with it.
    Ended,
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
