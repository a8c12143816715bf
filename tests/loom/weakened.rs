//! The same models with one part of the protocol taken away. Loom must find what goes wrong.

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;

use crate::flag::SleepFlag;
use crate::ids::ShardId;
use crate::mailbox::mailboxes;
use crate::must_fail;
use crate::sleeper::{Bell, Ends, Flag, Sleep, post, run};

/// What loom says when all are asleep.
const LOST: &str = "deadlock";

const SLEEPS: [Sleep; 2] = [Sleep::Doze, Sleep::Park];

/// `SleepFlag` with fewer fences: bit 0 of `FENCES` is the sleeper's, bit 1 the ringer's. Both are
/// needed even on x86, which lets a store be overtaken by a later load.
#[derive(Default)]
struct Weak<const FENCES: u8>(AtomicU32);

impl<const FENCES: u8> Flag for Weak<FENCES> {
    fn fall_asleep(&self) {
        self.0.store(1, Ordering::Release);
        if FENCES & 1 != 0 {
            fence(Ordering::SeqCst);
        }
    }

    fn wake_up(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn must_wake(&self) -> bool {
        if FENCES & 2 != 0 {
            fence(Ordering::SeqCst);
        }
        self.0.load(Ordering::Acquire) == 1 && self.0.swap(0, Ordering::AcqRel) == 1
    }
}

/// One poster, one letter.
fn one_letter<F: Flag>(how: Sleep) {
    let bell = Bell::<F>::new();
    let mut ends: Vec<Ends> = mailboxes(2, 1, 1);
    let (mut other, mut own) = (ends.pop().unwrap(), ends.pop().unwrap());
    let ringer = bell.clone();
    let thread = thread::spawn(move || post(&ringer, &mut other, &[1]));
    run(&bell, &mut own, how, 1);
    thread.join().unwrap();
}

#[test]
fn the_stand_in_with_both_fences_holds() {
    for how in SLEEPS {
        crate::explore(3, move || one_letter::<Weak<3>>(how));
    }
}

#[test]
fn without_a_fence_a_wake_up_is_lost() {
    for how in SLEEPS {
        must_fail(LOST, 3, move || one_letter::<Weak<2>>(how));
        must_fail(LOST, 3, move || one_letter::<Weak<1>>(how));
        must_fail(LOST, 3, move || one_letter::<Weak<0>>(how));
    }
}

#[test]
fn without_the_second_look_a_wake_up_is_lost() {
    for how in [Sleep::BlindDoze, Sleep::BlindPark] {
        must_fail(LOST, 3, move || one_letter::<SleepFlag>(how));
    }
}

#[test]
fn an_eventfd_brought_to_zero_after_the_flag_is_raised_loses_a_wake_up() {
    must_fail(LOST, 3, || one_letter::<SleepFlag>(Sleep::LateReset));
}

#[test]
fn a_ring_before_the_mail_loses_a_wake_up() {
    for how in SLEEPS {
        must_fail(LOST, 3, move || {
            let bell = Bell::<SleepFlag>::new();
            let mut ends: Vec<Ends> = mailboxes(2, 1, 1);
            let (mut other, mut own) = (ends.pop().unwrap(), ends.pop().unwrap());
            let ringer = bell.clone();
            let thread = thread::spawn(move || {
                ringer.ring();
                other.push_data(ShardId(0), 1).unwrap();
            });
            run(&bell, &mut own, how, 1);
            thread.join().unwrap();
        });
    }
}

/// A flag whose ringers only look: each of them would make the system call.
#[derive(Default)]
struct Looked(AtomicU32);

impl Flag for Looked {
    fn fall_asleep(&self) {
        self.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn wake_up(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) == 1
    }
}

#[test]
fn without_the_swap_two_ringers_make_the_system_call() {
    must_fail("left == right", 3, || {
        let bell = Bell::<Looked>::new();
        bell.flag.fall_asleep();
        let threads = [(); 2].map(|()| {
            let bell = bell.clone();
            thread::spawn(move || bell.ring())
        });
        bell.poll();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bell.writes(), 1);
    });
}
