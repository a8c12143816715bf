//! The driver: one core's rings seen as one thing. This file holds the pass and where completions
//! go; what is done per socket is in `socket`, per listener in `listen`, waiting in `park`.
#![allow(unsafe_code)]
use super::buffers::BufferPool;
use super::event::{Event, Outgoing, RingCounts, SocketRingConfig};
use super::failure::RingFailure;
use super::glommio_wait::{Alarm, eventfd};
use super::hand_over::HandOvers;
use super::idle::{Doorbell, IdleHistory, SpinPayoff};
use super::listen::Listeners;
use super::port::RingPort;
use super::send::Sends;
use super::slots::Slots;
use super::tag::{self, Kind};
use super::upkeep::RingUpkeep;
use super::uring::{BATCH, Ring};
use crate::ids::SocketId;
use io_uring::{cqueue, opcode, types};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long to do without a further ring after the kernel refused one.
const RING_REST: Duration = Duration::from_secs(1);

/// One shard's sockets. Single-threaded; must be used and dropped on the thread that made it.
pub struct Driver {
    pub(super) config: SocketRingConfig,
    pub(super) slots: Slots,
    pub(super) listeners: Listeners,
    pub(super) hand_overs: HandOvers,
    /// Outcomes found outside a pass, told in the next one.
    pub(super) deferred: VecDeque<Deferred>,
    /// Sockets whose receive found no buffer.
    pub(super) starved: Vec<SocketId>,
    /// Orderly closes by deadline; all wait equally long, so the front is due first.
    pub(super) lingering: VecDeque<(Instant, SocketId, u16)>,
    pub(super) counts: RingCounts,
    pub(super) port: RingPort,
    /// Somebody asked for the port: keep slots free for arrivals.
    pub(super) ported: bool,
    /// The ring that accepts use.
    pub(super) accepting: usize,
    /// The ring whose slots are promised to other shards.
    pub(super) granting: usize,
    pub(super) doorbell: Doorbell,
    /// How often the doorbell's poll was started.
    pub(super) watches: u64,
    pub(super) alarm: Alarm,
    pub(super) idle_history: IdleHistory,
    pub(super) spin_payoff: SpinPayoff,
    pub(super) upkeep: RingUpkeep,
    first_ring: usize,
    /// Opening a ring failed; not again before.
    no_ring_before: Option<Instant>,
    // The kernel may write to or read from what the next three hold until the rings are gone;
    // `drop` says in which order.
    pub(super) rings: Vec<Ring>,
    pub(super) sends: ManuallyDrop<Sends>,
    pub(super) pool: ManuallyDrop<BufferPool>,
    _single_threaded: PhantomData<Rc<()>>,
}

/// An outcome that has no completion.
pub(super) enum Deferred {
    Sent(SocketId, Outgoing, Result<(), i32>),
    HandedOver(SocketId, u64, i32),
}

impl Driver {
    /// Opens the first ring and checks that this kernel has what is needed.
    pub fn new(config: SocketRingConfig) -> Result<Self, RingFailure> {
        let config = bounded(config);
        let failed = |operation| move |error| RingFailure::new(operation, &error);
        let mut pool = BufferPool::new(config.buffer_count, config.buffer_size, config.max_rings)
            .map_err(failed("mmap of receive buffers"))?;
        let doorbell = Doorbell::new(eventfd().map_err(failed("eventfd"))?);
        let first = Ring::open(&config, 0, &mut pool, doorbell.fd())?;
        let port = RingPort::new(config.max_rings);
        port.opened(0, first.fd());
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
            alarm: Alarm::new(),
            idle_history: IdleHistory::new(),
            spin_payoff: SpinPayoff::new(),
            upkeep: RingUpkeep::default(),
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

    /// Submits what is queued and runs the kernel's deferred work. Completions are posted only in
    /// the kernel, so [`Self::visit`] then hands out what had happened by now and nothing later.
    ///
    /// Enters the kernel once per ring that has anything to do, but no further ring when those
    /// before it have about `limit` completions.
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

    /// Hands at most about `limit` of the harvested completions to `handler`, which may call back
    /// into the driver; what it asks for is queued and submitted by the next harvest or by
    /// `submit`. Returns how many were visited.
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
                // The next pass begins behind this ring: none can keep the others waiting.
                self.first_ring = (ring + 1) % self.rings.len();
                break;
            }
        }
        self.feed_starved();
        if visited > 0 {
            self.idle_history.disturbed();
        }
        self.counts.completions += visited as u64;
        visited
    }

    /// Harvests and visits until there is nothing more, or `limit` completions were visited.
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
            ..self.counts
        }
    }

    pub(super) fn tell_deferred(&mut self, handler: &mut impl FnMut(&mut Driver, Event<'_>)) {
        // Only what is there now: a handler that answers each with another must not keep us here.
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
        // Whatever the handler does to the driver, the bytes it looks at stay mapped.
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
        match Kind::of(tag) {
            Some(Kind::Receive) => {
                self.received(ring, socket, generation, result, flags, handler);
            }
            Some(Kind::Send) => self.sent(socket, generation, result, handler),
            Some(Kind::Accept) => self.accept_completed(tag::index(tag), result, handler),
            Some(Kind::Shutdown) => self.shut(socket, generation, result, handler),
            Some(Kind::Close) => self.close_completed(ring, socket, generation, handler),
            Some(Kind::CancelReceive) => self.cancel_failed(socket, generation),
            Some(Kind::HandOver) => self.handed_over(socket, generation, result, handler),
            Some(Kind::Arrival) => self.arrived(ring, result, tag::cookie(tag), handler),
            Some(Kind::Doorbell) => {
                if !cqueue::more(flags) {
                    self.watch_doorbell();
                }
                handler(self, Event::Doorbell);
            }
            Some(Kind::Ignored) | None => {}
        }
    }

    /// Ring 0 watches the doorbell, so that whoever waits for ring 0 also hears it.
    pub(super) fn watch_doorbell(&mut self) {
        self.watches += 1;
        let entry = opcode::PollAdd::new(types::Fd(self.doorbell.fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(tag::tag(Kind::Doorbell, 0, 0));
        self.rings[0].push(entry);
    }

    /// Something would be visited by a pass that does not wait.
    pub fn anything_ready(&mut self) -> bool {
        self.rings.iter_mut().any(Ring::ready)
    }

    /// After a pass that stayed below its limit: true when all that peers had sent before it was
    /// reported. Every receive is with the kernel, which has nothing more to say.
    pub fn has_heard_everyone(&mut self) -> bool {
        let mut rings = self.rings.iter_mut();
        self.starved.is_empty() && rings.all(|ring| !ring.ready() && !ring.has_queued())
    }

    /// A ring in whose table there is room for an accept, opened if need be.
    pub(super) fn ring_with_room(&mut self) -> Option<usize> {
        if self.rings[self.accepting].room() == 0 {
            let enough = (self.rings[self.accepting].capacity / 16).max(1);
            self.accepting = self.roomiest_ring(enough)?;
        }
        Some(self.accepting)
    }

    /// The ring with the most room; a new one if that is less than `enough` and one may be opened.
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
            // Better to lose the memory than to let the kernel write into somebody else's.
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

/// The configuration with every number brought into the range the kernel takes.
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
