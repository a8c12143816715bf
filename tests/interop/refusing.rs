//! Bridges to another MQTT broker that refuses messages by reason codes: a scripted one, for
//! mosquitto refuses by access only.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::bridging::Near;
use crate::support::{Ack, AckKind, Client, Packet, Publish, V5, V311, eventually, reason, unique};

/// The payloads of the messages that the scripted broker has taken, in order.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<String>>>);

impl Taken {
    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").clone()
    }

    fn numbers(&self) -> Vec<usize> {
        self.all().iter().map(|text| text.parse().expect("a number")).collect()
    }
}

/// A broker that answers each message with the reason code that `script` gives: where it listens,
/// and what it has taken.
fn scripted(mut script: impl FnMut(&Publish) -> u8 + Send + 'static) -> (SocketAddr, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let taken = Taken::default();
    let kept = taken.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // The bridge closes it, at the end of the test.
            let _ = serve(stream, &mut script, &kept);
        }
    });
    (address, taken)
}

fn serve(
    mut stream: TcpStream,
    script: &mut impl FnMut(&Publish) -> u8,
    taken: &Taken,
) -> io::Result<()> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 65536]);
    loop {
        while let Some(length) = whole(&bytes) {
            let packet: Vec<u8> = bytes.drain(..length).collect();
            let answer = match packet[0] >> 4 {
                1 => vec![0x20, 3, 0, 0, 0],
                3 => publication(&packet, script, taken),
                6 => {
                    let id = u16::from_be_bytes([packet[2], packet[3]]);
                    Ack::new(AckKind::PubComp, id).encode()
                }
                12 => vec![0xd0, 0],
                14 => return Ok(()),
                kind => panic!("the bridge sent a packet of type {kind}"),
            };
            stream.write_all(&answer)?;
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            read => bytes.extend(&chunk[..read]),
        }
    }
}

/// The length of the first packet, when all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            return Some(at + length).filter(|&all| bytes.len() >= all);
        }
    }
}

/// What a PUBLISH is answered.
fn publication(packet: &[u8], script: &mut impl FnMut(&Publish) -> u8, taken: &Taken) -> Vec<u8> {
    let Some((Packet::Publish(publish), _)) = Packet::take(V5, packet) else {
        panic!("no PUBLISH: {packet:x?}");
    };
    let reason = script(&publish);
    if reason < 0x80 {
        taken.0.lock().expect("nobody panics with it").push(publish.text());
    }
    match publish.qos {
        0 => Vec::new(),
        1 => Ack::new(AckKind::PubAck, publish.id).reason(reason).encode(),
        _ => Ack::new(AckKind::PubRec, publish.id).reason(reason).encode(),
    }
}

/// A broker with a bridge to that address; `mqtt`: further keys of it.
fn bridged(far: SocketAddr, qos: u8, mqtt: &str, puback: &str) -> Near {
    let near = Near::start(&format!(
        "  - name: uplink\n    puback: {puback}\n    mqtt: {{addresses: ['{far}'], retry: {{min: \
         100ms, max: 300ms}}, notifications: false, topics: [{{filter: 'q/#', qos: {qos}}}], \
         client_id: {}{mqtt}}}\n",
        unique("bridge")
    ));
    eventually("the bridge is up", || near.is_up());
    near
}

fn figure(near: &Near, name: &str, labels: &str) -> f64 {
    near.broker.metric(&format!("ringmq_bridge_{name}"), labels)
}

fn refusals(near: &Near, reason: &str) -> f64 {
    figure(near, "refusals_total", &format!("reason=\"{reason}\""))
}

/// What exceeds a quota there is sent again until it is taken, in order.
#[test]
fn what_exceeds_a_quota_is_sent_again_in_order() {
    for qos in [1, 2] {
        let open = Arc::new(AtomicBool::new(false));
        let firsts = Arc::new(AtomicUsize::new(0));
        let (opened, refused) = (Arc::clone(&open), Arc::clone(&firsts));
        let (far, taken) = scripted(move |publish| {
            if opened.load(Ordering::Relaxed) {
                return 0;
            }
            refused.fetch_add(usize::from(publish.text() == "0"), Ordering::Relaxed);
            reason::QUOTA_EXCEEDED
        });
        let near = bridged(far, qos, ", max_inflight: 20", "accepted");
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        for number in 0..50 {
            publisher.publish(&Publish::new("q/x", qos, number.to_string()));
        }
        // From then on one at a time is under way.
        eventually("the first is sent again", || firsts.load(Ordering::Relaxed) > 1);
        open.store(true, Ordering::Relaxed);
        eventually("all are taken", || figure(&near, "delivered_total", "") == 50.0);
        assert!(taken.numbers().iter().copied().eq(0..50), "{qos}: {:?}", taken.all());
        assert_eq!(figure(&near, "dropped_total", "reason=\"rejected\""), 0.0);
        assert_eq!(figure(&near, "retries_total", ""), refusals(&near, "quota_exceeded"));
        eventually("none waits", || figure(&near, "waiting_messages", "") == 0.0);
    }
}

/// With one message under way at a time nothing overtakes a message that is refused.
#[test]
fn nothing_overtakes_what_is_refused_now_and_then() {
    let mut asked = 0;
    let (far, taken) = scripted(move |_| {
        asked += 1;
        if asked % 4 == 0 { reason::QUOTA_EXCEEDED } else { 0 }
    });
    let near = bridged(far, 1, ", max_inflight: 1", "delivered");
    let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
    let publish = |number: usize| Publish::new("q/x", 1, number.to_string());
    let ids: Vec<u16> = (0..20).map(|number| publisher.send_publish(&publish(number))).collect();
    for id in ids {
        assert_eq!(publisher.ack(AckKind::PubAck, id).reason, 0);
    }
    assert!(taken.numbers().iter().copied().eq(0..20), "{:?}", taken.all());
    assert_eq!(refusals(&near, "quota_exceeded"), 6.0);
}

/// A message that is refused for good is dropped, counted by the reason, and its publisher told;
/// one that may be is sent six times. The others arrive.
#[test]
fn what_is_refused_for_good_is_dropped_and_counted() {
    let of_topic = |publish: &Publish| match publish.topic.as_str() {
        "q/denied" => reason::NOT_AUTHORIZED,
        "q/name" => reason::TOPIC_NAME_INVALID,
        "q/format" => reason::PAYLOAD_FORMAT_INVALID,
        "q/either" => reason::IMPLEMENTATION_SPECIFIC,
        _ => 0,
    };
    let (far, taken) = scripted(of_topic);
    let near = bridged(far, 2, "", "delivered");
    let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
    for qos in [1, 2] {
        for (topic, code) in [
            ("q/a", 0),
            ("q/denied", 0x83),
            ("q/name", 0x83),
            ("q/format", 0x83),
            ("q/either", 0x83),
            ("q/b", 0),
        ] {
            let publish = Publish::new(topic, qos, topic);
            assert_eq!(publisher.publish_code(&publish), code, "{topic}");
        }
    }
    // MQTT 3 has no such codes, and would send again what is refused again.
    let mut three = Client::connect(&near.broker, V311, &unique("three"));
    three.publish(&Publish::new("q/denied", 1, "q/denied"));
    assert_eq!(taken.all(), ["q/a", "q/b", "q/a", "q/b"]);
    for (reason, times) in [
        ("not_authorized", 3.0),
        ("topic_name_invalid", 2.0),
        ("payload_format_invalid", 2.0),
        ("implementation_specific", 12.0),
    ] {
        assert_eq!(refusals(&near, reason), times, "{reason}");
    }
    assert_eq!(figure(&near, "dropped_total", "reason=\"rejected\""), 9.0);
    assert_eq!(figure(&near, "retries_total", ""), 10.0);
}

/// Whatever the reason is, a policy may say that it is for good, or for now.
#[test]
fn every_refusal_is_for_good_or_for_now_by_the_policy() {
    for (policy, code) in [("drop", reason::QUOTA_EXCEEDED), ("wait", reason::NOT_AUTHORIZED)] {
        let mut asked = 0;
        let (far, taken) = scripted(move |_| {
            asked += 1;
            if asked < 4 { code } else { 0 }
        });
        let more = format!(", max_inflight: 1, on_refused: {policy}");
        let near = bridged(far, 1, &more, "accepted");
        let mut publisher = Client::connect(&near.broker, V5, &unique("p"));
        for number in 0..5 {
            publisher.publish(&Publish::new("q/x", 1, number.to_string()));
        }
        let dropped = if policy == "drop" { 3.0 } else { 0.0 };
        let all = || figure(&near, "delivered_total", "") + dropped == 5.0;
        eventually("each is taken, or dropped", all);
        assert_eq!(figure(&near, "dropped_total", "reason=\"rejected\""), dropped, "{policy}");
        assert!(taken.numbers().iter().copied().eq(dropped as usize..5), "{:?}", taken.all());
    }
}
