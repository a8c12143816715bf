//! Tests of SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK with bytes written by hand.

use super::*;

fn subscribed<'a>(version: Version, bytes: &'a [u8]) -> Subscribe<'a> {
    match decode(version, bytes) {
        Ok(Packet::Subscribe(subscribe)) => subscribe,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_subscribe_lists_filters_with_a_qos() {
    for version in [V31, V311] {
        let bytes = packet(0x82, b"\0\x0A\0\x03a/#\x01\0\x01+\x02");
        let p = subscribed(version, &bytes);
        assert_eq!((p.id, p.subscription_id, p.filters.len()), (id(10), None, 2));
        let options = |qos| SubscribeOptions { qos, ..Default::default() };
        let expected = [
            SubscribeFilter { filter: "a/#", options: options(Qos::AtLeastOnce) },
            SubscribeFilter { filter: "+", options: options(Qos::ExactlyOnce) },
        ];
        assert_eq!(p.filters.iter().collect::<Vec<_>>(), expected);
        assert_eq!(encode_any(version, &Packet::Subscribe(p)), bytes);
    }
}

#[test]
fn what_version_3_1_does_not_use_of_an_option_says_nothing() {
    for byte in [0x01, 0x05, 0x81, 0xFD] {
        let bytes = packet(0x82, &[0, 1, 0, 1, b'a', byte]);
        let p = subscribed(V31, &bytes);
        let options = SubscribeOptions { qos: Qos::AtLeastOnce, ..Default::default() };
        let filters: Vec<_> = p.filters.iter().collect();
        assert_eq!(filters, [SubscribeFilter { filter: "a", options }]);
    }
    assert!(decode(V31, &packet(0x82, b"\0\x01\0\x01a\x03")).is_err(), "QoS 3");
}

#[test]
fn a_subscribe_of_version_5_has_options_and_an_identifier() {
    let bytes = packet(0x82, b"\0\x0A\x0A\x0B\x80\x01\x26\0\x01k\0\x01v\0\x01a\x2D\0\x01b\x10");
    let p = subscribed(V5, &bytes);
    assert_eq!(p.subscription_id, Some(128));
    assert_eq!(p.user.iter().collect::<Vec<_>>(), [("k", "v")]);
    let options: Vec<_> = p.filters.iter().map(|filter| filter.options).collect();
    let first = SubscribeOptions {
        qos: Qos::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let second =
        SubscribeOptions { retain_handling: RetainHandling::SendIfNew, ..Default::default() };
    assert_eq!(options, [first, second]);
    assert_eq!(encode_any(V5, &Packet::Subscribe(p)), bytes);
}

#[test]
fn the_syntax_of_filters_is_left_to_the_caller() {
    accepts(
        0x82,
        &[
            ("# in the middle", V311, b"\0\x01\0\x03#/a\0"),
            ("+ within a level", V5, b"\0\x01\0\0\x02a+\0"),
            ("a share without filter", V5, b"\0\x01\0\0\x08$share/g\0"),
            ("$share without slash may be No Local", V5, b"\0\x01\0\0\x07$shares\x04"),
        ],
    );
}

#[test]
fn a_subscribe_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0x82,
        &[
            ("nothing", V311, b"", MALFORMED),
            ("identifier 0", V311, b"\0\0\0\x01a\0", PROTOCOL),
            ("no filter", V311, b"\0\x01", PROTOCOL),
            ("no filter in 5.0", V5, b"\0\x01\0", PROTOCOL),
            ("an empty filter", V311, b"\0\x01\0\0\0", MALFORMED),
            ("a filter without options", V311, b"\0\x01\0\x01a", MALFORMED),
            ("a filter cut off", V311, b"\0\x01\0\x02a", MALFORMED),
            ("half a second filter", V311, b"\0\x01\0\x01a\0\0", MALFORMED),
            ("filter not UTF-8", V311, b"\0\x01\0\x01\xFF\0", MALFORMED),
            ("U+0000 in a filter", V311, b"\0\x01\0\x01\0\0", MALFORMED),
            ("QoS 3 in 3.1.1", V311, b"\0\x01\0\x01a\x03", MALFORMED),
            ("No Local in 3.1.1", V311, b"\0\x01\0\x01a\x04", MALFORMED),
            ("bit 7 in 3.1.1", V311, b"\0\x01\0\x01a\x80", MALFORMED),
            ("QoS 3 in 5.0", V5, b"\0\x01\0\0\x01a\x03", PROTOCOL),
            ("bit 6 in 5.0", V5, b"\0\x01\0\0\x01a\x40", MALFORMED),
            ("bit 7 in 5.0", V5, b"\0\x01\0\0\x01a\x80", MALFORMED),
            ("retain handling 3", V5, b"\0\x01\0\0\x01a\x30", PROTOCOL),
            ("No Local and shared", V5, b"\0\x01\0\0\x0A$share/g/a\x04", PROTOCOL),
            ("subscription identifier 0", V5, b"\0\x01\x02\x0B\0\0\x01a\0", PROTOCOL),
            ("identifier twice", V5, b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0", PROTOCOL),
            ("a foreign property", V5, b"\0\x01\x03\x1F\0\0\0\x01a\0", MALFORMED),
            ("no property length", V5, b"\0\x01", MALFORMED),
        ],
    );
    refuses(0x80, &[("flags 0 in 3.1.1", V311, b"\0\x01\0\x01a\0", MALFORMED)]);
    accepts(0x8A, &[("DUP in 3.1", V31, b"\0\x01\0\x01a\0")]);
}

#[test]
fn a_suback_has_a_code_per_filter() {
    for version in [V31, V311] {
        let bytes = packet(0x90, b"\0\x01\0\x01\x02\x80");
        let Ok(Packet::SubAck(ack)) = decode(version, &bytes) else { panic!() };
        assert_eq!((ack.id, ack.codes), (id(1), &[0, 1, 2, 0x80][..]));
        assert_eq!(encode_any(version, &Packet::SubAck(ack)), bytes);
    }
    let bytes = packet(0x90, b"\0\x01\x04\x1F\0\x01r\x02\x8F\xA2");
    let Ok(Packet::SubAck(ack)) = decode(V5, &bytes) else { panic!() };
    assert_eq!((ack.reason_string, ack.codes), (Some("r"), &[2, 0x8F, 0xA2][..]));
    assert_eq!(encode_any(V5, &Packet::SubAck(ack)), bytes);
}

#[test]
fn a_suback_of_version_3_knows_one_failure() {
    let user = UserProperties::default();
    let ack = SubAck { id: id(1), codes: &[1, 0x87, 0x8F], reason_string: Some("no"), user };
    let mut out = Vec::new();
    encode_suback(&mut out, V311, &ack).unwrap();
    assert_eq!(out, [0x90, 5, 0, 1, 1, 0x80, 0x80]);
}

#[test]
fn acknowledgements_of_subscriptions_take_the_codes_of_their_section() {
    let suback: &[u8] = &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
    let unsuback: &[u8] = &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    for (first, allowed) in [(0x90, suback), (0xB0, unsuback)] {
        for code in 0..=255 {
            let bytes = [first, 4, 0, 1, 0, code];
            let found = decode(V5, &bytes);
            assert_eq!(found.is_ok(), allowed.contains(&code), "{first:#x} {code:#x}");
        }
    }
    refuses(
        0x90,
        &[
            ("3.1.1 code 3", V311, b"\0\x01\x03", PROTOCOL),
            ("no code", V311, b"\0\x01", PROTOCOL),
            ("no code in 5.0", V5, b"\0\x01\0", PROTOCOL),
            ("identifier 0", V311, b"\0\0\0", PROTOCOL),
            ("a foreign property", V5, b"\0\x01\x02\x0B\x01\0", MALFORMED),
        ],
    );
    refuses(
        0xB0,
        &[
            ("a code in 3.1.1", V311, b"\0\x01\0", MALFORMED),
            ("no code in 5.0", V5, b"\0\x01\0", PROTOCOL),
            ("reason string twice", V5, b"\0\x01\x06\x1F\0\0\x1F\0\0\0", PROTOCOL),
        ],
    );
}

#[test]
fn an_unsubscribe_lists_filters() {
    for (version, body) in [
        (V31, &b"\0\x0A\0\x03a/#\0\x01+"[..]),
        (V311, b"\0\x0A\0\x03a/#\0\x01+"),
        (V5, b"\0\x0A\0\0\x03a/#\0\x01+"),
    ] {
        let bytes = packet(0xA2, body);
        let Ok(Packet::Unsubscribe(p)) = decode(version, &bytes) else { panic!() };
        assert_eq!((p.id, p.filters.len()), (id(10), 2));
        assert_eq!(p.filters.iter().collect::<Vec<_>>(), ["a/#", "+"]);
        assert_eq!(encode_any(version, &Packet::Unsubscribe(p)), bytes);
    }
}

#[test]
fn an_unsubscribe_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0xA2,
        &[
            ("identifier 0", V311, b"\0\0\0\x01a", PROTOCOL),
            ("no filter", V311, b"\0\x01", PROTOCOL),
            ("no filter in 5.0", V5, b"\0\x01\0", PROTOCOL),
            ("an empty filter", V311, b"\0\x01\0\0", MALFORMED),
            ("a filter cut off", V311, b"\0\x01\0\x02a", MALFORMED),
            ("filter not UTF-8", V5, b"\0\x01\0\0\x01\xFF", MALFORMED),
            ("reason string", V5, b"\0\x01\x03\x1F\0\0\0\x01a", MALFORMED),
            ("subscription identifier", V5, b"\0\x01\x02\x0B\x01\0\x01a", MALFORMED),
        ],
    );
}

#[test]
fn an_unsuback_of_version_3_is_an_identifier() {
    for version in [V31, V311] {
        let bytes = packet(0xB0, b"\0\x01");
        let Ok(Packet::UnsubAck(ack)) = decode(version, &bytes) else { panic!() };
        assert!(ack.codes.is_empty());
        assert_eq!(encode_any(version, &Packet::UnsubAck(ack)), bytes);
    }
    let bytes = packet(0xB0, b"\0\x01\0\0\x11");
    let Ok(Packet::UnsubAck(ack)) = decode(V5, &bytes) else { panic!() };
    assert_eq!(ack.codes, [0, 0x11]);
    assert_eq!(encode_any(V5, &Packet::UnsubAck(ack)), bytes);
}

#[test]
fn lists_can_be_written_entry_by_entry() {
    let mut raw = Vec::new();
    let options = SubscribeOptions { no_local: true, ..Default::default() };
    SubscribeFilter { filter: "a", options }.write(V5, &mut raw).unwrap();
    SubscribeFilter { filter: "b", options: Default::default() }.write(V5, &mut raw).unwrap();
    let filters = SubscribeFilters::parse(V5, &raw).unwrap();
    assert_eq!(filters.into_iter().map(|entry| entry.filter).collect::<Vec<_>>(), ["a", "b"]);
    let mut raw = Vec::new();
    UnsubscribeFilters::write("a", &mut raw).unwrap();
    UnsubscribeFilters::write("b", &mut raw).unwrap();
    let filters = UnsubscribeFilters::parse(&raw).unwrap();
    assert_eq!(filters.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert!(UnsubscribeFilters::parse(&[]).is_err());
}
