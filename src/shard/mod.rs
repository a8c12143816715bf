//! One core's state and what it does with input: a pure state machine.
//!
//! Owns every session whose ClientId is placed here, the connections that carry them, the
//! subscriptions of those sessions, the share groups and the retained messages whose hash falls
//! here. Bytes, mail and the time come in as arguments; [`Action`]s and mail go out through
//! [`Shard::actions`] and [`Shard::outbox`]. It knows neither glommio nor io_uring nor a clock.
//!
//! A step is: [`Shard::begin`], any number of inputs, [`Shard::finish`]; what comes before what in
//! it says [`step`]. Nothing here waits: what
//! cannot go on is parked with a reason ([`connection::Holds`]) and taken up by a later step.

mod admission;
mod announced;
mod arrivals;
mod asking;
mod audit;
mod audit_memory;
mod changes;
mod close;
mod connect;
pub mod connection;
mod connection_log;
mod deliver;
mod encode;
mod endings;
mod entry;
mod exchange;
mod fanout;
mod groups;
mod hand_over;
mod handshakes;
mod held;
mod input_progress;
mod layered;
mod mail;
mod membership;
pub mod memory;
mod meter;
mod names;
mod offline;
mod outbox;
pub mod output;
mod pace;
mod park;
mod permission;
mod placement;
mod publish;
mod pump;
mod receive;
mod redeliver;
mod refuse;
mod relief;
mod restore;
mod retain;
mod returns;
mod route;
mod scratch;
mod settings;
mod share;
mod spare;
pub mod step;
mod stop;
mod storing;
mod subscribe;
mod sys;
mod task;
mod timers;
mod turn_queues;
mod upkeep;
mod wills;
mod withheld;

pub use admission::Question;
pub use audit::{Audit, Subscribed};
pub use outbox::Outbox;
pub use placement::home_of;
pub use settings::Settings;
pub use spare::Footprint;
pub use storing::Storing;

use crate::ids::{ListenerId, Peer, Publisher, SessionRef, ShardId, SocketId};
use crate::mesh::mail::Control;
use crate::mesh::{ListenerState, Shared};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::session::Session;
use crate::slab::{Slab, Table};
use crate::telemetry::Counters;
use crate::time::Instant;
use crate::topic::{Index, Retained};
use admission::Admissions;
use announced::{Announced, AnnouncedLimits};
use arrivals::Arrivals;
use close::Cause;
use connection::{Connection, Stage};
use connection_log::ConnectionLog;
use endings::Endings;
use groups::Groups;
use hand_over::Departures;
use handshakes::Handshakes;
use hashbrown::HashMap;
use input_progress::InputProgress;
use layered::Layered;
use mail::Intake;
use meter::Meter;
use output::{Outgoing, OutputPool};
use park::Parked;
use permission::Permissions;
use returns::Returns;
use scratch::Scratch;
use std::collections::VecDeque;
use std::sync::Arc;
use subscribe::Joining;
use sys::Sys;
use timers::Timers;
use upkeep::Upkeep;
use wills::Wills;

/// What the driver is to do for the shard.
#[derive(Debug)]
pub enum Action {
    /// Read once into a buffer: a connection whose CONNECT is awaited.
    ReceiveOnce(SocketId),
    /// Read until told otherwise.
    ReceiveStream(SocketId),
    /// Stop reading: back-pressure.
    Pause(SocketId),
    /// Go on reading.
    Resume(SocketId),
    /// Write; at most one per socket until [`Shard::sent`].
    Send(SocketId, Outgoing),
    /// Close in order: after the send in flight, with everything delivered.
    Finish(SocketId),
    /// Close now.
    Close(SocketId),
    /// Pass the socket to that shard's driver.
    HandOver(SocketId, ShardId, u64),
    /// Have a helper thread find out; its answer comes by [`Shard::answered`].
    Ask(Box<Question>),
}

/// A clock of microseconds.
pub type Clock = Box<dyn Fn() -> u64>;

/// One core's state.
pub struct Shard {
    id: ShardId,
    shards: u8,
    now: Instant,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    listener_states: Vec<Option<Arc<ListenerState>>>,
    sessions: Slab<Session>,
    names: names::Names,
    connections: Table<Connection>,
    layered: Layered,
    handshakes: Handshakes,
    index: Index,
    /// Subscriptions that only the trie finds, of each session that has any.
    unhashed: HashMap<u32, u32, foldhash::fast::FixedState>,
    groups: Groups,
    /// SUBACKs that wait for share groups elsewhere.
    joining: HashMap<u32, Joining>,
    returns: Returns,
    retained: Retained<Message>,
    timers: Timers,
    pool: OutputPool,
    tally: memory::Tally,
    budgeting: memory::Budgeting,
    /// Mail to the other shards, carried after each step.
    pub outbox: Outbox,
    /// What the driver is to do, in order; drained after each step.
    pub actions: Vec<Action>,
    dirty: Vec<SocketId>,
    endings: Endings,
    parked: Parked,
    arrivals: Arrivals,
    admissions: Admissions,
    permissions: Permissions,
    asking: asking::Asking,
    fanouts: fanout::Fanouts,
    tasks: task::Tasks,
    stopping: stop::Stopping,
    wills: Wills,
    replays: VecDeque<SessionRef>,
    meter: Meter,
    intake: Intake,
    upkeep: Upkeep,
    input_progress: InputProgress,
    scratch: Scratch,
    delivery: encode::DeliveryScratch,
    sys: Sys,
    connection_log: ConnectionLog,
    /// Plain figures of this shard.
    pub counters: Counters,
    next_cookie: u64,
    departures: Departures,
    /// Connections that met a limit and whose CONNECT is awaited.
    refused_waiting: usize,
    assigned: u64,
    draining: bool,
    announced: AnnouncedLimits,
    storing: Option<Box<Storing>>,
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
        let seeds = shared.seeds.clone();
        let budgeting = memory::Budgeting::new(settings.memory);
        let mut shard = Shard {
            id,
            shards,
            now,
            settings,
            listener_states: Vec::new(),
            sessions: Slab::default(),
            names: names::Names::new(),
            connections: Table::default(),
            layered: Layered::default(),
            handshakes: Handshakes::default(),
            index: Index::new(&seeds),
            unhashed: HashMap::default(),
            groups: Groups::default(),
            joining: HashMap::new(),
            returns: Returns::default(),
            retained: Retained::new(),
            timers: Timers::new(now),
            pool: OutputPool::default(),
            tally: memory::Tally::default(),
            budgeting,
            outbox: Outbox::new(id, usize::from(shards)),
            actions: Vec::new(),
            dirty: Vec::new(),
            endings: Endings::default(),
            parked: Parked::default(),
            arrivals: Arrivals::default(),
            admissions: Admissions::default(),
            permissions: Permissions::default(),
            asking: asking::Asking::default(),
            fanouts: fanout::Fanouts::default(),
            tasks: task::Tasks::default(),
            stopping: stop::Stopping::default(),
            wills: Wills::default(),
            replays: VecDeque::new(),
            intake: Intake::new(usize::from(shards)),
            meter: Meter::new(now.0 * 1000),
            upkeep: Upkeep::default(),
            input_progress: InputProgress::new(now),
            scratch: Scratch::default(),
            delivery: encode::DeliveryScratch::default(),
            sys: Sys::new(usize::from(shards)),
            connection_log: ConnectionLog::default(),
            counters: Counters::default(),
            next_cookie: 0,
            departures: Departures::new(shards),
            refused_waiting: 0,
            assigned: 0,
            draining: false,
            announced: AnnouncedLimits::default(),
            storing: None,
            shared,
        };
        shard.arm_upkeep();
        shard.arm_sys();
        shard.change_rules();
        shard
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The home shard of a ClientId or share group.
    fn home(&self, name: &str) -> ShardId {
        home_of(&self.shared.seeds, name, self.shards)
    }

    /// Begins a step at `now`. `micros` is the same moment on a finer clock shared by all shards.
    pub fn begin(&mut self, now: Instant, micros: u64) {
        debug_assert!(now >= self.now, "time runs forward");
        self.now = now;
        self.meter.begin_step(micros);
        self.begin_storing(micros);
        self.look_at_memory();
        self.intake.begin_step();
        if self.parked.len() != 0 {
            self.resume_first();
        }
    }

    /// Besides counting what its work costs, the shard looks at this clock of microseconds (the one
    /// of [`Shard::begin`]) now and then: a step that takes too long ends early.
    pub fn set_clock(&mut self, clock: Clock) {
        self.meter.set_clock(clock);
    }

    /// What the step has cost so far, in units of about 100 ns ([`crate::limits::cost`]).
    pub fn work(&self) -> u32 {
        self.meter.work()
    }

    /// What taking in mail has cost in this step, which is not part of [`Shard::work`].
    pub fn mail_work(&self) -> u32 {
        self.intake.work()
    }

    /// True when the step's work has come to `limit`, or the time for it is over.
    #[inline]
    fn is_spent(&mut self, limit: u32) -> bool {
        if self.meter.wants_look() {
            self.look_at_clock(limit);
        }
        self.meter.work() >= limit && !Mutant::BudgetIgnored.is_on()
    }

    #[inline(never)]
    fn look_at_clock(&mut self, limit: u32) {
        self.weigh_within();
        self.meter.look_at_clock(limit, self.settings.budget.step);
    }

    /// Does a kind of work within its allowance.
    fn in_share<T>(&mut self, work: fn(&mut Shard, u32) -> T) -> T {
        let limit = self.meter.allowance(self.settings.budget);
        work(self, limit)
    }

    /// A listener's connections may arrive from now on. On reload the entry is replaced.
    pub fn open_listener(&mut self, listener: ListenerId, listener_state: Arc<ListenerState>) {
        let at = usize::from(listener.0);
        if at >= self.listener_states.len() {
            self.listener_states.resize_with(at + 1, || None);
        }
        self.listener_states[at] = Some(listener_state);
    }

    /// New settings; connections and sessions that exist keep what was agreed with them.
    pub fn reload(&mut self, settings: Arc<Settings>) {
        self.announced.change(&self.settings);
        let rules_change = !Arc::ptr_eq(&self.settings.access, &settings.access);
        self.settings = settings;
        if rules_change {
            self.change_rules();
        }
        self.set_memory_limit();
        self.arm_sys();
    }

    /// What the client was told that it may send.
    #[inline]
    fn announced_to(&self, socket: SocketId) -> Announced {
        let reloads = || Some(self.connections.get(socket.0)?.reloads);
        self.announced.to(reloads, &self.settings)
    }

    /// The driver accepted a connection.
    pub fn accepted(&mut self, socket: SocketId, listener: ListenerId, peer: Peer) {
        self.admit(socket, listener, peer);
    }

    /// Bytes arrived, in order.
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

    /// Takes MQTT bytes of a connection in that stage.
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

    /// The step that just ended lasted until `until`, much longer than its work: the process was
    /// stopped in it, say. What it took in may have come as late as that, and not at its beginning.
    pub fn was_stalled(&mut self, until: Instant) {
        self.input_progress.was_stalled(self.now, until);
    }

    /// Whether the time of the last [`Shard::heard_everyone`] is so long ago that a timer could
    /// miss it: finding out means a look at every ring.
    pub fn asks_who_was_heard(&self) -> bool {
        self.input_progress.is_old(self.now)
    }

    /// In this step the driver has reported everything that clients had sent before it.
    pub fn heard_everyone(&mut self) {
        self.input_progress.heard_everyone(self.now);
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

    /// A send is complete, or failed; its buffers come back.
    pub fn sent(&mut self, socket: SocketId, outgoing: Outgoing, ok: bool) {
        self.pool.recycle(outgoing);
        if ok {
            self.after_sent(socket);
        } else {
            self.part(socket, true);
        }
    }

    /// The driver has closed the socket; its identifier may come again for another connection.
    pub fn closed(&mut self, socket: SocketId) {
        self.disconnect(socket, Cause::Broken);
        self.forget(socket);
    }

    /// The outcome of an [`Action::HandOver`].
    pub fn handed_over(&mut self, socket: SocketId, cookie: u64, ok: bool) {
        self.after_hand_over(socket, cookie, ok);
    }

    /// What control mail says, when nothing has to come before it.
    fn obey(&mut self, from: ShardId, control: Control) {
        match control {
            Control::Connect(arriving) => self.told_of(arriving),
            Control::Join(join) => self.join_group(*join),
            Control::Joined(session, ticket) => self.group_joined(session, ticket),
            Control::Leave(name, member) => self.leave_group(&name, member),
            Control::Presence(member, online) => self.groups.set_online(member, online),
            Control::Deliver(picked) => self.deliver_picked(*picked),
            Control::GiveBack(given) => self.pick_again(*given),
            Control::Replay(request) => self.answer_query(from, *request),
            Control::Replayed(slice) => self.replayed(*slice),
            Control::Park(publisher, at) => self.claimed(publisher, at),
            Control::Unpark(publisher, at, over) => self.unclaimed(publisher, at, over),
            Control::HoldPublisher(publisher) => self.hold_publisher(publisher),
            Control::ReleasePublisher(publisher) => self.release_publisher(publisher),
            Control::Counters(counters) => self.sys.keep(from, *counters),
            Control::Safe(count) => {
                if let Some(storing) = &mut self.storing {
                    storing.safe_there(from, count);
                }
            }
        }
    }

    /// Ends a step: due timers, parked work, closes, and one send per connection with output.
    /// Returns true when there is more to do at once; see also [`Shard::awaits_room`].
    pub fn finish(&mut self) -> bool {
        let mut more = self.run_timers();
        if self.has_long_work() {
            more |= self.run_long_work();
        }
        more |= self.intake.has_more() && self.takes_data();
        if self.is_short(memory::Pressure::Tight) {
            more |= self.shed_unfinished();
        }
        more |= self.end_stalled();
        self.run_storing();
        self.flush();
        self.outbox.close_batches();
        self.weigh();
        more
    }

    /// True when something goes on over several steps, or was put off to the end of this one. Most
    /// steps end without: one look at all of it costs them a tenth of asking each.
    #[inline]
    fn has_long_work(&self) -> bool {
        let going = self.fanouts.len()
            | self.tasks.len()
            | self.wills.len()
            | self.replays.len()
            | self.endings.len()
            | self.upkeep.flows_due()
            | self.returns.len()
            | self.parked.len()
            | self.handshakes.len();
        going != 0
            || self.layered.looks_at_certificates()
            || self.returns.has_gone()
            || self.groups.is_telling()
            || self.permissions.is_revoking()
            || self.draining
            || self.counters.handovers_waiting != 0
            || !self.departures.is_empty()
    }

    #[inline(never)]
    fn run_long_work(&mut self) -> bool {
        let mut more = self.in_share(Shard::run_fanouts);
        more |= self.in_share(Shard::run_tasks);
        self.retry_parked();
        more |= self.in_share(Shard::publish_wills);
        more |= self.in_share(Shard::run_replays);
        more |= self.in_share(Shard::run_parting);
        more |= self.in_share(Shard::run_returns);
        more |= self.in_share(Shard::run_stopping);
        more |= self.in_share(Shard::run_handshakes);
        more |= self.in_share(Shard::run_certificates);
        more |= self.in_share(Shard::run_revoking);
        more |= self.free_idle_flows();
        self.resume_work(self.settings.budget.step);
        more |= self.parked.has_work();
        self.run_closing();
        self.in_share(Shard::run_departures);
        more | self.parked.has_put_off()
    }

    /// True when something waits for room in a mailbox. Nobody rings when there is room again: it
    /// is tried again in a later step, soon, but not at once: another shard is behind with work
    /// for longer than that.
    pub fn awaits_room(&self) -> bool {
        self.parked.mail_waiters() > 0 || !self.wills.is_empty() || !self.outbox.is_empty()
    }

    /// When the next timer may be due; `None` when nothing is.
    pub fn deadline(&self) -> Option<Instant> {
        let timers = self.timers.next_deadline();
        let others = [
            self.parked.deadline(),
            self.departures.deadline(),
            self.relief_deadline(),
            self.handshakes.deadline(),
            self.admissions.deadline(),
            self.storage_due(),
        ];
        others.into_iter().chain([timers]).flatten().min()
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for socket in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(socket.0) else { continue };
            let Some(output) = &mut connection.output else { continue };
            output.dirty = false;
            if connection.stage == Stage::Closed {
                continue;
            }
            if self.storing.as_ref().is_some_and(|storing| storing.withholds(socket)) {
                continue; // until it is durable: `run_storing`
            }
            if connection.layered {
                self.flush_layered(socket);
                continue;
            }
            if let Some(outgoing) = output.next_send(self.now) {
                self.actions.push(Action::Send(socket, outgoing));
            }
        }
        self.dirty = dirty;
    }

    fn session_ref(&self, index: u32) -> SessionRef {
        SessionRef { shard: self.id, index, generation: self.sessions.generation(index) }
    }

    /// The session at `index` as the publisher of a message.
    fn publisher(&self, index: u32) -> Option<Publisher> {
        let client = self.sessions.get(index)?.key;
        Some(Publisher { client, shard: self.id })
    }

    /// The session, when it is on this shard and still the same one.
    fn session_of(&mut self, session: SessionRef) -> Option<&mut Session> {
        debug_assert!(session.shard == self.id);
        let known = self.sessions.get_of(session.index, session.generation)?;
        (!known.is_ending()).then_some(known)
    }
}
