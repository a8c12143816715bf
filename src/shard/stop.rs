//! The shutdown of a shard: it accepts no new clients, sends the wills, and disconnects every
//! client. Each of these visits every connection, so it is done in slices.

use super::Shard;
use super::close::Cause;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mesh::reading::Position;

/// How far the shard has come; the wills are [`super::wills::Wills`]' matter.
#[derive(Default)]
pub(super) struct Stopping {
    /// The next connection to say goodbye to; `None` when that has not begun.
    goodbyes: Option<u32>,
    /// The mail that was there when goodbyes were asked for: they wait for it.
    mail: Option<Position>,
    /// Goodbyes were asked for.
    dismissed: bool,
    /// No new clients.
    pub(super) draining: bool,
    /// No timer fires: the clients are on their way to another process, or from one.
    pub(super) suspended: bool,
}

impl Shard {
    /// Stops: no new clients; wills are routed while their receivers are still connected. Over
    /// when [`Shard::has_routed_wills`] says so; then comes [`Shard::dismiss`].
    pub fn drain(&mut self) {
        self.work.stopping.draining = true;
        self.work.wills.begin_last();
    }

    /// True when a drain has begun and every will of a connected client has been routed.
    pub fn has_routed_wills(&self) -> bool {
        self.work.stopping.draining && !self.work.wills.has_last() && self.work.wills.is_empty()
    }

    /// The second half of [`Shard::drain`]: says goodbye (0x8B) to every client, after the wills,
    /// the mail that is there by now, and what is still being delivered. Over when
    /// [`Shard::is_drained`] says so.
    pub fn dismiss(&mut self) {
        self.work.stopping.draining = true;
        self.work.stopping.dismissed = true;
    }

    /// True when no connection is left and nothing waits to be carried.
    pub fn is_drained(&self) -> bool {
        let arrived = self.entrance.arrivals.len() == 0;
        self.connections.is_empty()
            && arrived
            && self.work.wills.is_empty()
            && self.mail.outbox.is_empty()
    }

    /// Goes on with stopping until the step's work comes to `limit`; true when there is more.
    pub(super) fn run_stopping(&mut self, limit: u32) -> bool {
        if !self.work.stopping.draining {
            return false;
        }
        self.run_last_wills(limit);
        if self.work.wills.has_last() {
            return true;
        }
        if !self.work.stopping.dismissed {
            return false;
        }
        let mail = self.work.stopping.mail.get_or_insert_with(|| self.mail.intake.noted());
        if !self.mail.intake.is_past(mail) {
            return self.takes_data();
        }
        if !self.work.wills.is_empty() || !self.delivery.fanouts.is_empty() {
            return !self.delivery.fanouts.is_empty();
        }
        let mut at = *self.work.stopping.goodbyes.get_or_insert(0);
        while at < self.connections.bound() && !self.is_spent(limit) {
            self.meter.charge(cost::VISIT);
            if self.connections.get(at).is_some() {
                self.disconnect(SocketId(at), Cause::Draining);
            }
            at += 1;
        }
        self.work.stopping.goodbyes = Some(at);
        at < self.connections.bound()
    }
}
