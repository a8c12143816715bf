//! The time in which one shard's index finds the subscribers of a topic name.

use crate::timing::nanoseconds;
use ringmq::topic::{Index, Seeds, Subscriber, TopicHash};

/// Wildcard filters of different shapes; a match has to look up each shape.
const WILDCARDS: [&str; 10] = [
    "+/+/+/+/+",
    "fleet/+/+/+/state",
    "fleet/#",
    "fleet/eu/+/#",
    "+/eu/#",
    "#",
    "+/+/+/+/state",
    "fleet/eu/+/+/+",
    "fleet/+/#",
    "fleet/+/truck/#",
];

fn subscriber(target: u32) -> Subscriber {
    Subscriber { target, subscription_id: 0, options: 0 }
}

pub fn run() {
    let seeds = Seeds::random();
    for (filters, topics) in [(1_000, 1_000), (1_000_000, 1_000), (1_000_000, 1_000_000)] {
        let name = |at: usize| format!("fleet/eu/truck/{:07}/state", at * (filters / topics));
        let names: Vec<String> = (0..topics).map(name).collect();
        for count in [0, 1, 3, 10] {
            let mut index = Index::new(&seeds);
            for at in 0..filters {
                let id = index.intern_always(&format!("fleet/eu/truck/{at:07}/state"));
                index.add(id, subscriber(at as u32));
            }
            for filter in &WILDCARDS[..count] {
                let id = index.intern_always(filter);
                index.add(id, subscriber(0));
            }
            let what = format!("{filters} filters, {topics} topics, exact and {count} wildcards");
            let hashes: Vec<TopicHash> =
                names.iter().take(1_000).map(|name| TopicHash::new(&seeds, name)).collect();
            let matching = |topic: &TopicHash| {
                let mut found = 0;
                index.matching(topic, &mut |_, subscribers| found += subscribers.len());
                found
            };
            if topics == 1_000 {
                nanoseconds(&format!("matching, {what}"), &hashes, matching);
            }
            nanoseconds(&format!("hash + matching, {what}"), &names, |name| {
                matching(&TopicHash::new(&seeds, name))
            });
        }
    }
    let names: Vec<String> = (0..1000).map(|at| format!("fleet/eu/truck/{at:07}/state")).collect();
    nanoseconds("hash", &names, |name| TopicHash::new(&seeds, name).exact() as usize & 1);
}
