//! What a core does while it has no work, and how other threads wake it.
//!
//! A core waits in three stages. Each is cheaper to stay in than the one before, and more expensive
//! to leave: it *spins* on memory, then *dozes* in a bounded kernel wait on ring 0, then *parks* in
//! glommio, so that glommio's timers and tasks can run.
//!
//! The module `flag` explains why no wake-up is lost between the flag and the eventfd.
//!
//! There is one eventfd per core. Three parties write it: doorbells, completions of the secondary
//! rings while the core sleeps, and completions of ring 0 while the core is parked. Ring 0 polls
//! the eventfd (multishot), so each write becomes a completion of ring 0. That completion ends a
//! doze; if it comes just before the doze, the doze ends at once, because the kernel checks for
//! completions before it sleeps. Glommio polls the eventfd as well, which ends a park. (A chain of
//! two eventfds, where ring 0's poll of the first writes the second, was tried and does lose
//! wake-ups.) The eventfd counts: a write that happens before glommio has armed its poll makes that
//! poll complete at once. The counter is reset before the flag is raised, so no write that matters
//! is erased.
//!
//! Before a park, the rings are first switched to signal the eventfd and then entered once more
//! without waiting. Work that the kernel had queued before that entry is run by it, and the check
//! after it finds the result. Work that is queued later finds the signal switched on. A long doze
//! does the same on weakly ordered CPUs. On x86 a look at the memory shared with the kernel is
//! sufficient, and saves system calls: with dozens of rings they would be most of the cost of an
//! idle crowd. Before a short doze that look is enough on every CPU, because anything it misses
//! waits no longer than the doze lasts (2 ms).
use super::driver::Driver;
use super::flag::SleepFlag;
use super::glommio_wait;
use crate::atomic::{Ordering, fence};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The length of a doze while events are frequent. While they are rare a doze lasts `long_doze`:
/// otherwise clients whose pings arrive every few milliseconds would cost two time-outs per ping.
const DOZE: Duration = Duration::from_millis(2);
/// True where the kernel's atomic "or", with which it publishes queued work before it checks
/// whether to signal, is a full barrier. Then, after we have switched the signal on and executed a
/// fence, either we see the work or the kernel signals us.
const ORDERED: bool = cfg!(target_arch = "x86_64");
/// The number of dozes without any event before the core parks.
const DOZES: u32 = 3;

/// Wakes one core from any thread. Ring it after publishing the work that the core should find.
#[derive(Clone, Debug)]
pub struct Doorbell {
    shared: Arc<DoorbellState>,
}

#[derive(Debug)]
struct DoorbellState {
    // The flag has a cache line of its own, because every push to this core's mailboxes reads it.
    flag: PaddedFlag,
    eventfd: OwnedFd,
}

#[repr(align(128))]
#[derive(Debug, Default)]
struct PaddedFlag(SleepFlag);

impl Doorbell {
    pub(super) fn new(eventfd: OwnedFd) -> Self {
        Doorbell { shared: Arc::new(DoorbellState { flag: PaddedFlag::default(), eventfd }) }
    }

    /// Makes the core look at its mailboxes soon. Costs a system call only while the core sleeps.
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

/// Tracks whether spinning has paid off lately. Work that arrives every 100 µs is never met by a
/// spin of 20 µs, which would then only waste a fifth of the core.
pub(super) struct SpinPayoff {
    credit: u32,
    skipped: u32,
}

/// The number of consecutive spins without any work after which spinning stops.
const CREDIT: u32 = 4;
/// While spinning is stopped, one idle phase in this many tries it once more.
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

/// How long the core has had nothing to do.
pub(super) struct IdleHistory {
    dozes: u32,
    /// The last doze lasted longer than a short doze may, so events are rare.
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
    /// The handle through which other threads wake this core.
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Waits until there is something to do: a completion, a doorbell, a true `recheck` (for
    /// example because there is mail), or until `deadline` from now has passed. Returns at once if
    /// there is something already. May return early.
    ///
    /// Must be awaited on the driver's own glommio executor. `recheck` is called repeatedly and
    /// must be cheap.
    pub async fn idle(&mut self, deadline: Option<Duration>, mut recheck: impl FnMut() -> bool) {
        let until = self.wake_time(deadline);
        if self.idle_history.dozes < DOZES {
            // A core that waits for company does not look for the first event.
            if self.gathering.wait().is_zero()
                && !self.moving.shares_core
                && self.spin_payoff.try_spin()
            {
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
                let time = since.saturating_duration_since(self.opened);
                let gather = self.gathering.before_sleep(time.as_nanos() as u64);
                let found = self.doze(limit, gather.min(limit), &mut recheck);
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

    /// Waits like [`Self::idle`], but for at most `limit`, which is some microseconds. For a caller
    /// that will soon retry something.
    pub fn nap(&mut self, limit: Duration, mut recheck: impl FnMut() -> bool) {
        self.doze(limit, Duration::ZERO, &mut recheck);
    }

    fn wake_time(&self, deadline: Option<Duration>) -> Option<Instant> {
        let mine = self.next_timer();
        let theirs = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        mine.into_iter().chain(theirs).min()
    }

    /// Stage one. True when there is something to do, or the time is over.
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
        // This is the time of the last reading of the clock. Another reading would cost more than
        // it tells.
        self.counts.spun += spent;
        found
    }

    /// Stage two: one wait in the kernel, in which events gather for `gather`. True when there is
    /// something to do.
    pub(super) fn doze(
        &mut self,
        limit: Duration,
        gather: Duration,
        recheck: &mut impl FnMut() -> bool,
    ) -> bool {
        self.submit();
        self.doorbell.flag().fall_asleep();
        for ring in &mut self.rings[1..] {
            ring.signal(true);
        }
        if self.rings.len() > 1 {
            fence(Ordering::SeqCst);
        }
        if limit > DOZE && !ORDERED {
            // A long doze must not miss anything; see the module's documentation.
            for ring in &mut self.rings[1..] {
                let _ = ring.enter(0, None);
            }
        }
        if !self.has_work(recheck) {
            self.counts.dozes += 1;
            // The wait can fail when the kernel lacks memory. The caller's next pass handles that.
            let _ = if gather.is_zero() {
                self.rings[0].enter(1, Some(limit))
            } else {
                self.counts.gathered += 1;
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

    /// Stage three: the core waits through glommio.
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

/// The time that is left until `until`, at most `most`. `None` when none is left.
fn left(until: Option<Instant>, most: Duration) -> Option<Duration> {
    let Some(until) = until else { return Some(most) };
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.min(most))
}
