//! Mistakes of nodes of a cluster.

macro_rules! cluster {
    ([$($rest:ident)*] $($before:tt)*) => {
        mutants! { [$($rest)*] $($before)*
        /// What was sent to another node and not acknowledged is not sent again.
        ClusterResendSkipped,
        /// A segment after a gap is taken as if it were the next one.
        ClusterGapTaken,
        /// Segments from the middle of a stream are taken for those of a new one.
        ClusterUnknownStreamTaken,
        /// A segment that comes again is taken again.
        ClusterDoubleTaken,
        /// A segment that is lacking is acknowledged.
        ClusterAcknowledgedEarly,
        /// A filter that changes after the snapshot is not told.
        ClusterChangeUntold,
        /// The window to a node that does not acknowledge grows without bound.
        ClusterWindowUnbounded,
        /// What came from one node is sent on to another.
        ClusterSentOn,
        /// A ClientId is not claimed from the other nodes.
        ClusterClaimUntold,
        /// A later client of a node is refused when the claim of an earlier one has lost.
        ClusterLaterJoins,
        /// A session is sent on before all nodes know of its new place.
        ClusterFenceSkipped,
        /// The holder of a session keeps it though it has arrived elsewhere.
        ClusterSessionKept,
        /// The queue of a session is sent twice.
        ClusterSessionTwice,
        /// Retained messages that a client is owed do not come with its session.
        ClusterOwedLeft,
        /// SUBACK before the other nodes know the filter.
        ClusterSubAckEarly,
        /// A message to be retained goes only to the nodes that want it.
        ClusterRetainedUntold,
        /// An older retained message of another node takes the place of a newer one.
        ClusterStampIgnored,
        /// That a topic was cleared is not known to the node that clears it.
        ClusterClearForgotten,
        /// A node that joins or comes back is not told of retained messages.
        ClusterRetellingSkipped,
        /// What the retained messages of two nodes add up to is not compared.
        ClusterRetainedUncompared,
        /// A node that leaves its cluster lets new clients in.
        ClusterLeavingTakesClients,
        /// A node that leaves its cluster refers all clients to others at once.
        ClusterReferredAtOnce,
        /// What one node sends another for its sessions goes to its share groups, too.
        ClusterGroupTwice,
        /// A message of a share group that a node cannot give to a member is not given back.
        ClusterGroupBackLost,
        /// That a share group has no members at a node any more is not told.
        ClusterGroupKept,
        /// A node that stops says to its clients that the server is stopping, as if it were alone.
        ClusterStopUnreferred,
        /// A message of a share group that has not reached a node before that is gone is lost.
        ClusterGroupUnsentLost,
        /// Other nodes are not told of wills.
        ClusterWillUntold,
        /// That a client has no will any more is not told to other nodes.
        ClusterWillKept,
        /// Each node publishes the wills of a node that is gone.
        ClusterWillTwice,
        /// A node that sees less than half of the others publishes their wills.
        ClusterWillMinority,
        /// The will of a client that has connected to another node since is published.
        ClusterWillClaimIgnored,
        /// The delay of a will counts nothing when its node is gone.
        ClusterWillDelayIgnored,
        /// A stored will is published by others after its node is back, too.
        ClusterWillStoredTwice,
        /// A node that is back is not told which of its stored wills others have published.
        ClusterWillSettledUntold,
        /// A node that is back publishes its stored wills before it has heard of the others'.
        ClusterWillRestoredAtOnce,
        /// Another node is told what only nodes of a later release read.
        ClusterLevelIgnored,
        /// A sampled message of another node has no receipt here.
        ClusterReceiptUntold,
        /// What is durable here is acknowledged before the cluster's stream has it.
        ClusterDurableEarly,
        /// More of a journal is removed from the stream than is not needed any more.
        ClusterDurableTrimmed,
        /// A node does not heed that another one has adopted its sessions.
        ClusterDurableFenceIgnored,
        /// What waits for the stream when a node is adopted is acknowledged later.
        ClusterDurableAnswered,
        /// A node keeps its sessions though another one has adopted them.
        ClusterDurableKept,
        /// The sessions of a lost node are adopted without a lock.
        ClusterAdoptionUnlocked,
        /// A node that adopts does not put a fence behind what it adopts.
        ClusterAdoptionUnfenced,
        /// A session is adopted although its client has begun anew elsewhere meanwhile.
        ClusterAdoptedAnyway,
        /// A client does not wait for the sessions of a lost node to be adopted.
        ClusterAdoptionUnawaited,
        /// What a lost node has of those that it had adopted counts as older than they.
        ClusterAdopterForgotten,
        }
    };
}
