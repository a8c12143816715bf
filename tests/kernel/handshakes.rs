//! Hostile beginnings on a TLS listener: thousands of handshakes that stand still, what is no TLS,
//! records that are too long, single bytes. Others notice nothing, memory has its bound, each end
//! is counted by its reason, and who comes to shake hands in the middle of it gets in.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::probe::{beside, figure, memory};
use crate::reset::most_connections;
use crate::support::tunnel::Identity;
use crate::support::*;

/// A broker with a plain listener and a secure one, whose handshakes may take so many seconds.
struct Ground {
    broker: Broker,
    identity: Identity,
    directory: PathBuf,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Ground {
    fn new(seconds: u32) -> Ground {
        let directory = std::env::temp_dir().join(unique("ringmq-handshakes"));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let identity = Identity::write(&directory);
        let file = |name: &str| directory.join(name).display().to_string();
        let secure = format!(
            "{{name: secure, type: tls, bind: '127.0.0.1:0', allow_anonymous: true, tls: \
             {{certificate: '{}', private_key: '{}', handshake_timeout: {seconds}s}}}}",
            file("server.crt"),
            file("server.key"),
        );
        let plain = "{name: default, bind: '127.0.0.1:0', allow_anonymous: true}";
        let listeners = format!("listeners=[{plain}, {secure}]");
        let broker = Broker::start(&[&listeners, "admin.bind=127.0.0.1:0"]);
        Ground { broker, identity, directory }
    }

    fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.broker.bound("secure")).expect("it accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(patience())).expect("a time-out");
        stream
    }

    /// Handshakes that have failed for that reason.
    fn failed(&self, reason: &str) -> u64 {
        let labels = format!("reason=\"{reason}\"");
        self.broker.metric("ringmq_tls_handshakes_failed_total", &labels) as u64
    }

    fn under_way(&self) -> u64 {
        self.broker.metric("ringmq_tls_handshakes_under_way", "") as u64
    }

    /// Somebody who means it gets in.
    fn lets_in(&self) {
        let address: SocketAddr = self.identity.clone().tunnel(self.broker.bound("secure"));
        let mut client = Client::at(address, V5);
        client.send(&Connect::new(V5, unique("newcomer")).encode());
        assert_eq!(client.connack().code, 0);
        client.ping();
    }
}

/// A whole ClientHello in its record.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a Vec takes everything");
    hello
}

#[test]
fn ten_thousand_handshakes_that_stand_still_disturb_nobody_and_take_bounded_memory() {
    let _alone = machine();
    let count = most_connections(10_000);
    let ground = Ground::new(5);
    let hello = client_hello();
    // One round before the one that is measured: what is allocated once is allocated.
    ground.lets_in();
    let before = memory(&ground.broker);
    let mut most = (before, 0);
    let ((), trips) = beside(&ground.broker, "stalled handshakes", || {
        let begun = Instant::now();
        let mut streams = Vec::with_capacity(count);
        for number in 0..count {
            let mut stream = ground.open();
            // Whose answer is not read; some have said a part only.
            let said = if number % 10 == 0 { &hello[..hello.len() / 2] } else { &hello[..] };
            stream.write_all(said).expect("it is read");
            streams.push(stream);
            if number % 500 == 0 {
                most = (most.0.max(memory(&ground.broker)), most.1.max(ground.under_way()));
            }
        }
        ground.lets_in();
        let over = || ground.failed("shed") + ground.failed("timed_out");
        let end = Instant::now() + 6 * patience();
        while over() < count as u64 {
            assert!(Instant::now() < end, "{} of {count} are over", over());
            most = (most.0.max(memory(&ground.broker)), most.1.max(ground.under_way()));
            std::thread::sleep(Duration::from_millis(50));
        }
        let (shed, late) = (ground.failed("shed"), ground.failed("timed_out"));
        let text = format!("{count} over in {:?}: {shed} shed, {late} late", begun.elapsed());
        figure("stalled handshakes", &text);
    });
    let grown = most.0.saturating_sub(before);
    figure("stalled handshakes", &format!("{grown} KiB more, {} under way at once", most.1));
    assert!(trips.count() > 0);
    let shards = broker::shards() as u64;
    assert!(most.1 > 0 && most.1 <= 1000 * shards, "{} under way", most.1);
    // Of a handshake that is under way up to 20 KiB, of one that waits its hello; and of what
    // was allocated meanwhile. Without a bound it would be that of all: 11 KiB each.
    let bound = 20 * 1000 * shards + 2 * count as u64 + 16 * 1024;
    assert!(grown < bound, "{grown} KiB more, of {bound}");
    assert_eq!(ground.under_way(), 0);
    ground.lets_in();
}

/// What is sent in place of a ClientHello, and the reason by which its end is counted.
fn garbage() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let hello = client_hello();
    let mut length_of_message = hello.clone();
    // A ClientHello of 16 MiB - 1, of which this is the first record.
    length_of_message[6..9].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut version = hello.clone();
    version[1] = 2;
    let mut cut = hello.clone();
    // The message ends within its extensions.
    let length = u16::from_be_bytes([cut[3], cut[4]]) - 60;
    cut.truncate(5 + usize::from(length));
    cut[3..5].copy_from_slice(&length.to_be_bytes());
    cut[6..9].copy_from_slice(&u32::from(length - 4).to_be_bytes()[1..]);
    vec![
        ("MQTT", Connect::new(V5, "plain").encode(), "not_tls"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), "not_tls"),
        ("zeros", vec![0; 600], "not_tls"),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10], "not_tls"),
        ("another major version", version, "not_tls"),
        // 2^14 + 2,048 + 1 bytes.
        ("a record that is too long", vec![22, 3, 1, 0x48, 0x01], "not_tls"),
        ("an alert first", vec![21, 3, 3, 0, 2, 2, 40], "protocol"),
        ("data first", [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(), "protocol"),
        ("a hello that ends too early", cut, "protocol"),
        ("a hello of 16 MiB", length_of_message, "protocol"),
    ]
}

#[test]
fn what_is_no_handshake_is_refused_at_once_counted_and_disturbs_nobody() {
    let _alone = machine();
    let ground = Ground::new(60);
    let (refused, trips) = beside(&ground.broker, "garbage for handshakes", || {
        let mut refused = 0;
        for (name, bytes, reason) in garbage() {
            let before = ground.failed(reason);
            for _ in 0..50 {
                let mut stream = ground.open();
                let _ = stream.write_all(&bytes);
                // An alert, and the end; or the end alone, when it came before all was read.
                let mut answer = Vec::new();
                let ended = stream.read_to_end(&mut answer);
                let timed_out = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                assert!(!timed_out, "{name}: it is not ended");
                assert!(answer.is_empty() || answer[0] == 21, "{name}: {answer:x?}");
                refused += 1;
            }
            eventually(name, || ground.failed(reason) == before + 50);
        }
        refused
    });
    assert_eq!(refused, 500);
    assert!(trips.count() > 0);
    assert_eq!(ground.under_way(), 0);
    ground.lets_in();
}

#[test]
fn a_handshake_by_single_bytes_ends_in_its_time() {
    let ground = Ground::new(3);
    let hello = client_hello();
    let mut streams: Vec<TcpStream> = (0..100).map(|_| ground.open()).collect();
    let begun = Instant::now();
    for byte in &hello[..hello.len() - 1] {
        // Those that were ended say so when they are read.
        let mut alive = 0;
        for stream in &mut streams {
            alive += usize::from(stream.write_all(&[*byte]).is_ok());
        }
        if alive == 0 || ground.failed("timed_out") == 100 {
            break;
        }
        assert!(begun.elapsed() < 6 * patience(), "they live on");
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("all are over", || ground.failed("timed_out") == 100);
    assert!(begun.elapsed() >= Duration::from_secs(2), "they had their time");
    ground.lets_in();
}
