//! Sheds messages of a client that does not keep up: those of QoS 0 that have waited longest in the
//! client's output and that the kernel does not have yet. Everything else in the output stays, in
//! its order.
//!
//! Not shed are QoS 1 and 2, acknowledgements and other answers, and messages with RETAIN set,
//! among which are the replays that a subscription asked for.

use super::output::{Output, OutputPool};
use crate::outgoing::Segment;
use std::collections::VecDeque;

/// Parts of a PUBLISH's first byte: the packet type, its mask, and the bits of QoS 1, QoS 2 and
/// RETAIN.
const PUBLISH: u8 = 0x30;
const KIND: u8 = 0xF0;
const KEPT: u8 = 0x07;

/// What was shed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Shed {
    pub messages: u64,
    /// Bytes of these messages.
    pub bytes: usize,
    /// Bytes that were looked at.
    pub seen: usize,
}

impl Output {
    /// Takes out the oldest messages of QoS 0 that are in no send yet, until `wanted` bytes are out
    /// or no such message is left. None of the connection's packets may have a topic alias, since a
    /// later packet may need the alias that a removed one has set.
    pub(super) fn shed_oldest(&mut self, pool: &mut OutputPool, wanted: usize) -> Shed {
        let mut shed = Shed::default();
        let mut kept = VecDeque::new();
        while shed.bytes < wanted {
            let Some(segment) = self.sealed.pop_front() else { break };
            let Segment::Bytes(mut bytes) = segment else {
                // The payload of a packet that stays, or of one whose head is being sent.
                kept.push_back(segment);
                continue;
            };
            let payload = cut(&mut bytes, wanted, &mut shed);
            match self.sealed.pop_front() {
                Some(Segment::Shared(message, range)) if payload => {
                    shed.bytes += range.len();
                    pool.put_segment(Segment::Shared(message, range));
                }
                Some(other) => self.sealed.push_front(other),
                None => {}
            }
            if bytes.is_empty() {
                pool.put(bytes);
            } else {
                kept.push_back(Segment::Bytes(bytes));
            }
        }
        if shed.bytes < wanted {
            cut(&mut self.tail, wanted, &mut shed);
        }
        while let Some(segment) = kept.pop_back() {
            self.sealed.push_front(segment);
        }
        self.note_shed(shed.bytes);
        shed
    }
}

/// Takes messages out of `bytes`, which are whole packets except that the payload of the last may
/// be elsewhere. True when that payload belongs to a message that was taken out.
fn cut(bytes: &mut Vec<u8>, wanted: usize, shed: &mut Shed) -> bool {
    let (mut from, mut to, mut payload) = (0, 0, false);
    while shed.bytes < wanted {
        let Some(rest) = bytes.get(from..).filter(|rest| !rest.is_empty()) else { break };
        let (length, kind) = (length_of(rest), rest.first().copied().unwrap_or_default());
        let here = length.min(rest.len());
        if kind & KIND == PUBLISH && kind & KEPT == 0 {
            shed.messages += 1;
            shed.bytes += here;
            payload = length > here;
        } else {
            bytes.copy_within(from..from + here, to);
            to += here;
        }
        from += here;
    }
    shed.seen += from;
    bytes.copy_within(from.., to);
    bytes.truncate(bytes.len() - (from - to));
    payload
}

/// The length of the packet at the start of `bytes`, including a payload that is elsewhere.
fn length_of(bytes: &[u8]) -> usize {
    let (mut length, mut head) = (0, 1);
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        head += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    head + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, MessageRef};
    use crate::outgoing::Outgoing;
    use crate::packet::{self, OutPublish, PacketId, Qos, Version};
    use crate::time::Instant;
    use proptest::prelude::*;

    /// A message of the test: QoS and RETAIN, and whether its payload is shared.
    #[derive(Clone, Copy, Debug)]
    struct Put {
        qos: u8,
        retain: bool,
        size: usize,
        shared: bool,
    }

    fn put() -> impl Strategy<Value = Put> {
        (0..3u8, any::<bool>(), 0..6000usize, any::<bool>())
            .prop_map(|(qos, retain, size, shared)| Put { qos, retain, size, shared })
    }

    fn encode(put: Put, number: u32, payload: &[u8], head: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let publish = OutPublish {
            dup: false,
            qos: Qos::from_u8(put.qos).unwrap(),
            retain: put.retain,
            topic: "t",
            id: PacketId::new(number as u16 + 1).filter(|_| put.qos > 0),
            message_expiry: None,
            topic_alias: None,
            subscription_ids: &[],
            forwarded: &[],
            payload,
        };
        match head {
            true => packet::encode_publish_head(&mut out, Version::V311, &publish).unwrap(),
            false => packet::encode_publish(&mut out, Version::V311, &publish).unwrap(),
        }
        out
    }

    fn append(output: &mut Output, pool: &mut OutputPool, put: Put, number: u32) -> Vec<u8> {
        let payload = vec![number as u8; put.size];
        let whole = encode(put, number, &payload, false);
        if !put.shared || put.size == 0 {
            output.append(pool, |out| out.extend_from_slice(&whole));
            return whole;
        }
        let head = encode(put, number, &payload, true);
        output.append(pool, |out| out.extend_from_slice(&head));
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload: &payload,
            qos: Qos::AtMostOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        let message = Message::new(&message, &mut Vec::new());
        let range = message.payload_range();
        output.append_shared(pool, message, range);
        whole
    }

    fn send(output: &mut Output, pool: &mut OutputPool) -> Vec<u8> {
        let mut sent = Vec::new();
        let Some(outgoing) = output.next_send(Instant(1)) else { return sent };
        outgoing.pieces(|piece| sent.extend_from_slice(piece));
        pool.recycle(outgoing);
        output.sent(Instant(1));
        sent
    }

    proptest! {
        #[test]
        fn the_oldest_of_qos_0_go_and_everything_else_stays_in_order(
            before in prop::collection::vec(put(), 0..4),
            puts in prop::collection::vec(put(), 0..40),
            wanted in 0..60_000usize,
        ) {
            let (mut output, mut pool) = (Output::default(), OutputPool::default());
            let mut gone = Vec::new();
            for (number, &put) in before.iter().enumerate() {
                gone.extend(append(&mut output, &mut pool, put, number as u32));
            }
            let in_flight: Option<Outgoing> = output.next_send(Instant(1));
            let packets: Vec<(Put, Vec<u8>)> = puts
                .iter()
                .enumerate()
                .map(|(at, &put)| (put, append(&mut output, &mut pool, put, 10 + at as u32)))
                .collect();
            let unsent = output.unsent();
            let shed = output.shed_oldest(&mut pool, wanted);
            let (mut expected, mut taken, mut messages) = (Vec::new(), 0, 0);
            for (put, packet) in packets {
                if put.qos == 0 && !put.retain && taken < wanted {
                    taken += packet.len();
                    messages += 1;
                } else {
                    expected.extend(packet);
                }
            }
            prop_assert_eq!((shed.messages, shed.bytes), (messages, taken));
            prop_assert_eq!(output.unsent(), unsent - taken);
            let mut sent = Vec::new();
            if let Some(outgoing) = in_flight {
                outgoing.pieces(|piece| sent.extend_from_slice(piece));
                pool.recycle(outgoing);
                output.sent(Instant(1));
            }
            while output.has_queued() {
                sent.extend(send(&mut output, &mut pool));
            }
            gone.extend(expected);
            prop_assert!(sent == gone, "what is sent: {} of {}", sent.len(), gone.len());
            output.reset(&mut pool);
            prop_assert_eq!(pool.held(), 0);
        }
    }
}
