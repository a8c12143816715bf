//! Sockets before they become direct descriptors: their options, source addresses and ports.
#![allow(unsafe_code)]

use super::tls;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

/// Options that all sockets of a run share.
#[derive(Clone, Default, Debug)]
pub struct SocketOptions {
    /// `SO_SNDBUF` in bytes, which bounds unsent data; 0 leaves the system's default.
    pub send_buffer: u32,
    /// Whether connections end by a reset, which leaves no state (TIME_WAIT) behind in the kernel.
    pub reset: bool,
    /// TLS below MQTT, if any.
    pub tls: Option<Arc<tls::TlsSettings>>,
    /// The path of WebSockets that carry MQTT, if any.
    pub web: Option<Arc<str>>,
    /// Addresses of this host from which clients connect, in turn. When empty, the system chooses,
    /// except for targets on the loopback network: there each block of clients has its own address.
    pub sources: Vec<IpAddr>,
    /// The first and the last local port of connections. Given when so many clients share a source
    /// address that each needs a port of its own, chosen here: see [`own_port`].
    pub ports: Option<(u16, u16)>,
}

/// Clients that share one source address on the loopback network: well under the number of ports of
/// one address, so that the kernel's search for a free port stays short.
pub const CLIENTS_PER_ADDRESS: u32 = 4000;
/// `IP_LOCAL_PORT_RANGE` of <linux/in.h>, since Linux 6.3.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// A socket address as system calls take it.
#[derive(Clone, Copy)]
pub struct Raw {
    storage: libc::sockaddr_storage,
    length: u32,
}

impl Raw {
    /// Converts `address`.
    pub fn of(address: SocketAddr) -> Raw {
        // SAFETY: all zeros is a valid sockaddr_storage; either kind of address fits into a
        // sockaddr_storage, which is aligned for both.
        unsafe {
            let mut storage: libc::sockaddr_storage = std::mem::zeroed();
            let place = &raw mut storage;
            let length = match address {
                SocketAddr::V4(v4) => {
                    place.cast::<libc::sockaddr_in>().write(libc::sockaddr_in {
                        sin_family: libc::AF_INET as u16,
                        sin_port: v4.port().to_be(),
                        sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                        sin_zero: [0; 8],
                    });
                    size_of::<libc::sockaddr_in>()
                }
                SocketAddr::V6(v6) => {
                    place.cast::<libc::sockaddr_in6>().write(libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as u16,
                        sin6_port: v6.port().to_be(),
                        sin6_flowinfo: v6.flowinfo(),
                        sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                        sin6_scope_id: v6.scope_id(),
                    });
                    size_of::<libc::sockaddr_in6>()
                }
            };
            Raw { storage, length: length as u32 }
        }
    }

    /// A pointer for system calls; valid as long as `self` stays where it is.
    pub fn pointer(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// The length of the address in bytes.
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// Which side chooses a client's local port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// This program, where [`SocketOptions::ports`] is given.
    Own,
    /// The kernel, which searches for a free port.
    Any,
}

/// A stream socket for client number `client`, bound to its source address if the client has one;
/// to targets on the loopback network it always has.
///
/// `connect` chooses the port, so that one port can serve several targets
/// (`IP_BIND_ADDRESS_NO_PORT`).
pub fn open(
    target: SocketAddr,
    client: u32,
    options: &SocketOptions,
    port: Port,
) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let socket = unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    set(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if options.send_buffer > 0 {
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, options.send_buffer as i32)?;
    }
    if options.reset {
        set(&socket, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    if let Some(source) = source(target, client, &options.sources) {
        set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(&socket, SocketAddr::new(source, 0))?;
    }
    if port == Port::Own
        && let Some(port) = own_port(target, client, options)
    {
        // A kernel before Linux 6.3 refuses this option and searches for a port itself.
        let range = u32::from(port) | u32::from(port) << 16;
        let _ = set(&socket, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range);
    }
    Ok(socket)
}

/// The local port of `client`, different for all clients that share its source address. `None` lets
/// the kernel choose.
///
/// The kernel searches for a free port from a random one on, first among the ports of one parity.
/// When that half of the range is taken, each search goes through thousands of ports: the first
/// 14,000 connections of an address come in at thousands per second, the next ones at 30 per
/// second.
fn own_port(target: SocketAddr, client: u32, options: &SocketOptions) -> Option<u16> {
    let (first, last) = options.ports?;
    let fitting = options.sources.iter().filter(|one| one.is_ipv4() == target.is_ipv4()).count();
    let number = client / (fitting.max(1) as u32);
    let port = u16::try_from(u32::from(first) + number).ok()?;
    (port <= last).then_some(port)
}

/// The address from which `client` connects to `target`; `None` lets the system choose.
pub fn source(target: SocketAddr, client: u32, sources: &[IpAddr]) -> Option<IpAddr> {
    if sources.is_empty() {
        return (target.is_ipv4() && target.ip().is_loopback()).then(|| loopback(client).into());
    }
    let fitting = || sources.iter().filter(|source| source.is_ipv4() == target.is_ipv4());
    let count = fitting().count();
    let turn = (client as usize).checked_rem(count)?;
    fitting().nth(turn).copied()
}

/// 127.1.0.1 and following ones, on which no broker listens by accident.
fn loopback(client: u32) -> Ipv4Addr {
    let block = client / CLIENTS_PER_ADDRESS;
    let [_, high, middle, low] = (block + 1).to_be_bytes();
    Ipv4Addr::new(127, 1u8.saturating_add(high), middle, low)
}

/// Fails when `source` is not an address of this host.
pub fn check(source: IpAddr) -> io::Result<()> {
    std::net::TcpListener::bind(SocketAddr::new(source, 0)).map(drop)
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let address = Raw::of(address);
    // SAFETY: `address` is a live address of the given length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), address.pointer(), address.length()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets one socket option to `value`, whose type must be the one that the kernel expects.
pub fn set<T: Copy>(socket: &OwnedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: passes the address and the size of a live, plain value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_clients_have_valid_loopback_sources() {
        for client in (0..1_100_000).step_by(999) {
            let ip = loopback(client);
            assert!(ip.is_loopback());
            assert!(ip.octets()[3] != 0 || ip.octets()[2] != 0);
        }
    }

    #[test]
    fn sources_are_used_in_turn_and_by_family() {
        let sources: Vec<IpAddr> =
            ["10.0.0.1", "::1", "10.0.0.2"].iter().map(|text| text.parse().unwrap()).collect();
        let v4: SocketAddr = "192.0.2.1:1883".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:1883".parse().unwrap();
        let chosen = |target, client| source(target, client, &sources).unwrap().to_string();
        assert_eq!([0, 1, 2].map(|c| chosen(v4, c)), ["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
        assert_eq!([0, 1].map(|c| chosen(v6, c)), ["::1", "::1"]);
        assert_eq!(source(v4, 9, &sources[1..2]), None);
        assert_eq!(source(v4, 0, &[]), None);
        assert!(source("127.0.0.1:1".parse().unwrap(), 0, &[]).is_some());
    }

    #[test]
    fn clients_that_share_an_address_have_ports_of_their_own() {
        let sources: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.2"].iter().map(|text| text.parse().unwrap()).collect();
        let options =
            SocketOptions { sources, ports: Some((60_000, 60_002)), ..SocketOptions::default() };
        let target: SocketAddr = "192.0.2.1:1883".parse().unwrap();
        let ports: Vec<_> = (0..8).map(|client| own_port(target, client, &options)).collect();
        let want = [60_000, 60_000, 60_001, 60_001, 60_002, 60_002].map(Some);
        assert_eq!((&ports[..6], &ports[6..]), (&want[..], &[None, None][..]));
        assert_eq!(own_port(target, 0, &SocketOptions::default()), None);
    }

    #[test]
    fn an_address_of_another_host_is_noticed() {
        assert!(check("127.0.0.9".parse().unwrap()).is_ok());
        assert!(check("192.0.2.1".parse().unwrap()).is_err());
    }
}
