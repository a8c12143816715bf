//! What a client is told, and what it concludes about its session.

use super::{Asked, Client, Fate, Known, Run, Stage};
use crate::net::End;
use crate::world::World;
use ringmq::packet::{self, AckKind, ConnAck, Framing, Packet, PacketId, ReasonCode, Version};

impl Client {
    pub(super) fn read(&mut self, world: &mut World, run: &mut Run) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Ok(Framing::Complete { total, .. }) = packet::frame(rest, u32::MAX) {
            let (bytes, tail) = rest.split_at(total);
            let packet = packet::decode(self.version, bytes)
                .unwrap_or_else(|violation| panic!("{}: {violation:?}: {bytes:?}", self.name));
            // [MQTT-3.1.2-24]
            let fits = bytes.len() <= self.packet_maximum as usize;
            assert!(fits, "{}: {} bytes: {packet:?}", self.name, bytes.len());
            self.take(world, run, packet);
            if self.conn.is_none() {
                return;
            }
            rest = tail;
        }
        self.input = rest.to_vec();
    }

    fn take(&mut self, world: &mut World, run: &mut Run, packet: Packet<'_>) {
        if let Packet::ConnAck(ack) = packet {
            self.connack(world, run, &ack);
            return;
        }
        assert_ne!(self.stage, Stage::Connecting, "{}: {packet:?} before CONNACK", self.name);
        match packet {
            Packet::Publish(publish) => self.arrived(world, run, &publish),
            Packet::PubAck(ack) => {
                let at = self.find_out(run, ack.id, 1, false);
                if self.was_too_much(run, ack.reason) {
                    self.out.remove(at);
                    return;
                }
                assert!((ack.reason as u8) < 0x80, "{}: {ack:?}", self.name);
                self.accepted(world, run, self.out[at].message);
                self.out.remove(at);
            }
            Packet::PubRec(ack) => {
                let at = self.find_out(run, ack.id, 2, true);
                if self.was_too_much(run, ack.reason) {
                    self.out.remove(at);
                    return;
                }
                assert!((ack.reason as u8) < 0x80, "{}: {ack:?}", self.name);
                self.accepted(world, run, self.out[at].message);
                self.out[at].released = true;
                let id = ack.id;
                self.write_ack(AckKind::PubRel, id);
            }
            Packet::PubComp(ack) => {
                let at = self.find_out(run, ack.id, 2, false);
                assert!(self.out[at].released, "{}: PUBCOMP before PUBREL", self.name);
                self.out.remove(at);
            }
            Packet::PubRel(ack) => {
                self.held.remove(&ack.id.get());
                self.answer(run, AckKind::PubComp, ack.id, Some(ack.id.get()));
            }
            Packet::SubAck(ack) => {
                let Some(Asked::Sub(filter, mut sub)) = self.asked.remove(&ack.id.get()) else {
                    panic!("{}: SUBACK {} unasked", self.name, ack.id.get());
                };
                let known = [ReasonCode::QuotaExceeded, ReasonCode::UnspecifiedError];
                let refused = known[usize::from(!self.is_v5())] as u8;
                if run.memory && ack.codes == [refused] {
                    // Only what is new is refused.
                    assert!(!self.subs.contains_key(&filter), "{}: {filter}", self.name);
                    self.unsure.remove(&filter);
                    return;
                }
                assert_eq!(ack.codes, [sub.qos], "{}: {filter}", self.name);
                sub.since = match self.subs.get(&filter) {
                    Some(known) if known.qos > 0 && sub.qos > 0 => known.since,
                    _ => run.tick,
                };
                if let Some(known) = self.subs.remove(&filter) {
                    self.maybe.entry(filter.clone()).or_default().push(known);
                }
                self.tell(run, &format!("suback {filter}"));
                self.unsure.remove(&filter);
                self.subs.insert(filter, sub);
            }
            Packet::UnsubAck(ack) => {
                let Some(Asked::Unsub(filter)) = self.asked.remove(&ack.id.get()) else {
                    panic!("{}: UNSUBACK {} unasked", self.name, ack.id.get());
                };
                self.unsure.remove(&filter);
                if let Some(known) = self.subs.remove(&filter) {
                    self.maybe.entry(filter).or_default().push(known);
                }
            }
            Packet::PingResp => {
                let Some(before) = self.pings.pop_front() else {
                    panic!("{}: PINGRESP unasked", self.name);
                };
                self.answered(world, run, before);
            }
            Packet::Disconnect(disconnect) => self.told(world, run, disconnect.reason),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// The broker had no memory for a message of this client.
    fn was_too_much(&self, run: &Run, reason: ReasonCode) -> bool {
        run.memory && self.is_v5() && reason == ReasonCode::QuotaExceeded
    }

    fn told(&mut self, world: &World, run: &Run, reason: ReasonCode) {
        assert!(self.is_v5(), "{}: version 3 has no DISCONNECT from a server", self.name);
        self.tell(run, &format!("is told {reason:?}"));
        self.last_error = Some(reason);
        match reason {
            ReasonCode::QuotaExceeded => assert!(run.harsh, "{}: no queue is short", self.name),
            ReasonCode::SessionTakenOver => {}
            ReasonCode::ServerShuttingDown => assert!(run.draining, "{}: {reason:?}", self.name),
            ReasonCode::KeepAliveTimeout => {
                // [MQTT-3.1.2-22]: silence of one and a half times the keep-alive.
                let conn = self.conn.map_or(0, |conn| world.conns[conn].taken_at);
                let patience = u64::from(self.keep_alive_in_force(run)) * 1500;
                let silent = world.now - conn;
                assert!(
                    patience > 0 && silent >= patience,
                    "{}: closed after {silent} ms of {patience}",
                    self.name
                );
            }
            other => panic!("{}: told {other:?}", self.name),
        }
    }

    fn keep_alive_in_force(&self, run: &Run) -> u16 {
        match self.keep_alive {
            0 if self.is_v5() && run.keep_alive_max < u16::MAX => run.keep_alive_max,
            asked if self.is_v5() => asked.min(run.keep_alive_max),
            asked => asked,
        }
    }

    /// The broker has accepted that message, and everything that was written before it.
    fn accepted(&mut self, world: &World, run: &mut Run, message: usize) {
        run.messages[message].accepted.get_or_insert(world.now);
        self.answered(world, run, message);
    }

    fn answered(&mut self, world: &World, run: &mut Run, before: usize) {
        self.zeros.retain(|&message| {
            if message < before {
                run.messages[message].accepted.get_or_insert(world.now);
            }
            message >= before
        });
    }

    fn find_out(&self, run: &Run, id: PacketId, qos: u8, or_again: bool) -> usize {
        let at = self.out.iter().position(|out| out.id == id.get());
        let at = at.unwrap_or_else(|| panic!("{}: acknowledgement of {id:?}", self.name));
        assert_eq!(run.messages[self.out[at].message].qos, qos, "{}: wrong kind", self.name);
        assert!(or_again || qos == 1 || self.out[at].released);
        at
    }

    fn connack(&mut self, world: &mut World, run: &mut Run, ack: &ConnAck<'_>) {
        assert_eq!(self.stage, Stage::Connecting, "{}: a second CONNACK", self.name);
        if ack.reason.is_failure() {
            self.refused(run, ack.reason);
            return;
        }
        let properties = &ack.properties;
        if self.is_v5() {
            // [MQTT-3.2.2-16]: a name exactly for those that have none.
            let given = properties.assigned_client_id;
            assert_eq!(given.is_some(), self.client_id.is_empty(), "{}: {given:?}", self.name);
            if let Some(given) = given {
                self.client_id = given.into();
            }
            let granted = self.expiry.min(run.session_expiry_max);
            let told = properties.session_expiry.unwrap_or(self.expiry);
            assert_eq!(told, granted, "{}: session expiry", self.name);
            let keep_alive = self.keep_alive_in_force(run);
            let told = properties.server_keep_alive.unwrap_or(self.keep_alive);
            assert_eq!(told, keep_alive, "{}: keep-alive", self.name);
            self.keep_alive = keep_alive;
        }
        self.alias_limit = usize::from(properties.topic_alias_maximum.unwrap_or(0));
        self.quota = usize::from(properties.receive_maximum.unwrap_or(u16::MAX).min(16));
        if !self.connected(world, run, ack.session_present) {
            self.forget_session();
            self.must_clean = true;
            self.abandon(world, run, End::Reset);
        }
    }

    /// The broker does not let it in now; it closes, and the client tries again.
    fn refused(&self, run: &Run, reason: ReasonCode) {
        self.tell(run, &format!("refused {reason:?}"));
        let (number, pace) = run.limited;
        let right = match reason {
            // All that version 3 is told [MQTT-3.2.2-4].
            ReasonCode::ServerUnavailable if !self.is_v5() => number || pace || run.stuck,
            ReasonCode::QuotaExceeded => number,
            ReasonCode::ConnectionRateExceeded => pace,
            ReasonCode::ServerBusy => run.stuck,
            _ => false,
        };
        assert!(right || run.draining, "{}: refused: {reason:?}", self.name);
    }

    /// Judges Session Present and decides what has become of wills; false when the client cannot
    /// know which session this is.
    fn connected(&mut self, world: &World, run: &mut Run, present: bool) -> bool {
        self.tell(run, &format!("connected present={present} known={:?}", self.known));
        self.stage = Stage::Up;
        self.up_since = run.tick;
        self.settle(world);
        let (known, (least, most)) = (self.known, self.granted);
        let granted = match self.is_v5() {
            true => self.expiry.min(run.session_expiry_max),
            false if self.clean => 0,
            false => run.session_expiry_v3,
        };
        self.granted = (granted, granted);
        let lasted = match known {
            Known::Left(at) => world.now - at < u64::from(least) * 1000,
            Known::Unclear | Known::Live => false,
        };
        // When the broker had ended the last of its connections. One that was left behind may have
        // come after the one that was listened to, with an expiry that a clean start has not.
        let all = self.ghosts.iter().chain(&self.last_conn);
        let ends: Vec<_> = all.map(|&conn| world.conns[conn].ended_at).collect();
        let ended = ends.iter().flatten().max().copied();
        let full = if self.is_v5() { granted } else { run.session_expiry_v3 };
        let others = !self.ghosts.is_empty() || std::mem::take(&mut self.ended);
        let most = if others { most.max(full) } else { most };
        let over = ended.is_some_and(|at| self.began_at >= at + u64::from(most) * 1000);
        let alone = !self.unanswered && ends.iter().all(Option::is_some);
        if self.clean {
            assert!(!present, "{}: Session Present after a clean start", self.name);
        } else if self.version != Version::V31 {
            // [MQTT-3.1.2-23]
            assert!(present || !lasted, "{}: the session has gone early", self.name);
            assert!(
                !(present && alone && over),
                "{}: the session has outlived its expiry",
                self.name
            );
        }
        self.decide_wills(world, present, alone.then_some(ended).flatten());
        // A CONNECT without an answer may have begun another session after this one's end.
        let doubtful = std::mem::take(&mut self.unanswered) && !lasted && !self.clean;
        self.unanswered = !self.loose.is_empty();
        self.must_clean = self.loose.iter().any(|&(_, clean)| clean);
        self.known = Known::Live;
        if !present {
            self.forget_session();
            return true;
        }
        if doubtful {
            return false;
        }
        // [MQTT-4.4.0-1]
        for out in self.out.clone() {
            if out.released {
                self.write_ack(AckKind::PubRel, PacketId::new(out.id).unwrap());
            } else {
                let length = run.rng.range(8, 100);
                self.write_publish(run, out.message, out.id, length, true);
            }
        }
        true
    }

    /// `ended`: when the last connection had ended at the latest, if nobody else spoke since.
    fn decide_wills(&mut self, world: &World, present: bool, ended: Option<u64>) {
        let number = self.wills.len();
        let (own, began_at, now) = (self.has_will, self.began_at, world.now);
        let gone = self.clean || !present;
        for (at, will) in self.wills.iter_mut().enumerate() {
            if at + 1 == number && own {
                will.fate = Fate::Pending;
            } else if let Fate::Delayed(since) = will.fate {
                let in_time = self.known == Known::Left(since) && now < since + will.delay * 1000;
                let late = ended.is_some_and(|ended| began_at >= ended + will.delay * 1000);
                will.fate = match (gone, in_time, late) {
                    (true, ..) | (_, _, true) => Fate::Once,
                    (_, true, _) => Fate::Never,
                    _ => Fate::Either,
                };
            }
        }
    }
}
