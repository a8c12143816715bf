//! Listening sockets, one per shard, created from a listener's configuration. Options are set here
//! because accepted sockets inherit them; a direct descriptor has no handle on which they could be
//! set later. Owns the sockets until a shard takes them, and the file of a unix socket until the
//! listener is closed.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::opening::OpeningLock;
use crate::config::{Bind, Families, Get, ListenerConfig};

/// A listener whose sockets are listening.
#[derive(Debug)]
pub struct Listening {
    /// Its name in the configuration.
    pub name: String,
    /// The address on which it listens. The port is known even if the kernel chose it.
    pub bound: Bind,
    /// One socket per shard, in the order of shards; after an upgrade to fewer shards more, which
    /// the shards take in turn. TCP sockets share the port (SO_REUSEPORT);
    /// those of a unix listener are duplicates of one socket.
    pub sockets: Vec<OwnedFd>,
    /// The file of a unix socket. Dropping it removes the file.
    pub file: Option<SocketFile>,
}

/// The file of a unix socket, removed on drop unless another process has put its own in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Another process listens there: the file stays.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // The next start finds a stale file and removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why a listener cannot listen, and what to do about it.
#[derive(Debug)]
pub struct ListenFailure {
    /// The listener's name.
    pub name: String,
    /// The configured address.
    pub bind: Bind,
    /// What the kernel said.
    pub error: io::Error,
    /// What to do about it.
    pub fix: &'static str,
}

impl fmt::Display for ListenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenFailure { name, bind, error, fix } = self;
        write!(f, "listener {name} cannot listen on {bind}: {error}; {fix}")
    }
}

impl std::error::Error for ListenFailure {}

/// Makes the sockets of one listener, already listening, for `shards` shards.
///
/// # Errors
/// When the address cannot be bound; nothing stays open then.
pub fn open(listener: &ListenerConfig, shards: usize) -> Result<Listening, ListenFailure> {
    assert!(shards > 0, "a broker has at least one shard");
    let backlog = i32::try_from(listener.backlog.get()).unwrap_or(i32::MAX);
    let opened = match &listener.bind {
        Bind::Tcp(address) => {
            let families = listener.families();
            let buffer = listener.receive_buffer.get().map(|bytes| bytes as usize);
            open_tcp(*address, families, (backlog, buffer), shards)
                .map(|(sockets, bound)| (sockets, Bind::Tcp(bound), None))
        }
        Bind::Unix(path) => {
            let rights = Rights::of(listener);
            open_unix(path, &rights, backlog, shards)
                .map(|(sockets, file)| (sockets, Bind::Unix(path.clone()), Some(file)))
        }
    };
    let (sockets, bound, file) = opened.map_err(|error| ListenFailure {
        name: listener.name.to_string(),
        bind: listener.bind.clone(),
        fix: fix(&listener.bind, &error),
        error,
    })?;
    Ok(Listening { name: listener.name.to_string(), bound, sockets, file })
}

/// The sockets of one listener that another process has opened, for `shards` shards.
///
/// # Errors
/// When the kernel does not tell where they listen, or has no more descriptors.
pub fn inherit(
    listener: &ListenerConfig,
    mut sockets: Vec<OwnedFd>,
    shards: usize,
) -> Result<Listening, ListenFailure> {
    let failed = |error: io::Error| ListenFailure {
        name: listener.name.to_string(),
        bind: listener.bind.clone(),
        fix: fix(&listener.bind, &error),
        error,
    };
    let bound = match &listener.bind {
        Bind::Unix(path) => Bind::Unix(path.clone()),
        Bind::Tcp(address) => {
            let first = sockets.first().map(|socket| SockRef::from(socket).local_addr());
            let told = first.transpose().map_err(failed)?.and_then(|told| told.as_socket());
            Bind::Tcp(told.unwrap_or(*address))
        }
    };
    let file = match &listener.bind {
        Bind::Unix(path) => {
            let identity = identity(path).map_err(failed)?;
            Some(SocketFile { path: path.clone(), identity })
        }
        Bind::Tcp(_) => None,
    };
    // Shards without a socket of their own accept on one that others accept on as well.
    let given = sockets.len();
    for shard in given..shards {
        let shared = sockets[shard % given.max(1)].try_clone().map_err(failed)?;
        sockets.push(shared);
    }
    Ok(Listening { name: listener.name.to_string(), bound, sockets, file })
}

fn fix(bind: &Bind, error: &io::Error) -> &'static str {
    match (error.raw_os_error().unwrap_or(0), bind) {
        (libc::EADDRINUSE, Bind::Tcp(_)) => {
            "stop the process that listens there, or change the listener's bind"
        }
        (libc::EADDRINUSE, Bind::Unix(_)) => {
            "stop the process that listens there, or remove the file if it is no socket"
        }
        (libc::EACCES | libc::EPERM, Bind::Tcp(_)) => {
            "use a port of 1024 or more, or grant CAP_NET_BIND_SERVICE"
        }
        (libc::EACCES | libc::EPERM | libc::EROFS, Bind::Unix(_)) => {
            "let the broker's user read and write the directory, and be the socket's owner and in \
             its group"
        }
        (libc::EADDRNOTAVAIL, _) => "use an address of this host, 0.0.0.0 or [::]",
        (libc::EAFNOSUPPORT, _) => "IPv6 is switched off on this host; use an IPv4 address",
        (0, Bind::Unix(_)) => "use a user and a group that this host has, or their numbers",
        (libc::ENOENT | libc::ENOTDIR, _) => "create the directory of the socket",
        (libc::EMFILE | libc::ENFILE, _) => "raise the nofile limit",
        _ => "change the listener's bind",
    }
}

fn open_tcp(
    address: SocketAddr,
    families: Families,
    (backlog, receive_buffer): (i32, Option<usize>),
    shards: usize,
) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    let mut bound = address;
    if families == Families::Both && !has_ipv6() {
        bound.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }
    let _opening = match address.port() {
        0 => None,
        port => Some(OpeningLock::of_port(port)?),
    };
    if address.port() != 0 {
        // With SO_REUSEPORT a second broker of the same user would bind silently and take half of
        // the clients.
        tcp_socket(bound, families, Sharing::Exclusive)?;
    }
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = tcp_socket(bound, families, Sharing::AmongShards)?;
        // Before listening: the window that the kernel offers follows from it.
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.listen(backlog)?;
        // The kernel may have chosen the port for the first; the others follow it.
        if let Some(chosen) = socket.local_addr()?.as_socket() {
            bound = chosen;
        }
        sockets.push(OwnedFd::from(socket));
    }
    Ok((sockets, bound))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    AmongShards,
}

/// Whether the kernel makes IPv6 sockets.
fn has_ipv6() -> bool {
    let made = Socket::new(Domain::IPV6, Type::STREAM, None);
    !made.is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

fn tcp_socket(address: SocketAddr, families: Families, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(families == Families::One)?;
    }
    // A restart must not wait for connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::AmongShards)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Who may connect to a unix socket. `None` leaves what the process's user and umask determine.
struct Rights {
    mode: Option<u32>,
    owner: Option<String>,
    group: Option<String>,
}

impl Rights {
    fn of(listener: &ListenerConfig) -> Rights {
        Rights {
            mode: listener.mode.get(),
            owner: listener.owner.0.as_ref().map(ToString::to_string),
            group: listener.group.0.as_ref().map(ToString::to_string),
        }
    }

    /// Gives the file these rights.
    fn apply(&self, path: &Path) -> io::Result<()> {
        let id = |name: &String, find: fn(&str) -> nix::Result<Option<u32>>| {
            let found = name.parse().ok().map_or_else(|| find(name), |id| Ok(Some(id)))?;
            found.ok_or_else(|| io::Error::other(format!("`{name}` is unknown")))
        };
        let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        let owner = self.owner.as_ref().map(|name| id(name, user)).transpose()?;
        let group = self.group.as_ref().map(|name| id(name, group)).transpose()?;
        if owner.is_some() || group.is_some() {
            std::os::unix::fs::chown(path, owner, group)?;
        }
        match self.mode {
            Some(mode) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

fn open_unix(
    path: &Path,
    rights: &Rights,
    backlog: i32,
    shards: usize,
) -> io::Result<(Vec<OwnedFd>, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let _opening = OpeningLock::of_path(path)?;
    remove_if_stale(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path)? };
    // Set before the socket listens, so that nobody can have connected with other rights.
    rights.apply(path)?;
    socket.listen(backlog)?;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 1..shards {
        sockets.push(OwnedFd::from(socket.try_clone()?));
    }
    sockets.push(OwnedFd::from(socket));
    Ok((sockets, file))
}

/// Removes a socket file that a killed broker has left behind, on which nobody listens. Anything
/// else stays, and then the address is in use.
fn remove_if_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A live listener with a full backlog must not block us: it answers EAGAIN.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if kind.is_socket() && error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
    }
}

/// Device and inode, which distinguish our file from another with the same name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
