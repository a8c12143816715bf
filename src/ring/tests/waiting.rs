use super::support::*;
use crate::ring::*;
use glommio::{LocalExecutorBuilder, Placement};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn in_glommio<T: 'static>(task: impl AsyncFnOnce() -> T) -> T {
    LocalExecutorBuilder::new(Placement::Unbound).make().unwrap().run(task())
}

/// Another thread publishes `rounds` pieces of mail one by one and waits for each to be seen.
fn doorbell_rounds(rounds: u64, spin: Duration, pause: impl Fn(u64) + Send + 'static) {
    let posted = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let (send, receive) = mpsc::channel::<Doorbell>();
    let ringer = thread::spawn({
        let (posted, seen) = (posted.clone(), seen.clone());
        move || {
            let doorbell = receive.recv().unwrap();
            for round in 1..=rounds {
                pause(round);
                posted.store(round, Ordering::Relaxed);
                doorbell.ring();
                let start = Instant::now();
                while seen.load(Ordering::Relaxed) < round {
                    thread::yield_now();
                    if start.elapsed() > Duration::from_secs(5) {
                        eprintln!("lost wake-up {round}");
                        std::process::abort(); // The other side sleeps for ever.
                    }
                }
            }
        }
    });
    in_glommio(async move || {
        let mut ring = Ring::new(SocketRingConfig { spin, ..config() }).unwrap();
        send.send(ring.doorbell()).unwrap();
        let mut last = 0;
        while last < rounds {
            ring.pass(64, &mut |_, event| assert!(matches!(event, Event::Doorbell)));
            last = posted.load(Ordering::Relaxed);
            seen.store(last, Ordering::Relaxed);
            // No deadline: a lost wake-up is never made good.
            ring.idle(None, || posted.load(Ordering::Relaxed) != last || last == rounds).await;
        }
        // Each round costs an enter or two per way of sleeping, and one to wake up. A flag that
        // the kernel leaves behind would make it many.
        let counts = ring.counts();
        println!("{counts:?}");
        assert!(counts.enters < rounds * 12, "{counts:?}");
    });
    ringer.join().unwrap();
}

#[test]
fn a_doorbell_always_wakes_a_dozing_core() {
    doorbell_rounds(20_000, Duration::ZERO, |_| ());
}

#[test]
fn a_doorbell_always_wakes_a_parked_core() {
    // Long enough for three dozes now and then, so that the core parks through glommio.
    doorbell_rounds(300, Duration::ZERO, |round| {
        thread::sleep(Duration::from_micros(6000 + round * 7 % 500));
    });
}

#[test]
fn a_hundred_thousand_wake_ups_are_not_lost() {
    doorbell_rounds(100_000, Duration::ZERO, |_| ());
    doorbell_rounds(100_000, Duration::from_micros(5), |round| {
        (0..round % 200).for_each(|_| std::hint::spin_loop());
    });
}

/// An echo inside glommio: clients pause long enough for the core to park between messages.
fn sparse_echo(settings: SocketRingConfig, clients: usize, rounds: usize) -> RingCounts {
    let (send, receive) = mpsc::channel();
    let client = thread::spawn(move || {
        let address = receive.recv().unwrap();
        let mut streams: Vec<_> = (0..clients).map(|_| connect(address)).collect();
        for round in 0..rounds {
            for stream in &mut streams {
                stream.write_all(&[round as u8; 16]).unwrap();
                let mut back = [0; 16];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, [round as u8; 16]);
            }
            thread::sleep(Duration::from_millis(12));
        }
    });
    let counts = in_glommio(async move || {
        let (mut ring, address) = open(settings);
        send.send(address).unwrap();
        let mut echo = Echo::default();
        while echo.closed < clients {
            ring.pass(256, &mut |ring, event| echo.handle(ring, event));
            if echo.closed < clients {
                ring.idle(None, || false).await;
            }
        }
        ring.counts()
    });
    client.join().unwrap();
    counts
}

#[test]
fn traffic_wakes_a_parked_core() {
    let counts = sparse_echo(config(), 3, 40);
    assert!(counts.parks >= 20, "{counts:?}");
}

#[test]
fn traffic_on_secondary_rings_wakes_a_parked_core() {
    let settings = SocketRingConfig { sockets_per_ring: 16, accepts_in_flight: 8, ..config() };
    let counts = sparse_echo(settings, 60, 30);
    assert!(counts.parks >= 10 && counts.rings > 3, "{counts:?}");
}

#[test]
fn traffic_on_secondary_rings_wakes_a_core_from_long_dozes() {
    let long_doze = Duration::from_millis(500);
    let settings =
        SocketRingConfig { sockets_per_ring: 16, accepts_in_flight: 8, long_doze, ..config() };
    let start = Instant::now();
    let counts = sparse_echo(settings, 60, 30);
    // A wake-up that is lost costs half a second.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}, {counts:?}", start.elapsed());
    assert!(counts.parks == 0 && counts.dozes > 30, "{counts:?}");
}

#[test]
fn a_socket_that_arrives_wakes_a_parked_core() {
    const ROUNDS: usize = 30;
    let (send, receive) = mpsc::channel();
    let target = thread::spawn(move || {
        in_glommio(async move || {
            let mut ring = Ring::new(config()).unwrap();
            send.send(ring.port()).unwrap();
            let (mut arrived, mut closed) = (0, 0);
            while closed < ROUNDS {
                ring.pass(64, &mut |ring, event| match event {
                    Event::Arrived { socket, .. } => {
                        arrived += 1;
                        ring.send(socket, Outgoing::One(b"hello".to_vec()));
                    }
                    Event::Sent { socket, .. } => ring.close(socket),
                    Event::Closed { .. } => closed += 1,
                    Event::Doorbell => {}
                    other => panic!("{other:?}"),
                });
                if closed < ROUNDS {
                    ring.idle(None, || false).await;
                }
            }
            assert_eq!(arrived, ROUNDS);
            ring.counts().parks
        })
    });
    let port = receive.recv().unwrap();
    let (mut ring, address) = open(config());
    let client = thread::spawn(move || {
        for _ in 0..ROUNDS {
            thread::sleep(Duration::from_millis(12));
            let mut all = Vec::new();
            connect(address).read_to_end(&mut all).unwrap();
            assert_eq!(all, b"hello");
        }
    });
    let mut closed = 0;
    run(
        &mut ring,
        &mut closed,
        |closed, ring, event| match event {
            Event::Accepted { socket, .. } => ring.hand_over(socket, &port, 1),
            Event::HandedOver { result, .. } => assert_eq!(result, Ok(())),
            Event::Closed { .. } => *closed += 1,
            other => panic!("{other:?}"),
        },
        |closed, _| *closed == ROUNDS,
    );
    client.join().unwrap();
    assert!(target.join().unwrap() >= 10);
}

#[test]
fn glommio_timers_and_deadlines_run_while_the_core_is_parked() {
    in_glommio(async || {
        let mut ring = Ring::new(config()).unwrap();
        let ticks = std::rc::Rc::new(std::cell::Cell::new(0));
        let counting = glommio::spawn_local({
            let ticks = ticks.clone();
            async move {
                loop {
                    glommio::timer::sleep(Duration::from_millis(20)).await;
                    ticks.set(ticks.get() + 1);
                }
            }
        })
        .detach();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(600) {
            ring.pass(64, &mut |_, event| panic!("{event:?}"));
            let before = Instant::now();
            ring.idle(Some(Duration::from_millis(100)), || false).await;
            assert!(before.elapsed() < Duration::from_millis(200));
        }
        counting.cancel();
        assert!((15..=31).contains(&ticks.get()), "{}", ticks.get());
        assert!((6..=12).contains(&ring.counts().parks), "{:?}", ring.counts());
    });
}

#[test]
fn an_idle_core_costs_next_to_nothing() {
    let stop = Arc::new(AtomicBool::new(false));
    in_glommio(async || {
        let (mut ring, _) = open(config());
        // The shard's wheel asks to be woken now and then.
        let mut settle = 0;
        let mut start = (cpu_time(), Instant::now());
        while start.1.elapsed() < Duration::from_millis(1500) {
            ring.pass(64, &mut |_, event| panic!("{event:?}"));
            ring.idle(Some(Duration::from_millis(100)), || stop.load(Ordering::Relaxed)).await;
            settle += 1;
            if settle == 3 {
                start = (cpu_time(), Instant::now());
            }
        }
        let used = cpu_time() - start.0;
        let share = used.as_secs_f64() / start.1.elapsed().as_secs_f64();
        println!("idle: {:.3} % of a core, {:?}", share * 100.0, ring.counts());
        assert!(share < 0.02, "{share}");
    });
}
