use super::*;
use crate::access::claims;
use crate::access::rule::RuleSet;
use crate::ids::{ListenerId, Peer, ShardId};
use crate::message::MessageRef;
use crate::overload::sources::SourceNetwork;
use crate::packet::Qos;
use crate::session::{Queued, ShareName, SubscriptionIds};
use crate::upgrade::client::{
    Early, MovedAway, MovedConnection, MovedFlow, MovedGrant, MovedInFlight, MovedPending,
    MovedSession, MovedSubscription, MovedWill, Remainder, StoredAs, StoredMessageRef,
};
use crate::upgrade::cluster::{
    MovedAdoption, MovedClaim, MovedFarWill, MovedLane, MovedPeer, MovedRecent, MovedRun,
    MovedSegment, MovedSettled, MovedTelling,
};
use crate::upgrade::code::{ByteString, SecretBytes};
use proptest::prelude::*;

fn message(topic: &str, payload: &[u8]) -> Message {
    let message = MessageRef {
        topic,
        properties: b"\x01\x01",
        payload,
        qos: Qos::ExactlyOnce,
        retain: true,
        expires: Some(Instant(77)),
        publisher: None,
    };
    Message::new(&message, &mut Vec::new())
}

fn queued(text: &str) -> Queued {
    Queued {
        message: message(text, b"payload"),
        subscription_ids: SubscriptionIds::from_slice(&[1, 2, 3]),
        qos: Qos::AtLeastOnce,
        retain: false,
        share: Some(ShareName::new("$share/g/a/+")),
        stored: 0,
    }
}

const KEPT: StoredMessageRef = StoredMessageRef { slot: 3, number: 1 << 40, checksum: 77 };

fn rules() -> RuleSet {
    let list = serde_json::json!([{"permission": "deny", "topic": "a/${username}/#"}]);
    claims::rules(&list).expect("a rule")
}

/// A client with a value in every field.
fn client(text: &str, bytes: &[u8]) -> MovedClient {
    let flow = MovedFlow {
        first: 9,
        sent: vec![
            MovedInFlight {
                awaits: 2,
                again: true,
                queued: Some(queued(text)),
                kept: None,
                body: None,
            },
            MovedInFlight { awaits: 0, again: false, queued: None, kept: None, body: None },
            MovedInFlight {
                awaits: 3,
                again: false,
                queued: None,
                kept: Some(KEPT),
                body: Some(message("t", bytes)),
            },
        ],
        pending: vec![MovedPending { queued: queued("a/b"), kept: Some(KEPT) }],
        away: vec![MovedAway {
            kept: KEPT,
            size: 9,
            qos: Qos::AtLeastOnce,
            retain: true,
            subscription_ids: vec![4, 5],
            expires: Some(Instant(6)),
        }],
        inbound: vec![1, 7],
        inbound_earlier: vec![3],
        retry: Some(Instant(5)),
    };
    let session = MovedSession {
        client_id: text.into(),
        mountpoint: "m/".into(),
        level: 5,
        problem_information: true,
        bridge: false,
        expiry: 60,
        ends: Instant::END,
        maximum_packet_size: u32::MAX,
        window_limit: 10,
        connected: Some(Instant(4000)),
        subscriptions: vec![MovedSubscription { filter: "a/#".into(), options: 1, id: 4 }],
        will: Some(MovedWill {
            message: message("will", bytes),
            delay: 3,
            message_expiry: Some(9),
            due: None,
        }),
        grant: Some(MovedGrant {
            username: Some("u".into()),
            superuser: true,
            rules: Some(rules()),
            attributes: vec![("a".into(), text.into())],
            certificate: "cn".into(),
            mechanism: 1,
            ends: Instant(9),
            credential: 7,
            peer: Peer::Unix,
            listener: ListenerId(0),
        }),
        flow: Some(flow),
        stored: Some(StoredAs { number: 8, slot: 3 }),
    };
    let connection = MovedConnection {
        listener: ListenerId(1),
        peer: Peer::Tcp("2001:db8::1".parse().unwrap(), 1883),
        last_seen: Instant(123),
        patience: 90_000,
        input: ByteString(bytes.to_vec()),
        output: ByteString(bytes.to_vec()),
        wire: ByteString::default(),
        layers: Some(SecretBytes(bytes.to_vec())),
        aliases_in: vec![None, Some("t".into())],
        aliases_out: vec![("u".into(), 1)],
        alias_limit: 2,
    };
    MovedClient { session: Some(session), connection: Some(connection) }
}

/// A node that knows another one.
fn node(text: &str, bytes: &[u8]) -> MovedNode {
    let segment = || MovedSegment { bytes: ByteString(bytes.to_vec()), records: 1, rest: 3 };
    let lane = || MovedLane {
        first: 7,
        until: 1 << 40,
        segments: vec![segment(), segment()],
        next: 9,
        arrived: ByteString(bytes.to_vec()),
    };
    let will = MovedFarWill {
        client: text.into(),
        stamp: 1 << 50,
        message: message("will", bytes),
        after: 5,
        at: Some(Instant(4)),
        message_expiry: Some(60),
        stored: true,
    };
    let run = |wills| MovedRun { node: text.into(), incarnation: 3, over: None, wills };
    let filters = || vec![None, Some(text.into())];
    let peer = MovedPeer {
        number: 3,
        name: text.into(),
        incarnation: 1 << 50,
        newest: 6,
        level: 1,
        down: Some(Instant(3)),
        has_ended: true,
        stream: 1,
        back: 2,
        lanes: vec![lane(), lane(), lane()],
        telling: MovedTelling { snapshot: 1, next: 2, ended: true, changes: vec![1] },
        filters: filters(),
        snapshot: 4,
        is_whole: true,
        offset: Some(u64::MAX),
        lacks_retained: false,
        knows_wills: true,
        wills: Some(run(vec![will])),
        counted: vec![(text.into(), 6)],
    };
    let settled = MovedSettled {
        node: text.into(),
        incarnation: 2,
        client: text.into(),
        unsure: Some(Instant(5)),
    };
    MovedNode {
        name: text.into(),
        incarnation: 1 << 50,
        filters: filters(),
        unanswered: vec![(text.into(), 8)],
        waiting: vec![MovedClaim { node: 1, claim: 2, name: text.into(), wanted: 3 }],
        behind_filters: vec![(1, ByteString(bytes.to_vec()))],
        unpassed: vec![(1, ByteString(bytes.to_vec()))],
        peers: vec![peer],
        ended: vec![run(Vec::new())],
        settled: vec![settled],
        adoption: Some(adoption(text)),
        counted: vec![(text.into(), 5), ("".into(), u64::MAX)],
        ..MovedNode::default()
    }
}

/// What it knows of lost nodes.
fn adoption(text: &str) -> MovedAdoption {
    let recent = |anew| MovedRecent { name: text.into(), by: text.into(), at: Instant(7), anew };
    MovedAdoption {
        incarnation: 1 << 51,
        heard: vec![text.into(), "".into()],
        late: Instant(20_000),
        missing: vec![(text.into(), Instant(9))],
        done: vec![(text.into(), 1 << 50)],
        held: vec![(2, 3)],
        lock_seen: 4,
        lost: 5,
        recent: vec![recent(true), recent(false)],
    }
}

/// Encodes into a buffer without spare capacity: a buffer that grew while a frame is written would
/// leave a part of its content in freed memory.
fn encoded(frame: &UpgradeFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).expect("it is not too long");
    assert_eq!(bytes.len(), bytes.capacity(), "it has the length that it said");
    bytes
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same_again(
        text in "[a-z/é]{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let MovedClient { session, connection } = client(&text, &bytes);
        let (from, number) = (ShardId(3), 77);
        let (client_id, listener) = (text.as_str().into(), ListenerId(1));
        let early =
            Early { from, number, client_id, listener: Some(listener), session, connection };
        let MovedClient { session, connection } = client(&text, &bytes);
        let stored = session.as_ref().and_then(|session| session.stored);
        let flow = session.and_then(|session| session.flow);
        let connection = connection.expect("it has one");
        let frames = [
            UpgradeFrame::Client(Box::new(client(&text, &bytes))),
            UpgradeFrame::Early(Box::new(early)),
            UpgradeFrame::Known(from, number),
            UpgradeFrame::Rest(Box::new(Remainder { from, number, flow, stored, connection })),
            UpgradeFrame::Gone(from, vec![number, 3]),
            UpgradeFrame::Stale(from, Vec::new(), 7),
            UpgradeFrame::Offences(
                vec![(7, (Instant(5), 2))],
                vec![(Banned::Client(text.as_str().into()), (Instant(5), 2))],
            ),
            UpgradeFrame::Unretained(vec![text.as_str().into(), "t".into()]),
            UpgradeFrame::Counters(from, vec![(text.as_str().into(), 1 << 40)]),
            UpgradeFrame::Tickets(listener, SecretBytes(bytes.clone())),
            UpgradeFrame::Retained(vec![
                ((7, 9), message("r", &bytes)),
                ((0, 1), message(&text, b"")),
            ]),
            UpgradeFrame::Node(Box::new(node(&text, &bytes))),
            UpgradeFrame::Refused(text.as_str().into()),
            UpgradeFrame::Files(3),
            UpgradeFrame::Bans(vec![
                Ban { who: Banned::Client(text.as_str().into()), until: Instant(8) },
                Ban { who: Banned::User(text.as_str().into()), until: Instant(9) },
                Ban {
                    who: Banned::Address(SourceNetwork::whole("192.0.2.7".parse().unwrap())),
                    until: Instant(9),
                },
            ]),
            UpgradeFrame::All(UpgradeTotals { sessions: 1, connections: 2, retained: 3 }),
            UpgradeFrame::Commit,
        ];
        for frame in frames {
            let mut written = encoded(&frame);
            let length = written.len();
            written.extend_from_slice(&bytes);
            let (read, used) = UpgradeFrame::read(&written).expect("a frame").expect("a whole one");
            prop_assert_eq!(used, length);
            prop_assert_eq!(&encoded(&read)[..], &written[..length]);
            // A part of a frame is not a frame.
            let part = &written[..length - 1];
            prop_assert!(UpgradeFrame::read(part).is_ok_and(|read| read.is_none()));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some((frame, used))) = UpgradeFrame::read(&bytes) {
            prop_assert!(used <= bytes.len());
            prop_assert_eq!(&encoded(&frame)[..], &bytes[..used]);
        }
    }

    #[test]
    fn a_changed_byte_does_no_harm(at in 0usize..600, to in any::<u8>()) {
        let mut bytes = encoded(&UpgradeFrame::Client(Box::new(client("device", b"abc"))));
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = UpgradeFrame::read(&bytes);
    }
}

#[test]
fn a_buffer_that_grows_keeps_what_was_written() {
    let mut bytes = Vec::with_capacity(4);
    bytes.extend_from_slice(b"abc");
    make_room(&mut bytes, 1);
    assert_eq!(bytes.capacity(), 4, "there was room");
    make_room(&mut bytes, 2);
    assert!(bytes.capacity() >= 5);
    assert_eq!(bytes, b"abc");
}

#[test]
fn a_frame_that_says_it_is_too_long_is_refused_at_once() {
    let mut head = (LONGEST as u32 + 1).to_le_bytes().to_vec();
    head.push(6);
    assert!(UpgradeFrame::read(&head).is_err());
}
