//! The figures of each shard, asked for when somebody wants to know. A shard has at most one
//! question open, and a new one at most every 10 ms, however many requests there are; who asks
//! meanwhile shares the next answer.

use super::{Ask, FiguresRequest};
use crate::telemetry::prometheus::Snapshot;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Least time between two questions to one shard: bounds what any number of requests can cost it.
pub(super) const GAP: Duration = Duration::from_millis(10);

/// What a shard said when asked.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Its figures.
    Figures(Arc<Snapshot>),
    /// It has ended.
    Ended,
    /// Nothing, in the time given.
    Silence,
}

impl Answer {
    pub(super) fn figures(&self) -> Option<&Arc<Snapshot>> {
        match self {
            Answer::Figures(figures) => Some(figures),
            Answer::Ended | Answer::Silence => None,
        }
    }
}

/// Who waits for one shard's answer: at most as many as there are connections, and the history.
#[derive(Default)]
struct Waiters {
    waiting: Mutex<Vec<oneshot::Sender<Answer>>>,
    bell: Notify,
}

impl Waiters {
    fn take(&self) -> Vec<oneshot::Sender<Answer>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the answer to a question that is still to be put.
    fn join(&self) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Those whose patience is over, because the shard is silent.
        waiting.retain(|one| !one.is_closed());
        waiting.push(reply);
        self.bell.notify_one();
        answer
    }
}

/// Where figures come from.
pub(super) struct Figures {
    lines: Vec<Arc<Waiters>>,
}

impl Figures {
    /// Must be called within the server's loop: each shard gets a task that asks it.
    pub(super) fn open(shards: Vec<Ask>) -> Figures {
        let tend = |ask: Ask| {
            let line = Arc::new(Waiters::default());
            tokio::task::spawn_local(tend(ask, Arc::clone(&line)));
            line
        };
        Figures { lines: shards.into_iter().map(tend).collect() }
    }

    /// How many wait for an answer of this shard.
    #[cfg(test)]
    pub(super) fn waiting(&self, shard: usize) -> usize {
        self.lines[shard].waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
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
}

/// Asks one shard whenever somebody waits.
async fn tend(ask: Ask, line: Arc<Waiters>) {
    loop {
        line.bell.notified().await;
        let crowd = line.take();
        let (reply, answer) = oneshot::channel();
        ask(FiguresRequest { asked: std::time::Instant::now(), reply });
        let answer = match answer.await {
            Ok(snapshot) => Answer::Figures(Arc::new(snapshot)),
            Err(_) => Answer::Ended,
        };
        for one in crowd {
            // Its patience may be over.
            let _ = one.send(answer.clone());
        }
        tokio::time::sleep(GAP).await;
    }
}
