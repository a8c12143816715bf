//! Shared subscriptions [MQTT5 4.8.2]: the groups whose home is this shard, as members join and
//! leave. A group is an entry in the index like a subscriber. [`super::pick`] and
//! [`super::groups`] choose the member that gets a message, and [`super::membership`] is the
//! members' side.

use super::Shard;
use super::groups::Member;
use super::route::GROUP;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::mesh::mail::{Control, Join};
use crate::mutant::Mutant;
use crate::session::ShareName;
use crate::topic::{self, Subscriber};

impl Shard {
    /// A member from another shard joins; its shard is told when this one routes for it.
    pub(super) fn join_group(&mut self, join: Join) {
        let (member, ticket) = (join.member, join.ticket);
        self.add_member(join);
        self.tell(member.shard, Control::Joined(member, ticket));
    }

    /// Adds a member or replaces its options. Costs the same however large the group is.
    pub(super) fn add_member(&mut self, join: Join) {
        self.meter.charge(cost::FILTER);
        let Join { name, member, options, subscription_id, .. } = join;
        let member = Member { session: member, options, subscription_id };
        if let Some(group) = self.subscriptions.groups.find(&name) {
            self.subscriptions.groups.join(group, member);
            return;
        }
        let Some(Ok(share)) = topic::parse_share(name.as_str()) else { return };
        let id = self.subscriptions.index.intern_always(share.filter);
        let group = self.subscriptions.groups.create(name.clone(), id);
        self.subscriptions.groups.join(group, member);
        let subscriber = Subscriber { target: group, options: GROUP, subscription_id: 0 };
        let position = self.subscriptions.index.add(id, subscriber);
        self.subscriptions.groups.moved(group, position);
        if !Mutant::InterestNotAnnounced.is_on() {
            self.announce(id);
        }
    }

    /// A member leaves, or is found to be gone; an empty group goes. Costs the same however large
    /// the group is.
    pub(super) fn leave_group(&mut self, name: &ShareName, member: SessionRef) {
        self.meter.charge(cost::FILTER);
        let Some(group) = self.subscriptions.groups.find(name) else { return };
        if let Some((id, position)) = self.subscriptions.groups.leave(group, member) {
            self.remove_place(id, position);
        }
    }
}
