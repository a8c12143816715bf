//! Tests of the table of keys, the default file and single values.

use std::time::Duration;

use super::problem::nearest;
use super::schema::{KeyKind, SchemaKey};
use super::*;

/// The configuration of a file with this text.
pub(super) fn read(text: &str) -> Result<Config, Vec<String>> {
    read_with(text, &[], &[])
}

/// The configuration of a file with this text, with environment variables and `--set` arguments.
pub(super) fn read_with(
    text: &str,
    environment: &[(&str, &str)],
    set: &[&str],
) -> Result<Config, Vec<String>> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("ringmq-{}-{number}.yaml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        environment: environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        set: set.iter().map(|argument| argument.to_string()).collect(),
        ..Sources::default()
    };
    let loaded = sources.load();
    std::fs::remove_file(&path).unwrap();
    let name = path.display().to_string();
    loaded.map_err(|problems| {
        problems.0.iter().map(|problem| problem.to_string().replace(&name, "f.yaml")).collect()
    })
}

/// The only problem of a file with this text.
fn problem(text: &str) -> String {
    let problems = read(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
    problems.into_iter().next().unwrap()
}

fn settled() -> Config {
    let mut config = Config::default();
    config.listeners[0].allow_anonymous = Or::of(true);
    config
}

#[test]
fn an_empty_file_gives_the_defaults_of_the_contract() {
    for text in ["", "\n# nothing\n", "---\n", "mqtt:\n", "mqtt:\n  pending:\nlog: {}\n"] {
        assert_eq!(read(text).unwrap(), settled(), "{text}");
    }
    let config = settled();
    assert_eq!(config.cores, Cores::Auto);
    assert_eq!(config.runtime.spin.get(), Duration::from_micros(20));
    assert_eq!(config.runtime.receive_buffers.size.get(), 2048);
    assert_eq!(config.listeners[0].bind, Bind::Tcp("127.0.0.1:1883".parse().unwrap()));
    assert_eq!(config.mqtt.max_packet_size.get(), 1 << 20);
    assert_eq!(config.mqtt.keep_alive.multiplier.get(), 1.5);
    assert_eq!(config.mqtt.keep_alive.max.get(), Duration::from_secs(65_535));
    assert_eq!(config.mqtt.session_expiry.default.get(), Some(Duration::from_secs(7200)));
    assert_eq!(config.mqtt.session_expiry.max.get(), None);
    assert_eq!(config.mqtt.retry_interval.get(), None);
    assert_eq!(config.mqtt.pending.on_full, OnFull::DropOldest);
    assert_eq!(config.mqtt.shared_strategy, SharedStrategy::RoundRobin);
    assert_eq!(config.sys.interval.get(), Some(Duration::from_secs(10)));
    assert_eq!(config.log.level, LogLevel::Info);
}

#[test]
fn the_default_file_parses_back_to_the_defaults() {
    let text = default_file();
    assert_eq!(read(&text).unwrap(), settled(), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn every_key_has_a_meaning_bounds_and_a_default() {
    let schema = schema::root();
    let all = SchemaKey(&schema).everything();
    for (name, key) in &all {
        assert!(key.meaning().ends_with('.'), "{name}");
        if matches!(key.shape(), KeyKind::Section | KeyKind::List(_)) {
            continue;
        }
        assert!(!key.0["default"].is_null() || key.0["x-optional"] == true, "{name}");
        let by_type = matches!(key.shape(), KeyKind::Choice(_)) || key.accepts() == "true or false";
        assert!(by_type || key.0["x-accepts"].is_string(), "{name}: {}", key.0);
    }
    assert!(all.len() > 60);
}

#[test]
fn the_reference_names_every_key_with_what_it_accepts() {
    let text = reference();
    let schema = schema::root();
    for (name, _) in SchemaKey(&schema).everything() {
        assert!(text.contains(&format!("\n{name}\n")), "{name}");
    }
    for part in [
        "\nmqtt.max_inflight\n",
        "    A whole number of 1 to 65535 (messages).\n    Default: 32\n",
        "    A time of 0 to 1s, with its unit.\n    Default: 20us\n",
        "    One of: tcp, tls, ws, wss, unix.\n    Default: tcp\n",
        "or auto.\n    Default: auto\n    A change needs a restart.\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn the_contracts_own_example_is_read_when_later_parts_are_left_out() {
    let config = read(
        r#"
cores: [0, 2, 4-7, 0]
runtime:
  spin: 0
  sockets_per_ring: 1000
  receive_buffers: {count: 512, size: 4KiB}
  max_connections: 1000000
listeners:
  - name: default
    type: tcp
    bind: "[::1]:1883"
    max_connect_rate: 500
    proxy_protocol: off
    allow_anonymous: false
    mountpoint: "fleet/${client_id}/"
  - {name: local, type: unix, bind: /run/ringmq.sock}
mqtt:
  max_packet_size: 64KiB
  retry_interval: 20
  keep_alive: {max: 1h, multiplier: 2}
  session_expiry: {default: 1h30m, max: 1d}
  pending: {max_messages: 10, max_bytes: 1GB, qos0: true, on_full: disconnect}
  shared_strategy: hash_client
retained: {max_messages: 0, expiry: 1d, max_bytes: 2GiB}
sys: {interval: off}
admin: {bind: "[::1]:18083"}
log: {level: debug, format: json}
"#,
    )
    .unwrap();
    assert_eq!(config.cores, Cores::List(vec![0, 2, 4, 5, 6, 7, 0]));
    assert_eq!(config.runtime.spin.get(), Duration::ZERO);
    assert_eq!(config.runtime.sockets_per_ring.get(), Some(1000));
    assert_eq!(config.listeners[0].bind, Bind::Tcp("[::1]:1883".parse().unwrap()));
    assert!(!config.listeners[0].allows_anonymous());
    assert_eq!(config.listeners[1].kind, ListenerType::Unix);
    assert!(config.listeners[1].allows_anonymous());
    assert_eq!(config.mqtt.retry_interval.get(), Some(Duration::from_secs(20)));
    assert_eq!(config.mqtt.session_expiry.default.get(), Some(Duration::from_secs(5400)));
    assert_eq!(config.mqtt.pending.max_bytes.get(), 1_000_000_000);
    assert_eq!(config.mqtt.pending.on_full, OnFull::Disconnect);
    assert_eq!(config.retained.max_messages.get(), Some(0));
    assert_eq!(config.sys.interval.get(), None);
    assert_eq!(config.admin.bind.get(), Some("[::1]:18083".parse().unwrap()));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn values_are_read_in_their_notation() {
    let spin = [("0", 0), ("7us", 7), ("7µs", 7), ("5ms", 5000), ("1s", 1_000_000)];
    for (text, micros) in spin {
        let config = read(&format!("runtime: {{spin: {text}}}")).unwrap();
        assert_eq!(config.runtime.spin.get(), Duration::from_micros(micros), "{text}");
    }
    let times = [("5", 5), ("5s", 5), ("2m", 120), ("\"1h\"", 3600), ("1m30s", 90), ("1d", 86_400)];
    for (text, seconds) in times {
        let config = read(&format!("sys: {{interval: {text}}}")).unwrap();
        assert_eq!(config.sys.interval.get(), Some(Duration::from_secs(seconds)), "{text}");
    }
    let sizes = [
        ("4096", 4096),
        ("4KiB", 4096),
        ("4 KiB", 4096),
        ("4KB", 4000),
        ("4kB", 4000),
        ("1MiB", 1 << 20),
    ];
    for (text, bytes) in sizes {
        let config = read(&format!("mqtt: {{max_packet_size: {text}}}")).unwrap();
        assert_eq!(config.mqtt.max_packet_size.get(), bytes, "{text}");
    }
}

#[test]
fn a_wrong_value_is_reported_with_its_place_and_what_to_write() {
    let cases: &[(&str, &str)] = &[
        (
            "mqtt:\n  max_qos: 3\n",
            "f.yaml:2: mqtt.max_qos: 3 is out of bounds; write a whole number of 0 to 2 (QoS \
             level)",
        ),
        ("mqtt:\n  max_qos: two\n", "f.yaml:2: mqtt.max_qos: `two` is not a whole number; "),
        ("mqtt:\n  max_qos: -1\n", "f.yaml:2: mqtt.max_qos: `-1` is not a whole number; "),
        ("mqtt:\n  max_qos: \"1\"\n", "f.yaml:2: mqtt.max_qos: \"1\" is quoted, so it is text; "),
        ("mqtt: {max_qos: }\n", "f.yaml:1: mqtt.max_qos: the key has no value; "),
        ("mqtt: {max_qos: [1]}\n", "f.yaml:1: mqtt.max_qos: this is a list; "),
        ("mqtt: 5\n", "f.yaml:1: mqtt: keys are expected here, not a plain value; "),
        ("- mqtt\n", "f.yaml:1: keys are expected here, not a list; "),
        (
            "mqtt: {retain: yes}\n",
            "f.yaml:1: mqtt.retain: `yes` is neither true nor false; write true or false",
        ),
        (
            "mqtt: {keep_alive: {max: 65536}}\n",
            "f.yaml:1: mqtt.keep_alive.max: 65536 is out of bounds; ",
        ),
        (
            "mqtt: {keep_alive: {max: 1500ms}}\n",
            "f.yaml:1: mqtt.keep_alive.max: `1500ms` is not whole seconds",
        ),
        (
            "mqtt: {keep_alive: {multiplier: 0.5}}\n",
            "f.yaml:1: mqtt.keep_alive.multiplier: 0.5 is out of bounds; ",
        ),
        (
            "mqtt: {keep_alive: {multiplier: inf}}\n",
            "f.yaml:1: mqtt.keep_alive.multiplier: `inf` is not a number; ",
        ),
        (
            "mqtt: {connect_timeout: 5 parsecs}\n",
            "f.yaml:1: mqtt.connect_timeout: `5 parsecs` is not a time (units: us, ms, s, m, h, \
             d); \
             write a time of 100ms to 1h",
        ),
        (
            "mqtt: {connect_timeout: 99999999999999999999d}\n",
            "f.yaml:1: mqtt.connect_timeout: 99999999999999999999d is out of bounds; ",
        ),
        (
            "mqtt: {max_packet_size: 1MB2}\n",
            "f.yaml:1: mqtt.max_packet_size: `1MB2` is not a size; ",
        ),
        (
            "mqtt: {max_packet_size: 16777216TiB}\n",
            "f.yaml:1: mqtt.max_packet_size: 16777216TiB is out of bounds; ",
        ),
        (
            "mqtt: {max_packet_size: unlimited}\n",
            "f.yaml:1: mqtt.max_packet_size: `unlimited` is not a size; ",
        ),
        (
            "mqtt: {shared_strategy: roundrobin}\n",
            "f.yaml:1: mqtt.shared_strategy: `roundrobin` is not a choice; did you mean \
             `round_robin`?",
        ),
        (
            "runtime: {spin: 20}\n",
            "f.yaml:1: runtime.spin: `20` has no unit; write 20us, 20ms or 20s",
        ),
        (
            "runtime: {receive_buffers: {count: 1000}}\n",
            "f.yaml:1: runtime.receive_buffers.count: 1000 is not a power of two; write 512 or \
             1024",
        ),
        (
            "cores: 4\n",
            "f.yaml:1: cores: `4` is neither auto nor a list; write [4] for core 4, or [0-3] \
             for four cores",
        ),
        ("cores: []\n", "f.yaml:1: cores: no core is listed; "),
        ("cores: [7-4]\n", "f.yaml:1: cores: the range `7-4` runs backwards; write 4-7"),
        ("cores: [x]\n", "f.yaml:1: cores: `x` is not a core"),
        ("cores: [0-199]\n", "f.yaml:1: cores: 200 cores are listed; list at most 128"),
        ("listeners: []\n", "f.yaml:1: listeners: the list is empty"),
        ("listeners: {name: x}\n", "f.yaml:1: listeners: a list is expected here, not a mapping; "),
        (
            "listeners:\n  - bind: localhost:1883\n",
            "f.yaml:2: listeners.0.bind: `localhost:1883` is not an address with a port; write \
             0.0.0.0:1883, ",
        ),
        (
            "listeners:\n  - bind: 127.0.0.1\n",
            "f.yaml:2: listeners.0.bind: `127.0.0.1` is not an address with a port; ",
        ),
        ("listeners:\n  - name: \"\"\n", "f.yaml:2: listeners.0.name: the text has 0 bytes; "),
        (
            "listeners:\n  - bind: 70000\n",
            "f.yaml:2: listeners.0.bind: `70000` is not an address with a port; write address:port",
        ),
        ("listeners:\n", "f.yaml:1: listeners: a list is expected here, not nothing; "),
        (
            "listeners:\n  name: a\n  bind: 127.0.0.1:1883\n",
            "f.yaml:2: listeners: a list is expected here, not a mapping; write `listeners:` and \
             below it `- name: ...`",
        ),
        ("listeners: [5]\n", "f.yaml:1: listeners.0: keys are expected here, not a plain value; "),
        (
            "listeners:\n  - {}\n  - [a]\n  - {name: c, bind: 127.0.0.1:3}\n",
            "f.yaml:3: listeners.1: keys are expected here, not a list; ",
        ),
        ("cores: [[0]]\n", "f.yaml:1: cores: "),
        ("cores: {a: 0}\n", "f.yaml:1: cores: this is a mapping; write a list of cores such as"),
        ("cores:\n", "f.yaml:1: cores: the key has no value; write a list of cores such as"),
        ("cores: [\"0\"]\n", "f.yaml:1: cores: \"0\" is quoted, so it is text; "),
        ("mqtt: {max_qos: {a: 1}}\n", "f.yaml:1: mqtt.max_qos: this is a mapping; "),
        ("mqtt: {max_qos: 1.0}\n", "f.yaml:1: mqtt.max_qos: `1.0` is not a whole number; "),
        ("mqtt: {max_inflight: 0x20}\n", "f.yaml:1: mqtt.max_inflight: `0x20` is not a whole num"),
        ("mqtt: {max_inflight: 1_000}\n", "f.yaml:1: mqtt.max_inflight: `1_000` is not a whole n"),
        (
            "mqtt: {max_inflight: 99999999999999999999}\n",
            "f.yaml:1: mqtt.max_inflight: 99999999999999999999 is out of bounds; ",
        ),
        ("mqtt: {max_packet_size: 1mb}\n", "f.yaml:1: mqtt.max_packet_size: `1mb` is not a size; "),
        ("mqtt: {retain: True}\n", "f.yaml:1: mqtt.retain: `True` is neither true nor false; "),
        (
            "mqtt: {retain: \"true\"}\n",
            "f.yaml:1: mqtt.retain: \"true\" is quoted, so it is text; ",
        ),
        (
            "mqtt: {message_expiry_max: soon}\n",
            "f.yaml:1: mqtt.message_expiry_max: `soon` is not a time (units: us, ms, s, m, h, d); \
             write a time of 1s to 4294967294s, in whole seconds, or unlimited",
        ),
        (
            "listeners: [{allow_anonymous: maybe}]\n",
            "f.yaml:1: listeners.0.allow_anonymous: `maybe` is neither true nor false; write true \
             or false, or auto",
        ),
        (
            "log: {level: INFO}\n",
            "f.yaml:1: log.level: `INFO` is not a choice; did you mean `info`? (one of: error, ",
        ),
        (
            "log: {level: true}\n",
            "f.yaml:1: log.level: `true` is not a choice; did you mean `trace`?",
        ),
        (
            "log: {level: {info: }}\n",
            "f.yaml:1: log.level: this is a mapping; write one of: error, ",
        ),
        (
            "mqtt: {keep_alive: [60, 2]}\n",
            "f.yaml:1: mqtt.keep_alive: keys are expected here, not a",
        ),
        ("log: {level: [info]}\n", "f.yaml:1: log.level: this is a list; write one of: error, "),
        ("log:\n  level:\n    verbose\n", "f.yaml:3: log.level: `verbose` is not a choice; "),
        (
            "listeners at 1883\n",
            "f.yaml:1: keys are expected here, not a plain value; write keys below it, such as \
             `cores: ...`",
        ),
        (
            "listener 1883\nallow_anonymous true\n",
            "f.yaml: this is a configuration of mosquitto; `ringmq config convert f.yaml` prints \
             ours for it",
        ),
    ];
    for (text, expected) in cases {
        let found = problem(text);
        assert!(found.starts_with(expected), "{text}\n  found    {found}\n  expected {expected}");
    }
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_known_one() {
    let cases: &[(&str, &str)] = &[
        (
            "mqtt:\n  max_inflght: 3\n",
            "f.yaml:2: mqtt.max_inflght: unknown key; did you mean `max_inflight`?",
        ),
        ("mqqt: {}\n", "f.yaml:1: mqqt: unknown key; did you mean `mqtt`?"),
        ("mqtt: {max-qos: 1}\n", "f.yaml:1: mqtt.max-qos: unknown key; did you mean `max_qos`?"),
        (
            "max_inflight: 3\n",
            "f.yaml:1: max_inflight: unknown key here; did you mean `mqtt.max_inflight` ",
        ),
        ("log: {zzzzzzzz: 3}\n", "f.yaml:1: log.zzzzzzzz: unknown key; keys here: level, format"),
        ("listeners:\n  - name: a\n    prot: 1\n", "f.yaml:3: listeners.0.prot: unknown key; "),
    ];
    for (text, expected) in cases {
        let found = problem(text);
        assert!(found.starts_with(expected), "{text}\n  found    {found}\n  expected {expected}");
    }
}

#[test]
fn durable_says_what_it_needs() {
    let store = "storage: {path: /store";
    for (more, expected) in [
        ("", "cluster.durable: what is not stored here cannot be stored elsewhere"),
        (", durability: async}", "cluster.durable: a power cut may take back what the stream has"),
        (", on_failure: degrade}", "cluster.durable: while the disk fails nothing goes to the"),
    ] {
        let storage = if more.is_empty() { String::new() } else { format!("{store}{more}\n") };
        let found = problem(&format!("cluster: {{name: a, durable: true}}\n{storage}"));
        let expected = format!("f.yaml:1: {expected}");
        assert!(
            found.starts_with(&expected),
            "{storage}\n  found    {found}\n  expected {expected}"
        );
    }
    let found = problem("cluster: {durable: true}\nstorage: {path: /store}\n");
    assert!(
        found.starts_with("f.yaml:1: cluster.durable: this broker is in no cluster"),
        "{found}"
    );
}

#[test]
fn what_is_not_plain_yaml_is_refused_with_its_line() {
    let cases: &[(&str, &str)] = &[
        (
            "log:\n  level: info\n  level: warn\n",
            "f.yaml:3: log.level: this key is already set at f.yaml:2; keep one of them",
        ),
        ("log: {}\nlog: {}\n", "f.yaml:2: log: this key is already set at f.yaml:1; "),
        ("log: {level: info\nmqtt: 3\n", "f.yaml:"),
        (
            "log: &a {}\nmqtt: 3\n",
            "f.yaml:1: anchors (&) and aliases (*) are not used in this file; ",
        ),
        ("log: {level: !!str info}\n", "f.yaml:1: YAML tags (!) are not used in this file; "),
        ("log: {}\n---\nlog: {}\n", "f.yaml:3: a second YAML document begins here; "),
        ("? [a, b]\n: c\n", "f.yaml:1: this key is not a word; "),
        ("mqtt:\n\tmax_qos: 1\n", "f.yaml:2: this is not YAML: tabs disallowed "),
        ("a: &x {max_qos: 1}\nmqtt: *x\n", "f.yaml:1: anchors (&) and aliases (*) are not used "),
        ("log: 'a\u{7}'\n", "f.yaml:1: this is not YAML: "),
        ("log:\n  'a\u{7}': 1\n", "f.yaml:"),
        ("listeners:\n  - name: a\n    bind: [::1]:1883\n", "f.yaml:3: this is not YAML: "),
    ];
    for (text, expected) in cases {
        let found = problem(text);
        assert!(found.starts_with(expected), "{text}\n  found    {found}\n  expected {expected}");
    }
    assert!(problem("listeners:\n  - bind: [::1]:1883\n").contains("\"[::1]:1883\""));
    for deep in ["[".repeat(10_000), "a: ".repeat(20) + "1", "{a: ".repeat(20) + &"}".repeat(20)] {
        assert!(read(&deep).is_err(), "{deep}");
    }
    let long = problem(&format!("{}: 1\n", "k".repeat(300)));
    assert!(long.starts_with("f.yaml:1: this key is too long; "), "{long}");
}

#[test]
fn what_editors_add_to_a_file_is_no_part_of_it() {
    for text in
        ["\u{feff}mqtt:\n  max_qos: 1\n", "mqtt:\r\n  max_qos: 1\r\nlog:\r\n  level: debug\r\n"]
    {
        assert_eq!(read(text).unwrap().mqtt.max_qos.get(), 1, "{text:?}");
    }
}

#[test]
fn a_key_may_have_two_words_beside_its_values() {
    let read = |text: &str| read(&format!("limits: {{memory: {text}}}")).map(|c| c.limits.budget());
    assert_eq!(read("auto"), Ok(MemoryBudget::Auto));
    assert_eq!(read("unlimited"), Ok(MemoryBudget::Unlimited));
    assert_eq!(read("1GiB"), Ok(MemoryBudget::Bytes(1 << 30)));
    let problem = &read("1MiB").unwrap_err()[0];
    assert!(problem.ends_with("write a size of 16MiB to 1TiB, or unlimited, or auto"), "{problem}");
}

#[test]
fn text_keeps_the_letters_that_yaml_would_read_as_a_number() {
    for name in ["1.10", "0x10", "007", "true", "5", "1e3", ".inf", "12:30", "no"] {
        let config = read(&format!("listeners: [{{name: {name}}}]")).unwrap();
        assert_eq!(&*config.listeners[0].name, name);
    }
}

#[test]
fn what_was_written_is_shown_short_and_on_one_line() {
    let found = problem(&format!("log: {{level: \"a\\nb{}\"}}\n", "x".repeat(10_000)));
    assert!(found.len() < 600 && found.starts_with("f.yaml:1: log.level: `a bxxx"), "{found}");
    let found = problem(&format!("mqtt: {{max_qos: \"a\\nb{}\"}}\n", "x".repeat(10_000)));
    assert!(found.len() < 600 && found.starts_with("f.yaml:1: mqtt.max_qos: `a bxxx"), "{found}");
    assert!(found.ends_with("; write a whole number of 0 to 2 (QoS level)"), "{found}");
}

#[test]
fn the_schema_is_closed_and_knows_bounds_words_and_defaults() {
    let schema = schema::root();
    assert_eq!(schema["additionalProperties"], false);
    let listener = &schema["properties"]["listeners"]["items"];
    assert_eq!(listener["additionalProperties"], false);
    assert_eq!(schema["properties"]["listeners"]["maxItems"], 256);
    assert_eq!(schema["properties"]["mqtt"]["properties"]["max_qos"]["maximum"], 2);
    assert_eq!(listener["properties"]["type"]["oneOf"][4]["const"], "unix");
    let rate = &listener["properties"]["max_connect_rate"];
    assert_eq!(
        (&rate["default"], &rate["anyOf"][0]["const"]),
        (&json!("unlimited"), &json!("unlimited"))
    );
    assert!(serde_json::from_str::<Value>(&json_schema()).is_ok());
    assert!(!json_schema().contains("$ref"));
}

#[test]
fn only_what_a_reload_cannot_change_needs_a_restart() {
    let old = settled();
    let new = read(
        "cores: [0]\nruntime: {spin: 1ms, max_connections: 5, receive_buffers: {size: 4KiB}}\n\
         log: {format: json, level: debug}\nlisteners: [{name: a}]\n",
    );
    let keys = old.keys_that_need_a_restart(&new.unwrap());
    assert_eq!(keys, ["cores", "runtime.spin", "runtime.receive_buffers.size", "log.format"]);
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let text = "mqtt:\n  max_qos: 9\n  retain: maybe\n  foo: 1\nlog:\n  level: \
     loud\nlisteners:\n  - type: tlz\n";
    let problems = read(text).unwrap_err();
    let lines: Vec<&str> = problems.iter().map(|problem| &problem[..8]).collect();
    assert_eq!(
        lines,
        ["f.yaml:2", "f.yaml:3", "f.yaml:4", "f.yaml:6", "f.yaml:8"],
        "{problems:#?}"
    );
}

#[test]
fn the_nearest_word_is_found_by_edits_and_swaps_and_only_when_it_is_near() {
    let known = ["level", "format", "max_inflight"];
    let cases = [
        ("lvel", Some("level")),
        ("elvel", Some("level")),
        ("LEVEL", Some("level")),
        ("formt", Some("format")),
        ("maxinflight", Some("max_inflight")),
        ("banana", None),
    ];
    for (word, expected) in cases {
        assert_eq!(nearest(word, known.iter().copied()), expected, "{word}");
    }
}

#[test]
fn changed_keys_names_what_differs() {
    let old = settled();
    assert!(old.changed_keys(&old).is_empty());
    let new =
        read("log: {level: debug}\nlisteners: [{name: a}, {name: b, bind: 127.0.0.1:1}]").unwrap();
    let changed = old.changed_keys(&new);
    assert!(changed.contains(&"log.level".to_owned()), "{changed:?}");
    assert!(changed.contains(&"listeners.0.name".to_owned()), "{changed:?}");
    assert!(changed.contains(&"listeners.1.bind".to_owned()), "{changed:?}");
    assert!(!changed.contains(&"listeners.0.bind".to_owned()), "{changed:?}");
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_with_a_problem(
        file in "[a-z_0-9:\\[\\]{}\\-,\\.\"'#&*!|>%@` \n\t]{0,80}",
        key in "(mqtt|listeners|cores|runtime)(\\.[a-z0-9_]{0,12}){0,3}",
        value in "\\PC{0,24}",
    ) {
        let sources = Sources { set: vec![format!("{key}={value}")], ..Sources::default() };
        for loaded in [sources.load(), sources.load_from("f.yaml", file.as_bytes())] {
            if let Err(problems) = loaded {
                proptest::prop_assert!(!problems.0.is_empty());
            }
        }
    }

    #[test]
    fn what_is_shown_reads_back_the_same(
        micros in 0..=1_000_000u64,
        seconds in 0..=u64::from(u32::MAX) - 1,
        bytes in 128..=268_435_460u64,
        multiplier in 1.0..100.0f64,
    ) {
        let mut config = settled();
        config.runtime.spin = ShortTime::of(micros);
        config.mqtt.session_expiry.default = Or::of(Seconds::of(seconds * 1_000_000));
        config.mqtt.max_packet_size = Size::of(bytes);
        config.mqtt.keep_alive.multiplier = Ratio::of(multiplier);
        let text = text::effective(&config, |_| "here".to_owned());
        let loaded = Sources::default().load_from("f.yaml", text.as_bytes());
        proptest::prop_assert_eq!(loaded, Ok(config));
    }
}
