//! Many retained messages, and subscribers with one wildcard filter to which all of them are sent.
//!
//! All subscribers subscribe at the same moment, and every latency counts from that moment: the
//! wait behind other deliveries is part of it (no coordinated omission).

use super::crowd::{Crowd, Stage, Talk};
use super::publish::Filling;
use super::{RunSettings, Snapshot};
use crate::clock::{self, SECOND};
use crate::mqtt::{self, Malformed, Packet, Version, first};
use crate::report::Figure;
use crate::stats::Latency;
use serde_json::{Value, json};

/// Clients that publish; their numbers follow those of the subscribers.
const PUBLISHERS: u32 = 4;
/// The number of retained messages.
const MESSAGES: u32 = 100_000;
/// Topic names with a common parent level.
const SIBLINGS: u64 = 100;
const SETTLE: u64 = SECOND;
/// Bytes of a message's number, with which a payload begins.
const HEADER: usize = 8;

/// The messages that one subscriber has received, as bits by number, and their count.
struct ReceivedMessages {
    seen: Vec<u64>,
    count: u64,
}

struct Retained {
    salt: String,
    version: Version,
    subscribers: u32,
    messages: u64,
    payload: usize,
    filling: Filling,
    /// Whether the messages are being deleted.
    emptying: bool,
    /// When all subscribed; 0 before that.
    asked: u64,
    heard: Vec<ReceivedMessages>,
    each: Latency,
    first: Latency,
    all: Latency,
    received: u64,
    duplicated: u64,
    unflagged: u64,
    strange: u64,
}

impl Talk for Retained {
    fn filter(&self, _client: u32) -> Option<(String, u8)> {
        None
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
        if packet.first == first::SUBACK {
            let granted = mqtt::ack_of(self.version, packet)? == (1, false);
            return if granted { Ok(()) } else { Err(Malformed) };
        }
        if packet.first & 0xf0 != first::PUBLISH {
            return Err(Malformed);
        }
        let publish = mqtt::publish_of(self.version, packet)?;
        if publish.qos == 1 {
            mqtt::put_ack(stage.net.out(client), first::PUBACK, publish.id);
        }
        let number = publish.payload.first_chunk::<8>().copied().map(u64::from_le_bytes);
        let heard = self.heard.get_mut(client as usize);
        let (Some(number), Some(heard)) = (number.filter(|n| *n < self.messages), heard) else {
            // Subscribers also receive the deletions, which come without RETAIN flag and payload.
            self.strange += u64::from(!self.emptying);
            return Ok(());
        };
        self.unflagged += u64::from(packet.first & mqtt::RETAIN == 0);
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if heard.seen[word] & bit != 0 {
            self.duplicated += 1;
            return Ok(());
        }
        heard.seen[word] |= bit;
        heard.count += 1;
        self.received += 1;
        let nanos = now.saturating_sub(self.asked);
        self.each.record(nanos);
        if heard.count == 1 {
            self.first.record(nanos);
        }
        if heard.count == self.messages {
            self.all.record(nanos);
        }
        Ok(())
    }

    fn speak(&mut self, stage: &mut Stage<'_>, now: u64) -> u64 {
        let (salt, size, emptying) = (&self.salt, self.payload, self.emptying);
        self.filling.speak(stage, now, true, |number, topic, payload| {
            let (parent, child) = (number / SIBLINGS, number % SIBLINGS);
            topic.extend_from_slice(format!("{salt}/r/{parent}/{child}").as_bytes());
            if !emptying {
                payload.extend_from_slice(&number.to_le_bytes());
                payload.resize(size, b'.');
            }
        })
    }
}

impl Retained {
    /// A run before anything is published; `messages` messages are to be.
    fn new(subscribers: u32, messages: u64, settings: &RunSettings) -> Self {
        let words = messages.div_ceil(64) as usize;
        let rate = settings.rate.unwrap_or(0);
        Retained {
            salt: settings.salt.clone(),
            version: settings.version,
            subscribers,
            messages,
            payload: settings.payload.max(HEADER),
            filling: Filling::new(settings.version, subscribers, PUBLISHERS, rate),
            emptying: false,
            asked: 0,
            heard: (0..subscribers)
                .map(|_| ReceivedMessages { seen: vec![0; words], count: 0 })
                .collect(),
            each: Latency::new(),
            first: Latency::new(),
            all: Latency::new(),
            received: 0,
            duplicated: 0,
            unflagged: 0,
            strange: 0,
        }
    }
}

/// Publishes the messages, then subscribes `subscribers` clients to all of them at once.
pub fn run(subscribers: u32, settings: &RunSettings) -> Result<Value, String> {
    let messages = u64::from(settings.messages.unwrap_or(MESSAGES));
    let retained = Retained::new(subscribers, messages, settings);
    let (mut crowd, mut net) = Crowd::new(subscribers + PUBLISHERS, 0, true, retained, settings)?;
    crowd.phase("joining");
    crowd.come_in(&mut net)?;
    if !crowd.join.complete() {
        return Err(format!("only {} clients came in before we had to stop", crowd.join.ready));
    }
    let empty = crowd.monitor.memory();
    crowd.phase("publishing");
    let from = Snapshot::take(crowd.monitor.tree(), 0, 0);
    crowd.talk.filling.begin(messages, clock::now());
    crowd.until(&mut net, |talk| talk.filling.done())?;
    let acked = crowd.talk.filling.acked;
    let published = from.until(&Snapshot::take(crowd.monitor.tree(), acked, acked));
    crowd.stay(&mut net, SETTLE)?;
    let (full, host) = (crowd.monitor.memory(), crowd.monitor.host());

    crowd.phase("replay");
    let from = Snapshot::take(crowd.monitor.tree(), 0, 0);
    ask(&mut crowd, &mut net);
    let wanted = messages * u64::from(subscribers);
    crowd.until(&mut net, |talk| talk.received >= wanted)?;
    let to = Snapshot::take(crowd.monitor.tree(), crowd.talk.received, wanted);
    let peak = crowd.monitor.peak();
    crowd.stay(&mut net, SETTLE)?;

    crowd.phase("deleting");
    crowd.leave(&mut net, 0..subscribers)?;
    crowd.talk.emptying = true;
    crowd.talk.filling.begin(messages, clock::now());
    crowd.until(&mut net, |talk| talk.filling.done())?;
    crowd.stay(&mut net, SETTLE)?;
    let after = crowd.monitor.memory();

    let mut report = from.until(&to);
    crowd.report(&mut report);
    let talk = &crowd.talk;
    report["subscribers"] = talk.subscribers.into();
    report["messages"] = messages.into();
    report["publishing"] = published;
    report["refused_acks"] = talk.filling.refused.into();
    report["connack_ms"] = crowd.join.connack.report();
    report["first_message_ms"] = talk.first.report();
    report["last_message_ms"] = talk.all.report();
    report["latency_ms"] = talk.each.report();
    report["lost"] = wanted.saturating_sub(talk.received).into();
    report["duplicated"] = talk.duplicated.into();
    report["without_retain_flag"] = talk.unflagged.into();
    report["strange"] = talk.strange.into();
    report["memory"] = json!({
        "empty_rss": empty.rss, "rss": full.rss, "pss": full.pss, "after_rss": after.rss,
        "peak_rss": peak,
        "per_message": (full.rss as f64 - empty.rss as f64) / messages as f64,
    });
    report["host"] = host;
    report["series"] = crowd.monitor.report();
    Ok(report)
}

/// Subscribes all subscribers at the same moment.
fn ask(crowd: &mut Crowd<Retained>, net: &mut crate::clients::Net) {
    let filters = [(format!("{}/r/#", crowd.talk.salt), 1)];
    crowd.talk.asked = clock::now();
    for client in 0..crowd.talk.subscribers {
        mqtt::put_subscribe(net.out(client), crowd.talk.version, 1, &filters);
    }
}

/// The result for a person.
pub fn table(report: &Value) -> String {
    let figure = |path: &str| Figure::of(report, path);
    let mib = |path: &str| figure(path).mebi();
    format!(
        "retained: {} messages, {} subscribers that are told all of them\n\
         \x20 publishing     {:.0} messages/s, broker {:.2} µs each\n\
         \x20 replay         {:.0} messages/s, {:.2} s; broker {:.2} µs each, generator {:.0} %\n\
         \x20                from SUBSCRIBE: first message p50 {:.1}, p99 {:.1}, max {:.1} ms; \
         last p50 {:.0}, max {:.0} ms\n\
         \x20 faults         {} lost, {} twice, {} without the retain flag, {} strange, {} \
         refused, {} disconnects\n\
         \x20 broker memory  {:.1} MiB empty, {:.1} with messages ({:.0} B each), {:.1} at most, \
         {:.1} when deleted\n",
        report["messages"],
        report["subscribers"],
        figure("publishing.delivered_per_s"),
        figure("publishing.cpu_us"),
        figure("delivered_per_s"),
        figure("seconds"),
        figure("cpu_us"),
        figure("generator_percent"),
        figure("first_message_ms.p50"),
        figure("first_message_ms.p99"),
        figure("first_message_ms.max"),
        figure("last_message_ms.p50"),
        figure("last_message_ms.max"),
        report["lost"],
        report["duplicated"],
        report["without_retain_flag"],
        report["strange"],
        report["refused_acks"],
        report["disconnects"],
        mib("memory.empty_rss"),
        mib("memory.rss"),
        figure("memory.per_message"),
        mib("memory.peak_rss"),
        mib("memory.after_rss"),
    )
}
