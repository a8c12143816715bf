//! Traces: every packet and decision of the clients, or about the topics, that an operator wants to
//! see. Lines wait here until the admin thread takes them; what there is no room for is counted.
//! Who is not traced costs one look at an empty place for each packet, and nothing is kept of it.

use crate::ids::Peer;
use crate::limits::{TRACE_BYTES, TRACE_LINES};
use crate::packet::{Ack, Packet, PacketId, Publish, Qos};
use crate::topic;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Traces at a time.
pub const TRACES: usize = 8;
/// Filters or codes of one packet that a line has.
const FILTERS: usize = 16;
/// Bytes of a payload that a line has, where payloads are wanted.
const PAYLOAD: usize = 1024;

/// What a trace follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The client with this ClientId.
    Client(Box<str>),
    /// Clients with this user name.
    User(Box<str>),
    /// Clients at this address.
    Address(IpAddr),
    /// Messages whose topic matches this filter, whoever publishes or gets them.
    Topic(Box<str>),
}

/// A trace that is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceRule {
    /// Which of the [`TRACES`] it is.
    pub number: u8,
    /// What it follows.
    pub subject: Subject,
    /// With payloads.
    pub payload: bool,
}

/// Who a line is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Actor<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub peer: Option<Peer>,
}

/// A line of one or several traces.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TraceLine {
    /// The traces that it belongs to, a bit for each number.
    #[serde(skip)]
    pub traces: u8,
    /// Microseconds on the clock of [`crate::shard::Shard::begin`].
    #[serde(skip)]
    pub micros: u64,
    /// received or sent, of a packet; else what was decided or happened.
    pub event: &'static str,
    /// The client.
    pub clientid: Box<str>,
    /// Its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Box<str>>,
    /// What there is to say.
    #[serde(flatten)]
    pub what: Detail,
}

impl TraceLine {
    /// Bytes of memory, about.
    fn size(&self) -> usize {
        let peer = self.peer.as_deref().map_or(0, str::len);
        size_of::<TraceLine>() + self.clientid.len() + peer + self.what.size()
    }
}

/// What a line says, as far as it applies.
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
#[serde(default)]
pub struct Detail {
    /// The packet's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<&'static str>,
    /// Its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// Packet Identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
    /// Topic name; of what was decided about a subscription, the filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<Box<str>>,
    /// Filters with the QoS asked for, the first 16.
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
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// Bytes of the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<usize>,
    /// Its first KiB as text, where it is wanted and is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<str>>,
    /// The same in hexadecimal, where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<Box<str>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Detail {
    /// Bytes of memory, about.
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

    fn publish(of: &Published<'_>) -> Detail {
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

    /// Of a packet of `bytes` bytes that is no PUBLISH.
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

/// What a line says of a PUBLISH in either direction.
#[derive(Clone, Copy)]
pub(super) struct Published<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    pub id: Option<PacketId>,
    /// As the broker knows it.
    pub topic: &'a str,
    pub payload: &'a [u8],
}

impl<'a> From<&Publish<'a>> for Published<'a> {
    fn from(of: &Publish<'a>) -> Self {
        let Publish { dup, qos, retain, id, topic, payload, .. } = *of;
        Published { dup, qos, retain, id, topic, payload }
    }
}

/// The traces of a shard, and the lines that wait to be taken.
#[derive(Default)]
pub(in crate::shard) struct Traces {
    rules: Vec<TraceRule>,
    lines: VecDeque<TraceLine>,
    bytes: usize,
    lost: u64,
    /// How many lines there were before the packet that is being handled.
    before: usize,
}

impl Traces {
    pub(super) fn of(rules: Vec<TraceRule>) -> Traces {
        Traces { rules, ..Traces::default() }
    }

    /// Other rules; the lines stay.
    pub(super) fn change(&mut self, rules: Vec<TraceRule>) {
        self.rules = rules;
    }

    /// Which traces follow this client, or this topic.
    pub(super) fn following(&self, actor: &Actor<'_>, topic: Option<&str>) -> u8 {
        let follows = |rule: &&TraceRule| match &rule.subject {
            Subject::Client(name) => **name == *actor.client_id,
            Subject::User(name) => actor.username == Some(name),
            Subject::Address(wanted) => match actor.peer {
                Some(Peer::Tcp(address, _)) => address.to_canonical() == wanted.to_canonical(),
                Some(Peer::Unix) | None => false,
            },
            Subject::Topic(filter) => topic.is_some_and(|topic| topic::matches(filter, topic)),
        };
        let followed = self.rules.iter().filter(follows);
        followed.fold(0, |bits, rule| bits | 1 << rule.number)
    }

    /// Whether one of these wants payloads.
    fn with_payload(&self, traces: u8) -> bool {
        self.rules.iter().any(|rule| rule.payload && traces & 1 << rule.number != 0)
    }

    /// A packet of a client.
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

    /// Keeps a line, if there is room.
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

    /// A packet is about to be handled.
    pub(super) fn begin(&mut self) {
        self.before = self.lines.len();
    }

    /// It was not: it comes again. Nothing has been done for it that has a line.
    pub(super) fn withdraw(&mut self) {
        while self.lines.len() > self.before
            && let Some(line) = self.lines.pop_back()
        {
            self.bytes -= line.size();
        }
    }

    /// The lines so far, and how many there was no room for; both begin anew.
    pub(super) fn take(&mut self) -> (VecDeque<TraceLine>, u64) {
        (self.bytes, self.before) = (0, 0);
        (std::mem::take(&mut self.lines), std::mem::take(&mut self.lost))
    }

    /// A line about a PUBLISH.
    pub(super) fn published(of: &Published<'_>, bytes: usize) -> Detail {
        Detail { bytes: Some(bytes), ..Detail::publish(of) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(number: u8, subject: Subject) -> TraceRule {
        TraceRule { number, subject, payload: number == 3 }
    }

    fn all() -> Traces {
        Traces::of(vec![
            rule(0, Subject::Client("one".into())),
            rule(1, Subject::User("ann".into())),
            rule(2, Subject::Address("192.0.2.1".parse().unwrap())),
            rule(3, Subject::Topic("a/+".into())),
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
