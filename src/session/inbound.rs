//! Identifiers of QoS 2 messages that were accepted and whose PUBREL has not come: the receiver's
//! half of exactly once [MQTT-4.3.3-10].

use crate::mutant::Mutant;
use crate::packet::PacketId;

/// The identifiers; at most twice the Receive Maximum that we announced, and in MQTT 3, which
/// announces none, as many as there are.
#[derive(Default)]
pub struct Inbound {
    ids: Vec<PacketId>,
    /// The first so many are from before this connection.
    carried: usize,
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
    /// A new connection: the client's quota is whole again, whatever it left open (section 4.9).
    pub fn begin_connection(&mut self) {
        self.carried = self.ids.len();
    }

    /// What a PUBLISH with `id` is, when at most `limit` may be open on one connection, and as many
    /// again from before it. Changes nothing.
    pub fn arrival(&self, id: PacketId, limit: u16) -> Arrival {
        let limit = usize::from(limit);
        let open = self.ids.len();
        if self.ids.contains(&id) && !Mutant::InboundTwice.is_on() {
            Arrival::Duplicate
        } else if open - self.carried >= limit || open >= 2 * limit {
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
            Some(mut at) => {
                if at < self.carried {
                    self.carried -= 1;
                    self.ids.swap(at, self.carried);
                    at = self.carried;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).expect("not zero")
    }

    #[test]
    fn a_new_connection_has_its_whole_quota_whatever_the_last_one_left_open() {
        let mut inbound = Inbound::default();
        (1..=4).for_each(|number| inbound.insert(id(number)));
        assert_eq!(inbound.arrival(id(5), 4), Arrival::OverLimit);
        inbound.begin_connection();
        (5..=7).for_each(|number| {
            assert_eq!(inbound.arrival(id(number), 4), Arrival::New);
            inbound.insert(id(number));
        });
        assert_eq!(inbound.arrival(id(2), 4), Arrival::Duplicate);
        // What is left from before does not count, and releasing it earns nothing.
        assert!(inbound.release(id(2)) && inbound.release(id(4)) && !inbound.release(id(2)));
        assert_eq!(inbound.arrival(id(8), 4), Arrival::New);
        inbound.insert(id(8));
        assert_eq!(inbound.arrival(id(9), 4), Arrival::OverLimit);
        assert!(inbound.release(id(6)));
        assert_eq!(inbound.arrival(id(9), 4), Arrival::New);
        assert!([1, 3, 5, 7, 8].iter().all(|&number| inbound.release(id(number))));
        assert!(inbound.is_empty());
    }
}
