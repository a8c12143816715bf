//! Permits to send a socket to another shard's ring: never more than slots kept free, and none
//! after the owner is gone.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

use crate::explore;
use crate::port::RingPort;

#[test]
fn no_permit_is_given_twice_and_the_ring_is_known_to_whoever_has_one() {
    explore(3, || {
        let port = RingPort::new(2);
        let takers = [(); 2].map(|()| {
            let port = port.clone();
            thread::spawn(move || {
                let permit = port.take();
                // The descriptor was stored before the permit was granted.
                assert!(permit.as_ref().is_none_or(|permit| permit.fd >= 10));
                permit.is_some()
            })
        });
        port.opened(0, 10);
        port.grant(0, 1);
        let taken = takers.map(|thread| thread.join().unwrap()).into_iter().filter(|&took| took);
        assert_eq!(taken.count() as u32 + port.permits(0), 1);
    });
}

#[test]
fn what_is_withdrawn_and_what_is_taken_add_up() {
    explore(3, || {
        let port = RingPort::new(2);
        port.opened(0, 10);
        port.grant(0, 2);
        let taker = port.clone();
        let thread = thread::spawn(move || {
            let (kept, back) = (taker.take(), taker.take());
            let returned = back.map(|permit| permit.give_back()).is_some();
            (u32::from(kept.is_some()), returned)
        });
        // The owner turns to another ring meanwhile.
        let withdrawn = port.withdraw(0);
        port.opened(1, 11);
        port.grant(1, 1);
        let (kept, _) = thread.join().unwrap();
        assert_eq!(withdrawn + port.permits(0) + port.permits(1) + kept, 3);
    });
}

#[test]
fn a_retired_port_gives_nothing_whatever_comes_back() {
    explore(3, || {
        let port = RingPort::new(1);
        port.opened(0, 10);
        port.grant(0, 1);
        let permit = port.take();
        let other = port.clone();
        let thread = thread::spawn(move || permit.map(|permit| permit.give_back()));
        other.retire();
        assert!(other.take().is_none());
        thread.join().unwrap();
        assert!(other.take().is_none());
        assert_eq!(other.permits(0), 0);
    });
}

/// The ring that senders use changes while they send: there is a permit at every moment.
#[test]
fn a_sender_finds_a_permit_while_the_owner_turns_to_another_ring() {
    explore(3, || {
        let port = RingPort::new(2);
        port.opened(0, 10);
        port.opened(1, 11);
        port.grant(1, 1);
        let sender = port.clone();
        let thread = thread::spawn(move || assert!(sender.take().is_some()));
        port.grant(0, 1);
        port.withdraw(1);
        thread.join().unwrap();
    });
}

/// The owner closes a ring when none of its permits is with a sender.
#[test]
fn no_sender_uses_a_ring_that_was_closed() {
    explore(3, || {
        let port = RingPort::new(2);
        port.opened(0, 10);
        port.opened(1, 11);
        port.grant(1, 2);
        let closed = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU32::new(0));
        let senders = [(); 2].map(|()| {
            let (port, closed, arrived) = (port.clone(), closed.clone(), arrived.clone());
            thread::spawn(move || {
                let Some(permit) = port.take() else { return };
                assert!(permit.fd != 11 || !closed.load(Ordering::SeqCst));
                match permit.fd {
                    // One arrives, the other's operation fails.
                    11 if arrived.load(Ordering::SeqCst) == 0 => {
                        arrived.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => permit.give_back(),
                }
            })
        });
        port.grant(0, 2);
        let mut promised = 2 - port.withdraw(1);
        promised -= port.withdraw(1);
        if promised == arrived.load(Ordering::SeqCst) {
            closed.store(true, Ordering::SeqCst);
        }
        senders.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
