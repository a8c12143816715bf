//! What a core does when it has nothing to do, and how other threads get its attention.
//!
//! Three stages, each cheaper to stay in and dearer to leave: *spin* on memory, *doze* in a bounded
//! kernel wait on ring 0, *park* in glommio so that its timers and tasks run.
//!
//! Why no wake-up is lost is said in `flag`.
//!
//! There is one eventfd per core. Doorbells write it, completions of secondary rings write it
//! while the core sleeps, completions of ring 0 while it is parked. Ring 0 polls it (multishot), so
//! a write is a completion of ring 0: it ends a doze, or makes one end at once, because the kernel
//! looks at the completions before it sleeps. Glommio polls it too: it ends a park. (A chain of two
//! eventfds, the second written by ring 0's poll of the first, does lose wake-ups: tried.) It
//! counts: a write before glommio has armed its poll makes the poll complete at once. It is
//! brought to zero before the flag is raised, so no write that matters is wiped out.
//!
//! Before a park, the rings are first made to write the eventfd and then entered once more without
//! waiting. Work that the kernel had queued before that entry is run by it and seen by the look
//! after it; work queued later finds the signal switched on. A long doze does the same on weakly
//! ordered CPUs; on x86 a look at shared memory tells as much, and with dozens of rings their
//! system calls would be most of what an idle crowd costs. Before a short doze that look is enough
//! everywhere: where it may miss something, then for as long as the doze lasts (2 ms).
use super::driver::Driver;
use super::flag::SleepFlag;
use super::glommio_wait;
use crate::atomic::{Ordering, fence};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A doze while events are frequent. While they are not, it is `long_doze`: clients that ping every
/// few milliseconds in all would otherwise cost two time-outs for each ping.
const DOZE: Duration = Duration::from_millis(2);
/// The kernel shows work that it has queued (an atomic "or", here a full barrier) before it looks
/// whether to signal; after switching the signal on and a fence, we see one or are told.
const ORDERED: bool = cfg!(target_arch = "x86_64");
/// Empty dozes before parking.
const DOZES: u32 = 3;

/// Wakes one core from any thread. Ring it after publishing what it should find.
#[derive(Clone, Debug)]
pub struct Doorbell {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // On a cache line of its own: every push to this core's mailboxes looks at it.
    flag: PaddedFlag,
    eventfd: OwnedFd,
}

#[repr(align(128))]
#[derive(Debug, Default)]
struct PaddedFlag(SleepFlag);

impl Doorbell {
    pub(super) fn new(eventfd: OwnedFd) -> Self {
        Doorbell { shared: Arc::new(Shared { flag: PaddedFlag::default(), eventfd }) }
    }

    /// Makes the core look at its mail soon. A system call only when the core sleeps.
    pub fn ring(&self) {
        if self.shared.flag.0.must_wake() {
            glommio_wait::signal(&self.shared.eventfd);
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.shared.eventfd.as_raw_fd()
    }

    fn eventfd(&self) -> &OwnedFd {
        &self.shared.eventfd
    }

    fn flag(&self) -> &SleepFlag {
        &self.shared.flag.0
    }
}

/// Whether spinning has paid lately. Work that comes every 100 µs is never met by a spin of 20 µs,
/// which would then only burn a fifth of the core.
pub(super) struct SpinPayoff {
    credit: u32,
    skipped: u32,
}

/// Spins in a row that met nothing before spinning stops.
const CREDIT: u32 = 4;
/// Then every so many idles one more is tried.
const RETRY: u32 = 64;

impl SpinPayoff {
    pub(super) fn new() -> Self {
        SpinPayoff { credit: CREDIT, skipped: 0 }
    }

    fn try_spin(&mut self) -> bool {
        self.skipped += 1;
        self.credit > 0 || self.skipped >= RETRY
    }

    fn spun(&mut self, found: bool) {
        self.skipped = 0;
        self.credit =
            if found { (self.credit + 1).min(CREDIT) } else { self.credit.saturating_sub(1) };
    }
}

/// How long nothing has happened.
pub(super) struct IdleHistory {
    dozes: u32,
    /// The last doze lasted longer than a short one may.
    sparse: bool,
}

impl IdleHistory {
    pub(super) fn new() -> Self {
        IdleHistory { dozes: 0, sparse: false }
    }

    pub(super) fn disturbed(&mut self) {
        self.dozes = 0;
    }
}

impl Driver {
    /// The handle by which other threads wake this core.
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Waits until there is something to do: a completion, a doorbell, `recheck` (mail, say) says
    /// so, or `deadline` from now is over. Returns at once when there is. May return early.
    ///
    /// Must be awaited on the driver's own glommio executor. `recheck` must be cheap; it is called
    /// repeatedly.
    pub async fn idle(&mut self, deadline: Option<Duration>, mut recheck: impl FnMut() -> bool) {
        let until = self.wake_time(deadline);
        if self.idle_history.dozes < DOZES {
            if self.spin_payoff.try_spin() {
                let found = self.spin(until, &mut recheck);
                self.spin_payoff.spun(found);
                if found {
                    return;
                }
            }
            while self.idle_history.dozes < DOZES {
                let frequent = self.idle_history.dozes == 0 && !self.idle_history.sparse;
                let most = if frequent { DOZE } else { self.config.long_doze };
                let Some(limit) = left(until, most) else { return };
                let since = Instant::now();
                let found = self.doze(limit, &mut recheck);
                self.idle_history.sparse = since.elapsed() >= DOZE;
                if found {
                    return;
                }
                self.idle_history.dozes += 1;
                futures_lite::future::yield_now().await;
            }
        }
        self.park(until, &mut recheck).await;
    }

    /// Waits for at most `limit`, some microseconds, for what [`Self::idle`] waits for: when the
    /// caller has something to try again soon.
    pub fn nap(&mut self, limit: Duration, mut recheck: impl FnMut() -> bool) {
        self.doze(limit, &mut recheck);
    }

    fn wake_time(&self, deadline: Option<Duration>) -> Option<Instant> {
        let mine = self.next_timer();
        let theirs = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        mine.into_iter().chain(theirs).min()
    }

    /// Stage one. True: there is something to do, or it is time.
    fn spin(&mut self, until: Option<Instant>, recheck: &mut impl FnMut() -> bool) -> bool {
        self.submit();
        let start = Instant::now();
        let mut spent = Duration::ZERO;
        let found = loop {
            if self.has_work(recheck) {
                self.idle_history.disturbed();
                break true;
            }
            spent = start.elapsed();
            if spent >= self.config.spin {
                break until.is_some_and(|until| until <= Instant::now());
            }
            for _ in 0..16 {
                std::hint::spin_loop();
            }
        };
        // As of the last look at the clock: another one would cost more than it tells.
        self.counts.spun += spent;
        found
    }

    /// Stage two: one wait in the kernel. True: there is something to do.
    pub(super) fn doze(&mut self, limit: Duration, recheck: &mut impl FnMut() -> bool) -> bool {
        self.submit();
        self.doorbell.flag().fall_asleep();
        for ring in &mut self.rings[1..] {
            ring.signal(true);
        }
        if self.rings.len() > 1 {
            fence(Ordering::SeqCst);
        }
        if limit > DOZE && !ORDERED {
            // Too long to miss anything for, see above.
            for ring in &mut self.rings[1..] {
                let _ = ring.enter(0, None);
            }
        }
        if !self.has_work(recheck) {
            self.counts.dozes += 1;
            // A kernel that is short of memory says so here; the caller's pass finds out.
            let gather = self.config.coalesce.min(limit);
            let _ = if gather.is_zero() {
                self.rings[0].enter(1, Some(limit))
            } else {
                self.rings[0].enter_gathering(limit, gather)
            };
        }
        self.doorbell.flag().wake_up();
        for ring in &mut self.rings[1..] {
            ring.signal(false);
        }
        let work = self.has_work(recheck);
        if work {
            self.idle_history.disturbed();
        }
        work
    }

    /// Stage three: glommio waits for us.
    async fn park(&mut self, until: Option<Instant>, recheck: &mut impl FnMut() -> bool) {
        glommio_wait::reset(self.doorbell.eventfd());
        self.doorbell.flag().fall_asleep();
        for ring in &mut self.rings {
            ring.signal(true);
            let _ = ring.enter(0, None);
        }
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        if !self.has_work(recheck) && limit != Some(Duration::ZERO) {
            self.counts.parks += 1;
            self.alarm.wait(self.doorbell.eventfd(), limit).await;
        }
        self.doorbell.flag().wake_up();
        for ring in &mut self.rings {
            ring.signal(false);
        }
        if self.has_work(recheck) {
            self.idle_history.disturbed();
        }
    }

    fn has_work(&mut self, recheck: &mut impl FnMut() -> bool) -> bool {
        !self.deferred.is_empty() || self.anything_ready() || recheck()
    }
}

/// What is left until `until`, at most `most`; None when nothing is.
fn left(until: Option<Instant>, most: Duration) -> Option<Duration> {
    let Some(until) = until else { return Some(most) };
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(most))
}
