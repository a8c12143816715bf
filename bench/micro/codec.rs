//! The time that the codec takes for the packets of the hot path.

use ringmq::packet::{
    AckKind, Framing, OutPublish, Packet, PacketId, Publish, Qos, Version, decode, encode_ack,
    encode_publish, frame,
};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 10_000;
/// Bytes of the longest accepted packet.
const LARGEST: u32 = 1 << 20;

/// Prints the nanoseconds per call of `work` in the best of many runs. Each run is shorter than a
/// time slice, so that other load on the machine does not disturb the best one.
fn measure(name: &str, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..1000 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("  {name}: {best:.1} ns");
}

fn echo(version: Version, bytes: &[u8], out: &mut Vec<u8>) {
    let Ok(Framing::Complete { total, .. }) = frame(bytes, LARGEST as _) else { panic!("whole") };
    let Ok(Packet::Publish(p)) = decode(version, &bytes[..total]) else { panic!("a PUBLISH") };
    out.clear();
    let publish = OutPublish {
        dup: false,
        qos: p.qos,
        retain: false,
        topic: p.topic,
        id: p.id,
        message_expiry: None,
        topic_alias: None,
        subscription_ids: &[],
        forwarded: p.properties.raw,
        payload: p.payload,
    };
    encode_publish(out, version, &publish).expect("it came in this size");
}

pub fn run() {
    let mut out = Vec::with_capacity(4096);
    println!("  a packet takes {} bytes, a PUBLISH {}", size_of::<Packet>(), size_of::<Publish>());
    for version in [Version::V311, Version::V5] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            let mut bytes = Vec::new();
            let publish = OutPublish {
                dup: false,
                qos,
                retain: false,
                topic: "fleet/vehicle/0001/speed",
                id: PacketId::new(7).filter(|_| qos != Qos::AtMostOnce),
                message_expiry: None,
                topic_alias: None,
                subscription_ids: &[],
                forwarded: &[],
                payload: &[b'x'; 64],
            };
            encode_publish(&mut bytes, version, &publish).expect("it is small");
            let name = format!("{version:?} {qos:?} frame + decode + encode");
            measure(&name, || echo(version, black_box(&bytes), black_box(&mut out)));
            measure("  frame + decode alone", || {
                let bytes = black_box(&bytes[..]);
                black_box(frame(bytes, LARGEST as _)).expect("it is well formed");
                black_box(decode(version, bytes)).expect("it is well formed");
            });
        }
    }
    measure("PUBACK frame + decode + encode", || {
        let bytes = black_box(&[0x40, 2, 0, 9][..]);
        let Ok(Framing::Complete { total, .. }) = frame(bytes, LARGEST as _) else {
            panic!("whole")
        };
        let Ok(Packet::PubAck(ack)) = decode(Version::V5, &bytes[..total]) else {
            panic!("a PUBACK")
        };
        out.clear();
        encode_ack(&mut out, Version::V5, AckKind::PubAck, &ack).expect("it is small");
    });
}
