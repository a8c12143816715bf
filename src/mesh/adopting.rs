//! What a shard and the cluster tell each other about the journal of the shard's log
//! ([`crate::storage::journal`]), and about sessions of a lost node that this node adopts
//! ([`crate::cluster::adoption`]).

use crate::message::Message;
use crate::session::Queued;
use std::fmt;

/// What a journal wants of the stream. Each of the first two has one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToStream {
    /// Name the last entry. Answered by [`OfStream::Last`] or [`OfStream::Failed`].
    Last,
    /// Store an entry behind the one with this sequence number, 0 for none. Answered by
    /// [`OfStream::Stored`] or [`OfStream::Failed`].
    Store(u64, Vec<u8>),
    /// Remove the entries before the one with this sequence number.
    Trim(u64),
    /// The answer to [`OfStream::Look`]: the sessions that were adopted elsewhere have ended, or
    /// there is no fence.
    Ended,
}

/// An answer of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OfStream {
    /// The last entry, with its sequence number.
    Last(Option<(u64, Vec<u8>)>),
    /// The entry was stored under this sequence number.
    Stored(u64),
    /// Another entry is the last one, or nothing is known of the outcome.
    Failed,
    /// Another node may have put a fence into the journals of this one. Nothing that waits for the
    /// stream may be acknowledged any more, and the last entry is to be looked at. Answered by
    /// [`ToStream::Ended`].
    Look,
    /// All shards have answered: the journal may go on behind the fence.
    GoOn,
}

/// The will of a session that is adopted.
#[derive(Debug)]
pub struct OrphanWill {
    /// The message.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// Message Expiry Interval of the will message in seconds.
    pub message_expiry: Option<u32>,
    /// When it is due, in milliseconds since 1970; 0 if there was a connection.
    pub due: u64,
}

/// A session of a node that is lost.
pub struct Orphan {
    /// The ClientId.
    pub client_id: Box<str>,
    /// The listener's prefix of its topics.
    pub mountpoint: Box<str>,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// When it ends, in milliseconds since 1970; 0 if it had a connection, the largest number for
    /// never.
    pub ends: u64,
    /// Protocol level of its last connection: 3, 4 or 5.
    pub level: u8,
    /// Whether it was a mosquitto bridge's.
    pub bridge: bool,
    /// Subscriptions: filter, options as in the index, identifier.
    pub subscriptions: Vec<(Box<str>, u8, u32)>,
    /// Messages that were sent: packet identifier, whether PUBREC has come, the message.
    pub sent: Vec<(u16, bool, Queued)>,
    /// Messages that wait, in order.
    pub waiting: Vec<Queued>,
    /// Packet identifiers of QoS 2 messages that the client has sent.
    pub inbound: Vec<u16>,
    /// Its will.
    pub will: Option<OrphanWill>,
}

impl Orphan {
    /// Bytes of its messages and texts, about.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.subscriptions.iter().map(|(filter, ..)| filter.len() + 32).sum();
        let sent = self.sent.iter().map(|(_, _, queued)| queued);
        let messages = sent.chain(&self.waiting).map(|queued| queued.message.size() + 64);
        size_of::<Orphan>() + self.client_id.len() + texts + messages.sum::<usize>()
    }
}

impl fmt::Debug for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orphan").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}
