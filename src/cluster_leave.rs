//! `ringmq cluster leave`: has a running broker leave its cluster, by its management API.

use crate::api_client::{ApiAddress, ask, is_open, parsed};
use clap::Args;
use hyper::Method;
use std::time::{Duration, Instant};

/// The time between two requests that find out whether the broker still runs.
const LOOK: Duration = Duration::from_millis(500);

/// Who leaves, and how.
#[derive(Args, Debug, PartialEq, Eq)]
pub struct LeaveWanted {
    #[command(flatten)]
    pub address: ApiAddress,
    /// Clients a second that are sent to other nodes.
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub per_second: u32,
    /// Seconds that sessions may take to be claimed by other nodes, after the last client was sent
    /// away. What is not claimed then is lost, unless it is stored.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(..=86400))]
    pub patience: u32,
    /// Return when the broker does not answer any more, and not at once.
    #[arg(long)]
    pub wait: bool,
}

/// Asks the broker to leave; with `wait` also waits until it does not answer any more. Returns what
/// was begun or done, in a sentence.
///
/// # Errors
/// Why the broker does not leave, in a sentence.
pub fn run(wanted: &LeaveWanted) -> Result<String, String> {
    let LeaveWanted { address, per_second, patience, wait } = wanted;
    let body = serde_json::json!({"per_second": per_second, "patience": patience});
    let answer = ask(address, Method::POST, "/api/v1/cluster/leave", Some(&body))?;
    let clients = parsed(&answer)?["clients"].as_u64().unwrap_or_default();
    if !wait {
        return Ok(format!(
            "The broker leaves its cluster: {clients} clients are sent away, {per_second} a \
             second.\n"
        ));
    }
    let began = Instant::now();
    // The sum is what the broker needs at most, with a minute for its own end. We wait twice as
    // long.
    let most = clients / u64::from(*per_second) + u64::from(*patience) + 60;
    // A broker that answers with an error, or late, has not left.
    while is_open(address)? {
        if began.elapsed() > Duration::from_secs(2 * most) {
            return Err(format!("the broker still runs after {} s", began.elapsed().as_secs()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(format!("The broker has left its cluster after {} s.\n", began.elapsed().as_secs()))
}
