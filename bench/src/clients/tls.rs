//! TLS below a client's bytes. A client that speaks it costs tens of kilobytes instead of hundreds
//! of bytes: the keys and buffers of a connection are the library's.

use crate::mqtt::Malformed;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What all connections of a run have in common.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trusts the certificates in `authorities`, a PEM file, for a server called `name`. Every
    /// connection makes a full handshake, as different devices do.
    pub fn new(authorities: &Path, name: &str) -> Result<Self, String> {
        let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", authorities.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).map_err(|e| fail(&e))? {
            roots.add(certificate.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
        }
        if roots.is_empty() {
            return Err(fail(&"there is no certificate in it"));
        }
        let name = ServerName::try_from(name.to_string())
            .map_err(|e| format!("the server's name {name}: {e}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }
}

/// One connection's state.
pub struct Layer(ClientConnection);

impl Layer {
    /// Before the first byte.
    pub fn new(tls: &Tls) -> Result<Self, Malformed> {
        let connection = ClientConnection::new(tls.config.clone(), tls.name.clone());
        let mut connection = connection.map_err(complain)?;
        // What is said before the handshake has ended waits inside.
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }

    /// Replaces what a client says by what goes over the wire now, the handshake included.
    pub fn seal(&mut self, bytes: &mut Vec<u8>) {
        // Without a limit everything is taken.
        let _ = self.0.writer().write_all(bytes);
        bytes.clear();
        while self.0.wants_write() {
            // A Vec takes everything.
            let _ = self.0.write_tls(bytes);
        }
    }

    /// What the peer says in `bytes`.
    pub fn open(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes).map_err(|_| Malformed)?;
            self.0.process_new_packets().map_err(complain)?;
            match self.0.reader().read_to_end(&mut plain) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(Malformed),
            }
        }
        Ok(plain)
    }

    /// The handshake has something to say.
    pub fn wants_to_say(&self) -> bool {
        self.0.wants_write()
    }
}

/// Tells the first failure: the others are usually of the same kind.
fn complain(error: rustls::Error) -> Malformed {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        eprintln!("ringmq-bench: TLS: {error}");
    }
    Malformed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Tls {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Tls { config: Arc::new(config), name: ServerName::try_from("broker").unwrap() }
    }

    #[test]
    fn nothing_is_said_in_the_clear_and_the_clear_is_not_understood() {
        let mut layer = Layer::new(&tls()).unwrap();
        assert!(layer.wants_to_say());
        let mut bytes = b"\x10\x0e\0\x04MQTT".to_vec();
        layer.seal(&mut bytes);
        assert_eq!(bytes[..2], [22, 3], "a handshake record");
        assert!(!bytes.windows(4).any(|part| part == b"MQTT"));
        assert!(!layer.wants_to_say());
        assert_eq!(layer.open(b"\x20\x02\0\0\x20\x02\0\0"), Err(Malformed));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join(format!("ringmq-bench-ca-{}", std::process::id()));
        std::fs::write(&path, "nothing\n").unwrap();
        let error = Tls::new(&path, "broker").unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("no certificate") && error.contains("ringmq-bench-ca"), "{error}");
    }
}
