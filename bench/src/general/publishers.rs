//! Clients that publish: what each client sends at which time, which messages wait for
//! acknowledgements, and the counts.
//!
//! Paced messages are open loop: the latency of a message counts from when it was due, even if its
//! client had to wait for acknowledgements or for the kernel (no coordinated omission).

use super::payload::{Message, Payload};
use super::plan::{Plan, Publication, Publishing};
use super::schedule::Schedule;
use crate::clients::Net;
use crate::clients::join::Join;
use crate::mqtt::{self, Malformed, Packet, Version, first};
use crate::pattern::{Pattern, Random, Scope};
use crate::stats::Latency;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Bytes that a client at full speed with QoS 0 has unsent at most.
const BURST: usize = 2048;
/// Bytes that any other client has unsent at most: with acknowledgements or at a pace.
const UNSENT: usize = 256 * 1024;
/// The most packet identifiers in use at once, of 65,535.
const IDENTIFIERS: u16 = 60_000;
/// Reason code No matching subscribers of PUBACK and PUBREC (MQTT 5, 3.4.2.1).
const NO_SUBSCRIBERS: u8 = 0x10;

/// The topic name of a stream.
#[derive(Clone, Debug)]
enum Topic {
    /// Not known yet: the client has not connected.
    Unknown,
    /// The same for every message.
    Fixed(Box<[u8]>),
    /// A new one for each message.
    Varying(Box<Pattern>),
}

/// One publication of one client.
#[derive(Clone, Debug)]
struct TimedPublication {
    /// When its next message is due; `u64::MAX` stands for the stream's next turn.
    due: u64,
    sent: u64,
    /// Whether the schedule has a turn for it.
    scheduled: bool,
    topic: Topic,
}

const _: () = assert!(size_of::<TimedPublication>() <= 48);

#[derive(Clone, Debug, Default)]
struct PublishingClient {
    /// Packet identifiers of unacknowledged messages, and when each message was due.
    waiting: VecDeque<(u16, u64)>,
    last_id: u16,
    /// The most unacknowledged messages.
    window: u16,
    /// Index in `Publishers::fast` of the publication that is next at full speed.
    turn: u32,
}

/// Counts of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct PublishCounts {
    /// Messages queued for the kernel, whether or not it has taken them.
    pub published: u64,
    bytes: u64,
    acknowledged: u64,
    refused: u64,
    without_subscribers: u64,
    overrun: u64,
    /// Messages whose connection was lost before their acknowledgement.
    unacknowledged: u64,
    out_of_order: u64,
    strange: u64,
}

/// All clients that publish, and their streams.
pub struct Publishers {
    plan: Publishing,
    version: Version,
    clients: Vec<PublishingClient>,
    /// The streams of all clients, sorted by client, then by publication.
    streams: Vec<TimedPublication>,
    payloads: Vec<Payload>,
    schedules: Vec<Schedule>,
    /// Indexes of publications without an interval.
    fast: Vec<usize>,
    random: Random,
    /// Messages that may still be published.
    left: u64,
    /// Scratch memory for topic names that vary.
    topic: String,
    /// Counts so far.
    pub counts: PublishCounts,
    /// Nanoseconds from when a message was due to its acknowledgement.
    pub latency: Latency,
    /// Unacknowledged messages of all clients.
    waiting: u64,
    running: bool,
    /// When the first message was published.
    pub began: u64,
    /// Nanoseconds to add to [`crate::clock::now`] for the time since 1970.
    pub wall: u64,
}

impl Publishers {
    /// Publishers none of which is connected yet.
    pub fn new(plan: &Plan, publishing: &Publishing) -> Publishers {
        let kinds = &publishing.publications;
        let stream =
            TimedPublication { due: u64::MAX, sent: 0, scheduled: false, topic: Topic::Unknown };
        let payload = |kind: &Publication| {
            Payload::new(
                kind.body.clone(),
                publishing.headers.clone(),
                plan.run,
                kind.topic.varies(),
            )
        };
        Publishers {
            version: plan.version,
            clients: vec![PublishingClient::default(); plan.clients as usize],
            streams: vec![stream; plan.clients as usize * kinds.len()],
            payloads: kinds.iter().map(payload).collect(),
            schedules: kinds.iter().map(|kind| Schedule::new(kind.interval)).collect(),
            fast: (0..kinds.len()).filter(|index| kinds[*index].interval == 0).collect(),
            random: Random::new(u64::from(plan.run), u64::MAX),
            left: publishing.limit.unwrap_or(u64::MAX),
            topic: String::new(),
            counts: PublishCounts::default(),
            latency: Latency::new(),
            waiting: 0,
            running: !publishing.wait,
            began: 0,
            wall: 0,
            plan: publishing.clone(),
        }
    }

    /// `client` has connected or reconnected; `most` is the broker's receive maximum.
    pub fn arrived(&mut self, net: &mut Net, join: &Join, client: u32, most: u16, now: u64) {
        let wanted = if self.plan.inflight == 0 { u16::MAX } else { self.plan.inflight };
        self.clients[client as usize].window = wanted.min(most).min(IDENTIFIERS);
        self.name_topics(join, client);
        if self.running {
            self.begin(net, client, now);
        }
    }

    /// All clients are connected: those that waited for this begin to publish.
    pub fn all_in(&mut self, net: &mut Net, join: &Join, now: u64) {
        if !std::mem::replace(&mut self.running, true) {
            for client in 0..self.clients.len() as u32 {
                if join.is_ready(client) {
                    self.begin(net, client, now);
                }
            }
        }
    }

    fn name_topics(&mut self, join: &Join, client: u32) {
        let kinds = self.plan.publications.len();
        let streams = &mut self.streams[client as usize * kinds..][..kinds];
        if !matches!(streams[0].topic, Topic::Unknown) {
            return;
        }
        let client_id = join.names.of(client);
        let username = join.names.username(client).unwrap_or_default();
        let number = join.names.number(client);
        let scope = Scope { number, client_id: &client_id, username: &username, message: 0 };
        for (stream, kind) in streams.iter_mut().zip(&self.plan.publications) {
            let bound = kind.topic.bound(&scope);
            stream.topic = if bound.varies() {
                Topic::Varying(Box::new(bound))
            } else {
                Topic::Fixed(bound.text(&scope, &mut self.random).into_bytes().into())
            };
        }
    }

    fn begin(&mut self, net: &mut Net, client: u32, now: u64) {
        let (least, most) = self.plan.delay;
        let start = now + least + self.random.up_to(most - least);
        let kinds = self.plan.publications.len();
        for (index, kind) in self.plan.publications.iter().enumerate() {
            let stream = &mut self.streams[client as usize * kinds + index];
            if kind.interval == 0 && most == 0 {
                stream.due = now;
            } else if std::mem::replace(&mut stream.scheduled, true) {
                // The turn from before the reconnection is still in the schedule and comes within
                // an interval.
                stream.due = u64::MAX;
            } else {
                stream.due = start;
                self.schedules[index].begin(client, start);
            }
        }
        self.at_full_speed(net, client, now);
    }

    /// When the next turn is due.
    pub fn due(&self) -> u64 {
        self.schedules.iter().map(Schedule::due).min().unwrap_or(u64::MAX)
    }

    /// Publishes everything that is due by `now`.
    pub fn speak(&mut self, net: &mut Net, join: &Join, now: u64) {
        let kinds = self.plan.publications.len();
        for index in 0..kinds {
            while let Some((client, due)) = self.schedules[index].next(now) {
                let stream = &mut self.streams[client as usize * kinds + index];
                if !join.is_ready(client) || self.left == 0 {
                    stream.scheduled = false;
                    continue;
                }
                if stream.due == u64::MAX {
                    stream.due = due;
                }
                if self.plan.publications[index].interval == 0 {
                    // This turn is the start after a random delay; the stream needs no further
                    // turns.
                    stream.scheduled = false;
                    self.at_full_speed(net, client, now);
                    continue;
                }
                self.schedules[index].again(client, due);
                if !self.catch_up(net, client, index, now) {
                    self.counts.overrun += 1;
                }
            }
        }
    }

    /// Publishes the due messages of one publication; returns false if the client has to wait.
    fn catch_up(&mut self, net: &mut Net, client: u32, index: usize, now: u64) -> bool {
        let at = client as usize * self.plan.publications.len() + index;
        while self.streams[at].due <= now && self.left > 0 {
            if !self.may(net, client, index, UNSENT) {
                return false;
            }
            let due = self.streams[at].due;
            self.streams[at].due = due + self.plan.publications[index].interval;
            self.publish(net, client, index, due);
        }
        true
    }

    #[inline]
    fn may(&self, net: &Net, client: u32, index: usize, unsent: usize) -> bool {
        let state = &self.clients[client as usize];
        let free = self.plan.publications[index].qos == 0
            || state.waiting.len() < usize::from(state.window);
        free && net.unsent(client) < unsent
    }

    fn at_full_speed(&mut self, net: &mut Net, client: u32, now: u64) {
        let kinds = self.plan.publications.len();
        let mut idle = 0;
        while idle < self.fast.len() && self.left > 0 {
            let turn = self.clients[client as usize].turn as usize % self.fast.len();
            let index = self.fast[turn];
            let begun = self.streams[client as usize * kinds + index].due <= now;
            let unsent = if self.plan.publications[index].qos == 0 { BURST } else { UNSENT };
            if begun && self.may(net, client, index, unsent) {
                self.publish(net, client, index, now);
                idle = 0;
            } else {
                idle += 1;
            }
            self.clients[client as usize].turn = (turn + 1) as u32;
        }
    }

    /// `client` may have room again, after an acknowledgement or a drained buffer: publishes what
    /// is due.
    pub fn may_again(&mut self, net: &mut Net, client: u32, now: u64) {
        if !self.running || self.left == 0 {
            return;
        }
        if self.fast.len() < self.plan.publications.len() {
            for index in 0..self.plan.publications.len() {
                if self.plan.publications[index].interval > 0 {
                    self.catch_up(net, client, index, now);
                }
            }
        }
        if !self.fast.is_empty() {
            self.at_full_speed(net, client, now);
        }
    }

    #[inline]
    fn publish(&mut self, net: &mut Net, client: u32, index: usize, due: u64) {
        let at = client as usize * self.plan.publications.len() + index;
        let (kind, stream) = (&self.plan.publications[index], &mut self.streams[at]);
        let state = &mut self.clients[client as usize];
        if kind.qos > 0 {
            state.last_id = state.last_id.wrapping_add(1).max(1);
            state.waiting.push_back((state.last_id, due));
            self.waiting += 1;
        }
        let message = Message { stamp: due + self.wall, sequence: stream.sent, stream: at as u32 };
        stream.sent += 1;
        let topic = match &stream.topic {
            Topic::Fixed(topic) => topic,
            Topic::Unknown => &[][..],
            Topic::Varying(pattern) => {
                self.topic.clear();
                let scope = Scope { message: stream.sent, ..Scope::default() };
                pattern.write(&mut self.topic, &scope, &mut self.random);
                self.topic.as_bytes()
            }
        };
        let payload = self.payloads[index].of(&message, &mut self.random);
        let flags = (kind.qos << 1) | (u8::from(kind.retain) * mqtt::RETAIN);
        mqtt::put_flagged(net.out(client), self.version, flags, topic, state.last_id, payload);
        if self.began == 0 {
            self.began = due;
        }
        self.left -= 1;
        self.counts.published += 1;
        self.counts.bytes += payload.len() as u64;
    }

    /// Handles a packet for a publisher. Returns the nanoseconds from the message's due time to its
    /// final acknowledgement, if the packet is one.
    #[inline]
    pub fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<Option<u64>, Malformed> {
        if !matches!(packet.first, first::PUBACK | first::PUBREC | first::PUBCOMP) {
            self.counts.strange += 1;
            return Ok(None);
        }
        let (id, refused) = mqtt::ack_of(self.version, packet)?;
        if self.version == Version::V5 && packet.first != first::PUBCOMP {
            let none = packet.body.get(2) == Some(&NO_SUBSCRIBERS);
            self.counts.without_subscribers += u64::from(none);
        }
        if packet.first == first::PUBREC && !refused {
            mqtt::put_ack(net.out(client), first::PUBREL, id);
            return Ok(None);
        }
        let waiting = &mut self.clients[client as usize].waiting;
        let place = waiting.iter().position(|message| message.0 == id);
        let Some((_, due)) = place.and_then(|place| waiting.remove(place)) else {
            self.counts.strange += 1;
            return Ok(None);
        };
        self.waiting -= 1;
        self.counts.out_of_order += u64::from(place != Some(0));
        if refused {
            self.counts.refused += 1;
        } else {
            self.counts.acknowledged += 1;
        }
        let took = now.saturating_sub(due);
        self.latency.record(took);
        self.may_again(net, client, now);
        Ok(Some(took))
    }

    /// The connection of `client` has ended.
    pub fn left(&mut self, client: u32) {
        let waiting = std::mem::take(&mut self.clients[client as usize].waiting);
        self.waiting -= waiting.len() as u64;
        self.counts.unacknowledged += waiting.len() as u64;
    }

    /// Whether a publication is sent as fast as possible and messages are left.
    pub fn at_any_speed(&self) -> bool {
        !self.fast.is_empty() && self.left > 0
    }

    /// Whether all messages that may be published have been.
    pub fn done(&self) -> bool {
        self.left == 0
    }

    /// Publishes no further messages.
    pub fn stop(&mut self) {
        self.left = 0;
    }

    /// Whether no message waits for an acknowledgement.
    pub fn all_acknowledged(&self) -> bool {
        self.waiting == 0
    }

    /// Adds the counts to `report`.
    pub fn report(&self, report: &mut Value, seconds: f64) {
        let PublishCounts { published, bytes, .. } = self.counts;
        report["published"] = published.into();
        report["published_per_s"] = super::rate(published, seconds);
        report["published_bytes"] = bytes.into();
        report["acknowledged"] = self.counts.acknowledged.into();
        report["unacknowledged"] = (self.counts.unacknowledged + self.waiting).into();
        report["refused_acks"] = self.counts.refused.into();
        report["without_subscribers"] = self.counts.without_subscribers.into();
        report["overrun"] = self.counts.overrun.into();
        report["acks_out_of_order"] = self.counts.out_of_order.into();
        report["strange"] = self.counts.strange.into();
        report["ack_ms"] = self.latency.report();
        let kinds: Vec<Value> = self.plan.publications.iter().map(described).collect();
        report["plan"]["publications"] = kinds.into();
        report["plan"]["inflight"] = self.plan.inflight.into();
        report["plan"]["limit"] = self.plan.limit.into();
    }
}

fn described(kind: &Publication) -> Value {
    json!({"qos": kind.qos, "retain": kind.retain, "interval_ms": kind.interval as f64 / 1e6})
}
