//! Copies of the figures of a bridge, a listener and the exporter of spans, as metrics and the
//! management API show them. Plain values.

/// The figures of a bridge.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BridgeRow {
    /// Its name.
    pub name: String,
    /// The kind of its other end: mqtt, http or kafka.
    pub kind: &'static str,
    /// The state: idle, connecting, up, waiting or failed.
    pub state: &'static str,
    /// The number of connections that are up.
    pub connections: u64,
    /// The number of messages that wait or are on their way.
    pub waiting: u64,
    /// Bytes of the messages that wait, including those in the links of the shards.
    pub waiting_bytes: u64,
    /// The largest number of bytes that may wait.
    pub waiting_limit: u64,
    /// Messages that matched a filter of the bridge.
    pub matched: u64,
    /// Messages that have arrived at the other end.
    pub delivered: u64,
    /// Messages that were brought from the other end and accepted.
    pub brought: u64,
    /// The number of connections that were made.
    pub connects: u64,
    /// The number of attempts to connect that failed, and of connections that broke.
    pub failures: u64,
    /// The number of messages that were sent again.
    pub retries: u64,
    /// The number of batches on disk that were damaged and left out.
    pub damaged: u64,
    /// The number of reads and of writes of the buffer's disk that failed.
    pub disk_failures: [(&'static str, u64); 2],
    /// True when the buffer has no room, so that publishers to the bridge wait.
    pub full: bool,
    /// True while what waits on disk cannot be read; it is tried again.
    pub unreadable: bool,
    /// The number of messages that were dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// How often another MQTT broker has refused a message, by its reason code.
    pub refused: Vec<(&'static str, u64)>,
}

impl BridgeRow {
    /// Adds the figures of another lane of the bridge, whose state as a whole is then `state`.
    pub fn add(&mut self, other: &BridgeRow, state: &'static str) {
        self.state = state;
        self.connections += other.connections;
        self.waiting += other.waiting;
        self.waiting_bytes += other.waiting_bytes;
        self.waiting_limit += other.waiting_limit;
        self.matched += other.matched;
        self.delivered += other.delivered;
        self.brought += other.brought;
        self.connects += other.connects;
        self.failures += other.failures;
        self.retries += other.retries;
        self.damaged += other.damaged;
        self.full |= other.full;
        self.unreadable |= other.unreadable;
        let refused = self.refused.iter_mut().zip(&other.refused);
        let failures = self.disk_failures.iter_mut().zip(&other.disk_failures);
        let dropped = self.dropped.iter_mut().zip(&other.dropped);
        for ((_, count), (_, more)) in dropped.chain(refused).chain(failures) {
            *count += more;
        }
    }
}

/// The figures of the exporter of spans.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SpanRow {
    /// True when the receiver has accepted the last request.
    pub up: bool,
    /// The number of spans that were sent.
    pub exported: u64,
    /// The number of spans that were not sent, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// How much is retained on an account, which bounds what some clients may retain
/// ([`crate::overload::accounts`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountRow {
    /// The name of the account.
    pub name: String,
    /// The number of retained messages.
    pub messages: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// One of the clients that weigh most by some measure.
#[derive(Clone, PartialEq, Debug)]
pub struct TopRow {
    /// The measure.
    pub by: &'static str,
    /// The client.
    pub client_id: String,
    /// How much of it the client has each second.
    pub per_second: f64,
}

/// A listener, open or stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerRow {
    /// Its name.
    pub name: String,
    /// tcp, tls, ws, wss or unix.
    pub kind: String,
    /// Where it listens.
    pub bind: String,
    /// True while it accepts connections.
    pub running: bool,
    /// The number of connections now.
    pub connections: u64,
    /// The largest number of connections; `None` for no bound.
    pub max_connections: Option<u64>,
    /// The number of connections that were accepted.
    pub accepted: u64,
    /// The number of those that were refused.
    pub refused: u64,
}
