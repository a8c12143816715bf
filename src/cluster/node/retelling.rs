//! Retelling: another node is told all retained messages of this node when it may lack some,
//! because it joins, returns, or was not sent a message for which there was no room. Each message
//! goes with its stamp, and so does each topic whose message was cleared. The receiver keeps the
//! newer of two (`shard::stamps`), so two nodes that tell each other end with the same messages.
//!
//! Messages that are published meanwhile go to the node as usual. Those that were published earlier
//! must arrive before: first each shard puts the mail that it has written down into the mailboxes
//! (a fence, as for moving sessions), and then a shard is asked, behind its mail. The shards are
//! asked for slices one after the other, each time when the slice before is in the window, which
//! holds [`WINDOW`] bytes.
//!
//! Each frame to a node contains the digest of all retained messages here. When this differs from
//! the other node's digest, and neither has changed for [`QUIET`] milliseconds, each node tells the
//! other everything. Two nodes may differ permanently, for example when only one of them has room
//! for a message; therefore the time until the next comparison doubles, up to [`RARELY`].

use crate::cluster::claims::{FencePurpose, NodeClaims, Whom};
use crate::cluster::peer::{LocalBroker, PeerNode};
use crate::cluster::record::NodeRecord;
use crate::ids::ShardId;
use crate::mesh::moves::{Retell, Retold, ToShard, Whence};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// Bytes in the window to a node, above which no further messages are told.
pub(super) const WINDOW: usize = 256 * 1024;
/// Milliseconds without a change after which two nodes should have the same messages.
const QUIET: u64 = 10_000;
/// The longest time in milliseconds until two nodes that differ tell each other everything again.
const RARELY: u64 = 3_600_000;

/// A value, and since when it has been unchanged.
#[derive(Clone, Copy, Default)]
pub(super) struct UnchangedSince {
    value: u64,
    at: Instant,
}

impl UnchangedSince {
    pub(super) fn value(self) -> u64 {
        self.value
    }

    pub(super) fn see(&mut self, value: u64, now: Instant) {
        if value != self.value {
            *self = UnchangedSince { value, at: now };
        }
    }
}

enum RetellingStage {
    /// Nothing is being told.
    Idle,
    /// The shards put the mail that they have written down into the mailboxes.
    Fence,
    /// This shard is to be asked, from this place on.
    Next(u8, Whence),
    /// This shard was asked.
    Asked(u8),
}

/// How far one other node has been told the retained messages.
pub(super) struct Retelling {
    stage: RetellingStage,
    /// Whether everything is to be told again once the present retelling is done.
    due: bool,
    ticket: u32,
    /// Messages to be told next, with their stamps.
    queue: VecDeque<(u64, Message)>,
    /// The digest of the other node's retained messages.
    theirs: UnchangedSince,
    patience: u64,
    compared: Instant,
}

impl Default for Retelling {
    fn default() -> Self {
        Retelling {
            stage: RetellingStage::Idle,
            due: false,
            ticket: 0,
            queue: VecDeque::new(),
            theirs: UnchangedSince::default(),
            patience: QUIET,
            compared: Instant(0),
        }
    }
}

impl Retelling {
    /// The other node is not known any more. A later node with its number is a different one.
    pub(super) fn forget(&mut self) {
        *self = Retelling { ticket: self.ticket + 1, ..Retelling::default() };
    }

    /// Whether shards were asked for something.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.stage, RetellingStage::Fence | RetellingStage::Asked(_))
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, RetellingStage::Idle) && !self.due && self.queue.is_empty()
    }

    /// Tells as much as there is room for. Returns the number of messages.
    pub(super) fn run(
        &mut self,
        node: u8,
        peer: &mut PeerNode,
        claims: &mut NodeClaims,
        broker: &mut impl LocalBroker,
    ) -> u64 {
        if std::mem::take(&mut peer.lacks_retained) {
            self.due = true;
        }
        let mut told = 0;
        while peer.bulk() < WINDOW
            && let Some((stamp, message)) = self.queue.pop_front()
        {
            peer.push_record(&NodeRecord::Retained(stamp, message.view()));
            told += 1;
        }
        if !self.queue.is_empty() {
            return told;
        }
        match std::mem::replace(&mut self.stage, RetellingStage::Idle) {
            RetellingStage::Idle if self.due && !Mutant::ClusterRetellingSkipped.is_on() => {
                self.due = false;
                self.ticket += 1;
                claims.fence(FencePurpose::Retelling(node));
                self.stage = RetellingStage::Fence;
            }
            RetellingStage::Next(shard, whence) => {
                let retell = Retell { node, ticket: self.ticket, whence };
                broker.tell(Whom::Shard(ShardId(shard)), ToShard::Retell(retell));
                self.stage = RetellingStage::Asked(shard);
            }
            stage => self.stage = stage,
        }
        told
    }

    /// All mail that the shards had written down is in the mailboxes.
    pub(super) fn fenced(&mut self) {
        if let RetellingStage::Fence = self.stage {
            self.stage = RetellingStage::Next(0, Whence::Kept(None));
        }
    }

    /// Takes in a shard's answer.
    pub(super) fn retold(&mut self, shard: ShardId, shards: u8, told: Retold) {
        if told.ticket != self.ticket
            || !matches!(self.stage, RetellingStage::Asked(s) if s == shard.0)
        {
            return;
        }
        self.queue.extend(told.messages);
        self.stage = match told.next {
            Some(whence) => RetellingStage::Next(shard.0, whence),
            None if shard.0 + 1 < shards => RetellingStage::Next(shard.0 + 1, Whence::Kept(None)),
            None => RetellingStage::Idle,
        };
    }

    /// Compares the digests of both nodes. Returns true when they should be equal and are not.
    pub(super) fn compare(
        &mut self,
        ours: UnchangedSince,
        theirs: Option<u64>,
        now: Instant,
    ) -> bool {
        let Some(theirs) = theirs else { return false };
        self.theirs.see(theirs, now);
        if self.theirs.value == ours.value {
            self.patience = QUIET;
            return false;
        }
        let since = self.theirs.at.max(ours.at).max(self.compared);
        if !self.is_done()
            || now.millis_since(since) < self.patience
            || Mutant::ClusterRetainedUncompared.is_on()
        {
            return false;
        }
        self.compared = now;
        self.patience = (self.patience * 2).min(RARELY);
        self.due = true;
        true
    }
}
