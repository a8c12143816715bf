//! The admin server and what is told to others: who may steer the broker, how long its certificate
//! and its tokens hold, what a page shows to everybody, and where spans go.

use super::finding::{Finding, Fix, Severity};
use super::judge_access::{host_of, is_here};
use super::judge_listeners::{FileAccess, OTHERS, certificates, keys};
use crate::config::{AdminConfig, Config, Get, OpenPage, TlsConfig};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// A token that holds longer is worth a look where others reach the server.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// A larger share of messages costs the cores what they notice.
const MUCH: f64 = 0.01;
/// How long a receiver of spans may take to be found, and to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says why an address HOST:PORT is not reached, if it is not.
pub(super) type Reach<'a> = dyn Fn(&str) -> Result<(), String> + 'a;

/// Judges both; without `reach` nothing is tried on the network.
pub(super) fn judge(
    config: &Config,
    files: &FileAccess<'_>,
    reach: Option<&Reach<'_>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(bind) = config.admin.bind.get() {
        findings.push(steering(&config.admin, bind));
        findings.extend(session(&config.admin, bind));
        if !config.admin.tls.certificate.is_empty() {
            let tls = TlsConfig {
                certificate: config.admin.tls.certificate.clone(),
                private_key: config.admin.tls.private_key.clone(),
                ..TlsConfig::default()
            };
            findings.push(certificates("the admin server", &tls, files));
            findings.extend(keys("the admin server", &tls, files));
        }
        findings.extend(users(&config.admin.users, files));
    }
    findings.extend(named_clients(config));
    findings.extend(spans(config, reach));
    findings
}

/// Who may steer the broker.
fn steering(admin: &AdminConfig, bind: SocketAddr) -> Finding {
    const CHECK: &str = "admin";
    let local = bind.ip().to_canonical().is_loopback();
    match (local, admin.users.is_empty(), admin.tls.certificate.is_empty()) {
        (true, true, _) => {
            let found = format!("{bind}: programs on this host may do everything");
            let needed = "users, where others may run programs on this host";
            let fix = Fix::configuration("set admin.users: `ringmq admin user add`");
            Finding::new(CHECK, Severity::Note, found, needed).fixed_by(fix)
        }
        (true, false, _) => {
            let found = format!("{bind}: this host only, and users say who they are");
            Finding::new(CHECK, Severity::Fine, found, "users, or this host alone")
        }
        (false, false, false) => {
            let found = format!("{bind}: other hosts reach it, by TLS, and users say who they are");
            Finding::new(CHECK, Severity::Fine, found, "TLS and users off loopback")
        }
        // The configuration is refused as well: this is for who reads the report.
        (false, ..) => {
            let found = format!("{bind}: other hosts reach it, without TLS or without users");
            let fix = Fix::configuration("set admin.users and admin.tls, or bind it to 127.0.0.1");
            Finding::new(CHECK, Severity::Blocker, found, "TLS and users off loopback")
                .fixed_by(fix)
        }
    }
}

/// How long tokens hold, where other hosts reach the server.
fn session(admin: &AdminConfig, bind: SocketAddr) -> Option<Finding> {
    let holds = admin.session.get();
    if bind.ip().to_canonical().is_loopback() || admin.users.is_empty() || holds <= LONG {
        return None;
    }
    let found = format!("a token of a login holds for {} hours", holds.as_secs() / 3600);
    let needed = "so long only if nobody else can get at it: it ends with a restart, a reload, a \
                  logout, or its time; programs can ask for a shorter one (lifetime) and a lesser \
                  role";
    let fix = Fix::configuration("lower admin.session");
    Some(Finding::new("admin_session", Severity::Note, found, needed).fixed_by(fix))
}

/// Whether others can read, or change, the file of users.
fn users(path: &str, files: &FileAccess<'_>) -> Option<Finding> {
    const CHECK: &str = "admin_users";
    if path.is_empty() {
        return None;
    }
    if let Err(error) = (files.read)(Path::new(path)) {
        let fix =
            Fix::configuration("name a file that the broker may read: `ringmq admin user add`");
        let found = format!("admin.users: {path}: {error}");
        return Some(
            Finding::new(CHECK, Severity::Blocker, found, "a file of users").fixed_by(fix),
        );
    }
    if (files.mode)(Path::new(path)).is_ok_and(|mode| mode & OTHERS != 0) {
        let found = format!("every user of this host has rights to {path}");
        let fix = Fix::host(format!("chmod o-rwx {path}"));
        let needed = "a file of users that only the broker reads";
        return Some(Finding::new(CHECK, Severity::Warning, found, needed).fixed_by(fix));
    }
    None
}

/// Names of clients on a page that needs no credential and that other hosts reach.
fn named_clients(config: &Config) -> Option<Finding> {
    let admin = &config.admin;
    let remote =
        |bind: Option<SocketAddr>| bind.filter(|bind| !bind.ip().to_canonical().is_loopback());
    let open = admin.open.0.contains(&OpenPage::Metrics) || admin.users.is_empty();
    let of_main = remote(admin.bind.get()).filter(|_| open);
    let shown = remote(admin.pages_bind.get()).or(of_main)?;
    if config.telemetry.top_clients.get() == 0 {
        return None;
    }
    let found = format!("{shown}: /metrics names the heaviest clients to whoever asks");
    let needed = "ClientIds on a page without credential only where they are no secret";
    let fix =
        Fix::configuration("set telemetry.top_clients: 0, or leave metrics out of admin.open");
    Some(Finding::new("metrics_names", Severity::Warning, found, needed).fixed_by(fix))
}

/// Where spans go, and how many.
fn spans(config: &Config, reach: Option<&Reach<'_>>) -> Vec<Finding> {
    const CHECK: &str = "otlp";
    let otlp = &config.telemetry.otlp;
    let Some(endpoint) = &otlp.endpoint.0 else { return Vec::new() };
    let (secure, host) = (endpoint.starts_with("https://"), host_of(endpoint));
    let mut findings = Vec::new();
    if !secure && !is_here(host) {
        let found = format!("telemetry.otlp: spans go to {host} without TLS");
        let needed = "TLS, unless nobody else can read that network: spans name clients, their \
                      addresses and topics, and telemetry.otlp.headers often are a key";
        let fix = Fix::configuration("use https://, or a collector on this host");
        findings.push(Finding::new(CHECK, Severity::Warning, found, needed).fixed_by(fix));
    }
    let place = place(endpoint, if secure { 443 } else { 80 });
    findings.extend(reach.map(|reach| match reach(&place) {
        Ok(()) => Finding::new(CHECK, Severity::Fine, format!("{place} is reached"), "a receiver"),
        Err(why) => {
            let found = format!("{place} is not reached: {why}");
            let needed = "a receiver of OTLP over HTTP: until then spans are dropped and counted";
            let fix = Fix::configuration("start it, or change telemetry.otlp.endpoint");
            Finding::new(CHECK, Severity::Warning, found, needed).fixed_by(fix)
        }
    }));
    let share = otlp.sample.get();
    if share > MUCH {
        let found = format!("{} % of all messages are sampled", share * 100.0);
        let needed = "a small share where there is much traffic: each sampled message costs its \
                      cores some microseconds and two spans, and one more for each subscriber";
        let fix = Fix::configuration("lower telemetry.otlp.sample");
        findings.push(Finding::new(CHECK, Severity::Note, found, needed).fixed_by(fix));
    }
    findings
}

/// HOST:PORT of an URL.
fn place(url: &str, usual: u16) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let behind = place.rsplit_once(']').map_or(place, |(_, behind)| behind);
    if behind.contains(':') { place.to_owned() } else { format!("{place}:{usual}") }
}

/// Connects to HOST:PORT, and says why that cannot be done.
///
/// # Errors
/// Its name is not known, or nobody accepts there, in time.
pub(super) fn reach(place: &str) -> Result<(), String> {
    // The system's resolver knows no deadline: a thread of its own waits for it.
    let (found, finds) = mpsc::channel();
    let name = place.to_owned();
    let asked = std::thread::Builder::new().spawn(move || {
        let addresses = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Who asked may have gone on.
        let _ = found.send(addresses.map_err(|error| error.to_string()));
    });
    asked.map_err(|error| error.to_string())?;
    let answer = finds.recv_timeout(PATIENCE);
    let addresses = answer.map_err(|_| "its name is not resolved in time".to_owned())??;
    let mut why = "its name has no address".to_owned();
    for address in addresses.iter().take(2) {
        match TcpStream::connect_timeout(address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, Text};
    use std::io;

    fn judged(text: &str, mode: u32, reached: bool) -> Vec<(&'static str, Severity)> {
        let config = Sources::default().load_from("test.yaml", text.as_bytes());
        let config = config.unwrap_or_else(|problems| panic!("{text}: {problems}"));
        let read = |path: &Path| match path.to_str() {
            Some("users") => Ok(Vec::new()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let files = FileAccess { read: &read, mode: &|_| Ok(mode), now: 0 };
        let reach = |_: &str| if reached { Ok(()) } else { Err("refused".to_owned()) };
        let findings = judge(&config, &files, Some(&reach));
        findings.into_iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    #[test]
    fn who_may_steer_the_broker_is_said() {
        let secure = "tls: {certificate: none.crt, private_key: none.key}";
        for (admin, mode, wanted) in [
            ("bind: off", 0o600, vec![]),
            ("bind: 127.0.0.1:1", 0o600, vec![("admin", Severity::Note)]),
            ("bind: 127.0.0.1:1, users: users", 0o600, vec![("admin", Severity::Fine)]),
            (
                "bind: 127.0.0.1:1, users: users",
                0o644,
                vec![("admin", Severity::Fine), ("admin_users", Severity::Warning)],
            ),
            (
                "bind: 127.0.0.1:1, users: nobodies",
                0o600,
                vec![("admin", Severity::Fine), ("admin_users", Severity::Blocker)],
            ),
            (
                &format!("bind: 0.0.0.0:1, users: users, session: 48h, {secure}"),
                0o600,
                vec![
                    ("admin", Severity::Fine),
                    ("admin_session", Severity::Note),
                    ("certificates", Severity::Blocker),
                ],
            ),
        ] {
            assert_eq!(judged(&format!("admin: {{{admin}}}"), mode, true), wanted, "{admin}");
        }
    }

    #[test]
    fn the_configuration_does_not_let_it_be_without_tls_or_users() {
        let mut admin = AdminConfig::default();
        let bind = "10.0.0.1:1".parse().unwrap();
        assert_eq!(steering(&admin, bind).severity, Severity::Blocker);
        admin.users = Text::of("users");
        assert_eq!(steering(&admin, bind).severity, Severity::Blocker);
    }

    #[test]
    fn clients_that_are_named_to_everybody_are_reported() {
        for (text, reported) in [
            ("telemetry: {top_clients: 3}", false),
            ("telemetry: {top_clients: 3}\nadmin: {pages_bind: 0.0.0.0:1}", true),
            ("telemetry: {top_clients: 3}\nadmin: {pages_bind: 127.0.0.1:1}", false),
            ("admin: {pages_bind: 0.0.0.0:1}", false),
        ] {
            let found = judged(text, 0o600, true);
            assert_eq!(found.contains(&("metrics_names", Severity::Warning)), reported, "{text}");
        }
    }

    #[test]
    fn where_spans_go_is_judged() {
        use Severity::{Fine, Note, Warning};
        for (otlp, reached, wanted) in [
            ("endpoint: off", false, vec![]),
            ("endpoint: 'http://127.0.0.1:4318'", true, vec![Fine]),
            ("endpoint: 'http://127.0.0.1:4318'", false, vec![Warning]),
            ("endpoint: 'http://spans.example'", true, vec![Warning, Fine]),
            ("endpoint: 'https://spans.example/x', sample: 1", true, vec![Fine, Note]),
        ] {
            let found = judged(&format!("telemetry: {{otlp: {{{otlp}}}}}"), 0o600, reached);
            let wanted: Vec<_> = wanted.into_iter().map(|severity| ("otlp", severity)).collect();
            assert_eq!(found, wanted, "{otlp}");
        }
        for (url, wanted) in [
            ("http://h", "h:80"),
            ("http://h:4318/v1/traces", "h:4318"),
            ("http://u:p@[::1]:4318", "[::1]:4318"),
            ("http://[::1]/x", "[::1]:80"),
        ] {
            assert_eq!(place(url, 80), wanted);
        }
    }

    #[test]
    fn a_receiver_is_reached_or_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        assert_eq!(reach(&place), Ok(()));
        drop(listener);
        assert!(reach(&place).is_err());
        assert!(reach("no such host:1").is_err());
    }
}
