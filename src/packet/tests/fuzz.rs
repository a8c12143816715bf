//! Fuzzing with arbitrary bytes: nothing panics, and a packet that is accepted has the same meaning
//! after it was encoded and decoded again.

use super::roundtrip::any_packet;
use super::*;
use proptest::prelude::*;

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&ALL[..])
}

/// The parts in which two packets must agree: everything but the order of a message's properties
/// and the way in which a Will Delay Interval of 0 is written.
fn meaning(packet: Packet) -> String {
    let mut packet = packet;
    let mut delay = 0;
    match &mut packet {
        Packet::Publish(publish) => publish.properties.raw = &[],
        Packet::Connect(Connect { will: Some(will), .. }) => {
            delay = will.delay;
            will.properties.raw = &[];
        }
        _ => {}
    }
    let text = format!("{packet:?}");
    if delay == 0 { text.replace("will_delay: Some(0)", "will_delay: None") } else { text }
}

fn survives(version: Version, bytes: &[u8]) {
    let _ = decode_connect(bytes);
    let _ = frame(bytes, MAX_PACKET_SIZE);
    let Ok(packet) = decode(version, bytes) else { return };
    // A CONNECT has a version of its own. Every other packet has the version that was passed.
    let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
    let again = encode_any(version, &packet);
    let decoded = decode(version, &again)
        .unwrap_or_else(|violation| panic!("{packet:?} became {again:?}: {violation:?}"));
    assert_eq!(meaning(packet), meaning(decoded));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_never_panic(
        version in version(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        max in any::<u32>(),
    ) {
        survives(version, &bytes);
        if let Ok(Framing::Complete { total, header, first }) = frame(&bytes, max) {
            prop_assert!(total <= bytes.len() && header <= total && total <= max as usize);
            prop_assert_eq!(first, bytes[0]);
            survives(version, &bytes[..total]);
        }
        if let Ok(Framing::Incomplete { needed }) = frame(&bytes, max) {
            prop_assert!(needed > bytes.len());
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        version in version(),
        first in any::<u8>(),
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0..0x30u8], 0..200),
    ) {
        survives(version, &packet(first, &body));
    }

    #[test]
    fn a_valid_packet_with_damage_never_panics(
        (version, bytes) in any_packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut damaged = bytes.clone();
        for (at, byte) in &damage {
            let at = at.index(damaged.len());
            damaged[at] = *byte;
        }
        survives(version, &damaged);
        // Repairs the length, so that the damage reaches the body.
        let Ok(Framing::Complete { header, .. }) = frame(&bytes, MAX_PACKET_SIZE) else { panic!() };
        survives(version, &packet(damaged[0], &damaged[header..]));
        let body = &bytes[header..];
        survives(version, &packet(bytes[0], &body[..cut.index(body.len() + 1)]));
    }

    #[test]
    fn a_valid_packet_cut_short_or_extended_is_an_error(
        (version, bytes) in any_packet(),
        more in prop::collection::vec(any::<u8>(), 1..10),
    ) {
        for cut in 0..bytes.len() {
            prop_assert!(decode(version, &bytes[..cut]).is_err());
            prop_assert!(decode_connect(&bytes[..cut]).is_err());
            let framed = frame(&bytes[..cut], MAX_PACKET_SIZE);
            let incomplete = matches!(framed, Ok(Framing::Incomplete { needed }) if needed > cut);
            prop_assert!(incomplete, "{:?}", framed);
        }
        let mut longer = bytes.clone();
        longer.extend_from_slice(&more);
        prop_assert!(decode(version, &longer).is_err());
        prop_assert!(decode_connect(&longer).is_err());
        let Ok(Framing::Complete { total, header, .. }) = frame(&longer, MAX_PACKET_SIZE) else {
            panic!()
        };
        prop_assert_eq!(total, bytes.len());
        // With a repaired length, a packet whose end is fixed by its fields is refused, too.
        let body = &bytes[header..];
        if matches!(bytes[0] >> 4, 1 | 2) && version != V31 {
            prop_assert!(decode(version, &packet(bytes[0], &longer[header..])).is_err());
            for cut in 0..body.len() {
                prop_assert!(decode(version, &packet(bytes[0], &body[..cut])).is_err());
            }
        }
    }
}
