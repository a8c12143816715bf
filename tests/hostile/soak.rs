//! All attacks at once, for minutes, beside steady clients who must not notice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::attacks::{ALL, Arena, WEB};
use crate::bystander::{Times, beside, stand_back};
use crate::dice::Dice;
use crate::ground::Ground;
use crate::judge::{figure, seed};
use crate::pair::exchange;
use crate::peer::all_at_once;

/// What a steady client may wait, for 99 of 100 of its messages.
const LIMIT: Duration = Duration::from_millis(20);
/// Twenty messages a second each.
const PACE: Duration = Duration::from_millis(50);
/// Most memory of the broker, in MiB.
const MEMORY: u64 = 2048;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the broker counts of its memory, in MiB by kind; kinds of less than one are left out.
fn counted(ground: &Ground) -> String {
    let page = ground.page().unwrap_or_default();
    let mut kinds: Vec<(&str, f64)> = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("ringmq_memory_bytes{")) {
        let Some((_, rest)) = line.split_once("kind=\"") else { continue };
        let Some((kind, value)) = rest.split_once("\"} ") else { continue };
        let value = value.parse().unwrap_or(0.0);
        match kinds.iter_mut().find(|known| known.0 == kind) {
            Some(known) => known.1 += value,
            None => kinds.push((kind, value)),
        }
    }
    let mib = |value: f64| value / f64::from(1 << 20);
    let large = kinds.into_iter().filter(|&(_, value)| mib(value) >= 1.0);
    large.map(|(kind, value)| format!("{kind} {:.0} ", mib(value))).collect()
}

/// `HOSTILE_MINUTES` (10) of them against `HOSTILE_SHARDS` (2) shards.
pub fn run() {
    all_at_once();
    let lasts = Duration::from_secs(60 * number("HOSTILE_MINUTES", 10));
    let settings = [&["mqtt.max_subscriptions=100000"][..], WEB].concat();
    let ground = Ground::start(number("HOSTILE_SHARDS", 2) as usize, &settings);
    let (outcome, troubles) = beside(&ground, |watch| {
        let stop = AtomicBool::new(false);
        let steady: Vec<(u8, Mutex<Times>)> =
            [0, 0, 1, 1, 2, 2].map(|qos| (qos, Mutex::default())).into();
        let wrong = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let clients: Vec<_> = steady
                .iter()
                .map(|(qos, times)| {
                    let (broker, stop) = (&ground.broker, &stop);
                    scope.spawn(move || {
                        exchange(broker, *qos, PACE, stop, |took| {
                            times.lock().expect("it only adds").add(took, PACE);
                        });
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_secs(3));
            let quiet: Vec<Times> = steady
                .iter()
                .map(|(_, times)| std::mem::take(&mut *times.lock().expect("it only adds")))
                .collect();
            watch.look();
            let until = Instant::now() + lasts;
            for (at, attack) in ALL.iter().enumerate() {
                let (wrong, ground) = (&wrong, &ground);
                scope.spawn(move || {
                    stand_back();
                    let mut dice = Dice::new(seed() * 1000 + at as u64);
                    let mut rounds = 0;
                    while Instant::now() < until && ground.broker.alive() {
                        let arena = Arena {
                            address: ground.broker.address(),
                            web: ground.web(),
                            full: dice.chance(20),
                            until: until.min(Instant::now() + attack.lasts),
                            landed: AtomicU64::new(0),
                        };
                        if let Err(what) = (attack.run)(&arena, &mut dice) {
                            let line = format!("{}: {what}", attack.name);
                            wrong.lock().expect("it only adds").push(line);
                        }
                        rounds += 1;
                    }
                    figure(&format!("{}: {rounds} rounds", attack.name));
                });
            }
            let steps = ground.steps();
            let mut memory = 0;
            while Instant::now() < until && ground.broker.alive() {
                let left = until.saturating_duration_since(Instant::now());
                std::thread::sleep(Duration::from_secs(10).min(left));
                let window = watch.look();
                memory = memory.max(window.memory >> 10);
                figure(&format!(
                    "{} s left: ping {}; pair {}; echo {}; memory {} MiB, counted: {}",
                    until.saturating_duration_since(Instant::now()).as_secs(),
                    window.slowest().told(),
                    window.trips.told(),
                    window.echoes.told(),
                    window.memory >> 10,
                    counted(&ground),
                ));
            }
            stop.store(true, Ordering::Relaxed);
            for (client, (qos, _)) in clients.into_iter().zip(&steady) {
                if client.join().is_err() {
                    let line = format!("a steady client of QoS {qos} lost a message");
                    wrong.lock().expect("it only adds").push(line);
                }
            }
            for ((qos, times), quiet) in steady.iter().zip(quiet) {
                let times = times.lock().expect("it only adds");
                let (count, told, before) = (times.count(), times.told(), quiet.told());
                figure(&format!("QoS {qos}: {count} messages, {told}; before {before}"));
                if times.p99() > LIMIT {
                    let line = format!("QoS {qos}: p99 {:?}, limit {LIMIT:?}", times.p99());
                    wrong.lock().expect("it only adds").push(line);
                }
            }
            let longest = steps.zip(ground.steps());
            let longest = longest.map(|(before, after)| after.longest_since(&before));
            figure(&format!("longest step {longest:?}, most memory {memory} MiB"));
            if memory > MEMORY {
                wrong.lock().expect("it only adds").push(format!("{memory} MiB of memory"));
            }
        });
        std::thread::sleep(Duration::from_secs(8));
        figure(&format!("after all: {}", counted(&ground)));
        wrong.into_inner().expect("it only adds")
    });
    assert!(ground.broker.alive(), "the broker has ended: {}", ground.broker.complaints());
    assert!(outcome.is_empty(), "{}", outcome.join("\n"));
    assert!(troubles.is_empty(), "bystanders were disturbed: {troubles:?}");
}
