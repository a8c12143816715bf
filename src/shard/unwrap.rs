//! Decodes bytes that come through layers, and hands them on as MQTT. Also gives handshakes their
//! turns, and looks at certificates again. The layers themselves are in [`super::layered`].

use super::close::Cause;
use super::connection::Stage;
use super::handshakes::{GOING_ON, NEW};
use super::layered::LayerMemory;
use super::{Action, Shard};
use crate::ids::{Peer, SocketId};
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::overload::sources::SourceMark;
use crate::transport::secure::HandshakeStep;
use crate::transport::tls::{KeyCache, TlsFailure, TlsFailureKind};
use crate::transport::{Exchange, Layer, LayerContext, Layers, ReadEnd, Stack, TurnedAway};

/// Whether a piece of a connection's bytes could be decoded, or why the connection ends.
type Decoded = Result<(), ReadEnd>;

impl Shard {
    /// [`Shard::received`] for a connection with layers.
    #[inline(never)]
    pub(super) fn received_layered(&mut self, socket: SocketId, stage: Stage, bytes: &[u8]) {
        let mut exchange = std::mem::take(&mut self.layered.exchange);
        let outcome = self.decode_with(socket, &mut exchange, |layers, context, keys, exchange| {
            layers.open(context, keys, bytes, exchange)
        });
        self.take_decoded(socket, stage, exchange, outcome);
    }

    /// Sends and handles what was decoded.
    fn take_decoded(
        &mut self,
        socket: SocketId,
        stage: Stage,
        mut exchange: Exchange,
        outcome: Result<(), ReadEnd>,
    ) {
        self.send_wire(socket, &exchange.wire);
        if !exchange.plain.is_empty() {
            self.take_received(socket, stage, &exchange.plain);
        } else if outcome.is_ok() {
            match self.layered.all.get(socket.0) {
                Some(layers) if layers.can_shake() => self.line_up(socket),
                _ => self.await_more(socket, stage),
            }
        }
        exchange.plain.clear();
        exchange.wire.clear();
        self.layered.exchange = exchange;
        match outcome {
            Ok(()) => self.bound_headers(),
            Err(ReadEnd::Ended) => self.part(socket, false),
            Err(ReadEnd::Insecure(failure)) => self.end_insecure(socket, failure),
            Err(ReadEnd::Fault(fault)) => {
                match fault.layer {
                    Layer::Proxy => self.counters.refused_proxy += 1,
                    Layer::Upgrade => self.counters.upgrades_refused += 1,
                    Layer::WebSocket => self.counters.websocket_faults += 1,
                }
                let connection = self.connections.get(socket.0);
                if let Some(connection) = connection.filter(|c| c.stage == Stage::Entry) {
                    let (peer, listener) = (connection.peer, connection.listener);
                    self.log_refused(peer, listener, fault.what);
                }
                self.disconnect(socket, Cause::Transport(fault.what));
            }
        }
    }

    /// Makes the layers of a connection decode something.
    fn decode_with<F>(&mut self, socket: SocketId, exchange: &mut Exchange, decode: F) -> Decoded
    where
        F: FnOnce(&mut Layers, &LayerContext<'_>, &mut KeyCache, &mut Exchange) -> Decoded,
    {
        let Some(connection) = self.connections.get_mut(socket.0) else { return Ok(()) };
        let Some(layers) = self.layered.all.get_mut(socket.0) else { return Ok(()) };
        let listener = connection.listener;
        let listener_state = self.entrance.listener(listener);
        let context = LayerContext {
            stack: listener_state.map_or(&Stack::PLAIN, |listener_state| &listener_state.stack),
            trusted: &self.settings.trusted_proxies,
            peer: connection.peer,
        };
        exchange.waiting = connection.output.as_ref().map_or(0, |output| output.wire().len());
        let before = LayerMemory::of(layers);
        let outcome = decode(layers, &context, &mut self.layered.keys, exchange);
        let after = LayerMemory::of(layers);
        self.meter.charge(std::mem::take(&mut exchange.work));
        let told = exchange.peer.take();
        self.count_layers(socket, before, after);
        if told.is_some_and(|peer| self.refuses_forwarded(socket, peer)) {
            exchange.plain.clear();
            return Err(ReadEnd::Ended);
        }
        outcome
    }

    /// Ends the connections with the oldest unfinished headers, until all headers together are
    /// within their bound.
    fn bound_headers(&mut self) {
        while self.layered.headers.is_over() {
            let Some(socket) = self.layered.headers.oldest() else { break };
            self.meter.charge(cost::SESSION);
            self.counters.headers_shed += 1;
            if let Some(connection) = self.connections.get(socket.0) {
                let (peer, listener) = (connection.peer, connection.listener);
                let why = "its first header was not whole before many others came";
                self.log_refused(peer, listener, why);
            }
            self.turn_away(socket, TurnedAway::Busy);
            self.disconnect(socket, Cause::Rejected);
        }
    }

    /// Asks for more bytes, because those that came contained no MQTT. Before CONNECT, the driver
    /// has to be asked for each receive.
    fn await_more(&mut self, socket: SocketId, stage: Stage) {
        match stage {
            Stage::Entry | Stage::Refused(_) => {
                self.outputs.actions.push(Action::ReceiveOnce(socket));
                if stage == Stage::Entry && self.holds_beginning(socket) {
                    self.note_unfinished(socket);
                }
            }
            Stage::HandingOver => self.watch_departing(socket),
            Stage::Proving => self.watch_proving(socket),
            Stage::Open(_) | Stage::Closing | Stage::Closed => {}
        }
    }

    /// Ends connections whose keys are worn out, and connected clients whose certificates are
    /// revoked or have expired, where their listener says so, until the step's work comes to
    /// `limit`. True when there are more to look at.
    pub(super) fn run_certificates(&mut self, limit: u32) -> bool {
        while let Some(socket) = self.layered.worn.pop() {
            self.disconnect(socket, Cause::Transport("the key may not be used any more"));
        }
        while let Some(at) = self.layered.certificates {
            if self.is_spent(limit) {
                return true;
            }
            self.meter.charge(cost::VISIT);
            let more = (at as usize) < self.layered.all.bound() as usize;
            self.layered.certificates = more.then_some(at + 1);
            let Some(layers) = self.layered.all.get(at) else { continue };
            let (Some(records), Some(connection)) = (layers.peek(), self.connections.get(at))
            else {
                continue;
            };
            let Some(server) = self.layered.handshakes.server(connection.listener) else {
                continue;
            };
            if let Some(why) = server.is_over(records.certificate(), server.now()) {
                self.counters.tls_certificates_ended += 1;
                self.disconnect(SocketId(at), Cause::Transport(why));
            }
        }
        false
    }

    /// Does steps of handshakes until the step's work comes to `limit`; true when more can be done
    /// at once.
    pub(super) fn run_handshakes(&mut self, limit: u32) -> bool {
        while !self.is_spent(limit) {
            let next = self.layered.handshakes.lines.pop(GOING_ON);
            let Some(socket) = next.or_else(|| self.next_newcomer()) else { break };
            self.shake(socket);
        }
        self.counters.tls_under_way = self.layered.handshakes.under_way() as u64;
        let full = self.layered.handshakes.under_way.len() >= self.most_handshakes();
        self.layered.handshakes.lines.bound(GOING_ON) > 0
            || self.layered.handshakes.lines.bound(NEW) > 0 && !full
    }

    /// The next connection of which rustls has nothing yet, if one more handshake may be under way.
    fn next_newcomer(&mut self) -> Option<SocketId> {
        if self.layered.handshakes.lines.bound(NEW) == 0 {
            return None;
        }
        if self.layered.handshakes.under_way.len() >= self.most_handshakes()
            && !Mutant::HandshakesUnbounded.is_on()
        {
            let socket = self.layered.handshakes.stillest(self.now)?;
            let failure = TlsFailure::new(
                TlsFailureKind::Shed,
                "the handshake stood still while others waited",
            );
            self.end_insecure(socket, failure);
        }
        self.layered.handshakes.lines.pop(NEW)
    }

    fn shake(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        let (stage, listener) = (connection.stage, connection.listener);
        let Some(server) = self.layered.handshakes.server(listener).cloned() else { return };
        let mut exchange = self.layered.take_exchange();
        let outcome = self.decode_with(socket, &mut exchange, |layers, context, keys, exchange| {
            layers.shake(&server, context, keys, exchange).map(|_| ())
        });
        if self.layered.is_begun(socket) {
            self.layered.handshakes.went_on(socket, self.now);
        } else {
            self.layered.handshakes.over(socket);
        }
        if let Some(HandshakeStep::Done { tls13, resumed }) = exchange.shaken.take() {
            let counters = &mut self.counters;
            *match (tls13, resumed) {
                (false, false) => &mut counters.tls12_full,
                (false, true) => &mut counters.tls12_resumed,
                (true, false) => &mut counters.tls13_full,
                (true, true) => &mut counters.tls13_resumed,
            } += 1;
            let now = self.now;
            if let Some(connection) = self.connections.get_mut(socket.0) {
                connection.last_seen = now;
            }
            self.arm_connection(socket, now.plus_millis(self.settings.connect_timeout));
        }
        self.take_decoded(socket, stage, exchange, outcome);
    }

    /// Ends a connection for a failure of TLS.
    fn end_insecure(&mut self, socket: SocketId, failure: TlsFailure) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        let (stage, peer, listener) = (connection.stage, connection.peer, connection.listener);
        if self.layered.is_shaking(socket) {
            self.count_failure(failure.kind);
        } else {
            self.counters.tls_faults += 1;
        }
        if matches!(stage, Stage::Entry) {
            self.log_refused(peer, listener, &failure.what);
        }
        self.disconnect(
            socket,
            Cause::Transport(match failure.kind {
                TlsFailureKind::ClientAlert => "the client sent a TLS alert",
                _ => "the client broke a rule of TLS",
            }),
        );
    }

    /// Checks the client address that a proxy has reported. True when this client may not connect;
    /// the connection is ended then.
    fn refuses_forwarded(&mut self, socket: SocketId, peer: Peer) -> bool {
        let Some(connection) = self.connections.get_mut(socket.0) else { return true };
        let before = std::mem::replace(&mut connection.peer, peer);
        let counted = connection.source();
        connection.set_source(SourceMark::default());
        self.leave_source(before, counted);
        let outcome = self.take_source(peer);
        let Some(connection) = self.connections.get_mut(socket.0) else { return true };
        let denial = match outcome {
            Ok(source) => {
                connection.set_source(source);
                return false;
            }
            Err(denial) => denial,
        };
        let listener = connection.listener;
        self.count_denial(listener, denial);
        self.log_refused(peer, listener, denial.answer().1);
        self.disconnect(socket, Cause::Rejected);
        true
    }
}
