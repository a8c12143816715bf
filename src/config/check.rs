//! Rules between keys, and what follows from them. Owns nothing; a rule about one key alone is in
//! its type.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::access::{AccessRule, Authorization};
use super::access_check;
use super::document::Document;
use super::host::Bind;
use super::pointer;
use super::problem::{Problem, Wrong};
use super::sections::{Config, Listener, ListenerType};
use super::value::{Get, Or};

/// Checks the rules between keys and fills in what depends on other keys. Keys that already have a
/// problem are left alone, because their value is only a stand-in.
pub(crate) fn finish(config: &mut Config, document: &Document, problems: &mut Vec<Problem>) {
    let mut report =
        Report { document, already: problems.iter().map(|p| p.key.clone()).collect(), problems };
    session_expiry(config, &mut report);
    listeners(&config.listeners, &mut report);
    admin(config, &mut report);
    access_check::check(config, &mut report);
    let loopback = config.access.authentication.is_empty()
        && config.listeners.iter().all(|listener| is_loopback(&listener.bind));
    for listener in config.listeners.iter_mut() {
        listener.allow_anonymous.0.get_or_insert(loopback);
    }
}

pub(super) struct Report<'a> {
    document: &'a Document,
    already: HashSet<String>,
    problems: &'a mut Vec<Problem>,
}

impl Report<'_> {
    pub(super) fn add(&mut self, key: &str, what: impl Into<String>, fix: impl Into<String>) {
        if !self.has(key) {
            let origin = self.document.key_origin(&pointer::of_key(key));
            self.problems.push(Wrong::new(what, fix).at(&origin, key));
        }
    }

    /// True when the value of `key` could not be read, so that the default stands in its place.
    fn has(&self, key: &str) -> bool {
        let mut parts = std::iter::successors(Some(key), |inner| Some(inner.rsplit_once('.')?.0));
        parts.any(|part| self.already.contains(part))
    }

    /// True when the key stands somewhere.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.document.has(key)
    }

    /// The position of the first listener with the `same` value, among those whose `field` could be
    /// read.
    fn first(
        &self,
        listeners: &[Listener],
        field: &str,
        same: impl Fn(&Listener) -> bool,
    ) -> Option<usize> {
        let is_read = |position: usize| !self.has(&format!("listeners.{position}.{field}"));
        let mut found = listeners.iter().enumerate().filter(|(_, listener)| same(listener));
        found.find(|(position, _)| is_read(*position)).map(|(position, _)| position)
    }
}

/// The built-in default for MQTT 3 clients gives way to a shorter maximum; a written one
/// contradicts it.
fn session_expiry(config: &mut Config, report: &mut Report<'_>) {
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

fn listeners(listeners: &[Listener], report: &mut Report<'_>) {
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
        let taken = report.first(before, "bind", |other| overlap(&other.bind, &listener.bind));
        if let Some(first) = taken {
            let what = format!("listeners.{first} is bound to {} too", listeners[first].bind);
            report.add(&key("bind"), what, "give each listener an address of its own");
        } else if !report.has(&key("type")) {
            address_fits_type(listener, &key("bind"), report);
        }
    }
}

fn admin(config: &Config, report: &mut Report<'_>) {
    let Some(address) = config.admin.bind.get() else { return };
    let bind = Bind::Tcp(address);
    let same = |listener: &Listener| overlap(&listener.bind, &bind);
    if let Some(position) = report.first(&config.listeners, "bind", same) {
        let what = format!("listeners.{position} is bound to {bind} too");
        report.add("admin.bind", what, "give the admin server an address of its own");
    }
}

/// True when both cannot be bound: the same path, or the same port of addresses that are the same
/// or one of which is every address of its family. Port 0 is another port each time.
fn overlap(one: &Bind, other: &Bind) -> bool {
    match (one, other) {
        (Bind::Tcp(one), Bind::Tcp(other)) => {
            let (mine, theirs) = (one.ip(), other.ip());
            let same_family = mine.is_ipv4() == theirs.is_ipv4();
            let any = same_family && (mine.is_unspecified() || theirs.is_unspecified());
            one.port() == other.port() && one.port() != 0 && (mine == theirs || any)
        }
        _ => one == other,
    }
}

fn address_fits_type(listener: &Listener, key: &str, report: &mut Report<'_>) {
    match (listener.kind, &listener.bind) {
        (ListenerType::Unix, Bind::Tcp(address)) => {
            let what = format!("a unix listener needs a path, not {address}");
            report.add(key, what, "write a path such as /run/ringmq/mqtt.sock");
        }
        (ListenerType::Tcp, Bind::Unix(path)) => {
            let what = format!("`{}` is a path, but the listener's type is tcp", path.display());
            report.add(key, what, "write an address such as 127.0.0.1:1883, or set type: unix");
        }
        _ => {}
    }
}

/// True when only this host reaches the address.
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
        if let Some(address) = self.admin.bind.get().filter(|at| !is_loopback(&Bind::Tcp(*at))) {
            remarks.push(format!(
                "admin.bind: whoever reaches {address} can read the figures, because the admin \
                 server asks for no password; bind it to 127.0.0.1 unless the network is private"
            ));
        }
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

impl Config {
    /// Whether the listener lets nobody in: neither accounts nor anonymous clients.
    pub fn refuses_everybody(&self, listener: &Listener) -> bool {
        !listener.allows_anonymous() && self.access.authentication.is_empty()
    }
}

/// Whether a source of rules is, or may be, about user names.
fn names(source: &Authorization) -> bool {
    let named = |rule: &AccessRule| !rule.user.is_empty();
    source.acl_file.is_some()
        || source.rules.iter().any(|rules| !rules.path.is_empty() || rules.list.iter().any(named))
}

impl Listener {
    /// Whether clients without user name are accepted; settled when the configuration was read.
    pub fn allows_anonymous(&self) -> bool {
        self.allow_anonymous.0.unwrap_or(false)
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
