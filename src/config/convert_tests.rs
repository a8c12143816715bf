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

/// The listeners of a converted file: bind, type and whether everybody is let in.
fn listeners(config: &Config) -> Vec<(String, &'static str, bool)> {
    let shown = |l: &crate::config::ListenerConfig| {
        (l.bind.to_string(), l.kind.word(), l.allow_anonymous.0 == Some(true))
    };
    config.listeners.iter().map(shown).collect()
}

#[test]
fn lines_of_a_listener_without_an_address_are_not_carried_over_to_another() {
    let tls = "certfile c\nkeyfile k\ncafile a\nrequire_certificate true\nmount_point x/\n";
    let text = format!("listener 1883 127.0.0.1\nlistener 8883 broker.example\n{tls}");
    let (converted, config) = read(&text);
    assert_eq!(listeners(&config), [("127.0.0.1:1883".to_owned(), "tcp", false)]);
    assert_eq!(&*config.listeners[0].mountpoint, "");
    assert_eq!(converted.left, 6, "{}", converted.yaml);
    let lost = "# 3: certfile c\n#     its listener was not carried over\n";
    assert!(converted.yaml.contains(lost), "{}", converted.yaml);
    // Without any listener that could be carried over, none is opened.
    let converted = convert("old.conf", "listener 1883 broker.example\n").unwrap();
    assert!(converted.yaml.contains("\nlisteners: []\n"), "{}", converted.yaml);
}

#[test]
fn a_listener_is_open_only_if_mosquitto_has_it_open() {
    let two = "listener 1883 127.0.0.1\nallow_anonymous true\n\
               listener 8883\ncertfile c\nkeyfile k\n";
    let binds =
        |open| [("127.0.0.1:1883".to_owned(), "tcp", true), ("[::]:8883".to_owned(), "tls", open)];
    assert_eq!(listeners(&read(&format!("per_listener_settings true\n{two}")).1), binds(false));
    assert_eq!(listeners(&read(&format!("per_listener_settings false\n{two}")).1), binds(true));
    assert_eq!(listeners(&read(two).1), binds(true));
    let again = format!("allow_anonymous true\n{two}allow_anonymous false\n");
    let closed: Vec<bool> = listeners(&read(&again).1).into_iter().map(|(.., open)| open).collect();
    assert_eq!(closed, [false, false], "the last one counts for all");
    let by_default = "per_listener_settings true\nallow_anonymous true\nport 1\nlistener 2\n";
    let open: Vec<bool> = listeners(&read(by_default).1).into_iter().map(|(.., o)| o).collect();
    assert_eq!(open, [true, false]);
}

#[test]
fn no_secret_is_copied() {
    let text = "listener 1883\nauth_opt_mysql_pass hunter2\nauth_opt_jwt_secret hunter2\n\
                plugin_opt_dsn hunter2\npsk_hint hunter2\nremote_pasword hunter2\n\
                connection a\naddress h\ntopic #\nlocal_password hunter2\nremote_pas hunter2\n";
    let converted = convert("old.conf", text).unwrap();
    assert!(!converted.yaml.contains("hunter2"), "{}", converted.yaml);
    assert!(converted.yaml.contains("# 2: auth_opt_mysql_pass …\n"), "{}", converted.yaml);
    let text = "plugin_opt_key hunter2\nlog_fil hunter2\nlisten {\nport 1\npas hunter2\n}\n\
                bridge {\nremote_password hunter2\n}\n";
    let converted = convert("old.conf", text).unwrap();
    assert_eq!(converted.from, SourceFormat::FlashMq);
    assert!(!converted.yaml.contains("hunter2"), "{}", converted.yaml);
}

#[test]
fn what_needs_something_else_is_carried_over_only_with_it() {
    // Each of these is read by the check of our own configuration.
    for (lines, left) in [
        ("certfile c\nkeyfile k\nuse_identity_as_username true\n", 1),
        ("certfile c\nkeyfile k\ncrlfile r\n", 1),
        ("certfile c\nkeyfile k\ncafile a\ncrlfile r\nuse_subject_as_username true\n", 3),
        ("certfile c\nkeyfile k\ncafile a\nrequire_certificate true\ncrlfile r\n", 0),
        ("socket_domain ipv6\n", 0),
    ] {
        let (converted, config) = read(&format!("listener 8883\n{lines}"));
        assert_eq!(converted.left, left, "{}", converted.yaml);
        assert_eq!(config.listeners[0].v6only, lines.contains("ipv6"));
    }
    assert_eq!(read("listener 1 ::1\nsocket_domain ipv6\n").0.left, 0);
    assert_eq!(read("listener 1 127.0.0.1\nsocket_domain ipv6\n").0.left, 1);
}

#[test]
fn a_listener_of_flashmq_has_an_address_of_each_family() {
    let binds = |lines: &str| -> Vec<(String, bool)> {
        let config = read(&format!("listen {{\nport 1883\n{lines}}}\n")).1;
        config.listeners.iter().map(|l| (l.bind.to_string(), l.v6only)).collect()
    };
    let one = |bind: &str, only| (bind.to_owned(), only);
    assert_eq!(binds(""), [one("[::]:1883", false)]);
    assert_eq!(
        binds("inet4_bind_address 10.0.0.1\ninet6_bind_address fd00::1\n"),
        [one("10.0.0.1:1883", false), one("[fd00::1]:1883", false)]
    );
    assert_eq!(
        binds("inet4_bind_address 10.0.0.1\n"),
        [one("10.0.0.1:1883", false), one("[::]:1883", true)]
    );
    assert_eq!(
        binds("inet_protocol ip6\ninet6_bind_address fd00::1\n"),
        [one("[fd00::1]:1883", false)]
    );
}

#[test]
fn the_path_of_websockets_is_said() {
    let told = |text: &str| convert("old.conf", text).unwrap().yaml.contains("the path /mqtt");
    assert!(told("listener 9001\nprotocol websockets\n") && !told("listener 1883\n"));
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
