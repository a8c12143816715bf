//! Records: the form of everything that is stored, and the key of each.
//!
//! A record either puts a value under its [`RecordKey`], replacing the previous one, or takes a
//! value out. So the state after any sequence of records is the newest value of each key, except
//! those that were taken out. A record that takes a value out does not have to outlive the records
//! before it, because segments are dropped oldest first.
//!
//! In a batch each record has a byte that says its kind, four bytes of length, and its body. All
//! numbers are little-endian; a text has two bytes of length, bytes have four.

use super::key::{key, text_key, topic_key};
use super::kind::*;
use std::fmt;

pub use super::key::{
    RecordKey, StoreSecret, inbound_key, message_key, session_key, slot_keys, subscription_key,
    will_key,
};

/// Bits beside the flags of a message: an account number follows; a stamp follows.
const HAS_ACCOUNTS: u8 = 8;
const HAS_STAMP: u8 = 16;

/// Bytes of a record before its body.
pub const PREFIX: usize = 5;
/// Bytes of a [`Record::State`].
pub(super) const STATE_LENGTH: u32 = PREFIX as u32 + 8 + 4 + 2 + 1;

/// A session as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredSession<'a> {
    /// Its number in the store, never used twice.
    pub session: u64,
    /// ClientId.
    pub client_id: &'a str,
    /// The listener's prefix of its topics.
    pub mountpoint: &'a str,
    /// Session Expiry Interval in seconds.
    pub expiry: u32,
    /// When it ends, in milliseconds since 1970; 0 while it has a connection, the largest number
    /// when it never ends.
    pub ends: u64,
    /// Protocol level of its last connection: 3, 4 or 5.
    pub level: u8,
    /// True when it was a mosquitto bridge's.
    pub bridge: bool,
}

/// A message as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredMessage<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Encoded MQTT 5 properties to forward.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
    /// When it expires, in milliseconds since 1970; the largest number for never.
    pub expires: u64,
    /// QoS and RETAIN flag of the publication: 0 to 2, and 4.
    pub flags: u8,
    /// If it is retained: the accounts that it counts for, as one number; 0 for none.
    pub accounts: u64,
    /// If it is retained on a node of a cluster: the stamp that decides which of two nodes'
    /// messages is newer; 0 for none.
    pub stamp: u64,
}

/// The delivery state of a QoS 1 or 2 message that was sent to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryPhase {
    /// Sent and not answered.
    Sent,
    /// PUBREC has arrived, PUBREL is due.
    Released,
}

/// A record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A session began, or what is known of it changed.
    Session(StoredSession<'a>),
    /// A session ended, with everything that belongs to it.
    End {
        /// The session.
        session: u64,
    },
    /// A session has this subscription.
    Subscribed {
        /// The session.
        session: u64,
        /// The filter, mountpoint included.
        filter: &'a str,
        /// Options, packed as in the index.
        options: u8,
        /// Subscription Identifier; 0 for none.
        subscription_id: u32,
    },
    /// A session has this subscription no more.
    Unsubscribed {
        /// The session.
        session: u64,
        /// The filter.
        filter: &'a str,
    },
    /// A message that waits for sessions. Records that refer to it follow; it is dead when the last
    /// of them is.
    Put {
        /// Its number, never used twice; later messages have larger ones.
        message: u64,
        /// The message.
        body: StoredMessage<'a>,
    },
    /// A message waits for a session.
    Fan {
        /// The session.
        session: u64,
        /// Its number within the session.
        slot: u32,
        /// The message.
        message: u64,
        /// QoS and RETAIN flag of the delivery: 0 to 2, and 4.
        flags: u8,
        /// Subscription Identifiers, four bytes each.
        ids: &'a [u8],
        /// The share group that picked the session for it; empty for none.
        share: &'a str,
    },
    /// A waiting message was sent.
    State {
        /// The session.
        session: u64,
        /// Its number within the session.
        slot: u32,
        /// Packet identifier.
        packet: u16,
        /// The state of its delivery.
        phase: DeliveryPhase,
    },
    /// The delivery of a waiting message is complete, or was given up.
    Ack {
        /// The session.
        session: u64,
        /// Its number within the session.
        slot: u32,
    },
    /// A client has sent a QoS 2 message with this packet identifier.
    Inbound {
        /// The session.
        session: u64,
        /// Packet identifier.
        packet: u16,
    },
    /// The client may use this packet identifier again.
    Outbound {
        /// The session.
        session: u64,
        /// Packet identifier.
        packet: u16,
    },
    /// A topic's retained message.
    Retain(StoredMessage<'a>),
    /// A topic has no retained message any more.
    Unretain {
        /// The topic.
        topic: &'a str,
    },
    /// A session's Will Message, while it has a connection or its delay runs.
    Will {
        /// The session.
        session: u64,
        /// Will Delay Interval in seconds.
        delay: u32,
        /// Its Message Expiry Interval in seconds; the largest number for none.
        lifetime: u32,
        /// When it is due, in milliseconds since 1970; 0 while there is a connection.
        due: u64,
        /// The message.
        body: StoredMessage<'a>,
    },
    /// The session has no will.
    NoWill {
        /// The session.
        session: u64,
    },
    /// No content: appended to have a commit.
    Nothing,
}

/// The effect of a record on its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Puts a value under it.
    Put(RecordKey),
    /// Takes the value out.
    Take(RecordKey),
    /// Takes both values of this session's slot out: see [`slot_keys`].
    TakeSlot(u64, u32),
    /// Neither puts nor takes a value.
    None,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRecord {
    /// A kind that this build does not know.
    Unknown(u8),
    /// A body that is too short, too long, or no text where there should be one.
    Malformed(u8),
    /// The bytes end within the record.
    Short,
}

impl fmt::Display for NoRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoRecord::Unknown(kind) => write!(f, "a record of the unknown kind {kind}"),
            NoRecord::Malformed(kind) => write!(f, "a malformed record of kind {kind}"),
            NoRecord::Short => f.write_str("a record that breaks off"),
        }
    }
}

impl Record<'_> {
    /// The effect of the record, and the key of it.
    pub fn effect(&self, secret: StoreSecret) -> Effect {
        let slot_key = |kind, session, slot| key(kind, session, 0, u64::from(slot));
        match *self {
            Record::Session(stored) => Effect::Put(session_key(stored.session)),
            Record::End { session } => Effect::Take(session_key(session)),
            Record::Subscribed { session, filter, .. } => {
                Effect::Put(text_key(SUBSCRIBED, session, filter, secret))
            }
            Record::Unsubscribed { session, filter } => {
                Effect::Take(text_key(SUBSCRIBED, session, filter, secret))
            }
            Record::Put { message, .. } => Effect::Put(message_key(message)),
            Record::Fan { session, slot, .. } => Effect::Put(slot_key(FAN, session, slot)),
            Record::State { session, slot, .. } => Effect::Put(slot_key(STATE, session, slot)),
            Record::Ack { session, slot } => Effect::TakeSlot(session, slot),
            Record::Inbound { session, packet } => {
                Effect::Put(key(INBOUND, session, 0, u64::from(packet)))
            }
            Record::Outbound { session, packet } => {
                Effect::Take(key(INBOUND, session, 0, u64::from(packet)))
            }
            Record::Retain(body) => Effect::Put(topic_key(body.topic, secret)),
            Record::Unretain { topic } => Effect::Take(topic_key(topic, secret)),
            Record::Will { session, .. } => Effect::Put(key(WILL, session, 0, 0)),
            Record::NoWill { session } => Effect::Take(key(WILL, session, 0, 0)),
            Record::Nothing => Effect::None,
        }
    }

    /// The session that the record belongs to, if it belongs to one.
    pub fn session(&self) -> Option<u64> {
        match *self {
            Record::Session(stored) => Some(stored.session),
            Record::End { session }
            | Record::Subscribed { session, .. }
            | Record::Unsubscribed { session, .. }
            | Record::Fan { session, .. }
            | Record::State { session, .. }
            | Record::Ack { session, .. }
            | Record::Inbound { session, .. }
            | Record::Outbound { session, .. }
            | Record::Will { session, .. }
            | Record::NoWill { session } => Some(session),
            Record::Put { .. } | Record::Retain(_) | Record::Unretain { .. } | Record::Nothing => {
                None
            }
        }
    }

    /// Appends the record to a batch; returns its length.
    pub fn encode(&self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; PREFIX]);
        let kind = self.encode_body(out);
        let length = out.len() - start - PREFIX;
        out[start] = kind;
        out[start + 1..start + PREFIX].copy_from_slice(&(length as u32).to_le_bytes());
        out.len() - start
    }

    fn encode_body(&self, out: &mut Vec<u8>) -> u8 {
        match *self {
            Record::Session(stored) => put_session(out, &stored),
            Record::End { session } => one(out, END, session),
            Record::Subscribed { session, filter, options, subscription_id } => {
                one(out, SUBSCRIBED, session);
                put_text(out, filter);
                out.push(options);
                out.extend_from_slice(&subscription_id.to_le_bytes());
                SUBSCRIBED
            }
            Record::Unsubscribed { session, filter } => {
                one(out, UNSUBSCRIBED, session);
                put_text(out, filter);
                UNSUBSCRIBED
            }
            Record::Put { message, body } => {
                one(out, PUT, message);
                put_message(out, &body);
                PUT
            }
            Record::Fan { session, slot, message, flags, ids, share } => {
                one(out, FAN, session);
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&message.to_le_bytes());
                out.push(flags);
                put_bytes(out, ids);
                put_text(out, share);
                FAN
            }
            Record::State { session, slot, packet, phase } => {
                one(out, STATE, session);
                out.extend_from_slice(&slot.to_le_bytes());
                out.extend_from_slice(&packet.to_le_bytes());
                out.push(u8::from(phase == DeliveryPhase::Released));
                STATE
            }
            Record::Ack { session, slot } => {
                one(out, ACK, session);
                out.extend_from_slice(&slot.to_le_bytes());
                ACK
            }
            Record::Inbound { session, packet } => with_packet(out, INBOUND, session, packet),
            Record::Outbound { session, packet } => with_packet(out, OUTBOUND, session, packet),
            Record::Retain(body) => {
                put_message(out, &body);
                RETAIN
            }
            Record::Unretain { topic } => {
                put_text(out, topic);
                UNRETAIN
            }
            Record::Will { session, delay, lifetime, due, body } => {
                one(out, WILL, session);
                out.extend_from_slice([delay, lifetime].map(u32::to_le_bytes).as_flattened());
                out.extend_from_slice(&due.to_le_bytes());
                put_message(out, &body);
                WILL
            }
            Record::NoWill { session } => one(out, NO_WILL, session),
            Record::Nothing => NOTHING,
        }
    }
}

fn put_session(out: &mut Vec<u8>, stored: &StoredSession<'_>) -> u8 {
    out.extend_from_slice(&stored.session.to_le_bytes());
    put_text(out, stored.client_id);
    put_text(out, stored.mountpoint);
    out.extend_from_slice(&stored.expiry.to_le_bytes());
    out.extend_from_slice(&stored.ends.to_le_bytes());
    out.extend_from_slice(&[stored.level, u8::from(stored.bridge)]);
    SESSION
}

fn one(out: &mut Vec<u8>, kind: u8, number: u64) -> u8 {
    out.extend_from_slice(&number.to_le_bytes());
    kind
}

fn with_packet(out: &mut Vec<u8>, kind: u8, session: u64, packet: u16) -> u8 {
    one(out, kind, session);
    out.extend_from_slice(&packet.to_le_bytes());
    kind
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Every text of the protocol has at most 65,535 bytes.
    debug_assert!(text.len() <= usize::from(u16::MAX));
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, body: &StoredMessage<'_>) {
    put_text(out, body.topic);
    put_bytes(out, body.properties);
    put_bytes(out, body.payload);
    out.extend_from_slice(&body.expires.to_le_bytes());
    let further = [(body.accounts, HAS_ACCOUNTS), (body.stamp, HAS_STAMP)];
    let further = further.into_iter().filter(|&(number, _)| number != 0);
    out.push(further.clone().fold(body.flags, |flags, (_, flag)| flags | flag));
    further.for_each(|(number, _)| out.extend_from_slice(&number.to_le_bytes()));
}

/// Whether the flags are a QoS level and a RETAIN flag.
fn is_sound(flags: u8) -> bool {
    flags < 8 && flags & 3 != 3
}

/// A number of four bytes; 0 for any other length.
pub fn word(bytes: &[u8]) -> u32 {
    <[u8; 4]>::try_from(bytes).map_or(0, u32::from_le_bytes)
}

/// Reads the fields of a body, from its start.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Option<bool> {
        self.byte().filter(|&byte| byte < 2).map(|byte| byte == 1)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn flags(&mut self) -> Option<u8> {
        self.byte().filter(|&flags| is_sound(flags))
    }

    fn message(&mut self) -> Option<StoredMessage<'a>> {
        let (topic, properties, payload) = (self.text()?, self.bytes()?, self.bytes()?);
        let (expires, flags) = (self.u64()?, self.byte()?);
        let mut further = |flag: u8| match flags & flag {
            0 => Some(0),
            _ => self.u64().filter(|&number| number != 0),
        };
        let (accounts, stamp) = (further(HAS_ACCOUNTS)?, further(HAS_STAMP)?);
        let flags = Some(flags & !(HAS_ACCOUNTS | HAS_STAMP)).filter(|&flags| is_sound(flags))?;
        Some(StoredMessage { topic, properties, payload, expires, flags, accounts, stamp })
    }

    fn session(&mut self) -> Option<StoredSession<'a>> {
        Some(StoredSession {
            session: self.u64()?,
            client_id: self.text()?,
            mountpoint: self.text()?,
            expiry: self.u32()?,
            ends: self.u64()?,
            level: self.byte().filter(|level| (3..=5).contains(level))?,
            bridge: self.flag()?,
        })
    }
}

fn decode_body<'a>(kind: u8, body: &mut FieldReader<'a>) -> Option<Record<'a>> {
    if kind == SESSION {
        return body.session().map(Record::Session);
    }
    if kind == RETAIN {
        return body.message().map(Record::Retain);
    }
    if kind == UNRETAIN {
        return Some(Record::Unretain { topic: body.text()? });
    }
    if kind == NOTHING {
        return Some(Record::Nothing);
    }
    let session = body.u64()?;
    Some(match kind {
        END => Record::End { session },
        SUBSCRIBED => Record::Subscribed {
            session,
            filter: body.text()?,
            options: body.byte()?,
            subscription_id: body.u32()?,
        },
        UNSUBSCRIBED => Record::Unsubscribed { session, filter: body.text()? },
        PUT => Record::Put { message: session, body: body.message()? },
        FAN => Record::Fan {
            session,
            slot: body.u32()?,
            message: body.u64()?,
            flags: body.flags()?,
            ids: body.bytes().filter(|ids| ids.len().is_multiple_of(4))?,
            share: body.text()?,
        },
        STATE => Record::State {
            session,
            slot: body.u32()?,
            packet: body.u16().filter(|&packet| packet != 0)?,
            phase: if body.flag()? { DeliveryPhase::Released } else { DeliveryPhase::Sent },
        },
        ACK => Record::Ack { session, slot: body.u32()? },
        INBOUND => Record::Inbound { session, packet: body.u16().filter(|&id| id != 0)? },
        OUTBOUND => Record::Outbound { session, packet: body.u16().filter(|&id| id != 0)? },
        WILL => Record::Will {
            session,
            delay: body.u32()?,
            lifetime: body.u32()?,
            due: body.u64()?,
            body: body.message()?,
        },
        NO_WILL => Record::NoWill { session },
        _ => return None,
    })
}

/// The record at the start of `bytes`, and its length.
///
/// # Errors
/// When there is none that this build knows.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), NoRecord> {
    let (head, rest) = bytes.split_first_chunk::<PREFIX>().ok_or(NoRecord::Short)?;
    let [kind, length @ ..] = *head;
    if !(SESSION..=NOTHING).contains(&kind) {
        return Err(NoRecord::Unknown(kind));
    }
    let length = u32::from_le_bytes(length) as usize;
    let mut body = FieldReader(rest.get(..length).ok_or(NoRecord::Short)?);
    let record = decode_body(kind, &mut body).filter(|_| body.0.is_empty());
    Ok((record.ok_or(NoRecord::Malformed(kind))?, PREFIX + length))
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
