//! Retained messages: stored on the shard that the topic name hashes to, and replayed to new
//! subscriptions in slices, one shard after the other, never truncated.

use super::Shard;
use super::deliver::Terms;
use super::memory::{Pressure, retained};
use super::route::{NO_LOCAL, packed_qos};
use crate::ids::{SessionRef, ShardId};
use crate::limits::cost;
use crate::mesh::mail::{Control, ReplayRequest, ReplaySlice};
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::session::Replay;
use crate::topic::{self, FilterId, TopicHash};
use std::sync::Arc;

/// Most messages of one slice.
const SLICE: u32 = 64;
/// A slice ends past this many bytes.
const SLICE_BYTES: usize = 64 * 1024;
/// Messages fetched at a time.
const FEW: usize = 8;
/// Most stored topics looked at for one slice.
const VISITS: usize = 2048;
/// Stored messages looked at for expiry per round of upkeep.
const SWEEP: usize = 4096;

impl Shard {
    /// Sets or, with an empty payload, clears a topic's retained message [MQTT-3.3.1-5 to 7].
    pub(super) fn keep_retained(&mut self, message: &MessageRef<'_>) {
        let kept =
            Mutant::RetainedNotReplaced.is_on() && self.retained.get(message.topic).is_some();
        if kept && !message.payload.is_empty() {
            return;
        }
        if message.payload.is_empty() {
            if Mutant::RetainedNotCleared.is_on() {
                return;
            }
            if let Some(old) = self.retained.remove(message.topic) {
                self.uncount_retained(&old);
                self.store_unretained(message.topic);
            }
            return;
        }
        let settings = Arc::clone(&self.settings);
        let expires = match (message.expires, settings.retained_expiry) {
            (None, millis) if millis > 0 => Some(self.now.plus_millis(millis)),
            (expires, _) => expires,
        };
        let kept = MessageRef { expires, retain: true, ..*message };
        // The old value is superseded even when the new one cannot be kept: nobody may be told a
        // value that is no longer true.
        let mut room = 0;
        if let Some(old) = self.retained.remove(message.topic) {
            self.uncount_retained(&old);
            room = old.size();
            if self.storing.is_some() {
                // Below the new value goes behind it, if that is kept.
                self.store_unretained(message.topic);
            }
        }
        let size = kept.size() as u64;
        if self.is_short(Pressure::Tight)
            && kept.size() > room
            && !topic::is_servers_own(message.topic)
            && !Mutant::MemoryRetainedTaken.is_on()
        {
            self.counters.dropped_memory += 1;
            return;
        }
        let fits = message.payload.len() <= settings.retained_max_payload
            && self.shared.retained_messages.take(1, settings.retained_max_messages);
        if !fits {
            self.counters.dropped_retained_limit += 1;
            return;
        }
        if !self.shared.retained_bytes.take(size, settings.retained_max_bytes) {
            self.shared.retained_messages.give(1);
            self.counters.dropped_retained_limit += 1;
            return;
        }
        self.store_retained(&kept);
        let stored = Message::new(&kept, self.scratch.bytes());
        self.counters.retained_messages += 1;
        self.counters.retained_bytes += size;
        self.tally.retained += retained(message.topic, kept.size());
        self.retained.set(message.topic, stored);
    }

    fn uncount_retained(&mut self, old: &Message) {
        let size = old.size() as u64;
        self.counters.retained_messages -= 1;
        self.counters.retained_bytes -= size;
        self.tally.retained -= retained(old.view().topic, old.size());
        self.shared.retained_messages.give(1);
        self.shared.retained_bytes.give(size);
    }

    /// Forgets some expired retained messages, going round through all of them over time.
    pub(super) fn sweep_retained(&mut self) {
        if self.retained.is_empty() {
            return;
        }
        let now = self.now;
        let cursor = self.upkeep.retained_from.take();
        let mut expired = Vec::new();
        let next = self.retained.retain(cursor.as_deref(), SWEEP, |_, message| {
            let keep = message.view().seconds_left(now).is_ok();
            if !keep {
                expired.push(message.clone());
            }
            keep
        });
        for old in &expired {
            self.uncount_retained(old);
            self.store_unretained(old.view().topic);
        }
        if let topic::Pass::More(cursor) = next {
            self.upkeep.retained_from = Some(cursor);
        }
    }

    /// A subscription wants the retained messages that match it.
    pub(super) fn begin_replay(&mut self, index: u32, filter: FilterId) {
        if self.shared.retained_ever.used() == 0 {
            return;
        }
        let text = self.index.filter(filter);
        let shard = if is_exact(text) {
            self.retained_home(&TopicHash::new(&self.shared.seeds, text))
        } else {
            ShardId(0)
        };
        self.use_flow(index);
        let ticket = self.ticket();
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

    /// Lists a session whose replay may go on.
    pub(super) fn wake_replay(&mut self, index: u32) {
        let flow = self.sessions.get_mut(index).and_then(|session| session.flow.as_mut());
        let Some(flow) = flow else { return };
        let ready = flow.replays.front().is_some_and(|replay| !replay.waiting);
        // Once: each acknowledgement of the client comes here.
        if ready && !std::mem::replace(&mut flow.replay_listed, true) {
            let session = self.session_ref(index);
            self.replays.push_back(session);
        }
    }

    /// A newer message went out live on `topic` while a replay runs: its retained one is stale.
    pub(super) fn overtake(&mut self, index: u32, topic: &str) {
        let hash = self.shared.seeds.place(topic.as_bytes());
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else { return };
        // Of every replay that waits now: their tickets are not above the newest.
        flow.overtake(hash, self.next_cookie);
    }

    /// Goes on with replays until the step's work comes to `limit`; true when there is more to do
    /// at once.
    pub(super) fn run_replays(&mut self, limit: u32) -> bool {
        // They wait, and none is lost.
        if self.is_short(Pressure::Full) {
            return false;
        }
        while !self.is_spent(limit) {
            let Some(session) = self.replays.pop_front() else { return false };
            self.meter.charge(cost::FILTER);
            self.next_slice(session);
        }
        !self.replays.is_empty()
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
        let limit = SLICE.min((self.settings.pending.messages / 4).max(1) as u32);
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
        let text: Box<str> = self.index.filter(filter).into();
        let request = ReplayRequest { session: reference, filter, ticket, text, cursor, limit };
        if shard == self.id {
            self.answer_query(shard, request);
        } else {
            self.tell(shard, Control::Replay(Box::new(request)));
        }
    }

    /// Whether the client has room for a slice: a replay waits, it is never dropped.
    fn takes_more(&self, index: u32) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        let Some(socket) = session.socket else { return false };
        let waiting = session.flow.as_ref().map_or(0, |flow| flow.pending.len());
        let bytes = session.flow.as_ref().map_or(0, |flow| flow.pending.bytes());
        let unsent = self
            .connections
            .get(socket.0)
            .and_then(|connection| connection.output.as_ref())
            .map_or(0, |output| output.unsent());
        unsent <= self.settings.low_water()
            && waiting <= self.settings.pending.messages / 4
            && bytes <= self.settings.pending.bytes / 4
    }

    /// A session wants a slice of what is kept here. Data mail that was there before has been taken
    /// in: in it were messages that were acknowledged before the session subscribed.
    pub(super) fn answer_query(&mut self, from: ShardId, request: ReplayRequest) {
        let slice = self.slice(request);
        self.counters.retained_slices += 1;
        self.meter.charge(slice.messages.len() as u32 * cost::MAIL);
        if from == self.id {
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
            match self.retained.replay(&text, cursor.as_deref(), few, &mut visits, found) {
                topic::Pass::Done => (cursor, done) = (None, true),
                topic::Pass::More(next) => cursor = Some(next),
            }
        }
        self.meter.charge(cost::VISIT * (VISITS - visits) as u32);
        ReplaySlice { session, filter, ticket, messages, cursor }
    }

    /// A slice has come.
    pub(super) fn replayed(&mut self, slice: ReplaySlice) {
        let ReplaySlice { session: reference, filter, ticket, messages, cursor } = slice;
        let index = reference.index;
        let shards = self.shards;
        // What is newer and was accepted goes first, while the replay is still there to be
        // overtaken by it.
        if !Mutant::ReplayOvertakesFanout.is_on() {
            self.catch_up(index);
        }
        let Some(session) = self.sessions.get_of(index, reference.generation) else { return };
        let place = session.subscriptions.position(filter);
        let Some(flow) = &mut session.flow else { return };
        let any = Mutant::ReplayTicketIgnored.is_on();
        let asked = |replay: &&mut Replay| replay.waiting && (replay.ticket == ticket || any);
        let Some(replay) = flow.replays.front_mut().filter(asked) else {
            return; // a slice for an earlier connection
        };
        replay.waiting = false;
        let since = replay.ticket;
        let text = place.map(|_| self.index.filter(filter));
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
            let subscriber = *self.index.get_mut(filter, position);
            for message in &messages {
                if !overtaken || !self.is_stale(index, since, message) {
                    self.replay_one(index, subscriber, message);
                }
            }
        }
        self.wake_replay(index);
    }

    /// Whether the client has had a newer message of the topic than this retained one.
    fn is_stale(&self, index: u32, ticket: u64, message: &Message) -> bool {
        let hash = self.shared.seeds.place(message.view().topic.as_bytes());
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        flow.is_some_and(|flow| flow.is_overtaken(hash, ticket))
    }

    fn replay_one(&mut self, index: u32, subscriber: topic::Subscriber, message: &Message) {
        let view = message.view();
        if subscriber.options & NO_LOCAL != 0 && self.is_publisher(index, &view) {
            return; // [MQTT-3.8.3-3]
        }
        let ids = [subscriber.subscription_id];
        let terms = Terms {
            qos: packed_qos(subscriber.options),
            retain: true, // [MQTT-3.3.1-8]
            subscription_ids: if ids[0] == 0 { &[] } else { &ids },
            replay: true,
            share: None,
        };
        self.delivery.begin(Some(message));
        self.deliver(index, &view, &terms);
        self.delivery.crowded.clear();
        self.counters.messages_retained_replayed += 1;
    }
}

fn is_exact(filter: &str) -> bool {
    !filter.contains(['+', '#'])
}
