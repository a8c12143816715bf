//! The client's end of WebSockets below MQTT (RFC 6455): the upgrade request, then binary frames,
//! one for each send. Between two frames, a connection's only state is that it is upgraded.

use crate::clock;
use crate::mqtt::Malformed;

const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

/// The WebSocket of one connection.
#[derive(Default)]
#[allow(clippy::box_collection, reason = "what a million clients have: a Vec takes 24 bytes")]
pub enum Web {
    /// The connection has no WebSocket.
    #[default]
    Absent,
    /// The upgrade request is still to be sent.
    Silent,
    /// The request is sent; holds the part of the response that has come.
    Asking(Box<Vec<u8>>),
    /// The WebSocket is open, and no part of a frame is held.
    Open,
    /// The WebSocket is open; holds the part of a frame that has come.
    Within(Box<Vec<u8>>),
}

const _: () = assert!(size_of::<Web>() <= 16);

/// What [`Web::seal`] did with the client's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framed {
    /// They are in the output.
    All,
    /// They have to wait until the server has answered the upgrade request.
    Waits,
}

/// The upgrade request for a WebSocket at `path` of `host`.
fn request(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

impl Web {
    /// Whether the connection has a WebSocket.
    pub fn is_present(&self) -> bool {
        !matches!(self, Web::Absent)
    }

    /// Appends `plain` in one frame to `out`; appends the upgrade request for `path` instead while
    /// that is still to be sent.
    pub fn seal(&mut self, path: &str, plain: &[u8], out: &mut Vec<u8>) -> Framed {
        match self {
            Web::Silent => {
                out.extend_from_slice(request("localhost", path).as_bytes());
                *self = Web::Asking(Box::default());
                Framed::Waits
            }
            Web::Asking(_) => Framed::Waits,
            Web::Absent | Web::Open | Web::Within(_) => {
                if !plain.is_empty() {
                    frame(BINARY, plain, out);
                }
                Framed::All
            }
        }
    }

    /// Appends the contents of the binary frames of `bytes` to `plain`, and pongs for its pings to
    /// `answers`. Returns true when `bytes` completed the response that grants the WebSocket.
    pub fn open(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        answers: &mut Vec<u8>,
    ) -> Result<bool, Malformed> {
        let mut granted = false;
        let mut joined = match std::mem::replace(self, Web::Open) {
            Web::Absent | Web::Silent => return Err(Malformed),
            Web::Asking(mut head) => {
                head.extend_from_slice(bytes);
                let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                    *self = Web::Asking(head);
                    return Ok(false);
                };
                if !head.starts_with(b"HTTP/1.1 101 ") {
                    return Err(Malformed);
                }
                granted = true;
                head.split_off(end + 4)
            }
            Web::Open => Vec::new(),
            Web::Within(part) => *part,
        };
        let bytes = if joined.is_empty() && !granted {
            bytes
        } else {
            if !granted {
                joined.extend_from_slice(bytes);
            }
            &joined
        };
        let rest = take_frames(bytes, plain, answers)?;
        if !rest.is_empty() {
            *self = Web::Within(Box::new(rest.to_vec()));
        }
        Ok(granted)
    }
}

/// Takes whole frames off the front of `bytes`; returns the rest.
fn take_frames<'a>(
    mut bytes: &'a [u8],
    plain: &mut Vec<u8>,
    answers: &mut Vec<u8>,
) -> Result<&'a [u8], Malformed> {
    loop {
        let (length, head) = match *bytes {
            [_, 126, a, b, ..] => (u64::from(u16::from_be_bytes([a, b])), 4),
            [_, 127, a, b, c, d, e, f, g, h, ..] => {
                (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10)
            }
            [_, short @ 0..=125, ..] => (u64::from(short), 2),
            // A server does not mask its frames (section 5.1).
            [_, 128..=255, ..] => return Err(Malformed),
            _ => return Ok(bytes),
        };
        let end = usize::try_from(length).map_err(|_| Malformed)?.saturating_add(head);
        let Some(payload) = bytes.get(head..end) else { return Ok(bytes) };
        match bytes[0] {
            BINARY | 0x02 | 0x00 | 0x80 => plain.extend_from_slice(payload),
            PING => frame(PONG, payload, answers),
            CLOSE | PONG => {}
            _ => return Err(Malformed),
        }
        bytes = &bytes[end..];
    }
}

fn frame(first: u8, payload: &[u8], out: &mut Vec<u8>) {
    // Masks protect caches between client and server from poisoning (section 10.3). No cache is
    // between a generator and a broker, so the mask need not be unpredictable.
    let mask = (clock::now() as u32).wrapping_mul(0x9e37_79b9).to_be_bytes();
    out.push(first);
    match payload.len() {
        short @ ..=125 => out.push(0x80 | short as u8),
        middle @ ..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_before_the_request_is_answered_and_frames_may_be_cut_anywhere() {
        let mut web = Web::Silent;
        let mut out = Vec::new();
        assert_eq!(web.seal("/mqtt", b"\x10\0", &mut out), Framed::Waits);
        assert!(out.starts_with(b"GET /mqtt HTTP/1.1\r\n"));
        out.clear();
        assert_eq!(web.seal("/mqtt", b"\x10\0", &mut out), Framed::Waits);
        assert!(out.is_empty());
        let mut down = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec();
        down.extend(b"\x82\x02ab\x89\x01p\x82\x7e\0\x80");
        down.extend([7; 128]);
        let (mut plain, mut answers, mut granted) = (Vec::new(), Vec::new(), 0);
        for byte in down {
            granted += usize::from(web.open(&[byte], &mut plain, &mut answers).unwrap());
        }
        assert_eq!((granted, plain.len(), &plain[..2]), (1, 130, &b"ab"[..]));
        assert_eq!((answers.len(), answers[0]), (7, PONG));
        assert_eq!(web.seal("/mqtt", b"\x10\0", &mut out), Framed::All);
        let mask = &out[2..6];
        assert_eq!(out[..2], [BINARY, 0x82]);
        assert_eq!([out[6] ^ mask[0], out[7] ^ mask[1]], *b"\x10\0");
        assert!(web.open(b"\x82\x81", &mut plain, &mut answers).is_err(), "masked");
    }
}
