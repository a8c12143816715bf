//! Connections that are held: backpressure begins here. [`super::park`] says how they go on.

use super::ahead::Shortage;
use super::connection::{Holds, Stage};
use super::link::LinkId;
use super::park::{COSTLY, FRESH, MailTurn, SERVED, UNKNOWN, mail_line};
use super::{Action, Shard};
use crate::ids::{ClientKey, Publisher, ShardId, SocketId};
use crate::mesh::mail::Control;
use crate::mutant::Mutant;

/// Milliseconds without a turn after which a connection's next turn comes before those of busier
/// connections.
const LATELY: u64 = 10;

impl Shard {
    /// Stops processing a connection for a reason; false when that reason held already.
    pub(super) fn hold(&mut self, socket: SocketId, hold: Holds) -> bool {
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        if connection.holds.has(hold) {
            return false;
        }
        connection.holds.set(hold);
        if hold == Holds::MAIL {
            let line = match self.parked.lacking.take() {
                None => mail_line(ShardId(self.topology.receivers), 0),
                Some((shard, lacking)) => {
                    let kind = match lacking {
                        Shortage::Room => 0,
                        Shortage::Unknown => UNKNOWN,
                        Shortage::Costly => COSTLY,
                    };
                    if kind != 0 {
                        self.mail.outbox.queue_for(shard, true);
                    }
                    mail_line(shard, kind + self.freshness(socket))
                }
            };
            if self.keeps_place(socket, line) {
                self.parked.mail.push_front(line, socket);
            } else {
                self.parked.mail.push(line, socket);
            }
        } else if hold == Holds::MEMORY {
            self.parked.memory.push(0, socket);
            self.counters.parks_memory += 1;
        } else if hold == Holds::STORAGE {
            self.parked.storage.push(0, socket);
            self.counters.parks_storage += 1;
        } else if hold == Holds::LINK {
            if let Some(LinkId(number)) = self.parked.full_link.take() {
                self.parked.links.push(number as usize, socket);
            }
        } else if hold == Holds::WORK {
            self.parked.work.push(SERVED, socket);
        } else if matches!(hold, Holds::CROWDED | Holds::ANSWERS) && self.hear_later(socket) {
            return true;
        }
        let Some(connection) = self.connections.get_mut(socket.0) else { return false };
        if !connection.is_paused() && !connection.holds.is_brief() {
            connection.set_paused(true);
            self.outputs.actions.push(Action::Pause(socket));
            // Counted only here: while a mailbox stays full, each step tries the connection again
            // and holds it again.
            self.counters.parks_mailbox += u64::from(hold == Holds::MAIL);
            self.counters.parks_bridge += u64::from(hold == Holds::LINK);
        }
        true
    }

    /// Takes a reason away; the connection goes on at the end of the step. It does not go on here:
    /// the caller may be in the middle of a packet, and what the connection goes on with may free
    /// another connection, and so on, as deep as there are publishers.
    pub(super) fn free(&mut self, socket: SocketId, hold: Holds) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.holds.has(hold) {
            connection.holds.clear(hold);
            self.parked.freed.push_back(socket);
        }
    }

    /// The step has no room for what a connection has sent. A connection that has sent nothing
    /// lately gets its turn before those that have: so a client that asks for little waits for
    /// about a step, however busy other clients are.
    pub(super) fn put_off(&mut self, socket: SocketId) {
        if self.freshness(socket) == FRESH && !Mutant::FreshBehindServed.is_on() {
            self.parked.work.push(FRESH, socket);
        }
        self.hold(socket, Holds::WORK);
    }

    /// [`FRESH`] when the connection has had no turn lately, else [`SERVED`].
    fn freshness(&self, socket: SocketId) -> usize {
        let connection = self.connections.get(socket.0);
        let lately = connection.is_none_or(|c| c.last_seen.plus_millis(LATELY) > self.now);
        let unused = |turn: &MailTurn| turn.socket == socket && self.is_unused(turn);
        let was_fresh =
            self.parked.mail_turn.as_ref().is_some_and(|turn| turn.fresh && unused(turn));
        if lately && !was_fresh { SERVED } else { FRESH }
    }

    /// Whether a connection that waits again does so in its old place: its turn had come, and there
    /// was less room than its message needs.
    fn keeps_place(&self, socket: SocketId, line: usize) -> bool {
        self.parked.mail_turn.as_ref().is_some_and(|turn| {
            turn.socket == socket && turn.reserves == Some(line) && self.is_unused(turn)
        })
    }

    /// Whether no message has been taken in since the turn of that connection began.
    pub(super) fn is_unused(&self, turn: &MailTurn) -> bool {
        turn.before == self.counters.messages_received()
    }

    /// Whether the acknowledgements of a held connection are acted on.
    pub(super) fn is_heard(&self, socket: SocketId) -> bool {
        let Some(connection) = self.connections.get(socket.0) else { return false };
        let Stage::Open(index) = connection.stage else { return false };
        let holds = connection.holds;
        let flow = self.sessions.get(index).and_then(|session| session.flow.as_ref());
        let crowded = flow.is_some_and(|flow| flow.backlog.is_some());
        (holds.has(Holds::CROWDED) && crowded || holds.has(Holds::ANSWERS))
            && !holds.has(Holds::UNREAD)
            // Each acknowledgement may cause further output.
            && !self.is_clogged(socket)
            && !Mutant::HeldAnswersUnread.is_on()
    }

    /// Something has changed for a held connection. If its acknowledgements can be acted on now,
    /// that is done at the end of the step, because the caller may be in the middle of another
    /// connection's packet. True when it will be done.
    pub(super) fn hear_later(&mut self, socket: SocketId) -> bool {
        let heard = self.is_heard(socket);
        if heard {
            self.parked.heard.push(socket);
        }
        heard
    }

    /// A connection's next packet, or what was received behind it, has to wait for mail.
    pub(super) fn put_behind(&mut self, socket: SocketId) {
        let parity = self.mail.intake.join_waiting();
        let hold = Holds::BEHIND[parity];
        if self.connections.get(socket.0).is_some_and(|connection| !connection.holds.has(hold)) {
            self.mail.intake.wait(parity, socket);
            self.hold(socket, hold);
        }
    }

    /// More was received from a connection that something holds. If it waits for mail, the new
    /// bytes may have to wait for later mail than the bytes before them.
    #[inline]
    pub(super) fn wait_on(&mut self, socket: SocketId) {
        let waits = |holds: Holds| Holds::BEHIND.iter().any(|&hold| holds.has(hold));
        if self.mail.intake.behind
            && self.connections.get(socket.0).is_some_and(|connection| waits(connection.holds))
        {
            self.put_behind(socket);
        }
    }

    /// A fan-out of a local publisher's message goes on, on this shard or another one: the
    /// publisher waits for it.
    pub(super) fn hold_publisher(&mut self, publisher: ClientKey) {
        *self.delivery.fanouts.holds.entry(publisher).or_default() += 1;
        if let Some(socket) = self.sessions.socket_of(publisher) {
            self.hold(socket, Holds::FANOUT);
        }
    }

    /// A publisher waits until what is being done with its message is done.
    pub(super) fn make_publisher_wait(&mut self, publisher: Publisher) {
        if publisher.shard == self.topology.id {
            self.hold_publisher(publisher.client);
        } else {
            self.tell(publisher.shard, Control::HoldPublisher(publisher.client));
        }
    }

    /// What its publisher waited for is done.
    pub(super) fn let_publisher_go(&mut self, publisher: Option<Publisher>) {
        match publisher {
            None => {}
            Some(own) if own.shard == self.topology.id => self.release_publisher(own.client),
            Some(other) => self.tell(other.shard, Control::ReleasePublisher(other.client)),
        }
    }

    /// A fan-out of a local publisher's message is done.
    pub(super) fn release_publisher(&mut self, publisher: ClientKey) {
        let Some(count) = self.delivery.fanouts.holds.get_mut(&publisher) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.delivery.fanouts.holds.remove(&publisher);
        if let Some(socket) = self.sessions.socket_of(publisher) {
            self.free(socket, Holds::FANOUT);
        }
    }
}
