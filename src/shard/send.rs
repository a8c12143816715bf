//! Appends packets to a connection's output, from which the driver gets them.

use super::Shard;
use crate::ids::SocketId;
use crate::packet::{self, AckKind, Encoded, PacketId, ReasonCode, Version, Violation};

const NO_ENCODING: Violation = Violation {
    reason: ReasonCode::ImplementationSpecificError,
    what: "the answer is longer than a packet can be",
};

impl Shard {
    /// Appends a packet to a connection's output.
    pub(super) fn write(&mut self, socket: SocketId, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let output = self.outputs.of(connection, &mut self.meter, socket, self.now);
        let added = output.append(&mut self.outputs.pool, encode);
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += added as u64;
        if self.work.observers.is_tracing() {
            self.trace_written(socket, added);
        }
    }

    /// Appends a packet that may have no encoding. An answer that is owed and cannot be encoded
    /// ends the connection.
    pub(super) fn answer(
        &mut self,
        socket: SocketId,
        encode: impl FnOnce(&mut Vec<u8>) -> Encoded,
    ) {
        let mut encoded = Ok(());
        self.write(socket, |out| encoded = encode(out));
        if encoded.is_err() {
            self.work.endings.close_later(socket, super::close::Cause::Violation(NO_ENCODING));
        }
    }

    /// Appends one of the four acknowledgements.
    pub(super) fn write_ack(
        &mut self,
        socket: SocketId,
        version: Version,
        kind: AckKind,
        id: PacketId,
        reason: ReasonCode,
    ) {
        self.write(socket, |out| packet::encode_bare_ack(out, version, kind, id, reason));
    }

    /// Whether so many bytes are unsent that messages of QoS 1 and 2 wait in the pending queue, and
    /// the client's own packets in the socket.
    pub(super) fn is_clogged(&self, socket: SocketId) -> bool {
        self.connections
            .get(socket.0)
            .and_then(|connection| connection.output.as_ref())
            .is_some_and(|output| output.unsent() > self.settings.outgoing_max_bytes)
    }
}
