//! Many seeds on all cores, and one line for all of them. What a seed does depends on the seed
//! alone, never on the thread or on what ran beside it.

use crate::random::{Outcome, simulate};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Seconds that `cargo test` alone spends here.
const SHORT: u64 = 12;

/// What the environment says.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What all runs so far came to.
struct Progress {
    next: u64,
    done: u64,
    sum: Outcome,
    failed: Vec<u64>,
    told: Instant,
}

impl Progress {
    fn add(&mut self, outcome: Outcome) {
        self.done += 1;
        // Sums in no particular order are the same in every order.
        self.sum.hash = self.sum.hash.wrapping_add(outcome.hash);
        self.sum.steps += outcome.steps;
        self.sum.millis += outcome.millis;
        self.sum.messages += outcome.messages;
        self.sum.delivered += outcome.delivered;
        self.sum.dropped += outcome.dropped;
    }

    fn line(&self, began: Instant) -> String {
        let Outcome { hash, steps, millis, messages, delivered, .. } = self.sum;
        format!(
            "{} seeds, {} failed, {steps} steps, {:.1} virtual hours, {messages} messages \
             published and {delivered} deliveries checked, {:.0} s, hashes {hash:016x}",
            self.done,
            self.failed.len(),
            millis as f64 / 3.6e6,
            began.elapsed().as_secs_f64(),
        )
    }
}

thread_local! {
    /// What the last panic of this thread said; `None` on threads that run no seeds.
    static LAST_WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of threads that run seeds are reported with their seed, in one place.
fn catch_last_words() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let ours = LAST_WORDS.with(|words| {
            words.borrow_mut().as_mut().map(|words| *words = info.to_string()).is_some()
        });
        if !ours {
            others(info);
        }
    }));
}

fn run_seeds(progress: &Mutex<Progress>, last: u64, until: Option<Instant>, tell: bool) {
    let began = Instant::now();
    LAST_WORDS.with(|words| *words.borrow_mut() = Some(String::new()));
    loop {
        let seed = {
            let mut progress = progress.lock().unwrap();
            if progress.next > last || until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            if progress.told.elapsed() >= Duration::from_secs(60) {
                progress.told = Instant::now();
                println!("{}", progress.line(began));
            }
            progress.next += 1;
            progress.next - 1
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| simulate(seed, false)));
        let mut progress = progress.lock().unwrap();
        match outcome {
            Ok(outcome) => {
                if tell {
                    println!("seed {seed}: {outcome:?}");
                }
                progress.add(outcome);
            }
            Err(_) => {
                let words = LAST_WORDS.with(|words| words.borrow().clone()).unwrap_or_default();
                println!("seed {seed} FAILED: {words}\n  scripts/simulate --seed {seed}");
                progress.done += 1;
                progress.failed.push(seed);
            }
        }
    }
}

/// `SIM_SEED` replays one seed with its trace; `SIM_FIRST`, `SIM_SEEDS`, `SIM_MINUTES` and
/// `SIM_THREADS` say which and how many else.
#[test]
fn random_runs_lose_nothing_and_leave_nothing() {
    if let Some(seed) = number("SIM_SEED") {
        println!("seed {seed}: {:?}", simulate(seed, number("SIM_QUIET").is_none()));
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(1);
    let (seeds, minutes) = (number("SIM_SEEDS"), number("SIM_MINUTES"));
    let began = Instant::now();
    let until = match (seeds, minutes) {
        (None, None) => Some(began + Duration::from_secs(SHORT)),
        (_, Some(minutes)) => Some(began + Duration::from_secs(60 * minutes)),
        (Some(_), None) => None,
    };
    let last = seeds.map_or(u64::MAX, |seeds| first + seeds - 1);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = number("SIM_THREADS").unwrap_or(cores).max(1);
    let (sum, failed) = (Outcome::default(), Vec::new());
    let progress = Progress { next: first, done: 0, sum, failed, told: began };
    let progress = Mutex::new(progress);
    catch_last_words();
    let tell = number("SIM_TELL").is_some();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run_seeds(&progress, last, until, tell));
        }
    });
    let mut progress = progress.into_inner().unwrap();
    progress.failed.sort_unstable();
    let end = progress.next - 1;
    println!("seeds {first} to {end}: {}", progress.line(began));
    assert!(progress.failed.is_empty(), "failed seeds: {:?}", progress.failed);
}

/// In this process, and in others: nothing but the seed decides.
#[test]
fn a_seed_is_one_run() {
    let here = format!("seed 7: {:?}", simulate(7, false));
    assert_eq!(here, format!("seed 7: {:?}", simulate(7, false)));
    let elsewhere = Command::new(std::env::current_exe().unwrap())
        .args(["random_runs_lose_nothing_and_leave_nothing", "--nocapture"])
        .env("SIM_SEED", "7")
        .env("SIM_QUIET", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8(elsewhere.stdout).unwrap();
    assert!(printed.contains(&here), "{here}\n{printed}");
}
