//! How connections end: the causes, the last packets, and what a connection gives back when it is
//! gone.

use super::connection::Stage;
use super::{Action, Shard};
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::overload::sources::SourceMark;
use crate::packet::{self, Disconnect, ReasonCode, Version, Violation};
use crate::transport::TurnedAway;

/// Milliseconds a closing connection has to take its last packets.
pub(super) const LAST_WORDS: u64 = 5000;
/// Bytes of a CONNACK or DISCONNECT besides the text of its reason string, at most.
pub(super) const LONGEST_HEAD: usize = 12;
/// Bytes of a Server Reference besides its text.
pub(super) const REFERENCE_HEAD: usize = 3;

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The client sent DISCONNECT with this reason code.
    Client(ReasonCode),
    /// The client broke a rule.
    Violation(Violation),
    /// Another connection claimed the ClientId.
    TakenOver,
    /// Nothing was received for longer than the keep-alive allows [MQTT-3.1.2-22].
    KeepAlive,
    /// The peer closed its side.
    EndOfStream,
    /// The connection broke.
    Broken,
    /// CONNECT was refused; the CONNACK, if one is owed, is written.
    Rejected,
    /// No CONNECT came in time.
    ConnectTimeout,
    /// The client's queues are full and the policy says disconnect.
    QueueFull,
    /// The client broke a rule of a layer that carries MQTT, such as TLS or WebSocket.
    Transport(&'static str),
    /// The broker holds as much memory as it may, and this client would need more.
    Memory,
    /// No output to the client could be sent for `mqtt.send_timeout`.
    Unread,
    /// The rules do not allow what the client did, and it cannot be told in another way.
    NotAllowed,
    /// The client's re-authentication failed.
    Unproven,
    /// What the client was admitted with has expired.
    Expired,
    /// An operator has disconnected the client.
    Administrative,
    /// The client sent more than its rate allows, and the policy says disconnect.
    Rate,
    /// A message of the client was lost whose acknowledgement the client waits for, and the client
    /// cannot be told in another way.
    Undelivered,
    /// The broker stops.
    Draining,
    /// This node leaves its cluster, or stops, and the client is to go to another one.
    Referred,
}

impl Cause {
    /// Reason code and reason string of the DISCONNECT that a v5 client gets; `None` when it gets
    /// none.
    fn farewell(self) -> Option<(ReasonCode, &'static str)> {
        match self {
            Cause::Violation(violation) => Some((violation.reason, violation.what)),
            Cause::TakenOver if Mutant::TakeoverUntold.is_on() => None,
            Cause::TakenOver => {
                Some((ReasonCode::SessionTakenOver, "another connection uses this ClientId"))
            }
            Cause::KeepAlive => Some((ReasonCode::KeepAliveTimeout, "keep alive exceeded")),
            Cause::QueueFull => Some((ReasonCode::QuotaExceeded, "the pending queue is full")),
            Cause::Memory => Some((ReasonCode::QuotaExceeded, "the server is short of memory")),
            Cause::NotAllowed => Some((ReasonCode::NotAuthorized, "the rules do not allow it")),
            Cause::Unproven => Some((ReasonCode::NotAuthorized, "re-authentication failed")),
            Cause::Expired => {
                Some((ReasonCode::NotAuthorized, "what it was let in with has expired"))
            }
            Cause::Administrative => {
                Some((ReasonCode::AdministrativeAction, "disconnected by an operator"))
            }
            Cause::Rate => Some((ReasonCode::MessageRateTooHigh, "more messages than its rate")),
            Cause::Draining => Some((ReasonCode::ServerShuttingDown, "the server is stopping")),
            Cause::Referred => {
                Some((ReasonCode::UseAnotherServer, "other nodes of the cluster go on"))
            }
            _ => None,
        }
    }

    /// For the log: the cause in words, and the reason code of the DISCONNECT if there is one.
    pub(super) fn words(self) -> (&'static str, Option<u8>) {
        let word = match self {
            Cause::Client(code) => return ("the client said goodbye", Some(code as u8)),
            Cause::EndOfStream => "the client closed the connection",
            Cause::Broken => "the connection broke",
            Cause::Rejected => "refused",
            Cause::ConnectTimeout => "no CONNECT in time",
            Cause::Unread => "the client reads nothing (mqtt.send_timeout)",
            Cause::Transport(what) => what,
            Cause::Undelivered => "a bridge had no room for its message (puback: delivered)",
            _ => "ended by the server",
        };
        self.farewell().map_or((word, None), |(code, what)| (what, Some(code as u8)))
    }

    /// Only DISCONNECT with reason 0x00 deletes the will [MQTT-3.14.4-3].
    pub(super) fn deletes_will(self) -> bool {
        self == Cause::Client(ReasonCode::Success) && !Mutant::WillAfterDisconnect.is_on()
            || self == Cause::TakenOver && Mutant::WillLostOnTakeover.is_on()
    }
}

impl Shard {
    /// Ends a connection for `cause`. Calling it for one that is closing or gone does nothing.
    pub(super) fn disconnect(&mut self, socket: SocketId, cause: Cause) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let (stage, listener, peer) = (connection.stage, connection.listener, connection.peer);
        let source = connection.source();
        match stage {
            Stage::Closing | Stage::Closed => return,
            // While the driver moves the socket to another shard, the driver's answer decides.
            Stage::HandingOver if !self.leave_line(socket) => return,
            Stage::Entry if cause == Cause::ConnectTimeout => {
                let what = self.layered.overdue(socket).unwrap_or("no CONNECT in time");
                self.log_refused(peer, listener, what);
            }
            Stage::HandingOver | Stage::Entry => {}
            Stage::Proving => {
                self.access.admissions.forget(socket);
                self.access.asking.handled(socket);
                self.counters.proving = self.access.admissions.len() as u64;
            }
            Stage::Refused(_) => self.entrance.refused_waiting -= 1,
            Stage::Open(index) => {
                self.meter.charge(cost::SESSION);
                self.counters.connections_open -= 1;
                self.count_cause(cause);
                self.log_disconnected(socket, index, cause);
                self.observe_disconnected(index, cause);
                self.say_farewell(socket, index, cause);
                self.forget_end(socket, index);
                // Its packet is not handled any more, so it asks nothing.
                self.access.asking.forget(socket);
                self.leave_group_of_users(index);
                self.detach(index, cause);
            }
        }
        if self.connections.get(socket.0).is_some_and(|connection| connection.layered) {
            self.handshake_over(socket, cause);
            if cause == Cause::ConnectTimeout && !self.layered.is_shaking(socket) {
                self.turn_away(socket, TurnedAway::Late);
            }
        }
        self.counters.connections_closed += 1;
        if !matches!(stage, Stage::Refused(_)) {
            self.leave_listener(listener, peer, source);
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.stage = Stage::Closing;
        let leaked = Mutant::MemoryInputLeaked.is_on() && connection.input.is_some();
        self.memory.tally.input += usize::from(leaked);
        if let Some(input) = connection.take_input(&mut self.memory.tally.input) {
            self.outputs.pool.put_input(input);
        }
        if let Some(aliases) = connection.aliases.take() {
            self.memory.tally.names -= aliases.bytes();
        }
        connection.patience = 0;
        let layered = connection.layered && cause != Cause::Broken;
        let owes = layered && self.end_layers(socket, cause);
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let drained = !owes && connection.output.as_ref().is_none_or(|output| output.unsent() == 0);
        // A client that has sent DISCONNECT, or its end of stream, is owed no orderly end: that
        // takes a shutdown, which the kernel does on a thread of its own.
        let parted = matches!(cause, Cause::Client(_) | Cause::EndOfStream);
        if cause == Cause::Broken || drained && parted {
            self.close_socket(socket, Action::Close(socket));
        } else if drained {
            self.close_socket(socket, Action::Finish(socket));
        } else {
            let now = self.now;
            connection.last_seen = now;
            self.arm_connection(socket, now.plus_millis(LAST_WORDS));
        }
    }

    /// Ends a connection that cannot carry anything more, even if it is closing already.
    pub(super) fn broken(&mut self, socket: SocketId) {
        match self.connections.get(socket.0).map(|connection| connection.stage) {
            Some(Stage::Closing) => self.close_socket(socket, Action::Close(socket)),
            _ => self.disconnect(socket, Cause::Broken),
        }
    }

    /// Asks the driver to close the socket, the last thing that the driver is asked for a
    /// connection.
    pub(super) fn close_socket(&mut self, socket: SocketId, action: Action) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.stage = Stage::Closed;
        self.outputs.actions.push(action);
    }

    fn count_cause(&mut self, cause: Cause) {
        match cause {
            Cause::Violation(_) => self.counters.violations += 1,
            Cause::KeepAlive => self.counters.keepalive_timeouts += 1,
            Cause::ConnectTimeout => self.counters.connect_timeouts += 1,
            Cause::Memory => self.counters.memory_ended += 1,
            Cause::Unread => self.counters.send_timeouts += 1,
            _ => {}
        }
    }

    fn say_farewell(&mut self, socket: SocketId, index: u32, cause: Cause) {
        let Some(session) = self.sessions.get(index) else { return };
        let (version, informed) = (session.version, session.problem_information);
        let max = session.maximum_packet_size as usize;
        if let (Version::V5, Some((reason, what))) = (version, cause.farewell()) {
            // A Server Reference is sent with reason code 0x9C (section 3.14.2.2.5). A property
            // that would make the packet too large for the client is left out [MQTT-3.14.2-3].
            let elsewhere = (reason == ReasonCode::UseAnotherServer)
                .then(|| self.settings.policy.server_reference.clone())
                .filter(|at| !at.is_empty() && at.len() + REFERENCE_HEAD + LONGEST_HEAD <= max);
            let taken = elsewhere.as_deref().map_or(0, |at| at.len() + REFERENCE_HEAD);
            let fits = what.len() + taken + LONGEST_HEAD <= max;
            let what = (informed && fits && self.settings.reason_strings).then_some(what);
            let server_reference = elsewhere.as_deref();
            self.answer(socket, |out| {
                let packet =
                    Disconnect { reason_string: what, server_reference, ..Disconnect::new(reason) };
                packet::encode_disconnect(out, version, &packet)
            });
        }
    }

    /// The driver has closed the socket: nothing of the connection is left.
    pub(super) fn forget(&mut self, socket: SocketId) {
        if Mutant::SlotLeaked.is_on() {
            return;
        }
        let Some(connection) = self.connections.remove(socket.0) else { return };
        if connection.layered
            && let Some(layers) = self.take_layers(socket)
        {
            self.forget_keys(&layers);
        }
        self.parked.forget(socket, connection.holds);
        self.access.admissions.forget(socket);
        self.access.asking.forget(socket);
        self.work.tasks.forget(socket);
        self.sessions.limiting.forget_socket(socket);
        if let Some(storing) = &mut self.storing {
            storing.forget_socket(socket);
        }
        if let Some(output) = connection.output {
            self.outputs.pool.put_output(output);
        }
    }

    /// A connection that was admitted is gone from the broker: it does not count any more for its
    /// address, its listener and the broker.
    pub(super) fn leave_listener(&mut self, listener: ListenerId, peer: Peer, source: SourceMark) {
        self.leave_source(peer, source);
        if let Some(listener_state) = self.entrance.listener(listener) {
            listener_state.connections.give(1);
        }
        self.topology.shared.connections.give(1);
    }

    /// Takes a client out of the line for its home shard: it is a client of this shard without a
    /// session again. False when the driver has its socket.
    pub(super) fn leave_line(&mut self, socket: SocketId) -> bool {
        if !self.entrance.departures.leave(socket) {
            return false;
        }
        if let Some(connection) = self.connections.get_mut(socket.0) {
            connection.stage = Stage::Entry;
            self.memory.tally.input +=
                connection.input.as_ref().map_or(0, |input| input.capacity());
        }
        if Mutant::EntranceLeaked.is_on() {
            self.topology.shared.connections.take(1, u64::MAX);
        }
        true
    }

    /// The connection ends: its client does not have to prove itself again.
    fn forget_end(&mut self, socket: SocketId, index: u32) {
        if self.access.admissions.ends.is_empty() {
            return;
        }
        if let Some(grant) = self.sessions.get(index).and_then(|session| session.grant()) {
            self.access.admissions.ends.remove(&(grant.ends, socket));
        }
    }
}
