//! What a client sends.

use super::{Asked, Client, Message, Out, Parting, Run, Stage, Sub, payload};
use crate::world::World;
use ringmq::packet::{
    self, Ack, AckKind, Disconnect, OutPublish, PacketId, Qos, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeFilters, SubscribeOptions, Unsubscribe, UnsubscribeFilters,
    UserProperties, Version,
};

impl Client {
    /// DISCONNECT of one of its kinds.
    pub fn disconnect(&mut self, world: &World, run: &mut Run) {
        if self.stage != Stage::Up {
            return;
        }
        let expiries = [0, 5, 60, u32::MAX];
        let v5 = self.is_v5();
        let with_will = v5 && run.rng.chance(300);
        let expiry = (v5 && self.expiry > 0 && run.rng.chance(300))
            .then(|| expiries[run.rng.below(expiries.len())]);
        let online = self.conn.is_some_and(|conn| world.is_live(conn));
        // A CONNECT that is still on its way may take over before this DISCONNECT is read.
        let alone = self.is_alone(world);
        self.parting = Parting { at: world.now, online, alone, with_will, expiry };
        self.stage = Stage::Leaving;
        let reason = if with_will { ReasonCode::DisconnectWithWill } else { ReasonCode::Success };
        self.write(|out, version| {
            let packet = Disconnect { session_expiry: expiry, ..Disconnect::new(reason) };
            packet::encode_disconnect(out, version, &packet).unwrap();
        });
        self.tell(run, &format!("disconnect will={with_will} expiry={expiry:?}"));
    }

    pub(super) fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>, Version)) {
        let mut out = Vec::new();
        encode(&mut out, self.version);
        self.output.extend(out);
    }

    fn free_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            if !self.asked.contains_key(&id) && self.out.iter().all(|out| out.id != id) {
                return id;
            }
        }
    }

    /// Publishes something new, when the broker's Receive Maximum allows.
    pub fn publish(&mut self, run: &mut Run, topic: String, qos: u8, retain: bool, length: usize) {
        let qos = qos.min(run.max_qos);
        if self.stage != Stage::Up || qos > 0 && self.out.len() >= self.quota {
            return;
        }
        let empty = retain && length == 0;
        let expires = run.expiring && self.is_v5() && !empty && run.rng.chance(300);
        let expiry = expires.then(|| [1, 2, 10, 3600][run.rng.below(4)]);
        let message = run.new_message(Message {
            publisher: self.at,
            line: if self.nameless { self.up_since } else { 0 },
            topic,
            qos,
            retain,
            empty,
            expiry,
            sends: 0,
            accepted: None,
            sent_at: run.tick,
            last_at: run.tick,
        });
        let id = if qos > 0 { self.free_id() } else { 0 };
        if qos > 0 {
            self.out.push(Out { id, message, released: false });
        } else {
            self.zeros.push(message);
        }
        self.write_publish(run, message, id, length, false);
    }

    pub(super) fn write_publish(
        &mut self,
        run: &mut Run,
        message: usize,
        id: u16,
        length: usize,
        dup: bool,
    ) {
        let what = &mut run.messages[message];
        what.sends += 1;
        what.last_at = run.tick;
        let what = run.messages[message].clone();
        self.tell(
            run,
            &format!("publish {message} {} qos{} id={id} dup={dup}", what.topic, what.qos),
        );
        let bytes = if what.empty { Vec::new() } else { payload(message, length) };
        let (topic, topic_alias) = self.alias(&what.topic);
        self.write(|out, version| {
            let publish = OutPublish {
                dup,
                qos: Qos::from_u8(what.qos).unwrap(),
                retain: what.retain,
                topic,
                id: PacketId::new(id).filter(|_| what.qos > 0),
                message_expiry: what.expiry,
                topic_alias,
                subscription_ids: &[],
                forwarded: &[],
                payload: &bytes,
            };
            packet::encode_publish(out, version, &publish).unwrap();
        });
    }

    /// The topic to write, and the alias that goes with it or stands for it.
    fn alias<'a>(&mut self, topic: &'a str) -> (&'a str, Option<u16>) {
        if !self.aliasing || self.alias_limit == 0 {
            return (topic, None);
        }
        if let Some(at) = self.aliased.iter().position(|known| known == topic) {
            return ("", Some(at as u16 + 1));
        }
        if self.aliased.len() < self.alias_limit {
            self.aliased.push(topic.into());
            return (topic, Some(self.aliased.len() as u16));
        }
        // All are taken: the first one gets another meaning.
        self.aliased[0] = topic.into();
        (topic, Some(1))
    }

    pub fn subscribe(&mut self, run: &mut Run, filter: &str, mut sub: Sub) {
        if self.stage != Stage::Up || self.asked.len() > 4 {
            return;
        }
        // One change of a filter at a time, or what is in force in between is anybody's guess.
        if self.asked.values().any(|asked| asked.filter() == filter) {
            return;
        }
        if !self.is_v5() {
            (sub.no_local, sub.as_published, sub.id) = (false, false, 0);
            sub.handling = Default::default();
        }
        sub.qos = sub.qos.min(run.max_qos);
        self.no_local |= sub.no_local;
        let id = self.free_id();
        let options = SubscribeOptions {
            qos: Qos::from_u8(sub.qos).unwrap(),
            no_local: sub.no_local,
            retain_as_published: sub.as_published,
            retain_handling: sub.handling,
        };
        let subscription_id = Some(sub.id).filter(|&id| id > 0);
        self.tell(run, &format!("subscribe {filter} qos{} id={id}", sub.qos));
        self.asked.insert(id, Asked::Sub(filter.into(), sub));
        self.write(|out, version| {
            let mut raw = Vec::new();
            SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
            let filters = SubscribeFilters::parse(version, &raw).unwrap();
            let (id, user) = (PacketId::new(id).unwrap(), UserProperties::default());
            let subscribe = Subscribe { id, subscription_id, user, filters };
            packet::encode_subscribe(out, version, &subscribe).unwrap();
        });
    }

    pub fn unsubscribe(&mut self, run: &mut Run) {
        if self.stage != Stage::Up || self.subs.is_empty() || !self.asked.is_empty() {
            return;
        }
        let at = run.rng.below(self.subs.len());
        let filter = self.subs.keys().nth(at).unwrap().clone();
        let id = self.free_id();
        self.tell(run, &format!("unsubscribe {filter} id={id}"));
        self.write(|out, version| {
            let mut raw = Vec::new();
            UnsubscribeFilters::write(&filter, &mut raw).unwrap();
            let filters = UnsubscribeFilters::parse(&raw).unwrap();
            let (id, user) = (PacketId::new(id).unwrap(), UserProperties::default());
            packet::encode_unsubscribe(out, version, &Unsubscribe { id, user, filters }).unwrap();
        });
        self.asked.insert(id, Asked::Unsub(filter));
    }

    /// PINGREQ when the keep-alive wants one, or to learn that the broker has read so far.
    pub(super) fn ping(&mut self, world: &World, run: &Run) {
        if self.stage != Stage::Up || self.pings.len() > 2 {
            return;
        }
        let idle = world.now - self.wrote_at;
        let due = self.keep_alive > 0 && idle >= u64::from(self.keep_alive) * 500;
        if due || run.calm && self.pings.is_empty() && !self.zeros.is_empty() {
            self.wrote_at = world.now;
            self.pings.push_back(run.messages.len());
            self.write(|out, _| packet::encode_pingreq(out));
        }
    }

    pub(super) fn write_ack(&mut self, kind: AckKind, id: PacketId) {
        self.write(|out, version| {
            packet::encode_ack(out, version, kind, &Ack::new(id, ReasonCode::Success)).unwrap();
        });
    }

    pub(super) fn answer(&mut self, run: &mut Run, kind: AckKind, id: PacketId, done: Option<u16>) {
        let mut bytes = Vec::new();
        let ack = Ack::new(id, ReasonCode::Success);
        packet::encode_ack(&mut bytes, self.version, kind, &ack).unwrap();
        let delay = if self.slow { run.rng.below(2000) } else { run.rng.below(20) };
        let after = self.answers.back().map_or(0, |answer| answer.0);
        self.answers.push_back((after.max(run.tick + delay as u64), bytes, done));
    }
}
