//! Ping-pong: each client has a fixed number of 20-byte messages under way and sends a new one for
//! each that returns. The same loop speaks MQTT to a broker and bare bytes to the echo server.

use super::{RunSettings, Snapshot};
use crate::clients::join::{Join, Names};
use crate::clients::socket::SocketOptions;
use crate::clients::{Handler, Net};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::mqtt::{self, Malformed, Version};
use crate::process::Tree;
use crate::stats::Latency;
use crate::stop;
use serde_json::{Value, json};

/// Bytes of one message on the wire; with MQTT 3.1.1, of the whole PUBLISH packet.
pub const MESSAGE: usize = 20;
/// Bytes of a topic name, such that fixed header, topic and payload make [`MESSAGE`].
const TOPIC: usize = 6;
const PAYLOAD: usize = MESSAGE - 4 - TOPIC;
const JOIN_LIMIT: u64 = 60 * SECOND;

enum Wire {
    Bytes { ready: u32 },
    Mqtt(Box<Join>),
}

struct Echo {
    wire: Wire,
    version: Version,
    running: bool,
    returned: u64,
    latency: Latency,
    measuring: bool,
    disconnects: u64,
    failure: Option<String>,
}

/// Runs `clients` clients with `depth` messages under way each.
pub fn run(clients: u32, depth: u32, settings: &RunSettings) -> Result<Value, String> {
    if clients > 10_000 {
        return Err("the echo scenario has at most 10000 clients".into());
    }
    let wire = if settings.raw {
        Wire::Bytes { ready: 0 }
    } else {
        let join = Join::new(
            settings.version,
            Names::Numbered(settings.salt.clone()),
            clients,
            settings.joining,
        );
        Wire::Mqtt(Box::new(join))
    };
    let mut echo = Echo {
        wire,
        version: settings.version,
        running: false,
        returned: 0,
        latency: Latency::new(),
        measuring: false,
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
    echo.join(&mut net, clients)?;
    let tree = settings.pid.map(Tree::of);
    echo.running = true;
    let now = clock::now();
    for client in 0..clients {
        for _ in 0..depth {
            echo.send(&mut net, client, now);
        }
    }
    echo.until(&mut net, now + clock::nanos(settings.warmup))?;
    echo.measuring = true;
    let from = Snapshot::take(tree.as_ref(), echo.returned, echo.returned);
    echo.until(&mut net, from.time + clock::nanos(settings.seconds))?;
    let to = Snapshot::take(tree.as_ref(), echo.returned, echo.returned);

    let mut report = from.until(&to);
    echo.running = false;
    let back = echo.returned;
    echo.until(&mut net, clock::now() + 200 * MILLISECOND)?;
    // Within the last 200 ms every message under way should have returned.
    report["lost"] = u64::from(clients * depth).saturating_sub(echo.returned - back).into();
    report["latency_ms"] = echo.latency.report();
    report["disconnects"] = echo.disconnects.into();
    report["peak_rss"] = tree.as_ref().map(Tree::peak).into();
    report["plan"] = json!({"clients": clients, "depth": depth, "raw": settings.raw});
    Ok(report)
}

impl Echo {
    fn join(&mut self, net: &mut Net, clients: u32) -> Result<(), String> {
        let limit = clock::now() + JOIN_LIMIT;
        if let Wire::Bytes { .. } = self.wire {
            for client in 0..clients {
                net.connect(client).map_err(|e| format!("client {client}: {e}"))?;
            }
        }
        loop {
            match &mut self.wire {
                Wire::Bytes { ready } if *ready == clients => return Ok(()),
                Wire::Bytes { .. } => {}
                Wire::Mqtt(join) if join.complete() => return Ok(()),
                Wire::Mqtt(join) => join.pump(net)?,
            }
            net.pass(self, 20 * MILLISECOND, 1)?;
            self.check()?;
            if clock::now() > limit {
                return Err("the clients did not come in within 60 s".into());
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        if stop::requested() {
            return Err("interrupted".into());
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn until(&mut self, net: &mut Net, end: u64) -> Result<(), String> {
        loop {
            let now = clock::now();
            if now >= end {
                return Ok(());
            }
            net.pass(self, (end - now).min(50 * MILLISECOND), 1)?;
            self.check()?;
        }
    }

    #[inline]
    fn send(&mut self, net: &mut Net, client: u32, now: u64) {
        if let Wire::Bytes { .. } = self.wire {
            let mut message = [b'.'; MESSAGE];
            message[..8].copy_from_slice(&now.to_le_bytes());
            net.out(client).extend_from_slice(&message);
            return;
        }
        let mut payload = [b'.'; PAYLOAD];
        payload[..8].copy_from_slice(&now.to_le_bytes());
        mqtt::put_publish(net.out(client), self.version, 0, &topic(client), 0, &payload);
    }

    #[inline]
    fn back(&mut self, net: &mut Net, client: u32, stamp: &[u8], now: u64) {
        self.returned += 1;
        if self.measuring
            && let Some(&stamp) = stamp.first_chunk::<8>()
        {
            self.latency.record(now.saturating_sub(u64::from_le_bytes(stamp)));
        }
        if self.running {
            self.send(net, client, now);
        }
    }
}

impl Handler for Echo {
    fn connected(&mut self, net: &mut Net, client: u32) {
        match &mut self.wire {
            Wire::Bytes { ready } => *ready += 1,
            Wire::Mqtt(join) => join.connected(net, client),
        }
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed> {
        let now = clock::now();
        let mut used = 0;
        if let Wire::Bytes { .. } = self.wire {
            while let Some(message) = bytes.get(used..used + MESSAGE) {
                used += MESSAGE;
                self.back(net, client, message, now);
            }
            return Ok(used);
        }
        while let Some(packet) = mqtt::split(&bytes[used..])? {
            used += packet.total;
            match &mut self.wire {
                Wire::Mqtt(join) if !join.is_ready(client) => {
                    let filter = String::from_utf8_lossy(&topic(client)).into_owned();
                    join.packet(net, client, &packet, |_| vec![(filter, 0)])?;
                }
                _ => {
                    let publish = mqtt::publish_of(self.version, &packet)?;
                    if publish.topic != topic(client) || publish.payload.len() != PAYLOAD {
                        return Err(Malformed);
                    }
                    self.back(net, client, publish.payload, now);
                }
            }
        }
        Ok(used)
    }

    fn closed(&mut self, _net: &mut Net, client: u32, errno: i32) {
        self.disconnects += 1;
        if !self.measuring {
            let why = std::io::Error::from_raw_os_error(errno);
            self.failure = Some(format!("client {client} was turned away: {why}"));
        }
    }
}

fn topic(client: u32) -> [u8; TOPIC] {
    let digit = |unit: u32| b'0' + (client / unit % 10) as u8;
    [b'e', b'/', digit(1000), digit(100), digit(10), digit(1)]
}
