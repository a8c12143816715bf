//! The pending queue: its order, bounds, policies, expiry and memory.

use super::*;
use crate::message::{Message, MessageRef};
use crate::session::SubscriptionIds;

fn queued(payload: &[u8]) -> Queued {
    let message = MessageRef {
        topic: "t",
        properties: &[],
        payload,
        qos: Qos::AtLeastOnce,
        retain: false,
        expires: None,
        publisher: None,
    };
    Queued {
        message: Message::new(&message, &mut Vec::new()),
        subscription_ids: SubscriptionIds::None,
        qos: Qos::AtLeastOnce,
        retain: false,
        share: None,
        stored: 0,
    }
}

fn expiring(payload: &[u8], expires: Option<u64>, qos: Qos) -> Queued {
    let Queued { message, .. } = queued(payload);
    let view = MessageRef { expires: expires.map(Instant), ..message.view() };
    let message = Message::new(&view, &mut Vec::new());
    Queued { message, qos, ..queued(payload) }
}

fn bounds(messages: usize, bytes: usize, on_full: OnFull) -> PendingBounds {
    PendingBounds { messages, bytes, on_full }
}

#[test]
fn each_policy_keeps_the_bounds() {
    let mut pending = Pending::default();
    let oldest = bounds(2, 1000, OnFull::DropOldest);
    assert_eq!(pending.push(queued(b"1"), &oldest), Pushed::Queued);
    assert_eq!(pending.push(queued(b"2"), &oldest), Pushed::Queued);
    assert_eq!(pending.push(queued(b"3"), &oldest), Pushed::DroppedOldest(1));
    assert_eq!(pending.front().unwrap().message.view().payload, b"2");
    assert_eq!(pending.push(queued(&[0; 2000]), &oldest), Pushed::DroppedNew);
    assert_eq!(pending.len(), 2);
    assert_eq!(pending.push(queued(b"4"), &bounds(2, 1000, OnFull::DropNew)), Pushed::DroppedNew);
    let harsh = bounds(2, 1000, OnFull::Disconnect);
    assert_eq!(pending.push(queued(b"4"), &harsh), Pushed::Disconnect);
    assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
    assert_eq!(pending.pop().unwrap().message.view().payload, b"3");
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn expired_messages_make_room_before_the_policy_looks() {
    for on_full in [OnFull::DropNew, OnFull::DropOldest, OnFull::Disconnect] {
        let bounds = bounds(10, 10_000, on_full);
        let mut pending = Pending::default();
        for number in 0..10 {
            let expires = (number >= 3).then_some(1000);
            pending.push(expiring(&[number], expires, Qos::AtLeastOnce), &bounds);
        }
        let mut dropped = 0;
        for number in 10..15 {
            let queued = queued(&[number]);
            dropped += pending.expire_for(&queued, &bounds, Instant(1000));
            assert_eq!(pending.push(queued, &bounds), Pushed::Queued, "{on_full:?}");
        }
        assert_eq!((dropped, pending.len()), (5, 10));
        assert_eq!(pending.next_expiry(), Some(Instant(1000)));
        assert_eq!(pending.expire(Instant(1000), 1), 1);
        assert_eq!(pending.expire(Instant(1000), 10), 1);
        assert_eq!((pending.len(), pending.next_expiry()), (8, None));
        let left: Vec<u8> = std::iter::from_fn(|| pending.pop())
            .map(|queued| queued.message.view().payload[0])
            .collect();
        assert_eq!(left, [0, 1, 2, 10, 11, 12, 13, 14]);
    }
}

#[test]
fn gaps_and_the_list_of_what_expires_stay_in_proportion() {
    let bounds = bounds(1 << 20, usize::MAX, OnFull::DropNew);
    let mut pending = Pending::default();
    // The front never expires: what comes and goes behind it leaves gaps.
    pending.push(queued(b"first"), &bounds);
    for now in 0..100_000 {
        pending.push(expiring(b"x", Some(now + 10), Qos::AtLeastOnce), &bounds);
        pending.expire(Instant(now), u32::MAX);
        assert!(pending.rest.queue.len() <= 2 * pending.len() + SPARE + 1);
    }
    // What is sent before it expires leaves its entry in the list.
    for now in 0..100_000 {
        pending.push(expiring(b"x", Some(1 << 40), Qos::AtLeastOnce), &bounds);
        let listed = pending.rest.expiring.as_ref().map_or(0, |expiring| expiring.len());
        assert!(listed <= 2 * pending.len() + SPARE, "{listed} at {now}");
        pending.pop();
    }
}

/// What a message is to the naive queue: its mark, cost, time and QoS.
type Naive = (u8, usize, Option<u64>, Qos);

proptest::proptest! {
    #[test]
    fn the_queue_behaves_like_a_list_that_is_searched_for_expired_messages(
        most in 0usize..8, bytes in 0usize..1000, policy in 0usize..3,
        steps in proptest::collection::vec((0u8..6, 0u64..40, 0usize..100), 0..300)
    ) {
        let on_full = [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect][policy];
        let bounds = bounds(most, bytes, on_full);
        let mut pending = Pending::default();
        let mut naive: Vec<Naive> = Vec::new();
        let total = |naive: &[Naive]| naive.iter().map(|n| n.1).sum::<usize>();
        // The place of the message that expired first, if one has.
        let dead = |naive: &[Naive], now: u64| {
            let places = (0..naive.len()).filter(|&at| naive[at].2.is_some_and(|at| at <= now));
            places.min_by_key(|&at| (naive[at].2, at))
        };
        let mut now = 0;
        for (mark, (step, number, size)) in steps.into_iter().enumerate() {
            let mark = mark as u8;
            match step {
                0 => now += number,
                1 => {
                    let popped = pending.pop().map(|queued| queued.message.view().payload[0]);
                    let expected = (!naive.is_empty()).then(|| naive.remove(0).0);
                    proptest::prop_assert_eq!(popped, expected);
                }
                2 => {
                    let limit = number as u32 % 4;
                    let mut expected = 0;
                    while expected < limit && let Some(at) = dead(&naive, now) {
                        naive.remove(at);
                        expected += 1;
                    }
                    proptest::prop_assert_eq!(pending.expire(Instant(now), limit), expected);
                }
                _ => {
                    let qos = if step == 3 { Qos::AtMostOnce } else { Qos::AtLeastOnce };
                    let expires = (step != 4).then_some(now + number);
                    let mut payload = vec![0; 1 + size];
                    payload[0] = mark;
                    let queued = expiring(&payload, expires, qos);
                    let cost = cost_of(&queued);
                    let fits = |n: &[Naive]| n.len() < most && total(n) + cost <= bytes;
                    let mut expired = 0;
                    while !fits(&naive) && let Some(at) = dead(&naive, now) {
                        naive.remove(at);
                        expired += 1;
                    }
                    let dropped = pending.expire_for(&queued, &bounds, Instant(now));
                    proptest::prop_assert_eq!(dropped, expired);
                    let mut oldest = 0;
                    while on_full == OnFull::DropOldest
                        && cost <= bytes && !fits(&naive) && !naive.is_empty()
                    {
                        naive.remove(0);
                        oldest += 1;
                    }
                    let expected = match (fits(&naive), on_full) {
                        (true, _) if oldest > 0 => Pushed::DroppedOldest(oldest),
                        (true, _) => Pushed::Queued,
                        (false, OnFull::Disconnect) => Pushed::Disconnect,
                        (false, _) => Pushed::DroppedNew,
                    };
                    if fits(&naive) {
                        naive.push((mark, cost, expires, qos));
                    }
                    proptest::prop_assert_eq!(pending.push(queued, &bounds), expected);
                }
            }
            proptest::prop_assert_eq!(pending.len(), naive.len());
            proptest::prop_assert_eq!(pending.is_empty(), naive.is_empty());
            proptest::prop_assert_eq!(pending.bytes(), total(&naive));
            let qos0 = naive.iter().any(|n| n.3 == Qos::AtMostOnce);
            proptest::prop_assert_eq!(pending.has_qos0(), qos0);
            let front = pending.front().map(|queued| queued.message.view().payload[0]);
            proptest::prop_assert_eq!(front, naive.first().map(|n| n.0));
            let earliest = naive.iter().filter_map(|n| n.2).min();
            let told = pending.next_expiry().map(|at| at.0);
            proptest::prop_assert!(told <= earliest || earliest.is_none(), "late");
            proptest::prop_assert!(told.is_some() || earliest.is_none(), "forgotten");
        }
    }
}

fn shared(payload: &[u8]) -> Queued {
    Queued { share: Some(crate::session::ShareName::new("$share/g/t")), ..queued(payload) }
}

fn rest(pending: &mut Pending) -> Vec<u8> {
    std::iter::from_fn(|| pending.pop()).map(|one| one.message.view().payload[0]).collect()
}

#[test]
fn what_comes_back_goes_first_and_in_its_order() {
    let mut pending = Pending::default();
    let all = bounds(9, 9000, OnFull::DropNew);
    for payload in [b"5", b"6"] {
        pending.push(queued(payload), &all);
    }
    for payload in [b"1", b"2"] {
        pending.push_to(QueueEnd::Front, shared(payload), &all);
    }
    assert_eq!((pending.len(), pending.has_shares()), (4, true));
    assert_eq!(rest(&mut pending), b"1256");
    assert_eq!((pending.bytes(), pending.has_shares()), (0, false));
}

#[test]
fn a_sift_takes_out_what_leaves_and_keeps_the_order_of_the_rest() {
    for most in 1..6 {
        let mut pending = Pending::default();
        let all = bounds(99, 99_000, OnFull::DropNew);
        pending.push_to(QueueEnd::Front, shared(b"1"), &all);
        for payload in [b"2", b"3", b"4", b"5"] {
            pending.push(queued(payload), &all);
            pending.push(shared(payload), &all);
        }
        let mut taken = Vec::new();
        pending.begin_sift();
        // What is sent and what comes meanwhile does not disturb it.
        assert!(!pending.sift(1, |queued| queued.share.is_some(), &mut taken));
        assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
        pending.push(queued(b"6"), &all);
        while !pending.sift(most, |queued| queued.share.is_some(), &mut taken) {}
        let taken: Vec<u8> = taken.iter().map(|one| one.message.view().payload[0]).collect();
        assert_eq!(taken, b"12345");
        assert!(!pending.has_shares());
        assert_eq!(rest(&mut pending), b"3456");
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }
}

#[test]
fn room_is_what_a_push_needs_not_to_drop() {
    let mut pending = Pending::default();
    let two = bounds(2, 500, OnFull::DropNew);
    let size = queued(&[0; 100]).message.size();
    for left in [true, true, false] {
        assert_eq!(pending.has_room(size, &two), left);
        assert_eq!(pending.push(queued(&[0; 100]), &two) == Pushed::Queued, left);
    }
    assert!(pending.pop().is_some() && !pending.has_room(500, &two));
}

#[test]
fn a_message_of_a_group_that_has_to_go_can_be_given_back() {
    let mut pending = Pending::default();
    let two = bounds(2, 1000, OnFull::DropOldest);
    pending.push(shared(b"1"), &two);
    pending.push(queued(b"2"), &two);
    assert_eq!(pending.push(queued(b"3"), &two), Pushed::DroppedOldest(0));
    assert_eq!(pending.take_evicted()[0].message.view().payload, b"1");
    assert_eq!(pending.push(queued(b"4"), &two), Pushed::DroppedOldest(1));
    assert!(pending.take_evicted().is_empty() && !pending.has_shares());
    assert_eq!(rest(&mut pending), b"34");
}
