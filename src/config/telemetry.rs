//! The keys of what is told besides metrics and the log: the section `telemetry`. As `sections`, of
//! which this is a part: declarations, no behaviour.

use super::super::value::{self, Or, Section, Several};
use super::Off;
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
    /// All of them.
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

section! {
    /// What is told of clients besides metrics and the log.
    Telemetry {
        /// The kinds of events that are published below $SYS/broker/events/ as JSON, QoS 0. They
        /// name clients: let only those subscribe who may know (access.authorization). At most
        /// 1,024 wait on a core; further ones are dropped and counted
        /// (ringmq_events_dropped_total).
        events: Or<Off, Several<EventKind, 6>> = Or::NONE,
    }
}

impl Telemetry {
    /// A bit for each kind of event that is told.
    pub fn bits(&self) -> u8 {
        let kinds = self.events.0.as_ref().map_or(&[][..], |kinds| &kinds.0);
        kinds.iter().fold(0, |bits, kind| bits | 1 << *kind as u8)
    }
}
