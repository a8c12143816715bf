//! How much work another shard may have ahead of it in mail from here.
//!
//! Whatever a client sends is handled after the mail that was there before it ([`super::mail`]), so
//! everybody waits for all the work that stands in a mailbox. What has no room there waits with its
//! publisher instead, where those who send little go first ([`super::park`]). Two things bound it:
//!
//! - *Messages on their way*: as many as cost the receiver about as much as a step may, by what the
//!   messages before them have cost on average ([`Progress`]).
//! - *Costly messages*, which visit many filters or reach many subscribers: an average says nothing
//!   about them. The receiver reports what each cost (`Control::Cost`), by topic. From then on
//!   messages of a topic that is known to be costly, or not known, go in a mail of their own whose
//!   cost is reported back, and only so many at a time that their costs together stay within a
//!   step's work. Topics that turn out to be cheap go as before. When a cheap topic becomes costly,
//!   subscriptions have changed: what was known of all is forgotten. With no costly message for
//!   [`MEMORY`], topics are not looked at any more.

use crate::limits::Budget;
use crate::mesh::mailbox::Progress;
use crate::mutant::Mutant;
use crate::time::Instant;
use hashbrown::HashMap;

/// Milliseconds that costly messages are reckoned with after the last one.
const MEMORY: u64 = 600_000;
/// Topics whose cost is remembered; with more, all are forgotten.
const TOPICS: usize = 16_384;
/// So many messages may be on their way in any case.
const LEAST: u64 = 4;
/// An average is kept in this fraction of a unit.
const FINE: u64 = 16;

/// Why a message has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The mailbox is full, or holds as much work as it may.
    Room,
    /// The messages on their way whose costs are reported cost as much as they may.
    Costly,
}

/// What one other shard has ahead of it, as far as it came from here.
#[derive(Debug)]
pub struct Ahead {
    /// Work that may be on its way, in the units of [`crate::limits::cost`].
    most: u64,
    /// A message that costs so much is reported.
    costly: u32,
    /// Messages sent, ever.
    sent: u64,
    /// `sent` may come to this.
    until: u64,
    seen: Progress,
    /// What a message costs on average, in parts ([`FINE`]) of a unit.
    average: u64,
    /// When topics are not looked at any more; `None`: they are not.
    watches: Option<Instant>,
    /// What a message of the topic with this hash has cost.
    topics: HashMap<u64, u32, foldhash::fast::FixedState>,
    /// What a message is taken to cost whose topic is not known.
    unknown: u32,
    /// Charges of the messages on their way whose costs are reported.
    reserved: u64,
}

/// A message is reported when it costs so much.
pub fn costly(budget: &Budget) -> u32 {
    (budget.step / 20).max(1)
}

impl Ahead {
    /// Towards a shard that `senders` shards send to.
    pub fn new(budget: &Budget, senders: usize) -> Self {
        Ahead {
            most: u64::from(budget.step) / senders.max(1) as u64,
            costly: costly(budget),
            sent: 0,
            until: u64::MAX,
            seen: Progress::default(),
            average: 0,
            watches: None,
            topics: HashMap::default(),
            unknown: 0,
            reserved: 0,
        }
    }

    /// The receiver has come so far, as of `now`.
    #[inline]
    pub fn see(&mut self, progress: Progress, now: Instant) {
        let messages = progress.messages.wrapping_sub(self.seen.messages);
        if messages > 0 {
            let cost = progress.work.wrapping_sub(self.seen.work) * FINE / messages;
            self.average = (self.average * 3 + cost) / 4;
            self.seen = progress;
            let most = self.most * FINE / self.average.max(1);
            self.until = self.seen.messages + most.max(LEAST);
        }
        if self.watches.is_some_and(|until| until <= now) {
            self.watches = None;
            self.topics = HashMap::default();
        }
    }

    /// Whether a message may be sent now; `topic` is the hash of its name. For a message that no
    /// subscription there matches, the topic does not matter: `None`.
    #[inline]
    pub fn refuses(&self, topic: Option<u64>) -> Option<Shortage> {
        if self.sent >= self.until && !Mutant::MailAheadIgnored.is_on() {
            return Some(Shortage::Room);
        }
        if self.watches.is_none() {
            return None;
        }
        let charge = u64::from(topic.map_or(0, |topic| self.charge(topic)));
        let room = charge == 0 || self.reserved == 0 || self.reserved + charge <= self.most;
        (!room && !Mutant::CostlyMailUnbounded.is_on()).then_some(Shortage::Costly)
    }

    /// Whether a message whose cost is reported may be sent now, as far as is known without its
    /// topic.
    pub fn takes_costly(&self) -> bool {
        self.refuses(None).is_none()
            && (self.reserved == 0 || self.reserved + u64::from(self.costly) <= self.most)
    }

    /// A message is sent. Returns what is reserved for its cost, which is to be reported; 0: it is
    /// not.
    #[inline]
    pub fn send(&mut self, topic: Option<u64>) -> u32 {
        self.sent += 1;
        if self.watches.is_none() {
            return 0;
        }
        let charge = topic.map_or(0, |topic| self.charge(topic));
        self.reserved += u64::from(charge);
        charge
    }

    /// What is to be reserved for a message; 0 when it is known to be cheap.
    fn charge(&self, topic: u64) -> u32 {
        match self.topics.get(&topic) {
            Some(&cost) if cost < self.costly => 0,
            Some(&cost) => cost,
            None => self.unknown.max(1),
        }
    }

    /// A message of a topic has cost the receiver `cost`; `reserved` was returned when it was sent.
    pub fn reported(&mut self, topic: u64, cost: u32, reserved: u32, now: Instant) {
        if !Mutant::CostlyMailKept.is_on() {
            self.reserved = self.reserved.saturating_sub(u64::from(reserved));
        }
        if cost >= self.costly {
            self.watches = Some(now.plus_millis(MEMORY));
        }
        let known = self.topics.get(&topic).copied();
        let grown = known.is_some_and(|known| known < self.costly) && cost >= self.costly;
        if grown || self.topics.len() >= TOPICS {
            self.topics.clear();
        }
        if known.is_none() {
            self.unknown = if reserved == 0 { cost } else { (self.unknown * 3 + cost) / 4 };
        }
        if self.watches.is_some() {
            self.topics.insert(topic, cost);
        }
    }

    /// What is reserved for messages on their way.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
