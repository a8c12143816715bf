//! Claims that wait until the sessions of a lost node are adopted, with `durable`. A client of a
//! node that dies usually connects elsewhere at once, before anybody has noticed. If it was let in
//! then, it would begin without its session.

use super::{NodeClaims, NodeSet, OpenClaim, PATIENCE, bit, written};
use crate::cluster::record::NodeRecord;
use crate::mesh::moves::SessionDemand;
use crate::mutant::Mutant;
use crate::time::Instant;
use std::collections::VecDeque;

/// Milliseconds that a claim waits for nodes that do not answer or are down.
pub(super) const ADOPTION: u64 = 8000;

/// Which adoptions are awaited, and by which claims.
#[derive(Default)]
pub(super) struct AwaitedAdoptions {
    pub(super) durable: bool,
    /// Nodes that are down and whose sessions no node has adopted.
    lost: NodeSet,
    due: VecDeque<(Instant, u64)>,
}

impl AwaitedAdoptions {
    /// Whether a claim that wants that waits for adoptions.
    pub(super) fn awaits(&self, wanted: SessionDemand) -> bool {
        let early = Mutant::ClusterAdoptionUnawaited.is_on();
        self.durable && matches!(wanted, SessionDemand::Left | SessionDemand::Moved) && !early
    }

    /// The nodes whose adoption a new claim waits for.
    pub(super) fn lost(&self, wanted: SessionDemand) -> NodeSet {
        if self.awaits(wanted) { self.lost } else { 0 }
    }

    /// Nodes are there, and others are gone.
    pub(super) fn see(&mut self, up: NodeSet, gone: NodeSet) {
        if self.durable {
            self.lost = (self.lost | gone) & !up;
        }
    }

    /// All nodes whose adoption is awaited.
    pub(super) fn all(&self) -> NodeSet {
        self.lost
    }

    /// The adoption of these nodes is awaited, too.
    pub(super) fn await_too(&mut self, lost: NodeSet) {
        self.lost |= lost;
    }

    /// Nothing is awaited any more of those nodes.
    pub(super) fn over(&mut self, nodes: NodeSet) {
        self.lost &= !nodes;
    }

    /// Notes when a claim waits no longer.
    pub(super) fn begin(&mut self, claim: u64, wanted: SessionDemand, now: Instant) {
        if self.awaits(wanted) {
            self.due.push_back((now.plus_millis(ADOPTION), claim));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.front().map(|entry| entry.0)
    }
}

impl NodeClaims {
    /// With `durable`, clients that want their sessions wait for the adoption of lost nodes.
    pub fn awaits_adoption(&mut self, durable: bool) {
        self.adoptions.durable = durable;
    }

    /// Notes which node (`None` for this one) has claimed a ClientId.
    pub(super) fn note_claimed(&mut self, name: &str, by: Option<u8>, wanted: SessionDemand) {
        if self.adoptions.durable {
            let by = by.map_or_else(|| self.name.clone(), |node| self.name_of(node).into());
            self.claimed.push((name.into(), by, wanted == SessionDemand::Ended));
        }
    }

    /// The node `by` (`None` for this one) has adopted the sessions of the node `lost`, so it is
    /// asked for the ClientIds that are claimed.
    pub fn adopted(&mut self, lost: &str, by: Option<&str>, now: Instant) {
        let Some(lost) = self.number_of(lost).map(bit) else { return };
        let by = by.and_then(|by| self.number_of(by)).filter(|&by| self.up & bit(by) != 0);
        self.adoptions.over(lost);
        let claims: Vec<u64> = self.open.keys().copied().collect();
        for claim in claims {
            let Some(open) = self.open.get_mut(&claim).filter(|open| open.adopting & lost != 0)
            else {
                continue;
            };
            open.adopting &= !lost;
            if let Some(by) = by {
                open.awaited |= bit(by);
                let record = NodeRecord::Claim(claim, open.stamp, open.wanted, &open.name);
                self.records.push((by, record.lane(), written(&record)));
                self.answers_due.push_back((now.plus_millis(PATIENCE), claim));
            }
            self.advance(claim, now);
        }
    }

    /// Nobody is adopted for now: no claim waits for that.
    pub fn give_up_adoptions(&mut self, now: Instant) {
        self.adoptions.lost = 0;
        let waits = |open: &OpenClaim| open.adopting != 0;
        let waiting = self.open.iter().filter(|(_, open)| waits(open));
        let waiting: Vec<u64> = waiting.map(|(&claim, _)| claim).collect();
        for claim in waiting {
            if let Some(open) = self.open.get_mut(&claim) {
                open.adopting = 0;
            }
            self.advance(claim, now);
        }
    }

    /// Lets claims go on that have waited for long enough.
    pub(super) fn run_adoptions(&mut self, now: Instant) {
        while let Some(&(at, claim)) = self.adoptions.due.front()
            && (at <= now || !self.open.contains_key(&claim))
        {
            self.adoptions.due.pop_front();
            let Some(open) = self.open.get_mut(&claim).filter(|open| open.adopting != 0) else {
                continue;
            };
            open.adopting = 0;
            let (name, stamp) = (open.name.clone(), open.stamp);
            self.note_unanswered(name, stamp);
            self.advance(claim, now);
        }
    }
}
