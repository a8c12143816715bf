//! What shards cost because there are others: mailboxes between all pairs, and what each shard
//! keeps for each other one. Bytes, as the broker's allocator rounds them.

use super::LIVE;
use ringmq::config::{Config, Or};
use ringmq::ids::ShardId;
use ringmq::limits::{DATA_MAILBOX, control_mailbox};
use ringmq::mesh::Shared;
use ringmq::mesh::mail::{Control, Stamped};
use ringmq::mesh::mailbox::{MailEnds, mailboxes};
use ringmq::shard::{Settings, Shard};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use std::sync::Arc;

/// As many bytes as have been allocated meanwhile.
fn growth<T>(make: impl FnOnce() -> T) -> (i64, T) {
    let before = LIVE.get();
    let made = make();
    (LIVE.get() - before, made)
}

/// One control mail from each of the first so many shards to each other of these.
fn talk(ends: &mut [MailEnds<Stamped, Control>], talking: usize) {
    for (source, end) in ends.iter_mut().enumerate().take(talking) {
        for target in (0..talking).filter(|target| *target != source) {
            let sent = end.push_control(ShardId(target as u8), Control::Safe(1));
            assert!(sent.is_ok(), "{source} to {target}");
        }
    }
    for end in ends {
        end.look();
        for source in end.pending().iter() {
            assert!(end.pop_control(source).is_some());
        }
    }
}

#[test]
fn pairs_of_shards_that_never_talk_cost_next_to_nothing() {
    println!("bytes: Stamped {}, Control {}", size_of::<Stamped>(), size_of::<Control>());
    for shards in [2, 16, 64, 112] {
        let pairs = (shards * (shards - 1)) as i64;
        let control = control_mailbox(shards);
        let (unused, mut ends) = growth(|| mailboxes(shards, DATA_MAILBOX, control));
        let (two, ()) = growth(|| talk(&mut ends, 2));
        let (all, ()) = growth(|| talk(&mut ends, shards));
        println!(
            "{shards} shards, {pairs} pairs: {unused} bytes before any mail ({} a pair), {} for \
             each of two pairs that talk, {} KiB when all have talked, {} KiB a shard",
            unused / pairs,
            two / 2,
            (unused + two + all) / 1024,
            (unused + two + all) / 1024 / shards as i64
        );
        // Two pointers a pair, and what each shard has anyway.
        assert!(unused <= 16 * pairs + 512 * shards as i64, "{unused} bytes for {pairs} pairs");
        // Two rings of these capacities and their ends.
        let rings = DATA_MAILBOX * size_of::<Stamped>() + control * size_of::<Control>();
        assert!(two / 2 <= rings as i64 * 5 / 4 + 1536, "{two} bytes, rings of {rings}");
        // All mailboxes to one shard, if all others talk to it.
        assert!((unused + two + all) / shards as i64 <= 1 << 20, "{all} bytes among {shards}");
    }
}

#[test]
fn a_shard_keeps_little_for_each_other_one() {
    let mut config = Config::default();
    config.sys.interval = Or::NONE;
    let settings = Arc::new(Settings::new(&config));
    let of = |shards: u8| {
        let shared = Shared::new(Seeds::fixed(1));
        let shard = || Shard::new(ShardId(0), shards, settings.clone(), shared.clone(), Instant(1));
        growth(shard).0
    };
    let alone = of(1);
    for shards in [16, 64, 112] {
        let other = (of(shards) - alone) / i64::from(shards - 1);
        println!("a shard alone {alone} bytes; for each other one of {shards}: {other}");
        assert!(other <= 512, "{other} bytes");
    }
}
