//! CONNECT and CONNACK (MQTT 5.0 sections 3.1 and 3.2).

use super::cursor::Cursor;
use super::encode::{Encoded, put_binary, put_packet, put_sized, put_u16};
use super::properties::{
    self as props, NOT_HERE, PublishProperties, UserProperties, boolean, nonzero, once,
    put_binary_property, put_bool_property, put_text_property, put_u8_property, put_u16_property,
    put_u32_property,
};
use super::{ConnectViolation, Qos, ReasonCode, Version, Violation, framing};

/// The bit that mosquitto's version 3 bridges add to the protocol level.
const BRIDGE_BIT: u8 = 0x80;

const USERNAME_FLAG: u8 = 0x80;
const PASSWORD_FLAG: u8 = 0x40;
const WILL_RETAIN_FLAG: u8 = 0x20;
const WILL_QOS_FLAGS: u8 = 0x18;
const WILL_FLAG: u8 = 0x04;
const CLEAN_START_FLAG: u8 = 0x02;
const RESERVED_FLAG: u8 = 0x01;

/// A CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect<'a> {
    /// The version that the protocol name and level say.
    pub version: Version,
    /// Clean Start; in version 3 the flag is called Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive: u16,
    /// The ClientId. It may be empty. The caller checks its length and characters, by version.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password. In version 3 it never comes without a user name [MQTT-3.1.2-22].
    pub password: Option<&'a [u8]>,
    /// The will message.
    pub will: Option<Will<'a>>,
    /// True when the level had bit 0x80, by which mosquitto's bridges identify themselves; version
    /// 3 only.
    pub bridge: bool,
    /// The properties. Empty for version 3.
    pub properties: ConnectProperties<'a>,
}

/// The properties of a CONNECT. Those of its will message are in [`Will`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectProperties<'a> {
    /// Session Expiry Interval in seconds. `u32::MAX`: the session never expires. Absent: 0.
    pub session_expiry: Option<u32>,
    /// Receive Maximum, never 0. Absent: 65,535.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size in bytes, never 0. Absent: no limit.
    pub maximum_packet_size: Option<u32>,
    /// Topic Alias Maximum. Absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// True when the client asks for Response Information.
    pub request_response_information: bool,
    /// True when the client accepts Reason String and User Properties in any packet; otherwise only
    /// in PUBLISH, CONNACK and DISCONNECT [MQTT-3.1.2-29].
    pub request_problem_information: bool,
    /// The method of enhanced authentication that the client asks for.
    pub authentication_method: Option<&'a str>,
    /// The first data of that method. Never present without a method.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        ConnectProperties {
            session_expiry: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: None,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user: UserProperties::default(),
        }
    }
}

/// The will message of a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Will<'a> {
    /// The topic name. Not empty, without wildcards.
    pub topic: &'a str,
    /// The payload. It may be empty.
    pub payload: &'a [u8],
    /// Quality of service.
    pub qos: Qos,
    /// True when the will message is to be retained.
    pub retain: bool,
    /// Will Delay Interval: seconds between the end of the connection and the publication of the
    /// will message.
    pub delay: u32,
    /// The properties, among which there is never a Topic Alias or a Subscription Identifier.
    pub properties: PublishProperties<'a>,
}

/// Decodes a CONNECT, whose version only its own fields tell. `packet` is one whole packet, as
/// [`frame`](super::frame) delimits it.
///
/// # Errors
/// The rule that the packet breaks, and the version in which to answer, as far as it is known. An
/// unknown protocol name or level gives `UnsupportedProtocolVersion` [MQTT-3.1.2-2].
pub fn decode_connect(packet: &[u8]) -> Result<Connect<'_>, ConnectViolation> {
    let any = u32::MAX;
    let unknown =
        |violation| ConnectViolation { violation, version: None, maximum_packet_size: any };
    let (first, body) = framing::split(Version::V311, packet).map_err(unknown)?;
    if first >> 4 != 1 {
        // [MQTT-3.1.0-1]
        return Err(unknown(Violation::protocol("The first packet is not a CONNECT")));
    }
    let mut cursor = Cursor::new(body);
    let name = cursor.binary().map_err(unknown)?;
    let level = cursor.u8().map_err(unknown)?;
    let (version, bridge) = version_of(name, level).map_err(|refuse_as| {
        let version = refuse_as.map(|version| as_written(version, cursor));
        ConnectViolation { version, ..unknown(UNSUPPORTED) }
    })?;
    let known = |violation| ConnectViolation { version: Some(version), ..unknown(violation) };
    framing::split(version, packet).map_err(known)?;
    if first & 0x0F != 0 && version != Version::V31 {
        return Err(known(Violation::malformed("The flags in the fixed header are not 0")));
    }
    let mut maximum_packet_size = any;
    decode_after_level(version, bridge, cursor, &mut maximum_packet_size)
        .map_err(|violation| ConnectViolation { maximum_packet_size, ..known(violation) })
}

const UNSUPPORTED: Violation = Violation {
    reason: ReasonCode::UnsupportedProtocolVersion,
    what: "The protocol name and level are not those of MQTT 3.1, 3.1.1 or 5.0",
};

/// The version that an incomplete CONNECT at the start of `bytes` speaks. `None` while the bytes do
/// not reach the protocol level, `Some(None)` when name and level are not those of a known version.
pub fn connect_version(bytes: &[u8]) -> Option<Option<Version>> {
    let length = bytes.get(1..)?.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let body = bytes.get(2 + length..)?;
    let (head, rest) = body.split_at_checked(2)?;
    let name_length = usize::from(u16::from_be_bytes([head[0], head[1]]));
    if !matches!(name_length, 4 | 6) {
        return Some(None);
    }
    let name = rest.get(..name_length)?;
    let level = *rest.get(name_length)?;
    Some(version_of(name, level).ok().map(|(version, _)| version))
}

/// The version, and whether the client is a bridge. The error is the version in whose form the
/// CONNECT is to be refused.
fn version_of(name: &[u8], level: u8) -> Result<(Version, bool), Option<Version>> {
    match (name, level & !BRIDGE_BIT, level & BRIDGE_BIT != 0) {
        (b"MQIsdp", 3, bridge) => Ok((Version::V31, bridge)),
        (b"MQTT", 4, bridge) => Ok((Version::V311, bridge)),
        (b"MQTT", 5, false) => Ok((Version::V5, false)),
        (b"MQIsdp", _, _) => Err(Some(Version::V31)),
        (b"MQTT", _, _) if level > 5 => Err(Some(Version::V5)),
        (b"MQTT", _, _) => Err(Some(Version::V311)),
        _ => Err(None),
    }
}

/// Chooses the version in whose form a level above 5 is refused. The specification of 3.1.1 wants
/// return code 1 for it, and that of 5.0 reason code 0x84 [MQTT-3.1.2-2]. The bytes after the level
/// show which of the two forms the client reads.
fn as_written(version: Version, rest: Cursor<'_>) -> Version {
    let reads_as = |version| decode_after_level(version, false, rest, &mut 0).is_ok();
    let plain = version.is_v5() && !reads_as(Version::V5) && reads_as(Version::V311);
    if plain { Version::V311 } else { version }
}

fn decode_after_level<'a>(
    version: Version,
    bridge: bool,
    mut cursor: Cursor<'a>,
    maximum_packet_size: &mut u32,
) -> Result<Connect<'a>, Violation> {
    let flags = cursor.u8()?;
    let checked = check_connect_flags(version, flags);
    let keep_alive = cursor.u16()?;
    let mut properties = ConnectProperties::default();
    if version.is_v5() {
        // The properties are read before wrong flags are reported, because that answer, too, must
        // not be larger than the client's Maximum Packet Size.
        let parsed = props::block(&mut cursor).and_then(decode_connect_properties);
        if let Ok(parsed) = &parsed {
            *maximum_packet_size = parsed.maximum_packet_size.unwrap_or(u32::MAX);
        }
        checked?;
        properties = parsed?;
    }
    checked?;
    let client_id = cursor.text()?;
    let mut will = None;
    if flags & WILL_FLAG != 0 {
        will = Some(decode_will(version, flags, &mut cursor)?);
    }
    // In 3.1 the Remaining Length has precedence over these two flags: a packet that ends before
    // the string is valid, and is treated as if the flag were not set (3.1, section 3.1).
    let here = |flag: u8, cursor: &Cursor| {
        flags & flag != 0 && !(version == Version::V31 && cursor.is_empty())
    };
    let username = if here(USERNAME_FLAG, &cursor) { Some(cursor.text()?) } else { None };
    let password = if here(PASSWORD_FLAG, &cursor) { Some(cursor.binary()?) } else { None };
    cursor.end()?;
    Ok(Connect {
        version,
        clean_start: flags & CLEAN_START_FLAG != 0,
        keep_alive,
        client_id,
        username,
        password,
        will,
        bridge,
        properties,
    })
}

fn check_connect_flags(version: Version, flags: u8) -> Result<(), Violation> {
    if flags & WILL_FLAG != 0 && flags & WILL_QOS_FLAGS == WILL_QOS_FLAGS {
        return Err(Violation::malformed("The will QoS is 3")); // [MQTT-3.1.2-12]
    }
    if !version.is_v5() && flags & (USERNAME_FLAG | PASSWORD_FLAG) == PASSWORD_FLAG {
        return Err(Violation::malformed("A password comes without a user name")); // [MQTT-3.1.2-22]
    }
    if version == Version::V31 {
        return Ok(()); // the other bits are "not used" there
    }
    if flags & RESERVED_FLAG != 0 {
        return Err(Violation::malformed("The reserved connect flag is set")); // [MQTT-3.1.2-3]
    }
    if flags & WILL_FLAG == 0 && flags & (WILL_QOS_FLAGS | WILL_RETAIN_FLAG) != 0 {
        // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
        return Err(Violation::malformed("Will QoS or will retain is set without a will"));
    }
    Ok(())
}

fn decode_will<'a>(
    version: Version,
    flags: u8,
    cursor: &mut Cursor<'a>,
) -> Result<Will<'a>, Violation> {
    let mut delay = 0;
    let mut properties = PublishProperties::default();
    if version.is_v5() {
        (properties, delay) = PublishProperties::parse_will(props::block(cursor)?)?;
    }
    let topic = cursor.topic_name()?;
    let payload = cursor.binary()?;
    properties.check_payload(payload)?;
    let qos = Qos::from_u8((flags & WILL_QOS_FLAGS) >> 3)
        .ok_or(Violation::malformed("The will QoS is 3"))?;
    Ok(Will { topic, payload, qos, retain: flags & WILL_RETAIN_FLAG != 0, delay, properties })
}

fn decode_connect_properties(raw: &[u8]) -> Result<ConnectProperties<'_>, Violation> {
    let mut p = ConnectProperties::default();
    let mut response = None;
    let mut problem = None;
    let mut cursor = Cursor::new(raw);
    while !cursor.is_empty() {
        match cursor.u8()? {
            props::SESSION_EXPIRY => once(&mut p.session_expiry, cursor.u32()?)?,
            props::RECEIVE_MAXIMUM => once(&mut p.receive_maximum, nonzero(cursor.u16()?)?)?,
            props::MAXIMUM_PACKET_SIZE => {
                once(&mut p.maximum_packet_size, nonzero(cursor.u32()?)?)?
            }
            props::TOPIC_ALIAS_MAXIMUM => once(&mut p.topic_alias_maximum, cursor.u16()?)?,
            props::REQUEST_RESPONSE_INFORMATION => once(&mut response, boolean(&mut cursor)?)?,
            props::REQUEST_PROBLEM_INFORMATION => once(&mut problem, boolean(&mut cursor)?)?,
            props::AUTHENTICATION_METHOD => once(&mut p.authentication_method, cursor.text()?)?,
            props::AUTHENTICATION_DATA => once(&mut p.authentication_data, cursor.binary()?)?,
            props::USER_PROPERTY => p.user.note(&mut cursor, raw)?,
            _ => return Err(NOT_HERE),
        }
    }
    if p.authentication_data.is_some() && p.authentication_method.is_none() {
        return Err(Violation::protocol("Authentication data comes without a method"));
    }
    p.request_response_information = response.unwrap_or(false);
    p.request_problem_information = problem.unwrap_or(true);
    Ok(p)
}

/// Appends a CONNECT in the form of `connect.version`.
///
/// # Errors
/// A string, a binary field, the properties or the whole packet are too long.
pub fn encode_connect(out: &mut Vec<u8>, connect: &Connect) -> Encoded {
    let (name, level): (&[u8], u8) = match connect.version {
        Version::V31 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
        Version::V5 => (b"MQTT", 5),
    };
    let bridge = if connect.bridge && !connect.version.is_v5() { BRIDGE_BIT } else { 0 };
    put_packet(out, 0x10, |out| {
        put_binary(out, name)?;
        out.push(level | bridge);
        out.push(connect_flags(connect));
        put_u16(out, connect.keep_alive);
        if connect.version.is_v5() {
            put_sized(out, |out| put_connect_properties(out, &connect.properties))?;
        }
        put_binary(out, connect.client_id.as_bytes())?;
        if let Some(will) = &connect.will {
            if connect.version.is_v5() {
                put_sized(out, |out| {
                    let delay = Some(will.delay).filter(|delay| *delay != 0);
                    put_u32_property(out, props::WILL_DELAY, delay);
                    will.properties.put(out)
                })?;
            }
            put_binary(out, will.topic.as_bytes())?;
            put_binary(out, will.payload)?;
        }
        if let Some(username) = connect.username {
            put_binary(out, username.as_bytes())?;
        }
        connect.password.map_or(Ok(()), |password| put_binary(out, password))
    })
}

fn connect_flags(connect: &Connect) -> u8 {
    let set = |condition: bool, flag: u8| if condition { flag } else { 0 };
    let will = connect
        .will
        .map_or(0, |will| WILL_FLAG | (will.qos as u8) << 3 | set(will.retain, WILL_RETAIN_FLAG));
    will | set(connect.clean_start, CLEAN_START_FLAG)
        | set(connect.username.is_some(), USERNAME_FLAG)
        | set(connect.password.is_some(), PASSWORD_FLAG)
}

fn put_connect_properties(out: &mut Vec<u8>, p: &ConnectProperties) -> Encoded {
    put_u32_property(out, props::SESSION_EXPIRY, p.session_expiry);
    put_u16_property(out, props::RECEIVE_MAXIMUM, p.receive_maximum);
    put_u32_property(out, props::MAXIMUM_PACKET_SIZE, p.maximum_packet_size);
    put_u16_property(out, props::TOPIC_ALIAS_MAXIMUM, p.topic_alias_maximum);
    if p.request_response_information {
        put_bool_property(out, props::REQUEST_RESPONSE_INFORMATION, Some(true));
    }
    if !p.request_problem_information {
        put_bool_property(out, props::REQUEST_PROBLEM_INFORMATION, Some(false));
    }
    put_text_property(out, props::AUTHENTICATION_METHOD, p.authentication_method)?;
    put_binary_property(out, props::AUTHENTICATION_DATA, p.authentication_data)?;
    p.user.write(out)
}

/// A CONNACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnAck<'a> {
    /// Session Present. Never set together with a failure [MQTT-3.2.2-6]. 3.1 does not have it.
    pub session_present: bool,
    /// The reason code. Version 3 sends [`ReasonCode::connect_return_code_v3`] of it.
    pub reason: ReasonCode,
    /// The properties. Empty for version 3.
    pub properties: ConnAckProperties<'a>,
}

/// The properties of a CONNACK (section 3.2.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnAckProperties<'a> {
    /// Session Expiry Interval in seconds, if the server uses another value than the client asked
    /// for.
    pub session_expiry: Option<u32>,
    /// Receive Maximum, never 0. Absent: 65,535.
    pub receive_maximum: Option<u16>,
    /// QoS 0 or 1. The protocol expresses QoS 2 by the absence of the property, so the encoder
    /// leaves it out.
    pub maximum_qos: Option<Qos>,
    /// Retain Available. Absent: true.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size in bytes, never 0. Absent: no limit.
    pub maximum_packet_size: Option<u32>,
    /// The ClientId that the server has assigned, if the client's own was empty [MQTT-3.2.2-16].
    pub assigned_client_id: Option<&'a str>,
    /// Topic Alias Maximum. Absent: 0.
    pub topic_alias_maximum: Option<u16>,
    /// The Reason String, which is for people and not for programs.
    pub reason_string: Option<&'a str>,
    /// Wildcard Subscription Available. Absent: true.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available. Absent: true.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available. Absent: true.
    pub shared_subscription_available: Option<bool>,
    /// Keep Alive in seconds, which replaces the client's value [MQTT-3.2.2-21].
    pub server_keep_alive: Option<u16>,
    /// The basis on which the client builds response topics.
    pub response_information: Option<&'a str>,
    /// Another server, which the client is to use.
    pub server_reference: Option<&'a str>,
    /// The authentication method of the CONNECT.
    pub authentication_method: Option<&'a str>,
    /// Data of the authentication method.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties, in the order received.
    pub user: UserProperties<'a>,
}

pub(super) fn decode_connack(version: Version, body: &[u8]) -> Result<ConnAck<'_>, Violation> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.u8()?;
    let code = cursor.u8()?;
    let session_present = version != Version::V31 && flags & 1 != 0;
    if flags & 0xFE != 0 && version != Version::V31 {
        // [MQTT-3.2.2-1]
        return Err(Violation::malformed("Reserved connect acknowledge flags are set"));
    }
    let reason = if version.is_v5() {
        ReasonCode::from_u8(code).filter(|reason| connack_allows(*reason))
    } else {
        ReasonCode::from_connect_return_code_v3(code)
    };
    let reason =
        reason.ok_or(Violation::protocol("The reason code is not one of the packet type"))?;
    if session_present && reason != ReasonCode::Success {
        return Err(Violation::protocol("Session present is set on a refusal"));
    }
    let mut properties = ConnAckProperties::default();
    if version.is_v5() {
        properties = decode_connack_properties(props::block(&mut cursor)?)?;
    }
    cursor.end()?;
    Ok(ConnAck { session_present, reason, properties })
}

/// The reason codes that section 3.2.2.2 lists for CONNACK.
fn connack_allows(reason: ReasonCode) -> bool {
    use ReasonCode as R;
    let refuses_connect = matches!(
        reason as u8,
        0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
    );
    reason == R::Success || refuses_connect
}

fn decode_connack_properties(raw: &[u8]) -> Result<ConnAckProperties<'_>, Violation> {
    let mut p = ConnAckProperties::default();
    let mut cursor = Cursor::new(raw);
    let c = &mut cursor;
    while !c.is_empty() {
        match c.u8()? {
            props::SESSION_EXPIRY => once(&mut p.session_expiry, c.u32()?)?,
            props::RECEIVE_MAXIMUM => once(&mut p.receive_maximum, nonzero(c.u16()?)?)?,
            props::MAXIMUM_QOS => {
                let qos = if boolean(c)? { Qos::AtLeastOnce } else { Qos::AtMostOnce };
                once(&mut p.maximum_qos, qos)?;
            }
            props::RETAIN_AVAILABLE => once(&mut p.retain_available, boolean(c)?)?,
            props::MAXIMUM_PACKET_SIZE => once(&mut p.maximum_packet_size, nonzero(c.u32()?)?)?,
            props::ASSIGNED_CLIENT_ID => once(&mut p.assigned_client_id, c.text()?)?,
            props::TOPIC_ALIAS_MAXIMUM => once(&mut p.topic_alias_maximum, c.u16()?)?,
            props::REASON_STRING => once(&mut p.reason_string, c.text()?)?,
            props::WILDCARD_AVAILABLE => once(&mut p.wildcard_subscription_available, boolean(c)?)?,
            props::SUBSCRIPTION_IDS_AVAILABLE => {
                once(&mut p.subscription_identifiers_available, boolean(c)?)?
            }
            props::SHARED_AVAILABLE => once(&mut p.shared_subscription_available, boolean(c)?)?,
            props::SERVER_KEEP_ALIVE => once(&mut p.server_keep_alive, c.u16()?)?,
            props::RESPONSE_INFORMATION => once(&mut p.response_information, c.text()?)?,
            props::SERVER_REFERENCE => once(&mut p.server_reference, c.text()?)?,
            props::AUTHENTICATION_METHOD => once(&mut p.authentication_method, c.text()?)?,
            props::AUTHENTICATION_DATA => once(&mut p.authentication_data, c.binary()?)?,
            props::USER_PROPERTY => p.user.note(c, raw)?,
            _ => return Err(NOT_HERE),
        }
    }
    Ok(p)
}

/// Appends a CONNACK. Version 3.1.1 has only the Session Present flag and the return code, 3.1 only
/// the return code.
///
/// # Errors
/// A string, a binary field, or the property block is too long.
pub fn encode_connack(out: &mut Vec<u8>, version: Version, connack: &ConnAck) -> Encoded {
    put_packet(out, 0x20, |out| {
        out.push(u8::from(connack.session_present && version != Version::V31));
        if version.is_v5() {
            out.push(connack.reason as u8);
            return put_sized(out, |out| put_connack_properties(out, &connack.properties));
        }
        out.push(connack.reason.connect_return_code_v3());
        Ok(())
    })
}

fn put_connack_properties(out: &mut Vec<u8>, p: &ConnAckProperties) -> Encoded {
    let maximum_qos = p.maximum_qos.filter(|qos| *qos != Qos::ExactlyOnce);
    put_u32_property(out, props::SESSION_EXPIRY, p.session_expiry);
    put_u16_property(out, props::RECEIVE_MAXIMUM, p.receive_maximum);
    put_u8_property(out, props::MAXIMUM_QOS, maximum_qos.map(|qos| qos as u8));
    put_bool_property(out, props::RETAIN_AVAILABLE, p.retain_available);
    put_u32_property(out, props::MAXIMUM_PACKET_SIZE, p.maximum_packet_size);
    put_text_property(out, props::ASSIGNED_CLIENT_ID, p.assigned_client_id)?;
    put_u16_property(out, props::TOPIC_ALIAS_MAXIMUM, p.topic_alias_maximum);
    put_text_property(out, props::REASON_STRING, p.reason_string)?;
    put_bool_property(out, props::WILDCARD_AVAILABLE, p.wildcard_subscription_available);
    let identifiers = p.subscription_identifiers_available;
    put_bool_property(out, props::SUBSCRIPTION_IDS_AVAILABLE, identifiers);
    put_bool_property(out, props::SHARED_AVAILABLE, p.shared_subscription_available);
    put_u16_property(out, props::SERVER_KEEP_ALIVE, p.server_keep_alive);
    put_text_property(out, props::RESPONSE_INFORMATION, p.response_information)?;
    put_text_property(out, props::SERVER_REFERENCE, p.server_reference)?;
    put_text_property(out, props::AUTHENTICATION_METHOD, p.authentication_method)?;
    put_binary_property(out, props::AUTHENTICATION_DATA, p.authentication_data)?;
    p.user.write(out)
}
