//! The 64-bit tag of every operation: 8 bits for the kind, 8 bits zero, 16 bits for the generation
//! and 32 bits for the index.
//!
//! The tag of an arrival is chosen by the sending shard: 8 bits for the kind and 56 bits of cookie.

/// The kind of an operation. The order has no meaning, and zero is never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum OperationKind {
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
    /// Whether a socket has something to read; nothing is read.
    Watch,
}

impl OperationKind {
    pub(super) fn of(tag: u64) -> Option<OperationKind> {
        Some(match (tag >> 56) as u8 {
            1 => OperationKind::Accept,
            2 => OperationKind::Receive,
            3 => OperationKind::Send,
            4 => OperationKind::Shutdown,
            5 => OperationKind::Close,
            6 => OperationKind::CancelReceive,
            7 => OperationKind::HandOver,
            8 => OperationKind::Arrival,
            9 => OperationKind::Doorbell,
            10 => OperationKind::Ignored,
            11 => OperationKind::Export,
            12 => OperationKind::TakeOver,
            13 => OperationKind::Watch,
            _ => return None,
        })
    }
}

pub(super) fn tag(kind: OperationKind, generation: u16, index: u32) -> u64 {
    (kind as u64) << 56 | (generation as u64) << 32 | index as u64
}

pub(super) fn arrival(cookie: u64) -> u64 {
    (OperationKind::Arrival as u64) << 56 | cookie
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
