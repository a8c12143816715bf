//! The mail between shards. It comes in two classes, each with a ring of its own per ordered pair
//! of shards: taking [`Data`] mail in may make the receiver send mail of both classes, while taking
//! [`Control`] mail in never makes it send data. Control mail can therefore always be taken in, and
//! full mailboxes cannot wait for each other in a circle.

use super::moves::{ToCluster, ToShard};
use crate::ids::{ClientKey, ListenerId, Peer, SessionRef, ShardId};
use crate::message::{Batch, MailPurpose, Message, Reserve};
use crate::overload::sources::SourceMark;
use crate::session::ShareName;
use crate::telemetry::Counters;
use crate::topic::FilterId;
use crate::transport::Layers;

/// Data mail in a mailbox.
#[derive(Debug)]
pub struct Stamped {
    /// When it was put into the mailbox, in nanoseconds of a clock that all shards read. Mail that
    /// is sent as a consequence of this one, however indirectly, has a later time.
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
    /// A message for one share group, from another node or for it.
    Passed(Box<Passed>),
}

/// Data mail that has been taken out of its mailbox and is not finished.
#[derive(Debug)]
pub struct OpenMail {
    /// The shard that sent it.
    pub from: ShardId,
    /// The mail.
    pub data: Data,
    /// The position in a batch before which all messages have been taken in or sent on.
    pub at: usize,
}

/// A message of a share group between two nodes.
#[derive(Debug)]
pub struct Passed {
    /// The group.
    pub name: ShareName,
    /// The other node, by its number here.
    pub node: u8,
    /// What the receiver is to do with it.
    pub asks: PassedFor,
    /// How often it has gone from one node to another.
    pub hops: u8,
    /// The message.
    pub message: Message,
}

/// What the receiver of a [`Passed`] message is to do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PassedFor {
    /// Give it to a member that is connected and has room; if there is none, it comes back.
    Ready,
    /// Give it to any member, whose policy decides: nobody else can take it as far as is known. It
    /// comes back only when there is no member.
    Any,
    /// Pick somebody else: no member there could take it.
    Back,
}

impl PassedFor {
    /// All of them, by number.
    pub const ALL: [PassedFor; 3] = [PassedFor::Ready, PassedFor::Any, PassedFor::Back];
}

/// The way of a message of a share group through the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Trip {
    /// How often it has gone from one node to another.
    pub hops: u8,
    /// The node that asks this one to give it to a member, and whether it asks for any member.
    pub from: Option<(u8, bool)>,
}

/// Everything else.
pub enum Control {
    /// A client whose home is the receiving shard has connected to the sender. Its socket is being
    /// handed over by the rings.
    Connect(Box<Arriving>),
    /// A session joins (or updates its options in) the share group of that filter.
    Join(Box<Join>),
    /// The group's home shard includes the member in its routing from now on.
    Joined(SessionRef, u64),
    /// A session leaves the share group.
    Leave(ShareName, SessionRef),
    /// A member of some share groups of the receiving shard is connected and has room (true), or
    /// has disconnected.
    Presence(SessionRef, bool),
    /// The share group's home shard has picked this member for a message.
    Deliver(Box<Picked>),
    /// The member could not take the message, or ended before it was done with it: the group has to
    /// pick another one.
    GiveBack(Box<GivenBack>),
    /// A new subscription asks for a slice of the matching retained messages.
    Replay(Box<ReplayRequest>),
    /// The slice that was asked for.
    Replayed(Box<ReplaySlice>),
    /// Backpressure: on that shard, the only receiver of this publisher's messages has too much
    /// output waiting.
    Park(ClientKey, ShardId),
    /// The publisher does not have to wait for that receiver any more.
    Unpark(ClientKey, ShardId, Over),
    /// This publisher waits until a fan-out of its message on the sending shard is done.
    HoldPublisher(ClientKey),
    /// The fan-out that the publisher waited for is complete.
    ReleasePublisher(ClientKey),
    /// The sender's counters, for `$SYS`.
    Counters(Box<Counters>),
    /// What a message from the receiving shard has cost the sender.
    Cost(CostReport),
    /// How many of the messages from the receiving shard are now durable at the sender, as far as
    /// they have to be.
    Safe(u64),
    /// The message with that receipt of the receiving shard is durable at the sender, as far as it
    /// has to be.
    Kept(u64),
    /// The message with that number, which the receiving shard gave back to its share group, is
    /// durable elsewhere, or nobody is to have it.
    GivenOn(u32),
    /// For the cluster: the sender has its first subscriber of the filter (true), or has none any
    /// more.
    Want(Box<str>, bool),
    /// For the cluster: about ClientIds and their sessions.
    ToCluster(Box<ToCluster>),
    /// From the cluster: the same.
    ToShard(Box<ToShard>),
    /// The sender refuses what would have to be stored there, or does not any more.
    Unstorable(bool),
}

/// What a message has cost the shard that it was sent to.
#[derive(Clone, Copy, Debug)]
pub struct CostReport {
    /// The hash of its topic's name.
    pub topic: u64,
    /// The filters there that match it ([`super::interest::Interest::matched`]).
    pub matched: Option<u64>,
    /// In the units of [`crate::limits::cost`].
    pub cost: u32,
    /// What was reserved for it.
    pub reserve: Reserve,
}

/// Why a publisher does not have to wait for a subscriber any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// The subscriber has caught up, is gone, or has been waited for long enough.
    CaughtUp,
    /// The subscriber has read nothing during the whole time.
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
    /// Whether the connection is counted for its peer's network.
    pub source: SourceMark,
    /// The ClientId that the entry shard assigned, when the client sent none.
    pub assigned: Option<Box<str>>,
    /// The CONNECT packet and whatever followed it.
    pub bytes: Vec<u8>,
    /// The protocol layers below MQTT, unless MQTT is directly on the stream.
    pub layers: Option<Layers>,
    /// Bytes that its layers have produced for the client and that have not been sent yet.
    pub wire: Vec<u8>,
}

/// A session becoming a member of a share group.
pub struct Join {
    /// The group.
    pub name: ShareName,
    /// The member.
    pub member: SessionRef,
    /// Identifies the SUBSCRIBE that waits for the confirmation.
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
    /// How the member has to take it.
    pub terms: PickTerms,
    /// What the group's home is told by when the message is durable; 0 when it need not be.
    pub receipt: u64,
    /// The message.
    pub message: Message,
}

/// How a member has to take a message of its share group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PickTerms {
    /// No other member can take messages, so the publisher waits while this one is behind.
    pub only: bool,
    /// The member is known to be disconnected: the message is queued for it.
    pub waits: bool,
    /// No member has room: this member's queue policy applies, which may drop the message.
    pub last_resort: bool,
    /// How many members have had the message or refused it before.
    pub tries: u32,
    /// Its way here from another node.
    pub trip: Trip,
}

/// A message that comes back to its share group.
pub struct GivenBack {
    /// The group.
    pub name: ShareName,
    /// Who gives it back.
    pub member: SessionRef,
    /// Why.
    pub why: NotTaken,
    /// How many members have had the message or refused it, including this one.
    pub tries: u32,
    /// Its way to this node, unless a member has had it.
    pub trip: Trip,
    /// As in [`Picked`].
    pub receipt: u64,
    /// Its number among those that are stored where it comes from; 0 if it is not.
    pub stored: u32,
    /// The message.
    pub message: Message,
}

/// Why a member has not taken a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// It is not a member any more.
    Gone,
    /// It is not connected any more, and other members may be.
    Away,
    /// Its inflight window and its queue are full, or it has too many unsent bytes.
    Full,
    /// The message exceeds its Maximum Packet Size.
    TooLarge,
    /// Its client may not read the topic, or the topic is not below its mountpoint.
    NotPermitted,
    /// It had the message, but its session or membership ended before it was done with it.
    Ended,
}

/// A request for retained messages.
pub struct ReplayRequest {
    /// Who asks.
    pub session: SessionRef,
    /// The subscription, which the answer repeats.
    pub filter: FilterId,
    /// Identifies the replay; the answer repeats it.
    pub ticket: u64,
    /// The filter's text.
    pub text: Box<str>,
    /// Where to continue; `None` to start.
    pub cursor: Option<Box<str>>,
    /// The largest number of messages in the slice.
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
    /// Where to continue; `None` when this shard has no more.
    pub cursor: Option<Box<str>>,
}
