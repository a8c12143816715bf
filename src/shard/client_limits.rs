//! Limits of single clients (`limits.client`, a listener's `limits`, `limits.users`). This module
//! owns what clients with a limit have used, in a table beside their sessions. A client without a
//! limit has no entry there and costs nothing.

use super::Shard;
use super::refuse::Denial;
use crate::ids::{ListenerId, SocketId};
use crate::mesh::ListenerState;
use crate::message::Accounts;
use crate::mutant::Mutant;
use crate::overload::limits::{Excess, GrantedLimits, Usage, UserGroup};
use crate::packet::{Connect, Publish, Qos, ReasonCode, Version};
use crate::session::inbound::Arrival;
use crate::session::pending::PendingBounds;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A client with limits.
struct Limited {
    granted: GrantedLimits,
    usage: Usage,
    /// The entry of `limits.users` that the client's connection counts for.
    group: Option<Arc<UserGroup>>,
    /// The accounts that the client's retained messages are charged to.
    accounts: Accounts,
}

/// The clients with limits, and the connections that wait because of a limit.
#[derive(Default)]
pub(super) struct ClientLimiting {
    /// By the index of the session.
    of: HashMap<u32, Box<Limited>, foldhash::fast::FixedState>,
    /// Connections that wait until their client is within its rate again, the next one first.
    pub(super) waiting: BTreeSet<(Instant, SocketId)>,
    /// Until when each of these connections waits.
    until: HashMap<SocketId, Instant, foldhash::fast::FixedState>,
}

impl ClientLimiting {
    /// How many clients have limits.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// How many connections wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When the next waiting connection goes on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// The limits of the session's client, if there are any.
    #[inline]
    fn granted(&self, index: u32) -> Option<&GrantedLimits> {
        if self.of.is_empty() {
            return None;
        }
        self.of.get(&index).map(|limited| &limited.granted)
    }

    fn wait(&mut self, socket: SocketId, until: Instant) {
        self.stop_waiting(socket);
        self.until.insert(socket, until);
        self.waiting.insert((until, socket));
    }

    pub(super) fn stop_waiting(&mut self, socket: SocketId) {
        if let Some(until) = self.until.remove(&socket) {
            self.waiting.remove(&(until, socket));
        }
    }

    /// The socket is closed.
    pub(super) fn forget_socket(&mut self, socket: SocketId) {
        if !self.until.is_empty() {
            self.stop_waiting(socket);
        }
    }

    fn forget(&mut self, index: u32) {
        if !self.of.is_empty() && !Mutant::LimitsForgotten.is_on() {
            self.of.remove(&index);
        }
    }
}

impl Shard {
    /// Looks up the limits of a client that connects. A connection is taken from what its entry of
    /// `limits.users` allows all of its clients together, and given back when the connection ends.
    /// The error says which limit of that entry refuses the client.
    pub(super) fn limits_of(
        &mut self,
        name: &str,
        connect: &Connect<'_>,
        listener: &ListenerState,
    ) -> Result<NewLimits, Denial> {
        let rules = &self.settings.policy.limits;
        if !rules.any() {
            return Ok(NewLimits::default());
        }
        let (granted, entry) = rules.find(name, connect.username, &listener.name);
        let mut group = None;
        if let Some(entry) = entry {
            let now = self.meter.begun();
            if entry.connects_per_second.is_some_and(|rate| !entry.group.rate.allow(now, rate)) {
                return Err(Denial::UserRate);
            }
            // The connection that this one takes over still counts, and is given back a little
            // later.
            let replaces =
                self.sessions.find(self.topology.client_key(name), name).is_some_and(|index| {
                    let limited = self.sessions.limiting.of.get(&index);
                    let known = limited.and_then(|limited| limited.group.as_ref());
                    known.is_some_and(|known| Arc::ptr_eq(known, &entry.group))
                });
            let most = if replaces { u64::MAX } else { entry.connections.unwrap_or(u64::MAX) };
            if !entry.group.connections.take(1, most) {
                return Err(Denial::UserLimit);
            }
            group = Some(Arc::clone(&entry.group));
        }
        let accounts = rules.accounts_of(&listener.name, entry);
        Ok(NewLimits { granted, group, accounts })
    }

    /// The client at `index` was admitted by another process before: it gets the limits of a client
    /// that connects now, and no bound on connections refuses it.
    pub(super) fn adopt_limits(&mut self, index: u32, listener: ListenerId) {
        let rules = &self.settings.policy.limits;
        let Some(listener_state) = self.entrance.listener(listener).filter(|_| rules.any()) else {
            return;
        };
        let Some(session) = self.sessions.get(index) else { return };
        let username = session.grant().and_then(|grant| grant.username.as_deref());
        let (granted, entry) = rules.find(&session.client_id, username, &listener_state.name);
        let group = entry.map(|entry| {
            entry.group.connections.take(1, u64::MAX);
            Arc::clone(&entry.group)
        });
        let accounts = rules.accounts_of(&listener_state.name, entry);
        self.put_limits(index, NewLimits { granted, group, accounts });
    }

    /// The session at `index` has these limits from now on.
    pub(super) fn put_limits(&mut self, index: u32, new: NewLimits) {
        let NewLimits { granted, group, accounts } = new;
        if granted.is_unlimited() && group.is_none() && accounts.is_none() {
            self.forget_limits(index);
            return;
        }
        let of = &mut self.sessions.limiting.of;
        // A client that comes back to its session goes on with what it had used.
        let usage = of.get(&index).map(|limited| limited.usage).unwrap_or_default();
        of.insert(index, Box::new(Limited { granted, usage, group, accounts }));
        self.counters.clients_limited = of.len() as u64;
    }

    /// The session has ended, or its client has no limits any more.
    pub(super) fn forget_limits(&mut self, index: u32) {
        self.sessions.limiting.forget(index);
        self.counters.clients_limited = self.sessions.limiting.len() as u64;
    }

    /// The accounts that the client's retained messages are charged to.
    #[inline]
    pub(super) fn accounts_of(&self, index: u32) -> Accounts {
        let of = &self.sessions.limiting.of;
        if of.is_empty() {
            return Accounts::NONE;
        }
        of.get(&index).map(|limited| limited.accounts).unwrap_or_default()
    }

    /// The session has lost its connection, which is given back to its entry of `limits.users`.
    pub(super) fn leave_group_of_users(&mut self, index: u32) {
        if self.sessions.limiting.len() == 0 || Mutant::UserNotLeft.is_on() {
            return;
        }
        if let Some(group) =
            self.sessions.limiting.of.get_mut(&index).and_then(|limited| limited.group.take())
        {
            group.connections.give(1);
        }
    }

    /// Largest packet that the client may send, in bytes; at most `most`.
    #[inline]
    pub(super) fn packet_size_of(&self, index: u32, most: u32) -> u32 {
        let limit = self.sessions.limiting.granted(index).and_then(|granted| granted.packet_size);
        limit.map_or(most, |limit| limit.min(most))
    }

    /// Largest packet that the client of that name may send, in bytes.
    pub(super) fn packet_size_for(&self, name: &str) -> u32 {
        let most = self.settings.max_packet_size;
        if self.sessions.limiting.len() == 0 {
            return most;
        }
        self.sessions
            .find(self.topology.client_key(name), name)
            .map_or(most, |index| self.packet_size_of(index, most))
    }

    /// Most levels that a topic name or filter of the client may have.
    #[inline]
    pub(super) fn topic_levels_of(&self, index: u32) -> usize {
        let most = self.settings.max_topic_levels;
        let limit = self.sessions.limiting.granted(index).and_then(|granted| granted.topic_levels);
        limit.map_or(most, |limit| most.min(limit as usize))
    }

    /// How many subscriptions the client may have.
    pub(super) fn subscriptions_of(&self, index: u32) -> usize {
        let most = self.settings.max_subscriptions;
        let limit = self.sessions.limiting.granted(index).and_then(|granted| granted.subscriptions);
        limit.map_or(most, |limit| most.min(usize::try_from(limit).unwrap_or(most)))
    }

    /// The bounds of the client's queue while memory is not short.
    #[inline]
    pub(super) fn pending_bounds_of(&self, index: u32) -> PendingBounds {
        let bounds = self.settings.pending;
        let Some(granted) = self.sessions.limiting.granted(index) else { return bounds };
        let at_most = |bound: usize, limit: Option<u64>| {
            limit.map_or(bound, |limit| bound.min(usize::try_from(limit).unwrap_or(bound)))
        };
        PendingBounds {
            messages: at_most(bounds.messages, granted.pending_messages),
            bytes: at_most(bounds.bytes, granted.pending_bytes),
            on_full: bounds.on_full,
        }
    }

    /// What happens to a message beyond its client's rate; `None` when the message is within the
    /// rate.
    pub(super) fn meter_client(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
    ) -> Option<Metered> {
        if Mutant::RateIgnored.is_on() {
            return None;
        }
        let now = self.meter.begun() * 1000;
        let limited = self.sessions.limiting.of.get(&index)?;
        let wait = limited.usage.ready(now, &limited.granted).err()?;
        let told = version.is_v5() && publish.qos > Qos::AtMostOnce;
        let excess = limited.granted.excess;
        match excess {
            Excess::Disconnect => {
                self.counters.rate_disconnects += 1;
                Some(Metered::End)
            }
            // A message that was accepted already is answered again as it was. With an error, the
            // client would give the packet identifier to another message [MQTT-4.3.3-4], and that
            // one would be taken for a repetition.
            Excess::Drop if self.has_accepted(index, publish) => None,
            Excess::Drop if publish.qos == Qos::AtMostOnce || told => {
                self.counters.dropped_rate += 1;
                Some(Metered::Drop)
            }
            Excess::Park | Excess::Drop => {
                self.counters.parks_rate += 1;
                let until = self.now.plus_millis(wait.div_ceil(1_000_000).max(1));
                self.sessions.limiting.wait(socket, until);
                Some(Metered::Wait)
            }
        }
    }

    /// True for a QoS 2 message that the client sends again before it has released it.
    fn has_accepted(&self, index: u32, publish: &Publish<'_>) -> bool {
        let (Qos::ExactlyOnce, Some(id)) = (publish.qos, publish.id) else { return false };
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        flow.is_some_and(|flow| flow.inbound.arrival(id, u16::MAX) == Arrival::Duplicate)
    }

    /// A message was handled: it counts for its client's rate.
    pub(super) fn charge_client(&mut self, index: u32, publish: &Publish<'_>) {
        let now = self.meter.begun() * 1000;
        let Some(limited) = self.sessions.limiting.of.get_mut(&index) else { return };
        let bytes = publish.topic.len() + publish.properties.raw.len() + publish.payload.len();
        limited.usage.charge(now, bytes as u64, &limited.granted);
    }

    /// For checks: contradictions in the table.
    pub(super) fn limiting_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for &index in self.sessions.limiting.of.keys() {
            if self.sessions.get(index).is_none_or(|session| session.is_ending()) {
                problems.push(format!("session {index} has ended and has limits"));
            }
        }
        let limiting = &self.sessions.limiting;
        if limiting.until.len() != limiting.waiting.len() {
            problems.push("who waits for its rate is not counted once".to_owned());
        }
        problems
    }
}

/// The limits of a client that connects.
#[derive(Default)]
pub(super) struct NewLimits {
    pub(super) granted: GrantedLimits,
    group: Option<Arc<UserGroup>>,
    accounts: Accounts,
}

/// What happens to a message beyond its client's rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Metered {
    /// The message waits, and with it the connection.
    Wait,
    /// The message is dropped; a client that can be told gets [`Metered::REASON`].
    Drop,
    /// The client is disconnected.
    End,
}

impl Metered {
    /// The reason code for a message that is dropped.
    pub(super) const REASON: ReasonCode = ReasonCode::QuotaExceeded;
}
