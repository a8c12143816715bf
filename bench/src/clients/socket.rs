//! Sockets before they become direct descriptors: options and source addresses.
#![allow(unsafe_code)]

use super::tls::Tls;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

/// What the sockets of a run have in common.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// Bounds unsent data, in bytes; 0 leaves the system's.
    pub send_buffer: u32,
    /// Ends connections by a reset, which leaves nothing behind in the kernel.
    pub reset: bool,
    /// Below MQTT.
    pub tls: Option<Arc<Tls>>,
}

/// Connections that share one source address: well under the ports of one address, so that the
/// kernel's search for a free port stays short.
const CLIENTS_PER_ADDRESS: u32 = 4000;

/// The C form of an IPv4 address.
pub fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// A stream socket for client number `client`, bound to its source address when the target is on
/// the loopback network.
pub fn open(target: SocketAddrV4, client: u32, options: &Options) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor is owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
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
    if target.ip().is_loopback() {
        set(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(&socket, source(client))?;
    }
    Ok(socket)
}

/// 127.1.0.1 and up: never an address that a broker listens on by accident.
fn source(client: u32) -> SocketAddrV4 {
    let block = client / CLIENTS_PER_ADDRESS;
    let [_, high, middle, low] = (block + 1).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(127, 1u8.saturating_add(high), middle, low), 0)
}

fn bind(socket: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let address = raw(address);
    // SAFETY: `address` is a valid sockaddr_in for the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as u32,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets one option, given as the kernel expects it.
pub fn set<T: Copy>(socket: &OwnedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: passes the address and size of a live, plain value.
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
            let ip = *source(client).ip();
            assert!(ip.is_loopback());
            assert!(ip.octets()[3] != 0 || ip.octets()[2] != 0);
        }
    }
}
