//! Other nodes are told of all retained messages of this one when they may lack some: a node that
//! joins, or comes back, or was not sent what found no room. Each goes with its stamp, topics that
//! were cleared as well, and the receiver keeps what is newer (`shard::stamps`): so two nodes that
//! tell each other end with the same.
//!
//! What is published meanwhile goes to the node as it is. What was published before that is told:
//! first each shard puts what it has written down into the mailboxes (a fence, as for sessions that
//! move), and then a shard is asked behind its mail. The shards are asked for slices, one after the
//! other, and for the next one when the one before is in the window, which takes [`WINDOW`] bytes.
//!
//! Each frame to a node says what all retained messages here add up to. When that differs from what
//! the node says, and neither has changed for [`QUIET`] milliseconds, each tells the other of all.
//! Nodes may differ for good, as when only one of them has room for a message: the next time comes
//! after twice as long, up to [`RARELY`].

use crate::cluster::claims::{Claims, Job, Whom};
use crate::cluster::peer::{Broker, Peer};
use crate::cluster::record::Record;
use crate::ids::ShardId;
use crate::mesh::moves::{Retell, Retold, ToShard, Whence};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// Bytes in the window to a node, past which no more are told.
pub(super) const WINDOW: usize = 256 * 1024;
/// Milliseconds without a change after which two nodes should have the same.
const QUIET: u64 = 10_000;
/// The longest time before they tell each other again.
const RARELY: u64 = 3_600_000;

/// A value, and since when it has been that.
#[derive(Clone, Copy, Default)]
pub(super) struct Since {
    value: u64,
    at: Instant,
}

impl Since {
    pub(super) fn value(self) -> u64 {
        self.value
    }

    pub(super) fn see(&mut self, value: u64, now: Instant) {
        if value != self.value {
            *self = Since { value, at: now };
        }
    }
}

enum Stage {
    /// Nothing is told.
    Idle,
    /// What the shards have written down is put into the mailboxes.
    Fence,
    /// A shard is to be asked.
    Next(u8, Whence),
    /// That shard was asked.
    Asked(u8),
}

/// How far one other node has been told.
pub(super) struct Retelling {
    stage: Stage,
    /// All is to be told again, when what is under way has been.
    due: bool,
    ticket: u32,
    /// What is to be told next.
    queue: VecDeque<(u64, Message)>,
    /// What its messages add up to.
    theirs: Since,
    patience: u64,
    compared: Instant,
}

impl Default for Retelling {
    fn default() -> Self {
        Retelling {
            stage: Stage::Idle,
            due: false,
            ticket: 0,
            queue: VecDeque::new(),
            theirs: Since::default(),
            patience: QUIET,
            compared: Instant(0),
        }
    }
}

impl Retelling {
    /// The node is not known any more. A later one with its number is another.
    pub(super) fn forget(&mut self) {
        *self = Retelling { ticket: self.ticket + 1, ..Retelling::default() };
    }

    /// True when nothing is to be told.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Idle) && !self.due && self.queue.is_empty()
    }

    /// Tells as much as there is room for; how many messages that were.
    pub(super) fn run(
        &mut self,
        node: u8,
        peer: &mut Peer,
        claims: &mut Claims,
        broker: &mut impl Broker,
    ) -> u64 {
        if std::mem::take(&mut peer.lacks_retained) {
            self.due = true;
        }
        let mut told = 0;
        while peer.bulk() < WINDOW
            && let Some((stamp, message)) = self.queue.pop_front()
        {
            peer.push_record(&Record::Retained(stamp, message.view()));
            told += 1;
        }
        if !self.queue.is_empty() {
            return told;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle if self.due && !Mutant::ClusterRetellingSkipped.is_on() => {
                self.due = false;
                self.ticket += 1;
                claims.fence(Job::Retelling(node));
                self.stage = Stage::Fence;
            }
            Stage::Next(shard, whence) => {
                let retell = Retell { node, ticket: self.ticket, whence };
                broker.tell(Whom::Shard(ShardId(shard)), ToShard::Retell(retell));
                self.stage = Stage::Asked(shard);
            }
            stage => self.stage = stage,
        }
        told
    }

    /// All that the shards had written down is in the mailboxes.
    pub(super) fn fenced(&mut self) {
        if let Stage::Fence = self.stage {
            self.stage = Stage::Next(0, Whence::Kept(None));
        }
    }

    /// A shard's answer.
    pub(super) fn retold(&mut self, shard: ShardId, shards: u8, told: Retold) {
        if told.ticket != self.ticket || !matches!(self.stage, Stage::Asked(s) if s == shard.0) {
            return;
        }
        self.queue.extend(told.messages);
        self.stage = match told.next {
            Some(whence) => Stage::Next(shard.0, whence),
            None if shard.0 + 1 < shards => Stage::Next(shard.0 + 1, Whence::Kept(None)),
            None => Stage::Idle,
        };
    }

    /// Compares what the messages of both nodes add up to. True when they should not differ.
    pub(super) fn compare(&mut self, ours: Since, theirs: Option<u64>, now: Instant) -> bool {
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
