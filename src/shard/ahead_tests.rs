//! Tests of how much work a shard is sent ahead.

use super::{Ahead, BURST, CostSubject, LEAST, MEMORY, SURPRISES, Shortage};
use crate::limits::Budget;
use crate::mesh::mailbox::MailProgress;
use crate::message::Reserve;
use crate::time::Instant;

const NOW: Instant = Instant(1000);
const STEP: u64 = Budget::BROKER.step as u64;
const COSTLY: u32 = Budget::BROKER.step / 20;

/// A topic by its hash, of which nothing else is known.
impl CostSubject for u64 {
    fn topic(&self) -> u64 {
        *self
    }

    fn matched(&self) -> Option<u64> {
        None
    }

    fn is_coarse(&self) -> bool {
        false
    }
}

/// A topic, and the number of the filters that match it.
impl CostSubject for (u64, u64) {
    fn topic(&self) -> u64 {
        self.0
    }

    fn matched(&self) -> Option<u64> {
        Some(self.1)
    }

    fn is_coarse(&self) -> bool {
        false
    }
}

/// A topic that a coarse filter matches.
#[derive(Clone, Copy)]
struct Coarse(u64);

impl CostSubject for Coarse {
    fn topic(&self) -> u64 {
        self.0
    }

    fn matched(&self) -> Option<u64> {
        None
    }

    fn is_coarse(&self) -> bool {
        true
    }
}

fn ahead() -> Ahead {
    Ahead::new(&Budget::BROKER, 1)
}

/// Sends until a message is refused; returns how many were sent, and why no more.
fn fill(ahead: &mut Ahead, topic: impl CostSubject + Copy) -> (u64, Shortage) {
    for sent in 0..1_000_000 {
        if let Some(lacks) = ahead.refuses(Some(topic), true) {
            return (sent, lacks);
        }
        ahead.send(Some(topic));
    }
    panic!("nothing is refused");
}

#[test]
fn as_many_messages_are_on_their_way_as_cost_what_a_step_may() {
    let mut ahead = ahead();
    (0..60).for_each(|_| assert_eq!(ahead.send(Some(1u64)), Reserve::NONE));
    for round in 1..40 {
        ahead.see(MailProgress { messages: round, work: round * 500 }, NOW);
    }
    let on_their_way = 60 - 39;
    let (sent, lacks) = fill(&mut ahead, 1);
    assert_eq!(lacks, Shortage::Room);
    assert!((35..=45).contains(&(on_their_way + sent)), "{sent}"); // 20,000 / 500
    // A few messages may be on their way, whatever they cost.
    for round in 40..60 {
        ahead.see(MailProgress { messages: round, work: round * 1_000_000 }, NOW);
    }
    ahead.see(MailProgress { messages: 60 + sent, work: 1 << 40 }, NOW);
    assert_eq!(fill(&mut ahead, 1), (LEAST, Shortage::Room));
}

#[test]
fn what_costly_messages_cost_together_stays_within_a_step_s_work() {
    let mut ahead = ahead();
    ahead.reported(&1, 6000, Reserve::NONE, NOW); // 8,192 are reserved
    assert_eq!(fill(&mut ahead, 1), (2, Shortage::Costly));
    assert_eq!(ahead.reserved(), 16_384);
    ahead.reported(&1, 6000, Reserve::of(6000), NOW);
    assert_eq!(fill(&mut ahead, 1), (1, Shortage::Costly));
    // One message at a time is sent, whatever it costs.
    (0..2).for_each(|_| ahead.reported(&1, 1 << 20, Reserve::of(6000), NOW));
    assert_eq!(ahead.reserved(), 0);
    assert_eq!(fill(&mut ahead, 1), (1, Shortage::Costly));
    // For this message the receiver looks up no subscriptions, which is what costs.
    assert_eq!(ahead.refuses(None::<u64>, true), None);
}

/// Otherwise hundreds of messages are on their way before the cost of the first is known.
#[test]
fn of_what_coarse_filters_match_few_are_sent_before_one_is_known() {
    let mut ahead = ahead();
    let (sent, lacks) = fill(&mut ahead, Coarse(7));
    assert_eq!((sent, lacks), (39, Shortage::Unknown)); // 20,000 / 512
    assert_eq!(ahead.refuses(Some(8), true), None, "others go as before");
    // The report says that the subject is cheap, and it is known as such from then on.
    ahead.reported(&7, 5, Reserve::of(500), NOW);
    let (sent, lacks) = fill(&mut ahead, Coarse(7));
    assert_eq!((sent, lacks), (u64::from(BURST), Shortage::Room));
    // After a time without costly messages, the subject is unknown again.
    ahead.see(MailProgress { messages: 16, work: 80 }, Instant(1001 + MEMORY));
    assert_eq!(fill(&mut ahead, Coarse(7)).1, Shortage::Unknown);
}

#[test]
fn topics_that_are_not_known_are_sent_a_few_at_a_time_until_they_are() {
    let mut ahead = ahead();
    assert_eq!(ahead.send(Some(7)), Reserve::NONE); // nothing was costly yet
    ahead.reported(&1, 10 * COSTLY, Reserve::NONE, NOW);
    let (sent, lacks) = fill(&mut ahead, 7);
    assert_eq!((sent, lacks), (1, Shortage::Unknown));
    // The message was cheap: unknown subjects are trusted a little more.
    ahead.reported(&7, 5, Reserve::of(10 * COSTLY), NOW);
    for topic in 100..200 {
        let reserve = ahead.send(Some(topic));
        ahead.reported(&topic, 5, reserve, NOW);
    }
    for topic in 200..400 {
        if ahead.refuses(Some(topic), true).is_none() {
            ahead.send(Some(topic));
        }
    }
    assert!(ahead.reserved() <= STEP && ahead.reserved() > STEP / 2, "{}", ahead.reserved());
}

#[test]
fn a_cheap_topic_is_sent_in_bursts_that_grow_while_it_stays_cheap() {
    let mut ahead = ahead();
    ahead.reported(&1, COSTLY, Reserve::NONE, NOW);
    ahead.reported(&7, 5, Reserve::NONE, NOW);
    let mut progress = MailProgress::default();
    for round in 0..4 {
        let (sent, lacks) = fill(&mut ahead, 7);
        assert_eq!((sent, lacks), (u64::from(BURST) << round, Shortage::Room));
        progress.messages += sent;
        progress.work += 2 * sent;
        ahead.see(progress, NOW);
    }
    ahead.reported(&7, COSTLY, Reserve::NONE, NOW);
    assert_eq!(fill(&mut ahead, 7).1, Shortage::Costly);
}

#[test]
fn when_cheap_topics_become_costly_nothing_is_known_of_any() {
    let mut ahead = ahead();
    ahead.reported(&1, COSTLY, Reserve::NONE, NOW);
    (10..20).for_each(|topic| ahead.reported(&topic, 5, Reserve::NONE, NOW));
    for topic in 10..10 + u64::from(SURPRISES) {
        assert_eq!(ahead.send(Some(19)), Reserve::NONE);
        ahead.reported(&topic, COSTLY, Reserve::NONE, NOW);
    }
    assert_ne!(ahead.send(Some(19)), Reserve::NONE);
    ahead.see(MailProgress::default(), NOW.plus_millis(MEMORY));
    assert_eq!(ahead.send(Some(1u64)), Reserve::NONE);
}

#[test]
fn who_was_costly_is_trusted_by_and_by() {
    let mut ahead = ahead();
    ahead.reported(&1, 10 * COSTLY, Reserve::NONE, NOW);
    let mut reported = 0;
    loop {
        let reserve = ahead.send(Some(1));
        if reserve == Reserve::NONE {
            break;
        }
        ahead.reported(&1, 0, reserve, NOW);
        reported += 1;
    }
    assert!((10..30).contains(&reported), "{reported}");
}

/// A fleet has too many topics for each to be known by itself.
#[test]
fn a_topic_that_is_not_known_costs_what_the_filters_that_match_it_have_cost() {
    let (few, all) = (7, 8);
    let mut ahead = ahead();
    ahead.reported(&(1, all), COSTLY, Reserve::NONE, NOW);
    ahead.reported(&(2, few), 5, Reserve::NONE, NOW);
    for topic in 100..100 + u64::from(BURST) {
        assert_eq!(ahead.refuses(Some((topic, few)), true), None);
        assert_eq!(ahead.send(Some((topic, few))), Reserve::NONE);
    }
    assert_eq!(ahead.refuses(Some((9, few)), true), Some(Shortage::Room), "a burst of them all");
    assert_eq!(ahead.send(Some((9, all))), Reserve::of(COSTLY));
    // What is known of the topic itself comes first.
    assert_eq!(ahead.refuses(Some((2, all)), true), None);
    ahead.queued = true;
    assert_eq!(ahead.refuses(Some((10, all)), true), Some(Shortage::Costly));
    assert_eq!(ahead.refuses(Some((10, 11)), true), Some(Shortage::Unknown));
}
