//! What the records of a log come to: sessions with what belongs to them, messages that they wait
//! for, and retained messages. Built while recovery reads, and taken apart by the shard that goes
//! on.

use super::index::Value;
use super::record::{
    self, Effect, Key, Phase, Record, Secret, StoredMessage, StoredSession, message_key,
};
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The number under which messages wait that belong to no session: they are on their way from one
/// member of a share group to the next.
pub const RETURNING: u64 = 0;

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
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
    /// If it is retained: the bounds that it counts for, as one number; 0 for none.
    pub accounts: u64,
    /// The same on a node of a cluster: its stamp; 0 for none.
    pub stamp: u64,
}

impl Body {
    fn of(stored: &StoredMessage<'_>) -> Body {
        Body {
            topic: stored.topic.into(),
            properties: stored.properties.into(),
            payload: stored.payload.into(),
            expires: stored.expires,
            flags: stored.flags,
            accounts: stored.accounts,
            stamp: stored.stamp,
        }
    }

    /// As it is stored.
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

/// What is kept of a message whose body is left where it is.
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
    /// Of the message with that number.
    pub fn of(message: u64, body: &StoredMessage<'_>) -> Brief {
        let mut bytes = Vec::new();
        Record::Put { message, body: *body }.encode(&mut bytes);
        let size = body.topic.len() + body.properties.len() + body.payload.len();
        Brief { size: size as u32, checksum: crc32c::crc32c(&bytes), expires: body.expires }
    }
}

/// A session's own record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// ClientId.
    pub client_id: Box<str>,
    /// Prefix of its topics.
    pub mountpoint: Box<str>,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// When it ends, in milliseconds since 1970; 0 if it had a connection.
    pub ends: u64,
    /// Protocol level.
    pub level: u8,
    /// It was a bridge's.
    pub bridge: bool,
}

impl Head {
    fn of(stored: &StoredSession<'_>) -> Head {
        Head {
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
pub struct Waiting {
    /// The message's number.
    pub message: u64,
    /// QoS and RETAIN flag of the delivery.
    pub flags: u8,
    /// Subscription Identifiers.
    pub ids: Vec<u32>,
    /// Its share group; empty for none.
    pub share: Box<str>,
    /// If it was sent: under which packet identifier, and how far it is.
    pub sent: Option<(u16, Phase)>,
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
    pub body: Body,
}

/// A session.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its own record.
    pub head: Option<Head>,
    /// Subscriptions by filter: options and identifier.
    pub subscriptions: BTreeMap<Box<str>, (u8, u32)>,
    /// What waits for it, in order.
    pub waiting: BTreeMap<u32, Waiting>,
    /// Identifiers under which QoS 2 messages came.
    pub inbound: Vec<u16>,
    /// Its will.
    pub will: Option<LastWill>,
    /// How far what was sent is; a copy of the message's record may come after it.
    states: BTreeMap<u32, (u16, Phase)>,
    /// Wherever something of it is.
    values: HashMap<Key, Value>,
}

/// Everything.
#[derive(Default)]
pub struct Image {
    /// Sessions by number.
    pub sessions: BTreeMap<u64, Stored>,
    /// Messages by number.
    pub messages: BTreeMap<u64, Body>,
    /// Messages whose bodies there was no room for.
    pub briefs: BTreeMap<u64, Brief>,
    /// How many bytes of bodies there is room for; `None` for all.
    room: Option<usize>,
    /// Retained messages by topic.
    pub retained: HashMap<Box<str>, Body>,
    /// Messages on their way from one member of a share group to the next. Known when
    /// [`Image::finish`] was called.
    pub returning: BTreeMap<u32, Waiting>,
    /// The largest number of a session, and of a message, that was ever seen.
    pub last: (u64, u64),
    /// Where messages and retained messages are.
    values: HashMap<Key, Value>,
}

impl Image {
    /// An empty one with room for so many bytes of messages' bodies; `None` for all.
    pub fn within(room: Option<usize>) -> Image {
        Image { room, ..Image::default() }
    }

    /// The next record, and where it is.
    pub fn take(&mut self, record: &Record<'_>, value: Value, secret: Secret) {
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
                self.retained.insert(body.topic.into(), Body::of(body));
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

    fn take_message(&mut self, message: u64, body: &StoredMessage<'_>) {
        if let Some(room) = &mut self.room {
            let size = body.topic.len() + body.properties.len() + body.payload.len();
            if *room < size {
                // A copy may come after the message.
                self.messages.remove(&message);
                self.briefs.insert(message, Brief::of(message, body));
                return;
            }
            *room -= size;
        }
        self.briefs.remove(&message);
        self.messages.insert(message, Body::of(body));
    }

    /// Messages whose bodies are needed at once and were left where they are: those that were sent,
    /// and those of share groups. Comes after [`Image::finish`].
    pub fn wanted(&self) -> Vec<u64> {
        let needed = |waiting: &&Waiting| waiting.sent.is_some() || !waiting.share.is_empty();
        let waiting = self.sessions.values().flat_map(|stored| stored.waiting.values());
        let all = waiting.filter(needed).chain(self.returning.values());
        let numbers = all.map(|waiting| waiting.message);
        let wanted: BTreeSet<u64> =
            numbers.filter(|number| self.briefs.contains_key(number)).collect();
        wanted.into_iter().collect()
    }

    /// The body of such a message.
    pub fn fill(&mut self, message: u64, body: &StoredMessage<'_>) {
        if self.briefs.remove(&message).is_some() {
            self.messages.insert(message, Body::of(body));
        }
    }

    /// Sessions that lack something, as after damage: number, ClientId if it is known, what. Comes
    /// before [`Image::finish`].
    pub fn incomplete(&self) -> Vec<(u64, Option<&str>, String)> {
        let mut found = Vec::new();
        for (&number, stored) in &self.sessions {
            let missing = |waiting: &&Waiting| !self.messages.contains_key(&waiting.message);
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

    /// Leaves out what nothing refers to. Returns every value that is alive, for the log's index.
    pub fn finish(&mut self) -> Vec<(Key, Value)> {
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

impl Stored {
    fn take(&mut self, record: &Record<'_>) {
        match *record {
            Record::Session(ref stored) => self.head = Some(Head::of(stored)),
            Record::Subscribed { filter, options, subscription_id, .. } => {
                self.subscriptions.insert(filter.into(), (options, subscription_id));
            }
            Record::Unsubscribed { filter, .. } => drop(self.subscriptions.remove(filter)),
            Record::Fan { slot, message, flags, ids, share, .. } => {
                let ids = ids.chunks_exact(4).map(record::word).collect();
                let waiting = Waiting { message, flags, ids, share: share.into(), sent: None };
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
                let body = Body::of(body);
                self.will = Some(LastWill { delay, lifetime, due, body });
            }
            Record::NoWill { .. } => self.will = None,
            _ => {}
        }
    }
}
