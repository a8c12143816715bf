use super::*;
use crate::config::{Config, Get, Sources};

fn read(text: &str) -> (Converted, Config) {
    let converted = convert("old.conf", text).expect("it is another broker's");
    let sources = Sources::default();
    let config = sources.load_from("new.yaml", converted.yaml.as_bytes());
    let config = config.unwrap_or_else(|problems| panic!("{problems}\n{}", converted.yaml));
    (converted, config)
}

const MOSQUITTO: &str = "\
# a broker
pid_file /run/mosquitto.pid
persistence true
persistence_location /var/lib/mosquitto/
password_file /etc/mosquitto/passwd
acl_file /etc/mosquitto/acl
max_inflight_messages 20
max_queued_messages 0
persistent_client_expiration 14d
listener 1883 127.0.0.1
listener 8883
certfile /etc/mosquitto/server.crt
keyfile /etc/mosquitto/server.key
cafile /etc/mosquitto/ca.crt
require_certificate true
use_identity_as_username true
tls_version tlsv1.3
listener 9001
protocol websockets
max_connections 100
mount_point web
connection uplink
address broker.example:1883
remote_password hunter2
topic # out 1
";

#[test]
fn a_mosquitto_conf_becomes_our_configuration() {
    let (converted, config) = read(MOSQUITTO);
    assert_eq!(converted.from, SourceFormat::Mosquitto);
    let binds: Vec<String> = config.listeners.iter().map(|l| l.bind.to_string()).collect();
    assert_eq!(binds, ["127.0.0.1:1883", "[::]:8883", "[::]:9001"]);
    let yaml = &converted.yaml;
    for line in [
        "      client_ca: \"/etc/mosquitto/ca.crt\"",
        "      username_from: \"cn\"",
        "      versions: [\"1.3\"]",
        "    type: \"ws\"",
        "    mountpoint: \"web/\"",
        "# 2: pid_file /run/mosquitto.pid",
        "# 24: remote_password …",
    ] {
        assert!(yaml.lines().any(|found| found == line), "{line}\n{yaml}");
    }
    assert!(!yaml.contains("hunter2"));
    // pid_file, the password of the bridge, and the `/` that was added.
    assert_eq!(converted.left, 3, "{yaml}");
    let bridge = config.bridges[0].mqtt.as_ref().unwrap();
    assert_eq!(
        (&*bridge.addresses[0], bridge.topics[0].local().as_str()),
        ("broker.example:1883", "#")
    );
    assert_eq!(config.mqtt.max_inflight.get(), 20);
    assert_eq!(config.mqtt.pending.max_messages.get(), u32::MAX);
    assert_eq!(&*config.storage.path, "/var/lib/mosquitto/");
    assert_eq!(config.access.authentication.len(), 1);
    assert_eq!(config.access.authorization.len(), 1);
}

#[test]
fn mosquitto_without_a_listener_listens_on_loopback_and_lets_everybody_in() {
    let (converted, config) = read("persistence false\n");
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
    assert!(converted.yaml.contains("allow_anonymous: true"), "{}", converted.yaml);
    let (converted, config) = read("port 1884\nmax_connections -1\n");
    assert_eq!(config.listeners[0].bind.to_string(), "[::]:1884");
    assert!(converted.yaml.contains("allow_anonymous: false"), "{}", converted.yaml);
    let (converted, _) = read("listener 1\nallow_anonymous true\n");
    assert!(converted.yaml.contains("allow_anonymous: true"), "{}", converted.yaml);
}

#[test]
fn a_flashmq_conf_becomes_our_configuration() {
    let text = "\
allow_anonymous true
mosquitto_password_file /etc/flashmq/passwd
expire_sessions_after_seconds 86400
thread_count 4
listen {
  protocol mqtt
  port 1883
}
listen {
  protocol websockets
  port 4443
  fullchain /etc/flashmq/server.crt
  privkey /etc/flashmq/server.key
  inet_protocol ip4
  allow_anonymous false
}
";
    let (converted, config) = read(text);
    assert_eq!((converted.from, converted.left), (SourceFormat::FlashMq, 1), "{}", converted.yaml);
    let binds: Vec<String> = config.listeners.iter().map(|l| l.bind.to_string()).collect();
    assert_eq!(binds, ["[::]:1883", "0.0.0.0:4443"]);
    assert_eq!(config.access.authentication.len(), 1);
}

#[test]
fn ours_is_recognized_as_ours() {
    for text in ["", "listeners:\n", "# x\nmqtt: {max_qos: 1}\n", "{}", "log: {level: debug}\n"] {
        assert_eq!(recognize(text), None, "{text}");
    }
    assert_eq!(recognize("# x\n\nlistener 1883\n"), Some(SourceFormat::Mosquitto));
    assert!(convert("x", "mqtt: {}").is_err());
}

/// Whatever the file contains, it stays a value.
#[test]
fn odd_values_stay_values() {
    let text = "listener 1883\nmount_point a: b# \"c\" {/\npersistence true\n\
                persistence_location /var/lib/x: #\"y\nuser \u{7}x\nmax_packet_size 5\nno_such x\n";
    let converted = convert("o\nld", text).expect("it is mosquitto's");
    let config = Sources::default().load_from("new.yaml", converted.yaml.as_bytes());
    let told = config.map_or_else(|problems| problems.to_string(), |_| String::new());
    // The mountpoint has a `#`, which the check of its value reports. The YAML around it can be
    // read.
    assert!(told.lines().all(|line| line.contains("listeners.0.mountpoint")), "{told}");
    assert!(converted.yaml.contains(r#"path: "/var/lib/x: #\"y""#), "{}", converted.yaml);
    assert_eq!(converted.left, 3, "{}", converted.yaml);
}
