//! Sends the messages of a session's pending queue, as far as the window and the output allow.

use super::Shard;
use super::deliver::{LONG_QUEUE, Outbound};
use super::drops::DropReason;
use crate::mesh::mail::Over;
use crate::mutant::Mutant;
use crate::packet::{PacketId, Qos};
use crate::session::Queued;
use crate::storage::record::DeliveryPhase;

/// Most messages that are sent from a pending queue in one go.
const PUMP: usize = 256;

/// What became of the first message of a pending queue.
enum Pumped {
    Sent,
    Dropped,
    /// There is no message, or it has to wait.
    Nothing,
}

impl Shard {
    /// Sends messages of the session's queue, as far as window and output allow.
    pub(super) fn pump(&mut self, index: u32) {
        self.go_on_again(index);
        let mut sent = 0;
        while sent < PUMP {
            match self.pump_one(index) {
                Pumped::Sent => sent += 1,
                // If dropped messages used up the round, nothing would wake the queue again.
                Pumped::Dropped if Mutant::StallAfterDrop.is_on() => break,
                Pumped::Dropped => {}
                Pumped::Nothing => break,
            }
        }
        self.want_back(index);
        let bounds = self.pending_bounds_of(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(flow) = &mut session.flow else { return };
        let low =
            flow.pending.len() <= bounds.messages / 4 && flow.pending.bytes() <= bounds.bytes / 4;
        let short = low && flow.pending.len() <= LONG_QUEUE / 4;
        if flow.backlog.is_some() && flow.backlog.shrank(self.now, low, short) {
            self.unpark_waiters(index, Over::CaughtUp);
        }
        self.wake_replay(index);
        self.tell_room(index);
    }

    fn pump_one(&mut self, index: u32) -> Pumped {
        let retries = self.settings.retry_interval > 0;
        let Some(session) = self.sessions.get(index) else { return Pumped::Nothing };
        let Some(socket) = session.socket() else { return Pumped::Nothing };
        if self.is_clogged(socket) || self.waits_for_memory(socket) {
            return Pumped::Nothing;
        }
        let Some(session) = self.sessions.get_mut(index) else { return Pumped::Nothing };
        let limit = session.window_limit;
        let keep = session.is_persistent() || retries && !session.version.is_v5();
        let Some(flow) = &mut session.flow else { return Pumped::Nothing };
        let Some(front) = flow.pending.front() else { return Pumped::Nothing };
        if front.qos != Qos::AtMostOnce && !flow.window.has_room(limit) {
            return Pumped::Nothing;
        }
        let before = flow.pending.bytes();
        let Some(queued) = flow.pending.pop() else { return Pumped::Nothing };
        let slot = queued.stored;
        self.counters.pending_messages -= 1;
        self.counters.pending_bytes -= (before - flow.pending.bytes()) as u64;
        if let Some(name) = &queued.share
            && !self.sessions.get(index).is_some_and(|session| session.is_member(name))
        {
            // The session has left the group since [MQTT-3.10.4-2].
            return self.give_back_left(index, queued);
        }
        let message = queued.message.clone();
        let view = message.view();
        let left = view.seconds_left(self.now);
        let left = if Mutant::ExpiredSent.is_on() { left.or(Ok(Some(0))) } else { left };
        let Ok(message_expiry) = left else {
            self.drop_message(index, &view, DropReason::Expired);
            self.store_gone(index, slot);
            return Pumped::Dropped;
        };
        let ids = queued.subscription_ids.clone();
        let mut outbound = Outbound {
            dup: false,
            qos: queued.qos,
            retain: queued.retain,
            id: PacketId::new(1).filter(|_| queued.qos != Qos::AtMostOnce),
            subscription_ids: ids.as_slice(),
            message_expiry: message_expiry.filter(|_| !Mutant::ExpiryNotPassedOn.is_on()),
        };
        if let Err(misfit) = self.fits(index, &view, &outbound)
            && !Mutant::TooLargeFromQueue.is_on()
        {
            let wrong = Mutant::WrongDropReason.is_on();
            let reason = if wrong { DropReason::Expired } else { misfit.reason() };
            self.drop_message(index, &view, reason);
            self.store_gone(index, slot);
            return Pumped::Dropped;
        }
        if queued.qos != Qos::AtMostOnce {
            let keep = keep || queued.share.is_some();
            let Some(session) = self.sessions.get_mut(index) else { return Pumped::Nothing };
            let qos = queued.qos;
            self.memory.tally.kept += if keep { queued.message.size() } else { 0 };
            let id = session.flow().window.send(qos, keep.then_some(queued));
            outbound.id = Some(id);
            if slot != 0 {
                self.store_phase(index, slot, id, qos, DeliveryPhase::Sent);
            }
            self.counters.inflight += 1;
            self.arm_retry(index);
        }
        self.delivery.current.begin(Some(&message));
        self.send_publish(index, socket, &view, &outbound);
        // No publisher waits for this send; whether the client is crowded shows at the next
        // publication.
        self.delivery.current.crowded.clear();
        Pumped::Sent
    }

    /// Gives a message of the queue back to a group that the session has left.
    fn give_back_left(&mut self, index: u32, queued: Queued) -> Pumped {
        let (slot, mut taken) = (queued.stored, [queued]);
        self.store_taken(index, &mut taken);
        self.store_gone(index, slot);
        let [queued] = taken;
        self.give_back_later(index, queued);
        Pumped::Dropped
    }
}
