//! The layers of an open connection that moves to another process. A connection whose beginning is
//! not over cannot move: the state of its handshake is inside rustls, which cannot write it down.

use super::secure::SecureWeb;
use super::tls::Tls;
use super::websocket::Frames;
use super::{LayerState, Layers};
use crate::upgrade::code::{BodyReader, Code, SecretBytes};

/// Bytes that are written for a connection besides the state of its layers: lengths and flags.
const ROOM: usize = 128;

impl Layers {
    /// The state of the layers, as bytes with secrets in them; `None` when it cannot move.
    pub fn moved(&self) -> Option<SecretBytes> {
        // Allocated at its full size: a `Vec` that grows would leave secrets behind in the memory
        // it gives up.
        let mut out = Vec::with_capacity(ROOM + self.heap());
        match &self.0 {
            LayerState::Opening(_) => return None,
            LayerState::WebSocket(frames) => {
                0u8.put(&mut out);
                frames.moved(&mut out)?;
            }
            LayerState::Short(records) => {
                1u8.put(&mut out);
                Tls::put_records(records, &mut out);
            }
            LayerState::Long(records) => {
                1u8.put(&mut out);
                Tls::put_records(records, &mut out);
            }
            LayerState::SecureWeb(both) => {
                2u8.put(&mut out);
                // Fails here, if at all, before `out` contains secrets.
                both.frames.moved(&mut Vec::new())?;
                both.tls.put(&mut out);
                both.frames.moved(&mut out)?;
            }
        }
        debug_assert!(out.len() <= ROOM + self.heap(), "it did not grow");
        Some(SecretBytes(out))
    }

    /// Restores what [`Layers::moved`] has written; `None` when the bytes were not written by it.
    pub fn of_moved(moved: &SecretBytes) -> Option<Layers> {
        let mut from = BodyReader::new(&moved.0);
        let state = match u8::get(&mut from)? {
            0 => LayerState::WebSocket(Frames::of_moved(&mut from)?),
            1 => match Tls::get(&mut from)? {
                Tls::Short(records) => LayerState::Short(records),
                Tls::Long(records) => LayerState::Long(records),
            },
            2 => {
                let tls = Tls::get(&mut from)?;
                let frames = Frames::of_moved(&mut from)?;
                LayerState::SecureWeb(Box::new(SecureWeb { tls, frames }))
            }
            _ => return None,
        };
        from.is_empty().then_some(Layers(state))
    }
}

#[cfg(test)]
#[path = "moved_tests.rs"]
mod tests;
