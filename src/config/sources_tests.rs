//! The layers of a configuration and where their problems are said to be.

use std::ffi::OsString;
use std::path::PathBuf;

use super::super::tests::read_with;
use super::super::{Bind, Cores, Get, Sources};
use super::{is_service_variable, ours};

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = "mqtt: {max_qos: 1, max_inflight: 5, receive_maximum: 7}\n";
    let environment = [("RINGMQ_MQTT__MAX_INFLIGHT", "6"), ("RINGMQ_MQTT__MAX_QOS", "0")];
    let config = read_with(file, &environment, &["mqtt.max_qos=2"]).unwrap();
    assert_eq!(config.mqtt.max_qos.get(), 2);
    assert_eq!(config.mqtt.max_inflight.get(), 6);
    assert_eq!(config.mqtt.receive_maximum.get(), 7);
    assert_eq!(config.mqtt.max_topic_alias.get(), 16);
}

#[test]
fn values_of_the_environment_and_of_set_are_yaml() {
    let set = [
        "cores=[0, 2-3]",
        "mqtt.keep_alive={max: 60}",
        "mqtt.keep_alive.multiplier=2",
        "listeners.0.bind=[::1]:1884",
        "listeners.0.mountpoint=\"\"",
        "listeners.1={name: second, type: unix, bind: /tmp/x}",
        "listeners.1.backlog=7",
    ];
    let config = read_with("", &[("RINGMQ_LISTENERS__0__NAME", "first")], &set).unwrap();
    assert_eq!(config.cores, Cores::List(vec![0, 2, 3]));
    assert_eq!(config.mqtt.keep_alive.max.get().as_secs(), 60);
    assert_eq!(config.mqtt.keep_alive.multiplier.get(), 2.0);
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(&*config.listeners[0].name, "first");
    assert_eq!(config.listeners[0].bind, Bind::Tcp("[::1]:1884".parse().unwrap()));
    assert_eq!(&*config.listeners[1].name, "second");
    assert_eq!(config.listeners[1].backlog.get(), 7);
}

#[test]
fn an_element_of_the_files_list_is_changed_in_place() {
    let file = "listeners:\n  - {name: a, bind: 127.0.0.1:1}\n  - {name: b, bind: 127.0.0.1:2}\n";
    let config = read_with(file, &[], &["listeners.1.bind=127.0.0.1:3"]).unwrap();
    assert_eq!(&*config.listeners[1].name, "b");
    assert_eq!(config.listeners[1].bind, Bind::Tcp("127.0.0.1:3".parse().unwrap()));
}

/// Variables, `--set` arguments, and how the only problem begins.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn problems_name_the_variable_or_the_argument() {
    let cases: &[Case<'_>] = &[
        (
            &[("RINGMQ_MQTT__MAX_QOS", "9")],
            &[],
            "RINGMQ_MQTT__MAX_QOS: mqtt.max_qos: 9 is out of bounds; ",
        ),
        (
            &[("RINGMQ_MQTT_MAX_QOS", "1")],
            &[],
            "RINGMQ_MQTT_MAX_QOS: mqtt_max_qos: unknown key here; did you mean `mqtt.max_qos` \
             (RINGMQ_MQTT__MAX_QOS in the environment)?",
        ),
        (&[("RINGMQ_MQTT__", "1")], &[], "RINGMQ_MQTT__: mqtt.: the key has an empty part; "),
        (&[], &["mqtt.max_qos=9"], "--set mqtt.max_qos=9: mqtt.max_qos: 9 is out of bounds; "),
        (&[], &["mqtt.max_qos"], "--set mqtt.max_qos: there is no =; "),
        (&[], &["mqtt.max_qos="], "--set mqtt.max_qos=: mqtt.max_qos: the key has no value; "),
        (
            &[],
            &["listeners.3.name=x"],
            "--set listeners.3.name=x: listeners.3.name: element 3 does not follow the 1 \
             elements of the list; use an index of at most 1",
        ),
        (&[], &["listeners.name=x"], "--set listeners.name=x: listeners: a list is expected here"),
        (
            &[],
            &["log.level=info", "log.level.x=1"],
            "--set log.level.x=1: log.level.x: there is no `x` here, because the value is a \
             plain value; ",
        ),
        (
            &[],
            &["mqtt.maxqos=1"],
            "--set mqtt.maxqos=1: mqtt.maxqos: unknown key; did you mean `max_qos`?",
        ),
    ];
    for (environment, set, expected) in cases {
        let problems = read_with("", environment, set).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with(expected), "found {}\nexpected {expected}", problems[0]);
    }
}

#[test]
fn problems_of_all_layers_come_together_the_files_first() {
    let problems = read_with("mqtt: {max_qos: 9}", &[("RINGMQ_X__Y", "1")], &["log.level=loud"]);
    let problems = problems.unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[0].starts_with("f.yaml:1"), "{problems:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let file = Some(PathBuf::from("/nonexistent/ringmq.yaml"));
    let problems = Sources { file, ..Sources::default() }.load().unwrap_err().to_string();
    assert!(
        problems.starts_with("/nonexistent/ringmq.yaml: the configuration file cannot be read")
    );
}

#[test]
fn variables_of_kubernetes_services_are_not_ours() {
    let foreign = [
        "RINGMQ_SERVICE_HOST",
        "RINGMQ_SERVICE_PORT",
        "RINGMQ_SERVICE_PORT_MQTT",
        "RINGMQ_PORT",
        "RINGMQ_PORT_1883_TCP_ADDR",
        "RINGMQ_HEADLESS_PORT_1883_TCP",
    ];
    for name in foreign {
        assert!(is_service_variable(name), "{name}");
    }
    for name in ["RINGMQ_CORES", "RINGMQ_MQTT__MAX_QOS", "RINGMQ_MQTT_MAX_QOS"] {
        assert!(!is_service_variable(name), "{name}");
    }
    let variables = ["PATH", "RINGMQ_PORT", "RINGMQ_CONFIG_FILE", "RINGMQ_CORES"];
    let kept = ours(variables.iter().map(|name| (OsString::from(name), OsString::from("x"))));
    assert_eq!(kept, [("RINGMQ_CORES".to_owned(), "x".to_owned())]);
}

#[test]
fn a_variable_that_no_key_begins_with_is_said_and_not_used() {
    let foreign = [
        ("RINGMQ_VERSION", "`ringmq config reference` lists the keys"),
        ("RINGMQ_HOME", "`ringmq config reference` lists the keys"),
        ("RINGMQ_IMAGE_TAG", "`ringmq config reference` lists the keys"),
        // Most likely meant for us, but a section is missing.
        ("RINGMQ_LEVEL", "did you mean `log.level` (RINGMQ_LOG__LEVEL in the environment)?"),
        (
            "RINGMQ_MAX_INFLIGHT",
            "did you mean `mqtt.max_inflight` (RINGMQ_MQTT__MAX_INFLIGHT in the environment)?",
        ),
    ];
    for (name, hint) in foreign {
        let environment = vec![(name.to_owned(), "1".to_owned())];
        let sources = Sources { environment, ..Sources::default() };
        assert!(sources.load().is_ok(), "{name}");
        let remarks = sources.remarks();
        assert_eq!(remarks.len(), 1, "{name}");
        assert!(remarks[0].starts_with(&format!("{name}: ")), "{remarks:?}");
        assert!(remarks[0].ends_with(hint), "{remarks:?}");
    }
    let meant = [
        ("RINGMQ_MQTT__MAX_INFLGHT", "did you mean `max_inflight`?"),
        ("RINGMQ_MQTT_MAX_INFLIGHT", "did you mean `mqtt.max_inflight` "),
        ("RINGMQ_LOG_LEVEL", "did you mean `log.level` (RINGMQ_LOG__LEVEL in the environment)?"),
        ("RINGMQ_CORE", "did you mean `cores`?"),
        ("RINGMQ_LISTENER__0__BIND", "did you mean `listeners`?"),
        ("RINGMQ_SOMETHING__BAR", "keys here: cores, "),
    ];
    for (name, hint) in meant {
        let problems = read_with("", &[(name, "1")], &[]).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(hint), "{name}: {problems:?}");
    }
}
