//! `ringmq cluster status`: asks the management API of a running broker how it sees the other nodes
//! of its cluster.

use crate::api_client::{ApiAddress, get, shown};
use clap::Args;
use serde_json::Value;

/// Whom to ask.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct StatusWanted {
    #[command(flatten)]
    pub address: ApiAddress,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Asks, and returns what is to be printed.
///
/// # Errors
/// Why there is no answer, in a sentence.
pub fn run(wanted: &StatusWanted) -> Result<String, String> {
    let answer = get(&wanted.address, "/api/v1/cluster", &[])?;
    shown(&answer, wanted.json, told)
}

/// The answer in words: a line for this node, and one for each other.
fn told(answer: &Value) -> String {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let connected = match answer["connected"].as_bool() {
        Some(true) => "connected to NATS",
        _ => "CUT OFF from NATS",
    };
    let mut out = format!(
        "cluster {}, node {}: {connected}, {} filters told, {} messages sent and {} received\n",
        text(answer, "cluster"),
        text(answer, "node"),
        answer["filters"],
        answer["messages_sent"],
        answer["messages_received"],
    );
    for (reason, count) in answer["dropped"].as_object().into_iter().flatten() {
        if count.as_u64() != Some(0) {
            out += &format!("  dropped, {reason}: {count}\n");
        }
    }
    for node in answer["nodes"].as_array().into_iter().flatten() {
        let standing = match (node["up"].as_bool(), node["settled"].as_bool()) {
            (Some(true), Some(true)) => "up".to_owned(),
            (Some(true), _) => "up, being told of filters or messages".to_owned(),
            _ => format!("DOWN, not heard for {} ms", node["silent_millis"]),
        };
        out += &format!(
            "  {}: {standing}; format {}, level {}, {} filters, {} bytes in the window, {} bytes \
             waiting here\n",
            text(node, "node"),
            node["format"],
            node["level"],
            node["filters"],
            node["window_bytes"],
            node["waiting_bytes"],
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_line_that_says_how_it_stands() {
        let answer = serde_json::json!({
            "cluster": "fleet", "node": "a", "connected": true, "filters": 3,
            "messages_sent": 5, "messages_received": 6, "dropped": {"expired": 0, "node_down": 2},
            "nodes": [
                {"node": "b", "up": true, "settled": true, "silent_millis": 20, "filters": 7,
                 "format": 6, "level": 1, "window_bytes": 0, "waiting_bytes": 0},
                {"node": "c", "up": false, "settled": false, "silent_millis": 4000, "filters": 0,
                 "format": 5, "level": 0, "window_bytes": 90, "waiting_bytes": 0},
            ],
        });
        let wanted = "cluster fleet, node a: connected to NATS, 3 filters told, 5 messages sent \
                      and 6 received\n  dropped, node_down: 2\n  b: up; format 6, level 1, 7 \
                      filters, 0 bytes in the window, 0 bytes waiting here\n  c: DOWN, not heard \
                      for 4000 ms; format 5, level 0, 0 filters, 90 bytes in the window, 0 bytes \
                      waiting here\n";
        assert_eq!(told(&answer), wanted);
    }
}
