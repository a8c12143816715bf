//! Which node of a Redis cluster has a key, and how it is reached: what the cluster specification
//! says of hash slots, and of the answers MOVED and ASK.

use std::collections::HashMap;

/// Slots of a cluster.
const SLOTS: u16 = 16384;

/// The slot of a key. Of one with `{…}` only what is between the first braces counts, if that is
/// not empty: so keys that belong together are on one node.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let from = key.iter().position(|&byte| byte == b'{')? + 1;
        let rest = key.get(from..)?;
        rest.get(..rest.iter().position(|&byte| byte == b'}')?)
    };
    crc16(tag().filter(|tag| !tag.is_empty()).unwrap_or(key)) % SLOTS
}

/// CRC16 of the XMODEM kind.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, &byte| {
        (0..8).fold(sum ^ u16::from(byte) << 8, |sum, _| match sum & 0x8000 {
            0 => sum << 1,
            _ => sum << 1 ^ 0x1021,
        })
    })
}

/// Where another node is asked for: the URL of the one that was asked, with another address. An
/// address without a host is on the host of the node that has answered; an IPv6 address has no
/// brackets.
pub(super) fn url_at(url: &str, address: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, old) = match authority.rsplit_once('@') {
        Some((user, old)) => (format!("{user}@"), old),
        None => (String::new(), authority),
    };
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|&port| port != 0)?;
    let host = match host {
        // Such as `[::1]:6379`, `host:6379` and `host`.
        "" => match old.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => host.to_owned(),
            _ => old.to_owned(),
        },
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
        host => host.to_owned(),
    };
    Some(format!("{scheme}://{user}{host}:{port}{tail}"))
}

/// Which node has which slot, as far as nodes have said so.
#[derive(Default)]
pub(super) struct SlotMap(HashMap<u16, String>);

impl SlotMap {
    /// The URL of the node that has the slot, if that is known.
    pub(super) fn node(&self, slot: u16) -> Option<&str> {
        self.0.get(&slot).map(String::as_str)
    }

    /// A node has said where the slot is.
    pub(super) fn moved(&mut self, slot: u16, url: &str) {
        if slot < SLOTS {
            self.0.insert(slot, url.to_owned());
        }
    }

    /// That node cannot be reached: another one is asked where its slots are.
    pub(super) fn lost(&mut self, url: &str) {
        self.0.retain(|_, at| at != url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_redis_says() {
        // The example of the specification, and what CLUSTER KEYSLOT of Redis 7.0 says.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, expected) in [
            ("foo", 12182),
            ("mqtt_user:ann", 7138),
            ("mqtt", 13794),
            ("{mqtt}_user:ann", 13794),
            ("a{mqtt}b{x}", 13794),
            ("{}a", 10875),
            ("{a", 10276),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_node_is_reached_as_the_one_that_named_it() {
        let url = |url, address| url_at(url, address).unwrap_or_default();
        assert_eq!(url("redis://h:1", "10.0.0.1:7"), "redis://10.0.0.1:7");
        assert_eq!(url("rediss://u:p%2C@h:1/0?x=1", "n:7"), "rediss://u:p%2C@n:7/0?x=1");
        assert_eq!(url("redis://:p@h:1", ":7"), "redis://:p@h:7");
        assert_eq!(url("redis://h", ":7"), "redis://h:7");
        assert_eq!(url("redis://[::1]:1/", ":7"), "redis://[::1]:7/");
        assert_eq!(url("redis://[::1]", ":7"), "redis://[::1]:7");
        assert_eq!(url("redis://h:1", "::1:7"), "redis://[::1]:7");
        for wrong in ["", "h", "h:", "h:x", "h:0", "h:70000"] {
            assert_eq!(url_at("redis://h:1", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_lost_node_is_asked_for_again() {
        let mut map = SlotMap::default();
        map.moved(1, "a");
        map.moved(2, "b");
        map.moved(SLOTS, "a");
        map.lost("a");
        assert_eq!((map.node(1), map.node(2), map.node(SLOTS)), (None, Some("b"), None));
    }
}
