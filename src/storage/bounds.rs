//! The bounds of a log: its sizes, its times, and how much it does at once.

/// How a log behaves.
#[derive(Clone, Copy, Debug)]
pub struct LogBounds {
    /// Bytes of a segment.
    pub segment: u64,
    /// Bytes that all segments may take together.
    pub disk: u64,
    /// Microseconds that a batch gathers at most before it is committed.
    pub gather: u64,
    /// When this many bytes wait to be durable, no new values are taken.
    pub backlog: usize,
    /// When bytes have waited to be durable for this many microseconds, no new values are taken.
    pub age: u64,
    /// Microseconds after which a written batch has to be synced, where clients get their
    /// acknowledgements once it is written; `None` where they get them once it is durable. A sync
    /// that is more than `age` overdue counts as late.
    pub interval: Option<u64>,
    /// Bytes that may gather in memory while the disk fails or hangs and clients still get
    /// acknowledgements; 0 when they get none then.
    pub degraded: usize,
    /// Bytes that are read at a time while cleaning. A batch that is longer is read whole.
    pub slice: usize,
    /// Messages and bytes of a session's queue that are kept in memory; the rest is on disk only.
    pub head: (usize, usize),
    /// When the queues of a shard have this many bytes in memory, what comes for a client that is
    /// not connected is on disk only.
    pub heads: u64,
}

impl LogBounds {
    /// The bounds of the broker, apart from those that are configured.
    pub const BROKER: LogBounds = LogBounds {
        segment: 64 << 20,
        disk: u64::MAX,
        gather: 2000,
        backlog: 16 << 20,
        age: 1_000_000,
        interval: None,
        degraded: 0,
        slice: 1 << 20,
        head: (16, 16 << 10),
        heads: 8 << 20,
    };
}
