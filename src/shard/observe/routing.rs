//! Routes events to subscribers, in a share of each step, as wills are routed.

use crate::limits::cost;
use crate::message::Accounts;
use crate::shard::Shard;

impl Shard {
    /// Routes events, as far as mailboxes have room, until the step's work comes to `limit`; true
    /// when more can be routed at once.
    pub(in crate::shard) fn publish_events(&mut self, limit: u32) -> bool {
        while !self.is_spent(limit) {
            if self.delivery.fanouts.is_full() {
                return false;
            }
            let Some(message) = self.work.observers.events.front().cloned() else { return false };
            self.meter.charge(cost::PACKET + cost::bytes(message.size()));
            if !self.try_publish(&message.view(), Accounts::NONE, Some(&message)) {
                return false;
            }
            if self.work.observers.events.pop_front().is_some() {
                self.memory.tally.names -= message.size();
            }
        }
        !self.work.observers.events.is_empty()
    }
}
