//! Shared subscriptions [MQTT5 4.8.2]: the groups whose home is this shard. A group is an entry in
//! the index like a subscriber, and picks a member for each message. [`super::groups`] makes that
//! choice, and [`super::membership`] is the members' side.
//!
//! A group loses a message only when none of its members can take it. A member that has ended, is
//! disconnected, is full or reads too slowly gives the message back, and the next member is asked.
//! When all have refused, a disconnected member with room keeps it, and only if there is none does
//! `mqtt.pending.on_full` of the last one decide. What was sent to a member with QoS 1 or waits for
//! it comes back when its session ends; see [`super::returns`].

use super::Shard;
use super::groups::{Choice, Member, Wish};
use super::pace::Receivers;
use super::route::{GROUP, SOLE};
use crate::config::SharedStrategy;
use crate::ids::{SessionRef, ShardId};
use crate::limits::cost;
use crate::mesh::mail::{Control, GivenBack, Join, NotTaken, PickTerms, Picked};
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::session::ShareName;
use crate::topic::{self, Subscriber};

/// Members of this shard that are asked for one message in a row; then a later step goes on.
const TRIES: u32 = 32;
/// About so many members are asked whether a large message is within their Maximum Packet Size.
const LARGE_TRIES: u32 = 16;

impl Shard {
    /// The shard that a group lives on.
    pub(super) fn group_home(&self, filter: &str) -> ShardId {
        self.home(filter)
    }

    /// Control mail, or the same at once when it is for this shard: what one of its own clients
    /// asks for has waited for data mail already, as far as it has to, and a later request of the
    /// same client must not find an earlier one still waiting.
    pub(super) fn tell(&mut self, to: ShardId, control: Control) {
        if to == self.id {
            self.obey(to, control);
        } else {
            self.meter.charge(cost::MAIL);
            self.outbox.tell(to, control);
        }
    }

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
        if let Some(group) = self.groups.find(&name) {
            self.groups.join(group, member);
            return;
        }
        let Some(Ok(share)) = topic::parse_share(name.as_str()) else { return };
        let id = self.index.intern_always(share.filter);
        let group = self.groups.create(name.clone(), id);
        self.groups.join(group, member);
        let subscriber = Subscriber { target: group, options: GROUP, subscription_id: 0 };
        let position = self.index.add(id, subscriber);
        self.groups.moved(group, position);
        if !Mutant::InterestNotAnnounced.is_on() {
            self.announce(id);
        }
    }

    /// A member leaves, or is found to be gone; an empty group goes. Costs the same however large
    /// the group is.
    pub(super) fn leave_group(&mut self, name: &ShareName, member: SessionRef) {
        self.meter.charge(cost::FILTER);
        let Some(group) = self.groups.find(name) else { return };
        if let Some((id, position)) = self.groups.leave(group, member) {
            self.remove_place(id, position);
        }
    }

    /// One message to one member of the group.
    pub(super) fn deliver_to_group(&mut self, group: u32, message: &MessageRef<'_>) {
        self.dispatch(group, message, 0);
    }

    /// Asks one member after the other, until one takes the message or it is on its way to one of
    /// another shard. `tries`: members that have refused it already.
    fn dispatch(&mut self, group: u32, message: &MessageRef<'_>, tries: u32) {
        let Some(name) = self.groups.name(group) else { return };
        let strategy = self.settings.shared_strategy;
        let key = match strategy {
            SharedStrategy::HashTopic => self.shared.seeds.place(message.topic.as_bytes()),
            SharedStrategy::HashClient => message.publisher.map_or(0, |p| p.client.0.get()),
            _ => 0,
        };
        let may_wait = message.qos > Qos::AtMostOnce || self.settings.queue_qos0;
        let mut wish = Wish { strategy, key, may_wait, tries };
        for _ in 0..TRIES {
            self.meter.charge(cost::VISIT);
            let Some(choice) = self.groups.choose(group, wish) else {
                // QoS 0, and nobody is connected.
                self.counters.dropped_offline_qos0 += u64::from(!Mutant::OfflineUncounted.is_on());
                return;
            };
            let Choice { member, only, waits, last_resort } = choice;
            let terms = PickTerms { only, waits, last_resort, tries: wish.tries };
            if member.session.shard != self.id {
                self.send_picked(name, member, terms, message);
                return;
            }
            let Err(why) = self.offer(member, &name, message, terms) else { return };
            self.counters.share_refused += 1;
            wish.tries += self.refused(group, member.session, why);
            if why == NotTaken::Gone {
                // Its session is ending. The index may be in use: the group may not go now.
                self.returns.leave_later(name.clone(), member.session);
                break;
            }
        }
        let message = self.delivery.store(message, self.scratch.bytes());
        self.returns.ask_later(name, message, wish.tries);
    }

    fn send_picked(
        &mut self,
        name: ShareName,
        member: Member,
        terms: PickTerms,
        message: &MessageRef<'_>,
    ) {
        let message = self.delivery.store(message, self.scratch.bytes());
        let Member { session: member, options, subscription_id } = member;
        let sole = matches!(self.delivery.receivers, Receivers::Sole(_));
        let options = options | if sole { SOLE } else { 0 };
        let picked = Picked { name, member, options, subscription_id, terms, message };
        self.tell(member.shard, Control::Deliver(Box::new(picked)));
    }

    /// A member has refused a message: what is concluded for the next ones, and how much nearer
    /// this one is to the end of its tries.
    fn refused(&mut self, group: u32, member: SessionRef, why: NotTaken) -> u32 {
        match why {
            NotTaken::Gone => self.groups.set_gone(group, member),
            NotTaken::Full => self.groups.set_full(group, member),
            // That it has disconnected was told before, but maybe not yet to all of its groups.
            NotTaken::Away => self.groups.tell_one(group, member),
            NotTaken::Ended => {}
            NotTaken::TooLarge => return 1 + self.groups.len(group) as u32 / LARGE_TRIES,
        }
        1
    }

    /// A message comes back to its group: the next member gets it.
    pub(super) fn pick_again(&mut self, given: GivenBack) {
        let ended = given.why == NotTaken::Ended;
        let counter = match ended {
            true => &mut self.counters.share_ended,
            false => &mut self.counters.share_refused,
        };
        *counter += 1;
        let lost = match given.why {
            NotTaken::Ended => Mutant::ShareReturnedLost.is_on(),
            _ => Mutant::ShareUndeliveredLost.is_on(),
        };
        if lost {
            return;
        }
        let GivenBack { name, member, why, mut tries, message } = given;
        if why == NotTaken::Gone {
            self.leave_group(&name, member);
        }
        if let Some(group) = self.groups.find(&name) {
            tries += self.refused(group, member, why);
        }
        self.ask_on(&name, &message, tries);
    }

    /// Asks further members.
    pub(super) fn ask_on(&mut self, name: &ShareName, message: &Message, tries: u32) {
        let Some(group) = self.groups.find(name) else {
            self.counters.dropped_share_empty += 1;
            return;
        };
        let view = message.view();
        self.delivery.begin(Some(message));
        self.delivery.receivers = Receivers::Several;
        self.dispatch(group, &view, tries);
        self.regard(view.publisher, self.id);
    }
}
