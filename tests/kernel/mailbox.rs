//! A mailbox that stays full: one shard is held back, so that it is always behind with its mail.
//!
//! The shard's thread is stopped by ptrace nine tenths of the time: no other way holds back one
//! thread of a process and leaves the rest at full speed.
#![allow(unsafe_code)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lasting;
use crate::line::Line;
use crate::probe::{Sys, figure, memory};
use crate::support::*;

/// Too large to share a letter with others, so that few fill the mailbox.
const SIZE: usize = 10_000;

/// The thread of one shard.
fn thread_of(broker: &Broker, shard: usize) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", broker.pid())).expect("it runs");
    let mut tasks = tasks.map(|task| task.expect("readable").path());
    let wanted = format!("ringmq-{shard}");
    let task = tasks
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == wanted));
    let task = task.expect("each shard has its thread");
    let name = task.file_name().expect("a number").to_string_lossy().into_owned();
    name.parse().expect("a number")
}

/// Holds the thread back until told to stop; false when this system does not let us.
fn hold_back(thread: i32, stop: &AtomicBool) -> bool {
    // SAFETY: ptrace requests without pointers to our memory, on a thread of our own child; the
    // kernel detaches by itself when this thread ends.
    let ask = |request, data: i64| unsafe { libc::ptrace(request, thread, 0_i64, data) };
    if ask(libc::PTRACE_SEIZE, 0) != 0 {
        return false;
    }
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(ask(libc::PTRACE_INTERRUPT, 0), 0);
        stopped(thread);
        std::thread::sleep(Duration::from_millis(45));
        assert_eq!(ask(libc::PTRACE_CONT, 0), 0);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ask(libc::PTRACE_INTERRUPT, 0), 0);
    stopped(thread);
    ask(libc::PTRACE_DETACH, 0);
    true
}

fn stopped(thread: i32) {
    let mut status = 0;
    // SAFETY: `status` is ours for the call. Only this thread is waited for, not the process.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    assert_eq!(waited, thread);
}

/// A ClientId at home on this shard.
fn client_on(broker: &Broker, shard: u8) -> String {
    loop {
        let id = unique("c");
        if broker.home_of(&id) == shard {
            return id;
        }
    }
}

/// Publishes with a window of 64 until told to stop; how many were acknowledged.
fn flood(broker: &Broker, topic: &str, stop: &AtomicBool) -> u64 {
    let connect = Connect::new(V311, client_on(broker, 0));
    let mut line = Line::open(broker.address(), &connect, patience()).expect("accepted");
    let (mut sent, mut acked) = (0_u64, 0_u64);
    while acked < sent || !stop.load(Ordering::Relaxed) {
        while sent < acked + 64 && !stop.load(Ordering::Relaxed) {
            let mut payload = sent.to_string().into_bytes();
            payload.resize(SIZE, b'.');
            let publish = Publish::new(topic, 1, payload).id((sent % 60_000 + 1) as u16);
            line.send(&publish.encode(V311)).expect("the publisher is parked, not parted with");
            sent += 1;
        }
        if acked < sent {
            match line.next(patience()).expect("the connection stands") {
                Some(Packet::Ack(ack)) => {
                    assert_eq!(u64::from(ack.id), acked % 60_000 + 1);
                    acked += 1;
                }
                other => panic!("no PUBACK of {acked}: {other:?}"),
            }
        }
    }
    acked
}

/// Reads messages, in order without a gap, until `until` says how many there are.
fn drain(mut sub: Client, total: &std::sync::mpsc::Receiver<u64>) -> u64 {
    let (mut next, mut last) = (0, None);
    loop {
        last = last.or_else(|| total.try_recv().ok());
        if last.is_some_and(|last| next >= last) {
            sub.expect_nothing();
            return next;
        }
        match sub.read(Duration::from_millis(200)) {
            Next::Packet(Packet::Publish(publish)) => {
                sub.acknowledge(&publish);
                let text = publish.text();
                assert_eq!(text.trim_end_matches('.'), next.to_string(), "order, and no gap");
                next += 1;
            }
            Next::Packet(other) => panic!("{other:?}"),
            Next::Closed => panic!("the subscriber was parted with after {next}"),
            Next::Nothing => {}
        }
    }
}

/// Connects, subscribes, pings and parts, on both shards, until told to stop; the longest of each.
fn control(broker: &Broker, stop: &AtomicBool) -> [Duration; 2] {
    let mut worst = [Duration::ZERO; 2];
    while !stop.load(Ordering::Relaxed) {
        for shard in 0..2_u8 {
            let start = Instant::now();
            let mut c = Client::connect(broker, V5, &client_on(broker, shard));
            c.granted(&unique("control"), 1);
            c.ping();
            c.disconnect();
            let worst = &mut worst[usize::from(shard)];
            *worst = (*worst).max(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    worst
}

#[test]
fn a_full_mailbox_parks_publishers_and_loses_nothing() {
    let _alone = machine();
    // Nothing waits in or is dropped from a session's queue: what is full is to be the mailbox.
    let settings = [
        "mqtt.max_inflight=65535",
        "mqtt.pending.max_messages=1000000",
        "mqtt.pending.max_bytes=1GiB",
        "sys.interval=1s",
        "admin.bind=127.0.0.1:0",
    ];
    let broker = Broker::start_with(&settings, 2);
    let thread = thread_of(&broker, 1);
    let (stop, release) = (AtomicBool::new(false), AtomicBool::new(false));
    let (before, began) = (memory(&broker), Instant::now());
    std::thread::scope(|scope| {
        let (broker, stop, release) = (&broker, &stop, &release);
        let mut floods = Vec::new();
        let mut drains = Vec::new();
        for _ in 0..6 {
            let topic = unique("full");
            let sub = Client::subscriber(broker, V5, &client_on(broker, 1), &topic, 1);
            let (tell, told) = std::sync::mpsc::channel();
            drains.push((tell, scope.spawn(move || drain(sub, &told))));
            floods.push(scope.spawn(move || flood(broker, &topic, stop)));
        }
        let holding = scope.spawn(move || hold_back(thread, release));
        let controls = scope.spawn(move || control(broker, stop));
        let (end, mut most) = (Instant::now() + lasting(8, 180), before);
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            most = most.max(memory(broker));
        }
        stop.store(true, Ordering::Relaxed);
        let worst = controls.join().expect("control packets are answered");
        release.store(true, Ordering::Relaxed);
        let held = holding.join().expect("it ends");
        if !held {
            println!("skipped in part: ptrace is not allowed here, no shard was held back");
        }
        let start = Instant::now();
        let mut total = 0;
        for (flood, (tell, drain)) in floods.into_iter().zip(drains) {
            let acked = flood.join().expect("every PUBACK came");
            tell.send(acked).expect("it listens");
            assert_eq!(drain.join().expect("everything came"), acked);
            total += acked;
        }
        figure(
            "full mailbox",
            &format!(
                "{total} messages, all delivered {:?} after the end; memory {before} to {most} \
                 KiB; longest connect+subscribe+ping on each shard {worst:?}",
                start.elapsed()
            ),
        );
        let parks = Sys::of(broker).read("shards/0/parks/mailbox");
        let steps = Sys::of(broker).read("shards/0/steps") as f64 / began.elapsed().as_secs_f64();
        figure("full mailbox", &format!("publishers parked {parks} times, {steps:.0} steps/s"));
        assert!(steps < 100_000.0, "a shard that waits for room takes no rest: {steps:.0} steps/s");
        assert!(parks > 50 || !held, "the mailbox was not full");
        assert!(most < before + (64 << 10), "memory grew from {before} to {most} KiB");
        assert!(worst[0] < Duration::from_secs(5) && worst[1] < Duration::from_secs(10));
    });
    assert!(broker.alive());
}
