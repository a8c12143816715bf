//! Databases of users and of rules: Redis and PostgreSQL. Each has a few connections; a question
//! waits in the line of the connection that has the shortest one, and not longer than the
//! database's time.

use super::ServiceContext;
use crate::access::chain::Proof;
use crate::access::database::{Columns, Database, DatabaseQuery};
use crate::access::lookup::Row;
use crate::access::rule::RuleSet;
use crate::access::stored_rules::{MOST_RULES, RuleAnswer, StoredRules};
use crate::access::{Deed, RuleService, RuleServiceKind, Said, ServiceFinding};
use crate::broker::questions::AccessJob;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Questions that wait for one connection.
const LINE: usize = 1024;
/// Between two lines in the log about a database that cannot be asked, for each connection.
const TELL: Duration = Duration::from_secs(10);

/// Why there is no answer.
pub(super) enum DatabaseFault {
    /// The connection is of no use any more.
    Broken(String),
    /// The database says that it cannot; the connection stays.
    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), expect(dead_code))]
    Refused(String),
}

/// Databases that were asked.
#[derive(Default)]
pub(super) struct Stores(HashMap<usize, Pool>);

struct Pool {
    database: Arc<Database>,
    lines: Vec<mpsc::Sender<(AccessJob, Instant)>>,
}

impl Stores {
    /// Asks for a client's columns, or its rules.
    pub(super) fn ask(
        &mut self,
        database: &Arc<Database>,
        job: AccessJob,
        around: &ServiceContext,
    ) {
        // A reload makes new ones; connections of the old ones end when their lines are empty.
        self.0.retain(|_, store| Arc::strong_count(&store.database) > 1 + store.lines.len());
        let store = self.0.entry(Arc::as_ptr(database) as usize).or_insert_with(|| Pool {
            database: Arc::clone(database),
            lines: (0..database.pool)
                .map(|_| {
                    let (line, jobs) = mpsc::channel(LINE);
                    tokio::task::spawn(work(Arc::clone(database), jobs, around.clone()));
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
            no_answer(database, job, "too many clients wait for the database", around);
        }
    }
}

/// The question is answered by what is said of a failure.
fn no_answer(database: &Database, job: AccessJob, why: &'static str, around: &ServiceContext) {
    if job.question.deeds.is_empty() {
        around.verdict(job, database.failed(why));
    } else {
        let said = vec![database.silent(why); job.question.deeds.len()];
        around.said(job, said);
    }
}

/// A connection, which is made anew when it breaks.
struct Wire {
    database: Arc<Database>,
    link: Option<DatabaseConnection>,
    /// When a failure was last told.
    told: Option<Instant>,
}

/// Answers questions one after the other.
async fn work(
    database: Arc<Database>,
    mut jobs: mpsc::Receiver<(AccessJob, Instant)>,
    around: ServiceContext,
) {
    let mut wire = Wire { database, link: None, told: None };
    while let Some((job, since)) = jobs.recv().await {
        let until = since + wire.database.timeout;
        if job.question.deeds.is_empty() {
            let words = wire.database.filled(&job.question.proof);
            match wire.ask(&words, 1, until).await {
                Ok(rows) => {
                    let row = rows.into_iter().next().map(Row::of);
                    around.hand_on(job, ServiceFinding::Row(row));
                }
                Err(why) => no_answer(&wire.database, job, why, &around),
            }
            continue;
        }
        let access = Arc::clone(&job.question.access);
        let service = access.service(job.question.method);
        let Some(RuleService { kind: RuleServiceKind::Stored(rules), .. }) = service else {
            no_answer(&wire.database, job, "the rules are not in a database", &around);
            continue;
        };
        match wire.judge(rules, &job.question.proof, &job.question.deeds, until).await {
            Ok(judged) => around.said(job, judged.into_iter().map(|(said, _)| said).collect()),
            Err(why) => no_answer(&wire.database, job, why, &around),
        }
    }
}

/// What a database's rules say of one deed, asked over a connection of its own.
pub(super) async fn ask_once(
    rules: &StoredRules,
    proof: &Proof,
    deed: &(Deed, Box<str>),
) -> RuleAnswer {
    let database = Arc::clone(&rules.database);
    let until = Instant::now() + database.timeout;
    let mut wire = Wire { database, link: None, told: None };
    match wire.judge(rules, proof, std::slice::from_ref(deed), until).await {
        Ok(judged) => judged.into_iter().next().unwrap_or((Said::Nothing, None)),
        Err(why) => (wire.database.silent(why), None),
    }
}

impl Wire {
    /// What a client's rules say of each deed. They are asked for again only where the question
    /// names the deed.
    async fn judge(
        &mut self,
        rules: &StoredRules,
        proof: &Proof,
        deeds: &[(Deed, Box<str>)],
        until: Instant,
    ) -> Result<Vec<RuleAnswer>, &'static str> {
        let mut last: Option<(Vec<String>, RuleSet)> = None;
        let mut judged = Vec::with_capacity(deeds.len());
        for (deed, topic) in deeds {
            let words = self.database.filled_for(proof, *deed, topic);
            if last.as_ref().is_none_or(|(asked, _)| *asked != words) {
                let rows = self.ask(&words, MOST_RULES + 1, until).await?;
                let set = rules.rules(rows).inspect_err(|why| self.tell(why))?;
                last = Some((words, set));
            }
            let Some((_, set)) = &last else { continue }; // it has just been put there
            judged.push(StoredRules::judge(set, proof, *deed, topic));
        }
        Ok(judged)
    }

    /// At most so many rows.
    async fn ask(
        &mut self,
        words: &[String],
        most: usize,
        until: Instant,
    ) -> Result<Vec<Columns>, &'static str> {
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, self.attempt(words, most)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(DatabaseFault::Broken(error))) => {
                self.tell(&error);
                Err("the database cannot be reached")
            }
            Ok(Err(DatabaseFault::Refused(error))) => {
                self.tell(&error);
                Err("the database refuses to answer")
            }
            Err(_) => {
                // Its answer, should it come, would be taken for the next one's.
                self.link = None;
                Err("the database does not answer in time")
            }
        }
    }

    /// Asks, over a new connection when the old one turns out to be broken.
    async fn attempt(
        &mut self,
        words: &[String],
        most: usize,
    ) -> Result<Vec<Columns>, DatabaseFault> {
        let Wire { database, link, .. } = self;
        if let Some(old) = link {
            match old.ask(database, words, most).await {
                Err(DatabaseFault::Broken(_)) => *link = None,
                answered => return answered,
            }
        }
        let fresh = link.insert(DatabaseConnection::open(database).await?);
        let answer = fresh.ask(database, words, most).await;
        if let Err(DatabaseFault::Broken(_)) = &answer {
            *link = None;
        }
        answer
    }

    fn tell(&mut self, error: &str) {
        if self.told.is_none_or(|at| at.elapsed() > TELL) {
            self.told = Some(Instant::now());
            tracing::warn!(error, "a database of users or rules cannot be asked");
        }
    }
}

/// A connection to a database.
enum DatabaseConnection {
    #[cfg(feature = "redis")]
    Redis(super::redis::RedisConnection),
    #[cfg(feature = "postgres")]
    Postgres(super::postgres::PostgresConnection),
}

impl DatabaseConnection {
    async fn open(database: &Database) -> Result<DatabaseConnection, DatabaseFault> {
        match &database.ask {
            #[cfg(feature = "redis")]
            DatabaseQuery::Redis(_) => {
                super::redis::RedisConnection::open(database).await.map(DatabaseConnection::Redis)
            }
            #[cfg(feature = "postgres")]
            DatabaseQuery::Postgres(..) => super::postgres::PostgresConnection::open(database)
                .await
                .map(DatabaseConnection::Postgres),
            // The configuration was refused.
            #[allow(unreachable_patterns)]
            _ => Err(DatabaseFault::Broken("this program was built without it".to_owned())),
        }
    }

    #[cfg_attr(not(any(feature = "redis", feature = "postgres")), expect(unused_variables))]
    async fn ask(
        &mut self,
        database: &Database,
        words: &[String],
        most: usize,
    ) -> Result<Vec<Columns>, DatabaseFault> {
        match self {
            #[cfg(feature = "redis")]
            DatabaseConnection::Redis(link) => link.ask(database, words).await,
            #[cfg(feature = "postgres")]
            DatabaseConnection::Postgres(link) => link.ask(database, words, most).await,
            #[cfg(not(any(feature = "redis", feature = "postgres")))]
            _ => Err(DatabaseFault::Broken("this program was built without it".to_owned())),
        }
    }
}
