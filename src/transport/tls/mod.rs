//! TLS 1.2 and 1.3, with and without certificates of clients. Pure: it turns bytes into bytes.
//!
//! rustls makes the handshake (`handshake`). Then its secrets are extracted, its connection is
//! dropped, and a record layer of ours (`records`) takes over with two secrets, two sequence
//! numbers and a few flags. That is at most 112 bytes for an idle client with AES-128, or with
//! ChaCha20 in TLS 1.3, and 144 with the other suites, where rustls's own connection keeps 9 KB and
//! OpenSSL's 25 to 59. Expanded keys are derived when they are needed, and each shard keeps a few
//! of them (`keys`).
//!
//! The kernel's TLS is not used: it would need a descriptor per socket to be set up with, keeps
//! several kilobytes per connection in the kernel, and does not know KeyUpdate before Linux 6.14.
//!
//! Deliberately absent: CBC suites, RSA key exchange, versions below 1.2, pre-shared keys without
//! certificates, compression, and early data, because it can be replayed. rustls offers none of the
//! first four.

mod alert;
mod established;
mod handshake;
mod identity;
mod key_log;
mod keys;
mod messages;
mod moved;
mod records;
mod server;
mod sni;
mod suite;
mod ticket;
mod verify;

pub use alert::{Alert, TlsFailure, TlsFailureKind};
pub use established::{Tls, TlsSide};
pub use handshake::{Advanced, Established, Handshake};
pub use identity::PeerCertificate;
pub use key_log::HandshakeSecrets;
pub use keys::KeyCache;
pub use records::{CertificateMark, Opened, RecordLayer, Records, Sealed};
pub use server::{ReadTlsFile, Server, UnusableFile, certified, ticket_keys};
pub use ticket::TicketKeys;

use crate::mutant;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, CipherSuite, Error};
use std::sync::Arc;

/// The cryptography of the handshakes: aws-lc-rs, with the AES-128 suites preferred. Deriving keys
/// with SHA-384 costs three times as much, and AES-256 needs more memory per client.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 1,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 2,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 3,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => 4,
        _ => 5,
    });
    Arc::new(provider)
}

/// Draws a first random number on the calling thread. It takes the library tens of milliseconds,
/// for which no client should have to wait. Each thread has a generator of its own.
pub fn warm_up() {
    let mut bytes = [0; 16];
    // If this fails, the first handshake fails as well and reports it.
    let _ = ::aws_lc_rs::rand::fill(&mut bytes);
}

/// An error of rustls as a [`TlsFailure`], for the log and the counters.
fn refused(error: &Error) -> TlsFailure {
    let kind = match error {
        Error::NoCertificatesPresented => TlsFailureKind::NoCertificate,
        Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsFailureKind::CertificateExpired,
            CertificateError::Revoked
            | CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => {
                TlsFailureKind::CertificateRevoked
            }
            CertificateError::UnknownIssuer => TlsFailureKind::UnknownAuthority,
            _ => TlsFailureKind::BadCertificate,
        },
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => {
            TlsFailureKind::NothingInCommon
        }
        Error::AlertReceived(_) => TlsFailureKind::ClientAlert,
        Error::General(_) | Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => {
            TlsFailureKind::Internal
        }
        _ => TlsFailureKind::Protocol,
    };
    let what = match error {
        Error::NoCertificatesPresented => "the client showed no certificate".to_owned(),
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            format!("the client's certificate: {other}")
        }
        Error::InvalidCertificate(why) => {
            let words = match kind {
                TlsFailureKind::UnknownAuthority => "it leads to no authority that is trusted here",
                TlsFailureKind::CertificateExpired => "it has expired, or is not yet valid",
                TlsFailureKind::CertificateRevoked if *why == CertificateError::Revoked => {
                    "it was revoked"
                }
                TlsFailureKind::CertificateRevoked => "no CRL says whether it was revoked",
                _ => return TlsFailure::new(kind, format!("the client's certificate: {why}")),
            };
            format!("the client's certificate: {words}")
        }
        Error::AlertReceived(alert) => format!("the client sent the alert {alert:?}"),
        other => other.to_string(),
    };
    TlsFailure::new(kind, what)
}

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod records_tests;
#[cfg(test)]
mod testing;
