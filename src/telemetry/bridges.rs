//! What is shown of a bridge, a listener and the exporter of spans: copies of their figures.

/// A bridge, as it is shown.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BridgeRow {
    /// Its name.
    pub name: String,
    /// What is at its other end: mqtt.
    pub kind: &'static str,
    /// idle, connecting, up, waiting or failed.
    pub state: &'static str,
    /// Connections that are up.
    pub connections: u64,
    /// Messages that wait, or are under way.
    pub waiting: u64,
    /// Bytes of messages that wait, those in the shards' links included.
    pub waiting_bytes: u64,
    /// Most bytes that may wait.
    pub waiting_limit: u64,
    /// Messages that matched a filter of the bridge.
    pub matched: u64,
    /// Messages that have arrived at the other end.
    pub delivered: u64,
    /// Messages that were brought from the other end and accepted.
    pub brought: u64,
    /// Connections that were made.
    pub connects: u64,
    /// Attempts that failed, and connections that ended otherwise than in order.
    pub failures: u64,
    /// Messages that were tried again.
    pub retries: u64,
    /// Batches on disk that were broken, and left out.
    pub damaged: u64,
    /// Reads and writes of the disk of its buffer that failed.
    pub disk_failures: [(&'static str, u64); 2],
    /// There is no room for more, and publishers of what it takes wait.
    pub full: bool,
    /// Messages that were dropped, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// How often another MQTT broker has not taken a message, by its reason.
    pub refused: Vec<(&'static str, u64)>,
}

impl BridgeRow {
    /// Adds another lane of the bridge, with which it is in that state.
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
        let refused = self.refused.iter_mut().zip(&other.refused);
        let failures = self.disk_failures.iter_mut().zip(&other.disk_failures);
        let dropped = self.dropped.iter_mut().zip(&other.dropped);
        for ((_, count), (_, more)) in dropped.chain(refused).chain(failures) {
            *count += more;
        }
    }
}

/// What is shown of the exporter of spans.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SpanRow {
    /// The receiver has taken the last request.
    pub up: bool,
    /// Spans that were sent.
    pub exported: u64,
    /// Spans that were not, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// How much is retained for clients with a bound ([`crate::overload::accounts`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountRow {
    /// The account.
    pub name: String,
    /// Messages.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
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
    /// It accepts connections.
    pub running: bool,
    /// Connections now.
    pub connections: u64,
    /// Most connections; `None` for no bound.
    pub max_connections: Option<u64>,
    /// Connections that came.
    pub accepted: u64,
    /// Of these, those that were refused.
    pub refused: u64,
}
