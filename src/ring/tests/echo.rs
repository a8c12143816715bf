use super::support::*;
use crate::ids::{ListenerId, SocketId};
use crate::message::{Message, MessageRef};
use crate::packet::Qos;
use crate::ring::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

/// `clients` connections on one thread each send `messages` of `size` bytes and read them back.
fn echo_clients(
    address: SocketAddr,
    clients: usize,
    messages: usize,
    size: usize,
) -> thread::JoinHandle<Vec<SocketAddr>> {
    thread::spawn(move || {
        let mut streams: Vec<_> = (0..clients).map(|_| connect(address)).collect();
        let mut back = vec![0; size];
        for message in 0..messages {
            for (number, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&vec![(message + number) as u8; size]).unwrap();
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                stream.read_exact(&mut back).unwrap();
                assert!(back.iter().all(|byte| *byte == (message + number) as u8));
            }
        }
        streams.iter().map(|stream| stream.local_addr().unwrap()).collect()
    })
}

fn serve(ring: &mut Ring, clients: usize) -> Echo {
    let mut echo = Echo::default();
    run(ring, &mut echo, Echo::handle, |echo, _| echo.closed == clients);
    echo
}

#[test]
fn bytes_come_back_and_the_peer_is_known() {
    let (mut ring, address) = open(config());
    let before = at_rest(&ring);
    let clients = echo_clients(address, 50, 20, 300);
    let echo = serve(&mut ring, 50);
    let mut addresses = clients.join().unwrap();
    addresses.sort();
    let address_of = |peer: &RemoteAddress| match peer {
        RemoteAddress::Tcp(address) => *address,
        RemoteAddress::Unix => panic!("tcp"),
    };
    let mut peers: Vec<_> = echo.peers.iter().map(address_of).collect();
    peers.sort();
    assert_eq!(peers, addresses);
    assert_eq!(echo.received, 50 * 20 * 300);
    run(&mut ring, &mut (), |_, _, _| (), |_, ring| at_rest(ring) == before);
    assert_eq!(ring.counts().accepted, 50);
}

#[test]
fn a_unix_listener_accepts_and_stops_when_told() {
    let path = std::env::temp_dir().join(format!("ringmq-ring-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut ring = Ring::new(config()).unwrap();
    ring.listen(ListenerId(7), OwnedFd::from(UnixListener::bind(&path).unwrap()), true);
    let target = path.clone();
    let client = thread::spawn(move || {
        let mut stream = UnixStream::connect(target).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    });
    let echo = serve(&mut ring, 1);
    client.join().unwrap();
    assert_eq!(echo.peers, [RemoteAddress::Unix]);
    ring.stop_listening(ListenerId(7));
    run(&mut ring, &mut (), |_, _, _| (), |_, ring| ring.counts().accepts_in_flight == 0);
    assert!(UnixStream::connect(&path).is_err(), "the listener is closed");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn receiving_once_takes_one_buffer_and_waits_to_be_asked_again() {
    let (mut ring, address) = open(SocketRingConfig { buffer_size: 64, ..config() });
    let mut client = connect(address);
    client.write_all(&[7; 200]).unwrap();
    let mut got: (Option<SocketId>, Vec<usize>) = Default::default();
    let handler = |got: &mut (Option<SocketId>, Vec<usize>),
                   ring: &mut Ring,
                   event: Happened<'_>| {
        match event {
            Event::Accepted { socket, .. } => {
                got.0 = Some(socket);
                ring.receive(socket, Receive::Once);
            }
            Event::Received { bytes, .. } => got.1.push(bytes.len()),
            other => panic!("{other:?}"),
        }
    };
    run(&mut ring, &mut got, handler, |got, _| !got.1.is_empty());
    run_for(&mut ring, &mut got, Duration::from_millis(30), handler);
    assert_eq!(got.1, [64]);
    ring.receive(got.0.unwrap(), Receive::Once);
    run(&mut ring, &mut got, handler, |got, _| got.1.len() == 2);
    ring.receive(got.0.unwrap(), Receive::Stream);
    run(&mut ring, &mut got, handler, |got, _| got.1.iter().sum::<usize>() == 200);
}

/// Sends `outgoing` to one client that reads slowly; the client's bytes.
fn send_slowly(outgoing: Out) -> (Vec<u8>, RingCounts) {
    let mut ring = Ring::new(config()).unwrap();
    let address = listen(&mut ring, 4096);
    let client = thread::spawn(move || {
        let mut stream = connect(address);
        let mut all = Vec::new();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut piece).unwrap() {
                0 => return all,
                length => all.extend_from_slice(&piece[..length]),
            }
            if all.len() < 1 << 20 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let mut state = (Some(outgoing), false);
    run(
        &mut ring,
        &mut state,
        |(outgoing, closed), ring, event| match event {
            Event::Accepted { socket, .. } => ring.send(socket, outgoing.take().unwrap()),
            Event::Sent { socket, result, outgoing } => {
                assert_eq!(result, Ok(()));
                assert!(!matches!(outgoing, Outgoing::One(bytes) if bytes.is_empty()));
                ring.close(socket);
            }
            Event::Closed { .. } => *closed = true,
            other => panic!("{other:?}"),
        },
        |(_, closed), _| *closed,
    );
    assert_eq!(ring.counts().sends_in_flight, 0);
    (client.join().unwrap(), ring.counts())
}

#[test]
fn a_slow_reader_gets_every_byte_of_one_big_send() {
    let bytes: Vec<u8> = (0..8u32 << 20).map(|n| (n / 7) as u8).collect();
    let (got, _) = send_slowly(Outgoing::One(bytes.clone()));
    assert!(got == bytes);
}

/// A message with no more than a payload.
fn message(payload: &[u8]) -> Message {
    let message = MessageRef {
        topic: "",
        properties: &[],
        payload,
        qos: Qos::AtMostOnce,
        retain: false,
        expires: None,
        publisher: None,
    };
    Message::new(&message, &mut Vec::new())
}

#[test]
fn a_slow_reader_gets_every_byte_of_hundreds_of_segments() {
    let bytes: Vec<u8> = (0..40_000u32).map(|n| (n / 3) as u8).collect();
    let shared = message(&bytes);
    let (mut segments, mut expected) = (Vec::new(), Vec::new());
    for n in 0..300usize {
        let own = vec![n as u8; n * 31 % 5000];
        expected.extend_from_slice(&own);
        segments.push(Segment::Bytes(own));
        let range = n * 10..n * 120;
        expected.extend_from_slice(&bytes[range.start..range.end.min(bytes.len())]);
        segments.push(Segment::Shared(shared.clone(), range));
    }
    segments.push(Segment::Shared(shared.clone(), 50_000..60_000));
    let (got, counts) = send_slowly(Outgoing::Many(segments));
    assert!(got == expected);
    assert!(counts.partial_sends >= 8, "more than 64 pieces take several operations");
    assert_eq!(shared.handles(), 1);
}

#[test]
fn sends_that_cannot_start_come_back_with_their_bytes() {
    let (mut ring, address) = open(config());
    let _client = connect(address);
    let mut state: (Vec<Result<(), i32>>, Vec<usize>, bool) = Default::default();
    run(
        &mut ring,
        &mut state,
        |state, ring, event| match event {
            Event::Accepted { socket, .. } => {
                ring.send(SocketId(999_999), Outgoing::One(vec![1; 3]));
                ring.send(socket, Outgoing::Many(Vec::new()));
                ring.close(socket);
                ring.send(socket, Outgoing::One(vec![1; 4]));
            }
            Event::Sent { result, outgoing, .. } => {
                state.0.push(result);
                state.1.push(match outgoing {
                    Outgoing::One(bytes) => bytes.len(),
                    Outgoing::Many(segments) => segments.len(),
                });
            }
            Event::Closed { .. } => state.2 = true,
            other => panic!("{other:?}"),
        },
        |state, _| state.2,
    );
    assert_eq!(state.0, [Err(libc::EBADF), Ok(()), Err(libc::EPIPE)]);
    assert_eq!(state.1, [3, 0, 4]);
}

#[test]
fn two_thousand_sockets_spread_over_rings_of_256() {
    let mut settings = config();
    settings.sockets_per_ring = 256;
    let (mut ring, address) = open(settings);
    let clients = echo_clients(address, 2000, 3, 40);
    let echo = serve(&mut ring, 2000);
    clients.join().unwrap();
    assert_eq!(echo.received, 2000 * 3 * 40);
    let counts = ring.counts();
    assert!((8..=12).contains(&counts.rings), "{counts:?}");
    assert_eq!(counts.table_free, counts.rings * 256);
    assert_eq!(counts.sockets_open, 0);
}

#[test]
fn a_full_table_makes_clients_wait_until_somebody_leaves() {
    let settings = SocketRingConfig { sockets_per_ring: 64, max_rings: 1, ..config() };
    let (mut ring, address) = open(settings);
    let clients = echo_clients(address, 64, 1, 10);
    let late = thread::spawn(move || {
        let mut stream = connect(address);
        stream.write_all(b"late").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
    });
    let echo = serve(&mut ring, 65);
    clients.join().unwrap();
    late.join().unwrap();
    assert_eq!((echo.accepted, ring.counts().rings), (65, 1));
    assert_eq!(ring.counts().accept_errors, 0);
}

#[test]
fn a_paused_socket_makes_the_peer_block_and_resuming_loses_nothing() {
    let (mut ring, address) = open(config());
    let mut client = connect(address);
    client.set_nonblocking(true).unwrap();
    let mut state: (Option<SocketId>, usize) = (None, 0);
    let handler =
        |state: &mut (Option<SocketId>, usize), ring: &mut Ring, event: Happened<'_>| match event {
            Event::Accepted { socket, .. } => {
                state.0 = Some(socket);
                ring.receive(socket, Receive::Stream);
            }
            Event::Received { bytes, .. } => state.1 += bytes.len(),
            other => panic!("{other:?}"),
        };
    let mut sent = fill(&mut client, 1000);
    run(&mut ring, &mut state, handler, |state, _| state.1 == sent);
    let socket = state.0.unwrap();
    for round in 0..5 {
        ring.pause(socket);
        if round == 2 {
            // Pausing and resuming in one breath must end paused or resumed as said last.
            ring.resume(socket);
            ring.pause(socket);
        }
        run_for(&mut ring, &mut state, Duration::from_millis(20), handler);
        let before = state.1;
        // The kernel's own buffers grow for a while, then the peer is blocked for good.
        let mut attempts = 0;
        loop {
            run_for(&mut ring, &mut state, Duration::from_millis(30), handler);
            assert_eq!(state.1, before, "nothing is read while paused");
            match fill(&mut client, usize::MAX) {
                0 => break,
                more => sent += more,
            }
            attempts += 1;
            assert!(attempts < 30, "the peer is never blocked");
        }
        ring.resume(socket);
        run(&mut ring, &mut state, handler, |state, _| state.1 == sent);
    }
}

/// Writes until `most` bytes or until the socket takes no more for 30 ms.
fn fill(client: &mut TcpStream, most: usize) -> usize {
    let chunk = vec![1; 65_536];
    let mut sent = 0;
    let mut refused = 0;
    while sent < most && refused < 3 {
        match client.write(&chunk[..chunk.len().min(most - sent)]) {
            Ok(length) => (sent, refused) = (sent + length, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
    sent
}

#[test]
fn four_buffers_serve_two_hundred_senders_without_loss() {
    let settings = SocketRingConfig { buffer_count: 4, buffers_posted: 4, ..config() };
    let (mut ring, address) = open(settings);
    let clients = echo_clients(address, 200, 10, 500);
    let echo = serve(&mut ring, 200);
    clients.join().unwrap();
    assert_eq!(echo.received, 200 * 10 * 500);
    let counts = ring.counts();
    assert!(counts.enobufs > 0);
    assert_eq!(counts.buffers_free + counts.buffers_posted, 4);
}

#[test]
fn more_buffers_are_posted_when_the_first_few_do_not_do() {
    let settings = SocketRingConfig { buffer_count: 256, buffers_posted: 4, ..config() };
    let (mut ring, address) = open(settings);
    let clients = echo_clients(address, 200, 10, 500);
    serve(&mut ring, 200);
    clients.join().unwrap();
    assert!(ring.counts().buffers_posted > 16, "{:?}", ring.counts());
}

#[test]
fn overflowing_completions_are_not_lost() {
    let settings = SocketRingConfig { submissions: 8, completions: 8, ..config() };
    let (mut ring, address) = open(settings);
    let clients = echo_clients(address, 500, 6, 100);
    // Sleeping between passes lets completions pile up.
    let mut echo = Echo::default();
    run(&mut ring, &mut echo, Echo::handle, |echo, _| {
        thread::sleep(Duration::from_micros(300));
        echo.closed == 500
    });
    clients.join().unwrap();
    assert_eq!(echo.received, 500 * 6 * 100);
    assert!(ring.counts().overflows > 0, "{:?}", ring.counts());
}
