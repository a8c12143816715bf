//! Shared subscriptions [MQTT5 4.8.2], on the home shard of a member: a session joins and leaves
//! groups, and the home shards of its groups are told when it connects, disconnects or has room
//! again.

use super::Shard;
use crate::limits::cost;
use crate::mesh::mail::{Control, Join};
use crate::mutant::Mutant;
use crate::session::{Membership, Session, ShareName, Shares};

impl Shard {
    /// Makes the session a member of a group; true when the group's home shard has to confirm that.
    /// The cost does not depend on the number of memberships.
    pub(super) fn join(
        &mut self,
        index: u32,
        filter: &str,
        options: u8,
        subscription_id: u32,
        ticket: u64,
    ) -> bool {
        let member = self.session_ref(index);
        let home = self.topology.home(filter);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let name = ShareName::new(filter);
        let membership = Membership { name: name.clone(), options, subscription_id };
        if session.extras().shares.get_or_insert_default().set(membership, home) {
            self.memory.tally.shares += filter.len();
            self.counters.subscriptions += 1;
            self.counters.shared_subscriptions += 1;
        }
        let join = Join { name, member, ticket, options, subscription_id };
        if home == self.topology.id {
            self.add_member(join);
            return false;
        }
        self.tell(home, Control::Join(Box::new(join)));
        true
    }

    /// Ends a membership; false when the session had none. The client may finish what it was
    /// already sent [MQTT-3.10.4-3]; what only waits in the session's queue goes back to the group.
    /// The cost does not depend on the number of memberships.
    pub(super) fn leave(&mut self, index: u32, filter: &str) -> bool {
        self.leave_named(index, &ShareName::new(filter))
    }

    /// Does the same as [`Shard::leave`], for the group's name and filter.
    pub(super) fn leave_named(&mut self, index: u32, name: &ShareName) -> bool {
        let Some(shares) = self.sessions.get_mut(index).and_then(|s| s.shares_mut()) else {
            return false;
        };
        let Some(gone) = shares.list.remove(name) else { return false };
        self.forget_membership(index, gone);
        let waits = |s: &Session| s.flow.as_ref().is_some_and(|flow| flow.pending.has_shares());
        if self.sessions.get(index).is_some_and(waits) {
            self.sift_later(index);
        }
        true
    }

    /// Ends any one membership of a session that ends; false when there was none.
    pub(super) fn leave_any(&mut self, index: u32) -> bool {
        let shares = self.sessions.get_mut(index).and_then(|session| session.shares_mut());
        let Some(gone) = shares.and_then(|shares| shares.list.pop()) else { return false };
        self.meter.charge(cost::FILTER);
        if let Some(storing) = &mut self.storing {
            self.meter.charge(storing.forget_left(index, gone.name.as_str()));
        }
        self.forget_membership(index, gone);
        true
    }

    /// Tells the group's home shard that a membership was taken out of the session.
    fn forget_membership(&mut self, index: u32, gone: Membership) {
        if let Some(extras) = self.sessions.get_mut(index).and_then(|s| s.extras.as_mut())
            && extras.shares.as_ref().is_some_and(|shares| shares.list.is_empty())
        {
            extras.shares = None;
        }
        self.counters.subscriptions -= 1;
        self.counters.shared_subscriptions -= 1;
        self.memory.tally.shares -= gone.name.as_str().len();
        if Mutant::ShareDeadMember.is_on()
            && self.sessions.get(index).is_none_or(|s| s.socket().is_none())
        {
            return;
        }
        let home = self.topology.home(gone.name.as_str());
        let member = self.session_ref(index);
        if home == self.topology.id {
            self.leave_group(&gone.name, member);
        } else {
            self.tell(home, Control::Leave(gone.name, member));
        }
    }

    /// Tells the homes of the session's share groups whether it is connected: one mail for each
    /// shard, however many groups there are.
    pub(super) fn tell_presence(&mut self, index: u32, online: bool) {
        let member = self.session_ref(index);
        let Some(shares) = self.sessions.get_mut(index).and_then(|s| s.shares_mut()) else {
            return;
        };
        shares.refused = false;
        for home in shares.homes.iter() {
            if home == self.topology.id {
                self.subscriptions.groups.set_online(member, online);
            } else {
                self.tell(home, Control::Presence(member, online));
            }
        }
    }

    /// Tells the session's groups that it has room again, if it has refused a message of a group.
    #[inline]
    pub(super) fn tell_room(&mut self, index: u32) {
        let refused = |shares: &Shares| shares.refused;
        if self.sessions.get(index).and_then(|s| s.shares()).is_some_and(refused) {
            self.tell_room_if_low(index);
        }
    }

    fn tell_room_if_low(&mut self, index: u32) {
        let (bounds, low) = (self.pending_bounds_of(index), self.settings.low_water());
        let Some(session) = self.sessions.get(index) else { return };
        let Some(socket) = session.socket() else { return };
        let few = session.flow.as_ref().is_none_or(|flow| {
            flow.pending.len() <= bounds.messages / 4 && flow.pending.bytes() <= bounds.bytes / 4
        });
        let connection = self.connections.get(socket.0);
        let output = connection.and_then(|connection| connection.output.as_ref());
        if few && output.is_none_or(|output| output.unsent() <= low) {
            self.tell_presence(index, true);
        }
    }
}
