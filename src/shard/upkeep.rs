//! What a shard does for itself once a second: it frees flow states that are not used and spare
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
/// Milliseconds that a flow state stays after its last use.
const FLOW_IDLE: u64 = 2000;
/// How many flow states are looked at per step.
const FLOWS: usize = 1024;
/// The capacity that the list of flow states keeps while it is empty, in entries.
const KEPT: usize = 64;

/// How far upkeep has come.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Sessions with a flow state, each with the time at which it was listed or last found in use,
    /// in the order of these times.
    flows: VecDeque<(Instant, SessionRef)>,
    /// How many entries of `flows` this round is still to look at.
    flows_due: usize,
}

impl Upkeep {
    /// Lists a session whose flow state is in use at `now`. It is looked at when it may be idle.
    pub(super) fn list_flow(&mut self, now: Instant, session: SessionRef) {
        self.flows.push_back((now, session));
    }

    /// How many flow states are listed.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// How many flow states this round is still to look at.
    pub(super) fn flows_due(&self) -> usize {
        self.flows_due
    }

    /// Begins a round over the entries that are listed by now. Entries that are put back are for
    /// the next round.
    fn begin_round(&mut self) {
        self.flows_due = self.flows.len();
    }

    fn is_flow_due(&self, now: Instant) -> bool {
        let listed_long = |(at, _): &(Instant, _)| at.plus_millis(FLOW_IDLE) <= now;
        self.flows_due > 0 && self.flows.front().is_some_and(listed_long)
    }

    /// Takes out the next flow state to look at.
    fn next_flow(&mut self, now: Instant) -> Option<SessionRef> {
        if !self.is_flow_due(now) {
            return None;
        }
        self.flows_due -= 1;
        self.flows.pop_front().map(|(_, session)| session)
    }

    /// Ends the round when no entry is due; true when some is.
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
    /// Arms the first round. Each round arms the next one when it begins.
    pub(super) fn arm_upkeep(&mut self) {
        self.timers.arm(self.now.plus_millis(ROUND), Timer::Upkeep);
    }

    /// Begins a round of upkeep. Looking at flow states goes on in [`Shard::free_idle_flows`].
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

    /// Frees flow states that are not used any longer, some per step; true when there are more to
    /// look at.
    pub(super) fn free_idle_flows(&mut self) -> bool {
        let now = self.now;
        let retries = self.settings.retry_interval > 0;
        for _ in 0..FLOWS {
            let Some(reference) = self.work.upkeep.next_flow(now) else { break };
            self.meter.charge(cost::VISIT);
            let known = self.sessions.get_of(reference.index, reference.generation);
            let Some(session) = known.filter(|s| !s.is_ending()) else { continue };
            let online = session.socket().is_some();
            // Packet identifiers begin anew with a new flow state. Where messages are repeated on
            // the same connection, the answer to a repetition would then be taken for the answer to
            // another message.
            let repeats = retries && online && !session.version.is_v5();
            let repeats = repeats && !Mutant::RetryForgetsIdentifiers.is_on();
            match &mut session.flow {
                Some(flow) if flow.is_idle() && !repeats => {
                    self.memory.tally.forget_idle(flow);
                    session.flow = None;
                }
                Some(_) if online => self.work.upkeep.list_flow(now, reference),
                // It is listed again when it is used again.
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
