//! What is said of a cluster.

use super::PageText;
use crate::telemetry::{ClusterRow, DurableRow, NodeRow, WillsRow};

impl PageText {
    pub(super) fn cluster(&mut self, row: &ClusterRow) {
        let name = "ringmq_cluster_info";
        self.family(name, "gauge", "The cluster and this node of it; the value is always 1.");
        self.sample(name, &[("cluster", &row.name), ("node", &row.node)], 1);
        let figures: [(&str, &str, &str, u64); 16] = [
            (
                "degraded",
                "gauge",
                "1 while no NATS server is reached, another node is down, or durable is out.",
                u64::from(is_degraded(row)),
            ),
            ("filters", "gauge", "Filters that other nodes are told of.", row.filters),
            ("frames_received_total", "counter", "Frames of the cluster.", row.frames.0),
            ("frames_sent_total", "counter", "Frames to the cluster.", row.frames.1),
            ("bytes_received_total", "counter", "Bytes of frames of the cluster.", row.bytes.0),
            ("bytes_sent_total", "counter", "Bytes of frames to the cluster.", row.bytes.1),
            ("messages_sent_total", "counter", "Messages sent, once for each node.", row.sent),
            ("messages_received_total", "counter", "Messages of other nodes.", row.received),
            ("resends_total", "counter", "Times that something was sent again.", row.resends),
            (
                "subacks_unanswered_total",
                "counter",
                "SUBACKs sent though some node had not said that it knows the filters.",
                row.unanswered,
            ),
            (
                "retained_told_total",
                "counter",
                "Retained messages that other nodes were told of, in case they lacked them.",
                row.retold,
            ),
            (
                "retained_differ_total",
                "counter",
                "Times that another node's retained messages were not those of this one.",
                row.retained_differ,
            ),
            (
                "share_groups_untold",
                "gauge",
                "Share groups that the other nodes are not told of: there are too many filters.",
                row.groups_untold,
            ),
            (
                "share_returned_total",
                "counter",
                "Messages of share groups that a lost node had not acknowledged, for others.",
                row.unpassed,
            ),
            ("claims_total", "counter", "ClientIds claimed from the other nodes.", row.claims),
            ("sessions_moving", "gauge", "Sessions on their way from node to node.", row.moving),
        ];
        for (name, kind, help, value) in figures {
            self.single(&format!("ringmq_cluster_{name}"), kind, help, value);
        }
        self.wills(&row.wills);
        if let Some(durable) = &row.durable {
            self.durable(durable);
        }
        self.cluster_reasons(row);
        self.nodes(&row.nodes);
    }

    /// Adoptions.
    fn durable(&mut self, row: &DurableRow) {
        let figures: [(&str, &str, &str, u64); 6] = [
            (
                "member",
                "gauge",
                "1 when another node would adopt this node's sessions.",
                u64::from(row.member),
            ),
            (
                "adopting",
                "gauge",
                "1 while this node adopts the sessions of a lost one.",
                u64::from(row.adopting),
            ),
            ("adoptions_total", "counter", "Nodes whose sessions were adopted.", row.adoptions),
            (
                "damaged_total",
                "counter",
                "Journals of lost nodes that are damaged, so that nothing of them was adopted.",
                row.damaged,
            ),
            (
                "superseded_total",
                "counter",
                "Sessions that were not adopted: their clients had begun anew.",
                row.superseded,
            ),
            (
                "adoption_failures_total",
                "counter",
                "Requests for adoptions that have failed, and were made again.",
                row.failures,
            ),
        ];
        for (name, kind, help, value) in figures {
            self.single(&format!("ringmq_cluster_durable_{name}"), kind, help, value);
        }
    }

    /// The wills that a node of a cluster knows.
    fn wills(&mut self, wills: &WillsRow) {
        let figures: [(&str, &str, &str, u64); 4] = [
            ("wills_told", "gauge", "Wills that the other nodes are told of.", wills.told),
            ("wills_kept", "gauge", "Wills of other nodes' clients, kept here.", wills.kept),
            ("wills_bytes", "gauge", "Bytes of both, in limits.memory.", wills.bytes),
            (
                "wills_published_total",
                "counter",
                "Wills of clients of nodes that are gone, published by this one.",
                wills.published,
            ),
        ];
        for (name, kind, help, value) in figures {
            self.single(&format!("ringmq_cluster_{name}"), kind, help, value);
        }
    }

    /// What has several reasons.
    fn cluster_reasons(&mut self, row: &ClusterRow) {
        let name = "ringmq_cluster_disagreements_total";
        let help = "Times that another node's filters were not what it said.";
        self.single(name, "counter", help, row.disagreements);
        for (name, help, counts) in [
            ("dropped", "Messages for other nodes that were dropped.", &row.dropped),
            ("refused", "Frames that were not taken.", &row.refused),
            ("claims_failed", "Claims not answered in time, or lost.", &row.claims_failed),
            ("sessions_moved", "Sessions that came, went, or did not arrive.", &row.sessions),
            ("wills_dropped", "Wills of other nodes' clients forgotten.", &row.wills.dropped),
        ] {
            let name = format!("ringmq_cluster_{name}_total");
            self.family(&name, "counter", help);
            for (reason, count) in counts {
                self.sample(&name, &[("reason", reason)], count);
            }
        }
    }

    /// The other nodes of a cluster.
    fn nodes(&mut self, nodes: &[NodeRow]) {
        type Figure = fn(&NodeRow) -> u64;
        let figures: [(&str, &str, Figure); 6] = [
            ("up", "1 while the other node is heard.", |node| u64::from(node.up)),
            ("settled", "1 while all of each has been told.", |node| u64::from(node.settled)),
            ("level", "What both can do; lower for an earlier release.", |node| node.level.into()),
            ("filters", "Filters that the other node has told of.", |node| node.filters),
            ("window_bytes", "Bytes that it has not acknowledged.", |node| node.window),
            ("waiting_bytes", "Bytes of its messages that wait here.", |node| node.waiting),
        ];
        for (name, help, figure) in figures {
            let name = format!("ringmq_cluster_node_{name}");
            self.of_each(&name, "gauge", help, nodes, |r| ("node", &r.name, figure(r)));
        }
        let name = "ringmq_cluster_node_clock_ahead_seconds";
        self.family(name, "gauge", "How far this node's time is ahead of the other's.");
        for node in nodes {
            self.sample(name, &[("node", &node.name)], node.ahead as f64 / 1000.0);
        }
    }
}

fn is_degraded(row: &ClusterRow) -> bool {
    let durable = row.durable.as_ref();
    let not_durable = durable.is_some_and(|durable| !durable.member || durable.out);
    !row.connected || not_durable || row.nodes.iter().any(|node| !node.up)
}
