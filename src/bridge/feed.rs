//! The way from a core to a bridge's thread: a bounded ring of batches, and a bell that wakes the
//! thread. The core never waits: batches that do not fit into the ring stay in the shard's link.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "one flag: the core has more than the ring takes; the thread's bell; and a queue for \
              what a core has when it ends"
)]

use super::buffer::Buffer;
use super::figures::FeedFigures;
use super::inward::Tell;
use crate::link_record::{LinkBatch, LinkOutcome};
use crate::shard::{LinkCounts, LinkId, LinkPlan, Shard};
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use tokio::sync::Notify;

/// The most batches in a ring; with batches of 64 KiB these are 4 MiB.
const RING: usize = 64;

/// The most outcomes that a core is told at once.
const OUTCOMES: usize = 256;

/// The number of a bridge's lane in this process, by which cores know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BridgeId(pub u32);

/// A core's end of a ring before the core has it.
pub struct FeederPlan {
    /// The link to open.
    link: LinkPlan,
    feeder: Feeder,
}

/// An order to a core about a bridge, carried out in one of the core's steps. An order is for one
/// lane, so the filters in an order are bounded by those of one bridge.
pub enum FeedOrder {
    /// The core opens this link and feeds this lane, too.
    Open(Box<FeederPlan>),
    /// The lane's link takes what the plan says from now on.
    Change(BridgeId, Box<LinkPlan>),
    /// The lane's link takes no more messages; those in it go to the bridge's thread.
    Mute(BridgeId),
    /// The lane has ended.
    Close(BridgeId),
}

/// An order, and the channel that reports its completion.
pub struct FeedCommand {
    /// The order.
    pub order: FeedOrder,
    /// Dropped when the order has been carried out.
    pub done: mpsc::Sender<()>,
}

/// All feeders of one core.
#[derive(Default)]
pub struct Feeders(Vec<Feeder>);

/// A core's end of a ring.
struct Feeder {
    bridge: BridgeId,
    link: Option<LinkId>,
    ring: Producer<LinkBatch>,
    bell: Arc<Notify>,
    starved: Arc<AtomicBool>,
    figures: Arc<FeedFigures>,
    told: LinkCounts,
    last: mpsc::Sender<LinkBatch>,
}

/// A bridge thread's end of the ring of one core.
pub struct Feed {
    ring: Consumer<LinkBatch>,
    /// A batch for which the buffer had no room.
    held: Option<LinkBatch>,
    /// Batches that were in the core's link when the core ended.
    last: mpsc::Receiver<LinkBatch>,
    starved: Arc<AtomicBool>,
    shard: Option<Tell>,
    /// Outcomes of messages for which publishers wait, by the waiters' numbers.
    outcomes: Vec<(u64, LinkOutcome)>,
}

/// Makes a ring between a core and a bridge's thread.
pub fn feed(
    bridge: BridgeId,
    link: LinkPlan,
    bell: &Arc<Notify>,
    figures: &Arc<FeedFigures>,
) -> (FeederPlan, Feed) {
    let (to, from) = RingBuffer::new(RING);
    let starved = Arc::new(AtomicBool::new(false));
    let (tell_last, last) = mpsc::channel();
    let feeder = Feeder {
        bridge,
        link: None,
        ring: to,
        bell: Arc::clone(bell),
        starved: Arc::clone(&starved),
        figures: Arc::clone(figures),
        told: LinkCounts::default(),
        last: tell_last,
    };
    let outcomes = Vec::new();
    let feed = Feed { ring: from, held: None, last, starved, shard: None, outcomes };
    (FeederPlan { link, feeder }, feed)
}

impl Feeders {
    /// Opens the link of a lane, whose filters have been checked.
    pub fn open(&mut self, plan: FeederPlan, shard: &mut Shard) {
        self.0.push(Feeder { link: shard.open_link(plan.link), ..plan.feeder });
    }

    /// Moves waiting batches from the links into the rings while there is room.
    pub fn carry(&mut self, shard: &mut Shard) {
        self.0.iter_mut().for_each(|feeder| feeder.carry(shard));
    }

    /// Carries out an order.
    pub fn obey(&mut self, command: FeedCommand, shard: &mut Shard) {
        let known = |id: BridgeId| move |feeder: &&mut Feeder| feeder.bridge == id;
        match command.order {
            FeedOrder::Open(plan) => self.open(*plan, shard),
            FeedOrder::Change(id, plan) => {
                if let Some(link) = self.0.iter_mut().find(known(id)).and_then(|f| f.link) {
                    shard.change_link(link, *plan);
                }
            }
            FeedOrder::Mute(id) => {
                if let Some(feeder) = self.0.iter_mut().find(known(id)) {
                    feeder.mute(shard);
                }
            }
            FeedOrder::Close(id) => {
                let gone = self.0.extract_if(.., |feeder| feeder.bridge == id);
                gone.filter_map(|feeder| feeder.link).for_each(|link| shard.close_link(link));
            }
        }
    }

    /// The core ends: batches in the links go to the bridges' threads.
    pub fn finish(&mut self, shard: &mut Shard) {
        self.0.drain(..).for_each(|mut feeder| feeder.finish(shard));
    }
}

impl Feeder {
    /// Moves waiting batches from the link into the ring while there is room.
    fn carry(&mut self, shard: &mut Shard) {
        let Some(link) = self.link else { return };
        let mut carried = false;
        while shard.link_bytes(link) > 0 {
            if self.ring.is_full() {
                // The flag is set before the ring is looked at again: either the thread sees the
                // flag when it takes its next batch, or the ring has room by now.
                self.starved.store(true, Ordering::SeqCst);
                if self.ring.is_full() {
                    break;
                }
            }
            let Some(batch) = shard.take_from_link(link) else { break };
            // There is room, as only this core puts batches in.
            let _ = self.ring.push(batch);
            carried = true;
        }
        if carried {
            self.bell.notify_one();
        }
        let counts = shard.link_counts(link);
        if counts != self.told {
            self.told = counts;
            self.figures.matched.set(counts.matched);
            self.figures.dropped.set(counts.dropped);
            self.figures.bytes.set(shard.link_bytes(link) as u64);
        }
    }

    /// The link takes no more messages. Publishers that wait for earlier ones continue to wait.
    fn mute(&mut self, shard: &mut Shard) {
        if let Some(link) = self.link {
            shard.mute_link(link);
        }
        self.finish(shard);
    }

    /// The end of the feed: batches in the link go to the bridge's thread, past the ring if that is
    /// full. They are bounded by the size of a link.
    fn finish(&mut self, shard: &mut Shard) {
        self.carry(shard);
        let Some(link) = self.link else { return };
        while let Some(batch) = shard.take_from_link(link) {
            // The bridge's thread may have ended.
            let _ = self.last.send(batch);
        }
        self.bell.notify_one();
        self.figures.bytes.set(0);
    }
}

impl Feed {
    /// Sets the way to wake the core. Outcomes go this way too: while a shard rests for an upgrade
    /// it takes in nothing that bridges want to publish, but what became of its own messages.
    pub fn wake_by(&mut self, shard: Tell) {
        self.shard = Some(shard);
    }

    /// Notes the outcome of a message for which a publisher of this core waits.
    pub fn note_outcome(&mut self, number: u64, outcome: LinkOutcome) {
        self.outcomes.push((number, outcome));
        if self.outcomes.len() >= OUTCOMES {
            self.tell_outcomes();
        }
    }

    /// Tells the core the outcomes that were noted.
    pub fn tell_outcomes(&mut self) {
        let Some(tell) = self.shard.as_ref().filter(|_| !self.outcomes.is_empty()) else {
            return;
        };
        let outcomes = std::mem::take(&mut self.outcomes);
        tell(Box::new(move |shard| shard.confirm(&outcomes)));
    }

    /// Moves all batches into the buffer; returns false when the buffer has no room for all of
    /// them.
    pub fn drain(&mut self, buffer: &mut Buffer) -> bool {
        self.held = self.held.take().and_then(|batch| buffer.push(batch));
        while self.held.is_none()
            && let Ok(batch) = self.ring.pop()
        {
            self.held = buffer.push(batch);
            if self.starved.swap(false, Ordering::SeqCst)
                && let Some(tell) = &self.shard
            {
                // The empty inquiry wakes the core, whose next step moves more batches into the
                // ring.
                tell(Box::new(|_| {}));
            }
        }
        while self.held.is_none()
            && let Ok(batch) = self.last.try_recv()
        {
            self.held = buffer.push(batch);
        }
        self.held.is_none()
    }
}
