use super::*;

#[test]
fn a_budget_is_spent_at_once_and_comes_back_at_three_percent() {
    let (mut budget, start) = (WaitBudget::default(), Instant(1_000_000));
    assert!(budget.is_full(start));
    assert_eq!(budget.left(start), BUDGET);
    budget.spend(start, 300);
    assert_eq!(budget.left(start), 0);
    assert_eq!(budget.left(start.plus_millis(1000)), 30);
    assert!(!budget.is_full(start.plus_millis(9000)));
    assert!(budget.is_full(start.plus_millis(9900)));
    // A publisher that waits as long as its budget allows, as soon as it allows any wait, waits for
    // 300 ms and 3 % of the time.
    let (mut waited, mut now) = (0, start.plus_millis(100_000));
    let end = now.plus_millis(1_000_000);
    while now < end {
        let left = budget.left(now);
        if left >= LEAST {
            now = now.plus_millis(left);
            waited += left;
            budget.spend(now, left);
        } else {
            now = now.plus_millis(1);
        }
    }
    assert!((28_000..=31_000).contains(&waited), "{waited} ms of 1,000,000");
}

fn watched(main: u64) -> WatchedPublisher {
    let mut pace = Pace::default();
    let key = ClientKey::new(7);
    pace.watch(key, ReaderId(main), Instant(5));
    pace.watched.remove(&key).unwrap()
}

#[test]
fn the_main_reader_gets_nearly_all_of_the_recent_messages_alone() {
    // For each share of messages that go to the first reader alone, in percent: of how many in
    // 10,000 such messages the first reader may be the main reader, at most and at least.
    for (percent, most, least) in [(100, 10_000, 10_000), (90, 10_000, 9900), (50, 200, 0)] {
        for other in [None, Some(ReaderId(2))] {
            let (mut watched, mut main, mut random) = (watched(1), 0, 1u64);
            for _ in 0..10_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let first = (random >> 33) % 100 < percent;
                let reader = if first { Some(ReaderId(1)) } else { other };
                main += u32::from(watched.judge(reader) && first);
            }
            let most = most * percent as u32 / 100 + 200;
            let least = least * percent as u32 / 100;
            assert!((least.saturating_sub(300)..=most).contains(&main), "{percent} %: {main}");
        }
    }
    // A subscriber that becomes the only reader becomes the main reader.
    let mut watched = watched(1);
    assert!((0..100).any(|_| watched.judge(Some(ReaderId(2)))));
}

#[test]
fn what_is_remembered_is_forgotten() {
    let mut pace = Pace::default();
    for number in 1..=10_000 {
        pace.watch(ClientKey::new(number), ReaderId(1), Instant(5));
    }
    assert_eq!(pace.remembered(), 10_000);
    for step in 0..40 {
        pace.forget(Instant(5 + MEMORY + step));
    }
    assert_eq!((pace.remembered(), pace.watched.capacity()), (0, 0));
}
