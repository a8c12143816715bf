//! What an attack may do to others, and the verdict on each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::attacks::{ALL, Arena, Attack};
use crate::bystander::{Window, beside, stand_back};
use crate::dice::Dice;
use crate::ground::Ground;

/// The least limit in every run, on machines that do other work as well.
const LOOSE: Duration = Duration::from_millis(20);
/// So many times as long as without the attack, or as an echo without a broker takes meanwhile.
const TIMES: u32 = 5;
const TRIES: usize = 3;
/// A step longer than this is one that did not stop in time, however busy the machine is.
const STEP: Duration = Duration::from_millis(262);
/// Bystanders are watched for so long at least: the slowest of a hundred samples says something.
const LEAST: Duration = Duration::from_millis(300);
/// What is promised.
const PROMISED: Duration = Duration::from_millis(5);
const PROMISED_BROADCAST: Duration = Duration::from_millis(20);

pub fn is_strict() -> bool {
    std::env::var_os("HOSTILE_STRICT").is_some()
}

pub fn seed() -> u64 {
    std::env::var("HOSTILE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

pub fn figure(text: &str) {
    println!("figure: {text}");
}

/// What is wrong after an attack.
enum Wrong {
    /// Perhaps the machine's fault: tried again.
    Late(String),
    /// Nobody's fault but the broker's.
    Fatal(String),
}

/// Every attack (or `HOSTILE_ONLY`) against brokers of so many shards.
pub fn all(shards: usize) {
    let only = std::env::var("HOSTILE_ONLY").ok();
    let wanted = |attack: &&Attack| only.as_deref().is_none_or(|only| only == attack.name);
    let mut left: Vec<&Attack> = ALL.iter().filter(wanted).collect();
    assert!(!left.is_empty(), "no such attack: {only:?}");
    left.retain(|attack| attack.shards <= shards);
    // Those that want the same broker follow each other.
    left.sort_by_key(|attack| attack.settings);
    left.reverse();
    let mut failed = Vec::new();
    while let Some(last) = left.last() {
        let settings = last.settings;
        let ground = Ground::start(shards, settings);
        let (hurt, troubles) = beside(&ground, |watch| {
            std::thread::sleep(Duration::from_millis(100));
            watch.look();
            std::thread::sleep(Duration::from_millis(700));
            let quiet = watch.look();
            figure(&format!(
                "{shards} shards, quiet: ping {}; pair {}; echo {}",
                quiet.slowest().told(),
                quiet.trips.told(),
                quiet.echoes.told()
            ));
            let run = |attack| judge(&ground, attack, &quiet, || (watch.look(), watch.troubles()));
            while let Some(attack) = left.pop_if(|attack| attack.settings == settings) {
                let Err(wrong) = run(attack) else { continue };
                // The next one finds a broker that is as if nothing had happened.
                return Some(format!("{}: {wrong}", attack.name));
            }
            None
        });
        failed.extend(hurt.or_else(|| troubles.into_iter().next()));
    }
    assert!(failed.is_empty(), "{} attacks hurt others:\n{}", failed.len(), failed.join("\n"));
}

/// One attack, again when it was only late.
fn judge(
    ground: &Ground,
    attack: &Attack,
    quiet: &Window,
    look: impl Fn() -> (Window, Vec<String>),
) -> Result<(), String> {
    let tries = if is_strict() { 1 } else { TRIES };
    let mut late = Vec::new();
    for attempt in 0..tries {
        match once(ground, attack, quiet, attempt as u64, &look) {
            Ok(()) => return Ok(()),
            Err(Wrong::Fatal(wrong)) => return Err(wrong),
            Err(Wrong::Late(wrong)) => late.push(wrong),
        }
    }
    Err(late.join("; again: "))
}

fn once(
    ground: &Ground,
    attack: &Attack,
    quiet: &Window,
    attempt: u64,
    look: impl Fn() -> (Window, Vec<String>),
) -> Result<(), Wrong> {
    let fatal = |text: String| Err(Wrong::Fatal(text));
    let seed = seed() + attempt;
    let (before, steps_before) = (ground.memory(), ground.steps());
    look();
    let began = Instant::now();
    let arena = Arena {
        address: ground.broker.address(),
        web: ground.web(),
        full: is_strict(),
        until: began + attack.lasts,
        landed: AtomicU64::new(0),
    };
    let outcome = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            stand_back();
            (attack.run)(&arena, &mut Dice::new(seed))
        });
        attacker.join().unwrap_or_else(|_| Err("the attack itself failed".into()))
    });
    let took = began.elapsed();
    std::thread::sleep(LEAST.saturating_sub(took));
    let (window, troubles) = look();
    let longest = steps_before.zip(ground.steps());
    let longest = longest.map(|(before, after)| after.longest_since(&before));
    let landed = arena.landed.load(Ordering::Relaxed);
    let grown = window.memory.saturating_sub(before) >> 10;
    let step = match longest {
        Some(Some(step)) => format!("at most {step:?}"),
        Some(None) => "beyond every bound".into(),
        None => "unknown".into(),
    };
    figure(&format!(
        "{} shards, {}, seed {seed}: {landed} {} in {:.1} s; ping {}; pair {}; echo {}; \
         memory {} + {grown} MiB; longest step {step}",
        ground.shards,
        attack.name,
        attack.unit,
        took.as_secs_f64(),
        window.slowest().told(),
        window.trips.told(),
        window.echoes.told(),
        before >> 10,
    ));
    if !ground.broker.alive() {
        return fatal(format!("the broker has ended: {}", ground.broker.complaints()));
    }
    if !troubles.is_empty() {
        return fatal(format!("bystanders were disturbed: {troubles:?}"));
    }
    if let Err(wrong) = outcome {
        return fatal(wrong);
    }
    if landed == 0 {
        return fatal("the attack did nothing".into());
    }
    if grown > attack.growth {
        return fatal(format!("memory grew by {grown} MiB, {} are allowed", attack.growth));
    }
    let series = [
        ("PINGREQ", window.slowest(), quiet.slowest(), 1),
        // There and back, by two shards.
        ("QoS 1 round trips", window.trips, quiet.trips.clone(), 2),
    ];
    for (what, seen, quiet, ways) in series {
        let promised = if attack.broadcast { PROMISED_BROADCAST } else { PROMISED } * ways;
        // Shards that share a core wait for each other; and never less than what is promised.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let least = promised.max(LOOSE * ground.shards.div_ceil(cores) as u32);
        let loose = least.max(quiet.p99() * TIMES).max(window.echoes.p99() * TIMES);
        let limit = if is_strict() { promised } else { loose };
        if seen.p99() > limit {
            let (p99, worst, count) = (seen.p99(), seen.worst(), seen.count());
            let line = format!("{what}: p99 {p99:?} of {count}, worst {worst:?}, limit {limit:?}");
            return Err(Wrong::Late(line));
        }
    }
    match longest {
        None => fatal("the admin server did not answer".into()),
        Some(Some(step)) if step <= STEP => Ok(()),
        Some(step) => Err(Wrong::Late(format!("a step of {step:?}, limit {STEP:?}"))),
    }
}
