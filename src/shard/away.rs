//! Messages that wait only in the store: which messages go there, how they come back, and what
//! becomes of them when their session ends. Its identifiers of QoS 2 go in the same way;
//! its subscriptions: [`super::left`].
//!
//! A session that is stored has only the head of its queue in memory, which is small
//! ([`LogBounds::head`]); messages beyond that are *away* ([`crate::session::away`]). Once the
//! queues of the shard together have [`LogBounds::heads`] in memory, all that comes for clients
//! which are not connected goes away. When a client takes its messages and the head runs low, its
//! session stands in a line. At the end of a step, one command asks for what the first sessions in
//! line are to have next ([`super::reading`]); one such command is under way at a time. A message
//! whose body is still in memory does not have to be read: another session has the body, too, or
//! the batch with its record is not written yet.
//!
//! A command reads a record from where it is at the end of the step. Cleaning may move the record
//! while the read is under way, and then drops the segment; but commands are carried out in order,
//! and the drop is a later one. Whatever a read brings is compared with the checksum that the
//! record had when it was appended. If the checksum differs, the record is read again from wherever
//! it is by then.
//!
//! [`LogBounds::head`]: crate::storage::log::LogBounds::head
//! [`LogBounds::heads`]: crate::storage::log::LogBounds::heads

use super::Shard;
use super::storing::Storing;
use crate::ids::SessionRef;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::away::{AWAY, Away};
use crate::session::{AwayMessage, Queued};
use crate::storage::places::{RecordPlace, SegmentRange};
use crate::storage::record::{self, Record, StoredMessage, inbound_key, message_key};
use crate::time::Instant;
use std::collections::VecDeque;

/// Messages, and bytes, that a session gets back at a time, at most; one message in any case.
pub(super) const WINDOW: usize = 64;
pub(super) const WINDOW_BYTES: usize = 64 << 10;
/// Records, and bytes, of a command from which on no further session is added to it.
pub(super) const RECORDS: usize = 1024;
pub(super) const BYTES: usize = 1 << 20;
/// Microseconds until a failed read is tried again.
pub(super) const RETRY: u64 = 1_000_000;
/// How often a message is read whose record is not what was stored, before the message is given up.
pub(super) const TRIES: u8 = 3;
/// Messages and identifiers of ended sessions that are removed from the store per step.
const DEPARTING: usize = 512;

/// The messages that are on their way back into memory, and those of ended sessions that are to be
/// removed from the store.
#[derive(Default)]
pub(super) struct ReadingBack {
    /// Sessions that want messages back, each once.
    pub(super) line: VecDeque<SessionRef>,
    /// Sessions whose last read failed, and when each stands in line again, in microseconds.
    pub(super) failed: VecDeque<(u64, SessionRef)>,
    /// What the command that is under way asks for, in order.
    pub(super) asked: Vec<ReadBackRequest>,
    pub(super) under_way: bool,
    /// What that command has brought, to be handled in the next step.
    pub(super) arrived: Option<Vec<ReadBackResult>>,
    /// What is still stored of sessions that have ended, by the session's number in the store.
    pub(super) departing: VecDeque<(u64, EndedSessionData)>,
}

/// What a session leaves in the store when it ends; it is removed in later steps.
pub(super) enum EndedSessionData {
    /// Its away messages.
    Away(Box<Away>),
    /// Identifiers under which messages of QoS 2 came.
    Inbound(Vec<PacketId>),
}

pub(super) type ReadBackResult = Result<Vec<u8>, String>;

/// A message that a session is to get back.
pub(super) struct ReadBackRequest {
    pub(super) session: SessionRef,
    pub(super) message: AwayMessage,
    pub(super) from: BodySource,
}

pub(super) enum BodySource {
    /// The body is in memory.
    Here(Message),
    /// The record is to be read: it begins at that byte of its batch.
    Disk(usize),
    /// The record that is there is not what was stored.
    Damaged,
}

/// What came of bringing messages back to a session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BroughtOutcome {
    Well,
    /// What was read is not what was stored: the message is read again at once.
    Damaged,
    /// The record could not be read: it is tried again later.
    Badly,
}

impl ReadingBack {
    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        let places = self.line.capacity() + self.failed.capacity() + self.asked.capacity();
        let departing = self.departing.iter().map(|(_, departing)| match departing {
            EndedSessionData::Away(away) => away.len() * AWAY,
            EndedSessionData::Inbound(ids) => ids.capacity() * size_of::<PacketId>(),
        });
        places * size_of::<ReadBackRequest>() + departing.sum::<usize>()
    }

    /// When the next failed read is tried again, in microseconds.
    pub(super) fn due(&self) -> Option<u64> {
        self.failed.front().map(|&(due, _)| due)
    }

    /// A command has brought these spans.
    pub(super) fn arrive(&mut self, spans: Vec<ReadBackResult>) {
        self.arrived = Some(spans);
    }
}

impl Storing {
    /// The session with that number does not wait any more for a message that is away.
    pub(super) fn release_away(&mut self, session: Option<u64>, slot: u32, message: u64) {
        if let Some(session) = session {
            self.append(&Record::Ack { session, slot });
        }
        self.let_go_away(message);
    }

    fn let_go_away(&mut self, message: u64) {
        if self.bodies.let_go_away(message) {
            self.log.forget(message_key(message));
        }
    }

    /// What a session that ended has left is removed in later steps: the end of the session is
    /// stored already.
    pub(super) fn depart(&mut self, session: u64, departing: EndedSessionData) {
        self.reading.departing.push_back((session, departing));
    }

    /// Removes some of that; returns how many messages and identifiers.
    pub(super) fn depart_some(&mut self) -> usize {
        for worked in 0..DEPARTING {
            let Some((session, first)) = self.reading.departing.front_mut() else { return worked };
            let session = *session;
            let left = match first {
                EndedSessionData::Away(away) => away.pop().map(|gone| {
                    self.log.forget_slot(session, gone.slot);
                    self.let_go_away(gone.number);
                }),
                EndedSessionData::Inbound(ids) => {
                    ids.pop().map(|id| self.log.forget(inbound_key(session, id.get())))
                }
            };
            if left.is_none() {
                self.reading.departing.pop_front();
            }
        }
        DEPARTING
    }

    /// Where the body of an away message is, and the span that has to be read for it; `None` while
    /// its record is on its way to the disk.
    pub(super) fn look_for(
        &self,
        wanted: &AwayMessage,
    ) -> Option<(BodySource, Option<SegmentRange>)> {
        if let Some(message) = self.bodies.get(wanted.number) {
            return Some((BodySource::Here(message.clone()), None));
        }
        match self.log.locate(message_key(wanted.number)) {
            RecordPlace::Nowhere => Some((BodySource::Damaged, None)),
            RecordPlace::OnItsWay => None,
            RecordPlace::Here(bytes) => {
                let message = self.decode(wanted, bytes, &mut Vec::new());
                Some((message.map_or(BodySource::Damaged, BodySource::Here), None))
            }
            RecordPlace::There(span, offset) => Some((BodySource::Disk(offset), Some(span))),
        }
    }

    /// The message in a record, if it is the one that was stored. `scratch` is working memory.
    pub(super) fn decode(
        &self,
        wanted: &AwayMessage,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Option<Message> {
        if crc32c::crc32c(bytes) != wanted.checksum && !Mutant::StorageReadUnchecked.is_on() {
            return None;
        }
        match record::decode(bytes) {
            Ok((Record::Put { body, .. }, _)) => {
                Some(Message::new(&routed(&body, self.expiry_of(&body)), scratch))
            }
            _ => None,
        }
    }

    /// When a stored message expires; `None` for never.
    pub(super) fn expiry_of(&self, body: &StoredMessage<'_>) -> Option<Instant> {
        Some(self.instant(body.expires)).filter(|&at| at != Instant::END)
    }
}

/// A stored message in the form in which messages are routed.
pub(super) fn routed<'a>(body: &StoredMessage<'a>, expires: Option<Instant>) -> MessageRef<'a> {
    MessageRef {
        topic: body.topic,
        properties: body.properties,
        payload: body.payload,
        qos: Qos::from_u8(body.flags & 3).unwrap_or_default(),
        retain: body.flags & 4 != 0,
        expires,
        publisher: None,
    }
}

impl Shard {
    /// If a message is to wait only in the store, sends it there and returns what is kept of it in
    /// memory.
    pub(super) fn send_away(&mut self, index: u32, queued: &Queued) -> Option<AwayMessage> {
        let held = self.counters.pending_bytes - self.counters.pending_away_bytes;
        let storing = self.storing.as_mut()?;
        let session = self.sessions.get(index)?;
        let head = match session.socket() {
            Some(_) => storing.log.head(),
            None => storing.log.head_offline(held),
        };
        let kinds = (queued.qos, queued.share.is_some(), queued.stored);
        let size = queued.message.size();
        if !session.flow.as_ref()?.pending.goes_away(kinds, size, head) {
            return None;
        }
        let number = storing.bodies.take_slot(index, queued.stored)?;
        Some(AwayMessage {
            slot: queued.stored,
            number,
            size: size as u32,
            checksum: storing.bodies.send_away(number),
            qos: queued.qos,
            retain: queued.retain,
            subscription_ids: queued.subscription_ids.clone(),
        })
    }

    /// Updates the gauges of away messages after a change to a session, which had `before` of them.
    pub(super) fn note_away(&mut self, index: u32, before: (usize, usize)) {
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        let now = flow.map_or((0, 0), |flow| flow.pending.away());
        self.change_away(before, now);
    }

    pub(super) fn change_away(&mut self, before: (usize, usize), now: (usize, usize)) {
        let counters = &mut self.counters;
        counters.pending_away_messages += now.0 as u64;
        counters.pending_away_messages -= before.0 as u64;
        counters.pending_away_bytes += now.1 as u64;
        counters.pending_away_bytes -= before.1 as u64;
    }

    /// The away messages of a session that ends, and is stored under that number, are to be removed
    /// later.
    pub(super) fn leave_tail(&mut self, index: u32, session: u64) {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        let Some(away) = flow.pending.take_tail() else { return };
        let (messages, bytes) = (away.len(), away.bytes());
        self.counters.pending_messages -= messages as u64;
        self.counters.pending_bytes -= bytes as u64;
        self.counters.dropped_session_gone += messages as u64;
        self.change_away((messages, bytes), (0, 0));
        if let Some(storing) = &mut self.storing {
            storing.depart(session, EndedSessionData::Away(away));
        }
    }

    /// Puts a session whose head runs low in the line, so that it gets more of its queue into
    /// memory.
    pub(super) fn want_back(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let reference = SessionRef {
            shard: self.topology.id,
            index,
            generation: self.sessions.generation(index),
        };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let low = storing.log.head().0 / 2;
        if session.socket().is_none() {
            return;
        }
        let Some(flow) = &mut session.flow else { return };
        if flow.pending.here() > low {
            return;
        }
        if let Some(tail) = flow.pending.tail()
            && !std::mem::replace(&mut tail.listed, true)
        {
            storing.reading.line.push_back(reference);
        }
    }
}
