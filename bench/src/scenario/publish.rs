//! Publishers with a window, for scenarios that fill a broker: QoS 1, at a rate or as fast as the
//! broker acknowledges.

use super::crowd::Stage;
use crate::mqtt::{self, Malformed, Packet, Version, first};

/// The most unacknowledged messages of one publisher.
const WINDOW: u32 = 100;

/// One publishing client.
#[derive(Clone, Copy, Default)]
struct Publisher {
    /// The number of its next message.
    next: u64,
    last_id: u16,
    in_flight: u32,
}

/// A job: messages 0 to `total` - 1, each published by the publisher whose number is the message's
/// number modulo the number of publishers.
pub struct Filling {
    version: Version,
    /// The client number of the first publisher; the others follow.
    base: u32,
    publishers: Vec<Publisher>,
    total: u64,
    /// Messages that the broker acknowledged.
    pub acked: u64,
    /// Acknowledged messages that the broker refused.
    pub refused: u64,
    /// Messages per second; 0 publishes as fast as they are acknowledged.
    rate: u64,
    began: u64,
}

impl Filling {
    /// A job without messages, for the clients from `base` on.
    pub fn new(version: Version, base: u32, publishers: u32, rate: u32) -> Self {
        let publishers = vec![Publisher::default(); publishers as usize];
        let rate = u64::from(rate);
        let (total, acked, refused, began) = (0, 0, 0, 0);
        Self { version, base, publishers, total, acked, refused, rate, began }
    }

    /// Begins the job anew with `total` messages.
    pub fn begin(&mut self, total: u64, now: u64) {
        (self.total, self.acked, self.began) = (total, 0, now);
        for (number, publisher) in self.publishers.iter_mut().enumerate() {
            publisher.next = number as u64;
        }
    }

    /// Whether all messages are acknowledged.
    pub fn done(&self) -> bool {
        self.acked >= self.total
    }

    /// Whether `client` is one of the publishers.
    pub fn is_publisher(&self, client: u32) -> bool {
        client >= self.base
    }

    /// Publishes what may be published: `message` writes the topic name and the payload of a
    /// message, which is retained if `retain`. Returns when more may be due.
    pub fn speak(
        &mut self,
        stage: &mut Stage<'_>,
        now: u64,
        retain: bool,
        mut message: impl FnMut(u64, &mut Vec<u8>, &mut Vec<u8>),
    ) -> u64 {
        let allowed = self.allowed(now);
        let (mut topic, mut payload) = (Vec::new(), Vec::new());
        let step = self.publishers.len() as u64;
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            // Numbers alternate between the publishers, so the number alone tells whether a message
            // is due.
            while publisher.next < allowed && publisher.in_flight < WINDOW {
                publisher.in_flight += 1;
                publisher.last_id = publisher.last_id.wrapping_add(1).max(1);
                topic.clear();
                payload.clear();
                message(publisher.next, &mut topic, &mut payload);
                publisher.next += step;
                let (version, id) = (self.version, publisher.last_id);
                let out = stage.net.out(self.base + index as u32);
                if retain {
                    mqtt::put_retained(out, version, &topic, id, &payload);
                } else {
                    mqtt::put_publish(out, version, 1, &topic, id, &payload);
                }
            }
        }
        self.next_due(now)
    }

    /// How many messages are due by `now`.
    fn allowed(&self, now: u64) -> u64 {
        match self.rate {
            0 => self.total,
            rate => self.total.min((now - self.began) / 1_000 * rate / 1_000_000 + 1),
        }
    }

    /// When the first message is due that is not due by `now`. What is due and does not fit into a
    /// window waits for an acknowledgement, and for no time.
    fn next_due(&self, now: u64) -> u64 {
        let allowed = self.allowed(now);
        match self.rate {
            0 => u64::MAX,
            _ if allowed >= self.total => u64::MAX,
            rate => self.began + allowed * 1_000_000_000 / rate,
        }
    }

    /// Handles a packet for a publisher, which must be PUBACK.
    pub fn packet(&mut self, client: u32, packet: &Packet<'_>) -> Result<(), Malformed> {
        if packet.first != first::PUBACK {
            return Err(Malformed);
        }
        let (_, refused) = mqtt::ack_of(self.version, packet)?;
        let publisher = &mut self.publishers[(client - self.base) as usize];
        publisher.in_flight = publisher.in_flight.checked_sub(1).ok_or(Malformed)?;
        self.acked += 1;
        self.refused += u64::from(refused);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{MILLISECOND, SECOND};

    /// With full windows nothing can be said at the time that has passed: the generator would turn
    /// without a pause until the broker acknowledges.
    #[test]
    fn the_next_message_is_due_later_also_when_the_windows_are_full() {
        let begin = 7 * SECOND;
        let mut filling = Filling::new(Version::V311, 0, 2, 1000);
        filling.begin(3000, begin);
        for publisher in &mut filling.publishers {
            publisher.in_flight = WINDOW;
        }
        for millis in 0..2999 {
            let now = begin + millis * MILLISECOND + 300;
            assert_eq!(filling.next_due(now), begin + (millis + 1) * MILLISECOND, "{millis}");
        }
        assert_eq!(filling.next_due(begin + 3 * SECOND), u64::MAX);
        filling.rate = 0;
        assert_eq!(filling.next_due(begin), u64::MAX);
    }
}
