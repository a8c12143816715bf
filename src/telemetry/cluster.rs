//! What is shown of a cluster: a copy of one node's figures.

/// A cluster, as one of its nodes sees it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClusterRow {
    /// Its name.
    pub name: String,
    /// This node's name.
    pub node: String,
    /// The connection to a NATS server stands, and carries frames.
    pub connected: bool,
    /// Filters that this node tells the others of.
    pub filters: u64,
    /// Frames received and sent.
    pub frames: (u64, u64),
    /// Bytes of them.
    pub bytes: (u64, u64),
    /// Messages sent to other nodes, once for each.
    pub sent: u64,
    /// Messages of other nodes that were taken in.
    pub received: u64,
    /// Times that something was sent again.
    pub resends: u64,
    /// Messages that were not sent, or were lost, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Frames that were not taken, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Times that another node's filters were not what it said, and were told again.
    pub disagreements: u64,
    /// SUBACKs that went out though some node had not said that it knows the filters.
    pub unanswered: u64,
    /// Retained messages that other nodes were told of because they might lack them.
    pub retold: u64,
    /// Times that another node's retained messages were not those of this one.
    pub retained_differ: u64,
    /// Share groups that other nodes are not told of, as this one has too many filters.
    pub groups_untold: u64,
    /// Messages of share groups that a node which was lost had not acknowledged, and that went to
    /// another member.
    pub unpassed: u64,
    /// ClientIds that clients of this node claimed from the others.
    pub claims: u64,
    /// Claims that went wrong, by how: some node did not answer in time, or a newer one won.
    pub claims_failed: Vec<(&'static str, u64)>,
    /// Sessions that came from other nodes, went there, and did not arrive.
    pub sessions: Vec<(&'static str, u64)>,
    /// Sessions on their way now.
    pub moving: u64,
    /// Wills.
    pub wills: WillsRow,
    /// The other nodes.
    pub nodes: Vec<NodeRow>,
}

/// The wills that a node knows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WillsRow {
    /// Those of its clients, which the other nodes are told of.
    pub told: u64,
    /// Those of other nodes' clients.
    pub kept: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Wills of clients of nodes that are gone, which this node has published.
    pub published: u64,
    /// Those that no node may have published, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// Another node of the cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Tells its runs apart.
    pub incarnation: u64,
    /// It is heard.
    pub up: bool,
    /// Each of the two knows the filters of the other, and it was told of all retained messages.
    pub settled: bool,
    /// Filters that it has told of.
    pub filters: u64,
    /// Bytes of messages that it has not acknowledged.
    pub window: u64,
    /// Bytes of its messages that wait for a shard here.
    pub waiting: u64,
    /// Milliseconds since it was heard.
    pub silent: u64,
    /// By how many milliseconds this node's time is ahead of its.
    pub ahead: i64,
    /// Messages sent to it, and received of it.
    pub messages: (u64, u64),
}
