//! The threads that own a log's files, and the shard's ends of the rings between them: one carries
//! commands out, in order; with `durability: async` another one syncs meanwhile.
//!
//! The rings have room for more than a log asks at once, so neither side waits for room. A thread
//! sleeps while there is nothing to do; answers ring the doorbell of the shard's core.
#![allow(clippy::disallowed_methods, reason = "the threads beside a shard that write its log")]

use super::files::{self, Files};
use super::{Answer, StorageCommand};
use rtrb::{Consumer, Producer, RingBuffer};
use std::fs::File;
use std::io;
use std::thread::{JoinHandle, Thread};

/// A log has one commit, one sync, one segment to make, one to clean, one to drop and one read for
/// clients under way at most.
const ROOM: usize = 16;

/// What wakes the shard.
pub type Wake = Box<dyn Fn() + Send>;

/// What is to be synced: up to that batch, those files.
type Job = (u64, io::Result<Vec<File>>);

/// A thread and the ring of what it is to do.
struct Worker<T> {
    jobs: Option<Producer<T>>,
    answers: Consumer<Answer>,
    sleeper: Thread,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(
        name: String,
        wake: Wake,
        mut work: impl FnMut(T) -> Option<Answer> + Send + 'static,
    ) -> io::Result<Worker<T>> {
        let (jobs, mut receiver) = RingBuffer::new(ROOM);
        let (mut sender, answers) = RingBuffer::new(ROOM);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            loop {
                match receiver.pop() {
                    Ok(job) => {
                        let Some(answer) = work(job) else { continue };
                        // There is room: a log asks for less at once than the ring holds.
                        if sender.push(answer).is_err() {
                            return;
                        }
                        wake();
                    }
                    Err(_) if receiver.is_abandoned() && receiver.is_empty() => return,
                    Err(_) => std::thread::park(),
                }
            }
        })?;
        let sleeper = thread.thread().clone();
        Ok(Worker { jobs: Some(jobs), answers, sleeper, thread: Some(thread) })
    }
}

impl<T> Worker<T> {
    fn send(&mut self, job: T) -> Result<(), T> {
        let Some(jobs) = &mut self.jobs else { return Err(job) };
        jobs.push(job).map_err(|rtrb::PushError::Full(job)| job)?;
        self.sleeper.unpark();
        Ok(())
    }
}

impl<T> Drop for Worker<T> {
    /// Waits for what is under way.
    fn drop(&mut self) {
        self.jobs = None;
        self.sleeper.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told already.
            let _ = thread.join();
        }
    }
}

/// The shard's side.
pub struct Writer {
    writes: Worker<StorageCommand>,
    /// Answers of the thread that syncs, if there is one; the other one has its jobs.
    synced: Option<Consumer<Answer>>,
}

impl Writer {
    /// Starts the thread of shard number `shard`; and one that syncs, if something is to wake the
    /// shard when that has answered.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        shard: u8,
        mut files: Files,
        wake: Wake,
        syncing: Option<Wake>,
    ) -> io::Result<Writer> {
        let start = |wake| {
            let name = format!("ringmq-sync-{shard}");
            let work = |(batch, files): Job| Some(files::sync(batch, files));
            Worker::<Job>::start(name, wake, work)
        };
        let mut syncs = syncing.map(start).transpose()?;
        let synced = syncs.as_mut().map(|syncs| {
            // The shard's end goes to the shard; this one stays empty.
            std::mem::replace(&mut syncs.answers, RingBuffer::new(1).1)
        });
        let writes = Worker::start(format!("ringmq-store-{shard}"), wake, move |command| {
            match (command, &mut syncs) {
                (StorageCommand::Sync { batch }, Some(syncs)) => {
                    // There is room: one sync is under way at a time.
                    let refused = syncs.send((batch, files.unsynced())).err();
                    refused.map(|(batch, files)| files::sync(batch, files))
                }
                (command, _) => Some(files.obey(command)),
            }
        })?;
        Ok(Writer { writes, synced })
    }

    /// Passes a command on.
    ///
    /// # Errors
    /// Gives it back when the ring is full, which is a mistake of the log's.
    pub fn send(&mut self, command: StorageCommand) -> Result<(), StorageCommand> {
        self.writes.send(command)
    }

    /// The next answer, if there is one.
    pub fn take_answer(&mut self) -> Option<Answer> {
        let synced = || self.synced.as_mut()?.pop().ok();
        self.writes.answers.pop().ok().or_else(synced)
    }

    /// True when there is an answer.
    pub fn has_answer(&self) -> bool {
        !self.writes.answers.is_empty()
            || self.synced.as_ref().is_some_and(|synced| !synced.is_empty())
    }
}
