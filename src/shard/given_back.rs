//! Messages that go back to their share groups: those of sessions that have ended, and those in
//! queues of sessions that have left the group. [`super::returns`] lists what is to go back.

use super::Shard;
use super::returns::Again;
use crate::limits::cost;
use crate::mesh::mail::{GivenBack, NotTaken, Passed, PassedFor, Trip};
use crate::mutant::Mutant;
use crate::session::window::Unfinished;
use crate::session::{Queued, Session};

/// Groups per step that are told of a change of a member.
const TOLD: usize = 2048;

/// Messages per step that are given back or dropped.
const MESSAGES: usize = 256;

/// Waiting messages per step that are looked at, for those of groups that their session has left.
const LOOKS: usize = 4096;

impl Shard {
    /// Works off what a step may, until the step's work comes to `limit`; true when more can be
    /// done at once.
    pub(super) fn run_returns(&mut self, limit: u32) -> bool {
        for (name, session) in std::mem::take(&mut self.subscriptions.returns.gone) {
            self.leave_group(&name, session);
        }
        if self.subscriptions.groups.is_telling() {
            self.meter.charge(self.subscriptions.groups.tell_on(TOLD) as u32 * cost::VISIT);
        }
        if self.waits_for_whole() {
            // Members of the groups may not have been put back yet.
            return self.subscriptions.groups.is_telling();
        }
        let mut more = self.run_passing(limit);
        let mut left = MESSAGES;
        while left > 0
            && self.subscriptions.returns.to_do() > 0
            && !self.is_spent(limit)
            && !self.mail.outbox.is_filling()
        {
            left -= 1;
            self.meter.charge(cost::DELIVERY);
            if let Some(again) = self.subscriptions.returns.again.pop_front() {
                self.ask_on(&again);
            } else if let Some(given) = self.subscriptions.returns.back.pop_front() {
                self.give_back(given);
            } else if !self.subscriptions.returns.ended.is_empty() {
                self.return_one();
            } else {
                left = left.saturating_sub(self.sift_some());
            }
        }
        more |= self.subscriptions.returns.to_do() > 0 && !self.mail.outbox.is_filling();
        more || self.subscriptions.groups.is_telling()
    }

    /// Goes on with messages that wait for other nodes. True when more can be done at once.
    fn run_passing(&mut self, limit: u32) -> bool {
        while !self.is_spent(limit) {
            let Some((passed, is_there)) = self.next_passing() else { return false };
            self.meter.charge(cost::MAIL);
            self.let_publisher_go(passed.message.view().publisher);
            if is_there {
                self.mail.outbox.pass(self.topology.place_of(passed.node), passed);
            } else {
                self.take_passed(Passed { asks: PassedFor::Back, ..passed });
            }
        }
        self.subscriptions.returns.passing.len() > 0
    }

    /// A message of a group whose home here is this shard has come from another node, or has come
    /// back from one.
    pub(super) fn take_passed(&mut self, passed: Passed) {
        let Passed { name, node, asks, hops, message } = passed;
        let mut trip = Trip { hops, from: Some((node, asks == PassedFor::Any)) };
        if asks == PassedFor::Back {
            trip.from = None;
            self.counters.share_passed_again += 1;
            if let Some(group) = self.subscriptions.groups.find(&name) {
                self.subscriptions.groups.set_node_busy(group, node, self.now);
            }
        } else {
            self.counters.share_passed_here += 1;
        }
        self.ask_on(&Again { name, message, tries: 0, trip, receipt: 0 });
    }

    /// Gives back, or drops, the next message of the first session that has ended.
    fn return_one(&mut self) {
        let Some(left) = self.subscriptions.returns.ended.front_mut() else { return };
        let session = left.session;
        let before = left.bytes();
        let next = match left.window.dissolve() {
            Some(Unfinished::Unacknowledged(queued)) => Some(queued),
            Some(Unfinished::Begun) => {
                self.counters.dropped_session_gone += 1;
                self.memory.tally.returning -= before - left.bytes();
                return;
            }
            None => left.pending.pop(),
        };
        self.memory.tally.returning -= before - left.bytes();
        let Some(Queued { message, share, stored, .. }) = next else {
            self.subscriptions.returns.ended.pop_front();
            return;
        };
        let Some(name) = share else {
            self.counters.dropped_session_gone += 1;
            return;
        };
        let why = NotTaken::Ended;
        let (member, tries, trip, receipt) = (session, 0, Trip::default(), 0);
        let given = GivenBack { name, member, why, tries, trip, receipt, stored, message };
        if Mutant::ShareReturnedTwice.is_on() {
            let (name, message) = (given.name.clone(), given.message.clone());
            self.give_back(GivenBack { name, message, ..given });
        }
        self.give_back(given);
    }

    /// Looks at some of the messages that wait for the first listed session, and gives back those
    /// of groups that it has left. Returns how many of the step's [`MESSAGES`] that counts for.
    fn sift_some(&mut self) -> usize {
        let Some(&reference) = self.subscriptions.returns.sifting.front() else { return 0 };
        let mut taken = std::mem::take(&mut self.subscriptions.returns.taken);
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
            self.subscriptions.returns.sifting.pop_front();
        }
        let count = taken.len();
        if count > 0 {
            self.store_taken(reference.index, &mut taken);
            self.store_all_gone(reference.index);
        }
        for queued in taken.drain(..) {
            self.give_back_later(reference.index, queued);
        }
        self.subscriptions.returns.taken = taken;
        count.max(MESSAGES / (LOOKS / MESSAGES))
    }
}
