//! `ringmq trace`: asks a running broker to trace a client, user, address or topic, and prints the
//! lines as they come.

use crate::api_client::{ApiAddress, ask, get, parsed};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::time::Duration;

/// The pause after an answer that has no lines.
const EACH: Duration = Duration::from_millis(200);

/// What is traced, and whom to ask.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct TraceCommand {
    #[command(flatten)]
    pub address: ApiAddress,
    #[command(flatten)]
    pub subject: SubjectArguments,
    /// Show payloads, the first KiB of each.
    #[arg(long)]
    pub payload: bool,
    /// End after so long; otherwise when it is interrupted.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
}

/// One of these.
#[derive(Args, Debug, PartialEq, Eq)]
#[group(required = true, multiple = false)]
pub struct SubjectArguments {
    /// The client with this ClientId.
    #[arg(long, value_name = "CLIENT_ID")]
    pub client: Option<String>,
    /// Clients with this user name.
    #[arg(long, value_name = "NAME")]
    pub username: Option<String>,
    /// Clients at this address.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Messages whose topic matches this filter.
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
}

impl SubjectArguments {
    /// The type and the value, as the API names them.
    fn named(&self) -> (&'static str, &str) {
        let all = [
            ("clientid", &self.client),
            ("username", &self.username),
            ("ip_address", &self.ip),
            ("topic", &self.topic),
        ];
        let given = all.into_iter().find_map(|(name, value)| Some((name, value.as_deref()?)));
        given.unwrap_or(("clientid", ""))
    }
}

/// Traces until the time is over or a signal arrives. Then the trace is removed.
///
/// # Errors
/// Why there is no trace, in a sentence.
pub fn run(wanted: &TraceCommand) -> Result<(), String> {
    let name = format!("ringmq-trace-{}", std::process::id());
    let (kind, value) = wanted.subject.named();
    let payload = if wanted.payload { "text" } else { "hidden" };
    let mut body = json!({
        "name": name, "type": kind, "payload_encode": payload, "seconds": wanted.seconds,
    });
    body[kind] = value.into();
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    ask(&wanted.address, Method::POST, "/api/v1/trace", Some(&body))?;
    let followed = follow(&wanted.address, &name, &mut signals);
    let removed = ask(&wanted.address, Method::DELETE, &format!("/api/v1/trace/{name}"), None);
    followed.and(removed.map(drop))
}

/// Prints lines until the trace has ended, a signal arrives, or standard output is closed.
fn follow(address: &ApiAddress, name: &str, signals: &mut Signals) -> Result<(), String> {
    let (path, mut position) = (format!("/api/v1/trace/{name}/log"), 0);
    while signals.pending().next().is_none() {
        let answer = get(address, &path, &[("position", &position.to_string())])?;
        let answer = parsed(&answer)?;
        let text = answer["items"].as_str().unwrap_or_default();
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        if written.is_err() {
            return Ok(()); // nobody reads any more
        }
        position = answer["meta"]["position"].as_u64().unwrap_or(position);
        if answer["meta"]["ended"] == Value::Bool(true) {
            return Ok(());
        }
        if text.is_empty() {
            std::thread::sleep(EACH);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_traced_has_the_names_of_the_api() {
        let none = || SubjectArguments { client: None, username: None, ip: None, topic: None };
        let subject = SubjectArguments { topic: Some("a/#".into()), ..none() };
        assert_eq!(subject.named(), ("topic", "a/#"));
        let subject = SubjectArguments { ip: Some("::1".into()), ..none() };
        assert_eq!(subject.named(), ("ip_address", "::1"));
    }
}
