//! TLS among the layers of a connection: beneath WebSocket, above the PROXY header. Owns how TLS
//! and the layer above exchange bytes; TLS itself is in [`super::tls`].

use super::tls::{Advanced, Handshake, KeyCache, Opened, RecordLayer, Sealed, Server, Tls};
use super::websocket::Frames;
use super::{Exchange, LayerContext, LayerState, Layers, ReadEnd};
use crate::limits::cost;
use crate::mutant::Mutant;
use std::sync::Arc;

/// TLS of a connection whose CONNECT has not been accepted.
pub(super) enum Securing {
    /// The handshake is under way.
    Handshake(Box<Handshake>),
    /// The handshake is over.
    Done(Tls),
}

/// TLS with WebSocket above it.
pub(super) struct SecureWeb {
    pub tls: Tls,
    pub frames: Frames,
}

/// The outcome of one step of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeStep {
    /// More bytes have to arrive.
    Waits,
    /// Another step can be made with the bytes that are here.
    Again,
    /// The handshake is over.
    Done {
        /// True for TLS 1.3, false for TLS 1.2.
        tls13: bool,
        /// True when an earlier TLS session was resumed.
        resumed: bool,
    },
}

impl Securing {
    pub(super) fn heap(&self) -> usize {
        match self {
            Securing::Handshake(handshake) => size_of::<Handshake>() + handshake.held(),
            Securing::Done(tls) => tls.peek().heap(),
        }
    }

    pub(super) fn layer(&mut self) -> Option<&mut dyn RecordLayer> {
        match self {
            Securing::Handshake(_) => None,
            Securing::Done(tls) => Some(tls.layer()),
        }
    }
}

/// The layer above, which takes the content of records.
type Above<'a> = &'a mut dyn FnMut(&[u8], &mut Exchange) -> Result<(), ReadEnd>;

/// Opens the records in `bytes`, hands their content to the layer above, and seals the answer of
/// that layer.
pub(super) fn open(
    records: &mut dyn RecordLayer,
    keys: &mut KeyCache,
    bytes: &[u8],
    exchange: &mut Exchange,
    above: Option<Above<'_>>,
) -> Result<(), ReadEnd> {
    let Some(above) = above else {
        let opened = records.open(keys, bytes, &mut exchange.plain, &mut exchange.wire);
        return verdict(opened);
    };
    let mut content = std::mem::take(&mut exchange.content);
    let opened = records.open(keys, bytes, &mut content, &mut exchange.wire);
    let start = exchange.wire.len();
    let outcome = if content.is_empty() { Ok(()) } else { above(&content, exchange) };
    if exchange.wire.len() > start {
        let said = exchange.wire.split_off(start);
        // When the key cannot seal any more, the connection is at its end and needs no answer.
        let _ = records.seal(keys, &said, &mut exchange.wire);
    }
    content.clear();
    exchange.content = content;
    outcome.and(verdict(opened))
}

fn verdict(opened: Opened) -> Result<(), ReadEnd> {
    match opened {
        Opened::All => Ok(()),
        Opened::Closed => Err(ReadEnd::Ended),
        Opened::Failed(failure) => Err(ReadEnd::Insecure(failure)),
    }
}

impl Layers {
    fn handshake(&self) -> Option<&Handshake> {
        match &self.0 {
            LayerState::Opening(opening) => match &opening.tls {
                Some(Securing::Handshake(handshake)) => Some(handshake),
                _ => None,
            },
            _ => None,
        }
    }

    /// True while the connection is in its handshake.
    pub fn is_shaking(&self) -> bool {
        self.handshake().is_some()
    }

    /// True when a step of the handshake can be made: [`Layers::shake`].
    pub fn can_shake(&self) -> bool {
        self.handshake().is_some_and(Handshake::is_ready)
    }

    /// True when a handshake is awaited and no byte of it has arrived.
    pub fn is_untouched(&self) -> bool {
        self.handshake().is_some_and(Handshake::is_untouched)
    }

    /// True while a handshake is awaited and rustls has been given no record of it.
    pub fn is_new(&self) -> bool {
        self.handshake().is_some_and(Handshake::is_waiting)
    }

    /// Makes one step of the handshake, which takes up to about 200 µs. Bytes behind the handshake
    /// are opened in the same call.
    ///
    /// # Errors
    /// [`ReadEnd`], when nothing more is to be read. The alert of a failed handshake is in
    /// `exchange.wire`.
    pub fn shake(
        &mut self,
        server: &Arc<Server>,
        context: &LayerContext<'_>,
        keys: &mut KeyCache,
        exchange: &mut Exchange,
    ) -> Result<HandshakeStep, ReadEnd> {
        let LayerState::Opening(opening) = &mut self.0 else { return Ok(HandshakeStep::Waits) };
        let Some(Securing::Handshake(handshake)) = &mut opening.tls else {
            return Ok(HandshakeStep::Waits);
        };
        let dear = handshake.is_dear();
        exchange.work += if dear { cost::HANDSHAKE } else { cost::PACKET };
        match handshake.advance(server, keys, &mut exchange.wire) {
            Ok(Advanced::Wait) => Ok(HandshakeStep::Waits),
            Ok(Advanced::Again) => Ok(HandshakeStep::Again),
            Ok(Advanced::Done(established)) => {
                opening.tls = Some(Securing::Done(established.tls));
                opening.identity = established.identity;
                opening.secured(context.stack);
                let done =
                    HandshakeStep::Done { tls13: established.tls13, resumed: established.resumed };
                exchange.shaken = Some(done);
                if !Mutant::TlsRestLost.is_on() {
                    self.open(context, keys, &established.rest, exchange)?;
                }
                Ok(done)
            }
            Err(failure) => Err(ReadEnd::Insecure(failure)),
        }
    }

    /// The record layer, once the handshake is over.
    pub fn records(&mut self) -> Option<&mut dyn RecordLayer> {
        match &mut self.0 {
            LayerState::Opening(opening) => opening.tls.as_mut()?.layer(),
            LayerState::WebSocket(_) => None,
            LayerState::Short(records) => Some(&mut **records),
            LayerState::Long(records) => Some(&mut **records),
            LayerState::SecureWeb(both) => Some(both.tls.layer()),
        }
    }

    /// The record layer, once the handshake is over, without write access.
    pub fn peek(&self) -> Option<&dyn RecordLayer> {
        match &self.0 {
            LayerState::Opening(opening) => match opening.tls.as_ref()? {
                Securing::Handshake(_) => None,
                Securing::Done(tls) => Some(tls.peek()),
            },
            LayerState::WebSocket(_) => None,
            LayerState::Short(records) => Some(&**records),
            LayerState::Long(records) => Some(&**records),
            LayerState::SecureWeb(both) => Some(both.tls.peek()),
        }
    }

    /// Appends `piece` to `wire`, sealed. False when it cannot be sealed; the connection then has
    /// to end.
    pub fn seal(&mut self, keys: &mut KeyCache, piece: &[u8], wire: &mut Vec<u8>) -> bool {
        match self.records() {
            Some(records) => records.seal(keys, piece, wire) == Sealed::All,
            None => false,
        }
    }

    /// True when output has to be sealed, or must not be sent yet because the handshake is not
    /// over.
    pub fn is_sealed(&self) -> bool {
        match &self.0 {
            LayerState::Opening(opening) => opening.tls.is_some(),
            LayerState::WebSocket(_) => false,
            LayerState::Short(_) | LayerState::Long(_) | LayerState::SecureWeb(_) => true,
        }
    }
}
