//! Packets that break a rule: MQTT 5 clients are told the right code, and everyone is cut off.

use crate::support::packet::{encode_disconnect, encode_unsubscribe, properties};
use crate::support::reason::*;
use crate::support::*;

type Case = (String, (Version, Vec<u8>, Vec<u8>));

const EITHER: &[u8] = &[MALFORMED, PROTOCOL_ERROR];
const BAD_TOPIC: &[u8] = &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID];

/// The case for these versions.
fn case(list: &mut Vec<Case>, versions: &[Version], name: &str, bytes: Vec<u8>, codes: &[u8]) {
    for v in versions {
        list.push((format!("{v:?} {name}"), (*v, bytes.clone(), codes.to_vec())));
    }
}

/// A fresh client sends the bytes, and is cut off with one of the codes.
fn check(cases: Vec<Case>) {
    each(cases, |(v, bytes, codes)| {
        let mut c = Client::connect(Broker::plain(), v, &unique("malformed"));
        c.send(&bytes);
        c.expect_violation(&codes);
    });
}

const ALL: &[Version] = &[V31, V311, V5];
const V3: &[Version] = &[V31, V311];
/// MQTT 3.1 defines some of the flags that later versions reserve.
const LATER: &[Version] = &[V311, V5];
const ONLY5: &[Version] = &[V5];

#[test]
fn wrong_packet_types_and_flags_end_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    case(list, ALL, "type 0", vec![0x00, 0], EITHER);
    case(list, V3, "type 15", vec![0xf0, 0], &[]);
    case(list, V3, "CONNACK", vec![0x20, 2, 0, 0], &[]);
    case(list, ONLY5, "CONNACK", vec![0x20, 3, 0, 0, 0], EITHER);
    case(list, V3, "SUBACK", vec![0x90, 3, 0, 1, 0], &[]);
    case(list, ONLY5, "SUBACK", vec![0x90, 4, 0, 1, 0, 0], EITHER);
    case(list, V3, "UNSUBACK", vec![0xb0, 2, 0, 1], &[]);
    case(list, ONLY5, "UNSUBACK", vec![0xb0, 4, 0, 1, 0, 0], EITHER);
    case(list, ALL, "PINGRESP", vec![0xd0, 0], EITHER);
    case(list, LATER, "PINGREQ flags", vec![0xc1, 0], &[MALFORMED]);
    case(list, LATER, "PUBACK flags", vec![0x42, 2, 0, 1], &[MALFORMED]);
    case(list, LATER, "PUBREC flags", vec![0x51, 2, 0, 1], &[MALFORMED]);
    case(list, LATER, "PUBREL flags 0", vec![0x60, 2, 0, 1], &[MALFORMED]);
    case(list, LATER, "PUBREL flags 3", vec![0x63, 2, 0, 1], &[MALFORMED]);
    case(list, LATER, "PUBCOMP flags", vec![0x78, 2, 0, 1], &[MALFORMED]);
    case(list, &[V311], "SUBSCRIBE flags", vec![0x80, 6, 0, 1, 0, 1, b'a', 0], &[]);
    case(list, ONLY5, "SUBSCRIBE flags", vec![0x80, 7, 0, 1, 0, 0, 1, b'a', 0], &[MALFORMED]);
    case(list, &[V311], "UNSUBSCRIBE flags", vec![0xa0, 5, 0, 1, 0, 1, b'a'], &[]);
    case(list, ONLY5, "UNSUBSCRIBE flags", vec![0xa0, 6, 0, 1, 0, 0, 1, b'a'], &[MALFORMED]);
    case(list, LATER, "DISCONNECT flags", vec![0xe1, 0], &[MALFORMED]);
    case(list, ONLY5, "AUTH flags", vec![0xf1, 0], EITHER);
    check(cases);
}

#[test]
fn wrong_lengths_end_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    case(list, ALL, "five byte length", vec![0xc0, 0xff, 0xff, 0xff, 0xff, 0x01], &[MALFORMED]);
    case(list, ALL, "unending length", vec![0x30, 0x80, 0x80, 0x80, 0x80, 0x80], &[MALFORMED]);
    case(list, ALL, "PINGREQ with a body", vec![0xc0, 1, 0], &[MALFORMED]);
    case(list, ALL, "PUBACK too short", vec![0x40, 1, 0], &[MALFORMED]);
    case(list, ALL, "PUBREC empty", vec![0x50, 0], &[MALFORMED]);
    case(list, ALL, "PUBREL too short", vec![0x62, 1, 0], &[MALFORMED]);
    case(list, ALL, "PUBCOMP empty", vec![0x70, 0], &[MALFORMED]);
    case(list, V3, "PUBACK too long", vec![0x40, 3, 0, 1, 0], &[]);
    case(list, V3, "PUBREL too long", vec![0x62, 4, 0, 1, 0, 0], &[]);
    case(list, ONLY5, "PUBACK too long", vec![0x40, 5, 0, 1, 0, 0, 0], &[MALFORMED]);
    case(list, V3, "DISCONNECT with a body", vec![0xe0, 1, 0], &[]);
    case(list, ONLY5, "DISCONNECT too long", vec![0xe0, 3, 0, 0, 0], &[MALFORMED]);
    case(list, ALL, "PUBLISH empty", vec![0x30, 0], &[MALFORMED]);
    case(list, ALL, "PUBLISH topic cut", vec![0x30, 3, 0, 9, b'a'], &[MALFORMED]);
    case(list, ALL, "PUBLISH id cut", vec![0x32, 4, 0, 1, b'a', 0], &[MALFORMED]);
    case(list, ONLY5, "PUBLISH no properties", vec![0x30, 3, 0, 1, b'a'], &[MALFORMED]);
    case(list, ONLY5, "PUBLISH properties cut", vec![0x30, 4, 0, 1, b'a', 9], &[MALFORMED]);
    case(list, ALL, "SUBSCRIBE empty", vec![0x82, 0], &[MALFORMED]);
    case(list, V3, "SUBSCRIBE options cut", vec![0x82, 5, 0, 1, 0, 1, b'a'], &[]);
    case(list, ONLY5, "SUBSCRIBE options cut", vec![0x82, 6, 0, 1, 0, 0, 1, b'a'], &[MALFORMED]);
    case(list, ONLY5, "SUBSCRIBE filter cut", vec![0x82, 6, 0, 1, 0, 0, 9, b'a'], &[MALFORMED]);
    case(list, V3, "UNSUBSCRIBE filter cut", vec![0xa2, 5, 0, 1, 0, 9, b'a'], &[]);
    case(list, ONLY5, "UNSUBSCRIBE cut", vec![0xa2, 6, 0, 1, 0, 0, 9, b'a'], &[MALFORMED]);
    check(cases);
}

#[test]
fn a_wrong_publish_ends_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    for v in [V311, V5] {
        let publish = |first: u8, topic: &[u8], id: Option<u16>| {
            let mut out = Writer::new().str(topic);
            if let Some(id) = id {
                out = out.u16(id);
            }
            if v.is_v5() {
                out = out.u8(0);
            }
            out.raw("x").packet(first)
        };
        let only = &[v];
        case(list, only, "QoS 3", publish(0x36, b"t", Some(1)), &[MALFORMED]);
        case(list, only, "DUP with QoS 0", publish(0x38, b"t", None), EITHER);
        case(list, only, "QoS 1 with id 0", publish(0x32, b"t", Some(0)), EITHER);
        case(list, only, "QoS 2 with id 0", publish(0x34, b"t", Some(0)), EITHER);
        case(list, only, "empty topic", publish(0x30, b"", None), &[PROTOCOL_ERROR]);
        case(list, only, "topic #", publish(0x30, b"a/#", None), BAD_TOPIC);
        case(list, only, "topic +", publish(0x30, b"a/+/b", None), BAD_TOPIC);
        case(list, only, "topic with a plus inside", publish(0x30, b"a+b", None), BAD_TOPIC);
        case(list, only, "topic with NUL", publish(0x30, b"a\0b", None), BAD_TOPIC);
        case(list, only, "topic not UTF-8", publish(0x30, b"a\xffb", None), &[MALFORMED]);
        case(list, only, "topic overlong", publish(0x30, b"a\xc1\x81", None), &[MALFORMED]);
        case(list, only, "topic surrogate", publish(0x30, b"\xed\xa0\x80", None), &[MALFORMED]);
        case(list, only, "topic beyond", publish(0x30, b"\xf4\x90\x80\x80", None), &[MALFORMED]);
        case(list, only, "topic cut UTF-8", publish(0x30, b"\xe2\x82", None), &[MALFORMED]);
    }
    check(cases);
}

#[test]
fn a_publish_with_wrong_properties_ends_the_connection() {
    use Property as P;
    let with = |list: &[Property]| properties(Writer::new().str("t"), list).packet(0x30);
    let twice = |property: Property| with(&[property.clone(), property]);
    let raw = |bytes: &[u8]| Writer::new().str("t").raw(bytes).packet(0x30);
    let mut cases = Vec::new();
    let list = &mut cases;
    let mut five = |name: &str, bytes, codes: &[u8]| case(list, ONLY5, name, bytes, codes);
    const ERROR: &[u8] = &[PROTOCOL_ERROR];
    five("topic alias 0", with(&[P::TopicAlias(0)]), &[TOPIC_ALIAS_INVALID, PROTOCOL_ERROR]);
    five("topic alias too high", with(&[P::TopicAlias(17)]), &[TOPIC_ALIAS_INVALID]);
    five("topic alias twice", twice(P::TopicAlias(1)), ERROR);
    five("message expiry twice", twice(P::MessageExpiry(1)), ERROR);
    five("payload format twice", twice(P::PayloadFormat(1)), ERROR);
    five("payload format 2", with(&[P::PayloadFormat(2)]), EITHER);
    five("content type twice", twice(P::ContentType("a".into())), ERROR);
    five("response topic twice", twice(P::ResponseTopic("a".into())), ERROR);
    five("response topic with #", with(&[P::ResponseTopic("a/#".into())]), BAD_TOPIC);
    five("response topic with +", with(&[P::ResponseTopic("+".into())]), BAD_TOPIC);
    five("correlation data twice", twice(P::CorrelationData(vec![1])), ERROR);
    five("subscription identifier", with(&[P::SubscriptionId(1)]), EITHER);
    five("a property of CONNECT", with(&[P::SessionExpiry(1)]), EITHER);
    five("a reason string", with(&[P::ReasonString("x".into())]), EITHER);
    five("an unknown property", raw(&[2, 0x55, 0]), &[MALFORMED]);
    five("a padded property length", raw(&[0x80, 0x00]), &[MALFORMED]);
    five("an unfinished property", raw(&[2, 35, 0]), &[MALFORMED]);
    five("content type not UTF-8", raw(&[4, 3, 0, 1, 0xff]), EITHER);
    five("response topic not UTF-8", raw(&[4, 8, 0, 1, 0xff]), EITHER);
    five("user property not UTF-8", raw(&[7, 38, 0, 1, b'a', 0, 1, 0xff]), EITHER);
    let alias = properties(Writer::new().str(""), &[P::TopicAlias(3)]).packet(0x30);
    five("an alias never set", alias, &[PROTOCOL_ERROR, TOPIC_ALIAS_INVALID]);
    check(cases);
}

#[test]
fn a_wrong_subscribe_ends_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    for v in [V311, V5] {
        let subscribe = |id: u16, filters: &[(&[u8], u8)]| {
            let mut out = Writer::new().u16(id);
            if v.is_v5() {
                out = out.u8(0);
            }
            let add = |out: Writer, (f, o): &(&[u8], u8)| out.str(f).u8(*o);
            filters.iter().fold(out, add).packet(0x82)
        };
        let only = &[v];
        case(list, only, "no filter", subscribe(1, &[]), &[PROTOCOL_ERROR]);
        case(list, only, "id 0", subscribe(0, &[(b"a", 0)]), EITHER);
        case(list, only, "QoS 3", subscribe(1, &[(b"a", 3)]), EITHER);
        case(list, only, "QoS 3 second", subscribe(1, &[(b"a", 0), (b"b", 3)]), EITHER);
        case(list, only, "reserved bits", subscribe(1, &[(b"a", 0x40)]), &[MALFORMED]);
        case(list, only, "reserved bits too", subscribe(1, &[(b"a", 0x81)]), &[MALFORMED]);
        case(list, only, "filter not UTF-8", subscribe(1, &[(b"a\xff", 0)]), &[MALFORMED]);
        let nul = &[MALFORMED, PROTOCOL_ERROR, FILTER_INVALID];
        case(list, only, "filter with NUL", subscribe(1, &[(b"a\0", 0)]), nul);
        if v == V311 {
            case(list, only, "options of MQTT 5", subscribe(1, &[(b"a", 0x04)]), &[]);
        } else {
            case(list, only, "retain handling 3", subscribe(1, &[(b"a", 0x30)]), EITHER);
            let shared = subscribe(1, &[(b"$share/g/a", 0x04)]);
            case(list, only, "no local on a share", shared, &[PROTOCOL_ERROR]);
        }
    }
    let numbered = |ids: &[u32]| {
        let list: Vec<_> = ids.iter().map(|id| Property::SubscriptionId(*id)).collect();
        properties(Writer::new().u16(1), &list).str("a").u8(0).packet(0x82)
    };
    case(list, ONLY5, "subscription identifier 0", numbered(&[0]), &[PROTOCOL_ERROR]);
    case(list, ONLY5, "two identifiers", numbered(&[1, 2]), &[PROTOCOL_ERROR]);
    let wrong = properties(Writer::new().u16(1), &[Property::TopicAlias(1)]);
    case(list, ONLY5, "wrong property", wrong.str("a").u8(0).packet(0x82), EITHER);
    check(cases);
}

#[test]
fn a_wrong_unsubscribe_ends_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    case(list, V3, "no filter", vec![0xa2, 2, 0, 1], &[]);
    case(list, ONLY5, "no filter", vec![0xa2, 3, 0, 1, 0], &[PROTOCOL_ERROR]);
    case(list, V3, "id 0", vec![0xa2, 5, 0, 0, 0, 1, b'a'], &[]);
    case(list, ONLY5, "id 0", vec![0xa2, 6, 0, 0, 0, 0, 1, b'a'], EITHER);
    case(list, V3, "not UTF-8", vec![0xa2, 5, 0, 1, 0, 1, 0xff], &[]);
    case(list, ONLY5, "not UTF-8", vec![0xa2, 6, 0, 1, 0, 0, 1, 0xff], &[MALFORMED]);
    let wrong = properties(Writer::new().u16(1), &[Property::SubscriptionId(1)]);
    case(list, ONLY5, "wrong property", wrong.str("a").packet(0xa2), EITHER);
    check(cases);
}

#[test]
fn a_wrong_acknowledgement_ends_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    for (name, first) in [("PUBACK", 0x40), ("PUBREC", 0x50), ("PUBREL", 0x62), ("PUBCOMP", 0x70)] {
        case(list, ALL, &format!("{name} id 0"), vec![first, 2, 0, 0], EITHER);
        let unknown = vec![first, 3, 0, 1, 0x7f];
        case(list, ONLY5, &format!("{name} with an unknown reason"), unknown, EITHER);
        let wrong = Writer::new().u16(1).u8(0);
        let wrong = properties(wrong, &[Property::TopicAlias(1)]).packet(first);
        case(list, ONLY5, &format!("{name} with a wrong property"), wrong, EITHER);
    }
    check(cases);
}

#[test]
fn a_wrong_disconnect_ends_the_connection() {
    let mut cases = Vec::new();
    let list = &mut cases;
    case(list, ONLY5, "unknown reason", vec![0xe0, 1, 0x7f], EITHER);
    let alias = encode_disconnect(0, &[Property::TopicAlias(1)]);
    case(list, ONLY5, "wrong property", alias, EITHER);
    let expiry = Property::SessionExpiry(0);
    let twice = encode_disconnect(0, &[expiry.clone(), expiry]);
    case(list, ONLY5, "session expiry twice", twice, &[PROTOCOL_ERROR]);
    let from_zero = encode_disconnect(0, &[Property::SessionExpiry(5)]);
    case(list, ONLY5, "session expiry from zero", from_zero, &[PROTOCOL_ERROR]);
    check(cases);
}

/// Filters that break the rules of section 4.7 or 4.8.2.
fn invalid_filters(versions: &[Version]) -> Vec<(String, (Version, &'static str))> {
    let mut cases = Vec::new();
    for &v in versions {
        for filter in ["", "a/#/b", "a#", "#a", "#/", "a/b#", "a+", "+a", "a/+b", "a/b+/c", "++"] {
            cases.push((format!("{v:?} {filter:?}"), (v, filter)));
        }
    }
    let shared = ["$share//a", "$share/g", "$share/g/", "$share/", "$share/+/a", "$share/a#/a"];
    cases.extend(shared.map(|filter| (filter.to_string(), (V5, filter))));
    cases
}

#[test]
fn an_invalid_filter_in_unsubscribe_ends_the_connection() {
    // As in SUBSCRIBE: [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.8.2-1] with [MQTT-4.13.1-1], and
    // [MQTT-4.8.0-1] of 3.1.1. A valid filter beside it is not unsubscribed.
    each(invalid_filters(ALL), |(v, filter)| {
        let topic = unique("stays");
        let connect = Connect::durable(v, unique("filter"));
        let mut c = connect.open(Broker::plain());
        c.granted(&topic, 1);
        c.send(&encode_unsubscribe(v, 7, &[&topic, filter]));
        c.expect_violation(&[FILTER_INVALID, MALFORMED, PROTOCOL_ERROR]);
        let mut c = connect.open(Broker::plain());
        c.publish(&Publish::new(&topic, 1, "still"));
        c.expect("still");
    });
}

#[test]
fn a_packet_is_refused_at_its_first_wrong_byte() {
    // Nothing follows: a broker that waits for the whole packet does not answer.
    let mut cases = Vec::new();
    let list = &mut cases;
    case(list, ALL, "type 0", vec![0x00], EITHER);
    case(list, V3, "type 15", vec![0xf0], &[]);
    case(list, ONLY5, "AUTH", vec![0xf0], EITHER);
    case(list, ALL, "CONNECT", vec![0x10], &[PROTOCOL_ERROR]);
    for (name, first) in [("CONNACK", 0x20), ("SUBACK", 0x90), ("UNSUBACK", 0xb0)] {
        case(list, ALL, name, vec![first], EITHER);
    }
    case(list, ALL, "PINGRESP", vec![0xd0], EITHER);
    case(list, ALL, "QoS 3", vec![0x36], &[MALFORMED]);
    case(list, ALL, "DUP with QoS 0", vec![0x38], EITHER);
    for first in [0x41, 0x51, 0x60, 0x72, 0x80, 0xa0, 0xc1, 0xe1] {
        case(list, LATER, &format!("flags of {first:#x}"), vec![first], &[MALFORMED]);
    }
    case(list, ALL, "five byte length", vec![0x30, 0x80, 0x80, 0x80, 0x80], &[MALFORMED]);
    let large = vec![0x30, 0xff, 0xff, 0xff, 0x7f];
    case(list, ALL, "the largest length", large, &[PACKET_TOO_LARGE]);
    case(list, ONLY5, "a padded length", vec![0x30, 0x85, 0x00], &[MALFORMED]);
    case(list, ALL, "PINGREQ with a body", vec![0xc0, 1], &[MALFORMED]);
    check(cases);
}

#[test]
fn an_invalid_filter_is_never_granted() {
    each(invalid_filters(&[V311, V5]), |(v, filter)| {
        let mut c = Client::connect(Broker::plain(), v, &unique("filter"));
        let mut subscribe = Subscribe::to(filter, 0);
        subscribe.id = 1;
        c.send(&subscribe.encode(v));
        // Either way is allowed: the filter is refused, or the connection ends.
        match c.read(patience()) {
            Next::Closed => assert!(!v.is_v5(), "closed without a word"),
            Next::Packet(Packet::Disconnect { reason, .. }) => {
                assert!([MALFORMED, PROTOCOL_ERROR, FILTER_INVALID].contains(&reason));
                c.expect_closed();
            }
            Next::Packet(Packet::SubAck { codes, .. }) => {
                assert_eq!(codes, [if v.is_v5() { FILTER_INVALID } else { UNSPECIFIED }]);
            }
            other => panic!("{other:?}"),
        }
    });
}
