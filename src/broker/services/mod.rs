//! The thread that asks services for the shards: HTTP, key sets, Redis and PostgreSQL (users and
//! rules). One event loop,
//! which owns connections and key sets; every wait has a bound, and every question an answer.

mod http;
mod key_sets;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_nodes;
mod stores;

use super::core::CoreCommand;
use super::questions::{Home, Job, Reply, reply};
use crate::access::chain::Proof;
use crate::access::keys::KeySet;
use crate::access::stored_rules::Judged;
use crate::access::{Access, Deed, Finding, Method, RuleServiceKind, Said, Verdict};
use crate::client_tls::{Authorities, client_config};
use crate::limits::ADMISSIONS;
use crate::shard::Shard;
use crossbeam_channel::{Receiver, Sender};
use http::Http;
use key_sets::KeySets;
use std::sync::Arc;
use stores::Stores;
use tokio::sync::{Semaphore, mpsc};

/// What the loop is told.
enum Event {
    Job(Job),
    /// A key set, or why there is none; the place of its [`key_sets`] entry.
    Fetched(key_sets::Place, Result<KeySet, &'static str>),
    /// Nobody asks any more.
    End,
}

/// Whom the loop and its tasks speak to.
#[derive(Clone)]
struct Around {
    homes: Arc<Vec<Home>>,
    /// To the threads for hashing, with what was found.
    hash: Sender<Job>,
    events: mpsc::UnboundedSender<Event>,
}

impl Around {
    fn verdict(&self, job: Job, verdict: Verdict) {
        reply(&self.homes, job, Reply::Verdict(verdict));
    }

    fn said(&self, job: Job, said: Vec<Said>) {
        reply(&self.homes, job, Reply::Said(said));
    }

    /// The rest is arithmetic.
    fn hand_on(&self, mut job: Job, finding: Finding) {
        job.finding = finding;
        if let Err(refused) = self.hash.try_send(job) {
            let why = "too many clients prove who they are";
            self.verdict(refused.into_inner(), Verdict::Failed(why));
        }
    }

    /// Counts a key set that was fetched, or could not be: on the first shard, whose figures are
    /// added to those of the others.
    fn count_key_set(&self, fetched: bool) {
        if let Some(home) = self.homes.first() {
            let count = Box::new(move |shard: &mut Shard| shard.count_key_set(fetched));
            let _ = home.commands.send(CoreCommand::Inquire(count));
            home.doorbell.ring();
        }
    }
}

/// Starts the thread, which ends with the questions' last sender.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(
    jobs: [Receiver<Job>; 2],
    hash: Sender<Job>,
    homes: Vec<Home>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (events, receiver) = mpsc::unbounded_channel();
    let most = homes.len() * ADMISSIONS;
    let around = Around { homes: Arc::new(homes), hash, events: events.clone() };
    // The loop below cannot wait for a channel of threads: what comes is passed on. As many can be
    // on their way as the shards may ask for.
    for jobs in jobs {
        let events = events.clone();
        std::thread::Builder::new().name("ringmq-ask".to_owned()).spawn(move || {
            while let Ok(job) = jobs.recv() {
                if events.send(Event::Job(job)).is_err() {
                    return;
                }
            }
            // It may have ended already.
            let _ = events.send(Event::End);
        })?;
    }
    std::thread::Builder::new()
        .name("ringmq-http".to_owned())
        .spawn(move || runtime.block_on(serve(receiver, around, most)))?;
    Ok(())
}

async fn serve(mut events: mpsc::UnboundedReceiver<Event>, around: Around, most: usize) {
    // Shards bound who waits, not what is asked: a client that has gone leaves its question behind.
    let places = Arc::new(Semaphore::new(most));

    let mut http = Http::default();
    let mut key_sets = KeySets::default();
    let mut stores = Stores::default();
    while let Some(event) = events.recv().await {
        let mut job = match event {
            Event::Job(job) => job,
            Event::Fetched(place, fetched) => {
                key_sets.fetched(&place, fetched, &around);
                continue;
            }
            Event::End => return,
        };
        let access = Arc::clone(&job.question.access);
        if !job.question.deeds.is_empty() {
            match access.service(job.question.method).map(|service| &service.kind) {
                Some(RuleServiceKind::Http(service)) => {
                    http.ask_about_deeds(service, job, &around);
                }
                Some(RuleServiceKind::Stored(rules)) => stores.ask(&rules.database, job, &around),
                None => around.said(job, Vec::new()),
            }
            continue;
        }
        job.place = Arc::clone(&places).try_acquire_owned().ok();
        if job.place.is_none() {
            let why = "too many clients prove who they are";
            around.verdict(job, Verdict::Failed(why));
            continue;
        }
        match access.methods.get(job.question.method) {
            Some(Method::Http(service)) => http.ask(service, job, &around),
            Some(Method::Jwt(jwt)) => key_sets.ask(jwt, job, &mut http, &around),
            Some(Method::Redis(users) | Method::Postgres(users)) => {
                stores.ask(&users.database, job, &around);
            }
            // Not asked of a service.
            _ => around.verdict(job, Verdict::Unknown),
        }
    }
}

/// What the service of rules at a position says of one deed, and by which of its rules; asked at
/// once, over a connection of its own: for the command line.
///
/// # Errors
/// When there is no such service, or the host cannot ask.
pub fn ask_once(
    access: &Access,
    at: usize,
    proof: &Proof,
    deed: (Deed, Box<str>),
) -> std::io::Result<Judged> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = access.service(at).ok_or(std::io::ErrorKind::NotFound)?;
    Ok(runtime.block_on(async {
        match &service.kind {
            RuleServiceKind::Http(service) => {
                (Http::default().ask_once(service, proof, deed).await, None)
            }
            RuleServiceKind::Stored(rules) => stores::ask_once(rules, proof, &deed).await,
        }
    }))
}

/// How TLS to a service is spoken: with these authorities, or the host's.
fn tls(ca: Option<&str>) -> Result<rustls::ClientConfig, String> {
    client_config(ca.map_or(Authorities::Host, Authorities::Pem), None)
}
