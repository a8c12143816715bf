//! CONNECT and CONNACK: who is let in, who is refused and how, and takeover.

use std::time::{Duration, Instant};

use crate::support::packet::{properties, user};
use crate::support::reason::*;
use crate::support::*;

#[test]
fn a_client_is_accepted_in_every_version() {
    for v in all() {
        let (mut c, answer) = Connect::new(v, unique("in")).open_with(Broker::plain());
        assert!(!answer.session_present);
        c.ping();
        c.disconnect();
    }
}

#[test]
fn the_first_packet_must_be_connect() {
    let publish = Publish::new(unique("first"), 0, "x").encode(V311);
    let packets = [
        vec![0xc0, 0],
        publish,
        vec![0x82, 6, 0, 1, 0, 1, b'a', 0],
        vec![0xe0, 0],
        vec![0xf0, 2, 0x18, 0],
        vec![0x20, 2, 0, 0],
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    ];
    each(packets.map(|packet| (format!("{packet:x?}"), packet)), |packet| {
        let mut c = Client::raw(Broker::plain(), V311);
        c.send(&packet);
        // [MQTT-3.14.0-1]: not even a DISCONNECT, since there was no CONNACK.
        c.expect_closed();
    });
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    for v in all() {
        let connect = Connect::new(v, unique("second"));
        let mut c = connect.open(Broker::plain());
        c.send(&connect.encode());
        c.expect_violation(&[PROTOCOL_ERROR]);
    }
}

#[test]
fn a_wrong_protocol_name_or_level_is_refused() {
    let cases: [(&str, u8); 13] = [
        ("MQTX", 4),
        ("mqtt", 4),
        ("MQTT", 0),
        ("MQTT", 1),
        ("MQTT", 3),
        ("MQTT", 6),
        ("MQTT", 127),
        ("MQIsdp", 4),
        ("MQIsdp", 5),
        ("MQIsdp", 2),
        ("", 4),
        ("MQTTT", 4),
        ("MQT", 4),
    ];
    each(cases.map(|case| (format!("{case:?}"), case)), |(name, level)| {
        let mut c = Client::raw(Broker::plain(), V311);
        let body = Writer::new().str(name).u8(level).u8(2).u16(0).str(unique("name"));
        c.send(&body.packet(0x10));
        let bytes = c.read_to_end();
        let known: [&[u8]; 3] = [&[], &[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]];
        assert!(known.contains(&&bytes[..]), "{bytes:x?}");
        if name == "MQTT" && level > 5 {
            assert!(!bytes.is_empty(), "[MQTT-3.1.2-2] refused without a CONNACK");
        }
    });
}

#[test]
fn an_unknown_level_is_refused_in_the_form_the_client_uses() {
    let level = |level: u8| Writer::new().str("MQTT").u8(level).u8(2).u16(0);
    let cases = [
        (level(6).str(unique("level")), &[0x20, 2, 0, 1][..]),
        (level(99).str(unique("level")), &[0x20, 2, 0, 1]),
        (level(6).u8(0).str(unique("level")), &[0x20, 3, 0, 0x84, 0]),
        (level(99).u8(5).u8(0x11).u32(60).str(unique("level")), &[0x20, 3, 0, 0x84, 0]),
        (level(7).u8(2), &[0x20, 3, 0, 0x84, 0]),
        (level(3).str(unique("level")), &[0x20, 2, 0, 1]),
    ];
    for (body, answer) in cases {
        let mut c = Client::raw(Broker::plain(), V311);
        c.send(&body.packet(0x10));
        assert_eq!(c.read_to_end(), answer, "[MQTT-3.1.2-2]");
    }
}

#[test]
fn a_bridge_bit_in_the_level_is_accepted() {
    // Mosquitto's bridges set the highest bit of the level; the low bits are the version.
    for v in [V31, V311] {
        let mut c = Client::raw(Broker::plain(), v);
        let body = Writer::new().str(v.name()).u8(v.level() | 0x80).u8(2).u16(0);
        c.send(&body.str(unique("bridge")).packet(0x10));
        assert_eq!(c.connack().code, 0);
        c.ping();
    }
}

/// CONNECT with these flags and everything after the keep alive given.
fn connect(v: Version, flags: u8, list: &[Property], payload: Writer) -> Vec<u8> {
    let mut out = Writer::new().str(v.name()).u8(v.level()).u8(flags).u16(0);
    if v.is_v5() {
        out = properties(out, list);
    }
    out.raw(payload.0).packet(0x10)
}

/// Client id, will properties for MQTT 5, will topic, will payload.
fn with_will(v: Version, list: &[Property], topic: &[u8]) -> Writer {
    let mut out = Writer::new().str(unique("will"));
    if v.is_v5() {
        out = properties(out, list);
    }
    out.str(topic).str("gone")
}

fn refuse_all(v: Version, cases: Vec<(&str, Vec<u8>, &[u8])>) {
    let cases = cases
        .into_iter()
        .map(|(name, bytes, codes)| (format!("{v:?} {name}"), (bytes, codes.to_vec())));
    each(cases, |(bytes, codes)| {
        let mut c = Client::raw(Broker::plain(), v);
        c.send(&bytes);
        c.expect_connect_violation(&codes);
    });
}

const EITHER: &[u8] = &[MALFORMED, PROTOCOL_ERROR];
const BAD_TOPIC: &[u8] = &[MALFORMED, PROTOCOL_ERROR, TOPIC_NAME_INVALID];

#[test]
fn a_connect_that_breaks_a_rule_is_refused() {
    for v in both() {
        let id = || Writer::new().str(unique("bad"));
        let mut cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
            ("reserved flag", connect(v, 0x03, &[], id()), EITHER),
            ("will QoS without will", connect(v, 0x0a, &[], id()), EITHER),
            ("will retain without will", connect(v, 0x22, &[], id()), EITHER),
            ("will QoS 3", connect(v, 0x1e, &[], with_will(v, &[], b"t")), EITHER),
            ("will flag without will", connect(v, 0x06, &[], id()), EITHER),
            ("username missing", connect(v, 0x82, &[], id()), EITHER),
            ("password missing", connect(v, 0xc2, &[], id().str("user")), EITHER),
            ("bytes at the end", connect(v, 0x02, &[], id().u8(0)), EITHER),
            ("username without flag", connect(v, 0x02, &[], id().str("user")), EITHER),
            ("password without flag", connect(v, 0x82, &[], id().str("u").str("p")), EITHER),
            ("will without flag", connect(v, 0x02, &[], with_will(v, &[], b"t")), EITHER),
            ("no client id", connect(v, 0x02, &[], Writer::new()), EITHER),
            ("username not UTF-8", connect(v, 0x82, &[], id().str(b"\xff")), EITHER),
            ("username with NUL", connect(v, 0x82, &[], id().str("a\0")), EITHER),
            ("will topic not UTF-8", connect(v, 6, &[], with_will(v, &[], b"a\xc0\x80")), EITHER),
            ("will topic with wildcard", connect(v, 6, &[], with_will(v, &[], b"a/#")), BAD_TOPIC),
            ("will topic with plus", connect(v, 6, &[], with_will(v, &[], b"+")), BAD_TOPIC),
            ("will topic empty", connect(v, 6, &[], with_will(v, &[], b"")), BAD_TOPIC),
            ("will topic with NUL", connect(v, 6, &[], with_will(v, &[], b"a\0")), BAD_TOPIC),
        ];
        let ids: [&[u8]; 4] = [b"a\xff", b"\xed\xa0\x80", b"a\0b", b"\xf4\x90\x80\x80"];
        for bad in ids {
            let codes: &[u8] = &[MALFORMED, PROTOCOL_ERROR, CLIENT_ID_NOT_VALID];
            cases.push(("client id", connect(v, 2, &[], Writer::new().str(bad)), codes));
        }
        if !v.is_v5() {
            let password = connect(v, 0x42, &[], id().str("password"));
            cases.push(("[MQTT-3.1.2-22] password without username", password, &[]));
        }
        refuse_all(v, cases);
    }
}

#[test]
fn a_connect_with_wrong_properties_is_refused() {
    use Property as P;
    let v = V5;
    let with = |list: &[Property]| connect(v, 2, list, Writer::new().str(unique("bad")));
    let willed = |list: &[Property]| connect(v, 6, &[], with_will(v, list, b"t"));
    let raw = |bytes: &[u8]| {
        let head = Writer::new().str("MQTT").u8(5).u8(2).u16(0);
        head.raw(bytes).str(unique("bad")).packet(0x10)
    };
    let twice = |property: Property| with(&[property.clone(), property]);
    let will_twice = |property: Property| willed(&[property.clone(), property]);
    const ERROR: &[u8] = &[PROTOCOL_ERROR];
    let cases: Vec<(&str, Vec<u8>, &[u8])> = vec![
        ("session expiry twice", twice(P::SessionExpiry(1)), ERROR),
        ("receive maximum twice", twice(P::ReceiveMaximum(1)), ERROR),
        ("receive maximum 0", with(&[P::ReceiveMaximum(0)]), ERROR),
        ("maximum packet size twice", twice(P::MaximumPacketSize(99)), ERROR),
        ("maximum packet size 0", with(&[P::MaximumPacketSize(0)]), ERROR),
        ("topic alias maximum twice", twice(P::TopicAliasMaximum(1)), ERROR),
        ("request response information 2", with(&[P::RequestResponseInformation(2)]), ERROR),
        ("request response information twice", twice(P::RequestResponseInformation(1)), ERROR),
        ("request problem information 2", with(&[P::RequestProblemInformation(2)]), ERROR),
        ("request problem information twice", twice(P::RequestProblemInformation(1)), ERROR),
        ("authentication data alone", with(&[P::AuthenticationData(vec![1])]), ERROR),
        ("a property of PUBLISH", with(&[P::TopicAlias(1)]), EITHER),
        ("a property of CONNACK", with(&[P::AssignedClientId("x".into())]), EITHER),
        ("an unknown property", raw(&[2, 0x7f, 0]), &[MALFORMED]),
        ("an unfinished property", raw(&[3, 17, 0, 0]), &[MALFORMED]),
        ("more properties than packet", raw(&[0xff, 0x7f]), &[MALFORMED]),
        ("a padded property length", raw(&[0x80, 0x00]), &[MALFORMED]),
        ("a five byte property length", raw(&[0xff, 0xff, 0xff, 0xff, 0x01]), &[MALFORMED]),
        ("a user property not UTF-8", raw(&[7, 38, 0, 1, 0xff, 0, 1, b'a']), EITHER),
        ("will delay twice", will_twice(P::WillDelay(1)), ERROR),
        ("will payload format twice", will_twice(P::PayloadFormat(1)), ERROR),
        ("will payload format 2", willed(&[P::PayloadFormat(2)]), EITHER),
        ("will with a topic alias", willed(&[P::TopicAlias(1)]), EITHER),
        ("will response topic with wildcard", willed(&[P::ResponseTopic("#".into())]), BAD_TOPIC),
    ];
    refuse_all(v, cases);
}

#[test]
fn an_empty_client_id_is_assigned() {
    let broker = Broker::plain();
    Connect::new(V311, "").open(broker).ping();
    let assigned = |clean: bool| {
        let (c, answer) = Connect::new(V5, "").clean(clean).open_with(broker);
        assert!(!answer.session_present);
        match answer.property(18) {
            Some(Property::AssignedClientId(id)) if !id.is_empty() => (c, id.clone()),
            other => panic!("[MQTT-3.2.2-16] no assigned client identifier: {other:?}"),
        }
    };
    let ((mut first, a), (_second, b)) = (assigned(true), assigned(false));
    assert_ne!(a, b);
    // It is the client's own: whoever connects with it takes over.
    let _third = Client::connect(broker, V5, &a);
    first.expect_taken_over();
    // One that brought its own is not told.
    let (_, answer) = Connect::new(V5, unique("own")).open_with(broker);
    assert_eq!(answer.property(18), None);
}

#[test]
fn an_empty_client_id_without_clean_session_is_refused() {
    // [MQTT-3.1.3-8]
    Connect::new(V311, "").clean(false).refused(Broker::plain(), 2);
}

#[test]
fn mqtt_3_1_needs_a_client_id() {
    Connect::new(V31, "").refused(Broker::plain(), 2);
}

#[test]
fn empty_client_ids_can_be_refused() {
    let broker = Broker::shared(&["mqtt.empty_client_id=false"]);
    Connect::new(V311, "").refused(broker, 2);
    Connect::new(V5, "").refused(broker, CLIENT_ID_NOT_VALID);
    Client::connect(broker, V5, &unique("named")).ping();
}

#[test]
fn a_client_id_longer_than_the_limit_is_refused() {
    let broker = Broker::shared(&["mqtt.max_client_id_length=10"]);
    Connect::new(V311, "elevenbytes").refused(broker, 2);
    Connect::new(V5, "elevenbytes").refused(broker, CLIENT_ID_NOT_VALID);
    Client::connect(broker, V5, "ten--bytes").ping();
}

#[test]
fn client_ids_of_any_length_and_letters_are_allowed() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for v in both() {
        for length in 1..=23 {
            let start = length * 7 % (letters.len() - 23);
            Client::connect(Broker::plain(), v, &letters[start..start + length]).ping();
        }
        let odd = format!("{}/+#$ é\u{feff}日", unique("odd"));
        Client::connect(Broker::plain(), v, &odd).ping();
        let long = unique(&"x".repeat(65_000));
        Client::connect(Broker::plain(), v, &long).ping();
    }
}

#[test]
fn names_and_passwords_are_taken_when_anonymous_is_allowed() {
    for v in all() {
        let connect = Connect::new(v, unique("login"));
        connect.clone().login(Some("user"), Some("password")).open(Broker::plain()).ping();
        connect.clone().login(Some("user"), None).open(Broker::plain()).ping();
        connect.clone().login(Some(""), Some("")).open(Broker::plain()).ping();
        if v.is_v5() {
            connect.login(None, Some("password")).open(Broker::plain()).ping();
        }
    }
}

#[test]
fn connack_tells_the_limits() {
    let (_c, answer) = Connect::new(V5, unique("limits")).open_with(Broker::plain());
    assert_eq!(answer.property(33), Some(&Property::ReceiveMaximum(256)));
    assert_eq!(answer.property(39), Some(&Property::MaximumPacketSize(1 << 20)));
    assert_eq!(answer.property(34), Some(&Property::TopicAliasMaximum(16)));
    assert_eq!(answer.property(36), None, "QoS 2 is supported, which is said by silence");
    let features = [
        Property::RetainAvailable(1),
        Property::WildcardAvailable(1),
        Property::SubscriptionIdsAvailable(1),
        Property::SharedAvailable(1),
    ];
    for feature in features {
        let told = answer.property(feature.id());
        assert!(told.is_none_or(|told| *told == feature), "{told:?}");
    }
    // Nobody asked for these.
    for id in [18, 19, 21, 22, 26, 28] {
        assert_eq!(answer.property(id), None);
    }
}

#[test]
fn a_bridge_that_says_its_name_is_told_the_brokers_own() {
    // Several nodes do not promise it: each node has a name of its own.
    let broker = Broker::single(&[]);
    let name = |id: &str, connect: Connect| {
        let (_client, answer) = connect.open_with(broker);
        match answer.property(38) {
            None => None,
            Some(Property::User(key, value)) if key == "bridge-path" => Some(value.clone()),
            other => panic!("{id}: {other:?}"),
        }
    };
    let asking = |from: &str| Connect::new(V5, unique("bridge")).with(user("bridge-path", from));
    let told = name("a bridge", asking("elsewhere")).expect("a name");
    assert_eq!(told.len(), 16);
    assert_eq!(name("another", asking("")), Some(told), "it is the same for all");
    assert_eq!(name("a client", Connect::new(V5, unique("c"))), None);
    assert_eq!(name("others", Connect::new(V5, unique("c")).with(user("path", "x"))), None);
}

#[test]
fn a_longer_keep_alive_than_the_limit_is_answered_with_the_limit() {
    let broker = Broker::shared(&["mqtt.keep_alive.max=60"]);
    let told = |keep_alive: u16| {
        let connect = Connect::new(V5, unique("keep")).keep_alive(keep_alive);
        connect.open_with(broker).1.property(19).cloned()
    };
    assert_eq!(told(120), Some(Property::ServerKeepAlive(60)));
    assert_eq!(told(60), None);
    assert_eq!(told(30), None);
}

#[test]
fn what_follows_a_refused_connect_is_not_processed() {
    let topic = unique("refused");
    let mut watcher = Client::subscriber(Broker::plain(), V5, &unique("w"), &topic, 0);
    for v in both() {
        let refused = match v {
            V5 => Connect::new(V5, unique("r")).with(Property::AuthenticationMethod("none".into())),
            _ => Connect::new(v, "").clean(false),
        };
        let mut c = Client::raw(Broker::plain(), v);
        let mut bytes = refused.encode();
        bytes.extend(Publish::new(&topic, 0, "must not pass").retain().encode(v));
        c.send(&bytes);
        assert_ne!(c.connack().code, 0);
        c.expect_closed_after_anything();
    }
    let mut other = Client::connect(Broker::plain(), V5, &unique("o"));
    other.publish(&Publish::new(&topic, 1, "end"));
    watcher.expect("end");
}

#[test]
fn what_follows_an_accepted_connect_at_once_is_processed() {
    // Whatever shard accepted the connection, none of the bytes behind CONNECT may be lost.
    for v in both() {
        for round in 0..20 {
            let topic = unique("early");
            let mut c = Client::raw(Broker::plain(), v);
            let mut bytes = Connect::new(v, unique("early")).encode();
            let mut subscribe = Subscribe::to(&topic, 1);
            subscribe.id = 1;
            bytes.extend(subscribe.encode(v));
            bytes.extend(Publish::new(&topic, 1, format!("{round}")).id(2).encode(v));
            bytes.extend([0xc0, 0]);
            c.send(&bytes);
            assert_eq!(c.connack().code, 0);
            c.expect(&round.to_string());
            c.ack(AckKind::PubAck, 2);
        }
    }
}

#[test]
fn a_connection_without_connect_is_closed_in_time() {
    let broker = Broker::shared(&["mqtt.connect_timeout=1s"]);
    let start = Instant::now();
    let mut silent = Client::raw(broker, V311);
    let mut partial = Client::raw(broker, V5);
    partial.send(&Connect::new(V5, unique("partial")).encode()[..9]);
    let mut whole = Client::connect(broker, V5, &unique("whole"));
    silent.expect_closed();
    assert!(start.elapsed() > Duration::from_millis(900), "too early: {:?}", start.elapsed());
    partial.expect_closed();
    assert!(start.elapsed() < Duration::from_secs(6), "too late: {:?}", start.elapsed());
    whole.ping();
}

#[test]
fn a_new_connection_takes_over() {
    for old in all() {
        for new in all() {
            let id = unique("taken");
            let mut first = Client::connect(Broker::plain(), old, &id);
            let mut second = Client::connect(Broker::plain(), new, &id);
            first.expect_taken_over();
            second.ping();
        }
    }
}

#[test]
fn a_takeover_keeps_the_session() {
    for v in both() {
        let (id, topic) = (unique("taken"), unique("taken"));
        let connect = Connect::durable(v, &id);
        let mut first = connect.open(Broker::plain());
        first.granted(&topic, 1);
        let mut other = Client::connect(Broker::plain(), v, &unique("p"));
        other.publish(&Publish::new(&topic, 1, "unacknowledged"));
        assert_eq!(first.delivery().text(), "unacknowledged");
        let (mut second, answer) = connect.open_with(Broker::plain());
        assert!(answer.session_present);
        first.expect_taken_over();
        let again = second.expect("unacknowledged");
        assert!(again.dup);
        other.publish(&Publish::new(&topic, 1, "next"));
        second.expect("next");
    }
}

#[test]
fn of_many_connections_with_one_client_id_one_survives() {
    let id = unique("race");
    let mut clients: Vec<Client> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let connect = Connect::new(if n % 2 == 0 { V5 } else { V311 }, &id);
                scope.spawn(move || {
                    let mut c = Client::raw(Broker::plain(), connect.version);
                    c.send(&connect.encode());
                    c
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it connects")).collect()
    });
    // All have sent CONNECT; wait until all but one have been told to go.
    let mut open = vec![true; clients.len()];
    eventually("one connection is left", || {
        for (client, open) in clients.iter_mut().zip(&mut open) {
            while *open {
                match client.read(Duration::from_millis(1)) {
                    Next::Closed => *open = false,
                    Next::Nothing => break,
                    Next::Packet(_) => {}
                }
            }
        }
        assert!(open.contains(&true), "all were thrown out");
        open.iter().filter(|open| **open).count() == 1
    });
    let survivor = open.iter().position(|open| *open).expect("one is open");
    clients[survivor].ping();
}
