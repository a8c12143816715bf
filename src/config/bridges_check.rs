//! The rules that relate the keys of `bridges:`. Owns nothing.

use super::access_check::is_url;
use super::check::Findings;
use super::sections::{
    Bridge, BridgePuback, BridgeStart, BridgeTls, BridgeTopic, BridgeVersion, BufferMode, Config,
    Direction, HttpBridgeConfig, MqttBridgeConfig, OnBufferFull, WebhookFormat,
};
use super::value::Get;
use crate::bridge::template::MessageTemplate;
use crate::topic;
use std::path::{Path, PathBuf};

#[path = "kafka_check.rs"]
mod kafka_check;

/// Checks every bridge.
pub(super) fn check(config: &Config, report: &mut Findings<'_>) {
    for (at, bridge) in config.bridges.iter().enumerate() {
        let key = format!("bridges.{at}");
        name(&key, bridge, &config.bridges[..at], report);
        let ends = [bridge.mqtt.is_some(), bridge.http.is_some(), bridge.kafka.is_some()];
        match ends.iter().filter(|is| **is).count() {
            0 => {
                let what = "it does not say what is at its other end";
                report.add(&key, what, "write one of: mqtt, http, kafka");
            }
            1 => {}
            _ => {
                let fix = "make a bridge of each";
                report.add(&key, "it has several other ends", fix);
            }
        }
        if let Some(http) = &*bridge.http {
            check_http(&format!("{key}.http"), http, report);
        }
        if let Some(kafka) = &*bridge.kafka {
            kafka_check::check(&format!("{key}.kafka"), kafka, report);
        }
        buffer(&key, bridge, config, report);
        place(&key, bridge, &config.bridges[..at], config, report);
        puback(&key, bridge, report);
        if let Some(mqtt) = &*bridge.mqtt {
            check_mqtt(&format!("{key}.mqtt"), mqtt, report);
        }
    }
}

/// Sentences about what is allowed but probably not meant.
pub(super) fn remarks(config: &Config) -> Vec<String> {
    let mut remarks = Vec::new();
    for (at, bridge) in config.bridges.iter().enumerate() {
        let kafka = bridge.kafka.as_ref();
        if kafka.is_some_and(|kafka| kafka.tls.is_none() && kafka.sasl.is_some()) {
            remarks.push(format!(
                "bridges.{at}.kafka.sasl: what proves the user goes over a network without \
                 encryption; set bridges.{at}.kafka.tls"
            ));
        }
        let waits = bridge.puback == BridgePuback::Delivered;
        let unsure =
            |mqtt: &MqttBridgeConfig| mqtt.topics.iter().any(|t| t.goes_out() && t.qos.get() == 0);
        if waits && bridge.mqtt.as_ref().is_some_and(unsure) {
            remarks.push(format!(
                "bridges.{at}.puback: topics with qos: 0 count as delivered when they are written \
                 to the connection; set their qos: 1"
            ));
        }
        let open = bridge.mqtt.as_ref().is_some_and(|m| m.tls.is_none() && !m.password.is_empty());
        if open {
            remarks.push(format!(
                "bridges.{at}.mqtt.password: it goes over the network as it is; set bridges.{at}\
                 .mqtt.tls"
            ));
        }
    }
    remarks
}

/// A name has to fit into a topic as one level, and into a metric as a label.
fn name(key: &str, bridge: &Bridge, before: &[Bridge], report: &mut Findings<'_>) {
    let key = format!("{key}.name");
    // The name is that of a directory too, where these two mean others.
    if matches!(&*bridge.name, "." | "..") {
        let fix = "write a name with letters or digits";
        report.add(&key, "this is no name of a directory of its own", fix);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bridge.name.is_empty() || !bridge.name.chars().all(plain) {
        let fix = "write a name of letters, digits, - _ and .";
        report.add(&key, "the bridge has no name that can stand in a topic", fix);
    }
    if let Some(other) = before.iter().position(|other| other.name == bridge.name) {
        let what = format!("bridges.{other} is also called `{}`", bridge.name);
        report.add(&key, what, "give each bridge a name of its own");
    }
}

/// Checks what a bridge says about its buffer. A buffer on disk needs a directory, and room for two
/// segments.
fn buffer(key: &str, bridge: &Bridge, config: &Config, report: &mut Findings<'_>) {
    let buffer = &bridge.buffer;
    let once = bridge.mqtt.as_ref().is_some_and(|mqtt| mqtt.start == BridgeStart::Once);
    if once && buffer.on_full == OnBufferFull::Pause {
        let what = "with start: once, publishers would wait for ever when the connection has ended";
        let fix = "set drop_new, or start: automatic";
        report.add(&format!("{key}.buffer.on_full"), what, fix);
    }
    if buffer.mode == BufferMode::Memory {
        for name in ["path", "segment"] {
            let key = format!("{key}.buffer.{name}");
            if report.is_written(&key) {
                report.add(&key, "nothing waits on disk", "set mode: hybrid, or remove it");
            }
        }
    } else if buffer.path.is_empty() && config.storage.path.is_empty() {
        let what = "there is no directory for what waits on disk";
        report.add(&format!("{key}.buffer.mode"), what, "set buffer.path, or storage.path");
    } else if buffer.max_bytes.get() / bridge.connections() < 2 * buffer.segment.get() {
        let what = match bridge.connections() {
            1 => "it is less than two segments",
            _ => "it is less than two segments for each connection",
        };
        report.add(&format!("{key}.buffer.max_bytes"), what, "raise it, or lower segment");
    }
}

/// Checks that no two bridges keep what waits in one directory: each would take the other's
/// messages for its own.
fn place(
    key: &str,
    bridge: &Bridge,
    before: &[Bridge],
    config: &Config,
    report: &mut Findings<'_>,
) {
    let storage = Path::new(&*config.storage.path);
    let of = |bridge: &Bridge| {
        let is_on_disk = bridge.buffer.mode != BufferMode::Memory;
        let named = !bridge.buffer.path.is_empty() || !config.storage.path.is_empty();
        (is_on_disk && named).then(|| bridge.directory(storage))
    };
    let Some(mine) = of(bridge) else { return };
    let meets = |other: &Bridge| {
        // Bridges of one name have been reported.
        other.name != bridge.name && of(other).is_some_and(|theirs| theirs == mine)
    };
    if let Some(other) = before.iter().position(meets) {
        let what = format!("{} is in use by bridges.{other}", mine.display());
        let fix = "give each bridge a directory of its own";
        report.add(&format!("{key}.buffer.path"), what, fix);
    }
}

/// Checks bridges whose publishers wait for the other end: the bridge must be sure to connect.
fn puback(key: &str, bridge: &Bridge, report: &mut Findings<'_>) {
    if bridge.puback == BridgePuback::Accepted {
        let key = format!("{key}.puback_timeout");
        if report.is_written(&key) {
            report.add(&key, "nobody waits for the other end", "set puback: delivered");
        }
        return;
    }
    let Some(mqtt) = bridge.mqtt.as_ref() else { return };
    let key = format!("{key}.puback");
    if mqtt.start == BridgeStart::Once {
        let what = "with start: once, publishers would wait for ever when the connection has ended";
        report.add(&key, what, "set accepted, or start: automatic");
    }
    if mqtt.start == BridgeStart::Lazy && mqtt.lazy.threshold.get() > 1 {
        let what = "publishers would wait until others' messages have the bridge connect";
        report.add(&key, what, "set lazy.threshold: 1, or start: automatic");
    }
}

/// True for text of the form HOST:PORT.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let whole = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && whole && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_mqtt(key: &str, mqtt: &MqttBridgeConfig, report: &mut Findings<'_>) {
    if mqtt.addresses.is_empty() {
        let fix = "write one such as broker.example:1883";
        report.add(&format!("{key}.addresses"), "there is no address", fix);
    }
    for (at, address) in mqtt.addresses.iter().enumerate() {
        if !is_address(address) {
            let what = format!("`{address}` is no address with a port");
            let fix = "write one such as broker.example:1883 or \"[::1]:1883\"";
            report.add(&format!("{key}.addresses.{at}"), what, fix);
        }
    }
    if mqtt.topics.is_empty() {
        let fix = "add an element such as {filter: \"#\", direction: out, qos: 1}";
        report.add(&format!("{key}.topics"), "nothing would go over the bridge", fix);
    }
    for (at, topic) in mqtt.topics.iter().enumerate() {
        check_topic(&format!("{key}.topics.{at}"), topic, report);
    }
    if mqtt.retry.max.get() < mqtt.retry.min.get() {
        let fix = "raise it, or lower min";
        report.add(&format!("{key}.retry.max"), "it is shorter than min", fix);
    }
    if mqtt.username.is_empty()
        && !mqtt.password.is_empty()
        && mqtt.protocol_version == BridgeVersion::V311
    {
        let what = "MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22]";
        report.add(&format!("{key}.password"), what, "set username, or protocol_version: v5");
    }
    let written = format!("{key}.on_refused");
    if mqtt.protocol_version == BridgeVersion::V311 && report.is_written(&written) {
        let fix = "remove it, or set protocol_version: v5";
        report.add(&written, "MQTT 3.1.1 has no reason codes: nothing is refused", fix);
    }
    check_tls(key, mqtt.tls.as_ref(), report);
    check_connections(key, mqtt, report);
    let state = &mqtt.notification_topic;
    if !state.is_empty() && !topic::valid_name(state) {
        let fix = "write one without + and #";
        report.add(&format!("{key}.notification_topic"), "this is no topic name", fix);
    }
}

/// Checks a bridge with several connections: they must be up all the time, and a message that one
/// of them has sent must not come back by another.
fn check_connections(key: &str, mqtt: &MqttBridgeConfig, report: &mut Findings<'_>) {
    if mqtt.connections.get() == 1 {
        return;
    }
    let key = format!("{key}.connections");
    if mqtt.start != BridgeStart::Automatic {
        report.add(&key, "several connections are always there", "set start: automatic, or 1");
    }
    let brings = mqtt.topics.iter().any(BridgeTopic::comes_in);
    if brings && mqtt.protocol_version == BridgeVersion::V311 {
        let what = "with MQTT 3.1.1, what one connection has sent could come back by another";
        let fix = "set protocol_version: v5, or make a bridge of its own of what comes in";
        report.add(&key, what, fix);
    }
}

fn check_http(key: &str, http: &HttpBridgeConfig, report: &mut Findings<'_>) {
    if !is_url(&http.url) {
        let fix = "write one such as https://hook.example/mqtt";
        report.add(&format!("{key}.url"), "this is no http or https URL", fix);
    } else if http.url.split(['?', '/']).nth(2).unwrap_or_default().contains("${") {
        let fix = "keep placeholders in the path and the query";
        report.add(&format!("{key}.url"), "a message would choose which host is asked", fix);
    }
    if http.filters.is_empty() {
        let fix = "add one such as \"#\"";
        report.add(&format!("{key}.filters"), "nothing would go over the bridge", fix);
    }
    for (at, filter) in http.filters.iter().enumerate() {
        check_filter(&format!("{key}.filters.{at}"), filter, report);
    }
    let tables = [("headers", &http.headers), ("body", &http.body)];
    let fields = tables.iter().flat_map(|(name, table)| {
        table.iter().map(move |(field, text)| (format!("{key}.{name}.{field}"), &**text))
    });
    for (key, text) in fields.chain([(format!("{key}.url"), &*http.url)]) {
        check_template(&key, text, report);
    }
    let plain = http.format == WebhookFormat::Payload;
    if plain && (http.batch.get() > 1 || !http.body.is_empty()) {
        let what = "a body that is one payload has neither fields nor other messages";
        report.add(&format!("{key}.format"), what, "set format: json, or remove batch and body");
    }
    if http.retry.max.get() < http.retry.min.get() {
        let fix = "raise it, or lower min";
        report.add(&format!("{key}.retry.max"), "it is shorter than min", fix);
    }
    check_tls(key, http.tls.as_ref(), report);
}

fn check_filter(key: &str, filter: &str, report: &mut Findings<'_>) {
    if topic::parse_share(filter).is_some() || !topic::valid_filter(filter) {
        let what = format!("`{filter}` is no topic filter");
        report.add(key, what, "see section 4.7 of MQTT");
    }
}

fn check_template(key: &str, text: &str, report: &mut Findings<'_>) {
    if let Err(what) = MessageTemplate::new(text) {
        report.add(key, what, "see bridges.N.http.url in `ringmq config reference`");
    }
}

fn check_tls(key: &str, tls: Option<&BridgeTls>, report: &mut Findings<'_>) {
    if let Some(tls) = tls
        && tls.certificate.is_empty() != tls.private_key.is_empty()
    {
        let what = "certificate and private_key come together";
        report.add(&format!("{key}.tls"), what, "set both, or neither");
    }
}

/// Checks a topic by the rules of Mosquitto's table: with an empty filter both prefixes are needed,
/// because then they are the topics.
fn check_topic(key: &str, entry: &BridgeTopic, report: &mut Findings<'_>) {
    let (local, remote) = (entry.local(), entry.remote());
    if entry.filter.is_empty() && (entry.local_prefix.is_empty() || entry.remote_prefix.is_empty())
    {
        let what = "with an empty filter local_prefix and remote_prefix are the topics";
        report.add(key, what, "write both prefixes, or a filter");
        return;
    }
    for (name, prefix) in
        [("local_prefix", &entry.local_prefix), ("remote_prefix", &entry.remote_prefix)]
    {
        if prefix.contains(['+', '#']) {
            let fix = "put them into filter";
            report.add(&format!("{key}.{name}"), "a prefix has no + or #", fix);
            return;
        }
    }
    for filter in [&local, &remote] {
        let plain = topic::parse_share(filter).is_none() && topic::valid_filter(filter);
        if !plain {
            let what = format!("with its prefix `{filter}` is no topic filter");
            report.add(&format!("{key}.filter"), what, "see section 4.7 of MQTT");
            return;
        }
    }
}

impl Bridge {
    /// The directory of the messages that wait on disk; `storage` is `storage.path`.
    pub fn directory(&self, storage: &Path) -> PathBuf {
        match &*self.buffer.path {
            "" => storage.join("bridges").join(&*self.name),
            path => PathBuf::from(path),
        }
    }

    /// The number of connections. Each has a buffer of its own.
    pub fn connections(&self) -> u64 {
        self.mqtt.as_ref().map_or(1, |mqtt| u64::from(mqtt.connections.get()))
    }
}

impl BridgeTopic {
    /// The topic filter at this broker.
    pub fn local(&self) -> String {
        format!("{}{}", &*self.local_prefix, &*self.filter)
    }

    /// The topic filter at the other broker.
    pub fn remote(&self) -> String {
        format!("{}{}", &*self.remote_prefix, &*self.filter)
    }

    /// Whether messages go to the other broker.
    pub fn goes_out(&self) -> bool {
        self.direction != Direction::In
    }

    /// Whether messages come from the other broker.
    pub fn comes_in(&self) -> bool {
        self.direction != Direction::Out
    }
}

#[cfg(test)]
#[path = "bridges_check_tests.rs"]
mod tests;
