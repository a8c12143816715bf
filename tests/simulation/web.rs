//! The client's end of a WebSocket, between what a simulated client says and its connection: what
//! is read of it is framed in parts of any size, with pings among them; what it is sent is checked
//! to be what RFC 6455 wants of a server, and unframed. A codec of its own, not the broker's.

use crate::rng::Rng;
use std::collections::VecDeque;

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// One WebSocket.
pub struct Web {
    rng: Rng,
    /// Framed, and not read by the broker yet.
    pub up: VecDeque<u8>,
    /// Come, and not whole yet.
    down: Vec<u8>,
    /// As the broker reads it.
    seen: Vec<u8>,
    upgraded: bool,
    seen_upgrade: bool,
    /// Bytes of the payload of the frame that goes on that were given already.
    seen_ahead: usize,
    /// It says nothing before its request was answered, as it should.
    patient: bool,
    /// The message that it has begun goes on.
    open: bool,
    /// It says Close before it ends its side.
    polite: bool,
    said_close: bool,
    heard_close: bool,
    /// The broker has no memory for it, and says so.
    pub refused: bool,
    /// Its request was not whole in time, says the broker.
    pub late: bool,
    pings: u8,
    pongs: u8,
}

impl Web {
    pub fn new(seed: u64) -> Web {
        let mut rng = Rng::new(seed);
        Web {
            up: REQUEST.bytes().collect(),
            down: Vec::new(),
            seen: Vec::new(),
            upgraded: false,
            seen_upgrade: false,
            seen_ahead: 0,
            patient: rng.chance(700),
            open: false,
            polite: rng.chance(500),
            said_close: false,
            heard_close: false,
            refused: false,
            late: false,
            pings: 0,
            pongs: 0,
            rng,
        }
    }

    /// Whether it has something to say, of its own or with `plain` bytes that wait.
    pub fn has_more(&self, plain: usize, ended: bool) -> bool {
        let waits = self.patient && !self.upgraded;
        !self.up.is_empty() || !self.said_close && !waits && (plain > 0 || ended && self.polite)
    }

    /// Frames some of what waits.
    pub fn fill(&mut self, plain: &mut VecDeque<u8>, ended: bool) {
        if !self.up.is_empty() || !self.has_more(plain.len(), ended) {
            return;
        }
        if self.rng.chance(100) {
            self.pings = self.pings.wrapping_add(1);
            let (count, text) = (self.rng.below(126).max(1), self.pings);
            self.push(0x80 | PING, &vec![text; count]);
        }
        if plain.is_empty() {
            self.said_close = true;
            return self.push(0x80 | CLOSE, &1000u16.to_be_bytes());
        }
        let most = [1, 20, 130, 70_000][self.rng.below(4)];
        let count = self.rng.range(1, most).min(plain.len());
        let part: Vec<u8> = plain.drain(..count).collect();
        let kind = if self.open { 0 } else { BINARY };
        self.open = self.rng.chance(300);
        self.push(if self.open { kind } else { 0x80 | kind }, &part);
    }

    fn push(&mut self, first: u8, payload: &[u8]) {
        let mask = (self.rng.next() as u32).to_be_bytes();
        self.up.push_back(first);
        match payload.len() {
            short @ ..=125 => self.up.push_back(0x80 | short as u8),
            middle @ ..=65_535 => {
                self.up.push_back(0x80 | 126);
                self.up.extend((middle as u16).to_be_bytes());
            }
            long => {
                self.up.push_back(0x80 | 127);
                self.up.extend((long as u64).to_be_bytes());
            }
        }
        self.up.extend(mask);
        self.up.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    /// The MQTT in what the broker was given, frame by frame.
    pub fn see(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.seen.extend(bytes);
        let mut plain = Vec::new();
        if !self.seen_upgrade {
            if self.seen.len() < REQUEST.len() {
                return plain;
            }
            self.seen_upgrade = true;
            self.seen.drain(..REQUEST.len());
        }
        // What has come of a frame is MQTT already: a packet may end in the middle of it.
        while let Some((first, payload, end)) = begun(&self.seen) {
            if first & 0x0f <= BINARY {
                plain.extend(payload.iter().skip(self.seen_ahead));
            }
            self.seen_ahead = payload.len();
            if end > self.seen.len() {
                break;
            }
            self.seen.drain(..end);
            self.seen_ahead = 0;
        }
        plain
    }

    /// The MQTT in what has come.
    pub fn hear(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert!(!self.heard_close, "something comes behind a Close");
        if self.refused || self.late {
            return Vec::new();
        }
        self.down.extend(bytes);
        let mut plain = Vec::new();
        if !self.upgraded {
            let end = self.down.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return plain };
            let head = String::from_utf8(self.down.drain(..end + 4).collect()).unwrap();
            if head.starts_with("HTTP/1.1 503 ") {
                self.refused = true;
                return plain;
            }
            if head.starts_with("HTTP/1.1 408 ") {
                self.late = true;
                return plain;
            }
            assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
            self.upgraded = true;
        }
        while let Some((first, payload)) = frame(&mut self.down) {
            match first {
                0x82 => plain.extend(payload),
                0x8A => {
                    // In order; those that were not answered are behind.
                    let text = payload[0];
                    assert!(payload.iter().all(|&byte| byte == text), "a pong of its ping");
                    let ahead = text.wrapping_sub(self.pongs);
                    assert!((1..128).contains(&ahead), "{text} after {}", self.pongs);
                    self.pongs = text;
                }
                0x88 => {
                    assert!(payload.is_empty() || payload.len() == 2, "{payload:?}");
                    assert!(self.down.is_empty(), "something comes behind a Close");
                    self.heard_close = true;
                }
                other => panic!("no frame of a server: {other:#x}"),
            }
        }
        plain
    }
}

/// The first frame, once its head is whole: its first byte, its payload without mask as far as it
/// has come, and where it ends.
fn begun(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (mut at, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap()))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize),
        short => (2, usize::from(short)),
    };
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        mask = bytes.get(at..at + 4)?.try_into().unwrap();
        at += 4;
    }
    let payload = bytes.get(at..)?.iter().take(length);
    let payload = payload.zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((first, payload, at + length))
}

/// Takes the first frame out, once it is whole: its first byte, and its payload without mask.
fn frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (first, payload, end) = begun(bytes)?;
    if end > bytes.len() {
        return None;
    }
    bytes.drain(..end);
    Some((first, payload))
}
