//! Works off what ended sessions leave, and returns messages to their share groups.
//!
//! Section 4.8.2 of MQTT 5: when a session ends, the messages that it was sent with QoS 1 and did
//! not acknowledge go to another member of the group, and so do messages that were only waiting for
//! it. Messages that were sent with QoS 2 go to no other member [MQTT-4.8.2-5]. The messages go in
//! the order in which they were published, before newer ones. A session that is only disconnected
//! keeps what it was given, since its client may be back soon and has an order and identifiers of
//! its own.
//!
//! A session may leave 65,535 messages in flight and as many waiting. A limited number of messages
//! is handled per step, whether they go to a group or are dropped.

use super::Shard;
use super::drops::DropReason;
use super::passing::Passing;
use crate::ids::SessionRef;
use crate::mesh::mail::{GivenBack, NotTaken, Trip};
use crate::message::Message;
use crate::session::{Flow, Pending, Queued, ShareName, Window};
use std::collections::VecDeque;

/// At most this many messages of a session are dropped at once when it ends, if none is of a group.
const LITTLE: usize = 64;

/// What is still to be worked off.
#[derive(Default)]
pub(super) struct Returns {
    pub(super) ended: VecDeque<LeftMessages>,
    /// Sessions whose queues may hold messages of groups that they have left.
    pub(super) sifting: VecDeque<SessionRef>,
    /// Messages that go on in a later step, because their group has asked many members for each of
    /// them.
    pub(super) again: VecDeque<Again>,
    /// Messages for other nodes whose mailboxes are full.
    pub(super) passing: Passing,
    /// Members that were found to be gone, with the names of their groups.
    pub(super) gone: Vec<(ShareName, SessionRef)>,
    /// Messages that go back to their groups at the end of the step.
    pub(super) back: VecDeque<GivenBack>,
    pub(super) taken: Vec<Queued>,
    /// Messages that were on their way back when the broker ended.
    pub(super) restored: Vec<GivenBack>,
}

/// A message whose group goes on asking members.
pub(super) struct Again {
    pub(super) name: ShareName,
    pub(super) message: Message,
    /// How many members have refused the message.
    pub(super) tries: u32,
    pub(super) trip: Trip,
    pub(super) receipt: u64,
}

/// What one session has left.
pub(super) struct LeftMessages {
    pub(super) session: SessionRef,
    pub(super) window: Window,
    pub(super) pending: Pending,
}

impl LeftMessages {
    /// Bytes of what is left.
    pub(super) fn bytes(&self) -> usize {
        self.window.kept() + self.pending.bytes()
    }
}

impl Returns {
    /// Bytes of what ended sessions have left. For checks.
    pub(super) fn bytes(&self) -> usize {
        self.ended.iter().map(LeftMessages::bytes).sum::<usize>() + self.passing.bytes()
    }

    /// Makes the group ask further members in a later step.
    pub(super) fn ask_later(&mut self, again: Again) {
        self.again.push_back(again);
    }

    /// Makes the session leave the group at the end of the step.
    pub(super) fn leave_later(&mut self, name: ShareName, session: SessionRef) {
        self.gone.push((name, session));
    }

    /// True when some members were found to be gone.
    #[inline]
    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// How many sessions and messages are to be worked off, or wait for other nodes.
    pub(super) fn len(&self) -> usize {
        self.to_do() + self.passing.len()
    }

    /// How many of these can be worked off now.
    pub(super) fn to_do(&self) -> usize {
        self.ended.len() + self.sifting.len() + self.again.len() + self.back.len()
    }
}

impl Shard {
    /// Takes over what was in flight and waiting when a session ended.
    pub(super) fn return_flow(&mut self, session: SessionRef, flow: Flow) {
        let count = usize::from(flow.window.open()) + flow.pending.len();
        let shared = || flow.pending.has_shares() || flow.window.has_shares();
        if self.work.stopping.draining || count == 0 || count <= LITTLE && !shared() {
            self.forget_flow(&flow);
            return;
        }
        let Flow { window, pending, inbound, .. } = flow;
        self.counters.inflight -= u64::from(window.open());
        self.counters.pending_messages -= pending.len() as u64;
        self.counters.pending_bytes -= pending.bytes() as u64;
        self.memory.tally.flows -= 1;
        self.memory.tally.inbound -= inbound.len();
        self.memory.tally.kept -= window.kept();
        self.memory.tally.returning += window.kept() + pending.bytes();
        self.subscriptions.returns.ended.push_back(LeftMessages { session, window, pending });
    }

    /// Has the session's queue looked through for messages of groups that the session has left.
    pub(super) fn sift_later(&mut self, index: u32) {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        let listed = flow.sifting || flow.to_sift;
        flow.to_sift = true;
        if !listed {
            let session = self.session_ref(index);
            self.subscriptions.returns.sifting.push_back(session);
        }
    }

    /// Gives a message of a queue back to its group at the end of the step, because the caller may
    /// be in the middle of another message.
    pub(super) fn give_back_later(&mut self, index: u32, queued: Queued) {
        let Queued { message, share: Some(name), stored, .. } = queued else { return };
        let (member, why) = (self.session_ref(index), NotTaken::Ended);
        let (tries, trip, receipt) = (0, Trip::default(), 0);
        let given = GivenBack { name, member, why, tries, trip, receipt, stored, message };
        self.subscriptions.returns.back.push_back(given);
    }

    /// Gives messages of groups that were dropped from a queue as its oldest to other members. If
    /// they made room for a message of a group (`for_share`), they are lost: then no member has
    /// room.
    pub(super) fn evict(&mut self, index: u32, mut evicted: Vec<Queued>, for_share: bool) {
        if for_share {
            self.lose(index, DropReason::ShareFull, evicted.len() as u64);
            return;
        }
        self.store_taken(index, &mut evicted);
        for queued in evicted {
            self.give_back_later(index, queued);
        }
    }
}
