//! How other threads ask shards: a shard answers a question within one of its steps. The caller
//! waits at most [`PATIENCE`]. A shard that is late, or has ended, gives no answer.

use super::api::{Submit, Tell};
use crate::shard::Shard;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

/// A shard that has not answered within this time is late.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that has not arrived yet.
type PendingAnswer<T> = oneshot::Receiver<T>;

fn put<T: Send + 'static>(
    tell: &Tell,
    question: impl FnOnce(&mut Shard) -> T + Send + 'static,
) -> PendingAnswer<T> {
    let (reply, answer) = oneshot::channel();
    tell(Box::new(move |shard: &mut Shard| {
        // The caller may have given up. Then the answer is dropped.
        let _ = reply.send(question(shard));
    }));
    answer
}

async fn wait<T>(answer: PendingAnswer<T>) -> Option<T> {
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

/// Has every shard do something, all at the same time, and waits for all of them together.
pub(super) async fn ask_all<T: Send + 'static>(
    shards: &[Tell],
    question: impl FnOnce(&mut Shard) -> T + Clone + Send + 'static,
) -> Vec<Option<T>> {
    let mut asked = ShardQuestions::default();
    asked.put(shards, question);
    asked.gather(PATIENCE).await;
    asked.take()
}

/// Questions to all shards, again and again, to which they answer with what they give away: lines
/// or spans. An answer that comes late is not lost: it is taken with the next ones, and its shard
/// is not asked again before. Nothing is lost either when nobody waits any more.
pub(super) struct ShardQuestions<T> {
    coming: Vec<Option<PendingAnswer<T>>>,
    found: Vec<Option<T>>,
}

impl<T> Default for ShardQuestions<T> {
    fn default() -> Self {
        ShardQuestions { coming: Vec::new(), found: Vec::new() }
    }
}

impl<T: Send + 'static> ShardQuestions<T> {
    /// Asks every shard that owes no answer, and waits for all of them together. `None` stands for
    /// a shard that gave none in time.
    pub(super) async fn ask(
        &mut self,
        shards: &[Tell],
        question: impl FnOnce(&mut Shard) -> T + Clone + Send + 'static,
    ) -> Vec<Option<T>> {
        self.put(shards, question);
        self.gather(PATIENCE).await;
        self.take()
    }

    fn put(
        &mut self,
        shards: &[Tell],
        question: impl FnOnce(&mut Shard) -> T + Clone + Send + 'static,
    ) {
        self.coming.resize_with(shards.len(), || None);
        self.found.resize_with(shards.len(), || None);
        let waits =
            |(coming, found): &(&mut Option<_>, &Option<T>)| coming.is_none() && found.is_none();
        let rows = self.coming.iter_mut().zip(&self.found).zip(shards);
        for ((coming, _), tell) in rows.filter(|(row, _)| waits(row)) {
            *coming = Some(put(tell, question.clone()));
        }
    }

    async fn gather(&mut self, patience: Duration) {
        let until = Instant::now() + patience;
        for (coming, found) in self.coming.iter_mut().zip(&mut self.found) {
            let Some(answer) = coming else { continue };
            if let Ok(answer) = timeout_at(until, answer).await {
                // Without an answer the shard has ended.
                (*coming, *found) = (None, answer.ok());
            }
        }
    }

    fn take(&mut self) -> Vec<Option<T>> {
        self.found.iter_mut().map(Option::take).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn late_answers_are_awaited_together_and_taken_at_the_next_round() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut asked = ShardQuestions::default();
            let (replies, coming): (Vec<_>, Vec<_>) =
                (0..100).map(|_| oneshot::channel::<usize>()).unzip();
            asked.coming = coming.into_iter().map(Some).collect();
            asked.found.resize_with(100, || None);
            let began = Instant::now();
            asked.gather(SOON).await;
            assert!(began.elapsed() < 10 * SOON, "{:?}", began.elapsed());
            assert!(asked.take().iter().all(Option::is_none));
            for (number, reply) in replies.into_iter().enumerate() {
                // One of them has ended.
                if number != 7 {
                    reply.send(number).unwrap();
                }
            }
            asked.gather(Duration::ZERO).await;
            let all: Vec<usize> = asked.take().into_iter().flatten().collect();
            assert_eq!(all, (0..100).filter(|number| *number != 7).collect::<Vec<_>>());
            assert!(asked.coming.iter().all(Option::is_none), "all may be asked again");
        });
    }

    #[test]
    fn a_shard_that_owes_an_answer_is_not_asked_again() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&count);
            // The question is kept, as by a shard that is late.
            let tell: Tell = Arc::new(move |inquiry| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::mem::forget(inquiry);
            });
            let mut asked = ShardQuestions::default();
            for _ in 0..3 {
                asked.put(&[Arc::clone(&tell)], |_: &mut Shard| 1);
                asked.gather(Duration::ZERO).await;
                assert_eq!(asked.take(), [None]);
            }
            assert_eq!(count.load(Ordering::Relaxed), 1);
        });
    }
}
