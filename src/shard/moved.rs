//! Sessions that move from one node of a cluster to another, as bytes. The bytes hold the time at
//! the sender and a [`MovedClient`] as in an upgrade ([`super::pack`], [`super::adopt`]), without
//! what belongs to its node: the connection, the will, and the grant with which the client was let
//! in. Moments are converted to the receiver's clock as if the transfer had taken no time.

use super::Shard;
use crate::limits::cost;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::PacketId;
use crate::session::Queued;
use crate::time::Instant;
use crate::topic::{self, FilterId};
use crate::upgrade::client::{self, MovedClient};
use crate::upgrade::code::{BodyReader, Code};

/// The size in bytes of the messages after which a part of a queue ends.
const PART: usize = 256 * 1024;

impl Shard {
    /// Packs a session's subscriptions.
    pub(super) fn pack_subscriptions(&self, index: u32) -> Vec<u8> {
        let Some(session) = self.sessions.get(index) else { return Vec::new() };
        let packed = self.pack_quiet(session);
        self.written(client::MovedSession { will: None, grant: None, ..packed })
    }

    /// Packs a session's window and queue, in parts.
    pub(super) fn pack_parts(&self, index: u32) -> Vec<Vec<u8>> {
        let Some(session) = self.sessions.get(index) else { return Vec::new() };
        let mut rest = match &session.flow {
            Some(flow) => self.pack_flow(index, flow),
            None => client::MovedFlow { first: 1, ..client::MovedFlow::default() },
        };
        // A publication that has no answer yet is left out: the client sends it again, and the
        // other node takes it then.
        let waits = |&id: &u16| {
            let unanswered = &self.subscriptions.links.unanswered;
            PacketId::new(id).is_some_and(|id| unanswered.is_waiting(index, id))
        };
        rest.inbound.retain(|id| !waits(id));
        rest.inbound_earlier.retain(|id| !waits(id));
        // The client's connection has ended, so no identifier belongs to a current one.
        rest.inbound_earlier.append(&mut rest.inbound);
        rest.retry = None;
        let queue = std::mem::take(&mut rest.pending);
        let mut parts = Vec::new();
        let mut bytes = 0;
        for waiting in queue {
            bytes += waiting.queued.message.size();
            rest.pending.push(waiting);
            if bytes >= PART {
                let next = client::MovedFlow { first: 1, ..client::MovedFlow::default() };
                let flow = Some(std::mem::replace(&mut rest, next));
                parts.push(self.written(client::MovedSession { flow, ..bare(&session.client_id) }));
                bytes = 0;
            }
        }
        parts.push(
            self.written(client::MovedSession { flow: Some(rest), ..bare(&session.client_id) }),
        );
        parts
    }

    /// The filters of a session without a connection whose retained messages its client is owed.
    pub(super) fn owed_filters(&self, index: u32) -> Vec<Box<str>> {
        let Some(session) = self.sessions.get(index) else { return Vec::new() };
        let Some(flow) = &session.flow else { return Vec::new() };
        let is_there = |filter: &FilterId| session.subscriptions.position(*filter).is_some();
        let owed = flow.replays.filters().filter(is_there);
        if Mutant::ClusterOwedLeft.is_on() {
            return Vec::new();
        }
        owed.map(|filter| self.subscriptions.index.filter(filter).into()).collect()
    }

    /// The client of a session without a connection is owed the retained messages of these filters.
    /// Those that it got of them at another node come again.
    pub(super) fn owe(&mut self, index: u32, filters: &[Box<str>]) {
        for filter in filters {
            self.meter.charge(cost::FILTER);
            let Some(filter) = self.subscriptions.index.find(filter) else { continue };
            let Some(session) = self.sessions.get(index) else { return };
            if session.subscriptions.position(filter).is_some() {
                self.begin_replay(index, filter);
            }
        }
        let flow = self.sessions.get_mut(index).and_then(|session| session.flow.as_mut());
        if let Some(flow) = flow {
            flow.inherit_replays(|_| true);
        }
    }

    fn written(&self, session: client::MovedSession) -> Vec<u8> {
        let mut bytes = self.now.0.to_le_bytes().to_vec();
        MovedClient { session: Some(session), connection: None }.put(&mut bytes);
        bytes
    }

    /// Creates the session of that ClientId with the packed subscriptions. `None` when the bytes
    /// are invalid or the session cannot be created.
    pub(super) fn place_moved(&mut self, name: &str, bytes: &[u8]) -> Option<u32> {
        let mut session = self.read_moved(bytes)?;
        let valid = |filter: &str| match topic::parse_share(filter) {
            Some(share) => share.is_ok(),
            None => topic::valid_filter(filter),
        };
        let sound = *session.client_id == *name
            && session.expiry > 0
            && session.subscriptions.iter().all(|one| valid(&one.filter));
        (session.will, session.grant, session.flow) = (None, None, None);
        if !sound {
            return None;
        }
        let placed = self.adopt_session(session, None);
        if placed.is_err()
            && let Some(index) = self.find_session(name)
        {
            self.end_moved(index);
        }
        placed.ok()
    }

    /// Reads a part of a window and a queue.
    pub(super) fn read_flow(&self, bytes: &[u8]) -> Option<client::MovedFlow> {
        self.read_moved(bytes)?.flow
    }

    fn read_moved(&self, bytes: &[u8]) -> Option<client::MovedSession> {
        let (then, bytes) = bytes.split_first_chunk::<8>()?;
        let then = u64::from_le_bytes(*then);
        let mut session = MovedClient::decode(bytes)?.session?;
        let ours = |at: Instant| match at {
            Instant::END => at,
            at => {
                let at = i128::from(at.0) - i128::from(then) + i128::from(self.now.0);
                Instant(at.clamp(0, LATEST) as u64)
            }
        };
        (session.connected, session.stored) = (None, None);
        session.ends = ours(session.ends);
        let mut sound = true;
        if let Some(flow) = &mut session.flow {
            // Nothing of the flow is in the store of this node.
            flow.away = Default::default();
            for sent in &mut flow.sent {
                (sent.kept, sent.body) = (None, None);
            }
            flow.pending.iter_mut().for_each(|waiting| waiting.kept = None);
            let sent = flow.sent.iter_mut().filter_map(|sent| sent.queued.as_mut());
            for queued in sent.chain(flow.pending.iter_mut().map(|waiting| &mut waiting.queued)) {
                sound &= topic::valid_name(queued.message.view().topic);
                queued.message = moved(queued, &ours);
            }
        }
        sound.then_some(session)
    }

    /// Puts the messages that have come before those that the session has collected here meanwhile.
    pub(super) fn put_flow_before(&mut self, index: u32, mut flow: client::MovedFlow) {
        if let Some(here) = self.take_flow(index) {
            flow.pending.extend(here.pending);
        }
        let is_empty = flow.sent.is_empty() && flow.pending.is_empty();
        if is_empty && flow.inbound_earlier.is_empty() {
            return;
        }
        // Adopting fails only for messages that are stored, and none of these is.
        let _ = self.adopt_flow(index, flow);
        if let Some(due) = self.sessions.get(index).and_then(|session| session.next_due()) {
            self.arm_session(index, due);
        }
    }

    /// Takes the window and the queue out of a session.
    pub(super) fn take_flow(&mut self, index: u32) -> Option<client::MovedFlow> {
        let flow = self.sessions.get_mut(index)?.flow.take()?;
        let gone = self.counters.dropped_session_gone;
        self.forget_flow(&flow);
        self.counters.dropped_session_gone = gone;
        Some(self.pack_flow(index, &flow))
    }

    /// Ends a session that has no connection and lives at another node by now. Its will is not
    /// sent.
    pub(super) fn end_moved(&mut self, index: u32) {
        self.take_will(index, |_, _| true);
        self.counters.sessions_persistent -= 1;
        self.end_session(index);
    }
}

/// Packs filters, in parts.
pub(super) fn pack_owed(filters: &[Box<str>]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for filter in filters {
        filter.put(&mut part);
        if part.len() >= PART {
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Reads what [`pack_owed`] has written, up to what is no filter.
pub(super) fn read_owed(bytes: &[u8]) -> impl Iterator<Item = Box<str>> {
    let mut rest = BodyReader::new(bytes);
    std::iter::from_fn(move || Box::<str>::get(&mut rest))
}

/// The latest moment on a clock, apart from the end of time.
const LATEST: i128 = i64::MAX as i128;

/// A session of which only the window and the queue are used.
fn bare(client_id: &str) -> client::MovedSession {
    client::MovedSession {
        client_id: client_id.into(),
        mountpoint: Box::default(),
        level: 5,
        problem_information: false,
        bridge: false,
        expiry: 0,
        ends: Instant::END,
        maximum_packet_size: 0,
        window_limit: 0,
        connected: None,
        subscriptions: Vec::new(),
        will: None,
        grant: None,
        flow: None,
        stored: None,
    }
}

/// A copy of the message with its expiry on this clock, and without its publisher, which is no
/// client of this node.
fn moved(queued: &Queued, ours: &impl Fn(Instant) -> Instant) -> Message {
    let message = queued.message.view();
    let (expires, publisher) = (message.expires.map(ours), None);
    Message::new(&MessageRef { expires, publisher, ..message }, &mut Vec::new())
}
