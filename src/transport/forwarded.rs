//! `X-Forwarded-For`: the address of a client, as the proxies between it and the broker report it.
//! Owns how the header is read.

use super::network::Networks;
use crate::ids::Peer;
use std::net::{IpAddr, SocketAddr};

/// The address of the client whose request came from `peer`: the last address in `headers` (in
/// their order) that is not that of a trusted proxy. Each proxy appends the address it was asked
/// from, so every address before that one was written by a host that is not trusted. When all of
/// them are trusted, the first address is the client's. The result is `peer` when `peer` is not
/// trusted, or no address can be read from the headers.
pub fn client<'a>(
    peer: Peer,
    trusted: &Networks,
    headers: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> Peer {
    let mut client = peer;
    for header in headers.rev() {
        for hop in header.rsplit(|&byte| byte == b',') {
            if !trusted.trusts(client) {
                return client;
            }
            // A trusted proxy wrote this entry, which cannot be read, so nothing before it can be
            // used.
            let Some((address, port)) = address(hop) else { return client };
            client = Peer::Tcp(address.to_canonical(), port);
        }
    }
    client
}

/// Parses an address with or without a port; port 0 stands for none.
fn address(hop: &[u8]) -> Option<(IpAddr, u16)> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    if let Ok(address) = hop.parse::<IpAddr>() {
        return Some((address, 0));
    }
    if let Ok(address) = hop.parse::<SocketAddr>() {
        return Some((address.ip(), address.port()));
    }
    let bare = hop.strip_prefix('[')?.strip_suffix(']')?;
    Some((bare.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::from(address.parse::<SocketAddr>().expect("an address"))
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        let trusted = Networks(vec!["10.0.0.0/8".parse().expect("a network")]);
        for (from, headers, client_is) in [
            ("10.0.0.1:5", vec!["203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1:5", vec!["198.51.100.1, 203.0.113.9"], "203.0.113.9:0"),
            ("10.0.0.1:5", vec!["203.0.113.9, 10.9.9.9"], "203.0.113.9:0"),
            ("10.0.0.1:5", vec!["203.0.113.9", "10.9.9.9:70"], "203.0.113.9:0"),
            ("10.0.0.1:5", vec!["[2001:db8::1]:8080"], "[2001:db8::1]:8080"),
            ("10.0.0.1:5", vec!["[2001:db8::1]"], "[2001:db8::1]:0"),
            ("10.0.0.1:5", vec!["198.51.100.1, unknown"], "10.0.0.1:5"),
            ("10.0.0.1:5", vec!["198.51.100.1, , 10.1.1.1"], "10.1.1.1:0"),
            ("10.0.0.1:5", vec!["10.1.1.1"], "10.1.1.1:0"),
            ("10.0.0.1:5", vec![], "10.0.0.1:5"),
            ("203.0.113.1:5", vec!["198.51.100.1"], "203.0.113.1:5"),
        ] {
            let lines = headers.iter().map(|line| line.as_bytes());
            assert_eq!(client(peer(from), &trusted, lines), peer(client_is), "{from} {headers:?}");
        }
        let lines = [b"198.51.100.1".as_slice()];
        let behind_unix = client(Peer::Unix, &trusted, lines.into_iter());
        assert_eq!(behind_unix, peer("198.51.100.1:0"));
    }
}
