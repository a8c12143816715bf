//! Who asks for an upgrade: `ringmq upgrade` says so through a unix socket whose name has the
//! number of this process. Only the user that the broker runs as is listened to.

use crossbeam_channel::Sender;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// How the names of those sockets begin; the number of the process follows. They are no files.
pub const NAME: &str = "ringmq-upgrade-";
/// Longest wait for who connects.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest line that is read.
const LINE: u64 = 8 * 1024;

/// An upgrade that is asked for.
#[derive(Debug, Default)]
pub struct UpgradeRequest {
    /// The program; `None`: the file of the running one.
    pub binary: Option<PathBuf>,
    /// Only find out whether it could be.
    pub dry_run: bool,
    /// Who asks, and waits for one line that begins with `ok` or `no`.
    pub asker: Option<UnixStream>,
}

impl UpgradeRequest {
    /// Answers who asks, if anybody does.
    pub(in super::super) fn answer(&mut self, done: Result<&str, &str>) {
        let line = match done {
            Ok(said) => format!("ok {said}\n"),
            Err(why) => format!("no {why}\n"),
        };
        if let Some(mut asker) = self.asker.take() {
            // It may have gone.
            let _ = asker.write_all(line.replace('\n', " ").trim_end().as_bytes());
            let _ = asker.write_all(b"\n");
        }
    }
}

/// The address for the process with that number.
///
/// # Errors
/// Never with a number.
pub fn address(pid: u32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{NAME}{pid}"))
}

/// Listens for requests, on a thread of its own. Without the name (another process with that
/// number may share this host's network) there is only the signal.
pub(in super::super) fn start(requests: Sender<UpgradeRequest>) {
    let listener = address(std::process::id()).and_then(|name| UnixListener::bind_addr(&name));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(%error, "`ringmq upgrade` cannot reach this process; SIGUSR2 can");
            return;
        }
    };
    let serve = move || {
        for asker in listener.incoming() {
            match asker.and_then(read) {
                Ok(request) => {
                    if requests.send(request).is_err() {
                        return; // the broker ends
                    }
                }
                Err(error) => tracing::warn!(%error, "a request to upgrade is refused"),
            }
        }
    };
    let thread = std::thread::Builder::new().name("upgrades".to_owned()).stack_size(128 << 10);
    if let Err(error) = thread.spawn(serve) {
        tracing::warn!(%error, "no thread for upgrades");
    }
}

/// True when the other end is a process of this process's user, or of root.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_ours(socket: &UnixStream) -> std::io::Result<bool> {
    let theirs = rustix::net::sockopt::socket_peercred(socket)?.uid;
    Ok(theirs == rustix::process::geteuid() || theirs.is_root())
}

/// True when the other end was made by this process's parent, which lives.
pub(super) fn is_parent(socket: &UnixStream) -> bool {
    let theirs = rustix::net::sockopt::socket_peercred(socket).ok().map(|known| known.pid);
    theirs.is_some() && theirs == rustix::process::getppid()
}

fn read(asker: UnixStream) -> std::io::Result<UpgradeRequest> {
    asker.set_read_timeout(Some(PATIENCE))?;
    asker.set_write_timeout(Some(PATIENCE))?;
    if !is_ours(&asker)? {
        return Err(std::io::Error::other("another user asks"));
    }
    let mut line = String::new();
    let mut reader = BufReader::new(std::io::Read::take(&asker, LINE));
    reader.read_line(&mut line)?;
    let mut words = line.trim_end_matches('\n').splitn(2, ' ');
    let dry_run = match words.next() {
        Some("upgrade") => false,
        Some("try") => true,
        _ => return Err(std::io::Error::other("not understood")),
    };
    let binary = words.next().filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(UpgradeRequest { binary, dry_run, asker: Some(asker) })
}
