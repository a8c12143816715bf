//! JSON Web Tokens (RFC 7519) as credentials. Owns what claims mean. Signatures are checked by
//! `jsonwebtoken` on aws-lc-rs, with the keys of `keys`; those of ES512 by aws-lc-rs alone.

use super::chain::{Accepted, Proof, Verdict};
use super::claims;
use super::keys::{KeySet, MOST_TRIED, Signing, TokenHead, TokenKey};
use super::template::Template;
use crate::config::{self, Get, TokenFrom};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Validation, decode};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The keys that tokens are checked with, and the claims that they must have.
#[derive(Debug)]
pub struct Jwt {
    from: TokenFrom,
    keys: KeyOrigin,
    audience: Box<str>,
    issuer: Box<str>,
    claims: Vec<(Box<str>, Template)>,
    username_claim: Box<str>,
    acl_claim: Box<str>,
    /// Seconds by which clocks may differ.
    leeway: u64,
}

/// The origin of the keys.
#[derive(Debug)]
enum KeyOrigin {
    /// The configuration.
    Own(Box<TokenKey>),
    /// A service.
    Of(Arc<KeySource>),
}

/// A service that publishes a key set.
#[derive(Debug)]
pub struct KeySource {
    /// The URL of the key set.
    pub url: Box<str>,
    /// The authorities that its certificate is checked with, in PEM; `None` for those of the host.
    pub ca: Option<Arc<str>>,
    /// The set is fetched again after this time.
    pub refresh: Duration,
    /// Longest time for a fetch.
    pub timeout: Duration,
}

impl Jwt {
    /// Reads the section. `pem` is the text of its public key, if it names one; `ca` that of the
    /// authorities for the service that has its key set.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn new(
        section: &config::JwtConfig,
        pem: Option<&str>,
        ca: Option<&str>,
    ) -> Result<Jwt, &'static str> {
        let keys = match pem {
            _ if !section.jwks.is_empty() => KeyOrigin::Of(Arc::new(KeySource {
                url: (*section.jwks).into(),
                ca: ca.map(Into::into),
                refresh: section.refresh.get(),
                timeout: section.timeout.get(),
            })),
            None => KeyOrigin::Own(Box::new(TokenKey::secret(section.secret.as_bytes()))),
            Some(pem) => KeyOrigin::Own(Box::new(TokenKey::of_pem(pem.as_bytes())?)),
        };
        let claims = section.claims.iter();
        Ok(Jwt {
            from: section.from,
            keys,
            audience: (*section.audience).into(),
            issuer: (*section.issuer).into(),
            claims: claims.map(|(name, text)| (name.clone(), Template::new(text))).collect(),
            username_claim: (*section.username_claim).into(),
            acl_claim: (*section.acl_claim).into(),
            leeway: section.leeway.get().as_secs(),
        })
    }

    /// The service that has the key set, if there is one.
    pub fn source(&self) -> Option<&Arc<KeySource>> {
        match &self.keys {
            KeyOrigin::Own(_) => None,
            KeyOrigin::Of(source) => Some(source),
        }
    }

    /// The identifier of the key that a client's token names.
    pub fn key_id(&self, proof: &Proof) -> Option<String> {
        TokenHead::of(self.token(proof)?)?.key_id
    }

    /// The client's token, if what it shows looks like one.
    pub fn token<'a>(&self, proof: &'a Proof) -> Option<&'a str> {
        let text = match self.from {
            TokenFrom::Password => std::str::from_utf8(proof.password.as_deref()?).ok()?,
            TokenFrom::Username => proof.username.as_deref()?,
        };
        (text.split('.').count() == 3 && TokenHead::of(text).is_some()).then_some(text)
    }

    /// The verdict about the client's token; `now` in seconds since 1970. A token that none of the
    /// keys has signed is left to the next method, which may have the right key.
    pub fn verify(&self, proof: &Proof, set: Option<&KeySet>, now: u64) -> Verdict {
        let Some(token) = self.token(proof) else { return Verdict::Unknown };
        let keys = match (&self.keys, set) {
            (KeyOrigin::Own(key), _) => std::slice::from_ref(&**key),
            (KeyOrigin::Of(_), Some(set)) => set.keys(),
            (KeyOrigin::Of(_), None) => return Verdict::Failed("there is no key set"),
        };
        let Some(claims) = signed(token, keys) else { return Verdict::Unknown };
        match self.accept(proof, &claims, now) {
            Ok(accepted) => Verdict::Accept(Box::new(accepted)),
            Err(why) => Verdict::Refuse(why),
        }
    }

    fn accept(&self, proof: &Proof, claims: &Value, now: u64) -> Result<Accepted, &'static str> {
        let lasts = self.time_left(claims, now)?;
        if !self.audience.is_empty() && !names(claims.get("aud"), &self.audience) {
            return Err("the token is for another audience");
        }
        if !self.issuer.is_empty() && !names(claims.get("iss"), &self.issuer) {
            return Err("the token is of another issuer");
        }
        for (name, template) in &self.claims {
            let wanted = template.fill(|name| match name {
                "client_id" | "clientid" => Some(proof.client_id.to_string()),
                "username" => proof.username.as_ref().map(ToString::to_string),
                _ => None,
            });
            if wanted.is_empty() || !names(claims.get(&**name), &wanted) {
                return Err("a claim of the token is not as it must be");
            }
        }
        let username = match &*self.username_claim {
            "" => None,
            name => match claims.get(name).and_then(claims::text) {
                Some(name) if !name.is_empty() => Some(name.into()),
                _ => return Err("the token has no user name"),
            },
        };
        let acl = claims.get(&*self.acl_claim).filter(|_| !self.acl_claim.is_empty());
        Ok(Accepted {
            username,
            exchanged: None,
            superuser: claims::is_true(claims.get("is_superuser")),
            lasts,
            rules: acl.map(claims::rules).transpose()?.map(Box::new),
            attributes: claims::attributes(claims.get("client_attrs")),
            credential: 0,
        })
    }

    /// Milliseconds until the token expires, leeway included; `None` when it does not expire.
    fn time_left(&self, claims: &Value, now: u64) -> Result<Option<u64>, &'static str> {
        let seconds = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().or_else(|| value.as_f64().map(|at| at as u64)) {
                Some(at) => Ok(Some(at)),
                None => Err("a time of the token is no number"),
            },
        };
        if seconds("nbf")?.is_some_and(|from| from > now.saturating_add(self.leeway)) {
            return Err("the token is not valid yet");
        }
        let Some(until) = seconds("exp")? else { return Ok(None) };
        let until = until.saturating_add(self.leeway);
        if until <= now {
            return Err("the token has expired");
        }
        Ok(Some((until - now).saturating_mul(1000)))
    }
}

/// The claims of a token that one of the keys has signed.
fn signed(token: &str, keys: &[TokenKey]) -> Option<Value> {
    let head = TokenHead::of(token)?;
    let taken = keys.iter().filter(|key| key.takes(head.signing, head.key_id.as_deref()));
    let mut taken = taken.take(MOST_TRIED);
    let Signing::Known(algorithm) = head.signing else {
        return taken.find_map(|key| signed_es512(token, key.decoding.as_bytes()));
    };
    let mut validation = Validation::new(algorithm);
    // `accept` checks the claims, with the time that it is given.
    (validation.validate_exp, validation.validate_nbf) = (false, false);
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let claims = |key: &TokenKey| decode::<Value>(token, &key.decoding, &validation).ok();
    taken.find_map(claims).map(|decoded| decoded.claims)
}

/// The claims of a token that the key with this point has signed (RFC 7518, section 3.4).
fn signed_es512(token: &str, point: &[u8]) -> Option<Value> {
    let (said, signature) = token.rsplit_once('.')?;
    let (_, claims) = said.split_once('.')?;
    let bytes = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point);
    key.verify(said.as_bytes(), &bytes(signature)?).ok()?;
    serde_json::from_slice(&bytes(claims)?).ok()
}

/// Whether a claim is the text `wanted`, or a list that contains it.
fn names(claim: Option<&Value>, wanted: &str) -> bool {
    let is = |value: &Value| claims::text(value).is_some_and(|text| text == wanted);
    match claim {
        Some(Value::Array(list)) => list.iter().any(is),
        Some(value) => is(value),
        None => false,
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
