//! What the broker does where it is a node of a cluster: plans, mailboxes, the thread's start and
//! end.

use super::{Broker, Failure, admin_servers};
use crate::cluster::serve::Bell;
use crate::cluster::start::{Cluster, NodeStart};
use crate::config::Config;
use crate::limits::{CLUSTER_PEERS, DATA_MAILBOX, control_mailbox};
use crate::mesh::Shared;
use crate::mesh::mail::{Control, Stamped};
use crate::mesh::mailbox::{self, MailEnds, NodeEnds};
use crate::ring::Doorbell;
use crate::topic::Seeds;
use crate::upgrade::frame::Hello;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

/// The cluster's ends of the mailboxes.
pub(super) type ClusterEnds = NodeEnds<Stamped, Control>;

/// The cluster that the configuration says, if it says one, and what the shards share. `continued`:
/// the broker whose place this one takes.
pub(super) fn plan(
    config: &Config,
    shards: usize,
    seeds: Seeds,
    continued: Option<&Hello>,
) -> Result<(Option<Cluster>, Arc<Shared>), Failure> {
    let way = continued.map_or(NodeStart::Anew, |_| NodeStart::Successor);
    let cluster = Cluster::plan(config, shards, &admin_servers::node_name(), way);
    let cluster = cluster.map_err(Failure::new)?;
    let shared = if cluster.is_some() { Shared::clustered(seeds) } else { Shared::new(seeds) };
    shared.instance.set(RandomState::new().hash_one("instance") | 1);
    Ok((cluster, shared))
}

/// The mailboxes of the shards, and those of a node of a cluster.
pub(super) fn mailboxes(
    shards: usize,
    is_clustered: bool,
) -> (Vec<MailEnds<Stamped, Control>>, Option<ClusterEnds>) {
    let control = control_mailbox(shards);
    if is_clustered {
        let (ends, node) = mailbox::clustered(shards, CLUSTER_PEERS, DATA_MAILBOX, control);
        return (ends, Some(node));
    }
    (mailbox::mailboxes(shards, DATA_MAILBOX, control), None)
}

impl Broker {
    /// Starts the cluster's thread, if this is a node of one and the thread does not run yet.
    pub(super) fn start_cluster(&mut self) -> Result<(), Failure> {
        let (ends, clock) = (self.node_ends.take(), self.clock);
        let (Some(cluster), Some(ends)) = (&mut self.cluster, ends) else { return Ok(()) };
        self.admin.show_cluster(cluster.view());
        let bell = |doorbell: &Doorbell| {
            let doorbell = doorbell.clone();
            Box::new(move || doorbell.ring()) as Bell
        };
        let bells = self.doorbells.iter().map(bell).collect();
        let clock = Box::new(move || clock.nanos());
        cluster.start(Arc::clone(&self.shared), ends, clock, bells).map_err(Failure::new)
    }

    /// The cores have ended: bridges and the cluster send what waits, at most until then, and end.
    pub(super) fn stop_others(&mut self, until: Instant) {
        self.bridges.stop(until);
        if let Some(cluster) = &mut self.cluster {
            cluster.stop(until);
        }
    }
}
