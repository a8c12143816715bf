//! The content of a log: sessions with what belongs to them, the messages that wait for them, and
//! retained messages. Recovery builds an image while it reads; the shard that goes on takes the
//! image apart.

use super::index::{IndexValue, LogIndex};
use super::newest::Newest;
use super::record::{
    self, DeliveryPhase, Effect, Record, StoreSecret, StoredMessage, StoredSession, inbound_key,
    message_key, session_key, subscription_key, will_key,
};
use crate::topic::spread;
use hashbrown::HashMap;

/// The session number for messages without a session: they are on their way from one member of a
/// share group to the next.
pub const RETURNING: u64 = 0;

/// A set of session numbers, of which only is known how many they are and what their hashes come
/// to. Two different sets are told apart but for one chance in 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionSum {
    count: u64,
    hashes: u64,
}

impl SessionSum {
    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a number that is not in the set.
    pub fn add(&mut self, number: u64) {
        self.count += 1;
        self.hashes = self.hashes.wrapping_add(spread(number));
    }

    /// Takes out a number that is in the set.
    pub fn take(&mut self, number: u64) {
        self.count -= 1;
        self.hashes = self.hashes.wrapping_sub(spread(number));
    }
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageImage {
    /// Topic name, encoded properties to forward, and payload. They are in one allocation, because
    /// there may be millions of messages.
    bytes: Box<[u8]>,
    /// Bytes of the topic name.
    topic: u32,
    /// Bytes of the properties.
    properties: u32,
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
        let parts = [stored.topic.as_bytes(), stored.properties, stored.payload];
        MessageImage {
            bytes: parts.concat().into_boxed_slice(),
            topic: stored.topic.len() as u32,
            properties: stored.properties.len() as u32,
            expires: stored.expires,
            flags: stored.flags,
            accounts: stored.accounts,
            stamp: stored.stamp,
        }
    }

    /// The body in the form that records have.
    pub fn stored(&self) -> StoredMessage<'_> {
        let (topic, rest) = self.bytes.split_at(self.topic as usize);
        let (properties, payload) = rest.split_at(self.properties as usize);
        StoredMessage {
            topic: std::str::from_utf8(topic).expect("it was a text"),
            properties,
            payload,
            expires: self.expires,
            flags: self.flags,
            accounts: self.accounts,
            stamp: self.stamp,
        }
    }
}

/// A message that waits for sessions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitingMessage {
    /// Bytes of topic, properties and payload.
    pub size: u32,
    /// CRC32C of its record.
    pub checksum: u32,
    /// When it expires, in milliseconds since 1970; the largest number for never.
    pub expires: u64,
    /// How many sessions wait for it. Set by [`Image::finish`].
    pub sessions: u32,
    /// The message; `None` when it is only on disk, for lack of room.
    pub body: Option<Box<MessageImage>>,
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
    /// The head in a record; `known` is the one before.
    fn of(stored: &StoredSession<'_>, known: Option<SessionHead>) -> SessionHead {
        // Each connection writes the record anew, and the ClientId is always the same.
        let client_id = known.map(|known| known.client_id);
        let client_id = client_id.filter(|known| **known == *stored.client_id);
        SessionHead {
            client_id: client_id.unwrap_or_else(|| stored.client_id.into()),
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
    pub ids: Box<[u32]>,
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

/// A session. What is in it is settled by [`Image::finish`].
#[derive(Default, PartialEq, Eq, Debug)]
pub struct SessionImage {
    /// Its own record.
    pub head: Option<SessionHead>,
    /// Subscriptions by filter: options and identifier.
    pub subscriptions: Newest<Box<str>, (u8, u32)>,
    /// Messages that wait for it, by slot.
    pub waiting: Newest<u32, QueuedImage>,
    /// Packet identifiers of QoS 2 messages that the client has sent.
    pub inbound: Vec<u16>,
    /// Its will.
    pub will: Option<Box<LastWill>>,
    /// Packet identifiers and delivery states of sent messages, by slot. They are apart from
    /// `waiting` because a copy of the `Fan` record may come after the `State` record.
    states: Newest<u32, (u16, DeliveryPhase)>,
}

/// A map by numbers that the broker has assigned.
type NumberedMap<V> = HashMap<u64, V, foldhash::fast::FixedState>;

/// The content of one log.
#[derive(Default)]
pub struct Image {
    /// Sessions by number.
    sessions: NumberedMap<Box<SessionImage>>,
    /// Messages by number.
    pub messages: NumberedMap<WaitingMessage>,
    /// Bytes of bodies that there is still room for; `None` for no bound.
    room: Option<usize>,
    /// Bytes of bodies.
    bytes: usize,
    /// Retained messages by topic.
    pub retained: HashMap<Box<str>, MessageImage>,
    /// Messages on their way from one member of a share group to the next. Set by
    /// [`Image::finish`].
    pub returning: Newest<u32, QueuedImage>,
    /// The largest number of a session, and of a message, that was ever seen.
    pub last: (u64, u64),
    /// The position of each value.
    index: LogIndex,
    /// A record, while its checksum is computed.
    encoded: Vec<u8>,
}

impl Image {
    /// An empty image with room for `room` bytes of bodies; `None` for all.
    pub fn within(room: Option<usize>) -> Image {
        Image { room, ..Image::default() }
    }

    /// Takes the next record, which is at `value`.
    pub fn take(&mut self, record: &Record<'_>, value: IndexValue, secret: StoreSecret) {
        match record.effect(secret) {
            Effect::Put(key) => self.index.put(key, value),
            Effect::Take(key) => _ = self.index.take(key),
            Effect::TakeSlot(session, slot) => self.index.take_slot(session, slot),
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
            Record::End { session } => {
                self.last.0 = self.last.0.max(session);
                if let Some(mut ended) = self.sessions.remove(&session) {
                    ended.settle();
                    ended.forget(session, secret, &mut self.index);
                }
            }
            _ => {
                if let Some(session) = record.session() {
                    self.last.0 = self.last.0.max(session);
                    self.sessions.entry(session).or_default().take(record);
                }
            }
        }
    }

    /// Bytes of the bodies in memory of the messages that were taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn take_message(&mut self, message: u64, body: &StoredMessage<'_>) {
        self.encoded.clear();
        Record::Put { message, body: *body }.encode(&mut self.encoded);
        let size = body.topic.len() + body.properties.len() + body.payload.len();
        let mut waiting = WaitingMessage {
            size: size as u32,
            checksum: crc32c::crc32c(&self.encoded),
            expires: body.expires,
            sessions: 0,
            body: None,
        };
        // The record may be a copy of a message whose body is here already.
        let known = self.messages.get(&message).filter(|known| known.body.is_some());
        let here = known.map_or(0, |known| known.size as usize);
        self.room = self.room.map(|room| room + here);
        self.bytes -= here;
        if self.room.is_none_or(|room| room >= size) {
            self.room = self.room.map(|room| room - size);
            self.bytes += size;
            waiting.body = Some(Box::new(MessageImage::of(body)));
        }
        self.messages.insert(message, waiting);
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// The numbers of the sessions, to be compared with others.
    pub fn session_sum(&self) -> SessionSum {
        let mut sum = SessionSum::default();
        self.sessions.keys().for_each(|&number| sum.add(number));
        sum
    }

    /// The sessions in the order of their numbers.
    pub fn sessions(&self) -> impl Iterator<Item = (u64, &SessionImage)> {
        self.numbers()
            .into_iter()
            .filter_map(|number| Some((number, &**self.sessions.get(&number)?)))
    }

    /// The same, to change.
    pub fn sessions_mut(&mut self) -> impl Iterator<Item = &mut SessionImage> {
        self.sessions.values_mut().map(|stored| &mut **stored)
    }

    /// Takes the sessions out, in the order of their numbers.
    pub fn take_sessions(&mut self) -> impl Iterator<Item = (u64, Box<SessionImage>)> + use<> {
        let mut sessions: Vec<_> = std::mem::take(&mut self.sessions).into_iter().collect();
        sessions.sort_unstable_by_key(|&(number, _)| number);
        sessions.into_iter()
    }

    fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.sessions.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// A message's body, if it is in memory.
    pub fn body(&self, message: u64) -> Option<&MessageImage> {
        self.messages.get(&message)?.body.as_deref()
    }

    /// Messages whose bodies are on disk and needed at once: those that were sent, and those of
    /// share groups. To be called after [`Image::finish`].
    pub fn wanted(&self) -> Vec<u64> {
        let needed = |waiting: &&QueuedImage| waiting.sent.is_some() || !waiting.share.is_empty();
        let sessions = self.sessions.values().flat_map(|stored| stored.waiting.iter());
        let all = sessions.map(|(_, waiting)| waiting).filter(needed);
        let all = all.chain(self.returning.iter().map(|(_, waiting)| waiting));
        let mut wanted: Vec<u64> = all.map(|waiting| waiting.message).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|number| self.messages.get(number).is_some_and(|m| m.body.is_none()));
        wanted
    }

    /// Adds the body of such a message.
    pub fn fill(&mut self, message: u64, body: &StoredMessage<'_>) {
        if let Some(waiting) = self.messages.get_mut(&message) {
            waiting.body = Some(Box::new(MessageImage::of(body)));
        }
    }

    /// Sessions that lack something after damage: number, ClientId if known, and what they lack. To
    /// be called before [`Image::finish`].
    pub fn incomplete(&mut self) -> Vec<(u64, Option<&str>, String)> {
        self.sessions_mut().for_each(SessionImage::settle);
        let mut found = Vec::new();
        for (number, stored) in self.sessions() {
            let missing = |&(_, waiting): &(&u32, &QueuedImage)| {
                !self.messages.contains_key(&waiting.message)
            };
            let missing = stored.waiting.iter().filter(missing).count();
            let name = stored.head.as_ref().map(|head| &*head.client_id);
            if name.is_none() && number != RETURNING && !stored.is_empty() {
                found.push((number, name, "its own record is missing".to_owned()));
            } else if missing > 0 {
                found.push((number, name, format!("{missing} messages are missing")));
            }
        }
        found
    }

    /// Settles the content, and removes everything that nothing refers to. `secret` is that of
    /// [`Image::take`]. Returns every value that is alive, for the log.
    pub fn finish(&mut self, secret: StoreSecret) -> LogIndex {
        let Image { sessions, messages, index, .. } = self;
        sessions.retain(|&number, stored| {
            stored.settle();
            if stored.head.is_none() && number != RETURNING {
                stored.forget(number, secret, index);
                return false;
            }
            let SessionImage { waiting, states, .. } = &mut **stored;
            waiting.retain(|slot, waiting| {
                waiting.sent = states.get(slot).copied();
                let message = messages.get_mut(&waiting.message);
                message.map(|message| message.sessions += 1).is_some()
            });
            true
        });
        if let Some(returning) = sessions.remove(&RETURNING) {
            self.returning = returning.waiting;
        }
        messages.retain(|&number, message| {
            let keep = message.sessions > 0;
            if !keep {
                index.take(message_key(number));
            }
            keep
        });
        std::mem::take(index)
    }
}

impl SessionImage {
    fn settle(&mut self) {
        self.subscriptions.settle();
        self.waiting.settle();
        self.states.settle();
    }

    /// True when nothing is known of it.
    fn is_empty(&self) -> bool {
        let messages = self.waiting.is_empty() && self.states.is_empty();
        let others = self.subscriptions.is_empty() && self.inbound.is_empty();
        messages && others && self.head.is_none() && self.will.is_none()
    }

    /// Takes all its values out of the index.
    fn forget(&self, session: u64, secret: StoreSecret, index: &mut LogIndex) {
        let filters = self.subscriptions.iter().map(|(filter, _)| filter);
        filters.for_each(|filter| _ = index.take(subscription_key(session, filter, secret)));
        let slots = self.waiting.iter().map(|(&slot, _)| slot);
        for slot in slots.chain(self.states.iter().map(|(&slot, _)| slot)) {
            index.take_slot(session, slot);
        }
        for &packet in &self.inbound {
            index.take(inbound_key(session, packet));
        }
        index.take(will_key(session));
        index.take(session_key(session));
    }

    fn take(&mut self, record: &Record<'_>) {
        match *record {
            Record::Session(ref stored) => {
                self.head = Some(SessionHead::of(stored, self.head.take()));
            }
            Record::Subscribed { filter, options, subscription_id, .. } => {
                self.subscriptions.put(filter.into(), (options, subscription_id));
            }
            Record::Unsubscribed { filter, .. } => self.subscriptions.take(filter.into()),
            Record::Fan { slot, message, flags, ids, share, .. } => {
                let ids = ids.chunks_exact(4).map(record::word).collect();
                let waiting = QueuedImage { message, flags, ids, share: share.into(), sent: None };
                self.waiting.put(slot, waiting);
            }
            Record::State { slot, packet, phase, .. } => {
                self.states.put(slot, (packet, phase));
            }
            Record::Ack { slot, .. } => {
                self.waiting.take(slot);
                self.states.take(slot);
            }
            Record::Inbound { packet, .. } if !self.inbound.contains(&packet) => {
                self.inbound.push(packet);
            }
            Record::Outbound { packet, .. } => self.inbound.retain(|&known| known != packet),
            Record::Will { delay, lifetime, due, ref body, .. } => {
                let body = MessageImage::of(body);
                self.will = Some(Box::new(LastWill { delay, lifetime, due, body }));
            }
            Record::NoWill { .. } => self.will = None,
            _ => {}
        }
    }
}
