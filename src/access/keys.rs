//! The keys that tokens are checked with: one from a file, a shared secret, or the set of a service
//! (RFC 7517). Owns which algorithms a key may be used with. The broker fetches key sets
//! (`broker/services/key_sets.rs`).

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, decode_header};
use serde_json::Value;

/// Most keys that a set may have.
const MOST_KEYS: usize = 256;
/// Most keys that are tried with one token that names none.
pub const MOST_TRIED: usize = 16;

/// How tokens are signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signing {
    /// An algorithm of `jsonwebtoken`.
    Known(Algorithm),
    /// ECDSA on P-521 with SHA-512, which the library does not have.
    Es512,
}

use Signing::Known;

/// The algorithms for a shared secret.
pub const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: [Signing; 6] = [
    Known(Algorithm::RS256),
    Known(Algorithm::RS384),
    Known(Algorithm::RS512),
    Known(Algorithm::PS256),
    Known(Algorithm::PS384),
    Known(Algorithm::PS512),
];
const ED: [Signing; 1] = [Known(Algorithm::EdDSA)];
/// Bytes of an uncompressed point on P-521.
const P521_POINT: usize = 133;

/// What the header of a token says of its signature.
pub struct TokenHead {
    /// The algorithm of the signature.
    pub signing: Signing,
    /// The identifier of the key.
    pub key_id: Option<String>,
}

impl TokenHead {
    /// Reads the header of a token; `None` when it is malformed or names another algorithm.
    pub fn of(token: &str) -> Option<TokenHead> {
        if let Ok(header) = decode_header(token) {
            return Some(TokenHead { signing: Known(header.alg), key_id: header.kid });
        }
        let first = token.split('.').next()?;
        let header = BASE64_URL_SAFE_NO_PAD.decode(first).ok()?;
        let header: Value = serde_json::from_slice(&header).ok()?;
        // A reader has to understand what `crit` names (RFC 7515, section 4.1.11).
        if header.get("alg")?.as_str()? != "ES512" || header.get("crit").is_some() {
            return None;
        }
        let key_id = header.get("kid").and_then(Value::as_str).map(Into::into);
        Some(TokenHead { signing: Signing::Es512, key_id })
    }
}

/// The algorithm of an EC key. The length of its point tells the curve.
fn ec_signing(key: &DecodingKey) -> Option<Signing> {
    let point = key.as_bytes();
    match (point.first(), point.len()) {
        (Some(4), 65) => Some(Known(Algorithm::ES256)),
        (Some(4), 97) => Some(Known(Algorithm::ES384)),
        (Some(4), P521_POINT) => Some(Signing::Es512),
        _ => None,
    }
}

/// A key with the algorithms that it may be used with: a token cannot choose how its key is used.
pub struct TokenKey {
    id: Option<Box<str>>,
    /// The key in the form that checks signatures.
    pub decoding: DecodingKey,
    algorithms: Box<[Signing]>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Key");
        shown.field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl TokenKey {
    /// A shared secret.
    pub fn secret(secret: &[u8]) -> TokenKey {
        let decoding = DecodingKey::from_secret(secret);
        TokenKey { id: None, decoding, algorithms: HMAC.map(Known).into() }
    }

    /// A public key in PEM.
    ///
    /// # Errors
    /// When it is not a key that can be used.
    pub fn of_pem(pem: &[u8]) -> Result<TokenKey, &'static str> {
        let key = |decoding, algorithms: &[Signing]| TokenKey {
            id: None,
            decoding,
            algorithms: algorithms.into(),
        };
        if let Ok(rsa) = DecodingKey::from_rsa_pem(pem) {
            return Ok(key(rsa, &RSA));
        }
        if let Ok(ec) = DecodingKey::from_ec_pem(pem) {
            let signing = ec_signing(&ec).ok_or("this EC key is on none of P-256, P-384, P-521")?;
            return Ok(key(ec, &[signing]));
        }
        match DecodingKey::from_ed_pem(pem) {
            Ok(ed) => Ok(key(ed, &ED)),
            Err(_) => Err("this is no public key of RSA, EC or Ed25519 in PEM"),
        }
    }

    /// A key of a set; `None` for one that is meant for something else, or is of another kind.
    /// Shared secrets are not accepted, because anyone who can read the set could sign with them.
    fn of_jwk(value: &Value) -> Option<TokenKey> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let of_kind: &[Signing] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &RSA,
            // A key whose point is not on its curve is refused, because it would match no
            // signature.
            AlgorithmParameters::EllipticCurve(key) => match (&key.curve, ec_signing(&decoding)) {
                (EllipticCurve::P256, Some(Known(Algorithm::ES256))) => &[Known(Algorithm::ES256)],
                (EllipticCurve::P384, Some(Known(Algorithm::ES384))) => &[Known(Algorithm::ES384)],
                (EllipticCurve::P521, Some(Signing::Es512)) => &[Signing::Es512],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &ED,
            _ => return None,
        };
        let algorithms = match common.key_algorithm {
            None => of_kind.into(),
            Some(named) => {
                let text = value.get("alg").and_then(Value::as_str);
                [*of_kind.iter().find(|one| is_named(**one, named, text))?].into()
            }
        };
        Some(TokenKey { id: common.key_id.as_deref().map(Into::into), decoding, algorithms })
    }

    /// Whether a token with this algorithm and, if it names its key, this identifier can be signed
    /// with this key.
    pub fn takes(&self, algorithm: Signing, id: Option<&str>) -> bool {
        let named = id.is_none_or(|id| self.id.as_deref().is_none_or(|own| own == id));
        named && self.algorithms.contains(&algorithm)
    }
}

/// Whether `named`, an algorithm under the name that keys use, is the same as `signing`.
fn is_named(signing: Signing, named: KeyAlgorithm, text: Option<&str>) -> bool {
    let Known(algorithm) = signing else { return text == Some("ES512") };
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

/// The key set of a service.
#[derive(Debug)]
pub struct KeySet(Vec<TokenKey>);

impl KeySet {
    /// Reads a set in JSON. Keys that cannot be used are left out, as RFC 7517 section 5 asks for.
    ///
    /// # Errors
    /// When it is not a key set, has too many keys, or none that can be used.
    pub fn parse(body: &[u8]) -> Result<KeySet, &'static str> {
        let set: Value = serde_json::from_slice(body).map_err(|_| "the key set is no JSON")?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("the key set has no list `keys`")?;
        if keys.len() > MOST_KEYS {
            return Err("the key set has more than 256 keys");
        }
        let keys: Vec<TokenKey> = keys.iter().filter_map(TokenKey::of_jwk).collect();
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

    /// Always false: a set without a usable key is refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All keys.
    pub fn keys(&self) -> &[TokenKey] {
        &self.0
    }

    /// Whether a token that names this key can be signed with one of the keys.
    pub fn knows(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref().is_none_or(|own| own == id))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
