//! A copy of the figures that one node has of its cluster, as metrics and the management API show
//! them. Plain values.

/// A cluster, as one of its nodes sees it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ClusterRow {
    /// The name of the cluster.
    pub name: String,
    /// The name of this node.
    pub node: String,
    /// True while the connection to a NATS server is up and carries frames.
    pub connected: bool,
    /// The number of filters that this node tells the others.
    pub filters: u64,
    /// The number of frames received and sent.
    pub frames: (u64, u64),
    /// The bytes of the frames received and sent.
    pub bytes: (u64, u64),
    /// The number of messages sent to other nodes, counted once for each node.
    pub sent: u64,
    /// The number of messages from other nodes that were accepted.
    pub received: u64,
    /// How often something was sent again.
    pub resends: u64,
    /// The number of messages for other nodes that were not sent or were lost, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// The number of frames that were not accepted, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// How often this node's copy of another node's filters was found to differ, so that the
    /// filters were sent again.
    pub disagreements: u64,
    /// The number of SUBACKs that were sent although some node had not confirmed the filters.
    pub unanswered: u64,
    /// The number of retained messages that were sent to other nodes because those might lack them.
    pub retold: u64,
    /// How often the retained messages of another node were found to differ from those of this one.
    pub retained_differ: u64,
    /// The number of share groups that other nodes are not told of, because this node has too many
    /// filters.
    pub groups_untold: u64,
    /// The number of messages of share groups that went to another member because the node that had
    /// them was lost before it acknowledged them.
    pub unpassed: u64,
    /// The number of ClientIds that clients of this node have claimed from the other nodes.
    pub claims: u64,
    /// The number of claims that failed: some node did not answer in time, or a newer claim won.
    pub claims_failed: Vec<(&'static str, u64)>,
    /// The number of sessions that came from other nodes, that went there, and that did not arrive.
    pub sessions: Vec<(&'static str, u64)>,
    /// The number of sessions that are on their way now.
    pub moving: u64,
    /// The will messages that this node knows.
    pub wills: WillsRow,
    /// Adoptions, if sessions survive the loss of their node.
    pub durable: Option<DurableRow>,
    /// The other nodes.
    pub nodes: Vec<NodeRow>,
}

/// The will messages that a node knows.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WillsRow {
    /// The number of wills of its own clients, which the other nodes are told of.
    pub told: u64,
    /// The number of wills of other nodes' clients that are kept here.
    pub kept: u64,
    /// The bytes of both.
    pub bytes: u64,
    /// The number of wills that this node has published for clients of nodes that are gone.
    pub published: u64,
    /// The number of wills of other nodes' clients that were forgotten, by reason.
    pub dropped: Vec<(&'static str, u64)>,
}

/// Adoptions of the sessions of lost nodes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DurableRow {
    /// True when this node's sessions would be adopted.
    pub member: bool,
    /// True while the stream does not take what is stored here.
    pub out: bool,
    /// True while this node adopts the sessions of another one.
    pub adopting: bool,
    /// The number of nodes whose sessions this node has adopted.
    pub adoptions: u64,
    /// The number of journals that were damaged, so that their sessions were not adopted.
    pub damaged: u64,
    /// The number of sessions that were not adopted because their clients had begun anew.
    pub superseded: u64,
    /// The number of requests for adoptions that have failed.
    pub failures: u64,
}

/// Another node of the cluster.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeRow {
    /// The name of the node.
    pub name: String,
    /// A number that tells the runs of this node apart.
    pub incarnation: u64,
    /// True while the node is heard.
    pub up: bool,
    /// True when each of the two nodes knows the filters of the other, and the other node was told
    /// of all retained messages.
    pub settled: bool,
    /// The number of filters that it has told.
    pub filters: u64,
    /// Bytes of messages to it that it has not acknowledged.
    pub window: u64,
    /// Bytes of messages from it that wait for a shard here.
    pub waiting: u64,
    /// Milliseconds since it was last heard.
    pub silent: u64,
    /// The format of frames to it.
    pub format: u8,
    /// What both nodes can do.
    pub level: u8,
    /// The time of this node minus the time of the other node, in milliseconds.
    pub ahead: i64,
    /// The number of messages sent to it, and received from it.
    pub messages: (u64, u64),
}
