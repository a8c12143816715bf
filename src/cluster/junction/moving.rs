//! The junction of a node whose place another process takes ([`super::super::node`] says how), on
//! both sides.

use super::{Junction, JunctionEnvironment};
use crate::time::Instant;
use crate::upgrade::cluster::MovedNode;

/// Milliseconds after which a junction looks again whether hellos are due.
pub(super) const LOOK: u64 = 50;

/// What a junction does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum JunctionStage {
    /// Everything.
    Serving,
    /// What is under way is ended, and nothing new begins.
    Resting,
    /// Everything was packed for another process.
    Packed,
    /// The place of another process is to be taken: only the shards are listened to.
    Waiting,
}

/// How far a junction has come that is to rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestingJunction {
    /// What is still under way.
    pub under_way: Option<&'static str>,
    /// Mails that it has put into the shards' mailboxes and taken from the shards, ever.
    pub mails: [u64; 2],
}

impl Junction {
    /// Waits for the place of another process.
    pub fn wait(&mut self) {
        self.stage = JunctionStage::Waiting;
    }

    /// Begins to rest.
    pub fn rest(&mut self) {
        self.stage = JunctionStage::Resting;
        self.node.rest(true);
    }

    /// How far it has come.
    pub fn resting(&mut self) -> RestingJunction {
        let door = |door: &super::NodeMailboxes| {
            door.ends.has_mail() || door.open.is_some() || !door.behind.is_empty()
        };
        let mail = self.ends.has_mail() || !self.outbox.is_empty() || self.asks.is_waiting();
        let keeps = (self.stage == JunctionStage::Resting).then(|| self.node.keeps_busy());
        let keeps = keeps.flatten();
        let reasons = [
            (self.node.stands_alone(), "an engine that does not carry frames"),
            (keeps.is_some(), keeps.unwrap_or_default()),
            (self.stage == JunctionStage::Resting && !self.node.is_quiet(), "claims of ClientIds"),
            (mail, "mail between the shards and the cluster"),
            (self.doors.iter().any(door), "mail for other nodes"),
        ];
        let under_way = reasons.iter().find_map(|&(holds, what)| holds.then_some(what));
        RestingJunction { under_way, mails: [self.mails.0, self.mails.1] }
    }

    /// Everything that the process needs that takes this one's place. From now on this one only
    /// says that it is there.
    pub fn pack(&mut self) -> MovedNode {
        self.stage = JunctionStage::Packed;
        self.node.pack(self.shared.stamps.used())
    }

    /// Whether this process may not take its leave of the other nodes: another process is the node
    /// they know.
    pub fn ends_unseen(&self) -> bool {
        matches!(self.stage, JunctionStage::Packed | JunctionStage::Waiting)
    }

    /// Takes in what another process has packed.
    ///
    /// # Errors
    /// What cannot be.
    pub fn unpack(&mut self, moved: MovedNode, now: Instant) -> Result<(), String> {
        self.shared.stamps.raise(moved.retained_stamp);
        let (node, mut broker) = self.inward(None);
        node.unpack(moved, &mut broker, now)?;
        self.shared.nodes.set(u64::from(self.node.present()));
        self.tell_memory();
        Ok(())
    }

    /// Serves, after it has rested or waited.
    pub fn serve(&mut self, now: Instant) {
        self.stage = JunctionStage::Serving;
        self.node.go_on(now);
    }

    /// Takes what the shards say of their filters while another process still serves.
    pub(super) fn wait_for_place(
        &mut self,
        now: Instant,
        around: &mut impl JunctionEnvironment,
    ) -> bool {
        let more = self.take_control(now);
        self.outbox.close_batches();
        self.carry(around);
        more
    }
}
