//! The connections of all clients end at once, and all clients return at once. Probes show how
//! this, and the clients' first arrival, disturb other clients.

use super::crowd::{Crowd, Quiet};
use super::{RunSettings, Snapshot};
use crate::clients::Net;
use crate::clock::{self, SECOND};
use crate::probe;
use crate::report::Figure;
use serde_json::{Value, json};

/// Seconds between two pings of a client; Keep Alive is then 300 s.
const PING_EVERY: u32 = 240;
/// Nanoseconds that the probes run before the first client connects, and after the storm.
const ALONE: u64 = 3 * SECOND;

/// Connects `clients` clients, keeps them `settings.hold` seconds, drops them by reset or by close,
/// and connects them again.
pub fn run(clients: u32, settings: &RunSettings) -> Result<Value, String> {
    let (mut crowd, mut net) = crowd_of(clients, settings)?;
    let snapshot = |crowd: &Crowd<Quiet>| {
        let ready = u64::from(crowd.join.ready);
        Snapshot::take(crowd.monitor.tree(), ready, ready)
    };
    let empty = crowd.monitor.memory();
    crowd.probe(settings.probes, settings)?;
    crowd.stay(&mut net, ALONE)?;

    crowd.phase("joining");
    let begin = snapshot(&crowd);
    crowd.come_in(&mut net)?;
    let joined = begin.until(&snapshot(&crowd));
    let first_connack = crowd.join.connack.report();
    let reached = crowd.join.ready;
    crowd.phase("calm");
    crowd.stay(&mut net, clock::nanos(settings.hold))?;
    let full = crowd.monitor.memory();
    let host = crowd.monitor.host();

    crowd.phase("leaving");
    crowd.join.restart_clock();
    let begin = snapshot(&crowd);
    crowd.leave(&mut net, 0..clients)?;
    let dropped = Snapshot { delivered: 0, ..snapshot(&crowd) };
    crowd.phase("returning");
    for client in (0..clients).rev() {
        crowd.join.return_of(client);
    }
    let back = crowd.come_in(&mut net);
    let end = snapshot(&crowd);
    let returned = dropped.until(&end);
    let mut report = json!({
        "clients": clients,
        "wanted": reached,
        "returned": crowd.join.ready,
        "drop": if settings.reset { "reset" } else { "close" },
        "dropping_s": (dropped.time - begin.time) as f64 / 1e9,
        "back_s": (end.time - begin.time) as f64 / 1e9,
        "connects_per_s": returned["delivered_per_s"],
        "cpu_us": returned["cpu_us"],
        "cpu_percent": returned["cpu_percent"],
        "generator_percent": returned["generator_percent"],
        "connack_ms": crowd.join.connack.report(),
        "first": {
            "connects_per_s": joined["delivered_per_s"],
            "cpu_us": joined["cpu_us"],
            "connack_ms": first_connack,
        },
        "failure": back.err(),
    });
    if report["failure"].is_null() {
        crowd.phase("after");
        crowd.stay(&mut net, ALONE)?;
    }
    let after = crowd.monitor.memory();
    crowd.report(&mut report);
    report["latency_ms"] = probe::of_phase(&report, "returning");
    report["lost"] = report["probes"]["lost"].clone();
    report["strange"] = crowd.talk.strange.into();
    report["memory"] = json!({
        "empty_rss": empty.rss, "rss": full.rss, "pss": full.pss, "after_rss": after.rss,
        "peak_rss": crowd.monitor.peak(),
    });
    report["host"] = host;
    report["series"] = crowd.monitor.report();
    Ok(report)
}

fn crowd_of(clients: u32, settings: &RunSettings) -> Result<(Crowd<Quiet>, Net), String> {
    let talk = Quiet::new(&settings.salt, true);
    let ping = settings.ping.unwrap_or(PING_EVERY);
    let (mut crowd, net) = Crowd::new(clients, ping, settings.reset, talk, settings)?;
    crowd.join.at_rate(settings.rate.unwrap_or(0));
    // An overloaded broker may refuse connections; the result is when all clients are back.
    crowd.patient = true;
    Ok((crowd, net))
}

/// The result for a person.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| Figure::of(report, path);
    let mib = |path: &str| figure(path).mebi();
    let mut text = format!(
        "storm: {} clients dropped by {}\n\
         \x20 back           all after {:.2} s, {:.2} s of which we needed to drop them; {:.0} \
         reconnects/s\n\
         \x20                broker {:.1} µs each, {:.0} %, generator {:.0} %\n\
         \x20 faults         {} disconnects, {} turned away, {} refused\n\
         \x20 broker memory  {:.1} MiB empty, {:.1} full, {:.1} after the storm, peak {:.1}\n",
        report["clients"],
        report["drop"].as_str().unwrap_or(""),
        figure("back_s"),
        figure("dropping_s"),
        figure("connects_per_s"),
        figure("cpu_us"),
        figure("cpu_percent"),
        figure("generator_percent"),
        report["disconnects"],
        report["turned_away"],
        report["refused"],
        mib("memory.empty_rss"),
        mib("memory.rss"),
        mib("memory.after_rss"),
        mib("memory.peak_rss"),
    );
    text.push_str(&probe::table(report));
    for key in ["failure", "stopped_early"] {
        if let Some(why) = report[key].as_str() {
            text.push_str(&format!("  {key}: {why}\n"));
        }
    }
    text
}
