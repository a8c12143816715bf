//! What the pages are made from: the figures of each shard, asked for when somebody wants to know,
//! and the last page, as long as it is true. A shard has at most one question open, and a new one
//! at most every 10 ms, however many requests there are; who asks meanwhile shares the next answer.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::{Ask, BrokerStage, Question, Sources, State, process};
use crate::ids::ShardId;
use crate::telemetry::prometheus::{Process, Snapshot, page};

/// Least time between two questions to one shard: bounds what any number of requests can cost it.
const GAP: Duration = Duration::from_millis(10);

/// What a shard said when asked.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Its figures.
    Figures(Rc<Snapshot>),
    /// It has ended.
    Ended,
    /// Nothing, in the time given.
    Silence,
}

impl Answer {
    fn figures(&self) -> Option<&Rc<Snapshot>> {
        match self {
            Answer::Figures(figures) => Some(figures),
            Answer::Ended | Answer::Silence => None,
        }
    }
}

/// Who waits for one shard's answer: at most as many as there are connections.
#[derive(Default)]
struct Waiters {
    waiting: RefCell<Vec<oneshot::Sender<Answer>>>,
    bell: Notify,
}

impl Waiters {
    /// Waits for the answer to a question that is still to be put.
    fn join(&self) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        // Those whose patience is over, because the shard is silent.
        waiting.retain(|one| !one.is_closed());
        waiting.push(reply);
        self.bell.notify_one();
        answer
    }
}

/// A page, and what it was made from.
struct Page {
    from: Vec<Option<Rc<Snapshot>>>,
    state: State,
    text: Bytes,
}

/// Where the pages get what they say.
pub(super) struct PageSource {
    lines: Vec<Rc<Waiters>>,
    interest: Box<dyn Fn() -> u64 + Send>,
    memory_limit: Box<dyn Fn() -> Option<u64> + Send>,
    placement: Box<dyn Fn(&str) -> u8 + Send>,
    started: Duration,
    state: watch::Receiver<State>,
    last: RefCell<Option<Page>>,
}

impl PageSource {
    /// Must be called within the server's loop: each shard gets a task that asks it.
    pub(super) fn open(sources: Sources, state: watch::Receiver<State>) -> PageSource {
        let tend = |ask: Ask| {
            let line = Rc::new(Waiters::default());
            tokio::task::spawn_local(tend(ask, Rc::clone(&line)));
            line
        };
        let started = sources.started.duration_since(SystemTime::UNIX_EPOCH);
        PageSource {
            lines: sources.shards.into_iter().map(tend).collect(),
            interest: sources.interest,
            memory_limit: sources.memory_limit,
            placement: sources.placement,
            // A clock before 1970 is not worth a failure.
            started: started.unwrap_or_default(),
            state,
            last: RefCell::new(None),
        }
    }

    /// The home shard of a ClientId.
    pub(super) fn home(&self, client_id: &str) -> u8 {
        (self.placement)(client_id)
    }

    /// How far the broker is.
    pub(super) fn stage(&self) -> BrokerStage {
        self.state.borrow().stage
    }

    /// The shards that are late, and for how long, by number.
    pub(super) fn late(&self) -> Vec<(ShardId, Duration)> {
        let late = self.state.borrow().late.clone();
        late.into_iter().map(|(shard, since)| (shard, since.elapsed())).collect()
    }

    /// Asks every shard, after this call, and waits at most `patience` in all.
    pub(super) async fn ask(&self, patience: Duration) -> Vec<Answer> {
        let until = Instant::now() + patience;
        let asked: Vec<_> = self.lines.iter().map(|line| line.join()).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(match timeout_at(until, answer).await {
                Ok(answer) => answer.unwrap_or(Answer::Ended),
                Err(_) => Answer::Silence,
            });
        }
        answers
    }

    /// The page of these answers. Requests that share answers share the page.
    pub(super) fn page(&self, answers: &[Answer]) -> Full<Bytes> {
        let from: Vec<_> = answers.iter().map(|answer| answer.figures().cloned()).collect();
        let state = self.state.borrow().clone();
        let mut last = self.last.borrow_mut();
        if let Some(page) = &*last
            && page.state == state
            && same(&page.from, &from)
        {
            return Full::new(page.text.clone());
        }
        let process = Process {
            interest: (self.interest)(),
            memory_limit: (self.memory_limit)(),
            ready: state.stage == BrokerStage::Ready,
            late: self.late(),
            lost_lines: state.lost_lines,
            certificates: state.certificates.clone(),
            started: self.started,
            ..process::measure()
        };
        let figures: Vec<Option<&Snapshot>> = from.iter().map(Option::as_deref).collect();
        let text = Bytes::from(page(env!("CARGO_PKG_VERSION"), &process, &figures));
        *last = Some(Page { from, state, text: text.clone() });
        Full::new(text)
    }
}

/// The very same copies. Without any there is nothing to tell the pages apart by.
fn same(one: &[Option<Rc<Snapshot>>], other: &[Option<Rc<Snapshot>>]) -> bool {
    one.iter().any(Option::is_some)
        && one.iter().zip(other).all(|pair| match pair {
            (Some(one), Some(other)) => Rc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        })
}

/// Asks one shard whenever somebody waits.
async fn tend(ask: Ask, line: Rc<Waiters>) {
    loop {
        line.bell.notified().await;
        let crowd = line.waiting.take();
        let (reply, answer) = oneshot::channel();
        ask(Question { asked: std::time::Instant::now(), reply });
        let answer = match answer.await {
            Ok(snapshot) => Answer::Figures(Rc::new(snapshot)),
            Err(_) => Answer::Ended,
        };
        for one in crowd {
            // Its patience may be over.
            let _ = one.send(answer.clone());
        }
        tokio::time::sleep(GAP).await;
    }
}

#[cfg(test)]
#[path = "page_source_tests.rs"]
mod tests;
