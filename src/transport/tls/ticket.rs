//! Session tickets: what a client shows to resume the session of an earlier handshake.
//!
//! A ticket is sealed with a key of this process, or of the process whose clients this one has
//! taken over ([`crate::upgrade`]). It is bound to its listener and to what that listener trusts:
//! authorities, CRLs, and whether certificates are asked for. Another listener cannot open it, nor
//! can the same listener after a reload that changed any of that. rustls does neither by itself. A
//! key is replaced at its first use after the rotation time, and the previous one is still
//! accepted, so a ticket is good for at least one rotation and less than three.
#![allow(clippy::disallowed_types, reason = "each shard takes the tickets of the others")]
#![allow(clippy::disallowed_methods, reason = "rustls asks for tickets without a time")]

use crate::mutant::Mutant;
use crate::upgrade::code::SecretBytes;
use aws_lc_rs::{aead, rand};
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Bytes of a key's name, by which a ticket says what it was sealed with.
const NAME: usize = 8;
/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a key that goes to another process.
const EXPORTED: usize = NAME + KEY + size_of::<u64>();

struct TicketKey {
    name: [u8; NAME],
    /// The bytes that `key` was made of, for a process that takes over this one's clients.
    bytes: Zeroizing<[u8; KEY]>,
    key: aead::LessSafeKey,
    made: Instant,
}

impl TicketKey {
    fn random(made: Instant) -> Option<TicketKey> {
        let (mut name, mut bytes) = ([0; NAME], Zeroizing::new([0; KEY]));
        rand::fill(&mut name).ok()?;
        rand::fill(bytes.as_mut_slice()).ok()?;
        TicketKey::of(name, bytes, made)
    }

    fn of(name: [u8; NAME], bytes: Zeroizing<[u8; KEY]>, made: Instant) -> Option<TicketKey> {
        let unbound = aead::UnboundKey::new(&aead::AES_256_GCM, bytes.as_slice()).ok()?;
        Some(TicketKey { name, bytes, key: aead::LessSafeKey::new(unbound), made })
    }
}

#[derive(Default)]
struct TicketKeyPair {
    current: Option<TicketKey>,
    previous: Option<TicketKey>,
}

/// The keys of one listener. All shards share them, since each accepts the tickets of the others. A
/// handshake holds the read lock for a few hundred nanoseconds; the write lock is taken once per
/// rotation.
pub struct TicketKeys {
    rotate: Duration,
    pair: RwLock<TicketKeyPair>,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

impl TicketKeys {
    /// No key yet: the first use makes one, and a new one is made every `rotate`.
    pub fn new(rotate: Duration) -> Arc<TicketKeys> {
        Arc::new(TicketKeys { rotate, pair: RwLock::default() })
    }

    /// The keys for another process of this broker, the current one first. Each has its name, its
    /// bytes, and its age in milliseconds, little-endian.
    pub fn exported(&self, now: Instant) -> SecretBytes {
        let pair = self.pair.read().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(2 * EXPORTED);
        for key in [&pair.current, &pair.previous].into_iter().flatten() {
            let age = now.saturating_duration_since(key.made).as_millis() as u64;
            bytes.extend_from_slice(&key.name);
            bytes.extend_from_slice(key.bytes.as_slice());
            bytes.extend_from_slice(&age.to_le_bytes());
        }
        SecretBytes(bytes)
    }

    /// Adopts the keys that another process has exported; malformed bytes are ignored.
    pub fn adopt(&self, exported: &SecretBytes, now: Instant) {
        let read = |bytes: &[u8]| {
            let (name, bytes) = bytes.split_first_chunk::<NAME>()?;
            let (key, age) = bytes.split_first_chunk::<KEY>()?;
            let age = u64::from_le_bytes(*age.first_chunk()?);
            let made = now.checked_sub(Duration::from_millis(age))?;
            TicketKey::of(*name, Zeroizing::new(*key), made)
        };
        let mut keys = exported.0.chunks_exact(EXPORTED).map_while(read);
        if let Some(current) = keys.next() {
            let mut pair = self.pair.write().unwrap_or_else(PoisonError::into_inner);
            *pair = TicketKeyPair { current: Some(current), previous: keys.next() };
        }
    }

    /// How often the key is changed.
    pub fn rotation(&self) -> Duration {
        self.rotate
    }

    /// Calls `with` with the current keys, after replacing them if it is time.
    fn with<T>(&self, now: Instant, with: impl Fn(&TicketKeyPair) -> Option<T>) -> Option<T> {
        let is_due = |pair: &TicketKeyPair| match &pair.current {
            Some(key) => now.saturating_duration_since(key.made) >= self.rotate,
            None => true,
        };
        // A panic on any thread ends the process, so the state of a poisoned lock does not matter.
        let pair = self.pair.read().unwrap_or_else(PoisonError::into_inner);
        if !is_due(&pair) {
            return with(&pair);
        }
        drop(pair);
        let mut pair = self.pair.write().unwrap_or_else(PoisonError::into_inner);
        if is_due(&pair) {
            let old = pair.current.replace(TicketKey::random(now)?);
            // After a long pause the previous key is too old as well.
            let fresh = |key: &TicketKey| {
                now.saturating_duration_since(key.made) < self.rotate.saturating_mul(2)
            };
            pair.previous = old.filter(fresh);
        }
        with(&pair)
    }
}

/// Makes and opens the tickets of a listener, as long as what the listener trusts does not change.
pub struct Ticketer {
    keys: Arc<TicketKeys>,
    /// A digest of what the tickets are bound to.
    bound: [u8; 32],
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

impl Ticketer {
    /// With keys that outlive it, for tickets bound to `bound`.
    pub fn new(keys: Arc<TicketKeys>, bound: [u8; 32]) -> Ticketer {
        let bound = if Mutant::TicketForAll.is_on() { [0; 32] } else { bound };
        Ticketer { keys, bound }
    }

    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.keys.with(now, |pair| {
            let TicketKey { name, key, .. } = pair.current.as_ref()?;
            // A random nonce is safe for fewer than 2^32 tickets of one key; no listener makes as
            // many.
            let mut nonce = [0; aead::NONCE_LEN];
            rand::fill(&mut nonce).ok()?;
            let mut ticket = Vec::with_capacity(NAME + nonce.len() + plain.len() + 16);
            ticket.extend_from_slice(name);
            ticket.extend_from_slice(&nonce);
            let start = ticket.len();
            ticket.extend_from_slice(plain);
            let nonce = aead::Nonce::assume_unique_for_key(nonce);
            let sealed = ticket.get_mut(start..)?;
            let aad = aead::Aad::from(self.bound);
            let tag = key.seal_in_place_separate_tag(nonce, aad, sealed).ok()?;
            ticket.extend_from_slice(tag.as_ref());
            Some(ticket)
        })
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<{ aead::NONCE_LEN }>()?;
        self.keys.with(now, |pair| {
            let keys = [&pair.current, &pair.previous];
            let key = keys.into_iter().flatten().find(|key| key.name == *name)?;
            let nonce = aead::Nonce::assume_unique_for_key(*nonce);
            let mut plain = sealed.to_vec();
            let aad = aead::Aad::from(self.bound);
            let length = key.key.open_in_place(nonce, aad, &mut plain).ok()?.len();
            plain.truncate(length);
            Some(plain)
        })
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.keys.rotate.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATE: Duration = Duration::from_secs(100);

    #[test]
    fn a_ticket_opens_where_it_was_made_and_nowhere_else() {
        let keys = TicketKeys::new(ROTATE);
        let (here, there) = (Ticketer::new(keys.clone(), [1; 32]), Ticketer::new(keys, [2; 32]));
        let now = Instant::now();
        let ticket = here.seal(b"session", now).unwrap();
        assert_eq!(here.open(&ticket, now).as_deref(), Some(&b"session"[..]));
        assert_eq!(there.open(&ticket, now), None);
        assert_eq!(Ticketer::new(TicketKeys::new(ROTATE), [1; 32]).open(&ticket, now), None);
    }

    #[test]
    fn tickets_open_in_a_process_that_has_taken_the_keys_over_for_as_long_as_before() {
        let old = Ticketer::new(TicketKeys::new(ROTATE), [1; 32]);
        let start = Instant::now();
        let first = old.seal(b"first", start).unwrap();
        let second = old.seal(b"second", start + ROTATE).unwrap();
        let keys = TicketKeys::new(ROTATE);
        let later = start + ROTATE + ROTATE / 2;
        keys.adopt(&old.keys.exported(later), later);
        let new = Ticketer::new(keys, [1; 32]);
        assert_eq!(new.open(&first, later).as_deref(), Some(&b"first"[..]));
        assert_eq!(new.open(&second, later).as_deref(), Some(&b"second"[..]));
        let third = new.seal(b"third", later).unwrap();
        assert_eq!(old.open(&third, later).as_deref(), Some(&b"third"[..]), "the same key");
        assert!(new.open(&second, start + 2 * ROTATE).is_some(), "the key before");
        assert!(new.open(&first, start + 2 * ROTATE).is_none());
        // Nothing, or anything, leaves a process with keys of its own.
        for bytes in [vec![], vec![7; EXPORTED - 1], vec![0xff; EXPORTED]] {
            let keys = TicketKeys::new(ROTATE);
            keys.adopt(&SecretBytes(bytes), later);
            let own = Ticketer::new(keys, [1; 32]);
            let ticket = own.seal(b"own", later).unwrap();
            assert!(own.open(&ticket, later).is_some());
        }
    }

    #[test]
    fn a_ticket_that_was_changed_or_cut_does_not_open() {
        let ticketer = Ticketer::new(TicketKeys::new(ROTATE), [1; 32]);
        let now = Instant::now();
        let ticket = ticketer.seal(b"session", now).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(ticketer.open(&changed, now), None, "byte {at}");
            assert_eq!(ticketer.open(&ticket[..at], now), None, "cut at {at}");
        }
    }

    #[test]
    fn a_ticket_lasts_for_one_rotation_and_less_than_three() {
        let ticketer = Ticketer::new(TicketKeys::new(ROTATE), [1; 32]);
        let start = Instant::now();
        let ticket = ticketer.seal(b"session", start).unwrap();
        assert!(ticketer.open(&ticket, start + ROTATE).is_some(), "of the key before");
        assert!(ticketer.open(&ticket, start + 2 * ROTATE).is_none());
        let after_a_pause = Ticketer::new(TicketKeys::new(ROTATE), [1; 32]);
        let ticket = after_a_pause.seal(b"session", start).unwrap();
        assert!(after_a_pause.open(&ticket, start + 2 * ROTATE).is_none());
    }
}
