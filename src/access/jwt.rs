//! JSON Web Tokens (RFC 7519) as proof of who a client is. Owns which algorithms a key takes and
//! what claims mean; signatures are checked by `jsonwebtoken` on aws-lc-rs.

use super::chain::{Accepted, Proof, Verdict};
use super::claims;
use super::template::Template;
use crate::config::{self, Get, TokenFrom};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

/// Keys that tokens are checked with, and what they must say.
pub struct Jwt {
    from: TokenFrom,
    key: DecodingKey,
    algorithms: &'static [Algorithm],
    audience: Box<str>,
    issuer: Box<str>,
    claims: Vec<(Box<str>, Template)>,
    username_claim: Box<str>,
    acl_claim: Box<str>,
    /// Seconds.
    leeway: u64,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// With a shared secret.
const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
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

impl Jwt {
    /// From its section. `pem`: the text of its public key, if it names one.
    ///
    /// # Errors
    /// When the key cannot be read.
    pub fn new(section: &config::Jwt, pem: Option<&str>) -> Result<Jwt, &'static str> {
        let (key, algorithms): (DecodingKey, &'static [Algorithm]) = match pem {
            None => (DecodingKey::from_secret(section.secret.as_bytes()), &HMAC),
            // A key of one kind is no key of another: no token chooses how it is looked at.
            Some(pem) => DecodingKey::from_rsa_pem(pem.as_bytes())
                .map(|key| (key, &RSA[..]))
                .or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()).map(|key| (key, &EC[..])))
                .or_else(|_| DecodingKey::from_ed_pem(pem.as_bytes()).map(|key| (key, &ED[..])))
                .map_err(|_| "this is no public key of RSA, EC or Ed25519 in PEM")?,
        };
        let claims = section.claims.iter();
        Ok(Jwt {
            from: section.from,
            key,
            algorithms,
            audience: (*section.audience).into(),
            issuer: (*section.issuer).into(),
            claims: claims.map(|(name, text)| (name.clone(), Template::new(text))).collect(),
            username_claim: (*section.username_claim).into(),
            acl_claim: (*section.acl_claim).into(),
            leeway: section.leeway.get().as_secs(),
        })
    }

    /// The token that a client shows, if it looks like one.
    pub fn token<'a>(&self, proof: &'a Proof) -> Option<&'a str> {
        let text = match self.from {
            TokenFrom::Password => std::str::from_utf8(proof.password.as_deref()?).ok()?,
            TokenFrom::Username => proof.username.as_deref()?,
        };
        (text.split('.').count() == 3 && decode_header(text).is_ok()).then_some(text)
    }

    /// What the token says; `now` in seconds since 1970. A signature that another key may have made
    /// is left to the next method.
    pub fn verify(&self, proof: &Proof, now: u64) -> Verdict {
        let Some(token) = self.token(proof) else { return Verdict::Unknown };
        let Some(claims) = self.signed(token) else { return Verdict::Unknown };
        match self.accept(proof, &claims, now) {
            Ok(accepted) => Verdict::Accept(Box::new(accepted)),
            Err(why) => Verdict::Refuse(why),
        }
    }

    /// The claims, if the signature is right.
    fn signed(&self, token: &str) -> Option<Value> {
        let algorithm = decode_header(token).ok()?.alg;
        if !self.algorithms.contains(&algorithm) {
            return None;
        }
        let mut validation = Validation::new(algorithm);
        // Claims are looked at below, with the time that is given.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        decode::<Value>(token, &self.key, &validation).ok().map(|decoded| decoded.claims)
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
        })
    }

    /// Milliseconds until the token expires; `None` when it does not.
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

/// Whether a claim is this text, or a list with it.
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
