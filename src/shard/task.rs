//! Requests that continue over several steps: a SUBSCRIBE or UNSUBSCRIBE of many filters, the
//! replays that it asked for, and the end of a session with many subscriptions.
//!
//! Each request has a cursor and gets a slice of a step in turn, so that a single packet of a
//! megabyte delays only its own client. That client waits ([`Holds::TASK`]) until its answer is
//! written. A request that takes no longer than a slice is completed at once and never comes here.

use super::Shard;
use super::close::Cause;
use super::connection::Holds;
use super::memory::named;
use super::subscribe::{Joining, check_subscribed, check_unsubscribed};
use crate::ids::{SessionRef, SocketId};
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{
    self, PacketId, SubscribeFilters, UnsubAck, UnsubscribeFilters, UserProperties, Version,
    Violation,
};
use crate::topic::FilterId;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A request under way. Its `ticket` tells it from others: the client waits for the request whose
/// ticket [`Tasks::awaited`] has for the session.
pub(super) enum Task {
    /// The filters of a SUBSCRIBE. Their reason codes gather in the session's [`Joining`].
    Subscribe {
        session: SessionRef,
        ticket: u64,
        subscription_id: Option<u32>,
        filters: RemainingFilters,
    },
    /// The filters of an UNSUBSCRIBE, and the reason codes of those that are done.
    Unsubscribe {
        session: SessionRef,
        ticket: u64,
        id: PacketId,
        filters: RemainingFilters,
        codes: Vec<u8>,
    },
    /// The filters whose replays a SUBSCRIBE has asked for, the last one first. The session is owed
    /// these replays, so they go on when its connection has ended.
    Replays { session: SessionRef, ticket: u64, filters: Vec<FilterId> },
    /// The subscriptions of a session that has ended. Nothing is delivered to this session any
    /// longer.
    End { session: u32 },
}

/// What is left of a packet's filters. No filter is handled before all are known to be correct.
pub(super) struct RemainingFilters {
    socket: SocketId,
    version: Version,
    raw: Box<[u8]>,
    /// The bytes of the filters that were checked, and how many filters these are.
    checked: usize,
    count: usize,
    /// The bytes of the filters that are done.
    at: usize,
}

/// Checks the first filter in the rest of a list; returns the length of its entry in bytes.
type Check = fn(Version, &[u8]) -> Result<usize, Violation>;

impl RemainingFilters {
    pub(super) fn new(socket: SocketId, version: Version, raw: &[u8]) -> Self {
        RemainingFilters { socket, version, raw: raw.into(), checked: 0, count: 0, at: 0 }
    }
}

/// The tasks of a shard.
#[derive(Default)]
pub(super) struct Tasks {
    /// Each task has a slice in turn.
    queue: VecDeque<Task>,
    /// By session: the ticket of the task that its client waits for.
    awaited: HashMap<u32, u64, foldhash::fast::FixedState>,
    /// Tasks that go on when a service has said what their clients may do.
    asking: HashMap<SocketId, Task, foldhash::fast::FixedState>,
}

impl Tasks {
    /// How many tasks are in the queue.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Lets the connection's task go on: the service that it waits for has answered.
    pub(super) fn answered(&mut self, socket: SocketId) {
        if let Some(task) = self.asking.remove(&socket) {
            self.queue.push_back(task);
        }
    }

    /// Removes the task of a connection that is gone.
    pub(super) fn forget(&mut self, socket: SocketId) {
        if !self.asking.is_empty() {
            self.asking.remove(&socket);
        }
    }

    /// Notes that the session's connection has ended, so that no client waits for its task.
    pub(super) fn connection_ended(&mut self, index: u32) {
        self.awaited.remove(&index);
    }
}

impl Shard {
    /// Begins a task, and makes the client wait until it is done.
    pub(super) fn begin_task(&mut self, socket: SocketId, task: Task) {
        if let Some((session, ticket)) = task.awaited() {
            self.work.tasks.awaited.insert(session.index, ticket);
            self.hold(socket, Holds::TASK);
        }
        self.work.tasks.queue.push_back(task);
        self.counters.tasks += 1;
    }

    /// Goes on with tasks in turn until the step's work comes to `limit`; true when some are left.
    pub(super) fn run_tasks(&mut self, limit: u32) -> bool {
        while !self.is_spent(limit) && !self.mail.outbox.is_filling() {
            let Some(task) = self.work.tasks.queue.pop_front() else { break };
            let slice = limit.min(self.meter.work() + self.settings.budget.turn);
            let left = match task {
                Task::Subscribe { session, ticket, subscription_id, filters } => {
                    self.go_on_subscribing(session, ticket, subscription_id, filters, slice)
                }
                Task::Unsubscribe { session, ticket, id, filters, codes } => {
                    self.go_on_unsubscribing(session, ticket, id, filters, codes, slice)
                }
                Task::Replays { session, ticket, filters } => {
                    self.go_on_asking_for_replays(session, ticket, filters, slice)
                }
                Task::End { session } => self.go_on_ending(session, slice),
            };
            if let Some(task) = left.filter(|_| !Mutant::TaskForgetsRest.is_on()) {
                self.work.tasks.queue.push_back(task);
            }
        }
        !self.work.tasks.queue.is_empty() && !self.mail.outbox.is_filling()
    }

    /// Checks filters that were not checked yet, until the work comes to `limit`. Returns whether
    /// all are checked; `None` when one was wrong and the connection has ended for it.
    fn check_rest(
        &mut self,
        index: u32,
        filters: &mut RemainingFilters,
        check: Check,
        limit: u32,
    ) -> Option<bool> {
        while let Some(rest) = filters.raw.get(filters.checked..).filter(|rest| !rest.is_empty()) {
            if self.is_spent(limit) {
                return Some(false);
            }
            self.meter.charge(cost::VISIT);
            let mut outcome = check(filters.version, rest);
            if Mutant::RestUnchecked.is_on() {
                outcome = outcome.or(Ok(1));
            }
            if let Ok(length) = outcome {
                filters.checked += length;
                filters.count += 1;
                if filters.checked == filters.raw.len() {
                    let answer = self.check_answer(index, filters.version, filters.count);
                    outcome = answer.map(|()| length);
                }
            }
            if let Err(violation) = outcome {
                self.disconnect(filters.socket, Cause::Violation(violation));
                return None;
            }
        }
        Some(true)
    }

    fn go_on_subscribing(
        &mut self,
        session: SessionRef,
        ticket: u64,
        subscription_id: Option<u32>,
        mut filters: RemainingFilters,
        limit: u32,
    ) -> Option<Task> {
        let index = session.index;
        // Gone when the connection has ended. What was granted stays, as if the SUBACK had been
        // lost.
        let mut joining = self.take_joining(session, ticket)?;
        if !self.check_rest(index, &mut filters, check_subscribed, limit)? {
            self.put_joining(index, joining);
            return Some(Task::Subscribe { session, ticket, subscription_id, filters });
        }
        let (socket, mut asks) = (filters.socket, false);
        let mut rest = SubscribeFilters::unchecked(filters.version, &filters.raw[filters.at..]);
        let before = rest.left();
        while !self.is_spent(limit) {
            let from_here = rest.clone();
            let Some(wanted) = rest.next() else { break };
            if self.settings.asks && self.asks_for_task(socket, index, &from_here, limit) {
                (rest, asks) = (from_here, true);
                break;
            }
            self.subscribe_one(index, filters.version, subscription_id, &wanted, &mut joining);
        }
        let left = rest.left();
        filters.at += before - left;
        if left == 0 {
            self.end_task(session, ticket);
            self.end_subscribing(filters.socket, filters.version, session, joining);
            return None;
        }
        self.put_joining(index, joining);
        let task = Task::Subscribe { session, ticket, subscription_id, filters };
        if asks {
            self.work.tasks.asking.insert(socket, task);
            return None;
        }
        Some(task)
    }

    /// Ends a SUBSCRIBE whose filters are all done. The SUBACK may still wait for share groups of
    /// other shards.
    fn end_subscribing(
        &mut self,
        socket: SocketId,
        version: Version,
        session: SessionRef,
        mut joining: Joining,
    ) {
        joining.done_one();
        if joining.is_complete() && self.is_announced(&mut joining) {
            self.finish_subscribe(socket, session.index, version, joining);
        } else {
            self.put_joining(session.index, joining);
            self.hold(socket, Holds::JOINING);
        }
    }

    fn go_on_unsubscribing(
        &mut self,
        session: SessionRef,
        ticket: u64,
        id: PacketId,
        mut filters: RemainingFilters,
        mut codes: Vec<u8>,
        limit: u32,
    ) -> Option<Task> {
        let index = session.index;
        let (socket, version) = (filters.socket, filters.version);
        if self.work.tasks.awaited.get(&index) != Some(&ticket) {
            return None;
        }
        if !self.check_rest(index, &mut filters, check_unsubscribed, limit)? {
            return Some(Task::Unsubscribe { session, ticket, id, filters, codes });
        }
        let mut rest = UnsubscribeFilters::unchecked(&filters.raw[filters.at..]);
        let before = rest.left();
        while !self.is_spent(limit) {
            let Some(filter) = rest.next() else { break };
            codes.push(self.unsubscribe_one(index, filter));
        }
        let left = rest.left();
        filters.at += before - left;
        if left > 0 {
            return Some(Task::Unsubscribe { session, ticket, id, filters, codes });
        }
        self.answer_unsubscribe(socket, version, id, &codes);
        self.end_task(session, ticket);
        None
    }

    /// Sends the UNSUBACK, also when no subscription was deleted [MQTT-3.10.4-4].
    pub(super) fn answer_unsubscribe(
        &mut self,
        socket: SocketId,
        version: Version,
        id: PacketId,
        codes: &[u8],
    ) {
        let user = UserProperties::default();
        let unsuback = UnsubAck { id, codes, reason_string: None, user };
        self.answer(socket, |out| packet::encode_unsuback(out, version, &unsuback));
    }

    /// Begins the replays that a SUBSCRIBE asked for, in its order.
    pub(super) fn ask_for_replays(&mut self, index: u32, mut filters: Vec<FilterId>) {
        if filters.len() <= self.settings.budget.filters_at_once {
            for filter in filters {
                self.begin_replay(index, filter);
            }
            return;
        }
        filters.reverse();
        let session = self.session_ref(index);
        if let Some(socket) = self.sessions.get(index).and_then(|session| session.socket()) {
            let ticket = self.topology.ticket();
            self.begin_task(socket, Task::Replays { session, ticket, filters });
        }
    }

    fn go_on_asking_for_replays(
        &mut self,
        session: SessionRef,
        ticket: u64,
        mut filters: Vec<FilterId>,
        limit: u32,
    ) -> Option<Task> {
        self.session_of(session)?;
        while !self.is_spent(limit) {
            let Some(filter) = filters.pop() else {
                self.end_task(session, ticket);
                return None;
            };
            self.meter.charge(cost::FILTER);
            let known = |session: &crate::session::Session| session.subscriptions.position(filter);
            if self.sessions.get(session.index).and_then(known).is_some() {
                self.begin_replay(session.index, filter);
            }
        }
        Some(Task::Replays { session, ticket, filters })
    }

    /// Ends a task. The client that waits for it goes on at the end of the step.
    fn end_task(&mut self, session: SessionRef, ticket: u64) {
        if self.work.tasks.awaited.get(&session.index) == Some(&ticket) {
            self.work.tasks.awaited.remove(&session.index);
            let socket = self.session_of(session).and_then(|session| session.socket());
            if let Some(socket) = socket {
                self.free(socket, Holds::TASK);
            }
        }
    }

    /// Ends the subscriptions of a session that has ended and whose name and queues are gone: at
    /// once when they are few. Until they are gone, the session keeps its place and gets nothing
    /// ([`Session::is_ending`]).
    ///
    /// [`Session::is_ending`]: crate::session::Session::is_ending
    pub(super) fn end_subscriptions(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.expiry = 0;
        session.set_armed(crate::time::Instant(0));
        let count = session.subscriptions.len() + session.shared();
        self.subscriptions.forget_unhashed(index);
        if count <= self.settings.budget.filters_at_once {
            self.go_on_ending(index, u32::MAX);
        } else {
            self.counters.tasks += 1;
            self.work.tasks.queue.push_back(Task::End { session: index });
        }
    }

    fn go_on_ending(&mut self, index: u32, limit: u32) -> Option<Task> {
        while !self.is_spent(limit) {
            if self.leave_any(index) {
                continue;
            }
            self.meter.charge(cost::VISIT);
            let session = self.sessions.get_mut(index)?;
            let Some(place) = session.subscriptions.any() else {
                if let Some(session) = self.sessions.remove(index) {
                    self.memory.tally.names -= named(&session);
                }
                self.has_left_stored(index);
                return None;
            };
            session.subscriptions.remove(place.filter);
            self.leave_stored(index, place.filter);
            self.counters.subscriptions -= 1;
            self.remove_place(place.filter, place.position);
        }
        Some(Task::End { session: index })
    }

    /// How many sessions have subscriptions that are still to be taken out.
    pub(super) fn ending(&self) -> usize {
        self.work.tasks.queue.iter().filter(|task| matches!(task, Task::End { .. })).count()
    }
}

impl Task {
    /// The session whose client waits for the task, and the task's ticket.
    fn awaited(&self) -> Option<(SessionRef, u64)> {
        match self {
            Task::Subscribe { session, ticket, .. }
            | Task::Unsubscribe { session, ticket, .. }
            | Task::Replays { session, ticket, .. } => Some((*session, *ticket)),
            Task::End { .. } => None,
        }
    }
}
