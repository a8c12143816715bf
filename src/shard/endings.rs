//! Connections whose end is queued: those that could not be ended when the reason arose, and those
//! whose peers have disconnected, maybe many at once.

use super::Shard;
use super::close::Cause;
use super::connection::{Connection, Parting, Stage};
use super::spare::halve;
use crate::ids::SocketId;
use std::collections::VecDeque;

/// Connections per step that are ended because their peers are gone: less than a millisecond's
/// work.
const PARTINGS: usize = 64;
/// Entries for which the queue of those connections keeps room while it is empty.
const KEPT: usize = 64;

/// The connections that are to end.
#[derive(Default)]
pub(super) struct Endings {
    /// The broker ends these in this step, once what is being done with them is finished.
    closing: Vec<(SocketId, Cause)>,
    /// The peer is gone, or will send nothing more; [`super::connection::Connection`] says which.
    parting: VecDeque<SocketId>,
}

impl Endings {
    /// Ends a connection for `cause` at the end of this step.
    pub(super) fn close_later(&mut self, socket: SocketId, cause: Cause) {
        self.closing.push((socket, cause));
    }

    /// Queues the end of a connection whose peer is gone: its turn comes in this step or a later
    /// one.
    pub(super) fn part_later(&mut self, socket: SocketId) {
        self.parting.push_back(socket);
    }

    /// Connections that are to end.
    pub(super) fn len(&self) -> usize {
        self.closing.len() + self.parting.len()
    }

    /// Connections whose peers are gone.
    pub(super) fn parting(&self) -> usize {
        self.parting.len()
    }

    fn next_parting(&mut self) -> Option<SocketId> {
        let next = self.parting.pop_front();
        if self.parting.is_empty() {
            self.parting.shrink_to(KEPT);
        }
        next
    }

    /// Gives back half of the spare room of the list that is emptied in every step.
    pub(super) fn shrink(&mut self) {
        halve(&mut self.closing);
    }
}

impl Shard {
    /// The peer is gone (`broken`), or will send nothing more: the connection's end is queued. So
    /// when many clients disconnect at once, the packets of others do not wait for all those ends.
    pub(super) fn part(&mut self, socket: SocketId, broken: bool) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        match connection.stage {
            Stage::Entry
            | Stage::Refused(_)
            | Stage::HandingOver
            | Stage::Proving
            | Stage::Open(_) => {
                if broken || connection.parting == Parting::No {
                    connection.parting = if broken { Parting::Broken } else { Parting::Ended };
                }
                self.work.endings.part_later(socket);
            }
            Stage::Closing if broken => self.broken(socket),
            Stage::Closing | Stage::Closed => {}
        }
    }

    /// Ends connections whose peers are gone, until the step's work comes to `limit`; true when
    /// some are left.
    pub(super) fn run_parting(&mut self, limit: u32) -> bool {
        for _ in 0..PARTINGS {
            if self.is_spent(limit) {
                break;
            }
            let Some(socket) = self.work.endings.next_parting() else { break };
            // The socket may have been closed meanwhile, and its number be another connection's.
            let Some(connection) = self.connections.get(socket.0) else { continue };
            let broken = match connection.parting {
                Parting::No => continue,
                Parting::Ended => false,
                Parting::Broken => true,
            };
            if connection.stage == Stage::HandingOver {
                self.depart_parted(socket);
                continue;
            }
            if connection.stage == Stage::Proving {
                self.proving_parted(socket);
                continue;
            }
            // What the client sent before and is held back still counts: a publisher may write and
            // close.
            if !broken && connection.input.is_some() && connection.holds.is_free() {
                self.process_held(socket);
            }
            // It is still held back: `go_on` queues its end again.
            let held = |c: &Connection| c.input.is_some() && !c.holds.is_free();
            let open = |c: &Connection| matches!(c.stage, Stage::Open(_));
            if !broken && self.connections.get(socket.0).is_some_and(|c| open(c) && held(c)) {
                continue;
            }
            self.disconnect(socket, if broken { Cause::Broken } else { Cause::EndOfStream });
        }
        self.work.endings.parting() > 0
    }

    /// Ends the connections whose end was decided in this step while they could not be ended.
    pub(super) fn run_closing(&mut self) {
        while let Some((socket, cause)) = self.work.endings.closing.pop() {
            self.disconnect(socket, cause);
        }
    }
}
