//! The options of mosquitto.conf(5) outside of bridges, and what becomes of each. Declarations
//! only.

/// What becomes of an option.
pub(super) enum Rule {
    /// Its value is carried over to a key.
    Carry(Carry),
    /// It is about one listener.
    Own(Own),
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
pub(super) enum Own {
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
pub(super) fn rule(option: &str) -> Option<Rule> {
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
        "use_identity_as_username" => Rule::Own(Own::Identity("use_identity_as_username", "cn")),
        "use_subject_as_username" => Rule::Own(Own::Identity("use_subject_as_username", "dn")),
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
