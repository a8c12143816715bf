//! A client that may lose its connection at any moment and says so instead of failing the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::*;

/// A connection with an accepted CONNECT.
pub struct Line {
    version: Version,
    stream: TcpStream,
    incoming: Incoming,
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
        let mut line = Line { version: connect.version, stream, incoming: Incoming::default() };
        line.send(&connect.encode())?;
        Ok(line)
    }

    /// Waits for CONNACK.
    pub fn accepted(&mut self, patience: Duration) -> io::Result<()> {
        self.incoming.accepted(&mut self.stream, self.version, patience)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet; `None` when none came in time; an error when the connection ended.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        self.incoming.next(&mut self.stream, self.version, patience)
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
