//! Enhanced authentication (MQTT 5.0 section 4.12): the packets of an exchange before CONNACK; for
//! an open connection see [`super::reauthenticate`]. Their content is handled by `access::scram`.

use super::Shard;
use super::admission::ResumedAdmission;
use super::close::Cause;
use super::connect::first_packet;
use super::reauthenticate::{OTHER_METHOD, OUT_OF_TURN};
use super::refuse::Refused;
use crate::access::Access;
use crate::access::chain::Accepted;
use crate::access::scram::{Mechanism, ScramExchange};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::packet::{self, Connect, Framing, Packet, ReasonCode, Version, Violation};
use std::sync::Arc;

/// Largest AUTH packet of a client that is not connected yet, bytes.
const LARGEST_AUTH: u32 = 4096;
/// The client must take packets of so many bytes, besides its ClientId.
const NEEDED: usize = 1024;

const NO_ROOM: Refused = Refused(
    ReasonCode::PacketTooLarge,
    "the Maximum Packet Size has no room for the authentication",
);
const NOT_PROVEN: Refused = Refused(ReasonCode::NotAuthorized, "authentication failed");

impl Shard {
    /// A CONNECT begins an exchange by a method that is offered.
    pub(super) fn begin_exchange(
        &mut self,
        socket: SocketId,
        access: Arc<Access>,
        assigned: Option<Box<str>>,
        connect: &Connect<'_>,
        bytes: &[u8],
    ) {
        self.meter.charge(cost::SESSION);
        let properties = &connect.properties;
        let method = properties.authentication_method.and_then(Mechanism::of_name);
        let (Some((at, file)), Some(mechanism)) = (access.scram(), method) else { return };
        let room = properties.maximum_packet_size.unwrap_or(u32::MAX) as usize;
        if room < NEEDED + connect.client_id.len() {
            self.refuse(socket, connect, NO_ROOM);
            return;
        }
        let data = properties.authentication_data.unwrap_or_default();
        match ScramExchange::begin(file, mechanism, data) {
            Ok((exchange, answer)) => {
                self.send_auth(socket, ReasonCode::ContinueAuthentication, mechanism, &answer);
                let exchange = Some(Box::new(exchange));
                self.wait(socket, Arc::clone(&access), at, assigned, exchange, bytes);
                self.go_on_exchanging(socket);
            }
            Err(why) => {
                self.counters.scram_refused += 1;
                self.refuse_because(socket, connect, NOT_PROVEN, why);
            }
        }
    }

    /// Looks at what stands behind the CONNECT of a client that is to send its next AUTH.
    pub(super) fn go_on_exchanging(&mut self, socket: SocketId) {
        let input = self.connections.get(socket.0).and_then(|c| c.input.as_ref());
        let Some((_, rest)) = input.and_then(|input| first_packet(input.rest())) else { return };
        match packet::frame(rest, LARGEST_AUTH) {
            Ok(Framing::Incomplete { .. }) => {
                self.outputs.actions.push(super::Action::ReceiveOnce(socket));
            }
            Ok(Framing::Complete { total, .. }) => self.take_auth(socket, total),
            Err(violation) => self.end_exchange(socket, violation),
        }
    }

    fn end_exchange(&mut self, socket: SocketId, violation: Violation) {
        let Some((_, bytes)) = self.end_wait(socket) else { return };
        let max =
            first_packet(&bytes).and_then(|(connect, _)| connect.properties.maximum_packet_size);
        let (version, max) = (Some(Version::V5), max.unwrap_or(u32::MAX));
        self.reject(socket, violation.reason, violation.what, version, max);
    }

    /// Takes the packet behind the CONNECT, of `total` bytes [MQTT-3.1.2-30].
    fn take_auth(&mut self, socket: SocketId, total: usize) {
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        let ResumedAdmission { assigned, exchange, .. } = waited;
        let (Some((connect, rest)), Some(exchange)) = (first_packet(&bytes), exchange) else {
            self.disconnect(socket, Cause::Broken);
            return;
        };
        let (packet, behind) = rest.split_at_checked(total).unwrap_or((rest, &[]));
        let mechanism = exchange.mechanism();
        let max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        let reject = |shard: &mut Shard, Violation { reason, what }| {
            shard.reject(socket, reason, what, Some(Version::V5), max);
        };
        let auth = match packet::decode(Version::V5, packet) {
            Ok(Packet::Auth(auth)) if auth.method != Some(mechanism.name()) => {
                return reject(self, OTHER_METHOD); // [MQTT-4.12.0-5]
            }
            Ok(Packet::Auth(auth)) if auth.reason == ReasonCode::ContinueAuthentication => auth,
            Ok(Packet::Disconnect(_)) => return self.disconnect(socket, Cause::Rejected),
            Ok(_) => return reject(self, OUT_OF_TURN),
            Err(violation) => return reject(self, violation),
        };
        self.counters.packets_received += 1;
        self.meter.charge(cost::SESSION);
        match exchange.finish(auth.data.unwrap_or_default()) {
            Ok((user, last)) => {
                self.counters.scram_accepted += 1;
                let accepted = Accepted {
                    username: Some(user),
                    exchanged: Some(Box::new((mechanism, last))),
                    ..Accepted::default()
                };
                let connect = bytes.len() - rest.len();
                let left = [bytes.get(..connect).unwrap_or_default(), behind].concat();
                self.let_in(socket, assigned, &left, accepted);
            }
            Err(why) => {
                self.note_bad_credentials(socket);
                self.counters.scram_refused += 1;
                self.refuse_because(socket, &connect, NOT_PROVEN, why);
            }
        }
    }
}
