//! How long the hot path takes. Run by hand, in release:
//! `cargo test --release --no-default-features --lib packet::tests::speed -- --ignored --nocapture`

use super::*;
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: u32 = 10_000;

/// Nanoseconds per call: the best of many runs, each shorter than a time slice, so that other load
/// on the machine does not count.
fn measure(name: &str, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..1000 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    println!("{name}: {best:.1} ns");
}

fn echo(version: Version, bytes: &[u8], out: &mut Vec<u8>) {
    let Ok(Framing::Complete { total, .. }) = frame(bytes, 1 << 20) else { panic!() };
    let Ok(Packet::Publish(p)) = decode(version, &bytes[..total]) else { panic!() };
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
    encode_publish(out, version, &publish).unwrap();
}

#[test]
#[ignore = "a measurement"]
fn a_small_publish_is_framed_decoded_and_encoded() {
    let mut out = Vec::with_capacity(4096);
    println!("a packet takes {} bytes, a PUBLISH {}", size_of::<Packet>(), size_of::<Publish>());
    for version in [V311, V5] {
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
            encode_publish(&mut bytes, version, &publish).unwrap();
            let name = format!("{version:?} {qos:?} frame + decode + encode");
            measure(&name, || echo(version, black_box(&bytes), black_box(&mut out)));
            measure("  frame + decode alone", || {
                let bytes = black_box(&bytes[..]);
                black_box(frame(bytes, 1 << 20)).unwrap();
                black_box(decode(version, bytes)).unwrap();
            });
        }
    }
    measure("PUBACK frame + decode + encode", || {
        let bytes = black_box(&[0x40, 2, 0, 9][..]);
        let Ok(Framing::Complete { total, .. }) = frame(bytes, 1 << 20) else { panic!() };
        let bytes = &bytes[..total];
        let Ok(Packet::PubAck(ack)) = decode(V5, bytes) else { panic!() };
        out.clear();
        encode_ack(&mut out, V5, AckKind::PubAck, &ack).unwrap();
    });
}
