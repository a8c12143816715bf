//! The holder's side of a claim: what a node does that has the session that another node claims;
//! and the fences that all nodes make for claimant and holder.

use super::fences::FencePurpose;
use super::{ClaimMail, DepartingSession, FENCES, NodeClaims, NodeSet, SELF, Whom, bit, written};
use crate::cluster::record::{ClaimVerdict, NodeRecord};
use crate::ids::ShardId;
use crate::mesh::moves::{Move, PackedParts, SessionDemand, ToShard};
use crate::mutant::Mutant;
use crate::time::Instant;

impl NodeClaims {
    pub(super) fn claimed(&mut self, to: Move, stamp: u64, wanted: SessionDemand, name: &str) {
        self.stamp = self.stamp.max(stamp);
        let theirs = self.name_of(to.node);
        let is_newer = |ours: u64| (stamp, theirs) > (ours, &*self.name);
        if let Some(&claim) = self.names.get(name)
            && let Some(open) = self.open.get(&claim)
        {
            if !is_newer(open.later.map_or(open.stamp, |later| later.stamp)) {
                self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Newer));
                return;
            }
            let earlier = open.next;
            self.lose(claim);
            let (next, other) = match earlier {
                Some(earlier) if earlier.1 > stamp => (earlier, Some(to)),
                Some(earlier) => ((to, stamp, wanted), Some(earlier.0)),
                None => ((to, stamp, wanted), None),
            };
            if let Some(open) = self.open.get_mut(&claim) {
                open.next = Some(next);
            }
            if let Some(other) = other {
                self.say(other.node, &NodeRecord::Answer(other.claim, ClaimVerdict::Nothing));
            }
            if next.0 == to {
                self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Holds));
            }
            return;
        }
        if let Some(&ours) = self.unanswered.get(name) {
            if !is_newer(ours) {
                self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Newer));
                return;
            }
            self.unanswered.remove(name);
        }
        self.waiting.push_back((to, name.into(), wanted));
    }

    pub(super) fn surrendered(
        &mut self,
        shard: ShardId,
        to: Move,
        session: Option<Vec<u8>>,
        now: Instant,
    ) {
        self.asked = self.asked.saturating_sub(1);
        let Some(bytes) = session else {
            self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Nothing));
            return;
        };
        self.leaving.insert(to, DepartingSession { shard, fences: self.up | SELF, asked: false });
        self.fences_due.push_back((now.plus_millis(FENCES), to));
        self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Holds));
        self.say(to.node, &NodeRecord::Session(to.claim, &bytes));
        if Mutant::ClusterFenceSkipped.is_on() {
            self.fenced(to, NodeSet::MAX);
        }
    }

    /// `nodes` now send all further messages for the session to its new place too.
    pub(super) fn fenced(&mut self, to: Move, nodes: NodeSet) {
        let Some(leaving) = self.leaving.get_mut(&to) else { return };
        leaving.fences &= !nodes;
        if leaving.fences == 0 && !std::mem::replace(&mut leaving.asked, true) {
            self.to_pack.push_back(to);
        }
    }

    pub(super) fn packed(&mut self, to: Move, PackedParts { owed, parts }: PackedParts) {
        self.packing = self.packing.saturating_sub(1);
        if parts.is_empty() && self.leaving.remove(&to).is_some() {
            // The client has returned to this node.
            self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Nothing));
        }
        if !self.leaving.contains_key(&to) {
            return;
        }
        for bytes in &owed {
            self.say(to.node, &NodeRecord::Owed(to.claim, bytes));
        }
        let count = parts.len();
        for (at, bytes) in parts.iter().enumerate() {
            self.say(to.node, &NodeRecord::Part(to.claim, at + 1 == count, bytes));
        }
    }

    pub(super) fn settled_there(&mut self, to: Move) {
        if let Some(leaving) = self.leaving.remove(&to) {
            self.counts.went += 1;
            if !Mutant::ClusterSessionKept.is_on() {
                self.mail.push(ClaimMail::One(Whom::Shard(leaving.shard), ToShard::Done(to)));
            }
        }
    }

    /// A node asks to be told when the filters that it has sent are known. `groups` tells whether
    /// there were share groups among them, which the shards have only been sent by mail.
    pub fn asked(&mut self, node: u8, number: u64, groups: bool) {
        if groups {
            self.groups_unknown |= bit(node);
        }
        if self.groups_unknown & bit(node) == 0 {
            self.say(node, &NodeRecord::Known(number));
        } else {
            self.fence(FencePurpose::Known(node, number));
        }
    }

    /// Asks for a fence.
    pub fn fence(&mut self, job: FencePurpose) {
        self.fences.ask(job);
        self.begin_round();
    }

    /// Begins a round of fences, if one is wanted and none is under way.
    fn begin_round(&mut self) {
        if self.fences.begins() {
            self.mail.push(ClaimMail::Fences);
        }
    }

    pub(super) fn shard_fenced(&mut self) {
        for job in self.fences.answered() {
            match job {
                FencePurpose::Session { claimant, claim, holder: Some(holder) } => {
                    let claimant = claimant.map_or(&*self.name, |node| self.name_of(node));
                    let record = written(&NodeRecord::Fenced(claim, claimant));
                    self.behind_messages.push((holder, record));
                }
                FencePurpose::Session { claimant, claim, holder: None } => {
                    if let Some(node) = claimant {
                        self.fenced(Move { node, claim }, SELF);
                    }
                }
                FencePurpose::Retelling(node) => self.retellings.push(node),
                FencePurpose::Known(node, number) => {
                    self.groups_unknown &= !bit(node);
                    self.say(node, &NodeRecord::Known(number));
                }
            }
        }
        self.begin_round();
    }
}
