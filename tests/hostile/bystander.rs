//! Those who do nothing wrong while somebody attacks: clients that ping, one on each shard; pairs
//! that exchange messages; and an echo without a broker, which shows what the machine itself adds.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ground::Ground;
use crate::pair::exchange;
use crate::support::*;

const PING: Duration = Duration::from_millis(2);
const PACE: Duration = Duration::from_millis(5);
const PAIRS: usize = 3;

/// How long something took, each time.
#[derive(Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One of a series in which one begins every `pace`. When one takes longer, those that would
    /// have begun meanwhile would have waited as well: without them one stall of five seconds
    /// would be one sample among thousands.
    pub fn add(&mut self, time: Duration, pace: Duration) {
        let mut left = time;
        loop {
            self.0.push(left);
            match left.checked_sub(pace) {
                Some(next) if next > pace => left = next,
                _ => return,
            }
        }
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn percentile(&self, percent: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * percent / 100.0) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub fn p99(&self) -> Duration {
        self.percentile(99.0)
    }

    pub fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// For a line of figures.
    pub fn told(&self) -> String {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99) = (self.percentile(50.0), self.p99());
        let (p50, p99, worst) = (millis(p50), millis(p99), millis(self.worst()));
        format!("p50 {p50:.2} p99 {p99:.2} worst {worst:.1} ms")
    }
}

/// What was seen between two looks.
#[derive(Clone, Default)]
pub struct Window {
    /// Of each shard.
    pub pings: Vec<Times>,
    pub trips: Times,
    pub echoes: Times,
    /// Most memory of the broker, in KiB.
    pub memory: u64,
}

impl Window {
    /// Those of the shard where they took longest.
    pub fn slowest(&self) -> Times {
        self.pings.iter().max_by_key(|pings| pings.p99()).cloned().unwrap_or_default()
    }
}

pub struct Watch<'a> {
    ground: &'a Ground,
    window: Mutex<Window>,
    stop: AtomicBool,
    /// Finished rounds of each bystander, and whether it is still there.
    rounds: Vec<AtomicU64>,
    /// What went wrong for them.
    troubles: Mutex<Vec<String>>,
}

const GONE: u64 = u64::MAX;

impl Watch<'_> {
    /// What was seen since the last look. Waits for what is under way.
    pub fn look(&self) -> Window {
        let rounds: Vec<_> = self.rounds.iter().map(|r| r.load(Ordering::Acquire)).collect();
        for (round, before) in self.rounds.iter().zip(rounds) {
            while round.load(Ordering::Acquire) == before && before != GONE {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with(&self, change: impl FnOnce(&mut Window)) {
        change(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn ping(&self, at: usize, mut client: Client) {
        while !self.is_over() {
            let began = Instant::now();
            client.ping();
            let took = began.elapsed();
            self.with(|window| {
                window.pings.resize_with(self.ground.shards, Times::default);
                window.pings[at].add(took, PING);
            });
            self.rounds[at].fetch_add(1, Ordering::Release);
            std::thread::sleep(PING.saturating_sub(took));
        }
    }

    fn pair(&self, at: usize) {
        exchange(&self.ground.broker, 1, PACE, &self.stop, |took| {
            self.with(|window| window.trips.add(took, PACE));
            self.rounds[at].fetch_add(1, Ordering::Release);
        });
    }

    fn echo(&self, mut stream: TcpStream) {
        while !self.is_over() {
            let began = Instant::now();
            let mut answer = [0; 2];
            stream.write_all(&[0xc0, 0]).expect("the echo is there");
            stream.read_exact(&mut answer).expect("the echo is there");
            let took = began.elapsed();
            self.with(|window| window.echoes.add(took, PING));
            std::thread::sleep(PING.saturating_sub(took));
        }
    }

    fn weigh(&self) {
        while !self.is_over() {
            let memory = self.ground.memory();
            self.with(|window| window.memory = window.memory.max(memory));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs one bystander; what stops it is a trouble, not the end of the test.
    fn attend(&self, at: usize, name: &str, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            let line = format!("{name}: {}", said.unwrap_or_default());
            self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        self.rounds[at].store(GONE, Ordering::Release);
    }
}

/// Runs `work` beside the bystanders. Returns also what troubled them to the end.
pub fn beside<T>(ground: &Ground, work: impl FnOnce(&Watch<'_>) -> T) -> (T, Vec<String>) {
    let clients = ground.client_on_each();
    let watch = Watch {
        ground,
        window: Mutex::default(),
        stop: AtomicBool::new(false),
        rounds: (0..clients.len() + PAIRS).map(|_| AtomicU64::new(0)).collect(),
        troubles: Mutex::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("it is bound"));
    let near = near.expect("it listens");
    let (mut far, _) = listener.accept().expect("somebody connects");
    near.set_nodelay(true).expect("TCP_NODELAY");
    far.set_nodelay(true).expect("TCP_NODELAY");
    let outcome = std::thread::scope(|scope| {
        let watch = &watch;
        for (at, client) in clients.into_iter().enumerate() {
            scope.spawn(move || {
                watch.attend(at, &format!("pings on shard {at}"), || watch.ping(at, client));
            });
        }
        for pair in 0..PAIRS {
            let at = ground.shards + pair;
            scope.spawn(move || {
                watch.attend(at, &format!("pair {pair}"), || watch.pair(at));
            });
        }
        scope.spawn(move || {
            let mut bytes = [0; 2];
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        });
        scope.spawn(move || watch.echo(near));
        scope.spawn(move || watch.weigh());
        let outcome = catch_unwind(AssertUnwindSafe(|| work(watch)));
        watch.stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    });
    (outcome, watch.troubles())
}

/// Gives way to everybody else: this thread and those that it starts. Attackers take what is left
/// of the machine, so that what bystanders feel is the broker's doing.
pub fn stand_back() {
    let me = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    let id = me.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
    let mut idle = std::process::Command::new("chrt");
    idle.args(["--idle", "--pid", "0", &id]).stdout(std::process::Stdio::null());
    // Without the program the figures are only worse.
    let _ = idle.stderr(std::process::Stdio::null()).status();
}
