//! A real mosquitto bridges to the broker, both ways, as its manual shows it: `topic X/# both 1`.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Broker, Client, Connect, Next, Publish, V311, eventually, unique};

/// A mosquitto with a bridge.
struct Mosquitto {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl Mosquitto {
    /// Bridges everything under `topic` to `broker`; `more` are further lines of the connection.
    fn bridge(broker: &Broker, topic: &str, more: &str) -> Mosquitto {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it has an address");
        drop(free);
        let directory = std::env::temp_dir().join(unique("ringmq-bridge"));
        fs::create_dir(&directory).expect("a directory");
        let file = directory.join("mosquitto.conf");
        let (port, uplink) = (address.port(), broker.address());
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nconnection uplink\n\
             address {uplink}\ntopic {topic}/# both 1\nrestart_timeout 1\n{more}"
        );
        fs::write(&file, text).expect("its file");
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new("mosquitto")
            .env("PATH", path)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed: run scripts/test, or apt install mosquitto");
        let mosquitto = Mosquitto { child, address, directory };
        eventually("mosquitto listens", || std::net::TcpStream::connect(address).is_ok());
        mosquitto
    }

    fn client(&self, name: &str) -> Client {
        let mut client = Client::at(self.address, V311);
        client.send(&Connect::new(V311, unique(name)).encode());
        assert_eq!(client.connack().code, 0);
        client
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The topics of everything up to the message that says `end`, sorted.
fn until_end(client: &mut Client) -> Vec<String> {
    let mut topics = Vec::new();
    loop {
        let publish = client.message();
        match publish.text().as_str() {
            "end" => break,
            "probe" => {}
            _ => topics.push(publish.topic),
        }
    }
    topics.sort_unstable();
    topics
}

fn bridged(shards: usize, more: &str) {
    let broker = Broker::start_with(&[], shards);
    let topic = unique("plant");
    let mosquitto = Mosquitto::bridge(&broker, &topic, more);
    let mut near = Client::subscriber(&broker, V311, &unique("near"), &format!("{topic}/#"), 1);
    let mut far = mosquitto.client("far");
    far.granted(&format!("{topic}/#"), 1);
    let mut publisher = Client::connect(&broker, V311, &unique("p"));
    let mut distant = mosquitto.client("distant");
    eventually("the bridge is up", || {
        publisher.publish(&Publish::new(format!("{topic}/probe"), 0, "probe"));
        matches!(far.read(Duration::from_millis(200)), Next::Packet(_))
    });
    let mut expected = Vec::new();
    for number in 0..20 {
        let (near, far) = (format!("{topic}/near/{number}"), format!("{topic}/far/{number}"));
        publisher.publish(&Publish::new(&near, 1, "x"));
        distant.publish(&Publish::new(&far, 1, "x"));
        expected.extend([near, far]);
    }
    let (kept, kept_far) = (format!("{topic}/kept"), format!("{topic}/kept-far"));
    publisher.publish(&Publish::new(&kept, 1, "x").retain());
    distant.publish(&Publish::new(&kept_far, 1, "x").retain());
    expected.extend([kept.clone(), kept_far.clone()]);
    expected.sort_unstable();
    // Through the bridge and back: an echo would have come before its end.
    distant.publish(&Publish::new(format!("{topic}/end"), 1, "end"));
    assert_eq!(until_end(&mut near), expected, "{shards} shards {more:?}: here");
    publisher.publish(&Publish::new(format!("{topic}/end"), 1, "end"));
    // It has seen two ends by then, the first of which did not go through the bridge.
    let mut got = until_end(&mut far);
    got.extend(until_end(&mut far));
    got.sort_unstable();
    assert_eq!(got, expected, "{shards} shards {more:?}: there");
    // Retained messages are retained on the other side.
    for (mut reader, topic) in [
        (mosquitto.client("reader"), &kept),
        (Client::connect(&broker, V311, &unique("reader")), &kept_far),
    ] {
        reader.granted(topic, 1);
        assert!(reader.expect("x").retain, "{shards} shards {more:?}: {topic}");
    }
}

#[test]
fn a_mosquitto_bridge_gets_no_echo_and_keeps_what_is_retained() {
    for shards in [1, 3] {
        bridged(shards, "");
    }
}

#[test]
fn a_mosquitto_bridge_of_other_versions() {
    for version in ["mqttv31", "mqttv50"] {
        bridged(1, &format!("bridge_protocol_version {version}\n"));
    }
}
