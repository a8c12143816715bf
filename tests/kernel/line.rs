//! A client that may lose its connection at any moment and says so instead of failing the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::*;

/// A connection with an accepted CONNECT.
pub struct Line {
    version: Version,
    stream: TcpStream,
    bytes: Vec<u8>,
    used: usize,
}

impl Line {
    /// Connects and waits for CONNACK.
    pub fn open(address: SocketAddr, connect: &Connect, patience: Duration) -> io::Result<Line> {
        let mut line = Line::begin(address, connect)?;
        line.accepted(patience)?;
        Ok(line)
    }

    /// Connects and sends CONNECT.
    pub fn begin(address: SocketAddr, connect: &Connect) -> io::Result<Line> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        let mut line = Line { version: connect.version, stream, bytes: Vec::new(), used: 0 };
        line.send(&connect.encode())?;
        Ok(line)
    }

    /// Waits for CONNACK.
    pub fn accepted(&mut self, patience: Duration) -> io::Result<()> {
        match self.next(patience)? {
            Some(Packet::ConnAck(answer)) if answer.code == 0 => Ok(()),
            Some(other) => Err(io::Error::other(format!("instead of CONNACK: {other:?}"))),
            None => Err(ErrorKind::TimedOut.into()),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet; None when none came in time; an error when the connection ended.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        let end = Instant::now() + patience;
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some((packet, length)) = Packet::take(self.version, &self.bytes[self.used..]) {
                self.used += length;
                return Ok(Some(packet));
            }
            self.bytes.drain(..std::mem::take(&mut self.used));
            let left = end.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.stream.read(&mut chunk) {
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

    pub fn acknowledge(&mut self, publish: &Publish) -> io::Result<()> {
        match publish.qos {
            1 => self.send(&Ack::new(AckKind::PubAck, publish.id).encode()),
            _ => Ok(()),
        }
    }

    /// Takes in what has arrived, unlooked at; true when the connection has ended.
    pub fn ended(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }
}
