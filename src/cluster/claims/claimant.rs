//! The claimant's side of a claim: what a node does whose client has connected, until it has the
//! ClientId and its session.

use super::fences::FencePurpose;
use super::{ClaimMail, NodeClaims, OpenClaim, PATIENCE, PROMISED, UNANSWERED, Whom, bit, written};
use crate::cluster::record::{ClaimVerdict, NodeRecord};
use crate::ids::ShardId;
use crate::mesh::moves::{ClaimOutcome, SessionDemand, ToShard};
use crate::mutant::Mutant;
use crate::time::Instant;

/// What a later client of this node with the same ClientId claims when the open claim is over. It
/// has a stamp of its own: with that of the open claim it would lose to claims of other nodes that
/// are older than its CONNECT.
#[derive(Clone, Copy)]
pub(super) struct Later {
    claim: u64,
    pub(super) stamp: u64,
    wanted: SessionDemand,
}

impl NodeClaims {
    pub(super) fn claim(
        &mut self,
        shard: ShardId,
        claim: u64,
        name: Box<str>,
        wanted: SessionDemand,
        reaches: bool,
        now: Instant,
    ) {
        self.counts.claims += 1;
        self.note_claimed(&name, None, wanted);
        let later = Later { claim, stamp: self.next_stamp(now), wanted };
        match self.names.get(&name).copied() {
            Some(open) => self.replace(open, later),
            None => self.begin(shard, later, name, reaches, now),
        }
    }

    /// A later client takes the place of the one that waits for an open claim.
    fn replace(&mut self, claim: u64, later: Later) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        let shard = open.shard;
        if open.lost && Mutant::ClusterLaterJoins.is_on() {
            return self.refuse(shard, later.claim);
        }
        let (earlier, next) = (open.later.replace(later), open.next.take());
        if let Some(earlier) = earlier {
            let over = ToShard::Claimed(earlier.claim, ClaimOutcome::Over);
            self.mail.push(ClaimMail::One(Whom::Shard(shard), over));
        }
        if let Some((to, ..)) = next {
            // What this node has seen is older than the stamp that it has just given.
            self.say(to.node, &NodeRecord::Answer(to.claim, ClaimVerdict::Newer));
        }
    }

    /// Claims a ClientId for which no claim is open.
    fn begin(&mut self, shard: ShardId, new: Later, name: Box<str>, reaches: bool, now: Instant) {
        let Later { claim, stamp, wanted } = new;
        self.unanswered.remove(&name);
        let mut awaited = self.up;
        if Mutant::ClusterClaimUntold.is_on() {
            awaited = 0;
        }
        for node in (0..31).filter(|&node| awaited & bit(node) != 0) {
            self.say(node, &NodeRecord::Claim(claim, stamp, wanted, &name));
        }
        let unreached = awaited != 0 && !reaches;
        let adopting = if unreached { 0 } else { self.adoptions.lost(wanted) };
        if awaited | adopting == 0 || unreached {
            if unreached {
                self.note_unanswered(name, stamp);
            }
            self.mail.push(ClaimMail::One(
                Whom::Shard(shard),
                ToShard::Claimed(claim, ClaimOutcome::Ours),
            ));
            return;
        }
        self.names.insert(name.clone(), claim);
        let open = OpenClaim {
            shard,
            name,
            stamp,
            awaited,
            holders: 0,
            from: None,
            promised: None,
            lost: false,
            wanted,
            adopting,
            next: None,
            later: None,
        };
        self.open.insert(claim, open);
        self.answers_due.push_back((now.plus_millis(PATIENCE), claim));
        self.adoptions.begin(claim, wanted, now);
    }

    pub(super) fn note_unanswered(&mut self, name: Box<str>, stamp: u64) {
        self.counts.unanswered += 1;
        if self.unanswered.len() < UNANSWERED {
            self.unanswered.insert(name, stamp);
        }
    }

    /// Continues a claim once all nodes have answered.
    pub(super) fn advance(&mut self, claim: u64, now: Instant) {
        let Some(open) = self.open.get(&claim) else { return };
        if open.awaited | open.adopting != 0 || open.from.is_some() {
            return;
        }
        if open.holders == 0 {
            self.finish(claim, ClaimOutcome::Ours, now);
        } else if open.promised.is_none() {
            self.await_session(claim, now);
        }
    }

    /// Waits for the session of a claim from now on, instead of from an earlier time on.
    fn await_session(&mut self, claim: u64, now: Instant) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        let until = now.plus_millis(PROMISED);
        if let Some(earlier) = open.promised.replace(until) {
            self.promises_due.remove(&(earlier, claim));
        }
        self.promises_due.insert((until, claim));
    }

    /// Ends a claim. The next claimant gets the session that is here by then.
    pub(super) fn finish(&mut self, claim: u64, outcome: ClaimOutcome, now: Instant) {
        let Some(open) = self.open.remove(&claim) else { return };
        if let Some(until) = open.promised {
            self.promises_due.remove(&(until, claim));
        }
        if self.names.get(&open.name) == Some(&claim) {
            self.names.remove(&open.name);
        }
        self.mail.push(ClaimMail::One(Whom::Shard(open.shard), ToShard::Claimed(claim, outcome)));
        if let Some((to, _, wanted)) = open.next {
            self.waiting.push_back((to, open.name, wanted));
        } else if let Some(later) = open.later {
            // If the engine carries nothing now, nobody waits longer than for an answer.
            self.begin(open.shard, later, open.name, true, now);
        }
    }

    /// Ends a claim whose session does not arrive.
    pub(super) fn give_up(&mut self, claim: u64, now: Instant) {
        self.counts.failed += 1;
        self.finish(claim, ClaimOutcome::SessionLost, now);
    }

    pub(super) fn answered(&mut self, node: u8, claim: u64, verdict: ClaimVerdict, now: Instant) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        open.awaited &= !bit(node);
        open.adopting &= !bit(node);
        match verdict {
            ClaimVerdict::Nothing if open.from == Some(node) => return self.give_up(claim, now),
            ClaimVerdict::Nothing => open.holders &= !bit(node),
            ClaimVerdict::Holds if open.from != Some(node) => open.holders |= bit(node),
            ClaimVerdict::Holds => {}
            ClaimVerdict::Newer => {
                open.holders &= !bit(node);
                // With a later client here, nobody waits for this claim, and that one is newer.
                if open.later.is_none() {
                    self.lose(claim);
                }
            }
        }
        self.advance(claim, now);
    }

    /// Another node's claim is newer: the client that waits for this claim is refused.
    pub(super) fn lose(&mut self, claim: u64) {
        let Some(open) = self.open.get_mut(&claim) else { return };
        let (shard, known) = (open.shard, std::mem::replace(&mut open.lost, true));
        if let Some(later) = open.later.take() {
            self.refuse(shard, later.claim);
        } else if !known {
            self.counts.lost += 1;
            let lost = ToShard::Claimed(claim, ClaimOutcome::Lost);
            self.mail.push(ClaimMail::One(Whom::Shard(shard), lost));
        }
    }

    /// Refuses a later client, which then has no claim.
    fn refuse(&mut self, shard: ShardId, claim: u64) {
        self.counts.lost += 1;
        for outcome in [ClaimOutcome::Lost, ClaimOutcome::Over] {
            self.mail.push(ClaimMail::One(Whom::Shard(shard), ToShard::Claimed(claim, outcome)));
        }
    }

    /// The subscriptions of a session have arrived.
    pub(super) fn session(&mut self, node: u8, claim: u64, bytes: &[u8], now: Instant) {
        let taken = match self.open.get_mut(&claim) {
            Some(open) if open.from.is_none() => {
                open.awaited &= !bit(node);
                open.adopting = 0;
                open.holders &= !bit(node);
                open.from = Some(node);
                let adopt = ToShard::Adopt(claim, bytes.to_vec());
                self.mail.push(ClaimMail::One(Whom::Shard(open.shard), adopt));
                self.await_session(claim, now);
                true
            }
            Some(open) => {
                open.holders &= !bit(node);
                false
            }
            None => false,
        };
        if !taken {
            self.counts.failed += 1;
            self.say(node, &NodeRecord::Settled(claim));
        }
    }

    /// The subscriptions are in place: asks all nodes for a fence.
    pub(super) fn placed(&mut self, claim: u64) {
        let Some(open) = self.open.get(&claim) else { return };
        let Some(holder) = open.from else { return };
        let fence = written(&NodeRecord::Fence(claim, self.name_of(holder)));
        for node in (0..31).filter(|&node| self.up & bit(node) != 0) {
            self.behind_filters.push((node, fence.clone()));
        }
        self.fence(FencePurpose::Session { claimant: None, claim, holder: Some(holder) });
    }

    pub(super) fn owed(&mut self, node: u8, claim: u64, bytes: &[u8], now: Instant) {
        let open = self.open.get(&claim).filter(|open| open.from == Some(node));
        let Some(shard) = open.map(|open| open.shard) else { return };
        let owed = ToShard::Owed(claim, bytes.to_vec());
        self.mail.push(ClaimMail::One(Whom::Shard(shard), owed));
        self.await_session(claim, now);
    }

    pub(super) fn part(&mut self, node: u8, claim: u64, last: bool, bytes: &[u8], now: Instant) {
        match self.open.get(&claim).filter(|open| open.from == Some(node)) {
            Some(open) => {
                let part = ToShard::Continue(claim, bytes.to_vec(), last);
                self.mail.push(ClaimMail::One(Whom::Shard(open.shard), part));
                self.await_session(claim, now);
            }
            None if last => self.say(node, &NodeRecord::Settled(claim)),
            None => {}
        }
    }

    pub(super) fn settled_here(&mut self, claim: u64, now: Instant) {
        let Some(open) = self.open.get(&claim) else { return };
        if let Some(node) = open.from {
            self.counts.came += 1;
            self.say(node, &NodeRecord::Settled(claim));
        }
        self.finish(claim, ClaimOutcome::Ours, now);
    }
}
