//! Spans of messages that no client's PUBLISH brings: what the management API or a bridge has
//! published, the wills of clients, and what another node of the cluster sends.

use super::spans::{Received, Span, SpanKind, sampled_context, shortened};
use crate::ids::ShardSet;
use crate::limits::cost;
use crate::mesh::moves::SampledArrival;
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::append_user_property;
use crate::shard::Shard;
use crate::telemetry::trace_context::TRACEPARENT;

/// How a message came that no client has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Via {
    /// The management API.
    Api,
    /// The bridge of that name has brought it.
    Bridge(Box<str>),
    /// The node of that name has sent it.
    Node(Box<str>),
    /// It is the will of a client.
    Will,
}

/// How far such a message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::shard) enum TracedFate {
    /// It is routed.
    Done,
    /// It is not taken; why.
    Refused(&'static str),
    /// It comes again.
    Again,
}

/// What such a message is held as: it comes again with the same topic and payload, and from no
/// session.
fn key(message: &MessageRef<'_>) -> (u32, u32) {
    (u32::MAX, crc32c::crc32c(message.topic.as_bytes()) ^ crc32c::crc32c(message.payload))
}

impl Shard {
    /// Whether spans are recorded.
    pub(in crate::shard) fn is_recording(&self) -> bool {
        self.work.observers.spans.is_some()
    }

    /// Has `publish` publish a message, within its trace if it is sampled.
    #[inline(never)]
    pub(in crate::shard) fn publish_within_trace<T>(
        &mut self,
        via: Via,
        message: &MessageRef<'_>,
        publish: impl FnOnce(&mut Shard, &MessageRef<'_>) -> (T, TracedFate),
    ) -> T {
        self.meter.charge(cost::VISIT * 4);
        let key = key(message);
        let current = self.sample_as(key, sampled_context(message), message.retain);
        let Some(current) = current.filter(|_| !Mutant::BroughtUnrecorded.is_on()) else {
            return publish(self, message).0;
        };
        let mut block = message.properties.to_vec();
        if current.begun_here && !Mutant::TraceNotPassedOn.is_on() {
            let context = current.context.written();
            if append_user_property(&mut block, TRACEPARENT, &context).is_err() {
                return publish(self, message).0;
            }
        }
        let message = MessageRef { properties: &block, ..*message };
        let logged = tracing::error_span!("message", trace_id = %current.context.trace);
        let _entered = logged.entered();
        self.begin_sampled(&current);
        let routing = self.micros();
        let (outcome, way) = publish(self, &message);
        self.end_sampled();
        let (error, routing) = match way {
            TracedFate::Done => (None, Some(routing)),
            TracedFate::Refused(why) => (Some(why), None),
            TracedFate::Again => {
                self.hold_as(key, current.began);
                return outcome;
            }
        };
        let MessageRef { topic, payload, .. } = message;
        let (client_id, qos, via) = ("".into(), message.qos as u8, Some(via));
        let received = Received { topic, payload, qos, client_id, peer: None, via };
        let current = super::Current { error, ..current };
        self.record_received(received, &current, routing);
        outcome
    }

    /// Records that a message of another node has come.
    pub(in crate::shard) fn record_arrival(&mut self, arrived: SampledArrival) {
        self.meter.charge(cost::VISIT * 2);
        let (id, ended) = (self.name_span(), self.micros());
        let Some(spans) = &mut self.work.observers.spans else { return };
        spans.lost += arrived.untold;
        spans.keep(Span {
            trace: arrived.trace,
            id,
            parent: Some(arrived.routing),
            kind: SpanKind::Receive,
            began: arrived.began.min(ended),
            ended,
            topic: shortened(&arrived.topic),
            client_id: "".into(),
            via: Some(Via::Node(arrived.node)),
            peer: None,
            qos: arrived.qos,
            payload: arrived.payload,
            shards: ShardSet::EMPTY,
            error: None,
        });
    }
}
