//! A packet that has no encoding is refused and leaves nothing in the buffer. A packet at the very
//! limit is written, and can be read again.

use super::*;
use crate::limits::{MAX_REMAINING_LENGTH, MAX_TOPIC_LENGTH};
use crate::packet::NotEncodable::{Identifier, PacketTooLong, TextTooLong};

const PUBLISH: OutPublish<'_> = OutPublish {
    dup: false,
    qos: Qos::AtMostOnce,
    retain: false,
    topic: "a",
    id: None,
    message_expiry: None,
    topic_alias: None,
    subscription_ids: &[],
    forwarded: &[],
    payload: &[],
};

/// Returns the encoder's result, after asserting that it appended a whole packet or nothing.
#[track_caller]
fn tried(encode: impl FnOnce(&mut Vec<u8>) -> Encoded) -> Encoded {
    let mut out = b"before".to_vec();
    let encoded = encode(&mut out);
    assert!(out.starts_with(b"before"));
    assert_eq!(out.len() > 6, encoded.is_ok(), "{} bytes, {encoded:?}", out.len() - 6);
    encoded
}

#[test]
fn a_publish_is_as_long_as_a_packet_can_be_and_no_longer() {
    // The payload is never read, so these pages are never touched.
    let bytes = vec![0; MAX_REMAINING_LENGTH as usize];
    let with = |length: usize| OutPublish { payload: &bytes[..length], ..PUBLISH };
    // Two bytes of length and one of topic. Version 5 also has the length of the properties.
    let most = MAX_REMAINING_LENGTH as usize - 3;
    for (version, length, expected) in [
        (V311, most, Ok(())),
        (V311, most + 1, Err(PacketTooLong)),
        (V5, most - 1, Ok(())),
        (V5, most, Err(PacketTooLong)),
    ] {
        let publish = with(length);
        assert_eq!(tried(|out| encode_publish_head(out, version, &publish)), expected);
        let size = publish_size(version, &publish);
        assert_eq!(size.map(|size| assert_eq!(size, MAX_PACKET_SIZE as usize)), expected);
    }
    let grown = OutPublish { subscription_ids: &[268_435_455], ..with(most - 5) };
    assert_eq!(tried(|out| encode_publish_head(out, V5, &grown)), Err(PacketTooLong));
    let grown = OutPublish { payload: &bytes[..most - 6], ..grown };
    assert_eq!(tried(|out| encode_publish_head(out, V5, &grown)), Ok(()));
    let mut head = Vec::new();
    encode_publish_head(&mut head, V5, &grown).unwrap();
    let total = MAX_PACKET_SIZE as usize;
    let framing = Framing::Incomplete { needed: total };
    assert_eq!(frame(&head, MAX_PACKET_SIZE), Ok(framing));
}

#[test]
fn a_publish_that_says_what_cannot_be_is_refused() {
    let topic = "t".repeat(MAX_TOPIC_LENGTH + 1);
    let one = PacketId::new(1);
    for version in ALL {
        for (publish, expected) in [
            (OutPublish { topic: &topic[1..], ..PUBLISH }, Ok(())),
            (OutPublish { topic: &topic, ..PUBLISH }, Err(TextTooLong)),
            (OutPublish { qos: Qos::AtLeastOnce, ..PUBLISH }, Err(Identifier)),
            (OutPublish { id: one, ..PUBLISH }, Err(Identifier)),
            (OutPublish { id: one, qos: Qos::ExactlyOnce, ..PUBLISH }, Ok(())),
        ] {
            assert_eq!(tried(|out| encode_publish(out, version, &publish)), expected);
            assert_eq!(tried(|out| encode_publish_head(out, version, &publish)), expected);
            assert_eq!(publish_size(version, &publish).map(|_| ()), expected);
        }
    }
    let ids = OutPublish { subscription_ids: &[1, 268_435_456], ..PUBLISH };
    assert_eq!(tried(|out| encode_publish(out, V5, &ids)), Err(Identifier));
    assert_eq!(tried(|out| encode_publish(out, V311, &ids)), Ok(()), "version 3 has none");
}

#[test]
fn a_string_of_any_packet_is_at_most_65_535_bytes_long() {
    let long = "x".repeat(MAX_TOPIC_LENGTH + 1);
    for (text, expected) in [(&long[1..], Ok(())), (&long[..], Err(TextTooLong))] {
        let connack = |set: fn(&mut ConnAckProperties<'_>, &'static str)| {
            let text: &'static str = text.to_owned().leak();
            let mut properties = ConnAckProperties::default();
            set(&mut properties, text);
            let connack =
                ConnAck { session_present: false, reason: ReasonCode::Success, properties };
            tried(|out| encode_connack(out, V5, &connack))
        };
        assert_eq!(connack(|p, text| p.response_information = Some(text)), expected);
        assert_eq!(connack(|p, text| p.assigned_client_id = Some(text)), expected);
        assert_eq!(connack(|p, text| p.reason_string = Some(text)), expected);
        assert_eq!(connack(|p, text| p.authentication_data = Some(text.as_bytes())), expected);
        let reason_string = Some(text);
        let id = PacketId::new(1).unwrap();
        let ack = Ack { reason_string, ..Ack::new(id, ReasonCode::Success) };
        assert_eq!(tried(|out| encode_ack(out, V5, AckKind::PubAck, &ack)), expected);
        assert_eq!(tried(|out| encode_ack(out, V311, AckKind::PubAck, &ack)), Ok(()));
        let user = UserProperties::default();
        let suback = SubAck { id, codes: &[0], reason_string, user };
        assert_eq!(tried(|out| encode_suback(out, V5, &suback)), expected);
        let unsuback = UnsubAck { id, codes: &[0], reason_string, user };
        assert_eq!(tried(|out| encode_unsuback(out, V5, &unsuback)), expected);
        let disconnect = Disconnect { reason_string, ..Disconnect::new(ReasonCode::ServerBusy) };
        assert_eq!(tried(|out| encode_disconnect(out, V5, &disconnect)), expected);
        let auth = Auth {
            reason: ReasonCode::ReAuthenticate,
            method: Some(text),
            data: None,
            reason_string: None,
            user,
        };
        assert_eq!(tried(|out| encode_auth(out, &auth)), expected);
        assert_eq!(tried(|out| append_user_property(out, "k", text)), expected);
        assert_eq!(tried(|out| append_user_property(out, text, "v")), expected);
        let filter = SubscribeFilter { filter: text, options: SubscribeOptions::default() };
        assert_eq!(tried(|out| filter.write(V5, out)), expected);
        assert_eq!(tried(|out| UnsubscribeFilters::write(text, out)), expected);
    }
}

#[test]
fn a_connect_with_a_field_too_long_is_refused() {
    let long = "x".repeat(MAX_TOPIC_LENGTH + 1);
    let fits = &long[1..];
    let will = |topic, payload| Will {
        topic,
        payload,
        qos: Qos::AtMostOnce,
        retain: false,
        delay: 0,
        properties: PublishProperties::default(),
    };
    for version in ALL {
        let plain = Connect {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id: fits,
            username: Some(fits),
            password: Some(fits.as_bytes()),
            will: Some(will(fits, fits.as_bytes())),
            bridge: false,
            properties: ConnectProperties::default(),
        };
        assert_eq!(tried(|out| encode_connect(out, &plain)), Ok(()));
        for connect in [
            Connect { client_id: &long, ..plain },
            Connect { username: Some(&long), ..plain },
            Connect { password: Some(long.as_bytes()), ..plain },
            Connect { will: Some(will(&long, b"")), ..plain },
            Connect { will: Some(will("w", long.as_bytes())), ..plain },
        ] {
            assert_eq!(tried(|out| encode_connect(out, &connect)), Err(TextTooLong));
        }
    }
}

#[test]
fn a_property_block_is_at_most_as_long_as_a_packet() {
    // 2,049 User Properties of 131,075 bytes: longer than any variable byte integer can say.
    let name = "n".repeat(MAX_TOPIC_LENGTH);
    let mut one = Vec::new();
    append_user_property(&mut one, &name, &name).unwrap();
    let raw = one.repeat(2049);
    let user = UserProperties::parse(&raw).unwrap();
    let disconnect = Disconnect { user, ..Disconnect::new(ReasonCode::ServerBusy) };
    assert_eq!(tried(|out| encode_disconnect(out, V5, &disconnect)), Err(PacketTooLong));
}
