//! Redelivery: sends again what a reconnected client had not acknowledged, and, for MQTT 3 clients
//! where `mqtt.retry_interval` is set, what has been unacknowledged for that long.

use super::Shard;
use super::deliver::Outbound;
use super::drops::DropReason;
use crate::mutant::Mutant;
use crate::packet::{AckKind, ReasonCode};

impl Shard {
    /// Sends again, in order, what was unacknowledged when the last connection ended
    /// [MQTT-4.4.0-1], then the messages that wait in the queue.
    pub(super) fn resume_deliveries(&mut self, index: u32) {
        if let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) {
            let before = flow.inbound.len();
            flow.inbound.begin_connection();
            self.memory.tally.inbound -= before - flow.inbound.len();
            self.use_flow(index);
        }
        self.hold_unanswered(index);
        self.send_again(index);
        self.pump(index);
    }

    /// Sends every unacknowledged PUBLISH (with DUP set) and PUBREL again, as far as the client's
    /// Receive Maximum and its reading allow; [`Shard::pump`] goes on.
    fn send_again(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let (Some(socket), version) = (session.socket(), session.version) else { return };
        let Some(flow) = &mut session.flow else { return };
        // An expired message is not sent again. It was never completed, so it counts as dropped.
        let before = flow.window.kept();
        let expired =
            flow.window.abandon(|queued| queued.message.view().seconds_left(now).is_err());
        self.memory.tally.kept -= before - flow.window.kept();
        self.counters.inflight -= u64::from(expired);
        let releases = flow.window.repeat();
        self.lose(index, DropReason::Expired, expired.into());
        self.store_all_gone(index);
        for id in releases {
            self.write_ack(socket, version, AckKind::PubRel, id, ReasonCode::Success);
        }
        self.go_on_again(index);
    }

    /// Sends the messages that are to be sent again, as far as they can be sent now.
    pub(super) fn go_on_again(&mut self, index: u32) {
        let now = self.now;
        loop {
            let Some(session) = self.sessions.get_mut(index) else { return };
            let (Some(socket), limit) = (session.socket(), session.window_limit) else { return };
            if !session.flow.as_ref().is_some_and(|flow| flow.window.has_again())
                || self.is_clogged(socket)
                || self.waits_for_memory(socket)
            {
                return;
            }
            let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else {
                return;
            };
            let Some((id, queued)) = flow.window.next_again(limit) else { return };
            let view = queued.message.view();
            let outbound = Outbound {
                dup: !Mutant::DupForgotten.is_on(),
                qos: queued.qos,
                retain: queued.retain,
                id: Some(id),
                subscription_ids: queued.subscription_ids.as_slice(),
                message_expiry: view.seconds_left(now).unwrap_or(Some(0)),
            };
            match self.fits(index, &view, &outbound) {
                Ok(()) => {
                    self.delivery.current.begin(Some(&queued.message));
                    self.send_publish(index, socket, &view, &outbound);
                    self.delivery.current.crowded.clear();
                }
                Err(misfit) => self.skip(index, socket, id, misfit),
            }
        }
    }

    /// Handles a retry timer of a session, which may be due.
    pub(super) fn retry_due(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let socket = session.socket();
        let Some(flow) = &mut session.flow else { return };
        if flow.retry.is_none_or(|at| at > now) {
            return;
        }
        flow.retry = None;
        if let Some(socket) = socket
            && !flow.window.is_empty()
        {
            // A client that has not read what it was sent needs no repetition.
            if self.connections.get(socket.0).is_some_and(|c| c.output.is_none()) {
                self.send_again(index);
            }
            self.arm_retry(index);
        }
    }
}
