//! Reads the lines of a mosquitto.conf after `connection`. Each `connection` is a bridge.

use super::plan::set;
use serde_json::{Map, Value, json};

/// A bridge while its lines are read.
pub(super) struct BridgeLines {
    name: String,
    keys: Map<String, Value>,
    topics: Vec<Value>,
}

type LineOutcome = Result<(), &'static str>;

const NO_NUMBER: &str = "the value is no number within our bounds";

/// Why an option is not carried over whose name says nothing here.
pub(super) const UNKNOWN: &str = "see bridges.N.mqtt in `ringmq config reference`";

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("the value is neither true nor false"),
    }
}

fn seconds(value: &str, least: u64, most: u64) -> Result<Value, &'static str> {
    let number = value.parse::<u64>().ok().filter(|number| (least..=most).contains(number));
    number.map(|seconds| json!(format!("{seconds}s"))).ok_or(NO_NUMBER)
}

/// HOST, HOST:PORT, or an IPv6 address in brackets, as an address with its port.
fn address(text: &str) -> Value {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => json!(text),
        _ => json!(format!("{text}:1883")),
    }
}

impl BridgeLines {
    /// Begins a bridge, for the line `connection NAME`.
    pub(super) fn new(name: &str) -> BridgeLines {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        BridgeLines {
            name: name.chars().map(plain).collect(),
            keys: Map::new(),
            topics: Vec::new(),
        }
    }

    fn set(&mut self, key: &str, value: Value) -> LineOutcome {
        set(&mut self.keys, key, value);
        Ok(())
    }

    /// Reads one of the options of the bridge.
    pub(super) fn line(&mut self, option: &str, value: &str) -> LineOutcome {
        match option {
            "address" | "addresses" => {
                let all = value.split_whitespace().map(address).collect();
                self.set("addresses", Value::Array(all))
            }
            "topic" => self.topic(value),
            "remote_clientid" | "clientid" => self.set("client_id", json!(value)),
            "remote_username" | "username" => self.set("username", json!(value)),
            "remote_password" | "password" => {
                Err("not copied; write it as bridges.N.mqtt.password, or in the environment")
            }
            "cleansession" => self.set("clean_start", json!(switch(value)?)),
            "keepalive_interval" => self.set("keep_alive", seconds(value, 5, 64_800)?),
            "notifications" => self.set("notifications", json!(switch(value)?)),
            "notification_topic" => self.set("notification_topic", json!(value)),
            "round_robin" => self.set("round_robin", json!(switch(value)?)),
            "try_private" => self.set("try_private", json!(switch(value)?)),
            "threshold" => {
                let number: u32 = value.parse().ok().filter(|&n| n > 0).ok_or(NO_NUMBER)?;
                self.set("lazy.threshold", json!(number))
            }
            "idle_timeout" => self.set("lazy.idle", seconds(value, 1, 86_400)?),
            "restart_timeout" => self.restart(value),
            "start_type" => match value {
                "automatic" | "lazy" | "once" => self.set("start", json!(value)),
                _ => Err("there is no such start type"),
            },
            "bridge_protocol_version" => match value {
                "mqttv50" => self.set("protocol_version", json!("v5")),
                "mqttv311" => self.set("protocol_version", json!("v311")),
                _ => Err("bridges speak MQTT 3.1.1 and 5.0"),
            },
            "bridge_cafile" => self.set("tls.ca", json!(value)),
            "bridge_certfile" => self.set("tls.certificate", json!(value)),
            "bridge_keyfile" => self.set("tls.private_key", json!(value)),
            "local_clientid" | "local_username" | "local_password" => {
                Err("a bridge is no client here, and needs no login")
            }
            "notifications_local_only" => {
                Err("the state here is always published; write notifications: false")
            }
            "bridge_insecure" => Err("certificates are always checked; see tls.server_name"),
            "bridge_attempt_unsubscribe" => Err("it never unsubscribes"),
            "bridge_outgoing_retain" => Err("the retain flag goes as it came"),
            "bridge_capath" => Err("put the authorities into one file, tls.ca"),
            _ => Err(UNKNOWN),
        }
    }

    /// Reads `base` or `base cap`, in seconds.
    fn restart(&mut self, value: &str) -> LineOutcome {
        let mut numbers = value.split_whitespace();
        let base = numbers.next().unwrap_or_default();
        self.set("retry.min", seconds(base, 1, 3600)?)?;
        let cap = numbers.next().unwrap_or(base);
        self.set("retry.max", seconds(cap, 1, 86_400)?)
    }

    /// Reads `PATTERN [in|out|both [QOS [local-prefix [remote-prefix]]]]`, where `""` is an empty
    /// word.
    fn topic(&mut self, value: &str) -> LineOutcome {
        let mut words = value.split_whitespace().map(|word| if word == "\"\"" { "" } else { word });
        let mut topic = Map::new();
        topic.insert("filter".to_owned(), json!(words.next().unwrap_or_default()));
        let direction = words.next().unwrap_or("out");
        if !["in", "out", "both"].contains(&direction) {
            return Err("there is no such direction");
        }
        topic.insert("direction".to_owned(), json!(direction));
        let qos = words.next().unwrap_or("0").parse::<u8>().ok().filter(|&qos| qos <= 2);
        topic.insert("qos".to_owned(), json!(qos.ok_or("the QoS is 0, 1 or 2")?));
        for key in ["local_prefix", "remote_prefix"] {
            if let Some(prefix) = words.next().filter(|prefix| !prefix.is_empty()) {
                topic.insert(key.to_owned(), json!(prefix));
            }
        }
        self.topics.push(Value::Object(topic));
        Ok(())
    }

    /// The element of `bridges`. Mosquitto speaks 3.1.1 unless another version is set.
    pub(super) fn finish(mut self) -> Value {
        self.keys.entry("protocol_version").or_insert_with(|| json!("v311"));
        self.keys.insert("topics".to_owned(), Value::Array(self.topics));
        json!({"name": self.name, "mqtt": self.keys})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_becomes_a_bridge() {
        let mut connection = BridgeLines::new("up link");
        for line in [
            "address 10.0.0.1 broker:1884",
            "topic sensors/# both 1 \"\" site1/",
            "topic cmd/+",
            "restart_timeout 10 40",
            "bridge_protocol_version mqttv50",
            "cleansession true",
            "remote_clientid me",
        ] {
            let (option, value) = line.split_once(' ').unwrap();
            assert_eq!(connection.line(option, value), Ok(()), "{line}");
        }
        assert!(connection.line("topic", "a up 1").is_err());
        assert!(connection.line("local_clientid", "x").is_err());
        let expected = json!({"name": "up-link", "mqtt": {
            "addresses": ["10.0.0.1:1883", "broker:1884"],
            "retry": {"min": "10s", "max": "40s"},
            "protocol_version": "v5",
            "clean_start": true,
            "client_id": "me",
            "topics": [
                {"filter": "sensors/#", "direction": "both", "qos": 1, "remote_prefix": "site1/"},
                {"filter": "cmd/+", "direction": "out", "qos": 0},
            ],
        }});
        assert_eq!(connection.finish(), expected);
    }
}
