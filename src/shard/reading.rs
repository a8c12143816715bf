//! Reads messages that are only in the store back into memory. The sessions whose clients can take
//! their messages stand in a line. At the end of a step, one command asks for what the first of
//! these sessions are to have next.

use super::Shard;
use super::away::{
    BYTES, BodySource, BroughtOutcome, RECORDS, RETRY, ReadBackRequest, ReadBackResult, TRIES,
    WINDOW, WINDOW_BYTES,
};
use super::drops::DropReason;
use crate::ids::SessionRef;
use crate::limits::cost;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::{AwayMessage, Queued};
use crate::storage::{StorageCommand, frame};

impl Shard {
    /// The end of a step: gives what was read to its sessions, asks for what clients are to have
    /// next, and works off what ended sessions had in the store. True when there is more to do at
    /// once.
    pub(super) fn run_reading(&mut self) -> bool {
        let Some(storing) = &mut self.storing else { return false };
        let departed = storing.depart_some();
        self.meter.charge(departed as u32 * cost::VISIT);
        let now = storing.micros;
        while let Some((_, session)) = storing.reading.failed.pop_front_if(|(due, _)| *due <= now) {
            storing.reading.line.push_back(session);
        }
        let more = !storing.reading.departing.is_empty();
        if let Some(spans) = storing.reading.arrived.take() {
            storing.reading.under_way = false;
            self.bring_bodies(spans);
        }
        // What is in memory already is given to its sessions at once, and then there may be more of
        // that.
        if self.ask_for_bodies() {
            self.bring_bodies(Vec::new());
            return true;
        }
        more
    }

    /// Asks for what the first sessions in line are to have. True when all of that is in memory
    /// already.
    fn ask_for_bodies(&mut self) -> bool {
        let Some(storing) = &mut self.storing else { return false };
        if storing.reading.under_way {
            return false;
        }
        let (mut spans, mut bytes) = (Vec::new(), 0);
        for _ in 0..storing.reading.line.len() {
            if bytes >= BYTES || storing.reading.asked.len() >= RECORDS {
                break;
            }
            let Some(reference) = storing.reading.line.pop_front() else { break };
            let session = self.sessions.get_of(reference.index, reference.generation);
            let Some(tail) = session.and_then(|s| s.flow.as_mut()?.pending.tail()) else {
                continue;
            };
            let before = bytes;
            for message in tail.iter().take(WINDOW) {
                let size = message.size as usize + 1;
                if bytes > before && bytes - before + size > WINDOW_BYTES {
                    break;
                }
                let Some((from, span)) = storing.look_for(&message) else { break };
                bytes += size;
                spans.extend(span);
                storing.reading.asked.push(ReadBackRequest { session: reference, message, from });
            }
            if bytes == before {
                // The session has its turn again when what is on its way to the disk has come
                // there.
                storing.reading.line.push_back(reference);
            }
        }
        self.meter.charge(storing.reading.asked.len() as u32 * cost::VISIT);
        if spans.is_empty() {
            return !storing.reading.asked.is_empty();
        }
        storing.reading.under_way = true;
        storing.log.commands.push(StorageCommand::Read { spans });
        false
    }

    /// Gives what was asked for to its sessions, in order.
    fn bring_bodies(&mut self, spans: Vec<ReadBackResult>) {
        let Some(storing) = &mut self.storing else { return };
        let asked = std::mem::take(&mut storing.reading.asked);
        let (mut spans, mut last) = (spans.into_iter(), None::<(SessionRef, BroughtOutcome)>);
        for ReadBackRequest { session, message, from } in asked {
            if let Some((other, outcome)) = last.filter(|&(other, _)| other != session) {
                self.go_on_with(other, outcome);
                last = None;
            }
            let bytes = match from {
                BodySource::Disk(_) => spans.next(),
                BodySource::Here(_) | BodySource::Damaged => None,
            };
            let (_, outcome) = last.get_or_insert((session, BroughtOutcome::Well));
            if *outcome == BroughtOutcome::Well {
                *outcome = self.bring_body(session, &message, from, bytes);
            }
        }
        if let Some((session, outcome)) = last {
            self.go_on_with(session, outcome);
        }
    }

    fn bring_body(
        &mut self,
        session: SessionRef,
        message: &AwayMessage,
        from: BodySource,
        bytes: Option<ReadBackResult>,
    ) -> BroughtOutcome {
        let Some(storing) = &mut self.storing else { return BroughtOutcome::Badly };
        let body = match (from, bytes) {
            (BodySource::Here(body), _) => Some(body),
            (BodySource::Disk(offset), Some(Ok(mut bytes))) => {
                frame::unframe(offset, &mut bytes);
                storing.decode(message, &bytes, self.delivery.scratch.bytes())
            }
            (BodySource::Disk(_), Some(Err(why))) => {
                storing.log.cannot_read(&why);
                return BroughtOutcome::Badly;
            }
            (BodySource::Damaged | BodySource::Disk(_), _) => None,
        };
        self.meter.charge(cost::DELIVERY);
        match body {
            Some(body) => {
                self.come_back(session, message, body);
                BroughtOutcome::Well
            }
            None => self.is_damaged(session, message),
        }
    }

    /// Puts a message back into its session's queue, unless the message was dropped meanwhile.
    fn come_back(&mut self, session: SessionRef, message: &AwayMessage, body: Message) {
        let Some(storing) = &mut self.storing else { return };
        let known = self.sessions.get_of(session.index, session.generation);
        let Some(flow) = known.and_then(|session| session.flow.as_mut()) else { return };
        let pending = &mut flow.pending;
        if pending.tail().and_then(|tail| tail.front()).is_none_or(|front| front != *message) {
            return;
        }
        let before = pending.away();
        let AwayMessage { slot, number, checksum, qos, retain, ref subscription_ids, .. } =
            *message;
        storing.bodies.set_slot(session.index, slot, number);
        let queued = Queued {
            message: storing.bodies.come_back(number, body, checksum),
            subscription_ids: subscription_ids.clone(),
            qos,
            retain,
            share: None,
            stored: slot,
        };
        pending.come_back(queued);
        self.note_away(session.index, before);
    }

    /// Handles a message whose bytes differ from what was stored: it is read again, and given up
    /// after some tries.
    fn is_damaged(&mut self, session: SessionRef, message: &AwayMessage) -> BroughtOutcome {
        let index = session.index;
        let known = self.sessions.get_of(index, session.generation);
        let Some(known) = known else { return BroughtOutcome::Badly };
        let Some(flow) = &mut known.flow else { return BroughtOutcome::Badly };
        let before = (flow.pending.away(), flow.pending.bytes());
        let Some(tail) = flow.pending.tail() else { return BroughtOutcome::Badly };
        if tail.front().is_none_or(|front| front != *message) {
            return BroughtOutcome::Well;
        }
        tail.failures += 1;
        if tail.failures < TRIES {
            return BroughtOutcome::Damaged;
        }
        let (client_id, shard) = (&*known.client_id, self.topology.id.0);
        tracing::error!(client_id, shard, "a stored message is damaged on the disk and is lost");
        flow.pending.drop_away();
        self.counters.pending_messages -= 1;
        self.counters.pending_bytes -= (before.1 - flow.pending.bytes()) as u64;
        self.note_away(index, before.0);
        self.lose(index, DropReason::Unreadable, 1);
        self.store_all_gone(index);
        BroughtOutcome::Well
    }

    /// Goes on with a session that has got what could be read for it.
    fn go_on_with(&mut self, session: SessionRef, outcome: BroughtOutcome) {
        let Some(storing) = &mut self.storing else { return };
        let known = self.sessions.get_of(session.index, session.generation);
        let Some(flow) = known.and_then(|session| session.flow.as_mut()) else { return };
        if let Some(tail) = flow.pending.tail() {
            tail.listed = outcome != BroughtOutcome::Well;
            match outcome {
                BroughtOutcome::Well => {}
                BroughtOutcome::Damaged | BroughtOutcome::Badly
                    if Mutant::StorageReadGivenUp.is_on() => {}
                BroughtOutcome::Damaged => storing.reading.line.push_back(session),
                BroughtOutcome::Badly => {
                    storing.reading.failed.push_back((storing.micros + RETRY, session));
                }
            }
        }
        self.pump(session.index);
    }
}
