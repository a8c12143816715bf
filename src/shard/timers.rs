//! The timers of a shard. There is one wheel, with about one entry per connection and session at
//! most. Entries are never cancelled: when one fires, its owner compares its own deadline and arms
//! the next entry. What is done for a due timer is in [`super::due`].

use super::Shard;
use super::input_progress::InputProgress;
use super::spare::halve;
use crate::ids::SocketId;
use crate::time::{Instant, Wheel};

/// How many chunks of the wheel are swept per step, which takes some 20 µs.
const SWEEP: usize = 8;
/// Milliseconds between two rounds of sweeping.
const SWEEP_REST: u64 = 1000;
/// The wheel is not swept while it has no more entries than this.
const FEW_TIMERS: usize = 4096;
/// How many timers are taken from the wheel at a time. Each may cause as much work as the end of a
/// session.
const TIMERS: usize = 8;
/// Milliseconds until a client that may only be unheard is looked at again.
pub(super) const AGAIN: u64 = 100;

/// The owner of a timer, and what the timer is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// A connection: connect timeout, keep-alive, or the time for its last packet.
    Connection(SocketId),
    /// A session: will delay or expiry.
    Session(u32),
    /// A session: the retry towards an MQTT 3 client.
    Retry(u32),
    /// The shard: the next `$SYS` update.
    Sys,
    /// The shard: the next round of upkeep.
    Upkeep,
}

const _: () = assert!(size_of::<Timer>() <= 8);

/// The shard's timers.
pub(super) struct Timers {
    wheel: Wheel<Timer>,
    /// The due timers, while they are handled.
    due: Vec<Timer>,
    /// The next round of sweeping does not begin before this time.
    sweep_after: Instant,
    pub(super) input_progress: InputProgress,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Timers {
            wheel: Wheel::new(now),
            due: Vec::new(),
            sweep_after: now,
            input_progress: InputProgress::new(now),
        }
    }

    /// Arms a timer, which fires at `deadline`.
    pub(super) fn arm(&mut self, deadline: Instant, timer: Timer) {
        self.wheel.insert(deadline, timer);
    }

    /// When the next timer may be due; `None` when there is none.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// How many entries the wheel has.
    pub(super) fn len(&self) -> usize {
        self.wheel.len()
    }

    /// Takes out some timers that are due at `now`, in a list for [`Timers::give_back`]. Also
    /// returns whether more are due.
    pub(super) fn take_due(&mut self, now: Instant) -> (Vec<Timer>, bool) {
        let mut due = std::mem::take(&mut self.due);
        let more = self.wheel.expire(now, TIMERS, &mut due);
        (due, more)
    }

    pub(super) fn give_back(&mut self, due: Vec<Timer>) {
        self.due = due;
    }

    /// Sweeps out some entries that `keep` refuses, when more than half of the entries can be of
    /// this kind: `wanted` is how many are not. `keep` gets the time at which an entry fires. True
    /// when the round of sweeping is not over.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        wanted: usize,
        keep: impl FnMut(Instant, Timer) -> bool,
    ) -> bool {
        if self.wheel.len() <= FEW_TIMERS + 2 * wanted || now < self.sweep_after {
            return false;
        }
        let round = self.wheel.sweep(SWEEP, keep);
        if round {
            self.sweep_after = now.plus_millis(SWEEP_REST);
        }
        !round
    }

    /// Gives back half of the unused capacity.
    pub(super) fn shrink(&mut self) {
        halve(&mut self.due);
    }
}

impl Shard {
    /// Makes sure that the connection's timer fires at `deadline` at the latest.
    pub(super) fn arm_connection(&mut self, socket: SocketId, deadline: Instant) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.armed != Instant(0) && connection.armed <= deadline {
            return;
        }
        connection.armed = deadline;
        self.timers.arm(deadline, Timer::Connection(socket));
    }

    /// Makes sure that the session's timer fires at `deadline` at the latest.
    pub(super) fn arm_session(&mut self, index: u32, deadline: Instant) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.armed() != Instant(0) && session.armed() <= deadline {
            return;
        }
        session.set_armed(deadline);
        self.timers.arm(session.armed(), Timer::Session(index));
    }

    /// Arms the retry of a session that has unacknowledged messages.
    pub(super) fn arm_retry(&mut self, index: u32) {
        let interval = self.settings.retry_interval;
        if interval == 0 {
            return;
        }
        let at = self.now.plus_millis(interval);
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.version.is_v5() {
            return; // [MQTT-4.4.0-1]: only when the client reconnects
        }
        let Some(flow) = &mut session.flow else { return };
        if flow.retry.is_none() {
            flow.retry = Some(at);
            self.timers.arm(at, Timer::Retry(index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps out all entries but `kept` until the round is over; returns how many were looked at.
    fn sweep(timers: &mut Timers, now: Instant, wanted: usize, kept: Timer) -> usize {
        let mut looks = 0;
        for _ in 0..1000 {
            let keep = |_, timer| {
                looks += 1;
                timer == kept
            };
            if !timers.sweep(now, wanted, keep) {
                return looks;
            }
        }
        panic!("it never comes round");
    }

    #[test]
    fn entries_that_nobody_wants_are_swept_when_they_are_more_than_half() {
        let (start, wanted) = (Instant(1_000_000), 500);
        let mut timers = Timers::new(start);
        let most = FEW_TIMERS + 2 * wanted;
        for index in 0..most as u64 {
            timers.arm(start.plus_millis(1000 + index), Timer::Session(0));
        }
        assert_eq!(sweep(&mut timers, start, wanted, Timer::Upkeep), 0);
        timers.arm(start.plus_millis(3_600_000), Timer::Upkeep);
        assert!(sweep(&mut timers, start, wanted, Timer::Upkeep) > 0);
        assert!((1..=most).contains(&timers.len()));
        let mut upkeep = 0;
        while timers.len() > 0 {
            let (due, _) = timers.take_due(start.plus_millis(3_700_000));
            upkeep += due.iter().filter(|timer| **timer == Timer::Upkeep).count();
        }
        assert_eq!(upkeep, 1, "what is wanted stays");
    }

    #[test]
    fn a_sweep_rests_after_a_round() {
        let start = Instant(1_000_000);
        let mut timers = Timers::new(start);
        for index in 0..=FEW_TIMERS as u64 {
            timers.arm(start.plus_millis(1000 + index), Timer::Upkeep);
        }
        let all = timers.len();
        assert_eq!(sweep(&mut timers, start, 0, Timer::Upkeep), all);
        assert_eq!(sweep(&mut timers, start.plus_millis(SWEEP_REST - 1), 0, Timer::Upkeep), 0);
        assert_eq!(sweep(&mut timers, start.plus_millis(SWEEP_REST), 0, Timer::Upkeep), all);
    }

    #[test]
    fn due_timers_are_taken_a_few_at_a_time() {
        let start = Instant(1_000_000);
        let mut timers = Timers::new(start);
        for index in 0..=TIMERS as u32 {
            timers.arm(start.plus_millis(100), Timer::Session(index));
        }
        let later = start.plus_millis(200);
        assert!(timers.next_deadline().is_some_and(|at| at <= later));
        let (mut due, more) = timers.take_due(later);
        assert_eq!((due.len(), more), (TIMERS, true));
        due.clear();
        timers.give_back(due);
        let (due, more) = timers.take_due(later);
        assert_eq!((due.len(), more), (1, false));
        assert_eq!(timers.len(), 0);
    }
}
