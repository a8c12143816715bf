//! Tests of the mailboxes.
use super::mailbox::{MailEnds, clustered, mailboxes};
use crate::ids::ShardId;

type Ends = MailEnds<u32, u32>;

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
        assert!(ends[target as usize].has_mail() && ends[target as usize].look());
        for source in 0..3u8 {
            let got = ends[target as usize].pop_data(ShardId(source));
            let sent = u32::from(source) * 10 + u32::from(target);
            assert_eq!(got, (source != target).then_some(sent));
        }
        assert!(!ends[target as usize].has_mail() && !ends[target as usize].look());
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
    assert_eq!(sender.push_control(ShardId(1), 9), Ok(()));
    assert_eq!(sender.push_control(ShardId(1), 10), Err(10));
    assert_eq!(sender.data_room(ShardId(0)), 0);
    let receiver = &mut ends[1];
    assert_eq!(receiver.data_waiting(ShardId(0)), 0, "not looked at yet");
    receiver.look();
    assert_eq!(receiver.data_waiting(ShardId(0)), 2);
    assert_eq!(receiver.control_waiting(ShardId(0)), 1);
    assert_eq!(receiver.data_waiting(ShardId(1)), 0);
}

#[test]
fn a_look_leaves_an_item_where_it_is_and_taking_keeps_order() {
    let mut ends = mailboxes::<u32, u32>(2, 8, 8);
    (0..6).for_each(|n| ends[0].push_data(ShardId(1), n).unwrap());
    ends[1].look();
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
        receiver.look();
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

#[test]
fn a_shard_looks_only_where_something_is() {
    let mut ends = mailboxes::<u32, u32>(112, 4, 2);
    let pending = |ends: &Ends| ends.pending().iter().map(|shard| shard.0).collect::<Vec<_>>();
    assert!(!ends[3].look() && pending(&ends[3]).is_empty());
    for source in [0, 63, 64, 111] {
        ends[source].push_data(ShardId(3), 1).unwrap();
        ends[source].push_data(ShardId(3), 2).unwrap();
    }
    ends[70].push_control(ShardId(3), 7).unwrap();
    assert!(ends[3].has_mail() && ends[3].look());
    assert_eq!(pending(&ends[3]), [0, 63, 64, 70, 111]);
    for source in [0, 64, 111] {
        assert_eq!(ends[3].pop_data(ShardId(source)), Some(1));
        assert_eq!(ends[3].pop_data(ShardId(source)), Some(2));
    }
    assert_eq!(ends[3].pop_control(ShardId(70)), Some(7));
    // What was emptied is forgotten, what was not is looked at again.
    assert!(ends[3].look());
    assert_eq!(pending(&ends[3]), [63]);
    ends[63].push_data(ShardId(3), 3).unwrap();
    for item in 1..=3 {
        assert_eq!(ends[3].pop_data(ShardId(63)), Some(item));
    }
    // The mark of the third item is still there.
    assert!(ends[3].has_mail() && ends[3].look());
    assert!(!ends[3].look() && !ends[3].has_mail());
}

#[test]
fn places_for_other_nodes_get_data_mail_of_shards_only() {
    let (mut shards, mut node) = clustered::<u32, u32>(2, 2, 4, 2);
    let [cluster, first, second] = [2, 3, 4].map(ShardId);
    for (target, allowed) in [(cluster, true), (first, true), (second, true)] {
        assert_eq!(shards[0].data_room(target), 4);
        assert_eq!(shards[0].push_data(target, 1).is_ok(), allowed);
    }
    assert!(node.cluster.push_control(ShardId(0), 1).is_ok());
    assert_eq!(node.cluster.push_data(first, 1), Err(1));
    assert_eq!(node.nodes[0].push_data(ShardId(0), 1), Err(1));
    assert_eq!(node.nodes[0].data_room(ShardId(0)), 0);
    assert!(node.nodes[1].look() && node.nodes[1].pop_data(ShardId(0)) == Some(1));
    assert!(shards[0].look() && shards[0].pop_control(cluster) == Some(1));
}
