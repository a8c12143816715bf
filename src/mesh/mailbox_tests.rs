//! Tests of the mailboxes.
use super::mailbox::mailboxes;
use crate::ids::ShardId;

fn assert_send<T: Send>(_: &T) {}

#[test]
fn every_pair_has_its_own_mailbox_and_none_leads_to_itself() {
    let mut ends = mailboxes::<u32, u8>(3, 4, 2);
    assert_send(&ends);
    for source in 0..3u8 {
        for target in 0..3u8 {
            let item = u32::from(source) * 10 + u32::from(target);
            let pushed = ends[source as usize].push_data(ShardId(target), item);
            assert_eq!(pushed.is_ok(), source != target);
        }
    }
    for target in 0..3u8 {
        assert!(ends[target as usize].has_mail());
        for source in 0..3u8 {
            let got = ends[target as usize].pop_data(ShardId(source));
            let sent = u32::from(source) * 10 + u32::from(target);
            assert_eq!(got, (source != target).then_some(sent));
        }
        assert!(!ends[target as usize].has_mail());
    }
}

#[test]
fn a_full_mailbox_gives_the_item_back_and_classes_do_not_share_room() {
    let mut ends = mailboxes::<u32, u32>(2, 2, 1);
    let sender = &mut ends[0];
    assert_eq!(sender.data_room(ShardId(1)), 2);
    assert_eq!(sender.push_data(ShardId(1), 1), Ok(()));
    assert_eq!(sender.push_data(ShardId(1), 2), Ok(()));
    assert_eq!(sender.push_data(ShardId(1), 3), Err(3));
    assert_eq!(sender.data_room(ShardId(1)), 0);
    assert_eq!(sender.control_room(ShardId(1)), 1);
    assert_eq!(sender.push_control(ShardId(1), 9), Ok(()));
    assert_eq!(sender.push_control(ShardId(1), 10), Err(10));
    assert_eq!(sender.data_room(ShardId(0)), 0);
    let receiver = &ends[1];
    assert_eq!(receiver.data_waiting(ShardId(0)), 2);
    assert_eq!(receiver.control_waiting(ShardId(0)), 1);
    assert_eq!(receiver.data_waiting(ShardId(1)), 0);
}

#[test]
fn a_look_leaves_an_item_where_it_is_and_taking_keeps_order() {
    let mut ends = mailboxes::<u32, u32>(2, 8, 8);
    (0..6).for_each(|n| ends[0].push_data(ShardId(1), n).unwrap());
    for n in 0..6 {
        assert_eq!(ends[1].peek_data(ShardId(0)), Some(&n));
        assert_eq!(ends[1].data_waiting(ShardId(0)), 6 - n as usize);
        assert_eq!(ends[1].pop_data(ShardId(0)), Some(n));
    }
    assert_eq!(ends[1].peek_data(ShardId(0)), None);
    assert_eq!(ends[1].pop_data(ShardId(0)), None);
    assert_eq!(ends[1].pop_control(ShardId(0)), None);
    assert_eq!(ends[1].peek_data(ShardId(1)), None);
}

#[test]
fn items_cross_threads_in_order() {
    let mut ends = mailboxes::<u32, ()>(2, 16, 1);
    let mut receiver = ends.pop().unwrap();
    let mut sender = ends.pop().unwrap();
    let pushing = std::thread::spawn(move || {
        for n in 0..20_000 {
            while sender.push_data(ShardId(1), n).is_err() {
                std::thread::yield_now();
            }
        }
    });
    let mut next = 0;
    while next < 20_000 {
        match receiver.pop_data(ShardId(0)) {
            Some(n) => {
                assert_eq!(n, next);
                next += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    pushing.join().unwrap();
}
