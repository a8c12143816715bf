//! Replays retained messages for new subscriptions, in slices, from one shard after the other. A
//! replay waits while its client has no room, and is never truncated. The retained messages
//! themselves are in [`super::retain`].

use super::Shard;
use super::deliver::SendTerms;
use super::memory::Pressure;
use super::route::{NO_LOCAL, packed_qos};
use crate::ids::{SessionRef, ShardId};
use crate::limits::cost;
use crate::mesh::mail::{Control, ReplayRequest, ReplaySlice};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::Replay;
use crate::topic::{self, FilterId, TopicHash};

/// Most stored topics that are looked at for one slice.
const VISITS: usize = 2048;

/// Most messages in one slice.
const SLICE: u32 = 64;

/// A slice ends when it has more than this many bytes.
const SLICE_BYTES: usize = 64 * 1024;

/// How many messages are fetched at a time.
const FEW: usize = 8;

impl Shard {
    /// Begins to replay the retained messages that match a subscription.
    pub(super) fn begin_replay(&mut self, index: u32, filter: FilterId) {
        let text = self.subscriptions.index.filter(filter);
        if !self.topology.shared.retained_ever.may_match(text) {
            return;
        }
        let shard = if is_exact(text) {
            self.topology.retained_home(&TopicHash::new(&self.topology.shared.seeds, text))
        } else {
            ShardId(0)
        };
        self.use_flow(index);
        let ticket = self.topology.ticket();
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        flow.forget_overtaken();
        flow.replays.push(Replay {
            filter,
            ticket,
            shard,
            cursor: None,
            waiting: false,
            inherited: false,
        });
        self.wake_replay(index);
    }

    /// Goes on with replays until the step's work comes to `limit`; true when there is more to do
    /// at once.
    pub(super) fn run_replays(&mut self, limit: u32) -> bool {
        // The replays wait while memory is full, and none is lost.
        if self.memory.is_short(Pressure::Full) {
            return false;
        }
        while !self.is_spent(limit) {
            let Some(session) = self.retained.replays.pop_front() else { return false };
            self.meter.charge(cost::FILTER);
            self.next_slice(session);
        }
        !self.retained.replays.is_empty()
    }

    fn next_slice(&mut self, reference: SessionRef) {
        let index = reference.index;
        let Some(session) = self.session_of(reference) else { return };
        if let Some(flow) = &mut session.flow {
            flow.replay_listed = false;
        }
        if !self.takes_more(index) {
            return;
        }
        let limit = SLICE.min((self.pending_bounds_of(index).messages / 4).max(1) as u32);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(flow) = &mut session.flow else { return };
        let Some(replay) = flow.replays.front_mut().filter(|replay| !replay.waiting) else {
            return;
        };
        let (filter, ticket, shard) = (replay.filter, replay.ticket, replay.shard);
        if session.subscriptions.position(filter).is_none() {
            flow.replays.pop();
            self.wake_replay(index);
            return;
        }
        replay.waiting = true;
        let cursor = replay.cursor.take();
        let text: Box<str> = self.subscriptions.index.filter(filter).into();
        let request = ReplayRequest { session: reference, filter, ticket, text, cursor, limit };
        if shard == self.topology.id {
            self.answer_query(shard, request);
        } else {
            self.tell(shard, Control::Replay(Box::new(request)));
        }
    }

    /// Whether the client has room for a slice. A replay waits for room, because none of its
    /// messages may be dropped.
    fn takes_more(&self, index: u32) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let Some(socket) = session.socket() else { return false };
        let waiting = session.flow.as_ref().map_or(0, |flow| flow.pending.len());
        let bytes = session.flow.as_ref().map_or(0, |flow| flow.pending.bytes());
        let unsent = self
            .connections
            .get(socket.0)
            .and_then(|connection| connection.output.as_ref())
            .map_or(0, |output| output.unsent());
        let bounds = self.pending_bounds_of(index);
        unsent <= self.settings.low_water()
            && waiting <= bounds.messages / 4
            && bytes <= bounds.bytes / 4
    }

    /// Answers the request of a session for a slice of what is retained here. Data mail that was
    /// there before the request has been taken in: it may hold messages that were acknowledged
    /// before the session subscribed.
    pub(super) fn answer_query(&mut self, from: ShardId, request: ReplayRequest) {
        let slice = self.slice(request);
        self.counters.retained_slices += 1;
        self.meter.charge(slice.messages.len() as u32 * cost::MAIL);
        if from == self.topology.id {
            self.replayed(slice);
        } else {
            self.tell(from, Control::Replayed(Box::new(slice)));
        }
    }

    fn slice(&mut self, request: ReplayRequest) -> ReplaySlice {
        let ReplayRequest { session, filter, ticket, text, cursor, limit } = request;
        let (mut messages, mut bytes, mut cursor) = (Vec::<Message>::new(), 0, cursor);
        let (mut visits, mut done) = (VISITS, false);
        // A few at a time, so that a slice of large messages stays small in bytes.
        while !done && visits > 0 && messages.len() < limit as usize && bytes < SLICE_BYTES {
            let few = FEW.min(limit as usize - messages.len());
            let found = &mut |_: &str, message: &Message| {
                bytes += message.size();
                messages.push(message.clone());
            };
            self.meter.charge(cost::FILTER);
            match self.retained.messages.replay(&text, cursor.as_deref(), few, &mut visits, found) {
                topic::Pass::Done => (cursor, done) = (None, true),
                topic::Pass::More(next) => cursor = Some(next),
            }
        }
        self.meter.charge(cost::VISIT * (VISITS - visits) as u32);
        ReplaySlice { session, filter, ticket, messages, cursor }
    }

    /// Takes in a slice that was asked for.
    pub(super) fn replayed(&mut self, slice: ReplaySlice) {
        let ReplaySlice { session: reference, filter, ticket, messages, cursor } = slice;
        let index = reference.index;
        let shards = self.topology.shards;
        // Newer messages that were accepted already go first, while the replay is still there to be
        // marked as overtaken by them.
        if !Mutant::ReplayOvertakesFanout.is_on() {
            self.catch_up(index);
        }
        let Some(session) = self.sessions.get_of(index, reference.generation) else { return };
        let place = session.subscriptions.position(filter);
        let Some(flow) = &mut session.flow else { return };
        let asked = |replay: &&mut Replay| replay.waiting && replay.ticket == ticket;
        let Some(replay) = flow.replays.front_mut().filter(asked) else {
            return; // a slice for an earlier connection
        };
        replay.waiting = false;
        let since = replay.ticket;
        let text = place.map(|_| self.subscriptions.index.filter(filter));
        let done = match (&cursor, text) {
            (_, None) => true,
            (Some(_), _) => Mutant::ReplayTruncated.is_on(),
            (None, Some(text)) => is_exact(text) || replay.shard.0 + 1 >= shards,
        };
        if cursor.is_none() {
            replay.shard = ShardId(replay.shard.0 + 1);
        }
        replay.cursor = cursor;
        if done {
            flow.replays.pop();
        }
        let overtaken = flow.has_overtaken();
        if let Some(position) = place {
            let subscriber = *self.subscriptions.index.get_mut(filter, position);
            for message in &messages {
                if !overtaken || !self.is_stale(index, since, message) {
                    self.replay_one(index, subscriber, message);
                }
            }
        }
        self.wake_replay(index);
    }

    /// Whether the client has had a newer message on the topic than this retained one.
    fn is_stale(&self, index: u32, ticket: u64, message: &Message) -> bool {
        let hash = self.topology.shared.seeds.place(message.view().topic.as_bytes());
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        flow.is_some_and(|flow| flow.is_overtaken(hash, ticket))
    }

    fn replay_one(&mut self, index: u32, subscriber: topic::Subscriber, message: &Message) {
        let view = message.view();
        if subscriber.options & NO_LOCAL != 0 && self.is_publisher(index, &view) {
            return; // [MQTT-3.8.3-3]
        }
        let ids = [subscriber.subscription_id];
        let terms = SendTerms {
            qos: packed_qos(subscriber.options),
            retain: true, // [MQTT-3.3.1-8]
            subscription_ids: if ids[0] == 0 { &[] } else { &ids },
            replay: true,
            share: None,
        };
        self.delivery.current.begin(Some(message));
        self.deliver(index, &view, &terms);
        self.delivery.current.crowded.clear();
        self.counters.messages_retained_replayed += 1;
    }
}

fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}
