//! Fan-outs that go on over several steps: one message for more subscribers than fit into a part
//! of a step.
//!
//! A message is accepted at once, whoever gets it: its publisher is acknowledged, and what it
//! published is delivered a slice per step. Whoever looks at one subscriber sees no difference from
//! a delivery to all at once, because nothing overtakes a fan-out on its way to a subscriber:
//! before anything newer is given to a session, the session is *caught up*, which means that every
//! waiting fan-out that it is still to get is delivered to it, out of turn and in order.
//!
//! How it is known who is still to be served: each fan-out has, for each filter that matched, a
//! *zone*, the first so many entries of the filter's list of subscribers. It is served from its
//! end, and ends one entry earlier each time. Who subscribes later is added behind every zone and
//! does not get the message. Who is served out of turn, or unsubscribes, changes places with the
//! last entry of the zone first. Zones of a filter never shrink from the front and a later
//! fan-out's is never the smaller one, so one exchange per zone keeps all of them right.
//!
//! The publisher waits until its fan-out is done ([`Holds::FANOUT`]), on whichever shard it is
//! connected: a client that publishes to everybody gets no further than one message ahead of its
//! subscribers, while messages of others pass by. At [`MOST`] waiting fan-outs, or [`MOST_BYTES`],
//! the shard takes in no further messages until there is room.

use super::Shard;
use super::connection::Holds;
use super::route::GROUP;
use crate::ids::{ClientKey, Publisher};
use crate::limits::cost;
use crate::mesh::mail::Control;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::topic::{FilterId, Subscriber};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Most fan-outs that wait.
const MOST: usize = 1024;
/// Most bytes of their messages.
const MOST_BYTES: usize = 32 << 20;
/// Subscribers of one filter that are still to be served: the first `left` of its list.
#[derive(Clone, Copy)]
pub(super) struct Zone {
    pub filter: FilterId,
    pub left: u32,
}

/// One message and who is still to get it.
struct Fanout {
    message: Message,
    /// By filter number, so that one is found by binary search. The last is served first.
    zones: Vec<Zone>,
    /// Its publisher was told to wait.
    held: bool,
}

impl Fanout {
    fn zone(&mut self, filter: FilterId) -> Option<&mut Zone> {
        let at = self.zones.binary_search_by_key(&filter.0, |zone| zone.filter.0).ok()?;
        Some(&mut self.zones[at])
    }
}

/// The fan-outs of a shard that are under way, oldest first, and local publishers that wait.
#[derive(Default)]
pub(super) struct Fanouts {
    waiting: VecDeque<Fanout>,
    /// In how many of them each filter has a zone.
    filters: HashMap<FilterId, u32, foldhash::fast::FixedState>,
    bytes: usize,
    /// Fan-outs under way, here or on other shards, of each local publisher.
    holds: HashMap<ClientKey, u32, foldhash::fast::FixedState>,
    scratch: Vec<(u8, u32)>,
}

impl Fanouts {
    /// True when none is under way.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when no further message may be taken in.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= MOST || self.bytes >= MOST_BYTES
    }

    /// Local publishers that wait.
    pub fn holding(&self) -> usize {
        self.holds.len()
    }

    fn push(&mut self, fanout: Fanout) {
        for zone in &fanout.zones {
            *self.filters.entry(zone.filter).or_default() += 1;
        }
        self.bytes += fanout.message.size();
        self.waiting.push_back(fanout);
    }

    /// Takes the last zone off the oldest fan-out.
    fn pop_zone(&mut self) {
        let Some(zone) = self.waiting.front_mut().and_then(|front| front.zones.pop()) else {
            return;
        };
        if let Some(count) = self.filters.get_mut(&zone.filter) {
            *count -= 1;
            if *count == 0 {
                self.filters.remove(&zone.filter);
            }
        }
    }

    fn pop(&mut self) -> Option<Fanout> {
        let fanout = self.waiting.pop_front()?;
        self.bytes -= fanout.message.size();
        Some(fanout)
    }
}

impl Shard {
    /// Accepts a message for more subscribers than are served at once: all entries of the lists of
    /// `found`. Serves what fits into the step.
    pub(super) fn begin_fanout(&mut self, found: &[FilterId], message: &MessageRef<'_>) {
        let mut zones: Vec<Zone> = found
            .iter()
            .map(|&filter| Zone { filter, left: self.index.subscribers(filter).len() as u32 })
            .collect();
        zones.sort_unstable_by_key(|zone| zone.filter.0);
        let stored = self.fan.store(message, &mut self.scratch);
        self.fanouts.push(Fanout { message: stored, zones, held: false });
        self.counters.fanouts += 1;
        if self.fanouts.len() == 1 && !self.run_fanouts(self.settings.budget.step) {
            return;
        }
        if let (Some(publisher), Some(last)) = (message.publisher, self.fanouts.waiting.back_mut())
        {
            last.held = true;
            self.tell(publisher.shard, Control::HoldPublisher(publisher.client));
        }
    }

    /// Goes on with the fan-outs under way, oldest first, until the step's work comes to `limit`;
    /// true when some are left.
    pub(super) fn run_fanouts(&mut self, limit: u32) -> bool {
        if self.fanouts.is_empty() {
            return false;
        }
        let outer = std::mem::take(&mut self.fan);
        while !self.is_spent(limit) {
            let Some(front) = self.fanouts.waiting.front() else { break };
            let message = front.message.clone();
            let view = message.view();
            self.fan.begin(Some(&message));
            self.fan.many = true;
            let done = self.serve_front(&view, limit);
            // Its publisher waits for the fan-out, and for none of so many readers.
            self.fan.crowded.clear();
            if (done || Mutant::FanoutForgetsRest.is_on())
                && self.fanouts.pop().is_some_and(|fanout| fanout.held)
            {
                self.let_publisher_go(view.publisher);
            }
        }
        self.fan = outer;
        self.counters.fanouts_under_way = self.fanouts.len() as u64;
        !self.fanouts.is_empty()
    }

    /// Serves subscribers of the oldest fan-out; true when none are left.
    fn serve_front(&mut self, message: &MessageRef<'_>, limit: u32) -> bool {
        while !self.is_spent(limit) {
            let Some(front) = self.fanouts.waiting.front_mut() else { return true };
            let alone = front.zones.len() == 1;
            let Some(zone) = front.zones.last_mut() else { return true };
            if zone.left == 0 {
                self.fanouts.pop_zone();
                continue;
            }
            zone.left -= 1;
            let at = zone.left as usize;
            let Some(&subscriber) = self.index.subscribers(zone.filter).get(at) else { continue };
            if alone || subscriber.options & GROUP != 0 {
                self.deliver_one(subscriber, message);
            } else {
                let mut mine = std::mem::take(&mut self.fanouts.scratch);
                mine.push((subscriber.options, subscriber.subscription_id));
                self.take_from_zones(0, subscriber.target, &mut mine);
                self.deliver_combined(subscriber.target, &mut mine, message);
                mine.clear();
                self.fanouts.scratch = mine;
            }
        }
        false
    }

    /// Delivers to a session, ahead of their turn, the fan-outs under way that it is still to get:
    /// something newer is about to be given to it.
    #[inline]
    pub(super) fn catch_up(&mut self, index: u32) {
        if !self.fanouts.is_empty() {
            self.catch_up_now(index);
        }
    }

    fn catch_up_now(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index) else { return };
        let (own, filters) = (&session.subscriptions, &self.fanouts.filters);
        let concerned = match own.len() <= filters.len() {
            true => own.any_of(|filter| filters.contains_key(&filter)),
            false => filters.keys().any(|&filter| own.position(filter).is_some()),
        };
        self.work += cost::VISIT * own.len().min(filters.len()) as u32;
        if !concerned {
            return;
        }
        let outer = std::mem::take(&mut self.fan);
        let mut mine = std::mem::take(&mut self.fanouts.scratch);
        for at in 0..self.fanouts.len() {
            self.take_from_zones(at, index, &mut mine);
            if mine.is_empty() {
                continue;
            }
            let message = self.fanouts.waiting[at].message.clone();
            self.fan.begin(Some(&message));
            self.deliver_combined(index, &mut mine, &message.view());
            self.fan.crowded.clear();
            if !Mutant::FanoutTwice.is_on() {
                mine.clear();
            }
        }
        mine.clear();
        self.fanouts.scratch = mine;
        self.fan = outer;
    }

    /// The same for a share group whose filter matched.
    pub(super) fn catch_up_group(&mut self, group: u32) {
        if self.fanouts.is_empty() {
            return;
        }
        let Some((filter, _)) = self.groups.place(group) else { return };
        if !self.fanouts.filters.contains_key(&filter) {
            return;
        }
        let outer = std::mem::take(&mut self.fan);
        for at in 0..self.fanouts.len() {
            // Its place changes as it is taken out of one zone after the other.
            let Some((filter, position)) = self.groups.place(group) else { break };
            if self.take_from_zone(at, filter, position).is_none() {
                continue;
            }
            let message = self.fanouts.waiting[at].message.clone();
            self.fan.begin(Some(&message));
            self.deliver_to_group(group, &message.view());
            self.fan.crowded.clear();
        }
        self.fan = outer;
    }

    /// Takes the session's entries out of the zones of one fan-out and adds their options and
    /// identifiers to `mine`.
    fn take_from_zones(&mut self, at: usize, index: u32, mine: &mut Vec<(u8, u32)>) {
        for number in 0..self.fanouts.waiting[at].zones.len() {
            self.work += cost::VISIT;
            let filter = self.fanouts.waiting[at].zones[number].filter;
            let place = self.sessions.get(index).and_then(|s| s.subscriptions.position(filter));
            if let Some(position) = place
                && let Some(entry) = self.take_from_zone(at, filter, position)
            {
                mine.push((entry.options, entry.subscription_id));
            }
        }
    }

    /// Takes the entry at `position` out of the filter's zone in one fan-out, if it is in it: it
    /// changes places with the last one of the zone, which gets shorter.
    fn take_from_zone(&mut self, at: usize, filter: FilterId, position: u32) -> Option<Subscriber> {
        let zone = self.fanouts.waiting[at].zone(filter)?;
        if position >= zone.left {
            return None;
        }
        zone.left -= 1;
        let last = zone.left;
        let entry = *self.index.subscribers(filter).get(position as usize)?;
        self.exchange(filter, position, last);
        self.tell_place(entry, filter, last);
        Some(entry)
    }

    /// An entry of the filter's list at `position` is about to be removed: takes it out of every
    /// zone, and returns where it is then.
    pub(super) fn leave_zones(&mut self, filter: FilterId, position: u32) -> u32 {
        if self.fanouts.is_empty() || !self.fanouts.filters.contains_key(&filter) {
            return position;
        }
        let mut hole = position;
        for at in 0..self.fanouts.len() {
            let Some(zone) = self.fanouts.waiting[at].zone(filter) else { continue };
            if hole < zone.left {
                zone.left -= 1;
                let last = zone.left;
                self.exchange(filter, hole, last);
                hole = last;
            }
            self.work += cost::VISIT;
        }
        hole
    }

    /// The entry at `last` of a filter's list changes places with the one at `position`, and its
    /// owner is told; that of the other is not, which may be about to lose it.
    fn exchange(&mut self, filter: FilterId, position: u32, last: u32) {
        if position != last {
            self.index.swap(filter, position, last);
            let entry = *self.index.get_mut(filter, position);
            self.tell_place(entry, filter, position);
        }
    }

    /// A fan-out is done that its publisher waited for.
    fn let_publisher_go(&mut self, publisher: Option<Publisher>) {
        if let Some(publisher) = publisher {
            self.tell(publisher.shard, Control::ReleasePublisher(publisher.client));
        }
    }

    /// A fan-out of a local publisher's message goes on, on whichever shard: it waits.
    pub(super) fn hold_publisher(&mut self, publisher: ClientKey) {
        *self.fanouts.holds.entry(publisher).or_default() += 1;
        if let Some(socket) = self.socket_of(publisher) {
            self.hold(socket, Holds::FANOUT);
        }
    }

    /// A fan-out of a local publisher's message is done.
    pub(super) fn release_publisher(&mut self, publisher: ClientKey) {
        let Some(count) = self.fanouts.holds.get_mut(&publisher) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.fanouts.holds.remove(&publisher);
        if let Some(socket) = self.socket_of(publisher) {
            self.free(socket, Holds::FANOUT);
        }
    }
}
