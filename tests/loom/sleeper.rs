//! One core as `broker::core` runs it and `ring::idle` puts it to sleep, and the kernel beneath it.
//!
//! A doze here ends only when somebody wakes it; in the driver it ends after 2 ms at the latest,
//! which would hide what is looked for.

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};

use crate::flag::SleepFlag;
use crate::ids::ShardId;
use crate::mailbox::MailEnds;

pub type Ends = MailEnds<u32, u32>;

/// What the protocol's two sides are made of: `SleepFlag`, or something weaker.
pub trait Flag: Default + Send + Sync + 'static {
    fn fall_asleep(&self);
    fn wake_up(&self);
    fn must_wake(&self) -> bool;
}

impl Flag for SleepFlag {
    fn fall_asleep(&self) {
        SleepFlag::fall_asleep(self);
    }
    fn wake_up(&self) {
        SleepFlag::wake_up(self);
    }
    fn must_wake(&self) -> bool {
        SleepFlag::must_wake(self)
    }
}

/// The kernel's part: the eventfd's count, and the completions that ring 0's poll of it has made
/// and no pass has visited.
#[derive(Default)]
struct Kernel {
    count: u32,
    completions: u32,
    /// How many times the eventfd was written.
    writes: u32,
}

/// A core's doorbell, as `ring::idle::Doorbell`.
pub struct Bell<F> {
    pub flag: F,
    kernel: Mutex<Kernel>,
    changed: Condvar,
}

impl<F: Flag> Bell<F> {
    pub fn new() -> Arc<Self> {
        let kernel = Mutex::new(Kernel::default());
        Arc::new(Bell { flag: F::default(), kernel, changed: Condvar::new() })
    }

    pub fn ring(&self) {
        if self.flag.must_wake() {
            let mut kernel = self.kernel.lock().unwrap();
            kernel.count += 1;
            kernel.completions += 1;
            kernel.writes += 1;
            self.changed.notify_all();
        }
    }

    /// Reads the eventfd: its count is zero afterwards.
    pub fn reset(&self) {
        self.kernel.lock().unwrap().count = 0;
    }

    /// A pass over the rings visits every completion.
    fn pass(&self) {
        self.kernel.lock().unwrap().completions = 0;
    }

    /// `io_uring_enter` on ring 0: until there is a completion.
    pub fn enter(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        while kernel.completions == 0 {
            kernel = self.changed.wait(kernel).unwrap();
        }
    }

    /// Glommio's poll of the eventfd: until its count is not zero.
    pub fn poll(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        while kernel.count == 0 {
            kernel = self.changed.wait(kernel).unwrap();
        }
    }

    pub fn writes(&self) -> u32 {
        self.kernel.lock().unwrap().writes
    }
}

/// How a core sleeps when it found nothing to do.
#[derive(Clone, Copy)]
pub enum Sleep {
    /// In ring 0's wait.
    Doze,
    /// Through glommio.
    Park,
    /// A doze that is over before anybody rang, then a park.
    DozeThenPark,
    /// As `Park`, without the second look.
    BlindPark,
    /// As `Doze`, without the second look.
    BlindDoze,
    /// As `Park`, with the eventfd brought to zero too late.
    LateReset,
}

/// As `Driver::doze`.
fn doze<F: Flag>(bell: &Bell<F>, has_work: impl Fn() -> bool, wait: impl Fn(&Bell<F>)) {
    bell.flag.fall_asleep();
    if !has_work() {
        wait(bell);
    }
    bell.flag.wake_up();
}

/// As `Driver::park`.
fn park<F: Flag>(bell: &Bell<F>, has_work: impl Fn() -> bool) {
    bell.reset();
    bell.flag.fall_asleep();
    if !has_work() {
        bell.poll();
    }
    bell.flag.wake_up();
}

fn sleep<F: Flag>(bell: &Bell<F>, how: Sleep, has_work: impl Fn() -> bool + Copy) {
    match how {
        Sleep::Doze => doze(bell, has_work, Bell::enter),
        Sleep::Park => park(bell, has_work),
        Sleep::DozeThenPark => {
            doze(bell, has_work, |_| ());
            if !has_work() {
                park(bell, has_work);
            }
        }
        Sleep::BlindPark => park(bell, || false),
        Sleep::BlindDoze => doze(bell, || false, Bell::enter),
        Sleep::LateReset => {
            bell.flag.fall_asleep();
            let work = has_work();
            bell.reset();
            if !work {
                bell.poll();
            }
            bell.flag.wake_up();
        }
    }
}

/// A core's loop until it has taken `wanted` letters of both kinds; what it took, by sender.
pub fn run<F: Flag>(bell: &Bell<F>, ends: &mut Ends, how: Sleep, wanted: usize) -> Vec<Vec<u32>> {
    let mut got: Vec<Vec<u32>> = (0..ends.shards()).map(|_| Vec::new()).collect();
    let mut taken = 0;
    loop {
        bell.pass();
        ends.look();
        for peer in 0..ends.shards() as u8 {
            let letters = &mut got[usize::from(peer)];
            while let Some(letter) = ends.pop_control(ShardId(peer)) {
                letters.push(letter);
                taken += 1;
            }
            while let Some(letter) = ends.pop_data(ShardId(peer)) {
                letters.push(letter);
                taken += 1;
            }
        }
        if taken == wanted {
            return got;
        }
        sleep(bell, how, || ends.has_mail());
    }
}

/// Another core: puts each letter into the sleeper's mailbox and rings, as `Shard::carry`.
/// A full mailbox is tried again: the sleeper takes in what is there before it sleeps.
pub fn post<F: Flag>(bell: &Bell<F>, ends: &mut Ends, letters: &[u32]) {
    for &letter in letters {
        while ends.push_data(ShardId(0), letter).is_err() {
            loom::thread::yield_now();
        }
        bell.ring();
    }
}
