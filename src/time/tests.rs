//! Tests of the wheel against a list that is searched from end to end.

use super::*;
use proptest::prelude::*;

/// Everything that is due, in one call.
fn expire_all(wheel: &mut Wheel<u64>, now: u64) -> Vec<u64> {
    let mut due = Vec::new();
    assert!(!wheel.expire(Instant(now), usize::MAX, &mut due));
    due
}

#[test]
fn an_instant_neither_wraps_nor_goes_negative() {
    assert_eq!(Instant(5).plus_millis(u64::MAX), Instant(u64::MAX));
    assert_eq!(Instant(5).millis_since(Instant(9)), 0);
    assert_eq!(Instant(9).millis_since(Instant(5)), 4);
}

#[test]
fn an_entry_fires_within_one_tick_and_not_before_its_deadline() {
    for deadline in [1, 63, 64, 65, 4095, 4096, 4097, 262_144, 1_000_000_007, 1 << 40] {
        let mut wheel = Wheel::new(Instant(0));
        wheel.insert(Instant(deadline), 7);
        assert_eq!(expire_all(&mut wheel, deadline - 1), [0u64; 0], "{deadline}");
        assert_eq!(expire_all(&mut wheel, deadline + GRANULARITY_MILLIS - 1), [7], "{deadline}");
        assert_eq!(wheel.next_deadline(), None);
    }
}

#[test]
fn a_deadline_that_has_passed_is_due_at_once() {
    let mut wheel = Wheel::new(Instant(10_000));
    assert_eq!(expire_all(&mut wheel, 20_000), [0u64; 0]);
    wheel.insert(Instant(3), 1);
    wheel.insert(Instant(0), 2);
    let mut due = expire_all(&mut wheel, 20_000);
    due.sort_unstable();
    assert_eq!(due, [1, 2]);
}

#[test]
fn the_end_of_time_is_a_deadline_like_any_other() {
    let mut wheel = Wheel::new(Instant(0));
    wheel.insert(Instant(u64::MAX), 1);
    wheel.insert(Instant(u64::MAX - 1), 2);
    assert!(wheel.next_deadline().is_some());
    assert_eq!(expire_all(&mut wheel, u64::MAX), [0u64; 0]);
    assert_eq!(wheel.len(), 2);
    assert!(wheel.next_deadline().is_some());
}

#[test]
fn an_empty_wheel_sleeps_for_ever() {
    let mut wheel: Wheel<u64> = Wheel::new(Instant(99));
    assert!(wheel.is_empty());
    assert_eq!(wheel.next_deadline(), None);
    assert_eq!(expire_all(&mut wheel, u64::MAX), [0u64; 0]);
}

#[test]
fn entries_fire_in_the_order_of_their_ticks_however_far_the_clock_jumps() {
    let mut wheel = Wheel::new(Instant(0));
    let mut deadlines: Vec<u64> = (0..2000).map(|i| (i * 7_919_777) % 100_000_000).collect();
    for deadline in &deadlines {
        wheel.insert(Instant(*deadline), *deadline);
    }
    let due = expire_all(&mut wheel, 1 << 50);
    deadlines.sort_by_key(|deadline| deadline.div_ceil(GRANULARITY_MILLIS));
    let ticks = |list: &[u64]| -> Vec<u64> {
        list.iter().map(|deadline| deadline.div_ceil(GRANULARITY_MILLIS)).collect()
    };
    assert_eq!(ticks(&due), ticks(&deadlines));
}

#[test]
fn a_clock_that_steps_back_fires_nothing_early() {
    let mut wheel = Wheel::new(Instant(0));
    expire_all(&mut wheel, 1_000_000);
    wheel.insert(Instant(2_000_000), 1);
    assert_eq!(expire_all(&mut wheel, 500), [0u64; 0]);
    assert_eq!(expire_all(&mut wheel, 1_999_999), [0u64; 0]);
    assert_eq!(expire_all(&mut wheel, 2_000_064), [1]);
}

#[test]
fn one_call_moves_and_fires_no_more_than_its_limit_allows() {
    let mut wheel = Wheel::new(Instant(0));
    // All in one slot of a high level, so that all have to move down before any fires.
    for item in 0..10_000 {
        wheel.insert(Instant(1_000_000), item);
    }
    let mut due = Vec::new();
    let mut calls = 0;
    while wheel.expire(Instant(2_000_000), 10, &mut due) {
        calls += 1;
        assert!(due.len() <= calls * 10);
        assert!(calls < 10_000);
    }
    assert_eq!(due.len(), 10_000);
    // Each entry moves at most twice from there, 160 a call, and fires once, 10 a call.
    assert!(calls <= 1000 + 2 * 10_000 / 160 + 2, "{calls}");
}

#[test]
fn a_limit_of_nothing_says_only_whether_there_is_work() {
    let mut wheel = Wheel::new(Instant(0));
    let mut due = Vec::new();
    assert!(!wheel.expire(Instant(50), 0, &mut due));
    wheel.insert(Instant(60), 1);
    assert!(!wheel.expire(Instant(63), 0, &mut due));
    assert!(wheel.expire(Instant(64), 0, &mut due));
    assert!(due.is_empty());
}

#[test]
fn a_storm_leaves_no_memory_behind() {
    let mut wheel = Wheel::new(Instant(0));
    for item in 0..200_000 {
        wheel.insert(Instant(90_000 + item % 20_000), item);
    }
    let held = |wheel: &Wheel<u64>| -> usize {
        let chunks = wheel.slots.iter().flat_map(|slot| &slot.chunks);
        chunks.map(Vec::capacity).sum::<usize>() * size_of::<TimerEntry<u64>>()
    };
    assert!(held(&wheel) <= 200_000 * 24, "{}", held(&wheel));
    assert_eq!(expire_all(&mut wheel, 200_000).len(), 200_000);
    assert!(held(&wheel) <= LEVELS * SLOTS * KEPT * size_of::<TimerEntry<u64>>());
    let spines: usize = wheel.slots.iter().map(|slot| slot.chunks.capacity()).sum();
    assert!(spines <= LEVELS * SLOTS * 4, "{spines}");
}

#[derive(Clone, Debug)]
enum Op {
    Insert { ahead: u64 },
    InsertAt { deadline: u64 },
    Advance { millis: u64 },
    Expire { limit: usize },
    Drain,
}

fn distance() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..200u64,
        4 => 0..10_000u64,
        3 => 0..1_000_000u64,
        2 => 0..10_000_000_000u64,
        1 => 0..u64::MAX / 4,
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => distance().prop_map(|ahead| Op::Insert { ahead }),
        1 => any::<u64>().prop_map(|deadline| Op::InsertAt { deadline }),
        4 => distance().prop_map(|millis| Op::Advance { millis }),
        3 => (0..20usize).prop_map(|limit| Op::Expire { limit }),
        3 => Just(Op::Drain),
    ]
}

/// The list: every deadline that is still to fire.
struct Model {
    entries: Vec<(u64, u64)>,
}

impl Model {
    fn is_due(deadline: u64, now: u64) -> bool {
        deadline.div_ceil(GRANULARITY_MILLIS) <= now / GRANULARITY_MILLIS
    }

    fn due(&self, now: u64) -> usize {
        self.entries.iter().filter(|(deadline, _)| Self::is_due(*deadline, now)).count()
    }

    /// Removes what the wheel says has fired.
    fn fired(&mut self, now: u64, due: &[u64]) {
        for item in due {
            let at = self.entries.iter().position(|(_, known)| known == item);
            let (deadline, _) = self.entries.swap_remove(at.expect("fires once"));
            assert!(deadline <= now, "early");
            assert!(Self::is_due(deadline, now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_wheel_fires_what_a_list_would(
        start in prop_oneof![0..10_000u64, 0..1u64 << 40],
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut now = start;
        let mut wheel = Wheel::new(Instant(now));
        let mut model = Model { entries: Vec::new() };
        for (item, op) in (0u64..).zip(ops) {
            match op {
                Op::Insert { ahead } => {
                    let deadline = Instant(now).plus_millis(ahead);
                    wheel.insert(deadline, item);
                    model.entries.push((deadline.0, item));
                }
                Op::InsertAt { deadline } => {
                    wheel.insert(Instant(deadline), item);
                    model.entries.push((deadline, item));
                }
                Op::Advance { millis } => now = now.saturating_add(millis),
                Op::Expire { limit } => {
                    let mut due = Vec::new();
                    let more = wheel.expire(Instant(now), limit, &mut due);
                    prop_assert!(due.len() <= limit);
                    model.fired(now, &due);
                    if !more {
                        prop_assert_eq!(model.due(now), 0);
                    }
                }
                Op::Drain => {
                    let mut due = Vec::new();
                    let mut calls = 0;
                    while wheel.expire(Instant(now), 3, &mut due) {
                        calls += 1;
                        prop_assert!(calls < 10_000);
                    }
                    model.fired(now, &due);
                    prop_assert_eq!(model.due(now), 0);
                    if let Some(next) = wheel.next_deadline() {
                        prop_assert!(next.0 > now || now == u64::MAX, "a sleeper must sleep");
                    }
                }
            }
            prop_assert_eq!(wheel.len(), model.entries.len());
            let earliest = model.entries.iter().map(|(deadline, _)| *deadline).min();
            prop_assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                prop_assert!(next.0 <= earliest.max(now).saturating_add(GRANULARITY_MILLIS - 1));
            }
        }
    }
}

proptest! {
    /// Sweeping removes exactly the entries that are refused, whichever slot is half moved down.
    #[test]
    fn a_swept_wheel_fires_what_was_kept_and_nothing_else(
        deadlines in proptest::collection::vec(0u64..3_000_000, 1..3000),
        keep_one_in in 1u64..12,
        warm in 0u64..2_000_000,
        limit in 1usize..200,
    ) {
        let mut wheel = Wheel::new(Instant(0));
        for (number, &deadline) in deadlines.iter().enumerate() {
            wheel.insert(Instant(deadline), number as u64);
        }
        let mut fired = Vec::new();
        // Stops in the middle of whatever it was doing.
        wheel.expire(Instant(warm), limit, &mut fired);
        let early = fired.len();
        let mut rounds = 0;
        while !wheel.sweep(3, |fires, number| {
            let deadline = deadlines[number as usize];
            assert!(fires.0 >= deadline && fires.0 < deadline + GRANULARITY_MILLIS);
            number % keep_one_in == 0
        }) {
            rounds += 1;
            assert!(rounds < 10_000);
        }
        let mut now = warm;
        while !wheel.is_empty() {
            let mut due = Vec::new();
            if !wheel.expire(Instant(now), 100, &mut due) {
                now = wheel.next_deadline().map_or(now, |at| at.0);
            }
            for &number in &due {
                assert!(deadlines[number as usize] <= now);
            }
            fired.extend(due);
        }
        let mut expected: Vec<u64> = (0..deadlines.len() as u64)
            .filter(|n| n % keep_one_in == 0 || fired[..early].contains(n))
            .collect();
        fired.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(fired, expected);
    }
}

#[test]
fn a_swept_wheel_gives_its_memory_back() {
    let mut wheel = Wheel::new(Instant(0));
    (0..100_000u64).for_each(|n| wheel.insert(Instant(600_000 + n % 1000), n));
    let chunks = |wheel: &Wheel<u64>| wheel.slots.iter().map(|s| s.chunks.len()).sum::<usize>();
    let before = chunks(&wheel);
    while !wheel.sweep(8, |_, number| number % 100 == 0) {}
    assert_eq!(wheel.len(), 1000);
    assert!(chunks(&wheel) < before / 20, "{} of {before} chunks", chunks(&wheel));
}
