//! This node's own journals: whether another node has adopted them, is reading them, or has left
//! that unfinished.

use super::{Adoption, AdoptionLock, AdoptionStage, DurableMember, LostNode};
use crate::cluster::keeping::KeepAsker;
use crate::mutant::Mutant;
use crate::time::Instant;

impl Adoption {
    /// All shards have ended what was adopted elsewhere. What they store from now on can be adopted
    /// again.
    pub fn goes_on_behind_fences(&mut self, now: Instant) {
        if std::mem::take(&mut self.fenced) {
            self.own.incarnation += 1;
            (self.stage, self.asked, self.next) = (AdoptionStage::Joining, None, now);
            self.step = self.step.wrapping_add(1);
        }
    }

    /// A journal of this node was found fenced: another node reads what is before the fence.
    pub fn is_fenced(&mut self, now: Instant) {
        self.fenced = true;
        self.may_trim = Mutant::ClusterDurableTrimmed.is_on();
        self.looks_for_fences = true;
        self.own_due = now;
        if self.is_busy() {
            // This node counts as lost itself: the next adopter begins again.
            (self.stage, self.asked) = (AdoptionStage::Idle, None);
            self.step = self.step.wrapping_add(1);
        }
        self.look(now);
    }

    /// A journal of this node is to be trimmed, as soon as that may be.
    pub fn trim(&mut self, shard: u8, before: u64) {
        if self.may_trim {
            self.ask_for(KeepAsker::Nobody, self.journal(&self.own.name, shard), before);
        } else {
            self.held.insert(shard, before);
        }
    }

    /// Whether another node reads this node's journals, or has left that unfinished.
    pub(super) fn judge_own(
        &mut self,
        last: Option<(u64, Vec<u8>)>,
        present: &[&str],
        now: Instant,
    ) {
        let (sequence, bytes) = last.unwrap_or_default();
        let lock = AdoptionLock::read(&bytes);
        let by_other = lock.as_ref().is_some_and(|lock| lock.by != self.own.name);
        if std::mem::replace(&mut self.lock_seen, sequence) != sequence && by_other {
            // Journals in which nothing was stored since have not noticed.
            self.looks_for_fences = true;
        }
        match lock.filter(|lock| !lock.done) {
            None => {
                self.may_trim = true;
                for (shard, before) in std::mem::take(&mut self.held) {
                    self.trim(shard, before);
                }
            }
            Some(lock) if present.contains(&&*lock.by) => {
                self.may_trim = Mutant::ClusterDurableTrimmed.is_on();
            }
            Some(_) if self.resting => {}
            Some(lock) => {
                let member = DurableMember { incarnation: lock.incarnation, ..self.own.clone() };
                self.begin(LostNode { member, own: true }, now);
            }
        }
    }
}
