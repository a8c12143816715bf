//! Sessions that outlive their connections: clients leave, messages are queued for them, and all
//! clients return at once to receive them.
//!
//! The latency of a client lasts from the start of its return (with a rate, from when the return
//! was due) to its last message. Clients return as fast as `--joining` and `--rate` allow, whether
//! or not earlier ones have their messages.

use super::crowd::{Crowd, Stage, Talk};
use super::publish::Filling;
use super::{RunSettings, Snapshot};
use crate::clock::{self, SECOND};
use crate::mqtt::{self, Malformed, Packet, Session, Version, first};
use crate::report::Figure;
use crate::stats::{Latency, Order, Stream};
use serde_json::{Value, json};

/// Clients that publish; their numbers follow those of the clients that leave.
const PUBLISHERS: u32 = 4;
/// Messages for each client.
const DEPTH: u32 = 10;
/// Nanoseconds in which the broker notices which clients have left.
const SETTLE: u64 = SECOND;
/// Bytes of the message's number, with which a payload begins.
const HEADER: usize = 8;

struct Queue {
    salt: String,
    version: Version,
    clients: u32,
    depth: u64,
    payload: usize,
    filling: Filling,
    streams: Vec<Stream>,
    order: Order,
    /// When each client's return began, and the number of its messages so far.
    returns: Vec<(u64, u32)>,
    first: Latency,
    all: Latency,
    received: u64,
    strange: u64,
}

impl Talk for Queue {
    fn filter(&self, client: u32) -> Option<(String, u8)> {
        // The broker keeps the subscriptions with the sessions, so clients do not subscribe when
        // they return.
        let subscribes = client < self.clients && self.returns.is_empty();
        subscribes.then(|| (format!("{}/q/{client}", self.salt), 1))
    }

    fn packet(
        &mut self,
        stage: &mut Stage<'_>,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed> {
        if self.filling.is_publisher(client) {
            return self.filling.packet(client, packet);
        }
        if packet.first & 0xf0 != first::PUBLISH {
            return Err(Malformed);
        }
        let publish = mqtt::publish_of(self.version, packet)?;
        if publish.qos == 1 {
            mqtt::put_ack(stage.net.out(client), first::PUBACK, publish.id);
        }
        let head = publish.payload.first_chunk::<8>().copied().map(u64::from_le_bytes);
        let right = head.filter(|number| {
            number % u64::from(self.clients) == u64::from(client) && publish.qos == 1
        });
        let (Some(number), Some(state)) = (right, self.returns.get_mut(client as usize)) else {
            self.strange += 1;
            return Ok(());
        };
        let stream = &mut self.streams[client as usize];
        if !stream.take(number / u64::from(self.clients), 0, &mut self.order) {
            // It must not stand for a message that does not come.
            return Ok(());
        }
        self.received += 1;
        state.1 += 1;
        if state.1 == 1 {
            self.first.record(now.saturating_sub(state.0));
        }
        if u64::from(state.1) == self.depth {
            let nanos = now.saturating_sub(state.0);
            self.all.record(nanos);
            stage.monitor.latency.record(nanos);
        }
        Ok(())
    }

    fn arrived(&mut self, client: u32, began: u64) {
        if let Some(state) = self.returns.get_mut(client as usize) {
            state.0 = began;
        }
    }

    fn speak(&mut self, stage: &mut Stage<'_>, now: u64) -> u64 {
        let (salt, clients, size) = (&self.salt, u64::from(self.clients), self.payload);
        self.filling.speak(stage, now, false, |number, topic, payload| {
            topic.extend_from_slice(format!("{salt}/q/{}", number % clients).as_bytes());
            payload.extend_from_slice(&number.to_le_bytes());
            payload.resize(size, b'.');
        })
    }
}

impl Queue {
    /// A run before anything is published; each client is to receive `depth` messages.
    fn new(clients: u32, depth: u64, settings: &RunSettings) -> Self {
        Queue {
            salt: settings.salt.clone(),
            version: settings.version,
            clients,
            depth,
            payload: settings.payload.max(HEADER),
            filling: Filling::new(settings.version, clients, PUBLISHERS, 0),
            streams: vec![Stream::default(); clients as usize],
            order: Order::default(),
            returns: Vec::new(),
            first: Latency::new(),
            all: Latency::new(),
            received: 0,
            strange: 0,
        }
    }

    /// Completes the counts, and adds them and the latencies to a report.
    fn report(&mut self, report: &mut Value) {
        for stream in &self.streams {
            stream.finish(self.depth, 0, &mut self.order);
        }
        report["first_message_ms"] = self.first.report();
        report["latency_ms"] = self.all.report();
        report["lost"] = self.order.lost.into();
        report["reordered"] = self.order.reordered.into();
        report["duplicated"] = self.order.duplicated.into();
        report["strange"] = self.strange.into();
    }
}

/// `clients` clients subscribe, leave, are sent messages while they are away, and return.
pub fn run(clients: u32, settings: &RunSettings) -> Result<Value, String> {
    // With such a number, all messages of a client come from one publisher, which defines their
    // order.
    let clients = clients.next_multiple_of(PUBLISHERS);
    let depth = u64::from(settings.messages.unwrap_or(DEPTH));
    let queue = Queue::new(clients, depth, settings);
    let total = clients + PUBLISHERS;
    let (mut crowd, mut net) = Crowd::new(total, 0, settings.reset, queue, settings)?;
    crowd.join.session = Session::Lasting(mqtt::EXPIRY);
    let empty = crowd.monitor.memory();
    crowd.phase("joining");
    crowd.come_in(&mut net)?;
    if !crowd.join.complete() {
        return Err(format!("only {} clients came in before we had to stop", crowd.join.ready));
    }
    crowd.phase("away");
    crowd.leave(&mut net, 0..clients)?;
    crowd.stay(&mut net, SETTLE)?;
    let away = crowd.monitor.memory();

    crowd.phase("queueing");
    let from = Snapshot::take(crowd.monitor.tree(), 0, 0);
    crowd.talk.filling.begin(u64::from(clients) * depth, clock::now());
    crowd.until(&mut net, |queue| queue.filling.done())?;
    let acked = crowd.talk.filling.acked;
    let queued = from.until(&Snapshot::take(crowd.monitor.tree(), acked, acked));
    crowd.stay(&mut net, SETTLE)?;
    let (full, host) = (crowd.monitor.memory(), crowd.monitor.host());

    crowd.phase("returning");
    crowd.talk.returns = vec![(0, 0); clients as usize];
    crowd.join.restart_clock();
    crowd.join.resumed = 0;
    crowd.join.at_rate(settings.rate.unwrap_or(0));
    (0..clients).rev().for_each(|client| crowd.join.return_of(client));
    let from = Snapshot::take(crowd.monitor.tree(), 0, 0);
    crowd.come_in(&mut net)?;
    let back = clock::now();
    let wanted = u64::from(clients) * depth;
    crowd.until(&mut net, |queue| queue.received >= wanted)?;
    let to = Snapshot::take(crowd.monitor.tree(), crowd.talk.received, wanted);
    crowd.stay(&mut net, SETTLE)?;

    let mut report = from.until(&to);
    let emptied = crowd.monitor.memory();
    let resumed = crowd.join.resumed;
    let connack = crowd.join.connack.report();
    crowd.report(&mut report);
    clean(&mut crowd, &mut net)?;
    let all_back_s = (back - from.time) as f64 / 1e9;
    report["clients"] = clients.into();
    report["depth"] = depth.into();
    report["queueing"] = queued;
    report["refused_acks"] = crowd.talk.filling.refused.into();
    report["connects_per_s"] = (f64::from(clients) / all_back_s).into();
    report["all_back_s"] = all_back_s.into();
    report["sessions_resumed"] = resumed.into();
    report["connack_ms"] = connack;
    crowd.talk.report(&mut report);
    let messages = (u64::from(clients) * depth) as f64;
    report["memory"] = json!({
        "empty_rss": empty.rss, "away_rss": away.rss, "rss": full.rss, "pss": full.pss,
        "after_rss": emptied.rss, "peak_rss": crowd.monitor.peak(),
        "per_session": (away.rss as f64 - empty.rss as f64) / f64::from(clients),
        "per_message": (full.rss as f64 - away.rss as f64) / messages,
    });
    report["host"] = host;
    report["series"] = crowd.monitor.report();
    Ok(report)
}

/// Ends the sessions, so that a broker that goes on running does not keep them.
fn clean(crowd: &mut Crowd<Queue>, net: &mut crate::clients::Net) -> Result<(), String> {
    crowd.phase("clean");
    let all = crowd.talk.clients + PUBLISHERS;
    crowd.leave(net, 0..all)?;
    crowd.stay(net, SETTLE)?;
    crowd.join.session = Session::Clean;
    (0..all).rev().for_each(|client| crowd.join.return_of(client));
    crowd.come_in(net)?;
    crowd.leave(net, 0..all)
}

/// The result for a person.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| Figure::of(report, path);
    let mib = |path: &str| figure(path).mebi();
    format!(
        "queue: {} sessions, {} messages for each while they are away\n\
         \x20 queueing       {:.0} messages/s, broker {:.2} µs each\n\
         \x20 returning      {} of {} sessions kept; all back after {:.2} s ({:.0}/s), then all \
         messages after {:.2} s\n\
         \x20 messages       {:.0}/s; broker {:.2} µs each; from the return: first p50 {:.1}, p99 \
         {:.1} ms, last p50 {:.1}, p99 {:.1} ms\n\
         \x20 faults         {} lost, {} reordered, {} twice, {} strange, {} refused\n\
         \x20 broker memory  {:.1} MiB empty, {:.1} with sessions ({:.0} B each), {:.1} with \
         messages ({:.0} B each), {:.1} after\n",
        report["clients"],
        report["depth"],
        figure("queueing.delivered_per_s"),
        figure("queueing.cpu_us"),
        report["sessions_resumed"],
        report["clients"],
        figure("all_back_s"),
        figure("connects_per_s"),
        figure("seconds"),
        figure("delivered_per_s"),
        figure("cpu_us"),
        figure("first_message_ms.p50"),
        figure("first_message_ms.p99"),
        figure("latency_ms.p50"),
        figure("latency_ms.p99"),
        report["lost"],
        report["reordered"],
        report["duplicated"],
        report["strange"],
        report["refused_acks"],
        mib("memory.empty_rss"),
        mib("memory.away_rss"),
        figure("memory.per_session"),
        mib("memory.rss"),
        figure("memory.per_message"),
        mib("memory.after_rss"),
    )
}
