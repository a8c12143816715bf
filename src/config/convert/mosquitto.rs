//! Reads mosquitto.conf(5). A line has an option and its value. The lines after `listener` are
//! about that listener, and those after `connection` are about that bridge.

use super::mosquitto_bridge::Connection;
use super::plan::{Plan, kind, set};
use serde_json::{Map, Value, json};

/// What becomes of an option.
enum Rule {
    /// Its value is carried over to a key.
    Carry(Carry),
    /// It is about one listener.
    Own(Own),
    /// It is not carried over, for this reason.
    Leave(&'static str),
}

/// How a value is carried over to a key.
enum Carry {
    /// It is `true` or `false`.
    Switch(&'static str),
    /// It is a number. Where 0 stands for "no limit", the second text is the word or number that
    /// means the same here.
    Number(&'static str, &'static str),
    /// The file of users.
    PasswordFile,
    /// The file of rules.
    AclFile,
    /// `persistence`.
    Persistence,
    /// `persistence_location`.
    Location,
    /// A duration such as `14d`.
    Expiration,
    /// `sys_interval`.
    Interval,
    /// `log_type`.
    LogType,
    /// `allow_anonymous`.
    Anonymous,
}

/// The options that are about one listener.
#[derive(Clone, Copy)]
enum Own {
    Protocol,
    MaxConnections,
    MountPoint,
    Certificate,
    Key,
    ClientCa,
    Required,
    Crl,
    Version,
    Identity(&'static str),
    Origin,
    Domain,
    MaxQos,
}

const NO_ROOM: &str = "the service manager's, or not needed";
const PLUGIN: &str =
    "plugins are not run; see access.authentication for http, jwt, redis, postgres";
const LOG: &str = "the log goes to standard error; the service manager keeps it";

/// What becomes of each option.
fn rule(option: &str) -> Option<Rule> {
    use Carry::*;
    Some(match option {
        "acl_file" => Rule::Carry(AclFile),
        "allow_anonymous" => Rule::Carry(Anonymous),
        "allow_zero_length_clientid" => Rule::Carry(Switch("mqtt.empty_client_id")),
        "max_inflight_messages" => Rule::Carry(Number("mqtt.max_inflight", "65535")),
        "max_keepalive" => Rule::Carry(Number("mqtt.keep_alive.max", "65535")),
        "max_packet_size" => Rule::Carry(Number("mqtt.max_packet_size", "268435460")),
        "max_queued_bytes" => Rule::Carry(Number("mqtt.pending.max_bytes", "1099511627776")),
        "max_queued_messages" => Rule::Carry(Number("mqtt.pending.max_messages", "4294967295")),
        "max_topic_alias" => Rule::Carry(Number("mqtt.max_topic_alias", "0")),
        "memory_limit" => Rule::Carry(Number("limits.memory", "unlimited")),
        "retain_expiry_interval" => Rule::Carry(Number("retained.expiry", "never")),
        "password_file" => Rule::Carry(PasswordFile),
        "persistence" => Rule::Carry(Persistence),
        "persistence_location" => Rule::Carry(Location),
        "persistent_client_expiration" => Rule::Carry(Expiration),
        "queue_qos0_messages" => Rule::Carry(Switch("mqtt.pending.qos0")),
        "retain_available" => Rule::Carry(Switch("mqtt.retain")),
        "sys_interval" => Rule::Carry(Interval),
        "log_type" => Rule::Carry(LogType),
        "connection_messages" => Rule::Carry(Switch("log.connections")),
        "protocol" => Rule::Own(Own::Protocol),
        "max_connections" => Rule::Own(Own::MaxConnections),
        "mount_point" => Rule::Own(Own::MountPoint),
        "certfile" => Rule::Own(Own::Certificate),
        "keyfile" => Rule::Own(Own::Key),
        "cafile" => Rule::Own(Own::ClientCa),
        "require_certificate" => Rule::Own(Own::Required),
        "crlfile" => Rule::Own(Own::Crl),
        "tls_version" => Rule::Own(Own::Version),
        "use_identity_as_username" => Rule::Own(Own::Identity("cn")),
        "use_subject_as_username" => Rule::Own(Own::Identity("dn")),
        "websockets_origin" => Rule::Own(Own::Origin),
        "socket_domain" => Rule::Own(Own::Domain),
        "max_qos" => Rule::Own(Own::MaxQos),
        other => Rule::Leave(left(other)?),
    })
}

/// Why an option is not carried over.
fn left(option: &str) -> Option<&'static str> {
    Some(match option {
        "user" | "pid_file" => NO_ROOM,
        "set_tcp_nodelay" => "it always is",
        "autosave_interval" | "autosave_on_changes" | "persistence_file" => {
            "storage writes each change at once, into files of its own"
        }
        "auth_plugin"
        | "plugin"
        | "auth_plugin_deny_special_chars"
        | "plugin_load"
        | "plugin_use" => PLUGIN,
        "log_dest"
        | "log_facility"
        | "log_timestamp"
        | "log_timestamp_format"
        | "websockets_log_level" => LOG,
        "max_inflight_bytes" => "messages in flight are bounded by mqtt.max_inflight",
        "message_size_limit" => "this was about payloads; mqtt.max_packet_size is about packets",
        "auto_id_prefix" | "clientid_prefixes" => "write a rule with client_id in its place",
        "use_username_as_clientid" => "write a rule with topics that have ${username}",
        "check_retain_source" => "a retained message stays when its publisher loses the right",
        "allow_duplicate_messages" => "each client gets a message once for each subscription",
        "upgrade_outgoing_qos" => "the QoS of a message is never raised",
        "per_listener_settings" => "access.authentication is the same for all listeners",
        "include_dir" => "convert those files too, in the order of their names",
        "psk_file"
        | "psk_hint"
        | "ciphers"
        | "ciphers_tls1.3"
        | "dhparamfile"
        | "tls_engine"
        | "tls_engine_kpass_sha1"
        | "tls_keyform" => "TLS has a fixed list of modern suites and no pre-shared keys",
        "capath" => "put the authorities into one file, tls.client_ca",
        "http_dir" => "no files are served",
        "websockets_headers_size" => "it has a fixed bound",
        "bind_interface" => "write the interface's address as bind",
        "retained_persistence"
        | "global_max_clients"
        | "global_max_connections"
        | "global_plugin"
        | "enable_control_api"
        | "packet_buffer_size"
        | "accept_protocol_versions"
        | "enable_proxy_protocol"
        | "proxy_protocol_v2_require_tls" => "see `ringmq config reference`",
        _ if option.starts_with("auth_opt_") || option.starts_with("plugin_opt_") => PLUGIN,
        _ => return None,
    })
}

/// Whether a file whose first word this is may be a mosquitto.conf.
pub(super) fn is_option(word: &str) -> bool {
    matches!(word, "listener" | "port" | "bind_address" | "connection") || rule(word).is_some()
}

/// A listener while its lines are read.
struct Listener {
    /// An address with its port, or a path.
    bind: String,
    websockets: bool,
    keys: Map<String, Value>,
    certificate: bool,
    /// The value of `cafile`, and the number of its line.
    client_ca: Option<(usize, String)>,
    required: bool,
    anonymous: Option<bool>,
}

struct Reading {
    plan: Plan,
    /// The first element has the options before the first `listener`.
    listeners: Vec<Listener>,
    /// The values of `port` and `bind_address`.
    port: Option<String>,
    address: Option<String>,
    anonymous: Option<bool>,
    persistence: bool,
    location: String,
    password_file: Option<String>,
    acl_file: Option<String>,
    expiration: bool,
    max_qos: Option<u64>,
}

/// Reads a mosquitto.conf.
pub(super) fn read(text: &str) -> Plan {
    let mut reading = Reading {
        plan: Plan::default(),
        listeners: vec![Listener::new(String::new())],
        port: None,
        address: None,
        anonymous: None,
        persistence: false,
        location: "/var/lib/ringmq".to_owned(),
        password_file: None,
        acl_file: None,
        expiration: false,
        max_qos: None,
    };
    let mut bridge = false;
    let mut bridges: Vec<Connection> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (option, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim();
        bridge = (bridge || option == "connection") && option != "listener";
        if option == "connection" {
            bridges.push(Connection::new(value));
        } else if let Some(connection) = bridges.last_mut().filter(|_| bridge) {
            if let Err(why) = connection.line(option, value) {
                reading.plan.leave(number, line, why);
            }
        } else if let Err(why) = reading.line(option, value, number) {
            reading.plan.leave(number, line, why);
        }
    }
    let mut plan = reading.finish();
    if !bridges.is_empty() {
        let bridges = bridges.into_iter().map(Connection::finish).collect();
        plan.set("bridges", Value::Array(bridges));
    }
    plan
}

impl Listener {
    fn new(bind: String) -> Listener {
        Listener {
            bind,
            websockets: false,
            keys: Map::new(),
            certificate: false,
            client_ca: None,
            required: false,
            anonymous: None,
        }
    }

    /// Reads one of the options that are about a listener.
    fn own(&mut self, own: Own, value: &str, line: usize) -> Result<(), &'static str> {
        let mut tls = |key: &str, value: Value| set(&mut self.keys, &format!("tls.{key}"), value);
        match own {
            Own::Protocol => match value {
                "mqtt" => self.websockets = false,
                "websockets" => self.websockets = true,
                _ => return Err("there is no such protocol"),
            },
            Own::MaxConnections => match value.parse::<i64>() {
                Ok(-1) => {}
                Ok(0) => return Err("write max_connections of at least 1"),
                Ok(most) => set(&mut self.keys, "max_connections", json!(most)),
                Err(_) => return Err(NO_NUMBER),
            },
            Own::MountPoint => {
                let prefix = value.replace("%c", "${client_id}").replace("%u", "${username}");
                let end = if prefix.ends_with('/') { "" } else { "/" };
                set(&mut self.keys, "mountpoint", json!(format!("{prefix}{end}")));
                if !end.is_empty() {
                    return Err("carried, with the / that a mountpoint ends with");
                }
            }
            Own::Certificate => {
                self.certificate = true;
                tls("certificate", json!(value));
            }
            Own::Key => tls("private_key", json!(value)),
            Own::ClientCa => self.client_ca = Some((line, value.to_owned())),
            Own::Required => self.required = switch(value)?,
            Own::Crl => tls("crl", json!([value])),
            Own::Version => match value {
                "tlsv1.3" => tls("versions", json!(["1.3"])),
                "tlsv1.2" => tls("versions", json!(["1.2", "1.3"])),
                _ => return Err("versions below 1.2 are not spoken"),
            },
            Own::Identity(part) => {
                if switch(value)? {
                    tls("username_from", json!(part));
                }
            }
            Own::Origin => {
                let origins = self.keys.entry("origins").or_insert_with(|| json!([]));
                origins.as_array_mut().into_iter().for_each(|list| list.push(json!(value)));
            }
            Own::Domain => match value {
                "ipv4" if self.bind.starts_with("[::]:") => {
                    self.bind = self.bind.replace("[::]:", "0.0.0.0:");
                }
                "ipv6" => set(&mut self.keys, "v6only", json!(true)),
                "ipv4" => {}
                _ => return Err("write an address as bind"),
            },
            Own::MaxQos => return Err("mqtt.max_qos is the same for all listeners"),
        }
        Ok(())
    }

    /// Converts the listener. The second value is the line of a `cafile` that has no effect.
    fn finish(mut self, number: usize, anonymous: bool) -> (Map<String, Value>, Option<usize>) {
        let secure = self.certificate;
        let kind = kind(self.bind.starts_with('/'), self.websockets, secure);
        let mut keys = Map::new();
        keys.insert("name".to_owned(), json!(format!("listener-{number}")));
        keys.insert("type".to_owned(), json!(kind));
        keys.insert("bind".to_owned(), json!(self.bind));
        keys.insert("allow_anonymous".to_owned(), json!(self.anonymous.unwrap_or(anonymous)));
        let mut unused = None;
        if let Some((line, path)) = self.client_ca.take() {
            // Without require_certificate mosquitto asks no client for a certificate.
            match self.required && secure {
                true => set(&mut self.keys, "tls.client_ca", json!(path)),
                false => unused = Some(line),
            }
        }
        if !secure {
            self.keys.remove("tls");
        }
        // mosquitto accepts a WebSocket at any path. Ours accepts it at the default of `path` only.
        keys.append(&mut self.keys);
        (keys, unused)
    }
}

const NO_NUMBER: &str = "the value is no number";

fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("the value is neither true nor false"),
    }
}

impl Reading {
    fn line(&mut self, option: &str, value: &str, line: usize) -> Result<(), &'static str> {
        match option {
            "listener" => {
                let (port, rest) = value.split_once([' ', '\t']).unwrap_or((value, ""));
                self.listeners.push(Listener::new(bind(port, rest.trim())?));
                return Ok(());
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
            Rule::Leave(why) => Err(why),
            Rule::Own(Own::MaxQos) => {
                let qos = value.parse::<u64>().ok().filter(|qos| *qos <= 2).ok_or(NO_NUMBER)?;
                self.max_qos = Some(self.max_qos.map_or(qos, |known| known.min(qos)));
                match self.listeners.len() {
                    ..=2 => Ok(()),
                    _ => Err("mqtt.max_qos is the same for all listeners: the lowest was taken"),
                }
            }
            Rule::Own(own) => match self.listeners.last_mut() {
                Some(listener) => listener.own(own, value, line),
                None => Ok(()),
            },
            Rule::Carry(carry) => self.carry(carry, value),
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
                let allowed = switch(value)?;
                match self.listeners.as_mut_slice() {
                    [_] => self.anonymous = Some(allowed),
                    [.., last] => last.anonymous = Some(allowed),
                    [] => {}
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Plan {
        self.default_listener();
        // Without per_listener_settings, an option after a `listener` is about all listeners all
        // the same.
        let set_there = self.listeners.iter().find_map(|listener| listener.anonymous);
        let local = self.port.is_none() && self.listeners.is_empty();
        let anonymous = self.anonymous.or(set_there).unwrap_or(local);
        if local {
            self.listeners.push(Listener::new("127.0.0.1:1883".to_owned()));
        }
        for (at, listener) in self.listeners.drain(..).enumerate() {
            let (keys, unused) = listener.finish(at + 1, anonymous);
            if let Some(line) = unused {
                let why = "without require_certificate no client shows one";
                self.plan.leave(line, "cafile", why);
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
