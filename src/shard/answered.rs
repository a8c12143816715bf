//! What a service has said of what a client wants to do ([`super::asking`]): its packet goes on, or
//! it comes in with the will that was asked about.

use super::Shard;
use super::asking::Answer;
use super::close::Cause;
use super::connection::Holds;
use crate::access::chain::Accepted;
use crate::access::{Deed, Said, Who};
use crate::ids::SocketId;
use crate::mesh::moves::{ToCluster, Wanted, claim_number};
use crate::packet::Connect;
use std::sync::Arc;

impl Shard {
    /// A service's answers to a question about deeds.
    pub fn permitted(&mut self, socket: SocketId, ticket: u64, said: &[Said]) {
        self.access.asking.under_way = self.access.asking.under_way.saturating_sub(1);
        self.counters.permissions_waiting = self.access.asking.under_way as u64;
        while let Some(next) = self.access.asking.line.pop(0) {
            // Some were set free by a reload.
            if self.connections.get(next.0).is_some_and(|c| c.holds.has(Holds::ACCESS)) {
                self.go_on_asked(next);
                break;
            }
        }
        for answer in said {
            let counters = &mut self.counters;
            *match answer {
                Said::Allow => &mut counters.deeds_allowed,
                Said::Deny => &mut counters.deeds_denied,
                Said::Nothing => &mut counters.deeds_unknown,
                Said::Failed(_) => &mut counters.deeds_failed,
            } += 1;
        }
        let Some(asker) = self.access.asking.askers.get_mut(&socket) else { return };
        if asker.ticket != ticket {
            return; // it is another client's by now, or other rules are in force
        }
        asker.ticket = 0;
        let source = asker.source;
        for (at, (deed, topic)) in std::mem::take(&mut asker.asked).into_iter().enumerate() {
            // A service that is not there any more has said nothing.
            let said = said.get(at).copied().unwrap_or(Said::Failed("the service was not asked"));
            asker.answers.push(Answer { source, topic, deed, said });
        }
        match asker.coming.take() {
            None => self.go_on_asked(socket),
            Some(accepted) => self.come_in(socket, *accepted),
        }
    }

    /// Other rules are in force: who waits for an answer to the old ones asks again.
    pub(super) fn ask_again(&mut self) {
        let mut waiting = std::mem::take(&mut self.access.asking.line);
        let askers = std::mem::take(&mut self.access.asking.askers);
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

    /// Whether a client that could come in has to wait until a service has said whether it may have
    /// its will: then it does.
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

    /// Claims the ClientId of a client that may come in from the other nodes. Its CONNECT is the
    /// beginning of `bytes`. It waits, or is refused.
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
        match self.work.claims.begin(number, &name, (socket, ticket, Box::new(accepted))) {
            None => self.answer_cluster(ToCluster::Claim(number, name, wanted)),
            // Of two connections with one ClientId here the later one counts [MQTT-3.1.4-3].
            Some(Some((earlier, wait, _))) if self.access.admissions.is_waiting(earlier, wait) => {
                self.disconnect(earlier, Cause::TakenOver);
            }
            Some(_) => {}
        }
    }

    /// What the client wants of a session at another node.
    fn wants_session(&self, name: &str, connect: &Connect<'_>) -> Wanted {
        if connect.clean_start {
            return Wanted::Ended;
        }
        if self.storing.is_some() {
            return Wanted::Left; // what comes from another node is not written down
        }
        let here = self.find_session(name).map(|index| self.session_ref(index));
        let stays = here.is_some_and(|session| self.work.claims.move_of(session).is_none());
        if stays { Wanted::Ended } else { Wanted::Moved }
    }

    /// A client's will was asked about: it comes in, or is refused for it.
    fn come_in(&mut self, socket: SocketId, accepted: Accepted) {
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        self.let_in(socket, waited.assigned, &bytes, accepted);
    }
}
