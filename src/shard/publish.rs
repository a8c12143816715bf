//! PUBLISH from a client: checks, topic alias, QoS handshake, routing.

use super::Shard;
use super::announced::ConnackLimits;
use super::client_limits::Metered;
use super::close::Cause;
use super::connection::Holds;
use super::memory::Pressure;
use super::receive::Handled;
use super::route::Route;
use crate::access::{Decision, Deed, Denied};
use crate::config::OnDeny;
use crate::ids::{ShardSet, SocketId};
use crate::message::MessageRef;
use crate::mutant::Mutant;
use crate::packet::{AckKind, PacketId, Publish, Qos, ReasonCode, Version, Violation};
use crate::session::inbound::Arrival;
use crate::topic::{self, TopicHash};

const QOS: Violation =
    Violation { reason: ReasonCode::QosNotSupported, what: "the QoS is above Maximum QoS" };
const RETAIN: Violation =
    Violation { reason: ReasonCode::RetainNotSupported, what: "retain is not available" };
const ALIAS: Violation = Violation {
    reason: ReasonCode::TopicAliasInvalid,
    what: "the topic alias is above Topic Alias Maximum",
};
// MQTT 5 sets no bound for the names. 0x97 is for limits that a server has set (section 3.14.2.1).
const ALIAS_NAMES: Violation = Violation {
    reason: ReasonCode::QuotaExceeded,
    what: "the names of the topic aliases take more than 1 MiB",
};
const UNKNOWN_ALIAS: Violation =
    Violation { reason: ReasonCode::ProtocolError, what: "the topic alias was never set" };
const LEVELS: Violation =
    Violation { reason: ReasonCode::TopicNameInvalid, what: "the topic has too many levels" };
const RECEIVE_MAXIMUM: Violation = Violation {
    reason: ReasonCode::ReceiveMaximumExceeded,
    what: "more QoS 2 messages in flight than Receive Maximum",
};
const SUBSCRIPTION_ID: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "a client's PUBLISH has a subscription identifier",
};

/// How much of a message is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Acceptance {
    /// All of it.
    Whole,
    /// Only its effect on the topic's retained message, which it replaces or clears.
    ByTheStore,
    /// Nothing.
    Nothing,
    /// Nothing for now: memory is full, but perhaps not for long.
    Later,
}

impl Shard {
    #[inline]
    pub(super) fn publish(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
    ) -> Result<Handled, Violation> {
        if self.sessions.limiting.len() == 0 {
            return self.publish_unmetered(socket, index, version, publish);
        }
        self.publish_metered(socket, index, version, publish)
    }

    /// Handles a PUBLISH where some clients have limits, or the message is sampled. A message that
    /// is held for another reason is tried again, and counts for the client's rate only when it has
    /// been handled.
    #[inline(never)]
    pub(super) fn publish_metered(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
    ) -> Result<Handled, Violation> {
        if let Some(metered) = self.meter_client(socket, index, version, publish) {
            return self.exceeds(socket, index, version, publish, metered);
        }
        let handled = self.publish_unmetered(socket, index, version, publish)?;
        if handled == Handled::Next {
            self.charge_client(index, publish);
        }
        Ok(handled)
    }

    #[inline]
    fn publish_unmetered(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
    ) -> Result<Handled, Violation> {
        let announced = self.announced_to(socket);
        check_publish(publish, &announced)?;
        if self.mail.outbox.is_congested() || self.delivery.fanouts.is_full() {
            return Ok(Handled::Hold(Holds::MAIL));
        }
        if let (Qos::ExactlyOnce, Some(id)) = (publish.qos, publish.id) {
            // A client of MQTT 3 is told no limit, and may use all packet identifiers. Were it
            // disconnected for this, it would come back and send the same messages again.
            let limit = if version.is_v5() { announced.receive_maximum } else { u16::MAX };
            let arrival = self
                .sessions
                .get(index)
                .and_then(|session| session.flow.as_ref())
                .map_or(Arrival::New, |flow| flow.inbound.arrival(id, limit));
            match arrival {
                Arrival::New => {}
                Arrival::Duplicate => {
                    self.come_again(socket, index, publish)?;
                    if self.answers_again(socket, index, version, publish) {
                        return Ok(Handled::Next);
                    }
                    self.write_ack(socket, version, AckKind::PubRec, id, ReasonCode::Success);
                    return Ok(Handled::Next);
                }
                Arrival::OverLimit => return Err(RECEIVE_MAXIMUM),
            }
        }
        if publish.dup && publish.qos == Qos::AtLeastOnce && self.waits_again(index, publish) {
            return self.come_again(socket, index, publish);
        }
        let mounted = self.sessions.get(index).is_some_and(|s| !s.mountpoint().is_empty());
        if publish.properties.topic_alias.is_none() && !mounted {
            return self.publish_to(socket, index, version, publish, publish.topic, 0);
        }
        // The rare case: the message's topic differs from the topic in the packet.
        let mut name = self.delivery.scratch.take_name();
        let outcome = self
            .resolve_topic(socket, index, publish, &mut name)
            .and_then(|mounted| self.publish_to(socket, index, version, publish, &name, mounted));
        self.delivery.scratch.keep_name(name);
        outcome
    }

    /// Counts a message that was already accepted before, and is not accepted again.
    #[inline(never)]
    fn come_again(
        &mut self,
        socket: SocketId,
        index: u32,
        publish: &Publish<'_>,
    ) -> Result<Handled, Violation> {
        if publish.properties.topic_alias.is_some() {
            // The message may set the alias for this connection [MQTT-3.3.2-12].
            let mut name = self.delivery.scratch.take_name();
            let resolved = self.resolve_topic(socket, index, publish, &mut name);
            self.delivery.scratch.keep_name(name);
            resolved?;
        }
        self.count_received(publish);
        Ok(Handled::Next)
    }

    /// Handles a message that is beyond its client's rate.
    #[inline(never)]
    fn exceeds(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        metered: Metered,
    ) -> Result<Handled, Violation> {
        match metered {
            Metered::Wait => return Ok(Handled::Hold(Holds::RATE)),
            Metered::End => {
                self.disconnect(socket, Cause::Rate);
                return Ok(Handled::Next);
            }
            Metered::Drop => {}
        }
        if publish.properties.topic_alias.is_some() {
            // The message may set the alias for this connection [MQTT-3.3.2-12].
            let mut name = self.delivery.scratch.take_name();
            let resolved = self.resolve_topic(socket, index, publish, &mut name);
            self.delivery.scratch.keep_name(name);
            resolved?;
        }
        self.count_received(publish);
        self.acknowledge(socket, index, version, publish, Metered::REASON);
        Ok(Handled::Next)
    }

    /// Writes the topic name into `name`: the mountpoint, then the topic with its alias resolved
    /// [MQTT-3.3.2-8 to 12]. Returns the length of the mountpoint.
    fn resolve_topic(
        &mut self,
        socket: SocketId,
        index: u32,
        publish: &Publish<'_>,
        name: &mut String,
    ) -> Result<usize, Violation> {
        name.clear();
        if let Some(session) = self.sessions.get(index) {
            name.push_str(session.mountpoint());
        }
        let mounted = name.len();
        let Some(alias) = publish.properties.topic_alias else {
            name.push_str(publish.topic);
            return Ok(mounted);
        };
        if alias == 0 || alias > self.announced_to(socket).max_topic_alias {
            return Err(ALIAS);
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return Ok(mounted) };
        let aliases = connection.aliases.get_or_insert_default();
        let at = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            match aliases.inbound.get(at) {
                Some(Some(known)) => name.push_str(known),
                _ => return Err(UNKNOWN_ALIAS),
            }
            return Ok(mounted);
        }
        let known = aliases.inbound.get(at).and_then(|name| name.as_deref());
        let kept = Mutant::AliasKept.is_on() && known.is_some();
        if known != Some(publish.topic)
            && !kept
            && !aliases.set_inbound(at, publish.topic, &mut self.memory.tally.names)
        {
            return Err(ALIAS_NAMES);
        }
        name.push_str(publish.topic);
        Ok(mounted)
    }

    /// Handles a message whose topic is known. `mounted`: how many bytes of the topic are the
    /// listener's mountpoint.
    fn publish_to(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        topic: &str,
        mounted: usize,
    ) -> Result<Handled, Violation> {
        let own = topic.get(mounted..).unwrap_or(topic);
        if topic::levels(own) > self.topic_levels_of(index) {
            return Err(LEVELS);
        }
        let refused = self.is_refused(socket, index, version, publish, topic, own);
        let refused =
            refused.or_else(|| self.is_unstorable(socket, index, version, publish, topic));
        if let Some(handled) = refused {
            return Ok(handled);
        }
        let short = self.sheds_to_slow();
        let taken = if short { self.taken_when_short(version, publish) } else { Acceptance::Whole };
        if taken == Acceptance::Later {
            return Ok(Handled::Hold(Holds::MEMORY));
        }
        if taken == Acceptance::Nothing {
            self.turn_down(socket, index, version, publish, ReasonCode::QuotaExceeded);
            return Ok(Handled::Next);
        }
        let mut forwarded = Vec::new();
        let properties = if publish.properties.is_forwardable_raw() {
            publish.properties.raw
        } else {
            publish.properties.write_forwardable(&mut forwarded);
            &forwarded
        };
        let message = MessageRef {
            topic,
            properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires: self.expires(publish.properties.message_expiry),
            publisher: self.publisher(index),
        };
        let hash = TopicHash::new(&self.topology.shared.seeds, topic);
        let route = match self.find_way(&hash, &message) {
            Ok(route) if taken == Acceptance::ByTheStore => route.without_subscribers(),
            Ok(route) => route,
            Err(Holds::MAIL) if Mutant::DroppedOnFullMailbox.is_on() => {
                self.acknowledge(socket, index, version, publish, ReasonCode::Success);
                return Ok(Handled::Next);
            }
            Err(hold) => return Ok(Handled::Hold(hold)),
        };
        let route = if publish.retain { route.on(self.accounts_of(index)) } else { route };
        self.count_received(publish);
        let before = short.then(|| self.done_with_messages());
        let matched = self.follow(&route, &hash, &message, None);
        self.pace(message.publisher, route.interested());
        let here = route.interested() == ShardSet::only(self.topology.id);
        let lost = before.filter(|_| here).and_then(|before| self.reason_since(&before));
        let reason = if matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
        let reason = lost.unwrap_or(reason);
        self.acknowledge(socket, index, version, publish, reason);
        Ok(Handled::Next)
    }

    /// The route of the message, or what its publisher waits for.
    #[inline]
    fn find_way(&mut self, hash: &TopicHash<'_>, message: &MessageRef<'_>) -> Result<Route, Holds> {
        if self.subscriptions.links.any_full()
            && let Some(full) = self.full_link(hash, message)
        {
            self.parked.full_link = Some(full);
            return Err(Holds::LINK);
        }
        self.find_route(hash, message, self.turn()).map_err(|full| {
            self.parked.lacking = Some(full);
            Holds::MAIL
        })
    }

    /// Answers a message that is not accepted, whichever subscribers it has: its topic is closed to
    /// all publishers or to this client, or its payload does not have the format that it announces.
    /// `own` is the topic without the mountpoint. `None` when the message passes these checks. The
    /// message is held while a service is asked.
    #[inline]
    fn is_refused(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        topic: &str,
        own: &str,
    ) -> Option<Handled> {
        if let Some(denied) = self.refuses_everybody(topic, own) {
            self.turn_down(socket, index, version, publish, denied.reason);
            return Some(Handled::Next);
        }
        if self.settings.restricts {
            match self.refuses_publish(socket, index, own, publish) {
                Ok(None) => {}
                Err(held) => return Some(held),
                Ok(Some(denied)) => {
                    if self.denied_publish(socket, index, version, own) {
                        self.count_received(publish);
                    } else {
                        self.turn_down(socket, index, version, publish, denied.reason);
                    }
                    return Some(Handled::Next);
                }
            }
        }
        if !publish.has_promised_format() {
            // Section 3.3.2.3.2. The connection is not ended: a client that comes back with the
            // same message would never get on.
            self.counters.dropped_payload_format += 1;
            self.turn_down(socket, index, version, publish, ReasonCode::PayloadFormatInvalid);
            return Some(Handled::Next);
        }
        None
    }

    /// Why a client may not publish a message with the topic `own`; `None` when it may. The rules
    /// of the broker itself have been checked before.
    ///
    /// # Errors
    /// A service is asked, and the packet is to be held.
    #[inline(never)]
    fn refuses_publish(
        &mut self,
        socket: SocketId,
        index: u32,
        own: &str,
        publish: &Publish<'_>,
    ) -> Result<Option<Denied>, Handled> {
        let deed = Deed::Publish { qos: publish.qos as u8, retain: publish.retain };
        let decided = self.known_decision(index, deed, own);
        match decided {
            Err(_) if Mutant::UnansweredPublished.is_on() => Ok(None),
            Err(source) => Err(self.ask_about(socket, index, source, vec![(deed, own.into())])),
            Ok(decision) => {
                self.access.asking.handled(socket);
                match decision {
                    Decision::Deny(denied) if !Mutant::DeniedPublished.is_on() => Ok(Some(denied)),
                    _ => Ok(None),
                }
            }
        }
    }

    /// How much of a message is accepted while memory is short; what is not accepted is counted.
    /// When memory is full, only messages that free memory are accepted. Before that, all messages
    /// are, except those to be retained whose publishers can be told of a refusal. Other messages
    /// to be retained go to the subscribers, and are dropped where they would be kept.
    #[inline(never)]
    fn taken_when_short(&mut self, version: Version, publish: &Publish<'_>) -> Acceptance {
        let clears = publish.retain && publish.payload.is_empty();
        if !clears && self.sheds_published(publish.qos) {
            self.counters.dropped_overload += 1;
            return if publish.retain { Acceptance::ByTheStore } else { Acceptance::Nothing };
        }
        let told = version.is_v5() && publish.qos > Qos::AtMostOnce;
        let full = self.memory.is_short(Pressure::Full) && !Mutant::MemoryPublishTaken.is_on();
        let retained = publish.retain && told && !Mutant::MemoryRetainedTaken.is_on();
        let retained = retained && (self.memory.is_short(Pressure::Tight) || self.stores_nothing());
        if clears || !full && !retained {
            return Acceptance::Whole;
        }
        if full && self.waits_until_memory() {
            return Acceptance::Later;
        }
        if self.memory.is_short(Pressure::Tight) {
            self.counters.dropped_memory += 1;
            self.counters.memory_refused_message += 1;
        } else {
            self.counters.dropped_overload += 1;
        }
        // A publisher that cannot be told has published a value that makes the retained one untrue.
        if publish.retain && !told { Acceptance::ByTheStore } else { Acceptance::Nothing }
    }

    /// Counts a message that is not accepted as received, and tells its publisher the reason.
    fn turn_down(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        reason: ReasonCode,
    ) {
        self.work.observers.refuse_sampled(reason);
        self.count_received(publish);
        self.acknowledge(socket, index, version, publish, reason);
    }

    #[inline]
    pub(super) fn count_received(&mut self, publish: &Publish<'_>) {
        let counters = &mut self.counters;
        let (messages, bytes) = match publish.qos {
            Qos::AtMostOnce => {
                (&mut counters.messages_received_qos0, &mut counters.publish_bytes_received_qos0)
            }
            Qos::AtLeastOnce => {
                (&mut counters.messages_received_qos1, &mut counters.publish_bytes_received_qos1)
            }
            Qos::ExactlyOnce => {
                (&mut counters.messages_received_qos2, &mut counters.publish_bytes_received_qos2)
            }
        };
        *messages += 1;
        *bytes += publish.payload.len() as u64;
    }

    /// Answers a message that has been accepted wherever it goes, or refused, with PUBACK or
    /// PUBREC.
    pub(super) fn acknowledge(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        reason: ReasonCode,
    ) {
        let Some(id): Option<PacketId> = publish.id else { return };
        if self.subscriptions.links.unanswered.is_used()
            && self.answer_later(socket, index, version, publish, reason)
        {
            return;
        }
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce
                if Mutant::PubAckSkipped.is_on() && reason == ReasonCode::NoMatchingSubscribers => {
            }
            Qos::AtLeastOnce => self.write_ack(socket, version, AckKind::PubAck, id, reason),
            Qos::ExactlyOnce => {
                // A v3 client is not told of a refusal and goes on with PUBREL; a v5 client whose
                // PUBREC carries a failure does not [MQTT-4.3.3-4].
                if (reason as u8) < 0x80 || !version.is_v5() {
                    self.use_flow(index);
                    if let Some(session) = self.sessions.get_mut(index) {
                        session.flow().inbound.insert(id);
                        self.memory.tally.inbound += 1;
                    }
                    self.store_inbound(index, id, true);
                }
                self.write_ack(socket, version, AckKind::PubRec, id, reason);
            }
        }
    }

    /// Counts and logs a message that may not be published. True when the connection was ended,
    /// which is the policy for versions that have no other way to tell the client.
    fn denied_publish(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        own: &str,
    ) -> bool {
        self.counters.dropped_not_authorized += 1;
        self.log_denied(socket, index, "publish", own);
        self.observe_denied(index, "publish", own);
        let ends = !version.is_v5() && self.settings.access.on_deny == OnDeny::Disconnect;
        if ends {
            self.disconnect(socket, Cause::NotAllowed);
        }
        ends
    }
}

fn check_publish(publish: &Publish<'_>, announced: &ConnackLimits) -> Result<(), Violation> {
    if publish.qos as u8 > announced.max_qos {
        return Err(QOS); // [MQTT-3.2.2-11]
    }
    if publish.retain && !announced.retain {
        return Err(RETAIN); // [MQTT-3.2.2-14]
    }
    if !publish.properties.subscription_ids.is_empty() {
        return Err(SUBSCRIPTION_ID); // [MQTT-3.3.4-6]
    }
    Ok(())
}
