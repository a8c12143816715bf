//! An HTTP service that says who a client is or what it may do, with EMQX's requests and answers.
//! Owns what is sent and what an answer means. The broker sends the requests
//! (`broker/services/http.rs`).

use super::chain::{Accepted, Proof, Verdict};
use super::claims;
use super::template::Template;
use super::{Deed, Said};
use crate::config::{self, BodyFormat, Get, HttpMethod, OnFailure};
use crate::ids::Peer;
use bytes::Bytes;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// The question to a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Who a client is.
    Authentication,
    /// What it may do.
    Authorization,
}

impl Purpose {
    /// Whether a template may have this placeholder. The password is not kept once a client is
    /// accepted, and attributes are not known before.
    pub(super) fn knows(self, name: &str) -> bool {
        let of_client = PLACEHOLDERS.contains(&known(name));
        match self {
            Purpose::Authentication => of_client,
            Purpose::Authorization => {
                let of_deed = DEED_PLACEHOLDERS.contains(&name) || attribute_of(name).is_some();
                name != "password" && (of_client || of_deed)
            }
        }
    }

    /// The message for an unknown placeholder, with those that exist.
    pub(super) fn unknown(self, name: &str) -> String {
        let mut there = PLACEHOLDERS.to_vec();
        if self == Purpose::Authorization {
            there.retain(|name| *name != "password");
            there.extend(DEED_PLACEHOLDERS);
            there.push("client_attrs.NAME");
        }
        format!("there is no placeholder ${{{name}}}; there are {}", there.join(", "))
    }
}

/// The name of the attribute that a placeholder stands for.
fn attribute_of(name: &str) -> Option<&str> {
    name.strip_prefix("client_attrs.").or_else(|| name.strip_prefix("attribute."))
}

/// Further placeholders in the question what a client may do.
const DEED_PLACEHOLDERS: [&str; 4] = ["action", "topic", "qos", "retain"];

/// Placeholders in a template.
const PLACEHOLDERS: [&str; 9] = [
    "client_id",
    "username",
    "password",
    "peer_host",
    "peer_port",
    "listener",
    "cert_common_name",
    "cert_subject",
    "cert_alternative_name",
];
/// Largest answer that is read, bytes.
pub const MAX_ANSWER: usize = 256 << 10;

/// A service.
#[derive(Debug)]
pub struct HttpAuthService {
    method: HttpMethod,
    url: Template,
    headers: Vec<(Box<str>, Template)>,
    body: Vec<(Box<str>, Template)>,
    format: BodyFormat,
    /// Longest time for an answer, all attempts together.
    pub timeout: Duration,
    /// Further attempts.
    pub retries: u32,
    /// Requests under way at a time.
    pub pool: usize,
    /// The authorities that its certificate is checked with, in PEM; `None` for those of the host.
    pub ca: Option<Arc<str>>,
    on_failure: OnFailure,
    /// For how long a login is remembered.
    pub remember: Duration,
}

/// A request to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpAuthRequest {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The URL with its query.
    pub url: String,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// Empty for GET.
    pub body: Bytes,
}

impl HttpAuthService {
    /// Reads the section of a service.
    ///
    /// # Errors
    /// The message for a placeholder that does not exist.
    pub fn new(
        section: &config::Http,
        ca: Option<&str>,
        purpose: Purpose,
    ) -> Result<HttpAuthService, String> {
        let templates = |table: &config::TextTable| -> Vec<(Box<str>, Template)> {
            table.iter().map(|(name, text)| (name.clone(), Template::new(text))).collect()
        };
        let service = HttpAuthService {
            method: section.method,
            url: Template::new(&section.url),
            headers: templates(&section.headers),
            body: templates(&section.body),
            format: section.format,
            timeout: section.timeout.get(),
            retries: section.retries.get(),
            pool: section.pool.get() as usize,
            ca: ca.map(Into::into),
            on_failure: section.on_failure,
            remember: section.remember.get(),
        };
        let all = service.headers.iter().chain(&service.body).map(|(_, template)| template);
        let mut names = all.chain([&service.url]).flat_map(Template::names);
        let wrong = names.find(|name| !purpose.knows(name)).map(|name| purpose.unknown(name));
        drop(names);
        wrong.map_or(Ok(service), Err)
    }

    /// The request that asks who a client is; `None` when a value of the client would turn the
    /// URL's path into another one.
    pub fn request(&self, proof: &Proof) -> Option<HttpAuthRequest> {
        self.filled(|name| value(proof, name))
    }

    /// The request that asks whether a client may do that; `None` as in
    /// [`HttpAuthService::request`].
    pub fn request_for(&self, proof: &Proof, deed: Deed, topic: &str) -> Option<HttpAuthRequest> {
        self.filled(|name| value_of_deed(proof, deed, topic, name))
    }

    fn filled(&self, value: impl Fn(&str) -> Option<String>) -> Option<HttpAuthRequest> {
        let value = &value;
        let mut url = self.url.fill(|name| value(name).map(|text| encoded(&text)));
        // In `/user/${username}/check` the user name `..` would select another resource. Encoding
        // the dots would not help, because servers take `%2E%2E` for the same.
        let path = url.split(['?', '#']).next().unwrap_or_default();
        if path.split('/').any(|part| part == "." || part == "..") {
            return None;
        }
        let headers = self.headers.iter();
        // Control characters are replaced: a client's values must not begin another header line.
        let line = |text: String| text.replace(|letter: char| letter.is_control(), " ");
        let mut headers: Vec<_> = headers
            .map(|(name, template)| (name.to_string(), line(template.fill(value))))
            .collect();
        let fields: Vec<(&str, String)> =
            self.body.iter().map(|(name, template)| (&**name, template.fill(value))).collect();
        if self.method == HttpMethod::Get {
            if !fields.is_empty() {
                url.push(if url.contains('?') { '&' } else { '?' });
                url.push_str(&form(&fields));
            }
            return Some(HttpAuthRequest { method: "GET", url, headers, body: Bytes::new() });
        }
        let (kind, body) = match self.format {
            BodyFormat::Json => {
                let object: Map<String, Value> =
                    fields.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
                ("application/json", Value::Object(object).to_string())
            }
            BodyFormat::Form => ("application/x-www-form-urlencoded", form(&fields)),
        };
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("content-type".to_owned(), kind.to_owned()));
        }
        Some(HttpAuthRequest { method: "POST", url, headers, body: body.into() })
    }

    /// The verdict that an answer means; `now` in seconds since 1970. As in EMQX: 200 has a JSON
    /// object whose `result` is `allow`, `deny` or `ignore`; 204 allows; any other status below 500
    /// means that the service does not know the client. 5xx, and 200 with anything else, count as
    /// no answer.
    pub fn judge(&self, status: u16, body: &[u8], now: u64) -> Verdict {
        match status {
            204 => Verdict::Accept(Box::default()),
            200 => match serde_json::from_slice::<Value>(body) {
                Ok(answer) => self.answer(&answer, now),
                Err(_) => self.failed("the service's answer is no JSON"),
            },
            500.. => self.failed("the service fails"),
            _ => Verdict::Unknown,
        }
    }

    /// What an answer says about a deed. As in EMQX: 200 has a JSON object whose `result` is
    /// `allow`, `deny` or `ignore`; 204 allows; with any other status below 500 the next source is
    /// asked. 5xx, and 200 without a result, count as no answer.
    pub fn judge_deed(&self, status: u16, body: &[u8]) -> Said {
        let result = |body: &[u8]| {
            let answer = serde_json::from_slice::<Value>(body).ok()?;
            Some(answer.get("result")?.as_str()?.to_owned())
        };
        match status {
            204 => Said::Allow,
            200 => match result(body).as_deref() {
                Some("allow") => Said::Allow,
                Some("deny") => Said::Deny,
                Some("ignore") => Said::Nothing,
                _ => self.silent("the service's answer has no result"),
            },
            500.. => self.silent("the service fails"),
            _ => Said::Nothing,
        }
    }

    /// The answer about a deed when the service gives none.
    pub fn silent(&self, why: &'static str) -> Said {
        match self.on_failure {
            OnFailure::Deny => Said::Failed(why),
            OnFailure::Ignore => Said::Nothing,
        }
    }

    fn answer(&self, answer: &Value, now: u64) -> Verdict {
        match answer.get("result").and_then(Value::as_str) {
            Some("allow") => {}
            Some("deny") => return Verdict::Refuse("the service refuses it"),
            Some("ignore") => return Verdict::Unknown,
            _ => return self.failed("the service's answer has no result"),
        }
        let lasts = match answer.get("expire_at").map(Value::as_u64) {
            None => None,
            Some(Some(until)) if until <= now => {
                return Verdict::Refuse("the service says that it has expired");
            }
            Some(Some(until)) => Some((until - now).saturating_mul(1000)),
            Some(None) => return self.failed("expire_at of the service's answer is no number"),
        };
        let rules = match answer.get("acl").map(claims::rules).transpose() {
            Ok(rules) => rules.map(Box::new),
            Err(why) => return self.failed(why),
        };
        Verdict::Accept(Box::new(Accepted {
            username: None,
            exchanged: None,
            superuser: claims::is_true(answer.get("is_superuser")),
            lasts,
            rules,
            attributes: claims::attributes(answer.get("client_attrs")),
            credential: 0,
        }))
    }

    /// The verdict when the service gives no usable answer.
    pub fn failed(&self, why: &'static str) -> Verdict {
        match self.on_failure {
            OnFailure::Deny => Verdict::Failed(why),
            OnFailure::Ignore => Verdict::Unknown,
        }
    }
}

/// The placeholder that one of EMQX's names stands for.
fn known(name: &str) -> &str {
    match name {
        "clientid" => "client_id",
        "peerhost" => "peer_host",
        "peerport" => "peer_port",
        other => other,
    }
}

pub(super) fn value(proof: &Proof, name: &str) -> Option<String> {
    let identity = proof.identity.as_ref();
    match (known(name), proof.peer) {
        ("client_id", _) => Some(proof.client_id.to_string()),
        ("username", _) => proof.username.as_ref().map(ToString::to_string),
        ("password", _) => {
            proof.password.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        }
        ("peer_host", Peer::Tcp(ip, _)) => Some(ip.to_string()),
        ("peer_port", Peer::Tcp(_, port)) => Some(port.to_string()),
        ("listener", _) => Some(proof.listener.to_string()),
        ("cert_common_name", _) => Some(identity?.common_name.to_string()),
        ("cert_subject", _) => Some(identity?.subject.to_string()),
        ("cert_alternative_name", _) => Some(identity?.alternative_name.to_string()),
        (name, _) => {
            let wanted = attribute_of(name)?;
            let named = |(known, _): &&(Box<str>, Box<str>)| **known == *wanted;
            proof.attributes.iter().find(named).map(|(_, text)| text.to_string())
        }
    }
}

/// The value of a placeholder in the question whether a client may do `deed` with `topic`.
pub(super) fn value_of_deed(proof: &Proof, deed: Deed, topic: &str, name: &str) -> Option<String> {
    let (action, qos, retain) = match deed {
        Deed::Publish { qos, retain } => ("publish", qos, retain),
        Deed::Subscribe { qos } => ("subscribe", qos, false),
    };
    match name {
        "action" => Some(action.to_owned()),
        "topic" => Some(topic.to_owned()),
        "qos" => Some(qos.to_string()),
        "retain" => Some(retain.to_string()),
        "password" => None,
        name => value(proof, name),
    }
}

/// `name=value&name=value`.
/// A form after `application/x-www-form-urlencoded`.
pub fn form(fields: &[(&str, String)]) -> String {
    let pair = |(name, text): &(&str, String)| format!("{}={}", encoded(name), encoded(text));
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
