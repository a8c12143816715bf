//! The state of one core and what it does with input: a pure state machine.
//!
//! A shard owns every session whose ClientId is placed here, the connections that carry them, the
//! subscriptions of those sessions, and the share groups and retained messages whose hash belongs
//! to this shard. Bytes, mail and the time come in as arguments. [`Action`]s and mail go out
//! through [`Shard::actions`] and [`Shard::outbox`]. A shard knows neither glommio nor io_uring nor
//! a clock.
//!
//! A step consists of [`Shard::begin`], any number of inputs, and [`Shard::finish`]; [`step`]
//! defines their order. Nothing here waits: work that cannot proceed is held back with a reason
//! ([`connection::Holds`]) and resumed by a later step.

mod access_state;
mod accounts;
mod acknowledged;
mod admission;
mod adopt;
mod ahead;
mod announced;
mod answered;
mod arrivals;
mod asking;
mod audit;
mod audit_memory;
mod away;
mod bans;
mod bodies;
mod carried;
mod changes;
mod claims;
mod client_limits;
mod close;
mod connect;
pub mod connection;
mod connection_log;
mod control;
mod deliver;
mod delivery;
mod drops;
mod due;
mod early;
mod early_arrived;
mod early_retained;
mod encode;
mod endings;
mod entrance;
mod entry;
mod exchange;
mod fanout;
mod given_back;
mod groups;
mod hand_over;
mod handshakes;
mod headers;
mod held;
mod hold;
mod input_progress;
pub mod inquiry;
mod journal;
mod kept;
mod layered;
mod left;
mod link;
mod mail;
mod membership;
pub mod memory;
mod meter;
mod moved;
mod observe;
mod offline;
mod orphans;
mod outbox;
pub mod output;
mod outputs;
mod overload;
mod pace;
mod pack;
mod park;
mod passing;
mod permission;
mod pick;
mod placement;
mod places;
mod publish;
mod pump;
mod reading;
mod reauthenticate;
mod receipts;
mod receive;
mod redeliver;
mod refuse;
mod relief;
mod replays;
mod restore;
mod restored;
mod retain;
mod returning;
mod returns;
mod revoke;
mod route;
mod scratch;
mod send;
mod sent;
mod sessions;
mod settings;
mod share;
mod shed;
mod spare;
mod stamps;
mod state;
pub mod step;
mod stop;
mod storing;
mod subscribe;
mod subscriptions;
mod suspend;
mod sys;
mod task;
mod timers;
mod topology;
mod turn_queues;
mod unanswered;
mod unfinished;
mod unstorable;
mod unwrap;
mod upkeep;
mod whole;
mod wills;
mod withheld;
mod work;

pub use admission::AccessQuestion;
pub use ahead::TopicSubject;
pub use audit::{Audit, Subscribed};
pub use bans::{ClientOffence, NetworkOffence};
pub use drops::ClientDrops;
pub use early::DueCopies;
pub use early_retained::ComingRetained;
pub use link::{Answering, LinkCounts, LinkId, LinkPart, LinkPlan, WhenFull};
pub use observe::{
    Departure, Detail, Heaviest, Measure, Span, SpanKind, TRACES, TraceLine, TraceRule,
    TraceSubject, Via, sampled_context,
};
pub use outbox::{Outbox, Turn};
pub use overload::LoopSignals;
pub use pack::{PackCursor, Packed};
pub use placement::{home_of, retained_home};
pub use settings::Settings;
pub use spare::Footprint;
pub use storing::Storing;
pub use suspend::Inventory;
pub use whole::Whole;

use crate::ids::{ListenerId, Peer, ShardId, SocketId};
use crate::mesh::{ListenerState, Shared};
use crate::mutant::Mutant;
use crate::outgoing::Outgoing;
use crate::slab::Table;
use crate::telemetry::Counters;
use crate::time::Instant;
use access_state::AccessState;
use close::Cause;
use connection::{Connection, Stage};
use delivery::Delivery;
use entrance::Entrance;
use layered::Layered;
use mail::Mail;
use memory::Memory;
use meter::Meter;
use outputs::Outputs;
use park::Parked;
use retain::RetainedMessages;
use sessions::Sessions;
use std::sync::Arc;
use subscriptions::ShardSubscriptions;
use timers::Timers;
use topology::Topology;
use work::Work;

/// An order of the shard to its driver.
#[derive(Debug)]
pub enum Action {
    /// Read once into a buffer, on a connection whose CONNECT is awaited.
    ReceiveOnce(SocketId),
    /// Read until the shard says otherwise.
    ReceiveStream(SocketId),
    /// Stop reading, for back-pressure.
    Pause(SocketId),
    /// Go on reading.
    Resume(SocketId),
    /// Write. There is at most one send per socket until [`Shard::sent`].
    Send(SocketId, Outgoing),
    /// Close in order: after the send in flight, so that the peer gets everything.
    Finish(SocketId),
    /// Close at once.
    Close(SocketId),
    /// Pass the socket to the driver of that shard, with the cookie for [`Shard::handed_over`].
    HandOver(SocketId, ShardId, u64),
    /// Stop accepting on every listener (true), or go on accepting (false).
    HoldAccepts(bool),
    /// Have a helper thread answer the question; the answer comes by [`Shard::answered`].
    Ask(Box<AccessQuestion>),
}

/// A clock of microseconds.
pub type MicrosecondClock = Box<dyn Fn() -> u64>;

/// One core's state: each field is an owner with a file of its own.
pub struct Shard {
    topology: Topology,
    /// When this step began.
    now: Instant,
    settings: Arc<Settings>,
    /// Clients that are being admitted.
    entrance: Entrance,
    /// Authentication and authorization.
    access: AccessState,
    sessions: Sessions,
    connections: Table<Connection>,
    /// The protocol layers below MQTT, such as TLS and WebSocket.
    layered: Layered,
    subscriptions: ShardSubscriptions,
    retained: RetainedMessages,
    /// The message that is being delivered, and fan-outs that take several steps.
    delivery: Delivery,
    outputs: Outputs,
    /// Connections that are held for back-pressure.
    parked: Parked,
    mail: Mail,
    timers: Timers,
    /// Work that goes on over several steps.
    work: Work,
    /// The cost of the current step.
    meter: Meter,
    memory: Memory,
    storing: Option<Box<Storing>>,
    /// Counters and gauges of this shard, as plain numbers.
    pub counters: Counters,
}

impl Shard {
    /// A shard of `shards`, at time `now`.
    pub fn new(
        id: ShardId,
        shards: u8,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        now: Instant,
    ) -> Self {
        let topology = Topology::new(id, shards, Arc::clone(&shared));
        let mut shard = Shard {
            now,
            entrance: Entrance::new(shards),
            access: AccessState::default(),
            sessions: Sessions::new(),
            connections: Table::default(),
            layered: Layered::default(),
            subscriptions: ShardSubscriptions::new(&shared.seeds),
            retained: RetainedMessages::new(),
            delivery: Delivery::default(),
            outputs: Outputs::default(),
            parked: Parked::default(),
            mail: Mail::new(&topology, &settings.budget),
            timers: Timers::new(now),
            work: Work::new(),
            meter: Meter::new(now.0 * 1000),
            memory: Memory::new(settings.memory),
            storing: None,
            counters: Counters::default(),
            topology,
            settings,
        };
        shard.arm_upkeep();
        shard.arm_sys();
        shard.change_rules();
        shard.record_spans(shard.settings.spans);
        shard
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.topology.id
    }

    /// When this step began.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Mail to the other shards, carried after each step.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.mail.outbox
    }

    /// What the driver is to do, in order; drained after each step.
    pub fn actions(&mut self) -> &mut Vec<Action> {
        &mut self.outputs.actions
    }

    /// Begins a step at `now`. `micros` is the same moment on a finer clock shared by all shards.
    pub fn begin(&mut self, now: Instant, micros: u64) {
        debug_assert!(now >= self.now, "time runs forward");
        self.now = now;
        self.meter.begin_step(micros);
        self.begin_storing(micros);
        self.look_at_memory();
        self.mail.intake.begin_step();
        if self.parked.len() != 0 {
            self.resume_first();
        }
    }

    /// Gives the shard a clock of microseconds, the one of [`Shard::begin`]. The shard reads this
    /// clock now and then besides counting the cost of its work, and ends a step that takes too
    /// long.
    pub fn set_clock(&mut self, clock: MicrosecondClock) {
        self.meter.set_clock(clock);
    }

    /// What the step has cost so far, in units of about 100 ns ([`crate::limits::cost`]).
    pub fn work(&self) -> u32 {
        self.meter.work()
    }

    /// What taking in mail has cost in this step, which is not part of [`Shard::work`].
    pub fn mail_work(&self) -> u32 {
        self.mail.intake.work()
    }

    /// A listener's connections may arrive from now on. On reload the entry is replaced.
    pub fn open_listener(&mut self, listener: ListenerId, listener_state: Arc<ListenerState>) {
        self.entrance.open(listener, listener_state);
    }

    /// Takes over new settings. Existing connections and sessions keep what was agreed with them.
    pub fn reload(&mut self, settings: Arc<Settings>) {
        self.entrance.announced.change(&self.settings);
        let rules_change = !Arc::ptr_eq(&self.settings.access, &settings.access);
        self.settings = settings;
        if rules_change {
            self.change_rules();
        }
        self.record_spans(self.settings.spans);
        self.set_memory_limit();
        self.arm_sys();
    }

    /// A connection that the driver accepted.
    pub fn accepted(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.admit(socket, listener, peer);
    }

    /// Bytes that arrived on a connection, in order.
    pub fn received(&mut self, socket: SocketId, bytes: &[u8]) {
        self.counters.bytes_received += bytes.len() as u64;
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let stage = connection.stage;
        if matches!(stage, Stage::Closing | Stage::Closed) {
            return;
        }
        if connection.layered {
            self.received_layered(socket, stage, bytes);
            return;
        }
        self.take_received(socket, stage, bytes);
    }

    /// Takes in MQTT bytes of a connection in that stage.
    #[inline]
    fn take_received(&mut self, socket: SocketId, stage: Stage, bytes: &[u8]) {
        match stage {
            Stage::Open(session) => self.receive_open(socket, session, bytes),
            Stage::Entry | Stage::Refused(_) => self.receive_entry(socket, bytes),
            Stage::HandingOver => self.receive_departing(socket, bytes),
            Stage::Proving => self.receive_proving(socket, bytes),
            Stage::Closing | Stage::Closed => {}
        }
    }

    /// The peer will send nothing more.
    pub fn end_of_stream(&mut self, socket: SocketId) {
        self.cut_layers(socket);
        self.part(socket, false);
    }

    /// The connection broke.
    pub fn failed(&mut self, socket: SocketId, _errno: i32) {
        self.part(socket, true);
    }

    /// A send is complete (`ok`) or has failed; its buffers come back.
    pub fn sent(&mut self, socket: SocketId, outgoing: Outgoing, ok: bool) {
        self.outputs.pool.recycle(outgoing);
        if ok {
            self.after_sent(socket);
        } else {
            self.part(socket, true);
        }
    }

    /// The driver has closed the socket; its identifier may come again for another connection.
    pub fn closed(&mut self, socket: SocketId) {
        self.disconnect(socket, Cause::Broken);
        self.forget_early(socket);
        self.forget(socket);
    }

    /// The outcome of an [`Action::HandOver`].
    pub fn handed_over(&mut self, socket: SocketId, cookie: u64, ok: bool) {
        self.after_hand_over(socket, cookie, ok);
    }

    /// Ends a step: due timers, parked work, closes, and one send per connection with output.
    /// Returns true when there is more to do at once; see also [`Shard::awaits_room`].
    pub fn finish(&mut self) -> bool {
        self.end_packets();
        let mut more = self.run_timers();
        more |= self.answer_lost();
        if self.has_long_work() {
            more |= self.run_long_work();
        }
        more |= self.mail.intake.has_more() && self.takes_data();
        if self.memory.is_short(memory::Pressure::Tight) {
            more |= self.shed_unfinished();
        }
        more |= self.end_stalled();
        more |= self.run_reading();
        more |= self.run_journal();
        self.run_storing();
        self.watch_storage();
        self.flush();
        self.mail.outbox.close_batches();
        self.weigh();
        more
    }

    /// Whether the answers to clients so far are sent before [`Shard::finish`], because work that
    /// goes on over several steps took a good part of the last step and would delay them.
    #[inline]
    fn answers_first(&self) -> bool {
        self.work.lasted >= self.settings.budget.share()
            && !self.outputs.dirty.is_empty()
            && self.has_long_work()
            && !Mutant::AnswersLast.is_on()
    }

    /// Makes one send for each connection that has output so far.
    #[cold]
    fn answer_now(&mut self) {
        self.end_packets();
        self.flush();
        self.mail.outbox.close_batches();
    }

    /// True when some work goes on over several steps, or was put off to the end of this one. Most
    /// steps have no such work: one look at all of it costs a tenth of what asking each kind would.
    #[inline]
    fn has_long_work(&self) -> bool {
        let going = self.work.len()
            | self.delivery.fanouts.len()
            | self.retained.replays.len()
            | self.subscriptions.returns.len()
            | self.parked.len()
            | self.layered.handshakes.len();
        going != 0
            || self.layered.looks_at_certificates()
            || self.subscriptions.returns.has_gone()
            || self.subscriptions.groups.is_telling()
            || self.access.permissions.is_revoking()
            || self.access.asking.may_call()
            || self.entrance.overload.is_pending()
            || self.sessions.limiting.waiting() != 0
            || self.counters.handovers_waiting != 0
            || !self.entrance.departures.is_empty()
    }

    #[inline(never)]
    fn run_long_work(&mut self) -> bool {
        let before = self.meter.work();
        let mut more = self.in_share(Shard::run_fanouts);
        more |= self.in_share(Shard::run_tasks);
        self.call_askers();
        self.retry_parked();
        self.retry_rates();
        self.run_overload();
        self.publish_level();
        more |= self.in_share(Shard::publish_wills);
        more |= self.in_share(Shard::publish_events);
        more |= self.in_share(Shard::run_replays);
        more |= self.in_share(Shard::run_parting);
        more |= self.in_share(Shard::run_returns);
        more |= self.in_share(Shard::run_stopping);
        more |= self.in_share(Shard::run_handshakes);
        more |= self.in_share(Shard::run_certificates);
        more |= self.in_share(Shard::run_revoking);
        more |= self.free_idle_flows();
        self.work.lasted = self.meter.work().saturating_sub(before);
        self.resume_work(self.settings.budget.step);
        more |= self.parked.has_work();
        self.run_closing();
        self.in_share(Shard::run_departures);
        more | self.parked.has_put_off()
    }

    /// True when something waits for room in a mailbox, or waits for a link that has room now. No
    /// shard rings when its mailbox has room again, so the waiting work is tried again in a later
    /// step: soon, but not at once, because the other shard needs longer than that for the work
    /// that it is behind with.
    pub fn awaits_room(&self) -> bool {
        self.parked.mail_waiters() > 0
            || self.subscriptions.returns.passing.len() > 0
            || self.link_waiters_have_room()
            || !self.work.wills.is_empty()
            || self.work.observers.events() != 0
            || !self.mail.outbox.is_empty()
    }

    /// When the next timer may be due; `None` when none is armed, or none fires because the shard
    /// is suspended.
    pub fn deadline(&self) -> Option<Instant> {
        let fire = !self.work.stopping.suspended || Mutant::UpgradeSleepless.is_on();
        let timers = self.timers.next_deadline().filter(|_| fire);
        let others = [
            self.parked.deadline().filter(|_| fire),
            self.entrance.departures.deadline(),
            self.relief_deadline(),
            self.layered.handshakes.deadline(),
            self.access.admissions.deadline().filter(|_| fire),
            self.entrance.overload.deadline(),
            self.sessions.limiting.deadline().filter(|_| fire),
            self.storage_due(),
        ];
        others.into_iter().chain([timers]).flatten().min()
    }

    // Every step ends with this: the two callers have it in place.
    #[inline(always)]
    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.outputs.dirty);
        for socket in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(socket.0) else { continue };
            let Some(output) = &mut connection.output else { continue };
            output.dirty = false;
            if connection.stage == Stage::Closed {
                continue;
            }
            let mut most = usize::MAX;
            if let Some(storing) = &mut self.storing {
                most = storing.sendable(socket, output);
                if most == 0 {
                    continue; // withheld until it is durable: `run_storing`
                }
            }
            if connection.layered {
                self.flush_layered(socket, most);
                continue;
            }
            if let Some(outgoing) = output.next_part(&mut self.outputs.pool, self.now, most) {
                self.outputs.actions.push(Action::Send(socket, outgoing));
            }
        }
        self.outputs.dirty = dirty;
    }
}
