//! A lost node's journals are read, one after the other, and their sessions are handed to the
//! shards.

use super::orphans::OrphanQueue;
use super::{Adoption, AdoptionRun, AdoptionStage, DurableMember, HANDED, WINDOW};
use crate::cluster::keeping::KeepRequest;
use crate::mutant::Mutant;
use crate::storage::journal::{JournalEntry, JournalReader, Unadoptable};
use crate::time::Instant;

impl Adoption {
    pub(super) fn read(&mut self, run: AdoptionRun, reader: Box<JournalReader>, now: Instant) {
        let place = self.journal(&run.lost.member.name, run.shard);
        let request = KeepRequest::Read(run.from);
        self.ask(place, request, AdoptionStage::Reading(run, reader), now);
    }

    pub(super) fn take_entries(
        &mut self,
        mut run: AdoptionRun,
        mut reader: Box<JournalReader>,
        entries: Vec<(u64, Vec<u8>)>,
        now: Instant,
    ) {
        let end = run.ends.get(usize::from(run.shard)).copied().unwrap_or(0);
        if entries.is_empty() && run.from <= end {
            // The server that was asked does not have them yet.
            self.stage = AdoptionStage::Reading(run, reader);
            return self.fails(now);
        }
        for (sequence, bytes) in entries {
            let fence = matches!(JournalEntry::read(&bytes), Some(JournalEntry::Fence(_)));
            if fence && !reader.is_empty() {
                run.fences.push((run.shard, sequence));
                return self.place(run, *reader, now);
            }
            if let Err(why) = reader.take(&bytes) {
                return self.give_up(&run, why);
            }
            run.from = sequence + 1;
        }
        if run.from <= end {
            return self.read(run, reader, now);
        }
        match Mutant::ClusterAdoptionUnfenced.is_on() {
            true => self.place(run, *reader, now),
            // No fence is behind anything: what there is, is the node's own.
            false => self.next_shard(run, now),
        }
    }

    fn give_up(&mut self, run: &AdoptionRun, why: Unadoptable) {
        self.counts.damaged += 1;
        let DurableMember { name, incarnation, .. } = &run.lost.member;
        tracing::error!(
            node = &**name,
            shard = run.shard,
            ?why,
            "cluster: the journal of a lost node is damaged, and its sessions are not adopted"
        );
        self.done.insert(name.clone(), *incarnation);
        self.over.push((name.clone(), None));
    }

    fn place(&mut self, run: AdoptionRun, reader: JournalReader, now: Instant) {
        match reader.finish() {
            Ok(image) => {
                let orphans = Box::new(OrphanQueue::new(image));
                (self.stage, self.next) = (AdoptionStage::Placing(run, orphans), now);
            }
            Err(why) => self.give_up(&run, why),
        }
    }

    /// Hands some sessions to the shards, as far as these have stored the earlier ones.
    pub(super) fn hand_out(&mut self, wall: u64, now: Instant) {
        let AdoptionStage::Placing(run, mut orphans) =
            std::mem::replace(&mut self.stage, AdoptionStage::Idle)
        else {
            return;
        };
        for _ in 0..HANDED {
            if self.outstanding >= WINDOW {
                break;
            }
            let Some(orphan) = orphans.next(wall) else { break };
            let theirs = run.adopting.iter().chain([&run.lost.member.name]);
            let anew = self.recent.has(&orphan.client_id, theirs);
            if anew && !Mutant::ClusterAdoptedAnyway.is_on() {
                self.counts.superseded += 1;
                continue;
            }
            self.outstanding += orphan.bytes() as u64;
            self.orphans.push(orphan);
        }
        self.next = now.plus_millis(1);
        if orphans.is_empty() && self.outstanding == 0 && self.orphans.is_empty() {
            self.next_shard(run, now);
        } else {
            self.stage = AdoptionStage::Placing(run, orphans);
        }
    }
}
