//! SUBSCRIBE and UNSUBSCRIBE, and the places that subscriptions hold in the index.

use super::Shard;
use super::connection::Holds;
use super::receive::Flow;
use super::route::{GROUP, pack};
use crate::ids::{SessionRef, SocketId};
use crate::mutant::Mutant;
use crate::packet::{
    self, PacketId, Qos, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter, UnsubAck,
    Unsubscribe, UserProperties, Version, Violation,
};
use crate::session::{Place, ShareName};
use crate::topic::{self, FilterId, Subscriber};

const FILTER: Violation =
    Violation { reason: ReasonCode::TopicFilterInvalid, what: "the topic filter is malformed" };
const SHARED_NO_LOCAL: Violation =
    Violation { reason: ReasonCode::ProtocolError, what: "a shared subscription with No Local" };

const NO_ROOM: Violation = Violation {
    reason: ReasonCode::PacketTooLarge,
    what: "the Maximum Packet Size has no room for the answer",
};

/// A SUBACK that waits until the home shards of its share groups route for the client.
pub(super) struct Joining {
    session: SessionRef,
    ticket: u64,
    left: u32,
    id: PacketId,
    codes: Vec<u8>,
    replays: Vec<FilterId>,
}

impl Shard {
    pub(super) fn subscribe(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        subscribe: &Subscribe<'_>,
    ) -> Result<Flow, Violation> {
        if self.outbox.is_congested() {
            return Ok(Flow::Hold(Holds::MAIL));
        }
        for wanted in subscribe.filters.iter() {
            check_filter(&wanted)?;
        }
        self.check_answer(index, version, subscribe.filters.len())?;
        let session = self.session_ref(index);
        let id = subscribe.id;
        let ticket = self.ticket();
        let (codes, replays) = (Vec::new(), Vec::new());
        let mut joining = Joining { session, ticket, left: 0, id, codes, replays };
        for wanted in subscribe.filters.iter() {
            let code = match self.permit(index, version, subscribe.subscription_id, &wanted) {
                Err(reason) => failure(version, reason),
                Ok(granted) => {
                    let subscription_id = subscribe.subscription_id.unwrap_or(0);
                    self.grant(index, &wanted, granted, subscription_id, &mut joining);
                    granted as u8
                }
            };
            joining.codes.push(code);
        }
        if joining.left == 0 || Mutant::SubAckBeforeJoined.is_on() {
            self.finish_subscribe(socket, index, version, joining);
        } else {
            self.joining.insert(index, joining);
            self.hold(socket, Holds::JOINING);
        }
        Ok(Flow::Next)
    }

    /// Nothing is done for a packet whose answer the client has no room for [MQTT-3.1.2-24].
    fn check_answer(&self, index: u32, version: Version, codes: usize) -> Result<(), Violation> {
        let room = self.sessions.get(index).map_or(0, |session| session.maximum_packet_size);
        if version.is_v5() && room != u32::MAX && packet::answer_size(codes) > room as usize {
            return Err(NO_ROOM);
        }
        Ok(())
    }

    /// A number that tells one request to other shards from every other.
    pub(super) fn ticket(&mut self) -> u64 {
        self.next_cookie += 1;
        self.next_cookie
    }

    /// SUBACK, then the retained messages.
    fn finish_subscribe(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        joining: Joining,
    ) {
        let suback = SubAck {
            id: joining.id,
            codes: &joining.codes,
            reason_string: None,
            user: UserProperties::default(),
        };
        self.write(socket, |out| packet::encode_suback(out, version, &suback));
        for filter in joining.replays {
            self.begin_replay(index, filter);
        }
    }

    /// A home shard routes for the session now.
    pub(super) fn group_joined(&mut self, session: SessionRef, ticket: u64) {
        let index = session.index;
        let done = match self.joining.get_mut(&index) {
            Some(joining)
                if joining.session == session
                    && (joining.ticket == ticket || Mutant::JoinTicketIgnored.is_on()) =>
            {
                joining.left -= 1;
                joining.left == 0
            }
            _ => false,
        };
        if !done {
            return;
        }
        let Some(joining) = self.joining.remove(&index) else { return };
        let Some(known) = self.session_of(session) else { return };
        let (socket, version) = (known.socket, known.version);
        if let Some(socket) = socket {
            self.finish_subscribe(socket, index, version, joining);
            self.release(socket, Holds::JOINING);
        }
    }

    /// The QoS granted, or why not. What is refused here is correctly formed.
    fn permit(
        &self,
        index: u32,
        _version: Version,
        subscription_id: Option<u32>,
        wanted: &SubscribeFilter<'_>,
    ) -> Result<Qos, ReasonCode> {
        let settings = &self.settings;
        let filter = match topic::parse_share(wanted.filter) {
            Some(Ok(share)) => {
                if !settings.shared_subscriptions {
                    return Err(ReasonCode::SharedSubscriptionsNotSupported);
                }
                share.filter
            }
            _ => wanted.filter,
        };
        if !settings.wildcard_subscriptions && filter.contains(['+', '#']) {
            return Err(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        if subscription_id.is_some() && !settings.subscription_identifiers {
            return Err(ReasonCode::SubscriptionIdentifiersNotSupported);
        }
        if topic::levels(filter) > settings.max_topic_levels {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let Some(session) = self.sessions.get(index) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        if session.subscriptions.len() + session.shared() >= settings.max_subscriptions
            && !self.is_subscribed(index, wanted.filter)
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(wanted.options.qos.min(Qos::from_u8(settings.max_qos).unwrap_or_default()))
    }

    fn is_subscribed(&self, index: u32, filter: &str) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let full = mounted(session.mountpoint(), filter);
        if topic::parse_share(filter).is_some() {
            return session.is_member(&ShareName::new(&full));
        }
        let known = self.index.find(&full);
        known.is_some_and(|known| session.subscriptions.position(known).is_some())
    }

    fn grant(
        &mut self,
        index: u32,
        wanted: &SubscribeFilter<'_>,
        granted: Qos,
        subscription_id: u32,
        joining: &mut Joining,
    ) {
        let options = pack(&packet::SubscribeOptions { qos: granted, ..wanted.options });
        let mountpoint = self.sessions.get(index).map_or("", |session| session.mountpoint());
        let full = mounted(mountpoint, wanted.filter);
        if topic::parse_share(wanted.filter).is_some() {
            // Retained messages are not sent to shared subscriptions (section 4.8.2).
            if self.join(index, &full, options, subscription_id, joining.ticket) {
                joining.left += 1;
            }
            return;
        }
        let subscriber = Subscriber { target: index, options, subscription_id };
        let (filter, new) = self.place_subscription(index, &full, subscriber);
        let replay = match wanted.options.retain_handling {
            RetainHandling::Send => true, // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew if Mutant::SendIfNewAlways.is_on() => true,
            RetainHandling::SendIfNew => new,   // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false, // [MQTT-3.3.1-11]
        };
        if replay {
            joining.replays.push(filter);
        }
    }

    /// Adds or, for a known filter, replaces [MQTT-3.8.4-3] a subscription.
    fn place_subscription(
        &mut self,
        index: u32,
        filter: &str,
        subscriber: Subscriber,
    ) -> (FilterId, bool) {
        let id = self.index.intern(filter);
        let Some(session) = self.sessions.get_mut(index) else { return (id, false) };
        if let Some(position) = session.subscriptions.position(id) {
            if !Mutant::ResubscribeIgnored.is_on() {
                *self.index.get_mut(id, position) = subscriber;
            }
            return (id, false);
        }
        let position = self.index.add(id, subscriber);
        session.subscriptions.set(Place { filter: id, position });
        self.counters.subscriptions += 1;
        self.announce(id);
        (id, true)
    }

    /// After an addition: the other shards learn of a filter's first subscriber here.
    pub(super) fn announce(&mut self, filter: FilterId) {
        if self.shards > 1 && self.index.subscribers(filter).len() == 1 {
            let text = self.index.filter(filter);
            self.shared.interest.add(self.id, self.index.key(filter), text);
        }
    }

    /// Takes an entry out of the index; the entry that takes its position is told.
    pub(super) fn remove_place(&mut self, filter: FilterId, position: u32) {
        let last = self.index.subscribers(filter).len() == 1;
        if self.shards > 1 && last && !Mutant::InterestNotWithdrawn.is_on() {
            let text = self.index.filter(filter);
            self.shared.interest.remove(self.id, self.index.key(filter), text);
        }
        let Some(moved) = self.index.remove(filter, position).moved else { return };
        if Mutant::PlaceNotMoved.is_on() {
            return;
        }
        if moved.options & GROUP != 0 {
            self.groups.moved(moved.target, position);
        } else if let Some(session) = self.sessions.get_mut(moved.target) {
            session.subscriptions.set(Place { filter, position });
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<Flow, Violation> {
        if self.outbox.is_congested() {
            return Ok(Flow::Hold(Holds::MAIL));
        }
        self.check_answer(index, version, unsubscribe.filters.len())?;
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in unsubscribe.filters.iter() {
            let mountpoint = self.sessions.get(index).map_or("", |session| session.mountpoint());
            let full = mounted(mountpoint, filter);
            let known = if topic::parse_share(filter).is_some() {
                self.leave(index, &full)
            } else {
                self.drop_subscription(index, &full)
            };
            let code = if known { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted };
            codes.push(code as u8);
        }
        let unsuback = UnsubAck {
            id: unsubscribe.id,
            codes: &codes,
            reason_string: None,
            user: UserProperties::default(),
        };
        // [MQTT-3.10.4-4]: also when nothing was deleted.
        self.write(socket, |out| packet::encode_unsuback(out, version, &unsuback));
        Ok(Flow::Next)
    }

    fn drop_subscription(&mut self, index: u32, filter: &str) -> bool {
        let Some(id) = self.index.find(filter) else { return false };
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let Some(position) = session.subscriptions.remove(id) else { return false };
        if let Some(flow) = &mut session.flow
            && !flow.replays.is_empty()
        {
            // Another filter may get the number while the replay of this one waits.
            flow.replays.retain(|replay| replay.filter != id);
            self.wake_replay(index);
        }
        self.counters.subscriptions -= 1;
        if !Mutant::RouteLeftBehind.is_on() {
            self.remove_place(id, position);
        }
        true
    }

    /// Takes out all subscriptions and memberships of a session that ends.
    pub(super) fn leave_everything(&mut self, index: u32) {
        self.joining.remove(&index);
        while self.leave_any(index) {}
        while let Some(place) =
            self.sessions.get(index).and_then(|session| session.subscriptions.any())
        {
            if let Some(session) = self.sessions.get_mut(index) {
                session.subscriptions.remove(place.filter);
            }
            self.counters.subscriptions -= 1;
            self.remove_place(place.filter, place.position);
        }
    }
}

/// The filter with the listener's mountpoint before it, inside a `$share` prefix.
fn mounted(mountpoint: &str, filter: &str) -> String {
    if mountpoint.is_empty() {
        return filter.to_owned();
    }
    match topic::parse_share(filter) {
        Some(Ok(share)) => format!("$share/{}/{mountpoint}{}", share.group, share.filter),
        _ => format!("{mountpoint}{filter}"),
    }
}

/// What makes the packet malformed, whoever sends it [MQTT-4.7.1-1, MQTT-4.8.2-1, MQTT-3.8.3-4].
fn check_filter(wanted: &SubscribeFilter<'_>) -> Result<(), Violation> {
    match topic::parse_share(wanted.filter) {
        Some(Ok(_)) if wanted.options.no_local => Err(SHARED_NO_LOCAL),
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) => Err(FILTER),
        None if topic::valid_filter(wanted.filter) => Ok(()),
        None => Err(FILTER),
    }
}

/// A SUBACK code of failure; MQTT 3 knows only one [MQTT-3.9.3-2].
fn failure(version: Version, reason: ReasonCode) -> u8 {
    if version.is_v5() { reason as u8 } else { ReasonCode::UnspecifiedError as u8 }
}
