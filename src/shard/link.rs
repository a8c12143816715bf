//! Links: subscribers of this shard that are no clients, such as a bridge or a stream of events.
//!
//! A link has filters, and a queue of messages that its owner takes out when it likes: between
//! steps, a few at a time. The queue is bounded in messages and bytes; what happens when it is full
//! is the link's policy, and is counted. Messages come in the order in which they were accepted, as
//! to any subscriber here, once for each of the link's filters that matches; with the properties
//! and the topic that the publisher gave them, mountpoint included. Retained messages are not
//! replayed to it, and an expired one is the owner's to drop.
//!
//! In the index each filter of a link is an entry like that of a share group: the publish path asks
//! nothing more while there is no link. Other shards route to this one for it as for a client.

use super::Shard;
use super::route::GROUP;
use crate::limits::cost;
use crate::message::{Message, MessageRef};
use crate::slab::Slab;
use crate::topic::{self, FilterId, Subscriber};
use std::collections::VecDeque;

/// In the target of an entry of the index that stands for a group: it is a link's filter instead.
/// Groups are fewer than that.
const LINK: u32 = 1 << 31;

/// Which link of its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkId(u32);

/// What a link's queue holds at most, and what happens to a message for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkBounds {
    /// Messages; at least one.
    pub messages: usize,
    /// Bytes of topics, properties and payloads. One message may be larger when it is alone.
    pub bytes: usize,
    /// Which message is dropped.
    pub when_full: WhenFull,
}

/// Which message a full link loses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Those that have waited longest.
    DropOldest,
    /// The one that comes.
    DropNew,
}

/// What has become of a link's messages; each ends in one of the last two, or waits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkCounts {
    /// Messages that matched, once for each filter.
    pub matched: u64,
    /// Messages that its owner has taken.
    pub taken: u64,
    /// Messages that were dropped because the queue was full.
    pub dropped: u64,
}

/// One link's messages.
#[derive(Debug)]
struct Link {
    queue: VecDeque<Message>,
    bytes: usize,
    bounds: LinkBounds,
    counts: LinkCounts,
}

impl Link {
    fn has_room(&self, size: usize) -> bool {
        self.queue.len() < self.bounds.messages
            && (self.queue.is_empty() || self.bytes + size <= self.bounds.bytes)
    }

    fn push(&mut self, message: Message) {
        let size = message.size();
        self.counts.matched += 1;
        while !self.has_room(size) && self.bounds.when_full == WhenFull::DropOldest {
            if self.pop().is_none() {
                break;
            }
            self.counts.dropped += 1;
        }
        if self.has_room(size) {
            self.bytes += size;
            self.queue.push_back(message);
        } else {
            self.counts.dropped += 1;
        }
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.size();
        Some(message)
    }
}

/// One filter of one link, and where it stands in the index.
struct LinkFilter {
    link: LinkId,
    filter: FilterId,
    position: u32,
}

/// All links of a shard.
#[derive(Default)]
pub(super) struct Links {
    all: Slab<Link>,
    filters: Slab<LinkFilter>,
}

impl Links {
    /// Whether the target of an entry that stands for a group is a link's filter.
    #[inline]
    pub(super) fn is_link(target: u32) -> bool {
        target & LINK != 0
    }

    /// Where the entry with that target stands.
    pub(super) fn place(&self, target: u32) -> Option<(FilterId, u32)> {
        self.filters.get(target & !LINK).map(|entry| (entry.filter, entry.position))
    }

    /// The entry with that target has moved.
    pub(super) fn moved(&mut self, target: u32, position: u32) {
        if let Some(entry) = self.filters.get_mut(target & !LINK) {
            entry.position = position;
        }
    }

    /// A message has matched the entry with that target.
    fn push(&mut self, target: u32, message: Message) {
        let link = self.filters.get(target & !LINK).map(|entry| entry.link.0);
        if let Some(link) = link.and_then(|link| self.all.get_mut(link)) {
            link.push(message);
        }
    }

    /// The filters of a link, by their places in the list of all.
    fn of(&self, link: LinkId) -> impl Iterator<Item = u32> + '_ {
        let owned = move |&at: &u32| self.filters.get(at).is_some_and(|entry| entry.link == link);
        (0..self.filters.bound()).filter(owned)
    }

    /// Every target, and where its entry stands. For checks.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, (FilterId, u32))> + '_ {
        let place = |at: u32| Some((at | LINK, self.place(at)?));
        (0..self.filters.bound()).filter_map(place)
    }
}

impl Shard {
    /// A link with these filters, from now on: each shard routes to it before this returns. `None`
    /// when one is no topic filter, or that of a share group. Not for the middle of a step.
    pub fn open_link(&mut self, filters: &[&str], bounds: LinkBounds) -> Option<LinkId> {
        let plain =
            |filter: &&str| topic::parse_share(filter).is_none() && topic::valid_filter(filter);
        if !filters.iter().all(plain) {
            return None;
        }
        let link = Link {
            queue: VecDeque::new(),
            bytes: 0,
            bounds: LinkBounds { messages: bounds.messages.max(1), ..bounds },
            counts: LinkCounts::default(),
        };
        let link = LinkId(self.subscriptions.links.all.insert(link));
        for text in filters {
            let filter = self.subscriptions.index.intern_always(text);
            let entry = LinkFilter { link, filter, position: 0 };
            let target = self.subscriptions.links.filters.insert(entry) | LINK;
            let subscriber = Subscriber { target, options: GROUP, subscription_id: 0 };
            let position = self.subscriptions.index.add(filter, subscriber);
            self.subscriptions.links.moved(target, position);
            self.announce(filter);
        }
        Some(link)
    }

    /// Ends a link: nothing more is routed to it, and what it holds is dropped. Its number may be
    /// that of another one afterwards.
    pub fn close_link(&mut self, link: LinkId) {
        let filters: Vec<u32> = self.subscriptions.links.of(link).collect();
        for at in filters {
            // Where it stands by now: a filter that it had twice may have moved the second one.
            if let Some((filter, position)) = self.subscriptions.links.place(at) {
                self.remove_place(filter, position);
            }
            self.subscriptions.links.filters.remove(at);
        }
        self.subscriptions.links.all.remove(link.0);
    }

    /// The oldest message that waits for a link's owner.
    pub fn take_from_link(&mut self, link: LinkId) -> Option<Message> {
        let link = self.subscriptions.links.all.get_mut(link.0)?;
        let message = link.pop()?;
        link.counts.taken += 1;
        Some(message)
    }

    /// What has become of a link's messages.
    pub fn link_counts(&self, link: LinkId) -> LinkCounts {
        self.subscriptions.links.all.get(link.0).map(|link| link.counts).unwrap_or_default()
    }

    /// A message for the entry with that target, which is a link's.
    pub(super) fn deliver_to_link(&mut self, target: u32, message: &MessageRef<'_>) {
        self.meter.charge(cost::DELIVERY);
        let message = self.delivery.store(message);
        self.subscriptions.links.push(target, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Qos;

    fn message(payload: &[u8]) -> Message {
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload,
            qos: Qos::AtMostOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        Message::new(&message, &mut Vec::new())
    }

    fn link(messages: usize, bytes: usize, when_full: WhenFull) -> Link {
        let bounds = LinkBounds { messages, bytes, when_full };
        Link { queue: VecDeque::new(), bytes: 0, bounds, counts: LinkCounts::default() }
    }

    fn fill(link: &mut Link, count: u8) -> Vec<u8> {
        (0..count).for_each(|n| link.push(message(&[n; 9])));
        std::iter::from_fn(|| link.pop()).map(|message| message.view().payload[0]).collect()
    }

    #[test]
    fn a_full_link_drops_by_its_policy_and_counts() {
        let cases = [
            (link(3, 1000, WhenFull::DropOldest), vec![7, 8, 9], 7),
            (link(3, 1000, WhenFull::DropNew), vec![0, 1, 2], 7),
            (link(100, 25, WhenFull::DropOldest), vec![8, 9], 8),
            (link(100, 25, WhenFull::DropNew), vec![0, 1], 8),
            (link(100, 5, WhenFull::DropOldest), vec![9], 9),
        ];
        for (mut link, kept, dropped) in cases {
            assert_eq!(fill(&mut link, 10), kept);
            let counts = LinkCounts { matched: 10, taken: 0, dropped };
            assert_eq!((link.counts, link.bytes), (counts, 0));
        }
    }

    #[test]
    fn a_message_that_is_larger_than_the_bound_is_taken_alone() {
        let mut link = link(10, 5, WhenFull::DropNew);
        link.push(message(&[1; 100]));
        link.push(message(&[2]));
        assert_eq!(link.pop().map(|message| message.size()), Some(101));
        assert!(link.pop().is_none());
        assert_eq!(link.counts.dropped, 1);
    }
}
