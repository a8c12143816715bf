//! Shared subscriptions [MQTT5 4.8.2] on the home shard of a group: members join and leave. A group
//! is an entry in the index like a subscriber. [`super::pick`] and [`super::groups`] choose the
//! member that gets a message, and [`super::membership`] is the members' side. On a node of a
//! cluster, a group also exists here while another node has members of it ([`super::passing`]).

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
    /// Adds a member from another shard, and tells that shard that this one routes for the member
    /// now.
    pub(super) fn join_group(&mut self, join: Join) {
        let (member, ticket) = (join.member, join.ticket);
        self.add_member(join);
        self.tell(member.shard, Control::Joined(member, ticket));
    }

    /// Adds a member or replaces its options. The cost does not depend on the size of the group.
    pub(super) fn add_member(&mut self, join: Join) {
        self.meter.charge(cost::FILTER);
        let Join { name, member, options, subscription_id, .. } = join;
        let member = Member { session: member, options, subscription_id };
        let Some(group) = self.group_of(&name) else { return };
        let first = self.subscriptions.groups.len(group) == 0;
        self.subscriptions.groups.join(group, member);
        if first {
            self.tell_cluster_of_group(&name, true);
        }
    }

    /// The group of that name, which is created if there is none.
    fn group_of(&mut self, name: &ShareName) -> Option<u32> {
        if let Some(group) = self.subscriptions.groups.find(name) {
            return Some(group);
        }
        let share = topic::parse_share(name.as_str())?.ok()?;
        let id = self.subscriptions.index.intern_always(share.filter);
        let group = self.subscriptions.groups.create(name.clone(), id);
        let subscriber = Subscriber { target: group, options: GROUP, subscription_id: 0 };
        let position = self.subscriptions.index.add(id, subscriber);
        self.subscriptions.groups.moved(group, position);
        if !Mutant::InterestNotAnnounced.is_on() {
            self.announce(id);
        }
        Some(group)
    }

    /// Removes a member that leaves or was found to be gone, and the group if it has no member
    /// left. The cost does not depend on the size of the group.
    pub(super) fn leave_group(&mut self, name: &ShareName, member: SessionRef) {
        self.meter.charge(cost::FILTER);
        let Some(group) = self.subscriptions.groups.find(name) else { return };
        let before = self.subscriptions.groups.len(group);
        let gone = self.subscriptions.groups.leave(group, member);
        if before > 0
            && self.subscriptions.groups.len(group) == 0
            && !Mutant::ClusterGroupKept.is_on()
        {
            self.tell_cluster_of_group(name, false);
        }
        if let Some((id, position)) = gone {
            self.remove_place(id, position);
        }
    }

    /// Notes that another node has members of a group whose home here is this shard (`wanted`), or
    /// none any more.
    pub(super) fn set_group_node(&mut self, node: u8, name: &str, wanted: bool) {
        self.meter.charge(cost::FILTER);
        let name = ShareName::new(name);
        let group = match wanted {
            true => self.group_of(&name),
            false => self.subscriptions.groups.find(&name),
        };
        let Some(group) = group else { return };
        if let Some((id, position)) = self.subscriptions.groups.set_node(group, node, wanted) {
            self.remove_place(id, position);
        }
    }

    /// Tells the cluster that a group has its first member at this node (`wanted`), or none any
    /// more.
    fn tell_cluster_of_group(&mut self, name: &ShareName, wanted: bool) {
        if let Some(cluster) = self.topology.cluster() {
            self.tell(cluster, Control::Want(name.as_str().into(), wanted));
        }
    }
}
