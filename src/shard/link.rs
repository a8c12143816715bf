//! Links: subscribers that are no clients, such as bridges.
//!
//! A link has topic filters. Each message that is accepted on this shard and matches one of them is
//! copied into the link's queue, once for each filter. A copy has the properties and the topic that
//! the publisher gave the message, the mountpoint included, and can name the publisher. The owner
//! of the link takes the queue out between steps, one batch at a time. The queue is bounded in
//! bytes; what happens when it is full is the link's policy, and is counted. Retained messages are
//! not replayed to a link, and dropping expired messages is left to the owner.
//!
//! Links are kept apart from the subscriptions. A message is taken on the shard that accepts it,
//! where its publisher lives, so that no message crosses to another shard for a link; an owner that
//! wants all messages has a link on every shard. The messages of one publisher to one topic are in
//! the queue in the order in which they were accepted. Whether publishers wait for their readers
//! ([`super::pace`]) does not depend on links. While the shard has no link, a publish costs only
//! the check for one. Where a link's policy says so, the publishers of messages that it has no room
//! for wait ([`super::park`]).

use super::Shard;
use super::unanswered::{AnswerDeadlines, Unanswered};
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

/// The number of a link on its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkId(pub(super) u32);

/// Which messages a link takes, and how many bytes of them may wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPlan {
    /// Topic filters. A record says which of them it is for.
    pub filters: Vec<Box<str>>,
    /// The number that records carry for each filter. When empty, that is the filter's position.
    pub numbers: Vec<u16>,
    /// Whether a message that several filters match is taken only once, for the first of them.
    pub once: bool,
    /// The part of the messages that this link takes; `None`: all. Needs `once`.
    pub part: Option<LinkPart>,
    /// Most bytes of waiting records. A single record may be larger when it is alone in the queue,
    /// and with [`WhenFull::Pause`] the copies of the last message may go beyond the bound.
    pub bytes: usize,
    /// What happens to a message for which there is no room.
    pub when_full: WhenFull,
    /// Whether records carry the names of their publishers.
    pub names: bool,
    /// The client whose messages the link does not take: its own owner, as a bridge is.
    pub own: Option<ClientKey>,
    /// The time at the zero of the shard's clock, in milliseconds since 1970.
    pub zero: u64,
    /// When publishers get the PUBACK or PUBREC for a message that the link takes.
    pub answering: Answering,
}

/// Which part of the messages a link takes, where several links share them. They are divided by
/// topic, so that all messages of one topic go to the same link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkPart {
    /// The position of this link among those that share.
    pub number: u16,
    /// How many links share the messages.
    pub of: u16,
    /// For each filter: whether the first link takes everything that the filter matches.
    pub first: Vec<bool>,
}

impl LinkPart {
    /// Which of `of` links takes a topic. This must never change: messages wait for it on disk.
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
    /// Whether the link takes a message that this filter matches, `again` when an earlier one did.
    fn takes(&self, position: u16, again: bool, topic: &str) -> bool {
        let first = !again || !self.once || Mutant::LinkTakesAgain.is_on();
        first && self.part.as_ref().is_none_or(|part| part.takes(position, topic))
    }

    /// Whether all filters are valid, and none is a share group's.
    fn is_valid(&self) -> bool {
        let plain =
            |filter: &str| topic::parse_share(filter).is_none() && topic::valid_filter(filter);
        self.filters.len() <= usize::from(u16::MAX)
            && self.filters.iter().all(|filter| plain(filter))
    }
}

/// When the publisher of a QoS 1 or QoS 2 message that a link takes gets its PUBACK or PUBREC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answering {
    /// When the message is accepted.
    Accepted,
    /// When the owner reports it ([`Shard::confirm`]), with MQTT 5 after so many ms at most.
    Delivered(Option<u64>),
}

/// Which messages a full link drops, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Those that have waited longest, a batch at a time.
    DropOldest,
    /// The message that arrives.
    DropNew,
    /// None of a publisher that can wait: the publisher is held. The last eighth of the bound is
    /// for messages without a publisher that could wait, such as wills. Such a message is dropped
    /// if it finds no room either.
    Pause,
}

/// What has become of a link's messages: each is taken, is dropped, or waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkCounts {
    /// Messages that matched, counted once for each filter that takes them.
    pub matched: u64,
    /// Messages that the owner has taken.
    pub taken: u64,
    /// Messages that were dropped because the queue was full.
    pub dropped: u64,
}

/// The plan, the queue and the counts of one link.
struct Link {
    plan: LinkPlan,
    queue: VecDeque<LinkBatch>,
    bytes: usize,
    counts: LinkCounts,
    /// What [`Link::holds_up`] returned when the link was last weighed.
    full: bool,
    /// The `bytes` at that time.
    weighed: usize,
    /// Publishers wait for answers about some records, or did before the plan was changed.
    owes: bool,
    /// The records that publishers stop waiting for after a while.
    patience: AnswerDeadlines,
    /// How many parked publishers are to be tried again because the link's plan has changed since
    /// they were parked: the link may not want their messages any more.
    look_again: usize,
}

impl Link {
    fn new(plan: LinkPlan) -> Link {
        let (queue, counts) = (VecDeque::new(), LinkCounts::default());
        let patience = AnswerDeadlines::default();
        let (full, weighed, look_again) = (false, 0, 0);
        let owes = plan.answering != Answering::Accepted;
        Link { plan, queue, bytes: 0, counts, full, weighed, owes, patience, look_again }
    }

    /// Whether the link is so full that publishers have to wait for it.
    fn holds_up(&self) -> bool {
        let bound = self.plan.bytes - self.plan.bytes / 8;
        self.plan.when_full == WhenFull::Pause && self.bytes >= bound
    }

    /// Adds a record, or drops one by the link's policy. `asked`: the publisher could have been
    /// made to wait for room. `lost` is called for each publisher that waits for an answer about a
    /// dropped record.
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
        // A batch has at most an eighth of the bound, so that no more is dropped at once.
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

/// One filter of one link, the target of an entry in the index.
struct LinkFilter {
    link: LinkId,
    /// The position of the filter in the link's plan.
    position: u16,
    /// The number that records carry for the filter.
    number: u16,
    filter: FilterId,
}

/// All links of a shard.
pub(super) struct Links {
    /// The index of the links' filters, apart from the index of the clients' filters.
    index: Index,
    all: Slab<Link>,
    filters: Slab<LinkFilter>,
    found: Vec<u32>,
    /// How many links are so full that publishers wait for them.
    full: usize,
    /// Bytes of all waiting records.
    held: usize,
    /// Whether the message that is being routed has a publisher that could have been made to wait.
    pub(super) asked: bool,
    /// Publications that are answered only when the other end of a bridge has them.
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

    /// Whether some link is so full that publishers may have to wait for it.
    #[inline]
    pub(super) fn any_full(&self) -> bool {
        self.full != 0
    }

    /// Whether this link is so full that publishers wait for it.
    fn is_full(&self, link: LinkId) -> bool {
        self.all.get(link.0).is_some_and(|link| link.full)
    }

    /// Whether one of the publishers that wait for this link could go on.
    pub(super) fn may_let_one_on(&self, link: LinkId) -> bool {
        self.all.get(link.0).is_none_or(|link| !link.full || link.look_again > 0)
    }

    /// Whether one of the publishers that wait for this link goes on now; the caller lets it go on.
    pub(super) fn lets_one_on(&mut self, link: LinkId) -> bool {
        let Some(found) = self.all.get_mut(link.0) else { return true };
        let again = found.look_again > 0;
        found.look_again = found.look_again.saturating_sub(1);
        !found.full || again
    }

    /// Collects the matching filters in `found`, sorted by link and then by position. Returns how
    /// many places of the index were looked at.
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

    /// The number of the next record whose publisher is not to wait for an answer any longer.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<u64> {
        (0..self.all.bound()).find_map(|at| self.all.get_mut(at)?.patience.next(now))
    }

    /// What a record that is about to be pushed into that link carries, so that its publisher can
    /// be answered later; `None` if the link answers when the message is accepted.
    fn waiter(&mut self, link: LinkId, shard: ShardId, now: Instant) -> Option<Waiter> {
        let found = self.all.get_mut(link.0)?;
        let Answering::Delivered(patience) = found.plan.answering else { return None };
        let number = self.unanswered.number(link);
        if let Some(millis) = patience {
            found.patience.push(now.plus_millis(millis), number, &self.unanswered);
        }
        Some(Waiter { shard, number })
    }

    /// Bytes of all waiting records.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Updates the sum of bytes and the number of full links, after the bytes of a link have
    /// changed.
    fn weigh(&mut self, link: LinkId) {
        let Some(link) = self.all.get_mut(link.0) else { return };
        self.held = self.held + link.bytes - std::mem::replace(&mut link.weighed, link.bytes);
        let full = link.holds_up();
        if full != std::mem::replace(&mut link.full, full) {
            self.full = if full { self.full + 1 } else { self.full - 1 };
        }
    }

    /// Whether the shard has no link.
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

    /// Bytes of all waiting records, added up anew. Checks compare this with [`Links::held`].
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

    /// Takes all filters of a link out of the index.
    fn remove_filters(&mut self, link: LinkId) {
        for at in 0..self.filters.bound() {
            if self.filters.get(at).is_some_and(|entry| entry.link == link) {
                self.remove_filter(at);
            }
        }
    }

    /// Takes one filter out of the index.
    fn remove_filter(&mut self, target: u32) {
        let Some(entry) = self.filters.remove(target) else { return };
        let list = self.index.subscribers(entry.filter);
        if let Some(position) = list.iter().position(|subscriber| subscriber.target == target) {
            self.index.remove(entry.filter, position as u32);
        }
    }
}

impl Shard {
    /// Opens a link. `None` when one of its filters is invalid or belongs to a share group. Must
    /// not be called in the middle of a step.
    pub fn open_link(&mut self, plan: LinkPlan) -> Option<LinkId> {
        if !plan.is_valid() {
            return None;
        }
        let links = &mut self.subscriptions.links;
        if plan.answering != Answering::Accepted {
            links.unanswered.link_opened((plan.zero, self.now));
        }
        let link = LinkId(links.all.insert(Link::new(plan)));
        links.add_filters(link);
        self.meter.charge(cost::VISIT * links.filters.len() as u32);
        Some(link)
    }

    /// Gives a link another plan. What waits in its queue stays, ahead of all that arrives later,
    /// and publishers that wait for an answer about it go on waiting. False, with nothing changed,
    /// when one of the filters is invalid. Must not be called in the middle of a step.
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
        let time = (found.plan.zero, self.now);
        match (was, is) {
            (Answering::Accepted, Answering::Delivered(_)) => links.unanswered.link_opened(time),
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

    /// Makes a link take nothing more, while its queue stays. Must not be called in the middle of a
    /// step.
    pub fn mute_link(&mut self, link: LinkId) {
        let plan = self.subscriptions.links.all.get(link.0).map(|found| found.plan.clone());
        if let Some(plan) = plan {
            self.change_link(link, LinkPlan { filters: Vec::new(), ..plan });
        }
    }

    /// Ends a link: its filters are removed and its queue is dropped. Publishers that wait for an
    /// answer about one of its records get it at the end of the next step. A link that is opened
    /// later may get the same number.
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

    /// Takes the oldest batch of messages that waits for a link's owner.
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

    /// The link that wants this message and has no room for it, if there is one.
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

    /// Copies a message that this shard accepts to the links that want it; true when a link does.
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

    /// Copies a message to one link for the filter at `at`; true when the link wants it. `again`:
    /// an earlier filter of the same link matches, too.
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
                session.socket().and_then(|s| self.layered.common_name(s)).unwrap_or_default(),
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
