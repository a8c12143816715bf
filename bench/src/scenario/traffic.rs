//! Publishers and subscribers: every scenario with messages between clients.
//!
//! Subscribers are the first `subscribers` clients; publishers follow. Each message carries a nonce
//! of the run, its publisher, its sequence number and a time. With a rate this is when the message
//! was due, otherwise when it was sent: a generator or a broker that falls behind a rate therefore
//! shows as latency (no coordinated omission).

use super::{RunSettings, Shape, Snapshot, TrafficPlan};
use crate::clients::join::{Join, Names};
use crate::clients::socket::SocketOptions;
use crate::clients::{Handler, Net};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::exporter::Totals;
use crate::monitor::Monitor;
use crate::mqtt::{self, Filter, Malformed, Packet, Version, first};
use crate::stats::{Latency, Order, Stream};
use crate::stop;
use serde_json::{Value, json};

/// Bytes with nonce, publisher, sequence number and time, with which a payload begins.
pub const HEADER: usize = 24;
/// Bytes that a publisher without acknowledgements has unsent at most.
const BURST_BYTES: usize = 2048;
/// Send buffer of sockets, in bytes; it bounds what the kernel holds for a publisher at full speed.
const SEND_BUFFER: u32 = 32 * 1024;
/// In-flight messages at which a publisher withholds messages, because it has no identifier for
/// them: as many as there are identifiers, so no window is larger.
const MAX_IN_FLIGHT: u16 = u16::MAX;
/// At full speed the generator sleeps until this number of completions or these nanoseconds:
/// otherwise the broker spends CPU time on waking it with every packet.
const COALESCED: usize = 64;
const COALESCE: u64 = MILLISECOND;
const JOIN_LIMIT: u64 = 120 * SECOND;
const DRAIN_LIMIT: u64 = 20 * SECOND;
/// After this many nanoseconds without a delivery or an acknowledgement, missing messages are lost.
const SILENCE: u64 = SECOND;

#[derive(Clone, Copy, PartialEq, Eq)]
enum TrafficPhase {
    Joining,
    WarmUp,
    Measuring,
    Draining,
}

#[derive(Default)]
struct TrafficPublisher {
    topic: Box<[u8]>,
    sent: u64,
    /// The sequence number of the first message after the warm-up.
    mark: u64,
    last_id: u16,
    acked_id: u16,
    in_flight: u16,
}

impl TrafficPublisher {
    /// The identifier of another message in flight; `None` when all are in use.
    fn another(&mut self) -> Option<u16> {
        if self.in_flight == MAX_IN_FLIGHT {
            return None;
        }
        self.in_flight += 1;
        self.last_id = following(self.last_id);
        Some(self.last_id)
    }
}

struct Traffic {
    plan: TrafficPlan,
    version: Version,
    salt: String,
    join: Join,
    phase: TrafficPhase,
    nonce: u32,
    payload: Vec<u8>,
    publishers: Vec<TrafficPublisher>,
    streams: Vec<Stream>,
    order: Order,
    latency: Latency,
    monitor: Monitor,
    delivered: u64,
    sent: u64,
    withheld: u64,
    strange: u64,
    acks_out_of_order: u64,
    refused_acks: u64,
    disconnects: u64,
    last_event: u64,
    failure: Option<String>,
}

/// Runs `plan` against the target, for at most [`JOIN_LIMIT`] + warm-up + seconds +
/// [`DRAIN_LIMIT`].
pub fn run(plan: TrafficPlan, names: Names, settings: &RunSettings) -> Result<Value, String> {
    let mut traffic = Traffic::new(plan, names, settings);
    let clients = plan.publishers + plan.subscribers;
    let options = SocketOptions {
        send_buffer: SEND_BUFFER,
        tls: settings.tls.clone(),
        web: settings.web.clone(),
        ..SocketOptions::default()
    };
    let mut net = Net::new(&settings.targets(), clients, options)?;
    let empty = traffic.monitor.memory();
    traffic.monitor.phase("joining");
    let from = Snapshot::take(traffic.monitor.tree(), 0, 0);
    traffic.join(&mut net)?;
    let joined = Snapshot::take(traffic.monitor.tree(), u64::from(clients), u64::from(clients));
    let joined = from.until(&joined);

    traffic.monitor.phase("warm-up");
    let begin = clock::now();
    traffic.start(&mut net);
    let mut pace = Pace { start: begin, rate: plan.rate, burst: plan.burst, count: 0 };
    let warm = begin + clock::nanos(settings.warmup);
    traffic.until(&mut net, &mut pace, warm)?;

    traffic.monitor.phase("traffic");
    let from = Snapshot::take(traffic.monitor.tree(), traffic.delivered, traffic.sent);
    traffic.mark();
    traffic.until(&mut net, &mut pace, from.time + clock::nanos(settings.seconds))?;
    let to = Snapshot::take(traffic.monitor.tree(), traffic.delivered, traffic.sent);
    let host = traffic.monitor.host();

    traffic.drain(&mut net)?;
    let mut report = from.until(&to);
    traffic.report(&mut report);
    report["connects_per_s"] = joined["delivered_per_s"].clone();
    report["connack_ms"] = traffic.join.connack.report();
    // Read after the drain, as this takes long when the broker's memory is large.
    let full = traffic.monitor.memory();
    report["peak_rss"] = traffic.monitor.peak().into();
    report["memory"] = json!({
        "empty_rss": empty.rss, "rss": full.rss, "pss": full.pss,
        "peak_rss": traffic.monitor.peak(),
    });
    report["host"] = host;
    report["series"] = traffic.monitor.report();
    Ok(report)
}

/// An open-loop schedule: message n is due at `start + n / rate`, with n rounded down to a multiple
/// of `burst`.
struct Pace {
    start: u64,
    rate: u32,
    burst: u32,
    count: u64,
}

impl Pace {
    fn due(&self) -> u64 {
        match u64::from(self.rate) {
            0 => u64::MAX,
            rate => {
                let burst = u64::from(self.burst);
                self.start + self.count / burst * burst * SECOND / rate
            }
        }
    }
}

impl Traffic {
    fn new(plan: TrafficPlan, names: Names, settings: &RunSettings) -> Self {
        let clients = plan.publishers + plan.subscribers;
        let salt = settings.salt.clone();
        let streams = match plan.shape {
            Shape::FanOut => plan.publishers * plan.subscribers,
            Shape::Pairs | Shape::FanIn | Shape::Shared => plan.publishers,
        };
        let nonce = std::process::id();
        let mut payload = vec![b'.'; settings.payload.max(HEADER)];
        payload[..4].copy_from_slice(&nonce.to_le_bytes());
        let publisher = |n| TrafficPublisher {
            topic: topic(&plan, &salt, n).into_bytes().into(),
            mark: u64::MAX,
            ..TrafficPublisher::default()
        };
        Self {
            plan,
            version: settings.version,
            join: Join::new(settings.version, names, clients, settings.joining),
            phase: TrafficPhase::Joining,
            nonce,
            payload,
            publishers: (0..plan.publishers).map(publisher).collect(),
            streams: vec![Stream::default(); streams as usize],
            order: Order::default(),
            latency: Latency::new(),
            monitor: Monitor::new(settings.pid, settings.exporter.clone()),
            delivered: 0,
            sent: 0,
            withheld: 0,
            strange: 0,
            acks_out_of_order: 0,
            refused_acks: 0,
            disconnects: 0,
            last_event: 0,
            failure: None,
            salt,
        }
    }

    fn join(&mut self, net: &mut Net) -> Result<(), String> {
        let limit = clock::now() + JOIN_LIMIT;
        while !self.join.complete() {
            self.join.pump(net)?;
            net.pass(self, 20 * MILLISECOND, 1)?;
            self.check()?;
            self.look()?;
            if clock::now() > limit {
                return Err(format!("only {} clients came in within 120 s", self.join.ready));
            }
        }
        Ok(())
    }

    /// Updates the totals, and takes a sample if one is due.
    fn look(&mut self) -> Result<(), String> {
        self.monitor.totals = Totals {
            connects: u64::from(self.join.ready),
            disconnects: self.disconnects,
            messages: Some((self.sent, self.delivered)),
        };
        self.monitor.look(self.join.ready)
    }

    fn check(&mut self) -> Result<(), String> {
        if stop::requested() {
            return Err("interrupted".into());
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn start(&mut self, net: &mut Net) {
        self.phase = TrafficPhase::WarmUp;
        if self.plan.rate == 0 {
            for publisher in 0..self.plan.publishers {
                self.top_up(net, publisher);
            }
        }
    }

    fn mark(&mut self) {
        self.phase = TrafficPhase::Measuring;
        for publisher in &mut self.publishers {
            publisher.mark = publisher.sent;
        }
    }

    /// Publishes and receives until `end`.
    fn until(&mut self, net: &mut Net, pace: &mut Pace, end: u64) -> Result<(), String> {
        loop {
            let now = clock::now();
            if now >= end {
                return Ok(());
            }
            self.monitor.late(now.saturating_sub(pace.due()));
            while pace.due() <= now {
                let publisher = (pace.count % u64::from(self.plan.publishers)) as u32;
                self.publish(net, publisher, pace.due());
                pace.count += 1;
            }
            if self.plan.rate == 0 {
                let want = (self.plan.publishers as usize / 2).clamp(1, COALESCED);
                net.pass(self, COALESCE, want)?;
            } else {
                let wait = pace.due().min(end).saturating_sub(now).min(50 * MILLISECOND);
                net.pass(self, wait.max(1), 1)?;
            }
            self.look()?;
            self.check()?;
        }
    }

    fn drain(&mut self, net: &mut Net) -> Result<(), String> {
        self.phase = TrafficPhase::Draining;
        let limit = clock::now() + DRAIN_LIMIT;
        self.last_event = clock::now();
        loop {
            let now = clock::now();
            if self.all_done() || now > limit || now > self.last_event + SILENCE {
                return Ok(());
            }
            net.pass(self, 20 * MILLISECOND, 1)?;
            self.check()?;
        }
    }

    fn all_done(&self) -> bool {
        let receivers = match self.plan.shape {
            Shape::FanOut => u64::from(self.plan.subscribers),
            Shape::Pairs | Shape::FanIn | Shape::Shared => 1,
        };
        self.delivered == self.sent * receivers && self.publishers.iter().all(|p| p.in_flight == 0)
    }

    fn top_up(&mut self, net: &mut Net, publisher: u32) {
        let now = clock::now();
        if self.plan.qos == 0 {
            let client = self.plan.subscribers + publisher;
            while net.unsent(client) < BURST_BYTES {
                self.publish(net, publisher, now);
            }
        } else {
            while self.publishers[publisher as usize].in_flight < self.plan.window
                && self.publish(net, publisher, now)
            {}
        }
    }

    /// Publishes a message; returns false when it is withheld.
    #[inline]
    fn publish(&mut self, net: &mut Net, publisher: u32, stamp: u64) -> bool {
        let state = &mut self.publishers[publisher as usize];
        let mut id = 0;
        if self.plan.qos > 0 {
            let Some(another) = state.another() else {
                self.withheld += 1;
                return false;
            };
            id = another;
        }
        self.payload[4..8].copy_from_slice(&publisher.to_le_bytes());
        self.payload[8..16].copy_from_slice(&state.sent.to_le_bytes());
        self.payload[16..24].copy_from_slice(&stamp.to_le_bytes());
        state.sent += 1;
        self.sent += 1;
        let out = net.out(self.plan.subscribers + publisher);
        mqtt::put_publish(out, self.version, self.plan.qos, &state.topic, id, &self.payload);
        true
    }

    /// Handles a packet for a client that is ready.
    #[inline]
    fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed> {
        match packet.first {
            kind if kind & 0xf0 == first::PUBLISH => {
                let publish = mqtt::publish_of(self.version, packet)?;
                match publish.qos {
                    0 => {}
                    1 => mqtt::put_ack(net.out(client), first::PUBACK, publish.id),
                    _ => mqtt::put_ack(net.out(client), first::PUBREC, publish.id),
                }
                self.message(client, publish.qos, publish.payload, now);
            }
            first::PUBREL => {
                let (id, _) = mqtt::ack_of(self.version, packet)?;
                mqtt::put_ack(net.out(client), first::PUBCOMP, id);
            }
            first::PUBACK | first::PUBREC | first::PUBCOMP => {
                self.acknowledged(net, client, packet, now)?;
            }
            _ => self.strange += 1,
        }
        Ok(())
    }

    #[inline]
    fn message(&mut self, client: u32, qos: u8, payload: &[u8], now: u64) {
        let Some(head) = payload.first_chunk::<HEADER>() else {
            self.strange += 1;
            return;
        };
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let (nonce, publisher, seq, stamp) = (word(0), word(4), long(8), long(16));
        let right = nonce == self.nonce
            && publisher < self.plan.publishers
            && qos == self.plan.qos
            && payload.len() == self.payload.len()
            && receives(&self.plan, client, publisher);
        if !right {
            self.strange += 1;
            return;
        }
        let stream = match self.plan.shape {
            Shape::FanOut => client * self.plan.publishers + publisher,
            Shape::Pairs | Shape::FanIn | Shape::Shared => publisher,
        };
        let mark = self.publishers[publisher as usize].mark;
        // A message that comes again must not stand for one that does not come.
        let again = !self.streams[stream as usize].take(seq, mark, &mut self.order);
        self.delivered += u64::from(!again);
        if seq >= mark {
            self.latency.record(now.saturating_sub(stamp));
            self.monitor.latency.record(now.saturating_sub(stamp));
        }
    }

    fn acknowledged(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed> {
        let Some(publisher) = client.checked_sub(self.plan.subscribers) else {
            self.strange += 1;
            return Ok(());
        };
        let (id, refused) = mqtt::ack_of(self.version, packet)?;
        self.refused_acks += u64::from(refused);
        self.last_event = now;
        if packet.first == first::PUBREC && !refused {
            mqtt::put_ack(net.out(client), first::PUBREL, id);
            return Ok(());
        }
        let state = &mut self.publishers[publisher as usize];
        if id != following(state.acked_id) {
            self.acks_out_of_order += 1;
        }
        state.acked_id = id;
        match state.in_flight.checked_sub(1) {
            Some(rest) => state.in_flight = rest,
            None => self.strange += 1,
        }
        Ok(())
    }

    fn publishing(&self) -> bool {
        matches!(self.phase, TrafficPhase::WarmUp | TrafficPhase::Measuring)
    }

    fn report(&mut self, report: &mut Value) {
        let plan = &self.plan;
        for (index, stream) in self.streams.iter().enumerate() {
            let publisher = &self.publishers[index % plan.publishers as usize];
            stream.finish(publisher.sent, publisher.mark, &mut self.order);
        }
        report["latency_ms"] = self.latency.report();
        report["lost"] = self.order.lost.into();
        report["reordered"] = self.order.reordered.into();
        report["duplicated"] = self.order.duplicated.into();
        report["disconnects"] = self.disconnects.into();
        report["unacknowledged"] =
            self.publishers.iter().map(|p| u64::from(p.in_flight)).sum::<u64>().into();
        report["acks_out_of_order"] = self.acks_out_of_order.into();
        report["refused_acks"] = self.refused_acks.into();
        report["strange"] = self.strange.into();
        report["withheld"] = self.withheld.into();
        report["plan"] = json!({
            "shape": format!("{:?}", plan.shape), "publishers": plan.publishers,
            "subscribers": plan.subscribers, "qos": plan.qos, "window": plan.window,
            "rate": plan.rate, "burst": plan.burst, "payload": self.payload.len(),
            "protocol": format!("{:?}", self.version),
        });
    }
}

impl Handler for Traffic {
    fn connected(&mut self, net: &mut Net, client: u32) {
        self.join.connected(net, client);
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &[u8]) -> Result<usize, Malformed> {
        let now = clock::now();
        let mut used = 0;
        while let Some(packet) = mqtt::split(&bytes[used..])? {
            used += packet.total;
            if self.phase != TrafficPhase::Joining || self.join.is_ready(client) {
                self.packet(net, client, &packet, now)?;
            } else {
                let (plan, salt) = (&self.plan, &self.salt);
                self.join.packet(net, client, &packet, |c| filter(plan, salt, c))?;
            }
        }
        self.last_event = now;
        let publisher = client.checked_sub(self.plan.subscribers);
        if let Some(publisher) = publisher
            && self.plan.rate == 0
            && self.plan.qos > 0
            && self.publishing()
        {
            self.top_up(net, publisher);
        }
        Ok(used)
    }

    fn drained(&mut self, net: &mut Net, client: u32) {
        let publisher = client.checked_sub(self.plan.subscribers);
        if let Some(publisher) = publisher
            && self.plan.rate == 0
            && self.plan.qos == 0
            && self.publishing()
        {
            self.top_up(net, publisher);
        }
    }

    fn closed(&mut self, _net: &mut Net, client: u32, errno: i32) {
        self.disconnects += 1;
        if self.phase == TrafficPhase::Joining {
            let why = std::io::Error::from_raw_os_error(errno);
            self.failure = Some(format!("client {client} was turned away: {why}"));
        }
    }
}

/// The identifier after `id`: identifiers go round from 1 to 65,535.
fn following(id: u16) -> u16 {
    id.wrapping_add(1).max(1)
}

fn topic(plan: &TrafficPlan, salt: &str, publisher: u32) -> String {
    match plan.shape {
        Shape::Pairs => format!("{salt}/pair/{publisher}"),
        Shape::Shared => format!("{salt}/share/{publisher}"),
        Shape::FanIn => format!("{salt}/in/{}/{publisher}", publisher % plan.subscribers),
        Shape::FanOut => format!("{salt}/out/{publisher}"),
    }
}

fn filter(plan: &TrafficPlan, salt: &str, client: u32) -> Vec<Filter> {
    if client >= plan.subscribers {
        return Vec::new();
    }
    let filter = match plan.shape {
        Shape::Pairs => format!("{salt}/pair/{client}"),
        Shape::Shared => format!("$share/bench/{salt}/share/+"),
        Shape::FanIn => format!("{salt}/in/{client}/+"),
        Shape::FanOut => format!("{salt}/out/+"),
    };
    vec![(filter, plan.qos)]
}

fn receives(plan: &TrafficPlan, client: u32, publisher: u32) -> bool {
    match plan.shape {
        Shape::Pairs => client == publisher,
        Shape::FanIn => client == publisher % plan.subscribers,
        Shape::FanOut | Shape::Shared => client < plan.subscribers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_publisher_of_any_window_has_an_identifier_for_each_message_and_ends_there() {
        let mut publisher = TrafficPublisher { last_id: 65_000, ..TrafficPublisher::default() };
        let used: HashSet<u16> = std::iter::from_fn(|| publisher.another()).collect();
        assert_eq!((used.len(), used.contains(&0)), (usize::from(u16::MAX), false));
        // The largest window that can be asked for.
        assert_eq!(publisher.in_flight, u16::MAX);
    }
}
