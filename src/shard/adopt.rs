//! Clients and retained messages that another process of this broker has handed over: this module
//! puts them in their places. Nothing is sent to these clients, and nothing read from them, before
//! [`Shard::serve_adopted`].

use super::Shard;
use super::changes::version;
use super::connection::{Connection, Input, Stage, TopicAliases};
use super::memory::named;
use super::route::GROUP;
use super::timers::Timer;
use crate::access::Grant;
use crate::access::scram::Mechanism;
use crate::config::OnFull;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::mutant::Mutant;
use crate::packet::PacketId;
use crate::session::pending::PendingBounds;
use crate::session::{SessionWill, Since, Window};
use crate::time::Instant;
use crate::topic::{self, Subscriber};
use crate::transport::Layers;
use crate::upgrade::client::{self, MovedClient};

/// Bounds that any queue is within: an adopted queue was within its bounds in the other process.
pub(super) const ANY: PendingBounds =
    PendingBounds { messages: usize::MAX, bytes: usize::MAX, on_full: OnFull::DropNew };

impl Shard {
    /// Takes in a client whose home is this shard. `connection` is the client's socket and the
    /// listener that it came in by, as the listener is numbered here.
    ///
    /// # Errors
    /// Why the client cannot be taken in.
    pub fn adopt(
        &mut self,
        client: MovedClient,
        connection: Option<(SocketId, ListenerId)>,
    ) -> Result<(), String> {
        let socket = connection.map(|(socket, _)| socket);
        self.adopt_whole(client, connection)?;
        if let Some(socket) = socket {
            self.note_busy(socket);
        }
        Ok(())
    }

    /// The same; returns the place of the session, if there is one.
    pub(super) fn adopt_whole(
        &mut self,
        client: MovedClient,
        connection: Option<(SocketId, ListenerId)>,
    ) -> Result<Option<u32>, String> {
        let MovedClient { session, connection: carried } = client;
        if let Some(session) = &session {
            self.replace_early(&session.client_id);
        }
        self.counters.clients_taken_over += 1;
        let socket = connection.map(|(socket, _)| socket);
        let index = match session {
            Some(session) => Some(self.adopt_session(session, socket)?),
            None => None,
        };
        if let (Some((socket, listener)), Some(carried)) = (connection, carried) {
            self.adopt_connection(socket, listener, carried, index)?;
            if let Some(index) = index {
                self.adopt_limits(index, listener);
            }
        }
        Ok(index)
    }

    pub(super) fn adopt_session(
        &mut self,
        carried: client::MovedSession,
        socket: Option<SocketId>,
    ) -> Result<u32, String> {
        if self.find_session(&carried.client_id).is_some() {
            return Err(format!("there are two sessions of {}", carried.client_id));
        }
        let index = self.new_session(&carried.client_id);
        let Some(session) = self.sessions.get_mut(index) else { return Ok(index) };
        self.memory.tally.names -= named(session);
        session.version = version(carried.level);
        session.problem_information = carried.problem_information;
        session.bridge = carried.bridge;
        session.expiry = carried.expiry;
        session.set_ends(if socket.is_some() { Instant::END } else { carried.ends });
        session.maximum_packet_size = carried.maximum_packet_size;
        session.window_limit = carried.window_limit;
        session.connected = carried.connected.map_or_else(Since::default, Since::at);
        session.set_socket(socket);
        let will = carried.will.filter(|_| !Mutant::UpgradeWillLost.is_on());
        session.will = will.map(|will| {
            let client::MovedWill { message, delay, message_expiry, due } = will;
            Box::new(SessionWill { message, delay, message_expiry, due, restored: false })
        });
        if !carried.mountpoint.is_empty() {
            session.extras().mountpoint = carried.mountpoint;
        }
        if let Some(grant) = carried.grant {
            let serial = self.access.admissions.serial();
            session.extras().grant = Some(Box::new(granted(grant, serial)));
        }
        self.memory.tally.names += named(session);
        let ends = session.grant().map(|grant| grant.ends);
        if let (Some(socket), Some(ends)) = (socket, ends) {
            self.note_end(socket, ends);
        }
        self.counters.sessions_persistent += u64::from(socket.is_none());
        for client::MovedSubscription { filter, options, id } in carried.subscriptions {
            let lost = Mutant::UpgradeOptionsLost.is_on();
            let (options, id) = if lost { (options & 3, 0) } else { (options & !GROUP, id) };
            if let Some(Ok(_)) = topic::parse_share(&filter) {
                if Mutant::UpgradeShareLost.is_on() {
                    continue;
                }
                let ticket = self.topology.ticket();
                self.join(index, &filter, options, id, ticket);
                continue;
            }
            let subscriber = Subscriber { target: index, options, subscription_id: id };
            self.place_subscription(index, &filter, subscriber)
                .map_err(|_| format!("the subscription {filter} has no room"))?;
        }
        self.tell_presence(index, socket.is_some());
        if let Some(stored) = carried.stored {
            self.adopt_stored(index, stored)?;
        }
        if let Some(flow) = carried.flow {
            self.adopt_flow(index, flow)?;
        }
        if socket.is_none()
            && let Some(due) = self.sessions.get(index).and_then(|session| session.next_due())
            && !Mutant::UpgradeExpiryLost.is_on()
        {
            self.arm_session(index, due);
        }
        Ok(index)
    }

    pub(super) fn adopt_flow(
        &mut self,
        index: u32,
        carried: client::MovedFlow,
    ) -> Result<(), String> {
        self.use_flow(index);
        let mut places = Vec::with_capacity(carried.sent.len());
        for client::MovedInFlight { awaits, again, queued, kept, body } in carried.sent {
            if let (Some(body), Some(kept)) = (&body, kept) {
                self.adopt_kept(index, body, kept)?;
            }
            let queued = queued.map(|queued| self.adopt_queued(index, queued, kept)).transpose()?;
            places.push((awaits, again, queued, kept.map_or(0, |kept| kept.slot)));
        }
        let mut pending = Vec::with_capacity(carried.pending.len());
        for client::MovedPending { queued, kept } in carried.pending {
            pending.push(self.adopt_queued(index, queued, kept)?);
        }
        let Some(session) = self.sessions.get_mut(index) else { return Ok(()) };
        let flow = session.flow();
        flow.window = Window::of_places(carried.first, places.into_iter());
        self.counters.inflight += u64::from(flow.window.open());
        self.memory.tally.kept += flow.window.kept();
        for queued in pending {
            let before = flow.pending.bytes();
            flow.pending.push(queued, &ANY);
            self.counters.pending_messages += 1;
            self.counters.pending_bytes += (flow.pending.bytes() - before) as u64;
        }
        for id in carried.inbound_earlier.into_iter().filter_map(PacketId::new) {
            flow.inbound.insert(id);
        }
        flow.inbound.begin_connection();
        for id in carried.inbound.into_iter().filter_map(PacketId::new) {
            flow.inbound.insert(id);
        }
        self.memory.tally.inbound += flow.inbound.len();
        flow.retry = carried.retry;
        if let Some(at) = carried.retry {
            self.timers.arm(at, Timer::Retry(index));
        }
        self.adopt_away(index, carried.away)
    }

    /// A connection that the other process has admitted: it is counted and stays, whatever the
    /// limits are now.
    fn admitted(&mut self, listener: ListenerId, peer: Peer) -> Connection {
        let source = self.adopt_source(peer);
        if let Some(listener_state) = self.entrance.listener(listener) {
            listener_state.connections.take(1, u64::MAX);
        }
        self.topology.shared.connections.take(1, u64::MAX);
        let reloads = self.entrance.announced.reloads();
        let mut connection = Connection::new(listener, peer, self.now, reloads);
        connection.set_source(source);
        connection
    }

    pub(super) fn adopt_connection(
        &mut self,
        socket: SocketId,
        listener: ListenerId,
        carried: client::MovedConnection,
        index: Option<u32>,
    ) -> Result<(), String> {
        let layers = carried.layers.as_ref().map(Layers::of_moved);
        if matches!(layers, Some(None)) {
            return Err("the TLS or WebSocket state of a client is not understood".to_owned());
        }
        let mut connection = self.admitted(listener, carried.peer);
        connection.last_seen = carried.last_seen.min(self.now);
        connection.patience = carried.patience;
        if let Some(index) = index {
            connection.stage = Stage::Open(index);
            self.counters.connections_open += 1;
        }
        if !carried.input.0.is_empty() {
            let input = Input::of(&carried.input.0);
            connection.keep_input(input, &mut self.memory.tally.input);
        }
        if !carried.output.0.is_empty() || !carried.wire.0.is_empty() {
            let mut output = self.outputs.pool.take_output();
            output.progressed = self.now;
            output.append_wire(&mut self.outputs.pool, &carried.wire.0);
            let bytes = carried.output.0;
            output.append(&mut self.outputs.pool, |out| out.extend_from_slice(&bytes));
            connection.output = Some(output);
        }
        let limit = carried.alias_limit;
        let lost = Mutant::UpgradeAliasLost.is_on();
        if (limit > 0 || !carried.aliases_in.is_empty()) && !lost {
            let mut aliases = TopicAliases::within(limit);
            let held = &mut self.memory.tally.names;
            for (at, name) in carried.aliases_in.iter().enumerate() {
                if let Some(name) = name {
                    aliases.set_inbound(at, name, held);
                }
            }
            for (name, alias) in carried.aliases_out {
                if aliases.grow_outbound(name.len(), held) {
                    aliases.outbound.insert(name, alias);
                }
            }
            connection.aliases = Some(Box::new(aliases));
        }
        let due = match index {
            Some(_) if connection.patience == 0 => None,
            Some(_) if Mutant::UpgradeKeepAliveLost.is_on() => None,
            Some(_) => Some(connection.last_seen.plus_millis(u64::from(connection.patience))),
            None => Some(self.now.plus_millis(self.settings.connect_timeout)),
        };
        if connection.input.is_some() || connection.output.is_some() {
            self.note_busy(socket);
        }
        self.connections.insert(socket.0, connection);
        if let Some(Some(layers)) = layers {
            self.put_layers(socket, layers);
        }
        if let Some(due) = due {
            self.arm_connection(socket, due);
        }
        Ok(())
    }
}

fn granted(carried: client::MovedGrant, serial: u64) -> Grant {
    Grant {
        username: carried.username,
        superuser: carried.superuser,
        rules: carried.rules.map(Box::new),
        attributes: carried.attributes.into(),
        certificate: carried.certificate,
        mechanism: match carried.mechanism {
            1 => Some(Mechanism::Sha256),
            2 => Some(Mechanism::Sha512),
            _ => None,
        },
        ends: carried.ends,
        credential: carried.credential,
        serial,
        peer: carried.peer,
        listener: carried.listener,
    }
}
