//! The journal of this shard's log, on a node of a cluster whose sessions survive the loss of the
//! node (`cluster.durable`): what is stored goes to a stream outside this host as well
//! ([`crate::storage::journal`]), and nothing is acknowledged before. The cluster's thread carries
//! what is said to the stream.
//!
//! When another node has adopted the sessions that are stored here, they end here, and their
//! clients are told that the session was taken over.

use super::Shard;
use super::close::Cause;
use super::storing::Storing;
use super::unstorable::Lateness;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::mesh::adopting::{OfStream, ToStream};
use crate::mesh::moves::ToCluster;
use crate::mutant::Mutant;
use crate::storage::StorageAnswer;
use crate::storage::journal::{Journal, JournalFigures, WithoutStream};
use crate::storage::log::{Log, LogFigures};
use std::collections::VecDeque;

/// Sessions that are looked at per step while those that were adopted elsewhere end.
const ENDED: u32 = 256;

/// What a shard with a journal keeps for it.
pub(super) struct Journaling {
    pub(super) journal: Journal,
    /// While sessions end that were adopted elsewhere: the place of the next one to look at, and
    /// the number in the store of the last one that was adopted.
    ending: Option<(u32, u64)>,
    /// The cluster waits for [`ToStream::Ended`].
    looking: bool,
    /// Adopted sessions that are not durable yet: their batch, and how many bytes they count for.
    orphans: VecDeque<(u64, u64)>,
}

impl Journaling {
    fn new(policy: WithoutStream) -> Journaling {
        let (journal, orphans) = (Journal::new(policy), VecDeque::new());
        Journaling { journal, ending: None, looking: false, orphans }
    }

    /// Whether sessions are ending that were adopted elsewhere.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// What stands against another process's taking the journal over.
    pub(super) fn under_way(&self, log: &Log) -> Option<&'static str> {
        let Journaling { journal, ending, looking, orphans } = self;
        let reasons = [
            (!orphans.is_empty(), "sessions of a lost node that are being adopted"),
            (
                journal.is_fenced() || ending.is_some() || *looking,
                "sessions that another node has adopted",
            ),
            (journal.is_out(), "the cluster's stream, which does not take what is stored"),
            (!journal.rests(log), "what the cluster's stream is being told"),
        ];
        reasons.iter().find_map(|&(holds, what)| holds.then_some(what))
    }

    /// An adopted session has been appended up to that batch; it counts for that many bytes.
    pub(super) fn note_orphan(&mut self, batch: u64, bytes: u64) {
        self.orphans.push_back((batch, bytes));
    }
}

impl Storing {
    /// Sends what is stored to a stream from now on.
    pub fn with_journal(mut self, policy: WithoutStream) -> Storing {
        self.journaling = Some(Box::new(Journaling::new(policy)));
        self
    }

    /// The last batch whose records may be acknowledged.
    pub(super) fn kept(&self) -> u64 {
        let kept = self.log.kept();
        match &self.journaling {
            Some(journaling) => kept.min(journaling.journal.acknowledges()),
            None => kept,
        }
    }

    /// Whether the stream has everything, or is out.
    pub(super) fn is_level(&self) -> bool {
        let journal = self.journaling.as_ref().map(|journaling| &journaling.journal);
        journal.is_none_or(|journal| journal.is_out() || journal.is_level(&self.log))
    }

    /// Microseconds since 1970.
    fn wall_micros(&self) -> u64 {
        self.date(crate::time::Instant(self.micros / 1000)).saturating_mul(1000)
    }
}

impl Shard {
    /// Takes in the outcome of one of these commands.
    pub fn storage_answered(&mut self, answer: StorageAnswer) {
        let Some(storing) = &mut self.storing else { return };
        match answer {
            StorageAnswer::Bytes { spans } => storing.reading.arrive(spans),
            StorageAnswer::Copied { bytes } => return self.journal_copied(bytes),
            answer => storing.log.answered(answer, storing.micros),
        }
        if let Some(trouble) = storing.log.take_trouble() {
            tracing::error!(shard = self.topology.id.0, "storage: {trouble}");
        }
    }

    /// Brings the counters of storage up to date.
    pub fn measure_storage(&mut self) {
        self.measure_journal();
        let Some(storing) = &self.storing else { return };
        let (log, counters) = (&storing.log, &mut self.counters);
        let LogFigures { commits, written, copied, failures, troubles } = log.figures();
        counters.storage_commits = commits;
        counters.storage_written = written;
        counters.storage_copied = copied;
        counters.storage_failures = failures;
        counters.storage_troubles = troubles;
        (counters.storage_live, counters.storage_used) = log.sizes();
        counters.storage_values = log.counts().0 as u64;
        counters.storage_backlog = log.backlog() as u64;
        counters.storage_age_nanos = log.age(storing.micros) * 1000;
        counters.storage_waiting = storing.withheld.len() as u64;
        counters.storage_down = u64::from(log.is_down());
        counters.storage_full = u64::from(log.has_no_room(storing.micros));
        counters.storage_late = u64::from(storing.lateness >= Lateness::Half);
        counters.storage_degraded = u64::from(log.is_degraded());
    }

    /// Whether it has put back what was stored, if it has a store, and other shards know of it. On
    /// a node of a cluster with `durable`, it must be known besides that no other node has adopted
    /// the sessions.
    pub fn is_whole(&self) -> bool {
        self.has_rejoined() && self.knows_its_own()
    }

    /// Whether what was stored before this start is known to be this node's.
    fn knows_its_own(&self) -> bool {
        let journaling = self.storing.as_ref().and_then(|storing| storing.journaling.as_ref());
        journaling.is_none_or(|journaling| {
            let journal = &journaling.journal;
            journal.is_known() && !journal.is_fenced() && !journaling.is_ending()
        })
    }

    /// Gives the journal its turn.
    pub(super) fn run_journal(&mut self) -> bool {
        let Some(storing) = &mut self.storing else { return false };
        if storing.is_of_predecessor() {
            return false;
        }
        let (micros, wall) = (storing.micros, storing.wall_micros());
        let Storing { journaling, log, .. } = &mut **storing;
        let Some(journaling) = journaling else { return false };
        let said: Vec<_> =
            std::iter::from_fn(|| journaling.journal.turn(log, micros, wall)).collect();
        for said in said {
            self.answer_cluster(ToCluster::Journal(said));
        }
        self.tell_adopted();
        let more = self.end_adopted();
        self.tell_ended();
        more
    }

    /// Takes in an answer of the stream.
    pub(super) fn hear_stream(&mut self, answer: OfStream) {
        if answer == OfStream::Look {
            return self.look_for_fence();
        }
        let Some(storing) = &mut self.storing else { return };
        let (micros, wall) = (storing.micros, storing.wall_micros());
        let last = storing.last_number();
        let Storing { journaling, log, .. } = &mut **storing;
        let Some(journaling) = journaling else { return };
        let before = journaling.journal.is_fenced();
        journaling.journal.heard(log, answer, micros, wall);
        if journaling.journal.is_fenced() && !before {
            journaling.ending = Some((0, last));
        }
    }

    /// Another node may have adopted the sessions that are stored here. The answers that clients
    /// wait for are not given any more: what they said may not be in what was adopted. The clients
    /// say it again on their next connections.
    fn look_for_fence(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        let waiting = storing.withheld.all();
        let Some(journaling) = &mut storing.journaling else { return };
        journaling.journal.look();
        journaling.looking = true;
        if !Mutant::ClusterDurableAnswered.is_on() {
            waiting.into_iter().for_each(|socket| self.disconnect(socket, Cause::Broken));
        }
    }

    /// Reports that there is no fence, or that the sessions behind which there is one have ended.
    fn tell_ended(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        let Some(journaling) = &mut storing.journaling else { return };
        let fenced = journaling.journal.is_fenced() && journaling.ending.is_none();
        if journaling.looking && (fenced || journaling.journal.goes_on()) {
            journaling.looking = false;
            self.answer_cluster(ToCluster::Journal(ToStream::Ended));
        }
    }

    /// Takes in a batch that was read back for the journal.
    fn journal_copied(&mut self, bytes: Result<Vec<u8>, String>) {
        let Some(storing) = &mut self.storing else { return };
        let Storing { journaling, log, micros, .. } = &mut **storing;
        let Some(journaling) = journaling else { return };
        if let Err(why) = &bytes {
            tracing::warn!(why, "storage: a batch cannot be read back for the cluster's stream");
        }
        journaling.journal.copied(log, bytes.as_deref().ok(), *micros);
    }

    /// Reports how many bytes of adopted sessions are safe here.
    fn tell_adopted(&mut self) {
        let Some(storing) = &mut self.storing else { return };
        let kept = storing.kept();
        let Some(journaling) = &mut storing.journaling else { return };
        let mut bytes = 0;
        while let Some((_, more)) = journaling.orphans.pop_front_if(|next| next.0 <= kept) {
            bytes += more;
        }
        if bytes > 0 {
            self.answer_cluster(ToCluster::Adopted(bytes));
        }
    }

    /// Ends some of the sessions that were adopted elsewhere. True when there are more.
    fn end_adopted(&mut self) -> bool {
        let bound = self.sessions.bound();
        let Some(storing) = &mut self.storing else { return false };
        let Some(journaling) = &mut storing.journaling else { return false };
        let Some((from, last)) = journaling.ending else { return false };
        let to = bound.min(from.saturating_add(ENDED));
        for index in from..to {
            let number = self.sessions.stored(index);
            if number.is_some_and(|number| number <= last) && !Mutant::ClusterDurableKept.is_on() {
                self.end_session_adopted(index);
            }
        }
        let Some(storing) = &mut self.storing else { return false };
        let Some(journaling) = &mut storing.journaling else { return false };
        journaling.ending = (to < bound).then_some((to, last));
        true
    }

    /// Ends a session that another node has adopted. Its will, and what waits for it, are that
    /// node's.
    fn end_session_adopted(&mut self, index: u32) {
        self.meter.charge(cost::SESSION);
        let SessionRef { generation, .. } = self.session_ref(index);
        let Some(session) = self.sessions.get(index).filter(|s| !s.is_ending()) else { return };
        let socket = session.socket();
        self.take_will(index, |_, _| true);
        self.drop_shares(index);
        if let Some(socket) = socket {
            self.disconnect(socket, Cause::TakenOver);
        }
        let left = self.sessions.get_of(index, generation);
        if left.is_some_and(|session| !session.is_ending() && session.socket().is_none()) {
            self.end_moved(index);
        }
        self.counters.sessions_adopted_elsewhere += 1;
    }

    /// What waits for the session from share groups does not go back to the groups.
    fn drop_shares(&mut self, index: u32) {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        flow.window.forget_shares();
        flow.pending.forget_shares();
    }

    /// Brings the counters of the journal up to date.
    fn measure_journal(&mut self) {
        let Some(storing) = &self.storing else { return };
        let Some(journaling) = &storing.journaling else { return };
        let (journal, counters) = (&journaling.journal, &mut self.counters);
        let JournalFigures { batches, failures, epochs, lost } = journal.figures();
        counters.durable_batches = batches;
        counters.durable_failures = failures;
        counters.durable_epochs = epochs;
        counters.durable_lost = lost;
        counters.durable_behind = journal.behind(&storing.log);
        counters.durable_out = u64::from(journal.is_out());
    }
}
