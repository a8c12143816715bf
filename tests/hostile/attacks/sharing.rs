//! Share groups whose members die with what they were given.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::{Peer, patience};
use crate::support::*;

/// Members that take messages, acknowledge none and die; one that stays must get every message
/// whose PUBACK the publisher has.
pub fn dying_members(arena: &Arena, dice: &mut Dice) -> Outcome {
    let topic = unique("work");
    let filter = format!("$share/group/{topic}");
    let count = arena.pick(dice, 200..=500, 2000..=4000);
    let mut survivor = Peer::plain(arena.address, V5).map_err(failed("connecting"))?;
    survivor.subscribe(&filter, 1).map_err(failed("subscribing"))?;
    let mut publisher = Peer::plain(arena.address, V5).map_err(failed("connecting"))?;
    let mut mortals: Vec<Peer> = Vec::new();
    let mut got = BTreeSet::new();
    let mut take = |survivor: &mut Peer, patience| -> Result<usize, String> {
        let mut patience = patience;
        while let Some(packet) = survivor.next(patience).map_err(failed("the survivor"))? {
            if let Packet::Publish(publish) = packet {
                survivor
                    .send(&Ack::new(AckKind::PubAck, publish.id).encode())
                    .map_err(failed("the survivor"))?;
                got.insert(publish.text());
            }
            patience = Duration::from_millis(1);
        }
        Ok(got.len())
    };
    for n in 0..count {
        if mortals.len() < 6 && dice.chance(15) {
            let mut mortal = Peer::plain(arena.address, V5).map_err(failed("connecting"))?;
            mortal.subscribe(&filter, 1).map_err(failed("subscribing"))?;
            mortals.push(mortal);
        }
        let publish = Publish::new(&topic, 1, n.to_string()).id(n as u16 % 60_000 + 1);
        publisher.send(&publish.encode(V5)).map_err(failed("publishing"))?;
        if !publisher.wait(|packet| matches!(packet, Packet::Ack(ack) if ack.reason < 0x80)) {
            return Err(format!("no PUBACK for message {n}"));
        }
        arena.land(1);
        if !mortals.is_empty() && dice.chance(10) {
            let at = dice.within(0..=mortals.len() - 1);
            let mut mortal = mortals.swap_remove(at);
            match dice.within(0..=2) {
                0 => mortal.reset(),
                1 => drop(mortal),
                _ => mortal.send(&[0xe0, 0]).map_err(failed("a mortal"))?,
            }
        }
        if n % 20 == 0 {
            take(&mut survivor, Duration::from_millis(1))?;
        }
    }
    drop(mortals);
    let end = Instant::now() + patience() / 3;
    loop {
        let seen = take(&mut survivor, Duration::from_millis(100))?;
        if seen == count {
            return Ok(());
        }
        if Instant::now() > end {
            let lost = count - seen;
            return Err(format!("{lost} of {count} acknowledged messages reached no member"));
        }
    }
}
