//! The figures of each shard, which are asked for on demand. At most one question to a shard is
//! open, and a new one is put at most every 10 ms, however many requests there are. Requests that
//! come in the meantime share the next answer. Lives on the admin thread.

use super::{AskShard, FiguresRequest};
use crate::telemetry::prometheus::Snapshot;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// The shortest time between two questions to one shard, which bounds what any number of requests
/// can cost it.
pub(super) const GAP: Duration = Duration::from_millis(10);

/// What a shard answered.
#[derive(Clone, Debug)]
pub(super) enum FiguresAnswer {
    /// The figures of the shard.
    Figures(Arc<Snapshot>),
    /// The shard has ended.
    Ended,
    /// The shard did not answer in the time given.
    Silence,
}

impl FiguresAnswer {
    pub(super) fn figures(&self) -> Option<&Arc<Snapshot>> {
        match self {
            FiguresAnswer::Figures(figures) => Some(figures),
            FiguresAnswer::Ended | FiguresAnswer::Silence => None,
        }
    }
}

/// The requests that wait for one shard's answer. There are at most as many as there are
/// connections, and the history.
#[derive(Default)]
struct Waiters {
    waiting: Mutex<Vec<oneshot::Sender<FiguresAnswer>>>,
    bell: Notify,
}

impl Waiters {
    fn take(&self) -> Vec<oneshot::Sender<FiguresAnswer>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for the answer to a question that has not been put yet.
    fn join(&self) -> oneshot::Receiver<FiguresAnswer> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Removes the requests that have given up because the shard is silent.
        waiting.retain(|one| !one.is_closed());
        waiting.push(reply);
        self.bell.notify_one();
        answer
    }
}

/// The source of the figures of all shards.
pub(super) struct ShardFigures {
    lines: Vec<Arc<Waiters>>,
}

impl ShardFigures {
    /// Must be called within the server's loop: each shard gets a task that asks it.
    pub(super) fn open(shards: Vec<AskShard>) -> ShardFigures {
        let tend = |ask: AskShard| {
            let line = Arc::new(Waiters::default());
            tokio::task::spawn_local(tend(ask, Arc::clone(&line)));
            line
        };
        ShardFigures { lines: shards.into_iter().map(tend).collect() }
    }

    /// The number of requests that wait for an answer of this shard.
    #[cfg(test)]
    pub(super) fn waiting(&self, shard: usize) -> usize {
        self.lines[shard].waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Puts a question to every shard after this call, and waits at most `patience` in all.
    pub(super) async fn ask(&self, patience: Duration) -> Vec<FiguresAnswer> {
        let until = Instant::now() + patience;
        let asked: Vec<_> = self.lines.iter().map(|line| line.join()).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(match timeout_at(until, answer).await {
                Ok(answer) => answer.unwrap_or(FiguresAnswer::Ended),
                Err(_) => FiguresAnswer::Silence,
            });
        }
        answers
    }
}

/// Asks one shard whenever a request waits.
async fn tend(ask: AskShard, line: Arc<Waiters>) {
    loop {
        line.bell.notified().await;
        let crowd = line.take();
        let (reply, answer) = oneshot::channel();
        ask(FiguresRequest { asked: std::time::Instant::now(), reply });
        let answer = match answer.await {
            Ok(snapshot) => FiguresAnswer::Figures(Arc::new(snapshot)),
            Err(_) => FiguresAnswer::Ended,
        };
        for one in crowd {
            // The request may have given up.
            let _ = one.send(answer.clone());
        }
        tokio::time::sleep(GAP).await;
    }
}
