//! Sessions of a lost node that this node adopts: this shard, which is the home of their ClientIds,
//! puts them in their places and stores them. The cluster's thread hands them out
//! ([`crate::cluster::adoption`]).

use super::Shard;
use super::adopt::ANY;
use super::restore::in_order;
use super::route::GROUP;
use crate::limits::cost;
use crate::mesh::adopting::{Orphan, OrphanWill};
use crate::packet::PacketId;
use crate::session::{Queued, SessionWill};
use crate::storage::image::SessionHead;
use crate::storage::record::DeliveryPhase;
use crate::topic::{self, Subscriber};

impl Shard {
    /// Adopts a session, unless there is one of that ClientId here, which is newer.
    pub(super) fn adopt_orphan(&mut self, orphan: Orphan) {
        let bytes = orphan.bytes();
        self.meter.charge(cost::SESSION + cost::bytes(bytes));
        if self.find_session(&orphan.client_id).is_none() {
            self.place_orphan(orphan);
            self.counters.sessions_adopted += 1;
        }
        let Some(storing) = &mut self.storing else { return };
        let batch = storing.appended;
        if let Some(journaling) = &mut storing.journaling {
            journaling.note_orphan(batch, bytes as u64);
        }
    }

    fn place_orphan(&mut self, orphan: Orphan) {
        let index = self.new_session(&orphan.client_id);
        let head = SessionHead {
            client_id: orphan.client_id,
            mountpoint: orphan.mountpoint,
            expiry: orphan.expiry,
            ends: orphan.ends,
            level: orphan.level,
            bridge: orphan.bridge,
        };
        if !self.place_head(index, head) {
            return;
        }
        self.store_session(index);
        for (filter, options, id) in orphan.subscriptions {
            self.place_subscription_of_orphan(index, &filter, options & !GROUP, id);
        }
        self.place_flow_of_orphan(index, orphan.sent, orphan.waiting, &orphan.inbound);
        if let Some(will) = orphan.will {
            self.place_will_of_orphan(index, will);
        }
        if let Some(due) = self.sessions.get(index).and_then(|session| session.next_due()) {
            self.arm_session(index, due);
        }
    }

    fn place_subscription_of_orphan(&mut self, index: u32, filter: &str, options: u8, id: u32) {
        if let Some(Ok(_)) = topic::parse_share(filter) {
            let ticket = self.topology.ticket();
            self.join(index, filter, options, id, ticket);
            self.tell_presence(index, false);
        } else {
            let subscriber = Subscriber { target: index, options, subscription_id: id };
            if self.place_subscription(index, filter, subscriber).is_err() {
                tracing::error!(filter, "an adopted subscription has no room");
                return;
            }
        }
        self.store_subscription(index, filter, options, id);
    }

    fn place_flow_of_orphan(
        &mut self,
        index: u32,
        sent: Vec<(u16, bool, Queued)>,
        waiting: Vec<Queued>,
        inbound: &[u16],
    ) {
        if sent.is_empty() && waiting.is_empty() && inbound.is_empty() {
            return;
        }
        self.use_flow(index);
        let mut restored = Vec::with_capacity(sent.len());
        for (id, released, mut queued) in sent {
            let Some(id) = PacketId::new(id) else { continue };
            queued.stored = self.store_queued(index, &queued);
            let phase = if released { DeliveryPhase::Released } else { DeliveryPhase::Sent };
            self.store_phase(index, queued.stored, id, queued.qos, phase);
            restored.push((id, if released { Err(queued.stored) } else { Ok(queued) }));
        }
        in_order(&mut restored);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        flow.window.restore(restored);
        self.counters.inflight += u64::from(flow.window.open());
        self.memory.tally.kept += flow.window.kept();
        for mut queued in waiting {
            queued.stored = self.store_queued(index, &queued);
            self.push_of_orphan(index, queued);
        }
        for id in inbound.iter().filter_map(|&id| PacketId::new(id)) {
            self.store_inbound(index, id, true);
            let Some(session) = self.sessions.get_mut(index) else { return };
            let flow = session.flow();
            let before = flow.inbound.len();
            flow.inbound.insert(id);
            self.memory.tally.inbound += flow.inbound.len() - before;
        }
    }

    /// Adds a message to the queue, whose part behind its head is on disk only.
    fn push_of_orphan(&mut self, index: u32, queued: Queued) {
        let away = self.send_away(index, &queued);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let pending = &mut session.flow().pending;
        let (before, count, bytes) = (pending.away(), pending.len(), pending.bytes());
        match away {
            Some(away) => pending.push_away(away, queued.message.expires(), &ANY),
            None => pending.push(queued, &ANY),
        };
        self.counters.pending_messages += (pending.len() - count) as u64;
        self.counters.pending_bytes += (pending.bytes() - bytes) as u64;
        self.note_away(index, before);
    }

    /// The connection was lost with its node, so the will is due after its delay.
    fn place_will_of_orphan(&mut self, index: u32, will: OrphanWill) {
        let OrphanWill { message, delay, message_expiry, due } = will;
        let now = self.now;
        let Some(storing) = &self.storing else { return };
        let due = if due == 0 { now.plus_seconds(delay) } else { storing.instant(due) };
        let Some(session) = self.sessions.get_mut(index) else { return };
        self.memory.tally.names += message.size();
        let due = Some(due);
        let will = SessionWill { message, delay, message_expiry, due, restored: false };
        session.will = Some(Box::new(will));
        self.store_will(index);
    }
}
