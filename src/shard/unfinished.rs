//! Clients that have sent a part of their CONNECT. They are listed, and turned away while memory is
//! short.

use super::Shard;
use super::connection::{Connection, Stage};
use super::memory::Pressure;
use super::refuse::Denial;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::mutant::Mutant;
use crate::packet;
use crate::transport::TurnedAway;

/// How many listed connections are looked at whenever another one is listed.
const LOOKED_AT: usize = 2;

/// How many unfinished CONNECTs are closed per step, to free their memory.
const CLOSED: usize = 64;

impl Shard {
    /// Turns away a client that has sent `bytes` of its CONNECT: the client is told, if its version
    /// is known by now, and its connection is closed.
    pub(super) fn end_unfinished(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        if connection.stage != Stage::Entry {
            return;
        }
        // If the version has not come yet, the bytes are too few to matter.
        if let Some(version) = packet::connect_version(bytes) {
            self.deny_unread(socket, version, Denial::Memory);
        }
    }

    /// Lists a connection that holds a part of its CONNECT from now on.
    pub(super) fn note_unfinished(&mut self, socket: SocketId) {
        for _ in 0..LOOKED_AT {
            let Some(oldest) = self.memory.budgeting.unfinished.front() else { break };
            let holds = |c: &Connection| {
                c.stage == Stage::Entry && (c.input.is_some() || self.holds_beginning(*oldest))
            };
            if self.connections.get(oldest.0).is_some_and(holds) {
                break;
            }
            self.memory.budgeting.unfinished.pop_front();
        }
        self.memory.budgeting.unfinished.push_back(socket);
    }

    /// Closes connections that hold a part of a CONNECT while memory is short; true when some are
    /// left.
    pub(super) fn shed_unfinished(&mut self) -> bool {
        if !self.memory.is_short(Pressure::Tight) || Mutant::MemoryUnfinishedKept.is_on() {
            return false;
        }
        for _ in 0..CLOSED {
            let Some(socket) = self.memory.budgeting.unfinished.pop_front() else { break };
            self.meter.charge(cost::VISIT);
            let Some(connection) = self.connections.get(socket.0) else { continue };
            if connection.stage != Stage::Entry {
                continue;
            }
            if self.holds_beginning(socket) {
                self.shed_beginning(socket);
                continue;
            }
            let Some(input) = connection.input.as_ref() else { continue };
            if let Some(version) = packet::connect_version(input.rest()) {
                self.deny_unread(socket, version, Denial::Memory);
            }
        }
        self.memory.budgeting.unfinished.shrink_to(64);
        !self.memory.budgeting.unfinished.is_empty()
    }

    /// Ends a connection whose layers hold a part of its beginning.
    fn shed_beginning(&mut self, socket: SocketId) {
        self.turn_away(socket, TurnedAway::Memory);
        self.deny_unread(socket, None, Denial::Memory);
    }
}
