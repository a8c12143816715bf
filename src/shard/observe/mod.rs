//! What a shard reports to those who watch it: traces of single clients and topics ([`trace`]),
//! events below `$SYS/broker/events/` ([`events`]), spans of sampled messages ([`spans`]), and
//! which clients cause the most load ([`heavy`]). The rest of the shard reports to this module what
//! happens, and this module owns the state that is needed for that. Nothing here decides anything
//! about a message or a client.

mod brought;
mod departed;
mod events;
mod heavy;
mod routing;
mod spans;
mod trace;

pub(super) use brought::TracedFate;
pub use brought::Via;
pub use departed::Departure;
pub use heavy::Measure;
pub use spans::{Span, SpanKind, sampled_context};
pub use trace::{Detail, TRACES, TraceLine, TraceRule, TraceSubject};

use super::Shard;
use super::changes::level;
use super::close::Cause;
use super::connection::Stage;
use super::deliver::Outbound;
use super::drops::{DropReason, DropsByClient};
use crate::config::EventKind;
use crate::ids::{Peer, SocketId};
use crate::limits::cost;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{self, Connect, Packet, Publish, ReasonCode};
use crate::topic;
use departed::DepartureRing;
use events::EventContent;
pub(super) use heavy::HeavyHitters;
pub(super) use spans::Current;
use spans::Spans;
use std::collections::VecDeque;
use trace::{Actor, Traces};

/// The state of all that watches a shard.
#[derive(Default)]
pub(super) struct Observers {
    /// `None` while nothing is traced.
    traces: Option<Box<Traces>>,
    /// `None` while no spans are recorded.
    pub(super) spans: Option<Box<Spans>>,
    /// Whether messages are traced or spans recorded.
    watching: bool,
    pub(super) heavy: HeavyHitters,
    pub(super) drops: DropsByClient,
    pub(super) departures: DepartureRing,
    events: VecDeque<Message>,
    /// Milliseconds since 1970 at the zero of the shard's clock.
    wall: u64,
}

impl Observers {
    /// True while something is traced.
    #[inline]
    pub(super) fn is_tracing(&self) -> bool {
        self.traces.is_some()
    }

    /// True while something is traced, or spans are recorded.
    #[inline]
    pub(super) fn is_watching(&self) -> bool {
        self.watching
    }

    /// Notes that the PUBLISH that is being handled is not accepted.
    pub(super) fn refuse_sampled(&mut self, reason: ReasonCode) {
        if let Some(spans) = &mut self.spans {
            spans.refuse(reason);
        }
    }

    /// Updates `watching` after traces or spans were switched on or off.
    fn look_again(&mut self) {
        self.watching = self.traces.is_some() || self.spans.is_some();
    }

    /// Counts a PUBLISH of this many bytes that has been written. True when [`Shard::observe_sent`]
    /// has to be called for it.
    #[inline]
    pub(super) fn looks_at_sent(&mut self, bytes: usize) -> bool {
        self.heavy.sent(bytes) | self.is_watching()
    }

    /// Takes back the lines of the packet that was traced last: it was not handled, and will be
    /// tried again.
    #[inline]
    pub(super) fn withdraw(&mut self) {
        if let Some(traces) = &mut self.traces {
            traces.withdraw();
        }
    }

    /// How many events wait to be routed.
    #[inline]
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }
}

/// Whether a topic is one of the broker's own, as those of events are.
fn is_event(topic: &str) -> bool {
    topic::is_servers_own(topic)
}

/// ClientId, user name, address and listener.
type Presented = (Box<str>, Option<Box<str>>, Option<Box<str>>, Box<str>);

/// The clients that cause the most load by a measure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heaviest {
    /// ClientId, weight, and how much of the weight may belong to other clients; the heaviest
    /// first.
    pub rows: Vec<(Box<str>, u64, u64)>,
    /// How many milliseconds the weights cover.
    pub millis: u64,
}

impl Shard {
    /// Sets the time at the zero of the shard's clock, in milliseconds since 1970.
    pub fn set_wall(&mut self, millis: u64) {
        self.work.observers.wall = millis;
    }

    /// Replaces all traces by these, from now on.
    pub fn trace(&mut self, rules: Vec<TraceRule>) {
        self.meter.charge(cost::FILTER);
        match (&mut self.work.observers.traces, rules.is_empty()) {
            (traces, true) => *traces = None,
            (Some(traces), false) => traces.change(rules),
            (traces, false) => *traces = Some(Box::new(Traces::of(rules))),
        }
        self.work.observers.look_again();
    }

    /// Takes the lines of all traces since the last call, and how many were lost.
    pub fn take_traced(&mut self) -> (VecDeque<TraceLine>, u64) {
        self.meter.charge(cost::FILTER);
        self.work.observers.traces.as_mut().map_or_else(Default::default, |traces| traces.take())
    }

    /// The clients of this shard with the most load by a measure, in the last one to two minutes.
    /// Clients whose sessions have ended are left out.
    pub fn heaviest(&mut self, measure: Measure) -> Heaviest {
        let (weighed, millis) = self.work.observers.heavy.heaviest(measure, self.now);
        self.meter.charge(cost::VISIT * weighed.len() as u32);
        let named = weighed.into_iter().filter_map(|one| {
            let session = self.sessions.get_of(one.session.0, one.session.1)?;
            Some((session.client_id.boxed(), one.weight, one.error))
        });
        Heaviest { rows: named.collect(), millis }
    }

    pub(super) fn micros(&self) -> u64 {
        self.meter.time().unwrap_or_else(|| self.meter.begun())
    }

    /// Index and generation of a session, by which sketches name it.
    fn weighed_as(&self, index: u32) -> (u32, u32) {
        let session = self.session_ref(index);
        (session.index, session.generation)
    }

    /// Weighs this client, at whose packet a sample is due.
    #[cold]
    pub(super) fn weigh_client(&mut self, index: u32) {
        let session = self.weighed_as(index);
        self.work.observers.heavy.weigh(session, self.now);
    }

    /// Counts a slow send to this client.
    #[cold]
    pub(super) fn weigh_slow(&mut self, index: u32, millis: u64) {
        let session = self.weighed_as(index);
        self.work.observers.heavy.add(Measure::SlowSends, session, millis, self.now);
    }

    /// Calls `with` to write to the traces that follow a client or `topic`, if there are any.
    fn traced(
        &mut self,
        index: u32,
        topic: Option<&str>,
        with: impl FnOnce(&mut Traces, u8, u64, &Actor<'_>),
    ) {
        let micros = self.micros();
        let Some(traces) = &mut self.work.observers.traces else { return };
        let Some(session) = self.sessions.get(index) else { return };
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let actor = Actor {
            client_id: &session.client_id,
            username: session.grant().and_then(|grant| grant.username.as_deref()),
            peer: connection.map(|connection| connection.peer),
        };
        let following = traces.following(&actor, topic);
        self.meter.charge(cost::VISIT);
        if following != 0 {
            with(traces, following, micros, &actor);
        }
    }

    /// Traces a packet that has come and is about to be handled. Called while something is traced.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_received(&mut self, index: u32, packet: &Packet<'_>, bytes: usize) {
        if let Some(traces) = &mut self.work.observers.traces {
            traces.begin();
        }
        let Packet::Publish(publish) = packet else {
            let what = |traces: &mut Traces, following, micros, actor: &Actor<'_>| {
                traces.add(following, micros, "received", actor, Detail::packet(packet, bytes));
            };
            return self.traced(index, None, what);
        };
        let topic = self.full_topic(index, publish);
        self.traced(index, Some(&topic), |traces, following, micros, actor| {
            let of = trace::TracedPublish { topic: &topic, ..publish.into() };
            let what = Traces::published(&of, bytes);
            traces.packet(following, micros, "received", actor, what, publish.payload);
        });
    }

    /// The topic of a PUBLISH with its alias resolved and the mountpoint before it.
    pub(super) fn full_topic(&self, index: u32, publish: &Publish<'_>) -> String {
        let Some(session) = self.sessions.get(index) else { return publish.topic.to_owned() };
        let known = || {
            let connection = self.connections.get(session.socket()?.0)?;
            let at = usize::from(publish.properties.topic_alias?.checked_sub(1)?);
            connection.aliases.as_ref()?.inbound.get(at)?.as_deref()
        };
        let own = if publish.topic.is_empty() { known().unwrap_or("") } else { publish.topic };
        format!("{}{own}", session.mountpoint())
    }

    /// Traces a packet other than PUBLISH that has been written: the last `bytes` of the
    /// connection's output. Called while something is traced.
    #[cold]
    #[inline(never)]
    pub(super) fn trace_written(&mut self, socket: SocketId, bytes: usize) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        let Stage::Open(index) = connection.stage else { return };
        let Some(version) = self.sessions.get(index).map(|session| session.version) else { return };
        let last = connection.output.as_ref().and_then(|output| output.last(bytes));
        let what = match last.map(|bytes| packet::decode(version, bytes)) {
            Some(Ok(packet)) => Detail::packet(&packet, bytes),
            // The packet is longer than one buffer, or should not have been sent.
            Some(Err(_)) | None => Detail { bytes: Some(bytes), ..Detail::default() },
        };
        self.traced(index, None, |traces, following, micros, actor| {
            traces.add(following, micros, "sent", actor, what);
        });
    }

    /// Records a PUBLISH that has been written, at which a sample is due, or while something is
    /// traced or recorded.
    #[cold]
    #[inline(never)]
    pub(super) fn observe_sent(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
        bytes: usize,
    ) {
        self.weigh_client(index);
        if self.work.observers.spans.is_some() {
            self.record_delivery(index, message, Some(outbound), None);
        }
        if Mutant::TraceForgetsFanOut.is_on() && self.delivery.current.many {
            return;
        }
        let of = trace::TracedPublish {
            dup: outbound.dup,
            qos: outbound.qos,
            retain: outbound.retain,
            id: outbound.id,
            topic: message.topic,
            payload: message.payload,
        };
        self.traced(index, Some(message.topic), |traces, following, micros, actor| {
            let what = Traces::published(&of, bytes);
            traces.packet(following, micros, "sent", actor, what, message.payload);
        });
    }

    /// Traces something that was decided about a client.
    fn trace_decision(
        &mut self,
        index: u32,
        event: &'static str,
        topic: Option<&str>,
        what: Detail,
    ) {
        let what = Detail { topic: topic.map(Into::into), ..what };
        self.traced(index, topic, |traces, following, micros, actor| {
            traces.add(following, micros, event, actor, what);
        });
    }

    /// Records a message for this client that is dropped.
    pub(super) fn observe_drop(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        reason: DropReason,
    ) {
        if self.work.observers.spans.is_some() {
            self.record_delivery(index, message, None, Some(reason));
        }
        self.observe_drops(index, Some(message.topic), reason, 1, message.topic);
    }

    /// Records dropped messages for this client: one message with this topic, or the oldest of its
    /// queue. `came` is the topic of the message that caused the drop. If that is an event, no
    /// event is published, because events about events would never end.
    pub(super) fn observe_drops(
        &mut self,
        index: u32,
        topic: Option<&str>,
        reason: DropReason,
        count: u64,
        came: &str,
    ) {
        if let Some(weight) = self.work.observers.heavy.dropped(count) {
            let session = self.weighed_as(index);
            self.work.observers.heavy.add(Measure::Drops, session, weight, self.now);
        }
        let why = reason.word();
        if self.work.observers.is_tracing() {
            let what = Detail { reason: Some(why.into()), ..Detail::default() };
            self.trace_decision(index, "dropped", topic, what);
        }
        if !is_event(came) && self.tells(EventKind::Dropped) {
            let Some(client_id) = self.sessions.get(index).map(|s| s.client_id.boxed()) else {
                return;
            };
            let event = EventContent {
                clientid: &client_id,
                topic,
                reason: Some(why),
                ..EventContent::default()
            };
            self.tell_event(EventKind::Dropped, &event);
        }
    }

    /// Records that a client has connected, with a new session or one that was `present`.
    pub(super) fn observe_connected(&mut self, index: u32, connect: &Connect<'_>, present: bool) {
        if self.work.observers.is_tracing() {
            let what = Detail { session_present: present, ..Detail::default() };
            self.trace_decision(index, "connected", None, what);
        }
        if !self.tells(EventKind::Connected) {
            return;
        }
        let what = EventContent {
            proto_ver: Some(level(connect.version)),
            keepalive: Some(connect.keep_alive),
            clean_start: Some(connect.clean_start),
            session_present: Some(present),
            ..EventContent::default()
        };
        self.tell_of_connection(EventKind::Connected, index, &what);
    }

    /// Queues an event about a connected client, with its names and addresses.
    fn tell_of_connection(&mut self, kind: EventKind, index: u32, what: &EventContent<'_>) {
        let Some((name, user, peer, listener)) = self.presented(index) else { return };
        let (username, peer) = (user.as_deref(), peer.as_deref());
        let event =
            EventContent { clientid: &name, username, peer, listener: Some(&listener), ..*what };
        self.tell_event(kind, &event);
    }

    /// ClientId, user name, address and listener of a connected client.
    fn presented(&self, index: u32) -> Option<Presented> {
        let session = self.sessions.get(index)?;
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let listener = connection.map_or("", |c| self.listener_name(c.listener));
        let user = session.grant().and_then(|grant| grant.username.clone());
        let peer = connection.map(|connection| connection.peer.to_string().into());
        Some((session.client_id.boxed(), user, peer, listener.into()))
    }

    /// Records that a client is disconnected. Must be called while its session exists.
    pub(super) fn observe_disconnected(&mut self, index: u32, cause: Cause) {
        let (reason, code) = cause.words();
        if let Some(client) = self.sessions.get(index).map(|session| session.key) {
            let departure = Departure { at: self.now, reason, code };
            self.work.observers.departures.add(client, departure);
        }
        if self.work.observers.is_tracing() {
            let codes = code.into_iter().collect();
            let what = Detail { reason: Some(reason.into()), codes, ..Detail::default() };
            self.trace_decision(index, "disconnected", None, what);
        }
        if !self.tells(EventKind::Disconnected) {
            return;
        }
        let what = EventContent { reason: Some(reason), code, ..EventContent::default() };
        self.tell_of_connection(EventKind::Disconnected, index, &what);
    }

    /// Traces a refused CONNECT. No event is published for it.
    #[cold]
    pub(super) fn observe_refused(
        &mut self,
        peer: Peer,
        connect: &Connect<'_>,
        reason: &str,
        code: u8,
    ) {
        let micros = self.micros();
        let Some(traces) = &mut self.work.observers.traces else { return };
        let (client_id, username) = (connect.client_id, connect.username);
        let actor = Actor { client_id, username, peer: Some(peer) };
        let following = traces.following(&actor, None);
        if following != 0 {
            let reason = Some(reason.into());
            let what = Detail { reason, codes: vec![code], ..Detail::default() };
            traces.add(following, micros, "refused", &actor, what);
        }
    }

    /// Records that a client may not do `what` with a topic or filter.
    #[cold]
    pub(super) fn observe_denied(&mut self, index: u32, what: &'static str, topic: &str) {
        self.work.observers.refuse_sampled(ReasonCode::NotAuthorized);
        let detail = Detail { reason: Some(what.into()), ..Detail::default() };
        self.trace_decision(index, "denied", Some(topic), detail);
    }

    /// Records a subscription that was granted or changed; `qos` is `None` when its client has
    /// removed it.
    pub(super) fn observe_subscription(&mut self, index: u32, filter: &str, qos: Option<u8>) {
        let kind = qos.map_or(EventKind::Unsubscribed, |_| EventKind::Subscribed);
        if self.work.observers.is_tracing() {
            let event = if qos.is_some() { "subscribed" } else { "unsubscribed" };
            self.trace_decision(index, event, Some(filter), Detail { qos, ..Detail::default() });
        }
        if !self.tells(kind) {
            return;
        }
        let Some((name, user, ..)) = self.presented(index) else { return };
        let (topic, username) = (Some(filter), user.as_deref());
        let event =
            EventContent { clientid: &name, username, topic, qos, ..EventContent::default() };
        self.tell_event(kind, &event);
    }

    /// Records that a session ends. Must be called while the session exists.
    pub(super) fn observe_end(&mut self, index: u32) {
        if self.work.observers.is_tracing() {
            self.trace_decision(index, "session ended", None, Detail::default());
        }
        if self.tells(EventKind::SessionEnded) {
            let Some(name) = self.sessions.get(index).map(|s| s.client_id.boxed()) else { return };
            self.tell_event(
                EventKind::SessionEnded,
                &EventContent { clientid: &name, ..EventContent::default() },
            );
        }
    }
}
