use super::*;
use crate::bridge::mqtt::topics::Topics;
use crate::config::Sources;
use crate::packet::Version;
use proptest::prelude::*;

const NOW: u64 = 1_000_000;

fn plan(version: Version) -> RemotePlan {
    let text = "bridges: [{name: b, mqtt: {addresses: ['h:1'], topics: [\
                {filter: 'out/#', qos: 2}, \
                {filter: 'in/#', direction: in, qos: 1, local_prefix: 'far/'}]}}]";
    let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
    RemotePlan {
        topics: Topics::new(&config.bridges[0].mqtt.as_ref().unwrap().topics),
        version,
        client_id: "me".to_owned(),
        username: String::new(),
        password: String::new(),
        clean_start: false,
        session_expiry: 60,
        keep_alive: 60,
        max_inflight: 3,
        receive_maximum: 4,
        state_topic: None,
        max_hops: 3,
        instance: "here".to_owned(),
        max_packet_size: 1 << 20,
    }
}

fn connack(session_present: bool) -> Packet<'static> {
    let (reason, properties) = (ReasonCode::Success, Default::default());
    Packet::ConnAck(ConnAck { session_present, reason, properties })
}

/// A session that is connected and subscribed.
fn ready(session: &mut RemoteSession, session_present: bool) -> Vec<BridgeEvent> {
    session.connect(true);
    let mut events = Vec::new();
    session.take(&connack(session_present), &mut events).unwrap();
    let id = said(session).iter().find_map(|packet| match packet {
        Said::Subscribe(id) => PacketId::new(*id),
        _ => None,
    });
    let (user, reason_string) = (UserProperties::default(), None);
    let suback = SubAck { id: id.unwrap(), codes: &[1], reason_string, user };
    session.take(&Packet::SubAck(suback), &mut events).unwrap();
    assert!(session.is_ready());
    events
}

/// The packets that the session has written, as far as tests look at them.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Connect { bridge: bool, name: String },
    Subscribe(u16),
    Publish { topic: String, id: u16, dup: bool, qos: u8, path: Vec<String> },
    Ack(AckKind, u16),
}

fn said(session: &mut RemoteSession) -> Vec<Said> {
    let (bytes, version) = (std::mem::take(&mut session.out), session.plan.version);
    let (mut rest, mut all) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let packet::Framing::Complete { total, .. } = packet::frame(rest, u32::MAX).unwrap() else {
            panic!("half a packet");
        };
        let (one, after) = rest.split_at(total);
        rest = after;
        all.push(match packet::decode(version, one).unwrap() {
            Packet::Connect(connect) => Said::Connect {
                bridge: connect.bridge,
                name: connect.properties.user.iter().map(|(_, value)| value).collect(),
            },
            Packet::Subscribe(subscribe) => Said::Subscribe(subscribe.id.get()),
            Packet::Publish(publish) => Said::Publish {
                topic: publish.topic.to_owned(),
                id: publish.id.map_or(0, PacketId::get),
                dup: publish.dup,
                qos: publish.qos as u8,
                path: publish.properties.user.iter().map(|(_, value)| value.to_owned()).collect(),
            },
            Packet::PubAck(ack) => Said::Ack(AckKind::PubAck, ack.id.get()),
            Packet::PubRec(ack) => Said::Ack(AckKind::PubRec, ack.id.get()),
            Packet::PubRel(ack) => Said::Ack(AckKind::PubRel, ack.id.get()),
            Packet::PubComp(ack) => Said::Ack(AckKind::PubComp, ack.id.get()),
            other => panic!("{other:?}"),
        });
    }
    all
}

fn record(topic: &str, qos: Qos) -> LinkRecord<'_> {
    LinkRecord { topic, payload: b"x", qos, ..LinkRecord::default() }
}

fn ack(kind: fn(Ack<'static>) -> Packet<'static>, id: u16) -> Packet<'static> {
    kind(Ack::new(PacketId::new(id).unwrap(), ReasonCode::Success))
}

fn publish(topic: &str, qos: Qos, id: u16) -> Packet<'_> {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic,
        id: PacketId::new(id),
        properties: PublishProperties::default(),
        payload: b"y",
    })
}

#[test]
fn what_was_not_acknowledged_is_sent_again_under_its_identifier_if_the_session_is_there() {
    let mut session = RemoteSession::new(plan(Version::V5));
    assert_eq!(ready(&mut session, false), [BridgeEvent::Connected, BridgeEvent::Ready]);
    let (one, two) = (record("out/1", Qos::AtLeastOnce), record("out/2", Qos::ExactlyOnce));
    assert_eq!(session.publish(7, &one, NOW), SendOutcome::Sent(Qos::AtLeastOnce));
    assert_eq!(session.publish(8, &two, NOW), SendOutcome::Sent(Qos::ExactlyOnce));
    let sent = said(&mut session);
    let [Said::Publish { id: first, path, .. }, Said::Publish { id: second, .. }] = &sent[..]
    else {
        panic!("{sent:?}");
    };
    assert_eq!(path, &["here"]);
    session.take(&ack(Packet::PubRec, *second), &mut Vec::new()).unwrap();
    assert_eq!(said(&mut session), [Said::Ack(AckKind::PubRel, *second)]);

    ready(&mut session, true);
    session.publish(7, &one, NOW);
    session.publish(8, &two, NOW);
    let again = said(&mut session);
    assert!(matches!(&again[0], Said::Publish { dup: true, id, .. } if id == first), "{again:?}");
    assert_eq!(again[1], Said::Ack(AckKind::PubRel, *second));
    let mut events = Vec::new();
    session.take(&ack(Packet::PubComp, *second), &mut events).unwrap();
    session.take(&ack(Packet::PubAck, *first), &mut events).unwrap();
    assert_eq!(events, [BridgeEvent::Delivered(8), BridgeEvent::Delivered(7)]);
    assert!(session.is_idle());

    session.publish(9, &one, NOW);
    said(&mut session);
    ready(&mut session, false);
    session.publish(9, &one, NOW);
    let anew = said(&mut session);
    assert!(matches!(anew[..], [Said::Publish { dup: false, .. }]), "{anew:?}");
}

#[test]
fn messages_that_come_are_acknowledged_in_order_when_they_are_accepted() {
    let mut session = RemoteSession::new(plan(Version::V311));
    ready(&mut session, false);
    let mut events = Vec::new();
    session.take(&publish("in/a", Qos::AtLeastOnce, 1), &mut events).unwrap();
    session.take(&publish("in/b", Qos::ExactlyOnce, 2), &mut events).unwrap();
    session.take(&publish("elsewhere", Qos::AtLeastOnce, 3), &mut events).unwrap();
    let tickets: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            BridgeEvent::Incoming(message) => Some(message.ticket),
            _ => None,
        })
        .collect();
    let BridgeEvent::Incoming(first) = &events[0] else { panic!("{events:?}") };
    assert_eq!((first.topic.as_str(), first.qos), ("far/in/a", Qos::AtLeastOnce));
    assert_eq!(events[2], BridgeEvent::Stray);
    session.accepted(tickets[1]);
    assert_eq!(said(&mut session), []);
    session.accepted(tickets[0]);
    let acks = [(AckKind::PubAck, 1), (AckKind::PubRec, 2), (AckKind::PubAck, 3)];
    assert_eq!(said(&mut session), acks.map(|(kind, id)| Said::Ack(kind, id)));
    // The message is known, and not published once more.
    events.clear();
    session.take(&publish("in/b", Qos::ExactlyOnce, 2), &mut events).unwrap();
    assert_eq!((events.len(), said(&mut session)), (0, vec![Said::Ack(AckKind::PubRec, 2)]));
    session.take(&ack(Packet::PubRel, 2), &mut events).unwrap();
    assert_eq!(said(&mut session), [Said::Ack(AckKind::PubComp, 2)]);
}

#[test]
fn a_message_that_has_come_over_this_broker_goes_no_further() {
    let mut session = RemoteSession::new(plan(Version::V5));
    ready(&mut session, false);
    for (path, goes) in [
        (&["a", "b"][..], true),
        (&["a", "here"], false),
        (&["here"], false),
        (&["a", "b", "c"], false),
    ] {
        let mut properties = Vec::new();
        for broker in path {
            packet::append_user_property(&mut properties, PATH, broker).unwrap();
        }
        let record = LinkRecord { properties: &properties, ..record("out/x", Qos::AtMostOnce) };
        let fate = session.publish(1, &record, NOW);
        assert_eq!(fate == SendOutcome::Sent(Qos::AtMostOnce), goes, "{path:?} out");
        let mut events = Vec::new();
        let packet = Packet::Publish(Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: "in/x",
            id: None,
            properties: PublishProperties::parse(&properties).unwrap(),
            payload: b"",
        });
        session.take(&packet, &mut events).unwrap();
        assert_eq!(matches!(events[..], [BridgeEvent::Incoming(_)]), goes, "{path:?} in");
    }
}

/// A broker that tells its name is added to the path of its messages, and is not sent messages that
/// it had.
#[test]
fn the_other_broker_is_on_the_path() {
    let mut session = RemoteSession::new(plan(Version::V5));
    session.connect(false);
    let [Said::Connect { name, .. }] = &said(&mut session)[..] else { panic!("no CONNECT") };
    assert_eq!(name, "here");
    let mut own_name = Vec::new();
    packet::append_user_property(&mut own_name, PATH, "there").unwrap();
    let Packet::ConnAck(mut connack) = connack(false) else { unreachable!() };
    connack.properties.user = UserProperties::within(&own_name);
    let mut events = Vec::new();
    session.take(&Packet::ConnAck(connack), &mut events).unwrap();
    let packet = Packet::Publish(Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: true,
        topic: "in/x",
        id: None,
        properties: PublishProperties::default(),
        payload: b"",
    });
    events.clear();
    session.take(&packet, &mut events).unwrap();
    let [BridgeEvent::Incoming(message)] = &events[..] else { panic!("{events:?}") };
    let properties = PublishProperties::parse(&message.properties).unwrap();
    assert!(properties.user.iter().eq([(PATH, "there")]));
    let record = LinkRecord { properties: &message.properties, ..record("out/x", Qos::AtMostOnce) };
    assert_eq!(session.publish(1, &record, NOW), SendOutcome::Loop);
}

#[test]
fn a_version_3_bridge_says_so_and_what_is_too_large_or_too_old_is_not_sent() {
    let mut session = RemoteSession::new(plan(Version::V311));
    session.connect(true);
    let connect = |bridge| [Said::Connect { bridge, name: String::new() }];
    assert_eq!(said(&mut session), connect(true));
    session.connect(false);
    assert_eq!(said(&mut session), connect(false));
    let mut session = RemoteSession::new(plan(Version::V5));
    session.connect(true);
    let properties = packet::ConnAckProperties {
        maximum_packet_size: Some(100),
        maximum_qos: Some(Qos::AtMostOnce),
        ..Default::default()
    };
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    session.take(&Packet::ConnAck(connack), &mut Vec::new()).unwrap();
    let payload = [0; 200];
    let large = LinkRecord { payload: &payload, ..record("out/x", Qos::AtLeastOnce) };
    assert_eq!(session.publish(1, &large, NOW), SendOutcome::TooLarge);
    let old = LinkRecord { expires: Some(NOW), ..record("out/x", Qos::AtLeastOnce) };
    assert_eq!(session.publish(2, &old, NOW), SendOutcome::Expired);
    let small = record("out/x", Qos::ExactlyOnce);
    assert_eq!(session.publish(3, &small, NOW), SendOutcome::Sent(Qos::AtMostOnce));
}

proptest! {
    /// Whatever the other broker sends, nothing panics, and a message is delivered or rejected at
    /// most once.
    #[test]
    fn any_answers(packets in prop::collection::vec((0u8..8, 1u16..6, any::<bool>()), 0..80)) {
        let mut session = RemoteSession::new(plan(Version::V5));
        ready(&mut session, false);
        let (mut number, mut events) = (0, Vec::new());
        for (kind, id, flag) in packets {
            if session.has_room() {
                let qos = if flag { Qos::AtLeastOnce } else { Qos::ExactlyOnce };
                session.publish(number, &record("out/x", qos), NOW);
                number += 1;
            }
            let packet = match kind {
                0 => ack(Packet::PubAck, id),
                1 => ack(Packet::PubRec, id),
                2 => ack(Packet::PubComp, id),
                3 => ack(Packet::PubRel, id),
                4 => publish("in/x", Qos::AtLeastOnce, id),
                5 => publish("in/x", Qos::ExactlyOnce, id),
                6 => publish("in/x", Qos::AtMostOnce, 0),
                _ => Packet::PingResp,
            };
            let _ = session.take(&packet, &mut events);
            if flag && let Some(BridgeEvent::Incoming(message)) = events.last() {
                session.accepted(message.ticket);
            }
            said(&mut session);
            prop_assert!(session.owes() <= 4 && session.sent.len() <= 3);
        }
        let mut settled: Vec<u64> = events
            .iter()
            .filter_map(|event| match event {
                BridgeEvent::Delivered(number) | BridgeEvent::Rejected(number, _) => Some(*number),
                _ => None,
            })
            .collect();
        let all = settled.len();
        settled.sort_unstable();
        settled.dedup();
        prop_assert_eq!(settled.len(), all);
    }
}

/// The other broker has the session of a process that was killed: the identifiers that it may hold
/// are released once, before anything is published.
#[test]
fn identifiers_of_an_earlier_process_are_released_before_anything_is_published() {
    for (present, qos, released) in [(true, 2, 65535), (false, 2, 0), (true, 1, 0)] {
        let mut plan = plan(Version::V5);
        let text = format!(
            "bridges: [{{name: b, mqtt: {{addresses: ['h:1'], topics: [\
             {{filter: '#', qos: {qos}}}, {{filter: in, direction: in, qos: 2}}]}}}}]"
        );
        let config = Sources::default().load_from("t.yaml", text.as_bytes()).unwrap();
        plan.topics = Topics::new(&config.bridges[0].mqtt.as_ref().unwrap().topics);
        let mut session = RemoteSession::new(plan);
        // The second time the session is known.
        for (present, released) in [(present, released), (true, 0)] {
            session.connect(true);
            said(&mut session);
            session.take(&connack(present), &mut Vec::new()).unwrap();
            let mut first = said(&mut session);
            assert!(matches!(first.pop(), Some(Said::Subscribe(_))));
            let expected = (1..=released).map(|id| Said::Ack(AckKind::PubRel, id));
            assert!(first.iter().cloned().eq(expected), "{}", first.len());
        }
        assert_eq!(ready(&mut session, true), [BridgeEvent::Connected, BridgeEvent::Ready]);
        let two = record("out/2", Qos::ExactlyOnce);
        session.publish(1, &two, NOW);
        let sent = said(&mut session);
        let [Said::Publish { id, dup: false, .. }] = sent[..] else { panic!("{sent:?}") };
        // An answer for the earlier message is not taken for one to this message.
        let mut events = Vec::new();
        session.take(&ack(Packet::PubComp, id), &mut events).unwrap();
        if qos == 2 {
            assert_eq!(events, []);
            session.take(&ack(Packet::PubRec, id), &mut events).unwrap();
            session.take(&ack(Packet::PubComp, id), &mut events).unwrap();
        } else {
            session.take(&ack(Packet::PubAck, id), &mut events).unwrap();
        }
        assert_eq!(events, [BridgeEvent::Delivered(1)]);
    }
}
