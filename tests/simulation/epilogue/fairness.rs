//! How long a publisher waits for whom: not at all for a reader beside others, and for its main
//! reader no longer in vain than its budget says.

use super::*;

/// Milliseconds that may be waited in vain at once, and a look at the clock more.
const BUDGET: u64 = 300 + 40;

fn short(settings: &Settings) -> Settings {
    let pending = Bounds { messages: 20, bytes: 1 << 20, on_full: OnFull::DropOldest };
    Settings { pending, max_inflight: 1, receive_maximum: 1000, ..settings.clone() }
}

/// Readers of everything that acknowledge nothing are not noticed by anybody else.
pub fn bystanders(world: &mut World, settings: &Settings) {
    reload(world, short(settings));
    let shards = world.nodes.len() as u8;
    let mut slow = Vec::new();
    for number in 0..4 {
        let name = on(world, number % shards, |n| format!("e-slow-{number}-{n}"));
        let mut peer = join(world, &hello(&name, true, 0));
        subscribe(world, &mut peer, Wish::new("e/#", 1));
        slow.push(peer);
    }
    let reader = on(world, shards - 1, |n| format!("e-reader-{n}"));
    let mut reader = join(world, &hello(&reader, true, 0));
    subscribe(world, &mut reader, Wish::new("e/own", 1));
    let mut publisher = guest(world, "e-publisher");
    for number in 0..60 {
        publish(world, &mut publisher, "e/own", &[number], Said { qos: 1, ..Said::default() });
        let got = payloads(&reader.read_all(world));
        assert_eq!(got, [vec![number]], "with slow readers of everything beside it");
        if number % 10 == 9 {
            wait(world, 100);
        }
    }
    part(world, slow.into_iter().chain([reader, publisher]));
    reload(world, settings.clone());
}

/// A main reader that acknowledges nothing is waited for no longer than the budget, also when it
/// connects again.
pub fn slow_main_reader(world: &mut World, settings: &Settings) {
    reload(world, short(settings));
    let shards = world.nodes.len() as u8;
    let name = on(world, shards - 1, |n| format!("e-main-{n}"));
    let mut publisher = guest(world, "e-publisher");
    let (mut held, mut acks, rounds, each) = (0, 0, 3, 80);
    for _ in 0..rounds {
        let mut reader = join(world, &hello(&name, true, 0));
        subscribe(world, &mut reader, Wish::new("e/main", 1));
        for number in 1..=each {
            publisher.publish(world, "e/main", b"m", 1, number);
            acks += publisher.take(world).len();
            let crowded: usize = world.nodes.iter().map(|node| node.shard.audit().crowded).sum();
            held += if crowded > 0 { 10 } else { 0 };
            wait(world, 10);
        }
        part(world, [reader]);
    }
    wait(world, 500);
    acks += publisher.take(world).len();
    assert_eq!(acks, usize::from(rounds * each), "the publisher waits for ever");
    let most = BUDGET + 10 * u64::from(rounds * each) / 20;
    assert!(held > 0 && held <= most, "held for {held} ms by a reader that reads nothing");
    part(world, [publisher]);
    reload(world, settings.clone());
}
