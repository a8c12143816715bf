//! The shard's part in the memory budget of the broker (`limits.memory`): how many bytes its
//! clients make it hold, by kind, and what is refused or dropped when all shards together hold too
//! much.
//!
//! Memory is counted as it is taken and released. Plain fields of this shard count what no other
//! figure of the shard tells. After as much work as the turn of one client, and once a second, the
//! change of the sum is added to a single number that all shards share
//! ([`crate::mesh::Shared::memory`]). A shard reads that number at the start of a step and after
//! each turn. The sum can therefore exceed the limit by what each shard takes in during a turn
//! (where one message counts in full for every queue that it is put into), by a buffer of answers
//! and 16 KiB of an unfinished packet per client, and by what nothing refuses: see [`Pressure`].
//!
//! Not counted are mailboxes, receive buffers, spare buffers, and what the allocator cannot use of
//! its pages, because these do not grow with what clients do; `auto` leaves room for them. Not
//! counted either is what the threads of bridges hold, which has bounds of its own
//! (`buffer.max_bytes`).

use super::Shard;
use super::connection::{Connection, Input};
use super::relief::Relief;
use crate::ids::SocketId;
use crate::limits::{BRIEF_INPUT, UNFINISHED_INPUT};
use crate::mutant::Mutant;
use crate::packet::ReasonCode;
use crate::session::away::AWAY;
use crate::session::pending::PendingBounds;
use crate::session::{Flow, Pending, Session};
use crate::time::Instant;
use crate::transport::Layers;
use std::collections::VecDeque;

/// Bytes of a connection: its entry in the shard, and its place at the driver.
const CONNECTION: usize = size_of::<Connection>() + 48;
/// Bytes of the place of a connection's layers.
const LAYERS: usize = size_of::<Option<Layers>>();
/// Bytes of a session besides its names: its entry, and its places in the table of names.
const SESSION: usize = size_of::<Session>() + 24;
/// Bytes of the window and the queue of a session, without their content.
const FLOW: usize = size_of::<Flow>();
/// Bytes of a message in flight, besides a kept copy of the message.
const SENT: usize = 64;
/// Bytes of the identifier of a QoS 2 message that awaits PUBREL, when each is far from the others.
const IDENTIFIER: usize = 24;
/// Bytes of a retained message besides its text: the place of its name, and its header.
const RETAINED: usize = 112;
/// Bytes of a subscription besides its filter: its places in the session and in the filter's list.
const SUBSCRIPTION: usize = 24;
/// Bytes of a distinct filter besides its text: its places in the index and the interest table.
const FILTER: usize = 60;
/// Milliseconds between two log lines about the pressure.
const TOLD: u64 = 10_000;

/// How short memory is, and what the shard refuses for it. It first refuses what is only stored,
/// then new clients, then messages: so connected clients still have room when a few have filled the
/// queues.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Pressure {
    /// There is enough memory.
    #[default]
    None,
    /// From 14/16 of the limit on. Pending queues grow no longer; QoS 0 goes only to clients that
    /// keep reading; nothing more is retained; a CONNECT that has come in part is not waited for.
    Tight,
    /// From 15/16 of the limit on. No new clients and no new subscriptions are accepted. Clients
    /// that send a large packet in parts are disconnected, and so are clients that do not read what
    /// they are sent ([`super::relief`]).
    High,
    /// From the limit on. Publishers wait for a second, then no messages are taken any more; no
    /// replays go on ([`super::relief`]). Messages in flight stay, and are sent again as always;
    /// PINGREQ, acknowledgements, UNSUBSCRIBE and DISCONNECT are handled as always, too.
    Full,
}

impl Pressure {
    /// The next higher pressure, and the sixteenths of the limit at which it begins.
    fn above(self) -> Option<(Pressure, u64)> {
        match self {
            Pressure::None => Some((Pressure::Tight, 14)),
            Pressure::Tight => Some((Pressure::High, 15)),
            Pressure::High => Some((Pressure::Full, 16)),
            Pressure::Full => None,
        }
    }

    /// The next lower pressure.
    fn below(self) -> Pressure {
        match self {
            Pressure::None | Pressure::Tight => Pressure::None,
            Pressure::High => Pressure::Tight,
            Pressure::Full => Pressure::High,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Pressure::None => "none",
            Pressure::Tight => "tight",
            Pressure::High => "high",
            Pressure::Full => "full",
        }
    }
}

/// What is held and no other figure of the shard tells. In bytes, unless it says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MemoryTally {
    /// Input that was received and not yet processed.
    pub input: usize,
    /// ClientIds, mountpoints, wills and topic aliases.
    pub names: usize,
    /// The number of sessions with a window and a queue, however empty these are.
    pub flows: usize,
    /// Messages that are kept in windows until they are acknowledged.
    pub kept: usize,
    /// The number of identifiers of QoS 2 messages that await PUBREL.
    pub inbound: usize,
    /// What ended sessions have left and is still to be returned or dropped.
    pub returning: usize,
    /// Retained messages.
    pub retained: usize,
    /// Names of the share groups that sessions are members of.
    pub shares: usize,
    /// What the layers of connections have on the heap.
    pub layers: usize,
}

/// What is known here of the memory that all shards hold, and of the limit.
#[derive(Default)]
pub(super) struct Budgeting {
    /// The bytes that the shared sum counts for this shard.
    told: u64,
    /// The work of the steps since then.
    work: u32,
    /// The work of the present step at which the shard last updated the sum within the step.
    told_at: u32,
    pub(super) pressure: Pressure,
    /// The pressure is higher from `up` on and lower below `down`, in bytes that all shards hold.
    up: u64,
    down: u64,
    logged: Instant,
    /// Connections that hold a part of a CONNECT, the oldest first. Some of these have got further
    /// since.
    pub(super) unfinished: VecDeque<SocketId>,
    pub(super) relief: Relief,
    /// How many messages were ever put into pending queues. The publish path compares this before
    /// and after.
    pub(super) queued: u64,
}

impl Budgeting {
    pub(super) fn new(limit: u64) -> Self {
        let mut budgeting = Budgeting::default();
        budgeting.set_limit(limit);
        budgeting
    }

    /// Sets `up` and `down` for the present pressure under `limit`. A pressure ends half a
    /// sixteenth below where it begins, so that it does not change at every step.
    fn set_limit(&mut self, limit: u64) {
        let at = |sixteenths: u64| (limit / 16).saturating_mul(sixteenths);
        let unlimited = limit == u64::MAX;
        let above = self.pressure.above().filter(|_| !unlimited);
        self.up = above.map_or(u64::MAX, |(_, sixteenths)| at(sixteenths));
        let began = self.pressure.below().above().map_or(0, |(_, sixteenths)| at(sixteenths));
        let apart = if Mutant::MemoryHysteresisMissing.is_on() { 0 } else { limit / 32 };
        self.down = match self.pressure {
            Pressure::None => 0,
            _ if unlimited => u64::MAX,
            _ => began.saturating_sub(apart),
        };
    }
}

/// What this shard holds, and how short memory is.
pub(super) struct Memory {
    pub(super) tally: MemoryTally,
    pub(super) budgeting: Budgeting,
}

impl Memory {
    /// For a broker whose shards together may hold `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        Memory { tally: MemoryTally::default(), budgeting: Budgeting::new(limit) }
    }

    /// True when the pressure is at least this one.
    #[inline]
    pub(super) fn is_short(&self, pressure: Pressure) -> bool {
        self.budgeting.pressure >= pressure
    }
}

impl MemoryTally {
    /// Takes a session's window and its identifiers out of the tally. The messages of pending
    /// queues are counted elsewhere.
    pub(super) fn forget(&mut self, flow: &Flow) {
        self.flows -= 1;
        self.kept -= flow.window.kept();
        self.inbound -= flow.inbound.len();
    }

    /// Does the same for a window and a queue that are idle.
    pub(super) fn forget_idle(&mut self, flow: &Flow) {
        self.flows -= usize::from(!Mutant::MemoryFlowsLeaked.is_on());
        debug_assert!(flow.window.kept() == 0);
        self.inbound -= flow.inbound.len();
    }
}

impl Connection {
    /// Takes the input out of the connection; `held` is the shard's tally of input.
    pub(super) fn take_input(&mut self, held: &mut usize) -> Option<Box<Input>> {
        let input = self.input.take()?;
        *held -= input.capacity();
        Some(input)
    }

    /// Puts input into the connection, and counts it in `held`.
    pub(super) fn keep_input(&mut self, input: Box<Input>, held: &mut usize) {
        debug_assert!(self.input.is_none());
        *held += input.capacity();
        self.input = Some(input);
    }
}

/// Bytes of a session's names and will.
pub(super) fn named(session: &Session) -> usize {
    let will = session.will.as_ref().map_or(0, |will| will.message.size());
    let grant = session.grant().map_or(0, crate::access::Grant::size);
    session.client_id.len() + session.mountpoint().len() + will + grant
}

/// Bytes of a retained message with its topic and its places.
pub(super) fn retained(topic: &str, size: usize) -> usize {
    topic.len() + size + RETAINED
}

/// Milliseconds for which publishers wait when memory is full, before messages are lost.
const PATIENCE: u64 = 1000;

impl Shard {
    /// How short memory is.
    #[inline]
    pub fn pressure(&self) -> Pressure {
        self.memory.budgeting.pressure
    }

    /// Bytes held by kind, in the order of the metric's labels: input, output, pending, inflight,
    /// retained, sessions, subscriptions, hand-over, storage, bridges.
    pub fn held(&self) -> [u64; 10] {
        let (tally, counters) = (&self.memory.tally, &self.counters);
        let clients = self.sessions.len() * SESSION
            + self.connections.len() * CONNECTION
            + self.layered.len() * LAYERS
            + tally.layers;
        let filters = self.subscriptions.index.filters() * FILTER
            + self.subscriptions.index.text()
            + tally.shares;
        let inflight = tally.kept + tally.inbound * IDENTIFIER;
        [
            tally.input as u64,
            self.outputs.pool.held() as u64,
            counters.pending_bytes - counters.pending_away_bytes
                + counters.pending_away_messages * AWAY as u64
                + tally.returning as u64,
            inflight as u64 + counters.inflight * SENT as u64,
            (tally.retained + self.retained.stamps.held()) as u64,
            (clients + tally.flows * FLOW + tally.names) as u64,
            filters as u64 + counters.subscriptions * SUBSCRIPTION as u64,
            self.entrance.departures.count().1 as u64,
            self.storing.as_ref().map_or(0, |storing| storing.held()) as u64,
            (self.subscriptions.links.held() + self.subscriptions.links.unanswered.held()) as u64,
        ]
    }

    /// What was counted as held. For checks.
    pub fn tally(&self) -> MemoryTally {
        self.memory.tally
    }

    /// The bytes of this shard in the shared sum. For checks.
    pub fn told_memory(&self) -> u64 {
        self.memory.budgeting.told
    }

    /// Looks at the shared sum at the beginning of a step, and changes the pressure if it has to.
    #[inline]
    pub(super) fn look_at_memory(&mut self) {
        let used = self.topology.shared.memory.used();
        if used >= self.memory.budgeting.up || used < self.memory.budgeting.down {
            self.change_pressure(used);
        }
    }

    #[inline(never)]
    fn change_pressure(&mut self, used: u64) {
        let before = self.memory.budgeting.pressure;
        while let Some((above, _)) = before_or_at(used, &self.memory.budgeting) {
            self.memory.budgeting.pressure = above;
            self.memory.budgeting.set_limit(self.settings.memory);
        }
        while used < self.memory.budgeting.down {
            self.memory.budgeting.pressure = self.memory.budgeting.pressure.below();
            self.memory.budgeting.set_limit(self.settings.memory);
        }
        let now = self.memory.budgeting.pressure;
        if now == before || Mutant::MemoryLimitIgnored.is_on() {
            self.memory.budgeting.pressure = before;
            return;
        }
        self.counters.memory_pressure = now as u64;
        if now > before {
            self.counters.memory_shortages += 1;
            self.memory.budgeting.relief.look_now(self.now);
        }
        if now == Pressure::Full {
            self.memory.budgeting.relief.became_full(self.now);
        }
        let due = self.memory.budgeting.logged.plus_millis(TOLD) <= self.now;
        if due || self.memory.budgeting.logged == Instant(0) {
            self.memory.budgeting.logged = self.now;
            let (limit, shard, pressure) = (self.settings.memory, self.topology.id.0, now.word());
            if now > before {
                tracing::warn!(used, limit, pressure, shard, "memory is short (limits.memory)");
            } else {
                tracing::info!(used, limit, pressure, shard, "memory is less short");
            }
        }
    }

    /// Updates the shared sum in the middle of a step: as often as after a client's turn, or always
    /// when memory is short.
    pub(super) fn weigh_within(&mut self) {
        let since = self.meter.work().saturating_sub(self.memory.budgeting.told_at);
        if since >= self.settings.budget.turn || self.memory.is_short(Pressure::Tight) {
            self.memory.budgeting.told_at = self.meter.work();
            self.tell_memory();
            self.look_at_memory();
        }
    }

    /// Updates the shared sum at the end of a step, when what this shard holds may have changed.
    #[inline]
    pub(super) fn weigh(&mut self) {
        self.memory.budgeting.work = self.memory.budgeting.work.saturating_add(self.meter.work());
        self.memory.budgeting.told_at = 0;
        if self.memory.budgeting.work >= self.settings.budget.turn
            || self.memory.is_short(Pressure::Tight)
        {
            self.tell_memory();
        }
    }

    #[inline(never)]
    pub(super) fn tell_memory(&mut self) {
        self.memory.budgeting.work = 0;
        let held = self.held();
        let sum = held.iter().sum();
        let counters = &mut self.counters;
        for (counter, held) in [
            &mut counters.memory_input,
            &mut counters.memory_output,
            &mut counters.memory_pending,
            &mut counters.memory_inflight,
            &mut counters.memory_retained,
            &mut counters.memory_sessions,
            &mut counters.memory_subscriptions,
            &mut counters.memory_hand_over,
            &mut counters.memory_storage,
            &mut counters.memory_bridges,
        ]
        .into_iter()
        .zip(held)
        {
            *counter = held;
        }
        let before = self.memory.budgeting.told;
        if sum != before {
            self.topology.shared.memory.shift(before, sum);
            if Mutant::MemoryToldTwice.is_on() {
                self.topology.shared.memory.shift(before, sum);
            }
            self.memory.budgeting.told = sum;
        }
    }

    /// Takes over a limit that may have changed.
    pub(super) fn set_memory_limit(&mut self) {
        self.memory.budgeting.set_limit(self.settings.memory);
        self.look_at_memory();
    }

    /// True when memory is full and the connection has unsent output. Encoding a waiting message
    /// would take memory for it a second time, so it stays in the queue until that output has been
    /// sent.
    #[inline]
    pub(super) fn waits_for_memory(&self, socket: SocketId) -> bool {
        let output = |c: &Connection| c.output.as_ref().is_some_and(|output| output.unsent() > 0);
        self.memory.is_short(Pressure::Full) && self.connections.get(socket.0).is_some_and(output)
    }

    /// The bounds of the session's queue while memory is short; `None` if it has no queue.
    pub(super) fn clipped(&self, index: u32) -> Option<PendingBounds> {
        let flow = self.sessions.get(index)?.flow.as_ref()?;
        Some(self.queue_bounds(index, &flow.pending))
    }

    /// What a queue may hold. While memory is short that is no more than it holds now, whatever its
    /// bounds are.
    pub(super) fn queue_bounds(&self, index: u32, pending: &Pending) -> PendingBounds {
        let bounds = self.pending_bounds_of(index);
        if !self.memory.is_short(Pressure::Tight) || Mutant::MemoryQueuesGrow.is_on() {
            return bounds;
        }
        PendingBounds {
            messages: bounds.messages.min(pending.len()),
            bytes: bounds.bytes.min(pending.bytes()),
            on_full: bounds.on_full,
        }
    }

    /// True when a client that sends a packet in parts has to be disconnected, because the part
    /// that has come exceeds [`UNFINISHED_INPUT`], or [`BRIEF_INPUT`] when memory is full.
    pub(super) fn is_unfinished_too_large(&self, input: &Input) -> bool {
        let most =
            if self.memory.is_short(Pressure::Full) { BRIEF_INPUT } else { UNFINISHED_INPUT };
        self.memory.is_short(Pressure::High) && input.rest().len() > most
    }

    /// What has been done with messages so far. The difference tells whether the next message gets
    /// anywhere.
    pub(super) fn done_with_messages(&self) -> DoneWith {
        let staged = self.mail.outbox.staged();
        DoneWith {
            dropped: self.counters.dropped_memory,
            elsewhere: (self.counters.messages_sent(), self.memory.budgeting.queued, staged),
            fanouts: self.delivery.fanouts.len(),
        }
    }

    /// The reason code for a publisher of QoS 1 or 2 whose message was dropped for lack of memory
    /// and has reached no receiver; `None` otherwise.
    pub(super) fn reason_since(&self, before: &DoneWith) -> Option<ReasonCode> {
        let now = self.done_with_messages();
        let lost = now.dropped > before.dropped
            && now.elsewhere == before.elsewhere
            && now.fanouts == before.fanouts;
        (lost && !Mutant::MemoryLossUntold.is_on()).then_some(ReasonCode::QuotaExceeded)
    }

    /// True while a publisher waits for memory instead of losing its message.
    pub(super) fn waits_until_memory(&self) -> bool {
        let until = self.memory.budgeting.relief.full_since.plus_millis(PATIENCE);
        self.memory.is_short(Pressure::Full)
            && self.now < until
            && !Mutant::MemoryFullAtOnce.is_on()
    }
}

/// The next higher pressure, if `used` is enough for it.
fn before_or_at(used: u64, budgeting: &Budgeting) -> Option<(Pressure, u64)> {
    budgeting.pressure.above().filter(|_| used >= budgeting.up)
}

/// The figures of [`Shard::done_with_messages`].
pub(super) struct DoneWith {
    dropped: u64,
    elsewhere: (u64, u64, usize),
    fanouts: usize,
}
