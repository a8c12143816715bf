//! Tests of CONNECT and CONNACK with bytes written by hand.

use super::*;

fn connect(bytes: &[u8]) -> Connect<'_> {
    decode_connect(bytes).unwrap_or_else(|violation| panic!("{violation:?}"))
}

/// Asserts that every row is refused with its reason, and with the version in which to answer.
fn refuses_connect(rows: &[(&str, &[u8], ReasonCode, Option<Version>)]) {
    for (name, body, reason, version) in rows {
        let bytes = packet(0x10, body);
        match decode_connect(&bytes) {
            Ok(packet) => panic!("{name}: accepted as {packet:?}"),
            Err(refused) => {
                assert_eq!(refused.violation.reason, *reason, "{name}: {refused:?}");
                assert_eq!(refused.version, *version, "{name}: {refused:?}");
                assert_eq!(decode(V5, &bytes), Err(refused.violation));
            }
        }
    }
}

#[test]
fn the_smallest_connect_of_each_version_is_accepted() {
    let rows: [(&[u8], Version, bool); 5] = [
        (b"\0\x06MQIsdp\x03\x02\0\x3C\0\x01c", V31, false),
        (b"\0\x06MQIsdp\x83\x02\0\x3C\0\x01c", V31, true),
        (b"\0\x04MQTT\x04\x02\0\x3C\0\x01c", V311, false),
        (b"\0\x04MQTT\x84\x02\0\x3C\0\x01c", V311, true),
        (b"\0\x04MQTT\x05\x02\0\x3C\0\0\x01c", V5, false),
    ];
    for (body, version, bridge) in rows {
        let bytes = packet(0x10, body);
        let expected = Connect {
            version,
            clean_start: true,
            keep_alive: 60,
            client_id: "c",
            username: None,
            password: None,
            will: None,
            bridge,
            properties: ConnectProperties::default(),
        };
        assert_eq!(connect(&bytes), expected);
        assert_eq!(decode(version, &bytes), Ok(Packet::Connect(expected)));
        assert_eq!(encode_any(version, &Packet::Connect(expected)), bytes);
    }
}

#[test]
fn a_connect_with_everything_is_decoded_field_by_field() {
    let properties = b"\x11\0\0\0\x0A\x21\0\x14\x27\0\0\x10\0\x22\0\x05\x19\x01\x17\0\
        \x15\0\x01m\x16\0\x01d\x26\0\x01k\0\x01v";
    let will = b"\x18\0\0\0\x1E\x01\x01\x02\0\0\0\x3C\x03\0\x01t\x08\0\x01r\x09\0\x01c\
        \x26\0\x01w\0\x01x";
    let mut body = b"\0\x04MQTT\x05\xF6\0\x0A".to_vec();
    body.push(properties.len() as u8);
    body.extend_from_slice(properties);
    body.extend_from_slice(b"\0\x02id");
    body.push(will.len() as u8);
    body.extend_from_slice(will);
    body.extend_from_slice(b"\0\x03w/t\0\x03bye\0\x04user\0\x02\0\xFF");
    let bytes = packet(0x10, &body);
    let c = connect(&bytes);
    assert_eq!((c.version, c.clean_start, c.keep_alive, c.bridge), (V5, true, 10, false));
    assert_eq!((c.client_id, c.username), ("id", Some("user")));
    assert_eq!(c.password, Some(&b"\0\xFF"[..]));
    let p = c.properties;
    assert_eq!((p.session_expiry, p.receive_maximum), (Some(10), Some(20)));
    assert_eq!((p.maximum_packet_size, p.topic_alias_maximum), (Some(4096), Some(5)));
    assert_eq!((p.request_response_information, p.request_problem_information), (true, false));
    assert_eq!((p.authentication_method, p.authentication_data), (Some("m"), Some(&b"d"[..])));
    assert_eq!(p.user.iter().collect::<Vec<_>>(), [("k", "v")]);
    let w = c.will.unwrap();
    assert_eq!((w.topic, w.payload, w.delay), ("w/t", &b"bye"[..], 30));
    assert_eq!((w.qos, w.retain), (Qos::ExactlyOnce, true));
    let q = w.properties;
    assert_eq!((q.payload_format, q.message_expiry), (Some(1), Some(60)));
    assert_eq!((q.content_type, q.response_topic), (Some("t"), Some("r")));
    assert_eq!(q.correlation_data, Some(&b"c"[..]));
    assert_eq!(q.user.iter().collect::<Vec<_>>(), [("w", "x")]);
    assert_eq!(q.raw, will);
    assert_eq!(encode_any(V5, &Packet::Connect(c)), bytes);
}

#[test]
fn a_level_nobody_speaks_says_in_which_form_to_refuse() {
    use ReasonCode::UnsupportedProtocolVersion as UNSUPPORTED;
    refuses_connect(&[
        ("MQTT level 6", b"\0\x04MQTT\x06\x02\0\0\0\0\0", UNSUPPORTED, Some(V5)),
        ("MQTT level 6, nothing more", b"\0\x04MQTT\x06", UNSUPPORTED, Some(V5)),
        ("MQTT level 255", b"\0\x04MQTT\xFF\x02\0\0\0\0\0", UNSUPPORTED, Some(V5)),
        ("a bridge of version 5", b"\0\x04MQTT\x85\x02\0\0\0\0\0", UNSUPPORTED, Some(V5)),
        ("MQTT level 3", b"\0\x04MQTT\x03\x02\0\0\0\0", UNSUPPORTED, Some(V311)),
        ("MQTT level 0", b"\0\x04MQTT\0\x02\0\0\0\0", UNSUPPORTED, Some(V311)),
        ("MQIsdp level 4", b"\0\x06MQIsdp\x04\x02\0\0\0\0", UNSUPPORTED, Some(V31)),
        ("another protocol", b"\0\x04AMQP\x04\x02\0\0\0\0", UNSUPPORTED, None),
        ("lower case", b"\0\x04mqtt\x04\x02\0\0\0\0", UNSUPPORTED, None),
        ("an empty name", b"\0\0\x04\x02\0\0\0\0", UNSUPPORTED, None),
        ("a name cut off", b"\0\x04MQT", MALFORMED, None),
        ("no level", b"\0\x04MQTT", MALFORMED, None),
        ("nothing", b"", MALFORMED, None),
    ]);
}

#[test]
fn the_first_packet_must_be_a_connect_with_clean_flags() {
    let ping = decode_connect(&[0xC0, 0]).unwrap_err();
    assert_eq!((ping.violation.reason, ping.version), (PROTOCOL, None));
    let flags = packet(0x11, b"\0\x04MQTT\x04\x02\0\0\0\0");
    let refused = decode_connect(&flags).unwrap_err();
    assert_eq!((refused.violation.reason, refused.version), (MALFORMED, Some(V311)));
    let dup = packet(0x18, b"\0\x06MQIsdp\x03\x02\0\0\0\x01c");
    assert!(decode_connect(&dup).is_ok());
    let padded = b"\x10\x8D\x00\0\x04MQTT\x05\x02\0\0\0\0\0";
    let refused = decode_connect(padded).unwrap_err();
    assert_eq!((refused.violation.reason, refused.version), (MALFORMED, Some(V5)));
    let padded = b"\x10\x8C\x00\0\x04MQTT\x04\x02\0\0\0\0";
    assert!(decode_connect(padded).is_ok());
}

#[test]
fn connect_flags_that_contradict_each_other_are_malformed() {
    refuses_connect(&[
        ("reserved bit in 3.1.1", b"\0\x04MQTT\x04\x03\0\0\0\x01c", MALFORMED, Some(V311)),
        ("reserved bit in 5.0", b"\0\x04MQTT\x05\x03\0\0\0\0\x01c", MALFORMED, Some(V5)),
        ("will QoS without will", b"\0\x04MQTT\x04\x0A\0\0\0\x01c", MALFORMED, Some(V311)),
        ("will retain without will", b"\0\x04MQTT\x05\x22\0\0\0\0\x01c", MALFORMED, Some(V5)),
        ("will QoS 3", b"\0\x04MQTT\x04\x1E\0\0\0\x01c\0\x01t\0\0", MALFORMED, Some(V311)),
        ("will QoS 3 in 3.1", b"\0\x06MQIsdp\x03\x1E\0\0\0\x01c\0\x01t\0\0", MALFORMED, Some(V31)),
        ("password alone in 3.1.1", b"\0\x04MQTT\x04\x42\0\0\0\x01c\0\x01p", MALFORMED, Some(V311)),
    ]);
    accepts(
        0x10,
        &[
            ("password alone in 5.0", V5, b"\0\x04MQTT\x05\x42\0\0\0\0\x01c\0\x01p"),
            ("unused bits in 3.1", V31, b"\0\x06MQIsdp\x03\x2B\0\0\0\x01c"),
        ],
    );
}

#[test]
fn a_3_1_client_may_set_the_user_name_flag_and_send_none() {
    let bytes = packet(0x10, b"\0\x06MQIsdp\x03\xC2\0\0\0\x01c");
    let c = connect(&bytes);
    assert_eq!((c.username, c.password), (None, None));
    let bytes = packet(0x10, b"\0\x06MQIsdp\x03\xC2\0\0\0\x01c\0\x01u");
    let c = connect(&bytes);
    assert_eq!((c.username, c.password), (Some("u"), None));
    refuses_connect(&[(
        "the same in 3.1.1",
        b"\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u",
        MALFORMED,
        Some(V311),
    )]);
}

#[test]
fn a_payload_of_a_connect_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses_connect(&[
        ("no client id", b"\0\x04MQTT\x04\x02\0\0", MALFORMED, Some(V311)),
        ("no keep alive", b"\0\x04MQTT\x04\x02\0", MALFORMED, Some(V311)),
        ("client id not UTF-8", b"\0\x04MQTT\x04\x02\0\0\0\x01\xFF", MALFORMED, Some(V311)),
        ("U+0000 in client id", b"\0\x04MQTT\x04\x02\0\0\0\x01\0", MALFORMED, Some(V311)),
        ("bytes at the end", b"\0\x04MQTT\x04\x02\0\0\0\x01cx", MALFORMED, Some(V311)),
        ("user name missing", b"\0\x04MQTT\x04\x82\0\0\0\x01c", MALFORMED, Some(V311)),
        ("user name not UTF-8", b"\0\x04MQTT\x04\x82\0\0\0\0\0\x01\xFF", MALFORMED, Some(V311)),
        ("will missing", b"\0\x04MQTT\x04\x06\0\0\0\x01c", MALFORMED, Some(V311)),
        ("will payload missing", b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\x01t", MALFORMED, Some(V311)),
        ("empty will topic", b"\0\x04MQTT\x04\x06\0\0\0\x01c\0\0\0\0", MALFORMED, Some(V311)),
        ("wildcard in will topic", b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01+\0\0", BAD_TOPIC, Some(V311)),
        (
            "will payload not UTF-8",
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01c\x02\x01\x01\0\x01t\0\x01\xFF",
            BAD_PAYLOAD,
            Some(V5),
        ),
        (
            "topic alias in a will",
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01c\x03\x23\0\x01\0\x01t\0\0",
            MALFORMED,
            Some(V5),
        ),
        (
            "subscription identifier in a will",
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01c\x02\x0B\x01\0\x01t\0\0",
            MALFORMED,
            Some(V5),
        ),
        (
            "will delay twice",
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01c\x0A\x18\0\0\0\0\x18\0\0\0\0\0\x01t\0\0",
            PROTOCOL,
            Some(V5),
        ),
    ]);
}

#[test]
fn a_property_of_a_connect_that_breaks_a_rule_is_refused_with_its_reason() {
    let rows: &[(&str, &[u8], ReasonCode)] = &[
        ("session expiry twice", b"\x11\0\0\0\0\x11\0\0\0\0", PROTOCOL),
        ("receive maximum 0", b"\x21\0\0", PROTOCOL),
        ("receive maximum twice", b"\x21\0\x01\x21\0\x01", PROTOCOL),
        ("maximum packet size 0", b"\x27\0\0\0\0", PROTOCOL),
        ("maximum packet size twice", b"\x27\0\0\0\x01\x27\0\0\0\x01", PROTOCOL),
        ("topic alias maximum twice", b"\x22\0\0\x22\0\0", PROTOCOL),
        ("request response information 2", b"\x19\x02", PROTOCOL),
        ("request response information twice", b"\x19\0\x19\0", PROTOCOL),
        ("request problem information 2", b"\x17\x02", PROTOCOL),
        ("request problem information twice", b"\x17\x01\x17\x01", PROTOCOL),
        ("method twice", b"\x15\0\x01m\x15\0\x01m", PROTOCOL),
        ("data without method", b"\x16\0\x01d", PROTOCOL),
        ("data twice", b"\x15\0\x01m\x16\0\x01d\x16\0\x01d", PROTOCOL),
        ("a property of the will", b"\x18\0\0\0\x01", MALFORMED),
        ("a property of CONNACK", b"\x25\x01", MALFORMED),
        ("an unknown property", b"\0\0", MALFORMED),
        ("a value cut off", b"\x11\0\0\0", MALFORMED),
    ];
    for (name, properties, reason) in rows {
        let mut body = b"\0\x04MQTT\x05\x02\0\0".to_vec();
        body.push(properties.len() as u8);
        body.extend_from_slice(properties);
        body.extend_from_slice(b"\0\x01c");
        refuses_connect(&[(name, &body, *reason, Some(V5))]);
    }
}

fn connack<'a>(version: Version, bytes: &'a [u8]) -> ConnAck<'a> {
    match decode(version, bytes) {
        Ok(Packet::ConnAck(connack)) => connack,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connack_says_whether_the_session_was_there() {
    let properties = ConnAckProperties::default();
    let yes = ConnAck { session_present: true, reason: ReasonCode::Success, properties };
    assert_eq!(encode_any(V311, &Packet::ConnAck(yes)), [0x20, 2, 1, 0]);
    assert_eq!(encode_any(V5, &Packet::ConnAck(yes)), [0x20, 3, 1, 0, 0]);
    assert_eq!(encode_any(V31, &Packet::ConnAck(yes)), [0x20, 2, 0, 0]);
    assert_eq!(connack(V311, &[0x20, 2, 1, 0]), yes);
    assert_eq!(connack(V5, &[0x20, 3, 1, 0, 0]), yes);
    assert!(!connack(V31, &[0x20, 2, 1, 0]).session_present);
}

#[test]
fn a_refusal_is_translated_for_version_3() {
    let properties = ConnAckProperties::default();
    for (reason, code) in [
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdentifierNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
    ] {
        let refusal = ConnAck { session_present: false, reason, properties };
        let bytes = encode_any(V311, &Packet::ConnAck(refusal));
        assert_eq!(bytes, [0x20, 2, 0, code]);
        assert_eq!(connack(V311, &bytes), refusal);
        let bytes = encode_any(V5, &Packet::ConnAck(refusal));
        assert_eq!(connack(V5, &bytes), refusal);
    }
}

#[test]
fn every_property_of_a_connack_is_decoded() {
    let raw = b"\x11\0\0\0\x01\x21\0\x02\x24\x01\x25\0\x27\0\0\0\x03\x12\0\x01i\x22\0\x04\
        \x1F\0\x01r\x28\x01\x29\0\x2A\x01\x13\0\x05\x1A\0\x01n\x1C\0\x01s\x15\0\x01m\x16\0\x01d\
        \x26\0\x01k\0\x01v";
    let mut body = vec![0, 0, raw.len() as u8];
    body.extend_from_slice(raw);
    let bytes = packet(0x20, &body);
    let ack = connack(V5, &bytes);
    let expected = ConnAckProperties {
        session_expiry: Some(1),
        receive_maximum: Some(2),
        maximum_qos: Some(Qos::AtLeastOnce),
        retain_available: Some(false),
        maximum_packet_size: Some(3),
        assigned_client_id: Some("i"),
        topic_alias_maximum: Some(4),
        reason_string: Some("r"),
        wildcard_subscription_available: Some(true),
        subscription_identifiers_available: Some(false),
        shared_subscription_available: Some(true),
        server_keep_alive: Some(5),
        response_information: Some("n"),
        server_reference: Some("s"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
        user: UserProperties::parse(b"\x26\0\x01k\0\x01v").unwrap(),
    };
    assert_eq!(ack.properties, expected);
    assert_eq!(encode_any(V5, &Packet::ConnAck(ack)), bytes);
}

#[test]
fn a_maximum_qos_of_2_is_said_by_silence() {
    let properties =
        ConnAckProperties { maximum_qos: Some(Qos::ExactlyOnce), ..Default::default() };
    let ack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    assert_eq!(encode_any(V5, &Packet::ConnAck(ack)), [0x20, 3, 0, 0, 0]);
}

#[test]
fn a_connack_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0x20,
        &[
            ("nothing", V311, b"", MALFORMED),
            ("no code", V311, b"\0", MALFORMED),
            ("reserved flag", V311, b"\x02\0", MALFORMED),
            ("code 6 in 3.1.1", V311, b"\0\x06", PROTOCOL),
            ("session present and refused", V311, b"\x01\x05", PROTOCOL),
            ("session present and refused in 5.0", V5, b"\x01\x87\0", PROTOCOL),
            ("bytes at the end", V311, b"\0\0\0", MALFORMED),
            ("no property length", V5, b"\0\0", MALFORMED),
            ("bytes after the properties", V5, b"\0\0\0\0", MALFORMED),
            ("a code of another packet", V5, b"\0\x8E\0", PROTOCOL),
            ("a code that does not exist", V5, b"\0\x05\0", PROTOCOL),
            ("maximum QoS 2", V5, b"\0\0\x02\x24\x02", PROTOCOL),
            ("receive maximum 0", V5, b"\0\0\x03\x21\0\0", PROTOCOL),
            ("maximum packet size 0", V5, b"\0\0\x05\x27\0\0\0\0", PROTOCOL),
            ("retain available twice", V5, b"\0\0\x04\x25\0\x25\0", PROTOCOL),
            ("a property of CONNECT", V5, b"\0\0\x02\x17\0", MALFORMED),
        ],
    );
}

#[test]
fn a_connack_takes_the_codes_of_its_section() {
    let allowed = [0x00, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F]
        .into_iter()
        .chain(0x80..=0x8A)
        .collect::<Vec<u8>>();
    for code in 0..=255 {
        let bytes = [0x20, 3, 0, code, 0];
        let found = decode(V5, &bytes);
        assert_eq!(found.is_ok(), allowed.contains(&code), "{code:#x}");
    }
}
