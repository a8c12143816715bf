//! The thread that owns a log's files, and the shard's ends of the two rings between them.
//!
//! The rings have room for more than a log asks at once, so neither side waits for room. The thread
//! sleeps while there is nothing to do; answers ring the doorbell of the shard's core.
#![allow(clippy::disallowed_methods, reason = "the thread beside a shard that writes its log")]

use super::files::Files;
use super::{Answer, Command};
use rtrb::{Consumer, Producer, RingBuffer};
use std::io;
use std::thread::{JoinHandle, Thread};

/// A log has one commit, one segment to make, one to read and one to drop under way at most.
const ROOM: usize = 16;

/// What wakes the shard.
pub type Wake = Box<dyn Fn() + Send>;

/// The shard's side.
pub struct Writer {
    commands: Option<Producer<Command>>,
    answers: Consumer<Answer>,
    sleeper: Thread,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread of shard number `shard`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(shard: u8, files: Files, wake: Wake) -> io::Result<Writer> {
        let (commands, receiver) = RingBuffer::new(ROOM);
        let (sender, answers) = RingBuffer::new(ROOM);
        let name = format!("ringmq-store-{shard}");
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || serve(files, receiver, sender, &wake))?;
        let sleeper = thread.thread().clone();
        Ok(Writer { commands: Some(commands), answers, sleeper, thread: Some(thread) })
    }

    /// Passes a command on.
    ///
    /// # Errors
    /// Gives it back when the ring is full, which is a mistake of the log's.
    pub fn send(&mut self, command: Command) -> Result<(), Command> {
        let Some(commands) = &mut self.commands else { return Err(command) };
        commands.push(command).map_err(|rtrb::PushError::Full(command)| command)?;
        self.sleeper.unpark();
        Ok(())
    }

    /// The next answer, if there is one.
    pub fn take_answer(&mut self) -> Option<Answer> {
        self.answers.pop().ok()
    }

    /// True when there is an answer.
    pub fn has_answer(&self) -> bool {
        !self.answers.is_empty()
    }
}

impl Drop for Writer {
    /// Waits for what is under way.
    fn drop(&mut self) {
        self.commands = None;
        self.sleeper.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

fn serve(
    mut files: Files,
    mut commands: Consumer<Command>,
    mut answers: Producer<Answer>,
    wake: &Wake,
) {
    loop {
        match commands.pop() {
            Ok(command) => {
                let answer = files.obey(command);
                // There is room: a log asks for less at once than the ring holds.
                if answers.push(answer).is_err() {
                    return;
                }
                wake();
            }
            Err(_) if commands.is_abandoned() && commands.is_empty() => return,
            Err(_) => std::thread::park(),
        }
    }
}
