//! Back-pressure: which publishers wait for which subscriber, and which for a mailbox.
//!
//! A publisher is parked while a subscriber of its messages has more unsent or unacknowledged than
//! the high-water mark and keeps reading; it goes on when the subscriber is below the low-water
//! mark, or after [`PATIENCE`]. A subscriber that stays crowded for [`PATIENCE`] is slow: it parks
//! nobody any more, and its queue's policy decides.

use super::connection::{Holds, Parting, Stage};
use super::{Action, Shard};
use crate::ids::{ClientKey, Publisher, SocketId};
use crate::mesh::mail::Control;
use crate::mutant::Mutant;
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Milliseconds that one subscriber may hold up its publishers.
pub(super) const PATIENCE: u64 = 300;

/// Who waits for what.
#[derive(Default)]
pub struct Parked {
    /// Publishers by the local session they wait for.
    waiters: HashMap<u32, Vec<Publisher>>,
    /// Local publishers in the order of the times at which they may go on anyhow; each once.
    until: VecDeque<(Instant, ClientKey)>,
    /// The same publishers: parked until when, or not parked any more.
    held: HashMap<ClientKey, Option<Instant>>,
    /// Connections that wait for room in a mailbox.
    mail: Vec<SocketId>,
    /// Connections that have had their share of an earlier step, in their order.
    work: VecDeque<SocketId>,
    /// Connections that nothing holds any more, to go on at the end of the step.
    freed: VecDeque<SocketId>,
    /// Held connections whose answers are to be looked for at the end of the step.
    pub(super) heard: Vec<SocketId>,
}

impl Parked {
    /// When the first publisher goes on anyhow.
    pub fn deadline(&self) -> Option<Instant> {
        self.until.front().map(|&(at, _)| at)
    }

    /// The socket is closed; its identifier may name another connection within this step.
    pub(super) fn forget(&mut self, socket: SocketId, holds: Holds) {
        if holds.has(Holds::MAIL) {
            self.mail.retain(|&waiting| waiting != socket);
        }
        if holds.has(Holds::WORK) {
            self.work.retain(|&waiting| waiting != socket);
        }
    }

    /// Connections that wait for room in a mailbox.
    pub(super) fn mail_waiters(&self) -> usize {
        self.mail.len()
    }

    /// True when connections wait for their share of work.
    pub(super) fn has_work(&self) -> bool {
        !self.work.is_empty()
    }

    /// True when something was put off until the end of a step that is over.
    pub(super) fn has_put_off(&self) -> bool {
        !self.freed.is_empty() || !self.heard.is_empty()
    }

    /// True when the connection is to go on, which was put off.
    pub(super) fn is_freed(&self, socket: SocketId) -> bool {
        self.freed.contains(&socket)
    }

    /// How much is remembered: sessions waited for, publishers held.
    pub(super) fn counts(&self) -> [usize; 2] {
        [self.waiters.len(), self.until.len().max(self.held.len())]
    }
}

impl Shard {
    /// Parks `publisher`, wherever it is, until the local session `index` has caught up.
    pub(super) fn park_for(&mut self, publisher: Publisher, index: u32) {
        let waiters = self.parked.waiters.entry(index).or_default();
        if waiters.contains(&publisher) {
            if publisher.shard == self.id {
                self.park_publisher(publisher.client);
            }
            return;
        }
        waiters.push(publisher);
        self.counters.parks_publisher += 1;
        if publisher.shard == self.id {
            self.park_publisher(publisher.client);
        } else {
            self.outbox.tell(publisher.shard, Control::Park(publisher.client));
        }
    }

    /// The local session has caught up, or is gone: its publishers go on.
    pub(super) fn unpark_waiters(&mut self, index: u32) {
        if self.parked.waiters.is_empty() {
            return;
        }
        for publisher in self.parked.waiters.remove(&index).unwrap_or_default() {
            if publisher.shard == self.id {
                self.unpark_publisher(publisher.client);
            } else if !Mutant::ParkedNotWoken.is_on() {
                self.outbox.tell(publisher.shard, Control::Unpark(publisher.client));
            }
        }
    }

    /// Stops processing a local publisher.
    pub(super) fn park_publisher(&mut self, publisher: ClientKey) {
        let until = self.now.plus_millis(PATIENCE);
        let Some(socket) = self.socket_of(publisher) else { return };
        if self.hold(socket, Holds::CROWDED)
            && self.parked.held.insert(publisher, Some(until)).is_none()
        {
            self.parked.until.push_back((until, publisher));
        }
    }

    /// Lets a local publisher go on, unless something else holds it.
    pub(super) fn unpark_publisher(&mut self, publisher: ClientKey) {
        if let Some(until) = self.parked.held.get_mut(&publisher) {
            *until = None;
        }
        if let Some(socket) = self.socket_of(publisher) {
            self.free(socket, Holds::CROWDED);
        }
    }

    /// Takes a reason away; what was held goes on at the end of the step. Not here: we may be in
    /// the middle of a packet, and what it goes on with may free the next one, and so on, as deep
    /// as there are publishers.
    pub(super) fn free(&mut self, socket: SocketId, hold: Holds) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.holds.has(hold) {
            connection.holds.clear(hold);
            self.parked.freed.push_back(socket);
        }
    }

    /// Goes on with those that subscribers do not hold up any more.
    fn go_on_freed(&mut self) {
        while let Some(socket) = self.parked.freed.pop_front() {
            self.go_on(socket);
        }
    }

    /// Stops processing a connection for a reason; false when that reason held already.
    pub(super) fn hold(&mut self, socket: SocketId, hold: Holds) -> bool {
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        if connection.holds.has(hold) {
            return false;
        }
        connection.holds.set(hold);
        if hold == Holds::MAIL {
            self.parked.mail.push(socket);
        } else if hold == Holds::WORK {
            self.parked.work.push_back(socket);
        } else if hold == Holds::CROWDED && self.hear_later(socket) {
            return true;
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        if !connection.paused && !connection.holds.is_brief() {
            connection.paused = true;
            self.actions.push(Action::Pause(socket));
            // Only here: while a mailbox stays full, each step tries again and holds again.
            self.counters.parks_mailbox += u64::from(hold == Holds::MAIL);
        }
        true
    }

    /// Takes a reason away; when none is left, what was held is processed and reading goes on.
    pub(super) fn release(&mut self, socket: SocketId, hold: Holds) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if !connection.holds.has(hold) {
            return;
        }
        connection.holds.clear(hold);
        self.go_on(socket);
    }

    /// Processes what was held, if nothing holds it any more, and reads on.
    fn go_on(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        if !connection.holds.is_free() {
            return;
        }
        self.process_held(socket);
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let open = matches!(connection.stage, Stage::Open(_));
        if open && connection.holds.is_free() && connection.paused {
            connection.paused = false;
            connection.last_seen = self.now; // until now its silence was ours
            self.actions.push(Action::Resume(socket));
        }
        if open && connection.holds.is_free() && connection.parting != Parting::No {
            self.parting.push_back(socket);
        }
    }

    /// Goes on with those that had their share, each in turn, until the step's work comes to
    /// `limit`.
    pub(super) fn resume_work(&mut self, limit: u32) {
        self.hear_noted();
        while !self.is_spent(limit) {
            let Some(socket) = self.parked.work.pop_front() else { return };
            self.release(socket, Holds::WORK);
        }
    }

    /// Goes on with what waited long enough or has room now; true when there is more at once.
    pub(super) fn retry_parked(&mut self) -> bool {
        while let Some(&(at, publisher)) = self.parked.until.front() {
            if at > self.now {
                break;
            }
            self.parked.until.pop_front();
            // Taken out first: what it publishes as it goes on may park it again.
            match self.parked.held.remove(&publisher).flatten() {
                Some(later) if later > self.now => {
                    self.parked.held.insert(publisher, Some(later));
                    self.parked.until.push_back((later, publisher));
                }
                Some(_) => self.unpark_publisher(publisher),
                None => {}
            }
        }
        self.hear_noted();
        self.go_on_freed();
        let most = if Mutant::MailWaitersForgotten.is_on() { 1 } else { usize::MAX };
        for socket in std::mem::take(&mut self.parked.mail).into_iter().take(most) {
            self.release(socket, Holds::MAIL);
        }
        false
    }
}
