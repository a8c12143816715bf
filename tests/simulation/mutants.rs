//! The simulation put to the test: for each deliberate mistake of `ringmq::mutant`, random runs
//! from seed 1 until one of them notices, and the seed that does without a mistake, which must
//! pass.
//! `mutants.tsv` says how many seeds each may take; a mutant that lives longer is a hole in the
//! simulation's checks. It also says which seed has caught each: that one is tried first, which
//! spares those before it. A process makes one mistake for all its threads, so each has its own.

use crate::random;
use ringmq::mutant::Mutant;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// mutant, most seeds, the seed that caught it, what it breaks, the check that caught it.
const TABLE: &str = include_str!("mutants.tsv");
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulation/mutants.tsv");
/// Nobody needs more seeds than this, or the checks are too weak.
const MOST: u64 = 240;
/// A process that takes longer hangs where the simulation does not see it.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the runs of one process came to.
#[derive(Clone, Debug)]
enum End {
    /// At this seed, by this check.
    Caught(u64, String),
    Alive,
    /// The process neither ended nor noticed.
    Hung,
}

/// The most seeds each mutant may take, and the one that has caught it, if that is known.
fn bounds() -> BTreeMap<&'static str, (u64, Option<u64>)> {
    let row = |line: &'static str| {
        let mut cells = line.split('\t');
        let name = cells.next().unwrap();
        let most = cells.next().and_then(|most| most.parse().ok()).unwrap();
        (name, (most, cells.next().and_then(|seed| seed.parse().ok())))
    };
    TABLE.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

/// Runs a mutant: with the seed that has caught it, and with all up to `most` if that does not.
fn run_mutant(name: &str, most: u64, known: Option<u64>) -> End {
    let known = known.filter(|&seed| seed <= most);
    match known.map(|seed| run_apart(Some(name), seed, seed)) {
        None | Some(End::Alive) => run_apart(Some(name), 1, most),
        Some(end) => end,
    }
}

/// Runs `name` (or no mutant) from seed `first` to `last` in a process of its own.
fn run_apart(name: Option<&str>, first: u64, last: u64) -> End {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "mutants::in_this_process", "--ignored", "--nocapture"])
        .env("SIM_MUTANT", name.unwrap_or(""))
        .env("SIM_FIRST", first.to_string())
        .env("SIM_LAST", last.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    });
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return End::Hung;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = reader.join().unwrap();
    let (mut seed, mut alive) = (first, false);
    for line in text.lines() {
        let mut cells = line.split('\t');
        match (cells.next(), cells.next(), cells.next()) {
            (Some("SEED"), Some(number), _) => seed = number.parse().unwrap(),
            (Some("CAUGHT"), Some(check), _) => return End::Caught(seed, check.to_owned()),
            (Some("ALIVE"), ..) => alive = true,
            _ => {}
        }
    }
    if alive { End::Alive } else { End::Caught(seed, "the process died".to_owned()) }
}

/// The other end of [`run_apart`].
#[test]
#[ignore = "started by every_mutant_is_caught, once per mutant"]
fn in_this_process() {
    let name = std::env::var("SIM_MUTANT").unwrap_or_default();
    let number = |name| crate::runner::number(name).unwrap_or(1);
    let mutant = Mutant::ALL.iter().find(|row| row.1 == name).map(|row| row.0);
    assert!(mutant.is_some() || name.is_empty(), "no mutant {name}");
    Mutant::activate(mutant);
    set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (_, Some(text)) => text.clone(),
            _ => String::new(),
        };
        let at = info.location().map_or("", |location| location.file());
        let file = at.rsplit("tests/simulation/").next().unwrap_or(at);
        println!("CAUGHT\t{file}: {}", brief(&text));
    }));
    for seed in number("SIM_FIRST")..=number("SIM_LAST") {
        println!("\nSEED\t{seed}");
        // First what it is likely to break, last what takes long and most mutants leave whole.
        let concerns = |kind| name.starts_with(kind) || name.is_empty();
        let run = || {
            if concerns("Storage") {
                crate::storage::simulate_all(seed);
            }
            if concerns("Cluster") {
                crate::cluster::simulate(seed);
            }
            if concerns("Link") {
                crate::links::simulate(seed);
                crate::answers::simulate(seed);
                crate::answers::bounded();
                crate::answers::silenced();
            }
            if concerns("Standing") {
                crate::publisher_waits::a_flood_makes_no_long_queue();
            }
            if concerns("Upgrade") {
                crate::upgrade::a_suspended_shard_sleeps();
                crate::upgrade::simulate(seed);
                crate::upgrade_kinds::simulate(seed);
                crate::upgrade_copies::simulate(seed);
                crate::upgrade_rounds::simulate(seed);
            }
            if concerns("Upgrade") || concerns("StorageHeld") {
                crate::storage::simulate_upgrades(seed);
            }
            if concerns("Account") || concerns("UpgradeAccounts") {
                crate::retained_accounts::simulate(seed);
            }
            random::simulate(seed, false);
            crate::secure_dialogues::simulate(seed);
            if !concerns("Storage") {
                crate::storage::simulate_all(seed);
            }
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            return;
        }
    }
    println!("ALIVE");
}

/// The message of a failed check, in a few words.
fn brief(text: &str) -> String {
    const PLAIN: &str = "assertion `left == right` failed";
    let line = match text.strip_prefix(PLAIN) {
        Some(rest) => rest.trim_start_matches([':', ' ', '\n']),
        None => text,
    };
    let line = line.lines().next().unwrap_or_default().replace('\t', " ");
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Every item's result, by as many threads as there are cores.
fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    done.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|&(at, _)| at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// `SIM_MUTANT`: only this one. `SIM_WRITE`: writes what was seen into `mutants.tsv`.
#[test]
fn every_mutant_is_caught() {
    let only = std::env::var("SIM_MUTANT").ok();
    let bounds = bounds();
    let all: Vec<_> = Mutant::ALL
        .iter()
        .filter(|row| only.as_deref().is_none_or(|only| only == row.1))
        .map(|&(_, name, what)| (name, what, bounds.get(name).copied()))
        .collect();
    assert!(!all.is_empty(), "no such mutant: {only:?}");
    let ends = each(&all, |&(name, _, row)| {
        let (most, known) = row.unwrap_or((MOST, None));
        run_mutant(name, most, known)
    });
    let mut wrong = Vec::new();
    let mut seeds = BTreeSet::new();
    let mut table = String::from("# mutant\tmost\tneeded\twhat it breaks\tcaught by\n");
    for (&(name, what, row), end) in all.iter().zip(&ends) {
        let most = row.map(|(most, _)| most);
        let (needed, check) = match end {
            End::Caught(seed, check) => (seed.to_string(), check.as_str()),
            End::Alive => ("-".to_owned(), "nothing"),
            End::Hung => ("-".to_owned(), "hangs unseen"),
        };
        match end {
            End::Caught(seed, _) => drop(seeds.insert(*seed)),
            End::Alive | End::Hung => wrong.push(format!("{name} lives: {check}")),
        }
        match most {
            None => wrong.push(format!("{name} has no row in mutants.tsv")),
            Some(most) if most > MOST => wrong.push(format!("{name}: more than {MOST} seeds")),
            Some(_) => {}
        }
        let most = most.map_or("?".to_owned(), |most| most.to_string());
        println!("{name:<28} {needed:>3} of {most:>3}  {what}  [{check}]");
        table += &format!("{name}\t{most}\t{needed}\t{what}\t{check}\n");
    }
    let names: BTreeSet<_> = Mutant::ALL.iter().map(|row| row.1).collect();
    wrong.extend(
        bounds.keys().filter(|&name| !names.contains(name)).map(|n| format!("{n} is no mutant")),
    );
    // Without a mistake the same seeds are green.
    let seeds: Vec<u64> = seeds.into_iter().collect();
    for (seed, end) in seeds.iter().zip(each(&seeds, |&seed| run_apart(None, seed, seed))) {
        if !matches!(end, End::Alive) {
            wrong.push(format!("seed {seed} without a mutant: {end:?}"));
        }
    }
    println!("{} mutants; without one {} seeds", all.len(), seeds.len());
    if std::env::var("SIM_WRITE").is_ok() && only.is_none() {
        std::fs::write(PATH, table).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
