//! A buffer whose directory cannot be used yet: what comes waits in memory, and none is sent, until
//! the directory can be read and written.

use super::{Buffer, BufferPlace, COMPLAINT, MEMORY, READ_AGAIN};
use crate::shard::WhenFull;
use nix::errno::Errno;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// A directory that cannot be read yet. Until it can, messages wait in memory, and none is read,
/// since older ones may be on disk.
pub(super) struct UnreadDirectory {
    directory: PathBuf,
    segment: u64,
    always: bool,
    /// When it is tried again.
    pub(super) again: Instant,
    complained: Instant,
    pub(super) failures: u64,
}

impl UnreadDirectory {
    fn place(&self) -> BufferPlace<'_> {
        match self.always {
            true => BufferPlace::Disk(&self.directory, self.segment),
            false => BufferPlace::Both(&self.directory, self.segment),
        }
    }
}

/// Whether an error may pass without anybody's help: a disk or a network file system that fails, or
/// a lack of memory or descriptors. Wrong permissions and wrong kinds of files do not.
pub fn may_pass(error: &io::Error) -> bool {
    let passing = [Errno::EIO, Errno::EAGAIN, Errno::EINTR, Errno::ENOMEM, Errno::ENFILE];
    let passing = passing.into_iter().chain([Errno::EMFILE, Errno::ESTALE, Errno::ETIMEDOUT]);
    passing.into_iter().any(|code| error.raw_os_error() == Some(code as i32))
}

impl Buffer {
    /// As [`Buffer::open`], but a directory that cannot be read now, for a reason that may pass, is
    /// tried again by [`Buffer::open_again`].
    ///
    /// # Errors
    /// Fails when the directory cannot be used for another reason.
    pub fn open_or_wait(
        most: u64,
        when_full: WhenFull,
        place: BufferPlace<'_>,
    ) -> io::Result<Buffer> {
        let error = match Buffer::open(most, when_full, place) {
            Err(error) if place != BufferPlace::Memory && may_pass(&error) => error,
            opened => return opened,
        };
        let mut buffer = Buffer::in_memory(0, when_full);
        buffer.most = most;
        buffer.wait_for(place, &error);
        Ok(buffer)
    }

    /// Waits in memory for a directory.
    pub(super) fn wait_for(&mut self, place: BufferPlace<'_>, error: &io::Error) {
        let (BufferPlace::Disk(directory, segment) | BufferPlace::Both(directory, segment)) = place
        else {
            return;
        };
        let what = "a bridge's buffer cannot be used: it is tried again";
        tracing::error!(%error, directory = %directory.display(), "{what}");
        let now = Instant::now();
        let bound = (self.most.min(MEMORY) as usize).max(self.queue.bytes());
        self.queue.rebind(bound, self.when_full);
        self.later = Some(UnreadDirectory {
            directory: directory.to_owned(),
            segment,
            always: place.is_disk(),
            again: now + READ_AGAIN,
            complained: now,
            failures: 1,
        });
    }

    /// Tries again to open a directory that could not be read, if it is time. What has waited in
    /// memory meanwhile goes behind what is on disk.
    pub fn open_again(&mut self) {
        let Some(later) = &mut self.later else { return };
        if later.again > Instant::now() {
            return;
        }
        let opened = Buffer::open(self.most, self.when_full, later.place());
        match opened.and_then(|opened| self.move_to(opened)) {
            Ok(()) => tracing::info!(waiting = self.len(), "a bridge's buffer can be read again"),
            Err(error) => self.still_unread(&error),
        }
    }

    fn still_unread(&mut self, error: &io::Error) {
        let Some(later) = &mut self.later else { return };
        let now = Instant::now();
        later.failures += 1;
        later.again = now + READ_AGAIN;
        if later.complained + COMPLAINT < now {
            later.complained = now;
            let directory = later.directory.display();
            tracing::error!(%error, %directory, "a bridge's buffer cannot be used");
        }
    }

    /// Becomes a buffer that has just been opened; what waits here goes behind what is in that.
    ///
    /// # Errors
    /// Fails when the disk cannot be written; what is not on it then waits here as before.
    pub(super) fn move_to(&mut self, mut opened: Buffer) -> io::Result<()> {
        // None of the waiting messages is dropped: the new bound is for further messages.
        let bounds = (opened.most, opened.when_full);
        (opened.most, opened.when_full) = (u64::MAX, WhenFull::Pause);
        // All of it goes to the disk at once, so that what fails there is known to be nowhere else.
        let always = opened.disk.as_mut().map(|disk| std::mem::replace(&mut disk.always, true));
        let mut waiting = self.queue.take_all().into_iter();
        while let Some(batch) = waiting.next() {
            if let Some(unwritten) = opened.push(batch) {
                // Publishers of what was written are not known when it is read again.
                self.lost.extend(opened.waiters());
                self.queue.push(unwritten);
                waiting.for_each(|batch| self.queue.push(batch));
                return Err(io::Error::other("it cannot be written"));
            }
        }
        (opened.most, opened.when_full) = bounds;
        opened.dropped += self.dropped();
        opened.lost.append(&mut self.take_lost());
        if let Some(disk) = &mut opened.disk {
            disk.always = always.unwrap_or(true);
            disk.failures.reads += self.later.as_ref().map_or(0, |later| later.failures);
        }
        *self = opened;
        Ok(())
    }
}
