//! `$SYS`: every shard sends its counters to shard 0, which publishes the sums as retained
//! messages.

use super::Shard;
use super::timers::Timer;
use crate::ids::ShardId;
use crate::mesh::mail::Control;
use crate::message::{Accounts, Message, MessageRef};
use crate::packet::Qos;
use crate::telemetry::Counters;
use crate::telemetry::sys::{SysHistory, topics};
use crate::time::Instant;
use std::time::Duration;

/// Milliseconds until the first update.
const FIRST: u64 = 100;
/// An update ends when this many messages wait for a mailbox: the next update supersedes it.
const BLOCKED: usize = 1024;

/// The counters of all shards, and when they are published.
#[derive(Default)]
pub(super) struct Sys {
    /// Those of the shards up to the last that has sent some. Empty but on shard 0: they are some
    /// KiB for each shard.
    shards: Vec<Counters>,
    history: SysHistory,
    updated: Instant,
    /// Whether the next update is armed.
    armed: bool,
    /// Whether there has been an update.
    begun: bool,
}

impl Sys {
    /// Keeps another shard's counters.
    pub(super) fn keep(&mut self, from: ShardId, counters: Counters) {
        self.know(usize::from(from.0) + 1);
        self.shards[usize::from(from.0)] = counters;
    }

    /// Makes room for the counters of so many shards.
    fn know(&mut self, shards: usize) {
        if self.shards.len() < shards {
            self.shards.resize(shards, Counters::default());
        }
    }

    /// Arms the next update if updates are made every `interval` milliseconds. Returns how many
    /// milliseconds to wait for it; `None` when an update is armed already, or none is to be made.
    fn arm(&mut self, interval: u64) -> Option<u64> {
        if interval == 0 || self.armed {
            return None;
        }
        self.armed = true;
        Some(if self.begun { interval } else { FIRST.min(interval) })
    }
}

impl Shard {
    /// Arms the next update, unless one is armed or there are to be none.
    pub(super) fn arm_sys(&mut self) {
        if let Some(wait) = self.work.sys.arm(self.settings.sys_interval) {
            self.timers.arm(self.now.plus_millis(wait), Timer::Sys);
        }
    }

    /// Makes an update that is due, and arms the next one.
    pub(super) fn sys_due(&mut self) {
        (self.work.sys.armed, self.work.sys.begun) = (false, true);
        self.publish_sys();
        self.arm_sys();
    }

    /// Makes one `$SYS` update.
    fn publish_sys(&mut self) {
        let own = self.figures();
        if self.topology.id != ShardId(0) {
            self.mail.outbox.tell(ShardId(0), Control::Counters(Box::new(own)));
            return;
        }
        self.work.sys.know(usize::from(self.topology.shards));
        self.work.sys.shards[0] = own;
        let mut total = Counters::default();
        for shard in &self.work.sys.shards {
            total.add(shard);
        }
        let elapsed = Duration::from_millis(self.now.millis_since(self.work.sys.updated));
        self.work.sys.updated = self.now;
        self.work.sys.history.update(&total, elapsed);
        let uptime = self.now.0 / 1000;
        let version = env!("CARGO_PKG_VERSION");
        let list = topics(&total, &self.work.sys.shards, &self.work.sys.history, uptime, version);
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
            if !self.try_publish(&message, Accounts::NONE, None) {
                if self.work.wills.len() >= BLOCKED {
                    return; // the next update publishes all of it again
                }
                // A mailbox is full: the message is queued with the wills, and routed when there is
                // room.
                let stored = Message::new(&message, self.delivery.scratch.bytes());
                self.queue_will(stored, Accounts::NONE);
            }
        }
    }

    /// Publishes a change of the level of overload below `$SYS/broker/overload/`: the number of the
    /// level, and its word.
    pub(super) fn publish_level(&mut self) {
        let untold = std::mem::take(&mut self.entrance.overload.untold);
        if !untold || self.settings.sys_interval == 0 {
            return;
        }
        let level = self.entrance.overload.level();
        let topic = format!("$SYS/broker/overload/{}", self.topology.id.0);
        let text = format!("{} {}", level as u8, level.word());
        let message = MessageRef {
            topic: &topic,
            properties: &[],
            payload: text.as_bytes(),
            qos: Qos::AtMostOnce,
            retain: true,
            expires: None,
            publisher: None,
        };
        if !self.try_publish(&message, Accounts::NONE, None) {
            let stored = Message::new(&message, self.delivery.scratch.bytes());
            self.queue_will(stored, Accounts::NONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_update_comes_soon_and_each_is_armed_once() {
        let mut sys = Sys::default();
        assert_eq!(sys.arm(0), None);
        assert_eq!(sys.arm(FIRST / 2), Some(FIRST / 2));
        assert_eq!(sys.arm(FIRST / 2), None);
        sys.armed = false;
        assert_eq!(sys.arm(60_000), Some(FIRST));
        (sys.armed, sys.begun) = (false, true);
        assert_eq!(sys.arm(60_000), Some(60_000));
    }
}
