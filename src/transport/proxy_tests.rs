use super::*;
use proxy_header::{ProxiedAddress, Tlv};
use std::net::SocketAddr;

/// The length of a header in bytes, the name in the certificate, and the address of the client.
type Taken = (usize, Option<Box<str>>, Option<Peer>);

/// The outcome of a header that arrives in pieces of `size` bytes.
fn take_in_pieces(
    bytes: &[u8],
    versions: Versions,
    size: usize,
) -> Result<Option<Taken>, &'static str> {
    let mut have = 0;
    while have < bytes.len() {
        have = (have + size).min(bytes.len());
        let mut exchange = Exchange::default();
        match take(&bytes[..have], versions, &mut exchange) {
            Ok(None) => {}
            Ok(Some((used, name))) => return Ok(Some((used, name, exchange.peer))),
            Err(fault) => return Err(fault.what),
        }
    }
    Ok(None)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn second(source: &str, destination: &str, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let proxied = ProxiedAddress::stream(address(source), address(destination));
    let mut header = ProxyHeader::with_address(proxied);
    tlvs.iter().for_each(|tlv| header.append_tlv(tlv.clone()));
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).expect("a header");
    bytes
}

#[test]
fn both_versions_tell_the_client_however_they_are_cut() {
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 1883\r\n\x10\x00";
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 51000 1883\r\n\x10\x00";
    let mut binary = second("203.0.113.7:51000", "192.0.2.1:1883", &[]);
    let mut binary_six = second("[2001:db8::7]:51000", "[2001:db8::1]:1883", &[]);
    binary.extend(b"\x10\x00");
    binary_six.extend(b"\x10\x00");
    for (bytes, versions, client) in [
        (line.as_slice(), Versions::V1, "203.0.113.7:51000"),
        (six.as_slice(), Versions::Any, "[2001:db8::7]:51000"),
        (&binary, Versions::V2, "203.0.113.7:51000"),
        (&binary_six, Versions::Any, "[2001:db8::7]:51000"),
    ] {
        for size in 1..=bytes.len() {
            let found = take_in_pieces(bytes, versions, size);
            let expected = (bytes.len() - 2, None, Some(Peer::from(address(client))));
            assert_eq!(found, Ok(Some(expected)), "{client} in pieces of {size}");
        }
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_stays_the_peer() {
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).expect("a header");
    for bytes in [b"PROXY UNKNOWN\r\n".as_slice(), b"PROXY UNKNOWN ff::1 x 1 2\r\n", &local] {
        let found = take_in_pieces(bytes, Versions::Any, bytes.len());
        assert_eq!(found, Ok(Some((bytes.len(), None, None))));
    }
}

#[test]
fn the_name_of_a_certificate_counts_when_the_proxy_has_verified_it() {
    for (given, in_session, verify, known) in [
        (true, false, 0, true),
        (false, true, 0, true),
        (false, false, 0, false),
        (true, true, 1, false),
    ] {
        let mut ssl = SslInfo::new(true, given, in_session, verify);
        ssl.append_tlv(Tlv::SslCn("dev-7".into()));
        let bytes = second("203.0.113.7:1", "192.0.2.1:2", &[Tlv::Ssl(ssl)]);
        let found = take_in_pieces(&bytes, Versions::V2, 7).expect("well-formed").expect("whole");
        assert_eq!(found.1, known.then(|| "dev-7".into()));
    }
}

/// A header with a correct checksum at its end.
fn checked(tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let all = [tlvs, &[Tlv::Crc32c(0)]].concat();
    let mut bytes = second("203.0.113.7:51000", "192.0.2.1:1883", &all);
    let sum = crc32c::crc32c(&bytes).to_be_bytes();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum);
    bytes
}

#[test]
fn a_checksum_holds_for_every_byte_of_the_header() {
    // The checksum is computed bit by bit from the polynomial of RFC 3720, independently of the
    // library.
    let slow = |bytes: &[u8]| {
        let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82F6_3B78 } else { sum >> 1 };
        !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), step))
    };
    assert_eq!(slow(b"123456789"), 0xE306_9283);
    let right = checked(&[Tlv::Authority("mqtt.example".into()), Tlv::Noop(5)]);
    let zeroed = [&right[..right.len() - 4], &[0; 4]].concat();
    assert_eq!(right[right.len() - 4..], slow(&zeroed).to_be_bytes());
    let whole = Ok(Some((right.len(), None, Some(Peer::from(address("203.0.113.7:51000"))))));
    assert_eq!(take_in_pieces(&right, Versions::V2, right.len()), whole);
    for at in 0..right.len() {
        for bit in 0..8 {
            let mut wrong = right.clone();
            wrong[at] ^= 1 << bit;
            let found = take_in_pieces(&wrong, Versions::V2, wrong.len());
            // Two changes cannot be noticed: one turns the command into LOCAL, one turns the
            // checksum into a TLV of another type.
            let unseen = (at, bit) == (FIXED - 4, 0) || at == right.len() - 4 - TLV;
            assert!(unseen || !matches!(found, Ok(Some(_))), "byte {at}, bit {bit}: {found:?}");
        }
    }
}

#[test]
fn wrong_lengths_behind_the_addresses_are_refused() {
    let ssl = |parts: &[u8]| [&[1, 0, 0, 0, 0], parts].concat();
    let mut twice = checked(&[Tlv::Crc32c(0)]);
    let end = twice.len();
    twice[end - 4..].fill(0);
    for (tail, what) in [
        (vec![0x02], "lengths"),
        (vec![0x02, 0], "lengths"),
        (vec![0x02, 0, 2, b'a'], "lengths"),
        (vec![0x02, 0xff, 0xff, b'a'], "lengths"),
        (vec![0x03, 0, 3, 1, 2, 3], "checksum"),
        (vec![0x03, 0, 4, 1, 2, 3, 4], "checksum"),
        ([&[0x20, 0, 4][..], &[0; 4]].concat(), "lengths"),
        ([&[0x20, 0, 7][..], &ssl(&[0x22, 0])].concat(), "lengths"),
        ([&[0x20, 0, 9][..], &ssl(&[0x22, 0, 2, b'x'])].concat(), "lengths"),
    ] {
        let mut bytes = second("203.0.113.7:1", "192.0.2.1:2", &[]);
        bytes[FIXED - 1] += u8::try_from(tail.len()).expect("short");
        bytes.extend(&tail);
        let found = take_in_pieces(&bytes, Versions::V2, bytes.len());
        assert!(found.as_ref().is_err_and(|said| said.contains(what)), "{tail:x?}: {found:?}");
    }
    let found = take_in_pieces(&twice, Versions::V2, end);
    assert_eq!(found, Err("a PROXY header with no or several checksums"));
}

#[test]
fn a_name_that_a_proxy_tells_of_a_connection_of_its_own_does_not_count() {
    let mut ssl = SslInfo::new(true, true, false, 0);
    ssl.append_tlv(Tlv::SslCn("dev-7".into()));
    let mut bytes = second("203.0.113.7:1", "192.0.2.1:2", &[Tlv::Ssl(ssl)]);
    bytes[FIXED - 4] = 0x20;
    let found = take_in_pieces(&bytes, Versions::V2, bytes.len());
    assert_eq!(found, Ok(Some((bytes.len(), None, None))));
}

#[test]
fn what_is_no_header_of_the_listeners_versions_is_refused_at_its_first_wrong_byte() {
    let mut datagram = second("203.0.113.7:1", "192.0.2.1:2", &[]);
    datagram[13] = 0x12;
    let mut short = second("203.0.113.7:1", "192.0.2.1:2", &[]);
    short[15] = 5;
    short.truncate(21);
    let mut command = second("203.0.113.7:1", "192.0.2.1:2", &[]);
    command[12] = 0x22;
    let mut huge = SECOND.to_vec();
    huge.extend([0x21, 0x11, 0xff, 0xff]);
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 1883\r\n";
    for (bytes, versions) in [
        (b"\x10\x10".as_slice(), Versions::Any),
        (b"PROXI", Versions::Any),
        (b"GET / HTTP/1.1\r\n", Versions::Any),
        (b"\r\n\r\n\0\r\nQUIX", Versions::Any),
        (line, Versions::V2),
        (&second("203.0.113.7:1", "192.0.2.1:2", &[]), Versions::V1),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 51000\r\n", Versions::V1),
        (b"PROXY TCP4 203.0.113.999 192.0.2.1 1 2\r\n", Versions::V1),
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 1 70000\r\n", Versions::V1),
        (b"PROXY UNKNOWN \n \r\n", Versions::V1),
        (b"PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n", Versions::V1),
        (&endless, Versions::V1),
        (&datagram, Versions::V2),
        (&short, Versions::V2),
        (&command, Versions::V2),
        (&huge, Versions::V2),
    ] {
        for size in [1, 3, bytes.len()] {
            let found = take_in_pieces(bytes, versions, size);
            assert!(found.is_err(), "{:?}: {found:?}", bytes.escape_ascii().to_string());
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_taken_without_a_panic_and_within_the_bound(
        second in proptest::bool::ANY,
        tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
    ) {
        let head = [if second { SECOND } else { FIRST }, &tail].concat();
        let mut exchange = Exchange::default();
        if let Ok(Some((used, _))) = take(&head, Versions::Any, &mut exchange) {
            proptest::prop_assert!(used <= head.len() && used <= PROXY_HEAD);
        }
    }
}
