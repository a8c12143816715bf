//! Peers that are not there: never said anything, stopped in the middle, or vanished without FIN.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::probe::{Sys, beside, figure};
use crate::support::*;

#[test]
fn connections_that_never_finish_their_connect_are_closed_in_time() {
    let _alone = machine();
    const COUNT: usize = 600;
    let broker = Broker::start(&["mqtt.connect_timeout=2s", "sys.interval=1s"]);
    let mut sys = Sys::of(&broker);
    beside(&broker, "600 half-open connections", || {
        let whole = Connect::new(V5, "x".repeat(200)).encode();
        let start = Instant::now();
        let mut silent: Vec<_> = (0..COUNT)
            .map(|n| {
                let mut c = Client::raw(&broker, V5);
                // Nothing, a byte, the fixed header, half, all but the last byte.
                let parts = [0, 1, 3, whole.len() / 2, whole.len() - 1];
                c.send(&whole[..parts[n % parts.len()]]);
                c
            })
            .collect();
        let opened = start.elapsed();
        for c in &mut silent {
            c.expect_closed_after_anything();
        }
        let closed = start.elapsed();
        figure("600 half-open connections", &format!("all closed {closed:?} after the first"));
        assert!(closed > Duration::from_millis(1900), "closed too early");
        // The simulation knows the exact moment; this machine may be busy.
        assert!(closed < opened + Duration::from_secs(20), "closed too late: {closed:?}");
    });
    let sum = |sys: &mut Sys| (0..broker::shards()).map(|n| connections(sys, n)).sum::<u64>();
    eventually("only the reader's connection is left", || sum(&mut sys) == 1);
}

fn connections(sys: &mut Sys, shard: usize) -> u64 {
    sys.read(&format!("shards/{shard}/connections"))
}

/// Lets the connection vanish: no FIN, no RST, as if the cable were cut. Needs CAP_NET_ADMIN.
fn vanish(c: Client) -> bool {
    const TCP_REPAIR: i32 = 19;
    let on: i32 = 1;
    // SAFETY: an option of four bytes on a descriptor that we own.
    let outcome = unsafe {
        libc::setsockopt(
            c.stream().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_REPAIR,
            (&raw const on).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    // A socket under repair is closed without a word.
    drop(c);
    outcome == 0
}

#[test]
fn a_peer_that_vanished_is_noticed_by_its_keep_alive_and_its_will_is_sent() {
    let _alone = machine();
    const COUNT: usize = 200;
    let broker = Broker::start(&["sys.interval=1s"]);
    let topic = unique("vanished");
    let mut witness = Client::subscriber(&broker, V5, &unique("w"), &topic, 1);
    if !vanish(Client::connect(&broker, V5, &unique("c"))) {
        println!("skipped: TCP_REPAIR needs CAP_NET_ADMIN and CONFIG_CHECKPOINT_RESTORE");
        return;
    }
    beside(&broker, "200 peers vanished", || {
        let clients: Vec<_> = (0..COUNT)
            .map(|n| {
                let will = Publish::new(&topic, 1, n.to_string());
                Connect::new(V311, unique("c")).keep_alive(2).will(will).open(&broker)
            })
            .collect();
        let start = Instant::now();
        for c in clients {
            assert!(vanish(c));
        }
        let mut told: Vec<usize> = (0..COUNT)
            .map(|n| {
                let text = witness.message().text();
                if n == 0 || n == COUNT - 1 {
                    figure("200 peers vanished", &format!("will {n} after {:?}", start.elapsed()));
                }
                text.parse().expect("a number")
            })
            .collect();
        let done = start.elapsed();
        // [MQTT-3.1.2-22] one and a half times 2 s, counted from the CONNECT at the earliest.
        assert!(done > Duration::from_millis(2500), "too early: {done:?}");
        assert!(done < Duration::from_secs(7), "too late: {done:?}");
        told.sort_unstable();
        assert_eq!(told, (0..COUNT).collect::<Vec<_>>(), "each will once");
    });
    witness.expect_nothing();
    // The first one that vanished has no keep alive: it stays until TCP gives up on it.
    let mut sys = Sys::of(&broker);
    sys.wait("clients/connected", |connected| connected <= 3);
}

#[test]
fn messages_for_a_peer_that_vanished_are_kept_for_its_session() {
    let _alone = machine();
    let broker = Broker::start(&[]);
    let (id, topic) = (unique("lasting"), unique("kept"));
    let mut c = Connect::durable(V5, &id).keep_alive(2).open(&broker);
    c.granted(&topic, 1);
    if !vanish(c) {
        println!("skipped: TCP_REPAIR needs CAP_NET_ADMIN and CONFIG_CHECKPOINT_RESTORE");
        return;
    }
    let mut publisher = Client::connect(&broker, V5, &unique("p"));
    for n in 0..300 {
        publisher.publish(&Publish::new(&topic, 1, n.to_string()));
    }
    let (mut again, answer) = Connect::durable(V5, &id).open_with(&broker);
    assert!(answer.session_present, "the session outlived its connection");
    for n in 0..300 {
        again.expect(&n.to_string());
    }
    again.expect_nothing();
}
