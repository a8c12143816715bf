//! Enhanced authentication (MQTT 5.0 section 4.12): the packets of an exchange, before CONNACK and
//! on an open connection. Their content is handled by `access::scram`.

use super::Shard;
use super::admission::Waited;
use super::close::Cause;
use super::connect::first_packet;
use super::receive::{Handled, NO_AUTHENTICATION};
use super::refuse::Refused;
use crate::access::Access;
use crate::access::chain::Accepted;
use crate::access::scram::{Exchange, Mechanism};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::packet::{
    self, Auth, Connect, Framing, Packet, ReasonCode, UserProperties, Version, Violation,
};
use std::sync::Arc;

/// Largest AUTH packet of a client that is not connected yet, bytes.
const LARGEST_AUTH: u32 = 4096;
/// The client must take packets of that size, besides its ClientId.
const NEEDED: usize = 1024;

const NO_ROOM: Refused = Refused(
    ReasonCode::PacketTooLarge,
    "the Maximum Packet Size has no room for the authentication",
);
const NOT_PROVEN: Refused = Refused(ReasonCode::NotAuthorized, "authentication failed");
const OUT_OF_TURN: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an AUTH that does not belong to an exchange",
};
const OTHER_METHOD: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an AUTH with another authentication method",
};

impl Shard {
    /// A CONNECT that begins an exchange; its method is offered.
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
        match Exchange::begin(file, mechanism, data) {
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

    /// Looks at what stands behind the CONNECT of a client whose next message is awaited.
    pub(super) fn go_on_exchanging(&mut self, socket: SocketId) {
        let input = self.connections.get(socket.0).and_then(|c| c.input.as_ref());
        let Some((_, rest)) = input.and_then(|input| first_packet(input.rest())) else { return };
        match packet::frame(rest, LARGEST_AUTH) {
            Ok(Framing::Incomplete { .. }) => {
                self.actions.push(super::Action::ReceiveOnce(socket));
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

    /// The packet behind the CONNECT, of `total` bytes [MQTT-3.1.2-30].
    fn take_auth(&mut self, socket: SocketId, total: usize) {
        let Some((waited, bytes)) = self.end_wait(socket) else { return };
        let Waited { assigned, exchange, .. } = waited;
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
                self.counters.scram_refused += 1;
                self.refuse_because(socket, &connect, NOT_PROVEN, why);
            }
        }
    }

    /// An AUTH of a client that is connected: it proves itself again (section 4.12.1).
    pub(super) fn prove_again(
        &mut self,
        socket: SocketId,
        index: u32,
        auth: &Auth<'_>,
    ) -> Result<Handled, Violation> {
        let grant = self.sessions.get(index).and_then(|session| session.grant());
        let Some(mechanism) = grant.and_then(|grant| grant.mechanism) else {
            return Err(NO_AUTHENTICATION); // [MQTT-4.12.0-6]
        };
        if auth.method != Some(mechanism.name()) {
            return Err(OTHER_METHOD); // [MQTT-4.12.1-1]
        }
        self.meter.charge(cost::SESSION);
        let data = auth.data.unwrap_or_default();
        let access = Arc::clone(&self.settings.access);
        let done = match auth.reason {
            ReasonCode::ReAuthenticate => {
                let file = access.scram().ok_or("the method is not offered any more");
                file.and_then(|(_, file)| Exchange::begin(file, mechanism, data)).map(
                    |(exchange, answer)| {
                        self.admissions.begin_again(socket, Box::new(exchange));
                        self.send_auth(
                            socket,
                            ReasonCode::ContinueAuthentication,
                            mechanism,
                            &answer,
                        );
                    },
                )
            }
            ReasonCode::ContinueAuthentication => {
                let exchange = self.admissions.go_on_again(socket).ok_or(OUT_OF_TURN)?;
                exchange.finish(data).and_then(|(user, last)| {
                    let grant = self.sessions.get(index).and_then(|session| session.grant());
                    if grant.and_then(|grant| grant.username.as_deref()) != Some(&*user) {
                        return Err("another user");
                    }
                    self.counters.scram_accepted += 1;
                    self.send_auth(socket, ReasonCode::Success, mechanism, &last);
                    Ok(())
                })
            }
            _ => return Err(OUT_OF_TURN),
        };
        if done.is_err() {
            self.counters.scram_refused += 1;
            self.disconnect(socket, Cause::Unproven); // [MQTT-4.12.1-2]
        }
        Ok(Handled::Next)
    }

    fn send_auth(
        &mut self,
        socket: SocketId,
        reason: ReasonCode,
        mechanism: Mechanism,
        text: &str,
    ) {
        let auth = Auth {
            reason,
            method: Some(mechanism.name()),
            data: Some(text.as_bytes()),
            reason_string: None,
            user: UserProperties::default(),
        };
        self.answer(socket, |out| packet::encode_auth(out, &auth));
    }
}
