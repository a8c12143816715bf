//! How much work this shard may send to another shard ahead of what that shard has done.
//!
//! Whatever a client sends is handled after the mail that was there before it ([`super::mail`]), so
//! every client waits for all the work that is in a mailbox. A message for which a mailbox has no
//! room waits with its publisher instead, where publishers that send little go first
//! ([`super::park`]). Two bounds say how much room there is:
//!
//! - *Messages on their way*: as many as cost the receiver about as much as a step may, by what the
//!   messages before them have cost on average ([`MailProgress`]).
//! - *Costly messages*, which visit many filters or reach many subscribers: an average says nothing
//!   about them. The receiver reports what each has cost (`Control::Cost`), by topic, and by the
//!   filters that matched it ([`CostSubject`]), because a fleet has too many topics to know each of
//!   them. From then on the sender reserves a part of a step's work for each message whose subject
//!   is known to be costly or is not known, until its cost is reported. Publishers that wait for
//!   such a part stand in queues that have turns ([`super::park`]), and a publisher that comes
//!   meanwhile stands behind them. Messages whose subject is known to be cheap go as before, in
//!   bursts of bounded length. When some cheap subjects become costly at about the same time,
//!   subscriptions have changed, and what was known of all subjects is forgotten. When no message
//!   was costly for [`MEMORY`], subjects are not looked at any more. Topics that *coarse* filters
//!   match are looked at even then. The interest table has coarse filters for a receiver with
//!   wildcards in very many places, where hundreds of messages could be on their way before the
//!   cost of the first one is reported.

use crate::ids::ShardId;
use crate::limits::Budget;
use crate::mesh::interest::Interest;
use crate::mesh::mail::CostReport;
use crate::mesh::mailbox::MailProgress;
use crate::message::Reserve;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::TopicHash;
use hashbrown::HashMap;

/// Milliseconds after the last costly message for which subjects are looked at.
const MEMORY: u64 = 600_000;
/// Subjects whose cost is remembered; when there would be more, all are forgotten.
const SUBJECTS: usize = 16_384;
/// Messages of one subject that may be on their way when the subject has just turned out to be
/// cheap. If it becomes costly, so many are sent before the sender knows. Twice as many each time
/// that all of a burst were needed, up to [`LONGEST_BURST`].
const BURST: u32 = 16;
const LONGEST_BURST: u32 = 1 << 16;
/// When so many cheap subjects become costly within [`SURPRISED`] milliseconds, all subjects are
/// unknown again.
const SURPRISES: u32 = 4;
const SURPRISED: u64 = 1000;
/// So many messages may be on their way, whatever they cost.
const LEAST: u64 = 4;
/// The average cost is counted in this fraction of a unit.
const FINE: u64 = 16;

/// What decides how much a message costs a shard: its topic, and the filters there that match.
pub trait CostSubject {
    /// The hash of the topic name.
    fn topic(&self) -> u64;
    /// The filters of that shard that match the topic, as one number ([`Interest::matched`]).
    fn matched(&self) -> Option<u64>;
    /// Whether the topic may be costly although nothing was costly so far
    /// ([`Interest::is_coarse`]).
    fn is_coarse(&self) -> bool;
}

/// A topic name, and the filters of all shards that may match it.
#[derive(Clone, Copy)]
pub struct TopicSubject<'a> {
    /// The hashes of the topic name.
    pub hash: &'a TopicHash<'a>,
    /// Which filters the shards have.
    pub interest: &'a Interest,
}

impl<'a> TopicSubject<'a> {
    /// The topic as a subject of messages to that shard.
    #[inline]
    pub fn at(self, shard: ShardId) -> TopicAt<'a> {
        TopicAt { topic: self, shard }
    }
}

/// A topic as a subject of messages to one shard.
#[derive(Clone, Copy)]
pub struct TopicAt<'a> {
    topic: TopicSubject<'a>,
    shard: ShardId,
}

impl CostSubject for TopicAt<'_> {
    #[inline]
    fn topic(&self) -> u64 {
        self.topic.hash.exact()
    }

    fn matched(&self) -> Option<u64> {
        self.topic.interest.matched(self.topic.hash, self.shard)
    }

    #[inline]
    fn is_coarse(&self) -> bool {
        self.topic.interest.is_coarse(self.topic.hash, self.shard)
    }
}

impl CostSubject for CostReport {
    fn topic(&self) -> u64 {
        self.topic
    }

    fn matched(&self) -> Option<u64> {
        self.matched
    }

    /// False: the report says what the message has cost.
    fn is_coarse(&self) -> bool {
        false
    }
}

/// Why a message has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The mailbox is full, or holds as much work as it may.
    Room,
    /// The reserve is used up, or publishers queue for it, and what the message costs is not known.
    Unknown,
    /// The reserve is used up, or publishers queue for it, and messages of this subject cost much.
    Costly,
}

/// The work that this shard has sent to one other shard and that is not done there yet.
#[derive(Debug)]
pub struct Ahead {
    /// Work that may be on its way, in the units of [`crate::limits::cost`].
    most: u64,
    /// The receiver reports a message that costs so much or more.
    costly: u32,
    /// Messages sent so far for which nothing was reserved.
    sent: u64,
    /// The value up to which `sent` may grow.
    until: u64,
    seen: MailProgress,
    /// What a message costs on average, in parts ([`FINE`]) of a unit.
    average: u64,
    /// Until when all subjects are looked at; `None` while only coarse ones are.
    watches: Option<Instant>,
    /// What is known of subjects, by the hash of the topic name and by the number of the filters
    /// that matched.
    known: HashMap<u64, KnownCost, foldhash::fast::FixedState>,
    /// How many cheap subjects have become costly, and since when they are counted.
    surprises: (u32, Instant),
    /// What a message is assumed to cost whose subject is not known.
    unknown: u32,
    /// What is reserved for messages on their way.
    reserved: u64,
    /// Publishers queue for a part of the reserve: a publisher that comes now waits behind them.
    pub(super) queued: bool,
}

/// What is known of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct KnownCost {
    /// What a message of the subject is taken to cost.
    cost: u32,
    /// Messages sent since the receiver was seen to have reached the last one before them, and the
    /// most that these may be.
    burst: u32,
    most: u32,
    /// `Ahead::sent` after the last of these messages.
    last: u64,
}

/// The cost from which on the receiver reports a message, in the units of [`crate::limits::cost`].
pub fn costly(budget: &Budget) -> u32 {
    (budget.step / 20).max(1)
}

impl Ahead {
    /// Towards a shard that `senders` shards send to.
    pub fn new(budget: &Budget, senders: usize) -> Self {
        Ahead {
            most: u64::from(budget.ahead) / senders.max(1) as u64,
            costly: costly(budget),
            sent: 0,
            until: u64::MAX,
            seen: MailProgress::default(),
            average: 0,
            watches: None,
            known: HashMap::default(),
            surprises: (0, Instant(0)),
            unknown: costly(budget) / 2,
            reserved: 0,
            queued: false,
        }
    }

    /// Notes how far the receiver has come, as of `now`.
    #[inline]
    pub fn see(&mut self, progress: MailProgress, now: Instant) {
        let messages = progress.messages.wrapping_sub(self.seen.messages); // 0: none
        let work = progress.work.wrapping_sub(self.seen.work) * FINE;
        if let Some(cost) = work.checked_div(messages) {
            self.average = (self.average * 3 + cost) / 4;
            self.seen = progress;
            let most = self.most * FINE / self.average.max(1);
            self.until = self.seen.messages + most.max(LEAST);
        }
        if self.watches.is_some_and(|until| until <= now) {
            self.watches = None;
            self.known = HashMap::default();
        }
    }

    /// True when the receiver has done all that it was sent, and nothing is remembered that ends
    /// with time. Until something is sent, there is nothing new to see.
    pub fn is_done(&self) -> bool {
        self.watches.is_none() && self.reserved == 0 && self.seen.messages == self.sent
    }

    /// True when no message may be sent, whatever its subject is.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.sent >= self.until && !Mutant::MailAheadIgnored.is_on()
    }

    /// Why a message may not be sent now; `None` when it may. `subject` is `None` for a message for
    /// which the receiver looks up no subscriptions: the topic says nothing about its cost.
    /// `comes`: the publisher has not waited in a queue for its turn, and gets no part of the
    /// reserve before the publishers that have.
    #[inline]
    pub fn refuses(&self, subject: Option<impl CostSubject>, comes: bool) -> Option<Shortage> {
        if self.is_full() {
            return Some(Shortage::Room);
        }
        let subject = subject?;
        if !self.looks_at(&subject) {
            return None;
        }
        self.refuses_watched(&subject, comes)
    }

    /// Whether the subject of a message matters now.
    #[inline]
    fn looks_at(&self, subject: &impl CostSubject) -> bool {
        self.watches.is_some() || subject.is_coarse()
    }

    fn refuses_watched(&self, subject: &impl CostSubject, comes: bool) -> Option<Shortage> {
        let barges = comes && self.queued;
        let lacking = match self.find(subject).map(|(_, known)| known) {
            Some(known) if known.cost < self.costly => {
                let late = known.burst >= known.most && self.seen.messages < known.last;
                late.then_some(Shortage::Room)
            }
            Some(known) => (barges || self.lacks(known.cost)).then_some(Shortage::Costly),
            None => (barges || self.lacks(self.unknown)).then_some(Shortage::Unknown),
        };
        lacking.filter(|_| !Mutant::CostlyMailUnbounded.is_on())
    }

    /// What is known of a subject, and the number under which it is known.
    fn find(&self, subject: &impl CostSubject) -> Option<(u64, KnownCost)> {
        let known = |number: u64| self.known.get(&number).map(|&known| (number, known));
        known(subject.topic()).or_else(|| known(subject.matched()?))
    }

    /// Whether a message whose cost is reported could be sent now, as far as that is known without
    /// its subject.
    pub fn takes_costly(&self) -> bool {
        !self.is_full() && !self.lacks(self.costly / 2)
    }

    /// True when nothing can be reserved for a message of that cost. When nothing is reserved, one
    /// message may be sent whatever it costs: otherwise the costliest could never be sent.
    fn lacks(&self, cost: u32) -> bool {
        self.reserved > 0 && self.reserved + Reserve::of(cost).units() > self.most
    }

    /// A message is sent. Returns what is reserved for it.
    #[inline]
    pub fn send(&mut self, subject: Option<impl CostSubject>) -> Reserve {
        let reserve = match subject.filter(|subject| self.looks_at(subject)) {
            None => Reserve::NONE,
            Some(subject) => self.reserve(&subject),
        };
        if reserve == Reserve::NONE {
            debug_assert!(self.sent < self.until, "message {} of {}", self.sent, self.until);
            self.sent += 1;
        } else {
            let together = self.reserved + reserve.units();
            debug_assert!(self.reserved == 0 || together <= self.most, "{together} reserved");
            self.reserved = together;
        }
        reserve
    }

    /// What is to be reserved for a message; counts it among the messages of its subject.
    fn reserve(&mut self, subject: &impl CostSubject) -> Reserve {
        let found = self.find(subject).map(|(number, _)| number);
        let Some(known) = found.and_then(|number| self.known.get_mut(&number)) else {
            return Reserve::of(self.unknown);
        };
        if known.cost >= self.costly {
            return Reserve::of(known.cost);
        }
        if self.seen.messages >= known.last {
            let needed = known.burst >= known.most && known.most < LONGEST_BURST;
            known.most <<= u32::from(needed);
            known.burst = 0;
        }
        known.burst += 1;
        known.last = self.sent + 1;
        Reserve::NONE
    }

    /// A message is sent, however much the receiver has ahead of it. Nothing is reserved.
    pub fn send_anyway(&mut self) -> Reserve {
        self.sent += 1;
        Reserve::NONE
    }

    /// The receiver has reported what a message has cost, for which `reserve` was reserved.
    pub fn reported(
        &mut self,
        subject: &impl CostSubject,
        cost: u32,
        reserve: Reserve,
        now: Instant,
    ) {
        if !Mutant::CostlyMailKept.is_on() {
            self.reserved = self.reserved.saturating_sub(reserve.units());
        }
        // All subjects are looked at from the first costly message on, and from the first report of
        // a message for which something was reserved: a coarse subject that is cheap is known as
        // such then.
        if cost >= self.costly || self.watches.is_none() && reserve != Reserve::NONE {
            self.watches = Some(now.plus_millis(MEMORY));
        }
        if self.watches.is_none() {
            return;
        }
        let known = self.find(subject).map(|(_, known)| known);
        if known.is_some_and(|known| known.cost < self.costly) && cost >= self.costly {
            if self.surprises.1.plus_millis(SURPRISED) <= now {
                self.surprises = (0, now);
            }
            self.surprises.0 += 1;
        }
        if self.surprises.0 >= SURPRISES || self.known.len() + 2 > SUBJECTS {
            self.known.clear();
            self.surprises.0 = 0;
        }
        // A subject that was costly may be so again: its remembered cost falls by an eighth per
        // report.
        let topic = subject.topic();
        let matched = subject.matched().filter(|&matched| matched != topic);
        for number in matched.into_iter().chain([topic]) {
            let known = self.known.get(&number).copied();
            let lasting = known.map_or(0, |known| known.cost - known.cost.div_ceil(8));
            let last = known.map_or(0, |known| known.last);
            let known = KnownCost { cost: cost.max(lasting), burst: 0, most: BURST, last };
            self.known.insert(number, known);
        }
        let unknown = self.unknown - self.unknown / 16;
        self.unknown = unknown.max(cost).max(self.costly / 2);
    }

    /// What is reserved for messages on their way.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
