//! DISCONNECT and AUTH (MQTT 5.0 sections 3.14 and 3.15).

use super::cursor::Cursor;
use super::encode::{Encoded, put_packet, put_sized};
use super::properties::{
    self, AUTHENTICATION_DATA, AUTHENTICATION_METHOD, NOT_HERE, REASON_STRING, SERVER_REFERENCE,
    SESSION_EXPIRY, USER_PROPERTY, UserProperties, once, put_binary_property, put_text_property,
    put_u32_property,
};
use super::{ReasonCode, Version, Violation};

/// A DISCONNECT. In version 3 it has no field, and only clients send it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disconnect<'a> {
    /// The reason code. `Success` is "Normal disconnection", which discards the will message
    /// [MQTT-3.14.4-3].
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds. Only clients may send it [MQTT-3.14.2-2].
    pub session_expiry: Option<u32>,
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// Another server, which the client is to use. Only servers send it.
    pub server_reference: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

impl Disconnect<'_> {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Disconnect {
            reason,
            session_expiry: None,
            reason_string: None,
            server_reference: None,
            user: UserProperties::default(),
        }
    }

    fn has_properties(&self) -> bool {
        self.session_expiry.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user.is_empty()
    }
}

/// An AUTH: one step of an authentication exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Auth<'a> {
    /// The reason code: `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    /// The authentication method. Missing only when the Remaining Length is 0 (section 3.15.2.1).
    pub method: Option<&'a str>,
    /// Data of the authentication method.
    pub data: Option<&'a [u8]>,
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

const WRONG_REASON: Violation =
    Violation::protocol("The reason code is not one of the packet type");

pub(super) fn decode_disconnect(
    version: Version,
    body: &[u8],
) -> Result<Disconnect<'_>, Violation> {
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    let mut cursor = Cursor::new(body);
    if cursor.is_empty() {
        return Ok(disconnect);
    }
    if !version.is_v5() {
        cursor.end()?;
    }
    disconnect.reason = ReasonCode::from_u8(cursor.u8()?)
        .filter(|reason| disconnect_allows(*reason))
        .ok_or(WRONG_REASON)?;
    // With a Remaining Length below 2 there is no property length, and so there are no properties
    // (section 3.14.2.2.1).
    if cursor.is_empty() {
        return Ok(disconnect);
    }
    let raw = properties::block(&mut cursor)?;
    cursor.end()?;
    let mut cursor = Cursor::new(raw);
    while !cursor.is_empty() {
        match cursor.u8()? {
            SESSION_EXPIRY => once(&mut disconnect.session_expiry, cursor.u32()?)?,
            REASON_STRING => once(&mut disconnect.reason_string, cursor.text()?)?,
            SERVER_REFERENCE => once(&mut disconnect.server_reference, cursor.text()?)?,
            USER_PROPERTY => disconnect.user.note(&mut cursor, raw)?,
            _ => return Err(NOT_HERE),
        }
    }
    Ok(disconnect)
}

/// The codes of section 3.14.2.1: those that are about a connection, and not about a single
/// request.
fn disconnect_allows(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    match reason {
        R::Success | R::DisconnectWithWill => true,
        R::GrantedQos1
        | R::GrantedQos2
        | R::NoMatchingSubscribers
        | R::NoSubscriptionExisted
        | R::ContinueAuthentication
        | R::ReAuthenticate
        | R::UnsupportedProtocolVersion
        | R::ClientIdentifierNotValid
        | R::BadUserNameOrPassword
        | R::ServerUnavailable
        | R::Banned
        | R::PacketIdentifierInUse
        | R::PacketIdentifierNotFound => false,
        _ => true,
    }
}

/// Appends a DISCONNECT in its shortest form. In version 3 this is the fixed header alone.
///
/// # Errors
/// A property is too long, or all properties together are.
pub fn encode_disconnect(out: &mut Vec<u8>, version: Version, disconnect: &Disconnect) -> Encoded {
    put_packet(out, 0xE0, |out| {
        let properties = disconnect.has_properties();
        if !version.is_v5() || (disconnect.reason == ReasonCode::Success && !properties) {
            return Ok(());
        }
        out.push(disconnect.reason as u8);
        if !properties {
            return Ok(());
        }
        put_sized(out, |out| {
            put_u32_property(out, SESSION_EXPIRY, disconnect.session_expiry);
            put_text_property(out, REASON_STRING, disconnect.reason_string)?;
            put_text_property(out, SERVER_REFERENCE, disconnect.server_reference)?;
            disconnect.user.write(out)
        })
    })
}

pub(super) fn decode_auth(body: &[u8]) -> Result<Auth<'_>, Violation> {
    let mut auth = Auth {
        reason: ReasonCode::Success,
        method: None,
        data: None,
        reason_string: None,
        user: UserProperties::default(),
    };
    let mut cursor = Cursor::new(body);
    if cursor.is_empty() {
        return Ok(auth);
    }
    use ReasonCode::{ContinueAuthentication, ReAuthenticate, Success};
    auth.reason = ReasonCode::from_u8(cursor.u8()?)
        .filter(|reason| matches!(reason, Success | ContinueAuthentication | ReAuthenticate))
        .ok_or(WRONG_REASON)?; // [MQTT-3.15.2-1]
    let raw = properties::block(&mut cursor)?;
    cursor.end()?;
    let mut cursor = Cursor::new(raw);
    while !cursor.is_empty() {
        match cursor.u8()? {
            AUTHENTICATION_METHOD => once(&mut auth.method, cursor.text()?)?,
            AUTHENTICATION_DATA => once(&mut auth.data, cursor.binary()?)?,
            REASON_STRING => once(&mut auth.reason_string, cursor.text()?)?,
            USER_PROPERTY => auth.user.note(&mut cursor, raw)?,
            _ => return Err(NOT_HERE),
        }
    }
    if auth.method.is_none() {
        return Err(Violation::protocol("An AUTH has no authentication method"));
    }
    Ok(auth)
}

/// Appends an AUTH (version 5 only).
///
/// # Errors
/// A property is too long, or all properties together are.
pub fn encode_auth(out: &mut Vec<u8>, auth: &Auth) -> Encoded {
    put_packet(out, 0xF0, |out| {
        // Without a method only the form with Remaining Length 0 is legal (section 3.15.2.2.2).
        if auth.method.is_none() {
            return Ok(());
        }
        out.push(auth.reason as u8);
        put_sized(out, |out| {
            put_text_property(out, AUTHENTICATION_METHOD, auth.method)?;
            put_binary_property(out, AUTHENTICATION_DATA, auth.data)?;
            put_text_property(out, REASON_STRING, auth.reason_string)?;
            auth.user.write(out)
        })
    })
}
