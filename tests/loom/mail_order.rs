//! Mail of two shards: what one put there before it acknowledged something is taken before what the
//! other put there after that.

use loom::thread;
use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};

use crate::ids::ShardId;
use crate::mailbox::{MailEnds, mailboxes};
use crate::reading::Reading;
use crate::{explore, must_fail};

type Ends = MailEnds<u64, ()>;

/// Shard `first` puts letter 1 into the mailbox and acknowledges; the other one, when it has heard
/// that, puts letter 2 there. Shard 2 takes in what it finds, and at the end the rest.
fn caused(first: usize, take: impl FnMut(&mut Ends) -> Option<u64>) {
    caused_among([first, 1 - first], 3, take);
}

/// The same among so many shards, of which the first of these two puts letter 1 into the mailbox of
/// shard 2, and the second one letter 2.
fn caused_among(senders: [usize; 2], shards: usize, take: impl FnMut(&mut Ends) -> Option<u64>) {
    caused_between(mailboxes(shards, 2, 1), senders, take);
}

/// The same with these ends.
fn caused_between(
    ends: Vec<Ends>,
    [first, second]: [usize; 2],
    mut take: impl FnMut(&mut Ends) -> Option<u64>,
) {
    let mut ends: Vec<Option<Ends>> = ends.into_iter().map(Some).collect();
    let mut end = |shard: usize| ends[shard].take().unwrap();
    let [mut reader, mut before, mut after] = [2, first, second].map(&mut end);
    let acknowledged = Arc::new(AtomicBool::new(false));
    let says = acknowledged.clone();
    let one = thread::spawn(move || {
        before.push_data(ShardId(2), 1).unwrap();
        says.store(true, Ordering::Release);
    });
    let two = thread::spawn(move || {
        if acknowledged.load(Ordering::Acquire) {
            after.push_data(ShardId(2), 2).unwrap();
        }
    });
    let mut got: Vec<u64> = std::iter::from_fn(|| take(&mut reader)).collect();
    one.join().unwrap();
    two.join().unwrap();
    got.extend(std::iter::from_fn(|| take(&mut reader)));
    assert!(got.is_sorted(), "{got:?}, not in order");
}

/// Takes the next letter as a shard does.
fn next(reading: &mut Reading, ends: &mut Ends, stamp: impl Fn(&u64) -> u64) -> Option<u64> {
    if reading.is_done() {
        reading.note(ends, None);
    }
    let from = reading.next(ends, stamp)?;
    reading.took(from);
    pop(ends, from)
}

fn pop(ends: &mut Ends, from: ShardId) -> Option<u64> {
    let letter = ends.pop_data(from);
    assert!(letter.is_some(), "what was seen is there");
    letter
}

#[test]
fn what_was_acknowledged_before_is_taken_before() {
    for first in [0, 1] {
        explore(3, move || {
            let mut reading = Reading::new(3);
            caused(first, |ends| next(&mut reading, ends, |&letter| letter));
        });
    }
}

#[test]
fn it_is_taken_before_if_the_two_are_in_different_words_of_the_inbox() {
    for senders in [[0, 64], [64, 0]] {
        explore(3, move || {
            let mut reading = Reading::new(65);
            caused_among(senders, 65, |ends| next(&mut reading, ends, |&letter| letter));
        });
    }
}

#[test]
fn without_another_look_before_the_choice_the_later_one_may_be_taken_first() {
    must_fail("not in order", 3, || {
        let mut reading = Reading::new(65);
        caused_among([0, 64], 65, |ends| {
            if reading.is_done() {
                reading.note(ends, None);
            }
            let heads = ends.pending().iter();
            let heads = heads.filter_map(|from| Some((*ends.peek_data(from)?, from)));
            let from = heads.min_by_key(|head| head.0)?.1;
            reading.took(from);
            pop(ends, from)
        });
    });
}

#[test]
fn without_the_note_the_later_one_may_be_taken_first() {
    must_fail("not in order", 3, || {
        let mut ends: Vec<Ends> = mailboxes(3, 2, 1);
        // Both have sent something before, so shard 2 has both mailboxes.
        for sender in [0, 1] {
            ends[sender].push_data(ShardId(2), 0).unwrap();
            ends[2].look();
            pop(&mut ends[2], ShardId(sender as u8));
        }
        caused_between(ends, [0, 1], |ends| {
            let heads = [ShardId(0), ShardId(1)].map(|from| (ends.peek_data(from).copied(), from));
            let from = heads.iter().filter(|head| head.0.is_some()).min().map(|head| head.1)?;
            pop(ends, from)
        });
    });
}

#[test]
fn without_the_time_the_later_one_may_be_taken_first() {
    must_fail("not in order", 3, || {
        let mut reading = Reading::new(3);
        caused(1, |ends| next(&mut reading, ends, |_| 0));
    });
}
