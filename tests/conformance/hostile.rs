//! Input of ill will, and connections in great number: nobody else may notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::*;

/// Repeatable noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Two clients that exchange messages without a loss until told to stop.
fn healthy_pair(broker: &Broker, stop: &AtomicBool) -> usize {
    let topic = unique("healthy");
    let mut sub = Connect::new(V5, unique("s")).keep_alive(30).open(broker);
    sub.granted(&topic, 2);
    let mut c = Connect::new(V311, unique("p")).keep_alive(30).open(broker);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        c.publish(&Publish::new(&topic, (count % 3) as u8, count.to_string()));
        sub.expect(&count.to_string());
        count += 1;
    }
    sub.expect_nothing();
    c.expect_nothing();
    count
}

/// Runs `work` beside a healthy pair.
fn beside_a_healthy_pair(broker: &Broker, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pair = scope.spawn(|| healthy_pair(broker, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let count = pair.join().expect("the healthy pair was disturbed");
        assert!(count > 10, "the healthy pair exchanged {count} messages only");
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(broker.alive());
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

fn templates(v: Version) -> Vec<Vec<u8>> {
    let mut subscribe = Subscribe::to("hostile/#", 1).and("$share/g/hostile/+", 2);
    subscribe.id = 3;
    let mut publish = Publish::new("hostile/a", 1, vec![7; 300]).id(5);
    if v.is_v5() {
        subscribe = subscribe.numbered(9);
        publish = publish
            .with(Property::TopicAlias(2))
            .with(Property::MessageExpiry(9))
            .with(user("a", "b"));
    }
    vec![
        publish.encode(v),
        Publish::new("hostile/b", 2, "x").id(6).retain().encode(v),
        subscribe.encode(v),
        packet::encode_unsubscribe(v, 4, &["hostile/#", "a"]),
        Ack::new(AckKind::PubAck, 1).encode(),
        Ack::new(AckKind::PubRec, 2).encode(),
        Ack::new(AckKind::PubRel, 6).encode(),
        Ack::new(AckKind::PubComp, 2).encode(),
        vec![0xc0, 0],
        vec![0xe0, 0],
    ]
}

/// What one hostile client sends.
fn hostile_bytes(noise: &mut Noise, n: usize) -> (Version, Vec<u8>) {
    let v = [V31, V311, V5][noise.below(3)];
    let mut connect = Connect::durable(v, format!("hostile-{}", noise.below(40)));
    connect = connect.will(Publish::new("hostile/will", 1, "x")).login(Some("u"), Some("p"));
    let mut bytes = connect.encode();
    let mutate = |noise: &mut Noise, bytes: &mut Vec<u8>| {
        for _ in 0..=noise.below(3) {
            let at = noise.below(bytes.len());
            bytes[at] = noise.next() as u8;
        }
        if noise.below(3) == 0 {
            bytes.truncate(noise.below(bytes.len()) + 1);
        }
    };
    match n % 4 {
        0 => {
            let length = 1 + noise.below(3000);
            bytes = noise.bytes(length);
        }
        1 => mutate(noise, &mut bytes),
        2 => {
            let length = 1 + noise.below(3000);
            bytes.extend(noise.bytes(length));
        }
        _ => {
            let templates = templates(v);
            for _ in 0..20 {
                let mut packet = templates[noise.below(templates.len())].clone();
                if noise.below(2) == 0 {
                    mutate(noise, &mut packet);
                }
                bytes.extend(packet);
            }
        }
    }
    (v, bytes)
}

#[test]
fn hostile_input_disturbs_nobody() {
    let _alone = machine();
    let broker = Broker::start(&[]);
    let mut noise = Noise(0x5eed_0bad_f00d);
    beside_a_healthy_pair(&broker, || {
        let mut open = Vec::new();
        for n in 0..500 {
            let (v, bytes) = hostile_bytes(&mut noise, n);
            let mut c = Client::raw(&broker, v);
            for chunk in bytes.chunks(1 + noise.below(1500)) {
                c.send(chunk);
            }
            match n % 3 {
                0 => open.push(c),
                1 => c.cut(),
                _ => drop(c),
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    });
}

#[test]
fn ten_thousand_connections_come_and_go() {
    let _alone = machine();
    const COUNT: usize = 10_000;
    let broker = Broker::start(&[]);
    // One of each kind first, so that what the broker opens once is open.
    Client::connect(&broker, V5, &unique("c")).disconnect();
    let before = broker.descriptors();
    beside_a_healthy_pair(&broker, || {
        let mut open: Vec<Client> = Vec::new();
        for n in 0..COUNT {
            let mut c = Client::raw(&broker, if n % 2 == 0 { V5 } else { V311 });
            if n % 3 > 0 {
                c.send(&Connect::new(c.version, format!("short-{n}")).encode());
            }
            open.push(c);
            if open.len() == 250 {
                for (n, mut c) in open.drain(..).enumerate() {
                    match n % 3 {
                        0 => drop(c),
                        1 => c.cut(),
                        _ => c.send(&[0xe0, 0]),
                    }
                }
            }
        }
    });
    eventually("as few descriptors are open as before", || broker.descriptors() <= before + 4);
    let mut c = Client::connect(&broker, V5, &unique("c"));
    c.ping();
}

#[test]
fn a_thousand_clients_at_once_are_all_served() {
    let _alone = machine();
    let broker = Broker::plain();
    let topic = unique("thousand");
    let mut clients: Vec<_> = (0..1000)
        .map(|n| {
            let v = if n % 2 == 0 { V5 } else { V311 };
            let mut c = Client::raw(broker, v);
            c.send(&Connect::new(v, unique("c")).encode());
            c
        })
        .collect();
    for (n, c) in clients.iter_mut().enumerate() {
        assert_eq!(c.connack().code, 0);
        c.granted(&format!("{topic}/{n}"), 1);
    }
    let mut all = Client::subscriber(broker, V5, &unique("all"), &format!("{topic}/#"), 0);
    for (n, c) in clients.iter_mut().enumerate() {
        let name = format!("{topic}/{}", (n * 7 + 1) % 1000);
        c.send_publish(&Publish::new(name, 1, n.to_string()));
    }
    for (n, c) in clients.iter_mut().enumerate() {
        assert_eq!(c.message().topic, format!("{topic}/{n}"));
    }
    (0..1000).for_each(|_| drop(all.message()));
    all.expect_nothing();
}
