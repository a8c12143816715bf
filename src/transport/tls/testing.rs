//! Authorities, certificates and clients for the tests: rustls as the client, in memory.

use super::{
    Advanced, Handshake, KeyCache, Opened, PeerCertificate, Server, Tls, TlsFailure, provider,
    ticket_keys,
};
use crate::config::{Config, Sources};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A chain and its key, PEM.
#[derive(Clone)]
pub struct Certified {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server of these names.
    pub fn server(&self, names: &[&str]) -> Certified {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "server");
        self.sign(params)
    }

    /// A certificate of a client, after `change` was made.
    pub fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names =
            vec![SanType::DnsName(format!("{name}.example").try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(vec![0x12, 0x34]));
        change(&mut params);
        self.sign(params)
    }

    pub fn sign(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certified { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A CRL with these serial numbers.
    pub fn crl(&self, serials: &[&[u8]]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial.to_vec()),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// Files by name.
#[derive(Default, Clone)]
pub struct Files(pub HashMap<String, String>);

impl Files {
    pub fn with(mut self, name: &str, text: &str) -> Files {
        self.0.insert(name.to_owned(), text.to_owned());
        self
    }

    pub fn certified(self, name: &str, certified: &Certified) -> Files {
        self.with(&format!("{name}.crt"), &certified.chain)
            .with(&format!("{name}.key"), &certified.key)
    }

    /// The server that the keys of `tls` describe, with `certificate` and `private_key` added.
    pub fn server(&self, tls: &str) -> Result<Arc<Server>, String> {
        self.server_with(tls, None, "default")
    }

    pub fn server_with(
        &self,
        tls: &str,
        tickets: Option<Arc<super::TicketKeys>>,
        listener: &str,
    ) -> Result<Arc<Server>, String> {
        let own = if tls.starts_with("certificate: ") {
            ""
        } else {
            "certificate: server.crt, private_key: server.key, "
        };
        let text = format!("listeners: [{{type: tls, bind: 127.0.0.1:0, tls: {{{own}{tls}}}}}]");
        let config = Sources::default().load_from("test.yaml", text.as_bytes());
        let config: Config = config.map_err(|problems| problems.to_string())?;
        let section = &config.listeners[0].tls;
        let read = |path: &Path| {
            let text = self.0.get(path.to_str().unwrap()).cloned();
            text.map(String::into_bytes).ok_or_else(|| ErrorKind::NotFound.into())
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let tickets = tickets.or_else(|| ticket_keys(section));
        Server::new(section, listener, tickets, &read, now.as_secs())
            .map(Arc::new)
            .map_err(|unusable| unusable.to_string())
    }
}

/// A client's settings: the authority that it trusts, its certificate, its only suite.
pub fn client_config(
    authority: &Authority,
    certified: Option<&Certified>,
    suite: Option<SupportedCipherSuite>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let mut provider = (*provider()).clone();
    let mut versions = vec![&rustls::version::TLS12, &rustls::version::TLS13];
    if let Some(suite) = suite {
        provider.cipher_suites = vec![suite];
        versions = vec![suite.version()];
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots);
    match certified {
        None => builder.with_no_client_auth(),
        Some(Certified { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap);
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain.collect(), key).unwrap()
        }
    }
}

/// Both ends of a connection.
pub struct Pair {
    pub client: ClientConnection,
    pub server: Arc<Server>,
    pub handshake: Option<Handshake>,
    pub tls: Option<Tls>,
    pub identity: Option<Box<PeerCertificate>>,
    pub resumed: bool,
    pub cache: KeyCache,
    /// The data that the server has received.
    pub heard: Vec<u8>,
    pub opened: Opened,
}

impl Pair {
    pub fn new(config: &Arc<ClientConfig>, server: &Arc<Server>) -> Pair {
        Pair::named(config, server, "localhost")
    }

    pub fn named(config: &Arc<ClientConfig>, server: &Arc<Server>, name: &str) -> Pair {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Pair {
            client: ClientConnection::new(config.clone(), name).unwrap(),
            server: server.clone(),
            handshake: Some(Handshake::default()),
            tls: None,
            identity: None,
            resumed: false,
            cache: KeyCache::default(),
            heard: Vec::new(),
            opened: Opened::All,
        }
    }

    /// The bytes that the client wants to send.
    pub fn client_says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Gives bytes to the server; returns its answer.
    pub fn server_takes(&mut self, bytes: &[u8]) -> Result<Vec<u8>, (TlsFailure, Vec<u8>)> {
        let mut out = Vec::new();
        let Some(handshake) = &mut self.handshake else {
            self.open(bytes, &mut out);
            return Ok(out);
        };
        handshake.add(bytes);
        loop {
            match handshake.advance(&self.server, &mut self.cache, &mut out) {
                Ok(Advanced::Wait) => return Ok(out),
                Ok(Advanced::Again) => {}
                Ok(Advanced::Done(established)) => {
                    self.tls = Some(established.tls);
                    self.identity = established.identity;
                    self.resumed = established.resumed;
                    self.handshake = None;
                    self.open(&established.rest, &mut out);
                    return Ok(out);
                }
                Err(failure) => return Err((failure, out)),
            }
        }
    }

    fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let tls = self.tls.as_mut().unwrap().layer();
        self.opened = tls.open(&mut self.cache, bytes, &mut self.heard, out);
    }

    /// Gives bytes to the client; returns the data in them, or its error.
    pub fn client_takes(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut plain = Vec::new();
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets()?;
            match self.client.reader().read_to_end(&mut plain) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        Ok(plain)
    }

    /// Makes the whole handshake.
    pub fn shake(&mut self) -> Result<(), TlsFailure> {
        for _ in 0..10 {
            let bytes = self.client_says();
            let answer = match self.server_takes(&bytes) {
                Ok(answer) => answer,
                Err((failure, alert)) => {
                    let _ = self.client_takes(&alert);
                    return Err(failure);
                }
            };
            self.client_takes(&answer).unwrap();
            if self.tls.is_some() && !self.client.wants_write() {
                return Ok(());
            }
        }
        panic!("the handshake does not end");
    }

    pub fn client_writes(&mut self, plain: &[u8]) {
        self.client.writer().write_all(plain).unwrap();
    }

    pub fn server_writes(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.tls.as_mut().unwrap().layer().seal(&mut self.cache, plain, &mut out);
        out
    }

    /// Sends a line each way and checks that it arrives.
    pub fn talk(&mut self) {
        self.heard.clear();
        self.client_writes(b"to the server");
        let bytes = self.client_says();
        let answer = self.server_takes(&bytes).unwrap();
        assert_eq!(self.opened, Opened::All);
        assert_eq!(self.heard, b"to the server");
        let mut bytes = answer;
        bytes.extend(self.server_writes(b"to the client"));
        assert_eq!(self.client_takes(&bytes).unwrap(), b"to the client");
    }
}

/// An authority, and files with the certificate and the key of a server that it has signed.
pub fn usual() -> (Authority, Files) {
    let authority = Authority::new("Test CA");
    let files = Files::default()
        .certified("server", &authority.server(&["localhost", "*.wild.example"]))
        .with("ca.crt", &authority.pem());
    (authority, files)
}
