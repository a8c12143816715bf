//! Connections with protocol layers between the socket and MQTT; see [`crate::transport`]. This
//! module owns the layers of this shard's connections and the buffers in which their bytes are
//! decoded; decoding is in [`super::unwrap`].
//!
//! Received bytes are decoded before anything else is done with them, so the rest of the shard sees
//! only MQTT. Output is queued as MQTT and is framed when the send is made. Bytes that the layers
//! send themselves are in the output's `wire` and go before what is framed later.

use super::close::Cause;
use super::connection::Stage;
use super::handshakes::Handshakes;
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
use crate::transport::{Ending, Exchange, Header, Layers, Stack, TurnedAway};
use std::sync::Arc;

/// A send in one piece is at most so long when it is put behind other bytes.
const COPY: usize = 4096;
/// Room for decoded bytes that is kept, bytes.
const KEPT: usize = 64 * 1024;

/// The layers of a shard's connections.
#[derive(Default)]
pub(super) struct Layered {
    pub(super) all: Table<Layers>,
    pub(super) exchange: Exchange,
    /// Of those who use TLS.
    pub(super) keys: KeyCache,
    /// Connections whose certificates are looked at next; see [`Shard::run_certificates`].
    pub(super) certificates: Option<u32>,
    /// Connections whose keys may not be used any more; ended in the next step.
    pub(super) worn: Vec<SocketId>,
    pub(super) handshakes: Handshakes,
    /// Those whose first header is not whole.
    pub(super) headers: Headers,
}

/// What the layers of connections hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Held {
    /// Bytes of memory besides their places.
    pub heap: usize,
    /// Of them, of headers that are not whole.
    pub header: usize,
}

impl Held {
    pub(super) fn of(layers: &Layers) -> Held {
        Held { heap: layers.heap(), header: layers.unfinished_header() }
    }
}

impl Layered {
    /// Connections with layers.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What all layers hold, added up anew. For checks.
    pub(super) fn count_held(&self) -> Held {
        let all = (0..self.all.bound()).filter_map(|at| self.all.get(at)).map(Held::of);
        all.fold(Held::default(), |sum, one| Held {
            heap: sum.heap + one.heap,
            header: sum.header + one.header,
        })
    }

    /// What has not come of the connection that should have before MQTT.
    pub(super) fn overdue(&self, socket: SocketId) -> Option<&'static str> {
        self.all.get(socket.0)?.overdue()
    }

    /// Gives back what large receives have left.
    pub(super) fn shrink(&mut self) {
        self.exchange.plain.shrink_to(KEPT);
        self.exchange.wire.shrink_to(KEPT);
        self.exchange.content.shrink_to(KEPT);
    }

    /// The rooms for decoded bytes; [`Shard::take_decoded`] gives them back.
    pub(super) fn take_exchange(&mut self) -> Exchange {
        std::mem::take(&mut self.exchange)
    }

    /// The user name that a client's certificate gives it. That of a certificate that a proxy tells
    /// of counts where `stack` has it so, and the client has shown none here.
    pub(super) fn username(&self, socket: SocketId, stack: &Stack) -> Option<Box<str>> {
        let layers = self.all.get(socket.0)?;
        let shown = layers.identity().and_then(|identity| identity.username.clone());
        let told = || layers.common_name().map(Box::from);
        shown.or_else(|| told().filter(|_| stack.proxy_username))
    }

    /// The common name in the client's certificate.
    pub(super) fn common_name(&self, socket: SocketId) -> Option<&str> {
        let layers = self.all.get(socket.0)?;
        match layers.identity() {
            Some(certificate) => Some(&*certificate.names.common_name),
            None => layers.common_name(),
        }
    }

    /// Who the client is by its certificate, which TLS or a trusted proxy has verified.
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

    /// True when rustls holds something for its handshake.
    pub(super) fn is_begun(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(|layers| layers.is_shaking() && !layers.is_new())
    }

    /// True when the next record of a handshake that is under way is here.
    pub(super) fn waits_for_turn(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(|layers| layers.can_shake() && !layers.is_new())
    }

    /// True when nothing of a handshake has come.
    pub(super) fn is_untouched(&self, socket: SocketId) -> bool {
        self.all.get(socket.0).is_some_and(Layers::is_untouched)
    }

    /// Certificates may have been revoked: those of live clients are looked at, one after the
    /// other.
    pub(super) fn look_at_certificates(&mut self) {
        self.certificates = Some(0);
    }

    /// True while that goes on.
    pub(super) fn looks_at_certificates(&self) -> bool {
        self.certificates.is_some() || !self.worn.is_empty()
    }
}

impl Shard {
    /// A connection that was just put into the table, on that listener: it begins with what the
    /// listener's connections begin with.
    pub(super) fn begin_layers(&mut self, socket: SocketId, listener: ListenerId) {
        let listener_state = self.entrance.listener(listener);
        if let Some(layers) = listener_state.and_then(|listener_state| listener_state.stack.begin())
        {
            self.put_layers(socket, layers);
        }
    }

    /// The connection has these layers.
    pub(super) fn put_layers(&mut self, socket: SocketId, layers: Layers) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        connection.layered = true;
        self.count_layers(socket, Held::default(), Held::of(&layers));
        self.layered.all.insert(socket.0, layers);
    }

    /// The connection is gone, or has no layers any more.
    pub(super) fn take_layers(&mut self, socket: SocketId) -> Option<Layers> {
        let layers = self.layered.all.remove(socket.0)?;
        if !Mutant::LayersLeaked.is_on() {
            self.count_layers(socket, Held::of(&layers), Held::default());
        }
        Some(layers)
    }

    /// What a connection's layers hold has changed.
    pub(super) fn count_layers(&mut self, socket: SocketId, before: Held, after: Held) {
        self.memory.tally.layers = self.memory.tally.layers + after.heap - before.heap;
        self.count_header(socket, before.header, after.header);
    }

    /// Its CONNECT was accepted.
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

    /// True while the connection's layers hold a part of its beginning.
    pub(super) fn holds_beginning(&self, socket: SocketId) -> bool {
        self.layered.all.get(socket.0).is_some_and(|layers| layers.unfinished() > 0)
    }

    /// True when a listener takes connections of proxies only, and this peer is none.
    pub(super) fn is_no_proxy(&self, listener: ListenerId, peer: Peer) -> bool {
        let listener_state = self.entrance.listener(listener);
        listener_state.is_some_and(|listener_state| listener_state.stack.proxy.is_some())
            && !self.settings.trusted_proxies.trusts(peer)
    }

    /// Such a peer is turned away at once: what it says of others is not even read.
    pub(super) fn refuse_no_proxy(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.counters.refused_proxy += 1;
        self.counters.connections_closed += 1;
        self.log_refused(peer, listener, "the peer is not one of trusted_proxies");
        self.outputs.actions.push(Action::Close(socket));
    }

    /// Bytes for the peer that are not to be framed.
    pub(super) fn send_wire(&mut self, socket: SocketId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let output = self.outputs.of(connection, &mut self.meter, socket, self.now);
        output.append_wire(&mut self.outputs.pool, bytes);
        self.counters.bytes_sent += bytes.len() as u64;
    }

    /// The broker ends the connection for `cause`: true when there is more to be sent than what is
    /// on its way.
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

    /// The peer sends nothing more, and does not wait for words that end the connection.
    pub(super) fn cut_layers(&mut self, socket: SocketId) {
        self.change_layers(socket, |layers, _| layers.cut());
    }

    /// Changes layers, which may give memory back.
    pub(super) fn change_layers(
        &mut self,
        socket: SocketId,
        change: impl FnOnce(&mut Layers, &mut KeyCache),
    ) {
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let before = Held::of(layers);
        change(layers, &mut self.layered.keys);
        let after = Held::of(layers);
        self.count_layers(socket, before, after);
    }

    /// What has come of a connection's beginning is not waited for any more.
    pub(super) fn turn_away(&mut self, socket: SocketId, why: TurnedAway) {
        let mut answer = Vec::new();
        self.change_layers(socket, |layers, keys| layers.turn_away(why, keys, &mut answer));
        self.send_wire(socket, &answer);
    }

    /// All is out of a connection that ends: its layers' last bytes are to be sent, if they have
    /// any. Returns whether they have.
    pub(super) fn says_farewell(&mut self, socket: SocketId) -> bool {
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return false };
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        let owes = layers.owes_farewell();
        if owes {
            self.outputs.of(connection, &mut self.meter, socket, self.now);
        }
        owes
    }

    /// The next send of a connection with layers.
    #[inline(never)]
    pub(super) fn flush_layered(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(output) = &mut connection.output else { return };
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let sealed = layers.is_sealed();
        // The home sends what there is: nothing may be on its way when the socket moves.
        if connection.stage == Stage::HandingOver || output.is_sending() {
            return;
        }
        if sealed {
            self.flush_sealed(socket);
            return;
        }
        let wire = output.take_wire();
        let plain = output.next_send(self.now);
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

    /// The same for one whose bytes are sealed.
    fn flush_sealed(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(output) = &mut connection.output else { return };
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return };
        let keys = &mut self.layered.keys;
        let wire = output.take_wire();
        let mut before = wire.len();
        let mut bytes = if wire.capacity() == 0 { self.outputs.pool.take() } else { wire };
        let mut worn = false;
        if let Some(plain) = output.next_send(self.now) {
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
            // Nothing may be said any more.
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

    /// The connection is over, or goes to another shard: its keys are not kept here.
    pub(super) fn forget_keys(&mut self, layers: &Layers) {
        if let Some(records) = layers.peek() {
            records.forget(&mut self.layered.keys);
        }
    }
}

/// Puts `header` before what is there.
fn prepend(bytes: &mut Vec<u8>, header: &[u8]) {
    bytes.extend_from_slice(header);
    bytes.rotate_right(header.len());
}

/// `wire`, then `plain` behind its header.
fn framed(pool: &mut OutputPool, wire: Vec<u8>, header: Header, plain: Outgoing) -> Outgoing {
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
