//! How much work another shard may have ahead of it in mail from here.
//!
//! Whatever a client sends is handled after the mail that was there before it ([`super::mail`]), so
//! everybody waits for all the work that stands in a mailbox. What has no room there waits with its
//! publisher instead, where those who send little go first ([`super::park`]). Two things bound it:
//!
//! - *Messages on their way*: as many as cost the receiver about as much as a step may, by what the
//!   messages before them have cost on average ([`Progress`]).
//! - *Costly messages*, which visit many filters or reach many subscribers: an average says nothing
//!   about them. The receiver reports what each cost (`Control::Cost`), by topic, and by the
//!   filters that matched it ([`Subject`]): a fleet's topics are too many to be known one by one.
//!   From then on the sender reserves a part of a step's work for each message whose subject is
//!   known to be costly or is not known, until its cost is reported. Publishers that wait for such
//!   a part do so in lines that have turns ([`super::park`]), and who comes meanwhile stands behind
//!   them. Messages whose subject is known to be cheap go as before, a few of each at a time. When
//!   some cheap subjects become costly at about the same time, subscriptions have changed: what was
//!   known of all is forgotten. With no costly message for [`MEMORY`], subjects are not looked at
//!   any more, unless the receiver has wildcards in so many places that its filters stand in the
//!   interest table as coarse ones: before the first message to them has been reported, hundreds
//!   could be on their way.

use crate::ids::ShardId;
use crate::limits::Budget;
use crate::mesh::interest::Interest;
use crate::mesh::mail::CostReport;
use crate::mesh::mailbox::Progress;
use crate::message::Reserve;
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::topic::TopicHash;
use hashbrown::HashMap;

/// Milliseconds that costly messages are reckoned with after the last one.
const MEMORY: u64 = 600_000;
/// Subjects whose cost is remembered; with more, all are forgotten.
const SUBJECTS: usize = 16_384;
/// Messages of one subject that may be on their way when it has just turned out to be cheap: if it
/// is not any more, so many are sent before that is known. Twice as many each time that was needed.
const BURST: u32 = 16;
const LONGEST_BURST: u32 = 1 << 16;
/// So many that become costly within [`SURPRISED`] milliseconds make all subjects unknown.
const SURPRISES: u32 = 4;
const SURPRISED: u64 = 1000;
/// So many messages may be on their way in any case.
const LEAST: u64 = 4;
/// An average is kept in this fraction of a unit.
const FINE: u64 = 16;

/// What is known of what a message costs a shard.
pub trait Subject {
    /// The hash of its topic's name.
    fn topic(&self) -> u64;
    /// The filters there that match it, as one number ([`Interest::matched`]).
    fn matched(&self) -> Option<u64>;
    /// Whether it may be costly although nothing was costly so far ([`Interest::is_coarse`]).
    fn is_coarse(&self) -> bool;
}

/// A topic, and who is interested in it.
#[derive(Clone, Copy)]
pub struct Topic<'a> {
    /// Its name.
    pub hash: &'a TopicHash<'a>,
    /// Which filters the shards have.
    pub interest: &'a Interest,
}

impl<'a> Topic<'a> {
    /// As that shard has subscribers for it.
    #[inline]
    pub fn at(self, shard: ShardId) -> TopicAt<'a> {
        TopicAt { topic: self, shard }
    }
}

/// A topic, as one shard has subscribers for it.
#[derive(Clone, Copy)]
pub struct TopicAt<'a> {
    topic: Topic<'a>,
    shard: ShardId,
}

impl Subject for TopicAt<'_> {
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

impl Subject for CostReport {
    fn topic(&self) -> u64 {
        self.topic
    }

    fn matched(&self) -> Option<u64> {
        self.matched
    }

    /// Its cost is known.
    fn is_coarse(&self) -> bool {
        false
    }
}

/// Why a message has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// The mailbox is full, or holds as much work as it may.
    Room,
    /// As much is reserved as may be, and what the message costs is not known.
    Unknown,
    /// As much is reserved as may be, and such messages cost much.
    Costly,
}

/// What one other shard has ahead of it, as far as it came from here.
#[derive(Debug)]
pub struct Ahead {
    /// Work that may be on its way, in the units of [`crate::limits::cost`].
    most: u64,
    /// A message that costs so much is reported.
    costly: u32,
    /// Messages sent for which nothing was reserved, ever.
    sent: u64,
    /// `sent` may come to this.
    until: u64,
    seen: Progress,
    /// What a message costs on average, in parts ([`FINE`]) of a unit.
    average: u64,
    /// When subjects are not looked at any more; `None`: they are not.
    watches: Option<Instant>,
    /// By the hash of a topic's name, and by the number of the filters that matched.
    known: HashMap<u64, Known, foldhash::fast::FixedState>,
    /// Subjects that were cheap and became costly, since then.
    surprises: (u32, Instant),
    /// What a message is taken to cost whose subject is not known.
    unknown: u32,
    /// What is reserved for messages on their way.
    reserved: u64,
    /// Publishers wait for a part of the reserve, in lines: who comes now waits behind them.
    pub(super) queued: bool,
}

/// What is known of a subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    /// What a message has cost.
    cost: u32,
    /// Messages since the receiver was known to have come to the one before them, and how many
    /// these may be.
    burst: u32,
    most: u32,
    /// `Ahead::sent` after the last of them.
    last: u64,
}

/// A message is reported when it costs so much.
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
            seen: Progress::default(),
            average: 0,
            watches: None,
            known: HashMap::default(),
            surprises: (0, Instant(0)),
            unknown: costly(budget) / 2,
            reserved: 0,
            queued: false,
        }
    }

    /// The receiver has come so far, as of `now`.
    #[inline]
    pub fn see(&mut self, progress: Progress, now: Instant) {
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

    /// True when the receiver has come to all that it was sent, and nothing is remembered that ends
    /// with time: until something is sent there is nothing new to see.
    pub fn is_done(&self) -> bool {
        self.watches.is_none() && self.reserved == 0 && self.seen.messages == self.sent
    }

    /// True when nothing more may be sent, whatever it is about.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.sent >= self.until && !Mutant::MailAheadIgnored.is_on()
    }

    /// Whether a message may be sent now. For a message that no subscription there is looked for,
    /// what it is about does not matter: `None`. `comes`: its publisher has not waited in line for
    /// its turn, and gets no part of the reserve before those who do.
    #[inline]
    pub fn refuses(&self, subject: Option<impl Subject>, comes: bool) -> Option<Shortage> {
        if self.is_full() {
            return Some(Shortage::Room);
        }
        let subject = subject?;
        if !self.looks_at(&subject) {
            return None;
        }
        self.refuses_watched(&subject, comes)
    }

    /// Whether it matters what a message is about.
    #[inline]
    fn looks_at(&self, subject: &impl Subject) -> bool {
        self.watches.is_some() || subject.is_coarse()
    }

    fn refuses_watched(&self, subject: &impl Subject, comes: bool) -> Option<Shortage> {
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

    /// What is known of a subject, and under which number.
    fn find(&self, subject: &impl Subject) -> Option<(u64, Known)> {
        let known = |number: u64| self.known.get(&number).map(|&known| (number, known));
        known(subject.topic()).or_else(|| known(subject.matched()?))
    }

    /// Whether some message whose cost is reported may be sent now, as far as is known without
    /// its subject.
    pub fn takes_costly(&self) -> bool {
        !self.is_full() && !self.lacks(self.costly / 2)
    }

    /// True when nothing can be reserved for a message that costs so much.
    fn lacks(&self, cost: u32) -> bool {
        self.reserved > 0 && self.reserved + Reserve::of(cost).units() > self.most
    }

    /// A message is sent. Returns what is reserved for it.
    #[inline]
    pub fn send(&mut self, subject: Option<impl Subject>) -> Reserve {
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

    /// What is to be reserved for a message; takes down that one more of its subject is sent.
    fn reserve(&mut self, subject: &impl Subject) -> Reserve {
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

    /// A message, for which so much was reserved, has cost the receiver `cost`.
    pub fn reported(&mut self, subject: &impl Subject, cost: u32, reserve: Reserve, now: Instant) {
        if !Mutant::CostlyMailKept.is_on() {
            self.reserved = self.reserved.saturating_sub(reserve.units());
        }
        // What may be costly is watched from the first such message on, and known if it is cheap.
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
        // What has been costly may be so again: it is trusted by and by.
        let topic = subject.topic();
        let matched = subject.matched().filter(|&matched| matched != topic);
        for number in matched.into_iter().chain([topic]) {
            let known = self.known.get(&number).copied();
            let lasting = known.map_or(0, |known| known.cost - known.cost.div_ceil(8));
            let last = known.map_or(0, |known| known.last);
            let known = Known { cost: cost.max(lasting), burst: 0, most: BURST, last };
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
