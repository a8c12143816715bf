//! Stores on disks that are full and processes that are stopped, with the calls of the kernel that
//! fail and hang: what was acknowledged comes. These take minutes, and `scripts/faults` runs them;
//! what they look at stands in short in `storage` and `disk`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::ledger::Ledger;
use crate::line::Line;
use crate::probe::figure;
use crate::storage::{Place, come_back, subscribe};
use crate::support::broker::Launch;
use crate::support::http::{Http, admin};
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(10);
const QUEUE: [&str; 2] = ["mqtt.pending.max_messages=1000000", "mqtt.pending.max_bytes=4GiB"];
const REFUSED: u8 = 0x97;

/// A mount namespace in which a directory is a file system of its own, in memory.
struct SmallDisk {
    holder: Child,
    /// What a program is started by that is to see it.
    by: Vec<String>,
}

impl SmallDisk {
    /// None where no such namespace can be made.
    fn mount(at: &Path, mebibytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).expect("a scratch directory");
        const SCRIPT: &str = "mount -t tmpfs -o size=$2m tmpfs \"$1\" && echo mounted && exec cat";
        for (unshare, enter) in [("-m", "-m"), ("-rm", "-Um")] {
            let mut holder = Command::new("unshare")
                .args([unshare, "sh", "-c", SCRIPT, "sh"])
                .arg(at)
                .arg(mebibytes.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let mut line = String::new();
            let output = holder.stdout.take().expect("a pipe");
            BufReader::new(output).read_line(&mut line).expect("it can be read");
            if line == "mounted\n" {
                let of = ["--target", &holder.id().to_string()].map(str::to_owned);
                let mut by = vec!["nsenter".to_owned(), enter.to_owned()];
                if enter == "-Um" {
                    by.push("--preserve-credentials".to_owned());
                }
                by.extend(of);
                return Some(SmallDisk { holder, by });
            }
            let _ = holder.wait();
        }
        println!("skipped: no file system can be mounted in a namespace here");
        None
    }

    fn start(&self, settings: &[&str]) -> Broker {
        Launch { by: self.by.clone(), shards: 1, ..Launch::new(settings) }.start()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// What `/readyz` says.
fn ready(broker: &Broker) -> (u16, String) {
    let page = Http::open(admin(broker)).get("/readyz");
    (page.status, page.body)
}

/// The code of CONNACK for such a client.
fn let_in(broker: &Broker, connect: &Connect) -> u8 {
    let mut line = Line::begin(broker.address(), connect).expect("it listens");
    match line.next(PATIENCE).expect("it is answered") {
        Some(Packet::ConnAck(connack)) => connack.code,
        other => panic!("instead of a CONNACK: {other:?}"),
    }
}

#[test]
#[ignore = "mounts a file system; scripts/faults runs it"]
fn on_a_disk_without_room_for_a_segment_only_what_is_stored_is_refused() {
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(&place.0, 8) else { return };
    let broker = disk.start(&[&place.setting(), "admin.bind=127.0.0.1:0"]);
    eventually("it says that there is no room", || ready(&broker).0 == 503);
    assert_eq!(let_in(&broker, &Connect::durable(V5, "stays")), 0x88);
    assert_eq!(let_in(&broker, &Connect::durable(V311, "stays")), 3);
    let mut reader = Client::subscriber(&broker, V5, "reader", "live/#", 1);
    let mut publisher = Client::connect(&broker, V5, "publisher");
    publisher.publish(&Publish::new("live/a", 1, "alive"));
    reader.expect("alive");
    figure("a disk of 8 MiB", &format!("/readyz says: {}", ready(&broker).1.trim()));
}

/// Publishes at QoS 1 until that is refused; how many were acknowledged.
fn fill(broker: &Broker, first: u64) -> u64 {
    let connect = Connect::new(V5, unique("p"));
    let mut line = Line::open(broker.address(), &connect, PATIENCE).expect("it accepts");
    for number in first.. {
        let text = format!("{number} {}", "x".repeat(100_000));
        let publish = Publish::new("stored/a", 1, text).id((number % 60_000 + 1) as u16);
        line.send(&publish.encode(V5)).expect("it takes it");
        match line.next(PATIENCE).expect("it stays") {
            Some(Packet::Ack(ack)) if ack.reason == REFUSED => return number - first,
            Some(Packet::Ack(ack)) => assert_eq!(ack.reason, 0),
            other => panic!("instead of a PUBACK: {other:?}"),
        }
    }
    unreachable!("the disk is full at last")
}

/// Takes all that waits for the session, which is what was acknowledged, in order.
fn empty(broker: &Broker, mut next: u64) -> u64 {
    let (mut line, present) = come_back(broker.address(), "away").expect("it accepts");
    assert!(present, "the session is gone");
    while let Some(packet) = line.next(Duration::from_secs(2)).expect("it stays") {
        let Packet::Publish(publish) = packet else { continue };
        let number = publish.text().split(' ').next().and_then(|number| number.parse().ok());
        assert_eq!(number, Some(next), "the order");
        next += 1;
        line.acknowledge(&publish).expect("it takes it");
    }
    next
}

#[test]
#[ignore = "mounts a file system; scripts/faults runs it"]
fn a_small_disk_fills_up_refuses_and_is_emptied_again_and_again() {
    let _alone = machine();
    let place = Place::new();
    let Some(disk) = SmallDisk::mount(&place.0, 400) else { return };
    let path = place.setting();
    let settings = [&*path, QUEUE[0], QUEUE[1], "admin.bind=127.0.0.1:0"];
    let mut broker = disk.start(&settings);
    let (mut line, _) = come_back(broker.address(), "away").expect("it accepts");
    subscribe(&mut line, "stored/#", 1);
    drop(line);
    // What the next message is, and the next that is to be received.
    let (mut next, mut received, mut rounds) = (0, 0, Vec::new());
    for round in 0..6 {
        let taken = fill(&broker, next);
        next += taken;
        rounds.push(taken);
        assert!(taken > 100, "{taken} messages in a disk of 400 MiB");
        eventually("it says that there is no room", || ready(&broker).0 == 503);
        if round % 2 == 1 {
            broker.signal("-9");
            broker.wait(PATIENCE);
            broker = disk.start(&settings);
        }
        received = empty(&broker, received);
        // The one that was refused is not among them.
        assert_eq!(received, next, "acknowledged and lost, or refused and sent");
        eventually("there is room again", || ready(&broker).0 == 200);
    }
    figure(
        "a full disk",
        &format!("{next} messages of 100 kB acknowledged, {rounds:?} until it was full, none lost"),
    );
}

/// Starts a broker with a store, and a ledger of what its clients are told.
fn begin(settings: &[&str]) -> (Broker, Ledger) {
    let broker = Launch { shards: 2, ..Launch::new(settings) }.start();
    let ledger = Ledger::new(broker.address());
    (broker, ledger)
}

fn kill_and_start(broker: &mut Option<Broker>, settings: &[&str]) {
    let killed = broker.take().expect("one runs");
    let bind = killed.address();
    killed.signal("-9");
    killed.wait_for_kill(PATIENCE);
    *broker = Some(Launch { bind, shards: 2, ..Launch::new(settings) }.start());
}

#[test]
#[ignore = "minutes; scripts/faults runs it"]
fn a_broker_that_is_stopped_while_clients_publish_loses_nothing() {
    const ROUNDS: u64 = 40;
    let _alone = machine();
    let place = Place::new();
    let path = place.setting();
    let settings = [&*path, QUEUE[0], QUEUE[1]];
    let (broker, ledger) = begin(&settings);
    let mut broker = Some(broker);
    ledger.under_load(|| {
        for round in 0..ROUNDS {
            ledger.wait_for_more();
            std::thread::sleep(Duration::from_micros(round * 1777 % 20_000));
            let running = broker.as_ref().expect("one runs");
            running.signal("-STOP");
            // Some times for longer than anything on a disk may take.
            let millis = [50, 300, 1500, 4000][round as usize % 4];
            std::thread::sleep(Duration::from_millis(millis));
            match round % 2 {
                0 => running.signal("-CONT"),
                _ => kill_and_start(&mut broker, &settings),
            }
        }
        ledger.wait_for_more();
    });
    kill_and_start(&mut broker, &settings);
    let count = ledger.close("stopped");
    figure("SIGSTOP with a store", &format!("{ROUNDS} rounds, {} kills: {count}", ROUNDS / 2 + 1));
    assert_eq!(count.refused, 0, "a disk that works refuses nothing");
}

/// Faults that strace puts into calls of a running broker.
struct Tracer(Child);

impl Tracer {
    /// None where strace is not installed or may not trace.
    fn attach(broker: &Broker, inject: &str) -> Option<Tracer> {
        let calls = "trace=fdatasync,pwrite64,fallocate";
        let mut strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", calls, "-e", inject, "-p"])
            .arg(broker.pid().to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let status = format!("/proc/{}/status", broker.pid());
        let traced = || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_some_and(|pid| pid.trim() != "0")
        };
        for _ in 0..500 {
            if strace.try_wait().expect("its status can be read").is_some() {
                return None;
            }
            if traced() {
                return Some(Tracer(strace));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("strace neither traces nor ends");
    }

    /// The calls work again.
    fn detach(self) {}
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.0.wait();
    }
}

/// What becomes of messages that are to be stored meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meanwhile {
    /// They are refused.
    Refused,
    /// They are acknowledged, if later.
    Acknowledged,
    /// Either.
    Either,
}

const FAULTS: [(&str, Meanwhile); 7] = [
    ("fdatasync:error=EIO", Meanwhile::Refused),
    ("pwrite64:error=ENOSPC", Meanwhile::Refused),
    ("pwrite64:error=EIO", Meanwhile::Refused),
    ("fdatasync:error=EIO:when=3+5", Meanwhile::Either),
    ("pwrite64:error=EIO:when=2+7", Meanwhile::Either),
    ("fdatasync:delay_enter=200000", Meanwhile::Acknowledged),
    ("pwrite64:delay_exit=100000", Meanwhile::Acknowledged),
];

#[test]
#[ignore = "minutes, and needs strace; scripts/faults runs it"]
fn calls_of_the_kernel_that_fail_or_are_slow_lose_nothing() {
    for durability in ["sync", "async"] {
        for (fault, meanwhile) in FAULTS {
            if !inject(durability, fault, meanwhile) {
                println!("skipped: strace is not installed, or may not trace here");
                return;
            }
        }
    }
}

/// False where that cannot be done.
fn inject(durability: &str, fault: &str, meanwhile: Meanwhile) -> bool {
    let _alone = machine();
    let place = Place::new();
    let (path, durability) = (place.setting(), format!("storage.durability={durability}"));
    let settings = [&*path, &*durability, QUEUE[0], QUEUE[1]];
    let (broker, ledger) = begin(&settings);
    let mut broker = Some(broker);
    let possible = ledger.under_load(|| {
        for round in 0..3 {
            ledger.wait_for_more();
            let running = broker.as_ref().expect("one runs");
            let (before, refused) = (ledger.acknowledged(), ledger.refused());
            let Some(tracer) = Tracer::attach(running, &format!("inject={fault}")) else {
                return false;
            };
            match meanwhile {
                Meanwhile::Refused => {
                    eventually("it is refused", || ledger.refused() > refused + 50);
                }
                Meanwhile::Acknowledged => {
                    eventually("it is acknowledged", || ledger.acknowledged() > before + 50);
                }
                Meanwhile::Either => std::thread::sleep(Duration::from_secs(3)),
            }
            std::thread::sleep(Duration::from_millis(500));
            // Killed in the middle of it, or it goes on.
            if round == 1 {
                kill_and_start(&mut broker, &settings);
            }
            tracer.detach();
            ledger.wait_for_more();
        }
        true
    });
    if !possible {
        return false;
    }
    kill_and_start(&mut broker, &settings);
    let count = ledger.close(fault);
    figure("strace", &format!("{durability}, {fault}: {count}"));
    if meanwhile == Meanwhile::Acknowledged {
        assert_eq!(count.refused, 0, "{fault}: a slow disk refuses nothing");
    }
    true
}
