//! What a node has counted goes to the process that takes its place in an upgrade.

use super::{Node, NodeCounts};
use crate::cluster::adoption::AdoptionCounts;
use crate::cluster::claims::ClaimCounts;
use crate::cluster::counted::{NamedCount, PackedCounts, add, pack};
use crate::cluster::wills::WillCounts;

/// Everything that a node counts, but for what is about one other node.
struct AllCounts {
    node: NodeCounts,
    claims: ClaimCounts,
    adoption: AdoptionCounts,
    wills: WillCounts,
    /// SUBACKs that did not wait for every node.
    unanswered: u64,
}

impl AllCounts {
    fn of(node: &Node) -> AllCounts {
        AllCounts {
            node: node.counts,
            claims: node.claims.counts,
            adoption: node.adoption.as_ref().map(|known| known.counts).unwrap_or_default(),
            wills: node.wills.far.counts,
            unanswered: node.announced.unanswered,
        }
    }

    fn named(&mut self) -> Vec<NamedCount<'_>> {
        let AllCounts { node, claims, adoption, wills, unanswered } = self;
        let [full, down, expired] = &mut node.unsent;
        let mut all = vec![
            ("unsent_full", full),
            ("unsent_down", down),
            ("unsent_expired", expired),
            ("refused", &mut node.refused),
            ("formats", &mut node.formats),
            ("stale", &mut node.stale),
            ("doubles", &mut node.doubles),
            ("beyond", &mut node.beyond),
            ("retold", &mut node.retold),
            ("retained_differ", &mut node.retained_differ),
            ("unpassed", &mut node.unpassed),
            ("frames_received", &mut node.frames_received),
            ("frames_sent", &mut node.frames_sent),
            ("claims", &mut claims.claims),
            ("claims_unanswered", &mut claims.unanswered),
            ("claims_lost", &mut claims.lost),
            ("sessions_came", &mut claims.came),
            ("sessions_went", &mut claims.went),
            ("sessions_failed", &mut claims.failed),
            ("adoptions", &mut adoption.done),
            ("adoptions_damaged", &mut adoption.damaged),
            ("adoptions_superseded", &mut adoption.superseded),
            ("adoptions_failures", &mut adoption.failures),
            ("wills_published", &mut wills.published),
            ("wills_no_room", &mut wills.no_room),
            ("wills_no_majority", &mut wills.no_majority),
            ("subacks_unanswered", unanswered),
        ];
        all.extend(node.peers.named());
        all
    }
}

impl Node {
    /// Packs what was counted, but for what is about one other node that is known.
    pub(super) fn pack_counts(&self) -> PackedCounts {
        pack(AllCounts::of(self).named())
    }

    /// Goes on from what another process has counted.
    pub(super) fn unpack_counts(&mut self, counted: &PackedCounts) {
        let mut all = AllCounts::of(self);
        add(all.named(), counted);
        (self.counts, self.claims.counts) = (all.node, all.claims);
        self.wills.far.counts = all.wills;
        self.announced.unanswered = all.unanswered;
        if let Some(adoption) = &mut self.adoption {
            adoption.counts = all.adoption;
        }
    }
}
