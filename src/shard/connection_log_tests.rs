//! Tests of the rate limits of log lines about clients.

use super::*;

#[test]
fn a_kind_has_a_burst_then_ten_lines_a_second_and_the_rest_is_counted() {
    let mut pace = LinePace::default();
    let mut lines = |from: u64, to: u64, every: usize| {
        (from..to).step_by(every).filter(|&at| pace.allows(Instant(at))).count() as u64
    };
    // A thousand clients per second for a minute.
    assert_eq!(lines(1_000_000, 1_000_001, 1), 1);
    let storm = lines(1_000_001, 1_060_001, 1);
    assert!((BURST + 60 * RATE - 2..=BURST + 60 * RATE).contains(&storm), "{storm}");
    assert_eq!(pace.left_out, 60_000 - storm);
    // After a rest there is a burst again, and not more than one.
    let at = Instant(2_000_000);
    assert_eq!((0..1000).filter(|_| pace.allows(at)).count() as u64, BURST);
}

#[test]
fn what_was_left_out_is_told_by_kind_once_in_a_while() {
    let mut connection_log = ConnectionLog::default();
    assert_eq!(connection_log.left_out(Instant(50_000)), None, "there is nothing to tell");
    connection_log.paces[LineKind::Refused as usize].left_out = 7;
    assert_eq!(connection_log.left_out(Instant(50_000)), Some([0, 0, 7, 0]));
    connection_log.paces[LineKind::Connected as usize].left_out = 3;
    assert_eq!(connection_log.left_out(Instant(50_000 + TOLD - 1)), None);
    assert_eq!(connection_log.left_out(Instant(50_000 + TOLD)), Some([3, 0, 0, 0]));
    assert_eq!(connection_log.left_out(Instant(90_000)), None);
}

#[test]
fn what_a_client_chose_is_cut_between_characters() {
    assert_eq!(shown("ünïcode"), "ünïcode");
    let long = "ä".repeat(40_000);
    assert_eq!(shown(&long).len(), SHOWN);
    let odd = format!("x{long}");
    assert_eq!(shown(&odd).len(), SHOWN - 1);
}
