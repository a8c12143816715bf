//! The HTTP request that a WebSocket begins with (RFC 6455, section 4.2), and its answer. Owns
//! which requests are granted; every other one gets a short answer, after which the connection
//! ends.

use super::network::Networks;
use super::{Exchange, Fault, Layer, TurnedAway, forwarded};
use crate::ids::Peer;
use crate::limits::{UPGRADE_HEAD, UPGRADE_HEADERS, cost};
use base64::prelude::{BASE64_STANDARD, Engine};
use httparse::{Header, Request};
use sha1::{Digest, Sha1};

/// What a listener requires of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Web {
    /// The path, without query.
    pub path: Box<str>,
    /// The values of `Origin` that are accepted; `None` for any. A client that sends no `Origin` is
    /// not a browser and is accepted.
    pub origins: Option<Box<[Box<str>]>>,
}

/// Names of the subprotocol, the preferred one first [MQTT-6.0.0-3]. Some libraries send the older
/// name, of MQTT 3.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// The text that is hashed behind the key (section 1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version of the protocol.
const VERSION: &str = "13";

/// The answer to a request that is refused.
struct Refusal {
    status: &'static str,
    /// Further headers, each with its line end.
    headers: &'static str,
    /// The reason, for the log and as the text of the answer.
    what: &'static str,
}

const fn refusal(status: &'static str, what: &'static str) -> Refusal {
    Refusal { status, headers: "", what }
}

const BAD_REQUEST: &str = "400 Bad Request";

/// Looks for a request at the beginning of a connection. The first `known` bytes of `head` were
/// looked at before. Returns the length of the request in bytes once it was granted; `None` while
/// it is incomplete.
///
/// # Errors
/// A [`Fault`], when the request is refused; the answer that says so is in `exchange.wire`.
pub(super) fn take(
    head: &[u8],
    known: usize,
    web: &Web,
    trusted: &Networks,
    peer: Peer,
    exchange: &mut Exchange,
) -> Result<Option<usize>, Fault> {
    exchange.work += cost::PACKET + cost::bytes(head.len() - known.min(head.len()));
    let refuse = |refusal: &Refusal, is_head: bool, exchange: &mut Exchange| {
        answer(&mut exchange.wire, refusal, is_head);
        Err(Fault { layer: Layer::Upgrade, what: refusal.what })
    };
    // What does not begin with a letter is not HTTP: an MQTT client on the wrong port, TLS,
    // garbage.
    if head.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
        return refuse(&refusal(BAD_REQUEST, "no HTTP request"), false, exchange);
    }
    let Some(end) = end_of_head(head, known) else {
        if head.len() < UPGRADE_HEAD {
            return Ok(None);
        }
        return refuse(&TOO_LARGE, false, exchange);
    };
    if end > UPGRADE_HEAD {
        return refuse(&TOO_LARGE, false, exchange);
    }
    exchange.work += cost::SESSION;
    let mut headers = [httparse::EMPTY_HEADER; UPGRADE_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(&head[..end]) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => {
            return refuse(&refusal(BAD_REQUEST, "no HTTP request"), false, exchange);
        }
        Err(httparse::Error::TooManyHeaders) => return refuse(&TOO_LARGE, false, exchange),
        Err(_) => return refuse(&refusal(BAD_REQUEST, "no HTTP request"), false, exchange),
    }
    let is_head = request.method == Some("HEAD");
    match examine(&request, web) {
        Ok((key, subprotocol)) => {
            let named = NamedHeaders(request.headers);
            let lines = named.all("x-forwarded-for").map(|header| header.value);
            let client = forwarded::client(peer, trusted, lines);
            // When the request names no other client, the address from a PROXY header stays in
            // force.
            if client != peer {
                exchange.peer = Some(client);
            }
            grant(&mut exchange.wire, key, subprotocol);
            Ok(Some(end))
        }
        Err(refusal) => refuse(&refusal, is_head, exchange),
    }
}

const TOO_LARGE: Refusal =
    refusal("431 Request Header Fields Too Large", "the HTTP request's head is too large");

/// The answer to a request that is not waited for any more.
pub(super) fn turn_away(why: TurnedAway, wire: &mut Vec<u8>) {
    let refusal = match why {
        TurnedAway::Memory => refusal("503 Service Unavailable", "the server is short of memory"),
        TurnedAway::Busy => {
            refusal("503 Service Unavailable", "too many requests wait for their ends")
        }
        TurnedAway::Late => refusal("408 Request Timeout", "the request was not whole in time"),
    };
    answer(wire, &refusal, false);
}

/// The position behind the empty line that ends the head. Only bytes that are new, and the three
/// before them, are searched, so a head that arrives byte by byte costs no more.
fn end_of_head(head: &[u8], known: usize) -> Option<usize> {
    let from = known.saturating_sub(3);
    let new = head.get(from..)?;
    Some(from + new.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
}

/// The headers of a request by name.
struct NamedHeaders<'h, 'b>(&'h [Header<'b>]);

impl<'h, 'b> NamedHeaders<'h, 'b> {
    fn all(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &'h Header<'b>> {
        self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
    }

    /// The value of the only header of that name; `None` when there is none, or several.
    fn one(&self, name: &'static str) -> Option<&'b str> {
        let mut all = self.all(name);
        let found = all.next()?;
        match all.next() {
            None => std::str::from_utf8(found.value).ok().map(str::trim),
            Some(_) => None,
        }
    }

    /// The elements of all comma-separated lists in headers of that name.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'b str> {
        let text = |header: &'h Header<'b>| std::str::from_utf8(header.value).ok();
        self.all(name).filter_map(text).flat_map(|text| text.split(',')).map(str::trim)
    }

    fn lists(&self, name: &'static str, element: &str) -> bool {
        self.list(name).any(|found| found.eq_ignore_ascii_case(element))
    }

    fn has(&self, name: &'static str) -> bool {
        self.all(name).next().is_some()
    }
}

/// The key and the subprotocol of a request that can be granted, or why it is refused.
fn examine<'r>(request: &Request<'_, 'r>, web: &Web) -> Result<(&'r str, &'static str), Refusal> {
    let headers = NamedHeaders(request.headers);
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if path != &*web.path {
        return Err(refusal("404 Not Found", "another path than the listener's"));
    }
    if request.method != Some("GET") {
        let headers = "Allow: GET\r\n";
        let what = "a WebSocket begins with GET";
        return Err(Refusal { status: "405 Method Not Allowed", headers, what });
    }
    if request.version != Some(1) {
        let what = "a WebSocket needs HTTP/1.1";
        return Err(refusal("505 HTTP Version Not Supported", what));
    }
    let upgrade = headers.lists("upgrade", "websocket") && headers.lists("connection", "upgrade");
    if !upgrade {
        return Err(upgrade_required("no request for a WebSocket"));
    }
    if headers.one("sec-websocket-version") != Some(VERSION) {
        return Err(upgrade_required("another WebSocket version than 13"));
    }
    let body = headers.has("transfer-encoding")
        || headers.all("content-length").any(|length| length.value.trim_ascii() != b"0");
    if body {
        return Err(refusal(BAD_REQUEST, "a request for a WebSocket has no body"));
    }
    if headers.one("host").is_none() {
        return Err(refusal(BAD_REQUEST, "no Host, or several"));
    }
    let key = headers
        .one("sec-websocket-key")
        .filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|decoded| decoded.len() == 16));
    let Some(key) = key else {
        return Err(refusal(BAD_REQUEST, "no Sec-WebSocket-Key of 16 bytes"));
    };
    if let Some(origins) = &web.origins
        && headers.has("origin")
    {
        let allowed = headers
            .one("origin")
            .is_some_and(|origin| origins.iter().any(|known| known.eq_ignore_ascii_case(origin)));
        if !allowed {
            return Err(refusal("403 Forbidden", "an Origin that the listener does not allow"));
        }
    }
    let offered = |name: &&str| headers.list("sec-websocket-protocol").any(|one| one == *name);
    match SUBPROTOCOLS.into_iter().find(offered) {
        Some(subprotocol) => Ok((key, subprotocol)),
        None => Err(refusal(BAD_REQUEST, "the subprotocol mqtt is not offered")),
    }
}

fn upgrade_required(what: &'static str) -> Refusal {
    let headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    Refusal { status: "426 Upgrade Required", headers, what }
}

/// Writes the answer that grants the request. No extension is accepted, hence no compression.
fn grant(out: &mut Vec<u8>, key: &str, subprotocol: &str) {
    let digest = Sha1::new().chain_update(key).chain_update(SUFFIX).finalize();
    let accept = BASE64_STANDARD.encode(digest);
    for part in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Sec-WebSocket-Accept: ",
        &accept,
        "\r\nSec-WebSocket-Protocol: ",
        subprotocol,
        "\r\n\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes the answer that refuses the request. The answer to HEAD has no body (RFC 9110, section
/// 9.3.2).
fn answer(out: &mut Vec<u8>, refusal: &Refusal, is_head: bool) {
    let Refusal { status, headers, what } = refusal;
    // An answer 426 has to name Upgrade in Connection (RFC 9110, section 15.5.22).
    let connection = if headers.contains("Upgrade:") { "Upgrade, close" } else { "close" };
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Connection: {connection}\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        what.len() + 1
    );
    out.extend_from_slice(head.as_bytes());
    if !is_head {
        out.extend_from_slice(what.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod tests;
