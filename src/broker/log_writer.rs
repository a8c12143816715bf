//! The path of log lines to standard error: a bounded buffer of lines, and a thread that writes
//! them. A thread that logs never waits for the reader of the log. When nobody reads, lines are
//! lost and counted, and their number is logged as soon as somebody reads again. Owns the buffer,
//! the thread and the counts.
#![allow(clippy::disallowed_types, reason = "lines of all threads on their way to the log")]

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait to be written.
const ROOM: usize = 1 << 20;
/// The capacity that the buffer keeps when there is nothing to write.
const KEPT: usize = 16 << 10;
/// How long to wait before a standard error that does not block is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Accepts lines, each in one [`Write::write`], and never waits. Clones share one buffer.
#[derive(Clone, Debug)]
pub(super) struct LogWriter(Arc<LogBuffer>);

#[derive(Debug)]
struct LogBuffer {
    /// Locked for the time of a copy, never while writing.
    waiting: Mutex<WaitingLines>,
    /// Signalled when there is something to write, or when everything is written.
    changed: Condvar,
}

#[derive(Default, Debug)]
struct WaitingLines {
    lines: Vec<u8>,
    /// Lines lost since the thread last took some. Once one is lost, all are until then, so that
    /// the lost lines are consecutive.
    lost: u64,
    /// Lines lost since the start.
    lost_in_all: u64,
    /// The process is ending, so lines are kept even beyond the bound.
    last: bool,
    /// Everything is written.
    idle: bool,
}

impl LogWriter {
    /// Starts the thread that writes to `out`. It calls `tell` with the number of lines that were
    /// lost, after those before them have been written.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<LogWriter> {
        let store = Arc::new(LogBuffer { waiting: Mutex::default(), changed: Condvar::new() });
        let (writer, store) = (LogWriter(Arc::clone(&store)), store);
        let thread = move || store.write_all_to(out, tell);
        std::thread::Builder::new().name("log".to_owned()).spawn(thread)?;
        Ok(writer)
    }

    /// Lines lost since the start.
    pub(super) fn lost_in_all(&self) -> u64 {
        self.0.lock().lost_in_all
    }

    /// Keeps every line from now on: the process is about to end.
    pub(super) fn keep_everything(&self) {
        self.0.lock().last = true;
    }

    /// Waits until all lines are written, at most `patience`; false when they are not.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut waiting = self.0.lock();
        while !waiting.idle {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.0.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.lock();
        let full = waiting.lost > 0 || waiting.lines.len() + line.len() > ROOM;
        if full && !waiting.last {
            waiting.lost += 1;
            waiting.lost_in_all += 1;
        } else {
            waiting.lines.extend_from_slice(line);
        }
        if std::mem::take(&mut waiting.idle) {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogBuffer {
    fn lock(&self) -> MutexGuard<'_, WaitingLines> {
        // A panic leaves nothing in here half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of the thread. Runs until the end of the process.
    fn write_all_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut chunk = Vec::new();
        let mut untold = 0;
        loop {
            untold += self.take(&mut chunk);
            match write_all(&mut out, &chunk) {
                Ok(()) if untold > 0 => tell(std::mem::take(&mut untold)),
                Ok(()) => {}
                // Nobody reads any more, or the disk is full. The loss is logged when a line gets
                // through.
                Err(left) => {
                    let lines = left.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    untold += lines;
                    self.lock().lost_in_all += lines;
                }
            }
            chunk.clear();
            chunk.shrink_to(KEPT);
        }
    }

    /// Waits for lines and takes them. Returns how many were lost after them.
    fn take(&self, chunk: &mut Vec<u8>) -> u64 {
        let mut waiting = self.lock();
        while waiting.lines.is_empty() && waiting.lost == 0 {
            waiting.idle = true;
            self.changed.notify_all();
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        std::mem::swap(&mut waiting.lines, chunk);
        std::mem::take(&mut waiting.lost)
    }
}

/// Writes all of it, or returns what could not be written.
fn write_all<'a>(out: &mut impl Write, mut bytes: &'a [u8]) -> Result<(), &'a [u8]> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(bytes),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(_) => return Err(bytes),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
