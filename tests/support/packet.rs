//! Packets: what a client sends, and what a server may send, checked while it is read.

use super::wire::{Reader, Version, Writer};

/// The reason codes the tests name.
pub mod reason {
    pub const SUCCESS: u8 = 0x00;
    pub const WITH_WILL: u8 = 0x04;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub const UNSPECIFIED: u8 = 0x80;
    pub const MALFORMED: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
    pub const UNSUPPORTED_VERSION: u8 = 0x84;
    pub const CLIENT_ID_NOT_VALID: u8 = 0x85;
    pub const BAD_CREDENTIALS: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const SHUTTING_DOWN: u8 = 0x8b;
    pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8c;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8d;
    pub const TAKEN_OVER: u8 = 0x8e;
    pub const FILTER_INVALID: u8 = 0x8f;
    pub const TOPIC_NAME_INVALID: u8 = 0x90;
    pub const PACKET_ID_IN_USE: u8 = 0x91;
    pub const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
    pub const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
    pub const RETAIN_NOT_SUPPORTED: u8 = 0x9a;
    pub const QOS_NOT_SUPPORTED: u8 = 0x9b;
    pub const SHARED_NOT_SUPPORTED: u8 = 0x9e;
    pub const SUBSCRIPTION_IDS_NOT_SUPPORTED: u8 = 0xa1;
    pub const WILDCARDS_NOT_SUPPORTED: u8 = 0xa2;
}

/// A property of MQTT 5.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Property {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(String),
    ResponseTopic(String),
    CorrelationData(Vec<u8>),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AssignedClientId(String),
    ServerKeepAlive(u16),
    AuthenticationMethod(String),
    AuthenticationData(Vec<u8>),
    RequestProblemInformation(u8),
    WillDelay(u32),
    RequestResponseInformation(u8),
    ResponseInformation(String),
    ServerReference(String),
    ReasonString(String),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(u8),
    User(String, String),
    MaximumPacketSize(u32),
    WildcardAvailable(u8),
    SubscriptionIdsAvailable(u8),
    SharedAvailable(u8),
}

use Property as P;

/// A user property.
pub fn user(name: &str, value: &str) -> Property {
    P::User(name.into(), value.into())
}

impl Property {
    pub fn id(&self) -> u32 {
        match self {
            P::PayloadFormat(_) => 1,
            P::MessageExpiry(_) => 2,
            P::ContentType(_) => 3,
            P::ResponseTopic(_) => 8,
            P::CorrelationData(_) => 9,
            P::SubscriptionId(_) => 11,
            P::SessionExpiry(_) => 17,
            P::AssignedClientId(_) => 18,
            P::ServerKeepAlive(_) => 19,
            P::AuthenticationMethod(_) => 21,
            P::AuthenticationData(_) => 22,
            P::RequestProblemInformation(_) => 23,
            P::WillDelay(_) => 24,
            P::RequestResponseInformation(_) => 25,
            P::ResponseInformation(_) => 26,
            P::ServerReference(_) => 28,
            P::ReasonString(_) => 31,
            P::ReceiveMaximum(_) => 33,
            P::TopicAliasMaximum(_) => 34,
            P::TopicAlias(_) => 35,
            P::MaximumQos(_) => 36,
            P::RetainAvailable(_) => 37,
            P::User(..) => 38,
            P::MaximumPacketSize(_) => 39,
            P::WildcardAvailable(_) => 40,
            P::SubscriptionIdsAvailable(_) => 41,
            P::SharedAvailable(_) => 42,
        }
    }

    pub fn write(&self, out: Writer) -> Writer {
        let out = out.var(self.id());
        match self {
            P::PayloadFormat(v)
            | P::RequestProblemInformation(v)
            | P::RequestResponseInformation(v)
            | P::MaximumQos(v)
            | P::RetainAvailable(v)
            | P::WildcardAvailable(v)
            | P::SubscriptionIdsAvailable(v)
            | P::SharedAvailable(v) => out.u8(*v),
            P::ServerKeepAlive(v)
            | P::ReceiveMaximum(v)
            | P::TopicAliasMaximum(v)
            | P::TopicAlias(v) => out.u16(*v),
            P::MessageExpiry(v)
            | P::SessionExpiry(v)
            | P::WillDelay(v)
            | P::MaximumPacketSize(v) => out.u32(*v),
            P::SubscriptionId(v) => out.var(*v),
            P::CorrelationData(v) | P::AuthenticationData(v) => out.str(v),
            P::ContentType(v)
            | P::ResponseTopic(v)
            | P::AssignedClientId(v)
            | P::AuthenticationMethod(v)
            | P::ResponseInformation(v)
            | P::ServerReference(v)
            | P::ReasonString(v) => out.str(v),
            P::User(name, value) => out.str(name).str(value),
        }
    }

    fn read(from: &mut Reader<'_>) -> Property {
        match from.var() {
            1 => P::PayloadFormat(from.u8()),
            2 => P::MessageExpiry(from.u32()),
            3 => P::ContentType(from.str()),
            8 => P::ResponseTopic(from.str()),
            9 => P::CorrelationData(from.bin()),
            11 => P::SubscriptionId(from.var()),
            17 => P::SessionExpiry(from.u32()),
            18 => P::AssignedClientId(from.str()),
            19 => P::ServerKeepAlive(from.u16()),
            21 => P::AuthenticationMethod(from.str()),
            22 => P::AuthenticationData(from.bin()),
            26 => P::ResponseInformation(from.str()),
            28 => P::ServerReference(from.str()),
            31 => P::ReasonString(from.str()),
            33 => P::ReceiveMaximum(from.u16()),
            34 => P::TopicAliasMaximum(from.u16()),
            35 => P::TopicAlias(from.u16()),
            36 => P::MaximumQos(from.u8()),
            37 => P::RetainAvailable(from.u8()),
            38 => P::User(from.str(), from.str()),
            39 => P::MaximumPacketSize(from.u32()),
            40 => P::WildcardAvailable(from.u8()),
            41 => P::SubscriptionIdsAvailable(from.u8()),
            42 => P::SharedAvailable(from.u8()),
            id => panic!("the server sent property {id}, which no server may send"),
        }
    }
}

/// The property length and the properties.
pub fn properties(out: Writer, list: &[Property]) -> Writer {
    let encoded = list.iter().fold(Writer::new(), |out, property| property.write(out)).0;
    out.var(encoded.len() as u32).raw(encoded)
}

/// Reads properties and checks that the packet may carry them, and each but once.
fn read_properties(from: &mut Reader<'_>, allowed: &[u32]) -> Vec<Property> {
    let length = from.var() as usize;
    let mut list = Vec::new();
    let mut inner = Reader::new(from.take(length));
    while !inner.is_empty() {
        let property = Property::read(&mut inner);
        let id = property.id();
        assert!(allowed.contains(&id), "the server sent {property:?} in the wrong packet");
        let again = list.iter().any(|earlier: &Property| earlier.id() == id);
        assert!(!again || id == 38 || id == 11, "the server sent {property:?} twice");
        list.push(property);
    }
    list
}

/// A PUBLISH, sent or received.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub properties: Vec<Property>,
    pub payload: Vec<u8>,
}

impl Publish {
    pub fn new(topic: impl Into<String>, qos: u8, payload: impl AsRef<[u8]>) -> Publish {
        let payload = payload.as_ref().to_vec();
        Publish { topic: topic.into(), qos, payload, ..Publish::default() }
    }

    pub fn retain(self) -> Publish {
        Publish { retain: true, ..self }
    }

    pub fn dup(self) -> Publish {
        Publish { dup: true, ..self }
    }

    /// A packet identifier of the test's choice; otherwise the client picks the next one.
    pub fn id(self, id: u16) -> Publish {
        Publish { id, ..self }
    }

    pub fn with(mut self, property: Property) -> Publish {
        self.properties.push(property);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The properties but the ones a server adds or changes per subscriber.
    pub fn forwarded(&self) -> Vec<Property> {
        let added = |p: &&Property| !matches!(p, P::SubscriptionId(_) | P::TopicAlias(_));
        self.properties.iter().filter(added).cloned().collect()
    }

    pub fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .properties
            .iter()
            .filter_map(|p| if let P::SubscriptionId(id) = p { Some(*id) } else { None })
            .collect();
        ids.sort_unstable();
        ids
    }

    pub fn topic_alias(&self) -> Option<u16> {
        self.properties.iter().find_map(|p| if let P::TopicAlias(a) = p { Some(*a) } else { None })
    }

    pub fn message_expiry(&self) -> Option<u32> {
        let find = |p: &Property| if let P::MessageExpiry(s) = p { Some(*s) } else { None };
        self.properties.iter().find_map(find)
    }

    pub fn encode(&self, version: Version) -> Vec<u8> {
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut out = Writer::new().str(&self.topic);
        if self.qos > 0 {
            out = out.u16(self.id);
        }
        if version.is_v5() {
            out = properties(out, &self.properties);
        }
        out.raw(&self.payload).packet(0x30 | flags)
    }

    fn decode(version: Version, flags: u8, mut from: Reader<'_>) -> Publish {
        let qos = flags >> 1 & 3;
        assert!(qos < 3, "the server sent a PUBLISH with both QoS bits set");
        let dup = flags & 8 != 0;
        assert!(!(dup && qos == 0), "[MQTT-3.3.1-2] the server sent DUP with QoS 0");
        let topic = from.str();
        assert!(!topic.contains(['#', '+']), "the server sent a wildcard in a topic name");
        let id = if qos > 0 { from.u16() } else { 0 };
        assert!(qos == 0 || id != 0, "the server sent packet identifier 0");
        let mut properties = Vec::new();
        if version.is_v5() {
            properties = read_properties(&mut from, &[1, 2, 3, 8, 9, 11, 35, 38]);
        }
        let payload = from.rest().to_vec();
        let publish = Publish { dup, qos, retain: flags & 1 != 0, topic, id, properties, payload };
        assert!(publish.topic_alias() != Some(0), "the server sent topic alias 0");
        assert!(!publish.topic.is_empty() || publish.topic_alias().is_some());
        publish
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::enum_variant_names, reason = "these are the packets' names")]
pub enum AckKind {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ack {
    pub kind: AckKind,
    pub id: u16,
    pub reason: u8,
    pub properties: Vec<Property>,
}

impl Ack {
    pub fn new(kind: AckKind, id: u16) -> Ack {
        Ack { kind, id, reason: 0, properties: Vec::new() }
    }

    pub fn reason(self, reason: u8) -> Ack {
        Ack { reason, ..self }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new().u16(self.id);
        if self.reason != 0 || !self.properties.is_empty() {
            out = out.u8(self.reason);
        }
        if !self.properties.is_empty() {
            out = properties(out, &self.properties);
        }
        out.packet(self.kind as u8)
    }

    fn decode(version: Version, kind: AckKind, mut from: Reader<'_>) -> Ack {
        let mut ack = Ack::new(kind, from.u16());
        assert!(ack.id != 0, "the server acknowledged packet identifier 0");
        if !from.is_empty() {
            assert!(version.is_v5(), "the server sent a reason code to an MQTT 3 client");
            ack.reason = from.u8();
            let allowed: &[u8] = match kind {
                AckKind::PubAck | AckKind::PubRec => {
                    &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]
                }
                AckKind::PubRel | AckKind::PubComp => &[0, 0x92],
            };
            assert!(allowed.contains(&ack.reason), "{kind:?} with reason {:#x}", ack.reason);
            if !from.is_empty() {
                ack.properties = read_properties(&mut from, &[31, 38]);
            }
        }
        assert!(from.is_empty(), "bytes after the end of {kind:?}");
        ack
    }
}

/// A SUBSCRIBE to be sent.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    pub id: u16,
    pub properties: Vec<Property>,
    pub filters: Vec<(String, u8)>,
}

/// Subscription option bits.
pub const NO_LOCAL: u8 = 0x04;
pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
pub const RETAIN_IF_NEW: u8 = 0x10;
pub const RETAIN_NEVER: u8 = 0x20;

impl Subscribe {
    pub fn to(filter: impl Into<String>, options: u8) -> Subscribe {
        Subscribe::default().and(filter, options)
    }

    pub fn and(mut self, filter: impl Into<String>, options: u8) -> Subscribe {
        self.filters.push((filter.into(), options));
        self
    }

    pub fn with(mut self, property: Property) -> Subscribe {
        self.properties.push(property);
        self
    }

    /// With a Subscription Identifier.
    pub fn numbered(self, id: u32) -> Subscribe {
        self.with(P::SubscriptionId(id))
    }

    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut out = Writer::new().u16(self.id);
        if version.is_v5() {
            out = properties(out, &self.properties);
        }
        let add = |out: Writer, (filter, options): &(String, u8)| out.str(filter).u8(*options);
        self.filters.iter().fold(out, add).packet(0x82)
    }
}

pub fn encode_unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut out = Writer::new().u16(id);
    if version.is_v5() {
        out = properties(out, &[]);
    }
    filters.iter().fold(out, |out, filter| out.str(filter)).packet(0xa2)
}

pub fn encode_disconnect(reason: u8, list: &[Property]) -> Vec<u8> {
    properties(Writer::new().u8(reason), list).packet(0xe0)
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnAck {
    pub session_present: bool,
    /// The reason code, or for MQTT 3 the return code.
    pub code: u8,
    pub properties: Vec<Property>,
}

impl ConnAck {
    /// The value of the one property with this identifier.
    pub fn property(&self, id: u32) -> Option<&Property> {
        self.properties.iter().find(|property| property.id() == id)
    }
}

/// Whatever a server may send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    Ack(Ack),
    SubAck { id: u16, codes: Vec<u8>, properties: Vec<Property> },
    UnsubAck { id: u16, codes: Vec<u8>, properties: Vec<Property> },
    PingResp,
    Disconnect { reason: u8, properties: Vec<Property> },
    Auth { reason: u8, properties: Vec<Property> },
}

impl Packet {
    /// One whole packet from the start of `bytes` and its length, or nothing when it is incomplete.
    pub fn take(version: Version, bytes: &[u8]) -> Option<(Packet, usize)> {
        let mut length = 0usize;
        let mut header = 1;
        loop {
            let byte = *bytes.get(header)?;
            length |= usize::from(byte & 0x7f) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(header < 5, "the server sent a length of more than four bytes");
        }
        let body = bytes.get(header..header + length)?;
        Some((Packet::decode(version, bytes[0], body), header + length))
    }

    fn decode(version: Version, first: u8, body: &[u8]) -> Packet {
        let mut from = Reader::new(body);
        let flags = first & 0x0f;
        let expected = if first >> 4 == 6 { 2 } else { 0 };
        assert!(first >> 4 == 3 || flags == expected, "first byte {first:#x} from the server");
        let packet = match first >> 4 {
            2 => Packet::decode_connack(version, &mut from),
            3 => return Packet::Publish(Publish::decode(version, flags, from)),
            4 => return Packet::Ack(Ack::decode(version, AckKind::PubAck, from)),
            5 => return Packet::Ack(Ack::decode(version, AckKind::PubRec, from)),
            6 => return Packet::Ack(Ack::decode(version, AckKind::PubRel, from)),
            7 => return Packet::Ack(Ack::decode(version, AckKind::PubComp, from)),
            9 => {
                let (id, properties) = (from.u16(), acknowledged(version, &mut from));
                let codes = from.rest().to_vec();
                let known =
                    [0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2].as_slice();
                let allowed = if version.is_v5() { known } else { &known[..4] };
                assert!(codes.iter().all(|code| allowed.contains(code)), "SUBACK {codes:x?}");
                Packet::SubAck { id, codes, properties }
            }
            11 => {
                let (id, properties) = (from.u16(), acknowledged(version, &mut from));
                let codes = from.rest().to_vec();
                assert!(version.is_v5() || codes.is_empty(), "UNSUBACK with a payload");
                let known = [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
                assert!(codes.iter().all(|code| known.contains(code)), "UNSUBACK {codes:x?}");
                Packet::UnsubAck { id, codes, properties }
            }
            13 => Packet::PingResp,
            14 => {
                assert!(version.is_v5(), "the server sent DISCONNECT to an MQTT 3 client");
                let (reason, properties) = reason_and_properties(&mut from, &[28, 31, 38]);
                assert!(reason != 4, "[MQTT-3.14.2-1] the server disconnected with 0x04");
                Packet::Disconnect { reason, properties }
            }
            15 => {
                assert!(version.is_v5(), "the server sent AUTH to an MQTT 3 client");
                let (reason, properties) = reason_and_properties(&mut from, &[21, 22, 31, 38]);
                Packet::Auth { reason, properties }
            }
            kind => panic!("the server sent a packet of type {kind}"),
        };
        assert!(from.is_empty(), "bytes after the end of {packet:?}");
        packet
    }

    fn decode_connack(version: Version, from: &mut Reader<'_>) -> Packet {
        let flags = from.u8();
        assert!(flags & 0xfe == 0, "[MQTT-3.2.2-1] CONNACK flags {flags:#x}");
        let code = from.u8();
        let session_present = flags == 1;
        assert!(!session_present || code == 0, "[MQTT-3.2.2-6] session present with {code:#x}");
        assert!(version != Version::V31 || !session_present, "MQTT 3.1 knows no session present");
        let mut properties = Vec::new();
        if version.is_v5() {
            let allowed = [17, 33, 36, 37, 39, 18, 34, 31, 38, 40, 41, 42, 19, 26, 28, 21, 22];
            properties = read_properties(from, &allowed);
            for property in &properties {
                let valid = match property {
                    P::MaximumQos(v) => *v < 2,
                    P::RetainAvailable(v)
                    | P::WildcardAvailable(v)
                    | P::SubscriptionIdsAvailable(v)
                    | P::SharedAvailable(v) => *v < 2,
                    P::ReceiveMaximum(v) => *v > 0,
                    P::MaximumPacketSize(v) => *v > 0,
                    _ => true,
                };
                assert!(valid, "CONNACK with {property:?}");
            }
        } else {
            assert!(code < 6, "CONNACK with return code {code}");
        }
        Packet::ConnAck(ConnAck { session_present, code, properties })
    }
}

fn acknowledged(version: Version, from: &mut Reader<'_>) -> Vec<Property> {
    if version.is_v5() { read_properties(from, &[31, 38]) } else { Vec::new() }
}

fn reason_and_properties(from: &mut Reader<'_>, allowed: &[u32]) -> (u8, Vec<Property>) {
    let reason = if from.is_empty() { 0 } else { from.u8() };
    let list = if from.is_empty() { Vec::new() } else { read_properties(from, allowed) };
    (reason, list)
}
