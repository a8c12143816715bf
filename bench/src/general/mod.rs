//! `conn`, `pub` and `sub`: clients as the options describe them, against brokers that run already.
//!
//! This module owns how clients connect, reconnect and leave. `publishers` owns what clients
//! publish; `subscribers` owns what they receive.

mod arrivals;
mod hosts;
pub mod options;
mod payload;
pub mod plan;
mod publishers;
mod schedule;
mod subscribers;
mod topics;

use crate::alone;
use crate::clients::join::{Join, Names};
use crate::clients::scram::Scram;
use crate::clients::socket::SocketOptions;
use crate::clients::{Handler, Net};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::exporter::Totals;
use crate::machine;
use crate::monitor::Monitor;
use crate::mqtt::{self, Malformed, Version, first};
use crate::outcome::{self, Verdict};
use crate::plot::grouped;
use crate::scenario::Snapshot;
use crate::scenario::crowd::Sweep;
use crate::stop;
use crate::summary;
use arrivals::Arrivals;
use plan::{Plan, Publication, Role};
use publishers::Publishers;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use subscribers::Subscribers;

/// Nanoseconds after which a client that failed or was lost tries again.
const AGAIN: u64 = SECOND;
/// The most a ping is late, in nanoseconds; the pings of that time are sent together.
const PING_GRAIN: u64 = 2 * MILLISECOND;
/// The longest sleep while connections are due, in nanoseconds.
const PACE_GRAIN: u64 = MILLISECOND;
/// At full speed the generator sleeps until this number of completions or these nanoseconds: see
/// `scenario::traffic`.
const COALESCED: usize = 64;
const COALESCE: u64 = MILLISECOND;
/// Send buffer of a publisher at full speed, in bytes; it bounds what the kernel holds.
const SEND_BUFFER: u32 = 32 * 1024;
/// Acknowledgements are waited for at most `DRAIN` nanoseconds, and at most `SILENCE` nanoseconds
/// after the last one.
const DRAIN: u64 = 20 * SECOND;
const SILENCE: u64 = 2 * SECOND;
/// Nanoseconds that brokers have for closing connections after DISCONNECT.
const CLOSING: u64 = 2 * SECOND;
/// Bytes of memory that must remain available on the host; with less the run ends.
const LEAST_MEMORY: u64 = 128 << 20;
/// The most clients that disconnect at the same time.
const LEAVE_AT_ONCE: u32 = 512;

/// `count` per second; null when `seconds` is not positive.
fn rate(count: u64, seconds: f64) -> Value {
    if seconds > 0.0 { (count as f64 / seconds).into() } else { Value::Null }
}

enum Speakers {
    Quiet,
    Publishers(Box<Publishers>),
    Subscribers(Box<Subscribers>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunPhase {
    Running,
    Leaving,
}

struct Engine {
    names: Names,
    clients: u32,
    retries: u16,
    reconnects: u16,
    join: Join,
    monitor: Monitor,
    speakers: Speakers,
    phase: RunPhase,
    /// Failed tries of each client so far; `returns` are its reconnections.
    tries: Vec<u16>,
    returns: Vec<u16>,
    /// When a client tries again, and its number, in order of time.
    later: VecDeque<(u64, u32)>,
    pings: Option<Sweep>,
    /// Clients that will not connect any more.
    gone: u32,
    failed: u64,
    retried: u64,
    disconnects: u64,
    pings_sent: u64,
    pings_answered: u64,
    last_errno: i32,
    began: u64,
    arrivals: Arrivals,
    last_packet: u64,
    all_in: Option<Snapshot>,
    planned: u64,
}

/// Carries out the plan and reports its result.
pub fn run(plan: Plan) -> Result<Verdict, String> {
    let machine = machine::describe();
    let headline = headline(&plan);
    eprintln!("{headline}");
    let mut engine = Engine::new(&plan);
    let fast = matches!(&engine.speakers, Speakers::Publishers(p) if p.at_any_speed());
    let options = SocketOptions {
        send_buffer: if fast { SEND_BUFFER } else { 0 },
        tls: plan.tls.clone(),
        web: plan.web.clone(),
        sources: plan.sources.clone(),
        ports: plan.ports,
        ..SocketOptions::default()
    };
    let mut net = Net::new(&plan.targets, plan.clients, options)?;
    let (from, to) = engine.traffic(&mut net, &plan)?;
    let mut report = engine.report(&plan, &from, &to);
    report["headline"] = headline.into();
    engine.leave(&mut net)?;
    let verdict = plan.outcome.judge(&mut report);
    if !plan.outcome.to_output() {
        println!("{}", table(&report));
    }
    if let Some(target) = &plan.plot {
        alone::redraw(target, &report, None)?;
    }
    if let Some(path) = &plan.outcome.json {
        outcome::write(path, &json!({"machine": machine, "result": report}))?;
    }
    if engine.arrivals.connected == 0 && !stop::requested() {
        return Err(format!("no client of {} came in: {}", plan.hosts, engine.last_failure()));
    }
    Ok(verdict)
}

/// The result as text for a person.
fn table(report: &Value) -> String {
    let mut text =
        format!("{}{}", report["headline"].as_str().unwrap_or(""), summary::table(report));
    let refusals = report["refusals"].as_object().into_iter().flatten();
    for (code, count) in refusals {
        text.push_str(&format!("  refused with code {code:<8} {count}\n"));
    }
    if let Some(why) = report["stopped_early"].as_str() {
        text.push_str(&format!("  stopped early             {why}\n"));
    }
    text
}

fn headline(plan: &Plan) -> String {
    let clients = grouped(f64::from(plan.clients));
    let version = match plan.version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    };
    let tls = if plan.tls.is_some() { ", TLS" } else { "" };
    let what = match &plan.role {
        Role::Connect => String::new(),
        Role::Subscribe(s) => {
            format!(", {} subscription(s) each, QoS {}", s.filters.len(), s.qos)
        }
        Role::Publish(p) => {
            let each = |one: &Publication| match one.interval {
                0 => format!(", QoS {} as fast as they go", one.qos),
                nanos => {
                    format!(", QoS {} every {} ms", one.qos, grouped(nanos as f64 / 1e6))
                }
            };
            let limit = p.limit.map(|limit| format!(", {} in all", grouped(limit as f64)));
            let kinds: String = p.publications.iter().take(4).map(each).collect();
            let more = if p.publications.len() > 4 { " and more" } else { "" };
            format!("{kinds}{more}{}", limit.unwrap_or_default())
        }
    };
    let name = plan.role.name();
    format!("{name}: {clients} clients of {}, MQTT {version}{tls}{what}", plan.hosts)
}

impl Engine {
    fn new(plan: &Plan) -> Engine {
        let names = Names::Made(plan.names.clone());
        let mut join = Join::new(plan.version, names.clone(), plan.clients, plan.joining);
        join.interval = plan.interval;
        join.keep_alive = plan.keep_alive;
        join.session = plan.session;
        match (plan.scram, &plan.password) {
            (Some(mechanism), Some(password)) => {
                join.scram = Some(Scram::new(mechanism, password.clone()));
            }
            (_, password) => join.password.clone_from(password),
        }
        let ping = u64::from(plan.keep_alive) * SECOND * 3 / 4;
        let clients = plan.clients as usize;
        let now = clock::now();
        Engine {
            names,
            clients: plan.clients,
            retries: plan.retries,
            reconnects: plan.reconnects,
            join,
            monitor: Monitor::new(plan.pid, plan.exporter.clone()),
            speakers: match &plan.role {
                Role::Connect => Speakers::Quiet,
                Role::Publish(p) => Speakers::Publishers(Box::new(Publishers::new(plan, p))),
                Role::Subscribe(s) => Speakers::Subscribers(Box::new(Subscribers::new(plan, s))),
            },
            phase: RunPhase::Running,
            tries: vec![0; clients],
            returns: vec![0; clients],
            later: VecDeque::new(),
            pings: (ping > 0).then(|| Sweep::new(plan.clients, ping, now)),
            gone: 0,
            failed: 0,
            retried: 0,
            disconnects: 0,
            pings_sent: 0,
            pings_answered: 0,
            last_errno: 0,
            began: now,
            arrivals: Arrivals::new(plan.clients, now),
            last_packet: now,
            all_in: None,
            planned: u64::MAX,
        }
    }

    /// Runs until the last message. Returns the snapshots at both ends of the measured interval.
    fn traffic(&mut self, net: &mut Net, plan: &Plan) -> Result<(Snapshot, Snapshot), String> {
        self.monitor.phase("joining");
        self.know_the_time();
        let from = self.snapshot();
        let mut end = u64::MAX;
        while !self.over(end) {
            self.turn(net, end)?;
            if self.all_in.is_none() && self.everyone_is_in() {
                let now = clock::now();
                self.all_in = Some(self.snapshot());
                end = plan.duration.map_or(u64::MAX, |nanos| now + nanos);
                self.monitor.phase("traffic");
                if let Speakers::Publishers(publishers) = &mut self.speakers {
                    publishers.all_in(net, &self.join, now);
                }
                if let Some(path) = &plan.ready_file {
                    std::fs::write(path, "").map_err(|e| format!("{}: {e}", path.display()))?;
                }
            }
        }
        let to = self.snapshot();
        self.drain(net)?;
        let from = match (&self.speakers, self.all_in) {
            (Speakers::Publishers(_) | Speakers::Subscribers(_), Some(all_in))
                if all_in.delivered < to.delivered =>
            {
                all_in
            }
            _ => from,
        };
        // Of connections, only the time until all clients were in counts.
        let to = match (&self.speakers, self.all_in) {
            (Speakers::Quiet, Some(all_in)) => all_in,
            _ => to,
        };
        Ok((from, to))
    }

    fn snapshot(&self) -> Snapshot {
        let count = match &self.speakers {
            Speakers::Quiet => self.arrivals.connected,
            Speakers::Publishers(publishers) => publishers.counts.published,
            Speakers::Subscribers(subscribers) => subscribers.delivered,
        };
        Snapshot::take(self.monitor.tree(), count, count)
    }

    fn over(&self, end: u64) -> bool {
        let done = match &self.speakers {
            Speakers::Quiet => false,
            Speakers::Publishers(publishers) => publishers.done(),
            // The last message can come before SUBACK, when it waited for its session.
            Speakers::Subscribers(subscribers) => {
                subscribers.done() && !self.join.anyone_subscribes()
            }
        };
        done || stop::requested()
            || self.short_of_memory()
            || self.gone == self.clients
            || clock::now() >= end
    }

    /// Whether the host is short of memory: the run ends before the kernel's OOM killer ends a
    /// process.
    fn short_of_memory(&self) -> bool {
        let available = self.monitor.samples.last().map(|sample| sample.host.available);
        available.is_some_and(|bytes| bytes > 0 && bytes < LEAST_MEMORY)
    }

    fn everyone_is_in(&self) -> bool {
        self.join.ready + self.gone >= self.clients && self.later.is_empty()
    }

    /// Sets the clock of message stamps, which count from 1970 so that other machines understand
    /// them.
    fn know_the_time(&mut self) {
        let wall = clock::wall_ahead();
        match &mut self.speakers {
            Speakers::Quiet => {}
            Speakers::Publishers(publishers) => publishers.wall = wall,
            Speakers::Subscribers(subscribers) => subscribers.wall = wall,
        }
    }

    /// One turn: connects, pings and publishes what is due, then waits for completions, at most
    /// until `end`.
    fn turn(&mut self, net: &mut Net, end: u64) -> Result<(), String> {
        let now = clock::now();
        self.monitor.late(now.saturating_sub(self.planned));
        let mut next = end.min(self.monitor.due()).min(now + 50 * MILLISECOND);
        while let Some(&(when, client)) = self.later.front() {
            if when > now {
                next = next.min(when);
                break;
            }
            self.later.pop_front();
            self.join.return_of(client);
        }
        if self.phase == RunPhase::Running {
            self.join.pump(net)?;
            let arriving = self.join.ready + self.gone < self.clients;
            if arriving && self.join.interval > 0 {
                next = next.min(now + self.join.interval.max(PACE_GRAIN));
            }
            self.ping(net, now, &mut next);
        }
        let mut want = 1;
        if let Speakers::Publishers(publishers) = &mut self.speakers {
            publishers.speak(net, &self.join, now);
            next = next.min(publishers.due());
            if publishers.at_any_speed() {
                want = (self.clients as usize / 2).clamp(1, COALESCED);
                next = next.min(now + COALESCE);
            }
        }
        // The thread wakes no later than `next`; the next turn notes by how much it was late.
        self.planned = next;
        net.pass(self, next.saturating_sub(clock::now()).max(1), want)?;
        self.look()
    }

    fn ping(&mut self, net: &mut Net, now: u64, next: &mut u64) {
        let Some(pings) = &mut self.pings else { return };
        while let Some((client, _)) = pings.next(now) {
            if self.join.is_ready(client) {
                mqtt::put_pingreq(net.out(client));
                self.pings_sent += 1;
            }
        }
        *next = (*next).min(pings.due().max(now + PING_GRAIN));
    }

    /// Updates the totals and takes a sample, if one is due.
    fn look(&mut self) -> Result<(), String> {
        if clock::now() >= self.monitor.due() {
            let messages = match &self.speakers {
                Speakers::Quiet => None,
                Speakers::Publishers(publishers) => Some((publishers.counts.published, 0)),
                Speakers::Subscribers(subscribers) => Some((0, subscribers.delivered)),
            };
            let connects = self.arrivals.connected + self.arrivals.reconnected;
            self.monitor.totals = Totals { connects, disconnects: self.disconnects, messages };
            self.know_the_time();
        }
        self.monitor.look(self.join.ready)
    }

    /// Stops publishing and waits for acknowledgements and unsent bytes.
    fn drain(&mut self, net: &mut Net) -> Result<(), String> {
        if let Speakers::Publishers(publishers) = &mut self.speakers {
            publishers.stop();
        }
        self.last_packet = clock::now();
        let limit = clock::now() + DRAIN;
        let mut unsent = usize::MAX;
        while let Speakers::Publishers(publishers) = &self.speakers {
            let now = clock::now();
            let left: usize = (0..self.clients).map(|client| net.unsent(client)).sum();
            if publishers.all_acknowledged() && left == 0 {
                break;
            }
            // A broker that reads slowly is not silent.
            if left < std::mem::replace(&mut unsent, left) {
                self.last_packet = now;
            }
            if now > limit || now > self.last_packet + SILENCE {
                break;
            }
            self.turn(net, now + 10 * MILLISECOND)?;
        }
        Ok(())
    }

    /// Sends DISCONNECT for all clients and waits for the brokers to close the connections: closing
    /// them here would lose bytes that a broker has not read yet.
    fn leave(&mut self, net: &mut Net) -> Result<(), String> {
        self.phase = RunPhase::Leaving;
        let limit = clock::now() + CLOSING;
        for first in (0..self.clients).step_by(LEAVE_AT_ONCE as usize) {
            let group = first..self.clients.min(first + LEAVE_AT_ONCE);
            for client in group.clone().filter(|client| self.join.is_ready(*client)) {
                mqtt::put_disconnect(net.out(client));
            }
            while group.clone().any(|client| self.join.is_ready(client) && net.is_open(client))
                && clock::now() < limit
            {
                net.pass(self, 10 * MILLISECOND, 1)?;
            }
            group.for_each(|client| net.hang_up(client));
        }
        net.pass(self, 0, 0)
    }

    fn last_failure(&self) -> String {
        match self.join.refusals.iter().next() {
            Some((code, _)) => format!("refused with code {code} ({code:#04x})"),
            None if self.last_errno == 0 => "the broker closed the connection".into(),
            None => std::io::Error::from_raw_os_error(self.last_errno).to_string(),
        }
    }

    fn report(&mut self, plan: &Plan, from: &Snapshot, to: &Snapshot) -> Value {
        let interval = from.until(to);
        let joining = self.arrivals.last_first.saturating_sub(self.began) as f64 / 1e9;
        let refusals: Map<String, Value> =
            self.join.refusals.iter().map(|(code, n)| (code.to_string(), (*n).into())).collect();
        let mut report = json!({
            "scenario": plan.role.name(),
            "run": plan.run,
            "clients": self.clients,
            "connected": self.arrivals.connected,
            "failed": self.failed,
            "retried": self.retried,
            "reconnected": self.arrivals.reconnected,
            "disconnects": self.disconnects,
            "refused": self.join.refused,
            "refusals": refusals,
            "resumed": self.join.resumed,
            "last_errno": self.last_errno,
            "pings": self.pings_sent,
            "pings_unanswered": self.pings_sent.saturating_sub(self.pings_answered),
            "connects_per_s": rate(self.arrivals.connected, joining),
            "connack_ms": self.join.connack.report(),
            "cpu_us": interval["cpu_us"],
            "cpu_percent": interval["cpu_percent"],
            "generator_cpu_us": interval["generator_cpu_us"],
            "generator_percent": interval["generator_percent"],
            "plan": {
                "hosts": plan.hosts, "clients": plan.clients,
                "interval_ms": plan.interval as f64 / 1e6,
                "protocol": format!("{:?}", plan.version), "keep_alive": plan.keep_alive,
                "sources": plan.sources.len(), "tls": plan.tls.is_some(),
            },
        });
        let seconds = match &self.speakers {
            Speakers::Quiet => joining,
            Speakers::Publishers(publishers) if publishers.began == 0 => 0.0,
            Speakers::Publishers(publishers) => {
                to.time.saturating_sub(publishers.began) as f64 / 1e9
            }
            Speakers::Subscribers(subscribers) => {
                subscribers.span.map_or(0.0, |(first, last)| (last - first) as f64 / 1e9)
            }
        };
        report["seconds"] = seconds.into();
        match &self.speakers {
            Speakers::Quiet => {}
            Speakers::Publishers(publishers) => publishers.report(&mut report, seconds),
            Speakers::Subscribers(subscribers) => subscribers.report(&mut report, seconds),
        }
        report["stopped_early"] = if self.short_of_memory() {
            json!("the host was short of memory")
        } else if stop::requested() {
            json!("by a signal")
        } else {
            Value::Null
        };
        if let Some(peak) = self.monitor.peak() {
            let memory = self.monitor.memory();
            report["memory"] = json!({"rss": memory.rss, "pss": memory.pss, "peak_rss": peak});
        }
        report["series"] = self.monitor.report();
        report
    }

    /// `client` is not connected: it tries again later if `again`, otherwise it is gone.
    fn again_or_gone(&mut self, client: u32, again: bool) {
        if again {
            self.later.push_back((clock::now() + AGAIN, client));
        } else {
            self.gone += 1;
        }
    }

    fn arrive(&mut self, net: &mut Net, client: u32, receive_maximum: u16, now: u64) {
        self.arrivals.note(client, now);
        if let Speakers::Publishers(publishers) = &mut self.speakers {
            publishers.arrived(net, &self.join, client, receive_maximum, now);
        }
    }
}

impl Handler for Engine {
    fn connected(&mut self, net: &mut Net, client: u32) {
        self.join.connected(net, client);
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed> {
        let now = clock::now();
        self.last_packet = now;
        let mut used = 0;
        while let Some(packet) = mqtt::split(&bytes[used..])? {
            used += packet.total;
            if !self.join.is_ready(client) && !self.join.takes_early(client, &packet) {
                let (names, speakers) = (&self.names, &self.speakers);
                let filters = |client| match speakers {
                    Speakers::Subscribers(subscribers) => subscribers.filters(names, client),
                    Speakers::Quiet | Speakers::Publishers(_) => Vec::new(),
                };
                let arrival = self.join.packet(net, client, &packet, filters)?;
                if let Some(arrival) = arrival
                    && matches!(self.speakers, Speakers::Quiet)
                {
                    self.monitor.latency.record(now.saturating_sub(arrival.begun));
                }
                if self.join.is_ready(client) {
                    let most = arrival.map_or(u16::MAX, |arrival| arrival.receive_maximum);
                    self.arrive(net, client, most, now);
                }
                continue;
            }
            if packet.first == first::PINGRESP {
                self.pings_answered += 1;
                continue;
            }
            let took = match &mut self.speakers {
                Speakers::Quiet => None,
                Speakers::Publishers(publishers) => publishers.packet(net, client, &packet, now)?,
                Speakers::Subscribers(subscribers) => {
                    subscribers.packet(net, client, &packet, now)?
                }
            };
            if let Some(nanos) = took {
                self.monitor.latency.record(nanos);
            }
        }
        Ok(used)
    }

    fn drained(&mut self, net: &mut Net, client: u32) {
        if let Speakers::Publishers(publishers) = &mut self.speakers
            && self.join.is_ready(client)
        {
            publishers.may_again(net, client, clock::now());
        }
    }

    fn closed(&mut self, _net: &mut Net, client: u32, errno: i32) {
        let was_in = self.join.left(client);
        if self.phase == RunPhase::Leaving {
            return;
        }
        self.last_errno = errno;
        if was_in {
            self.disconnects += 1;
            if let Speakers::Publishers(publishers) = &mut self.speakers {
                publishers.left(client);
            }
            let returns = &mut self.returns[client as usize];
            let again = *returns < self.reconnects;
            *returns += u16::from(again);
            self.again_or_gone(client, again);
        } else {
            let tries = &mut self.tries[client as usize];
            let again = *tries < self.retries;
            *tries += u16::from(again);
            self.retried += u64::from(again);
            self.failed += u64::from(!again);
            self.again_or_gone(client, again);
        }
    }
}
