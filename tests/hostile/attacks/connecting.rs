//! Connections: many, short, half-finished, under the same name, or without any sense.

use std::time::Duration;

use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::Peer;
use crate::support::*;

/// Runs the same in so many threads, each with dice of its own; the first thing wrong counts.
pub(super) fn each(
    arena: &Arena,
    dice: &mut Dice,
    threads: usize,
    work: impl Fn(&Arena, &mut Dice) -> Outcome + Sync,
) -> Outcome {
    let (work, seed) = (&work, dice.next());
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads as u64)
            .map(|n| scope.spawn(move || work(arena, &mut Dice::new(seed + n))))
            .collect();
        let mut ended = all.into_iter().map(|thread| thread.join());
        ended.try_for_each(|end| end.unwrap_or_else(|_| Err("a thread failed".into())))
    })
}

/// Sockets that send a CONNECT as large as a packet may be, but for its end.
pub fn half_connects(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 300..=300, 300..=600);
    let declared = dice.within(700_000..=1_000_000);
    let whole = Writer::new().str("MQTT").u8(4).u8(0x82).u16(60).str("half").str("user");
    let mut whole = whole.raw(vec![b'u'; declared]).packet(0x10);
    whole.truncate(declared);
    let mut peers = Vec::new();
    for _ in 0..count {
        let peer = Peer::raw(arena.address, V311).map_err(failed("connecting"))?;
        peers.push((peer, 0));
    }
    while !arena.is_over() {
        let mut any = false;
        for (peer, sent) in &mut peers {
            // Being cut off is what it deserves.
            let written = peer.push(&whole[*sent..]).unwrap_or(0);
            *sent += written;
            any |= written > 0;
            arena.land(written);
        }
        if !any {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Clients that come, are answered, and go; none may be closed without an answer.
pub fn churn(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 8, |arena, dice| {
        let mut held = Vec::new();
        while !arena.is_over() {
            let version = *dice.one_of(&[V31, V311, V5]);
            // Version 3.1 knows names of 23 characters at most.
            let connect = Connect::new(version, format!("c{:x}", dice.next()));
            let mut peer = Peer::begin(arena.address, &connect).map_err(failed("connecting"))?;
            peer.accepted().map_err(failed("a client was closed without CONNACK"))?;
            arena.land(1);
            held.push(peer);
            if held.len() > dice.within(0..=40) {
                let at = dice.within(0..=held.len() - 1);
                let mut peer = held.swap_remove(at);
                match dice.within(0..=2) {
                    0 => drop(peer.send(&[0xe0, 0])),
                    1 => peer.reset(),
                    _ => {}
                }
            }
        }
        Ok(())
    })
}

/// CONNECT and a reset, without waiting for anything.
pub fn hot_connects(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        while !arena.is_over() {
            let names = [unique("hot"), format!("hot-{}", dice.within(0..=3))];
            let version = *dice.one_of(&[V311, V5]);
            let mut connect = Connect::new(version, dice.one_of(&names));
            connect.clean = dice.chance(70);
            if dice.chance(30) {
                connect = connect.will(Publish::new("hot/will", 1, "gone").retain());
            }
            let Ok(peer) = Peer::begin(arena.address, &connect) else { continue };
            arena.land(1);
            if dice.chance(80) {
                peer.reset();
            }
        }
        Ok(())
    })
}

/// Bytes without sense, and packets with a few of them changed.
pub fn garbage(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        while !arena.is_over() {
            let version = *dice.one_of(&[V31, V311, V5]);
            let Ok(mut peer) = Peer::raw(arena.address, version) else { continue };
            let mut bytes = Connect::new(version, "garbage").encode();
            if dice.chance(70) {
                bytes.extend(Subscribe { id: 3, ..Subscribe::to("a/#", 1) }.encode(version));
                bytes.extend(Publish::new("garbage/topic", 2, "sense").id(7).encode(version));
                bytes.extend(Ack::new(AckKind::PubRel, 7).encode());
            }
            for _ in 0..dice.within(0..=4) {
                let at = dice.within(0..=bytes.len() - 1);
                bytes[at] = dice.next() as u8;
            }
            let tail = dice.within(0..=3000);
            bytes.extend(dice.bytes(tail));
            if peer.send(&bytes).is_ok() {
                arena.land(1);
            }
            if dice.chance(20) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    })
}

/// Names, user names and topics as long as two bytes can say, kept for a while.
pub fn long_client_ids(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 100..=300, 300..=500);
    let mut peers = Vec::new();
    for n in 0..count {
        let version = *dice.one_of(&[V311, V5]);
        let length = *dice.one_of(&[65_535, 65_535, 65_000, 40_000]);
        let id = format!("{n:0>length$}");
        let mut connect = Connect::new(version, id).login(Some(&"u".repeat(65_535)), None);
        if dice.chance(50) {
            connect = connect.will(Publish::new("w".repeat(65_535), 1, "gone"));
        }
        if version.is_v5() && dice.chance(50) {
            connect = connect.with(Property::RequestResponseInformation(1));
        }
        let Ok(mut peer) = Peer::begin(arena.address, &connect) else { continue };
        // It may be refused, but must be told.
        if !peer.wait(|packet| matches!(packet, Packet::ConnAck(_))) {
            return Err("no CONNACK for a long ClientId".into());
        }
        arena.land(1);
        let topic = "t".repeat(65_535);
        // Refused or not, what follows only must not hurt.
        let _ = peer.send(&Publish::new(&topic, 0, "t").encode(version));
        peers.push(peer);
    }
    Ok(())
}

/// Many that claim the same few names all the time.
pub fn takeovers(arena: &Arena, dice: &mut Dice) -> Outcome {
    let names: Vec<String> = (0..dice.within(1..=4)).map(|_| unique("mine")).collect();
    each(arena, dice, 6, |arena, dice| {
        let mut last = None;
        while !arena.is_over() {
            let version = *dice.one_of(&[V311, V5]);
            let mut connect = Connect::new(version, dice.one_of(&names));
            connect.clean = dice.chance(40);
            if dice.chance(40) {
                connect = connect.will(Publish::new("mine/will", 1, "gone"));
            }
            if let Ok(mut peer) = Peer::begin(arena.address, &connect) {
                if dice.chance(70) {
                    // Somebody may have taken the name meanwhile.
                    let _ = peer.accepted();
                }
                let _ =
                    peer.send(&Subscribe { id: 1, ..Subscribe::to("mine/#", 1) }.encode(version));
                last = Some(peer);
                arena.land(1);
            }
        }
        drop(last);
        Ok(())
    })
}

/// Thousands that are gone from one moment to the next, each with a will that somebody reads.
pub fn mass_reset(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 1000..=2000, 5000..=8000);
    let base = unique("left");
    let mut reader = Peer::plain(arena.address, V311).map_err(failed("connecting"))?;
    reader.subscribe(&format!("{base}/#"), 0).map_err(failed("subscribing"))?;
    reader.devour().map_err(failed("reading"))?;
    let mut peers = Vec::new();
    for n in 0..count {
        let will = Publish::new(format!("{base}/{n}"), 1, "gone");
        let connect = Connect::new(V311, unique("left")).will(will);
        peers.push(Peer::begin(arena.address, &connect).map_err(failed("connecting"))?);
    }
    for peer in &mut peers {
        peer.accepted().map_err(failed("connecting"))?;
        arena.land(1);
    }
    peers.into_iter().for_each(Peer::reset);
    arena.wait();
    reader.hang_up();
    Ok(())
}
