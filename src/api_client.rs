//! Asks the management API of a running broker, on behalf of the commands of `ringmq`. Blocks until
//! the answer is there.

use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use ringmq::client_tls::{Authorities, client_config, without_authorities};
use rustls::ClientConfig;
use serde_json::Value;

/// How long a request may take in all.
const PATIENCE: Duration = Duration::from_secs(35);
/// How long a connection may take to be made.
const OPENING: Duration = Duration::from_secs(2);
/// How often it is tried.
const TRIES: u32 = 3;
/// The largest answer in bytes.
const LONGEST: usize = 64 << 20;

/// Where the broker is, and who asks. A password is taken from RINGMQ_ADMIN_PASSWORD, a token from
/// RINGMQ_ADMIN_TOKEN: not from the command line, which others see.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct ApiAddress {
    /// Its admin server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:18083")]
    pub api: String,
    /// The user; its password is in RINGMQ_ADMIN_PASSWORD.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Certificates of the authorities that the server's must lead to, PEM, instead of the host's.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl ApiAddress {
    fn credential(&self) -> Result<Option<String>, String> {
        if let Some(user) = &self.user {
            let password = std::env::var("RINGMQ_ADMIN_PASSWORD")
                .map_err(|_| "set RINGMQ_ADMIN_PASSWORD to the user's password".to_owned())?;
            let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
            return Ok(Some(format!("Basic {both}")));
        }
        Ok(std::env::var("RINGMQ_ADMIN_TOKEN").ok().map(|token| format!("Bearer {token}")))
    }

    /// The TLS settings. Without https: in the address there is no TLS, and the authorities of a
    /// host that has none are no reason to fail.
    fn tls(&self) -> Result<ClientConfig, String> {
        let is_secure = self.api.get(..6).is_some_and(|head| head.eq_ignore_ascii_case("https:"));
        if self.ca.is_none() && !is_secure {
            return Ok(without_authorities());
        }
        let authorities = self.ca.as_deref().map_or(Authorities::Host, Authorities::File);
        client_config(authorities, None).map_err(|error| format!("--{error}"))
    }
}

/// Whether anything accepts connections at the address. It is asked whether a broker still runs:
/// that it answers a request with an error means that it does.
pub fn is_open(address: &ApiAddress) -> Result<bool, String> {
    let url: Uri =
        address.api.parse().map_err(|error| format!("--api {}: {error}", address.api))?;
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let found = (host, url.port_u16().unwrap_or(usual)).to_socket_addrs();
    let mut found = found.map_err(|error| format!("--api {}: {error}", address.api))?;
    let opens = |place| succeeds(|| TcpStream::connect_timeout(&place, OPENING).map(drop));
    Ok(found.any(opens))
}

/// Whether something succeeds. It is tried again only if it takes too long: a host that is gone
/// does not answer at all, and one that is busy does at last.
fn succeeds(mut attempt: impl FnMut() -> std::io::Result<()>) -> bool {
    for _ in 0..TRIES {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            outcome => return outcome.is_ok(),
        }
    }
    false
}

/// An answer as the user sees it: unchanged if `json` is set, otherwise in the words of `told`.
///
/// # Errors
/// The answer is not JSON.
pub fn shown(answer: &str, json: bool, told: fn(&Value) -> String) -> Result<String, String> {
    if json {
        return Ok(format!("{answer}\n"));
    }
    parsed(answer).map(|answer| told(&answer))
}

/// Parses the JSON of an answer.
///
/// # Errors
/// The answer is not JSON.
pub fn parsed(answer: &str) -> Result<Value, String> {
    serde_json::from_str(answer).map_err(|error| format!("the answer is no JSON: {error}"))
}

/// Percent-encodes a value of a query (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// The answer to a GET.
///
/// # Errors
/// Why there is none, in a sentence.
pub fn get(address: &ApiAddress, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
    let query: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    ask(address, Method::GET, &format!("{path}?{}", query.join("&")), None)
}

/// The answer to a request, with a body of JSON if there is one.
///
/// # Errors
/// Why there is none, in a sentence.
pub fn ask(
    address: &ApiAddress,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<String, String> {
    let url = format!("{}{path}", address.api.trim_end_matches('/'));
    let url: Uri = url.parse().map_err(|error| format!("--api {}: {error}", address.api))?;
    let mut request = Request::builder().method(method).uri(url);
    if let Some(credential) = address.credential()? {
        request = request.header(AUTHORIZATION, credential);
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default()));
    let request = request.body(body).map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(address.tls()?);
    let connector = connector.https_or_http().enable_http1().build();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = async {
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let answer = client.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{} does not answer: {}", address.api, cause.unwrap_or_default())
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
        Ok::<_, String>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let asked = async { tokio::time::timeout(PATIENCE, asked).await };
    let (status, body) =
        runtime.block_on(asked).map_err(|_| format!("{} takes too long", address.api))??;
    if status.is_success() {
        return Ok(body);
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_default();
    Err(format!("{}: {status}: {detail}", address.api))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_needed_for_https_only() {
        let address = |api: &str, ca: Option<&str>| ApiAddress {
            api: api.to_owned(),
            user: None,
            ca: ca.map(PathBuf::from),
        };
        assert!(address("http://127.0.0.1:1", None).tls().is_ok());
        assert!(address("HTTPS://127.0.0.1:1", Some("/nonexistent/ca")).tls().is_err());
        // What was given is read, so that a mistake in it shows.
        assert!(address("http://127.0.0.1:1", Some("/nonexistent/ca")).tls().is_err());
    }

    #[test]
    fn an_address_is_open_while_something_accepts_connections() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let address = ApiAddress { api, user: None, ca: None };
        assert_eq!(is_open(&address), Ok(true));
        drop(listener);
        let mut left = 2;
        let late = || {
            left -= 1;
            if left > 0 { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
        };
        assert!(succeeds(late) && !succeeds(|| Err(ErrorKind::TimedOut.into())));
        assert_eq!(is_open(&address), Ok(false));
    }

    #[test]
    fn values_of_a_query_are_encoded() {
        assert_eq!(encoded("a/b +#ä-_.~"), "a%2Fb%20%2B%23%C3%A4-_.~");
    }
}
