//! The doorbell and the mailboxes: whoever sleeps with mail in a mailbox is woken.

use loom::thread;

use crate::explore;
use crate::flag::SleepFlag;
use crate::ids::ShardId;
use crate::mailbox::mailboxes;
use crate::sleeper::{Bell, Ends, Sleep, post, run};

const SLEEPS: [Sleep; 3] = [Sleep::Doze, Sleep::Park, Sleep::DozeThenPark];

/// Shards 1.. post so many letters each to shard 0, which sleeps whenever it finds none.
fn posted(how: Sleep, posters: usize, letters: usize, room: usize) {
    let bell = Bell::<SleepFlag>::new();
    let mut ends: Vec<Ends> = mailboxes(posters + 1, room, 1);
    let mut own = ends.remove(0);
    let threads: Vec<_> = ends
        .into_iter()
        .map(|mut ends| {
            let bell = bell.clone();
            thread::spawn(move || post(&bell, &mut ends, &[1, 2, 3][..letters]))
        })
        .collect();
    let got = run(&bell, &mut own, how, posters * letters);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for list in &got[1..] {
        assert_eq!(list, &[1, 2, 3][..letters], "in order, none lost, none twice");
    }
}

#[test]
fn mail_of_one_shard_always_wakes_the_sleeper() {
    for how in SLEEPS {
        explore(3, move || posted(how, 1, 2, 2));
    }
}

#[test]
fn mail_of_two_shards_always_wakes_the_sleeper() {
    for how in SLEEPS {
        explore(2, move || posted(how, 2, 1, 1));
    }
}

#[test]
fn a_full_mailbox_loses_nothing_and_keeps_order() {
    for how in SLEEPS {
        explore(2, move || posted(how, 1, 3, 1));
    }
}

#[test]
fn control_mail_wakes_as_well() {
    for how in SLEEPS {
        explore(3, move || {
            let bell = Bell::<SleepFlag>::new();
            let mut ends: Vec<Ends> = mailboxes(2, 1, 1);
            let (mut other, mut own) = (ends.pop().unwrap(), ends.pop().unwrap());
            let ringer = bell.clone();
            let thread = thread::spawn(move || {
                other.push_control(ShardId(0), 7).unwrap();
                ringer.ring();
            });
            assert_eq!(run(&bell, &mut own, how, 1)[1], [7]);
            thread.join().unwrap();
        });
    }
}

#[test]
fn of_two_ringers_of_one_sleep_one_makes_the_system_call() {
    explore(3, || {
        let bell = Bell::<SleepFlag>::new();
        bell.flag.fall_asleep();
        let threads = [(); 2].map(|()| {
            let bell = bell.clone();
            thread::spawn(move || bell.ring())
        });
        bell.poll();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(bell.writes(), 1);
        bell.flag.wake_up();
        bell.ring();
        assert_eq!(bell.writes(), 1, "nobody writes to a core that is awake");
    });
}
