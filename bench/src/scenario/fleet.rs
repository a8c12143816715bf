//! Devices as they occur in practice: a heartbeat of 20 bytes every 15 s (QoS 0), a status of 500
//! bytes every minute (QoS 1) that a backend answers, and a ping every two minutes. A few backends
//! receive the messages of all devices.

use super::crowd::{Crowd, Stage, Sweep, Talk};
use super::{RunSettings, Snapshot};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::mqtt::{self, Malformed, Packet, Version, first};
use crate::report::Figure;
use crate::stats::Latency;
use serde_json::{Value, json};
use std::io::Write;

const HEARTBEAT_EVERY: u64 = 15 * SECOND;
const STATUS_EVERY: u64 = 60 * SECOND;
const PING_EVERY: u32 = 120;
/// Bytes of a heartbeat: nonce, device, number and due time.
const HEARTBEAT: usize = 20;
const STATUS: usize = 500;
/// Subscribers among which the devices are divided, each with a wildcard filter.
const BACKENDS: u32 = 4;
/// Messages are due at multiples of this, in nanoseconds: at 50,000 messages per second, a turn of
/// the generator for each message would cost more than the message.
const TICK: u64 = MILLISECOND;

struct Fleet {
    salt: String,
    version: Version,
    devices: u32,
    nonce: u32,
    heartbeats: Option<Sweep>,
    statuses: Option<Sweep>,
    ids: Vec<u16>,
    /// The numbers of each device's next heartbeat and next status, and which ones a backend has
    /// received.
    said: Vec<[u8; 2]>,
    heard: Vec<[DeviceSequence; 2]>,
    topic: Vec<u8>,
    payload: Vec<u8>,
    heartbeat_latency: Latency,
    answer_latency: Latency,
    /// How late the generator sent heartbeats.
    lateness: Latency,
    counts: FleetCounts,
}

/// Which messages of one kind have come from a device. Numbers are single bytes: up to 127 ahead is
/// a gap, otherwise the message is late.
#[derive(Clone, Copy, Default)]
struct DeviceSequence {
    /// The number after the highest one that has come.
    next: u8,
    /// Bit n: message `next - 1 - n` has come.
    seen: u32,
}

/// How a message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Came {
    /// After all earlier ones, or after some of them.
    Ahead,
    /// After a later one.
    Late,
    /// Again. A message that is later than what is remembered counts as this: as a first one it
    /// could stand for a lost one.
    Again,
}

impl DeviceSequence {
    fn take(&mut self, number: u8) -> Came {
        let ahead = number.wrapping_sub(self.next);
        if ahead < 128 {
            self.seen = self.seen.checked_shl(u32::from(ahead) + 1).unwrap_or(0) | 1;
            self.next = number.wrapping_add(1);
            return Came::Ahead;
        }
        let bit = 1u32.checked_shl(u32::from(u8::MAX - ahead)).unwrap_or(0);
        if bit == 0 || self.seen & bit != 0 {
            return Came::Again;
        }
        self.seen |= bit;
        Came::Late
    }
}

#[derive(Clone, Copy, Default)]
struct FleetCounts {
    heartbeats_sent: u64,
    heartbeats: u64,
    statuses_sent: u64,
    statuses: u64,
    answers: u64,
    acks: u64,
    strange: u64,
    absent: u64,
    reordered: u64,
    duplicated: u64,
}

impl Talk for Fleet {
    fn messages(&self) -> Option<(u64, u64)> {
        let FleetCounts { heartbeats_sent, heartbeats, statuses_sent, statuses, answers, .. } =
            self.counts;
        // Each status that a backend receives is answered with a message.
        Some((heartbeats_sent + statuses_sent + statuses, heartbeats + statuses + answers))
    }

    fn filter(&self, client: u32) -> Option<(String, u8)> {
        let filter = match client.checked_sub(self.devices) {
            Some(backend) => format!("{}/f/{backend}/+/+", self.salt),
            None => format!("{}/a/{client}", self.salt),
        };
        Some((filter, 1))
    }

    fn packet(
        &mut self,
        stage: &mut Stage<'_>,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<(), Malformed> {
        if packet.first == first::PUBACK {
            self.counts.acks += 1;
            return Ok(());
        }
        let publish = mqtt::publish_of(self.version, packet)?;
        if publish.qos == 1 {
            mqtt::put_ack(stage.net.out(client), first::PUBACK, publish.id);
        }
        let Some((device, number, stamp)) = self.head(publish.payload) else {
            self.counts.strange += 1;
            return Ok(());
        };
        let nanos = now.saturating_sub(stamp);
        if client == device {
            self.counts.answers += 1;
            self.answer_latency.record(nanos);
        } else if client != self.devices + device % BACKENDS {
            self.counts.strange += 1;
        } else if !self.is_first(device, publish.qos, number) {
            self.counts.duplicated += 1;
        } else if publish.payload.len() == HEARTBEAT {
            self.counts.heartbeats += 1;
            self.heartbeat_latency.record(nanos);
            stage.monitor.latency.record(nanos);
        } else {
            self.counts.statuses += 1;
            self.topic.clear();
            let _ = write!(self.topic, "{}/a/{device}", self.salt);
            let id = self.following(client);
            let answer = &publish.payload[..HEARTBEAT];
            mqtt::put_publish(stage.net.out(client), self.version, 1, &self.topic, id, answer);
        }
        Ok(())
    }

    fn speak(&mut self, stage: &mut Stage<'_>, now: u64) -> u64 {
        let tick = now / TICK * TICK;
        let mut next = u64::MAX;
        if let Some(mut sweep) = self.heartbeats.take() {
            while let Some((device, due)) = sweep.next(tick) {
                let due = due.next_multiple_of(TICK);
                let before_sending = clock::now();
                self.lateness.record(before_sending.saturating_sub(due));
                stage.monitor.late(before_sending.saturating_sub(due));
                self.publish(stage, device, due, HEARTBEAT);
            }
            next = next.min(sweep.due());
            self.heartbeats = Some(sweep);
        }
        if let Some(mut sweep) = self.statuses.take() {
            while let Some((device, due)) = sweep.next(tick) {
                self.publish(stage, device, due.next_multiple_of(TICK), STATUS);
            }
            next = next.min(sweep.due());
            self.statuses = Some(sweep);
        }
        if next == u64::MAX { next } else { next.next_multiple_of(TICK) }
    }
}

impl Fleet {
    fn publish(&mut self, stage: &mut Stage<'_>, device: u32, due: u64, size: usize) {
        if !stage.join.is_ready(device) {
            self.counts.absent += 1;
            return;
        }
        let (qos, kind, count) = if size == STATUS {
            (1, 's', &mut self.counts.statuses_sent)
        } else {
            (0, 'h', &mut self.counts.heartbeats_sent)
        };
        *count += 1;
        self.payload[..4].copy_from_slice(&self.nonce.to_le_bytes());
        self.payload[4..8].copy_from_slice(&device.to_le_bytes());
        let number = &mut self.said[device as usize][usize::from(qos)];
        self.payload[8..12].copy_from_slice(&u32::from(*number).to_le_bytes());
        *number = number.wrapping_add(1);
        self.payload[12..20].copy_from_slice(&due.to_le_bytes());
        let id = if qos == 1 { self.following(device) } else { 0 };
        self.topic.clear();
        let _ = write!(self.topic, "{}/f/{}/{device}/{kind}", self.salt, device % BACKENDS);
        let out = stage.net.out(device);
        mqtt::put_publish(out, self.version, qos, &self.topic, id, &self.payload[..size]);
    }

    fn following(&mut self, client: u32) -> u16 {
        let id = &mut self.ids[client as usize];
        *id = id.wrapping_add(1).max(1);
        *id
    }

    /// Counts a message that was overtaken by another one; returns false when the message has come
    /// before.
    fn is_first(&mut self, device: u32, qos: u8, number: u8) -> bool {
        let came = self.heard[device as usize][usize::from(qos & 1)].take(number);
        self.counts.reordered += u64::from(came == Came::Late);
        came != Came::Again
    }

    /// Device, number and due time of a payload of this run; `None` for another payload.
    fn head(&self, payload: &[u8]) -> Option<(u32, u8, u64)> {
        let head = payload.first_chunk::<HEARTBEAT>()?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let device = word(4);
        (word(0) == self.nonce && device < self.devices)
            .then(|| (device, head[8], u64::from(word(12)) | u64::from(word(16)) << 32))
    }

    fn delivered(&self) -> u64 {
        self.counts.heartbeats + self.counts.statuses + self.counts.answers
    }
}

impl Fleet {
    /// A fleet before the first device connects.
    fn new(devices: u32, settings: &RunSettings) -> Self {
        Fleet {
            salt: settings.salt.clone(),
            version: settings.version,
            devices,
            nonce: std::process::id(),
            heartbeats: None,
            statuses: None,
            ids: vec![0; (devices + BACKENDS) as usize],
            said: vec![[0; 2]; devices as usize],
            heard: vec![[DeviceSequence::default(); 2]; devices as usize],
            topic: Vec::new(),
            payload: vec![b'.'; STATUS],
            heartbeat_latency: Latency::new(),
            answer_latency: Latency::new(),
            lateness: Latency::new(),
            counts: FleetCounts::default(),
        }
    }
}

/// Connects `devices` devices and the backends, and runs them for `settings.hold` seconds.
pub fn run(devices: u32, settings: &RunSettings) -> Result<Value, String> {
    let fleet = Fleet::new(devices, settings);
    let (mut crowd, mut net) =
        Crowd::new(devices + BACKENDS, settings.ping.unwrap_or(PING_EVERY), true, fleet, settings)?;
    crowd.join.at_rate(settings.rate.unwrap_or(0));
    let empty = crowd.monitor.memory();
    crowd.phase("joining");
    let begin = Snapshot::take(crowd.monitor.tree(), 0, 0);
    crowd.come_in(&mut net)?;
    let joined = u64::from(crowd.join.ready);
    let joined = begin.until(&Snapshot::take(crowd.monitor.tree(), joined, joined));
    if !crowd.join.complete() {
        return Err(format!("only {} clients came in before we had to stop", crowd.join.ready));
    }
    let now = clock::now();
    let faster = |interval: u64| (interval as f64 / settings.speed) as u64;
    crowd.talk.heartbeats = Some(Sweep::new(devices, faster(HEARTBEAT_EVERY), now));
    crowd.talk.statuses = Some(Sweep::new(devices, faster(STATUS_EVERY), now));
    crowd.phase("warm-up");
    crowd.stay(&mut net, clock::nanos(settings.warmup))?;
    crowd.talk.heartbeat_latency.clear();
    crowd.talk.answer_latency.clear();
    crowd.talk.lateness.clear();
    crowd.phase("fleet");
    let snapshot = |crowd: &Crowd<Fleet>| {
        let counts = crowd.talk.counts;
        let sent = counts.heartbeats_sent + counts.statuses_sent + counts.statuses;
        Snapshot::take(crowd.monitor.tree(), crowd.talk.delivered(), sent)
    };
    let from = snapshot(&crowd);
    crowd.stay(&mut net, clock::nanos(settings.hold))?;
    let to = snapshot(&crowd);
    let (full, host) = (crowd.monitor.memory(), crowd.monitor.host());
    (crowd.talk.heartbeats, crowd.talk.statuses) = (None, None);
    crowd.stay(&mut net, SECOND)?;

    let mut report = from.until(&to);
    crowd.report(&mut report);
    let counts = crowd.talk.counts;
    report["clients"] = devices.into();
    report["connects_per_s"] = joined["delivered_per_s"].clone();
    report["connack_ms"] = crowd.join.connack.report();
    report["latency_ms"] = crowd.talk.heartbeat_latency.report();
    report["answer_ms"] = crowd.talk.answer_latency.report();
    report["own_lateness_ms"] = crowd.talk.lateness.report();
    report["heartbeats_lost"] = counts.heartbeats_sent.saturating_sub(counts.heartbeats).into();
    report["statuses_lost"] = counts.statuses_sent.saturating_sub(counts.statuses).into();
    report["answers_lost"] = counts.statuses.saturating_sub(counts.answers).into();
    let lost = ["heartbeats_lost", "statuses_lost", "answers_lost"];
    report["lost"] = lost.iter().filter_map(|key| report[*key].as_u64()).sum::<u64>().into();
    report["reordered"] = counts.reordered.into();
    report["duplicated"] = counts.duplicated.into();
    report["unacknowledged"] =
        (counts.statuses_sent + counts.statuses).saturating_sub(counts.acks).into();
    report["strange"] = counts.strange.into();
    report["absent"] = counts.absent.into();
    report["memory"] = json!({
        "empty_rss": empty.rss, "rss": full.rss, "pss": full.pss,
        "peak_rss": crowd.monitor.peak(),
    });
    report["host"] = host;
    report["series"] = crowd.monitor.report();
    Ok(report)
}

/// The result for a person.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| Figure::of(report, path);
    let mib = |path: &str| figure(path).mebi();
    let each = figure("memory.rss").less(figure("memory.empty_rss")).over(figure("clients"));
    let mut text = format!(
        "fleet: {} devices and {BACKENDS} backends, {:.0} s\n\
         \x20 traffic        {:.0} messages/s delivered; broker {:.1} % of a core, {:.2} µs each; \
         generator {:.1} %\n\
         \x20 heartbeat      p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2} ms, from when it was \
         due\n\
         \x20 of this we were late: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2} ms\n\
         \x20 status answer  p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2} ms there and back\n\
         \x20 faults         lost {} heartbeats, {} statuses, {} answers; {} reordered, {} twice; \
         {} disconnects,\n\x20                {} strange, {} of {} pings unanswered\n\
         \x20 broker memory  {:.1} MiB ({each:.0} B per client), peak {:.1}\n",
        report["clients"],
        figure("seconds"),
        figure("delivered_per_s"),
        figure("cpu_percent"),
        figure("cpu_us"),
        figure("generator_percent"),
        figure("latency_ms.p50"),
        figure("latency_ms.p99"),
        figure("latency_ms.p99.9"),
        figure("latency_ms.max"),
        figure("own_lateness_ms.p50"),
        figure("own_lateness_ms.p99"),
        figure("own_lateness_ms.p99.9"),
        figure("own_lateness_ms.max"),
        figure("answer_ms.p50"),
        figure("answer_ms.p99"),
        figure("answer_ms.p99.9"),
        figure("answer_ms.max"),
        report["heartbeats_lost"],
        report["statuses_lost"],
        report["answers_lost"],
        report["reordered"],
        report["duplicated"],
        report["disconnects"],
        report["strange"],
        report["pings_unanswered"],
        report["pings"],
        mib("memory.rss"),
        mib("memory.peak_rss"),
    );
    if let Some(why) = report["stopped_early"].as_str() {
        text.push_str(&format!("  stopped early: {why}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_comes_again_is_known_however_many_came_between() {
        use Came::{Again, Ahead, Late};
        let came = |numbers: &[u8]| {
            let mut heard = DeviceSequence::default();
            numbers.iter().map(|&number| heard.take(number)).collect::<Vec<_>>()
        };
        assert_eq!(came(&[0, 1, 1, 2, 0, 2]), [Ahead, Ahead, Again, Ahead, Again, Again]);
        assert_eq!(came(&[0, 3, 1, 1, 2, 3]), [Ahead, Ahead, Late, Again, Late, Again]);
        // A gap that is longer than what is remembered, and what is too late.
        assert_eq!(came(&[0, 100, 99, 99, 0, 50]), [Ahead, Ahead, Late, Again, Again, Again]);
        // Numbers go round.
        let mut heard = DeviceSequence::default();
        for number in 0..600u32 {
            assert_eq!(heard.take(number as u8), Ahead);
        }
        assert_eq!(heard.take(600u32.wrapping_sub(20) as u8), Again);
    }
}
