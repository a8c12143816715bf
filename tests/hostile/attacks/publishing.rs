//! Messages: to many, from many, large, slow in coming, or never finished.

use std::time::Duration;

use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::Peer;
use crate::support::*;

/// So many subscribers of one topic; the broker's address book of them is not ours to know.
fn crowd(arena: &Arena, count: usize, topic: &str, version: Version) -> Result<Vec<Peer>, String> {
    let subscribe = Subscribe { id: 1, ..Subscribe::to(topic, 0) }.encode(version);
    let mut peers = Vec::with_capacity(count);
    while peers.len() < count {
        let mut some = Vec::new();
        for _ in 0..100.min(count - peers.len()) {
            let connect = Connect::new(version, unique("crowd"));
            let mut peer = Peer::begin(arena.address, &connect).map_err(failed("connecting"))?;
            peer.send(&subscribe).map_err(failed("subscribing"))?;
            some.push(peer);
        }
        for peer in &mut some {
            peer.accepted().map_err(failed("connecting"))?;
            if !peer.wait(|packet| matches!(packet, Packet::SubAck { .. })) {
                return Err("no SUBACK".into());
            }
        }
        peers.extend(some);
    }
    Ok(peers)
}

/// One message to thousands, then a series of them; all must arrive, nobody is slow.
pub fn broadcast(arena: &Arena, dice: &mut Dice) -> Outcome {
    let topic = unique("all");
    let version = *dice.one_of(&[V311, V5]);
    let count = arena.pick(dice, 2000..=4000, 8000..=8000);
    let (messages, size) = (arena.pick(dice, 8..=20, 200..=200), dice.within(10..=200));
    let mut peers = crowd(arena, count, &topic, version)?;
    let mut publisher = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
    let packet = Publish::new(&topic, 0, vec![b'b'; size]).encode(version);
    for batch in [1, messages] {
        publisher.send(&packet.repeat(batch)).map_err(failed("publishing"))?;
        if !publisher.ping() {
            return Err("the publisher was cut off".into());
        }
        let end = std::time::Instant::now() + crate::peer::patience();
        for (at, peer) in peers.iter_mut().enumerate() {
            let mut got = 0;
            while got < batch * packet.len() && std::time::Instant::now() < end {
                let (bytes, ended) = peer.skim();
                got += bytes;
                if ended {
                    break;
                }
                if bytes == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if got < batch * packet.len() {
                return Err(format!("subscriber {at} got {got} bytes of {batch} messages"));
            }
        }
        arena.land(batch * count);
    }
    Ok(())
}

/// Every packet identifier in use, none released, and each repeated in any order.
pub fn identifiers(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 20_000..=65_534, 65_534..=65_534);
    let version = *dice.one_of(&[V311, V5]);
    let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
    let reader = peer.devour().map_err(failed("reading"))?;
    // Every number once, in steps through the ring of all.
    let step = *dice.one_of(&[1, 7, 40_503, 65_534]);
    let order = (0..count).map(|n| (n * step % 65_535 + 1) as u16);
    let publish = Publish::new(unique("two"), 2, "");
    for dup in [false, true] {
        let packets =
            order.clone().flat_map(|id| Publish { dup, ..publish.clone().id(id) }.encode(version));
        let packets: Vec<u8> = packets.collect();
        if peer.send(&packets).is_ok() {
            arena.land(count);
        }
    }
    // What was sent has been taken in when this is, and the reader sees the end.
    peer.send(&[0xe0, 0]).map_err(failed("disconnecting"))?;
    let answers = reader.join().unwrap_or_default() as usize / 4;
    if answers < count { Err(format!("{answers} PUBREC for {count} PUBLISH")) } else { Ok(()) }
}

/// More publishers at once than mailboxes have room for; each gets its acknowledgements.
pub fn full_mailboxes(arena: &Arena, dice: &mut Dice) -> Outcome {
    let topic = unique("crowded");
    let subscribers = crowd(arena, arena.pick(dice, 20..=60, 100..=200), &topic, V311)?;
    for subscriber in &subscribers {
        subscriber.devour().map_err(failed("reading"))?;
    }
    let each = dice.within(5..=10) as u16;
    let count = arena.pick(dice, 300..=600, 3000..=3000);
    let packets = (1..=each).flat_map(|id| Publish::new(&topic, 1, "m").id(id).encode(V311));
    let packets: Vec<u8> = packets.collect();
    let mut publishers = crowd(arena, count, "none", V311)?;
    for publisher in &mut publishers {
        publisher.send(&packets).map_err(failed("publishing"))?;
    }
    for publisher in &mut publishers {
        let mut left = each;
        let last = publisher.wait(|packet| {
            left -= u16::from(matches!(packet, Packet::Ack(ack) if ack.kind == AckKind::PubAck));
            left == 0
        });
        if !last {
            return Err(format!("a publisher got no PUBACK for {left} of {each}"));
        }
        arena.land(usize::from(each));
    }
    subscribers.iter().for_each(Peer::hang_up);
    Ok(())
}

/// Messages as large as they may be, to several subscribers.
pub fn huge_packets(arena: &Arena, dice: &mut Dice) -> Outcome {
    let (topic, qos) = (unique("huge"), dice.within(0..=1) as u8);
    let version = *dice.one_of(&[V311, V5]);
    let mut subscribers = Vec::new();
    for _ in 0..dice.within(2..=6) {
        let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
        peer.subscribe(&topic, 0).map_err(failed("subscribing"))?;
        peer.devour().map_err(failed("reading"))?;
        subscribers.push(peer);
    }
    let mut publishers = Vec::new();
    for _ in 0..3 {
        publishers.push(Peer::plain(arena.address, V311).map_err(failed("connecting"))?);
    }
    let overhead = topic.len() + 9;
    let packet = Publish::new(&topic, qos, vec![b'h'; (1 << 20) - overhead]).id(1).encode(V311);
    while !arena.is_over() {
        for publisher in &mut publishers {
            publisher.send(&packet).map_err(failed("publishing"))?;
            arena.land(1);
        }
        for publisher in &mut publishers {
            if !publisher.ping() {
                return Err("a publisher of large messages was cut off".into());
            }
        }
    }
    subscribers.iter().for_each(Peer::hang_up);
    Ok(())
}

/// Hundreds of connections on which every byte comes alone.
pub fn byte_by_byte(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 100..=200, 500..=800);
    let mut peers = Vec::new();
    for _ in 0..count {
        let version = *dice.one_of(&[V311, V5]);
        let mut bytes = Connect::new(version, unique("slow")).encode();
        for n in 0..200_u16 {
            let publish = Publish::new("slow/topic", (n % 3) as u8, "payload").id(n + 1);
            bytes.extend(publish.encode(version));
        }
        let peer = Peer::raw(arena.address, version).map_err(failed("connecting"))?;
        peers.push((peer, bytes));
    }
    let mut at = 0;
    while !arena.is_over() {
        for (peer, bytes) in &mut peers {
            arena.land(peer.push(&bytes[at..=at]).unwrap_or(0));
        }
        at += 1;
        if at % 16 == 0 {
            for (peer, _) in &mut peers {
                peer.skim();
            }
        }
        if peers.iter().any(|(_, bytes)| at == bytes.len()) {
            break;
        }
    }
    Ok(())
}

/// Every alias set to another long topic again and again, and aliases that nobody set.
pub fn topic_aliases(arena: &Arena, dice: &mut Dice) -> Outcome {
    while !arena.is_over() {
        let mut peer = Peer::plain(arena.address, V5).map_err(failed("connecting"))?;
        let mut bytes = Vec::new();
        for n in 0..arena.pick(dice, 500..=2000, 2000..=5000) {
            let topic = format!("{}/{n}", "t".repeat(dice.within(1..=300)));
            let alias = Property::TopicAlias(dice.within(1..=16) as u16);
            bytes.extend(Publish::new(topic, 0, "a").with(alias.clone()).encode(V5));
            bytes.extend(Publish::new("", 0, "a").with(alias).encode(V5));
        }
        arena.land(bytes.len() / 200);
        let taken = peer.send(&bytes).is_ok() && peer.ping();
        if !taken {
            return Err("a client that kept the rules was cut off".into());
        }
        let unknown = Property::TopicAlias(*dice.one_of(&[0, 17, u16::MAX]));
        peer.send(&Publish::new("", 0, "a").with(unknown).encode(V5)).map_err(failed("sending"))?;
        peer.wait(|packet| matches!(packet, Packet::Disconnect { .. }));
    }
    Ok(())
}

/// Offline sessions with queues full of messages that have expired, and all come back at once.
pub fn expired_queues(arena: &Arena, dice: &mut Dice) -> Outcome {
    let (topic, count) = (unique("away"), arena.pick(dice, 20..=60, 200..=400));
    let connects: Vec<Connect> = (0..count)
        .map(|_| Connect { clean: false, ..Connect::new(V5, unique("away")) })
        .map(|connect| connect.with(Property::SessionExpiry(8)))
        .collect();
    for connect in &connects {
        let mut peer = Peer::open(arena.address, connect).map_err(failed("connecting"))?;
        peer.subscribe(&topic, 1).map_err(failed("subscribing"))?;
        peer.reset();
    }
    let mut publisher = Peer::plain(arena.address, V5).map_err(failed("connecting"))?;
    let messages = arena.pick(dice, 300..=1000, 1000..=1000);
    let lifetime = Property::MessageExpiry(1);
    let packet = Publish::new(&topic, 0, "dead soon").with(lifetime);
    for part in 0..4 {
        let packets = packet.encode(V5).repeat(messages / 4);
        publisher.send(&packets).map_err(failed("publishing"))?;
        if !publisher.ping() {
            return Err("the publisher was cut off".into());
        }
        arena.land(messages / 4 * count);
        if part == 2 {
            arena.wait();
        }
    }
    let mut back = Vec::new();
    for connect in &connects {
        back.push(Peer::begin(arena.address, connect).map_err(failed("coming back"))?);
    }
    for peer in &mut back {
        peer.accepted().map_err(failed("coming back"))?;
    }
    for peer in back {
        let mut peer = peer;
        // Ends its session, so that nothing is left of it.
        let end = Writer::new().u8(0).u8(5).u8(17).u32(0).packet(0xe0);
        peer.send(&end).map_err(failed("disconnecting"))?;
    }
    Ok(())
}
