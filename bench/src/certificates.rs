//! Certificates for brokers that are started with TLS, and for their clients: ECDSA P-256, the kind
//! that devices commonly have. Each run makes its own, in files of the run's temporary directory.

use crate::clients::tls::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Paths of the certificates and keys of one run.
#[derive(Clone, Debug)]
pub struct TestCertificates {
    /// The root certificate that both sides trust.
    pub authority: PathBuf,
    /// The server's certificate and key.
    pub server: Identity,
    /// The clients' certificates and keys; empty when clients show none.
    pub clients: Vec<Identity>,
}

impl TestCertificates {
    /// The value of `tls` in a listener of RingMQ.
    pub fn ringmq(&self) -> String {
        let (certificate, key) = (self.server.certificate.display(), self.server.key.display());
        let mut text = format!("{{certificate: {certificate}, private_key: {key}");
        if !self.clients.is_empty() {
            text.push_str(&format!(", client_ca: {}", self.authority.display()));
        }
        text.push('}');
        text
    }

    /// The lines about TLS in a listener of Mosquitto.
    pub fn mosquitto(&self) -> String {
        let (certificate, key) = (self.server.certificate.display(), self.server.key.display());
        let mut text = format!("certfile {certificate}\nkeyfile {key}\n");
        if !self.clients.is_empty() {
            let authority = self.authority.display();
            text.push_str(&format!("cafile {authority}\nrequire_certificate true\n"));
        }
        text
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// Makes a root authority, a server's certificate below an intermediate authority, and `clients`
/// client certificates with chains of `chain` certificates.
pub fn make(directory: &Path, clients: u32, chain: u8) -> Result<TestCertificates, String> {
    let fail = |e: &dyn std::fmt::Display| format!("certificates in {}: {e}", directory.display());
    fs::create_dir_all(directory).map_err(|e| fail(&e))?;
    write_all(directory, clients, chain).map_err(|e| fail(&e))
}

fn write_all(
    directory: &Path,
    clients: u32,
    chain: u8,
) -> Result<TestCertificates, Box<dyn std::error::Error>> {
    let root = Issuer::self_signed(authority("Bench Root"), KeyPair::generate()?)?;
    let below = Issuer::signed_by(authority("Bench Servers"), KeyPair::generate()?, &root)?;
    let path = directory.join("ca.pem");
    fs::write(&path, root.pem())?;
    let server = write(directory, "server", &below, &below.pem())?;
    let mut issuers = vec![root];
    for depth in 1..chain {
        let above = issuers.last().ok_or("no authority")?;
        let name = format!("Bench Devices {depth}");
        issuers.push(Issuer::signed_by(authority(&name), KeyPair::generate()?, above)?);
    }
    let rest: String = issuers.iter().skip(1).rev().map(|issuer| issuer.pem()).collect();
    let last = issuers.last().ok_or("no authority")?;
    let clients =
        (0..clients).map(|number| write(directory, &format!("device-{number}"), last, &rest));
    Ok(TestCertificates { authority: path, server, clients: clients.collect::<Result<_, _>>()? })
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Writes a certificate signed by `issuer`, followed by the PEM text `rest`, and its private key.
fn write(
    directory: &Path,
    name: &str,
    issuer: &Issuer,
    rest: &str,
) -> Result<Identity, Box<dyn std::error::Error>> {
    let mut params = CertificateParams::new(vec!["localhost".to_string()])?;
    params.distinguished_name = named(name);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let secret = KeyPair::generate()?;
    let certificate = directory.join(format!("{name}.pem"));
    fs::write(&certificate, params.signed_by(&secret, issuer)?.pem() + rest)?;
    let key = directory.join(format!("{name}.key"));
    fs::write(&key, secret.serialize_pem())?;
    Ok(Identity { certificate, key })
}
