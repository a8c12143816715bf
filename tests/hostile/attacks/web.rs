//! WebSockets: requests and frames without sense, without end, or too many.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Duration;

use super::connecting::each;
use super::{Arena, Outcome, failed};
use crate::dice::Dice;
use crate::peer::{Peer, patience};
use crate::support::web::{REQUEST, frame};
use crate::support::*;

const BINARY: u8 = 0x82;
const BINARY_GOES_ON: u8 = 0x02;
const CONTINUATION: u8 = 0x00;
const PING: u8 = 0x89;

fn address(arena: &Arena) -> Result<SocketAddr, String> {
    arena.web.ok_or_else(|| "the broker has no listener for WebSockets".to_owned())
}

/// A connection that asks for a WebSocket.
fn upgrading(arena: &Arena) -> Result<Peer, String> {
    let mut peer = Peer::raw(address(arena)?, V5).map_err(failed("connecting"))?;
    peer.send(REQUEST.as_bytes()).map_err(failed("asking for a WebSocket"))?;
    Ok(peer)
}

/// Requests, and frames behind a good one, with changed bytes or none of sense.
pub fn garbage(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        while !arena.is_over() {
            let Ok(mut peer) = Peer::raw(address(arena)?, V5) else { continue };
            let mut bytes = REQUEST.as_bytes().to_vec();
            let from = if dice.chance(50) { bytes.len() } else { 0 };
            for _ in 0..dice.within(1..=6) {
                let connect = Connect::new(V5, unique("garbage")).encode();
                frame(&mut bytes, dice.next() as u8, &connect);
            }
            for _ in 0..dice.within(0..=4) {
                let at = dice.within(from..=bytes.len() - 1);
                bytes[at] = dice.next() as u8;
            }
            let tail = dice.within(0..=3000);
            bytes.extend(dice.bytes(tail));
            if peer.send(&bytes).is_ok() {
                arena.land(1);
            }
        }
        Ok(())
    })
}

/// More requests without an end than a shard keeps, each said a byte at a time; an honest client
/// gets its WebSocket all the same.
pub fn unfinished(arena: &Arena, dice: &mut Dice) -> Outcome {
    let count = arena.pick(dice, 1500..=2000, 12_000..=14_000);
    let head = format!("GET /mqtt HTTP/1.1\r\nX: {}", "y".repeat(7900));
    let mut peers = Vec::new();
    while peers.len() < count && !arena.is_over() {
        let mut peer = Peer::raw(address(arena)?, V5).map_err(failed("connecting"))?;
        let length = dice.within(1..=head.len());
        // Being shed is what it deserves.
        let _ = peer.send(&head.as_bytes()[..length]);
        peers.push(peer);
        arena.land(1);
    }
    let mut honest = upgrading(arena)?;
    granted(&mut honest)?;
    while !arena.is_over() {
        for peer in &mut peers {
            let _ = peer.push(b"y");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn granted(peer: &mut Peer) -> Outcome {
    peer.stream.set_read_timeout(Some(patience())).map_err(failed("a time-out"))?;
    let mut answer = [0; 12];
    peer.stream.read_exact(&mut answer).map_err(failed("an honest client is not answered"))?;
    match &answer == b"HTTP/1.1 101" {
        true => Ok(()),
        false => Err(format!("an honest client: {}", String::from_utf8_lossy(&answer))),
    }
}

/// Frames that are said to be longer than any packet, up to 2^64 - 1 bytes.
pub fn huge_frames(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        while !arena.is_over() {
            let Ok(mut peer) = upgrading(arena) else { continue };
            let length = *dice.one_of(&[1 << 63, u64::MAX, (1 << 63) - 1, 1 << 32, 1 << 29]);
            let mut bytes = vec![*dice.one_of(&[BINARY, BINARY_GOES_ON]), 0xFF];
            bytes.extend(length.to_be_bytes());
            bytes.extend([1, 2, 3, 4]);
            bytes.extend(dice.bytes(20_000));
            let _ = peer.send(&bytes);
            arena.land(1);
            peer.stream.set_read_timeout(Some(patience())).map_err(failed("a time-out"))?;
            // It is told by Close, and cut off.
            let mut said = Vec::new();
            match peer.stream.read_to_end(&mut said) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Err(error) => return Err(format!("a frame of {length} bytes: {error}")),
            }
        }
        Ok(())
    })
}

/// A message in frames of no or one byte that never ends, and with it a packet that never does.
pub fn fragments(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        let mut peer = upgrading(arena)?;
        granted(&mut peer)?;
        let mut bytes = Vec::new();
        frame(&mut bytes, BINARY_GOES_ON, &Connect::new(V5, unique("fragments")).encode());
        frame(&mut bytes, CONTINUATION, &[0x30, 0xFF, 0xFF, 0x3F, 0, 1, b'f']);
        peer.send(&bytes).map_err(failed("the beginning"))?;
        bytes.clear();
        for _ in 0..2000 {
            let length = dice.within(0..=1);
            frame(&mut bytes, CONTINUATION, &vec![b'x'; length]);
        }
        while !arena.is_over() {
            // The packet becomes too large in the end.
            if peer.send(&bytes).is_err() {
                break;
            }
            arena.land(2000);
        }
        Ok(())
    })
}

/// Pings whose answers nobody reads.
pub fn pings(arena: &Arena, dice: &mut Dice) -> Outcome {
    each(arena, dice, 4, |arena, dice| {
        let mut peer = upgrading(arena)?;
        let mut bytes = Vec::new();
        frame(&mut bytes, BINARY, &Connect::new(V5, unique("pings")).encode());
        peer.send(&bytes).map_err(failed("CONNECT"))?;
        bytes.clear();
        for _ in 0..500 {
            let length = dice.within(0..=125);
            frame(&mut bytes, PING, &dice.bytes(length));
        }
        while !arena.is_over() {
            let Ok(sent) = peer.push(&bytes) else { break };
            // What was cut off within a frame is no frame any more: a new connection.
            if sent < bytes.len() && sent > 0 {
                let rest = bytes[sent..].to_vec();
                if peer.send(&rest).is_err() {
                    break;
                }
            }
            arena.land(500);
        }
        Ok(())
    })
}
