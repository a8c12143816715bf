//! Fan-outs that continue over several steps: one message with more subscribers than fit into a
//! part of a step.
//!
//! A message is accepted at once, whatever the number of its subscribers: the publisher gets its
//! acknowledgement, and the message is delivered in slices, one per step. A single subscriber sees
//! no difference from a delivery to all at once, because nothing overtakes a fan-out on its way to
//! a subscriber. Before anything newer is given to a session, the session is *caught up*: every
//! waiting fan-out that it still has to get is delivered to it, out of turn and in order.
//!
//! How the remaining subscribers are known: for each filter that matched, a fan-out has a *zone*,
//! which is a number of entries at the start of the filter's list of subscribers. The zone is
//! served from its end, and becomes one entry shorter each time. A client that subscribes later is
//! added behind every zone and does not get the message. A subscriber that is served out of turn,
//! or unsubscribes, is first exchanged with the last entry of the zone. The zones of a filter never
//! shrink from the front, and the zone of a later fan-out is never the smaller one. Therefore one
//! exchange per zone keeps all of them correct, and a look at the filter's newest zone tells
//! whether an entry is in any of them.
//!
//! The publisher waits until its fan-out is complete ([`Holds::FANOUT`]), on whichever shard it is
//! connected. A client that publishes to everybody is thus never more than one message ahead of its
//! subscribers, while messages of other clients pass. At [`MOST`] waiting fan-outs, or
//! [`MOST_BYTES`], the shard accepts no further messages until there is room.

use super::Shard;
use super::connection::Holds;
use super::route::GROUP;
use crate::ids::{ClientKey, Publisher, ShardId};
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
/// With so many filters to look through, it is remembered who has been caught up with what.
const FEW: usize = 8;

/// Subscribers of one filter that a fan-out has still to serve: the first `left` of its list.
struct Zone {
    fanout: u64,
    left: u32,
}

/// One message and who is still to get it.
pub(super) struct Fanout {
    /// Later ones have higher numbers, without gaps.
    number: u64,
    message: Message,
    /// Filters with a zone. The last is served first.
    filters: Vec<FilterId>,
    /// Its publisher was told to wait.
    held: bool,
    /// Who is told what it has cost when it is done.
    pub report: Option<(ShardId, Control)>,
}

/// The fan-outs of a shard that are under way, oldest first, and local publishers that wait.
#[derive(Default)]
pub(super) struct Fanouts {
    waiting: VecDeque<Fanout>,
    /// Of each filter, oldest first.
    zones: HashMap<FilterId, VecDeque<Zone>, foldhash::fast::FixedState>,
    /// The newest fan-out that a session of many subscriptions has been caught up with. Sessions
    /// that subscribe later are in no zone of it, so whose number it was before does not matter.
    caught: HashMap<u32, u64, foldhash::fast::FixedState>,
    newest: u64,
    bytes: usize,
    /// Fan-outs under way, here or on other shards, of each local publisher.
    holds: HashMap<ClientKey, u32, foldhash::fast::FixedState>,
    mine: Vec<(u8, u32)>,
    taken: Vec<(u64, FilterId)>,
    /// What the fan-out costs that was begun last, if it goes on, until somebody takes that down.
    pub owed: u32,
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

    /// The one that was begun last.
    pub fn newest(&mut self) -> Option<&mut Fanout> {
        self.waiting.back_mut()
    }

    /// Local publishers that wait.
    pub fn holding(&self) -> usize {
        self.holds.len()
    }

    /// Adds one for the first so many entries of each filter's list.
    fn push(&mut self, message: Message, zones: impl Iterator<Item = (FilterId, u32)>) {
        self.newest += 1;
        let number = self.newest;
        let filters = zones.map(|(filter, left)| {
            self.zones.entry(filter).or_default().push_back(Zone { fanout: number, left });
            filter
        });
        let filters = filters.collect();
        self.bytes += message.size();
        self.waiting.push_back(Fanout { number, message, filters, held: false, report: None });
    }

    /// Takes the last zone off the oldest fan-out. Nothing is older, so it is its filter's first.
    fn pop_zone(&mut self) {
        let Some(filter) = self.waiting.front_mut().and_then(|front| front.filters.pop()) else {
            return;
        };
        if let Some(zones) = self.zones.get_mut(&filter) {
            zones.pop_front();
            if zones.is_empty() {
                self.zones.remove(&filter);
            }
        }
    }

    fn pop(&mut self) -> Option<Fanout> {
        let fanout = self.waiting.pop_front()?;
        self.bytes -= fanout.message.size();
        if self.waiting.is_empty() {
            // A broadcast to a million leaves nothing behind.
            (self.zones, self.caught) = Default::default();
        }
        Some(fanout)
    }

    fn message(&self, number: u64) -> Option<Message> {
        let first = self.waiting.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.waiting.get(at).map(|fanout| fanout.message.clone())
    }

    /// True when the entry at `position` of the filter's list is in some zone.
    fn is_in_zone(&self, filter: FilterId, position: u32) -> bool {
        self.zones
            .get(&filter)
            .and_then(VecDeque::back)
            .is_some_and(|newest| position < newest.left)
    }

    /// The fan-outs with a zone that the entry at `position` of the filter's list is in.
    fn with(&self, filter: FilterId, position: u32) -> impl Iterator<Item = u64> + '_ {
        let zones = self.zones.get(&filter);
        let first = zones.map_or(0, |zones| zones.partition_point(|zone| zone.left <= position));
        zones.into_iter().flat_map(move |zones| zones.range(first..)).map(|zone| zone.fanout)
    }

    fn zone(&mut self, fanout: u64, filter: FilterId) -> Option<&mut Zone> {
        let zones = self.zones.get_mut(&filter)?;
        let at = zones.binary_search_by_key(&fanout, |zone| zone.fanout).ok()?;
        zones.get_mut(at)
    }
}

impl Shard {
    /// Accepts a message for more subscribers than are served at once: all entries of the lists of
    /// `found`. Serves what fits into the step.
    pub(super) fn begin_fanout(&mut self, found: &[FilterId], message: &MessageRef<'_>) {
        let stored = self.delivery.store(message, self.scratch.bytes());
        let index = &self.index;
        let whole = |&filter: &FilterId| (filter, index.subscribers(filter).len() as u32);
        self.fanouts.push(stored, found.iter().map(whole));
        self.counters.fanouts += 1;
        if self.fanouts.len() == 1 && !self.run_fanouts(self.settings.budget.step) {
            return;
        }
        let subscribers = found.iter().map(|&filter| self.index.subscribers(filter).len());
        self.fanouts.owed = cost::DELIVERY * subscribers.sum::<usize>() as u32;
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
        let outer = std::mem::take(&mut self.delivery);
        while !self.is_spent(limit) {
            let Some(front) = self.fanouts.waiting.front() else { break };
            let message = front.message.clone();
            let view = message.view();
            self.delivery.begin(Some(&message));
            self.delivery.many = true;
            let done = self.serve_front(&view, limit);
            // Its publisher waits for the fan-out, and for none of so many readers.
            self.delivery.crowded.clear();
            if (done || Mutant::FanoutForgetsRest.is_on())
                && let Some(fanout) = self.fanouts.pop()
            {
                if fanout.held {
                    self.let_publisher_go(view.publisher);
                }
                if let Some((sender, report)) = fanout.report {
                    self.tell(sender, report);
                }
            }
        }
        self.delivery = outer;
        self.counters.fanouts_under_way = self.fanouts.len() as u64;
        !self.fanouts.is_empty()
    }

    /// Serves subscribers of the oldest fan-out; true when none are left.
    fn serve_front(&mut self, message: &MessageRef<'_>, limit: u32) -> bool {
        while !self.is_spent(limit) {
            let Some(front) = self.fanouts.waiting.front() else { return true };
            let (number, alone) = (front.number, front.filters.len() == 1);
            let Some(&filter) = front.filters.last() else { return true };
            let Some(zone) = self.fanouts.zone(number, filter) else { return true };
            if zone.left == 0 {
                self.fanouts.pop_zone();
                continue;
            }
            zone.left -= 1;
            let at = zone.left as usize;
            let Some(&subscriber) = self.index.subscribers(filter).get(at) else { continue };
            if alone || subscriber.options & GROUP != 0 {
                self.deliver_one(subscriber, message);
            } else {
                let mut mine = std::mem::take(&mut self.fanouts.mine);
                mine.push((subscriber.options, subscriber.subscription_id));
                self.take_from_front(subscriber.target, &mut mine);
                self.deliver_combined(subscriber.target, &mut mine, message);
                mine.clear();
                self.fanouts.mine = mine;
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
        let (own, fanouts) = (&session.subscriptions, &self.fanouts);
        let looks = own.len().min(fanouts.zones.len());
        if looks > FEW && fanouts.caught.get(&index) == Some(&fanouts.newest) {
            return;
        }
        self.meter.charge(cost::VISIT * looks as u32);
        let mut taken = std::mem::take(&mut self.fanouts.taken);
        let fanouts = &self.fanouts;
        let mut look = |filter: FilterId, position: u32| {
            if fanouts.is_in_zone(filter, position) {
                taken.extend(fanouts.with(filter, position).map(|number| (number, filter)));
            }
        };
        if own.len() <= fanouts.zones.len() {
            own.each(|place| look(place.filter, place.position));
        } else {
            for &filter in fanouts.zones.keys() {
                own.position(filter).into_iter().for_each(|position| look(filter, position));
            }
        }
        if looks > FEW {
            let early = u64::from(Mutant::FanoutCaughtEarly.is_on());
            self.fanouts.caught.insert(index, self.fanouts.newest + early);
        }
        taken.sort_unstable();
        if !taken.is_empty() {
            self.catch_up_with(index, &taken);
        }
        taken.clear();
        self.fanouts.taken = taken;
    }

    /// Delivers to the session what it is still to get, given by fan-outs and filters in order.
    fn catch_up_with(&mut self, index: u32, taken: &[(u64, FilterId)]) {
        self.meter.charge(cost::VISIT * taken.len() as u32);
        let outer = std::mem::take(&mut self.delivery);
        let mut mine = std::mem::take(&mut self.fanouts.mine);
        for group in taken.chunk_by(|one, other| one.0 == other.0) {
            for &(number, filter) in group {
                self.take_from_zone(number, filter, index, &mut mine);
            }
            let Some(message) = group.first().and_then(|first| self.fanouts.message(first.0))
            else {
                continue;
            };
            self.delivery.begin(Some(&message));
            self.deliver_combined(index, &mut mine, &message.view());
            self.delivery.crowded.clear();
            if !Mutant::FanoutTwice.is_on() {
                mine.clear();
            }
        }
        mine.clear();
        self.fanouts.mine = mine;
        self.delivery = outer;
    }

    /// The same for a share group whose filter matched.
    pub(super) fn catch_up_group(&mut self, group: u32) {
        if self.fanouts.is_empty() {
            return;
        }
        let Some((filter, position)) = self.groups.place(group) else { return };
        if !self.fanouts.is_in_zone(filter, position) {
            return;
        }
        let numbers: Vec<u64> = self.fanouts.with(filter, position).collect();
        let outer = std::mem::take(&mut self.delivery);
        for number in numbers {
            // Its place changes as it is taken out of one zone after the other.
            let Some((filter, position)) = self.groups.place(group) else { break };
            if self.shorten_zone(number, filter, position).is_none() {
                continue;
            }
            self.meter.charge(cost::VISIT);
            let Some(message) = self.fanouts.message(number) else { continue };
            self.delivery.begin(Some(&message));
            self.deliver_to_group(group, &message.view());
            self.delivery.crowded.clear();
        }
        self.delivery = outer;
    }

    /// Takes the session's entries out of the zones of the oldest fan-out and adds their options
    /// and identifiers to `mine`.
    fn take_from_front(&mut self, index: u32, mine: &mut Vec<(u8, u32)>) {
        let Some(front) = self.fanouts.waiting.front() else { return };
        let Some(session) = self.sessions.get(index) else { return };
        let (number, own) = (front.number, &session.subscriptions);
        let mut taken = std::mem::take(&mut self.fanouts.taken);
        self.meter.charge(cost::VISIT * own.len().min(front.filters.len()) as u32);
        if own.len() <= front.filters.len() {
            own.each(|place| taken.push((number, place.filter)));
        } else {
            taken.extend(front.filters.iter().map(|&filter| (number, filter)));
        }
        for &(number, filter) in &taken {
            self.take_from_zone(number, filter, index, mine);
        }
        taken.clear();
        self.fanouts.taken = taken;
    }

    /// Takes the session's entry out of the zone, if it is in it, and adds its options and
    /// identifier to `mine`.
    fn take_from_zone(
        &mut self,
        fanout: u64,
        filter: FilterId,
        index: u32,
        mine: &mut Vec<(u8, u32)>,
    ) {
        let place = self.sessions.get(index).and_then(|s| s.subscriptions.position(filter));
        if let Some(position) = place
            && let Some(entry) = self.shorten_zone(fanout, filter, position)
        {
            mine.push((entry.options, entry.subscription_id));
        }
    }

    /// Takes the entry at `position` out of the filter's zone in one fan-out, if it is in it, and
    /// tells its owner where it is then.
    fn shorten_zone(&mut self, number: u64, filter: FilterId, position: u32) -> Option<Subscriber> {
        let last = self.leave_zone(number, filter, position)?;
        let entry = *self.index.subscribers(filter).get(last as usize)?;
        self.tell_place(entry, filter, last);
        Some(entry)
    }

    /// The entry at `position` leaves the filter's zone in one fan-out, if it is in it: it changes
    /// places with the last one of the zone, which gets shorter. Returns where it is then.
    fn leave_zone(&mut self, number: u64, filter: FilterId, position: u32) -> Option<u32> {
        let zone = self.fanouts.zone(number, filter)?;
        if position >= zone.left {
            return None;
        }
        zone.left -= 1;
        let last = zone.left;
        self.exchange(filter, position, last);
        Some(last)
    }

    /// An entry of the filter's list at `position` is about to be removed: takes it out of every
    /// zone, and returns where it is then.
    pub(super) fn leave_zones(&mut self, filter: FilterId, position: u32) -> u32 {
        if self.fanouts.is_empty() || !self.fanouts.is_in_zone(filter, position) {
            return position;
        }
        let numbers: Vec<u64> = self.fanouts.with(filter, position).collect();
        self.meter.charge(cost::VISIT * numbers.len() as u32);
        let mut hole = position;
        for number in numbers {
            hole = self.leave_zone(number, filter, hole).unwrap_or(hole);
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
