//! Signals as values: a thread of its own waits for them and hands each to a callback, outside of
//! any handler. Owns the process's reaction to every signal that would end it and is not meant to
//! end it at once. SIGKILL, SIGQUIT and SIGABRT are, and faults of the program are not caught.
//! SIGPIPE is ignored, as the Rust runtime has it: sockets whose peers are gone would raise it.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::{Handle, Signals};

/// What the operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Drain and stop: the first SIGTERM or SIGINT.
    Stop,
    /// Stop without draining: the second one. A third kills the process, even if nobody reads
    /// signals any more.
    StopNow,
    /// Read the configuration again: SIGHUP.
    Reload,
    /// Write the state to the log: SIGUSR1.
    Summary,
    /// Hand the clients over to a new process of the same program: SIGUSR2.
    Upgrade,
    /// One that has no meaning here, by number. Without us it would end the process.
    Other(i32),
}

/// Signals whose default is to end the process, and which have no meaning here; besides the
/// real-time signals.
const OTHERS: [(i32, &str); 8] = [
    (SIGALRM, "SIGALRM"),
    (SIGVTALRM, "SIGVTALRM"),
    (SIGPROF, "SIGPROF"),
    (SIGIO, "SIGIO"),
    (SIGXCPU, "SIGXCPU"),
    (SIGXFSZ, "SIGXFSZ"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
];

/// What a signal is called.
pub fn name(signal: i32) -> &'static str {
    OTHERS.iter().find(|(known, _)| *known == signal).map_or("real-time signal", |(_, name)| name)
}

/// The thread that waits. Dropping it ends the thread and the callback, and the signals are ignored
/// from then on.
#[derive(Debug)]
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// The signals could not be caught.
#[derive(Debug)]
pub struct SignalFailure(std::io::Error);

impl std::fmt::Display for SignalFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let error = &self.0;
        write!(f, "cannot wait for signals ({error}); raise the limits on threads and descriptors")
    }
}

impl std::error::Error for SignalFailure {}

/// Calls `deliver` for each signal, on the thread that waits: it may block shortly, write an
/// eventfd or ring doorbells.
///
/// # Errors
/// When no thread or pipe can be made.
pub fn start(
    mut deliver: impl FnMut(Signal) + Send + 'static,
) -> Result<SignalThread, SignalFailure> {
    let others = OTHERS.map(|(signal, _)| signal).into_iter();
    let caught = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2]
        .into_iter()
        .chain(others)
        .chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
    let mut signals = Signals::new(caught).map_err(SignalFailure)?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut stops = 0;
            for signal in &mut signals {
                if let Some(meaning) = meaning(signal, &mut stops) {
                    deliver(meaning);
                } else {
                    // It fails only for signals without a default action, which these are not.
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
            }
        })
        .map_err(SignalFailure)?;
    Ok(SignalThread { handle, thread: Some(thread) })
}

/// Signals that came, and were not obeyed yet.
pub struct SignalQueue {
    /// Where they are read.
    pub receiver: Receiver<Signal>,
    sender: Sender<Signal>,
}

impl SignalQueue {
    /// Whether there is one to stop. The others stay in the queue.
    pub fn says_stop(&self) -> bool {
        let waiting: Vec<Signal> = self.receiver.try_iter().collect();
        let stops = |signal: &Signal| matches!(signal, Signal::Stop | Signal::StopNow);
        let stop = waiting.iter().any(stops);
        for signal in waiting.into_iter().filter(|signal| !stops(signal)) {
            // As in `channel`.
            let _ = self.sender.try_send(signal);
        }
        stop
    }
}

/// As [`start`], into a channel that can be read without blocking.
///
/// # Errors
/// As [`start`].
pub fn channel() -> Result<(SignalThread, SignalQueue), SignalFailure> {
    let (sender, receiver) = crossbeam_channel::bounded(16);
    let queue = SignalQueue { receiver, sender: sender.clone() };
    let thread = start(move |signal| {
        // A full channel holds more reloads than anyone needs, and the third signal to stop kills
        // anyway.
        let _ = sender.try_send(signal);
    })?;
    Ok((thread, queue))
}

/// What `signal` means after `stops` signals to stop; `None` when patience is over.
fn meaning(signal: i32, stops: &mut u32) -> Option<Signal> {
    match signal {
        SIGHUP => return Some(Signal::Reload),
        SIGUSR1 => return Some(Signal::Summary),
        SIGUSR2 => return Some(Signal::Upgrade),
        SIGTERM | SIGINT => {}
        other => return Some(Signal::Other(other)),
    }
    *stops += 1;
    match *stops {
        1 => Some(Signal::Stop),
        2 => Some(Signal::StopNow),
        _ => None,
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // A callback that panicked has said so already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
