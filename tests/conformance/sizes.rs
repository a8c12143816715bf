//! The client's Maximum Packet Size holds for every packet, and what the server might say beside
//! the point.

use crate::support::packet::encode_unsubscribe;
use crate::support::reason::*;
use crate::support::wire::Writer;
use crate::support::*;

const REASON_STRING: u32 = 31;
const USER_PROPERTY: u32 = 38;

fn bounded(maximum: u32) -> Connect {
    Connect::new(V5, unique("size")).with(Property::MaximumPacketSize(maximum))
}

/// All bytes with which a connection with this CONNECT is refused.
fn refusal(connect: &Connect) -> Vec<u8> {
    let mut c = Client::raw(Broker::plain(), V5);
    c.send(&connect.encode());
    c.read_to_end()
}

#[test]
fn a_refusal_fits_and_says_why_where_there_is_room() {
    let method = Property::AuthenticationMethod("none".into());
    let full = refusal(&Connect::new(V5, unique("size")).with(method.clone()));
    assert!(full.len() > 10 && full[3] == BAD_AUTHENTICATION_METHOD, "{full:x?}");
    assert_eq!(full[5], REASON_STRING as u8);
    for maximum in 1..=full.len() as u32 + 20 {
        let bytes = refusal(&bounded(maximum).with(method.clone()));
        assert!(bytes.len() <= maximum as usize, "{maximum}: {bytes:x?}");
        match maximum {
            ..5 => assert_eq!(bytes, []),
            // Only what is optional is left out.
            5..=9 => assert_eq!(bytes, [0x20, 3, 0, BAD_AUTHENTICATION_METHOD, 0]),
            _ => assert_eq!(bytes[..1], [0x20]),
        }
    }
    let roomy = refusal(&bounded(full.len() as u32 + 20).with(method));
    assert_eq!(roomy, full);
}

#[test]
fn a_refusal_of_a_broken_connect_fits() {
    // Will QoS 3; the properties before it can be read.
    let connect = |maximum| {
        let mut bytes = bounded(maximum).will(Publish::new("w", 1, "")).encode();
        bytes[9] |= 0x18;
        bytes
    };
    for maximum in [4, 5, 8, 1000] {
        let mut c = Client::raw(Broker::plain(), V5);
        c.send(&connect(maximum));
        let bytes = c.read_to_end();
        assert!(bytes.len() <= maximum as usize, "{maximum}: {bytes:x?}");
    }
    // Zero-length will topic.
    for maximum in [4, 5, 8] {
        let mut c = Client::raw(Broker::plain(), V5);
        c.send(&bounded(maximum).will(Publish::new("", 1, "")).encode());
        let bytes = c.read_to_end();
        assert!(bytes.len() <= maximum as usize, "{maximum}: {bytes:x?}");
    }
}

#[test]
fn a_client_without_room_for_connack_is_not_connected() {
    let id = unique("size");
    let (mut c, answer) = Connect::durable(V5, &id).open_with(Broker::plain());
    let connect = |maximum| {
        Connect { clean: true, ..Connect::new(V5, &id) }.with(Property::MaximumPacketSize(maximum))
    };
    let mut least = 0;
    for maximum in 1..100 {
        let bytes = {
            let mut c = Client::raw(Broker::plain(), V5);
            c.send(&connect(maximum).encode());
            c.send(&[0xc0, 0, 0xe0, 0]);
            c.read_to_end()
        };
        let accepted = bytes.len() > 3 && bytes[3] == 0;
        if accepted {
            let connack = bytes[1] as usize + 2;
            assert!(connack <= maximum as usize, "{maximum}: {bytes:x?}");
            least = maximum;
            break;
        }
        assert!(bytes.len() <= maximum as usize, "{maximum}: {bytes:x?}");
        assert!(bytes.is_empty() || bytes[3] == PACKET_TOO_LARGE, "{maximum}: {bytes:x?}");
        // The client whose name it used has noticed nothing.
        c.ping();
    }
    assert!(least > 5, "{answer:?}");
}

#[test]
fn an_answer_too_large_for_the_client_ends_the_connection() {
    let filters: Vec<String> = (0..40).map(|n| format!("{}/{n}", unique("f"))).collect();
    let subscribe = |count: usize| {
        let mut subscribe = Subscribe::to(&filters[0], 1);
        for filter in &filters[1..count] {
            subscribe = subscribe.and(filter, 1);
        }
        subscribe
    };
    let mut p = Client::connect(Broker::plain(), V5, &unique("p"));
    // Type, length, identifier, no properties, codes: 35 fit in 40 bytes.
    let mut c = bounded(40).open(Broker::plain());
    c.subscribe(subscribe(35));
    let names: Vec<&str> = filters.iter().map(String::as_str).collect();
    c.unsubscribe(&names[..35]);
    let mut many = subscribe(36);
    many.id = 9;
    c.send(&many.encode(V5));
    c.expect_violation(&[PACKET_TOO_LARGE]);
    assert_eq!(p.publish_code(&Publish::new(&filters[0], 1, "x")), NO_MATCHING_SUBSCRIBERS);
    let mut c = bounded(40).open(Broker::plain());
    c.send(&encode_unsubscribe(V5, 9, &names[..36]));
    c.expect_violation(&[PACKET_TOO_LARGE]);
}

/// Everything that the server says in answer to right and wrong packets, by packet type.
#[test]
fn reason_strings_and_user_properties_are_not_in_acknowledgements() {
    let mut c = Client::connect(Broker::plain(), V5, &unique("c"));
    let topic = unique("t");
    c.granted(&topic, 2);
    let none: &[Property] = &[];
    let mut codes = Vec::new();
    let unheard = unique("u");
    for name in [topic.as_str(), "$SYS/broker/uptime", &unheard] {
        let id = c.send_publish(&Publish::new(name, 1, "x"));
        let answer = c.ack(AckKind::PubAck, id);
        assert_eq!(answer.properties, none);
        codes.push(answer.reason);
        let id = c.send_publish(&Publish::new(name, 2, "x"));
        let answer = c.ack(AckKind::PubRec, id);
        assert_eq!(answer.properties, none);
        c.send(&Ack::new(AckKind::PubRel, id).encode());
        assert_eq!(c.ack(AckKind::PubComp, id).properties, none);
    }
    assert_eq!(codes, [SUCCESS, NOT_AUTHORIZED, NO_MATCHING_SUBSCRIBERS]);
    let one = c.delivery();
    c.acknowledge(&one);
    let two = c.delivery();
    c.send(&Ack::new(AckKind::PubRec, two.id).encode());
    assert_eq!(c.ack(AckKind::PubRel, two.id).properties, none);
    c.send(&Ack::new(AckKind::PubRec, 99).encode());
    let unknown = c.ack(AckKind::PubRel, 99);
    assert_eq!((unknown.reason, unknown.properties), (PACKET_ID_NOT_FOUND, none.to_vec()));
    let subscribe = Subscribe { id: 5, ..Subscribe::to(&topic, 1).and("a/".repeat(200), 1) };
    c.send(&subscribe.encode(V5));
    c.wait_for("SUBACK", |packet| match packet {
        Packet::SubAck { codes, properties, .. } => {
            assert_eq!((codes.as_slice(), properties.as_slice()), (&[1, FILTER_INVALID][..], none));
            Some(())
        }
        _ => None,
    });
    c.send(&encode_unsubscribe(V5, 6, &[&topic, "never"]));
    c.wait_for("UNSUBACK", |packet| match packet {
        Packet::UnsubAck { codes, properties, .. } => {
            assert_eq!(codes.as_slice(), [SUCCESS, NO_SUBSCRIPTION_EXISTED]);
            assert_eq!(properties.as_slice(), none);
            Some(())
        }
        _ => None,
    });
}

#[test]
fn user_properties_are_not_in_connack_and_disconnect() {
    let (mut c, answer) = Connect::new(V5, unique("c")).open_with(Broker::plain());
    assert_eq!(answer.property(USER_PROPERTY), None);
    let refused = Connect::new(V5, unique("c"))
        .with(Property::AuthenticationMethod("none".into()))
        .with(user("a", "b"))
        .refused(Broker::plain(), BAD_AUTHENTICATION_METHOD);
    assert_eq!(refused.property(USER_PROPERTY), None);
    c.send(&[0x36, 6, 0, 1, b'a', 0, 1, 0]);
    match c.next() {
        Packet::Disconnect { reason, properties } => {
            assert_eq!(reason, MALFORMED);
            let ids: Vec<_> = properties.iter().map(Property::id).collect();
            assert_eq!(ids, [REASON_STRING]);
        }
        other => panic!("instead of DISCONNECT: {other:?}"),
    }
    // Where there is no room for the reason string, it is left out too.
    let mut c = bounded(20).open(Broker::plain());
    c.send(&[0x36, 6, 0, 1, b'a', 0, 1, 0]);
    match c.next() {
        Packet::Disconnect { properties, .. } => assert_eq!(properties, []),
        other => panic!("instead of DISCONNECT: {other:?}"),
    }
}

#[test]
fn small_acknowledgements_fit_the_least_size_that_is_accepted() {
    let broker = Broker::shared(&["mqtt.connack_properties=false"]);
    for maximum in 5..40 {
        let mut c = Client::raw(broker, V5);
        c.send(&bounded(maximum).encode());
        let size = match c.connack() {
            answer if answer.code != 0 => continue,
            answer => {
                answer.properties.iter().map(|p| p.write(Writer::new()).0.len()).sum::<usize>()
            }
        };
        assert!(5 + size <= maximum as usize);
        c.send(&Ack::new(AckKind::PubRel, 7).encode());
        assert_eq!(c.ack(AckKind::PubComp, 7).reason, PACKET_ID_NOT_FOUND);
        c.expect_nothing();
        return;
    }
    panic!("no size was accepted");
}
