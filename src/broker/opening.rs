//! Makes sure that only one process at a time opens a port, or a socket in a directory. Shards
//! share ports (SO_REUSEPORT), so two brokers of one user that start at the same moment could both
//! find a port free and bind it. Therefore a process holds a lock while it checks and binds. This
//! module owns the locks; the kernel releases them when the process ends, however it ends.

use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time between two attempts.
const REST: Duration = Duration::from_millis(5);

/// Held while a listener is opened, and released on drop.
#[derive(Debug)]
pub(super) enum OpeningLock {
    /// A name that only one socket of this network namespace can have, derived from the port. It
    /// leaves nothing in a file system.
    Port { _lock: UnixDatagram },
    /// A lock on the directory.
    Directory { _lock: File },
}

impl OpeningLock {
    /// Waits until nobody else opens that port.
    ///
    /// # Errors
    /// `AddrInUse` when somebody else takes more than five seconds for it.
    pub(super) fn of_port(port: u16) -> io::Result<OpeningLock> {
        let name = SocketAddr::from_abstract_name(format!("ringmq-opens-port-{port}"))?;
        let lock = wait(|| match UnixDatagram::bind_addr(&name) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            other => other.map(Some),
        })?;
        Ok(OpeningLock::Port { _lock: lock })
    }

    /// Waits until nobody else opens a socket in the directory of that path.
    ///
    /// # Errors
    /// When the directory cannot be opened, and `AddrInUse` as above.
    pub(super) fn of_path(path: &Path) -> io::Result<OpeningLock> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new(".")))?;
        wait(|| match directory.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        })?;
        Ok(OpeningLock::Directory { _lock: directory })
    }
}

fn wait<T>(mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = attempt()? {
            return Ok(lock);
        }
        if Instant::now() > until {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        std::thread::sleep(REST);
    }
}
