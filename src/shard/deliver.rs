//! From a message to one client's output: QoS, windows, queues, encoding.

use super::Shard;
use super::drops::DropReason;
use super::memory::Pressure;
use super::output::Output;
use crate::config::OnFull;
use crate::ids::SocketId;
use crate::limits::{MAX_REMAINING_LENGTH, MAX_TOPIC_LENGTH, cost};
use crate::message::{Expired, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{self, OutPublish, PacketId, Qos};
use crate::session::backlog::SLOW;
use crate::session::pending::{PendingBounds, QueueEnd};
use crate::session::{Flow, Pushed, Queued, Session, ShareName, SubscriptionIds};
use crate::storage::record::DeliveryPhase;
use crate::time::Instant;

/// A client that keeps reading may exceed `outgoing_max_bytes` by this factor, while its publishers
/// wait, before QoS 0 is shed all the same.
const OVERSHOOT: usize = 8;
/// Milliseconds without a completed send after which a crowded client counts as slow.
const STALLED: u64 = 300;
/// When the oldest messages are shed, one part in so many of `outgoing_max_bytes` is made free.
const SHED_SHARE: usize = 8;
/// Milliseconds until messages to shed are looked for again in an output that had not enough of
/// them.
const SHED_AGAIN: u64 = 50;
/// Messages in a connected client's queue from which on publishers wait if the queue is not short
/// again soon ([`crate::session::backlog`]); a quarter of them is a short queue.
pub(super) const LONG_QUEUE: usize = 64;
/// Bytes of a PUBLISH besides topic, properties, payload and Subscription Identifiers, at most.
const PUBLISH_HEAD: usize = 32;
/// Bytes of a Subscription Identifier with the byte that names it, at most.
const SUBSCRIPTION_ID: usize = 5;

/// Why a message cannot be sent to a client as one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Misfit {
    /// It is larger than the client's Maximum Packet Size [MQTT-3.1.2-24].
    TooLarge,
    /// It has no encoding in the client's version: it would be longer than any packet can be.
    NotEncodable,
}

impl Misfit {
    /// The drop reason that logs and metrics give for this misfit.
    pub(super) fn reason(self) -> DropReason {
        match self {
            Misfit::TooLarge => DropReason::PacketTooLarge,
            Misfit::NotEncodable => DropReason::NotEncodable,
        }
    }
}

/// How one delivery differs from the publication.
#[derive(Clone, Copy)]
pub(super) struct SendTerms<'a> {
    /// QoS granted to the subscription.
    pub qos: Qos,
    /// RETAIN flag to send.
    pub retain: bool,
    /// Subscription Identifiers.
    pub subscription_ids: &'a [u32],
    /// This is a retained message for a new subscription: its slice of the replay paces it, and it
    /// is never shed.
    pub replay: bool,
    /// The share group that the message comes from, if any.
    pub share: Option<FromGroup<'a>>,
}

/// The share group that a message comes from.
#[derive(Clone, Copy)]
pub(super) struct FromGroup<'a> {
    pub name: &'a ShareName,
    /// Another member has had or refused the message: it goes before newer messages.
    pub returned: bool,
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
    /// Delivers a message to a session that nothing older is on its way to: sends, queues or drops
    /// it by policy.
    pub(super) fn deliver_now(
        &mut self,
        index: u32,
        message: &MessageRef<'_>,
        terms: &SendTerms<'_>,
    ) {
        self.meter.charge(cost::DELIVERY);
        let Some(session) = self.sessions.get(index) else { return };
        if session.is_ending() {
            return;
        }
        let qos = message.qos.min(terms.qos);
        let is_lost =
            session.socket().is_none() && qos == Qos::AtMostOnce && !self.settings.queue_qos0;
        let is_newer = message.retain
            && !terms.replay
            && session.flow.as_ref().is_some_and(|flow| !flow.replays.is_empty())
            && !Mutant::ReplayStale.is_on();
        // A session without extras has neither mountpoint nor grant.
        if session.extras.is_some() && !self.may_be_sent(index, message, terms.share.is_some()) {
            return;
        }
        if is_lost {
            self.drop_message(index, message, DropReason::OfflineQos0);
            return;
        }
        if is_newer {
            self.overtake(index, message.topic);
        }
        let Some(session) = self.sessions.get(index) else { return };
        match (session.socket(), qos) {
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

    /// Seconds that the message has left, as of the step's beginning, or as of the last look at
    /// mail if that was later. The beginning alone would not do: a message that another shard
    /// accepted in between would have more seconds left than it came with [MQTT-3.3.2-6].
    fn seconds_left(&self, message: &MessageRef<'_>) -> Result<Option<u32>, Expired> {
        message.seconds_left(self.now.max(self.mail.intake.looked_at()))
    }

    fn deliver_qos0(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        terms: &SendTerms<'_>,
    ) {
        let Ok(message_expiry) = self.seconds_left(message) else {
            self.drop_message(index, message, DropReason::Expired);
            return;
        };
        if !terms.replay
            && self.must_shed(socket)
            && !self.makes_room(index, socket, message, terms)
        {
            let reason = self.shed_reason(socket, terms.share.is_some());
            self.drop_message(index, message, reason);
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
        if let Err(misfit) = self.fits(index, message, &outbound) {
            self.drop_message(index, message, misfit.reason());
            return;
        }
        self.send_publish(index, socket, message, &outbound);
    }

    /// Whether QoS 0 to this connection is dropped: its output is over the limit, and its client
    /// does not keep up.
    #[inline]
    pub(super) fn must_shed(&self, socket: SocketId) -> bool {
        let Some(connection) = self.connections.get(socket.0) else { return true };
        connection.output.as_ref().is_some_and(|output| self.is_too_much(output))
    }

    #[inline(never)]
    fn is_too_much(&self, output: &Output) -> bool {
        let (unsent, max) = (output.unsent(), self.settings.outgoing_max_bytes);
        if self.sheds_to_slow() {
            let grows = Mutant::MemoryOutputGrows.is_on();
            return unsent > self.settings.low_water().min(max) && !grows;
        }
        unsent > max && (is_slow(output, self.now) || unsent > max.saturating_mul(OVERSHOOT))
    }

    /// Makes room for a message in the output of a client that does not keep up, by shedding the
    /// oldest messages of QoS 0; false when there is no room and the new message itself is shed. So
    /// much is shed at once that not every message costs a look at all that waits.
    #[inline(never)]
    fn makes_room(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        terms: &SendTerms<'_>,
    ) -> bool {
        // When memory is short, or another member of a group may have room, nothing more is taken
        // in.
        if self.sheds_to_slow() || terms.share.is_some() || Mutant::ShedsNewest.is_on() {
            return false;
        }
        let (now, max) = (self.now, self.settings.outgoing_max_bytes);
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        // A later packet may name its topic only by an alias that a shed packet has set.
        let aliased = connection.aliases.as_ref().is_some_and(|all| !all.outbound.is_empty());
        let Some(output) = connection.output.as_mut().filter(|_| !aliased) else { return false };
        if output.nothing_to_shed.is_some_and(|then| now.millis_since(then) < SHED_AGAIN) {
            return false;
        }
        // What is being sent cannot be shed. Of what waits behind it, at least the newest message
        // is kept.
        let excess = (output.queued + message.size()).saturating_sub(max);
        let wanted = excess + max / SHED_SHARE;
        let shed = output.shed_oldest(&mut self.outputs.pool, wanted);
        let fits = shed.bytes >= excess || output.queued == 0;
        output.nothing_to_shed = (!fits).then_some(now);
        // This makes room for many messages, and does not make this message's topic a costly one.
        self.meter.charge_shared(cost::VISIT * shed.messages as u32 + cost::bytes(shed.seen));
        self.lose(index, DropReason::OutgoingFull, shed.messages);
        fits
    }

    /// Why a message of QoS 0 is shed.
    #[inline(never)]
    fn shed_reason(&self, socket: SocketId, of_share: bool) -> DropReason {
        match (of_share, self.is_clogged(socket)) {
            (true, _) => DropReason::ShareFull,
            (false, false) if !self.memory.is_short(Pressure::Tight) => DropReason::Overload,
            (false, false) => DropReason::Memory,
            (false, true) => DropReason::OutgoingFull,
        }
    }

    fn deliver_acknowledged(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        terms: &SendTerms<'_>,
        qos: Qos,
    ) {
        let clogged = self.is_clogged(socket);
        self.use_flow(index);
        let retries = self.settings.retry_interval > 0;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let limit = session.window_limit;
        // A share group gives the message to another member when this session ends.
        let keep =
            session.is_persistent() || terms.share.is_some() || retries && !session.version.is_v5();
        let flow = session.flow();
        let behind = !flow.pending.is_empty() && !Mutant::OvertakesPending.is_on();
        if clogged || behind || !flow.window.has_room(limit) {
            self.enqueue(index, message, terms, qos);
            return;
        }
        let Ok(message_expiry) = self.seconds_left(message) else {
            self.drop_message(index, message, DropReason::Expired);
            return;
        };
        let mut outbound = Outbound {
            dup: false,
            qos,
            retain: terms.retain,
            // A placeholder for the real identifier while the size is checked.
            id: PacketId::new(1),
            subscription_ids: terms.subscription_ids,
            message_expiry,
        };
        if let Err(misfit) = self.fits(index, message, &outbound) {
            self.drop_message(index, message, misfit.reason());
            return;
        }
        let mut queued = keep.then(|| Queued {
            message: self.delivery.store(message),
            subscription_ids: SubscriptionIds::from_slice(terms.subscription_ids),
            qos,
            retain: terms.retain,
            share: terms.share.map(|share| share.name.clone()),
            stored: 0,
        });
        let slot = queued.as_ref().map_or(0, |queued| self.store_queued(index, queued));
        if let Some(queued) = &mut queued {
            queued.stored = slot;
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        self.memory.tally.kept += queued.as_ref().map_or(0, |queued| queued.message.size());
        let id = session.flow().window.send(qos, queued);
        outbound.id = Some(id);
        if slot != 0 {
            self.store_phase(index, slot, id, qos, DeliveryPhase::Sent);
        }
        self.counters.inflight += 1;
        self.arm_retry(index);
        self.send_publish(index, socket, message, &outbound);
    }

    /// Puts a message into the session's pending queue; a full queue's policy decides what is
    /// dropped.
    fn enqueue(&mut self, index: u32, message: &MessageRef<'_>, terms: &SendTerms<'_>, qos: Qos) {
        self.use_flow(index);
        let mut queued = Queued {
            message: self.delivery.store(message),
            subscription_ids: SubscriptionIds::from_slice(terms.subscription_ids),
            qos,
            retain: terms.retain,
            share: terms.share.map(|share| share.name.clone()),
            stored: 0,
        };
        queued.stored = self.store_queued(index, &queued);
        let returned = terms.share.is_some_and(|share| share.returned);
        let line = if returned { QueueEnd::Front } else { QueueEnd::End };
        let mut bounds = self.pending_bounds_of(index);
        if terms.replay {
            // A slice of a replay is asked for only when there is room, and is small; it is never
            // dropped.
            (bounds.messages, bounds.bytes) = (usize::MAX, usize::MAX);
        }
        let now = self.now;
        let short = self.memory.is_short(Pressure::Tight) && !terms.replay;
        let clipped = short.then(|| self.clipped(index)).flatten().unwrap_or(bounds);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let socket = session.socket();
        let flow = session.flow();
        let before = flow.pending.away();
        let (messages, bytes) = (flow.pending.len(), flow.pending.bytes());
        // Expired messages go first: the policy is for messages that are alive.
        let expired = flow.pending.expire_for(&queued, &bounds, now);
        let for_memory = short && flow.pending.has_room(queued.message.size(), &bounds);
        let away = self.send_away(index, &queued);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        let pushed = match away {
            Some(away) => flow.pending.push_away(away, queued.message.expires(), &clipped),
            None => flow.pending.push_to(line, queued, &clipped),
        };
        let taken = matches!(pushed, Pushed::Queued | Pushed::DroppedOldest(_));
        self.memory.budgeting.queued += u64::from(taken);
        let counters = &mut self.counters;
        counters.pending_messages += flow.pending.len() as u64;
        counters.pending_messages -= messages as u64;
        counters.pending_bytes += flow.pending.bytes() as u64;
        counters.pending_bytes -= bytes as u64;
        // A group's message comes here only when no member has room.
        let reason = match terms.share {
            Some(_) => DropReason::ShareFull,
            None if for_memory => DropReason::Memory,
            None => DropReason::QueueFull,
        };
        let evicted = flow.pending.take_evicted();
        if pushed == Pushed::Disconnect {
            debug_assert!(bounds.on_full == OnFull::Disconnect);
            if let Some(socket) = socket.filter(|_| !Mutant::FullQueueTolerated.is_on()) {
                self.work.endings.close_later(socket, super::close::Cause::QueueFull);
            }
        }
        if let Some(socket) = socket {
            self.note_crowded(index, socket, &bounds);
        }
        self.lose_expired(index, expired);
        self.drop_pushed(index, message, reason, pushed);
        self.evict(index, evicted, terms.share.is_some());
        self.store_all_gone(index);
        if self.storing.is_some() {
            self.note_away(index, before);
        }
        if socket.is_none()
            && let Some(due) = self.sessions.get(index).and_then(Session::expiry_due)
        {
            self.arm_session(index, due);
        }
    }

    /// The queue of a connected client has grown. Past half of its bounds, the client's publishers
    /// are to wait for it; before that, only when the queue has been long for a while.
    fn note_crowded(&mut self, index: u32, socket: SocketId, bounds: &PendingBounds) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        let pending = &flow.pending;
        let high = pending.len() > bounds.messages / 2 || pending.bytes() > bounds.bytes / 2;
        if !high && pending.len() <= LONG_QUEUE {
            return;
        }
        let fresh = !flow.backlog.is_some();
        if flow.backlog.grew(now, high) {
            self.delivery.current.crowded.push(index);
        }
        if fresh {
            self.hear_later(socket);
        }
    }

    /// Notes that the session's flow state is in use, so that it is looked at when idle.
    pub(super) fn use_flow(&mut self, index: u32) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        self.memory.tally.flows += usize::from(session.flow.is_none());
        let flow = session.flow();
        if !std::mem::replace(&mut flow.listed, true) {
            self.work.upkeep.list_flow(self.now, self.session_ref(index));
        }
    }

    /// Whether the packet has an encoding within the client's Maximum Packet Size [MQTT-3.1.2-24].
    /// To be asked before the packet gets a packet identifier.
    #[inline]
    pub(super) fn fits(
        &self,
        index: u32,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
    ) -> Result<(), Misfit> {
        let Some(session) = self.sessions.get(index) else { return Ok(()) };
        let ids = outbound.subscription_ids.len().saturating_mul(SUBSCRIPTION_ID);
        let most = message.size().saturating_add(ids).saturating_add(PUBLISH_HEAD);
        if session.maximum_packet_size == u32::MAX
            && most <= MAX_REMAINING_LENGTH as usize
            && message.topic.len() <= MAX_TOPIC_LENGTH
        {
            return Ok(());
        }
        self.fits_exactly(session, message, outbound)
    }

    /// Answers like `fits`, with every byte counted.
    #[inline(never)]
    fn fits_exactly(
        &self,
        session: &Session,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
    ) -> Result<(), Misfit> {
        let topic = session.unmounted(message.topic).unwrap_or(message.topic);
        let publish = out_publish(message, topic, outbound);
        // A topic alias adds three bytes at most while it is being set. What counts is the maximum
        // that the connection was granted, whatever the settings are by now.
        let aliases = session
            .socket()
            .and_then(|socket| self.connections.get(socket.0))
            .and_then(|connection| connection.aliases.as_ref());
        let alias = if aliases.is_some_and(|aliases| aliases.outbound_limit > 0) { 3 } else { 0 };
        let size = packet::publish_size(session.version, &publish)
            .ok()
            .map(|size| size + alias)
            .filter(|&size| size <= packet::MAX_PACKET_SIZE as usize)
            .ok_or(Misfit::NotEncodable)?;
        if size > session.maximum_packet_size as usize {
            return Err(Misfit::TooLarge);
        }
        Ok(())
    }

    /// The flow state of a session that ends leaves the gauges; what the session had not delivered
    /// is counted as dropped.
    pub(super) fn forget_flow(&mut self, flow: &Flow) {
        let (open, waiting) = (u64::from(flow.window.open()), flow.pending.len() as u64);
        self.counters.inflight -= open;
        self.counters.pending_messages -= waiting;
        self.counters.pending_bytes -= flow.pending.bytes() as u64;
        self.counters.dropped_session_gone += open + waiting;
        self.memory.tally.forget(flow);
    }

    /// A newer message on `topic` was sent live while a replay runs: the retained message that the
    /// replay would bring is stale.
    fn overtake(&mut self, index: u32, topic: &str) {
        let hash = self.topology.shared.seeds.place(topic.as_bytes());
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        // This concerns every replay that waits now: their tickets are not above the newest ticket.
        flow.overtake(hash, self.topology.tickets);
    }
}

pub(super) fn is_slow(output: &Output, now: Instant) -> bool {
    let stalled = output.is_sending() && now.millis_since(output.progressed) > STALLED;
    stalled || output.backlog.high().is_some_and(|since| now.millis_since(since) >= SLOW)
}

pub(super) fn out_publish<'a>(
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
