//! Acknowledgements of what was sent to a client. They move the in-flight window of the client's
//! session on, so that the messages that wait behind the window can be sent.

use super::Shard;
use super::receive::Handled;
use crate::ids::SocketId;
use crate::packet::{Ack, AckKind, ReasonCode, Version, Violation};
use crate::session::{Acknowledged, Window};

const WRONG_ACK: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an acknowledgement of the wrong kind for its packet identifier",
};

impl Shard {
    /// A PUBACK with a failure code completes the message just as well (section 3.4.2.1).
    pub(super) fn puback(&mut self, index: u32, ack: Ack<'_>) -> Result<Handled, Violation> {
        self.acknowledges(index, |window| window.puback(ack.id))
    }

    pub(super) fn pubcomp(&mut self, index: u32, ack: Ack<'_>) -> Result<Handled, Violation> {
        self.acknowledges(index, |window| window.pubcomp(ack.id))
    }

    /// Takes an acknowledgement that may complete a message; the session's window says whether it
    /// does.
    #[inline]
    fn acknowledges(
        &mut self,
        index: u32,
        tell: impl FnOnce(&mut Window) -> Acknowledged,
    ) -> Result<Handled, Violation> {
        let Some(acknowledged) = self.tell_window(index, tell) else { return Ok(Handled::Next) };
        self.store_all_gone(index);
        self.completed(index, acknowledged)
    }

    /// Passes an acknowledgement to a session's window, and takes what the window lets go off the
    /// memory tally; `None` without a window.
    #[inline]
    fn tell_window(
        &mut self,
        index: u32,
        tell: impl FnOnce(&mut Window) -> Acknowledged,
    ) -> Option<Acknowledged> {
        let flow = self.sessions.get_mut(index)?.flow.as_mut()?;
        let before = flow.window.kept();
        let acknowledged = tell(&mut flow.window);
        self.memory.tally.kept -= before - flow.window.kept();
        Some(acknowledged)
    }

    pub(super) fn pubrec(
        &mut self,
        socket: SocketId,
        index: u32,
        version: Version,
        ack: Ack<'_>,
    ) -> Result<Handled, Violation> {
        let accepted = (ack.reason as u8) < 0x80;
        let acknowledged = self.tell_window(index, |window| window.pubrec(ack.id, accepted));
        let acknowledged = acknowledged.unwrap_or(Acknowledged::Unknown);
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
