//! Which node has claimed a ClientId lately, and whether its client began anew there: what another
//! node has stored of it is void then, although that node may not have heard of the claim.

use crate::mutant::Mutant;
use crate::time::Instant;
use crate::upgrade::cluster::MovedRecent;
use std::collections::{BTreeMap, VecDeque};

/// Milliseconds that a claim is kept: longer than an adoption takes to begin and to end.
const KEPT: u64 = 120_000;
/// The most claims that are kept. Beyond, the oldest are forgotten and counted.
const MOST: usize = 1 << 17;

/// The last claim of a ClientId.
struct LastClaim {
    at: Instant,
    /// The claiming node.
    by: Box<str>,
    /// Whether the client began anew at that node.
    anew: bool,
}

/// The claims of late.
#[derive(Default)]
pub struct RecentClaims {
    all: BTreeMap<Box<str>, LastClaim>,
    order: VecDeque<(Instant, Box<str>)>,
    bytes: usize,
    /// Claims that were forgotten for lack of room.
    pub forgotten: u64,
}

impl RecentClaims {
    /// The node `by` has claimed a ClientId, whose client begins anew (`anew`) or wants its
    /// session.
    pub fn note(&mut self, name: &str, by: &str, anew: bool, now: Instant) {
        let known = self.all.get(name);
        let anew = anew || known.is_some_and(|known| known.anew && *known.by == *by);
        if known.is_none() {
            self.bytes += size(name);
        }
        self.all.insert(name.into(), LastClaim { at: now, by: by.into(), anew });
        self.order.push_back((now, name.into()));
        while self.order.len() > MOST {
            self.forgotten += 1;
            self.forget_first();
        }
    }

    /// The sessions of a lost node are at another one by now.
    pub fn moved(&mut self, lost: &str, by: &str) {
        if Mutant::ClusterAdopterForgotten.is_on() {
            return;
        }
        for claim in self.all.values_mut().filter(|claim| *claim.by == *lost) {
            claim.by = by.into();
        }
    }

    /// Whether the client has begun anew lately, at another node than `theirs`.
    pub fn has<'a>(&self, name: &str, mut theirs: impl Iterator<Item = &'a Box<str>>) -> bool {
        let known = self.all.get(name).filter(|known| known.anew);
        known.is_some_and(|known| theirs.all(|node| *known.by != **node))
    }

    /// All of them, for another process.
    pub fn pack(&self) -> Vec<MovedRecent> {
        let is_last = |(at, name): &&(Instant, Box<str>)| {
            self.all.get(name).is_some_and(|known| known.at == *at)
        };
        let mut packed: Vec<MovedRecent> = Vec::with_capacity(self.all.len());
        for (at, name) in self.order.iter().filter(is_last) {
            // A ClientId that was claimed twice in one millisecond is there twice.
            let Some(LastClaim { by, anew, .. }) = self.all.get(name) else { continue };
            packed.push(MovedRecent { name: name.clone(), by: by.clone(), at: *at, anew: *anew });
        }
        packed
    }

    /// Takes in what another process has packed, as if it had been noted here.
    pub fn unpack(&mut self, packed: Vec<MovedRecent>) {
        for MovedRecent { name, by, at, anew } in packed {
            self.note(&name, &by, anew, at);
        }
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets what is old.
    pub fn run(&mut self, now: Instant) {
        while self.order.front().is_some_and(|first| first.0.plus_millis(KEPT) <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((at, name)) = self.order.pop_front() else { return };
        if self.all.get(&name).is_some_and(|known| known.at == at) {
            self.bytes -= size(&name);
            self.all.remove(&name);
        }
    }
}

/// Bytes for a name in both collections.
fn size(name: &str) -> usize {
    2 * name.len() + 160
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(recent: &RecentClaims, name: &str, lost: &str) -> bool {
        recent.has(name, [&lost.into()].into_iter())
    }

    #[test]
    fn what_counts_is_the_last_claim_and_where_it_was_made() {
        let mut recent = RecentClaims::default();
        recent.note("a", "x", true, Instant(0));
        assert!(has(&recent, "a", "y") && !has(&recent, "a", "x") && !has(&recent, "b", "y"));
        recent.note("a", "x", false, Instant(1));
        assert!(has(&recent, "a", "y"), "it goes on with what it began there");
        recent.moved("x", "w");
        assert!(has(&recent, "a", "x") && !has(&recent, "a", "w"), "it is elsewhere by now");
        recent.note("a", "z", false, Instant(2));
        assert!(!has(&recent, "a", "y"), "it wants the session that it had before");
    }

    #[test]
    fn what_another_process_takes_in_is_what_was_known() {
        let mut recent = RecentClaims::default();
        recent.note("a", "x", true, Instant(0));
        recent.note("b", "x", false, Instant(1000));
        recent.note("a", "z", true, Instant(2000));
        recent.note("a", "z", false, Instant(2000));
        let mut after = RecentClaims::default();
        after.unpack(recent.pack());
        assert_eq!(after.bytes(), recent.bytes());
        assert!(has(&after, "a", "y") && !has(&after, "a", "z") && !has(&after, "b", "y"));
        after.run(Instant(KEPT + 1000));
        assert!(has(&after, "a", "y"), "it is kept from its last claim on");
        after.run(Instant(KEPT + 2000));
        assert!(!has(&after, "a", "y") && after.bytes() == 0);
    }

    #[test]
    fn a_claim_is_kept_for_a_while() {
        let mut recent = RecentClaims::default();
        recent.note("a", "x", true, Instant(0));
        recent.note("b", "x", true, Instant(1000));
        recent.note("a", "x", true, Instant(2000));
        recent.run(Instant(KEPT + 1000));
        assert!(has(&recent, "a", "y") && !has(&recent, "b", "y"));
        recent.run(Instant(KEPT + 2000));
        assert!(!has(&recent, "a", "y") && recent.bytes() == 0);
        for number in 0..MOST + 3 {
            recent.note(&number.to_string(), "x", true, Instant(9_000_000));
        }
        assert_eq!(recent.forgotten, 3);
        assert!(!has(&recent, "2", "y") && has(&recent, "3", "y"));
    }
}
