//! Decides which publisher waits for which subscriber: a publisher waits only for its main reader,
//! and only while that reader reads.
//!
//! - The *main reader* of a publisher is the one subscriber, or share group, that was the only
//!   receiver of nearly all of the publisher's recent messages. Each message that went to this
//!   reader alone counts one point for it, and each other message takes two points away. A client
//!   that reads a publisher's messages beside others therefore never makes that publisher wait,
//!   however slowly the client reads and however many such readers there are.
//! - A publisher waits while its main reader has more unsent or unacknowledged data than the
//!   high-water mark, or a part of that for longer than a few milliseconds ([`Backlog`]). The
//!   messages of a flood then wait in the publishers' kernels, and not here. The publisher
//!   continues when the reader has caught up, or has not done so for a second.
//! - A wait in which the reader reads nothing and acknowledges nothing is in vain. The time for
//!   such waits is a budget of [`BUDGET`], which is refilled at 3 % of time. A subscriber has one
//!   budget, which it keeps when it reconnects. A publisher has one as well, for all of its readers
//!   together. When either is used up, the publisher continues, and the reader's queue and its
//!   policy decide.
//!
//! The home shard of the publisher decides. That shard knows for each message the shards that the
//! message went to, and whether one of its own clients was the only receiver. When the only
//! receiver is on another shard, that shard reports when the receiver has too much output (`Park`)
//! and when the receiver has caught up (`Unpark`). Both shards keep a [`WatchedPublisher`] per
//! publisher, which is forgotten when nothing has happened for [`MEMORY`].

use super::Shard;
use super::connection::Holds;
use crate::ids::{ClientKey, Publisher, ShardId, ShardSet};
use crate::limits::cost;
use crate::mesh::mail::{Control, Over};
use crate::mutant::Mutant;
use crate::session::Backlog;
use crate::time::Instant;
use hashbrown::{HashMap, hash_map};
use std::collections::VecDeque;

/// Milliseconds that can be waited in vain at once.
pub(super) const BUDGET: u64 = 300;
/// Milliseconds that pass while one millisecond of the budget comes back.
const REFILL: u64 = 33;
/// With less than this many milliseconds of a budget left, no publisher waits.
const LEAST: u64 = 20;
/// Milliseconds between two looks at a subscriber that publishers wait for.
const LOOK: u64 = 20;
/// How many such looks a step has.
const LOOKS: usize = 1024;
/// How many publishers go on, and how many are forgotten, per step.
const SHARE: usize = 1024;
/// For how many milliseconds after its last occasion a publisher that has waited is remembered.
const MEMORY: u64 = 10_000;
const _: () = assert!(MEMORY >= BUDGET * REFILL);

/// A reader with at least this many points is the main reader.
const MAIN: u8 = 32;
/// The most points that a reader can have.
const TOP: u8 = 64;

/// A receiver of messages, as a publisher's home shard or a delivering shard tells it from others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReaderId(u64);

impl ReaderId {
    /// A session or share group of this shard, by its place and whether it is a group.
    pub(super) fn here(target: u32, group: bool) -> Self {
        ReaderId(u64::from(target) | u64::from(group) << 32)
    }

    /// A share group whose home is elsewhere, by its filter's hash.
    pub(super) fn group(hash: u64) -> Self {
        ReaderId(hash | 1 << 63)
    }

    /// The only receiver on that shard, whichever it is.
    fn on(shard: ShardId) -> Self {
        ReaderId(u64::from(shard.0) | 1 << 40)
    }

    /// The same, for a publisher whose home is `home`. On its home shard the readers are known one
    /// by one, and the publisher's next message says which of them this is.
    fn seen_from(home: ShardId, shard: ShardId) -> Self {
        if home == shard { NOT_KNOWN } else { ReaderId::on(shard) }
    }
}

const NOT_KNOWN: ReaderId = ReaderId(u64::MAX);

/// Which receivers a message had on this shard.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Receivers {
    /// None.
    #[default]
    Nobody,
    /// This one alone.
    Sole(ReaderId),
    /// To several.
    Several,
}

/// The time that is left for waiting in vain, kept as the moment at which the budget is full again.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct WaitBudget {
    full_at: Instant,
}

impl WaitBudget {
    /// Milliseconds left.
    fn left(self, now: Instant) -> u64 {
        BUDGET.saturating_sub(self.full_at.millis_since(now).div_ceil(REFILL))
    }

    fn spend(&mut self, now: Instant, millis: u64) {
        if !Mutant::VainWaitsFree.is_on() {
            self.full_at = self.full_at.max(now).plus_millis(millis * REFILL);
        }
    }

    fn is_full(self, now: Instant) -> bool {
        self.full_at <= now
    }
}

/// A publisher that has met a crowded subscriber lately.
struct WatchedPublisher {
    main: ReaderId,
    points: u8,
    /// The session of this shard that the publisher waits for, or is to wait for.
    waits: Option<u32>,
    /// The shard on whose behalf the session got the message: this one, or the home of the group
    /// that picked the session.
    at: ShardId,
    /// For a publisher of this shard: the shards on which its only receiver is crowded.
    claims: ShardSet,
    /// When the publisher's last wait began, and the budget that is left for waiting in vain.
    since: Instant,
    budget: WaitBudget,
    /// When a message of the publisher last met a crowded main reader.
    met: Instant,
}

impl WatchedPublisher {
    /// Counts a message that went to `reader` alone, or to several receivers (`None`). True when
    /// `reader` is the main reader.
    fn judge(&mut self, reader: Option<ReaderId>) -> bool {
        if self.main == NOT_KNOWN {
            self.main = reader.unwrap_or(NOT_KNOWN);
        }
        if reader == Some(self.main) {
            self.points = (self.points + 1).min(TOP);
        } else {
            self.points = self.points.saturating_sub(2);
            if let Some(reader) = reader.filter(|_| self.points == 0) {
                self.main = reader;
            }
        }
        reader == Some(self.main) && self.points >= MAIN || Mutant::MainReaderIgnored.is_on()
    }
}

/// A session that publishers wait for.
struct WaitedSession {
    publishers: ByClient<ShardId>,
    /// When the session last read or acknowledged something.
    progressed: Instant,
    /// Distinguishes this wait from earlier waits for the same session.
    number: u64,
}

/// Publishers that are to go on: the session they waited for, the reason, and who they are.
type ReleasedPublishers = (u32, Over, hash_map::IntoIter<ClientKey, ShardId>);

/// A table by client. The key is a keyed hash already, so it needs no hashing of its own.
type ByClient<V> = HashMap<ClientKey, V, foldhash::fast::FixedState>;

/// All publishers that wait or have waited lately, and the sessions they wait for.
#[derive(Default)]
pub struct Pace {
    watched: ByClient<WatchedPublisher>,
    /// The keys of `watched`, by the time at which they are next looked at to be forgotten.
    aging: VecDeque<(Instant, ClientKey)>,
    waited: HashMap<u32, WaitedSession, foldhash::fast::FixedState>,
    /// The keys of `waited` with their numbers, by the time of the next look.
    looks: VecDeque<(Instant, u32, u64)>,
    number: u64,
    leaving: VecDeque<ReleasedPublishers>,
    /// The budgets of subscribers that were waited for in vain, until they are full again.
    budgets: ByClient<WaitBudget>,
    spent: VecDeque<(Instant, ClientKey)>,
}

impl Pace {
    /// When the next session is to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.looks.front().map(|&(at, ..)| at)
    }

    /// Zero when nothing has to be looked at, now or later.
    #[inline]
    pub fn len(&self) -> usize {
        self.looks.len() | self.leaving.len() | self.aging.len() | self.spent.len()
    }

    /// True when some publishers are still to be told to go on.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// How many sessions are waited for, and how many publishers wait.
    pub fn counts(&self) -> [usize; 2] {
        let waits = |w: &&WatchedPublisher| w.waits.is_some() || !w.claims.is_empty();
        [self.waited.len() + self.leaving.len(), self.watched.values().filter(waits).count()]
    }

    /// How many publishers and subscribers are remembered.
    pub fn remembered(&self) -> usize {
        self.watched.len() + self.budgets.len()
    }

    fn watch(
        &mut self,
        publisher: ClientKey,
        main: ReaderId,
        now: Instant,
    ) -> &mut WatchedPublisher {
        self.watched.entry(publisher).or_insert_with(|| {
            self.aging.push_back((now.plus_millis(MEMORY), publisher));
            WatchedPublisher {
                main,
                points: MAIN - 1,
                waits: None,
                at: ShardId(0),
                claims: ShardSet::EMPTY,
                since: now,
                budget: WaitBudget::default(),
                met: now,
            }
        })
    }

    /// Makes `publisher` wait for the session.
    fn wait(&mut self, publisher: Publisher, index: u32, now: Instant) {
        let (number, looks) = (&mut self.number, &mut self.looks);
        let waited = self.waited.entry(index).or_insert_with(|| {
            *number += 1;
            looks.push_back((now.plus_millis(LOOK), index, *number));
            WaitedSession { publishers: ByClient::default(), progressed: now, number: *number }
        });
        waited.publishers.insert(publisher.client, publisher.shard);
    }

    /// Notes that the session has read or acknowledged something.
    #[inline]
    pub fn progressed(&mut self, index: u32, now: Instant) {
        if !self.waited.is_empty()
            && let Some(waited) = self.waited.get_mut(&index)
        {
            waited.progressed = now;
        }
    }

    /// Forgets publishers with which nothing has happened for long, and budgets that are full
    /// again.
    fn forget(&mut self, now: Instant) {
        for _ in 0..SHARE {
            let Some(&(at, publisher)) = self.aging.front() else { break };
            if at > now {
                break;
            }
            self.aging.pop_front();
            let over = |w: &WatchedPublisher| {
                let quiet = w.waits.is_none() && w.claims.is_empty();
                quiet && w.met.plus_millis(MEMORY) <= now && w.budget.is_full(now)
            };
            if self.watched.get(&publisher).is_some_and(|w| !over(w)) {
                self.aging.push_back((now.plus_millis(MEMORY), publisher));
            } else {
                self.watched.remove(&publisher);
            }
        }
        for _ in 0..SHARE {
            let Some(&(at, client)) = self.spent.front() else { break };
            if at > now {
                break;
            }
            self.spent.pop_front();
            if self.budgets.get(&client).is_some_and(|budget| !budget.is_full(now)) {
                self.spent.push_back((now.plus_millis(MEMORY), client));
            } else {
                self.budgets.remove(&client);
            }
        }
        if self.watched.is_empty() && self.watched.capacity() > 64 {
            (self.watched, self.aging) = Default::default();
        }
    }
}

impl Shard {
    /// Called after a message of a client of this shard has gone to the shards in `interested`; its
    /// receivers on this shard are in [`super::encode::DeliveryScratch`]. Makes the publisher wait,
    /// if the only receiver is its main reader and is crowded.
    #[inline]
    pub(super) fn pace(&mut self, publisher: Option<Publisher>, interested: ShardSet) {
        if !self.delivery.current.crowded.is_empty() || !self.parked.pace.watched.is_empty() {
            self.pace_watched(publisher, interested);
        }
    }

    fn pace_watched(&mut self, publisher: Option<Publisher>, interested: ShardSet) {
        let crowded = self.delivery.current.crowded.first().copied();
        self.delivery.current.crowded.clear();
        let Some(publisher) = publisher.filter(|publisher| publisher.shard == self.topology.id)
        else {
            return;
        };
        let reader = if interested == ShardSet::only(self.topology.id) {
            match self.delivery.current.receivers {
                Receivers::Nobody => return,
                Receivers::Sole(reader) => Some(reader),
                Receivers::Several => None,
            }
        } else {
            match interested.0.count_ones() {
                0 => return,
                1 => interested.iter().next().map(ReaderId::on),
                _ => None,
            }
        };
        let now = self.now;
        let any = crowded.filter(|_| Mutant::MainReaderIgnored.is_on());
        let met = crowded.and(reader.or(any.map(|index| ReaderId::here(index, false))));
        let patient = crowded.is_some_and(|index| self.has_budget(index));
        let pace = &mut self.parked.pace;
        let watched = match (met, pace.watched.get_mut(&publisher.client)) {
            (Some(reader), None) => pace.watch(publisher.client, reader, now),
            (None, None) => return,
            (_, Some(watched)) => watched,
        };
        let main = watched.judge(reader);
        let claimed = interested.0 & watched.claims.0 != 0;
        if !main || crowded.is_none() && !claimed {
            return;
        }
        watched.met = now;
        let spent = watched.budget.left(now) < LEAST && !Mutant::WaitsNeverEnd.is_on();
        if spent || !patient && !claimed {
            return;
        }
        watched.since = now;
        if let Some(index) = crowded {
            (watched.waits, watched.at) = (Some(index), self.topology.id);
            pace.wait(publisher, index, now);
        }
        let Some(socket) = self.sessions.socket_of(publisher.client) else { return };
        if self.hold(socket, Holds::CROWDED) {
            self.counters.parks_publisher += 1;
        }
    }

    /// Whether the session has enough of its budget left to be waited for.
    fn has_budget(&self, index: u32) -> bool {
        let budgets = &self.parked.pace.budgets;
        let session = self.sessions.get(index).filter(|_| !budgets.is_empty());
        let budget = session.and_then(|session| budgets.get(&session.key));
        budget.is_none_or(|b| b.left(self.now) >= LEAST || Mutant::WaitsNeverEnd.is_on())
    }

    /// Called after a message was delivered here on behalf of the shard `at`: a message of another
    /// shard's client, or one for which a group's home shard picked a session here. Its receivers
    /// are in [`super::encode::DeliveryScratch`]. Tells the publisher's home shard when the only
    /// receiver is crowded.
    pub(super) fn regard(&mut self, publisher: Option<Publisher>, at: ShardId) {
        let crowded = self.delivery.current.crowded.first().copied();
        self.delivery.current.crowded.clear();
        let (now, home) = (self.now, self.topology.id);
        let Some(publisher) = publisher else { return };
        if crowded.is_none() && self.parked.pace.watched.is_empty() {
            return;
        }
        let reader = match self.delivery.current.receivers {
            Receivers::Nobody => return,
            Receivers::Sole(reader) => Some(reader),
            Receivers::Several => None,
        };
        let crowded = crowded.filter(|&index| self.has_budget(index));
        let pace = &mut self.parked.pace;
        // The publisher's home shard knows its far readers only by their shards.
        let far = publisher.shard != home;
        let main = if far { reader } else { Some(ReaderId::seen_from(home, at)) };
        let watched = match (pace.watched.contains_key(&publisher.client), crowded, main) {
            (true, ..) => pace.watched.get_mut(&publisher.client),
            (false, Some(_), Some(main)) if reader.is_some() => {
                Some(pace.watch(publisher.client, main, now))
            }
            _ => None,
        };
        let Some(watched) = watched else { return };
        let main = if far { watched.judge(reader) } else { reader.is_some() };
        match (main, crowded, watched.waits) {
            (true, Some(index), None) => {
                (watched.waits, watched.at, watched.met) = (Some(index), at, now);
                pace.wait(publisher, index, now);
                if far {
                    self.mail.outbox.tell(publisher.shard, Control::Park(publisher.client, at));
                } else {
                    self.claimed(publisher.client, at);
                }
            }
            (false, _, Some(index)) if far => {
                watched.waits = None;
                let at = watched.at;
                if let Some(waited) = pace.waited.get_mut(&index) {
                    waited.publishers.remove(&publisher.client);
                }
                let unpark = Control::Unpark(publisher.client, at, Over::CaughtUp);
                self.mail.outbox.tell(publisher.shard, unpark);
            }
            _ => {}
        }
    }

    /// Notes that on the shard `at` the only receiver of a publisher of this shard is crowded.
    pub(super) fn claimed(&mut self, publisher: ClientKey, at: ShardId) {
        let (now, main) = (self.now, ReaderId::seen_from(self.topology.id, at));
        let watched = self.parked.pace.watch(publisher, main, now);
        watched.claims.insert(at);
        watched.met = now;
    }

    /// Notes that this receiver has caught up, or is not to be waited for any longer.
    pub(super) fn unclaimed(&mut self, publisher: ClientKey, at: ShardId, over: Over) {
        if let Some(watched) = self.parked.pace.watched.get_mut(&publisher) {
            watched.claims.remove(at);
        }
        self.let_go(publisher, over);
    }

    /// Lets the publishers that wait for a session of this shard go on at the end of the step,
    /// because the session has caught up, is gone, or is not to be waited for any longer.
    pub(super) fn unpark_waiters(&mut self, index: u32, over: Over) {
        let pace = &mut self.parked.pace;
        if pace.waited.is_empty() {
            return;
        }
        let Some(waited) = pace.waited.remove(&index) else { return };
        let waiting = self.now.millis_since(waited.progressed);
        pace.leaving.push_back((index, over, waited.publishers.into_iter()));
        if over == Over::InVain
            && !Mutant::WaitsNeverEnd.is_on()
            && let Some(session) = self.sessions.get(index)
        {
            let (now, client) = (self.now, session.key);
            let pace = &mut self.parked.pace;
            let spent = &mut pace.spent;
            let budget = pace.budgets.entry(client).or_insert_with(|| {
                spent.push_back((now.plus_millis(MEMORY), client));
                WaitBudget::default()
            });
            budget.spend(now, waiting.min(BUDGET));
        }
    }

    /// Lets a publisher of this shard go on, unless another reason holds its connection.
    fn let_go(&mut self, publisher: ClientKey, over: Over) {
        let Some(socket) = self.sessions.socket_of(publisher) else { return };
        let connection = self.connections.get(socket.0);
        if !connection.is_some_and(|connection| connection.holds.has(Holds::CROWDED)) {
            return;
        }
        if let Some(watched) = self.parked.pace.watched.get_mut(&publisher)
            && over == Over::InVain
        {
            let held = self.now.millis_since(watched.since);
            watched.budget.spend(self.now, held.min(BUDGET));
        }
        self.free(socket, Holds::CROWDED);
    }

    /// Lets a share of the publishers go on whose waits are over.
    pub(super) fn let_leaving_go(&mut self) {
        for _ in 0..SHARE {
            let Some((index, over, publishers)) = self.parked.pace.leaving.front_mut() else {
                return;
            };
            let (index, over) = (*index, *over);
            let Some((client, shard)) = publishers.next() else {
                self.parked.pace.leaving.pop_front();
                continue;
            };
            self.meter.charge(cost::VISIT);
            let Some(watched) = self.parked.pace.watched.get_mut(&client) else { continue };
            if watched.waits != Some(index) {
                continue;
            }
            watched.waits = None;
            let at = watched.at;
            if shard == self.topology.id {
                watched.claims.remove(at);
                self.let_go(client, over);
            } else if !Mutant::ParkedNotWoken.is_on() {
                self.mail.outbox.tell(shard, Control::Unpark(client, at, over));
            }
        }
    }

    /// Looks at the sessions that publishers wait for, and ends waits that are in vain or are over.
    pub(super) fn look_at_waited(&mut self) {
        let now = self.now;
        for _ in 0..LOOKS {
            let Some(&(at, index, number)) = self.parked.pace.looks.front() else { break };
            if at > now {
                break;
            }
            self.parked.pace.looks.pop_front();
            let waited = self.parked.pace.waited.get(&index);
            let Some(waited) = waited.filter(|waited| waited.number == number) else { continue };
            let session = self.sessions.get(index);
            let budget = session.and_then(|session| self.parked.pace.budgets.get(&session.key));
            let patience = budget.map_or(BUDGET, |budget| budget.left(now).max(LEAST));
            let vain = now.millis_since(waited.progressed) >= patience;
            if (vain || !self.is_crowded(index)) && !Mutant::WaitsNeverEnd.is_on() {
                self.unpark_waiters(index, if vain { Over::InVain } else { Over::CaughtUp });
            } else {
                self.parked.pace.looks.push_back((now.plus_millis(LOOK), index, number));
            }
        }
        self.parked.pace.forget(now);
    }

    /// Whether the session's queue or output is still a reason to wait for it.
    fn is_crowded(&self, index: u32) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let connection = session.socket().and_then(|socket| self.connections.get(socket.0));
        let output = connection.and_then(|connection| connection.output.as_ref());
        let queue = session.flow.as_ref().map(|flow| flow.backlog);
        let waited_for =
            |backlog: Option<Backlog>| backlog.is_some_and(|b| b.is_waited_for(self.now));
        waited_for(output.map(|output| output.backlog)) || waited_for(queue)
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
