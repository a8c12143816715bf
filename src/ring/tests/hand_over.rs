use super::support::*;
use crate::ids::SocketId;
use crate::ring::*;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Passes every accepted socket on; keeps those that found no room and tries again.
struct Giver {
    port: RingPort,
    given: HashMap<SocketId, u64>,
    next: u64,
    refused: usize,
    closed: usize,
}

impl Giver {
    fn handle(&mut self, ring: &mut Ring, event: Happened<'_>) {
        match event {
            Event::Accepted { socket, .. } => {
                self.next += 1;
                self.given.insert(socket, self.next);
                ring.hand_over(socket, &self.port, self.next);
            }
            Event::HandedOver { socket, cookie, result } => {
                assert_eq!(self.given[&socket], cookie);
                if result.is_err() {
                    assert_eq!(result, Err(libc::ENFILE));
                    self.refused += 1;
                    ring.hand_over(socket, &self.port, cookie);
                }
            }
            Event::Closed { socket } => {
                self.given.remove(&socket).unwrap();
                self.closed += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A thread whose driver takes `total` arrivals and echoes; ends when all have closed. With
/// `upkeep`, rings are closed whenever they are empty.
fn taker(
    settings: SocketRingConfig,
    total: usize,
    upkeep: bool,
) -> (RingPort, Doorbell, thread::JoinHandle<(RingCounts, Vec<u64>)>) {
    let (send, receive) = mpsc::channel();
    let running = thread::spawn(move || {
        let mut ring = Ring::new(settings).unwrap();
        send.send((ring.port(), ring.doorbell())).unwrap();
        let mut state = (Echo::default(), Vec::new());
        let handler =
            |state: &mut (Echo, Vec<u64>), ring: &mut Ring, event: Happened<'_>| match event {
                Event::Arrived { socket, cookie } => {
                    state.1.push(cookie);
                    assert!(state.0.sockets.insert(socket, Default::default()).is_none());
                    ring.receive(socket, Receive::Stream);
                }
                event => state.0.handle(ring, event),
            };
        let mut closed_rings = 0;
        run(&mut ring, &mut state, handler, |state, ring| {
            let rings = ring.counts().rings;
            upkeep.then(|| ring.run_upkeep());
            closed_rings += rings - ring.counts().rings;
            state.0.closed == total
        });
        assert_eq!(closed_rings > 0, upkeep);
        (ring.counts(), state.1)
    });
    let (port, doorbell) = receive.recv().unwrap();
    (port, doorbell, running)
}

fn hand_over(
    total: usize,
    settings: SocketRingConfig,
    batch: usize,
    upkeep: bool,
) -> (Giver, RingCounts) {
    let (port, _doorbell, running) = taker(settings, total, upkeep);
    let (mut ring, address) = open(config());
    let before = at_rest(&ring);
    let clients = thread::spawn(move || {
        for _ in 0..total / batch {
            let mut streams: Vec<_> = (0..batch).map(|_| connect(address)).collect();
            for (number, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&[number as u8; 30]).unwrap();
            }
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut back = [0; 30];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, [number as u8; 30]);
            }
        }
    });
    let mut giver = Giver { port, given: HashMap::new(), next: 1 << 40, refused: 0, closed: 0 };
    run(&mut ring, &mut giver, Giver::handle, |giver, _| giver.closed == total);
    run(&mut ring, &mut giver, Giver::handle, |_, ring| at_rest(ring) == before);
    clients.join().unwrap();
    let (counts, mut cookies) = running.join().unwrap();
    cookies.sort();
    assert_eq!(cookies, (1..=total as u64).map(|n| (1 << 40) + n).collect::<Vec<_>>());
    (giver, counts)
}

#[test]
fn a_thousand_sockets_move_to_another_thread_and_work_there() {
    let (_, counts) = hand_over(1000, config(), 1000, false);
    assert_eq!((counts.arrived, counts.sockets_open), (1000, 0));
    assert_eq!(counts.rings, 1 + 1, "a second ring is opened before the first is full");
}

#[test]
fn arrivals_open_rings_as_needed() {
    let settings = SocketRingConfig { sockets_per_ring: 128, ..config() };
    let (_, counts) = hand_over(1000, settings, 1000, false);
    assert!((8..=14).contains(&counts.rings), "{counts:?}");
}

/// The taker's upkeep is done at every pass: rings open and close all the time.
#[test]
fn sockets_go_on_arriving_while_rings_close() {
    let settings = SocketRingConfig { sockets_per_ring: 24, ..config() };
    let (_, counts) = hand_over(6000, settings, 150, true);
    assert_eq!(counts.arrived, 6000);
}

#[test]
fn a_full_target_refuses_and_every_socket_still_gets_there_later() {
    let settings = SocketRingConfig { sockets_per_ring: 60, max_rings: 2, ..config() };
    let (giver, counts) = hand_over(1000, settings, 100, false);
    assert_eq!((counts.rings, counts.arrived), (2, 1000));
    assert_eq!(counts.table_free, 120);
    println!("{} refusals", giver.refused);
}

#[test]
fn what_cannot_be_handed_over_is_refused_with_a_reason() {
    let (port, doorbell, running) = taker(SocketRingConfig { max_rings: 1, ..config() }, 1, false);
    let (mut ring, address) = open(config());
    let own = ring.port();
    let mut client = connect(address);
    type State = (Option<SocketId>, Vec<Result<(), i32>>, Vec<u8>);
    let mut state = State::default();
    let handler = |state: &mut State, ring: &mut Ring, event: Happened<'_>| match event {
        Event::Accepted { socket, .. } => {
            state.0 = Some(socket);
            ring.receive(socket, Receive::Stream);
        }
        Event::Received { bytes, .. } => {
            assert_eq!(state.1.last(), Some(&Err(libc::EBUSY)), "before the socket is away");
            state.2.extend(bytes);
        }
        Event::HandedOver { result, .. } => state.1.push(result),
        Event::Closed { .. } => state.0 = None,
        other => panic!("{other:?}"),
    };
    run(&mut ring, &mut state, handler, |state, _| state.0.is_some());
    let socket = state.0.unwrap();
    run_for(&mut ring, &mut state, Duration::from_millis(20), handler);
    client.write_all(b"early").unwrap();
    ring.hand_over(socket, &own, 5);
    ring.hand_over(socket, &port, MAX_COOKIE + 1);
    // The receive in flight is cancelled for it.
    ring.hand_over(socket, &port, MAX_COOKIE);
    ring.hand_over(socket, &port, 6);
    run(&mut ring, &mut state, handler, |state, _| state.0.is_none());
    assert_eq!(state.1, [Err(libc::EINVAL), Err(libc::EINVAL), Err(libc::EBUSY), Ok(())]);
    client.write_all(b"there").unwrap();
    let mut heard = state.2;
    while heard.len() < 10 {
        let mut part = [0; 10];
        let count = client.read(&mut part).unwrap();
        heard.extend(&part[..count]);
    }
    assert_eq!(heard, b"earlythere");
    drop(client);
    doorbell.ring();
    assert_eq!(running.join().unwrap().1, [MAX_COOKIE]);
    ring.pause(SocketId(0));
}

#[test]
fn a_close_while_a_socket_moves_changes_nothing_for_its_new_owner() {
    const TOTAL: usize = 200;
    let (port, doorbell, running) = taker(config(), TOTAL, false);
    let (mut ring, address) = open(config());
    let before = at_rest(&ring);
    let clients = thread::spawn(move || {
        for _ in 0..TOTAL {
            let mut client = connect(address);
            client.write_all(b"there").unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
        }
    });
    let mut seen = (0, 0);
    let handler = |seen: &mut (usize, usize), ring: &mut Ring, event: Happened<'_>| match event {
        Event::Accepted { socket, .. } => {
            ring.hand_over(socket, &port, socket.0.into());
            ring.close(socket);
        }
        Event::HandedOver { result, .. } => {
            assert_eq!(result, Ok(()));
            seen.0 += 1;
        }
        Event::Closed { .. } => {
            seen.1 += 1;
            assert_eq!(seen.0, seen.1, "told first, each once");
            doorbell.ring();
        }
        other => panic!("{other:?}"),
    };
    run(&mut ring, &mut seen, handler, |seen, ring| seen.1 == TOTAL && at_rest(ring) == before);
    clients.join().unwrap();
    running.join().unwrap();
}
