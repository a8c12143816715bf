//! Keys that tokens are checked with: one of a file or a shared secret, or a set of a service
//! (RFC 7517). Owns which algorithms a key takes; who fetches a set is the broker's
//! (`broker/services/key_sets.rs`).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

/// Most keys that are taken of a set.
const MOST_KEYS: usize = 256;
/// Most keys that one token is tried with when it names none.
pub const MOST_TRIED: usize = 16;

/// With a shared secret.
pub const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const EC: [Algorithm; 2] = [Algorithm::ES256, Algorithm::ES384];
const ED: [Algorithm; 1] = [Algorithm::EdDSA];

/// A key, and what it may be used with: no token chooses how a key is looked at.
pub struct Key {
    id: Option<Box<str>>,
    /// What checks a signature.
    pub decoding: DecodingKey,
    algorithms: Box<[Algorithm]>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Key");
        shown.field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    /// A shared secret.
    pub fn secret(secret: &[u8]) -> Key {
        Key { id: None, decoding: DecodingKey::from_secret(secret), algorithms: HMAC.into() }
    }

    /// A public key in PEM.
    ///
    /// # Errors
    /// When it is none that can be used.
    pub fn of_pem(pem: &[u8]) -> Result<Key, &'static str> {
        let (decoding, algorithms): (DecodingKey, &[Algorithm]) = DecodingKey::from_rsa_pem(pem)
            .map(|key| (key, &RSA[..]))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, &EC[..])))
            .or_else(|_| DecodingKey::from_ed_pem(pem).map(|key| (key, &ED[..])))
            .map_err(|_| "this is no public key of RSA, EC or Ed25519 in PEM")?;
        Ok(Key { id: None, decoding, algorithms: algorithms.into() })
    }

    /// Of a set; `None` for one that is for something else, or of a kind that is not taken: whoever
    /// can read a set could sign with a secret in it.
    fn of_jwk(jwk: &Jwk) -> Option<Key> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let of_kind: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &RSA,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &ED,
            _ => return None,
        };
        let algorithms = match common.key_algorithm {
            None => of_kind.into(),
            Some(named) => [*of_kind.iter().find(|one| is_named(**one, named))?].into(),
        };
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        Some(Key { id: common.key_id.as_deref().map(Into::into), decoding, algorithms })
    }

    /// Whether a token of this algorithm, which may name its key, can be of this key.
    pub fn takes(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let named = id.is_none_or(|id| self.id.as_deref().is_none_or(|own| own == id));
        named && self.algorithms.contains(&algorithm)
    }
}

/// The same algorithm under the name that keys use.
fn is_named(algorithm: Algorithm, named: KeyAlgorithm) -> bool {
    let known = match algorithm {
        Algorithm::RS256 => KeyAlgorithm::RS256,
        Algorithm::RS384 => KeyAlgorithm::RS384,
        Algorithm::RS512 => KeyAlgorithm::RS512,
        Algorithm::PS256 => KeyAlgorithm::PS256,
        Algorithm::PS384 => KeyAlgorithm::PS384,
        Algorithm::PS512 => KeyAlgorithm::PS512,
        Algorithm::ES256 => KeyAlgorithm::ES256,
        Algorithm::ES384 => KeyAlgorithm::ES384,
        Algorithm::EdDSA => KeyAlgorithm::EdDSA,
        _ => return false,
    };
    known == named
}

/// The keys of a service.
#[derive(Debug)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// From its JSON. Keys that cannot be used are left out, as RFC 7517 section 5 asks for.
    ///
    /// # Errors
    /// When it is no key set, or none of its keys can be used.
    pub fn parse(body: &[u8]) -> Result<KeySet, &'static str> {
        let set: Value = serde_json::from_slice(body).map_err(|_| "the key set is no JSON")?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("the key set has no list `keys`")?;
        if keys.len() > MOST_KEYS {
            return Err("the key set has more than 256 keys");
        }
        let read = |key: &Value| Key::of_jwk(&serde_json::from_value(key.clone()).ok()?);
        let keys: Vec<Key> = keys.iter().filter_map(read).collect();
        if keys.is_empty() {
            Err("the key set has no key that can be used")
        } else {
            Ok(KeySet(keys))
        }
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a set without a key is not taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Whether a token that names this key can be of one of them.
    pub fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref().is_none_or(|own| own == id))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
