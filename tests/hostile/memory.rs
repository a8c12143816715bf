//! A broker with a small budget of memory, and clients that fill whatever they can: offline queues,
//! retained messages, outputs that nobody reads, packets that never end. What the process takes
//! stays within the budget and what it took before, others are served meanwhile, and when the
//! attackers have gone everything works again and nothing is counted any more.

use std::time::{Duration, Instant};

use crate::bystander::{beside, stand_back};
use crate::ground::Ground;
use crate::judge::figure;
use crate::peer::Peer;
use crate::support::*;

/// The budget, in MiB.
const LIMIT: u64 = 64;
/// What the allocator cannot use of its pages, and buffers and mailboxes under traffic, in MiB.
const BESIDE: u64 = 48;
/// Bytes of one message.
const SIZE: usize = 40_000;
/// The attackers' sessions outlive them by so many seconds.
const EXPIRY: u32 = 3;

const SETTINGS: &[&str] = &[
    "limits.memory=64MiB",
    "mqtt.pending.max_bytes=16MiB",
    "mqtt.outgoing_max_bytes=16MiB",
    "mqtt.pending.on_full=drop_new",
];

pub fn run(shards: usize) {
    let ground = Ground::start(shards, SETTINGS);
    let base = ground.memory() >> 10;
    let topic = unique("fill");
    let (window, troubles) = beside(&ground, |watch| {
        std::thread::sleep(Duration::from_millis(500));
        watch.look();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                stand_back();
                attack(&ground, &topic);
            });
        });
        watch.look()
    });
    let page = ground.page().expect("the admin server answers");
    let dropped = sum(&page, "ringmq_messages_dropped_total", Some("reason=\"memory\""));
    let refused = sum(&page, "ringmq_memory_refused_total", None);
    let most = window.memory >> 10;
    figure(&format!(
        "{shards} shards, memory filled: {base} + {} MiB of a budget of {LIMIT}; {dropped} \
         messages dropped, {refused} requests refused; ping {}; pair {}; echo {}",
        most.saturating_sub(base),
        window.slowest().told(),
        window.trips.told(),
        window.echoes.told(),
    ));
    let held: Vec<&str> = page.lines().filter(|line| line.starts_with("ringmq_memory_")).collect();
    let disturbed = format!("bystanders were disturbed; memory: {held:#?}");
    assert_eq!(troubles, Vec::<String>::new(), "{disturbed}");
    assert!(ground.broker.alive(), "the broker has ended: {}", ground.broker.complaints());
    assert!(dropped > 0.0, "memory was never short");
    assert!(most <= base + LIMIT + BESIDE, "{most} MiB, {base} before");
    let limit = Duration::from_millis(20).max(window.echoes.p99() * 5);
    assert!(window.slowest().p99() <= limit, "PINGREQ: p99 {:?}", window.slowest().p99());
    recovers(&ground, &topic);
}

/// Fills everything at once for as long as any of it lands.
fn attack(ground: &Ground, topic: &str) {
    let address = ground.broker.address();
    let mut all = Vec::new();
    // Offline queues.
    for _ in 0..8 {
        let connect = Connect::durable(V5, unique("away")).with(Property::SessionExpiry(EXPIRY));
        let Ok(mut peer) = Peer::open(address, &connect) else { continue };
        let _ = peer.subscribe(&format!("{topic}/queue"), 1);
        peer.hang_up();
    }
    // Outputs that nobody reads.
    for _ in 0..20 {
        let Ok(mut peer) = Peer::plain(address, V311) else { continue };
        let _ = peer.subscribe(&format!("{topic}/output"), 0);
        all.push(peer);
    }
    // CONNECTs and PUBLISHes that do not end.
    for n in 0..200 {
        let Ok(mut peer) = Peer::raw(address, V5) else { continue };
        if n % 2 == 0 {
            let mut connect = Connect::new(V5, unique("part"));
            connect = connect.will(Publish::new("w", 0, "x".repeat(60_000)));
            let bytes = connect.encode();
            let _ = peer.push(&bytes[..bytes.len() - 10]);
        } else if peer.send(&Connect::new(V5, unique("part")).encode()).is_ok() {
            // PUBLISH with a remaining length of 1,000,000.
            let mut bytes = vec![0x30, 0xc0, 0x84, 0x3d];
            bytes.resize(200_000, 0);
            let _ = peer.push(&bytes);
        }
        all.push(peer);
    }
    let end = Instant::now() + Duration::from_secs(4);
    let Ok(mut publisher) = Peer::plain(address, V311) else { return };
    let payload = "x".repeat(SIZE);
    let mut number = 0_u16;
    while Instant::now() < end {
        number = number % 10_000 + 1;
        let retained = format!("{topic}/retained/{number}");
        for publish in [
            Publish::new(format!("{topic}/queue"), 1, &payload).id(number),
            Publish::new(format!("{topic}/output"), 0, &payload),
            Publish::new(&retained, 0, &payload).retain(),
        ] {
            if publisher.send(&publish.encode(V311)).is_err() {
                return;
            }
        }
        // What has come is read, or its own acknowledgements would stop it.
        if number.is_multiple_of(16) && !publisher.ping() {
            return;
        }
    }
}

/// Everything works as before, and nothing of the attack is counted any more.
fn recovers(ground: &Ground, topic: &str) {
    let mut client = Client::connect(&ground.broker, V5, &unique("after"));
    let end = Instant::now() + Duration::from_secs(30);
    // Retained messages stay until somebody clears them.
    client.granted(&format!("{topic}/retained/#"), 0);
    let mut kept = Vec::new();
    while let Next::Packet(Packet::Publish(publish)) = client.read(Duration::from_secs(2)) {
        kept.push(publish.topic);
    }
    assert!(!kept.is_empty(), "nothing was retained");
    client.disconnect();
    let mut client = Client::connect(&ground.broker, V5, &unique("after"));
    for topic in &kept {
        client.publish(&Publish::new(topic, 1, "").retain());
    }
    loop {
        let page = ground.page().expect("the admin server answers");
        let held =
            |kind: &str| sum(&page, "ringmq_memory_bytes", Some(&format!("kind=\"{kind}\"")));
        let pressure = sum(&page, "ringmq_memory_pressure", None);
        let kinds = ["input", "pending", "inflight"].map(held);
        if pressure == 0.0 && kinds == [0.0; 3] && held("retained") < 1_000_000.0 {
            break;
        }
        assert!(Instant::now() < end, "still held: {kinds:?}, pressure {pressure}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut reader = Client::subscriber(&ground.broker, V5, &unique("reader"), topic, 1);
    client.publish(&Publish::new(topic, 1, "again"));
    reader.expect("again");
    client.publish(&Publish::new(topic, 1, "kept").retain());
    let mut late = Client::connect(&ground.broker, V5, &unique("late"));
    late.granted(topic, 0);
    late.expect("kept");
    client.publish(&Publish::new(topic, 1, "").retain());
}

/// The sum of a figure over all shards, of those with that label.
fn sum(page: &str, name: &str, label: Option<&str>) -> f64 {
    page.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
        .filter(|line| label.is_none_or(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
