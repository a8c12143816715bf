//! Tests of the order between mailboxes.
use super::mailbox::{MailEnds, mailboxes};
use super::reading::Reading;
use crate::ids::ShardId;

type Ends = MailEnds<u64, ()>;

/// Shards 0 and 1 write to shard 2.
fn three() -> (Ends, Ends, Ends) {
    let mut ends = mailboxes::<u64, ()>(3, 8, 1).into_iter();
    let mut next = || ends.next().expect("three");
    (next(), next(), next())
}

fn take(reading: &mut Reading, ends: &mut Ends) -> Option<u64> {
    let source = reading.next(ends, |&at| at)?;
    let item = ends.pop_data(source);
    reading.took(source);
    item
}

#[test]
fn the_oldest_of_what_was_noted_comes_first_whoever_wrote_it() {
    let (mut a, mut b, mut reader) = three();
    let mut reading = Reading::new(3);
    for at in [2, 3, 6] {
        a.push_data(ShardId(2), at).unwrap();
    }
    for at in [1, 4, 5] {
        b.push_data(ShardId(2), at).unwrap();
    }
    reading.note(&mut reader, None);
    let order: Vec<_> = std::iter::from_fn(|| take(&mut reading, &mut reader)).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    assert!(reading.is_done());
}

#[test]
fn what_comes_after_the_note_is_taken_only_before_something_later_that_was_noted() {
    let (mut a, mut b, mut reader) = three();
    let mut reading = Reading::new(3);
    b.push_data(ShardId(2), 5).unwrap();
    reading.note(&mut reader, None);
    // Another one's clock was read before, its mail came after.
    a.push_data(ShardId(2), 4).unwrap();
    a.push_data(ShardId(2), 6).unwrap();
    let order: Vec<_> = std::iter::from_fn(|| take(&mut reading, &mut reader)).collect();
    assert_eq!(order, [4, 5]);
    reading.note(&mut reader, None);
    assert!(!reading.is_done());
    assert_eq!(take(&mut reading, &mut reader), Some(6));
}

#[test]
fn an_item_that_is_not_done_counts_as_not_taken() {
    let (mut a, _b, mut reader) = three();
    let mut reading = Reading::new(3);
    a.push_data(ShardId(2), 1).unwrap();
    a.push_data(ShardId(2), 2).unwrap();
    reading.note(&mut reader, None);
    let both = reading.noted();
    assert_eq!(reader.pop_data(ShardId(0)), Some(1));
    reading.note(&mut reader, Some(ShardId(0)));
    assert!(reading.noted() == both && !reading.is_past(&both));
    reading.took(ShardId(0));
    assert!(!reading.is_past(&both));
    assert_eq!(take(&mut reading, &mut reader), Some(2));
    assert!(reading.is_past(&both) && reading.is_done());
}
