//! Random runs: clients that do whatever clients do, on a network that fails, and at the end
//! everything is accounted for.

use crate::client::{Client, Fate, Run, Stage, Sub};
use crate::epilogue;
use crate::net::{End, Faults};
use crate::rng::Rng;
use crate::settings::roomy;
use crate::world::{Plan, World, entrance};
use ringmq::config::{OnFull, SharedStrategy};
use ringmq::packet::{RetainHandling, Version};
use ringmq::session::pending::Bounds;
use ringmq::shard::Settings;
use ringmq::telemetry::Kind;
use ringmq::topic;
use std::collections::BTreeMap;

/// What one run came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub hash: u64,
    pub messages: usize,
    pub delivered: u64,
    pub dropped: u64,
    pub takeovers: u64,
    pub hand_overs: u64,
}

struct Sim {
    world: World,
    run: Run,
    clients: Vec<Client>,
    faults: Faults,
    /// Per mille of a client's turns that end its connection somehow.
    unrest: usize,
    jumps: bool,
    groups: usize,
}

/// The first clients only watch: they never fail and never leave before the end.
const WATCHERS: usize = 3;
const CALM: Faults = Faults { hand_over_fails: 0, late: 0, split: 0, receive: 65_536 };

fn plan(seed: u64, rng: &mut Rng) -> Plan {
    let mut settings = roomy();
    if rng.chance(300) {
        let on_full = [OnFull::DropOldest, OnFull::DropNew, OnFull::Disconnect][rng.below(3)];
        let (messages, bytes) = (rng.range(4, 200), rng.range(1000, 100_000));
        settings.pending = Bounds { messages, bytes, on_full };
    }
    settings.max_inflight = rng.range(1, 40) as u16;
    settings.receive_maximum = 16;
    settings.outgoing_max_bytes = [4096, 65_536, 1 << 20][rng.below(3)];
    settings.queue_qos0 = rng.chance(300);
    settings.topic_alias_outbound = [0, 3, 100][rng.below(3)];
    settings.retry_interval = if rng.chance(200) { 1000 } else { 0 };
    settings.shared_strategy = [
        SharedStrategy::RoundRobin,
        SharedStrategy::Random,
        SharedStrategy::Sticky,
        SharedStrategy::HashTopic,
        SharedStrategy::HashClient,
    ][rng.below(5)];
    let shards = if rng.chance(50) { 16 } else { rng.range(1, 5) };
    let faulty = rng.chance(700);
    let faults = Faults {
        hand_over_fails: if faulty { 50 } else { 0 },
        late: [0, 200, 600][rng.below(3)],
        split: [0, 300, 700][rng.below(3)],
        receive: [7, 64, 1000, 65_536][rng.below(4)],
    };
    let (data, control) = (rng.range(4, 40), rng.range(1, 40));
    Plan { seed, shards, data, control, settings, faults, entrances: vec![entrance("")] }
}

/// One run. Panics on the first thing that is wrong.
pub fn simulate(seed: u64, verbose: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let mut plan = plan(seed, &mut rng);
    if verbose {
        eprintln!("{} shards, {:?}\n{:#?}", plan.shards, plan.faults, plan.settings);
    }
    let (faults, settings) = (plan.faults, plan.settings.clone());
    plan.faults = CALM;
    let world = World::new(plan);
    let run = Run {
        tick: 0,
        messages: Vec::new(),
        shared: BTreeMap::new(),
        calm: false,
        harsh: settings.pending.on_full == OnFull::Disconnect,
        session_expiry_v3: settings.session_expiry_default,
        verbose,
        rng: rng.clone(),
    };
    let (unrest, jumps) = ([0, 2, 10, 40][rng.below(4)], rng.chance(300));
    let count = WATCHERS + [4, 20, 60, 150][rng.below(4)];
    let clients = (0..count).map(|at| new_client(at, &mut rng)).collect();
    let mut sim = Sim { world, run, clients, faults, unrest, jumps, groups: 3 };
    sim.go(rng.range(3000, 20_000), &settings)
}

fn new_client(at: usize, rng: &mut Rng) -> Client {
    let version = [Version::V31, Version::V311, Version::V5, Version::V5][rng.below(4)];
    if at < WATCHERS {
        let mut client = Client::new(at, format!("watcher-{at}"), Version::V5);
        client.expiry = 100;
        return client;
    }
    let mut client = Client::new(at, format!("client-{at}"), version);
    client.always_clean = version == Version::V31 || rng.chance(200);
    client.slow = rng.chance(150);
    if version.is_v5() {
        client.expiry = [0, 5, 60, 100][rng.below(4)];
        client.receive_maximum = [1, 3, 20, u16::MAX][rng.below(4)];
        client.alias_maximum = [0, 2, 50][rng.below(3)];
        client.packet_maximum = if rng.chance(100) { 80 } else { u32::MAX };
    }
    client
}

impl Sim {
    fn go(&mut self, ticks: usize, settings: &Settings) -> Outcome {
        self.set_up();
        for _ in 0..ticks {
            self.chaos();
        }
        self.calm_down();
        self.check_quiet();
        self.check_delivered();
        self.check_shared();
        self.check_retained();
        self.leave();
        self.check_wills(settings);
        epilogue::hold(&mut self.world, settings);
        self.check_empty();
        let total = self.world.counters();
        Outcome {
            hash: self.world.hash,
            messages: self.run.messages.len(),
            delivered: total.messages_sent_qos0
                + total.messages_sent_qos1
                + total.messages_sent_qos2,
            dropped: self.dropped(),
            takeovers: total.takeovers,
            hand_overs: total.handovers_out,
        }
    }

    /// Messages of QoS 1 and 2 that the broker says it did not deliver.
    fn dropped(&self) -> u64 {
        let total = self.world.counters();
        total.dropped_queue_full + total.dropped_packet_too_large + total.dropped_expired
    }

    fn set_up(&mut self) {
        self.run.calm = true;
        for at in 0..WATCHERS {
            self.clients[at].connect(&mut self.world, &mut self.run, true, None, 1 << 20);
        }
        self.rest(50);
        for (at, filter, qos) in [(0, "w/#", 2), (1, "t/#", 2), (2, "t/#", 1)] {
            let sub = Sub { qos, no_local: false, as_published: false, id: 0, since: 0 };
            self.clients[at].subscribe(&mut self.run, filter, sub, RetainHandling::Send);
        }
        self.rest(50);
        self.run.calm = false;
        for node in &mut self.world.nodes {
            node.driver.faults = self.faults;
        }
    }

    fn chaos(&mut self) {
        self.run.tick += 1;
        if self.run.rng.chance(20) {
            let millis = self.run.rng.range(1, 20);
            self.world.advance(millis as u64);
        }
        if self.jumps && self.run.rng.chance(1) {
            let millis = self.run.rng.range(1000, 30_000);
            self.world.advance(millis as u64);
        }
        if self.run.rng.chance(500) {
            let node = self.run.rng.below(self.world.nodes.len());
            if self.world.is_runnable(node) {
                self.world.step(node);
            }
            return;
        }
        let at = self.run.rng.below(self.clients.len());
        let (world, run) = (&mut self.world, &mut self.run);
        let client = &mut self.clients[at];
        client.turn(world, run);
        if at < WATCHERS {
            return;
        }
        match client.stage {
            Stage::Offline if world.now >= client.wait_until => {
                let delays = [0, 0, 2, 10, 100];
                let delay = delays[run.rng.below(5)];
                let will = run.rng.chance(400).then_some(delay);
                let clean = run.rng.chance(150);
                let buffer = [64, 1000, 65_536][run.rng.below(3)];
                client.connect(world, run, clean, will, buffer);
            }
            Stage::Offline => {}
            _ if run.rng.chance(self.unrest) => match run.rng.below(5) {
                0 => client.abandon(world, run, End::Fin),
                1 | 2 => client.abandon(world, run, End::Reset),
                3 => client.haunt(world, run),
                _ => client.disconnect(run, world.now),
            },
            Stage::Up => self.use_broker(at),
            _ => {}
        }
    }

    fn use_broker(&mut self, at: usize) {
        let run = &mut self.run;
        let client = &mut self.clients[at];
        let qos = run.rng.below(3) as u8;
        match run.rng.below(20) {
            0..=5 => {
                let topic = format!("t/{}/{}", run.rng.below(4), run.rng.below(4));
                let length = if run.rng.chance(20) { 20_000 } else { run.rng.range(8, 100) };
                client.publish(run, topic, qos, false, length);
            }
            6 | 7 => {
                let topic = format!("s/{}/{}", run.rng.below(self.groups), run.rng.below(4));
                let length = run.rng.range(8, 60);
                client.publish(run, topic, qos, false, length);
            }
            8 => {
                let topic = format!("r/{at}/{}", run.rng.below(3));
                let length = if run.rng.chance(200) { 0 } else { run.rng.range(8, 60) };
                client.publish(run, topic, qos, true, length);
            }
            9 => {
                let (a, b) = (run.rng.below(4), run.rng.below(4));
                let group = run.rng.below(self.groups);
                let filter = match run.rng.below(8) {
                    0 => "t/#".into(),
                    1 => format!("t/{a}/+"),
                    2 => format!("t/+/{b}"),
                    3 | 4 => format!("t/{a}/{b}"),
                    5 => "r/#".into(),
                    6 => format!("r/{}/+", run.rng.below(60)),
                    _ => format!("$share/g{group}/s/{group}/#"),
                };
                let shared = filter.starts_with('$');
                let sub = Sub {
                    qos: if shared { qos.max(1) } else { qos },
                    no_local: !shared && run.rng.chance(200),
                    as_published: run.rng.chance(300),
                    id: if run.rng.chance(300) { run.rng.range(1, 500) as u32 } else { 0 },
                    since: 0,
                };
                let handling =
                    [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
                let handling = handling[run.rng.below(3)];
                client.subscribe(run, &filter, sub, handling);
            }
            10 if run.rng.chance(300) => client.unsubscribe(run),
            _ => {}
        }
    }

    /// Everybody reads, answers and waits, for that many virtual milliseconds.
    fn rest(&mut self, millis: u64) {
        let end = self.world.now + millis;
        while self.world.now < end {
            self.pass();
            self.world.settle();
            self.world.advance(10);
        }
    }

    fn pass(&mut self) {
        for _ in 0..10_000 {
            self.run.tick += 1;
            let mut moved = false;
            for client in &mut self.clients {
                moved |= client.turn(&mut self.world, &mut self.run);
            }
            self.world.settle();
            if !moved {
                return;
            }
        }
        panic!("the clients never come to rest");
    }

    fn calm_down(&mut self) {
        self.run.calm = true;
        for node in &mut self.world.nodes {
            node.driver.faults = CALM;
        }
        for client in &mut self.clients {
            for ghost in std::mem::take(&mut client.ghosts) {
                self.world.conns[ghost].client = End::Reset;
            }
            if let Some(conn) = client.conn {
                self.world.conns[conn].down_limit = 1 << 20;
            }
            client.slow = false;
        }
        for _ in 0..2000 {
            self.rest(20);
            let mut busy = false;
            for client in &mut self.clients {
                if client.stage == Stage::Offline {
                    client.connect(&mut self.world, &mut self.run, false, None, 1 << 20);
                }
                busy |= client.stage != Stage::Up || client.unfinished() > 0;
            }
            if !busy {
                self.rest(9000);
                return;
            }
        }
        for client in &self.clients {
            if client.stage != Stage::Up || client.unfinished() > 0 {
                eprintln!("{} is {:?}, {} open", client.name, client.stage, client.unfinished());
            }
        }
        for node in &self.world.nodes {
            eprintln!("shard {:?}: {:?}", node.shard.id(), node.shard.audit());
        }
        panic!("the clients do not get done");
    }

    fn check_quiet(&self) {
        assert_eq!(self.world.problems(), Vec::<String>::new());
        let mut open = 0;
        for node in &self.world.nodes {
            let audit = node.shard.audit();
            open += audit.connections;
            assert_eq!(audit.connections, node.driver.open(), "sockets and connections");
            let left = [
                ("held", audit.held.len()),
                ("replaying", audit.replaying),
                ("joining", audit.joining),
                ("wills", audit.wills),
                ("arrivals", audit.arrivals),
                ("staged", audit.staged),
                ("waiting_for_mail", audit.waiting_for_mail),
                ("parked", audit.parked.iter().sum()),
                ("most_unsent", audit.most_unsent),
            ];
            for (name, count) in left {
                assert_eq!(count, 0, "{name} on {:?} at rest: {audit:?}", node.shard.id());
            }
        }
        let total = self.world.counters();
        assert_eq!(open, self.clients.len(), "connections");
        assert_eq!(total.connections_open, self.clients.len() as u64);
        assert_eq!((total.inflight, total.pending_messages, total.pending_bytes), (0, 0, 0));
        assert_eq!(self.world.shared.connections.used(), self.clients.len() as u64);
    }

    /// What was acknowledged while a subscription was there has reached its client.
    fn check_delivered(&self) {
        let mut missing = Vec::new();
        for client in &self.clients {
            for (filter, sub) in
                client.subs.iter().filter(|(f, s)| f.starts_with("t/") && s.qos > 0)
            {
                for (id, message) in self.run.messages.iter().enumerate() {
                    let own = message.publisher == client.at;
                    if message.acked
                        && message.qos > 0
                        && message.sent_at > sub.since
                        && !(own && client.no_local)
                        && topic::matches(filter, &message.topic)
                        && !client.got.contains_key(&id)
                    {
                        missing.push((client.name.clone(), filter.clone(), id));
                    }
                }
            }
        }
        missing.sort_by(|a, b| (&a.0, a.2).cmp(&(&b.0, b.2)));
        missing.dedup_by(|a, b| (&a.0, a.2) == (&b.0, b.2));
        let excused = self.dropped();
        assert!(
            missing.len() as u64 <= excused,
            "{} lost, {excused} dropped by policy: {:?}",
            missing.len(),
            &missing[..missing.len().min(10)]
        );
    }

    /// What was acknowledged while a group had a member has reached some member.
    fn check_shared(&self) {
        let mut missing = 0;
        for group in 0..self.groups {
            let filter = format!("$share/g{group}/s/{group}/#");
            let since = self.clients.iter().filter_map(|c| Some(c.subs.get(&filter)?.since)).min();
            let Some(since) = since else { continue };
            for (id, message) in self.run.messages.iter().enumerate() {
                let reached = self.run.shared.contains_key(&(filter.clone(), id));
                let due = message.acked && message.qos > 0 && message.sent_at > since;
                if due && message.topic.starts_with(&format!("s/{group}/")) && !reached {
                    missing += 1;
                }
            }
        }
        let excused = self.dropped() + self.world.counters().dropped_session_gone;
        assert!(missing <= excused, "{missing} lost by groups, {excused} dropped by policy");
    }

    /// A new subscriber gets, of every topic, the message that was accepted last.
    fn check_retained(&mut self) {
        let at = self.clients.len();
        let mut probe = Client::new(at, "probe".into(), Version::V5);
        probe.connect(&mut self.world, &mut self.run, true, None, 1 << 20);
        self.clients.push(probe);
        self.rest(50);
        let sub = Sub { qos: 1, no_local: false, as_published: false, id: 0, since: 0 };
        self.clients[at].subscribe(&mut self.run, "r/#", sub, RetainHandling::Send);
        self.rest(500);
        let mut topics: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (id, message) in self.run.messages.iter().enumerate() {
            if message.topic.starts_with("r/") {
                topics.entry(message.topic.clone()).or_default().push(id);
            }
        }
        for (name, ids) in &topics {
            let of = |id: &usize| &self.run.messages[*id];
            let superseded = |id: &usize| {
                ids.iter().any(|other| {
                    of(other).acked && of(other).qos > 0 && of(other).sent_at > of(id).last_at
                })
            };
            let possible: Vec<_> = ids.iter().filter(|id| !superseded(id)).collect();
            let empty = possible.iter().any(|id| of(id).empty)
                || !ids.iter().any(|id| of(id).acked && of(id).qos > 0);
            let got: Vec<_> =
                ids.iter().filter(|id| self.clients[at].got.contains_key(id)).collect();
            match got[..] {
                [] => assert!(empty, "{name}: no retained message, possible {possible:?}"),
                [one] => assert!(possible.contains(&one), "{name}: {one} of {possible:?}"),
                _ => panic!("{name}: several retained messages {got:?}"),
            }
        }
        let counters = self.world.counters();
        assert_eq!(counters.retained_messages, self.clients[at].got.len() as u64, "retained");
        for name in topics.keys() {
            self.clients[at].publish(&mut self.run, name.clone(), 0, true, 0);
        }
        self.rest(500);
    }

    fn leave(&mut self) {
        for at in 1..self.clients.len() {
            let (world, run) = (&mut self.world, &mut self.run);
            match run.rng.below(3) {
                0 => self.clients[at].abandon(world, run, End::Reset),
                1 => self.clients[at].abandon(world, run, End::Fin),
                _ => self.clients[at].disconnect(run, world.now),
            }
        }
        self.rest(1000);
        for _ in 0..300 {
            self.world.advance(1000);
            self.pass();
        }
    }

    fn check_wills(&self, settings: &Settings) {
        if self.run.verbose {
            eprintln!("{:#?}", self.world.counters());
            for node in &self.world.nodes {
                eprintln!("{:?}", node.shard.audit());
            }
        }
        let lossy = settings.pending.messages < 10_000;
        for client in &self.clients {
            for will in &client.wills {
                let seen = self.clients[0].got.get(&will.message).map_or(0, |count| count.app);
                let (least, most) = match will.fate {
                    Fate::Pending => panic!("everybody has left"),
                    Fate::Never => (0, 0),
                    Fate::Once | Fate::Delayed(_) => (1, 1),
                    Fate::Either => (0, 1),
                };
                let fine = (lossy || seen >= least) && seen <= most;
                assert!(fine, "{}: will {will:?} seen {seen} times", client.name);
            }
        }
    }

    fn check_empty(&mut self) {
        self.clients[0].disconnect(&self.run, self.world.now);
        self.rest(1000);
        for _ in 0..200 {
            self.world.advance(1000);
            self.pass();
        }
        assert_eq!(self.world.problems(), Vec::<String>::new());
        for node in &self.world.nodes {
            let audit = node.shard.audit();
            let id = node.shard.id();
            let left = [
                ("sessions", audit.sessions),
                ("connections", audit.connections),
                ("flows", audit.flows),
                ("filters", audit.filters),
                ("subscribers", audit.subscribers),
                ("groups", audit.groups),
                ("members", audit.members),
                ("retained", audit.retained),
                ("arrivals", audit.arrivals),
                ("parked", audit.parked.iter().sum()),
                ("idle_flows", audit.idle_flows),
                ("sockets", node.driver.open()),
            ];
            for (name, count) in left {
                assert_eq!(count, 0, "{name} on shard {id:?} at the end");
            }
            // Housekeeping.
            assert!(audit.timers <= 2, "{} timers on shard {id:?} at the end", audit.timers);
            for (descriptor, value) in node.shard.counters.iter() {
                if descriptor.kind == Kind::Gauge {
                    assert_eq!(value, 0, "{} on shard {id:?} at the end", descriptor.field);
                }
            }
        }
        assert!(self.world.shared.interest.is_empty(), "interest keys are left");
        assert_eq!(self.world.shared.connections.used(), 0);
        assert_eq!(self.world.shared.retained_messages.used(), 0);
        assert_eq!(self.world.shared.retained_bytes.used(), 0);
        for entrance in &self.world.entrances {
            assert_eq!(entrance.connections.used(), 0);
        }
    }
}
