//! What the entry shard does: it admits a connection, reads its CONNECT, and sends the client to
//! its home shard.

use super::connection::{Connection, Input, Stage};
use super::memory::Pressure;
use super::refuse::Denial;
use super::{Action, Shard};
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::{REFUSED_INPUT, cost};
use crate::mesh::mail::Arriving;
use crate::mutant::Mutant;
use crate::overload::sources::SourceMark;
use crate::packet::{self, Connect, Framing, ReasonCode, Version, Violation};

/// First byte of a CONNECT packet [MQTT-2.1.3-1].
const CONNECT: u8 = 0x10;

impl Shard {
    pub(super) fn admit(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.counters.connections_accepted += 1;
        if let Some(state) = self.entrance.listener(listener) {
            state.accepted.add();
        }
        if self.is_no_proxy(listener, peer) {
            self.refuse_no_proxy(socket, listener, peer);
            return;
        }
        self.pace_accepts();
        let source = match self.take_entrance(listener, peer) {
            Ok(source) => source,
            Err(denial) => {
                self.deny_entry(socket, listener, peer, denial);
                return;
            }
        };
        let mut connection =
            Connection::new(listener, peer, self.now, self.entrance.announced.reloads());
        connection.set_source(source);
        self.connections.insert(socket.0, connection);
        self.begin_layers(socket, listener);
        let secure = self.layered.is_shaking(socket).then(|| self.entry_deadline(socket)).flatten();
        let plain = self.now.plus_millis(self.settings.connect_timeout);
        self.arm_connection(socket, secure.unwrap_or(plain));
        self.outputs.actions.push(Action::ReceiveOnce(socket));
    }

    /// Counts one more connection in all limits, or says which limit denies it.
    fn take_entrance(&mut self, listener: ListenerId, peer: Peer) -> Result<SourceMark, Denial> {
        if let Some(why) = self.work.stopping.turns_away() {
            return Err(why);
        }
        if self.takes_nobody() {
            return Err(Denial::Memory);
        }
        if self.refuses_connects() {
            return Err(Denial::Overload);
        }
        let now = self.meter.begun();
        let rate = self.settings.policy.limits.max_connect_rate;
        if rate.is_some_and(|rate| !self.topology.shared.connect_rate.allow(now, rate)) {
            return Err(Denial::BrokerRate);
        }
        let source = self.take_source(peer)?;
        if let Err(denial) = self.take_place(listener) {
            self.leave_source(peer, source);
            return Err(denial);
        }
        Ok(source)
    }

    /// Counts one more connection in the limits of the listener and of the broker.
    fn take_place(&mut self, listener: ListenerId) -> Result<(), Denial> {
        let listener_state = self.entrance.listener(listener);
        let Some(listener_state) = listener_state else { return Err(Denial::ListenerClosed) };
        let now = self.meter.begun();
        if !listener_state.max_connect_rate.is_none_or(|rate| listener_state.rate.allow(now, rate))
        {
            return Err(Denial::Rate);
        }
        if !listener_state.connections.take(1, listener_state.max_connections) {
            return Err(Denial::ListenerLimit);
        }
        if !self.topology.shared.connections.take(1, self.settings.max_connections) {
            listener_state.connections.give(1);
            return Err(Denial::BrokerLimit);
        }
        Ok(())
    }

    /// True while memory is too short for new clients.
    fn takes_nobody(&self) -> bool {
        self.memory.is_short(Pressure::High) && !Mutant::MemoryConnectTaken.is_on()
    }

    pub(super) fn receive_entry(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(mut input) = connection.take_input(&mut self.memory.tally.input) else {
            if !self.read_connect(socket, bytes) {
                self.keep_unfinished(socket, Input::of(bytes));
                self.note_unfinished(socket);
            }
            return;
        };
        input.extend(bytes);
        if !self.read_connect(socket, input.rest()) {
            self.keep_unfinished(socket, input);
        }
    }

    /// A connection's CONNECT has not wholly come: the part that has come waits, while there is
    /// memory for it.
    fn keep_unfinished(&mut self, socket: SocketId, input: Box<Input>) {
        if self.memory.is_short(Pressure::Tight) && !Mutant::MemoryUnfinishedKept.is_on() {
            self.end_unfinished(socket, input.rest());
        }
        self.meter.charge(cost::bytes(input.capacity()));
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if matches!(connection.stage, Stage::Entry | Stage::Refused(_)) {
            connection.keep_input(input, &mut self.memory.tally.input);
        }
    }

    /// Acts on the first packet in `bytes`; false when it is not complete yet.
    fn read_connect(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let any = u32::MAX;
        if bytes.first().is_some_and(|&first| first != CONNECT) {
            // [MQTT-3.1.0-1]; the protocol version is not known, so no packet is owed.
            let what = "the first packet is not CONNECT";
            self.reject(socket, ReasonCode::ProtocolError, what, None, any);
            return true;
        }
        let Some(connection) = self.connections.get(socket.0) else { return true };
        let denied = matches!(connection.stage, Stage::Refused(_));
        let max = self.settings.max_packet_size.min(self.settings.before_connect);
        let max = if Mutant::ConnectUnbounded.is_on() { any } else { max };
        let done = match packet::frame(bytes, max) {
            Ok(Framing::Incomplete { .. }) if denied && bytes.len() > REFUSED_INPUT => {
                self.refuse_oversized(socket, bytes)
            }
            Ok(Framing::Incomplete { .. }) => false,
            Err(violation) if violation.reason == ReasonCode::PacketTooLarge => {
                self.refuse_oversized(socket, bytes)
            }
            Err(violation) => {
                self.reject(socket, violation.reason, violation.what, None, any);
                true
            }
            Ok(Framing::Complete { total, .. }) => {
                match packet::decode_connect(&bytes[..total]) {
                    Ok(connect) => self.take_connect(socket, &connect, total, bytes),
                    Err(error) => {
                        let Violation { reason, what } = error.violation;
                        self.reject(socket, reason, what, error.version, error.maximum_packet_size);
                    }
                }
                true
            }
        };
        if !done {
            self.outputs.actions.push(Action::ReceiveOnce(socket));
        }
        done
    }

    /// Goes on with a client whose CONNECT, the first `total` of `bytes`, is well-formed.
    fn take_connect(
        &mut self,
        socket: SocketId,
        connect: &Connect<'_>,
        total: usize,
        bytes: &[u8],
    ) {
        self.counters.packets_received += 1;
        let stage = self.connections.get(socket.0).map(|connection| connection.stage);
        if let Some(Stage::Refused(denial)) = stage {
            self.deny_connect(socket, connect, denial);
            return;
        }
        if let Some(why) = self.work.stopping.turns_away() {
            self.deny_connect(socket, connect, why);
            return;
        }
        if self.takes_nobody() {
            self.deny_connect(socket, connect, Denial::Memory);
            return;
        }
        if self.refuses_connects() {
            self.deny_connect(socket, connect, Denial::Overload);
            return;
        }
        let (version, client_id) = (connect.version, connect.client_id);
        let assigned =
            (client_id.is_empty() && version != Version::V31 && self.settings.empty_client_id)
                .then(|| self.assign_client_id());
        let home = self.topology.home(assigned.as_deref().unwrap_or(client_id));
        let stays = Mutant::PlacementIgnored.is_on() && version == Version::V311;
        if home == self.topology.id || stays {
            self.open_session(socket, assigned, bytes);
        } else {
            self.depart(socket, home, assigned, total, bytes);
        }
    }

    /// A ClientId that no other client has: unique per process start, shard and connection, and
    /// not guessable [MQTT-3.1.3-6].
    fn assign_client_id(&mut self) -> Box<str> {
        let number = self.entrance.assign();
        // The hash is keyed by the process's own seeds, so that a simulated broker assigns the same
        // names for the same seed. No topic name or ClientId begins with the character 0
        // [MQTT-1.5.4-2], so an assigned name tells nobody the hash, and with it the place, of such
        // a name.
        let name = format!("\0{:x}-{:x}-{:x}", self.meter.begun(), self.topology.id.0, number);
        let hash = self.topology.shared.seeds.secret(name.as_bytes());
        format!("auto-{hash:016x}{:02x}{:x}", self.topology.id.0, number).into()
    }

    /// Both the socket and the mail of a client have come: from now on the client is this shard's.
    pub(super) fn welcome(&mut self, socket: SocketId, arriving: Arriving) {
        self.counters.handovers_in += 1;
        let mut connection = Connection::new(
            arriving.listener,
            arriving.peer,
            self.now,
            self.entrance.announced.reloads(),
        );
        connection.set_source(arriving.source);
        self.connections.insert(socket.0, connection);
        if let Some(layers) = arriving.layers {
            self.put_layers(socket, layers);
            self.send_wire(socket, &arriving.wire);
        }
        // Nothing depends on this deadline, but while it is armed no later one needs an entry of
        // its own on the wheel: the keep-alive gets one only for a connection that lasts this long.
        self.arm_connection(socket, self.now.plus_millis(self.settings.connect_timeout));
        self.open_session(socket, arriving.assigned, &arriving.bytes);
    }
}
