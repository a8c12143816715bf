//! What is read from a connection that is held back: the acknowledgements that other clients wait
//! for.
//!
//! A publisher is held back until a subscriber has caught up, which takes that subscriber's
//! PUBACKs. If both are the same client, or each publishes to the other, these PUBACKs are behind
//! the PUBLISH that is held back, and neither could continue before [`super::pace::BUDGET`] is used
//! up. Therefore a client that is held back while its own queue is crowded is still read. Its
//! PUBACK, PUBREC and PUBCOMP are handled as they arrive, in their order. Everything else waits in
//! its place:
//! - PUBLISH, SUBSCRIBE, UNSUBSCRIBE and DISCONNECT, because they also refer to what was said
//!   before them;
//! - PUBREL, because it ends the exchange of an identifier that a repeated PUBLISH before it may
//!   name, which would then be a new message [MQTT-4.3.3-10];
//! - PINGREQ, because clients take its answer as a sign that what they sent before was read. A
//!   PINGREQ does not wait for longer than the other packets.
//!
//! A client may also be held because as many of its publications as allowed wait for the other end
//! of a bridge ([`super::unanswered`]), which can take hours. Such a client is read in the same
//! way, and its PINGREQ is answered, too: without an answer it would take the broker for gone.
//!
//! At most [`HELD_INPUT`] and one receive are kept per connection. When a client has sent more than
//! that before its acknowledgements, its publishers wait until their time for that is over, and
//! then the policy of its queue decides.

use super::connection::{Holds, Scanned, Stage};
use super::memory::Pressure;
use super::{Action, Shard};
use crate::ids::SocketId;
use crate::limits::{BRIEF_INPUT, HELD_INPUT, cost};
use crate::mutant::Mutant;
use crate::packet::{self, Framing, Packet, Version};

impl Shard {
    /// Hears the held connections that were noted for the end of the step.
    pub(super) fn hear_noted(&mut self) {
        for socket in std::mem::take(&mut self.parked.heard) {
            self.hear(socket);
        }
    }

    /// Acts on the acknowledgements among what a held connection has sent, and reads on while there
    /// is room.
    pub(super) fn hear(&mut self, socket: SocketId) {
        let Some(connection) = self.connections.get(socket.0) else { return };
        let Stage::Open(index) = connection.stage else { return };
        let heard = self.is_heard(socket);
        if heard {
            self.take_answers(socket, index);
        }
        let most = if self.memory.is_short(Pressure::High) { BRIEF_INPUT } else { HELD_INPUT };
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        if connection.stage != Stage::Open(index) || connection.holds.is_free() {
            return; // the connection ends, or goes on at the end of the step
        }
        let kept = connection.input.as_ref().map_or(0, |input| input.rest().len());
        let brief = connection.holds.is_brief() && kept < BRIEF_INPUT;
        let read = brief || heard && kept < most;
        if connection.is_paused() == read {
            connection.set_paused(!read);
            self.outputs.actions.push(if read {
                Action::Resume(socket)
            } else {
                Action::Pause(socket)
            });
        }
    }

    fn take_answers(&mut self, socket: SocketId, index: u32) {
        let max = self.packet_size_of(index, self.announced_to(socket).max_packet_size);
        let pings = self.connections.get(socket.0).is_some_and(|c| c.holds.has(Holds::ANSWERS));
        let pings = pings && !Mutant::LinkPingsUnheard.is_on();
        let Some(version) = self.sessions.get(index).map(|session| session.version) else { return };
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let Some(mut input) = connection.take_input(&mut self.memory.tally.input) else { return };
        input.scan(|rest| {
            // A packet that breaks a rule is left for its turn, and so is what follows it.
            let Ok(Framing::Complete { total, .. }) = packet::frame(rest, max) else {
                return Scanned::End;
            };
            if self.meter.work() >= self.settings.budget.step {
                self.parked.heard.push(socket);
                return Scanned::End;
            }
            self.meter.charge(cost::PACKET);
            match (rest[0] >> 4, self.take_answer(socket, index, version, &rest[..total])) {
                (PUBACK | PUBREC | PUBCOMP, true) => Scanned::Taken(total),
                (PUBACK | PUBREC | PUBCOMP, false) => Scanned::End,
                (PINGREQ, _) if pings && rest[..total] == [PINGREQ << 4, 0] => {
                    self.counters.packets_received += 1;
                    self.write(socket, packet::encode_pingresp);
                    Scanned::Taken(total)
                }
                _ => Scanned::Left(total),
            }
        });
        if input.rest().is_empty() {
            self.outputs.pool.put_input(input);
        } else if let Some(connection) = self.connections.get_mut(socket.0)
            && connection.stage == Stage::Open(index)
        {
            connection.keep_input(input, &mut self.memory.tally.input);
        }
    }

    /// True when this packet is an acknowledgement and was acted on.
    fn take_answer(&mut self, socket: SocketId, index: u32, version: Version, raw: &[u8]) -> bool {
        if !matches!(raw[0] >> 4, PUBACK | PUBREC | PUBCOMP) || self.is_clogged(socket) {
            return false;
        }
        let outcome = match packet::decode(version, raw) {
            Ok(Packet::PubAck(ack)) => self.puback(index, ack),
            Ok(Packet::PubRec(ack)) => self.pubrec(socket, index, version, ack),
            Ok(Packet::PubComp(ack)) => self.pubcomp(index, ack),
            _ => return false,
        };
        self.counters.packets_received += u64::from(outcome.is_ok());
        outcome.is_ok()
    }
}

// Packet types, section 2.1.2.
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;
const PINGREQ: u8 = 12;
