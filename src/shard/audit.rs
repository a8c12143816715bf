//! An audit of everything that a shard holds, for the simulation: it counts what there is, and
//! finds contradictions. An audit changes nothing, but it visits every session, so it is not for a
//! broker that serves clients.

use super::Shard;
use super::connection::{Holds, Stage};
use super::route::GROUP;
use crate::ids::{SessionRef, SocketId};
use crate::topic::{FilterId, TopicHash};

/// What one shard holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Sessions, online and offline.
    pub sessions: usize,
    /// Connections in any stage.
    pub connections: usize,
    /// Connections that something holds.
    pub held: Vec<(u32, Holds)>,
    /// Open connections that a crowded subscriber holds up.
    pub crowded: usize,
    /// Sessions that have flow state.
    pub flows: usize,
    /// QoS 2 messages from clients that await PUBREL.
    pub inbound: usize,
    /// Retained replays under way.
    pub replaying: usize,
    /// Filters in the index.
    pub filters: usize,
    /// Subscribers in the index, share groups counted once.
    pub subscribers: usize,
    /// Share groups that live here.
    pub groups: usize,
    /// Members of those groups.
    pub members: usize,
    /// SUBACKs that wait for groups elsewhere.
    pub joining: usize,
    /// What is still to be done for share groups and ended sessions, in messages, queues and
    /// sessions; one more while groups have to be told of a member's change.
    pub returning: usize,
    /// Retained messages.
    pub retained: usize,
    /// Wills that are due and not yet routed.
    pub wills: usize,
    /// Fan-outs under way, and local publishers that wait for one.
    pub fanouts: [usize; 2],
    /// Requests that go on over several steps.
    pub tasks: usize,
    /// Hand-overs of which only the socket or only the mail has come.
    pub arrivals: usize,
    /// Clients on their way to their home, and the bytes that they hold.
    pub departing: (usize, usize),
    /// Mails staged for other shards.
    pub staged: usize,
    /// Connections that wait for room in a mailbox.
    pub waiting_for_mail: usize,
    /// Mails that are being taken in, and the connections and mails that wait for that.
    pub behind: usize,
    /// Sessions that publishers are parked for; publishers that are parked; connections whose end
    /// is queued.
    pub parked: [usize; 3],
    /// Publishers that met a crowded reader lately, and readers that were waited for in vain.
    pub remembered: usize,
    /// Entries in the list of flow states to look at.
    pub idle_flows: usize,
    /// Entries on the timing wheel.
    pub timers: usize,
    /// Most unsent bytes to one connection.
    pub most_unsent: usize,
    /// Most messages, and most bytes, in one pending queue.
    pub most_pending: (usize, usize),
    /// Contradictions, as text.
    pub problems: Vec<String>,
}

/// One subscription of one session, for comparison with what its client knows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Subscribed {
    /// The ClientId of the session.
    pub client_id: String,
    /// The filter, with the mountpoint.
    pub filter: String,
    /// The granted QoS.
    pub qos: u8,
}

impl Shard {
    /// Counts and checks everything.
    pub fn audit(&self) -> Audit {
        let [waited_for, parked] = self.parked.pace.counts();
        let mut audit = Audit {
            sessions: self.sessions.len() - self.ending(),
            tasks: self.work.tasks.len(),
            connections: self.connections.len(),
            filters: self.subscriptions.index.filters(),
            subscribers: self.subscriptions.index.subscriptions(),
            joining: self.subscriptions.joining.len(),
            returning: self.subscriptions.returns.len()
                + usize::from(self.subscriptions.groups.is_telling()),
            retained: self.retained.messages.len(),
            wills: self.work.wills.len(),
            fanouts: [self.delivery.fanouts.len(), self.delivery.fanouts.holding()],
            arrivals: self.entrance.arrivals.len(),
            departing: self.entrance.departures.count(),
            staged: self.mail.outbox.staged(),
            waiting_for_mail: self.parked.mail_waiters(),
            behind: self.mail.intake.waiting(),
            parked: [waited_for, parked, self.work.endings.parting()],
            remembered: self.parked.pace.remembered(),
            idle_flows: self.work.upkeep.flows(),
            timers: self.timers.len(),
            ..Audit::default()
        };
        (audit.groups, audit.members) = self.subscriptions.groups.count();
        audit.problems.extend(self.subscriptions.groups.problems());
        self.audit_connections(&mut audit);
        self.audit_sessions(&mut audit);
        self.audit_sums(&mut audit);
        self.audit_memory(&mut audit.problems);
        self.audit_places(&mut audit);
        audit
    }

    /// The part of the audit that is cheap enough for every step: whether sessions and connections
    /// refer to each other, one to one, and how full the fullest queues are.
    pub fn glance(&self) -> Audit {
        let mut audit = Audit { staged: self.mail.outbox.staged(), ..Audit::default() };
        self.audit_connections(&mut audit);
        self.audit_sessions(&mut audit);
        audit
    }

    /// Whether the shard still acts on what that socket sends.
    pub fn listens_to(&self, socket: SocketId) -> bool {
        let connection = self.connections.get(socket.0);
        connection.is_some_and(|c| !matches!(c.stage, Stage::Closing | Stage::Closed))
    }

    /// Every subscription of every session, those in share groups included.
    pub fn subscribed(&self) -> Vec<Subscribed> {
        let mut all = Vec::new();
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.get(index) else { continue };
            let mut add = |filter: &str, options: u8| {
                let client_id = String::from(&*session.client_id);
                all.push(Subscribed { client_id, filter: filter.into(), qos: options & 3 });
            };
            for place in session.subscriptions.all() {
                let entry =
                    self.subscriptions.index.subscribers(place.filter).get(place.position as usize);
                add(
                    self.subscriptions.index.filter(place.filter),
                    entry.map_or(0, |entry| entry.options),
                );
            }
            for share in session.shares().iter().flat_map(|shares| shares.list.iter()) {
                add(share.name.as_str(), share.options);
            }
        }
        all
    }

    /// Filters that this shard wants messages for: those of its sessions, and those of the groups
    /// that it is home to.
    pub fn wanted(&self) -> Vec<String> {
        let sessions = (0..self.sessions.bound()).filter_map(|index| self.sessions.get(index));
        let places = sessions.flat_map(|session| session.subscriptions.all());
        let groups = self.subscriptions.groups.places().map(|(_, (filter, _))| filter);
        places
            .map(|place| place.filter)
            .chain(groups)
            .map(|filter| self.subscriptions.index.filter(filter).into())
            .collect()
    }

    /// Topics of the retained messages that are kept here.
    pub fn retained_topics(&self) -> Vec<String> {
        let mut topics = Vec::new();
        for filter in ["#", "$SYS/#"] {
            let (all, found) = (usize::MAX, &mut |topic: &str, _: &_| topics.push(topic.into()));
            self.retained.messages.replay(filter, None, all, &mut { all }, found);
        }
        topics
    }

    /// The sessions that are members of this shard's groups, and whether the groups take them for
    /// connected.
    pub fn presences(&self) -> impl Iterator<Item = (SessionRef, bool)> + '_ {
        self.subscriptions.groups.presences()
    }

    /// Whether a session of this shard is connected; `None` when there is no such session.
    pub fn presence(&self, session: SessionRef) -> Option<bool> {
        let same = self.sessions.generation(session.index) == session.generation;
        let known = self.sessions.get(session.index).filter(|_| same);
        known.map(|session| session.socket().is_some())
    }

    fn audit_connections(&self, audit: &mut Audit) {
        let mut open = 0;
        for at in 0..self.connections.bound() {
            let Some(connection) = self.connections.get(at) else { continue };
            if !connection.holds.is_free() {
                audit.held.push((at, connection.holds));
            }
            let unsent = connection.output.as_ref().map_or(0, |output| output.unsent());
            audit.most_unsent = audit.most_unsent.max(unsent);
            let Stage::Open(index) = connection.stage else { continue };
            open += 1;
            audit.crowded += usize::from(connection.holds.has(Holds::CROWDED));
            let back = self.sessions.get(index).and_then(|session| session.socket());
            if back.is_none_or(|socket| socket.0 != at) {
                audit.problems.push(format!("connection {at} and session {index} disagree"));
            }
            let free = connection.holds.is_free() && !self.parked.is_freed(SocketId(at));
            if free && connection.is_paused() {
                audit.problems.push(format!("connection {at} is paused and nothing holds it"));
            }
        }
        audit.problems.extend(self.limiting_problems());
        if self.counters.connections_open != open {
            let counted = self.counters.connections_open;
            audit.problems.push(format!("connections_open is {counted}, open are {open}"));
        }
    }

    /// Each ClientId has one session, on its home shard, with one connection at most.
    fn audit_sessions(&self, audit: &mut Audit) {
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.get(index).filter(|s| !s.is_ending()) else {
                continue;
            };
            if self.find_session(&session.client_id) != Some(index) {
                audit.problems.push(format!("session {index} is not found by its name"));
            }
            if self.topology.home(&session.client_id) != self.topology.id {
                audit.problems.push(format!("{} is not at home", &*session.client_id));
            }
            if let Some(socket) = session.socket()
                && self.connections.get(socket.0).is_none_or(|c| c.stage != Stage::Open(index))
            {
                audit.problems.push(format!("session {index} has lost connection {socket:?}"));
            }
            if let Some(flow) = &session.flow {
                let (messages, bytes) = audit.most_pending;
                audit.most_pending =
                    (messages.max(flow.pending.len()), bytes.max(flow.pending.bytes()));
            }
        }
    }

    /// The counters agree with what there is.
    fn audit_sums(&self, audit: &mut Audit) {
        let (mut inflight, mut pending, mut bytes, mut away) = (0, 0, 0, (0, 0));
        let (mut offline, mut places, mut shares) = (0, 0, 0);
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.get(index) else { continue };
            offline += u64::from(session.socket().is_none() && !session.is_ending());
            if let Some(flow) = &session.flow {
                audit.flows += 1;
                audit.inbound += flow.inbound.len();
                audit.replaying += flow.replays.len();
                inflight += u64::from(flow.window.open());
                pending += flow.pending.len() as u64;
                bytes += flow.pending.bytes() as u64;
                let (messages, charged) = flow.pending.away();
                away = (away.0 + messages as u64, away.1 + charged as u64);
                if session.socket().is_some()
                    && flow.pending.here() > 0
                    && flow.window.is_empty()
                    && session.socket().is_some_and(|socket| {
                        self.connections.get(socket.0).is_some_and(|c| c.output.is_none())
                    })
                {
                    audit.problems.push(format!("session {index} has pending messages and rests"));
                }
            }
            places += session.subscriptions.len() as u64;
            shares += session.shared() as u64;
        }
        let counters = &self.counters;
        for (name, counted, found) in [
            ("sessions", counters.sessions, (self.sessions.len() - self.ending()) as u64),
            ("sessions_persistent", counters.sessions_persistent, offline),
            ("inflight", counters.inflight, inflight),
            ("pending_messages", counters.pending_messages, pending),
            ("pending_bytes", counters.pending_bytes, bytes),
            ("pending_away_messages", counters.pending_away_messages, away.0),
            ("pending_away_bytes", counters.pending_away_bytes, away.1),
            ("subscriptions", counters.subscriptions, places + shares),
            ("shared_subscriptions", counters.shared_subscriptions, shares),
            ("retained_messages", counters.retained_messages, self.retained.messages.len() as u64),
        ] {
            if counted != found {
                audit.problems.push(format!("{name} is {counted}, there are {found}"));
            }
        }
        if places + audit.groups as u64 != audit.subscribers as u64 {
            let (index, groups) = (audit.subscribers, audit.groups);
            let text = format!("the index has {index}; sessions {places}, groups {groups}");
            audit.problems.push(text);
        }
    }

    /// Every place of a session or group leads to an entry of its own in the index, and the other
    /// shards know of every filter.
    fn audit_places(&self, audit: &mut Audit) {
        for index in 0..self.sessions.bound() {
            let Some(session) = self.sessions.get(index) else { continue };
            for place in session.subscriptions.all() {
                let entry =
                    self.subscriptions.index.subscribers(place.filter).get(place.position as usize);
                if entry.is_none_or(|e| e.target != index || e.options & GROUP != 0) {
                    audit.problems.push(format!("session {index} misses its place {place:?}"));
                } else {
                    self.audit_interest(place.filter, audit);
                }
            }
        }
        for (group, (filter, position)) in self.subscriptions.groups.places() {
            let entry = self.subscriptions.index.subscribers(filter).get(position as usize);
            if entry.is_none_or(|e| e.target != group || e.options & GROUP == 0) {
                audit.problems.push(format!("group {group} misses its place"));
            } else {
                self.audit_interest(filter, audit);
            }
        }
    }

    fn audit_interest(&self, filter: FilterId, audit: &mut Audit) {
        if self.topology.is_alone() {
            return;
        }
        let text = self.subscriptions.index.filter(filter);
        let topic = text.replace(['+', '#'], "x");
        let hash = TopicHash::new(&self.topology.shared.seeds, &topic);
        if !self.topology.shared.interest.shards(&hash).contains(self.topology.id) {
            audit.problems.push(format!("the other shards do not know of {text}"));
        }
    }
}
