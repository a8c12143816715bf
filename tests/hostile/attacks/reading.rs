//! Subscribers that read or acknowledge slowly, or not at all.

use std::time::{Duration, Instant};

use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::Peer;
use crate::support::*;

/// One client with `#` at QoS 1 that acknowledges in bursts, so that it is never quite stuck. The
/// bystanders' pairs have nothing to do with it but that it reads along.
pub fn slow_acknowledger(arena: &Arena, dice: &mut Dice) -> Outcome {
    let period = Duration::from_millis(dice.within(600..=1400) as u64);
    let mut peer = Peer::plain(arena.address, *dice.one_of(&[V311, V5])).map_err(failed("it"))?;
    peer.subscribe("#", 1).map_err(failed("subscribing"))?;
    // Others that publish as fast as they are acknowledged, so that its queue fills.
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(Peer::plain(arena.address, V311).map_err(failed("connecting"))?);
    }
    std::thread::scope(|scope| {
        for mut other in others {
            scope.spawn(move || {
                let topic = unique("busy");
                while !arena.is_over() {
                    let publish = Publish::new(&topic, 1, "b").id(1).encode(V311);
                    let done = other.send(&publish).is_ok()
                        && other.wait(|packet| matches!(packet, Packet::Ack(_)));
                    if !done {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(3));
                }
            });
        }
        let mut held: Vec<u16> = Vec::new();
        let mut last = Instant::now();
        while !arena.is_over() {
            match peer.next(Duration::from_millis(20)) {
                Ok(Some(Packet::Publish(publish))) if publish.qos == 1 => held.push(publish.id),
                Ok(_) => {}
                // Parting with it is a policy as well.
                Err(_) => break,
            }
            arena.land(1);
            let since = last.elapsed();
            if since > period {
                let bytes = held.drain(..).flat_map(|id| Ack::new(AckKind::PubAck, id).encode());
                let bytes: Vec<u8> = bytes.collect();
                if peer.send(&bytes).is_err() {
                    break;
                }
                if since > period + Duration::from_millis(250) {
                    last = Instant::now();
                }
            }
        }
        arena.wait();
    });
    peer.reset();
    Ok(())
}

/// Subscribers that never read, and a publisher that never stops.
pub fn never_reads(arena: &Arena, dice: &mut Dice) -> Outcome {
    let topic = unique("deaf");
    let mut deaf = Vec::new();
    for n in 0..dice.within(4..=10) {
        let version = *dice.one_of(&[V311, V5]);
        let mut peer = Peer::plain(arena.address, version).map_err(failed("connecting"))?;
        peer.subscribe(&topic, (n % 3) as u8).map_err(failed("subscribing"))?;
        deaf.push(peer);
    }
    let size = *dice.one_of(&[10, 1000, 20_000]);
    let mut publisher = Peer::plain(arena.address, V311).map_err(failed("connecting"))?;
    let qos = dice.within(0..=1) as u8;
    let batch: Vec<u8> = (1..=20)
        .flat_map(|id| Publish::new(&topic, qos, vec![b'd'; size]).id(id).encode(V311))
        .collect();
    publisher.devour().map_err(failed("reading"))?;
    while !arena.is_over() {
        let mut left = &batch[..];
        while !left.is_empty() && !arena.is_over() {
            // It may be kept waiting; that is what back-pressure is for.
            match publisher.push(left).map_err(failed("publishing"))? {
                0 => std::thread::sleep(Duration::from_millis(2)),
                written => left = &left[written..],
            }
        }
        arena.land(20);
    }
    publisher.hang_up();
    publisher.reset();
    deaf.into_iter().for_each(Peer::reset);
    Ok(())
}
