//! Messages for more subscribers than a step serves: nothing overtakes them on their way.

use super::*;
use ringmq::limits::Budget;

/// Filters that all match `e/m/a`: more than are looked through each time.
const FILTERS: [&str; 9] =
    ["e/m/a", "e/m/+", "e/m/#", "e/+/a", "+/m/a", "e/+/+", "+/+/a", "+/m/+", "e/m/a/#"];

/// A few subscribers are served per step. Who comes last is sent something newer meanwhile, which
/// only it wants, and again after a second message to all.
pub fn in_order(world: &mut World, settings: &Settings) {
    let peer = |world: &mut World, number: usize| {
        let name = on(world, 0, |n| format!("e-many-{number}-{n}"));
        guest(world, &name)
    };
    // The first of each list is served last.
    let mut last = peer(world, 0);
    subscribe(world, &mut last, Wish::new("f/one", 0));
    let mut others: Vec<Peer> = (1..20).map(|number| peer(world, number)).collect();
    for subscriber in [&mut last].into_iter().chain(&mut others) {
        for filter in FILTERS {
            subscribe(world, subscriber, Wish::new(filter, 0));
        }
    }
    let mut publishers = [20, 21, 22].map(|number| peer(world, number));
    let budget = Budget { step: 40, turn: 40, subscribers_at_once: 3, ..settings.budget };
    reload(world, Settings { budget, ..settings.clone() });
    let said = [(0, "e/m/a", b"1"), (1, "f/one", b"2"), (2, "e/m/a", b"3"), (1, "f/one", b"4")];
    for (publisher, topic, payload) in said {
        publishers[publisher].publish(world, topic, payload, 0, 0);
        world.step(0);
    }
    assert!(world.nodes[0].shard.counters.fanouts_under_way > 0, "all are served at once");
    let got = payloads(&last.take(world));
    assert_eq!(got, [b"1", b"2", b"3", b"4"], "what one of many subscribers is sent");
    for other in &mut others {
        assert_eq!(payloads(&other.take(world)), [b"1", b"3"], "what many subscribers are sent");
    }
    reload(world, settings.clone());
    part(world, publishers.into_iter().chain(others).chain([last]));
}

/// A retained message does not come after the newer one of its topic that is still being handed
/// out, wherever it is kept.
pub fn before_a_replay(world: &mut World, settings: &Settings) {
    // Nothing of a fan-out fits into the step in which its message comes.
    let budget = Budget { step: 1, turn: 1, subscribers_at_once: 0, ..settings.budget };
    reload(world, Settings { budget, ..settings.clone() });
    let name = on(world, 1, |n| format!("e-publisher-{n}"));
    let other = on(world, 0, |n| format!("e-late-{n}"));
    let mut publisher = guest(world, &name);
    for number in 0..3 * world.nodes.len() {
        let topic = format!("e/r/{number}");
        publisher.publish_as(world, &topic, b"old", 0, 0, true);
        world.settle();
        let mut late = guest(world, &other);
        late.subscribe(world, 1, &topic, 0);
        (0..5).for_each(|_| world.step(0));
        // If shard 1 keeps the topic, the old message and the new one leave it in one step.
        publisher.publish_as(world, &topic, b"new", 0, 0, true);
        world.step(1);
        let got = late.take(world);
        let got = payloads(&got[1..]);
        assert_eq!(got.last().map(|last| &last[..]), Some(&b"new"[..]), "{topic}: {got:?}");
        part(world, [late]);
        publisher.publish_as(world, &topic, b"", 0, 0, true);
        world.settle();
    }
    reload(world, settings.clone());
    part(world, [publisher]);
}
