//! What bystanders feel: a publisher and a subscriber that exchange messages while something else
//! goes wrong, and what the broker says and uses.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::*;

/// Round trips of one pair.
#[derive(Default)]
pub struct Trips(Vec<Duration>);

impl Trips {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }

    pub fn worst(&self) -> Duration {
        self.percentile(100)
    }
}

/// Runs `work` beside pairs of clients on every combination of shards, one round trip every 5 ms
/// at QoS 1. A message lost, doubled or out of order fails, and so does a broken connection.
#[track_caller]
pub fn beside<T>(broker: &Broker, what: &str, work: impl FnOnce() -> T) -> (T, Trips) {
    let stop = AtomicBool::new(false);
    let (outcome, trips) = std::thread::scope(|scope| {
        let (ready, connected) = mpsc::channel();
        let (stop, pairs) = (&stop, 0..4);
        let pairs = pairs.map(|_| {
            let ready = ready.clone();
            scope.spawn(move || pair(broker, stop, &ready))
        });
        let pairs: Vec<_> = pairs.collect();
        drop(ready);
        // They stand aside, not in the crowd: all are in before it comes. (Or have failed.)
        (0..pairs.len()).for_each(|_| connected.recv().unwrap_or_default());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let mut all = Trips::default();
        for pair in pairs {
            all.0.extend(pair.join().expect("a bystander was disturbed").0);
        }
        (outcome, all)
    });
    let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    figure(
        what,
        &format!(
            "{} round trips beside it, p50 {:?}, p99 {:?}, worst {:?}",
            trips.count(),
            trips.percentile(50),
            trips.percentile(99),
            trips.worst()
        ),
    );
    assert!(broker.alive(), "the broker has ended:\n{}", broker.complaints());
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
    (outcome, trips)
}

fn pair(broker: &Broker, stop: &AtomicBool, ready: &mpsc::Sender<()>) -> Trips {
    let topic = unique("probe");
    let mut sub = Client::subscriber(broker, V5, &unique("s"), &topic, 1);
    let mut publisher = Client::connect(broker, V311, &unique("p"));
    ready.send(()).expect("the work waits for it");
    let mut trips = Trips::default();
    while !stop.load(Ordering::Relaxed) {
        let count = trips.count().to_string();
        let start = Instant::now();
        let id = publisher.send_publish(&Publish::new(&topic, 1, &count));
        sub.expect(&count);
        trips.0.push(start.elapsed());
        publisher.ack(AckKind::PubAck, id);
        std::thread::sleep(Duration::from_millis(5));
    }
    sub.expect_nothing();
    trips
}

/// A figure of a run, for whoever runs with `--nocapture`.
pub fn figure(what: &str, text: &str) {
    println!("figure: {what}: {text}");
}

/// Resident memory of the broker in KiB.
pub fn memory(broker: &Broker) -> u64 {
    let path = format!("/proc/{}/status", broker.pid());
    let status = fs::read_to_string(path).expect("the broker runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.expect("the kernel tells it").trim().trim_end_matches(" kB");
    text.parse().expect("a number")
}

/// CPU time of the broker so far, in ticks of 10 ms.
pub fn ticks(broker: &Broker) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", broker.pid())).expect("it runs");
    let fields = stat.rsplit(')').next().expect("the name is in parentheses").split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// A reader of `$SYS`, for brokers with `sys.interval=1s`.
pub struct Sys(Client);

impl Sys {
    pub fn of(broker: &Broker) -> Sys {
        Sys(Client::connect(broker, V5, &unique("sys")))
    }

    /// The figure as of the last update.
    #[track_caller]
    pub fn read(&mut self, topic: &str) -> u64 {
        let topic = format!("$SYS/broker/{topic}");
        self.0.granted(&topic, 0);
        let value = self.0.delivery();
        assert_eq!(value.topic, topic);
        self.0.unsubscribe(&[&topic]);
        // An update may have come in between.
        while self.0.stashed().is_some() {}
        value.text().parse().expect("a number")
    }

    /// Waits until the figure is so.
    #[track_caller]
    pub fn wait(&mut self, topic: &str, right: impl Fn(u64) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let value = self.read(topic);
            if right(value) {
                return start.elapsed();
            }
            assert!(start.elapsed() < patience() * 2, "{topic} stays {value}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
