//! Publications whose PUBACK or PUBREC waits until the other end of a bridge has them
//! (`puback: delivered`).
//!
//! A link whose publishers wait ([`LinkPlan::answering`]) numbers each copy that it takes of a
//! message of QoS 1 or 2 that a client has published here. The bridge says what became of the
//! numbers ([`Shard::confirm`]), in any order. Until then the client has no answer, and everything
//! that it publishes afterwards is answered behind it, so that answers come in the order of the
//! publications [MQTT-4.6.0-2, MQTT-4.6.0-3]; nothing else waits, neither its other packets nor
//! what it subscribes to. QoS 0 never waits, nor does what no client publishes.
//!
//! An answer belongs to the session. When the connection ends nobody waits for it any more, and a
//! client that sends the publication again on the next one waits for the same answer: the message
//! is not taken twice. How many answers one client can have open is bounded ([`MOST`]): who has so
//! many is read no further.
//!
//! A link that loses a message, a bridge whose other end refuses it, and a bridge that is closed
//! answer with a reason code. MQTT 3 has none: a message that was lost ends the connection
//! [MQTT-3.3.5-2], so that the client sends it again, and one that is refused, which would be
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

/// Publications of one client that wait for their answers before it is read no further. A client of
/// MQTT 5 has at most `mqtt.receive_maximum` of its connection's, and some of earlier ones.
const MOST: usize = 1024;
/// Bytes of memory of a copy that is waited for, and of an answer.
const COPY: usize = 48;
const ANSWER: usize = size_of::<Answer>();

const EXCEEDED: Violation = Violation {
    reason: ReasonCode::ReceiveMaximumExceeded,
    what: "more messages without an answer than Receive Maximum",
};

/// What a publication is to be answered.
struct Answer {
    /// Its place among all answers of the shard, in the order in which their publications came.
    serial: u64,
    kind: AckKind,
    id: PacketId,
    reason: ReasonCode,
    /// The number of its first copy; of the next one that there will be when it has none.
    first: u64,
    copies: u16,
    /// Copies of which nothing is known yet.
    left: u16,
    /// A copy was lost for want of room, or with its bridge.
    dropped: bool,
    /// The client's connection waits for it.
    wanted: bool,
    /// It is a QoS 2 message that was taken: its identifier is among those that came in.
    taken: bool,
}

/// The answers of one session, oldest first.
#[derive(Default)]
struct Client {
    answers: VecDeque<Answer>,
    /// Those that its connection waits for.
    wanted: usize,
}

/// Where a copy's number leads to.
#[derive(Clone, Copy)]
struct Copy {
    session: u32,
    link: LinkId,
    /// The answer that waits for it.
    serial: u64,
}

/// All answers of a shard that wait.
#[derive(Default)]
pub(super) struct Unanswered {
    clients: HashMap<u32, Client, foldhash::fast::FixedState>,
    copies: HashMap<u64, Copy, foldhash::fast::FixedState>,
    /// The number of the last copy.
    last: u64,
    /// That of the last answer.
    serial: u64,
    /// The links that took copies of the message which is being routed, in the order of numbers.
    current: Vec<LinkId>,
    /// What is being routed is published for somebody who gets no acknowledgement.
    pub(super) for_owner: bool,
    /// Numbers of copies that were lost here in this step.
    lost: Vec<u64>,
    /// Links whose publishers wait.
    links: usize,
    /// Answers that wait.
    len: usize,
}

impl Unanswered {
    /// A link whose publishers wait is opened. `zero`: milliseconds since 1970 at the zero of the
    /// shard's time. Numbers begin there: what an earlier process has left on a bridge's disk has
    /// none of those that are given out now.
    pub(super) fn link_opened(&mut self, zero: u64) {
        self.links += 1;
        self.last = self.last.max(zero << 16);
    }

    /// Publishers of a link do not wait any more, but for what it took before.
    pub(super) fn link_silenced(&mut self) {
        self.links -= 1;
    }

    /// A link is closed: who waits for what it took is told that this is lost.
    pub(super) fn lose_link(&mut self, link: LinkId) {
        let ends = self.copies.iter().filter(|(_, copy)| copy.link == link);
        self.lost.extend(ends.map(|(&number, _)| number));
        self.lost.sort_unstable();
    }

    /// Whether publications may have to wait, or do.
    #[inline]
    pub(super) fn is_used(&self) -> bool {
        self.links != 0 || !self.clients.is_empty()
    }

    /// Answers that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        self.len * ANSWER + self.copies.len() * COPY
    }

    /// The number of the copy that a link takes of the message which is being routed.
    pub(super) fn number(&mut self, link: LinkId) -> u64 {
        self.last += 1;
        self.current.push(link);
        self.last
    }

    /// A copy was lost for want of room.
    pub(super) fn lose(&mut self, number: u64) {
        if !self.is_gone(number) {
            self.lost.push(number);
        }
    }

    /// Whether nobody waits for a copy. For those of the message that is being routed somebody
    /// will.
    fn is_gone(&self, number: u64) -> bool {
        number + self.current.len() as u64 <= self.last && !self.copies.contains_key(&number)
    }

    /// Its connection has ended.
    #[inline]
    pub(super) fn connection_ended(&mut self, session: u32) {
        if let Some(client) = self.clients.get_mut(&session) {
            client.wanted = 0;
            client.answers.iter_mut().for_each(|answer| answer.wanted = false);
        }
    }

    /// The session has ended.
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

    /// The identifiers of QoS 2 messages of a session that wait.
    pub(super) fn is_waiting(&self, session: u32, id: PacketId) -> bool {
        let waits = |answer: &Answer| answer.id == id && answer.kind == AckKind::PubRec;
        self.clients.get(&session).is_some_and(|client| client.answers.iter().any(waits))
    }

    /// What became of a copy; its session, when somebody waits for it.
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

    /// The next answer of a session that can be given.
    fn next_of(&mut self, session: u32) -> Option<Answer> {
        let client = self.clients.get_mut(&session)?;
        let ready = |answer: &Answer| answer.left == 0;
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

    /// Whether the session has room for more.
    fn has_room(&self, session: u32) -> bool {
        self.clients.get(&session).is_none_or(|client| client.answers.len() < MOST)
    }
}

impl Shard {
    /// What became of messages that publishers wait for, by the numbers in a link's records. Those
    /// that nobody waits for, such as those of an earlier process, are ignored.
    pub fn confirm(&mut self, outcomes: &[(u64, LinkOutcome)]) {
        for &(number, outcome) in outcomes {
            if Mutant::LinkAnswerForgotten.is_on() && number % 8 == 0 {
                continue;
            }
            self.settle_copy(number, Some(outcome));
        }
    }

    /// Publications that wait for their answers.
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
            && let Some(socket) = self.sessions.get(session).and_then(|session| session.socket)
        {
            self.free(socket, Holds::ANSWERS);
        }
        self.counters.bridge_acks_waiting = self.unanswered() as u64;
    }

    /// A client that comes back with as many answers open as it may have is not read before some
    /// are given.
    pub(super) fn hold_unanswered(&mut self, index: u32) {
        if !self.subscriptions.links.unanswered.has_room(index)
            && let Some(socket) = self.sessions.get(index).and_then(|session| session.socket)
        {
            self.hold(socket, Holds::ANSWERS);
        }
    }

    fn say_answer(&mut self, index: u32, answer: &Answer) {
        self.meter.charge(cost::PACKET);
        let Some(session) = self.sessions.get(index) else { return };
        let (version, socket) = (session.version, session.socket.filter(|_| answer.wanted));
        let failed = (answer.reason as u8) >= 0x80;
        let counters = &mut self.counters;
        match answer.reason {
            _ if answer.dropped => counters.bridge_acks_dropped += 1,
            ReasonCode::UnspecifiedError if answer.copies > 0 => counters.bridge_acks_late += 1,
            _ if failed && answer.copies > 0 => counters.bridge_acks_refused += 1,
            _ => {}
        }
        // MQTT 3 goes on with what is not told.
        let again = failed && (version.is_v5() || answer.dropped);
        if answer.taken && again {
            // The identifier is free again; or the message is taken again when it comes again.
            if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) {
                let before = flow.inbound.len();
                flow.inbound.release(answer.id);
                self.memory.tally.inbound -= before - flow.inbound.len();
            }
        } else if answer.taken {
            // Only now: should the process be killed before, the client sends it again, and the
            // bridge has it.
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

    /// Answers a publication, of which links may have taken copies, behind those that wait; false
    /// when nothing does, and it is answered at once.
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
        // As in `acknowledge`; not one that comes again.
        let taken = two && ((reason as u8) < 0x80 || !version.is_v5());
        let taken = taken && !repeated;
        let (left, dropped, wanted) = (copies, false, true);
        let answer =
            Answer { serial, kind, id, reason, first, copies, left, dropped, wanted, taken };
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
        // [MQTT-3.3.4-7]; what comes at QoS 2 was looked at before.
        let most = usize::from(self.announced_to(socket).receive_maximum);
        if version.is_v5() && wanted > most {
            self.disconnect(socket, Cause::Violation(EXCEEDED));
        } else if all >= MOST {
            self.hold(socket, Holds::ANSWERS);
        }
        true
    }

    /// A message of QoS 2 that was taken before [MQTT-4.3.3-10].
    pub(super) fn is_repeated(&self, index: u32, publish: &Publish<'_>) -> bool {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        match (publish.qos, publish.id, flow) {
            (Qos::ExactlyOnce, Some(id), Some(flow)) => {
                flow.inbound.arrival(id, u16::MAX) == Arrival::Duplicate
            }
            _ => false,
        }
    }

    /// A QoS 2 message has come again: false when it is answered at once.
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
    /// still waits: then the client waits for that. Answers are in the order in which publications
    /// have come on this connection [MQTT-4.6.0-2].
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
        let same = |answer: &Answer| Some(answer.id) == publish.id && answer.kind == kind;
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

    /// The end of a step: copies that were lost, and those that were waited for too long.
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

    /// A copy was waited for long enough. A client of MQTT 3, which cannot be told, waits on.
    fn give_up_copy(&mut self, number: u64) {
        let copy = self.subscriptions.links.unanswered.copies.get(&number).copied();
        let session = copy.and_then(|copy| self.sessions.get(copy.session));
        if session.is_some_and(|session| session.version.is_v5()) {
            self.settle_copy(number, None);
        }
    }
}

/// Numbers of a link's copies and when they are given up, in that order.
#[derive(Default)]
pub(super) struct Patience {
    due: VecDeque<(Instant, u64)>,
}

impl Patience {
    pub(super) fn push(&mut self, at: Instant, number: u64, unanswered: &Unanswered) {
        self.due.push_back((at, number));
        // Most go in order. What one that does not holds up is looked through now and then.
        while self.due.pop_front_if(|&mut (_, number)| unanswered.is_gone(number)).is_some() {}
        if self.due.len() > 64 && self.due.len() > 2 * unanswered.copies.len() {
            self.due.retain(|&(_, number)| !unanswered.is_gone(number));
        }
    }

    /// The next one that is due, taken out.
    pub(super) fn next(&mut self, now: Instant) -> Option<u64> {
        self.due.pop_front_if(|&mut (at, _)| at <= now).map(|(_, number)| number)
    }
}
