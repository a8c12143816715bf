//! Filters: so many that adding, matching, answering or removing them takes long.

use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::{Peer, subscribes, unsubscribes};
use crate::support::packet::encode_unsubscribe;
use crate::support::*;

/// No packet is larger than every broker takes by default.
const PACKET: usize = 1_000_000;

/// Sends SUBSCRIBE or UNSUBSCRIBE packets and waits for the answer to each; nothing when cut off.
fn answered(peer: &mut Peer, packets: impl Iterator<Item = Vec<u8>>) -> usize {
    let answer =
        |packet: &Packet| matches!(packet, Packet::SubAck { .. } | Packet::UnsubAck { .. });
    packets.take_while(|packet| peer.send(packet).is_ok() && peer.wait(answer)).count()
}

/// A short name for each number.
fn name(number: usize) -> String {
    format!("{number:x}")
}

/// Every filter of so many levels, each a name or `+` (or ending in `#`), and messages that match
/// all of them. A small packet each, and `2^levels` nodes of a trie to visit.
pub fn wildcards_times_levels(arena: &Arena, dice: &mut Dice) -> Outcome {
    let levels = arena.pick(dice, 11..=13, 13..=15);
    let count = arena.pick(dice, 200..=400, 1000..=1500);
    let clients = dice.within(1..=4);
    let hash = dice.chance(50);
    let version = *dice.one_of(&[V311, V5]);
    let mut peers = Vec::new();
    for part in 0..clients {
        let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
        let numbers = (0..1_usize << levels).filter(|number| number % clients == part);
        let filters = numbers.map(|number| {
            let level = |at| if number >> at & 1 == 1 { "+" } else { "a" };
            let mut filter: Vec<&str> = (0..levels).map(level).collect();
            if hash && number % 3 == 0 {
                filter.pop();
                filter.push("#");
            }
            filter.join("/")
        });
        answered(&mut peer, subscribes(version, filters, 0, 64_000));
        peer.devour().map_err(failed("reading"))?;
        peers.push(peer);
    }
    let mut publisher = Peer::plain(arena.address, V311).map_err(failed("connecting"))?;
    let publish = Publish::new(vec!["a"; levels].join("/"), 0, "").encode(V311);
    for batch in [count / 2, count - count / 2] {
        if publisher.send(&publish.repeat(batch)).is_ok() && publisher.ping() {
            arena.land(batch);
        }
    }
    peers.iter().for_each(Peer::hang_up);
    Ok(())
}

/// One client in tens of thousands of share groups, or in a few with tens of thousands of filters.
pub fn shared_filters(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 20_000..=60_000, 60_000..=60_000);
    let groups = *dice.one_of(&[1, 7, 1000, count]);
    let version = *dice.one_of(&[V311, V5]);
    let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
    let filters = || (0..count).map(|n| format!("$share/{}/{}", name(n % groups), name(n)));
    let shares = answered(&mut peer, subscribes(version, filters(), 1, PACKET));
    arena.land(shares.min(1) * count);
    if dice.chance(50) {
        answered(&mut peer, unsubscribes(version, filters(), PACKET));
    }
    Ok(())
}

/// A packet as large as it may be with the shortest filters, and the same to take them back.
pub fn plain_filters(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 60_000..=110_000, 110_000..=110_000);
    let version = *dice.one_of(&[V311, V5]);
    let (reversed, wild) = (dice.chance(50), dice.chance(30));
    let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
    let filter = |n| if wild && n % 2 == 0 { format!("{}/+", name(n)) } else { name(n) };
    let there = subscribes(version, (0..count).map(filter), 0, PACKET);
    arena.land(answered(&mut peer, there).min(1) * count);
    if reversed {
        answered(&mut peer, unsubscribes(version, (0..count).rev().map(filter), PACKET));
    } else {
        answered(&mut peer, unsubscribes(version, (0..count).map(filter), PACKET));
    }
    Ok(())
}

/// Retained messages, as many as there are numbers, under this topic.
fn retain(arena: &Arena, base: &str, count: usize, size: usize) -> Outcome {
    let mut filler = Peer::plain(arena.address, V311).map_err(failed("connecting"))?;
    let packets = (0..count)
        .map(|n| Publish::new(format!("{base}/{n}"), 0, vec![b'r'; size]).retain().encode(V311));
    let packets: Vec<Vec<u8>> = packets.collect();
    for batch in packets.chunks(500) {
        filler.send(&batch.concat()).map_err(failed("retaining"))?;
    }
    if filler.ping() { Ok(()) } else { Err("a publisher of retained messages was cut off".into()) }
}

/// A client that does not read its first replay adds tens of thousands of others behind it, and
/// takes them all back.
pub fn under_replays(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 20_000..=60_000, 60_000..=100_000);
    let base = unique("kept");
    let kept = arena.pick(dice, 300..=400, 1500..=1500);
    retain(arena, &base, kept, 10_000)?;
    let mut peer = Peer::plain(arena.address, V311).map_err(failed("connecting"))?;
    let first = Subscribe { id: 1, ..Subscribe::to(format!("{base}/#"), 0) };
    peer.send(&first.encode(V311)).map_err(failed("subscribing"))?;
    let filters = |n: usize| format!("{base}{}", name(n));
    let order: Vec<usize> =
        if dice.chance(50) { (0..count).collect() } else { (0..count).rev().collect() };
    let there = subscribes(V311, (0..count).map(filters), 0, PACKET);
    let back = unsubscribes(V311, order.into_iter().map(filters), PACKET);
    for packet in there.chain(back) {
        // Whoever does not read may be kept waiting, and is.
        arena.land(peer.push(&packet).map_err(failed("subscribing"))?);
    }
    arena.wait();
    peer.reset();
    retain(arena, &base, kept, 0)
}

/// A session ends that has as many filters as a client can have: by DISCONNECT, by a reset, or
/// because its client comes back for a clean start.
pub fn session_end(arena: &Arena, dice: &mut Dice) -> Outcome {
    while !arena.is_over() {
        let count = arena.pick(dice, 30_000..=100_000, 100_000..=100_000);
        let (version, id) = (*dice.one_of(&[V311, V5]), unique("heavy"));
        let shared = dice.chance(30);
        let connect = Connect::new(version, &id);
        let mut peer = Peer::open(arena.address, &connect).map_err(failed("connecting"))?;
        let filters =
            (0..count).map(|n| if shared { format!("$share/g/{}", name(n)) } else { name(n) });
        answered(&mut peer, subscribes(version, filters, 1, PACKET));
        match dice.within(0..=2) {
            0 => peer.send(&[0xe0, 0]).map_err(failed("disconnecting"))?,
            1 => peer.reset(),
            _ => drop(Peer::open(arena.address, &connect).map_err(failed("coming back"))?),
        }
        arena.land(1);
    }
    Ok(())
}

/// Subscribers that ask for thousands of retained messages again and again; some read them.
pub fn replays(arena: &Arena, dice: &mut Dice) -> Outcome {
    let base = unique("kept");
    let kept = arena.pick(dice, 1000..=3000, 10_000..=20_000);
    let size = dice.within(10..=200);
    retain(arena, &base, kept, size)?;
    let mut peers = Vec::new();
    for n in 0..dice.within(4..=12) {
        let version = *dice.one_of(&[V311, V5]);
        let peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
        if n % 4 != 3 {
            peer.devour().map_err(failed("reading"))?;
        }
        peers.push(peer);
    }
    let filters = [format!("{base}/#"), format!("{base}/+"), "#".into(), "+/+".into()];
    let mut id = 0;
    while !arena.is_over() {
        for peer in &mut peers {
            id = id % 60_000 + 1;
            let filter = dice.one_of(&filters);
            let subscribe = Subscribe { id, ..Subscribe::to(filter, 0) };
            let mut bytes = subscribe.encode(peer.version);
            if dice.chance(30) {
                bytes.extend(encode_unsubscribe(peer.version, id, &[filter]));
            }
            // One that does not read is kept waiting.
            if peer.push(&bytes).is_ok_and(|written| written > 0) {
                arena.land(kept);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    peers.iter().for_each(Peer::hang_up);
    drop(peers);
    retain(arena, &base, kept, 0)
}
