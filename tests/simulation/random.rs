//! Random runs: clients that do whatever clients do, on a network that fails, and at the end
//! everything is accounted for.

use crate::assault::Assault;
use crate::baton::Batons;
use crate::bystander::Bystander;
use crate::client::{Client, Fate, Message, Run, Stage, Sub, plain_sub};
use crate::epilogue;
use crate::hostile::Hostile;
use crate::net::{End, Faults};
use crate::plan::{CALM, Features, Jumps, WATCHERS, new_client, plan, vary};
use crate::rng::Rng;
use crate::world::{Order, World};
use ringmq::config::OnFull;
use ringmq::limits::Budget;
use ringmq::packet::RetainHandling;
use ringmq::shard::Settings;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of the largest payload that the clients publish.
pub const LARGEST: usize = 20_000;

/// What one run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub hash: u64,
    pub steps: u64,
    /// Virtual milliseconds.
    pub millis: u64,
    pub messages: usize,
    pub delivered: u64,
    pub dropped: u64,
    pub takeovers: u64,
    pub hand_overs: u64,
    /// Of bystanders.
    pub pongs: u64,
    /// Most work of one step, in the units of `limits::cost`.
    pub work: u32,
    /// Times that memory became short, or shorter.
    pub shortages: u64,
}

pub struct Sim {
    pub world: World,
    pub run: Run,
    pub clients: Vec<Client>,
    pub hostile: Vec<Hostile>,
    assaults: Vec<Assault>,
    /// There are many retained messages that do not match.
    pub replays_crowded: bool,
    /// There were more wildcard shapes than are hashed.
    pub shapes_crowded: bool,
    /// Of each shard, or of none.
    bystanders: Vec<Bystander>,
    pongs: u64,
    pub batons: Batons,
    pub features: Features,
    pub settings: Settings,
    faults: Faults,
    pub groups: usize,
}

/// One run. Panics on the first thing that is wrong.
pub fn simulate(seed: u64, verbose: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let (plan, features, faults) = plan(seed, &mut rng);
    if verbose {
        eprintln!("{} shards, {faults:?}\n{features:#?}\n{:#?}", plan.shards, plan.settings);
    }
    let settings = plan.settings.clone();
    let mut world = World::new(plan);
    if features.layered > 0 {
        let last = world.listener_states.len() as u16 - 1;
        world.layered = Some((last, features.layered, Rng::new(seed)));
    }
    world.limit = features.limit;
    world.mail = features.mail;
    let clients: Vec<Client> =
        (0..WATCHERS + features.clients).map(|at| new_client(at, &mut rng, &features)).collect();
    let small = clients.iter().any(|client| client.packet_maximum < u32::MAX);
    let run = Run {
        tick: 0,
        messages: Vec::new(),
        shared: BTreeMap::new(),
        wills: Vec::new(),
        calm: false,
        draining: false,
        // Short of memory, a broker ends whoever sends a large packet in parts.
        harsh: settings.pending.on_full == OnFull::Disconnect || features.memory,
        lossless: settings.pending.messages > 10_000
            && !small
            && !features.expiring
            && !features.memory,
        memory: features.memory,
        expiring: features.expiring,
        session_expiry_v3: settings.session_expiry_default,
        session_expiry_max: settings.session_expiry_max,
        keep_alive_max: settings.keep_alive_max,
        max_inflight: settings.max_inflight,
        max_qos: settings.max_qos,
        limited: (
            settings.max_connections < u64::MAX,
            world.listener_states[0].max_connect_rate.is_some(),
        ),
        // A jump of the clock is as long as a connection may wait for its home to have room.
        stuck: faults.hand_over_fails > 0
            || !matches!(features.jumps, Jumps::None)
            || features.memory,
        repeating: settings.retry_interval > 0,
        verbose,
        rng,
    };
    let batons = Batons::new(&world.shared.seeds, world.nodes.len());
    let mut sim = Sim {
        world,
        run,
        clients,
        hostile: Vec::new(),
        assaults: Vec::new(),
        shapes_crowded: false,
        replays_crowded: false,
        bystanders: Vec::new(),
        pongs: 0,
        batons,
        features,
        settings,
        faults,
        groups: 3,
    };
    sim.go()
}

impl Sim {
    fn go(&mut self) -> Outcome {
        self.set_up();
        for _ in 0..self.features.ticks {
            self.chaos();
        }
        self.calm_down();
        self.end_batons();
        self.check_quiet();
        self.check_subscriptions();
        self.check_delivered();
        self.check_shared();
        self.check_retained();
        if self.features.drain {
            self.drain();
            self.check_wills();
            self.check_drops();
        } else {
            self.leave();
            self.check_wills();
            self.check_drops();
            if self.is_plain() {
                // Its dialogues count steps, of the size that a broker has.
                self.settings.budget = Budget::BROKER;
                let settings = Arc::new(self.settings.clone());
                self.world.order(&Order::Reload(settings));
                self.world.settle();
                epilogue::hold(&mut self.world, &self.settings);
            }
            self.check_empty();
        }
        let total = self.world.counters();
        Outcome {
            hash: self.world.trace(),
            steps: self.world.steps,
            millis: self.world.now,
            messages: self.run.messages.len(),
            delivered: total.messages_sent(),
            dropped: total.messages_dropped(),
            takeovers: total.takeovers,
            shortages: total.memory_shortages,
            hand_overs: total.handovers_out,
            pongs: self.pongs,
            work: self.world.nodes.iter().map(|node| node.most_work).max().unwrap_or_default(),
        }
    }

    /// Nothing is restricted that the dialogues of the epilogue take for granted.
    fn is_plain(&self) -> bool {
        let features = &self.features;
        let free = features.mountpoint.is_empty() && !features.hostile && !features.retained_limit;
        free && !features.extreme
            && self.settings.keep_alive_max == u16::MAX
            && self
                .world
                .listener_states
                .iter()
                .all(|listener_state| listener_state.max_connect_rate.is_none())
    }

    fn set_up(&mut self) {
        self.run.calm = true;
        for at in 0..WATCHERS {
            self.clients[at].connect(&mut self.world, &mut self.run, true, None, 1 << 20);
        }
        self.rest(50);
        for (at, filter, qos) in [(0, "w/#", 2), (1, "t/#", 2), (2, "t/#", 1)] {
            self.clients[at].subscribe(&mut self.run, filter, crate::client::plain_sub(qos));
        }
        self.rest(50);
        if self.features.bystanders {
            self.bystanders = Bystander::on_each(&mut self.world);
        }
        let assaults = self.features.assaults;
        self.assaults = (0..assaults)
            .map(|_| Assault::new(&mut self.run.rng, self.world.nodes.len()))
            .collect();
        self.replays_crowded = self.assaults.iter().any(Assault::crowds_replays);
        self.shapes_crowded = self.assaults.iter().any(Assault::crowds_shapes);
        self.run.calm = false;
        self.batons.quiet = false;
        for node in &mut self.world.nodes {
            node.driver.faults = self.faults;
        }
    }

    fn chaos(&mut self) {
        self.run.tick += 1;
        self.pass_time();
        if self.features.reloads && self.run.rng.chance(2) {
            self.reload();
        }
        if self.run.rng.chance(500) {
            let node = self.run.rng.below(self.world.nodes.len());
            let lazy = self.features.lazy == Some(node) && self.run.rng.chance(950);
            if !lazy && self.world.is_runnable(node) && !self.world.dawdles(node) {
                self.step(node);
            }
            return;
        }
        if self.features.hostile && self.run.rng.chance(100) {
            self.harass();
            return;
        }
        if !self.assaults.is_empty() && self.run.rng.chance(300) {
            let at = self.run.rng.below(self.assaults.len());
            self.assaults[at].turn(&mut self.world, &mut self.run.rng);
            return;
        }
        let batons = !self.features.extreme && !self.features.memory;
        if batons && self.run.rng.chance(250) {
            self.batons.turn(&mut self.world, &mut self.run.rng);
            return;
        }
        let at = self.run.rng.below(self.clients.len());
        let (world, run) = (&mut self.world, &mut self.run);
        let client = &mut self.clients[at];
        client.turn(world, run);
        if at < WATCHERS {
            self.judge_wills();
            return;
        }
        match client.stage {
            Stage::Offline if world.now >= client.wait_until => self.come_in(at),
            Stage::Offline => {}
            _ if run.rng.chance(self.features.unrest) => match run.rng.below(5) {
                0 => client.abandon(world, run, End::Fin),
                1 | 2 => client.abandon(world, run, End::Reset),
                3 => client.haunt(world, run),
                _ => client.disconnect(world, run),
            },
            Stage::Up => self.use_broker(at),
            _ => {}
        }
    }

    fn pass_time(&mut self) {
        let rng = &mut self.run.rng;
        if rng.chance(20) {
            let millis = rng.range(1, 20);
            self.world.advance(millis as u64);
        }
        let jump = match self.features.jumps {
            Jumps::None => return,
            Jumps::Short => 1000..30_000,
            Jumps::Long => 60_000..7_200_000,
        };
        if rng.chance(1) {
            let millis = rng.range(jump.start, jump.end);
            self.world.advance(millis as u64);
        }
    }

    /// One step of one shard, and what must hold after each.
    pub fn step(&mut self, node: usize) {
        self.world.step(node);
        self.check_step(node);
        let over = self.world.is_between_steps(node);
        if let Some(bystander) = self.bystanders.get_mut(node).filter(|_| over) {
            let ask = !self.run.calm && self.run.rng.chance(100);
            bystander.after_step(&mut self.world, node, ask);
        }
    }

    fn reload(&mut self) {
        vary(&mut self.settings, &mut self.run.rng);
        self.run.max_inflight = self.run.max_inflight.max(self.settings.max_inflight);
        self.world.order(&Order::Reload(Arc::new(self.settings.clone())));
    }

    fn come_in(&mut self, at: usize) {
        let (world, run) = (&mut self.world, &mut self.run);
        let client = &mut self.clients[at];
        let delays = [0, 0, 2, 10, 100];
        let delay = delays[run.rng.below(5)];
        let will = run.rng.chance(400).then_some(delay);
        let clean = run.rng.chance(150);
        let buffer = [64, 1000, 65_536][run.rng.below(3)];
        if self.features.unrest > 0 && run.rng.chance(100) {
            let rivals = run.rng.range(1, 4);
            client.race(world, run, rivals);
        }
        client.connect(world, run, clean, will, buffer);
    }

    fn use_broker(&mut self, at: usize) {
        let run = &mut self.run;
        let client = &mut self.clients[at];
        let qos = run.rng.below(3) as u8;
        match run.rng.below(20) {
            0..=5 => {
                let topic = format!("t/{}/{}", run.rng.below(4), run.rng.below(4));
                let length = if run.rng.chance(20) { LARGEST } else { run.rng.range(8, 100) };
                client.publish(run, topic, qos, false, length);
            }
            6 | 7 => {
                let topic = format!("s/{}/{}", run.rng.below(self.groups), run.rng.below(4));
                let length = run.rng.range(8, 60);
                client.publish(run, topic, qos, false, length);
            }
            8 => {
                let owner = if run.rng.chance(200) { "all".into() } else { at.to_string() };
                let topic = format!("r/{owner}/{}", run.rng.below(3));
                let length = if run.rng.chance(200) { 0 } else { run.rng.range(8, 60) };
                client.publish(run, topic, qos, true, length);
            }
            9 => {
                let (filter, sub) = subscription(run, self.groups, qos);
                client.subscribe(run, &filter, sub);
            }
            10 if run.rng.chance(300) => client.unsubscribe(run),
            11 if self.features.echoes && run.rng.chance(300) => echo(client, run),
            _ => {}
        }
    }

    /// Everybody reads, answers and waits, for that many virtual milliseconds.
    pub fn rest(&mut self, millis: u64) {
        let end = self.world.now + millis;
        while self.world.now < end {
            self.pass();
            self.world.advance(10);
        }
    }

    pub fn pass(&mut self) {
        for _ in 0..10_000 {
            self.run.tick += 1;
            let mut moved = false;
            for client in &mut self.clients {
                moved |= client.turn(&mut self.world, &mut self.run);
            }
            moved |= self.batons.turn_all(&mut self.world, &mut self.run.rng);
            self.judge_wills();
            self.settle();
            if !moved {
                return;
            }
        }
        panic!("the clients never come to rest");
    }

    /// Steps whoever is awake until nobody is. Panics when somebody would sleep on work.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let Some(pick) = self.world.pick_awake() else {
                self.world.check_sleep();
                return;
            };
            self.step(pick);
        }
        self.world.never_rests();
    }

    fn calm_down(&mut self) {
        self.run.calm = true;
        self.batons.quiet = true;
        for node in &mut self.world.nodes {
            node.driver.faults = CALM;
        }
        self.settings.max_connections = u64::MAX;
        self.settings.memory = u64::MAX;
        self.world.order(&Order::Reload(Arc::new(self.settings.clone())));
        for hostile in std::mem::take(&mut self.hostile) {
            self.world.conns[hostile.conn].client = End::Reset;
        }
        self.pongs = self.bystanders.iter().map(|bystander| bystander.pongs).sum();
        for bystander in std::mem::take(&mut self.bystanders) {
            bystander.end(&mut self.world);
        }
        for assault in std::mem::take(&mut self.assaults) {
            assault.end(&mut self.world);
        }
        // What a client has closed answers with a reset to whatever it is sent.
        for conn in self.world.conns.iter_mut().filter(|conn| conn.client == End::Fin) {
            conn.client = End::Reset;
        }
        for client in &mut self.clients {
            // The broker finds out itself that a client is silent, where there is a keep-alive.
            if client.keep_alive == 0 {
                for &ghost in &client.ghosts {
                    self.world.conns[ghost].client = End::Reset;
                }
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
                // The longest keep-alive and the time that last words have.
                self.rest(if self.features.keep_alive { 14_000 } else { 9000 });
                // An earlier connection that was still on its way home may have taken over.
                if self.clients.iter().all(|client| client.stage == Stage::Up) {
                    return;
                }
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

    /// Whoever passed the baton on comes to an end, and all of it is accounted for.
    fn end_batons(&mut self) {
        for _ in 0..1000 {
            self.rest(20);
            if !self.batons.is_busy() {
                self.batons.check_due(&self.world);
                self.batons.check_retained(&mut self.world);
                self.batons.leave(&mut self.world);
                self.rest(100);
                return;
            }
        }
        panic!("the baton is not passed on");
    }

    /// A will that came while its connection lived, or before its delay was over, came too soon.
    fn judge_wills(&mut self) {
        for message in std::mem::take(&mut self.run.wills) {
            let Message { publisher, .. } = self.run.messages[message];
            let client = &self.clients[publisher];
            let will = client.wills.iter().find(|will| will.message == message);
            let Some(will) = will else { panic!("{}: an unknown will", client.name) };
            let now = self.world.now;
            match will.fate {
                Fate::Pending => {
                    let conn = client.conn.expect("it is pending");
                    let live = self.world.conns[conn].server == End::Open
                        && client.is_alone(&self.world)
                        && self.world.is_live(conn);
                    assert!(!live, "{}: the will of a connection that lives", client.name);
                }
                Fate::Delayed(since)
                    if client.stage == Stage::Offline && client.is_alone(&self.world) =>
                {
                    let due = since + will.delay * 1000;
                    assert!(now >= due, "{}: {will:?} at {now}, before {due}", client.name);
                }
                Fate::Never => panic!("{}: {will:?} at {now}", client.name),
                _ => {}
            }
        }
    }
}

/// A burst to what the client itself subscribes to, as some others do.
fn echo(client: &mut Client, run: &mut Run) {
    let topic = format!("t/{}/{}", client.at % 4, client.at / 4 % 4);
    let qos = 1 + client.at as u8 / 16 % 2;
    if !client.subs.contains_key(&topic) {
        client.subscribe(run, &topic, plain_sub(qos));
        return;
    }
    for _ in 0..run.rng.range(4, 20) {
        let length = run.rng.range(8, 60);
        client.publish(run, topic.clone(), qos, false, length);
    }
}

fn subscription(run: &mut Run, groups: usize, qos: u8) -> (String, Sub) {
    let rng = &mut run.rng;
    let (a, b) = (rng.below(4), rng.below(4));
    let group = rng.below(groups);
    let filter = match rng.below(16) {
        0 | 1 => "t/#".into(),
        2 | 3 => format!("t/{a}/+"),
        4 => format!("t/+/{b}"),
        5 => format!("t/{a}/{b}/#"),
        6..=8 => format!("t/{a}/{b}"),
        9 => "r/#".into(),
        10 => "r/all/+".into(),
        11 => format!("r/{}/+", rng.below(60)),
        12 => ["$SYS/#", "$SYS/broker/clients/+"][rng.below(2)].into(),
        _ => format!("$share/g{group}/s/{group}/#"),
    };
    let shared = filter.starts_with("$share");
    let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
    let sub = Sub {
        qos: if shared { qos.max(1) } else { qos },
        no_local: !shared && rng.chance(200),
        as_published: rng.chance(300),
        handling: handling[rng.below(3)],
        id: if rng.chance(300) { rng.range(1, 500) as u32 } else { 0 },
        since: 0,
    };
    (filter, sub)
}
