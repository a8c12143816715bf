//! What a persistent session without a connection costs, with one subscription and no message.
//! Bytes of the shard's memory and of its part in the interest table, exactly: the difference that
//! another crowd of the same kind makes.

use super::{LIVE, classes, settle_with, shard_of};
use ringmq::ids::{ListenerId, Peer, ShardId, SocketId};
use ringmq::packet::{self, Connect, ConnectProperties, PacketId, Qos, Subscribe, Version};
use ringmq::shard::{Shard, Storing};
use ringmq::storage::log::{Log, LogBounds, RecoveredLog};
use ringmq::storage::record::StoreSecret;
use ringmq::storage::{StorageAnswer, StorageCommand};
use ringmq::transport::Stack;

/// Sessions that are there before, and of the crowd that is counted. The tables that find sessions
/// and filters by hash are in 256 segments, which double with 448 and with 896 entries each: before
/// and after, they are as full as they are with 300,000 sessions on two shards.
const BEFORE: u32 = 75_000;
const AFTER: u32 = 150_000;
/// Clients that are connected at a time.
const WAVE: u32 = 500;
/// Seconds until no timer of a connection is left.
const QUIET: u64 = 20;

/// Plays shard, driver and a disk that never fails until there is nothing more to do.
fn settle(shard: &mut Shard, now: u64) {
    loop {
        settle_with(shard, now, |_| {});
        let commands: Vec<_> = shard.storage_commands().collect();
        if commands.is_empty() {
            return;
        }
        for command in commands {
            shard.storage_answered(match command {
                StorageCommand::Create { segment, .. } => StorageAnswer::SegmentReady { segment },
                StorageCommand::Commit { stamp, payload, .. } => {
                    StorageAnswer::Durable { batch: stamp.batch, payload }
                }
                other => panic!("{other:?}: there is but one segment, and it is not full"),
            });
        }
    }
}

/// The client connects and subscribes.
fn join(shard: &mut Shard, socket: SocketId, name: &str, filter: &str) {
    let connect = Connect {
        version: Version::V5,
        clean_start: false,
        keep_alive: 60,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: ConnectProperties { session_expiry: Some(360_000), ..Default::default() },
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect).unwrap();
    let mut raw = Vec::new();
    let options = packet::SubscribeOptions { qos: Qos::AtLeastOnce, ..Default::default() };
    packet::SubscribeFilter { filter, options }.write(Version::V5, &mut raw).unwrap();
    let subscribe = Subscribe {
        id: PacketId::new(1).expect("not zero"),
        subscription_id: None,
        user: Default::default(),
        filters: packet::SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
    };
    packet::encode_subscribe(&mut bytes, Version::V5, &subscribe).unwrap();
    shard.accepted(socket, ListenerId(0), Peer::Unix);
    shard.received(socket, &bytes);
}

/// Bytes per session, by size of the allocation.
fn bytes_per_session(stored: bool) -> (f64, Vec<(i64, f64)>) {
    let mut shard = shard_of(Stack::default(), 2);
    if stored {
        let secret = StoreSecret([1, 2]);
        let bounds = LogBounds { segment: 1 << 40, gather: 0, ..LogBounds::BROKER };
        let log = Log::new(1, secret, bounds, RecoveredLog::default());
        shard.store_with(Storing::new(log, secret, (ShardId(0), 2), 1_700_000_000_000, (0, 0)));
    }
    let (mut now, mut number, mut sessions) = (1, 0, 0);
    let mut grown = |until: u32| {
        while sessions < until {
            for socket in 0..WAVE {
                let mut name = format!("device-{number:06}");
                while !shard.is_home_of(&name) {
                    number += 1;
                    name = format!("device-{number:06}");
                }
                join(&mut shard, SocketId(socket), &name, &format!("dev/{number:06}/cmd"));
                number += 1;
            }
            settle(&mut shard, now);
            (0..WAVE).for_each(|socket| shard.end_of_stream(SocketId(socket)));
            settle(&mut shard, now);
            sessions += WAVE;
            now += 100;
        }
        for _ in 0..QUIET {
            now += 1000;
            settle(&mut shard, now);
        }
        assert_eq!(shard.audit().connections, 0);
        assert_eq!(shard.counters.sessions_persistent, u64::from(until));
        (LIVE.get(), classes())
    };
    let (before, classes_before) = grown(BEFORE);
    let (after, classes_after) = grown(AFTER);
    let count = f64::from(AFTER - BEFORE);
    let by_class = classes_after.into_iter().zip(classes_before);
    let by_class = by_class.map(|((size, now), (_, then))| (size, (now - then) as f64 / count));
    let by_class = by_class.filter(|(_, bytes)| bytes.abs() >= 0.1).collect();
    ((after - before) as f64 / count, by_class)
}

#[test]
fn a_persistent_session_that_is_away_takes_few_bytes() {
    let (plain, by_class) = bytes_per_session(false);
    println!("without a store {plain:.1} bytes: {by_class:.1?}");
    let (stored, by_class) = bytes_per_session(true);
    println!("with a store {stored:.1} bytes: {by_class:.1?}");
    assert!(plain <= 240.0, "{plain} bytes without a store");
    assert!(stored <= 280.0, "{stored} bytes with a store");
}
