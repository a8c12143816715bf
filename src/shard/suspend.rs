//! Suspends a shard for an upgrade: what is under way is finished, and nothing new begins. No timer
//! fires, and the driver reads nothing meanwhile. See [`crate::upgrade`].

use super::connection::Stage;
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::mutant::Mutant;
use crate::outgoing::Outgoing;
use crate::session::Flow;

/// The numbers of what a shard holds, for an upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Inventory {
    /// Sessions, online and offline.
    pub sessions: u64,
    /// Connections that can move.
    pub connections: u64,
    /// Connections that end with this process: refused, closing, or in the middle of a handshake.
    pub left: u64,
    /// Retained messages of clients.
    pub retained: u64,
    /// Sessions whose messages wait in the store.
    pub in_store: u64,
    /// Values in the store.
    pub values: u64,
}

impl Shard {
    /// Stops the timers and the log.
    pub fn suspend(&mut self) {
        self.work.stopping.suspended = true;
        if let Some(storing) = &mut self.storing {
            storing.log.hold();
        }
    }

    /// Lets the timers and the log go on. What clients sent since [`Shard::suspend`] is read before
    /// their silence is judged, as after every time in which the shard was held up.
    pub fn go_on_after_suspension(&mut self) {
        self.work.stopping.suspended = false;
        if let Some(storing) = &mut self.storing {
            storing.log.go_on();
        }
    }

    /// What a suspended shard still has under way; `None` when it has nothing.
    pub fn under_way(&self) -> Option<&'static str> {
        let shares = self.subscriptions.groups.is_telling() || self.subscriptions.returns.len() > 0;
        let mail = !self.mail.outbox.is_empty() || self.mail.intake.waiting() > 0;
        let fanouts = !self.delivery.fanouts.is_empty() || self.delivery.fanouts.holding() > 0;
        let arriving = self.entrance.arrivals.len() > 0 || !self.entrance.departures.is_empty();
        let reasons = [
            (mail || self.mail.intake.has_more(), "mail between shards"),
            (fanouts, "messages for many subscribers"),
            (self.work.tasks.len() > 0, "large SUBSCRIBE or UNSUBSCRIBE packets"),
            (!self.subscriptions.joining.is_empty(), "SUBACKs that wait for share groups"),
            (shares, "messages that return to share groups"),
            (!self.work.wills.is_empty(), "wills"),
            (self.work.endings.len() > 0, "connections that end"),
            (arriving, "clients on their way to their home shard"),
            (self.access.admissions.len() > 0, "clients that prove who they are"),
            (self.work.claims.len() > 0, "sessions that come from other nodes, or go there"),
            (self.parked.has_work() || self.parked.has_put_off(), "packets of held clients"),
            (self.waits_for_bridges(), "publications that the other end of a bridge has not got"),
            (!self.outputs.actions.is_empty(), "orders to the driver"),
        ];
        reasons
            .iter()
            .find_map(|&(holds, what)| holds.then_some(what))
            .or_else(|| self.storing.as_ref()?.under_way())
            .or_else(|| self.is_replaying().then_some("retained messages for new subscriptions"))
    }

    /// Whether publishers wait for the other end of a bridge. What they wait for is known by
    /// numbers of this process only.
    fn waits_for_bridges(&self) -> bool {
        self.unanswered() > 0 && !Mutant::LinkUpgradeUnanswered.is_on()
    }

    /// Counts what this shard holds. Looks at every connection and session.
    pub fn inventory(&self) -> Inventory {
        let mut found = Inventory::default();
        for at in 0..self.connections.bound() {
            let Some(connection) = self.connections.get(at) else { continue };
            match connection.stage {
                Stage::Open(_) => {
                    let moves =
                        || self.layered.all.get(at).is_some_and(|all| all.moved().is_some());
                    if connection.layered && !moves() {
                        found.left += 1;
                        continue;
                    }
                    found.connections += 1;
                }
                Stage::Entry if !connection.layered => found.connections += 1,
                _ => found.left += 1,
            }
        }
        let sessions = (0..self.sessions.bound()).filter_map(|index| self.sessions.get(index));
        for session in sessions.filter(|session| !session.is_ending()) {
            found.sessions += 1;
            let waits = |flow: &Flow| flow.pending.len() + flow.window.kept() > 0;
            let waits = session.flow.as_deref().is_some_and(waits);
            found.in_store += u64::from(waits && session.stored.number().is_some());
        }
        found.values = self.storing.as_ref().map_or(0, |storing| storing.log.counts().0 as u64);
        let found_one = &mut |_: &str, _: &_| found.retained += 1;
        self.retained.walk_of_clients(None, usize::MAX, found_one);
        found
    }

    /// Takes back a send of which `rest` was not sent. These bytes go before all others when
    /// sending goes on.
    pub fn withdrawn(&mut self, socket: SocketId, outgoing: Outgoing, rest: Vec<u8>) {
        self.outputs.pool.recycle(outgoing);
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let layered = connection.layered;
        let Some(output) = &mut connection.output else { return };
        output.sent(self.now);
        let rest = if Mutant::UpgradeRestLost.is_on() { Vec::new() } else { rest };
        if layered {
            // These bytes are framed already.
            let later = output.take_wire();
            output.append_wire(&mut self.outputs.pool, &rest);
            output.append_wire(&mut self.outputs.pool, &later);
            self.outputs.pool.put(later);
        } else {
            output.put_back(&mut self.outputs.pool, &rest);
        }
        if !std::mem::replace(&mut output.dirty, true) {
            self.outputs.dirty.push(socket);
        }
    }

    /// Begins to serve the clients that were taken over: the driver reads from them and writes to
    /// them from now on.
    pub fn serve_adopted(&mut self) {
        self.work.stopping.suspended = false;
        self.topology.go_on_with_tickets(self.now);
        self.tell_wills();
        self.serve_stored();
        // Those that were copied have nothing to do unless something has to go out or in, or waits
        // for its turn.
        for socket in self.end_copies() {
            let Some(connection) = self.connections.get_mut(socket.0) else { continue };
            let Stage::Open(index) = connection.stage else {
                self.outputs.actions.push(Action::ReceiveOnce(socket));
                continue;
            };
            if let Some(output) = &mut connection.output
                && !std::mem::replace(&mut output.dirty, true)
            {
                self.outputs.dirty.push(socket);
            }
            let has_input = connection.input.is_some();
            self.outputs.actions.push(Action::ReceiveStream(socket));
            if has_input {
                self.parked.freed.push_back(socket);
            }
            self.pump(index);
            self.want_back(index);
        }
    }
}
