//! Journals and adoptions of a node with `durable`: what shards and the adoption ask of the engine,
//! and what comes back.

use super::{Engine, Node};
use crate::cluster::adoption::AdoptionCounts;
use crate::cluster::claims::{ClaimMail, Whom};
use crate::cluster::keeping::{KeepAsker, KeepReply, KeepRequest, KeptAt};
use crate::cluster::peer::{LocalBroker, PeerNode, Presence};
use crate::cluster::record::NodeRecord;
use crate::ids::ShardId;
use crate::mesh::adopting::{OfStream, ToStream};
use crate::mesh::moves::ToShard;
use crate::storage::journal::JournalEntry;
use crate::time::Instant;

/// Milliseconds after its goodbye during which a node is expected back.
const ENDED: u64 = 3000;
/// Milliseconds of failures after which the engine counts as keeping nothing.
const OUT: u64 = 2000;

/// How adoptions stand at a node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AdoptionStatus {
    /// Counts.
    pub counts: AdoptionCounts,
    /// Whether this node is among those whose sessions would be adopted.
    pub joined: bool,
    /// Whether an adoption is under way here.
    pub busy: bool,
    /// Whether requests of the shards have failed for some time.
    pub out: bool,
}

impl Node {
    /// How adoptions stand; `None` without `durable`.
    pub fn adoption(&self, now: Instant) -> Option<AdoptionStatus> {
        let adoption = self.adoption.as_ref()?;
        let (joined, busy) = (adoption.has_joined(), adoption.is_busy());
        let out = self.failing.is_some_and(|since| now.millis_since(since) >= OUT);
        Some(AdoptionStatus { counts: adoption.counts, joined, busy, out })
    }

    /// A journal of this node wants something of the engine.
    pub(super) fn journal_said(&mut self, shard: ShardId, said: ToStream, now: Instant) {
        let Some(adoption) = &mut self.adoption else { return };
        let request = match said {
            ToStream::Last => KeepRequest::Last,
            ToStream::Store(behind, entry) => KeepRequest::Store(Some(behind), entry),
            ToStream::Trim(before) => return adoption.trim(shard.0, before),
            ToStream::Ended => return self.has_looked(now),
        };
        let place = KeptAt::Journal(self.plan.name.as_str().into(), shard.0);
        self.requests.push((KeepAsker::Shard(shard), place, request));
    }

    /// Some bytes of adopted sessions are stored.
    pub(super) fn has_adopted(&mut self, bytes: u64) {
        if let Some(adoption) = &mut self.adoption {
            adoption.stored(bytes);
        }
    }

    /// Takes in an answer of the engine.
    pub fn kept(&mut self, asker: KeepAsker, reply: KeepReply, now: Instant) {
        let present = names(&self.peers, now);
        let Some(adoption) = &mut self.adoption else { return };
        match asker {
            KeepAsker::Nobody => {}
            KeepAsker::Adoption(step) => adoption.heard(step, reply, &present, now),
            KeepAsker::Shard(shard) => {
                self.failing = match reply {
                    KeepReply::Failed => self.failing.or(Some(now)),
                    _ => None,
                };
                let answer = match reply {
                    KeepReply::Last(last) => {
                        let entry = last.as_ref().and_then(|(_, entry)| JournalEntry::read(entry));
                        if matches!(entry, Some(JournalEntry::Fence(_))) {
                            adoption.is_fenced(now);
                        }
                        OfStream::Last(last)
                    }
                    KeepReply::Stored(sequence) => OfStream::Stored(sequence),
                    _ => OfStream::Failed,
                };
                let mail = ClaimMail::One(Whom::Shard(shard), ToShard::Journal(answer));
                self.claims.mail.push(mail);
            }
        }
    }

    /// Goes on with adoptions, and hands out what is asked of the engine.
    pub(super) fn run_adoption(
        &mut self,
        now: Instant,
        broker: &mut impl LocalBroker,
        engine: &mut impl Engine,
    ) {
        let Some(adoption) = &mut self.adoption else { return };
        let present = names(&self.peers, now);
        if self.failing.is_some_and(|since| now.millis_since(since) >= OUT) {
            self.claims.give_up_adoptions(now);
        }
        for (name, by, anew) in self.claims.claimed.drain(..) {
            adoption.recent.note(&name, &by, anew, now);
        }
        for (lost, by) in self.claims.adopted.drain(..) {
            adoption.recent.moved(&lost, &by);
        }
        let wall = self.claims.origin() / 1000;
        adoption.run(&present, self.cut_off.is_none(), wall, now);
        if std::mem::take(&mut adoption.looks_for_fences) {
            self.look_for_fences();
        }
        let Some(adoption) = &mut self.adoption else { return };
        for (asker, place, request) in self.requests.drain(..).chain(adoption.requests.drain(..)) {
            engine.ask(asker, place, request);
        }
        for orphan in adoption.orphans.drain(..) {
            let home = Whom::Home(orphan.client_id.clone());
            broker.tell(home, ToShard::Orphan(Box::new(orphan)));
        }
        for (node, by) in std::mem::take(&mut adoption.over) {
            if by.is_none() {
                for peer in self.peers.iter_mut().flatten() {
                    peer.push_record(&NodeRecord::Adopted(&node));
                }
            }
            self.claims.adopted(&node, by.as_deref(), now);
        }
    }

    /// Has all shards look for fences in their journals.
    fn look_for_fences(&mut self) {
        if self.looking == 0 {
            self.looking = self.plan.shards;
            for shard in (0..self.plan.shards).map(ShardId) {
                let look = ToShard::Journal(OfStream::Look);
                self.claims.mail.push(ClaimMail::One(Whom::Shard(shard), look));
            }
        }
    }

    /// A shard has looked for a fence, and has ended what was adopted elsewhere.
    fn has_looked(&mut self, now: Instant) {
        self.looking = self.looking.saturating_sub(1);
        if self.looking == 0 {
            if let Some(adoption) = &mut self.adoption {
                adoption.goes_on_behind_fences(now);
            }
            for shard in (0..self.plan.shards).map(ShardId) {
                let go_on = ToShard::Journal(OfStream::GoOn);
                self.claims.mail.push(ClaimMail::One(Whom::Shard(shard), go_on));
            }
        }
    }

    /// A node is missing, or is back.
    pub(super) fn look_at_members(&mut self, now: Instant) {
        if let Some(adoption) = &mut self.adoption {
            adoption.look(now);
        }
    }
}

/// The names of the other nodes that are there, or have ended so lately that they may come back.
fn names(peers: &[Option<PeerNode>], now: Instant) -> Vec<&str> {
    let there = |peer: &&PeerNode| match peer.presence {
        Presence::Up => true,
        Presence::Down(since) => peer.has_ended && now.millis_since(since) < ENDED,
    };
    peers.iter().flatten().filter(there).map(|peer| &*peer.name).collect()
}
