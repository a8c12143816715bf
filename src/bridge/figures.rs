//! What a bridge counts: written by its thread and by the cores that feed it, read by whoever shows
//! it. Each figure has one writer.
#![allow(clippy::disallowed_types, reason = "figures that are read while they are written")]

use super::mqtt::refusals::REASONS;
use crate::packet::ReasonCode;
use crate::telemetry::BridgeRow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a bridge is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BridgeState {
    /// It has no connection and wants none.
    Idle,
    /// It is connecting.
    Connecting,
    /// It is connected.
    Up,
    /// It waits before the next attempt.
    Waiting,
    /// Its thread has failed, and is started again after a pause.
    Failed,
}

impl BridgeState {
    /// All of them.
    pub const ALL: [BridgeState; 5] = [
        BridgeState::Idle,
        BridgeState::Connecting,
        BridgeState::Up,
        BridgeState::Waiting,
        BridgeState::Failed,
    ];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            BridgeState::Idle => "idle",
            BridgeState::Connecting => "connecting",
            BridgeState::Up => "up",
            BridgeState::Waiting => "waiting",
            BridgeState::Failed => "failed",
        }
    }
}

/// The state of two lanes of a bridge together: that of who has most to complain of.
fn worse(one: &'static str, other: &'static str) -> &'static str {
    let by_trouble = ["failed", "waiting", "connecting", "idle", "up"];
    let find = |state| by_trouble.iter().position(|known| *known == state);
    if find(one) <= find(other) { one } else { other }
}

/// Why a bridge has dropped a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// There was no room.
    Full,
    /// Its time was over.
    Expired,
    /// It had come over this broker before, or over too many.
    Loop,
    /// It was larger than the other end takes.
    TooLarge,
    /// The other end did not want it.
    Rejected,
    /// It was for no entry of the bridge, or against a rule here.
    Unwanted,
}

impl Lost {
    /// All of them.
    pub const ALL: [Lost; 6] =
        [Lost::Full, Lost::Expired, Lost::Loop, Lost::TooLarge, Lost::Rejected, Lost::Unwanted];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Lost::Full => "full",
            Lost::Expired => "expired",
            Lost::Loop => "loop",
            Lost::TooLarge => "too_large",
            Lost::Rejected => "rejected",
            Lost::Unwanted => "unwanted",
        }
    }
}

/// One figure.
#[derive(Default, Debug)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it; for its writer only.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to it; for its writer only.
    pub fn add(&self, more: u64) {
        self.set(self.get() + more);
    }
}

/// What one core counts of a bridge.
#[derive(Default, Debug)]
pub struct FeedFigures {
    /// Messages that matched, once for each filter.
    pub matched: Figure,
    /// Messages that found no room in the link.
    pub dropped: Figure,
    /// Bytes that wait in the link.
    pub bytes: Figure,
}

/// The figures of all bridges, in the order of the configuration: for who shows them.
#[derive(Clone, Default)]
pub struct Shown(Arc<Mutex<Vec<Arc<Figures>>>>);

impl Shown {
    /// These are the bridges.
    pub fn set(&self, all: Vec<Arc<Figures>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Copies of all, to be shown. Lanes of one bridge are one.
    pub fn rows(&self) -> Vec<BridgeRow> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<BridgeRow> = Vec::with_capacity(all.len());
        for row in all.iter().map(|figures| figures.row()) {
            match rows.iter_mut().find(|known| known.name == row.name) {
                Some(known) => known.add(&row, worse(known.state, row.state)),
                None => rows.push(row),
            }
        }
        rows
    }
}

/// The figures of a bridge.
#[derive(Debug)]
pub struct Figures {
    /// Its name.
    pub name: String,
    /// What is at its other end: the key of the configuration.
    pub kind: &'static str,
    /// Most bytes that may wait.
    pub limit: Figure,
    state: AtomicU8,
    /// Messages that wait, or are under way.
    pub waiting: Figure,
    /// Bytes of them.
    pub waiting_bytes: Figure,
    /// Messages that have arrived at the other end.
    pub delivered: Figure,
    /// Messages that were brought and accepted here.
    pub brought: Figure,
    /// Connections that were made.
    pub connects: Figure,
    /// Attempts that failed, and connections that ended otherwise than in order.
    pub failures: Figure,
    /// Messages that were tried again.
    pub retries: Figure,
    lost: [Figure; Lost::ALL.len()],
    /// Refusals of another MQTT broker, by reason.
    refused: [Figure; REASONS.len()],
    /// Messages that found no room in the bridge's queue.
    pub queue_dropped: Figure,
    /// Batches on disk that were broken.
    pub damaged: Figure,
    /// Reads of the buffer's disk that failed.
    pub unread: Figure,
    /// Writes of it that failed.
    pub unwritten: Figure,
    /// 1 while there is no room and publishers wait.
    pub full: Figure,
    /// Of each core.
    pub feeds: Vec<Arc<FeedFigures>>,
}

impl Figures {
    /// All zero, for so many cores; at most `limit` bytes may wait.
    pub fn new(name: &str, kind: &'static str, cores: usize, limit: u64) -> Arc<Figures> {
        let most = Figure::default();
        most.set(limit);
        Arc::new(Figures {
            name: name.to_owned(),
            kind,
            limit: most,
            state: AtomicU8::new(0),
            waiting: Figure::default(),
            waiting_bytes: Figure::default(),
            delivered: Figure::default(),
            brought: Figure::default(),
            connects: Figure::default(),
            failures: Figure::default(),
            retries: Figure::default(),
            lost: Default::default(),
            refused: Default::default(),
            queue_dropped: Figure::default(),
            damaged: Figure::default(),
            unread: Figure::default(),
            unwritten: Figure::default(),
            full: Figure::default(),
            feeds: (0..cores).map(|_| Arc::default()).collect(),
        })
    }

    /// What the bridge is doing.
    pub fn state(&self) -> BridgeState {
        let state = usize::from(self.state.load(Ordering::Relaxed));
        BridgeState::ALL.get(state).copied().unwrap_or(BridgeState::Idle)
    }

    /// A copy, to be shown.
    pub fn row(&self) -> BridgeRow {
        let sum = |of: fn(&FeedFigures) -> &Figure| -> u64 {
            self.feeds.iter().map(|feed| of(feed).get()).sum()
        };
        BridgeRow {
            name: self.name.clone(),
            kind: self.kind,
            state: self.state().word(),
            connections: u64::from(self.state() == BridgeState::Up),
            waiting: self.waiting.get(),
            waiting_bytes: self.waiting_bytes.get() + sum(|feed| &feed.bytes),
            waiting_limit: self.limit.get(),
            matched: sum(|feed| &feed.matched),
            delivered: self.delivered.get(),
            brought: self.brought.get(),
            connects: self.connects.get(),
            failures: self.failures.get(),
            retries: self.retries.get(),
            damaged: self.damaged.get(),
            disk_failures: [("read", self.unread.get()), ("write", self.unwritten.get())],
            full: self.full.get() > 0,
            dropped: Lost::ALL.map(|why| (why.word(), self.lost(why))).to_vec(),
            refused: self.refused(),
        }
    }

    /// Says what the bridge is doing.
    pub fn set_state(&self, state: BridgeState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// A message was dropped by the bridge's thread, for another reason than room.
    pub fn lose(&self, why: Lost) {
        if let Some(figure) = self.lost.get(why as usize) {
            figure.add(1);
        }
    }

    /// Another MQTT broker has not taken a message.
    pub fn refuse(&self, reason: ReasonCode) {
        let at = REASONS.iter().position(|&(known, _)| known == reason);
        if let Some(figure) = at.and_then(|at| self.refused.get(at)) {
            figure.add(1);
        }
    }

    /// How often one has not, by reason; nothing for another kind of bridge.
    fn refused(&self) -> Vec<(&'static str, u64)> {
        let all = REASONS.iter().zip(&self.refused);
        let shown = all.filter(|_| self.kind == "mqtt");
        shown.map(|(&(_, word), figure)| (word, figure.get())).collect()
    }

    /// Messages that were dropped for that reason.
    pub fn lost(&self, why: Lost) -> u64 {
        let own = self.lost.get(why as usize).map_or(0, Figure::get);
        let full = || {
            let links: u64 = self.feeds.iter().map(|feed| feed.dropped.get()).sum();
            links + self.queue_dropped.get()
        };
        own + if why == Lost::Full { full() } else { 0 }
    }
}
