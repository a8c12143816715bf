//! Counts of a node and the state of the other nodes, for metrics, logs and the admin server.

use super::Node;
use crate::cluster::frame::Abilities;
use crate::cluster::peer::{PeerCounts, Presence};
use crate::cluster::wills::WillCounts;
use crate::time::Instant;

/// Why a message was not sent to another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsent {
    /// The window was full while the node could not be reached.
    Full,
    /// The node is down.
    Down,
    /// The message had expired.
    Expired,
}

impl Unsent {
    /// All of them.
    pub const ALL: [Unsent; 3] = [Unsent::Full, Unsent::Down, Unsent::Expired];

    /// The label of the reason.
    pub fn word(self) -> &'static str {
        match self {
            Unsent::Full => "window_full",
            Unsent::Down => "node_down",
            Unsent::Expired => "expired",
        }
    }
}

/// Counts of a node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeCounts {
    /// Messages that were not sent, by reason.
    pub unsent: [u64; Unsent::ALL.len()],
    /// Counts about records, including those of nodes that are gone.
    pub peers: PeerCounts,
    /// Frames that were refused, but for those of a format that is not known.
    pub refused: u64,
    /// Frames of a format that is not known.
    pub formats: u64,
    /// Frames of runs of nodes that have ended.
    pub stale: u64,
    /// Frames of another node with this node's name.
    pub doubles: u64,
    /// Frames of nodes for which there was no number left.
    pub beyond: u64,
    /// SUBACKs that went out although some node had not confirmed that it knows the filters.
    pub unanswered: u64,
    /// Retained messages that were told to other nodes besides newly published ones.
    pub retold: u64,
    /// How often another node's retained messages differed from those of this node.
    pub retained_differ: u64,
    /// Share groups with members here that other nodes are not told, as there are too many filters.
    pub groups_untold: u64,
    /// Messages of share groups that were sent to another node, lost, and passed to another member.
    pub unpassed: u64,
    /// Will messages of this node's clients that the other nodes are told.
    pub wills_told: u64,
    /// Will messages of other nodes' clients that are kept here.
    pub wills_kept: u64,
    /// Bytes of all will messages.
    pub wills_bytes: u64,
    /// Counts about other nodes' will messages.
    pub wills: WillCounts,
    /// Frames that were received.
    pub frames_received: u64,
    /// Frames that were sent.
    pub frames_sent: u64,
}

/// Another node, as shown to an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// Whether the node is heard.
    pub up: bool,
    /// Whether the node is up, both nodes know each other's filters, and the other node has been
    /// told all retained messages. What changes later may be under way.
    pub settled: bool,
    /// The number of the node's filters.
    pub filters: usize,
    /// Bytes of messages that the node has not acknowledged.
    pub window: usize,
    /// Bytes of the node's messages that wait for this broker.
    pub waiting: usize,
    /// How often segments were sent again.
    pub resends: u64,
    /// What both nodes can do.
    pub can: Abilities,
    /// Milliseconds since the node was heard.
    pub silent: u64,
    /// The milliseconds by which this node's time is ahead of the other node's.
    pub ahead: i64,
    /// Counts about records.
    pub counts: PeerCounts,
}

impl Node {
    /// The node's counts, and the state of each other node.
    pub fn status(&self, now: Instant) -> (NodeCounts, Vec<PeerStatus>) {
        let mut counts = NodeCounts {
            unanswered: self.announced.unanswered,
            groups_untold: self.filters.groups_beyond(),
            wills_told: self.wills.local.len() as u64,
            wills_kept: self.wills.far.len() as u64,
            wills_bytes: self.held() as u64,
            wills: self.wills.far.counts,
            ..self.counts
        };
        let mut rows = Vec::new();
        for (peer, retelling) in self.peers.iter().zip(&self.retellings) {
            let Some(peer) = peer else { continue };
            add(&mut counts.peers, &PeerCounts { resends: peer.resends(), ..peer.counts });
            rows.push(PeerStatus {
                name: peer.name.to_string(),
                incarnation: peer.incarnation,
                up: peer.presence == Presence::Up,
                settled: peer.is_settled() && retelling.is_done(),
                filters: peer.filters(),
                window: peer.window(),
                waiting: peer.waiting(),
                resends: peer.resends(),
                can: peer.can(),
                silent: now.millis_since(peer.heard),
                ahead: peer.apart.millis(),
                counts: peer.counts,
            });
        }
        (counts, rows)
    }
}

/// Adds the counts of one other node.
pub(super) fn add(to: &mut PeerCounts, more: &PeerCounts) {
    to.sent += more.sent;
    to.received += more.received;
    to.lost += more.lost;
    to.resends += more.resends;
    to.disagreements += more.disagreements;
    to.malformed += more.malformed;
}
