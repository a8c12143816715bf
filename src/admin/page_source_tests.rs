//! Tests of asking shards: freshness, bounds and silence, with closures in the place of shards.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use tokio::task::LocalSet;

use super::*;
use crate::admin::figures::GAP;
use crate::admin::{AskShard, FiguresRequest, TopClients};
use crate::telemetry::Counters;

/// A shard that never answers by itself. Its questions can be taken from the receiver.
fn slow_shard() -> (AskShard, Receiver<FiguresRequest>) {
    let (sender, questions) = channel();
    (Arc::new(move |question| drop(sender.send(question))), questions)
}

/// A shard that answers at once. Each answer tells how many there were.
fn quick_shard() -> AskShard {
    let steps = std::sync::atomic::AtomicU64::new(0);
    Arc::new(move |question: FiguresRequest| {
        let steps = steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let counters = Counters { steps, ..Counters::default() };
        question.answer(Snapshot { counters, ..Snapshot::default() });
    })
}

fn within<F: Future<Output = ()>>(shards: Vec<AskShard>, test: impl FnOnce(Rc<PageSource>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (_state, state) = watch::channel(BrokerState::of(BrokerStage::Ready));
    LocalSet::new().block_on(&runtime, async {
        let interest = Box::new(|| 5);
        let memory_limit = Box::new(|| Some(1 << 26));
        let sources = AdminSources {
            shards,
            interest,
            bridges: Box::new(Vec::new),
            cluster: Box::new(|| None),
            spans: Box::new(|| None),
            listeners: Box::new(Vec::new),
            memory_limit,
            top: TopClients::default(),
            placement: Arc::new(|_| 0),
            started: SystemTime::now(),
            api: None,
        };
        let page_source = PageSource::open(Arc::new(sources), state);
        test(Rc::new(page_source)).await;
    });
}

fn steps(answer: &FiguresAnswer) -> Option<u64> {
    answer.figures().map(|figures| figures.counters.steps)
}

#[test]
fn each_request_gets_figures_from_after_it_was_made() {
    within(vec![quick_shard()], |page_source| async move {
        for n in 1..=3 {
            let answers = page_source.ask(Duration::from_secs(5)).await;
            assert_eq!(steps(&answers[0]), Some(n));
        }
    });
}

#[test]
fn requests_made_together_share_one_question_and_one_page() {
    within(vec![quick_shard()], |page_source| async move {
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let page_source = Rc::clone(&page_source);
                tokio::task::spawn_local(async move {
                    let answers = page_source.ask(Duration::from_secs(5)).await;
                    let _ = page_source.page(&answers, PageFormat::Text).await;
                    steps(&answers[0])
                })
            })
            .collect();
        for one in asking {
            assert_eq!(one.await.unwrap(), Some(1));
        }
        let text = page_source.last.borrow().as_ref().map(|page| page.text.clone()).unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains("\nringmq_steps_total{shard=\"0\"} 1\n"));
        assert!(text.contains("\nringmq_interest_filters 5\n"));
        assert!(text.contains("\nringmq_memory_limit_bytes 67108864\n"));
    });
}

#[test]
fn a_silent_shard_has_one_question_open_however_often_it_is_asked() {
    let (slow, questions) = slow_shard();
    within(vec![quick_shard(), slow], |page_source| async move {
        for _ in 0..10 {
            let answers = page_source.ask(5 * GAP).await;
            assert!(matches!(answers[1], FiguresAnswer::Silence));
            assert!(steps(&answers[0]).is_some(), "the other shard does answer");
        }
        assert_eq!(page_source.figures.waiting(1), 1, "those who left are forgotten");
        let question = questions.try_recv().unwrap();
        assert!(question.waited() >= 40 * GAP);
        assert!(questions.try_recv().is_err(), "a second question");
        // The shard answers again, so the next request is answered as usual.
        question.answer(Snapshot::default());
        let waiting = Rc::clone(&page_source);
        let asking =
            tokio::task::spawn_local(async move { waiting.ask(Duration::from_secs(5)).await });
        let mut answered = 0;
        while !asking.is_finished() {
            while let Ok(question) = questions.try_recv() {
                question.answer(Snapshot::default());
                answered += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(matches!(asking.await.unwrap()[1], FiguresAnswer::Figures(_)));
        assert!((1..=2).contains(&answered), "{answered} questions");
    });
}

#[test]
fn a_shard_that_has_ended_is_told_apart_from_a_silent_one() {
    within(vec![Arc::new(drop)], |page_source| async move {
        let answers = page_source.ask(Duration::from_secs(5)).await;
        assert!(matches!(answers[0], FiguresAnswer::Ended));
    });
}
