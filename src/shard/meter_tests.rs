use super::*;
use std::cell::Cell;
use std::rc::Rc;

/// A meter in a step that began at one second, and its clock.
fn started() -> (Meter, Rc<Cell<u64>>) {
    let clock = Rc::new(Cell::new(1_000_000));
    let mut meter = Meter::new(0);
    let read = clock.clone();
    meter.set_clock(Box::new(move || read.get()));
    meter.begin_step(clock.get());
    (meter, clock)
}

#[test]
fn the_clock_is_read_only_after_so_much_work() {
    let (mut meter, _) = started();
    meter.charge(LOOK - 1);
    assert!(!meter.wants_look());
    meter.charge(1);
    assert!(meter.wants_look());
    meter.look_at_clock(10 * LOOK, 20 * LOOK);
    assert!(!meter.wants_look());
    assert_eq!(meter.work(), LOOK, "the time is not over");
}

#[test]
fn when_the_time_is_over_the_work_has_come_to_both_limits() {
    let (mut meter, clock) = started();
    clock.set(1_000_000 + STEP_MICROS);
    meter.look_at_clock(300, 200);
    assert_eq!(meter.work(), 0);
    assert!(!meter.is_late());
    clock.set(1_000_000 + STEP_MICROS + 1);
    assert!(meter.is_late());
    meter.look_at_clock(300, 200);
    assert_eq!(meter.work(), 300);
    meter.look_at_clock(300, 400);
    assert_eq!(meter.work(), 400);
    meter.look_at_clock(u32::MAX, 400);
    assert_eq!(meter.work(), 400, "no limit is none to come to");
    meter.begin_step(2_000_000);
    assert_eq!(meter.work(), 0);
    assert!(!meter.is_late());
}

#[test]
fn a_late_kind_of_work_has_a_share_of_work_and_time_of_its_own() {
    let (mut meter, clock) = started();
    let budget = Budget { step: 1000, ..Budget::BROKER };
    assert_eq!(meter.allowance(budget), 1000.max(budget.share()));
    meter.charge(5000);
    let limit = meter.allowance(budget);
    assert_eq!(limit, 5000 + budget.share());
    // The time of late work begins with the first reading of the clock, however late that is.
    let late = 1_000_000 + 10 * STEP_MICROS;
    clock.set(late);
    meter.look_at_clock(limit, budget.step);
    clock.set(late + SHARE_MICROS);
    meter.look_at_clock(limit, budget.step);
    assert_eq!(meter.work(), 5000);
    clock.set(late + SHARE_MICROS + 1);
    meter.look_at_clock(limit, budget.step);
    assert_eq!(meter.work(), limit);
}

#[test]
fn what_has_no_limit_goes_on_when_it_is_late() {
    let (mut meter, clock) = started();
    clock.set(1_000_000 + 10 * STEP_MICROS);
    meter.look_at_clock(u32::MAX, 1000);
    assert_eq!(meter.work(), 1000);
    meter.charge(5);
    assert_eq!(meter.work(), 1005);
}

#[test]
fn an_account_of_its_own_costs_the_step_neither_work_nor_time() {
    let (mut meter, clock) = started();
    meter.charge(70);
    let step = meter.begin_account(30, 100);
    meter.charge(5);
    assert_eq!(meter.work(), 35);
    meter.look_at_clock(50, 40);
    clock.set(1_000_101);
    meter.look_at_clock(50, 40);
    assert_eq!(meter.end_account(step), 50);
    assert_eq!(meter.work(), 70);
    meter.look_at_clock(90, 80);
    assert_eq!(meter.work(), 70, "the step's own time is not over");
}

#[test]
fn what_is_shared_is_work_of_the_step_and_not_of_what_was_done_meanwhile() {
    let (mut meter, _) = started();
    let before = meter.charged();
    meter.charge(5);
    meter.charge_shared(300);
    assert_eq!(meter.work(), 305);
    assert_eq!(meter.charged().wrapping_sub(before), 5);
}

#[test]
fn without_a_clock_only_charges_count() {
    let mut meter = Meter::new(5);
    meter.begin_step(1_000_000);
    meter.charge(3);
    meter.look_at_clock(100, 100);
    assert_eq!(meter.work(), 3);
    assert!(!meter.is_late());
}
