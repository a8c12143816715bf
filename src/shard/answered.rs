//! What follows from a service's answers about what a client wants to do ([`super::asking`]): the
//! packet that was asked about goes on, or the client is admitted with the will message that was
//! asked about. A client that is admitted on a node of a cluster also begins to claim its ClientId
//! here ([`super::claims`]).

use super::Shard;
use super::asking::DeedAnswer;
use super::close::Cause;
use crate::access::chain::Accepted;
use crate::access::{Decider, Deed, Said, Who};
use crate::ids::SocketId;
use crate::mesh::moves::{SessionDemand, ToCluster, claim_number};
use crate::packet::Connect;
use std::sync::Arc;

impl Shard {
    /// Takes a service's answers to a client's question about deeds.
    pub fn permitted(&mut self, socket: SocketId, ticket: u64, said: &[Said]) {
        let asked = self.access.asking.under_way.remove(&ticket);
        self.counters.permissions_waiting = self.access.asking.under_way.len() as u64;
        self.call_askers();
        asked.into_iter().for_each(|asked| self.count_said(asked, said));
        let Some(asker) = self.access.asking.askers.get_mut(&socket) else { return };
        if asker.ticket != ticket {
            return; // the socket is another client's by now, or the rules have changed
        }
        asker.ticket = 0;
        let source = asker.source;
        for (at, (deed, topic)) in std::mem::take(&mut asker.asked).into_iter().enumerate() {
            // A service that does not exist any more has given no answer.
            let said = said.get(at).copied().unwrap_or(Said::Failed("the service was not asked"));
            asker.answers.push(DeedAnswer { source, topic, deed, said });
        }
        match asker.coming.take() {
            None => self.go_on_asked(socket),
            Some(accepted) => self.come_in(socket, *accepted),
        }
    }

    fn count_said(&mut self, asked: Decider, said: &[Said]) {
        let counters = &mut self.counters;
        let [allowed, denied, unknown, failed] = match asked {
            Decider::Redis => [
                &mut counters.said_by_redis_allowed,
                &mut counters.said_by_redis_denied,
                &mut counters.said_by_redis_unknown,
                &mut counters.said_by_redis_failed,
            ],
            Decider::Postgres => [
                &mut counters.said_by_postgres_allowed,
                &mut counters.said_by_postgres_denied,
                &mut counters.said_by_postgres_unknown,
                &mut counters.said_by_postgres_failed,
            ],
            // The others are no services.
            Decider::Http | Decider::Client | Decider::Rules | Decider::Nobody => [
                &mut counters.said_by_http_allowed,
                &mut counters.said_by_http_denied,
                &mut counters.said_by_http_unknown,
                &mut counters.said_by_http_failed,
            ],
        };
        for answer in said {
            match answer {
                Said::Allow => *allowed += 1,
                Said::Deny => *denied += 1,
                Said::Nothing => *unknown += 1,
                Said::Failed(_) => *failed += 1,
            }
        }
    }

    /// The rules have changed: every client that waits for an answer under the old rules asks
    /// again.
    pub(super) fn ask_again(&mut self) {
        let (askers, mut waiting) = self.access.asking.take_all();
        let (coming, held): (Vec<_>, Vec<_>) =
            askers.into_iter().partition(|(_, asker)| asker.coming.is_some());
        let waiting = std::iter::from_fn(|| waiting.pop(0));
        for socket in held.into_iter().map(|(socket, _)| socket).chain(waiting) {
            self.go_on_asked(socket);
        }
        for (socket, asker) in coming {
            if let Some(accepted) = asker.coming {
                self.come_in(socket, *accepted);
            }
        }
    }

    /// Asks a service about the client's will message if a service decides about it. False when
    /// nothing is asked: the client may be admitted now. True when the client waits for the answer,
    /// or was refused because too many wait.
    pub(super) fn asks_about_will(
        &mut self,
        socket: SocketId,
        assigned: Option<&str>,
        connect: &Connect<'_>,
        accepted: &Accepted,
        bytes: &[u8],
    ) -> bool {
        let Some(will) = connect.will.as_ref().filter(|_| self.settings.asks) else { return false };
        let Some(grant) = self.grant_of(socket, connect, accepted.clone()) else { return false };
        let name: Box<str> = assigned.unwrap_or(connect.client_id).into();
        let deed = Deed::Publish { qos: will.qos as u8, retain: will.retain };
        let topic = self.topology.shared.seeds.secret(will.topic.as_bytes());
        let who =
            Who { client_id: &name, grant: &grant, listener: self.listener_name(grant.listener) };
        let said = |at| self.access.asking.said(socket, at, deed, topic);
        let access = Arc::clone(&self.settings.access);
        let (ruled, _) = access.explain(&who, deed, will.topic, said);
        let Err(source) = access.allows(&grant, ruled) else { return false };
        if self.access.admissions.len() >= self.settings.admissions {
            self.deny_connect(socket, connect, super::refuse::Denial::Proving);
            return true;
        }
        let proof = self.proof_of(socket, name, &grant);
        let coming = Some(Box::new(accepted.clone()));
        let behind = access.methods.len();
        self.wait(socket, access, behind, assigned.map(Into::into), None, bytes);
        self.ask_service(socket, source, vec![(deed, will.topic.into())], proof, coming);
        self.watch_proving(socket);
        true
    }

    /// Claims the ClientId of an admitted client from the other nodes. The client's CONNECT is the
    /// beginning of `bytes`. The client waits for the outcome, or is refused when too many wait.
    pub(super) fn claim(
        &mut self,
        socket: SocketId,
        assigned: Option<&str>,
        connect: &Connect<'_>,
        accepted: Accepted,
        bytes: &[u8],
    ) {
        let most = self.settings.admissions;
        if self.access.admissions.len() >= most || self.work.claims.is_full(most) {
            self.deny_connect(socket, connect, super::refuse::Denial::Proving);
            return;
        }
        let name: Box<str> = assigned.unwrap_or(connect.client_id).into();
        let access = Arc::clone(&self.settings.access);
        let behind = access.methods.len();
        let ticket = self.wait(socket, access, behind, assigned.map(Into::into), None, bytes);
        self.watch_proving(socket);
        let wanted = self.wants_session(&name, connect);
        let number = claim_number(self.topology.id, ticket);
        // Each has a claim of its own, because it is newer than what other nodes have claimed since
        // an earlier one.
        let coming = (socket, ticket, Box::new(accepted));
        let earlier = self.work.claims.begin(number, &name, coming);
        self.answer_cluster(ToCluster::Claim(number, name, wanted));
        // Of two connections with one ClientId here the later one counts [MQTT-3.1.4-3].
        if let Some((earlier, wait, _)) = earlier
            && self.access.admissions.is_waiting(earlier, wait)
        {
            self.disconnect(earlier, Cause::TakenOver);
        }
    }

    /// What the client wants to become of a session that another node has under its ClientId.
    fn wants_session(&self, name: &str, connect: &Connect<'_>) -> SessionDemand {
        if connect.clean_start {
            return SessionDemand::Ended;
        }
        let here = self.find_session(name).map(|index| self.session_ref(index));
        if let Some(storing) = &self.storing {
            // A session from another node would not be stored. With a journal, the client of a lost
            // node waits until that node's sessions are adopted.
            let has_it = storing.journaling.is_some() && here.is_some();
            return if has_it { SessionDemand::Here } else { SessionDemand::Left };
        }
        let stays = here.is_some_and(|session| self.work.claims.move_of(session).is_none());
        if stays { SessionDemand::Ended } else { SessionDemand::Moved }
    }

    /// The service has been asked about the client's will message: the client is admitted, or is
    /// refused because of the will message.
    fn come_in(&mut self, socket: SocketId, accepted: Accepted) {
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        self.let_in(socket, waited.assigned, &bytes, accepted);
    }
}
