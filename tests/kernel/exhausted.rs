//! No descriptor left, no room in the ring's table, more connections at once than the backlog.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::line::Line;
use crate::probe::{Sys, beside, figure};
use crate::support::broker::Launch;
use crate::support::*;

/// Those that found room, those that wait for an answer, and how many were parted with.
struct Full {
    served: Vec<Line>,
    waiting: Vec<Line>,
    parted: u64,
}

/// Connects one after another until four wait or fifty have been parted with.
fn connect_until_stuck(broker: &Broker, most: usize) -> Full {
    let mut full = Full { served: Vec::new(), waiting: Vec::new(), parted: 0 };
    while full.waiting.len() < 4 && full.parted < 50 {
        assert!(full.served.len() < most, "the limit was not met by {most}");
        let connect = Connect::new(V5, unique("c"));
        let mut line = Line::begin(broker.address(), &connect).expect("the kernel takes it");
        // A table that is full makes connections wait; one that the entry shard took in, and its
        // home has no room for, is parted with.
        match line.accepted(Duration::from_millis(250)) {
            Ok(()) => full.served.push(line),
            Err(error) if error.kind() == ErrorKind::TimedOut => full.waiting.push(line),
            Err(_) => full.parted += 1,
        }
    }
    full
}

#[track_caller]
fn all_answer(lines: &mut [Line]) {
    for line in lines.iter_mut() {
        line.send(&[0xc0, 0]).expect("the connection stands");
    }
    for line in lines.iter_mut() {
        let answer = line.next(patience()).expect("the connection stands");
        assert_eq!(answer, Some(Packet::PingResp));
    }
}

/// Fills the broker to the brim, looks after those inside, and lets half of them go. Returns how
/// many had to wait until then.
fn fill_and_recover(broker: &Broker, what: &str, shards: usize, least: usize) -> usize {
    let mut sys = Sys::of(broker);
    let work = || {
        let Full { mut served, waiting, parted } = connect_until_stuck(broker, 6000);
        let waited = waiting.len();
        figure(what, &format!("{} served, {parted} parted with, {waited} wait", served.len()));
        assert!(served.len() >= least, "only {} clients found room", served.len());
        all_answer(&mut served);
        let half = served.len() / 2;
        served.drain(..half);
        let start = Instant::now();
        for mut line in waiting {
            // Served now, or parted with if its home is the shard that is still full.
            let late = line.accepted(patience());
            let waits = late.is_err_and(|error| error.kind() == ErrorKind::TimedOut);
            assert!(!waits, "room was made, and somebody still waits");
        }
        let mut again = Vec::new();
        // As many as left find room again.
        while again.len() < half * 3 / 4 {
            assert!(start.elapsed() < patience(), "{} of {half} only", again.len());
            let connect = Connect::new(V311, unique("again"));
            if let Ok(line) = Line::open(broker.address(), &connect, Duration::from_secs(1)) {
                again.push(line);
            }
        }
        figure(what, &format!("room for {} again after {:?}", again.len(), start.elapsed()));
        all_answer(&mut served);
        all_answer(&mut again);
        let counted = |sys: &mut Sys| -> u64 {
            ["connections/refused", "handovers/failed"]
                .iter()
                .flat_map(|figure| (0..shards).map(move |n| format!("shards/{n}/{figure}")))
                .map(|topic| sys.read(&topic))
                .sum()
        };
        eventually("everyone who was parted with is counted", || counted(&mut sys) >= parted);
        waited
    };
    beside(broker, what, work).0
}

#[test]
fn without_descriptors_for_further_rings_new_clients_wait_or_go_and_old_ones_notice_nothing() {
    let _alone = machine();
    // A ring is a descriptor, sockets are entries of its table: this leaves room for a few rings.
    let settings = ["runtime.sockets_per_ring=16", "sys.interval=1s"];
    for shards in [1, broker::shards()] {
        let broker = Launch { shards, files: Some(64), ..Launch::new(&settings) }.start();
        let what = format!("64 descriptors, {shards} shards");
        let waited = fill_and_recover(&broker, &what, shards, 50);
        assert!(shards > 1 || waited == 4, "one shard has nobody to hand over to: all wait");
        assert!(broker.log().contains("no further ring"), "nothing said:\n{}", broker.log());
    }
}

#[test]
fn sockets_spread_over_hundreds_of_tiny_rings() {
    let _alone = machine();
    let broker = Broker::start(&["runtime.sockets_per_ring=4"]);
    let mut lines: Vec<_> = (0..400)
        .map(|_| {
            let connect = Connect::new(V5, unique("tiny"));
            Line::open(broker.address(), &connect, patience()).expect("there is room for all")
        })
        .collect();
    all_answer(&mut lines);
    // The tables are used again, in whatever order they became free.
    for keep in 0..3 {
        let mut n = 0;
        lines.retain(|_| {
            n += 1;
            n % 3 == keep
        });
        while lines.len() < 400 {
            let connect = Connect::new(V311, unique("tiny"));
            lines.push(Line::open(broker.address(), &connect, patience()).expect("there is room"));
        }
        all_answer(&mut lines);
    }
}

#[test]
fn past_max_connections_new_clients_are_parted_with_at_once() {
    let _alone = machine();
    let broker = Broker::start(&["runtime.max_connections=60", "sys.interval=1s"]);
    fill_and_recover(&broker, "max_connections 60", broker::shards(), 40);
}

#[test]
fn a_storm_that_fills_the_backlog_is_served_to_the_last() {
    let _alone = machine();
    let broker = Launch { backlog: 16, ..Launch::new(&[]) }.start();
    beside(&broker, "300 at once, backlog 16", || {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..300 {
                scope.spawn(|| {
                    let connect = Connect::new(V5, unique("storm"));
                    // The kernel drops what the backlog cannot hold and the client's asks again,
                    // after 1 s, 3 s, 7 s.
                    let line = Line::open(broker.address(), &connect, patience());
                    all_answer(&mut [line.expect("served in the end")]);
                });
            }
        });
        figure("300 at once, backlog 16", &format!("all served in {:?}", start.elapsed()));
    });
}
