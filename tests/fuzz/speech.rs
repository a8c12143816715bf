//! What clients say: packets of every kind, from an input's choices. Few topics, filters, names and
//! identifiers, so that they meet; values at the edges of what is allowed, and some beyond.

use crate::input::Input;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, Disconnect, OutPublish, PacketId,
    PublishProperties, Qos, ReasonCode, Subscribe, SubscribeFilter, SubscribeFilters,
    SubscribeOptions, Unsubscribe, UnsubscribeFilters, UserProperties, Version, Will,
};

const NAMES: [&str; 6] = ["a", "b", "c", "", "d", "a/+#"];
const TOPICS: [&str; 8] = ["a", "a/b", "b", "a/b/c", "$SYS/a", "a/", "1/2/3/4/5/6/7/8/9", ""];
const FILTERS: [&str; 20] = [
    "a",
    "a/b",
    "a/+",
    "#",
    "+/b",
    "a/#",
    "b",
    "$share/g/a/#",
    "$share/g/+",
    "$share/h/a/b",
    "+",
    "$share/h/#",
    "$SYS/#",
    "+/+/+",
    "/",
    "a/#/b",
    "a+",
    "$share/g",
    "$share/+/a",
    "1/2/3/4/5/6/7/8/9/+",
];
/// Properties that a PUBLISH or a will may carry, and the last two that a client's may not.
const PROPERTIES: [&[u8]; 10] = [
    &[],
    &[0x01, 0x01],
    &[0x03, 0, 1, b't'],
    &[0x08, 0, 1, b'r'],
    &[0x09, 0, 2, 1, 2],
    &[0x26, 0, 1, b'k', 0, 1, b'v'],
    &[0x26, 0, 1, b'k', 0, 1, b'v', 0x26, 0, 1, b'k', 0, 1, b'w', 0x01, 0x00],
    &[0x01, 0x00, 0x03, 0, 0],
    &[0x0B, 0x05],
    &[0x01, 0x02],
];

/// Bytes of the longest string.
const LONGEST: usize = 65_535;

/// One of `choices`; for a few bytes the same made as long as a string can be, or nearly.
fn word(input: &mut Input<'_>, choices: &[&'static str]) -> String {
    let byte = input.byte();
    let word = choices[usize::from(byte) % choices.len()];
    match byte {
        252 => format!("{word}{}", "x".repeat(LONGEST - word.len())),
        253 => format!("{word}{}", "x".repeat(LONGEST - word.len() - 4)),
        254 => format!("{}{word}", "\u{fc}".repeat((LONGEST - word.len()) / 2)),
        255 => format!("{}{word}", "a/".repeat(500)),
        _ => word.to_owned(),
    }
}

fn id(input: &mut Input<'_>) -> PacketId {
    const ONE: PacketId = PacketId::new(1).expect("not 0");
    let byte = input.byte();
    let number = if byte == 255 { input.u16() } else { u16::from(byte % 16) };
    PacketId::new(number).unwrap_or(ONE)
}

fn qos(input: &mut Input<'_>) -> Qos {
    input.pick(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce])
}

fn payload(input: &mut Input<'_>) -> Vec<u8> {
    let length = input.pick(&[3, 0, 1, 20, 200, 1500]);
    vec![input.byte() % 128; length]
}

/// CONNECT.
pub fn connect(input: &mut Input<'_>) -> Vec<u8> {
    let version = input.pick(&[Version::V5, Version::V311, Version::V31, Version::V5]);
    let (flags, more) = (input.byte(), input.byte());
    let client_id = &word(input, &NAMES);
    let keep_alive = input.pick(&[0, 0, 1, 30, u16::MAX]);
    let mut properties = ConnectProperties::default();
    if version.is_v5() {
        let limits = input.byte();
        let expiry = [None, Some(0), Some(1), Some(40), Some(u32::MAX), Some(30)];
        properties.session_expiry = expiry[usize::from(flags >> 4) % 6];
        properties.receive_maximum =
            [None, Some(1), Some(2), Some(65_535)][usize::from(limits & 3)];
        let sizes = [None, None, Some(1), Some(4), Some(30), Some(60), Some(200), Some(1 << 20)];
        properties.maximum_packet_size = sizes[usize::from(limits >> 2 & 7)];
        let aliases = [None, Some(1), Some(3), Some(65_535)];
        properties.topic_alias_maximum = aliases[usize::from(limits >> 5 & 3)];
        properties.request_problem_information = limits & 128 == 0;
        properties.request_response_information = more & 128 != 0;
        properties.authentication_method = (more & 96 == 96).then_some("SCRAM");
    }
    let topic = &word(input, &TOPICS);
    let (payload, forwarded) = (payload(input), input.pick(&PROPERTIES));
    let will = Will {
        topic: if topic.is_empty() { "w" } else { topic },
        payload: &payload,
        qos: qos(input),
        retain: more & 1 != 0,
        delay: if version.is_v5() { input.pick(&[0, 0, 1, 20, 1000]) } else { 0 },
        properties: match PublishProperties::parse(forwarded) {
            Ok(properties) if version.is_v5() => properties,
            _ => PublishProperties::default(),
        },
    };
    let connect = Connect {
        version,
        clean_start: flags & 1 == 0,
        keep_alive,
        client_id,
        username: (more & 6 == 6).then_some("u"),
        password: (more & 14 == 14).then_some(b"p"),
        will: (flags & 2 != 0).then_some(will),
        bridge: !version.is_v5() && more & 16 != 0,
        properties,
    };
    let mut out = Vec::new();
    packet::encode_connect(&mut out, &connect).unwrap();
    out
}

/// PUBLISH.
pub fn publish(version: Version, input: &mut Input<'_>) -> Vec<u8> {
    let flags = input.byte();
    let qos = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(flags & 3) % 3];
    let topic = &word(input, &TOPICS);
    let id = (qos != Qos::AtMostOnce).then(|| id(input));
    let payload = payload(input);
    let mut publish = OutPublish {
        dup: flags & 4 != 0 && qos != Qos::AtMostOnce,
        qos,
        retain: flags & 8 != 0,
        topic,
        id,
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload: &payload,
    };
    if version.is_v5() {
        publish.message_expiry = [None, None, Some(1), Some(30)][usize::from(flags >> 4 & 3)];
        let aliases = [None, Some(1), Some(2), Some(9)];
        publish.topic_alias = aliases[usize::from(flags >> 6)];
        publish.forwarded = input.pick(&PROPERTIES);
    }
    let mut out = Vec::new();
    packet::encode_publish(&mut out, version, &publish).unwrap();
    out
}

/// SUBSCRIBE of one to four filters.
pub fn subscribe(version: Version, input: &mut Input<'_>) -> Vec<u8> {
    let (id, flags) = (id(input), input.byte());
    let mut raw = Vec::new();
    for _ in 0..=flags & 3 {
        let filter = &word(input, &FILTERS);
        let options = input.byte();
        let shared = filter.starts_with("$share/");
        let handling = [
            packet::RetainHandling::Send,
            packet::RetainHandling::SendIfNew,
            packet::RetainHandling::DoNotSend,
        ];
        let options = SubscribeOptions {
            qos: Qos::from_u8(options & 3).unwrap_or(Qos::ExactlyOnce),
            no_local: options & 4 != 0 && !shared,
            retain_as_published: options & 8 != 0,
            retain_handling: handling[usize::from(options >> 4) % 3],
        };
        SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
    }
    let ids = [None, None, Some(1), Some(2), Some(300), Some(268_435_455)];
    let subscription_id = ids[usize::from(flags >> 2) % 6].filter(|_| version.is_v5());
    let Ok(filters) = SubscribeFilters::parse(version, &raw) else { return Vec::new() };
    let user = UserProperties::default();
    let mut out = Vec::new();
    packet::encode_subscribe(&mut out, version, &Subscribe { id, subscription_id, user, filters })
        .unwrap();
    out
}

/// UNSUBSCRIBE of one to four filters.
pub fn unsubscribe(version: Version, input: &mut Input<'_>) -> Vec<u8> {
    let id = id(input);
    let mut raw = Vec::new();
    for _ in 0..=input.below(4) {
        UnsubscribeFilters::write(&word(input, &FILTERS), &mut raw).unwrap();
    }
    let Ok(filters) = UnsubscribeFilters::parse(&raw) else { return Vec::new() };
    let mut out = Vec::new();
    let user = UserProperties::default();
    packet::encode_unsubscribe(&mut out, version, &Unsubscribe { id, user, filters }).unwrap();
    out
}

/// An acknowledgement of anything.
pub fn ack(version: Version, input: &mut Input<'_>) -> Vec<u8> {
    let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
    let (kind, refused) = (input.pick(&kinds), input.below(4) == 3);
    let reason = match kind {
        _ if !refused || !version.is_v5() => ReasonCode::Success,
        AckKind::PubAck | AckKind::PubRec => ReasonCode::UnspecifiedError,
        AckKind::PubRel | AckKind::PubComp => ReasonCode::PacketIdentifierNotFound,
    };
    let mut out = Vec::new();
    packet::encode_ack(&mut out, version, kind, &Ack::new(id(input), reason)).unwrap();
    out
}

/// Whatever else clients send.
pub fn other(version: Version, input: &mut Input<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match input.below(6) {
        0..=2 => packet::encode_pingreq(&mut out),
        3 | 4 => {
            let will = version.is_v5() && input.flag();
            let reason = if will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
            let expiry = [None, None, Some(0), Some(5), Some(u32::MAX)];
            let session_expiry = input.pick(&expiry).filter(|_| version.is_v5());
            let packet = Disconnect { session_expiry, ..Disconnect::new(reason) };
            packet::encode_disconnect(&mut out, version, &packet).unwrap();
        }
        _ => out = connect(input),
    }
    out
}
