//! Filters that have subscribers, share groups, retained messages, and messages that operators and
//! bridges publish.

use super::{Slice, SliceBudget};
use crate::access::{Decision, own};
use crate::ids::{ClientKey, Publisher, SessionRef};
use crate::limits::cost;
use crate::message::{Accounts, Message, MessageRef};
use crate::packet::Qos;
use crate::session::ShareName;
use crate::shard::memory::Pressure;
use crate::shard::observe::{TracedFate, Via};
use crate::shard::stamps::nothing;
use crate::shard::storing::Speaker;
use crate::shard::{Shard, Turn};
use crate::topic::{self, Pass, TopicHash};

/// A filter that clients of one shard subscribe to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicRow {
    /// The filter, mountpoint included.
    pub filter: Box<str>,
    /// The number of sessions that have the filter, and of share groups with it whose home is this
    /// shard.
    pub subscribers: usize,
}

/// A retained message.
#[derive(Clone, Debug)]
pub struct RetainedRow {
    /// The whole message.
    pub message: Message,
    /// Seconds until it expires; `None` for never.
    pub seconds_left: Option<u32>,
}

/// What became of a message that was submitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishOutcome {
    /// Every shard on the message's route has accepted it.
    Accepted {
        /// Whether some subscription matches, as far as the interest table tells.
        matched: bool,
    },
    /// The message may not be published, for this reason.
    Denied(&'static str),
    /// A mailbox, or something else that the message needs, has no room at the moment.
    Busy,
    /// The broker is short of memory.
    ShortOfMemory,
}

/// What became of a retained message that was to be cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClearOutcome {
    /// The message is gone, here and at all nodes.
    Cleared,
    /// This shard keeps no such message.
    Unknown,
    /// A mailbox on the way to another node has no room at the moment; nothing was done.
    Busy,
}

/// A share group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRow {
    /// `$share/group/filter`, mountpoint included.
    pub name: Box<str>,
    /// How many members the group has.
    pub members: usize,
    /// The number of this shard.
    pub shard: u8,
}

/// A member of a share group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupMember {
    /// The member's session, which may be on another shard.
    pub session: SessionRef,
    /// Whether the member is connected, as far as the group knows.
    pub connected: bool,
    /// Whether the member had no room when it was last asked.
    pub full: bool,
}

impl Shard {
    /// The filters with subscribers on this shard that `wanted` accepts, at most `most`.
    pub fn topics(
        &mut self,
        from: u32,
        most: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Slice<TopicRow, u32> {
        let mut patience = SliceBudget::for_rows(most);
        let mut slice = Slice::new();
        let index = &self.subscriptions.index;
        let mut at = from;
        while let Some((id, passed)) = index.next_filter(at, patience.visits) {
            patience.visits = patience.visits.saturating_sub(passed);
            at = id.0;
            let Some((filter, subscribers)) = index.listed(id) else {
                slice.next = Some(at);
                break;
            };
            if !patience.lasts(slice.rows.len()) {
                slice.next = Some(at);
                break;
            }
            if wanted(filter) {
                slice.rows.push(TopicRow { filter: filter.into(), subscribers });
            }
            at += 1;
        }
        self.meter.charge(cost::VISIT * patience.used());
        self.meter.charge(cost::FILTER * slice.rows.len() as u32);
        slice
    }

    /// The share groups whose home is this shard, at most `most`, from the place `from` on.
    pub fn share_groups(&mut self, from: u32, most: usize) -> Slice<GroupRow, u32> {
        let mut patience = SliceBudget::for_rows(most);
        let mut slice = Slice::new();
        let groups = &self.subscriptions.groups;
        for at in from..groups.bound() {
            if !patience.lasts(slice.rows.len()) {
                slice.next = Some(at);
                break;
            }
            let Some(name) = groups.name(at) else { continue };
            let (members, shard) = (groups.len(at), self.topology.id.0);
            slice.rows.push(GroupRow { name: name.as_str().into(), members, shard });
        }
        self.meter.charge(cost::VISIT * patience.used());
        slice
    }

    /// The members of a share group whose home is this shard, at most `most`, after the first
    /// `from`; `None` when the group does not exist here. `name` is the whole filter,
    /// `$share/group/filter`.
    pub fn group_members(
        &mut self,
        name: &str,
        from: u32,
        most: usize,
    ) -> Option<Slice<GroupMember, u32>> {
        let group = self.subscriptions.groups.find(&ShareName::new(name))?;
        let most = SliceBudget::for_rows(most).rows;
        let all = self.subscriptions.groups.len(group);
        let mut slice = Slice::new();
        for member in self.subscriptions.groups.members(group, from as usize).take(most) {
            let (session, connected, full) = member;
            slice.rows.push(GroupMember { session, connected, full });
        }
        let listed = from as usize + slice.rows.len();
        slice.next = (listed < all && !slice.rows.is_empty()).then_some(listed as u32);
        self.meter.charge(cost::FILTER * slice.rows.len() as u32);
        Some(slice)
    }

    /// How many members a share group has whose home is this shard; `None` when there is no such
    /// group here. `name` is the whole filter, `$share/group/filter`.
    pub fn group_size(&mut self, name: &str) -> Option<usize> {
        self.meter.charge(cost::FILTER);
        let group = self.subscriptions.groups.find(&ShareName::new(name))?;
        Some(self.subscriptions.groups.len(group))
    }

    /// The ClientId of a session of this shard.
    pub fn name_of(&mut self, session: SessionRef) -> Option<Box<str>> {
        self.meter.charge(cost::VISIT);
        self.session_of(session).map(|session| session.client_id.boxed())
    }

    /// The retained messages that this shard keeps and that match a valid filter, in the order of
    /// their topics, at most `most`, after the topic `cursor`. Expired messages are left out.
    pub fn retained(
        &mut self,
        cursor: Option<&str>,
        filter: &str,
        most: usize,
    ) -> Slice<RetainedRow, Box<str>> {
        let patience = SliceBudget::for_rows(most);
        let now = self.now;
        let mut slice = Slice::new();
        let (mut visits, rows) = (patience.visits, &mut slice.rows);
        let pass = self.retained.messages.replay(
            filter,
            cursor,
            patience.rows,
            &mut visits,
            &mut |_, message: &Message| {
                if let Ok(seconds_left) = message.view().seconds_left(now) {
                    rows.push(RetainedRow { message: message.clone(), seconds_left });
                }
            },
        );
        if let Pass::More(cursor) = pass {
            slice.next = Some(cursor);
        }
        self.meter.charge(cost::VISIT * patience.visits.saturating_sub(visits) as u32);
        self.meter.charge(cost::DELIVERY * slice.rows.len() as u32);
        slice
    }

    /// The retained message of a topic, if this shard keeps it.
    pub fn retained_message(&mut self, topic: &str) -> Option<RetainedRow> {
        self.meter.charge(cost::FILTER);
        let message = self.retained.messages.get(topic)?.clone();
        let seconds_left = message.view().seconds_left(self.now).ok()?;
        Some(RetainedRow { message, seconds_left })
    }

    /// Clears the retained message of a topic that this shard keeps. No subscriber is told.
    pub fn clear_retained(&mut self, topic: &str) -> ClearOutcome {
        self.meter.charge(cost::FILTER);
        if self.retained.messages.get(topic).is_none() {
            return ClearOutcome::Unknown;
        }
        if self.clear_at_nodes(&nothing(topic)) {
            ClearOutcome::Cleared
        } else {
            ClearOutcome::Busy
        }
    }

    /// Publishes a message of an operator. The topic must be a valid name; `expires_after` is in
    /// seconds. No access rule is applied: the admin server decides who may do this.
    pub fn publish_as_operator(
        &mut self,
        message: &MessageRef<'_>,
        expires_after: Option<u32>,
    ) -> PublishOutcome {
        let message = MessageRef { publisher: None, ..*message };
        let outcome = self.publish_for_owner(&message, expires_after, || Via::Api);
        let accepted = matches!(outcome, PublishOutcome::Accepted { .. });
        self.counters.messages_of_operators += u64::from(accepted);
        outcome
    }

    /// Publishes a message that a bridge has brought. `own` is the key of the bridge, whose link
    /// does not take the message, and `name` is its name. Otherwise as
    /// [`Shard::publish_as_operator`].
    pub fn publish_as_bridge(
        &mut self,
        message: &MessageRef<'_>,
        expires_after: Option<u32>,
        (own, name): (ClientKey, &str),
    ) -> PublishOutcome {
        let publisher = Some(Publisher { client: own, shard: self.topology.id });
        let message = MessageRef { publisher, ..*message };
        let via = || Via::Bridge(name.into());
        let outcome = self.publish_for_owner(&message, expires_after, via);
        let accepted = matches!(outcome, PublishOutcome::Accepted { .. });
        self.counters.messages_of_bridges += u64::from(accepted);
        outcome
    }

    /// Publishes a message of the broker itself about one of its bridges, below `$SYS/`. False when
    /// a mailbox is full now and nothing was done.
    pub fn publish_state(&mut self, topic: &str, payload: &[u8]) -> bool {
        let message = MessageRef {
            topic,
            properties: &[],
            payload,
            qos: Qos::AtLeastOnce,
            retain: true,
            expires: None,
            publisher: None,
        };
        if let Some(storing) = &mut self.storing {
            storing.speaker = Speaker::Nobody;
        }
        self.try_publish(&message, Accounts::NONE, None)
    }

    /// Why a message with a payload of `length` bytes would be denied, whoever publishes it; `None`
    /// when it would not. All shards say the same.
    pub fn never_published(&mut self, topic: &str, length: usize) -> Option<&'static str> {
        self.meter.charge(cost::bytes(topic.len()));
        if let Decision::Deny(denied) = own::publish(topic, topic) {
            return Some(denied.what);
        }
        if topic::levels(topic) > self.settings.max_topic_levels {
            return Some("the topic has more levels than mqtt.max_topic_levels");
        }
        if length > self.settings.max_packet_size as usize {
            return Some("the payload is larger than mqtt.max_packet_size");
        }
        None
    }

    fn publish_for_owner(
        &mut self,
        message: &MessageRef<'_>,
        expires_after: Option<u32>,
        via: impl FnOnce() -> Via,
    ) -> PublishOutcome {
        if !self.is_recording() {
            return self.publish_brought(message, expires_after);
        }
        self.publish_within_trace(via(), message, |shard, message| {
            let outcome = shard.publish_brought(message, expires_after);
            let way = match outcome {
                PublishOutcome::Accepted { .. } => TracedFate::Done,
                PublishOutcome::Denied(what) => TracedFate::Refused(what),
                PublishOutcome::Busy | PublishOutcome::ShortOfMemory => TracedFate::Again,
            };
            (outcome, way)
        })
    }

    fn publish_brought(
        &mut self,
        message: &MessageRef<'_>,
        expires_after: Option<u32>,
    ) -> PublishOutcome {
        self.meter.charge(cost::PACKET + cost::bytes(message.size()));
        if let Some(what) = self.never_published(message.topic, message.payload.len()) {
            return PublishOutcome::Denied(what);
        }
        if self.memory.is_short(Pressure::Tight) {
            return PublishOutcome::ShortOfMemory;
        }
        if self.mail.outbox.is_congested() || self.delivery.fanouts.is_full() {
            return PublishOutcome::Busy;
        }
        if let Some(storing) = &mut self.storing {
            storing.speaker = Speaker::Nobody;
        }
        let expires = self.expires(expires_after);
        let message = MessageRef { expires, ..*message };
        let hash = TopicHash::new(&self.topology.shared.seeds, message.topic);
        let any_full = self.subscriptions.links.any_full();
        if any_full && self.full_link(&hash, &message).is_some() {
            return PublishOutcome::Busy;
        }
        let Ok(route) = self.find_route(&hash, &message, Turn::OfNobody) else {
            return PublishOutcome::Busy;
        };
        self.subscriptions.links.unanswered.for_owner = true;
        let matched = self.follow(&route, &hash, &message, None);
        self.subscriptions.links.unanswered.for_owner = false;
        self.delivery.current.crowded.clear();
        PublishOutcome::Accepted { matched }
    }
}
