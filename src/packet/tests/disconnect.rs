//! Tests of DISCONNECT and AUTH with bytes written by hand.

use super::*;

fn encoded(version: Version, disconnect: &Disconnect) -> Vec<u8> {
    let mut out = Vec::new();
    encode_disconnect(&mut out, version, disconnect).unwrap();
    out
}

#[test]
fn a_bare_disconnect_is_a_normal_one() {
    let normal = Disconnect::new(ReasonCode::Success);
    for version in ALL {
        assert_eq!(decode(version, &[0xE0, 0]), Ok(Packet::Disconnect(normal)));
        assert_eq!(encoded(version, &normal), [0xE0, 0]);
    }
    assert_eq!(decode(V5, &[0xE0, 1, 0]), Ok(Packet::Disconnect(normal)));
    assert_eq!(decode(V5, &[0xE0, 2, 0, 0]), Ok(Packet::Disconnect(normal)));
}

#[test]
fn a_disconnect_has_a_reason_and_properties_in_version_5() {
    let taken = Disconnect::new(ReasonCode::SessionTakenOver);
    assert_eq!(encoded(V5, &taken), [0xE0, 1, 0x8E]);
    assert_eq!(encoded(V311, &taken), [0xE0, 0]);
    let bytes = packet(0xE0, b"\x04\x15\x11\0\0\0\x05\x1F\0\x01r\x1C\0\x01s\x26\0\x01k\0\x02vv");
    let Ok(Packet::Disconnect(p)) = decode(V5, &bytes) else { panic!("{:?}", decode(V5, &bytes)) };
    assert_eq!(p.reason, ReasonCode::DisconnectWithWill);
    assert_eq!((p.session_expiry, p.reason_string), (Some(5), Some("r")));
    assert_eq!(p.server_reference, Some("s"));
    assert_eq!(p.user.iter().collect::<Vec<_>>(), [("k", "vv")]);
    assert_eq!(encoded(V5, &p), bytes);
}

#[test]
fn a_disconnect_takes_the_codes_of_its_section() {
    let allowed =
        [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90]
            .into_iter()
            .chain(0x93..=0xA2)
            .collect::<Vec<u8>>();
    for code in 0..=255 {
        let bytes = [0xE0, 1, code];
        let found = decode(V5, &bytes);
        assert_eq!(found.is_ok(), allowed.contains(&code), "{code:#x}");
        if let Err(violation) = found {
            assert_eq!(violation.reason, PROTOCOL);
        }
    }
}

#[test]
fn a_disconnect_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0xE0,
        &[
            ("a reason in 3.1", V31, b"\0", MALFORMED),
            ("a reason in 3.1.1", V311, b"\0", MALFORMED),
            ("session expiry twice", V5, b"\0\x0A\x11\0\0\0\0\x11\0\0\0\0", PROTOCOL),
            ("reason string twice", V5, b"\0\x06\x1F\0\0\x1F\0\0", PROTOCOL),
            ("server reference twice", V5, b"\0\x06\x1C\0\0\x1C\0\0", PROTOCOL),
            ("a foreign property", V5, b"\0\x03\x21\0\x01", MALFORMED),
            ("properties cut off", V5, b"\0\x05\x11\0\0\0", MALFORMED),
            ("bytes after the properties", V5, b"\0\0\0", MALFORMED),
        ],
    );
}

#[test]
fn an_auth_carries_a_method_and_data() {
    let bytes = packet(0xF0, b"\x18\x0E\x15\0\x01m\x16\0\x02\0\xFF\x1F\0\x02ok");
    let Ok(Packet::Auth(auth)) = decode(V5, &bytes) else { panic!("{:?}", decode(V5, &bytes)) };
    assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
    assert_eq!((auth.method, auth.data), (Some("m"), Some(&b"\0\xFF"[..])));
    assert_eq!(auth.reason_string, Some("ok"));
    let mut out = Vec::new();
    encode_auth(&mut out, &auth).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn an_empty_auth_is_success() {
    let Ok(Packet::Auth(auth)) = decode(V5, &[0xF0, 0]) else { panic!() };
    assert_eq!((auth.reason, auth.method), (ReasonCode::Success, None));
    let mut out = Vec::new();
    encode_auth(&mut out, &auth).unwrap();
    assert_eq!(out, [0xF0, 0]);
}

#[test]
fn an_auth_that_breaks_a_rule_is_refused_with_its_reason() {
    refuses(
        0xF0,
        &[
            ("a reason of another packet", V5, b"\x80\x04\x15\0\x01m", PROTOCOL),
            ("a reason that does not exist", V5, b"\x17\x04\x15\0\x01m", PROTOCOL),
            ("no property length", V5, b"\x18", MALFORMED),
            ("no method", V5, b"\x18\0", PROTOCOL),
            ("data without method", V5, b"\x18\x04\x16\0\x01x", PROTOCOL),
            ("method twice", V5, b"\x18\x08\x15\0\x01m\x15\0\x01m", PROTOCOL),
            ("data twice", V5, b"\x18\x0A\x15\0\x01m\x16\0\0\x16\0\0", PROTOCOL),
            ("a foreign property", V5, b"\x18\x06\x15\0\x01m\x01\0", MALFORMED),
            ("bytes after the properties", V5, b"\x18\x04\x15\0\x01m\0", MALFORMED),
            ("AUTH in 3.1.1", V311, b"", MALFORMED),
        ],
    );
}
