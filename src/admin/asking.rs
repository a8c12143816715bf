//! How shards are asked: a question is done within a step of the shard, and its answer comes back.
//! Whoever asks waits for at most [`PATIENCE`]; a shard that is late, or has ended, gives none.

use super::api::{Submit, Tell};
use crate::shard::Shard;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A shard that does not answer in this time is late.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that is on its way.
type Coming<T> = oneshot::Receiver<T>;

fn put<T: Send + 'static>(
    tell: &Tell,
    question: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Coming<T> {
    let (reply, answer) = oneshot::channel();
    tell(Box::new(move |shard: &mut Shard| {
        // Who asked may have gone.
        let _ = reply.send(question(shard));
    }));
    answer
}

async fn wait<T>(answer: Coming<T>) -> Option<T> {
    timeout(PATIENCE, answer).await.ok()?.ok()
}

/// Has a shard do something within a step.
pub(super) async fn ask<T: Send + 'static>(
    tell: &Tell,
    question: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    wait(put(tell, question)).await
}

/// Has a shard publish something, in its turn. The answer comes when it is in the mailboxes of the
/// other shards.
pub(super) async fn submit<T: Send + 'static>(
    submit: &Submit,
    publish: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    submit(Box::new(move |shard: &mut Shard| {
        let outcome = publish(shard);
        // Who asked may have gone.
        Box::new(move || drop(reply.send(outcome)))
    }));
    wait(answer).await
}

/// Has every shard do something, all at once.
pub(super) async fn ask_all<T: Send + 'static>(
    shards: &[Tell],
    question: impl FnOnce(&mut Shard) -> T + Clone + Send + 'static,
) -> Vec<Option<T>> {
    let asked: Vec<_> = shards.iter().map(|tell| put(tell, question.clone())).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for answer in asked {
        answers.push(wait(answer).await);
    }
    answers
}
