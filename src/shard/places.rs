//! Keeps track of where subscriptions stand in the index. This module adds and removes entries,
//! tells the owner of an entry that has moved, keeps fan-outs that are under way correct, and tells
//! the other shards about the first and the last subscriber of a filter.

use super::Shard;
use super::route::GROUP;
use crate::limits::cost;
use crate::mesh::mail::Control;
use crate::mutant::Mutant;
use crate::session::SubscriptionSlot;
use crate::topic::{FilterId, Subscriber};

impl Shard {
    /// After an addition: tells the other shards when the filter has its first subscriber here.
    pub(super) fn announce(&mut self, filter: FilterId) {
        if !self.topology.is_alone() && self.subscriptions.index.subscribers(filter).len() == 1 {
            let text = self.subscriptions.index.filter(filter);
            self.topology.shared.interest.add(
                self.topology.id,
                self.subscriptions.index.key(filter),
                text,
            );
        }
    }

    /// The same for a session's entry, and also tells the cluster when a filter has its first
    /// session here. The cluster is told about groups by their names.
    pub(super) fn announce_session(&mut self, filter: FilterId) {
        self.announce(filter);
        if self.topology.cluster().is_some() && self.sessions_with(filter) == 1 {
            self.tell_cluster(filter, true);
        }
    }

    /// How many entries with that filter are of sessions, and not of groups.
    fn sessions_with(&self, filter: FilterId) -> usize {
        let all = self.subscriptions.index.subscribers(filter).len();
        all - self.subscriptions.groups.with_filter(filter)
    }

    /// Tells the cluster that a filter has its first session here (`wanted`), or none any more.
    fn tell_cluster(&mut self, filter: FilterId, wanted: bool) {
        if let Some(cluster) = self.topology.cluster() {
            let text = self.subscriptions.index.filter(filter).into();
            self.tell(cluster, Control::Want(text, wanted));
        }
    }

    /// Tells the cluster that a filter has no session any more, if the entry at `position` is the
    /// last one.
    fn withdraw_session(&mut self, filter: FilterId, position: u32) {
        let entry = self.subscriptions.index.subscribers(filter).get(position as usize);
        if entry.is_some_and(|entry| entry.options & GROUP == 0) && self.sessions_with(filter) == 1
        {
            self.tell_cluster(filter, false);
        }
    }

    /// Takes an entry out of the index, and tells the owner of the entry that takes its position.
    pub(super) fn remove_place(&mut self, filter: FilterId, position: u32) {
        self.meter.charge(cost::FILTER);
        let last = self.subscriptions.index.subscribers(filter).len() == 1;
        if !self.topology.is_alone() && last && !Mutant::InterestNotWithdrawn.is_on() {
            let text = self.subscriptions.index.filter(filter);
            self.topology.shared.interest.remove(
                self.topology.id,
                self.subscriptions.index.key(filter),
                text,
            );
        }
        if self.topology.cluster().is_some() {
            self.withdraw_session(filter, position);
        }
        let position = self.leave_zones(filter, position);
        let Some(moved) = self.subscriptions.index.remove(filter, position).moved else { return };
        if !Mutant::PlaceNotMoved.is_on() {
            self.tell_place(moved, filter, position);
        }
    }

    /// Tells the owner of an entry that the entry has moved.
    fn tell_place(&mut self, entry: Subscriber, filter: FilterId, position: u32) {
        if entry.options & GROUP != 0 {
            self.subscriptions.moved(entry.target, position);
        } else if let Some(session) = self.sessions.get_mut(entry.target) {
            session.subscriptions.set(SubscriptionSlot { filter, position });
        }
    }

    /// Takes the entry at `position` out of the filter's zone in one fan-out, if the zone contains
    /// it, and tells the owner where the entry is then.
    pub(super) fn shorten_zone(
        &mut self,
        number: u64,
        filter: FilterId,
        position: u32,
    ) -> Option<Subscriber> {
        let last = self.leave_zone(number, filter, position)?;
        let entry = *self.subscriptions.index.subscribers(filter).get(last as usize)?;
        self.tell_place(entry, filter, last);
        Some(entry)
    }

    /// Moves the entry at `position` out of the filter's zone in one fan-out, if the zone contains
    /// it: the entry changes places with the last one of the zone, which then gets shorter. Returns
    /// where the entry is then.
    fn leave_zone(&mut self, number: u64, filter: FilterId, position: u32) -> Option<u32> {
        let last = self.delivery.fanouts.shorten(number, filter, position)?;
        self.exchange(filter, position, last);
        Some(last)
    }

    /// Moves the entry at `position` of the filter's list, which is about to be removed, out of
    /// every zone. Returns where the entry is then.
    fn leave_zones(&mut self, filter: FilterId, position: u32) -> u32 {
        if self.delivery.fanouts.is_empty() || !self.delivery.fanouts.is_in_zone(filter, position) {
            return position;
        }
        let numbers: Vec<u64> = self.delivery.fanouts.with(filter, position).collect();
        self.meter.charge(cost::VISIT * numbers.len() as u32);
        let mut hole = position;
        for number in numbers {
            hole = self.leave_zone(number, filter, hole).unwrap_or(hole);
        }
        hole
    }

    /// Exchanges the entries at `last` and `position` of a filter's list, and tells the owner of
    /// the one that is at `position` then. The owner of the other entry is not told, because that
    /// entry may be about to be removed.
    pub(super) fn exchange(&mut self, filter: FilterId, position: u32, last: u32) {
        if position != last {
            self.subscriptions.index.swap(filter, position, last);
            let entry = *self.subscriptions.index.get_mut(filter, position);
            self.tell_place(entry, filter, position);
        }
    }
}
