//! Tests of PUBACK, PUBREC, PUBREL and PUBCOMP with bytes written by hand.

use super::*;

const KINDS: [(AckKind, u8); 4] = [
    (AckKind::PubAck, 0x40),
    (AckKind::PubRec, 0x50),
    (AckKind::PubRel, 0x62),
    (AckKind::PubComp, 0x70),
];

fn decoded<'a>(version: Version, bytes: &'a [u8]) -> (AckKind, Ack<'a>) {
    match decode(version, bytes) {
        Ok(Packet::PubAck(ack)) => (AckKind::PubAck, ack),
        Ok(Packet::PubRec(ack)) => (AckKind::PubRec, ack),
        Ok(Packet::PubRel(ack)) => (AckKind::PubRel, ack),
        Ok(Packet::PubComp(ack)) => (AckKind::PubComp, ack),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_bytes_mean_success() {
    for version in ALL {
        for (kind, first) in KINDS {
            let bytes = [first, 2, 0x12, 0x34];
            let ack = Ack::new(id(0x1234), ReasonCode::Success);
            assert_eq!(decoded(version, &bytes), (kind, ack));
            let mut out = Vec::new();
            encode_ack(&mut out, version, kind, &ack).unwrap();
            assert_eq!(out, bytes);
        }
    }
}

#[test]
fn three_bytes_have_a_reason_and_no_properties() {
    for (kind, first) in KINDS {
        let reason = match kind {
            AckKind::PubAck | AckKind::PubRec => ReasonCode::QuotaExceeded,
            AckKind::PubRel | AckKind::PubComp => ReasonCode::PacketIdentifierNotFound,
        };
        let bytes = [first, 3, 0, 7, reason as u8];
        let ack = Ack::new(id(7), reason);
        assert_eq!(decoded(V5, &bytes), (kind, ack));
        let mut out = Vec::new();
        encode_ack(&mut out, V5, kind, &ack).unwrap();
        assert_eq!(out, bytes);
        // Version 3 has no reason codes.
        out.clear();
        encode_ack(&mut out, V311, kind, &ack).unwrap();
        assert_eq!(out, [first, 2, 0, 7]);
    }
}

#[test]
fn an_empty_property_block_may_be_there() {
    let bytes = [0x40, 4, 0, 7, 0x10, 0];
    let ack = Ack::new(id(7), ReasonCode::NoMatchingSubscribers);
    assert_eq!(decoded(V5, &bytes), (AckKind::PubAck, ack));
}

#[test]
fn reason_string_and_user_properties_come_through() {
    let bytes = packet(0x50, b"\0\x01\x87\x0C\x1F\0\x02no\x26\0\x01a\0\x01b");
    let (kind, ack) = decoded(V5, &bytes);
    assert_eq!((kind, ack.reason), (AckKind::PubRec, ReasonCode::NotAuthorized));
    assert_eq!(ack.reason_string, Some("no"));
    assert_eq!(ack.user.iter().collect::<Vec<_>>(), [("a", "b")]);
    let mut out = Vec::new();
    encode_ack(&mut out, V5, kind, &ack).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn each_type_has_its_own_reason_codes() {
    let publish: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    let release: &[u8] = &[0x00, 0x92];
    for (kind, first) in KINDS {
        let allowed = match kind {
            AckKind::PubAck | AckKind::PubRec => publish,
            AckKind::PubRel | AckKind::PubComp => release,
        };
        for code in 0..=255 {
            let bytes = [first, 3, 0, 1, code];
            let found = decode(V5, &bytes);
            assert_eq!(found.is_ok(), allowed.contains(&code), "{kind:?} {code:#x}");
            if let Err(violation) = found {
                assert_eq!(violation.reason, PROTOCOL);
            }
        }
    }
}

#[test]
fn an_acknowledgement_that_breaks_a_rule_is_refused_with_its_reason() {
    for (_, first) in KINDS {
        refuses(
            first,
            &[
                ("nothing", V311, b"", MALFORMED),
                ("half an identifier", V311, b"\0", MALFORMED),
                ("identifier 0", V311, b"\0\0", PROTOCOL),
                ("identifier 0 in 5.0", V5, b"\0\0", PROTOCOL),
                ("a reason in 3.1", V31, b"\0\x01\0", MALFORMED),
                ("a reason in 3.1.1", V311, b"\0\x01\0", MALFORMED),
                ("reason string twice", V5, b"\0\x01\0\x06\x1F\0\0\x1F\0\0", PROTOCOL),
                ("a foreign property", V5, b"\0\x01\0\x02\x01\0", MALFORMED),
                ("properties cut off", V5, b"\0\x01\0\x01", MALFORMED),
                ("bytes after the properties", V5, b"\0\x01\0\0\0", MALFORMED),
                ("reason string not UTF-8", V5, b"\0\x01\0\x04\x1F\0\x01\x80", MALFORMED),
            ],
        );
    }
}
