//! Silent clients: the cost of connecting each of them, and of keeping it.

use super::{RunSettings, Snapshot};
use crate::clients::join::{Join, Names};
use crate::clients::socket::SocketOptions;
use crate::clients::{Handler, Net};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::host::Host;
use crate::mqtt::{self, Malformed};
use crate::process::{self, Tree};
use crate::stop;
use serde_json::{Value, json};

const JOIN_LIMIT: u64 = 180 * SECOND;
/// Nanoseconds from the last client's arrival until the broker's memory is read.
const SETTLE: u64 = 5 * SECOND;

struct Idle {
    join: Join,
    salt: String,
    strange: u64,
    disconnects: u64,
    failure: Option<String>,
}

/// Connects `clients` clients, each with one subscription to a topic of its own, then waits in
/// silence for `settings.seconds`.
pub fn run(clients: u32, settings: &RunSettings) -> Result<Value, String> {
    let mut idle = Idle {
        join: Join::new(
            settings.version,
            Names::Numbered(settings.salt.clone()),
            clients,
            settings.joining,
        ),
        salt: settings.salt.clone(),
        strange: 0,
        disconnects: 0,
        failure: None,
    };
    let mut net = Net::new(
        &settings.targets(),
        clients,
        SocketOptions {
            tls: settings.tls.clone(),
            web: settings.web.clone(),
            ..SocketOptions::default()
        },
    )?;
    let own_before = process::own_resident();
    let tree = settings.pid.map(Tree::of);
    let host = Host::now();
    let before = tree.as_ref().map(Tree::memory).unwrap_or_default();
    let from = Snapshot::take(tree.as_ref(), 0, 0);
    let limit = from.time + JOIN_LIMIT;
    while !idle.join.complete() {
        idle.join.pump(&mut net)?;
        net.pass(&mut idle, 20 * MILLISECOND, 1)?;
        idle.check()?;
        if clock::now() > limit {
            return Err(format!("only {} clients came in within 180 s", idle.join.ready));
        }
    }
    let joined = Snapshot::take(tree.as_ref(), u64::from(clients), u64::from(clients));
    idle.silence(&mut net, SETTLE)?;

    let after = tree.as_ref().map(Tree::memory).unwrap_or_default();
    let still = Snapshot::take(tree.as_ref(), 0, 0);
    idle.silence(&mut net, clock::nanos(settings.seconds))?;
    let end = Snapshot::take(tree.as_ref(), 0, 0);

    let host = Host::now().since(&host);
    let storm = from.until(&joined);
    let each =
        |to: u64, from: u64| tree.as_ref().map(|_| (to as f64 - from as f64) / f64::from(clients));
    Ok(json!({
        "clients": clients,
        "connects_per_s": storm["delivered_per_s"],
        "connect_cpu_us": storm["cpu_us"],
        "cpu_percent": storm["cpu_percent"],
        "generator_cpu_us": storm["generator_cpu_us"],
        "generator_percent": storm["generator_percent"],
        "generator_bytes_per_client":
            process::own_resident().saturating_sub(own_before) as f64 / f64::from(clients),
        "empty_rss": before.rss,
        "empty_pss": before.pss,
        "rss_per_client": each(after.rss, before.rss),
        "pss_per_client": each(after.pss, before.pss),
        "idle_cpu_percent": still.until(&end)["cpu_percent"],
        "peak_rss": tree.as_ref().map(Tree::peak),
        "connack_ms": idle.join.connack.report(),
        "memory": {"rss": after.rss, "pss": after.pss, "peak_rss": tree.as_ref().map(Tree::peak)},
        "host": host,
        "disconnects": idle.disconnects,
        "strange": idle.strange,
        "plan": {"payload": 0, "protocol": format!("{:?}", settings.version)},
    }))
}

impl Idle {
    fn silence(&mut self, net: &mut Net, nanos: u64) -> Result<(), String> {
        let end = clock::now() + nanos;
        loop {
            let now = clock::now();
            if now >= end {
                return Ok(());
            }
            net.pass(self, (end - now).min(100 * MILLISECOND), 1)?;
            self.check()?;
        }
    }

    fn check(&mut self) -> Result<(), String> {
        if stop::requested() {
            return Err("interrupted".into());
        }
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl Handler for Idle {
    fn connected(&mut self, net: &mut Net, client: u32) {
        self.join.connected(net, client);
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some(packet) = mqtt::split(&bytes[used..])? {
            used += packet.total;
            if self.join.is_ready(client) {
                self.strange += 1;
            } else {
                let filter = format!("{}/idle/{client}", self.salt);
                self.join.packet(net, client, &packet, |_| vec![(filter, 0)])?;
            }
        }
        Ok(used)
    }

    fn closed(&mut self, _net: &mut Net, client: u32, errno: i32) {
        self.disconnects += 1;
        if !self.join.complete() {
            let why = std::io::Error::from_raw_os_error(errno);
            self.failure = Some(format!("client {client} was turned away: {why}"));
        }
    }
}
