use super::support::*;
use crate::ring::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

fn small_rings() -> SocketRingConfig {
    SocketRingConfig { sockets_per_ring: 64, accepts_in_flight: 8, ..config() }
}

fn crowd(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut streams: Vec<_> = (0..count).map(|_| connect(address)).collect();
    for stream in &mut streams {
        stream.write_all(&[7; 100]).unwrap();
    }
    for stream in &mut streams {
        stream.read_exact(&mut [0; 100]).unwrap();
    }
    streams
}

/// Runs until the upkeep has left `rings`.
fn settle(ring: &mut Ring, echo: &mut Echo, rings: u32) {
    run(ring, echo, Echo::handle, |_, ring| {
        ring.run_upkeep();
        ring.counts().rings == rings
    });
}

#[test]
fn rings_that_a_crowd_needed_are_closed_when_it_has_gone_and_opened_for_the_next() {
    let settings = small_rings();
    let (mut ring, address) = open(settings);
    let before = at_rest(&ring);
    let mut echo = Echo::default();
    for round in 1..=3 {
        let clients = thread::spawn(move || crowd(address, 500));
        run(&mut ring, &mut echo, Echo::handle, |_, _| clients.is_finished());
        let clients = clients.join().unwrap();
        let rings = ring.counts().rings;
        assert!((8..=12).contains(&rings), "{rings}");
        for _ in 0..4 {
            run_for(&mut ring, &mut echo, Duration::from_millis(1), Echo::handle);
            ring.run_upkeep();
        }
        assert!(ring.counts().rings >= 8, "rings with sockets stay");
        drop(clients);
        run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.closed == 500 * round);
        let enters = ring.counts().enters;
        settle(&mut ring, &mut echo, 1);
        assert!(ring.counts().enters >= enters, "the figures of closed rings still count");
        // A reserve of buffers was made for the further rings; none is lost.
        let (now, mut then) = (at_rest(&ring), before);
        then[2] = now[2];
        assert_eq!(now, then);
        assert!(now[2] >= before[2] && now[2] <= before[2] + 12 * 16, "{now:?}");
    }
}

#[test]
fn newcomers_use_the_first_rings_so_that_the_others_empty() {
    let settings = small_rings();
    let (mut ring, address) = open(settings);
    let mut echo = Echo::default();
    let clients = thread::spawn(move || crowd(address, 300));
    run(&mut ring, &mut echo, Echo::handle, |_, _| clients.is_finished());
    let mut clients = clients.join().unwrap();
    // The last ones stay; they are what keeps the last rings.
    let late = clients.split_off(290);
    drop(clients);
    run(&mut ring, &mut echo, Echo::handle, |echo, _| echo.closed == 290);
    for _ in 0..4 {
        run_for(&mut ring, &mut echo, Duration::from_millis(1), Echo::handle);
        ring.run_upkeep();
    }
    assert!(ring.counts().rings > 1);
    let clients = thread::spawn(move || crowd(address, 20));
    run(&mut ring, &mut echo, Echo::handle, |_, _| clients.is_finished());
    let newcomers = clients.join().unwrap();
    drop(late);
    settle(&mut ring, &mut echo, 1);
    assert_eq!(ring.counts().sockets_open, 20);
    drop(newcomers);
}

#[test]
fn after_a_quiet_time_buffers_are_empty_pages_and_still_work() {
    let (mut ring, address) = open(config());
    let mut echo = Echo::default();
    let clients = thread::spawn(move || crowd(address, 100));
    run(&mut ring, &mut echo, Echo::handle, |_, _| clients.is_finished());
    let mut clients = clients.join().unwrap();
    for _ in 0..12 {
        run_for(&mut ring, &mut echo, Duration::from_millis(1), Echo::handle);
        ring.run_upkeep();
    }
    assert_eq!(ring.pool.resident(), 0);
    let talk = thread::spawn(move || {
        for (number, stream) in clients.iter_mut().enumerate() {
            stream.write_all(&[number as u8; 1000]).unwrap();
            let mut back = [0; 1000];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, [number as u8; 1000]);
        }
    });
    run(&mut ring, &mut echo, Echo::handle, |_, _| talk.is_finished());
    talk.join().unwrap();
    assert!(ring.pool.resident() > 0);
}
