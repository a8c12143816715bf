//! TLS where this program is the client: towards the other end of a bridge, NATS, the services that
//! say who a client is, and the management API of a running broker. Turns the files and texts that
//! a configuration names into what rustls needs. The TLS of listeners is in
//! [`crate::transport::tls`].

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// A client of services over HTTP and HTTPS, with a pool of connections.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The authorities that must have signed the certificate of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authorities<'a> {
    /// The authorities that the host trusts.
    Host,
    /// The authorities in a PEM file.
    File(&'a Path),
    /// The authorities in a PEM text that has been read already.
    Pem(&'a str),
}

impl<'a> Authorities<'a> {
    /// Those of the file at `path`, or the host's when the path is empty.
    pub fn at(path: &'a str) -> Authorities<'a> {
        if path.is_empty() { Authorities::Host } else { Authorities::File(Path::new(path)) }
    }
}

/// Makes a store of these authorities, which were read at `place`.
fn trusted(
    place: &dyn Display,
    certificates: Result<Vec<CertificateDer<'static>>, pem::Error>,
) -> Result<RootCertStore, String> {
    let unusable = |error: &dyn Display| format!("ca: {place}: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in certificates.map_err(|error| unusable(&error))? {
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it has no certificate"));
    }
    Ok(roots)
}

/// The PEM files of the certificate that this program shows to servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnCertificate<'a> {
    /// The certificate chain. The program's own certificate comes first.
    pub certificate: &'a Path,
    /// The private key of the certificate.
    pub private_key: &'a Path,
}

impl<'a> OwnCertificate<'a> {
    /// The certificate and key at these paths. `None` when the first path is empty.
    pub fn at(certificate: &'a str, private_key: &'a str) -> Option<OwnCertificate<'a>> {
        let (own, key) = (Path::new(certificate), Path::new(private_key));
        (!certificate.is_empty()).then_some(OwnCertificate { certificate: own, private_key: key })
    }
}

/// The TLS settings of a client. Reads the files.
///
/// # Errors
/// Which of `ca`, `certificate` and `private_key` cannot be used, its file, and why.
pub fn client_config(
    authorities: Authorities<'_>,
    own: Option<OwnCertificate<'_>>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder();
    let builder = match authorities {
        Authorities::Host => builder
            .with_native_roots()
            .map_err(|error| format!("ca: the host has no certificate authorities: {error}"))?,
        Authorities::File(path) => {
            builder.with_root_certificates(trusted(&path.display(), certificates(path))?)
        }
        Authorities::Pem(text) => {
            let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            builder.with_root_certificates(trusted(&"the file of authorities", all)?)
        }
    };
    let Some(OwnCertificate { certificate, private_key }) = own else {
        return Ok(builder.with_no_client_auth());
    };
    let unusable =
        |key: &str, path: &Path, error: &dyn Display| format!("{key}: {}: {error}", path.display());
    let chain =
        certificates(certificate).map_err(|error| unusable("certificate", certificate, &error))?;
    let secret = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| unusable("private_key", private_key, &error))?;
    let config = builder.with_client_auth_cert(chain, secret);
    config.map_err(|error| unusable("certificate", certificate, &error))
}

/// Checks the files of a client whose TLS another library makes. A key that is `hidden` is
/// encrypted, and is for that library to read.
///
/// # Errors
/// Which of `ca`, `certificate` and `private_key` cannot be used, its file, and why.
pub fn check_files(
    authorities: Authorities<'_>,
    own: Option<OwnCertificate<'_>>,
    hidden: bool,
) -> Result<(), String> {
    let wrong =
        |key: &str, path: &Path, error: &dyn Display| format!("{key}: {}: {error}", path.display());
    let all = |key: &str, path: &Path| match certificates(path) {
        Ok(all) if all.is_empty() => Err(wrong(key, path, &"it has no certificate")),
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(key, path, &error)),
    };
    if let Authorities::File(path) = authorities {
        all("ca", path)?;
    }
    let Some(OwnCertificate { certificate, private_key }) = own else { return Ok(()) };
    all("certificate", certificate)?;
    let readable = if hidden {
        std::fs::File::open(private_key).map(drop).map_err(|error| error.to_string())
    } else {
        PrivateKeyDer::from_pem_file(private_key).map(drop).map_err(|error| error.to_string())
    };
    readable.map_err(|error| wrong("private_key", private_key, &error))
}

/// TLS settings that trust no certificate, for a connection that does not use TLS.
pub fn without_authorities() -> ClientConfig {
    ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

/// TLS settings that accept any certificate, for a program that asks a server of its own host
/// whether it lives, and tells it no secret.
pub fn without_checks() -> ClientConfig {
    let schemes = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let verifier = Arc::new(AnyCertificate(schemes.supported_schemes()));
    let builder = ClientConfig::builder().dangerous();
    builder.with_custom_certificate_verifier(verifier).with_no_client_auth()
}

/// Accepts every certificate.
#[derive(Debug)]
struct AnyCertificate(Vec<SignatureScheme>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_key_and_file() {
        let directory =
            std::env::temp_dir().join(format!("ringmq-client-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap().pem();
            (certificate, key.serialize_pem())
        };
        let ((one, one_key), (_, other_key)) = (made("one"), made("other"));
        let empty = file("empty.pem", "");
        let missing = directory.join("missing.pem");
        let certificate = file("one.crt", &one);
        let (private_key, other_key) = (file("one.key", &one_key), file("other.key", &other_key));
        let own = |certificate, private_key| Some(OwnCertificate { certificate, private_key });
        let host = Authorities::File(&certificate);
        for (authorities, own, key, path) in [
            (Authorities::File(&empty), None, "ca", "empty.pem: it has no certificate"),
            (Authorities::File(&missing), None, "ca", "missing.pem"),
            (Authorities::Pem(""), None, "ca", "the file of authorities: it has no certificate"),
            (host, own(&missing, &private_key), "certificate", "missing.pem"),
            (host, own(&certificate, &empty), "private_key", "empty.pem"),
            (host, own(&certificate, &other_key), "certificate", "one.crt"),
        ] {
            let why = client_config(authorities, own).unwrap_err();
            assert!(why.starts_with(&format!("{key}: ")) && why.contains(path), "{why}");
        }
        assert!(client_config(host, own(&certificate, &private_key)).is_ok());
        assert!(client_config(Authorities::Pem(&one), None).is_ok());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
