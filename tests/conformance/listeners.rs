//! What a listener may be given, on listeners of every type: a bound on connections and on their
//! pace, a prefix of topics, and whether clients need a user name. And two brokers that start at
//! the same moment on one address.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::broker::program;
use crate::support::tunnel::Identity;
use crate::support::web::Web;
use crate::support::{Broker, Connect, Publish, V5, eventually, patience, unique};

const TYPES: [&str; 5] = ["tcp", "tls", "ws", "wss", "unix"];
/// Reason codes of CONNACK.
const SUCCESS: u8 = 0;
const NOT_AUTHORIZED: u8 = 0x87;
const QUOTA_EXCEEDED: u8 = 0x97;
const RATE_EXCEEDED: u8 = 0x9F;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A client of a listener of any type.
struct Peer {
    stream: Box<dyn Stream>,
    web: Option<Web>,
    come: Vec<u8>,
}

impl Peer {
    fn send(&mut self, packet: &[u8]) {
        let bytes = match &mut self.web {
            Some(web) => web.wrap(packet),
            None => packet.to_vec(),
        };
        // Who was hung up on finds out when it reads.
        let _ = self.stream.write_all(&bytes);
    }

    /// The reason code of the CONNACK that comes, of MQTT 5; none when it is hung up on.
    fn connack(&mut self) -> Option<u8> {
        let mut chunk = [0; 4096];
        while self.come.len() < 4 {
            let count = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                read => read.expect("an answer in time"),
            };
            match &mut self.web {
                _ if count == 0 => return None,
                Some(web) => self.come.extend(web.unwrap(&chunk[..count])),
                None => self.come.extend(&chunk[..count]),
            }
        }
        // The length takes one or two bytes.
        let at = if self.come[1] < 0x80 { 3 } else { 4 };
        assert_eq!(self.come[0], 0x20, "{:x?}", self.come);
        Some(self.come[at])
    }
}

/// One directory for the files of certificates and of unix sockets.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Place {
    /// A listener of that type with these further keys.
    fn listener(&self, kind: &str, name: &str, more: &str) -> String {
        let file = |name: &str| self.0.join(name).display().to_string();
        let bind = match kind {
            "unix" => file(&format!("{name}.sock")),
            _ => "127.0.0.1:0".to_owned(),
        };
        let (certificate, key) = (file("server.crt"), file("server.key"));
        let tls = match kind {
            "tls" | "wss" => {
                format!(", tls: {{certificate: '{certificate}', private_key: '{key}'}}")
            }
            _ => String::new(),
        };
        format!("{{name: {name}, type: {kind}, bind: '{bind}'{tls}, {more}}}")
    }
}

/// Where each listener is reached, by its name: over TLS through a tunnel.
struct Doors<'a> {
    broker: &'a Broker,
    place: &'a Place,
    identity: &'a Identity,
    tunnels: std::collections::HashMap<String, SocketAddr>,
}

impl Doors<'_> {
    #[track_caller]
    fn connect(&mut self, kind: &str, name: &str, packet: &[u8]) -> Peer {
        let stream: Box<dyn Stream> = if kind == "unix" {
            let path = self.place.0.join(format!("{name}.sock"));
            let stream = UnixStream::connect(path).expect("the broker accepts");
            stream.set_read_timeout(Some(patience())).expect("a time-out");
            Box::new(stream)
        } else {
            let bound = self.broker.bound(name);
            let address = match kind {
                "tls" | "wss" => {
                    let tunnel = || self.identity.clone().tunnel(bound);
                    *self.tunnels.entry(name.to_owned()).or_insert_with(tunnel)
                }
                _ => bound,
            };
            let stream = TcpStream::connect(address).expect("the broker accepts");
            stream.set_read_timeout(Some(patience())).expect("a time-out");
            Box::new(stream)
        };
        let web = kind.starts_with("ws").then(Web::default);
        let mut peer = Peer { stream, web, come: Vec::new() };
        peer.send(packet);
        peer
    }
}

fn hello() -> Vec<u8> {
    Connect::new(V5, unique("door")).encode()
}

#[test]
fn bounds_prefix_and_anonymous_clients_are_those_of_the_listener_whatever_its_type() {
    let place = Place(std::env::temp_dir().join(unique("ringmq-listeners")));
    std::fs::create_dir_all(&place.0).expect("a temporary directory");
    let identity = Identity::write(&place.0);
    let mut listeners = vec!["{name: default, bind: '127.0.0.1:0', allow_anonymous: true}".into()];
    for kind in TYPES {
        for (name, more) in [
            ("few", "max_connections: 1, mountpoint: 'T/${client_id}/', allow_anonymous: true"),
            ("slow", "max_connect_rate: 1, allow_anonymous: true"),
            ("known", "allow_anonymous: false"),
        ] {
            let more = more.replace('T', kind);
            listeners.push(place.listener(kind, &format!("{name}-{kind}"), &more));
        }
    }
    let broker = Broker::start(&[&format!("listeners=[{}]", listeners.join(", "))]);
    let tunnels = Default::default();
    let mut doors = Doors { broker: &broker, place: &place, identity: &identity, tunnels };
    for kind in TYPES {
        let (few, slow, known) =
            (format!("few-{kind}"), format!("slow-{kind}"), format!("known-{kind}"));
        let id = unique("mounted");
        let mut sub = Connect::new(V5, unique("sub")).open_at(&broker, false);
        sub.granted(&format!("{kind}/{id}/a"), 0);
        let mut first = doors.connect(kind, &few, &Connect::new(V5, &id).encode());
        assert_eq!(first.connack(), Some(SUCCESS), "{kind}");
        let mut second = doors.connect(kind, &few, &hello());
        // Nobody makes a handshake only to be told.
        let told = |reason: u8| (!matches!(kind, "tls" | "wss")).then_some(reason);
        assert_eq!(second.connack(), told(QUOTA_EXCEEDED), "{kind}: max_connections");
        first.send(&Publish::new("a", 0, "under its prefix").encode(V5));
        sub.expect("under its prefix");
        // A place is free again once the first has gone.
        drop((first, second));
        eventually("there is a place again", || {
            doors.connect(kind, &few, &hello()).connack() == Some(SUCCESS)
        });

        let pace = |_| doors.connect(kind, &slow, &hello()).connack();
        let paces: Vec<Option<u8>> = (0..4).map(pace).collect();
        assert_eq!(paces[0], Some(SUCCESS), "{kind}: {paces:x?}");
        assert!(paces.contains(&told(RATE_EXCEEDED)), "{kind}: max_connect_rate: {paces:x?}");

        let refused = doors.connect(kind, &known, &hello()).connack();
        assert_eq!(refused, Some(NOT_AUTHORIZED), "{kind}: allow_anonymous");
    }
}

#[test]
fn of_two_brokers_that_start_at_the_same_moment_on_one_port_one_is_refused() {
    for _ in 0..3 {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let bind = format!("listeners.0.bind={}", free.expect("a free port"));
        let start = || {
            program()
                .args(["--set", &bind, "--set", "cores=[0]"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it starts")
        };
        let mut both = [start(), start()];
        let mut ended = None;
        eventually("one of them ends", || {
            ended = both.iter_mut().position(|one| matches!(one.try_wait(), Ok(Some(_))));
            ended.is_some()
        });
        let (other, ended) = (1 - ended.expect("one"), ended.expect("one"));
        let code = both[ended].wait().expect("its status can be read").code();
        let still = both[other].try_wait().expect("its status can be read");
        both[other].kill().expect("it can be ended");
        let _ = both[other].wait();
        assert_eq!(code, Some(1));
        assert_eq!(still, None, "the other one goes on");
    }
}
