//! The controller against traces: a core that sleeps and wakes, and clients of several kinds.

use super::{Coalesce, Gathering, WAIT};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Added to the number of a source whose acknowledgement comes.
const ACK: usize = 1000;
/// So many acknowledgements that come together have the number of this and so many.
const TOGETHER_ACKS: usize = 1_000_000;
/// Nanoseconds from a message's handling to its acknowledgement.
const ACKNOWLEDGED: u64 = 40_000;
/// Nanoseconds that a step takes, and each event in it.
const STEP: u64 = 5_000;
const EVENT: u64 = 2_000;
/// From the end of a sleep to the first instruction after it.
const WAKING: u64 = 8_000;
const SECOND: u64 = 1_000_000_000;

/// Who sends.
#[derive(Clone, Copy)]
enum Source {
    /// At random, so many per second.
    Poisson(u64),
    /// Evenly, so many per second.
    Paced(u64),
    /// So many at once, every so many nanoseconds.
    Bursts(u64, u64),
    /// Evenly, so many per second, each of which brings an acknowledgement after it was handled.
    Acknowledged(u64),
    /// The same to one subscriber, who acknowledges all messages of a step together.
    Joined(u64),
    /// So many clients, each of which sends this long after its answer, and up to a quarter later.
    Closed(u64, u64),
}

#[derive(Default, Debug)]
struct Outcome {
    /// Of clients that wait for answers, and of all.
    answers: u64,
    events: u64,
    wakes: u64,
    /// From an event to the end of the step that handles it, nanoseconds, summed.
    waited: u64,
    longest: u64,
    /// Sleeps that gathered.
    gathered: u64,
}

impl Outcome {
    fn wakes_per_event(&self) -> f64 {
        self.wakes as f64 / self.events as f64
    }

    fn mean_wait(&self) -> f64 {
        self.waited as f64 / self.events as f64
    }
}

struct Core {
    now: u64,
    random: u64,
    controller: Gathering,
    packets: u64,
    sources: Vec<Source>,
    /// When, and of which source.
    coming: BinaryHeap<Reverse<(u64, usize)>>,
    /// Other programs take the processor for some milliseconds every so many nanoseconds; 0: never.
    interrupted_every: u64,
    interrupted_at: u64,
}

impl Core {
    fn new(coalesce: Coalesce, sources: &[Source]) -> Core {
        let mut core = Core {
            now: 0,
            random: 1,
            controller: Gathering::new(coalesce),
            packets: 0,
            sources: Vec::new(),
            coming: BinaryHeap::new(),
            interrupted_every: 0,
            interrupted_at: 0,
        };
        core.change(sources);
        core
    }

    /// From now on these send.
    fn change(&mut self, sources: &[Source]) {
        self.sources = sources.to_vec();
        self.coming.clear();
        for (number, &source) in sources.iter().enumerate() {
            let first = match source {
                Source::Closed(clients, _) => clients,
                _ => 1,
            };
            for _ in 0..first {
                let at = self.now + self.random(100_000);
                self.coming.push(Reverse((at, number)));
            }
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    /// An event of that source came at `at`: when does the next one come, which waits for nothing?
    fn next(&mut self, at: u64, number: usize) {
        if number >= ACK {
            return;
        }
        match self.sources[number] {
            Source::Poisson(rate) => {
                let uniform = (self.random(1 << 40) + 1) as f64 / (1u64 << 40) as f64;
                let gap = -uniform.ln() * 1e9 / rate as f64;
                self.coming.push(Reverse((at + gap as u64, number)));
            }
            Source::Paced(rate) | Source::Acknowledged(rate) | Source::Joined(rate) => {
                self.coming.push(Reverse((at + SECOND / rate, number)))
            }
            Source::Bursts(count, every) => {
                // All but one come at the same time; the last one brings the next burst.
                if self.random(count) == 0 {
                    self.coming.push(Reverse((at + every, number)));
                } else {
                    self.coming.push(Reverse((at, number)));
                }
            }
            Source::Closed(..) => {}
        }
    }

    fn run(&mut self, nanoseconds: u64) -> Outcome {
        let until = self.now + nanoseconds;
        let mut outcome = Outcome::default();
        while self.now < until {
            if self.interrupted_every > 0 && self.interrupted_at <= self.now {
                self.now += self.random(6_000_000);
                self.interrupted_at = self.now + self.random(2 * self.interrupted_every);
            }
            let mut handled = Vec::new();
            while let Some(&Reverse((at, number))) = self.coming.peek()
                && at <= self.now
                && handled.len() < 500
            {
                self.coming.pop();
                handled.push((at, number));
                self.next(at, number);
            }
            if handled.is_empty() {
                self.sleep(&mut outcome);
                continue;
            }
            self.now += STEP + EVENT * handled.len() as u64;
            self.controller.handled(handled.len());
            let mut joined = 0;
            for (at, number) in handled {
                self.packets += (number.saturating_sub(TOGETHER_ACKS) as u64).max(1);
                let waited = self.now - at;
                outcome.events += 1;
                outcome.waited += waited;
                outcome.longest = outcome.longest.max(waited);
                match self.sources.get(number) {
                    Some(&Source::Closed(_, think)) => {
                        outcome.answers += 1;
                        let next = self.now + think + self.random(think / 4);
                        self.coming.push(Reverse((next, number)));
                    }
                    Some(Source::Acknowledged(_)) => {
                        self.coming.push(Reverse((self.now + ACKNOWLEDGED, number + ACK)));
                    }
                    Some(Source::Joined(_)) => joined += 1,
                    _ => {}
                }
            }
            if joined > 0 {
                let together = (self.now + ACKNOWLEDGED, TOGETHER_ACKS + joined);
                self.coming.push(Reverse(together));
            }
            self.controller.exchanged(self.packets);
        }
        outcome
    }

    /// As the kernel's minimum wait does it.
    fn sleep(&mut self, outcome: &mut Outcome) {
        let gather = self.controller.before_sleep(self.now).as_nanos() as u64;
        outcome.wakes += 1;
        outcome.gathered += u64::from(gather > 0);
        let Some(&Reverse((first, _))) = self.coming.peek() else {
            panic!("nobody sends any more")
        };
        let mut early: Vec<u64> = self.coming.iter().map(|Reverse((at, _))| *at).collect();
        early.sort_unstable();
        let company = early.get(31).copied().unwrap_or(u64::MAX);
        let wakes = first.max((self.now + gather).min(company));
        self.now = wakes + WAKING;
    }
}

/// With `auto` and without gathering, after two seconds of getting used to it.
fn both(sources: &[Source]) -> (Outcome, Outcome) {
    let run = |coalesce| {
        let mut core = Core::new(coalesce, sources);
        core.run(2 * SECOND);
        core.run(5 * SECOND)
    };
    (run(Coalesce::Auto), run(Coalesce::Off))
}

/// `auto` takes at most this share of the wake-ups, and no event waits longer than may be.
fn gathers(sources: &[Source], share: f64) {
    let (auto, off) = both(sources);
    let ratio = auto.wakes_per_event() / off.wakes_per_event();
    assert!(ratio <= share, "{ratio:.2}: {auto:?} {off:?}");
    let longest = WAIT.as_nanos() as u64 + off.longest + 50_000;
    assert!(auto.longest <= longest, "{auto:?} {off:?}");
}

/// With `auto` at least this share of answers is given, and events wait at most this much longer.
fn does_not_slow(sources: &[Source], answers: f64, wait: f64) {
    let (auto, off) = both(sources);
    let ratio = auto.answers as f64 / off.answers as f64;
    assert!(ratio >= answers, "{ratio:.3}: {auto:?} {off:?}");
    let ratio = auto.mean_wait() / off.mean_wait();
    assert!(ratio <= wait, "{ratio:.3}: {auto:?} {off:?}");
}

#[test]
fn steady_light_traffic_gathers() {
    gathers(&[Source::Poisson(10_000)], 0.45);
    gathers(&[Source::Paced(10_000)], 0.4);
    gathers(&[Source::Paced(20_000)], 0.3);
    gathers(&[Source::Poisson(4_000)], 0.75);
    gathers(&[Source::Poisson(5_000), Source::Paced(5_000)], 0.45);
    gathers(&[Source::Acknowledged(10_000)], 0.3);
    gathers(&[Source::Acknowledged(5_000), Source::Poisson(5_000)], 0.4);
}

#[test]
fn packets_that_come_together_because_of_waiting_are_no_reason_against_it() {
    gathers(&[Source::Joined(20_000)], 0.4);
    gathers(&[Source::Joined(5_000), Source::Poisson(3_000)], 0.6);
}

#[test]
fn steady_traffic_gathers_whatever_the_dice_say() {
    let mut shares = Vec::new();
    for seed in 1..=20 {
        let mut core = Core::new(Coalesce::Auto, &[Source::Poisson(10_000)]);
        core.random = seed * 7919;
        core.run(2 * SECOND);
        let outcome = core.run(5 * SECOND);
        shares.push(outcome.gathered as f64 / outcome.wakes as f64);
    }
    shares.sort_by(f64::total_cmp);
    // One in twenty may meet odd chances for some seconds.
    assert!(shares[1] > 0.7 && shares[10] > 0.85, "{shares:?}");
}

#[test]
fn a_client_that_waits_for_answers_is_not_slowed_down() {
    for think in [10_000, 30_000, 60_000, 120_000] {
        does_not_slow(&[Source::Closed(1, think)], 0.98, 1.1);
        does_not_slow(&[Source::Closed(2, think)], 0.98, 1.1);
    }
}

#[test]
fn a_hundred_clients_that_wait_for_answers_are_as_fast() {
    for clients in [8, 20, 100, 300] {
        for think in [30_000, 100_000, 1_000_000] {
            does_not_slow(&[Source::Closed(clients, think)], 0.98, f64::INFINITY);
        }
    }
}

#[test]
fn beside_steady_traffic_those_who_wait_for_answers_are_not_slowed_down_either() {
    let steady = Source::Poisson(8_000);
    does_not_slow(&[steady, Source::Closed(1, 20_000)], 0.97, f64::INFINITY);
    does_not_slow(&[Source::Paced(3_000), Source::Closed(4, 60_000)], 0.97, f64::INFINITY);
}

#[test]
fn a_burst_is_answered_as_fast() {
    let (auto, off) = both(&[Source::Bursts(200, 20_000_000)]);
    assert!(auto.mean_wait() <= 1.1 * off.mean_wait(), "{auto:?} {off:?}");
}

#[test]
fn where_nearly_nothing_happens_nothing_is_tried() {
    let (auto, off) = both(&[Source::Poisson(300)]);
    assert!(auto.gathered == 0 && auto.mean_wait() == off.mean_wait(), "{auto:?} {off:?}");
}

#[test]
fn a_change_of_traffic_is_noticed() {
    let mut core = Core::new(Coalesce::Auto, &[Source::Paced(10_000)]);
    core.run(3 * SECOND);
    assert!(core.controller.gathers);
    core.change(&[Source::Closed(1, 30_000)]);
    core.run(SECOND / 2);
    let after = core.run(SECOND);
    assert!(after.gathered * 20 < after.wakes, "after half a second nobody waits: {after:?}");
    core.run(20 * SECOND);
    core.change(&[Source::Paced(10_000)]);
    core.run(2 * SECOND);
    let after = core.run(SECOND);
    assert!(after.gathered * 10 > after.wakes * 8, "after two it gathers again: {after:?}");
    core.change(&[Source::Poisson(100)]);
    core.run(SECOND);
    assert_eq!(core.run(SECOND).gathered, 0, "nothing to save");
}

#[test]
fn a_mode_that_is_configured_is_kept() {
    let time = std::time::Duration::from_micros(120);
    for (coalesce, wait) in [(Coalesce::Off, Default::default()), (Coalesce::For(time), time)] {
        let mut controller = Gathering::new(coalesce);
        for n in 0..10_000 {
            controller.handled(3);
            assert_eq!(controller.before_sleep(n * 100_000), wait);
        }
        assert_eq!(controller.probes, 0);
    }
}

#[test]
fn on_a_busy_machine_steady_traffic_gathers_too() {
    for source in [Source::Poisson(10_000), Source::Paced(10_000), Source::Poisson(30_000)] {
        let mut shares = Vec::new();
        for seed in 1..=10 {
            let mut core = Core::new(Coalesce::Auto, &[source]);
            (core.random, core.interrupted_every) = (seed * 7919, 25_000_000);
            core.run(2 * SECOND);
            let outcome = core.run(5 * SECOND);
            shares.push(outcome.gathered as f64 / outcome.wakes as f64);
        }
        shares.sort_by(f64::total_cmp);
        assert!(shares[1] > 0.7 && shares[5] > 0.85, "{shares:?}");
    }
}

#[test]
fn on_a_busy_machine_a_client_that_waits_for_answers_is_not_slowed_down_either() {
    let run = |coalesce| {
        let mut core = Core::new(coalesce, &[Source::Closed(1, 20_000)]);
        core.interrupted_every = 25_000_000;
        core.run(2 * SECOND);
        core.run(10 * SECOND).answers
    };
    let ratio = run(Coalesce::Auto) as f64 / run(Coalesce::Off) as f64;
    assert!(ratio > 0.96, "{ratio:.3}");
}
