//! TLS to the other end of a bridge: rustls, with the host's authorities or those of a file, and a
//! client certificate if there is one.

use crate::config::BridgeTls;
use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// What TLS is spoken with, read from its files.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn client_config(tls: &BridgeTls) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder();
    let builder = if tls.ca.is_empty() {
        builder
            .with_native_roots()
            .map_err(|error| format!("tls: the host has no certificate authorities: {error}"))?
    } else {
        builder.with_root_certificates(authorities(&tls.ca)?)
    };
    if tls.certificate.is_empty() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let unusable = |path: &str, error: &dyn std::fmt::Display| format!("tls: {path}: {error}");
    let chain = CertificateDer::pem_file_iter(&*tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(&tls.certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(&*tls.private_key)
        .map_err(|error| unusable(&tls.private_key, &error))?;
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map_err(|error| unusable(&tls.certificate, &error))
}

/// TLS that trusts nobody, for an end that is not spoken to with it.
pub fn without_authorities() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    Arc::new(builder.with_no_client_auth())
}

fn authorities(path: &str) -> Result<RootCertStore, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("tls.ca: {path}: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it has no certificate"));
    }
    Ok(roots)
}
