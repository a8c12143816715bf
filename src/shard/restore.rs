//! Restores this shard's sessions, queues and retained messages from what was stored before a
//! restart.

use super::Shard;
use super::adopt::ANY;
use super::changes::version;
use super::memory::{named, retained};
use super::route::GROUP;
use crate::message::{Accounts, Message};
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::{
    AwayMessage, NEVER, Queued, SessionWill, ShareName, StoredSessionRef, SubscriptionIds,
};
use crate::storage::image::{
    Image, LastWill, MessageImage, QueuedImage, SessionHead, SessionImage, WaitingMessage,
};
use crate::storage::newest::Newest;
use crate::storage::record::DeliveryPhase;
use crate::time::Instant;
use crate::topic::{self, Subscriber};
use hashbrown::HashMap;

/// Milliseconds after a start before the broker sends wills that were stored, on a node of a
/// cluster: long enough for it to know the other nodes and to hear which wills these have sent.
const SETTLED: u64 = 10_000;

impl Shard {
    /// Takes over what was stored. Must be called after [`Shard::store_with`] and before anything
    /// else. Sessions that had a connection before the restart have lost it.
    pub fn restore(&mut self, mut image: Image) {
        self.restore_retained(std::mem::take(&mut image.retained));
        let returning = std::mem::take(&mut image.returning);
        self.restore_returning(returning, &image);
        for (number, stored) in image.take_sessions() {
            self.restore_session(number, *stored, &image);
        }
        if let Some(storing) = &mut self.storing {
            storing.bodies.adopted();
        }
    }

    fn restore_retained(&mut self, stored: HashMap<Box<str>, MessageImage>) {
        let mut messages = std::mem::take(&mut self.retained.messages);
        messages.set_all(stored.into_iter().map(|(topic, body)| {
            let message = self.restore_message(&body);
            self.count_kept(&topic, &message, (Accounts::unpacked(body.accounts), body.stamp));
            (topic, message)
        }));
        self.retained.messages = messages;
    }

    /// Puts a message into the table that was retained before this process began, with its accounts
    /// and its stamp.
    pub(super) fn put_retained(&mut self, topic: &str, message: Message, origin: (Accounts, u64)) {
        self.count_kept(topic, &message, origin);
        self.retained.messages.set(topic, message);
    }

    /// Counts such a message.
    fn count_kept(&mut self, topic: &str, message: &Message, (accounts, stamp): (Accounts, u64)) {
        let size = message.size() as u64;
        // Also beyond a limit that is lower now: what was accepted is not dropped.
        self.topology.shared.retained_messages.take(1, u64::MAX);
        self.topology.shared.retained_bytes.take(size, u64::MAX);
        self.topology.shared.retained_ever.note(topic);
        self.counters.retained_messages += 1;
        self.counters.retained_bytes += size;
        self.memory.tally.retained += retained(topic, message.size());
        self.adopt_accounts(topic, accounts, size);
        self.note_restored(message, stamp);
        self.retained.changes(topic, true);
    }

    /// Gives a new session what its own record says. False when there is no such session, or no
    /// store.
    pub(super) fn place_head(&mut self, index: u32, head: SessionHead) -> bool {
        let Some(storing) = &self.storing else { return false };
        let ends = match (head.ends, head.expiry) {
            (_, NEVER) => Instant::END,
            (0, expiry) => self.now.plus_seconds(expiry),
            (date, _) => storing.instant(date),
        };
        let Some(session) = self.sessions.get_mut(index) else { return false };
        self.memory.tally.names -= named(session);
        session.expiry = head.expiry;
        session.version = version(head.level);
        session.bridge = head.bridge;
        session.set_ends(ends);
        if !head.mountpoint.is_empty() {
            session.extras().mountpoint = head.mountpoint;
        }
        self.memory.tally.names += named(session);
        self.counters.sessions_persistent += 1;
        true
    }

    fn restore_session(&mut self, number: u64, stored: SessionImage, image: &Image) {
        let Some(head) = stored.head else { return };
        let index = self.new_session(&head.client_id);
        let slot = stored.waiting.last().copied().unwrap_or(0);
        if let Some(session) = self.sessions.get_mut(index) {
            session.stored = StoredSessionRef::new(number, slot);
        }
        let (had_connection, expiry) = (head.ends == 0, head.expiry);
        if !self.place_head(index, head) {
            return;
        }
        for (filter, (options, subscription_id)) in stored.subscriptions {
            let options = options & !GROUP;
            if let Some(Ok(_)) = topic::parse_share(&filter) {
                let ticket = self.topology.ticket();
                if self.join(index, &filter, options, subscription_id, ticket) {
                    self.subscriptions.rejoining.asked(ticket);
                }
                self.tell_presence(index, false);
                continue;
            }
            let subscriber = Subscriber { target: index, options, subscription_id };
            if self.place_subscription(index, &filter, subscriber).is_err() {
                tracing::error!(filter = &*filter, "a stored subscription has no room any more");
            }
        }
        self.restore_flow(index, stored.waiting, &stored.inbound, image);
        if expiry == 0 {
            // The session was stored only for its messages in the store, and ended with its
            // connection.
            self.counters.sessions_persistent -= 1;
            self.end_session(index);
            return;
        }
        if had_connection {
            // From now on the time at which the session ends is known.
            self.store_session(index);
        }
        if let Some(will) = stored.will {
            self.restore_will(index, &will);
        }
        if let Some(due) = self.sessions.get(index).and_then(|session| session.next_due()) {
            self.arm_session(index, due);
        }
    }

    /// The end of the broker closed the connection without a DISCONNECT, so the will is due
    /// [MQTT-3.1.2-8].
    fn restore_will(&mut self, index: u32, stored: &LastWill) {
        let message = self.restore_message(&stored.body);
        let (now, message_expiry) = (self.now, Some(stored.lifetime).filter(|&s| s != u32::MAX));
        let Some(storing) = &self.storing else { return };
        let due = match stored.due {
            0 => now.plus_seconds(stored.delay),
            date => storing.instant(date),
        };
        // The other nodes of a cluster say which ones they have sent.
        let due = match self.topology.cluster() {
            Some(_) if !Mutant::ClusterWillRestoredAtOnce.is_on() => {
                due.max(now.plus_millis(SETTLED))
            }
            _ => due,
        };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let delay = stored.delay;
        self.memory.tally.names += message.size();
        let due = Some(due);
        let will = SessionWill { message, delay, message_expiry, due, restored: true };
        session.will = Some(Box::new(will));
        if stored.due == 0 {
            self.store_will(index);
        }
        self.tell_will(index);
    }

    /// Leaves a message of a session's queue in the store, behind the head of the queue. False when
    /// the message belongs into memory.
    fn restore_away(
        &mut self,
        index: u32,
        slot: u32,
        waiting: &QueuedImage,
        image: &Image,
    ) -> bool {
        let Some(message) = image.messages.get(&waiting.message) else { return false };
        let &WaitingMessage { size, checksum, expires, sessions, .. } = message;
        let Some(storing) = &mut self.storing else { return false };
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let pending = &mut session.flow().pending;
        let qos = Qos::from_u8(waiting.flags & 3).unwrap_or_default();
        let kinds = (qos, !waiting.share.is_empty(), slot);
        // Nobody is connected who could be sent the head of the queue at once.
        if !pending.goes_away(kinds, size as usize, (0, 0)) {
            return false;
        }
        if sessions > 1 {
            storing.bodies.adopt_away(waiting.message);
        }
        let message = AwayMessage {
            slot,
            number: waiting.message,
            size,
            checksum,
            qos,
            retain: waiting.flags & 4 != 0,
            subscription_ids: SubscriptionIds::from_slice(&waiting.ids),
        };
        let (before, bytes) = (pending.away(), pending.bytes());
        let expires = Some(storing.instant(expires)).filter(|&at| at != Instant::END);
        pending.push_away(message, expires, &ANY);
        self.counters.pending_messages += 1;
        self.counters.pending_bytes += (pending.bytes() - bytes) as u64;
        self.note_away(index, before);
        true
    }

    fn restore_flow(
        &mut self,
        index: u32,
        waiting: Newest<u32, QueuedImage>,
        inbound: &[u16],
        image: &Image,
    ) {
        if waiting.is_empty() && inbound.is_empty() {
            return;
        }
        self.use_flow(index);
        let mut sent = Vec::new();
        for (slot, waiting) in waiting {
            let sent_as = waiting.sent.and_then(|(id, phase)| Some((PacketId::new(id)?, phase)));
            if sent_as.is_none() && self.restore_away(index, slot, &waiting, image) {
                continue;
            }
            let Some(message) = self.restore_handle(waiting.message, image) else { continue };
            if let Some(storing) = &mut self.storing {
                storing.bodies.set_slot(index, slot, waiting.message);
            }
            let queued = Queued {
                message,
                subscription_ids: SubscriptionIds::from_slice(&waiting.ids),
                qos: Qos::from_u8(waiting.flags & 3).unwrap_or_default(),
                retain: waiting.flags & 4 != 0,
                share: (!waiting.share.is_empty()).then(|| ShareName::new(&waiting.share)),
                stored: slot,
            };
            match sent_as {
                Some((id, DeliveryPhase::Released)) => sent.push((id, Err(slot))),
                Some((id, DeliveryPhase::Sent)) => sent.push((id, Ok(queued))),
                None => {
                    let Some(session) = self.sessions.get_mut(index) else { return };
                    let pending = &mut session.flow().pending;
                    let before = pending.bytes();
                    pending.push(queued, &ANY);
                    self.counters.pending_messages += 1;
                    self.counters.pending_bytes += (pending.bytes() - before) as u64;
                }
            }
        }
        in_order(&mut sent);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let flow = session.flow();
        flow.window.restore(sent);
        self.counters.inflight += u64::from(flow.window.open());
        self.memory.tally.kept += flow.window.kept();
        for id in inbound.iter().filter_map(|&id| PacketId::new(id)) {
            let before = flow.inbound.len();
            flow.inbound.insert(id);
            self.memory.tally.inbound += flow.inbound.len() - before;
        }
    }
}

/// Puts packet identifiers into the order in which they were assigned. Identifiers count up and
/// wrap, so the first one is the one after the widest gap.
pub(super) fn in_order<T>(sent: &mut [(PacketId, T)]) {
    sent.sort_by_key(|(id, _)| id.get());
    let gap = |at: usize| {
        let before = if at == 0 { sent.len() - 1 } else { at - 1 };
        let (one, other) = (sent.get(before), sent.get(at));
        let (one, other) = (one.map_or(0, |s| s.0.get()), other.map_or(0, |s| s.0.get()));
        (u32::from(other) + 65_535 - u32::from(one)) % 65_535
    };
    let first = (0..sent.len()).max_by_key(|&at| gap(at)).unwrap_or(0);
    sent.rotate_left(first);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_in_the_order_in_which_they_were_given_out() {
        for (given, first) in [
            (vec![1, 2, 3], 1),
            (vec![7], 7),
            (vec![65_534, 65_535, 1, 2], 65_534),
            (vec![65_530, 3], 65_530),
        ] {
            let mut sent: Vec<(PacketId, ())> =
                given.iter().map(|&id| (PacketId::new(id).unwrap(), ())).collect();
            sent.reverse();
            in_order(&mut sent);
            assert_eq!(sent.first().map(|sent| sent.0.get()), Some(first));
            let ids: Vec<u16> = sent.iter().map(|sent| sent.0.get()).collect();
            assert_eq!(ids, given);
        }
        in_order::<()>(&mut []);
    }
}
