//! Threads that work out what a shard must not wait for: hashes of passwords, signatures.
//!
//! A shard's question goes into a bounded queue and its answer comes back as a command of its core.
//! The threads run at the lowest priority: while a core is busy with its clients they get next to
//! nothing of it, so that a flood of wrong passwords slows down other logins and nothing else.

use super::core::{CoreCommand, time_of_day};
use super::services;
use crate::access::{Said, ServiceFinding, Verdict, WorkPlace};
use crate::ids::ShardId;
use crate::limits::{ADMISSIONS, PERMISSIONS};
use crate::ring::Doorbell;
use crate::shard::AccessQuestion;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::OwnedSemaphorePermit;

/// Most threads for hashing.
const MOST_THREADS: usize = 4;

/// A question, and whose it is.
pub(super) struct AccessJob {
    pub shard: ShardId,
    pub question: Box<AccessQuestion>,
    /// What a service has said of it.
    pub finding: ServiceFinding,
    /// Its place among the questions that the loop of services has.
    pub place: Option<OwnedSemaphorePermit>,
}

/// What a shard is told.
pub(super) enum AccessReply {
    /// What a method says of a client.
    Verdict(Verdict),
    /// What a service says of each deed that it was asked about.
    Said(Vec<Said>),
}

/// Where a core's questions go.
#[derive(Clone)]
pub(super) struct Helpers {
    hash: Sender<AccessJob>,
    services: Sender<AccessJob>,
    deeds: Sender<AccessJob>,
}

/// The other end, until the threads are started.
pub(super) struct QuestionQueue {
    hash: Receiver<AccessJob>,
    services: Receiver<AccessJob>,
    deeds: Receiver<AccessJob>,
    /// Services hand on what is left to be worked out.
    on: Sender<AccessJob>,
}

/// What a core is told by.
#[derive(Clone)]
pub(super) struct Home {
    pub commands: Sender<CoreCommand>,
    pub doorbell: Doorbell,
}

/// The queue between so many shards and their helpers. It has room for all that they may ask.
pub(super) fn queue(shards: usize) -> (Helpers, QuestionQueue) {
    let (hash, to_hash) = bounded(shards * ADMISSIONS);
    let (services, to_ask) = bounded(shards * ADMISSIONS);
    // Never full: a shard asks no more at a time, and each question is answered.
    let (deeds, about_deeds) = bounded(shards * PERMISSIONS);
    let on = hash.clone();
    let queue = QuestionQueue { hash: to_hash, services: to_ask, deeds: about_deeds, on };
    (Helpers { hash, services, deeds }, queue)
}

impl Helpers {
    /// Hands a question over. One that finds no room is never answered: its client gives up.
    pub(super) fn ask(&self, shard: ShardId, question: Box<AccessQuestion>) {
        let queue = match question.work {
            WorkPlace::Hash => &self.hash,
            WorkPlace::Service if !question.deeds.is_empty() => &self.deeds,
            WorkPlace::Service => &self.services,
        };
        let _ = queue.try_send(AccessJob {
            shard,
            question,
            finding: ServiceFinding::Nothing,
            place: None,
        });
    }
}

impl QuestionQueue {
    /// Starts the threads, which end with the last [`Helpers`]. `homes`: the cores, by shard.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(self, homes: Vec<Home>) -> std::io::Result<()> {
        for number in 0..homes.len().clamp(1, MOST_THREADS) {
            let (jobs, homes) = (self.hash.clone(), homes.clone());
            let name = format!("ringmq-hash-{number}");
            std::thread::Builder::new().name(name).spawn(move || hash(&jobs, &homes))?;
        }
        services::start([self.services, self.deeds], self.on, homes)
    }
}

/// Gives an answer to the shard that asked.
pub(super) fn reply(homes: &[Home], job: AccessJob, reply: AccessReply) {
    if let Some(home) = homes.get(usize::from(job.shard.0)) {
        let (socket, ticket) = (job.question.socket, job.question.ticket);
        let answer = match reply {
            AccessReply::Verdict(verdict) => CoreCommand::Answer(socket, ticket, verdict),
            AccessReply::Said(said) => CoreCommand::Said(socket, ticket, said),
        };
        // A core that has ended needs no answers.
        let _ = home.commands.send(answer);
        home.doorbell.ring();
    }
}

fn hash(jobs: &Receiver<AccessJob>, homes: &[Home]) {
    // Of this thread alone, on Linux. Not being allowed only means that it competes.
    let _ = rustix::process::setpriority_process(None, 19);
    while let Ok(job) = jobs.recv() {
        let question = &job.question;
        let now = time_of_day().as_secs();
        let (access, finding) = (&question.access, &job.finding);
        let verdict = access.work_out(question.method, &question.proof, finding, now);
        reply(homes, job, AccessReply::Verdict(verdict));
    }
}
