//! Which members are missing, and when it is this node's turn to adopt the sessions of one.

use super::{Adoption, DurableMember, LOOK, LostNode, TURN};
use crate::mutant::Mutant;
use crate::time::Instant;

impl Adoption {
    /// Begins the adoption of the first member that is missing for long enough.
    pub(super) fn judge(&mut self, present: &[&str], now: Instant) {
        self.next = now.plus_millis(LOOK);
        let (heard, own, late) = (&self.heard, &*self.own.name, self.late);
        let level = self.own.level;
        let is_missing = |member: &&DurableMember| {
            let name = &*member.name;
            let known = heard.contains(name) || now >= late;
            // What is of a later release may be read by another node.
            let can = member.level <= level;
            name != own && known && can && !present.contains(&name)
        };
        let missing: Vec<DurableMember> = self.members.iter().filter(is_missing).cloned().collect();
        self.missing.retain(|name, _| missing.iter().any(|member| member.name == *name));
        let before = present.iter().filter(|&&name| name < own).count() as u64;
        let turn = match Mutant::ClusterAdoptionUnlocked.is_on() {
            true => 0,
            false => before * TURN,
        };
        let mut due = None;
        for member in missing {
            let since = *self.missing.entry(member.name.clone()).or_insert(now);
            let is_done = self.done.get(&member.name).is_some_and(|&d| d >= member.incarnation);
            if !is_done && now >= since.plus_millis(turn) {
                due.get_or_insert(member);
            }
        }
        if let Some(member) = due.filter(|_| !self.resting) {
            self.begin(LostNode { member, own: false }, now);
        }
    }
}
