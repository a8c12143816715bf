//! N shards, their drivers and mailboxes, and a virtual clock; stepped as `broker::core` does it.

use crate::net::{Conn, ConnId, Driver, Event, Faults, tell};
use crate::rng::Rng;
use crate::secure::{self, Secure};
use crate::web;
use ringmq::cluster::junction::Junction;
use ringmq::ids::{ListenerId, ShardId};
use ringmq::limits::{CLUSTER_PEERS, MAIL_WORK};
use ringmq::mesh::mail::{Control, Stamped};
use ringmq::mesh::mailbox::{MailEnds, NodeEnds, clustered, mailboxes};
use ringmq::mesh::quota::{Quota, Rate};
use ringmq::mesh::{ListenerState, Shared};
use ringmq::message::Message;
use ringmq::shard::inquiry::{Submission, SubmissionReply, Submissions};
use ringmq::shard::step::{Step, StepBounds, Surroundings};
use ringmq::shard::{AccessQuestion, Action, LoopSignals, Settings, Shard};
use ringmq::telemetry::{Counters, MetricKind};
use ringmq::time::Instant;
use ringmq::topic::Seeds;
use ringmq::transport::tls::{Server, TicketKeys};
use ringmq::transport::{Stack, Web};
use rustls::ClientConfig;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub struct Node {
    pub shard: Shard,
    ends: MailEnds<Stamped, Control>,
    pub driver: Driver,
    /// What the control thread has asked for and the shard has not yet seen.
    orders: VecDeque<Order>,
    pub listening: bool,
    /// It still reads what was stored, and does nothing else.
    pub reading: bool,
    /// A step under way.
    step: Option<Step>,
    /// The last step said that there is more, or a doorbell rang.
    awake: bool,
    /// Steps that found something to do.
    pub busy: u64,
    /// What the last step cost, and most of all, in the units of `limits::cost`.
    pub work: u32,
    pub most_work: u32,
    /// What mail cost in the last step.
    pub mail_work: u32,
    /// The last step sent retained messages; all that were sent before it.
    pub replayed: bool,
    replayed_before: u64,
    /// What the loop around the shard measures.
    pub signals: LoopSignals,
    /// What helper threads are to find out, each with when they will have.
    questions: VecDeque<(u64, AccessQuestion)>,
    /// What is to be published from outside, before and after the shard has seen it.
    submitted: Vec<Submission>,
    submissions: Submissions,
}

/// What the control thread tells a core.
#[derive(Clone)]
pub enum Order {
    /// Open the listeners.
    Listen(Vec<Arc<ListenerState>>),
    Reload(Arc<Settings>),
    /// The first listener's TLS.
    Secure(Arc<Server>),
    Drain,
    Dismiss,
}

/// How a world is built.
pub struct Plan {
    pub seed: u64,
    pub shards: usize,
    pub data: usize,
    pub control: usize,
    pub settings: Settings,
    pub faults: Faults,
    pub listener_states: Vec<ListenerState>,
}

/// Certificates of clients are asked for and not required.
pub const TLS: &str = "client_ca: ca.crt, client_certificate: optional";

pub struct World {
    pub rng: Rng,
    pub now: u64,
    pub nodes: Vec<Node>,
    pub conns: Vec<Conn>,
    pub shared: Arc<Shared>,
    pub listener_states: Vec<Arc<ListenerState>>,
    pub hash: u64,
    /// Completions per step.
    pub limit: usize,
    /// A step's share of work for data mail.
    pub mail: u32,
    /// Steps of all shards so far.
    pub steps: u64,
    /// A listener with layers, how many clients in a thousand use it, and what they choose by.
    pub layered: Option<(u16, usize, Rng)>,
    /// What clients of listeners with TLS begin with, in turn.
    pub tls: Vec<Arc<ClientConfig>>,
    /// Of those listeners.
    pub tickets: Arc<TicketKeys>,
    /// Milliseconds that a helper thread takes for an answer.
    pub think: u64,
    micros: u64,
    /// The clock of mail.
    stamp: u64,
    /// That of a process that waits for a node's place.
    pub junction: Option<Junction>,
}

/// A run of more steps than this goes round in a circle.
const STEPS: u64 = 3_000_000;

/// A listener open to everybody.
pub fn listener_state(mountpoint: &str) -> ListenerState {
    ListenerState {
        name: "sim".into(),
        allow_anonymous: true,
        mountpoint: mountpoint.into(),
        max_connections: u64::MAX,
        max_connect_rate: None,
        stack: Default::default(),
        connections: Quota::default(),
        rate: Rate::default(),
        accepted: Default::default(),
        refused: Default::default(),
    }
}

/// The same, with layers below MQTT.
pub fn layered_entrance(mountpoint: &str, stack: Stack) -> ListenerState {
    ListenerState { stack, ..listener_state(mountpoint) }
}

/// WebSockets for everybody.
pub fn web() -> Web {
    Web { path: "/mqtt".into(), origins: None }
}

impl Node {
    /// Whether a suspended shard has finished what was under way.
    pub fn rests(&self) -> bool {
        self.step.is_none()
            && self.questions.is_empty()
            && self.shard.under_way().is_none()
            && !self.ends.has_mail()
            && self.driver.rests()
    }
}

impl World {
    /// The clocks of another process go on here.
    pub fn take_time_of(&mut self, other: &World) {
        self.rng = other.rng.clone();
        (self.now, self.micros) = (other.now, other.micros);
        (self.stamp, self.steps) = (other.stamp, other.steps);
    }

    pub fn new(plan: Plan) -> World {
        let shared = Shared::new(Seeds::fixed(plan.seed));
        let ends = mailboxes(plan.shards, plan.data, plan.control);
        World::of(plan, shared, ends)
    }

    /// One that does not listen yet, and whose shards are still reading what was stored.
    pub fn unopened(mut plan: Plan) -> World {
        let listener_states = std::mem::take(&mut plan.listener_states);
        let mut world = World::new(plan);
        world.listener_states = listener_states.into_iter().map(Arc::new).collect();
        for node in &mut world.nodes {
            (node.listening, node.reading) = (false, true);
        }
        world
    }

    /// Every shard is told to listen, and does from its next step on.
    pub fn open(&mut self) {
        self.order(&Order::Listen(self.listener_states.clone()));
    }

    /// Shards that do not read any more.
    pub fn awake_since_reading(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&at| !self.nodes[at].reading).collect()
    }

    /// A node of a cluster, and the cluster's ends of its mailboxes.
    pub fn clustered(plan: Plan) -> (World, NodeEnds<Stamped, Control>) {
        let shared = Shared::clustered(Seeds::fixed(plan.seed));
        let (ends, node) = clustered(plan.shards, CLUSTER_PEERS, plan.data, plan.control);
        (World::of(plan, shared, ends), node)
    }

    fn of(plan: Plan, shared: Arc<Shared>, ends: Vec<MailEnds<Stamped, Control>>) -> World {
        let settings = Arc::new(plan.settings);
        let now = 1000;
        let listener_states: Vec<_> = plan.listener_states.into_iter().map(Arc::new).collect();
        let secure = listener_states.iter().any(|state| state.stack.tls);
        let tickets = TicketKeys::new(Duration::from_secs(3600));
        let server = secure.then(|| secure::server(TLS, Some(tickets.clone())));
        let certified = 0..if secure { secure::CLIENTS } else { 0 };
        let nodes = ends
            .into_iter()
            .enumerate()
            .map(|(id, ends)| {
                let mut shard = Shard::new(
                    ShardId(id as u8),
                    plan.shards as u8,
                    Arc::clone(&settings),
                    Arc::clone(&shared),
                    Instant(now),
                );
                for (at, listener_state) in listener_states.iter().enumerate() {
                    shard.open_listener(ListenerId(at as u16), Arc::clone(listener_state));
                    if let Some(server) = server.as_ref().filter(|_| listener_state.stack.tls) {
                        shard.secure(ListenerId(at as u16), Arc::clone(server));
                    }
                }
                Node {
                    shard,
                    ends,
                    driver: Driver::new(plan.faults),
                    orders: VecDeque::new(),
                    listening: true,
                    reading: false,
                    step: None,
                    awake: true,
                    busy: 0,
                    work: 0,
                    most_work: 0,
                    mail_work: 0,
                    replayed: false,
                    replayed_before: 0,
                    signals: LoopSignals::default(),
                    questions: VecDeque::new(),
                    submitted: Vec::new(),
                    submissions: Submissions::default(),
                }
            })
            .collect();
        World {
            rng: Rng::new(plan.seed),
            now,
            nodes,
            conns: Vec::new(),
            shared,
            listener_states,
            hash: 0xcbf2_9ce4_8422_2325,
            limit: 64,
            mail: MAIL_WORK,
            layered: None,
            tls: certified.map(|number| secure::client(Some(number))).collect(),
            tickets,
            stamp: 0,
            junction: None,
            steps: 0,
            think: 0,
            micros: now * 1000,
        }
    }

    /// Mixes into the trace.
    pub fn note(&mut self, value: u64) {
        note(&mut self.hash, value);
    }

    /// A client connects to that shard's first listener.
    pub fn connect(&mut self, shard: usize, up: usize, down: usize) -> ConnId {
        self.connect_to(0, shard, up, down)
    }

    /// The listener that the next client connects to.
    pub fn some_listener(&mut self) -> u16 {
        let Some((listener, share, rng)) = &mut self.layered else { return 0 };
        if rng.chance(*share) { *listener } else { 0 }
    }

    /// A client connects to one of that shard's listeners.
    pub fn connect_to(&mut self, listener: u16, shard: usize, up: usize, down: usize) -> ConnId {
        self.conns.push(Conn::new(up, down, self.now));
        let conn = self.conns.len() - 1;
        let (stack, number) = (&self.listener_states[usize::from(listener)].stack, conn as u64 + 1);
        let state = &mut self.conns[conn];
        if stack.web.is_some() {
            state.web = Some(Box::new(web::Web::new(number)));
        }
        if stack.tls {
            let config = &self.tls[conn % self.tls.len()];
            state.secure = Some(Box::new(Secure::new(config, number)));
        }
        if let Some(versions) = stack.proxy {
            state.header = secure::header(versions).into();
            state.header_left = state.header.len();
        }
        let driver = &mut self.nodes[shard].driver;
        driver.accepts.push_back((conn, ListenerId(listener)));
        if !self.nodes[shard].listening {
            self.nodes[shard].driver.stop_listening(&mut self.conns, Instant(self.now));
        }
        conn
    }

    /// True when this shard's loop would not be asleep.
    pub fn is_runnable(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let now = Instant(self.now);
        if node.reading {
            return false;
        }
        node.awake
            || node.step.is_some()
            || !node.orders.is_empty()
            || node.questions.iter().any(|(at, _)| *at <= self.now)
            || node.ends.has_mail()
            || node.driver.is_ready(&self.conns, now)
            || node.shard.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// True while a step of that shard is under way.
    pub fn is_mid_step(&self, at: usize) -> bool {
        self.nodes[at].step.is_some()
    }

    /// True when that shard stays where it is in its step, while others go on: most of the time, or
    /// what can happen meanwhile would be rare.
    pub fn dawdles(&mut self, at: usize) -> bool {
        self.is_mid_step(at) && self.rng.chance(900)
    }

    /// Tells every shard, each of which sees it in its next step.
    pub fn order(&mut self, order: &Order) {
        for node in &mut self.nodes {
            node.orders.push_back(order.clone());
        }
    }

    /// Whether some shard still listens to that connection, or may come to.
    pub fn is_live(&self, conn: ConnId) -> bool {
        self.nodes.iter().any(|node| {
            let socket = node.driver.socket(conn);
            socket.is_some_and(|socket| node.shard.listens_to(socket))
        })
    }

    /// The whole trace: what went in, in which steps, and what came out.
    pub fn trace(&self) -> u64 {
        let mix = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        self.nodes.iter().fold(self.hash, |hash, node| mix(hash, node.driver.trace))
    }

    /// Lets time pass. No step takes any.
    pub fn advance(&mut self, millis: u64) {
        for at in 0..self.nodes.len() {
            self.finish(at);
        }
        self.now += millis;
        self.note(self.now);
    }

    /// A step of one shard's loop, or a part of one where others go on in between.
    pub fn step(&mut self, at: usize) {
        if self.nodes[at].step.is_none() {
            self.begin(at);
        }
        self.go_on(at, |world| world.rng.chance(world.nodes[at].driver.faults.torn));
    }

    /// True when that shard's last step is over.
    pub fn is_between_steps(&self, at: usize) -> bool {
        self.nodes[at].step.is_none()
    }

    /// Goes on with a step of that shard until it is over, or `stop` says so after a part of it.
    pub fn step_until(&mut self, at: usize, stop: impl FnMut(&mut World) -> bool) {
        if self.nodes[at].step.is_none() {
            self.begin(at);
        }
        self.go_on(at, stop);
    }

    /// A step up to where its mail has been taken in and no client has been listened to.
    pub fn step_to_input(&mut self, at: usize) {
        self.begin(at);
        let mut parts = 0;
        self.go_on(at, |_| {
            parts += 1;
            parts == 2
        });
    }

    /// Whatever is left of a step that is under way.
    pub fn finish(&mut self, at: usize) {
        self.go_on(at, |_| false);
    }

    fn go_on(&mut self, at: usize, mut stop: impl FnMut(&mut World) -> bool) {
        while let Some(mut step) = self.nodes[at].step.take() {
            if self.take_part(at, &mut step) {
                self.end(at, &step);
                return;
            }
            self.nodes[at].step = Some(step);
            if stop(self) {
                return;
            }
        }
    }

    fn begin(&mut self, at: usize) {
        self.micros = (self.micros + 1).max(self.now * 1000);
        self.steps += 1;
        assert!(self.steps < STEPS, "the run does not come to an end");
        let now = Instant(self.now);
        let node = &mut self.nodes[at];
        node.awake = false;
        node.shard.begin(now, self.micros);
        while let Some(order) = node.orders.pop_front() {
            match order {
                Order::Listen(states) => {
                    node.listening = true;
                    for (at, state) in states.into_iter().enumerate() {
                        node.shard.open_listener(ListenerId(at as u16), state);
                    }
                }
                Order::Reload(settings) => node.shard.reload(settings),
                Order::Secure(server) => node.shard.secure(ListenerId(0), server),
                Order::Drain => {
                    node.listening = false;
                    node.driver.stop_listening(&mut self.conns, now);
                    node.shard.drain();
                }
                Order::Dismiss => node.shard.dismiss(),
            }
        }
        node.submitted.drain(..).for_each(|given| node.submissions.push(given));
        let unix = self.now / 1000;
        while let Some(at) = node.questions.iter().position(|(at, _)| *at <= self.now) {
            let (_, question) = node.questions.remove(at).unwrap();
            if !question.deeds.is_empty() {
                // As a service would that lets everybody do all but what it says itself.
                let may = |(_, topic): &(_, Box<str>)| match topic.contains("asked/no") {
                    true => ringmq::access::Said::Deny,
                    false => ringmq::access::Said::Allow,
                };
                let said: Vec<_> = question.deeds.iter().map(may).collect();
                node.shard.permitted(question.socket, question.ticket, &said);
                continue;
            }
            let verdict = question.access.work_out(
                question.method,
                &question.proof,
                &ringmq::access::ServiceFinding::Nothing,
                unix,
            );
            node.shard.answered(question.socket, question.ticket, verdict);
        }
        node.step = Some(Step::new(StepBounds { completions: self.limit, mail: self.mail }));
    }

    fn take_part(&mut self, at: usize, step: &mut Step) -> bool {
        let node = &mut self.nodes[at];
        let mut around = Around {
            at,
            driver: &mut node.driver,
            conns: &mut self.conns,
            rng: &mut self.rng,
            hash: &mut self.hash,
            stamp: &mut self.stamp,
            now: Instant(self.now),
            rung: Vec::new(),
            asked: Vec::new(),
            submissions: &mut node.submissions,
        };
        let over = step.advance(&mut node.shard, &mut node.ends, &mut around);
        let ready = self.now + self.think;
        let asked = around.asked.into_iter().map(|question| (ready, question));
        let rung = around.rung;
        self.nodes[at].questions.extend(asked);
        for peer in rung {
            // The cluster is looked at in each round of its test.
            if let Some(node) = self.nodes.get_mut(usize::from(peer.0)) {
                node.awake = true;
            }
        }
        for (home, conn, cookie) in std::mem::take(&mut self.nodes[at].driver.departures) {
            self.nodes[usize::from(home.0)].driver.arrive(conn, cookie);
        }
        over
    }

    fn end(&mut self, at: usize, step: &Step) {
        let shards = self.nodes.len();
        let node = &mut self.nodes[at];
        node.submissions.tell();
        // Whoever has no room parks the publisher before the message is accepted.
        for peer in (0..shards).filter(|&peer| peer != at) {
            let letters = node.shard.outbox().to(ShardId(peer as u8));
            assert!(letters.data.is_empty(), "data mail for {peer} without room for it");
        }
        if node.shard.asks_for_signals(self.micros) {
            node.shard.assess(self.micros, &node.signals);
        }
        node.work = node.shard.work();
        node.mail_work = node.shard.mail_work();
        node.most_work = node.most_work.max(node.work);
        let counters = &node.shard.counters;
        let replayed = counters.messages_retained_replayed + counters.retained_slices;
        node.replayed = replayed != node.replayed_before;
        node.replayed_before = replayed;
        let busy = step.is_busy();
        node.busy += u64::from(busy);
        // Whoever waits for room only naps.
        node.awake |= busy || node.shard.awaits_room();
        self.note(u64::from(busy));
    }

    /// The next time by which mail is ordered.
    pub fn stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// A shard has something to look at that is no mail and no client's.
    pub fn wake(&mut self, at: usize) {
        self.nodes[at].awake = true;
    }

    /// An operator's question to a shard that is between two steps, asked at the begin of one.
    pub fn inquire<T>(&mut self, at: usize, question: impl FnOnce(&mut Shard) -> T) -> T {
        self.micros = self.micros.max(self.now * 1000);
        let node = &mut self.nodes[at];
        node.shard.begin(Instant(self.now), self.micros);
        node.awake = true;
        question(&mut node.shard)
    }

    /// A shard is given something to publish, of which it knows from its next step on.
    pub fn submit(
        &mut self,
        at: usize,
        publish: impl FnOnce(&mut Shard) -> SubmissionReply + Send + 'static,
    ) {
        self.nodes[at].submitted.push(Box::new(publish));
        self.nodes[at].awake = true;
    }

    /// Some shard that is awake.
    pub fn pick_awake(&mut self) -> Option<usize> {
        let first = self.rng.below(self.nodes.len());
        let all = (0..self.nodes.len()).map(|at| (first + at) % self.nodes.len());
        all.into_iter().find(|&at| self.is_runnable(at))
    }

    /// Steps whoever is awake until nobody is. Panics when somebody would sleep on work.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let Some(pick) = self.pick_awake() else {
                self.check_sleep();
                return;
            };
            self.step(pick);
        }
        self.never_rests();
    }

    pub fn never_rests(&self) {
        let audits: Vec<_> = self.nodes.iter().map(|node| node.shard.audit()).collect();
        let now = Instant(self.now);
        let reasons = self.nodes.iter().map(|node| {
            let due = node.shard.deadline().is_some_and(|deadline| deadline <= now);
            let ready = node.driver.is_ready(&self.conns, now);
            [node.awake, node.step.is_some(), node.ends.has_mail(), ready, due]
        });
        let reasons: Vec<_> = reasons.collect();
        panic!(
            "the shards never come to rest (awake, in a step, mail, sockets, deadline): \
            {reasons:?}, {audits:?}"
        );
    }

    /// Nobody may fall asleep on mail or on work that only another event would bring up.
    pub fn check_sleep(&self) {
        let (mut crowded, mut waited_for) = (0, 0);
        for node in &self.nodes {
            let audit = node.shard.audit();
            crowded += audit.crowded;
            waited_for += audit.parked[0];
            assert_eq!(audit.staged, 0, "shard {:?} sleeps on staged mail", node.shard.id());
            assert_eq!(
                audit.waiting_for_mail,
                0,
                "shard {:?} sleeps while connections wait for a mailbox",
                node.shard.id()
            );
        }
        assert!(crowded == 0 || waited_for > 0, "{crowded} publishers are parked for nobody");
    }

    /// All shards' figures.
    pub fn counters(&self) -> Counters {
        let mut total = Counters::default();
        for node in &self.nodes {
            total.add(&node.shard.counters);
        }
        total
    }

    /// What is inconsistent anywhere.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.memory_problems();
        for node in &self.nodes {
            let id = node.shard.id().0;
            let audit = node.shard.audit();
            problems.extend(audit.problems.into_iter().map(|text| format!("shard {id}: {text}")));
            for (descriptor, value) in node.shard.counters.iter() {
                if descriptor.kind == MetricKind::Gauge && value > 1 << 62 {
                    problems.push(format!("shard {id}: {} is below zero", descriptor.field));
                }
            }
        }
        problems
    }

    /// What the shards hold is what they were told of each other, and output is what there is.
    fn memory_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let told: u64 = self.nodes.iter().map(|node| node.shard.told_memory()).sum();
        let used = self.shared.memory.used() - self.shared.cluster_memory.used();
        if told != used {
            problems.push(format!("memory: {told} were told, {used} are known"));
        }
        for node in &self.nodes {
            let (mut bytes, mut seen) = (0, BTreeMap::new());
            let mut each = |capacity: usize, shared: Option<&Message>| {
                bytes += capacity;
                shared.map(|message| seen.insert(message.address(), message.size()));
            };
            node.driver.visit_output(&mut each);
            let counted = node.shard.visit_output(&mut each);
            let found = bytes + seen.values().sum::<usize>();
            if counted != found {
                problems.push(format!("memory: {counted} of output, there is {found}"));
            }
        }
        problems
    }

    /// What is left of clients anywhere, once they and their sessions have all gone. Retained
    /// messages and timers may stay.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for node in &self.nodes {
            let audit = node.shard.audit();
            let counts = [
                ("sessions", audit.sessions),
                ("connections", audit.connections),
                ("flows", audit.flows),
                ("idle_flows", audit.idle_flows),
                ("filters", audit.filters),
                ("subscribers", audit.subscribers),
                ("groups", audit.groups),
                ("members", audit.members),
                ("arrivals", audit.arrivals),
                ("departing", audit.departing.0 + audit.departing.1),
                ("wills", audit.wills),
                ("parked", audit.parked.iter().sum()),
                ("sockets", node.driver.open()),
            ];
            let counts = counts.map(|(name, count)| (name, count as u64));
            // Retained messages are gauges too, and checked by whoever knows what is to stay.
            let gauges = node.shard.counters.iter().filter(|(descriptor, _)| {
                // Those of memory are told now and then; what is held by now is looked at below.
                let other = descriptor.field.contains("retained")
                    || descriptor.field.starts_with("memory_")
                    || descriptor.field.starts_with("signal_")
                    || descriptor.field.starts_with("overload_");
                descriptor.kind == MetricKind::Gauge && !other
            });
            let held: u64 = node.shard.held().iter().sum::<u64>() - node.shard.held()[4];
            let held = [("bytes held besides retained messages", held)];
            let gauges = gauges.map(|(descriptor, value)| (descriptor.field, value));
            let id = node.shard.id().0;
            let some =
                counts.into_iter().chain(gauges).chain(held).filter(|&(_, count)| count != 0);
            left.extend(some.map(|(name, count)| format!("shard {id}: {count} {name}")));
        }
        if !self.shared.interest.is_empty() {
            left.push("interest keys".into());
        }
        let connections = self.shared.connections.used();
        if connections != 0 {
            left.push(format!("{connections} of the broker's connections"));
        }
        let listener_states =
            self.listener_states.iter().map(|listener_state| listener_state.connections.used());
        left.extend(listener_states.filter(|&n| n != 0).map(|n| format!("{n} of a listener's")));
        left
    }
}

fn note(hash: &mut u64, value: u64) {
    *hash = (*hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
}

fn note_bytes(hash: &mut u64, bytes: &[u8]) {
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        note(hash, u64::from_le_bytes(word));
    }
    note(hash, bytes.len() as u64);
}

/// What is around one shard during a part of its step.
struct Around<'a> {
    at: usize,
    driver: &'a mut Driver,
    conns: &'a mut [Conn],
    rng: &'a mut Rng,
    hash: &'a mut u64,
    stamp: &'a mut u64,
    now: Instant,
    rung: Vec<ShardId>,
    asked: Vec<AccessQuestion>,
    submissions: &'a mut Submissions,
}

impl Surroundings for Around<'_> {
    fn harvest(&mut self) {
        self.driver.harvest(self.conns, self.now, self.rng);
    }

    fn visit(&mut self, shard: &mut Shard, limit: usize) -> usize {
        let mut visited = 0;
        while visited < limit {
            let Some((socket, event)) = self.driver.next() else { break };
            visited += 1;
            note(self.hash, (self.at as u64) << 40 | u64::from(socket.0) << 4 | kind(&event));
            if let Event::Received(bytes) = &event {
                let conn = &mut self.conns[self.driver.conn(socket)];
                let (count, whole) = conn.completes(bytes);
                if shard.listens_to(socket) {
                    conn.taken += count;
                    if whole {
                        conn.taken_at = self.now.0;
                    }
                }
                match &conn.secure {
                    None => note_bytes(self.hash, bytes),
                    Some(_) => note(self.hash, bytes.len() as u64),
                }
            }
            tell(shard, socket, event);
        }
        visited
    }

    fn submit(&mut self, shard: &mut Shard) -> bool {
        self.submissions.run(shard)
    }

    fn has_more(&mut self) -> bool {
        self.rng.chance(self.driver.faults.torn) && self.driver.is_ready(self.conns, self.now)
    }

    fn has_heard_everyone(&mut self) -> bool {
        self.driver.has_heard_everyone(self.conns)
    }

    fn act(&mut self, action: Action) {
        let action = match action {
            Action::Ask(question) => {
                self.asked.push(*question);
                return;
            }
            action => action,
        };
        let sends = if let Action::Send(socket, _) = action { Some(socket) } else { None };
        self.driver.act(action, self.conns, self.now);
        if let Some(socket) = sends
            && self.rng.chance(self.driver.faults.eager)
        {
            self.driver.poll_slot(socket.0, self.conns, self.now, self.rng);
        }
    }

    fn hasten(&mut self) {}

    fn stamp(&mut self) -> u64 {
        *self.stamp += 1;
        *self.stamp
    }

    fn ring(&mut self, shard: ShardId) {
        self.rung.push(shard);
    }
}

fn kind(event: &Event) -> u64 {
    match event {
        Event::Accepted(_) => 0,
        Event::Received(_) => 1,
        Event::EndOfStream => 2,
        Event::Failed => 3,
        Event::Sent(_, ok) => 4 + u64::from(*ok),
        Event::Closed => 6,
        Event::Arrived(_) => 7,
        Event::HandedOver(_, ok) => 8 + u64::from(*ok),
    }
}
