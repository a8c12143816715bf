//! WebSocket frames (RFC 6455, section 5) from a client and to it. Owns the state between two
//! pieces of a connection's bytes: one byte between frames, the mask and the bytes left within one.
//!
//! A frame's payload is handed on as it arrives: neither frames nor messages are assembled here, so
//! a large one needs no memory. MQTT packets may begin and end anywhere in frames, and several may
//! share one [MQTT-6.0.0-2]. Anything but binary frames with MQTT ends the connection
//! [MQTT-6.0.0-1].

use super::{Ending, Exchange, Fault, Layer, ReadEnd};
use crate::limits::{LARGEST_FRAME, LATE_PONGS, cost};
use crate::mutant::Mutant;
use crate::upgrade::code::{BodyReader, ByteString, Code};
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Bytes of the longest frame header of a client: two, an eight-byte length, a four-byte mask.
const LONGEST_HEADER: usize = 14;
/// Bytes of the longest payload of a control frame (section 5.5).
const LONGEST_CONTROL: usize = 125;
/// First bytes of the frames that the broker sends: the FIN bit and the opcode.
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8A;

// Close codes, section 7.4.1.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_DATA: u16 = 1007;
const POLICY: u16 = 1008;
const TOO_BIG: u16 = 1009;
/// Stands for no code: a Close without a code is answered by a Close without a code.
const NO_CODE: u16 = 0;

/// The position of a connection in the frames of its client.
#[derive(Debug)]
pub(super) enum Frames {
    /// Between two frames.
    Between(Continuation),
    /// In the payload of a frame: `left` bytes of the frame are to come, and `mask` is rotated so
    /// that it begins with the mask of the next byte.
    Within { message: Continuation, left: u32, mask: [u8; 4] },
    /// A part of a header or of a control frame has arrived.
    Cut(Continuation, Box<Cut>),
    /// Nothing more is read, and a Close with this code is to be sent.
    Ending(u16),
    /// Nothing more is read, and nothing is to be sent.
    Over,
}

/// Whether a message goes on in the next data frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Continuation {
    /// The message ends with its frame, or there is none.
    Whole,
    /// The message goes on in a continuation frame.
    Open,
}

/// The part of a header or control frame that has arrived.
#[derive(Debug)]
pub(super) struct Cut {
    length: u8,
    bytes: [u8; LONGEST_HEADER + LONGEST_CONTROL],
}

impl Cut {
    fn of(bytes: &[u8]) -> Box<Cut> {
        let mut cut = Cut { length: 0, bytes: [0; LONGEST_HEADER + LONGEST_CONTROL] };
        cut.fill(bytes, bytes.len());
        Box::new(cut)
    }

    fn have(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Takes bytes until `most` are held; returns the bytes that were not taken.
    fn fill<'a>(&mut self, bytes: &'a [u8], most: usize) -> &'a [u8] {
        let from = usize::from(self.length);
        let count = most.min(self.bytes.len()).saturating_sub(from).min(bytes.len());
        self.bytes[from..from + count].copy_from_slice(&bytes[..count]);
        self.length += count as u8;
        &bytes[count..]
    }
}

impl Default for Frames {
    fn default() -> Frames {
        Frames::Between(Continuation::Whole)
    }
}

/// How [`Frames`] are written for another process. Frames that are at their end are not written.
impl Frames {
    pub(super) fn moved(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Frames::Between(message) => (0u8, *message == Continuation::Open).put(out),
            Frames::Within { message, left, mask } => {
                (1u8, *message == Continuation::Open).put(out);
                (*left, u32::from_le_bytes(*mask)).put(out);
            }
            Frames::Cut(message, cut) => {
                (2u8, *message == Continuation::Open).put(out);
                ByteString(cut.have().to_vec()).put(out);
            }
            Frames::Ending(_) | Frames::Over => return None,
        }
        Some(())
    }

    pub(super) fn of_moved(from: &mut BodyReader<'_>) -> Option<Frames> {
        let (kind, open) = <(u8, bool)>::get(from)?;
        let message = if open { Continuation::Open } else { Continuation::Whole };
        Some(match kind {
            0 => Frames::Between(message),
            1 => {
                let (left, mask) = <(u32, u32)>::get(from)?;
                Frames::Within { message, left, mask: mask.to_le_bytes() }
            }
            2 => {
                let bytes = ByteString::get(from)?.0;
                (bytes.len() <= LONGEST_HEADER + LONGEST_CONTROL).then_some(())?;
                Frames::Cut(message, Cut::of(&bytes))
            }
            _ => return None,
        })
    }
}

/// The header of a frame for the client; empty for no frame. Servers do not mask (section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WebSocketHeader {
    length: u8,
    bytes: [u8; 10],
}

impl WebSocketHeader {
    /// The header of a binary message in one frame.
    pub(super) fn binary(payload: usize) -> WebSocketHeader {
        WebSocketHeader::new(BINARY, payload)
    }

    fn new(first: u8, payload: usize) -> WebSocketHeader {
        let mut bytes = [0; 10];
        bytes[0] = first;
        let length = match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(short), _) if payload <= LONGEST_CONTROL => {
                bytes[1] = short;
                2
            }
            (_, Ok(middle)) => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&middle.to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        WebSocketHeader { length, bytes }
    }

    /// The bytes of the header as they go to the socket.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What a frame's header means for what follows it.
enum Begun {
    /// `length` bytes of MQTT follow.
    Data { fin: bool, length: u32, mask: [u8; 4] },
    /// A control frame with a payload of `length` bytes follows.
    Control { kind: Control, length: usize, mask: [u8; 4] },
}

fn fault(what: &'static str) -> Fault {
    Fault { layer: Layer::WebSocket, what }
}

impl Frames {
    /// See [`super::Layers::open`].
    pub(super) fn open(&mut self, bytes: &[u8], exchange: &mut Exchange) -> Result<(), ReadEnd> {
        exchange.work += cost::bytes(bytes.len());
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match self {
                Frames::Within { message, left, mask } => {
                    let (piece, after) = rest.split_at(rest.len().min(*left as usize));
                    unmask(&mut exchange.plain, piece, mask);
                    *left -= piece.len() as u32;
                    if *left == 0 {
                        *self = Frames::Between(*message);
                    }
                    after
                }
                Frames::Between(message) => {
                    let message = *message;
                    self.next_frame(message, rest, exchange)?
                }
                Frames::Cut(message, cut) => {
                    let message = *message;
                    // The header is completed byte by byte, because only the whole header gives the
                    // length of what follows.
                    let most = match parse(cut.have()) {
                        Ok(Some((header, Begun::Control { length, .. }))) => header + length,
                        _ => cut.have().len() + 1,
                    };
                    let after = cut.fill(rest, most);
                    if is_whole(cut.have()) {
                        let held = std::mem::replace(cut, Cut::of(&[]));
                        let unused = self.next_frame(message, held.have(), exchange)?;
                        debug_assert!(unused.is_empty());
                    }
                    after
                }
                Frames::Ending(_) | Frames::Over => &[],
            };
        }
        Ok(())
    }

    /// Begins with the frame at the start of `bytes`; returns the bytes behind those that were
    /// taken.
    fn next_frame<'a>(
        &mut self,
        message: Continuation,
        bytes: &'a [u8],
        exchange: &mut Exchange,
    ) -> Result<&'a [u8], ReadEnd> {
        let (header, begun) = match parse(bytes) {
            Ok(Some(found)) => found,
            Ok(None) => {
                *self = Frames::Cut(message, Cut::of(bytes));
                return Ok(&[]);
            }
            Err((code, what)) => return self.refuse(code, what),
        };
        match begun {
            Begun::Data { fin, length, mask } => {
                let (first, continued) = (bytes[0] & 0x0F, message == Continuation::Open);
                if continued != (first == 0) {
                    let what = match continued {
                        true => "a new message begins within another one",
                        false => "a continuation of no message",
                    };
                    return self.refuse(PROTOCOL_ERROR, what);
                }
                exchange.work += cost::VISIT;
                let message = if fin { Continuation::Whole } else { Continuation::Open };
                *self = match length {
                    0 => Frames::Between(message),
                    left => Frames::Within { message, left, mask },
                };
                Ok(&bytes[header..])
            }
            Begun::Control { kind, length, mask } => {
                let Some(payload) = bytes.get(header..header + length) else {
                    *self = Frames::Cut(message, Cut::of(bytes));
                    return Ok(&[]);
                };
                *self = Frames::Between(message);
                exchange.work += cost::PACKET;
                let mut text = Vec::with_capacity(length);
                unmask(&mut text, payload, &mut { mask });
                self.control(kind, &text, exchange)?;
                Ok(&bytes[header + length..])
            }
        }
    }

    fn control(
        &mut self,
        kind: Control,
        text: &[u8],
        exchange: &mut Exchange,
    ) -> Result<(), ReadEnd> {
        match kind {
            // Only the latest of several pings has to be answered (section 5.5.2), so a client that
            // does not read its pongs gets no more of them. Otherwise pongs would pile up in
            // memory.
            Control::Ping if exchange.waiting + exchange.wire.len() < LATE_PONGS => {
                exchange.wire.extend_from_slice(WebSocketHeader::new(PONG, text.len()).as_bytes());
                exchange.wire.extend_from_slice(text);
                Ok(())
            }
            Control::Close => {
                let (code, reason) = match text {
                    [] => (NO_CODE, &[][..]),
                    [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
                    [_] => return self.refuse(PROTOCOL_ERROR, "a Close of one byte"),
                };
                if code != NO_CODE && !is_close_code(code) || text.len() >= 2 && code == NO_CODE {
                    return self.refuse(PROTOCOL_ERROR, "a Close with no code of its own");
                }
                if std::str::from_utf8(reason).is_err() {
                    return self.refuse(INVALID_DATA, "the reason of a Close is no text");
                }
                *self = Frames::Ending(code);
                Err(ReadEnd::Ended)
            }
            Control::Ping | Control::Pong | Control::Reserved(_) => Ok(()),
        }
    }

    fn refuse<T>(&mut self, code: u16, what: &'static str) -> Result<T, ReadEnd> {
        *self = Frames::Ending(code);
        Err(ReadEnd::Fault(fault(what)))
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if !matches!(self, Frames::Ending(_) | Frames::Over) {
            *self = Frames::Ending(match ending {
                Ending::Normal => NORMAL,
                Ending::GoingAway => GOING_AWAY,
                Ending::ProtocolError => PROTOCOL_ERROR,
                Ending::Policy => POLICY,
            });
        }
    }

    pub(super) fn cut(&mut self) {
        *self = Frames::Over;
    }

    pub(super) fn owes_farewell(&self) -> bool {
        matches!(self, Frames::Ending(_))
    }

    pub(super) fn farewell(&mut self, wire: &mut Vec<u8>) {
        let Frames::Ending(code) = *self else { return };
        *self = Frames::Over;
        if code == NO_CODE {
            wire.extend_from_slice(WebSocketHeader::new(CLOSE, 0).as_bytes());
        } else {
            wire.extend_from_slice(WebSocketHeader::new(CLOSE, 2).as_bytes());
            wire.extend_from_slice(&code.to_be_bytes());
        }
    }

    pub(super) fn heap(&self) -> usize {
        match self {
            Frames::Cut(..) => size_of::<Cut>(),
            _ => 0,
        }
    }
}

/// The header at the start of `bytes`: its length in bytes and its meaning; `None` while it is
/// incomplete.
///
/// # Errors
/// A close code and what is wrong, when a client must not send such a frame here.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Begun)>, (u16, &'static str)> {
    let mut cursor = Cursor::new(bytes);
    let (header, length) = match FrameHeader::parse(&mut cursor) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(_) => return Err((PROTOCOL_ERROR, "an operation that RFC 6455 does not have")),
    };
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err((PROTOCOL_ERROR, "an extension that was not agreed on"));
    }
    let Some(mask) = header.mask else {
        return Err((PROTOCOL_ERROR, "a frame without a mask"));
    };
    let begun = match header.opcode {
        OpCode::Control(_) if !header.is_final => {
            return Err((PROTOCOL_ERROR, "a control frame in parts"));
        }
        OpCode::Control(_) if length > LONGEST_CONTROL as u64 => {
            return Err((PROTOCOL_ERROR, "a control frame is too long"));
        }
        OpCode::Control(kind) => Begun::Control { kind, length: length as usize, mask },
        OpCode::Data(Data::Text) => return Err((UNSUPPORTED_DATA, "a text frame")),
        OpCode::Data(_) if length >> 63 != 0 => {
            return Err((PROTOCOL_ERROR, "a length of more than 63 bits"));
        }
        OpCode::Data(_) => match u32::try_from(length) {
            Ok(length) if length <= LARGEST_FRAME => {
                Begun::Data { fin: header.is_final, length, mask }
            }
            _ => return Err((TOO_BIG, "a frame is longer than any packet can be")),
        },
    };
    Ok(Some((cursor.position() as usize, begun)))
}

/// True when [`Frames::next_frame`] can proceed with `bytes`: they are a whole header, and for a
/// control frame also its whole payload, or a header that no client may send.
fn is_whole(bytes: &[u8]) -> bool {
    match parse(bytes) {
        Ok(None) => false,
        Ok(Some((header, Begun::Control { length, .. }))) => bytes.len() >= header + length,
        Ok(Some((_, Begun::Data { .. }))) | Err(_) => true,
    }
}

/// True for the codes that a client may send in its Close (section 7.4).
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends `piece` unmasked, and rotates `mask` so that it begins with the mask of the next byte.
fn unmask(out: &mut Vec<u8>, piece: &[u8], mask: &mut [u8; 4]) {
    let from = out.len();
    out.extend_from_slice(piece);
    let key = u32::from_ne_bytes(*mask);
    let mut words = out[from..].chunks_exact_mut(4);
    for word in &mut words {
        let plain = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]) ^ key;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter()) {
        *byte ^= key;
    }
    if !Mutant::MaskBeginsAnew.is_on() {
        mask.rotate_left(piece.len() % 4);
    }
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
