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
use super::questions::{AccessJob, AccessReply, Home, reply};
use crate::access::chain::Proof;
use crate::access::keys::KeySet;
use crate::access::stored_rules::RuleAnswer;
use crate::access::{Access, Deed, Method, RuleServiceKind, Said, ServiceFinding, Verdict};
use crate::client_tls::{Authorities, client_config};
use crate::limits::ADMISSIONS;
use crate::shard::Shard;
use crossbeam_channel::{Receiver, Sender};
use http::HttpCaller;
use key_sets::KeySets;
use std::sync::Arc;
use stores::Stores;
use tokio::sync::{Semaphore, mpsc};

/// What the loop is told.
enum ServiceEvent {
    Job(AccessJob),
    /// A key set, or why there is none; the place of its [`key_sets`] entry.
    Fetched(key_sets::KeySetId, Result<KeySet, &'static str>),
    /// Nobody asks any more.
    End,
}

/// Whom the loop and its tasks speak to.
#[derive(Clone)]
struct ServiceContext {
    homes: Arc<Vec<Home>>,
    /// To the threads for hashing, with what was found.
    hash: Sender<AccessJob>,
    events: mpsc::UnboundedSender<ServiceEvent>,
}

impl ServiceContext {
    fn verdict(&self, job: AccessJob, verdict: Verdict) {
        reply(&self.homes, job, AccessReply::Verdict(verdict));
    }

    fn said(&self, job: AccessJob, said: Vec<Said>) {
        reply(&self.homes, job, AccessReply::Said(said));
    }

    /// The rest is arithmetic.
    fn hand_on(&self, mut job: AccessJob, finding: ServiceFinding) {
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
    jobs: [Receiver<AccessJob>; 2],
    hash: Sender<AccessJob>,
    homes: Vec<Home>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (events, receiver) = mpsc::unbounded_channel();
    let most = homes.len() * ADMISSIONS;
    let around = ServiceContext { homes: Arc::new(homes), hash, events: events.clone() };
    // The loop below cannot wait for a channel of threads: what comes is passed on. As many can be
    // on their way as the shards may ask for.
    for jobs in jobs {
        let events = events.clone();
        std::thread::Builder::new().name("ringmq-ask".to_owned()).spawn(move || {
            while let Ok(job) = jobs.recv() {
                if events.send(ServiceEvent::Job(job)).is_err() {
                    return;
                }
            }
            // It may have ended already.
            let _ = events.send(ServiceEvent::End);
        })?;
    }
    std::thread::Builder::new()
        .name("ringmq-http".to_owned())
        .spawn(move || runtime.block_on(serve(receiver, around, most)))?;
    Ok(())
}

async fn serve(
    mut events: mpsc::UnboundedReceiver<ServiceEvent>,
    around: ServiceContext,
    most: usize,
) {
    // Shards bound who waits, not what is asked: a client that has gone leaves its question behind.
    let places = Arc::new(Semaphore::new(most));

    let mut http = HttpCaller::default();
    let mut key_sets = KeySets::default();
    let mut stores = Stores::default();
    while let Some(event) = events.recv().await {
        let mut job = match event {
            ServiceEvent::Job(job) => job,
            ServiceEvent::Fetched(place, fetched) => {
                key_sets.fetched(&place, fetched, &around);
                continue;
            }
            ServiceEvent::End => return,
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
) -> std::io::Result<RuleAnswer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = access.service(at).ok_or(std::io::ErrorKind::NotFound)?;
    Ok(runtime.block_on(async {
        match &service.kind {
            RuleServiceKind::Http(service) => {
                (HttpCaller::default().ask_once(service, proof, deed).await, None)
            }
            RuleServiceKind::Stored(rules) => stores::ask_once(rules, proof, &deed).await,
        }
    }))
}

/// How TLS to a service is spoken: with these authorities, or the host's.
fn tls(ca: Option<&str>) -> Result<rustls::ClientConfig, String> {
    client_config(ca.map_or(Authorities::Host, Authorities::Pem), None)
}
