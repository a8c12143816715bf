//! Derived keys, and the cache of them that each shard has for its busy clients.
//!
//! A connection keeps only its secrets. The key of a direction is derived from its secret when a
//! record arrives or is sent. That costs several times as much as the record itself, so the shard
//! caches the keys that it derived last. A cached key is found by the secret itself. It can
//! therefore not be mistaken for the key of another connection or another generation, and a
//! connection does not have to know when its key is evicted. A key that was not used for some
//! seconds is wiped too, so that an idle client costs the memory of its secrets only.

use super::suite::{LONGEST_KEY, NONCE, Suite};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{aead, hkdf};
use zeroize::Zeroize;

/// The longest secret, bytes.
pub const LONGEST_SECRET: usize = 48;

/// The key of one direction. It cannot be copied, and its bytes are wiped when it is dropped.
pub struct TrafficKey {
    /// aws-lc wipes it when it is freed.
    aead: aead::LessSafeKey,
    iv: [u8; NONCE],
}

impl Drop for TrafficKey {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl TrafficKey {
    /// Derives the key of `secret`, whose length is [`Suite::secret`]. `None` when the library
    /// fails, or when the key or its initialization vector differ from `expected`.
    pub fn derive(
        suite: Suite,
        secret: &[u8],
        expected: Option<(&[u8], &[u8])>,
    ) -> Option<TrafficKey> {
        let (mut key, mut iv) = ([0; LONGEST_KEY], [0; NONCE]);
        let length = suite.aead().key_len();
        let made = key.get_mut(..length).and_then(|key| {
            match suite.is_tls13() {
                true => expand_key(suite, secret, key, &mut iv)?,
                false => {
                    let (from, rest) = secret.split_at_checked(length)?;
                    key.copy_from_slice(from);
                    iv = rest.first_chunk().copied()?;
                }
            }
            if let Some((expected_key, expected_iv)) = expected {
                verify_slices_are_equal(key, expected_key).ok()?;
                verify_slices_are_equal(&iv, expected_iv).ok()?;
            }
            let aead = aead::UnboundKey::new(suite.aead(), key).ok()?;
            Some(TrafficKey { aead: aead::LessSafeKey::new(aead), iv })
        });
        key.zeroize();
        iv.zeroize();
        made
    }

    /// The nonce of a record: the initialization vector, its last eight bytes XORed with the
    /// sequence number (RFC 8446 section 5.3, RFC 7905 section 2). In AES-GCM of TLS 1.2 the sender
    /// may choose these eight bytes; the broker makes them in the same way.
    pub fn nonce(&self, sequence: u64) -> [u8; NONCE] {
        let mut nonce = self.iv;
        for (byte, with) in nonce.iter_mut().skip(NONCE - 8).zip(sequence.to_be_bytes()) {
            *byte ^= with;
        }
        nonce
    }

    /// The nonce of a received AES-GCM record of TLS 1.2, which carries these eight bytes.
    pub fn nonce_with(&self, explicit: [u8; 8]) -> [u8; NONCE] {
        let mut nonce = self.iv;
        nonce[NONCE - 8..].copy_from_slice(&explicit);
        nonce
    }

    /// Checks and decrypts `sealed`, whose `tag` is apart, into `plain`, which is as long. False
    /// when the record is not genuine; the content of `plain` is then unspecified.
    pub fn open(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8],
        plain: &mut [u8],
    ) -> bool {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.aead.open_separate_gather(nonce, aead::Aad::from(aad), sealed, tag, plain).is_ok()
    }

    /// Encrypts `plain` followed by `inner` into `sealed`, which ends with the tag. False when the
    /// lengths do not agree or the library fails.
    pub fn seal(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        plain: &[u8],
        inner: &[u8],
        sealed: &mut [u8],
    ) -> bool {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let Some((sealed, end)) = sealed.split_at_mut_checked(plain.len()) else { return false };
        let aad = aead::Aad::from(aad);
        self.aead.seal_out_of_place_scatter(nonce, aad, plain, sealed, inner, end).is_ok()
    }
}

/// The number of bytes to derive.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand_label(prk: &hkdf::Prk, label: &[u8], out: &mut [u8]) -> Option<()> {
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let name = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
    let info: [&[u8]; 5] = [&length, &name, b"tls13 ", label, &[0]];
    prk.expand(&info, Length(out.len())).ok()?.fill(out).ok()
}

/// Key and initialization vector of a traffic secret (RFC 8446 section 7.3).
fn expand_key(suite: Suite, secret: &[u8], key: &mut [u8], iv: &mut [u8; NONCE]) -> Option<()> {
    let prk = hkdf::Prk::new_less_safe(suite.hkdf(), secret);
    expand_label(&prk, b"key", key)?;
    expand_label(&prk, b"iv", iv)
}

/// Replaces a traffic secret by the next one (RFC 8446 section 7.2).
pub fn update(suite: Suite, secret: &mut [u8]) -> Option<()> {
    let prk = hkdf::Prk::new_less_safe(suite.hkdf(), secret);
    expand_label(&prk, b"traffic upd", secret)
}

/// Places of a set. The first bytes of a secret choose its set; the key may be in any place of that
/// set.
const WAYS: usize = 4;
/// Sets of one shard. A key takes about 700 bytes, so a full cache takes 1.4 MiB.
const SETS: usize = 512;
/// Sets that one call of [`KeyCache::age`] looks at: all, once a second. With fewer, keys that are
/// derived only to answer a ping of an idle client would fill the cache of a large fleet.
const AGED: usize = SETS;

struct CachedKey {
    suite: Suite,
    secret: [u8; LONGEST_SECRET],
    key: TrafficKey,
}

impl Drop for CachedKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

#[derive(Default)]
struct CacheSet {
    places: [Option<Box<CachedKey>>; WAYS],
    /// The place that the next key of the set takes.
    next: u8,
    /// A bit for each place that was used since [`KeyCache::age`] last looked at the set.
    used: u8,
}

const _: () = assert!(WAYS <= u8::BITS as usize);

/// The keys that a shard used last, at most [`WAYS`] times [`SETS`].
#[derive(Default)]
pub struct KeyCache {
    sets: Vec<CacheSet>,
    /// The set at which the next call of [`KeyCache::age`] begins.
    aged: usize,
    /// How many keys were derived.
    pub derived: u64,
}

impl KeyCache {
    fn set(&mut self, secret: &[u8]) -> &mut CacheSet {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, CacheSet::default);
        }
        // Secrets are random, so the sets fill evenly.
        let first = secret.first_chunk().map_or(0, |bytes| u16::from_le_bytes(*bytes));
        &mut self.sets[usize::from(first) % SETS]
    }

    /// The key of `secret`, derived if it is not cached. `None` when the library fails.
    pub fn get(&mut self, suite: Suite, secret: &[u8]) -> Option<&TrafficKey> {
        let set = self.set(secret);
        if let Some(at) = set.find(suite, secret) {
            let set = self.set(secret);
            set.used |= 1 << at;
            return set.places[at].as_ref().map(|place| &place.key);
        }
        self.make(suite, secret, None)
    }

    /// Whether `secret` leads to this key and initialization vector. If so, the key is cached.
    pub fn admit(&mut self, suite: Suite, secret: &[u8], expected: (&[u8], &[u8])) -> bool {
        secret.len() == suite.secret() && self.make(suite, secret, Some(expected)).is_some()
    }

    fn make(
        &mut self,
        suite: Suite,
        secret: &[u8],
        expected: Option<(&[u8], &[u8])>,
    ) -> Option<&TrafficKey> {
        let key = TrafficKey::derive(suite, secret, expected)?;
        self.derived += 1;
        let mut kept = [0; LONGEST_SECRET];
        kept.get_mut(..secret.len())?.copy_from_slice(secret);
        let place = Box::new(CachedKey { suite, secret: kept, key });
        kept.zeroize();
        let set = self.set(secret);
        let at = usize::from(set.next) % WAYS;
        set.next = set.next.wrapping_add(1);
        set.used |= 1 << at;
        Some(&set.places[at].insert(place).key)
    }

    /// Wipes the key of a secret that is not used any more.
    pub fn remove(&mut self, suite: Suite, secret: &[u8]) {
        if self.sets.is_empty() {
            return;
        }
        let set = self.set(secret);
        if let Some(at) = set.find(suite, secret) {
            set.places[at] = None;
        }
    }

    /// Wipes the keys that were not used since the previous call that looked at them; returns how
    /// many. Called once a second.
    pub fn age(&mut self) -> usize {
        let from = self.aged.min(self.sets.len());
        let sets = self.sets.iter_mut().skip(from).take(AGED);
        let wiped = sets.map(CacheSet::wipe_unused).sum();
        self.aged = if from + AGED < self.sets.len() { from + AGED } else { 0 };
        wiped
    }

    /// How many keys are cached.
    pub fn held(&self) -> usize {
        self.sets.iter().map(|set| set.places.iter().flatten().count()).sum()
    }
}

impl CacheSet {
    fn wipe_unused(&mut self) -> usize {
        let used = std::mem::take(&mut self.used);
        let mut wiped = 0;
        for (at, place) in self.places.iter_mut().enumerate() {
            if place.is_some() && used & 1 << at == 0 {
                *place = None;
                wiped += 1;
            }
        }
        wiped
    }

    fn find(&self, suite: Suite, secret: &[u8]) -> Option<usize> {
        self.places.iter().position(|place| {
            place.as_ref().is_some_and(|place| {
                place.suite == suite && place.secret.get(..secret.len()) == Some(secret)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After this many calls of [`KeyCache::age`] a key that was not used meanwhile is wiped.
    const AGES: usize = 2 * SETS / AGED;

    fn suite() -> Suite {
        Suite::Tls13Aes128
    }

    #[test]
    fn keys_that_are_not_used_go_and_used_ones_stay() {
        let mut cache = KeyCache::default();
        let secret = |number: u16| {
            let mut secret = vec![0; suite().secret()];
            secret[..2].copy_from_slice(&number.to_le_bytes());
            secret
        };
        for number in 0..1000 {
            assert!(cache.get(suite(), &secret(number)).is_some());
        }
        assert_eq!((cache.held(), cache.derived), (1000, 1000));
        let mut wiped = 0;
        for _ in 0..AGES {
            assert!(cache.get(suite(), &secret(7)).is_some());
            wiped += cache.age();
        }
        assert_eq!((cache.held(), wiped, cache.derived), (1, 999, 1000));
        for _ in 0..AGES {
            cache.age();
        }
        assert_eq!(cache.held(), 0);
        assert!(cache.get(suite(), &secret(7)).is_some());
        assert_eq!(cache.derived, 1001, "it is made anew");
    }

    #[test]
    fn a_key_is_admitted_only_as_it_is_expected() {
        let mut cache = KeyCache::default();
        let (secret, mut key, mut iv) = ([9; 32], [0; 16], [0; NONCE]);
        expand_key(suite(), &secret, &mut key, &mut iv).unwrap();
        let (mut other_key, mut other_iv) = (key, iv);
        other_key[15] ^= 1;
        other_iv[0] ^= 1;
        assert!(!cache.admit(suite(), &secret, (&other_key, &iv)));
        assert!(!cache.admit(suite(), &secret, (&key, &other_iv)));
        assert!(!cache.admit(suite(), &secret, (&key[..15], &iv)));
        assert!(!cache.admit(suite(), &[8; 32], (&key, &iv)));
        assert!(!cache.admit(suite(), &secret[..31], (&key, &iv)));
        assert_eq!((cache.held(), cache.derived), (0, 0));
        assert!(cache.admit(suite(), &secret, (&key, &iv)));
        assert!(cache.get(suite(), &secret).is_some());
        assert_eq!((cache.held(), cache.derived), (1, 1), "it is not made a second time");
    }
}
