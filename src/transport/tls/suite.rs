//! The cipher suites and the parameters of each: its AEAD, its hash, the length of its secrets.
//!
//! All suites that rustls offers are here: AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305 in
//! TLS 1.2 and 1.3. In TLS 1.2 the key exchange and the kind of certificate are part of a suite's
//! name; the record layer does not see them.

use aws_lc_rs::{aead, hkdf};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// A version of the protocol with an AEAD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    /// TLS 1.3, AES-128-GCM, SHA-256.
    Tls13Aes128,
    /// TLS 1.3, AES-256-GCM, SHA-384.
    Tls13Aes256,
    /// TLS 1.3, ChaCha20-Poly1305, SHA-256.
    Tls13ChaCha20,
    /// TLS 1.2, AES-128-GCM.
    Tls12Aes128,
    /// TLS 1.2, AES-256-GCM.
    Tls12Aes256,
    /// TLS 1.2, ChaCha20-Poly1305.
    Tls12ChaCha20,
}

/// Bytes of a nonce, and of the initialization vector that it is made from.
pub const NONCE: usize = 12;
/// Bytes of an authentication tag: the same for all suites.
pub const TAG: usize = 16;
/// Bytes of the nonce that AES-GCM records of TLS 1.2 carry (RFC 5288 section 3).
pub const EXPLICIT: usize = 8;
/// Records that one AES-GCM key may protect: 2^24 of full length (RFC 8446 section 5.5 has
/// 2^24.5).
pub const GCM_RECORDS: u64 = 1 << 24;
/// The longest key, bytes.
pub const LONGEST_KEY: usize = 32;

impl Suite {
    /// The suite of a connection from the secrets that rustls has extracted; `None` for an unknown
    /// one.
    pub fn of(version: ProtocolVersion, secrets: &ConnectionTrafficSecrets) -> Option<Suite> {
        let tls13 = match version {
            ProtocolVersion::TLSv1_3 => true,
            ProtocolVersion::TLSv1_2 => false,
            _ => return None,
        };
        Some(match (secrets, tls13) {
            (ConnectionTrafficSecrets::Aes128Gcm { .. }, true) => Suite::Tls13Aes128,
            (ConnectionTrafficSecrets::Aes256Gcm { .. }, true) => Suite::Tls13Aes256,
            (ConnectionTrafficSecrets::Chacha20Poly1305 { .. }, true) => Suite::Tls13ChaCha20,
            (ConnectionTrafficSecrets::Aes128Gcm { .. }, false) => Suite::Tls12Aes128,
            (ConnectionTrafficSecrets::Aes256Gcm { .. }, false) => Suite::Tls12Aes256,
            (ConnectionTrafficSecrets::Chacha20Poly1305 { .. }, false) => Suite::Tls12ChaCha20,
            _ => return None,
        })
    }

    /// True for TLS 1.3.
    pub fn is_tls13(self) -> bool {
        matches!(self, Suite::Tls13Aes128 | Suite::Tls13Aes256 | Suite::Tls13ChaCha20)
    }

    /// The AEAD.
    pub fn aead(self) -> &'static aead::Algorithm {
        match self {
            Suite::Tls13Aes128 | Suite::Tls12Aes128 => &aead::AES_128_GCM,
            Suite::Tls13Aes256 | Suite::Tls12Aes256 => &aead::AES_256_GCM,
            Suite::Tls13ChaCha20 | Suite::Tls12ChaCha20 => &aead::CHACHA20_POLY1305,
        }
    }

    /// The hash of the key schedule; TLS 1.2 needs none after the handshake.
    pub fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Suite::Tls13Aes256 => hkdf::HKDF_SHA384,
            _ => hkdf::HKDF_SHA256,
        }
    }

    /// Bytes that are kept per direction: the traffic secret in TLS 1.3; in TLS 1.2, which derives
    /// its keys from no traffic secret, the key and the initialization vector.
    pub fn secret(self) -> usize {
        match self {
            Suite::Tls13Aes128 | Suite::Tls13ChaCha20 => 32,
            Suite::Tls13Aes256 => 48,
            Suite::Tls12Aes128 | Suite::Tls12Aes256 | Suite::Tls12ChaCha20 => {
                self.aead().key_len() + NONCE
            }
        }
    }

    /// Bytes of the part of the nonce that each record carries.
    pub fn explicit(self) -> usize {
        match self {
            Suite::Tls12Aes128 | Suite::Tls12Aes256 => EXPLICIT,
            _ => 0,
        }
    }

    /// How many records one key may protect.
    pub fn limit(self) -> u64 {
        match self {
            // The only bound is that sequence numbers must not wrap (RFC 8446 section 5.3).
            Suite::Tls13ChaCha20 | Suite::Tls12ChaCha20 => u64::MAX,
            _ => GCM_RECORDS,
        }
    }
}
