//! What a node knows of adoptions goes to the process that takes its place in an upgrade. No
//! adoption is under way then: it would have to go on with requests that are on their way, and with
//! sessions that the shards are storing.

use super::{Adoption, AdoptionStage};
use crate::mutant::Mutant;
use crate::time::Instant;
use crate::upgrade::cluster::MovedAdoption;

impl Adoption {
    /// Begins nothing new from now on, or goes on.
    pub fn rest(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// What is still under way.
    pub fn under_way(&self) -> Option<&'static str> {
        let waits = self.asked.is_some() || !self.requests.is_empty() || !self.over.is_empty();
        let reasons = [
            (self.is_busy(), "sessions of a lost node that are being adopted"),
            (self.fenced || self.looks_for_fences, "sessions that another node has adopted"),
            (waits, "what the cluster's stream was asked"),
        ];
        reasons.iter().find_map(|&(holds, what)| holds.then_some(what))
    }

    /// Everything that the other process needs. `lost`: the nodes whose adoption is awaited.
    pub fn pack(&self, lost: u32) -> MovedAdoption {
        let missing = self.missing.iter().map(|(name, since)| (name.clone(), *since));
        let done = self.done.iter().map(|(name, incarnation)| (name.clone(), *incarnation));
        let recent = match Mutant::ClusterUpgradeRecentLost.is_on() {
            true => Vec::new(),
            false => self.recent.pack(),
        };
        MovedAdoption {
            incarnation: self.own.incarnation,
            heard: self.heard.iter().cloned().collect(),
            late: self.late,
            missing: missing.collect(),
            done: done.collect(),
            held: self.held.iter().map(|(&shard, &before)| (shard, before)).collect(),
            lock_seen: self.lock_seen,
            lost,
            recent,
        }
    }

    /// Takes the place of a node that was packed. It becomes a member anew, as what it can do may
    /// be more.
    pub fn unpack(&mut self, moved: MovedAdoption, now: Instant) {
        self.own.incarnation = moved.incarnation;
        self.heard = moved.heard.into_iter().collect();
        self.late = moved.late;
        self.missing = moved.missing.into_iter().collect();
        self.done = moved.done.into_iter().collect();
        self.held = moved.held.into_iter().collect();
        self.lock_seen = moved.lock_seen;
        self.recent.unpack(moved.recent);
        (self.stage, self.asked, self.next) = (AdoptionStage::Joining, None, now);
    }
}
