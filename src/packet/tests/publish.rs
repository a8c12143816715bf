//! Tests of PUBLISH with bytes written by hand.

use super::*;

fn publish(version: Version, first: u8, body: &[u8]) -> Vec<u8> {
    let bytes = packet(first, body);
    assert!(matches!(decode(version, &bytes), Ok(Packet::Publish(_))), "{body:?}");
    bytes
}

fn decoded(version: Version, bytes: &[u8]) -> Publish<'_> {
    match decode(version, bytes) {
        Ok(Packet::Publish(publish)) => publish,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_publish_of_qos_0_is_topic_and_payload() {
    for version in [V31, V311] {
        let bytes = publish(version, 0x31, b"\0\x03a/bhello");
        let p = decoded(version, &bytes);
        assert_eq!((p.topic, p.payload, p.id), ("a/b", &b"hello"[..], None));
        assert_eq!((p.dup, p.qos, p.retain), (false, Qos::AtMostOnce, true));
        assert_eq!(p.properties, PublishProperties::default());
    }
    let bytes = publish(V5, 0x30, b"\0\x03a/b\0hello");
    let p = decoded(V5, &bytes);
    assert_eq!((p.topic, p.payload, p.retain), ("a/b", &b"hello"[..], false));
}

#[test]
fn a_publish_above_qos_0_has_a_packet_identifier() {
    let bytes = publish(V311, 0x3A, b"\0\x01a\x12\x34");
    let p = decoded(V311, &bytes);
    assert_eq!((p.dup, p.qos, p.id), (true, Qos::AtLeastOnce, Some(id(0x1234))));
    assert!(p.payload.is_empty());
    let bytes = publish(V5, 0x34, b"\0\x01a\0\x01\0x");
    assert_eq!(decoded(V5, &bytes).qos, Qos::ExactlyOnce);
}

#[test]
fn every_property_of_a_publish_is_decoded() {
    let raw = b"\x01\x01\x02\0\0\0\x09\x03\0\x01t\x08\0\x01r\x09\0\x02\0\xFF\
                \x0B\x80\x01\x0B\x07\x23\0\x05\x26\0\x01k\0\x01v\x26\0\x01k\0\0";
    let mut body = b"\0\0".to_vec();
    body.push(raw.len() as u8);
    body.extend_from_slice(raw);
    body.extend_from_slice("é".as_bytes());
    let bytes = publish(V5, 0x30, &body);
    let p = decoded(V5, &bytes);
    assert_eq!(p.topic, "");
    assert_eq!(p.payload, "é".as_bytes());
    let q = p.properties;
    assert_eq!((q.payload_format, q.message_expiry, q.topic_alias), (Some(1), Some(9), Some(5)));
    assert_eq!((q.content_type, q.response_topic), (Some("t"), Some("r")));
    assert_eq!(q.correlation_data, Some(&b"\0\xFF"[..]));
    assert_eq!(q.user.iter().collect::<Vec<_>>(), [("k", "v"), ("k", "")]);
    assert_eq!(q.subscription_ids.iter().collect::<Vec<_>>(), [128, 7]);
    assert_eq!(q.raw, raw);
    assert!(!q.is_forwardable_raw());
    let mut forwarded = Vec::new();
    q.write_forwardable(&mut forwarded);
    assert_eq!(
        forwarded,
        b"\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x02\0\xFF\x26\0\x01k\0\x01v\x26\0\x01k\0\0"
    );
    let again = PublishProperties::parse(&forwarded).unwrap();
    assert!(again.is_forwardable_raw());
    assert_eq!(again.user, q.user);
}

#[test]
fn a_publish_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0x36,
        &[
            ("QoS 3 in 3.1", V31, b"\0\x01a\0\x01", MALFORMED),
            ("QoS 3 in 3.1.1", V311, b"\0\x01a\0\x01", MALFORMED),
            ("QoS 3 in 5.0", V5, b"\0\x01a\0\x01\0", MALFORMED),
        ],
    );
    refuses(
        0x38,
        &[
            ("DUP with QoS 0 in 3.1.1", V311, b"\0\x01a", MALFORMED),
            ("DUP with QoS 0 in 5.0", V5, b"\0\x01a\0", MALFORMED),
        ],
    );
    refuses(
        0x32,
        &[
            ("packet identifier 0", V311, b"\0\x01a\0\0", PROTOCOL),
            ("half a packet identifier", V311, b"\0\x01a\0", MALFORMED),
            ("packet identifier 0 in 5.0", V5, b"\0\x01a\0\0\0", PROTOCOL),
            ("no property length", V5, b"\0\x01a\0\x01", MALFORMED),
        ],
    );
    refuses(
        0x30,
        &[
            ("no topic length", V311, b"", MALFORMED),
            ("half a topic length", V311, b"\0", MALFORMED),
            ("topic longer than packet", V311, b"\0\x02a", MALFORMED),
            ("empty topic in 3.1", V31, b"\0\0x", MALFORMED),
            ("empty topic in 3.1.1", V311, b"\0\0x", MALFORMED),
            ("empty topic without alias", V5, b"\0\0\0", PROTOCOL),
            ("+ in topic", V311, b"\0\x03a/+", BAD_TOPIC),
            ("# in topic", V311, b"\0\x03a/#", BAD_TOPIC),
            ("# within a level", V5, b"\0\x03a#b\0", BAD_TOPIC),
            ("U+0000 in topic", V311, b"\0\x03a\0b", MALFORMED),
            ("U+0000 and + in topic", V311, b"\0\x03+\0b", MALFORMED),
            ("topic not UTF-8", V311, b"\0\x01\xFF", MALFORMED),
            ("surrogate in topic", V311, b"\0\x03\xED\xA0\x80", MALFORMED),
            ("overlong slash in topic", V311, b"\0\x02\xC0\xAF", MALFORMED),
        ],
    );
}

#[test]
fn a_topic_name_may_hold_every_other_character() {
    accepts(
        0x30,
        &[
            ("a slash", V311, b"\0\x01/"),
            ("a dollar", V311, b"\0\x04$SYS"),
            ("a space", V311, b"\0\x01 "),
            ("a byte order mark", V311, b"\0\x03\xEF\xBB\xBF"),
            ("a control character", V311, b"\0\x01\x01"),
            ("characters beside # and +", V311, b"\0\x04\"$*,"),
            ("an alias with a topic", V5, b"\0\x01a\x03\x23\0\x01"),
            ("an alias without a topic", V5, b"\0\0\x03\x23\0\x01"),
        ],
    );
}

#[test]
fn a_wildcard_or_nul_is_found_wherever_it_stands() {
    for length in 1..40 {
        for at in 0..length {
            for byte in 0..0x80 {
                let mut topic = vec![0x7F; length];
                topic[at] = byte;
                let body = [&(length as u16).to_be_bytes()[..], &topic].concat();
                let bytes = packet(0x30, &body);
                let reason = decode(V311, &bytes).map(|_| ()).map_err(|found| found.reason);
                let expected = match byte {
                    0 => Err(MALFORMED),
                    b'+' | b'#' => Err(BAD_TOPIC),
                    _ => Ok(()),
                };
                assert_eq!(reason, expected, "{byte:#x} at {at} of {length}");
            }
        }
    }
}

#[test]
fn a_property_of_a_publish_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0x30,
        &[
            ("topic alias 0", V5, b"\0\x01a\x03\x23\0\0", BAD_ALIAS),
            ("topic alias twice", V5, b"\0\x01a\x06\x23\0\x01\x23\0\x01", PROTOCOL),
            ("payload format 2", V5, b"\0\x01a\x02\x01\x02", PROTOCOL),
            ("payload format twice", V5, b"\0\x01a\x04\x01\0\x01\0", PROTOCOL),
            ("message expiry twice", V5, b"\0\x01a\x0A\x02\0\0\0\x01\x02\0\0\0\x01", PROTOCOL),
            ("content type twice", V5, b"\0\x01a\x06\x03\0\0\x03\0\0", PROTOCOL),
            ("correlation data twice", V5, b"\0\x01a\x06\x09\0\0\x09\0\0", PROTOCOL),
            ("response topic twice", V5, b"\0\x01a\x08\x08\0\x01b\x08\0\x01b", PROTOCOL),
            ("wildcard in response topic", V5, b"\0\x01a\x04\x08\0\x01#", BAD_TOPIC),
            ("empty response topic", V5, b"\0\x01a\x03\x08\0\0", MALFORMED),
            ("subscription identifier 0", V5, b"\0\x01a\x02\x0B\0", PROTOCOL),
            ("padded subscription identifier", V5, b"\0\x01a\x03\x0B\x81\0", MALFORMED),
            (
                "subscription identifier of five bytes",
                V5,
                b"\0\x01a\x06\x0B\x80\x80\x80\x80\x01",
                MALFORMED,
            ),
            ("a property of CONNECT", V5, b"\0\x01a\x05\x11\0\0\0\x01", MALFORMED),
            ("will delay", V5, b"\0\x01a\x05\x18\0\0\0\x01", MALFORMED),
            ("an unknown property", V5, b"\0\x01a\x02\x7E\0", MALFORMED),
            ("a property identifier of two bytes", V5, b"\0\x01a\x03\x81\0\0", MALFORMED),
            ("properties longer than the packet", V5, b"\0\x01a\x05\x01\0", MALFORMED),
            ("a property cut off by its block", V5, b"\0\x01a\x01\x01\x01", MALFORMED),
            ("padded property length", V5, b"\0\x01a\x80\0", MALFORMED),
            ("a property length without end", V5, b"\0\x01a\xFF\xFF\xFF\xFF\x01", MALFORMED),
            ("U+0000 in a user property", V5, b"\0\x01a\x06\x26\0\x01\0\0\0", MALFORMED),
            ("content type not UTF-8", V5, b"\0\x01a\x04\x03\0\x01\xFF", MALFORMED),
        ],
    );
    accepts(
        0x30,
        &[
            ("unspecified bytes may be anything", V5, b"\0\x01a\x02\x01\0\xFF"),
            ("UTF-8 may hold U+0000 in a payload", V5, b"\0\x01a\x02\x01\x01\0"),
            ("correlation data may be empty", V5, b"\0\x01a\x03\x09\0\0"),
        ],
    );
}

const PLAIN: OutPublish = OutPublish {
    dup: false,
    qos: Qos::AtMostOnce,
    retain: false,
    topic: "a/b",
    id: None,
    message_expiry: None,
    topic_alias: None,
    subscription_ids: &[],
    forwarded: &[],
    payload: b"hi",
};

#[test]
fn a_publish_is_appended_and_version_3_leaves_properties_out() {
    let full = OutPublish {
        dup: true,
        retain: true,
        qos: Qos::ExactlyOnce,
        id: Some(id(0x0102)),
        message_expiry: Some(9),
        topic_alias: Some(3),
        subscription_ids: &[1, 200],
        forwarded: b"\x01\x01",
        ..PLAIN
    };
    let rows: &[(Version, OutPublish, &[u8])] = &[
        (V31, PLAIN, b"\x30\x07\0\x03a/bhi"),
        (V311, PLAIN, b"\x30\x07\0\x03a/bhi"),
        (V5, PLAIN, b"\x30\x08\0\x03a/b\0hi"),
        (V311, full, b"\x3D\x09\0\x03a/b\x01\x02hi"),
        (
            V5,
            full,
            b"\x3D\x19\0\x03a/b\x01\x02\x0F\x02\0\0\0\x09\x23\0\x03\x0B\x01\x0B\xC8\x01\x01\x01hi",
        ),
    ];
    for (version, publish, expected) in rows {
        let mut out = b"before".to_vec();
        encode_publish(&mut out, *version, publish).unwrap();
        assert_eq!(out, [b"before", *expected].concat(), "{version:?} {publish:?}");
        assert_eq!(publish_size(*version, publish), Ok(expected.len()));
        let mut head = b"before".to_vec();
        encode_publish_head(&mut head, *version, publish).unwrap();
        assert_eq!([head, b"hi".to_vec()].concat(), out);
    }
}

#[test]
fn one_reservation_is_exactly_enough() {
    for size in [0, 1, 100, 130, 20_000] {
        let payload = vec![1; size];
        let publish = OutPublish { payload: &payload, subscription_ids: &[5], ..PLAIN };
        for version in ALL {
            let mut out = Vec::new();
            out.reserve_exact(publish_size(version, &publish).unwrap());
            let room = out.capacity();
            encode_publish(&mut out, version, &publish).unwrap();
            assert_eq!((out.capacity(), out.len()), (room, room));
        }
    }
}

#[test]
fn a_payload_that_is_not_what_its_format_says_is_for_the_caller_to_answer() {
    for (format, payload, right) in [(0, &b"\xFF"[..], true), (1, b"\xFF", false), (1, b"x", true)]
    {
        let mut packet = vec![0x30, 6 + payload.len() as u8, 0, 1, b'a', 2, 1, format];
        packet.extend_from_slice(payload);
        let Ok(Packet::Publish(publish)) = decode(V5, &packet) else { panic!("{packet:?}") };
        assert_eq!(publish.has_promised_format(), right, "{packet:?}");
    }
}
