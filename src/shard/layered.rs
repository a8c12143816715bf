//! Connections with protocol layers between the socket and MQTT; see [`crate::transport`]. This
//! module owns the layers of this shard's connections and the buffers in which their bytes are
//! decoded; decoding is in [`super::unwrap`].
//!
//! Received bytes are decoded before anything else is done with them, so the rest of the shard sees
//! only MQTT. Output is queued as MQTT and is framed when the send is made. Bytes that the layers
//! send themselves are in the output's `wire` and go before what is framed later.

use super::close::Cause;
use super::connection::Stage;
use super::handshakes::HandshakeQueue;
use super::headers::Headers;
use super::output::OutputPool;
use super::{Action, Shard};
use crate::access;
use crate::ids::{ListenerId, Peer, SocketId};
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::outgoing::{Outgoing, Segment};
use crate::slab::Table;
use crate::transport::tls::KeyCache;
use crate::transport::{Ending, Exchange, Layers, Stack, TurnedAway, WebSocketHeader};
use std::sync::Arc;

/// A payload of at most this many bytes is copied behind the bytes that go before it. A longer one
/// becomes a segment of its own.
const COPY: usize = 4096;
/// Most bytes of capacity that [`Layered::shrink`] leaves to each buffer for decoded bytes.
const KEPT: usize = 64 * 1024;

/// The layers of a shard's connections.
#[derive(Default)]
pub(super) struct Layered {
    pub(super) all: Table<Layers>,
    pub(super) exchange: Exchange,
    /// The TLS keys that were used last.
    pub(super) keys: KeyCache,
    /// The place of the connection whose certificate is looked at next, while certificates are
    /// looked at; see [`Shard::run_certificates`].
    pub(super) certificates: Option<u32>,
    /// Connections whose keys may encrypt no more records. They are ended in the next step.
    pub(super) worn: Vec<SocketId>,
    pub(super) handshakes: HandshakeQueue,
    /// The connections whose first header has not arrived whole.
    pub(super) headers: Headers,
}

/// The memory that the layers of a connection hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct LayerMemory {
    /// Bytes on the heap, without the connection's place in [`Layered::all`].
    pub heap: usize,
    /// How many of those bytes belong to a header that has not arrived whole.
    pub header: usize,
}

impl LayerMemory {
    pub(super) fn of(layers: &Layers) -> LayerMemory {
        LayerMemory { heap: layers.heap(), header: layers.unfinished_header() }
    }
}

impl Layered {
    /// The number of connections with layers.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What all layers hold, added up anew. Checks compare this with what was counted.
    pub(super) fn count_held(&self) -> LayerMemory {
        let all = (0..self.all.bound()).filter_map(|at| self.all.get(at)).map(LayerMemory::of);
        all.fold(LayerMemory::default(), |sum, one| LayerMemory {
            heap: sum.heap + one.heap,
            header: sum.header + one.header,
        })
    }

    /// Names what the connection should have sent before MQTT and has not, if there is such a
    /// thing.
    pub(super) fn overdue(&self, socket: SocketId) -> Option<&'static str> {
        self.all.get(socket.0)?.overdue()
    }

    /// Gives back the memory that large receives have left in the buffers.
    pub(super) fn shrink(&mut self) {
        self.exchange.plain.shrink_to(KEPT);
        self.exchange.wire.shrink_to(KEPT);
        self.exchange.content.shrink_to(KEPT);
    }

    /// Takes the buffers for decoded bytes out; [`Shard::take_decoded`] gives them back.
    pub(super) fn take_exchange(&mut self) -> Exchange {
        std::mem::take(&mut self.exchange)
    }

    /// The user name that a client's certificate gives it. A common name that a proxy reports
    /// counts only where `stack` says so and the client has shown no certificate to this broker.
    pub(super) fn username(&self, socket: SocketId, stack: &Stack) -> Option<Box<str>> {
        let layers = self.all.get(socket.0)?;
        let shown = layers.identity().and_then(|identity| identity.username.clone());
        let told = || layers.common_name().map(Box::from);
        shown.or_else(|| told().filter(|_| stack.proxy_username))
    }

    /// The common name in the client's certificate, or the one that a proxy reports.
    pub(super) fn common_name(&self, socket: SocketId) -> Option<&str> {
        let layers = self.all.get(socket.0)?;
        match layers.identity() {
            Some(certificate) => Some(&*certificate.names.common_name),
            None => layers.common_name(),
        }
    }

    /// The identity in the client's certificate, which TLS or a trusted proxy has verified.
    pub(super) fn certificate(&self, socket: SocketId) -> Option<Arc<access::Identity>> {
        let layers = self.all.get(socket.0)?;
        let identity = match layers.identity() {
            Some(certificate) => certificate.names.clone(),
            None => access::Identity {
                common_name: layers.common_name()?.into(),
                ..access::Identity::default()
            },
        };
        Some(Arc::new(identity))
    }

    /// True while the connection is in its TLS handshake.
    pub(super) fn is_shaking(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(Layers::is_shaking)
    }

    /// True when rustls holds state for the connection's TLS handshake.
    pub(super) fn is_begun(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(|layers| layers.is_shaking() && !layers.is_new())
    }

    /// True when the next record of a handshake that is under way is here.
    pub(super) fn waits_for_turn(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(|layers| layers.can_shake() && !layers.is_new())
    }

    /// True when no byte of a TLS handshake has arrived.
    pub(super) fn is_untouched(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(Layers::is_untouched)
    }

    /// Begins to look at the certificates of all connected clients, one after the other: some may
    /// have been revoked.
    pub(super) fn look_at_certificates(&mut self) {
        self.certificates = Some(0);
    }

    /// True while certificates are looked at, or connections with worn keys are still to be ended.
    pub(super) fn looks_at_certificates(&self) -> bool {
        self.certificates.is_some() || !self.worn.is_empty()
    }
}

impl Shard {
    /// Gives a connection that was just put into the table the layers with which connections of its
    /// listener begin.
    pub(super) fn begin_layers(&mut self, socket: SocketId, listener: ListenerId) {
        let listener_state = self.entrance.listener(listener);
        if let Some(layers) = listener_state.and_then(|listener_state| listener_state.stack.begin())
        {
            self.put_layers(socket, layers);
        }
    }

    /// Sets the layers of a connection, and counts their memory.
    pub(super) fn put_layers(&mut self, socket: SocketId, layers: Layers) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.layered = true;
        self.count_layers(socket, LayerMemory::default(), LayerMemory::of(&layers));
        self.layered.all.insert(socket.0, layers);
    }

    /// Takes the layers from a connection that is gone or that needs no layers any more.
    pub(super) fn take_layers(&mut self, socket: SocketId) -> Option<Layers> {
        let layers = self.layered.all.remove(socket.0)?;
        if !Mutant::LayersLeaked.is_on() {
            self.count_layers(socket, LayerMemory::of(&layers), LayerMemory::default());
        }
        Some(layers)
    }

    /// Counts a change of the memory that a connection's layers hold.
    pub(super) fn count_layers(
        &mut self,
        socket: SocketId,
        before: LayerMemory,
        after: LayerMemory,
    ) {
        self.memory.tally.layers = self.memory.tally.layers + after.heap - before.heap;
        self.count_header(socket, before.header, after.header);
    }

    /// Drops the layers that only the beginning of a connection needs: its CONNECT was accepted.
    pub(super) fn settle_layers(&mut self, socket: SocketId) {
        let Some(layers) = self.take_layers(socket) else { return };
        match layers.settle() {
            Some(layers) => self.put_layers(socket, layers),
            None => {
                if let Some(connection) = self.connections.get_mut(socket.0) {
                    connection.layered = false;
                }
            }
        }
    }

    /// True while the connection's layers hold a part of its beginning that has not arrived whole.
    pub(super) fn holds_beginning(&self, socket: SocketId) -> bool {
        self.layered.all.get(socket.0).is_some_and(|layers| layers.unfinished() > 0)
    }

    /// True when a listener takes connections only from trusted proxies, and this peer is none.
    pub(super) fn is_no_proxy(&self, listener: ListenerId, peer: Peer) -> bool {
        let listener_state = self.entrance.listener(listener);
        listener_state.is_some_and(|listener_state| listener_state.stack.proxy.is_some())
            && !self.settings.trusted_proxies.trusts(peer)
    }

    /// Closes the connection of a peer that is no trusted proxy. Nothing of its header is read,
    /// because what it says about other clients cannot be believed.
    pub(super) fn refuse_no_proxy(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.counters.refused_proxy += 1;
        self.counters.connections_closed += 1;
        self.log_refused(peer, listener, "the peer is not one of trusted_proxies");
        self.outputs.actions.push(Action::Close(socket));
    }

    /// Queues bytes for the peer that are not to be framed by the layers.
    pub(super) fn send_wire(&mut self, socket: SocketId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let output = self.outputs.of(connection, &mut self.meter, socket, self.now);
        output.append_wire(&mut self.outputs.pool, bytes);
        self.counters.bytes_sent += bytes.len() as u64;
    }

    /// Tells the layers that the broker ends the connection for `cause`. True when they have a
    /// farewell to send after what is already queued.
    pub(super) fn end_layers(&mut self, socket: SocketId, cause: Cause) -> bool {
        let ending = match cause {
            Cause::Client(_) | Cause::EndOfStream | Cause::Broken => Ending::Normal,
            Cause::Draining | Cause::Referred => Ending::GoingAway,
            Cause::Violation(_) | Cause::Transport(_) => Ending::ProtocolError,
            Cause::TakenOver
            | Cause::KeepAlive
            | Cause::Rejected
            | Cause::ConnectTimeout
            | Cause::QueueFull
            | Cause::Memory
            | Cause::NotAllowed
            | Cause::Unproven
            | Cause::Expired
            | Cause::Rate
            | Cause::Unread
            | Cause::Administrative
            | Cause::Undelivered => Ending::Policy,
        };
        self.change_layers(socket, |layers, _| layers.end(ending));
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return false };
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        let queued = connection.output.as_ref().is_some_and(|output| output.has_queued());
        let owes = layers.owes_farewell();
        if owes || queued {
            self.outputs.of(connection, &mut self.meter, socket, self.now);
        }
        owes
    }

    /// Tells the layers that the peer sends nothing more, and awaits no closing handshake.
    pub(super) fn cut_layers(&mut self, socket: SocketId) {
        self.change_layers(socket, |layers, _| layers.cut());
    }

    /// Applies `change` to the layers of a connection, and counts the memory that this takes or
    /// frees.
    pub(super) fn change_layers(
        &mut self,
        socket: SocketId,
        change: impl FnOnce(&mut Layers, &mut KeyCache),
    ) {
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let before = LayerMemory::of(layers);
        change(layers, &mut self.layered.keys);
        let after = LayerMemory::of(layers);
        self.count_layers(socket, before, after);
    }

    /// Stops waiting for the rest of a connection's beginning, and sends the answer that its layers
    /// have for this case.
    pub(super) fn turn_away(&mut self, socket: SocketId, why: TurnedAway) {
        let mut answer = Vec::new();
        self.change_layers(socket, |layers, keys| layers.turn_away(why, keys, &mut answer));
        self.send_wire(socket, &answer);
    }

    /// Asks for a send of the layers' farewell, after all other output of an ending connection has
    /// been sent. Returns whether the layers have a farewell.
    pub(super) fn says_farewell(&mut self, socket: SocketId) -> bool {
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return false };
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        let owes = layers.owes_farewell();
        if owes {
            self.outputs.of(connection, &mut self.meter, socket, self.now);
        }
        owes
    }

    /// Makes the next send of a connection with layers.
    #[inline(never)]
    pub(super) fn flush_layered(&mut self, socket: SocketId, most: usize) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(output) = &mut connection.output else { return };
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let sealed = layers.is_sealed();
        // The home shard sends what is queued: no send may be in flight when the socket moves.
        if connection.stage == Stage::HandingOver || output.is_sending() {
            return;
        }
        if sealed {
            self.flush_sealed(socket, most);
            return;
        }
        let wire = output.take_wire();
        let plain = output.next_part(&mut self.outputs.pool, self.now, most);
        let mut extra = 0;
        let mut outgoing = match plain {
            Some(plain) => {
                let header = layers.frame(plain.len());
                extra += header.as_bytes().len();
                Some(framed(&mut self.outputs.pool, wire, header, plain))
            }
            None => (!wire.is_empty()).then_some(Outgoing::One(wire)),
        };
        let is_last = connection.stage == Stage::Closing && !output.has_queued();
        if is_last && layers.owes_farewell() {
            let mut last = self.outputs.pool.take();
            layers.farewell(&mut self.layered.keys, &mut last);
            extra += last.len();
            outgoing = Some(match outgoing {
                None => Outgoing::One(last),
                Some(Outgoing::One(bytes)) => {
                    Outgoing::Many(vec![Segment::Bytes(bytes), Segment::Bytes(last)])
                }
                Some(Outgoing::Many(mut segments)) => {
                    segments.push(Segment::Bytes(last));
                    Outgoing::Many(segments)
                }
            });
        }
        if let Some(outgoing) = outgoing {
            output.sending(outgoing.len(), self.now);
            self.counters.bytes_sent += extra as u64;
            self.outputs.actions.push(Action::Send(socket, outgoing));
        }
    }

    /// Makes the next send of a connection whose layers encrypt.
    fn flush_sealed(&mut self, socket: SocketId, most: usize) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(output) = &mut connection.output else { return };
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let keys = &mut self.layered.keys;
        let wire = output.take_wire();
        let mut before = wire.len();
        let mut bytes = if wire.capacity() == 0 { self.outputs.pool.take() } else { wire };
        let mut worn = false;
        if let Some(plain) = output.next_part(&mut self.outputs.pool, self.now, most) {
            before += plain.len();
            self.meter.charge(cost::RECORD + cost::bytes(plain.len()));
            let header = layers.frame(plain.len());
            self.outputs.pool.extend(&mut bytes, |bytes| {
                worn |= !layers.seal(keys, header.as_bytes(), bytes);
                plain.pieces(|piece| worn |= !layers.seal(keys, piece, bytes));
            });
            self.outputs.pool.recycle(plain);
        }
        let is_last = connection.stage == Stage::Closing && !output.has_queued();
        if is_last && layers.owes_farewell() {
            self.outputs.pool.extend(&mut bytes, |bytes| layers.farewell(keys, bytes));
        }
        if bytes.is_empty() {
            // The layers may send nothing any more.
            output.sending(0, self.now);
            self.outputs.pool.put(bytes);
        } else {
            output.sending(bytes.len(), self.now);
            self.counters.bytes_sent += bytes.len().saturating_sub(before) as u64;
            self.outputs.actions.push(Action::Send(socket, Outgoing::One(bytes)));
        }
        if worn {
            self.layered.worn.push(socket);
        }
    }

    /// Drops the keys of a connection that has ended or goes to another shard.
    pub(super) fn forget_keys(&mut self, layers: &Layers) {
        if let Some(records) = layers.peek() {
            records.forget(&mut self.layered.keys);
        }
    }
}

/// Puts `header` before the bytes that are there.
fn prepend(bytes: &mut Vec<u8>, header: &[u8]) {
    bytes.extend_from_slice(header);
    bytes.rotate_right(header.len());
}

/// Combines `wire` and `plain` into one send, with the header of `plain` between them.
fn framed(
    pool: &mut OutputPool,
    wire: Vec<u8>,
    header: WebSocketHeader,
    plain: Outgoing,
) -> Outgoing {
    let header = header.as_bytes();
    match plain {
        plain if wire.is_empty() && header.is_empty() => plain,
        Outgoing::One(mut bytes) if wire.is_empty() => {
            pool.extend(&mut bytes, |bytes| prepend(bytes, header));
            Outgoing::One(bytes)
        }
        plain => {
            let mut first = if wire.capacity() == 0 { pool.take() } else { wire };
            pool.extend(&mut first, |first| first.extend_from_slice(header));
            match plain {
                Outgoing::One(bytes) if bytes.len() <= COPY => {
                    pool.extend(&mut first, |first| first.extend_from_slice(&bytes));
                    pool.put(bytes);
                    Outgoing::One(first)
                }
                Outgoing::One(bytes) => {
                    Outgoing::Many(vec![Segment::Bytes(first), Segment::Bytes(bytes)])
                }
                Outgoing::Many(mut segments) => {
                    segments.insert(0, Segment::Bytes(first));
                    Outgoing::Many(segments)
                }
            }
        }
    }
}
