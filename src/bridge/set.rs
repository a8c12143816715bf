//! All bridges of the broker: started with it, changed by a reload, and ended with it.
//!
//! A thread of its own carries a reload out, one at a time, because a reload waits for bridges'
//! threads, for cores and for disks. A bridge without changes continues untouched. For a bridge
//! that was removed, the links take no more messages; the bridge sends waiting messages for at most
//! `shutdown.grace`, and puts the rest away: messages on disk stay there. A bridge that has changed
//! sends no more messages, waits shortly for those under way, and hands the side towards this
//! broker over to a new thread: its buffer, its rings and the shards' links, which from then on
//! take what the new configuration says. So no message is lost, and messages that were waiting come
//! first.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "threads of their own, which share one order with the control thread"
)]

use super::buffer::directory;
use super::feed::{BridgeId, FeedCommand, FeedOrder, FeederPlan};
use super::figures::{AllBridgeFigures, BridgeFigures, BridgeState};
use super::intake::Intake;
use super::inward::Shards;
use super::lanes::BridgeLane;
use super::orders::{Orders, wait_for_end};
use super::start::{Common, Planned, WantedLane, most_bytes, state_topic};
use super::thread::{self, BridgeWork, Unstarted};
use crate::config::{self, BufferMode, Config, Get};
use crate::shard::{LinkPlan, Shard};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The additional time for putting away unsent messages on a disk.
const PUT_AWAY: Duration = Duration::from_secs(3);
/// How long a changed bridge waits for messages under way.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The additional time for its thread to end, in which it may have to leave a Kafka consumer group.
const LEAVES: Duration = Duration::from_secs(8);
/// The interval at which a waiting thread checks whether the broker stops.
const LOOK: Duration = Duration::from_millis(20);

/// Gives a core an order about a bridge.
pub type TellCore = Arc<dyn Fn(FeedCommand) + Send + Sync>;

/// A lane of a bridge whose thread runs.
struct RunningLane {
    id: BridgeId,
    config: config::Bridge,
    lane: BridgeLane,
    kind: &'static str,
    files: u64,
    link: LinkPlan,
    figures: Arc<BridgeFigures>,
    bell: Arc<Notify>,
    orders: Arc<Orders>,
    work: BridgeWork,
    thread: JoinHandle<Intake>,
}

/// The running bridges, owned by the thread that may change them.
struct BridgeSet {
    running: Vec<RunningLane>,
    common: Arc<Common>,
    shards: Shards,
    cores: Vec<TellCore>,
    shown: AllBridgeFigures,
    last_id: u32,
    /// Set when the broker stops: then nothing is waited for.
    hurry: Arc<AtomicBool>,
}

/// The owner of the running bridges.
enum Owner {
    /// No owner: there are no cores yet, or the thread that changes the bridges has panicked.
    Nobody,
    /// The control thread.
    Control(Box<BridgeSet>),
    /// A thread that is changing them.
    Change(JoinHandle<Box<BridgeSet>>),
}

/// All bridges as the control thread sees them.
pub struct Bridges {
    common: Arc<Common>,
    planned: Vec<Planned>,
    owner: Owner,
    /// The next change, and how long removed bridges may send waiting messages.
    next: Option<(Vec<WantedLane>, Duration)>,
    /// Whether it was logged that there is no thread for the next change.
    complained: bool,
    shown: AllBridgeFigures,
    hurry: Arc<AtomicBool>,
    shards: Option<Shards>,
    /// The number of lanes of each present bridge, by name.
    lanes: HashMap<String, u16>,
}

impl Bridges {
    /// Plans the bridges of the configuration, and what each core needs for them.
    ///
    /// # Errors
    /// The bridge that cannot be planned, and why.
    pub fn plan(
        config: &Config,
        common: Common,
    ) -> Result<(Bridges, VecDeque<Vec<FeederPlan>>), String> {
        let mut feeders: VecDeque<Vec<FeederPlan>> =
            (0..common.cores).map(|_| Vec::new()).collect();
        let mut planned = Vec::new();
        let all = config.bridges.iter().flat_map(|bridge| {
            BridgeLane::all(bridge.connections() as u16).map(move |lane| (bridge, lane))
        });
        for (number, (bridge, lane)) in (0..).zip(all) {
            let plan = common.plan(BridgeId(number), bridge, lane);
            let (one, ends) = plan.map_err(|why| format!("bridge {}: {why}", &*bridge.name))?;
            for (feeders, feeder) in feeders.iter_mut().zip(ends) {
                feeders.push(feeder);
            }
            planned.push(one);
        }
        let shown = AllBridgeFigures::default();
        shown.set(planned.iter().map(|planned| Arc::clone(&planned.figures)).collect());
        let bridges = Bridges {
            common: Arc::new(common),
            planned,
            owner: Owner::Nobody,
            next: None,
            complained: false,
            shown,
            hurry: Arc::default(),
            shards: None,
            lanes: HashMap::new(),
        };
        Ok((bridges, feeders))
    }

    /// The figures of all bridges.
    pub fn shown(&self) -> &AllBridgeFigures {
        &self.shown
    }

    /// Starts the bridges' threads.
    ///
    /// # Errors
    /// The bridge that cannot start, and why.
    pub fn start(
        &mut self,
        config: &Config,
        shards: Shards,
        cores: Vec<TellCore>,
    ) -> Result<(), String> {
        self.shards = Some(shards.clone());
        let planned = std::mem::take(&mut self.planned);
        let mut set = Box::new(BridgeSet {
            running: Vec::new(),
            common: Arc::clone(&self.common),
            shards,
            cores,
            shown: self.shown.clone(),
            last_id: planned.len() as u32,
            hurry: Arc::clone(&self.hurry),
        });
        let wanted = self.wanted(config).map_err(|problems| problems.join("\n"))?;
        self.remember(&wanted);
        for (planned, wanted) in planned.into_iter().zip(wanted) {
            let name = planned.config.name.to_string();
            set.start(planned, wanted).map_err(|why| format!("bridge {name}: {why}"))?;
        }
        self.owner = Owner::Control(set);
        Ok(())
    }

    /// The lanes that a configuration wants.
    ///
    /// # Errors
    /// All that is wrong with its bridges, with the keys.
    pub fn wanted(&self, config: &Config) -> Result<Vec<WantedLane>, Vec<String>> {
        let (mut wanted, mut problems) = (Vec::new(), Vec::new());
        let Some(shards) = &self.shards else { return Ok(wanted) };
        let most = config.mqtt.max_packet_size.get();
        for (at, bridge) in config.bridges.iter().enumerate() {
            let lanes = self.lanes_of(bridge);
            match self.common.wanted(bridge, lanes, most, shards) {
                Ok(some) => wanted.extend(some),
                Err(why) => problems.push(format!("bridges.{at}.{why}")),
            }
        }
        if problems.is_empty() { Ok(wanted) } else { Err(problems) }
    }

    /// The number of lanes of a bridge: a present bridge keeps its number until a restart.
    fn lanes_of(&self, bridge: &config::Bridge) -> u16 {
        let wanted = bridge.connections() as u16;
        let known = self.lanes.get(&*bridge.name).copied();
        if known.is_some_and(|known| known != wanted) && bridge.mqtt.is_some() {
            let bridge = &*bridge.name;
            tracing::warn!(bridge, "connections: another number needs a restart");
        }
        known.filter(|_| bridge.mqtt.is_some()).unwrap_or(wanted)
    }

    /// Changes the bridges to these. `grace` is how long removed bridges may send waiting messages.
    pub fn change(&mut self, wanted: Vec<WantedLane>, grace: Duration) {
        self.remember(&wanted);
        self.next = Some((wanted, grace));
        self.go_on();
    }

    fn remember(&mut self, wanted: &[WantedLane]) {
        let lanes = wanted.iter().map(|w| (w.config.name.to_string(), w.lane.of));
        self.lanes = lanes.collect();
    }

    /// Continues with changes: takes the bridges back from a thread that is done, and starts the
    /// next one.
    pub fn go_on(&mut self) {
        if matches!(&self.owner, Owner::Change(thread) if thread.is_finished()) {
            self.fetch();
        }
        let Some((wanted, grace)) = self.next.take() else { return };
        match std::mem::replace(&mut self.owner, Owner::Nobody) {
            Owner::Control(set) if set.is_the_same(&wanted) => self.owner = Owner::Control(set),
            Owner::Control(set) => {
                let thread = std::thread::Builder::new().name("bridges".to_owned());
                self.begin(thread, set, wanted, grace);
            }
            other => (self.owner, self.next) = (other, Some((wanted, grace))),
        }
    }

    /// Gives the bridges to a thread that changes them. When there is none, the control thread
    /// keeps them as they are, and the change is tried again.
    fn begin(
        &mut self,
        thread: std::thread::Builder,
        set: Box<BridgeSet>,
        wanted: Vec<WantedLane>,
        grace: Duration,
    ) {
        let change = |(mut set, wanted, grace): (Box<BridgeSet>, _, _)| {
            set.change(wanted, grace);
            set
        };
        match thread::give(thread, (set, wanted, grace), change) {
            Ok(thread) => (self.owner, self.complained) = (Owner::Change(thread), false),
            Err(Unstarted { error, kept: (set, wanted, grace) }) => {
                (self.owner, self.next) = (Owner::Control(set), Some((wanted, grace)));
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!(%error, "no thread to change the bridges; it is tried again");
                }
            }
        }
    }

    /// Takes the bridges back from the thread that changed them.
    fn fetch(&mut self) {
        if let Owner::Change(thread) = std::mem::replace(&mut self.owner, Owner::Nobody) {
            match thread.join() {
                Ok(set) => self.owner = Owner::Control(set),
                Err(_) => tracing::error!("bridges cannot be changed any more: restart the broker"),
            }
        }
    }

    /// Ends all bridges after the cores have ended: they send waiting messages until `until` and
    /// put the rest away.
    pub fn stop(&mut self, until: Instant) {
        self.hurry.store(true, Ordering::Relaxed);
        // The cores may have used up the time until `until`.
        let end = until.max(Instant::now()) + PUT_AWAY;
        if let Owner::Change(thread) = &self.owner {
            wait_for_end(thread, end);
            if thread.is_finished() {
                self.fetch();
            }
        }
        let Owner::Control(set) = &mut self.owner else { return };
        for running in &set.running {
            running.orders.end(until);
            running.bell.notify_one();
        }
        for running in set.running.drain(..) {
            // A thread that does not end now ends with the process.
            wait_for_end(&running.thread, end);
        }
    }
}

impl BridgeSet {
    /// Whether nothing has to be changed.
    fn is_the_same(&self, wanted: &[WantedLane]) -> bool {
        self.running.len() == wanted.len()
            && self.running.iter().zip(wanted).all(|(running, wanted)| running.is(wanted))
    }

    fn start(&mut self, planned: Planned, wanted: WantedLane) -> Result<(), String> {
        let (id, link) = (planned.id, planned.link.clone());
        let figures = Arc::clone(&planned.figures);
        let intake = self.common.intake(planned, &self.shards)?;
        let (bell, orders) = (Arc::clone(&intake.bell), Arc::clone(&intake.orders));
        let WantedLane { config, lane, kind, files, work } = wanted;
        let thread = thread::start(&thread_name(&config, lane), Arc::clone(&work), intake);
        let thread = thread.map_err(|unstarted| unstarted.error.to_string())?;
        let running = RunningLane {
            id,
            config,
            lane,
            kind,
            files,
            link,
            figures,
            bell,
            orders,
            work,
            thread,
        };
        self.running.push(running);
        Ok(())
    }

    /// Changes the bridges to these.
    fn change(&mut self, mut wanted: Vec<WantedLane>, grace: Duration) {
        let key =
            |config: &config::Bridge, lane: BridgeLane| (config.name.to_string(), lane.number);
        let order: Vec<_> = wanted.iter().map(|wanted| key(&wanted.config, wanted.lane)).collect();
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for running in std::mem::take(&mut self.running) {
            let same = |wanted: &WantedLane| {
                *wanted.config.name == *running.config.name
                    && (wanted.kind, wanted.lane) == (running.kind, running.lane)
            };
            match wanted.iter().position(same).map(|at| wanted.remove(at)) {
                None => gone.push(running),
                Some(wanted) if running.is(&wanted) => self.running.push(running),
                Some(wanted) => changed.push((running, wanted)),
            }
        }
        let now = Instant::now();
        for running in &gone {
            self.tell_cores(|_| Some(FeedOrder::Mute(running.id)));
            running.orders.end(now + grace);
            running.bell.notify_one();
        }
        for (running, _) in &changed {
            running.orders.hand_over(now + UNDER_WAY);
            running.bell.notify_one();
        }
        for (running, wanted) in changed {
            self.exchange(running, wanted, now + UNDER_WAY + LEAVES);
        }
        self.show();
        for running in gone {
            self.part(running, now + grace + PUT_AWAY);
        }
        for wanted in wanted {
            let name = wanted.config.name.to_string();
            match self.add(wanted) {
                Ok(()) => tracing::info!(bridge = &*name, "bridge added"),
                Err(why) => tracing::error!(bridge = &*name, why, "the bridge cannot start"),
            }
        }
        let place = |running: &RunningLane| {
            let key = key(&running.config, running.lane);
            order.iter().position(|other| *other == key)
        };
        self.running.sort_by_key(place);
        self.show();
        tracing::info!("bridges are as the configuration says");
    }

    fn show(&self) {
        self.shown.set(self.running.iter().map(|running| Arc::clone(&running.figures)).collect());
    }

    fn add(&mut self, wanted: WantedLane) -> Result<(), String> {
        self.last_id += 1;
        let (planned, feeders) =
            self.common.plan(BridgeId(self.last_id), &wanted.config, wanted.lane)?;
        self.start(planned, wanted)?;
        let mut feeders: VecDeque<FeederPlan> = feeders.into();
        self.tell_cores(|_| Some(FeedOrder::Open(Box::new(feeders.pop_front()?))));
        Ok(())
    }

    /// Ends a bridge that the configuration no longer has.
    fn part(&mut self, running: RunningLane, until: Instant) {
        let RunningLane { id, config, lane, kind, figures, orders, bell, thread, .. } = running;
        let bridge = &*config.name;
        self.wait(&thread, until, || {
            orders.end(Instant::now());
            bell.notify_one();
        });
        if thread.is_finished() {
            let left = thread.join().map_or(0, |intake| intake.buffer.len());
            let stored = config.buffer.mode != BufferMode::Memory;
            if left > 0 && stored {
                let directory = lane.directory(&directory(&config, &self.common.storage));
                let directory = directory.display();
                let what = "bridge removed; what waited for its other end stays on disk";
                tracing::warn!(bridge, left, %directory, "{what}");
            } else {
                tracing::info!(bridge, "bridge removed");
            }
        } else {
            tracing::error!(bridge, "bridge removed; its thread does not end");
        }
        figures.set_state(BridgeState::Idle);
        self.tell_cores(|_| Some(FeedOrder::Close(id)));
        if kind != "http" && lane.is_first() {
            self.forget_state(&state_topic(bridge));
        }
    }

    /// Removes the retained message with a bridge's state.
    fn forget_state(&self, topic: &str) {
        for _ in 0..50 {
            let (answer, told) = channel();
            let topic = topic.to_owned();
            let Some(submit) = self.shards.submit.first() else { return };
            submit(Box::new(move |shard: &mut Shard| {
                let done = shard.publish_state(&topic, b"");
                // The receiver may have given up.
                Box::new(move || {
                    let _ = answer.send(done);
                })
            }));
            // There is no answer when the core has ended.
            if told.recv_timeout(PUT_AWAY).unwrap_or(true) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Exchanges the thread of a bridge that has changed: a new thread continues with the waiting
    /// messages.
    fn exchange(&mut self, running: RunningLane, mut wanted: WantedLane, until: Instant) {
        self.wait(&running.thread, until, || {});
        let bridge = running.config.name.to_string();
        if !running.thread.is_finished() {
            running.orders.go_on();
            running.bell.notify_one();
            tracing::error!(bridge, "its thread does not end; the bridge stays as it was");
            self.running.push(running);
            return;
        }
        let RunningLane { id, config, lane, kind, files, figures, bell, orders, work, .. } =
            running;
        let (mut link, thread) = (running.link, running.thread);
        let Ok(mut intake) = thread.join() else {
            tracing::error!(bridge, "its thread has died; the bridge begins anew");
            self.tell_cores(|_| Some(FeedOrder::Close(id)));
            if let Err(why) = self.add(wanted) {
                tracing::error!(bridge, why, "the bridge cannot start");
            }
            return;
        };
        self.keep_directory(&config, &mut wanted.config);
        let common = &self.common;
        let changed = common
            .renumber(&wanted.config, &mut intake.numbers)
            .and_then(|()| common.change(&wanted.config, lane, &mut intake.buffer));
        let next = match changed {
            Ok(()) => {
                tracing::info!(bridge, "bridge changed");
                wanted
            }
            Err(why) => {
                tracing::error!(bridge, why, "the bridge stays as it was");
                WantedLane { config, lane, kind, files, work }
            }
        };
        let plan = self.common.link(&next.config, &intake.numbers, lane);
        if plan != link {
            self.tell_cores(|_| Some(FeedOrder::Change(id, Box::new(plan.clone()))));
            link = plan;
        }
        figures.limit.set(most_bytes(&next.config, lane));
        intake.buffer.rewind();
        orders.go_on();
        let WantedLane { config, kind, files, work, .. } = next;
        let name = thread_name(&config, lane);
        match thread::start_patiently(&name, &work, intake, || self.hurries()) {
            Ok(thread) => self.running.push(RunningLane {
                id,
                config,
                lane,
                kind,
                files,
                link,
                figures,
                bell,
                orders,
                work,
                thread,
            }),
            Err(unstarted) => self.end_without_thread(id, &orders, unstarted),
        }
    }

    /// Ends a bridge for which there is no thread.
    fn end_without_thread(&self, id: BridgeId, orders: &Orders, unstarted: Unstarted<Intake>) {
        let Unstarted { error, kept: mut intake } = unstarted;
        let bridge = &*intake.figures.name;
        let what = "no thread for a bridge; it is gone until the configuration is read again";
        tracing::error!(bridge, %error, "{what}");
        self.tell_cores(|_| Some(FeedOrder::Mute(id)));
        orders.end(Instant::now());
        thread::put_away(&mut intake);
        intake.figures.set_state(BridgeState::Idle);
        self.tell_cores(|_| Some(FeedOrder::Close(id)));
    }

    /// Keeps the directory of messages on disk as it is until the next start.
    fn keep_directory(&self, old: &config::Bridge, new: &mut config::Bridge) {
        let storage = &self.common.storage;
        let moves = new.buffer.mode == BufferMode::Memory
            || directory(old, storage) != directory(new, storage);
        if old.buffer.mode != BufferMode::Memory && moves {
            let bridge = &*old.name;
            let what = "buffer.mode and buffer.path: what waits on disk stays there; another place \
                        needs a restart";
            tracing::warn!(bridge, "{what}");
            new.buffer.mode = old.buffer.mode;
            new.buffer.path = old.buffer.path.clone();
        }
    }

    /// Gives each core an order, and waits until all have been carried out.
    fn tell_cores(&self, mut order: impl FnMut(usize) -> Option<FeedOrder>) {
        let (done, answers) = channel();
        for (number, core) in self.cores.iter().enumerate() {
            if let Some(order) = order(number) {
                core(FeedCommand { order, done: done.clone() });
            }
        }
        drop(done);
        // The channel is closed when the last order has been carried out or its core has ended.
        while !self.hurries() {
            match answers.recv_timeout(LOOK) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn hurries(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }

    /// Waits for a thread to end, at most until `until`. Calls `hurry` when the broker stops
    /// meanwhile.
    fn wait(&self, thread: &JoinHandle<Intake>, mut until: Instant, hurry: impl Fn()) {
        let mut hurried = false;
        while !thread.is_finished() && Instant::now() < until {
            if !hurried && self.hurries() {
                (hurried, until) = (true, until.min(Instant::now() + PUT_AWAY));
                hurry();
            }
            std::thread::sleep(LOOK.min(Duration::from_millis(5)));
        }
    }
}

impl RunningLane {
    /// Whether the lane is as the configuration wants it.
    fn is(&self, wanted: &WantedLane) -> bool {
        self.config == wanted.config && self.files == wanted.files
    }
}

fn thread_name(config: &config::Bridge, lane: BridgeLane) -> String {
    format!("{}{}", &*config.name, lane.suffix())
}
