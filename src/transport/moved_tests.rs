use super::*;
use crate::ids::Peer;
use crate::transport::network::Networks;
use crate::transport::tls::KeyCache;
use crate::transport::{Exchange, LayerContext, Stack};

fn opened(layers: &mut Layers, bytes: &[u8]) -> Vec<u8> {
    let stack = Stack::PLAIN;
    let context = LayerContext { stack: &stack, trusted: &Networks::default(), peer: Peer::Unix };
    let mut exchange = Exchange::default();
    layers.open(&context, &mut KeyCache::default(), bytes, &mut exchange).expect("it goes on");
    exchange.plain
}

/// A masked binary frame with this payload; the mask is `[1, 2, 3, 4]`.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | payload.len() as u8, 1, 2, 3, 4];
    bytes.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn a_websocket_goes_on_wherever_it_was_cut() {
    let bytes = [frame(b"one packet"), frame(b"another")].concat();
    for cut in 0..bytes.len() {
        let mut before = Layers(LayerState::WebSocket(Frames::default()));
        let mut plain = opened(&mut before, &bytes[..cut]);
        let moved = before.moved().expect("it can move");
        let mut after = Layers::of_moved(&moved).expect("it is understood");
        plain.extend(opened(&mut after, &bytes[cut..]));
        assert_eq!(plain, b"one packetanother", "cut at {cut}");
    }
}

#[test]
fn what_is_not_written_by_it_is_refused() {
    for bytes in [&[][..], &[9], &[0, 3, 0], &[1, 0, 0], &[0, 0, 0, 0]] {
        assert!(Layers::of_moved(&SecretBytes(bytes.to_vec())).is_none(), "{bytes:?}");
    }
}
