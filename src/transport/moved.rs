//! The layers of an open connection that goes on in another process. Those of a connection whose
//! beginning is not over cannot move: a handshake is not ours to write down.

use super::secure::SecureWeb;
use super::tls::Tls;
use super::websocket::Frames;
use super::{Layers, State};
use crate::upgrade::code::{Body, Code, Secret};

/// Bytes that are written of a connection besides what its layers hold: lengths and flags.
const ROOM: usize = 128;

impl Layers {
    /// What goes on, as bytes with secrets in them; `None` when it cannot move.
    pub fn moved(&self) -> Option<Secret> {
        // Room for all of it: growing would leave secrets behind in what was too small.
        let mut out = Vec::with_capacity(ROOM + self.heap());
        match &self.0 {
            State::Opening(_) => return None,
            State::WebSocket(frames) => {
                0u8.put(&mut out);
                frames.moved(&mut out)?;
            }
            State::Short(records) => {
                1u8.put(&mut out);
                Tls::put_records(records, &mut out);
            }
            State::Long(records) => {
                1u8.put(&mut out);
                Tls::put_records(records, &mut out);
            }
            State::SecureWeb(both) => {
                2u8.put(&mut out);
                // Before there are secrets in what is written.
                both.frames.moved(&mut Vec::new())?;
                both.tls.put(&mut out);
                both.frames.moved(&mut out)?;
            }
        }
        debug_assert!(out.len() <= ROOM + self.heap(), "it did not grow");
        Some(Secret(out))
    }

    /// Goes on with what [`Layers::moved`] has written; `None` when the bytes are none of its.
    pub fn of_moved(moved: &Secret) -> Option<Layers> {
        let mut from = Body::new(&moved.0);
        let state = match u8::get(&mut from)? {
            0 => State::WebSocket(Frames::of_moved(&mut from)?),
            1 => match Tls::get(&mut from)? {
                Tls::Short(records) => State::Short(records),
                Tls::Long(records) => State::Long(records),
            },
            2 => {
                let tls = Tls::get(&mut from)?;
                let frames = Frames::of_moved(&mut from)?;
                State::SecureWeb(Box::new(SecureWeb { tls, frames }))
            }
            _ => return None,
        };
        from.is_empty().then_some(Layers(state))
    }
}

#[cfg(test)]
#[path = "moved_tests.rs"]
mod tests;
