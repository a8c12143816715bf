//! The pending queue: messages accepted for a client and not yet sent, because it is offline or
//! its window is full. Bounded in messages and bytes (`mqtt.pending`).

use super::Queued;
use crate::config::OnFull;
use crate::mutant::Mutant;
use crate::packet::Qos;
use std::collections::VecDeque;

/// Fixed cost charged per queued message, in bytes, so that empty payloads are not free.
const OVERHEAD: usize = 64;

/// Bounds and what happens at them.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most messages.
    pub messages: usize,
    /// Most bytes, each message with its topic, properties and 64 bytes of overhead.
    pub bytes: usize,
    /// The policy when full.
    pub on_full: OnFull,
}

/// What became of a pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits; this many older ones were dropped for it.
    DroppedOldest(u32),
    /// It was dropped.
    DroppedNew,
    /// It was dropped and the client is to be disconnected.
    Disconnect,
}

/// The queue.
#[derive(Default)]
pub struct Pending {
    queue: VecDeque<Queued>,
    bytes: usize,
    qos0: usize,
}

impl Pending {
    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// True when a message of QoS 0 waits: the next one of QoS 0 must not overtake it.
    pub fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a message at the end, within `bounds`.
    pub fn push(&mut self, queued: Queued, bounds: &Bounds) -> Pushed {
        let cost = queued.message.size() + OVERHEAD;
        let mut dropped = 0;
        let most = bounds.messages.saturating_add(usize::from(Mutant::PendingOverBound.is_on()));
        while self.queue.len() >= most || self.bytes + cost > bounds.bytes {
            match bounds.on_full {
                // A message larger than the whole queue cannot be helped by dropping others.
                OnFull::DropOldest if cost <= bounds.bytes && self.pop().is_some() => {
                    dropped += u32::from(!Mutant::PendingDropUncounted.is_on());
                }
                OnFull::DropOldest | OnFull::DropNew => return Pushed::DroppedNew,
                OnFull::Disconnect => return Pushed::Disconnect,
            }
        }
        self.bytes += cost;
        self.qos0 += usize::from(queued.qos == Qos::AtMostOnce);
        self.queue.push_back(queued);
        if dropped == 0 { Pushed::Queued } else { Pushed::DroppedOldest(dropped) }
    }

    /// The oldest message.
    pub fn front(&self) -> Option<&Queued> {
        self.queue.front()
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.bytes -= queued.message.size() + OVERHEAD;
        self.qos0 -= usize::from(queued.qos == Qos::AtMostOnce);
        if self.queue.len() < 8 && self.queue.capacity() > 64 {
            self.queue.shrink_to(16);
        }
        Some(queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, MessageRef};
    use crate::session::SubscriptionIds;

    fn queued(payload: &[u8]) -> Queued {
        let message = MessageRef {
            topic: "t",
            properties: &[],
            payload,
            qos: Qos::AtLeastOnce,
            retain: false,
            expires: None,
            publisher: None,
        };
        Queued {
            message: Message::new(&message, &mut Vec::new()),
            subscription_ids: SubscriptionIds::None,
            qos: Qos::AtLeastOnce,
            retain: false,
        }
    }

    fn bounds(messages: usize, bytes: usize, on_full: OnFull) -> Bounds {
        Bounds { messages, bytes, on_full }
    }

    #[test]
    fn each_policy_keeps_the_bounds() {
        let mut pending = Pending::default();
        let oldest = bounds(2, 1000, OnFull::DropOldest);
        assert_eq!(pending.push(queued(b"1"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"2"), &oldest), Pushed::Queued);
        assert_eq!(pending.push(queued(b"3"), &oldest), Pushed::DroppedOldest(1));
        assert_eq!(pending.front().unwrap().message.view().payload, b"2");
        assert_eq!(pending.push(queued(&[0; 2000]), &oldest), Pushed::DroppedNew);
        assert_eq!(pending.len(), 2);
        assert_eq!(
            pending.push(queued(b"4"), &bounds(2, 1000, OnFull::DropNew)),
            Pushed::DroppedNew
        );
        let harsh = bounds(2, 1000, OnFull::Disconnect);
        assert_eq!(pending.push(queued(b"4"), &harsh), Pushed::Disconnect);
        assert_eq!(pending.pop().unwrap().message.view().payload, b"2");
        assert_eq!(pending.pop().unwrap().message.view().payload, b"3");
        assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }
}
