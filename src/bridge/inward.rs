//! Messages that a bridge brings, on their way to the shards: in order by topic, a few at a time,
//! each time after the last ones have been accepted. A shard that cannot take a message now is
//! asked again.
#![allow(clippy::disallowed_methods, reason = "on the bridge's own thread, never on a core's")]

use super::lanes::LaneStates;
use super::mqtt::session::Incoming;
use crate::ids::ClientKey;
use crate::message::MessageRef;
use crate::shard::Shard;
use crate::shard::inquiry::{PublishOutcome, Submission, SubmissionReply};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Submits a function to a shard, which runs it in its turn, and wakes the shard's core. A core
/// that has ended drops the submission.
pub type Submit = Arc<dyn Fn(Submission) + Send + Sync>;

/// Something that a shard is to do between two steps, on behalf of another thread.
pub type Inquiry = Box<dyn FnOnce(&mut Shard) + Send>;
/// Gives an inquiry to a shard, and wakes its core. A core that has ended drops the inquiry.
pub type Tell = Arc<dyn Fn(Inquiry) + Send + Sync>;

/// The shards as bridges see them.
#[derive(Clone)]
pub struct Shards {
    /// How to submit to each shard.
    pub submit: Vec<Submit>,
    /// How to tell each shard something that it takes in even while it rests for an upgrade.
    pub tell: Vec<Tell>,
    /// The index of the shard that publishes messages with this topic name.
    pub home: Arc<dyn Fn(&str) -> usize + Send + Sync>,
}

/// The most messages that a shard is given at once.
const AT_ONCE: usize = 32;
/// The pause before a shard that cannot take a message is asked again.
const REST: Duration = Duration::from_millis(5);

/// An answer of a shard.
enum ShardAnswer {
    Messages {
        shard: usize,
        /// Tickets of settled messages with their outcomes.
        settled: Vec<(u64, Settled)>,
        /// Messages that the shard cannot take now.
        rest: VecDeque<Incoming>,
    },
    /// Whether the bridge's state could be published.
    State(bool),
}

/// The outcome of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// The message is published.
    Accepted,
    /// A rule of this broker forbids the message; holds which.
    Denied(&'static str),
}

#[derive(Default)]
struct ShardLane {
    waiting: VecDeque<Incoming>,
    asked: bool,
    again: Option<Instant>,
}

/// The bridge's state on its way to a shard.
struct StateTelling {
    topic: Arc<str>,
    state: LaneStates,
    lane: u16,
    wanted: Option<bool>,
    asked: Option<bool>,
    again: Option<Instant>,
}

/// What a bridge is known by where it publishes.
#[derive(Clone)]
pub struct BridgeIdentity {
    /// Its key as a publisher.
    pub key: ClientKey,
    /// Its name.
    pub name: Arc<str>,
}

/// Messages on their way to the shards.
pub struct Inward {
    shards: Shards,
    own: BridgeIdentity,
    lanes: Vec<ShardLane>,
    answers: mpsc::UnboundedReceiver<ShardAnswer>,
    answer: mpsc::UnboundedSender<ShardAnswer>,
    under_way: usize,
    telling: StateTelling,
}

impl Inward {
    /// Starts without messages. `topic` is where the bridge's state is published here, and `lane`
    /// is the lane whose part of that state this is.
    pub fn new(
        shards: Shards,
        own: BridgeIdentity,
        topic: &str,
        state: &LaneStates,
        lane: u16,
    ) -> Inward {
        let (answer, answers) = mpsc::unbounded_channel();
        let lanes = shards.submit.iter().map(|_| ShardLane::default()).collect();
        let (wanted, asked, again) = (None, None, None);
        let (topic, state) = (topic.into(), state.clone());
        let telling = StateTelling { topic, state, lane, wanted, asked, again };
        Inward { shards, own, lanes, answers, answer, under_way: 0, telling }
    }

    /// The number of messages that are not settled.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes a message in.
    pub fn push(&mut self, message: Incoming) {
        let at = (self.shards.home)(&message.topic);
        if let Some(lane) = self.lanes.get_mut(at) {
            self.under_way += 1;
            lane.waiting.push_back(message);
        }
    }

    /// Gives messages to shards that have answered for the last ones.
    pub fn hand_out(&mut self, now: Instant) {
        self.tell_state(now);
        for shard in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(shard) else { continue };
            if lane.asked || lane.waiting.is_empty() || lane.again.is_some_and(|at| at > now) {
                continue;
            }
            let some = lane.waiting.len().min(AT_ONCE);
            let mut messages: VecDeque<Incoming> = lane.waiting.drain(..some).collect();
            (lane.asked, lane.again) = (true, None);
            let (own, answer) = (self.own.clone(), self.answer.clone());
            let publish_all = move |core: &mut Shard| -> SubmissionReply {
                let mut settled = Vec::with_capacity(messages.len());
                while let Some(message) = messages.front() {
                    let outcome = match publish(core, message, &own) {
                        PublishOutcome::Accepted { .. } => Settled::Accepted,
                        PublishOutcome::Denied(what) => Settled::Denied(what),
                        PublishOutcome::Busy | PublishOutcome::ShortOfMemory => break,
                    };
                    settled.push((message.ticket, outcome));
                    messages.pop_front();
                }
                let told = ShardAnswer::Messages { shard, settled, rest: messages };
                // The receiver is gone if the bridge has ended.
                Box::new(move || drop(answer.send(told)))
            };
            if let Some(submit) = self.shards.submit.get(shard) {
                submit(Box::new(publish_all));
            }
        }
    }

    /// Takes one answer in; `Ready` when there was one.
    pub fn poll_settled(
        &mut self,
        context: &mut Context<'_>,
        settled: &mut Vec<(u64, Settled)>,
    ) -> Poll<()> {
        match self.answers.poll_recv(context) {
            Poll::Ready(Some(ShardAnswer::State(told))) => {
                let asked = self.telling.asked.take();
                if !told {
                    self.telling.state.forget();
                    self.telling.again = Some(Instant::now() + REST);
                } else if self.telling.wanted == asked {
                    self.telling.wanted = None;
                }
                Poll::Ready(())
            }
            Poll::Ready(Some(ShardAnswer::Messages { shard, settled: some, rest })) => {
                self.under_way -= some.len();
                settled.extend(some);
                if let Some(lane) = self.lanes.get_mut(shard) {
                    lane.asked = false;
                    for message in rest.into_iter().rev() {
                        lane.waiting.push_front(message);
                        lane.again = Some(Instant::now() + REST);
                    }
                }
                Poll::Ready(())
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// When a shard is to be asked again.
    pub fn deadline(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter_map(|lane| lane.again);
        lanes.chain(self.telling.again).min()
    }

    /// Publishes the bridge's state at this broker, below `$SYS/` and retained.
    pub fn publish_state(&mut self, up: bool) {
        self.telling.state.set(self.telling.lane, up);
        self.telling.wanted = Some(up);
        self.tell_state(Instant::now());
    }

    fn tell_state(&mut self, now: Instant) {
        let telling = &mut self.telling;
        let Some(wanted) = telling.wanted.filter(|_| telling.asked.is_none()) else { return };
        if telling.again.is_some_and(|at| at > now) {
            return;
        }
        telling.again = None;
        let (topic, answer) = (Arc::clone(&telling.topic), self.answer.clone());
        let Some(submit) = self.shards.submit.first() else { return };
        let asked = telling.state.tell(|up| {
            let payload: &[u8] = if up { b"1" } else { b"0" };
            submit(Box::new(move |shard| {
                let told = ShardAnswer::State(shard.publish_state(&topic, payload));
                Box::new(move || drop(answer.send(told)))
            }));
        });
        if asked { telling.asked = Some(wanted) } else { telling.wanted = None }
    }
}

fn publish(shard: &mut Shard, message: &Incoming, own: &BridgeIdentity) -> PublishOutcome {
    let view = MessageRef {
        topic: &message.topic,
        properties: &message.properties,
        payload: &message.payload,
        qos: message.qos,
        retain: message.retain,
        expires: None,
        publisher: None,
    };
    shard.publish_as_bridge(&view, message.expiry, (own.key, &own.name))
}
