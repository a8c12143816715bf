//! Brokers by name, and what this host has for reaching them: local ports and its own name.

use crate::clients::socket;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// The name in `HOST`, `HOST:PORT`, `[V6]:PORT` or `V6`.
pub fn name_of(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split(']').next().unwrap_or(inner);
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// Resolves `HOST`, `HOST:PORT` or an IPv6 address; `port` is taken when none is given.
pub fn resolve(host: &str, port: u16) -> Result<SocketAddr, String> {
    let name = name_of(host);
    let failed = |why: &str| format!("--host {host}: {why}");
    let behind = host.trim_start_matches('[').get(name.len()..).unwrap_or("");
    let port = match behind.trim_start_matches(']').strip_prefix(':') {
        Some(text) => text.parse().map_err(|_| failed("this port is no number up to 65535"))?,
        None => port,
    };
    let all = (name, port).to_socket_addrs().map_err(|error| failed(&error.to_string()))?;
    let all: Vec<SocketAddr> = all.collect();
    // IPv4 comes first: brokers that listen on one family only usually listen on IPv4.
    let first = all.iter().find(|address| address.is_ipv4()).or(all.first());
    first.copied().ok_or_else(|| failed("it has no address"))
}

/// The number of clients of one target that share a source address.
pub fn sharing(clients: u32, targets: &[SocketAddr], sources: &[IpAddr]) -> u32 {
    let loopback = |target: &SocketAddr| target.is_ipv4() && target.ip().is_loopback();
    if sources.is_empty() && targets.iter().all(loopback) {
        return socket::CLIENTS_PER_ADDRESS;
    }
    let of = |v4: bool| sources.iter().filter(|source| source.is_ipv4() == v4).count().max(1);
    let fewest = targets.iter().map(|target| of(target.is_ipv4())).min().unwrap_or(1);
    clients.div_ceil(targets.len().max(1) as u32).div_ceil(fewest as u32)
}

/// The first and the last port of the system's range for outgoing connections.
pub fn ports() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let ends: Vec<u16> = text.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    match ends[..] {
        [first, last] if last >= first => (first, last),
        // Linux's default range.
        _ => (32_768, 60_999),
    }
}

/// The host's name.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports_or_take_the_given_one() {
        for (host, want) in [
            ("127.0.0.9", "127.0.0.9:1883"),
            ("127.0.0.9:7", "127.0.0.9:7"),
            ("::1", "[::1]:1883"),
            ("[::1]", "[::1]:1883"),
            ("[::1]:7", "[::1]:7"),
        ] {
            assert_eq!(resolve(host, 1883).unwrap().to_string(), want, "{host}");
        }
        for host in ["127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x", "", "[::1]:x"] {
            let error = resolve(host, 1883).unwrap_err();
            assert!(error.contains(&format!("--host {host}")), "{error}");
        }
        assert_eq!(name_of("broker.example:8883"), "broker.example");
        assert_eq!(name_of("[2001:db8::1]:8883"), "2001:db8::1");
    }

    #[test]
    fn it_is_known_how_many_share_an_address() {
        let target = |text: &str| text.parse::<SocketAddr>().unwrap();
        let source = |text: &str| text.parse::<IpAddr>().unwrap();
        let remote = [target("192.0.2.1:1"), target("192.0.2.2:1")];
        assert_eq!(sharing(1000, &remote, &[]), 500);
        assert_eq!(sharing(1000, &remote, &[source("10.0.0.1"), source("10.0.0.2")]), 250);
        let here = [target("127.0.0.1:1")];
        assert_eq!(sharing(1_000_000, &here, &[]), socket::CLIENTS_PER_ADDRESS);
        assert_eq!(sharing(9000, &here, &[source("127.0.0.2")]), 9000);
    }
}
