//! The end of a shard: no new clients, the wills, goodbye to every client. In slices, since each of
//! these visits every connection.

use super::Shard;
use super::close::Cause;
use super::connection::Stage;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mesh::reading::Position;

/// How far the shard has come. Each cursor is the next connection to look at; `None` when that part
/// has not begun or is over.
#[derive(Default)]
pub(super) struct Stopping {
    wills: Option<u32>,
    goodbyes: Option<u32>,
    /// The mail that was there when goodbyes were asked for: they wait for it.
    mail: Option<Position>,
    /// Goodbyes were asked for.
    dismissed: bool,
}

impl Shard {
    /// Stops: no new clients; wills are routed while their receivers are still connected. Over
    /// when [`Shard::has_routed_wills`] says so; then comes [`Shard::dismiss`].
    pub fn drain(&mut self) {
        self.draining = true;
        self.stopping.wills = Some(0);
    }

    /// True when a drain has begun and every will of a connected client has been routed.
    pub fn has_routed_wills(&self) -> bool {
        self.draining && self.stopping.wills.is_none() && self.wills.is_empty()
    }

    /// The second half of [`Shard::drain`]: says goodbye (0x8B) to every client, after the wills,
    /// the mail that is there by now, and what is still being delivered. Over when
    /// [`Shard::is_drained`] says so.
    pub fn dismiss(&mut self) {
        self.draining = true;
        self.stopping.dismissed = true;
    }

    /// True when no connection is left and nothing waits to be carried.
    pub fn is_drained(&self) -> bool {
        let arrived = self.arrivals.len() == 0;
        self.connections.is_empty() && arrived && self.wills.is_empty() && self.outbox.is_empty()
    }

    /// Goes on with stopping until the step's work comes to `limit`; true when there is more.
    pub(super) fn run_stopping(&mut self, limit: u32) -> bool {
        if !self.draining {
            return false;
        }
        self.run_last_wills(limit);
        if self.stopping.wills.is_some() {
            return true;
        }
        if !self.stopping.dismissed {
            return false;
        }
        let mail = self.stopping.mail.get_or_insert_with(|| self.intake.noted());
        if !self.intake.is_past(mail) {
            return self.takes_data();
        }
        if !self.wills.is_empty() || !self.fanouts.is_empty() {
            return !self.fanouts.is_empty();
        }
        let mut at = *self.stopping.goodbyes.get_or_insert(0);
        while at < self.connections.bound() && !self.is_spent(limit) {
            self.work += cost::VISIT;
            if self.connections.get(at).is_some() {
                self.disconnect(SocketId(at), Cause::Draining);
            }
            at += 1;
        }
        self.stopping.goodbyes = Some(at);
        at < self.connections.bound()
    }

    /// [MQTT-3.1.2-8] wants wills sent when the connection closes without DISCONNECT; those with a
    /// delay end with the process, as section 3.1.2.5 allows for a server's shutdown.
    fn run_last_wills(&mut self, limit: u32) {
        let Some(mut at) = self.stopping.wills.take() else { return };
        while at < self.connections.bound() {
            if self.is_spent(limit) {
                self.stopping.wills = Some(at);
                return;
            }
            self.work += cost::VISIT;
            if let Some(Stage::Open(index)) = self.connections.get(at).map(|c| c.stage)
                && let Some(session) = self.sessions.get_mut(index)
                && session.will.as_ref().is_some_and(|will| will.delay == 0 || session.expiry == 0)
                && let Some(will) = session.will.take()
            {
                self.work += cost::DELIVERY;
                self.tally.names -= will.message.size();
                self.fire_will(*will);
            }
            at += 1;
        }
    }
}
