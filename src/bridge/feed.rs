//! From a core to a bridge's thread: a bounded ring of batches, and a bell that the thread sleeps
//! by. The core never waits: what does not fit into the ring stays in the shard's link.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "one flag: the core has more than the ring takes; the thread's bell; and a queue for \
              what a core has when it ends"
)]

use super::buffer::Buffer;
use super::figures::FeedFigures;
use super::inward::Submit;
use crate::link_record::{LinkBatch, LinkOutcome};
use crate::shard::{LinkCounts, LinkId, LinkPlan, Shard};
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use tokio::sync::Notify;

/// Batches that a ring holds: with those of 64 KiB 4 MiB.
const RING: usize = 64;

/// Outcomes that a core is told at once.
const OUTCOMES: usize = 256;

/// Which bridge of this process, as cores know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BridgeId(pub u32);

/// The core's end, before the core has it.
pub struct FeederPlan {
    /// The link to open.
    link: LinkPlan,
    feeder: Feeder,
}

/// What a core is to do for a bridge, in one of its steps. The filters of one bridge are as many as
/// there are for one order.
pub enum FeedOrder {
    /// It feeds this one, too.
    Open(Box<FeederPlan>),
    /// Its link takes what that plan says from now on.
    Change(BridgeId, Box<LinkPlan>),
    /// Its link takes nothing more; what is in it goes to the bridge's thread.
    Mute(BridgeId),
    /// The bridge has ended.
    Close(BridgeId),
}

/// An order, and who is told that it has been carried out.
pub struct FeedCommand {
    /// The order.
    pub order: FeedOrder,
    /// Closed when that is done.
    pub done: mpsc::Sender<()>,
}

/// What the bridges take of one core.
#[derive(Default)]
pub struct Feeders(Vec<Feeder>);

/// The core's end.
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

/// The thread's end of the ring of one core.
pub struct Feed {
    ring: Consumer<LinkBatch>,
    /// A batch that came back from the buffer.
    held: Option<LinkBatch>,
    /// What the core had in its link when it ended.
    last: mpsc::Receiver<LinkBatch>,
    starved: Arc<AtomicBool>,
    shard: Option<Submit>,
    /// What became of messages that publishers wait for.
    outcomes: Vec<(u64, LinkOutcome)>,
}

/// A ring for a core.
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
    /// Opens the link of a bridge, whose filters have been checked.
    pub fn open(&mut self, plan: FeederPlan, shard: &mut Shard) {
        self.0.push(Feeder { link: shard.open_link(plan.link), ..plan.feeder });
    }

    /// Puts what waits in the links into the rings, as far as there is room.
    pub fn carry(&mut self, shard: &mut Shard) {
        self.0.iter_mut().for_each(|feeder| feeder.carry(shard));
    }

    /// Carries an order out.
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

    /// The core ends: what is in the links goes to the bridges' threads.
    pub fn finish(&mut self, shard: &mut Shard) {
        self.0.drain(..).for_each(|mut feeder| feeder.finish(shard));
    }
}

impl Feeder {
    /// Puts what waits in the link into the ring, as far as there is room.
    fn carry(&mut self, shard: &mut Shard) {
        let Some(link) = self.link else { return };
        let mut carried = false;
        while shard.link_bytes(link) > 0 {
            if self.ring.is_full() {
                // Told before the ring is looked at again: the thread that takes the next batch
                // sees it, or there is room by now.
                self.starved.store(true, Ordering::SeqCst);
                if self.ring.is_full() {
                    break;
                }
            }
            let Some(batch) = shard.take_from_link(link) else { break };
            // There is room: nobody else puts anything in.
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

    /// The link takes nothing more. Who waits for what it took goes on waiting.
    fn mute(&mut self, shard: &mut Shard) {
        if let Some(link) = self.link {
            shard.mute_link(link);
        }
        self.finish(shard);
    }

    /// Nothing more comes: what is in the link goes to the bridge's thread, beside a ring that is
    /// full. It is not more than a link holds.
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
    /// How the core is woken.
    pub fn wake_by(&mut self, shard: Submit) {
        self.shard = Some(shard);
    }

    /// What became of a message that a publisher of that core waits for.
    pub fn note_outcome(&mut self, number: u64, outcome: LinkOutcome) {
        self.outcomes.push((number, outcome));
        if self.outcomes.len() >= OUTCOMES {
            self.tell_outcomes();
        }
    }

    /// Tells the core what has been noted.
    pub fn tell_outcomes(&mut self) {
        let Some(submit) = self.shard.as_ref().filter(|_| !self.outcomes.is_empty()) else {
            return;
        };
        let outcomes = std::mem::take(&mut self.outcomes);
        submit(Box::new(move |shard| {
            shard.confirm(&outcomes);
            Box::new(|| {})
        }));
    }

    /// Takes everything out; false when the buffer has no room for all of it.
    pub fn drain(&mut self, buffer: &mut Buffer) -> bool {
        self.held = self.held.take().and_then(|batch| buffer.push(batch));
        while self.held.is_none()
            && let Ok(batch) = self.ring.pop()
        {
            self.held = buffer.push(batch);
            if self.starved.swap(false, Ordering::SeqCst)
                && let Some(submit) = &self.shard
            {
                // Its next step carries on.
                submit(Box::new(|_| Box::new(|| {})));
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
