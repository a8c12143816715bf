//! Publications whose PUBACK or PUBREC waits until the other end of a bridge has them
//! (`puback: delivered`).
//!
//! A link whose publishers wait ([`LinkPlan::answering`]) gives a number to each copy that it takes
//! of a QoS 1 or 2 message which a client has published here. The bridge reports what became of
//! these numbers ([`Shard::confirm`]), in any order. Until then the client gets no answer, and
//! everything that the client publishes afterwards is answered later, so that answers come in the
//! order of the publications [MQTT-4.6.0-2, MQTT-4.6.0-3]. Nothing else waits, neither the client's
//! other packets nor the messages for its subscriptions. QoS 0 never waits, nor does what no client
//! publishes.
//!
//! An answer belongs to the session. When the connection ends, no client waits for the answer any
//! longer. A client that sends the publication again on its next connection waits for the same
//! answer: the message is not accepted twice. How many answers one client can have open is bounded
//! ([`MOST`]). A client with that many is read no further.
//!
//! A link that drops a message, a bridge whose other end refuses a message, and a bridge that is
//! closed answer with a reason code. MQTT 3 has none. There, a dropped message ends the connection
//! [MQTT-3.3.5-2], so that the client sends the message again. A refused message, which would be
//! refused again, is acknowledged.
//!
//! [`LinkPlan::answering`]: super::link::LinkPlan::answering

use super::Shard;
use super::close::Cause;
use super::connection::Holds;
use super::link::LinkId;
use super::storing::Speaker;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::link_record::LinkOutcome;
use crate::mutant::Mutant;
use crate::packet::{AckKind, PacketId, Publish, Qos, ReasonCode, Version, Violation};
use crate::session::inbound::Arrival;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// How many publications of one client may wait for their answers before the client is read no
/// further. With MQTT 5, at most `mqtt.receive_maximum` of these are of the current connection.
const MOST: usize = 1024;
/// Bytes of memory for a copy that is waited for, and for an answer.
const COPY: usize = 48;
const ANSWER: usize = size_of::<PublishAnswer>();

const EXCEEDED: Violation = Violation {
    reason: ReasonCode::ReceiveMaximumExceeded,
    what: "more messages without an answer than Receive Maximum",
};

/// The answer to one publication.
struct PublishAnswer {
    /// The position among all answers of the shard, in the order in which the publications came.
    serial: u64,
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
    /// The number of the publication's first copy. If it has no copy, the number that the next copy
    /// will get.
    first: u64,
    copies: u16,
    /// How many copies have no known outcome yet.
    left: u16,
    /// A copy was dropped for lack of room, or with its bridge.
    dropped: bool,
    /// The client's current connection waits for this answer.
    wanted: bool,
    /// The publication is a QoS 2 message that was accepted: its identifier is among the inbound
    /// ones.
    taken: bool,
}

/// The answers of one session, oldest first.
#[derive(Default)]
struct ClientAnswers {
    answers: VecDeque<PublishAnswer>,
    /// How many of the answers the current connection waits for.
    wanted: usize,
}

/// What a copy's number refers to.
#[derive(Clone, Copy)]
struct Copy {
    session: u32,
    link: LinkId,
    /// The serial of the answer that waits for the copy.
    serial: u64,
}

/// All answers of a shard that wait.
#[derive(Default)]
pub(super) struct Unanswered {
    clients: HashMap<u32, ClientAnswers, foldhash::fast::FixedState>,
    copies: HashMap<u64, Copy, foldhash::fast::FixedState>,
    /// The number of the last copy.
    last: u64,
    /// The serial of the last answer.
    serial: u64,
    /// The links that took copies of the message that is being routed, in the order of their
    /// numbers.
    current: Vec<LinkId>,
    /// The message that is being routed has a publisher that gets no acknowledgement.
    pub(super) for_owner: bool,
    /// Numbers of copies that were dropped here in this step.
    lost: Vec<u64>,
    /// How many links have publishers that wait.
    links: usize,
    /// How many answers wait.
    len: usize,
}

impl Unanswered {
    /// Counts a link whose publishers wait. `time`: the zero of the shard's clock in milliseconds
    /// since 1970, and the time now. Numbers begin there, so that records which an earlier process
    /// has left on a bridge's disk have none of the numbers that are assigned now. After an upgrade
    /// the clock has the same zero as before.
    pub(super) fn link_opened(&mut self, (zero, now): (u64, Instant)) {
        self.links += 1;
        let millis = zero + if Mutant::LinkNumbersAgain.is_on() { 0 } else { now.0 };
        self.last = self.last.max(millis << 16);
    }

    /// Counts a link less whose publishers wait, apart from what it took before.
    pub(super) fn link_silenced(&mut self) {
        self.links -= 1;
    }

    /// Notes that a link was closed, so that publishers waiting for its copies get an answer.
    pub(super) fn lose_link(&mut self, link: LinkId) {
        let ends = self.copies.iter().filter(|(_, copy)| copy.link == link);
        self.lost.extend(ends.map(|(&number, _)| number));
        self.lost.sort_unstable();
    }

    /// Whether publications may have to wait for their answers, or do.
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.links != 0 || !self.clients.is_empty()
    }

    /// How many answers wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory for all answers and copies.
    pub(super) fn held(&self) -> usize {
        self.len * ANSWER + self.copies.len() * COPY
    }

    /// Assigns a number to the copy that a link takes of the message that is being routed.
    pub(super) fn number(&mut self, link: LinkId) -> u64 {
        self.last += 1;
        self.current.push(link);
        self.last
    }

    /// Notes that a copy was dropped for lack of room.
    pub(super) fn lose(&mut self, number: u64) {
        if !self.is_gone(number) {
            self.lost.push(number);
        }
    }

    /// Whether no publisher waits for a copy. The copies of the message that is being routed are
    /// not in `copies` yet, but count as waited for.
    fn is_gone(&self, number: u64) -> bool {
        number + self.current.len() as u64 <= self.last && !self.copies.contains_key(&number)
    }

    /// Notes that the connection of the session has ended.
    #[inline]
    pub(super) fn connection_ended(&mut self, session: u32) {
        if let Some(client) = self.clients.get_mut(&session) {
            client.wanted = 0;
            client.answers.iter_mut().for_each(|answer| answer.wanted = false);
        }
    }

    /// Removes the answers of a session that has ended.
    #[inline]
    pub(super) fn session_ended(&mut self, session: u32) {
        if !self.clients.is_empty() {
            self.forget(session);
        }
    }

    #[inline(never)]
    fn forget(&mut self, session: u32) {
        let Some(client) = self.clients.remove(&session) else { return };
        self.len -= client.answers.len();
        for answer in client.answers {
            for number in answer.first..answer.first + u64::from(answer.copies) {
                self.copies.remove(&number);
            }
        }
    }

    /// Whether the answer to the QoS 2 message with that identifier waits.
    pub(super) fn is_waiting(&self, session: u32, id: PacketId) -> bool {
        let waits = |answer: &PublishAnswer| answer.id == id && answer.kind == AckKind::PubRec;
        self.clients.get(&session).is_some_and(|client| client.answers.iter().any(waits))
    }

    /// Notes the outcome of a copy. Returns the session whose answer waits for the copy, if there
    /// is one.
    fn settle(&mut self, number: u64, outcome: Option<LinkOutcome>) -> Option<u32> {
        let Copy { session, serial, .. } = self.copies.remove(&number)?;
        let client = self.clients.get_mut(&session)?;
        let found = client.answers.binary_search_by_key(&serial, |answer| answer.serial);
        let answer = client.answers.get_mut(found.ok()?)?;
        answer.left = answer.left.saturating_sub(1);
        let reason = match outcome {
            Some(LinkOutcome::Delivered) => return Some(session),
            Some(LinkOutcome::Dropped) => ReasonCode::QuotaExceeded,
            Some(LinkOutcome::Refused) => ReasonCode::ImplementationSpecificError,
            None => ReasonCode::UnspecifiedError,
        };
        answer.dropped |= outcome == Some(LinkOutcome::Dropped);
        if (answer.reason as u8) < 0x80 {
            answer.reason = reason;
        }
        Some(session)
    }

    /// Takes out the next answer of a session, if it can be given.
    fn next_of(&mut self, session: u32) -> Option<PublishAnswer> {
        let client = self.clients.get_mut(&session)?;
        let ready = |answer: &PublishAnswer| answer.left == 0;
        let answer = if Mutant::LinkAnswersOvertake.is_on() {
            let at = client.answers.iter().position(ready)?;
            client.answers.remove(at)?
        } else {
            client.answers.pop_front_if(|answer| ready(answer))?
        };
        client.wanted -= usize::from(answer.wanted);
        self.len -= 1;
        if client.answers.is_empty() {
            self.clients.remove(&session);
        }
        Some(answer)
    }

    /// Whether the session has room for another answer.
    fn has_room(&self, session: u32) -> bool {
        self.clients.get(&session).is_none_or(|client| client.answers.len() < MOST)
    }
}

impl Shard {
    /// Reports what became of messages that publishers wait for, by the numbers in the records of a
    /// link. Numbers that no publisher waits for, such as those of an earlier process, are ignored.
    pub fn confirm(&mut self, outcomes: &[(u64, LinkOutcome)]) {
        for &(number, outcome) in outcomes {
            if Mutant::LinkAnswerForgotten.is_on() && number % 8 == 0 {
                continue;
            }
            self.settle_copy(number, Some(outcome));
        }
    }

    /// How many publications wait for their answers.
    pub fn unanswered(&self) -> usize {
        self.subscriptions.links.unanswered.len()
    }

    fn settle_copy(&mut self, number: u64, outcome: Option<LinkOutcome>) {
        self.meter.charge(cost::VISIT);
        let Some(session) = self.subscriptions.links.unanswered.settle(number, outcome) else {
            return;
        };
        while let Some(answer) = self.subscriptions.links.unanswered.next_of(session) {
            self.say_answer(session, &answer);
        }
        if self.subscriptions.links.unanswered.has_room(session)
            && let Some(socket) = self.sessions.get(session).and_then(|session| session.socket())
        {
            self.free(socket, Holds::ANSWERS);
        }
        self.counters.bridge_acks_waiting = self.unanswered() as u64;
    }

    /// Stops reading from a client that comes back with as many open answers as it may have, until
    /// some are given.
    pub(super) fn hold_unanswered(&mut self, index: u32) {
        if !self.subscriptions.links.unanswered.has_room(index)
            && let Some(socket) = self.sessions.get(index).and_then(|session| session.socket())
        {
            self.hold(socket, Holds::ANSWERS);
        }
    }

    fn say_answer(&mut self, index: u32, answer: &PublishAnswer) {
        self.meter.charge(cost::PACKET);
        let Some(session) = self.sessions.get(index) else { return };
        let (version, socket) = (session.version, session.socket().filter(|_| answer.wanted));
        let failed = (answer.reason as u8) >= 0x80;
        let counters = &mut self.counters;
        match answer.reason {
            _ if answer.dropped => counters.bridge_acks_dropped += 1,
            ReasonCode::UnspecifiedError if answer.copies > 0 => counters.bridge_acks_late += 1,
            _ if failed && answer.copies > 0 => counters.bridge_acks_refused += 1,
            _ => {}
        }
        // An MQTT 3 client cannot be told of a failure, and goes on as if the message had been
        // accepted.
        let again = failed && (version.is_v5() || answer.dropped);
        if answer.taken && again {
            // The identifier is free again, or the message is accepted when the client sends it
            // again.
            if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) {
                let before = flow.inbound.len();
                flow.inbound.release(answer.id);
                self.memory.tally.inbound -= before - flow.inbound.len();
            }
        } else if answer.taken {
            // Stored only now: if the process is killed before this, the client sends the message
            // again, and the bridge has it.
            if let (Some(storing), Some(socket)) = (&mut self.storing, socket) {
                storing.speaker = Speaker::Client(socket);
            }
            self.store_inbound(index, answer.id, true);
            self.end_packets();
        }
        let Some(socket) = socket else { return };
        if answer.dropped && !version.is_v5() {
            self.disconnect(socket, Cause::Undelivered);
            return;
        }
        self.write_ack(socket, version, answer.kind, answer.id, answer.reason);
    }

    /// Queues the answer to a publication behind the session's waiting answers. False when no copy
    /// of the publication and no earlier answer waits, so that the caller answers at once.
    #[inline(never)]
    pub(super) fn answer_later(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
        reason: ReasonCode,
    ) -> bool {
        let repeated = self.is_repeated(index, publish);
        let unanswered = &mut self.subscriptions.links.unanswered;
        let links = std::mem::take(&mut unanswered.current);
        let waits = !links.is_empty() && !Mutant::LinkAnswersEarly.is_on();
        let Some(id) = publish.id.filter(|_| waits || unanswered.clients.contains_key(&index))
        else {
            return false;
        };
        let copies = links.len() as u16;
        let first = unanswered.last + 1 - u64::from(copies);
        unanswered.serial += 1;
        let serial = unanswered.serial;
        for (number, &link) in (first..).zip(&links) {
            unanswered.copies.insert(number, Copy { session: index, link, serial });
        }
        let two = publish.qos == Qos::ExactlyOnce;
        let kind = if two { AckKind::PubRec } else { AckKind::PubAck };
        // As in `acknowledge`, but not for a message that comes again.
        let taken = two && ((reason as u8) < 0x80 || !version.is_v5());
        let taken = taken && !repeated;
        let (left, dropped, wanted) = (copies, false, true);
        let answer =
            PublishAnswer { serial, kind, id, reason, first, copies, left, dropped, wanted, taken };
        unanswered.len += 1;
        let client = unanswered.clients.entry(index).or_default();
        client.answers.push_back(answer);
        client.wanted += 1;
        let (wanted, all) = (client.wanted, client.answers.len());
        unanswered.current = links;
        unanswered.current.clear();
        if taken {
            self.use_flow(index);
            if let Some(session) = self.sessions.get_mut(index) {
                session.flow().inbound.insert(id);
                self.memory.tally.inbound += 1;
            }
        }
        // [MQTT-3.3.4-7]; QoS 2 was checked before.
        let most = usize::from(self.announced_to(socket).receive_maximum);
        if version.is_v5() && wanted > most {
            self.disconnect(socket, Cause::Violation(EXCEEDED));
        } else if all >= MOST {
            self.hold(socket, Holds::ANSWERS);
        }
        true
    }

    /// Whether the publication is a QoS 2 message that was accepted before [MQTT-4.3.3-10].
    pub(super) fn is_repeated(&self, index: u32, publish: &Publish<'_>) -> bool {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        match (publish.qos, publish.id, flow) {
            (Qos::ExactlyOnce, Some(id), Some(flow)) => {
                flow.inbound.arrival(id, u16::MAX) == Arrival::Duplicate
            }
            _ => false,
        }
    }

    /// Handles a QoS 2 message that has come again. False when the caller has to answer at once.
    pub(super) fn answers_again(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        publish: &Publish<'_>,
    ) -> bool {
        self.subscriptions.links.unanswered.is_used()
            && (self.waits_again(index, publish)
                || self.answer_later(socket, index, version, publish, ReasonCode::Success))
    }

    /// Whether a publication has come before, on this connection or an earlier one, and its answer
    /// still waits. Then the client waits for that answer, which moves behind the answers to what
    /// has come on this connection so far [MQTT-4.6.0-2].
    #[inline(never)]
    pub(super) fn waits_again(&mut self, index: u32, publish: &Publish<'_>) -> bool {
        let kind = match publish.qos {
            Qos::ExactlyOnce => AckKind::PubRec,
            _ => AckKind::PubAck,
        };
        if Mutant::LinkAnswersTwice.is_on() {
            return false;
        }
        let unanswered = &mut self.subscriptions.links.unanswered;
        let Some(client) = unanswered.clients.get_mut(&index) else { return false };
        self.meter.charge(cost::VISIT * (client.answers.len() / 16) as u32);
        let same = |answer: &PublishAnswer| Some(answer.id) == publish.id && answer.kind == kind;
        let Some(at) = client.answers.iter().rposition(same) else { return false };
        if client.answers.get(at).is_some_and(|answer| answer.wanted) {
            return true;
        }
        let Some(mut answer) = client.answers.remove(at) else { return false };
        unanswered.serial += 1;
        (answer.serial, answer.wanted) = (unanswered.serial, true);
        for number in answer.first..answer.first + u64::from(answer.copies) {
            if let Some(copy) = unanswered.copies.get_mut(&number) {
                copy.serial = answer.serial;
            }
        }
        client.wanted += 1;
        client.answers.push_back(answer);
        true
    }

    /// At the end of a step: settles copies that were dropped, and those that were waited for too
    /// long. True when some are left.
    #[inline]
    pub(super) fn answer_lost(&mut self) -> bool {
        self.subscriptions.links.unanswered.is_used() && self.answer_lost_and_late()
    }

    #[inline(never)]
    fn answer_lost_and_late(&mut self) -> bool {
        let mut lost = std::mem::take(&mut self.subscriptions.links.unanswered.lost);
        for number in lost.drain(..).filter(|_| !Mutant::LinkLossUnanswered.is_on()) {
            self.settle_copy(number, Some(LinkOutcome::Dropped));
        }
        self.subscriptions.links.unanswered.lost = lost;
        let late = |shard: &mut Shard| shard.subscriptions.links.next_late(shard.now);
        while let Some(number) = late(self) {
            if self.is_spent(self.settings.budget.step) {
                return true;
            }
            self.give_up_copy(number);
        }
        self.counters.bridge_acks_waiting = self.unanswered() as u64;
        false
    }

    /// Gives up a copy that was waited for long enough. An MQTT 3 client, which cannot be told of a
    /// failure, goes on waiting.
    fn give_up_copy(&mut self, number: u64) {
        let copy = self.subscriptions.links.unanswered.copies.get(&number).copied();
        let session = copy.and_then(|copy| self.sessions.get(copy.session));
        if session.is_some_and(|session| session.version.is_v5()) {
            self.settle_copy(number, None);
        }
    }
}

/// The numbers of a link's copies, and when each is given up, in the order of that time.
#[derive(Default)]
pub(super) struct AnswerDeadlines {
    due: VecDeque<(Instant, u64)>,
}

impl AnswerDeadlines {
    pub(super) fn push(&mut self, at: Instant, number: u64, unanswered: &Unanswered) {
        self.due.push_back((at, number));
        // Most copies are settled in order. The entries behind one that is not are looked through
        // now and then.
        while self.due.pop_front_if(|&mut (_, number)| unanswered.is_gone(number)).is_some() {}
        if self.due.len() > 64 && self.due.len() > 2 * unanswered.copies.len() {
            self.due.retain(|&(_, number)| !unanswered.is_gone(number));
        }
    }

    /// Takes out the next number that is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        self.due.pop_front_if(|&mut (at, _)| at <= now).map(|(_, number)| number)
    }
}
