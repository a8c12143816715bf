//! MQTT over WebSocket (section 6), the PROXY protocol, and those that mean harm to either.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::web::{REQUEST, frame};
use crate::support::{
    Broker, Connect, Publish, V5, V311, Version, both, eventually, machine, patience, unique,
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

fn broker() -> &'static Broker {
    Broker::shared(&["listeners.0.type=ws"])
}

/// A connection with what it has been sent.
struct Raw(TcpStream, Vec<u8>);

impl Raw {
    fn open(broker: &Broker) -> Raw {
        let stream = TcpStream::connect(broker.address()).expect("the broker accepts");
        stream.set_read_timeout(Some(patience())).expect("a timeout");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Raw(stream, Vec::new())
    }

    /// A WebSocket whose request was granted.
    #[track_caller]
    fn upgraded(broker: &Broker) -> (Raw, String) {
        let mut raw = Raw::open(broker);
        raw.send(REQUEST.as_bytes());
        let head = raw.until(|bytes| bytes.ends_with(b"\r\n\r\n"));
        raw.1.clear();
        (raw, String::from_utf8(head).expect("HTTP is text"))
    }

    fn send(&mut self, bytes: &[u8]) {
        // Whoever was hung up on finds out when it reads.
        let _ = self.0.write_all(bytes);
    }

    fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let mut out = Vec::new();
        frame(&mut out, first, payload);
        self.send(&out);
    }

    /// Reads until that is so, or the broker hangs up.
    #[track_caller]
    fn until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut chunk = [0; 4096];
        while !enough(&self.1) {
            match self.0.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => self.1.extend(&chunk[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}, after {:x?}", self.1),
            }
        }
        self.1.clone()
    }

    /// Everything until the broker hangs up.
    #[track_caller]
    fn read_to_end(&mut self) -> Vec<u8> {
        self.until(|_| false)
    }
}

fn connect(version: Version) -> Vec<u8> {
    Connect::new(version, unique("web")).encode()
}

#[test]
fn the_broker_names_the_subprotocol_mqtt_and_sends_binary_frames() {
    for version in both() {
        let (mut raw, head) = Raw::upgraded(broker());
        assert!(head.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{head}");
        raw.send_frame(BINARY, &connect(version));
        let got = raw.until(|bytes| bytes.len() >= 4);
        assert_eq!((got[0], got[2]), (BINARY, 0x20), "CONNACK in a binary frame: {got:x?}");
    }
}

#[test]
fn a_text_frame_ends_the_connection() {
    for first in [TEXT, 0x01] {
        let (mut raw, _) = Raw::upgraded(broker());
        raw.send_frame(first, &connect(V5));
        assert_eq!(raw.read_to_end(), [CLOSE, 2, 0x03, 0xeb], "1003");
    }
}

#[test]
fn packets_are_cut_and_joined_by_frames_anywhere() {
    let packets = [connect(V311), vec![0xc0, 0], vec![0xc0, 0]].concat();
    for cut in 1..packets.len() {
        let (mut raw, _) = Raw::upgraded(broker());
        let mut bytes = Vec::new();
        frame(&mut bytes, BINARY, &packets[..cut]);
        frame(&mut bytes, BINARY, &packets[cut..]);
        // And the frames by the network.
        let (first, second) = bytes.split_at(cut);
        raw.send(first);
        raw.send(second);
        let got = raw.until(|bytes| bytes.windows(4).any(|four| four == [0xd0, 0, 0xd0, 0]));
        let joined: Vec<u8> = got.iter().copied().filter(|&byte| byte == 0xd0).collect();
        assert_eq!(joined.len(), 2, "{cut}: {got:x?}");
        raw.send_frame(BINARY, &[0xe0, 0]);
        assert!(raw.read_to_end().ends_with(&[CLOSE, 2, 0x03, 0xe8]), "1000 after DISCONNECT");
    }
}

#[test]
fn a_close_of_the_client_is_answered_and_its_will_is_sent() {
    let topic = unique("will");
    let mut sub = Connect::new(V5, unique("s")).open_at(broker(), true);
    sub.granted(&topic, 1);
    let (mut raw, _) = Raw::upgraded(broker());
    let will = Publish::new(&topic, 1, "gone");
    raw.send_frame(BINARY, &Connect::new(V5, unique("c")).will(will).encode());
    raw.until(|bytes| bytes.len() > 4);
    raw.send_frame(CLOSE, &[0x03, 0xe9]);
    assert!(raw.read_to_end().ends_with(&[CLOSE, 2, 0x03, 0xe9]));
    sub.expect("gone");
}

#[test]
fn other_requests_get_an_answer_of_http() {
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "404"),
        ("GET /mqtt HTTP/1.1\r\nHost: h\r\n\r\n", "426"),
        ("POST /mqtt HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "405"),
        ("\x10\x10\x00\x04MQTT", "400"),
        ("\x16\x03\x01", "400"),
    ] {
        let mut raw = Raw::open(broker());
        raw.send(request.as_bytes());
        let answer = String::from_utf8(raw.read_to_end()).expect("HTTP is text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    let mut raw = Raw::open(broker());
    raw.send(&vec![b'A'; 100_000]);
    assert!(raw.read_to_end().starts_with(b"HTTP/1.1 431 "));
}

#[test]
fn a_limit_of_the_listener_is_told_in_mqtt() {
    let broker = Broker::start(&["listeners.0.type=ws", "listeners.0.max_connections=1"]);
    let _first = Connect::new(V5, unique("first")).open_at(&broker, true);
    let (mut raw, _) = Raw::upgraded(&broker);
    raw.send_frame(BINARY, &connect(V5));
    let got = raw.read_to_end();
    assert_eq!((got[0], got[2], got[5]), (BINARY, 0x20, 0x97), "Quota exceeded: {got:x?}");
}

#[test]
fn stalled_and_slow_beginnings_disturb_nobody_and_end_in_time() {
    let _alone = machine();
    let broker = Broker::start(&["listeners.0.type=ws", "mqtt.connect_timeout=3s"]);
    let mut healthy = Connect::new(V5, unique("healthy")).open_at(&broker, true);
    let began = Instant::now();
    let mut stalled: Vec<Raw> = (0..2000)
        .map(|n| {
            let mut raw = Raw::open(&broker);
            let head = format!("GET /mqtt HTTP/1.1\r\nX: {}", "y".repeat(n % 8000));
            raw.send(&head.as_bytes()[..head.len().min(1 + n * 4)]);
            raw
        })
        .collect();
    // Others have sent a frame of 2^31 bytes in part, or say one byte at a time.
    for _ in 0..50 {
        let (mut raw, _) = Raw::upgraded(&broker);
        raw.send(&[BINARY, 0xff, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 0xff, 1, 2, 3, 4, 0x11]);
        stalled.push(raw);
    }
    let mut slow = Raw::open(&broker);
    let mut longest = Duration::ZERO;
    for byte in REQUEST.as_bytes().iter().cycle() {
        let start = Instant::now();
        healthy.ping();
        longest = longest.max(start.elapsed());
        slow.send(&[*byte]);
        if began.elapsed() > Duration::from_secs(5) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("figure: longest ping beside 2,050 stalled beginnings: {longest:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    let begun = Instant::now();
    for mut raw in stalled.into_iter().chain([slow]) {
        raw.read_to_end();
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "they end by themselves");
    healthy.ping();
}

#[test]
fn a_request_that_is_not_whole_in_time_gets_408_and_one_that_never_began_nothing() {
    let broker = Broker::start(&["listeners.0.type=ws", "mqtt.connect_timeout=1s"]);
    let (mut begun, mut silent) = (Raw::open(&broker), Raw::open(&broker));
    begun.send(b"GET /mqtt HTTP/1.1\r\nHost: h\r\n");
    let answer = String::from_utf8(begun.read_to_end()).expect("HTTP is text");
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(silent.read_to_end().is_empty());
    let said = "the HTTP request was not whole in time";
    eventually("the log says why", || broker.log().matches(said).count() == 2);
}

#[test]
fn of_too_many_unfinished_requests_the_oldest_is_shed_and_a_new_one_granted() {
    let settings = ["listeners.0.type=ws", "admin.bind=127.0.0.1:0"];
    let broker = Broker::start_with(&settings, 1);
    let mut healthy = Connect::new(V5, unique("healthy")).open_at(&broker, true);
    // Each holds nearly the 8 KiB that one may have: 600 of them more than the 4 MiB of all.
    let head = format!("GET /mqtt HTTP/1.1\r\nX: {}", "y".repeat(8000));
    let mut all: Vec<Raw> = Vec::new();
    for _ in 0..600 {
        let mut raw = Raw::open(&broker);
        raw.send(head.as_bytes());
        all.push(raw);
        healthy.ping();
    }
    let answer = String::from_utf8(all[0].read_to_end()).expect("HTTP is text");
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    let said = "its first header was not whole before many others came";
    assert!(broker.log().contains(said), "{}", broker.log());
    let (mut shed, mut held) = (0.0, 0.0);
    eventually("all were read", || {
        shed = broker.metric("ringmq_connections_refused_total", "\"unfinished_header\"");
        held = broker.metric("ringmq_unfinished_headers", "");
        shed + held == 600.0
    });
    assert!((60.0..=100.0).contains(&shed), "{shed}");
    // The last has its turn still.
    let mut last = all.pop().expect("600");
    last.send(format!("\r\n{}", REQUEST.split_once("\r\n").expect("lines").1).as_bytes());
    let answer = last.until(|bytes| bytes.ends_with(b"\r\n\r\n"));
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    healthy.ping();
}

#[test]
fn the_client_behind_a_proxy_is_known_by_its_own_address() {
    let settings = ["listeners.0.proxy_protocol=any", "trusted_proxies=[127.0.0.1]"];
    let broker = Broker::start(&[&settings[..], &["listeners.0.type=tcp"]].concat());
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 1883\r\n".to_vec();
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x08\xc0\0\x02\x01\xc7\x38\x07\x5b";
    for (header, peer) in [(line, "203.0.113.7:51000"), (binary.to_vec(), "203.0.113.8:51000")] {
        for size in [1, 7, 1000] {
            let mut raw = Raw::open(&broker);
            let bytes = [header.clone(), connect(V5)].concat();
            bytes.chunks(size).for_each(|piece| raw.send(piece));
            assert_eq!(raw.until(|bytes| bytes.len() > 3)[..1], [0x20]);
        }
        eventually("the log names the client", || broker.log().contains(&format!("peer={peer} ")));
    }
    let mut garbage = Raw::open(&broker);
    garbage.send(&connect(V5));
    assert!(garbage.read_to_end().is_empty());
    let said = "no PROXY header of a version that the listener takes";
    eventually("the log says why", || broker.log().contains(said));
}

#[test]
fn who_is_no_trusted_proxy_may_not_speak_for_others() {
    let settings = ["listeners.0.proxy_protocol=v1", "trusted_proxies=[192.0.2.1]"];
    let broker = Broker::start(&[&settings[..], &["listeners.0.type=tcp"]].concat());
    let mut raw = Raw::open(&broker);
    raw.send(b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 1883\r\n");
    assert!(raw.read_to_end().is_empty());
    let said = "the peer is not one of trusted_proxies";
    eventually("the log says why", || broker.log().contains(said));
    // Over WebSocket a header of HTTP is not believed, and the client let in all the same.
    let web = Broker::start(&["listeners.0.type=ws"]);
    let behind = Broker::start(&["listeners.0.type=ws", "trusted_proxies=[127.0.0.0/8]"]);
    let forwarded = REQUEST.replace("\r\n\r\n", "\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n");
    for (at, believed) in [(&web, false), (&behind, true)] {
        let mut raw = Raw::open(at);
        raw.send(forwarded.as_bytes());
        raw.send_frame(BINARY, &connect(V5));
        raw.until(|bytes| bytes.windows(3).any(|three| three[0] == BINARY && three[2] == 0x20));
        eventually("it is logged", || at.log().contains("client connected"));
        assert_eq!(at.log().contains("peer=203.0.113.7:0 "), believed);
    }
}

#[test]
fn a_client_that_pings_in_websocket_is_answered_there() {
    let (mut raw, _) = Raw::upgraded(broker());
    raw.send_frame(0x89, b"hello");
    assert_eq!(raw.until(|bytes| bytes.len() >= 7), b"\x8a\x05hello");
    raw.send_frame(BINARY, &connect(V5));
    raw.until(|bytes| bytes.len() > 11);
}
