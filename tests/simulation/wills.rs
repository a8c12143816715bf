//! A will message is sent once, when it is due, whatever ended the connection.

use crate::net::End;
use crate::peer::{Got, Peer, hello, will};
use crate::scripted::{fine, name_on, world};
use crate::settings::roomy;
use ringmq::packet::Connect;

#[test]
fn a_will_fires_once_however_the_connection_ends() {
    let mut world = world(2, roomy());
    let mut watcher = Peer::connect(&mut world, 0, &hello("w", true, 0));
    watcher.subscribe(&mut world, 1, "w/#", 1);
    watcher.take(&mut world);
    let name = name_on(1, 2, "c");
    let with = |delay| Connect { will: Some(will("w/c", delay)), ..hello(&name, false, 60) };
    // Takeover without a delay.
    let mut first = Peer::connect(&mut world, 0, &with(0));
    let second = Peer::connect(&mut world, 1, &with(10));
    assert!(matches!(first.take(&mut world)[..], [Got::ConnAck { .. }, Got::Disconnect(_)]));
    assert!(first.is_closed(&world));
    assert_eq!(watcher.payloads(&mut world).len(), 1);
    // A delay, and the client is back in time.
    world.conns[second.conn].client = End::Reset;
    world.settle();
    world.advance(9000);
    let mut third = Peer::connect(&mut world, 1, &with(10));
    world.advance(20_000);
    world.settle();
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    // A delay that passes.
    third.end(&mut world, End::Reset);
    world.settle();
    world.advance(9000);
    world.settle();
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    world.advance(2000);
    assert_eq!(watcher.payloads(&mut world).len(), 1);
    // DISCONNECT deletes it; the session's end does not bring it back.
    let mut last = Peer::connect(&mut world, 0, &with(10));
    last.goodbye(&mut world);
    world.advance(100_000);
    assert_eq!(watcher.payloads(&mut world).len(), 0);
    fine(&world);
}

#[test]
fn a_will_whose_delay_is_over_is_sent_even_if_its_timer_has_not_fired() {
    for (delay, expiry, wills, present) in
        [(10, 60, 1, true), (10, 10, 1, false), (20, 60, 0, true)]
    {
        let mut world = world(1, roomy());
        let mut watcher = Peer::connect(&mut world, 0, &hello("w", true, 0));
        watcher.subscribe(&mut world, 1, "w/#", 1);
        watcher.take(&mut world);
        let with = Connect { will: Some(will("w/c", delay)), ..hello("c", false, expiry) };
        let mut first = Peer::connect(&mut world, 0, &with);
        first.end(&mut world, End::Reset);
        world.settle();
        // The clock jumps, and the client is there before any timer.
        world.advance(12_000);
        let mut second = Peer::connect(&mut world, 0, &with);
        let got = second.take(&mut world);
        assert!(matches!(got[..], [Got::ConnAck { present: is, .. }] if is == present), "{got:?}");
        assert_eq!(watcher.payloads(&mut world).len(), wills, "delay {delay} expiry {expiry}");
        fine(&world);
    }
}
