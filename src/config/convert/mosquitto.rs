//! Reads mosquitto.conf(5). A line has an option and its value. The lines after `listener` are
//! about that listener, and those after `connection` are about that bridge.

use super::mosquitto_bridge::{BridgeLines, UNKNOWN};
use super::mosquitto_options::{Carry, ListenerOption, OptionRule, rule};
use super::plan::{Conversion, kind, option_of, set};
use serde_json::{Map, Value, json};

/// Whether a file whose first word this is may be a mosquitto.conf.
pub(super) fn is_option(word: &str) -> bool {
    matches!(word, "listener" | "port" | "bind_address" | "connection") || rule(word).is_some()
}

/// A listener while its lines are read.
struct ListenerLines {
    /// An address with its port, or a path.
    bind: String,
    websockets: bool,
    keys: Map<String, Value>,
    certificate: bool,
    /// The value of `cafile`, and the number of its line.
    client_ca: Option<(usize, String)>,
    required: bool,
    /// The line of a `use_identity_as_username` or `use_subject_as_username`, the option, and the
    /// part of the certificate that is meant.
    identity: Option<(usize, &'static str, &'static str)>,
    /// The line and the value of `crlfile`.
    crl: Option<(usize, String)>,
    /// The line of `socket_domain ipv6`.
    v6only: Option<usize>,
    /// Its address could not be carried over, so it is not either.
    lost: bool,
    /// What `per_listener_settings` has it say itself.
    anonymous: Option<bool>,
}

/// A line that has no effect: its number, its option, and the reason.
type Unused = (usize, &'static str, &'static str);

struct MosquittoReader {
    plan: Conversion,
    /// The first element has the options before the first `listener`.
    listeners: Vec<ListenerLines>,
    /// The values of `port` and `bind_address`.
    port: Option<String>,
    address: Option<String>,
    anonymous: Option<bool>,
    /// `allow_anonymous` is about the listener above it, and not about all.
    per_listener: bool,
    persistence: bool,
    location: String,
    password_file: Option<String>,
    acl_file: Option<String>,
    expiration: bool,
    max_qos: Option<u64>,
}

/// Reads a mosquitto.conf.
pub(super) fn read(text: &str) -> Conversion {
    let mut reading = MosquittoReader {
        plan: Conversion::default(),
        listeners: vec![ListenerLines::new(String::new())],
        port: None,
        address: None,
        anonymous: None,
        per_listener: is_per_listener(text),
        persistence: false,
        location: "/var/lib/ringmq".to_owned(),
        password_file: None,
        acl_file: None,
        expiration: false,
        max_qos: None,
    };
    let mut bridge = false;
    let mut bridges: Vec<BridgeLines> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (option, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim();
        bridge = (bridge || option == "connection") && option != "listener";
        if option == "connection" {
            bridges.push(BridgeLines::new(value));
        } else if let Some(connection) = bridges.last_mut().filter(|_| bridge) {
            if let Err(why) = connection.line(option, value) {
                let shown = if why == UNKNOWN { option_of(line) } else { line.to_owned() };
                reading.plan.leave(number, &shown, why);
            }
        } else if let Err(why) = reading.line(option, value, number) {
            let shown = if is_option(option) { line.to_owned() } else { option_of(line) };
            reading.plan.leave(number, &shown, why);
        }
    }
    let mut plan = reading.finish();
    if !bridges.is_empty() {
        let bridges = bridges.into_iter().map(BridgeLines::finish).collect();
        plan.set("bridges", Value::Array(bridges));
    }
    plan
}

impl ListenerLines {
    fn new(bind: String) -> ListenerLines {
        ListenerLines {
            bind,
            websockets: false,
            keys: Map::new(),
            certificate: false,
            client_ca: None,
            required: false,
            identity: None,
            crl: None,
            v6only: None,
            lost: false,
            anonymous: None,
        }
    }

    /// Reads one of the options that are about a listener.
    fn own(&mut self, own: ListenerOption, value: &str, line: usize) -> Result<(), &'static str> {
        let mut tls = |key: &str, value: Value| set(&mut self.keys, &format!("tls.{key}"), value);
        match own {
            ListenerOption::Protocol => match value {
                "mqtt" => self.websockets = false,
                "websockets" => self.websockets = true,
                _ => return Err("there is no such protocol"),
            },
            ListenerOption::MaxConnections => match value.parse::<i64>() {
                Ok(-1) => {}
                Ok(0) => return Err("write max_connections of at least 1"),
                Ok(most) => set(&mut self.keys, "max_connections", json!(most)),
                Err(_) => return Err(NO_NUMBER),
            },
            ListenerOption::MountPoint => {
                let prefix = value.replace("%c", "${client_id}").replace("%u", "${username}");
                let end = if prefix.ends_with('/') { "" } else { "/" };
                set(&mut self.keys, "mountpoint", json!(format!("{prefix}{end}")));
                if !end.is_empty() {
                    return Err("carried, with the / that a mountpoint ends with");
                }
            }
            ListenerOption::Certificate => {
                self.certificate = true;
                tls("certificate", json!(value));
            }
            ListenerOption::Key => tls("private_key", json!(value)),
            ListenerOption::ClientCa => self.client_ca = Some((line, value.to_owned())),
            ListenerOption::Required => self.required = switch(value)?,
            ListenerOption::Crl => self.crl = Some((line, value.to_owned())),
            ListenerOption::Version => match value {
                "tlsv1.3" => tls("versions", json!(["1.3"])),
                "tlsv1.2" => tls("versions", json!(["1.2", "1.3"])),
                _ => return Err("versions below 1.2 are not spoken"),
            },
            ListenerOption::Identity(option, part) => {
                self.identity = switch(value)?.then_some((line, option, part));
            }
            ListenerOption::Origin => {
                let origins = self.keys.entry("origins").or_insert_with(|| json!([]));
                origins.as_array_mut().into_iter().for_each(|list| list.push(json!(value)));
            }
            ListenerOption::Domain => match value {
                "ipv4" if self.bind.starts_with("[::]:") => {
                    self.bind = self.bind.replace("[::]:", "0.0.0.0:");
                }
                "ipv6" => self.v6only = Some(line),
                "ipv4" => {}
                _ => return Err("write an address as bind"),
            },
            ListenerOption::MaxQos => return Err("mqtt.max_qos is the same for all listeners"),
        }
        Ok(())
    }

    /// Converts the listener. The second value has the lines that have no effect, each with its
    /// option and the reason.
    fn finish(mut self, number: usize, anonymous: bool) -> (Map<String, Value>, Vec<Unused>) {
        let secure = self.certificate;
        let kind = kind(self.bind.starts_with('/'), self.websockets, secure);
        let mut keys = Map::new();
        keys.insert("name".to_owned(), json!(format!("listener-{number}")));
        keys.insert("type".to_owned(), json!(kind));
        keys.insert("bind".to_owned(), json!(self.bind));
        keys.insert("allow_anonymous".to_owned(), json!(anonymous));
        let mut unused = Vec::new();
        // Without require_certificate mosquitto asks no client for a certificate.
        let asked = self.required && secure && self.client_ca.is_some();
        if let Some((line, path)) = self.client_ca.take() {
            match asked {
                true => set(&mut self.keys, "tls.client_ca", json!(path)),
                false => unused.push((line, "cafile", NOT_ASKED)),
            }
        }
        if let Some((line, path)) = self.crl.take() {
            match asked {
                true => set(&mut self.keys, "tls.crl", json!([path])),
                false => unused.push((line, "crlfile", NOT_ASKED)),
            }
        }
        if let Some((line, option, part)) = self.identity {
            match asked {
                true => set(&mut self.keys, "tls.username_from", json!(part)),
                false => unused.push((line, option, NOT_ASKED)),
            }
        }
        if let Some(line) = self.v6only {
            // A listener on one IPv6 address has no IPv4 clients anyway.
            match self.bind.starts_with("[::]:") {
                true => set(&mut self.keys, "v6only", json!(true)),
                false if self.bind.starts_with('[') => {}
                false => unused.push((line, "socket_domain", "the address is none of IPv6")),
            }
        }
        if !secure {
            self.keys.remove("tls");
        }
        keys.append(&mut self.keys);
        (keys, unused)
    }
}

const NOT_ASKED: &str = "without cafile and require_certificate no client shows a certificate";
const NO_NUMBER: &str = "the value is no number";

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("the value is neither true nor false"),
    }
}

impl MosquittoReader {
    fn line(&mut self, option: &str, value: &str, line: usize) -> Result<(), &'static str> {
        match option {
            "listener" => {
                let (port, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
                let bind = bind(port, rest.trim());
                let place = bind.as_ref().map_or_else(|_| String::new(), String::clone);
                // The lines that follow are about this listener in any case.
                self.listeners
                    .push(ListenerLines { lost: bind.is_err(), ..ListenerLines::new(place) });
                return bind.map(drop);
            }
            "port" => {
                self.port = Some(value.to_owned());
                return Ok(());
            }
            "bind_address" => {
                self.address = Some(value.to_owned());
                return Ok(());
            }
            _ => {}
        }
        match rule(option).ok_or("mosquitto has no such option")? {
            OptionRule::Leave(why) => Err(why),
            OptionRule::Own(ListenerOption::MaxQos) => {
                let qos = value.parse::<u64>().ok().filter(|qos| *qos <= 2).ok_or(NO_NUMBER)?;
                self.max_qos = Some(self.max_qos.map_or(qos, |known| known.min(qos)));
                match self.listeners.len() {
                    ..=2 => Ok(()),
                    _ => Err("mqtt.max_qos is the same for all listeners: the lowest was taken"),
                }
            }
            OptionRule::Own(own) => match self.listeners.last_mut() {
                Some(listener) if listener.lost => Err("its listener was not carried over"),
                Some(listener) => listener.own(own, value, line),
                None => Ok(()),
            },
            OptionRule::Carry(carry) => self.carry(carry, value),
        }
    }

    fn carry(&mut self, carry: Carry, value: &str) -> Result<(), &'static str> {
        match carry {
            Carry::Switch(key) => self.plan.set(key, json!(switch(value)?)),
            Carry::Number(key, unlimited) => {
                let number: u64 = value.parse().map_err(|_| NO_NUMBER)?;
                let value = match (number, unlimited.parse::<u64>()) {
                    (0, Ok(most)) => json!(most),
                    (0, Err(_)) => json!(unlimited),
                    (number, _) => json!(in_bounds(key, number)?),
                };
                self.plan.set(key, value);
            }
            Carry::PasswordFile => set_once(&mut self.password_file, value)?,
            Carry::AclFile => set_once(&mut self.acl_file, value)?,
            Carry::Persistence => self.persistence = switch(value)?,
            Carry::Location => self.location = value.to_owned(),
            Carry::Expiration => {
                let seconds = duration(value).ok_or("this is no duration such as 14d")?;
                self.plan.set("mqtt.session_expiry.default", json!(format!("{seconds}s")));
                self.plan.set("mqtt.session_expiry.max", json!(format!("{seconds}s")));
                self.expiration = true;
            }
            Carry::Interval => match value.parse::<u64>() {
                Ok(0) => self.plan.set("sys.interval", json!("off")),
                Ok(seconds) if seconds <= 86_400 => {
                    self.plan.set("sys.interval", json!(format!("{seconds}s")));
                }
                Ok(_) | Err(_) => return Err(NO_NUMBER),
            },
            Carry::LogType => match value {
                "debug" | "all" => self.plan.set("log.level", json!("debug")),
                _ => return Err("log.level has levels: error, warn, info, debug"),
            },
            Carry::Anonymous => {
                let allowed = Some(switch(value)?);
                match self.listeners.last_mut() {
                    Some(listener) if self.per_listener => listener.anonymous = allowed,
                    _ => self.anonymous = allowed,
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Conversion {
        let by_default = self.listeners.first().and_then(|listener| listener.anonymous);
        self.default_listener();
        let local = self.port.is_none() && self.listeners.is_empty();
        let anonymous = self.anonymous.unwrap_or(local);
        if local {
            let usual = ListenerLines::new("127.0.0.1:1883".to_owned());
            self.listeners.push(ListenerLines { anonymous: by_default, ..usual });
        }
        let found = std::mem::take(&mut self.listeners);
        let kept: Vec<ListenerLines> =
            found.into_iter().filter(|listener| !listener.lost).collect();
        if kept.is_empty() {
            // Without the key there would be the default listener, which nobody has asked for.
            self.plan.set("listeners", json!([]));
            let why = "No listener could be carried over: write `listeners` by hand.";
            self.plan.remarks.push(why.to_owned());
        }
        for (at, listener) in kept.into_iter().enumerate() {
            // With per_listener_settings, what is said of one listener is not said of another.
            let allowed = listener.anonymous.unwrap_or(anonymous);
            let (keys, unused) = listener.finish(at + 1, allowed);
            for (line, option, why) in unused {
                self.plan.leave(line, option, why);
            }
            self.plan.listeners.push(keys);
        }
        if let Some(qos) = self.max_qos {
            self.plan.set("mqtt.max_qos", json!(qos));
        }
        if self.persistence {
            self.plan.set("storage.path", json!(self.location));
        }
        if !self.expiration {
            self.plan.set("mqtt.session_expiry.default", json!("unlimited"));
        }
        if let Some(path) = &self.password_file {
            let method = json!([{"password_file": {"path": path}}]);
            self.plan.set("access.authentication", method);
        }
        if let Some(path) = &self.acl_file {
            self.plan.set("access.authorization", json!([{"acl_file": {"path": path}}]));
            self.plan.set("access.read_check", json!("delivery"));
        }
        if self.persistence {
            let text =
                "The messages in mosquitto.db stay there: clients get what comes from now on.";
            self.plan.remarks.push(text.to_owned());
        }
        self.plan
    }

    /// The options before the first `listener` are about a listener of their own, if `port` says
    /// so.
    fn default_listener(&mut self) {
        let mut first = self.listeners.remove(0);
        let named = self.port.is_some() || self.address.is_some();
        let has = !first.keys.is_empty() || first.certificate || first.websockets;
        if named || has && self.listeners.is_empty() {
            let port = self.port.get_or_insert_with(|| "1883".to_owned()).clone();
            match bind(&port, self.address.as_deref().unwrap_or_default()) {
                Ok(bind) => {
                    first.bind = bind;
                    self.listeners.insert(0, first);
                }
                Err(why) => self.plan.remarks.push(format!("The listener of `port`: {why}.")),
            }
        }
    }
}

/// Whether options are about the listener above them. The option is about the whole file, wherever
/// it is.
fn is_per_listener(text: &str) -> bool {
    let said = |line: &str| {
        let (option, value) = line.trim().split_once([' ', '\t'])?;
        (option == "per_listener_settings").then(|| switch(value.trim()) == Ok(true))
    };
    text.lines().rev().find_map(said).unwrap_or(false)
}

/// The value of `bind`: an address with its port, or a path.
fn bind(port: &str, address: &str) -> Result<String, &'static str> {
    let port: u16 = port.parse().map_err(|_| "the port is no number")?;
    if port == 0 {
        return match address.starts_with('/') {
            true => Ok(address.to_owned()),
            false => Err("a unix socket needs its whole path"),
        };
    }
    Ok(match address {
        "" => format!("[::]:{port}"),
        "localhost" => format!("127.0.0.1:{port}"),
        v6 if v6.contains(':') => format!("[{v6}]:{port}"),
        v4 if v4.parse::<std::net::Ipv4Addr>().is_ok() => format!("{v4}:{port}"),
        _ => return Err("write the host's address as bind"),
    })
}

fn set_once(place: &mut Option<String>, value: &str) -> Result<(), &'static str> {
    if place.as_ref().is_some_and(|known| known != value) {
        return Err("access is the same for all listeners: the first file was taken");
    }
    *place = Some(value.to_owned());
    Ok(())
}

/// Checks a number against the bounds of our key, which mosquitto's option does not have.
fn in_bounds(key: &str, number: u64) -> Result<u64, &'static str> {
    let (least, most) = match key {
        "mqtt.max_packet_size" => (128, 268_435_460),
        "mqtt.max_inflight" | "mqtt.keep_alive.max" => (1, 65_535),
        "mqtt.max_topic_alias" => (0, 65_535),
        "limits.memory" => (16 << 20, 1 << 40),
        "mqtt.pending.max_messages" | "retained.expiry" => (0, u64::from(u32::MAX) - 1),
        _ => (0, 1 << 40),
    };
    match (least..=most).contains(&number) {
        true => Ok(number),
        false => Err("out of bounds here; `ringmq config reference` names them"),
    }
}

/// The seconds of `14d`, `1w`, `2m` (months of 30 days), `1y` or `3h`.
fn duration(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'm' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return None,
    };
    let longest = u64::from(u32::MAX) - 1;
    number.checked_mul(seconds).filter(|seconds| *seconds <= longest)
}
