//! How other threads ask shards: a shard answers a question within one of its steps. The caller
//! waits at most [`PATIENCE`] for each answer. A shard that is late, or has ended, gives no answer.

use super::api::{Submit, Tell};
use crate::shard::Shard;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A shard that has not answered within this time is late.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that has not arrived yet.
type Coming<T> = oneshot::Receiver<T>;

fn put<T: Send + 'static>(
    tell: &Tell,
    question: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Coming<T> {
    let (reply, answer) = oneshot::channel();
    tell(Box::new(move |shard: &mut Shard| {
        // The caller may have given up. Then the answer is dropped.
        let _ = reply.send(question(shard));
    }));
    answer
}

async fn wait<T>(answer: Coming<T>) -> Option<T> {
    timeout(PATIENCE, answer).await.ok()?.ok()
}

/// Has a shard do something within a step, and waits for the result.
pub(super) async fn ask<T: Send + 'static>(
    tell: &Tell,
    question: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    wait(put(tell, question)).await
}

/// Has a shard publish something when it has its turn. The answer comes when the message is in the
/// mailboxes of the other shards.
pub(super) async fn submit<T: Send + 'static>(
    submit: &Submit,
    publish: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    submit(Box::new(move |shard: &mut Shard| {
        let outcome = publish(shard);
        // The caller may have given up. Then the answer is dropped.
        Box::new(move || drop(reply.send(outcome)))
    }));
    wait(answer).await
}

/// Has every shard do something, all at the same time. The answers are awaited one after the other,
/// each for at most [`PATIENCE`].
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
