//! What the tests share: a driver with a listener, and a loop with an end.
use crate::ids::{ListenerId, SocketId};
use crate::ring::*;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

pub type Ring = Driver;
pub type Happened<'a> = Event<'a>;
pub type Out = Outgoing;

pub fn config() -> SocketRingConfig {
    SocketRingConfig {
        sockets_per_ring: 1024,
        buffer_count: 512,
        buffers_posted: 64,
        linger: Duration::from_millis(300),
        // The tests want to park soon and often.
        long_doze: Duration::from_millis(2),
        ..SocketRingConfig::default()
    }
}

pub fn set_option(fd: &impl AsRawFd, option: i32, value: i32) {
    // SAFETY: an int-valued socket option of an open socket.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(result, 0);
}

/// A driver that accepts on a port of its own.
pub fn open(config: SocketRingConfig) -> (Ring, SocketAddr) {
    let mut ring = Ring::new(config).unwrap();
    let address = listen(&mut ring, 0);
    (ring, address)
}

pub fn listen(ring: &mut Ring, send_buffer: i32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // std's backlog of 128 is too short for the storms here.
    // SAFETY: listen on a socket we own.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 4096) }, 0);
    if send_buffer > 0 {
        set_option(&listener, libc::SO_SNDBUF, send_buffer);
    }
    let address = listener.local_addr().unwrap();
    ring.listen(ListenerId(1), OwnedFd::from(listener), false);
    address
}

/// Passes until `done`; panics after 30 s.
pub fn run<T>(
    ring: &mut Ring,
    state: &mut T,
    mut handler: impl FnMut(&mut T, &mut Ring, Happened<'_>),
    mut done: impl FnMut(&mut T, &mut Ring) -> bool,
) {
    let start = Instant::now();
    loop {
        let visited = ring.pass(1024, &mut |ring, event| handler(state, ring, event));
        if done(state, ring) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", ring.counts());
        if visited == 0 {
            ring.doze(Duration::from_millis(2), Duration::ZERO, &mut || false);
        }
    }
}

/// Passes for a fixed time.
pub fn run_for<T>(
    ring: &mut Ring,
    state: &mut T,
    time: Duration,
    handler: impl FnMut(&mut T, &mut Ring, Happened<'_>),
) {
    let end = Instant::now() + time;
    run(ring, state, handler, |_, _| Instant::now() >= end);
}

/// Sends back what it gets; closes when the peer does.
#[derive(Default)]
pub struct Echo {
    pub sockets: HashMap<SocketId, (Vec<u8>, bool)>,
    pub accepted: usize,
    pub closed: usize,
    pub received: usize,
    pub peers: Vec<RemoteAddress>,
}

impl Echo {
    pub fn handle(&mut self, ring: &mut Ring, event: Happened<'_>) {
        match event {
            Event::Accepted { socket, peer, .. } => {
                self.accepted += 1;
                self.peers.push(peer);
                assert!(self.sockets.insert(socket, (Vec::new(), false)).is_none());
                ring.receive(socket, Receive::Stream);
            }
            Event::Received { socket, bytes } => {
                self.received += bytes.len();
                let (waiting, busy) = self.sockets.get_mut(&socket).unwrap();
                waiting.extend_from_slice(bytes);
                if !*busy {
                    *busy = true;
                    ring.send(socket, Outgoing::One(std::mem::take(waiting)));
                }
            }
            Event::Sent { socket, result, .. } => {
                let (waiting, busy) = self.sockets.get_mut(&socket).unwrap();
                *busy = false;
                if result.is_ok() && !waiting.is_empty() {
                    *busy = true;
                    ring.send(socket, Outgoing::One(std::mem::take(waiting)));
                }
            }
            Event::EndOfStream { socket } | Event::Failed { socket, .. } => ring.close(socket),
            Event::Closed { socket } => {
                self.closed += 1;
                assert!(self.sockets.remove(&socket).is_some(), "closed once");
            }
            Event::Doorbell => {}
            other => panic!("{other:?}"),
        }
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// What must be the same after all sockets are gone.
pub fn at_rest(ring: &Ring) -> [u32; 6] {
    let counts = ring.counts();
    [
        counts.sockets_open,
        counts.table_free,
        counts.buffers_free + counts.buffers_posted,
        counts.sends_in_flight,
        counts.accepts_in_flight,
        counts.hand_overs_in_flight,
    ]
}

/// CPU time of this thread.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
