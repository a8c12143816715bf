//! Enhanced authentication of a client that is connected already (MQTT 5, section 4.12.1). That of
//! a client on its way in is in [`super::exchange`].

use super::Shard;
use super::close::Cause;
use super::receive::{Handled, NO_AUTHENTICATION};
use crate::access::scram::{Mechanism, ScramExchange};
use crate::ids::SocketId;
use crate::limits::cost;
use crate::packet::{self, Auth, ReasonCode, UserProperties, Violation};
use std::sync::Arc;

pub(super) const OUT_OF_TURN: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an AUTH that does not belong to an exchange",
};

pub(super) const OTHER_METHOD: Violation = Violation {
    reason: ReasonCode::ProtocolError,
    what: "an AUTH with another authentication method",
};

impl Shard {
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
                file.and_then(|(_, file)| ScramExchange::begin(file, mechanism, data)).map(
                    |(exchange, answer)| {
                        self.access.admissions.begin_again(socket, Box::new(exchange));
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
                let exchange = self.access.admissions.go_on_again(socket).ok_or(OUT_OF_TURN)?;
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
            self.note_bad_credentials(socket);
            self.disconnect(socket, Cause::Unproven); // [MQTT-4.12.1-2]
        }
        Ok(Handled::Next)
    }

    pub(super) fn send_auth(
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
