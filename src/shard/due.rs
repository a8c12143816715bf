//! Timers that are due: which of them run in a step, and what follows from each. See
//! [`super::timers`] for the wheel.

use super::close::{Cause, LAST_WORDS};
use super::connection::{Holds, Stage};
use super::timers::{AGAIN, Timer};
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::{REFUSED_MILLIS, cost};
use crate::mutant::Mutant;
use crate::time::{GRANULARITY_MILLIS, Instant};

impl Shard {
    /// Runs due timers; true when more are due.
    pub(super) fn run_timers(&mut self) -> bool {
        if self.work.stopping.suspended {
            return false;
        }
        self.timers.input_progress.input_ended(self.now);
        if self.access.admissions.deadline().is_some() {
            self.end_admissions();
        }
        let limit = self.meter.allowance(self.settings.budget);
        let mut more = true;
        while more && !self.is_spent(limit) {
            more = self.run_some_timers();
        }
        more | self.sweep_timers()
    }

    /// Runs a few of the due timers; true when more are due.
    fn run_some_timers(&mut self) -> bool {
        let (mut due, more) = self.timers.take_due(self.now);
        for timer in due.drain(..) {
            self.meter.charge(cost::VISIT);
            match timer {
                Timer::Connection(socket) => self.connection_due(socket),
                Timer::Session(index) => {
                    let now = self.now;
                    let Some(session) = self.sessions.get_mut(index) else { continue };
                    if session.armed() == Instant(0) || session.armed() > now {
                        continue; // left over from an earlier deadline or an earlier session
                    }
                    session.set_armed(Instant(0));
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

    /// Connections and sessions that came and went leave their entries on the wheel until those are
    /// due, which may be hours. When more than half of the entries are such, they are swept out;
    /// true when some are left.
    fn sweep_timers(&mut self) -> bool {
        let wanted = self.connections.len() + self.sessions.len();
        let (connections, sessions, now) = (&self.connections, &self.sessions, self.now);
        self.timers.sweep(now, wanted, |fires, timer| {
            let armed = match timer {
                Timer::Connection(socket) => connections.get(socket.0).map(|c| c.armed),
                Timer::Session(index) => sessions.get(index).map(|s| s.armed()),
                Timer::Retry(index) => {
                    sessions.get(index).and_then(|s| s.flow.as_ref()).and_then(|flow| flow.retry)
                }
                Timer::Sys | Timer::Upkeep => return true,
            };
            // An entry whose deadline had passed when it was made fires later than its deadline
            // says.
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
                let progress = &self.timers.input_progress;
                // It is not the client's doing when its next TLS record was not looked at.
                if progress.may_be_unheard(now, due, self.settings.connect_timeout)
                    || self.layered.waits_for_turn(socket)
                {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::Refused(_) => {
                if self.timers.input_progress.may_be_unheard(now, due, REFUSED_MILLIS) {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::HandingOver => self.departure_due(socket),
            Stage::Proving => self.admission_due(socket),
            Stage::Closed => {}
            Stage::Closing => {
                // The timer's entry may be older than the closing.
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
                    // That we do not read the connection is its client's own doing, but the client
                    // may be reading slowly.
                    Some(output) => output.progressed.max(connection.last_seen),
                    // While we do not read the connection, or have not come to what its client has
                    // sent, the silence is our doing.
                    None if (connection.is_paused() || connection.waits())
                        && !Mutant::HeldJudged.is_on() =>
                    {
                        now
                    }
                    None => connection.last_seen,
                };
                let patience = u64::from(connection.patience);
                let deadline = self.timers.input_progress.latest(seen).plus_millis(patience);
                if deadline > now {
                    self.arm_connection(socket, deadline);
                } else if self.timers.input_progress.may_be_unheard(now, deadline, patience) {
                    self.arm_connection(socket, now.plus_millis(AGAIN));
                } else {
                    self.disconnect(socket, Cause::KeepAlive);
                }
            }
        }
    }
}
