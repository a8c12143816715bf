//! Adoption: when a node is lost whose sessions are stored in journals outside it
//! ([`crate::storage::journal`]), another node takes them over.
//!
//! # What the engine keeps besides the journals
//! - The key `members`: each node's name, incarnation and number of shards. A node adds itself when
//!   it starts.
//! - The key `adopt.NAME`: the adoption of that node's sessions ([`AdoptionLock`]).
//!
//! # The way of an adoption
//! 1. A member has been missing for a while. The nodes that are there are ordered by their names:
//!    the first one begins, each further one [`TURN`] milliseconds after the one before.
//! 2. The adopter takes the lock, by a store that succeeds only behind what it has read.
//! 3. It puts a fence into each journal of the lost node. From then on the lost node, which may
//!    only be cut off, cannot store anything in its journals, so it acknowledges nothing. When it
//!    reads the fence it ends its sessions (`shard/journal.rs`).
//! 4. It reads one journal after the other, hands the sessions to their home shards, and waits
//!    until these have stored them, in this node's own journals too.
//! 5. It notes in the lock that the adoption is done, and removes from the journals what it has
//!    read.
//!
//! If the adopter dies, another node takes the lock over and begins again at step 3: sessions that
//! it has already, from the adopter's own journals, stay as they are. If the lost node is back by
//! then, it does this itself with what is before the fences.
//!
//! # Which session is the newer one
//! A client that began anew at another node since its node was lost has no use for its old session
//! ([`RecentClaims`]), and a session that is here already is newer as well: both are left out. What
//! is at a node of those that it had adopted itself counts as theirs (`survey.rs`). A client that
//! wants its session waits until the adoption is over ([`super::claims`]).

mod missing;
mod moving;
mod orphans;
mod own;
mod reading;
mod recent;
mod survey;
mod texts;

pub use recent::RecentClaims;
pub use texts::{AdoptionLock, DurableMember};

use super::keeping::{KeepAsker, KeepReply, KeepRequest, KeptAt};
use crate::mesh::adopting::Orphan;
use crate::mutant::Mutant;
use crate::storage::journal::{JournalEntry, JournalFence, JournalReader};
use crate::time::Instant;
use orphans::OrphanQueue;
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds after which the next node in the order begins an adoption.
const TURN: u64 = 3000;
/// Milliseconds between two looks at the members.
const LOOK: u64 = 1000;
/// Milliseconds after a request has failed before the next one.
const RETRY: u64 = 500;
/// Milliseconds after which a request without an answer counts as failed.
const PATIENCE: u64 = 15_000;
/// Milliseconds after the start during which a member that was not heard yet is not missing.
const LATE: u64 = 20_000;
/// Bytes of sessions that are handed to shards and not stored yet.
const WINDOW: u64 = 16 << 20;
/// Sessions that are handed out at a time.
const HANDED: usize = 256;

/// Counts about adoptions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AdoptionCounts {
    /// Adoptions that were completed.
    pub done: u64,
    /// Journals that cannot be adopted because they are damaged.
    pub damaged: u64,
    /// Sessions that were left out because their clients had begun anew.
    pub superseded: u64,
    /// Requests that have failed.
    pub failures: u64,
}

/// What an adoption is doing.
enum AdoptionStage {
    /// The members are read, to add this node.
    Joining,
    /// This node is being added.
    Adding,
    /// Nothing until the next look.
    Idle,
    /// The members are read.
    Looking,
    /// The lock of this node is read.
    Own,
    /// The lock of a lost node is read.
    Locking(LostNode),
    /// The lock is taken.
    Taking(LostNode),
    /// The end of a journal is read, before its fence is written.
    Ending(AdoptionRun),
    /// The fence of a journal is written.
    Fencing(AdoptionRun),
    /// The lock of another lost node is read.
    Surveying(AdoptionRun),
    /// A journal is read.
    Reading(AdoptionRun, Box<JournalReader>),
    /// Sessions of a journal are handed out.
    Placing(AdoptionRun, Box<OrphanQueue>),
    /// It is noted that the adoption is done.
    Finishing(AdoptionRun),
}

/// A node whose sessions are to be adopted.
#[derive(Clone)]
struct LostNode {
    member: DurableMember,
    /// It is this node itself, in an earlier run.
    own: bool,
}

/// An adoption under way.
struct AdoptionRun {
    lost: LostNode,
    /// The sequence number of the lock.
    lock: u64,
    /// The shard whose journal is concerned, and where to go on in it.
    shard: u8,
    from: u64,
    /// The sequence number of the last entry of each journal when that was looked at: of the fence,
    /// unless the journals are this node's.
    ends: Vec<u64>,
    /// What can be removed when all is done: shards and the sequence numbers of their fences.
    fences: Vec<(u8, u64)>,
    /// Other lost nodes whose locks are still to be read.
    others: Vec<Box<str>>,
    /// Nodes that the lost one had begun to adopt.
    adopting: Vec<Box<str>>,
}

/// The adoptions of a node.
pub struct Adoption {
    own: DurableMember,
    stage: AdoptionStage,
    /// Answers to earlier steps are not wanted any more.
    step: u32,
    /// Since when an answer is awaited.
    asked: Option<Instant>,
    /// When the stage goes on by itself.
    next: Instant,
    /// Until then, members that were not heard yet are not missing.
    late: Instant,
    members: Vec<DurableMember>,
    /// Nodes that have been there.
    heard: BTreeSet<Box<str>>,
    /// Since when members are missing.
    missing: BTreeMap<Box<str>, Instant>,
    /// Up to which incarnation nothing is left to adopt, by node.
    done: BTreeMap<Box<str>, u64>,
    /// Whether this node's journals may be trimmed: no other node is reading them.
    may_trim: bool,
    /// Whether the shards are to look for fences in their journals.
    pub looks_for_fences: bool,
    held: BTreeMap<u8, u64>,
    own_due: Instant,
    /// The sequence number of this node's lock when it was last read.
    lock_seen: u64,
    /// Whether a fence was found in a journal of this node.
    fenced: bool,
    /// Bytes of sessions that shards are storing.
    outstanding: u64,
    /// This process is about to be replaced: nothing new begins.
    resting: bool,
    /// The claims of late.
    pub recent: RecentClaims,
    /// Requests to the engine.
    pub requests: Vec<(KeepAsker, KeptAt, KeepRequest)>,
    /// Sessions for the shards.
    pub orphans: Vec<Orphan>,
    /// Nodes whose adoption is over, each with the node that has adopted them; `None` for this one,
    /// which tells the others.
    pub over: Vec<(Box<str>, Option<Box<str>>)>,
    /// Counts.
    pub counts: AdoptionCounts,
}

impl Adoption {
    /// The adoptions of the node `own`, which begins at `now`.
    pub fn new(own: DurableMember, now: Instant) -> Adoption {
        Adoption {
            own,
            stage: AdoptionStage::Joining,
            step: 0,
            asked: None,
            next: now,
            late: now.plus_millis(LATE),
            members: Vec::new(),
            heard: BTreeSet::new(),
            missing: BTreeMap::new(),
            done: BTreeMap::new(),
            may_trim: false,
            looks_for_fences: false,
            held: BTreeMap::new(),
            own_due: now,
            lock_seen: 0,
            fenced: false,
            outstanding: 0,
            resting: false,
            recent: RecentClaims::default(),
            requests: Vec::new(),
            orphans: Vec::new(),
            over: Vec::new(),
            counts: AdoptionCounts::default(),
        }
    }

    /// Whether an adoption is under way.
    pub fn is_busy(&self) -> bool {
        use AdoptionStage::{
            Ending, Fencing, Finishing, Locking, Placing, Reading, Surveying, Taking,
        };
        matches!(
            self.stage,
            Locking(_)
                | Taking(_)
                | Ending(_)
                | Fencing(_)
                | Surveying(_)
                | Reading(..)
                | Placing(..)
                | Finishing(_)
        )
    }

    /// Whether this node is among the members.
    pub fn has_joined(&self) -> bool {
        !matches!(self.stage, AdoptionStage::Joining | AdoptionStage::Adding)
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        let reading = match &self.stage {
            AdoptionStage::Reading(_, reader) => reader.bytes(),
            AdoptionStage::Placing(_, orphans) => orphans.bytes(),
            _ => 0,
        };
        reading + self.recent.bytes()
    }

    /// When there is something to do even if nothing arrives.
    pub fn deadline(&self) -> Instant {
        match self.asked {
            Some(since) => since.plus_millis(PATIENCE),
            None if self.resting && !self.is_busy() => Instant::END,
            None => self.next,
        }
    }

    /// Has the members looked at soon: a node is missing, or is back.
    pub fn look(&mut self, now: Instant) {
        if matches!(self.stage, AdoptionStage::Idle) {
            self.next = now;
        }
    }

    fn ask_for(&mut self, asker: KeepAsker, place: KeptAt, before: u64) {
        self.requests.push((asker, place, KeepRequest::Trim(before)));
    }

    fn journal(&self, node: &str, shard: u8) -> KeptAt {
        KeptAt::Journal(node.into(), shard)
    }

    fn ask(&mut self, place: KeptAt, request: KeepRequest, stage: AdoptionStage, now: Instant) {
        self.step = self.step.wrapping_add(1);
        self.asked = Some(now);
        self.stage = stage;
        self.requests.push((KeepAsker::Adoption(self.step), place, request));
    }

    /// Some bytes of adopted sessions are stored.
    pub fn stored(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// Does what is due. `present` are the names of the other nodes that are there, `reaches` tells
    /// whether the engine carries frames, and `wall` is the time in milliseconds since 1970 at the
    /// zero of the shards' clock.
    pub fn run(&mut self, present: &[&str], reaches: bool, wall: u64, now: Instant) {
        self.recent.run(now);
        for name in present {
            if !self.heard.contains(*name) {
                self.heard.insert((*name).into());
            }
        }
        if let Some(since) = self.asked {
            if now.millis_since(since) >= PATIENCE {
                self.fails(now);
            }
            return;
        }
        if let AdoptionStage::Placing(..) = self.stage {
            return self.hand_out(wall, now);
        }
        if now < self.next || self.resting && !self.is_busy() {
            return;
        }
        match std::mem::replace(&mut self.stage, AdoptionStage::Idle) {
            AdoptionStage::Joining | AdoptionStage::Adding => {
                self.ask(members(), KeepRequest::Last, AdoptionStage::Joining, now);
            }
            AdoptionStage::Idle | AdoptionStage::Looking | AdoptionStage::Own if !reaches => {
                self.next = now.plus_millis(LOOK);
            }
            AdoptionStage::Idle | AdoptionStage::Own if now >= self.own_due => {
                self.own_due = now.plus_millis(2 * LOOK);
                self.ask(lock_of(&self.own.name), KeepRequest::Last, AdoptionStage::Own, now);
            }
            AdoptionStage::Idle | AdoptionStage::Looking | AdoptionStage::Own => {
                self.ask(members(), KeepRequest::Last, AdoptionStage::Looking, now);
            }
            AdoptionStage::Locking(lost) | AdoptionStage::Taking(lost) => self.begin(lost, now),
            // A fence that was stored without an answer is found as the last entry.
            AdoptionStage::Ending(run) | AdoptionStage::Fencing(run) => self.fence(run, now),
            AdoptionStage::Surveying(run) => self.survey(run, now),
            AdoptionStage::Reading(run, reader) => self.read(run, reader, now),
            AdoptionStage::Finishing(run) => self.begin(run.lost, now),
            stage @ AdoptionStage::Placing(..) => self.stage = stage,
        }
    }

    fn fails(&mut self, now: Instant) {
        self.counts.failures += 1;
        self.asked = None;
        self.step = self.step.wrapping_add(1);
        self.next = now.plus_millis(RETRY);
    }

    /// Takes in an answer of the engine.
    pub fn heard(&mut self, step: u32, reply: KeepReply, present: &[&str], now: Instant) {
        if step != self.step || self.asked.is_none() {
            return;
        }
        if reply == KeepReply::Failed {
            return self.fails(now);
        }
        self.asked = None;
        self.next = now;
        match (std::mem::replace(&mut self.stage, AdoptionStage::Idle), reply) {
            (AdoptionStage::Joining, KeepReply::Last(last)) => self.join(last, now),
            (AdoptionStage::Adding, KeepReply::Stored(_)) => {
                tracing::info!("cluster: this node's sessions are stored outside it, too");
            }
            (AdoptionStage::Adding, _) => self.stage = AdoptionStage::Joining,
            (AdoptionStage::Looking, KeepReply::Last(last)) => {
                let (_, bytes) = last.unwrap_or_default();
                self.members = DurableMember::read_all(&bytes);
                self.judge(present, now);
            }
            (AdoptionStage::Own, KeepReply::Last(last)) => self.judge_own(last, present, now),
            (AdoptionStage::Locking(lost), KeepReply::Last(last)) => {
                self.lock(lost, last, present, now)
            }
            (AdoptionStage::Taking(lost), KeepReply::Stored(lock)) => self.taken(lost, lock, now),
            (AdoptionStage::Taking(lost), _) => self.begin(lost, now),
            (AdoptionStage::Ending(run), KeepReply::Last(last)) => self.put_fence(run, last, now),
            (AdoptionStage::Fencing(run), KeepReply::Stored(end)) => self.has_end(run, end, now),
            (AdoptionStage::Surveying(run), KeepReply::Last(last)) => self.surveyed(run, last, now),
            (AdoptionStage::Reading(run, reader), KeepReply::Entries(entries)) => {
                self.take_entries(run, reader, entries, now);
            }
            (AdoptionStage::Finishing(run), KeepReply::Stored(_)) => self.finished(run),
            (AdoptionStage::Finishing(run), _) => {
                let node = &*run.lost.member.name;
                tracing::warn!(node, "cluster: another node has taken over the adoption");
            }
            (stage, _) => {
                self.stage = stage;
                self.fails(now);
            }
        }
    }

    fn join(&mut self, last: Option<(u64, Vec<u8>)>, now: Instant) {
        let (sequence, bytes) = last.unwrap_or_default();
        let mut members = DurableMember::read_all(&bytes);
        members.retain(|member| member.name != self.own.name);
        members.push(self.own.clone());
        let request = KeepRequest::Store(Some(sequence), DurableMember::write_all(&members));
        self.members = members;
        self.ask(self::members(), request, AdoptionStage::Adding, now);
    }

    fn begin(&mut self, lost: LostNode, now: Instant) {
        let place = lock_of(&lost.member.name);
        self.ask(place, KeepRequest::Last, AdoptionStage::Locking(lost), now);
    }

    /// Takes the lock, unless another node has it.
    fn lock(
        &mut self,
        lost: LostNode,
        last: Option<(u64, Vec<u8>)>,
        present: &[&str],
        now: Instant,
    ) {
        let DurableMember { name, incarnation, .. } = &lost.member;
        if present.contains(&&**name) {
            self.next = now.plus_millis(LOOK);
            return; // it is back
        }
        let (sequence, bytes) = last.unwrap_or_default();
        let lock = AdoptionLock::read(&bytes).filter(|lock| lock.incarnation >= *incarnation);
        match lock {
            Some(lock) if lock.done => {
                self.done.insert(name.clone(), *incarnation);
                self.recent.moved(name, &lock.by);
                let by = Some(lock.by).filter(|by| *by != self.own.name);
                self.over.push((name.clone(), by));
                return;
            }
            Some(lock)
                if present.contains(&&*lock.by) && !Mutant::ClusterAdoptionUnlocked.is_on() =>
            {
                self.next = now.plus_millis(LOOK);
                return;
            }
            _ => {}
        }
        let lock = AdoptionLock {
            incarnation: *incarnation,
            by: self.own.name.clone(),
            by_incarnation: self.own.incarnation,
            done: false,
        };
        let expected = Some(sequence).filter(|_| !Mutant::ClusterAdoptionUnlocked.is_on());
        let request = KeepRequest::Store(expected, lock.write());
        self.ask(lock_of(name), request, AdoptionStage::Taking(lost), now);
    }

    fn taken(&mut self, lost: LostNode, lock: u64, now: Instant) {
        let node = &*lost.member.name;
        tracing::warn!(node, "cluster: the sessions of a lost node are being adopted");
        let run = AdoptionRun {
            lost,
            lock,
            shard: 0,
            from: 1,
            ends: Vec::new(),
            fences: Vec::new(),
            others: Vec::new(),
            adopting: Vec::new(),
        };
        self.fence(run, now);
    }

    fn fence(&mut self, run: AdoptionRun, now: Instant) {
        let place = self.journal(&run.lost.member.name, run.shard);
        self.ask(place, KeepRequest::Last, AdoptionStage::Ending(run), now);
    }

    fn put_fence(&mut self, run: AdoptionRun, last: Option<(u64, Vec<u8>)>, now: Instant) {
        let last = last.unwrap_or_default();
        let fenced = matches!(JournalEntry::read(&last.1), Some(JournalEntry::Fence(_)));
        if fenced || run.lost.own || Mutant::ClusterAdoptionUnfenced.is_on() {
            return self.has_end(run, last.0, now);
        }
        let fence = JournalFence { incarnation: self.own.incarnation, by: &self.own.name };
        let entry = JournalEntry::Fence(fence).write();
        let place = self.journal(&run.lost.member.name, run.shard);
        self.ask(place, KeepRequest::Store(None, entry), AdoptionStage::Fencing(run), now);
    }

    /// The end of a journal is known.
    fn has_end(&mut self, mut run: AdoptionRun, end: u64, now: Instant) {
        run.ends.push(end);
        let next = AdoptionRun { shard: run.shard + 1, ..run };
        if next.shard < next.lost.member.shards {
            return self.fence(next, now);
        }
        self.begin_survey(AdoptionRun { shard: 0, ..next }, now);
    }

    fn next_shard(&mut self, run: AdoptionRun, now: Instant) {
        let next = AdoptionRun { shard: run.shard + 1, from: 1, ..run };
        if next.shard < next.lost.member.shards {
            return self.read(next, Box::default(), now);
        }
        let lock = AdoptionLock {
            incarnation: next.lost.member.incarnation,
            by: self.own.name.clone(),
            by_incarnation: self.own.incarnation,
            done: true,
        };
        let expected = Some(next.lock).filter(|_| !Mutant::ClusterAdoptionUnlocked.is_on());
        let request = KeepRequest::Store(expected, lock.write());
        let place = lock_of(&next.lost.member.name);
        self.ask(place, request, AdoptionStage::Finishing(next), now);
    }

    fn finished(&mut self, run: AdoptionRun) {
        let AdoptionRun {
            lost: LostNode { member: DurableMember { name, incarnation, .. }, own },
            fences,
            ..
        } = run;
        tracing::warn!(node = &*name, "cluster: the sessions of a lost node are adopted");
        self.counts.done += 1;
        for (shard, fence) in fences {
            let place = self.journal(&name, shard);
            self.ask_for(KeepAsker::Nobody, place, fence);
        }
        self.done.insert(name.clone(), incarnation);
        self.recent.moved(&name, &self.own.name);
        if !own {
            self.over.push((name, None));
        }
    }
}

fn members() -> KeptAt {
    KeptAt::Key("members".into())
}

fn lock_of(node: &str) -> KeptAt {
    KeptAt::Key(format!("adopt.{node}").into())
}

#[cfg(test)]
mod tests;
