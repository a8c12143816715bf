//! The session of a bridge with another MQTT broker. Pure: packets and messages come in, bytes and
//! [`BridgeEvent`]s go out.
//!
//! A session outlives its connections. A message that was sent with QoS 1 or 2 and is not
//! acknowledged keeps its packet identifier. If the other broker still has the session, the message
//! is sent again under that identifier, with the DUP flag; otherwise it is sent as a new message.
//! In both cases the bridge rewinds its queue when a connection begins, and gives the same
//! messages, under the same numbers, to [`RemoteSession::publish`] again.
//!
//! The other broker may have a session that this process does not know: that of an earlier process
//! which was killed. The other broker may then hold packet identifiers of QoS 2 messages that would
//! never be released. They would count against its Receive Maximum, and a new message under such an
//! identifier would be taken for a repetition. Therefore all identifiers are released before
//! anything is published; PUBREL for an identifier that is not held is answered with PUBCOMP all
//! the same [MQTT-4.3.3-11].
//!
//! Received messages are acknowledged by [`RemoteSession::accepted`] after the shards have taken
//! them, in the order in which they arrived [MQTT-4.6.0-2].

pub use super::exchange::{BridgeEvent, ExchangeTrouble, Incoming, RemotePlan, SendOutcome};
use crate::limits::MAX_REMAINING_LENGTH;
use crate::link_record::{LinkRecord, PATH};
use crate::packet::{
    self, Ack, AckKind, ConnAck, Connect, ConnectProperties, OutPublish, Packet, PacketId, Publish,
    PublishProperties, Qos, ReasonCode, SubAck, Subscribe, SubscribeFilter, SubscribeFilters,
    SubscribeOptions, UserProperties, Violation, Will,
};
use std::collections::{HashMap, HashSet, VecDeque};

/// The longest accepted name of another broker, in bytes.
const INSTANCE: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum BridgeStage {
    Closed,
    Connecting,
    Subscribing,
    Ready,
}

/// A sent packet whose acknowledgement has not arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct UnacknowledgedPacket {
    id: PacketId,
    /// The message's number; `None` for a message with the bridge's state.
    number: Option<u64>,
    qos: Qos,
    /// Whether PUBREC has arrived.
    received: bool,
}

/// A received message that is not acknowledged yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Owed {
    ticket: u64,
    id: PacketId,
    qos: Qos,
    accepted: bool,
}

/// The session with the other broker.
#[derive(Debug)]
pub struct RemoteSession {
    plan: RemotePlan,
    /// Bytes that are to be written to the connection.
    pub out: Vec<u8>,
    stage: BridgeStage,
    /// Whether CONNECT of version 3 tells that the client is a bridge.
    private: bool,
    last_id: u16,
    sent: VecDeque<UnacknowledgedPacket>,
    /// Messages that were sent on an earlier connection and not yet again, by their numbers.
    resumed: HashMap<u64, UnacknowledgedPacket>,
    /// Whether the other broker has accepted a connection of this session before.
    known: bool,
    owed: VecDeque<Owed>,
    /// Packet identifiers of received QoS 2 messages that are not released.
    held: HashSet<PacketId>,
    tickets: u64,
    /// The most unacknowledged messages that the other broker takes; next are its other limits.
    window: u16,
    largest: u32,
    max_qos: Qos,
    retain: bool,
    /// The other broker's name on paths of messages; empty while it is unknown.
    remote: String,
    // Scratch memory for one message.
    name: String,
    properties: Vec<u8>,
}

impl RemoteSession {
    /// A session without a connection.
    pub fn new(plan: RemotePlan) -> RemoteSession {
        RemoteSession {
            plan,
            out: Vec::new(),
            stage: BridgeStage::Closed,
            private: false,
            last_id: 0,
            sent: VecDeque::new(),
            resumed: HashMap::new(),
            known: false,
            owed: VecDeque::new(),
            held: HashSet::new(),
            tickets: 0,
            window: 0,
            largest: u32::MAX,
            max_qos: Qos::ExactlyOnce,
            retain: true,
            remote: String::new(),
            name: String::new(),
            properties: Vec::new(),
        }
    }

    /// The plan.
    pub fn plan(&self) -> &RemotePlan {
        &self.plan
    }

    /// A connection has been opened: writes CONNECT. `private` tells whether version 3 says that
    /// the client is a bridge.
    pub fn connect(&mut self, private: bool) {
        self.out.clear();
        self.stage = BridgeStage::Connecting;
        self.private = private && !self.plan.version.is_v5();
        for sent in self.sent.drain(..) {
            if let Some(number) = sent.number {
                self.resumed.insert(number, sent);
            }
        }
        // The other broker sends unacknowledged messages again.
        self.owed.clear();
        let plan = &self.plan;
        let will = plan.state_topic.as_deref().map(|topic| Will {
            topic,
            payload: b"0",
            qos: Qos::AtLeastOnce,
            retain: true,
            delay: 0,
            properties: PublishProperties::default(),
        });
        let given = |text: &'_ str| !text.is_empty();
        // The name of this broker: another RingMQ answers with its own. The name's length is
        // bounded.
        let mut name = Vec::new();
        let _ = packet::append_user_property(&mut name, PATH, &plan.instance);
        let connect = Connect {
            version: plan.version,
            clean_start: plan.clean_start,
            keep_alive: plan.keep_alive,
            client_id: &plan.client_id,
            username: Some(plan.username.as_str()).filter(|name| given(name)),
            password: Some(plan.password.as_bytes()).filter(|_| given(&plan.password)),
            will,
            bridge: self.private,
            properties: ConnectProperties {
                session_expiry: (!plan.clean_start).then_some(plan.session_expiry),
                receive_maximum: Some(plan.receive_maximum),
                maximum_packet_size: Some(plan.max_packet_size),
                user: UserProperties::within(&name),
                ..ConnectProperties::default()
            },
        };
        // The configuration bounds the texts of CONNECT, so encoding does not fail.
        let encoded = packet::encode_connect(&mut self.out, &connect);
        debug_assert!(encoded.is_ok());
    }

    /// Whether messages may be sent.
    pub fn is_ready(&self) -> bool {
        self.stage == BridgeStage::Ready
    }

    /// Whether another message of QoS 1 or 2 may be sent.
    pub fn has_room(&self) -> bool {
        self.sent.len() < usize::from(self.window)
    }

    /// The number of messages that were sent with QoS 1 or 2 on this connection and are not
    /// acknowledged.
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// Whether no message in either direction awaits an acknowledgement.
    pub fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.owed.is_empty() && self.resumed.is_empty()
    }

    /// The number of received messages that are not acknowledged.
    pub fn owes(&self) -> usize {
        self.owed.len()
    }

    /// Ends the connection in good order: publishes the bridge's state and writes DISCONNECT.
    pub fn disconnect(&mut self) {
        if self.stage == BridgeStage::Ready {
            self.publish_state(b"0");
        }
        let goodbye = packet::Disconnect::new(ReasonCode::Success);
        let _ = packet::encode_disconnect(&mut self.out, self.plan.version, &goodbye);
        self.stage = BridgeStage::Closed;
    }

    /// Writes PINGREQ.
    pub fn ping(&mut self) {
        packet::encode_pingreq(&mut self.out);
    }

    fn next_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let Some(id) = PacketId::new(self.last_id) else { continue };
            let taken = |sent: &UnacknowledgedPacket| sent.id == id;
            if !self.sent.iter().any(taken) && !self.resumed.values().any(taken) {
                return id;
            }
        }
    }

    fn publish_state(&mut self, payload: &[u8]) {
        let Some(topic) = self.plan.state_topic.clone() else { return };
        let id = self.next_id();
        let publish = OutPublish {
            dup: false,
            qos: self.max_qos.min(Qos::AtLeastOnce),
            retain: self.retain,
            topic: &topic,
            id: Some(id).filter(|_| self.max_qos > Qos::AtMostOnce),
            message_expiry: None,
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &[],
            payload,
        };
        let encoded = packet::encode_publish(&mut self.out, self.plan.version, &publish);
        if encoded.is_ok() && publish.id.is_some() {
            self.sent.push_back(UnacknowledgedPacket {
                id,
                number: None,
                qos: publish.qos,
                received: false,
            });
        }
    }

    /// Sends the message with this number, for which [`RemoteSession::has_room`] holds. `now` is in
    /// milliseconds since 1970.
    pub fn publish(&mut self, number: u64, record: &LinkRecord<'_>, now: u64) -> SendOutcome {
        let again = self.resumed.remove(&number);
        let mut name = std::mem::take(&mut self.name);
        let fate = match self.plan.topics.remote_name(record.topic, &mut name) {
            None => SendOutcome::Unwanted,
            Some(qos) => self.publish_as(number, record, now, again, (&name, qos)),
        };
        self.name = name;
        fate
    }

    fn publish_as(
        &mut self,
        number: u64,
        record: &LinkRecord<'_>,
        now: u64,
        again: Option<UnacknowledgedPacket>,
        (topic, qos): (&str, Qos),
    ) -> SendOutcome {
        let version = self.plan.version;
        let qos = again.map_or(record.qos.min(qos).min(self.max_qos), |sent| sent.qos);
        if let Some(sent) = again.filter(|sent| sent.received) {
            self.acknowledge(AckKind::PubRel, sent.id);
            self.sent.push_back(sent);
            return SendOutcome::Sent(qos);
        }
        if again.is_none() && record.expires.is_some_and(|at| at <= now) {
            return SendOutcome::Expired;
        }
        self.properties.clear();
        self.properties.extend_from_slice(record.properties);
        if !self.may_go_on(record.properties, &self.remote) {
            return SendOutcome::Loop;
        }
        if version.is_v5() {
            // The length of the name is bounded, so this does not fail.
            let _ = packet::append_user_property(&mut self.properties, PATH, &self.plan.instance);
        }
        let id = match again {
            Some(sent) => sent.id,
            None if qos > Qos::AtMostOnce => self.next_id(),
            None => PacketId::new(1).unwrap_or_else(|| self.next_id()),
        };
        let left = record.expires.map(|at| at.saturating_sub(now).div_ceil(1000).max(1));
        let publish = OutPublish {
            dup: again.is_some(),
            qos,
            retain: record.retain && self.retain,
            topic,
            id: Some(id).filter(|_| qos > Qos::AtMostOnce),
            message_expiry: left.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &self.properties,
            payload: record.payload,
        };
        let size = packet::publish_size(version, &publish);
        let fits = size.is_ok_and(|size| size <= (self.largest as usize).min(MAX_WHOLE));
        if !fits || packet::encode_publish(&mut self.out, version, &publish).is_err() {
            return SendOutcome::TooLarge;
        }
        if qos > Qos::AtMostOnce {
            self.sent.push_back(UnacknowledgedPacket {
                id,
                number: Some(number),
                qos,
                received: false,
            });
        }
        SendOutcome::Sent(qos)
    }

    /// Whether a message with these properties may go on: it has not passed this broker, nor the
    /// broker that it would go to, nor too many brokers.
    fn may_go_on(&self, properties: &[u8], next: &str) -> bool {
        if properties.is_empty() {
            return true;
        }
        let Ok(properties) = PublishProperties::parse(properties) else { return false };
        let mut path = properties.user.iter().filter(|(name, _)| *name == PATH);
        let mut hops = 0;
        path.all(|(_, instance)| {
            hops += 1;
            let known = instance == self.plan.instance || instance == next && !next.is_empty();
            !known && hops < u32::from(self.plan.max_hops)
        })
    }

    /// The properties with the other broker's name added to the path.
    fn stamped(&self, mut properties: Vec<u8>) -> Vec<u8> {
        // The length of the name is bounded, so this does not fail.
        let _ = packet::append_user_property(&mut properties, PATH, &self.remote);
        properties
    }

    fn acknowledge(&mut self, kind: AckKind, id: PacketId) {
        let ack = Ack::new(id, ReasonCode::Success);
        // An acknowledgement without texts always fits.
        let _ = packet::encode_ack(&mut self.out, self.plan.version, kind, &ack);
    }

    /// Handles a packet of the other broker.
    ///
    /// # Errors
    /// The reason why the connection has to end.
    pub fn take(
        &mut self,
        packet: &Packet<'_>,
        events: &mut Vec<BridgeEvent>,
    ) -> Result<(), ExchangeTrouble> {
        match (packet, self.stage) {
            (Packet::ConnAck(connack), BridgeStage::Connecting) => self.connected(connack, events),
            (_, BridgeStage::Connecting | BridgeStage::Closed) => {
                Err(violation("A packet before CONNACK"))
            }
            (Packet::SubAck(suback), BridgeStage::Subscribing) => self.subscribed(suback, events),
            (Packet::Publish(publish), _) => self.incoming(publish, events),
            (Packet::PubAck(ack), _) => {
                self.answered(ack, Qos::AtLeastOnce, events);
                Ok(())
            }
            (Packet::PubRec(ack), _) => {
                self.received(ack, events);
                Ok(())
            }
            (Packet::PubComp(ack), _) => {
                self.answered(ack, Qos::ExactlyOnce, events);
                Ok(())
            }
            (Packet::PubRel(ack), _) => {
                self.held.remove(&ack.id);
                self.acknowledge(AckKind::PubComp, ack.id);
                Ok(())
            }
            (Packet::PingResp, _) => Ok(()),
            (Packet::Disconnect(goodbye), _) => Err(ExchangeTrouble::Disconnected(goodbye.reason)),
            _ => Err(violation("A packet that a server does not send")),
        }
    }

    fn connected(
        &mut self,
        connack: &ConnAck<'_>,
        events: &mut Vec<BridgeEvent>,
    ) -> Result<(), ExchangeTrouble> {
        if connack.reason != ReasonCode::Success {
            return Err(ExchangeTrouble::Refused(connack.reason));
        }
        let told = &connack.properties;
        self.window = told.receive_maximum.unwrap_or(u16::MAX).min(self.plan.max_inflight);
        self.largest = told.maximum_packet_size.unwrap_or(u32::MAX);
        self.max_qos = told.maximum_qos.unwrap_or(Qos::ExactlyOnce);
        self.retain = told.retain_available.unwrap_or(true);
        if let Some(seconds) = told.server_keep_alive.filter(|&seconds| seconds > 0) {
            self.plan.keep_alive = self.plan.keep_alive.min(seconds);
        }
        let name = told.user.iter().find(|(name, _)| *name == PATH).map(|(_, value)| value);
        self.remote = name.filter(|name| name.len() <= INSTANCE).unwrap_or_default().to_owned();
        if !connack.session_present {
            self.resumed.clear();
            self.held.clear();
        } else if !self.known && self.sends_exactly_once() {
            let all = (1..=u16::MAX).filter_map(PacketId::new);
            all.for_each(|id| self.acknowledge(AckKind::PubRel, id));
        }
        self.known = true;
        events.push(BridgeEvent::Connected);
        self.publish_state(b"1");
        self.subscribe(events);
        Ok(())
    }

    fn sends_exactly_once(&self) -> bool {
        self.max_qos == Qos::ExactlyOnce && self.plan.topics.send_exactly_once()
    }

    fn subscribe(&mut self, events: &mut Vec<BridgeEvent>) {
        let (version, id) = (self.plan.version, self.next_id());
        let mut raw = Vec::new();
        for (filter, qos) in self.plan.topics.inward() {
            let options = SubscribeOptions {
                qos,
                no_local: true,
                retain_as_published: true,
                ..SubscribeOptions::default()
            };
            // The configuration bounds the filter's length, so this does not fail.
            let _ = SubscribeFilter { filter, options }.write(version, &mut raw);
        }
        let filters = SubscribeFilters::parse(version, &raw);
        let Some(filters) = filters.ok().filter(|_| !raw.is_empty()) else {
            self.stage = BridgeStage::Ready;
            events.push(BridgeEvent::Ready);
            return;
        };
        let user = UserProperties::default();
        let subscribe = Subscribe { id, subscription_id: None, user, filters };
        let _ = packet::encode_subscribe(&mut self.out, version, &subscribe);
        self.stage = BridgeStage::Subscribing;
    }

    fn subscribed(
        &mut self,
        suback: &SubAck<'_>,
        events: &mut Vec<BridgeEvent>,
    ) -> Result<(), ExchangeTrouble> {
        if let Some(&code) = suback.codes.iter().find(|&&code| code >= 0x80) {
            let reason = ReasonCode::from_u8(code).unwrap_or(ReasonCode::UnspecifiedError);
            return Err(ExchangeTrouble::NotSubscribed(reason));
        }
        self.stage = BridgeStage::Ready;
        events.push(BridgeEvent::Ready);
        Ok(())
    }

    fn incoming(
        &mut self,
        publish: &Publish<'_>,
        events: &mut Vec<BridgeEvent>,
    ) -> Result<(), ExchangeTrouble> {
        if publish.properties.topic_alias.is_some() {
            return Err(violation("A topic alias, for which nobody has asked"));
        }
        if self.owed.len() >= usize::from(self.plan.receive_maximum) && self.plan.version.is_v5() {
            return Err(violation("More messages than Receive Maximum"));
        }
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(id) = publish.id {
            let known = publish.qos == Qos::ExactlyOnce && !self.held.insert(id);
            if known && !self.owed.iter().any(|owed| owed.id == id) {
                self.acknowledge(AckKind::PubRec, id);
            }
            if known {
                return Ok(());
            }
            self.owed.push_back(Owed { ticket, id, qos: publish.qos, accepted: false });
        }
        let mut properties = Vec::new();
        publish.properties.write_forwardable(&mut properties);
        let found = self.plan.topics.local_name(publish.topic);
        let stamped = !self.remote.is_empty() && self.plan.version.is_v5();
        let event = match found {
            _ if !self.may_go_on(&properties, "") => BridgeEvent::Loop,
            None => BridgeEvent::Stray,
            Some(_) if !publish.has_promised_format() => BridgeEvent::Stray,
            Some((topic, qos)) => BridgeEvent::Incoming(Incoming {
                topic,
                properties: if stamped { self.stamped(properties) } else { properties },
                payload: publish.payload.to_vec(),
                qos: publish.qos.min(qos),
                retain: publish.retain,
                expiry: publish.properties.message_expiry,
                ticket,
            }),
        };
        let taken = matches!(event, BridgeEvent::Incoming(_));
        events.push(event);
        if !taken {
            self.accepted(ticket);
        }
        Ok(())
    }

    /// The message with this ticket has been taken: it is acknowledged once all earlier ones are.
    pub fn accepted(&mut self, ticket: u64) {
        if let Ok(at) = self.owed.binary_search_by_key(&ticket, |owed| owed.ticket)
            && let Some(owed) = self.owed.get_mut(at)
        {
            owed.accepted = true;
        }
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.accepted) {
            let exactly = owed.qos == Qos::ExactlyOnce;
            self.acknowledge(if exactly { AckKind::PubRec } else { AckKind::PubAck }, owed.id);
        }
    }

    fn answered(&mut self, ack: &Ack<'_>, qos: Qos, events: &mut Vec<BridgeEvent>) {
        // A PUBCOMP before PUBREC belongs to an earlier message with the same identifier.
        let due = |sent: &UnacknowledgedPacket| sent.received || qos == Qos::AtLeastOnce;
        let known = |sent: &UnacknowledgedPacket| sent.id == ack.id && sent.qos == qos && due(sent);
        let Some(at) = self.sent.iter().position(known) else { return };
        let Some(UnacknowledgedPacket { number: Some(number), .. }) = self.sent.remove(at) else {
            return;
        };
        let refused = (ack.reason as u8) >= 0x80 && qos == Qos::AtLeastOnce;
        events.push(match refused {
            true => BridgeEvent::Rejected(number, ack.reason),
            false => BridgeEvent::Delivered(number),
        });
    }

    fn received(&mut self, ack: &Ack<'_>, events: &mut Vec<BridgeEvent>) {
        let known = |sent: &UnacknowledgedPacket| sent.id == ack.id && sent.qos == Qos::ExactlyOnce;
        let found = self.sent.iter().position(known);
        if (ack.reason as u8) >= 0x80 {
            let sent = found.and_then(|at| self.sent.remove(at));
            let number = sent.and_then(|sent| sent.number);
            events.extend(number.map(|number| BridgeEvent::Rejected(number, ack.reason)));
            return;
        }
        if let Some(sent) = found.and_then(|at| self.sent.get_mut(at)) {
            sent.received = true;
        }
        self.acknowledge(AckKind::PubRel, ack.id);
    }
}

/// Bytes of the largest possible packet.
const MAX_WHOLE: usize = MAX_REMAINING_LENGTH as usize + 5;

fn violation(what: &'static str) -> ExchangeTrouble {
    ExchangeTrouble::Violation(Violation { reason: ReasonCode::ProtocolError, what })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
