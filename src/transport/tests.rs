//! Tests of the layers in combination.

use super::tls::KeyCache;
use super::*;
use std::net::SocketAddr;

const REQUEST: &[u8] =
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n";
/// `hello` in one frame, its mask all zeroes.
const FRAME: &[u8] = b"\x82\x85\0\0\0\0hello";

fn peer(text: &str) -> Peer {
    Peer::from(text.parse::<SocketAddr>().expect("an address"))
}

fn stack(proxy: bool, web: bool) -> Stack {
    Stack {
        proxy: proxy.then_some(proxy::Versions::Any),
        web: web.then(|| Web { path: "/mqtt".into(), origins: None }),
        ..Stack::default()
    }
}

/// Opens a connection from `from` with these bytes in pieces of `size`.
fn open(
    stack: &Stack,
    trusted: &Networks,
    bytes: &[u8],
    size: usize,
) -> (Layers, Exchange, Result<(), ReadEnd>) {
    let mut layers = stack.begin().expect("it has layers");
    let mut exchange = Exchange::default();
    let mut outcome = Ok(());
    let mut at = peer("10.0.0.1:9");
    for piece in bytes.chunks(size) {
        let context = LayerContext { stack, trusted, peer: at };
        outcome = layers.open(&context, &mut KeyCache::default(), piece, &mut exchange);
        // A shard does the same with the address that a proxy names.
        at = exchange.peer.unwrap_or(at);
        if outcome.is_err() {
            break;
        }
    }
    (layers, exchange, outcome)
}

#[test]
fn each_combination_comes_to_the_same_however_it_is_cut() {
    let trusted = Networks(vec!["10.0.0.0/8".parse().expect("a network")]);
    let line = b"PROXY TCP4 10.0.0.5 10.0.0.1 51000 8083\r\n";
    for (proxy, web) in [(false, true), (true, false), (true, true)] {
        let mut bytes = if proxy { line.to_vec() } else { Vec::new() };
        bytes.extend(if web { [REQUEST, FRAME].concat() } else { b"hello".to_vec() });
        let client = match (proxy, web) {
            (true, false) => "10.0.0.5:51000",
            // The request names the client: the address before it is that of a trusted proxy.
            _ => "192.0.2.9:0",
        };
        for size in 1..=bytes.len() {
            let stack = stack(proxy, web);
            let (mut layers, exchange, outcome) = open(&stack, &trusted, &bytes, size);
            assert_eq!(outcome, Ok(()));
            assert_eq!(exchange.plain, b"hello", "{proxy} {web} {size}");
            assert_eq!(exchange.peer, Some(peer(client)), "{proxy} {web} {size}");
            assert_eq!(exchange.wire.starts_with(b"HTTP/1.1 101 "), web);
            assert!(layers.is_through() && layers.heap() > 0);
            assert_eq!(layers.frame(5).as_bytes(), if web { &[0x82, 5][..] } else { &[] });
            let settled = layers.settle();
            assert_eq!(settled.as_ref().map(Layers::heap), web.then_some(0));
        }
    }
    assert!(stack(false, false).begin().is_none());
}

#[test]
fn what_a_proxy_has_told_holds_when_the_request_tells_nothing() {
    let trusted = Networks(vec!["10.0.0.0/8".parse().expect("a network")]);
    let request = String::from_utf8(REQUEST.to_vec()).expect("it is text");
    let request = request.replace("X-Forwarded-For: 192.0.2.9\r\n", "");
    let bytes = ["PROXY TCP4 192.0.2.7 10.0.0.1 51000 8083\r\n", &request].concat();
    for size in [1, 40, bytes.len()] {
        let (_, exchange, outcome) = open(&stack(true, true), &trusted, bytes.as_bytes(), size);
        assert_eq!((outcome, exchange.peer), (Ok(()), Some(peer("192.0.2.7:51000"))), "{size}");
    }
}

#[test]
fn an_address_that_nobody_trusted_has_told_changes_nothing() {
    let (_, exchange, outcome) = open(&stack(false, true), &Networks::default(), REQUEST, 999);
    assert_eq!((outcome, exchange.peer), (Ok(()), None));
}

#[test]
fn a_beginning_that_is_refused_is_the_end_and_has_no_close_of_its_own() {
    for (stack, bytes, layer) in [
        (stack(true, true), b"GET / HTTP/1.1\r\n\r\n".as_slice(), Layer::Proxy),
        (stack(false, true), b"GET / HTTP/1.1\r\n\r\n", Layer::Upgrade),
    ] {
        let (mut layers, mut exchange, outcome) = open(&stack, &Networks::default(), bytes, 999);
        assert!(matches!(outcome, Err(ReadEnd::Fault(fault)) if fault.layer == layer));
        layers.end(Ending::ProtocolError);
        assert!(!layers.owes_farewell() && !layers.is_through());
        let context =
            LayerContext { stack: &stack, trusted: &Networks::default(), peer: peer("10.0.0.1:9") };
        let before = exchange.wire.len();
        assert_eq!(layers.open(&context, &mut KeyCache::default(), REQUEST, &mut exchange), Ok(()));
        assert_eq!((exchange.wire.len(), exchange.plain.len()), (before, 0));
    }
}

#[test]
fn who_has_begun_a_request_is_told_why_it_is_not_waited_for() {
    for (why, status) in [
        (TurnedAway::Late, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"),
        (TurnedAway::Busy, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"),
        (TurnedAway::Memory, "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n"),
    ] {
        for begun in ["", "GET /mqtt HTTP/1.1\r\n"] {
            let (stack, keys) = (stack(false, true), &mut tls::KeyCache::default());
            let context = LayerContext {
                stack: &stack,
                trusted: &Networks::default(),
                peer: peer("10.0.0.1:9"),
            };
            let mut layers = stack.begin().expect("a layer");
            let mut exchange = Exchange::default();
            layers.open(&context, keys, begun.as_bytes(), &mut exchange).expect("it is not over");
            assert_eq!(layers.unfinished_header(), begun.len());
            assert_eq!(layers.overdue(), Some("the HTTP request was not whole in time"));
            let mut wire = Vec::new();
            layers.turn_away(why, keys, &mut wire);
            layers.turn_away(why, keys, &mut wire);
            let told = String::from_utf8(wire).expect("HTTP is text");
            assert_eq!(told.starts_with(status), !begun.is_empty(), "{told}");
            assert_eq!(told.matches("HTTP/1.1").count(), usize::from(!begun.is_empty()), "once");
            assert_eq!((layers.unfinished_header(), layers.overdue()), (0, None));
        }
    }
}
