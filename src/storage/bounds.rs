//! What a log keeps to: how large, how late, how much at once.

/// How a log behaves.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a segment.
    pub segment: u64,
    /// Bytes that all segments may take together.
    pub disk: u64,
    /// Microseconds that a batch gathers at most before it is committed.
    pub gather: u64,
    /// Bytes that may wait to be durable before no new values are taken.
    pub backlog: usize,
    /// Microseconds that they may.
    pub age: u64,
    /// Microseconds that a batch may be written and not synced while clients are told of it; `None`
    /// if they are told when it is durable. What is synced late by more than `age` is late.
    pub interval: Option<u64>,
    /// Bytes that may gather in memory while the disk fails or hangs and clients are told all the
    /// same; 0 if they are not told.
    pub degraded: usize,
    /// Bytes read at a time while cleaning; a batch that is longer is read whole.
    pub slice: usize,
    /// Messages and bytes of a session's queue that are in memory; the others are on disk only.
    pub head: (usize, usize),
}

impl Bounds {
    /// Those of the broker, apart from what is configured.
    pub const BROKER: Bounds = Bounds {
        segment: 64 << 20,
        disk: u64::MAX,
        gather: 5000,
        backlog: 16 << 20,
        age: 1_000_000,
        interval: None,
        degraded: 0,
        slice: 1 << 20,
        head: (16, 16 << 10),
    };
}
