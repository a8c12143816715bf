//! Judgement of the services and databases of `access`, as far as the configuration tells: whether
//! passwords and answers cross a network unencrypted.

use super::finding::{Finding, Fix, Severity};
use crate::config::Config;
use std::net::IpAddr;

/// The findings about `access`.
pub(super) fn judge(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, method) in config.access.authentication.iter().enumerate() {
        let key = format!("access.authentication.{at}");
        let jwks = method.jwt.as_ref().map(|jwt| &*jwt.jwks);
        found.extend(web(&key, "jwt", jwks));
        found.extend(web(&key, "http", method.http.as_ref().map(|http| &*http.url)));
        found.extend(redis(&key, method.redis.as_ref().map(|redis| &*redis.server)));
        found.extend(postgres(&key, method.postgres.as_ref().map(|postgres| &*postgres.url)));
    }
    for (at, source) in config.access.authorization.iter().enumerate() {
        let key = format!("access.authorization.{at}");
        found.extend(web(&key, "http", source.http.as_ref().map(|http| &*http.url)));
        found.extend(redis(&key, source.redis.as_ref().map(|redis| &*redis.server)));
        found.extend(postgres(&key, source.postgres.as_ref().map(|postgres| &*postgres.url)));
    }
    found
}

fn web(key: &str, kind: &str, url: Option<&str>) -> Option<Finding> {
    let url = url?;
    open(format!("{key}.{kind}"), url, url.starts_with("https://"))
}

fn redis(key: &str, server: Option<&str>) -> Option<Finding> {
    let open = |server: &str| open(format!("{key}.redis"), server, server.starts_with("rediss://"));
    server?.split(',').map(str::trim).find_map(open)
}

fn postgres(key: &str, url: Option<&str>) -> Option<Finding> {
    let url = url?;
    open(format!("{key}.postgres"), url, url.contains("sslmode=require"))
}

/// The finding about a URL, unless its host is asked over TLS or is this host.
fn open(key: String, url: &str, is_secure: bool) -> Option<Finding> {
    let host = host_of(url);
    if is_secure || is_here(host) {
        return None;
    }
    let found = format!("{key}: {host} is asked without TLS");
    let needed = "TLS, unless nobody else can read or change what crosses that network";
    let fix = Fix::configuration("use https://, rediss:// or sslmode=require");
    Some(Finding::new("access_services", Severity::Warning, found, needed).fixed_by(fix))
}

/// The host in a URL or in HOST:PORT. An IPv6 address stands in brackets there.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((address, _)) => address,
        None => place.split(':').next().unwrap_or_default(),
    }
}

/// Whether the host is this host.
pub(super) fn is_here(host: &str) -> bool {
    host.is_empty()
        || host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn what_crosses_a_network_in_clear_is_reported() {
        for (access, expected) in [
            ("authentication: [{http: {url: 'http://auth.example/x'}}]", "authentication.0.http"),
            ("authentication: [{http: {url: 'https://auth.example/x'}}]", ""),
            ("authentication: [{http: {url: 'http://127.0.0.1:9/x'}}]", ""),
            ("authentication: [{http: {url: 'http://[::1]:9/x'}}]", ""),
            ("authentication: [{redis: {server: '10.0.0.7:6379'}}]", "authentication.0.redis"),
            ("authentication: [{redis: {server: 'rediss://u:p@10.0.0.7'}}]", ""),
            ("authentication: [{redis: {}}]", ""),
            (
                "authentication: [{redis: {server: '127.0.0.1:1, db:6379'}}]",
                "authentication.0.redis",
            ),
            (
                "authentication: [{postgres: {url: 'postgres://u:p@db:5432/x'}}]",
                "authentication.0.postgres",
            ),
            ("authorization: [{postgres: {url: 'postgres://u:p@db/x?sslmode=require'}}]", ""),
            ("authorization: [{redis: {server: 'db:6379'}}]", "authorization.0.redis"),
            ("authentication: [{jwt: {jwks: 'http://keys.example/'}}]", "authentication.0.jwt"),
        ] {
            let text = format!("access: {{{access}}}");
            let config = Sources::default().load_from("test.yaml", text.as_bytes());
            let config = config.unwrap_or_else(|problems| panic!("{text}: {problems}"));
            let found = judge(&config);
            assert_eq!(found.len(), usize::from(!expected.is_empty()), "{text}");
            assert!(found.iter().all(|one| one.found.contains(expected)), "{text}: {found:?}");
        }
    }
}
