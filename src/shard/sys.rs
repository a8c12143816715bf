//! `$SYS`: every shard tells shard 0 its figures, shard 0 publishes the sums as retained messages.

use super::Shard;
use crate::ids::ShardId;
use crate::mesh::mail::Control;
use crate::message::{Message, MessageRef};
use crate::packet::Qos;
use crate::telemetry::Counters;
use crate::telemetry::sys::{History, topics};
use crate::time::Instant;
use std::time::Duration;

/// Messages that wait for a mailbox past which an update ends: it is superseded by the next.
const BLOCKED: usize = 1024;

/// What the shard keeps for its own periodic work.
pub(super) struct Sys {
    shards: Vec<Counters>,
    history: History,
    updated: Instant,
    armed: bool,
    begun: bool,
    /// The next upkeep is armed.
    housekeeping: bool,
    /// Where the sweep of expired retained messages goes on.
    pub(super) sweep: Option<Box<str>>,
}

impl Sys {
    pub(super) fn new(shards: usize) -> Self {
        Sys {
            shards: vec![Counters::default(); shards],
            history: History::new(),
            updated: Instant(0),
            armed: false,
            begun: false,
            housekeeping: false,
            sweep: None,
        }
    }

    /// Keeps another shard's figures.
    pub(super) fn keep(&mut self, from: ShardId, counters: Counters) {
        self.shards[usize::from(from.0)] = counters;
    }

    /// True when no update is armed; then one is.
    pub(super) fn arm(&mut self) -> bool {
        !std::mem::replace(&mut self.armed, true)
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
        self.begun = true;
    }

    /// True until the first update.
    pub(super) fn is_new(&self) -> bool {
        !self.begun
    }

    /// True when no upkeep is armed; then one is.
    pub(super) fn arm_housekeeping(&mut self) -> bool {
        !std::mem::replace(&mut self.housekeeping, true)
    }

    pub(super) fn disarm_housekeeping(&mut self) {
        self.housekeeping = false;
    }
}

impl Shard {
    /// One `$SYS` update.
    pub(super) fn publish_sys(&mut self) {
        let own = self.counters;
        if self.id != ShardId(0) {
            self.outbox.tell(ShardId(0), Control::Counters(Box::new(own)));
            return;
        }
        self.sys.shards[0] = own;
        let mut total = Counters::default();
        for shard in &self.sys.shards {
            total.add(shard);
        }
        let elapsed = Duration::from_millis(self.now.millis_since(self.sys.updated));
        self.sys.updated = self.now;
        self.sys.history.update(&total, elapsed);
        let uptime = self.now.0 / 1000;
        let version = env!("CARGO_PKG_VERSION");
        let list = topics(&total, &self.sys.shards, &self.sys.history, uptime, version);
        for (topic, value) in list {
            let message = MessageRef {
                topic: &topic,
                properties: &[],
                payload: value.as_bytes(),
                qos: Qos::AtMostOnce,
                retain: true,
                expires: None,
                publisher: None,
            };
            if !self.try_publish(&message, None) {
                if self.wills.len() >= BLOCKED {
                    return; // the next update says it all again
                }
                // A mailbox is full: routed with the wills when it has room.
                let stored = Message::new(&message, &mut self.scratch);
                self.queue_will(stored);
            }
        }
    }
}
