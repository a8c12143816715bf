//! The shutdown of a shard: it accepts no new clients, sends the wills, and disconnects every
//! client. The wills and the disconnects visit every connection, so they are done in slices.
//!
//! A node that leaves its cluster refers its clients to other nodes first, as many at a time as the
//! shard is told. The clients connect to other nodes, and their sessions follow them
//! ([`super::claims`]).

use super::Shard;
use super::close::Cause;
use super::connection::{Connection, Stage};
use super::refuse::Denial;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mesh::reading::MailPosition;
use crate::mutant::Mutant;

/// How far the shutdown has come. The state of the wills is in [`super::wills::Wills`].
#[derive(Default)]
pub(super) struct Stopping {
    /// The next connection to send a DISCONNECT to; `None` when that has not begun.
    goodbyes: Option<u32>,
    /// The mail that was there when the shard began to dismiss its clients. It is taken in first.
    mail: Option<MailPosition>,
    /// The shard was told to dismiss its clients.
    dismissed: bool,
    /// The shard takes no new clients, because it stops.
    pub(super) draining: bool,
    /// The shard takes no new clients, because its node leaves the cluster.
    leaving: bool,
    /// How many clients are to be referred to other nodes now, and the connection to go on with.
    pub(super) to_refer: u32,
    refer_from: u32,
    /// No timer fires, because the clients are on their way to another process, or come from one.
    pub(super) suspended: bool,
}

impl Stopping {
    /// Why no new client is let in, if that is so.
    #[inline]
    pub(super) fn turns_away(&self) -> Option<Denial> {
        match (self.draining, self.leaving) {
            (true, _) => Some(Denial::Draining),
            (_, true) if !Mutant::ClusterLeavingTakesClients.is_on() => Some(Denial::Leaving),
            _ => None,
        }
    }
}

impl Shard {
    /// Orders the shard of a node that leaves its cluster to let no new client in, and to refer
    /// this many clients to other nodes. The rest of an earlier order is replaced, not added.
    pub fn refer(&mut self, clients: u32) {
        self.work.stopping.leaving = true;
        self.work.stopping.to_refer = clients;
    }

    /// Refers clients to other nodes, until the step's work comes to `limit`; true when there are
    /// more.
    fn run_referring(&mut self, limit: u32) -> bool {
        let bound = self.connections.bound();
        for _ in 0..bound {
            if self.is_spent(limit) || self.work.stopping.to_refer == 0 {
                return self.work.stopping.to_refer > 0;
            }
            self.meter.charge(cost::VISIT);
            let at = self.work.stopping.refer_from % bound;
            self.work.stopping.refer_from = at + 1;
            let is_client = |connection: &Connection| matches!(connection.stage, Stage::Open(_));
            if self.connections.get(at).is_some_and(is_client) {
                if !Mutant::ClusterReferredAtOnce.is_on() {
                    self.work.stopping.to_refer -= 1;
                }
                self.counters.clients_referred += 1;
                self.disconnect(SocketId(at), Cause::Referred);
            }
        }
        self.work.stopping.to_refer = 0;
        false
    }

    /// Begins to stop: no new clients are let in, and wills are routed while their receivers are
    /// still connected. This part is over when [`Shard::has_routed_wills`] says so; then comes
    /// [`Shard::dismiss`].
    pub fn drain(&mut self) {
        self.work.stopping.draining = true;
        self.work.wills.begin_last();
    }

    /// True when a drain has begun and every will of a connected client has been routed.
    pub fn has_routed_wills(&self) -> bool {
        self.work.stopping.draining && !self.work.wills.has_last() && self.work.wills.is_empty()
    }

    /// Why clients are disconnected when this node stops. If the cluster has other nodes, the
    /// clients are referred to these.
    fn last_farewell(&self) -> Cause {
        let is_alone = self.topology.nodes().is_empty();
        if is_alone || Mutant::ClusterStopUnreferred.is_on() {
            return Cause::Draining;
        }
        Cause::Referred
    }

    /// The second part of stopping, after [`Shard::drain`]: disconnects every client (0x8B, or 0x9C
    /// while the cluster has other nodes) after the wills, the mail that is there by now, and
    /// fan-outs that are under way. This part is over when [`Shard::is_drained`] says so.
    pub fn dismiss(&mut self) {
        self.work.stopping.draining = true;
        self.work.stopping.dismissed = true;
    }

    /// True when no connection is left and no mail waits to be carried.
    pub fn is_drained(&self) -> bool {
        let arrived = self.entrance.arrivals.len() == 0;
        self.connections.is_empty()
            && arrived
            && self.work.wills.is_empty()
            && self.mail.outbox.is_empty()
    }

    /// Goes on with stopping until the step's work comes to `limit`; true when there is more to do.
    pub(super) fn run_stopping(&mut self, limit: u32) -> bool {
        if self.work.stopping.to_refer > 0 && self.run_referring(limit) {
            return true;
        }
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
        let farewell = self.last_farewell();
        let mut at = *self.work.stopping.goodbyes.get_or_insert(0);
        while at < self.connections.bound() && !self.is_spent(limit) {
            self.meter.charge(cost::VISIT);
            if self.connections.get(at).is_some() {
                self.disconnect(SocketId(at), farewell);
            }
            at += 1;
        }
        self.work.stopping.goodbyes = Some(at);
        at < self.connections.bound()
    }
}
