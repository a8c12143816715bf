//! In which order a shard takes data mail out of its mailboxes.
//!
//! One mailbox is first in, first out. Between two the order of cause and effect counts: what shard
//! A put into a mailbox before it acknowledged something comes before what shard B put there after
//! the client had that acknowledgement. Each item carries the time at which it was put there, and
//! the items that are there at [`Reading::note`] are taken oldest first. Together that is enough:
//! whoever sees B's item as of the note, and only then looks at A's mailbox, finds A's item there,
//! with an earlier time. Only the note makes it so: without it A's mailbox may have been looked at
//! before A put its item in, and B's after B did. Checked by `tests/loom`.
use super::mailbox::MailEnds;
use crate::ids::ShardId;
use crate::mutant::Mutant;

/// How far a shard has read its mailboxes.
pub struct Reading {
    /// Data items of each peer that were taken in, ever.
    taken: Vec<u64>,
    /// How many of each there were at the last note.
    noted: Vec<u64>,
}

/// A point in every mailbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Position(Vec<u64>);

impl Reading {
    /// Of `shards` mailboxes, all empty.
    pub fn new(shards: usize) -> Self {
        Reading { taken: vec![0; shards], noted: vec![0; shards] }
    }

    /// Notes what is there now. `open` is the peer whose item was popped and is not yet done.
    pub fn note<D, C>(&mut self, ends: &MailEnds<D, C>, open: Option<ShardId>) {
        for (peer, noted) in self.noted.iter_mut().enumerate() {
            let source = ShardId(peer as u8);
            let popped = self.taken[peer] + u64::from(open == Some(source));
            *noted = popped + ends.data_waiting(source) as u64;
        }
    }

    /// Up to where there was mail at the last note.
    pub fn noted(&self) -> Position {
        Position(self.noted.clone())
    }

    /// True when everything that was noted has been taken in.
    pub fn is_done(&self) -> bool {
        self.taken.iter().zip(&self.noted).all(|(taken, noted)| taken >= noted)
    }

    /// True when everything before `position` has been taken in.
    pub fn is_past(&self, position: &Position) -> bool {
        self.taken.iter().zip(&position.0).all(|(taken, there)| taken >= there)
    }

    /// Whose item is next, while not all is done that was noted. What came after the note is taken
    /// before anything later that was noted.
    pub fn next<D, C>(&self, ends: &MailEnds<D, C>, stamp: impl Fn(&D) -> u64) -> Option<ShardId> {
        if self.is_done() {
            return None;
        }
        let heads = (0..self.taken.len()).filter_map(|peer| {
            let source = ShardId(peer as u8);
            ends.peek_data(source).map(|item| (stamp(item), source))
        });
        if Mutant::MergeByNumber.is_on() {
            return heads.map(|(_, source)| source).next();
        }
        heads.min_by_key(|&(at, _)| at).map(|(_, source)| source)
    }

    /// An item of `peer` is done.
    pub fn took(&mut self, peer: ShardId) {
        self.taken[usize::from(peer.0)] += 1;
    }
}
