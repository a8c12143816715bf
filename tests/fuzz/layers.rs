//! Target `layers`: what carries MQTT on a connection, from any peer: PROXY header, HTTP request
//! and WebSocket frames in any combination, cut anywhere. The same bytes cut elsewhere must come to
//! the same; what is held stays within its bounds.

use crate::input::Input;
use ringmq::ids::Peer;
use ringmq::limits::{PROXY_HEAD, UPGRADE_HEAD};
use ringmq::transport::network::Networks;
use ringmq::transport::proxy::Versions;
use ringmq::transport::tls::KeyCache;
use ringmq::transport::{Ending, Exchange, LayerContext, Layers, ReadEnd, Stack, Web};
use std::net::{IpAddr, Ipv4Addr};

const REQUEST: &[u8] =
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 51000 8083\r\n";
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\xc7\x38\x1f\x93";

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.byte();
    let versions = [None, Some(Versions::V1), Some(Versions::V2), Some(Versions::Any)];
    let proxy = versions[usize::from(flags & 3)];
    let web = (flags & 4 != 0 || proxy.is_none()).then(|| Web {
        path: "/mqtt".into(),
        origins: (flags & 8 != 0).then(|| Box::from(["https://a.example".into()])),
    });
    let stack = Stack { proxy, web, ..Stack::default() };
    // Whole beginnings, so that what is behind them is reached.
    let mut bytes = Vec::new();
    match (flags >> 4 & 3, proxy.is_some()) {
        (1, true) => bytes.extend(LINE),
        (2, true) => bytes.extend(BINARY),
        _ => {}
    }
    if flags >> 6 & 1 == 1 && stack.web.is_some() {
        bytes.extend(REQUEST);
        bytes.extend(b"\r\n");
    }
    let step = 1 + input.below(64);
    bytes.extend(input.bytes(4096));
    let whole = open(&stack, &bytes, bytes.len().max(1));
    let pieces = open(&stack, &bytes, step);
    assert!(whole == pieces, "{whole:?}\n{pieces:?}");
    assert!(whole.1.len() <= bytes.len(), "more MQTT than bytes");
}

/// How it ended, the MQTT in it, what the peer is sent, who it is.
type Came = (Result<(), ReadEnd>, Vec<u8>, Vec<u8>, Option<Peer>);

fn open(stack: &Stack, bytes: &[u8], step: usize) -> Came {
    let trusted = Networks(vec!["192.0.2.0/24".parse().unwrap()]);
    let mut peer = Peer::Tcp(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 7);
    let mut layers = stack.begin().unwrap();
    let mut exchange = Exchange::default();
    let mut outcome = Ok(());
    for piece in bytes.chunks(step) {
        let context = LayerContext { stack, trusted: &trusted, peer };
        outcome = layers.open(&context, &mut KeyCache::default(), piece, &mut exchange);
        peer = exchange.peer.unwrap_or(peer);
        let most = 2 * (PROXY_HEAD + UPGRADE_HEAD) + step + 1024;
        assert!(layers.heap() <= most, "{} bytes are held", layers.heap());
        if outcome.is_err() {
            break;
        }
    }
    layers.end(Ending::Normal);
    say_farewell(&mut layers, &mut exchange.wire);
    let settled = layers.settle();
    assert!(settled.is_none_or(|layers| layers.heap() <= 256), "an open client holds little");
    (outcome, exchange.plain, exchange.wire, exchange.peer)
}

fn say_farewell(layers: &mut Layers, wire: &mut Vec<u8>) {
    let (owes, before) = (layers.owes_farewell(), wire.len());
    layers.farewell(&mut KeyCache::default(), wire);
    assert_eq!(owes, wire.len() > before);
    assert!(!layers.owes_farewell(), "it is said once");
}
