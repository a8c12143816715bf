//! Whether a message that comes may come, and in this form.

use super::{Asked, Client, Message, Run, Sub, named};
use crate::model::{matches, plain};
use crate::net::ConnId;
use crate::world::World;
use ringmq::packet::{AckKind, Publish, RetainHandling};
use std::collections::BTreeSet;

/// Topics of peers that keep to nothing.
pub const HOSTILE: &str = "hostile";

impl Client {
    pub(super) fn arrived(&mut self, world: &World, run: &mut Run, publish: &Publish<'_>) {
        let name = self.resolve(publish);
        if !self.handshake(run, publish) {
            return;
        }
        if name.starts_with("$SYS/") {
            let value = std::str::from_utf8(publish.payload).unwrap();
            assert!(self.subs_for(&name).next().is_some(), "{}: {name}", self.name);
            self.sys.insert(name, value.to_owned());
            return;
        }
        if publish.payload.is_empty() || name.starts_with(HOSTILE) {
            return; // clears a retained message; or is nobody's that we know
        }
        let message = named(publish.payload);
        let what = run.messages[message].clone();
        let qos = publish.qos as u8;
        self.tell(run, &format!("got {message} {name} qos{qos} dup={}", publish.dup));
        assert_eq!(what.topic, name, "{}: message {message}", self.name);
        self.check_expiry(world, &what, publish);
        self.check_matches(&what, publish, &name);
        if name.starts_with("s/") {
            self.count_shared(world, run, message, publish, &name);
        } else if name.starts_with("w/") && self.at == 0 {
            run.wills.push(message);
        }
        let count = self.got.entry(message).or_default();
        let first = count.app == 0;
        count.app += 1;
        count.fresh += u32::from(!publish.dup);
        if name.starts_with("r/") || name.starts_with("s/") {
            return;
        }
        // QoS 2 towards the broker is routed once, however often it was written.
        let sends = if what.qos == 2 { 1 } else { what.sends };
        assert!(count.fresh <= sends, "{}: {message} came twice", self.name);
        if qos == 2 {
            assert_eq!(count.app, 1, "{}: {message} not exactly once", self.name);
        }
        // What its publisher sent again may come late for a subscriber that missed the first time.
        // The first copy of it may have been shed, where it goes out with QoS 0.
        let all_along = run.lossless && qos > 0 && self.covered_since(&name, true) < what.sent_at;
        if first && (what.sends == 1 || all_along) && !name.starts_with("w/") {
            // [MQTT-4.6.0-5, 4.6.0-6]
            let last = self.last.entry((what.publisher, what.line, name, qos)).or_insert(message);
            assert!(*last <= message, "{}: {message} after {last}", self.name);
            *last = message;
        }
    }

    fn resolve(&mut self, publish: &Publish<'_>) -> String {
        let Some(alias) = publish.properties.topic_alias else { return publish.topic.to_owned() };
        assert!(alias <= self.alias_maximum, "{}: alias {alias}", self.name);
        if publish.topic.is_empty() {
            return self.aliases[&alias].clone();
        }
        self.aliases.insert(alias, publish.topic.to_owned());
        publish.topic.to_owned()
    }

    /// The acknowledgement's first half; false for a copy of what is held already.
    fn handshake(&mut self, run: &mut Run, publish: &Publish<'_>) -> bool {
        let Some(id) = publish.id else {
            assert!(!publish.dup);
            return true;
        };
        let number = id.get();
        if !self.unacked.insert(number) {
            assert!(publish.dup, "{}: identifier {number} in use", self.name);
        }
        // [MQTT-3.3.4-9]
        let most = usize::from(self.receive_maximum.min(run.max_inflight));
        // A repetition that crosses its acknowledgement is answered again.
        let fine = self.unacked.len() <= most || run.repeating && !self.is_v5();
        assert!(fine, "{}: more than the Receive Maximum", self.name);
        if publish.qos as u8 == 1 {
            self.answer(run, AckKind::PubAck, id, Some(number));
            return true;
        }
        let again = !self.held.insert(number);
        self.answer(run, AckKind::PubRec, id, None);
        assert!(!again || publish.dup, "{}: identifier {number} not released", self.name);
        !again
    }

    /// The remaining lifetime is plausible, and the message is not one that was over before this
    /// connection began [MQTT-3.3.2-5, 3.3.2-6].
    fn check_expiry(&self, world: &World, what: &Message, publish: &Publish<'_>) {
        let left = publish.properties.message_expiry;
        let Some(expiry) = what.expiry else {
            assert_eq!(left, None, "{}: expiry of {what:?}", self.name);
            return;
        };
        assert!(left.is_none_or(|left| left <= expiry), "{}: {left:?} of {expiry}", self.name);
        assert_eq!(left.is_some(), self.is_v5(), "{}: expiry of {what:?}", self.name);
        let over = what.accepted.is_some_and(|at| at + u64::from(expiry) * 1000 < self.began_at);
        // What was sent before is repeated, expired or not, with QoS 2.
        assert!(!over || publish.dup, "{}: expired before {}: {what:?}", self.name, world.now);
    }

    /// Subscriptions that may have led to a message, with their filters.
    fn subs_for<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a String, &'a Sub)> {
        let asked = self.asked.values().filter_map(|asked| match asked {
            Asked::Sub(filter, sub) => Some((filter, sub)),
            Asked::Unsub(_) => None,
        });
        let maybe = self.maybe.iter().flat_map(|(f, subs)| subs.iter().map(move |s| (f, s)));
        let all = self.subs.iter().chain(asked).chain(maybe);
        all.filter(move |(filter, _)| matches(plain(filter), name))
    }

    /// The tick since which some subscription of this client has matched the topic without a
    /// break; `acknowledged`: one above QoS 0.
    pub fn covered_since(&self, name: &str, acknowledged: bool) -> u64 {
        let subs = self.subs.iter().filter(|(filter, sub)| {
            !filter.starts_with('$') && (!acknowledged || sub.qos > 0) && matches(filter, name)
        });
        subs.map(|(_, sub)| sub.since).min().unwrap_or(u64::MAX)
    }

    /// The highest QoS granted for the topic.
    pub fn granted(&self, name: &str) -> u8 {
        let subs = self.subs.iter().filter(|(filter, _)| matches(filter, name));
        subs.map(|(_, sub)| sub.qos).max().unwrap_or(0)
    }

    /// Some subscription that it has, or may have, explains QoS, RETAIN and identifiers; where
    /// there is no doubt about the subscriptions, all of that is exactly as they say.
    fn check_matches(&self, what: &Message, publish: &Publish<'_>, name: &str) {
        let all: Vec<(&String, &Sub)> = self.subs_for(name).collect();
        assert!(!all.is_empty(), "{}: {name} without a subscription", self.name);
        let most = |subs: &[(&String, &Sub)]| subs.iter().map(|(_, sub)| sub.qos).max();
        let qos = most(&all).unwrap_or(0).min(what.qos);
        assert!(publish.qos as u8 <= qos, "{}: QoS above the granted one", self.name);
        // Retained messages of an earlier session of its own are not told apart.
        if what.publisher == self.at && name.starts_with("t/") {
            let local = all.iter().any(|(_, sub)| !sub.no_local);
            assert!(local, "{}: No Local", self.name);
        }
        let ids: BTreeSet<u32> = all.iter().map(|(_, sub)| sub.id).collect();
        for id in publish.properties.subscription_ids.iter() {
            assert!(ids.contains(&id), "{}: {what:?} for {id}, not {all:?}", self.name);
        }
        if publish.retain {
            assert!(name.starts_with("r/"), "{}: RETAIN on {name}", self.name);
            // [MQTT-3.3.1-11, 3.3.1-12]
            let wanted = |sub: &Sub| sub.as_published || sub.handling != RetainHandling::DoNotSend;
            assert!(all.iter().any(|(_, sub)| wanted(sub)), "{}: RETAIN", self.name);
        }
        let doubt =
            self.asked.values().map(Asked::filter).chain(&self.unsure).chain(self.maybe.keys());
        let doubtful = doubt.into_iter().any(|filter| matches(plain(filter), name));
        let since = all.iter().map(|(_, sub)| sub.since).max().unwrap_or(0);
        if !name.starts_with("t/")
            || doubtful
            || publish.dup
            || since >= what.sent_at
            || what.publisher == self.at
        {
            return;
        }
        // [MQTT-3.3.5-1], [MQTT-3.3.4-3]
        assert_eq!(publish.qos as u8, qos, "{}: QoS of {what:?}", self.name);
        let mut expected: Vec<u32> =
            all.iter().map(|(_, sub)| sub.id).filter(|&id| id != 0).collect();
        let mut got: Vec<u32> = publish.properties.subscription_ids.iter().collect();
        expected.sort_unstable();
        got.sort_unstable();
        assert_eq!(got, expected, "{}: Subscription Identifiers of {what:?}", self.name);
    }

    /// A message goes to one member. With QoS 1 it goes to another one when the session of the
    /// first has ended, which the second cannot tell from the end of its connection.
    fn count_shared(
        &self,
        world: &World,
        run: &mut Run,
        message: usize,
        publish: &Publish<'_>,
        name: &str,
    ) {
        // Groups have topics of their own, so the filter tells the group.
        let filters = self
            .subs
            .keys()
            .chain(self.maybe.keys())
            .chain(self.asked.values().map(Asked::filter))
            .chain(&self.unsure);
        let group = filters
            .filter(|filter| filter.starts_with("$share/"))
            .find(|filter| matches(plain(filter), name))
            .cloned();
        let Some(group) = group else { panic!("{}: {name} without a group", self.name) };
        let what = &run.messages[message];
        let most = if what.qos == 2 { 1 } else { what.sends };
        let deliveries = run.shared.entry((group, message)).or_default();
        if let Some(conn) = self.conn.filter(|_| !publish.dup) {
            deliveries.push((conn, publish.qos as u8));
        }
        let lasting = |&&(conn, qos): &&(ConnId, u8)| qos != 1 || world.is_live(conn);
        let count = deliveries.iter().filter(lasting).count();
        assert!(count <= most as usize, "{}: {message} to two members", self.name);
    }
}
