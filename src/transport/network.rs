//! Networks by address and prefix, such as those of trusted proxies. Owns how they are parsed and
//! matched.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::ids::Peer;

/// The addresses that share a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    /// An address in the network.
    address: IpAddr,
    /// Number of leading bits that all addresses of the network share.
    prefix: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoNetwork {
    /// It does not begin with an IP address.
    Address,
    /// What follows the address is not a number between 0 and the bits of the address.
    Prefix,
    /// The address has bits set behind the prefix.
    Bits,
}

impl FromStr for Network {
    type Err = NoNetwork;

    /// Parses `10.0.0.0/8`, `2001:db8::/32`, or a single address.
    fn from_str(text: &str) -> Result<Network, NoNetwork> {
        let network = Network::around(text)?;
        if mask(network.address, network.prefix) != bits(network.address) {
            return Err(NoNetwork::Bits);
        }
        Ok(network)
    }
}

/// How many bits of an IPv4-mapped IPv6 address come before the IPv4 address (RFC 4291, 2.5.5.2).
const MAPPED: u8 = 96;

impl Network {
    /// Parses as `from_str` does, but accepts any address of the network: `10.1.2.3/8` means
    /// `10.0.0.0/8`.
    ///
    /// # Errors
    /// [`NoNetwork::Address`] when `text` begins with no address, [`NoNetwork::Prefix`] when the
    /// prefix is not a number between 0 and the bits of the address.
    pub fn around(text: &str) -> Result<Network, NoNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NoNetwork::Address)?;
        let width = width(address);
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let prefix = match prefix {
            None => width,
            Some(text) => Some(text)
                .filter(digits)
                .and_then(|text| text.parse().ok())
                .filter(|&prefix| prefix <= width)
                .ok_or(NoNetwork::Prefix)?,
        };
        Ok(match address.to_canonical() {
            // Peers are compared by their IPv4 addresses, however the kernel reports them.
            IpAddr::V4(mapped) if address.is_ipv6() && prefix >= MAPPED => {
                Network { address: IpAddr::V4(mapped), prefix: prefix - MAPPED }
            }
            _ => Network { address, prefix },
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// True when the network contains every address of its family.
    pub fn is_everybody(&self) -> bool {
        self.prefix == 0
    }

    /// True when the network contains the address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && mask(address, self.prefix) == mask(self.address, self.prefix)
    }
}

/// Bits of an address of this address's family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first `prefix` bits of an address, the others 0.
fn mask(address: IpAddr, prefix: u8) -> u128 {
    let dropped = u32::from(width(address) - prefix);
    bits(address).checked_shr(dropped).unwrap_or(0).checked_shl(dropped).unwrap_or(0)
}

/// A list of networks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Networks(pub Vec<Network>);

impl Networks {
    /// True when one of the networks contains the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// True when the peer is believed about the addresses of its own clients. A peer on a unix
    /// socket always is: it runs on this host, and the rights of the socket's file have let it in.
    pub fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Tcp(address, _) => self.contains(address),
            Peer::Unix => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn a_network_contains_what_shares_its_prefix() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1", "::1", "127.0.0.1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("::ffff:192.0.2.0/120", "::ffff:192.0.2.9", "192.0.3.9"),
        ] {
            let network = network(text);
            assert!(network.contains(inside.parse().expect("an address")), "{text} {inside}");
            assert!(!network.contains(outside.parse().expect("an address")), "{text} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_for_its_reason() {
        for (text, why) in [
            ("", NoNetwork::Address),
            ("localhost", NoNetwork::Address),
            ("10.0.0/8", NoNetwork::Address),
            ("10.0.0.0/33", NoNetwork::Prefix),
            ("10.0.0.0/", NoNetwork::Prefix),
            ("10.0.0.0/+8", NoNetwork::Prefix),
            ("::/129", NoNetwork::Prefix),
            ("10.1.0.0/8", NoNetwork::Bits),
            ("::1/64", NoNetwork::Bits),
        ] {
            assert_eq!(text.parse::<Network>(), Err(why), "{text}");
        }
        assert_eq!(network("10.0.0.0/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").to_string(), "::1/128");
    }
}
