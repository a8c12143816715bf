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
use super::deliver::SendTerms;
use super::route::GROUP;
use crate::ids::{ClientKey, ShardId};
use crate::limits::cost;
use crate::mesh::mail::Control;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::topic::FilterId;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Most fan-outs that wait.
const MOST: usize = 1024;
/// Most bytes of their messages.
const MOST_BYTES: usize = 32 << 20;
/// When there are more filters than this to look through, the shard remembers which fan-outs a
/// session has been caught up with.
const FEW: usize = 8;

/// Subscribers of one filter that a fan-out has still to serve: the first `left` of its list.
struct FanoutFilter {
    fanout: u64,
    pub(super) left: u32,
}

/// One message, and the subscribers that are still to get it.
pub(super) struct Fanout {
    /// Later fan-outs have higher numbers, without gaps.
    number: u64,
    message: Message,
    /// Filters with a zone. The last is served first.
    filters: Vec<FilterId>,
    /// Its publisher was told to wait.
    held: bool,
    /// Share groups do not get the message.
    only_sessions: bool,
    /// The shard that is told the cost of the message when the fan-out is done, and the mail that
    /// says it.
    pub report: Option<(ShardId, Control)>,
}

/// The fan-outs of a shard that are under way, oldest first, and local publishers that wait.
#[derive(Default)]
pub(super) struct Fanouts {
    waiting: VecDeque<Fanout>,
    /// The zones of each filter, the oldest fan-out's first.
    zones: HashMap<FilterId, VecDeque<FanoutFilter>, foldhash::fast::FixedState>,
    /// The newest fan-out that a session of many subscriptions has been caught up with, by the
    /// index of the session. Should another session have had that index before, the entry is right
    /// all the same: a session that subscribes later is in no zone of that fan-out.
    caught: HashMap<u32, u64, foldhash::fast::FixedState>,
    newest: u64,
    bytes: usize,
    /// No further message may be taken in.
    full: bool,
    /// Fan-outs under way, here or on other shards, of each local publisher.
    pub(super) holds: HashMap<ClientKey, u32, foldhash::fast::FixedState>,
    mine: Vec<(u8, u32)>,
    taken: Vec<(u64, FilterId)>,
    /// What the fan-out will still cost that was begun last, if it goes on over later steps: what
    /// it has cost in this step is charged already. The code that took the message in reads and
    /// clears it.
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
        self.full
    }

    /// Notes whether there are as many fan-outs as may be; `is_full` is asked for each message.
    fn count(&mut self) {
        self.full = self.waiting.len() >= MOST || self.bytes >= MOST_BYTES;
    }

    /// The fan-out that was begun last.
    pub fn newest(&mut self) -> Option<&mut Fanout> {
        self.waiting.back_mut()
    }

    /// How many entries of lists the newest fan-out has still to serve.
    fn left_of_newest(&self) -> u32 {
        let Some(newest) = self.waiting.back() else { return 0 };
        let zones = newest.filters.iter().filter_map(|filter| self.zones.get(filter)?.back());
        zones.fold(0, |left, zone| left.saturating_add(zone.left))
    }

    /// How many local publishers wait.
    pub fn holding(&self) -> usize {
        self.holds.len()
    }

    /// Adds a fan-out; its zones are the first so many entries of each filter's list.
    fn push(
        &mut self,
        message: Message,
        only_sessions: bool,
        zones: impl Iterator<Item = (FilterId, u32)>,
    ) {
        self.newest += 1;
        let number = self.newest;
        let filters = zones.map(|(filter, left)| {
            self.zones.entry(filter).or_default().push_back(FanoutFilter { fanout: number, left });
            filter
        });
        let filters = filters.collect();
        self.bytes += message.size();
        let (held, report) = (false, None);
        self.waiting.push_back(Fanout { number, message, filters, held, only_sessions, report });
        self.count();
    }

    /// Takes the last zone off the oldest fan-out. No fan-out is older, so the zone is its filter's
    /// first.
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
        self.count();
        if self.waiting.is_empty() {
            // The tables give their memory back: a broadcast to a million leaves nothing behind.
            (self.zones, self.caught) = Default::default();
        }
        Some(fanout)
    }

    fn get(&self, number: u64) -> Option<&Fanout> {
        let first = self.waiting.front()?.number;
        let at = usize::try_from(number.checked_sub(first)?).ok()?;
        self.waiting.get(at)
    }

    fn message(&self, number: u64) -> Option<Message> {
        self.get(number).map(|fanout| fanout.message.clone())
    }

    /// True when the entry at `position` of the filter's list is in some zone.
    pub(super) fn is_in_zone(&self, filter: FilterId, position: u32) -> bool {
        self.zones
            .get(&filter)
            .and_then(VecDeque::back)
            .is_some_and(|newest| position < newest.left)
    }

    /// The fan-outs that have a zone with the entry at `position` of the filter's list.
    pub(super) fn with(&self, filter: FilterId, position: u32) -> impl Iterator<Item = u64> + '_ {
        let zones = self.zones.get(&filter);
        let first = zones.map_or(0, |zones| zones.partition_point(|zone| zone.left <= position));
        zones.into_iter().flat_map(move |zones| zones.range(first..)).map(|zone| zone.fanout)
    }

    /// The filter's zone in one fan-out loses its last place, if `position` is in the zone; returns
    /// the place that it lost.
    pub(super) fn shorten(&mut self, fanout: u64, filter: FilterId, position: u32) -> Option<u32> {
        let zone = self.zone(fanout, filter).filter(|zone| position < zone.left)?;
        zone.left -= 1;
        Some(zone.left)
    }

    fn zone(&mut self, fanout: u64, filter: FilterId) -> Option<&mut FanoutFilter> {
        let zones = self.zones.get_mut(&filter)?;
        let at = zones.binary_search_by_key(&fanout, |zone| zone.fanout).ok()?;
        zones.get_mut(at)
    }
}

impl Shard {
    /// Accepts a message for more subscribers than are served at once: all entries of the lists of
    /// `found`. Serves what fits into the step.
    pub(super) fn begin_fanout(&mut self, found: &[FilterId], message: &MessageRef<'_>) {
        let stored = self.delivery.store(message);
        let index = &self.subscriptions.index;
        let whole = |&filter: &FilterId| (filter, index.subscribers(filter).len() as u32);
        let only_sessions = self.delivery.only_sessions;
        self.delivery.fanouts.push(stored, only_sessions, found.iter().map(whole));
        self.counters.fanouts += 1;
        if self.delivery.fanouts.len() == 1 && !self.run_fanouts(self.settings.budget.step) {
            return;
        }
        let left = self.delivery.fanouts.left_of_newest();
        self.delivery.fanouts.owed = cost::DELIVERY.saturating_mul(left);
        if let (Some(publisher), Some(last)) =
            (message.publisher, self.delivery.fanouts.waiting.back_mut())
        {
            last.held = true;
            self.make_publisher_wait(publisher);
        }
    }

    /// Goes on with the fan-outs under way, oldest first, until the step's work comes to `limit`;
    /// true when some are left.
    pub(super) fn run_fanouts(&mut self, limit: u32) -> bool {
        if self.delivery.fanouts.is_empty() {
            return false;
        }
        let outer = std::mem::take(&mut self.delivery.current);
        let only_sessions = self.delivery.only_sessions;
        while !self.is_spent(limit) {
            let Some(front) = self.delivery.fanouts.waiting.front() else { break };
            self.delivery.only_sessions = front.only_sessions;
            let message = front.message.clone();
            let view = message.view();
            self.delivery.current.begin(Some(&message));
            self.delivery.current.many = true;
            let done = self.serve_front(&view, limit);
            // The publisher waits for the fan-out, and not for single ones of so many subscribers.
            self.delivery.current.crowded.clear();
            if (done || Mutant::FanoutForgetsRest.is_on())
                && let Some(fanout) = self.delivery.fanouts.pop()
            {
                if fanout.held {
                    self.let_publisher_go(view.publisher);
                }
                if let Some((sender, report)) = fanout.report {
                    self.tell(sender, report);
                }
            }
        }
        self.delivery.only_sessions = only_sessions;
        self.delivery.current = outer;
        self.counters.fanouts_under_way = self.delivery.fanouts.len() as u64;
        !self.delivery.fanouts.is_empty()
    }

    /// Serves subscribers of the oldest fan-out; true when none are left.
    fn serve_front(&mut self, message: &MessageRef<'_>, limit: u32) -> bool {
        while !self.is_spent(limit) {
            let Some(front) = self.delivery.fanouts.waiting.front() else { return true };
            let (number, alone) = (front.number, front.filters.len() == 1);
            let Some(&filter) = front.filters.last() else { return true };
            let Some(zone) = self.delivery.fanouts.zone(number, filter) else { return true };
            if zone.left == 0 {
                self.delivery.fanouts.pop_zone();
                continue;
            }
            zone.left -= 1;
            let at = zone.left as usize;
            let Some(&subscriber) = self.subscriptions.index.subscribers(filter).get(at) else {
                continue;
            };
            if alone || subscriber.options & GROUP != 0 {
                self.deliver_one(subscriber, message);
            } else {
                let mut mine = std::mem::take(&mut self.delivery.fanouts.mine);
                mine.push((subscriber.options, subscriber.subscription_id));
                self.take_from_front(subscriber.target, &mut mine);
                self.deliver_combined(subscriber.target, &mut mine, message);
                mine.clear();
                self.delivery.fanouts.mine = mine;
            }
        }
        false
    }

    /// Delivers to a session, ahead of their turn, the fan-outs under way that it is still to get.
    /// To be called before anything newer is given to the session.
    #[inline]
    pub(super) fn catch_up(&mut self, index: u32) {
        if !self.delivery.fanouts.is_empty() {
            self.catch_up_now(index);
        }
    }

    fn catch_up_now(&mut self, index: u32) {
        let Some(session) = self.sessions.get(index) else { return };
        let (own, fanouts) = (&session.subscriptions, &self.delivery.fanouts);
        let looks = own.len().min(fanouts.zones.len());
        if looks > FEW && fanouts.caught.get(&index) == Some(&fanouts.newest) {
            return;
        }
        self.meter.charge(cost::VISIT * looks as u32);
        let mut taken = std::mem::take(&mut self.delivery.fanouts.taken);
        let fanouts = &self.delivery.fanouts;
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
            self.delivery.fanouts.caught.insert(index, self.delivery.fanouts.newest + early);
        }
        taken.sort_unstable();
        if !taken.is_empty() {
            self.catch_up_with(index, &taken);
        }
        taken.clear();
        self.delivery.fanouts.taken = taken;
    }

    /// Delivers to the session the fan-outs that it is still to get, given with their filters and
    /// in order.
    fn catch_up_with(&mut self, index: u32, taken: &[(u64, FilterId)]) {
        self.meter.charge(cost::VISIT * taken.len() as u32);
        let outer = std::mem::take(&mut self.delivery.current);
        let mut mine = std::mem::take(&mut self.delivery.fanouts.mine);
        for group in taken.chunk_by(|one, other| one.0 == other.0) {
            for &(number, filter) in group {
                self.take_from_zone(number, filter, index, &mut mine);
            }
            let Some(message) =
                group.first().and_then(|first| self.delivery.fanouts.message(first.0))
            else {
                continue;
            };
            self.delivery.current.begin(Some(&message));
            self.deliver_combined(index, &mut mine, &message.view());
            self.delivery.current.crowded.clear();
            if !Mutant::FanoutTwice.is_on() {
                mine.clear();
            }
        }
        mine.clear();
        self.delivery.fanouts.mine = mine;
        self.delivery.current = outer;
    }

    /// Catches up a share group whose filter matched, as `catch_up` does with a session.
    pub(super) fn catch_up_group(&mut self, group: u32) {
        if self.delivery.fanouts.is_empty() {
            return;
        }
        let Some((filter, position)) = self.subscriptions.place(group) else { return };
        if !self.delivery.fanouts.is_in_zone(filter, position) {
            return;
        }
        let numbers: Vec<u64> = self.delivery.fanouts.with(filter, position).collect();
        let outer = std::mem::take(&mut self.delivery.current);
        let only_sessions = self.delivery.only_sessions;
        for number in numbers {
            // The group's place changes as it is taken out of one zone after the other.
            let Some((filter, position)) = self.subscriptions.place(group) else { break };
            if self.shorten_zone(number, filter, position).is_none() {
                continue;
            }
            self.meter.charge(cost::VISIT);
            let Some(fanout) = self.delivery.fanouts.get(number) else { continue };
            self.delivery.only_sessions = fanout.only_sessions;
            let message = fanout.message.clone();
            self.delivery.current.begin(Some(&message));
            self.deliver_to_group(group, &message.view());
            self.delivery.current.crowded.clear();
        }
        self.delivery.only_sessions = only_sessions;
        self.delivery.current = outer;
    }

    /// Takes the session's entries out of the zones of the oldest fan-out and adds their options
    /// and identifiers to `mine`.
    fn take_from_front(&mut self, index: u32, mine: &mut Vec<(u8, u32)>) {
        let Some(front) = self.delivery.fanouts.waiting.front() else { return };
        let Some(session) = self.sessions.get(index) else { return };
        let (number, own) = (front.number, &session.subscriptions);
        let mut taken = std::mem::take(&mut self.delivery.fanouts.taken);
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
        self.delivery.fanouts.taken = taken;
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

    /// Delivers a message to a session of this shard: sends, queues or drops it by policy. Older
    /// messages that are still on their way to the session go first.
    pub(super) fn deliver(&mut self, index: u32, message: &MessageRef<'_>, terms: &SendTerms<'_>) {
        self.catch_up(index);
        self.deliver_now(index, message, terms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Qos;

    #[test]
    fn what_is_served_is_not_owed() {
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload: b"m",
            qos: Qos::AtMostOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        let mut fanouts = Fanouts::default();
        assert_eq!(fanouts.left_of_newest(), 0);
        let (one, other) = (FilterId(1), FilterId(2));
        for zones in [[(one, 100), (other, 50)], [(one, 7), (other, 5)]] {
            let message = Message::new(&message, &mut Vec::new());
            fanouts.push(message, false, zones.into_iter());
        }
        assert_eq!(fanouts.left_of_newest(), 12, "the older fan-out was counted before");
        let newest = fanouts.newest;
        fanouts.zone(newest, other).expect("a zone").left = 0;
        assert_eq!(fanouts.shorten(newest, one, 3), Some(6));
        assert_eq!(fanouts.left_of_newest(), 6);
    }
}
