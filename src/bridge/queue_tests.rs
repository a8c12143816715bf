use super::*;
use crate::bridge::testing::{self, batch};
use proptest::prelude::*;

fn read_all(queue: &mut Queue) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    while let Some((number, record)) = queue.read() {
        let payload = testing::number(&record);
        all.push((number, payload));
    }
    all
}

#[test]
fn messages_are_read_in_order_and_leave_when_they_are_done() {
    let mut queue = Queue::new(1 << 20, WhenFull::DropNew);
    queue.push(batch(0..3));
    queue.push(batch(3..5));
    assert_eq!(read_all(&mut queue), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]);
    assert!(!queue.has_unread() && queue.len() == 5);
    queue.done(1);
    queue.done(2);
    assert_eq!(queue.len(), 3);
    queue.done(0);
    assert_eq!((queue.len(), queue.bytes()), (2, batch(3..5).bytes().len()));
    queue.push(batch(5..6));
    assert_eq!(read_all(&mut queue), [(5, 5)]);
    for number in 3..6 {
        queue.done(number);
    }
    assert!(queue.is_empty() && queue.bytes() == 0);
}

#[test]
fn what_is_not_done_is_read_again() {
    let mut queue = Queue::new(1 << 20, WhenFull::DropNew);
    queue.push(batch(0..3));
    queue.push(batch(3..5));
    (0..4).for_each(|_| assert!(queue.read().is_some()));
    queue.done(0);
    queue.done(2);
    queue.rewind();
    assert_eq!(read_all(&mut queue), [(1, 1), (3, 3), (4, 4)]);
    [1, 3, 4].into_iter().for_each(|number| _ = queue.done(number));
    assert!(queue.is_empty());
    queue.rewind();
    assert!(queue.read().is_none());
}

#[test]
fn a_full_queue_drops_by_its_policy_and_nothing_that_is_under_way() {
    let size = batch(0..2).bytes().len();
    for (when_full, expected) in
        [(WhenFull::DropOldest, [0, 1, 6, 7]), (WhenFull::DropNew, [0, 1, 2, 3])]
    {
        let mut queue = Queue::new(2 * size, when_full);
        queue.push(batch(0..2));
        assert_eq!(queue.read().map(|(number, _)| number), Some(0));
        for first in [2, 4, 6] {
            queue.push(batch(first..first + 2));
            assert!(queue.bytes() <= 2 * size);
        }
        assert_eq!(queue.dropped(), 4);
        queue.rewind();
        let payloads: Vec<u64> = read_all(&mut queue).iter().map(|&(_, payload)| payload).collect();
        assert_eq!(payloads, expected);
    }
}

proptest! {
    /// Compared with a list: whatever is pushed, read, done and read again, each message leaves
    /// once, in order, unless it was dropped, which is counted.
    #[test]
    fn as_a_list(steps in prop::collection::vec(0u8..6, 1..200), most in 100usize..2000) {
        let mut queue = Queue::new(most, WhenFull::DropOldest);
        let (mut next, mut under_way, mut gone) = (0, Vec::new(), Vec::new());
        for step in steps {
            match step {
                0 | 1 => {
                    queue.push(batch(next..next + u64::from(step) + 1));
                    next += u64::from(step) + 1;
                }
                2 | 3 => {
                    if let Some((number, record)) = queue.read() {
                        let payload = testing::number(&record);
                        prop_assert!(under_way.iter().all(|&(_, before)| before < payload));
                        under_way.push((number, payload));
                    }
                }
                4 => {
                    if !under_way.is_empty() {
                        let (number, payload) = under_way.remove(next as usize % under_way.len());
                        queue.done(number);
                        gone.push(payload);
                    }
                }
                _ => {
                    queue.rewind();
                    under_way.clear();
                }
            }
            prop_assert!(queue.bytes() <= most.max(batch(0..2).bytes().len()));
        }
        queue.rewind();
        while let Some((number, record)) = queue.read() {
            gone.push(testing::number(&record));
            queue.done(number);
        }
        prop_assert!(queue.is_empty());
        gone.sort_unstable();
        prop_assert!(gone.is_sorted_by(|one, other| one < other), "one is twice in {gone:?}");
        prop_assert_eq!(gone.len() as u64 + queue.dropped(), next);
    }
}
