//! What systemd is told (`sd_notify`): ready, stopping, reloading, alive, and a line of status.
//! Without systemd every call does nothing. Owns one datagram socket; never blocks.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    /// The socket, its peer's address.
    peer: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

/// The service manager's socket cannot be used.
#[derive(Debug)]
pub struct NotifyFailure {
    address: String,
    error: io::Error,
}

impl std::fmt::Display for NotifyFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (address, error) = (&self.address, &self.error);
        write!(f, "NOTIFY_SOCKET={address} cannot be used ({error}); unset it or fix the unit")
    }
}

impl std::error::Error for NotifyFailure {}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    /// When `NOTIFY_SOCKET` names something that is no address of a unix socket.
    pub fn of_process() -> Result<Notifier, NotifyFailure> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        // The watchdog may be meant for a parent that passed its environment on.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|_| ours);
        Notifier::new(variable("NOTIFY_SOCKET").as_deref(), watchdog)
    }

    fn new(socket: Option<&OsStr>, watchdog: Option<u64>) -> Result<Notifier, NotifyFailure> {
        let peer = socket.map(|socket| {
            open(socket).map_err(|error| NotifyFailure {
                address: socket.to_string_lossy().into_owned(),
                error,
            })
        });
        let peer = peer.transpose()?;
        let watchdog = watchdog.filter(|_| peer.is_some()).filter(|micros| *micros > 0);
        Ok(Notifier { peer, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// How often [`Notifier::alive`] should be called: half of what systemd waits. `None` without a
    /// watchdog.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// The broker listens.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// That process is the main one from now on; this one ends.
    pub fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// The broker drains.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// The configuration is read again; [`Notifier::ready`] ends it. The time stamp tells systemd
    /// that this reload began after the SIGHUP that it sent (`Type=notify-reload`).
    pub fn reloading(&self) {
        let stamp = monotonic_micros().map(|micros| format!("\nMONOTONIC_USEC={micros}"));
        self.send(&format!("RELOADING=1{}\nSTATUS=reloading", stamp.unwrap_or_default()));
    }

    /// The broker is alive: to be called only when every shard is.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    fn send(&self, state: &str) {
        if let Some((socket, peer)) = &self.peer {
            // Nobody can be told that nobody can be told; a lost WATCHDOG=1 is repeated in time.
            let _ = socket.send_to_addr(state.as_bytes(), peer);
        }
    }
}

/// Microseconds of CLOCK_MONOTONIC, which systemd reads too. `std::time::Instant` hides them.
fn monotonic_micros() -> Option<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
    u64::try_from(Duration::from(now).as_micros()).ok()
}

/// A line break would begin another assignment.
fn one_line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

fn open(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let peer = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither /path nor @name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, peer))
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
