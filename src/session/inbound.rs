//! Identifiers of QoS 2 messages that were accepted and whose PUBREL has not come: the receiver's
//! half of exactly once [MQTT-4.3.3-10].

use crate::mutant::Mutant;
use crate::packet::PacketId;

/// The identifiers; at most the Receive Maximum that we announced.
#[derive(Default)]
pub struct Inbound {
    ids: Vec<PacketId>,
}

/// What a QoS 2 PUBLISH's identifier means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Not seen: route the message.
    New,
    /// Seen: acknowledge again, do not route again [MQTT-4.3.3-10].
    Duplicate,
    /// The client has more unacknowledged than we allowed [MQTT-3.3.4-7].
    OverLimit,
}

impl Inbound {
    /// What a PUBLISH with `id` is, when at most `limit` may be open. Changes nothing.
    pub fn arrival(&self, id: PacketId, limit: u16) -> Arrival {
        if self.ids.contains(&id) && !Mutant::InboundTwice.is_on() {
            Arrival::Duplicate
        } else if self.ids.len() >= usize::from(limit) {
            Arrival::OverLimit
        } else {
            Arrival::New
        }
    }

    /// Remembers an accepted message.
    pub fn insert(&mut self, id: PacketId) {
        self.ids.push(id);
    }

    /// PUBREL came; false when the identifier is unknown.
    pub fn release(&mut self, id: PacketId) -> bool {
        match self.ids.iter().position(|&known| known == id) {
            Some(_) if Mutant::InboundKept.is_on() => true,
            Some(at) => {
                self.ids.swap_remove(at);
                true
            }
            None => false,
        }
    }

    /// True when no identifier is open.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Open identifiers.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}
