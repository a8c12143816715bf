//! Refuses clients before they have a session, and tells them the reason.
//!
//! A limit that is exceeded at accept is answered like one that is exceeded at CONNECT. A client
//! can be told only in its own version of the protocol, so the connection is accepted for long
//! enough to learn that version. A bounded number of such clients may take a short time for this;
//! beyond that number, connections are closed at once.

use super::close::{Cause, LONGEST_HEAD, REFERENCE_HEAD};
use super::connection::{Connection, Stage};
use super::{Action, Shard};
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::{REFUSED_MILLIS, REFUSED_WAITING};
use crate::mutant::Mutant;
use crate::packet::{self, ConnAck, ConnAckProperties, Connect, ReasonCode, Version};

/// Bytes of the shortest CONNACK.
const SHORTEST_CONNACK: usize = 5;

/// Why no client may come in now, whichever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// The broker is stopping.
    Draining,
    /// The listener is closed.
    ListenerClosed,
    /// The listener has as many connections as it may have.
    ListenerLimit,
    /// The broker has as many connections as it may have.
    BrokerLimit,
    /// Clients connect faster than the listener may accept them.
    Rate,
    /// The home shard could not be reached.
    Busy,
    /// The broker holds as much memory as it may.
    Memory,
    /// As many clients as may be authenticated at a time are.
    Proving,
    /// The client's identity could not be verified in time.
    ProofLate,
    /// This shard is overloaded.
    Overload,
    /// Clients connect faster than the broker may accept them.
    BrokerRate,
    /// The client's address has as many connections as one address may have.
    AddressLimit,
    /// The client's address connects faster than one address may.
    AddressRate,
    /// The client's entry of `limits.users` has as many connections as it may have.
    UserLimit,
    /// The clients of the entry of `limits.users` connect faster than they may.
    UserRate,
    /// The client is banned.
    Banned,
    /// This node is leaving its cluster.
    Leaving,
    /// A client of another node has connected with the same ClientId meanwhile.
    ClaimedElsewhere,
}

impl Denial {
    /// The reason code of the CONNACK (section 3.2.2.2), and its Reason String.
    pub(super) fn answer(self) -> (ReasonCode, &'static str) {
        match self {
            Denial::Draining => (ReasonCode::ServerUnavailable, "the server is stopping"),
            Denial::Leaving => (ReasonCode::ServerUnavailable, "the server leaves its cluster"),
            Denial::ListenerClosed => (ReasonCode::ServerUnavailable, "the listener is closed"),
            Denial::ListenerLimit => {
                (ReasonCode::QuotaExceeded, "the listener has its most connections")
            }
            Denial::BrokerLimit => {
                (ReasonCode::QuotaExceeded, "the server has its most connections")
            }
            Denial::Rate => (ReasonCode::ConnectionRateExceeded, "too many connect at once"),
            Denial::Busy => (ReasonCode::ServerBusy, "the server is busy; try again later"),
            Denial::Memory => (ReasonCode::ServerBusy, "the server is short of memory"),
            Denial::Proving => (ReasonCode::ServerBusy, "too many prove themselves at once"),
            Denial::ProofLate => {
                (ReasonCode::ServerUnavailable, "users cannot be looked up in time")
            }
            Denial::Overload => (ReasonCode::ServerBusy, "the server is overloaded"),
            Denial::BrokerRate => {
                (ReasonCode::ConnectionRateExceeded, "too many connect to the server at once")
            }
            Denial::AddressLimit => {
                (ReasonCode::QuotaExceeded, "the address has its most connections")
            }
            Denial::AddressRate => {
                (ReasonCode::ConnectionRateExceeded, "the address connects too often")
            }
            Denial::UserLimit => (ReasonCode::QuotaExceeded, "the user has its most connections"),
            Denial::UserRate => (ReasonCode::ConnectionRateExceeded, "the user connects too often"),
            Denial::Banned => (ReasonCode::Banned, "banned for now"),
            Denial::ClaimedElsewhere => {
                (ReasonCode::ServerBusy, "another connection uses this ClientId")
            }
        }
    }
}

/// Why this CONNECT is refused.
pub(super) struct Refused(pub ReasonCode, pub &'static str);

impl Shard {
    /// Denies a connection beyond a limit. Its CONNECT is awaited for a short time, to be answered.
    pub(super) fn deny_entry(
        &mut self,
        socket: SocketId,
        listener: ListenerId,
        peer: Peer,
        denial: Denial,
    ) {
        self.count_denial(listener, denial);
        self.log_refused(peer, listener, denial.answer().1);
        // No TLS handshake is made only to tell the client.
        let secure = self.layered.handshakes.server(listener).is_some();
        if secure
            || self.entrance.refused_waiting >= REFUSED_WAITING
            || Mutant::DeniedUntold.is_on()
        {
            self.counters.refused_unanswered += 1;
            self.counters.connections_closed += 1;
            self.outputs.actions.push(Action::Close(socket));
            return;
        }
        self.entrance.refused_waiting += 1;
        let mut connection =
            Connection::new(listener, peer, self.now, self.entrance.announced.reloads());
        connection.stage = Stage::Refused(denial);
        self.connections.insert(socket.0, connection);
        self.begin_layers(socket, listener);
        let patience = REFUSED_MILLIS.min(self.settings.connect_timeout);
        self.arm_connection(socket, self.now.plus_millis(patience));
        self.outputs.actions.push(Action::ReceiveOnce(socket));
    }

    /// Answers the CONNECT of a client that is denied, and ends the connection.
    pub(super) fn deny_connect(&mut self, socket: SocketId, connect: &Connect<'_>, denial: Denial) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        if !matches!(connection.stage, Stage::Refused(_)) {
            let (peer, listener) = (connection.peer, connection.listener);
            self.count_denial(listener, denial);
            self.log_refused(peer, listener, denial.answer().1);
        }
        let max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        self.answer_denial(socket, connect.version, denial, max);
    }

    /// Denies a client whose CONNECT has come in part. The client is told if its version is known.
    pub(super) fn deny_unread(&mut self, socket: SocketId, version: Option<Version>, why: Denial) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        let (peer, listener) = (connection.peer, connection.listener);
        self.count_denial(listener, why);
        self.log_refused(peer, listener, why.answer().1);
        match version {
            Some(version) => self.answer_denial(socket, version, why, SHORTEST_CONNACK as u32),
            None => self.disconnect(socket, Cause::Rejected),
        }
    }

    /// Sends CONNACK to a denied client whose version is known, and ends the connection.
    fn answer_denial(
        &mut self,
        socket: SocketId,
        version: Version,
        denial: Denial,
        maximum_packet_size: u32,
    ) {
        let (reason, what) = match denial {
            Denial::Overload if self.sends_elsewhere(version) => {
                (ReasonCode::UseAnotherServer, "the server is overloaded")
            }
            Denial::Leaving if version.is_v5() => {
                (ReasonCode::UseAnotherServer, "the server leaves its cluster")
            }
            denial => denial.answer(),
        };
        self.send_refusal(socket, version, reason, what, maximum_packet_size);
        self.disconnect(socket, Cause::Rejected);
    }

    /// Refuses a CONNECT on the home shard of its client.
    pub(super) fn refuse(&mut self, socket: SocketId, connect: &Connect<'_>, refused: Refused) {
        self.counters.refused_connect += 1;
        self.count_refused_at(socket);
        let Refused(reason, what) = refused;
        self.log_refused_client(socket, connect, what, reason as u8);
        let max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        self.send_refusal(socket, connect.version, reason, what, max);
        self.disconnect(socket, Cause::Rejected);
    }

    /// Refuses a CONNECT whose client is told less than the log says in `why`.
    pub(super) fn refuse_because(
        &mut self,
        socket: SocketId,
        connect: &Connect<'_>,
        told: Refused,
        why: &str,
    ) {
        self.counters.refused_connect += 1;
        self.count_refused_at(socket);
        let Refused(reason, what) = told;
        self.log_refused_client(socket, connect, why, reason as u8);
        let max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        self.send_refusal(socket, connect.version, reason, what, max);
        self.disconnect(socket, Cause::Rejected);
    }

    /// Answers a CONNECT that breaks a rule, with CONNACK where the version has one for the case,
    /// and ends the connection [MQTT-3.1.4-1, MQTT-3.1.2-2].
    pub(super) fn reject(
        &mut self,
        socket: SocketId,
        reason: ReasonCode,
        what: &'static str,
        version: Option<Version>,
        maximum_packet_size: u32,
    ) {
        self.counters.violations += 1;
        let Some(connection) = self.connections.get(socket.0) else { return };
        let (peer, listener) = (connection.peer, connection.listener);
        self.count_refused(listener);
        self.log_refused(peer, listener, what);
        let answer = match version {
            Some(Version::V5) => true,
            // MQTT 3 has return codes for only a few refusals. For all others the connection is
            // just closed.
            Some(_) => reason == ReasonCode::UnsupportedProtocolVersion,
            None => false,
        };
        if let (true, Some(version)) = (answer, version) {
            self.send_refusal(socket, version, reason, what, maximum_packet_size);
        }
        self.disconnect(socket, Cause::Rejected);
    }

    /// Refuses a CONNECT whose header says that the packet is larger than `limits.before_connect`;
    /// `bytes` is what has come of the packet. False when the version to answer in has not come
    /// yet. The packet's Maximum Packet Size is not looked for, so the answer is the shortest
    /// CONNACK.
    pub(super) fn refuse_oversized(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let Some(version) = packet::connect_version(bytes) else { return false };
        let Some(connection) = self.connections.get(socket.0) else { return true };
        let what = "the CONNECT is larger than limits.before_connect";
        match (connection.stage, version) {
            (Stage::Refused(denial), Some(version)) => {
                self.answer_denial(socket, version, denial, SHORTEST_CONNACK as u32);
                return true;
            }
            (Stage::Refused(_), None) => {}
            (_, version) => {
                let (peer, listener) = (connection.peer, connection.listener);
                self.counters.refused_too_large += 1;
                self.count_refused(listener);
                self.log_refused(peer, listener, what);
                if let Some(version) = version {
                    let reason = ReasonCode::PacketTooLarge;
                    self.send_refusal(socket, version, reason, what, SHORTEST_CONNACK as u32);
                }
            }
        }
        self.disconnect(socket, Cause::Rejected);
        true
    }

    /// Sends CONNACK with a reason code of failure; Session Present is 0 [MQTT-3.2.2-6]. Properties
    /// that do not fit the client's Maximum Packet Size are left out [MQTT-3.2.2-19], and so is the
    /// whole packet if it does not fit [MQTT-3.1.2-24].
    fn send_refusal(
        &mut self,
        socket: SocketId,
        version: Version,
        reason: ReasonCode,
        what: &str,
        maximum_packet_size: u32,
    ) {
        let room = maximum_packet_size as usize;
        if room < SHORTEST_CONNACK {
            return;
        }
        let fits = self.settings.reason_strings && what.len() + LONGEST_HEAD <= room;
        // It is unknown whether a client of an unsupported version can read our properties.
        let reads = reason != ReasonCode::UnsupportedProtocolVersion;
        let what = (fits && reads).then_some(what);
        // Section 3.2.2.3.16: a Server Reference goes with 0x9C and 0x9D.
        let elsewhere = (reason == ReasonCode::UseAnotherServer)
            .then(|| self.settings.policy.server_reference.clone())
            .filter(|elsewhere| !elsewhere.is_empty());
        let elsewhere = elsewhere.as_deref().filter(|elsewhere| {
            elsewhere.len() + what.map_or(0, str::len) + LONGEST_HEAD + REFERENCE_HEAD <= room
        });
        let properties = ConnAckProperties {
            reason_string: what,
            server_reference: elsewhere,
            ..Default::default()
        };
        let connack = ConnAck { session_present: false, reason, properties };
        self.answer(socket, |out| packet::encode_connack(out, version, &connack));
    }

    /// Whether clients of that version are referred to another server.
    fn sends_elsewhere(&self, version: Version) -> bool {
        version.is_v5() && !self.settings.policy.server_reference.is_empty()
    }

    /// Counts a refused connection of that listener.
    pub(super) fn count_refused(&self, listener: ListenerId) {
        if let Some(state) = self.entrance.listener(listener) {
            state.refused.add();
        }
    }

    fn count_refused_at(&self, socket: SocketId) {
        if let Some(connection) = self.connections.get(socket.0) {
            self.count_refused(connection.listener);
        }
    }

    pub(super) fn count_denial(&mut self, listener: ListenerId, denial: Denial) {
        self.count_refused(listener);
        let counters = &mut self.counters;
        let counter = match denial {
            Denial::Draining => &mut counters.refused_draining,
            Denial::Leaving => &mut counters.refused_leaving,
            Denial::ListenerClosed => &mut counters.refused_listener_closed,
            Denial::ListenerLimit => &mut counters.refused_listener_limit,
            Denial::BrokerLimit => &mut counters.refused_broker_limit,
            Denial::Rate => &mut counters.refused_rate,
            Denial::Busy => &mut counters.refused_busy,
            Denial::Memory => &mut counters.refused_memory,
            Denial::Proving => &mut counters.refused_proving,
            Denial::ProofLate => &mut counters.refused_proof_late,
            Denial::Overload => &mut counters.refused_overload,
            Denial::BrokerRate => &mut counters.refused_broker_rate,
            Denial::AddressLimit => &mut counters.refused_address_limit,
            Denial::AddressRate => &mut counters.refused_address_rate,
            Denial::UserLimit => &mut counters.refused_user_limit,
            Denial::UserRate => &mut counters.refused_user_rate,
            Denial::Banned => &mut counters.refused_banned,
            Denial::ClaimedElsewhere => &mut counters.refused_claimed,
        };
        *counter += 1;
    }
}
