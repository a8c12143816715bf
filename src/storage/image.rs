//! The content of a log: sessions with what belongs to them, the messages that wait for them, and
//! retained messages. Recovery builds an image while it reads; the shard that goes on takes the
//! image apart.

use super::index::IndexValue;
use super::record::{
    self, DeliveryPhase, Effect, Record, RecordKey, StoreSecret, StoredMessage, StoredSession,
    message_key,
};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The session number for messages without a session: they are on their way from one member of a
/// share group to the next.
pub const RETURNING: u64 = 0;

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageImage {
    /// Topic name.
    pub topic: Box<str>,
    /// Properties to forward, encoded.
    pub properties: Box<[u8]>,
    /// Payload.
    pub payload: Box<[u8]>,
    /// When it expires, in milliseconds since 1970; the largest number for never.
    pub expires: u64,
    /// QoS and RETAIN flag.
    pub flags: u8,
    /// If it is retained: the accounts that it counts for ([`crate::message::Accounts`]), as one
    /// number; 0 for none.
    pub accounts: u64,
    /// If it is retained on a node of a cluster: its stamp; 0 for none.
    pub stamp: u64,
}

impl MessageImage {
    fn of(stored: &StoredMessage<'_>) -> MessageImage {
        MessageImage {
            topic: stored.topic.into(),
            properties: stored.properties.into(),
            payload: stored.payload.into(),
            expires: stored.expires,
            flags: stored.flags,
            accounts: stored.accounts,
            stamp: stored.stamp,
        }
    }

    /// The body in the form that records have.
    pub fn stored(&self) -> StoredMessage<'_> {
        StoredMessage {
            topic: &self.topic,
            properties: &self.properties,
            payload: &self.payload,
            expires: self.expires,
            flags: self.flags,
            accounts: self.accounts,
            stamp: self.stamp,
        }
    }
}

/// What is kept of a message whose body stays on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Brief {
    /// Bytes of topic, properties and payload.
    pub size: u32,
    /// CRC32C of its record.
    pub checksum: u32,
    /// When it expires, in milliseconds since 1970; the largest number for never.
    pub expires: u64,
}

impl Brief {
    /// The brief of the message with this number.
    pub fn of(message: u64, body: &StoredMessage<'_>) -> Brief {
        let mut bytes = Vec::new();
        Record::Put { message, body: *body }.encode(&mut bytes);
        let size = body.topic.len() + body.properties.len() + body.payload.len();
        Brief { size: size as u32, checksum: crc32c::crc32c(&bytes), expires: body.expires }
    }
}

/// A session's own record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionHead {
    /// ClientId.
    pub client_id: Box<str>,
    /// The listener's prefix of its topics.
    pub mountpoint: Box<str>,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// When it ends, in milliseconds since 1970; 0 if it had a connection, the largest number for
    /// never.
    pub ends: u64,
    /// Protocol level.
    pub level: u8,
    /// True when it was a mosquitto bridge's.
    pub bridge: bool,
}

impl SessionHead {
    fn of(stored: &StoredSession<'_>) -> SessionHead {
        SessionHead {
            client_id: stored.client_id.into(),
            mountpoint: stored.mountpoint.into(),
            expiry: stored.expiry,
            ends: stored.ends,
            level: stored.level,
            bridge: stored.bridge,
        }
    }
}

/// A message that waits for a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueuedImage {
    /// The message's number.
    pub message: u64,
    /// QoS and RETAIN flag of the delivery.
    pub flags: u8,
    /// Subscription Identifiers.
    pub ids: Vec<u32>,
    /// Its share group; empty for none.
    pub share: Box<str>,
    /// If it was sent: its packet identifier, and the state of its delivery.
    pub sent: Option<(u16, DeliveryPhase)>,
}

/// A session's will.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastWill {
    /// Will Delay Interval in seconds.
    pub delay: u32,
    /// Message Expiry Interval in seconds; the largest number for none.
    pub lifetime: u32,
    /// When it is due, in milliseconds since 1970; 0 if there was a connection.
    pub due: u64,
    /// The message.
    pub body: MessageImage,
}

/// A session.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct SessionImage {
    /// Its own record.
    pub head: Option<SessionHead>,
    /// Subscriptions by filter: options and identifier.
    pub subscriptions: BTreeMap<Box<str>, (u8, u32)>,
    /// Messages that wait for it, by slot.
    pub waiting: BTreeMap<u32, QueuedImage>,
    /// Packet identifiers of QoS 2 messages that the client has sent.
    pub inbound: Vec<u16>,
    /// Its will.
    pub will: Option<LastWill>,
    /// Packet identifiers and delivery states of sent messages, by slot. They are apart from
    /// `waiting` because a copy of the `Fan` record may come after the `State` record.
    states: BTreeMap<u32, (u16, DeliveryPhase)>,
    /// The position of each value of the session.
    values: HashMap<RecordKey, IndexValue>,
}

/// The content of one log.
#[derive(Default)]
pub struct Image {
    /// Sessions by number.
    pub sessions: BTreeMap<u64, SessionImage>,
    /// Messages by number.
    pub messages: BTreeMap<u64, MessageImage>,
    /// Messages whose bodies are not in memory, for lack of room.
    pub briefs: BTreeMap<u64, Brief>,
    /// Bytes of bodies that there is still room for; `None` for no bound.
    room: Option<usize>,
    /// Bytes of bodies.
    bytes: usize,
    /// Retained messages by topic.
    pub retained: HashMap<Box<str>, MessageImage>,
    /// Messages on their way from one member of a share group to the next. Set by
    /// [`Image::finish`].
    pub returning: BTreeMap<u32, QueuedImage>,
    /// The largest number of a session, and of a message, that was ever seen.
    pub last: (u64, u64),
    /// The positions of messages and retained messages.
    values: HashMap<RecordKey, IndexValue>,
}

impl Image {
    /// An empty image with room for `room` bytes of bodies; `None` for all.
    pub fn within(room: Option<usize>) -> Image {
        Image { room, ..Image::default() }
    }

    /// Takes the next record, which is at `value`.
    pub fn take(&mut self, record: &Record<'_>, value: IndexValue, secret: StoreSecret) {
        let values = match record.session() {
            Some(session) => {
                self.last.0 = self.last.0.max(session);
                &mut self.sessions.entry(session).or_default().values
            }
            None => &mut self.values,
        };
        match record.effect(secret) {
            Effect::Put(key) => drop(values.insert(key, value)),
            Effect::Take(key) => drop(values.remove(&key)),
            Effect::TakeBoth(keys) => {
                for key in &keys {
                    values.remove(key);
                }
            }
            Effect::None => {}
        }
        match *record {
            Record::Put { message, ref body } => {
                self.last.1 = self.last.1.max(message);
                self.take_message(message, body);
            }
            Record::Retain(ref body) => {
                self.retained.insert(body.topic.into(), MessageImage::of(body));
            }
            Record::Unretain { topic } => drop(self.retained.remove(topic)),
            Record::End { session } => drop(self.sessions.remove(&session)),
            _ => {
                if let Some(session) = record.session() {
                    let stored = self.sessions.entry(session).or_default();
                    stored.take(record);
                }
            }
        }
    }

    /// Bytes of the messages that wait for sessions, as far as their bodies are in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn take_message(&mut self, message: u64, body: &StoredMessage<'_>) {
        if let Some(room) = &mut self.room {
            let size = body.topic.len() + body.properties.len() + body.payload.len();
            // The record may be a copy of a message whose body is here already.
            *room += self.messages.get(&message).map_or(0, |_| size);
            if *room < size {
                self.messages.remove(&message);
                self.briefs.insert(message, Brief::of(message, body));
                return;
            }
            *room -= size;
        }
        self.briefs.remove(&message);
        if self.messages.insert(message, MessageImage::of(body)).is_none() {
            self.bytes += body.topic.len() + body.properties.len() + body.payload.len();
        }
    }

    /// Messages whose bodies are on disk and needed at once: those that were sent, and those of
    /// share groups. To be called after [`Image::finish`].
    pub fn wanted(&self) -> Vec<u64> {
        let needed = |waiting: &&QueuedImage| waiting.sent.is_some() || !waiting.share.is_empty();
        let waiting = self.sessions.values().flat_map(|stored| stored.waiting.values());
        let all = waiting.filter(needed).chain(self.returning.values());
        let numbers = all.map(|waiting| waiting.message);
        let wanted: BTreeSet<u64> =
            numbers.filter(|number| self.briefs.contains_key(number)).collect();
        wanted.into_iter().collect()
    }

    /// Adds the body of such a message.
    pub fn fill(&mut self, message: u64, body: &StoredMessage<'_>) {
        if self.briefs.remove(&message).is_some() {
            self.messages.insert(message, MessageImage::of(body));
        }
    }

    /// Sessions that lack something after damage: number, ClientId if known, and what they lack. To
    /// be called before [`Image::finish`].
    pub fn incomplete(&self) -> Vec<(u64, Option<&str>, String)> {
        let mut found = Vec::new();
        for (&number, stored) in &self.sessions {
            let missing = |waiting: &&QueuedImage| !self.messages.contains_key(&waiting.message);
            let missing = stored.waiting.values().filter(missing).count();
            let name = stored.head.as_ref().map(|head| &*head.client_id);
            if name.is_none() && number != RETURNING && !stored.values.is_empty() {
                found.push((number, name, "its own record is missing".to_owned()));
            } else if missing > 0 {
                found.push((number, name, format!("{missing} messages are missing")));
            }
        }
        found
    }

    /// Removes everything that nothing refers to. Returns every value that is alive, for the log's
    /// index.
    pub fn finish(&mut self) -> Vec<(RecordKey, IndexValue)> {
        self.sessions.retain(|&number, s| s.head.is_some() || number == RETURNING);
        let mut wanted = hashbrown::HashSet::new();
        for stored in self.sessions.values_mut() {
            let (messages, briefs, states) = (&self.messages, &self.briefs, &stored.states);
            stored.waiting.retain(|slot, waiting| {
                wanted.insert(waiting.message);
                waiting.sent = states.get(slot).copied();
                messages.contains_key(&waiting.message) || briefs.contains_key(&waiting.message)
            });
        }
        if let Some(returning) = self.sessions.remove(&RETURNING) {
            self.returning = returning.waiting;
            self.values.extend(returning.values);
        }
        let mut keep = |number: &u64| {
            let keep = wanted.contains(number);
            if !keep {
                self.values.remove(&message_key(*number));
            }
            keep
        };
        self.messages.retain(|number, _| keep(number));
        self.briefs.retain(|number, _| keep(number));
        let own = std::mem::take(&mut self.values);
        let theirs =
            self.sessions.values_mut().flat_map(|stored| std::mem::take(&mut stored.values));
        own.into_iter().chain(theirs).collect()
    }
}

impl SessionImage {
    fn take(&mut self, record: &Record<'_>) {
        match *record {
            Record::Session(ref stored) => self.head = Some(SessionHead::of(stored)),
            Record::Subscribed { filter, options, subscription_id, .. } => {
                self.subscriptions.insert(filter.into(), (options, subscription_id));
            }
            Record::Unsubscribed { filter, .. } => drop(self.subscriptions.remove(filter)),
            Record::Fan { slot, message, flags, ids, share, .. } => {
                let ids = ids.chunks_exact(4).map(record::word).collect();
                let waiting = QueuedImage { message, flags, ids, share: share.into(), sent: None };
                self.waiting.insert(slot, waiting);
            }
            Record::State { slot, packet, phase, .. } => {
                self.states.insert(slot, (packet, phase));
            }
            Record::Ack { slot, .. } => {
                self.waiting.remove(&slot);
                self.states.remove(&slot);
            }
            Record::Inbound { packet, .. } if !self.inbound.contains(&packet) => {
                self.inbound.push(packet);
            }
            Record::Outbound { packet, .. } => self.inbound.retain(|&known| known != packet),
            Record::Will { delay, lifetime, due, ref body, .. } => {
                let body = MessageImage::of(body);
                self.will = Some(LastWill { delay, lifetime, due, body });
            }
            Record::NoWill { .. } => self.will = None,
            _ => {}
        }
    }
}
