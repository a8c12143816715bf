//! Questions that every part of the shard asks: the names of sessions, the home of a topic or a
//! name, whether the step has work left. Nothing here calls another part of the shard.

use super::Shard;
use super::announced::ConnackLimits;
use crate::ids::{Publisher, SessionRef, ShardId, SocketId};
use crate::limits::cost;
use crate::mesh::mail::Control;
use crate::mesh::moves::ToCluster;
use crate::message::{MessageRef, expiry};
use crate::mutant::Mutant;
use crate::session::Session;
use crate::time::Instant;

impl Shard {
    /// True when the step's work has come to `limit`, or its time is over.
    #[inline]
    pub(super) fn is_spent(&mut self, limit: u32) -> bool {
        if self.meter.wants_look() {
            self.look_at_clock(limit);
        }
        self.meter.work() >= limit && !Mutant::BudgetIgnored.is_on()
    }

    #[inline(never)]
    pub(super) fn look_at_clock(&mut self, limit: u32) {
        self.weigh_within();
        self.meter.look_at_clock(limit, self.settings.budget.step);
    }

    /// Does one kind of work within its allowance.
    pub(super) fn in_share<T>(&mut self, work: fn(&mut Shard, u32) -> T) -> T {
        let limit = self.meter.allowance(self.settings.budget);
        work(self, limit)
    }

    /// What the client was told in CONNACK that it may send.
    #[inline]
    pub(super) fn announced_to(&self, socket: SocketId) -> ConnackLimits {
        let reloads = || Some(self.connections.get(socket.0)?.reloads);
        self.entrance.announced.to(reloads, &self.settings)
    }

    pub(super) fn session_ref(&self, index: u32) -> SessionRef {
        SessionRef { shard: self.topology.id, index, generation: self.sessions.generation(index) }
    }

    /// The session at `index` as the publisher of a message.
    pub(super) fn publisher(&self, index: u32) -> Option<Publisher> {
        let client = self.sessions.get(index)?.key;
        Some(Publisher { client, shard: self.topology.id })
    }

    /// The session, if it still is the one that was meant and is not ending.
    pub(super) fn session_of(&mut self, session: SessionRef) -> Option<&mut Session> {
        debug_assert!(session.shard == self.topology.id);
        let known = self.sessions.get_of(session.index, session.generation)?;
        (!known.is_ending()).then_some(known)
    }

    /// Sends control mail to another shard. The callers do what one of this shard's own clients
    /// asks of a group or a publisher here at once instead. Such a request has waited for data mail
    /// already, as far as it has to, and a later request of the same client must not find an
    /// earlier one still waiting.
    pub(super) fn tell(&mut self, to: ShardId, control: Control) {
        debug_assert!(to != self.topology.id, "mail is for others");
        self.meter.charge(cost::MAIL);
        self.mail.outbox.tell(to, control);
    }

    /// Whether this is a node of a cluster, so that other nodes may have the ClientId of a new
    /// client.
    #[inline]
    pub(super) fn has_to_claim(&self) -> bool {
        self.topology.cluster().is_some()
    }

    /// Tells the cluster something about ClientIds and sessions.
    pub(super) fn answer_cluster(&mut self, what: ToCluster) {
        if let Some(cluster) = self.topology.cluster() {
            self.tell(cluster, Control::ToCluster(Box::new(what)));
        }
    }

    /// Whether data mail can be taken in. Data mail may cause control mail, which a receiver may be
    /// behind with, and fan-outs, whose number is bounded.
    pub(super) fn takes_data(&self) -> bool {
        !self.mail.outbox.is_congested() && !self.delivery.fanouts.is_full()
    }

    /// When a message expires whose Message Expiry Interval is this many `seconds`, but no later
    /// than `mqtt.message_expiry_max` allows.
    pub(super) fn expires(&self, seconds: Option<u32>) -> Option<Instant> {
        let bound = self.settings.message_expiry_max.map(|seconds| self.now.plus_seconds(seconds));
        let own = seconds.map(|seconds| expiry(self.now, seconds));
        [own, bound].into_iter().flatten().min()
    }

    /// True when the client of the session at `index` published the message, perhaps in an earlier
    /// session.
    pub(super) fn is_publisher(&self, index: u32, message: &MessageRef<'_>) -> bool {
        let by = message.publisher.map(|publisher| publisher.client);
        by.is_some() && by == self.sessions.get(index).map(|session| session.key)
    }
}
