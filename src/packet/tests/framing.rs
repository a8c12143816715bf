//! Tests of framing: where one packet ends and the next begins.

use super::*;

#[test]
fn a_packet_is_found_as_soon_as_its_last_byte_is_there() {
    let rows: &[(&str, &[u8], Framing)] = &[
        ("nothing", &[], Framing::Incomplete { needed: 2 }),
        ("only the type", &[0xC0], Framing::Incomplete { needed: 2 }),
        ("a whole ping", &[0xC0, 0], Framing::Complete { first: 0xC0, header: 2, total: 2 }),
        (
            "a ping and more",
            &[0xC0, 0, 0xC0],
            Framing::Complete { first: 0xC0, header: 2, total: 2 },
        ),
        ("a body to come", &[0x40, 2, 0], Framing::Incomplete { needed: 4 }),
        ("a length to come", &[0x30, 0x80], Framing::Incomplete { needed: 3 }),
        ("three bytes of a length", &[0x30, 0x80, 0x80, 0x80], Framing::Incomplete { needed: 5 }),
        ("a long body to come", &[0x30, 0x80, 1], Framing::Incomplete { needed: 131 }),
        (
            "a padded length, which version 3 does not forbid",
            &[0xC0, 0x80, 0x80, 0x00],
            Framing::Complete { first: 0xC0, header: 4, total: 4 },
        ),
    ];
    for (name, bytes, expected) in rows {
        assert_eq!(frame(bytes, MAX_PACKET_SIZE), Ok(*expected), "{name}");
    }
}

#[test]
fn a_length_of_five_bytes_is_malformed() {
    let found = frame(&[0x30, 0x80, 0x80, 0x80, 0x80], MAX_PACKET_SIZE);
    assert_eq!(found.unwrap_err().reason, MALFORMED);
    let found = frame(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], MAX_PACKET_SIZE);
    assert_eq!(found.unwrap_err().reason, MALFORMED);
}

#[test]
fn the_largest_packet_is_the_largest_and_no_larger() {
    let bytes = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];
    let needed = MAX_PACKET_SIZE as usize;
    assert_eq!(frame(&bytes, MAX_PACKET_SIZE), Ok(Framing::Incomplete { needed }));
    let reason = frame(&bytes, MAX_PACKET_SIZE - 1).unwrap_err().reason;
    assert_eq!(reason, ReasonCode::PacketTooLarge);
}

#[test]
fn a_packet_above_the_maximum_is_refused_before_it_arrives() {
    assert_eq!(frame(&[0x30, 9], 11), Ok(Framing::Incomplete { needed: 11 }));
    assert_eq!(frame(&[0x30, 9], 10).unwrap_err().reason, ReasonCode::PacketTooLarge);
    assert_eq!(frame(&[0x30, 0x80, 1], 130).unwrap_err().reason, ReasonCode::PacketTooLarge);
    assert_eq!(frame(&[0x30], 0), Ok(Framing::Incomplete { needed: 2 }));
}

#[test]
fn a_padded_length_is_malformed_in_version_5_only() {
    let bytes = [0xC0, 0x80, 0x00];
    assert_eq!(decode(V311, &bytes), Ok(Packet::PingReq));
    assert_eq!(decode(V31, &bytes), Ok(Packet::PingReq));
    assert_eq!(decode(V5, &bytes).unwrap_err().reason, MALFORMED); // [MQTT-1.5.5-1]
}

#[test]
fn a_packet_of_another_length_than_it_says_is_malformed() {
    let rows: &[&[u8]] = &[
        &[],
        &[0xC0],
        &[0xC0, 1],
        &[0xC0, 0, 0],
        &[0xC0, 0x80],
        &[0xC0, 0x80, 0x01],
        &[0xC0, 0x80, 0x80, 0x80, 0x80],
    ];
    for bytes in rows {
        assert_eq!(decode(V5, bytes).unwrap_err().reason, MALFORMED, "{bytes:?}");
        assert_eq!(decode_connect(bytes).unwrap_err().violation.reason, MALFORMED);
    }
}

#[test]
fn lengths_change_size_where_the_specification_says() {
    for (value, size) in [
        (0, 1),
        (127, 1),
        (128, 2),
        (16_383, 2),
        (16_384, 3),
        (2_097_151, 3),
        (2_097_152, 4),
        (268_435_455, 4),
    ] {
        assert_eq!(encode::varint_size(value), size);
        let (bytes, used) = encode::varint(value).unwrap();
        assert_eq!(used, size);
        let mut cursor = cursor::Cursor::new(&bytes[..used]);
        assert_eq!(cursor.varint(), Ok(value as u32));
        assert!(cursor.is_empty());
        for cut in 0..used {
            assert!(cursor::Cursor::new(&bytes[..cut]).varint().is_err());
        }
    }
}

#[test]
fn a_long_packet_is_written_with_a_long_length() {
    for size in [127, 128, 300, 16_383, 16_384, 70_000] {
        let body = vec![7; size];
        let bytes = packet(0x30, &body);
        let total = bytes.len();
        let header = total - size;
        let expected = Framing::Complete { first: 0x30, header, total };
        assert_eq!(frame(&bytes, MAX_PACKET_SIZE), Ok(expected));
        assert_eq!(bytes[header..], body);
    }
}

#[test]
fn what_is_wrong_at_the_beginning_is_known_before_the_rest_has_come() {
    let wrong: [(&str, &[Version], &[u8]); 16] = [
        ("type 0", &ALL, &[0x00]),
        ("type 15", &[V31, V311], &[0xF0]),
        ("QoS 3", &ALL, &[0x36]),
        ("DUP with QoS 0", &ALL, &[0x38]),
        ("flags of PUBREL", &[V311, V5], &[0x60]),
        ("flags of SUBSCRIBE", &[V311, V5], &[0x80]),
        ("flags of UNSUBSCRIBE", &[V311, V5], &[0xA0]),
        ("flags of PUBACK", &[V311, V5], &[0x41]),
        ("flags of PINGREQ", &[V311, V5], &[0xC8]),
        ("flags of DISCONNECT", &[V311, V5], &[0xE1, 5]),
        ("flags of AUTH", &[V5], &[0xF1]),
        ("a padded length", &[V5], &[0x30, 0x85, 0x00]),
        ("PINGREQ with a body", &ALL, &[0xC0, 1]),
        ("DISCONNECT with a body", &[V31, V311], &[0xE0, 1]),
        ("PUBACK with a body", &[V31, V311], &[0x40, 3]),
        ("UNSUBACK with a body", &[V31, V311], &[0xB0, 3]),
    ];
    for (name, versions, beginning) in wrong {
        for &version in versions {
            let found = check_beginning(version, beginning).expect_err(name);
            assert_eq!(found.reason, MALFORMED, "{version:?} {name}");
        }
    }
    // Flags that 3.1 allows are accepted, and so is the beginning of every valid packet.
    for (version, beginning) in [
        (V31, &[0x8A][..]),
        (V31, &[0xC1]),
        (V311, &[0x30, 0x85, 0x00]),
        (V5, &[0xE0, 1]),
        (V5, &[0x40, 9]),
        (V5, &[0xF0]),
        (V5, &[0x3D, 0xFF, 0xFF]),
        (V311, &[]),
    ] {
        assert_eq!(check_beginning(version, beginning), Ok(()), "{version:?} {beginning:?}");
    }
}

#[test]
fn a_length_is_refused_as_soon_as_it_shows() {
    for cut in 1..=5 {
        let result = frame(&[0x30, 0x80, 0x80, 0x80, 0x80][..cut], 1000);
        assert_eq!(result.is_err(), cut == 5, "{cut} bytes of a length of more than four");
    }
    assert!(frame(&[0x30, 0x80, 0x08], 1000).is_err(), "1024 bytes of 1000");
}
