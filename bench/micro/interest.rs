//! A million filters in one shard's index, and in the interest table that all shards share: memory
//! per filter, the time for adding one, and the time of a look-up for a publish.

use crate::timing::{give_back, nanoseconds, resident_bytes};
use ringmq::ids::ShardId;
use ringmq::mesh::interest::Interest;
use ringmq::topic::{FilterKey, Index, Seeds, Subscriber, TopicHash};
use std::time::Instant;

const FILTERS: usize = 1_000_000;
const SHARD: ShardId = ShardId(1);

pub fn exact() {
    measure(["fleet/", "/x"]);
}

pub fn wildcard() {
    measure(["fleet/", "/+"]);
}

/// Measures filters that consist of a number between the two texts of `form`.
fn measure(form: [&str; 2]) {
    let seeds = Seeds::fixed(0);
    let filter = |at: usize| format!("{}{at:07}{}", form[0], form[1]);
    let text = filter(0).len();
    let before = resident_bytes();
    let mut index = Index::new(&seeds);
    for at in 0..FILTERS {
        let id = index.intern_always(&filter(at));
        index.add(id, Subscriber { target: 1, subscription_id: 0, options: 0 });
    }
    let indexed = resident_bytes();
    let interest = Interest::new(&seeds);
    let started = Instant::now();
    for at in 0..FILTERS {
        let filter = filter(at);
        interest.add(SHARD, FilterKey::new(&seeds, &filter), &filter);
    }
    let took = started.elapsed().as_nanos() as usize / FILTERS;
    let shared = resident_bytes();
    println!(
        "  index {} bytes a filter besides {text} of text, interest {}, add {took} ns",
        (indexed - before) / FILTERS - text,
        (shared - indexed) / FILTERS,
    );
    let names: Vec<String> = (0..1_000).map(|at| filter(at * 1_000).replace('+', "x")).collect();
    nanoseconds("hash + shards", &names, |name| {
        interest.shards(&TopicHash::new(&seeds, name)).0.count_ones() as usize
    });
    let hashes: Vec<TopicHash> = names.iter().map(|name| TopicHash::new(&seeds, name)).collect();
    nanoseconds("shards", &hashes, |topic| interest.shards(topic).0.count_ones() as usize);
    for at in 0..FILTERS {
        let filter = filter(at);
        let id = index.find(&filter).expect("it was added above");
        assert!(index.remove(id, 0).emptied);
        interest.remove(SHARD, FilterKey::new(&seeds, &filter), &filter);
    }
    give_back();
    let left = resident_bytes().saturating_sub(before);
    println!("  {} bytes a filter left when all are gone", left / FILTERS);
}
