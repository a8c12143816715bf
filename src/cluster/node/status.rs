//! What a node counts, and how it sees the others: for whoever shows it.

use super::Node;
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
    /// Its time was over.
    Expired,
}

impl Unsent {
    /// All of them.
    pub const ALL: [Unsent; 3] = [Unsent::Full, Unsent::Down, Unsent::Expired];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Unsent::Full => "window_full",
            Unsent::Down => "node_down",
            Unsent::Expired => "expired",
        }
    }
}

/// What a node counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NodeCounts {
    /// Messages that were not sent, by reason.
    pub unsent: [u64; Unsent::ALL.len()],
    /// What has become of records, of nodes that are gone included.
    pub peers: PeerCounts,
    /// Frames that were refused.
    pub refused: u64,
    /// Frames of runs of nodes that are over.
    pub stale: u64,
    /// Frames of another node that has this one's name.
    pub doubles: u64,
    /// Frames of nodes beyond the most.
    pub beyond: u64,
    /// SUBACKs that went out though some node had not said that it knows the filters.
    pub unanswered: u64,
    /// Retained messages that other nodes were told of, besides those that were just published.
    pub retold: u64,
    /// Times that another node's retained messages were not those of this one.
    pub retained_differ: u64,
    /// Share groups with members here that other nodes are not told of: there are too many filters.
    pub groups_untold: u64,
    /// Messages of share groups that another node was sent and has lost, and that went to another
    /// member.
    pub unpassed: u64,
    /// Wills of this node's clients that the others are told of.
    pub wills_told: u64,
    /// Wills of other nodes' clients that are kept here, and bytes of all wills.
    pub wills_kept: u64,
    /// The latter.
    pub wills_bytes: u64,
    /// What has become of them.
    pub wills: WillCounts,
    /// Frames that came, and that were sent.
    pub frames_received: u64,
    /// Those that were sent.
    pub frames_sent: u64,
}

/// Another node, as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// It is heard.
    pub up: bool,
    /// It is up, and knows all filters of this node, which knows all of its; and it has been told
    /// of all retained messages.
    pub settled: bool,
    /// Its filters.
    pub filters: usize,
    /// Bytes of messages that it has not acknowledged.
    pub window: usize,
    /// Bytes of its messages that wait for this broker.
    pub waiting: usize,
    /// Times that something was sent again.
    pub resends: u64,
    /// Milliseconds since it was heard.
    pub silent: u64,
    /// By how many milliseconds this node's time is ahead of its.
    pub ahead: i64,
    /// What has become of records.
    pub counts: PeerCounts,
}

impl Node {
    /// What is counted, and how each other node stands.
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
                silent: now.millis_since(peer.heard),
                ahead: peer.apart.millis(),
                counts: peer.counts,
            });
        }
        (counts, rows)
    }
}

/// Adds what was counted of one node.
pub(super) fn add(to: &mut PeerCounts, more: &PeerCounts) {
    to.sent += more.sent;
    to.received += more.received;
    to.lost += more.lost;
    to.resends += more.resends;
    to.disagreements += more.disagreements;
    to.malformed += more.malformed;
}
