//! Thousands of connections dropped by RST in one moment.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::probe::{Sys, beside, figure, memory, ticks};
use crate::support::*;

/// As many as asked for, or as the limit of descriptors allows.
pub fn most_connections(wanted: usize) -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024) as usize;
    let most = wanted.min(limit.saturating_sub(300));
    if most < wanted {
        figure("RST", &format!("{most} connections, not {wanted}: the limit is {limit}"));
    }
    most
}

/// Connections that were accepted; every tenth has a will.
fn crowd(broker: &Broker, count: usize, will: &str) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for start in (0..count).step_by(500) {
        let mut batch: Vec<_> = (start..count.min(start + 500))
            .map(|n| {
                let mut connect = Connect::new(V311, format!("rst-{n}")).keep_alive(600);
                if n % 10 == 0 {
                    connect = connect.will(Publish::new(will, 1, n.to_string()));
                }
                let mut c = Client::raw(broker, V311);
                c.send(&connect.encode());
                c
            })
            .collect();
        for c in &mut batch {
            assert_eq!(c.connack().code, 0);
        }
        streams.extend(batch.iter().map(|c| c.stream().try_clone().expect("a handle")));
    }
    streams
}

#[test]
fn ten_thousand_connections_reset_at_once_leave_nothing_behind() {
    let _alone = machine();
    let count = most_connections(10_000);
    let broker = Broker::start(&["sys.interval=1s"]);
    let will = unique("will");
    let mut witness = Client::subscriber(&broker, V5, &unique("w"), &will, 1);
    let mut sys = Sys::of(&broker);
    let shards = broker::shards();
    let open = |sys: &mut Sys| -> u64 {
        (0..shards).map(|n| sys.read(&format!("shards/{n}/connections"))).sum()
    };
    // One round before the one that is measured: what is allocated once is allocated.
    let mut settled = Vec::new();
    for _ in 0..2 {
        let before = broker.descriptors();
        let streams = crowd(&broker, count, &will);
        let ((), trips) = beside(&broker, "RST", || {
            let start = Instant::now();
            for stream in &streams {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            }
            drop(streams);
            let sent = start.elapsed();
            // Every will once, whatever the rest is busy with.
            let mut told: Vec<usize> = (0..count.div_ceil(10))
                .map(|_| witness.message().text().parse().expect("a number"))
                .collect();
            let wills = start.elapsed();
            told.sort_unstable();
            assert_eq!(told, (0..count).step_by(10).collect::<Vec<_>>(), "each will once");
            sys.wait("clients/connected", |connected| connected <= 10);
            figure(
                "RST",
                &format!(
                    "{count} in {sent:?}, all wills after {wills:?}, $SYS settled after {:?}",
                    start.elapsed()
                ),
            );
        });
        witness.expect_nothing();
        assert!(trips.percentile(99) < Duration::from_secs(1), "bystanders waited");
        eventually("as few descriptors as before", || broker.descriptors() <= before + 4);
        // The witness and the reader of $SYS.
        eventually("two connections are left", || open(&mut sys) == 2);
        settled.push(memory(&broker));
    }
    figure("RST", &format!("memory after each round {settled:?} KiB"));
    assert!(settled[1] < settled[0] + (8 << 10), "memory grows: {settled:?} KiB");
    let before = ticks(&broker);
    std::thread::sleep(Duration::from_secs(1));
    let spent = ticks(&broker) - before;
    figure("RST", &format!("{spent} ticks of 10 ms in the second after"));
    assert!(spent <= 10 + shards as u64, "the broker does not come to rest");
}
