//! What publishers were told, and what sessions that stay were sent, compared: whatever becomes of
//! the broker and its disk meanwhile, what was acknowledged comes, in the order of its connection.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::line::Line;
use crate::storage::{come_back, subscribe};
use crate::support::*;

/// How long a broker may be silent that is stopped.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long nothing comes when all has come.
const QUIET: Duration = Duration::from_millis(1500);
/// How often a publisher looks for an answer, and after how many times without one it connects
/// anew: its messages are being stored, and others may be refused by then.
const LOOK: Duration = Duration::from_millis(200);
const LOOKS: u32 = 6;
const PUBLISHERS: usize = 4;
const WINDOW: usize = 16;
/// A session that is away, and one that comes as often as it can.
const SESSIONS: [&str; 2] = ["away", "steady"];

/// A message: the number of its connection, and its own on that.
type Name = (u64, u64);

/// What one publisher was told. It sends each message once.
#[derive(Default)]
struct Told {
    sent: u64,
    acknowledged: Vec<Name>,
    refused: u64,
}

/// What one session was sent: each message at its first delivery, in order, and how often.
#[derive(Default)]
struct Sent {
    first: Vec<Name>,
    times: BTreeMap<Name, u64>,
}

/// What it all came to.
pub struct Count {
    pub acknowledged: u64,
    pub refused: u64,
    /// Sent, and neither acknowledged nor refused before the connection was gone.
    pub untold: u64,
    pub lost: u64,
    /// Deliveries of what had come before.
    pub again: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count { acknowledged, refused, untold, lost, again } = self;
        write!(
            f,
            "{acknowledged} messages acknowledged, {refused} refused, {untold} without an answer; \
             {lost} lost, {again} deliveries came again"
        )
    }
}

pub struct Ledger {
    at: SocketAddr,
    told: [Mutex<Told>; PUBLISHERS],
    sent: [Mutex<Sent>; 2],
    connections: AtomicU64,
    acknowledged: AtomicU64,
    refused: AtomicU64,
}

impl Ledger {
    /// Of a broker that is at that address, whatever process it is. The sessions begin.
    pub fn new(at: SocketAddr) -> Ledger {
        for name in SESSIONS {
            let (mut line, present) = come_back(at, name).expect("it accepts");
            assert!(!present);
            subscribe(&mut line, "ledger/#", 1);
        }
        Ledger {
            at,
            told: Default::default(),
            sent: Default::default(),
            connections: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Does `work` while all publishers and the session that comes are at work.
    pub fn under_load<T>(&self, work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stop = &stop;
            for publisher in 0..PUBLISHERS {
                scope.spawn(move || {
                    self.again_and_again(stop, || self.publish(publisher, stop));
                });
            }
            scope.spawn(move || self.again_and_again(stop, || self.read("steady", stop)));
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn again_and_again(&self, stop: &AtomicBool, work: impl Fn() -> io::Result<()>) {
        while !stop.load(Ordering::Relaxed) {
            let _ = work();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many messages were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until some more are acknowledged.
    pub fn wait_for_more(&self) {
        let before = self.acknowledged();
        eventually("messages are acknowledged", || self.acknowledged() > before + 50);
    }

    fn publish(&self, publisher: usize, stop: &AtomicBool) -> io::Result<()> {
        let mut told = self.told[publisher].lock().expect("nobody panics with it");
        let mut line = Line::open(self.at, &Connect::new(V5, unique("p")), PATIENCE)?;
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (topic, mut waiting) = (format!("ledger/{connection}"), BTreeMap::new());
        let (mut next, mut looks) = (0, 0);
        loop {
            while waiting.len() < WINDOW && !stop.load(Ordering::Relaxed) {
                let id = (next % 60_000 + 1) as u16;
                line.send(&Publish::new(&topic, 1, next.to_string()).id(id).encode(V5))?;
                waiting.insert(id, next);
                told.sent += 1;
                next += 1;
            }
            if waiting.is_empty() {
                return Ok(());
            }
            match line.next(LOOK)? {
                Some(Packet::Ack(ack)) => {
                    let number = waiting.remove(&ack.id).expect("it was sent, and is told once");
                    looks = 0;
                    if ack.reason < 0x80 {
                        assert_eq!(ack.reason, 0, "there are sessions that want it");
                        told.acknowledged.push((connection, number));
                        self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(ack.reason, 0x97, "storage refuses");
                        told.refused += 1;
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        // Who is refused does not try as often as it can.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                Some(other) => panic!("instead of a PUBACK: {other:?}"),
                None if looks == LOOKS => return Err(io::ErrorKind::TimedOut.into()),
                None => looks += 1,
            }
        }
    }

    /// Takes messages on one connection until it ends or `stop` says so.
    fn read(&self, name: &str, stop: &AtomicBool) -> io::Result<()> {
        let (mut line, present) = come_back(self.at, name)?;
        assert!(present, "the session of {name} is gone");
        while !stop.load(Ordering::Relaxed) {
            self.take(name, &mut line, Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Takes messages until none comes for `quiet`.
    fn take(&self, name: &str, line: &mut Line, quiet: Duration) -> io::Result<()> {
        let at = SESSIONS.iter().position(|&known| known == name).expect("a session");
        while let Some(packet) = line.next(quiet)? {
            let Packet::Publish(publish) = packet else { continue };
            let connection = publish.topic.strip_prefix("ledger/").expect("of a publisher");
            let number = |text: &str| text.parse().expect("a number");
            let name: Name = (number(connection), number(&publish.text()));
            let mut sent = self.sent[at].lock().expect("nobody panics with it");
            let times = sent.times.entry(name).or_insert(0);
            *times += 1;
            if *times == 1 {
                sent.first.push(name);
            }
            drop(sent);
            line.acknowledge(&publish)?;
        }
        Ok(())
    }

    /// Both sessions take what is left, and all is compared.
    pub fn close(&self, what: &str) -> Count {
        for name in SESSIONS {
            let (mut line, present) = come_back(self.at, name).expect("it accepts");
            assert!(present, "{what}: the session of {name} is gone");
            self.take(name, &mut line, QUIET).expect("it stays");
        }
        let mut count = Count { acknowledged: 0, refused: 0, untold: 0, lost: 0, again: 0 };
        for told in &self.told {
            let told = told.lock().expect("nobody panics with it");
            let acknowledged = told.acknowledged.len() as u64;
            count.acknowledged += acknowledged;
            count.refused += told.refused;
            count.untold += told.sent - acknowledged - told.refused;
            for (name, sent) in SESSIONS.iter().zip(&self.sent) {
                let sent = sent.lock().expect("nobody panics with it");
                let lacks = |message: &&Name| !sent.times.contains_key(*message);
                let lost: Vec<_> = told.acknowledged.iter().filter(lacks).collect();
                assert!(lost.is_empty(), "{what}: {name}: acknowledged and lost: {lost:?}");
                count.lost += lost.len() as u64;
            }
        }
        for (name, sent) in SESSIONS.iter().zip(&self.sent) {
            let sent = sent.lock().expect("nobody panics with it");
            let mut last = BTreeMap::new();
            for &(connection, number) in &sent.first {
                let before = last.insert(connection, number);
                assert!(before < Some(number), "{what}: {name}: {number} came after {before:?}");
            }
            count.again += sent.times.values().map(|times| times - 1).sum::<u64>();
        }
        count
    }
}
