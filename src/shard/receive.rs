//! Turns the bytes of a connected client into packets, and passes each packet to the code that
//! handles it.

use super::Shard;
use super::close::Cause;
use super::connection::{Holds, Stage};
use super::memory::Pressure;
use super::observe::Current;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet::{
    self, Ack, AckKind, Disconnect, Framing, Packet, Publish, ReasonCode, Version, Violation,
    append_user_property,
};
use crate::telemetry::trace_context::TRACEPARENT;

/// What handling a packet means for its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handled {
    /// The packet was handled. Go on with the next one.
    Next,
    /// The packet was not handled and not consumed. It is tried again when the hold is released.
    Hold(Holds),
}

const SECOND_CONNECT: Violation =
    Violation { reason: ReasonCode::ProtocolError, what: "a second CONNECT" };
const SERVERS_PACKET: Violation =
    Violation { reason: ReasonCode::ProtocolError, what: "a packet that only servers send" };
pub(super) const NO_AUTHENTICATION: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "AUTH without an authentication method in CONNECT",
};
const EXPIRY_FROM_ZERO: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "DISCONNECT sets a session expiry where CONNECT had none",
};

impl Shard {
    /// Checks what can be said of a packet before all of it has come, so that the rest of a packet
    /// that will be refused is not waited for.
    fn check_unfinished(
        &self,
        index: u32,
        version: Version,
        beginning: &[u8],
    ) -> Result<(), Violation> {
        packet::check_beginning(version, beginning)?;
        let method = || self.sessions.get(index).and_then(|s| s.grant()?.mechanism);
        match beginning.first().map(|first| first >> 4) {
            Some(1) => Err(SECOND_CONNECT), // [MQTT-3.1.0-2]
            Some(2 | 9 | 11 | 13) => Err(SERVERS_PACKET),
            Some(15) if method().is_none() => Err(NO_AUTHENTICATION), // [MQTT-4.12.0-6]
            _ => Ok(()),
        }
    }

    pub(super) fn receive_open(&mut self, socket: SocketId, index: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.input.is_some() || !connection.holds.is_free() {
            let input = connection.take_input(&mut self.memory.tally.input);
            let mut input = input.unwrap_or_else(|| self.outputs.pool.take_input());
            input.extend(bytes);
            let large = self.memory.budgeting.pressure != Pressure::None
                && connection.holds.is_free()
                && self.is_unfinished_too_large(&input);
            let Some(connection) = self.connections.get_mut(socket.0) else { return };
            connection.keep_input(input, &mut self.memory.tally.input);
            if large {
                self.disconnect(socket, Cause::Memory);
                return;
            }
            if connection.holds.is_free() {
                self.process_held(socket);
                self.heard_held(socket, index);
            } else {
                self.heard_held(socket, index);
                self.wait_on(socket);
                self.hear(socket);
            }
            return;
        }
        let used = self.process(socket, index, bytes);
        if used < bytes.len()
            && let Some(connection) = self.connections.get_mut(socket.0)
            && connection.stage == Stage::Open(index)
        {
            let mut input = self.outputs.pool.take_input();
            input.extend(&bytes[used..]);
            // As above: the input may hold whole packets when something holds the connection now.
            if input.progresses(used > 0) || !connection.holds.is_free() {
                connection.last_seen = self.now;
            }
            self.meter.charge(cost::bytes(input.capacity()));
            connection.keep_input(input, &mut self.memory.tally.input);
            self.heard_held(socket, index);
        }
    }

    /// Notes that bytes have come from a connection that is held, perhaps only since these bytes.
    /// Which packets they contain is found out later, and that delay is the broker's doing
    /// [MQTT-3.1.2-22].
    fn heard_held(&mut self, socket: SocketId, index: u32) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.stage == Stage::Open(index) && !connection.holds.is_free() {
            connection.last_seen = self.now;
        }
    }

    /// Processes input that was received earlier and kept.
    pub(super) fn process_held(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Stage::Open(index) = connection.stage else { return };
        let Some(mut input) = connection.take_input(&mut self.memory.tally.input) else { return };
        let rest = input.rest();
        let used = self.process(socket, index, rest);
        if used >= rest.len() {
            self.outputs.pool.put_input(input);
            return;
        }
        input.consume(used);
        if let Some(connection) = self.connections.get_mut(socket.0)
            && connection.stage == Stage::Open(index)
        {
            if input.progresses(used > 0) {
                connection.last_seen = self.now;
            }
            connection.keep_input(input, &mut self.memory.tally.input);
        }
    }

    /// Handles whole packets at the start of `bytes`, until one is incomplete or something holds
    /// the connection; returns the bytes used (all of them once the connection has ended).
    fn process(&mut self, socket: SocketId, index: u32, bytes: &[u8]) -> usize {
        let Some(session) = self.sessions.get(index) else { return bytes.len() };
        let version = session.version;
        let max = self.packet_size_of(index, self.announced_to(socket).max_packet_size);
        let mut used = 0;
        let budget = self.settings.budget;
        let share = budget.step.min(self.meter.work().saturating_add(budget.turn));
        while used < bytes.len() {
            if !self.connections.get(socket.0).is_some_and(|connection| {
                connection.stage == Stage::Open(index) && connection.holds.is_free()
            }) {
                break;
            }
            if self.is_clogged(socket) {
                self.hold(socket, Holds::UNREAD);
                break;
            }
            if self.is_spent(share) {
                match used {
                    0 => self.put_off(socket),
                    _ => _ = self.hold(socket, Holds::WORK),
                }
                break;
            }
            self.meter.charge(cost::PACKET);
            let rest = &bytes[used..];
            let outcome = match packet::frame(rest, max) {
                Ok(Framing::Incomplete { .. }) => match self.check_unfinished(index, version, rest)
                {
                    Ok(()) => break,
                    Err(violation) => Err(violation),
                },
                // Hold only a whole packet: with single bytes of a packet, no client stays
                // connected.
                Ok(Framing::Complete { .. }) if self.mail.intake.holds(rest[0]) => {
                    self.put_behind(socket);
                    break;
                }
                Ok(Framing::Complete { total, .. }) => {
                    self.meter.charge(cost::bytes(total));
                    packet::decode(version, &rest[..total])
                        .and_then(|packet| self.handle(socket, index, version, packet, total))
                        .map(|flow| (flow, total))
                }
                Err(violation) => Err(violation),
            };
            match outcome {
                Ok((Handled::Next, total)) => {
                    used += total;
                    self.count_packet(index, rest[0], total);
                }
                Ok((Handled::Hold(hold), _)) => {
                    self.work.observers.withdraw();
                    self.hold(socket, hold);
                    break;
                }
                Err(violation) => self.end_for(socket, rest[0], violation),
            }
        }
        match self.connections.get_mut(socket.0) {
            Some(connection) if connection.stage == Stage::Open(index) => {
                if used > 0 {
                    connection.last_seen = self.now; // [MQTT-3.1.2-22]: a Control Packet
                }
                used
            }
            _ => bytes.len(),
        }
    }

    #[inline]
    fn count_packet(&mut self, index: u32, first: u8, bytes: usize) {
        self.counters.packets_received += 1;
        if self.work.observers.heavy.received(first, bytes) {
            self.weigh_client(index);
        }
    }

    /// Ends a connection for a violation in a packet that begins with `first`.
    #[inline(never)]
    fn end_for(&mut self, socket: SocketId, first: u8, violation: Violation) {
        // [MQTT-3.1.0-2] holds whatever is in a second CONNECT, and the reason codes for its
        // content may only be in a CONNACK.
        let second = first >> 4 == 1 && violation.reason == ReasonCode::UnsupportedProtocolVersion;
        let violation = if second { SECOND_CONNECT } else { violation };
        self.disconnect(socket, Cause::Violation(violation));
    }

    #[inline]
    fn handle(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        packet: Packet<'_>,
        bytes: usize,
    ) -> Result<Handled, Violation> {
        self.begin_packet(socket);
        if self.work.observers.is_watching()
            && let Some(outcome) = self.watch_received((socket, index, version), &packet, bytes)
        {
            return outcome;
        }
        match packet {
            Packet::Publish(publish) => self.publish(socket, index, version, &publish),
            Packet::PubAck(ack) => self.puback(index, ack),
            Packet::PubRec(ack) => self.pubrec(socket, index, version, ack),
            Packet::PubRel(ack) => Ok(self.pubrel(socket, index, version, ack)),
            Packet::PubComp(ack) => self.pubcomp(index, ack),
            Packet::Subscribe(subscribe) => self.subscribe(socket, index, version, &subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(socket, index, version, &unsubscribe)
            }
            Packet::PingReq => {
                // [MQTT-3.12.4-1]
                self.write(socket, packet::encode_pingresp);
                Ok(Handled::Next)
            }
            Packet::Disconnect(disconnect) => self.goodbye(socket, index, &disconnect),
            Packet::Auth(auth) => self.prove_again(socket, index, &auth),
            Packet::Connect(_) => Err(SECOND_CONNECT), // [MQTT-3.1.0-2]
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(SERVERS_PACKET)
            }
        }
    }

    fn pubrel(&mut self, socket: SocketId, index: u32, version: Version, ack: Ack<'_>) -> Handled {
        let known =
            self.sessions.get_mut(index).and_then(|session| session.flow.as_mut()).is_some_and(
                |flow| {
                    let before = flow.inbound.len();
                    let known = flow.inbound.release(ack.id);
                    self.memory.tally.inbound -= before - flow.inbound.len();
                    known
                },
            );
        if known {
            self.store_inbound(index, ack.id, false);
        }
        // [MQTT-4.3.3-11]: PUBCOMP in any case. Only its reason code tells that the identifier was
        // unknown.
        let reason = if known { ReasonCode::Success } else { ReasonCode::PacketIdentifierNotFound };
        if known || !Mutant::PubCompSkipped.is_on() {
            self.write_ack(socket, version, AckKind::PubComp, ack.id, reason);
        }
        Handled::Next
    }

    fn goodbye(
        &mut self,
        socket: SocketId,
        index: u32,
        disconnect: &Disconnect<'_>,
    ) -> Result<Handled, Violation> {
        if let Some(expiry) = disconnect.session_expiry
            && let Some(session) = self.sessions.get_mut(index)
        {
            // Section 3.14.2.2.2. If no expiry was granted, CONNECT may still have asked for one.
            if session.expiry == 0 && expiry != 0 && self.settings.session_expiry_max > 0 {
                return Err(EXPIRY_FROM_ZERO);
            }
            if !Mutant::DisconnectExpiryIgnored.is_on() {
                session.expiry = expiry.min(self.settings.session_expiry_max);
            }
        }
        self.disconnect(socket, Cause::Client(disconnect.reason));
        Ok(Handled::Next)
    }
}

/// Packets while traces or spans are recorded: a sampled PUBLISH is handled within its trace.
impl Shard {
    /// Records a packet that has come, while something is traced or recorded. `None`: the packet is
    /// still to be handled.
    #[cold]
    #[inline(never)]
    pub(super) fn watch_received(
        &mut self,
        (socket, index, version): (SocketId, u32, Version),
        packet: &Packet<'_>,
        bytes: usize,
    ) -> Option<Result<Handled, Violation>> {
        if self.work.observers.is_tracing() {
            self.trace_received(index, packet, bytes);
        }
        let Packet::Publish(publish) = packet else { return None };
        self.work.observers.spans.as_ref()?;
        let current = self.sample(index, publish)?;
        self.publish_sampled((socket, index, version), publish, &current)
    }

    fn publish_sampled(
        &mut self,
        (socket, index, version): (SocketId, u32, Version),
        publish: &Publish<'_>,
        current: &Current,
    ) -> Option<Result<Handled, Violation>> {
        self.meter.charge(cost::VISIT * 4);
        let mut block = publish.properties.raw.to_vec();
        let mut publish = *publish;
        if current.begun_here && !Mutant::TraceNotPassedOn.is_on() {
            append_user_property(&mut block, TRACEPARENT, &current.context.written()).ok()?;
            publish.properties.raw = &block;
        }
        // The span has the highest level: it is no line itself, but belongs to lines of every
        // level.
        let logged = tracing::error_span!("message", trace_id = %current.context.trace);
        let _entered = logged.entered();
        let again = self.is_repeated(index, &publish);
        self.begin_sampled(current);
        let routing = self.micros();
        // Not `publish`, which is inlined into its only caller.
        let outcome = self.publish_metered(socket, index, version, &publish);
        let refused = self.end_sampled().and_then(|current| current.error);
        if let Ok(Handled::Hold(_)) = outcome {
            self.hold_sampled(index, current.began);
            return Some(outcome);
        }
        let violation = outcome.as_ref().err().map(|violation| violation.what);
        let done = Current { error: refused.or(violation), ..*current };
        self.record_publish(index, &publish, &done, (!again).then_some(routing));
        Some(outcome)
    }
}
