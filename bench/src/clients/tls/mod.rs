//! TLS below MQTT: its settings for a run, and what all connections share. `layer` has the TLS of
//! one connection.

pub mod bare;
mod layer;
mod record_layer;
mod sessions;

pub use layer::Layer;
pub use record_layer::KeyCache;

use crate::mqtt::Malformed;
use clap::ValueEnum;
use record_layer::key_log;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use sessions::Sessions;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The TLS settings that all connections of a run share.
#[derive(Debug)]
pub struct TlsSettings {
    /// One configuration for each client certificate; a single one when clients show none.
    configs: Vec<Arc<ClientConfig>>,
    /// Server names of the targets, in the targets' order; a single name is for all targets.
    names: Vec<ServerName<'static>>,
}

/// What the options of a run say about TLS.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which server certificates clients accept.
    pub trust: Trust,
    /// The certificates that clients show, in turn; empty when they show none.
    pub identities: Vec<Identity>,
    /// TLS versions that clients offer.
    pub versions: Versions,
    /// Whether clients resume earlier sessions. Otherwise every connection makes a full handshake,
    /// as connections of different devices do.
    pub resume: bool,
}

/// Which server certificates clients accept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Certificates that an authority of this PEM file has signed.
    Authorities(PathBuf),
    /// Any certificate: the load is measured, not the server's identity.
    Anyone,
}

/// PEM files with which a client authenticates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Identity {
    /// Certificates with their keys, file by file.
    pub fn pairs(certificates: &[PathBuf], keys: &[PathBuf]) -> Result<Vec<Identity>, String> {
        if certificates.len() != keys.len() {
            let (have, need) = (keys.len(), certificates.len());
            return Err(format!(
                "{need} certificates need as many keys, in their order, not {have}"
            ));
        }
        let pairs = certificates.iter().cloned().zip(keys.iter().cloned());
        Ok(pairs.map(|(certificate, key)| Identity { certificate, key }).collect())
    }
}

/// Versions of TLS that clients offer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub enum Versions {
    /// The server chooses.
    #[default]
    Both,
    /// TLS 1.2 only.
    #[value(name = "1.2", alias = "tlsv1.2")]
    Old,
    /// TLS 1.3 only.
    #[value(name = "1.3", alias = "tlsv1.3")]
    New,
}

impl TlsSettings {
    /// Settings for servers that are called `names`; fails when `names` is empty or a file is
    /// unusable.
    pub fn new(asked: &Asked, names: &[&str]) -> Result<Self, String> {
        let name = |name: &&str| {
            ServerName::try_from((*name).to_string())
                .map_err(|e| format!("the server's name {name}: {e}"))
        };
        let names = names.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err("the server has no name".into());
        }
        let configs = match &asked.identities[..] {
            [] => vec![Arc::new(config(asked, None)?)],
            all => {
                let one = |identity| config(asked, Some(identity)).map(Arc::new);
                all.iter().map(one).collect::<Result<_, _>>()?
            }
        };
        // The library's first random number takes tens of milliseconds; that happens here, before a
        // client connects.
        let _ = aws_lc_rs::default_provider().secure_random.fill(&mut [0; 16]);
        Ok(Self { configs, names })
    }

    fn config(&self, client: u32) -> Arc<ClientConfig> {
        self.configs[client as usize % self.configs.len()].clone()
    }

    fn name(&self, target: usize) -> ServerName<'static> {
        self.names[target % self.names.len()].clone()
    }
}

fn config(asked: &Asked, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: &[&SupportedProtocolVersion] = match asked.versions {
        Versions::Both => &[&TLS13, &TLS12],
        Versions::Old => &[&TLS12],
        Versions::New => &[&TLS13],
    };
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| format!("TLS: {e}"))?;
    let config = match &asked.trust {
        Trust::Authorities(path) => config.with_root_certificates(authorities(path)?),
        Trust::Anyone => {
            config.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
        }
    };
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(Identity { certificate, key }) => {
            let chain = certificates(certificate)?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
            config
                .with_client_auth_cert(chain, secret)
                .map_err(|e| format!("{}: {e}", certificate.display()))?
        }
    };
    config.resumption = match asked.resume {
        true => Resumption::store(Arc::new(Sessions::default())),
        false => Resumption::disabled(),
    };
    // The record layer takes over the secrets; changing keys (KeyUpdate) needs the logged ones.
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(key_log::SecretTap);
    Ok(config)
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

/// Accepts every certificate, and checks only that the server has the certificate's private key.
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

/// Prints the first TLS failure of the process; later ones are usually of the same kind.
fn complain(error: &dyn Display) -> Malformed {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        eprintln!("ringmq-bench: TLS: {error}");
    }
    Malformed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(trust: Trust) -> Result<TlsSettings, String> {
        let asked =
            Asked { trust, identities: Vec::new(), versions: Versions::Both, resume: false };
        TlsSettings::new(&asked, &["broker"])
    }

    #[test]
    fn nothing_is_said_in_the_clear_and_the_clear_is_not_understood() {
        let mut keys = KeyCache::default();
        let mut layer = Layer::new(&settings(Trust::Anyone).unwrap(), 0, 3).unwrap();
        assert!(layer.wants_to_say());
        let mut wire = Vec::new();
        layer.seal(&mut keys, b"\x10\x0e\0\x04MQTT", &mut wire).unwrap();
        assert_eq!(wire[..2], [22, 3], "a handshake record");
        assert!(!wire.windows(4).any(|part| part == b"MQTT"));
        assert!(!layer.wants_to_say());
        let clear = b"\x20\x02\0\0\x03\0\0\x03";
        assert_eq!(layer.open(&mut keys, clear, &mut Vec::new(), &mut wire), Err(Malformed));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let path = std::env::temp_dir().join(format!("ringmq-bench-ca-{}", std::process::id()));
        std::fs::write(&path, "nothing\n").unwrap();
        let error = settings(Trust::Authorities(path.clone())).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("no certificate") && error.contains("ringmq-bench-ca"), "{error}");
    }
}
