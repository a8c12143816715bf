//! encode∘decode = identity, for every packet and version.

use super::super::properties::{
    CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, PAYLOAD_FORMAT, RESPONSE_TOPIC,
    SUBSCRIPTION_ID, TOPIC_ALIAS, WILL_DELAY, put_binary_property, put_text_property,
    put_u8_property, put_u16_property, put_u32_property, put_varint_property,
};
use super::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

type Bytes = Vec<u8>;
type User = Vec<(String, String)>;

/// Decodes, compares, encodes again, compares again, and returns the bytes.
fn identical(version: Version, packet: Packet) -> Bytes {
    let bytes = encode_any(version, &packet);
    let decoded = decode(version, &bytes)
        .unwrap_or_else(|violation| panic!("{packet:?} as {bytes:?}: {violation:?}"));
    assert_eq!(decoded, packet);
    assert_eq!(encode_any(version, &decoded), bytes);
    let framed = frame(&bytes, MAX_PACKET_SIZE);
    assert!(matches!(framed, Ok(Framing::Complete { total, .. }) if total == bytes.len()));
    bytes
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{0,8}",
        2 => "\\PC{0,12}",
        1 => "[a-z]{120,200}",
    ]
}

fn topic() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z$/]{1,20}", "[^\\x00+#]{1,12}", "[a-z/]{125,140}"]
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 100..400)]
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![3 => Just(Vec::new()), 2 => vec((text(), text()), 1..4)]
}

fn encoded_user(version: Version, user: &User) -> Bytes {
    let mut raw = Vec::new();
    if version.is_v5() {
        for (name, value) in user {
            append_user_property(&mut raw, name, value).unwrap();
        }
    }
    raw
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|value| PacketId::new(value).unwrap())
}

fn qos() -> impl Strategy<Value = Qos> {
    prop::sample::select(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][..])
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(&[V31, V311, V5, V5][..])
}

/// Removes a value in version 3, because only version 5 has it.
fn v5<T>(version: Version, value: Option<T>) -> Option<T> {
    value.filter(|_| version.is_v5())
}

/// The fields of a message that come from its publisher.
#[derive(Clone, Debug)]
struct Fields {
    payload_format: Option<u8>,
    message_expiry: Option<u32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Bytes>,
    user: User,
}

impl Fields {
    fn put(&self, out: &mut Bytes, expiry: bool) {
        put_u8_property(out, PAYLOAD_FORMAT, self.payload_format);
        put_u32_property(out, MESSAGE_EXPIRY, self.message_expiry.filter(|_| expiry));
        put_text_property(out, CONTENT_TYPE, self.content_type.as_deref()).unwrap();
        put_text_property(out, RESPONSE_TOPIC, self.response_topic.as_deref()).unwrap();
        put_binary_property(out, CORRELATION_DATA, self.correlation_data.as_deref()).unwrap();
        out.extend_from_slice(&encoded_user(V5, &self.user));
    }

    fn compare(&self, p: &PublishProperties) {
        assert_eq!(p.payload_format, self.payload_format);
        assert_eq!(p.message_expiry, self.message_expiry);
        assert_eq!(p.content_type, self.content_type.as_deref());
        assert_eq!(p.response_topic, self.response_topic.as_deref());
        assert_eq!(p.correlation_data, self.correlation_data.as_deref());
        assert!(p.user.iter().eq(self.user.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    (of(0..=1u8), of(any::<u32>()), of(text()), of(topic()), of(binary()), user()).prop_map(
        |(payload_format, message_expiry, content_type, response_topic, correlation_data, user)| {
            Fields {
                payload_format,
                message_expiry,
                content_type,
                response_topic,
                correlation_data,
                user,
            }
        },
    )
}

/// A payload that matches the Payload Format Indicator.
fn payload(format: Option<u8>, bytes: Bytes) -> Bytes {
    if format == Some(1) { String::from_utf8_lossy(&bytes).into_owned().into() } else { bytes }
}

fn publish() -> impl Strategy<Value = (Version, Bytes)> {
    let ids = vec(1..=268_435_455u32, 0..4);
    let flags = (version(), qos(), any::<bool>(), any::<bool>(), any::<bool>());
    (flags, packet_id(), topic(), fields(), of(1..=u16::MAX), ids, binary()).prop_map(
        |((version, qos, dup, retain, empty), id, topic, fields, alias, ids, bytes)| {
            let mut raw = Vec::new();
            if version.is_v5() {
                put_u32_property(&mut raw, MESSAGE_EXPIRY, fields.message_expiry);
                put_u16_property(&mut raw, TOPIC_ALIAS, alias);
                ids.iter().for_each(|id| {
                    put_varint_property(&mut raw, SUBSCRIPTION_ID, *id).unwrap();
                });
                fields.put(&mut raw, false);
            }
            let properties = PublishProperties::parse(&raw).unwrap();
            if version.is_v5() {
                fields.compare(&properties);
                assert_eq!(properties.topic_alias, alias);
                assert!(properties.subscription_ids.iter().eq(ids.iter().copied()));
            }
            let empty = empty && version.is_v5() && alias.is_some();
            let packet = Packet::Publish(Publish {
                dup: dup && qos != Qos::AtMostOnce,
                qos,
                retain,
                topic: if empty { "" } else { &topic },
                id: Some(id).filter(|_| qos != Qos::AtMostOnce),
                properties,
                payload: &payload(properties.payload_format, bytes),
            });
            (version, identical(version, packet))
        },
    )
}

#[derive(Clone, Debug)]
struct OwnedWill {
    topic: String,
    payload: Bytes,
    qos: Qos,
    retain: bool,
    delay: u32,
    fields: Fields,
}

fn will() -> impl Strategy<Value = OwnedWill> {
    (topic(), binary(), qos(), any::<bool>(), prop_oneof![Just(0), any::<u32>()], fields())
        .prop_map(|(topic, payload, qos, retain, delay, fields)| OwnedWill {
            topic,
            payload,
            qos,
            retain,
            delay,
            fields,
        })
}

fn connect() -> impl Strategy<Value = (Version, Bytes)> {
    let limits = (of(any::<u32>()), of(1..=u16::MAX), of(1..=u32::MAX), of(any::<u16>()));
    let asks = (any::<bool>(), any::<bool>(), of((text(), of(binary()))), user());
    let flags = (version(), any::<bool>(), any::<bool>(), any::<u16>());
    let who = (text(), of((text(), of(binary()))));
    (flags, who, of(will()), limits, asks).prop_map(
        |((version, clean_start, bridge, keep_alive), (client_id, login), will, limits, asks)| {
            let raw_user = encoded_user(V5, &asks.3);
            let mut properties = ConnectProperties::default();
            if version.is_v5() {
                properties = ConnectProperties {
                    session_expiry: limits.0,
                    receive_maximum: limits.1,
                    maximum_packet_size: limits.2,
                    topic_alias_maximum: limits.3,
                    request_response_information: asks.0,
                    request_problem_information: asks.1,
                    authentication_method: asks.2.as_ref().map(|(method, _)| method.as_str()),
                    authentication_data: asks.2.as_ref().and_then(|(_, data)| data.as_deref()),
                    user: UserProperties::parse(&raw_user).unwrap(),
                };
            }
            let mut raw = Vec::new();
            if let Some(will) = will.as_ref().filter(|_| version.is_v5()) {
                put_u32_property(&mut raw, WILL_DELAY, Some(will.delay).filter(|d| *d != 0));
                will.fields.put(&mut raw, true);
            }
            let (will_properties, delay) = PublishProperties::parse_will(&raw).unwrap();
            let will_payload = will
                .as_ref()
                .map(|will| payload(will_properties.payload_format, will.payload.clone()));
            if let Some(will) = will.as_ref().filter(|_| version.is_v5()) {
                will.fields.compare(&will_properties);
                assert_eq!(delay, will.delay);
            }
            let packet = Packet::Connect(Connect {
                version,
                clean_start,
                keep_alive,
                client_id: &client_id,
                username: login.as_ref().map(|(name, _)| name.as_str()),
                password: login.as_ref().and_then(|(_, password)| password.as_deref()),
                will: will.as_ref().zip(will_payload.as_deref()).map(|(will, payload)| Will {
                    topic: &will.topic,
                    payload,
                    qos: will.qos,
                    retain: will.retain,
                    delay,
                    properties: will_properties,
                }),
                bridge: bridge && !version.is_v5(),
                properties,
            });
            (version, identical(version, packet))
        },
    )
}

fn connack() -> impl Strategy<Value = (Version, Bytes)> {
    let numbers = (of(any::<u32>()), of(1..=u16::MAX), of(0..=1u8), of(1..=u32::MAX));
    let more = (of(any::<u16>()), of(any::<u16>()));
    let bools = prop::array::uniform4(of(any::<bool>()));
    let texts = prop::array::uniform5(of(text()));
    let codes = prop::sample::select(&[0u8, 0x80, 0x84, 0x85, 0x86, 0x87, 0x88][..]);
    (version(), codes, any::<bool>(), numbers, more, bools, texts, of(binary()), user()).prop_map(
        |(version, code, present, numbers, more, bools, texts, data, user)| {
            let raw_user = encoded_user(version, &user);
            let mut properties = ConnAckProperties::default();
            if version.is_v5() {
                properties = ConnAckProperties {
                    session_expiry: numbers.0,
                    receive_maximum: numbers.1,
                    maximum_qos: numbers.2.and_then(Qos::from_u8),
                    retain_available: bools[0],
                    maximum_packet_size: numbers.3,
                    assigned_client_id: texts[0].as_deref(),
                    topic_alias_maximum: more.0,
                    reason_string: texts[1].as_deref(),
                    wildcard_subscription_available: bools[1],
                    subscription_identifiers_available: bools[2],
                    shared_subscription_available: bools[3],
                    server_keep_alive: more.1,
                    response_information: texts[2].as_deref(),
                    server_reference: texts[3].as_deref(),
                    authentication_method: texts[4].as_deref(),
                    authentication_data: data.as_deref(),
                    user: UserProperties::parse(&raw_user).unwrap(),
                };
            }
            let mut reason = ReasonCode::from_u8(code).unwrap();
            if !version.is_v5() {
                let v3 = reason.connect_return_code_v3();
                reason = ReasonCode::from_connect_return_code_v3(v3).unwrap();
            }
            let session_present = present && reason == ReasonCode::Success && version != V31;
            let packet = Packet::ConnAck(ConnAck { session_present, reason, properties });
            (version, identical(version, packet))
        },
    )
}

fn ack() -> impl Strategy<Value = (Version, Bytes)> {
    let codes = prop::sample::select(&[0u8, 0, 0x10, 0x80, 0x87, 0x97, 0x99][..]);
    (version(), 0..4usize, packet_id(), codes, of(text()), user()).prop_map(
        |(version, kind, id, code, reason_string, user)| {
            let raw = encoded_user(version, &user);
            let code = match kind {
                0 | 1 => code,
                _ if code == 0 => 0,
                _ => 0x92,
            };
            let ack = Ack {
                id,
                reason: ReasonCode::from_u8(if version.is_v5() { code } else { 0 }).unwrap(),
                reason_string: v5(version, reason_string.as_deref()),
                user: UserProperties::parse(&raw).unwrap(),
            };
            let packet = match kind {
                0 => Packet::PubAck(ack),
                1 => Packet::PubRec(ack),
                2 => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            };
            (version, identical(version, packet))
        },
    )
}

fn options() -> impl Strategy<Value = SubscribeOptions> {
    use RetainHandling::{DoNotSend, Send, SendIfNew};
    let handling = prop::sample::select(&[Send, SendIfNew, DoNotSend][..]);
    (qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        |(qos, no_local, retain_as_published, retain_handling)| SubscribeOptions {
            qos,
            no_local,
            retain_as_published,
            retain_handling,
        },
    )
}

fn filter() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/+#]{1,12}", "\\$share/[a-z]{1,3}/[a-z+]{1,5}", "[^\\x00]{1,6}"]
}

fn subscribe() -> impl Strategy<Value = (Version, Bytes)> {
    let entries = vec((filter(), options()), 1..6);
    (version(), packet_id(), of(1..=268_435_455u32), user(), entries).prop_map(
        |(version, id, subscription_id, user, entries)| {
            let raw_user = encoded_user(version, &user);
            let mut raw = Vec::new();
            for (filter, options) in &entries {
                let no_local = options.no_local && !filter.starts_with("$share/");
                let options = SubscribeOptions { no_local, ..*options };
                SubscribeFilter { filter, options }.write(version, &mut raw).unwrap();
            }
            let filters = SubscribeFilters::parse(version, &raw).unwrap();
            assert_eq!(filters.len(), entries.len());
            let texts = filters.iter().map(|entry| entry.filter);
            assert!(texts.eq(entries.iter().map(|(filter, _)| filter.as_str())));
            let packet = Packet::Subscribe(Subscribe {
                id,
                subscription_id: v5(version, subscription_id),
                user: UserProperties::parse(&raw_user).unwrap(),
                filters,
            });
            (version, identical(version, packet))
        },
    )
}

fn unsubscribe() -> impl Strategy<Value = (Version, Bytes)> {
    (version(), packet_id(), user(), vec(filter(), 1..6)).prop_map(|(version, id, user, texts)| {
        let raw_user = encoded_user(version, &user);
        let mut raw = Vec::new();
        texts.iter().for_each(|filter| UnsubscribeFilters::write(filter, &mut raw).unwrap());
        let filters = UnsubscribeFilters::parse(&raw).unwrap();
        assert!(filters.iter().eq(texts.iter().map(String::as_str)));
        let user = UserProperties::parse(&raw_user).unwrap();
        let packet = Packet::Unsubscribe(Unsubscribe { id, user, filters });
        (version, identical(version, packet))
    })
}

fn suback_or_unsuback() -> impl Strategy<Value = (Version, Bytes)> {
    let codes = vec(prop::sample::select(&[0u8, 1, 2, 0x80, 0x87, 0x8F, 0x97][..]), 1..200);
    (version(), any::<bool>(), packet_id(), codes, of(text()), user()).prop_map(
        |(version, subscribe, id, mut codes, reason_string, user)| {
            let raw_user = encoded_user(version, &user);
            let reason_string = v5(version, reason_string.as_deref());
            let user = UserProperties::parse(&raw_user).unwrap();
            let packet = if subscribe {
                if !version.is_v5() {
                    codes.iter_mut().for_each(|code| *code = (*code).min(0x80));
                }
                Packet::SubAck(SubAck { id, codes: &codes, reason_string, user })
            } else {
                let known = |code: u8| if code & 3 == 0 || code == 0x87 { code } else { 0x11 };
                codes.iter_mut().for_each(|code| *code = known(*code));
                let codes = if version.is_v5() { &codes[..] } else { &[] };
                Packet::UnsubAck(UnsubAck { id, codes, reason_string, user })
            };
            (version, identical(version, packet))
        },
    )
}

fn disconnect() -> impl Strategy<Value = (Version, Bytes)> {
    let codes = prop::sample::select(&[0u8, 0, 4, 0x81, 0x8E, 0xA2][..]);
    (version(), codes, of(any::<u32>()), of(text()), of(text()), user()).prop_map(
        |(version, code, session_expiry, reason_string, server_reference, user)| {
            let raw = encoded_user(version, &user);
            let packet = Packet::Disconnect(Disconnect {
                reason: ReasonCode::from_u8(if version.is_v5() { code } else { 0 }).unwrap(),
                session_expiry: v5(version, session_expiry),
                reason_string: v5(version, reason_string.as_deref()),
                server_reference: v5(version, server_reference.as_deref()),
                user: UserProperties::parse(&raw).unwrap(),
            });
            (version, identical(version, packet))
        },
    )
}

fn auth() -> impl Strategy<Value = (Version, Bytes)> {
    let codes = prop::sample::select(&[0u8, 0x18, 0x19][..]);
    (codes, text(), of(binary()), of(text()), user()).prop_map(
        |(code, method, data, reason_string, user)| {
            let raw = encoded_user(V5, &user);
            let packet = Packet::Auth(Auth {
                reason: ReasonCode::from_u8(code).unwrap(),
                method: Some(&method),
                data: data.as_deref(),
                reason_string: reason_string.as_deref(),
                user: UserProperties::parse(&raw).unwrap(),
            });
            (V5, identical(V5, packet))
        },
    )
}

/// Any valid packet, encoded. The strategies assert the identity while they build it.
pub(super) fn any_packet() -> impl Strategy<Value = (Version, Bytes)> {
    prop_oneof![
        2 => publish(),
        2 => connect(),
        1 => connack(),
        1 => ack(),
        1 => subscribe(),
        1 => unsubscribe(),
        1 => suback_or_unsuback(),
        1 => disconnect(),
        1 => auth(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    // The strategies assert the identity while they build their packets.
    #[test] fn a_publish_comes_back_as_it_was(_ in publish()) {}
    #[test] fn a_connect_comes_back_as_it_was(_ in connect()) {}
    #[test] fn a_connack_comes_back_as_it_was(_ in connack()) {}
    #[test] fn an_acknowledgement_comes_back_as_it_was(_ in ack()) {}
    #[test] fn a_subscribe_comes_back_as_it_was(_ in subscribe()) {}
    #[test] fn an_unsubscribe_comes_back_as_it_was(_ in unsubscribe()) {}
    #[test] fn a_suback_comes_back_as_it_was(_ in suback_or_unsuback()) {}
    #[test] fn a_disconnect_comes_back_as_it_was(_ in disconnect()) {}
    #[test] fn an_auth_comes_back_as_it_was(_ in auth()) {}
}
