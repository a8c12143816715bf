//! Either process of an upgrade is killed at any moment of it, or the new one stands still: one of
//! them serves every client that it has, and the clients of the other see that their connections
//! end. Nobody waits for an answer that does not come.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lasting;
use crate::line::Line;
use crate::probe::figure;
use crate::support::broker::is_dead;
use crate::support::*;
use crate::upgrade::{load, program};

const CLIENTS: usize = 300;
/// Retained messages.
const RETAINED: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(30);
const PINGREQ: [u8; 2] = [0xC0, 0];

/// The process that this one has started; `None` while there is none.
fn child_of(parent: u32) -> Option<u32> {
    let all = fs::read_dir("/proc").expect("/proc is there");
    all.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        let other: u32 = rest.split(' ').nth(1)?.parse().ok()?;
        (other == parent).then_some(pid)
    })
}

fn kill(pid: u32) {
    // It may be gone.
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
}

/// Killed with the test.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        kill(self.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Old,
    New,
}

/// Asks for an upgrade and kills one of the processes so long after the new one was started; what
/// the command said, and the new process.
fn upgrade_and_kill(broker: &Broker, after: Duration, whom: Whom) -> (Result<String, String>, u32) {
    std::thread::scope(|scope| {
        let old = broker.pid();
        let asked = scope.spawn(|| broker.ask_to_upgrade(&[]));
        let until = Instant::now() + PATIENCE;
        let new = loop {
            if let Some(new) = child_of(old) {
                break new;
            }
            assert!(Instant::now() < until, "no new process is started");
        };
        std::thread::sleep(after);
        kill(if whom == Whom::Old { old } else { new });
        (asked.join().expect("the command ends"), new)
    })
}

fn open_many(broker: &Broker) -> Vec<Line> {
    let open = |_| Line::open(broker.address(), &Connect::new(V311, unique("idle")), PATIENCE);
    (0..CLIENTS).map(open).collect::<Result<_, _>>().expect("the broker accepts them")
}

fn retain_many(broker: &Broker) {
    let mut client = Client::connect(broker, V311, &unique("keeps"));
    for number in 0..RETAINED {
        client.publish(&Publish::new(format!("kept/{number}"), 1, "kept").retain());
    }
}

/// A new process whose old one has died says how many retained messages it has, and how many it
/// lacks, as far as it can know.
fn says_what_it_lacks(broker: &Broker) {
    let log = broker.log();
    let Some(line) = log.lines().find(|line| line.contains("died in the middle")) else { return };
    let number = |key: &str| -> u64 {
        let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in: {line}"));
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().unwrap_or_else(|_| panic!("{key} in: {line}"))
    };
    let (retained, lost) = (number(" retained="), number(" retained_lost="));
    if number(" shards_lost=") == 0 {
        assert_eq!(retained + lost, RETAINED, "{line}");
    }
    let reads = Connect::new(V311, unique("reads"));
    let mut reads = Line::open(broker.address(), &reads, PATIENCE).expect("who serves accepts it");
    let mut subscribe = Subscribe::to("kept/#", 0);
    subscribe.id = 1;
    reads.send(&subscribe.encode(V311)).expect("it takes it");
    let mut count = 0;
    while let Ok(Some(packet)) = reads.next(Duration::from_millis(300)) {
        count += u64::from(matches!(packet, Packet::Publish(_)));
    }
    assert_eq!(count, retained, "{line}");
}

/// How many of them are served; the others are closed.
fn served(lines: &mut [Line]) -> usize {
    let answers = |line: &mut Line| {
        let answer = line.send(&PINGREQ).and_then(|()| line.next(PATIENCE));
        match answer {
            Ok(Some(Packet::PingResp)) => true,
            Ok(other) => panic!("neither an answer nor an end: {other:?}"),
            Err(_) => false,
        }
    };
    lines.iter_mut().map(answers).filter(|&served| served).count()
}

/// How long an upgrade takes here and now.
fn whole() -> Duration {
    let mut broker = Broker::start_with(&[], 2);
    let _lines = open_many(&broker);
    let began = Instant::now();
    let report = broker.ask_to_upgrade(&[]).expect("it is upgraded");
    let took = began.elapsed();
    broker.follow(&report);
    took
}

#[test]
fn a_new_process_that_is_killed_at_any_moment_leaves_the_old_one_serving() {
    let _alone = machine();
    let (whole, rounds) = (whole(), lasting(6, 100).as_secs() as u32);
    let mut stayed = 0;
    let mut broker = Broker::start_with(&[], 2);
    for round in 0..rounds {
        let mut lines = open_many(&broker);
        let stop = AtomicBool::new(false);
        let (outcome, loads) = std::thread::scope(|scope| {
            let (running, stop) = (&broker, &stop);
            let loads = [1, 2].map(|qos| scope.spawn(move || load(running, qos, stop)));
            let after = whole * (round + 1) / (rounds + 1);
            let (outcome, _) = upgrade_and_kill(running, after, Whom::New);
            stop.store(true, Ordering::Relaxed);
            (outcome, loads.map(|load| load.join()))
        });
        match outcome {
            Err(why) if why.starts_with("no upgrade") => {
                stayed += 1;
                for load in loads {
                    load.expect("nothing was lost");
                }
                assert_eq!(served(&mut lines), CLIENTS, "{why}:\n{}", broker.log());
                assert!(broker.alive());
            }
            // It served already when it was killed: with it went all that it had.
            _ => broker = Broker::start_with(&[], 2),
        }
    }
    figure("upgrade", &format!("new killed {rounds} times, old went on {stayed} times"));
    assert!(stayed > 0, "new was killed too late each time");
}

#[test]
fn an_old_process_that_is_killed_at_any_moment_leaves_what_it_has_handed_over_to_the_new_one() {
    let _alone = machine();
    let (whole, rounds) = (whole(), lasting(6, 100).as_secs() as u32);
    let (mut all, mut some) = (0, 0);
    for round in 0..rounds {
        let broker = Broker::start_with(&[], 2);
        retain_many(&broker);
        let mut lines = open_many(&broker);
        let after = whole * (round + 1) / (rounds + 1);
        let (_, new) = upgrade_and_kill(&broker, after, Whom::Old);
        let new = Killed(new);
        let served = served(&mut lines);
        all += u32::from(served == CLIENTS);
        some += u32::from(served > 0 && served < CLIENTS);
        if served > 0 {
            assert!(!is_dead(new.0), "who serves is alive");
            let late = Connect::new(V311, unique("late"));
            Line::open(broker.address(), &late, PATIENCE).expect("who serves lets others in");
            says_what_it_lacks(&broker);
        } else {
            eventually("who has nothing ends", || is_dead(new.0));
        }
    }
    figure("upgrade", &format!("old killed {rounds} times: all clients kept {all}, some {some}"));
}

#[test]
fn a_new_process_that_stands_still_is_killed_and_the_old_one_serves_on() {
    let broker = Broker::start_with(&[], 2);
    let mut lines = open_many(&broker);
    // It says that it has started, reads a part of what it is sent, and stops.
    let ready = r"printf '\001\000\000\000\003\002' >&0";
    let stops = format!("{ready}; head -c 4000 <&0 >/dev/null; kill -STOP $$");
    let path = program("still", &stops);
    let asked = broker.ask_to_upgrade(&["--binary", &path.display().to_string()]);
    let why = asked.expect_err("it cannot be upgraded");
    assert!(why.contains("does not take the clients in"), "{why}");
    assert_eq!(served(&mut lines), CLIENTS);
    assert!(broker.alive());
}
