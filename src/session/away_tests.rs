use super::*;
use std::collections::VecDeque as Model;

fn message(slot: u32) -> AwayMessage {
    let ids = [vec![], vec![slot], vec![slot, 7, 9]];
    AwayMessage {
        slot,
        number: u64::from(slot) << 30 | 5,
        size: slot % 1000,
        checksum: slot ^ 77,
        qos: if slot.is_multiple_of(2) { Qos::AtLeastOnce } else { Qos::ExactlyOnce },
        retain: slot.is_multiple_of(5),
        subscription_ids: SubscriptionIds::from_slice(&ids[slot as usize % 3]),
    }
}

#[test]
fn messages_come_as_they_went_and_in_order() {
    let mut away = Away::default();
    (1..=3000).for_each(|slot| away.push(message(slot), None));
    assert_eq!((away.len(), away.front()), (3000, Some(message(1))));
    assert!(away.iter().eq((1..=3000).map(message)));
    (1..=2000).for_each(|slot| assert_eq!(away.pop(), Some(message(slot))));
    (3001..=3300).for_each(|slot| away.push(message(slot), None));
    (2001..=3300).for_each(|slot| assert_eq!(away.pop(), Some(message(slot))));
    assert_eq!((away.pop(), away.len(), away.bytes()), (None, 0, 0));
    assert!(away.chunks.is_empty() && away.several.is_none());
}

#[test]
fn messages_that_expire_before_one_that_does_not_leave_no_memory() {
    let mut away = Away::default();
    away.push(message(1), None);
    for slot in 2..20_000 {
        away.push(message(slot), Some(Instant(u64::from(slot))));
        assert_eq!(away.expire_one(Instant(u64::from(slot))).map(|gone| gone.0), Some(slot));
    }
    assert_eq!((away.len(), away.next_expiry()), (1, None));
    assert!(away.places < 200 && away.expiring.len() < 200, "{}", away.places);
    assert_eq!(away.pop(), Some(message(1)));
}

proptest::proptest! {
    #[test]
    fn a_tail_is_a_queue_from_which_messages_expire(
        steps in proptest::collection::vec((0u8..6, 1u64..40), 0..600)
    ) {
        let (mut away, mut model) = (Away::default(), Model::<(AwayMessage, Option<u64>)>::new());
        let mut now = 0;
        for (slot, (step, number)) in (1u32..).zip(steps) {
            match step {
                0 => proptest::prop_assert_eq!(away.pop(), model.pop_front().map(|gone| gone.0)),
                1 => {
                    now += number / 4;
                    let over = |entry: &&(AwayMessage, Option<u64>)| {
                        entry.1.is_some_and(|at| at <= now)
                    };
                    let gone = away.expire_one(Instant(now)).map(|gone| gone.0);
                    proptest::prop_assert_eq!(gone.is_some(), model.iter().any(|e| over(&e)));
                    model.retain(|entry| Some(entry.0.slot) != gone);
                }
                _ => {
                    let expires = (step > 3).then_some(now + number);
                    away.push(message(slot), expires.map(Instant));
                    model.push_back((message(slot), expires));
                }
            }
            proptest::prop_assert_eq!(away.len(), model.len());
            proptest::prop_assert_eq!(away.front(), model.front().map(|front| front.0.clone()));
            let bytes: usize = model.iter().map(|entry| cost(entry.0.size as usize)).sum();
            proptest::prop_assert_eq!(away.bytes(), bytes);
        }
        proptest::prop_assert!(away.iter().eq(model.into_iter().map(|entry| entry.0)));
    }
}
