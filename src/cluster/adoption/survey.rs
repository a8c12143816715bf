//! Where the sessions of other lost nodes are by now.
//!
//! A client that began anew at a node has no use for what another one has stored of it. But if the
//! first node was lost and adopted by the second one, what the second one has stored of the client
//! is that new session. So before a node's sessions are handed out, it is found out which others it
//! had adopted, or was adopting: behind the fences that does not change any more.

use super::{Adoption, AdoptionLock, AdoptionRun, AdoptionStage, lock_of};
use crate::cluster::keeping::KeepRequest;
use crate::time::Instant;

impl Adoption {
    /// Looks at the locks of the other nodes that are lost, then reads the journals.
    pub(super) fn begin_survey(&mut self, mut run: AdoptionRun, now: Instant) {
        let others = self.missing.keys().filter(|name| **name != run.lost.member.name);
        run.others = others.cloned().collect();
        self.survey(run, now);
    }

    pub(super) fn survey(&mut self, run: AdoptionRun, now: Instant) {
        match run.others.last() {
            Some(name) => {
                let place = lock_of(name);
                self.ask(place, KeepRequest::Last, AdoptionStage::Surveying(run), now);
            }
            None => self.read(run, Box::default(), now),
        }
    }

    /// Takes in the lock of another lost node.
    pub(super) fn surveyed(
        &mut self,
        mut run: AdoptionRun,
        last: Option<(u64, Vec<u8>)>,
        now: Instant,
    ) {
        if let Some(name) = run.others.pop() {
            let (_, bytes) = last.unwrap_or_default();
            let member = self.members.iter().find(|member| member.name == name);
            let of_run = |lock: &AdoptionLock| {
                member.is_none_or(|member| lock.incarnation >= member.incarnation)
            };
            match AdoptionLock::read(&bytes).filter(of_run) {
                Some(lock) if lock.done => self.recent.moved(&name, &lock.by),
                Some(lock) if lock.by == run.lost.member.name => run.adopting.push(name),
                _ => {}
            }
        }
        self.survey(run, now);
    }
}
