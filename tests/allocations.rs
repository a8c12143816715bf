//! Steady QoS 0 publishing allocates nothing, a crowd that has left leaves nothing behind, idle
//! clients over TLS and WebSocket take few bytes more than plain ones, and pairs of shards that
//! never talk take none: the shard is driven as its core drives it, with a global allocator that
//! counts.

use ringmq::config::{Config, Or};
use ringmq::ids::Peer;
use ringmq::ids::{ListenerId, ShardId, SocketId};
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{ListenerState, Shared};
use ringmq::outgoing::Outgoing;
use ringmq::packet::{self, Connect, OutPublish, PacketId, Qos, Subscribe, Version};
use ringmq::shard::{Action, Settings, Shard};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use ringmq::transport::Stack;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

#[path = "allocations/idle.rs"]
mod idle;
#[path = "allocations/offline.rs"]
mod offline;
#[path = "allocations/pairs.rs"]
mod pairs;

struct Counting;

thread_local! {
    // Of this thread: each test has its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    // Bytes, rounded up as the broker's allocator does.
    static LIVE: Cell<i64> = const { Cell::new(0) };
    // The same by size of the allocation.
    static CLASSES: [Cell<i64>; CLASS_COUNT] = const { [const { Cell::new(0) }; CLASS_COUNT] };
}

/// Sizes that are told apart: the multiples of 16 up to 128, and four per doubling up to 16 MiB.
const CLASS_COUNT: usize = 9 + 4 * 17;

fn class_of(bytes: i64) -> usize {
    let log = bytes.ilog2() as usize;
    if bytes <= 128 {
        bytes as usize / 16
    } else {
        9 + (log - 7) * 4 + (bytes >> (log - 2)) as usize % 4
    }
}

/// Live bytes of this thread in allocations of each size.
fn classes() -> Vec<(i64, i64)> {
    let size = |class: usize| match class {
        0..=8 => class as i64 * 16,
        _ => (4 + (class as i64 - 9) % 4) << ((class - 9) / 4 + 5),
    };
    CLASSES.with(|all| all.iter().enumerate().map(|(at, live)| (size(at), live.get())).collect())
}

fn count(allocations: u64, bytes: i64) {
    if bytes != 0 {
        let class = class_of(bytes.abs()).min(CLASS_COUNT - 1);
        let _ = CLASSES.try_with(|all| all[class].set(all[class].get() + bytes));
    }
    // A thread that ends has no counters any more, and nobody who reads them.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

/// The bytes that mimalloc takes for so many: multiples of 16, and beyond 128 four sizes per
/// doubling.
fn rounded(size: usize) -> i64 {
    let step = match size {
        0..=8 => 8,
        9..=128 => 16,
        _ => 1 << ((size - 1).ilog2() - 2),
    };
    size.next_multiple_of(step) as i64
}

// SAFETY: every call is the system allocator's own.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, rounded(layout.size()));
        // SAFETY: as asked of us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -rounded(layout.size()));
        // SAFETY: as asked of us.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, rounded(size));
        count(0, -rounded(layout.size()));
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
    while let Some(action) = shard.actions().pop() {
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

/// A shard on its own, with one listener.
fn shard() -> Shard {
    shard_with(Stack::default())
}

/// The same; the listener's connections consist of that.
fn shard_with(stack: Stack) -> Shard {
    shard_of(stack, 1)
}

/// The first of so many shards.
fn shard_of(stack: Stack, shards: u8) -> Shard {
    // `$SYS` would publish by itself now and then.
    let mut config = Config::default();
    config.sys.interval = Or::NONE;
    let settings = Arc::new(Settings::new(&config));
    let shared = Shared::new(Seeds::fixed(1));
    let mut shard = Shard::new(ShardId(0), shards, settings, shared, Instant(1));
    shard.open_listener(
        ListenerId(0),
        Arc::new(ListenerState {
            name: "test".into(),
            allow_anonymous: true,
            mountpoint: String::new(),
            max_connections: u64::MAX,
            max_connect_rate: None,
            stack,
            connections: Quota::default(),
            rate: Rate::default(),
            accepted: Default::default(),
            refused: Default::default(),
        }),
    );
    shard
}

fn connect(shard: &mut Shard, socket: SocketId, name: &str, keep_alive: u16) {
    shard.accepted(socket, ListenerId(0), Peer::Unix);
    shard.received(socket, &connect_packet(name, keep_alive));
}

fn connect_packet(name: &str, keep_alive: u16) -> Vec<u8> {
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive,
        client_id: name,
        username: None,
        password: None,
        will: None,
        bridge: false,
        properties: Default::default(),
    };
    let mut bytes = Vec::new();
    packet::encode_connect(&mut bytes, &connect).unwrap();
    bytes
}

fn subscribe(shard: &mut Shard, socket: SocketId, filter: &str) {
    let wanted = packet::SubscribeFilter { filter, options: Default::default() };
    let mut raw = Vec::new();
    wanted.write(Version::V5, &mut raw).unwrap();
    let subscribe = Subscribe {
        id: PacketId::new(1).expect("not zero"),
        subscription_id: None,
        user: Default::default(),
        filters: packet::SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
    };
    let mut bytes = Vec::new();
    packet::encode_subscribe(&mut bytes, Version::V5, &subscribe).unwrap();
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
        packet::encode_publish(&mut bytes, Version::V5, &publish).unwrap();
    }
    bytes
}

#[test]
fn steady_qos_0_publishing_allocates_nothing() {
    let mut shard = shard();
    connect(&mut shard, PUBLISHER, "publisher", 0);
    for number in 1..=SUBSCRIBERS {
        connect(&mut shard, SocketId(number), &format!("subscriber-{number}"), 0);
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
        let (allocations, mut written) = (ALLOCATIONS.get(), 0);
        for _ in 0..rounds {
            shard.received(PUBLISHER, first);
            written += step(&mut shard);
            shard.received(PUBLISHER, second);
            written += step(&mut shard);
        }
        (ALLOCATIONS.get() - allocations, written)
    };
    measure(50);
    let (allocations, written) = measure(5000);
    // 9 × (1 + 10 + 1) deliveries of at least 64 bytes a round: the messages really went out.
    assert!(written > 5000 * 9 * 12 * 64, "{written} bytes were written");
    assert_eq!(allocations, 0, "in {} messages", 5000 * 27);
}

/// Plays driver and clock until the shard has nothing more to do at once.
fn settle(shard: &mut Shard, now: u64) {
    settle_with(shard, now, |_| {});
}

/// The same; `see` is shown what the driver is told to do.
fn settle_with(shard: &mut Shard, now: u64, mut see: impl FnMut(&Action)) {
    for _ in 0..100_000 {
        shard.begin(Instant(now), now * 1000);
        let mut more = shard.finish();
        for action in std::mem::take(shard.actions()) {
            more = true;
            see(&action);
            match action {
                Action::Send(socket, outgoing) => shard.sent(socket, outgoing, true),
                Action::Close(socket) | Action::Finish(socket) => shard.closed(socket),
                _ => {}
            }
        }
        if !more {
            return;
        }
    }
    panic!("no end in sight");
}

#[test]
fn what_a_crowd_used_is_given_back_when_it_has_left() {
    const CROWD: u32 = 30_000;
    let mut shard = shard();
    settle(&mut shard, 1);
    let before = LIVE.get();
    let mut now = 1;
    for _ in 0..2 {
        for number in 0..CROWD {
            connect(&mut shard, SocketId(number), &format!("client-{number}"), 3600);
            subscribe(&mut shard, SocketId(number), &format!("crowd/{number}/command"));
            if number % 500 == 0 {
                settle(&mut shard, now);
            }
        }
        settle(&mut shard, now);
        let full = LIVE.get() - before;
        assert!(full > i64::from(CROWD) * 200, "{full} bytes: they are really there");
        assert!(full < i64::from(CROWD) * 600, "{full} bytes for {CROWD} clients");
        for number in 0..CROWD {
            shard.end_of_stream(SocketId(number));
        }
        settle(&mut shard, now);
        // Long before their timers would have been due.
        for _ in 0..10 {
            now += 1000;
            settle(&mut shard, now);
        }
        assert_eq!(shard.audit().connections, 0);
        let left = LIVE.get() - before;
        println!("{full} bytes with them, {left} after");
        assert!(left < full / 10, "{left} bytes of {full} are left");
    }
}
