//! Tests of a full link.

use super::*;

fn record(payload: &[u8]) -> LinkRecord<'_> {
    LinkRecord { topic: "t", payload, ..LinkRecord::default() }
}

fn link(bytes: usize, when_full: WhenFull) -> Link {
    let filters = vec!["t".into()];
    let answering = Answering::Accepted;
    let (numbers, once, names, own, zero) = (Vec::new(), false, false, None, 0);
    let part = None;
    Link::new(LinkPlan {
        filters,
        numbers,
        once,
        part,
        bytes,
        when_full,
        names,
        own,
        zero,
        answering,
    })
}

fn kept(link: &mut Link) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some(batch) = link.pop() {
        let mut at = 0;
        while let Some((record, next)) = batch.read(at) {
            kept.push(record.payload[0]);
            at = next;
        }
    }
    kept
}

#[test]
fn a_full_link_drops_by_its_policy_and_counts() {
    let size = record(&[0; 5]).size();
    for (mut link, expected) in [
        (link(3 * size, WhenFull::DropOldest), vec![7, 8, 9]),
        (link(3 * size, WhenFull::DropNew), vec![0, 1, 2]),
        (link(size / 2, WhenFull::DropOldest), vec![9]),
        (link(size / 2, WhenFull::DropNew), vec![0]),
    ] {
        (0..10).for_each(|n| link.push(&record(&[n; 5]), true, &mut |_| ()));
        assert!(link.bytes <= link.plan.bytes.max(size));
        assert_eq!(kept(&mut link), expected);
        let dropped = 10 - expected.len() as u64;
        assert_eq!(link.counts, LinkCounts { matched: 10, taken: 0, dropped });
        assert_eq!(link.bytes, 0);
    }
}

#[test]
fn what_is_lost_at_once_is_an_eighth_of_the_bound() {
    let size = record(&[0; 5]).size();
    let mut link = link(80 * size, WhenFull::DropOldest);
    (0..81).for_each(|n| link.push(&record(&[n; 5]), true, &mut |_| ()));
    assert_eq!((link.counts.dropped, link.bytes), (10, 71 * size));
    assert_eq!(kept(&mut link), (10..81).collect::<Vec<u8>>());
}

#[test]
fn a_full_link_of_publishers_that_wait_loses_only_what_nobody_waits_with() {
    let size = record(&[0; 5]).size();
    let mut link = link(16 * size, WhenFull::Pause);
    let mut taken = 0;
    while !link.holds_up() {
        link.push(&record(&[taken; 5]), true, &mut |_| ());
        taken += 1;
    }
    assert_eq!(taken, 14);
    (0..3).for_each(|_| link.push(&record(&[90; 5]), false, &mut |_| ()));
    assert_eq!((link.counts.dropped, link.bytes), (1, 16 * size));
    // A second copy of the last message that was accepted.
    link.push(&record(&[91; 5]), true, &mut |_| ());
    assert_eq!(link.counts.dropped, 1);
    let mut expected: Vec<u8> = (0..14).collect();
    expected.extend([90, 90, 91]);
    assert_eq!(kept(&mut link), expected);
    assert!(!link.holds_up());
}
