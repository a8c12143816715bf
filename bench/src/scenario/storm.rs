//! Everybody drops at once and returns at once. A pair that stays shows what others feel of it.

use super::crowd::{Crowd, Stage, Talk};
use super::{Settings, Snapshot};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::mqtt::{self, Malformed, Packet, Version};
use crate::process::Tree;
use crate::report;
use crate::stats::Latency;
use serde_json::{Value, json};

/// Keep-alive is 300 s, and pings come this often, in seconds.
const PING_EVERY: u32 = 240;
/// Messages per second of the pair that stays.
const PROBE_RATE: u32 = 1;

/// The pair that stays: client `crowd` hears what the next one says.
struct Probe {
    salt: String,
    version: Version,
    crowd: u32,
    /// Nanoseconds between two messages.
    every: u64,
    next: u64,
    latency: Latency,
    sent: u64,
    received: u64,
    strange: u64,
}

impl Talk for Probe {
    fn filter(&self, client: u32) -> Option<(String, u8)> {
        if client == self.crowd + 1 {
            return None;
        }
        Some((format!("{}/storm/{client}", self.salt), 0))
    }

    fn packet(
        &mut self,
        stage: &mut Stage<'_>,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed> {
        let publish = mqtt::publish_of(self.version, packet)?;
        match publish.payload.first_chunk::<8>() {
            Some(&stamp) if client == self.crowd => {
                let nanos = now.saturating_sub(u64::from_le_bytes(stamp));
                self.latency.record(nanos);
                stage.monitor.latency.record(nanos);
                self.received += 1;
            }
            _ => self.strange += 1,
        }
        Ok(())
    }

    fn speak(&mut self, stage: &mut Stage<'_>, now: u64) -> u64 {
        let (hears, says) = (self.crowd, self.crowd + 1);
        if !stage.join.is_ready(hears) || !stage.join.is_ready(says) {
            return u64::MAX;
        }
        if self.next == 0 {
            self.next = now;
        }
        while self.next <= now {
            let topic = format!("{}/storm/{hears}", self.salt);
            let stamp = self.next.to_le_bytes();
            mqtt::put_publish(stage.net.out(says), self.version, 0, topic.as_bytes(), 0, &stamp);
            self.sent += 1;
            self.next += self.every;
        }
        self.next
    }
}

/// `clients` come in, stay `settings.hold` seconds, drop by reset or by close, and return.
pub fn run(clients: u32, settings: &Settings) -> Result<Value, String> {
    let probe = Probe {
        salt: settings.salt.clone(),
        version: settings.version,
        crowd: clients,
        every: SECOND / u64::from(settings.rate.unwrap_or(PROBE_RATE).max(1)),
        next: 0,
        latency: Latency::new(),
        sent: 0,
        received: 0,
        strange: 0,
    };
    let (mut crowd, mut net) = Crowd::new(
        clients + 2,
        settings.ping.unwrap_or(PING_EVERY),
        settings.reset,
        probe,
        settings,
    )?;
    let rss = |crowd: &Crowd<Probe>| crowd.monitor.tree().map(Tree::memory).unwrap_or_default().rss;
    let snapshot = |crowd: &Crowd<Probe>| {
        let ready = u64::from(crowd.join.ready);
        Snapshot::take(crowd.monitor.tree(), ready, ready)
    };
    let empty = rss(&crowd);

    crowd.monitor.phase("connect");
    crowd.come_in(&mut net)?;
    let reached = crowd.join.ready;
    crowd.monitor.phase("calm");
    crowd.talk.latency.clear();
    crowd.stay(&mut net, clock::nanos(settings.hold))?;
    let calm = crowd.talk.latency.report();
    let full = rss(&crowd);

    crowd.monitor.phase("storm");
    crowd.talk.latency.clear();
    crowd.join.restart_clock();
    let begin = snapshot(&crowd);
    crowd.leave(&mut net, 0..clients)?;
    let dropped = Snapshot { delivered: 0, ..snapshot(&crowd) };
    for client in (0..clients).rev() {
        crowd.join.return_of(client);
    }
    let back = crowd.come_in(&mut net);
    let end = snapshot(&crowd);
    let returned = dropped.until(&end);
    let mut report = json!({
        "clients": clients,
        "returned": crowd.join.ready,
        "drop": if settings.reset { "reset" } else { "close" },
        "dropping_s": (dropped.time - begin.time) as f64 / 1e9,
        "back_s": (end.time - begin.time) as f64 / 1e9,
        "reconnects_per_s": returned["delivered_per_s"],
        "cpu_us": returned["cpu_us"],
        "cpu_percent": returned["cpu_percent"],
        "generator_percent": returned["generator_percent"],
        "connack_ms": crowd.join.connack.report(),
        "calm_ms": calm,
        "failure": back.err(),
    });
    let storm = crowd.talk.latency.report();
    if report["failure"].is_null() {
        crowd.monitor.phase("after");
        crowd.stay(&mut net, 5 * SECOND)?;
    }
    let answered = clock::now() + 500 * MILLISECOND;
    crowd.talk.next = u64::MAX;
    crowd.stay(&mut net, answered.saturating_sub(clock::now()))?;
    crowd.report(&mut report);
    report["storm_ms"] = storm;
    report["probes"] = crowd.talk.sent.into();
    report["probes_lost"] = crowd.talk.sent.saturating_sub(crowd.talk.received).into();
    report["strange"] = crowd.talk.strange.into();
    report["wanted"] = reached.into();
    report["memory"] = json!({
        "empty_rss": empty, "full_rss": full, "after_rss": rss(&crowd),
        "peak_rss": crowd.monitor.tree().map(Tree::peak),
    });
    report["series"] = crowd.monitor.report();
    Ok(report)
}

/// The result for a person.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| report::number(report, path).unwrap_or(f64::NAN);
    let mib = |path: &str| figure(path) / 1_048_576.0;
    let mut text = format!(
        "storm: {} clients dropped by {}\n\
         \x20 back           all after {:.2} s, {:.2} s of which we needed to drop them; {:.0} \
         reconnects/s\n\
         \x20                CONNACK p50 {:.1}, p99 {:.1}, max {:.1} ms; broker {:.1} µs each, \
         {:.0} %, generator {:.0} %\n\
         \x20 probe          calm p50 {:.2}, p99 {:.2}, max {:.2} ms; storm p50 {:.2}, p99 {:.2}, \
         max {:.2} ms ({:.0} messages)\n\
         \x20 faults         {} of {} probes lost, {} disconnects, {} turned away, {} refused\n\
         \x20 broker memory  {:.1} MiB empty, {:.1} full, {:.1} after the storm, peak {:.1}\n",
        report["clients"],
        report["drop"].as_str().unwrap_or(""),
        figure("back_s"),
        figure("dropping_s"),
        figure("reconnects_per_s"),
        figure("connack_ms.p50"),
        figure("connack_ms.p99"),
        figure("connack_ms.max"),
        figure("cpu_us"),
        figure("cpu_percent"),
        figure("generator_percent"),
        figure("calm_ms.p50"),
        figure("calm_ms.p99"),
        figure("calm_ms.max"),
        figure("storm_ms.p50"),
        figure("storm_ms.p99"),
        figure("storm_ms.max"),
        figure("storm_ms.count"),
        report["probes_lost"],
        report["probes"],
        report["disconnects"],
        report["turned_away"],
        report["refused"],
        mib("memory.empty_rss"),
        mib("memory.full_rss"),
        mib("memory.after_rss"),
        mib("memory.peak_rss"),
    );
    for key in ["failure", "stopped_early"] {
        if let Some(why) = report[key].as_str() {
            text.push_str(&format!("  {key}: {why}\n"));
        }
    }
    text
}
