//! The layers that carry MQTT on a connection: PROXY protocol, then TLS, then WebSocket, then MQTT,
//! in any combination. Each layer turns bytes into bytes. The code here is pure: it uses no socket,
//! no clock and no lock.
//!
//! A listener has a [`Stack`], which names the layers of its connections. A connection with at
//! least one layer has one [`Layers`] value. The shard keeps that value beside the connection, and
//! the value moves with the socket to the home shard. A plain connection has none.
//!
//! Received bytes go through [`Layers::open`], which appends the MQTT bytes in them to
//! [`Exchange::plain`], and the answers of the layers themselves to [`Exchange::wire`]. The
//! bytes in `wire` are ready for the socket and are sent before anything that is sealed later.
//! Output is queued as MQTT and is framed and sealed only when a send is made ([`Layers::frame`],
//! [`Layers::seal`]), so no frame is made for a client that does not read. The last bytes of a
//! connection are [`Layers::farewell`].
//!
//! Until CONNECT is accepted, a connection has a box with everything that only its beginning needs;
//! [`Layers::settle`] then keeps the few bytes that an open connection needs.

pub mod forwarded;
mod moved;
pub mod network;
pub mod proxy;
pub mod secure;
pub mod tls;
mod upgrade;
mod websocket;

use crate::ids::Peer;
use crate::limits::UPGRADE_HEAD;
use crate::mutant::Mutant;
use network::Networks;
use secure::{HandshakeStep, SecureWeb, Securing};
use std::borrow::Cow;
pub use upgrade::Web;
use websocket::Frames;
pub use websocket::WebSocketHeader;

/// The layers that every connection of a listener has.
#[derive(Debug, Default)]
pub struct Stack {
    /// A PROXY header comes first.
    pub proxy: Option<proxy::Versions>,
    /// The common name of the client's certificate, taken from the PROXY header, is its user name.
    pub proxy_username: bool,
    /// MQTT, or WebSocket, is carried in TLS.
    pub tls: bool,
    /// MQTT is carried in WebSocket frames.
    pub web: Option<Web>,
}

impl Stack {
    /// The stack of connections without any layer.
    pub const PLAIN: Stack = Stack { proxy: None, proxy_username: false, tls: false, web: None };

    /// The layers of a new connection; `None` when it has none.
    pub fn begin(&self) -> Option<Layers> {
        let awaits = match (self.proxy, self.behind_proxy()) {
            (None, NextHeader::Nothing) => return None,
            (None, awaits) => awaits,
            (Some(_), _) => NextHeader::Proxy,
        };
        let mut opening = Opening {
            awaits,
            head: Vec::new(),
            tls: None,
            frames: None,
            identity: None,
            common_name: None,
        };
        opening.begin_tls();
        Some(Layers(LayerState::Opening(Box::new(opening))))
    }

    /// What follows the PROXY header, or comes first when the stack has none.
    fn behind_proxy(&self) -> NextHeader {
        if self.tls { NextHeader::Handshake } else { self.behind_tls() }
    }

    /// What comes after the handshake.
    fn behind_tls(&self) -> NextHeader {
        if self.web.is_some() { NextHeader::Upgrade } else { NextHeader::Nothing }
    }
}

/// What the layers of one connection need to know besides its bytes.
pub struct LayerContext<'a> {
    /// The stack of the listener.
    pub stack: &'a Stack,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted: &'a Networks,
    /// The address of the client, as far as it is known.
    pub peer: Peer,
}

/// What [`Layers::open`] makes of received bytes.
#[derive(Default)]
pub struct Exchange {
    /// MQTT bytes, appended.
    pub plain: Vec<u8>,
    /// Bytes for the peer that are sealed already or need no seal, appended.
    pub wire: Vec<u8>,
    /// Room for the content of TLS records on its way to the layer above; empty between two calls.
    pub content: Vec<u8>,
    /// How the TLS handshake ended, once it has ended.
    pub shaken: Option<HandshakeStep>,
    /// Bytes of earlier `wire` output that still wait because the peer does not read.
    pub waiting: usize,
    /// The address of the client, when a proxy has named it.
    pub peer: Option<Peer>,
    /// The work that was done, in units of [`crate::limits::cost`].
    pub work: u32,
}

/// Why nothing more is to be read from a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadEnd {
    /// The peer has ended the connection as the layer provides: a WebSocket Close or a
    /// close_notify.
    Ended,
    /// The peer broke a rule of a layer.
    Fault(Fault),
    /// TLS failed, for this reason.
    Insecure(tls::TlsFailure),
}

/// A rule that the peer broke, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The layer whose rule it is.
    pub layer: Layer,
    /// What was wrong.
    pub what: &'static str,
}

/// A layer's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// The PROXY header.
    Proxy,
    /// The HTTP request that a WebSocket begins with.
    Upgrade,
    /// WebSocket frames.
    WebSocket,
}

/// Why the broker does not wait for the rest of a connection's beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnedAway {
    /// The broker is short of memory.
    Memory,
    /// Too many other beginnings are unfinished as well.
    Busy,
    /// The time for it is over.
    Late,
}

/// How the broker ends a connection, for the layers whose last bytes depend on that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The connection ends regularly.
    Normal,
    /// The broker stops.
    GoingAway,
    /// The client broke a rule of MQTT.
    ProtocolError,
    /// The broker does not permit the connection.
    Policy,
}

/// The layers of one connection, between any two pieces of its bytes.
pub struct Layers(LayerState);

// A million WebSocket clients have a million of these.
const _: () = assert!(size_of::<Option<Layers>>() <= 16);

enum LayerState {
    /// CONNECT is not accepted yet.
    Opening(Box<Opening>),
    /// Only WebSocket frames.
    WebSocket(Frames),
    /// Only TLS. The variants of [`tls::Tls`] are repeated here so that the value has two words.
    Short(Box<tls::Records<32>>),
    /// Only TLS, with longer secrets.
    Long(Box<tls::Records<48>>),
    /// WebSocket over TLS.
    SecureWeb(Box<SecureWeb>),
}

/// The beginning of a connection.
struct Opening {
    awaits: NextHeader,
    /// The part of the awaited header that has arrived.
    head: Vec<u8>,
    tls: Option<Securing>,
    /// The frames, once the upgrade was granted.
    frames: Option<Frames>,
    /// The names in the client's certificate.
    identity: Option<Box<tls::PeerCertificate>>,
    /// The common name in a certificate that a trusted proxy has verified.
    common_name: Option<Box<str>>,
}

/// The next header of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextHeader {
    /// A PROXY header.
    Proxy,
    /// Records of a TLS handshake.
    Handshake,
    /// An HTTP request.
    Upgrade,
    /// None: every layer is past its beginning.
    Nothing,
    /// None, because the connection is at its end.
    End,
}

impl Layers {
    /// Takes bytes that were received. The content of `exchange` counts even when an error is
    /// returned. Bytes after an end are ignored.
    /// # Errors
    /// [`ReadEnd`], when nothing more is to be read from the connection.
    pub fn open(
        &mut self,
        context: &LayerContext<'_>,
        keys: &mut tls::KeyCache,
        bytes: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), ReadEnd> {
        match &mut self.0 {
            LayerState::Opening(opening) => opening.open(context, keys, bytes, exchange),
            LayerState::WebSocket(frames) => frames.open(bytes, exchange),
            LayerState::Short(records) => secure::open(&mut **records, keys, bytes, exchange, None),
            LayerState::Long(records) => secure::open(&mut **records, keys, bytes, exchange, None),
            LayerState::SecureWeb(both) => {
                let SecureWeb { tls, frames } = &mut **both;
                let mut above =
                    |content: &[u8], exchange: &mut Exchange| frames.open(content, exchange);
                secure::open(tls.layer(), keys, bytes, exchange, Some(&mut above))
            }
        }
    }

    /// The header that goes in front of the next `length` bytes of MQTT. `length` is not 0.
    pub fn frame(&mut self, length: usize) -> WebSocketHeader {
        match &mut self.0 {
            LayerState::Opening(opening) if opening.frames.is_none() => WebSocketHeader::default(),
            LayerState::Short(_) | LayerState::Long(_) => WebSocketHeader::default(),
            LayerState::Opening(_) | LayerState::WebSocket(_) | LayerState::SecureWeb(_) => {
                WebSocketHeader::binary(length)
            }
        }
    }

    /// Notes that the broker ends the connection. [`Layers::farewell`] then has a Close to send,
    /// unless an end was decided before.
    pub fn end(&mut self, ending: Ending) {
        if let Some(frames) = self.frames() {
            frames.end(ending);
        }
    }

    /// Notes that the peer can receive nothing more, or does not want to: there is no farewell.
    pub fn cut(&mut self) {
        if let Some(frames) = self.frames() {
            frames.cut();
        }
        if let Some(records) = self.records() {
            records.cut();
        }
    }

    /// True when the connection's last bytes are still to be sent: [`Layers::farewell`].
    pub fn owes_farewell(&mut self) -> bool {
        self.frames().is_some_and(|frames| frames.owes_farewell())
            || self.peek().is_some_and(|records| records.owes_close())
    }

    /// Appends the last bytes of the connection to `wire`, once.
    pub fn farewell(&mut self, keys: &mut tls::KeyCache, wire: &mut Vec<u8>) {
        let start = wire.len();
        if let Some(frames) = self.frames() {
            frames.farewell(wire);
        }
        if let Some(records) = self.records() {
            let said = wire.split_off(start);
            let _ = records.seal(keys, &said, wire);
            records.close(keys, wire);
        }
    }

    /// Drops what only a beginning needs, once CONNECT was accepted. `None` when nothing is left:
    /// the connection is a plain one from now on.
    pub fn settle(self) -> Option<Layers> {
        let LayerState::Opening(opening) = self.0 else { return Some(self) };
        let tls = match opening.tls {
            Some(Securing::Done(tls)) => tls,
            _ => return opening.frames.map(|frames| Layers(LayerState::WebSocket(frames))),
        };
        Some(Layers(match (tls, opening.frames) {
            (tls, Some(frames)) => LayerState::SecureWeb(Box::new(SecureWeb { tls, frames })),
            (tls::Tls::Short(records), None) => LayerState::Short(records),
            (tls::Tls::Long(records), None) => LayerState::Long(records),
        }))
    }

    /// The names in the certificate that the client has shown; known until [`Layers::settle`].
    pub fn identity(&self) -> Option<&tls::PeerCertificate> {
        match &self.0 {
            LayerState::Opening(opening) => opening.identity.as_deref(),
            _ => None,
        }
    }

    /// The common name in a client's certificate that a trusted proxy has verified; known until
    /// [`Layers::settle`].
    pub fn common_name(&self) -> Option<&str> {
        match &self.0 {
            LayerState::Opening(opening) => opening.common_name.as_deref(),
            _ => None,
        }
    }

    /// Bytes of an unfinished header that are held.
    pub fn unfinished(&self) -> usize {
        match &self.0 {
            LayerState::Opening(opening) => match &opening.tls {
                Some(Securing::Handshake(handshake)) => handshake.held(),
                _ => opening.head.len(),
            },
            _ => 0,
        }
    }

    /// Bytes of a PROXY header or an HTTP request that is not complete yet.
    pub fn unfinished_header(&self) -> usize {
        match &self.0 {
            LayerState::Opening(opening) => opening.head.len(),
            _ => 0,
        }
    }

    /// What has to arrive before MQTT and has not, for the log; `None` when everything has.
    pub fn overdue(&self) -> Option<&'static str> {
        let LayerState::Opening(opening) = &self.0 else { return None };
        match opening.awaits {
            NextHeader::Proxy => Some("the PROXY header was not whole in time"),
            NextHeader::Handshake => Some("the TLS handshake was not over in time"),
            NextHeader::Upgrade => Some("the HTTP request was not whole in time"),
            NextHeader::Nothing | NextHeader::End => None,
        }
    }

    /// Gives up a beginning that is not complete. What is held of it is dropped. A client that has
    /// sent a part of its HTTP request gets an answer. A client that has sent nothing gets none: a
    /// browser may have opened the connection ahead of need, and would take the answer for one to
    /// its next request.
    pub fn turn_away(&mut self, why: TurnedAway, keys: &mut tls::KeyCache, wire: &mut Vec<u8>) {
        let LayerState::Opening(opening) = &mut self.0 else { return };
        let awaited = std::mem::replace(&mut opening.awaits, NextHeader::End);
        if awaited == NextHeader::Upgrade && !opening.head.is_empty() {
            let mut said = Vec::new();
            upgrade::turn_away(why, &mut said);
            match opening.tls.as_mut().and_then(Securing::layer) {
                // When the key cannot seal any more, the client gets no answer.
                Some(records) => _ = records.seal(keys, &said, wire),
                None => wire.append(&mut said),
            }
        }
        if let Some(Securing::Handshake(_)) = opening.tls {
            opening.tls = None;
        }
        opening.head = Vec::new();
    }

    /// True when every layer is past its beginning.
    pub fn is_through(&self) -> bool {
        match &self.0 {
            LayerState::Opening(opening) => opening.awaits == NextHeader::Nothing,
            _ => true,
        }
    }

    /// Bytes of memory besides those of the value itself.
    pub fn heap(&self) -> usize {
        match &self.0 {
            LayerState::Opening(opening) => {
                let frames = opening.frames.as_ref().map_or(0, Frames::heap);
                let tls = opening.tls.as_ref().map_or(0, Securing::heap);
                let name = opening.common_name.as_ref().map_or(0, |name| name.len());
                let identity = opening.identity.as_ref().map_or(0, |identity| identity.heap());
                size_of::<Opening>() + opening.head.capacity() + frames + tls + identity + name
            }
            LayerState::WebSocket(frames) => frames.heap(),
            LayerState::Short(records) => tls::RecordLayer::heap(&**records),
            LayerState::Long(records) => tls::RecordLayer::heap(&**records),
            LayerState::SecureWeb(both) => {
                size_of::<SecureWeb>() + both.tls.peek().heap() + both.frames.heap()
            }
        }
    }

    fn frames(&mut self) -> Option<&mut Frames> {
        match &mut self.0 {
            LayerState::Opening(opening) => opening.frames.as_mut(),
            LayerState::WebSocket(frames) => Some(frames),
            LayerState::Short(_) | LayerState::Long(_) => None,
            LayerState::SecureWeb(both) => Some(&mut both.frames),
        }
    }
}

impl Opening {
    /// Begins TLS if a handshake comes next.
    fn begin_tls(&mut self) {
        if self.awaits == NextHeader::Handshake {
            self.tls = Some(Securing::Handshake(Box::default()));
        }
    }

    /// Notes that the handshake is over.
    fn secured(&mut self, stack: &Stack) {
        self.awaits = stack.behind_tls();
    }

    fn open(
        &mut self,
        context: &LayerContext<'_>,
        keys: &mut tls::KeyCache,
        bytes: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), ReadEnd> {
        match self.tls.take() {
            None => self.open_plain(context, bytes, exchange),
            Some(Securing::Handshake(mut handshake)) => {
                handshake.add(bytes);
                self.tls = Some(Securing::Handshake(handshake));
                Ok(())
            }
            Some(Securing::Done(mut tls)) => {
                let mut above = |content: &[u8], exchange: &mut Exchange| {
                    self.open_plain(context, content, exchange)
                };
                let done = secure::open(tls.layer(), keys, bytes, exchange, Some(&mut above));
                self.tls = Some(Securing::Done(tls));
                done
            }
        }
    }

    fn open_plain(
        &mut self,
        context: &LayerContext<'_>,
        bytes: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), ReadEnd> {
        let mut rest = Cow::Borrowed(bytes);
        if let (NextHeader::Proxy, Some(versions)) = (self.awaits, context.stack.proxy) {
            let head = join(std::mem::take(&mut self.head), rest);
            match proxy::take(&head, versions, exchange) {
                Ok(None) => {
                    self.head = head.into_owned();
                    return Ok(());
                }
                Ok(Some((used, name))) => {
                    self.awaits = context.stack.behind_proxy();
                    self.common_name = name;
                    rest = skip(head, used);
                }
                Err(fault) => {
                    self.awaits = NextHeader::End;
                    return Err(ReadEnd::Fault(fault));
                }
            }
            if rest.is_empty() || Mutant::ProxyRestLost.is_on() {
                self.begin_tls();
                return Ok(());
            }
        }
        if self.awaits == NextHeader::Handshake && self.tls.is_none() {
            self.begin_tls();
            if let Some(Securing::Handshake(handshake)) = &mut self.tls {
                handshake.add(&rest);
            }
            return Ok(());
        }
        if self.awaits == NextHeader::Upgrade {
            let Some(web) = &context.stack.web else { return Ok(()) };
            let known = self.head.len();
            let head = join(std::mem::take(&mut self.head), rest);
            let peer = exchange.peer.unwrap_or(context.peer);
            match upgrade::take(&head, known, web, context.trusted, peer, exchange) {
                Ok(None) => {
                    debug_assert!(head.len() <= UPGRADE_HEAD);
                    self.head = head.into_owned();
                    return Ok(());
                }
                Ok(Some(used)) => {
                    self.awaits = NextHeader::Nothing;
                    self.frames = Some(Frames::default());
                    rest = skip(head, used);
                }
                Err(fault) => {
                    self.awaits = NextHeader::End;
                    return Err(ReadEnd::Fault(fault));
                }
            }
        }
        match (&mut self.frames, self.awaits) {
            (_, NextHeader::End) => Ok(()),
            (Some(frames), _) => frames.open(&rest, exchange),
            (None, _) => {
                exchange.plain.extend_from_slice(&rest);
                Ok(())
            }
        }
    }
}

/// Bytes that were held, followed by bytes that have arrived.
fn join(held: Vec<u8>, bytes: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if held.is_empty() {
        return bytes;
    }
    let mut held = held;
    held.extend_from_slice(&bytes);
    Cow::Owned(held)
}

/// `bytes` without the first `used` of them.
fn skip(bytes: Cow<'_, [u8]>, used: usize) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(used..).unwrap_or_default()),
        Cow::Owned(mut bytes) => {
            bytes.drain(..used.min(bytes.len()));
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests;
