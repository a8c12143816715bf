//! One PUBLISH to one connection: a packet that is encoded once for all subscribers of its kind,
//! topic aliases, shared payloads, and the counters of what was sent.

use super::Shard;
use super::connection::Connection;
use super::deliver::{Misfit, Outbound, is_slow, out_publish};
use super::pace::Receivers;
use super::spare::halve;
use crate::ids::SocketId;
use crate::limits::cost;
use crate::message::{Message, MessageRef};
use crate::mutant::Mutant;
use crate::packet::{self, AckKind, Encoded, OutPublish, PacketId, Qos, ReasonCode, Version};
use crate::session::Acknowledged;
use crate::topic::FilterId;

/// A payload larger than this, in bytes, is written from the shared message, not copied per
/// subscriber.
const COPY: usize = 16 * 1024;

/// Bytes of an encoded packet up to which its buffer is kept.
const KEPT: usize = 2 * COPY;

/// What the deliveries of one message to many clients share.
#[derive(Default)]
pub struct DeliveryScratch {
    /// The message in the form in which it can be kept, once it is needed in that form.
    pub stored: Option<Message>,
    /// Whether encoded packets are kept for the next subscriber.
    pub many: bool,
    /// To whom the message goes on this shard.
    pub receivers: Receivers,
    /// Sessions that the message's publisher is to wait for: too much is unsent or queued for them.
    pub crowded: Vec<u32>,
    /// Matching filters of the message.
    pub found: Vec<FilterId>,
    /// Matching subscriptions when several filters match: target, options, identifier.
    pub overlapping: Vec<(u32, u8, u32)>,
    /// The matching subscriptions of one session: options, identifier.
    pub mine: Vec<(u8, u32)>,
    /// Subscription Identifiers of one delivery.
    pub ids: Vec<u32>,
    encoded: [Vec<u8>; VARIANTS],
    valid: u16,
}

/// Protocol (v3, v5) × QoS × RETAIN.
const VARIANTS: usize = 16;
const _: () = assert!(VARIANTS <= u16::BITS as usize);

impl DeliveryScratch {
    /// Begins with another message.
    pub fn begin(&mut self, stored: Option<&Message>) {
        self.stored = stored.cloned();
        self.valid = 0;
        self.many = false;
        self.receivers = Receivers::Nobody;
    }

    /// Gives back memory that large messages and large fan-outs have left.
    pub(super) fn shrink(&mut self) {
        for encoded in self.encoded.iter_mut().filter(|encoded| encoded.capacity() > KEPT) {
            *encoded = Vec::new();
        }
        self.valid = 0;
        self.stored = None;
        halve(&mut self.crowded);
        halve(&mut self.found);
        halve(&mut self.overlapping);
        halve(&mut self.mine);
        halve(&mut self.ids);
    }

    pub(super) fn store(&mut self, message: &MessageRef<'_>, scratch: &mut Vec<u8>) -> Message {
        self.stored.get_or_insert_with(|| Message::new(message, scratch)).clone()
    }

    /// Appends the packet, encoding it only for the first subscriber of its kind.
    fn append(&mut self, out: &mut Vec<u8>, version: Version, publish: &OutPublish<'_>) -> Encoded {
        let variant = usize::from(version.is_v5()) << 3
            | (publish.qos as usize) << 1
            | usize::from(publish.retain);
        let encoded = &mut self.encoded[variant];
        if self.valid & 1 << variant == 0 {
            encoded.clear();
            packet::encode_publish(encoded, version, publish)?;
            self.valid |= 1 << variant;
        }
        let at = out.len();
        out.extend_from_slice(encoded);
        if let Some(id) = publish.id {
            let header = 1 + encoded[1..].iter().take_while(|&&byte| byte >= 0x80).count() + 1;
            let at = at + header + 2 + publish.topic.len();
            out[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        Ok(())
    }
}

impl Shard {
    pub(super) fn send_publish(
        &mut self,
        index: u32,
        socket: SocketId,
        message: &MessageRef<'_>,
        outbound: &Outbound<'_>,
    ) {
        let Some(session) = self.sessions.get(index) else { return };
        let Some(connection) = self.connections.get_mut(socket.0) else { return };
        let version = session.version;
        let mounted = session.extras.is_some();
        let Some(topic) = session.unmounted(message.topic) else { return };
        let mut publish = out_publish(message, topic, outbound);
        let aliased =
            version.is_v5() && alias(connection, &mut publish, &mut self.memory.tally.names);
        let shared = publish.payload.len() > COPY;
        if shared {
            self.meter.charge(cost::sent(publish.payload.len()));
            self.delivery.store(message);
        }
        let output = self.outputs.of(connection, &mut self.meter, socket, self.now);
        let before = output.unsent();
        let aliased = aliased && !Mutant::AliasInSharedEncoding.is_on();
        let no_ids =
            publish.subscription_ids.is_empty() || Mutant::IdentifierInSharedEncoding.is_on();
        let plain = !mounted && !aliased && !publish.dup && no_ids;
        let mut encoded = Ok(());
        if let (true, Some(stored)) = (shared, &self.delivery.current.stored) {
            output.append(&mut self.outputs.pool, |out| {
                encoded = packet::encode_publish_head(out, version, &publish);
            });
            if encoded.is_ok() {
                let range = stored.payload_range();
                output.append_shared(&mut self.outputs.pool, stored.clone(), range);
            }
        } else if self.delivery.current.many && plain {
            let fan = &mut self.delivery.current;
            output
                .append(&mut self.outputs.pool, |out| encoded = fan.append(out, version, &publish));
        } else {
            output.append(&mut self.outputs.pool, |out| {
                encoded = packet::encode_publish(out, version, &publish);
            });
        }
        if encoded.is_err() {
            // `fits` was asked before. Were its answer wrong, the message would be dropped like any
            // other.
            match outbound.id {
                Some(id) => self.skip(index, socket, id, Misfit::NotEncodable),
                None => self.drop_message(index, message, Misfit::NotEncodable.reason()),
            }
            return;
        }
        let unsent = output.unsent();
        if unsent > self.settings.long_output() {
            let waits = output.backlog.grew(self.now, unsent > self.settings.high_water());
            if waits && !is_slow(output, self.now) {
                self.delivery.current.crowded.push(index);
            }
        }
        self.count_sent(outbound.qos, message.payload.len(), unsent - before);
        if self.work.observers.looks_at_sent(unsent - before) {
            self.observe_sent(index, message, outbound, unsent - before);
        }
    }

    /// Counts a message that was sent: `payload` bytes of payload, written in `written` bytes.
    #[inline]
    fn count_sent(&mut self, qos: Qos, payload: usize, written: usize) {
        let counters = &mut self.counters;
        let (messages, bytes) = match qos {
            Qos::AtMostOnce => {
                (&mut counters.messages_sent_qos0, &mut counters.publish_bytes_sent_qos0)
            }
            Qos::AtLeastOnce => {
                (&mut counters.messages_sent_qos1, &mut counters.publish_bytes_sent_qos1)
            }
            Qos::ExactlyOnce => {
                (&mut counters.messages_sent_qos2, &mut counters.publish_bytes_sent_qos2)
            }
        };
        *messages += 1;
        *bytes += payload as u64;
        counters.packets_sent += 1;
        counters.bytes_sent += written as u64;
    }

    /// A redelivery that the client's new Maximum Packet Size forbids counts as completed
    /// [MQTT-3.1.2-25].
    pub(super) fn skip(&mut self, index: u32, socket: SocketId, id: PacketId, misfit: Misfit) {
        self.lose(index, misfit.reason(), 1);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let version = session.version;
        let Some(flow) = &mut session.flow else { return };
        let before = flow.window.kept();
        let skipped = flow.window.skip(id);
        self.memory.tally.kept -= before - flow.window.kept();
        if self.storing.is_some() {
            self.store_pubrec(index, id, skipped);
        }
        match skipped {
            Acknowledged::Release => {
                self.write_ack(socket, version, AckKind::PubRel, id, ReasonCode::Success);
            }
            Acknowledged::Complete => self.counters.inflight -= 1,
            Acknowledged::Unknown | Acknowledged::WrongKind => {}
        }
    }
}

/// Uses or sets a topic alias towards the client, within its maximum [MQTT-3.3.2-10]; true when
/// the packet carries one.
fn alias(connection: &mut Connection, publish: &mut OutPublish<'_>, held: &mut usize) -> bool {
    let Some(aliases) = &mut connection.aliases else { return false };
    if aliases.outbound_limit == 0 {
        return false;
    }
    if let Some(&alias) = aliases.outbound.get(publish.topic) {
        publish.topic_alias = Some(alias);
        publish.topic = "";
        return true;
    }
    if aliases.outbound.len() >= usize::from(aliases.outbound_limit) {
        return false;
    }
    if !aliases.grow_outbound(publish.topic.len(), held) {
        return false;
    }
    let alias = aliases.outbound.len() as u16 + 1;
    aliases.outbound.insert(publish.topic.into(), alias);
    publish.topic_alias = Some(alias);
    true
}
