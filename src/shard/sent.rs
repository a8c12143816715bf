//! Handles completed sends.

use super::Shard;
use super::connection::{Holds, Stage};
use super::observe::HeavyHitters;
use crate::ids::SocketId;
use crate::mesh::mail::Over;
use crate::mutant::Mutant;

impl Shard {
    /// Goes on with what waited behind a send that is complete now.
    pub(super) fn after_sent(&mut self, socket: SocketId) {
        let now = self.now;
        let low = self.settings.low_water();
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let stage = connection.stage;
        let Some(output) = &mut connection.output else { return };
        let took = now.millis_since(output.progressed);
        output.sent(now);
        let unsent = output.unsent();
        if unsent > 0 && !output.dirty {
            output.dirty = true;
            self.outputs.dirty.push(socket);
        }
        let caught_up = output.backlog.is_some() && {
            let short = self.settings.short_output();
            output.backlog.shrank(now, unsent <= low, unsent <= short)
        };
        let layered = connection.layered;
        if unsent == 0 {
            if let Some(output) = connection.output.take() {
                self.outputs.pool.put_output(output);
            }
            if stage == Stage::Closing && !(layered && self.says_farewell(socket)) {
                self.close_socket(socket, super::Action::Finish(socket));
            }
        }
        if stage == Stage::HandingOver {
            self.set_out(socket);
        }
        let Stage::Open(index) = stage else { return };
        if HeavyHitters::is_slow(took) {
            self.weigh_slow(index, took);
        }
        self.parked.pace.progressed(index, now);
        if caught_up {
            self.unpark_waiters(index, Over::CaughtUp);
        }
        if unsent > low {
            return;
        }
        if self.sessions.get(index).is_some_and(|session| session.flow.is_some()) {
            self.pump(index);
        } else {
            self.tell_room(index);
        }
        let Some(connection) = self.connections.get(socket.0) else { return };
        if !connection.holds.is_free() && !Mutant::UnreadNotWoken.is_on() {
            self.release(socket, Holds::UNREAD);
            self.hear_later(socket);
        }
    }
}
