//! How the traffic secrets of TLS 1.3 are obtained. When a handshake is over rustls extracts keys,
//! but a KeyUpdate needs the secrets behind them, which rustls tells only to a key log.
//!
//! All connections of a listener share one key log. rustls calls it on the thread that drives the
//! handshake, while it does. The log therefore stores the secrets in a variable of the thread,
//! which is emptied before and after every call into rustls. Nothing is shared between threads.

use super::keys::LONGEST_SECRET;
use rustls::KeyLog;
use std::cell::RefCell;
use zeroize::Zeroize;

thread_local! {
    static HEARD: RefCell<HandshakeSecrets> =
        const { RefCell::new(HandshakeSecrets { client: None, server: None }) };
}

/// One traffic secret. Its bytes are wiped when it is dropped.
pub struct TrafficSecret {
    bytes: [u8; LONGEST_SECRET],
    length: usize,
}

impl TrafficSecret {
    fn new(secret: &[u8]) -> Option<TrafficSecret> {
        let mut bytes = [0; LONGEST_SECRET];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(TrafficSecret { bytes, length: secret.len() })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for TrafficSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// The secrets that one call into rustls has logged.
#[derive(Default)]
pub struct HandshakeSecrets {
    /// The secret of what the client sends.
    pub client: Option<TrafficSecret>,
    /// The secret of what the server sends.
    pub server: Option<TrafficSecret>,
}

/// Makes a call into rustls; returns its result and the secrets that it logged.
pub fn listen<T>(call: impl FnOnce() -> T) -> (T, HandshakeSecrets) {
    HEARD.take();
    let result = call();
    (result, HEARD.take())
}

/// The key log of every listener.
#[derive(Debug)]
pub struct SecretTap;

impl KeyLog for SecretTap {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| match label {
            "CLIENT_TRAFFIC_SECRET_0" => heard.client = TrafficSecret::new(secret),
            "SERVER_TRAFFIC_SECRET_0" => heard.server = TrafficSecret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}
