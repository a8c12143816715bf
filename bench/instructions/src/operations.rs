//! The operations that are counted. Each function takes the number of repetitions and checks that
//! they had their effect.

use crate::BUSY;
use crate::packets::{
    ack, hello, hello_again, pubacks, publish, publish_of, subscribe, unsubscribe,
};
use crate::world::{MOVED, World};
use ringmq::ids::SocketId;
use ringmq::packet::{Framing, Packet, Qos, Version, decode, frame};
use ringmq::transport::tls::{HandshakeSecrets, KeyCache, Tls, TlsSide};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, ProtocolVersion};
use std::hint::black_box;

const PUBLISHER: SocketId = SocketId(0);
const TOPIC: &str = "plant/7/line/3/speed";
/// More topics than a shard remembers decisions for.
const TOPICS: usize = 400;
/// Bytes of the longest accepted packet.
const LARGEST: u32 = 1 << 20;

/// A PUBLISH is framed and decoded.
pub fn decoding(count: usize) {
    let bytes = publish(TOPIC, Qos::AtLeastOnce, 7, 1);
    for _ in 0..count {
        let bytes = black_box(&bytes[..]);
        let Ok(Framing::Complete { total, .. }) = frame(bytes, LARGEST) else { panic!("whole") };
        let Ok(Packet::Publish(publish)) = decode(Version::V5, &bytes[..total]) else {
            panic!("a PUBLISH")
        };
        black_box(&publish);
    }
}

/// Publishing at QoS 0 on shard 0 to `subscribers` on the last of `shards`, `each` messages per
/// step.
pub fn publishing(shards: u8, subscribers: u32, each: usize, count: usize) {
    let mut world = World::new(shards);
    world.client(0, PUBLISHER, "publisher");
    let last = usize::from(shards) - 1;
    for number in 1..=subscribers {
        world.subscriber(last, SocketId(number), TOPIC, Qos::AtMostOnce);
    }
    let bytes = publish(TOPIC, Qos::AtMostOnce, 0, each);
    let before = world.written();
    for _ in 0..count / each {
        world.step(0, &[(PUBLISHER, &bytes)]);
        if last > 0 {
            world.step(last, &[]);
        }
    }
    world.settle();
    let least = count / each * each * subscribers as usize * 64;
    assert!(world.written() - before > least, "the messages did not go out");
}

/// Publishing with `rules` access rules, to `topics` topics in turn.
pub fn ruled(rules: usize, topics: usize, count: usize) {
    // The last line permits the subscriber.
    let mut file = String::new();
    for n in 1..rules {
        file += &format!("topic readwrite plant/{n}/+/+/speed\n");
    }
    file += "topic read plant/7/#\n";
    let yaml = "access: {authorization: [{acl_file: {path: acl}}], cache: {entries: 64}}";
    let mut world = World::configured(1, yaml, &file);
    world.client(0, PUBLISHER, "publisher");
    world.subscriber(0, SocketId(1), "plant/7/#", Qos::AtMostOnce);
    let topic = |n| if topics == 1 { TOPIC.to_owned() } else { format!("plant/7/line/{n}/speed") };
    let messages: Vec<_> = (0..topics).map(|n| publish(&topic(n), Qos::AtMostOnce, 0, 1)).collect();
    let before = world.written();
    for n in 0..count {
        world.step(0, &[(PUBLISHER, &messages[n % topics])]);
    }
    world.settle();
    assert!(world.written() - before > count * 64, "the messages did not go out");
}

/// Publishing to topics in turn without rules, for comparison with [`ruled`].
pub fn unruled(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "publisher");
    world.subscriber(0, SocketId(1), "plant/7/#", Qos::AtMostOnce);
    let message = |n| publish(&format!("plant/7/line/{n}/speed"), Qos::AtMostOnce, 0, 1);
    let messages: Vec<_> = (0..TOPICS).map(message).collect();
    let before = world.written();
    for n in 0..count {
        world.step(0, &[(PUBLISHER, &messages[n % TOPICS])]);
    }
    world.settle();
    assert!(world.written() - before > count * 64, "the messages did not go out");
}

/// [`ruled`] with more topics than a shard remembers decisions for.
pub fn ruled_anew(rules: usize, count: usize) {
    ruled(rules, TOPICS, count);
}

/// QoS 1 from a publisher to a subscriber, with all acknowledgements.
pub fn acknowledged(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "publisher");
    let subscriber = SocketId(1);
    world.subscriber(0, subscriber, TOPIC, Qos::AtLeastOnce);
    let bytes = publish(TOPIC, Qos::AtLeastOnce, 7, 1);
    for _ in 0..count {
        world.nodes[0].ids.clear();
        world.step(0, &[(PUBLISHER, &bytes)]);
        let id = *world.nodes[0].ids.first().expect("the message goes out at once");
        world.step(0, &[(subscriber, &ack(0x40, id))]);
    }
}

/// QoS 2 from a publisher to a subscriber, with all acknowledgements.
pub fn assured(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "publisher");
    let subscriber = SocketId(1);
    world.subscriber(0, subscriber, TOPIC, Qos::ExactlyOnce);
    let bytes = publish(TOPIC, Qos::ExactlyOnce, 7, 1);
    for _ in 0..count {
        world.nodes[0].ids.clear();
        world.step(0, &[(PUBLISHER, &bytes)]);
        let id = *world.nodes[0].ids.first().expect("the message goes out at once");
        world.step(0, &[(PUBLISHER, &ack(0x62, 7)), (subscriber, &ack(0x50, id))]);
        world.step(0, &[(subscriber, &ack(0x70, id))]);
    }
}

/// QoS 1 messages of 200 bytes, 32 a step, to 50 sessions without a connection, whose clients come
/// back when 16 wait for each, take and acknowledge them, and go. `stored`: with a store.
pub fn away(stored: bool, count: usize) {
    const SESSIONS: usize = 50;
    // So few in all that tables grow and shrink alike each time, whatever hashes are.
    const EACH: usize = 16;
    let mut world = World::new(1);
    if stored {
        world.store();
    }
    let client = |n: usize| SocketId(1 + n as u32);
    let hellos: Vec<_> = (0..SESSIONS).map(|n| hello_again(&format!("device-{n}"))).collect();
    let topic = |n: usize| format!("devices/device-{n}/commands");
    for (n, hello) in hellos.iter().enumerate() {
        world.enter(0, client(n), hello);
        world.stored_step(0, &[(client(n), &subscribe(1, &topic(n), Qos::AtLeastOnce))]);
        world.rest(0);
        world.stored_step(0, &[(client(n), &[0xE0, 0])]);
        world.rest(0);
    }
    world.client(0, PUBLISHER, "publisher");
    let message = |n: usize| publish_of(&[b'x'; 200], &topic(n), Qos::AtLeastOnce, 1 + n as u16, 1);
    let messages: Vec<_> = (0..SESSIONS).map(message).collect();
    let mut sent = 0;
    for _ in 0..count / (SESSIONS * EACH) {
        for _ in 0..SESSIONS * EACH / BUSY {
            // Not in order, so that messages of a session are not side by side.
            let mut bytes = Vec::new();
            (sent..sent + BUSY).for_each(|n| bytes.extend_from_slice(&messages[n * 7 % SESSIONS]));
            sent += BUSY;
            world.stored_step(0, &[(PUBLISHER, &bytes)]);
            world.pass_millis(1);
        }
        world.rest(0);
        for (n, hello) in hellos.iter().enumerate() {
            world.enter(0, client(n), hello);
            let (mut taken, mut acks) = (0, Vec::new());
            while taken < EACH {
                world.stored_step(0, &[(client(n), &acks)]);
                world.pass_millis(1);
                let (more, some) = pubacks(&world.nodes[0].sent);
                (taken, acks) = (taken + some, more);
            }
            world.stored_step(0, &[(client(n), &acks)]);
            world.stored_step(0, &[(client(n), &[0xE0, 0])]);
            world.rest(0);
        }
    }
}

/// SUBSCRIBE and UNSUBSCRIBE beside a thousand subscriptions.
pub fn subscribing(count: usize) {
    let mut world = World::new(1);
    world.client(0, PUBLISHER, "client");
    // The filter changes each time, and the index has other filters.
    let filter = |n: usize| format!("plant/{n}/line/3/speed");
    for n in 0..1000 {
        world.step(0, &[(PUBLISHER, &subscribe(1, &filter(n), Qos::AtLeastOnce))]);
    }
    let pair = |n| (subscribe(2, &filter(n), Qos::AtLeastOnce), unsubscribe(3, &filter(n)));
    let pairs: Vec<_> = (1000..1100).map(pair).collect();
    let before = world.written();
    for n in 0..count {
        let (subscribe, unsubscribe) = &pairs[n % pairs.len()];
        world.step(0, &[(PUBLISHER, subscribe)]);
        world.step(0, &[(PUBLISHER, unsubscribe)]);
    }
    world.settle();
    assert!(world.written() - before >= count * 12, "SUBACK and UNSUBACK for each");
}

/// CONNECT and DISCONNECT beside a thousand clients.
pub fn connecting(count: usize) {
    let mut world = World::new(1);
    for number in 1..=1000 {
        world.client(0, SocketId(number), &format!("resident-{number}"));
    }
    let names: Vec<_> = (0..100).map(|n| hello(&format!("visitor-{n}"), 0)).collect();
    let before = world.written();
    for n in 0..count {
        world.enter(0, PUBLISHER, &names[n % names.len()]);
        world.step(0, &[(PUBLISHER, &[0xE0, 0])]);
        world.step(0, &[]);
        assert!(!world.has_closed(0), "a step closes, the next forgets");
    }
    assert!(world.written() - before >= count * 4, "a CONNACK for each");
}

/// CONNECT at another shard than the client's home, and DISCONNECT, `each` clients at a time.
pub fn moving(each: usize, count: usize) {
    let mut world = World::new(2);
    let names: Vec<_> = (0..100).map(|n| world.named(1, &format!("visitor-{n}"))).collect();
    world.settle();
    let before = world.written();
    for round in 0..count / each {
        let clients: Vec<_> = (0..each as u32).map(SocketId).collect();
        let connect = |n: usize| &names[(round * each + n) % names.len()][..];
        for &client in &clients {
            world.nodes[0].shard.accepted(
                client,
                ringmq::ids::ListenerId(0),
                ringmq::ids::Peer::Unix,
            );
        }
        let input: Vec<_> = clients.iter().enumerate().map(|(n, &c)| (c, connect(n))).collect();
        world.step(0, &input);
        world.hand_over(0);
        world.step(0, &[]);
        world.step(1, &[]);
        let leave = |&client: &SocketId| (SocketId(client.0 + MOVED), &[0xE0u8, 0][..]);
        let input: Vec<_> = clients.iter().map(leave).collect();
        world.step(1, &input);
        world.step(1, &[]);
        world.step(0, &[]);
        assert!(!world.has_closed(1), "a step closes, the next forgets");
    }
    assert!(world.written() - before >= count / each * each * 4, "a CONNACK for each");
}

/// A thousand clients with a Keep Alive of a minute, each of which pings every 45 seconds.
pub fn pinging(count: usize) {
    const CLIENTS: u32 = 1000;
    let mut world = World::new(1);
    for number in 0..CLIENTS {
        world.enter(0, SocketId(number), &hello(&format!("client-{number}"), 60));
    }
    world.settle();
    let before = world.written();
    for n in 0..count {
        world.pass_millis(45);
        world.step(0, &[(SocketId(n as u32 % CLIENTS), &[0xC0, 0])]);
    }
    assert!(world.written() - before >= count * 2, "a PINGRESP for each");
}

/// Steps of one of `shards` shards without anything to do.
pub fn resting(shards: u8, count: usize) {
    let mut world = World::new(shards);
    for _ in 0..count {
        world.step(0, &[]);
    }
}

/// A record with a PUBLISH is sealed at one end and opened at the other.
pub fn sealing(count: usize) {
    let secrets = |byte: u8| ConnectionTrafficSecrets::Aes256Gcm {
        key: AeadKey::from([byte; 32]),
        iv: Iv::copy(&[byte; 12]),
    };
    let end = |receive, send| {
        let extracted = ExtractedSecrets { rx: (0, secrets(receive)), tx: (0, secrets(send)) };
        let version = ProtocolVersion::TLSv1_2;
        let (certificate, cache) = (Default::default(), &mut KeyCache::default());
        Tls::take_over(
            version,
            extracted,
            HandshakeSecrets::default(),
            TlsSide::Server,
            certificate,
            cache,
        )
        .expect("it fits")
    };
    let (mut here, mut there) = (end(1, 2), end(2, 1));
    let (mut ours, mut theirs) = (KeyCache::default(), KeyCache::default());
    let message = publish(TOPIC, Qos::AtMostOnce, 0, 1);
    let (mut wire, mut plain, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        wire.clear();
        plain.clear();
        here.layer().seal(&mut ours, &message, &mut wire);
        there.layer().open(&mut theirs, &wire, &mut plain, &mut out);
        assert!(plain == message, "it comes out as it went in");
    }
}
