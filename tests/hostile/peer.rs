//! A client of an attack: it breaks rules, is cut off, and never fails a test by itself.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::*;

static PATIENT: AtomicBool = AtomicBool::new(false);

/// From now on attacks wait for longer: the others take what processors there are.
pub fn all_at_once() {
    PATIENT.store(true, Ordering::Relaxed);
}

/// How long an attack waits for what the broker may never fail to do.
pub fn patience() -> Duration {
    Duration::from_secs(if PATIENT.load(Ordering::Relaxed) { 60 } else { 15 })
}

pub struct Peer {
    pub version: Version,
    pub stream: TcpStream,
    incoming: Incoming,
}

impl Peer {
    /// A connection on which nothing has been sent. Comes from many local addresses: tens of
    /// thousands of connections do not fit into the ports of one.
    pub fn raw(address: SocketAddr, version: Version) -> io::Result<Peer> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let host = 2 + NEXT.fetch_add(1, Ordering::Relaxed) % 200;
        socket.bind(&SocketAddr::from(([127, 0, 0, host as u8], 0)).into())?;
        socket.connect_timeout(&address.into(), patience())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience()))?;
        Ok(Peer { version, stream, incoming: Incoming::default() })
    }

    /// Connects and sends CONNECT.
    pub fn begin(address: SocketAddr, connect: &Connect) -> io::Result<Peer> {
        let mut peer = Peer::raw(address, connect.version)?;
        peer.send(&connect.encode())?;
        Ok(peer)
    }

    /// Connects and waits for CONNACK.
    pub fn open(address: SocketAddr, connect: &Connect) -> io::Result<Peer> {
        let mut peer = Peer::begin(address, connect)?;
        peer.accepted()?;
        Ok(peer)
    }

    /// A clean session under a name of its own.
    pub fn plain(address: SocketAddr, version: Version) -> io::Result<Peer> {
        Peer::open(address, &Connect::new(version, unique("hostile")))
    }

    /// Waits for CONNACK.
    pub fn accepted(&mut self) -> io::Result<()> {
        self.incoming.accepted(&mut self.stream, self.version, patience())
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends what the kernel takes at once.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_nonblocking(true)?;
        let written = self.stream.write(bytes);
        self.stream.set_nonblocking(false)?;
        match written {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// The next packet; `None` when none came in time; an error when the connection ended.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Packet>> {
        self.incoming.next(&mut self.stream, self.version, patience)
    }

    /// Waits for a packet that `right` accepts; false when none comes or the connection ends.
    pub fn wait(&mut self, mut right: impl FnMut(&Packet) -> bool) -> bool {
        let end = Instant::now() + patience();
        while let Ok(Some(packet)) = self.next(end.saturating_duration_since(Instant::now())) {
            if right(&packet) {
                return true;
            }
        }
        false
    }

    /// Waits for what answers everything that was sent before.
    pub fn ping(&mut self) -> bool {
        self.send(&[0xc0, 0]).is_ok() && self.wait(|packet| *packet == Packet::PingResp)
    }

    /// Subscribes and waits for the SUBACK, whatever it says.
    pub fn subscribe(&mut self, filter: &str, options: u8) -> io::Result<()> {
        let subscribe = Subscribe { id: 1, ..Subscribe::to(filter, options) };
        self.send(&subscribe.encode(self.version))?;
        if self.wait(|packet| matches!(packet, Packet::SubAck { .. })) {
            Ok(())
        } else {
            Err(ErrorKind::TimedOut.into())
        }
    }

    /// Reads and throws away until the connection ends; returns the bytes read.
    pub fn devour(&self) -> io::Result<JoinHandle<u64>> {
        let mut stream = self.stream.try_clone()?;
        stream.set_read_timeout(None)?;
        Ok(std::thread::spawn(move || {
            let (mut chunk, mut count) = (vec![0; 64 * 1024], 0);
            loop {
                match stream.read(&mut chunk) {
                    Ok(0) => return count,
                    Ok(length) => count += length as u64,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return count,
                }
            }
        }))
    }

    /// Takes in what has arrived, unlooked at: bytes, and whether the connection has ended.
    pub fn skim(&mut self) -> (usize, bool) {
        let mut chunk = [0; 16 * 1024];
        let mut count = 0;
        if self.stream.set_nonblocking(true).is_err() {
            return (0, true);
        }
        let ended = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(length) => count += length,
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        (count, self.stream.set_nonblocking(false).is_err() || ended)
    }

    /// Ends both directions, also for who reads in another thread.
    pub fn hang_up(&self) {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        // Without it the end is an ordinary one, which is an attack as well.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

/// SUBSCRIBE packets with all of these filters, of at most `most` bytes each.
pub fn subscribes<'a>(
    version: Version,
    filters: impl Iterator<Item = String> + 'a,
    options: u8,
    most: usize,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    packets(version, 0x82, most, filters.map(move |f| Writer::new().str(f).u8(options).0))
}

/// UNSUBSCRIBE packets likewise.
pub fn unsubscribes<'a>(
    version: Version,
    filters: impl Iterator<Item = String> + 'a,
    most: usize,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    packets(version, 0xa2, most, filters.map(|f| Writer::new().str(f).0))
}

fn packets<'a>(
    version: Version,
    first: u8,
    most: usize,
    entries: impl Iterator<Item = Vec<u8>> + 'a,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let mut entries = entries.peekable();
    let mut id = 0_u16;
    std::iter::from_fn(move || {
        entries.peek()?;
        id = id % u16::MAX + 1;
        let mut body = id.to_be_bytes().to_vec();
        if version.is_v5() {
            body.push(0);
        }
        while let Some(entry) = entries.next_if(|e| body.len() == 2 || body.len() + e.len() < most)
        {
            body.extend(entry);
        }
        Some(Writer::new().raw(body).packet(first))
    })
}
