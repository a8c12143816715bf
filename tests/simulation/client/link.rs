//! A client's connections: how they begin, how they end, and what that means for its session.

use super::{Asked, Client, Fate, Known, Message, Run, Stage, WillRecord, payload};
use crate::net::End;
use crate::peer::{hello, hello_bytes};
use crate::world::World;
use ringmq::limits::REFUSED_MILLIS;
use ringmq::packet::{Connect, ConnectProperties, Qos, ReasonCode, Will};

impl Client {
    /// Opens a connection and writes CONNECT. `will`: its delay in seconds.
    pub fn connect(
        &mut self,
        world: &mut World,
        run: &mut Run,
        clean: bool,
        will: Option<u32>,
        buffer: usize,
    ) {
        assert!(self.conn.is_none());
        let clean = clean || self.always_clean || self.must_clean;
        let shard = run.rng.below(world.nodes.len());
        let listener = world.some_listener();
        self.conn = Some(world.connect_to(listener, shard, 64 * 1024, buffer));
        (self.began_at, self.wrote_at) = (world.now, world.now);
        self.stage = Stage::Connecting;
        self.clean = clean;
        self.forget_connection();
        if clean {
            self.must_clean = true;
            self.forget_session();
        }
        self.has_will = will.is_some();
        let length = run.rng.range(8, 40);
        let qos = (run.rng.below(3) as u8).min(run.max_qos);
        let delay = will.filter(|_| self.is_v5()).unwrap_or(0);
        let topic = format!("w/{}", self.at);
        let message = will.map(|_| {
            run.new_message(Message {
                publisher: self.at,
                line: 0,
                topic: topic.clone(),
                qos,
                retain: false,
                empty: false,
                expiry: None,
                sends: 1,
                accepted: Some(world.now),
                sent_at: run.tick,
                last_at: run.tick,
            })
        });
        let bytes = message.map(|message| payload(message, length));
        if let Some(message) = message {
            let expiry = self.expiry.min(run.session_expiry_max);
            let delay = u64::from(delay.min(expiry));
            self.wills.push(WillRecord { message, delay, fate: Fate::Either });
        }
        let will = bytes.as_deref().map(|payload| Will {
            topic: &topic,
            payload,
            qos: Qos::from_u8(qos).unwrap(),
            retain: false,
            delay,
            properties: Default::default(),
        });
        let out = self.encode_connect(clean, will);
        self.hello = out.len();
        self.output.extend(out);
        self.tell(run, &format!("connect clean={clean} will={message:?} shard={shard}"));
    }

    fn encode_connect(&self, clean: bool, will: Option<Will<'_>>) -> Vec<u8> {
        let v5 = self.is_v5();
        let properties = ConnectProperties {
            session_expiry: Some(self.expiry).filter(|_| v5),
            receive_maximum: Some(self.receive_maximum).filter(|&m| v5 && m < u16::MAX),
            maximum_packet_size: Some(self.packet_maximum).filter(|&m| v5 && m < u32::MAX),
            topic_alias_maximum: Some(self.alias_maximum).filter(|&m| v5 && m > 0),
            ..Default::default()
        };
        let (version, keep_alive) = (self.version, self.keep_alive);
        let any = hello(&self.client_id, clean, 0);
        hello_bytes(&Connect { version, keep_alive, will, properties, ..any })
    }

    /// What dies with a connection; requests without an answer may have been followed or not.
    fn forget_connection(&mut self) {
        self.input.clear();
        self.output.clear();
        self.answers.clear();
        self.unacked.clear();
        self.aliases.clear();
        self.aliased.clear();
        self.alias_limit = 0;
        self.zeros.clear();
        self.pings.clear();
        for (_, asked) in std::mem::take(&mut self.asked) {
            self.unsure.insert(asked.filter().clone());
            if let Some(known) = self.subs.remove(asked.filter()) {
                self.maybe.entry(asked.filter().clone()).or_default().push(known);
            }
            if let Asked::Sub(filter, sub) = asked {
                self.maybe.entry(filter).or_default().push(sub);
            }
        }
    }

    /// Several connections claim the ClientId at once, each at a shard of its own; nobody knows in
    /// which order they get to its home. Only the one that `connect` makes next is listened to.
    pub fn race(&mut self, world: &mut World, run: &mut Run, rivals: usize) {
        assert!(self.conn.is_none());
        for _ in 0..rivals {
            let shard = run.rng.below(world.nodes.len());
            let listener = world.some_listener();
            let conn = world.connect_to(listener, shard, 64 * 1024, 1000);
            let clean = self.always_clean || self.must_clean;
            self.must_clean |= clean;
            let bytes = self.encode_connect(clean, None);
            world.conns[conn].up.extend(bytes);
            self.ghosts.push(conn);
            self.doubt(conn, clean);
            self.tell(run, &format!("races clean={clean} shard={shard}"));
        }
    }

    /// Whether that connection's CONNECT takes effect, and when, nobody knows.
    fn doubt(&mut self, conn: usize, clean: bool) {
        self.loose.push((conn, clean));
        self.unanswered = true;
        if self.is_v5() {
            // If it does, the session lasts as long after it as this CONNECT says.
            self.granted.0 = self.granted.0.min(self.expiry);
        }
        for will in &mut self.wills {
            if let Fate::Delayed(_) = will.fate {
                will.fate = Fate::Either;
            }
        }
    }

    /// A CONNECT was acted on once there is an answer, and will not be once the broker has closed.
    pub(super) fn settle(&mut self, world: &World) {
        self.loose.retain(|&(conn, _)| {
            let conn = &world.conns[conn];
            conn.server == End::Open && conn.down.is_empty()
        });
    }

    /// The connection is gone; `orderly`: by DISCONNECT, and the broker closed.
    fn lost(&mut self, world: &World, run: &Run, orderly: bool, by_client: bool) {
        self.tell(run, &format!("lost orderly={orderly} by_client={by_client}"));
        let conn = self.conn.take().expect("there was one");
        let connected = matches!(self.stage, Stage::Up | Stage::Leaving);
        let leaving = self.stage == Stage::Leaving;
        let live = world.is_live(conn);
        self.stage = Stage::Offline;
        self.settle(world);
        if !connected {
            self.doubt(conn, self.clean);
            return;
        }
        self.losses += usize::from(!run.draining);
        self.ended |= !by_client && !leaving;
        // The broker may have ended it before, and the client had not read that far.
        let online = match leaving {
            true => self.parting.online,
            false => by_client && live,
        };
        let alone = self.parting.alone && self.loose.is_empty();
        let parted = orderly && online && alone && self.keep_alive == 0;
        let certain = parted && !run.harsh && !run.draining;
        let since = if leaving { self.parting.at } else { world.now };
        if let Some(expiry) = self.parting.expiry.filter(|_| leaving) {
            let expiry = expiry.min(run.session_expiry_max);
            let (least, most) = self.granted;
            self.granted =
                if certain { (expiry, expiry) } else { (least.min(expiry), most.max(expiry)) };
        }
        let fate = self.fate(world, run, conn, since, certain, leaving, by_client && online);
        if let Some(will) = self.wills.last_mut()
            && self.has_will
            && will.fate == Fate::Pending
        {
            will.fate = fate;
        }
        self.known = match online && (by_client || certain) {
            true => Known::Left(since),
            false => Known::Unclear,
        };
        self.last_conn = Some(conn);
    }

    #[allow(clippy::too_many_arguments)]
    fn fate(
        &self,
        world: &World,
        run: &Run,
        conn: usize,
        since: u64,
        certain: bool,
        leaving: bool,
        by_client: bool,
    ) -> Fate {
        let delay = self.wills.last().map_or(0, |will| will.delay).min(u64::from(self.granted.1));
        let told = self.last_error.is_some() && !run.draining;
        let later = match (delay, self.loose.is_empty()) {
            (0, _) => Fate::Once,
            (_, true) => Fate::Delayed(since),
            (_, false) => Fate::Either,
        };
        match leaving {
            true if certain && !self.parting.with_will => Fate::Never,
            true if certain && self.parting.expiry.is_none() => later,
            true => Fate::Either,
            // Only while nobody else spoke for the client is it known what the session went on to.
            false if by_client => later,
            false if told && delay == 0 && world.conns[conn].server != End::Open => Fate::Once,
            false => Fate::Either,
        }
    }

    /// Ends the connection in some way; the bytes that are still to be written are torn off.
    pub fn abandon(&mut self, world: &mut World, run: &mut Run, how: End) {
        let Some(conn) = self.conn else { return };
        world.conns[conn].client = how;
        if how == End::Reset {
            world.conns[conn].clear_up();
        }
        self.lost(world, run, false, true);
        self.wait_until = world.now + run.rng.below(3000) as u64;
    }

    /// Leaves the connection open and forgets it: the next CONNECT takes the session over.
    pub fn haunt(&mut self, world: &World, run: &Run) {
        let Some(conn) = self.conn else { return };
        self.ghosts.push(conn);
        self.lost(world, run, false, true);
        self.wait_until = 0;
    }

    /// One turn: answers that are due, bytes out, bytes in. True when something moved.
    pub fn turn(&mut self, world: &mut World, run: &mut Run) -> bool {
        self.settle(world);
        let Some(conn) = self.conn else { return false };
        let mut moved = false;
        self.ping(world, run);
        while let Some((due, ..)) = self.answers.front() {
            if *due > run.tick && !run.calm {
                break;
            }
            let Some((_, bytes, done)) = self.answers.pop_front() else { break };
            if let Some(id) = done {
                self.unacked.remove(&id);
            }
            self.output.extend(bytes);
        }
        let wire = &mut world.conns[conn];
        if wire.client == End::Open && !self.output.is_empty() {
            let room = wire.up_limit.saturating_sub(wire.up.len()).min(self.output.len());
            let part = if run.calm || run.rng.chance(700) { room } else { run.rng.range(0, room) };
            if wire.server == End::Open {
                wire.up.extend(self.output.drain(..part));
            } else {
                self.output.clear();
            }
            if part > 0 {
                (moved, self.wrote_at) = (true, world.now);
            }
        }
        let most = world.conns[conn].down.len();
        let part = match (run.calm, self.slow) {
            (true, _) => most,
            (_, true) if run.rng.chance(900) => 0,
            _ if run.rng.chance(700) => most,
            _ => run.rng.range(0, most),
        };
        if part > 0 {
            moved = true;
            self.input.extend(world.conns[conn].down.drain(..part));
            self.read(world, run);
        }
        let Some(conn) = self.conn else { return true };
        let wire = &world.conns[conn];
        if wire.server != End::Open && wire.down.is_empty() {
            self.closed(world, run, conn);
            return true;
        }
        moved
    }

    /// Who has sent the whole of a CONNECT is told something before the end, unless the broker
    /// had no time left to say it; and everybody has some time to send it.
    fn must_have_been_answered(&self, world: &World, run: &Run, conn: usize) {
        let wire = &world.conns[conn];
        let due = match wire.taken >= self.hello {
            true => wire.taken_at + 4000,
            false => self.began_at + REFUSED_MILLIS - 100,
        };
        let soon = wire.ended_at.is_some_and(|at| at < due);
        let web = wire.web.as_deref();
        // Who has sent a part of a PROXY header or a handshake cannot be told why it goes, and
        // nobody makes a handshake only to be told that there are too many.
        let secure = wire.secure.is_some() && wire.taken == 0;
        let refused = run.memory && (web.is_some_and(|web| web.refused) || wire.header_left > 0)
            || secure && (run.memory || run.limited.0);
        let unanswered = self.stage == Stage::Connecting && wire.told == 0 && soon && !refused;
        assert!(
            !unanswered,
            "{}: closed without CONNACK {:?} ms after it began, heard after {}; {} of {} bytes",
            self.name,
            wire.ended_at.map(|at| at - self.began_at),
            wire.taken_at.saturating_sub(self.began_at),
            wire.taken,
            self.hello
        );
        let early = wire.ended_at.is_some_and(|at| at < self.began_at + REFUSED_MILLIS - 100);
        let late = web.is_some_and(|web| web.late);
        assert!(!(late && early), "{}: its HTTP request was said to be late", self.name);
    }

    /// The broker has closed the connection, and everything before that has been read.
    fn closed(&mut self, world: &mut World, run: &mut Run, conn: usize) {
        if run.draining && self.stage == Stage::Up && self.is_v5() {
            let known = [ReasonCode::ServerShuttingDown, ReasonCode::QuotaExceeded];
            let told = self.last_error.is_some_and(|reason| known.contains(&reason));
            assert!(told, "{}: closed without a word: {:?}", self.name, self.last_error);
        }
        let orderly = self.stage == Stage::Leaving
            && world.conns[conn].server == End::Fin
            && self.output.is_empty()
            && self.last_error.is_none();
        self.must_have_been_answered(world, run, conn);
        world.conns[conn].client = End::Fin;
        self.lost(world, run, orderly, false);
        self.wait_until = world.now + run.rng.below(2000) as u64;
        self.last_error = None;
    }
}
