//! Reads flashmq.conf(5). A line has an option and its value; `listen { … }` and `bridge { … }` are
//! blocks of lines.

use super::plan::{Conversion, kind, option_of, set};
use serde_json::{Map, Value, json};

/// Whether a line begins a block.
pub(super) fn is_block(line: &str) -> bool {
    let mut words = line.split_whitespace();
    matches!(words.next(), Some("listen" | "listen{" | "bridge" | "bridge{")) && line.ends_with('{')
}

/// Why an option outside of blocks is not carried over. `None` when FlashMQ has no such option.
fn left(option: &str) -> Option<&'static str> {
    Some(match option {
        "plugin" => "plugins are not run; see access.authentication for http, jwt, redis, postgres",
        "log_file" | "log_subscriptions" | "quiet" => {
            "the log goes to standard error; the service manager keeps it"
        }
        "thread_count" => "a shard runs on each core that the process may use; see cores",
        "rlimit_nofile" => "`ringmq doctor` says what the host lacks",
        "client_initial_buffer_size" | "client_max_write_buffer_size" => {
            "see mqtt.outgoing_max_bytes"
        }
        "websocket_set_real_ip_from" => "write the proxies' networks as trusted_proxies",
        "save_state_interval" => "storage writes each change at once",
        "include_dir" => "convert those files too, in the order of their names",
        "retained_messages_mode"
        | "retained_messages_delivery_limit"
        | "retained_messages_node_limit"
        | "subscription_node_lifetime"
        | "wills_enabled"
        | "allow_unsafe_clientid_chars"
        | "allow_unsafe_username_chars"
        | "overload_mode"
        | "max_event_loop_drift"
        | "minimum_wildcard_subscription_depth"
        | "wildcard_subscription_deny_mode"
        | "zero_byte_username_is_anonymous"
        | "persistence_data_to_save"
        | "bridge"
        | "plugin_serialize_init"
        | "plugin_serialize_auth_checks"
        | "plugin_timer_period"
        | "set_retained_message_defer_timeout"
        | "set_retained_message_defer_timeout_spread"
        | "retained_message_node_lifetime" => "no key means the same",
        _ if option.starts_with("plugin_opt_") => "plugins are not run",
        _ => return None,
    })
}

/// The options that are carried over.
const CARRIED: [&str; 13] = [
    "allow_anonymous",
    "max_packet_size",
    "mosquitto_password_file",
    "mosquitto_acl_file",
    "storage_dir",
    "expire_sessions_after_seconds",
    "expire_retained_messages_after_seconds",
    "max_qos_msg_pending_per_client",
    "max_qos_bytes_pending_per_client",
    "max_incoming_topic_alias_value",
    "max_outgoing_topic_alias_value",
    "shared_subscription_targeting",
    "log_level",
];

/// Whether a file whose first word this is may be FlashMQ's.
pub(super) fn is_option(word: &str) -> bool {
    CARRIED.contains(&word) || word == "log_debug" || left(word).is_some()
}

/// Reads a flashmq.conf.
pub(super) fn read(text: &str) -> Conversion {
    let mut plan = Conversion::default();
    let mut anonymous = false;
    let mut block: Option<(bool, Map<String, Value>)> = None;
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if is_block(line) {
            block = Some((line.starts_with("listen"), Map::new()));
            if !line.starts_with("listen") {
                plan.leave(
                    number,
                    line,
                    "write it as a bridge by hand: bridges.N.mqtt in `ringmq config reference`",
                );
            }
            continue;
        }
        if line == "}" {
            if let Some((true, options)) = block.take() {
                listener(&mut plan, &options);
            }
            continue;
        }
        let (option, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim();
        let read = match &mut block {
            Some((true, options)) => inside(options, option, value),
            Some((false, _)) => {
                Err("write it as a bridge by hand: bridges.N.mqtt in `ringmq config reference`")
            }
            None if option == "allow_anonymous" => switch(value).map(|allowed| anonymous = allowed),
            None => outside(&mut plan, option, value),
        };
        if let Err(why) = read {
            let unknown = why == NO_OPTION || why == NO_KEY;
            let shown = if unknown { option_of(line) } else { line.to_owned() };
            plan.leave(number, &shown, why);
        }
    }
    if plan.listeners.is_empty() {
        let plain = json!({"name": "listener-1", "type": "tcp", "bind": "[::]:1883"});
        plan.listeners.extend(plain.as_object().cloned());
    }
    for listener in &mut plan.listeners {
        listener.entry("allow_anonymous").or_insert(json!(anonymous));
    }
    plan
}

const NO_OPTION: &str = "FlashMQ has no such option";
/// Why an option of a listener is not carried over whose name says nothing here.
const NO_KEY: &str = "there is no key that means the same";

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("the value is neither true nor false"),
    }
}

fn number(value: &str, least: u64, most: u64) -> Result<u64, &'static str> {
    let number = value.parse::<u64>().map_err(|_| "the value is no number")?;
    match (least..=most).contains(&number) {
        true => Ok(number),
        false => Err("out of bounds here; `ringmq config reference` names them"),
    }
}

fn outside(plan: &mut Conversion, option: &str, value: &str) -> Result<(), &'static str> {
    let seconds = u64::from(u32::MAX) - 1;
    match option {
        "max_packet_size" => {
            plan.set("mqtt.max_packet_size", json!(number(value, 128, 268_435_460)?));
        }
        "mosquitto_password_file" => {
            plan.set("access.authentication", json!([{"password_file": {"path": value}}]));
        }
        "mosquitto_acl_file" => {
            plan.set("access.authorization", json!([{"acl_file": {"path": value}}]));
            plan.set("access.read_check", json!("delivery"));
        }
        "storage_dir" => plan.set("storage.path", json!(value)),
        "expire_sessions_after_seconds" => {
            let seconds = number(value, 1, seconds)?;
            plan.set("mqtt.session_expiry.default", json!(format!("{seconds}s")));
            plan.set("mqtt.session_expiry.max", json!(format!("{seconds}s")));
        }
        "expire_retained_messages_after_seconds" => {
            plan.set("retained.expiry", json!(format!("{}s", number(value, 1, seconds)?)));
        }
        "max_qos_msg_pending_per_client" => {
            plan.set("mqtt.pending.max_messages", json!(number(value, 0, seconds)?));
        }
        "max_qos_bytes_pending_per_client" => {
            plan.set("mqtt.pending.max_bytes", json!(number(value, 0, 1 << 40)?));
        }
        "max_incoming_topic_alias_value" => {
            plan.set("mqtt.max_topic_alias", json!(number(value, 0, 65_535)?));
        }
        "max_outgoing_topic_alias_value" => {
            plan.set("mqtt.topic_alias_outbound", json!(number(value, 0, 65_535)?));
        }
        "shared_subscription_targeting" => match value {
            "round_robin" => plan.set("mqtt.shared_strategy", json!("round_robin")),
            "sender_hash" => plan.set("mqtt.shared_strategy", json!("hash_client")),
            _ => return Err("there is no such strategy"),
        },
        "log_level" => match value {
            "debug" | "info" | "error" => plan.set("log.level", json!(value)),
            "warning" => plan.set("log.level", json!("warn")),
            "notice" | "none" => plan.set("log.level", json!("info")),
            _ => return Err("log.level has levels: error, warn, info, debug"),
        },
        "log_debug" => {
            if switch(value)? {
                plan.set("log.level", json!("debug"));
            }
        }
        other => return Err(left(other).unwrap_or(NO_OPTION)),
    }
    Ok(())
}

/// Reads an option of a listener, which is kept until its block ends.
fn inside(options: &mut Map<String, Value>, option: &str, value: &str) -> Result<(), &'static str> {
    match option {
        "protocol" if !matches!(value, "mqtt" | "websockets") => Err("there is no such protocol"),
        "port" => {
            number(value, 1, 65_535).map(|port| _ = options.insert("port".into(), json!(port)))
        }
        "allow_anonymous" | "haproxy" => {
            let on = switch(value)?;
            options.insert(option.to_owned(), json!(on));
            Ok(())
        }
        "minimum_tls_version" if !matches!(value, "tlsv1.2" | "tlsv1.3") => {
            Err("versions below 1.2 are not spoken")
        }
        "protocol"
        | "fullchain"
        | "privkey"
        | "inet_protocol"
        | "inet4_bind_address"
        | "inet6_bind_address"
        | "client_verification_ca_file"
        | "minimum_tls_version"
        | "unix_socket_path" => {
            options.insert(option.to_owned(), json!(value));
            Ok(())
        }
        "tcp_nodelay" => Err("it always is"),
        _ => Err(NO_KEY),
    }
}

fn listener(plan: &mut Conversion, options: &Map<String, Value>) {
    let text = |name: &str| options.get(name).and_then(Value::as_str);
    let (secure, web) = (text("fullchain").is_some(), text("protocol") == Some("websockets"));
    let usual = match (web, secure) {
        (false, false) => 1883,
        (false, true) => 8883,
        (true, false) => 8080,
        (true, true) => 4443,
    };
    let port = options.get("port").and_then(Value::as_u64).unwrap_or(usual);
    let (v4, v6) = (text("inet4_bind_address"), text("inet6_bind_address"));
    let first = format!("{}:{port}", v4.unwrap_or("0.0.0.0"));
    let second = format!("[{}]:{port}", v6.unwrap_or("::"));
    let binds = match (text("unix_socket_path"), text("inet_protocol")) {
        (Some(path), _) => vec![path.to_owned()],
        (_, Some("ip4")) => vec![first],
        (_, Some("ip6")) => vec![second],
        // FlashMQ has a socket for each family. A listener of ours on [::] takes both.
        _ if v4.is_none() && v6.is_none() => vec![format!("[::]:{port}")],
        _ => vec![first, second],
    };
    let one_family = text("inet_protocol") == Some("ip6") || binds.len() > 1;
    for bind in binds {
        let v6only = one_family && bind.starts_with("[::]:");
        plan_listener(plan, options, (secure, web), &bind, v6only);
    }
}

/// Adds a listener at one address.
fn plan_listener(
    plan: &mut Conversion,
    options: &Map<String, Value>,
    (secure, web): (bool, bool),
    bind: &str,
    v6only: bool,
) {
    let text = |name: &str| options.get(name).and_then(Value::as_str);
    let kind = kind(text("unix_socket_path").is_some(), web, secure);
    let mut keys = Map::new();
    let number = plan.listeners.len() + 1;
    set(&mut keys, "name", json!(format!("listener-{number}")));
    set(&mut keys, "type", json!(kind));
    set(&mut keys, "bind", json!(bind));
    if v6only {
        set(&mut keys, "v6only", json!(true));
    }
    if let Some(allowed) = options.get("allow_anonymous") {
        set(&mut keys, "allow_anonymous", allowed.clone());
    }
    if options.get("haproxy") == Some(&json!(true)) {
        set(&mut keys, "proxy_protocol", json!("any"));
        let text = "proxy_protocol needs trusted_proxies: the addresses of your proxies.";
        if !plan.remarks.iter().any(|remark| remark == text) {
            plan.remarks.push(text.to_owned());
        }
    }
    for (option, key) in [
        ("fullchain", "tls.certificate"),
        ("privkey", "tls.private_key"),
        ("client_verification_ca_file", "tls.client_ca"),
    ] {
        if let Some(path) = text(option).filter(|_| secure) {
            set(&mut keys, key, json!(path));
        }
    }
    if secure && text("client_verification_ca_file").is_some() {
        set(&mut keys, "tls.username_from", json!("cn"));
    }
    if secure && text("minimum_tls_version") == Some("tlsv1.3") {
        set(&mut keys, "tls.versions", json!(["1.3"]));
    }
    plan.listeners.push(keys);
}
