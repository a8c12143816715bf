//! Spans: what became of a sampled message here, for OpenTelemetry. A message is sampled when it
//! carries the trace context of a client that records its trace, or as one of a share of all
//! messages (`telemetry.otlp.sample`); the broker begins a trace for the latter, and says so in a
//! user property `traceparent` of the message, as its publisher could have done. So every shard,
//! node, bridge and subscriber that the message comes to knows without further ado that it is
//! sampled, and of which trace; what a client has sent is passed on unaltered [MQTT-3.3.2-17].
//!
//! The shard that a message is published on records its receipt and its routing; each shard that
//! delivers it records what becomes of it for each subscriber. Spans wait here until they are
//! fetched; what there is no room for is counted. A message that is not sampled costs two looks at
//! a place that tracing looks at anyway, and nothing while `telemetry.otlp` is off.

use super::super::drops::DropReason;
use crate::ids::ShardSet;
use crate::limits::{SPANS, cost};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{Publish, ReasonCode, UserProperties};
use crate::shard::Shard;
use crate::shard::deliver::Outbound;
use crate::telemetry::trace_context::{SpanId, TRACEPARENT, TraceContext, TraceId};
use crate::topic::TopicHash;

/// Sampled messages that are held at a time, of which is known since when.
const HELD: usize = 64;
/// Milliseconds after which a message that was held is not the one that comes now.
const HELD_TIME: u64 = 60_000;
/// Characters of a topic that a span has.
const TOPIC: usize = 1024;

/// What a span is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// A PUBLISH, from when it was here to when it was answered.
    Receive,
    /// Where it goes is found, and shards and subscribers are given it.
    Route,
    /// It is written to a subscriber, or dropped.
    Deliver,
}

/// A span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub id: SpanId,
    /// The one that it is a part of; `None` for the first of a trace.
    pub parent: Option<SpanId>,
    /// What it is about.
    pub kind: SpanKind,
    /// When it began, microseconds on the clock of [`crate::shard::Shard::begin`].
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// The topic, its first 1,024 characters.
    pub topic: Box<str>,
    /// The publisher, or the subscriber; empty for routing.
    pub client_id: Box<str>,
    /// Its address.
    pub peer: Option<Box<str>>,
    /// QoS, of the delivery where it is one.
    pub qos: u8,
    /// Bytes of the payload.
    pub payload: usize,
    /// The shards with subscribers, of routing.
    pub shards: ShardSet,
    /// Why it is not what it should be: dropped, denied.
    pub error: Option<&'static str>,
}

/// A sampled publish that is being handled.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Current {
    pub context: TraceContext,
    /// Nobody sent that context: the trace begins here.
    pub begun_here: bool,
    /// Since when the message is here.
    pub began: u64,
    /// Why it is not taken.
    pub error: Option<&'static str>,
}

/// What is recorded.
pub(in crate::shard) struct Spans {
    /// Of 2^32 messages without a context, so many are sampled.
    share: u64,
    random: u64,
    /// Spans and traces that were named so far.
    named: u64,
    kept: Vec<Span>,
    lost: u64,
    current: Option<Current>,
    /// Sampled messages that were not handled, by session, and when they first came.
    held: Vec<((u32, u32), u64)>,
    /// The trace that was sampled last in this step.
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

    /// Whether a message without context is one of the share.
    fn draws(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) < self.share
    }

    /// When a message of this session was first here, if it was held.
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

    fn keep(&mut self, span: Span) {
        if self.kept.len() < SPANS {
            self.kept.push(span);
        } else {
            self.lost += 1;
        }
    }

    /// The publish that is being handled is not taken.
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

/// The context of a message whose trace is recorded.
fn context_in(user: UserProperties<'_>) -> Option<TraceContext> {
    let (_, value) = user.iter().find(|(name, _)| *name == TRACEPARENT)?;
    TraceContext::parse(value).filter(|context| context.sampled)
}

/// The same, of what is forwarded.
fn context_of(message: &MessageRef<'_>) -> Option<TraceContext> {
    if message.properties.is_empty() {
        return None;
    }
    context_in(UserProperties::within(message.properties))
}

fn shortened(topic: &str) -> Box<str> {
    topic.get(..topic.floor_char_boundary(TOPIC)).unwrap_or(topic).into()
}

impl Shard {
    /// Records spans of this share of all messages, and of those that carry a context; `None`
    /// records nothing.
    pub fn record_spans(&mut self, share: Option<f64>) {
        let observers = &mut self.work.observers;
        let share = share.map(|share| (share.clamp(0.0, 1.0) * (1_u64 << 32) as f64) as u64);
        match (&mut observers.spans, share) {
            (Some(spans), Some(share)) => spans.share = share,
            (spans, share) => *spans = share.map(|share| Box::new(Spans::new(share))),
        }
        observers.look_again();
    }

    /// The spans since the last time, and how many there was no room for.
    pub fn take_spans(&mut self) -> (Vec<Span>, u64) {
        self.meter.charge(cost::FILTER);
        let Some(spans) = &mut self.work.observers.spans else { return Default::default() };
        (std::mem::take(&mut spans.kept), std::mem::take(&mut spans.lost))
    }

    /// The trace that was sampled last since this was asked.
    #[inline]
    pub fn take_sampled(&mut self) -> Option<TraceId> {
        self.work.observers.spans.as_mut()?.latest.take()
    }

    /// A number that nobody can foretell and no other shard has.
    fn unique(&mut self) -> u64 {
        let Some(spans) = &mut self.work.observers.spans else { return 1 };
        spans.named += 1;
        // The seeds may be those of an earlier start.
        let parts = [spans.named, self.work.observers.wall, u64::from(self.topology.id.0)];
        self.topology.shared.seeds.secret(parts.map(u64::to_le_bytes).as_flattened())
    }

    fn name_span(&mut self) -> SpanId {
        SpanId::new(self.unique())
    }

    /// In which context a PUBLISH is to be recorded, if it is.
    pub(in crate::shard) fn sample(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
    ) -> Option<Current> {
        let session = self.weighed_as(index);
        let came = self.meter.begun();
        let spans = self.work.observers.spans.as_mut()?;
        let user = publish.properties.user;
        let context = if user.is_empty() { None } else { context_in(user) };
        let held = if spans.held.is_empty() { None } else { spans.take_held(session) };
        let held = held.filter(|since| came.saturating_sub(*since) < HELD_TIME * 1000);
        let began = held.unwrap_or(came);
        if let Some(context) = context {
            return Some(Current { context, begun_here: false, began, error: None });
        }
        // What is retained would begin its trace anew with each new subscriber.
        if publish.retain || held.is_none() && !spans.draws() {
            return None;
        }
        let trace = u128::from(self.unique()) << 64 | u128::from(self.unique());
        let (trace, parent) = (TraceId(trace.max(1)), self.name_span());
        let context = TraceContext { trace, parent, sampled: true };
        Some(Current { context, begun_here: true, began, error: None })
    }

    /// A sampled publish begins to be handled.
    pub(in crate::shard) fn begin_sampled(&mut self, current: &Current) {
        if let Some(spans) = &mut self.work.observers.spans {
            (spans.current, spans.latest) = (Some(*current), Some(current.context.trace));
        }
    }

    /// It has been handled; `None` when nothing is recorded any more.
    pub(in crate::shard) fn end_sampled(&mut self) -> Option<Current> {
        self.work.observers.spans.as_mut()?.current.take()
    }

    /// It was not: it comes again.
    pub(in crate::shard) fn hold_sampled(&mut self, index: u32, began: u64) {
        let session = self.weighed_as(index);
        if let Some(spans) = &mut self.work.observers.spans {
            spans.hold(session, began);
        }
    }

    /// Records that a message was received, and since `routing`, if it was routed, that it was.
    pub(in crate::shard) fn record_publish(
        &mut self,
        index: u32,
        publish: &Publish<'_>,
        of: &Current,
        routing: Option<u64>,
    ) {
        let ended = self.micros();
        let (context, qos, payload) = (of.context, publish.qos as u8, publish.payload.len());
        let topic = self.full_topic(index, publish);
        let (client_id, peer) = self.named(index);
        let id = if of.begun_here { context.parent } else { self.name_span() };
        let receipt = Span {
            trace: context.trace,
            id,
            parent: (!of.begun_here).then_some(context.parent),
            kind: SpanKind::Receive,
            began: of.began,
            ended,
            topic: shortened(&topic),
            client_id,
            peer,
            qos,
            payload,
            shards: ShardSet::EMPTY,
            error: of.error,
        };
        let routed = routing.filter(|_| of.error.is_none()).map(|began| Span {
            id: context.routing(&topic, publish.payload),
            parent: Some(id),
            kind: SpanKind::Route,
            began,
            client_id: "".into(),
            peer: None,
            shards: self.interested_in(&topic),
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
        let connection = session.socket.and_then(|socket| self.connections.get(socket.0));
        let peer = connection.map(|connection| connection.peer.to_string().into());
        (session.client_id.clone(), peer)
    }

    /// Records what became of a message for a subscriber, if it is sampled.
    pub(super) fn record_delivery(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        outbound: Option<&Outbound<'_>>,
        dropped: Option<DropReason>,
    ) {
        let Some(context) = context_of(message) else { return };
        if Mutant::SpansForgetDrops.is_on() && dropped.is_some() {
            return;
        }
        self.meter.charge(cost::VISIT * 2);
        let (client_id, peer) = self.named(index);
        let id = self.name_span();
        let ended = self.micros();
        let begun = self.meter.begun();
        let Some(spans) = &mut self.work.observers.spans else { return };
        // Of what was published here and now the routing is a part of it. What has come by mail or
        // from a queue is given at once: the time before shows as a gap.
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
            peer,
            qos: outbound.map_or(message.qos, |outbound| outbound.qos) as u8,
            payload: message.payload.len(),
            shards: ShardSet::only(self.topology.id),
            error: dropped.map(DropReason::word),
        });
    }
}
