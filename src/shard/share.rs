//! Shared subscriptions [MQTT5 4.8.2]. A group lives on the shard that its filter hashes to: there
//! it stands in the index like a subscriber, and picks a member for each message. Members live on
//! their own home shards.

use super::Shard;
use super::deliver::Terms;
use super::pace::{Reader, Receivers};
use super::route::{GROUP, SOLE, live_retain, packed_qos};
use super::subscribe::Joining;
use crate::config::SharedStrategy;
use crate::ids::{SessionRef, ShardId};
use crate::mesh::mail::{Control, Join, Picked};
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::session::Membership;
use crate::slab::Slab;
use crate::topic::{self, FilterId, Subscriber};
use hashbrown::HashMap;

/// The groups of one shard, and the SUBACKs of its clients that wait for groups elsewhere.
#[derive(Default)]
pub(super) struct Groups {
    groups: Slab<Group>,
    by_filter: HashMap<Box<str>, u32>,
    pub(super) joining: HashMap<u32, Joining>,
    random: u64,
}

/// One share group.
struct Group {
    filter: Box<str>,
    place: (FilterId, u32),
    members: Vec<Member>,
    next: usize,
}

/// One member.
#[derive(Clone, Copy)]
struct Member {
    session: SessionRef,
    options: u8,
    subscription_id: u32,
    online: bool,
}

impl Groups {
    /// The group's entry in the index moved.
    pub(super) fn moved(&mut self, group: u32, position: u32) {
        if let Some(group) = self.groups.get_mut(group) {
            group.place.1 = position;
        }
    }

    /// The group's entry in the index.
    pub(super) fn place(&self, group: u32) -> Option<(FilterId, u32)> {
        self.groups.get(group).map(|group| group.place)
    }

    /// Groups and their members.
    pub(super) fn count(&self) -> (usize, usize) {
        let members = self.places().map(|(group, _)| self.groups.get(group));
        (self.by_filter.len(), members.flatten().map(|group| group.members.len()).sum())
    }

    /// Every group's place in the index.
    pub(super) fn places(&self) -> impl Iterator<Item = (u32, (FilterId, u32))> + '_ {
        let places = |&group: &u32| Some((group, self.groups.get(group)?.place));
        self.by_filter.values().filter_map(places)
    }

    fn find(&mut self, filter: &str) -> Option<(u32, &mut Group)> {
        let index = *self.by_filter.get(filter)?;
        Some((index, self.groups.get_mut(index)?))
    }

    fn random(&mut self) -> usize {
        // xorshift: spreading load needs no better.
        if self.random == 0 {
            self.random = 0x9e37_79b9_7f4a_7c15;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) as usize
    }

    /// Picks a member by `strategy`: a connected one while there is one.
    fn pick(
        &mut self,
        group: u32,
        strategy: SharedStrategy,
        message: &MessageRef<'_>,
        topic: u64,
    ) -> Option<Member> {
        let random = if strategy == SharedStrategy::Random { self.random() } else { 0 };
        let group = self.groups.get_mut(group)?;
        let count = group.members.len();
        if count == 0 {
            return None;
        }
        let first = match strategy {
            SharedStrategy::RoundRobin | SharedStrategy::Sticky => group.next % count,
            SharedStrategy::Random => random % count,
            SharedStrategy::HashTopic => topic as usize % count,
            SharedStrategy::HashClient => {
                message.publisher.map_or(0, |publisher| publisher.client.0.get() as usize % count)
            }
        };
        let at = (0..count)
            .map(|step| (first + step) % count)
            .find(|&at| group.members[at].online)
            .unwrap_or(first);
        group.next = if strategy == SharedStrategy::RoundRobin { at + 1 } else { at };
        Some(group.members[at])
    }
}

impl Shard {
    /// The shard that a group lives on.
    pub(super) fn group_home(&self, filter: &str) -> ShardId {
        self.home(filter)
    }

    /// Control mail, or the same at once when it is for this shard.
    pub(super) fn tell(&mut self, to: ShardId, control: Control) {
        if to == self.id {
            self.heed(to, control);
        } else {
            self.outbox.tell(to, control);
        }
    }

    /// Makes the session a member; true when the group's home has to confirm it.
    pub(super) fn join(
        &mut self,
        index: u32,
        filter: &str,
        options: u8,
        subscription_id: u32,
        ticket: u64,
    ) -> bool {
        let member = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let shares = &mut session.extras().shares;
        let membership = Membership { filter: filter.into(), options, subscription_id };
        match shares.iter_mut().find(|share| *share.filter == *filter) {
            Some(known) => *known = membership,
            None => {
                shares.push(membership);
                self.counters.subscriptions += 1;
                self.counters.shared_subscriptions += 1;
            }
        }
        let join = Join { filter: filter.into(), member, ticket, options, subscription_id };
        let home = self.group_home(filter);
        if home == self.id {
            self.add_member(join);
            return false;
        }
        self.tell(home, Control::Join(Box::new(join)));
        true
    }

    /// Ends a membership; false when there was none.
    pub(super) fn leave(&mut self, index: u32, filter: &str) -> bool {
        let member = self.session_ref(index);
        let Some(extras) = self.sessions.get_mut(index).and_then(|s| s.extras.as_mut()) else {
            return false;
        };
        let Some(at) = extras.shares.iter().position(|share| *share.filter == *filter) else {
            return false;
        };
        extras.shares.swap_remove(at);
        self.counters.subscriptions -= 1;
        self.counters.shared_subscriptions -= 1;
        let home = self.group_home(filter);
        self.tell(home, Control::Leave(filter.into(), member));
        true
    }

    /// A member from another shard joins; its shard is told when this one routes for it.
    pub(super) fn join_group(&mut self, join: Join) {
        let (member, ticket) = (join.member, join.ticket);
        self.add_member(join);
        self.tell(member.shard, Control::Joined(member, ticket));
    }

    fn add_member(&mut self, join: Join) {
        let Join { filter, member, options, subscription_id, .. } = join;
        let new = Member { session: member, options, subscription_id, online: true };
        if let Some((_, group)) = self.groups.find(&filter) {
            match group.members.iter_mut().find(|known| known.session == member) {
                Some(known) => *known = new,
                None => group.members.push(new),
            }
            return;
        }
        let Some(Ok(share)) = topic::parse_share(&filter) else { return };
        let plain = share.filter.to_owned();
        let id = self.index.intern_always(&plain);
        let group = self.groups.groups.insert(Group {
            filter: filter.clone(),
            place: (id, 0),
            members: vec![new],
            next: 0,
        });
        let subscriber = Subscriber { target: group, options: GROUP, subscription_id: 0 };
        let position = self.index.add(id, subscriber);
        self.groups.moved(group, position);
        self.groups.by_filter.insert(filter, group);
        if !Mutant::InterestNotAnnounced.is_on() {
            self.announce(id);
        }
    }

    /// A member leaves, or is found to be gone; an empty group goes.
    pub(super) fn leave_group(&mut self, filter: &str, member: SessionRef) {
        let Some((index, group)) = self.groups.find(filter) else { return };
        let Some(at) = group.members.iter().position(|known| known.session == member) else {
            return;
        };
        group.members.remove(at);
        if group.next > at {
            group.next -= 1;
        }
        if !group.members.is_empty() {
            return;
        }
        let (id, position) = group.place;
        self.groups.by_filter.remove(filter);
        self.groups.groups.remove(index);
        self.remove_place(id, position);
    }

    /// A member connected or disconnected.
    pub(super) fn presence(&mut self, filter: &str, member: SessionRef, online: bool) {
        if let Some((_, group)) = self.groups.find(filter)
            && let Some(known) = group.members.iter_mut().find(|known| known.session == member)
        {
            known.online = online;
        }
    }

    /// One message to one member of the group.
    pub(super) fn deliver_to_group(&mut self, group: u32, message: &MessageRef<'_>) {
        let strategy = self.settings.shared_strategy;
        let topic = match strategy {
            SharedStrategy::HashTopic => self.shared.seeds.place(message.topic.as_bytes()),
            _ => 0,
        };
        let Some(member) = self.groups.pick(group, strategy, message, topic) else { return };
        if member.session.shard == self.id {
            if self.session_of(member.session).is_some() {
                self.deliver_to_member(member, message);
                if Mutant::ShareTwice.is_on() {
                    self.deliver_to_member(member, message);
                }
            }
            return;
        }
        let Some(filter) = self.groups.groups.get(group).map(|group| group.filter.clone()) else {
            return;
        };
        let stored = match &self.fan.stored {
            Some(stored) => stored.clone(),
            None => {
                let stored = Message::new(message, &mut self.scratch);
                self.fan.stored = Some(stored.clone());
                stored
            }
        };
        let sole = matches!(self.fan.receivers, Receivers::Sole(_));
        let sole = if sole { SOLE } else { 0 };
        let picked = Picked {
            filter,
            member: member.session,
            options: member.options | sole,
            subscription_id: member.subscription_id,
            message: stored,
        };
        self.tell(member.session.shard, Control::Deliver(Box::new(picked)));
    }

    fn deliver_to_member(&mut self, member: Member, message: &MessageRef<'_>) {
        let ids = [member.subscription_id];
        let terms = Terms {
            qos: packed_qos(member.options),
            retain: live_retain(member.options, message),
            subscription_ids: if member.subscription_id == 0 { &[] } else { &ids },
            replay: false,
        };
        self.deliver(member.session.index, message, terms);
    }

    /// The home of a group picked a session of this shard.
    pub(super) fn deliver_picked(&mut self, picked: Box<Picked>) {
        // [MQTT-3.10.4-2]: nothing more for a member that left while the message was on its way.
        let gone = self.session_of(picked.member).is_none_or(|session| {
            session.extras.as_ref().is_none_or(|extras| {
                !extras.shares.iter().any(|share| share.filter == picked.filter)
            })
        });
        if gone {
            let home = self.group_home(&picked.filter);
            self.tell(home, Control::Undelivered(picked));
            return;
        }
        let message = picked.message.clone();
        self.fan.begin(Some(&message));
        let member = Member {
            session: picked.member,
            options: picked.options,
            subscription_id: picked.subscription_id,
            online: true,
        };
        let view = message.view();
        self.deliver_to_member(member, &view);
        let sole = picked.options & SOLE != 0;
        let group = self.shared.seeds.place(picked.filter.as_bytes());
        let sole = if sole { Receivers::Sole(Reader::group(group)) } else { Receivers::Several };
        self.fan.receivers = sole;
        let home = self.group_home(&picked.filter);
        self.regard(view.publisher, home);
    }

    /// The picked member was gone: the next one gets the message.
    pub(super) fn pick_again(&mut self, picked: Picked) {
        self.leave_group(&picked.filter, picked.member);
        if Mutant::ShareUndeliveredLost.is_on() {
            return;
        }
        match self.groups.find(&picked.filter).map(|(index, _)| index) {
            Some(group) => {
                self.fan.begin(Some(&picked.message));
                let message = picked.message.clone();
                let view = message.view();
                let sole = picked.options & SOLE != 0;
                let reader = Reader::here(group, true);
                let sole = if sole { Receivers::Sole(reader) } else { Receivers::Several };
                self.fan.receivers = sole;
                self.deliver_to_group(group, &view);
                self.regard(view.publisher, self.id);
            }
            None => {
                debug_assert!(picked.message.view().qos >= Qos::AtMostOnce);
                self.counters.dropped_session_gone += 1;
            }
        }
    }
}
