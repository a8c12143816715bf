//! The threads that own a log's files, and the shard's ends of the rings to and from them. One
//! thread carries commands out, in order. With `durability: async` a second thread syncs meanwhile.
//! The rings have room for more commands than a log has under way, so neither side ever waits for
//! room. A thread parks while there is nothing to do. After each answer it wakes the shard's core.
#![allow(clippy::disallowed_methods, reason = "the threads beside a shard that write its log")]

use super::files::{self, LogFiles};
use super::{StorageAnswer, StorageCommand};
use rtrb::{Consumer, Producer, RingBuffer};
use std::fs::File;
use std::io;
use std::thread::{JoinHandle, Thread};

/// Places in a ring. A log has at most one commit, one sync, one segment to make, one to clean, one
/// to drop and one read for clients under way.
const ROOM: usize = 16;

/// Wakes the shard.
pub type Wake = Box<dyn Fn() + Send>;

/// A job of the syncing thread: the batch up to which to sync, and the files.
type SyncJob = (u64, io::Result<Vec<File>>);

/// A thread, the ring of its jobs, and the ring of its answers.
struct Worker<T> {
    jobs: Option<Producer<T>>,
    answers: Consumer<StorageAnswer>,
    sleeper: Thread,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(
        name: String,
        wake: Wake,
        mut work: impl FnMut(T) -> Option<StorageAnswer> + Send + 'static,
    ) -> io::Result<Worker<T>> {
        let (jobs, mut receiver) = RingBuffer::new(ROOM);
        let (mut sender, answers) = RingBuffer::new(ROOM);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            loop {
                match receiver.pop() {
                    Ok(job) => {
                        let Some(answer) = work(job) else { continue };
                        // There is room: a log has fewer commands under way than the ring has
                        // places.
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
    /// Waits until the thread has done its jobs.
    fn drop(&mut self) {
        self.jobs = None;
        self.sleeper.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported already.
            let _ = thread.join();
        }
    }
}

/// The shard's side of the threads.
pub struct Writer {
    writes: Worker<StorageCommand>,
    /// Answers of the syncing thread, if there is one. Its jobs come from the other thread.
    synced: Option<Consumer<StorageAnswer>>,
}

impl Writer {
    /// Starts the thread of shard number `shard`. Starts a syncing thread as well if `syncing` is
    /// given, which wakes the shard after its answers.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        shard: u8,
        mut files: LogFiles,
        wake: Wake,
        syncing: Option<Wake>,
    ) -> io::Result<Writer> {
        let start = |wake| {
            let name = format!("ringmq-sync-{shard}");
            let work = |(batch, files): SyncJob| Some(files::sync(batch, files));
            Worker::<SyncJob>::start(name, wake, work)
        };
        let mut syncs = syncing.map(start).transpose()?;
        let synced = syncs.as_mut().map(|syncs| {
            // The real end of the ring goes to the shard; the worker keeps an empty one.
            std::mem::replace(&mut syncs.answers, RingBuffer::new(1).1)
        });
        let writes = Worker::start(format!("ringmq-store-{shard}"), wake, move |command| {
            match (command, &mut syncs) {
                (StorageCommand::Sync { batch }, Some(syncs)) => {
                    // There is room: at most one sync is under way.
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
    /// The command, when the ring is full, which would be a defect of the log.
    pub fn send(&mut self, command: StorageCommand) -> Result<(), StorageCommand> {
        self.writes.send(command)
    }

    /// The next answer, if there is one.
    pub fn take_answer(&mut self) -> Option<StorageAnswer> {
        let synced = || self.synced.as_mut()?.pop().ok();
        self.writes.answers.pop().ok().or_else(synced)
    }

    /// True when there is an answer.
    pub fn has_answer(&self) -> bool {
        !self.writes.answers.is_empty()
            || self.synced.as_ref().is_some_and(|synced| !synced.is_empty())
    }
}
