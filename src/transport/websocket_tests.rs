use super::super::Exchange;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const DATA: u8 = 2;
const SHUT: u8 = 8;
const PING_FRAME: u8 = 9;
const PONG_FRAME: u8 = 10;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as a client sends it.
fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut out = WebSocketHeader::new(first, payload.len()).as_bytes().to_vec();
    out[1] |= 0x80;
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}

/// The outcome of bytes that arrive in pieces of `size`, and the Close that is owed in the end.
fn open(bytes: &[u8], size: usize) -> (Result<(), ReadEnd>, Exchange, Vec<u8>) {
    let (mut frames, mut exchange) = (Frames::default(), Exchange::default());
    let mut outcome = Ok(());
    for piece in bytes.chunks(size.max(1)) {
        outcome = frames.open(piece, &mut exchange);
        if outcome.is_err() {
            break;
        }
    }
    let mut last = Vec::new();
    frames.farewell(&mut last);
    assert!(!frames.owes_farewell(), "it is said once");
    (outcome, exchange, last)
}

#[test]
fn packets_may_share_frames_and_be_cut_by_them_at_every_byte() {
    let packets: Vec<u8> = (0..40).collect();
    for cut in 0..=packets.len() {
        let (first, second) = packets.split_at(cut);
        let bytes = [
            frame(DATA, first, MASK),
            frame(FIN | PING_FRAME, b"are you there", [9, 8, 7, 6]),
            frame(CONTINUATION, &[], MASK),
            frame(FIN | CONTINUATION, second, [1, 2, 3, 4]),
            frame(FIN | PONG_FRAME, b"unasked", MASK),
            frame(FIN | DATA, &packets, MASK),
        ]
        .concat();
        for size in 1..=bytes.len() {
            let (outcome, exchange, _) = open(&bytes, size);
            assert_eq!(outcome, Ok(()));
            assert_eq!(exchange.plain, [&packets[..], &packets[..]].concat(), "{cut} {size}");
            let pong = [b"\x8a\x0d".as_slice(), b"are you there"].concat();
            assert_eq!(exchange.wire, pong, "{cut} {size}");
            assert!(exchange.work > 0);
        }
    }
}

#[test]
fn between_frames_a_client_has_one_byte_and_nothing_on_the_heap() {
    let mut frames = Frames::default();
    let mut exchange = Exchange::default();
    for byte in frame(FIN | DATA, &[7; 300], MASK) {
        assert_eq!(frames.open(&[byte], &mut exchange), Ok(()));
    }
    assert!(matches!(frames, Frames::Between(Continuation::Whole)) && frames.heap() == 0);
    assert_eq!(size_of::<Continuation>(), 1);
    assert_eq!(frames.open(&[FIN | DATA], &mut exchange), Ok(()));
    assert!(frames.heap() > 0, "a header in part is held");
}

#[test]
fn what_no_client_may_send_ends_the_connection_with_its_close_code() {
    let long = |first, length: u64| [&[first, 0xff][..], &length.to_be_bytes(), &MASK].concat();
    let mut bare = frame(FIN | DATA, b"", MASK);
    bare[1] &= 0x7f;
    let cases = [
        ("text", frame(FIN | TEXT, b"{}", MASK), UNSUPPORTED_DATA),
        ("no mask", bare, PROTOCOL_ERROR),
        ("extension", frame(0x40 | FIN | DATA, b"x", MASK), PROTOCOL_ERROR),
        ("reserved data", frame(FIN | 3, b"x", MASK), PROTOCOL_ERROR),
        ("reserved control", frame(FIN | 11, b"x", MASK), PROTOCOL_ERROR),
        ("ping in parts", frame(PING_FRAME, b"x", MASK), PROTOCOL_ERROR),
        ("long ping", frame(FIN | PING_FRAME, &[0; 126], MASK), PROTOCOL_ERROR),
        ("huge ping", long(FIN | PING_FRAME, 1 << 40), PROTOCOL_ERROR),
        ("orphan", frame(FIN | CONTINUATION, b"x", MASK), PROTOCOL_ERROR),
        (
            "message in message",
            [frame(DATA, b"x", MASK), frame(FIN | DATA, b"y", MASK)].concat(),
            PROTOCOL_ERROR,
        ),
        ("2^63", long(FIN | DATA, 1 << 63), PROTOCOL_ERROR),
        ("2^63 - 1", long(FIN | DATA, (1 << 63) - 1), TOO_BIG),
        ("one too many", long(FIN | DATA, u64::from(LARGEST_FRAME) + 1), TOO_BIG),
        ("close of one byte", frame(FIN | SHUT, &[3], MASK), PROTOCOL_ERROR),
        ("close 1005", frame(FIN | SHUT, &1005u16.to_be_bytes(), MASK), PROTOCOL_ERROR),
        ("close 0", frame(FIN | SHUT, &[0, 0], MASK), PROTOCOL_ERROR),
        ("close no text", frame(FIN | SHUT, &[3, 0xe8, 0xff], MASK), INVALID_DATA),
    ];
    for (name, bytes, code) in cases {
        for size in [1, 2, bytes.len()] {
            let valid = frame(FIN | DATA, b"before", MASK);
            let (outcome, exchange, last) = open(&[&valid[..], &bytes].concat(), size);
            assert!(matches!(outcome, Err(ReadEnd::Fault(_))), "{name}: {outcome:?}");
            assert!(exchange.plain.starts_with(b"before"), "{name}");
            assert_eq!(last, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{name}");
        }
    }
    let most = long(FIN | DATA, u64::from(LARGEST_FRAME));
    assert_eq!(open(&most, 1).0, Ok(()));
}

#[test]
fn a_close_is_answered_with_its_code_and_ends_the_reading() {
    for (payload, answer) in [
        (vec![], vec![0x88, 0]),
        (vec![3, 0xe8], vec![0x88, 2, 3, 0xe8]),
        (vec![3, 0xe9, b'b', b'y', b'e'], vec![0x88, 2, 3, 0xe9]),
        (vec![0x0f, 0xa0], vec![0x88, 2, 0x0f, 0xa0]),
    ] {
        let bytes = [frame(FIN | SHUT, &payload, MASK), frame(FIN | DATA, b"after", MASK)].concat();
        let (outcome, exchange, last) = open(&bytes, 3);
        assert_eq!((outcome, last), (Err(ReadEnd::Ended), answer));
        assert!(exchange.plain.is_empty());
    }
}

#[test]
fn what_the_broker_ends_it_says_once_and_a_gone_peer_is_told_nothing() {
    for (ending, code) in [
        (Ending::Normal, NORMAL),
        (Ending::GoingAway, GOING_AWAY),
        (Ending::ProtocolError, PROTOCOL_ERROR),
        (Ending::Policy, POLICY),
    ] {
        let (mut frames, mut last) = (Frames::default(), Vec::new());
        frames.end(ending);
        frames.end(Ending::Normal);
        assert!(frames.owes_farewell());
        frames.farewell(&mut last);
        frames.farewell(&mut last);
        assert_eq!(last, [&[0x88, 2][..], &code.to_be_bytes()].concat());
    }
    let (mut frames, mut last) = (Frames::default(), Vec::new());
    frames.cut();
    frames.end(Ending::Normal);
    frames.farewell(&mut last);
    assert!(last.is_empty() && !frames.owes_farewell());
}

#[test]
fn the_broker_frames_have_the_shortest_length() {
    for (length, header) in [
        (1, vec![0x82, 1]),
        (125, vec![0x82, 125]),
        (126, vec![0x82, 126, 0, 126]),
        (65_535, vec![0x82, 126, 0xff, 0xff]),
        (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        assert_eq!(WebSocketHeader::binary(length).as_bytes(), header);
    }
}

#[test]
fn who_does_not_read_its_pongs_gets_no_more_of_them() {
    let mut frames = Frames::default();
    let mut exchange = Exchange { waiting: LATE_PONGS - 200, ..Exchange::default() };
    for _ in 0..100 {
        let ping = frame(FIN | PING_FRAME, &[1; 100], MASK);
        assert_eq!(frames.open(&ping, &mut exchange), Ok(()));
    }
    assert_eq!(exchange.wire.len(), 204);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = vec(any::<u8>(), 0..300);
    (any::<u8>(), payload, any::<[u8; 4]>()).prop_map(|(first, payload, mask)| {
        let payload = if first & 8 != 0 { &payload[..payload.len() % 126] } else { &payload[..] };
        frame(first, payload, mask)
    })
}

proptest! {
    #[test]
    fn what_comes_out_does_not_depend_on_the_pieces(
        messages in vec((vec(vec(any::<u8>(), 0..200), 1..4), any::<[u8; 4]>()), 1..6),
        sizes in vec(1usize..90, 1..40),
    ) {
        let (mut bytes, mut plain) = (Vec::new(), Vec::<u8>::new());
        for (parts, mask) in &messages {
            for (at, part) in parts.iter().enumerate() {
                let kind = if at == 0 { DATA } else { CONTINUATION };
                let fin = if at + 1 == parts.len() { FIN } else { 0 };
                bytes.extend(frame(fin | kind, part, *mask));
                plain.extend(part);
            }
        }
        let (mut frames, mut exchange) = (Frames::default(), Exchange::default());
        let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
        while !rest.is_empty() {
            let size = rest.len().min(*sizes.next().expect("there is one"));
            prop_assert_eq!(frames.open(&rest[..size], &mut exchange), Ok(()));
            rest = &rest[size..];
        }
        prop_assert_eq!(exchange.plain, plain);
        prop_assert!(matches!(frames, Frames::Between(Continuation::Whole)));
    }

    #[test]
    fn whatever_comes_is_taken_the_same_whole_and_in_pieces(
        frames in vec(any_frame(), 0..12),
        garbage in vec(any::<u8>(), 0..40),
        size in 1usize..50,
    ) {
        let bytes = [frames.concat(), garbage].concat();
        let (whole, all, last) = open(&bytes, bytes.len());
        let (outcome, pieces, end) = open(&bytes, size);
        prop_assert_eq!(whole, outcome);
        prop_assert_eq!(last, end);
        prop_assert_eq!(&all.plain, &pieces.plain);
        prop_assert_eq!(&all.wire, &pieces.wire);
        prop_assert!(all.plain.len() + all.wire.len() <= bytes.len());
    }
}
