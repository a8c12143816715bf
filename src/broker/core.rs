//! One core: an executor thread, its driver, its shard, and the loop between them.

use super::around::ShardEnvironment;
pub(super) use super::clock::{Clock, time_of_day};
use super::memory::Reclaim;
use super::moving::{CopyPace, CoreUpgrade, MoveOrder};
use super::questions::Helpers;
use super::store::{StoredShard, go_on_with};
use crate::access::{Said, Verdict};
use crate::admin::FiguresRequest;
use crate::admin::api::Inquiry;
use crate::bridge::feed::{FeedCommand, FeederPlan, Feeders};
use crate::ids::{ListenerId, ShardId, SocketId};
use crate::limits::{DATA_MAILBOX, MAIL_WORK};
use crate::mesh::mail::{Control, Stamped};
use crate::mesh::mailbox::MailEnds;
use crate::mesh::{ListenerState, Shared};
use crate::ring::{Doorbell, Driver, RingFailure, RingPort, SocketRingConfig};
use crate::shard::inquiry::{Submission, Submissions};
use crate::shard::step::{Step, StepBounds};
use crate::shard::{LoopSignals, Settings, Shard};
use crate::storage::writer::Writer;
use crate::telemetry::prometheus::Snapshot;
use crate::telemetry::{Exemplars, Histogram};
use crate::time::Instant;
use crate::transport::tls::{self, Server};
use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};
use nix::time::{ClockId, clock_gettime};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// The number of completions visited per step, as many as there are receive buffers. Once the
/// budget of a step is used up, received bytes are only stored, which costs next to nothing. With a
/// lower bound, the packet of a modest client would wait behind everything that busy clients have
/// sent.
pub(super) const COMPLETIONS: usize = 4096;
/// Bytes of glommio's own file buffers per core: the smallest amount that works.
const IO_MEMORY: usize = 64 << 10;
/// How often a busy core lets glommio's other tasks run.
const YIELD: Duration = Duration::from_millis(1);
/// A step that takes this many nanoseconds was suspended for a part of the time.
const STALL: u64 = 100_000_000;
/// How long a core without other work waits for room in a mailbox before it looks again, at least
/// and at most. Meanwhile the other shard works on the rest of its full mailbox. The core looks
/// again when half of it has room: while it finds less, the next wait is longer.
const NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_micros(800);

/// What the control thread tells a core.
pub(super) enum CoreCommand {
    /// The other cores, by shard number. Answered when what was stored is put back, and the others
    /// know of it.
    Peers(Vec<(RingPort, Doorbell)>),
    /// Accept on this socket too.
    Listen(ListenerId, OwnedFd, bool, Arc<ListenerState>),
    /// Connections of that listener are secured with this.
    Secure(ListenerId, Arc<Server>),
    /// Stop accepting there.
    Unlisten(ListenerId),
    /// New settings.
    Reload(Arc<Settings>),
    /// Stop accepting, route the wills.
    Drain,
    /// Let nobody new in, and refer so many clients to other nodes. There is no report for it.
    Refer(u32),
    /// Say goodbye to every client, then end.
    Dismiss,
    /// End now.
    Stop,
    /// Answer with the figures, which shows that the core is alive. Carries the time of the
    /// question.
    Ping(std::time::Instant),
    /// The answer to a question of the shard. There is no report for it.
    Answer(SocketId, u64, Verdict),
    /// What a service says of what a client wants to do.
    Said(SocketId, u64, Vec<Said>),
    /// Do that, for an operator or a helper. There is no report for it.
    Inquire(Inquiry),
    /// Publish that for somebody outside, in its turn. There is no report for it.
    Submit(Submission),
    /// Do that for a bridge. There is no report for it.
    Feed(FeedCommand),
    /// A part of an upgrade. There is no report for it.
    Move(MoveOrder),
    /// Copy the figures for the admin server. There is no report for it.
    Figures(FiguresRequest),
}

/// What a core tells the control thread.
pub(super) enum CoreReport {
    /// Its driver is running. Tells where to send sockets and which doorbell to ring.
    Up(ShardId, RingPort, Doorbell),
    /// The oldest unanswered command has been carried out.
    Done(ShardId),
    /// It answers a ping.
    Alive(ShardId, Box<Snapshot>),
    /// It cannot run.
    Failed(ShardId, String),
    /// It has ended.
    Ended(ShardId),
}

/// A core as the control thread sees it.
pub(super) struct Core {
    /// Its commands; ring the doorbell after sending.
    pub commands: Sender<CoreCommand>,
    /// Its thread.
    pub thread: Option<JoinHandle<()>>,
}

/// What a core needs to start.
pub(super) struct CorePlan {
    pub id: ShardId,
    pub shards: u8,
    pub cpu: usize,
    pub settings: Arc<Settings>,
    pub shared: Arc<Shared>,
    pub ring: SocketRingConfig,
    pub ends: MailEnds<Stamped, Control>,
    pub clock: Clock,
    pub reports: Sender<CoreReport>,
    pub helpers: Helpers,
    pub stored: Option<StoredShard>,
    pub feeders: Vec<FeederPlan>,
    /// By which the cluster's thread is woken, if there is one.
    pub cluster: Option<Arc<Notify>>,
}

/// Starts the thread of one core.
pub(super) fn start(plan: CorePlan) -> std::io::Result<Core> {
    let (commands, receiver) = crossbeam_channel::unbounded();
    let name = format!("ringmq-{}", plan.id.0);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let (id, reports) = (plan.id, plan.reports.clone());
        let executor = LocalExecutorBuilder::new(Placement::Fixed(plan.cpu))
            .name(&format!("ringmq-{}", id.0))
            // Buffers for direct file I/O, which is not done here; the default is 10 MiB per core.
            .io_memory(IO_MEMORY)
            .make();
        let outcome = match executor {
            Ok(executor) => executor.run(run(plan, receiver)),
            Err(error) => Err(format!("cannot start an executor: {error}")),
        };
        // If the control thread has ended, nobody needs to know.
        let _ = match outcome {
            Ok(()) => reports.send(CoreReport::Ended(id)),
            Err(error) => reports.send(CoreReport::Failed(id, error)),
        };
    })?;
    Ok(Core { commands, thread: Some(thread) })
}

/// A core's driver, and its shard with all that is around it.
fn set_up(
    plan: CorePlan,
    commands: Receiver<CoreCommand>,
) -> Result<(Driver, RunningCore), String> {
    tls::warm_up();
    let driver = Driver::new(plan.ring).map_err(|failure: RingFailure| failure.to_string());
    let mut driver: Driver = driver?;
    let _ = plan.reports.send(CoreReport::Up(plan.id, driver.port(), driver.doorbell()));
    let now = Instant(plan.clock.nanos() / 1_000_000);
    let mut shard = Shard::new(plan.id, plan.shards, plan.settings, plan.shared, now);
    let clock = plan.clock;
    shard.set_clock(Box::new(move || clock.nanos() / 1000));
    let passed = Duration::from_nanos(clock.nanos());
    shard.set_wall(time_of_day().saturating_sub(passed).as_millis() as u64);
    let writer = match plan.stored {
        Some(stored) => Some(go_on_with(stored, &mut shard, plan.shards, driver.doorbell())?),
        None => None,
    };
    let mut feeders = Feeders::default();
    plan.feeders.into_iter().for_each(|feeder| feeders.open(feeder, &mut shard));
    let core = RunningCore {
        feeders,
        cluster: plan.cluster,
        shards: plan.shards,
        shard,
        ends: plan.ends,
        peers: Vec::new(),
        meets: false,
        commands,
        reports: plan.reports,
        helpers: plan.helpers,
        clock: plan.clock,
        listening: Vec::new(),
        phase: CorePhase::Serving,
        routing_wills: false,
        reclaim: Reclaim::default(),
        upkeep_due: false,
        steps: Histogram::default(),
        exemplars: Exemplars::default(),
        idle_nanos: 0,
        nap: NAP,
        longest: 0,
        cpu_seen: 0,
        writer,
        moving: CoreUpgrade::default(),
        submissions: Submissions::default(),
    };
    Ok((driver, core))
}

async fn run(plan: CorePlan, commands: Receiver<CoreCommand>) -> Result<(), String> {
    let (mut driver, mut core) = set_up(plan, commands)?;
    let mut yielded = std::time::Instant::now();
    let mut idle_since = None;
    loop {
        // All durations are measured with this reading of the clock and the one at the end of the
        // step, which the deadlines need anyway.
        let began = core.clock.nanos();
        if let Some(since) = idle_since.take() {
            core.idle_nanos += began - since;
        }
        core.shard.begin(Instant(began / 1_000_000), began / 1000);
        core.obey(&mut driver);
        if core.phase == CorePhase::Ended {
            core.feeders.finish(&mut core.shard);
            return Ok(());
        }
        if core.moving.pack(&mut core.shard, &mut driver) {
            continue;
        }
        let busy = core.step(&mut driver);
        let copies = core.moving.copy(&mut core.shard, &mut driver);
        core.shard.counters.steps += 1;
        // Done after a step, when no completion is unvisited. If the core never rests, it is done
        // all the same.
        if std::mem::take(&mut core.upkeep_due) {
            driver.run_upkeep();
            core.reclaim.turn(core.shard.footprint());
        }
        let ended = core.clock.nanos();
        if ended - began >= STALL {
            core.shard.was_stalled(Instant(ended / 1_000_000));
        }
        core.longest = core.longest.max(ended - began);
        if core.shard.asks_for_signals(ended / 1000) {
            core.tell_signals(&driver, ended / 1000);
        }
        let awaits_room = core.shard.awaits_room() || copies == CopyPace::Wait;
        if busy {
            core.shard.counters.step_busy_nanos += ended - began;
            core.steps.record(ended - began);
            if let Some(trace) = core.shard.take_sampled() {
                core.exemplars.add(trace, ended - began, time_of_day());
            }
        } else if awaits_room {
            core.await_room(&mut driver);
            idle_since = Some(ended);
        }
        if busy || awaits_room || copies == CopyPace::More {
            if yielded.elapsed() > YIELD {
                glommio::executor().yield_now().await;
                yielded = std::time::Instant::now();
            }
            continue;
        }
        let deadline = core
            .shard
            .deadline()
            .map(|at| Duration::from_nanos(at.0.saturating_mul(1_000_000).saturating_sub(ended)));
        idle_since = Some(ended);
        let counters = &core.shard.counters;
        driver.exchanged(counters.packets_received + counters.packets_sent);
        let (ends, commands) = (&core.ends, &core.commands);
        let writer = core.writer.as_ref();
        let has_answer = || writer.is_some_and(Writer::has_answer);
        driver.idle(deadline, || ends.has_mail() || !commands.is_empty() || has_answer()).await;
        yielded = std::time::Instant::now();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CorePhase {
    Serving,
    Draining,
    Dismissed,
    Ended,
}

struct RunningCore {
    /// What bridges take of this shard.
    feeders: Feeders,
    cluster: Option<Arc<Notify>>,
    shards: u8,
    shard: Shard,
    ends: MailEnds<Stamped, Control>,
    peers: Vec<(RingPort, Doorbell)>,
    /// That it knows them is answered when its shard is whole.
    meets: bool,
    commands: Receiver<CoreCommand>,
    reports: Sender<CoreReport>,
    helpers: Helpers,
    clock: Clock,
    listening: Vec<ListenerId>,
    phase: CorePhase,
    /// The command to drain has not been answered yet.
    routing_wills: bool,
    reclaim: Reclaim,
    /// Every two seconds, when it is asked whether it is alive: often enough for $SYS.
    upkeep_due: bool,
    /// How long those steps took that found something to do.
    steps: Histogram,
    /// Sampled messages that were handled in them.
    exemplars: Exemplars,
    /// Time spent waiting, spinning included.
    idle_nanos: u64,
    /// How long it waits for room in a mailbox.
    nap: Duration,
    /// The longest step since the shard last asked, nanoseconds.
    longest: u64,
    /// CPU time of this thread when the shard last asked, nanoseconds.
    cpu_seen: u64,
    /// The thread that owns the files of this shard's log.
    writer: Option<Writer>,
    moving: CoreUpgrade,
    submissions: Submissions,
}

impl RunningCore {
    /// Waits for room in a mailbox.
    fn await_room(&mut self, driver: &mut Driver) {
        // Mail that the shard cannot take in now is no reason to stay awake.
        let takes_mail = !self.shard.outbox().is_congested();
        let (ends, commands) = (&self.ends, &self.commands);
        let writer = self.writer.as_ref();
        let has_answer = || writer.is_some_and(Writer::has_answer);
        let has_mail = || takes_mail && ends.has_mail();
        driver.nap(self.nap, || has_mail() || !commands.is_empty() || has_answer());
        self.fit_nap();
    }

    /// Makes the next nap shorter if each mailbox that this shard has put something into is half
    /// empty, and longer otherwise.
    fn fit_nap(&mut self) {
        let half = self.ends.data_capacity() / 2;
        let mut watched = self.shard.outbox().watched().iter();
        let is_half_empty = watched.all(|shard| self.ends.data_room(shard) >= half);
        let nap = if is_half_empty { self.nap / 2 } else { self.nap * 2 };
        self.nap = nap.clamp(NAP, LONGEST_NAP);
    }

    fn obey(&mut self, driver: &mut Driver) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                CoreCommand::Peers(peers) => {
                    self.meet(peers);
                    continue;
                }
                CoreCommand::Listen(listener, socket, unix, listener_state) => {
                    self.shard.open_listener(listener, listener_state);
                    self.listening.push(listener);
                    driver.listen(listener, socket, unix);
                }
                CoreCommand::Secure(listener, server) => self.shard.secure(listener, server),
                CoreCommand::Unlisten(listener) => {
                    self.listening.retain(|&known| known != listener);
                    driver.stop_listening(listener);
                }
                CoreCommand::Reload(settings) => self.shard.reload(settings),
                CoreCommand::Drain => {
                    self.drain(driver);
                    continue;
                }
                CoreCommand::Refer(clients) => {
                    self.shard.refer(clients);
                    continue;
                }
                CoreCommand::Dismiss => self.dismiss(),
                CoreCommand::Stop => return self.phase = CorePhase::Ended,
                CoreCommand::Ping(asked) => {
                    let snapshot = Box::new(self.snapshot(driver, asked.elapsed()));
                    self.upkeep_due = true;
                    let _ = self.reports.send(CoreReport::Alive(self.shard.id(), snapshot));
                    continue;
                }
                CoreCommand::Answer(socket, ticket, verdict) => {
                    self.shard.answered(socket, ticket, verdict);
                    continue;
                }
                CoreCommand::Said(socket, ticket, said) => {
                    self.shard.permitted(socket, ticket, &said);
                    continue;
                }
                CoreCommand::Inquire(inquiry) => {
                    inquiry(&mut self.shard);
                    continue;
                }
                CoreCommand::Submit(submission) => {
                    self.submissions.push(submission);
                    continue;
                }
                CoreCommand::Feed(command) => {
                    self.feeders.obey(command, &mut self.shard);
                    continue;
                }
                CoreCommand::Move(order) => {
                    self.move_clients(order, driver);
                    continue;
                }
                CoreCommand::Figures(question) => {
                    let snapshot = self.snapshot(driver, question.waited());
                    question.answer(snapshot);
                    continue;
                }
            }
            let _ = self.reports.send(CoreReport::Done(self.shard.id()));
        }
        self.look_at_orders();
    }

    /// The others are known from now on. They look at mail that no bell was rung for.
    fn meet(&mut self, peers: Vec<(RingPort, Doorbell)>) {
        peers.iter().for_each(|(_, bell)| bell.ring());
        (self.peers, self.meets) = (peers, true);
    }

    /// Answers what takes several steps, when that is done: to become whole, and what was ordered
    /// for the end of this core.
    fn look_at_orders(&mut self) {
        if self.meets && self.shard.is_whole() {
            self.meets = false;
            let _ = self.reports.send(CoreReport::Done(self.shard.id()));
        }
        if self.routing_wills && self.shard.has_routed_wills() {
            self.routing_wills = false;
            let _ = self.reports.send(CoreReport::Done(self.shard.id()));
        }
        let drained = self.shard.is_drained() && self.shard.is_stored();
        if self.phase == CorePhase::Dismissed && drained {
            self.phase = CorePhase::Ended;
        }
    }

    /// Does its part in an upgrade.
    fn move_clients(&mut self, order: MoveOrder, driver: &mut Driver) {
        let MoveOrder::Store(stored, taken) = order else {
            self.moving.obey(order, &mut self.shard, driver, self.ends.has_mail());
            return;
        };
        let bell = driver.doorbell();
        let writer = go_on_with(*stored, &mut self.shard, self.shards, bell);
        // Who asked may have gone.
        let _ = taken.send(writer.map(|writer| self.writer = Some(writer)));
    }

    /// Everybody is told to go, and this core ends.
    fn dismiss(&mut self) {
        self.shard.dismiss();
        self.phase = CorePhase::Dismissed;
    }

    /// Nobody new; the wills are routed.
    fn drain(&mut self, driver: &mut Driver) {
        for listener in std::mem::take(&mut self.listening) {
            driver.stop_listening(listener);
        }
        self.shard.drain();
        self.phase = CorePhase::Draining;
        // Answered when every will has been routed, which may take several steps.
        self.routing_wills = true;
    }

    /// The current figures. `lag` is how long the question waited for this answer.
    fn snapshot(&mut self, driver: &Driver, lag: Duration) -> Snapshot {
        self.measure(driver);
        self.shard.measure_storage();
        let mailboxes = self.shards().map(|from| self.ends.data_waiting(from) as u64);
        let mailboxes = mailboxes.collect();
        let exemplars = self.exemplars.clone();
        Snapshot { counters: self.shard.figures(), steps: self.steps, exemplars, mailboxes, lag }
    }

    /// Tells the shard what is measured around it.
    fn tell_signals(&mut self, driver: &Driver, micros: u64) {
        let waiting: usize = self.shards().map(|from| self.ends.data_waiting(from)).sum();
        let room = DATA_MAILBOX * usize::from(self.shards).saturating_sub(1).max(1);
        let counts = driver.counts();
        let free = u64::from(counts.buffers_free) + u64::from(counts.buffers_posted);
        let all = u64::from(driver.buffers()).max(1);
        let cpu = thread_cpu_nanos();
        let ran = cpu.saturating_sub(std::mem::replace(&mut self.cpu_seen, cpu));
        let longest = std::mem::take(&mut self.longest);
        let signals = LoopSignals {
            longest_step: longest / 1000,
            longest_ran: longest.min(ran) / 1000,
            buffers: all.saturating_sub(free) * 1000 / all,
            mailboxes: waiting as u64 * 1000 / room as u64,
        };
        self.shard.assess(micros, &signals);
    }

    /// Updates the figures that are counted elsewhere: in the driver, the mailboxes and the loop.
    fn measure(&mut self, driver: &Driver) {
        let counts = driver.counts();
        let spun = counts.spun.as_nanos() as u64;
        let control_mail = self.shards().map(|from| self.ends.control_waiting(from) as u64).sum();
        let counters = &mut self.shard.counters;
        counters.cpu_nanos = thread_cpu_nanos();
        counters.spun_nanos = spun;
        counters.parked_nanos = self.idle_nanos.saturating_sub(spun);
        counters.dozes = counts.dozes;
        counters.parks = counts.parks;
        counters.dozes_gathering = counts.gathered;
        counters.gathering_nanos = counts.gathering.as_nanos() as u64;
        counters.gathering_probes = counts.gathering_probes;
        counters.gathering_switches = counts.gathering_switches;
        counters.control_mail = control_mail;
        counters.rings = u64::from(counts.rings);
        counters.socket_slots_free = u64::from(counts.table_free);
        counters.receive_buffers_free = u64::from(counts.buffers_free);
        counters.receive_buffers_posted = u64::from(counts.buffers_posted);
        counters.buffer_exhaustions = counts.enobufs;
        counters.sends_in_flight = u64::from(counts.sends_in_flight);
        counters.ring_enters = counts.enters;
        counters.completions = counts.completions;
        counters.completion_overflows = counts.overflows;
        counters.completion_losses = counts.losses;
    }

    /// Runs one step. True when there may be more to do at once.
    fn step(&mut self, driver: &mut Driver) -> bool {
        let bounds = StepBounds { completions: COMPLETIONS, mail: MAIL_WORK };
        while let Some(answer) = self.writer.as_mut().and_then(Writer::take_answer) {
            self.shard.storage_answered(answer);
        }
        let (peers, helpers) = (&self.peers, &self.helpers);
        let (id, cluster) = (self.shard.id(), self.cluster.as_deref());
        let clock = self.clock;
        let submissions = (!self.moving.suspended).then_some(&mut self.submissions);
        let around =
            &mut ShardEnvironment { driver, peers, cluster, clock, helpers, id, submissions };
        let busy = Step::new(bounds).run(&mut self.shard, &mut self.ends, around);
        self.submissions.tell();
        self.feeders.carry(&mut self.shard);
        if let Some(writer) = &mut self.writer {
            // The ring has room for everything that a log can request at once.
            self.shard.storage_commands().for_each(|command| drop(writer.send(command)));
        }
        busy
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }
}

/// CPU time that this thread has used, nanoseconds; 0 where the kernel does not tell.
fn thread_cpu_nanos() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
