//! Target `decode`: any bytes as a packet, as a packet's body and as a stream, in every version. No
//! panic; what is accepted says the same when it is encoded and decoded again; the pieces a stream
//! arrives in make no difference.

use crate::input::Input;
use ringmq::packet::{
    self, AckKind, Connect, Framing, MAX_PACKET_SIZE, OutPublish, Packet, ReasonCode, Version,
    decode, decode_connect, frame,
};

pub const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mode = input.byte();
    let version = VERSIONS[usize::from(mode % 3)];
    match mode / 3 % 3 {
        0 => body(version, input.rest()),
        1 => {
            let bytes = input.rest();
            VERSIONS.iter().for_each(|&version| survives(version, bytes));
        }
        _ => {
            let max = [16, 127, 300, MAX_PACKET_SIZE][input.below(4)];
            let steps = [input.byte(), input.byte(), input.byte()];
            stream(version, max, steps, input.rest());
        }
    }
}

/// The first byte and what follows the length, with the length put right, so that changes reach
/// the body.
fn body(version: Version, bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend_from_slice(body);
    survives(version, &packet);
}

fn survives(version: Version, bytes: &[u8]) {
    let framed = frame(bytes, MAX_PACKET_SIZE);
    match framed {
        Ok(Framing::Incomplete { needed }) => assert!(needed > bytes.len()),
        Ok(Framing::Complete { first, header, total }) => {
            assert!(first == bytes[0] && (2..=5).contains(&header));
            assert!(header <= total && total <= bytes.len());
        }
        Err(_) => {}
    }
    let connect = decode_connect(bytes);
    let Ok(decoded) = decode(version, bytes) else {
        if let Ok(connect) = connect {
            panic!("decode refuses what decode_connect accepts: {connect:?}");
        }
        return;
    };
    let whole = matches!(framed, Ok(Framing::Complete { total, .. }) if total == bytes.len());
    assert!(whole, "{decoded:?} is not what frame saw: {framed:?}");
    // The name and level in a CONNECT decide; anything else is of the version asked for.
    let version = if let Packet::Connect(connect) = decoded { connect.version } else { version };
    let once = encode(version, &decoded);
    let again = decode(version, &once)
        .unwrap_or_else(|violation| panic!("{decoded:?} became {once:?}: {violation:?}"));
    assert_eq!(meaning(decoded), meaning(again));
    assert_eq!(encode(version, &again), once, "encoding is settled after one round");
}

/// What two packets must agree in: everything but the order of a message's properties and how a
/// will delay of 0 was spelt.
fn meaning(mut packet: Packet<'_>) -> String {
    let mut delay = 1;
    match &mut packet {
        Packet::Publish(publish) => publish.properties.raw = &[],
        Packet::Connect(Connect { will: Some(will), .. }) => {
            delay = will.delay;
            will.properties.raw = &[];
        }
        _ => {}
    }
    let text = format!("{packet:?}");
    if delay == 0 { text.replace("will_delay: Some(0)", "will_delay: None") } else { text }
}

/// Encodes what was decoded.
pub fn encode(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Connect(p) => packet::encode_connect(&mut out, p).unwrap(),
        Packet::ConnAck(p) => packet::encode_connack(&mut out, version, p).unwrap(),
        Packet::Publish(p) => encode_publish(&mut out, version, p),
        Packet::PubAck(p) => packet::encode_ack(&mut out, version, AckKind::PubAck, p).unwrap(),
        Packet::PubRec(p) => packet::encode_ack(&mut out, version, AckKind::PubRec, p).unwrap(),
        Packet::PubRel(p) => packet::encode_ack(&mut out, version, AckKind::PubRel, p).unwrap(),
        Packet::PubComp(p) => packet::encode_ack(&mut out, version, AckKind::PubComp, p).unwrap(),
        Packet::Subscribe(p) => packet::encode_subscribe(&mut out, version, p).unwrap(),
        Packet::SubAck(p) => packet::encode_suback(&mut out, version, p).unwrap(),
        Packet::Unsubscribe(p) => packet::encode_unsubscribe(&mut out, version, p).unwrap(),
        Packet::UnsubAck(p) => packet::encode_unsuback(&mut out, version, p).unwrap(),
        Packet::PingReq => packet::encode_pingreq(&mut out),
        Packet::PingResp => packet::encode_pingresp(&mut out),
        Packet::Disconnect(p) => packet::encode_disconnect(&mut out, version, p).unwrap(),
        Packet::Auth(p) => packet::encode_auth(&mut out, p).unwrap(),
    }
    out
}

fn encode_publish(out: &mut Vec<u8>, version: Version, publish: &packet::Publish<'_>) {
    let ids: Vec<u32> = publish.properties.subscription_ids.iter().collect();
    let mut forwarded = Vec::new();
    publish.properties.write_forwardable(&mut forwarded);
    let publish = OutPublish {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        id: publish.id,
        message_expiry: publish.properties.message_expiry,
        topic_alias: publish.properties.topic_alias,
        subscription_ids: &ids,
        forwarded: &forwarded,
        payload: publish.payload,
    };
    packet::encode_publish(out, version, &publish).unwrap();
    assert_eq!(Ok(out.len()), packet::publish_size(version, &publish));
    let mut head = Vec::new();
    packet::encode_publish_head(&mut head, version, &publish).unwrap();
    assert_eq!([&head, publish.payload].concat(), *out);
}

/// What becomes of a stream: the packets' ends and verdicts, and what ended it.
type Outcome = (Vec<(usize, Result<u8, ReasonCode>)>, Option<ReasonCode>);

fn stream(version: Version, max: u32, steps: [u8; 3], bytes: &[u8]) {
    let whole = cut(version, max, bytes, &mut std::iter::once(bytes.len()));
    let sizes = steps.map(|step| 1 + usize::from(step) % 64);
    let pieces = cut(version, max, bytes, &mut sizes.into_iter().cycle());
    assert_eq!(whole, pieces, "the pieces a stream arrives in make a difference");
}

/// Cuts packets out of `bytes` as they arrive in pieces of `sizes`.
fn cut(
    version: Version,
    max: u32,
    bytes: &[u8],
    sizes: &mut dyn Iterator<Item = usize>,
) -> Outcome {
    let (mut packets, mut used, mut arrived, mut wanted) = (Vec::new(), 0, 0, 0);
    while arrived < bytes.len() {
        arrived = (arrived + sizes.next().expect("a size for every piece")).min(bytes.len());
        loop {
            match frame(&bytes[used..arrived], max) {
                Ok(Framing::Incomplete { needed }) => {
                    assert!(needed > arrived - used && needed <= max as usize + 5);
                    wanted = used + needed;
                    break;
                }
                Ok(Framing::Complete { total, .. }) => {
                    assert!(wanted <= used + total, "more was asked for than the packet has");
                    assert!(total <= max as usize);
                    let packet = &bytes[used..used + total];
                    used += total;
                    let verdict = decode(version, packet).map(|_| packet[0]);
                    packets.push((used, verdict.map_err(|violation| violation.reason)));
                }
                Err(violation) => return (packets, Some(violation.reason)),
            }
        }
    }
    (packets, None)
}
