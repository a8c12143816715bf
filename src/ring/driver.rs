//! The driver presents all io_urings of one core as a single thing. This file holds the pass over
//! completions and dispatches each of them. The operations of a socket are in `socket`, those of a
//! listener in `listen`, and waiting for work is in `idle`.
#![allow(unsafe_code)]
use super::buffers::BufferPool;
use super::event::{Event, Outgoing, RingCounts, SocketRingConfig};
use super::failure::RingFailure;
use super::gathering::{Coalesce, Gathering};
use super::glommio_wait::{EventFdWaiter, eventfd};
use super::hand_over::HandOvers;
use super::idle::{Doorbell, IdleHistory, SpinPayoff};
use super::listen::Listeners;
use super::moving::MovingSockets;
use super::port::RingPort;
use super::send::Sends;
use super::slots::Slots;
use super::tag::{self, OperationKind};
use super::upkeep::RingUpkeep;
use super::uring::{BATCH, Ring};
use crate::ids::SocketId;
use io_uring::{cqueue, opcode, types};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long to wait before opening another ring after the kernel has refused one.
const RING_REST: Duration = Duration::from_secs(1);

/// All sockets of one shard. Single-threaded: a driver must be used and dropped on the thread that
/// created it.
pub struct Driver {
    pub(super) config: SocketRingConfig,
    pub(super) slots: Slots,
    pub(super) listeners: Listeners,
    pub(super) hand_overs: HandOvers,
    /// Outcomes that became known outside a pass. The next pass reports them.
    pub(super) deferred: VecDeque<Deferred>,
    /// Sockets whose receive found no buffer.
    pub(super) starved: Vec<SocketId>,
    /// Sockets in an orderly close, with the deadline of each. All wait for the same time, so the
    /// one at the front is due first.
    pub(super) lingering: VecDeque<(Instant, SocketId, u16)>,
    pub(super) counts: RingCounts,
    pub(super) port: RingPort,
    /// Another shard has a handle to our port, so that table entries must be kept free for sockets
    /// that arrive.
    pub(super) ported: bool,
    /// The index of the ring whose table receives accepted sockets.
    pub(super) accepting: usize,
    /// The index of the ring whose table entries are promised to other shards.
    pub(super) granting: usize,
    pub(super) doorbell: Doorbell,
    /// How often the poll on the doorbell has been started.
    pub(super) watches: u64,
    pub(super) alarm: EventFdWaiter,
    pub(super) idle_history: IdleHistory,
    pub(super) spin_payoff: SpinPayoff,
    pub(super) gathering: Gathering,
    /// The zero of the clock that `gathering` is told.
    pub(super) opened: Instant,
    pub(super) upkeep: RingUpkeep,
    pub(super) moving: MovingSockets,
    first_ring: usize,
    /// Set after the kernel refused a ring: no further one is opened before this time.
    no_ring_before: Option<Instant>,
    // The kernel may read or write the memory of the next three fields until the rings are closed.
    // `drop` therefore destroys them in a fixed order.
    pub(super) rings: Vec<Ring>,
    pub(super) sends: ManuallyDrop<Sends>,
    pub(super) pool: ManuallyDrop<BufferPool>,
    _single_threaded: PhantomData<Rc<()>>,
}

/// An outcome that is decided without a completion from the kernel.
pub(super) enum Deferred {
    Sent(SocketId, Outgoing, Result<(), i32>),
    HandedOver(SocketId, u64, i32),
}

impl Driver {
    /// Opens the first ring and checks that this kernel supports every operation that is needed.
    pub fn new(config: SocketRingConfig) -> Result<Self, RingFailure> {
        let config = bounded(config);
        let failed = |operation| move |error| RingFailure::new(operation, &error);
        let mut pool = BufferPool::new(config.buffer_count, config.buffer_size, config.max_rings)
            .map_err(failed("mmap of receive buffers"))?;
        let doorbell = Doorbell::new(eventfd().map_err(failed("eventfd"))?);
        let first = Ring::open(&config, 0, &mut pool, doorbell.fd())?;
        let port = RingPort::new(config.max_rings);
        port.opened(0, first.fd());
        let coalesce = if first.can_gather() { config.coalesce } else { Coalesce::Off };
        let mut driver = Driver {
            slots: Slots::new(),
            listeners: Listeners::new(),
            hand_overs: HandOvers::new(),
            deferred: VecDeque::new(),
            starved: Vec::new(),
            lingering: VecDeque::new(),
            counts: RingCounts::default(),
            port,
            ported: false,
            accepting: 0,
            granting: 0,
            doorbell,
            watches: 0,
            alarm: EventFdWaiter::new(),
            idle_history: IdleHistory::new(),
            spin_payoff: SpinPayoff::new(),
            gathering: Gathering::new(coalesce),
            opened: Instant::now(),
            upkeep: RingUpkeep::default(),
            moving: MovingSockets::default(),
            first_ring: 0,
            no_ring_before: None,
            rings: vec![first],
            sends: ManuallyDrop::new(Sends::new()),
            pool: ManuallyDrop::new(pool),
            config,
            _single_threaded: PhantomData,
        };
        driver.watch_doorbell();
        Ok(driver)
    }

    /// Submits the queued operations and runs the kernel's deferred work. The kernel posts
    /// completions only during this call, so [`Self::visit`] afterwards reports what had happened
    /// by now, and nothing that happens later.
    ///
    /// Enters the kernel once for each ring that has anything to do, but stops after the ring with
    /// which the completions found reach about `limit`.
    pub fn harvest(&mut self, limit: usize) {
        self.expire();
        let mut harvested = 0;
        for step in 0..self.rings.len() {
            let ring = (self.first_ring + step) % self.rings.len();
            if harvested < limit {
                self.rings[ring].turn();
                harvested += self.rings[ring].harvest();
            }
        }
    }

    /// Passes at most about `limit` of the harvested completions to `handler`. The handler may call
    /// back into the driver; the operations it requests are queued, and submitted by the next
    /// `harvest` or by `submit`. Returns how many completions were visited.
    pub fn visit(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) -> usize {
        self.tell_deferred(handler);
        let mut visited = 0;
        for step in 0..self.rings.len() {
            let ring = (self.first_ring + step) % self.rings.len();
            visited += self.visit_ring(ring, limit.saturating_sub(visited), handler);
            if self.rings[ring].lost {
                self.recover(ring, handler);
            }
            if visited >= limit {
                // The next pass starts with the following ring, so that no ring can starve the
                // others.
                self.first_ring = (ring + 1) % self.rings.len();
                break;
            }
        }
        self.feed_starved();
        if visited > 0 {
            self.idle_history.disturbed();
        }
        self.gathering.handled(visited);
        self.counts.completions += visited as u64;
        visited
    }

    /// Clients have sent and were sent so many packets since the start. Whether events may gather
    /// is decided by that ([`super::gathering`]).
    #[inline]
    pub fn exchanged(&mut self, packets: u64) {
        self.gathering.exchanged(packets);
    }

    /// Repeats `harvest` and `visit` until nothing is left to do or `limit` completions were
    /// visited.
    pub fn pass(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) -> usize {
        let mut visited = 0;
        loop {
            self.harvest(limit - visited);
            let now = self.visit(limit - visited, handler);
            visited += now;
            if now == 0 || visited >= limit || !self.anything_ready() {
                return visited;
            }
        }
    }

    /// Submits what is queued without waiting for the next pass.
    pub fn submit(&mut self) {
        for ring in &mut self.rings {
            if ring.has_queued() {
                ring.turn();
            }
        }
    }

    /// Receive buffers that there are, wherever they are.
    pub fn buffers(&self) -> u32 {
        self.pool.exist()
    }

    /// The counters and gauges as they are now.
    pub fn counts(&self) -> RingCounts {
        let sum = |each: fn(&Ring) -> u64| self.rings.iter().map(each).sum::<u64>();
        RingCounts {
            sockets_open: self.slots.open,
            slots_free: self.slots.allocated() - self.slots.open,
            rings: self.rings.len() as u32,
            table_free: sum(|ring| u64::from(ring.capacity - ring.used)) as u32,
            buffers_free: self.pool.free(),
            buffers_posted: sum(|ring| u64::from(ring.buffers.posted)) as u32,
            sends_in_flight: self.sends.in_flight(),
            accepts_in_flight: sum(|ring| u64::from(ring.accepts)) as u32,
            hand_overs_in_flight: self.hand_overs.in_flight(),
            lingering: self.lingering.len() as u32,
            enters: self.counts.enters + sum(|ring| ring.enters),
            overflows: self.counts.overflows + sum(|ring| ring.overflows),
            gathering: self.gathering.wait(),
            gathering_probes: self.gathering.probes,
            gathering_switches: self.gathering.switches,
            ..self.counts
        }
    }

    pub(super) fn tell_deferred(&mut self, handler: &mut impl FnMut(&mut Driver, Event<'_>)) {
        // Only the outcomes that are queued now: a handler that answers each of them with another
        // one must not keep this loop running forever.
        for _ in 0..self.deferred.len() {
            match self.deferred.pop_front() {
                Some(Deferred::Sent(socket, outgoing, result)) => {
                    handler(self, Event::Sent { socket, outgoing, result });
                }
                Some(Deferred::HandedOver(socket, cookie, errno)) => {
                    handler(self, Event::HandedOver { socket, cookie, result: Err(errno) });
                }
                None => break,
            }
        }
    }

    pub(super) fn visit_ring(
        &mut self,
        ring: usize,
        limit: usize,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) -> usize {
        // The mapping must outlive the slices that the handler reads, whatever the handler does to
        // the driver.
        let _memory = self.pool.memory();
        let mut batch = [const { MaybeUninit::<cqueue::Entry>::uninit() }; BATCH];
        let mut visited = 0;
        while visited < limit {
            let entries = self.rings[ring].take(&mut batch, limit - visited);
            if entries.is_empty() {
                break;
            }
            visited += entries.len();
            for entry in entries {
                self.completed(ring, entry, handler);
            }
            self.rings[ring].buffers.settle(&mut self.pool);
        }
        visited
    }

    #[inline]
    fn completed(
        &mut self,
        ring: usize,
        entry: &cqueue::Entry,
        handler: &mut impl FnMut(&mut Driver, Event<'_>),
    ) {
        let tag = entry.user_data();
        let (result, flags) = (entry.result(), entry.flags());
        let socket = SocketId(tag::index(tag));
        let generation = tag::generation(tag);
        match OperationKind::of(tag) {
            Some(OperationKind::Receive) => {
                self.received(ring, socket, generation, result, flags, handler);
            }
            Some(OperationKind::Send) => self.sent(socket, generation, result, handler),
            Some(OperationKind::Accept) => self.accept_completed(tag::index(tag), result, handler),
            Some(OperationKind::Shutdown) => self.shut(socket, generation, result, handler),
            Some(OperationKind::Close) => self.close_completed(ring, socket, generation, handler),
            Some(OperationKind::CancelReceive) => self.cancel_failed(socket, generation),
            Some(OperationKind::HandOver) => self.handed_over(socket, generation, result, handler),
            Some(OperationKind::Arrival) => self.arrived(ring, result, tag::cookie(tag), handler),
            Some(OperationKind::Doorbell) => {
                if !cqueue::more(flags) {
                    self.watch_doorbell();
                }
                handler(self, Event::Doorbell);
            }
            Some(OperationKind::Export) => self.exported(socket, generation, result, handler),
            Some(OperationKind::TakeOver) => self.took_over(tag::index(tag), result, handler),
            Some(OperationKind::Ignored) | None => {}
        }
    }

    /// Starts the multishot poll of ring 0 on the doorbell, so that a thread which waits for
    /// completions of ring 0 is also woken by the doorbell.
    pub(super) fn watch_doorbell(&mut self) {
        self.watches += 1;
        let entry = opcode::PollAdd::new(types::Fd(self.doorbell.fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(tag::tag(OperationKind::Doorbell, 0, 0));
        self.rings[0].push(entry);
    }

    /// True when a pass would find something without waiting.
    pub fn anything_ready(&mut self) -> bool {
        self.rings.iter_mut().any(Ring::ready)
    }

    /// To be called after a pass that stayed below its limit. True when everything that peers had
    /// sent before the pass has been reported: every receive is armed in the kernel, and the kernel
    /// has no more completions.
    pub fn has_heard_everyone(&mut self) -> bool {
        let mut rings = self.rings.iter_mut();
        self.starved.is_empty() && rings.all(|ring| !ring.ready() && !ring.has_queued())
    }

    /// The index of a ring whose table has room for an accept. Opens a new ring if necessary.
    pub(super) fn ring_with_room(&mut self) -> Option<usize> {
        if self.rings[self.accepting].room() == 0 {
            let enough = (self.rings[self.accepting].capacity / 16).max(1);
            self.accepting = self.roomiest_ring(enough)?;
        }
        Some(self.accepting)
    }

    /// The index of the ring with the most room. If that is less than `enough`, a new ring is
    /// opened where the limits allow it.
    pub(super) fn roomiest_ring(&mut self, enough: u32) -> Option<usize> {
        let best = (0..self.rings.len()).max_by_key(|ring| self.rings[*ring].room())?;
        let chosen = match self.rings[best].room() >= enough {
            true => best,
            false => self.open_ring().unwrap_or(best),
        };
        (self.rings[chosen].room() > 0).then_some(chosen)
    }

    pub(super) fn open_ring(&mut self) -> Option<usize> {
        let number = self.rings.len();
        let resting = self.no_ring_before.is_some_and(|at| Instant::now() < at);
        if number >= self.config.max_rings as usize || resting {
            return None;
        }
        match Ring::open(&self.config, number, &mut self.pool, self.doorbell.fd()) {
            Ok(ring) => {
                self.port.opened(number, ring.fd());
                self.rings.push(ring);
                Some(number)
            }
            Err(failure) => {
                tracing::warn!(%failure, rings = number, "no further ring");
                self.no_ring_before = Some(Instant::now() + RING_REST);
                None
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.port.retire();
        let mut quiet = true;
        for ring in &mut self.rings {
            quiet &= ring.cancel_everything();
        }
        let leaked = std::mem::take(&mut self.rings);
        if !quiet {
            // The kernel may still write into this memory. Leaking it is better than letting the
            // kernel write into an allocation that has another owner by then.
            std::mem::forget(leaked);
            return;
        }
        drop(leaked);
        // SAFETY: dropped once, here, after every operation was cancelled and the rings are gone.
        unsafe {
            ManuallyDrop::drop(&mut self.sends);
            ManuallyDrop::drop(&mut self.pool);
        }
    }
}

/// The configuration with every number clamped to the range that the kernel accepts.
fn bounded(config: SocketRingConfig) -> SocketRingConfig {
    let submissions = config.submissions.next_power_of_two().clamp(8, 32_768);
    SocketRingConfig {
        sockets_per_ring: config.sockets_per_ring.clamp(1, 1 << 20),
        max_rings: config.max_rings.clamp(1, 1024),
        buffer_count: config.buffer_count.clamp(1, 32_768),
        buffer_size: config.buffer_size.clamp(64, 1 << 20),
        buffers_posted: config.buffers_posted.clamp(1, config.buffer_count.max(1)),
        accepts_in_flight: config.accepts_in_flight.clamp(1, 4096),
        submissions,
        completions: config.completions.next_power_of_two().clamp(submissions, 65_536),
        ..config
    }
}
