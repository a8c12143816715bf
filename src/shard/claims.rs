//! ClientIds across nodes: a shard's part. The protocol is in `cluster::claims`.
//!
//! A client that is admitted claims its ClientId from the other nodes before it enters. Meanwhile
//! its connection is in [`super::connection::Stage::Proving`], like that of a client whose proof is
//! being checked: it is read to notice when the client gives up, it counts among the clients that
//! wait, and `mqtt.connect_timeout` bounds how long it waits. On a broker that is no node of a
//! cluster, nothing here is used.

use super::Shard;
use super::close::Cause;
use super::moved::{pack_owed, read_owed};
use super::refuse::Denial;
use crate::access::chain::Accepted;
use crate::ids::{SessionRef, SocketId};
use crate::limits::cost;
use crate::mesh::moves::{ClaimOutcome, Move, PackedParts, SessionDemand, ToCluster, ToShard};
use crate::mutant::Mutant;
use crate::upgrade::client;
use hashbrown::HashMap;

/// Claims of a shard, at most, as a multiple of the clients that may wait.
const CLAIMS: usize = 16;

/// A connection that waits for its ClientId, with the ticket of its wait and what its client is
/// admitted with.
pub(super) type ClaimingConnection = (SocketId, u64, Box<Accepted>);

/// A ClientId that is being claimed.
struct Claim {
    name: Box<str>,
    coming: Option<ClaimingConnection>,
    /// The session that comes from another node, and what has come so far of its windows and queue.
    session: Option<SessionRef>,
    flow: Option<client::MovedFlow>,
    /// Filters whose retained messages the client is still owed.
    owed: Vec<Box<str>>,
}

/// A session that goes to another node.
struct LeavingSession {
    session: SessionRef,
    /// Its windows and queue, as they were sent to the other node, and filters whose retained
    /// messages its client is owed: kept until they have arrived there.
    sent: Option<(client::MovedFlow, Vec<Box<str>>)>,
}

/// The claims of a shard, and the sessions that leave it.
#[derive(Default)]
pub(super) struct Claims {
    all: HashMap<u64, Claim>,
    /// The last claim of each ClientId.
    names: HashMap<Box<str>, u64>,
    leaving: HashMap<Move, LeavingSession>,
    /// The moves of those sessions.
    moves: HashMap<SessionRef, Move>,
    /// The connection whose claim has succeeded and that is being admitted.
    granted: Option<SocketId>,
    /// Fences that the cluster has asked for and that are not answered yet.
    pub(super) fences: u32,
}

impl Claims {
    /// Claims under way and sessions that leave.
    pub(super) fn len(&self) -> usize {
        self.all.len() + self.leaving.len()
    }

    /// Whether the claim of that connection has succeeded, and the connection is being admitted.
    pub(super) fn is_granted(&self, socket: SocketId) -> bool {
        self.granted == Some(socket)
    }

    /// Whether there is no room for another claim. Claims of clients that have given up count as
    /// well; `waiting` is how many clients may wait.
    pub(super) fn is_full(&self, waiting: usize) -> bool {
        self.all.len() >= waiting * CLAIMS
    }

    /// A connection waits for a ClientId, which is now to be claimed under that number. Returns the
    /// connection that has waited for it so far, if there is one: the new connection takes its
    /// place. A session that comes with the earlier claim still comes.
    pub(super) fn begin(
        &mut self,
        number: u64,
        name: &str,
        coming: ClaimingConnection,
    ) -> Option<ClaimingConnection> {
        let earlier = self.names.insert(name.into(), number);
        let earlier = earlier.and_then(|earlier| self.all.get_mut(&earlier)?.coming.take());
        let claim = Claim {
            name: name.into(),
            coming: Some(coming),
            session: None,
            flow: None,
            owed: Vec::new(),
        };
        self.all.insert(number, claim);
        earlier
    }

    fn end(&mut self, number: u64) -> Option<Claim> {
        let claim = self.all.remove(&number)?;
        if self.names.get(&claim.name) == Some(&number) {
            self.names.remove(&claim.name);
        }
        Some(claim)
    }

    /// The move that takes that session to another node, if there is one.
    pub(super) fn move_of(&self, session: SessionRef) -> Option<Move> {
        self.moves.get(&session).copied()
    }

    fn begin_leaving(&mut self, to: Move, session: SessionRef) {
        self.moves.insert(session, to);
        self.leaving.insert(to, LeavingSession { session, sent: None });
    }

    fn take_leaving(&mut self, to: Move) -> Option<LeavingSession> {
        let leaving = self.leaving.remove(&to)?;
        self.moves.remove(&leaving.session);
        Some(leaving)
    }
}

impl Shard {
    /// Handles what the cluster tells this shard.
    pub(super) fn obey_cluster(&mut self, what: ToShard) {
        match what {
            ToShard::Claimed(claim, outcome) => self.end_claim(claim, outcome),
            ToShard::Surrender(to, name, wanted) => self.surrender(to, &name, wanted),
            ToShard::Adopt(claim, bytes) => self.adopt_claimed(claim, &bytes),
            ToShard::Owed(claim, bytes) => self.note_owed(claim, &bytes),
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
            ToShard::WillSettled(client) => self.settle_will(&client),
            ToShard::Arrived(arrived) => self.record_arrival(arrived),
            ToShard::Journal(answer) => self.hear_stream(answer),
            ToShard::Orphan(orphan) => self.adopt_orphan(*orphan),
        }
    }

    /// Deletes a will that was read back from the store: another node has sent it, or has the
    /// client.
    fn settle_will(&mut self, client: &str) {
        if let Some(index) = self.find_session(client) {
            self.take_will(index, |_, will| will.restored);
        }
    }

    /// Answers fences once all data mail of this step and of earlier ones is in the mailboxes. True
    /// when some were answered.
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

    fn end_claim(&mut self, number: u64, outcome: ClaimOutcome) {
        if outcome == ClaimOutcome::Lost {
            let claim = self.work.claims.all.get_mut(&number);
            if let Some(coming) = claim.and_then(|claim| claim.coming.take()) {
                self.refuse_claimed(coming);
            }
            return;
        }
        let Some(claim) = self.work.claims.end(number) else { return };
        if outcome == ClaimOutcome::SessionLost
            && let Some(session) = claim.session
            && self.session_of(session).is_some_and(|session| session.socket().is_none())
        {
            self.end_moved(session.index);
        }
        let Some((socket, wait, accepted)) = claim.coming else { return };
        if !self.access.admissions.is_waiting(socket, wait) {
            return; // the client gave up
        }
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        // If the session was on its way to another node, it stays here: it is the client's now.
        if let Some(index) = self.find_session(&claim.name)
            && let Some(to) = self.work.claims.move_of(self.session_ref(index))
        {
            self.keep_leaving(to);
        }
        self.work.claims.granted = Some(socket);
        self.let_in(socket, waited.assigned, &bytes, *accepted);
        self.work.claims.granted = None;
    }

    /// The client here is refused: a client of another node has the ClientId.
    fn refuse_claimed(&mut self, (socket, wait, _): ClaimingConnection) {
        if !self.access.admissions.is_waiting(socket, wait) {
            return;
        }
        let Some((_, bytes)) = self.end_wait(socket) else { return };
        match super::connect::first_packet(&bytes) {
            Some((connect, _)) => self.deny_connect(socket, &connect, Denial::ClaimedElsewhere),
            None => self.disconnect(socket, Cause::Broken),
        }
    }

    /// Another node claims the ClientId: the connection here ends [MQTT-3.1.4-3], and the session
    /// goes, ends or stays, as `wanted` says.
    fn surrender(&mut self, to: Move, name: &str, wanted: SessionDemand) {
        let session = self.surrendered(to, name, wanted);
        self.answer_cluster(ToCluster::Surrendered(to, session));
    }

    fn surrendered(&mut self, to: Move, name: &str, wanted: SessionDemand) -> Option<Vec<u8>> {
        self.meter.charge(cost::VISIT);
        let index = self.resumable(name)?;
        let session = self.session_ref(index);
        if self.work.claims.move_of(session).is_some() {
            return None; // the node that it moves to is asked, too
        }
        match wanted {
            SessionDemand::Left | SessionDemand::Here => None,
            SessionDemand::Ended => {
                self.counters.sessions_persistent -= 1;
                self.end_session(index);
                None
            }
            SessionDemand::Moved if self.storing.is_some() => None,
            // A client of this node claims it, and has done so later: otherwise the cluster would
            // not have asked before the end of that claim. The client finds its session here.
            SessionDemand::Moved if self.work.claims.names.contains_key(name) => None,
            SessionDemand::Moved => {
                self.work.claims.begin_leaving(to, session);
                self.meter.charge(cost::SESSION);
                Some(self.pack_subscriptions(index))
            }
        }
    }

    /// A session that leaves has got all messages that come only to this node: its windows and
    /// queue go to the other node.
    fn pack_leaving(&mut self, to: Move) {
        let mut packed = PackedParts::default();
        if let Some(index) = self.leaving(to) {
            // Fan-outs that are still being delivered in slices began before that.
            self.catch_up(index);
            let owed = self.owed_filters(index);
            packed = PackedParts { owed: pack_owed(&owed), parts: self.pack_parts(index) };
            let sent = self.take_flow(index).map(|flow| (flow, owed));
            if let Some(leaving) = self.work.claims.leaving.get_mut(&to) {
                leaving.sent = sent;
            }
        }
        if Mutant::ClusterSessionTwice.is_on() {
            packed.parts = [packed.parts.clone(), packed.parts].concat();
        }
        self.answer_cluster(ToCluster::Packed(to, packed));
    }

    /// The index of the session that leaves by that move, unless its client has resumed it here.
    fn leaving(&mut self, to: Move) -> Option<u32> {
        let session = self.work.claims.leaving.get(&to)?.session;
        let known = self.session_of(session)?;
        known.socket().is_none().then_some(session.index)
    }

    /// The other node has the session. The messages that have come here since the queue was sent
    /// have come there too, except those from share groups, which go back to their groups.
    fn end_leaving(&mut self, to: Move) {
        let index = self.leaving(to);
        self.work.claims.take_leaving(to);
        if let Some(index) = index {
            let gone = self.counters.dropped_session_gone;
            self.end_moved(index);
            self.counters.dropped_session_gone = gone;
        }
    }

    /// The session stays here, and gets its windows and queue back if they were sent already.
    fn keep_leaving(&mut self, to: Move) {
        let Some(LeavingSession { session, sent }) = self.work.claims.take_leaving(to) else {
            return;
        };
        if let Some((flow, owed)) = sent
            && self.session_of(session).is_some()
        {
            self.put_flow_before(session.index, flow);
            self.owe(session.index, &owed);
        }
    }

    /// The subscriptions of a session that comes from another node have come: from now on the
    /// session collects messages here.
    fn adopt_claimed(&mut self, number: u64, bytes: &[u8]) {
        let Some(claim) = self.work.claims.all.get(&number) else {
            self.answer_cluster(ToCluster::Settled(number));
            return;
        };
        let name = claim.name.clone();
        if let Some(index) = self.find_session(&name) {
            let session = self.session_ref(index);
            match self.work.claims.move_of(session) {
                // The session left from here, and comes back before this node was told that it had
                // arrived.
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

    /// Filters whose retained messages the client of a session is owed that comes from another
    /// node.
    fn note_owed(&mut self, number: u64, bytes: &[u8]) {
        self.meter.charge(cost::bytes(bytes.len()));
        let Some(claim) = self.work.claims.all.get_mut(&number) else { return };
        let session = claim.session.and_then(|it| self.sessions.get_of(it.index, it.generation));
        let most = session.map_or(0, |session| session.subscriptions.len());
        claim.owed.extend(read_owed(bytes));
        claim.owed.truncate(most);
    }

    /// A part of the windows and queue of a session that comes from another node.
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
        let owed = std::mem::take(&mut claim.owed);
        if let (Some(flow), Some(session)) = (flow, session)
            && self.session_of(session).is_some()
        {
            self.put_flow_before(session.index, flow);
            self.owe(session.index, &owed);
        }
        self.answer_cluster(ToCluster::Settled(number));
    }
}
