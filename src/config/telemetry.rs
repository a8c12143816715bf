//! The keys for what the broker tells besides metrics and the log: the sections `sys` and
//! `telemetry`. Like `sections`, of which it is a part, this file has declarations and little
//! behaviour.

use super::super::notation::{DAY, SECOND};
use super::super::quantity::{Count, Ratio, Time, Unit};
use super::super::texts::TextTable;
use super::super::value::{self, Get, Or, Section, Several, Text};
use super::{FilePath, Off};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IntoDeserializer, MapAccess};
use serde::{Deserialize, Serialize, Serializer};

choice! {
    /// What becomes of clients and sessions.
    EventKind {
        /// A client has connected: client/connected.
        Connected,
        /// A client is parted with, with the reason: client/disconnected.
        Disconnected,
        /// A subscription was granted or changed: session/subscribed.
        Subscribed,
        /// A client has unsubscribed: session/unsubscribed.
        Unsubscribed,
        /// A session has ended: session/ended.
        SessionEnded,
        /// A message for a client was dropped, with the reason: message/dropped.
        Dropped,
    }
}

impl EventKind {
    /// All kinds of events.
    pub const ALL: [EventKind; 6] = [
        EventKind::Connected,
        EventKind::Disconnected,
        EventKind::Subscribed,
        EventKind::Unsubscribed,
        EventKind::SessionEnded,
        EventKind::Dropped,
    ];

    /// The topic below `$SYS/broker/events/`.
    pub fn topic(self) -> &'static str {
        match self {
            EventKind::Connected => "client/connected",
            EventKind::Disconnected => "client/disconnected",
            EventKind::Subscribed => "session/subscribed",
            EventKind::Unsubscribed => "session/unsubscribed",
            EventKind::SessionEnded => "session/ended",
            EventKind::Dropped => "message/dropped",
        }
    }
}

choice! {
    /// Who may subscribe to $SYS topics where no rule says anything.
    SysVisible {
        /// Clients on loopback or a unix socket, and superusers.
        Local,
        /// Everybody.
        All,
    }
}

section! {
    /// The $SYS topics.
    SysConfig {
        /// Time between updates; off publishes none.
        interval: Or<Off, Time<SECOND, DAY>> = Or::of(Time::of(10 * SECOND)),
        /// Who may subscribe to them where no rule says anything: they tell of other clients. With
        /// access.authorization its rules decide, or those of a token or a service.
        visible: SysVisible = SysVisible::Local,
    }
}

/// What `top_clients` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RankedClients {}

impl Unit for RankedClients {
    const NAME: &'static str = "clients";
}

section! {
    /// What is told of clients besides metrics and the log.
    Telemetry {
        /// The kinds of events that are published below $SYS/broker/events/ as JSON, QoS 0. They
        /// name clients: let only those subscribe who may know (access.authorization). At most
        /// 1,024 wait on a core; further ones are dropped and counted
        /// (ringmq_events_dropped_total).
        events: Or<Off, Several<EventKind, 6>> = Or::NONE,
        /// So many of the clients that weigh most are in /metrics, named, for each measure of
        /// /api/v1/top: ringmq_top_clients. 0: none, as their names are to be seen by whoever may
        /// read that page.
        top_clients: Count<u32, RankedClients, 0, 100> = Count::of(0),
        /// Traces of single messages, for OpenTelemetry.
        otlp: Otlp = Otlp::default(),
    }
}

section! {
    /// What becomes of sampled messages, as spans of OpenTelemetry: received, routed, delivered to
    /// each subscriber or dropped. They are sent by OTLP over HTTP.
    Otlp {
        /// An http or https URL, such as http://127.0.0.1:4318: /v1/traces is added where it has no
        /// path. off: nothing is recorded.
        endpoint: Or<Off, Text<1, 4096>> = Or::NONE,
        /// The share of messages that are sampled: 0.001 is one of a thousand. The broker begins a
        /// trace for each, and adds the user property traceparent to the message, so that
        /// subscribers of MQTT 5 can go on with the trace. Retained messages are not sampled so. A
        /// message that comes with that property, and whose publisher records its trace, is always
        /// sampled, also with 0, and its properties are left as they are.
        sample: Ratio<0, 1> = Ratio::of(0.001),
        /// Headers of the requests, such as the key of a service.
        #[schemars(extend("x-secret" = true))]
        headers: TextTable = TextTable::default(),
        /// The resource's service.name.
        service_name: Text<1, 256> = Text::of("ringmq"),
        /// Longest time for an answer.
        timeout: Time<{ SECOND / 10 }, { 120 * SECOND }> = Time::of(10 * SECOND),
        /// File with the authorities of the receiver's certificate in PEM; empty: those of the
        /// host.
        ca: FilePath = Text::of(""),
    }
}

impl Otlp {
    /// The share of messages that are sampled; `None` when nothing is recorded.
    pub fn share(&self) -> Option<f64> {
        self.endpoint.0.as_ref().map(|_| self.sample.get())
    }
}

impl Telemetry {
    /// A bit for each kind of event that is published.
    pub fn bits(&self) -> u8 {
        let kinds = self.events.0.as_ref().map_or(&[][..], |kinds| &kinds.0);
        kinds.iter().fold(0, |bits, kind| bits | 1 << *kind as u8)
    }
}
