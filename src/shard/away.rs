//! Messages that wait in the store only: which go there, how they come back, and what becomes of
//! those of a session that has ended.
//!
//! A session that is stored has a small head of its queue in memory ([`Bounds::head`]); what comes
//! beyond it is *away* ([`crate::session::away`]). When a client takes its messages and the head
//! runs low, its session stands in a line; at the end of a step, what the first of them are to have
//! next is asked for in one command ([`super::reading`]), of which one is under way at a time. A
//! message that is still in memory needs none of that: its body is another session's, too, or its
//! batch is not written yet.
//!
//! A read asks for where a record is at the end of the step. Cleaning may move the record while the
//! read is under way, and the segment is dropped then; but commands are carried out in order, and
//! the drop is a later one. Whatever a read brings is compared with the checksum that the record
//! had when it was appended: if it differs, it is read again from wherever the record is by then.
//!
//! [`Bounds::head`]: crate::storage::log::Bounds::head

use super::Shard;
use super::storing::Storing;
use crate::ids::SessionRef;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::Qos;
use crate::session::away::{AWAY, Away};
use crate::session::{AwayMessage, Queued};
use crate::storage::places::{RecordPlace, Span};
use crate::storage::record::{self, Record, StoredMessage, message_key, slot_keys};
use crate::time::Instant;
use std::collections::VecDeque;

/// Messages that a session is brought at a time, and their bytes; one in any case.
pub(super) const WINDOW: usize = 64;
pub(super) const WINDOW_BYTES: usize = 64 << 10;
/// Records of one command, and their bytes, before no further session has its turn.
pub(super) const RECORDS: usize = 1024;
pub(super) const BYTES: usize = 1 << 20;
/// Microseconds until what could not be read is tried again.
pub(super) const RETRY: u64 = 1_000_000;
/// How often a message may be read that is not what was stored, before it is given up.
pub(super) const TRIES: u8 = 3;
/// Messages of ended sessions that are worked off per step.
const DEPARTING: usize = 512;

/// What is on its way back, and what is to go.
#[derive(Default)]
pub(super) struct Reading {
    /// Sessions that want messages back, each once.
    pub(super) line: VecDeque<SessionRef>,
    /// Those whose last read failed, and when they stand in line again, microseconds.
    pub(super) failed: VecDeque<(u64, SessionRef)>,
    /// What the command that is under way asks for, in order.
    pub(super) asked: Vec<Asked>,
    pub(super) under_way: bool,
    /// What it has brought, to be looked at in the next step.
    pub(super) arrived: Option<Vec<Bytes>>,
    /// What sessions had away that have ended, by their number in the store.
    pub(super) departing: VecDeque<(u64, Box<Away>)>,
}

pub(super) type Bytes = Result<Vec<u8>, String>;

/// A message that a session is to have back.
pub(super) struct Asked {
    pub(super) session: SessionRef,
    pub(super) message: AwayMessage,
    pub(super) from: Source,
}

pub(super) enum Source {
    /// It is in memory.
    Here(Message),
    /// It is read: a record from that byte of its batch on.
    Disk(usize),
    /// What is there is not what was stored.
    Damaged,
}

/// How a session fared with what it was brought.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BroughtOutcome {
    Well,
    /// What was read is not what was stored: it is read again at once.
    Damaged,
    /// It cannot be read: it is tried again later.
    Badly,
}

impl Reading {
    /// Bytes of memory.
    pub(super) fn held(&self) -> usize {
        let places = self.line.capacity() + self.failed.capacity() + self.asked.capacity();
        let departing: usize = self.departing.iter().map(|(_, away)| away.len() * AWAY).sum();
        places * size_of::<Asked>() + departing
    }

    /// When a read is tried again, microseconds.
    pub(super) fn due(&self) -> Option<u64> {
        self.failed.front().map(|&(due, _)| due)
    }

    /// A command has brought that.
    pub(super) fn arrive(&mut self, spans: Vec<Bytes>) {
        self.arrived = Some(spans);
    }
}

impl Storing {
    /// A message that is away does not wait for the session any more.
    pub(super) fn release_away(&mut self, index: u32, slot: u32, message: u64) {
        if let Some(session) = self.number(index) {
            self.append(&Record::Ack { session, slot });
        }
        self.let_go_away(message);
    }

    fn let_go_away(&mut self, message: u64) {
        if self.bodies.let_go_away(message) {
            self.log.forget(message_key(message));
        }
    }

    /// What a session that ended had away goes in later steps: its end is stored already.
    pub(super) fn depart(&mut self, session: u64, away: Box<Away>) {
        self.reading.departing.push_back((session, away));
    }

    /// Works off some of that; returns how many.
    pub(super) fn depart_some(&mut self) -> usize {
        for worked in 0..DEPARTING {
            let Some((session, away)) = self.reading.departing.front_mut() else { return worked };
            let session = *session;
            let Some(gone) = away.pop() else {
                self.reading.departing.pop_front();
                continue;
            };
            slot_keys(session, gone.slot).into_iter().for_each(|key| self.log.forget(key));
            self.let_go_away(gone.number);
        }
        DEPARTING
    }

    /// Where a message that is away is, and the span that has to be read for it; `None` while it is
    /// on its way to the disk.
    pub(super) fn look_for(&self, wanted: &AwayMessage) -> Option<(Source, Option<Span>)> {
        if let Some(message) = self.bodies.get(wanted.number) {
            return Some((Source::Here(message.clone()), None));
        }
        match self.log.locate(message_key(wanted.number)) {
            RecordPlace::Nowhere => Some((Source::Damaged, None)),
            RecordPlace::OnItsWay => None,
            RecordPlace::Here(bytes) => {
                let message = self.decode(wanted, bytes);
                Some((message.map_or(Source::Damaged, Source::Here), None))
            }
            RecordPlace::There(span, offset) => Some((Source::Disk(offset), Some(span))),
        }
    }

    /// The message in a record, if it is the one that was stored.
    pub(super) fn decode(&self, wanted: &AwayMessage, bytes: &[u8]) -> Option<Message> {
        if crc32c::crc32c(bytes) != wanted.checksum && !Mutant::StorageReadUnchecked.is_on() {
            return None;
        }
        match record::decode(bytes) {
            Ok((Record::Put { body, .. }, _)) => {
                Some(Message::new(&routed(&body, self.expiry_of(&body)), &mut Vec::new()))
            }
            _ => None,
        }
    }

    /// When a stored message expires; `None` for never.
    pub(super) fn expiry_of(&self, body: &StoredMessage<'_>) -> Option<Instant> {
        Some(self.instant(body.expires)).filter(|&at| at != Instant::END)
    }
}

/// A stored message, as it is routed.
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
    /// What of a message is kept in memory, if it is to wait in the store only.
    pub(super) fn send_away(&mut self, index: u32, queued: &Queued) -> Option<AwayMessage> {
        let storing = self.storing.as_mut()?;
        let pending = &self.sessions.get(index)?.flow.as_ref()?.pending;
        let kinds = (queued.qos, queued.share.is_some(), queued.stored);
        let size = queued.message.size();
        if !pending.goes_away(kinds, size, storing.log.head()) {
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

    /// The gauges of what is away, when that was `before` for the session.
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

    /// What is away of a session that ends, and is stored under that number, is worked off later.
    pub(super) fn leave_tail(&mut self, index: u32, session: u64) {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        let Some(away) = flow.pending.take_tail() else { return };
        let (messages, bytes) = (away.len(), away.bytes());
        self.counters.pending_messages -= messages as u64;
        self.counters.pending_bytes -= bytes as u64;
        self.counters.dropped_session_gone += messages as u64;
        self.change_away((messages, bytes), (0, 0));
        if let Some(storing) = &mut self.storing {
            storing.depart(session, away);
        }
    }

    /// A session whose head runs low gets more of its queue into memory.
    pub(super) fn want_back(&mut self, index: u32) {
        let Some(storing) = &mut self.storing else { return };
        let reference = SessionRef {
            shard: self.topology.id,
            index,
            generation: self.sessions.generation(index),
        };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let low = storing.log.head().0 / 2;
        let Some(flow) = session.flow.as_mut().filter(|_| session.socket.is_some()) else { return };
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
