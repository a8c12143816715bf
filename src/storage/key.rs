//! Keys: what a value is stored under. Of all records with the same key, the newest one counts.

use super::kind::{FAN, INBOUND, PUT, RETAIN, SESSION, STATE, SUBSCRIBED, WILL};

/// A key: a kind, a session or message, and what tells several values of these apart. Filters are
/// in it as hashes of 80 bits and topics as hashes of 124 bits, under a secret of the store, so
/// that no client can make two of them collide, and by chance none will.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RecordKey(pub u64, pub u64);

impl RecordKey {
    pub(super) fn kind(self) -> u8 {
        (self.0 >> 60) as u8
    }

    /// The session that the key belongs to, if it is of a kind that belongs to one.
    pub(super) fn session(self) -> u64 {
        self.0 >> 16 & SESSIONS
    }

    /// The part of the first word that tells keys of the same kind and session apart.
    pub(super) fn high(self) -> u16 {
        self.0 as u16
    }
}

/// The secret that keys are hashed under. Each store has its own.
#[derive(Clone, Copy, Debug)]
pub struct StoreSecret(pub [u64; 2]);

impl StoreSecret {
    #[allow(deprecated)] // The successor has no keys of the caller's choice.
    fn hash(self, bytes: &[u8], which: u64) -> u64 {
        use std::hash::Hasher;
        let mut hasher = std::hash::SipHasher::new_with_keys(self.0[0] ^ which, self.0[1]);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The largest number of a session in a key.
const SESSIONS: u64 = (1 << 44) - 1;

/// The first word has the kind in its highest four bits, then 44 bits of a session's number, then
/// 16 bits that tell keys apart.
pub(super) fn key(kind: u8, session: u64, high: u64, low: u64) -> RecordKey {
    RecordKey(u64::from(kind) << 60 | (session & SESSIONS) << 16 | high & 0xffff, low)
}

pub(super) fn text_key(kind: u8, session: u64, text: &str, secret: StoreSecret) -> RecordKey {
    let hash = |which| secret.hash(text.as_bytes(), which);
    key(kind, session, hash(1), hash(2))
}

/// The key of a session.
pub fn session_key(session: u64) -> RecordKey {
    key(SESSION, session, 0, 0)
}

/// The key of a stored message.
pub fn message_key(message: u64) -> RecordKey {
    key(PUT, 0, 0, message)
}

/// The keys of a message that waits for a session: of the reference to it, and of the state of its
/// delivery.
pub fn slot_keys(session: u64, slot: u32) -> [RecordKey; 2] {
    [key(FAN, session, 0, u64::from(slot)), key(STATE, session, 0, u64::from(slot))]
}

/// The key of the packet identifier of a QoS 2 message that a client has sent.
pub fn inbound_key(session: u64, packet: u16) -> RecordKey {
    key(INBOUND, session, 0, u64::from(packet))
}

/// The key of a session's will.
pub fn will_key(session: u64) -> RecordKey {
    key(WILL, session, 0, 0)
}

/// The key of a subscription.
pub fn subscription_key(session: u64, filter: &str, secret: StoreSecret) -> RecordKey {
    text_key(SUBSCRIBED, session, filter, secret)
}

/// The key of a topic's retained message.
pub(super) fn topic_key(topic: &str, secret: StoreSecret) -> RecordKey {
    let hash = |which| secret.hash(topic.as_bytes(), which);
    RecordKey(u64::from(RETAIN) << 60 | hash(3) >> 4, hash(4))
}
