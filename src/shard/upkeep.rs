//! What a shard does once a second for itself: it frees flow states that nobody uses and spare
//! memory, removes expired retained messages, and gives up connections that were lost.

use super::Shard;
use super::timers::Timer;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// Milliseconds between rounds of upkeep.
pub(super) const ROUND: u64 = 1000;
/// Milliseconds a flow state stays after its last use.
const FLOW_IDLE: u64 = 2000;
/// Flow states looked at per step.
const FLOWS: usize = 1024;
/// SubscriptionSlots that the list of flow states keeps while it is empty.
const KEPT: usize = 64;

/// How far upkeep has come.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Sessions with a flow state, and since when it is listed or was last found in use; in the
    /// order of that time.
    flows: VecDeque<(Instant, SessionRef)>,
    /// Of these, how many this round is still to look at.
    flows_due: usize,
}

impl Upkeep {
    /// The session's flow state is in use at `now`: it is looked at when it may be idle.
    pub(super) fn list_flow(&mut self, now: Instant, session: SessionRef) {
        self.flows.push_back((now, session));
    }

    /// Flow states that are listed.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Flow states that this round is still to look at.
    pub(super) fn flows_due(&self) -> usize {
        self.flows_due
    }

    /// A round is to look at those that are listed by now; who is put back is for the next one.
    fn begin_round(&mut self) {
        self.flows_due = self.flows.len();
    }

    fn is_flow_due(&self, now: Instant) -> bool {
        let listed_long = |(at, _): &(Instant, _)| at.plus_millis(FLOW_IDLE) <= now;
        self.flows_due > 0 && self.flows.front().is_some_and(listed_long)
    }

    /// The next flow state to look at.
    fn next_flow(&mut self, now: Instant) -> Option<SessionRef> {
        if !self.is_flow_due(now) {
            return None;
        }
        self.flows_due -= 1;
        self.flows.pop_front().map(|(_, session)| session)
    }

    /// The round is over when nothing is due; true when something is.
    fn goes_on(&mut self, now: Instant) -> bool {
        if self.is_flow_due(now) {
            return true;
        }
        self.flows_due = 0;
        if self.flows.is_empty() {
            self.flows.shrink_to(KEPT);
        }
        false
    }
}

impl Shard {
    /// Arms the first round, and each next one when the last has begun.
    pub(super) fn arm_upkeep(&mut self) {
        self.timers.arm(self.now.plus_millis(ROUND), Timer::Upkeep);
    }

    /// A round begins. What takes longer goes on in [`Shard::free_idle_flows`].
    pub(super) fn upkeep_due(&mut self) {
        self.work.upkeep.begin_round();
        self.give_back_spare();
        self.sweep_retained();
        self.tell_memory();
        self.give_up_lost();
        self.return_restored();
        self.tell_left_out();
        self.look_for_expired();
        self.meter.charge(cost::VISIT * self.layered.keys.age() as u32);
        self.arm_upkeep();
    }

    /// Gives back flow states that are not used any more, some per step; true when there are more
    /// to look at.
    pub(super) fn free_idle_flows(&mut self) -> bool {
        let now = self.now;
        let retries = self.settings.retry_interval > 0;
        for _ in 0..FLOWS {
            let Some(reference) = self.work.upkeep.next_flow(now) else { break };
            self.meter.charge(cost::VISIT);
            let known = self.sessions.get_of(reference.index, reference.generation);
            let Some(session) = known.filter(|s| !s.is_ending()) else { continue };
            let online = session.socket.is_some();
            // Identifiers begin anew with the state. Where messages are repeated on a connection,
            // the answer to a repetition would then stand for another message.
            let repeats = retries && online && !session.version.is_v5();
            let repeats = repeats && !Mutant::RetryForgetsIdentifiers.is_on();
            match &mut session.flow {
                Some(flow) if flow.is_idle() && !repeats => {
                    self.memory.tally.forget_idle(flow);
                    session.flow = None;
                }
                Some(_) if online => self.work.upkeep.list_flow(now, reference),
                // Listed again when it is used again.
                Some(flow) => flow.listed = false,
                None => {}
            }
        }
        self.work.upkeep.goes_on(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn session(index: u32) -> SessionRef {
        SessionRef { shard: ShardId(0), index, generation: 0 }
    }

    #[test]
    fn a_round_looks_at_each_flow_state_that_was_listed_before_it_once() {
        let mut upkeep = Upkeep::default();
        let now = Instant(10_000);
        for index in 0..3 {
            upkeep.list_flow(now, session(index));
        }
        let later = now.plus_millis(FLOW_IDLE);
        assert!(upkeep.next_flow(later).is_none(), "no round has begun");
        upkeep.begin_round();
        for index in 0..3 {
            assert!(upkeep.goes_on(later));
            assert!(upkeep.next_flow(later).is_some_and(|next| next.index == index));
            upkeep.list_flow(later, session(index));
        }
        assert!(upkeep.next_flow(later).is_none());
        assert!(!upkeep.goes_on(later));
        assert_eq!(upkeep.flows(), 3);
    }

    #[test]
    fn a_flow_state_that_was_in_use_a_short_while_ago_waits_for_the_next_round() {
        let mut upkeep = Upkeep::default();
        let now = Instant(10_000);
        upkeep.list_flow(now, session(0));
        upkeep.begin_round();
        let soon = now.plus_millis(FLOW_IDLE - 1);
        assert!(upkeep.next_flow(soon).is_none());
        assert!(!upkeep.goes_on(soon));
        assert_eq!(upkeep.flows_due(), 0);
        let later = now.plus_millis(FLOW_IDLE);
        assert!(upkeep.next_flow(later).is_none(), "that round is over");
        upkeep.begin_round();
        assert!(upkeep.next_flow(later).is_some());
    }
}
