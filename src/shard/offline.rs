//! Sessions without a connection: how a session loses its connection, and how it ends.

use super::Shard;
use super::close::Cause;
use super::drops::DropReason;
use crate::limits::cost;
use crate::mesh::mail::Over;
use crate::mutant::Mutant;
use crate::session::{Backlog, NEVER, Session};
use crate::time::Instant;

/// How many expired messages are taken out of one offline session's queue per turn; the second
/// number holds when the step has no work to spare.
const EXPIRED: u32 = 256;
const FEW_EXPIRED: u32 = 8;

impl Shard {
    /// Takes the connection away from the session.
    pub(super) fn detach(&mut self, index: u32, cause: Cause) {
        let now = self.now;
        self.subscriptions.joining.remove(&index);
        self.work.tasks.connection_ended(index);
        self.subscriptions.links.unanswered.connection_ended(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.set_socket(None);
        let Session { flow, subscriptions, .. } = session;
        if let Some(flow) = flow {
            flow.backlog = Backlog::default();
            // The session is still owed the retained messages that a SUBSCRIBE asked for
            // [MQTT-3.8.4-4]; its next connection goes on with the replay. This holds for QoS 0,
            // too: only what is on its way now is dropped, like all QoS 0 messages for an offline
            // client.
            flow.inherit_replays(|filter| {
                subscriptions.position(filter).is_some() && !Mutant::ReplayNotInherited.is_on()
            });
        }
        // Not earlier: what the publishers send when they go on must not find this client crowded
        // again.
        self.unpark_waiters(index, Over::CaughtUp);
        self.leave_will(index, cause);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let expiry = session.expiry;
        if expiry == 0 {
            self.end_session(index);
            return;
        }
        let never = expiry == NEVER || Mutant::SessionNeverExpires.is_on();
        let part = if Mutant::SessionExpiresEarly.is_on() { 2 } else { 1 };
        session.set_ends(if never { Instant::END } else { now.plus_seconds(expiry / part) });
        if session.flow.as_ref().is_some_and(|flow| flow.is_idle())
            && let Some(flow) = session.flow.take()
        {
            self.memory.tally.forget_idle(&flow);
        }
        let Some(session) = self.sessions.get(index) else { return };
        let next = session.next_due();
        self.counters.sessions_persistent += 1;
        self.store_session(index);
        if let Some(next) = next {
            self.arm_session(index, next);
        }
        self.tell_presence(index, false);
    }

    /// Ends an offline session: its subscriptions, queues and name go, and a waiting will is sent
    /// now.
    pub(super) fn end_session(&mut self, index: u32) {
        let reference = self.session_ref(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        debug_assert!(session.socket().is_none());
        self.meter.charge(cost::SESSION);
        self.store_end(index);
        self.observe_end(index);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let key = session.key;
        let flow = session.flow.take();
        let will = self.take_will(index, |_, _| true);
        self.sessions.forget_name(key, index);
        if let Some(flow) = flow {
            self.return_flow(reference, *flow);
        }
        self.counters.sessions -= 1;
        self.subscriptions.joining.remove(&index);
        self.subscriptions.links.unanswered.session_ended(index);
        let accounts = self.accounts_of(index);
        self.forget_limits(index);
        self.end_subscriptions(index);
        if let Some(will) = will {
            self.send_will(*will, accounts);
        }
    }

    /// Handles the timer of an offline session: the will's delay, or the session itself, may be
    /// over.
    pub(super) fn session_due(&mut self, index: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.socket().is_some() || session.is_ending() {
            return;
        }
        if session.ends() <= now {
            self.counters.sessions_persistent -= 1;
            self.counters.sessions_expired += 1;
            self.end_session(index);
            return;
        }
        self.delayed_will_due(index);
        self.sweep_expired(index);
        if let Some(next) = self.sessions.get(index).and_then(Session::next_due) {
            self.arm_session(index, next);
        }
    }

    /// Takes a share of the expired messages out of an offline session's queue. The rest has its
    /// turn at the next tick.
    fn sweep_expired(&mut self, index: u32) {
        let now = self.now;
        // Some are taken in any case, or a shard that is always busy would never get through the
        // queue.
        let most =
            if self.meter.work() < self.settings.budget.step { EXPIRED } else { FEW_EXPIRED };
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.expiry_due().is_none_or(|due| due > now) {
            return;
        }
        let Some(flow) = &mut session.flow else { return };
        let (before, away) = (flow.pending.bytes(), flow.pending.away());
        let dropped = flow.pending.expire(now, most);
        self.meter.charge(cost::DELIVERY * dropped);
        self.counters.pending_messages -= u64::from(dropped);
        self.counters.pending_bytes -= (before - flow.pending.bytes()) as u64;
        self.lose(index, DropReason::Expired, dropped.into());
        self.store_all_gone(index);
        self.note_away(index, away);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(flow) = &mut session.flow else { return };
        if flow.is_idle()
            && let Some(flow) = session.flow.take()
        {
            self.memory.tally.forget_idle(&flow);
        }
    }
}
