//! TLS below a client's bytes. A client that speaks it costs tens of kilobytes instead of hundreds
//! of bytes: the keys and buffers of a connection are the library's.

use crate::mqtt::Malformed;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What all connections of a run have in common.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// Of the targets, in their order; of all of them when there is one.
    names: Vec<ServerName<'static>>,
}

/// Whose certificates a server may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Those that the certificates in this PEM file have signed.
    Authorities(PathBuf),
    /// Anybody's: the load is measured, not the server's identity.
    Anyone,
}

/// PEM files with which the clients say who they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Tls {
    /// For servers called `names`. Every connection makes a full handshake, as different devices
    /// do.
    pub fn new(trust: &Trust, names: &[&str], identity: Option<&Identity>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?;
        let config = match trust {
            Trust::Authorities(path) => config.with_root_certificates(authorities(path)?),
            Trust::Anyone => {
                config.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            }
        };
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                let chain = certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|e| format!("{}: {e}", key.display()))?;
                config
                    .with_client_auth_cert(chain, secret)
                    .map_err(|e| format!("{}: {e}", certificate.display()))?
            }
        };
        config.resumption = Resumption::disabled();
        let name = |name: &&str| {
            ServerName::try_from((*name).to_string())
                .map_err(|e| format!("the server's name {name}: {e}"))
        };
        let names = names.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err("the server has no name".into());
        }
        Ok(Self { config: Arc::new(config), names })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(|e| fail(&e))?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(|e| fail(&e))?;
    if all.is_empty() { Err(fail(&"there is no certificate in it")) } else { Ok(all) }
}

fn authorities(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(roots)
}

/// Takes every certificate, and checks only that the server has its key.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection's state.
pub struct Layer(ClientConnection);

impl Layer {
    /// Before the first byte to target number `target`.
    pub fn new(tls: &Tls, target: usize) -> Result<Self, Malformed> {
        let name = tls.names[target % tls.names.len()].clone();
        let connection = ClientConnection::new(tls.config.clone(), name);
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

    #[test]
    fn nothing_is_said_in_the_clear_and_the_clear_is_not_understood() {
        let mut layer =
            Layer::new(&Tls::new(&Trust::Anyone, &["broker"], None).unwrap(), 3).unwrap();
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
        let error = Tls::new(&Trust::Authorities(path.clone()), &["broker"], None).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("no certificate") && error.contains("ringmq-bench-ca"), "{error}");
    }
}
