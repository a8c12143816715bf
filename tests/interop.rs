//! Interoperation: real clients against the broker. Nothing is skipped: what is not installed fails
//! the test and says how to install it; `scripts/test` installs all of it.

#[path = "interop/access.rs"]
mod access;
#[path = "interop/answers.rs"]
mod answers;
#[path = "interop/bridge.rs"]
mod bridge;
#[path = "interop/bridge_failures.rs"]
mod bridge_failures;
#[path = "interop/bridge_upgrade.rs"]
mod bridge_upgrade;
#[path = "interop/bridging.rs"]
mod bridging;
#[path = "interop/cluster.rs"]
mod cluster;
#[path = "interop/cluster_load.rs"]
mod cluster_load;
#[path = "interop/cluster_upgrade.rs"]
mod cluster_upgrade;
#[path = "interop/durable.rs"]
mod durable;
#[path = "interop/fleet.rs"]
mod fleet;
#[cfg(feature = "kafka")]
#[path = "interop/kafka.rs"]
mod kafka;
#[path = "interop/kubernetes.rs"]
mod kubernetes;
#[path = "interop/lanes.rs"]
mod lanes;
#[path = "interop/limits.rs"]
mod limits;
#[path = "interop/management.rs"]
mod management;
#[path = "interop/migration.rs"]
mod migration;
#[path = "interop/nats_security.rs"]
mod nats_security;
#[path = "interop/otlp.rs"]
mod otlp;
#[path = "interop/prometheus.rs"]
mod prometheus;
#[path = "interop/proxy.rs"]
mod proxy;
#[path = "interop/refusing.rs"]
mod refusing;
#[path = "interop/reloading.rs"]
mod reloading;
#[path = "interop/slow.rs"]
mod slow;
#[path = "interop/stores.rs"]
mod stores;
#[path = "support/mod.rs"]
mod support;
#[path = "interop/tls.rs"]
mod tls;
#[path = "interop/webhook.rs"]
mod webhook;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Broker, patience, unique};

fn host_and_port() -> (String, String) {
    let address = Broker::plain().address();
    (address.ip().to_string(), address.port().to_string())
}

/// Runs to the end and returns standard output; fails on an exit code other than zero.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?}: {error}. Run scripts/test, which installs what it needs")
    });
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Runs a script of this directory with the libraries that `scripts/test` has installed.
#[track_caller]
fn python(script: &str, arguments: &[&str]) -> String {
    output(&mut script_of_python(script, arguments))
}

/// The same with a text to read.
#[track_caller]
fn python_reading(script: &str, arguments: &[&str], input: &str) -> String {
    let file = std::env::temp_dir().join(unique("ringmq-input"));
    std::fs::write(&file, input).expect("a temporary file");
    let reading = std::fs::File::open(&file).expect("it was just written");
    let _ = std::fs::remove_file(&file);
    output(script_of_python(script, arguments).stdin(reading))
}

#[track_caller]
fn script_of_python(script: &str, arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".venv/bin/python");
    assert!(
        python.exists(),
        "no {}: run scripts/test, or `python3 -m venv .venv && .venv/bin/pip install paho-mqtt \
         prometheus-client kubernetes-validate`",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(root.join("tests/interop").join(script)).args(arguments);
    command
}

#[test]
fn paho_for_python() {
    let (host, port) = host_and_port();
    println!("{}", python("paho_clients.py", &[&host, &port]));
}

#[test]
fn paho_for_python_over_websockets() {
    let broker = Broker::start(&["listeners.0.type=ws"]);
    let (host, port) = (broker.address().ip().to_string(), broker.address().port().to_string());
    println!("{}", python("paho_clients.py", &[&host, &port, "websockets"]));
}

#[test]
fn prometheus_reads_the_metrics() {
    let broker = Broker::start(&["admin.bind=127.0.0.1:0"]);
    let log = broker.log();
    let (_, rest) = log.split_once("admin=127.0.0.1:").expect("`ready` names the admin server");
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let (host, mqtt) = (broker.address().ip().to_string(), broker.address().port().to_string());
    let publish = ["-h", &host, "-p", &mqtt, "-t", "a/b", "-m", "x", "-q", "1"];
    output(Command::new("mosquitto_pub").args(publish));
    println!("{}", python("prometheus_page.py", &["127.0.0.1", &port]));
}

/// mosquitto_pub, mosquitto_sub or mosquitto_rr with an address and a version.
fn mosquitto(program: &str, version: &str, arguments: &[&str]) -> Command {
    let (host, port) = host_and_port();
    let mut command = Command::new(program);
    command.args(["-h", &host, "-p", &port, "-V", version]).args(arguments);
    command
}

/// A mosquitto_sub whose subscription has been acknowledged.
struct Sub {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Sub {
    #[track_caller]
    fn start(version: &str, arguments: &[&str]) -> Sub {
        // It writes whole blocks to a pipe unless told otherwise.
        let (host, port) = host_and_port();
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-h", &host, "-p", &port, "-V", version, "-d"])
            .args(["-W", &patience().as_secs().to_string()])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect(
                "mosquitto_sub is installed: run scripts/test, or apt install mosquitto-clients",
            );
        let output = child.stdout.take().expect("a pipe");
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = send.send(line);
            }
        });
        let sub = Sub { child, lines };
        while !sub.line().starts_with("Subscribed") {}
        sub
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(patience() + Duration::from_secs(1)).expect("a line of output")
    }

    /// The next line that is a message and not a debugging line of the client.
    #[track_caller]
    fn message(&self) -> String {
        loop {
            let line = self.line();
            if !line.starts_with("Client ") && !line.starts_with("Subscribed") {
                return line;
            }
        }
    }
}

impl Drop for Sub {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

#[test]
fn mosquitto_pub_and_sub() {
    for version in VERSIONS {
        let topic = unique("mosquitto");
        let sub = Sub::start(version, &["-t", &topic, "-q", "2"]);
        for (n, qos) in ["0", "1", "2"].into_iter().enumerate() {
            let message = format!("hello {n}");
            output(&mut mosquitto(
                "mosquitto_pub",
                version,
                &["-t", &topic, "-m", &message, "-q", qos],
            ));
            assert_eq!(sub.message(), message, "{version} QoS {qos}");
        }
    }
}

#[test]
fn mosquitto_retained_messages() {
    for version in VERSIONS {
        let topic = unique("mosquitto");
        let publish = ["-t", &topic, "-m", "kept", "-q", "1", "-r"];
        output(&mut mosquitto("mosquitto_pub", version, &publish));
        let arguments = ["-t", &topic, "-C", "1", "-F", "%r %t %p", "-W", "10"];
        let got = output(&mut mosquitto("mosquitto_sub", version, &arguments));
        assert_eq!(got.trim(), format!("1 {topic} kept"), "{version}");
        output(&mut mosquitto("mosquitto_pub", version, &["-t", &topic, "-n", "-q", "1", "-r"]));
    }
}

#[test]
fn mosquitto_request_and_response() {
    for version in ["mqttv311", "mqttv5"] {
        let (question, answer) = (unique("question"), unique("answer"));
        let sub = Sub::start(version, &["-t", &question, "-q", "1"]);
        let mut command = mosquitto(
            "mosquitto_rr",
            version,
            &["-t", &question, "-e", &answer, "-m", "what?", "-q", "1", "-W", "10"],
        );
        let asking = command.stdout(Stdio::piped()).spawn().expect("mosquitto_rr is installed");
        assert_eq!(sub.message(), "what?");
        let reply = ["-t", &answer, "-m", "that", "-q", "1"];
        output(&mut mosquitto("mosquitto_pub", version, &reply));
        let got = asking.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&got.stdout).trim(), "that", "{version}");
    }
}

#[test]
fn mosquitto_properties() {
    let topic = unique("mosquitto");
    let sub = Sub::start("mqttv5", &["-t", &topic, "-F", "%C|%R|%D|%P|%p"]);
    let publish = [
        "-t",
        &topic,
        "-m",
        "x",
        "-q",
        "1",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "publish",
        "response-topic",
        "answers",
        "-D",
        "publish",
        "correlation-data",
        "42",
        "-D",
        "publish",
        "user-property",
        "name",
        "value",
    ];
    output(&mut mosquitto("mosquitto_pub", "mqttv5", &publish));
    assert_eq!(sub.message(), "text/plain|answers|42|name:value|x");
}

#[test]
fn mosquitto_wills() {
    let topic = unique("mosquitto");
    let sub = Sub::start("mqttv311", &["-t", &topic, "-q", "1"]);
    let arguments = ["-t", "unused", "--will-topic", &topic, "--will-payload", "gone"];
    drop(Sub::start("mqttv311", &arguments));
    assert_eq!(sub.message(), "gone");
}

mod rumqtt {
    //! rumqttc, the client most Rust programs use: its own codec and state machine.

    use super::*;

    /// Number n was sent with QoS n % 3. A broker may pass QoS 2 on when PUBREL comes, so order
    /// holds for each QoS [MQTT-4.6.0-5].
    #[track_caller]
    fn in_order_for_each_qos(got: &[String]) {
        let numbers: Vec<usize> = got.iter().map(|n| n.parse().expect("a number")).collect();
        for qos in 0..3 {
            let of_qos: Vec<_> = numbers.iter().copied().filter(|n| n % 3 == qos).collect();
            assert_eq!(of_qos, (qos..30).step_by(3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn version_3_1_1() {
        use rumqttc::{Client, Event, Incoming, LastWill, MqttOptions, QoS};
        let topic = unique("rumqttc");
        let options = |name: &str| {
            let address = Broker::plain().address();
            let mut options =
                MqttOptions::new(unique(name), address.ip().to_string(), address.port());
            options.set_keep_alive(Duration::from_secs(30));
            options
        };
        let (sub, mut connection) = Client::new(options("s"), 100);
        let mut next = move || loop {
            match connection.recv_timeout(patience()).expect("an event").expect("no error") {
                Event::Incoming(Incoming::Publish(publish)) => return publish.payload.to_vec(),
                Event::Incoming(Incoming::SubAck(ack)) => {
                    return format!("{:?}", ack.return_codes).into();
                }
                _ => {}
            }
        };
        sub.subscribe(&topic, QoS::ExactlyOnce).expect("queued");
        assert_eq!(next(), b"[Success(ExactlyOnce)]");
        let mut willing = options("p");
        willing.set_last_will(LastWill::new(&topic, "gone", QoS::AtLeastOnce, false));
        let (publisher, mut connection) = Client::new(willing, 100);
        let publishing = std::thread::spawn(move || {
            // Until it is told to vanish, after all acknowledgements.
            let mut acknowledged = 0;
            while acknowledged < 20 {
                let event = connection.recv_timeout(patience()).expect("an event");
                let event = event.expect("no error");
                acknowledged += usize::from(matches!(
                    event,
                    Event::Incoming(Incoming::PubAck(_) | Incoming::PubComp(_))
                ));
            }
        });
        for n in 0..30 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][n % 3];
            publisher.publish(&topic, qos, false, n.to_string()).expect("queued");
        }
        let got: Vec<_> = (0..30).map(|_| String::from_utf8(next()).expect("text")).collect();
        in_order_for_each_qos(&got);
        publishing.join().expect("all were acknowledged");
        assert_eq!(next(), b"gone");
    }

    #[test]
    fn version_5() {
        use rumqttc::v5::mqttbytes::{QoS, v5::Packet, v5::PublishProperties};
        use rumqttc::v5::{Client, Event, MqttOptions};
        let topic = unique("rumqttc");
        let options = |name: &str| {
            let address = Broker::plain().address();
            let mut options =
                MqttOptions::new(unique(name), address.ip().to_string(), address.port());
            options.set_keep_alive(Duration::from_secs(30));
            options
        };
        let (sub, mut connection) = Client::new(options("s"), 100);
        sub.subscribe(&topic, QoS::ExactlyOnce).expect("queued");
        let mut next = move || loop {
            match connection.recv_timeout(patience()).expect("an event").expect("no error") {
                Event::Incoming(Packet::Publish(publish)) => return Some(publish),
                Event::Incoming(Packet::SubAck(_)) => return None,
                _ => {}
            }
        };
        assert!(next().is_none(), "the SUBACK comes first");
        let (publisher, mut connection) = Client::new(options("p"), 100);
        let publishing = std::thread::spawn(move || {
            let mut acknowledged = 0;
            while acknowledged < 20 {
                let event = connection.recv_timeout(patience()).expect("an event");
                let event = event.expect("no error");
                acknowledged += usize::from(matches!(
                    event,
                    Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))
                ));
            }
        });
        let properties = PublishProperties {
            content_type: Some("text/plain".into()),
            user_properties: vec![("a".into(), "b".into()), ("a".into(), "c".into())],
            ..PublishProperties::default()
        };
        for n in 0..30 {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][n % 3];
            publisher
                .publish_with_properties(&topic, qos, false, n.to_string(), properties.clone())
                .expect("queued");
        }
        let mut got = Vec::new();
        for _ in 0..30 {
            let publish = next().expect("a message");
            got.push(String::from_utf8(publish.payload.to_vec()).expect("text"));
            assert_eq!(publish.properties, Some(properties.clone()));
        }
        in_order_for_each_qos(&got);
        publishing.join().expect("all were acknowledged");
    }
}

/// The commands of README.md that `scripts/tour` runs, and those that it does run.
fn tours() -> (String, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("it can be read");
    let (readme, script) = (read("README.md"), read("scripts/tour"));
    let (_, section) = readme.split_once("## Two minutes with real clients").expect("a section");
    let shown = section.split("```").nth(3).expect("its second block");
    let (_, run) = script.split_once("compares them).\n").expect("the line before the commands");
    (shown.strip_prefix("sh\n").expect("shell").to_owned(), run.to_owned())
}

#[test]
fn the_tour_of_the_readme_works_as_shown() {
    let (shown, run) = tours();
    assert_eq!(shown, run, "README.md shows other commands than scripts/tour runs");
    // The clients and the broker find a free port without a word more on their command lines.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a free port").port();
    let directory = std::env::temp_dir().join(unique("ringmq-tour"));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    for client in ["mosquitto_pub", "mosquitto_sub"] {
        std::fs::write(directory.join(client), format!("-p {port}\n")).expect("it is ours");
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ringmq"), directory.join("ringmq"))
        .expect("it is ours");
    let path = std::env::var("PATH").expect("a path");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/tour");
    // In time: what hangs is to be a failure with its output.
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120"]).arg(script);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGMQ_") {
            command.env_remove(name);
        }
    }
    command
        .env("PATH", format!("{}:{path}", directory.display()))
        .env("XDG_CONFIG_HOME", &directory)
        .env("RINGMQ_LISTENERS__0__BIND", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null());
    let ended = command.output().expect("`timeout` is there");
    let (out, err) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    let said = format!("{}\n{out}\n{err}", ended.status);
    assert!(ended.status.success(), "{said}");
    let promised = shown.lines().filter_map(|line| Some(line.split_once("# -> ")?.1));
    let promised: Vec<&str> = promised.collect();
    assert!(promised.len() >= 3, "{promised:?}");
    for line in promised {
        assert!(out.lines().any(|found| found == line), "no `{line}`: {said}");
    }
    for n in 1..=4 {
        let done = out.lines().filter(|line| line.ends_with(&format!(" does job {n}")));
        assert_eq!(done.count(), 1, "job {n}: {said}");
    }
    assert!(err.contains("summary of a shard") && err.contains("draining"), "{said}");
    let _ = std::fs::remove_dir_all(directory);
}
