//! The entry shard's part: admit a connection, read its CONNECT, pass it to its home.

use super::close::Cause;
use super::connection::{Connection, Input, Stage};
use super::{Action, Shard, home_of};
use crate::ids::{ListenerId, Peer, ShardId, SocketId};
use crate::mesh::mail::{Arriving, Control};
use crate::mutant::Mutant;
use crate::packet::{self, Framing, ReasonCode, Version, Violation};

/// First byte of a CONNECT packet [MQTT-2.1.3-1].
const CONNECT: u8 = 0x10;

impl Shard {
    pub(super) fn admit(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.counters.connections_accepted += 1;
        let entrance = self.entrances.get(usize::from(listener.0)).and_then(|e| e.clone());
        let Some(entrance) = entrance.filter(|_| !self.draining) else {
            self.log_refused(peer, listener, "the listener is closed");
            self.refuse_socket(socket);
            return;
        };
        let paced =
            entrance.max_connect_rate.is_none_or(|rate| entrance.rate.allow(self.now_micros, rate));
        if !paced || !entrance.connections.take(1, entrance.max_connections) {
            let limit = if paced { "max_connections" } else { "max_connect_rate" };
            self.log_refused(peer, listener, limit);
            self.refuse_socket(socket);
            return;
        }
        if !self.shared.connections.take(1, self.settings.max_connections) {
            entrance.connections.give(1);
            self.log_refused(peer, listener, "runtime.max_connections");
            self.refuse_socket(socket);
            return;
        }
        let connection = Connection::new(listener, peer, self.now, self.reloads);
        self.connections.insert(socket.0, connection);
        self.arm_connection(socket, self.now.plus_millis(self.settings.connect_timeout));
        self.actions.push(Action::ReceiveOnce(socket));
    }

    /// Closes a socket that never became a connection.
    fn refuse_socket(&mut self, socket: SocketId) {
        self.counters.connections_refused += 1;
        self.actions.push(Action::Close(socket));
    }

    /// A connection that was admitted is gone from the broker.
    pub(super) fn release_entrance(&mut self, listener: ListenerId) {
        if let Some(Some(entrance)) = self.entrances.get(usize::from(listener.0)) {
            entrance.connections.give(1);
        }
        self.shared.connections.give(1);
    }

    pub(super) fn receive_entry(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(mut input) = connection.input.take() else {
            if !self.read_connect(socket, bytes) {
                let Some(connection) = self.connections.get_mut(socket.0) else { return };
                connection.input = Some(Input::of(bytes));
            }
            return;
        };
        input.extend(bytes);
        if !self.read_connect(socket, input.rest())
            && let Some(connection) = self.connections.get_mut(socket.0)
        {
            connection.input = Some(input);
        }
    }

    /// Acts on the first packet in `bytes`; false when it is not complete yet.
    fn read_connect(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        if bytes.first().is_some_and(|&first| first != CONNECT) {
            // [MQTT-3.1.0-1]; the protocol version is not known, so no packet is owed.
            self.reject(
                socket,
                ReasonCode::ProtocolError,
                "the first packet is not CONNECT",
                None,
                0,
            );
            return true;
        }
        match packet::frame(bytes, self.settings.max_packet_size) {
            Ok(Framing::Incomplete { .. }) => {
                self.actions.push(Action::ReceiveOnce(socket));
                false
            }
            Err(violation) => {
                self.reject(socket, violation.reason, violation.what, None, 0);
                true
            }
            Ok(Framing::Complete { total, .. }) => {
                match packet::decode_connect(&bytes[..total]) {
                    Ok(connect) => {
                        self.counters.packets_received += 1;
                        let client_id = connect.client_id.to_owned();
                        self.place(socket, &client_id, connect.version, bytes);
                    }
                    Err(error) => {
                        let Violation { reason, what } = error.violation;
                        self.reject(socket, reason, what, error.version, error.maximum_packet_size);
                    }
                }
                true
            }
        }
    }

    fn place(&mut self, socket: SocketId, client_id: &str, version: Version, bytes: &[u8]) {
        let assigned =
            (client_id.is_empty() && version != Version::V31 && self.settings.empty_client_id)
                .then(|| self.assign_client_id());
        let home = home_of(assigned.as_deref().unwrap_or(client_id), self.shards);
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let stays = Mutant::PlacementIgnored.is_on() && version == Version::V311;
        if home == self.id || stays {
            self.open_session(socket, assigned, bytes);
            return;
        }
        let cookie = cookie(home, self.id, self.next_cookie);
        self.next_cookie += 1;
        connection.stage = Stage::HandingOver(cookie);
        connection.input = None;
        let (listener, peer) = (connection.listener, connection.peer);
        let arriving = Arriving { cookie, listener, peer, assigned, bytes: bytes.to_vec() };
        self.outbox.tell(home, Control::Connect(Box::new(arriving)));
        self.actions.push(Action::HandOver(socket, home, cookie));
        self.counters.handovers_out += 1;
    }

    /// A ClientId that no other client has: unique per process start, shard and connection, and
    /// not guessable [MQTT-3.1.3-6].
    fn assign_client_id(&mut self) -> Box<str> {
        self.assigned += 1;
        // Keyed by the process's own seeds, so that a simulated broker is one with its seed.
        let name = format!("{:x}-{:x}-{:x}", self.now_micros, self.id.0, self.assigned);
        let hash = self.shared.seeds.place(name.as_bytes());
        format!("auto-{hash:016x}{:02x}{:x}", self.id.0, self.assigned).into()
    }

    /// The home's answer to a CONNECT that cannot be followed: CONNACK where the version is known
    /// to have one for the case, then close [MQTT-3.1.4-1, MQTT-3.1.2-2].
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
        self.log_refused(connection.peer, connection.listener, what);
        let answer = match version {
            Some(Version::V5) => true,
            // MQTT 3 has return codes only for some refusals; anything else is just a close.
            Some(_) => reason == ReasonCode::UnsupportedProtocolVersion,
            None => false,
        };
        if let (true, Some(version)) = (answer, version) {
            self.send_refusal(socket, version, reason, what, maximum_packet_size);
        }
        self.disconnect(socket, Cause::Rejected);
    }

    /// The socket of a client whose mail has come too: from now on it is this shard's.
    pub(super) fn welcome(&mut self, socket: SocketId, arriving: Arriving) {
        self.counters.handovers_in += 1;
        let connection = Connection::new(arriving.listener, arriving.peer, self.now, self.reloads);
        self.connections.insert(socket.0, connection);
        // Nothing waits for this, but the keep-alive's entry on the wheel is then made only for a
        // connection that lasts this long.
        self.arm_connection(socket, self.now.plus_millis(self.settings.connect_timeout));
        if self.draining {
            self.log_refused(arriving.peer, arriving.listener, "the server is stopping");
            self.disconnect(socket, Cause::Rejected);
            return;
        }
        self.open_session(socket, arriving.assigned, &arriving.bytes);
    }

    pub(super) fn after_hand_over(&mut self, socket: SocketId, cookie: u64, ok: bool) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.stage != Stage::HandingOver(cookie) {
            return;
        }
        if ok {
            // The home has taken it over, entrance counts included; Closed follows for the slot.
            self.connections.remove(socket.0);
            return;
        }
        self.counters.handover_failures += 1;
        connection.stage = Stage::Closing;
        // ConnectFailed gives the entrance back; here only the socket is left.
        self.outbox.tell(destination(cookie), Control::ConnectFailed(cookie));
        self.connections.remove(socket.0);
        self.actions.push(Action::Close(socket));
    }
}

/// Names one hand-over: where to, where from, which.
fn cookie(to: ShardId, from: ShardId, number: u64) -> u64 {
    u64::from(to.0) << 48 | u64::from(from.0) << 40 | number & ((1 << 40) - 1)
}

fn destination(cookie: u64) -> ShardId {
    ShardId((cookie >> 48) as u8)
}
