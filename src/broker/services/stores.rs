//! Stores of users: Redis and PostgreSQL. Each has a few connections; a question waits in the line
//! of the connection that has the shortest one, and not longer than the store's time.

use super::Around;
use crate::access::Finding;
use crate::access::chain::Proof;
use crate::access::lookup::{Ask, Lookup, Row};
use crate::broker::questions::Job;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Questions that wait for one connection.
const LINE: usize = 1024;
/// Between two lines in the log about a store that cannot be reached, for each connection.
const TELL: Duration = Duration::from_secs(10);

/// Why there is no answer.
pub(super) enum Fault {
    /// The connection is of no use any more.
    Broken(String),
    /// The store says that it cannot; the connection stays.
    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), expect(dead_code))]
    Refused(String),
}

/// Stores that were asked.
#[derive(Default)]
pub(super) struct Stores(HashMap<usize, Store>);

struct Store {
    users: Arc<Lookup>,
    lines: Vec<mpsc::Sender<(Job, Instant)>>,
}

impl Stores {
    /// Asks for a client's columns.
    pub(super) fn ask(&mut self, users: &Arc<Lookup>, job: Job, around: &Around) {
        // A reload makes new ones; connections of the old ones end when their lines are empty.
        self.0.retain(|_, store| Arc::strong_count(&store.users) > 1 + store.lines.len());
        let store = self.0.entry(Arc::as_ptr(users) as usize).or_insert_with(|| Store {
            users: Arc::clone(users),
            lines: (0..users.pool)
                .map(|_| {
                    let (line, jobs) = mpsc::channel(LINE);
                    tokio::task::spawn(work(Arc::clone(users), jobs, around.clone()));
                    line
                })
                .collect(),
        });
        let shortest = store.lines.iter().max_by_key(|line| line.capacity());
        let full = match shortest {
            Some(line) => line.try_send((job, Instant::now())).err(),
            None => None, // a pool has at least one
        };
        if let Some(full) = full {
            let (job, _) = full.into_inner();
            around.verdict(job, users.failed("too many clients wait for the users' store"));
        }
    }
}

/// Asks over one connection, which is made anew when it breaks.
async fn work(users: Arc<Lookup>, mut jobs: mpsc::Receiver<(Job, Instant)>, around: Around) {
    let mut link: Option<Link> = None;
    let mut told: Option<Instant> = None;
    while let Some((job, since)) = jobs.recv().await {
        let left = users.timeout.saturating_sub(since.elapsed());
        let answer = ask(&mut link, &users, &job.question.proof);
        let why = match tokio::time::timeout(left, answer).await {
            Ok(Ok(row)) => {
                around.hand_on(job, Finding::Row(row));
                continue;
            }
            Ok(Err(fault)) => {
                let (Fault::Broken(error) | Fault::Refused(error)) = &fault;
                if told.is_none_or(|at| at.elapsed() > TELL) {
                    told = Some(Instant::now());
                    tracing::warn!(error, "users cannot be looked up");
                }
                match fault {
                    Fault::Broken(_) => "the users' store cannot be reached",
                    Fault::Refused(_) => "the users' store refuses to answer",
                }
            }
            Err(_) => {
                // Its answer, should it come, would be taken for the next one's.
                link = None;
                "the users' store does not answer in time"
            }
        };
        around.verdict(job, users.failed(why));
    }
}

/// Asks, over a new connection when the old one turns out to be broken.
async fn ask(link: &mut Option<Link>, users: &Lookup, proof: &Proof) -> Result<Option<Row>, Fault> {
    let words = users.filled(proof);
    if let Some(old) = link {
        match old.ask(users, &words).await {
            Err(Fault::Broken(_)) => *link = None,
            answered => return answered,
        }
    }
    let fresh = link.insert(Link::open(users).await?);
    let answer = fresh.ask(users, &words).await;
    if let Err(Fault::Broken(_)) = &answer {
        *link = None;
    }
    answer
}

/// A connection to a store.
enum Link {
    #[cfg(feature = "redis")]
    Redis(super::redis::Link),
    #[cfg(feature = "postgres")]
    Postgres(super::postgres::Link),
}

impl Link {
    async fn open(users: &Lookup) -> Result<Link, Fault> {
        match &users.ask {
            #[cfg(feature = "redis")]
            Ask::Redis(_) => super::redis::Link::open(users).await.map(Link::Redis),
            #[cfg(feature = "postgres")]
            Ask::Postgres(..) => super::postgres::Link::open(users).await.map(Link::Postgres),
            // The configuration was refused.
            #[allow(unreachable_patterns)]
            _ => Err(Fault::Broken("this program was built without it".to_owned())),
        }
    }

    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), expect(unused_variables))]
    async fn ask(&mut self, users: &Lookup, words: &[String]) -> Result<Option<Row>, Fault> {
        match self {
            #[cfg(feature = "redis")]
            Link::Redis(link) => link.ask(users, words).await,
            #[cfg(feature = "postgres")]
            Link::Postgres(link) => link.ask(users, words).await,
            #[cfg(not(any(feature = "redis", feature = "postgres")))]
            _ => Err(Fault::Broken("this program was built without it".to_owned())),
        }
    }
}
