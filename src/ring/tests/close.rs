use super::support::*;
use crate::ids::SocketId;
use crate::ring::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Log {
    socket: Option<SocketId>,
    sent: Vec<Result<(), i32>>,
    received: usize,
    failed: Vec<i32>,
    ended: usize,
    closed: usize,
}

impl Log {
    fn handle(&mut self, ring: &mut Ring, event: Happened<'_>) {
        match event {
            Event::Accepted { socket, .. } => {
                self.socket = Some(socket);
                ring.receive(socket, Receive::Stream);
            }
            Event::Sent { result, .. } => self.sent.push(result),
            Event::Received { bytes, .. } => self.received += bytes.len(),
            Event::Failed { errno, .. } => self.failed.push(errno),
            Event::EndOfStream { .. } => self.ended += 1,
            Event::Closed { .. } => self.closed += 1,
            other => panic!("{other:?}"),
        }
        assert!(self.closed <= 1);
    }
}

fn one_client(ring: &mut Ring, address: SocketAddr) -> (TcpStream, SocketId, Log) {
    let client = connect(address);
    let mut log = Log::default();
    run(ring, &mut log, Log::handle, |log, _| log.socket.is_some());
    let socket = log.socket.unwrap();
    (client, socket, log)
}

#[test]
fn closing_returns_the_send_in_flight_and_says_closed_once() {
    let (mut ring, address) = open(config());
    let before = at_rest(&ring);
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    ring.send(socket, Outgoing::One(vec![5; 64 << 20]));
    run_for(&mut ring, &mut log, Duration::from_millis(30), Log::handle);
    assert!(log.sent.is_empty());
    ring.close(socket);
    ring.close(socket);
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    assert_eq!(log.sent.len(), 1);
    assert!(log.sent[0].is_err());
    run_for(&mut ring, &mut log, Duration::from_millis(20), Log::handle);
    assert_eq!((log.closed, at_rest(&ring)), (1, before));
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
}

#[test]
fn a_reset_by_the_peer_is_reported_and_the_socket_closes() {
    let (mut ring, address) = open(config());
    let (client, socket, mut log) = one_client(&mut ring, address);
    ring.send(socket, Outgoing::One(vec![5; 64 << 20]));
    run_for(&mut ring, &mut log, Duration::from_millis(20), Log::handle);
    drop(client); // With unread bytes: a reset.
    run(&mut ring, &mut log, Log::handle, |log, _| {
        !log.sent.is_empty() && log.ended + log.failed.len() > 0
    });
    assert!(log.sent[0].is_err());
    ring.close(socket);
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    assert_eq!(ring.counts().sockets_open, 0);
}

#[test]
fn an_orderly_close_delivers_everything_and_waits_for_the_peer() {
    // The end of the linger is not what ends it, however slow the machine.
    let (mut ring, address) =
        open(SocketRingConfig { linger: Duration::from_secs(20), ..config() });
    let before = at_rest(&ring);
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    // Unread input would turn a plain close into a reset that destroys what was sent last.
    client.write_all(&[1; 5000]).unwrap();
    ring.send(socket, Outgoing::One(vec![9; 3 << 20]));
    ring.shutdown_then_close(socket);
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        client.write_all(&[1; 5000]).unwrap();
        thread::sleep(Duration::from_millis(50));
        client.write_all(&[1; 5000]).unwrap();
        all.len()
    });
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    assert_eq!(reader.join().unwrap(), 3 << 20);
    assert_eq!((log.sent.len(), log.sent[0]), (1, Ok(())));
    assert_eq!((log.ended, log.failed.len()), (0, 0), "only Closed follows");
    run(&mut ring, &mut log, Log::handle, |_, ring| at_rest(ring) == before);
}

#[test]
fn a_socket_with_a_copy_ends_the_connection_when_it_is_closed() {
    let (mut ring, address) = open(config());
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    let mut copies = Vec::new();
    let take = |copies: &mut Vec<_>, ring: &mut Driver| copies.extend(ring.take_copies());
    assert!(ring.copy(socket));
    run(&mut ring, &mut log, Log::handle, |_, ring| {
        take(&mut copies, ring);
        !copies.is_empty()
    });
    assert!(matches!(copies.as_slice(), [(of, Ok(Some(_)))] if *of == socket));
    // It goes on as before.
    client.write_all(b"hello").unwrap();
    run(&mut ring, &mut log, Log::handle, |log, _| log.received == 5);
    ring.close(socket);
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "the copy is open");
    assert_eq!(ring.counts().sockets_open, 0);
    // Nothing is copied of a socket that is being closed.
    let (_client, socket, mut log) = one_client(&mut ring, address);
    assert!(ring.copy(socket));
    ring.close(socket);
    assert!(!ring.copy(socket));
    let mut late = Vec::new();
    run(&mut ring, &mut log, Log::handle, |log, ring| {
        take(&mut late, ring);
        log.closed == 1 && !late.is_empty()
    });
    assert!(matches!(late.as_slice(), [(of, Ok(None))] if *of == socket));
}

#[test]
fn an_orderly_close_gives_up_on_a_peer_that_stays() {
    let (mut ring, address) = open(config());
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    let start = Instant::now();
    ring.pause(socket);
    ring.shutdown_then_close(socket);
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn an_orderly_close_after_the_peers_end_needs_no_waiting() {
    let (mut ring, address) = open(config());
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    client.shutdown(Shutdown::Write).unwrap();
    run(&mut ring, &mut log, Log::handle, |log, _| log.ended == 1);
    ring.send(socket, Outgoing::One(b"bye".to_vec()));
    ring.shutdown_then_close(socket);
    let start = Instant::now();
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    assert!(start.elapsed() < Duration::from_millis(200));
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");
}

#[test]
fn a_peer_that_closes_first_is_seen_as_end_of_stream() {
    let (mut ring, address) = open(config());
    let (client, socket, mut log) = one_client(&mut ring, address);
    drop(client);
    run(&mut ring, &mut log, Log::handle, |log, _| log.ended == 1);
    assert_eq!(log.closed, 0, "the owner decides when to close");
    ring.close(socket);
    run(&mut ring, &mut log, Log::handle, |log, _| log.closed == 1);
    ring.close(socket);
    ring.shutdown_then_close(socket);
    ring.pause(socket);
    ring.receive(socket, Receive::Stream);
    run_for(&mut ring, &mut log, Duration::from_millis(10), Log::handle);
}

#[test]
fn dropping_a_driver_with_everything_in_flight_closes_its_sockets() {
    let (mut ring, address) = open(config());
    let (mut client, socket, log) = one_client(&mut ring, address);
    ring.send(socket, Outgoing::One(vec![5; 16 << 20]));
    ring.submit();
    drop((ring, log));
    let mut all = Vec::new();
    if let Err(error) = client.read_to_end(&mut all) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(all.len() < 16 << 20);
}

/// The peer of an orderly close goes at the same moment, and the next connection comes: it gets the
/// table entry, which a shutdown still under way must not mean any more.
#[test]
fn an_orderly_close_ends_nobody_else() {
    const ROUNDS: usize = 3000;
    let (mut ring, address) = open(config());
    let clients = thread::spawn(move || {
        let start = Instant::now();
        // A slow machine does fewer.
        for round in (0..ROUNDS).take_while(|_| start.elapsed() < Duration::from_secs(10)) {
            let mut leaving = connect(address);
            set_linger_zero(&leaving);
            leaving.write_all(b"q").unwrap();
            leaving.read_exact(&mut [0]).unwrap();
            drop(leaving);
            let mut staying = connect(address);
            set_linger_zero(&staying);
            for _ in 0..3 {
                staying.write_all(b"x").unwrap();
                staying.read_exact(&mut [0]).unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        }
    });
    let mut echo = Echo::default();
    let by_us = |echo: &mut Echo, ring: &mut Ring, event: Happened<'_>| {
        let leaving = match event {
            Event::Received { socket, bytes: b"q" } => Some(socket),
            _ => None,
        };
        echo.handle(ring, event);
        if let Some(socket) = leaving {
            ring.shutdown_then_close(socket);
        }
    };
    run(&mut ring, &mut echo, by_us, |echo, _| {
        echo.closed == 2 * ROUNDS || clients.is_finished() && echo.sockets.is_empty()
    });
    clients.join().unwrap();
}

/// Whoever closes a socket and still writes on it learns that before the socket's id may be
/// another's.
#[test]
fn what_was_refused_on_a_closing_socket_is_told_before_closed() {
    let (mut ring, address) = open(config());
    let (mut client, _, mut log) = one_client(&mut ring, address);
    client.write_all(b"x").unwrap();
    let handler = |log: &mut Log, ring: &mut Ring, event: Happened<'_>| {
        if let Event::Received { socket, .. } = event {
            ring.close(socket);
            ring.send(socket, Outgoing::One(b"late".to_vec()));
            // The close completes within this pass.
            ring.submit();
        } else {
            assert_eq!(log.closed, 0, "nothing comes after Closed");
            log.handle(ring, event);
        }
    };
    run(&mut ring, &mut log, handler, |log, _| log.closed == 1);
    assert_eq!(log.sent, [Err(libc::EPIPE)]);
    run_for(&mut ring, &mut log, Duration::from_millis(10), handler);
}

/// The record of an orderly close may wait behind an earlier one while its socket is long gone, and
/// generations have 16 bits.
#[test]
fn the_end_of_a_linger_spares_a_later_socket_of_the_same_generation() {
    let (mut ring, address) = open(config());
    let (mut client, socket, mut log) = one_client(&mut ring, address);
    let generation = ring.slots.get(socket).unwrap().generation;
    ring.lingering.push_back((Instant::now(), socket, generation));
    run(&mut ring, &mut log, Log::handle, |_, ring| ring.counts().lingering == 0);
    client.write_all(b"x").unwrap();
    run(&mut ring, &mut log, Log::handle, |log, _| log.received == 1);
    assert_eq!(log.closed, 0);
}

/// Connections opened and closed in batches; each sends a little and half are closed by us first.
fn churn(total: usize, batch: usize) {
    let mut settings = config();
    settings.sockets_per_ring = 2048;
    let (mut ring, address) = open(settings);
    let before = at_rest(&ring);
    let clients = thread::spawn(move || {
        for round in 0..total / batch {
            let mut streams: Vec<_> = (0..batch).map(|_| connect(address)).collect();
            for stream in &mut streams {
                // Local ports would run out if each lingered in TIME_WAIT.
                set_linger_zero(stream);
                stream.write_all(b"x").unwrap();
            }
            for stream in &mut streams {
                match round % 3 {
                    0 => {}
                    1 => stream.read_exact(&mut [0]).unwrap(),
                    _ => {
                        stream.read_exact(&mut [0]).unwrap();
                        assert_eq!(stream.write(b"q").unwrap(), 1);
                        let _ = stream.read(&mut [0]);
                    }
                }
            }
        }
    });
    let mut echo = Echo::default();
    let by_us = |echo: &mut Echo, ring: &mut Ring, event: Happened<'_>| match event {
        Event::Received { socket, bytes: b"q" } => ring.shutdown_then_close(socket),
        event => echo.handle(ring, event),
    };
    let start = Instant::now();
    while echo.closed < total {
        ring.pass(1024, &mut |ring, event| by_us(&mut echo, ring, event));
        assert!(start.elapsed() < Duration::from_secs(120), "{:?}", ring.counts());
        ring.doze(Duration::from_millis(2), Duration::ZERO, &mut || false);
    }
    clients.join().unwrap();
    run(&mut ring, &mut (), |_, _, _| (), |_, ring| at_rest(ring) == before);
    let counts = ring.counts();
    assert_eq!(counts.accepted, total as u64);
    assert!(counts.slots_free <= 4096, "slots are reused: {counts:?}");
    println!("{total} connections in {:?}, {counts:?}", start.elapsed());
}

fn set_linger_zero(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: one struct linger for SO_LINGER.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn six_thousand_connections_come_and_go_and_leave_nothing() {
    churn(6_000, 200);
}

#[test]
fn a_hundred_thousand_connections_come_and_go_and_leave_nothing() {
    churn(100_000, 500);
}
