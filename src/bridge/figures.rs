//! The figures of a bridge: written by its thread and by the cores that feed it, read by metrics,
//! alarms and the admin server. Each figure has a single writer.
#![allow(clippy::disallowed_types, reason = "figures that are read while they are written")]

use super::mqtt::refusals::REASONS;
use crate::packet::ReasonCode;
use crate::telemetry::BridgeRow;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The state of a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BridgeState {
    /// It has no connection and wants none.
    Idle,
    /// It is connecting.
    Connecting,
    /// It is connected.
    Up,
    /// It waits before the next attempt to connect.
    Waiting,
    /// Its thread has failed and starts again after a pause.
    Failed,
}

impl BridgeState {
    /// All states.
    pub const ALL: [BridgeState; 5] = [
        BridgeState::Idle,
        BridgeState::Connecting,
        BridgeState::Up,
        BridgeState::Waiting,
        BridgeState::Failed,
    ];

    /// The state's name in metrics and the admin server.
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

/// The common state of two lanes of a bridge: the worse one.
fn worse(one: &'static str, other: &'static str) -> &'static str {
    let by_trouble = ["failed", "waiting", "connecting", "idle", "up"];
    let find = |state| by_trouble.iter().position(|known| *known == state);
    if find(one) <= find(other) { one } else { other }
}

/// Why a bridge has dropped a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BridgeDropReason {
    /// There was no room.
    Full,
    /// Its expiry interval was over.
    Expired,
    /// It had passed this broker before, or too many brokers.
    Loop,
    /// It was larger than the other end accepts.
    TooLarge,
    /// The other end refused it.
    Rejected,
    /// No entry of the bridge was for it, or a rule of this broker forbade it.
    Unwanted,
}

impl BridgeDropReason {
    /// All reasons.
    pub const ALL: [BridgeDropReason; 6] = [
        BridgeDropReason::Full,
        BridgeDropReason::Expired,
        BridgeDropReason::Loop,
        BridgeDropReason::TooLarge,
        BridgeDropReason::Rejected,
        BridgeDropReason::Unwanted,
    ];

    /// The label of the reason.
    pub fn word(self) -> &'static str {
        match self {
            BridgeDropReason::Full => "full",
            BridgeDropReason::Expired => "expired",
            BridgeDropReason::Loop => "loop",
            BridgeDropReason::TooLarge => "too_large",
            BridgeDropReason::Rejected => "rejected",
            BridgeDropReason::Unwanted => "unwanted",
        }
    }
}

/// A figure with one writer and any number of readers.
#[derive(Default, Debug)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value; only for the figure's writer.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds to the value; only for the figure's writer.
    pub fn add(&self, more: u64) {
        self.set(self.get() + more);
    }
}

/// The figures that one core has of a bridge.
#[derive(Default, Debug)]
pub struct FeedFigures {
    /// Messages that matched, counted once for each matching filter.
    pub matched: Figure,
    /// Messages for which the link had no room.
    pub dropped: Figure,
    /// Bytes of messages in the link.
    pub bytes: Figure,
}

/// The figures of all bridges, in the order of the configuration.
#[derive(Clone, Default)]
pub struct AllBridgeFigures(Arc<Mutex<Vec<Arc<BridgeFigures>>>>);

impl AllBridgeFigures {
    /// Sets the figures of all bridges.
    pub fn set(&self, all: Vec<Arc<BridgeFigures>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Copies of the figures of all bridges; lanes of one bridge are added up.
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

/// The figures of a bridge's lane.
#[derive(Debug)]
pub struct BridgeFigures {
    /// The bridge's name.
    pub name: String,
    /// The kind of its other end: the key in the configuration.
    pub kind: &'static str,
    /// The most bytes that may wait.
    pub limit: Figure,
    state: AtomicU8,
    /// Messages that wait or are under way.
    pub waiting: Figure,
    /// Bytes of these messages.
    pub waiting_bytes: Figure,
    /// Messages that the other end has acknowledged.
    pub delivered: Figure,
    /// Messages that the bridge has brought and this broker has accepted.
    pub brought: Figure,
    /// Connections that were made.
    pub connects: Figure,
    /// Failed attempts to connect, and connections that ended without being ended by the bridge.
    pub failures: Figure,
    /// Messages that were sent again.
    pub retries: Figure,
    lost: [Figure; BridgeDropReason::ALL.len()],
    /// Refusals by another MQTT broker, by reason.
    refused: [Figure; REASONS.len()],
    /// Messages for which the bridge's buffer had no room.
    pub queue_dropped: Figure,
    /// Broken batches on disk.
    pub damaged: Figure,
    /// Failed reads of the buffer's disk.
    pub unread: Figure,
    /// 1 while the buffer's disk cannot be read.
    pub unreadable: Figure,
    /// Failed writes of the buffer's disk.
    pub unwritten: Figure,
    /// 1 while there is no room and publishers wait.
    pub full: Figure,
    /// The figures of each core.
    pub feeds: Vec<Arc<FeedFigures>>,
}

impl BridgeFigures {
    /// Figures that are all zero, for `cores` cores; at most `limit` bytes may wait.
    pub fn new(name: &str, kind: &'static str, cores: usize, limit: u64) -> Arc<BridgeFigures> {
        let most = Figure::default();
        most.set(limit);
        Arc::new(BridgeFigures {
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
            unreadable: Figure::default(),
            unwritten: Figure::default(),
            full: Figure::default(),
            feeds: (0..cores).map(|_| Arc::default()).collect(),
        })
    }

    /// The state of the bridge.
    pub fn state(&self) -> BridgeState {
        let state = usize::from(self.state.load(Ordering::Relaxed));
        BridgeState::ALL.get(state).copied().unwrap_or(BridgeState::Idle)
    }

    /// A copy of all figures.
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
            unreadable: self.unreadable.get() > 0,
            dropped: BridgeDropReason::ALL.map(|why| (why.word(), self.lost(why))).to_vec(),
            refused: self.refused(),
        }
    }

    /// Sets the state of the bridge.
    pub fn set_state(&self, state: BridgeState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Counts a message that the bridge's thread dropped for another reason than lack of room.
    pub fn lose(&self, why: BridgeDropReason) {
        if let Some(figure) = self.lost.get(why as usize) {
            figure.add(1);
        }
    }

    /// Counts a message that another MQTT broker refused.
    pub fn refuse(&self, reason: ReasonCode) {
        let at = REASONS.iter().position(|&(known, _)| known == reason);
        if let Some(figure) = at.and_then(|at| self.refused.get(at)) {
            figure.add(1);
        }
    }

    /// The number of refusals by reason; empty for other kinds of bridges.
    fn refused(&self) -> Vec<(&'static str, u64)> {
        let all = REASONS.iter().zip(&self.refused);
        let shown = all.filter(|_| self.kind == "mqtt");
        shown.map(|(&(_, word), figure)| (word, figure.get())).collect()
    }

    /// The number of messages that were dropped for this reason.
    pub fn lost(&self, why: BridgeDropReason) -> u64 {
        let own = self.lost.get(why as usize).map_or(0, Figure::get);
        let full = || {
            let links: u64 = self.feeds.iter().map(|feed| feed.dropped.get()).sum();
            links + self.queue_dropped.get()
        };
        own + if why == BridgeDropReason::Full { full() } else { 0 }
    }
}
