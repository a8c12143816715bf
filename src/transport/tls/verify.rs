//! Verifies certificates of clients: webpki, and a check for RSA keys that are too short, which
//! webpki reports only as a bad signature.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// The shortest RSA key that a client may have, bits.
const RSA: usize = 2048;

/// rsaEncryption (RFC 8017 appendix C): every certificate of an RSA key has these bytes.
const RSA_ENCRYPTION: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// A verifier that adds its check to webpki's.
#[derive(Debug)]
pub struct Verifier(Arc<dyn ClientCertVerifier>);

impl Verifier {
    /// Adds the check to `inner`.
    pub fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Verifier(inner)
    }
}

/// The RSA key of a certificate is too short: it has this many bits.
#[derive(Debug)]
pub(super) struct ShortKey(usize);

impl fmt::Display for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its RSA key of {} bits is too short; {RSA} are the least", self.0)
    }
}

impl std::error::Error for ShortKey {}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        // Certificates without an RSA key are not parsed a second time: most devices have ECDSA
        // keys.
        if end_entity.windows(RSA_ENCRYPTION.len()).any(|bytes| *bytes == RSA_ENCRYPTION)
            && let Ok((_, certificate)) = X509Certificate::from_der(end_entity)
            && let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed()
            && key.key_size() < RSA
        {
            let short = OtherError(Arc::new(ShortKey(key.key_size())));
            return Err(Error::InvalidCertificate(CertificateError::Other(short)));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}
