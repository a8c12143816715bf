//! Clients that subscribe: what they receive, with which latency, and which messages are missing or
//! came twice.

use super::payload;
use super::plan::{Plan, Subscribing};
use crate::clients::Net;
use crate::clients::join::Names;
use crate::mqtt::{self, Filter, Malformed, Packet, Version, first};
use crate::pattern::{Random, Scope};
use crate::stats::{Latency, Order, Stream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Streams whose order is watched; messages of further ones are only counted.
const MOST_STREAMS: usize = 1 << 20;

/// Mixes the numbers of a key. A weak hash suffices, as the keys are this program's own numbers and
/// no adversary chooses them.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// All clients that subscribe, and the streams that they receive.
pub struct Subscribers {
    plan: Subscribing,
    version: Version,
    seed: u64,
    /// Whether a subscription is shared. Other members of the share group get messages of the same
    /// stream, so gaps are not losses.
    shared: bool,
    /// The index in `streams` of each client's stream, by client and stream.
    places: HashMap<(u32, u64), u32, BuildHasherDefault<Mix>>,
    streams: Vec<Stream>,
    /// The stream that each client received last, and its index: the next message is mostly of the
    /// same stream.
    last: Vec<(u64, u32)>,
    order: Order,
    /// Nanoseconds from when a message was due to its receipt.
    pub latency: Latency,
    /// Messages received.
    pub delivered: u64,
    bytes: u64,
    without_header: u64,
    untracked: u64,
    /// Messages whose stamp is later than their receipt: the clocks of two machines differ.
    skewed: u64,
    strange: u64,
    /// When the first and the last message came.
    pub span: Option<(u64, u64)>,
    /// Nanoseconds to add to [`crate::clock::now`] for the time since 1970.
    pub wall: u64,
}

const NOBODY: (u64, u32) = (u64::MAX, 0);

impl Subscribers {
    /// Subscribers none of which is connected yet.
    pub fn new(plan: &Plan, subscribing: &Subscribing) -> Subscribers {
        let mut subscribers = Subscribers {
            plan: subscribing.clone(),
            version: plan.version,
            seed: plan.names.seed,
            shared: false,
            places: HashMap::default(),
            streams: Vec::new(),
            last: vec![NOBODY; plan.clients as usize],
            order: Order::default(),
            latency: Latency::new(),
            delivered: 0,
            bytes: 0,
            without_header: 0,
            untracked: 0,
            skewed: 0,
            strange: 0,
            span: None,
            wall: 0,
        };
        let any = Scope::default();
        let text = |filter: &crate::pattern::Pattern| filter.text(&any, &mut Random::new(0, 0));
        subscribers.shared =
            subscribing.filters.iter().any(|filter| text(filter).starts_with("$share/"));
        subscribers
    }

    /// The subscriptions of `client`.
    pub fn filters(&self, names: &Names, client: u32) -> Vec<Filter> {
        let client_id = names.of(client);
        let username = names.username(client).unwrap_or_default();
        let number = names.number(client);
        let scope = Scope { number, client_id: &client_id, username: &username, message: 0 };
        let mut random = Random::new(self.seed, number);
        let filter =
            |filter: &crate::pattern::Pattern| (filter.text(&scope, &mut random), self.plan.qos);
        self.plan.filters.iter().map(filter).collect()
    }

    /// Handles a packet for a subscriber. Returns the latency of a message in nanoseconds, if
    /// known.
    #[inline]
    pub fn packet(
        &mut self,
        net: &mut Net,
        client: u32,
        packet: &Packet<'_>,
        now: u64,
    ) -> Result<Option<u64>, Malformed> {
        if packet.first & 0xf0 == first::PUBLISH {
            let publish = mqtt::publish_of(self.version, packet)?;
            match publish.qos {
                0 => {}
                1 => mqtt::put_ack(net.out(client), first::PUBACK, publish.id),
                _ => mqtt::put_ack(net.out(client), first::PUBREC, publish.id),
            }
            return Ok(self.message(client, publish.payload, now));
        }
        if packet.first == first::PUBREL {
            let (id, _) = mqtt::ack_of(self.version, packet)?;
            mqtt::put_ack(net.out(client), first::PUBCOMP, id);
        } else {
            self.strange += 1;
        }
        Ok(None)
    }

    #[inline]
    fn message(&mut self, client: u32, payload: &[u8], now: u64) -> Option<u64> {
        self.delivered += 1;
        self.bytes += payload.len() as u64;
        self.span = Some((self.span.map_or(now, |span| span.0), now));
        let told = payload::read(payload, &self.plan.headers);
        if let Some((stream, sequence)) = told.place
            && !self.shared
        {
            self.place(client, stream, sequence);
        }
        let Some(stamp) = told.stamp else {
            self.without_header += u64::from(told.place.is_none());
            return None;
        };
        match (now + self.wall).checked_sub(stamp) {
            Some(took) => {
                self.latency.record(took);
                Some(took)
            }
            None => {
                self.skewed += 1;
                None
            }
        }
    }

    #[inline]
    fn place(&mut self, client: u32, stream: u64, sequence: u64) {
        let last = &mut self.last[client as usize];
        if last.0 != stream {
            let next = self.streams.len() as u32;
            let place = match self.places.get(&(client, stream)) {
                Some(place) => *place,
                None if self.streams.len() >= MOST_STREAMS => {
                    self.untracked += 1;
                    return;
                }
                None => {
                    self.places.insert((client, stream), next);
                    // Messages before the first one that this client received are not missing.
                    self.streams.push(Stream::from(sequence));
                    next
                }
            };
            *last = (stream, place);
        }
        self.streams[last.1 as usize].take(sequence, 0, &mut self.order);
    }

    /// Whether as many messages have come as were asked for.
    pub fn done(&self) -> bool {
        self.plan.limit.is_some_and(|limit| self.delivered >= limit)
    }

    /// Adds the counts to `report`.
    pub fn report(&self, report: &mut Value, seconds: f64) {
        report["delivered"] = self.delivered.into();
        report["delivered_per_s"] = super::rate(self.delivered, seconds);
        report["delivered_bytes"] = self.bytes.into();
        report["latency_ms"] = self.latency.report();
        if !self.shared {
            report["lost"] = self.order.lost.into();
            report["reordered"] = self.order.reordered.into();
            report["duplicated"] = self.order.duplicated.into();
        }
        report["streams"] = self.streams.len().into();
        report["without_header"] = self.without_header.into();
        report["untracked"] = self.untracked.into();
        report["clock_skewed"] = self.skewed.into();
        report["strange"] = self.strange.into();
        report["plan"]["qos"] = self.plan.qos.into();
        report["plan"]["limit"] = self.plan.limit.into();
        report["plan"]["filters"] = json!(self.plan.filters.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Job, parse_from};
    use crate::general::payload::{Body, Message, Payload};
    use crate::general::plan::Role;

    fn subscribers(words: &str) -> Subscribers {
        let words = format!("ringmq-bench sub -c 3 -h 127.0.0.1 {words}");
        let Ok(Job::General(plan)) = parse_from(words.split(' ')) else { panic!("{words}") };
        let Role::Subscribe(subscribing) = &plan.role else { panic!("subscribers") };
        Subscribers::new(&plan, subscribing)
    }

    fn hear(subscribers: &mut Subscribers, client: u32, stream: u32, sequence: u64, stamp: u64) {
        let mut payload = Payload::new(Body::Filled(64), Vec::new(), 1, false);
        let message = Message { stamp, sequence, stream };
        let bytes = payload.of(&message, &mut Random::new(1, 1)).to_vec();
        subscribers.message(client, &bytes, 1000);
    }

    #[test]
    fn losses_and_duplicates_are_found_in_each_stream_of_each_client() {
        let mut heard = subscribers("-t a");
        for client in 0..2 {
            for (stream, sequence) in [(0, 5), (1, 0), (0, 6), (1, 2), (0, 6), (1, 1), (0, 9)] {
                hear(&mut heard, client, stream, sequence, 400);
            }
        }
        let mut report = json!({});
        heard.report(&mut report, 2.0);
        assert_eq!((&report["delivered"], &report["delivered_per_s"]), (&json!(14), &json!(7.0)));
        assert_eq!((&report["lost"], &report["reordered"]), (&json!(4), &json!(2)));
        assert_eq!((&report["duplicated"], &report["streams"]), (&json!(2), &json!(4)));
        assert_eq!(report["latency_ms"]["count"], 14);
    }

    #[test]
    fn who_shares_misses_nothing() {
        let mut heard = subscribers("-t $share/g/a");
        hear(&mut heard, 0, 0, 1, 400);
        hear(&mut heard, 0, 0, 9, 400);
        let mut report = json!({});
        heard.report(&mut report, 0.0);
        assert!(report.get("lost").is_none() && report["delivered"] == 2);
        assert_eq!(report["delivered_per_s"], Value::Null);
    }

    #[test]
    fn a_clock_behind_the_publishers_is_not_a_latency() {
        let mut heard = subscribers("-t a");
        hear(&mut heard, 0, 0, 0, 1001);
        heard.message(0, b"no header", 1000);
        let mut report = json!({});
        heard.report(&mut report, 1.0);
        assert_eq!((&report["clock_skewed"], &report["without_header"]), (&json!(1), &json!(1)));
        assert_eq!(report["latency_ms"]["count"], 0);
    }
}
