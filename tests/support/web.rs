//! The client's end of a WebSocket (RFC 6455), for the suites that are run over one
//! (`RINGMQ_TEST_TRANSPORT=ws`). A codec of its own; it checks what binds a server.

/// The request for a WebSocket.
pub const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
const MASK: [u8; 4] = [0x5a, 0x01, 0xff, 0x80];

/// True when the broker's first listener is one for WebSockets, and the clients use them.
pub fn is_on() -> bool {
    std::env::var("RINGMQ_TEST_TRANSPORT")
        .is_ok_and(|transport| transport == "ws" || transport == "wss")
}

/// What is known between two pieces.
#[derive(Default)]
pub struct Web {
    /// The request was sent.
    asked: bool,
    granted: bool,
    closed: bool,
    come: Vec<u8>,
    sent: usize,
}

impl Web {
    /// What goes to the socket for these bytes of MQTT: now and then in two frames, or behind a
    /// ping. The request goes in front of the first; its answer is not waited for.
    pub fn wrap(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.asked, true) {
            out.extend(REQUEST.as_bytes());
        }
        self.sent += 1;
        let cut = if self.sent.is_multiple_of(3) { bytes.len() / 2 } else { bytes.len() };
        if self.sent.is_multiple_of(5) {
            frame(&mut out, 0x89, b"ping");
        }
        let (first, second) = bytes.split_at(cut);
        frame(&mut out, if second.is_empty() { 0x82 } else { 0x02 }, first);
        if !second.is_empty() {
            frame(&mut out, 0x80, second);
        }
        out
    }

    /// The MQTT in what has come.
    pub fn unwrap(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.come.extend(bytes);
        let mut plain = Vec::new();
        if !self.granted {
            let end = self.come.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return plain };
            let head: Vec<u8> = self.come.drain(..end + 4).collect();
            let head = String::from_utf8(head).expect("HTTP is text");
            assert!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "{head}");
            self.granted = true;
        }
        while let Some((first, payload)) = self.next() {
            assert!(!self.closed, "a frame behind Close");
            match first {
                0x82 => plain.extend(payload),
                0x8A => assert_eq!(payload, b"ping"),
                0x88 => self.closed = true,
                other => panic!("no frame of a server: {other:#x}"),
            }
        }
        plain
    }

    fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.come.first()?, *self.come.get(1)?);
        assert!(second < 0x80, "a server does not mask");
        let (at, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.come.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.come.get(2..10)?.try_into().ok()?) as usize),
            short => (2, usize::from(short)),
        };
        let payload = self.come.get(at..at + length)?.to_vec();
        self.come.drain(..at + length);
        Some((first, payload))
    }
}

/// Appends a frame as a client sends it.
pub fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => out.push(0x80 | short),
        (_, Ok(middle)) => {
            out.push(0xFE);
            out.extend(middle.to_be_bytes());
        }
        _ => {
            out.push(0xFF);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
}
