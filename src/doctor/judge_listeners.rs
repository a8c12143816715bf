//! Judgement of what listeners are configured with, as far as the files on this host tell:
//! certificates and how long they are valid, who may read their keys, from which addresses PROXY
//! headers are believed, and which pages may open a WebSocket.

use super::finding::{Finding, Fix, Severity};
use crate::config::{Bind, Config, Get, ListenerConfig, ProxyProtocol, TlsConfig};
use crate::transport::tls::Server;
use std::io;
use std::path::Path;

/// Seconds per day.
const DAY: u64 = 24 * 3600;
/// A certificate that is valid for fewer days than this should be renewed now.
const SOON: u64 = 14;
/// The permission bits of a file for users other than its owner and group.
pub(super) const OTHERS: u32 = 0o007;

/// Gives access to the files, so that tests need none.
pub struct FileAccess<'a> {
    /// Reads a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// Returns the permissions of a file, as `chmod` takes them.
    pub mode: &'a dyn Fn(&Path) -> io::Result<u32>,
    /// Seconds since 1970.
    pub now: u64,
}

/// Judges all listeners. The only finding that can be about plain TCP is that of `trusted_proxies`.
pub fn judge(config: &Config, files: &FileAccess<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for listener in config.listeners.iter() {
        if listener.is_secure() {
            let name = format!("listener {}", listener.name);
            findings.push(certificates(&name, &listener.tls, files));
            findings.extend(keys(&name, &listener.tls, files));
        }
        if listener.is_web() {
            findings.extend(pages(listener));
        }
    }
    findings.extend(proxies(config));
    findings
}

/// How long the certificates of a server are valid.
pub(super) fn certificates(name: &str, tls: &TlsConfig, files: &FileAccess<'_>) -> Finding {
    const CHECK: &str = "certificates";
    let server = match Server::new(tls, name, None, files.read, files.now) {
        Ok(server) => server,
        Err(unusable) => {
            let found = format!("{name}: tls.{}: {}", unusable.key, unusable.what);
            return Finding::new(CHECK, Severity::Blocker, found, "files that can be used")
                .fixed_by(Fix::configuration(unusable.fix));
        }
    };
    let needed = "a certificate that is valid, and renewed two weeks before its end";
    let renew = match tls.watch.get() {
        Some(_) => "renew it; the broker takes it up by itself (tls.watch)",
        None => "renew it, then send SIGHUP, or set tls.watch to have it taken up by itself",
    };
    let fix = Fix::either(renew, renew);
    let Some(left) = server.not_after.checked_sub(files.now) else {
        let found = format!("{name}: the certificate has expired");
        return Finding::new(CHECK, Severity::Blocker, found, needed).fixed_by(fix);
    };
    let found = format!("{name}: valid for {} more days", left / DAY);
    match left / DAY {
        0..SOON => Finding::new(CHECK, Severity::Warning, found, needed).fixed_by(fix),
        _ if !server.remarks.is_empty() => {
            let found = format!("{found}; {}", server.remarks.join("; "));
            Finding::new(CHECK, Severity::Warning, found, "files without remarks")
        }
        _ => Finding::new(CHECK, Severity::Fine, found, needed),
    }
}

/// Finds private keys that every user of this host may read.
pub(super) fn keys(name: &str, tls: &TlsConfig, files: &FileAccess<'_>) -> Option<Finding> {
    let sni = tls.sni.iter().map(|entry| &entry.private_key);
    let all = std::iter::once(&tls.private_key).chain(sni);
    let open: Vec<&str> = all
        .map(|path| &**path)
        .filter(|path| (files.mode)(Path::new(path)).is_ok_and(|mode| mode & OTHERS != 0))
        .collect();
    let first = open.first()?;
    let found = format!("{name}: every user of this host has rights to {first}");
    let found = match open.len() {
        1 => found,
        count => format!("{found} and {} more", count - 1),
    };
    let needed = "a private key that only the broker reads";
    let fix = Fix::host(format!("chmod o-rwx {}", open.join(" ")));
    Some(Finding::new("keys", Severity::Warning, found, needed).fixed_by(fix))
}

/// Whether other hosts can reach the listener.
fn is_remote(listener: &ListenerConfig) -> bool {
    matches!(&listener.bind, Bind::Tcp(address) if !address.ip().is_loopback())
}

/// Finds a WebSocket that a page of any origin may open. Such a page could use the network of the
/// person who visits it.
fn pages(listener: &ListenerConfig) -> Option<Finding> {
    let any = listener.origins.0.is_none() && listener.allows_anonymous();
    if !any || !is_remote(listener) {
        return None;
    }
    let found = format!(
        "listener {}: pages of any origin may open it, and clients need no user name",
        listener.name
    );
    let needed = "an allow-list, if browsers that reach it also visit other pages";
    let fix = Fix::configuration("set origins of the listener, or allow_anonymous: false");
    Some(Finding::new("origins", Severity::Note, found, needed).fixed_by(fix))
}

/// Finds out whether PROXY headers and X-Forwarded-For are believed from every address.
fn proxies(config: &Config) -> Option<Finding> {
    let trusted = &config.trusted_proxies.0;
    let believes = |listener: &&ListenerConfig| {
        listener.proxy_protocol != ProxyProtocol::Off || listener.is_web()
    };
    let listener = config.listeners.iter().filter(believes).find(|one| is_remote(one))?;
    let all = trusted.iter().find(|proxy| proxy.0.is_everybody())?;
    let found = format!("listener {}: {} is trusted", listener.name, all.0);
    let needed = "only the load balancers' addresses, or anybody may claim to be any client";
    let fix = Fix::configuration("name the load balancers in trusted_proxies");
    Some(Finding::new("trusted_proxies", Severity::Warning, found, needed).fixed_by(fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    /// 2030-01-01.
    const NOW: u64 = 1_893_456_000;

    fn config(text: &str) -> Config {
        let config = Sources::default().load_from("test.yaml", text.as_bytes());
        config.unwrap_or_else(|problems| panic!("{text}: {problems}"))
    }

    /// A certificate that is valid until that day of 2030, and its key.
    fn certified(month: u8, day: u8) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, month, day);
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    fn judged(text: &str, pair: &(String, String), mode: u32) -> Vec<(&'static str, Severity)> {
        let read = |path: &Path| match path.to_str() {
            Some("s.crt") => Ok(pair.0.clone().into_bytes()),
            Some("s.key") => Ok(pair.1.clone().into_bytes()),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let files = FileAccess { read: &read, mode: &|_| Ok(mode), now: NOW };
        let findings = judge(&config(text), &files);
        findings.into_iter().map(|finding| (finding.check, finding.severity)).collect()
    }

    const SECURE: &str = "listeners: [{type: tls, tls: {certificate: s.crt, private_key: s.key}}]";

    #[test]
    fn certificates_are_judged_by_the_days_that_they_have_left() {
        for (month, day, severity) in
            [(6, 1, Severity::Fine), (1, 20, Severity::Fine), (1, 10, Severity::Warning)]
        {
            let found = judged(SECURE, &certified(month, day), 0o600);
            assert_eq!(found, [("certificates", severity)], "{month}-{day}");
        }
        let mut late = certified(6, 1);
        late.1 = certified(6, 1).1;
        assert_eq!(judged(SECURE, &late, 0o600), [("certificates", Severity::Blocker)]);
        let missing = SECURE.replace("s.crt", "none.crt");
        let found = judged(&missing, &certified(6, 1), 0o600);
        assert_eq!(found, [("certificates", Severity::Blocker)]);
    }

    #[test]
    fn a_key_that_everybody_may_read_is_reported() {
        let pair = certified(6, 1);
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            let found = judged(SECURE, &pair, mode);
            assert_eq!(found.contains(&("keys", Severity::Warning)), open, "{mode:o}");
        }
    }

    #[test]
    fn who_is_believed_and_which_pages_come_in_is_reported_where_others_reach_it() {
        let pair = certified(6, 1);
        for (text, expected) in [
            ("listeners: [{type: ws, bind: 0.0.0.0:1, allow_anonymous: true}]", vec!["origins"]),
            ("listeners: [{type: ws, bind: 0.0.0.0:1, allow_anonymous: false}]", vec![]),
            ("listeners: [{type: ws, bind: 127.0.0.1:1, allow_anonymous: true}]", vec![]),
            (
                "trusted_proxies: [0.0.0.0/0]\n\
                 listeners: [{bind: 0.0.0.0:1, proxy_protocol: v2, allow_anonymous: true}]",
                vec!["trusted_proxies"],
            ),
            (
                "trusted_proxies: [10.0.0.0/8]\n\
                 listeners: [{bind: 0.0.0.0:1, proxy_protocol: v2, allow_anonymous: true}]",
                vec![],
            ),
            ("trusted_proxies: [\"::/0\"]\nlisteners: [{bind: 0.0.0.0:1}]", vec![]),
        ] {
            let found = judged(text, &pair, 0o600);
            let checks: Vec<_> = found.iter().map(|(check, _)| *check).collect();
            assert_eq!(checks, expected, "{text}");
        }
    }
}
