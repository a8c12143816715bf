//! Delivers a message of a share group to one of its members [MQTT5 4.8.2]. The group's home shard
//! asks one member after the other, in the order that [`super::groups`] chooses. The member's shard
//! accepts the message, or refuses it with a reason.
//!
//! A group loses a message only when none of its members can take it. A member that has ended, is
//! disconnected, is full or reads too slowly gives the message back, and the next member is asked.
//! When all members have refused, a disconnected member with room keeps the message. Only if there
//! is none, `mqtt.pending.on_full` of the last member decides. What was sent to a member with QoS
//! 1, or waits for it, comes back when its session ends; see [`super::returns`]. On a node of a
//! cluster, other nodes are asked before a member here that is not ready ([`super::passing`]).

use super::Shard;
use super::deliver::{FromGroup, Outbound, SendTerms};
use super::groups::{Choice, Member, PickInput};
use super::pace::{ReaderId, Receivers};
use super::returns::Again;
use super::route::{SOLE, live_retain, packed_qos};
use crate::config::SharedStrategy;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::mesh::mail::{Control, GivenBack, NotTaken, PickTerms, Picked, Trip};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::{Backlog, Pending, Session, ShareName};

/// How many members of this shard are asked for one message in a row; then a later step goes on.
const TRIES: u32 = 32;

/// About this many members are asked whether a large message is within their Maximum Packet Size.
const LARGE_TRIES: u32 = 16;

impl Shard {
    /// Delivers a message to one member of the group. A message that came from another node for the
    /// sessions here is left out: that node has given it to the group already.
    pub(super) fn deliver_to_group(&mut self, group: u32, message: &MessageRef<'_>) {
        if !self.delivery.only_sessions || Mutant::ClusterGroupTwice.is_on() {
            self.dispatch(group, message, 0, Trip::default(), 0);
        }
    }

    /// Asks one member after the other, until one takes the message, or until the message is on its
    /// way to a member on another shard or to another node. `tries`: how many members have refused
    /// the message already. `receipt`: the number by which the home shard learns that the message
    /// is durable, for those that wait for that; 0 while it has none.
    fn dispatch(
        &mut self,
        group: u32,
        message: &MessageRef<'_>,
        tries: u32,
        trip: Trip,
        receipt: u64,
    ) {
        let Some(name) = self.subscriptions.groups.name(group) else { return };
        let strategy = self.settings.shared_strategy;
        let key = match strategy {
            SharedStrategy::HashTopic => self.topology.shared.seeds.place(message.topic.as_bytes()),
            SharedStrategy::HashClient => message.publisher.map_or(0, |p| p.client.0.get()),
            _ => 0,
        };
        let may_wait = message.qos > Qos::AtMostOnce || self.settings.queue_qos0;
        let mut input = PickInput { strategy, key, may_wait, tries };
        for _ in 0..TRIES {
            self.meter.charge(cost::VISIT);
            let choice = self.subscriptions.groups.choose(group, input);
            if !choice.is_some_and(|choice| choice.ready)
                && self.passes_on(group, &name, message, (trip, choice.is_some()))
            {
                self.close_receipt(receipt);
                return;
            }
            let Some(choice) = choice else {
                self.count_untaken(group, 1);
                self.close_receipt(receipt);
                return;
            };
            let Choice { member, only, waits, last_resort, .. } = choice;
            let terms = PickTerms { only, waits, last_resort, tries: input.tries, trip };
            if member.session.shard != self.topology.id {
                self.send_picked(name, member, terms, message, receipt);
                return;
            }
            let before = self.storing.as_ref().map_or(0, |storing| storing.appends());
            let Err(why) = self.offer(member, &name, message, terms) else {
                if let Some(storing) = self.storing.as_mut().filter(|_| receipt != 0) {
                    storing.keep_receipt(self.topology.id, receipt, before);
                }
                return;
            };
            self.counters.share_refused += 1;
            input.tries += self.refused(group, member.session, why);
            if why == NotTaken::Gone {
                // The member's session is ending. The list of subscribers may be in use by the
                // caller, so the group must not be removed from it now.
                self.subscriptions.returns.leave_later(name.clone(), member.session);
                break;
            }
        }
        let receipt = self.receipt_for(message, receipt);
        let message = self.delivery.store(message);
        let again = Again { name, message, tries: input.tries, trip, receipt };
        self.subscriptions.returns.ask_later(again);
    }

    /// The receipt of a message that goes on later or elsewhere: the one it has, or a new one if
    /// something may have to wait for the message to be durable.
    fn receipt_for(&mut self, message: &MessageRef<'_>, receipt: u64) -> u64 {
        match &mut self.storing {
            Some(storing) if receipt == 0 && message.qos > Qos::AtMostOnce => {
                storing.begin_receipt()
            }
            _ => receipt,
        }
    }

    fn close_receipt(&mut self, receipt: u64) {
        if let Some(storing) = self.storing.as_mut().filter(|_| receipt != 0) {
            storing.close_receipt(receipt);
        }
    }

    fn send_picked(
        &mut self,
        name: ShareName,
        member: Member,
        terms: PickTerms,
        message: &MessageRef<'_>,
        receipt: u64,
    ) {
        let receipt = self.receipt_for(message, receipt);
        let message = self.delivery.store(message);
        let Member { session: member, options, subscription_id } = member;
        let sole = matches!(self.delivery.current.receivers, Receivers::Sole(_));
        let options = options | if sole { SOLE } else { 0 };
        let picked = Picked { name, member, options, subscription_id, terms, receipt, message };
        self.tell(member.shard, Control::Deliver(Box::new(picked)));
    }

    /// Notes that a member has refused a message, for the choice of the next members. Returns how
    /// many tries the refusal counts for.
    pub(super) fn refused(&mut self, group: u32, member: SessionRef, why: NotTaken) -> u32 {
        match why {
            NotTaken::Gone => self.subscriptions.groups.set_gone(group, member),
            NotTaken::Full => self.subscriptions.groups.set_full(group, member),
            // This shard was told before that the member has disconnected, but may not have noted
            // that in all of its groups yet.
            NotTaken::Away => self.subscriptions.groups.tell_one(group, member),
            NotTaken::Ended => {}
            // Another message may be for this member.
            NotTaken::TooLarge | NotTaken::NotPermitted => {
                return 1 + self.subscriptions.groups.len(group) as u32 / LARGE_TRIES;
            }
        }
        1
    }

    /// Takes back a message of a group, and gives it to the next member.
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
        let receipt = self.receipt_of_returning(&given);
        let GivenBack { name, member, why, mut tries, trip, message, .. } = given;
        if why == NotTaken::Gone {
            self.leave_group(&name, member);
        }
        if let Some(group) = self.subscriptions.groups.find(&name) {
            tries += self.refused(group, member, why);
        }
        self.ask_on(&Again { name, message, tries, trip, receipt });
    }

    /// Asks further members.
    pub(super) fn ask_on(&mut self, again: &Again) {
        let Again { name, message, tries, trip, receipt } = again;
        let view = message.view();
        self.delivery.current.begin(Some(message));
        let Some(group) = self.subscriptions.groups.find(name) else {
            if !self.gives_back_to_node(name, &view, *trip) {
                self.counters.dropped_share_empty += 1;
            }
            self.close_receipt(*receipt);
            return;
        };
        self.delivery.current.receivers = Receivers::Several;
        self.dispatch(group, &view, *tries, *trip, *receipt);
        self.regard(view.publisher, self.topology.id);
    }

    /// Offers a message to the session of this shard that the home shard of a group has picked.
    pub(super) fn deliver_picked(&mut self, picked: Picked) {
        let Picked { name, member: session, options, subscription_id, terms, receipt, message } =
            picked;
        let home = self.topology.home(name.as_str());
        let before = self.storing.as_ref().map_or(0, |storing| storing.appends());
        self.delivery.current.begin(Some(&message));
        let view = message.view();
        let member = Member { session, options, subscription_id };
        match self.offer(member, &name, &view, terms) {
            Ok(()) => {
                if let Some(storing) = self.storing.as_mut().filter(|_| receipt != 0) {
                    storing.keep_receipt(home, receipt, before);
                }
                let sole = options & SOLE != 0;
                let group = self.topology.shared.seeds.place(name.as_str().as_bytes());
                let sole = sole.then(|| Receivers::Sole(ReaderId::group(group)));
                self.delivery.current.receivers = sole.unwrap_or(Receivers::Several);
                self.regard(view.publisher, home);
            }
            Err(why) => {
                let PickTerms { tries, trip, .. } = terms;
                let (member, stored) = (session, 0);
                let given = GivenBack { name, member, why, tries, trip, receipt, stored, message };
                self.give_back(given);
            }
        }
    }

    /// Sends a message back to its group.
    pub(super) fn give_back(&mut self, given: GivenBack) {
        let home = self.topology.home(given.name.as_str());
        if home == self.topology.id {
            self.pick_again(given);
        } else {
            self.tell(home, Control::GiveBack(Box::new(given)));
        }
    }

    /// Gives a message of a group to its member, unless that cannot take it.
    ///
    /// # Errors
    /// The reason why the member does not take the message. Nothing was done then.
    fn offer(
        &mut self,
        member: Member,
        name: &ShareName,
        message: &MessageRef<'_>,
        pick: PickTerms,
    ) -> Result<(), NotTaken> {
        // [MQTT-3.10.4-2]: a member that left while the message was on its way gets nothing more.
        let member_of = |session: &&mut Session| !session.is_ending() && session.is_member(name);
        if self.session_of(member.session).filter(member_of).is_none() {
            return Err(NotTaken::Gone);
        }
        let index = member.session.index;
        // Older messages go first, and take the room of this one.
        self.catch_up(index);
        let Some(session) = self.sessions.get(index) else { return Err(NotTaken::Gone) };
        if session.socket().is_none() && !pick.waits && !pick.last_resort {
            return Err(NotTaken::Away);
        }
        let backlog = session.flow.as_ref().map_or_else(Backlog::default, |flow| flow.backlog);
        let ids = [member.subscription_id];
        let terms = SendTerms {
            qos: packed_qos(member.options),
            retain: live_retain(member.options, message),
            subscription_ids: if member.subscription_id == 0 { &[] } else { &ids },
            replay: false,
            share: Some(FromGroup { name, returned: pick.tries > 0 }),
        };
        if !pick.last_resort
            && let Err(why) = self.can_take(index, message, &terms)
        {
            if why == NotTaken::Full
                && let Some(shares) = self.sessions.get_mut(index).and_then(|s| s.shares_mut())
            {
                shares.refused = true;
            }
            return Err(why);
        }
        let noted = self.delivery.current.crowded.len();
        self.deliver_now(index, message, &terms);
        if Mutant::ShareTwice.is_on() {
            self.deliver_now(index, message, &terms);
        }
        if !pick.only {
            // Other members have room, so no publisher waits for this member, and its backlog is as
            // before.
            self.delivery.current.crowded.truncate(noted);
            if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) {
                flow.backlog = backlog;
            }
        }
        Ok(())
    }

    /// Whether the session can take a message without dropping it or another one.
    fn can_take(
        &self,
        index: u32,
        message: &MessageRef<'_>,
        terms: &SendTerms<'_>,
    ) -> Result<(), NotTaken> {
        let Some(session) = self.sessions.get(index) else { return Err(NotTaken::Gone) };
        if session.extras.is_some() && !self.could_be_sent(session, message.topic) {
            return Err(NotTaken::NotPermitted);
        }
        let qos = message.qos.min(terms.qos);
        let flow = session.flow.as_deref();
        let size = message.size();
        let queue = || match flow {
            Some(flow) => flow.pending.has_room(size, &self.queue_bounds(index, &flow.pending)),
            None => {
                let none = Pending::default();
                none.has_room(size, &self.queue_bounds(index, &none))
            }
        };
        let room = match (session.socket(), qos) {
            // A message for an offline session with a subscription of QoS 0 is not queued.
            (None, Qos::AtMostOnce) if !self.settings.queue_qos0 => false,
            (None, _) => queue(),
            (Some(_), Qos::AtMostOnce) if flow.is_some_and(|flow| flow.pending.has_qos0()) => {
                queue()
            }
            (Some(socket), Qos::AtMostOnce) => !self.must_shed(socket),
            (Some(socket), _) => {
                let limit = session.window_limit;
                let free =
                    flow.is_none_or(|flow| flow.pending.is_empty() && flow.window.has_room(limit));
                free && !self.is_clogged(socket) || queue()
            }
        };
        if !room && !Mutant::ShareFullKeeps.is_on() {
            return Err(NotTaken::Full);
        }
        let outbound = Outbound {
            dup: false,
            qos,
            retain: terms.retain,
            id: PacketId::new(1).filter(|_| qos > Qos::AtMostOnce),
            subscription_ids: terms.subscription_ids,
            message_expiry: message.expires.map(|_| 1),
        };
        self.fits(index, message, &outbound).map_err(|_| NotTaken::TooLarge)
    }
}
