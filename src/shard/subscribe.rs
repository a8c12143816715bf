//! Handles SUBSCRIBE and UNSUBSCRIBE, and the entries of subscriptions in the index.

use super::Shard;
use super::connection::Holds;
use super::memory::Pressure;
use super::receive::Handled;
use super::route::pack;
use super::task::{RemainingFilters, Task};
use crate::access::{self, Decision};
use crate::ids::{SessionRef, SocketId};
use crate::limits::cost;
use crate::mesh::moves::ToCluster;
use crate::mutant::Mutant;
use crate::packet::{
    self, PacketId, Qos, ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter,
    SubscribeFilters, Unsubscribe, UnsubscribeFilters, UserProperties, Version, Violation,
};
use crate::session::{ShareName, SubscriptionSlot};
use crate::topic::{self, FilterId, Subscriber};

const FILTER: Violation =
    Violation { reason: ReasonCode::TopicFilterInvalid, what: "the topic filter is malformed" };
const SHARED_NO_LOCAL: Violation =
    Violation { reason: ReasonCode::ProtocolError, what: "a shared subscription with No Local" };

const NO_ROOM: Violation = Violation {
    reason: ReasonCode::PacketTooLarge,
    what: "the Maximum Packet Size has no room for the answer",
};

/// A SUBACK that waits until the home shards of its share groups route for the client, and then
/// until the other nodes of a cluster do.
pub(super) struct Joining {
    pub(super) session: SessionRef,
    pub(super) ticket: u64,
    pub(super) left: u32,
    /// On a node of a cluster: whether the other nodes were asked if they know the filters.
    asked: bool,
    id: PacketId,
    codes: Vec<u8>,
    replays: Vec<FilterId>,
}

impl Joining {
    fn new(session: SessionRef, ticket: u64, id: PacketId) -> Self {
        // `left` counts one for the packet itself, until all its filters are done.
        let (codes, replays) = (Vec::new(), Vec::new());
        Joining { session, ticket, left: 1, asked: false, id, codes, replays }
    }

    /// Notes that one of the things that the SUBACK waits for is done.
    pub(super) fn done_one(&mut self) {
        self.left -= 1;
    }

    /// True when the SUBACK waits for nothing more.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0 || Mutant::SubAckBeforeJoined.is_on()
    }
}

impl Shard {
    pub(super) fn subscribe(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        subscribe: &Subscribe<'_>,
    ) -> Result<Handled, Violation> {
        if self.mail.outbox.is_congested() {
            return Ok(Handled::Hold(Holds::MAIL));
        }
        let many = !subscribe.filters.is_whole()
            || subscribe.filters.len() > self.settings.budget.filters_at_once;
        if !many {
            for wanted in subscribe.filters.iter() {
                check_filter(&wanted)?;
            }
            self.check_answer(index, version, subscribe.filters.len())?;
        }
        if !many && let Some(held) = self.asks_about_filters(socket, index, subscribe) {
            return Ok(held);
        }
        // Messages that were accepted before are delivered by the options that were in force then.
        self.catch_up(index);
        let session = self.session_ref(index);
        let ticket = self.topology.ticket();
        let mut joining = Joining::new(session, ticket, subscribe.id);
        if many {
            let filters = RemainingFilters::new(socket, version, subscribe.filters.raw());
            let subscription_id = subscribe.subscription_id;
            self.subscriptions.joining.insert(index, joining);
            let task = Task::Subscribe { session, ticket, subscription_id, filters };
            self.begin_task(socket, task);
            return Ok(Handled::Next);
        }
        for wanted in subscribe.filters.iter() {
            self.subscribe_one(index, version, subscribe.subscription_id, &wanted, &mut joining);
        }
        joining.done_one();
        if joining.is_complete() && self.is_announced(&mut joining) {
            self.finish_subscribe(socket, index, version, joining);
        } else {
            self.subscriptions.joining.insert(index, joining);
            self.hold(socket, Holds::JOINING);
        }
        Ok(Handled::Next)
    }

    /// Handles one filter of a SUBSCRIBE, which is granted or refused.
    pub(super) fn subscribe_one(
        &mut self,
        index: u32,
        version: Version,
        subscription_id: Option<u32>,
        wanted: &SubscribeFilter<'_>,
        joining: &mut Joining,
    ) {
        self.meter.charge(cost::FILTER);
        let granted = self
            .permit(index, version, subscription_id, wanted)
            .and_then(|qos| self.may_subscribe(index, wanted.filter, qos).map(|()| qos))
            .and_then(|qos| self.grant(index, wanted, qos, subscription_id.unwrap_or(0), joining));
        if granted.is_err() && self.memory.is_short(Pressure::High) {
            self.counters.memory_refused_subscription += 1;
        } else if granted.is_err() && self.stores_nothing() {
            self.counters.overload_refused_subscription += 1;
        } else if granted == Err(ReasonCode::QuotaExceeded) {
            self.counters.subscriptions_over_limit += 1;
        }
        joining.codes.push(match granted {
            Ok(qos) => qos as u8,
            Err(reason) => failure(version, reason),
        });
    }

    /// Takes out the waiting SUBACK with this ticket.
    pub(super) fn take_joining(&mut self, session: SessionRef, ticket: u64) -> Option<Joining> {
        let joining = self.subscriptions.joining.remove(&session.index)?;
        let same = joining.session == session && joining.ticket == ticket;
        if !same {
            self.subscriptions.joining.insert(session.index, joining);
            return None;
        }
        Some(joining)
    }

    /// True when the other nodes know the filters, or there are no other nodes. Otherwise asks
    /// them.
    pub(super) fn is_announced(&mut self, joining: &mut Joining) -> bool {
        if joining.asked || self.topology.nodes().is_empty() || Mutant::ClusterSubAckEarly.is_on() {
            return true;
        }
        (joining.asked, joining.left) = (true, 1);
        self.answer_cluster(ToCluster::Ask(joining.session, joining.ticket));
        false
    }

    pub(super) fn put_joining(&mut self, index: u32, joining: Joining) {
        self.subscriptions.joining.insert(index, joining);
    }

    /// Refuses a packet whose answer exceeds the client's Maximum Packet Size [MQTT-3.1.2-24],
    /// before anything is done for the packet.
    pub(super) fn check_answer(
        &self,
        index: u32,
        version: Version,
        codes: usize,
    ) -> Result<(), Violation> {
        let room = self.sessions.get(index).map_or(0, |session| session.maximum_packet_size);
        if version.is_v5() && room != u32::MAX && packet::answer_size(codes) > room as usize {
            return Err(NO_ROOM);
        }
        Ok(())
    }

    /// Sends the SUBACK, and then begins to replay retained messages.
    pub(super) fn finish_subscribe(
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
        self.answer(socket, |out| packet::encode_suback(out, version, &suback));
        self.access.asking.handled(socket);
        self.ask_for_replays(index, joining.replays);
    }

    /// The QoS that is granted, or why the filter is refused. Its syntax has been checked before.
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
        if topic::levels(filter) > self.topic_levels_of(index) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let Some(session) = self.sessions.get(index) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        if let Decision::Deny(denied) = access::own::subscribe(session.mountpoint(), filter) {
            return Err(denied.reason);
        }
        let shares = session.shared();
        let full = session.subscriptions.len() + shares >= self.subscriptions_of(index);
        let unhashed = self.subscriptions.unhashed(index) + shares;
        let costly = unhashed >= settings.max_unhashed_subscriptions
            && self.subscriptions.index.is_unhashed(&mounted(session.mountpoint(), filter));
        let short = self.memory.is_short(Pressure::High) && !Mutant::MemorySubscribeTaken.is_on()
            || self.stores_nothing();
        if (full || costly || short) && !self.is_subscribed(index, wanted.filter) {
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
        let known = self.subscriptions.index.find(&full);
        known.is_some_and(|known| session.subscriptions.position(known).is_some())
    }

    fn grant(
        &mut self,
        index: u32,
        wanted: &SubscribeFilter<'_>,
        granted: Qos,
        subscription_id: u32,
        joining: &mut Joining,
    ) -> Result<Qos, ReasonCode> {
        let mut options = packet::SubscribeOptions { qos: granted, ..wanted.options };
        if self.sessions.get(index).is_some_and(|session| session.bridge)
            && !Mutant::BridgeBitIgnored.is_on()
        {
            options = for_bridge(wanted.filter, options);
        }
        let options = pack(&options);
        let mountpoint = self.sessions.get(index).map_or("", |session| session.mountpoint());
        let full = mounted(mountpoint, wanted.filter);
        if topic::parse_share(wanted.filter).is_some() {
            // Retained messages are not sent to shared subscriptions (section 4.8.2).
            if self.join(index, &full, options, subscription_id, joining.ticket) {
                joining.left += 1;
            }
            self.store_subscription(index, &full, options, subscription_id);
            self.observe_subscription(index, &full, Some(granted as u8));
            return Ok(granted);
        }
        let subscriber = Subscriber { target: index, options, subscription_id };
        let (filter, new) = self.place_subscription(index, &full, subscriber)?;
        self.store_subscription(index, &full, options, subscription_id);
        self.observe_subscription(index, &full, Some(granted as u8));
        let replay = match wanted.options.retain_handling {
            RetainHandling::Send => true, // [MQTT-3.3.1-9]
            RetainHandling::SendIfNew if Mutant::SendIfNewAlways.is_on() => true,
            RetainHandling::SendIfNew => new,   // [MQTT-3.3.1-10]
            RetainHandling::DoNotSend => false, // [MQTT-3.3.1-11]
        };
        if replay {
            joining.replays.push(filter);
        }
        Ok(granted)
    }

    /// Adds a subscription, or replaces the one with that filter [MQTT-3.8.4-3]. Returns the
    /// filter, and whether the subscription is new.
    pub(super) fn place_subscription(
        &mut self,
        index: u32,
        filter: &str,
        subscriber: Subscriber,
    ) -> Result<(FilterId, bool), ReasonCode> {
        let id = self.subscriptions.index.intern(filter).ok_or(ReasonCode::QuotaExceeded)?;
        let Some(session) = self.sessions.get_mut(index) else { return Ok((id, false)) };
        if let Some(position) = session.subscriptions.position(id) {
            if !Mutant::ResubscribeIgnored.is_on() {
                *self.subscriptions.index.get_mut(id, position) = subscriber;
            }
            return Ok((id, false));
        }
        let position = self.subscriptions.index.add(id, subscriber);
        session.subscriptions.set(SubscriptionSlot { filter: id, position });
        self.counters.subscriptions += 1;
        if self.subscriptions.index.is_in_trie(id) {
            self.subscriptions.add_unhashed(index);
        }
        self.announce_session(id);
        Ok((id, true))
    }

    pub(super) fn unsubscribe(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        unsubscribe: &Unsubscribe<'_>,
    ) -> Result<Handled, Violation> {
        if self.mail.outbox.is_congested() {
            return Ok(Handled::Hold(Holds::MAIL));
        }
        let many = !unsubscribe.filters.is_whole()
            || unsubscribe.filters.len() > self.settings.budget.filters_at_once;
        if !many {
            for filter in unsubscribe.filters.iter() {
                check_syntax(filter)?;
            }
            self.check_answer(index, version, unsubscribe.filters.len())?;
        }
        // Messages that were accepted before the packet are delivered before its answer.
        self.catch_up(index);
        if many {
            let filters = RemainingFilters::new(socket, version, unsubscribe.filters.raw());
            let (session, ticket) = (self.session_ref(index), self.topology.ticket());
            let (id, codes) = (unsubscribe.id, Vec::new());
            self.begin_task(socket, Task::Unsubscribe { session, ticket, id, filters, codes });
            return Ok(Handled::Next);
        }
        let filters = unsubscribe.filters.iter();
        let codes: Vec<u8> = filters.map(|filter| self.unsubscribe_one(index, filter)).collect();
        self.answer_unsubscribe(socket, version, unsubscribe.id, &codes);
        Ok(Handled::Next)
    }

    /// Handles one filter of an UNSUBSCRIBE; returns its reason code.
    pub(super) fn unsubscribe_one(&mut self, index: u32, filter: &str) -> u8 {
        self.meter.charge(cost::FILTER);
        let mountpoint = self.sessions.get(index).map_or("", |session| session.mountpoint());
        let full = mounted(mountpoint, filter);
        let known = if topic::parse_share(filter).is_some() {
            self.leave(index, &full)
        } else {
            self.drop_subscription(index, &full)
        };
        if known {
            self.store_unsubscribed(index, &full);
            self.observe_subscription(index, &full, None);
        }
        let code = if known { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted };
        code as u8
    }

    fn drop_subscription(&mut self, index: u32, filter: &str) -> bool {
        self.subscriptions.index.find(filter).is_some_and(|id| self.remove_subscription(index, id))
    }

    /// Ends a subscription of a session; false when it has none with that filter.
    pub(super) fn remove_subscription(&mut self, index: u32, id: FilterId) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let Some(position) = session.subscriptions.remove(id) else { return false };
        if self.subscriptions.index.is_in_trie(id) {
            self.subscriptions.remove_unhashed(index);
        }
        let Some(session) = self.sessions.get_mut(index) else { return false };
        if let Some(flow) = &mut session.flow
            && !flow.replays.is_empty()
        {
            // While a replay of this filter waits, another filter might get the filter's number.
            flow.replays.remove(id);
            self.wake_replay(index);
        }
        self.counters.subscriptions -= 1;
        if !Mutant::RouteLeftBehind.is_on() {
            self.remove_place(id, position);
        }
        true
    }
}

/// The filter with the listener's mountpoint before it; for a share group, after the `$share`
/// prefix.
fn mounted(mountpoint: &str, filter: &str) -> String {
    if mountpoint.is_empty() {
        return filter.to_owned();
    }
    match topic::parse_share(filter) {
        Some(Ok(share)) => format!("$share/{}/{mountpoint}{}", share.group, share.filter),
        _ => format!("{mountpoint}{filter}"),
    }
}

/// Checks the first entry in the rest of a SUBSCRIBE's filters; returns the entry's length in
/// bytes.
pub(super) fn check_subscribed(version: Version, raw: &[u8]) -> Result<usize, Violation> {
    let (wanted, length) = SubscribeFilters::check(version, raw)?;
    check_filter(&wanted).map(|()| length)
}

/// Checks the first entry in the rest of an UNSUBSCRIBE's filters; returns its length in bytes.
pub(super) fn check_unsubscribed(_version: Version, raw: &[u8]) -> Result<usize, Violation> {
    let (filter, length) = UnsubscribeFilters::check(raw)?;
    check_syntax(filter).map(|_| length)
}

/// Checks the rules whose violation makes the packet malformed, whichever client sends it
/// [MQTT-4.7.1-1, MQTT-4.8.2-1, MQTT-3.8.3-4].
fn check_filter(wanted: &SubscribeFilter<'_>) -> Result<(), Violation> {
    let shared = check_syntax(wanted.filter)?;
    if shared && wanted.options.no_local { Err(SHARED_NO_LOCAL) } else { Ok(()) }
}

/// The options that a mosquitto bridge of MQTT 3 means by its subscription: the bridge must not get
/// back what it sent, and forwards retained messages as retained. No Local is not allowed for a
/// share group [MQTT-3.8.3-4].
fn for_bridge(filter: &str, options: packet::SubscribeOptions) -> packet::SubscribeOptions {
    let no_local = topic::parse_share(filter).is_none();
    packet::SubscribeOptions { no_local, retain_as_published: true, ..options }
}

/// Whether the filter is that of a shared subscription. A filter whose syntax is wrong violates the
/// protocol in SUBSCRIBE and UNSUBSCRIBE alike, and ends the connection [MQTT-4.13.1-1]: the code
/// 0x8F of SUBACK and UNSUBACK is for filters that "are correctly formed", and the UNSUBACK of MQTT
/// 3 has no codes at all.
fn check_syntax(filter: &str) -> Result<bool, Violation> {
    match topic::parse_share(filter) {
        Some(Ok(_)) => Ok(true),
        None if topic::valid_filter(filter) => Ok(false),
        Some(Err(())) | None => Err(FILTER),
    }
}

/// The SUBACK code for a failure. MQTT 3 has only one [MQTT-3.9.3-2].
fn failure(version: Version, reason: ReasonCode) -> u8 {
    if version.is_v5() { reason as u8 } else { ReasonCode::UnspecifiedError as u8 }
}
