//! A panic of a thread beside the shards does not end the broker. What a shard has, what shards
//! share, the log and the cluster's windows are not to be used after a panic in the middle of a
//! change, so a panic ends the process (`broker/log.rs`); but threads that hold nothing that
//! clients were promised declare themselves by [`contain`], and are replaced by new ones.
//!
//! Nothing is unwound: code that can be costs a core 5 to 6 % more instructions for a message in a
//! step of its own, and 18 % for a step without any (bench/README.md). The panic's hook holds the
//! thread for ever where it is ([`hold`]). Its memory and descriptors are lost, so there is a bound
//! on how often a thread is replaced, and whatever locks it has taken stay taken, so it takes none
//! that others take too over anything that can panic.
#![allow(
    clippy::disallowed_types,
    reason = "flags and counts of threads beside the shards, which panics and control set alone"
)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a thread is replaced at most.
const MOST: u32 = 16;
/// The pause before a thread is replaced for the second time, and the longest pause. Each is twice
/// as long as the one before. The first time there is none.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));

/// A kind of thread that may be replaced after a panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContainedThread {
    /// An admin server's.
    Admin,
    /// The exporter of spans.
    Otlp,
    /// The doctor's, which looks at the host for an operator, and is not replaced.
    Doctor,
}

impl ContainedThread {
    /// All of them.
    pub const ALL: [ContainedThread; 3] =
        [ContainedThread::Admin, ContainedThread::Otlp, ContainedThread::Doctor];

    /// Its name in metrics and alarms.
    pub fn name(self) -> &'static str {
        match self {
            ContainedThread::Admin => "admin",
            ContainedThread::Otlp => "otlp",
            ContainedThread::Doctor => "doctor",
        }
    }
}

/// Whether a thread has panicked. Clones are the same flag.
#[derive(Clone, Default, Debug)]
pub struct PanicFlag(Arc<AtomicBool>);

impl PanicFlag {
    /// True when the thread has panicked.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

thread_local! {
    static CONTAINED: RefCell<Option<(ContainedThread, PanicFlag)>> = const { RefCell::new(None) };
}

static PANICS: [AtomicU64; ContainedThread::ALL.len()] =
    [const { AtomicU64::new(0) }; ContainedThread::ALL.len()];

/// From now on a panic of this thread holds it for ever and raises `flag`, and does not end the
/// process.
pub fn contain(kind: ContainedThread, flag: PanicFlag) {
    CONTAINED.set(Some((kind, flag)));
}

/// Counts a panic of this thread. Returns whether the process goes on: [`hold`] has to be called
/// then.
pub fn count_panic() -> bool {
    CONTAINED.with_borrow(|contained| {
        if let Some((kind, _)) = contained {
            PANICS[*kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        contained.is_some()
    })
}

/// Raises the flag of this thread, and holds it for ever.
pub fn hold() -> ! {
    CONTAINED.with_borrow(|contained| {
        if let Some((_, flag)) = contained {
            flag.0.store(true, Ordering::Release);
        }
    });
    loop {
        std::thread::park();
    }
}

/// How often threads of each kind have panicked since the start.
pub fn panics() -> [(&'static str, u64); ContainedThread::ALL.len()] {
    ContainedThread::ALL.map(|kind| (kind.name(), PANICS[kind as usize].load(Ordering::Relaxed)))
}

/// When a thread that has panicked is to be replaced.
#[derive(Default, Debug)]
pub struct Replacements {
    count: u32,
    /// The next one, while the thread is dead.
    next: Option<Instant>,
}

/// What is to be done about a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadCare {
    /// Nothing: it works.
    Works,
    /// Nothing: it has panicked, and its time has not come, or never will.
    Waits,
    /// It has just been found dead. After so long it will be replaced, if at all.
    Died(Option<Duration>),
    /// It is to be replaced now.
    Replace,
}

impl Replacements {
    /// Says what to do about a thread that is dead, or works.
    pub fn look(&mut self, is_dead: bool, now: Instant) -> ThreadCare {
        match self.next {
            None if !is_dead => ThreadCare::Works,
            None if self.count >= MOST => {
                // It is not found again.
                self.next = now.checked_add(Duration::from_secs(u64::from(u32::MAX)));
                ThreadCare::Died(None)
            }
            None => {
                let pause = match self.count.checked_sub(1) {
                    None => Duration::ZERO,
                    Some(before) => PAUSES.0.saturating_mul(1 << before.min(20)).min(PAUSES.1),
                };
                self.next = Some(now + pause);
                ThreadCare::Died(Some(pause))
            }
            Some(next) if next > now => ThreadCare::Waits,
            Some(_) => {
                self.next = None;
                self.count += 1;
                ThreadCare::Replace
            }
        }
    }

    /// True while the thread is dead.
    pub fn is_waiting(&self) -> bool {
        self.next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_says_so_outlives_its_panic() {
        let count = || panics()[ContainedThread::Doctor as usize].1;
        let flag = PanicFlag::default();
        std::thread::scope(|scope| {
            assert!(!scope.spawn(count_panic).join().unwrap());
            assert_eq!(count(), 0);
            let raised = flag.clone();
            let contained = scope.spawn(move || {
                contain(ContainedThread::Doctor, raised);
                count_panic()
            });
            assert!(contained.join().unwrap());
        });
        assert!(!flag.is_raised(), "it was not held");
        assert_eq!(count(), 1);
        let held = flag.clone();
        // It never ends.
        std::thread::spawn(move || {
            contain(ContainedThread::Doctor, held);
            hold()
        });
        while !flag.is_raised() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_thread_is_replaced_after_longer_and_longer_pauses_and_not_for_ever() {
        let mut all = Replacements::default();
        let mut now = Instant::now();
        assert_eq!(all.look(false, now), ThreadCare::Works);
        let mut pauses = Vec::new();
        loop {
            let care = all.look(true, now);
            assert!(all.is_waiting());
            match care {
                ThreadCare::Died(Some(pause)) => {
                    pauses.push(pause.as_secs());
                    if !pause.is_zero() {
                        assert_eq!(all.look(true, now), ThreadCare::Waits);
                    }
                    now += pause;
                    assert_eq!(all.look(true, now), ThreadCare::Replace);
                    assert!(!all.is_waiting());
                    assert_eq!(all.look(false, now), ThreadCare::Works);
                }
                ThreadCare::Died(None) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600, 600, 600, 600]);
        let later = now + Duration::from_secs(1_000_000);
        assert_eq!(all.look(true, later), ThreadCare::Waits, "for good");
    }
}
