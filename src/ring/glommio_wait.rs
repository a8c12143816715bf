//! Waits for an eventfd through glommio, so that glommio's timers and other tasks run meanwhile.
//!
//! Glommio has no call that waits for the readiness of an arbitrary descriptor. Its streams,
//! however, poll for readiness before they read. A "stream" made from a duplicate of the eventfd
//! therefore does what is needed: its read resolves, with ENOTSOCK, as soon as the eventfd is
//! readable. The poll is armed when the stream is created, and again by a read that found nothing.
//! A read that resolved has used the stream up.
#![allow(unsafe_code)]
use futures_lite::AsyncReadExt;
use glommio::net::TcpStream;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

/// A new eventfd with counter 0, non-blocking.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; a result that is not negative is a descriptor we now own.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Adds one to an eventfd.
pub(super) fn signal(fd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes from a local. It only fails when the counter is full, which wakes too.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Resets the counter to zero.
pub(super) fn reset(fd: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes into a local; the descriptor is non-blocking.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Waits for an eventfd.
pub(super) struct EventFdWaiter {
    stream: Option<TcpStream>,
}

impl EventFdWaiter {
    pub(super) fn new() -> Self {
        EventFdWaiter { stream: None }
    }

    /// Waits until the counter of `eventfd` is not zero or `limit` is over. The descriptor must be
    /// the same at each call. May return early, because a write that an earlier call did not wait
    /// for is remembered.
    ///
    /// # Panics
    /// Outside a glommio executor.
    pub(super) async fn wait(&mut self, eventfd: &OwnedFd, limit: Option<Duration>) {
        let Some(mut stream) = self.stream.take().or_else(|| open(eventfd)) else { return };
        // Glommio takes a limit of zero to mean "no time-out".
        let limit = limit.map(|limit| limit.max(Duration::from_micros(1)));
        if stream.set_read_timeout(limit).is_err() {
            return;
        }
        let mut nothing = [0u8; 8];
        if let Err(error) = stream.read(&mut nothing).await
            && error.kind() == io::ErrorKind::TimedOut
        {
            // The poll is still armed, so the next wait can use the same stream.
            self.stream = Some(stream);
        }
    }
}

fn open(eventfd: &OwnedFd) -> Option<TcpStream> {
    let duplicate = eventfd.try_clone().ok()?;
    // SAFETY: the stream owns the duplicate and closes it.
    Some(unsafe { TcpStream::from_raw_fd(duplicate.into_raw_fd()) })
}
