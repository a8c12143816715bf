//! The TLS settings of one listener: certificates, keys, authorities and CRLs, checked after they
//! were read from files. Owns the configuration of rustls, and the answers about certificates that
//! are asked for later.
//!
//! The caller reads the files: at the start, for `--test-config` and for a reload. Nothing here
//! opens a file. A set of files that cannot be used is refused as a whole, with the file and the
//! reason.

use super::alert::{Alert, TlsFailure};
use super::identity::{PeerCertificate, distinguished_name, fingerprint};
use super::key_log;
use super::records::CertificateMark;
use super::sni::Certificates;
use super::ticket::{TicketKeys, Ticketer};
use super::verify::Verifier;
use super::{handshake, provider};
use crate::config::{ClientCertificate, Get, OnRevoked, TlsConfig, TlsVersion, UsernameFrom};
use aws_lc_rs::digest;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Reads a file.
pub type ReadTlsFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Why a set of files cannot be used: the key of the section, the file, the reason, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnusableFile {
    /// The key below `tls`.
    pub key: String,
    /// What is wrong, with the file's name.
    pub what: String,
    /// What to do about it.
    pub fix: &'static str,
}

impl fmt::Display for UnusableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tls.{}: {}; {}", self.key, self.what, self.fix)
    }
}

/// The TLS settings of a listener. All connections that began while one was in force share it.
pub struct Server {
    config: Arc<ServerConfig>,
    /// Whether certificates of clients are verified.
    verifies: bool,
    /// Certificates that are revoked, as [`fingerprint`] names them.
    revoked: HashSet<u64>,
    /// The time until which all of the server's certificates are valid, seconds since 1970.
    pub not_after: u64,
    /// The part of the certificate that becomes the client's user name.
    pub username_from: UsernameFrom,
    /// Whether connections end whose client certificate was revoked or has expired.
    pub ends_revoked: bool,
    /// Milliseconds that a handshake may take.
    pub handshake_timeout: u64,
    /// Most handshakes under way on a core.
    pub max_handshakes: Option<u32>,
    /// Remarks about the files that do not prevent their use.
    pub remarks: Vec<String>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The ticket keys of a section, if it enables tickets. They outlive a reload.
pub fn ticket_keys(section: &TlsConfig) -> Option<Arc<TicketKeys>> {
    let rotate = section.tickets.rotate.get();
    section.tickets.enabled.then(|| TicketKeys::new(rotate))
}

impl Server {
    /// Reads and checks the files that `section` names. `listener` is the listener's name, `now`
    /// the seconds since 1970.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn new(
        section: &TlsConfig,
        listener: &str,
        tickets: Option<Arc<TicketKeys>>,
        read: ReadTlsFile<'_>,
        now: u64,
    ) -> Result<Server, UnusableFile> {
        let files = TlsFiles { read, now };
        let (first, mut not_after) = files.certified(
            "certificate",
            &section.certificate,
            "private_key",
            &section.private_key,
        )?;
        let mut certificates = Certificates::new(first);
        for (at, entry) in section.sni.iter().enumerate() {
            let key = |name: &str| format!("sni.{at}.{name}");
            let (certified, until) = files.certified(
                &key("certificate"),
                &entry.certificate,
                &key("private_key"),
                &entry.private_key,
            )?;
            not_after = not_after.min(until);
            for name in &entry.names.0 {
                covers(&certified, name).map_err(|what| UnusableFile {
                    key: key("names"),
                    what: format!("{what} ({})", &*entry.certificate),
                    fix: "use a certificate that has the name among its alternative names",
                })?;
                certificates.add(name, certified.clone());
            }
        }
        let mut trust = digest::Context::new(&digest::SHA256);
        trust.update(&(listener.len() as u64).to_be_bytes());
        trust.update(listener.as_bytes());
        let mut remarks = Vec::new();
        let (verifier, revoked) = files.verifier(section, &mut trust, &mut remarks)?;
        let verifies = verifier.is_some();
        let bound = trust.finish();
        let config = config(section, verifier, certificates);
        let mut config = config.map_err(|error| UnusableFile {
            key: "certificate".into(),
            what: error.to_string(),
            fix: "use another certificate",
        })?;
        if let (Some(keys), Some(bound)) = (tickets, bound.as_ref().first_chunk()) {
            config.ticketer = Arc::new(Ticketer::new(keys, *bound));
            config.send_tls13_tickets = 1;
        }
        Ok(Server {
            config: Arc::new(config),
            verifies,
            revoked,
            not_after,
            username_from: section.username_from,
            ends_revoked: section.on_revoked == OnRevoked::Disconnect,
            handshake_timeout: section.handshake_timeout.get().as_millis() as u64,
            max_handshakes: section.max_handshakes.get(),
            remarks,
        })
    }

    /// The configuration of rustls.
    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The present time, seconds since 1970.
    pub fn now(&self) -> u64 {
        self.config.time_provider.current_time().map_or(0, |now| now.as_secs())
    }

    /// Checks that a client with this certificate may still connect, and sets its user name. rustls
    /// does not check again when a client resumes an earlier session, because the client shows no
    /// certificate then.
    pub(super) fn check(
        &self,
        certificate: &mut PeerCertificate,
    ) -> Result<(), (Alert, TlsFailure)> {
        if certificate.has_expired(self.now()) {
            return Err(handshake::expired());
        }
        if self.revoked.contains(&certificate.fingerprint) {
            return Err(handshake::revoked());
        }
        let part = self.username_from.part();
        certificate.username = part.and_then(|part| certificate.names.name(part)).map(Into::into);
        if part.is_some() && certificate.username.is_none() {
            return Err(handshake::nameless());
        }
        Ok(())
    }

    /// Why the connection of a client with this certificate has to end; `None` when it may go on.
    pub fn is_over(&self, certificate: CertificateMark, now: u64) -> Option<&'static str> {
        let CertificateMark { fingerprint, not_after } = certificate;
        if !self.verifies || !self.ends_revoked || fingerprint == 0 {
            return None;
        }
        if not_after != 0 && u64::from(not_after) < now {
            return Some("the certificate has expired");
        }
        self.revoked.contains(&fingerprint).then_some("the certificate was revoked")
    }
}

fn config(
    section: &TlsConfig,
    verifier: Option<Arc<Verifier>>,
    certificates: Certificates,
) -> Result<ServerConfig, rustls::Error> {
    let versions: Vec<_> = section
        .versions
        .0
        .iter()
        .map(|version| match version {
            TlsVersion::Tls12 => &rustls::version::TLS12,
            TlsVersion::Tls13 => &rustls::version::TLS13,
        })
        .collect();
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = section.alpn.0.iter().map(|name| name.as_bytes().to_vec()).collect();
    // The broker's order counts: AES-128 first.
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(key_log::SecretTap);
    Ok(config)
}

/// Whether a certificate is for `name`, which may begin with `*.`.
fn covers(certified: &CertifiedKey, name: &str) -> Result<(), String> {
    let example = name.strip_prefix("*.").map(|rest| format!("any.{rest}"));
    let asked = example.as_deref().unwrap_or(name);
    let server = ServerName::try_from(asked).map_err(|_| format!("`{name}` is not a host name"))?;
    let certificate = certified.end_entity_cert().map_err(|error| error.to_string())?;
    let parsed = rustls::server::ParsedCertificate::try_from(certificate);
    let parsed = parsed.map_err(|error| error.to_string())?;
    rustls::client::verify_server_name(&parsed, &server)
        .map_err(|_| format!("the certificate is not for `{name}`"))
}

struct TlsFiles<'a> {
    read: ReadTlsFile<'a>,
    now: u64,
}

/// A certificate chain with its private key, for a `tls` section that has only these two keys, such
/// as that of the admin server: valid at `now` (seconds since 1970). And until when it is valid.
///
/// # Errors
/// A file cannot be read or parsed, or the certificate and the key do not belong together.
pub fn certified(
    certificate: &str,
    private_key: &str,
    read: ReadTlsFile<'_>,
    now: u64,
) -> Result<(Arc<CertifiedKey>, u64), UnusableFile> {
    TlsFiles { read, now }.certified("certificate", certificate, "private_key", private_key)
}

fn unusable(key: &str, what: String, fix: &'static str) -> UnusableFile {
    UnusableFile { key: key.into(), what, fix }
}

impl TlsFiles<'_> {
    fn bytes(&self, key: &str, path: &str) -> Result<Vec<u8>, UnusableFile> {
        (self.read)(Path::new(path)).map_err(|error| {
            unusable(key, format!("{path}: {error}"), "name a file that the broker may read")
        })
    }

    /// A chain with its key, and the time until which it is valid.
    fn certified(
        &self,
        key: &str,
        path: &str,
        secret_key: &str,
        secret_path: &str,
    ) -> Result<(Arc<CertifiedKey>, u64), UnusableFile> {
        let chain = self.chain(key, path)?;
        let until = self.check_chain(key, path, &chain)?;
        let pem = self.bytes(secret_key, secret_path)?;
        let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
            if pem.windows(9).any(|part| part == b"ENCRYPTED") {
                let what = format!("{secret_path}: the key is encrypted");
                return unusable(secret_key, what, "decrypt it, with openssl pkey for example");
            }
            let what = match error {
                pem::Error::NoItemsFound => "there is no private key in it".to_owned(),
                error => error.to_string(),
            };
            unusable(secret_key, format!("{secret_path}: {what}"), "write the key as PEM")
        })?;
        match CertifiedKey::from_der(chain, secret, &provider()) {
            Ok(certified) => Ok((Arc::new(certified), until)),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let what = format!("{secret_path}: it is not the key of {path}");
                Err(unusable(secret_key, what, "name the key that the certificate was made for"))
            }
            Err(error) => {
                let what = format!("{secret_path}: {error}");
                Err(unusable(secret_key, what, "use an RSA key of 2048 bits, ECDSA or Ed25519"))
            }
        }
    }

    fn chain(&self, key: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, UnusableFile> {
        let pem = self.bytes(key, path)?;
        let wrong = |what: String| unusable(key, format!("{path}: {what}"), "write PEM");
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let all = all.map_err(|error| wrong(error.to_string()))?;
        if all.is_empty() {
            return Err(wrong("there is no certificate in it".into()));
        }
        Ok(all)
    }

    /// Checks that each certificate of a chain is valid now and names the next one as its issuer.
    /// Returns the time until which all are valid.
    fn check_chain(
        &self,
        key: &str,
        path: &str,
        chain: &[CertificateDer<'_>],
    ) -> Result<u64, UnusableFile> {
        let mut until = u64::MAX;
        let mut issuer: Option<Vec<u8>> = None;
        for (at, der) in chain.iter().enumerate() {
            let certificate = self.certificate(key, path, at, der)?;
            if issuer.as_deref().is_some_and(|issuer| issuer != certificate.subject().as_raw()) {
                let what = format!("{path}: certificate {} did not sign the one before it", at + 1);
                let fix = "write the server's own certificate first, then the one that signed it";
                return Err(unusable(key, what, fix));
            }
            issuer = Some(certificate.issuer().as_raw().to_vec());
            until = until.min(end(&certificate));
        }
        Ok(until)
    }

    /// Parses a certificate and checks that it is valid now.
    fn certificate<'d>(
        &self,
        key: &str,
        path: &str,
        at: usize,
        der: &'d CertificateDer<'_>,
    ) -> Result<X509Certificate<'d>, UnusableFile> {
        let number = at + 1;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| {
            let what = format!("{path}: certificate {number} cannot be read: {error}");
            unusable(key, what, "write it anew")
        })?;
        let name = distinguished_name(certificate.subject());
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        let what = if now > validity.not_after.timestamp() {
            format!("has expired ({})", validity.not_after)
        } else if now < validity.not_before.timestamp() {
            format!("is not valid before {}", validity.not_before)
        } else {
            return Ok(certificate);
        };
        let what = format!("{path}: certificate {number} ({name}) {what}");
        Err(unusable(key, what, "renew it, or set the clock"))
    }

    /// The verifier of client certificates, if there is one, and the certificates that are revoked.
    fn verifier(
        &self,
        section: &TlsConfig,
        trust: &mut digest::Context,
        remarks: &mut Vec<String>,
    ) -> Result<(Option<Arc<Verifier>>, HashSet<u64>), UnusableFile> {
        let mut revoked = HashSet::new();
        if section.client_ca.is_empty() || section.client_certificate == ClientCertificate::Off {
            return Ok((None, revoked));
        }
        let path = &*section.client_ca;
        let mut roots = RootCertStore::empty();
        for (at, der) in self.chain("client_ca", path)?.into_iter().enumerate() {
            let certificate = self.certificate("client_ca", path, at, &der)?;
            if !certificate.is_ca() {
                let name = distinguished_name(certificate.subject());
                let what = format!("{path}: certificate {} ({name}) is no authority", at + 1);
                let fix = "name the certificate that signed those of the clients";
                return Err(unusable("client_ca", what, fix));
            }
            trust.update(&(der.len() as u64).to_be_bytes());
            trust.update(&der);
            roots.add(der).map_err(|error| {
                unusable("client_ca", format!("{path}: {error}"), "write it anew")
            })?;
        }
        let mut lists = Vec::new();
        for (at, path) in section.crl.0.iter().enumerate() {
            let key = format!("crl.{at}");
            let pem = self.bytes(&key, path)?;
            let wrong = |what: String| unusable(&key, format!("{path}: {what}"), "write PEM");
            let all: Result<Vec<_>, _> =
                CertificateRevocationListDer::pem_slice_iter(&pem).collect();
            let all = all.map_err(|error| wrong(error.to_string()))?;
            if all.is_empty() {
                return Err(wrong("there is no CRL in it".into()));
            }
            for list in all {
                trust.update(&(list.len() as u64).to_be_bytes());
                trust.update(&list);
                self.take_crl(path, &list, &mut revoked, remarks).map_err(wrong)?;
                lists.push(list);
            }
        }
        let optional = section.client_certificate == ClientCertificate::Optional;
        trust.update(&[u8::from(optional)]);
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = match lists.is_empty() {
            true => builder,
            false => builder.with_crls(lists).only_check_end_entity_revocation(),
        };
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        let verifier = builder.build().map_err(|error| {
            unusable("client_ca", format!("{path}: {error}"), "use another certificate")
        })?;
        Ok((Some(Arc::new(Verifier::new(verifier))), revoked))
    }

    /// Adds the certificates that a CRL revokes to `revoked`.
    fn take_crl(
        &self,
        path: &str,
        list: &[u8],
        revoked: &mut HashSet<u64>,
        remarks: &mut Vec<String>,
    ) -> Result<(), String> {
        let (_, list) = CertificateRevocationList::from_der(list)
            .map_err(|error| format!("the CRL cannot be read: {error}"))?;
        let issuer = list.issuer().as_raw();
        let all = list.iter_revoked_certificates();
        revoked.extend(all.map(|one| fingerprint(issuer, one.raw_serial())));
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        if let Some(due) = list.next_update().filter(|due| due.timestamp() < now) {
            remarks.push(format!(
                "{path}: a newer CRL was due {due}; this one is used until there is one"
            ));
        }
        Ok(())
    }
}

fn end(certificate: &X509Certificate<'_>) -> u64 {
    u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0)
}
