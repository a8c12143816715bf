//! kill -9 under load, and a restart on the same port.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lasting;
use crate::line::Line;
use crate::probe::figure;
use crate::support::broker::Launch;
use crate::support::*;

const PAIRS: usize = 8;
/// A client that waits longer than this for an answer of a live broker has been forgotten.
const HANG: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(5);

/// What one worker has achieved; watched from outside.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    connected: AtomicU64,
    hangs: AtomicU64,
}

impl Progress {
    fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Runs `work` on one connection after another until told to stop.
fn reconnecting(stop: &AtomicBool, progress: &Progress, work: impl Fn() -> io::Result<()>) {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = work()
            && error.kind() == io::ErrorKind::TimedOut
        {
            progress.hangs.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(RETRY);
    }
}

/// A window of 16 messages at QoS 1, kept full; numbers go up over all connections.
fn publish(at: SocketAddr, topic: &str, stop: &AtomicBool, progress: &Progress) -> io::Result<()> {
    let mut line = Line::open(at, &Connect::new(V311, unique("p")), HANG)?;
    progress.connected.fetch_add(1, Ordering::Relaxed);
    let (mut sent, mut acked) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        while sent < acked + 16 {
            let number = progress.done() + sent - acked;
            let id = (sent % 60_000 + 1) as u16;
            line.send(&Publish::new(topic, 1, number.to_string()).id(id).encode(V311))?;
            sent += 1;
        }
        match line.next(HANG)? {
            Some(Packet::Ack(ack)) if ack.id == (acked % 60_000 + 1) as u16 => {
                acked += 1;
                progress.step();
            }
            Some(other) => panic!("instead of the PUBACK of {acked}: {other:?}"),
            None => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

/// Takes messages in; on one connection their numbers go up by one each.
fn subscribe(
    at: SocketAddr,
    topic: &str,
    stop: &AtomicBool,
    progress: &Progress,
) -> io::Result<()> {
    let mut line = Line::open(at, &Connect::new(V5, unique("s")), HANG)?;
    progress.connected.fetch_add(1, Ordering::Relaxed);
    let mut subscribe = Subscribe::to(topic, 1);
    subscribe.id = 1;
    line.send(&subscribe.encode(V5))?;
    let mut last: Option<u64> = None;
    let mut heard = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        match line.next(Duration::from_millis(100))? {
            Some(Packet::Publish(publish)) => {
                line.acknowledge(&publish)?;
                let number = publish.text().parse().expect("a number");
                // A publisher that reconnected repeats what was not acknowledged to it.
                let right = last.is_none_or(|last| number == last + 1 || number + 16 > last);
                assert!(right, "{number} after {last:?}: a message was lost");
                last = Some(number);
                progress.step();
                heard = Instant::now();
            }
            Some(_) => {}
            None if heard.elapsed() > HANG => return Err(io::ErrorKind::TimedOut.into()),
            None => {}
        }
    }
    Ok(())
}

#[test]
fn a_broker_that_is_killed_under_load_comes_back_on_its_port() {
    let _alone = machine();
    let stop = AtomicBool::new(false);
    let topics: Vec<_> = (0..PAIRS).map(|_| unique("crash")).collect();
    let all: Vec<_> = (0..2 * PAIRS).map(|_| Progress::default()).collect();
    let mut broker = Some(Broker::start(&[]));
    let at = broker.as_ref().expect("just started").address();
    let advanced = |before: &[u64]| all.iter().zip(before).all(|(now, was)| now.done() > was + 20);
    std::thread::scope(|scope| {
        for (n, topic) in topics.iter().enumerate() {
            let (publisher, subscriber) = (&all[2 * n], &all[2 * n + 1]);
            let stop = &stop;
            scope.spawn(move || {
                reconnecting(stop, publisher, || publish(at, topic, stop, publisher));
            });
            scope.spawn(move || {
                reconnecting(stop, subscriber, || subscribe(at, topic, stop, subscriber));
            });
        }
        let test = std::panic::AssertUnwindSafe(|| {
            let (mut times, rounds) = (Vec::new(), lasting(3, 60).as_secs());
            for _ in 0..rounds {
                std::thread::sleep(Duration::from_millis(500));
                let killed = broker.take().expect("one runs");
                killed.signal("-9");
                assert_eq!(killed.wait(Duration::from_secs(30)), None, "ended");
                let start = Instant::now();
                // Without a pause: connections of the dead broker are in every state, TIME_WAIT
                // among them, and clients knock already.
                broker = Some(Launch { bind: at, ..Launch::new(&[]) }.start());
                let ready = start.elapsed();
                let before: Vec<_> = all.iter().map(Progress::done).collect();
                eventually("everybody is back and makes progress", || advanced(&before));
                times.push((ready, start.elapsed()));
            }
            figure("kill -9", &format!("ready again and all clients at work after {times:?}"));
        });
        let outcome = std::panic::catch_unwind(test);
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    let hangs: u64 = all.iter().map(|progress| progress.hangs.load(Ordering::Relaxed)).sum();
    assert_eq!(hangs, 0, "somebody waited for an answer for {HANG:?}");
    for progress in &all {
        assert!(progress.connected.load(Ordering::Relaxed) > 3, "each reconnected each time");
    }
}
