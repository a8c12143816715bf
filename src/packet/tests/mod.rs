//! Tests of the codec: bytes written by hand for each packet family, and properties that hold for
//! all of them.

mod ack;
mod connect;
mod disconnect;
mod framing;
mod fuzz;
mod limits;
mod properties;
mod publish;
mod roundtrip;
mod subscribe;

use super::*;
use ReasonCode::{
    MalformedPacket as MALFORMED, PayloadFormatInvalid as BAD_PAYLOAD, ProtocolError as PROTOCOL,
    TopicAliasInvalid as BAD_ALIAS, TopicNameInvalid as BAD_TOPIC,
};
use Version::{V5, V31, V311};

const ALL: [Version; 3] = [V31, V311, V5];

/// A packet from its first byte and the bytes after the length.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::put_packet(&mut out, first, |out| {
        out.extend_from_slice(body);
        Ok(())
    })
    .unwrap();
    out
}

/// Asserts that every row is refused with its reason.
fn refuses(first: u8, rows: &[(&str, Version, &[u8], ReasonCode)]) {
    for (name, version, body, reason) in rows {
        match decode(*version, &packet(first, body)) {
            Ok(packet) => panic!("{name}: accepted as {packet:?}"),
            Err(violation) => assert_eq!(violation.reason, *reason, "{name}: {violation:?}"),
        }
    }
}

/// Asserts that every row is accepted.
fn accepts(first: u8, rows: &[(&str, Version, &[u8])]) {
    for (name, version, body) in rows {
        if let Err(violation) = decode(*version, &packet(first, body)) {
            panic!("{name}: {violation:?}");
        }
    }
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

/// Encodes any packet. A PUBLISH is sent with the properties with which it was received.
fn encode_any(version: Version, packet: &Packet) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Connect(p) => encode_connect(&mut out, p).unwrap(),
        Packet::ConnAck(p) => encode_connack(&mut out, version, p).unwrap(),
        Packet::Publish(p) => {
            let ids: Vec<u32> = p.properties.subscription_ids.iter().collect();
            let mut forwarded = Vec::new();
            p.properties.write_forwardable(&mut forwarded);
            let publish = OutPublish {
                dup: p.dup,
                qos: p.qos,
                retain: p.retain,
                topic: p.topic,
                id: p.id,
                message_expiry: p.properties.message_expiry,
                topic_alias: p.properties.topic_alias,
                subscription_ids: &ids,
                forwarded: &forwarded,
                payload: p.payload,
            };
            encode_publish(&mut out, version, &publish).unwrap();
            assert_eq!(Ok(out.len()), publish_size(version, &publish));
            let mut head = Vec::new();
            encode_publish_head(&mut head, version, &publish).unwrap();
            assert_eq!([&head, p.payload].concat(), out);
        }
        Packet::PubAck(p) => encode_ack(&mut out, version, AckKind::PubAck, p).unwrap(),
        Packet::PubRec(p) => encode_ack(&mut out, version, AckKind::PubRec, p).unwrap(),
        Packet::PubRel(p) => encode_ack(&mut out, version, AckKind::PubRel, p).unwrap(),
        Packet::PubComp(p) => encode_ack(&mut out, version, AckKind::PubComp, p).unwrap(),
        Packet::Subscribe(p) => encode_subscribe(&mut out, version, p).unwrap(),
        Packet::SubAck(p) => encode_suback(&mut out, version, p).unwrap(),
        Packet::Unsubscribe(p) => encode_unsubscribe(&mut out, version, p).unwrap(),
        Packet::UnsubAck(p) => encode_unsuback(&mut out, version, p).unwrap(),
        Packet::PingReq => encode_pingreq(&mut out),
        Packet::PingResp => encode_pingresp(&mut out),
        Packet::Disconnect(p) => encode_disconnect(&mut out, version, p).unwrap(),
        Packet::Auth(p) => encode_auth(&mut out, p).unwrap(),
    }
    out
}

#[test]
fn reason_codes_are_those_of_section_2_4() {
    let listed = [0x00, 0x01, 0x02, 0x04, 0x10, 0x11, 0x18, 0x19].into_iter().chain(0x80..=0xA2);
    assert!(ReasonCode::ALL.iter().map(|code| *code as u8).eq(listed));
    for value in 0..=255 {
        let listed = ReasonCode::ALL.iter().copied().find(|code| *code as u8 == value);
        assert_eq!(ReasonCode::from_u8(value), listed);
    }
    assert_eq!(ReasonCode::KeepAliveTimeout.name(), "KeepAliveTimeout");
}

#[test]
fn version_3_has_five_ways_to_refuse_a_connection() {
    for code in ReasonCode::ALL {
        let v3 = code.connect_return_code_v3();
        assert_eq!(v3 == 0, !code.is_failure(), "{code:?}");
        assert!(v3 <= 5);
    }
    for v3 in 0..=5 {
        let code = ReasonCode::from_connect_return_code_v3(v3).unwrap();
        assert_eq!(code.connect_return_code_v3(), v3);
    }
    assert_eq!(ReasonCode::from_connect_return_code_v3(6), None);
}

#[test]
fn numbers_on_the_wire_are_bounded_by_their_types() {
    assert_eq!(PacketId::new(0), None);
    assert_eq!(id(65_535).get(), 65_535);
    assert_eq!(Qos::from_u8(2), Some(Qos::ExactlyOnce));
    assert_eq!(Qos::from_u8(3), None);
    assert!(Qos::AtMostOnce < Qos::AtLeastOnce && Qos::AtLeastOnce < Qos::ExactlyOnce);
    assert!(size_of::<Option<PacketId>>() == 2);
}

#[test]
fn a_packet_type_that_is_reserved_is_malformed() {
    for version in ALL {
        assert_eq!(decode(version, &[0, 0]).unwrap_err().reason, MALFORMED);
    }
    assert_eq!(decode(V311, &[0xF0, 0]).unwrap_err().reason, MALFORMED);
    assert_eq!(decode(V31, &[0xF0, 0]).unwrap_err().reason, MALFORMED);
    assert!(decode(V5, &[0xF0, 0]).is_ok());
}

#[test]
fn pings_are_a_header_and_nothing_else() {
    for version in ALL {
        assert_eq!(decode(version, &[0xC0, 0]), Ok(Packet::PingReq));
        assert_eq!(decode(version, &[0xD0, 0]), Ok(Packet::PingResp));
        assert_eq!(decode(version, &[0xC0, 1, 0]).unwrap_err().reason, MALFORMED);
        assert_eq!(decode(version, &[0xD0, 1, 0]).unwrap_err().reason, MALFORMED);
    }
}

#[test]
fn header_flags_are_fixed_for_every_type_but_publish() {
    let bodies: [(u8, &[u8]); 7] = [
        (4, &[0, 1]),
        (5, &[0, 1]),
        (6, &[0, 1]),
        (7, &[0, 1]),
        (11, &[0, 1]),
        (12, &[]),
        (14, &[]),
    ];
    for (kind, body) in bodies {
        for flags in 0..16 {
            let bytes = packet(kind << 4 | flags, body);
            let right = flags == if kind == 6 { 2 } else { 0 };
            assert_eq!(decode(V311, &bytes).is_ok(), right, "type {kind} flags {flags}");
            // 3.1 uses DUP there and calls the rest "not used".
            assert!(decode(V31, &bytes).is_ok(), "type {kind} flags {flags}");
            if kind != 11 {
                assert_eq!(decode(V5, &bytes).is_ok(), right, "type {kind} flags {flags}");
            }
        }
    }
}
