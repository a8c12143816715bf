//! Events: what happens to clients, as messages below `$SYS/broker/events/`, of the kinds that
//! `telemetry.events` names. Events wait in a bounded queue, because what they report may happen in
//! the middle of another message, and are routed like wills.

use crate::config::EventKind;
use crate::limits::{EVENTS, cost};
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::shard::Shard;
use serde::Serialize;

/// The content of an event, as far as it applies. Written as JSON.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct EventContent<'a> {
    pub clientid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proto_ver: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clean_start: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_present: Option<bool>,
    /// A topic filter, or the topic of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Milliseconds since 1970.
    pub timestamp: u64,
}

impl Shard {
    /// Whether events of that kind are published.
    #[inline]
    pub(super) fn tells(&self, kind: EventKind) -> bool {
        self.settings.events & 1 << kind as u8 != 0
    }

    /// Queues an event, which is routed as soon as a step has room for it.
    #[cold]
    pub(super) fn tell_event(&mut self, kind: EventKind, event: &EventContent<'_>) {
        if self.work.observers.events.len() >= EVENTS {
            self.counters.events_dropped += 1;
            return;
        }
        let event = EventContent { timestamp: self.work.observers.wall + self.now.0, ..*event };
        let Ok(payload) = serde_json::to_vec(&event) else { return };
        let topic = format!("$SYS/broker/events/{}", kind.topic());
        self.queue_event(&topic, &payload, false);
        self.counters.events += 1;
    }

    /// Queues the state of an alarm, a retained message below `$SYS/broker/alarms/`. An empty text
    /// means that there is no alarm.
    pub fn tell_alarm(&mut self, name: &str, text: &str) {
        if self.settings.sys_interval == 0 || self.work.observers.events.len() >= EVENTS {
            return;
        }
        let topic = format!("$SYS/broker/alarms/{name}");
        self.queue_event(&topic, text.as_bytes(), true);
    }

    fn queue_event(&mut self, topic: &str, payload: &[u8], retain: bool) {
        let message = MessageRef {
            topic,
            properties: &[],
            payload,
            qos: Qos::AtMostOnce,
            retain,
            expires: None,
            publisher: None,
        };
        self.meter.charge(cost::PACKET + cost::bytes(payload.len()));
        let stored = Message::new(&message, self.delivery.scratch.bytes());
        self.memory.tally.names += stored.size();
        if Mutant::EventsReversed.is_on() {
            self.work.observers.events.push_front(stored);
        } else {
            self.work.observers.events.push_back(stored);
        }
    }
}
