//! Tests of lanes: any records, over any engine.

use super::*;
use proptest::prelude::*;

fn record(length: usize, fill: u8) -> Vec<u8> {
    vec![fill; length]
}

/// Takes all records out.
fn drain(arrivals: &mut LaneReceiver) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some(record) = arrivals.record().unwrap() {
        records.push(record.to_vec());
        arrivals.taken();
    }
    records
}

#[test]
fn records_longer_than_a_segment_come_as_they_were() {
    let (mut window, mut arrivals) = (LaneSender::default(), LaneReceiver::default());
    let lengths = [0, 1, FULL - 4, FULL, 5 * FULL + 3, 7, 3 * FULL - 4];
    let mut came = Vec::new();
    for (at, &length) in lengths.iter().enumerate() {
        window.push(|out| out.extend(record(length, at as u8)));
    }
    assert_eq!(window.records(), lengths.len() as u64);
    let mut now = Instant(0);
    while !window.is_empty() {
        now = now.plus_millis(1);
        while let Some((number, segment)) = window.next(now) {
            assert!(segment.len() <= FULL);
            arrivals.take(number, segment);
        }
        came.extend(drain(&mut arrivals));
        window.acknowledged(arrivals.acknowledgement(now), now);
    }
    let expected: Vec<_> =
        lengths.iter().enumerate().map(|(at, &length)| record(length, at as u8)).collect();
    assert_eq!(came, expected);
    assert_eq!((window.records(), window.bytes(), window.resends()), (0, 0, 0));
}

/// A record counts as unacknowledged until the segment that it ends in is acknowledged, also when
/// it ends exactly where that segment does.
#[test]
fn a_record_counts_until_the_segment_is_acknowledged_that_it_ends_in() {
    for end in [-1, 0, 1] {
        let mut window = LaneSender::default();
        window.push(|out| out.extend(record(100, 1)));
        let long = (3 * FULL).strict_add_signed(end) - (LENGTH + 100) - LENGTH;
        window.push(|out| out.extend(record(long, 2)));
        let last = window.close();
        assert_eq!((last, window.records()), (if end > 0 { 5 } else { 4 }, 2), "{end}");
        while window.next(Instant(0)).is_some() {}
        for next in 2..=last {
            let by = Acknowledgement { next, until: next + 10, gap: false };
            window.acknowledged(by, Instant(1));
            let left = u64::from(next < last);
            assert_eq!(window.records(), left, "{end}: all before segment {next}");
        }
    }
}

#[test]
fn records_that_are_not_acknowledged_are_handed_out_whole() {
    let lengths = [0, 1, FULL - 4, FULL, 5 * FULL + 3, 7, 3 * FULL - 4, 100, 5];
    let begins = |at: usize| lengths[..at].iter().map(|length| LENGTH + length).sum::<usize>();
    for acknowledged in 0.. {
        let mut window = LaneSender::default();
        for (at, &length) in lengths.iter().enumerate() {
            window.push(|out| out.extend(record(length, at as u8)));
        }
        let end = if acknowledged > 0 { window.close() } else { u64::MAX };
        let next = 1 + acknowledged as u64;
        if next > end {
            break;
        }
        let by = Acknowledgement { next, until: u64::MAX, gap: false };
        window.acknowledged(by, Instant(0));
        let mut left = Vec::new();
        window.unacknowledged(&mut |record| left.push(record.to_vec()));
        let whole = |at: &usize| begins(*at) >= acknowledged * FULL;
        let expected = (0..lengths.len()).filter(whole).map(|at| record(lengths[at], at as u8));
        assert_eq!(left, expected.collect::<Vec<_>>(), "{acknowledged} segments acknowledged");
    }
}

#[test]
fn a_receiver_that_is_behind_is_sent_no_more_than_it_takes() {
    let (mut window, mut arrivals) = (LaneSender::default(), LaneReceiver::default());
    for _ in 0..3 * RECEIVED / 1000 {
        window.push(|out| out.extend(record(1000, 1)));
    }
    let (mut sent, mut before) = (0, 1);
    while sent != before {
        before = sent;
        while let Some((number, segment)) = window.next(Instant(1)) {
            sent += segment.len();
            arrivals.take(number, segment);
        }
        window.acknowledged(arrivals.acknowledgement(Instant(1)), Instant(1));
    }
    // The record at the front may wait besides. There is less room than for a long segment.
    assert!(sent <= RECEIVED + 1000 && sent > RECEIVED - SEGMENT, "{sent} bytes");
    assert!(!arrivals.is_due(Lane::Bulk, Instant(9)));
    let taken = drain(&mut arrivals).len();
    assert!(arrivals.is_due(Lane::Messages, Instant(1)), "there is room again");
    window.acknowledged(arrivals.acknowledgement(Instant(2)), Instant(2));
    assert!(window.next(Instant(2)).is_some() && taken > 1000);
}

#[test]
fn one_record_may_be_longer_than_what_may_wait() {
    let (mut window, mut arrivals) = (LaneSender::default(), LaneReceiver::default());
    window.push(|out| out.extend(record(3 * RECEIVED, 9)));
    let mut now = Instant(0);
    while arrivals.record().unwrap().is_none() {
        now = now.plus_millis(1);
        let mut any = false;
        while let Some((number, segment)) = window.next(now) {
            arrivals.take(number, segment);
            any = true;
        }
        assert!(any, "nothing is sent, and the record is not there");
        window.acknowledged(arrivals.acknowledgement(now), now);
    }
    assert_eq!(drain(&mut arrivals), [record(3 * RECEIVED, 9)]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_later_each_time() {
    let mut window = LaneSender::default();
    window.push(|out| out.push(1));
    let mut sent = Vec::new();
    for now in 0..6000 {
        window.tick(Instant(now));
        while window.next(Instant(now)).is_some() {
            sent.push(now);
        }
    }
    assert_eq!(sent, [0, 250, 750, 1750, 3750, 5750]);
}

#[test]
fn hostile_acknowledgements_and_lengths_do_no_harm() {
    let mut window = LaneSender::default();
    window.push(|out| out.push(1));
    assert!(window.next(Instant(0)).is_some());
    for next in [0, 3, u64::MAX] {
        window.acknowledged(Acknowledgement { next, until: u64::MAX, gap: true }, Instant(1));
        assert_eq!(window.records(), 1);
    }
    let mut arrivals = LaneReceiver::default();
    arrivals.take(1, &[0xff; 8]);
    assert_eq!(arrivals.record(), Err(Malformed));
    arrivals.take(u64::MAX, b"x");
    assert!(arrivals.acknowledgement(Instant(1)).gap);
}

#[test]
fn publications_that_come_one_after_the_other_are_acknowledged_several_at_a_time() {
    let mut arrivals = LaneReceiver::default();
    let (mut sent, mut number) = (Vec::new(), 0);
    for now in 100..120 {
        let now = Instant(now);
        // Many at first, and then one every 5 milliseconds.
        let count = match now.0 {
            100 => 20,
            101..110 => 3,
            other => u64::from(other % 5 == 0),
        };
        for _ in 0..count {
            number += 1;
            arrivals.take(number, &[0, 0, 0, 0]);
            arrivals.taken();
            assert!(arrivals.is_due(Lane::Control, now) && arrivals.is_due(Lane::Bulk, now));
            assert!(arrivals.deadline().is_some_and(|at| at <= now.plus_millis(ACKNOWLEDGED)));
            if arrivals.is_due(Lane::Messages, now) {
                sent.push((now.0 - 100, arrivals.acknowledgement(now).next - 1));
                assert!(!arrivals.is_due(Lane::Messages, Instant(999)));
            }
        }
        let due = arrivals.deadline().is_some_and(|at| at <= now);
        assert_eq!(due, arrivals.is_due(Lane::Messages, now));
    }
    let expected =
        [(0, 1), (0, 9), (0, 17), (2, 24), (4, 30), (6, 36), (8, 42), (10, 48), (15, 49)];
    assert_eq!(sent, expected);
    arrivals.take(number + 2, b"x");
    assert!(arrivals.is_due(Lane::Messages, Instant(115)), "a gap is told at once");
}

proptest! {
    /// Segments are lost, duplicated and swapped; records arrive once and in order.
    #[test]
    fn whatever_the_engine_does_records_come_once_and_in_order(
        lengths in prop::collection::vec(0..3 * FULL, 1..20),
        fates in prop::collection::vec(0..8u8, 1..60),
    ) {
        let (mut window, mut arrivals) = (LaneSender::default(), LaneReceiver::default());
        for (at, &length) in lengths.iter().enumerate() {
            window.push(|out| out.extend(record(length, at as u8)));
        }
        let mut fates = fates.into_iter().cycle();
        let (mut came, mut now, mut kept) = (Vec::new(), Instant(0), None);
        for _ in 0..4000 {
            now = now.plus_millis(20);
            window.tick(now);
            while let Some((number, segment)) = window.next(now) {
                let segment = segment.to_vec();
                match fates.next().unwrap() {
                    0 => {}
                    1 => {
                        arrivals.take(number, &segment);
                        arrivals.take(number, &segment);
                    }
                    2 => kept = Some((number, segment)),
                    _ => {
                        arrivals.take(number, &segment);
                        if let Some((number, segment)) = kept.take() {
                            arrivals.take(number, &segment);
                        }
                    }
                }
            }
            came.extend(drain(&mut arrivals));
            // The losses may repeat, but must not prevent a whole run from ending.
            if fates.next() != Some(0) || now.0 % 3 == 0 {
                window.acknowledged(arrivals.acknowledgement(now), now);
            }
            if window.is_empty() {
                break;
            }
        }
        prop_assume!(window.is_empty());
        let expected: Vec<_> =
            lengths.iter().enumerate().map(|(at, &length)| record(length, at as u8)).collect();
        prop_assert_eq!(came, expected);
    }
}

/// Another process has both ends from then on, at any moment: what was not acknowledged is sent
/// again, and each record comes once.
#[test]
fn a_lane_goes_on_in_another_process() {
    for at in 0..12 {
        let (mut window, mut arrivals) = (LaneSender::default(), LaneReceiver::default());
        let (mut came, mut expected) = (Vec::new(), Vec::new());
        let mut now = Instant(0);
        for round in 0..12usize {
            for length in [round, FULL - 5 + round, 3 * FULL] {
                expected.push(record(length, round as u8));
                window.push(|out| out.extend(record(length, round as u8)));
            }
            now = now.plus_millis(1);
            // The last one of a round is on its way when the process is replaced.
            let mut sent = Vec::new();
            while let Some((number, segment)) = window.next(now) {
                sent.push((number, segment.to_vec()));
            }
            let lost = if round == at { sent.len() / 2 } else { sent.len() };
            sent.truncate(lost);
            sent.iter().for_each(|(number, segment)| arrivals.take(*number, segment));
            if round % 2 == 0 {
                came.extend(drain(&mut arrivals));
            }
            if round == at {
                let (kept, records) = (window.bytes(), window.records());
                window = unpack(pack(&window, &LaneReceiver::default())).0;
                assert_eq!((window.bytes(), window.records()), (kept, records));
                arrivals = unpack(pack(&LaneSender::default(), &arrivals)).1;
            }
            window.acknowledged(arrivals.acknowledgement(now), now);
        }
        for _ in 0..20 {
            now = now.plus_millis(2000);
            window.tick(now);
            while let Some((number, segment)) = window.next(now) {
                arrivals.take(number, segment);
            }
            came.extend(drain(&mut arrivals));
            window.acknowledged(arrivals.acknowledgement(now), now);
        }
        assert!(window.is_empty());
        assert!(came == expected, "replaced in round {at}: {} of {}", came.len(), expected.len());
    }
}

/// Another process may take over an open segment from one whose segments were longer.
#[test]
fn an_open_segment_that_is_full_here_is_sent_as_it_is() {
    let lengths = [FULL - 100, 130, 20];
    let mut window = LaneSender::default();
    window.push(|out| out.extend(record(lengths[0], 0)));
    let mut moved = pack(&window, &LaneReceiver::default());
    let mut old = moved.segments.pop().unwrap();
    for (length, mark) in [(lengths[1], 1), (lengths[2], 2)] {
        old.bytes.0.extend((length as u32).to_le_bytes());
        old.bytes.0.extend(record(length, mark));
        old.records += 1;
    }
    assert!((FULL..=SEGMENT).contains(&old.bytes.0.len()));
    moved.segments.push(old);
    let mut window = unpack(moved).0;
    window.push(|out| out.extend(record(50, 3)));
    assert_eq!(window.records(), 4);
    let (mut now, mut arrivals) = (Instant(1), LaneReceiver::default());
    let (number, segment) = window.next(now).unwrap();
    arrivals.take(number, segment);
    assert_eq!(drain(&mut arrivals).len(), 3);
    window.acknowledged(arrivals.acknowledgement(now), now);
    let mut left = Vec::new();
    window.unacknowledged(&mut |record| left.push(record.to_vec()));
    assert_eq!((window.records(), left), (1, vec![record(50, 3)]));
    window.close();
    now = now.plus_millis(1);
    let (number, segment) = window.next(now).unwrap();
    arrivals.take(number, segment);
    assert_eq!(drain(&mut arrivals), [record(50, 3)]);
}
