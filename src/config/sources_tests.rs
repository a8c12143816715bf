//! Tests of the layers of a configuration, and of the places that problems name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::super::tests::read_with;
use super::super::{Bind, Cores, Get, LogLevel, Sources};
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

/// Variables, `--set` arguments, and the beginning of the only problem.
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
        (&[], &["mqtt.max_qos=9"], "--set mqtt.max_qos: mqtt.max_qos: 9 is out of bounds; "),
        (&[], &["mqtt.max_qos"], "--set mqtt.max_qos: there is no =; "),
        (&[], &["mqtt.max_qos="], "--set mqtt.max_qos: mqtt.max_qos: the key has no value; "),
        (
            &[],
            &["listeners.3.name=x"],
            "--set listeners.3.name: listeners.3.name: element 3 does not follow the 1 \
             elements of the list; use an index of at most 1",
        ),
        (&[], &["listeners.name=x"], "--set listeners.name: listeners: a list is expected here"),
        (
            &[],
            &["log.level=info", "log.level.x=1"],
            "--set log.level.x: log.level.x: there is no `x` here, because the value is a \
             plain value; ",
        ),
        (
            &[],
            &["mqtt.maxqos=1"],
            "--set mqtt.maxqos: mqtt.maxqos: unknown key; did you mean `max_qos`?",
        ),
    ];
    for (environment, set, expected) in cases {
        let problems = read_with("", environment, set).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with(expected), "found {}\nexpected {expected}", problems[0]);
    }
}

/// Whatever a secret is a part of, and wherever it was written, neither the values that apply nor
/// a problem shows it.
#[test]
fn a_secret_is_shown_neither_as_a_value_nor_as_an_origin() {
    let topics = "mqtt.topics=[{filter: a}]";
    let cases: &[(&[&str], &str)] = &[
        (&["bridges.0.name=b", "bridges.0.mqtt.addresses=['h:1']"], "mqtt.password=hunter2"),
        (&["bridges.0.name=b", "bridges.0.http.filters=[a]"], "http.secret=hunter2"),
        (&["bridges.0.name=b", "bridges.0.http.filters=[a]"], "http.headers={x: hunter2}"),
    ];
    let mut sets: Vec<Vec<String>> = Vec::new();
    for (around, secret) in cases {
        let mut set: Vec<String> = around.iter().map(|text| (*text).to_owned()).collect();
        set.push(match secret.starts_with("mqtt") {
            true => format!("bridges.0.{topics}"),
            false => "bridges.0.http.url=http://h/".to_owned(),
        });
        set.push(format!("bridges.0.{secret}"));
        sets.push(set);
    }
    let user = "cluster.nats.username=u".to_owned();
    sets.push(vec![user, "cluster.nats.password=hunter2".to_owned()]);
    sets.push(vec!["cluster.nats={username: u, password: hunter2}".to_owned()]);
    sets.push(vec!["telemetry.otlp.headers.authorization=hunter2".to_owned()]);
    sets.push(vec!["access.authentication=[{jwt: {secret: hunter2}}]".to_owned()]);
    for set in sets {
        let sources = Sources { set: set.clone(), ..Sources::default() };
        let shown = sources.effective().unwrap_or_else(|problems| panic!("{set:?}: {problems}"));
        assert!(shown.contains("\"***\"") && !shown.contains("hunter2"), "{set:?}\n{shown}");
    }
    let wrong = ["cluster.nats.password: hunter2", "cluster.nats.x=hunter2", "x y=hunter2"];
    for set in wrong {
        let problems = read_with("", &[], &[set]).unwrap_err();
        assert!(problems.iter().all(|told| !told.contains("hunter2")), "{problems:?}");
    }
}

#[test]
fn the_port_of_the_command_line_replaces_that_of_any_address() {
    let bound = |file: &str| {
        let sources = Sources { port: Some(1884), ..Sources::default() };
        let config = sources.load_from("f.yaml", file.as_bytes());
        config.map(|config| config.listeners[0].bind.to_string())
    };
    for (bind, expected) in [
        ("1883", "[::]:1884"),
        ("\"1883\"", "[::]:1884"),
        ("127.0.0.1:1883", "127.0.0.1:1884"),
        ("\"[::1]:1883\"", "[::1]:1884"),
    ] {
        let file = format!("listeners: [{{bind: {bind}}}]");
        assert_eq!(bound(&file).as_deref(), Ok(expected), "{bind}");
    }
    assert_eq!(bound("").as_deref(), Ok("127.0.0.1:1884"));
    assert!(bound("listeners: [{bind: /tmp/x, type: unix}]").is_err());
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
fn a_file_of_any_size_is_read_up_to_a_bound() {
    let file = Some(PathBuf::from("/dev/zero"));
    let problems = Sources { file, ..Sources::default() }.load().unwrap_err().to_string();
    assert!(problems.starts_with("/dev/zero: the configuration file has more than 4 MiB; "));
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
        // The variable is most likely meant for the broker, but its section is missing.
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

#[test]
fn the_values_that_apply_are_shown_with_where_each_comes_from() {
    let sources = Sources {
        environment: vec![("RINGMQ_LOG__LEVEL".to_owned(), "warn".to_owned())],
        set: vec!["mqtt.keep_alive={max: 60}".to_owned(), "listeners.1.name=b".to_owned()],
        port: Some(1884),
        ..Sources::default()
    };
    let file = "mqtt:\n  max_qos: 1\n  keep_alive: {max: 10, multiplier: 2}\nlisteners:\n  - bind: \
                \"[::1]:7\"\n";
    let path = std::env::temp_dir().join(format!("ringmq-shown-{}.yaml", std::process::id()));
    std::fs::write(&path, file).unwrap();
    let shown = Sources { file: Some(path.clone()), ..sources }.effective().unwrap();
    std::fs::remove_file(&path).unwrap();
    let shown = shown.replace(&path.display().to_string(), "f.yaml");
    for line in [
        "  max_qos: 1  # f.yaml:2\n",
        "    max: 1m  # --set mqtt.keep_alive\n",
        "    multiplier: 2.0  # f.yaml:3\n",
        "  max_inflight: 32  # default\n",
        "  - name: default  # default\n",
        "    bind: \"[::1]:1884\"  # -p 1884\n",
        "  - name: b  # --set listeners.1.name\n",
        "    bind: 127.0.0.1:1883  # default\n",
        "    allow_anonymous: true  # default\n",
        "  level: warn  # RINGMQ_LOG__LEVEL\n",
    ] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    // The text is a configuration file that has the same values.
    let again = Sources::default().load_from("shown.yaml", shown.as_bytes()).unwrap();
    assert_eq!(again.mqtt.keep_alive.max.get().as_secs(), 60);
    assert_eq!(again.listeners[0].bind.to_string(), "[::1]:1884");
}

#[test]
fn a_value_that_was_replaced_has_no_place_any_more() {
    let sources = Sources { set: vec!["listeners=[{name: x}]".to_owned()], ..Sources::default() };
    let file = b"listeners:\n  - {name: a, bind: 127.0.0.1:1, backlog: 7}\n  - {name: b}\n";
    let config = sources.load_from("f.yaml", file).unwrap();
    assert_eq!((config.listeners.len(), config.listeners[0].backlog.get()), (1, 4096));
}

#[test]
fn the_port_is_the_first_listeners_and_verbose_is_below_set() {
    let with = |port, verbose, set: &[&str]| {
        let set = set.iter().map(|argument| argument.to_string()).collect();
        Sources { port, verbose, set, ..Sources::default() }
    };
    let config = with(Some(0), true, &[]).load().unwrap();
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:0");
    assert_eq!(config.log.level, LogLevel::Debug);
    let config = with(Some(7), true, &["log.level=warn", "listeners.0.bind=[::]:1"]).load();
    let config = config.unwrap();
    assert_eq!(config.listeners[0].bind.to_string(), "[::]:7");
    assert_eq!(config.log.level, LogLevel::Warn);
    let set = ["listeners.0={type: unix, bind: /x}"];
    let problems = with(Some(7), false, &set).load().unwrap_err().to_string();
    assert!(
        problems.starts_with("-p 7: listeners.0.bind: the first listener has no "),
        "{problems}"
    );
}

#[test]
fn a_key_of_any_depth_is_refused_and_harmless() {
    let key = "a.".repeat(60_000) + "a";
    let sources = Sources { set: vec![format!("{key}=1")], ..Sources::default() };
    let problems = sources.load().unwrap_err();
    assert!(problems.0[0].what.starts_with("the key has too many parts"));
}

#[test]
fn variables_and_arguments_cost_in_proportion_to_their_number() {
    let cost = |n: usize| {
        let name = |i| (format!("RINGMQ_MQTT__MAX_QO{i}"), "1".to_owned());
        let sources = Sources {
            environment: (0..n).map(name).collect(),
            set: (0..n).map(|i| format!("log.levle{i}=x")).collect(),
            ..Sources::default()
        };
        let file: String = (0..n).map(|i| format!("kye{i}: 1\n")).collect();
        let mut least = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            assert!(sources.load_from("f.yaml", file.as_bytes()).is_err());
            least = least.min(began.elapsed());
        }
        least
    };
    let (some, many) = (cost(5_000), cost(20_000));
    let bound = (some * 9).max(Duration::from_millis(800));
    assert!(many <= bound, "{some:?} for 5,000 of each, {many:?} for 20,000");
}
