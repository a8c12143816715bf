//! Links: subscribers that are no clients, such as bridges.
//!
//! A link has filters, and each message that is accepted on this shard and matches one is copied
//! into its queue, once for each filter: with the properties and the topic that the publisher gave
//! it, mountpoint included, and with who published it. The owner of the link takes the queue out
//! between steps, a batch at a time. The queue is bounded in bytes; what happens when it is full is
//! the link's policy, and is counted. Retained messages are not replayed to a link, and an expired
//! message is the owner's to drop.
//!
//! Links stand beside the subscriptions and not among them: a message is taken on the shard that
//! accepts it, where its publisher lives, so that it crosses to no other shard for a link, and
//! whoever wants all messages has a link on every shard. The messages of one publisher to one topic
//! are in the queue in the order in which they were accepted. Whether publishers wait for their
//! readers ([`super::pace`]) does not depend on links. While there is none, a publish asks only
//! that. Publishers of what a link has no room for wait where that is its policy
//! ([`super::park`]).

use super::Shard;
use super::unanswered::{Patience, Unanswered};
use crate::ids::{ClientKey, ShardId};
use crate::limits::cost;
use crate::link_record::{LinkBatch, LinkRecord, Waiter};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::slab::Slab;
use crate::time::Instant;
use crate::topic::{self, FilterId, Index, Seeds, Subscriber, TopicHash};
use std::collections::VecDeque;

/// Which link of its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkId(pub(super) u32);

/// What a link takes, and how much of it waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPlan {
    /// Topic filters; a record says which of them it is for.
    pub filters: Vec<Box<str>>,
    /// What records say for each filter; empty: its position.
    pub numbers: Vec<u16>,
    /// Whether a message that several filters match is taken once, for the first of them, and not
    /// for each.
    pub once: bool,
    /// Which of the messages, where several links share them; `None`: all. Needs `once`.
    pub part: Option<LinkPart>,
    /// Bytes of records that wait. One record may be larger when it is alone, and with
    /// [`WhenFull::Pause`] the copies of the last message may go beyond the bound.
    pub bytes: usize,
    /// Which message is dropped when there is no room, or who waits.
    pub when_full: WhenFull,
    /// Whether records name their publishers.
    pub names: bool,
    /// The publisher whose messages it does not take: its owner.
    pub own: Option<ClientKey>,
    /// Milliseconds since 1970 at the zero of the shard's clock.
    pub zero: u64,
    /// When publishers get their PUBACK or PUBREC.
    pub answering: Answering,
}

/// A part of the messages of several links that share them: by topic, so that those of one topic
/// are in one link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPart {
    /// Which of the links this is.
    pub number: u16,
    /// How many share.
    pub of: u16,
    /// Of each filter: whether the first link takes all that it matches.
    pub first: Vec<bool>,
}

impl LinkPart {
    /// Which of so many links takes a topic. What waits on disk belongs to it after a restart, too:
    /// this never changes.
    pub fn of_topic(topic: &str, of: u16) -> u16 {
        (crc32c::crc32c(topic.as_bytes()) % u32::from(of.max(1))) as u16
    }

    fn takes(&self, position: u16, topic: &str) -> bool {
        let to_first = self.first.get(usize::from(position)).is_some_and(|&first| first);
        let number = if to_first { 0 } else { LinkPart::of_topic(topic, self.of) };
        number == self.number || Mutant::LinkPartsMixed.is_on()
    }
}

impl LinkPlan {
    /// Whether it takes a message that the filter at that position matches. `again`: so does an
    /// earlier one.
    fn takes(&self, position: u16, again: bool, topic: &str) -> bool {
        let first = !again || !self.once || Mutant::LinkTakesAgain.is_on();
        first && self.part.as_ref().is_none_or(|part| part.takes(position, topic))
    }

    /// Whether a link can be opened by it.
    fn is_valid(&self) -> bool {
        let plain =
            |filter: &str| topic::parse_share(filter).is_none() && topic::valid_filter(filter);
        self.filters.len() <= usize::from(u16::MAX)
            && self.filters.iter().all(|filter| plain(filter))
    }
}

/// When the publisher of a message of QoS 1 or 2 that a link takes is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answering {
    /// When it is accepted.
    Accepted,
    /// When the owner of the link says what became of it ([`Shard::confirm`]), or, with MQTT 5,
    /// after so many milliseconds.
    Delivered(Option<u64>),
}

/// Which message a full link loses, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Those that have waited longest, a batch at a time.
    DropOldest,
    /// The one that comes.
    DropNew,
    /// None of a publisher: it waits. The last eighth of the bound is for those that have nobody
    /// who could wait, such as wills; one of these that finds no room is dropped.
    Pause,
}

/// What has become of a link's messages; each ends in one of the last two, or waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkCounts {
    /// Messages that matched, once for each filter that takes them.
    pub matched: u64,
    /// Messages that its owner has taken.
    pub taken: u64,
    /// Messages that were dropped because the queue was full.
    pub dropped: u64,
}

/// One link's messages.
struct Link {
    plan: LinkPlan,
    queue: VecDeque<LinkBatch>,
    bytes: usize,
    counts: LinkCounts,
    /// [`Link::holds_up`] said so when it was last looked at.
    full: bool,
    /// The bytes that there were then.
    weighed: usize,
    /// Publishers wait for some of what it took, or have done so before it was changed.
    owes: bool,
    /// What publishers do not wait for after a while.
    patience: Patience,
    /// Publishers that waited for it before it took something else: they look again.
    look_again: usize,
}

impl Link {
    fn new(plan: LinkPlan) -> Link {
        let (queue, counts) = (VecDeque::new(), LinkCounts::default());
        let patience = Patience::default();
        let (full, weighed, look_again) = (false, 0, 0);
        let owes = plan.answering != Answering::Accepted;
        Link { plan, queue, bytes: 0, counts, full, weighed, owes, patience, look_again }
    }

    /// Whether publishers wait for it.
    fn holds_up(&self) -> bool {
        let bound = self.plan.bytes - self.plan.bytes / 8;
        self.plan.when_full == WhenFull::Pause && self.bytes >= bound
    }

    /// `asked`: its publisher would have waited for room. `lost` is told who waits for what is
    /// dropped.
    fn push(&mut self, record: &LinkRecord<'_>, asked: bool, lost: &mut impl FnMut(Waiter)) {
        let size = record.size();
        self.counts.matched += 1;
        let asked = asked || Mutant::LinkWillUnbounded.is_on();
        let asked = asked && self.plan.when_full == WhenFull::Pause;
        while !self.has_room(size) && self.plan.when_full == WhenFull::DropOldest {
            let Some(oldest) = self.pop() else { break };
            let count = u64::from(oldest.count());
            self.counts.dropped += if Mutant::LinkLossUncounted.is_on() { 0 } else { count };
            if self.owes {
                oldest.waiters().into_iter().for_each(&mut *lost);
            }
        }
        if !self.has_room(size) && !asked && !Mutant::LinkUnbounded.is_on() {
            self.counts.dropped += u64::from(!Mutant::LinkLossUncounted.is_on());
            record.waiter.into_iter().for_each(lost);
            return;
        }
        self.bytes += size;
        // Batches are an eighth of the bound at most: so little is lost at once.
        let eighth = self.plan.bytes / 8;
        match self.queue.back_mut() {
            Some(last) if last.has_room(size) && last.bytes().len() + size <= eighth => {
                last.push(record);
            }
            _ => {
                let mut batch = LinkBatch::default();
                batch.push(record);
                self.queue.push_back(batch);
            }
        }
    }

    fn has_room(&self, size: usize) -> bool {
        self.queue.is_empty() || self.bytes + size <= self.plan.bytes
    }

    fn pop(&mut self) -> Option<LinkBatch> {
        let batch = if Mutant::LinkReorders.is_on() {
            self.queue.pop_back()?
        } else {
            self.queue.pop_front()?
        };
        self.bytes -= batch.bytes().len();
        Some(batch)
    }
}

/// One filter of one link.
struct LinkFilter {
    link: LinkId,
    /// Its position in the link's plan.
    position: u16,
    /// What records say for it.
    number: u16,
    filter: FilterId,
}

/// All links of a shard.
pub(super) struct Links {
    /// The filters, apart from those of clients.
    index: Index,
    all: Slab<Link>,
    filters: Slab<LinkFilter>,
    found: Vec<u32>,
    /// Links that publishers wait for.
    full: usize,
    /// Bytes of all that waits.
    held: usize,
    /// Whether what is routed at the moment has a publisher who would have waited.
    pub(super) asked: bool,
    /// Publications that are answered when the other end of a bridge has them.
    pub(super) unanswered: Unanswered,
}

impl Links {
    pub(super) fn new(seeds: &Seeds) -> Links {
        Links {
            index: Index::new(seeds),
            all: Slab::default(),
            filters: Slab::default(),
            found: Vec::new(),
            full: 0,
            held: 0,
            asked: true,
            unanswered: Unanswered::default(),
        }
    }

    /// Whether publishers may have to wait for one.
    #[inline]
    pub(super) fn any_full(&self) -> bool {
        self.full != 0
    }

    /// Whether publishers wait for this one.
    fn is_full(&self, link: LinkId) -> bool {
        self.all.get(link.0).is_some_and(|link| link.full)
    }

    /// Whether one of those that wait for this link could go on.
    pub(super) fn may_let_one_on(&self, link: LinkId) -> bool {
        self.all.get(link.0).is_none_or(|link| !link.full || link.look_again > 0)
    }

    /// The same, for one who does.
    pub(super) fn lets_one_on(&mut self, link: LinkId) -> bool {
        let Some(found) = self.all.get_mut(link.0) else { return true };
        let again = found.look_again > 0;
        found.look_again = found.look_again.saturating_sub(1);
        !found.full || again
    }

    /// Finds the filters that match, by link, and in the order of its filters; how many places were
    /// looked at.
    fn find(&mut self, hash: &TopicHash<'_>) -> usize {
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let visits = self.index.matching(hash, &mut |_, list: &[Subscriber]| {
            found.extend(list.iter().map(|subscriber| subscriber.target));
        });
        found.sort_unstable_by_key(|&at| {
            self.filters.get(at).map(|entry| (entry.link.0, entry.position))
        });
        self.found = found;
        visits
    }

    /// The first full link that wants a message of that publisher, and how many places were looked
    /// at.
    pub(super) fn first_full(
        &mut self,
        (hash, topic): (&TopicHash<'_>, &str),
        publisher: Option<ClientKey>,
    ) -> (Option<LinkId>, usize) {
        let visits = self.find(hash);
        let found = std::mem::take(&mut self.found);
        let mut last = None;
        let full = found.iter().find_map(|&at| {
            let &LinkFilter { link, position, .. } = self.filters.get(at)?;
            let again = last.replace(link) == Some(link);
            let waits = |found: &&Link| found.full && !Mutant::LinkPauseSkipped.is_on();
            let found = self.all.get(link.0).filter(waits)?;
            let wanted = found.plan.takes(position, again, topic);
            (wanted && (publisher.is_none() || found.plan.own != publisher)).then_some(link)
        });
        let visits = visits + found.len();
        self.found = found;
        let any = || (0..self.all.bound()).map(LinkId).find(|&link| self.is_full(link));
        let full = if Mutant::LinkOthersWait.is_on() { full.or_else(any) } else { full };
        (full, visits)
    }

    /// The number of the next copy that a publisher is not to wait for any longer.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<u64> {
        (0..self.all.bound()).find_map(|at| self.all.get_mut(at)?.patience.next(now))
    }

    /// What the publisher of a message waits by that is about to be pushed into that link.
    fn waiter(&mut self, link: LinkId, shard: ShardId, now: Instant) -> Option<Waiter> {
        let found = self.all.get_mut(link.0)?;
        let Answering::Delivered(patience) = found.plan.answering else { return None };
        let number = self.unanswered.number(link);
        if let Some(millis) = patience {
            found.patience.push(now.plus_millis(millis), number, &self.unanswered);
        }
        Some(Waiter { shard, number })
    }

    /// Bytes of all that waits.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Looks at a link whose bytes have changed: what all hold, and whether publishers wait for it.
    fn weigh(&mut self, link: LinkId) {
        let Some(link) = self.all.get_mut(link.0) else { return };
        self.held = self.held + link.bytes - std::mem::replace(&mut link.weighed, link.bytes);
        let full = link.holds_up();
        if full != std::mem::replace(&mut link.full, full) {
            self.full = if full { self.full + 1 } else { self.full - 1 };
        }
    }

    /// Whether there is any.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.len() == 0
    }

    /// How many filters of links match.
    pub(super) fn matching(&self, hash: &TopicHash<'_>) -> usize {
        let mut matching = 0;
        self.index.matching(hash, &mut |_, list: &[Subscriber]| matching += list.len());
        matching
    }

    /// Bytes of all that waits, counted anew. For checks.
    pub(super) fn bytes(&self) -> usize {
        (0..self.all.bound()).filter_map(|at| self.all.get(at)).map(|link| link.bytes).sum()
    }

    /// Puts the filters of a link's plan into the index.
    fn add_filters(&mut self, link: LinkId) {
        let Some(found) = self.all.get(link.0) else { return };
        for (at, text) in found.plan.filters.iter().enumerate() {
            let filter = self.index.intern_always(text);
            let position = at as u16;
            let number = found.plan.numbers.get(at).copied().unwrap_or(position);
            let target = self.filters.insert(LinkFilter { link, position, number, filter });
            self.index.add(filter, Subscriber { target, options: 0, subscription_id: 0 });
        }
    }

    /// Takes all filters of a link out of it.
    fn remove_filters(&mut self, link: LinkId) {
        for at in 0..self.filters.bound() {
            if self.filters.get(at).is_some_and(|entry| entry.link == link) {
                self.remove_filter(at);
            }
        }
    }

    /// Takes a filter out of the index.
    fn remove_filter(&mut self, target: u32) {
        let Some(entry) = self.filters.remove(target) else { return };
        let list = self.index.subscribers(entry.filter);
        if let Some(position) = list.iter().position(|subscriber| subscriber.target == target) {
            self.index.remove(entry.filter, position as u32);
        }
    }
}

impl Shard {
    /// A link from now on. `None` when one of its filters is no topic filter, or that of a share
    /// group. Not for the middle of a step.
    pub fn open_link(&mut self, plan: LinkPlan) -> Option<LinkId> {
        if !plan.is_valid() {
            return None;
        }
        let links = &mut self.subscriptions.links;
        if plan.answering != Answering::Accepted {
            links.unanswered.link_opened(plan.zero);
        }
        let link = LinkId(links.all.insert(Link::new(plan)));
        links.add_filters(link);
        self.meter.charge(cost::VISIT * links.filters.len() as u32);
        Some(link)
    }

    /// A link takes what that plan says from now on. What it holds stays, before all that comes,
    /// and who waits for what it took before goes on waiting. False, and nothing has changed, when
    /// one of the filters is none. Not for the middle of a step.
    pub fn change_link(&mut self, link: LinkId, plan: LinkPlan) -> bool {
        let links = &mut self.subscriptions.links;
        let Some(found) = links.all.get_mut(link.0).filter(|_| plan.is_valid()) else {
            return false;
        };
        let (was, is) = (found.plan.answering, plan.answering);
        let owed = found.owes && !Mutant::LinkSilencedUntold.is_on();
        found.owes = owed || is != Answering::Accepted;
        found.plan = plan;
        if Mutant::LinkChangeLosesQueue.is_on() {
            (found.queue, found.bytes) = (VecDeque::new(), 0);
        }
        let zero = found.plan.zero;
        match (was, is) {
            (Answering::Accepted, Answering::Delivered(_)) => links.unanswered.link_opened(zero),
            (Answering::Delivered(_), Answering::Accepted) => links.unanswered.link_silenced(),
            _ => {}
        }
        if Mutant::LinkChangeAnswersLost.is_on() && was != Answering::Accepted {
            links.unanswered.lose_link(link);
        }
        if !Mutant::LinkChangeKeepsFilters.is_on() {
            links.remove_filters(link);
        }
        links.add_filters(link);
        links.weigh(link);
        let (lines, line) = (&self.parked.links, link.0 as usize);
        let waiters = if line < lines.lines() { lines.bound(line) } else { 0 };
        let waiters = if Mutant::LinkChangeWaitersForgotten.is_on() { 0 } else { waiters };
        let links = &mut self.subscriptions.links;
        if let Some(found) = links.all.get_mut(link.0) {
            found.look_again = waiters;
        }
        self.meter.charge(cost::VISIT * links.filters.len() as u32);
        true
    }

    /// A link takes nothing more. Not for the middle of a step.
    pub fn mute_link(&mut self, link: LinkId) {
        let plan = self.subscriptions.links.all.get(link.0).map(|found| found.plan.clone());
        if let Some(plan) = plan {
            self.change_link(link, LinkPlan { filters: Vec::new(), ..plan });
        }
    }

    /// Ends a link: it takes nothing more, what it holds is dropped, and who waits for what it took
    /// is told at the end of the next step. Its number may be that of
    /// another one afterwards.
    pub fn close_link(&mut self, link: LinkId) {
        let links = &mut self.subscriptions.links;
        links.remove_filters(link);
        if let Some(gone) = links.all.remove(link.0) {
            links.held -= gone.weighed;
            links.full -= usize::from(gone.full);
            if gone.plan.answering != Answering::Accepted {
                links.unanswered.link_silenced();
            }
            if gone.owes {
                links.unanswered.lose_link(link);
            }
        }
    }

    /// The oldest messages that wait for a link's owner.
    pub fn take_from_link(&mut self, link: LinkId) -> Option<LinkBatch> {
        let links = &mut self.subscriptions.links;
        let found = links.all.get_mut(link.0)?;
        let batch = found.pop()?;
        found.counts.taken += u64::from(batch.count());
        links.weigh(link);
        Some(batch)
    }

    /// What has become of a link's messages.
    pub fn link_counts(&self, link: LinkId) -> LinkCounts {
        self.subscriptions.links.all.get(link.0).map(|link| link.counts).unwrap_or_default()
    }

    /// Bytes that wait for a link's owner.
    pub fn link_bytes(&self, link: LinkId) -> usize {
        self.subscriptions.links.all.get(link.0).map_or(0, |link| link.bytes)
    }

    /// The link that has no room for a message now, if there is one.
    #[inline(never)]
    pub(super) fn full_link(
        &mut self,
        hash: &TopicHash<'_>,
        message: &MessageRef<'_>,
    ) -> Option<LinkId> {
        let publisher = message.publisher.map(|publisher| publisher.client);
        let what = (hash, message.topic);
        let (full, visits) = self.subscriptions.links.first_full(what, publisher);
        self.meter.charge(cost::VISIT * visits as u32);
        full
    }

    /// Copies a message that is accepted here to the links that want it; true when one does.
    #[inline(never)]
    pub(super) fn give_to_links(&mut self, hash: &TopicHash<'_>, message: &MessageRef<'_>) -> bool {
        let visits = self.subscriptions.links.find(hash);
        let found = std::mem::take(&mut self.subscriptions.links.found);
        self.meter.charge(cost::VISIT * (visits + found.len()) as u32);
        let (mut taken, mut last) = (false, None);
        for &at in &found {
            let link = self.subscriptions.links.filters.get(at).map(|entry| entry.link);
            let again = std::mem::replace(&mut last, link) == link;
            taken |= self.give_to_link(at, again, message);
        }
        self.subscriptions.links.found = found;
        taken
    }

    /// The same for one filter. `again`: an earlier one of the same link matches, too.
    fn give_to_link(&mut self, at: u32, again: bool, message: &MessageRef<'_>) -> bool {
        let found = self.subscriptions.links.filters.get(at);
        let Some(&LinkFilter { link, position, number, .. }) = found else { return false };
        let Some(plan) = self.subscriptions.links.all.get(link.0).map(|link| &link.plan) else {
            return false;
        };
        let own = message.publisher.map(|publisher| publisher.client);
        if own.is_some() && own == plan.own && !Mutant::LinkTakesOwn.is_on() {
            return false;
        }
        if !plan.takes(position, again, message.topic) {
            return false;
        }
        let (zero, wants) = (plan.zero, plan.names);
        let waits = message.qos > Qos::AtMostOnce && self.subscriptions.links.asked;
        let waits = waits && !self.subscriptions.links.unanswered.for_owner;
        let waits = waits && plan.answering != Answering::Accepted;
        let client = message.publisher.filter(|p| waits && p.shard == self.topology.id);
        let links = &mut self.subscriptions.links;
        let waiter = client.and_then(|client| links.waiter(link, client.shard, self.now));
        self.meter.charge(cost::DELIVERY + cost::bytes(message.size()));
        let here = message.publisher.filter(|p| wants && p.shard == self.topology.id);
        let session = here.and_then(|publisher| self.sessions.of_client(publisher.client));
        let (client_id, username, certificate) = match session {
            None => ("", "", ""),
            Some(session) => (
                &*session.client_id,
                session.grant().and_then(|grant| grant.username.as_deref()).unwrap_or_default(),
                session.socket.and_then(|s| self.layered.common_name(s)).unwrap_or_default(),
            ),
        };
        let record = LinkRecord {
            topic: message.topic,
            properties: message.properties,
            payload: message.payload,
            client_id,
            username,
            certificate,
            filter: number,
            accepted: zero + self.now.0,
            expires: message.expires.map(|at| zero.saturating_add(at.0)),
            qos: message.qos,
            retain: message.retain,
            waiter,
        };
        let links = &mut self.subscriptions.links;
        if let Some(link) = links.all.get_mut(link.0) {
            let lost = &mut |waiter: Waiter| links.unanswered.lose(waiter.number);
            link.push(&record, links.asked, lost);
        }
        links.weigh(link);
        true
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
