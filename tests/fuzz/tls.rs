//! Target `tls`: any bytes where a handshake is awaited, in pieces of any length. No panic, no more
//! memory than a handshake may have, an end after a failure, and never a connection: nobody guesses
//! a Finished. Inputs begin as handshakes of rustls as a client.

use crate::input::Input;
use ringmq::config::Sources;
use ringmq::transport::tls::{Advanced, Handshake, KeyCache, Server};
use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

/// Bytes that a handshake may hold: what rustls keeps, a record, and one piece.
const MOST: usize = 96 << 10;

thread_local! {
    static SERVER: OnceCell<Arc<Server>> = const { OnceCell::new() };
}

/// With a certificate that is valid for a hundred years.
fn server() -> Arc<Server> {
    let text = "listeners: [{type: tls, bind: 127.0.0.1:0, tls: {certificate: c, private_key: k, \
                client_ca: c}}]";
    let config = Sources::default().load_from("fuzz.yaml", text.as_bytes()).expect("it is valid");
    let read = |path: &Path| {
        let pem: &[u8] = match path.to_str() {
            Some("k") => include_bytes!("tls.key"),
            _ => include_bytes!("tls.crt"),
        };
        Ok(pem.to_vec())
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let tls = &config.listeners[0].tls;
    Arc::new(Server::new(tls, "fuzz", None, &read, now).expect("they are usable"))
}

pub fn run(data: &[u8]) {
    let server = SERVER.with(|known| known.get_or_init(server).clone());
    let mut input = Input::new(data);
    let (piece, mut cache) = (1 + input.below(700), KeyCache::default());
    let (mut handshake, mut out) = (Handshake::default(), Vec::new());
    for bytes in input.rest().chunks(piece) {
        handshake.add(bytes);
        loop {
            match handshake.advance(&server, &mut cache, &mut out) {
                Ok(Advanced::Wait) => break,
                Ok(Advanced::Again) => {}
                Ok(Advanced::Done(_)) => panic!("a handshake without a secret"),
                Err(failure) => {
                    assert!(!failure.what.is_empty());
                    return;
                }
            }
        }
        assert!(!handshake.is_ready() && handshake.held() <= MOST, "{}", handshake.held());
    }
}
