//! What the broker sends on a connection, packet by packet, for clients that may lose it at any
//! moment and are told so, instead of failing the test.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::packet::Packet;
use super::wire::Version;

/// Bytes that have come and were not looked at.
#[derive(Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    used: usize,
}

impl Incoming {
    /// The next packet; `None` when none came in time; an error when the connection ended.
    pub fn next(
        &mut self,
        stream: &mut TcpStream,
        version: Version,
        patience: Duration,
    ) -> io::Result<Option<Packet>> {
        let end = Instant::now() + patience;
        let mut chunk = [0; 64 * 1024];
        loop {
            if let Some((packet, length)) = Packet::take(version, &self.bytes[self.used..]) {
                self.used += length;
                return Ok(Some(packet));
            }
            self.bytes.drain(..std::mem::take(&mut self.used));
            let left = end.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.bytes.extend(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if left.is_zero() => {
                        return Ok(None);
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Waits for a CONNACK that says success.
    pub fn accepted(
        &mut self,
        stream: &mut TcpStream,
        version: Version,
        patience: Duration,
    ) -> io::Result<()> {
        match self.next(stream, version, patience)? {
            Some(Packet::ConnAck(answer)) if answer.code == 0 => Ok(()),
            Some(other) => Err(io::Error::other(format!("instead of CONNACK: {other:?}"))),
            None => Err(ErrorKind::TimedOut.into()),
        }
    }
}
