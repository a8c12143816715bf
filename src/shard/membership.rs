//! Shared subscriptions [MQTT5 4.8.2]: the part of a member's own shard. Sessions join and leave
//! groups. The home shards of their groups are told when they connect, disconnect or have room
//! again. A message for which a group's home has picked a member is accepted, or refused with a
//! reason.

use super::Shard;
use super::deliver::{FromGroup, Outbound, Terms};
use super::groups::Member;
use super::pace::{Reader, Receivers};
use super::route::{SOLE, live_retain, packed_qos};
use crate::limits::cost;
use crate::mesh::mail::{Control, GivenBack, Join, NotTaken, PickTerms, Picked};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::{Membership, Pending, Session, ShareName, Shares};

impl Shard {
    /// Makes the session a member; true when the group's home has to confirm it. Costs the same
    /// however many memberships there are.
    pub(super) fn join(
        &mut self,
        index: u32,
        filter: &str,
        options: u8,
        subscription_id: u32,
        ticket: u64,
    ) -> bool {
        let member = self.session_ref(index);
        let home = self.group_home(filter);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let name = ShareName::new(filter);
        let membership = Membership { name: name.clone(), options, subscription_id };
        if session.extras().shares.get_or_insert_default().set(membership, home) {
            self.tally.shares += filter.len();
            self.counters.subscriptions += 1;
            self.counters.shared_subscriptions += 1;
        }
        let join = Join { name, member, ticket, options, subscription_id };
        if home == self.id {
            self.add_member(join);
            return false;
        }
        self.tell(home, Control::Join(Box::new(join)));
        true
    }

    /// Ends a membership; false when there was none. What the client was sent it may finish
    /// [MQTT-3.10.4-3]; what only waits for it goes back to the group. Costs the same however many
    /// memberships there are.
    pub(super) fn leave(&mut self, index: u32, filter: &str) -> bool {
        self.leave_named(index, &ShareName::new(filter))
    }

    /// The same by the group's name and filter.
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
        self.forget_membership(index, gone);
        true
    }

    /// A membership was taken out of the session: the group's home is told.
    fn forget_membership(&mut self, index: u32, gone: Membership) {
        if let Some(extras) = self.sessions.get_mut(index).and_then(|s| s.extras.as_mut())
            && extras.shares.as_ref().is_some_and(|shares| shares.list.is_empty())
        {
            extras.shares = None;
        }
        self.counters.subscriptions -= 1;
        self.counters.shared_subscriptions -= 1;
        self.tally.shares -= gone.name.as_str().len();
        if Mutant::ShareDeadMember.is_on()
            && self.sessions.get(index).is_none_or(|s| s.socket.is_none())
        {
            return;
        }
        let home = self.group_home(gone.name.as_str());
        let member = self.session_ref(index);
        self.tell(home, Control::Leave(gone.name, member));
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
            self.tell(home, Control::Presence(member, online));
        }
    }

    /// If the session has refused a message of a group, and has room again: the groups are told.
    #[inline]
    pub(super) fn tell_room(&mut self, index: u32) {
        let refused = |shares: &Shares| shares.refused;
        if self.sessions.get(index).and_then(|s| s.shares()).is_some_and(refused) {
            self.tell_room_if_low(index);
        }
    }

    fn tell_room_if_low(&mut self, index: u32) {
        let (bounds, low) = (self.settings.pending, self.settings.low_water());
        let Some(session) = self.sessions.get(index) else { return };
        let Some(socket) = session.socket else { return };
        let few = session.flow.as_ref().is_none_or(|flow| {
            flow.pending.len() <= bounds.messages / 4 && flow.pending.bytes() <= bounds.bytes / 4
        });
        let connection = self.connections.get(socket.0);
        let output = connection.and_then(|connection| connection.output.as_ref());
        if few && output.is_none_or(|output| output.unsent() <= low) {
            self.tell_presence(index, true);
        }
    }

    /// The home of a group picked a session of this shard.
    pub(super) fn deliver_picked(&mut self, picked: Picked) {
        let Picked { name, member: session, options, subscription_id, terms, message } = picked;
        self.delivery.begin(Some(&message));
        let view = message.view();
        let member = Member { session, options, subscription_id };
        match self.offer(member, &name, &view, terms) {
            Ok(()) => {
                let sole = options & SOLE != 0;
                let group = self.shared.seeds.place(name.as_str().as_bytes());
                let sole = sole.then(|| Receivers::Sole(Reader::group(group)));
                self.delivery.receivers = sole.unwrap_or(Receivers::Several);
                let home = self.group_home(name.as_str());
                self.regard(view.publisher, home);
            }
            Err(why) => {
                let tries = terms.tries;
                self.give_back(GivenBack { name, member: session, why, tries, message });
            }
        }
    }

    /// Sends a message back to its group.
    pub(super) fn give_back(&mut self, given: GivenBack) {
        let home = self.group_home(given.name.as_str());
        self.tell(home, Control::GiveBack(Box::new(given)));
    }

    /// Gives a message of a group to its member, unless that cannot take it.
    ///
    /// # Errors
    /// Why it is not taken. Then nothing was done.
    pub(super) fn offer(
        &mut self,
        member: Member,
        name: &ShareName,
        message: &MessageRef<'_>,
        pick: PickTerms,
    ) -> Result<(), NotTaken> {
        // [MQTT-3.10.4-2]: nothing more for a member that left while the message was on its way.
        let member_of = |session: &&mut Session| !session.is_ending() && session.is_member(name);
        if self.session_of(member.session).filter(member_of).is_none() {
            return Err(NotTaken::Gone);
        }
        let index = member.session.index;
        // What is older goes first, and takes its room.
        self.catch_up(index);
        let Some(session) = self.sessions.get(index) else { return Err(NotTaken::Gone) };
        if session.socket.is_none() && !pick.waits && !pick.last_resort {
            return Err(NotTaken::Away);
        }
        let crowded = session.flow.as_ref().is_some_and(|flow| flow.crowded.is_some());
        let ids = [member.subscription_id];
        let terms = Terms {
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
        let noted = self.delivery.crowded.len();
        self.deliver_now(index, message, &terms);
        if Mutant::ShareTwice.is_on() {
            self.deliver_now(index, message, &terms);
        }
        if !pick.only {
            // Others have room: nobody waits for this one, and its patience has not begun.
            self.delivery.crowded.truncate(noted);
            if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut())
                && !crowded
            {
                flow.crowded = None;
            }
        }
        Ok(())
    }

    /// Whether the session can take a message without dropping it or another one.
    fn can_take(
        &self,
        index: u32,
        message: &MessageRef<'_>,
        terms: &Terms<'_>,
    ) -> Result<(), NotTaken> {
        let Some(session) = self.sessions.get(index) else { return Err(NotTaken::Gone) };
        if session.unmounted(message.topic).is_none() {
            return Err(NotTaken::TooLarge);
        }
        let qos = message.qos.min(terms.qos);
        let flow = session.flow.as_deref();
        let size = message.size();
        let queue = || match flow {
            Some(flow) => flow.pending.has_room(size, &self.queue_bounds(&flow.pending)),
            None => {
                let none = Pending::default();
                none.has_room(size, &self.queue_bounds(&none))
            }
        };
        let room = match (session.socket, qos) {
            // With a subscription of QoS 0 nothing waits.
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
