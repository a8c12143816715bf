//! What crosses threads, as far as one thread can tell; `tests/loom` tries it with several.
use crate::ring::flag::SleepFlag;
use crate::ring::port::{Permit, RingPort};

#[test]
fn permits_are_given_once_each_and_come_back() {
    let port = RingPort::new(4);
    assert!(port.take().is_none());
    port.opened(0, 10);
    port.opened(1, 11);
    port.grant(0, 1);
    port.grant(1, 2);
    let first: Vec<_> = (0..3).map(|_| port.take().unwrap()).collect();
    assert_eq!(first.iter().map(|p| p.fd).collect::<Vec<_>>(), [11, 11, 10]);
    assert!(port.take().is_none());
    first.into_iter().for_each(Permit::give_back);
    assert_eq!((port.withdraw(0), port.withdraw(1)), (1, 2));
    assert!(port.take().is_none());
}

#[test]
fn a_retired_port_gives_nothing_even_when_permits_come_back() {
    let port = RingPort::new(1);
    port.opened(0, 10);
    port.grant(0, 1);
    let permit = port.take().unwrap();
    port.retire();
    permit.give_back();
    assert!(port.take().is_none());
}

#[test]
fn exactly_one_ringer_wakes_a_sleeper_and_none_wakes_a_waking_one() {
    let flag = SleepFlag::default();
    assert!(!flag.must_wake());
    flag.fall_asleep();
    assert_eq!([flag.must_wake(), flag.must_wake()], [true, false]);
    flag.fall_asleep();
    flag.wake_up();
    assert!(!flag.must_wake());
}
