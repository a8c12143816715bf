//! Taking in mail: all control mail first, then data mail up to the step's share.

use super::Shard;
use crate::ids::ShardId;
use crate::limits::{CONTROL_ROUND, DATA_ROUND};
use crate::mesh::mail::{Control, Data};
use crate::mesh::mailbox::MailEnds;

impl Shard {
    /// Takes mail out of this shard's mailboxes; returns how many. Part of a step, after the
    /// clients' input, with a share of work of its own: neither can starve the other.
    pub fn take_mail(&mut self, ends: &mut MailEnds<Data, Control>) -> usize {
        let (mut taken, mut least) = (0, usize::MAX);
        for peer in (0..self.shards).map(ShardId) {
            taken += ends.take_control(peer, CONTROL_ROUND, |control| {
                self.control_mail(peer, control);
            });
        }
        if self.outbox.is_congested() || self.fanouts.is_full() {
            return taken;
        }
        self.work = 0;
        // Another peer is first in each step.
        self.first_peer = (self.first_peer + 1) % self.shards;
        for step in 0..self.shards {
            let peer = ShardId(
                ((u16::from(self.first_peer) + u16::from(step)) % u16::from(self.shards)) as u8,
            );
            let mut round = 0;
            while round < DATA_ROUND && !self.is_spent(self.settings.budget.step) {
                let Some(data) = ends.pop_data(peer) else { break };
                self.data_mail(data);
                round += 1;
            }
            taken += round;
            if ends.has_data(peer) {
                least = least.min(round);
            }
        }
        self.data_round(least);
        taken
    }
}
