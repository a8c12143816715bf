//! What an idle client costs beyond a plain one, by what its connection consists of. Bytes of the
//! shard's memory, exactly: the difference that another crowd of the same kind makes.

use super::{LIVE, connect_packet, settle_with, shard_with};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use ringmq::config::{Config, Sources};
use ringmq::ids::{ListenerId, Peer, SocketId};
use ringmq::outgoing::{Outgoing, Segment};
use ringmq::shard::{Action, Shard};
use ringmq::transport::tls::{Server, provider};
use ringmq::transport::{Stack, Web};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Clients that are there before, and of the crowd that is counted: whole chunks of the table of
/// layers, and no step at which its list of chunks grows.
const BEFORE: u32 = 3 * 512;
const CROWD: u32 = 512;
/// Milliseconds after which no key of an idle client is kept, nor a buffer of its beginning.
const QUIET: u64 = 10_000;

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// PEM files by name: an authority's, a server's and a client's.
struct Files(Vec<(&'static str, String)>);

impl Files {
    fn new() -> Files {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut files = Files(vec![("ca.crt", authority.pem())]);
        for (certificate, private_key) in
            [("server.crt", "server.key"), ("client.crt", "client.key")]
        {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            files.0.push((certificate, params.signed_by(&key, &authority).unwrap().pem()));
            files.0.push((private_key, key.serialize_pem()));
        }
        files
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.0.iter().find(|(known, _)| *known == name).unwrap().1.as_bytes()
    }

    fn server(&self) -> Arc<Server> {
        let text = "listeners: [{type: tls, bind: 127.0.0.1:0, tls: {certificate: server.crt, \
                    private_key: server.key, client_ca: ca.crt}}]";
        let config: Config = Sources::default().load_from("test.yaml", text.as_bytes()).unwrap();
        let read = |path: &Path| Ok(self.bytes(path.to_str().unwrap()).to_vec());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let server = Server::new(&config.listeners[0].tls, "test", None, &read, now.as_secs());
        Arc::new(server.unwrap())
    }

    fn client(&self, suite: CipherSuite) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.bytes("ca.crt")).unwrap()).unwrap();
        let mut provider = (*provider()).clone();
        provider.cipher_suites.retain(|one| one.suite() == suite);
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(self.bytes("client.crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.bytes("client.key")).unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = builder.with_client_auth_cert(chain, key).unwrap();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

/// A client's end until it has its CONNACK. Its TLS, its WebSocket, and what it has to say.
struct Client {
    tls: Option<ClientConnection>,
    web: bool,
    says: Vec<u8>,
    heard: Vec<u8>,
}

impl Client {
    fn new(name: &str, tls: Option<&Arc<ClientConfig>>, web: bool) -> Client {
        let mut says = connect_packet(name, 3600);
        if web {
            let length = u8::try_from(says.len()).unwrap();
            // The mask is zero: the payload stays as it is.
            let frame = [&[0x82, 0x80 | length, 0, 0, 0, 0][..], &says].concat();
            says = [REQUEST, &frame].concat();
        }
        let tls = tls.map(|config| {
            let name = ServerName::try_from("localhost").unwrap();
            ClientConnection::new(config.clone(), name).unwrap()
        });
        Client { tls, web, says, heard: Vec::new() }
    }

    /// What it sends next.
    fn speaks(&mut self) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return std::mem::take(&mut self.says) };
        if !tls.is_handshaking() {
            tls.writer().write_all(&std::mem::take(&mut self.says)).unwrap();
        }
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn hears(&mut self, mut bytes: &[u8]) {
        let Some(tls) = &mut self.tls else { return self.heard.extend_from_slice(bytes) };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).unwrap();
            tls.process_new_packets().unwrap();
            match tls.reader().read_to_end(&mut self.heard) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A CONNACK that says yes has come, and nothing after it is on its way.
    fn is_in(&self) -> bool {
        let packets = match self.web {
            true => self.heard.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 6),
            false => Some(0),
        };
        let packet = packets.and_then(|at| self.heard.get(at..)).unwrap_or_default();
        matches!(packet, [0x20, _, 0, 0, ..])
    }
}

fn bytes_of(outgoing: &Outgoing) -> Vec<u8> {
    match outgoing {
        Outgoing::One(bytes) => bytes.clone(),
        Outgoing::Many(segments) => segments.iter().flat_map(of_segment).collect(),
    }
}

fn of_segment(segment: &Segment) -> Vec<u8> {
    match segment {
        Segment::Bytes(bytes) => bytes.clone(),
        Segment::Shared(..) => panic!("no message is large here"),
    }
}

/// Lets one client in.
fn admit(shard: &mut Shard, socket: SocketId, now: u64, mut client: Client) {
    shard.accepted(socket, ListenerId(0), Peer::Unix);
    for _ in 0..100 {
        let bytes = client.speaks();
        if !bytes.is_empty() {
            shard.received(socket, &bytes);
        }
        settle_with(shard, now, |action| {
            if let Action::Send(_, outgoing) = action {
                client.hears(&bytes_of(outgoing));
            }
        });
        if client.is_in() {
            return;
        }
    }
    panic!("client {} is not let in: {:?}", socket.0, client.heard);
}

/// Bytes per idle client whose connection is of that kind.
fn bytes_per_client(
    server: Option<&Arc<Server>>,
    tls: Option<&Arc<ClientConfig>>,
    web: bool,
) -> i64 {
    let web_of = || Some(Web { path: "/mqtt".into(), origins: None });
    let stack = Stack { tls: tls.is_some(), web: web.then(web_of).flatten(), ..Stack::default() };
    let mut shard = shard_with(stack);
    if let Some(server) = server {
        shard.secure(ListenerId(0), server.clone());
    }
    let mut now = 1;
    let mut grown = |numbers: Range<u32>| {
        let before = LIVE.get();
        for number in numbers {
            let client = Client::new(&format!("client-{number:06}"), tls, web);
            admit(&mut shard, SocketId(number), now, client);
        }
        for _ in 0..QUIET / 500 {
            now += 500;
            settle_with(&mut shard, now, |_| {});
        }
        LIVE.get() - before
    };
    grown(0..BEFORE);
    let grown = grown(BEFORE..BEFORE + CROWD);
    assert_eq!(shard.audit().connections, (BEFORE + CROWD) as usize);
    grown / i64::from(CROWD)
}

#[test]
fn idle_clients_over_tls_and_websocket_take_few_bytes_more_than_plain_ones() {
    let files = Files::new();
    let server = files.server();
    let (short, long) = (
        files.client(CipherSuite::TLS13_AES_128_GCM_SHA256),
        files.client(CipherSuite::TLS13_AES_256_GCM_SHA384),
    );
    let plain = bytes_per_client(None, None, false);
    let beyond = |tls: Option<&Arc<ClientConfig>>, web| {
        bytes_per_client(tls.map(|_| &server), tls, web) - plain
    };
    let found = [
        beyond(None, true),
        beyond(Some(&short), false),
        beyond(Some(&long), false),
        beyond(Some(&short), true),
    ];
    println!(
        "plain {plain}; beyond: ws {}, tls {}, tls {}, wss {}",
        found[0], found[1], found[2], found[3]
    );
    assert!(found[0] <= 16, "WebSocket: {} bytes", found[0]);
    // Secrets, sequence numbers and flags; the place of the layers beside the connection.
    assert!(found[1] <= 112 + 16, "mutual TLS with AES-128: {} bytes", found[1]);
    assert!(found[2] <= 160 + 16, "mutual TLS with AES-256: {} bytes", found[2]);
    assert!(found[3] <= 112 + 32 + 16, "WebSocket over mutual TLS: {} bytes", found[3]);
}
