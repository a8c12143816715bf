//! Steady QoS 0 publishing allocates nothing: the shard is driven as its core drives it, with a
//! global allocator that counts.

use ringmq::config::Config;
use ringmq::ids::Peer;
use ringmq::ids::{ListenerId, ShardId, SocketId};
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{Entrance, Shared};
use ringmq::packet::{self, Connect, OutPublish, PacketId, Qos, Subscribe, Version};
use ringmq::shard::output::Outgoing;
use ringmq::shard::{Action, Settings, Shard};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is the system allocator's own.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as asked of us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as asked of us.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as asked of us.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PUBLISHER: SocketId = SocketId(0);
const SUBSCRIBERS: u32 = 10;

/// Ends the step and plays the driver: what is sent is written at once. Returns bytes written. The
/// clock stands still: the shard's upkeep once a second is not part of publishing.
fn step(shard: &mut Shard) -> usize {
    shard.finish();
    let mut written = 0;
    while let Some(action) = shard.actions.pop() {
        if let Action::Send(socket, outgoing) = action {
            written += match &outgoing {
                Outgoing::One(bytes) => bytes.len(),
                Outgoing::Many(_) => 0,
            };
            shard.sent(socket, outgoing, true);
        }
    }
    shard.begin(Instant(1), 1000);
    written
}

fn connect(shard: &mut Shard, socket: SocketId, name: &str) {
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: Default::default(),
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect);
    shard.accepted(socket, ListenerId(0), Peer::Unix);
    shard.received(socket, &bytes);
}

fn subscribe(shard: &mut Shard, socket: SocketId, filter: &str) {
    let wanted = packet::SubscribeFilter { filter, options: Default::default() };
    let mut raw = Vec::new();
    wanted.write(Version::V5, &mut raw);
    let subscribe = Subscribe {
        id: PacketId::new(1).expect("not zero"),
        subscription_id: None,
        user: Default::default(),
        filters: packet::SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_subscribe(&mut bytes, Version::V5, &subscribe);
    shard.received(socket, &bytes);
}

fn publish(topic: &str, count: usize) -> Vec<u8> {
    let publish = OutPublish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic,
        id: None,
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload: &[b'x'; 64],
    };
    let mut bytes = Vec::new();
    for _ in 0..count {
        packet::encode_publish(&mut bytes, Version::V5, &publish);
    }
    bytes
}

#[test]
fn steady_qos_0_publishing_allocates_nothing() {
    // `$SYS` would publish by itself now and then.
    let mut config = Config::default();
    config.sys.interval = None;
    let settings = Arc::new(Settings::new(&config));
    let shared = Shared::new(Seeds::fixed(1));
    let mut shard = Shard::new(ShardId(0), 1, settings, shared, Instant(1));
    shard.open_entrance(
        ListenerId(0),
        Arc::new(Entrance {
            name: "test".into(),
            allow_anonymous: true,
            mountpoint: String::new(),
            max_connections: u64::MAX,
            max_connect_rate: None,
            connections: Quota::default(),
            rate: Rate::default(),
        }),
    );
    connect(&mut shard, PUBLISHER, "publisher");
    for number in 1..=SUBSCRIBERS {
        connect(&mut shard, SocketId(number), &format!("subscriber-{number}"));
        // One topic with one subscriber, one with all of them, one through two filters.
        subscribe(&mut shard, SocketId(number), "fan/out");
    }
    subscribe(&mut shard, SocketId(1), "plant/7/speed");
    subscribe(&mut shard, SocketId(2), "over/+");
    subscribe(&mut shard, SocketId(2), "over/lap");
    step(&mut shard);

    // A partial packet at the end of each receive, as on a busy stream.
    let stream: Vec<u8> =
        ["plant/7/speed", "fan/out", "over/lap"].iter().flat_map(|t| publish(t, 9)).collect();
    let (first, second) = stream.split_at(stream.len() - 30);
    let mut measure = |rounds: usize| {
        let (allocations, mut written) = (ALLOCATIONS.load(Relaxed), 0);
        for _ in 0..rounds {
            shard.received(PUBLISHER, first);
            written += step(&mut shard);
            shard.received(PUBLISHER, second);
            written += step(&mut shard);
        }
        (ALLOCATIONS.load(Relaxed) - allocations, written)
    };
    measure(50);
    let (allocations, written) = measure(5000);
    // 9 × (1 + 10 + 1) deliveries of at least 64 bytes a round: the messages really went out.
    assert!(written > 5000 * 9 * 12 * 64, "{written} bytes were written");
    assert_eq!(allocations, 0, "in {} messages", 5000 * 27);
}
