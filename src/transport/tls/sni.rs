//! Chooses the certificate that a listener shows to a client, by the server name that the client
//! asks for.

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A listener's certificates.
pub struct Certificates {
    /// For clients that ask for no name, or for one that no certificate of the listener has.
    first: Arc<CertifiedKey>,
    /// By name, in lower case; those for all hosts of a domain begin with `*.`.
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl Certificates {
    /// A listener's only certificate.
    pub fn new(first: Arc<CertifiedKey>) -> Self {
        Certificates { first, by_name: HashMap::new() }
    }

    /// Adds a certificate for `name`.
    pub fn add(&mut self, name: &str, certified: Arc<CertifiedKey>) {
        self.by_name.insert(name.to_ascii_lowercase().into(), certified);
    }

    /// The certificate for `name`: its own, or that of its domain (RFC 6125 section 6.4.3: `*`
    /// stands for one level), or the first.
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = name.to_ascii_lowercase();
        let domain = || self.by_name.get(format!("*.{}", name.split_once('.')?.1).as_str());
        self.by_name.get(name.as_str()).or_else(domain).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or(&self.first, |name| self.find(name)).clone())
    }
}
