//! What clients want to do that a service has to be asked about. The packet that says it is held
//! ([`Holds::ACCESS`]) and handled again when there is an answer; meanwhile its connection is not
//! read, and nobody else waits. One question at a time for each client, and a bound for the shard:
//! who finds no room waits in a line.

use super::connection::Holds;
use super::permission::inner;
use super::receive::Handled;
use super::{Action, Question, Shard};
use crate::access::chain::Accepted;
use crate::access::{Deed, Grant, Proof, Said, Who, Work};
use crate::ids::SocketId;
use crate::limits::{FILTERS_ASKED, FILTERS_ASKED_AT_ONCE, PERMISSIONS, cost};
use crate::packet::{Connect, Qos, Subscribe};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a service is asked about, each with its topic.
type Deeds = Vec<(Deed, Box<str>)>;

/// What a service said.
#[derive(Clone, Copy)]
struct Answer {
    /// Its position among the sources.
    source: usize,
    /// The topic's keyed hash.
    topic: u64,
    deed: Deed,
    said: Said,
}

/// A client that asked, for as long as its packet is not handled.
#[derive(Default)]
struct Asker {
    /// Tells its question from others; 0: it has its answers.
    ticket: u64,
    /// What it asks about: topics' hashes.
    asked: Vec<(Deed, u64)>,
    source: usize,
    answers: Vec<Answer>,
    /// With what it is let in; it asks about its will.
    coming: Option<Box<Accepted>>,
}

/// Who asks.
#[derive(Default)]
pub(super) struct Asking {
    askers: HashMap<SocketId, Asker, foldhash::fast::FixedState>,
    /// Who found no room.
    line: VecDeque<SocketId>,
    /// Questions whose answer has not come, of connections that are gone too.
    under_way: usize,
}

impl Asking {
    /// What a service has said to a client that asked.
    pub(super) fn said(
        &self,
        socket: SocketId,
        source: usize,
        deed: Deed,
        topic: u64,
    ) -> Option<Said> {
        let answers = &self.askers.get(&socket)?.answers;
        let same = |a: &&Answer| a.source == source && a.topic == topic && a.deed == deed;
        answers.iter().find(same).map(|answer| answer.said)
    }

    /// The packet is handled: its answers are not those of the next.
    #[inline]
    pub(super) fn handled(&mut self, socket: SocketId) {
        if !self.askers.is_empty() {
            self.askers.remove(&socket);
        }
    }

    /// How many answers a client has for its packet.
    fn answers(&self, socket: SocketId) -> usize {
        self.askers.get(&socket).map_or(0, |asker| asker.answers.len())
    }
}

impl Shard {
    /// Asks a service about what a client's next packet says. The packet is to be held.
    pub(super) fn ask_about(
        &mut self,
        socket: SocketId,
        index: u32,
        source: usize,
        deeds: Deeds,
    ) -> Handled {
        let hold = Handled::Hold(Holds::ACCESS);
        if self.asking.under_way >= PERMISSIONS {
            self.asking.line.push_back(socket);
            return hold;
        }
        let Some(session) = self.sessions.get(index) else { return hold };
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let proof = Proof {
            client_id: (*session.client_id).into(),
            username: grant.username.clone(),
            password: None,
            peer: grant.peer,
            listener: self.listener_name(grant.listener).into(),
            identity: self.layered.certificate(socket),
        };
        self.ask_service(socket, source, deeds, proof, None);
        hold
    }

    fn ask_service(
        &mut self,
        socket: SocketId,
        source: usize,
        deeds: Deeds,
        proof: Proof,
        coming: Option<Box<Accepted>>,
    ) -> u64 {
        let ticket = self.ticket();
        let secret = |topic: &str| self.shared.seeds.secret(topic.as_bytes());
        let asked = deeds.iter().map(|(deed, topic)| (*deed, secret(topic))).collect();
        let asker = self.asking.askers.entry(socket).or_default();
        (asker.ticket, asker.asked, asker.source) = (ticket, asked, source);
        asker.coming = coming;
        self.asking.under_way += 1;
        self.counters.permissions_waiting = self.asking.under_way as u64;
        self.meter.charge(cost::PACKET);
        let access = Arc::clone(&self.settings.access);
        let (work, method) = (Work::Service, source);
        let question = Question { socket, ticket, access, method, deeds, work, proof };
        self.actions.push(Action::Ask(Box::new(question)));
        ticket
    }

    /// A service's answers to a question about deeds.
    pub fn permitted(&mut self, socket: SocketId, ticket: u64, said: &[Said]) {
        self.asking.under_way = self.asking.under_way.saturating_sub(1);
        self.counters.permissions_waiting = self.asking.under_way as u64;
        while let Some(next) = self.asking.line.pop_front() {
            // Some have gone, or were set free by a reload.
            if self.connections.get(next.0).is_some_and(|c| c.holds.has(Holds::ACCESS)) {
                self.free(next, Holds::ACCESS);
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
        let Some(asker) = self.asking.askers.get_mut(&socket) else { return };
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
            None => self.free(socket, Holds::ACCESS),
            Some(accepted) => self.come_in(socket, *accepted),
        }
    }

    /// The connection is gone.
    pub(super) fn forget_asking(&mut self, socket: SocketId) {
        self.asking.handled(socket);
    }

    /// Other rules are in force: who waits for an answer to the old ones asks again.
    pub(super) fn ask_again(&mut self) {
        let waiting = std::mem::take(&mut self.asking.line);
        let askers = std::mem::take(&mut self.asking.askers);
        let (coming, held): (Vec<_>, Vec<_>) =
            askers.into_iter().partition(|(_, asker)| asker.coming.is_some());
        for socket in held.into_iter().map(|(socket, _)| socket).chain(waiting) {
            self.free(socket, Holds::ACCESS);
        }
        for (socket, asker) in coming {
            if let Some(accepted) = asker.coming {
                self.come_in(socket, *accepted);
            }
        }
    }

    /// Asks about those filters of a SUBSCRIBE that a service decides about; `None`: all is known.
    pub(super) fn asks_about_filters(
        &mut self,
        socket: SocketId,
        index: u32,
        subscribe: &Subscribe<'_>,
    ) -> Option<Handled> {
        if !self.settings.asks || self.asking.answers(socket) >= FILTERS_ASKED {
            return None;
        }
        let most = Qos::from_u8(self.settings.max_qos).unwrap_or_default();
        let mut open: Option<(usize, Deeds)> = None;
        for wanted in subscribe.filters.iter() {
            self.meter.charge(cost::FILTER);
            let deed = Deed::Subscribe { qos: wanted.options.qos.min(most) as u8 };
            let filter = inner(wanted.filter);
            let Err(source) = self.known_decision(index, deed, filter) else { continue };
            let (first, deeds) = open.get_or_insert_with(|| (source, Vec::new()));
            if *first == source {
                deeds.push((deed, filter.into()));
            }
            if deeds.len() >= FILTERS_ASKED_AT_ONCE {
                break;
            }
        }
        let (source, deeds) = open?;
        Some(self.ask_about(socket, index, source, deeds))
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
        let topic = self.shared.seeds.secret(will.topic.as_bytes());
        let who =
            Who { client_id: &name, grant: &grant, listener: self.listener_name(grant.listener) };
        let said = |at| self.asking.said(socket, at, deed, topic);
        let access = Arc::clone(&self.settings.access);
        let (ruled, _) = access.explain(&who, deed, will.topic, said);
        let Err(source) = access.allows(&grant, ruled) else { return false };
        if self.admissions.len() >= self.settings.admissions {
            self.deny_connect(socket, connect, super::refuse::Denial::Proving);
            return true;
        }
        let proof = Proof {
            client_id: name,
            username: grant.username.clone(),
            password: None,
            peer: grant.peer,
            listener: self.listener_name(grant.listener).into(),
            identity: self.layered.certificate(socket),
        };
        let coming = Some(Box::new(accepted.clone()));
        let behind = access.methods.len();
        self.wait(socket, access, behind, assigned.map(Into::into), None, bytes);
        self.ask_service(socket, source, vec![(deed, will.topic.into())], proof, coming);
        self.watch_proving(socket);
        true
    }

    /// A client's will was asked about: it comes in, or is refused for it.
    fn come_in(&mut self, socket: SocketId, accepted: Accepted) {
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        self.let_in(socket, waited.assigned, &bytes, accepted);
    }
}
