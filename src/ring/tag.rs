//! The 64-bit tag of every operation: 8 bits for the kind, 8 bits zero, 16 bits for the generation
//! and 32 bits for the index.
//!
//! The tag of an arrival is chosen by the sending shard: 8 bits for the kind and 56 bits of cookie.

/// The kind of an operation. The order has no meaning, and zero is never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    Receive,
    Send,
    Shutdown,
    Close,
    CancelReceive,
    HandOver,
    Arrival,
    Doorbell,
    /// Completions that are ignored: those of cancelling a send, whether it succeeded or not.
    Ignored,
    Export,
    TakeOver,
}

impl Kind {
    pub(super) fn of(tag: u64) -> Option<Kind> {
        Some(match (tag >> 56) as u8 {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::Send,
            4 => Kind::Shutdown,
            5 => Kind::Close,
            6 => Kind::CancelReceive,
            7 => Kind::HandOver,
            8 => Kind::Arrival,
            9 => Kind::Doorbell,
            10 => Kind::Ignored,
            11 => Kind::Export,
            12 => Kind::TakeOver,
            _ => return None,
        })
    }
}

pub(super) fn tag(kind: Kind, generation: u16, index: u32) -> u64 {
    (kind as u64) << 56 | (generation as u64) << 32 | index as u64
}

pub(super) fn arrival(cookie: u64) -> u64 {
    (Kind::Arrival as u64) << 56 | cookie
}

pub(super) fn index(tag: u64) -> u32 {
    tag as u32
}

pub(super) fn generation(tag: u64) -> u16 {
    (tag >> 32) as u16
}

pub(super) fn cookie(tag: u64) -> u64 {
    tag & super::MAX_COOKIE
}
