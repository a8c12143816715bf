//! What the engine keeps for the nodes: a journal for each shard of each node, and a few keys. Both
//! are sequences of entries, each of which has a sequence number that is larger than that of any
//! earlier entry. Of a key only the last entry is kept.

use crate::ids::ShardId;

/// A sequence of entries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum KeptAt {
    /// The journal of a shard of the node with this name.
    Journal(Box<str>, u8),
    /// A key.
    Key(Box<str>),
}

/// What the engine is asked to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepRequest {
    /// Name the last entry. Answered by [`KeepReply::Last`].
    Last,
    /// Add an entry. With a number, only if the last entry has that sequence number, 0 for none.
    /// Answered by [`KeepReply::Stored`] or [`KeepReply::Refused`].
    Store(Option<u64>, Vec<u8>),
    /// Hand out some entries from this sequence number on, in order. Answered by
    /// [`KeepReply::Entries`].
    Read(u64),
    /// Remove the entries before this sequence number. Answered by [`KeepReply::Trimmed`].
    Trim(u64),
}

/// The engine's answer. There is one for each request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeepReply {
    /// The last entry with its sequence number.
    Last(Option<(u64, Vec<u8>)>),
    /// The entry has this sequence number.
    Stored(u64),
    /// Another entry is the last one.
    Refused,
    /// Entries with their sequence numbers; none when there are none from there on.
    Entries(Vec<(u64, Vec<u8>)>),
    /// The entries are removed.
    Trimmed,
    /// Nothing is known of the outcome.
    Failed,
}

/// Who asks the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAsker {
    /// The journal of this shard.
    Shard(ShardId),
    /// The adoption of another node's sessions, in the step with this number.
    Adoption(u32),
    /// Nobody waits for the answer.
    Nobody,
}
