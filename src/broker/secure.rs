//! What listeners are secured with: the files are read here, on the control thread; see
//! [`crate::transport::tls`]. Owns what is in force, when the files were last looked at, and the
//! keys for tickets, which outlive a reload.

use super::core::time_of_day;
use crate::config::{Config, Get, ListenerConfig};
use crate::transport::tls::{self, Server, TicketKeys, UnusableFile};
use crate::upgrade::code::SecretBytes;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a file that are read.
const LONGEST_FILE: u64 = 256 << 20;
/// A certificate that is valid for less is warned of, once a day.
const SOON: u64 = 14 * 24 * 3600;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Size, identity and time of a file; `None` while it cannot be looked at.
type FileStamp = Option<(u64, u64, i64, i64)>;

/// What one listener is secured with.
pub(super) struct Secured {
    /// In force.
    pub server: Arc<Server>,
    tickets: Option<Arc<TicketKeys>>,
    stamps: Vec<FileStamp>,
    looked: Instant,
    warned: Option<Instant>,
}

pub(super) fn now() -> u64 {
    time_of_day().as_secs()
}

/// The bytes of a file that has at most so many.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    }
    Ok(bytes)
}

fn read_named(path: &Path) -> io::Result<Vec<u8>> {
    read(path, LONGEST_FILE)
}

fn stamp(path: &str) -> FileStamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

fn stamps(listener: &ListenerConfig) -> Vec<FileStamp> {
    let tls = &listener.tls;
    let named = [&tls.certificate, &tls.private_key, &tls.client_ca].into_iter();
    let sni = tls.sni.iter().flat_map(|entry| [&entry.certificate, &entry.private_key]);
    named.chain(sni).chain(&tls.crl.0).map(|path| stamp(path)).collect()
}

/// What is wrong with the files that a configuration names: a line for each listener, and one for
/// the admin server.
pub fn problems(config: &Config) -> Vec<String> {
    let secure = config.listeners.iter().enumerate().filter(|(_, one)| one.is_secure());
    let wrong = secure.filter_map(|(at, listener)| {
        let unusable =
            Server::new(&listener.tls, &listener.name, None, &read_named, now()).err()?;
        Some(format!("listeners.{at}.{unusable}"))
    });
    wrong.chain(super::admin_servers::problem(config)).collect()
}

impl Secured {
    /// Reads the files of a listener for the first time; `None` when it is not secure.
    pub(super) fn open(listener: &ListenerConfig) -> Result<Option<Secured>, UnusableFile> {
        if !listener.is_secure() {
            return Ok(None);
        }
        let (tickets, stamps) = (tls::ticket_keys(&listener.tls), stamps(listener));
        let server =
            Server::new(&listener.tls, &listener.name, tickets.clone(), &read_named, now())?;
        let secured = Secured {
            server: Arc::new(server),
            tickets,
            stamps,
            looked: Instant::now(),
            warned: None,
        };
        secured.remark(listener);
        Ok(Some(secured))
    }

    /// The keys for tickets, for a process that takes over.
    pub(super) fn exported_tickets(&self) -> Option<SecretBytes> {
        self.tickets.as_ref().map(|keys| keys.exported(Instant::now()))
    }

    /// Goes on with the keys of another process.
    pub(super) fn adopt_tickets(&self, exported: &SecretBytes) {
        if let Some(keys) = &self.tickets {
            keys.adopt(exported, Instant::now());
        }
    }

    fn remark(&self, listener: &ListenerConfig) {
        for remark in &self.server.remarks {
            tracing::warn!(listener = &*listener.name, "{remark}");
        }
    }

    /// Reads them again, for new keys of the section perhaps.
    pub(super) fn reload(&mut self, listener: &ListenerConfig) -> Result<(), UnusableFile> {
        let stamps = stamps(listener);
        // Said once for each change, be it usable or not.
        self.stamps.clone_from(&stamps);
        self.looked = Instant::now();
        let tickets = match (&self.tickets, tls::ticket_keys(&listener.tls)) {
            (Some(known), Some(new)) if known.rotation() == new.rotation() => Some(known.clone()),
            (_, new) => new,
        };
        let server =
            Server::new(&listener.tls, &listener.name, tickets.clone(), &read_named, now())?;
        (self.server, self.tickets, self.warned) = (Arc::new(server), tickets, None);
        self.remark(listener);
        Ok(())
    }

    /// Whether the files have changed since they were read, if it is time to look.
    pub(super) fn has_changed(&mut self, listener: &ListenerConfig, now: Instant) -> bool {
        let Some(interval) = listener.tls.watch.get() else { return false };
        if now.duration_since(self.looked) < interval {
            return false;
        }
        self.looked = now;
        stamps(listener) != self.stamps
    }

    /// Says once a day that a certificate will expire soon.
    pub(super) fn warn(&mut self, listener: &ListenerConfig, at: Instant) {
        let left = self.server.not_after.saturating_sub(now());
        let due = self.warned.is_none_or(|warned| at.duration_since(warned) >= DAY);
        if left < SOON && due {
            self.warned = Some(at);
            let (listener, hours_left) = (&*listener.name, left / 3600);
            tracing::warn!(
                listener,
                hours_left,
                "the listener's certificate expires soon; renew it"
            );
        }
    }
}
