//! What bridges and the API have a shard publish comes after what was acknowledged before it.

use super::*;
use ringmq::message::MessageRef;
use ringmq::shard::inquiry::PublishOutcome;
use std::sync::{Arc, Mutex};

/// A client of another shard publishes and has its acknowledgements; then a submission is given to
/// the subscriber's shard, which has not looked at its mail since.
pub fn after_what_was_acknowledged(world: &mut World) {
    let name = on(world, 1, |n| format!("o-publisher-{n}"));
    let mut publisher = join_at(world, 1, &hello(&name, true, 0));
    let name = on(world, 0, |n| format!("o-reader-{n}"));
    let mut reader = join_at(world, 0, &hello(&name, true, 0));
    subscribe(world, &mut reader, Wish::new("o/order", 0));
    for count in [1, 40] {
        for number in 1..=count {
            publisher.publish_as(world, "o/order", b"before", 1, number, false);
        }
        let mut acknowledged = 0;
        for _ in 0..100 {
            world.step(1);
            acknowledged += publisher.hear(world).len();
        }
        let outcome = Arc::new(Mutex::new(None));
        let told = Arc::clone(&outcome);
        world.submit(0, move |shard| {
            let message = MessageRef {
                topic: "o/order",
                properties: &[],
                payload: b"after",
                qos: Qos::AtLeastOnce,
                retain: false,
                expires: None,
                publisher: None,
            };
            let outcome = shard.publish_as_operator(&message, None);
            Box::new(move || *told.lock().unwrap() = Some(outcome))
        });
        let got = payloads(&reader.read_all(world));
        assert_eq!(*outcome.lock().unwrap(), Some(PublishOutcome::Accepted { matched: true }));
        let place = got.iter().position(|payload| payload == b"after");
        assert!(
            place >= Some(acknowledged),
            "{acknowledged} were acknowledged before it: {place:?}"
        );
        assert_eq!(got.len(), 1 + usize::from(count), "lost, or more than once");
        publisher.take(world);
    }
    part(world, [publisher, reader]);
}
