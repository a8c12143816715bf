//! Packets as clients send them, and the parts of the broker's packets that are read.

use ringmq::packet::{
    self, Connect, ConnectProperties, OutPublish, PacketId, Qos, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters, Version,
};

const PAYLOAD: [u8; 64] = [b'x'; 64];

/// The packet identifier of a QoS 1 or 2 PUBLISH at the start of `bytes`; `None` for another
/// packet.
pub fn identifier(bytes: &[u8]) -> Option<u16> {
    let publish = matches!(bytes[0] & 0xF6, 0x32 | 0x34) && bytes[1] < 0x80;
    let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    let id = bytes.get(4 + length..6 + length).filter(|_| publish)?;
    Some(u16::from_be_bytes([id[0], id[1]]))
}

/// The PUBACKs that a client owes for the QoS 1 PUBLISH packets among `bytes`, and how many.
/// Packets have lengths of one or two bytes.
pub fn pubacks(bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut acks, mut left) = (Vec::new(), bytes);
    while let [first, low, high, ..] = *left {
        let (head, length) = match low {
            0x80.. => (3, usize::from(low & 0x7F) | usize::from(high) << 7),
            _ => (2, usize::from(low)),
        };
        let (packet, rest) = left.split_at(head + length);
        left = rest;
        if first & 0xF6 == 0x32 {
            let topic = usize::from(u16::from_be_bytes([packet[head], packet[head + 1]]));
            let at = head + 2 + topic;
            acks.extend_from_slice(&[0x40, 2, packet[at], packet[at + 1]]);
        }
    }
    let count = acks.len() / 4;
    (acks, count)
}

/// A CONNECT with a clean session.
pub fn hello(name: &str, keep_alive: u16) -> Vec<u8> {
    connect(name, keep_alive, None)
}

/// A CONNECT that goes on with the client's session, which then stays for an hour.
pub fn hello_again(name: &str) -> Vec<u8> {
    connect(name, 0, Some(3600))
}

fn connect(name: &str, keep_alive: u16, stays: Option<u32>) -> Vec<u8> {
    let properties = ConnectProperties { session_expiry: stays, ..Default::default() };
    let connect = Connect {
        version: Version::V5,
        clean_start: stays.is_none(),
        keep_alive,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties,
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect).expect("it is small");
    bytes
}

/// A SUBSCRIBE of one filter.
pub fn subscribe(id: u16, filter: &str, qos: Qos) -> Vec<u8> {
    let options = SubscribeOptions { qos, ..Default::default() };
    let mut raw = Vec::new();
    SubscribeFilter { filter, options }.write(Version::V5, &mut raw).expect("it is small");
    let subscribe = Subscribe {
        id: PacketId::new(id).expect("not zero"),
        subscription_id: None,
        user: Default::default(),
        filters: SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_subscribe(&mut bytes, Version::V5, &subscribe).expect("it is small");
    bytes
}

/// An UNSUBSCRIBE of one filter.
pub fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut raw = Vec::new();
    UnsubscribeFilters::write(filter, &mut raw).expect("it is small");
    let unsubscribe = Unsubscribe {
        id: PacketId::new(id).expect("not zero"),
        user: Default::default(),
        filters: UnsubscribeFilters::parse(&raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_unsubscribe(&mut bytes, Version::V5, &unsubscribe).expect("it is small");
    bytes
}

/// The same PUBLISH of 64 bytes, `count` times; `id` is 0 at QoS 0.
pub fn publish(topic: &str, qos: Qos, id: u16, count: usize) -> Vec<u8> {
    publish_of(&PAYLOAD, topic, qos, id, count)
}

/// The same with that payload.
pub fn publish_of(payload: &[u8], topic: &str, qos: Qos, id: u16, count: usize) -> Vec<u8> {
    let publish = OutPublish {
        dup: false,
        qos,
        retain: false,
        topic,
        id: PacketId::new(id),
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload,
    };
    let mut bytes = Vec::new();
    for _ in 0..count {
        packet::encode_publish(&mut bytes, Version::V5, &publish).expect("it is small");
    }
    bytes
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70).
pub fn ack(kind: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [kind, 2, high, low]
}
