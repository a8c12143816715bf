//! What clients want to do that a service has to be asked about. The packet that needs the answer
//! is held ([`Holds::ACCESS`]) and handled again when the answer has come. Meanwhile its connection
//! is not read; no other connection waits. Each client has one question at a time. The questions of
//! a shard are bounded: a client that finds no room waits in a line. Who is called out of the line
//! has room for its question kept until it asks or does not need to; until then nobody else gets
//! that room, and no client that comes later overtakes the line.

use super::connection::Holds;
use super::permission::inner;
use super::receive::Handled;
use super::turn_queues::TurnQueues;
use super::{AccessQuestion, Action, Shard};
use crate::access::chain::Accepted;
use crate::access::{Decider, Deed, Grant, Proof, Said, WorkPlace};
use crate::ids::SocketId;
use crate::limits::{FILTERS_ASKED, FILTERS_ASKED_AT_ONCE, PERMISSIONS, cost};
use crate::mutant::Mutant;
use crate::packet::{Qos, Subscribe, SubscribeFilter, SubscribeFiltersIter};
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;

/// What a service is asked about: deeds, each with its topic name or filter.
type AskedDeeds = Vec<(Deed, Box<str>)>;

/// What a service has said about one deed.
#[derive(Clone, Copy)]
pub(super) struct DeedAnswer {
    /// Position of the service among the sources of rules.
    pub(super) source: usize,
    /// The keyed hash of the topic name or filter.
    pub(super) topic: u64,
    pub(super) deed: Deed,
    pub(super) said: Said,
}

/// A client that has asked, until its packet is handled.
#[derive(Default)]
pub(super) struct Asker {
    /// The number of its open question; 0 when it has its answers.
    pub(super) ticket: u64,
    /// What its open question is about; the topics as hashes.
    pub(super) asked: Vec<(Deed, u64)>,
    pub(super) source: usize,
    pub(super) answers: Vec<DeedAnswer>,
    /// For a client that asks about its will message: what it is admitted with.
    pub(super) coming: Option<Box<Accepted>>,
}

/// The questions of one shard.
#[derive(Default)]
pub(super) struct Asking {
    pub(super) askers: HashMap<SocketId, Asker, foldhash::fast::FixedState>,
    /// Connections that found no room for a question.
    pub(super) line: TurnQueues,
    /// Connections that were called out of the line, for whose questions room is kept.
    called: HashSet<SocketId, foldhash::fast::FixedState>,
    /// Questions whose answer has not come, including those of connections that have closed: who is
    /// asked, by ticket.
    pub(super) under_way: HashMap<u64, Decider, foldhash::fast::FixedState>,
}

impl Asking {
    /// What a source has said about a deed of a client; `None` when it was not asked.
    pub(super) fn said(
        &self,
        socket: SocketId,
        source: usize,
        deed: Deed,
        topic: u64,
    ) -> Option<Said> {
        let answers = &self.askers.get(&socket)?.answers;
        let same = |a: &&DeedAnswer| a.source == source && a.topic == topic && a.deed == deed;
        answers.iter().find(same).map(|answer| answer.said)
    }

    /// The packet is handled: its answers do not hold for the next one, and a question that it did
    /// not need leaves its room to others.
    #[inline(always)]
    pub(super) fn handled(&mut self, socket: SocketId) {
        // Few brokers have a source that is asked: the others only look.
        if self.askers.len() | self.called.len() != 0 {
            self.askers.remove(&socket);
            self.called.remove(&socket);
        }
    }

    /// Whether there is room for another question besides those that room is kept for.
    fn has_room(&self) -> bool {
        self.under_way.len() + self.called.len() < PERMISSIONS
    }

    /// Whether the connection may ask now; otherwise it waits in the line.
    fn takes(&mut self, socket: SocketId) -> bool {
        let takes = self.called.remove(&socket) || self.line.is_empty() && self.has_room();
        if !takes {
            self.line.push(0, socket);
        }
        takes
    }

    /// Whether a connection in the line could ask now.
    #[inline]
    pub(super) fn may_call(&self) -> bool {
        !self.line.is_empty() && self.has_room()
    }

    /// Calls the next connection out of the line, if there is room for its question.
    fn call(&mut self) -> Option<SocketId> {
        let next = self.may_call().then(|| self.line.pop(0))??;
        self.called.insert(next);
        Some(next)
    }

    /// Takes all out that wait for an answer, or for room for a question. Nobody is called then.
    pub(super) fn take_all(&mut self) -> (Vec<(SocketId, Asker)>, TurnQueues) {
        self.called.clear();
        let askers = std::mem::take(&mut self.askers).into_iter().collect();
        (askers, std::mem::take(&mut self.line))
    }

    /// The connection is gone.
    #[inline]
    pub(super) fn forget(&mut self, socket: SocketId) {
        self.handled(socket);
        if !self.line.is_empty() {
            self.line.remove(socket);
        }
    }

    /// How many answers a client has for its packet.
    fn answers(&self, socket: SocketId) -> usize {
        self.askers.get(&socket).map_or(0, |asker| asker.answers.len())
    }
}

impl Shard {
    /// Asks a service about what a client's next packet says. The caller has to hold the packet, as
    /// the returned value says.
    pub(super) fn ask_about(
        &mut self,
        socket: SocketId,
        index: u32,
        source: usize,
        deeds: AskedDeeds,
    ) -> Handled {
        let hold = Handled::Hold(Holds::ACCESS);
        if !self.access.asking.takes(socket) {
            return hold;
        }
        let Some(session) = self.sessions.get(index) else { return hold };
        let unnamed = Grant::named(None);
        let grant = session.grant().unwrap_or(&unnamed);
        let proof = self.proof_of(socket, (*session.client_id).into(), grant);
        self.ask_service(socket, source, deeds, proof, None);
        hold
    }

    /// How a service is told who a client is that was admitted with this grant: without its
    /// password.
    pub(super) fn proof_of(&self, socket: SocketId, client_id: Box<str>, grant: &Grant) -> Proof {
        Proof {
            client_id,
            username: grant.username.clone(),
            password: None,
            peer: grant.peer,
            listener: self.listener_name(grant.listener).into(),
            identity: self.layered.certificate(socket),
            attributes: grant.attributes.clone(),
        }
    }

    pub(super) fn ask_service(
        &mut self,
        socket: SocketId,
        source: usize,
        deeds: AskedDeeds,
        proof: Proof,
        coming: Option<Box<Accepted>>,
    ) -> u64 {
        let ticket = self.topology.ticket();
        let secret = |topic: &str| self.topology.shared.seeds.secret(topic.as_bytes());
        let asked = deeds.iter().map(|(deed, topic)| (*deed, secret(topic))).collect();
        let asker = self.access.asking.askers.entry(socket).or_default();
        (asker.ticket, asker.asked, asker.source) = (ticket, asked, source);
        asker.coming = coming;
        self.access.asking.under_way.insert(ticket, self.settings.access.service_at(source));
        self.counters.permissions_waiting = self.access.asking.under_way.len() as u64;
        self.meter.charge(cost::PACKET);
        let access = Arc::clone(&self.settings.access);
        let (work, method) = (WorkPlace::Service, source);
        let question = AccessQuestion { socket, ticket, access, method, deeds, work, proof };
        self.outputs.actions.push(Action::Ask(Box::new(question)));
        ticket
    }

    /// Asks about those filters of a short SUBSCRIBE that a service decides about; `None` when
    /// nothing has to be asked.
    pub(super) fn asks_about_filters(
        &mut self,
        socket: SocketId,
        index: u32,
        subscribe: &Subscribe<'_>,
    ) -> Option<Handled> {
        if !self.settings.asks {
            return None;
        }
        self.ask_about_some(socket, index, subscribe.filters.iter(), u32::MAX)
    }

    /// Asks about the next filter of a long SUBSCRIBE, and about some filters behind it, if a
    /// service has to be asked about the next one. True when it was asked and the connection waits.
    pub(super) fn asks_for_task(
        &mut self,
        socket: SocketId,
        index: u32,
        left: &SubscribeFiltersIter<'_>,
        limit: u32,
    ) -> bool {
        let Some(next) = left.clone().next() else { return false };
        let (deed, filter) = (self.subscribing(&next), inner(next.filter));
        if Mutant::LongSubscribeUnasked.is_on()
            || self.known_decision(index, deed, filter).is_ok()
            || self.ask_about_some(socket, index, left.clone(), limit).is_none()
        {
            return false;
        }
        self.hold(socket, Holds::ACCESS);
        true
    }

    /// Asks about the first of these filters that a service decides about and has not been asked
    /// about, and about others of the same service: as many as are asked about at once, as far as
    /// they are found until the step's work comes to `limit`. `None` when there is no such filter,
    /// or when the packet has as many answers as it may have.
    fn ask_about_some(
        &mut self,
        socket: SocketId,
        index: u32,
        filters: SubscribeFiltersIter<'_>,
        limit: u32,
    ) -> Option<Handled> {
        if self.access.asking.answers(socket) >= FILTERS_ASKED {
            return None;
        }
        let mut open: Option<(usize, AskedDeeds)> = None;
        for wanted in filters {
            if open.is_some() && self.is_spent(limit) {
                break;
            }
            self.meter.charge(cost::FILTER);
            let (deed, filter) = (self.subscribing(&wanted), inner(wanted.filter));
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

    /// Subscribing to that filter, as the deed that rules are about.
    fn subscribing(&self, wanted: &SubscribeFilter<'_>) -> Deed {
        let most = Qos::from_u8(self.settings.max_qos).unwrap_or_default();
        Deed::Subscribe { qos: wanted.options.qos.min(most) as u8 }
    }

    /// Calls connections out of the line while there is room for their questions.
    pub(super) fn call_askers(&mut self) {
        while let Some(next) = self.access.asking.call() {
            // A reload may have freed some of the connections in the line.
            if self.connections.get(next.0).is_some_and(|c| c.holds.has(Holds::ACCESS)) {
                self.go_on_asked(next);
            } else {
                self.access.asking.called.remove(&next);
            }
        }
    }

    /// A connection that waited for a service goes on with its packet, or with the task that the
    /// packet has become.
    pub(super) fn go_on_asked(&mut self, socket: SocketId) {
        self.free(socket, Holds::ACCESS);
        self.work.tasks.answered(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [SocketId; 4] = [SocketId(1), SocketId(2), SocketId(3), SocketId(4)];

    /// One more question is under way.
    fn begin(asking: &mut Asking) {
        let ticket = asking.under_way.keys().max().map_or(1, |last| last + 1);
        asking.under_way.insert(ticket, Decider::Http);
    }

    /// Answers to so many questions have come.
    fn end(asking: &mut Asking, questions: usize) {
        for _ in 0..questions {
            let ticket = *asking.under_way.keys().next().expect("some are under way");
            asking.under_way.remove(&ticket);
        }
    }

    /// A shard's questions, all under way, and three clients in the line.
    fn full() -> Asking {
        let mut asking = Asking::default();
        (0..PERMISSIONS).for_each(|_| begin(&mut asking));
        assert!(CLIENTS[..3].iter().all(|&client| !asking.takes(client)));
        assert_eq!(asking.call(), None, "no room");
        asking
    }

    #[test]
    fn nobody_overtakes_the_line_and_who_is_called_has_its_room() {
        let [first, second, third, late] = CLIENTS;
        let mut asking = full();
        end(&mut asking, 1);
        assert_eq!((asking.call(), asking.call()), (Some(first), None));
        assert!(!asking.takes(late), "the room is kept for the first");
        assert!(asking.takes(first));
        begin(&mut asking);
        end(&mut asking, 2);
        assert!(!asking.takes(late), "the line comes first");
        assert_eq!(
            (asking.call(), asking.call(), asking.call()),
            (Some(second), Some(third), None)
        );
        assert!(asking.takes(second) && asking.takes(third));
    }

    #[test]
    fn who_is_called_and_does_not_ask_leaves_its_room_to_the_next() {
        let [first, second, third, late] = CLIENTS;
        let mut asking = full();
        end(&mut asking, 1);
        assert_eq!(asking.call(), Some(first));
        // Its connection ends, or its packet needs no answer any more.
        asking.forget(first);
        assert_eq!(asking.call(), Some(second));
        asking.handled(second);
        assert!(asking.may_call());
        assert_eq!((asking.call(), asking.may_call()), (Some(third), false));
        asking.forget(third);
        assert!(asking.takes(late) && !asking.may_call());
    }
}
