//! The rules that relate several keys, and the values that follow from other keys. Owns nothing. A
//! rule about a single key is in the type of that key.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::access::{AccessRule, Authorization};
use super::access_check;
use super::bridges_check;
use super::cluster_check;
use super::document::Document;
use super::host::Bind;
use super::pointer;
use super::problem::{Problem, Wrong};
use super::sections::{
    Config, ListenerConfig, ListenerType, ProxyProtocol, ProxyUsername, TlsConfig,
};
use super::value::{Get, Or, Several, Text};
use crate::transport::network::Networks;
use crate::transport::proxy::Versions;
use crate::transport::{Stack, Web};

/// Checks the rules that relate several keys, and fills in the values that depend on other keys. A
/// key that already has a problem is left alone, because its value is only a stand-in.
pub(crate) fn finish(config: &mut Config, document: &Document, problems: &mut Vec<Problem>) {
    let mut report =
        Findings { document, already: problems.iter().map(|p| p.key.clone()).collect(), problems };
    session_expiry(config, &mut report);
    listeners(&config.listeners, &mut report);
    proxies(config, &mut report);
    admin(config, &mut report);
    let is_local = |listener: &ListenerConfig| {
        is_loopback(&listener.bind) && listener.proxy_protocol == ProxyProtocol::Off
    };
    access_check::check(config, &mut report);
    bridges_check::check(config, &mut report);
    cluster_check::check(config, &mut report);
    telemetry(config, &mut report);
    let loopback = config.access.authentication.is_empty() && config.listeners.iter().all(is_local);
    for (at, listener) in config.listeners.iter_mut().enumerate() {
        listener.allow_anonymous.0.get_or_insert(loopback);
        // This is the protocol above TLS on such a listener; browsers offer no other.
        let written = document.has(&format!("listeners.{at}.tls.alpn"));
        if listener.kind == ListenerType::Wss && !written {
            listener.tls.alpn = Several(vec![Text::of("http/1.1")]);
        }
    }
}

/// Checks where spans are sent.
fn telemetry(config: &Config, report: &mut Findings<'_>) {
    let otlp = &config.telemetry.otlp;
    if let Some(endpoint) = &otlp.endpoint.0
        && !access_check::is_url(endpoint)
    {
        let fix = "write one such as http://127.0.0.1:4318";
        report.add("telemetry.otlp.endpoint", "this is no http or https URL", fix);
    }
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    if let Some((name, _)) = otlp.headers.iter().find(|(name, _)| !is_name(name)) {
        let what = format!("`{name}` is no name of a header");
        report.add("telemetry.otlp.headers", what, "use letters, digits, - and _");
    }
}

pub(super) struct Findings<'a> {
    document: &'a Document,
    already: HashSet<String>,
    problems: &'a mut Vec<Problem>,
}

impl Findings<'_> {
    pub(super) fn add(&mut self, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        if !self.has(key) {
            let origin = self.document.key_origin(&pointer::of_key(key));
            self.problems.push(Wrong::new(what, fix).at(&origin, key));
        }
    }

    /// True when the value of `key` could not be read, so that the default stands in for it.
    fn has(&self, key: &str) -> bool {
        let mut parts = std::iter::successors(Some(key), |inner| Some(inner.rsplit_once('.')?.0));
        parts.any(|part| self.already.contains(part))
    }

    /// True when a problem below the key was found.
    #[cfg(feature = "kafka")]
    pub(super) fn found_below(&self, key: &str) -> bool {
        let below = |found: &str| found.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        self.already.iter().any(|found| below(found)) || self.problems.iter().any(|p| below(&p.key))
    }

    /// True when the key is written in the file, the environment or the arguments.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.document.has(key)
    }

    /// The position of the first listener for which `same` is true, among those whose `field` could
    /// be read.
    fn first(
        &self,
        listeners: &[ListenerConfig],
        field: &str,
        same: impl Fn(&ListenerConfig) -> bool,
    ) -> Option<usize> {
        let is_read = |position: usize| !self.has(&format!("listeners.{position}.{field}"));
        let mut found = listeners.iter().enumerate().filter(|(_, listener)| same(listener));
        found.find(|(position, _)| is_read(*position)).map(|(position, _)| position)
    }
}

/// If the default for MQTT 3 clients is the built-in one, a shorter maximum replaces it. If it is
/// written, it contradicts a shorter maximum.
fn session_expiry(config: &mut Config, report: &mut Findings<'_>) {
    let expiry = &mut config.mqtt.session_expiry;
    let Some(max) = expiry.max.0 else { return };
    if expiry.default.get().is_some_and(|default| default <= max.get()) {
        return;
    }
    let key = "mqtt.session_expiry.default";
    if report.document.has(key) {
        let fix = "lower it, or raise mqtt.session_expiry.max";
        report.add(key, "it is longer than mqtt.session_expiry.max", fix);
    }
    expiry.default = Or::of(max);
}

fn listeners(listeners: &[ListenerConfig], report: &mut Findings<'_>) {
    if listeners.is_empty() {
        let fix = "add an element, or remove the key for the default";
        report.add("listeners", "the list is empty, so nobody can connect", fix);
    }
    for (position, listener) in listeners.iter().enumerate() {
        let key = |field: &str| format!("listeners.{position}.{field}");
        let before = &listeners[..position];
        if let Some(first) = report.first(before, "name", |other| other.name == listener.name) {
            let what = format!("listeners.{first} is also called `{}`", listener.name);
            report.add(&key("name"), what, "give each listener a name of its own");
        }
        let taken = report.first(before, "bind", |other| overlap(other, listener));
        if let Some(first) = taken {
            let what = format!("listeners.{first} is bound to {} too", listeners[first].bind);
            report.add(&key("bind"), what, "give each listener an address of its own");
        } else if !report.has(&key("type")) {
            address_fits_type(listener, &key("bind"), report);
        }
        if !report.has(&key("type")) {
            keys_fit_type(listener, &key, report);
            tls_is_whole(listener, &key, report);
        }
    }
}

/// Checks that trusted proxies are named if a listener accepts only connections of proxies.
fn proxies(config: &Config, report: &mut Findings<'_>) {
    if !config.trusted_proxies.0.is_empty() || report.has("trusted_proxies") {
        return;
    }
    for (position, listener) in config.listeners.iter().enumerate() {
        let is_tcp = matches!(listener.bind, Bind::Tcp(_));
        if listener.proxy_protocol != ProxyProtocol::Off && is_tcp {
            let key = format!("listeners.{position}.proxy_protocol");
            let what = "nobody could connect, because trusted_proxies is empty";
            report.add(&key, what, "name the proxies there, such as trusted_proxies: [10.0.0.5]");
        }
    }
}

fn admin(config: &Config, report: &mut Findings<'_>) {
    let admin = &config.admin;
    for (key, address) in [("admin.bind", &admin.bind), ("admin.pages_bind", &admin.pages_bind)] {
        let Some(address) = address.get() else { continue };
        let bind = Bind::Tcp(address);
        let server = ListenerConfig { bind: bind.clone(), ..ListenerConfig::default() };
        let same = |listener: &ListenerConfig| overlap(listener, &server);
        if let Some(position) = report.first(&config.listeners, "bind", same) {
            let what = format!("listeners.{position} is bound to {bind} too");
            report.add(key, what, "give the admin server an address of its own");
        }
    }
    if let (Some(one), Some(other)) = (admin.bind.get(), admin.pages_bind.get()) {
        let [one, other] = [one, other]
            .map(|at| ListenerConfig { bind: Bind::Tcp(at), ..ListenerConfig::default() });
        if overlap(&one, &other) {
            let what = "it is admin.bind, which has these pages already";
            report.add("admin.pages_bind", what, "give it an address of its own, or set it to off");
        }
    }
    let tls = [&admin.tls.certificate, &admin.tls.private_key];
    if let [false, true] | [true, false] = tls.map(|path| path.is_empty()) {
        let what = "certificate and private_key come together";
        report.add("admin.tls", what, "set both, or neither");
    }
    if let Some(address) = admin.bind.get().filter(|at| !is_loopback(&Bind::Tcp(*at)))
        && (admin.users.is_empty() || tls[0].is_empty())
    {
        let what = format!(
            "whoever reaches {address} could steer the broker: off loopback it needs users and tls"
        );
        let fix = "set admin.users and admin.tls; for /metrics, /healthz and /readyz alone use \
                   admin.pages_bind in its place";
        report.add("admin.bind", what, fix);
    }
}

/// True when the two listeners cannot be bound at the same time: they have the same path, or the
/// same port and either the same address, or one address that stands for all addresses of its
/// family or of both families. Port 0 is another port each time.
fn overlap(one: &ListenerConfig, other: &ListenerConfig) -> bool {
    match (&one.bind, &other.bind) {
        (Bind::Tcp(mine), Bind::Tcp(theirs)) => {
            let both = one.families() == Families::Both || other.families() == Families::Both;
            let same_family = mine.is_ipv4() == theirs.is_ipv4();
            let all = mine.ip().is_unspecified() || theirs.ip().is_unspecified();
            let any = both || same_family && all;
            mine.port() == theirs.port() && mine.port() != 0 && (mine.ip() == theirs.ip() || any)
        }
        (mine, theirs) => mine == theirs,
    }
}

/// The address families whose connections a listener takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Families {
    /// The family of its address only.
    One,
    /// Both IPv4 and IPv6.
    Both,
}

fn address_fits_type(listener: &ListenerConfig, key: &str, report: &mut Findings<'_>) {
    match (listener.kind, &listener.bind) {
        (ListenerType::Unix, Bind::Tcp(address)) => {
            let what = format!("a unix listener needs a path, not {address}");
            report.add(key, what, "write a path such as /run/ringmq/mqtt.sock");
        }
        (kind, Bind::Unix(path)) if kind != ListenerType::Unix => {
            let what = format!(
                "`{}` is a path, but the listener's type is {}",
                path.display(),
                listener.kind.word()
            );
            report.add(key, what, "write an address such as 127.0.0.1:1883, or set type: unix");
        }
        _ => {}
    }
}

/// Reports keys that have no meaning for listeners of this type, unless they have their default.
fn keys_fit_type(
    listener: &ListenerConfig,
    key: &dyn Fn(&str) -> String,
    report: &mut Findings<'_>,
) {
    let usual = ListenerConfig::default();
    let is_web = listener.is_web();
    let is_unix = listener.kind == ListenerType::Unix;
    let fix = "remove it, or set type: unix";
    for (field, fits, fix) in [
        ("tls", listener.is_secure() || listener.tls == usual.tls, "remove it, or set type: tls"),
        ("path", is_web || listener.path == usual.path, "remove it, or set type: ws"),
        ("origins", is_web || listener.origins == usual.origins, "remove it, or set type: ws"),
        ("mode", is_unix || listener.mode == usual.mode, fix),
        ("owner", is_unix || listener.owner == usual.owner, fix),
        ("group", is_unix || listener.group == usual.group, fix),
    ] {
        if !fits {
            let what = format!("a listener of type {} has no {field}", listener.kind.word());
            report.add(&key(field), what, fix);
        }
    }
    let second = matches!(listener.proxy_protocol, ProxyProtocol::V2 | ProxyProtocol::Any);
    if listener.proxy_username != usual.proxy_username && !second {
        let what = "only a PROXY header of version 2 tells of certificates";
        report.add(&key("proxy_username"), what, "remove it, or set proxy_protocol: v2");
    }
    let is_any =
        matches!(&listener.bind, Bind::Tcp(bind) if bind.is_ipv6() && bind.ip().is_unspecified());
    if listener.v6only && !is_any {
        let what = "only a listener on [::] could take IPv4 clients too";
        report.add(&key("v6only"), what, "remove it, or bind to \"[::]:1883\"");
    }
}

/// Checks that a listener's TLS has what it needs, and does not contradict itself.
fn tls_is_whole(
    listener: &ListenerConfig,
    key: &dyn Fn(&str) -> String,
    report: &mut Findings<'_>,
) {
    if !listener.is_secure() {
        return;
    }
    let (tls, key) = (&listener.tls, |name: &str| key(&format!("tls.{name}")));
    let named = [("certificate", &tls.certificate), ("private_key", &tls.private_key)];
    for (name, _) in named.into_iter().filter(|(_, path)| path.is_empty()) {
        report.add(&key(name), "no file is named", "name a PEM file");
    }
    for (at, entry) in tls.sni.iter().enumerate() {
        let named = [("certificate", &entry.certificate), ("private_key", &entry.private_key)];
        for (name, _) in named.into_iter().filter(|(_, path)| path.is_empty()) {
            report.add(&key(&format!("sni.{at}.{name}")), "no file is named", "name a PEM file");
        }
        if entry.names.0.is_empty() {
            report.add(&key(&format!("sni.{at}.names")), "no name is given", "write host names");
        }
    }
    if tls.versions.0.is_empty() {
        report.add(&key("versions"), "the list is empty", "write [1.2, 1.3], or remove the key");
    }
    if tls.client_ca.is_empty() {
        let usual = TlsConfig::default();
        for (name, is_set) in [
            ("crl", !tls.crl.0.is_empty()),
            ("username_from", tls.username_from != usual.username_from),
            ("on_revoked", tls.on_revoked != usual.on_revoked),
        ] {
            if is_set {
                let what = "clients are not asked for certificates";
                report.add(&key(name), what, "set tls.client_ca, or remove it");
            }
        }
    }
}

/// True when only this host can reach the address.
fn is_loopback(bind: &Bind) -> bool {
    match bind {
        Bind::Tcp(SocketAddr::V4(address)) => address.ip().is_loopback(),
        Bind::Tcp(SocketAddr::V6(address)) => {
            address.ip().is_loopback()
                || address.ip().to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
        }
        Bind::Unix(_) => true,
    }
}

impl Config {
    /// What is allowed but probably not meant: sentences for the log and for `--test-config`, each
    /// with the key and what to do.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for (position, listener) in self.listeners.iter().enumerate() {
            let (name, key) = (&listener.name, format!("listeners.{position}"));
            if self.refuses_everybody(listener) {
                remarks.push(format!(
                    "{key}.allow_anonymous: LISTENER {name} REFUSES EVERY CLIENT, because it \
                     accepts none without an account and there are no accounts; add \
                     access.authentication, or set it to true to let everybody in who reaches {}",
                    listener.bind
                ));
            }
            if listener.mountpoint.contains("${username}") && listener.allows_anonymous() {
                remarks.push(format!(
                    "{key}.mountpoint: clients without user name all share one mountpoint; set \
                     {key}.allow_anonymous to false"
                ));
            }
        }
        if self.access.authentication.is_empty() && self.access.authorization.iter().any(names) {
            remarks.push(
                "access.authorization: it has rules about user names, but nobody checks these; add \
                 access.authentication"
                    .to_owned(),
            );
        }
        if let Some(at) = self.admin.pages_bind.get().filter(|at| !is_loopback(&Bind::Tcp(*at))) {
            remarks.push(format!(
                "admin.pages_bind: whoever reaches {at} can read the figures, which need no \
                 password; bind it to a private address"
            ));
        }
        remarks.extend(bridges_check::remarks(self));
        let mqtt = &self.mqtt;
        if mqtt.pending.max_bytes.get() < u64::from(mqtt.max_packet_size.get()) {
            remarks.push(
                "mqtt.pending.max_bytes: it is below mqtt.max_packet_size, so the largest \
                 messages never wait for a client"
                    .to_owned(),
            );
        }
        remarks
    }
}

impl ListenerType {
    /// The word that is written in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            ListenerType::Tcp => "tcp",
            ListenerType::Tls => "tls",
            ListenerType::Wss => "wss",
            ListenerType::Ws => "ws",
            ListenerType::Unix => "unix",
        }
    }
}

impl Config {
    /// `trusted_proxies` as networks.
    pub fn trusted_networks(&self) -> Networks {
        Networks(self.trusted_proxies.0.iter().map(|proxy| proxy.0).collect())
    }
}

impl Config {
    /// Whether the listener lets no client in, because there are no accounts and anonymous clients
    /// are not allowed.
    pub fn refuses_everybody(&self, listener: &ListenerConfig) -> bool {
        !listener.allows_anonymous() && self.access.authentication.is_empty()
    }
}

/// Whether a source of rules has, or may have, rules about user names.
fn names(source: &Authorization) -> bool {
    let named = |rule: &AccessRule| !rule.user.is_empty();
    source.acl_file.is_some()
        || source.rules.iter().any(|rules| !rules.path.is_empty() || rules.list.iter().any(named))
}

impl ListenerConfig {
    /// The address families whose connections the listener takes, if it has an IP address.
    pub fn families(&self) -> Families {
        match &self.bind {
            Bind::Tcp(SocketAddr::V6(bind)) if bind.ip().is_unspecified() && !self.v6only => {
                Families::Both
            }
            _ => Families::One,
        }
    }

    /// The layers that carry MQTT on the listener's connections.
    pub fn stack(&self) -> Stack {
        let web = || Web {
            path: Box::from(&*self.path),
            origins: self
                .origins
                .0
                .as_ref()
                .map(|Several(all)| all.iter().map(|origin| Box::from(&**origin)).collect()),
        };
        let proxy = match self.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::V1 => Some(Versions::V1),
            ProxyProtocol::V2 => Some(Versions::V2),
            ProxyProtocol::Any => Some(Versions::Any),
        };
        let proxy_username = self.proxy_username == ProxyUsername::Cn;
        Stack { proxy, proxy_username, tls: self.is_secure(), web: self.is_web().then(web) }
    }

    /// Whether its connections are WebSockets.
    pub fn is_web(&self) -> bool {
        matches!(self.kind, ListenerType::Ws | ListenerType::Wss)
    }

    /// Whether its connections speak TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self.kind, ListenerType::Tls | ListenerType::Wss)
    }

    /// Whether clients without user name are accepted. The value is final once the configuration
    /// has been checked.
    pub fn allows_anonymous(&self) -> bool {
        self.allow_anonymous.0.unwrap_or(false)
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
