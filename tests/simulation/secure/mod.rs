//! The client's end of TLS, between what a simulated client says and its connection: rustls, on the
//! whole of a connection, against the broker's handshakes and record layer as they are. So nothing
//! of TLS is imitated here, and its two ends are written by different people.
//!
//! What is random in TLS (keys, nonces) changes no length, as certificates are Ed25519 with serial
//! numbers of one length: a seed is one run all the same, and the trace has what was sealed in
//! place of what it was sealed to.

mod certificates;

pub use certificates::{CLIENTS, client, server};

use crate::rng::Rng;
use ringmq::transport::proxy;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

/// One client's TLS.
pub struct Secure {
    rng: Rng,
    connection: ClientConnection,
    /// Bytes that a record has at most.
    largest: usize,
    /// Sealed, and not read by the broker yet.
    pub up: VecDeque<u8>,
    /// Pieces of what was sealed that the broker has not been given to their ends: bytes on the
    /// wire, and what they say.
    sealed: VecDeque<(usize, Vec<u8>)>,
    /// It says nothing after its ClientHello.
    pub stalls: bool,
    /// It says close_notify before it ends its side.
    polite: bool,
    said_close: bool,
    heard_close: bool,
    /// MQTT has come.
    heard: bool,
    /// Per mille of its records that have a new key.
    restless: usize,
}

impl Secure {
    pub fn new(config: &Arc<ClientConfig>, seed: u64) -> Secure {
        let mut rng = Rng::new(seed);
        let mut config = ClientConfig::clone(config);
        let largest = [16_384, 16_384, 1000, 100][rng.below(4)];
        config.max_fragment_size = Some(largest + 5);
        let name = ServerName::try_from("localhost").unwrap();
        Secure {
            connection: ClientConnection::new(Arc::new(config), name).unwrap(),
            largest,
            up: VecDeque::new(),
            sealed: VecDeque::new(),
            stalls: false,
            polite: rng.chance(500),
            said_close: false,
            heard_close: false,
            heard: false,
            restless: [0, 30, 300][rng.below(3)],
            rng,
        }
    }

    /// Whether it has something to say, of its own or because there is something to be sealed.
    pub fn has_more(&self, plain: bool, ended: bool) -> bool {
        if self.stalls && !self.sealed.is_empty() {
            return !self.up.is_empty();
        }
        let may_speak = !self.connection.is_handshaking() && !self.said_close;
        !self.up.is_empty()
            || self.connection.wants_write()
            || may_speak && (plain || ended && self.polite)
    }

    /// Seals some of what waits. What ends the handshake and what comes after it may go together.
    pub fn fill(&mut self, plain: &mut VecDeque<u8>, ended: bool) {
        if !self.up.is_empty() || self.stalls && !self.sealed.is_empty() {
            return;
        }
        self.write(Vec::new());
        if self.connection.is_handshaking() || self.said_close {
            return;
        }
        if !plain.is_empty() {
            if self.rng.chance(self.restless) {
                self.connection.refresh_traffic_keys().unwrap();
                self.write(Vec::new());
            }
            let most = [1, 50, self.largest][self.rng.below(3)].min(self.largest);
            let count = self.rng.range(1, most).min(plain.len());
            let part: Vec<u8> = plain.drain(..count).collect();
            self.connection.writer().write_all(&part).unwrap();
            self.write(part);
        } else if ended && self.polite {
            self.said_close = true;
            self.connection.send_close_notify();
            self.write(Vec::new());
        }
    }

    /// What it has to say is not read any more.
    pub fn clear_up(&mut self) {
        self.write(Vec::new());
        self.up.clear();
    }

    fn write(&mut self, plain: Vec<u8>) {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        if !bytes.is_empty() {
            self.sealed.push_back((bytes.len(), plain));
            self.up.extend(bytes);
        }
    }

    /// What is in the next `count` bytes that the broker was given, as far as it is whole.
    pub fn see(&mut self, mut count: usize) -> Vec<u8> {
        let mut seen = Vec::new();
        while let Some((left, _)) = self.sealed.front_mut()
            && count > 0
        {
            let part = count.min(*left);
            *left -= part;
            count -= part;
            if *left == 0
                && (!self.stalls || self.sealed.len() > 1)
                && let Some((_, plain)) = self.sealed.pop_front()
            {
                seen.extend(plain);
            }
        }
        assert_eq!(count, 0, "the broker was given what was not said");
        seen
    }

    /// What is in the bytes that have come.
    pub fn hear(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            assert!(!self.heard_close, "something comes behind close_notify");
            self.connection.read_tls(&mut bytes).unwrap();
            let state = self.connection.process_new_packets();
            let state = state.unwrap_or_else(|error| panic!("the broker's TLS: {error}"));
            self.heard_close |= state.peer_has_closed();
            match self.connection.reader().read_to_end(&mut plain) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.heard |= !plain.is_empty();
        plain
    }

    /// The broker, which has said something in MQTT, ends its side in good order, and the client
    /// has not ended: it must have said so, or somebody else might have cut the connection.
    pub fn check_end(&self) {
        let fine = !self.heard || self.said_close || self.heard_close;
        assert!(fine, "an end without close_notify");
    }

    /// How the handshake was made, once it is over on this side.
    pub fn kind(&self) -> Option<HandshakeKind> {
        self.connection.handshake_kind()
    }
}

/// A PROXY header that tells of some client.
pub fn header(versions: proxy::Versions) -> Vec<u8> {
    if versions == proxy::Versions::V1 {
        return b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 1883\r\n".to_vec();
    }
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([192, 0, 2, 7, 127, 0, 0, 1, 15, 160, 7, 91]);
    bytes
}
