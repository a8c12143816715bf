//! ClientIds across nodes: a shard's part. The protocol is in `cluster::claims`.
//!
//! A CONNECT that is let in claims its ClientId from the other nodes first. Meanwhile it is in
//! [`super::connection::Stage::Proving`], as one that is asked for its proof: it is watched, it
//! counts among those, and `mqtt.connect_timeout` is its bound. A broker that is no node of a
//! cluster has nothing of this.

use super::Shard;
use super::close::Cause;
use super::refuse::Denial;
use crate::access::chain::Accepted;
use crate::ids::{SessionRef, SocketId};
use crate::limits::cost;
use crate::mesh::moves::{Move, Outcome, ToCluster, ToShard, Wanted};
use crate::mutant::Mutant;
use crate::upgrade::client;
use hashbrown::HashMap;

/// Claims of a shard, as a multiple of the clients that may wait.
const CLAIMS: usize = 16;

/// A connection that waits, with the number of its wait and what it is let in with.
pub(super) type Coming = (SocketId, u64, Box<Accepted>);

/// A ClientId that is claimed.
struct Claim {
    name: Box<str>,
    coming: Option<Coming>,
    /// The session that comes from another node, and what has come of its windows and queue.
    session: Option<SessionRef>,
    flow: Option<client::Flow>,
}

/// A session that goes to another node.
struct Leaving {
    session: SessionRef,
    /// What was in flight and waited when that was sent on: kept until it has arrived.
    sent: Option<client::Flow>,
}

/// The claims of a shard, and the sessions that leave it.
#[derive(Default)]
pub(super) struct Claims {
    all: HashMap<u64, Claim>,
    names: HashMap<Box<str>, u64>,
    leaving: HashMap<Move, Leaving>,
    /// Where those sessions are on their way to.
    moves: HashMap<SessionRef, Move>,
    /// Whose claim is over and is being let in.
    granted: Option<SocketId>,
    /// Fences that are owed to the cluster.
    pub(super) fences: u32,
}

impl Claims {
    /// Claims under way and sessions that leave.
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.leaving.len()
    }

    /// Whether the claim of that connection is over, and it is being let in.
    pub(super) fn is_granted(&self, socket: SocketId) -> bool {
        self.granted == Some(socket)
    }

    /// Whether there is no room for another one: those of clients that have given up count as well.
    pub(super) fn is_full(&self, waiting: usize) -> bool {
        self.all.len() >= waiting * CLAIMS
    }

    /// A connection that waits for its ClientId: the one that did so before, if that is claimed
    /// already, or nothing, if it is to be claimed with that number.
    pub(super) fn begin(
        &mut self,
        number: u64,
        name: &str,
        coming: Coming,
    ) -> Option<Option<Coming>> {
        if let Some(known) = self.names.get(name)
            && let Some(claim) = self.all.get_mut(known)
        {
            return Some(claim.coming.replace(coming));
        }
        self.names.insert(name.into(), number);
        let claim = Claim { name: name.into(), coming: Some(coming), session: None, flow: None };
        self.all.insert(number, claim);
        None
    }

    /// Where that session is on its way to.
    pub(super) fn move_of(&self, session: SessionRef) -> Option<Move> {
        self.moves.get(&session).copied()
    }

    fn begin_leaving(&mut self, to: Move, session: SessionRef) {
        self.moves.insert(session, to);
        self.leaving.insert(to, Leaving { session, sent: None });
    }

    fn take_leaving(&mut self, to: Move) -> Option<Leaving> {
        let leaving = self.leaving.remove(&to)?;
        self.moves.remove(&leaving.session);
        Some(leaving)
    }
}

impl Shard {
    /// What the cluster says.
    pub(super) fn obey_cluster(&mut self, what: ToShard) {
        match what {
            ToShard::Claimed(claim, outcome) => self.end_claim(claim, outcome),
            ToShard::Surrender(to, name, wanted) => self.surrender(to, &name, wanted),
            ToShard::Adopt(claim, bytes) => self.adopt_claimed(claim, &bytes),
            ToShard::Continue(claim, bytes, last) => self.go_on_adopting(claim, &bytes, last),
            ToShard::Fence => self.work.claims.fences += 1,
            ToShard::Pack(to) => self.pack_leaving(to),
            ToShard::Done(to) => self.end_leaving(to),
            ToShard::Keep(to) => self.keep_leaving(to),
            ToShard::Retell(asked) => self.retell(asked),
            ToShard::Known(session, ticket) => self.suback_awaits_less(session, ticket),
            ToShard::Group(node, name, wanted) => self.set_group_node(node, &name, wanted),
            ToShard::Unpassed(passed) => self.take_passed(*passed),
            ToShard::Will(will) => self.send_far_will(will),
        }
    }

    /// Answers fences: all data mail of this step and of earlier ones is in the mailboxes. True
    /// when one was answered.
    #[inline]
    pub(super) fn answer_fences(&mut self) -> bool {
        self.work.claims.fences > 0 && self.answer_fences_now()
    }

    #[cold]
    fn answer_fences_now(&mut self) -> bool {
        if self.mail.outbox.has_data() {
            return false;
        }
        for _ in 0..std::mem::take(&mut self.work.claims.fences) {
            self.answer_cluster(ToCluster::Fenced);
        }
        true
    }

    fn end_claim(&mut self, number: u64, outcome: Outcome) {
        if outcome == Outcome::Lost {
            let claim = self.work.claims.all.get_mut(&number);
            if let Some(coming) = claim.and_then(|claim| claim.coming.take()) {
                self.refuse_claimed(coming);
            }
            return;
        }
        let Some(claim) = self.work.claims.all.remove(&number) else { return };
        self.work.claims.names.remove(&claim.name);
        if outcome == Outcome::SessionLost
            && let Some(session) = claim.session
            && self.session_of(session).is_some_and(|session| session.socket.is_none())
        {
            self.end_moved(session.index);
        }
        let Some((socket, wait, accepted)) = claim.coming else { return };
        if !self.access.admissions.is_waiting(socket, wait) {
            return; // it gave up
        }
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        // What was on its way from here is the client's now.
        if let Some(index) = self.find_session(&claim.name)
            && let Some(to) = self.work.claims.move_of(self.session_ref(index))
        {
            self.keep_leaving(to);
        }
        self.work.claims.granted = Some(socket);
        self.let_in(socket, waited.assigned, &bytes, *accepted);
        self.work.claims.granted = None;
    }

    /// Another node's client has the ClientId.
    fn refuse_claimed(&mut self, (socket, wait, _): Coming) {
        if !self.access.admissions.is_waiting(socket, wait) {
            return;
        }
        let Some((_, bytes)) = self.end_wait(socket) else { return };
        match super::connect::first_packet(&bytes) {
            Some((connect, _)) => self.deny_connect(socket, &connect, Denial::ClaimedElsewhere),
            None => self.disconnect(socket, Cause::Broken),
        }
    }

    /// Another node claims the ClientId: a connection ends [MQTT-3.1.4-3], and a session goes.
    fn surrender(&mut self, to: Move, name: &str, wanted: Wanted) {
        let session = self.surrendered(to, name, wanted);
        self.answer_cluster(ToCluster::Surrendered(to, session));
    }

    fn surrendered(&mut self, to: Move, name: &str, wanted: Wanted) -> Option<Vec<u8>> {
        self.meter.charge(cost::VISIT);
        let index = self.resumable(name)?;
        let session = self.session_ref(index);
        if self.work.claims.move_of(session).is_some() {
            return None; // whoever gets it is asked too
        }
        match wanted {
            Wanted::Left => None,
            Wanted::Ended => {
                self.counters.sessions_persistent -= 1;
                self.end_session(index);
                None
            }
            Wanted::Moved if self.storing.is_some() => None,
            Wanted::Moved => {
                self.work.claims.begin_leaving(to, session);
                self.meter.charge(cost::SESSION);
                Some(self.pack_subscriptions(index))
            }
        }
    }

    /// A session that leaves has got all that could come to it alone: the rest of it goes.
    fn pack_leaving(&mut self, to: Move) {
        let mut parts = Vec::new();
        if let Some(index) = self.leaving(to) {
            // What is being delivered to many, in slices, was there before.
            self.catch_up(index);
            parts = self.pack_parts(index);
            let sent = self.take_flow(index);
            if let Some(leaving) = self.work.claims.leaving.get_mut(&to) {
                leaving.sent = sent;
            }
        }
        if Mutant::ClusterSessionTwice.is_on() {
            parts = [parts.clone(), parts].concat();
        }
        self.answer_cluster(ToCluster::Packed(to, parts));
    }

    /// The session that leaves to there, unless it was resumed here.
    fn leaving(&mut self, to: Move) -> Option<u32> {
        let session = self.work.claims.leaving.get(&to)?.session;
        let known = self.session_of(session)?;
        known.socket.is_none().then_some(session.index)
    }

    /// The other node has it. What has come here since it was sent on has come there too, but for
    /// what share groups sent: that goes back to them.
    fn end_leaving(&mut self, to: Move) {
        let index = self.leaving(to);
        self.work.claims.take_leaving(to);
        if let Some(index) = index {
            let gone = self.counters.dropped_session_gone;
            self.end_moved(index);
            self.counters.dropped_session_gone = gone;
        }
    }

    /// It stays.
    fn keep_leaving(&mut self, to: Move) {
        let Some(Leaving { session, sent }) = self.work.claims.take_leaving(to) else { return };
        if let Some(sent) = sent
            && self.session_of(session).is_some()
        {
            self.put_flow_before(session.index, sent);
        }
    }

    /// The subscriptions of a session that comes: from now on it collects messages here.
    fn adopt_claimed(&mut self, number: u64, bytes: &[u8]) {
        let Some(claim) = self.work.claims.all.get(&number) else {
            self.answer_cluster(ToCluster::Settled(number));
            return;
        };
        let name = claim.name.clone();
        if let Some(index) = self.find_session(&name) {
            let session = self.session_ref(index);
            match self.work.claims.move_of(session) {
                // It left from here, and comes back before this node was told that it arrived.
                Some(to) => self.end_leaving(to),
                None => {
                    self.answer_cluster(ToCluster::Settled(number));
                    return;
                }
            }
        }
        match self.place_moved(&name, bytes) {
            Some(index) => {
                let session = self.session_ref(index);
                if let Some(claim) = self.work.claims.all.get_mut(&number) {
                    claim.session = Some(session);
                }
                self.answer_cluster(ToCluster::Placed(number));
            }
            None => self.answer_cluster(ToCluster::Settled(number)),
        }
    }

    /// A part of its windows and queue.
    fn go_on_adopting(&mut self, number: u64, bytes: &[u8], last: bool) {
        self.meter.charge(cost::bytes(bytes.len()));
        let part = self.read_flow(bytes);
        let Some(claim) = self.work.claims.all.get_mut(&number) else { return };
        match (&mut claim.flow, part) {
            (Some(flow), Some(part)) => flow.pending.extend(part.pending),
            (flow @ None, part) => *flow = part,
            (Some(_), None) => {}
        }
        if !last {
            return;
        }
        let (flow, session) = (claim.flow.take(), claim.session);
        if let (Some(flow), Some(session)) = (flow, session)
            && self.session_of(session).is_some()
        {
            self.put_flow_before(session.index, flow);
        }
        self.answer_cluster(ToCluster::Settled(number));
    }
}
