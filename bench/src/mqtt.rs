//! The client's half of MQTT 3.1, 3.1.1 and 5: the packets that a load generator sends and
//! receives.
//!
//! This code is written by hand and is not the broker's codec, so that an error of that codec does
//! not go unnoticed. It trusts no byte that it reads, but does not check what only a conformance
//! test needs.

/// The protocol version of all clients of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// MQTT 3.1
    V31,
    /// MQTT 3.1.1
    V311,
    /// MQTT 5.0
    V5,
}

/// First bytes of packets, which hold the packet type and fixed flags.
pub mod first {
    /// CONNACK
    pub const CONNACK: u8 = 0x20;
    /// PUBLISH, before flags
    pub const PUBLISH: u8 = 0x30;
    /// PUBACK
    pub const PUBACK: u8 = 0x40;
    /// PUBREC
    pub const PUBREC: u8 = 0x50;
    /// PUBREL, with its mandatory flags
    pub const PUBREL: u8 = 0x62;
    /// PUBCOMP
    pub const PUBCOMP: u8 = 0x70;
    /// PINGRESP
    pub const PINGRESP: u8 = 0xd0;
    /// SUBACK
    pub const SUBACK: u8 = 0x90;
    /// AUTH (MQTT 5)
    pub const AUTH: u8 = 0xf0;
}

/// A received packet: its first byte and what follows the fixed header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// Packet type and flags.
    pub first: u8,
    /// The bytes after the fixed header.
    pub body: &'a [u8],
    /// Length of the whole packet in bytes.
    pub total: usize,
}

/// The peer sent something that is not MQTT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The first packet of `bytes`; `None` while it is incomplete.
#[inline]
pub fn split(bytes: &[u8]) -> Result<Option<Packet<'_>>, Malformed> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let Some((length, used)) = varint(&bytes[1..])? else { return Ok(None) };
    let header = 1 + used;
    let total = header + length;
    match bytes.get(header..total) {
        Some(body) => Ok(Some(Packet { first, body, total })),
        None => Ok(None),
    }
}

#[inline]
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0usize;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed) } else { Ok(None) }
}

/// A received PUBLISH.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// 0, 1 or 2.
    pub qos: u8,
    /// The packet identifier; 0 with QoS 0.
    pub id: u16,
    /// The topic name as it came.
    pub topic: &'a [u8],
    /// The application message.
    pub payload: &'a [u8],
}

/// Decodes a PUBLISH.
#[inline]
pub fn publish_of<'a>(version: Version, packet: &Packet<'a>) -> Result<Publish<'a>, Malformed> {
    let qos = (packet.first >> 1) & 3;
    let (topic, mut rest) = string(packet.body)?;
    let mut id = 0;
    if qos > 0 {
        id = u16_at(rest)?;
        rest = &rest[2..];
        if id == 0 || qos == 3 {
            return Err(Malformed);
        }
    }
    if version == Version::V5 {
        let (length, used) = varint(rest)?.ok_or(Malformed)?;
        rest = rest.get(used + length..).ok_or(Malformed)?;
    }
    Ok(Publish { qos, id, topic, payload: rest })
}

/// The packet identifier of PUBACK, PUBREC, PUBREL, PUBCOMP or SUBACK, and whether the peer
/// refused; for a SUBACK, whether it refused any filter.
#[inline]
pub fn ack_of(version: Version, packet: &Packet<'_>) -> Result<(u16, bool), Malformed> {
    let id = u16_at(packet.body)?;
    let refused = match (packet.first, version) {
        (first::SUBACK, _) => suback_refuses(version, packet.body),
        (_, Version::V5) => packet.body.get(2).is_some_and(|&code| code >= 0x80),
        _ => false,
    };
    Ok((id, refused))
}

fn suback_refuses(version: Version, body: &[u8]) -> bool {
    let mut codes = body.get(2..).unwrap_or_default();
    if version == Version::V5 {
        let Ok(Some((length, used))) = varint(codes) else { return true };
        codes = codes.get(used + length..).unwrap_or_default();
    }
    codes.is_empty() || codes.iter().any(|&code| code >= 0x80)
}

/// A received CONNACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connack {
    /// Return or reason code; 0 is success.
    pub code: u8,
    /// Whether the broker has kept a session of the client.
    pub session_present: bool,
    /// The most unacknowledged QoS 1 and 2 messages that the broker takes (MQTT 5, 3.2.2.3.3).
    pub receive_maximum: u16,
}

/// Decodes a CONNACK.
pub fn connack_of(version: Version, packet: &Packet<'_>) -> Result<Connack, Malformed> {
    let [flags, code, rest @ ..] = packet.body else { return Err(Malformed) };
    let mut connack =
        Connack { code: *code, session_present: flags & 1 == 1, receive_maximum: u16::MAX };
    // A broker that refuses the version may answer in a version of its own, without properties.
    if version == Version::V5
        && let Some(value) = property(rest, RECEIVE_MAXIMUM)?
    {
        connack.receive_maximum = u16_at(value)?.max(1);
    }
    Ok(connack)
}

/// The Authentication Data of CONNACK or AUTH (MQTT 5, 3.2.2.3.18 and 3.15.2.2.3); empty without.
pub fn auth_data_of<'a>(packet: &Packet<'a>) -> Result<&'a [u8], Malformed> {
    // CONNACK has flags before the reason code.
    let before = if packet.first == first::CONNACK { 2 } else { 1 };
    let properties = packet.body.get(before..).ok_or(Malformed)?;
    property(properties, AUTHENTICATION_DATA)?.map_or(Ok(&[]), |value| Ok(string(value)?.0))
}

/// Receive Maximum, Authentication Method and Authentication Data (MQTT 5, 2.2.2.2).
const RECEIVE_MAXIMUM: u8 = 0x21;
const AUTHENTICATION_METHOD: u8 = 0x15;
const AUTHENTICATION_DATA: u8 = 0x16;

/// The bytes from the value on of the last property with this name; `bytes` begin with their
/// length, or are empty.
fn property(bytes: &[u8], wanted: u8) -> Result<Option<&[u8]>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (length, used) = varint(bytes)?.ok_or(Malformed)?;
    let mut properties = bytes.get(used..used + length).ok_or(Malformed)?;
    let mut found = None;
    while let Some((&name, rest)) = properties.split_first() {
        if name == wanted {
            found = Some(rest);
        }
        properties = rest.get(property_length(name, rest)?..).ok_or(Malformed)?;
    }
    Ok(found)
}

/// What a client says in an exchange with the broker (MQTT 5, 4.12).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthData {
    /// Authentication Method.
    pub method: &'static str,
    /// Authentication Data.
    pub data: Vec<u8>,
}

impl AuthData {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(AUTHENTICATION_METHOD);
        put_string(out, self.method.as_bytes());
        out.push(AUTHENTICATION_DATA);
        put_string(out, &self.data);
    }
}

/// Appends AUTH with the reason code Continue authentication.
pub fn put_auth(out: &mut Vec<u8>, said: &AuthData) {
    let mut properties = Vec::new();
    said.put(&mut properties);
    let mut body = vec![0x18];
    put_length(&mut body, properties.len());
    body.append(&mut properties);
    out.push(first::AUTH);
    put_length(out, body.len());
    out.append(&mut body);
}

/// Bytes of a property's value, from the table in MQTT 5, 2.2.2.2.
fn property_length(name: u8, bytes: &[u8]) -> Result<usize, Malformed> {
    Ok(match name {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
        0x13 | 0x21 | 0x22 | 0x23 => 2,
        0x02 | 0x11 | 0x18 | 0x27 => 4,
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
            2 + usize::from(u16_at(bytes)?)
        }
        0x26 => {
            let key = 2 + usize::from(u16_at(bytes)?);
            key + 2 + usize::from(u16_at(bytes.get(key..).ok_or(Malformed)?)?)
        }
        0x0b => varint(bytes)?.ok_or(Malformed)?.1,
        _ => return Err(Malformed),
    })
}

/// How CONNECT treats the client's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// A new session, which ends with the connection.
    Clean,
    /// A new session that stays this many seconds after the connection (MQTT 5; otherwise like
    /// [`Session::Clean`]).
    Fresh(u32),
    /// The former session if there is one. It stays this many seconds after the connection (MQTT 3:
    /// as long as the broker keeps it).
    Lasting(u32),
}

/// Session Expiry Interval of a scenario's sessions in seconds, with MQTT 5.
pub const EXPIRY: u32 = 3600;

/// The fields of CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    /// Protocol version.
    pub version: Version,
    /// ClientId.
    pub client_id: &'a str,
    /// Keep Alive in seconds.
    pub keep_alive: u16,
    /// How the session is treated.
    pub session: Session,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password; MQTT 3 has it only with a user name.
    pub password: Option<&'a str>,
    /// The beginning of an exchange that shows who the client is (MQTT 5).
    pub auth: Option<&'a AuthData>,
}

fn string(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let length = usize::from(u16_at(bytes)?);
    bytes[2..].split_at_checked(length).ok_or(Malformed)
}

fn u16_at(bytes: &[u8]) -> Result<u16, Malformed> {
    match bytes {
        [high, low, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(Malformed),
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Appends CONNECT.
pub fn put_connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let Connect { version, client_id, keep_alive, session, username, password, auth } = connect;
    let expiry = match session {
        Session::Clean => 0,
        Session::Fresh(seconds) | Session::Lasting(seconds) => *seconds,
    };
    let mut properties = Vec::new();
    if *version == Version::V5 {
        let mut each = Vec::new();
        if expiry > 0 {
            each.push(0x11);
            each.extend_from_slice(&expiry.to_be_bytes());
        }
        if let Some(auth) = auth {
            auth.put(&mut each);
        }
        put_length(&mut properties, each.len());
        properties.append(&mut each);
    }
    let (name, level): (&[u8], u8) = match version {
        Version::V31 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
        Version::V5 => (b"MQTT", 5),
    };
    let length = |text: &Option<&str>| text.map_or(0, |text| 2 + text.len());
    let credentials = length(username) + length(password);
    let mut flags = 0;
    if !matches!(session, Session::Lasting(_)) {
        flags |= 0x02;
    }
    flags |= u8::from(username.is_some()) << 7 | u8::from(password.is_some()) << 6;
    out.push(0x10);
    put_length(out, 2 + name.len() + 4 + properties.len() + 2 + client_id.len() + credentials);
    put_string(out, name);
    out.push(level);
    out.push(flags);
    out.extend_from_slice(&keep_alive.to_be_bytes());
    out.append(&mut properties);
    put_string(out, client_id.as_bytes());
    for text in [username, password].into_iter().flatten() {
        put_string(out, text.as_bytes());
    }
}

/// A topic filter and the QoS that is asked for.
pub type Filter = (String, u8);

/// Appends SUBSCRIBE.
pub fn put_subscribe(out: &mut Vec<u8>, version: Version, id: u16, filters: &[Filter]) {
    out.push(0x82);
    let each: usize = filters.iter().map(|(filter, _)| 2 + filter.len() + 1).sum();
    put_length(out, 2 + usize::from(version == Version::V5) + each);
    out.extend_from_slice(&id.to_be_bytes());
    if version == Version::V5 {
        out.push(0);
    }
    for (filter, qos) in filters {
        put_string(out, filter.as_bytes());
        out.push(*qos);
    }
}

/// Appends DISCONNECT, which ends the connection without the will message.
pub fn put_disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xe0, 0]);
}

/// Appends PUBLISH; `id` is ignored with QoS 0.
#[inline]
pub fn put_publish(
    out: &mut Vec<u8>,
    version: Version,
    qos: u8,
    topic: &[u8],
    id: u16,
    payload: &[u8],
) {
    put_flagged(out, version, qos << 1, topic, id, payload);
}

/// Appends a retained PUBLISH with QoS 1. An empty payload removes the retained message of the
/// topic.
pub fn put_retained(out: &mut Vec<u8>, version: Version, topic: &[u8], id: u16, payload: &[u8]) {
    put_flagged(out, version, 1 << 1 | RETAIN, topic, id, payload);
}

/// The RETAIN flag of PUBLISH.
pub const RETAIN: u8 = 1;

/// Appends PUBLISH with `flags` in its first byte: QoS in bits 1 and 2, and [`RETAIN`].
#[inline]
pub fn put_flagged(
    out: &mut Vec<u8>,
    version: Version,
    flags: u8,
    topic: &[u8],
    id: u16,
    payload: &[u8],
) {
    let qos = flags >> 1 & 3;
    let extra = if qos > 0 { 2 } else { 0 } + usize::from(version == Version::V5);
    let length = 2 + topic.len() + extra + payload.len();
    out.reserve(length + 5);
    out.push(first::PUBLISH | flags);
    put_length(out, length);
    put_string(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        out.push(0);
    }
    out.extend_from_slice(payload);
}

/// Appends PINGREQ.
pub fn put_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Appends PUBACK, PUBREC, PUBREL or PUBCOMP with a packet identifier alone, which is valid in all
/// versions.
#[inline]
pub fn put_ack(out: &mut Vec<u8>, first: u8, id: u16) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_reads_back_in_both_versions() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..3 {
                for size in [0, 24, 127, 128, 20_000] {
                    let mut out = Vec::new();
                    let payload = vec![7u8; size];
                    put_publish(&mut out, version, qos, b"a/b", 513, &payload);
                    for cut in [0, 1, out.len() / 2, out.len() - 1] {
                        assert_eq!(split(&out[..cut]), Ok(None));
                    }
                    let packet = split(&out).unwrap().unwrap();
                    assert_eq!(packet.total, out.len());
                    let got = publish_of(version, &packet).unwrap();
                    let id = if qos > 0 { 513 } else { 0 };
                    assert_eq!(got, Publish { qos, id, topic: b"a/b", payload: &payload });
                }
            }
        }
    }

    #[test]
    fn a_connect_is_as_the_specification_shows_it() {
        let mut out = Vec::new();
        let connect = |version, keep_alive, session| {
            let (username, password, auth) = (None, None, None);
            Connect { version, client_id: "ab", keep_alive, session, username, password, auth }
        };
        put_connect(&mut out, &connect(Version::V311, 0, Session::Clean));
        assert_eq!(out, b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02ab");
        out.clear();
        put_connect(&mut out, &connect(Version::V5, 300, Session::Clean));
        assert_eq!(out, b"\x10\x0f\0\x04MQTT\x05\x02\x01\x2c\0\0\x02ab");
        out.clear();
        put_connect(&mut out, &connect(Version::V5, 0, Session::Lasting(EXPIRY)));
        assert_eq!(out, b"\x10\x14\0\x04MQTT\x05\0\0\0\x05\x11\0\0\x0e\x10\0\x02ab");
        out.clear();
        let auth = AuthData { method: "M", data: b"xy".to_vec() };
        let exchange = Connect { auth: Some(&auth), ..connect(Version::V5, 0, Session::Fresh(1)) };
        put_connect(&mut out, &exchange);
        let properties = b"\x0e\x11\0\0\0\x01\x15\0\x01M\x16\0\x02xy";
        assert_eq!(out, [&b"\x10\x1d\0\x04MQTT\x05\x02\0\0"[..], properties, b"\0\x02ab"].concat());
        out.clear();
        put_auth(&mut out, &auth);
        assert_eq!(out, b"\xf0\x0b\x18\x09\x15\0\x01M\x16\0\x02xy");
        assert_eq!(auth_data_of(&split(&out).unwrap().unwrap()), Ok(&b"xy"[..]));
        assert_eq!(auth_data_of(&split(b"\x20\x03\0\0\0").unwrap().unwrap()), Ok(&b""[..]));
        out.clear();
        let connect = Connect {
            username: Some("u"),
            password: Some("pw"),
            ..connect(Version::V31, 0, Session::Clean)
        };
        put_connect(&mut out, &connect);
        assert_eq!(out, b"\x10\x17\0\x06MQIsdp\x03\xc2\0\0\0\x02ab\0\x01u\0\x02pw");
        out.clear();
        put_subscribe(&mut out, Version::V5, 1, &[("a/+".into(), 1), ("b".into(), 2)]);
        assert_eq!(out, b"\x82\x0d\0\x01\0\0\x03a/+\x01\0\x01b\x02");
    }

    #[test]
    fn refusals_are_seen() {
        let suback = [0x90, 3, 0, 1, 0x80];
        let packet = split(&suback).unwrap().unwrap();
        assert_eq!(ack_of(Version::V311, &packet), Ok((1, true)));
        for (suback, refused) in [
            (&[0x90, 4, 0, 1, 0x87, 0][..], true),
            (&[0x90, 4, 0, 1, 0, 1], false),
            (&[0x90, 2, 0, 1], true),
        ] {
            let packet = split(suback).unwrap().unwrap();
            assert_eq!(ack_of(Version::V311, &packet), Ok((1, refused)));
        }
        for (suback, refused) in
            [(&[0x90, 5, 0, 1, 0, 2, 0x87][..], true), (&[0x90, 5, 0, 1, 0, 2, 0], false)]
        {
            let packet = split(suback).unwrap().unwrap();
            assert_eq!(ack_of(Version::V5, &packet), Ok((1, refused)));
        }
        let puback = [0x40, 3, 0, 9, 0x87];
        let packet = split(&puback).unwrap().unwrap();
        assert_eq!(ack_of(Version::V5, &packet), Ok((9, true)));
        let plain = [0x40, 2, 0, 9];
        let packet = split(&plain).unwrap().unwrap();
        assert_eq!(ack_of(Version::V5, &packet), Ok((9, false)));
    }

    #[test]
    fn a_connack_says_how_much_the_broker_takes() {
        // Server Keep Alive, a user property, Receive Maximum, Topic Alias Maximum.
        let properties = b"\x13\0\x3c\x26\0\x01k\0\x02vv\x21\0\x14\x22\0\x0a";
        let mut bytes = vec![0x20, 3 + properties.len() as u8, 1, 0, properties.len() as u8];
        bytes.extend_from_slice(properties);
        let packet = split(&bytes).unwrap().unwrap();
        let connack = Connack { code: 0, session_present: true, receive_maximum: 20 };
        assert_eq!(connack_of(Version::V5, &packet), Ok(connack));
        let refusal = split(&[0x20, 2, 0, 1]).unwrap().unwrap();
        assert_eq!(connack_of(Version::V5, &refusal).map(|c| c.code), Ok(1));
        for body in [&[][..], &[0], &[0, 0, 9, 1], &[0, 0, 1, 0x7f], &[0, 0, 2, 0x26, 0]] {
            let packet = Packet { first: 0x20, body, total: body.len() + 2 };
            assert_eq!(connack_of(Version::V5, &packet), Err(Malformed), "{body:?}");
        }
    }

    #[test]
    fn nonsense_is_malformed_and_never_panics() {
        assert_eq!(split(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(Malformed));
        for body in [&[][..], &[0], &[0, 9, 1], &[0, 1, b'a'], &[0, 1, b'a', 0, 0]] {
            let packet = Packet { first: 0x32, body, total: body.len() + 2 };
            assert!(publish_of(Version::V311, &packet).is_err());
            assert!(publish_of(Version::V5, &packet).is_err());
        }
    }
}
