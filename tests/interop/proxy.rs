//! Behind haproxy: PROXY headers of both versions, with a checksum and what it knows of TLS, before
//! MQTT, TLS and WebSocket. The clients come from an address of their own, 127.0.0.9.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Broker, patience};
use crate::tls::{Files, succeeds, wait_for_line};

const CLIENT: &str = "127.0.0.9";

/// haproxy with a frontend on each of `ports`.
struct HaProxy {
    child: Child,
    ports: Vec<u16>,
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl HaProxy {
    /// Each frontend has options of its `bind` line, and its server others.
    fn start(files: &Files, frontends: &[(&str, std::net::SocketAddr, &str)]) -> HaProxy {
        let mut config = "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
                          timeout server 60s\n"
            .to_owned();
        let mut ports = Vec::new();
        for (at, (bind, broker, server)) in frontends.iter().enumerate() {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let port = free.expect("a free port").port();
            config += &format!(
                "listen l{at}\n bind 127.0.0.1:{port} {bind}\n server s {broker} {server}\n"
            );
            ports.push(port);
        }
        files.write("haproxy.cfg", &config);
        let path = std::env::var("PATH").expect("a path") + ":/usr/sbin";
        let child = Command::new("haproxy")
            .env("PATH", path)
            .args(["-db", "-f", &files.path("haproxy.cfg")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy is installed: run scripts/test");
        let haproxy = HaProxy { child, ports };
        let end = Instant::now() + patience();
        while std::net::TcpStream::connect(("127.0.0.1", haproxy.ports[0])).is_err() {
            assert!(Instant::now() < end, "haproxy does not listen:\n{config}");
            std::thread::sleep(Duration::from_millis(20));
        }
        haproxy
    }
}

/// `mosquitto_pub` from the clients' address to a port of haproxy.
fn publish(port: u16, client_id: &str) -> Command {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-A", CLIENT, "-h", "127.0.0.1", "-p", &port.to_string(), "-i", client_id]);
    command.args(["-t", "a/b", "-m", "x", "-q", "1"]);
    command
}

fn logged(broker: &Broker, client_id: &str) -> String {
    let id = format!("client_id=\"{client_id}\"");
    wait_for_line(broker, &id);
    let log = broker.log();
    log.lines().find(|line| line.contains(&id)).expect("it was waited for").to_owned()
}

#[test]
fn haproxy_tells_the_address_before_mqtt_tls_and_websocket() {
    let files = Files::new();
    let tls = format!(
        "tls: {{certificate: '{}', private_key: '{}'}}",
        files.path("server.crt"),
        files.path("server.key")
    );
    let listener = |name: &str, more: &str| {
        format!(
            "{{name: {name}, bind: '127.0.0.1:0', proxy_protocol: any, \
             allow_anonymous: true{more}}}"
        )
    };
    let listeners = [
        listener("plain", ""),
        listener("secure", &format!(", type: tls, {tls}")),
        listener("web", ", type: ws"),
        listener("both", &format!(", type: wss, {tls}")),
    ];
    let broker = Broker::start(&[
        &format!("listeners=[{}]", listeners.join(", ")),
        "trusted_proxies=[127.0.0.1]",
        "access.authorization=[{rules: {list: [{allow: all, address: 127.0.0.9/32}]}}]",
        "access.no_match=deny",
    ]);
    let all = "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority";
    let haproxy = HaProxy::start(
        &files,
        &[
            ("", broker.bound("plain"), "send-proxy"),
            ("", broker.bound("plain"), all),
            ("", broker.bound("secure"), "send-proxy"),
            ("", broker.bound("secure"), all),
            ("", broker.bound("web"), all),
            ("", broker.bound("both"), all),
        ],
    );
    let authority = files.path("ca.crt");
    for (at, more) in [(0, false), (1, false), (2, true), (3, true)] {
        let name = format!("h{at}");
        let mut command = publish(haproxy.ports[at], &name);
        if more {
            command.args(["--cafile", &authority]);
        }
        succeeds(&mut command);
        assert!(logged(&broker, &name).contains(&format!("peer={CLIENT}:")), "{}", broker.log());
    }
    for (at, transport) in [(4, "ws"), (5, "wss")] {
        let port = haproxy.ports[at].to_string();
        let name = format!("h{at}");
        let told = crate::python("paho_web.py", &[transport, &port, &authority, CLIENT, &name]);
        println!("{told}");
        assert!(logged(&broker, &name).contains(&format!("peer={CLIENT}:")), "{}", broker.log());
    }
}

#[test]
fn the_name_in_a_certificate_that_haproxy_has_verified_is_the_user_name() {
    let files = Files::new();
    let read = |name: &str| std::fs::read_to_string(files.path(name)).expect("it was written");
    files.write("haproxy.pem", &(read("server.crt") + &read("server.key")));
    let broker = Broker::start(&[
        "listeners=[{name: plain, bind: '127.0.0.1:0', proxy_protocol: v2, proxy_username: cn}]",
        "trusted_proxies=[127.0.0.1]",
        "access.authentication=[{certificate: {}}]",
    ]);
    let bind = format!(
        "ssl crt {} ca-file {} verify optional",
        files.path("haproxy.pem"),
        files.path("ca.crt")
    );
    let server = "send-proxy-v2-ssl-cn proxy-v2-options crc32c,ssl,cert-cn,ssl-cipher";
    let haproxy = HaProxy::start(&files, &[(&bind, broker.bound("plain"), server)]);
    let (certificate, key) = (files.path("good.crt"), files.path("good.key"));
    let mut command = publish(haproxy.ports[0], "named");
    command.args(["--cafile", &files.path("ca.crt"), "--cert", &certificate, "--key", &key]);
    succeeds(&mut command);
    let line = logged(&broker, "named");
    assert!(line.contains("username=\"good\"") && line.contains(CLIENT), "{line}");
    // Without a certificate nobody vouches for the name that CONNECT has.
    let mut command = publish(haproxy.ports[0], "unnamed");
    command.args(["--cafile", &files.path("ca.crt"), "-u", "good"]);
    let refused = command.output().expect("mosquitto_pub is installed");
    assert!(!refused.status.success(), "{}", broker.log());
}
