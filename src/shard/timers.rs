//! Timers: one wheel per shard, at most about one entry per connection and session. Entries are
//! never cancelled; whoever's turn it is looks at its own deadline and arms the next one.

use super::close::{Cause, LAST_WORDS};
use super::connection::{Holds, Stage};
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::{REFUSED_MILLIS, cost};
use crate::mutant::Mutant;
use crate::time::{GRANULARITY_MILLIS, Instant};

/// Chunks of the wheel that are swept per step: some 20 µs.
const SWEEP: usize = 8;
/// Milliseconds between rounds of sweeping.
const SWEEP_REST: u64 = 1000;
/// Entries that the wheel may always have.
const FEW_TIMERS: usize = 4096;
/// Timers taken from the wheel at a time; what they cause may cost as much as a session each.
const TIMERS: usize = 8;
/// Milliseconds between looks at idle flow state, retained expiry and spare memory.
pub(super) const HOUSEKEEPING: u64 = 1000;
/// Milliseconds until the first `$SYS` update.
const FIRST_SYS: u64 = 100;
/// Milliseconds until a client that may only be unheard is looked at again.
pub(super) const AGAIN: u64 = 100;
/// Milliseconds a flow state stays after its last use.
const FLOW_IDLE: u64 = 2000;
/// Flow states looked at per step.
const FLOWS: usize = 1024;

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
    Housekeeping,
}

const _: () = assert!(size_of::<Timer>() <= 8);

impl Shard {
    /// Sees to it that a connection's turn comes at `deadline` at the latest.
    pub(super) fn arm_connection(&mut self, socket: SocketId, deadline: Instant) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.armed != Instant(0) && connection.armed <= deadline {
            return;
        }
        connection.armed = deadline;
        self.wheel.insert(deadline, Timer::Connection(socket));
    }

    /// Sees to it that a session's turn comes at `deadline` at the latest.
    pub(super) fn arm_session(&mut self, index: u32, deadline: Instant) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.armed != Instant(0) && session.armed <= deadline {
            return;
        }
        session.armed = deadline;
        self.wheel.insert(deadline, Timer::Session(index));
    }

    pub(super) fn arm_housekeeping(&mut self) {
        let due = self.now.plus_millis(HOUSEKEEPING);
        if self.sys.arm_housekeeping() {
            self.wheel.insert(due, Timer::Housekeeping);
        }
        let interval = self.settings.sys_interval;
        if interval > 0 && self.sys.arm() {
            let wait = if self.sys.is_new() { FIRST_SYS.min(interval) } else { interval };
            self.wheel.insert(self.now.plus_millis(wait), Timer::Sys);
        }
    }

    /// Runs due timers; true when more are due.
    pub(super) fn run_timers(&mut self) -> bool {
        if self.asks_who_was_heard() {
            self.unheard_since.get_or_insert(self.now);
        }
        let limit = self.allowance();
        let mut more = true;
        while more && !self.is_spent(limit) {
            more = self.run_some_timers();
        }
        more | self.sweep_timers()
    }

    /// The same for a few; true when more are due.
    fn run_some_timers(&mut self) -> bool {
        let mut due = std::mem::take(&mut self.due);
        let more = self.wheel.expire(self.now, TIMERS, &mut due);
        for timer in due.drain(..) {
            self.work += cost::VISIT;
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
                Timer::Sys => {
                    self.sys.disarm();
                    self.publish_sys();
                    self.arm_housekeeping();
                }
                Timer::Housekeeping => {
                    self.sys.disarm_housekeeping();
                    self.begin_housekeeping();
                    self.tell_left_out();
                    self.arm_housekeeping();
                }
            }
        }
        self.due = due;
        more
    }

    /// Connections that came and went leave their entries on the wheel until those are due, which
    /// may be hours. When more than half are such, they are swept out; true when not all are yet.
    fn sweep_timers(&mut self) -> bool {
        let wanted = self.connections.len() + self.sessions.len();
        if self.wheel.len() <= FEW_TIMERS + 2 * wanted || self.now < self.sweep_after {
            return false;
        }
        let (connections, sessions, now) = (&self.connections, &self.sessions, self.now);
        let round = self.wheel.sweep(SWEEP, |fires, timer| {
            let armed = match timer {
                Timer::Connection(socket) => connections.get(socket.0).map(|c| c.armed),
                Timer::Session(index) => sessions.get(index).map(|s| s.armed),
                Timer::Retry(index) => {
                    sessions.get(index).and_then(|s| s.flow.as_ref()).and_then(|flow| flow.retry)
                }
                Timer::Sys | Timer::Housekeeping => return true,
            };
            // A deadline that had passed when it was entered fires later than it says.
            armed.filter(|&at| at != Instant(0)).is_some_and(|at| {
                at <= now || at <= fires && fires.millis_since(at) < GRANULARITY_MILLIS
            })
        });
        if round {
            self.sweep_after = now.plus_millis(SWEEP_REST);
        }
        !round
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
                if self.may_be_unheard(due, self.settings.connect_timeout) {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::Refused(_) => {
                if self.may_be_unheard(due, REFUSED_MILLIS) {
                    return self.arm_connection(socket, now.plus_millis(AGAIN));
                }
                self.counters.connect_timeouts += 1;
                self.disconnect(socket, Cause::ConnectTimeout);
            }
            Stage::HandingOver => self.departure_due(socket),
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
                let stall = self.stalls.iter().find(|(from, _)| *from == seen);
                let seen = stall.map_or(seen, |(_, until)| *until);
                let patience = u64::from(connection.patience);
                let deadline = seen.plus_millis(patience);
                if deadline > now {
                    self.arm_connection(socket, deadline);
                } else if self.may_be_unheard(deadline, patience) {
                    self.arm_connection(socket, now.plus_millis(AGAIN));
                } else {
                    self.disconnect(socket, Cause::KeepAlive);
                }
            }
        }
    }

    /// Whether what a client sent before `deadline` may lie in the kernel, unread: the shard was
    /// held up (the process stopped, the core taken away), or more comes than it takes in.
    /// [MQTT-3.1.2-22] is about clients that were not heard although we listened. When we never
    /// get to the end of what there is, a client's silence counts all the same after as long again
    /// as it was `allowed`, in milliseconds.
    fn may_be_unheard(&self, deadline: Instant, allowed: u64) -> bool {
        // From when we listened again, not from when we were held up.
        let since = self.unheard_since.unwrap_or(self.now);
        let judged = deadline.max(since).plus_millis(allowed);
        deadline > self.heard_at
            && (self.now < judged || Mutant::UnheardForEver.is_on())
            && !Mutant::UnheardJudged.is_on()
    }

    fn begin_housekeeping(&mut self) {
        // Those that were listed by now; who is put back is for the next time.
        self.idle_flows_due = self.idle_flows.len();
        self.give_back_spare();
        let sessions = &self.sessions;
        let hash = |index| sessions.get(index).map_or(0, |session| session.key.0.get());
        self.names.shrink(hash);
        self.sweep_retained();
        self.tell_memory();
        self.give_up_lost();
    }

    /// Gives back flow states that are not used any more, some per step; true when there are more
    /// to look at.
    pub(super) fn keep_house(&mut self) -> bool {
        let now = self.now;
        let retries = self.settings.retry_interval > 0;
        for _ in 0..FLOWS {
            if self.idle_flows_due == 0 {
                return false;
            }
            let Some(&(at, reference)) = self.idle_flows.front() else { break };
            if at.plus_millis(FLOW_IDLE) > now {
                break;
            }
            self.idle_flows_due -= 1;
            self.work += cost::VISIT;
            self.idle_flows.pop_front();
            let known = self.sessions.get_of(reference.index, reference.generation);
            let Some(session) = known.filter(|s| !s.is_ending()) else { continue };
            let online = session.socket.is_some();
            // Identifiers begin anew with the state. Where messages are repeated on a connection,
            // the answer to a repetition would then stand for another message.
            let repeats = retries && online && !session.version.is_v5();
            let repeats = repeats && !Mutant::RetryForgetsIdentifiers.is_on();
            match &mut session.flow {
                Some(flow) if flow.is_idle() && !repeats => {
                    self.tally.forget_idle(flow);
                    session.flow = None;
                }
                Some(_) if online => self.idle_flows.push_back((now, reference)),
                // Listed again when it is used again.
                Some(flow) => flow.listed = false,
                None => {}
            }
        }
        let more = self.idle_flows_due > 0
            && self.idle_flows.front().is_some_and(|(at, _)| at.plus_millis(FLOW_IDLE) <= now);
        if !more {
            self.idle_flows_due = 0;
            if self.idle_flows.is_empty() {
                self.idle_flows.shrink_to(64);
            }
        }
        more
    }
}
