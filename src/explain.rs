//! `ringmq explain`: asks the management API of a running broker, and prints the answer for people
//! or as JSON.

use crate::api_client::{ApiAddress, get, shown};
use clap::Args;
use serde_json::Value;

/// Which message, and whom to ask.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct Explained {
    #[command(flatten)]
    pub address: ApiAddress,
    /// The topic name as the publisher writes it.
    pub topic: String,
    /// The ClientId of the publisher, whose rules and mountpoint hold then.
    #[arg(long, value_name = "CLIENT_ID")]
    pub publisher: Option<String>,
    /// Only what would become of it for this client.
    #[arg(long, value_name = "CLIENT_ID")]
    pub client: Option<String>,
    /// 0, 1 or 2.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// It is to be retained.
    #[arg(long)]
    pub retain: bool,
    /// Bytes of the payload.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub payload_size: usize,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Asks, and returns what is to be printed.
///
/// # Errors
/// Why there is no answer, in a sentence.
pub fn run(wanted: &Explained) -> Result<String, String> {
    let (qos, size) = (wanted.qos.to_string(), wanted.payload_size.to_string());
    let mut query = vec![("topic", wanted.topic.as_str()), ("qos", &qos), ("payload_size", &size)];
    query.extend(wanted.publisher.as_deref().map(|name| ("publisher", name)));
    query.extend(wanted.client.as_deref().map(|name| ("client", name)));
    if wanted.retain {
        query.push(("retain", "true"));
    }
    let answer = get(&wanted.address, "/api/v1/explain", &query)?;
    shown(&answer, wanted.json, told)
}

/// The answer in words.
fn told(answer: &Value) -> String {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let mut out = format!("{}: {}\n", text(answer, "topic"), text(answer, "summary"));
    let publisher = &answer["publisher"];
    if !publisher.is_null() {
        let word = match publisher["allowed"].as_bool() {
            Some(true) => "may publish",
            Some(false) => "may not publish",
            None => "is not decided",
        };
        out += &format!("  the publisher {word}: {}\n", text(publisher, "by"));
    }
    for one in answer["subscribers"].as_array().into_iter().flatten() {
        let filters: Vec<&str> =
            one["filters"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let who = match one["clientid"].as_str() {
            Some(client_id) => client_id.to_owned(),
            None if one["share_group"].is_null() => {
                out += "  a bridge\n";
                continue;
            }
            None => format!("{} ({} members)", text(one, "share_group"), one["members"]),
        };
        let reason = text(one, "reason");
        let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
        let away = if one["connected"] == Value::Bool(false) { ", away" } else { "" };
        let qos = one["qos"].as_u64().map_or(String::new(), |qos| format!(" at QoS {qos}"));
        out += &format!(
            "  {who}{away}, shard {}, by {}: {}{qos}{reason}\n",
            one["shard"],
            filters.join(" and "),
            text(one, "fate"),
        );
    }
    if answer["more"] == Value::Bool(true) {
        out += "  and more\n";
    }
    let drops = answer["client_drops"]["by_reason"].as_object();
    let drops = drops.into_iter().flatten().map(|(reason, count)| format!("{count} {reason}"));
    let drops: Vec<String> = drops.collect();
    if !drops.is_empty() {
        let seconds = &answer["client_drops"]["seconds"];
        out += &format!("  dropped for it in {seconds} s: {}\n", drops.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_a_line_for_each_subscriber() {
        let answer = serde_json::json!({
            "topic": "a/b", "summary": "2 subscribers", "more": false,
            "publisher": {"allowed": true, "by": "acl:3"},
            "subscribers": [
                {"clientid": "s", "shard": 1, "connected": false, "filters": ["a/#", "a/b"],
                 "qos": 0, "fate": "dropped", "reason": "offline_qos0"},
                {"share_group": "$share/g/a/b", "members": 3, "shard": 0, "filters": ["a/b"],
                 "fate": "one_member"},
                {"shard": 0, "filters": [], "fate": "link"},
            ],
            "client_drops": {"by_reason": {"expired": 2, "queue_full": 30}, "seconds": 60},
        });
        let wanted = "a/b: 2 subscribers\n  the publisher may publish: acl:3\n  s, away, shard 1, \
                      by a/# and a/b: dropped at QoS 0 (offline_qos0)\n  $share/g/a/b (3 members), \
                      shard 0, by a/b: one_member\n  a bridge\n  dropped for it in 60 s: \
                      2 expired, 30 queue_full\n";
        assert_eq!(told(&answer), wanted);
    }
}
