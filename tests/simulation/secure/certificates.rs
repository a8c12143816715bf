//! Certificates, made once per process, and both ends' settings.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, RevokedCertParams, SerialNumber, date_time_ymd,
};
use ringmq::config::{Config, Sources};
use ringmq::transport::tls::{Server, TicketKeys, provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Clients with certificates; `revoked.crl` names the last.
pub const CLIENTS: usize = 3;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Issuer {
    let mut params = named(name, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::self_signed(params, key()).unwrap()
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn named(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(vec![0x12, serial]));
    params
}

fn crl(issuer: &Issuer, serials: &[u8]) -> String {
    let revoked = |serial: &u8| RevokedCertParams {
        serial_number: SerialNumber::from(vec![0x12, *serial]),
        revocation_time: date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2099, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

/// PEM files by name.
fn files() -> &'static HashMap<String, String> {
    static FILES: OnceLock<HashMap<String, String>> = OnceLock::new();
    FILES.get_or_init(|| {
        let (root, other) = (authority("Simulated CA"), authority("Another CA"));
        let mut files = HashMap::new();
        let mut certify = |name: &str, serial: u8| {
            let mut params = named(name, serial);
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = key();
            let certificate = params.signed_by(&key, &root).unwrap();
            files.insert(format!("{name}.crt"), certificate.pem());
            files.insert(format!("{name}.key"), key.serialize_pem());
        };
        certify("server", 0x20);
        for number in 0..CLIENTS {
            certify(&format!("client-{number}"), 0x30 + number as u8);
        }
        files.insert("none.crl".into(), crl(&root, &[]));
        files.insert("revoked.crl".into(), crl(&root, &[0x30 + CLIENTS as u8 - 1]));
        files.insert("ca.crt".into(), root.pem());
        files.insert("both.crt".into(), root.pem() + &other.pem());
        files
    })
}

/// A listener's TLS by the keys in `tls`, besides those of its own certificate.
pub fn server(tls: &str, tickets: Option<Arc<TicketKeys>>) -> Arc<Server> {
    let text = format!(
        "listeners: [{{type: tls, bind: 127.0.0.1:0, tls: {{certificate: server.crt, \
         private_key: server.key, {tls}}}}}]"
    );
    let config: Config = Sources::default().load_from("sim.yaml", text.as_bytes()).unwrap();
    let read = |path: &Path| {
        let text = files().get(path.to_str().unwrap()).cloned();
        text.map(String::into_bytes).ok_or_else(|| ErrorKind::NotFound.into())
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let section = &config.listeners[0].tls;
    Arc::new(Server::new(section, "sim", tickets, &read, now.as_secs()).unwrap())
}

/// What a client begins with: that certificate, or none, and tickets that it shares with who else
/// has this value.
pub fn client(number: Option<usize>) -> Arc<ClientConfig> {
    let file = |name: &str| files()[name].as_bytes();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(file("ca.crt")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match number {
        None => builder.with_no_client_auth(),
        Some(number) => {
            let chain = CertificateDer::from_pem_slice(file(&format!("client-{number}.crt")));
            let key = PrivateKeyDer::from_pem_slice(file(&format!("client-{number}.key")));
            builder.with_client_auth_cert(vec![chain.unwrap()], key.unwrap()).unwrap()
        }
    })
}
