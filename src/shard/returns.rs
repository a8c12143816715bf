//! What remains of sessions that have ended, and messages on their way back to their share groups.
//!
//! Section 4.8.2 of MQTT 5: when a session ends, the messages that it was sent with QoS 1 and did
//! not acknowledge go to another member, and so do those that were only waiting for it. What was
//! sent with QoS 2 goes to no other member [MQTT-4.8.2-5]. The messages go in the order in which
//! they were published, before newer ones. A session that is only disconnected keeps what it was
//! given, since it may be back soon and has an order and identifiers of its own.
//!
//! A session may leave 65,535 messages in flight and as many waiting. A limited number of them is
//! handled per step, whether they go to a group or are dropped.

use super::Shard;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::mesh::mail::{GivenBack, NotTaken};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::window::Unfinished;
use crate::session::{Flow, Pending, Queued, Session, ShareName, Window};
use std::collections::VecDeque;

/// Messages per step that are given back or dropped.
const MESSAGES: usize = 256;
/// Waiting messages per step that are looked at.
const LOOKS: usize = 4096;
/// Groups per step that are told what changed with a member.
const TOLD: usize = 2048;
/// What a session leaves is dropped at once when it is no more than this, and nothing of groups.
const LITTLE: usize = 64;

/// What is still to be worked off.
#[derive(Default)]
pub(super) struct Returns {
    ended: VecDeque<Left>,
    /// Sessions whose queues may hold messages of groups that they have left.
    sifting: VecDeque<SessionRef>,
    /// Messages whose group has asked so many members that it goes on in a later step.
    again: VecDeque<(ShareName, Message, u32)>,
    /// Members that are found to be gone.
    gone: Vec<(ShareName, SessionRef)>,
    /// Messages on their way back, to be sent at the end of the step.
    back: VecDeque<GivenBack>,
    taken: Vec<Queued>,
}

/// What one session left.
struct Left {
    session: SessionRef,
    window: Window,
    pending: Pending,
}

impl Left {
    /// Bytes of what is left.
    fn bytes(&self) -> usize {
        self.window.kept() + self.pending.bytes()
    }
}

impl Returns {
    /// Bytes of what ended sessions have left. For checks.
    pub(super) fn bytes(&self) -> usize {
        self.ended.iter().map(Left::bytes).sum()
    }

    /// The group asks further members in a later step.
    pub(super) fn ask_later(&mut self, name: ShareName, message: Message, tries: u32) {
        self.again.push_back((name, message, tries));
    }

    /// The session is to leave the group at the end of the step.
    pub(super) fn leave_later(&mut self, name: ShareName, session: SessionRef) {
        self.gone.push((name, session));
    }

    /// True when members were found to be gone.
    #[inline]
    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Sessions and messages that are to be worked off.
    pub(super) fn len(&self) -> usize {
        self.ended.len() + self.sifting.len() + self.again.len() + self.back.len()
    }
}

impl Shard {
    /// A session has ended, and this is what was in flight and waiting.
    pub(super) fn return_flow(&mut self, session: SessionRef, flow: Flow) {
        let count = usize::from(flow.window.open()) + flow.pending.len();
        let shared = || flow.pending.has_shares() || flow.window.has_shares();
        if self.draining || count == 0 || count <= LITTLE && !shared() {
            self.forget_flow(&flow);
            return;
        }
        let Flow { window, pending, inbound, .. } = flow;
        self.counters.inflight -= u64::from(window.open());
        self.counters.pending_messages -= pending.len() as u64;
        self.counters.pending_bytes -= pending.bytes() as u64;
        self.tally.flows -= 1;
        self.tally.inbound -= inbound.len();
        self.tally.kept -= window.kept();
        self.tally.returning += window.kept() + pending.bytes();
        self.returns.ended.push_back(Left { session, window, pending });
    }

    /// The session's queue is looked through for messages of groups that it has left.
    pub(super) fn sift_later(&mut self, index: u32) {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        let listed = flow.sifting || flow.to_sift;
        flow.to_sift = true;
        if !listed {
            let session = self.session_ref(index);
            self.returns.sifting.push_back(session);
        }
    }

    /// Works off a step's share, until its work comes to `limit`; true when more can be done at
    /// once.
    pub(super) fn run_returns(&mut self, limit: u32) -> bool {
        for (name, session) in std::mem::take(&mut self.returns.gone) {
            self.leave_group(&name, session);
        }
        if self.groups.is_telling() {
            self.meter.charge(self.groups.tell_on(TOLD) as u32 * cost::VISIT);
        }
        let mut left = MESSAGES;
        while left > 0
            && self.returns.len() > 0
            && !self.is_spent(limit)
            && !self.outbox.is_filling()
        {
            left -= 1;
            self.meter.charge(cost::DELIVERY);
            if let Some((name, message, tries)) = self.returns.again.pop_front() {
                self.ask_on(&name, &message, tries);
            } else if let Some(given) = self.returns.back.pop_front() {
                self.give_back(given);
            } else if !self.returns.ended.is_empty() {
                self.return_one();
            } else {
                left = left.saturating_sub(self.sift_some());
            }
        }
        let more = self.returns.len() > 0 && !self.outbox.is_filling();
        more || self.groups.is_telling()
    }

    /// What a queue held for a group goes back to it, at the end of the step: the caller may be in
    /// the middle of another message.
    pub(super) fn give_back_later(&mut self, index: u32, name: ShareName, message: Message) {
        let (member, why) = (self.session_ref(index), NotTaken::Ended);
        self.returns.back.push_back(GivenBack { name, member, why, tries: 0, message });
    }

    /// Messages of groups were dropped from a queue as its oldest. Other members may take them,
    /// unless it was done `for_share`: then no member has room.
    pub(super) fn evict(&mut self, index: u32, evicted: Vec<Queued>, for_share: bool) {
        for Queued { message, share, .. } in evicted {
            match share.filter(|_| !for_share) {
                Some(name) => self.give_back_later(index, name, message),
                None => self.counters.dropped_share_full += 1,
            }
        }
    }

    /// Gives back, or drops, the next message of the first session that has ended.
    fn return_one(&mut self) {
        let Some(left) = self.returns.ended.front_mut() else { return };
        let session = left.session;
        let before = left.bytes();
        let next = match left.window.dissolve() {
            Some(Unfinished::Unacknowledged(queued)) => Some(queued),
            Some(Unfinished::Begun) => {
                self.counters.dropped_session_gone += 1;
                self.tally.returning -= before - left.bytes();
                return;
            }
            None => left.pending.pop(),
        };
        self.tally.returning -= before - left.bytes();
        let Some(Queued { message, share, .. }) = next else {
            self.returns.ended.pop_front();
            return;
        };
        let Some(name) = share else {
            self.counters.dropped_session_gone += 1;
            return;
        };
        let why = NotTaken::Ended;
        let given = GivenBack { name, member: session, why, tries: 0, message };
        if Mutant::ShareReturnedTwice.is_on() {
            let (name, message) = (given.name.clone(), given.message.clone());
            self.give_back(GivenBack { name, message, ..given });
        }
        self.give_back(given);
    }

    /// Looks at some of the messages that wait for a session; returns how many were given back.
    fn sift_some(&mut self) -> usize {
        let Some(&reference) = self.returns.sifting.front() else { return 0 };
        let mut taken = std::mem::take(&mut self.returns.taken);
        let mut done = true;
        let session = self.session_of(reference);
        if let Some(Session { flow: Some(flow), extras, .. }) = session {
            if !flow.sifting {
                (flow.sifting, flow.to_sift) = (true, false);
                flow.pending.begin_sift();
            }
            let shares = extras.as_ref().and_then(|extras| extras.shares.as_ref());
            let left = |queued: &Queued| {
                let member = |name| shares.is_some_and(|shares| shares.list.get(name).is_some());
                queued.share.as_ref().is_some_and(|name| !member(name))
            };
            let (messages, bytes) = (flow.pending.len(), flow.pending.bytes());
            done = flow.pending.sift(MESSAGES, left, &mut taken);
            flow.sifting = !done;
            done &= !flow.to_sift;
            let (messages, bytes) = (messages - flow.pending.len(), bytes - flow.pending.bytes());
            self.counters.pending_messages -= messages as u64;
            self.counters.pending_bytes -= bytes as u64;
            self.meter.charge(MESSAGES as u32 * cost::VISIT);
        }
        if done {
            self.returns.sifting.pop_front();
        }
        let count = taken.len();
        if count > 0 {
            self.store_all_gone(reference.index);
        }
        for queued in taken.drain(..) {
            if let Some(name) = queued.share {
                self.give_back_later(reference.index, name, queued.message);
            }
        }
        self.returns.taken = taken;
        count.max(MESSAGES / (LOOKS / MESSAGES))
    }
}
