//! Spans for OpenTelemetry: what becomes of a sampled message on this shard. A message is sampled
//! when it carries the trace context of a client that records its trace, or as one of a share of
//! all messages (`telemetry.otlp.sample`). For the latter, the broker begins a trace, and adds a
//! user property `traceparent` to the message, as its publisher could have done. Every shard, node,
//! bridge and subscriber that gets the message therefore knows that it is sampled, and for which
//! trace. What a client has sent is passed on unaltered [MQTT-3.3.2-17].
//!
//! The shard on which a message is published records its receipt and its routing, whoever has it
//! published ([`super::brought`]: not only clients do). Each shard that delivers the message
//! records what becomes of it for each subscriber. A node of a cluster that gets the message from
//! another node records its receipt there, too, as a part of the routing. Spans wait here until
//! they are fetched; those for which there is no room are counted. A message that is not sampled
//! costs two looks at a place that tracing looks at anyway, and nothing while `telemetry.otlp` is
//! off.

use super::super::drops::DropReason;
use super::brought::Via;
use crate::ids::ShardSet;
use crate::limits::{SPANS, cost};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{Publish, ReasonCode, UserProperties};
use crate::shard::Shard;
use crate::shard::deliver::Outbound;
use crate::telemetry::trace_context::{SpanId, TRACEPARENT, TraceContext, TraceId};
use crate::topic::TopicHash;

/// For how many sampled messages that are held the time of their arrival is remembered.
const HELD: usize = 64;
/// Milliseconds after which such a time is forgotten: the message that comes then is another one.
const HELD_TIME: u64 = 60_000;
/// Most bytes of a topic in a span.
const TOPIC: usize = 1024;

/// What a span is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// A PUBLISH, from its arrival here to its answer; or a message that came otherwise.
    Receive,
    /// The search for the message's receivers, and giving the message to shards and subscribers.
    Route,
    /// Writing the message to a subscriber, or dropping it.
    Deliver,
}

/// A span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// The trace that the span belongs to.
    pub trace: TraceId,
    /// The identifier of the span.
    pub id: SpanId,
    /// The span that this one is a part of; `None` for the first of a trace.
    pub parent: Option<SpanId>,
    /// What the span is about.
    pub kind: SpanKind,
    /// When the span began, in microseconds on the clock of [`crate::shard::Shard::begin`].
    pub began: u64,
    /// When the span ended.
    pub ended: u64,
    /// The topic, of which at most the first 1,024 bytes are kept.
    pub topic: Box<str>,
    /// The publisher, or the subscriber; empty for routing, and where the publisher is no client.
    pub client_id: Box<str>,
    /// How the message was received, if no client has sent it.
    pub via: Option<Via>,
    /// The address of that client.
    pub peer: Option<Box<str>>,
    /// The QoS; for a delivery, that of the delivery.
    pub qos: u8,
    /// Bytes of the payload.
    pub payload: usize,
    /// For routing: the shards with subscribers.
    pub shards: ShardSet,
    /// Why the message was dropped or refused, if it was.
    pub error: Option<&'static str>,
}

/// A sampled PUBLISH that is being handled.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Current {
    pub context: TraceContext,
    /// True when the PUBLISH carried no context, so that the trace begins here.
    pub begun_here: bool,
    /// When the message arrived here.
    pub began: u64,
    /// Why the message is not accepted.
    pub error: Option<&'static str>,
}

/// A message whose receipt is recorded.
pub(super) struct Received<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub client_id: Box<str>,
    pub peer: Option<Box<str>>,
    pub via: Option<Via>,
}

/// The spans of a shard, and what is needed to record them.
pub(in crate::shard) struct Spans {
    /// How many of 2^32 messages without a context are sampled.
    share: u64,
    random: u64,
    /// How many spans and traces were given an identifier so far.
    named: u64,
    kept: Vec<Span>,
    pub(super) lost: u64,
    current: Option<Current>,
    /// Sampled messages that were held and not handled, by session, with the times of their
    /// arrival.
    held: Vec<((u32, u32), u64)>,
    /// The trace of the message that was sampled last in this step.
    latest: Option<TraceId>,
}

impl Spans {
    fn new(share: u64) -> Spans {
        Spans {
            share,
            random: 0x9E37_79B9_7F4A_7C15,
            named: 0,
            kept: Vec::new(),
            lost: 0,
            current: None,
            held: Vec::new(),
            latest: None,
        }
    }

    /// Decides at random whether a message without a context is sampled.
    fn draws(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) < self.share
    }

    /// When a held message of this session arrived, if there is one; forgets it.
    fn take_held(&mut self, session: (u32, u32)) -> Option<u64> {
        let mut began = None;
        self.held.retain(|(held, since)| {
            let is_it = *held == session;
            began = began.or(is_it.then_some(*since));
            !is_it
        });
        began
    }

    fn hold(&mut self, session: (u32, u32), began: u64) {
        self.held.retain(|(_, since)| began.saturating_sub(*since) < HELD_TIME * 1000);
        if self.held.len() < HELD && !Mutant::SpanForgetsWait.is_on() {
            self.held.push((session, began));
        }
    }

    pub(super) fn keep(&mut self, span: Span) {
        if self.kept.len() < SPANS {
            self.kept.push(span);
        } else {
            self.lost += 1;
        }
    }

    /// Notes that the PUBLISH that is being handled is not accepted.
    pub(super) fn refuse(&mut self, reason: ReasonCode) {
        let Some(current) = &mut self.current else { return };
        current.error.get_or_insert(match reason {
            ReasonCode::NotAuthorized => "not authorized",
            ReasonCode::QuotaExceeded => "quota exceeded",
            ReasonCode::PayloadFormatInvalid => "payload format invalid",
            ReasonCode::TopicNameInvalid => "topic name invalid",
            _ => "refused",
        });
    }
}

/// The context in a message's user properties, if it says that the trace is recorded.
fn context_in(user: UserProperties<'_>) -> Option<TraceContext> {
    let (_, value) = user.iter().find(|(name, _)| *name == TRACEPARENT)?;
    TraceContext::parse(value).filter(|context| context.sampled)
}

/// The same, for the properties that are forwarded with a message.
pub fn sampled_context(message: &MessageRef<'_>) -> Option<TraceContext> {
    if message.properties.is_empty() {
        return None;
    }
    context_in(UserProperties::within(message.properties))
}

pub(super) fn shortened(topic: &str) -> Box<str> {
    topic.get(..topic.floor_char_boundary(TOPIC)).unwrap_or(topic).into()
}

impl Shard {
    /// Records spans of this share of all messages, and of those that carry a context; `None`
    /// records nothing.
    pub fn record_spans(&mut self, share: Option<f64>) {
        self.topology.shared.recording.set(u64::from(share.is_some()));
        let observers = &mut self.work.observers;
        let share = share.map(|share| (share.clamp(0.0, 1.0) * (1_u64 << 32) as f64) as u64);
        match (&mut observers.spans, share) {
            (Some(spans), Some(share)) => spans.share = share,
            (spans, share) => *spans = share.map(|share| Box::new(Spans::new(share))),
        }
        observers.look_again();
    }

    /// Takes the spans since the last call, and how many were lost for lack of room.
    pub fn take_spans(&mut self) -> (Vec<Span>, u64) {
        self.meter.charge(cost::FILTER);
        let Some(spans) = &mut self.work.observers.spans else { return Default::default() };
        (std::mem::take(&mut spans.kept), std::mem::take(&mut spans.lost))
    }

    /// Takes the trace that was sampled last since the last call.
    #[inline]
    pub fn take_sampled(&mut self) -> Option<TraceId> {
        self.work.observers.spans.as_mut()?.latest.take()
    }

    /// A number that cannot be predicted and that no other shard has.
    fn unique(&mut self) -> u64 {
        let Some(spans) = &mut self.work.observers.spans else { return 1 };
        spans.named += 1;
        // The seeds may be those of an earlier start, so the time of this start is part of the
        // number.
        let parts = [spans.named, self.work.observers.wall, u64::from(self.topology.id.0)];
        self.topology.shared.seeds.secret(parts.map(u64::to_le_bytes).as_flattened())
    }

    pub(super) fn name_span(&mut self) -> SpanId {
        SpanId::new(self.unique())
    }

    /// The context in which a PUBLISH is to be recorded, if it is sampled.
    pub(in crate::shard) fn sample(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
    ) -> Option<Current> {
        let session = self.weighed_as(index);
        let user = publish.properties.user;
        let context = if user.is_empty() { None } else { context_in(user) };
        self.sample_as(session, context, publish.retain)
    }

    /// The same, of a message with this context, if any, that is held as `key`.
    pub(super) fn sample_as(
        &mut self,
        key: (u32, u32),
        context: Option<TraceContext>,
        retain: bool,
    ) -> Option<Current> {
        let came = self.meter.begun();
        let spans = self.work.observers.spans.as_mut()?;
        let held = if spans.held.is_empty() { None } else { spans.take_held(key) };
        let held = held.filter(|since| came.saturating_sub(*since) < HELD_TIME * 1000);
        let began = held.unwrap_or(came);
        if let Some(context) = context {
            return Some(Current { context, begun_here: false, began, error: None });
        }
        // A retained message with a context would continue its trace with each new subscriber.
        if retain || held.is_none() && !spans.draws() {
            return None;
        }
        let trace = u128::from(self.unique()) << 64 | u128::from(self.unique());
        let (trace, parent) = (TraceId(trace.max(1)), self.name_span());
        let context = TraceContext { trace, parent, sampled: true };
        Some(Current { context, begun_here: true, began, error: None })
    }

    /// Notes that a sampled PUBLISH is being handled.
    pub(in crate::shard) fn begin_sampled(&mut self, current: &Current) {
        if let Some(spans) = &mut self.work.observers.spans {
            (spans.current, spans.latest) = (Some(*current), Some(current.context.trace));
        }
    }

    /// Notes that the PUBLISH has been handled; `None` when spans are not recorded any longer.
    pub(in crate::shard) fn end_sampled(&mut self) -> Option<Current> {
        self.work.observers.spans.as_mut()?.current.take()
    }

    /// Notes that the PUBLISH was held instead, and comes again.
    pub(in crate::shard) fn hold_sampled(&mut self, index: u32, began: u64) {
        let session = self.weighed_as(index);
        self.hold_as(session, began);
    }

    /// The same, of one that is held as `key`.
    pub(super) fn hold_as(&mut self, key: (u32, u32), began: u64) {
        if let Some(spans) = &mut self.work.observers.spans {
            spans.hold(key, began);
        }
    }

    /// Records that a message was received and, if it was routed from `routing` on, its routing.
    pub(in crate::shard) fn record_publish(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
        of: &Current,
        routing: Option<u64>,
    ) {
        let topic = self.full_topic(index, publish);
        let (client_id, peer) = self.named(index);
        let (payload, qos, via) = (publish.payload, publish.qos as u8, None);
        let received = Received { topic: &topic, payload, qos, client_id, peer, via };
        self.record_received(received, of, routing);
    }

    /// The same, whoever has it published.
    pub(super) fn record_received(
        &mut self,
        received: Received<'_>,
        of: &Current,
        routing: Option<u64>,
    ) {
        let ended = self.micros();
        let Received { topic, payload, qos, client_id, peer, via } = received;
        let context = of.context;
        let id = if of.begun_here { context.parent } else { self.name_span() };
        let receipt = Span {
            trace: context.trace,
            id,
            parent: (!of.begun_here).then_some(context.parent),
            kind: SpanKind::Receive,
            began: of.began,
            ended,
            topic: shortened(topic),
            client_id,
            via,
            peer,
            qos,
            payload: payload.len(),
            shards: ShardSet::EMPTY,
            error: of.error,
        };
        let routed = routing.filter(|_| of.error.is_none()).map(|began| Span {
            id: context.routing(topic, payload),
            parent: Some(id),
            kind: SpanKind::Route,
            began,
            client_id: "".into(),
            via: None,
            peer: None,
            shards: self.interested_in(topic),
            ..receipt.clone()
        });
        let Some(spans) = &mut self.work.observers.spans else { return };
        spans.keep(receipt);
        if let Some(routed) = routed {
            spans.keep(routed);
        }
    }

    /// The shards with subscribers of a topic.
    fn interested_in(&self, topic: &str) -> ShardSet {
        if self.topology.is_alone() {
            return ShardSet::only(self.topology.id);
        }
        let hash = TopicHash::new(&self.topology.shared.seeds, topic);
        self.topology.shared.interest.shards(&hash)
    }

    /// ClientId and address of a client.
    fn named(&self, index: u32) -> (Box<str>, Option<Box<str>>) {
        let Some(session) = self.sessions.get(index) else { return Default::default() };
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let peer = connection.map(|connection| connection.peer.to_string().into());
        (session.client_id.boxed(), peer)
    }

    /// Records what became of a message for a subscriber, if the message is sampled.
    pub(super) fn record_delivery(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        outbound: Option<&Outbound<'_>>,
        dropped: Option<DropReason>,
    ) {
        let Some(context) = sampled_context(message) else { return };
        if Mutant::SpansForgetDrops.is_on() && dropped.is_some() {
            return;
        }
        self.meter.charge(cost::VISIT * 2);
        let (client_id, peer) = self.named(index);
        let id = self.name_span();
        let ended = self.micros();
        let begun = self.meter.begun();
        let Some(spans) = &mut self.work.observers.spans else { return };
        // If the message was published here in this step, the delivery is a part of its routing. A
        // message from the mail or from a queue is delivered at once, and the time before that
        // shows as a gap.
        let own = spans.current.as_ref().filter(|current| current.context == context);
        let began = own.map_or(ended, |current| current.began.max(begun));
        spans.keep(Span {
            trace: context.trace,
            id,
            parent: Some(context.routing(message.topic, message.payload)),
            kind: SpanKind::Deliver,
            began: began.min(ended),
            ended,
            topic: shortened(message.topic),
            client_id,
            via: None,
            peer,
            qos: outbound.map_or(message.qos, |outbound| outbound.qos) as u8,
            payload: message.payload.len(),
            shards: ShardSet::only(self.topology.id),
            error: dropped.map(DropReason::word),
        });
    }
}
