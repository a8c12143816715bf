//! Tokens by which a client proves to a Kafka cluster who it is (SASL OAUTHBEARER, RFC 7628): read
//! from a file that somebody else renews, or fetched from a service by OAuth 2.0 (client
//! credentials, RFC 6749 section 4.4). The client asks for another one when four fifths of a
//! token's time are over, on the thread that receives its reports, which waits for the answer.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of the Kafka client, which share the last token with each other and no core"
)]

use crate::access::http::{encoded, form};
use crate::bridge::intake::wall_millis;
use crate::client_tls::{Authorities, client_config, without_authorities};
use crate::config::{KafkaSasl, KafkaTokenEndpoint};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The most bytes of a token, and of a service's answer.
const MOST: usize = 64 * 1024;
/// How long a service may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The time in milliseconds of a token that does not say when it ends: four fifths of it are a
/// minute.
const UNKNOWN: u64 = 75_000;
/// A token that is valid for less than this many milliseconds is not used again.
const LEAST: u64 = 5_000;
/// The user's name for a token that does not tell it. The cluster reads the token, not this name.
const NAMELESS: &str = "ringmq";

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken {
    /// What is shown to the cluster.
    pub text: String,
    /// The user that it names.
    pub principal: String,
    /// When it ends, in milliseconds since 1970.
    pub until: u64,
}

impl std::fmt::Debug for BearerToken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "token of {} until {}", self.principal, self.until)
    }
}

/// Reads a token. If it is a JSON Web Token, it says when it ends and whom it names; the signature
/// is for the cluster to check. `lifetime`: milliseconds for which the token is valid, if its giver
/// has said that.
///
/// # Errors
/// Why the text is no token, or none that is valid now.
pub fn read(text: &str, lifetime: Option<u64>, now: u64) -> Result<BearerToken, String> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err("there is no token".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token has no spaces, control characters or letters beyond ASCII".to_owned());
    }
    let claims = claims(text).unwrap_or_default();
    let ends = claims.get("exp").and_then(Value::as_f64).map(|seconds| (seconds * 1000.0) as u64);
    let said = lifetime.map(|lifetime| now.saturating_add(lifetime));
    let until = match (ends, said) {
        (Some(ends), Some(said)) => ends.min(said),
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => now.saturating_add(UNKNOWN),
    };
    if until <= now {
        return Err("the token's time is over".to_owned());
    }
    let principal = claims.get("sub").and_then(Value::as_str).filter(|name| !name.contains('\0'));
    let principal = principal.unwrap_or(NAMELESS).to_owned();
    Ok(BearerToken { text: text.to_owned(), principal, until })
}

/// The claims of a JSON Web Token.
fn claims(text: &str) -> Option<Value> {
    let mut parts = text.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// Reads a service's answer.
///
/// # Errors
/// Why there is no token in it. What the service says about the reason is part of it; nothing else
/// of the answer is, since that may be a secret.
pub fn answered(status: u16, body: &[u8], now: u64) -> Result<BearerToken, String> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    if status != 200 {
        let why: String = text("error").unwrap_or_default().chars().take(100).collect();
        return Err(format!("the token endpoint answers {status} {why}").trim_end().to_owned());
    }
    let token = text("access_token").ok_or("the token endpoint's answer has no access_token")?;
    if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("the token endpoint's answer is no bearer token".to_owned());
    }
    let seconds = answer.get("expires_in").and_then(Value::as_f64);
    read(token, seconds.map(|seconds| (seconds * 1000.0) as u64), now)
}

/// A service that gives tokens.
struct TokenEndpoint {
    url: String,
    authorization: String,
    body: String,
    tls: rustls::ClientConfig,
}

impl TokenEndpoint {
    fn new(endpoint: &KafkaTokenEndpoint) -> Result<TokenEndpoint, String> {
        // RFC 6749 section 2.3.1: both are form-encoded first.
        let pair = format!("{}:{}", encoded(&endpoint.client_id), encoded(&endpoint.client_secret));
        let scope =
            Some(("scope", endpoint.scope.to_string())).filter(|(_, text)| !text.is_empty());
        let grant = ("grant_type", "client_credentials".to_owned());
        let fields: Vec<_> = [grant].into_iter().chain(scope).collect();
        let tls = if endpoint.url.starts_with("https:") {
            client_config(Authorities::at(&endpoint.ca), None)
                .map_err(|error| format!("sasl.token_endpoint.{error}"))?
        } else {
            // This configuration is not used.
            without_authorities()
        };
        Ok(TokenEndpoint {
            url: endpoint.url.to_string(),
            authorization: format!("Basic {}", BASE64_STANDARD.encode(pair)),
            body: form(&fields),
            tls,
        })
    }

    /// Asks for a token, and waits for the answer.
    fn ask(&self) -> Result<BearerToken, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, self.post()).await });
        let (status, body) = answer.map_err(|_| "the token endpoint does not answer")??;
        answered(status, &body, wall_millis())
    }

    async fn post(&self) -> Result<(u16, Bytes), String> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(self.tls.clone());
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let request = hyper::Request::post(&self.url)
            .header("authorization", &self.authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(self.body.clone())));
        let request = request.map_err(|error| error.to_string())?;
        let answer = client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("the token endpoint cannot be asked{}", cause.unwrap_or_default())
        })?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|error| format!("the token endpoint's answer: {error}"))?;
        Ok((status, body.to_bytes()))
    }
}

enum TokenPlace {
    File(String),
    Endpoint(Box<TokenEndpoint>),
}

/// Where a bridge's tokens come from.
pub struct TokenSource {
    place: TokenPlace,
    bridge: String,
    last: Mutex<Option<BearerToken>>,
}

impl TokenSource {
    /// Where the configuration says; `None` when it names no tokens. `bridge` is for the log.
    ///
    /// # Errors
    /// The key, and what is wrong with the file that it names.
    pub fn new(sasl: &KafkaSasl, bridge: &str) -> Result<Option<TokenSource>, String> {
        let place = match &*sasl.token_endpoint {
            Some(endpoint) => TokenPlace::Endpoint(Box::new(TokenEndpoint::new(endpoint)?)),
            None if sasl.token_file.is_empty() => return Ok(None),
            None => TokenPlace::File(sasl.token_file.to_string()),
        };
        Ok(Some(TokenSource { place, bridge: bridge.to_owned(), last: Mutex::new(None) }))
    }

    /// A token that is valid now. When there is no new one, the last one is given again while it is
    /// valid.
    ///
    /// # Errors
    /// Why there is none.
    pub fn token(&self) -> Result<BearerToken, String> {
        let new = match &self.place {
            TokenPlace::File(path) => of_file(path),
            TokenPlace::Endpoint(endpoint) => endpoint.ask(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match new {
            Ok(token) => *last = Some(token.clone()),
            Err(why) => {
                let valid = |token: &&BearerToken| token.until > wall_millis() + LEAST;
                let bridge = &*self.bridge;
                let Some(token) = last.as_ref().filter(valid) else { return Err(why) };
                tracing::warn!(bridge, why, "no new token for Kafka; the last one is still valid");
                return Ok(token.clone());
            }
        }
        last.clone().ok_or_else(|| "there is no token".to_owned())
    }

    /// The last token was refused: it is not given again.
    pub fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn of_file(path: &str) -> Result<BearerToken, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("sasl.token_file: {path}: {error}");
    let file = std::fs::File::open(path).map_err(|error| wrong(&error))?;
    let mut text = String::new();
    file.take(MOST as u64 + 1).read_to_string(&mut text).map_err(|error| wrong(&error))?;
    if text.len() > MOST {
        return Err(wrong(&"it is too long for a token"));
    }
    read(&text, None, wall_millis()).map_err(|error| wrong(&error))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
