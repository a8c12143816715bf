//! What one client can make large costs each of its operations the same: for everything that a
//! client can grow, n, 2n and 4n of it are made, used and taken apart on a shard that is driven as
//! its core drives it, and the time of four times as many is about four times as long. With a cost
//! per operation that grows with the size it is sixteen times as long.

#![allow(missing_docs)]

use ringmq::config::{Config, Or};
use ringmq::ids::{ListenerId, Peer, ShardId, SocketId};
use ringmq::limits::STEP_WORK;
use ringmq::mesh::mailbox::MailProgress;
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{ListenerState, Shared};
use ringmq::outgoing::Outgoing;
use ringmq::packet::{
    self, Ack, AckKind, Connect, ConnectProperties, OutPublish, PacketId, Qos, ReasonCode,
    Subscribe, Unsubscribe, Version, Will,
};
use ringmq::shard::{Action, Settings, Shard, home_of};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use std::sync::Arc;

/// Four times as many may take so many times as long. Linear is 4, quadratic 16; what grows out of
/// the processor's caches is above 4.
const MOST: f64 = 9.0;

/// What one step may cost, in units of `limits::cost`: its own work, a share for each kind of work
/// that goes on over several steps, and one large item.
const MOST_WORK: u32 = 5 * STEP_WORK;

/// A shard and its driver: what is sent is written at once, unless nobody reads.
struct Rig {
    shards: Vec<Shard>,
    now: u64,
    reading: bool,
    /// Sends that nobody has read.
    unread: Vec<(usize, SocketId, Outgoing)>,
}

/// Those of every rig, which decide where clients live.
fn seeds() -> Seeds {
    Seeds::fixed(1)
}

impl Rig {
    fn new(shards: u8, change: impl FnOnce(&mut Settings)) -> Rig {
        let mut config = Config::default();
        config.sys.interval = Or::NONE;
        let mut settings = Settings::new(&config);
        settings.outgoing_max_bytes = 1 << 24;
        settings.pending.messages = 1 << 20;
        settings.pending.bytes = 1 << 28;
        settings.max_subscriptions = usize::MAX;
        change(&mut settings);
        let settings = Arc::new(settings);
        let shared = Shared::new(seeds());
        let make = |id| {
            let (settings, shared) = (Arc::clone(&settings), Arc::clone(&shared));
            let mut shard = Shard::new(ShardId(id), shards, settings, shared, Instant(1000));
            let listener_state = ListenerState {
                name: "test".into(),
                allow_anonymous: true,
                mountpoint: String::new(),
                max_connections: u64::MAX,
                max_connect_rate: None,
                stack: Default::default(),
                connections: Quota::default(),
                rate: Rate::default(),
                accepted: Default::default(),
                refused: Default::default(),
            };
            shard.open_listener(ListenerId(0), Arc::new(listener_state));
            shard
        };
        let shards = (0..shards).map(make).collect();
        Rig { shards, now: 1000, reading: true, unread: Vec::new() }
    }

    /// Ends each shard's step, plays its driver and begins the next one.
    fn step(&mut self) -> bool {
        let mut more = false;
        for at in 0..self.shards.len() {
            let shard = &mut self.shards[at];
            more |= shard.finish();
            let work = shard.work();
            assert!(work <= MOST_WORK, "a step of {work} units of work");
            for action in std::mem::take(shard.actions()) {
                match action {
                    Action::Send(socket, outgoing) if self.reading => {
                        shard.sent(socket, outgoing, true);
                        more = true;
                    }
                    Action::Send(socket, outgoing) => self.unread.push((at, socket, outgoing)),
                    Action::Close(socket) | Action::Finish(socket) => shard.closed(socket),
                    _ => {}
                }
            }
            shard.begin(Instant(self.now), self.now * 1000);
            shard.heard_everyone();
        }
        more
    }

    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the shard never comes to rest");
    }

    fn read_on(&mut self) {
        self.reading = true;
        for (at, socket, outgoing) in std::mem::take(&mut self.unread) {
            self.shards[at].sent(socket, outgoing, true);
        }
        self.settle();
    }

    fn wait(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(100) {
            self.now += 100;
            self.settle();
        }
    }

    fn connect(&mut self, socket: u32, name: &str, expiry: u32) {
        self.connect_with_will(socket, name, expiry, None);
    }

    fn connect_with_will(&mut self, socket: u32, name: &str, expiry: u32, will: Option<&str>) {
        let connect = Connect {
            version: Version::V5,
            clean_start: false,
            keep_alive: 0,
            client_id: name,
            username: None,
            password: None,
            will: will.map(|topic| Will {
                topic,
                payload: b"gone",
                qos: Qos::AtMostOnce,
                retain: false,
                delay: 0,
                properties: Default::default(),
            }),
            bridge: false,
            properties: ConnectProperties { session_expiry: Some(expiry), ..Default::default() },
        };
        let mut bytes = Vec::new();
        packet::encode_connect(&mut bytes, &connect).unwrap();
        let home = usize::from(home_of(&seeds(), name, self.shards.len() as u8).0);
        self.shards[home].accepted(SocketId(socket), ListenerId(0), Peer::Unix);
        self.shards[home].received(SocketId(socket), &bytes);
    }

    fn say(&mut self, socket: u32, bytes: &[u8]) {
        self.shards[0].received(SocketId(socket), bytes);
    }

    fn publish(&mut self, socket: u32, publish: &OutPublish<'_>) {
        let mut bytes = Vec::new();
        packet::encode_publish(&mut bytes, Version::V5, publish).unwrap();
        self.say(socket, &bytes);
    }

    fn ack(&mut self, socket: u32, kind: AckKind, number: u16) {
        let mut bytes = Vec::new();
        packet::encode_ack(
            &mut bytes,
            Version::V5,
            kind,
            &Ack::new(id(number), ReasonCode::Success),
        )
        .unwrap();
        self.say(socket, &bytes);
    }

    fn subscribe_on(&mut self, shard: usize, socket: u32, filter: &str, qos: Qos) {
        let options = packet::SubscribeOptions { qos, ..Default::default() };
        let mut raw = Vec::new();
        packet::SubscribeFilter { filter, options }.write(Version::V5, &mut raw).unwrap();
        let subscribe = Subscribe {
            id: id(1),
            subscription_id: None,
            user: Default::default(),
            filters: packet::SubscribeFilters::parse(Version::V5, &raw).expect("valid"),
        };
        let mut bytes = Vec::new();
        packet::encode_subscribe(&mut bytes, Version::V5, &subscribe).unwrap();
        self.shards[shard].received(SocketId(socket), &bytes);
    }

    fn unsubscribe(&mut self, socket: u32, filter: &str) {
        let mut raw = Vec::new();
        packet::UnsubscribeFilters::write(filter, &mut raw).unwrap();
        let filters = packet::UnsubscribeFilters::parse(&raw).expect("valid");
        let unsubscribe = Unsubscribe { id: id(2), user: Default::default(), filters };
        let mut bytes = Vec::new();
        packet::encode_unsubscribe(&mut bytes, Version::V5, &unsubscribe).unwrap();
        self.say(socket, &bytes);
    }

    /// The connection breaks.
    fn cut(&mut self, socket: u32) {
        self.shards[0].failed(SocketId(socket), 104);
        self.settle();
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

fn message(topic: &str, qos: Qos, number: u16) -> OutPublish<'_> {
    OutPublish {
        dup: false,
        qos,
        retain: false,
        topic,
        id: PacketId::new(number).filter(|_| qos != Qos::AtMostOnce),
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: &[],
        payload: b"m",
    }
}

fn qos_2_identifiers(n: u32) {
    let mut rig = Rig::new(1, |settings| settings.receive_maximum = u16::MAX);
    rig.connect(0, "c", 60);
    for _ in 0..3 {
        for number in 1..=n as u16 {
            rig.publish(0, &message("t", Qos::ExactlyOnce, number));
            if number % 1000 == 0 {
                rig.settle();
            }
        }
    }
    assert_eq!(rig.shards[0].audit().inbound, n as usize);
    for number in 1..=n as u16 {
        rig.ack(0, AckKind::PubRel, number);
        if number % 1000 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.shards[0].audit().inbound, 0);
}

/// Client 1 with so much unread output that its replays wait.
fn waiting_for_replays() -> Rig {
    let mut rig = Rig::new(1, |_| {});
    rig.connect(0, "p", 0);
    rig.publish(0, &OutPublish { retain: true, ..message("kept", Qos::AtMostOnce, 0) });
    rig.connect(1, "s", 60);
    rig.subscribe_on(0, 1, "fill", Qos::AtMostOnce);
    rig.settle();
    rig.reading = false;
    let payload = vec![0; 2_000_000];
    rig.publish(
        0,
        &OutPublish { payload: &payload[..900_000], ..message("fill", Qos::AtMostOnce, 0) },
    );
    rig.publish(
        0,
        &OutPublish { payload: &payload[..900_000], ..message("fill", Qos::AtMostOnce, 0) },
    );
    rig.settle();
    rig
}

fn replays(n: u32) {
    let mut rig = waiting_for_replays();
    for number in 0..n {
        rig.subscribe_on(0, 1, &format!("f/{number}"), Qos::AtLeastOnce);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    assert_eq!(rig.shards[0].audit().replaying, n as usize);
    for number in (0..n).rev() {
        rig.unsubscribe(1, &format!("f/{number}"));
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.shards[0].audit().replaying, 0);
}

fn replays_of_one_filter(n: u32) {
    let mut rig = waiting_for_replays();
    for number in 0..n {
        rig.subscribe_on(0, 1, "f", Qos::AtLeastOnce);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.unsubscribe(1, "f");
    rig.settle();
    assert_eq!(rig.shards[0].audit().replaying, 0);
}

fn overtaken(n: u32) {
    let mut rig = waiting_for_replays();
    rig.subscribe_on(0, 1, "o/#", Qos::AtMostOnce);
    for number in 0..n {
        let topic = format!("o/{number}");
        rig.publish(0, &OutPublish { retain: true, ..message(&topic, Qos::AtMostOnce, 0) });
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.read_on();
}

fn filters(n: u32) {
    let mut rig = Rig::new(1, |_| {});
    rig.connect(0, "c", 0);
    for round in 0..2 {
        for number in 0..n {
            rig.subscribe_on(0, 0, &format!("f/{number}/+"), Qos::AtMostOnce);
            if number % 500 == 0 {
                rig.settle();
            }
        }
        if round == 0 {
            (0..n).for_each(|number| rig.unsubscribe(0, &format!("f/{number}/+")));
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.shards[0].audit().subscribers, n as usize);
    rig.cut(0);
    rig.settle();
    assert_eq!(rig.shards[0].audit().subscribers, 0);
}

/// Every filter of so many levels, each of them `a` or `+`.
fn wildcards(levels: u32) -> impl Iterator<Item = String> {
    (0..1_u32 << levels).map(move |bits| {
        let level = |at: u32| if bits >> at & 1 == 0 { "a" } else { "+" };
        (0..levels).map(level).collect::<Vec<_>>().join("/")
    })
}

/// Messages of n publishers for a crowd with overlapping filters are on their way when n messages
/// come for one subscriber, who gets all of those.
fn fanouts(n: u32) {
    let mut rig = Rig::new(1, |settings| settings.budget.subscribers_at_once = 8);
    for number in 0..20 {
        rig.connect(number, &format!("crowd{number}"), 0);
        for filter in wildcards(4) {
            rig.subscribe_on(0, number, &filter, Qos::AtMostOnce);
        }
        rig.settle();
    }
    let (last, publisher) = (30, 31);
    rig.connect(last, "last", 0);
    rig.subscribe_on(0, last, "#", Qos::AtMostOnce);
    rig.connect(publisher, "publisher", 0);
    for number in 0..n {
        rig.connect(100 + number, &format!("p{number}"), 0);
    }
    rig.settle();
    for number in 0..n {
        rig.publish(100 + number, &message("a/a/a/a", Qos::AtMostOnce, 0));
    }
    for _ in 0..n {
        rig.publish(publisher, &message("z", Qos::AtMostOnce, 0));
    }
    rig.settle();
    // With so many on their way, a message for one subscriber may become one as well.
    assert!(rig.shards[0].counters.fanouts >= u64::from(n));
    assert_eq!(rig.shards[0].counters.messages_sent_qos0, u64::from(n) * 22);
}

/// Wills that visit many filters each, all at once.
fn wills(n: u32) {
    let mut rig = Rig::new(1, |_| {});
    rig.connect(0, "s", 0);
    for filter in wildcards(11) {
        rig.subscribe_on(0, 0, &filter, Qos::AtMostOnce);
    }
    rig.settle();
    let topic = ["a"; 11].join("/");
    for number in 1..=n {
        rig.connect_with_will(number, &format!("c{number}"), 0, Some(&topic));
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    (1..=n).for_each(|number| rig.shards[0].failed(SocketId(number), 104));
    rig.settle();
    assert_eq!(rig.shards[0].counters.wills_sent, u64::from(n));
}

fn publishers_parked(n: u32) {
    let mut rig = Rig::new(1, |settings| {
        (settings.pending.messages, settings.max_inflight) = (100, 1);
    });
    rig.connect(0, "s", 0);
    rig.subscribe_on(0, 0, "t", Qos::AtLeastOnce);
    for number in 1..=n {
        rig.connect(number, &format!("p{number}"), 0);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    for number in 1..=n {
        for part in 1..=2 {
            rig.publish(number, &message("t", Qos::AtLeastOnce, part));
        }
        if number % 500 == 0 {
            rig.settle();
        }
    }
    // The first fifty or so were not parked.
    assert!(rig.shards[0].audit().crowded + 100 > n as usize);
    rig.cut(0);
    rig.settle();
    assert_eq!(rig.shards[0].audit().crowded, 0);
}

fn mail_waiters(n: u32) {
    let mut rig = Rig::new(2, |_| {});
    let name = |tag: &str, shard: u8| {
        (0..)
            .map(|k| format!("{tag}{k}"))
            .find(|name| home_of(&seeds(), name, 2).0 == shard)
            .unwrap()
    };
    rig.connect(0, &name("s", 1), 0);
    rig.settle();
    rig.subscribe_on(1, 0, "t", Qos::AtMostOnce);
    rig.settle();
    for number in 1..=n {
        rig.connect(number, &name(&format!("p{number}-"), 0), 0);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    rig.shards[0].outbox().to(ShardId(1)).room = 0;
    for number in 1..=n {
        rig.publish(number, &message("t", Qos::AtLeastOnce, 1));
        if number % 500 == 0 {
            rig.settle();
        }
    }
    assert_eq!(rig.shards[0].audit().waiting_for_mail, n as usize);
    // As many steps as there are that wait.
    for _ in 0..n {
        rig.step();
    }
    assert_eq!(rig.shards[0].audit().waiting_for_mail, n as usize);
    for number in (1..=n / 2).rev() {
        rig.shards[0].failed(SocketId(number), 104);
    }
    rig.settle();
    let (room, mut left) = (1 << 20, (n - n / 2) as usize);
    rig.shards[0].outbox().to(ShardId(1)).room = room;
    // The other shard takes what it is sent; each time twice as much may be on its way.
    let mut progress = MailProgress::default();
    while left > 0 {
        rig.settle();
        let waiting = rig.shards[0].audit().waiting_for_mail;
        assert!(waiting < left, "{waiting} wait");
        progress.messages += (left - waiting) as u64;
        left = waiting;
        rig.shards[0].outbox().see(ShardId(1), (room, room), (progress, Instant(0)));
    }
}

fn aliases(n: u32) {
    let mut rig = Rig::new(1, |settings| settings.max_topic_alias = u16::MAX);
    rig.connect(0, "c", 0);
    for round in 0..3 {
        for number in 1..=n as u16 {
            let topic = format!("t/{number}");
            let alias = OutPublish {
                topic: if round == 0 { &topic } else { "" },
                topic_alias: Some(number),
                ..message("", Qos::AtMostOnce, 0)
            };
            rig.publish(0, &alias);
            if number % 500 == 0 {
                rig.settle();
            }
        }
    }
    rig.settle();
}

fn sessions_offline(n: u32) {
    let mut rig = Rig::new(1, |_| {});
    for number in 0..n {
        rig.connect(number, &format!("c{number}"), 1 + number % 3);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    (0..n).for_each(|number| rig.shards[0].failed(SocketId(number), 104));
    rig.settle();
    let audit = rig.shards[0].audit();
    assert_eq!((audit.sessions, audit.connections), (n as usize, 0));
    rig.wait(5000);
    assert_eq!(rig.shards[0].audit().sessions, 0);
}

fn window(n: u32) {
    let mut rig = Rig::new(1, |settings| settings.max_inflight = u16::MAX);
    rig.connect(0, "p", 0);
    rig.connect(1, "s", 60);
    rig.subscribe_on(0, 1, "t", Qos::AtLeastOnce);
    for number in 1..=n as u16 {
        rig.publish(0, &message("t", Qos::AtLeastOnce, number));
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    rig.cut(1);
    rig.connect(2, "s", 60);
    rig.settle();
    for number in (1..=n as u16).rev() {
        rig.ack(2, AckKind::PubAck, number);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.shards[0].counters.inflight, 0);
}

fn pending(n: u32) {
    let mut rig = Rig::new(1, |settings| settings.max_inflight = 4);
    rig.connect(0, "p", 0);
    rig.connect(1, "s", 60);
    rig.subscribe_on(0, 1, "t", Qos::AtLeastOnce);
    rig.settle();
    for number in 0..n {
        rig.publish(0, &message("t", Qos::AtLeastOnce, number as u16 % 60_000 + 1));
        if number % 500 == 0 {
            rig.settle();
        }
    }
    assert_eq!(rig.shards[0].counters.pending_messages, u64::from(n) - 4);
    for number in 0..n {
        rig.ack(1, AckKind::PubAck, (number % 65_535) as u16 + 1);
        if number % 500 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    assert_eq!(rig.shards[0].counters.pending_messages, 0);
}

fn retained(n: u32) {
    let mut rig = Rig::new(1, |_| {});
    rig.connect(0, "c", 0);
    for payload in [&b"1"[..], b"2", b""] {
        for number in 0..n {
            let topic = format!("r/{}/{number}", number % 10);
            let publish = message(&topic, Qos::AtMostOnce, 0);
            rig.publish(0, &OutPublish { retain: true, payload, ..publish });
            if number % 500 == 0 {
                rig.settle();
            }
        }
        rig.settle();
    }
    assert_eq!(rig.shards[0].counters.retained_messages, 0);
}

/// Time of this thread's CPU in milliseconds, at least so long as it is told; on a machine that is
/// busy with other things, wall time says nothing.
fn cpu_millis() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    nanos.expect("schedstat tells the time that a thread ran") / 1e6
}

fn time(n: u32, run: fn(u32)) -> f64 {
    // A new thread each time: its allocator begins anew as well.
    let took = std::thread::spawn(move || {
        let began = cpu_millis();
        run(n);
        // The figure is brought up to date when the thread gives way.
        std::thread::sleep(std::time::Duration::from_millis(1));
        cpu_millis() - began
    });
    took.join().expect("the run goes well")
}

/// The shortest times of n, 2n and 4n: of two rounds, or of more when those look bad, since others
/// who use the processor's caches can only make it longer.
fn best_times(n: u32, run: fn(u32)) -> [f64; 3] {
    let mut best = [f64::INFINITY; 3];
    for round in 0..8 {
        for (best, times) in best.iter_mut().zip([1, 2, 4]) {
            *best = best.min(time(times * n, run));
        }
        if round > 0 && ratio(best) <= MOST {
            break;
        }
    }
    best
}

fn ratio([one, _, four]: [f64; 3]) -> f64 {
    four / one.max(0.5)
}

/// What grows, how many there are at first, and the run.
type Row = (&'static str, u32, fn(u32));

/// A list that is searched from its start before each addition.
fn searched(n: u32) {
    let mut list: Vec<u32> = Vec::new();
    for number in 0..n {
        if !list.contains(&std::hint::black_box(number)) {
            list.push(number);
        }
    }
    std::hint::black_box(list);
}

#[test]
fn a_cost_that_grows_is_seen() {
    let best = best_times(8000, searched);
    assert!(ratio(best) > MOST, "{best:?}");
}

#[test]
fn an_operation_costs_the_same_however_much_there_is() {
    let only = std::env::var("GROWTH_ONLY").ok();
    let mut wrong = Vec::new();
    let table: &[Row] = &[
        ("QoS 2 identifiers open", 8000, qos_2_identifiers),
        ("replays that wait", 4000, replays),
        ("replays of one filter that wait", 6000, replays_of_one_filter),
        ("topics that live messages overtook", 4000, overtaken),
        ("filters of one client", 5000, filters),
        ("fan-outs under way", 120, fanouts),
        ("wills of many visits", 250, wills),
        ("publishers parked", 3000, publishers_parked),
        ("connections that wait for a mailbox", 2000, mail_waiters),
        ("topic aliases", 10_000, aliases),
        ("sessions offline", 5000, sessions_offline),
        ("messages in flight", 8000, window),
        ("messages pending", 10_000, pending),
        ("retained messages", 5000, retained),
    ];
    for &(what, n, run) in table {
        if only.as_ref().is_some_and(|only| !what.contains(only.as_str())) {
            continue;
        }
        let best = best_times(n, run);
        let ([one, two, four], ratio) = (best, ratio(best));
        println!("{what:<36} {n:>6}: {one:7.1} {two:7.1} {four:7.1} ms, {ratio:5.2} times");
        if ratio > MOST {
            wrong.push(format!("{what}: {ratio:.1} times as long for 4 times as many"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
