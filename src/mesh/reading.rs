//! The order in which a shard takes data mail out of its mailboxes.
//!
//! A single mailbox is first in, first out. Between two mailboxes, cause must come before effect:
//! mail that shard A sent before it acknowledged something must be taken before mail that shard B
//! sent on behalf of a client that already had the acknowledgement. For this, each item carries the
//! time at which it was pushed, and the items that were present at a [`Reading::note`] are taken in
//! the order of their times. Why this is sufficient: a shard that sees B's item at the note, and
//! looks at A's mailbox only after that, finds A's item there, with an earlier time. The note is
//! what makes this hold: without it the shard could look at A's mailbox before A has pushed its
//! item, and at B's after B has. For the same reason the shard looks again which mailboxes have got
//! something before each choice: A's may have been empty at the note. Checked by `tests/loom`.
use super::mailbox::MailEnds;
use crate::ids::{ShardId, ShardSet};
use crate::mutant::Mutant;

/// How far a shard has read each of its mailboxes.
pub struct Reading {
    /// The number of data items that were ever taken from each peer.
    taken: Vec<u64>,
    /// The number of items that each peer had ever sent by the last note; for a peer whose mailbox
    /// was empty then, that number or a lower one.
    noted: Vec<u64>,
    /// The peers of which fewer have been taken than were noted.
    behind: ShardSet,
}

/// A position in every mailbox.
#[derive(Clone, PartialEq, Eq)]
pub struct MailPosition(Vec<u64>);

impl Reading {
    /// The start of `shards` mailboxes, all of them empty.
    pub fn new(shards: usize) -> Self {
        Reading { taken: vec![0; shards], noted: vec![0; shards], behind: ShardSet::EMPTY }
    }

    /// Notes what is in the mailboxes now. `open` is the peer whose item has been popped but is not
    /// finished.
    pub fn note<D, C>(&mut self, ends: &mut MailEnds<D, C>, open: Option<ShardId>) {
        ends.look_again();
        let mut peers = ends.pending();
        if let Some(open) = open {
            peers.insert(open);
        }
        for source in peers.iter() {
            let peer = usize::from(source.0);
            let popped = self.taken[peer] + u64::from(open == Some(source));
            self.noted[peer] = popped + ends.data_waiting(source) as u64;
            if self.noted[peer] > self.taken[peer] {
                self.behind.insert(source);
            }
        }
    }

    /// The end of each mailbox at the last note.
    pub fn noted(&self) -> MailPosition {
        MailPosition(self.noted.clone())
    }

    /// True when everything that was noted has been taken in.
    pub fn is_done(&self) -> bool {
        self.behind.is_empty()
    }

    /// True when everything before `position` has been taken in.
    pub fn is_past(&self, position: &MailPosition) -> bool {
        self.taken.iter().zip(&position.0).all(|(taken, there)| taken >= there)
    }

    /// The peer whose item comes next, or `None` when all that was noted is done. Items that
    /// arrived after the note may be taken as well, if their times are earlier than those of noted
    /// ones.
    pub fn next<D, C>(
        &self,
        ends: &mut MailEnds<D, C>,
        stamp: impl Fn(&D) -> u64,
    ) -> Option<ShardId> {
        if self.is_done() {
            return None;
        }
        ends.look_again();
        let head = |source| ends.peek_data(source).map(|item| (stamp(item), source));
        let mut heads = ends.pending().iter().filter_map(head);
        if Mutant::MergeByNumber.is_on() {
            return heads.next().map(|(_, source)| source);
        }
        heads.min_by_key(|&(at, _)| at).map(|(_, source)| source)
    }

    /// Records that an item of `peer` is finished.
    pub fn took(&mut self, peer: ShardId) {
        let at = usize::from(peer.0);
        self.taken[at] += 1;
        if self.taken[at] >= self.noted[at] {
            self.behind.remove(peer);
        }
    }
}
