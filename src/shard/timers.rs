//! Timers. There is one wheel per shard, with about one entry per connection and session at most.
//! Entries are never cancelled: when one fires, its owner looks at its own deadline and arms the
//! next one.

use super::close::{Cause, LAST_WORDS};
use super::connection::{Holds, Stage};
use super::spare::halve;
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::{REFUSED_MILLIS, cost};
use crate::mutant::Mutant;
use crate::time::{GRANULARITY_MILLIS, Instant, Wheel};

/// Chunks of the wheel that are swept per step: some 20 µs.
const SWEEP: usize = 8;
/// Milliseconds between rounds of sweeping.
const SWEEP_REST: u64 = 1000;
/// Entries that the wheel may always have.
const FEW_TIMERS: usize = 4096;
/// Timers taken from the wheel at a time; what they cause may cost as much as a session each.
const TIMERS: usize = 8;
/// Milliseconds until a client that may only be unheard is looked at again.
pub(super) const AGAIN: u64 = 100;

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// A connection's: connect timeout, keep-alive, last words.
    Connection(SocketId),
    /// A session's: will delay, expiry.
    Session(u32),
    /// A session's retry towards an MQTT 3 client.
    Retry(u32),
    /// The shard's own `$SYS` update.
    Sys,
    /// The shard's own upkeep.
    Upkeep,
}

const _: () = assert!(size_of::<Timer>() <= 8);

/// The shard's timers.
pub(super) struct Timers {
    wheel: Wheel<Timer>,
    /// What is due, while it is looked at.
    due: Vec<Timer>,
    /// No sweep goes on before.
    sweep_after: Instant,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Timers { wheel: Wheel::new(now), due: Vec::new(), sweep_after: now }
    }

    /// The timer's turn comes at `deadline`.
    pub(super) fn arm(&mut self, deadline: Instant, timer: Timer) {
        self.wheel.insert(deadline, timer);
    }

    /// When the next may be due; `None` when there is none.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    /// Entries on the wheel.
    pub(super) fn len(&self) -> usize {
        self.wheel.len()
    }

    /// Takes some that are due at `now`, in a list for [`Timers::give_back`]; true when more are.
    fn take_due(&mut self, now: Instant) -> (Vec<Timer>, bool) {
        let mut due = std::mem::take(&mut self.due);
        let more = self.wheel.expire(now, TIMERS, &mut due);
        (due, more)
    }

    fn give_back(&mut self, due: Vec<Timer>) {
        self.due = due;
    }

    /// Sweeps out some entries that `keep` refuses when more than half can be such: all but
    /// `wanted`. `keep` is told when an entry fires. True when not all are swept yet.
    fn sweep(
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

    /// Gives half of the spare room back.
    pub(super) fn shrink(&mut self) {
        halve(&mut self.due);
    }
}

impl Shard {
    /// Sees to it that a connection's turn comes at `deadline` at the latest.
    pub(super) fn arm_connection(&mut self, socket: SocketId, deadline: Instant) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.armed != Instant(0) && connection.armed <= deadline {
            return;
        }
        connection.armed = deadline;
        self.timers.arm(deadline, Timer::Connection(socket));
    }

    /// Sees to it that a session's turn comes at `deadline` at the latest.
    pub(super) fn arm_session(&mut self, index: u32, deadline: Instant) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.armed != Instant(0) && session.armed <= deadline {
            return;
        }
        session.armed = deadline;
        self.timers.arm(deadline, Timer::Session(index));
    }

    /// Runs due timers; true when more are due.
    pub(super) fn run_timers(&mut self) -> bool {
        self.input_progress.input_ended(self.now);
        if self.admissions.deadline().is_some() {
            self.end_admissions();
        }
        let limit = self.meter.allowance(self.settings.budget);
        let mut more = true;
        while more && !self.is_spent(limit) {
            more = self.run_some_timers();
        }
        more | self.sweep_timers()
    }

    /// The same for a few; true when more are due.
    fn run_some_timers(&mut self) -> bool {
        let (mut due, more) = self.timers.take_due(self.now);
        for timer in due.drain(..) {
            self.meter.charge(cost::VISIT);
            match timer {
                Timer::Connection(socket) => self.connection_due(socket),
                Timer::Session(index) => {
                    let now = self.now;
                    let Some(session) = self.sessions.get_mut(index) else { continue };
                    if session.armed == Instant(0) || session.armed > now {
                        continue; // left over from an earlier deadline or an earlier session
                    }
                    session.armed = Instant(0);
                    self.session_due(index);
                }
                Timer::Retry(index) => self.retry_due(index),
                Timer::Sys => self.sys_due(),
                Timer::Upkeep => self.upkeep_due(),
            }
        }
        self.timers.give_back(due);
        more
    }

    /// Connections that came and went leave their entries on the wheel until those are due, which
    /// may be hours. When more than half are such, they are swept out; true when not all are yet.
    fn sweep_timers(&mut self) -> bool {
        let wanted = self.connections.len() + self.sessions.len();
        let (connections, sessions, now) = (&self.connections, &self.sessions, self.now);
        self.timers.sweep(now, wanted, |fires, timer| {
            let armed = match timer {
                Timer::Connection(socket) => connections.get(socket.0).map(|c| c.armed),
                Timer::Session(index) => sessions.get(index).map(|s| s.armed),
                Timer::Retry(index) => {
                    sessions.get(index).and_then(|s| s.flow.as_ref()).and_then(|flow| flow.retry)
                }
                Timer::Sys | Timer::Upkeep => return true,
            };
            // A deadline that had passed when it was entered fires later than it says.
            armed.filter(|&at| at != Instant(0)).is_some_and(|at| {
                at <= now || at <= fires && fires.millis_since(at) < GRANULARITY_MILLIS
            })
        })
    }

    fn connection_due(&mut self, socket: SocketId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.armed == Instant(0) || connection.armed > now {
            return;
        }
        let due = std::mem::replace(&mut connection.armed, Instant(0));
        match connection.stage {
            Stage::Entry => {
                if connection.layered
                    && let Some(later) = self.entry_deadline(socket).filter(|&at| at > now)
                {
                    return self.arm_connection(socket, later);
                }
                if self.input_progress.may_be_unheard(now, due, self.settings.connect_timeout) {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::Refused(_) => {
                if self.input_progress.may_be_unheard(now, due, REFUSED_MILLIS) {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::HandingOver => self.departure_due(socket),
            Stage::Proving => self.admission_due(socket),
            Stage::Closed => {}
            Stage::Closing => {
                // The entry may be one from before.
                let deadline = connection.last_seen.plus_millis(LAST_WORDS);
                if deadline <= now {
                    self.close_socket(socket, Action::Close(socket));
                } else {
                    self.arm_connection(socket, deadline);
                }
            }
            Stage::Open(_) if connection.patience == 0 => {}
            Stage::Open(_) => {
                let output = connection.output.as_ref();
                let seen = match output.filter(|_| connection.holds.has(Holds::UNREAD)) {
                    // That we do not read it is its own doing, but it may be reading slowly.
                    Some(output) => output.progressed.max(connection.last_seen),
                    // While we do not read it, or have not come to what it has sent, silence is
                    // ours.
                    None if (connection.paused || connection.waits())
                        && !Mutant::HeldJudged.is_on() =>
                    {
                        now
                    }
                    None => connection.last_seen,
                };
                let patience = u64::from(connection.patience);
                let deadline = self.input_progress.latest(seen).plus_millis(patience);
                if deadline > now {
                    self.arm_connection(socket, deadline);
                } else if self.input_progress.may_be_unheard(now, deadline, patience) {
                    self.arm_connection(socket, now.plus_millis(AGAIN));
                } else {
                    self.disconnect(socket, Cause::KeepAlive);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps out all but `kept` until that ends; returns how many entries were looked at.
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
