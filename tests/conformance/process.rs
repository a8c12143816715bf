//! The program: signals, exit codes, and the configuration it refuses.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::broker::{program, run};
use crate::support::reason::*;
use crate::support::*;

#[test]
fn sigterm_drains_and_ends_with_zero() {
    for signal in ["-TERM", "-INT"] {
        let broker = Broker::start(&["shutdown.grace=5s"]);
        let mut five: Vec<_> = (0..8).map(|_| Client::connect(&broker, V5, &unique("c"))).collect();
        let mut three: Vec<_> =
            (0..8).map(|_| Client::connect(&broker, V311, &unique("c"))).collect();
        let _silent = TcpStream::connect(broker.address()).expect("it accepts");
        let start = Instant::now();
        broker.signal(signal);
        for c in &mut five {
            c.expect_disconnect(&[SHUTTING_DOWN]);
        }
        three.iter_mut().for_each(Client::expect_closed);
        assert_eq!(broker.wait(Duration::from_secs(8)), Some(0));
        assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());
        assert!(TcpStream::connect(broker.address()).is_err(), "it still listens");
    }
}

#[test]
fn what_was_acknowledged_is_delivered_before_the_end() {
    let broker = Broker::start(&["shutdown.grace=5s"]);
    let topic = unique("drain");
    let mut sub = Client::subscriber(&broker, V5, &unique("s"), &topic, 0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for n in 0..500 {
        c.publish(&Publish::new(&topic, 1, n.to_string()));
    }
    broker.signal("-TERM");
    for n in 0..500 {
        sub.expect(&n.to_string());
    }
    sub.expect_disconnect(&[SHUTTING_DOWN]);
    assert_eq!(broker.wait(Duration::from_secs(8)), Some(0));
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let broker = Broker::start(&["shutdown.grace=1s"]);
    let topic = unique("stuck");
    let _stuck = Client::subscriber(&broker, V5, &unique("s"), &topic, 0);
    let mut c = Client::connect(&broker, V5, &unique("p"));
    for _ in 0..20 {
        c.publish(&Publish::new(&topic, 1, vec![0; 500_000]));
    }
    broker.signal("-TERM");
    assert_eq!(broker.wait(Duration::from_secs(5)), Some(0));
}

#[test]
fn sighup_reloads_and_disturbs_no_client() {
    let broker = Broker::start(&[]);
    let mut c = Client::connect(&broker, V5, &unique("c"));
    let file = broker.config_file();
    let config = fs::read_to_string(&file).expect("the harness wrote it");
    let said = |what: &str| broker.log().to_lowercase().matches(what).count();
    fs::write(&file, format!("{config}log: {{level: debug}}\n")).expect("it can be written");
    broker.signal("-HUP");
    eventually("the reload is logged", || said("reload") > 0);
    c.ping();
    // A file that is wrong changes nothing, and is complained about.
    let before = said("max_inflght");
    fs::write(&file, format!("{config}mqtt: {{max_inflght: 3}}\n")).expect("it can be written");
    broker.signal("-HUP");
    eventually("the wrong key is named", || said("max_inflght") > before);
    c.ping();
    Client::connect(&broker, V311, &unique("c")).ping();
    assert!(broker.alive());
}

/// Exits with 2, and names what is wrong on standard error.
#[track_caller]
fn refused(arguments: &[&str], named: &[&str]) {
    let exit = run(arguments);
    assert_eq!(exit.code, Some(2), "{arguments:?}: {exit:?}");
    for name in named {
        assert!(exit.stderr.contains(name), "{arguments:?} does not name {name}: {exit:?}");
    }
}

#[test]
fn wrong_arguments_end_with_two() {
    refused(&["--set", "mqtt.max_inflght=3"], &["max_inflght", "max_inflight"]);
    refused(&["--set", "mqtt.max_qos=3"], &["max_qos"]);
    refused(&["--set", "mqtt.max_qos"], &["max_qos"]);
    refused(&["--set", "mqtt.connect_timeout=soon"], &["connect_timeout"]);
    refused(&["--set"], &["--set"]);
    refused(&["--config", "/does/not/exist.yaml"], &["/does/not/exist.yaml"]);
    refused(&["--no-such-option"], &["--no-such-option"]);
    refused(&["no-such-command"], &["no-such-command"]);
}

/// A configuration file with this text.
fn file(text: &str) -> String {
    let path = std::env::temp_dir().join(format!("{}.yaml", unique("ringmq-config")));
    fs::write(&path, text).expect("it can be written");
    path.display().to_string()
}

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let wrong = file("mqtt:\n  max_qos: 1\n  max_inflght: 3\n  retain: maybe\n");
    refused(&["--test-config", "--config", &wrong], &[&wrong, "3", "max_inflght", "retain"]);
    refused(&["--config", &wrong], &["max_inflght"]);
    let broken = file("mqtt: [\n");
    refused(&["--test-config", "--config", &broken], &[&broken]);
    for path in [wrong, broken] {
        fs::remove_file(path).expect("it was written");
    }
}

#[test]
fn the_server_connects_to_nobody() {
    // [MQTT-7.0.0-1] of 3.1.1 binds servers that connect to others as clients. What would make
    // this one do so is refused, not ignored.
    // Bridges do it because they are told to, and keep to what binds clients (tests/interop).
    let path = file("cluster: []\n");
    refused(&["--test-config", "--config", &path], &["cluster"]);
    refused(&["--config", &path], &["cluster"]);
    fs::remove_file(path).expect("it was written");
}

#[test]
fn a_right_file_is_accepted() {
    let right = file("mqtt: {max_qos: 1, pending: {max_messages: 10}}\nsys: {interval: 5s}\n");
    assert_eq!(run(&["--test-config", "--config", &right]).code, Some(0));
    let default = run(&["config", "default"]);
    assert_eq!(default.code, Some(0));
    fs::write(&right, &default.stdout).expect("it can be written");
    let exit = run(&["--test-config", "--config", &right]);
    assert_eq!(exit.code, Some(0), "the default file is not accepted: {exit:?}");
    fs::remove_file(right).expect("it was written");
}

#[test]
fn the_program_explains_itself() {
    for (arguments, named) in [
        (&["--version"][..], &["ringmq"][..]),
        (&["--help"], &["--config", "--set"]),
        (&["config", "default"], &["listeners", "mqtt", "1883"]),
        (&["config", "reference"], &["mqtt.max_inflight", "shutdown.grace"]),
        (&["config", "schema"], &["\"max_inflight\"", "\"additionalProperties\": false"]),
        (&["config", "show", "-p", "1", "-v"], &["127.0.0.1:1  # -p 1", "level: debug  # -v"]),
        (&["completions", "bash"], &["--connections"]),
        (&["man", "doctor"], &[".TH", "connections"]),
    ] {
        let exit = run(arguments);
        assert_eq!(exit.code, Some(0), "{arguments:?}: {exit:?}");
        for name in named {
            assert!(exit.stdout.contains(name), "{arguments:?} does not name {name}");
        }
    }
}

#[test]
fn environment_variables_are_settings() {
    let set = |name: &str, value: &str| {
        let output = program().arg("--test-config").env(name, value).output();
        output.expect("the program runs").status.code()
    };
    assert_eq!(set("RINGMQ_MQTT__MAX_INFLIGHT", "64"), Some(0));
    assert_eq!(set("RINGMQ_MQTT__MAX_INFLIGHT", "many"), Some(2));
    assert_eq!(set("RINGMQ_MQTT__MAX_INFLGHT", "64"), Some(2));
}

#[test]
fn a_variable_names_the_file_unless_an_argument_does() {
    let (right, wrong) = (file("mqtt: {max_qos: 1}\n"), file("mqtt: {max_qos: 9}\n"));
    let code = |named: &str, arguments: &[&str]| {
        let output = program().args(arguments).env("RINGMQ_CONFIG_FILE", named).output();
        output.expect("the program runs").status.code()
    };
    assert_eq!(code(&right, &["--test-config"]), Some(0));
    assert_eq!(code(&wrong, &["--test-config"]), Some(2));
    assert_eq!(code(&wrong, &["--test-config", "-c", &right]), Some(0));
    assert_eq!(code("", &["--test-config"]), Some(0));
    assert_eq!(code(&wrong, &["config", "default"]), Some(0));
    [right, wrong].iter().for_each(|path| fs::remove_file(path).expect("it was written"));
}

#[test]
fn an_address_in_use_by_another_program_is_a_failure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let path = file(&format!("listeners: [{{name: a, type: tcp, bind: '127.0.0.1:{port}'}}]\n"));
    let exit = run(&["--config", &path]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains(&port), "the address is not named: {exit:?}");
    fs::remove_file(path).expect("it was written");
}

#[test]
fn why_it_ended_follows_the_logs_format() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let bind = format!("listeners.0.bind=127.0.0.1:{port}");
    let exit = run(&["--set", &bind, "--set", "log.format=json", "--set", "log.level=error"]);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let lines: Vec<_> = exit.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{exit:?}");
    assert!(lines[0].starts_with("{\"timestamp\":\"") && lines[0].ends_with('}'), "{exit:?}");
    assert!(lines[0].contains("\"level\":\"ERROR\"") && lines[0].contains(&port), "{exit:?}");
}

#[test]
fn sys_topics_are_there_from_the_start() {
    let broker = Broker::start(&["sys.interval=1h"]);
    let mut c = Client::connect(&broker, V5, &unique("c"));
    c.granted("$SYS/broker/version", 0);
    assert!(c.message().text().starts_with("ringmq version "));
}

#[test]
fn a_variable_that_is_nobodys_is_said_and_harmless() {
    let output = program().arg("--test-config").env("RINGMQ_VERSION", "0.1").output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("RINGMQ_VERSION: "), "{output:?}");
}
