//! From a message to one client's output: QoS, windows, queues, encoding.

use super::Shard;
use super::connection::{Connection, Holds};
use super::output::{Output, Pool};

use crate::config::OnFull;
use crate::ids::SocketId;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{self, AckKind, OutPublish, PacketId, Qos, ReasonCode, Version};
use crate::session::{Flow, Pushed, Queued, SubscriptionIds};
use crate::time::Instant;
use crate::topic::FilterId;

/// A payload larger than this is written from the shared message, not copied per subscriber.
const COPY: usize = 16 * 1024;
/// A client that keeps reading may overshoot `outgoing_max_bytes` this many times, while its
/// publishers stop, before QoS 0 is shed all the same.
const OVERSHOOT: usize = 8;
/// Milliseconds without a completed send after which a crowded client counts as slow.
const STALLED: u64 = 300;
/// Milliseconds above the high-water mark after which a client counts as slow.
const CROWDED: u64 = 1000;
/// Messages sent from a pending queue in one go.
const PUMP: usize = 256;

/// What became of the first message of a pending queue.
enum Pumped {
    Sent,
    Dropped,
    /// There is none, or it has to wait.
    Nothing,
}

/// What the delivery of one message to many clients shares.
#[derive(Default)]
pub struct Fan {
    /// The message as stored, once somebody needs it so.
    pub stored: Option<Message>,
    /// Whether encoded packets are kept for the next subscriber.
    pub many: bool,
    /// Sessions that have more unsent or unacknowledged than the high-water mark.
    pub crowded: Vec<u32>,
    /// Matching filters of the message.
    pub found: Vec<FilterId>,
    /// Matching subscriptions when there are several filters: target, options, identifier.
    pub overlapping: Vec<(u32, u8, u32)>,
    encoded: [Vec<u8>; VARIANTS],
    valid: u16,
}

/// Protocol (v3, v5) × QoS × RETAIN.
const VARIANTS: usize = 16;
const _: () = assert!(VARIANTS <= u16::BITS as usize);

impl Fan {
    /// Begins with another message.
    pub fn begin(&mut self, stored: Option<&Message>) {
        self.stored = stored.cloned();
        self.valid = 0;
        self.many = false;
    }

    fn store(&mut self, message: &MessageRef<'_>, scratch: &mut Vec<u8>) -> Message {
        self.stored.get_or_insert_with(|| Message::new(message, scratch)).clone()
    }

    /// Appends the packet, encoding it only for the first subscriber of its kind.
    fn append(&mut self, out: &mut Vec<u8>, version: Version, publish: &OutPublish<'_>) {
        let variant = usize::from(version.is_v5()) << 3
            | (publish.qos as usize) << 1
            | usize::from(publish.retain);
        let encoded = &mut self.encoded[variant];
        if self.valid & 1 << variant == 0 {
            self.valid |= 1 << variant;
            encoded.clear();
            packet::encode_publish(encoded, version, publish);
        }
        let at = out.len();
        out.extend_from_slice(encoded);
        if let Some(id) = publish.id {
            let header = 1 + encoded[1..].iter().take_while(|&&byte| byte >= 0x80).count() + 1;
            let at = at + header + 2 + publish.topic.len();
            out[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
    }
}

/// How one delivery differs from the publication.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// QoS granted to the subscription.
    pub qos: Qos,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription Identifiers.
    pub subscription_ids: &'a [u32],
    /// A retained message for a new subscription: paced by its slices, never shed.
    pub replay: bool,
}

/// One publish packet on its way out.
pub(super) struct Outbound<'a> {
    pub dup: bool,
    pub qos: Qos,
    pub retain: bool,
    pub id: Option<PacketId>,
    pub subscription_ids: &'a [u32],
    pub message_expiry: Option<u32>,
}

impl Shard {
    /// Appends a packet to a connection's output.
    pub(super) fn write(&mut self, socket: SocketId, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let output = output_of(connection, &mut self.pool, &mut self.dirty, socket, self.now);
        let added = output.append(&mut self.pool, encode);
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += added as u64;
    }

    /// Appends one of the four acknowledgements.
    pub(super) fn write_ack(
        &mut self,
        socket: SocketId,
        version: Version,
        kind: AckKind,
        id: PacketId,
        reason: ReasonCode,
    ) {
        let ack = packet::Ack::new(id, reason);
        self.write(socket, |out| packet::encode_ack(out, version, kind, &ack));
    }

    /// Delivers a message to a session of this shard: sends, queues or drops it by policy.
    pub(super) fn deliver(&mut self, index: u32, message: &MessageRef<'_>, terms: Terms<'_>) {
        self.work += 1;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let qos = message.qos.min(terms.qos);
        if session.socket.is_none() && qos == Qos::AtMostOnce && !self.settings.queue_qos0 {
            self.counters.dropped_offline_qos0 += u64::from(!Mutant::OfflineUncounted.is_on());
            return;
        }
        if message.retain
            && !terms.replay
            && let Some(flow) = &mut session.flow
            && !flow.replays.is_empty()
            && !Mutant::ReplayStale.is_on()
        {
            self.overtake(index, message.topic);
        }
        let Some(session) = self.sessions.get(index) else { return };
        match (session.socket, qos) {
            (Some(_), Qos::AtMostOnce)
                if session.flow.as_ref().is_some_and(|flow| flow.pending.has_qos0())
                    && !Mutant::Qos0Overtakes.is_on() =>
            {
                self.enqueue(index, message, terms, qos);
            }
            (Some(socket), Qos::AtMostOnce) => self.deliver_qos0(index, socket, message, terms),
            (Some(socket), _) => self.deliver_acknowledged(index, socket, message, terms, qos),
            (None, _) => self.enqueue(index, message, terms, qos),
        }
    }

    fn deliver_qos0(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        terms: Terms<'_>,
    ) {
        let Ok(message_expiry) = message.seconds_left(self.now) else {
            self.counters.dropped_expired += 1;
            return;
        };
        if !terms.replay && self.must_shed(socket) {
            self.counters.dropped_outgoing_full += u64::from(!Mutant::ShedUncounted.is_on());
            return;
        }
        let outbound = Outbound {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: terms.retain,
            id: None,
            subscription_ids: terms.subscription_ids,
            message_expiry,
        };
        if !self.fits(index, message, &outbound) {
            self.counters.dropped_packet_too_large += 1;
            return;
        }
        self.send_publish(index, socket, message, &outbound);
    }

    /// Whether QoS 0 to this connection is dropped: over the limit, and not keeping up.
    fn must_shed(&self, socket: SocketId) -> bool {
        let Some(connection) = self.connections.get(socket.0) else { return true };
        let Some(output) = &connection.output else { return false };
        let (unsent, max) = (output.unsent(), self.settings.outgoing_max_bytes);
        unsent > max && (is_slow(output, self.now) || unsent > max.saturating_mul(OVERSHOOT))
    }

    fn deliver_acknowledged(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        terms: Terms<'_>,
        qos: Qos,
    ) {
        let clogged = self.is_clogged(socket);
        self.use_flow(index);
        let retries = self.settings.retry_interval > 0;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let limit = session.window_limit;
        let keep = session.is_persistent() || retries && !session.version.is_v5();
        let flow = session.flow();
        let behind = !flow.pending.is_empty() && !Mutant::OvertakesPending.is_on();
        if clogged || behind || !flow.window.has_room(limit) {
            self.enqueue(index, message, terms, qos);
            return;
        }
        let Ok(message_expiry) = message.seconds_left(self.now) else {
            self.counters.dropped_expired += 1;
            return;
        };
        let mut outbound = Outbound {
            dup: false,
            qos,
            retain: terms.retain,
            // Stands in for the real one while the size is checked.
            id: PacketId::new(1),
            subscription_ids: terms.subscription_ids,
            message_expiry,
        };
        if !self.fits(index, message, &outbound) {
            self.counters.dropped_packet_too_large += 1;
            return;
        }
        let queued = keep.then(|| Queued {
            message: self.fan.store(message, &mut self.scratch),
            subscription_ids: SubscriptionIds::from_slice(terms.subscription_ids),
            qos,
            retain: terms.retain,
        });
        let Some(session) = self.sessions.get_mut(index) else { return };
        outbound.id = Some(session.flow().window.send(qos, queued));
        self.counters.inflight += 1;
        self.arm_retry(index);
        self.send_publish(index, socket, message, &outbound);
    }

    /// Whether so much is unsent that QoS 1 and 2 wait in the pending queue, and the client's own
    /// packets in the socket.
    pub(super) fn is_clogged(&self, socket: SocketId) -> bool {
        self.connections
            .get(socket.0)
            .and_then(|connection| connection.output.as_ref())
            .is_some_and(|output| output.unsent() > self.settings.outgoing_max_bytes)
    }

    /// Puts a message into the pending queue, by its policy.
    fn enqueue(&mut self, index: u32, message: &MessageRef<'_>, terms: Terms<'_>, qos: Qos) {
        self.use_flow(index);
        let queued = Queued {
            message: self.fan.store(message, &mut self.scratch),
            subscription_ids: SubscriptionIds::from_slice(terms.subscription_ids),
            qos,
            retain: terms.retain,
        };
        let mut bounds = self.settings.pending;
        if terms.replay {
            // A slice is asked for only when there is room, and is small; it is never dropped.
            (bounds.messages, bounds.bytes) = (usize::MAX, usize::MAX);
        }
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let socket = session.socket;
        let flow = session.flow();
        let (messages, bytes) = (flow.pending.len(), flow.pending.bytes());
        let pushed = flow.pending.push(queued, &bounds);
        let counters = &mut self.counters;
        counters.pending_messages += flow.pending.len() as u64;
        counters.pending_messages -= messages as u64;
        counters.pending_bytes += flow.pending.bytes() as u64;
        counters.pending_bytes -= bytes as u64;
        match pushed {
            Pushed::Queued => {}
            Pushed::DroppedOldest(count) => self.counters.dropped_queue_full += u64::from(count),
            Pushed::DroppedNew => self.counters.dropped_queue_full += 1,
            Pushed::Disconnect => {
                self.counters.dropped_queue_full += 1;
                debug_assert!(bounds.on_full == OnFull::Disconnect);
                if let Some(socket) = socket.filter(|_| !Mutant::FullQueueTolerated.is_on()) {
                    self.closing.push((socket, super::close::Cause::QueueFull));
                }
            }
        }
        let half =
            flow.pending.len() > bounds.messages / 2 || flow.pending.bytes() > bounds.bytes / 2;
        if socket.is_some() && half {
            let fresh = flow.crowded.is_none();
            let since = *flow.crowded.get_or_insert(now);
            if now.millis_since(since) < CROWDED {
                self.fan.crowded.push(index);
            }
            if fresh && let Some(socket) = socket {
                self.hear_later(socket);
            }
        }
    }

    /// Notes that the session's flow state is in use, so that it is looked at when idle.
    pub(super) fn use_flow(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        if !std::mem::replace(&mut flow.listed, true) {
            self.idle_flows.push_back((self.now, self.session_ref(index)));
        }
    }

    /// Whether the packet is within the client's Maximum Packet Size [MQTT-3.1.2-24].
    pub(super) fn fits(
        &self,
        index: u32,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        if session.maximum_packet_size == u32::MAX {
            return true;
        }
        let topic = &message.topic[session.mountpoint().len()..];
        let publish = out_publish(message, topic, outbound);
        // A topic alias adds three bytes at most while it is being set. What the connection was
        // granted counts, whatever the settings say by now.
        let aliases = session
            .socket
            .and_then(|socket| self.connections.get(socket.0))
            .and_then(|connection| connection.aliases.as_ref());
        let alias = if aliases.is_some_and(|aliases| aliases.outbound_limit > 0) { 3 } else { 0 };
        packet::publish_size(session.version, &publish) + alias
            <= session.maximum_packet_size as usize
    }

    pub(super) fn send_publish(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
    ) {
        let Some(session) = self.sessions.get(index) else { return };
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let version = session.version;
        let mounted = session.mountpoint().len();
        let mut publish = out_publish(message, &message.topic[mounted..], outbound);
        let aliased = version.is_v5() && alias(connection, &mut publish);
        let shared = publish.payload.len() > COPY;
        if shared {
            self.fan.store(message, &mut self.scratch);
        }
        let output = output_of(connection, &mut self.pool, &mut self.dirty, socket, self.now);
        let before = output.unsent();
        let aliased = aliased && !Mutant::AliasInSharedEncoding.is_on();
        let no_ids =
            publish.subscription_ids.is_empty() || Mutant::IdentifierInSharedEncoding.is_on();
        let plain = mounted == 0 && !aliased && !publish.dup && no_ids;
        if let (true, Some(stored)) = (shared, &self.fan.stored) {
            output.append(&mut self.pool, |out| {
                packet::encode_publish_head(out, version, &publish);
            });
            output.append_shared(stored.clone(), stored.payload_range());
        } else if self.fan.many && plain {
            let fan = &mut self.fan;
            output.append(&mut self.pool, |out| fan.append(out, version, &publish));
        } else {
            output.append(&mut self.pool, |out| packet::encode_publish(out, version, &publish));
        }
        let unsent = output.unsent();
        if unsent > self.settings.high_water() {
            output.crowded.get_or_insert(self.now);
            if !is_slow(output, self.now) {
                self.fan.crowded.push(index);
            }
        }
        let counters = &mut self.counters;
        let (messages, bytes) = match outbound.qos {
            Qos::AtMostOnce => {
                (&mut counters.messages_sent_qos0, &mut counters.publish_bytes_sent_qos0)
            }
            Qos::AtLeastOnce => {
                (&mut counters.messages_sent_qos1, &mut counters.publish_bytes_sent_qos1)
            }
            Qos::ExactlyOnce => {
                (&mut counters.messages_sent_qos2, &mut counters.publish_bytes_sent_qos2)
            }
        };
        *messages += 1;
        *bytes += message.payload.len() as u64;
        counters.packets_sent += 1;
        counters.bytes_sent += (unsent - before) as u64;
    }

    /// Sends what waits, as far as window and output allow.
    pub(super) fn pump(&mut self, index: u32) {
        self.go_on_again(index);
        let mut sent = 0;
        while sent < PUMP {
            match self.pump_one(index) {
                Pumped::Sent => sent += 1,
                // Nothing would wake the queue again if dropping used up the round.
                Pumped::Dropped if Mutant::StallAfterDrop.is_on() => break,
                Pumped::Dropped => {}
                Pumped::Nothing => break,
            }
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        let bounds = self.settings.pending;
        let Some(flow) = &mut session.flow else { return };
        let low =
            flow.pending.len() <= bounds.messages / 4 && flow.pending.bytes() <= bounds.bytes / 4;
        if low && flow.crowded.take().is_some() {
            self.unpark_waiters(index);
        }
        self.wake_replay(index);
    }

    fn pump_one(&mut self, index: u32) -> Pumped {
        let retries = self.settings.retry_interval > 0;
        let Some(session) = self.sessions.get(index) else { return Pumped::Nothing };
        let Some(socket) = session.socket else { return Pumped::Nothing };
        if self.is_clogged(socket) {
            return Pumped::Nothing;
        }
        let Some(session) = self.sessions.get_mut(index) else { return Pumped::Nothing };
        let limit = session.window_limit;
        let keep = session.is_persistent() || retries && !session.version.is_v5();
        let Some(flow) = &mut session.flow else { return Pumped::Nothing };
        let Some(front) = flow.pending.front() else { return Pumped::Nothing };
        if front.qos != Qos::AtMostOnce && !flow.window.has_room(limit) {
            return Pumped::Nothing;
        }
        let before = flow.pending.bytes();
        let Some(queued) = flow.pending.pop() else { return Pumped::Nothing };
        self.counters.pending_messages -= 1;
        self.counters.pending_bytes -= (before - flow.pending.bytes()) as u64;
        let message = queued.message.clone();
        let view = message.view();
        let left = view.seconds_left(self.now);
        let left = if Mutant::ExpiredSent.is_on() { left.or(Ok(Some(0))) } else { left };
        let Ok(message_expiry) = left else {
            self.counters.dropped_expired += 1;
            return Pumped::Dropped;
        };
        let ids = queued.subscription_ids.clone();
        let mut outbound = Outbound {
            dup: false,
            qos: queued.qos,
            retain: queued.retain,
            id: PacketId::new(1).filter(|_| queued.qos != Qos::AtMostOnce),
            subscription_ids: ids.as_slice(),
            message_expiry: message_expiry.filter(|_| !Mutant::ExpiryNotPassedOn.is_on()),
        };
        if !self.fits(index, &view, &outbound) && !Mutant::TooLargeFromQueue.is_on() {
            self.counters.dropped_packet_too_large += u64::from(!Mutant::WrongDropReason.is_on());
            self.counters.dropped_expired += u64::from(Mutant::WrongDropReason.is_on());
            return Pumped::Dropped;
        }
        if queued.qos != Qos::AtMostOnce {
            let Some(session) = self.sessions.get_mut(index) else { return Pumped::Nothing };
            let qos = queued.qos;
            outbound.id = Some(session.flow().window.send(qos, keep.then_some(queued)));
            self.counters.inflight += 1;
            self.arm_retry(index);
        }
        self.fan.begin(Some(&message));
        self.send_publish(index, socket, &view, &outbound);
        // Nobody publishes here; who is crowded shows at the next publication.
        self.fan.crowded.clear();
        Pumped::Sent
    }

    /// A send is complete: what waited behind it goes on.
    pub(super) fn after_sent(&mut self, socket: SocketId) {
        use super::connection::Stage;
        let now = self.now;
        let low = self.settings.low_water();
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let stage = connection.stage;
        let Some(output) = &mut connection.output else { return };
        output.sent(now);
        let unsent = output.unsent();
        if unsent > 0 && !output.dirty {
            output.dirty = true;
            self.dirty.push(socket);
        }
        let caught_up = unsent <= low && output.crowded.take().is_some();
        if unsent == 0 {
            if let Some(output) = connection.output.take() {
                self.pool.put_output(output);
            }
            if stage == Stage::Closing {
                self.close_socket(socket, super::Action::Finish(socket));
            }
        }
        let Stage::Open(index) = stage else { return };
        if caught_up {
            self.unpark_waiters(index);
        }
        if unsent > low {
            return;
        }
        if self.sessions.get(index).is_some_and(|session| session.flow.is_some()) {
            self.pump(index);
        }
        let Some(connection) = self.connections.get(socket.0) else { return };
        if !connection.holds.is_free() && !Mutant::UnreadNotWoken.is_on() {
            self.release(socket, Holds::UNREAD);
            self.hear_later(socket);
        }
    }

    /// The gauges of a session that ends; what it had not delivered is counted as dropped.
    pub(super) fn forget_flow(&mut self, flow: &Flow) {
        let (open, waiting) = (u64::from(flow.window.open()), flow.pending.len() as u64);
        self.counters.inflight -= open;
        self.counters.pending_messages -= waiting;
        self.counters.pending_bytes -= flow.pending.bytes() as u64;
        self.counters.dropped_session_gone += open + waiting;
    }
}

/// The connection's output, taken from the pool when it has none, and listed for this step's flush.
fn output_of<'a>(
    connection: &'a mut Connection,
    pool: &mut Pool,
    dirty: &mut Vec<SocketId>,
    socket: SocketId,
    now: Instant,
) -> &'a mut Output {
    let output = connection.output.get_or_insert_with(|| {
        let mut output = pool.take_output();
        output.progressed = now;
        output
    });
    if !output.dirty {
        output.dirty = true;
        dirty.push(socket);
    }
    output
}

fn is_slow(output: &Output, now: Instant) -> bool {
    let stalled = output.is_sending() && now.millis_since(output.progressed) > STALLED;
    stalled || output.crowded.is_some_and(|since| now.millis_since(since) > CROWDED)
}

fn out_publish<'a>(
    message: &MessageRef<'a>,
    topic: &'a str,
    outbound: &Outbound<'a>,
) -> OutPublish<'a> {
    OutPublish {
        dup: outbound.dup,
        qos: outbound.qos,
        retain: outbound.retain,
        topic,
        id: outbound.id,
        message_expiry: outbound.message_expiry,
        topic_alias: None,
        subscription_ids: outbound.subscription_ids,
        forwarded: message.properties,
        payload: message.payload,
    }
}

/// Uses or sets a topic alias towards the client, within its maximum [MQTT-3.3.2-10]; true when
/// the packet carries one.
fn alias(connection: &mut Connection, publish: &mut OutPublish<'_>) -> bool {
    let Some(aliases) = &mut connection.aliases else { return false };
    if aliases.outbound_limit == 0 {
        return false;
    }
    if let Some(&alias) = aliases.outbound.get(publish.topic) {
        publish.topic_alias = Some(alias);
        publish.topic = "";
        return true;
    }
    if aliases.outbound.len() >= usize::from(aliases.outbound_limit) {
        return false;
    }
    let alias = aliases.outbound.len() as u16 + 1;
    aliases.outbound.insert(publish.topic.into(), alias);
    publish.topic_alias = Some(alias);
    true
}
