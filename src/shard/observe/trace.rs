//! Traces: every packet and decision of the clients, or about the topics, that an operator wants to
//! see. Lines wait here until the admin thread takes them; those for which there is no room are
//! counted. A client that is not traced costs one look at an empty place for each packet.

use crate::ids::Peer;
use crate::limits::{TRACE_BYTES, TRACE_LINES};
use crate::packet::{Ack, Packet, PacketId, Publish, Qos};
use crate::topic;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::IpAddr;

/// How many traces there may be at a time.
pub const TRACES: usize = 8;
/// Most filters or codes of one packet in a line.
const FILTERS: usize = 16;
/// Most bytes of a payload in a line, where payloads are wanted.
const PAYLOAD: usize = 1024;

/// What a trace follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceSubject {
    /// The client with this ClientId.
    Client(Box<str>),
    /// Clients with this user name.
    User(Box<str>),
    /// Clients at this address.
    Address(IpAddr),
    /// Messages whose topic matches this filter, whichever clients publish or get them.
    Topic(Box<str>),
}

/// An order to trace something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceRule {
    /// The number of the trace, below [`TRACES`].
    pub number: u8,
    /// What the trace follows.
    pub subject: TraceSubject,
    /// Whether lines of the trace have payloads.
    pub payload: bool,
}

/// The client that a line is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Actor<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub peer: Option<Peer>,
}

/// A line of one or several traces.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceLine {
    /// The traces that the line belongs to, one bit for each number.
    #[serde(skip)]
    pub traces: u8,
    /// Microseconds on the clock of [`crate::shard::Shard::begin`].
    #[serde(skip)]
    pub micros: u64,
    /// `received` or `sent` for a packet; otherwise what was decided or happened.
    pub event: &'static str,
    /// The ClientId.
    pub clientid: Box<str>,
    /// The address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Box<str>>,
    /// The rest of the line.
    #[serde(flatten)]
    pub what: Detail,
}

impl TraceLine {
    /// Bytes of memory, roughly.
    fn size(&self) -> usize {
        let peer = self.peer.as_deref().map_or(0, str::len);
        size_of::<TraceLine>() + self.clientid.len() + peer + self.what.size()
    }
}

/// The content of a line, as far as it applies.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
#[serde(default)]
pub struct Detail {
    /// The packet's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<&'static str>,
    /// The length of the packet, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Packet Identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Topic name; for a decision about a subscription, the filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<Box<str>>,
    /// Filters with the requested QoS, the first 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<(Box<str>, u8)>,
    /// Quality of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// RETAIN.
    #[serde(skip_serializing_if = "is_false")]
    pub retain: bool,
    /// DUP.
    #[serde(skip_serializing_if = "is_false")]
    pub dup: bool,
    /// Session Present.
    #[serde(skip_serializing_if = "is_false")]
    pub session_present: bool,
    /// Reason codes, the first 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u8>,
    /// The reason; for a CONNECT, the ClientId.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// The length of the payload, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<usize>,
    /// The first KiB of the payload, where payloads are wanted and this one is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<str>>,
    /// The first KiB in hexadecimal, where the payload is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<Box<str>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Detail {
    /// Bytes of memory, roughly.
    fn size(&self) -> usize {
        let filters: usize = self.filters.iter().map(|(filter, _)| filter.len() + 24).sum();
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
        let payload = text(&self.payload) + text(&self.payload_hex);
        filters + text(&self.topic) + text(&self.reason) + self.codes.len() + payload
    }

    fn of(packet: &'static str) -> Detail {
        Detail { packet: Some(packet), ..Detail::default() }
    }

    fn ack(packet: &'static str, ack: &Ack<'_>) -> Detail {
        Detail { id: Some(ack.id.get()), codes: vec![ack.reason as u8], ..Detail::of(packet) }
    }

    fn publish(of: &TracedPublish<'_>) -> Detail {
        Detail {
            id: of.id.map(PacketId::get),
            topic: Some(of.topic.into()),
            qos: Some(of.qos as u8),
            retain: of.retain,
            dup: of.dup,
            payload_bytes: Some(of.payload.len()),
            ..Detail::of("PUBLISH")
        }
    }

    /// The content of a line about a packet of `bytes` bytes that is no PUBLISH.
    pub(super) fn packet(packet: &Packet<'_>, bytes: usize) -> Detail {
        let id = |id: PacketId| Some(id.get());
        let few = |codes: &[u8]| codes.iter().copied().take(FILTERS).collect();
        let of = match packet {
            Packet::Connect(connect) => {
                Detail { reason: Some(connect.client_id.into()), ..Detail::of("CONNECT") }
            }
            Packet::ConnAck(connack) => Detail {
                codes: vec![connack.reason as u8],
                session_present: connack.session_present,
                ..Detail::of("CONNACK")
            },
            Packet::Publish(publish) => Detail::publish(&publish.into()),
            Packet::PubAck(ack) => Detail::ack("PUBACK", ack),
            Packet::PubRec(ack) => Detail::ack("PUBREC", ack),
            Packet::PubRel(ack) => Detail::ack("PUBREL", ack),
            Packet::PubComp(ack) => Detail::ack("PUBCOMP", ack),
            Packet::Subscribe(subscribe) => {
                let asked = subscribe.filters.iter().take(FILTERS);
                let filters = asked.map(|one| (one.filter.into(), one.options.qos as u8));
                let filters = filters.collect();
                Detail { id: id(subscribe.id), filters, ..Detail::of("SUBSCRIBE") }
            }
            Packet::SubAck(suback) => {
                Detail { id: id(suback.id), codes: few(suback.codes), ..Detail::of("SUBACK") }
            }
            Packet::Unsubscribe(unsubscribe) => {
                let asked = unsubscribe.filters.iter().take(FILTERS);
                let filters = asked.map(|filter| (filter.into(), 0)).collect();
                Detail { id: id(unsubscribe.id), filters, ..Detail::of("UNSUBSCRIBE") }
            }
            Packet::UnsubAck(unsuback) => {
                Detail { id: id(unsuback.id), codes: few(unsuback.codes), ..Detail::of("UNSUBACK") }
            }
            Packet::PingReq => Detail::of("PINGREQ"),
            Packet::PingResp => Detail::of("PINGRESP"),
            Packet::Disconnect(gone) => {
                Detail { codes: vec![gone.reason as u8], ..Detail::of("DISCONNECT") }
            }
            Packet::Auth(auth) => Detail { codes: vec![auth.reason as u8], ..Detail::of("AUTH") },
        };
        Detail { bytes: Some(bytes), ..of }
    }
}

/// What a line says about a PUBLISH in either direction.
#[derive(Clone, Copy)]
pub(super) struct TracedPublish<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    pub id: Option<PacketId>,
    /// With the alias resolved and the mountpoint before it.
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl<'a> From<&Publish<'a>> for TracedPublish<'a> {
    fn from(of: &Publish<'a>) -> Self {
        let Publish { dup, qos, retain, id, topic, payload, .. } = *of;
        TracedPublish { dup, qos, retain, id, topic, payload }
    }
}

/// The traces of a shard, and the lines that wait to be taken.
#[derive(Default)]
pub(in crate::shard) struct Traces {
    rules: Vec<TraceRule>,
    lines: VecDeque<TraceLine>,
    bytes: usize,
    lost: u64,
    /// How many lines there were, and how many were lost, before the packet that is being handled.
    before: (usize, u64),
}

impl Traces {
    pub(super) fn of(rules: Vec<TraceRule>) -> Traces {
        Traces { rules, ..Traces::default() }
    }

    /// Replaces the rules, and keeps the lines.
    pub(super) fn change(&mut self, rules: Vec<TraceRule>) {
        self.rules = rules;
    }

    /// The traces that follow this client, or this topic, one bit for each.
    pub(super) fn following(&self, actor: &Actor<'_>, topic: Option<&str>) -> u8 {
        let follows = |rule: &&TraceRule| match &rule.subject {
            TraceSubject::Client(name) => **name == *actor.client_id,
            TraceSubject::User(name) => actor.username == Some(name),
            TraceSubject::Address(wanted) => match actor.peer {
                Some(Peer::Tcp(address, _)) => address.to_canonical() == wanted.to_canonical(),
                Some(Peer::Unix) | None => false,
            },
            TraceSubject::Topic(filter) => topic.is_some_and(|topic| topic::matches(filter, topic)),
        };
        let followed = self.rules.iter().filter(follows);
        followed.fold(0, |bits, rule| bits | 1 << rule.number)
    }

    /// Whether one of these traces wants payloads.
    fn with_payload(&self, traces: u8) -> bool {
        self.rules.iter().any(|rule| rule.payload && traces & 1 << rule.number != 0)
    }

    /// Adds a line about a packet of a client.
    pub(super) fn packet(
        &mut self,
        traces: u8,
        micros: u64,
        event: &'static str,
        actor: &Actor<'_>,
        mut what: Detail,
        payload: &[u8],
    ) {
        if self.with_payload(traces) && what.payload_bytes.is_some() {
            let text = std::str::from_utf8(payload).ok();
            what.payload = text.map(|text| text[..text.floor_char_boundary(PAYLOAD)].into());
            let shown = &payload[..payload.len().min(PAYLOAD)];
            let hex = || shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            what.payload_hex = text.is_none().then(|| hex().into());
        }
        self.add(traces, micros, event, actor, what);
    }

    /// Adds a line, if there is room.
    pub(super) fn add(
        &mut self,
        traces: u8,
        micros: u64,
        event: &'static str,
        actor: &Actor<'_>,
        what: Detail,
    ) {
        let clientid: Box<str> = actor.client_id.into();
        let peer = actor.peer.map(|peer| peer.to_string().into());
        let line = TraceLine { traces, micros, event, clientid, peer, what };
        let size = line.size();
        if self.lines.len() >= TRACE_LINES || self.bytes + size > TRACE_BYTES {
            self.lost += 1;
            return;
        }
        self.bytes += size;
        self.lines.push_back(line);
    }

    /// Notes that a packet is about to be handled.
    pub(super) fn begin(&mut self) {
        self.before = (self.lines.len(), self.lost);
    }

    /// Removes the lines of a packet that was not handled and comes again. Nothing that was done
    /// for such a packet has a line.
    pub(super) fn withdraw(&mut self) {
        self.lost = self.before.1;
        while self.lines.len() > self.before.0
            && let Some(line) = self.lines.pop_back()
        {
            self.bytes -= line.size();
        }
    }

    /// Takes the lines so far, and how many were lost for lack of room.
    pub(super) fn take(&mut self) -> (VecDeque<TraceLine>, u64) {
        (self.bytes, self.before) = (0, (0, 0));
        (std::mem::take(&mut self.lines), std::mem::take(&mut self.lost))
    }

    /// The content of a line about a PUBLISH.
    pub(super) fn published(of: &TracedPublish<'_>, bytes: usize) -> Detail {
        Detail { bytes: Some(bytes), ..Detail::publish(of) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(number: u8, subject: TraceSubject) -> TraceRule {
        TraceRule { number, subject, payload: number == 3 }
    }

    fn all() -> Traces {
        Traces::of(vec![
            rule(0, TraceSubject::Client("one".into())),
            rule(1, TraceSubject::User("ann".into())),
            rule(2, TraceSubject::Address("192.0.2.1".parse().unwrap())),
            rule(3, TraceSubject::Topic("a/+".into())),
        ])
    }

    #[test]
    fn a_client_is_followed_by_name_user_address_and_topic() {
        let traces = all();
        let peer = |text: &str| Some(Peer::Tcp(text.parse().unwrap(), 1));
        let actor = |client_id, username, peer| Actor { client_id, username, peer };
        for (actor, topic, wanted) in [
            (actor("one", None, None), None, 1),
            (actor("two", Some("ann"), None), Some("b"), 2),
            (actor("two", Some("bob"), peer("::ffff:192.0.2.1")), None, 4),
            (actor("one", Some("ann"), peer("192.0.2.1")), Some("a/b"), 15),
            (actor("one2", None, Some(Peer::Unix)), Some("a/b/c"), 0),
        ] {
            assert_eq!(traces.following(&actor, topic), wanted, "{actor:?} {topic:?}");
        }
    }

    #[test]
    fn lines_are_bounded_and_what_is_lost_is_counted() {
        let mut traces = all();
        let actor = Actor { client_id: "one", username: None, peer: None };
        for _ in 0..TRACE_LINES + 5 {
            traces.add(1, 7, "received", &actor, Detail::of("PINGREQ"));
        }
        let (lines, lost) = traces.take();
        assert_eq!((lines.len(), lost), (TRACE_LINES, 5));
        let payload = vec![0; 5000];
        for _ in 0..TRACE_LINES {
            let what = Detail { payload_bytes: Some(5000), ..Detail::of("PUBLISH") };
            traces.packet(8, 7, "sent", &actor, what, &payload);
        }
        assert!(traces.bytes <= TRACE_BYTES);
        let (lines, lost) = traces.take();
        assert_eq!(lines.len() as u64 + lost, TRACE_LINES as u64);
        assert!(lost > 0);
        assert_eq!(lines[0].what.payload.as_deref().map(str::len), Some(PAYLOAD));
        assert_eq!((traces.take().0.len(), traces.bytes), (0, 0));
    }

    #[test]
    fn payloads_are_kept_for_those_who_want_them_only() {
        let mut traces = all();
        let actor = Actor { client_id: "one", username: None, peer: None };
        let what = Detail { payload_bytes: Some(2), ..Detail::of("PUBLISH") };
        traces.packet(1, 7, "sent", &actor, what.clone(), b"hi");
        traces.packet(9, 7, "sent", &actor, what.clone(), b"hi");
        traces.packet(8, 7, "sent", &actor, what, b"\xff\0");
        let (lines, _) = traces.take();
        assert_eq!(lines[0].what.payload, None);
        assert_eq!(lines[1].what.payload.as_deref(), Some("hi"));
        assert_eq!(lines[2].what.payload_hex.as_deref(), Some("ff00"));
        assert_eq!(lines[2].what.payload, None);
    }
}
