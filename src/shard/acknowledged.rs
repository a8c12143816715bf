//! Acknowledgements of what was sent to a client: its window gets on, and what waits behind it.

use super::Shard;
use super::receive::Handled;
use crate::ids::SocketId;
use crate::packet::{Ack, AckKind, ReasonCode, Version, Violation};
use crate::session::Acknowledged;

const WRONG_ACK: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an acknowledgement of the wrong kind for its packet identifier",
};

impl Shard {
    pub(super) fn puback(&mut self, index: u32, ack: Ack<'_>) -> Result<Handled, Violation> {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else {
            return Ok(Handled::Next);
        };
        // A PUBACK with a failure code completes the message just as well (section 3.4.2.1).
        let before = flow.window.kept();
        let acknowledged = flow.window.puback(ack.id);
        self.memory.tally.kept -= before - flow.window.kept();
        self.store_all_gone(index);
        self.completed(index, acknowledged)
    }

    pub(super) fn pubcomp(&mut self, index: u32, ack: Ack<'_>) -> Result<Handled, Violation> {
        let Some(flow) = self.sessions.get_mut(index).and_then(|s| s.flow.as_mut()) else {
            return Ok(Handled::Next);
        };
        let before = flow.window.kept();
        let acknowledged = flow.window.pubcomp(ack.id);
        self.memory.tally.kept -= before - flow.window.kept();
        self.store_all_gone(index);
        self.completed(index, acknowledged)
    }

    pub(super) fn pubrec(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        ack: Ack<'_>,
    ) -> Result<Handled, Violation> {
        let accepted = (ack.reason as u8) < 0x80;
        let acknowledged = self
            .sessions
            .get_mut(index)
            .and_then(|session| session.flow.as_mut())
            .map_or(Acknowledged::Unknown, |flow| {
                let before = flow.window.kept();
                let acknowledged = flow.window.pubrec(ack.id, accepted);
                self.memory.tally.kept -= before - flow.window.kept();
                acknowledged
            });
        if self.storing.is_some() {
            self.store_pubrec(index, ack.id, acknowledged);
        }
        match acknowledged {
            Acknowledged::Release => {
                self.parked.pace.progressed(index, self.now);
                // [MQTT-4.3.3-3]
                self.write_ack(socket, version, AckKind::PubRel, ack.id, ReasonCode::Success);
                Ok(Handled::Next)
            }
            Acknowledged::Unknown if accepted => {
                let reason = ReasonCode::PacketIdentifierNotFound;
                self.write_ack(socket, version, AckKind::PubRel, ack.id, reason);
                Ok(Handled::Next)
            }
            Acknowledged::Unknown => Ok(Handled::Next),
            other => self.completed(index, other),
        }
    }

    fn completed(&mut self, index: u32, acknowledged: Acknowledged) -> Result<Handled, Violation> {
        match acknowledged {
            Acknowledged::Complete => {
                self.parked.pace.progressed(index, self.now);
                self.counters.inflight -= 1;
                self.pump(index);
                Ok(Handled::Next)
            }
            // A late acknowledgement of an earlier connection's message.
            Acknowledged::Unknown | Acknowledged::Release => Ok(Handled::Next),
            Acknowledged::WrongKind => Err(WRONG_ACK),
        }
    }
}
