//! The options of mosquitto.conf(5) outside of bridges, and what becomes of each. Declarations
//! only.

/// What becomes of an option.
pub(super) enum OptionRule {
    /// Its value is carried over to a key.
    Carry(Carry),
    /// It is about one listener.
    Own(ListenerOption),
    /// It is not carried over, for this reason.
    Leave(&'static str),
}

/// How a value is carried over to a key.
pub(super) enum Carry {
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
pub(super) enum ListenerOption {
    Protocol,
    MaxConnections,
    MountPoint,
    Certificate,
    Key,
    ClientCa,
    Required,
    Crl,
    Version,
    Identity(&'static str, &'static str),
    Origin,
    Domain,
    MaxQos,
}

const NO_ROOM: &str = "the service manager's, or not needed";
const PLUGIN: &str =
    "plugins are not run; see access.authentication for http, jwt, redis, postgres";
const LOG: &str = "the log goes to standard error; the service manager keeps it";

/// What becomes of each option.
pub(super) fn rule(option: &str) -> Option<OptionRule> {
    use Carry::*;
    Some(match option {
        "acl_file" => OptionRule::Carry(AclFile),
        "allow_anonymous" => OptionRule::Carry(Anonymous),
        "allow_zero_length_clientid" => OptionRule::Carry(Switch("mqtt.empty_client_id")),
        "max_inflight_messages" => OptionRule::Carry(Number("mqtt.max_inflight", "65535")),
        "max_keepalive" => OptionRule::Carry(Number("mqtt.keep_alive.max", "65535")),
        "max_packet_size" => OptionRule::Carry(Number("mqtt.max_packet_size", "268435460")),
        "max_queued_bytes" => OptionRule::Carry(Number("mqtt.pending.max_bytes", "1099511627776")),
        "max_queued_messages" => {
            OptionRule::Carry(Number("mqtt.pending.max_messages", "4294967295"))
        }
        "max_topic_alias" => OptionRule::Carry(Number("mqtt.max_topic_alias", "0")),
        "memory_limit" => OptionRule::Carry(Number("limits.memory", "unlimited")),
        "retain_expiry_interval" => OptionRule::Carry(Number("retained.expiry", "never")),
        "password_file" => OptionRule::Carry(PasswordFile),
        "persistence" => OptionRule::Carry(Persistence),
        "persistence_location" => OptionRule::Carry(Location),
        "persistent_client_expiration" => OptionRule::Carry(Expiration),
        "queue_qos0_messages" => OptionRule::Carry(Switch("mqtt.pending.qos0")),
        "retain_available" => OptionRule::Carry(Switch("mqtt.retain")),
        "sys_interval" => OptionRule::Carry(Interval),
        "log_type" => OptionRule::Carry(LogType),
        "connection_messages" => OptionRule::Carry(Switch("log.connections")),
        "protocol" => OptionRule::Own(ListenerOption::Protocol),
        "max_connections" => OptionRule::Own(ListenerOption::MaxConnections),
        "mount_point" => OptionRule::Own(ListenerOption::MountPoint),
        "certfile" => OptionRule::Own(ListenerOption::Certificate),
        "keyfile" => OptionRule::Own(ListenerOption::Key),
        "cafile" => OptionRule::Own(ListenerOption::ClientCa),
        "require_certificate" => OptionRule::Own(ListenerOption::Required),
        "crlfile" => OptionRule::Own(ListenerOption::Crl),
        "tls_version" => OptionRule::Own(ListenerOption::Version),
        "use_identity_as_username" => {
            OptionRule::Own(ListenerOption::Identity("use_identity_as_username", "cn"))
        }
        "use_subject_as_username" => {
            OptionRule::Own(ListenerOption::Identity("use_subject_as_username", "dn"))
        }
        "websockets_origin" => OptionRule::Own(ListenerOption::Origin),
        "socket_domain" => OptionRule::Own(ListenerOption::Domain),
        "max_qos" => OptionRule::Own(ListenerOption::MaxQos),
        other => OptionRule::Leave(left(other)?),
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
