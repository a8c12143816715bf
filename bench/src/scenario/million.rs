//! Very many connections: the cost of opening and keeping each, and whether the broker returns
//! memory.

use super::crowd::{Crowd, Quiet};
use super::{RunSettings, Snapshot};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::host::Host;
use crate::probe;
use crate::process::Memory;
use crate::report::Figure;
use crate::stop;
use serde_json::{Value, json};

/// Seconds between two pings of a client; Keep Alive is then 300 s.
const PING_EVERY: u32 = 240;
/// Nanoseconds that the probes run alone, before the first client connects.
const ALONE: u64 = 3 * SECOND;
/// Nanoseconds that the broker has after a phase before its memory is read.
const SETTLE: u64 = 2 * SECOND;
/// Nanoseconds that the broker has for returning memory after all clients have left.
const RETURN: u64 = 10 * SECOND;
/// The longest wait, in nanoseconds, for the broker to close all connections.
const CLOSING: u64 = 60 * SECOND;

/// Connects `clients` clients, `rate` per second or, with 0, as fast as possible, keeps them for
/// `settings.hold` seconds, and ends the connections.
pub fn run(
    clients: u32,
    rate: u32,
    subscribe: bool,
    settings: &RunSettings,
) -> Result<Value, String> {
    let talk = Quiet::new(&settings.salt, subscribe);
    let (mut crowd, mut net) =
        Crowd::new(clients, settings.ping.unwrap_or(PING_EVERY), true, talk, settings)?;
    crowd.join.at_rate(rate);
    let snapshot = |crowd: &Crowd<Quiet>, n: u64| Snapshot::take(crowd.monitor.tree(), n, n);

    let empty = crowd.monitor.memory();
    crowd.probe(settings.probes, settings)?;
    if settings.probes.pairs > 0 {
        crowd.stay(&mut net, ALONE)?;
    }
    crowd.phase("joining");
    let from = snapshot(&crowd, 0);
    let joined = crowd.come_in(&mut net);
    let reached = crowd.join.ready;
    let to = snapshot(&crowd, u64::from(reached));
    let mut report = coming_in(&from, &to);
    report["clients"] = reached.into();
    report["wanted"] = clients.into();
    report["connack_ms"] = crowd.join.connack.report();
    if let Err(why) = joined {
        return failed(report, &mut crowd, why);
    }

    crowd.phase("settle");
    crowd.stay(&mut net, SETTLE)?;
    let full = crowd.monitor.memory();
    // The probes would be most of the CPU time while the clients are idle.
    crowd.end_probes();
    crowd.phase("hold");
    let from = snapshot(&crowd, 0);
    let held = crowd.stay(&mut net, clock::nanos(settings.hold));
    let to = snapshot(&crowd, 0);
    let after = crowd.monitor.memory();
    let host = crowd.monitor.host();
    crowd.stay(&mut net, 200 * MILLISECOND)?;
    report["hold"] = from.until(&to);
    report["still_in"] = crowd.join.ready.into();
    if let Err(why) = held {
        return failed(report, &mut crowd, why);
    }

    crowd.phase("leave");
    let left = clock::now();
    crowd.leave(&mut net, 0..clients)?;
    let ours_closed = clock::now();
    let gone = wait_for_broker(&mut crowd, &mut net)?;
    report["leave"] = json!({
        "closing_s": (ours_closed - left) as f64 / 1e9,
        "broker_done_s": gone.map(|at| (at - left) as f64 / 1e9),
    });
    let back = crowd.monitor.memory();
    crowd.report(&mut report);
    report["latency_ms"] = probe::of_phase(&report, "joining");
    report["lost"] = report["probes"]["lost"].clone();
    report["memory"] = memories(empty, full, after, back, reached, crowd.monitor.peak());
    report["host"] = host;
    report["host_after"] = Host::now().since(&crowd.monitor.before);
    report["strange"] = crowd.talk.strange.into();
    report["series"] = crowd.monitor.report();
    Ok(report)
}

/// Completes the report of a run that failed with what is known.
fn failed(mut report: Value, crowd: &mut Crowd<Quiet>, why: String) -> Result<Value, String> {
    crowd.report(&mut report);
    report["failure"] = why.into();
    report["series"] = crowd.monitor.report();
    Ok(report)
}

fn coming_in(from: &Snapshot, to: &Snapshot) -> Value {
    let interval = from.until(to);
    json!({
        "seconds": interval["seconds"],
        "connects_per_s": interval["delivered_per_s"],
        "cpu_us": interval["cpu_us"],
        "cpu_percent": interval["cpu_percent"],
        "generator_cpu_us": interval["generator_cpu_us"],
        "generator_percent": interval["generator_percent"],
    })
}

/// Waits until the host has hardly more sockets than before the run, then gives the broker time to
/// return memory. Returns when the sockets were gone; `None` when a signal came before.
fn wait_for_broker(crowd: &mut Crowd<Quiet>, net: &mut crate::clients::Net) -> Gone {
    let limit = clock::now() + CLOSING;
    let rest = crowd.monitor.before.sockets + 200;
    let mut gone = None;
    while clock::now() < limit && gone.is_none() && !stop::requested() {
        crowd.turn(net, limit)?;
        gone = (Host::now().sockets <= rest).then(clock::now);
    }
    let end = clock::now() + RETURN;
    while clock::now() < end && !stop::requested() {
        crowd.turn(net, end)?;
    }
    Ok(gone)
}

type Gone = Result<Option<u64>, String>;

fn memories(
    empty: Memory,
    full: Memory,
    held: Memory,
    back: Memory,
    clients: u32,
    peak: Option<u64>,
) -> Value {
    if peak.is_none() {
        return Value::Null;
    }
    let each = |to: u64, from: u64| (to as f64 - from as f64) / f64::from(clients.max(1));
    json!({
        "empty_rss": empty.rss, "empty_pss": empty.pss,
        "rss": full.rss, "pss": full.pss,
        "held_rss": held.rss, "held_pss": held.pss,
        "back_rss": back.rss, "back_pss": back.pss,
        "rss_per_client": each(full.rss, empty.rss),
        "pss_per_client": each(full.pss, empty.pss),
        "peak_rss": peak,
    })
}

/// The result for a person.
pub fn table(name: &str, report: &Value) -> String {
    let figure = |path: &str| Figure::of(report, path);
    let mib = |path: &str| figure(path).mebi();
    let mut text = format!(
        "{name}: {} of {} clients\n\
         \x20 coming in      {:.0} connects/s in {:.1} s; CONNACK p50 {:.1}, p99 {:.1}, p99.9 \
         {:.1}, max {:.1} ms\n\
         \x20                broker {:.1} µs CPU each ({:.0} % of a core), generator {:.1} µs\n",
        report["clients"],
        report["wanted"],
        figure("connects_per_s"),
        figure("seconds"),
        figure("connack_ms.p50"),
        figure("connack_ms.p99"),
        figure("connack_ms.p99.9"),
        figure("connack_ms.max"),
        figure("cpu_us"),
        figure("cpu_percent"),
        figure("generator_cpu_us"),
    );
    if let Some(why) = report["failure"].as_str() {
        text.push_str(&format!("  FAILED         {why}\n"));
    }
    text.push_str(&format!(
        "  faults         {} disconnects, {} turned away, {} refused, {} of {} pings unanswered, \
         last errno {}\n",
        report["disconnects"],
        report["turned_away"],
        report["refused"],
        report["pings_unanswered"],
        report["pings"],
        report["last_errno"],
    ));
    if let Some(why) = report["stopped_early"].as_str() {
        text.push_str(&format!("  stopped early  {why}\n"));
    }
    if report.get("memory").is_some_and(Value::is_object) {
        text.push_str(&format!(
            "  broker memory  {:.0} B RSS, {:.0} B PSS per client; {:.1} MiB empty, {:.1} full, \
             {:.1} after the hold,\n\x20                {:.1} after all left; peak {:.1}\n",
            figure("memory.rss_per_client"),
            figure("memory.pss_per_client"),
            mib("memory.empty_rss"),
            mib("memory.rss"),
            mib("memory.held_rss"),
            mib("memory.back_rss"),
            mib("memory.peak_rss"),
        ));
    }
    if report.get("host").is_some() {
        text.push_str(&format!(
            "  host memory    {:.0} MiB for both ends and both programs, {:.0} B per client; slab \
             {:.0} MiB\n  idle           broker {:.2} % of a core, generator {:.2} %, held {:.0} \
             s\n  generator      {:.0} B per client\n  leaving        we closed in {:.1} s, the \
             broker was done after {:.1} s\n",
            mib("host.memory"),
            figure("host.memory").over(figure("clients")),
            mib("host.slab"),
            figure("hold.cpu_percent"),
            figure("hold.generator_percent"),
            figure("hold.seconds"),
            figure("generator_bytes_per_client"),
            figure("leave.closing_s"),
            figure("leave.broker_done_s"),
        ));
    }
    text.push_str(&probe::table(report));
    text
}
